package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// processInfo is what /proc tells of a process; elsewhere than on Linux all is zero.
type processInfo struct {
	parent        int
	seconds       float64 // CPU
	endedChildren float64 // CPU of those waited for
}

func processOf(pid int) processInfo {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return processInfo{}
	}
	_, rest, _ := strings.Cut(string(text), ") ") // after the name: state, parent…
	field := strings.Fields(rest)
	if len(field) < 15 {
		return processInfo{}
	}
	parent, _ := strconv.Atoi(field[1])
	ticks := func(i int) float64 {
		n, _ := strconv.ParseFloat(field[i], 64)
		return n * (10 * time.Millisecond).Seconds()
	}
	return processInfo{parent, ticks(11) + ticks(12), ticks(13) + ticks(14)}
}

func childrenOf(parent int) []int {
	var list []int
	paths, _ := filepath.Glob("/proc/[0-9]*")
	for _, path := range paths {
		pid, _ := strconv.Atoi(filepath.Base(path))
		if processOf(pid).parent == parent {
			list = append(list, pid)
		}
	}
	return list
}

// CPU is the seconds, in user mode and in the kernel, that a process has used.
func CPU(pid int) float64 { return processOf(pid).seconds }

// Resident is the bytes of a process in memory, with what it shares with others.
func Resident(pid int) float64 { return kilobytes(fmt.Sprintf("/proc/%d/status", pid), "VmRSS:") }

// proportional is the bytes of a process in memory, of what it shares only its part.
func proportional(pid int) float64 {
	return kilobytes(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss:")
}

// kilobytes is the bytes that a file says after a name, as the kernel writes them.
func kilobytes(path, name string) float64 {
	text, _ := os.ReadFile(path)
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name); ok {
			n, _ := strconv.ParseFloat(strings.Fields(value)[0], 64)
			return n * 1024
		}
	}
	return 0
}
