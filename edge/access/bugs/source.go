package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

var (
	errAbsent  = errors.New("its text is not in the file, or is there more than once")
	errOutside = errors.New("its text is in no function")
)

// writeOverlay writes, into a folder, the files with their bugs in them, and returns the list that the compiler is given.
func writeOverlay(tmp string, chosen []besideBug) (overlay string, err error) {
	byFile := make(map[string][]besideBug)
	for _, b := range chosen {
		path, err := filepath.Abs(filepath.Join(folder, b.file))
		if err != nil {
			return "", err
		}
		byFile[path] = append(byFile[path], b)
	}
	replace := make(map[string]string)
	for path, list := range byFile {
		text, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		with, name, err := addBugs(path, string(text), list)
		if err != nil {
			return "", err
		}
		which := fmt.Sprintf("package %s\n\nimport \"os\"\n\nvar switchedOnBug = os.Getenv(%q)\n", name, switchedOn)
		for at, text := range map[string]string{path: with, filepath.Join(filepath.Dir(path), "switched_on_bug.go"): which} {
			replace[at] = filepath.Join(tmp, strings.ReplaceAll(at, string(filepath.Separator), "_"))
			if err := os.WriteFile(replace[at], []byte(text), 0o600); err != nil {
				return "", err
			}
		}
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay = filepath.Join(tmp, "overlay.json")
	return overlay, os.WriteFile(overlay, list, 0o600)
}

// variant is a function's body as it is with a bug.
type variant struct {
	begin, end int // of the body, with its braces
	text       string
}

// addBugs returns a file in which every function with bugs begins by asking whether one of them is switched on:
// then it is the whole function as it is with that bug that runs, and nothing of what stands below.
func addBugs(path, text string, list []besideBug) (with, packageName string, err error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, text, parser.SkipObjectResolution|parser.ParseComments)
	if err != nil {
		return "", "", err
	}
	variants := make([]variant, 0, len(list))
	for _, b := range list {
		if strings.Count(text, b.old) != 1 {
			return "", "", fmt.Errorf("%s: %w", b.name, errAbsent)
		}
		at := strings.Index(text, b.old)
		begin, end, returns := findFunction(set, file, at, at+len(b.old))
		if end == 0 {
			return "", "", fmt.Errorf("%s: %w", b.name, errOutside)
		}
		body := text[begin:at] + b.new + text[at+len(b.old):end]
		if !returns {
			body += "\nreturn"
		}
		variants = append(variants, variant{begin, end, fmt.Sprintf("\nif switchedOnBug == %q {\n//line %s:1\n%s\n}", b.name, b.name, body)})
	}
	slices.SortStableFunc(variants, func(a, b variant) int { return b.begin - a.begin }) // from the last, so that the places before it stay
	for i, v := range variants {
		after := text[v.begin+1:]
		if i > 0 && variants[i-1].begin == v.begin { // behind its brace stands a bug already
			text = text[:v.begin+1] + v.text + after
			continue
		}
		line := set.Position(file.FileStart + token.Pos(v.begin)).Line
		text = text[:v.begin+1] + v.text + fmt.Sprintf("\n//line %s:%d\n", path, line) + after
	}
	return text, file.Name.Name, nil
}

// findFunction returns where the body of the outermost function around a piece of a file is, and whether it has results.
func findFunction(set *token.FileSet, file *ast.File, from, to int) (begin, end int, returns bool) {
	ast.Inspect(file, func(n ast.Node) bool {
		var body *ast.BlockStmt
		var kind *ast.FuncType
		switch f := n.(type) {
		case *ast.FuncDecl:
			body, kind = f.Body, f.Type
		case *ast.FuncLit:
			body, kind = f.Body, f.Type
		}
		if body == nil || end != 0 {
			return end == 0
		}
		first, last := set.Position(body.Lbrace).Offset, set.Position(body.Rbrace).Offset+1
		if first <= from && to <= last {
			begin, end, returns = first, last, kind.Results != nil
		}
		return end == 0
	})
	return begin, end, returns
}
