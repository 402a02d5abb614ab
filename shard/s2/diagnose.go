package s2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/s2/s2s"
)

// Verdict is the result of a Check. Closed set.
type Verdict string

// The verdicts.
const (
	Good    Verdict = "ok"
	Warning Verdict = "warning" // it works, and could be better
	Bad     Verdict = "bad"     // it does not work
	Skipped Verdict = "skipped" // it could not be asked
)

// Check is one thing that Diagnose has found about S2.
type Check struct {
	Name    string
	Verdict Verdict
	Text    string
}

// scratchStream is the stream that Diagnose writes to, in each basin. Its name is reserved, so no
// client sees it.
const scratchStream = "__ds/doctor"

// ErrNotFixed is returned where the settings name no basin that Diagnose could ask at.
var ErrNotFixed = errors.New("the settings name no fixed basin")

// diagnosis collects the Checks of one basin.
type diagnosis struct {
	store  *Log
	basin  string
	client *s2.BasinClient
	checks []Check
}

// Diagnose asks S2, with the settings of a node, what a node needs of it: each right in each basin that
// the settings name, and how it treats append sessions. It writes to a scratch stream of its own, which
// it deletes if it may. It costs some thirty calls for a basin.
func Diagnose(ctx context.Context, cfg Config) ([]Check, error) {
	log, err := Open(cfg)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	basins, _ := log.cfg.siteBasins()
	if len(basins) == 0 {
		return nil, ErrNotFixed
	}
	var all []Check
	for _, basin := range basins {
		d := &diagnosis{store: log, basin: basin, client: log.client.Basin(basin)}
		d.run(ctx)
		all = append(all, d.checks...)
	}
	return all, nil
}

func (d *diagnosis) add(name string, v Verdict, format string, args ...any) {
	d.checks = append(d.checks, Check{"S2 " + d.basin + ": " + name, v, fmt.Sprintf(format, args...)})
}

// checkCall makes a call, and adds what came of it. It reports whether the call succeeded.
func (d *diagnosis) checkCall(ctx context.Context, name, good string, call func(context.Context) error) bool {
	ctx, cancel := context.WithTimeout(ctx, d.store.cfg.timeout)
	defer cancel()
	began := time.Now()
	err := call(ctx)
	if err != nil {
		d.add(name, Bad, "%s", d.store.cfg.explainError(shard.Site{Basin: d.basin}, err))
		return false
	}
	d.add(name, Good, "%s, %v", good, time.Since(began).Round(100*time.Microsecond))
	return true
}

func (d *diagnosis) run(ctx context.Context) {
	stream := d.client.Stream(scratchStream)
	var refused *s2.S2Error
	listed := errors.New("not asked")
	if !d.checkCall(ctx, "list streams", "allowed", func(ctx context.Context) error {
		_, listed = d.client.Streams.List(ctx, &s2.ListStreamsArgs{Limit: new(1)})
		return listed
	}) && !errors.As(listed, &refused) {
		return // S2 does not answer, so nothing else would be answered either
	}
	if !d.checkCall(ctx, "create a stream", "allowed", func(ctx context.Context) error { return d.store.service.ensureStream(ctx, d.basin, scratchStream) }) {
		return
	}
	var tail uint64
	if !d.checkCall(ctx, "check the tail", "allowed", func(ctx context.Context) error {
		t, err := stream.CheckTail(ctx)
		if err == nil {
			tail = t.Tail.SeqNum
		}
		return err
	}) {
		return
	}
	if d.checkCall(ctx, "append", "allowed", func(ctx context.Context) error {
		ack, err := d.store.service.append(ctx, d.basin, scratchStream, shard.Pos(tail), []shard.Entry{{Body: []byte("doctor")}})
		tail = uint64(ack.End)
		return err
	}) {
		d.checkCall(ctx, "read", "allowed", func(ctx context.Context) error {
			_, err := d.store.service.read(ctx, d.basin, scratchStream, readStart{fromEnd: true}, 1)
			return err
		})
		d.sessions(ctx, tail)
	}
	d.checkCall(ctx, "trim", "allowed", func(ctx context.Context) error {
		_, err := stream.Append(ctx, &s2.AppendInput{Records: []s2.AppendRecord{s2.NewTrimCommandRecord(tail, nil)}})
		return err
	})
	d.checkCall(ctx, "read a stream's configuration", "allowed, which is needed where streams end by time", func(ctx context.Context) error {
		_, err := d.store.service.isCapped(ctx, d.basin, scratchStream)
		return err
	})
	d.autoCreate(ctx)
	if err := d.client.Streams.Delete(ctx, scratchStream); err != nil {
		d.add("delete the scratch stream", Skipped, "the stream %s stays, which harms nothing: %s", scratchStream, d.store.cfg.explainError(shard.Site{Basin: d.basin}, err))
	}
}

// sessions asks how S2 treats append sessions: what window it grants, and whether a refusal ends them.
func (d *diagnosis) sessions(ctx context.Context, tail uint64) {
	if d.store.bridge != nil {
		d.add("append sessions", Skipped, "S2 is reached through a proxy")
		return
	}
	client := s2s.NewClient(s2s.Config{Token: d.store.cfg.Token, UserAgent: "fantail-doctor"})
	defer func() { _ = client.Close() }()
	target := s2s.Target{Base: "https://" + d.basin + managedBasinSuffix + "/v1", Stream: scratchStream}
	if d.store.cfg.Endpoint != "" {
		target = s2s.Target{Base: d.store.cfg.Endpoint + "/v1", Basin: d.basin, Stream: scratchStream}
	}
	d.poison(ctx, client, target, tail)
	if stream, conn, err := s2s.Windows(ctx, target.Base); err != nil {
		d.add("windows", Skipped, "%v", err)
	} else {
		v := Good
		if min(stream, conn) < 16<<20 {
			v = Warning
		}
		d.add("windows", v, "S2 takes %d KiB of a session and %d KiB of a connection before it acknowledges any: 16 MiB in one append take some %d round trips", stream>>10, conn>>10, 2+(16<<20)/max(1, min(stream, conn)))
	}
}

// poison sends three batches on one session without waiting: a good batch, a batch that must be
// refused, and a batch that would be good again. S2 must not take the last: a batch stands on those
// below it.
func (d *diagnosis) poison(ctx context.Context, client *s2s.Client, target s2s.Target, tail uint64) {
	const name = "a refusal ends an append session"
	ctx, cancel := context.WithTimeout(ctx, 2*d.store.cfg.timeout)
	defer cancel()
	woken := make(chan struct{}, 1)
	session, err := client.OpenAppend(ctx, target, s2s.AppendOptions{}, func() {
		select {
		case woken <- struct{}{}:
		default:
		}
	})
	if err != nil {
		d.add(name, Bad, "no session: %v", err)
		return
	}
	defer session.Close()
	record := []s2s.AppendRecord{{Body: []byte("doctor")}}
	for _, at := range []uint64{tail, tail + 1_000_000, tail + 1} {
		if err := session.Submit(at, record); err != nil {
			d.add(name, Bad, "a batch is not sent: %v", err)
			return
		}
	}
	var acks []s2s.Ack
	for {
		var end *s2s.AppendEnd
		if acks, end = session.TakeAcks(acks); end != nil {
			d.judgePoison(ctx, name, tail, len(acks), end)
			return
		}
		select {
		case <-woken:
		case <-ctx.Done():
			d.add(name, Bad, "S2 does not end the session within %v", 2*d.store.cfg.timeout)
			return
		}
	}
}

func (d *diagnosis) judgePoison(ctx context.Context, name string, tail uint64, acked int, end *s2s.AppendEnd) {
	now, err := d.store.service.tail(ctx, d.basin, scratchStream)
	switch {
	case err != nil:
		d.add(name, Skipped, "%v", err)
	case uint64(now) == tail+1 && acked == 1 && end.Refused:
		d.add(name, Good, "yes: the batch behind the refused one is not written, so appends may be pipelined")
	case uint64(now) > tail+1:
		d.add(name, Bad, "no: the batch behind the refused one is written; appends must not be pipelined")
	default:
		d.add(name, Warning, "not clear: %d acknowledged, tail %d above the first batch; %v", acked, uint64(now)-tail, end)
	}
}

// autoCreate asks whether an append creates its stream, which saves a new stream a round trip.
func (d *diagnosis) autoCreate(ctx context.Context) {
	const name = "appends create streams"
	ctx, cancel := context.WithTimeout(ctx, d.store.cfg.timeout)
	defer cancel()
	c, err := d.store.client.Basins.GetConfig(ctx, s2.BasinName(d.basin))
	switch {
	case err != nil:
		d.add(name, Skipped, "the token may not read the basin's configuration: %s", d.store.cfg.explainError(shard.Site{Basin: d.basin}, err))
	case creationProblem(c) == "":
		d.add(name, Good, "yes, with a configuration that keeps records: a new stream takes one round trip")
	default:
		d.add(name, Warning, "%s: a new stream takes one round trip more. To allow it: PATCH /v1/basins/%s %s", creationProblem(c), d.basin, howToAllow)
	}
}

// ServerClock returns how far the clock of S2's endpoint is ahead of this machine's, as the Date of an
// answer says; it is right to a second.
func ServerClock(ctx context.Context, cfg Config) (ahead time.Duration, err error) {
	at := cfg.Endpoint
	if at == "" {
		at = managedEndpoint
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at+"/health", nil)
	if err != nil {
		return 0, err
	}
	sent := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<10))
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return 0, errors.New("the answer has no Date")
	}
	middle := sent.Add(time.Since(sent) / 2)
	return date.Add(time.Second / 2).Sub(middle), nil
}
