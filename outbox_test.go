package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
)

// withKind adds a kind of job to a test server.
func (ts *testServer) withKind(kind jobKind) {
	if kind.timeout == 0 {
		kind.timeout = 10 * time.Second
	}
	ts.outbox.kinds[kind.name] = kind
	ts.outbox.queue.runs.ofKind[kind.name] = newRunCounts([]string{kind.name}).ofKind[kind.name]
}

// enqueue makes a job in a transaction of its own and returns its id.
func (ts *testServer) enqueue(n newJob) string {
	ts.t.Helper()
	b := &pgx.Batch{}
	j, err := queueJob(b, n)
	if err != nil {
		ts.t.Fatal(err)
	}
	if err := ts.db.send(ts.t.Context(), b); err != nil {
		ts.t.Fatal(err)
	}
	ts.outbox.pushSoon(j)
	return j.ID
}

// startWorking runs the server's jobs until the test or the returned function ends it.
func (ts *testServer) startWorking() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		ts.outbox.work(ctx, 16, time.Second)
		close(ended)
	}()
	stop = func() {
		cancel()
		<-ended
	}
	ts.t.Cleanup(stop)
	return stop
}

// eventually waits until something holds, or fails the test.
func eventually(t testing.TB, within time.Duration, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatalf("%s: not within %v", what, within)
}

// swept waits until the relay, which must run, has compared all rows with Redis. It does so again
// after sweepEvery.
func (ts *testServer) swept() {
	ts.t.Helper()
	key := ts.outbox.queue.prefix + "poisoned" // of which the relay takes account after a sweep
	if err := ts.redis.RPush(ts.t.Context(), key, newUUID().String()).Err(); err != nil {
		ts.t.Fatal(err)
	}
	eventually(ts.t, 30*time.Second, "the first sweep is over", func() bool { return ts.redis.LLen(ts.t.Context(), key).Val() == 0 })
}

// age waits until all jobs are too old for the relay's look at young ones.
func (ts *testServer) age() {
	ts.t.Helper()
	eventually(ts.t, 30*time.Second, "no job is young", func() bool {
		young, err := queryAll[jobID](ts.t.Context(), ts.db, youngJobIDsSQL, relayEvery+2*pushGrace, time.Duration(0), uuid{})
		return err == nil && len(young) == 0
	})
}

// living is the number of job rows.
func (ts *testServer) living() int64 {
	ts.t.Helper()
	n, err := queryValue[int64](ts.t.Context(), ts.db, `SELECT count(*) FROM jobs`)
	if err != nil {
		ts.t.Fatal(err)
	}
	return n
}

func TestAJobsEffectIsCommittedOnceWithItsEnd(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	if _, err := execute(t.Context(), ts.db, `CREATE TABLE effects (job uuid)`); err != nil {
		t.Fatal(err)
	}
	ts.withKind(jobKind{name: "count", run: func(_ context.Context, j job, effect *pgx.Batch) error {
		effect.Queue(`INSERT INTO effects VALUES ($1)`, j.ID)
		return nil
	}})
	const n = 500
	for range n {
		ts.enqueue(newJob{kind: "count", payload: map[string]int{"a": 1}, priority: 2})
	}
	ts.startWorking()
	eventually(t, 30*time.Second, "all jobs done", func() bool { return ts.living() == 0 })
	effects, err := queryValue[int64](t.Context(), ts.db, `SELECT count(*) FROM effects`)
	if err != nil || effects != n {
		t.Errorf("got %d effects (%v), want %d", effects, err, n)
	}
}

func TestAFailingJobIsTriedAgainAndThenDead(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	var runs atomic.Int64
	ts.withKind(jobKind{name: "flaky", run: func(_ context.Context, j job, _ *pgx.Batch) error {
		if runs.Add(1) < 3 {
			return retryAfter(10*time.Millisecond, errors.New("not yet"))
		}
		return nil
	}})
	ts.withKind(jobKind{name: "hopeless", run: func(context.Context, job, *pgx.Batch) error {
		return permanent(fmt.Errorf("no such address"))
	}})
	ts.startWorking()
	ts.enqueue(newJob{kind: "flaky", payload: 1})
	eventually(t, 30*time.Second, "the flaky job succeeds", func() bool { return ts.living() == 0 })
	if runs.Load() != 3 {
		t.Errorf("got %d runs, want 3", runs.Load())
	}
	id := ts.enqueue(newJob{kind: "hopeless", payload: 1})
	eventually(t, 30*time.Second, "the hopeless job is dead", func() bool {
		dead, err := queryValue[bool](t.Context(), ts.db, `SELECT dead_at IS NOT NULL AND error = 'no such address' FROM jobs WHERE id = $1`, id)
		return err == nil && dead
	})
}

func TestWhatRedisForgetsIsPushedAgain(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	var runs atomic.Int64
	ts.withKind(jobKind{name: "count", run: func(context.Context, job, *pgx.Batch) error { runs.Add(1); return nil }})
	for range 100 {
		ts.enqueue(newJob{kind: "count", payload: 1})
	}
	ts.outbox.pushing.Wait()
	keys, err := ts.redis.Keys(t.Context(), ts.config.redisSpace+":*").Result()
	if err != nil || len(keys) == 0 {
		t.Fatalf("no keys: %v", err)
	}
	ts.redis.Del(t.Context(), keys...)
	ts.startWorking()
	eventually(t, 30*time.Second, "all jobs done", func() bool { return ts.living() == 0 })
	if runs.Load() != 100 {
		t.Errorf("got %d runs, want 100", runs.Load())
	}
}

func TestACommitWhosePushWasLostIsPushedWithinThreeSeconds(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ts.withKind(jobKind{name: "count", run: func(context.Context, job, *pgx.Batch) error { return nil }})
	ts.startWorking()
	ts.swept()
	b := &pgx.Batch{}
	if _, err := queueJob(b, newJob{kind: "count", payload: 1}); err != nil {
		t.Fatal(err)
	}
	if err := ts.db.send(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	eventually(t, sweepEvery/2, "the job done", func() bool { return ts.living() == 0 })
	if most := relayEvery + pushGrace; most > 2*time.Second {
		t.Errorf("the relay looks only after %v", most)
	}
}

func TestWhatRedisForgetsWhileItServesIsPushedAgainAtOnce(t *testing.T) {
	t.Parallel()
	client, _ := ownRedis(t)
	ts := newTestServer(t, "REDIS_URL=unix://"+client.(*redis.Client).Options().Addr)
	ts.withKind(jobKind{name: "noop", run: func(context.Context, job, *pgx.Batch) error { return nil }})
	for range 20 {
		ts.enqueue(newJob{kind: "noop", payload: 1, runAt: time.Now().Add(time.Hour)})
	}
	ts.startWorking()
	q := ts.outbox.queue
	ts.outbox.pushing.Wait()
	ts.age()
	wantHas(t, q, [5]int64{0, 0, 20, 0, 20})
	if err := client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, sweepEvery/2, "they wait again", func() bool { return has(t, q) == [5]int64{0, 0, 20, 0, 20} })
}

func TestJobsWaitInTheDatabaseWhileRedisIsFull(t *testing.T) {
	t.Parallel()
	client, _ := ownRedis(t)
	ts := newTestServer(t, "REDIS_URL=unix://"+client.(*redis.Client).Options().Addr)
	ts.withKind(jobKind{name: "noop", run: func(context.Context, job, *pgx.Batch) error { return nil }})
	if err := client.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	ts.startWorking()
	for range 20 {
		ts.enqueue(newJob{kind: "noop", payload: 1})
	}
	eventually(t, 30*time.Second, "the relay is refused", func() bool { return strings.Contains(ts.log.grep("relay paused"), "OOM") })
	ts.outbox.pushing.Wait()
	ts.age()
	if n := ts.living(); n != 20 {
		t.Errorf("%d jobs wait, want 20", n)
	}
	if err := client.ConfigSet(t.Context(), "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, sweepEvery/2, "all jobs done", func() bool { return ts.living() == 0 })
}

// A replica that was behind when it took over has a job among its dead that an operator has revived.
func TestALivingJobThatRedisTakesForDeadIsPushedAgain(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ts.withKind(jobKind{name: "noop", run: func(context.Context, job, *pgx.Batch) error { return nil }})
	q := ts.outbox.queue
	revived := ts.enqueue(newJob{kind: "noop", payload: 1})
	poisoned := ts.enqueue(newJob{kind: "noop", payload: 1})
	ts.outbox.pushing.Wait()
	r := rig(t, q, 2)
	r.takes(2)
	r.ends(revived, ending{mode: "dead", err: "x"})
	r.ends(poisoned, ending{mode: "dead", err: "x"})
	r.step(t.Context(), 0)
	q.redis.RPush(t.Context(), q.prefix+"poisoned", poisoned) // the row does not know yet
	ts.startWorking()
	eventually(t, 30*time.Second, "one is done, the other dead in its row too", func() bool {
		n, err := queryValue[int64](t.Context(), ts.db, `SELECT count(*) FROM jobs WHERE id = $1 AND dead_at IS NOT NULL`, poisoned)
		return err == nil && n == 1 && ts.living() == 1
	})
	eventually(t, 30*time.Second, "Redis forgets the one and keeps the other", func() bool { return has(t, q) == [5]int64{0, 0, 0, 1, 1} })
}

func TestErrorsAndPayloadsOfAnyBytesAreKeptAsText(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	var got atomic.Value
	ts.withKind(jobKind{name: "odd", run: func(_ context.Context, j job, _ *pgx.Batch) error {
		got.Store(string(j.Payload))
		return permanent(errors.New("bad \x00 \xff byte\r\n<b>" + strings.Repeat("é", maxErrorText)))
	}})
	ts.startWorking()
	id := ts.enqueue(newJob{kind: "odd", payload: "a\xffb\u2028\n \r\x01"})
	eventually(t, 30*time.Second, "it is dead", func() bool {
		text, err := queryValue[string](t.Context(), ts.db, `SELECT error FROM jobs WHERE id = $1 AND dead_at IS NOT NULL`, id)
		return err == nil && strings.HasPrefix(text, "bad   byte\r\n<b>éé") && len(text) <= maxErrorText
	})
	if text := got.Load(); text != `"a\ufffdb\u2028\n \r\u0001"` {
		t.Errorf("the payload came as %s", text)
	}
	b := &pgx.Batch{}
	b.Queue(setPausedSQL, "other", true)
	if _, err := queueJob(b, newJob{kind: "odd", payload: "a\x00b"}); err != nil {
		t.Fatal(err)
	}
	if err := ts.db.send(t.Context(), b); err == nil || ts.living() != 1 { // PostgreSQL has no NUL in texts
		t.Errorf("got %v, and %d jobs", err, ts.living())
	}
	if n, err := queryValue[int64](t.Context(), ts.db, `SELECT count(*) FROM queues`); err != nil || n != 0 {
		t.Errorf("%d other changes of the batch were kept, %v", n, err)
	}
}

// A process that lost its lease may be given a job again while the first run still ends.
func TestTwoRunsOfAJobThatEndTogetherTakeEffectOnce(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ts.exec(`CREATE TABLE effects (job uuid)`)
	ts.withKind(jobKind{name: "effect", run: func(context.Context, job, *pgx.Batch) error { return nil }})
	var list []completion
	for range 3 {
		id := ts.enqueue(newJob{kind: "effect", payload: 1})
		for range 2 {
			effect := &pgx.Batch{}
			effect.Queue(`INSERT INTO effects (job) VALUES ($1)`, id)
			list = append(list, completion{id, effect})
		}
	}
	if err := ts.outbox.completeTogether(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	n, err := queryValue[int](t.Context(), ts.db, `SELECT count(*) * 10 + count(DISTINCT job) FROM effects`)
	if err != nil || n != 33 {
		t.Errorf("got %d, %v, want three effects of three jobs", n, err)
	}
}

func TestAHandlerThatEndsWithItsWorkerCostsNoAttempt(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	began := make(chan struct{})
	ts.withKind(jobKind{name: "slow", run: func(ctx context.Context, _ job, _ *pgx.Batch) error {
		began <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}})
	for _, cause := range []error{errStopping, errLeaseLost} {
		id := ts.enqueue(newJob{kind: "slow", payload: 1})
		ctx, cancel := context.WithCancelCause(t.Context())
		ended := make(chan ending, 1)
		go ts.outbox.runJob(ctx, job{ID: id, Kind: "slow", Payload: []byte("1"), Attempt: 1}, func(e ending) { ended <- e })
		<-began
		cancel(cause)
		e := <-ended
		attempts, err := queryValue[int64](t.Context(), ts.db, `SELECT attempts FROM jobs WHERE id = $1`, id)
		if e.mode != "release" || attempts != 0 || err != nil {
			t.Errorf("%v: ended as %s after %d attempts, %v", cause, e.mode, attempts, err)
		}
	}
}

func TestAKindsLimitHoldsAndItsPlacesComeBack(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	var running, runs atomic.Int64
	var together atomic.Bool
	release := make(chan struct{})
	ts.outbox.slots["alone"] = make(chan struct{}, 1)
	ts.withKind(jobKind{name: "alone", limit: 1, timeout: time.Minute, run: func(context.Context, job, *pgx.Batch) error {
		if running.Add(1) > 1 {
			together.Store(true)
		}
		defer running.Add(-1)
		if runs.Add(1) == 1 {
			panic("the first")
		}
		<-release
		return nil
	}})
	for range 4 {
		ts.enqueue(newJob{kind: "alone", payload: 1})
	}
	ts.startWorking()
	eventually(t, 30*time.Second, "the second runs and the others wait", func() bool {
		return has(t, ts.outbox.queue) == [5]int64{0, 1, 3, 0, 4}
	})
	close(release)
	eventually(t, 30*time.Second, "all jobs done", func() bool { return ts.living() == 0 })
	if together.Load() || runs.Load() != 5 {
		t.Errorf("two ran at once: %v; %d ran in all, want 5", together.Load(), runs.Load())
	}
}

func TestAJobIsDeadOnlyWhenItsRowSaysSo(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ts.withKind(jobKind{name: "hopeless", run: func(context.Context, job, *pgx.Batch) error { return permanent(errors.New("no")) }})
	id := ts.enqueue(newJob{kind: "hopeless", payload: 1})
	run := func() (e ending) {
		ts.outbox.runJob(t.Context(), job{ID: id, Kind: "hopeless", Payload: []byte("1"), Attempt: 1}, func(got ending) { e = got })
		return e
	}
	ts.exec(`ALTER TABLE jobs RENAME TO away`)
	if e := run(); e.mode != "retry" || e.after != time.Minute || e.err != "no" {
		t.Errorf("without the table: got %+v, want a retry", e)
	}
	ts.exec(`ALTER TABLE away RENAME TO jobs`)
	if e := run(); e.mode != "dead" {
		t.Errorf("with it: got %+v, want dead", e)
	}
	ts.exec(`DELETE FROM jobs`) // another run was through first
	if e := run(); e.mode != "done" {
		t.Errorf("without its row: got %+v, want done", e)
	}
}
