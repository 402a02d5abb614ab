package edge

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// problem is what a client is told when it does not get what it asked for: an
// RFC 9457 document.
type problem struct {
	Type   string `json:"type"` // stable; problemBase and a slug
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	// Request names it in the log, where what failed is the operator's to know.
	Request string `json:"requestId,omitempty"`
}

const problemBase = "https://fantail.dev/problems/"

// retry says how long a client should wait: a random number of seconds in
// [low, high], so that many do not come back together. Zero: no Retry-After.
type retry struct{ low, high int }

type mapping struct {
	status int
	slug   string
	title  string
	retry  retry
}

// codes is the one table from verdicts that refuse to answers.
var codes = map[shard.Code]mapping{
	shard.CodeNotFound:      {404, "stream-not-found", "No such stream", retry{}},
	shard.CodeGone:          {410, "stream-gone", "The stream was deleted", retry{}},
	shard.CodeConfigDiffers: {409, "config-differs", "The stream exists with another configuration", retry{}},
	shard.CodeClosed:        {409, "stream-closed", "The stream is closed", retry{}},
	shard.CodeTypeMissing:   {400, "content-type-missing", "A body needs a Content-Type", retry{}},
	shard.CodeTypeDiffers:   {409, "content-type-differs", "Not the stream's content type", retry{}},
	shard.CodeEpochStale:    {403, "producer-fenced", "The producer has a newer epoch", retry{}},
	shard.CodeEpochStart:    {400, "producer-epoch-start", "A new epoch begins with seq 0", retry{}},
	shard.CodeSeqGap:        {409, "producer-gap", "The producer's seq is ahead", retry{}},
	shard.CodeSeqOrder:      {409, "stream-seq-order", "Stream-Seq is not above the last sequence", retry{}},
	shard.CodeBadBody:       {400, "bad-body", "The body cannot be accepted", retry{}},
	shard.CodeEmptyAppend:   {400, "empty-body", "Nothing to append", retry{}},
	shard.CodeForeignJSON:   {409, "foreign-records", "The records that are there are not all JSON", retry{}},
	shard.CodeNameTaken:     {409, "name-held", "A deleted stream keeps this name for its forks", retry{}},
	shard.CodeSourceMissing: {404, "source-not-found", "No such source to fork", retry{}},
	shard.CodeSourceGone:    {409, "source-gone", "The source was deleted", retry{}},
	shard.CodeSourceType:    {409, "source-content-type", "Not the source's content type", retry{}},
	shard.CodeForkOffset:    {400, "fork-offset", "The source has no such offset", retry{}},
	shard.CodeForkLimit:     {409, "fork-limit", "Too many forks, or too long a chain of them", retry{}},
	shard.CodeSourceChanged: {409, "source-changed", "The source was made anew just now; try again", retry{}},
}

// failures is the one table from errors to answers; the first that matches
// counts. Doubt comes before its causes, which alone would say that nothing was written.
var failures = []struct {
	err error
	mapping
}{
	{shard.ErrOutcomeUnknown, mapping{503, "append-outcome-unknown", "Nobody can say whether this was written", retry{1, 3}}},
	{errNoRoute, mapping{404, "no-such-path", "No such path", retry{}}},
	{errName, mapping{400, "bad-name", "Malformed stream name", retry{}}},
	{errReserved, mapping{501, "not-supported", "Subscriptions are not supported", retry{}}},
	{errProject, mapping{404, "no-such-project", "No such project", retry{}}},
	{errWorker, mapping{403, "service-worker", "A stream is no script of a service worker", retry{}}},
	{errMethod, mapping{405, "method", "Method not allowed", retry{}}},
	{errHeader, mapping{400, "bad-header", "Malformed header", retry{}}},
	{errForkProject, mapping{403, "fork-across-projects", "A fork stays within its project", retry{}}},
	{errQuery, mapping{400, "bad-query", "Malformed query", retry{}}},
	{errOffset, mapping{400, "bad-offset", "Malformed offset", retry{}}},
	{errOffsetBeyond, mapping{400, "offset-beyond", "The offset lies beyond the stream", retry{}}},
	{errOffsetGone, mapping{410, "offset-gone", "The offset is no longer kept", retry{}}},
	{errTooLarge, mapping{413, "too-large", "The body is too large", retry{}}},
	{errTooMany, mapping{413, "too-many-messages", "Too many messages in one append", retry{}}},
	{errBodyLate, mapping{408, "body-late", "The body came too slowly", retry{}}},
	{errBodyCut, mapping{429, "body-cut", "There was no room, and the body came slowest", retry{1, 3}}},
	{errShare, mapping{429, "connection-share", "Too much in flight on one connection", retry{1, 3}}},
	{errEncoding, mapping{415, "content-encoding", "The body has a coding that is not decoded", retry{}}},
	{errBody, mapping{400, "bad-body", "The body could not be read", retry{}}},
	{errFull, mapping{503, "full", "Too many readers on this node", retry{1, 5}}},
	{errFullOwn, mapping{503, "full-waiting", "Too many readers over HTTP/2 or by long-poll on this node", retry{1, 5}}},
	{errConnFull, mapping{503, "full-connection", "Too many readers on this connection; open another", retry{1, 5}}},
	{errFiles, mapping{503, "full-files", "Too many connections on this node", retry{1, 5}}},
	{errCrowd, mapping{503, "crowded", "Too many catch up on this node", retry{1, 5}}},
	{errDraining, mapping{503, "draining", "This node is stopping", retry{1, 3}}},
	{shard.ErrNotFound, mapping{404, "stream-not-found", "No such stream", retry{}}},
	{shard.ErrGone, mapping{410, "stream-gone", "The stream was deleted", retry{}}},
	{shard.ErrTrimmed, mapping{410, "offset-gone", "The offset is no longer kept", retry{}}},
	{shard.ErrOverloaded, mapping{429, "overloaded", "Too much in flight", retry{1, 3}}},
	{shard.ErrContended, mapping{503, "stream-contended", "Others write to the stream too fast; not written", retry{1, 3}}},
	{shard.ErrNeedsLaterRelease, mapping{503, "stream-declined", "The stream needs a later release", retry{30, 90}}},
	{shard.ErrNoBasin, mapping{404, "no-such-project", "No such project", retry{}}},
	{shard.ErrLogDenied, mapping{503, "store-refuses", "Storage refuses", retry{5, 15}}},
	{shard.ErrLogUnreachable, mapping{503, "store-down", "Storage cannot be reached", retry{1, 3}}},
	{shard.ErrStoreDown, mapping{503, "store-down", "Storage cannot be reached", retry{1, 5}}},
	{shard.ErrLogBusy, mapping{503, "store-down", "Storage is busy", retry{1, 3}}},
	{shard.ErrNoLog, mapping{503, "store-down", "Storage lost the stream", retry{1, 3}}},
	{shard.ErrAppendUnknown, mapping{503, "append-outcome-unknown", "Nobody can say whether this was written", retry{1, 3}}},
	{shard.ErrUnavailable, mapping{503, "owner-unreachable", "The stream's owner cannot be reached", retry{1, 3}}},
	{shard.ErrNotOwner, mapping{503, "owner-unreachable", "The stream is moving", retry{1, 2}}},
	{shard.ErrStopped, mapping{503, "draining", "This node is stopping", retry{1, 3}}},
	{context.Canceled, mapping{503, "given-up", "The request was given up", retry{1, 3}}},
	{context.DeadlineExceeded, mapping{503, "timeout", "It took too long", retry{1, 3}}},
}

var unexpected = mapping{500, "internal", "Something is wrong here", retry{}}

func mappingOf(err error) mapping {
	for _, f := range failures {
		if errors.Is(err, f.err) {
			return f.mapping
		}
	}
	return unexpected
}

// passes reports whether what failed may work a little later.
func passes(err error) bool { return mappingOf(err).retry.high > 0 }

// fail answers with the problem that err stands for.
func fail(w http.ResponseWriter, err error) {
	m := mappingOf(err)
	noteRefusal(w, m, err)
	answer(w, m, specific(err))
}

// failEvents is fail for a read with live=sse. An EventSource takes any status but 200
// for the end, for good; so one that could be served a little later, by another node,
// gets an empty event stream that says how long to wait. What asks without the Accept
// header of an EventSource can read a status and Retry-After.
func failEvents(w http.ResponseWriter, r *http.Request, err error) {
	m := mappingOf(err)
	if !passes(err) || !strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		fail(w, err)
		return
	}
	noteRefusal(w, m, err)
	if !errors.Is(err, errConnFull) { // see occupy
		w.Header().Set("Connection", "close") // the next attempt may meet another node
	}
	w.Header().Set(hRequestID, newRequestID())
	sseHead(w.Header(), framingText)
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(comeBack(time.Duration(m.retry.low)*time.Second, time.Duration(m.retry.high)*time.Second))
}

// answer writes a problem; specific is what is the matter with this very request.
func answer(w http.ResponseWriter, m mapping, specific string) {
	h := w.Header()
	p := problem{Type: problemBase + m.slug, Title: m.title, Status: m.status, Detail: m.detailOf(specific)}
	if m.status >= http.StatusInternalServerError && m.status != http.StatusNotImplemented {
		p.Request = newRequestID()
		h.Set(hRequestID, p.Request)
	}
	h.Del("ETag")
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	if m.retry.high > 0 {
		h.Set("Retry-After", strconv.Itoa(m.retry.low+rand.N(m.retry.high-m.retry.low+1)))
	}
	w.WriteHeader(m.status)
	_ = json.NewEncoder(w).Encode(p)
}

// refuse answers a write that was not accepted, with what the client needs to go
// on (PROTOCOL 5.2).
func refuse(w http.ResponseWriter, req *shard.Request, out shard.Outcome) {
	m, ok := codes[out.Code]
	if !ok {
		m = unexpected
	}
	h := w.Header()
	noteRefusal(w, m, nil)
	switch out.Code {
	case shard.CodeClosed:
		h.Set(hClosed, "true")
		h.Set(hNextOffset, formatOffset(out.Info.Generation, out.Info.Tail))
	case shard.CodeEpochStale:
		if out.Producer != nil {
			h.Set(hProducerEpoch, strconv.FormatUint(out.Producer.Epoch, 10))
		}
	case shard.CodeSeqGap:
		h.Set(hExpectedSeq, strconv.FormatUint(out.Expected, 10))
		h.Set(hReceivedSeq, strconv.FormatUint(out.Received, 10))
	}
	answer(w, m, whyRefused(req, out))
}

var (
	errMethod   = errors.New("method not allowed")
	errProject  = errors.New("the first segment of the path is a project, and no streams are kept for this one")
	errWorker   = errors.New("requests for a service worker's script are refused")
	errHeader   = errors.New("malformed header")
	errQuery    = errors.New("malformed query")
	errTooLarge = errors.New("body is too large")
	errBody     = errors.New("body could not be read")
	errBodyLate = errors.New("all of the body has to come within 10 s and a second more for each 64 KiB, without a long pause")
	errBodyCut  = errors.New("the node is short of room, and of all bodies on their way this one came slowest; send it again, faster")
	errShare    = errors.New("the writes that came by this connection hold what one connection may; use others, or wait for answers")
	errEncoding = errors.New("Content-Encoding")
	errFull     = errors.New("too many readers")
	errFullOwn  = errors.New("too many readers that have a goroutine")
	errConnFull = errors.New("too many readers on this connection")
	errFiles    = errors.New("too few file descriptors are left")
	errCrowd    = errors.New("no room for another chunk")
	errDraining = errors.New("node is stopping")
)
