package s2dev

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/s2-streamstore/s2-sdk-go/s2"
)

const (
	crashRounds  = 30
	crashWriters = 6
	crashStreams = 2
	crashBatch   = 5
	crashGoal    = 50 // the least number of batches acknowledged before a kill
)

// serverProcess is a server in a separate process.
type serverProcess struct {
	cmd *exec.Cmd
	url string
}

func spawnServer(t *testing.T, dir string) *serverProcess {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "http://") {
		_ = cmd.Process.Kill()
		t.Fatalf("server: %q %v", line, err)
	}
	return &serverProcess{cmd: cmd, url: strings.TrimSpace(line)}
}

// kill ends the process with SIGKILL: no handler runs.
func (c *serverProcess) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// ackLedger records the tags of acknowledged batches by stream and first sequence number.
type ackLedger struct {
	mu    sync.Mutex
	acked map[string]map[uint64]string
	total int

	goal    int
	reached chan struct{} // closed when total passes goal
}

func newLedger() *ackLedger { return &ackLedger{acked: map[string]map[uint64]string{}} }

// afterAcks returns a channel that closes when n more batches are acknowledged.
func (l *ackLedger) afterAcks(n int) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.goal, l.reached = l.total+n, make(chan struct{})
	return l.reached
}

func (l *ackLedger) record(stream string, seq uint64, tag string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.acked[stream] == nil {
		l.acked[stream] = map[uint64]string{}
	}
	l.acked[stream][seq] = tag
	if l.total++; l.total == l.goal {
		close(l.reached)
	}
}

func taggedRecord(tag string) *s2.AppendInput {
	texts := make([]string, crashBatch)
	for i := range texts {
		texts[i] = fmt.Sprintf("%s/%d", tag, i)
	}
	return bodyRecords(texts...)
}

// writeUntilDead appends batches until the server is gone.
func writeUntilDead(ctx context.Context, b *s2.BasinClient, stream, who string, l *ackLedger) {
	client := b.Stream(s2.StreamName(stream))
	for n := 0; ctx.Err() == nil; n++ {
		tag := fmt.Sprintf("%s-%d", who, n)
		ack, err := client.Append(ctx, taggedRecord(tag))
		if err != nil {
			return
		}
		l.record(stream, ack.Start.SeqNum, tag)
	}
}

// readAllRecords reads a whole stream.
func readAllRecords(t *testing.T, c *s2.StreamClient) []s2.SequencedRecord {
	t.Helper()
	tail, err := c.CheckTail(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []s2.SequencedRecord
	for uint64(len(out)) < tail.Tail.SeqNum {
		page, err := c.Read(t.Context(), &s2.ReadOptions{SeqNum: new(uint64(len(out)))})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, page.Records...)
	}
	return out
}

// verifyAcked checks a stream after a crash: no hole, no torn batch, no batch twice, and every
// acknowledged batch at its acknowledged place.
func verifyAcked(t *testing.T, b *s2.BasinClient, stream string, acked map[uint64]string) {
	t.Helper()
	recs := readAllRecords(t, b.Stream(s2.StreamName(stream)))
	if len(recs)%crashBatch != 0 {
		t.Fatalf("%s: torn batch: %d records", stream, len(recs))
	}
	seen := map[string]bool{}
	for i, r := range recs {
		if r.SeqNum != uint64(i) {
			t.Fatalf("%s: record %d has sequence number %d", stream, i, r.SeqNum)
		}
		first, _, _ := strings.Cut(string(recs[i-i%crashBatch].Body), "/")
		if want := fmt.Sprintf("%s/%d", first, i%crashBatch); string(r.Body) != want {
			t.Fatalf("%s: record %d is %q, not %q: torn batch", stream, i, r.Body, want)
		}
		if i%crashBatch == 0 {
			if seen[first] {
				t.Fatalf("%s: batch %s twice", stream, first)
			}
			seen[first] = true
		}
	}
	for seq, tag := range acked {
		if seq >= uint64(len(recs)) || string(recs[seq].Body) != tag+"/0" {
			t.Fatalf("%s: acknowledged batch %s is not at %d", stream, tag, seq)
		}
	}
}

func crashRound(t *testing.T, dir string, round int, l *ackLedger) {
	t.Helper()
	server := spawnServer(t, dir)
	defer server.kill()
	b := dialBasin(server.url)
	for i := range crashStreams {
		name := fmt.Sprintf("crash-%d", i)
		if round == 0 {
			mustCreate(t, b, name)
		} else {
			verifyAcked(t, b, name, l.acked[name])
		}
	}
	enough := l.afterAcks(crashGoal + rand.N(8*crashGoal))
	var writers sync.WaitGroup
	for w := range crashWriters {
		stream := fmt.Sprintf("crash-%d", w%crashStreams)
		writers.Go(func() {
			writeUntilDead(t.Context(), b, stream, fmt.Sprintf("r%d-w%d", round, w), l)
		})
	}
	<-enough
	server.kill()
	writers.Wait()
}

func TestKilledServerKeepsWhatItAcknowledged(t *testing.T) {
	if testing.Short() {
		t.Skip("kills 30 processes")
	}
	dir := t.TempDir()
	l := newLedger()
	for round := range crashRounds {
		crashRound(t, dir, round, l)
	}
	s := open(t, Config{Dir: dir})
	for name, acked := range l.acked {
		verifyAcked(t, dialBasin(s.URL()), name, acked)
	}
	t.Logf("%d kills, %d batches of %d acknowledged, none lost, none torn",
		crashRounds, l.total, crashBatch)
}

// TestPowerCutKeepsWhatItAcknowledged drops everything from the disk that was not fsynced. Killing
// a process alone cannot show that.
func TestPowerCutKeepsWhatItAcknowledged(t *testing.T) {
	for round := range uint64(10) {
		fs := vfs.NewCrashableMem()
		s := open(t, Config{Dir: "data", fs: fs, Basins: []string{testBasin}})
		b := dialBasin(s.URL())
		mustCreate(t, b, "s")
		l := newLedger()
		enough := l.afterAcks(crashGoal)
		ctx, stop := context.WithCancel(t.Context())
		var writers sync.WaitGroup
		for w := range 4 {
			writers.Go(func() { writeUntilDead(ctx, b, "s", fmt.Sprintf("w%d", w), l) })
		}
		<-enough
		l.mu.Lock()
		acked := maps.Clone(l.acked["s"])
		after := fs.CrashClone(vfs.CrashCloneCfg{
			UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(round, 1)),
		})
		l.mu.Unlock()
		stop()
		writers.Wait()
		again := open(t, Config{Dir: "data", fs: after, Basins: []string{testBasin}})
		verifyAcked(t, dialBasin(again.URL()), "s", acked)
	}
}
