// Package harness is what both benchmarks need: programs built, private servers, what processes use up,
// and figures written down. It takes the folder bench to be the working folder.
//
//	harness.go  building programs
//	servers.go  the private PostgreSQL and Redis
//	process.go  CPU time and memory of processes
//	figures.go  medians, numbers, tables
//	machine.go  what a page says of the machine and the programs
package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Programs is where everything is built.
const Programs = "../bin/bench"

// Build makes programs of this module.
func Build(ctx context.Context, packages ...string) error {
	dir, err := filepath.Abs(Programs)
	if err != nil {
		return err
	}
	return runGo(ctx, ".", append([]string{"build", "-o=" + dir + "/"}, packages...)...)
}

// BuildContestant makes TaskFlow's contestant in the contest of queues, which also starts the servers:
// the test binary of its package with queue_bench_test.go, and with contest/contest.go as one more file.
func BuildContestant(ctx context.Context) error {
	return BuildWith(ctx, "contest/contest.go", "contest_test.go", "test", "-c", "-tags=contest", "-o=taskflow")
}

// BuildWith builds TaskFlow's own package with one of our files in it, as name and in its package. A
// relative -o= is seen from Programs.
func BuildWith(ctx context.Context, file, name string, args ...string) error {
	dir, err := filepath.Abs(Programs)
	if err != nil {
		return err
	}
	root := filepath.Dir(filepath.Dir(dir))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("%w; run this in the folder bench", err)
	}
	own := "\npackage " + filepath.Base(filepath.Dir(file)) + "\n"
	inside := filepath.Join(dir, name)
	if err := os.WriteFile(inside, bytes.Replace(text, []byte(own), []byte("\npackage main\n"), 1), 0o644); err != nil {
		return err
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, name): inside}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(inside+".json", overlay, 0o644); err != nil {
		return err
	}
	for i, arg := range args {
		if output, ok := strings.CutPrefix(arg, "-o="); ok {
			args[i] = "-o=" + filepath.Join(dir, output)
		}
	}
	return runGo(ctx, root, append(args, "-overlay="+inside+".json", ".")...)
}

func runGo(ctx context.Context, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return nil
}
