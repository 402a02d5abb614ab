package main

import (
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const repository = "../.."

// docBlock is a fenced block of a page. Its fence says the language and what to do with the block:
//
//	```sh                     it runs to its end, with success
//	```sh stays               it runs until the page's end, and has printed something before the next block begins
//	```js saved-as: chat.mjs  it is written to a file, which other blocks use
//	```js not-run: why        it cannot run here
//	```text output            its lines are in what the block before it printed, or what one that stays
//	                          has printed; "…" stands for anything
type docBlock struct {
	page     string
	line     int
	language string
	mode     docMode
	argument string // of savedAs and notRun
	text     string
}

// docMode says how a block is checked. Closed set.
type docMode string

const (
	runs     docMode = "" // text of other languages is only shown
	stays    docMode = "stays"
	isOutput docMode = "output"
	savedAs  docMode = "saved-as:"
	notRun   docMode = "not-run:"
)

// runnable has the languages whose blocks run; shown has those that are only shown.
var (
	runnable = []string{"sh", "js", "html", "python"}
	shown    = []string{"text", "json", "http", "yaml", "promql", "nginx"}
)

// documentationPages returns the pages for users, by their paths in the repository.
func documentationPages(t *testing.T) []string {
	t.Helper()
	pages := []string{"README.md"}
	for _, path := range markdownFiles(t) {
		if filepath.Base(filepath.Dir(path)) == "docs" {
			pages = append(pages, path)
		}
	}
	return pages
}

// markdownFiles returns every Markdown file of the repository.
func markdownFiles(t *testing.T) (files []string) {
	t.Helper()
	err := filepath.WalkDir(repository, func(path string, d fs.DirEntry, err error) error {
		switch name := d.Name(); {
		case err != nil:
			return err
		case d.IsDir() && (name == "node_modules" || strings.HasPrefix(name, ".") && name != ".."):
			return filepath.SkipDir
		case filepath.Ext(path) == ".md":
			rel, err := filepath.Rel(repository, path)
			files = append(files, rel)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func readPage(t *testing.T, page string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(repository, page))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// docBlocks returns the fenced blocks of a page.
func docBlocks(t *testing.T, page string) (blocks []docBlock) {
	t.Helper()
	var open *docBlock
	for i, line := range strings.Split(readPage(t, page), "\n") {
		info, isFence := strings.CutPrefix(line, "```")
		switch {
		case isFence && open == nil:
			language, rest, _ := strings.Cut(info, " ")
			mode, argument, _ := strings.Cut(rest, " ")
			open = &docBlock{page: page, line: i + 1, language: language, mode: docMode(mode), argument: argument}
		case isFence:
			blocks, open = append(blocks, *open), nil
		case open != nil:
			open.text += line + "\n"
		}
	}
	if open != nil {
		t.Errorf("%s:%d: the block does not end", page, open.line)
	}
	return blocks
}

// Each block of a page is one that a program runs, or says why not.
func TestDocsBlocksAreMarked(t *testing.T) {
	for _, page := range documentationPages(t) {
		for _, b := range docBlocks(t, page) {
			isCode, isText := slices.Contains(runnable, b.language), slices.Contains(shown, b.language)
			switch b.mode {
			case runs, stays:
				if !isCode && (!isText || b.mode == stays) {
					t.Errorf("%s:%d: %q is no language that runs: add \"not-run: the reason\"", page, b.line, b.language)
				}
			case savedAs, notRun:
				if b.argument == "" || b.mode == notRun && len(strings.Fields(b.argument)) < 2 {
					t.Errorf("%s:%d: %s what?", page, b.line, b.mode)
				}
			case isOutput:
				if b.language != "text" {
					t.Errorf("%s:%d: output is text", page, b.line)
				}
			default:
				t.Errorf("%s:%d: no such mode: %q", page, b.line, b.mode)
			}
		}
	}
}

var (
	docLink   = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	inlineTag = regexp.MustCompile("`[^`\n]*`")
	notInSlug = regexp.MustCompile(`[^\p{L}\p{N}\p{M}_\- ]`)
)

// Each relative link of a page leads to a file, and each anchor to a heading.
func TestDocsLinksResolve(t *testing.T) {
	anchors := map[string][]string{}
	files := markdownFiles(t)
	for _, page := range files {
		anchors[page] = headingAnchors(readPage(t, page))
	}
	for _, page := range files {
		text := inlineTag.ReplaceAllString(withoutFences(readPage(t, page)), "")
		for _, m := range docLink.FindAllStringSubmatch(text, -1) {
			u, err := url.Parse(m[1])
			if err != nil {
				t.Errorf("%s: %v", page, err)
				continue
			}
			if u.Scheme != "" {
				continue
			}
			target := page
			if u.Path != "" {
				target = filepath.Join(filepath.Dir(page), u.Path)
			}
			if _, err := os.Stat(filepath.Join(repository, target)); err != nil {
				t.Errorf("%s: %s leads nowhere", page, m[1])
			} else if u.Fragment != "" && !slices.Contains(anchors[target], u.Fragment) {
				t.Errorf("%s: %s: no such heading", page, m[1])
			}
		}
	}
}

// Each page is reached from the README, by links of pages.
func TestDocsPagesAreLinked(t *testing.T) {
	seen := map[string]bool{"README.md": true}
	for todo := []string{"README.md"}; len(todo) > 0; todo = todo[1:] {
		for _, m := range docLink.FindAllStringSubmatch(withoutFences(readPage(t, todo[0])), -1) {
			path, _, _ := strings.Cut(m[1], "#")
			target := filepath.Join(filepath.Dir(todo[0]), path)
			if filepath.Ext(path) == ".md" && !strings.Contains(path, "://") && !seen[target] {
				seen[target] = true
				todo = append(todo, target)
			}
		}
	}
	for _, page := range documentationPages(t) {
		if !seen[page] {
			t.Errorf("no page links to %s", page)
		}
	}
}

// withoutFences returns a page without its fenced blocks.
func withoutFences(text string) string {
	var out strings.Builder
	for i, part := range strings.Split("\n"+text, "\n```") {
		if i%2 == 0 {
			out.WriteString(part)
		}
	}
	return out.String()
}

// headingAnchors returns the anchors of a page's headings, as GitHub makes them.
func headingAnchors(text string) (anchors []string) {
	for line := range strings.Lines(withoutFences(text)) {
		heading := strings.TrimLeft(line, "#")
		if heading == line || !strings.HasPrefix(heading, " ") {
			continue
		}
		slug := notInSlug.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), "")
		anchors = append(anchors, strings.ReplaceAll(slug, " ", "-"))
	}
	return anchors
}

var metricName = regexp.MustCompile(`"(fantail_[a-z0-9_]+)"`)

// The page of metrics has every metric of the code, and no other.
func TestDocsMetricsAreComplete(t *testing.T) {
	inCode := map[string]bool{}
	for _, folder := range []string{"cmd", "cluster", "edge", "shard"} {
		err := filepath.WalkDir(filepath.Join(repository, folder), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			b, err := os.ReadFile(path)
			for _, m := range metricName.FindAllStringSubmatch(string(b), -1) {
				inCode[m[1]] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	inPage := map[string]bool{}
	for _, name := range regexp.MustCompile(`\bfantail_[a-z0-9_]+`).FindAllString(readPage(t, "cmd/docs/metrics.md"), -1) {
		inPage[strings.TrimSuffix(name, "_bucket")] = true
	}
	for name := range inCode {
		if !inPage[name] {
			t.Errorf("cmd/docs/metrics.md does not explain %s", name)
		}
	}
	for name := range inPage {
		if !inCode[name] {
			t.Errorf("cmd/docs/metrics.md has %s, which is no metric", name)
		}
	}
}

var alertRule = regexp.MustCompile(`(?s)- alert: (\w+)\n.*?severity: (\w+) .*?description: "([^"\n]*)"`)

// The page of metrics has each alert of the rules that are shipped, and what to do about it.
func TestDocsAlertsAreThoseOfTheRules(t *testing.T) {
	const page, begin, end = "cmd/docs/metrics.md", "| --- | --- | --- |\n", "<!-- end of alerts -->"
	rules := readPage(t, "deploy/prometheus/rules.yaml")
	var table strings.Builder
	found := alertRule.FindAllStringSubmatch(rules, -1)
	for _, m := range found {
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", m[1], m[2], m[3])
	}
	if n := strings.Count(rules, "- alert:"); len(found) != n || n == 0 {
		t.Fatalf("%d alerts, %d of them have a severity and a description", n, len(found))
	}
	text := readPage(t, page)
	head, rest, ok := strings.Cut(text, begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("no place for the alerts in the page")
	}
	want := head + begin + table.String() + end + tail
	if *update {
		if err := os.WriteFile(filepath.Join(repository, page), []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	} else if text != want {
		t.Errorf("%s does not have the alerts of the rules: go test ./cmd/fantail -run TestDocsAlerts -update", page)
	}
}
