package access

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// source names a key set and how it is fetched.
type source struct {
	url       string
	caFile    string
	tokenFile string // holds a bearer for the key server
	insecure  bool   // plain HTTP to another host than this one is meant
}

var (
	errInsecure = errors.New("keys over plain HTTP can be replaced on their way: use https, or say insecure_http: true")
	errRedirect = errors.New("the key server redirects to another host")
)

// fetcher returns a function that fetches the set, and how often that is worth it.
func (src source) fetcher() (fetch func(context.Context) ([]byte, error), every time.Duration, err error) {
	u, err := url.Parse(src.url)
	if err != nil {
		return nil, 0, err
	}
	if u.Scheme == "file" {
		path := u.Path
		return func(context.Context) ([]byte, error) { return readBounded(path) }, fileEvery, nil
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname()) && !src.insecure) {
		return nil, 0, errInsecure
	}
	client, err := src.client(u.Hostname())
	if err != nil {
		return nil, 0, err
	}
	return func(ctx context.Context) ([]byte, error) { return src.get(ctx, client) }, fetchEvery, nil
}

func (src source) client(host string) (*http.Client, error) {
	transport, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return nil, errors.New("no HTTP transport")
	}
	transport = transport.Clone()
	transport.MaxIdleConns = 1
	if src.caFile != "" {
		pem, err := readBounded(src.caFile)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate", src.caFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if r.URL.Hostname() != host || r.URL.Scheme != via[0].URL.Scheme || len(via) > 3 {
			return errRedirect
		}
		return nil
	}}, nil
}

func (src source) get(ctx context.Context, client *http.Client) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, src.url, nil)
	if err != nil {
		return nil, err
	}
	if src.tokenFile != "" {
		token, err := readBounded(src.tokenFile)
		if err != nil {
			return nil, err
		}
		r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the key server answers %s", resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, maxKeySetBytes+1))
}

// readBounded reads a file of at most maxKeySetBytes, and a byte more of a larger one.
func readBounded(path string) ([]byte, error) {
	f, err := OpenRegular(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, maxKeySetBytes+1))
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
