// Command bench puts TaskFlow's job queue and its peers under the same loads, on the same machine in
// the same minutes, and writes what it measured to QUEUE.md. README.md says what is measured and how
// each contestant is set up. It must run in its own folder; `make bench-queue` does that.
//
//	main.go      which contestant does what, in which order
//	process.go   talking to contestants
//	stores.go    the private PostgreSQL and Redis, and what they count
//	table.go     ratios, and the page
//	harness/     what this benchmark shares with that of the API, in api/
//	contest/     what the contestants in Go do alike
//	asynq/ river/ bullmq/ and ../queue_bench_test.go   the contestants
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"taskflow/bench/harness"
)

const (
	warmUpJobs     = 2000 // of each process before its jobs are counted
	steadyRate     = 1000 // jobs a second
	steadySeconds  = 3
	latencySlots   = 64
	pickups        = 200
	pickupSeconds  = 6 // a slow contestant has fewer samples
	heldJobs       = 10
	recoveryLimit  = 90 * time.Second
	recoverySettle = 3 * time.Second // between the second worker's start and the first one's death
)

// contestant is a program that takes the orders of package contest.
type contestant struct {
	name    string
	command []string
	env     func(*stores) []string
}

var (
	engineContestants = []contestant{
		{"TaskFlow", []string{"taskflow", "engine"}, (*stores).redisEnv},
		{"asynq", []string{"asynq"}, (*stores).redisEnv},
		{"BullMQ", []string{"node", "bullmq/contest.mjs"}, (*stores).redisEnv},
	}
	// asynqPolling shows what asynq's latency would be if it asked Redis a hundred times a second.
	asynqPolling = contestant{"asynq, TaskCheckInterval 10 ms", []string{"asynq", "-check=10ms"}, (*stores).redisEnv}
	engineSlots  = []int{16, 64, 256}

	outboxContestants = []contestant{
		{"TaskFlow", []string{"taskflow", "outbox"}, (*stores).taskflowEnv},
		{"River", []string{"river"}, (*stores).riverEnv},
	}
	outboxSlots = []int{64, 256, 2000}
)

// options are the flags.
type options struct {
	rounds  int
	jobs    int
	only    string
	tcp     bool
	profile string
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 3, "rounds; figures are medians")
	flag.IntVar(&o.jobs, "jobs", 20_000, "jobs of each throughput figure")
	flag.StringVar(&o.only, "only", "", "any of engine,engine-latency,outbox,outbox-latency,recovery, with commas; then QUEUE.md is not written")
	flag.BoolVar(&o.tcp, "tcp", false, "reach Redis by TCP on the loopback instead of its Unix socket")
	flag.StringVar(&o.profile, "profile", "", "write CPU profiles of TaskFlow's contestants to this folder")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	started := time.Now()
	if err := harness.BuildContestant(ctx); err != nil {
		return err
	}
	if err := harness.Build(ctx, "./asynq", "./river"); err != nil {
		return err
	}
	s, err := openStores(ctx, o.tcp)
	if err != nil {
		return err
	}
	defer s.close()
	b := &bench{options: o, stores: s, figures: figures{}}
	for b.round = range o.rounds {
		fmt.Fprintf(os.Stderr, "round %d of %d\n", b.round+1, o.rounds)
		b.once(ctx)
	}
	if b.wants("recovery") {
		b.recoveries(ctx)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	page := b.figures.page(describe(ctx, s, o, started), b.failures)
	fmt.Println(page)
	if o.only != "" {
		return nil
	}
	return os.WriteFile("QUEUE.md", []byte(page), 0o644)
}

type bench struct {
	options
	stores   *stores
	round    int
	figures  figures
	failures []error
}

func (b *bench) wants(part string) bool {
	return b.only == "" || slices.Contains(strings.Split(b.only, ","), part)
}

// note keeps an error for the page: a contestant that fails spoils its own figure only.
func (b *bench) note(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "failed:", err)
		b.failures = append(b.failures, fmt.Errorf("round %d: %w", b.round+1, err))
	}
}

// once takes each figure of each contestant. Those that are compared follow each other directly.
func (b *bench) once(ctx context.Context) {
	if b.wants("engine") {
		for _, slots := range engineSlots {
			for _, c := range engineContestants {
				b.note(b.throughput(ctx, engine, c, slots))
			}
		}
	}
	if b.wants("engine-latency") {
		for _, c := range slices.Concat(engineContestants, []contestant{asynqPolling}) {
			b.note(b.latency(ctx, engine, c))
		}
	}
	if b.wants("outbox") {
		for _, slots := range outboxSlots {
			for _, c := range outboxContestants {
				b.note(b.throughput(ctx, outbox, c, slots))
			}
		}
	}
	if b.wants("outbox-latency") {
		for _, c := range outboxContestants {
			b.note(b.latency(ctx, outbox, c))
		}
	}
}

// throughput has one process add all jobs, and then run all.
func (b *bench) throughput(ctx context.Context, part part, c contestant, slots int) error {
	p, err := b.start(ctx, c)
	if err != nil {
		return err
	}
	defer p.kill()
	if _, err := p.order("push %d", warmUpJobs); err != nil {
		return err
	}
	if _, err := p.order("drain %d %d", slots, warmUpJobs); err != nil {
		return err
	}
	if _, err := p.order("push 0"); err != nil { // waits for the worker to end
		return err
	}

	before, err := b.stores.count(ctx, p.pid())
	if err != nil {
		return err
	}
	stopProfile, err := b.profiled(p, part, c, slots, "push")
	if err != nil {
		return err
	}
	pushed, err := p.order("push %d", b.jobs)
	if err != nil {
		return err
	}
	if err := stopProfile(); err != nil {
		return err
	}
	between, err := b.stores.count(ctx, p.pid())
	if err != nil {
		return err
	}
	if stopProfile, err = b.profiled(p, part, c, slots, "drain"); err != nil {
		return err
	}
	drained, err := p.order("drain %d %d", slots, b.jobs)
	if err != nil {
		return err
	}
	if err := stopProfile(); err != nil {
		return err
	}
	after, err := b.stores.count(ctx, p.pid())
	if err != nil {
		return err
	}
	if drained.Ran != int64(b.jobs) {
		b.note(fmt.Errorf("%s, %d slots: %d jobs ran %d times", c.name, slots, b.jobs, drained.Ran))
	}

	n := float64(b.jobs)
	spent := after.minus(before)
	add := func(f figure, value float64) { b.figures.add(key{part, c.name, slots, f}, b.round, value) }
	add(enqueueRate, n/pushed.Seconds)
	add(drainRate, n/drained.Seconds)
	add(bothRate, n/(pushed.Seconds+drained.Seconds))
	add(commands, spent.commands/n)
	add(reads, spent.reads/n)
	add(redisMicros, 1e6*spent.redisSeconds/n)
	add(ownMicros, 1e6*spent.ownSeconds/n)
	add(postgresMicros, 1e6*spent.postgresSeconds/n)
	add(waitingBytes, (between.redisBytes-before.redisBytes)/n)
	fmt.Fprintf(os.Stderr, "  %-8s %4d slots: %6.0f enqueue/s, %6.0f drain/s\n", c.name, slots, n/pushed.Seconds, n/drained.Seconds)
	return nil
}

// profiled starts a CPU profile if one is wanted, and returns how to end it.
func (b *bench) profiled(p *process, part part, c contestant, slots int, phase string) (stop func() error, err error) {
	if b.profile == "" || c.name != "TaskFlow" {
		return func() error { return nil }, nil
	}
	_, err = p.order("profile %s/%s-%s-%d.prof", b.profile, part, phase, slots)
	return func() error { _, err := p.order("profile"); return err }, err
}

// latency measures under a steady load and on an idle queue.
func (b *bench) latency(ctx context.Context, part part, c contestant) error {
	p, err := b.start(ctx, c)
	if err != nil {
		return err
	}
	defer p.kill()
	if _, err := p.order("steady %d %d %d", latencySlots, steadyRate, steadyRate); err != nil { // warms up
		return err
	}
	steady, err := p.order("steady %d %d %d", latencySlots, steadySeconds*steadyRate, steadyRate)
	if err != nil {
		return err
	}
	idle, err := p.order("pickup %d %d %d", latencySlots, pickups, pickupSeconds)
	if err != nil {
		return err
	}
	slices.Sort(steady.Ms)
	slices.Sort(idle.Ms)
	add := func(f figure, value float64) { b.figures.add(key{part, c.name, 0, f}, b.round, value) }
	add(steadyP50, harness.Percentile(steady.Ms, 0.50))
	add(steadyP99, harness.Percentile(steady.Ms, 0.99))
	add(pickupP50, harness.Percentile(idle.Ms, 0.50))
	add(pickupP99, harness.Percentile(idle.Ms, 0.99))
	add(pickupSamples, float64(len(idle.Ms)))
	fmt.Fprintf(os.Stderr, "  %-8s steady p50 %.2f ms, p99 %.2f ms; idle p50 %.2f ms, p99 %.2f ms\n", c.name,
		harness.Percentile(steady.Ms, 0.50), harness.Percentile(steady.Ms, 0.99), harness.Percentile(idle.Ms, 0.50), harness.Percentile(idle.Ms, 0.99))
	return nil
}

// start empties the stores and runs a contestant.
func (b *bench) start(ctx context.Context, c contestant) (*process, error) {
	if err := b.stores.reset(ctx); err != nil {
		return nil, err
	}
	return start(ctx, c, b.stores)
}

// recoveries kills a worker of each contestant that holds jobs, all at the same time since there is
// nothing to do but wait.
func (b *bench) recoveries(ctx context.Context) {
	fmt.Fprintf(os.Stderr, "recovery from kill -9, at most %v\n", recoveryLimit)
	if err := b.stores.reset(ctx); err != nil {
		b.note(err)
		return
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	for part, list := range map[part][]contestant{engine: engineContestants, outbox: outboxContestants} {
		for _, c := range list {
			all.Go(func() {
				seconds, err := recovery(ctx, c, b.stores)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					b.note(fmt.Errorf("recovery: %w", err))
					return
				}
				b.figures.add(key{part, c.name, 0, recoverySeconds}, b.round, seconds)
			})
		}
	}
	all.Wait()
}

// recovery is the time from the death of a process that holds jobs until another has run all of
// them and has told the queue; 0 when that is not within the limit.
func recovery(ctx context.Context, c contestant, s *stores) (float64, error) {
	victim, err := start(ctx, c, s)
	if err != nil {
		return 0, err
	}
	defer victim.kill()
	if _, err := victim.order("push %d", heldJobs); err != nil {
		return 0, err
	}
	if _, err := victim.order("hold %d %d", heldJobs, heldJobs); err != nil {
		return 0, err
	}
	heir, err := start(ctx, c, s)
	if err != nil {
		return 0, err
	}
	defer heir.kill()
	defer time.AfterFunc(recoverySettle+recoveryLimit, heir.kill).Stop()
	died := make(chan time.Time, 1)
	time.AfterFunc(recoverySettle, func() {
		died <- time.Now()
		victim.kill()
	})
	_, err = heir.order("drain %d %d", heldJobs, heldJobs)
	finished := time.Now()
	seconds := finished.Sub(<-died).Seconds()
	switch {
	case seconds >= recoveryLimit.Seconds():
		return 0, nil
	case err == nil && seconds < 0.1:
		return 0, fmt.Errorf("%s: jobs ran elsewhere while their worker lived", c.name)
	}
	return seconds, err
}
