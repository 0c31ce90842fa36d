package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// part is a competition.
type part string

const (
	engine part = "engine"
	outbox part = "outbox"
)

// figure is one thing measured.
type figure int

const (
	enqueueRate figure = iota // jobs a second
	drainRate
	bothRate
	commands // of Redis, a job
	reads    // by Redis from sockets, a job
	redisMicros
	ownMicros
	postgresMicros
	waitingBytes
	steadyP50 // milliseconds
	steadyP99
	pickupP50
	pickupP99
	pickupSamples
	recoverySeconds
)

type key struct {
	part   part
	name   string // of the contestant
	slots  int    // 0 where it is the same for all
	figure figure
}

// figures are all measurements, by round. What failed is missing.
type figures map[key]map[int]float64

func (f figures) add(k key, round int, value float64) {
	if f[k] == nil {
		f[k] = map[int]float64{}
	}
	f[k][round] = value
}

func (f figures) median(k key) float64 { return median(slices.Collect(maps.Values(f[k]))) }

func median(list []float64) float64 {
	if len(list) == 0 {
		return math.NaN()
	}
	slices.Sort(list)
	return (list[(len(list)-1)/2] + list[len(list)/2]) / 2
}

// percentile is of a sorted list.
func percentile(list []float64, p float64) float64 {
	if len(list) == 0 {
		return math.NaN()
	}
	return list[int(math.Ceil(p*float64(len(list))))-1]
}

// ratio is the median over rounds of the first contestant's best figure to the best one of the
// others in the same round.
func (f figures) ratio(part part, list []contestant, slots []int, figure figure) float64 {
	best := map[int][2]float64{} // by round: ours, theirs
	for i, c := range list {
		for _, n := range slots {
			for round, value := range f[key{part, c.name, n, figure}] {
				pair := best[round]
				pair[min(i, 1)] = max(pair[min(i, 1)], value)
				best[round] = pair
			}
		}
	}
	var ratios []float64
	for _, pair := range best {
		if pair[0] > 0 && pair[1] > 0 {
			ratios = append(ratios, pair[0]/pair[1])
		}
	}
	return median(ratios)
}

// table writes columns of equal width: Markdown that reads well in a terminal too.
type table struct{ rows [][]string }

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

// write leaves out a table without a figure: that part was not wanted.
func (t *table) write(out *bytes.Buffer) {
	empty := true
	for _, row := range t.rows[1:] {
		for _, cell := range row[2:] {
			empty = empty && (cell == "" || cell == missing)
		}
	}
	if empty {
		return
	}
	width := make([]int, len(t.rows[0]))
	for _, row := range t.rows {
		for i, cell := range row {
			width[i] = max(width[i], len([]rune(cell)))
		}
	}
	for n, row := range t.rows {
		for i, cell := range row {
			pad := strings.Repeat(" ", width[i]-len([]rune(cell)))
			if i == 0 {
				out.WriteString("| " + cell + pad)
			} else {
				out.WriteString(" | " + pad + cell)
			}
		}
		out.WriteString(" |\n")
		if n == 0 {
			for i, w := range width {
				if i == 0 {
					out.WriteString("|:" + strings.Repeat("-", w+1))
				} else {
					out.WriteString("|" + strings.Repeat("-", w+1) + ":")
				}
			}
			out.WriteString("|\n")
		}
	}
	out.WriteString("\n")
}

const missing = "–"

// number writes a figure with about three digits.
func number(v float64) string {
	switch {
	case math.IsNaN(v):
		return missing
	case v >= 1000:
		return fmt.Sprintf("%d %03d", int(v+0.5)/1000, int(v+0.5)%1000)
	case v >= 100:
		return whole(v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func whole(v float64) string {
	if math.IsNaN(v) {
		return missing
	}
	return fmt.Sprintf("%.0f", v)
}

func times(v float64) string {
	if math.IsNaN(v) {
		return missing
	}
	return fmt.Sprintf("%.2f ×", v)
}

// page is QUEUE.md.
func (f figures) page(head string, failures []error) string {
	out := bytes.NewBufferString(head)
	if len(failures) > 0 {
		out.WriteString("## Failures\n\n")
		for _, err := range failures {
			fmt.Fprintf(out, "- %v\n", err)
		}
		out.WriteString("\n")
	}
	out.WriteString("## On Redis alone\n\n")
	f.rateTable(engine, engineContestants, engineSlots).write(out)
	f.costTable(engine, engineContestants, engineSlots, []figure{ownMicros, redisMicros, commands, reads, waitingBytes}).write(out)
	f.latencyTable(engine, slices.Concat(engineContestants, []contestant{asynqPolling})).write(out)
	out.WriteString("## Jobs made in a transaction\n\n")
	f.rateTable(outbox, outboxContestants, outboxSlots).write(out)
	f.costTable(outbox, outboxContestants, outboxSlots, []figure{ownMicros, redisMicros, postgresMicros, commands, reads}).write(out)
	f.latencyTable(outbox, outboxContestants).write(out)
	return strings.TrimSuffix(out.String(), "\n")
}

// rateTable compares each number of slots, and each contestant's best.
func (f figures) rateTable(part part, list []contestant, slots []int) *table {
	t := &table{}
	t.row("jobs a second", "slots", "enqueue", "drain", "both", "TaskFlow to the faster peer: enqueue", "drain", "both")
	rates := []figure{enqueueRate, drainRate, bothRate}
	for _, n := range slots {
		for i, c := range list {
			row := []string{c.name, fmt.Sprint(n)}
			for _, rate := range rates {
				row = append(row, number(f.median(key{part, c.name, n, rate})))
			}
			for _, rate := range rates {
				cell := ""
				if i == 0 {
					cell = times(f.ratio(part, list, []int{n}, rate))
				}
				row = append(row, cell)
			}
			t.row(row...)
		}
	}
	best := []string{"each at its best", "", "", "", ""}
	for _, rate := range rates {
		best = append(best, times(f.ratio(part, list, slots, rate)))
	}
	t.row(best...)
	return t
}

var headings = map[figure]string{
	ownMicros: "own CPU, µs", redisMicros: "Redis CPU, µs", postgresMicros: "PostgreSQL CPU, µs",
	commands: "Redis commands", reads: "Redis socket reads", waitingBytes: "Redis bytes while it waits",
}

// costTable is what one job costs from push to end.
func (f figures) costTable(part part, list []contestant, slots []int, costs []figure) *table {
	t := &table{}
	head := []string{"a job costs", "slots"}
	for _, cost := range costs {
		head = append(head, headings[cost])
	}
	t.row(head...)
	for _, n := range slots {
		for _, c := range list {
			row := []string{c.name, fmt.Sprint(n)}
			for _, cost := range costs {
				row = append(row, number(f.median(key{part, c.name, n, cost})))
			}
			t.row(row...)
		}
	}
	return t
}

func (f figures) latencyTable(part part, list []contestant) *table {
	t := &table{}
	t.row("from push to handler", fmt.Sprintf("at %d/s: p50 ms", steadyRate), "p99 ms", "idle: p50 ms", "p99 ms", "samples a round", "recovery from kill -9, s")
	for _, c := range list {
		row := []string{c.name}
		for _, figure := range []figure{steadyP50, steadyP99, pickupP50, pickupP99} {
			row = append(row, number(f.median(key{part, c.name, 0, figure})))
		}
		row = append(row, whole(f.median(key{part, c.name, 0, pickupSamples})))
		recovered := number(f.median(key{part, c.name, 0, recoverySeconds}))
		if f.median(key{part, c.name, 0, recoverySeconds}) == 0 {
			recovered = fmt.Sprintf("not within %.0f", recoveryLimit.Seconds())
		}
		row = append(row, recovered)
		t.row(row...)
	}
	return t
}

// describe is the head of the page: where, when, how, and of what.
func describe(ctx context.Context, s *stores, o options, started time.Time) string {
	var out bytes.Buffer
	fmt.Fprintf(&out, "# The job queue beside its peers\n\n")
	fmt.Fprintf(&out, "Written by `make bench-queue`; README.md says what the columns mean and how each contestant is set up.\n")
	fmt.Fprintf(&out, "Medians of %d rounds with %d jobs each. Absolute figures drift with the machine; the ratios are what counts.\n\n", o.rounds, o.jobs)
	socket := "their Unix sockets"
	if o.tcp {
		socket = "Redis by TCP on the loopback, PostgreSQL by its Unix socket"
	}
	t := [][2]string{
		{"Machine", machine()},
		{"Started", started.UTC().Format("2006-01-02 15:04") + " UTC, took " + time.Since(started).Round(time.Second).String() + ", " + load()},
		{"Command", "`" + strings.Join(append([]string{"go run ."}, os.Args[1:]...), " ") + "`"},
		{"TaskFlow", output(ctx, "git", "rev-parse", "--short", "HEAD") + changed(ctx)},
		{"Peers", "asynq " + moduleVersion("asynq", "github.com/hibiken/asynq") + ", BullMQ " + packageVersion("bullmq") + ", River " + moduleVersion("river", "github.com/riverqueue/river")},
		{"Runtimes", runtime.Version() + ", Node " + output(ctx, "node", "--version")},
		{"Stores", "Redis " + s.redisVersion(ctx) + " (`--save \"\" --appendonly no`), PostgreSQL " + s.postgresVersion(ctx) + " (durable, default settings), by " + socket},
	}
	for _, line := range t {
		fmt.Fprintf(&out, "- %s: %s\n", line[0], line[1])
	}
	out.WriteString("\n")
	return out.String()
}

func machine() string {
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

func load() string {
	text, _ := os.ReadFile("/proc/loadavg")
	field := strings.Fields(string(text))
	if len(field) < 3 {
		return "load unknown"
	}
	return "load average " + field[2] + " over the last 15 minutes"
}

// output is what a command prints, or nothing.
func output(ctx context.Context, name string, args ...string) string {
	text, _ := exec.CommandContext(ctx, name, args...).Output()
	return strings.TrimSpace(string(text))
}

// changed tells whether the queue's code differs from the commit.
func changed(ctx context.Context) string {
	if output(ctx, "git", "status", "--porcelain", "--", "../*.go", "../migrations", "*.go") != "" {
		return " with changes"
	}
	return ""
}

// moduleVersion is the version of a module in one of the built programs.
func moduleVersion(program, path string) string {
	info, err := buildinfo.ReadFile(filepath.Join(programs, program))
	if err != nil {
		return "?"
	}
	for _, dep := range info.Deps {
		if dep.Path == path {
			return strings.TrimPrefix(dep.Version, "v")
		}
	}
	return "?"
}

func packageVersion(name string) string {
	var p struct{ Version string }
	text, _ := os.ReadFile(filepath.Join("node_modules", name, "package.json"))
	json.Unmarshal(text, &p)
	return p.Version
}

func (s *stores) redisVersion(ctx context.Context) string {
	info, _ := s.redis.InfoMap(ctx, "server").Result()
	return info["Server"]["redis_version"]
}

func (s *stores) postgresVersion(ctx context.Context) string {
	var version string
	s.taskflow.QueryRow(ctx, `SHOW server_version`).Scan(&version)
	version, _, _ = strings.Cut(version, " ")
	return version
}
