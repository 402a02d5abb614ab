// Command bugs puts each of its bugs into package access, one at a time, and requires that the
// package's tests notice it: a check that no test misses when it is gone is not checked.
//
//	go run ./edge/access/bugs [NAME ...]
//
// A bug is a text of one file and what stands there instead. Some are beside the package, in what the edge
// does with a decision: these name the tests of package edge, or of the command, that have to notice them.
//
// The tests are built once, with all bugs in them, and each run has one bug switched on by its name in the
// environment (see source.go). The tree is not changed: the compiler is told to read other files in the
// place of those with bugs. A run without a bug has to pass, or a test that fails anyway would stand for every bug.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

const folder = "edge/access"

// switchedOn is the variable of the environment that names the bug of a run.
const switchedOn = "TEST_ACCESS_BUG"

func main() {
	began := time.Now()
	chosen := chooseBugs(os.Args[1:])
	missed, err := tryBugs(chosen)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintf(os.Stdout, "%d bugs, %d not noticed, in %d s\n", len(chosen), missed, int(time.Since(began).Seconds()))
	if missed > 0 || len(chosen) == 0 {
		os.Exit(1)
	}
}

// chooseBugs returns the bugs that have one of the names: those of the package, then those beside it. Without names it returns all.
func chooseBugs(names []string) (chosen []besideBug) {
	for _, b := range bugs {
		chosen = append(chosen, besideBug{bug: b})
	}
	chosen = append(chosen, besideBugs...)
	if len(names) > 0 {
		chosen = slices.DeleteFunc(chosen, func(b besideBug) bool { return !slices.Contains(names, b.name) })
	}
	return chosen
}

// tryBugs prints which test notices each bug, and returns how many are not noticed.
func tryBugs(chosen []besideBug) (missed int, err error) {
	tmp, err := os.MkdirTemp("", "bugs")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	overlay, err := writeOverlay(tmp, chosen)
	if err != nil {
		return 0, err
	}
	runs, err := buildTests(tmp, overlay, chosen)
	if err != nil {
		return 0, err
	}
	results := make([]chan string, len(chosen))
	for i := range results {
		results[i] = make(chan string, 1)
	}
	next := make(chan int)
	for range runtime.GOMAXPROCS(0) {
		go func() {
			for i := range next {
				results[i] <- runs[chosen[i].testFolder()].run(chosen[i].name, chosen[i].tests)
			}
		}()
	}
	go func() {
		for i := range chosen {
			next <- i
		}
		close(next)
	}()
	for i, b := range chosen {
		by := <-results[i]
		if by == "" {
			by = "NOT NOTICED"
			missed++
		}
		fmt.Fprintf(os.Stdout, "%-32s %s\n", b.name, by)
	}
	return missed, nil
}

// testFolder returns the folder of the tests that have to notice the bug.
func (b besideBug) testFolder() string {
	switch {
	case strings.HasPrefix(b.file, "../../cmd/"):
		return filepath.Dir(filepath.Join(folder, b.file))
	case b.tests != "":
		return filepath.Dir(folder)
	}
	return folder
}

// tests is a program of a folder's tests, with all bugs in it.
type tests struct {
	folder, program, overlay string
}

var (
	errCompile = errors.New("the bugs do not compile")
	errFails   = errors.New("fails without a bug")
)

// buildTests builds the tests of each folder, and requires that those which bugs name pass while no bug is switched on.
func buildTests(tmp, overlay string, chosen []besideBug) (map[string]*tests, error) {
	patterns := make(map[string][]string)
	for _, b := range chosen {
		at := b.testFolder()
		patterns[at] = append(patterns[at], b.tests)
	}
	all := make(map[string]*tests)
	for at, names := range patterns {
		t := &tests{folder: at, program: filepath.Join(tmp, filepath.Base(at)+".test"), overlay: overlay}
		build := exec.CommandContext(context.Background(), "go", "test", "-vet=off", "-ldflags=-s -w", "-c", "-o", t.program, "-overlay", overlay, "./"+at)
		if out, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%w: %s", errCompile, out)
		}
		slices.Sort(names)
		if by := t.run("", strings.Join(slices.Compact(names), "|")); by != "" {
			return nil, fmt.Errorf("%s of %s %w", by, at, errFails)
		}
		all[at] = t
	}
	return all, nil
}

var failedTest = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)

// run runs the tests with a bug switched on, and returns the first that fails, or "". Tests of the command build it, too.
func (t *tests) run(bug, pattern string) (by string) {
	run := exec.CommandContext(context.Background(), t.program, "-test.timeout=120s", "-test.failfast", "-test.run="+pattern)
	run.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false -overlay="+t.overlay, switchedOn+"="+bug)
	run.Dir = t.folder
	out, err := run.CombinedOutput()
	switch {
	case err == nil:
		return ""
	case failedTest.Match(out):
		return string(failedTest.FindSubmatch(out)[1])
	}
	first, _, _ := strings.Cut(string(out), "\n")
	return first + " " + err.Error() // a panic, or the time is over
}
