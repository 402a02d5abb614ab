// Package child runs the processes of a measurement.
package child

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Child is a running process.
type Child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended, with
	err  error
}

// Start runs a command and waits until it prints a line with ready in it; "": not at all.
func Start(path, ready string, args ...string) (*Child, error) {
	return StartWithin(20*time.Second, path, ready, args...)
}

// StartWithin does what Start does, for a command that may take so long.
func StartWithin(within time.Duration, path, ready string, args ...string) (*Child, error) {
	c := &Child{cmd: exec.Command(path, args...), done: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), "FANTAIL_LOG_LEVEL=warn")
	c.cmd.Stderr = os.Stderr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	up := make(chan struct{}, 1)
	go func() {
		sc := bufio.NewScanner(out)
		for sc.Scan() {
			if ready != "" && strings.Contains(sc.Text(), ready) {
				up <- struct{}{}
			}
		}
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	if ready == "" {
		return c, nil
	}
	select {
	case <-up:
		return c, nil
	case <-c.done:
		return nil, fmt.Errorf("%s %v ended: %w", path, args, c.err)
	case <-time.After(within):
		c.Stop()
		return nil, fmt.Errorf("%s %v does not say %q", path, args, ready)
	}
}

// Ended reports whether the process is over.
func (c *Child) Ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// PID returns the process's number.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// Stop ends the process.
func (c *Child) Stop() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.done:
	case <-time.After(15 * time.Second):
		_ = c.cmd.Process.Kill()
		<-c.done
	}
}
