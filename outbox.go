package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The outbox makes the queue dependable. A job is a row of table jobs, written by the transaction
// that needs it and deleted by the transaction of its effect; Redis only hands it out. So a job
// exists if and only if its cause was committed, its effect in the database happens once however
// often it runs, and Redis may lose everything.
//
// One rule keeps both in step: the row goes (or is marked dead) before Redis is told. A row that
// Redis does not have was therefore never pushed, or lost, and is pushed again.
const (
	maxRowPayload  = 1 << 20                // bytes of a payload in the database; above maxPayload it stays there
	relayEvery     = time.Second            // young rows are compared with Redis
	sweepEvery     = 30 * time.Second       // all rows are
	pushGrace      = 500 * time.Millisecond // time for the ordinary push before the relay looks
	clockSkew      = 10 * time.Second       // between processes; beyond it a lost push waits for the sweep
	relayLock      = 7_227_301_657          // advisory lock of the one process that relays
	unknownGiveUp  = 24 * time.Hour         // a kind that no process knows is dead after
	maxCompletions = 64                     // jobs ended in one transaction
	snapshotLife   = time.Second            // one look at the queue serves all viewers for so long
	lookPatience   = time.Second            // of viewers with Redis
	maxCounted     = 1_000_000              // rows that a look at the queue counts
	maxPushing     = 4096                   // pushes waiting in this process; more are left to the relay
)

// outbox is the dependable queue of one process.
type outbox struct {
	db          *database
	queue       *queue
	log         *slog.Logger
	reports     *reporter // of jobs that panic or are given up; nil: to nobody
	kinds       map[string]jobKind
	slots       map[string]chan struct{} // of kinds with a limit
	completions *batcher[completion]
	pushing     sync.WaitGroup
	mu          sync.Mutex
	toPush      []job // by push, which runs while it is busy
	busy        bool
	snapshot    snapshot
	lookWait    time.Duration // lookPatience, but in tests
	pushedAgain atomic.Int64  // jobs that were not in Redis
}

func newOutbox(db *database, q *queue, log *slog.Logger, kinds []jobKind) *outbox {
	o := &outbox{db: db, queue: q, log: log, kinds: map[string]jobKind{}, slots: map[string]chan struct{}{}, lookWait: lookPatience}
	for _, kind := range kinds {
		o.kinds[kind.name] = kind
		if kind.limit > 0 {
			o.slots[kind.name] = make(chan struct{}, kind.limit)
		}
	}
	q.runs = newRunCounts(slices.Collect(maps.Keys(o.kinds)))
	o.completions = newBatcher(maxCompletions, o.complete)
	q.failed = o.failJob
	return o
}

// work runs jobs with so many handlers at once until ctx ends, and keeps Redis in step.
func (o *outbox) work(ctx context.Context, slots int, patience time.Duration) {
	var relaying sync.WaitGroup
	relaying.Go(func() { o.relay(ctx) })
	o.queue.work(ctx, slots, patience, o.timeout, o.runJob, func(err error) { o.log.Warn("queue", "error", err) })
	relaying.Wait()
	o.pushing.Wait()
}

// timeout is how long a job of a kind may run.
func (o *outbox) timeout(kind string) time.Duration {
	if k, ok := o.kinds[kind]; ok {
		return k.timeout
	}
	return time.Minute
}

// newJob is a job to be made in the caller's transaction.
type newJob struct {
	kind     string
	payload  any       // as JSON
	priority int       // 0–3
	runAt    time.Time // zero for at once
	unique   string    // while a job with this key lives, no other is made
	trace    string    // the cause's, as trace.carried has it; or ""
}

const (
	insertJobSQL = `
	INSERT INTO jobs (id, kind, priority, payload, trace, run_at)
	VALUES ($1, $2, $3, $4, $5, coalesce($6::timestamptz, clock_timestamp()))`
	// insertUniqueJobSQL makes none where a living job has the key. It is a statement of its own
	// because ON CONFLICT costs every row, also one that has no key.
	insertUniqueJobSQL = `
	INSERT INTO jobs (id, kind, priority, payload, trace, run_at, unique_key)
	VALUES ($1, $2, $3, $4, $5, coalesce($6::timestamptz, clock_timestamp()), $7)
	ON CONFLICT (unique_key) WHERE dead_at IS NULL AND unique_key IS NOT NULL DO NOTHING`
)

// queueJob adds the making of a job to a batch, and returns it for pushSoon, to be called once the
// batch is committed.
func queueJob(b *pgx.Batch, n newJob) (job, error) {
	payload, err := json.Marshal(n.payload)
	if err != nil {
		return job{}, fmt.Errorf("encode job %s: %w", n.kind, err)
	}
	if len(payload) > maxRowPayload {
		return job{}, newProblem("body_too_large", fmt.Sprintf("The work this asks for takes more than %d bytes to describe.", maxRowPayload))
	}
	j := job{ID: newUUID().String(), Kind: n.kind, Priority: n.priority, Trace: n.trace, RunAt: n.runAt, Payload: payload}
	var runAt *time.Time
	if !n.runAt.IsZero() {
		runAt = &n.runAt
	}
	args := []any{j.ID, j.Kind, j.Priority, string(payload), j.Trace, runAt}
	if n.unique == "" {
		b.Queue(insertJobSQL, args...)
	} else {
		b.Queue(insertUniqueJobSQL, append(args, n.unique)...)
	}
	return j, nil
}

// pushSoon hands committed jobs to Redis without making the caller wait. What Redis does not take is
// not lost: the relay finds it.
func (o *outbox) pushSoon(jobs ...job) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, j := range jobs {
		if len(j.Payload) > maxPayload {
			j.Payload = nil // the worker reads it from the row
		}
		if err := o.queue.check(j); err != nil {
			o.log.Error("push", "error", err)
		} else if len(o.toPush) < maxPushing {
			o.toPush = append(o.toPush, j)
		}
	}
	if len(o.toPush) > 0 && !o.busy {
		o.busy = true
		o.pushing.Go(o.push)
	}
}

// push pushes until nothing waits for it; what comes meanwhile goes in one batch.
func (o *outbox) push() {
	for {
		o.mu.Lock()
		jobs := o.toPush
		o.toPush = nil
		o.busy = len(jobs) > 0
		o.mu.Unlock()
		if len(jobs) == 0 {
			return
		}
		for chunk := range slices.Chunk(jobs, maxBatch) {
			if err := o.queue.pushAll(context.Background(), chunk); err != nil {
				o.log.Debug("push left to the relay", "jobs", len(jobs), "error", err)
				break
			}
		}
	}
}

// jobKind is what one kind of job does.
type jobKind struct {
	name    string
	timeout time.Duration
	limit   int  // at once in one process; 0 for no limit of its own
	outside bool // acts outside the database, so the row is looked at before it runs
	// run does the work. It may act outside the database, with the job's id as idempotency key, and
	// queues the statements of its effect in the database: they are committed together with the
	// job's end, once. It may run more than once, also beside a stale run of itself.
	run   func(ctx context.Context, j job, effect *pgx.Batch) error
	ended func() // is called when the effect is committed; nil for nothing
}

// completion is a job whose handler is through, on its way into the database.
type completion struct {
	id     string
	effect *pgx.Batch
}

const (
	jobRowSQL = `SELECT payload::text FROM jobs WHERE id = $1 AND dead_at IS NULL`
	// endJobsSQL deletes the rows of ended jobs; the ids it returns are those whose end this is.
	endJobsSQL = `DELETE FROM jobs WHERE id = ANY ($1::text[]::uuid[]) AND dead_at IS NULL RETURNING id::text`
	failJobSQL = `
	UPDATE jobs SET attempts = attempts + 1, error = $2, run_at = clock_timestamp() + $3::interval,
		dead_at = CASE WHEN $4 OR attempts + 1 >= $5 THEN clock_timestamp() END
	WHERE id = $1 AND dead_at IS NULL RETURNING dead_at IS NOT NULL`
	killJobsSQL = `
	UPDATE jobs SET dead_at = clock_timestamp(), error = $2 WHERE id = ANY ($1::text[]::uuid[]) AND dead_at IS NULL
	RETURNING id::text, kind, trace`
)

// runJob runs one job for the queue's worker: handler, then its end in the database, then Redis.
func (o *outbox) runJob(ctx context.Context, j job, end func(ending)) {
	kind, known := o.kinds[j.Kind]
	if !known { // a newer process made it, in a rolling deployment; one will take it
		if time.Since(j.PushedAt) > unknownGiveUp {
			o.failJob(j, permanent(errors.New("no process knows this kind of job")), end)
			return
		}
		end(ending{mode: "delay", after: 5 * time.Second})
		return
	}
	if slots := o.slots[j.Kind]; slots != nil {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			end(ending{mode: "delay", after: 500 * time.Millisecond})
			return
		}
	}
	if len(j.Payload) == 0 || kind.outside {
		payload, err := queryValue[string](ctx, o.db, jobRowSQL, j.ID)
		if p, ok := errors.AsType[*problem](err); ok && p.Code == "not_found" {
			end(done) // its effect was committed before, only Redis did not hear of it
			return
		}
		if err != nil {
			o.failJob(j, err, end)
			return
		}
		j.Payload = []byte(payload)
	}
	ctx = withTrace(ctx, carriedTrace(j.Trace))
	effect := &pgx.Batch{}
	err := kind.run(ctx, j, effect)
	if cause := context.Cause(ctx); err != nil && (errors.Is(cause, errLeaseLost) || errors.Is(cause, errStopping)) {
		end(ending{mode: "release"}) // not the job's fault
		return
	}
	if errors.Is(context.Cause(ctx), errCancelled) {
		effect, err = &pgx.Batch{}, nil // an operator wants it gone, not repeated
	}
	if err != nil {
		o.failJob(j, err, end)
		return
	}
	go o.finish(j, completion{j.ID, effect}, end)
}

// finish commits a job's effect and end.
func (o *outbox) finish(j job, c completion, end func(ending)) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err := o.completions.do(ctx, c)
	if errors.Is(err, errAlone) {
		err = o.completeTogether(ctx, []completion{c})
	}
	if err != nil {
		o.failJob(j, err, end)
		return
	}
	if o.log.Enabled(ctx, slog.LevelDebug) {
		t := carriedTrace(j.Trace)
		o.log.Debug("job done", "job", j.ID, "kind", j.Kind, "attempt", j.Attempt, "requestId", t.request, "traceId", t.traceID())
	}
	if ended := o.kinds[j.Kind].ended; ended != nil {
		ended()
	}
	end(done)
}

// complete ends jobs in one transaction: it deletes their rows and does the effects of those that
// still had one. If that fails each is tried alone, so that one bad effect stops no other.
func (o *outbox) complete(ctx context.Context, list []completion) error {
	err := o.completeTogether(ctx, list)
	if err == nil || len(list) == 1 {
		return err
	}
	return errAlone
}

// errAlone asks that a batch's members be completed one by one.
var errAlone = errors.New("complete one by one")

// completeTogether is complete without the second try.
func (o *outbox) completeTogether(ctx context.Context, list []completion) error {
	slices.SortFunc(list, func(a, b completion) int { return strings.Compare(a.id, b.id) }) // one order of locks
	ids := make([]string, len(list))
	effects := 0
	for i, c := range list {
		ids[i] = c.id
		effects += c.effect.Len()
	}
	if effects == 0 {
		b := &pgx.Batch{}
		b.Queue(endJobsSQL, ids)
		return o.db.send(ctx, b)
	}
	return o.db.inTx(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, endJobsSQL, ids)
		if err != nil {
			return err
		}
		mine, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		all := &pgx.Batch{}
		for _, c := range list {
			// Two runs of one job may meet here, when this process lost its lease and was given the job again.
			if i := slices.Index(mine, c.id); i >= 0 {
				mine = slices.Delete(mine, i, i+1)
				all.QueuedQueries = append(all.QueuedQueries, unsent(c.effect).QueuedQueries...)
			}
		}
		return tx.SendBatch(ctx, all).Close()
	})
}

// failJob notes a failed attempt in the row, which counts them also when Redis forgets, and then
// in Redis.
func (o *outbox) failJob(j job, err error, end func(ending)) {
	e := endingOf(err, j.Attempt)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	dead, dbErr := queryValue[bool](ctx, o.db, failJobSQL, j.ID, e.err, e.after, e.mode == "dead", maxAttempts)
	switch p, _ := errors.AsType[*problem](dbErr); {
	case p != nil && p.Code == "not_found": // its effect was committed by another run
		e = done
	case dbErr != nil && e.mode == "dead": // dead only when the row says so
		e = ending{mode: "retry", after: time.Minute, err: e.err}
	case dead:
		e.mode = "dead"
	}
	t := carriedTrace(j.Trace)
	o.log.Warn("job failed", "job", j.ID, "kind", j.Kind, "attempt", j.Attempt, "mode", e.mode, "error", e.err, "requestId", t.request, "traceId", t.traceID())
	o.report(j, err, t, e.mode == "dead")
	end(e)
}

// report tells of a job's failure if it is the last, or a panic.
func (o *outbox) report(j job, err error, t *trace, dead bool) {
	panicked, _ := errors.AsType[*panicError](err)
	if !dead && panicked == nil {
		return
	}
	e := report{
		level: "error", kind: errorType(err), text: err.Error(), by: "job", place: j.Kind, trace: t,
		tags: map[string]string{"kind": j.Kind, "queue": o.queue.name, "job": j.ID, "attempt": strconv.Itoa(j.Attempt), "dead": strconv.FormatBool(dead), "requestId": t.request},
	}
	if panicked != nil {
		e.kind, e.text, e.by, e.frames = panicType(panicked.value), fmt.Sprint(panicked.value), "panic", panicked.frames
	}
	o.reports.tell(e)
}

// jobID is the id of a row.
type jobID struct{ ID string }

func idsOf(rows []jobID) []string {
	ids := make([]string, len(rows))
	for i, row := range rows {
		ids[i] = row.ID
	}
	return ids
}

// rowOfJob is a row of table jobs, as the relay pushes it.
type rowOfJob struct {
	ID        string
	Kind      string
	Priority  int
	Payload   string
	Trace     string
	RunAt     time.Time
	CreatedAt time.Time
}

const (
	jobRowColumns = `id::text, kind, priority, CASE WHEN octet_length(payload::text) <= 65536 THEN payload::text ELSE '' END AS payload, trace, run_at, created_at`
	// youngJobIDsSQL are the jobs made in one second, of a short while ago. Ids sort by the clocks of those
	// who made them, so a first id stands in for an index on created_at, which every insert would pay for.
	youngJobIDsSQL = `
	SELECT id::text FROM jobs WHERE id > $3 AND created_at > clock_timestamp() - $1::interval AND created_at <= clock_timestamp() - $2::interval AND dead_at IS NULL`
	jobIDsSQL      = `SELECT id::text FROM jobs WHERE id > $1 AND dead_at IS NULL ORDER BY id LIMIT $2`
	jobsByIDSQL    = `SELECT ` + jobRowColumns + ` FROM jobs WHERE id = ANY ($1::text[]::uuid[]) AND dead_at IS NULL`
	tryRelaySQL    = `SELECT pg_try_advisory_lock($1)`
	unlockRelaySQL = `SELECT pg_advisory_unlock($1)`
)

// relay keeps Redis in step with the rows, in one process of all: whichever holds the lock. Every
// second it looks at rows that should have been pushed just now, every sweepEvery and whenever
// Redis began anew at all of them.
func (o *outbox) relay(ctx context.Context) {
	for ctx.Err() == nil {
		err := o.db.conn(ctx, func(c *pgxpool.Conn) error {
			var mine bool
			if err := c.QueryRow(ctx, tryRelaySQL, relayLock).Scan(&mine); err != nil || !mine {
				return err
			}
			defer c.Exec(context.WithoutCancel(ctx), unlockRelaySQL, relayLock)
			return o.relayWhileMine(ctx, c)
		})
		if err != nil && ctx.Err() == nil {
			o.log.Warn("relay paused", "error", err)
		}
		sleep(ctx, relayEvery)
	}
}

// relayWhileMine relays until something fails. The lock is the connection's: when that breaks, so
// does the lock, and another process takes over.
func (o *outbox) relayWhileMine(ctx context.Context, c *pgxpool.Conn) error {
	var epoch string
	var swept time.Time
	last := time.Now().Add(-relayEvery)
	for ctx.Err() == nil {
		started := time.Now()
		if err := c.Ping(ctx); err != nil {
			return err
		}
		now, err := o.queue.epoch(ctx)
		if err != nil {
			return err
		}
		if now != epoch || time.Since(swept) > sweepEvery {
			epoch, swept = now, time.Now()
			if err := o.sweep(ctx); err != nil {
				return err
			}
		} else if err := o.pushYoung(ctx, time.Since(last)+pushGrace); err != nil {
			return err
		}
		last = started
		if err := o.buryPoisoned(ctx); err != nil {
			return err
		}
		if err := o.keepPaused(ctx); err != nil {
			return err
		}
		sleep(ctx, relayEvery)
	}
	return ctx.Err()
}

// epoch tells one life of the Redis data from another: a restart, a fail-over or a flush changes it.
func (q *queue) epoch(ctx context.Context) (string, error) {
	epoch, err := q.run(ctx, epochScript, newUUID().String()).Text()
	if err != nil {
		return "", fmt.Errorf("read the epoch of %s: %w", q.name, err)
	}
	return epoch, nil
}

// pushYoung pushes what was committed lately and did not reach Redis.
func (o *outbox) pushYoung(ctx context.Context, since time.Duration) error {
	ids, err := queryAll[jobID](ctx, o.db, youngJobIDsSQL, since, pushGrace, uuidAt(time.Now().Add(-since-clockSkew)))
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(ids, maxBatch) {
		if err := o.pushMissing(ctx, idsOf(chunk)); err != nil {
			return err
		}
	}
	return nil
}

// sweep compares every row with Redis, in chunks.
func (o *outbox) sweep(ctx context.Context) error {
	after := uuid{}.String()
	for {
		ids, err := queryAll[jobID](ctx, o.db, jobIDsSQL, after, maxBatch)
		if err != nil || len(ids) == 0 {
			return err
		}
		if err := o.pushMissing(ctx, idsOf(ids)); err != nil {
			return err
		}
		after = ids[len(ids)-1].ID
	}
}

// pushMissing pushes those of up to maxBatch jobs that live and Redis does not have to give. A row
// that is just being deleted may be pushed once more; whoever runs it finds no row and does nothing.
func (o *outbox) pushMissing(ctx context.Context, ids []string) error {
	lost, err := o.queue.missing(ctx, ids)
	if err != nil || len(lost) == 0 {
		return err
	}
	found, err := queryAll[rowOfJob](ctx, o.db, jobsByIDSQL, lost)
	if err != nil || len(found) == 0 {
		return err
	}
	jobs, living := make([]job, len(found)), make([]string, len(found))
	for i, row := range found {
		living[i] = row.ID
		since := row.CreatedAt
		if row.RunAt.After(since) {
			since = row.RunAt // it waits from then
		}
		jobs[i] = job{ID: row.ID, Kind: row.Kind, Priority: row.Priority, Trace: row.Trace, PushedAt: since, RunAt: row.RunAt, Payload: []byte(row.Payload)}
	}
	o.pushedAgain.Add(int64(len(jobs)))
	o.log.Info("jobs pushed again", "count", len(jobs))
	if err := o.queue.reset(ctx, living); err != nil { // those that Redis takes for dead
		return err
	}
	return o.queue.pushAll(ctx, jobs)
}

// buryPoisoned marks the rows of jobs that the queue gave up after three crashes.
func (o *outbox) buryPoisoned(ctx context.Context) error {
	key := o.queue.prefix + "poisoned"
	ids, err := o.queue.redis.LRange(ctx, key, 0, maxBatch-1).Result()
	if err != nil || len(ids) == 0 {
		return err
	}
	poison := errors.New("three worker processes died while they held this job")
	killed, err := queryAll[struct{ ID, Kind, Trace string }](ctx, o.db, killJobsSQL, ids, poison.Error())
	if err != nil {
		return err
	}
	for _, k := range killed {
		o.report(job{ID: k.ID, Kind: k.Kind, Attempt: 3}, poison, carriedTrace(k.Trace), true)
	}
	return o.queue.redis.LTrim(ctx, key, int64(len(ids)), -1).Err()
}

const pausedSQL = `SELECT coalesce((SELECT paused FROM queues WHERE name = $1), false) AS paused`

// keepPaused renews in Redis what an operator decided.
func (o *outbox) keepPaused(ctx context.Context) error {
	want, err := queryValue[bool](ctx, o.db, pausedSQL, o.queue.name)
	if err != nil {
		return err
	}
	is, err := o.queue.redis.Exists(ctx, o.queue.prefix+"paused").Result()
	if err != nil || want == (is == 1) {
		return err
	}
	return o.queue.pause(ctx, want)
}

// queueView is a queue as operators see it: Redis's side and the database's.
type queueView struct {
	queueState
	Reachable   bool     `json:"reachable"`   // Redis answers; if not, its side is empty
	Kinds       []string `json:"kinds"`       // that this process knows
	OutboxRows  int64    `json:"outboxRows"`  // living jobs in the database; counted up to maxCounted, like the next three
	OutboxReady int64    `json:"outboxReady"` // those of them that are due and that no worker holds
	OutboxLagMs int64    `json:"outboxLagMs"` // for how long the oldest of those has been due
	OutboxLater int64    `json:"outboxLater"` // those that are not due
	OutboxDead  int64    `json:"outboxDead"`  // jobs given up
	ofKinds     []outboxState
}

// snapshot is the last look at the queue, shared by all who watch.
type snapshot struct {
	mu    sync.Mutex
	until time.Time // when it is too old
	view  queueView
	err   error
}

// expire has the next viewer look anew, after a change that he should see.
func (s *snapshot) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until = time.Time{}
}

// outboxState is the database's side of a queueView, of one kind of job.
type outboxState struct {
	Kind                                string
	Living, Due, Held, Later, Dead, Lag int64
}

// outboxStateSQL reads living rows up to a number. The held ids are joined, since a list that is
// searched for each row would take seconds where there are many of both.
const outboxStateSQL = `
	SELECT kind, count(*) FILTER (WHERE NOT dead) AS living, count(*) FILTER (WHERE held IS NULL AND NOT dead AND run_at <= statement_timestamp()) AS due,
		count(*) FILTER (WHERE held IS NOT NULL AND NOT dead) AS held, count(*) FILTER (WHERE held IS NULL AND NOT dead AND run_at > statement_timestamp()) AS later,
		count(*) FILTER (WHERE dead) AS dead,
		coalesce(extract(epoch FROM statement_timestamp() - min(run_at) FILTER (WHERE held IS NULL AND NOT dead AND run_at <= statement_timestamp())) * 1000, 0)::bigint AS lag
	FROM (
		(SELECT id, kind, run_at, false AS dead FROM jobs WHERE queue = $1 AND dead_at IS NULL LIMIT $3)
		UNION ALL SELECT id, kind, run_at, true FROM jobs WHERE queue = $1 AND dead_at IS NOT NULL) j
	LEFT JOIN unnest($2::uuid[]) AS held ON held = id GROUP BY kind ORDER BY kind`

// look is the queue as it was at most snapshotLife ago. Where looking takes long it is done less
// often, so that watching a troubled queue does not add to its troubles.
func (o *outbox) look(ctx context.Context) (queueView, error) {
	o.snapshot.mu.Lock()
	defer o.snapshot.mu.Unlock()
	started := time.Now()
	if started.Before(o.snapshot.until) {
		return o.snapshot.view, o.snapshot.err
	}
	o.snapshot.view, o.snapshot.err = o.lookNow(context.WithoutCancel(ctx)) // not the first viewer's to cancel
	o.snapshot.until = started.Add(max(snapshotLife, 4*time.Since(started)))
	return o.snapshot.view, o.snapshot.err
}

// heldIDs are the ids of rows among those that workers hold.
func heldIDs(running map[string]string) []uuid {
	held := []uuid{}
	for text := range running {
		if id, err := parseUUID(text); err == nil {
			held = append(held, id)
		}
	}
	return held
}

func (o *outbox) lookNow(ctx context.Context) (queueView, error) {
	view := queueView{Reachable: true, Kinds: slices.Sorted(maps.Keys(o.kinds))}
	short, cancel := context.WithTimeout(ctx, o.lookWait)
	defer cancel()
	var err error
	if view.queueState, err = o.queue.state(short); err != nil {
		view.Reachable = false
	}
	ctx, cancel = context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var operators struct{ Paused bool }
	b := &pgx.Batch{}
	b.Queue(outboxStateSQL, view.Name, heldIDs(view.runningJobs), maxCounted)
	b.Queue(pausedSQL, view.Name)
	err = o.db.sendEach(ctx, b, all(&view.ofKinds), one(&operators))
	view.Paused = operators.Paused
	for _, kind := range view.ofKinds {
		view.OutboxRows += kind.Living
		view.OutboxReady += kind.Due
		view.OutboxLater += kind.Later
		view.OutboxDead += kind.Dead
		view.OutboxLagMs = max(view.OutboxLagMs, kind.Lag)
	}
	return view, err
}
