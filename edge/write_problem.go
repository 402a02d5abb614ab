package edge

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/edge/sse"
	"github.com/fantail-dev/fantail/shard"
)

// problem is the RFC 9457 document that a client gets instead of what it asked for.
type problem struct {
	Type   string `json:"type"` // problemBase and a slug; never changes
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	// Reason says why a credential is not good, in one word (auth.md).
	Reason string `json:"reason,omitempty"`
	// Request names the request in the log, where the operator finds the cause.
	Request string `json:"requestId,omitempty"`
}

// writeError answers with the problem of err.
func writeError(w http.ResponseWriter, err error) {
	k := problemOf(err)
	noteRefusal(w, k, err)
	writeProblem(w, k, requestDetail(err))
}

// writeEventsError does what writeError does, for a read with live=sse. An EventSource gives up
// for good at any status but 200; so if another node may serve the stream a little later, the
// answer is an empty event stream that says how long to wait. A client without the Accept header
// of an EventSource can read a status and Retry-After.
func writeEventsError(w http.ResponseWriter, r *http.Request, err error) {
	k := problemOf(err)
	if !isTemporary(err) || !acceptsEvents(r) {
		writeError(w, err)
		return
	}
	noteRefusal(w, k, err)
	if !errors.Is(err, errConnFull) { // see admitOnConn
		w.Header().Set("Connection", "close") // the next attempt may meet another node
	}
	writeRetryEvents(w, k)
}

// acceptsEvents reports whether a request has the Accept header of an EventSource.
func acceptsEvents(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), "text/event-stream")
}

// writeRetryEvents answers with an empty event stream that says how long to wait.
func writeRetryEvents(w http.ResponseWriter, k problemKind) {
	w.Header().Set(hRequestID, newRequestID())
	setSSEHeaders(w.Header(), sse.FramingText)
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(retryEvent(time.Duration(k.retry.min)*time.Second, time.Duration(k.retry.max)*time.Second))
}

// writeProblem writes a problem; specific is what is wrong with this very request.
func writeProblem(w http.ResponseWriter, k problemKind, specific string) {
	writeProblemDocument(w, k, problem{Detail: k.composeDetail(specific)})
}

// writeProblemDocument writes a problem that has its details already.
func writeProblemDocument(w http.ResponseWriter, k problemKind, p problem) {
	h := w.Header()
	p.Type, p.Title, p.Status = problemBase+k.slug, k.title, k.status
	if k.status >= http.StatusInternalServerError && k.status != http.StatusNotImplemented {
		p.Request = newRequestID()
		h.Set(hRequestID, p.Request)
	}
	if k.status != http.StatusPreconditionFailed { // whose ETag is that of the stream's end
		h.Del("ETag")
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	if k.retry.max > 0 {
		h.Set("Retry-After", strconv.Itoa(k.retry.min+rand.N(k.retry.max-k.retry.min+1)))
	}
	w.WriteHeader(k.status)
	_ = json.NewEncoder(w).Encode(p)
}

// writeRefusal answers a write that was not accepted, with what the client needs to continue
// (PROTOCOL 5.2).
func writeRefusal(w http.ResponseWriter, req *shard.Request, out shard.Outcome) {
	k, ok := codeProblems[out.Code]
	if !ok {
		k = unexpectedProblem
	}
	h := w.Header()
	noteRefusal(w, k, nil)
	switch out.Code {
	case shard.CodeClosed:
		h.Set(hClosed, "true")
		h.Set(hNextOffset, position.FormatOffset(out.Info.Generation, out.Info.Tail))
	case shard.CodeTailMoved:
		setTail(h, out.Info)
	case shard.CodeEpochStale:
		if out.Producer != nil {
			h.Set(hProducerEpoch, strconv.FormatUint(out.Producer.Epoch, 10))
		}
	case shard.CodeSeqGap:
		h.Set(hExpectedSeq, strconv.FormatUint(out.Expected, 10))
		h.Set(hReceivedSeq, strconv.FormatUint(out.Received, 10))
	}
	writeProblem(w, k, refusalDetail(req, out))
}

// retryEvent returns what tells a client to reconnect after a random delay between soon and late.
func retryEvent(soon, late time.Duration) []byte {
	return sse.RenderRetry(soon + rand.N(late-soon+1))
}
