package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/wait"
)

// proc is a running process, with its output in a file.
type proc struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed once it has ended
	err  error         // how, afterwards
}

// start runs a command, in a network namespace if one is named.
func start(name, namespace, log string, command ...string) (*proc, error) {
	if namespace != "" {
		command = append([]string{"ip", "netns", "exec", namespace}, command...) // execs: the process is the command's
	}
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p := &proc{name: name, cmd: exec.Command(command[0], command[1:]...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *proc) pid() int { return p.cmd.Process.Pid }

func (p *proc) signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("%v to %s: %w", s, p.name, err)
	}
	return nil
}

var errStillThere = errors.New("is still there")

// wait waits for the process's end.
func (p *proc) wait(within time.Duration) error {
	select {
	case <-p.done:
		return p.err
	case <-time.After(within):
		return fmt.Errorf("%s %w after %v", p.name, errStillThere, within)
	}
}

func (p *proc) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// state returns the process's letter in /proc: T is stopped.
func (p *proc) state() string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid()))
	if err != nil {
		return "gone"
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return rest[:1]
}

// stop sends SIGSTOP and waits until the process is stopped.
func (p *proc) stop() error {
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return wait.For(5*time.Second, p.name+" is stopped", func() bool { return p.state() == "T" })
}

// kill ends the process as nothing else does.
func (p *proc) kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	if err := p.wait(5 * time.Second); errors.Is(err, errStillThere) {
		return err
	}
	return nil
}
