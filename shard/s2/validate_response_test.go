package s2

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/s2-streamstore/s2-sdk-go/generated"
	"google.golang.org/protobuf/proto"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
	"github.com/fantail-dev/fantail/shard/s2/s2s"
)

// An answer of a proxy in place of S2's is no success, whatever its status.
func TestAnswersThatAreNotFromS2AreRefused(t *testing.T) {
	elsewhere, err := proto.Marshal(&pb.AppendAck{Start: &pb.StreamPosition{SeqNum: 4}, End: &pb.StreamPosition{SeqNum: 5}})
	if err != nil {
		t.Fatal(err)
	}
	for name, answer := range map[string]http.HandlerFunc{
		"nothing":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
		"empty":    func(http.ResponseWriter, *http.Request) {},
		"accepted": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) },
		"redirection": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://login.example/", http.StatusFound)
		},
		"moved": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusPermanentRedirect) },
		"page":  func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>please log in</html>") },
		"another position": func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodPost {
				return
			}
			w.Header().Set("Content-Type", "application/protobuf")
			_, _ = w.Write(elsewhere)
		},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(answer)
			defer srv.Close()
			log, err := Open(Config{Endpoint: srv.URL, Basin: testBasin})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = log.Close() }()
			if ack, err := log.Append(t.Context(), id, 0, []shard.Entry{{Body: []byte("x")}}); !errors.Is(err, shard.ErrAppendUnknown) {
				t.Errorf("append: %+v %v", ack, err)
			}
			if p, err := log.Read(t.Context(), id, 0, 10); err == nil {
				t.Errorf("read: %+v", p)
			}
			if tail, err := log.Tail(t.Context(), id); err == nil {
				t.Errorf("tail: %d", tail)
			}
		})
	}
}

// A read session without any answer is given up, and another one is opened.
func TestSilentSessionIsReplaced(t *testing.T) {
	var asked atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		<-r.Context().Done()
	}))
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	p.SetHTTP1(true)
	srv.Config.Protocols = &p
	srv.Start()
	defer srv.Close()
	for want, sdk := range map[error]bool{s2s.ErrSilent: false, errSessionSilent: true} {
		log := openForTest(t, Config{
			Endpoint: srv.URL, Basin: testBasin, silence: 50 * time.Millisecond, backoff: time.Millisecond, SDKSessions: sdk,
		})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		follow := func(log shard.Log) {
			asked.Store(0)
			err := log.Follow(ctx, id, 0, func(shard.Page) error {
				if asked.Load() > 2 {
					return errSessionDone
				}
				return nil
			})
			if !errors.Is(err, errSessionDone) {
				t.Errorf("asked %d times: %v", asked.Load(), err)
			}
		}
		follow(log)
		if fed := logtest.Fed(log); fed != nil {
			follow(fed)
		}
		if err := log.Replay(ctx, id, 0, 1, func(shard.Page) error { return nil }); !errors.Is(err, want) {
			t.Errorf("replay: %v", err)
		}
		cancel()
	}
}

// scriptedService is a service whose sessions are a function.
type scriptedService struct {
	service
	session func(ctx context.Context, from shard.Pos, fn func(shard.Page) error) error
}

func (s *scriptedService) runSession(
	ctx context.Context, _, _ string, from shard.Pos, _ uint64, opened func(), fn func(shard.Page) error,
) error {
	opened()
	return s.session(ctx, from, fn)
}

func newScriptedLog(t *testing.T, session func(ctx context.Context, from shard.Pos, fn func(shard.Page) error) error) *logCalls {
	t.Helper()
	log, err := OpenInProcess(nil, Config{Basin: testBasin})
	if err != nil {
		t.Fatal(err)
	}
	log.service = &scriptedService{session: session}
	return &log.logCalls
}

// Sessions that end right after they have told the tail are reopened at growing intervals. Those
// that brought records, or lasted their billed minute, are reopened immediately.
func TestSessionsThatBringNothingAreReopenedMoreAndMoreRarely(t *testing.T) {
	const during = 10 * time.Minute
	for _, c := range []struct {
		name        string
		lives       time.Duration
		records     int
		least, most int
	}{
		{"told of the tail", 0, 0, 120, 400},
		{"lived for a minute", time.Minute, 0, 9, 11},
		{"brought a record", time.Second, 1, 550, 601},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), during)
				defer cancel()
				sessions := 0
				log := newScriptedLog(t, func(ctx context.Context, from shard.Pos, fn func(shard.Page) error) error {
					sessions++
					p := shard.Page{Tail: from, HasTail: true}
					for i := range c.records {
						p.Records = append(p.Records, shard.Record{Pos: from + shard.Pos(i)})
					}
					select {
					case <-time.After(c.lives):
					case <-ctx.Done():
					}
					return fn(p)
				})
				err := log.Follow(ctx, id, 0, func(shard.Page) error { return nil })
				if !errors.Is(err, context.DeadlineExceeded) || sessions < c.least || sessions > c.most {
					t.Errorf("%s: %d sessions in %v, want %d to %d (%v)", c.name, sessions, during, c.least, c.most, err)
				}
			})
		})
	}
}

// When all sessions of a node are lost together, they are not all reopened together.
func TestLostSessionsAreReopenedInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		const streams = 2000
		var opened atomic.Int32
		lost, ended := make(chan struct{}), make(chan struct{}, streams)
		log := newScriptedLog(t, func(ctx context.Context, from shard.Pos, fn func(shard.Page) error) error {
			opened.Add(1)
			if err := fn(shard.Page{Tail: from, HasTail: true}); err != nil {
				return err
			}
			select {
			case <-lost:
			case <-ctx.Done():
			}
			if opened.Load() > streams {
				<-ctx.Done()
			}
			return nil
		})
		for range streams {
			go func() {
				_ = log.Follow(ctx, id, 0, func(shard.Page) error { return nil })
				ended <- struct{}{}
			}()
		}
		synctest.Wait()
		close(lost)
		<-time.After(time.Second)
		if n := opened.Load() - streams; n > 2*reopensPerSecond {
			t.Errorf("%d sessions are opened in a second", n)
		}
		<-time.After(streams / reopensPerSecond * time.Second)
		if n := opened.Load() - streams; n != streams {
			t.Errorf("%d of %d are open again", n, streams)
		}
		cancel()
		for range streams {
			<-ended
		}
	})
}
