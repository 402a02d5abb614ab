package edge

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// protocolRow is a row of testdata/protocol.txt.
type protocolRow struct {
	section, says string
	steps         []string // requests with their answers
	see           []string // names of tests, in place of steps
}

// parseProtocolRows returns the rows of testdata/protocol.txt.
func parseProtocolRows(t *testing.T) (rows []protocolRow) {
	t.Helper()
	b, err := os.ReadFile("testdata/protocol.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		section, says, isRow := strings.Cut(line, " | ")
		names, isSee := strings.CutPrefix(line, "see ")
		switch {
		case line == "" || line[0] == '#' || strings.HasPrefix(line, "2."): // a heading
		case isRow:
			rows = append(rows, protocolRow{section: section, says: says})
		case len(rows) == 0:
			t.Fatalf("no row for %q", line)
		case isSee:
			rows[len(rows)-1].see = strings.Fields(names)
		default:
			rows[len(rows)-1].steps = append(rows[len(rows)-1].steps, line)
		}
	}
	return rows
}

// What the protocol's document asks for holds, row by row.
func TestProtocol(t *testing.T) {
	known := testsOfTree(t)
	for _, row := range parseProtocolRows(t) {
		t.Run(row.section+" "+row.says, func(t *testing.T) {
			if (len(row.steps) == 0) == (len(row.see) == 0) {
				t.Fatal("the row has neither steps nor tests, or both")
			}
			for _, name := range row.see {
				if !known[name] {
					t.Errorf("there is no %s", name)
				}
			}
			s := newSite(t, Config{LongPoll: 50 * time.Millisecond})
			values := map[string]string{}
			for _, step := range row.steps {
				runProtocolStep(s, step, values)
			}
		})
	}
}

// testsOfTree returns the names of the tests of edge and shard.
func testsOfTree(t *testing.T) map[string]bool {
	t.Helper()
	known := map[string]bool{}
	isTest := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	for _, pattern := range []string{"*_test.go", "*/*_test.go", "../shard/*_test.go"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			b, err := os.ReadFile(path) //nolint:gosec // a file of this tree
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range isTest.FindAllSubmatch(b, -1) {
				known[string(m[1])] = true
			}
		}
	}
	return known
}

// runProtocolStep sends a request, and compares its answer with what the step expects.
func runProtocolStep(s *site, step string, values map[string]string) {
	s.Helper()
	for name, v := range values {
		if strings.Contains(v, `"`) {
			v = strconv.Quote(v)
		}
		step = strings.ReplaceAll(step, "{"+name+"}", v)
	}
	request, answer, ok := strings.Cut(step, " -> ")
	parts := strings.SplitN(request, " ", 3)
	if !ok || len(parts) < 2 {
		s.Fatalf("%s: want METHOD name … -> status …", step)
	}
	h, body := header{}, ""
	for _, f := range parseFields(s.T, strings.Join(parts[2:], " ")) {
		if f.name == "body" {
			body = f.value
		} else {
			h[f.name] = f.value
		}
	}
	resp := s.do(parts[0], streamPathPrefix+parts[1], body, h)
	defer func() { _ = resp.Body.Close() }()
	status, expected, _ := strings.Cut(answer, " ")
	if fmt.Sprint(resp.StatusCode) != status {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		s.Fatalf("%s\n%d %s", step, resp.StatusCode, b)
	}
	for _, f := range parseFields(s.T, expected) {
		if f.name == "body" {
			f.compareBody(s.T, step, resp)
		} else {
			f.compareHeader(s.T, step, resp.Header, values)
		}
	}
}

// protocolField is a header or the body of a step.
type protocolField struct {
	name, value string
	pattern     *regexp.Regexp // in place of the value
	quoted      bool
}

// parseFields parses Header:value and body=value, separated by spaces.
func parseFields(t *testing.T, text string) (fields []protocolField) {
	t.Helper()
	for text = strings.TrimLeft(text, " "); text != ""; text = strings.TrimLeft(text, " ") {
		at := strings.IndexAny(text, ":=")
		if at < 0 {
			t.Fatalf("%q is no field", text)
		}
		f := protocolField{name: text[:at]}
		text = text[at+1:]
		end := strings.IndexByte(text+" ", ' ')
		switch {
		case strings.HasPrefix(text, `"`):
			q, err := strconv.QuotedPrefix(text)
			if err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			f.value, _ = strconv.Unquote(q)
			f.quoted, end = true, len(q)
		case strings.HasPrefix(text, "/") && strings.Contains(text[1:]+" ", "/ ") && f.name != hForkedFrom:
			end = strings.Index(text[1:]+" ", "/ ") + 2
			f.pattern = regexp.MustCompile("^(?:" + text[1:end-1] + ")$")
		default:
			f.value = text[:end]
		}
		text = text[end:]
		fields = append(fields, f)
	}
	return fields
}

func (f *protocolField) compareHeader(t *testing.T, step string, h http.Header, values map[string]string) {
	t.Helper()
	got, there := h.Get(f.name), len(h.Values(f.name)) > 0
	switch name, isName := strings.CutPrefix(f.value, "@"); {
	case f.pattern != nil:
		there = f.pattern.MatchString(got)
	case f.value == "*" && !f.quoted:
	case f.value == "-" && !f.quoted:
		there = !there
	case isName && !f.quoted && values[name] == "":
		values[name] = got
	case isName && !f.quoted:
		there = got == values[name]
	default:
		there = got == f.value
	}
	if !there {
		t.Errorf("%s\n%s is %q", step, f.name, got)
	}
}

// compareBody reads the body, of an event stream until it is what is expected.
func (f *protocolField) compareBody(t *testing.T, step string, resp *http.Response) {
	t.Helper()
	var got []byte
	isLive := resp.Header.Get("Content-Type") == "text/event-stream"
	for chunk := make([]byte, 4096); ; {
		n, err := resp.Body.Read(chunk)
		got = append(got, chunk[:n]...)
		if err != nil || isLive && f.pattern != nil && f.pattern.Match(got) {
			break
		}
	}
	if f.pattern != nil && !f.pattern.Match(got) || f.pattern == nil && string(got) != f.value {
		t.Errorf("%s\nthe body is %q", step, got)
	}
}

// The page of the protocol's rows is what the rows say.
func TestProtocolPage(t *testing.T) {
	const path, begin = "docs/protocol.md", "<!-- rows: written by go test ./edge -run ProtocolPage -update -->\n"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, _, ok := strings.Cut(string(b), begin)
	if !ok {
		t.Fatal("no place for the rows in the page")
	}
	var want strings.Builder
	want.WriteString(head + begin + "\n| section | what holds | test |\n| --- | --- | --- |\n")
	for _, row := range parseProtocolRows(t) {
		test := "`TestProtocol`"
		if len(row.see) > 0 {
			test = "`" + strings.Join(row.see, "`, `") + "`"
		}
		fmt.Fprintf(&want, "| %s | %s | %s |\n", row.section, row.says, test)
	}
	if *update {
		if err := os.WriteFile(path, []byte(want.String()), 0o644); err != nil { //nolint:gosec // a public page
			t.Fatal(err)
		}
	} else if string(b) != want.String() {
		t.Error(path + " is not what the rows say: go test ./edge -run ProtocolPage -update")
	}
}
