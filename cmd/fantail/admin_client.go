package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// adminFlags says how a command reaches the admin address of a node.
type adminFlags struct {
	Admin          string        `help:"Admin address of a node. An address without a host means this machine." default:"127.0.0.1:4447"`
	AdminTokenFile string        `name:"admin-token-file" help:"File with the bearer token that the admin address needs; - for standard input (default: no token is needed)."`
	Timeout        time.Duration `help:"Longest time for an answer." default:"10s" env:"-"`
}

// adminClient asks the admin address of a node.
type adminClient struct {
	base, token string
	timeout     time.Duration
	http        *http.Client
}

func (f *adminFlags) open(s stdio) (*adminClient, error) {
	// Pages and logs show the address as a URL, so that is accepted, too.
	at, err := localAddress(strings.TrimSuffix(strings.TrimPrefix(f.Admin, "http://"), "/"))
	if err != nil {
		return nil, usageError(fmt.Errorf("--admin: %w", err))
	}
	c := &adminClient{base: "http://" + at, timeout: f.Timeout, http: directClient}
	if f.AdminTokenFile != "" {
		b, err := s.readInput(f.AdminTokenFile)
		if err != nil {
			return nil, usageError(fmt.Errorf("--admin-token-file: %w", err))
		}
		c.token = parseToken(string(b))
	}
	return c, nil
}

// maxAdminAnswer bounds an answer of an admin address: the metrics of a node with many streams.
const maxAdminAnswer = 64 << 20

// callJSON sends a request, and decodes the answer into out, unless that is nil.
func (c *adminClient) callJSON(ctx context.Context, method, path string, out any) error {
	b, err := c.callRaw(ctx, method, path)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("%s%s: the answer is not as expected: %w", c.base, path, err)
	}
	return nil
}

func (c *adminClient) callRaw(ctx context.Context, method, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, nil)
	if err != nil {
		return nil, err
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, adminUnreachable(c.base, err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAdminAnswer))
	switch {
	case err != nil:
		return nil, adminUnreachable(c.base, err)
	case resp.StatusCode >= 300:
		line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
		return nil, &exitError{exitOfStatus(resp.StatusCode), fmt.Errorf("%s%s: %s: %.300s%s", c.base, path, resp.Status, line, adminAdvice(resp.StatusCode))}
	}
	return b, nil
}

// adminUnreachable returns the error of an address that gives no answer.
func adminUnreachable(base string, err error) error {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		err = errors.New("no answer")
	}
	return &exitError{exitUnavailable, fmt.Errorf("the admin address %s (--admin, FANTAIL_ADMIN): %w", strings.TrimPrefix(base, "http://"), err)}
}

func adminAdvice(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return " (--admin-token-file names the token)"
	case http.StatusNotFound:
		return " (is it the admin address of a node of this release?)"
	}
	return ""
}
