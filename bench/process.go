package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// programs is where the contestants are built, seen from bench/.
const programs = "../bin/bench"

// build makes the contestants written in Go. TaskFlow's is the test binary of its package with
// queue_bench_test.go, and with contest/contest.go put in as one more file.
func build(ctx context.Context) error {
	dir, err := filepath.Abs(programs)
	if err != nil {
		return err
	}
	root := filepath.Dir(filepath.Dir(dir))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text, err := os.ReadFile("contest/contest.go")
	if err != nil {
		return fmt.Errorf("%w; run this in the folder bench", err)
	}
	inside := filepath.Join(dir, "contest_test.go")
	if err := os.WriteFile(inside, bytes.Replace(text, []byte("\npackage contest\n"), []byte("\npackage main\n"), 1), 0o644); err != nil {
		return err
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, "contest_test.go"): inside}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o644); err != nil {
		return err
	}
	for _, cmd := range []*exec.Cmd{
		goCommand(ctx, root, "test", "-c", "-tags=contest", "-overlay="+filepath.Join(dir, "overlay.json"), "-o="+filepath.Join(dir, "taskflow"), "."),
		goCommand(ctx, ".", "build", "-o="+dir+"/", "./asynq", "./river"),
	} {
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
		}
	}
	return nil
}

func goCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, os.Stderr, os.Stderr
	return cmd
}

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
	return startProgram(ctx, c.name, c.command, c.env(s))
}

// startProgram runs a program of ours, or one on PATH.
func startProgram(ctx context.Context, name string, command, env []string) (*process, error) {
	program := filepath.Join(programs, command[0])
	if _, err := os.Stat(program); err != nil {
		program = command[0]
	}
	p := &process{name: name, cmd: exec.CommandContext(ctx, program, command[1:]...)}
	p.cmd.Env = append(os.Environ(), env...)
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
		return nil, fmt.Errorf("start %s: %w", name, err)
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
