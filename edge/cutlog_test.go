package edge

import (
	"strings"
	"testing"

	"github.com/fantail-dev/fantail/shard"
)

// An operator had S2 forget a stream's beginning, and its identity with it: offsets that were
// saved before are gone, and not wrong.
func TestOffsetOfATruncatedLog(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", `["a"]`, header{"Content-Type": "application/json"})
	at := s.do("POST", "/v1/stream/x", `["b","c"]`, header{"Content-Type": "application/json"}).Header.Get(hNextOffset)
	s.log.DropBelow("default/x", 2)
	host := shard.NewManager(s.log, shard.NewTailBuffers(0, 0), shard.Config{})
	defer func() { _ = host.Close() }()
	srv := New(Config{}, host) // a node that did not know it before
	for _, live := range []string{"", "&live=long-poll", "&live=sse"} {
		refused(t, ask(t, srv, "GET", "/v1/stream/x?offset="+at+live, nil, nil), 410, "offset-gone")
	}
	if w := ask(t, srv, "GET", "/v1/stream/x?offset=-1", nil, nil); w.Code != 200 || !strings.Contains(w.Body.String(), "c") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
