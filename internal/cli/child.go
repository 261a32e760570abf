package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// child is another process of this program, with its output read line by line.
type child struct {
	name  string
	cmd   *exec.Cmd
	lines chan string   // standard output; closed at its end
	ended chan struct{} // closed when the process has gone
	log   tailBuffer    // the end of standard error
}

// program is what starts a child: the path of this program, and how its
// environment differs from ours.
type program struct {
	path string
	env  []string
}

// thisProgram is the file that is running.
func thisProgram() (program, error) {
	path, err := os.Executable()
	if err != nil {
		return program{}, fmt.Errorf("find this program's file: %w", err)
	}
	return program{path: path, env: os.Environ()}, nil
}

// start starts a child. What it writes to standard error is kept for when it
// fails, and also goes to verbose unless that is nil.
func (p program) start(verbose io.Writer, args ...string) (*child, error) {
	c := &child{name: "carillon " + args[0], lines: make(chan string, 1024), ended: make(chan struct{})}
	c.cmd = exec.Command(p.path, args...)
	c.cmd.Env = p.env
	c.cmd.Stderr = &c.log
	if verbose != nil {
		c.cmd.Stderr = io.MultiWriter(&c.log, verbose)
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	go func() {
		defer close(c.ended)
		defer close(c.lines)
		in := bufio.NewReader(stdout)
		for {
			line, err := in.ReadString('\n')
			if line != "" {
				c.lines <- strings.TrimRight(line, "\n")
			}
			if err != nil {
				break
			}
		}
		_ = c.cmd.Wait() // its exit code is in ProcessState
	}()
	return c, nil
}

// firstLine waits for the first line of standard output.
func (c *child) firstLine(ctx context.Context) (string, error) {
	select {
	case line, ok := <-c.lines:
		if ok {
			return line, nil
		}
		<-c.ended
		return "", fmt.Errorf("%s ended before it was ready (%s):\n%s", c.name, c.cmd.ProcessState, c.log.text())
	case <-ctx.Done():
		return "", fmt.Errorf("%s was not ready in time: %w\n%s", c.name, context.Cause(ctx), c.log.text())
	}
}

// kill ends the process the hard way, as kill -9 does, and waits until it is gone.
func (c *child) kill() error {
	if err := c.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", c.name, err)
	}
	c.drain()
	return nil
}

// stop asks the process to end, and kills it if it does not.
func (c *child) stop(patience time.Duration) {
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may be gone already
	timer := time.AfterFunc(patience, func() { _ = c.cmd.Process.Kill() })
	defer timer.Stop()
	c.drain()
}

// drain reads the rest of the output, so that the process can end.
func (c *child) drain() {
	for range c.lines {
	}
	<-c.ended
}

// tailBuffer keeps the end of what is written to it.
type tailBuffer struct {
	mu  sync.Mutex
	end []byte
}

const tailSize = 4 << 10

// Write takes what a process says on standard error.
func (b *tailBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.end = append(b.end, p...)
	if over := len(b.end) - tailSize; over > 0 {
		b.end = bytes.Clone(b.end[over:])
	}
	return len(p), nil
}

func (b *tailBuffer) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.end)
}
