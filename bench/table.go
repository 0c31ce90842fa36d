package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"taskflow/bench/harness"
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

func (f figures) median(k key) float64 { return harness.Median(slices.Collect(maps.Values(f[k]))) }

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
	return harness.Median(ratios)
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
	f.rateTable(engine, engineContestants, engineSlots).Write(out)
	f.costTable(engine, engineContestants, engineSlots, []figure{ownMicros, redisMicros, commands, reads, waitingBytes}).Write(out)
	f.latencyTable(engine, slices.Concat(engineContestants, []contestant{asynqPolling})).Write(out)
	out.WriteString("## Jobs made in a transaction\n\n")
	f.rateTable(outbox, outboxContestants, outboxSlots).Write(out)
	f.costTable(outbox, outboxContestants, outboxSlots, []figure{ownMicros, redisMicros, postgresMicros, commands, reads}).Write(out)
	f.latencyTable(outbox, outboxContestants).Write(out)
	return strings.TrimSuffix(out.String(), "\n")
}

// rateTable compares each number of slots, and each contestant's best.
func (f figures) rateTable(part part, list []contestant, slots []int) *harness.Table {
	t := &harness.Table{Labels: 2}
	t.Row("jobs a second", "slots", "enqueue", "drain", "both", "TaskFlow to the faster peer: enqueue", "drain", "both")
	rates := []figure{enqueueRate, drainRate, bothRate}
	for _, n := range slots {
		for i, c := range list {
			row := []string{c.name, fmt.Sprint(n)}
			for _, rate := range rates {
				row = append(row, harness.Number(f.median(key{part, c.name, n, rate})))
			}
			for _, rate := range rates {
				cell := ""
				if i == 0 {
					cell = harness.Times(f.ratio(part, list, []int{n}, rate))
				}
				row = append(row, cell)
			}
			t.Row(row...)
		}
	}
	best := []string{"each at its best", "", "", "", ""}
	for _, rate := range rates {
		best = append(best, harness.Times(f.ratio(part, list, slots, rate)))
	}
	t.Row(best...)
	return t
}

var headings = map[figure]string{
	ownMicros: "own CPU, µs", redisMicros: "Redis CPU, µs", postgresMicros: "PostgreSQL CPU, µs",
	commands: "Redis commands", reads: "Redis socket reads", waitingBytes: "Redis bytes while it waits",
}

// costTable is what one job costs from push to end.
func (f figures) costTable(part part, list []contestant, slots []int, costs []figure) *harness.Table {
	t := &harness.Table{Labels: 2}
	head := []string{"a job costs", "slots"}
	for _, cost := range costs {
		head = append(head, headings[cost])
	}
	t.Row(head...)
	for _, n := range slots {
		for _, c := range list {
			row := []string{c.name, fmt.Sprint(n)}
			for _, cost := range costs {
				row = append(row, harness.Number(f.median(key{part, c.name, n, cost})))
			}
			t.Row(row...)
		}
	}
	return t
}

func (f figures) latencyTable(part part, list []contestant) *harness.Table {
	t := &harness.Table{Labels: 2}
	t.Row("from push to handler", fmt.Sprintf("at %d/s: p50 ms", steadyRate), "p99 ms", "idle: p50 ms", "p99 ms", "samples a round", "recovery from kill -9, s")
	for _, c := range list {
		row := []string{c.name}
		for _, figure := range []figure{steadyP50, steadyP99, pickupP50, pickupP99} {
			row = append(row, harness.Number(f.median(key{part, c.name, 0, figure})))
		}
		row = append(row, harness.Whole(f.median(key{part, c.name, 0, pickupSamples})))
		recovered := harness.Number(f.median(key{part, c.name, 0, recoverySeconds}))
		if f.median(key{part, c.name, 0, recoverySeconds}) == 0 {
			recovered = fmt.Sprintf("not within %.0f", recoveryLimit.Seconds())
		}
		row = append(row, recovered)
		t.Row(row...)
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
		{"Machine", harness.Machine()},
		{"Started", started.UTC().Format("2006-01-02 15:04") + " UTC, took " + time.Since(started).Round(time.Second).String() + ", " + harness.Load()},
		{"Command", "`" + strings.Join(append([]string{"go run ."}, os.Args[1:]...), " ") + "`"},
		{"TaskFlow", harness.Commit(ctx)},
		{"Peers", "asynq " + moduleVersion("asynq", "github.com/hibiken/asynq") + ", BullMQ " + packageVersion("bullmq") + ", River " + moduleVersion("river", "github.com/riverqueue/river")},
		{"Runtimes", runtime.Version() + ", Node " + harness.Output(ctx, "node", "--version")},
		{"Stores", "Redis " + s.RedisVersion(ctx) + " (`--save \"\" --appendonly no`), PostgreSQL " + s.postgresVersion(ctx) + " (durable, default settings), by " + socket},
	}
	for _, line := range t {
		fmt.Fprintf(&out, "- %s: %s\n", line[0], line[1])
	}
	out.WriteString("\n")
	return out.String()
}

// moduleVersion is the version of a module in one of the built programs.
func moduleVersion(program, path string) string {
	info, err := buildinfo.ReadFile(filepath.Join(harness.Programs, program))
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

func (s *stores) postgresVersion(ctx context.Context) string {
	var version string
	s.taskflow.QueryRow(ctx, `SHOW server_version`).Scan(&version)
	version, _, _ = strings.Cut(version, " ")
	return version
}
