package main

import (
	"bytes"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"
)

// runtimeSamples are what the Go runtime tells of itself (package runtime/metrics), and under which names.
var runtimeSamples = []struct{ from, name, kind, help string }{
	{"/sched/goroutines:goroutines", "go_goroutines", "gauge", "Goroutines that exist."},
	{"/sched/gomaxprocs:threads", "go_sched_gomaxprocs_threads", "gauge", "Processors that the program uses at once."},
	{"/memory/classes/heap/objects:bytes", "go_heap_objects_bytes", "gauge", "Memory of objects, living or not yet collected."},
	{"/memory/classes/total:bytes", "go_memory_bytes", "gauge", "Memory that the runtime has from the system."},
	{"/gc/heap/goal:bytes", "go_gc_heap_goal_bytes", "gauge", "Heap size at which the next collection ends."},
	{"/gc/heap/allocs:bytes", "go_gc_heap_allocs_bytes_total", "counter", "Memory allocated so far."},
	{"/gc/heap/allocs:objects", "go_gc_heap_allocs_objects_total", "counter", "Objects allocated so far."},
	{"/gc/cycles/total:gc-cycles", "go_gc_cycles_total", "counter", "Collections so far."},
	{"/cpu/classes/gc/total:cpu-seconds", "go_gc_cpu_seconds_total", "counter", "Estimated processor time that collections took."},
	{"/sync/mutex/wait/total:seconds", "go_mutex_wait_seconds_total", "counter", "Time that goroutines have waited for locks."},
}

const pausesSample = "/sched/pauses/total/gc:seconds"

// writeRuntime writes what the Go runtime knows.
func writeRuntime(e *exposition) {
	samples := make([]metrics.Sample, 0, len(runtimeSamples)+1)
	for _, s := range runtimeSamples {
		samples = append(samples, metrics.Sample{Name: s.from})
	}
	samples = append(samples, metrics.Sample{Name: pausesSample})
	metrics.Read(samples)
	for i, s := range runtimeSamples {
		switch value := samples[i].Value; value.Kind() {
		case metrics.KindUint64:
			e.one(s.name, s.kind, s.help, float64(value.Uint64()))
		case metrics.KindFloat64:
			e.one(s.name, s.kind, s.help, value.Float64())
		}
	}
	if last := samples[len(samples)-1].Value; last.Kind() == metrics.KindFloat64Histogram {
		writePauses(e, last.Float64Histogram())
	}
}

// pauseBounds are those that the runtime's many buckets are put together to, in seconds.
var pauseBounds = []float64{10e-6, 100e-6, 1e-3, 10e-3, 100e-3}

// writePauses writes how long collections have stopped the program. A bucket of the runtime's counts
// where its upper end lies; the sum takes each for its middle, as the runtime does not tell it.
func writePauses(e *exposition, h *metrics.Float64Histogram) {
	counts := make([]uint64, len(pauseBounds)+1)
	sum := 0.0
	for i, n := range h.Counts {
		low, high := max(0, h.Buckets[i]), h.Buckets[i+1]
		at := 0
		for at < len(pauseBounds) && high > pauseBounds[at]*1.0001 {
			at++
		}
		counts[at] += n
		if n > 0 {
			sum += float64(n) * (low + min(high, 10*max(low, 1e-6))) / 2
		}
	}
	e.family("go_gc_pause_seconds", "histogram", "How long collections stopped the program.")
	total := uint64(0)
	for i, n := range counts {
		total += n
		end := "+Inf"
		if i < len(pauseBounds) {
			end = formatValue(pauseBounds[i])
		}
		e.line("_bucket", float64(total), []string{"le", end})
	}
	e.line("_sum", sum, nil)
	e.line("_count", float64(total), nil)
}

// Of Linux, /proc/self/stat (proc(5)); the numbers after the name of the program.
const (
	statUserTime   = 11 // in ticks
	statSystemTime = 12
	statVirtual    = 20  // bytes
	statResident   = 21  // pages
	clockTicks     = 100 // a second, on every Linux that Go runs on
)

// writeProcess writes what the system knows of this process, as far as it tells: on Linux all of it.
func writeProcess(e *exposition, began time.Time) {
	e.one("process_start_time_seconds", "gauge", "When the process began, in seconds since 1970.", float64(began.UnixMilli())/1000)
	if stat, err := os.ReadFile("/proc/self/stat"); err == nil {
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) > statResident {
			number := func(i int) float64 { n, _ := strconv.ParseFloat(fields[i], 64); return n }
			e.one("process_cpu_seconds_total", "counter", "Processor time, of the program and of the system for it.", (number(statUserTime)+number(statSystemTime))/clockTicks)
			e.one("process_virtual_memory_bytes", "gauge", "Address space.", number(statVirtual))
			e.one("process_resident_memory_bytes", "gauge", "Memory in use.", number(statResident)*float64(os.Getpagesize()))
		}
	}
	if open, err := os.ReadDir("/proc/self/fd"); err == nil {
		e.one("process_open_fds", "gauge", "Open files and connections.", float64(len(open)-1)) // one is this look's own
	}
	if most, ok := maxFiles(); ok {
		e.one("process_max_fds", "gauge", "Files and connections that may be open.", most)
	}
}

// maxFiles is how many files this process may have open, where the system tells.
func maxFiles() (float64, bool) {
	text, err := os.ReadFile("/proc/self/limits")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			if fields := strings.Fields(rest); len(fields) > 0 {
				n, err := strconv.ParseFloat(fields[0], 64)
				return n, err == nil
			}
		}
	}
	return 0, false
}

// writeBuild writes what runs.
func writeBuild(e *exposition, role string) {
	e.family("taskflow_build_info", "gauge", "Always 1; the labels tell what runs.")
	e.sample(1, "version", version, "go", runtime.Version(), "role", role)
}
