package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Limits and times of workers.
const (
	workerBeat     = 3 * time.Second  // at most between beats
	workerBlind    = 13 * time.Second // without a good beat until handlers are cancelled: others may soon run their jobs
	reapEvery      = 2 * time.Second
	idleWait       = time.Second // longest sleep of an idle worker: the price of a lost wake token
	ignoredTimeout = 10 * time.Second
	maxAttempts    = 20
	maxRetryDelay  = 6 * time.Hour
	maxErrorText   = 2 << 10 // bytes kept of an error, and as many of its stack
)

// permanentError is a failure that repeating cannot mend.
type permanentError struct{ error }

func permanent(err error) error { return permanentError{err} }

func (e permanentError) Unwrap() error { return e.error }

// retryAfterError is a failure that says when to try again.
type retryAfterError struct {
	error
	after time.Duration
}

func retryAfter(d time.Duration, err error) error { return retryAfterError{err, d} }

func (e retryAfterError) Unwrap() error { return e.error }

// panicError is a handler's panic.
type panicError struct {
	value  any
	stack  string
	frames []frame
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// endingOf decides what becomes of a job whose handler returned err at this attempt: the delay
// doubles from two seconds to six hours, and half of it is chance so that jobs that failed
// together do not return together.
func endingOf(err error, attempt int) ending {
	if err == nil {
		return done
	}
	e := ending{mode: "retry", err: strings.ReplaceAll(clip(err.Error(), maxErrorText), "\x00", "")}
	if p, ok := errors.AsType[*panicError](err); ok {
		e.stack = clip(p.stack, maxErrorText)
	}
	if _, ok := errors.AsType[permanentError](err); ok || attempt >= maxAttempts {
		e.mode = "dead"
	} else if r, ok := errors.AsType[retryAfterError](err); ok {
		e.after = r.after
	} else {
		delay := min(maxRetryDelay, 2*time.Second<<min(attempt-1, 20))
		e.after = delay/2 + rand.N(delay/2)
	}
	return e
}

// worker is one process's part in a queue: it takes jobs, runs them in up to slots goroutines and
// ends them, with one step in flight. Endings gather while it flies, so the batches grow with the
// load, and an idle queue costs a step a second.
type worker struct {
	q       *queue
	slots   int
	handle  func(ctx context.Context, j job, end func(ending)) // must call end once, perhaps after it returned
	timeout func(kind string) time.Duration
	report  func(error) // what the log should know

	id       string // changes when the worker was taken for dead
	beaten   bool   // registered under this id
	lastBeat time.Time
	held     map[string]*heldJob
	waiting  []*heldJob // held, for want of a slot not started
	running  int
	notes    chan note
	ended    []endedJob // to be told in the next step
	counters map[string]int
	recent   []any
	lastReap time.Time
	due      time.Time // of the first delayed job
	more     bool      // the last step filled its want
	leaving  bool      // starts nothing more
}

// heldJob is a job this process may end.
type heldJob struct {
	job
	cancel  context.CancelCauseFunc // nil until started
	started time.Time
	suspect bool
}

// note tells the pump what happened to a job: its handler returned, or its ending is known.
type note struct {
	job    *heldJob
	slot   bool // a slot is free
	ending *ending
}

type endedJob struct {
	job *heldJob
	ending
	took time.Duration
}

var (
	errLeaseLost = errors.New("the worker lost touch with Redis; another may run the job")
	errCancelled = errors.New("cancelled by an operator")
	errStopping  = errors.New("the worker is stopping")
)

// work runs jobs until ctx ends, then gives back what has not started, waits up to patience for
// what has, and gives back the rest. timeout is a kind's; handle gets a context that ends then.
func (q *queue) work(ctx context.Context, slots int, patience time.Duration, timeout func(kind string) time.Duration,
	handle func(context.Context, job, func(ending)), report func(error)) {
	w := newWorker(q, slots, timeout, handle, report)
	wake := make(chan struct{}, 1)
	idle := make(chan struct{}, 1)
	waking, stopWaking := context.WithCancel(context.Background())
	var helpers sync.WaitGroup
	helpers.Go(func() { q.awaken(waking, idle, wake) })
	for ctx.Err() == nil {
		if w.quiet() {
			w.sleep(ctx, idle, wake)
		}
		w.gather()
		w.step(ctx, w.want())
	}
	stopWaking()
	w.stop(patience)
	helpers.Wait()
}

func newWorker(q *queue, slots int, timeout func(string) time.Duration, handle func(context.Context, job, func(ending)), report func(error)) *worker {
	w := &worker{
		q: q, slots: slots, handle: handle, timeout: timeout, report: report,
		held: map[string]*heldJob{}, notes: make(chan note, 4*maxBatch), counters: map[string]int{},
	}
	w.rename()
	return w
}

// rename gives the worker an id that no other process, and no earlier life of it, has had.
func (w *worker) rename() {
	host, _ := os.Hostname()
	w.id = fmt.Sprintf("%s-%d-%08x", strings.ReplaceAll(clip(host, 40), " ", "_"), os.Getpid(), rand.Uint32())
	w.beaten = false
	w.lastBeat = time.Now()
}

// want is how many more jobs to take: up to a second job for each slot, so that a step's round
// trip is not waited for.
func (w *worker) want() int { return max(0, min(maxBatch, 2*w.slots-len(w.held))) }

// quiet tells whether there is nothing to say to Redis now.
func (w *worker) quiet() bool {
	return len(w.ended) == 0 && len(w.notes) == 0 && !(w.more && w.want() > 0)
}

// sleep waits for work: a wake token, an ending, a due job, or the time of the next beat.
func (w *worker) sleep(ctx context.Context, idle, wake chan struct{}) {
	wait := workerBeat
	if w.want() > 0 {
		wait = idleWait
		if !w.due.IsZero() {
			wait = max(time.Millisecond, min(wait, time.Until(w.due)))
		}
		select {
		case idle <- struct{}{}:
		default:
		}
	} else {
		wake = nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case n := <-w.notes:
		w.take(n)
	case <-wake:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// awaken pops wake tokens, on a connection of its own since the pop blocks, while the worker idles.
func (q *queue) awaken(ctx context.Context, idle, wake chan struct{}) {
	for {
		select {
		case <-idle:
		case <-ctx.Done():
			return
		}
		if err := q.redis.BLPop(ctx, idleWait, q.prefix+"wake").Err(); err == nil {
			select {
			case wake <- struct{}{}:
			default:
			}
		}
	}
}

// gather takes in all notes that wait.
func (w *worker) gather() {
	for {
		select {
		case n := <-w.notes:
			w.take(n)
		default:
			return
		}
	}
}

// take handles one note. An ending for a job no longer held is from a life that was reaped.
func (w *worker) take(n note) {
	if n.slot {
		w.running--
		w.startWaiting()
	}
	if n.ending == nil || w.held[n.job.ID] != n.job {
		return
	}
	w.finish(n.job, *n.ending)
}

// finish notes a job's ending for the next step.
func (w *worker) finish(j *heldJob, e ending) {
	delete(w.held, j.ID)
	ended := endedJob{j, e, time.Since(j.started)}
	w.ended = append(w.ended, ended)
	w.count(ended)
}

// startWaiting starts held jobs in free slots.
func (w *worker) startWaiting() {
	for w.running < w.slots && len(w.waiting) > 0 {
		j := w.waiting[0]
		w.waiting = w.waiting[1:]
		w.start(j)
	}
}

// start runs a job's handler in a goroutine of its own.
func (w *worker) start(j *heldJob) {
	w.running++
	j.started = time.Now()
	timeout := w.timeout(j.Kind)
	ctx, cancelTimeout := context.WithTimeout(context.Background(), timeout)
	ctx, cancel := context.WithCancelCause(ctx)
	j.cancel = cancel
	var once, free sync.Once
	end := func(e ending) { once.Do(func() { w.notes <- note{job: j, ending: &e} }) }
	freeSlot := func() { free.Do(func() { w.notes <- note{job: j, slot: true} }) }
	// A handler that ignores its context keeps its goroutine, but not its slot nor the job.
	ignored := time.AfterFunc(timeout+ignoredTimeout, func() {
		w.fail(j.job, fmt.Errorf("the handler ignored its timeout of %v", timeout), end)
		freeSlot()
	})
	go func() {
		defer cancelTimeout()
		defer func() {
			if p := recover(); p != nil {
				w.q.runs.panics.Add(1)
				w.fail(j.job, &panicError{p, string(debug.Stack()), panicFrames()}, end)
			}
			ignored.Stop()
			freeSlot()
		}()
		w.handle(ctx, j.job, end)
	}()
}

// fail ends a job whose handler could not: it panicked, ignored its timeout, or never began.
func (w *worker) fail(j job, err error, end func(ending)) {
	if w.q.failed != nil {
		w.q.failed(j, err, end)
		return
	}
	end(endingOf(err, j.Attempt))
}

// step is one round trip: it tells the endings, takes up to want jobs and starts them.
func (w *worker) step(ctx context.Context, want int) {
	if time.Since(w.lastReap) > reapEvery {
		w.lastReap = time.Now()
		if err := w.q.reap(ctx); err != nil && ctx.Err() == nil {
			w.report(err)
		}
	}
	telling := w.ended
	if len(telling) > maxBatch {
		telling = telling[:maxBatch]
	}
	reply, err := w.q.run(ctx, stepScript, w.stepArgs(telling, want)...).Slice()
	if err != nil {
		w.stumble(ctx, err)
		return
	}
	if reply[0] == "reaped" {
		w.report(errLeaseLost)
		w.abandon()
		return
	}
	w.ended = w.ended[len(telling):]
	if len(w.ended) == 0 {
		w.ended = nil
	}
	clear(w.counters)
	w.recent = nil
	w.beaten, w.lastBeat = true, time.Now()
	w.receive(ctx, reply, want)
}

// stepArgs are the arguments of stepScript.
func (w *worker) stepArgs(telling []endedJob, want int) []any {
	suspect := "1"
	for _, j := range w.held {
		if j.suspect {
			suspect = "0"
			break
		}
	}
	beaten := "0"
	if w.beaten {
		beaten = "1"
	}
	args := make([]any, 0, 16+len(telling)*4)
	args = append(args, w.id, beaten, workerExpiry.Milliseconds(), want, suspect, 0)
	finished, others := 0, 0
	for _, e := range telling {
		if e.mode == "done" {
			args = append(args, e.job.ID)
			finished++
		}
	}
	args[5] = finished
	at := len(args)
	args = append(args, 0)
	for _, e := range telling {
		if e.mode != "done" {
			args = append(args, e.job.ID, e.mode, e.after.Milliseconds(), w.try(e))
			others++
		}
	}
	args[at] = others
	args = append(args, len(w.counters))
	for name, n := range w.counters {
		args = append(args, name, n)
	}
	args = append(args, len(w.recent))
	return append(args, w.recent...)
}

// tryLine is one failed attempt, as the dashboard shows it.
type tryLine struct {
	At     timestamp `json:"at"`
	Worker string    `json:"worker"`
	Ms     int64     `json:"ms"` // how long it ran
	Error  string    `json:"error"`
	Stack  string    `json:"stack,omitempty"`
}

func (w *worker) try(e endedJob) string {
	line, _ := json.Marshal(tryLine{timestamp{time.Now()}, w.id, e.took.Milliseconds(), e.err, e.stack}) // strings and numbers only
	return string(line)
}

// recentEnd is one ended run in the list of the latest.
type recentEnd struct {
	At   timestamp `json:"at"`
	ID   string    `json:"id"`
	Kind string    `json:"kind"`
	Mode string    `json:"mode"`
	Ms   int64     `json:"ms"`
}

// count adds an ending to the minute's counters: by mode and kind, and its time in buckets of
// powers of two milliseconds. Of a fast stream only some stand among the recent.
func (w *worker) count(e endedJob) {
	w.q.runs.note(e.job.Kind, e.mode, e.took)
	if e.mode == "release" {
		return
	}
	w.counters[e.mode+":"+e.job.Kind]++
	bucket := 0
	for ms := e.took.Milliseconds(); ms > 0 && bucket < 20; ms /= 2 {
		bucket++
	}
	w.counters["ms:"+e.job.Kind+":"+strconv.Itoa(bucket)]++
	if len(w.recent) < 4 {
		line, _ := json.Marshal(recentEnd{timestamp{time.Now()}, e.job.ID, e.job.Kind, e.mode, e.took.Milliseconds()})
		w.recent = append(w.recent, string(line))
	}
}

// receive takes in the reply of a step.
func (w *worker) receive(ctx context.Context, reply []any, want int) {
	now, _ := reply[1].(int64)
	w.due = time.Time{}
	if due, _ := strconv.ParseFloat(reply[2].(string), 64); due > 0 {
		w.due = time.Now().Add(time.Duration(int64(due)-now) * time.Millisecond)
	}
	for _, id := range reply[4].([]any) {
		if j := w.held[id.(string)]; j != nil && j.cancel != nil {
			j.cancel(errCancelled)
		}
	}
	taken := reply[5].([]any)
	w.more = len(taken) > 0 && len(taken)/3 == want
	for i := 0; i+2 < len(taken); i += 3 {
		w.hold(taken[i].(string), taken[i+1].(string), taken[i+2].(string))
	}
	held, _ := reply[3].(int64)
	if int(held) > len(w.held)+len(w.ended) && !w.leaving { // more than this process knows of: a reply was lost
		w.recover(ctx)
	}
}

// hold takes charge of a job that the queue handed out.
func (w *worker) hold(id, tries, text string) {
	if w.held[id] != nil {
		return
	}
	tries, suspect := strings.CutPrefix(tries, "!")
	failed, _ := strconv.Atoi(tries)
	j, err := openEnvelope(id, text, failed)
	h := &heldJob{job: j, suspect: suspect, started: time.Now()}
	w.held[id] = h
	if err != nil {
		h.cancel = func(error) {}
		go w.fail(h.job, permanent(err), func(e ending) { w.notes <- note{job: h, ending: &e} })
		return
	}
	w.waiting = append(w.waiting, h)
	w.startWaiting()
}

// recover takes charge of jobs that a step handed out and whose reply was lost.
func (w *worker) recover(ctx context.Context) {
	ids, err := w.q.redis.HKeys(ctx, w.q.prefix+"run:"+w.id).Result()
	if err != nil {
		w.report(fmt.Errorf("recover jobs: %w", err))
		return
	}
	ending := map[string]bool{}
	for _, e := range w.ended {
		ending[e.job.ID] = true
	}
	for _, id := range ids {
		if w.held[id] != nil || ending[id] {
			continue
		}
		text, err := w.q.redis.HGet(ctx, w.q.prefix+"jobs", id).Result()
		if err != nil {
			continue // next step's count brings us here again
		}
		tries, _ := w.q.redis.HGet(ctx, w.q.prefix+"tries", id).Result()
		tries, _, _ = strings.Cut(tries, "\n")
		w.hold(id, tries, text)
	}
}

// stumble is what follows a step that failed: a pause, and without a good beat for long the end of
// all handlers, because another worker may be given their jobs.
func (w *worker) stumble(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	w.report(fmt.Errorf("queue %s: %w", w.q.name, err))
	w.more = false
	if time.Since(w.lastBeat) > workerBlind {
		w.report(errLeaseLost)
		w.abandon()
	}
	select {
	case <-ctx.Done():
	case <-time.After(200*time.Millisecond + rand.N(300*time.Millisecond)):
	}
}

// abandon lets go of everything held and begins a new life under a new id. What its handlers
// still do is fenced: their endings count no more.
func (w *worker) abandon() {
	for _, j := range w.held {
		if j.cancel != nil {
			j.cancel(errLeaseLost)
		}
	}
	w.held, w.waiting, w.ended = map[string]*heldJob{}, nil, nil
	w.rename()
}

// stop gives back what has not started, waits for what has, cancels, and gives back the rest.
func (w *worker) stop(patience time.Duration) {
	w.leaving = true
	for _, j := range w.waiting {
		w.finish(j, ending{mode: "release"})
	}
	w.waiting = nil
	w.drain(patience)
	for _, j := range w.held {
		j.cancel(errStopping)
	}
	w.drain(2 * time.Second)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	for range 8 {
		w.step(ctx, 0)
		if len(w.ended) == 0 {
			break
		}
	}
	if err := w.q.run(ctx, leaveScript, w.id).Err(); err != nil {
		w.report(fmt.Errorf("take leave of queue %s: %w", w.q.name, err))
	}
}

// drain keeps the worker alive without taking until it holds nothing or the time is over.
func (w *worker) drain(patience time.Duration) {
	deadline := time.After(patience)
	for len(w.held) > 0 {
		select {
		case n := <-w.notes:
			w.take(n)
		case <-time.After(workerBeat):
		case <-deadline:
			return
		}
		w.gather()
		if len(w.ended) > 0 || time.Since(w.lastBeat) > workerBeat {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			w.step(ctx, 0)
			cancel()
		}
	}
}

// reap gives back the jobs of workers that stopped beating.
func (q *queue) reap(ctx context.Context) error {
	line, _ := json.Marshal(tryLine{At: timestamp{time.Now()}, Error: "three worker processes died while they held this job"})
	if err := q.run(ctx, reapScript, string(line)).Err(); err != nil {
		return fmt.Errorf("reap dead workers of %s: %w", q.name, err)
	}
	return nil
}

// tries are a job's failed attempts, as far as Redis remembers them.
func (q *queue) tries(ctx context.Context, id string) ([]tryLine, error) {
	text, err := q.redis.HMGet(ctx, q.prefix+"tries", id).Result()
	if err != nil || text[0] == nil {
		return nil, err
	}
	var out []tryLine
	for _, line := range strings.Split(text[0].(string), "\n")[1:] {
		var try tryLine
		if err := json.Unmarshal([]byte(line), &try); err == nil {
			out = append(out, try)
		}
	}
	return out, nil
}
