package harness

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// Machine is its processors, memory and system.
func Machine() string {
	model, memory := "", ""
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value) + ", "
			break
		}
	}
	text, _ = os.ReadFile("/proc/meminfo")
	var kilobytes int
	if n, _ := fmt.Sscanf(string(text), "MemTotal: %d kB", &kilobytes); n == 1 {
		memory = fmt.Sprintf(", %d GB", (kilobytes+1<<19)>>20)
	}
	return fmt.Sprintf("%s%d processors%s, %s/%s", model, runtime.NumCPU(), memory, runtime.GOOS, runtime.GOARCH)
}

// Load is what else the machine has had to do.
func Load() string {
	text, _ := os.ReadFile("/proc/loadavg")
	field := strings.Fields(string(text))
	if len(field) < 3 {
		return "load unknown"
	}
	return "load average " + field[2] + " over the last 15 minutes"
}

// Output is what a command prints, or nothing. How it ends does not matter: wrk -v ends with 1.
func Output(ctx context.Context, name string, args ...string) string {
	text, _ := exec.CommandContext(ctx, name, args...).Output()
	return strings.TrimSpace(string(text))
}

// Commit is that of the code measured, and whether the code differs from it.
func Commit(ctx context.Context) string {
	commit := Output(ctx, "git", "rev-parse", "--short", "HEAD")
	if Output(ctx, "git", "status", "--porcelain", "--", ":/*.go", ":/*.sql", ":/*.lua") != "" {
		commit += " with changes"
	}
	return commit
}
