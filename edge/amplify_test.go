package edge

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// metered counts the bytes that are written to a Log.
type metered struct {
	shard.Log
	bytes atomic.Int64
}

func (m *metered) Append(ctx context.Context, id shard.StreamID, at shard.Pos, batch []shard.Entry) (shard.Ack, error) {
	for _, e := range batch {
		m.bytes.Add(int64(e.MeteredSize()))
	}
	return m.Log.Append(ctx, id, at, batch)
}

// amplifier sends requests and compares what they are with what they have written.
type amplifier struct {
	*testing.T
	url  string
	log  *metered
	most int64 // bytes that one request had written, at the most
	sent int64
	all  int64
}

func newAmplifier(t *testing.T) *amplifier {
	t.Helper()
	log := &metered{Log: logtest.NewMemory(1)}
	host := shard.NewManager(log, shard.NewTailBuffers(0, 0), shard.Config{ColdOpens: 1e9})
	srv := New(Config{}, host)
	hs := httptest.NewServer(srv)
	t.Cleanup(func() {
		hs.Close()
		srv.Close()
		_ = host.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return &amplifier{T: t, url: hs.URL, log: log}
}

// begin counts from here on.
func (a *amplifier) begin() { a.most, a.sent, a.all = 0, 0, 0 }

// send sends a request, and returns the status.
func (a *amplifier) send(method, path, body string, headers ...string) int {
	a.Helper()
	q, err := http.NewRequest(method, a.url+"/v1/stream/"+path, strings.NewReader(body))
	if err != nil {
		a.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		q.Header.Set(headers[i], headers[i+1])
	}
	text, err := httputil.DumpRequestOut(q, true)
	if err != nil {
		a.Fatal(err)
	}
	before := a.log.bytes.Load()
	resp, err := http.DefaultClient.Do(q)
	if err != nil {
		a.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	wrote := a.log.bytes.Load() - before
	a.most, a.sent, a.all = max(a.most, wrote), a.sent+int64(len(text)), a.all+wrote
	return resp.StatusCode
}

func (a *amplifier) want(status int, method, path, body string, headers ...string) {
	a.Helper()
	if got := a.send(method, path, body, headers...); got != status {
		a.Fatalf("%s %.60s: %d, want %d", method, path, got, status)
	}
}

// end judges what was counted: bytes written for each byte that was sent, and by one request.
func (a *amplifier) end(what string, ratio float64, most int64) {
	a.Helper()
	got := float64(a.all) / float64(max(a.sent, 1))
	a.Logf("%-40s %6.1f bytes a byte, %7d by one request", what, got, a.most)
	if got > ratio || a.most > most {
		a.Errorf("%s: %.1f bytes are written for each that is sent, %d by one request", what, got, a.most)
	}
}

const textPlain = "text/plain"

// Requests of a few hundred bytes do not have a node write much more than they are.
func TestAmplification(t *testing.T) {
	a := newAmplifier(t)
	for i := range 600 { // the window of ids fills up, and each tombstone holds it
		a.want(201, "PUT", "p/ends", "", "Content-Type", textPlain)
		if i == 550 {
			a.begin()
		}
		a.want(204, "DELETE", "p/ends", "")
	}
	a.end("create and delete", 64, 32<<10)

	long := func(i int) string { return fmt.Sprintf("p/%s%03d", strings.Repeat("n", 400), i) }
	a.want(201, "PUT", long(0), "a", "Content-Type", textPlain)
	depth := 0
	for ; a.send("PUT", long(depth+1), "", "Stream-Forked-From", "/v1/stream/"+long(depth)) == 201; depth++ {
	}
	a.begin()
	for range 50 {
		a.want(201, "PUT", "p/leaf", "", "Stream-Forked-From", "/v1/stream/"+long(depth-1))
		a.want(204, "DELETE", "p/leaf", "")
	}
	a.end("fork with the longest chain, and delete", 64, 32<<10)

	a.want(201, "PUT", "p/held", "a", "Content-Type", textPlain)
	forks := 0
	for ; a.send("PUT", fmt.Sprintf("p/%s%05d", strings.Repeat("f", 400), forks), "", "Stream-Forked-From", "/v1/stream/p/held") == 201; forks++ {
	}
	a.begin()
	for range 1200 {
		a.want(204, "POST", "p/held", "a", "Content-Type", textPlain)
	}
	a.end("append to a stream with many forks", 8, 128<<10)
	a.begin()
	for i := range 50 {
		a.want(409, "PUT", fmt.Sprint("p/more", i), "", "Stream-Forked-From", "/v1/stream/p/held")
	}
	a.end("fork of a stream with too many", 8, 128<<10)
	a.begin()
	a.want(204, "DELETE", "p/held", "")
	for range 20 {
		a.want(410, "HEAD", "p/held", "")
	}
	a.end("delete of a stream with many forks", 64, 128<<10)

	a.want(201, "PUT", "p/claims", "", "Content-Type", textPlain)
	claim := func(i int) {
		a.Helper()
		a.want(200, "POST", "p/claims", "a", "Content-Type", textPlain, "Producer-Id", fmt.Sprintf("%0250d", i), "Producer-Epoch", "0", "Producer-Seq", "0")
	}
	for i := range 1200 {
		claim(i)
	}
	a.begin()
	for i := range 1000 {
		claim(1200 + i)
	}
	a.end("append with a new producer each", 8, 512<<10)

	for i := range 50 {
		a.want(201, "PUT", fmt.Sprint("p/ttl", i), "", "Content-Type", textPlain, "Stream-TTL", "1")
	}
	a.begin()
	for i := range 500 {
		a.want(200, "GET", fmt.Sprint("p/ttl", i%50), "")
	}
	a.end("reads of streams with a TTL", 1, 1<<10)
	a.begin()
	for i := range 50 {
		a.want(200, "PUT", "p/claims", "", "Content-Type", textPlain)
		a.want(403, "PUT", fmt.Sprint("q/fork", i), "", "Stream-Forked-From", "/v1/stream/p/claims")
		a.want(404, "DELETE", fmt.Sprint("p/none", i), "")
		a.want(404, "POST", fmt.Sprint("p/none", i), "a", "Content-Type", textPlain)
	}
	a.end("requests that change nothing", 0, 0)
}

// A fork that ends inside a large message has that part written once more: a node does so at
// a bounded rate, and within the budget of bodies.
func TestForksCopyAtABoundedRate(t *testing.T) {
	a := newAmplifier(t)
	const size = 4 << 20
	a.want(201, "PUT", "p/large", "", "Content-Type", textPlain)
	a.want(204, "POST", "p/large", string(bytes.Repeat([]byte("x"), size)), "Content-Type", textPlain)
	a.begin()
	began := time.Now()
	made, refused := 0, 0
	for i := range 30 {
		switch status := a.send("PUT", fmt.Sprint("p/part", i), "",
			"Stream-Forked-From", "/v1/stream/p/large", "Stream-Fork-Offset", "-1", "Stream-Fork-Sub-Offset", strconv.Itoa(size-1)); status {
		case 201:
			made++
		case 429:
			refused++
		default:
			t.Fatalf("status %d", status)
		}
	}
	may := float64(copyBurst) + copyPerSecond*time.Since(began).Seconds()
	if wrote := float64(a.all); made == 0 || refused == 0 || wrote > 1.1*may+size {
		t.Errorf("%d made, %d refused, %.0f bytes written of %.0f", made, refused, wrote, may)
	}
}
