package edge

import (
	"bytes"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/fantail-dev/fantail/shard"
)

var update = flag.Bool("update", false, "write the problems into docs/problems.md")

// problemTypes is every problem by its slug: all of its mappings.
func problemTypes() map[string][]problemKind {
	types := map[string][]problemKind{unexpectedProblem.slug: {unexpectedProblem}}
	for _, f := range errorProblems {
		types[f.slug] = append(types[f.slug], f.problemKind)
	}
	for _, c := range slices.Sorted(maps.Keys(codeProblems)) {
		types[codeProblems[c].slug] = append(types[codeProblems[c].slug], codeProblems[c])
	}
	for slug, k := range denialProblems {
		types[slug] = append(types[slug], k)
	}
	return types
}

// Each problem has advice, and the page that lists them says what the code does.
func TestProblemsPage(t *testing.T) {
	types := problemTypes()
	slugs := slices.Sorted(maps.Keys(types))
	if known := slices.Sorted(maps.Keys(problemAdvice)); !slices.Equal(known, slugs) {
		t.Errorf("advice for %v, problems are %v", known, slugs)
	}
	const path, begin = "docs/problems.md", "<!-- problems: written by go test ./edge -run Problems -update -->\n"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, _, ok := strings.Cut(string(b), begin)
	if !ok {
		t.Fatal("no place for the problems in the page")
	}
	var want strings.Builder
	want.WriteString(head + begin)
	for _, slug := range slugs {
		writeProblemSection(&want, slug, types[slug])
	}
	if *update {
		if err := os.WriteFile(path, []byte(want.String()), 0o644); err != nil { //nolint:gosec // a public page
			t.Fatal(err)
		}
	} else if string(b) != want.String() {
		t.Error("docs/problems.md is not what the code says: go test ./edge -run Problems -update")
	}
}

// writeProblemSection writes what a client finds under the type of a problem.
func writeProblemSection(out *strings.Builder, slug string, kinds []problemKind) {
	var titles []string
	later := ""
	for _, k := range kinds {
		if !slices.Contains(titles, k.title) {
			titles = append(titles, k.title)
		}
		if k.retry.max > 0 {
			later = ", with `Retry-After`"
		}
	}
	advice := problemAdvice[slug]
	fmt.Fprintf(out, "\n## %s\n\n**%d**%s. %s. %s.\n", slug, kinds[0].status, later, strings.Join(titles, ", or: "), strings.ToUpper(advice[:1])+advice[1:])
}

// What a newcomer does wrong first is told so that it is right the second time.
func TestProblemsSayWhatToDo(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", "", text)
	for _, c := range []struct {
		method, path string
		h            header
		status       int
		says         []string
	}{
		{"GET", "/v1/stream/nope", nil, 404, []string{"default/nope does not exist", "PUT", "Content-Type"}},
		{"HEAD", "/v1/stream/nope", nil, 404, nil},
		{"GET", "/v1/stream/nope?live=sse&offset=-1", header{"Accept": "text/event-stream"}, 404, []string{"default/nope does not exist"}},
		{"POST", "/v1/stream/nope", text, 404, []string{"default/nope does not exist", "PUT"}},
		{"DELETE", "/v1/stream/nope", nil, 404, []string{"default/nope does not exist"}},
		{
			"POST", "/v1/stream/x",
			header{"Content-Type": "application/x-www-form-urlencoded"},
			409,
			[]string{"text/plain", "you sent application/x-www-form-urlencoded", "-H 'Content-Type: text/plain'"},
		},
		{"PUT", "/v1/stream/x", jsonType, 409, []string{"it has the type text/plain, you asked for application/json"}},
		{"PUT", "/v1/stream/x", header{"Content-Type": "text/plain", hTTL: "60"}, 409, []string{"Stream-TTL none, you asked for 60"}},
		{"PUT", "/v1/stream/x", header{"Content-Type": "text/plain", hClosed: "true"}, 409, []string{"Stream-Closed false, you asked for true"}},
		{"GET", "/v1/stream/x?offset=yesterday", nil, 400, []string{`"yesterday"`, "-1, now, tail-N, at:", "or a Stream-Next-Offset"}},
		{"GET", "/v1/stream/x?offset=at:yesterday", nil, 400, []string{`"at:yesterday"`, "such as at:2026-01-31T12:00:00Z or at:1769860800000,"}},
		{"GET", "/", nil, 404, []string{"/v1/stream/{name}"}},
		{"GET", "/my-stream", nil, 404, []string{"/v1/stream/{name}"}},
		{"GET", "/v1/stream/__ds/x", nil, 501, []string{"__ds"}},
		{"PATCH", "/v1/stream/x", nil, 405, []string{"Allow"}},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			w := ask(t, s.srv, c.method, c.path, strings.NewReader("x"), c.h)
			if w.Code != c.status {
				t.Errorf("%s %s: %d %s", c.method, c.path, w.Code, w.Body)
				return
			}
			p := recordedProblem(t, w)
			for _, say := range c.says {
				if !strings.Contains(p.Detail, say) {
					t.Errorf("%s %s: %q does not say %q", c.method, c.path, p.Detail, say)
				}
			}
			if strings.EqualFold(p.Detail, p.Title) {
				t.Errorf("%s %s: %q twice", c.method, c.path, p.Title)
			}
		})
	}
}

// A 5xx has a detail, says nothing of what failed behind it, and is found in the log by its id.
func TestFailureHasARequestIDInTheLog(t *testing.T) {
	secret := fmt.Errorf("peer 10.0.0.7:4467: dial tcp 127.0.0.1:1->10.0.0.7:2: swordfish: %w", shard.ErrStoreDown)
	for _, c := range []struct{ method, query string }{
		{"GET", ""}, {"HEAD", ""}, {"POST", ""}, {"PUT", ""}, {"DELETE", ""}, {"GET", "?live=sse&offset=now"}, {"GET", "?live=long-poll&offset=now"},
	} {
		t.Run(c.method+c.query, func(t *testing.T) {
			for _, accept := range []string{"", "text/event-stream"} {
				var log bytes.Buffer
				s := New(Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, fakeBackend{
					do:    func(*shard.Request) (shard.Outcome, error) { return shard.Outcome{}, secret },
					state: func(shard.InfoOptions) (shard.Info, error) { return shard.Info{}, secret },
				})
				w := ask(t, s, c.method, "/v1/stream/x"+c.query, strings.NewReader(""), header{"Content-Type": "text/plain", hClosed: "true", "Accept": accept})
				id := w.Header().Get(hRequestID)
				if id == "" || !strings.Contains(log.String(), "request="+id) || !strings.Contains(log.String(), "swordfish") || !strings.Contains(log.String(), "problem=store-down") {
					t.Errorf("%s%s: %d %q, the log has %q", c.method, c.query, w.Code, id, log.String())
				}
				if w.Code == http.StatusOK { // to be asked again
					continue
				}
				if p := recordedProblem(t, w); w.Code != 503 || p.Detail == "" || p.Request != id || strings.Contains(w.Body.String(), "10.0.0.7") {
					t.Errorf("%s%s: %d %s", c.method, c.query, w.Code, w.Body)
				}
			}
		})
	}
	for _, f := range errorProblems { // nor does any other
		for _, err := range []error{fmt.Errorf("%w: read tcp 127.0.0.1:5760->127.0.0.1:33554: i/o timeout", f.err)} {
			if d := f.composeDetail(requestDetail(err)); d == "" || f.status >= 500 && strings.Contains(d, "tcp") || f.err == errBody && strings.Contains(d, "tcp") { //nolint:errorlint // the very one
				t.Errorf("%v: %q", f.err, d)
			}
		}
	}
}
