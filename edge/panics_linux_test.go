package edge

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// panickingBackend is a Backend that has one stream more, whose records make whatever renders
// them panic; pages of another stream panic where they are read.
type panickingBackend struct {
	Backend
	bad  *shard.TailBuffer
	info shard.Info
}

const (
	badStream = shard.StreamID("default/bad")
	badPages  = shard.StreamID("default/pages")
)

func (p *panickingBackend) Info(ctx context.Context, id shard.StreamID, ask shard.InfoOptions) (shard.Info, error) {
	if id == badStream {
		return p.info, nil
	}
	return p.Backend.Info(ctx, id, ask)
}

func (p *panickingBackend) Follow(ctx context.Context, id shard.StreamID, from shard.Pos) (*shard.TailBuffer, func(), error) {
	if id == badStream {
		return p.bad, func() {}, nil
	}
	return p.Backend.Follow(ctx, id, from)
}

func (p *panickingBackend) ReadPage(ctx context.Context, id shard.StreamID, info shard.Info, from shard.Pos) (shard.RecordBatch, error) {
	if id == badPages {
		panic("a page that cannot be read")
	}
	return p.Backend.ReadPage(ctx, id, info, from)
}

// brokenBatch returns a RecordBatch whose one message ends beyond its bytes.
func brokenBatch(t *testing.T, from shard.Pos) shard.RecordBatch {
	t.Helper()
	const fixed, index = 40, 12
	b := make([]byte, fixed+index+3)
	b[0], b[7] = 1, 1
	b[15], b[23], b[31] = byte(from), byte(from+1), byte(from+1)
	b[fixed+7], b[fixed+11] = 1, 3
	copy(b[fixed+index:], "abc")
	batch, err := shard.ParseBatch(b)
	if err != nil {
		t.Fatal(err)
	}
	b[fixed+8] = 0x7f // it was checked before
	return batch
}

// A panic costs the reader whose bytes made it, by whatever driver, and no other; what
// the reader held is given back.
func TestPanicCostsOneReader(t *testing.T) {
	reg := prometheus.NewRegistry()
	p := &panickingBackend{info: shard.Info{Exists: true, Generation: 5, Tail: 1, LogTail: 1, Type: "text/plain"}}
	p.bad = shard.NewTailBuffers(0, 0).Open(badStream, p.info, 1)
	s := newSiteOn(t, Config{Metrics: reg}, false, logtest.NewMemory(1))
	p.Backend, s.srv.streams = s.srv.streams, p
	s.put("/v1/stream/good", "", text)
	s.put("/v1/stream/pages", "one", text)
	_, good := s.openRaw("/v1/stream/good?live=sse&offset=-1")
	var bad []io.ReadCloser
	for range 3 {
		_, resp := s.openRaw("/v1/stream/bad?live=sse&offset=now")
		bad = append(bad, resp.Body)
	}
	if err := p.bad.Extend(brokenBatch(t, 1)); err != nil {
		t.Fatal(err)
	}
	for i, body := range bad {
		if b, err := io.ReadAll(body); bytes.Contains(b, []byte("abc")) {
			t.Errorf("reader %d: %q, %v", i, b, err)
		}
	}
	s.eventually("the readers are given back", func() bool { return s.srv.Readers() == 1 })
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/v1/stream/pages", nil)
	if err != nil {
		t.Fatal(err)
	}
	once := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // another would ask again
	if resp, err := once.Do(req); err == nil {
		t.Errorf("a page that panics: %d", resp.StatusCode)
		resp.Body.Close()
	}
	counted := `# HELP fantail_panics_total Panics that cost one reader, call or link, by where they were caught.
# TYPE fantail_panics_total counter
fantail_panics_total{where="reader"} 3
fantail_panics_total{where="request"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(counted), "fantail_panics_total"); err != nil {
		t.Error(err)
	}
	s.want(s.do("POST", "/v1/stream/good", "still here", text), 204)
	s.want(s.do("POST", "/v1/stream/good", "", header{"Stream-Closed": "true"}), 204)
	if got, err := io.ReadAll(good.Body); !strings.Contains(string(got), "still here") || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	s.eventually("nothing is held", s.nothingHeld)
}
