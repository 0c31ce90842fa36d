package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	maxBatch        = 256 // ids in one script
	priorities      = 4   // 0 is the most urgent
	normalPriority  = 2
	workerExpiry    = 15 * time.Second // without a beat until a worker's jobs are given to others
	maxPayload      = 64 << 10         // bytes in Redis
	redisMinVersion = "6.2"
)

// job is one piece of work as the queue hands it out.
type job struct {
	ID       string
	Kind     string
	Priority int       // 0–3, the lowest number first, at rates 8:4:2:1
	Trace    string    // of the cause; see trace.carried
	PushedAt time.Time // or due, if that is later
	RunAt    time.Time // not before; zero for at once
	Payload  []byte
	Attempt  int // from 1
}

// envelope is the job's text in Redis: priority, kind, trace and time of the push in a first line,
// then the payload. The priority stands first because scripts read it.
func (j job) envelope() string {
	return strconv.Itoa(j.Priority) + " " + j.Kind + " " + j.Trace + " " + strconv.FormatInt(j.PushedAt.UnixMilli(), 10) + "\n" + string(j.Payload)
}

var errEnvelope = errors.New("the job's text in Redis is not readable")

func openEnvelope(id, text string, failed int) (job, error) {
	head, payload, ok := strings.Cut(text, "\n")
	part := strings.Split(head, " ")
	if !ok || len(part) != 4 {
		return job{ID: id}, errEnvelope
	}
	priority, err := strconv.Atoi(part[0])
	if err != nil || priority < 0 || priority >= priorities {
		return job{ID: id}, errEnvelope
	}
	pushed, err := strconv.ParseInt(part[3], 10, 64)
	if err != nil {
		return job{ID: id}, errEnvelope
	}
	return job{
		ID: id, Kind: part[1], Priority: priority, Trace: part[2], PushedAt: time.UnixMilli(pushed),
		Payload: []byte(payload), Attempt: failed + 1,
	}, nil
}

// ending is how a job's run ended, and what becomes of it.
type ending struct {
	mode  string        // done, retry, delay, dead or release
	after time.Duration // until it is ready again, for retry and delay
	err   string
	stack string
}

var done = ending{mode: "done"}

// queue is one queue on one Redis.
type queue struct {
	name   string
	prefix string // of all keys, with the hash tag
	redis  redis.UniversalClient
	pushes *batcher[job]
	runs   runCounts
	failed func(j job, err error, end func(ending)) // ends jobs whose handler could not; nil: by endingOf
}

// runBounds are the buckets of jobs' times.
var runBounds = []time.Duration{
	time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute,
}

// otherKind stands for kinds that this process does not know.
const otherKind = "other"

// runCount is how jobs of a kind ended in this process.
type runCount struct {
	done, retry, dead, delay, release atomic.Int64
	took                              *histogram // of those that ran to an end, good or bad
}

// runCounts are those of all kinds; panics, of their handlers.
type runCounts struct {
	ofKind map[string]*runCount
	panics *atomic.Int64
}

func newRunCounts(kinds []string) runCounts {
	c := runCounts{map[string]*runCount{otherKind: {took: newHistogram(runBounds)}}, new(atomic.Int64)}
	for _, kind := range kinds {
		c.ofKind[kind] = &runCount{took: newHistogram(runBounds)}
	}
	return c
}

// note counts an end.
func (c runCounts) note(kind, mode string, took time.Duration) {
	of := c.ofKind[kind]
	if of == nil {
		of = c.ofKind[otherKind]
	}
	switch mode {
	case "done":
		of.done.Add(1)
	case "retry":
		of.retry.Add(1)
	case "dead":
		of.dead.Add(1)
	case "delay": // it could not begin yet
		of.delay.Add(1)
		return
	default: // given back, as the process stops
		of.release.Add(1)
		return
	}
	of.took.observe(took)
}

// newQueue makes the client of a queue. space keeps installations that share a Redis apart.
func newQueue(client redis.UniversalClient, space, name string) *queue {
	q := &queue{name: name, prefix: space + ":{" + name + "}:", redis: client, runs: newRunCounts(nil)}
	q.pushes = newBatcher(maxBatch, q.pushAll)
	return q
}

// run runs a script on the queue.
func (q *queue) run(ctx context.Context, script *redis.Script, args ...any) *redis.Cmd {
	return script.Run(ctx, q.redis, q.keys(), args...)
}

// keys are what scripts are called with. The second, which there never is, has a Cluster that moves
// the slot's keys one by one to another node hold off scripts (TRYAGAIN) until it has moved them all.
func (q *queue) keys() []string { return []string{q.prefix, q.prefix + "none"} }

// push adds a job unless the queue has its id. Pushes of many goroutines share round trips.
func (q *queue) push(ctx context.Context, j job) error {
	if err := q.check(j); err != nil {
		return err
	}
	return q.pushes.do(ctx, j)
}

func (q *queue) check(j job) error {
	if len(j.Payload) > maxPayload {
		return fmt.Errorf("job %s: payload of %d bytes, more than %d", j.Kind, len(j.Payload), maxPayload)
	}
	if j.ID == "" || j.Kind == "" || strings.ContainsAny(j.Kind+j.Trace, " \n") || j.Priority < 0 || j.Priority >= priorities {
		return fmt.Errorf("job %q of kind %q: bad id, kind, trace or priority", j.ID, j.Kind)
	}
	return nil
}

// pushAll pushes up to maxBatch jobs in one round trip.
func (q *queue) pushAll(ctx context.Context, jobs []job) error {
	now := time.Now()
	args := make([]any, 0, 4*len(jobs))
	for _, j := range jobs {
		if j.PushedAt.IsZero() {
			j.PushedAt = now
			if j.RunAt.After(now) {
				j.PushedAt = j.RunAt // it waits from then
			}
		}
		at := int64(0)
		if !j.RunAt.IsZero() {
			at = j.RunAt.UnixMilli()
		}
		args = append(args, j.ID, j.Priority, at, j.envelope())
	}
	if err := q.run(ctx, pushScript, args...).Err(); err != nil {
		return fmt.Errorf("push %d jobs to %s: %w", len(jobs), q.name, err)
	}
	return nil
}

// missing tells which of up to maxBatch jobs that live in the database the queue does not have, or
// takes for dead.
func (q *queue) missing(ctx context.Context, ids []string) ([]string, error) {
	missing, err := q.run(ctx, missingScript, anys(ids)...).StringSlice()
	if err != nil {
		return nil, fmt.Errorf("compare jobs of %s: %w", q.name, err)
	}
	return missing, nil
}

// anys are texts as arguments of a script.
func anys(texts []string) []any {
	out := make([]any, len(texts))
	for i, text := range texts {
		out[i] = text
	}
	return out
}

// reset forgets dead and delayed jobs, so that pushing them has them run with all their attempts
// anew. It leaves others alone.
func (q *queue) reset(ctx context.Context, ids []string) error {
	return q.each(ctx, resetScript, ids)
}

// remove forgets jobs; the handlers of those that run are cancelled within a beat.
func (q *queue) remove(ctx context.Context, ids []string) error {
	return q.each(ctx, removeScript, ids)
}

// each runs a script over ids in chunks.
func (q *queue) each(ctx context.Context, script *redis.Script, ids []string) error {
	for chunk := range slices.Chunk(ids, maxBatch) {
		if err := q.run(ctx, script, anys(chunk)...).Err(); err != nil {
			return fmt.Errorf("change %d jobs of %s: %w", len(chunk), q.name, err)
		}
	}
	return nil
}

// pause stops or resumes handing out jobs; those that run go on.
func (q *queue) pause(ctx context.Context, paused bool) error {
	if paused {
		return q.redis.Set(ctx, q.prefix+"paused", "1", 0).Err()
	}
	pipe := q.redis.Pipeline()
	pipe.Del(ctx, q.prefix+"paused")
	pipe.RPush(ctx, q.prefix+"wake", "1")
	_, err := pipe.Exec(ctx)
	return err
}

// queueState is what a queue holds and does, at one moment.
type queueState struct {
	Name        string        `json:"name"`
	Paused      bool          `json:"paused"`
	Ready       []int64       `json:"ready"` // by priority, the most urgent first
	Running     int64         `json:"running"`
	Scheduled   int64         `json:"scheduled"` // delayed, and waiting to be tried again
	Dead        int64         `json:"dead"`
	OldestMs    int64         `json:"oldestWaitingMs"` // age of the job that will be taken next at the longest-waiting priority
	Pushed      float64       `json:"pushedPerSecond"` // over the last full minutes, at most five
	Done        float64       `json:"donePerSecond"`
	Failed      float64       `json:"failedPerSecond"`
	DrainMs     *int64        `json:"drainMs"` // until nothing waits at the present rates; null when it grows
	Workers     []workerState `json:"workers"`
	runningJobs map[string]string
}

// workerState is one process that takes jobs.
type workerState struct {
	ID        string `json:"id"`
	BeatAgeMs int64  `json:"beatAgeMs"`
	Running   int64  `json:"running"`
}

// state looks at the queue, in two round trips.
func (q *queue) state(ctx context.Context) (queueState, error) {
	out := queueState{Name: q.name, Ready: make([]int64, priorities), Workers: []workerState{}, runningJobs: map[string]string{}}
	pipe := q.redis.Pipeline()
	clock := pipe.Eval(ctx, clockLua, q.keys())
	var ready [priorities]*redis.IntCmd
	var heads [priorities]*redis.StringCmd
	for p := range priorities {
		ready[p] = pipe.LLen(ctx, q.prefix+"ready:"+strconv.Itoa(p))
		heads[p] = pipe.LIndex(ctx, q.prefix+"ready:"+strconv.Itoa(p), 0)
	}
	paused, later, dead := pipe.Exists(ctx, q.prefix+"paused"), pipe.ZCard(ctx, q.prefix+"later"), pipe.ZCard(ctx, q.prefix+"dead")
	workers := pipe.ZRangeWithScores(ctx, q.prefix+"workers", 0, -1)
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return out, fmt.Errorf("look at queue %s: %w", q.name, err)
	}
	ms, err := clock.Int64()
	if err != nil {
		return out, fmt.Errorf("ask the time of queue %s: %w", q.name, err)
	}
	now := time.UnixMilli(ms)
	out.Paused, out.Scheduled, out.Dead = paused.Val() == 1, later.Val(), dead.Val()

	pipe = q.redis.Pipeline()
	var texts [priorities]*redis.StringCmd
	for p := range priorities {
		out.Ready[p] = ready[p].Val()
		texts[p] = pipe.HGet(ctx, q.prefix+"jobs", heads[p].Val())
	}
	held := make([]*redis.StringSliceCmd, len(workers.Val()))
	for i, w := range workers.Val() {
		held[i] = pipe.HKeys(ctx, fmt.Sprint(q.prefix, "run:", w.Member))
	}
	minute := now.Unix() / 60
	var minutes []*redis.MapStringStringCmd
	for m := minute - 5; m < minute; m++ {
		minutes = append(minutes, pipe.HGetAll(ctx, q.prefix+"stats:"+strconv.FormatInt(m, 10)))
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return out, fmt.Errorf("look at queue %s: %w", q.name, err)
	}
	for p := range priorities {
		if j, err := openEnvelope("", texts[p].Val(), 0); err == nil {
			out.OldestMs = max(out.OldestMs, now.Sub(j.PushedAt).Milliseconds())
		}
	}
	for i, w := range workers.Val() {
		id := fmt.Sprint(w.Member)
		age := workerExpiry.Milliseconds() - (int64(w.Score) - ms)
		out.Workers = append(out.Workers, workerState{id, max(0, age), int64(len(held[i].Val()))})
		out.Running += int64(len(held[i].Val()))
		for _, job := range held[i].Val() {
			out.runningJobs[job] = id
		}
	}
	out.rates(minutes)
	return out, nil
}

// rates fills in the rates from the counters of some minutes.
func (s *queueState) rates(minutes []*redis.MapStringStringCmd) {
	seconds := float64(60 * len(minutes))
	for _, minute := range minutes {
		for name, text := range minute.Val() {
			n, _ := strconv.ParseFloat(text, 64)
			switch mode, _, _ := strings.Cut(name, ":"); mode {
			case "pushed":
				s.Pushed += n / seconds
			case "done":
				s.Done += n / seconds
			case "retry", "dead":
				s.Failed += n / seconds
			}
		}
	}
	waiting := float64(0)
	for _, n := range s.Ready {
		waiting += float64(n)
	}
	if rate := s.Done - s.Pushed; waiting == 0 || rate > 0 {
		ms := int64(0)
		if waiting > 0 {
			ms = int64(1000 * waiting / rate)
		}
		s.DrainMs = &ms
	}
}

// wrongRedisError is a Redis that must not be used for jobs, with the setting to change.
type wrongRedisError struct{ reason string }

func (e *wrongRedisError) Error() string { return e.reason }

// checkRedis looks at what Redis is and how it is set up, on every master of a Cluster. The warning
// is about what costs only time.
func (q *queue) checkRedis(ctx context.Context) (warning string, err error) {
	var mu sync.Mutex
	_, cluster := q.redis.(*redis.ClusterClient)
	err = eachMaster(ctx, q.redis, func(ctx context.Context, master *redis.Client) error {
		info, err := master.Info(ctx).Result()
		if err != nil {
			return fmt.Errorf("look at Redis: %w", err)
		}
		said, err := judgeRedis(info, cluster)
		if err != nil && cluster {
			err = fmt.Errorf("%s: %w", master.Options().Addr, err)
		}
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		warning = said
		return nil
	})
	if cluster && err != nil && strings.Contains(err.Error(), "cluster support disabled") {
		err = &wrongRedisError{"Redis is no Cluster: give REDIS_URL one address"}
	}
	return warning, err
}

// judgeRedis reads the answer to INFO. Without a log of its own, Redis forgets everything at a
// restart and is filled again.
func judgeRedis(text string, cluster bool) (warning string, err error) {
	info := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		info[name] = value
	}
	var major, minor int
	fmt.Sscanf(info["redis_version"], "%d.%d", &major, &minor)
	if major < 6 || major == 6 && minor < 2 {
		return "", &wrongRedisError{"Redis is version " + info["redis_version"] + "; TaskFlow needs " + redisMinVersion + " or newer"}
	}
	if policy := info["maxmemory_policy"]; policy != "noeviction" {
		return "", &wrongRedisError{"Redis would evict jobs when it is full: set maxmemory-policy to noeviction (it is " + policy + ")"}
	}
	if info["redis_mode"] == "cluster" && !cluster {
		return "", &wrongRedisError{"Redis is a node of a Cluster: give REDIS_URL the addresses of several nodes with commas between them, or the same one twice"}
	}
	if info["aof_enabled"] == "0" {
		warning = "Redis keeps no append-only file: after its restart jobs are pushed again from the database; set appendonly yes to spare that"
	}
	return warning, nil
}
