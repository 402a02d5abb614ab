// Command prose finds English that has to be read twice, as far as a program can see it:
// in the comments and strings of Go files, in Markdown and in proto files.
//
//	go run ./.ci/prose [folder or file ...]
//
// It prints one line a finding, and exits with 1 if there is one. The rules:
//
//   - A doc comment opens with the name that it documents. That of a function goes on with a verb in
//     the third person: "Read returns". "Read is", "reads are" and "read immediately" say nothing
//     yet. Tests, and the verbs of their helpers, are free in this.
//   - A sentence of a comment has at most 45 words.
//   - Actors have names: caller, reader, owner, peer, client, goroutine. "Who", "whoever",
//     "somebody" and "nobody" leave open which of them is meant.
//   - Words with two meanings are not used: "at once" is "immediately" or "together".
package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// rule is one pattern and what to write in its place.
type rule struct {
	find   *regexp.Regexp
	advice string
}

// words holds for every kind of text.
var words = []rule{
	{phrase(`at once`), `"immediately" or "together"`},
	{phrase(`of late`), `"recently"`},
	{phrase(`for ever`), `"forever", or how long`},
	{phrase(`anew`), `"again", or "from the start"`},
	{phrase(`let(s|ting)? go of`), `"release"`},
	{phrase(`who|whom|whoever|whomever`), `name the actor, then "that": "a client that …"`},
	{phrase(`(some|no|any|every)(body|one)`), `name the actor: caller, reader, owner, peer, client, goroutine`},
	{phrase(`such as own|such as are`), `"those that"`},
}

// opening is how a doc comment must not begin, after the name.
var opening = rule{
	regexp.MustCompile(`^\w+ (is|are|was) (how|what|when|where|why|which|that)\b`),
	`open with a verb: "returns", "holds", "reports"`,
}

// maxWords bounds a sentence.
const maxWords = 45

// What checkOpening and checkSentences advise.
const (
	nameFirst   = "open with the name of the declaration"
	verbFirst   = `open with a verb in the third person: "returns", "holds", "reports"`
	oneSentence = "one thought a sentence: this one has %d words"
)

var (
	article     = regexp.MustCompile(`^(A|An|The) `)
	thirdPerson = regexp.MustCompile(`^[a-z]+s$`)
	sentenceEnd = regexp.MustCompile(`[.!?]["')]*\s+`)
	testName    = regexp.MustCompile(`^(Test|Benchmark|Fuzz|Example)`)
	listItem    = regexp.MustCompile(`^\s+(-|\d+\.)\s`)
)

func phrase(p string) *regexp.Regexp {
	return regexp.MustCompile(`(?i)\b(` + strings.ReplaceAll(p, " ", `\s+(?://\s*)?`) + `)\b`)
}

func main() {
	roots := os.Args[1:]
	if len(roots) == 0 {
		roots = []string{"."}
	}
	found := 0
	for _, root := range roots {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() {
				if skip(d.Name()) {
					return filepath.SkipDir
				}
				return nil
			}
			n, err := checkFile(path)
			found += n
			return err
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, "prose:", err)
			os.Exit(2)
		}
	}
	if found > 0 {
		fmt.Printf("%d findings\n", found)
		os.Exit(1)
	}
}

// skip reports whether a folder holds what others wrote, or what a program wrote.
func skip(folder string) bool {
	switch folder {
	case "node_modules", "relaypb", "bin", "results", "testdata", "prose":
		return true
	}
	return strings.HasPrefix(folder, ".") && folder != "." && folder != ".."
}

func checkFile(path string) (int, error) {
	switch filepath.Ext(path) {
	case ".go":
		return checkGo(path)
	case ".md", ".proto":
		text, err := os.ReadFile(path)
		return checkText(path, 1, string(text)), err
	}
	return 0, nil
}

// checkText prints the findings in a text that begins at a line of a file, and returns how
// many there are.
func checkText(path string, line int, text string) (found int) {
	for _, r := range words {
		for _, at := range r.find.FindAllStringIndex(text, -1) {
			tell(path, line+strings.Count(text[:at[0]], "\n"), text[at[0]:at[1]], r.advice)
			found++
		}
	}
	return found
}

func checkGo(path string) (found int, err error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return 0, err
	}
	if ast.IsGenerated(file) {
		return 0, nil
	}
	for _, group := range file.Comments {
		text := group.List[0].Text
		for _, c := range group.List[1:] {
			text += "\n" + c.Text
		}
		found += checkText(path, fset.Position(group.Pos()).Line, text)
		found += checkSentences(path, fset.Position(group.Pos()).Line, group.Text())
	}
	for _, d := range file.Decls {
		found += checkOpening(path, fset, d)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if doc := docOf(n); doc != nil {
			text := doc.Text()
			if opening.find.MatchString(text) {
				first, _, _ := strings.Cut(text, "\n")
				tell(path, fset.Position(doc.Pos()).Line, first, opening.advice)
				found++
			}
		}
		if s, ok := n.(*ast.BasicLit); ok && s.Kind == token.STRING && !strings.HasSuffix(path, "_test.go") {
			found += checkText(path, fset.Position(s.Pos()).Line, s.Value)
		}
		return true
	})
	return found, nil
}

// checkOpening prints how the doc comment of a declaration at the top level opens badly, and returns
// how many such comments there are.
func checkOpening(path string, fset *token.FileSet, d ast.Decl) (found int) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		inTest := strings.HasSuffix(path, "_test.go")
		if inTest && testName.MatchString(d.Name.Name) {
			return 0
		}
		return checkDoc(path, fset, d.Doc, d.Name.Name, !inTest)
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				doc := s.Doc
				if !d.Lparen.IsValid() {
					doc = d.Doc
				}
				found += checkDoc(path, fset, doc, s.Name.Name, false)
			case *ast.ValueSpec:
				if !d.Lparen.IsValid() && len(s.Names) == 1 {
					found += checkDoc(path, fset, d.Doc, s.Names[0].Name, false)
				}
			}
		}
	}
	return found
}

func checkDoc(path string, fset *token.FileSet, doc *ast.CommentGroup, name string, wantsVerb bool) int {
	text := article.ReplaceAllString(doc.Text(), "")
	words := strings.Fields(text)
	if len(words) == 0 { // none, or a directive
		return 0
	}
	advice := ""
	switch first := strings.TrimRight(words[0], ",:;"); {
	case first != name && strings.TrimSuffix(first, "'s") != name:
		advice = nameFirst
	case len(words) < 2 || words[1] == "and" || first != words[0]: // several functions
	case words[1] == "of":
		advice = verbFirst
	case !wantsVerb:
	case !thirdPerson.MatchString(strings.TrimRight(words[1], ",.:;")) || words[1] == "is" || words[1] == "was":
		advice = verbFirst
	}
	if advice == "" {
		return 0
	}
	line, _, _ := strings.Cut(doc.Text(), "\n")
	tell(path, fset.Position(doc.Pos()).Line, line, advice)
	return 1
}

// checkSentences prints the sentences of a comment that are too long, and returns how many there are.
// Indented text is code, unless it is an item of a list.
func checkSentences(path string, line int, comment string) (found int) {
	var paragraph []string
	inList := false
	check := func() {
		text := strings.Join(paragraph, " ")
		for _, s := range sentenceEnd.Split(text, -1) {
			if n := len(strings.Fields(s)); n > maxWords {
				tell(path, line, s, fmt.Sprintf(oneSentence, n))
				found++
			}
		}
		paragraph = paragraph[:0]
	}
	for l := range strings.Lines(comment) {
		indented := strings.HasPrefix(l, " ") || strings.HasPrefix(l, "\t")
		switch {
		case listItem.MatchString(l):
			check()
			inList = true
		case strings.TrimSpace(l) == "":
			check()
			inList = false
			continue
		case indented && !inList:
			check()
			continue
		}
		paragraph = append(paragraph, strings.TrimSpace(l))
	}
	check()
	return found
}

// docOf returns the doc comment of a declaration, a field or a method.
func docOf(n ast.Node) *ast.CommentGroup {
	switch n := n.(type) {
	case *ast.FuncDecl:
		return n.Doc
	case *ast.GenDecl:
		return n.Doc
	case *ast.TypeSpec:
		return n.Doc
	case *ast.ValueSpec:
		return n.Doc
	case *ast.Field:
		return n.Doc
	}
	return nil
}

func tell(path string, line int, what, advice string) {
	fmt.Printf("%s:%d: %s: %s\n", path, line, strings.Join(strings.Fields(what), " "), advice)
}
