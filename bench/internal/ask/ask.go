// Package ask sends nodes single requests, and asks for their health and metrics.
package ask

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Send sends a request; an answer but 2xx is an error. kind is its body's type.
func Send(client *http.Client, method, url, kind string, body []byte) error {
	req, err := http.NewRequestWithContext(context.Background(), method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", kind)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode >= 300 {
		return errors.Join(fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, text), err)
	}
	return nil
}

// Asker asks nodes for their health and metrics, and never for long.
type Asker struct{ http *http.Client }

// New returns an Asker.
func New() *Asker {
	return &Asker{&http.Client{Timeout: time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 8}}}
}

// Get returns the status of an address, whose body is thrown away.
func (a *Asker) Get(url string) (status int, err error) {
	resp, err := a.http.Get(url)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// Ready reports whether the node at this admin address is ready.
func (a *Asker) Ready(admin string) bool {
	status, err := a.Get("http://" + admin + "/readyz")
	return err == nil && status == http.StatusOK
}

// Metrics returns the metrics of a node: by name with labels, and summed over labels.
func (a *Asker) Metrics(admin string) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	m := map[string]float64{}
	sc := bufio.NewScanner(resp.Body)
	for sc.Scan() {
		line := sc.Text()
		i := strings.LastIndexByte(line, ' ')
		if i < 0 || line[0] == '#' {
			continue
		}
		v, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		name, _, labelled := strings.Cut(line[:i], "{")
		if m[name] += v; labelled {
			m[line[:i]] = v
		}
	}
	return m, sc.Err()
}
