package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The commands and programs of the documentation do what it says, against a fleet of `fantail dev`.
// With TEST_DOCS set everything that they need has to be there: bash, curl, Node with the packages
// of bench/clients, Python, and Chromium.
func TestDocsRun(t *testing.T) {
	if os.Getenv("TEST_DOCS") == "" {
		t.Skip("TEST_DOCS is not set")
	}
	for _, page := range documentationPages(t) {
		blocks := slices.DeleteFunc(docBlocks(t, page), func(b docBlock) bool {
			return b.mode == notRun || b.mode == runs && !slices.Contains(runnable, b.language)
		})
		if len(blocks) == 0 {
			continue
		}
		t.Run(page, func(t *testing.T) {
			p := openDocPage(t, page)
			if !slices.ContainsFunc(blocks, docBlock.startsFleet) {
				p.start(docBlock{page: page, language: "sh", mode: stays, text: "fantail dev --nodes 3\n"})
			}
			for _, b := range blocks {
				p.do(b)
			}
		})
	}
}

// startsFleet reports whether a block starts the nodes that the page's others use.
func (b docBlock) startsFleet() bool {
	return b.mode == stays && b.firstOutput() != ""
}

// firstOutput returns what a block prints once clients can use what it starts.
func (b docBlock) firstOutput() string {
	switch {
	case strings.Contains(b.text, "make run"), strings.Contains(b.text, "fantail dev"):
		return "Fantail is up."
	case strings.Contains(b.text, "fantail s2"):
		return "embedded S2"
	}
	return ""
}

// docPage runs the blocks of one page. Those in sh share a shell, as they do in a terminal.
type docPage struct {
	t        *testing.T
	dir      string // where files are saved
	runDir   string // where commands run: the repository for README.md
	env      []string
	ports    *strings.Replacer // the ports that pages show to those of this run
	shown    *strings.Replacer // and back
	shell    *exec.Cmd
	input    *os.File
	printed  *transcript // by the shell
	began    int         // where in printed the last block began
	last     *transcript // of the last program
	staying  []*transcript
	sequence int
}

// docTimeout bounds how long a block may take, and how long its output may take to appear.
const docTimeout = 30 * time.Second

func openDocPage(t *testing.T, page string) *docPage {
	t.Helper()
	fantail, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	clients, err := filepath.Abs(filepath.Join(repository, "bench/clients"))
	if err != nil {
		t.Fatal(err)
	}
	p := &docPage{t: t, dir: t.TempDir(), printed: new(transcript)}
	if err := os.Symlink(filepath.Join(clients, "node_modules"), filepath.Join(p.dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	p.runDir = p.dir
	if page == "README.md" {
		p.runDir = repository
	}
	public, admin, s2, backEnd, playground := consecutivePorts(t, 3), consecutivePorts(t, 3), consecutivePorts(t, 1), consecutivePorts(t, 1), consecutivePorts(t, 1)
	var there, back []string
	for i, first := range []int{public, admin, s2, backEnd, playground} {
		for k := range []int{3, 3, 1, 3, 1}[i] {
			doc, here := fmt.Sprintf("127.0.0.1:%d", []int{4437, 4447, 4430, 3000, 4436}[i]+k), fmt.Sprintf("127.0.0.1:%d", first+k)
			there, back = append(there, doc, here), append(back, here, doc)
		}
	}
	p.ports, p.shown = strings.NewReplacer(there...), strings.NewReplacer(back...)
	p.env = append(os.Environ(),
		fmt.Sprintf("PATH=%s:%s:%s", filepath.Dir(fantail), pythonFolder(t, clients), os.Getenv("PATH")),
		fmt.Sprintf("FANTAIL_PORT=%d", public), fmt.Sprintf("FANTAIL_ADMIN_PORT=%d", admin), fmt.Sprintf("FANTAIL_S2_PORT=%d", s2), fmt.Sprintf("FANTAIL_PAGE_PORT=%d", playground),
		fmt.Sprintf("FANTAIL_URL=http://127.0.0.1:%d", public), fmt.Sprintf("FANTAIL_ADMIN=127.0.0.1:%d", admin))
	p.openShell()
	return p
}

// pythonFolder returns the folder of a python with the packages of bench/clients. It installs them if needed.
func pythonFolder(t *testing.T, clients string) string {
	t.Helper()
	bin := filepath.Join(clients, ".venv/bin")
	install := [][]string{{filepath.Join(bin, "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", filepath.Join(clients, "python/requirements.txt")}}
	if _, err := os.Stat(filepath.Join(bin, "python")); err != nil {
		install = append([][]string{{"python3", "-m", "venv", filepath.Dir(bin)}}, install...)
	}
	for _, args := range install {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	return bin
}

// consecutivePorts returns the first of n consecutive ports that are free.
func consecutivePorts(t *testing.T, n int) int {
	t.Helper()
	for range 100 {
		first, free := 20000+rand.IntN(10000), 0
		for i := range n {
			l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", loopbackAddr(first+i))
			if err == nil {
				free++
				_ = l.Close()
			}
		}
		if free == n {
			return first
		}
	}
	t.Fatal("no free ports")
	return 0
}

func (p *docPage) openShell() {
	p.t.Helper()
	in, out, err := os.Pipe()
	if err != nil {
		p.t.Fatal(err)
	}
	p.shell, p.input = p.command("bash"), out
	p.shell.Stdin, p.shell.Stdout, p.shell.Stderr = in, p.printed, p.printed
	if err := p.shell.Start(); err != nil {
		p.t.Fatal(err)
	}
	_ = in.Close()
	p.t.Cleanup(func() {
		_ = out.Close()
		p.end(p.shell)
	})
	fmt.Fprintln(p.input, "set -euo pipefail")
}

// command returns a command in a process group of its own.
func (p *docPage) command(name string, args ...string) *exec.Cmd {
	args = append([]string{name}, args...) // env finds it by the PATH of p.env
	cmd := exec.CommandContext(context.WithoutCancel(p.t.Context()), "env", args...)
	cmd.Dir, cmd.Env = p.runDir, p.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// end ends a command and what it started.
func (p *docPage) end(cmd *exec.Cmd) {
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
	kill := time.AfterFunc(20*time.Second, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer kill.Stop()
	_ = cmd.Wait()
}

// do does with a block what its fence says.
func (p *docPage) do(b docBlock) {
	p.t.Helper()
	switch {
	case b.mode == isOutput:
		p.expect(b)
	case b.mode == savedAs:
		p.save(b.argument, b)
	case b.mode == stays, b.language == "html":
		p.start(b)
	case b.language == "sh":
		p.source(b)
	default:
		cmd := p.program(b)
		p.last = new(transcript)
		p.await(b, cmd, p.last)
	}
}

// save writes a block to a file, with the ports of this run.
func (p *docPage) save(name string, b docBlock) string {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.WriteFile(path, []byte(p.ports.Replace(b.text)), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}

// program returns the command that runs a block.
func (p *docPage) program(b docBlock) *exec.Cmd {
	p.t.Helper()
	p.sequence++
	file := fmt.Sprintf("block-%d.", p.sequence)
	switch b.language {
	case "js":
		return p.command("node", p.save(file+"mjs", b))
	case "python":
		return p.command("python", "-u", p.save(file+"py", b))
	case "html":
		opener, err := os.ReadFile("testdata/open-page.mjs")
		if err != nil {
			p.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(p.dir, "open-page.mjs"), opener, 0o600); err != nil {
			p.t.Fatal(err)
		}
		return p.command("node", filepath.Join(p.dir, "open-page.mjs"), p.save(file+"html", b))
	default:
		return p.command("bash", "-euo", "pipefail", p.save(file+"sh", b))
	}
}

// await runs a command to its end.
func (p *docPage) await(b docBlock, cmd *exec.Cmd, out *transcript) {
	p.t.Helper()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		p.t.Fatalf("%s:%d: %v", b.page, b.line, err)
	}
	stop := time.AfterFunc(docTimeout, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer stop.Stop()
	if err := cmd.Wait(); err != nil {
		p.t.Fatalf("%s:%d: %v\n%s", b.page, b.line, err, out)
	}
}

// source runs a block in the page's shell.
func (p *docPage) source(b docBlock) {
	p.t.Helper()
	p.sequence++
	path := p.save(fmt.Sprintf("block-%d.sh", p.sequence), b)
	done := fmt.Sprintf("@@ block %d is done", p.sequence)
	p.began, p.last = len(p.printed.String()), nil
	fmt.Fprintf(p.input, "source %s </dev/null; echo; echo '%s'\n", path, done)
	deadline := time.Now().Add(docTimeout)
	for !strings.Contains(p.printed.String(), done) {
		if p.shell.Process.Signal(syscall.Signal(0)) != nil || shellEnded(p.shell) || time.Now().After(deadline) {
			p.t.Fatalf("%s:%d: the block fails\n%s", b.page, b.line, p.printed.String()[p.began:])
		}
		time.Sleep(20 * time.Millisecond) //nolint:forbidigo // another process is waited for
	}
}

// shellEnded reports whether a process has ended that has not been waited for.
func shellEnded(cmd *exec.Cmd) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
	return err == nil && bytes.Contains(stat, []byte(") Z "))
}

// start starts a block that stays, and waits until it has printed something.
func (p *docPage) start(b docBlock) {
	p.t.Helper()
	cmd, out := p.program(b), new(transcript)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		p.t.Fatalf("%s:%d: %v", b.page, b.line, err)
	}
	p.t.Cleanup(func() {
		p.end(cmd)
		if p.t.Failed() {
			p.t.Logf("%s:%d printed:\n%s", b.page, b.line, out)
		}
	})
	p.staying = append(p.staying, out)
	eventually(p.t, 5*time.Minute, fmt.Sprintf("%s:%d prints something", b.page, b.line), func() bool {
		return out.String() != "" && strings.Contains(out.String(), b.firstOutput())
	})
}

// expect waits until the lines of a block are in what was printed.
func (p *docPage) expect(b docBlock) {
	p.t.Helper()
	recent := func() []string {
		texts := []string{}
		if p.last != nil {
			texts = append(texts, p.last.String())
		} else {
			texts = append(texts, p.printed.String()[p.began:])
		}
		for _, s := range p.staying {
			texts = append(texts, s.String())
		}
		return texts
	}
	deadline := time.Now().Add(docTimeout)
	for !slices.ContainsFunc(recent(), func(text string) bool { return hasLines(p.shown.Replace(text), b.text) }) {
		if time.Now().After(deadline) {
			p.t.Fatalf("%s:%d: is not in what was printed:\n%s", b.page, b.line, strings.Join(recent(), "\n---\n"))
		}
		time.Sleep(20 * time.Millisecond) //nolint:forbidigo // another process is waited for
	}
}

// hasLines reports whether a text has lines with the wanted ones in them, in their order.
func hasLines(text, want string) bool {
	lines := strings.Split(text, "\n")
	for w := range strings.Lines(want) {
		if w = strings.TrimSpace(w); w == "" {
			continue
		}
		i := slices.IndexFunc(lines, func(line string) bool { return hasParts(line, strings.Split(w, "…")) })
		if i < 0 {
			return false
		}
		lines = lines[i+1:]
	}
	return true
}

// hasParts reports whether a line has the parts, one after the other.
func hasParts(line string, parts []string) bool {
	for _, part := range parts {
		_, rest, ok := strings.Cut(line, part)
		if !ok {
			return false
		}
		line = rest
	}
	return true
}

// The matching of outputs tells right from wrong.
func TestDocsOutput(t *testing.T) {
	const text = "HTTP/1.1 200 OK\nEtag: \"17:1\"\n\n[1,2]"
	for want, ok := range map[string]bool{
		"200 OK\n[1,2]": true, "[1,2]\n200 OK": false, "201": false, "Etag: \"…:1\"": true, "Etag: \"…:2\"": false, "": true,
	} {
		if hasLines(text, want) != ok {
			t.Errorf("%q: want %v", want, ok)
		}
	}
}
