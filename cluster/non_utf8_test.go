package cluster

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fantail-dev/fantail/cluster/transport"
	"github.com/fantail-dev/fantail/shard"
)

// nonUTF8 is text as any header may hold it.
const nonUTF8 = "text/plain; x=\xe9\xff\x80"

// nonUTF8Request returns a write with nonUTF8 in every text.
func nonUTF8Request(id shard.StreamID, op shard.Op, seq uint64, messages ...string) *shard.Request {
	q := write(id, op, messages...)
	q.Type = nonUTF8
	if op == shard.OpCreate {
		q.Expires = shard.MillisOf(time.Now().Add(time.Hour))
		q.ExpiresRaw = "\xe9" + nonUTF8
		return q
	}
	q.Producer = &shard.Producer{ID: "prod\xfcct", Seq: seq}
	q.StreamSeq = fmt.Appendf(nil, "\xff%03d", seq)
	return q
}

// links returns the links that are up. One that broke never comes back: another replaces it.
func (f *fleet) links() (all []*transport.Link) {
	for _, s := range f.nodes {
		for _, o := range f.nodes {
			if l := s.peers.Link(o.self); l != nil {
				all = append(all, l)
			}
		}
	}
	return all
}

func (f *fleet) forcedRequests() (n float64) {
	for _, s := range f.nodes {
		n += testutil.ToFloat64(s.metrics.forced)
	}
	return n
}

// Whatever bytes a client sent as a type, a producer, a sequence, a date or a name: they travel
// unchanged, and cost no link, no second owner and no second session.
func TestTextsNeedNotBeUTF8(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	innocent := f.streamOwnedBy(f.nodes[1])
	f.mustDo(f.nodes[0], write(innocent, shard.OpCreate), shard.CodeCreated)
	beside := f.startReader(f.nodes[2], innocent)
	links, musts := f.links(), f.forcedRequests()
	var ids []shard.StreamID
	for i := range 6 {
		id := shard.StreamID(fmt.Sprintf("default/caf\xe9 %d", i))
		ids = append(ids, id)
		f.mustDo(f.nodes[0], nonUTF8Request(id, shard.OpCreate, 0), shard.CodeCreated)
	}
	for i, id := range ids {
		var readers []*streamReader
		for _, s := range f.nodes {
			readers = append(readers, f.startReader(s, id))
		}
		var want []string
		for n := range uint64(9) {
			m := fmt.Sprintf("%d caf\xe9", n)
			want = append(want, m)
			s := f.nodes[n%3]
			out := f.mustDo(s, nonUTF8Request(id, shard.OpAppend, n, m), shard.CodeAppended)
			if out.Producer == nil || out.Producer.ID != "prod\xfcct" || out.Info.Type != nonUTF8 {
				t.Fatalf("%+v of %q", out.Producer, out.Info.Type)
			}
		}
		for j, r := range readers {
			f.awaitMessages(r, want)
			info, err := f.nodes[j].Info(t.Context(), id, 0)
			if err != nil || info.Type != nonUTF8 || info.ExpiresRaw != "\xe9"+nonUTF8 {
				t.Fatalf("%v: %q expires %q", err, info.Type, info.ExpiresRaw)
			}
		}
		if n := f.log.OpenSessions(); n != i+2 {
			t.Errorf("%d sessions for %d followed streams", n, i+2)
		}
	}
	f.mustDo(f.nodes[0], write(innocent, shard.OpAppend, "x"), shard.CodeAppended)
	f.awaitMessages(beside, []string{"x"})
	if !slices.Equal(links, f.links()) {
		t.Error("links broke")
	}
	if n := f.forcedRequests(); n != musts {
		t.Errorf("%v requests insisted on being served", n-musts)
	}
}
