package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"taskflow/bench/harness"
)

// process is a running contestant.
type process struct {
	name   string
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	killed sync.Once
}

// answer is what a contestant says to an order.
type answer struct {
	Seconds float64
	Ran     int64
	Ms      []float64
	Error   string
}

func start(ctx context.Context, c contestant, s *stores) (*process, error) {
	program := filepath.Join(harness.Programs, c.command[0])
	if _, err := os.Stat(program); err != nil {
		program = c.command[0] // on PATH
	}
	p := &process{name: c.name, cmd: exec.CommandContext(ctx, program, c.command[1:]...)}
	p.cmd.Env = append(os.Environ(), c.env(s)...)
	p.cmd.Stderr = os.Stderr
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// orderLimit is for a contestant that has lost a job, and for any that a busy machine starves.
const orderLimit = 2 * time.Minute

// order gives an order and waits for the answer.
func (p *process) order(format string, args ...any) (answer, error) {
	order := fmt.Sprintf(format, args...)
	defer time.AfterFunc(orderLimit, p.kill).Stop()
	if _, err := io.WriteString(p.in, order+"\n"); err != nil {
		return answer{}, fmt.Errorf("%s, %s: %w", p.name, order, err)
	}
	a, err := p.read()
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	if err != nil {
		return answer{}, fmt.Errorf("%s, %s: %w", p.name, order, err)
	}
	return a, nil
}

func (p *process) read() (a answer, err error) {
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(line, &a)
}

// kill ends the process as a power cut would.
func (p *process) kill() {
	p.killed.Do(func() {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	})
}
