package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/fantail-dev/fantail/edge/access"
	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/shard"
)

// The bounds of one page of a listing.
const (
	maxListed        = shard.MaxListed
	defaultListed    = 100
	maxDetailed      = 100 // with detail=1: each costs reads of S2
	summariesAtATime = 20  // of one request
	// listTimeout bounds a listing. Detail waits for its turns at S2, which all listings of a node share.
	listTimeout = 30 * time.Second
)

// listQuery is the parsed query of a listing.
type listQuery struct {
	prefix, after string
	limit         int
	detail        bool
}

// The parameters of a listing. Others are ignored.
const (
	paramPrefix = "prefix"
	paramAfter  = "after"
	paramLimit  = "limit"
	paramDetail = "detail"
)

func parseListQuery(r *http.Request) (q listQuery, err error) {
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return q, fmt.Errorf("%w: %w; separate parameters with &, and write a %% as %%25", errQuery, err)
	}
	for _, name := range []string{paramPrefix, paramAfter, paramLimit, paramDetail} {
		if n := len(v[name]); n > 1 {
			return q, fmt.Errorf("%w: %s comes %d times; send it once", errQuery, name, n)
		}
	}
	q = listQuery{prefix: v.Get(paramPrefix), after: v.Get(paramAfter), limit: defaultListed}
	switch v.Get(paramDetail) {
	case "", "0":
	case "1":
		q.detail = true
	default:
		return q, fmt.Errorf("%w: detail is %.40q; want 1, or leave it out", errQuery, v.Get(paramDetail))
	}
	for name, value := range map[string]string{paramPrefix: q.prefix, paramAfter: q.after} {
		if len(value) > shard.MaxStreamID || !utf8.ValidString(value) {
			return q, fmt.Errorf("%w: %s is no part of a name; want %d bytes of UTF-8 at most", errQuery, name, shard.MaxStreamID)
		}
	}
	most := maxListed
	if q.detail {
		most = maxDetailed
	}
	if v.Has(paramLimit) {
		q.limit, err = strconv.Atoi(v.Get(paramLimit))
		if err != nil || q.limit < 1 || q.limit > most {
			return q, fmt.Errorf("%w: limit is %.40q; want 1 to %d", errQuery, v.Get(paramLimit), most)
		}
	}
	return q, nil
}

// listAnswer is the answer to a listing.
type listAnswer struct {
	Streams []listedStream `json:"streams"`
	// Next is the "after" of the next page; absent on the last one.
	Next string `json:"next,omitempty"`
	// NamesOnly says that the names have been used, and some may be of streams that were deleted.
	NamesOnly bool `json:"namesOnly,omitempty"`
	// S2Calls says what the page cost.
	S2Calls struct {
		List int `json:"list-streams"`
		Read int `json:"read"`
	} `json:"s2Calls"`
}

// listedStream is one stream of a listing. All but the name and Created are absent without detail,
// and for streams that the caller may not read.
type listedStream struct {
	Name        string `json:"name"`
	Created     string `json:"created,omitempty"` // with detail of this life, else of the log
	ContentType string `json:"contentType,omitempty"`
	NextOffset  string `json:"nextOffset,omitempty"`
	Closed      *bool  `json:"closed,omitempty"`
	TTL         uint64 `json:"ttlSeconds,omitempty"`
	ExpiresAt   string `json:"expiresAt,omitempty"`

	absent bool
}

// serveListing answers GET …/__ds/streams: the names of a project's streams, from S2's own listing. It
// asks no other node.
func (s *Server) serveListing(w http.ResponseWriter, r *http.Request, project string) {
	abandonBody(w, r)
	h := w.Header()
	h.Set("Cache-Control", cacheNoStore)
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD, OPTIONS")
		writeError(w, errMethod)
		return
	}
	q, err := parseListQuery(r)
	mayRead, denial := s.authorizeListing(r, project, q.prefix)
	switch {
	case denial != nil:
		writeDenial(w, r, denial)
		return
	case err == nil && s.cfg.Lister == nil:
		err = errReserved
	case err == nil && s.cfg.CheckStream != nil && s.cfg.CheckStream(shard.StreamID(project+"/x")) != nil:
		err = errProject
	}
	var answer listAnswer
	if err == nil {
		ctx, cancel := context.WithTimeout(r.Context(), listTimeout)
		defer cancel()
		answer, err = s.list(ctx, project, q, mayRead)
	}
	if err != nil {
		writeError(w, err)
		return
	}
	h.Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// authorizeListing decides whether a request may list a project's names with a prefix. mayRead
// reports of which streams it may see more than the name.
func (s *Server) authorizeListing(r *http.Request, project, prefix string) (mayRead func(name string) bool, denial *access.Denial) {
	all := func(string) bool { return true }
	if s.cfg.Judge == nil {
		return all, nil
	}
	l, denial := s.cfg.Judge.DecideList(r, project, prefix)
	if denial == nil {
		denial = s.cfg.Judge.Admit(r, l.Lease, access.Use{})
	}
	switch {
	case denial == nil:
		return l.MayRead, nil
	case !s.cfg.ObserveOnly:
		return nil, denial
	}
	s.logObserved(r, denial)
	return all, nil
}

// list returns one page.
func (s *Server) list(ctx context.Context, project string, q listQuery, mayRead func(string) bool) (a listAnswer, err error) {
	page, calls, err := s.cfg.Lister.List(ctx, project, q.prefix, q.after, q.limit)
	if err != nil {
		return a, err
	}
	a.S2Calls.List = calls
	a.NamesOnly = !q.detail
	a.Streams = make([]listedStream, len(page.Names))
	for i, n := range page.Names {
		a.Streams[i] = listedStream{Name: n.Name, Created: formatMillis(n.Created)}
	}
	if n := len(page.Names); page.More && n > 0 {
		a.Next = page.Names[n-1].Name
	}
	if q.detail {
		err = s.addDetails(ctx, project, &a, mayRead)
	}
	return a, err
}

// addDetails reads what describes the listed streams, and leaves those out that do not exist.
func (s *Server) addDetails(ctx context.Context, project string, a *listAnswer, mayRead func(string) bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex // guards a.S2Calls
	var reading sync.WaitGroup
	next := make(chan *listedStream)
	for range min(summariesAtATime, len(a.Streams)) {
		reading.Go(func() {
			for l := range next {
				sum, err := s.cfg.Lister.Summarize(ctx, shard.StreamID(project+"/"+l.Name))
				mu.Lock()
				a.S2Calls.Read += sum.Calls
				mu.Unlock()
				switch {
				case errors.Is(err, shard.ErrNotFound):
					l.absent = true
				case errors.Is(err, shard.ErrNeedsLaterRelease): // it exists, and is all that is known
				case err != nil:
					cancel(err)
				default:
					l.describe(sum)
				}
			}
		})
	}
	for i := range a.Streams {
		if mayRead(a.Streams[i].Name) && ctx.Err() == nil {
			next <- &a.Streams[i]
		}
	}
	close(next)
	reading.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	there := a.Streams[:0]
	for _, l := range a.Streams {
		if !l.absent {
			there = append(there, l)
		}
	}
	a.Streams = there
	return nil
}

func (l *listedStream) describe(sum shard.Summary) {
	i := sum.Info
	if sum.Created > 0 {
		l.Created = formatMillis(sum.Created)
	}
	l.ContentType, l.NextOffset, l.Closed = i.Type, position.FormatOffset(i.Generation, i.Tail), new(i.Closed)
	if i.HasTTL {
		l.TTL = i.TTL
	}
	l.ExpiresAt = i.ExpiresRaw
}

func formatMillis(at shard.Millis) string {
	return time.UnixMilli(int64(at)).UTC().Format("2006-01-02T15:04:05.000Z07:00") //nolint:gosec // S2's clock
}
