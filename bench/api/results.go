package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"taskflow/bench/harness"
)

// row is one thing measured.
type row struct {
	work        string
	who         string // TaskFlow, or the limit
	size        int    // of the database, in tasks
	connections int
}

func (r row) String() string {
	return fmt.Sprintf("%s: %s, %d tasks, %d connections", r.work, r.who, r.size, r.connections)
}

// results are all samples, by round. What failed is missing.
type results map[row]map[int]sample

func (r results) add(to row, round int, s sample) {
	if r[to] == nil {
		r[to] = map[int]sample{}
	}
	r[to][round] = s
}

// median is that of one figure of a row over all rounds.
func (r results) median(of row, figure func(sample) float64) float64 {
	var list []float64
	for _, s := range r[of] {
		list = append(list, figure(s))
	}
	return harness.Median(list)
}

// ratio is the median of the ratios of one figure of two rows in the same round.
func (r results) ratio(ours, limit row, figure func(sample) float64) float64 {
	var list []float64
	for round, s := range r[ours] {
		if l, ok := r[limit][round]; ok {
			list = append(list, figure(s)/figure(l))
		}
	}
	return harness.Median(list)
}

// Figures of a sample.
func rate(s sample) float64     { return s.rate }
func p50(s sample) float64      { return s.p50 }
func p99(s sample) float64      { return s.p99 }
func tail(s sample) float64     { return s.p99 / s.p50 }
func period(s sample) float64   { return 1 / s.rate }
func resident(s sample) float64 { return s.memory.own / megabyte }

const megabyte = 1e6 // bytes

// ratios are the budgets beside a limit, at the usual number of connections.
var ratios = []struct {
	work, limit string
	least, aim  float64
}{
	{getCached, bare, 0.40, 0.65},
	{listCached, bare, 0.40, 0.65},
	{getPlain, pgbench, 0.35, 0.50},
	{listPlain, pgbench, 0.40, 0.60},
	{createSpread, pgbench, 0.50, 0.80},
	{createOne, pgbench, 0.50, 0.80},
}

// bounds are the other budgets.
var bounds = []struct {
	what      string
	unit      string
	value     func(results) float64
	most, aim float64
}{
	{"search in 100 000 tasks, p99", "ms", medianOf(row{searchAll, taskflow, 100_000, usual}, p99), 50, 20},
	{"1 000 000 tasks in a project, time of the last page to that of the first", "×", func(r results) float64 {
		return r.ratio(row{pageLast, taskflow, 1_000_000, usual}, row{pageFirst, taskflow, 1_000_000, usual}, period)
	}, 1.2, 1.05},
	{"resident memory, idle", "MB", medianOf(row{idle, taskflow, 10_000, 0}, resident), 40, 30},
	{"resident memory under the cached GET load", "MB", medianOf(row{getCached, taskflow, 10_000, usual}, resident), 90, 60},
	{"start to ready on an existing database", "ms", medianOf(row{start, taskflow, 10_000, 0}, p50), 300, 150},
	{"binary", "MB", func(results) float64 { return fileSize(shipped) / megabyte }, 25, 20},
}

func medianOf(of row, figure func(sample) float64) func(results) float64 {
	return func(r results) float64 { return r.median(of, figure) }
}

func fileSize(path string) float64 {
	info, err := os.Stat(path)
	if err != nil {
		return math.NaN()
	}
	return float64(info.Size())
}

// verdict says which of its bounds a figure keeps.
func verdict(kept, aimed bool) string {
	switch {
	case aimed:
		return "aim met"
	case kept:
		return "yes"
	}
	return "**no**"
}

// page is RESULTS.md.
func (b *bench) page(ctx context.Context) string {
	var out bytes.Buffer
	b.describe(ctx, &out)
	if len(b.failures) > 0 {
		out.WriteString("## Failures\n\n")
		for _, err := range b.failures {
			fmt.Fprintf(&out, "- %s\n", strings.ReplaceAll(err.Error(), "\n", "\n  "))
		}
		out.WriteString("\n")
	}
	r := b.results
	section(&out, "Budgets", fmt.Sprintf("10 000 tasks and %d connections where nothing else is said.", usual), r.ratioTable(), r.boundTable())
	section(&out, "By number of connections", "10 000 tasks.", r.connectionTable(), r.crowdTable())
	section(&out, "By number of tasks", fmt.Sprintf("%d connections.", usual), r.sizeTable())
	section(&out, "What a request costs", "", r.costTable())
	if len(b.plans) > 0 {
		out.WriteString("## Plans\n\nOf the statements of one request, after twenty like it on the same connection. The statements are in the code.\n\n")
		request := ""
		for _, p := range b.plans {
			if p.request != request {
				request = p.request
				fmt.Fprintf(&out, "### %s, %s tasks\n\n", request, harness.Number(float64(p.size)))
			}
			fmt.Fprintf(&out, "`%s`\n\n```\n%s\n```\n\n", beginning(p.sql), p.text)
		}
	}
	return strings.TrimSuffix(out.String(), "\n")
}

// section leaves itself out where no table has a figure.
func section(out *bytes.Buffer, title, text string, tables ...*harness.Table) {
	var inside bytes.Buffer
	for _, t := range tables {
		t.Write(&inside)
	}
	if inside.Len() == 0 {
		return
	}
	fmt.Fprintf(out, "## %s\n\n", title)
	if text != "" {
		fmt.Fprintf(out, "%s\n\n", text)
	}
	out.Write(inside.Bytes())
}

// beginning is enough of a statement to find it in the code.
func beginning(sql string) string {
	words := strings.Fields(sql)
	if len(words) > 8 {
		words = append(words[:8], "…")
	}
	return strings.Join(words, " ")
}

func (r results) ratioTable() *harness.Table {
	t := &harness.Table{Labels: 2}
	t.Row("work", "limit", "TaskFlow /s", "limit /s", "ratio", "at least", "aim", "met", "p50 ms", "p99 ms")
	for _, budget := range ratios {
		ours, limit := row{budget.work, taskflow, 10_000, usual}, row{budget.work, budget.limit, 10_000, usual}
		ratio := r.ratio(ours, limit, rate)
		if math.IsNaN(ratio) {
			continue
		}
		t.Row(budget.work, budget.limit, harness.Number(r.median(ours, rate)), harness.Number(r.median(limit, rate)), harness.Number(ratio),
			harness.Number(budget.least), harness.Number(budget.aim), verdict(ratio >= budget.least, ratio >= budget.aim),
			harness.Number(r.median(ours, p50)), harness.Number(r.median(ours, p99)))
	}
	ours, own := row{getPlain, taskflow, 10_000, usual}, row{getPlain, byItself, 10_000, usual}
	if ratio := r.ratio(ours, own, rate); !math.IsNaN(ratio) {
		t.Row(getPlain, byItself, harness.Number(r.median(ours, rate)), harness.Number(r.median(own, rate)), harness.Number(ratio), "", "", "", "", "")
	}
	return t
}

func (r results) boundTable() *harness.Table {
	t := &harness.Table{Labels: 2}
	t.Row("what", "unit", "measured", "less than", "aim", "met")
	for _, budget := range bounds {
		value := budget.value(r)
		if math.IsNaN(value) {
			continue
		}
		t.Row(budget.what, budget.unit, harness.Number(value), harness.Number(budget.most), harness.Number(budget.aim),
			verdict(value <= budget.most, value <= budget.aim))
	}
	return t
}

func (r results) connectionTable() *harness.Table {
	t := &harness.Table{Labels: 2}
	t.Row("work", "connections", "TaskFlow /s", "limit /s", "ratio", "p50 ms", "p99 ms", "p99 / p50")
	for _, budget := range ratios {
		for _, n := range connectionCounts {
			ours, limit := row{budget.work, taskflow, 10_000, n}, row{budget.work, budget.limit, 10_000, n}
			if r[ours] == nil {
				continue
			}
			t.Row(budget.work, fmt.Sprint(n), harness.Number(r.median(ours, rate)), harness.Number(r.median(limit, rate)), harness.Number(r.ratio(ours, limit, rate)),
				harness.Number(r.median(ours, p50)), harness.Number(r.median(ours, p99)), harness.Number(r.median(ours, tail)))
		}
	}
	return t
}

// crowdTable adds up what was refused and broken in all rounds: one is one too many.
func (r results) crowdTable() *harness.Table {
	t := &harness.Table{Labels: 1}
	t.Row(fmt.Sprintf("%d connections", crowd), "a second", "p50 ms", "p99 ms", "answers refused", "broken or late")
	for _, work := range []string{getCached, getPlain, createSpread} {
		of := row{work, taskflow, 10_000, crowd}
		refused, broken := math.NaN(), math.NaN()
		if r[of] != nil {
			refused, broken = 0, 0
		}
		for _, s := range r[of] {
			refused, broken = refused+s.refused, broken+s.broken
		}
		t.Row(work, harness.Number(r.median(of, rate)), harness.Number(r.median(of, p50)), harness.Number(r.median(of, p99)), harness.Whole(refused), harness.Whole(broken))
	}
	return t
}

func (r results) sizeTable() *harness.Table {
	t := &harness.Table{Labels: 1}
	head := []string{"work"}
	for _, d := range datasets {
		head = append(head, harness.Number(float64(d.size))+" tasks: /s", "p50 ms", "p99 ms")
	}
	t.Row(head...)
	for _, work := range []string{getCached, getPlain, listPlain, searchAll, searchOne, createSpread, pageFirst, pageMiddle, pageLast} {
		cells := []string{work}
		for _, d := range datasets {
			of := row{work, taskflow, d.size, usual}
			cells = append(cells, harness.Number(r.median(of, rate)), harness.Number(r.median(of, p50)), harness.Number(r.median(of, p99)))
		}
		t.Row(cells...)
	}
	return t
}

// costTable is what each measurement has used up, request for request.
func (r results) costTable() *harness.Table {
	t := &harness.Table{Labels: 4}
	t.Row("work", "by", "tasks", "connections", "own CPU µs", "PostgreSQL CPU µs", "Redis CPU µs", "own MB", "PostgreSQL MB", "Redis MB")
	costs := []func(sample) float64{
		func(s sample) float64 { return s.own }, func(s sample) float64 { return s.postgres }, func(s sample) float64 { return s.redis },
		resident, func(s sample) float64 { return s.memory.postgres / megabyte }, func(s sample) float64 { return s.memory.redis / megabyte },
	}
	for _, of := range slices.SortedFunc(maps.Keys(r), byWork) {
		if of.connections == 0 {
			continue
		}
		cells := []string{of.work, of.who, harness.Number(float64(of.size)), fmt.Sprint(of.connections)}
		for _, cost := range costs {
			cells = append(cells, harness.Number(r.median(of, cost)))
		}
		t.Row(cells...)
	}
	return t
}

func byWork(a, b row) int {
	order := []string{getCached, listCached, getPlain, listPlain, createSpread, createOne, searchAll, searchOne, pageFirst, pageMiddle, pageLast}
	return cmp.Or(cmp.Compare(slices.Index(order, a.work), slices.Index(order, b.work)), cmp.Compare(a.size, b.size),
		cmp.Compare(a.connections, b.connections), cmp.Compare(a.who, b.who))
}

// describe is the head of the page: where, when, how, and of what.
func (b *bench) describe(ctx context.Context, out *bytes.Buffer) {
	fmt.Fprintf(out, "# The API beside its limits\n\n")
	fmt.Fprintf(out, "Written by `make bench`; README.md says what is measured and how. Medians of %d rounds, %d s for each measurement.\n", b.rounds, b.seconds)
	fmt.Fprintf(out, "Absolute figures drift with the machine; the ratios, each of two measurements in the same minute, are what counts.\n\n")
	version := ""
	b.db.QueryRow(ctx, `SHOW server_version`).Scan(&version)
	version, _, _ = strings.Cut(version, " ")
	wrk, _, _ := strings.Cut(harness.Output(ctx, "wrk", "-v"), " [")
	for _, line := range [][2]string{
		{"Machine", harness.Machine() + "; the load, the service and its servers share it"},
		{"Started", b.began.UTC().Format("2006-01-02 15:04") + " UTC, took " + time.Since(b.began).Round(time.Second).String() + ", " + harness.Load()},
		{"Command", "`make bench" + arguments() + "`"},
		{"TaskFlow", harness.Commit(ctx) + ", " + runtime.Version() + ", one process with its default settings but for `ROLE=api`, logging to a file"},
		{"Servers", "PostgreSQL " + version + " (durable, default settings), Redis " + b.servers.RedisVersion(ctx) + " (`--save \"\" --appendonly no`), by their Unix sockets"},
		{"Load", wrk + " (`-t1`, one request at a time on each connection), pgbench (`-M prepared -j 1`)"},
	} {
		fmt.Fprintf(out, "- %s: %s\n", line[0], line[1])
	}
	out.WriteString("\n")
}

func arguments() string {
	if len(os.Args) < 2 {
		return ""
	}
	return " ARGS='" + strings.Join(os.Args[1:], " ") + "'"
}
