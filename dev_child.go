package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

const (
	childStopLimit = 10 * time.Second // for each signal, before the next stronger one
	childPollEvery = 10 * time.Millisecond
)

// forker starts child processes from one thread that lives until the forker is closed. The kernel sends a
// child its death signal when the thread that forked it ends, and Go ends threads as it likes, except
// one that a goroutine has locked.
type forker chan func()

func newForker() forker {
	f := make(forker)
	go func() {
		runtime.LockOSThread()
		for fork := range f {
			fork()
		}
	}()
	return f
}

// childServer is a program that was started.
type childServer struct {
	name string // for people
	log  string // path of the file that has its output
	cmd  *exec.Cmd
	done chan struct{} // closed once the process has ended; then cmd.ProcessState says how
}

// start runs a program in folder as user. If this process dies, the program gets the signal death. It has a
// process group of its own, so that Ctrl-C in a terminal reaches only this process. It sees almost
// none of our environment: PGPORT and its like change what servers do, and our secrets are not for them.
func (f forker) start(name string, user runAs, death syscall.Signal, folder string, log *os.File, program string, args ...string) (*childServer, error) {
	cmd := exec.Command(program, args...)
	cmd.Dir = folder
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=" + serverLocale}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = user.attributes(death)
	started := make(chan error)
	f <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	c := &childServer{name: name, log: log.Name(), cmd: cmd, done: make(chan struct{})}
	go func() {
		cmd.Wait()
		close(c.done)
	}()
	return c, nil
}

// waitUntil asks again and again until the server answers, or ends, or gives an error, which no repetition cures.
func (c *childServer) waitUntil(ctx context.Context, answers func(context.Context) (bool, error)) error {
	for {
		ready, err := answers(ctx)
		if ready {
			return nil
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return c.failed(fmt.Errorf("start %s: %w", c.name, err))
		}
		select {
		case <-c.done:
			return c.failed(fmt.Errorf("start %s: it ended at once (%v)", c.name, c.cmd.ProcessState))
		case <-ctx.Done():
		case <-time.After(childPollEvery):
		}
	}
}

func (c *childServer) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// failed adds the last lines of the log to err.
func (c *childServer) failed(err error) error {
	text, _ := os.ReadFile(c.log)
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	lines = lines[max(0, len(lines)-10):]
	return fmt.Errorf("%w; %s ends with:\n%s", err, c.log, bytes.Join(lines, []byte("\n")))
}

// end sends signals, each if the one before had no effect within childStopLimit, and returns once the
// process has ended. A nil child was never started.
func (c *childServer) end(signals ...os.Signal) error {
	if c == nil {
		return nil
	}
	for _, signal := range signals {
		c.cmd.Process.Signal(signal)
		select {
		case <-c.done:
			return nil
		case <-time.After(childStopLimit):
		}
	}
	return fmt.Errorf("%s (process %d) does not end; see %s", c.name, c.cmd.Process.Pid, c.log)
}

// killAll kills c and what it started, and returns once they are gone, or after a second: where nobody waits
// for orphans, they stay for ever, dead.
func (c *childServer) killAll() error {
	signalGroup(c.cmd.Process.Pid, syscall.SIGKILL)
	err := c.end(syscall.SIGKILL)
	for range time.Second / childPollEvery {
		if signalGroup(c.cmd.Process.Pid, 0) != nil {
			break
		}
		time.Sleep(childPollEvery)
	}
	return err
}

// openChildLog empties the log of an earlier run: the end of a log has to explain a start that fails.
func openChildLog(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return f, nil
}
