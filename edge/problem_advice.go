package edge

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/shard"
)

// problemAdvice tells a client what it can do about a problem, by the problem's slug. docs/problems.md
// says the same at length; a test compares the two.
var problemAdvice = map[string]string{
	"append-outcome-unknown": "the append may be written or not; read the stream to see, or send it again with the same Producer-* headers, which cannot write it twice",
	"bad-body":               "send the whole body, of valid JSON where the stream's type is application/json",
	"bad-header":             "correct the header, or leave it out",
	"bad-name":               "percent-encode each segment of the name; none may be empty, . or .., or hold a slash",
	"bad-offset":             "want -1, now, tail-N, at:TIME, or a Stream-Next-Offset of this stream",
	"bad-query":              "correct the query, or leave the parameter out",
	"body-cut":               "send it again after Retry-After seconds, and faster",
	"body-late":              "send the body without pauses: 10 s, and a second more for each 64 KiB",
	"connection-share":       "use more connections, or wait for answers before sending more",
	"content-encoding":       "send the body as it is, or in a coding that Accept-Encoding of this answer names",
	"config-differs":         "use the stream as it is, or another name; PUT is idempotent only with the same Content-Type, lifetime and source",
	"content-type-differs":   "send the stream's Content-Type",
	"content-type-missing":   "add a Content-Type header: that of the stream",
	"create-waits-full":      "ask again after Retry-After seconds, on a new connection, which may reach another node, or create the stream first",
	"create-waits-limit":     "ask again after Retry-After seconds, or create the streams before they are read",
	"credentials-busy":       "ask again after Retry-After seconds, with the same credential",
	"crowded":                "ask again after Retry-After seconds",
	"draining":               "ask again after Retry-After seconds, on a new connection, which may reach another node",
	"empty-body":             "send a body, or Stream-Closed: true to close the stream",
	"foreign-records":        "give the stream another type, or another name",
	"forbidden":              "the reason says what is missing; docs/auth.md says what a request needs",
	"fork-across-projects":   "name a source in the fork's own project",
	"fork-limit":             "fork the source's own source, or delete forks that are not needed",
	"fork-offset":            "name an offset that an answer of the source had, and a sub-offset within what follows it",
	"full":                   "ask again after Retry-After seconds, on a new connection, which may reach another node",
	"full-connection":        "open another connection for more readers: HTTP/2 lets one have 80 here",
	"full-files":             "ask again after Retry-After seconds, on a new connection, which may reach another node",
	"full-waiting":           "ask again after Retry-After seconds, on a new connection, or read by SSE over HTTP/1.1",
	"given-up":               "the append may be written or not; read the stream to see, or send it again with the same Producer-* headers",
	"if-match-later":         "nothing was written; ask again after Retry-After seconds, or once every node of the server is updated",
	"internal":               "the fault is the server's; its operator finds the request id in the log",
	"limited":                "send it again after Retry-After seconds; the reason names the limit",
	"method":                 "Allow says which methods there are",
	"name-held":              "delete the forks first, or use another name",
	"no-such-path":           "streams are at /v1/stream/{name} and /v1/stream/{project}/{name}",
	"no-such-project":        "the first segment of the path is the project: use one that this server is configured for",
	"not-a-tail":             "send the Stream-Next-Offset of an answer, or the ETag of a HEAD or a POST; the ETag of a GET names a chunk, and * any stream",
	"not-supported":          "this server has no subscriptions (__ds); read the stream by SSE or long-poll",
	"offset-beyond":          "continue from the stream's Stream-Next-Offset, which HEAD returns",
	"offset-gone":            "begin again at offset=-1, which is the first message that is kept, or at now",
	"overloaded":             "nothing was written; send it again after Retry-After seconds",
	"owner-unreachable":      "nothing was written; ask again after Retry-After seconds",
	"producer-epoch-start":   "begin a new epoch with Producer-Seq: 0",
	"producer-fenced":        "another producer has taken over the id; continue only with an epoch above the one in Producer-Epoch",
	"producer-gap":           "send what Producer-Expected-Seq names first",
	"service-worker":         "serve scripts from elsewhere",
	"source-changed":         "send the request again",
	"source-content-type":    "leave Content-Type out, or send the source's",
	"source-gone":            "fork another stream",
	"source-not-found":       "create the source first, or correct Stream-Forked-From",
	"store-down":             "nothing was written; ask again after Retry-After seconds",
	"store-refuses":          "nothing was written; the server's operator finds the reason in its log",
	"stream-closed":          "a closed stream accepts no more; write to another one",
	"stream-contended":       "nothing was written; send it again after Retry-After seconds",
	"stream-declined":        "the stream was written by a later release; ask again once this server is updated",
	"stream-gone":            "forks of it still exist; create a stream with another name",
	"stream-not-found":       "create it with PUT and a Content-Type; PUT is idempotent",
	"stream-seq-order":       "send a Stream-Seq that sorts above the last one",
	"tail-moved":             "read from the offset that you sent, decide again, and send the ETag of this answer; after a lost answer look there for your own message",
	"tail-too-far":           "ask for fewer messages from the end, or read on from an offset that an answer had",
	"timeout":                "ask again after Retry-After seconds",
	"too-large":              "send at most 16 MiB in one request",
	"too-many-messages":      "send at most 32768 messages in one array",
	"unauthorized":           "the reason says what is wrong with the credential; log in again, or ask for another token",
}

// ownErrors are the errors with a text of this package's own, which reveals nothing of the layers behind.
var ownErrors = []error{
	errHeader, errEncoding, errQuery, position.ErrMalformed, position.ErrBeyond, position.ErrGone, errTooMany, errTooLarge, errMethod, errReserved, errForkProject, errTailTooFar,
}

// requestDetail returns what an error says of this very request, if the client may see it.
func requestDetail(err error) string {
	var d *detailedError
	if errors.As(err, &d) {
		return d.detail
	}
	for _, own := range ownErrors {
		if errors.Is(err, own) {
			return err.Error()
		}
	}
	return ""
}

// detailedError adds a detail for the client to an error.
type detailedError struct {
	error
	detail string
}

// Unwrap returns the error without the detail, for errors.Is.
func (d *detailedError) Unwrap() error { return d.error }

// withStreamName adds to an error of absence which stream is absent.
func withStreamName(id shard.StreamID, err error) error {
	if shard.IsAbsent(err) {
		return &detailedError{err, fmt.Sprintf("%s does not exist", id)}
	}
	return err
}

// composeDetail returns a problem's detail: what is wrong with this request, unless the title says
// just that, and what to do. Of a failure of the layers behind, it says only what to do.
func (k problemKind) composeDetail(specific string) string {
	do := problemAdvice[k.slug]
	switch {
	case specific == "" || k.status >= http.StatusInternalServerError || strings.EqualFold(specific, k.title):
		return do
	case strings.Contains(specific, "send "), strings.Contains(specific, "want "): // it says what to do already
		return specific
	default:
		return specific + "; " + do
	}
}

// refusalDetail returns what was wrong with a request, where the verdict alone leaves it open.
func refusalDetail(req *shard.Request, out shard.Outcome) string {
	switch out.Code {
	case shard.CodeNotFound, shard.CodeGone:
		return fmt.Sprintf("%s does not exist", req.Stream)
	case shard.CodeTypeDiffers:
		return fmt.Sprintf("%s, you sent %s: send Content-Type: %s (curl -H 'Content-Type: %[3]s')", out.Why, orNone(req.Type), out.Info.Type)
	case shard.CodeTailMoved:
		return fmt.Sprintf("%s, but at %s", out.Why, position.FormatOffset(out.Info.Generation, out.Info.Tail))
	case shard.CodeConfigDiffers:
		if d := configDifferences(req, out.Info); len(d) > 0 {
			return fmt.Sprintf("%s exists: %s", req.Stream, strings.Join(d, "; "))
		}
	}
	return out.Why
}

// configDifferences returns where a PUT differs from the existing stream.
func configDifferences(req *shard.Request, has shard.Info) (out []string) {
	differ := func(what, has, asked string) {
		if has != asked {
			out = append(out, fmt.Sprintf("it has %s %s, you asked for %s", what, orNone(has), orNone(asked)))
		}
	}
	typ := req.Type
	switch {
	case typ == "" && req.Source != nil:
		typ = req.Source.Type
	case typ == "":
		typ = shard.OctetStream
	}
	if shard.MediaType(typ) != shard.MediaType(has.Type) {
		differ("the type", has.Type, typ)
	}
	ttl := func(has bool, seconds uint64) string {
		if !has {
			return ""
		}
		return fmt.Sprint(seconds)
	}
	if req.Fork == nil {
		differ(hTTL, ttl(has.HasTTL, has.TTL), ttl(req.HasTTL, req.TTL))
		if has.Expires != req.Expires {
			differ(hExpires, has.ExpiresRaw, req.ExpiresRaw)
		}
	}
	if req.Close != has.Closed {
		differ(hClosed, fmt.Sprint(has.Closed), fmt.Sprint(req.Close))
	}
	return out
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
