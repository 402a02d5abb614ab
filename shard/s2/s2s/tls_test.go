package s2s

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Over TLS, HTTP/2 is negotiated, and the server's certificate is checked.
func TestTLS(t *testing.T) {
	serve := func(h2 bool) *httptest.Server {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(heartbeat(uint64(r.ProtoMajor)))
		}))
		s.EnableHTTP2, s.Config.ErrorLog = h2, slog.NewLogLogger(slog.DiscardHandler, slog.LevelWarn)
		s.StartTLS()
		t.Cleanup(s.Close)
		return s
	}
	s, old := serve(true), serve(false)
	trusted := x509.NewCertPool()
	trusted.AddCert(s.Certificate())
	c := NewClient(Config{Token: "x", TLS: &tls.Config{RootCAs: trusted}})
	t.Cleanup(func() { _ = c.Close() })
	r := openReader(t.Context(), t, c, Target{Base: s.URL}, ReadOptions{})
	if b, err := r.take(); err != nil || b.Tail.SeqNum != 2 {
		t.Errorf("%+v, %v", b, err)
	}
	if _, err := c.OpenRead(t.Context(), Target{Base: old.URL}, ReadOptions{}, func() {}); err == nil || !strings.Contains(err.Error(), "protocol") {
		t.Errorf("%v", err)
	}
	stranger := NewClient(Config{Token: "x"})
	t.Cleanup(func() { _ = stranger.Close() })
	if _, err := stranger.OpenRead(t.Context(), Target{Base: s.URL}, ReadOptions{}, func() {}); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("%v", err)
	}
}
