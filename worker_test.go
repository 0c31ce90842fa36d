package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
)

// Each test here is a fault that some job queue was once known for.

// rigged is a worker that the test moves step by step, with a handler that waits to be told.
type rigged struct {
	*worker
	t       *testing.T
	mu      sync.Mutex
	running map[string]func(ending)
	errs    []error
}

func rig(t *testing.T, q *queue, slots int) *rigged {
	r := &rigged{t: t, running: map[string]func(ending){}}
	r.worker = newWorker(q, slots, func(string) time.Duration { return time.Minute },
		func(_ context.Context, j job, end func(ending)) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.running[j.ID] = end
		}, func(err error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.errs = append(r.errs, err)
		})
	return r
}

// takes moves the worker one step and returns how many jobs it then runs.
func (r *rigged) takes(want int) int {
	r.t.Helper()
	r.gather()
	r.step(r.t.Context(), want)
	var n int
	eventually(r.t, 30*time.Second, "handlers begin", func() bool {
		r.gather()
		r.mu.Lock()
		defer r.mu.Unlock()
		n = len(r.running)
		return n >= len(r.held)
	})
	return n
}

// ends has the handler of a job end.
func (r *rigged) ends(id string, e ending) {
	r.t.Helper()
	r.mu.Lock()
	end := r.running[id]
	delete(r.running, id)
	r.mu.Unlock()
	if end == nil {
		r.t.Fatalf("%s does not run", id)
	}
	end(e)
	eventually(r.t, 30*time.Second, "the ending is noted", func() bool {
		r.gather()
		return r.held[id] == nil
	})
}

// dies makes the queue believe that the worker has been silent for too long, if it knows it.
func (r *rigged) dies() {
	r.t.Helper()
	if err := r.q.redis.ZAddXX(r.t.Context(), r.q.prefix+"workers", redis.Z{Score: 1, Member: r.id}).Err(); err != nil {
		r.t.Fatal(err)
	}
	if err := r.q.reap(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

// give pushes jobs with these ids.
func give(t *testing.T, q *queue, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := q.push(t.Context(), job{ID: id, Kind: "k", Priority: normalPriority, Payload: []byte(`{}`)}); err != nil {
			t.Fatal(err)
		}
	}
}

// has is what a queue holds: ready, running, scheduled, dead, and texts.
func has(t *testing.T, q *queue) [5]int64 {
	t.Helper()
	state, err := q.state(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var ready int64
	for _, n := range state.Ready {
		ready += n
	}
	return [5]int64{ready, state.Running, state.Scheduled, state.Dead, q.redis.HLen(t.Context(), q.prefix+"jobs").Val()}
}

func wantHas(t *testing.T, q *queue, want [5]int64) {
	t.Helper()
	if got := has(t, q); got != want {
		t.Errorf("ready, running, scheduled, dead, texts: got %v, want %v", got, want)
	}
}

func TestADeadWorkersJobsReturnToTheHead(t *testing.T) {
	t.Parallel()
	q := newTestQueue(t)
	give(t, q, "a", "b", "c")
	first, second := rig(t, q, 2), rig(t, q, 2)
	if n := first.takes(2); n != 2 {
		t.Fatalf("took %d jobs, want 2", n)
	}
	first.dies()
	wantHas(t, q, [5]int64{3, 0, 0, 0, 3})
	second.takes(2)
	if _, c := second.held["c"]; c {
		t.Error("a fresh job came before those of the dead worker")
	}
}

func TestAStaleWorkersEndingChangesNothing(t *testing.T) {
	t.Parallel()
	q := newTestQueue(t)
	give(t, q, "a")
	stale, other := rig(t, q, 1), rig(t, q, 1)
	stale.takes(1)
	stale.dies()
	other.takes(1)
	stale.ends("a", ending{mode: "dead", err: "too late"})
	stale.step(t.Context(), 0)
	wantHas(t, q, [5]int64{0, 1, 0, 0, 1}) // still the other's
	if len(stale.errs) != 1 || !errors.Is(stale.errs[0], errLeaseLost) {
		t.Errorf("the stale worker was not told: %v", stale.errs)
	}
	other.ends("a", done)
	other.step(t.Context(), 0)
	wantHas(t, q, [5]int64{0, 0, 0, 0, 0})
}

func TestReapingRacesEnding(t *testing.T) {
	t.Parallel()
	q := newTestQueue(t)
	for round := range 50 {
		id := fmt.Sprint("r", round)
		give(t, q, id)
		one := rig(t, q, 1)
		one.takes(1)
		one.ends(id, done)
		var both sync.WaitGroup
		both.Go(func() { one.step(context.Background(), 0) })
		both.Go(func() {
			q.redis.ZAdd(context.Background(), q.prefix+"workers", redis.Z{Score: 1, Member: one.id})
			q.reap(context.Background())
		})
		both.Wait()
		// Either it ended, or it is ready again: never both, never neither.
		got := has(t, q)
		if got != [5]int64{0, 0, 0, 0, 0} && got != [5]int64{1, 0, 0, 0, 1} {
			t.Fatalf("round %d: %v", round, got)
		}
		q.redis.Del(t.Context(), q.prefix+"ready:2", q.prefix+"jobs", q.prefix+"workers", q.prefix+"crashes")
	}
}

func TestAClaimWhoseReplyWasLostIsRecovered(t *testing.T) {
	t.Parallel()
	q := newTestQueue(t)
	give(t, q, "a", "b")
	r := rig(t, q, 4)
	r.takes(0)
	// The server does the step, the answer never arrives.
	if err := q.run(t.Context(), stepScript, r.stepArgs(nil, 2)...).Err(); err != nil {
		t.Fatal(err)
	}
	wantHas(t, q, [5]int64{0, 2, 0, 0, 2})
	if n := r.takes(1); n != 2 {
		t.Errorf("runs %d of the 2 lost jobs", n)
	}
}

func TestAStepWhoseReplyWasLostIsRepeatedWithoutHarm(t *testing.T) {
	t.Parallel()
	q := newTestQueue(t)
	give(t, q, "a", "b", "c", "d")
	r, other := rig(t, q, 4), rig(t, q, 4)
	r.takes(4)
	r.ends("a", done)
	r.ends("b", ending{mode: "retry", after: time.Hour, err: "x"})
	r.ends("c", ending{mode: "dead", err: "x"})
	r.ends("d", ending{mode: "release"})
	step := r.stepArgs(r.ended, 0)
	if err := q.run(t.Context(), stepScript, step...).Err(); err != nil { // the answer never arrives
		t.Fatal(err)
	}
	wantHas(t, q, [5]int64{1, 0, 1, 1, 3})
	if err := q.reset(t.Context(), []string{"b", "c"}); err != nil { // meanwhile all run again, elsewhere
		t.Fatal(err)
	}
	give(t, q, "a", "b", "c")
	other.takes(4)
	wantHas(t, q, [5]int64{0, 4, 0, 0, 4})
	if err := q.run(t.Context(), stepScript, step...).Err(); err != nil {
		t.Fatal(err)
	}
	wantHas(t, q, [5]int64{0, 4, 0, 0, 4})
	if tries, err := q.tries(t.Context(), "b"); err != nil || len(tries) != 1 {
		t.Errorf("got %d tries, %v, want 1", len(tries), err)
	}
}

func TestAWorkerThatStopsGivesBackAlsoWhatItDoesNotKnowOf(t *testing.T) {
	t.Parallel()
	q := newTestQueue(t)
	give(t, q, "a", "b", "c")
	r := rig(t, q, 4)
	r.takes(1)
	r.ends("a", done)
	if err := q.run(t.Context(), stepScript, r.stepArgs(nil, 1)...).Err(); err != nil { // the answer never arrives
		t.Fatal(err)
	}
	r.stop(0)
	wantHas(t, q, [5]int64{2, 0, 0, 0, 2})
	if len(r.running) != 0 || q.redis.ZCard(t.Context(), q.prefix+"workers").Val() != 0 {
		t.Errorf("runs %d jobs, or is still registered", len(r.running))
	}
}

func TestAWorkerThatLostTouchStopsItsHandlersBeforeOthersRunTheirJobs(t *testing.T) {
	t.Parallel()
	client, server := ownRedis(t)
	q := newQueue(client, "t", "default")
	give(t, q, "a")
	running := make(chan context.Context, 1)
	w := newWorker(q, 1, func(string) time.Duration { return time.Minute }, func(ctx context.Context, _ job, _ func(ending)) {
		running <- ctx
		<-ctx.Done()
	}, func(error) {})
	w.step(t.Context(), 1)
	ctx, id := <-running, w.id
	server.Process.Kill()
	w.step(t.Context(), 0)
	if ctx.Err() != nil {
		t.Fatal("one bad beat stops a handler")
	}
	w.lastBeat = time.Now().Add(-workerBlind) // so long without a good one
	w.step(t.Context(), 0)
	if !errors.Is(context.Cause(ctx), errLeaseLost) || len(w.held) != 0 || w.id == id {
		t.Errorf("the handler goes on (%v), or the worker with %d jobs", context.Cause(ctx), len(w.held))
	}
	if workerBlind >= workerExpiry {
		t.Error("others may be given its jobs before it stops them")
	}
}

func TestTheClocksOfWorkersDoNotMatter(t *testing.T) {
	t.Parallel()
	q := newTestQueue(t)
	give(t, q, "a", "b")
	right := rig(t, q, 1)
	right.takes(1)
	synctest.Test(t, func(t *testing.T) { // here it is the year 2000
		late := newTestQueue(t)
		late.prefix = q.prefix
		r := rig(t, late, 2)
		r.takes(2)
		r.ends("b", ending{mode: "retry", after: time.Hour, err: "x"})
		give(t, late, "c")
		r.takes(2)
		if err := late.reap(t.Context()); err != nil { // takes nobody for dead
			t.Fatal(err)
		}
		if wait := time.Until(r.due); wait < 59*time.Minute || wait > time.Hour {
			t.Errorf("the delayed job is due in %v, want an hour", wait)
		}
	})
	if err := q.reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantHas(t, q, [5]int64{0, 2, 1, 0, 3})
	state, err := q.state(t.Context())
	if err != nil || len(state.Workers) != 2 {
		t.Fatalf("%d workers, %v", len(state.Workers), err)
	}
	for _, w := range state.Workers {
		if w.BeatAgeMs > 60_000 {
			t.Errorf("%s beat %d ms ago", w.ID, w.BeatAgeMs)
		}
	}
}

func TestAnIDWithoutTextHoldsUpNobody(t *testing.T) {
	t.Parallel()
	q := newTestQueue(t)
	q.redis.RPush(t.Context(), q.prefix+"ready:2", "ghost")
	q.redis.ZAdd(t.Context(), q.prefix+"later", redis.Z{Score: 1, Member: "later ghost"})
	give(t, q, "a")
	r := rig(t, q, 4)
	if n := r.takes(4); n != 1 {
		t.Errorf("runs %d jobs, want 1", n)
	}
	wantHas(t, q, [5]int64{0, 1, 0, 0, 1})
}

func TestAnUnreadableTextIsDeadWithAReasonAndItsNeighboursFlowOn(t *testing.T) {
	t.Parallel()
	q := newTestQueue(t)
	q.redis.HSet(t.Context(), q.prefix+"jobs", "bad", "2garbage")
	q.redis.RPush(t.Context(), q.prefix+"ready:2", "bad")
	give(t, q, "a")
	r := rig(t, q, 4)
	if n := r.takes(4); n != 1 {
		t.Errorf("runs %d jobs, want 1", n)
	}
	r.step(t.Context(), 0)
	wantHas(t, q, [5]int64{0, 1, 0, 1, 2})
	tries, err := q.tries(t.Context(), "bad")
	if err != nil || len(tries) != 1 || tries[0].Error != errEnvelope.Error() {
		t.Errorf("got %s, %v", jsonOf(tries), err)
	}
}

func TestAPoisonJobIsDeadAfterThreeCrashesAndItsNeighboursAreNot(t *testing.T) {
	t.Parallel()
	q := newTestQueue(t)
	give(t, q, "poison", "n1", "n2", "n3")
	for crash := range 20 {
		r := rig(t, q, 8)
		r.takes(8)
		if r.held["poison"] == nil { // it lets the innocent finish
			for id := range r.held {
				r.ends(id, done)
			}
			r.step(t.Context(), 0)
			time.Sleep(210 * time.Millisecond) // the pause of a suspect
			continue
		}
		r.dies()
		if has(t, q)[3] == 1 {
			t.Logf("dead after %d rounds", crash+1)
			break
		}
	}
	dead := q.redis.ZRange(t.Context(), q.prefix+"dead", 0, -1).Val()
	if len(dead) != 1 || dead[0] != "poison" {
		t.Fatalf("dead are %v, want poison alone", dead)
	}
	for range 5 {
		r := rig(t, q, 8)
		r.takes(8)
		for id := range r.held {
			r.ends(id, done)
		}
		r.step(t.Context(), 0)
		time.Sleep(210 * time.Millisecond)
	}
	wantHas(t, q, [5]int64{0, 0, 0, 1, 1})
}

func TestARetryStormDoesNotHoldUpFreshUrgentWork(t *testing.T) {
	t.Parallel()
	q := newTestQueue(t)
	for i := range 3000 {
		if err := q.push(t.Context(), job{ID: fmt.Sprint("old", i), Kind: "k", Priority: 3, Payload: []byte("1")}); err != nil {
			t.Fatal(err)
		}
	}
	give(t, q, "fresh")
	r := rig(t, q, 32)
	r.takes(32)
	if r.held["fresh"] == nil {
		t.Error("a fresh job of normal priority waits behind old ones of low priority")
	}
	if len(r.held) < 30 {
		t.Errorf("took only %d", len(r.held))
	}
}

func TestEveryPriorityMakesProgress(t *testing.T) {
	t.Parallel()
	q := newTestQueue(t)
	for p := range priorities {
		for i := range 100 {
			if err := q.push(t.Context(), job{ID: fmt.Sprintf("p%d-%d", p, i), Kind: "k", Priority: p, Payload: []byte("1")}); err != nil {
				t.Fatal(err)
			}
		}
	}
	r := rig(t, q, 200)
	taken := map[int]int{}
	for range 60 { // one job at a time, where a naive rule would only ever take the most urgent
		r.takes(1)
	}
	for _, j := range r.held {
		taken[j.Priority]++
	}
	if taken[0] != 32 || taken[1] != 16 || taken[2] != 8 || taken[3] != 4 {
		t.Errorf("of 60 jobs the priorities got %v, want 8:4:2:1", taken)
	}
}

func TestPausedQueuesEndJobsButHandOutNone(t *testing.T) {
	t.Parallel()
	q := newTestQueue(t)
	give(t, q, "a", "b")
	r := rig(t, q, 1)
	r.takes(1)
	if err := q.pause(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	for id := range r.held {
		r.ends(id, done)
	}
	r.takes(1)
	wantHas(t, q, [5]int64{1, 0, 0, 0, 1})
	if err := q.pause(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if r.takes(1); len(r.held) != 1 {
		t.Error("a resumed queue hands out nothing")
	}
}

func TestForgottenScriptsAreSentAgain(t *testing.T) {
	t.Parallel()
	q := newTestQueue(t)
	give(t, q, "a")
	r := rig(t, q, 1)
	if err := q.redis.ScriptFlush(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	give(t, q, "b")
	if n := r.takes(1); n != 1 {
		t.Errorf("runs %d, want 1 (%v)", n, r.errs)
	}
}

func TestTheDeadAreBounded(t *testing.T) {
	t.Parallel()
	q := newTestQueue(t)
	fill := func(n int64) {
		pipe := q.redis.Pipeline()
		for range n {
			id := newUUID().String()
			pipe.ZAdd(t.Context(), q.prefix+"dead", redis.Z{Score: float64(time.Now().UnixMilli()), Member: id})
			pipe.HSet(t.Context(), q.prefix+"jobs", id, "2 k  1\n{}")
		}
		if _, err := pipe.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	r := rig(t, q, 1)
	for _, test := range []struct {
		id         string
		have, left int64
	}{{"a", 10_005, 10_000}, {"b", 19_000, 19_001 - maxBatch}} { // the more are forgotten bit by bit
		fill(test.have - q.redis.ZCard(t.Context(), q.prefix+"dead").Val())
		give(t, q, test.id)
		r.takes(1)
		r.ends(test.id, ending{mode: "dead", err: "x"})
		r.step(t.Context(), 0)
		if got := has(t, q); got[3] != test.left || got[4] != test.left || len(r.errs) > 0 {
			t.Errorf("of %d: got %v, %v; want %d dead and as many texts", test.have, got, r.errs, test.left)
		}
	}
}

func TestPayloadsAndErrorsOfAnyBytes(t *testing.T) {
	t.Parallel()
	q := newTestQueue(t)
	payload := "a\x00b\xff\n\r \u2028" + strings.Repeat("x", 1000)
	if err := q.push(t.Context(), job{ID: "a", Kind: "k", Payload: []byte(payload)}); err != nil {
		t.Fatal(err)
	}
	r := rig(t, q, 1)
	r.takes(1)
	if got := string(r.held["a"].Payload); got != payload {
		t.Errorf("the payload came back as %q", got)
	}
	r.ends("a", endingOf(errors.New("bad \x00 \xff byte\nsecond line"), 1))
	r.step(t.Context(), 0)
	tries, err := q.tries(t.Context(), "a")
	if err != nil || len(tries) != 1 || !strings.Contains(tries[0].Error, "second line") {
		t.Errorf("got %s, %v", jsonOf(tries), err)
	}
	if err := q.push(t.Context(), job{ID: "b", Kind: "k", Payload: make([]byte, maxPayload+1)}); err == nil {
		t.Error("a payload over the limit was taken")
	}
	wantHas(t, q, [5]int64{0, 0, 1, 0, 1})
}

// ownRedis is a Redis server for one test that mistreats it.
func ownRedis(t *testing.T, args ...string) (redis.UniversalClient, *exec.Cmd) {
	t.Helper()
	dir, err := os.MkdirTemp("", "tfr")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "r.sock")
	cmd := exec.Command("redis-server", append([]string{"--port", "0", "--unixsocket", socket, "--save", "", "--dir", dir}, args...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(&redis.Options{Network: "unix", Addr: socket, ContextTimeoutEnabled: true})
	t.Cleanup(func() {
		client.Close()
		cmd.Process.Kill()
		cmd.Wait()
		os.RemoveAll(dir)
	})
	eventually(t, 30*time.Second, "Redis answers", func() bool { return client.Ping(t.Context()).Err() == nil })
	return client, cmd
}

func TestJobsEndWhenRedisIsFull(t *testing.T) {
	t.Parallel()
	client, _ := ownRedis(t)
	q := newQueue(client, "t", "default")
	give(t, q, "a", "b", "c", "d")
	dying, r := rig(t, q, 1), rig(t, q, 3)
	r.takes(3)
	dying.takes(1)
	if err := client.ZAdd(t.Context(), q.prefix+"workers", redis.Z{Score: 1, Member: dying.id}).Err(); err != nil {
		t.Fatal(err)
	}
	if err := client.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if err := client.Set(t.Context(), "x", "y", 0).Err(); err == nil {
		t.Fatal("Redis is not full")
	}
	r.ends("a", done)
	r.ends("b", ending{mode: "retry", after: time.Hour, err: "x"})
	r.ends("c", ending{mode: "dead", err: "x"})
	r.step(t.Context(), 0)
	r.step(t.Context(), 0) // only a beat
	if err := q.reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantHas(t, q, [5]int64{1, 0, 1, 1, 3})
	r.takes(1)
	r.ends("d", ending{mode: "release"})
	r.stop(0)
	if len(r.errs) > 0 {
		t.Fatalf("step: %v", r.errs)
	}
	wantHas(t, q, [5]int64{1, 0, 1, 1, 3})
}

func TestAReplicaIsWaitedOutAndNothingIsLost(t *testing.T) {
	t.Parallel()
	client, _ := ownRedis(t)
	q := newQueue(client, "t", "default")
	give(t, q, "a")
	r := rig(t, q, 1)
	r.takes(1)
	r.ends("a", done)
	client.ReplicaOf(t.Context(), "127.0.0.1", "1") // what a fail-over leaves behind: READONLY
	r.step(t.Context(), 1)
	if len(r.errs) == 0 || !strings.Contains(r.errs[0].Error(), "READONLY") {
		t.Fatalf("got %v", r.errs)
	}
	client.ReplicaOf(t.Context(), "NO", "ONE")
	r.step(t.Context(), 1)
	wantHas(t, q, [5]int64{0, 0, 0, 0, 0})
}

func TestAWrongRedisIsRefusedByTheSettingToChange(t *testing.T) {
	t.Parallel()
	client, _ := ownRedis(t, "--maxmemory-policy", "allkeys-lru")
	q := newQueue(client, "t", "default")
	if _, err := q.checkRedis(t.Context()); err == nil || !strings.Contains(err.Error(), "set maxmemory-policy to noeviction") {
		t.Errorf("got %v", err)
	}
	client.ConfigSet(t.Context(), "maxmemory-policy", "noeviction")
	if warning, err := q.checkRedis(t.Context()); err != nil || !strings.Contains(warning, "appendonly") {
		t.Errorf("got %q, %v", warning, err)
	}
}

// runFor runs a queue's jobs with a handler until the test ends it.
func runFor(t *testing.T, q *queue, slots int, timeout time.Duration, handle func(context.Context, job, func(ending))) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		q.work(ctx, slots, 500*time.Millisecond, func(string) time.Duration { return timeout }, handle, func(error) {})
	}()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	return stop
}

func TestAnIdleWorkerStopsAtOnceThoughItsPopBlocks(t *testing.T) {
	t.Parallel()
	q := newTestQueue(t)
	stop := runFor(t, q, 1, time.Minute, func(_ context.Context, _ job, end func(ending)) { end(done) })
	blocked := func() bool {
		clients, err := q.redis.Do(t.Context(), "CLIENT", "LIST", "TYPE", "normal").Text()
		return err == nil && strings.Contains(clients, "cmd=blpop")
	}
	eventually(t, 30*time.Second, "it waits for a token", blocked)
	started := time.Now()
	stop()
	if took := time.Since(started); took > idleWait+testPatience {
		t.Errorf("stopping took %v", took)
	}
	give(t, q, "a") // nobody is left to take the token
	if n := q.redis.LLen(t.Context(), q.prefix+"wake").Val(); n == 0 {
		t.Error("the stopped worker still takes tokens")
	}
	wantHas(t, q, [5]int64{1, 0, 0, 0, 1})
}

func TestAPanicIsAFailureWithItsStack(t *testing.T) {
	t.Parallel()
	q := newTestQueue(t)
	give(t, q, "a")
	runFor(t, q, 2, time.Minute, func(context.Context, job, func(ending)) { panic("out of cheese") })
	eventually(t, 30*time.Second, "the failure is noted", func() bool {
		tries, _ := q.tries(t.Context(), "a")
		return len(tries) == 1 && strings.Contains(tries[0].Error, "out of cheese") && strings.Contains(tries[0].Stack, "worker_test.go")
	})
}

func TestAHandlerThatIgnoresItsTimeoutFreesItsSlot(t *testing.T) {
	t.Parallel()
	q := newTestQueue(t)
	give(t, q, "stubborn", "next")
	release := make(chan struct{})
	defer close(release)
	var next atomic.Bool
	runFor(t, q, 1, 50*time.Millisecond, func(_ context.Context, j job, end func(ending)) {
		if j.ID == "stubborn" {
			<-release
			return
		}
		next.Store(true)
		end(done)
	})
	eventually(t, ignoredTimeout+30*time.Second, "the next job runs", next.Load)
	eventually(t, 30*time.Second, "the failure is noted", func() bool {
		tries, _ := q.tries(t.Context(), "stubborn")
		return len(tries) == 1 && strings.Contains(tries[0].Error, "ignored its timeout")
	})
}

func TestStoppingUnderAStreamOfPushesGivesBackWhatIsNotDone(t *testing.T) {
	t.Parallel()
	q := newTestQueue(t)
	var pushed, ran atomic.Int64
	streaming, stopStream := context.WithCancel(t.Context())
	var stream sync.WaitGroup
	for range 4 {
		stream.Go(func() {
			for streaming.Err() == nil {
				if q.push(context.Background(), job{ID: newUUID().String(), Kind: "k", Payload: []byte("1")}) == nil {
					pushed.Add(1)
				}
			}
		})
	}
	stop := runFor(t, q, 8, time.Minute, func(ctx context.Context, _ job, end func(ending)) {
		time.Sleep(time.Millisecond)
		ran.Add(1)
		end(done)
	})
	eventually(t, 30*time.Second, "many run", func() bool { return ran.Load() > 500 })
	started := time.Now()
	stop()
	if took := time.Since(started); took > 3*testPatience {
		t.Errorf("stopping took %v", took)
	}
	stopStream()
	stream.Wait()
	got := has(t, q)
	if got[1] != 0 || got[0]+ran.Load() != pushed.Load() || got[0] != got[4] {
		t.Errorf("pushed %d, ran %d, left %v", pushed.Load(), ran.Load(), got)
	}
	if n := q.redis.ZCard(t.Context(), q.prefix+"workers").Val(); n != 0 {
		t.Errorf("%d workers still registered", n)
	}
}

func TestARunningJobIsGivenBackWhenItsWorkerStops(t *testing.T) {
	t.Parallel()
	q := newTestQueue(t)
	give(t, q, "slow")
	began := make(chan struct{})
	stop := runFor(t, q, 1, time.Minute, func(ctx context.Context, _ job, end func(ending)) {
		close(began)
		<-ctx.Done()
		if errors.Is(context.Cause(ctx), errStopping) {
			end(ending{mode: "release"})
		}
	})
	<-began
	stop()
	wantHas(t, q, [5]int64{1, 0, 0, 0, 1})
	if n := q.redis.HLen(t.Context(), q.prefix+"tries").Val(); n != 0 {
		t.Error("stopping counted as an attempt")
	}
}

func TestACancelledJobIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	began := make(chan struct{}, 10)
	ts.withKind(jobKind{name: "slow", timeout: time.Minute, run: func(ctx context.Context, _ job, effect *pgx.Batch) error {
		began <- struct{}{}
		effect.Queue(`INSERT INTO queues VALUES ('the effect', true)`)
		<-ctx.Done()
		return ctx.Err()
	}})
	ts.startWorking()
	id := ts.enqueue(newJob{kind: "slow", payload: 1})
	<-began
	if err := ts.outbox.queue.remove(t.Context(), []string{id}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the job is gone", func() bool { return ts.living() == 0 })
	eventually(t, 30*time.Second, "Redis forgets it", func() bool { return has(t, ts.outbox.queue) == [5]int64{} })
	n, err := queryValue[int64](t.Context(), ts.db, `SELECT count(*) FROM queues`)
	if err != nil || n != 0 || len(began) != 0 {
		t.Errorf("%d effects (%v), %d more runs", n, err, len(began))
	}
}

func TestAnEffectWhoseAcknowledgementWasLostHappensOnce(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	var runs atomic.Int64
	ts.withKind(jobKind{name: "count", run: func(_ context.Context, j job, effect *pgx.Batch) error {
		runs.Add(1)
		effect.Queue(`INSERT INTO queues VALUES ($1, false)`, fmt.Sprint(j.ID, runs.Load()))
		return nil
	}})
	id := ts.enqueue(newJob{kind: "count", payload: 1})
	ts.outbox.pushing.Wait()
	r := rig(t, ts.outbox.queue, 1)
	r.takes(1)
	var ended atomic.Int64
	ts.outbox.runJob(t.Context(), r.held[id].job, func(ending) { ended.Add(1) })
	eventually(t, 30*time.Second, "the effect is committed", func() bool { return ended.Load() == 1 })
	r.dies() // before it could tell Redis
	ts.startWorking()
	eventually(t, 30*time.Second, "Redis forgets it", func() bool { return has(t, ts.outbox.queue) == [5]int64{} })
	n, err := queryValue[int64](t.Context(), ts.db, `SELECT count(*) FROM queues`)
	if err != nil || n != 1 || runs.Load() != 2 {
		t.Errorf("%d effects (%v) of %d runs, want 1 of 2", n, err, runs.Load())
	}
}

func TestAnUnknownKindWaitsForAProcessThatKnowsIt(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	id := ts.enqueue(newJob{kind: "from.the.future", payload: 1})
	ts.outbox.pushing.Wait()
	ts.startWorking()
	eventually(t, 30*time.Second, "it is delayed", func() bool { return has(t, ts.outbox.queue)[2] == 1 })
	if tries, _ := ts.outbox.queue.tries(t.Context(), id); len(tries) != 0 {
		t.Error("not knowing a kind counted as an attempt")
	}
	var ended ending
	ts.outbox.runJob(t.Context(), job{ID: id, Kind: "from.the.future", PushedAt: time.Now().Add(-25 * time.Hour), Attempt: 1}, func(e ending) { ended = e })
	if ended.mode != "dead" {
		t.Errorf("after a day: got %q, want dead", ended.mode)
	}
}

func TestAUniqueJobIsMadeOnceWhileOneLivesAndAgainAfterwards(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ts.exec(`CREATE TABLE effects (job uuid)`)
	fail := atomic.Bool{}
	fail.Store(true)
	ts.withKind(jobKind{name: "once", run: func(_ context.Context, j job, effect *pgx.Batch) error {
		if fail.Load() {
			return permanent(errors.New("no"))
		}
		effect.Queue(`INSERT INTO effects VALUES ($1)`, j.ID)
		return nil
	}})
	for range 5 {
		ts.enqueue(newJob{kind: "once", payload: 1, unique: "the only"})
	}
	if n := ts.living(); n != 1 {
		t.Fatalf("%d rows, want 1", n)
	}
	ts.startWorking()
	eventually(t, 30*time.Second, "it is dead", func() bool {
		n, _ := queryValue[int64](t.Context(), ts.db, `SELECT count(*) FROM jobs WHERE dead_at IS NOT NULL`)
		return n == 1
	})
	fail.Store(false)
	ts.enqueue(newJob{kind: "once", payload: 1, unique: "the only"}) // the dead one does not hold the key
	eventually(t, 30*time.Second, "the second is done", func() bool { return ts.effects() == 1 && ts.living() == 1 })
	ts.enqueue(newJob{kind: "once", payload: 1, unique: "the only"})
	eventually(t, 30*time.Second, "the third is done", func() bool { return ts.effects() == 2 && ts.living() == 1 })
}

func TestAPayloadTooLargeForRedisStaysInItsRow(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	q := ts.outbox.queue
	var got, kept atomic.Int64
	ts.withKind(jobKind{name: "big", run: func(ctx context.Context, j job, _ *pgx.Batch) error {
		got.Add(int64(len(j.Payload)))
		kept.Add(int64(len(q.redis.HGet(ctx, q.prefix+"jobs", j.ID).Val())))
		return nil
	}})
	big := newJob{kind: "big", payload: strings.Repeat("x", 200_000)}
	ts.enqueue(big)
	ts.outbox.pushing.Wait()
	wantHas(t, q, [5]int64{1, 0, 0, 0, 1})
	b := &pgx.Batch{}
	if _, err := queueJob(b, big); err != nil { // this one is left to the relay
		t.Fatal(err)
	}
	if err := ts.db.send(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	ts.startWorking()
	eventually(t, 30*time.Second, "both are done", func() bool { return ts.living() == 0 })
	if got.Load() != 2*200_002 || kept.Load() == 0 || kept.Load() > maxPayload {
		t.Errorf("got %d bytes, of which Redis had %d", got.Load(), kept.Load())
	}
	if _, err := queueJob(&pgx.Batch{}, newJob{kind: "big", payload: strings.Repeat("x", maxRowPayload)}); err == nil {
		t.Error("a payload over a megabyte was taken")
	}
}

func TestOneBadEffectStopsNoOther(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ts.withKind(jobKind{name: "mixed", run: func(_ context.Context, j job, effect *pgx.Batch) error {
		if strings.Contains(string(j.Payload), "bad") {
			effect.Queue(`SELECT 1/0`)
		}
		return nil
	}})
	for i := range 40 {
		payload := "good"
		if i%10 == 0 {
			payload = "bad"
		}
		ts.enqueue(newJob{kind: "mixed", payload: payload})
	}
	ts.startWorking()
	eventually(t, 30*time.Second, "the good ones are done", func() bool { return ts.living() == 4 })
}
