// Command api measures TaskFlow's HTTP API beside the limits of the same work, a bare net/http handler
// and pgbench, in the same minutes, and writes what it measured to RESULTS.md. README.md says what is
// measured and how. It must run in the folder bench, after `make build`; `make bench` does both.
//
//	main.go        what is measured, in which order
//	service.go     the programs under test
//	load.go        wrk, pgbench, and what a load costs
//	load.lua       requests for wrk
//	requests.go    which requests
//	data.go        databases full of tasks
//	statements.go  the service's own statements, for pgbench, and their plans
//	results.go     medians, ratios, budgets, and the page
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"taskflow/bench/harness"
)

const (
	usual     = 16  // connections of what the budgets speak of
	crowd     = 512 // connections that must not be refused
	starts    = 5   // of the program, in each round
	idleTime  = 2 * time.Second
	taskflow  = "TaskFlow"
	pgbench   = "pgbench"
	bare      = "bare handler"
	byItself  = "pgbench, the same statements"
	shipped   = "../bin/taskflow"
	profiling = "taskflow-profile" // the binary with profiles, in harness.Programs
)

var connectionCounts = []int{1, 4, usual, 64}

// Works are what is measured.
const (
	getCached    = "GET a task, cached"
	listCached   = "GET 20 tasks of a project, cached"
	getPlain     = "GET a task, cache off"
	listPlain    = "GET 20 tasks by filter and sort, cache off"
	createSpread = "POST a task, 100 projects"
	createOne    = "POST a task, one project"
	searchAll    = "GET 20 tasks by search, all projects"
	searchOne    = "GET 20 tasks by search, one project"
	pageFirst    = "GET 20 tasks of a project, first page"
	pageMiddle   = "GET 20 tasks of a project, page in the middle"
	pageLast     = "GET 20 tasks of a project, last page"
	start        = "start to ready"
	idle         = "idle"
)

// options are the flags.
type options struct {
	rounds  int
	seconds int
	only    string
	sizes   string
	profile string
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 3, "rounds; figures are medians")
	flag.IntVar(&o.seconds, "seconds", 5, "seconds of each measurement")
	flag.StringVar(&o.only, "only", "", "any of "+strings.Join(partNames(), ",")+", with commas; then RESULTS.md is not written")
	flag.StringVar(&o.sizes, "sizes", allSizes, "tasks in the databases, with commas; if not all, RESULTS.md is not written")
	flag.StringVar(&o.profile, "profile", "", "write CPU profiles of the service, in the first round, to this folder; then RESULTS.md is not written")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// part is what is measured together.
type part struct {
	name    string
	sizes   []int // of the databases it is measured on, one after the other
	measure func(*bench, context.Context, dataset) error
}

var parts = []part{
	{"cached", []int{10_000}, (*bench).cached},
	{"uncached", []int{10_000}, (*bench).uncached},
	{"create", []int{10_000}, (*bench).create},
	{"search", []int{10_000, 100_000, 1_000_000}, (*bench).search},
	{"sizes", []int{100_000, 1_000_000}, (*bench).growth},
	{"depth", []int{1_000_000}, (*bench).depth},
	{"start", []int{10_000}, (*bench).starting},
	{"plans", []int{10_000, 100_000, 1_000_000}, (*bench).explain},
}

const allSizes = "10000,100000,1000000"

func partNames() (names []string) {
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

func (o options) check() error {
	for name := range strings.SplitSeq(o.only, ",") {
		if name != "" && !slices.Contains(partNames(), name) {
			return fmt.Errorf("-only takes any of %s", strings.Join(partNames(), ","))
		}
	}
	for size := range strings.SplitSeq(o.sizes, ",") {
		if !slices.Contains(strings.Split(allSizes, ","), size) {
			return fmt.Errorf("-sizes takes any of %s", allSizes)
		}
	}
	if o.rounds < 1 || o.seconds < 1 {
		return errors.New("-rounds and -seconds must be at least 1")
	}
	return nil
}

// wants tells whether a part is to be measured on a database of a size.
func (o options) wants(p part, size int) bool {
	return (o.only == "" || slices.Contains(strings.Split(o.only, ","), p.name)) &&
		slices.Contains(strings.Split(o.sizes, ","), strconv.Itoa(size))
}

// whole tells whether all is measured, as RESULTS.md shows it.
func (o options) whole() bool { return o.only == "" && o.sizes == allSizes && o.profile == "" }

type bench struct {
	options
	began    time.Time
	program  string // TaskFlow's
	pgbench  string
	servers  *harness.Servers
	db       *pgx.Conn // to a database that is not measured
	started  int       // processes so far
	world    *world
	scripts  scripts
	pages    map[string]string // requests for pages of the deep project, once found
	plans    []plan
	round    int
	results  results
	failures []error
}

func run(ctx context.Context, o options) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	b := &bench{options: o, began: time.Now(), program: shipped, results: results{}}
	if err := b.build(ctx); err != nil {
		return err
	}
	if b.servers, err = harness.StartServers(ctx); err != nil {
		return err
	}
	defer b.servers.Close()
	if b.db, err = pgx.Connect(ctx, b.servers.Database); err != nil {
		return err
	}
	defer b.db.Close(context.Background())
	if err := b.prepare(ctx); err != nil {
		return err
	}
	for b.round = range o.rounds {
		b.say("round %d of %d", b.round+1, o.rounds)
		for _, p := range parts {
			for _, d := range datasets {
				if slices.Contains(p.sizes, d.size) && o.wants(p, d.size) && ctx.Err() == nil {
					b.note(p.measure(b, ctx, d))
				}
			}
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	page := b.page(ctx)
	fmt.Println(page)
	if !o.whole() {
		return nil
	}
	return os.WriteFile("RESULTS.md", []byte(page), 0o644)
}

func (b *bench) build(ctx context.Context) (err error) {
	if b.pgbench, err = findPgbench(); err != nil {
		return err
	}
	if err := harness.BuildContestant(ctx); err != nil {
		return err
	}
	if err := harness.Build(ctx, "./bare"); err != nil {
		return err
	}
	if b.profile == "" {
		return nil
	}
	if err := os.MkdirAll(b.profile, 0o755); err != nil {
		return err
	}
	b.program = filepath.Join(harness.Programs, profiling)
	return harness.BuildWith(ctx, "profile/profile.go", "profile.go", "build", "-trimpath", "-buildvcs=false", "-o="+profiling)
}

// prepare makes the databases that the wanted parts are measured on; the smallest is always there,
// since the scripts for pgbench come from it.
func (b *bench) prepare(ctx context.Context) error {
	if _, err := b.db.Exec(ctx, `ALTER SYSTEM SET log_line_prefix = '`+logPrefix+`'`); err != nil {
		return err
	}
	if _, err := b.db.Exec(ctx, `SELECT pg_reload_conf()`); err != nil {
		return err
	}
	b.say("making accounts and projects")
	if err := b.makeWorld(ctx); err != nil {
		return err
	}
	for i, d := range datasets {
		if i > 0 && !slices.ContainsFunc(parts, func(p part) bool { return slices.Contains(p.sizes, d.size) && b.wants(p, d.size) }) {
			continue
		}
		b.say("making %d tasks", d.size)
		if err := b.fill(ctx, d); err != nil {
			return err
		}
	}
	b.say("recording statements")
	return b.record(ctx)
}

// say tells whoever waits what is going on.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%7s  %s\n", time.Since(b.began).Round(time.Second), fmt.Sprintf(format, args...))
}

// note keeps an error for the page: what fails spoils its own figure only.
func (b *bench) note(err error) {
	if err != nil {
		b.say("failed: %v", err)
		b.failures = append(b.failures, fmt.Errorf("round %d: %w", b.round+1, err))
	}
}

// pair measures ours and the limit beside it, one directly after the other; which is first changes
// from round to round.
func (b *bench) pair(ours, limit func() error) {
	both := []func() error{ours, limit}
	if b.round%2 == 1 {
		slices.Reverse(both)
	}
	for _, measure := range both {
		b.note(measure())
	}
}

// cached reads what has been read before.
func (b *bench) cached(ctx context.Context, d dataset) error {
	s, err := b.serve(ctx, d.database(), "CACHE=on")
	if err != nil {
		return err
	}
	defer s.stop()
	compare := func(work string, requests []string, counts ...int) error {
		body, err := b.ask(ctx, s, requests)
		if err != nil {
			return err
		}
		limit, err := b.serveBare(body)
		if err != nil {
			return err
		}
		defer limit.stop()
		for _, n := range counts {
			b.pair(
				func() error { return b.load(ctx, s, row{work, taskflow, d.size, n}, requests) },
				func() error { return b.load(ctx, limit, row{work, bare, d.size, n}, requests) })
		}
		return nil
	}
	reads := b.reads(d)
	if err := compare(getCached, reads, connectionCounts...); err != nil {
		return err
	}
	if err := compare(listCached, b.lists(d), usual); err != nil {
		return err
	}
	return b.load(ctx, s, row{getCached, taskflow, d.size, crowd}, reads)
}

// uncached reads from the database each time.
func (b *bench) uncached(ctx context.Context, d dataset) error {
	s, err := b.serve(ctx, d.database(), "CACHE=off")
	if err != nil {
		return err
	}
	defer s.stop()
	reads := b.reads(d)
	for _, n := range connectionCounts {
		b.pair(
			func() error { return b.load(ctx, s, row{getPlain, taskflow, d.size, n}, reads) },
			func() error { return b.transact(ctx, d.database(), row{getPlain, pgbench, d.size, n}, b.scripts.byKey) })
	}
	b.note(b.transact(ctx, d.database(), row{getPlain, byItself, d.size, usual}, b.scripts.read))
	b.pair(
		func() error { return b.load(ctx, s, row{listPlain, taskflow, d.size, usual}, b.filtered(d)) },
		func() error {
			return b.transact(ctx, d.database(), row{listPlain, pgbench, d.size, usual}, b.scripts.list)
		})
	return b.load(ctx, s, row{getPlain, taskflow, d.size, crowd}, reads)
}

// create makes tasks, each measurement on a fresh copy of the database, since it grows.
func (b *bench) create(ctx context.Context, d dataset) error {
	all := b.world.spread()
	compare := func(work string, n int, projects []string, script string) {
		b.pair(
			func() error { return b.creates(ctx, row{work, taskflow, d.size, n}, d, projects) },
			func() error {
				return b.onClone(ctx, d, func(database string) error {
					return b.transact(ctx, database, row{work, pgbench, d.size, n}, script)
				})
			})
	}
	for _, n := range connectionCounts {
		compare(createSpread, n, all, b.scripts.create)
		compare(createOne, n, all[:1], b.scripts.createOne)
	}
	return b.creates(ctx, row{createSpread, taskflow, d.size, crowd}, d, all)
}

func (b *bench) creates(ctx context.Context, r row, d dataset, projects []string) error {
	return b.onClone(ctx, d, func(database string) error {
		s, err := b.serve(ctx, database, "CACHE=on")
		if err != nil {
			return err
		}
		defer s.stop()
		return b.load(ctx, s, r, b.newTasks(projects))
	})
}

// search finds tasks by words.
func (b *bench) search(ctx context.Context, d dataset) error {
	s, err := b.serve(ctx, d.database(), "CACHE=off")
	if err != nil {
		return err
	}
	defer s.stop()
	b.note(b.load(ctx, s, row{searchAll, taskflow, d.size, usual}, b.searches("")))
	return b.load(ctx, s, row{searchOne, taskflow, d.size, usual}, b.searches("&projectId="+b.fullest(d)))
}

// growth measures on larger databases what other parts measure on the smallest one.
func (b *bench) growth(ctx context.Context, d dataset) error {
	s, err := b.serve(ctx, d.database(), "CACHE=on")
	if err != nil {
		return err
	}
	defer s.stop()
	if _, err := b.ask(ctx, s, b.reads(d)); err != nil {
		return err
	}
	b.note(b.load(ctx, s, row{getCached, taskflow, d.size, usual}, b.reads(d)))
	s.stop()
	if s, err = b.serve(ctx, d.database(), "CACHE=off"); err != nil {
		return err
	}
	defer s.stop()
	b.note(b.load(ctx, s, row{getPlain, taskflow, d.size, usual}, b.reads(d)))
	b.note(b.load(ctx, s, row{listPlain, taskflow, d.size, usual}, b.filtered(d)))
	s.stop()
	return b.creates(ctx, row{createSpread, taskflow, d.size, usual}, d, b.world.spread())
}

// depth reads pages at the beginning and far behind it, of one order.
func (b *bench) depth(ctx context.Context, d dataset) error {
	if err := b.findPages(ctx, d); err != nil {
		return err
	}
	s, err := b.serve(ctx, d.database(), "CACHE=off")
	if err != nil {
		return err
	}
	defer s.stop()
	for _, work := range []string{pageFirst, pageMiddle, pageLast} {
		b.note(b.load(ctx, s, row{work, taskflow, d.size, usual}, []string{b.pages[work]}))
	}
	return nil
}

// starting starts the program on an existing database, and looks at it while it has nothing to do.
func (b *bench) starting(ctx context.Context, d dataset) error {
	s, err := b.serve(ctx, d.database())
	if err != nil {
		return err
	}
	s.end()
	var ms []float64
	for i := range starts {
		s, err := b.serveAgain(ctx, d.database())
		if err != nil {
			return err
		}
		ms = append(ms, float64(s.started.Microseconds())/1e3)
		if i == starts-1 {
			select {
			case <-time.After(idleTime):
			case <-ctx.Done():
			}
			b.results.add(row{idle, taskflow, d.size, 0}, b.round, sample{memory: memory{own: harness.Resident(s.pid())}})
		}
		s.end() // one that was killed would keep its place among the processes for a second
	}
	b.results.add(row{start, taskflow, d.size, 0}, b.round, sample{p50: harness.Median(ms)})
	return nil
}

// explain takes the plans of the hot statements, each from a database on which it has something to do.
func (b *bench) explain(ctx context.Context, d dataset) error {
	if b.round > 0 {
		return nil
	}
	switch d.size {
	case 10_000:
		return b.onClone(ctx, d, func(database string) error {
			return b.plansOf(ctx, d, database, createSpread, b.sending(b.newTasks(b.world.spread())[0]))
		})
	case 100_000:
		return b.plansOf(ctx, d, d.database(), searchAll, b.sending(b.searches("")[1]))
	}
	if err := b.findPages(ctx, d); err != nil {
		return err
	}
	return errors.Join(
		b.plansOf(ctx, d, d.database(), getPlain, b.sending(b.reads(d)[0])),
		b.plansOf(ctx, d, d.database(), listPlain, b.sending(b.filtered(d)[0])),
		b.plansOf(ctx, d, d.database(), pageLast, b.sending(b.pages[pageLast])),
	)
}
