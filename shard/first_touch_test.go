package shard_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// steppedLog is a Log in memory that is far away. It carries calls out and holds their answers, until
// every call that can be made without them has been made: a step. So the steps of a request are the
// round trips that it waits for, whatever number of calls it makes.
type steppedLog struct {
	*logtest.Memory

	mu      sync.Mutex
	holds   bool
	waiting map[chan struct{}]string // what is held, and the kind of call
}

func newSteppedLog(makes bool) *steppedLog {
	l := &steppedLog{Memory: logtest.NewMemory(1), waiting: map[chan struct{}]string{}}
	l.AppendsCreate = makes
	return l
}

// hold holds an answer.
func (l *steppedLog) hold(kind string) {
	l.mu.Lock()
	if !l.holds {
		l.mu.Unlock()
		return
	}
	released := make(chan struct{})
	l.waiting[released] = kind
	l.mu.Unlock()
	<-released
}

// release lets the answers through that are held now, and returns the kinds of their calls.
func (l *steppedLog) release() (kinds []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c, kind := range l.waiting {
		close(c)
		kinds = append(kinds, kind)
	}
	clear(l.waiting)
	slices.Sort(kinds)
	return kinds
}

func (l *steppedLog) setHolding(holds bool) {
	l.mu.Lock()
	l.holds = holds
	l.mu.Unlock()
	if !holds {
		l.release()
	}
}

// steps does something, and returns the kinds of the calls of each step until it was done. It is called
// in a bubble.
func (l *steppedLog) steps(t *testing.T, do func()) (all []string) {
	t.Helper()
	l.setHolding(true)
	defer l.setHolding(false)
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	for {
		synctest.Wait()
		select {
		case <-done:
			return all
		default:
		}
		kinds := l.release()
		if len(kinds) == 0 {
			t.Fatalf("after %q it waits for no call", all)
		}
		all = append(all, strings.Join(kinds, " "))
	}
}

func (l *steppedLog) Create(ctx context.Context, id shard.StreamID) error {
	defer l.hold("create")
	return l.Memory.Create(ctx, id)
}

func (l *steppedLog) CreateNew(ctx context.Context, id shard.StreamID) (bool, error) {
	defer l.hold("make")
	return l.Memory.CreateNew(ctx, id)
}

func (l *steppedLog) EnsureConfig(ctx context.Context, id shard.StreamID) (bool, error) {
	defer l.hold("config")
	return l.Memory.EnsureConfig(ctx, id)
}

func (l *steppedLog) Append(ctx context.Context, id shard.StreamID, at shard.Pos, batch []shard.Entry) (shard.Ack, error) {
	defer l.hold("append")
	return l.Memory.Append(ctx, id, at, batch)
}

func (l *steppedLog) Read(ctx context.Context, id shard.StreamID, from shard.Pos, n int) (shard.Page, error) {
	defer l.hold("read")
	return l.Memory.Read(ctx, id, from, n)
}

func (l *steppedLog) Last(ctx context.Context, id shard.StreamID, n, maxBytes int) (shard.Page, error) {
	defer l.hold("last")
	return l.Memory.Last(ctx, id, n, maxBytes)
}

func (l *steppedLog) Tail(ctx context.Context, id shard.StreamID) (shard.Pos, error) {
	defer l.hold("tail")
	return l.Memory.Tail(ctx, id)
}

func (l *steppedLog) Replay(ctx context.Context, id shard.StreamID, from, to shard.Pos, fn func(shard.Page) error) error {
	l.hold("replay")
	return l.Memory.Replay(ctx, id, from, to, fn)
}

func nodeIn(t testing.TB, log shard.Log, mode shard.Mode) *shard.Manager {
	t.Helper()
	h := shard.NewManager(log, shard.NewTailBuffers(0, 0), inMode(shard.Config{Mode: mode}))
	t.Cleanup(func() { _ = h.Close() })
	return h
}

func deletion() *shard.Request {
	return &shard.Request{Stream: stream, Op: shard.OpDelete, ID: shard.NewAppendID()}
}

// What the first request for a stream waits for: calls of storage one after the other, and those beside
// each other.
func TestStepsOfAFirstTouch(t *testing.T) {
	none := func(*testing.T, *shard.Manager) {}
	small := func(t *testing.T, h *shard.Manager) {
		do(t, h, create("text/plain", "a"), shard.CodeCreated)
		do(t, h, appendReq("text/plain", "b", "c"), shard.CodeAppended)
	}
	large := func(t *testing.T, h *shard.Manager) {
		do(t, h, create("text/plain", "a"), shard.CodeCreated)
		for range 40 {
			do(t, h, appendReq("text/plain", strings.Repeat("m", 20_000)), shard.CodeAppended)
		}
	}
	long := func(t *testing.T, h *shard.Manager) {
		do(t, h, create("text/plain", "a"), shard.CodeCreated)
		for range 300 {
			do(t, h, appendReq("text/plain", "m"), shard.CodeAppended)
		}
	}
	write := func(r func() *shard.Request, want shard.Code) func(*testing.T, *shard.Manager) {
		return func(t *testing.T, h *shard.Manager) { do(t, h, r(), want) }
	}
	describe := func(ask shard.InfoOptions, want bool) func(*testing.T, *shard.Manager) {
		return func(t *testing.T, h *shard.Manager) {
			info, err := h.Info(t.Context(), stream, ask)
			if err != nil || info.Exists != want || !info.Checked {
				t.Errorf("%+v %v", info, err)
			}
		}
	}
	follow := func(t *testing.T, h *shard.Manager) {
		describe(shard.InfoAllowCached|shard.InfoTouch|shard.InfoWillFollow, true)(t, h)
		_, release, err := h.Follow(t.Context(), stream, 0)
		if err != nil {
			t.Fatal(err)
		}
		release()
	}
	put := func(msgs ...string) func() *shard.Request {
		return func() *shard.Request { return create("text/plain", msgs...) }
	}
	post := func() *shard.Request { return appendReq("text/plain", "x") }
	for _, c := range []struct {
		name  string
		setUp func(*testing.T, *shard.Manager)
		touch func(*testing.T, *shard.Manager)
		// steps where appends make their logs, and where they do not (empty: the same).
		steps, without []string
	}{
		{"PUT of a new stream", none, write(put(), shard.CodeCreated), []string{"append last last"}, []string{"last last make", "append"}},
		{"PUT of a new stream with messages", none, write(put("a", "b"), shard.CodeCreated), []string{"append last last"}, []string{"last last make", "append"}},
		{"PUT of a stream that exists", small, write(put(), shard.CodeExists), []string{"append last last"}, []string{"last last make"}},
		{"PUT of another stream than exists", small, write(func() *shard.Request { return create("text/html") }, shard.CodeConfigDiffers), []string{"append last last"}, []string{"last last make"}},
		{"PUT of a long stream that exists", long, write(put(), shard.CodeExists), []string{"append last last", "read"}, []string{"last last make", "read"}},
		{"POST to a stream that exists", small, write(post, shard.CodeAppended), []string{"last last", "append"}, nil},
		{"POST to no stream", none, write(post, shard.CodeNotFound), []string{"last last"}, nil},
		{"DELETE of a stream that exists", small, write(deletion, shard.CodeDeleted), []string{"last last", "append"}, nil},
		{"DELETE of no stream", none, write(deletion, shard.CodeNotFound), []string{"last last"}, nil},
		{"HEAD of a small stream", small, describe(0, true), []string{"last last"}, nil},
		{"HEAD of a stream with large messages", large, describe(0, true), []string{"last last", "read"}, nil},
		{"HEAD of a long stream", long, describe(0, true), []string{"last last", "read"}, nil},
		{"HEAD of no stream", none, describe(0, false), []string{"last last"}, nil},
		{"GET of no stream, for certain", none, describe(shard.InfoRequireFresh, false), []string{"last last"}, nil},
		{"GET of no stream, live", none, describe(shard.InfoAllowCached|shard.InfoWillFollow, false), []string{"last last"}, nil},
		{"GET of a small stream, live", small, follow, []string{"last last"}, nil},
	} {
		for _, mode := range []shard.Mode{shard.ModeSession, shard.ModeAuto, shard.ModeExclusive} {
			for _, makes := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, %v, appends make logs: %t", c.name, mode, makes), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						log := newSteppedLog(makes)
						c.setUp(t, nodeIn(t, log, mode))
						synctest.Wait() // a new log's configuration is checked
						want := c.steps
						if !makes && c.without != nil {
							want = c.without
						}
						h := nodeIn(t, log, mode)
						if got := log.steps(t, func() { c.touch(t, h) }); !slices.Equal(got, want) {
							t.Errorf("%q, want %q", got, want)
						}
					})
				})
			}
		}
	}
}

// A stream that is known not to exist is made by one append, too.
func TestPutOfAnAbsentStreamInMemory(t *testing.T) {
	for makes, want := range map[bool][]string{true: {"append"}, false: {"create", "append"}} {
		synctest.Test(t, func(t *testing.T) {
			log := newSteppedLog(makes)
			h := node(t, log)
			do(t, h, appendReq("text/plain", "x"), shard.CodeNotFound)
			synctest.Wait()
			if got := log.steps(t, func() { do(t, h, create("text/plain", "a"), shard.CodeCreated) }); !slices.Equal(got, want) {
				t.Errorf("%q, want %q", got, want)
			}
			equal(t, history(t, h), []string{"a"})
		})
	}
}

// Callers that come together share the first touch of a stream.
func TestFirstTouchesAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newSteppedLog(true)
		h := node(t, log)
		codes := make([]shard.Code, 8)
		steps := log.steps(t, func() {
			var all sync.WaitGroup
			for i := range codes {
				all.Go(func() {
					out, err := h.Do(t.Context(), create("text/plain"))
					if err != nil {
						t.Error(err)
					}
					codes[i] = out.Code
				})
				all.Go(func() {
					if _, err := h.Info(t.Context(), stream, 0); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
		})
		created := 0
		for _, c := range codes {
			if c == shard.CodeCreated {
				created++
			}
		}
		// One that comes when the log has been read already may wait for a tail check at the end, and so may a description.
		if created != 1 || len(steps) > 3 {
			t.Errorf("%d created, in %q", created, steps)
		}
		if n := log.Ops(); n.Appends != 1 || n.Reads != 2 || n.Tails > 2 {
			t.Errorf("%+v", n)
		}
	})
}

// The create record of a stream is written, and the answer is lost: the stream was created, once.
func TestLostAnswerToTheFirstRecord(t *testing.T) {
	for _, lose := range []struct {
		name   string
		append func(context.Context, func() (shard.Ack, error)) (shard.Ack, error)
	}{
		{"answer", loseAck},
		{"request", func(context.Context, func() (shard.Ack, error)) (shard.Ack, error) {
			return shard.Ack{}, errors.Join(shard.ErrAppendUnknown, errDown)
		}},
	} {
		t.Run(lose.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := newHooked()
				log.AppendsCreate = true
				h := node(t, log)
				log.set(hooks{append: func(ctx context.Context, write func() (shard.Ack, error)) (shard.Ack, error) {
					log.set(hooks{})
					return lose.append(ctx, write)
				}})
				do(t, h, create("text/plain", "a"), shard.CodeCreated)
				equal(t, history(t, h), []string{"a"})
				equal(t, history(t, node(t, log)), []string{"a"})
			})
		})
	}
}

// It is not known whether the create record was written, and it cannot be found out: the caller is told
// so. The record that arrives later is found by the caller's repeat, and is written once.
func TestLateFirstRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newHooked()
		log.AppendsCreate = true
		h := node(t, log)
		var late func()
		log.set(hooks{
			append: func(_ context.Context, write func() (shard.Ack, error)) (shard.Ack, error) {
				late = func() { _, _ = write() }
				return shard.Ack{}, errors.Join(shard.ErrAppendUnknown, errDown)
			},
			read: func() error { return errDown },
		})
		req := create("text/plain", "a")
		if out, err := h.Do(t.Context(), req); !errors.Is(err, shard.ErrOutcomeUnknown) {
			t.Errorf("%+v %v", out, err)
		}
		log.set(hooks{})
		late()
		again := *req
		again.Repeat = true
		do(t, h, &again, shard.CodeCreated)
		do(t, node(t, log), create("text/plain"), shard.CodeExists)
		equal(t, history(t, h), []string{"a"})
	})
}

// A read that was sent before a caller came proves no refusal to that caller: another node may have made
// the stream since then.
func TestARefusalRestsOnNoReadFromBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newSteppedLog(true)
		h := node(t, log)
		log.setHolding(true)
		first := make(chan error)
		go func() {
			_, err := h.Info(t.Context(), stream, 0)
			first <- err
		}()
		synctest.Wait() // the log is read, and the answer is on its way
		do(t, node(t, log.Memory), create("text/plain", "a"), shard.CodeCreated)
		post := doLater(t.Context(), h, appendReq("text/plain", "b"))
		second := make(chan shard.Info)
		go func() {
			info, _ := h.Info(t.Context(), stream, shard.InfoRequireFresh)
			second <- info
		}()
		synctest.Wait()
		log.setHolding(false)
		if err := <-first; err != nil { // it may say either
			t.Error(err)
		}
		if out, err := post(); err != nil || out.Code != shard.CodeAppended {
			t.Errorf("%+v %v", out, err)
		}
		if info := <-second; !info.Exists || !info.Checked {
			t.Errorf("%+v", info)
		}
		equal(t, history(t, h), []string{"a", "b"})
	})
}

// Where appends make logs, nothing but a create request makes one.
func TestOnlyACreateRequestMakesALog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		log.AppendsCreate = true
		h := node(t, log)
		absent := func(what string) {
			t.Helper()
			if _, err := log.Tail(t.Context(), stream); !errors.Is(err, shard.ErrNoLog) {
				t.Errorf("%s made a log: %v", what, err)
			}
		}
		for op := shard.OpAppend; op <= shard.LastOp; op++ {
			req := appendReq("text/plain", "x")
			if req.Op = op; op > shard.OpAppend {
				req.Type, req.Messages, req.Name, req.Ref = "", shard.Messages{}, "default/fork", shard.NewAppendID()
			}
			if _, err := h.Do(t.Context(), req); err != nil {
				t.Errorf("operation %d: %v", op, err)
			}
			absent(fmt.Sprint("operation ", op))
		}
		bad := create("application/json")
		bad.BodyError = "not JSON"
		do(t, h, bad, shard.CodeBadBody)
		h.Drop(stream)
		do(t, h, bad, shard.CodeBadBody)
		absent("a refused create request")

		// An operator deletes the log of a stream in memory: the next append does not bring it back.
		do(t, h, create("text/plain", "a"), shard.CodeCreated)
		advance(time.Second)
		log.Wipe()
		do(t, h, appendReq("text/plain", "late"), shard.CodeNotFound)
		if recs := log.Records(stream); len(recs) > 0 {
			t.Errorf("%d records", len(recs))
		}
	})
}

// A log that an append has made gets the configuration that a stream needs.
func TestAppendMadeLogIsConfigured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		log.AppendsCreate = true
		h := node(t, log)
		do(t, h, create("text/plain"), shard.CodeCreated)
		synctest.Wait()
		if !log.HasConfig(stream) {
			t.Error("the configuration is the default one")
		}
		log.Wipe()
		advance(time.Second)
		do(t, h, appendReq("text/plain", "x"), shard.CodeNotFound)
		do(t, h, create("text/plain"), shard.CodeCreated)
		synctest.Wait()
		if !log.HasConfig(stream) {
			t.Error("the configuration is the default one, of a stream that was known to be absent")
		}
	})
}

// The acknowledgement of a stream's first record tells storage's time, as every other does.
func TestFirstRecordTellsTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		log.AppendsCreate = true
		log.Now = func() time.Time { return time.Now().Add(-time.Hour) }
		h := node(t, cappedLog{log})
		do(t, h, create("text/plain"), shard.CodeCreated)
		if skew := h.ClockSkew(); skew != time.Hour {
			t.Errorf("this node is %v ahead", skew)
		}
	})
}

// cappedLog is a Log that can say how its records get their times.
type cappedLog struct{ *logtest.Memory }

func (cappedLog) Capped(context.Context, shard.StreamID) (bool, error) { return true, nil }

// forgetfulMaker is a LogMaker that is wrong: appends make no logs.
type forgetfulMaker struct{ *logtest.Memory }

func (forgetfulMaker) CreatesByAppend(shard.StreamID) bool { return true }

// The settings of storage have changed, and appends make no logs any more.
func TestAppendsMakeNoLogsAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := node(t, forgetfulMaker{logtest.NewMemory(1)})
		do(t, h, create("text/plain", "a"), shard.CodeCreated)
		equal(t, history(t, h), []string{"a"})
		h.Drop(stream)
		do(t, h, appendReq("text/plain", "b"), shard.CodeAppended)
	})
	synctest.Test(t, func(t *testing.T) {
		h := node(t, forgetfulMaker{logtest.NewMemory(1)})
		do(t, h, appendReq("text/plain", "x"), shard.CodeNotFound)
		do(t, h, create("text/plain", "a"), shard.CodeCreated)
		equal(t, history(t, h), []string{"a"})
	})
}

// A caller that leaves before its stream's turn to be read creates nothing.
func TestCallerLeavesBeforeItsFirstTouch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logtest.NewMemory(1)
		log.AppendsCreate = true
		h := shard.NewManager(log, shard.NewTailBuffers(0, 0), shard.Config{ColdOpens: 1})
		defer func() { _ = h.Close() }()
		for i := range 2 { // the burst
			_, _ = h.Info(t.Context(), shard.StreamID(fmt.Sprint("default/", i)), 0)
		}
		ctx, cancel := context.WithCancel(t.Context())
		left := doLater(ctx, h, create("text/plain"))
		synctest.Wait()
		cancel()
		if out, err := left(); !errors.Is(err, context.Canceled) {
			t.Errorf("%+v %v", out, err)
		}
		advance(10 * time.Second)
		if _, err := log.Tail(t.Context(), stream); !errors.Is(err, shard.ErrNoLog) {
			t.Errorf("it was created: %v", err)
		}
		do(t, h, create("text/plain"), shard.CodeCreated)
	})
}

// Several nodes that know nothing of a stream create it together, while requests and answers are lost
// and late. One of them does, once.
func TestRivalsCreateAStream(t *testing.T) {
	for seed := range uint64(300) {
		synctest.Test(t, func(t *testing.T) { createAmongRivals(t, seed) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func createAmongRivals(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 9))
	log := logtest.NewMemory(seed)
	log.AppendsCreate = seed%3 != 0
	log.Latency = time.Duration(r.IntN(20)) * time.Millisecond
	log.SetFaultOdds(logtest.FaultOdds{
		LoseRequest: 0.2 * r.Float64(), LoseAck: 0.3 * r.Float64(), LateAck: 0.3 * r.Float64(), LateBy: time.Duration(r.IntN(3000)) * time.Millisecond,
	})
	type answer struct {
		body    string
		created bool
		unknown bool
	}
	answers := make(chan answer, 100)
	var all sync.WaitGroup
	for n := range 3 {
		h := node(t, log)
		for i := range 1 + r.IntN(3) {
			wait := time.Duration(r.IntN(30)) * time.Millisecond
			body := fmt.Sprint(n, "-", i)
			all.Go(func() {
				<-time.After(wait)
				req := create("text/plain", body)
				for {
					out, err := h.Do(t.Context(), req)
					if errors.Is(err, shard.ErrOutcomeUnknown) && !req.Repeat {
						again := *req
						again.Repeat, req = true, &again
						continue
					}
					if err != nil && !errors.Is(err, shard.ErrOutcomeUnknown) && !errors.Is(err, shard.ErrStoreDown) && !errors.Is(err, shard.ErrContended) {
						t.Error(err)
					}
					answers <- answer{body, err == nil && out.Code == shard.CodeCreated, err != nil}
					return
				}
			})
		}
	}
	all.Wait()
	close(answers)
	advance(5 * time.Second) // what is late has arrived
	log.SetFaultOdds(logtest.FaultOdds{})
	got := history(t, node(t, log))
	if len(got) != 1 {
		t.Errorf("it has %q", got)
		return
	}
	for a := range answers {
		if won := a.body == got[0]; a.created != won && !a.unknown {
			t.Errorf("%s was told %t, and it has %q", a.body, a.created, got)
		}
	}
}
