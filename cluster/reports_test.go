package cluster

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"testing"
	"time"
)

// A node gets the reports of the peers that answer in time. The others cost it a second and nothing
// else: one that has no report, one that hangs, one whose report is too large, one that is dead.
func TestReportsOfPeersThatAnswer(t *testing.T) {
	f := newFleet(t, 6)
	asker, answers, hangs, large, dead := f.nodes[0], f.nodes[2], f.nodes[3], f.nodes[4], f.nodes[5] // node 1 has none
	answers.AnswerReports(func(_ context.Context, q []byte) ([]byte, error) { return append([]byte("you asked "), q...), nil })
	hangs.AnswerReports(func(ctx context.Context, _ []byte) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	large.AnswerReports(func(context.Context, []byte) ([]byte, error) { return bytes.Repeat([]byte("x"), 8<<20), nil })
	f.killNode(dead)
	began := time.Now()
	reports := asker.AskReports(t.Context(), []byte("how are you"))
	if took := time.Since(began); took > 10*reportTimeout {
		t.Errorf("it took %v", took)
	}
	if names := slices.Collect(maps.Keys(reports)); !slices.Equal(names, []string{answers.Name()}) {
		t.Errorf("reports of %v", names)
	}
	if got := string(reports[answers.Name()]); got != "you asked how are you" {
		t.Errorf("the report says %q", got)
	}
	if reports := asker.AskReports(t.Context(), bytes.Repeat([]byte("x"), 8<<10)); len(reports) > 0 {
		t.Errorf("a question that is too long is answered by %v", slices.Collect(maps.Keys(reports)))
	}
	if l := asker.PeerLink(answers.Name()); !l.Up || l.ClockAhead.Abs() > time.Second {
		t.Errorf("the link to a peer: %+v", l)
	}
	if l := asker.PeerLink("nobody"); l.Up {
		t.Error("a link to nobody")
	}
}
