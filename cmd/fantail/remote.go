package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/cmd/fantail/internal/dsclient"
)

// remoteFlags says how a command reaches the streams of a server.
type remoteFlags struct {
	URL       string        `name:"url" help:"URL of the server. Or the URL of a stream, perhaps a signed one: then no stream needs to be named." default:"http://127.0.0.1:4437"`
	URLFile   string        `name:"url-file" help:"File with --url, which may be a signed URL; - for standard input."`
	Token     string        `help:"Bearer token. Other users of the machine can read a command's arguments: prefer the variable or --token-file."`
	TokenFile string        `name:"token-file" help:"File with the bearer token, read again for each request; - for standard input."`
	CA        string        `name:"ca" help:"File with certificates (PEM) to trust beside the system's."`
	Patience  time.Duration `help:"How long to wait for a server that does not answer, or answers 429 or 5xx." default:"15s"`
}

// remote is a server as a command uses it.
type remote struct {
	*dsclient.Client
	fixed string // the stream that the URL names; empty: it names none
}

// open returns the server that the flags name. quiet says nothing on s.err about attempts that failed.
func (f *remoteFlags) open(s stdio, quiet bool) (*remote, error) {
	at, err := f.url(s)
	if err != nil {
		return nil, err
	}
	r := &remote{Client: &dsclient.Client{Patience: f.Patience}}
	if dsclient.IsStreamURL(at) {
		r.fixed = at
		at = at[:strings.Index(at, dsclient.Root)]
	}
	if r.Base, err = dsclient.ParseBase(at); err != nil {
		return nil, usageError(fmt.Errorf("--url: %w", err))
	}
	if r.Token, err = f.token(s); err != nil {
		return nil, err
	}
	if r.HTTP, err = newHTTPClient(f.CA); err != nil {
		return nil, err
	}
	if !quiet {
		told := sync.OnceFunc(func() { fmt.Fprintf(s.err, "fantail: waiting for up to %v (--patience)\n", f.Patience) })
		r.OnRetry = func(why error, _ time.Duration) {
			if !errors.Is(why, dsclient.ErrEnded) { // a node that stops ends its readers in order
				fmt.Fprintf(s.err, "fantail: trying again: %v\n", why)
				told()
			}
		}
	}
	return r, nil
}

func (f *remoteFlags) url(s stdio) (string, error) {
	if f.URLFile == "" {
		return f.URL, nil
	}
	b, err := s.readInput(f.URLFile)
	if err != nil {
		return "", usageError(fmt.Errorf("--url-file: %w", err))
	}
	return strings.TrimSpace(string(b)), nil
}

// token returns the function that returns the token for each request; nil: there is none.
func (f *remoteFlags) token(s stdio) (func() (string, error), error) {
	read := func() (string, error) {
		b, err := s.readInput(f.TokenFile)
		if err != nil {
			return "", fmt.Errorf("--token-file: %w", err)
		}
		return parseToken(string(b)), nil
	}
	switch {
	case f.Token != "" && f.TokenFile != "":
		return nil, usageError(errors.New("--token (FANTAIL_TOKEN) and --token-file are both given: want one"))
	case f.Token != "":
		token := parseToken(f.Token)
		return func() (string, error) { return token, nil }, nil
	case f.TokenFile == "":
		return nil, nil
	}
	token, err := read() // an error now, and not at the first request
	if err != nil {
		return nil, usageError(err)
	}
	if f.TokenFile == "-" {
		return func() (string, error) { return token, nil }, nil
	}
	return read, nil
}

// parseToken takes a token alone or a whole Authorization field.
func parseToken(text string) string {
	if token, ok := cutBearer(text); ok {
		return token
	}
	return strings.TrimSpace(text)
}

// readsInput reports whether the flags take standard input for themselves.
func (f *remoteFlags) readsInput() bool { return f.URLFile == "-" || f.TokenFile == "-" }

// newHTTPClient returns a client without a limit on the time of an answer. ca names a file of more
// authorities to trust; it may be empty.
func newHTTPClient(ca string) (*http.Client, error) {
	t, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return nil, errors.New("the default transport is another one")
	}
	t = t.Clone()
	t.MaxIdleConnsPerHost = 64
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, usageError(fmt.Errorf("--ca: %w", err))
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, usageError(fmt.Errorf("--ca: %s has no certificate", ca))
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, nil
}

// close closes the connections.
func (r *remote) close() { r.HTTP.CloseIdleConnections() }

// stream returns the stream of a name; of an empty name, the stream that the URL names.
func (r *remote) stream(name string) (*dsclient.Stream, error) {
	if name == "" {
		if r.fixed == "" {
			return nil, usageError(errors.New("which stream? Name it, as NAME or PROJECT/NAME, or give the URL of a stream with --url (FANTAIL_URL) or --url-file"))
		}
		name = r.fixed
	}
	s, err := r.Stream(name)
	if err != nil {
		return nil, usageError(err)
	}
	return s, nil
}

// withStream opens the server, and calls fn with the stream of a name.
func (f *remoteFlags) withStream(s stdio, name string, fn func(*dsclient.Stream) error) error {
	r, err := f.open(s, false)
	if err != nil {
		return err
	}
	defer r.close()
	stream, err := r.stream(name)
	if err != nil {
		return err
	}
	return fn(stream)
}

// printJSON prints a value as one line.
func printJSON(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

// untilInterrupted returns nil for an error that is the user's interrupt.
func untilInterrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		return nil
	}
	return err
}
