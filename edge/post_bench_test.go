package edge

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/fantail-dev/fantail/edge/netconn"
	"github.com/fantail-dev/fantail/shard"
)

func benchmarkPost(b *testing.B, typ, body, extra string) {
	accept := func(*shard.Request) (shard.Outcome, error) {
		return shard.Outcome{Code: shard.CodeAppended, Info: shard.Info{Exists: true}}, nil
	}
	s := New(Config{}, fakeBackend{do: accept})
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
	req := []byte(fmt.Sprintf("POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nContent-Type: %s\r\n%sContent-Length: %d\r\n\r\n%s", typ, extra, len(body), body))
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
