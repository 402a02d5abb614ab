package edge

import (
	"context"
	"errors"
	"fmt"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/shard"
)

const problemBase = "https://fantail.dev/problems/"

// retryRange bounds the random number of seconds that a client should wait, in
// [min, max], so that many clients do not return together. Zero: no Retry-After.
type retryRange struct{ min, max int }

type problemKind struct {
	status int
	slug   string
	title  string
	retry  retryRange
}

// codeProblems is the only table from refusing verdicts to answers.
var codeProblems = map[shard.Code]problemKind{
	shard.CodeNotFound:      {404, "stream-not-found", "No such stream", retryRange{}},
	shard.CodeGone:          {410, "stream-gone", "The stream was deleted", retryRange{}},
	shard.CodeConfigDiffers: {409, "config-differs", "The stream exists with another configuration", retryRange{}},
	shard.CodeClosed:        {409, "stream-closed", "The stream is closed", retryRange{}},
	shard.CodeTypeMissing:   {400, "content-type-missing", "A body needs a Content-Type", retryRange{}},
	shard.CodeTypeDiffers:   {409, "content-type-differs", "Not the stream's content type", retryRange{}},
	shard.CodeEpochStale:    {403, "producer-fenced", "The producer has a newer epoch", retryRange{}},
	shard.CodeEpochStart:    {400, "producer-epoch-start", "A new epoch begins with seq 0", retryRange{}},
	shard.CodeSeqGap:        {409, "producer-gap", "The producer's seq is ahead", retryRange{}},
	shard.CodeSeqOrder:      {409, "stream-seq-order", "Stream-Seq is not above the last sequence", retryRange{}},
	shard.CodeTailMoved:     {412, "tail-moved", "The stream does not end there", retryRange{}},
	shard.CodeBadBody:       {400, "bad-body", "The body cannot be accepted", retryRange{}},
	shard.CodeEmptyAppend:   {400, "empty-body", "Nothing to append", retryRange{}},
	shard.CodeForeignJSON:   {409, "foreign-records", "The existing records are not all JSON", retryRange{}},
	shard.CodeNameTaken:     {409, "name-held", "A deleted stream keeps this name for its forks", retryRange{}},
	shard.CodeSourceMissing: {404, "source-not-found", "No such source to fork", retryRange{}},
	shard.CodeSourceGone:    {409, "source-gone", "The source was deleted", retryRange{}},
	shard.CodeSourceType:    {409, "source-content-type", "Not the source's content type", retryRange{}},
	shard.CodeForkOffset:    {400, "fork-offset", "The source has no such offset", retryRange{}},
	shard.CodeForkLimit:     {409, "fork-limit", "Too many forks, or too long a chain of them", retryRange{}},
	shard.CodeSourceChanged: {409, "source-changed", "The source was just created again; try again", retryRange{}},
}

// errorProblems is the only table from errors to answers; the first match counts. An unknown
// outcome comes before its causes, which alone would say that nothing was written.
var errorProblems = []struct {
	err error
	problemKind
}{
	{shard.ErrOutcomeUnknown, problemKind{503, "append-outcome-unknown", "It is unknown whether this was written", retryRange{1, 3}}},
	{errNoRoute, problemKind{404, "no-such-path", "No such path", retryRange{}}},
	{errName, problemKind{400, "bad-name", "Malformed stream name", retryRange{}}},
	{errReserved, problemKind{501, "not-supported", "Subscriptions are not supported", retryRange{}}},
	{errProject, problemKind{404, "no-such-project", "No such project", retryRange{}}},
	{errServiceWorker, problemKind{403, "service-worker", "A stream cannot be a service worker's script", retryRange{}}},
	{errMethod, problemKind{405, "method", "Method not allowed", retryRange{}}},
	{errNotATail, problemKind{400, "not-a-tail", "If-Match names no end of a stream", retryRange{}}},
	{errHeader, problemKind{400, "bad-header", "Malformed header", retryRange{}}},
	{errForkProject, problemKind{403, "fork-across-projects", "A fork stays within its project", retryRange{}}},
	{errQuery, problemKind{400, "bad-query", "Malformed query", retryRange{}}},
	{position.ErrMalformed, problemKind{400, "bad-offset", "Malformed offset", retryRange{}}},
	{position.ErrBeyond, problemKind{400, "offset-beyond", "The offset lies beyond the stream", retryRange{}}},
	{errTailTooFar, problemKind{400, "tail-too-far", "So many messages cannot be counted from the end", retryRange{}}},
	{position.ErrGone, problemKind{410, "offset-gone", "The offset is no longer kept", retryRange{}}},
	{errTooLarge, problemKind{413, "too-large", "The body is too large", retryRange{}}},
	{errTooMany, problemKind{413, "too-many-messages", "Too many messages in one append", retryRange{}}},
	{errBodyLate, problemKind{408, "body-late", "The body came too slowly", retryRange{}}},
	{errBodyEvicted, problemKind{429, "body-cut", "The node was short of memory, and this body was the slowest", retryRange{1, 3}}},
	{errConnShare, problemKind{429, "connection-share", "Too much in flight on one connection", retryRange{1, 3}}},
	{errEncoding, problemKind{415, "content-encoding", "The body has a coding that is not decoded", retryRange{}}},
	{errBody, problemKind{400, "bad-body", "The body could not be read", retryRange{}}},
	{errFull, problemKind{503, "full", "Too many readers on this node", retryRange{1, 5}}},
	{errGoroutinesFull, problemKind{503, "full-waiting", "Too many readers over HTTP/2 or by long-poll on this node", retryRange{1, 5}}},
	{errConnFull, problemKind{503, "full-connection", "Too many readers on this connection; open another", retryRange{1, 5}}},
	{errConnectionsFull, problemKind{503, "full-files", "Too many connections on this node", retryRange{1, 5}}},
	{errCatchUpFull, problemKind{503, "crowded", "Too many clients catch up on this node", retryRange{1, 5}}},
	{errCreateWaitsFull, problemKind{503, "create-waits-full", "Too many readers on this node wait for streams that do not exist", retryRange{5, 15}}},
	{errProjectCreateWaits, problemKind{429, "create-waits-limit", "Too many readers wait for streams of the project that do not exist", retryRange{5, 15}}},
	{errDraining, problemKind{503, "draining", "This node is stopping", retryRange{1, 3}}},
	{shard.ErrNotFound, problemKind{404, "stream-not-found", "No such stream", retryRange{}}},
	{shard.ErrGone, problemKind{410, "stream-gone", "The stream was deleted", retryRange{}}},
	{shard.ErrTrimmed, problemKind{410, "offset-gone", "The offset is no longer kept", retryRange{}}},
	{shard.ErrOverloaded, problemKind{429, "overloaded", "Too much in flight", retryRange{1, 3}}},
	{shard.ErrContended, problemKind{503, "stream-contended", "Others write to the stream too fast; not written", retryRange{1, 3}}},
	{shard.ErrConditionUnsupported, problemKind{503, "if-match-later", "The stream's owner cannot check If-Match yet", retryRange{5, 15}}},
	{shard.ErrNeedsLaterRelease, problemKind{503, "stream-declined", "The stream needs a later release", retryRange{30, 90}}},
	{shard.ErrNoBasin, problemKind{404, "no-such-project", "No such project", retryRange{}}},
	{shard.ErrLogDenied, problemKind{503, "store-refuses", "Storage refuses", retryRange{5, 15}}},
	{shard.ErrLogUnreachable, problemKind{503, "store-down", "Storage cannot be reached", retryRange{1, 3}}},
	{shard.ErrStoreDown, problemKind{503, "store-down", "Storage cannot be reached", retryRange{1, 5}}},
	{shard.ErrLogBusy, problemKind{503, "store-down", "Storage is busy", retryRange{1, 3}}},
	{shard.ErrNoLog, problemKind{503, "store-down", "Storage lost the stream", retryRange{1, 3}}},
	{shard.ErrAppendUnknown, problemKind{503, "append-outcome-unknown", "It is unknown whether this was written", retryRange{1, 3}}},
	{shard.ErrUnavailable, problemKind{503, "owner-unreachable", "The stream's owner cannot be reached", retryRange{1, 3}}},
	{shard.ErrNotOwner, problemKind{503, "owner-unreachable", "The stream is moving", retryRange{1, 2}}},
	{shard.ErrStopped, problemKind{503, "draining", "This node is stopping", retryRange{1, 3}}},
	{context.Canceled, problemKind{503, "given-up", "The request was given up", retryRange{1, 3}}},
	{context.DeadlineExceeded, problemKind{503, "timeout", "It took too long", retryRange{1, 3}}},
}

var unexpectedProblem = problemKind{500, "internal", "Internal error", retryRange{}}

func problemOf(err error) problemKind {
	for _, f := range errorProblems {
		if errors.Is(err, f.err) {
			return f.problemKind
		}
	}
	return unexpectedProblem
}

// isTemporary reports whether the same request may work a little later.
func isTemporary(err error) bool { return problemOf(err).retry.max > 0 }

var (
	errMethod          = errors.New("method not allowed")
	errProject         = errors.New("the first segment of the path is a project, and no streams are kept for this one")
	errServiceWorker   = errors.New("requests for a service worker's script are refused")
	errHeader          = errors.New("malformed header")
	errQuery           = errors.New("malformed query")
	errTooLarge        = errors.New("body is too large")
	errBody            = errors.New("body could not be read")
	errBodyLate        = errors.New("the whole body must arrive within 10 s and a second more for each 64 KiB, without a long pause")
	errBodyEvicted     = errors.New("the node is short of memory, and of all arriving bodies this one was the slowest; send it again, faster")
	errConnShare       = errors.New("the writes on this connection hold as much as one connection may; use others, or wait for answers")
	errEncoding        = errors.New("Content-Encoding")
	errFull            = errors.New("too many readers")
	errGoroutinesFull  = errors.New("too many readers that have a goroutine")
	errConnFull        = errors.New("too many readers on this connection")
	errConnectionsFull = errors.New("too few file descriptors are left")
	errCatchUpFull     = errors.New("no memory for another chunk")
	errDraining        = errors.New("node is stopping")
	errCreateWaitsFull = errors.New("too many readers wait for streams that do not exist")
	errTailTooFar      = errors.New("the messages of tail-N lie further apart than a few reads reach")
)

// errNotATail refuses an If-Match that holds something else than places in a stream.
var errNotATail = fmt.Errorf("%w: not the end of a stream", errHeader)

// errProjectCreateWaits refuses a waiter although the node has room for others.
var errProjectCreateWaits = errors.New("too many readers wait for streams of the project that do not exist")

// errForkProject refuses a fork across projects: a fork reads its source and keeps it from being
// deleted, and there are no rights by which that could be granted.
var errForkProject = errors.New("a fork and its source have to be in the same project")
