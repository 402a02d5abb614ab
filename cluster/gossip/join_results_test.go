package gossip

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/cluster/internal/testlog"
	"github.com/fantail-dev/fantail/cluster/placement"
)

// Attempts at an address are logged while no node was found, when their result changes, and once a
// minute.
func TestJoinAttemptsAreLoggedSparingly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log testlog.Lines
		m := membershipWithoutGossip(log.Logger(), "fleet")
		refused, other := errors.New("refused"), errors.New("timeout")
		for _, c := range []struct {
			after time.Duration
			err   error
			alien bool
			want  int // lines so far
		}{
			{0, refused, false, 0}, // a fleet that starts
			{joinWarnGrace, refused, false, 1},
			{time.Second, refused, false, 1},
			{time.Second, other, false, 2},
			{joinWarnEvery, other, false, 3},
			{time.Second, other, true, 4},
			{time.Second, nil, false, 4},
			{time.Second, other, true, 5},
		} {
			<-time.After(c.after)
			m.noteAttempt(t.Context(), "10.0.0.9:1", c.err, c.alien)
			if n := len(log.Containing("cannot join")); n != c.want {
				t.Errorf("after %v (alien %v): %d lines, want %d", c.err, c.alien, n, c.want)
			}
		}
		m.receive(placement.Member{Name: "a", RingKey: "a", Revision: 1, OwnsUntil: placement.Never})
		m.noteAttempt(t.Context(), "10.0.0.8:1", refused, false) // an address of a fleet that refuses
		if n := len(log.Containing("10.0.0.8")); n != 0 {
			t.Errorf("%d lines about a node that does not run", n)
		}
		if m.forgetAttempts(map[string]bool{"10.0.0.8:1": true}); strings.Contains(m.JoinErrors(), "10.0.0.9") {
			t.Errorf("%q", m.JoinErrors())
		}
	})
}

// One line of each kind passes in a window, then one with the count of the others.
func TestGossipLogIsLimited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log testlog.Lines
		l := newMemberlistLog(log.Logger())
		for i := range 500 {
			fmt.Fprintf(l, "[ERR] memberlist: failed to receive: No installed keys could decrypt the message from=127.0.0.1:%d\n", i)
			fmt.Fprintf(l, "[ERR] memberlist: discarding stream with unacceptable label \"x%d\": from=10.0.0.%d:1\n", i, i)
		}
		if all := log.Containing("gossip"); len(all) != 2 {
			t.Errorf("%q", all)
		}
		<-time.After(logWindow)
		synctest.Wait()
		if all := log.Containing("more=499"); len(all) != 2 || !strings.Contains(all[0]+all[1], "from=127.0.0.1:499") {
			t.Errorf("%q", all)
		}
		fmt.Fprintln(l, "[ERR] memberlist: failed to receive: No installed keys could decrypt the message from=127.0.0.1:1")
		if all := log.Containing("gossip"); len(all) != 4 { // the window that began with the count
			t.Errorf("%q", all)
		}
		<-time.After(2 * logWindow)
		synctest.Wait()
		if all := log.Containing("gossip"); len(all) != 5 || l.count() != 0 {
			t.Errorf("%d kinds, %q", l.count(), all)
		}
		for i := range 10 * maxLineKinds { // further kinds count as one
			fmt.Fprintf(l, "[ERR] memberlist: %s\n", strings.Repeat("x", i%70+1)+string(rune('a'+i/70)))
		}
		if n := l.count(); n > maxLineKinds+1 {
			t.Errorf("%d kinds", n)
		}
		<-time.After(3 * logWindow)
		synctest.Wait()
	})
}

// count returns how many kinds have a window.
func (l *memberlistLog) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.kinds)
}

func TestParseJoinAddrs(t *testing.T) {
	t.Parallel()
	clean, err := ParseJoinAddrs([]string{" a", "b:1\n", "[::1]:2", "fe80::1"})
	if want := "a b:1 [::1]:2 fe80::1"; err != nil || strings.Join(clean, " ") != want {
		t.Errorf("%q, %v", clean, err)
	}
	for _, bad := range []string{"", "http://a", "a b", "a/b", "a:0", "a:70000", ":1", "a:b:c", "x@y", "a:", `"a"`} {
		t.Run(bad, func(t *testing.T) {
			if _, err := ParseJoinAddrs([]string{"ok", bad}); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", bad)) {
				t.Errorf("%v", err)
			}
		})
	}
}
