package edge

import (
	"fmt"
	"net/http"
	"net/textproto"
	"strings"

	"github.com/fantail-dev/fantail/shard"
)

// headerRule is what a request may say in a header that is kept, travels to other nodes, or
// comes back in an answer. All else that a request says is read where it arrives and forgotten.
type headerRule struct {
	name  string
	on    verbs  // the methods that use it
	most  int    // bytes of its value
	chars class  // the bytes that its value may be made of
	list  bool   // it may come several times, or as a list
	soft  bool   // what breaks the rule counts as absent: it is somebody else's
	where string // where it is kept or goes
	say   string // what to do about a value that breaks the rule
}

// verbs are methods of requests.
type verbs uint8

const (
	onPut verbs = 1 << iota
	onPost
	onGet
	onOptions
)

// headerTable is every such header. What has a bound here has it everywhere behind: a stream's
// State holds what it was created with, and a name that a producer has.
//
//nolint:lll // a table
var headerTable = []headerRule{
	{name: "Content-Type", on: onPut | onPost, most: shard.MaxContentType, chars: inText, where: "State, log, relay; answers", say: "a media type is ASCII; quote or percent-encode a parameter that is not"},
	{name: hProducerID, on: onPost, most: shard.MaxProducerID, chars: inText, where: "State, log, relay", say: "use an id of ASCII, such as a UUID"},
	{name: hProducerEpoch, on: onPost, most: maxDigits, chars: inDigits, where: "State, log, relay; answers", say: "send digits"},
	{name: hProducerSeq, on: onPost, most: maxDigits, chars: inDigits, where: "State, log, relay; answers", say: "send digits"},
	{name: hSeq, on: onPost, most: shard.MaxStreamSeq, chars: inText, where: "State, log, relay", say: "use a sequence of ASCII that sorts by its bytes"},
	{name: hTTL, on: onPut, most: maxDigits, chars: inDigits, where: "State, log, relay; answers", say: "send seconds in digits"},
	{name: hExpires, on: onPut, most: 64, chars: inText, where: "State, log, relay; answers", say: "send an RFC 3339 time, such as 2030-01-31T12:00:00Z"},
	{name: hClosed, on: onPut | onPost, most: 16, chars: inText, soft: true, where: "read as true or not", say: "send true, or leave it out"},
	{name: hForkedFrom, on: onPut, most: len(root) + 3*shard.MaxStreamID, chars: inTarget, where: "State and log, as the stream that it names", say: "percent-encode the path of the source"},
	{name: hForkOffset, on: onPut, most: 64, chars: inText, where: "State and log, as the place that it names", say: "send -1, now, or a Stream-Next-Offset"},
	{name: hForkSub, on: onPut, most: maxDigits, chars: inDigits, where: "State and log", say: "send digits"},
	{name: "If-None-Match", on: onGet, most: 4096, chars: inTag, list: true, where: "answers, where it names what they are", say: "send the ETag of an answer"},
	{name: "Last-Event-Id", on: onGet, most: offsetLen, chars: inTarget, soft: true, where: "read as an offset", say: "send the id of one event"},
	{name: "X-Forwarded-Proto", on: onPut, most: 64, chars: inText, list: true, soft: true, where: "Location"},
	{name: "X-Forwarded-Host", on: onPut, most: 512, chars: inText, list: true, soft: true, where: "Location"},
	{name: "X-Forwarded-Port", on: onPut, most: 64, chars: inText, list: true, soft: true, where: "Location"},
	{name: "X-Forwarded-Prefix", on: onPut, most: 1024, chars: inText, list: true, soft: true, where: "Location"},
	{name: "Access-Control-Request-Headers", on: onOptions, most: 4096, chars: inText, list: true, soft: true, where: "answers to preflights, as the names that it has"},
}

// hostMost is the longest Host, which is no field of a request's Header: it goes to Location, and
// net/http has looked at its bytes.
const hostMost = 512

// maxDigits is how many digits a number may have, leading zeros included.
const maxDigits = 20

// headerRules is the table by canonical name.
var headerRules = func() map[string]*headerRule {
	m := make(map[string]*headerRule, len(headerTable))
	for i := range headerTable {
		r := &headerTable[i]
		m[textproto.CanonicalMIMEHeaderKey(r.name)] = r
	}
	return m
}()

// checkHeaders reports the first header of a request that breaks its rule, or nil.
func checkHeaders(r *http.Request) error {
	method := verbOf(r.Method)
	for name, values := range r.Header {
		rule := headerRules[name]
		if rule == nil || rule.on&method == 0 {
			continue
		}
		if err := rule.check(values); err != nil {
			return err
		}
	}
	if len(r.Host) > hostMost {
		return badHeader("Host", fmt.Sprintf("has %d bytes, want %d at most", len(r.Host), hostMost))
	}
	return nil
}

func verbOf(method string) verbs {
	switch method {
	case http.MethodPut:
		return onPut
	case http.MethodPost:
		return onPost
	case http.MethodGet, http.MethodHead:
		return onGet
	case http.MethodOptions:
		return onOptions
	}
	return 0
}

// check reports how values break the rule, or nil. Two values of a header that has one are two
// requests in one, whatever the rule else lets pass.
func (h *headerRule) check(values []string) error {
	if len(values) > 1 && !h.list {
		return badHeader(h.name, fmt.Sprintf("comes %d times; send it once", len(values)))
	}
	if h.soft {
		return nil
	}
	for _, v := range values {
		if i := h.breaks(v); i < len(v) {
			return badHeader(h.name, fmt.Sprintf("byte %d is 0x%02X, want %s, %d bytes at most: %s", i+1, v[i], h.chars, h.most, h.say))
		}
		if len(v) > h.most {
			return badHeader(h.name, fmt.Sprintf("has %d bytes, want %d at most: %s", len(v), h.most, h.say))
		}
	}
	return nil
}

// breaks is where the first byte stands that the rule does not allow, or the value's length.
func (h *headerRule) breaks(v string) int {
	for i := range len(v) {
		if classes[v[i]]&h.chars == 0 {
			return i
		}
	}
	return len(v)
}

// soft is the first value of a header whose rule is soft, empty if it breaks that.
func soft(h http.Header, name string) string {
	rule := headerRules[textproto.CanonicalMIMEHeaderKey(name)]
	v, _, _ := strings.Cut(h.Get(name), ",")
	if v = strings.TrimSpace(v); len(v) > rule.most || rule.breaks(v) < len(v) {
		return ""
	}
	return v
}

// stored is a value that a log may hold since before it was checked, or from somebody else, as
// a header may carry it.
func stored(v string) string {
	ok := true
	for i := range len(v) {
		ok = ok && v[i] >= ' ' && v[i] != 0x7f
	}
	if ok {
		return v
	}
	b := []byte(v)
	for i, c := range b {
		if c < ' ' || c == 0x7f {
			b[i] = ' '
		}
	}
	return strings.TrimSpace(string(b))
}
