package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

// touches is the number of first requests in each row of the table.
const touches = 15

// allowCreation has appends make their streams in the basin, with a configuration that keeps records.
func allowCreation() error {
	const config = `{"create_stream_on_append":true,"default_stream_config":{"retention_policy":{"infinite":{}}}}`
	req, err := http.NewRequest(http.MethodPatch, "http://"+farAddr+"/v1/basins/fantail-bench", strings.NewReader(config))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// runTouches measures first requests, with the basin's configuration as it is and then where appends make
// streams.
func runTouches(bin string, l *link, trips []time.Duration) error {
	for _, makes := range []bool{false, true} {
		l.setRoundTrip(0)
		if makes {
			if err := allowCreation(); err != nil {
				return fmt.Errorf("configure the basin: %w", err)
			}
		}
		if err := runTouchesOnce(bin, l, trips, makes); err != nil {
			return err
		}
	}
	return nil
}

func runTouchesOnce(bin string, l *link, trips []time.Duration, makes bool) error {
	bins := []string{bin, bin} // the maker, and what is measured
	title := "now"
	if *before != "" {
		bins, title = []string{bin, *before, bin}, "before, and now"
	}
	var nodes []*node
	for i, b := range bins {
		n, err := startNode(b, "auto", 2+i)
		if err != nil {
			return err
		}
		defer n.child.Stop()
		nodes = append(nodes, n)
	}
	fmt.Printf("\n%-9s %-32s %s: median in trips and ms, worst in ms\n", "trip", fmt.Sprintf("appends make streams: %t", makes), title)
	for _, trip := range trips {
		if err := measureTouches(l, trip, nodes[0], nodes[1:]); err != nil {
			return err
		}
	}
	return nil
}

// touch is one kind of a first request for a stream that the node does not have in memory.
type touch struct {
	what   string
	method string
	live   bool
	// messages that the stream has, each of so many bytes; -1: there is no stream.
	messages, size int
	status         int
}

var firstTouches = []touch{
	{"PUT, a new stream", http.MethodPut, false, -1, 0, http.StatusCreated},
	{"PUT, a stream that exists", http.MethodPut, false, 3, 100, http.StatusOK},
	{"GET, small stream", http.MethodGet, false, 3, 100, http.StatusOK},
	{"HEAD, small stream", http.MethodHead, false, 3, 100, http.StatusOK},
	{"SSE, small stream: first byte", http.MethodGet, true, 3, 100, http.StatusOK},
	{"POST, small stream", http.MethodPost, false, 3, 100, http.StatusNoContent},
	{"GET, 30 messages of 16 KiB", http.MethodGet, false, 30, 16 << 10, http.StatusOK},
	{"HEAD, 300 messages", http.MethodHead, false, 300, 100, http.StatusOK},
	{"GET, no stream", http.MethodGet, false, -1, 0, http.StatusNotFound},
	{"HEAD, no stream", http.MethodHead, false, -1, 0, http.StatusNotFound},
	{"SSE, no stream", http.MethodGet, true, -1, 0, http.StatusNotFound},
	{"POST, no stream", http.MethodPost, false, -1, 0, http.StatusNotFound},
}

// measureTouches prints a row for each kind of a first request, and a column for each node. maker makes
// the streams, at no distance, so that no measured node has them in memory.
func measureTouches(l *link, trip time.Duration, maker *node, nodes []*node) error {
	for _, c := range firstTouches {
		fmt.Printf("%-9s %-32s", trip, c.what)
		for _, n := range nodes {
			l.setRoundTrip(0)
			names := make([]string, touches)
			for i := range names {
				var err error
				if names[i], err = maker.makeFor(&c); err != nil {
					return fmt.Errorf("%s: %w", c.what, err)
				}
			}
			l.setRoundTrip(trip)
			took := make([]time.Duration, touches)
			for i, name := range names {
				var err error
				if took[i], err = n.touch(&c, name); err != nil {
					return fmt.Errorf("%s, %s: %w", c.what, n.url, err)
				}
			}
			slices.Sort(took)
			median, worst := took[touches/2], took[touches-1]
			fmt.Printf(" %9.2f %8.1f ms, %8.1f", float64(median)/float64(trip), ms(median), ms(worst))
		}
		fmt.Println()
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

var touched int // streams so far

// makeFor returns the path of a stream for a first request, which it makes if there is to be one.
func (n *node) makeFor(c *touch) (string, error) {
	touched++
	path := fmt.Sprintf("/v1/stream/touch-%d-%d", os.Getpid(), touched)
	if c.messages < 0 {
		return path, nil
	}
	if err := n.do(http.MethodPut, n.url+path, nil); err != nil {
		return "", err
	}
	for range c.messages { // each in a batch of its own, as a stream comes to be
		if err := n.do(http.MethodPost, n.url+path, bytes.Repeat([]byte("m"), c.size)); err != nil {
			return "", err
		}
	}
	return path, nil
}

// touch makes one request, and returns how long its answer took: the first byte of an event stream, all
// of any other.
func (n *node) touch(c *touch, path string) (time.Duration, error) {
	url := n.url + path
	if c.method == http.MethodGet {
		url += "?offset=-1"
	}
	if c.live {
		url += "&live=sse"
	}
	var body io.Reader
	if c.method == http.MethodPost {
		body = strings.NewReader("a message")
	}
	req, err := http.NewRequest(c.method, url, body)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "text/plain")
	sent := time.Now()
	resp, err := n.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != c.status {
		return 0, errors.New(resp.Status)
	}
	if c.live && c.status == http.StatusOK {
		_, err = resp.Body.Read(make([]byte, 1))
	} else {
		_, err = io.Copy(io.Discard, resp.Body)
	}
	return time.Since(sent), err
}
