package edge

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/shard"
)

// The splitter agrees with encoding/json on what is JSON and where its elements are.
func FuzzSplitJSON(f *testing.F) {
	for _, s := range []string{
		`1`, ` {"a":[1,2]} `, `[]`, `[ ]`, `[[]]`, `[[],{}]`, `[1,"b,]" ,[3]]`, "[\r\n\t1 ,\n2]", `"\"[,"`,
		`["\\",",\\\"]"]`, `[1,]`, `[,]`, `[1]]`, `[1][2]`, "\ufeff[1]", "[\"\xff\"]", `["\ud800"]`, ``, ` `,
		`nul`, `[{"a":"}"},"]"]`, `-0`, `01`, "\"\x00\"", strings.Repeat("[", 100) + strings.Repeat("]", 100),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := splitJSON(bytes.Clone(body))
		var whole json.RawMessage
		if json.Unmarshal(body, &whole) != nil || !utf8.Valid(body) {
			if !errors.Is(err, errJSON) || got.Len() > 0 {
				t.Fatalf("%q: %v %v", body, got, err)
			}
			return
		}
		want := []json.RawMessage{bytes.TrimSpace(whole)}
		if want[0][0] == '[' {
			want = nil
			if err := json.Unmarshal(body, &want); err != nil {
				t.Fatal(err)
			}
		}
		switch {
		case len(want) == 0 || len(want) > shard.MaxMessages:
			if !errors.Is(err, errEmptyArray) && !errors.Is(err, errTooMany) {
				t.Fatalf("%q: %v", body, err)
			}
			return
		case err != nil || got.Len() != len(want):
			t.Fatalf("%q: %v %v, want %q", body, got, err, want)
		}
		for i := range want {
			if !bytes.Equal(got.At(i), want[i]) {
				t.Fatalf("%q: element %d is %q, want %q", body, i, got.At(i), want[i])
			}
		}
	})
}

// A condition that is accepted names places that its header has, and the tag of each place is read as
// that place.
func FuzzIfMatch(f *testing.F) {
	end := position.FormatOffset(1_800_000_000_000, 12)
	for _, s := range []string{
		"", "*", "-1", end, `"` + end + `"`, `W/"` + end + `"`, `W/"a,` + end + `", "` + end + `"`, `"a" "b"`, `,, "` + end,
		`"` + end + `","` + position.FormatOffset(0, 1) + `"`, `"1800000000000:` + end + `:` + end + `:c-gzip"`, "\xff", `"0000000000000000_0000000000000000"`,
	} {
		f.Add(s, end)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		c, err := parseIfMatch(http.Header{hIfMatch: {a, b}})
		if err != nil {
			if !errors.Is(err, errHeader) || c != nil || !strings.Contains(err.Error(), hIfMatch) {
				t.Fatalf("%q %q: %+v %v", a, b, c, err)
			}
			return
		}
		if len(c.Places) > shard.MaxTailPlaces {
			t.Fatalf("%q %q: %d places", a, b, len(c.Places))
		}
		all := a + "," + b
		for _, p := range c.Places {
			h := http.Header{}
			setTail(h, shard.Info{Generation: p.Generation, Tail: p.Pos})
			offset := h.Get(hNextOffset)
			if again, err := parseIfMatch(http.Header{hIfMatch: h[hETag]}); err != nil || len(again.Places) != 1 || again.Places[0] != p {
				t.Fatalf("%v: %+v %v", p, again, err)
			}
			if !strings.Contains(all, offset[:len(offset)-3]) && (p != shard.Place{} || !strings.Contains(all, "-1")) {
				t.Fatalf("%q %q: %s", a, b, offset)
			}
		}
	})
}

// An accepted path names a stream that any way of writing it names too.
func FuzzParseName(f *testing.F) {
	for _, s := range []string{
		"/v1/stream/x", "/v1/stream/p/a/b", "/v1/stream/", "/v1/stream", "/v1/streams/x", "/v1/stream/a//b", "/v1/stream/a/",
		"/v1/stream/a%2fb", "/v1/stream/%2e%2e/a", "/v1/stream/a/./b", "/v1/stream/a%00", "/v1/stream/%ff", "/v1/stream/%C3%A9",
		"/v1/stream/%", "/v1/stream/__ds/x", "/v1/stream/p/__ds", "/v1/stream/%5f_ds/x", "/v1/stream/p/a/__ds", "/v1/stream/a+b c;d=?&",
		"/v1/stream/" + strings.Repeat("a", 504), "/v1/stream/" + strings.Repeat("a", 505), "/v1/stream/a%252fb",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		id, err := parseStreamPath(path)
		if err != nil {
			if id != "" || !errors.Is(err, errNoRoute) && !errors.Is(err, errName) && !errors.Is(err, errReserved) {
				t.Fatalf("%q: %q %v", path, id, err)
			}
			return
		}
		segments := strings.Split(string(id), "/")
		if len(id) > shard.MaxStreamID || !utf8.ValidString(string(id)) || strings.Contains(string(id), "\x00") ||
			len(segments) < 2 || segments[0] == "__ds" || segments[1] == "__ds" {
			t.Fatalf("%q: %q", path, id)
		}
		for i, s := range segments {
			if s == "" || s == "." || s == ".." {
				t.Fatalf("%q: %q", path, id)
			}
			segments[i] = url.PathEscape(s)
		}
		if again, err := parseStreamPath(streamPathPrefix + strings.Join(segments, "/")); err != nil || again != id {
			t.Fatalf("%q: %q, again %q %v", path, id, again, err)
		}
		if segments[0] == defaultProject && len(segments) == 2 {
			if short, err := parseStreamPath(streamPathPrefix + segments[1]); err != nil || short != id {
				t.Fatalf("%q: %q, short %q %v", path, id, short, err)
			}
		}
	})
}

// Whatever the headers hold, what becomes of them is within the limits that the
// shard relies on, or they are refused as malformed.
func FuzzHeaders(f *testing.F) {
	f.Add("p", "0", "1", "60", "", "true")
	f.Add("", "", "", "", "2030-01-01T00:00:00Z", "")
	f.Add("p", "9007199254740991", "9007199254740992", "01", "2030-01-01T00:00:00.123456789+01:00", "TRUE")
	f.Add("p\r\nX: y", "-1", "1.0", "0", "1969-01-01T00:00:00Z", "tru")
	f.Add(strings.Repeat("p", 257), "+1", "", "9007199254740991", "2030-01-01T00:00:00,5Z", "ſ")
	f.Fuzz(func(t *testing.T, id, epoch, seq, ttl, expires, closed string) {
		h := http.Header{}
		for k, v := range map[string]string{
			hProducerID: id, hProducerEpoch: epoch, hProducerSeq: seq, hTTL: ttl, hExpires: expires, hClosed: closed,
		} {
			if v != "" {
				h.Set(k, v)
			}
		}
		p, err := parseProducer(h)
		switch {
		case err != nil:
			if p != nil && !errors.Is(err, errHeader) || !errors.Is(err, errHeader) {
				t.Fatalf("%v: %v", h, err)
			}
		case p == nil:
			if id != "" || epoch != "" || seq != "" {
				t.Fatalf("%v: no producer", h)
			}
		case p.ID != id || len(id) > shard.MaxProducerID || p.Epoch > maxInteger || p.Seq > maxInteger || !plain(epoch) || !plain(seq):
			t.Fatalf("%v: %+v", h, p)
		}
		var req shard.Request
		if err := parseLifetime(h, &req); err != nil {
			if !errors.Is(err, errHeader) {
				t.Fatalf("%v: %v", h, err)
			}
		} else {
			if req.HasTTL != (ttl != "") || req.HasTTL && strconv.FormatUint(req.TTL, 10) != ttl || req.TTL > maxInteger {
				t.Fatalf("%v: %+v", h, req)
			}
			if (req.Expires != 0) != (expires != "") || req.ExpiresRaw != expires || strings.ContainsAny(expires, "\r\n") {
				t.Fatalf("%v: %+v", h, req)
			}
		}
		if want := strings.ToLower(closed) == "true"; asksToClose(h) != want {
			t.Fatalf("%q closes: %v", closed, !want)
		}
	})
}

// plain reports whether s is decimal digits.
func plain(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
