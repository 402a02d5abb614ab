package child

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// Peer is this program again, in a process of its own, asked line by line.
type Peer struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// Self runs this program with other arguments; it has to call Serve.
func Self(args ...string) (*Peer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &Peer{cmd: exec.Command(self, args...)}
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewScanner(out)
	return p, p.cmd.Start()
}

// Ask gives the peer a line and returns its answer.
func (p *Peer) Ask(line string) (string, error) {
	if _, err := fmt.Fprintln(p.in, line); err != nil {
		return "", err
	}
	if !p.out.Scan() {
		return "", fmt.Errorf("%s: the peer has ended", line)
	}
	answer, ok := strings.CutPrefix(p.out.Text(), "ok ")
	if !ok {
		return "", fmt.Errorf("%s: %s", line, p.out.Text())
	}
	return answer, nil
}

// Stop ends the peer and waits for it.
func (p *Peer) Stop() {
	_ = p.in.Close()
	_ = p.cmd.Wait()
}

// Serve serves the peer's side: it answers line by line until Stop.
func Serve(answer func(line string) (string, error)) {
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		a, err := answer(in.Text())
		if err != nil {
			fmt.Println("error", strings.ReplaceAll(err.Error(), "\n", "; "))
			continue
		}
		fmt.Println("ok", a)
	}
}
