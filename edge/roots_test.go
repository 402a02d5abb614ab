package edge

import (
	"errors"
	"maps"
	"net/url"
	"strings"
	"testing"

	"github.com/fantail-dev/fantail/edge/access"
	"github.com/fantail-dev/fantail/shard"
)

var chats = Root{Path: "/streams/", Project: "chats"}

// A slash and %2F name one stream below a further root, which /v1/stream/ knows by its project.
func TestSpellingsBelowRootAreOneStream(t *testing.T) {
	s := newSite(t, Config{Roots: []Root{chats}})
	made := s.put("/streams/runs%2F1", "one ", text)
	if at := made.Header.Get("Location"); at != s.url+"/streams/runs%2F1" {
		t.Errorf("Location is %s", at)
	}
	for range appendsToTakeOver { // the last ones by an append connection
		s.want(s.do("POST", "/streams/runs/1", "x", text), 204)
	}
	s.want(s.do("POST", "/streams/runs%2f1", "y", text), 204)
	const all = "one xxxxy"
	for _, path := range []string{"/streams/runs%2F1", "/streams/runs/1", "/streams/%72uns/1", "/v1/stream/chats/runs/1"} {
		if got := s.want(s.do("GET", path, "", nil), 200); got != all {
			t.Errorf("%s has %q", path, got)
		}
		events := s.events(s.do("GET", path+"?offset=-1&live=sse", "", nil), 1)
		if len(events) != 1 || events[0].Data != "one " {
			t.Errorf("%s sends %v", path, events)
		}
	}
	s.want(s.do("GET", "/v1/stream/chats/runs%2F1", "", nil), 400)
	s.want(s.do("GET", "/streams2/runs/1", "", nil), 404)
	s.want(s.do("DELETE", "/streams/runs/1", "", nil), 204)
	s.want(s.do("HEAD", "/streams/runs%2F1", "", nil), 404)
}

// A fork names its source by any root.
func TestForkSourceBelowRoot(t *testing.T) {
	s := newSite(t, Config{Roots: []Root{chats}})
	s.put("/streams/a%2Fb", "one", text)
	for i, source := range []string{"/streams/a%2Fb", "/streams/a/b", "/v1/stream/chats/a/b"} {
		path := "/streams/fork" + string(rune('0'+i))
		s.put(path, "", header{hForkedFrom: source, "Content-Type": "text/plain"})
		if got := s.want(s.do("GET", path, "", nil), 200); got != "one" {
			t.Errorf("the fork of %s has %q", source, got)
		}
	}
}

// What %2F makes of a name is judged as if it had been a slash, by its form and by rights.
func TestNamesBelowRootAreJudgedDecoded(t *testing.T) {
	roots := streamRoots{chats}
	for path, want := range map[string]error{
		"/streams/":               errName,
		"/streams/%2F":            errName,
		"/streams/a%2F":           errName,
		"/streams/%2Fa":           errName,
		"/streams/a//b":           errName,
		"/streams/a%2F%2Fb":       errName,
		"/streams/a/..":           errName,
		"/streams/a%2F..%2Fb":     errName,
		"/streams/%2e%2e%2Fb":     errName,
		"/streams/.%2Fb":          errName,
		"/streams/a%00":           errName,
		"/streams/%ff":            errName,
		"/streams/__ds%2Fsession": errReserved,
		"/streams/__ds":           errReserved,
		"/streams":                errNoRoute,
		"/streams%2Fa":            errNoRoute,
		"/Streams/a":              errNoRoute,
		"/streams/" + strings.Repeat("a", shard.MaxStreamID): errName,
	} {
		if id, err := roots.parseStreamPath(path); !errors.Is(err, want) || id != "" {
			t.Errorf("%.60s: %q %v, want %v", path, id, err, want)
		}
	}
	if id, err := roots.parseStreamPath("/streams/a%252Fb"); err != nil || id != "chats/a%2Fb" { // decoded once
		t.Errorf("%q %v", id, err)
	}
}

func TestRightsBelowRootAreOfTheProject(t *testing.T) {
	s := newSite(t, Config{Roots: []Root{{"/streams/", "acme"}}, Judge: newJudge(t, rightsFile(t), access.Config{})})
	token := bearer(tokenOf(t, nil)) // for rooms/**
	writer := maps.Clone(token)
	maps.Copy(writer, text)
	s.put("/streams/rooms%2Fx", "one", writer)
	s.want(s.do("GET", "/streams/rooms/x", "", token), 200)
	for path, status := range map[string]int{
		"/streams/secret%2Fx": 403, "/streams/secret/x": 403, "/streams/rooms%2F..%2Fsecret": 400, "/streams/rooms%252Fx": 403,
	} {
		s.want(s.do("GET", path, "", token), status)
		s.want(s.do("GET", path, "", nil), map[int]int{403: 401, 400: 400}[status])
	}
}

func TestRootsThatAreRefused(t *testing.T) {
	for text, why := range map[string]string{
		"":                        "want PATH:project=NAME",
		"/streams/":               "want PATH:project=NAME",
		"/streams/:project=":      "no name of a project",
		"/streams/:project=a/b":   "has a slash",
		"/streams/:project=__ds":  "no name of a project",
		"/streams/:project=..":    "no name of a project",
		"streams/:project=x":      "begin and end with a slash",
		"/streams:project=x":      "begin and end with a slash",
		"/:project=x":             "begin and end with a slash",
		"//:project=x":            "letters, digits",
		"/a//b/:project=x":        "letters, digits",
		"/a/../:project=x":        "letters, digits",
		"/a%20b/:project=x":       "letters, digits",
		"/v1/:project=x":          "has the streams of all projects",
		"/v1/stream/:project=x":   "has the streams of all projects",
		"/v1/stream/y/:project=x": "has the streams of all projects",
		"/" + strings.Repeat("a", maxRootBytes) + "/:project=x": "more than",
	} {
		if _, err := ParseRoot(text); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%.40q: %v, want %q", text, err, why)
		}
	}
	for _, c := range []struct {
		roots []Root
		why   string
	}{
		{[]Root{chats, {"/streams/x/", "x"}}, "overlap"},
		{[]Root{{"/streams/x/", "x"}, chats}, "overlap"},
		{[]Root{chats, chats}, "overlap"},
		{make([]Root, maxRoots+1), "at most"},
	} {
		if err := CheckRoots(c.roots); err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%v: %v, want %q", c.roots, err, c.why)
		}
	}
	if err := CheckRoots([]Root{chats, {"/streams2/", "x"}, {"/a/b/", "chats"}}); err != nil {
		t.Error(err)
	}
}

// An accepted path below a root names a stream of its project, and the plain spelling names it, too.
func FuzzRootPath(f *testing.F) {
	for _, s := range []string{"a", "a%2Fb", "a/b", "a%2F..%2Fb", "%2F", "a%252fb", "__ds%2Fx", "%C3%A9", "a+b;c", "%", "a%00", "..%2f"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		id, err := streamRoots{chats}.parseStreamPath(chats.Path + name)
		if err != nil {
			return
		}
		project, plain := splitStream(id)
		if project != chats.Project || id.Reserved() {
			t.Fatalf("%q: %q", name, id)
		}
		var again []string
		for segment := range strings.SplitSeq(plain, "/") {
			again = append(again, url.PathEscape(segment))
		}
		for _, path := range []string{
			chats.Path + strings.Join(again, "/"), chats.Path + strings.Join(again, "%2F"),
			streamPathPrefix + chats.Project + "/" + strings.Join(again, "/"),
		} {
			if same, err := (streamRoots{chats}).parseStreamPath(path); err != nil || same != id {
				t.Fatalf("%q: %q, and %q: %q %v", name, id, path, same, err)
			}
		}
	})
}
