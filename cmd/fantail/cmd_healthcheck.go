package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// healthcheckCmd asks a node, or an S2, whether it is well. It is for images without a shell.
type healthcheckCmd struct {
	URL     string        `arg:"" optional:"" help:"URL to ask instead of a node, such as http://127.0.0.1:4430/health of fantail s2 and s2-lite."`
	Admin   string        `help:"Admin address of the node. An address without a host means this machine." default:"127.0.0.1:4447"`
	Ready   bool          `help:"Ask whether the node may receive traffic, and not only whether it lives."`
	Timeout time.Duration `help:"Longest time for an answer." default:"3s"`
}

// Run returns an error, and so ends with status 1, unless the answer is 200.
func (c *healthcheckCmd) Run(ctx context.Context) error {
	url := c.URL
	if url == "" {
		at, err := localAddress(c.Admin)
		if err != nil {
			return fmt.Errorf("--admin: %w", err)
		}
		url = "http://" + at + "/livez"
		if c.Ready {
			url = "http://" + at + "/readyz"
		}
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	return askHealth(ctx, url)
}

// localAddress returns an address to call for an address to listen on.
func localAddress(listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); host == "" || ip.IsUnspecified() {
		host = "127.0.0.1"
		if ip.To4() == nil && ip != nil {
			host = "::1"
		}
	}
	return net.JoinHostPort(host, port), nil
}

// directClient calls without a proxy: it is for addresses of this machine, and keeps no connections.
var directClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// askHealth returns nil if the answer is 200, and otherwise what was answered.
func askHealth(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := directClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	why, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(why)))
	}
	return err
}
