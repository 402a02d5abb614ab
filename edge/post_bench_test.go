package edge

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/fantail-dev/fantail/edge/access"
	"github.com/fantail-dev/fantail/edge/netconn"
	"github.com/fantail-dev/fantail/shard"
)

func benchmarkPost(b *testing.B, typ, body, extra string) {
	b.Helper()
	benchmarkPostTo(b, Config{}, "/v1/stream/x", typ, body, extra)
}

// The same append with the same token, at a server without a file of rights and at one with it.
func BenchmarkPostWithToken(b *testing.B) {
	token := "Authorization: Bearer " + tokenOf(b, nil) + "\r\n"
	for name, judge := range map[string]*access.Judge{"open": nil, "locked": newJudge(b, rightsFile(b), access.Config{})} {
		b.Run(name, func(b *testing.B) {
			benchmarkPostTo(b, Config{Judge: judge}, "/v1/stream/acme/rooms/a", "text/plain", "a message", token)
		})
	}
}

func benchmarkPostTo(b *testing.B, cfg Config, path, typ, body, extra string) {
	b.Helper()
	accept := func(*shard.Request) (shard.Outcome, error) {
		return shard.Outcome{Code: shard.CodeAppended, Info: shard.Info{Exists: true}}, nil
	}
	s := New(cfg, fakeBackend{do: accept})
	b.Cleanup(s.Close)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	hs := s.HTTPServer()
	b.Cleanup(func() { _ = hs.Close() })
	go func() { _ = hs.Serve(netconn.Listen(ln)) }()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	r := bufio.NewReader(c)
	req := []byte(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: h\r\nContent-Type: %s\r\n%sContent-Length: %d\r\n\r\n%s", path, typ, extra, len(body), body))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(req); err != nil {
			b.Fatal(err)
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != 204 {
			b.Fatal(resp, err)
		}
	}
}

func BenchmarkPostSmall(b *testing.B) { benchmarkPost(b, "text/plain", "a message", "") }
func BenchmarkPostNetHTTP(b *testing.B) {
	benchmarkPost(b, "text/plain", "a message", "Pragma: x\r\n") // which a writer gives back
}
func BenchmarkPost8K(b *testing.B) { benchmarkPost(b, "text/plain", strings.Repeat("x", 8<<10), "") }
func BenchmarkPostArray(b *testing.B) {
	benchmarkPost(b, "application/json", "["+strings.Repeat("0,", 32767)+"0]", "")
}
