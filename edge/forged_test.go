package edge

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// A forger writes records with our header, whole and at their own position, but with
// fields as chance has them: what a client may do that may append to the stream in S2.
type forger struct {
	*rand.Rand
	generation shard.Generation // the stream's, which a forger can read
}

func pick[T any](f *forger, of ...T) T { return of[f.IntN(len(of))] }

func (f *forger) field(b []byte, tag byte, v []byte) []byte {
	b = append(b, tag)
	b = binary.AppendUvarint(b, uint64(len(v)))
	return append(b, v...)
}

// number draws one of the numbers at which things change.
func (f *forger) number(pos shard.Pos) uint64 {
	return pick(f,
		0, 1, 2, uint64(f.generation), uint64(f.generation), uint64(pos), uint64(pos)+1, uint64(pos-min(pos, 1)), uint64(pos)+2, 1<<40, 1<<53-1, 1e16-1, 1e16, 1<<63, 1<<64-1,
	)
}

func (f *forger) numbers(pos shard.Pos, n int) (b []byte) {
	for range n {
		b = binary.AppendUvarint(b, f.number(pos))
	}
	return b
}

func (f *forger) name() []byte {
	return pick(f,
		[]byte("default/forged"), []byte("default/victim"), []byte("other/victim"), nil, []byte("\xff"), make([]byte, 600),
	)
}

var someID = []byte{1, 2, 3, 4, 5, 6, 7, 8}

// state draws an encoded State: tags with contents of about the right shape.
func (f *forger) state(pos shard.Pos) (b []byte) {
	b = f.field(b, 1, []byte{pick[byte](f, 1, 1, 1, 2, 5, 33, byte(f.IntN(64)))}) // mostly: it exists
	b = f.field(b, 2, binary.AppendUvarint(nil, uint64(pick(f, f.generation, f.generation, f.generation, shard.Generation(f.number(pos))))))
	for range f.IntN(6) {
		switch tag := byte(1 + f.IntN(34)); tag {
		case 1:
			b = f.field(b, tag, binary.AppendUvarint(nil, uint64(f.IntN(64))))
		case 5, 11:
			b = f.field(b, tag, pick(f, []byte("text/plain"), []byte("application/json"), []byte("\r\nx: y"), make([]byte, 300)))
		case 8:
			b = f.field(b, tag, append(f.numbers(pos, 3), f.name()...))
		case 12:
			b = f.field(b, tag, append(append([]byte{1, 'p'}, f.numbers(pos, 3)...), f.numbers(pos, f.IntN(2))...))
		case 13:
			b = f.field(b, tag, append(append(append([]byte{}, someID...), byte(f.IntN(10))), f.numbers(pos, 2)...))
		case 15:
			b = f.field(b, tag, append(append(append(f.numbers(pos, 2), someID...), 0), f.name()...))
		case 16:
			b = f.field(b, tag, append(append(f.numbers(pos, 1), someID...), f.name()...))
		case 17:
			b = f.field(b, tag, append(append([]byte{}, someID...), f.name()...))
		default:
			b = f.field(b, tag, f.numbers(pos, 1+f.IntN(3)))
		}
	}
	return b
}

// header draws a header for the record at pos.
func (f *forger) header(pos shard.Pos) []byte {
	kind := pick[byte](f, 1, 1, 2, 2, 3, 4, 4, 5, 6, 7, 8, 10, 12, 13)
	b := []byte{0xFA, 1, kind, byte(f.IntN(32))}
	for tag := byte(1); tag <= 26; tag++ {
		needed := kind == 2 && tag == 6 || (kind == 4 || kind == 6) && tag == 12 || kind == 7 && (tag == 15 || tag == 16)
		if !needed && f.IntN(6) > 0 {
			continue
		}
		switch tag {
		case 1, 15, 17, 18:
			b = f.field(b, tag, someID)
		case 2:
			b = f.field(b, tag, append(f.numbers(pos, 2), 'p'))
		case 4:
			b = f.field(b, tag, nil)
		case 7:
			b = f.field(b, tag, pick(f, []byte("text/plain"), []byte("application/json"), []byte("\xe9")))
		case 10:
			b = f.field(b, tag, append(f.numbers(pos, 3), f.name()...))
		case 12:
			b = f.field(b, tag, f.state(pos))
		case 14:
			b = f.field(b, tag, append(append(append(f.numbers(pos, 2), someID...), 0), f.name()...))
		case 16:
			b = f.field(b, tag, f.name())
		default:
			b = f.field(b, tag, f.numbers(pos, 1+f.IntN(3)))
		}
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Update(crc32.Checksum(binary.BigEndian.AppendUint64(nil, uint64(pos)), table), table, b)
	return binary.BigEndian.AppendUint32(b, sum)
}

// entries draws records and, now and then, S2's trim at the end.
func (f *forger) entries(from shard.Pos) (all []shard.Entry) {
	for n := 1 + f.IntN(5); len(all) < n; {
		e := shard.Entry{Body: pick(f, nil, nil, []byte("text"), []byte(`{"a":1}`), []byte("\xff"))}
		if f.IntN(4) > 0 {
			e.Header = f.header(from + shard.Pos(len(all)))
		} else if e.Body == nil {
			e.Body = []byte("x")
		}
		all = append(all, e)
	}
	if f.IntN(5) == 0 {
		all = append(all, shard.Entry{Trim: true, TrimTo: shard.Pos(pick[uint64](f, 1, 3, 100))})
	}
	return all
}

// readForged checks that, whatever is forged in a log, readers and writers of the stream get an
// answer, by the owner that was there and by the next owner. Nothing panics, nothing spins, no
// other log is read or written, and what they asked for gives back what it held.
func readForged(t *testing.T, seed uint64) {
	log := logtest.NewMemory(1)
	sites := []*Server{forgedSite(t, log), forgedSite(t, log)}
	for _, name := range []string{"default/victim", "other/victim"} {
		ask(t, sites[0], "PUT", "/v1/stream/"+name, strings.NewReader("secret"), text)
	}
	ask(t, sites[0], "PUT", "/v1/stream/forged", strings.NewReader("first"), text)
	before := len(log.Records("default/victim")) + len(log.Records("other/victim"))
	// A reader is there before, and sees what becomes of the stream.
	ctx, leave := context.WithTimeout(t.Context(), time.Hour)
	defer leave()
	live := make(chan string)
	go func() { live <- forgedGet(ctx, sites[0], "?live=sse&offset=-1") }()
	synctest.Wait()
	info, err := sites[0].streams.Info(t.Context(), "default/forged", 0)
	if err != nil {
		t.Fatal(err)
	}
	f := &forger{rand.New(rand.NewPCG(seed, 1)), info.Generation}
	for i, e := range f.entries(2) { // each by itself: what one of them does must not hide the next
		if at, err := log.Tail(t.Context(), "default/forged"); err != nil || at != shard.Pos(2+i) {
			break // the owner has written: the others would not stand where they say
		}
		if _, err := log.Append(t.Context(), "default/forged", shard.Pos(2+i), []shard.Entry{e}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
	}
	for _, s := range sites {
		for _, q := range []string{"", "?offset=now", "?live=sse&offset=-1", "?live=long-poll&offset=now", "?offset=0000000000000000_0000000000001000"} {
			within, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			if got := forgedGet(within, s, q); strings.Contains(got, "secret") {
				t.Errorf("%s: %q", q, got)
			}
			cancel()
		}
		for _, method := range []string{"HEAD", "POST", "PUT", "DELETE"} {
			if w := ask(t, s, method, "/v1/stream/forged", strings.NewReader("more"), text); w.Code == http.StatusInternalServerError {
				t.Errorf("%s: %d %s", method, w.Code, w.Body)
			}
		}
	}
	leave()
	<-live
	if after := len(log.Records("default/victim")) + len(log.Records("other/victim")); after != before {
		t.Errorf("the victims' logs have %d records, not %d", after, before)
	}
	for i, s := range sites {
		if n := s.Readers(); n != 0 {
			t.Errorf("node %d has %d readers left", i, n)
		}
	}
}

// forgedSite is a node on log, without sockets.
func forgedSite(t *testing.T, log shard.Log) *Server {
	t.Helper()
	host := shard.NewManager(log, shard.NewTailBuffers(0, 0), shard.Config{})
	t.Cleanup(func() { _ = host.Close() })
	return New(Config{LongPoll: time.Second}, host)
}

// forgedGet reads until ctx ends, for a live mode, and returns the body.
func forgedGet(ctx context.Context, s *Server, query string) string {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/v1/stream/forged"+query, nil))
	return fmt.Sprint(w.Code, w.Body)
}

func TestForgedLogs(t *testing.T) {
	for seed := range uint64(1000) {
		if synctest.Test(t, func(t *testing.T) { readForged(t, seed) }); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func FuzzForgedLogs(f *testing.F) {
	f.Fuzz(func(t *testing.T, seed uint64) {
		synctest.Test(t, func(t *testing.T) { readForged(t, seed) })
	})
}
