package edge

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/shard"
)

// shardErrors are the exported errors of package shard, and what a client sees of
// them when a Streams method returns one.
var shardErrors = map[string]struct {
	err    error
	status int
	slug   string
}{
	"ErrNotFound":             {shard.ErrNotFound, 404, "stream-not-found"},
	"ErrGone":                 {shard.ErrGone, 410, "stream-gone"},
	"ErrTrimmed":              {shard.ErrTrimmed, 410, "offset-gone"},
	"ErrContended":            {shard.ErrContended, 503, "stream-contended"},
	"ErrOverloaded":           {shard.ErrOverloaded, 429, "overloaded"},
	"ErrStoreDown":            {shard.ErrStoreDown, 503, "store-down"},
	"ErrOutcomeUnknown":       {shard.ErrOutcomeUnknown, 503, "append-outcome-unknown"},
	"ErrUnavailable":          {shard.ErrUnavailable, 503, "owner-unreachable"},
	"ErrNotOwner":             {shard.ErrNotOwner, 503, "owner-unreachable"},
	"ErrStopped":              {shard.ErrStopped, 503, "draining"},
	"ErrConditionUnsupported": {shard.ErrConditionUnsupported, 503, "if-match-later"},
	"ErrNeedsLaterRelease":    {shard.ErrNeedsLaterRelease, 503, "stream-declined"},
	"ErrNoLog":                {shard.ErrNoLog, 503, "store-down"},
	"ErrLogDenied":            {shard.ErrLogDenied, 503, "store-refuses"},
	"ErrLogUnreachable":       {shard.ErrLogUnreachable, 503, "store-down"},
	"ErrLogUnauthenticated":   {shard.ErrLogUnauthenticated, 503, "store-refuses"},
	"ErrNoBasin":              {shard.ErrNoBasin, 404, "no-such-project"},
	"ErrLogBusy":              {shard.ErrLogBusy, 503, "store-down"},
	"ErrAppendUnknown":        {shard.ErrAppendUnknown, 503, "append-outcome-unknown"},
	"ErrPanic":                {shard.ErrPanic, 500, "internal"},
	"TrimmedError":            {&shard.TrimmedError{First: 7}, 410, "offset-gone"},
}

// inside are error types that no Streams method returns: they are caught in shard.
var inside = []string{"GapError", "TailError"}

// declaredNames returns the names of a kind that the source of packages shard and tail declares: what a
// table here cannot forget.
func declaredNames(t *testing.T, match *regexp.Regexp) []string {
	t.Helper()
	var files, names []string
	for _, folder := range []string{"../shard", "../shard/tail"} {
		more, err := filepath.Glob(folder + "/*.go")
		if err != nil || len(more) == 0 {
			t.Fatal(folder, err)
		}
		files = append(files, more...)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, s := range g.Specs {
				switch s := s.(type) {
				case *ast.ValueSpec:
					for _, n := range s.Names {
						names = append(names, n.Name)
					}
				case *ast.TypeSpec:
					names = append(names, s.Name.Name)
				}
			}
		}
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !match.MatchString(n) })
	slices.Sort(names)
	return slices.Compact(names)
}

// recordedProblem returns the problem that a recorder holds.
func recordedProblem(t *testing.T, w *httptest.ResponseRecorder) problem {
	t.Helper()
	return readProblem(t, w.Code, w.Header().Get("Content-Type"), w.Body.String())
}

// readProblem checks a problem document.
func readProblem(t *testing.T, status int, typ, body string) problem {
	t.Helper()
	var p problem
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatalf("%q: %v", body, err)
	}
	slug, ok := strings.CutPrefix(p.Type, problemBase)
	if !ok || slug == "" || p.Title == "" || p.Status != status || typ != "application/problem+json" {
		t.Fatalf("status %d, %s: %s", status, typ, body)
	}
	return p
}

func TestShardErrorsAreMapped(t *testing.T) {
	known := slices.Concat(inside, slices.Collect(maps.Keys(shardErrors)))
	slices.Sort(known)
	if got := declaredNames(t, regexp.MustCompile(`^Err[A-Z]|^[A-Z]\w*Error$`)); !slices.Equal(got, known) {
		t.Errorf("shard declares %v, this test knows %v", got, known)
	}
	for name, want := range shardErrors {
		for _, err := range []error{
			want.err, fmt.Errorf("open stream %q: %w", "p/s", want.err), errors.Join(errors.New("why"), want.err),
		} {
			w := httptest.NewRecorder()
			writeError(w, err)
			p := recordedProblem(t, w)
			if w.Code != want.status || p.Type != problemBase+want.slug {
				t.Errorf("%s as %q: %d %s, want %d %s", name, err, w.Code, p.Type, want.status, want.slug)
			}
			if again := w.Header().Get("Retry-After"); (again != "") != (want.status == 429 || want.status == 503) {
				t.Errorf("%s: Retry-After %q", name, again)
			}
		}
	}
}

// A 5xx says that the server is not available; only what was not foreseen is a 500,
// and that says nothing of what it was.
func TestErrorsHaveTheirProblem(t *testing.T) {
	types := map[string]problemKind{}
	for _, f := range errorProblems {
		t.Run(fmt.Sprint(f.err), func(t *testing.T) {
			w := httptest.NewRecorder()
			w.Header().Set("ETag", `"x"`)
			writeError(w, f.err)
			p := recordedProblem(t, w)
			if w.Code != f.status || p.Type != problemBase+f.slug {
				t.Errorf("%v: an earlier line of the table hides its own: %d %s", f.err, w.Code, p.Type)
			}
			if f.status >= 500 && f.status != 501 && f.status != 503 && f.status != 504 {
				t.Errorf("%v: %d", f.err, f.status)
			}
			if h := w.Header(); h.Get("Cache-Control") != "no-store" || h.Get("ETag") != "" {
				t.Errorf("%v: may be cached: %v", f.err, h)
			}
			if was, ok := types[f.slug]; ok && was.status != f.status {
				t.Errorf("%s is %d and %d", f.slug, was.status, f.status)
			}
			types[f.slug] = f.problemKind
		})
	}
	for _, f := range errorProblems { // doubt outlives its cause
		w := httptest.NewRecorder()
		writeError(w, errors.Join(f.err, shard.ErrOutcomeUnknown))
		if p := recordedProblem(t, w); p.Type != problemBase+"append-outcome-unknown" {
			t.Errorf("%v, in doubt: %s", f.err, p.Type)
		}
	}
	w := httptest.NewRecorder()
	writeError(w, errors.New("dial tcp 10.0.0.7: the password is swordfish"))
	if p := recordedProblem(t, w); w.Code != 500 || p.Detail != problemAdvice["internal"] || strings.Contains(w.Body.String(), "swordfish") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w = httptest.NewRecorder()
	if writeError(w, context.DeadlineExceeded); w.Code != 503 {
		t.Errorf("a deadline: %d", w.Code)
	}
}

// Clients that were refused together are told to come back at different times.
func TestRetryAfterVaries(t *testing.T) {
	for _, f := range errorProblems {
		if f.retry.max == 0 {
			continue
		}
		seen := map[int]bool{}
		for range 200 {
			w := httptest.NewRecorder()
			writeError(w, f.err)
			n, err := strconv.Atoi(w.Header().Get("Retry-After"))
			if err != nil || n < f.retry.min || n > f.retry.max || n < 1 {
				t.Fatalf("%v: Retry-After %d (%v)", f.err, n, err)
			}
			seen[n] = true
		}
		if len(seen) < 2 {
			t.Errorf("%v: always the same Retry-After", f.err)
		}
	}
}

func TestVerdictsAreMapped(t *testing.T) {
	names := declaredNames(t, regexp.MustCompile(`^Code[A-Z]`))
	refusals := 0
	for c := shard.Code(1); c < 255; c++ {
		k, ok := codeProblems[c]
		if !ok {
			continue
		}
		refusals++
		if c.Accepted() || k.status < 400 || k.status >= 500 {
			t.Errorf("code %d: %d", c, k.status)
		}
		w := httptest.NewRecorder()
		writeRefusal(w, &shard.Request{Stream: "p/s", Type: "text/html"}, shard.Outcome{
			Code: c, Why: "because", Producer: &shard.Producer{Epoch: 4}, Expected: 5, Received: 9,
			Info: shard.Info{Exists: true, Generation: 3, Tail: 8},
		})
		why := map[shard.Code]string{
			shard.CodeNotFound: "p/s does not exist", shard.CodeGone: "p/s does not exist", shard.CodeConfigDiffers: "p/s exists",
		}[c]
		if p := recordedProblem(t, w); w.Code != k.status || p.Type != problemBase+k.slug || !strings.HasPrefix(p.Detail, cmp.Or(why, "because")) {
			t.Errorf("code %d: %d %+v", c, w.Code, p)
		}
		h := w.Header()
		want := map[shard.Code]string{
			shard.CodeClosed:     "true " + position.FormatOffset(3, 8) + "   ",
			shard.CodeTailMoved:  " " + position.FormatOffset(3, 8) + "   ",
			shard.CodeEpochStale: "  4  ",
			shard.CodeSeqGap:     "   5 9",
		}[c]
		got := h.Get(hClosed) + " " + h.Get(hNextOffset) + " " + h.Get(hProducerEpoch) + " " + h.Get(hExpectedSeq) + " " + h.Get(hReceivedSeq)
		if want == "" {
			want = "    "
		}
		if got != want {
			t.Errorf("code %d: %q, want %q", c, got, want)
		}
	}
	accepted := 0
	for c := shard.Code(1); c.Accepted(); c++ {
		accepted++
	}
	if accepted+refusals != len(names) {
		t.Errorf("%d verdicts take effect and %d are mapped, of %v", accepted, refusals, names)
	}
	w := httptest.NewRecorder()
	if writeRefusal(w, &shard.Request{}, shard.Outcome{Code: 200}); w.Code != 500 {
		t.Errorf("an unknown verdict: %d", w.Code)
	}
}
