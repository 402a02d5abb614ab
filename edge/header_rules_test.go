package edge

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/fantail-dev/fantail/edge/byteclass"
	"github.com/fantail-dev/fantail/shard"
)

// Every header that is kept, travels or is echoed has a bound and a charset, and is refused at
// their edges by name; what is not the client's own counts as absent there.
func TestHeaderTable(t *testing.T) {
	for i := range headerTable {
		t.Run(headerTable[i].name, func(t *testing.T) {
			rule := &headerTable[i]
			method := map[bool]string{true: "POST", false: "PUT"}[rule.methods&onPost != 0]
			if rule.methods&onGet != 0 {
				method = "GET"
			}
			check := func(values ...string) error {
				r := &http.Request{Method: method, Header: http.Header{}}
				for _, v := range values {
					r.Header.Add(rule.name, v)
				}
				return checkHeaders(r)
			}
			if rule.maxBytes <= 0 || rule.allowed == 0 || rule.goesTo == "" || rule.advice == "" && !rule.lenient || !rule.lenient && check("1") != nil {
				t.Errorf("%s: incomplete", rule.name)
			}
			named := func(what string, err error, want bool) {
				if want = want && !rule.lenient; (err != nil) != want || want && !strings.Contains(err.Error(), rule.name) {
					t.Errorf("%s: %s: %v", rule.name, what, err)
				}
			}
			named("at its bound", check(strings.Repeat("1", rule.maxBytes)), false)
			named("beyond its bound", check(strings.Repeat("1", rule.maxBytes+1)), true)
			for c := range 256 {
				v := "1" + string([]byte{byte(c)}) + "1"
				named(fmt.Sprintf("byte %#x", c), check(v), !rule.allowed.Has(byte(c)))
				if got := lenientValue(http.Header{http.CanonicalHeaderKey(rule.name): {v}}, rule.name); got != "" && got != v && c != ',' {
					t.Errorf("%s: byte %#x: %q", rule.name, c, got)
				}
			}
			if err := check("1", "1"); (err == nil) != rule.repeatable {
				t.Errorf("%s: twice: %v", rule.name, err)
			}
		})
	}
	for name, chars := range map[string]byteclass.Class{"Content-Type": byteclass.Text, hProducerID: byteclass.Text, hSeq: byteclass.Text} {
		for c := range 256 {
			if printable := c >= 0x20 && c < 0x7f; printable != chars.Has(byte(c)) || headerRules[http.CanonicalHeaderKey(name)].allowed != chars {
				t.Errorf("%s: byte %#x", name, c)
			}
		}
	}
}

// The answer says which header, what of it, and what to do; of an absent stream that it is absent.
func TestBadHeaders(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", "", text)
	for _, c := range []struct {
		method, path, name, value string
		more                      header
	}{
		{"PUT", "new", "Content-Type", "text/plain; x=\xe9", nil},
		{"PUT", "new", "Content-Type", "text/plain;\tx=y", nil},
		{"PUT", "new", "Content-Type", "text/" + strings.Repeat("x", shard.MaxContentType), nil},
		{"POST", "x", "Content-Type", "text/plain; x=\xff", nil},
		{"POST", "x", hProducerID, "caf\xe9", header{hProducerEpoch: "0", hProducerSeq: "0"}},
		{"POST", "x", hProducerID, "", header{hProducerEpoch: "0", hProducerSeq: "0"}},
		{"POST", "x", hProducerSeq, strings.Repeat("0", 21), header{hProducerID: "p", hProducerEpoch: "0"}},
		{"POST", "x", hSeq, "\xf0", nil},
		{"PUT", "new", hExpires, "2030-01-01T00:00:00." + strings.Repeat("0", 64) + "Z", nil},
		{"PUT", "new", hTTL, "1 ", nil},
		{"PUT", "new", hForkedFrom, "/v1/stream/caf\xc3\xa9", nil},
		{"PUT", "new", hForkedFrom, "/v1/stream/" + strings.Repeat("x", 4000), nil},
		{"GET", "x", "If-None-Match", strings.Repeat("x", 4097), nil},
	} {
		t.Run(fmt.Sprintf("%s %s %.20q", c.method, c.name, c.value), func(t *testing.T) {
			h := header{c.name: c.value}
			if c.name != "Content-Type" {
				h["Content-Type"] = "text/plain"
			}
			for k, v := range c.more {
				h[k] = v
			}
			w := ask(t, s.srv, c.method, "/v1/stream/"+c.path, strings.NewReader("x"), h)
			refused(t, w, 400, "bad-header")
			if p := recordedProblem(t, w); !strings.Contains(p.Detail, c.name) {
				t.Errorf("%s: %+v", c.name, p)
			}
		})
	}
	if n := len(s.log.Records("default/new")); n != 0 {
		t.Errorf("%d records", n)
	}
	refused(t, ask(t, s.srv, "POST", "/v1/stream/none", strings.NewReader("x"), header{"Content-Type": "text/plain; x=\xff"}), 404, "stream-not-found")
	r := http.Header{"Content-Type": {"text/plain", "text/html"}}
	if err := checkHeaders(&http.Request{Method: "PUT", Header: r}); err == nil || !strings.Contains(err.Error(), "2 times") {
		t.Error(err)
	}
	if err := checkHeaders(&http.Request{Method: "PUT", Host: strings.Repeat("x", maxHostBytes+1)}); err == nil {
		t.Error("a long Host")
	}
}

// What a log holds since before is served, as far as a header can carry it.
func TestStoredHeaderValuesAreMadeSafe(t *testing.T) {
	for in, want := range map[string]string{
		"text/plain": "text/plain", "text/plain; x=\xe9": "text/plain; x=\xe9", "text/html\r\nX: y": "text/html  X: y", "a\tb": "a b", "\x00\x7f": "", "": "",
	} {
		t.Run(strconv.Quote(in), func(t *testing.T) {
			if got := safeHeaderValue(in); got != want {
				t.Errorf("%q: %q", in, got)
			}
		})
	}
}

// Location repeats what the client asked for, whatever stands between.
func TestLocation(t *testing.T) {
	s := newSite(t, Config{})
	n := 0
	for _, c := range []struct {
		h    header
		want string
	}{
		{nil, "http://example.com/"},
		{header{"X-Forwarded-Proto": "https"}, "https://example.com/"},
		{header{"X-Forwarded-Proto": "HTTPS, http"}, "https://example.com/"},
		{header{"X-Forwarded-Proto": "javascript"}, "http://example.com/"},
		{header{"X-Forwarded-Host": "api.example:8443, inner"}, "http://api.example:8443/"},
		{header{"X-Forwarded-Host": "api.example", "X-Forwarded-Port": "8080"}, "http://api.example:8080/"},
		{header{"X-Forwarded-Host": "api.example", "X-Forwarded-Port": "443", "X-Forwarded-Proto": "https"}, "https://api.example/"},
		{header{"X-Forwarded-Host": "a/b"}, "http://example.com/"},
		{header{"X-Forwarded-Host": "user@evil"}, "http://example.com/"},
		{header{"X-Forwarded-Host": strings.Repeat("x", 513)}, "http://example.com/"},
		{header{"X-Forwarded-Host": "a\xe9"}, "http://example.com/"},
		{header{"X-Forwarded-Prefix": "/streams/"}, "http://example.com/streams/"},
		{header{"X-Forwarded-Prefix": "//evil"}, "http://example.com/"},
		{header{"X-Forwarded-Prefix": "evil"}, "http://example.com/"},
		{header{"X-Forwarded-Prefix": "/?x="}, "http://example.com/"},
	} {
		t.Run(fmt.Sprintf("%.60v", c.h), func(t *testing.T) {
			n++
			path := fmt.Sprintf("v1/stream/p/a%%20%d", n)
			if w := ask(t, s.srv, "PUT", "/"+path, nil, c.h); w.Code != 201 || w.Header().Get("Location") != c.want+path {
				t.Errorf("%v: %d %s", c.h, w.Code, w.Header().Get("Location"))
			}
		})
	}
}
