// Command bugs puts each of its bugs into package access, one at a time, and requires that the
// package's tests notice it: a check that no test misses when it is gone is not checked.
//
//	go run ./edge/access/bugs [NAME ...]
//
// A bug is a text of one file and what stands there instead. Some are beside the package, in what the edge
// does with a decision: these name the tests of package edge that have to notice them. The tree is not changed: the compiler
// is told to read the file with the bug in the place of the other.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const folder = "edge/access"

func main() {
	missed := 0
	names := os.Args[1:]
	count := 0
	for _, b := range allBugs() {
		if len(names) > 0 && !slices.Contains(names, b.name) {
			continue
		}
		count++
		by, err := b.noticed()
		if err != nil {
			missed++
			fmt.Fprintf(os.Stdout, "%-32s %v\n", b.name, err)
			continue
		}
		fmt.Fprintf(os.Stdout, "%-32s %s\n", b.name, by)
	}
	fmt.Fprintf(os.Stdout, "%d bugs, %d not noticed\n", count, missed)
	if missed > 0 || count == 0 {
		os.Exit(1)
	}
}

var (
	errAbsent    = errors.New("its text is not in the file, or is there more than once")
	errCompile   = errors.New("it does not compile")
	errUnnoticed = errors.New("NOT NOTICED")
)

var failedTest = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)

// allBugs returns the bugs of the package, and those beside it.
func allBugs() (all []besideBug) {
	for _, b := range bugs {
		all = append(all, besideBug{bug: b})
	}
	return append(all, besideBugs...)
}

// noticed returns the first test that fails with the bug.
func (b besideBug) noticed() (by string, err error) {
	path, err := filepath.Abs(filepath.Join(folder, b.file))
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if strings.Count(string(text), b.old) != 1 {
		return "", errAbsent
	}
	tmp, err := os.MkdirTemp("", "bug")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	with, overlay := filepath.Join(tmp, filepath.Base(b.file)), filepath.Join(tmp, "overlay.json")
	list, err := json.Marshal(map[string]any{"Replace": map[string]string{path: with}})
	if err != nil {
		return "", err
	}
	if err := errors.Join(os.WriteFile(with, []byte(strings.Replace(string(text), b.old, b.new, 1)), 0o600), os.WriteFile(overlay, list, 0o600)); err != nil {
		return "", err
	}
	return b.test(overlay, filepath.Join(tmp, "test"))
}

// test compiles the package's tests with an overlay, and returns the first that fails. A bug beside the
// package is for the tests of package edge, or of the command if it is there. Those build the command, too.
func (b besideBug) test(overlay, program string) (by string, err error) {
	folder := folder
	switch {
	case strings.HasPrefix(b.file, "../../cmd/"):
		folder = filepath.Dir(filepath.Join(folder, b.file))
	case b.tests != "":
		folder = filepath.Dir(folder)
	}
	build := exec.CommandContext(context.Background(), "go", "test", "-vet=off", "-c", "-o", program, "-overlay", overlay, "./"+folder)
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", errCompile, bytes.TrimSpace(out))
	}
	run := exec.CommandContext(context.Background(), program, "-test.timeout=120s", "-test.run="+b.tests)
	run.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false -overlay="+overlay)
	run.Dir = folder
	out, err := run.CombinedOutput()
	switch {
	case err == nil:
		return "", errUnnoticed
	case failedTest.Match(out):
		return string(failedTest.FindSubmatch(out)[1]), nil
	}
	first, _, _ := strings.Cut(string(out), "\n")
	return first, nil // a panic, or the time is over
}
