package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
)

const adminQueue = "/api/v1/admin/queues/default"

// withKinds are the kinds of job that these tests use: doomed dies at once unless mended, slow runs
// until it is cancelled, and quick is done at once. Each of them has an effect to count.
func (ts *testServer) withKinds() (mend func(), began chan string) {
	ts.t.Helper()
	var mended atomic.Bool
	began = make(chan string, 100)
	if _, err := execute(ts.t.Context(), ts.db, `CREATE TABLE effects (job uuid, kind text)`); err != nil {
		ts.t.Fatal(err)
	}
	const effectSQL = `INSERT INTO effects VALUES ($1, $2)`
	ts.withKind(jobKind{name: "doomed", run: func(_ context.Context, j job, effect *pgx.Batch) error {
		if !mended.Load() {
			return permanent(fmt.Errorf("no <b>such</b> address %d, password=hunter2", time.Now().UnixNano()))
		}
		effect.Queue(effectSQL, j.ID, j.Kind)
		return nil
	}})
	ts.withKind(jobKind{name: "slow", timeout: time.Minute, run: func(ctx context.Context, j job, effect *pgx.Batch) error {
		began <- j.ID
		effect.Queue(effectSQL, j.ID, j.Kind)
		<-ctx.Done()
		return ctx.Err()
	}})
	ts.withKind(jobKind{name: "quick", run: func(_ context.Context, j job, effect *pgx.Batch) error {
		effect.Queue(effectSQL, j.ID, j.Kind)
		return nil
	}})
	return func() { mended.Store(true) }, began
}

func (ts *testServer) effects() int64 {
	ts.t.Helper()
	n, err := queryValue[int64](ts.t.Context(), ts.db, `SELECT count(*) FROM effects`)
	if err != nil {
		ts.t.Fatal(err)
	}
	return n
}

// dead waits until so many rows are dead.
func (ts *testServer) dead(want int64) {
	ts.t.Helper()
	eventually(ts.t, 30*time.Second, fmt.Sprint(want, " dead jobs"), func() bool {
		n, err := queryValue[int64](ts.t.Context(), ts.db, `SELECT count(*) FROM jobs WHERE dead_at IS NOT NULL`)
		return err == nil && n == want && ts.redis.ZCard(ts.t.Context(), ts.outbox.queue.prefix+"dead").Val() == want
	})
	ts.outbox.snapshot.expire()
}

func TestDashboardListsJobsByStateAndFilter(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	admin := ts.signUp("Ada")
	_, began := ts.withKinds()
	ts.startWorking()
	doomed := ts.enqueue(newJob{kind: "doomed", payload: map[string]any{"n": 1}, trace: "trace-1"})
	slow := ts.enqueue(newJob{kind: "slow", payload: 1})
	<-began
	later := ts.enqueue(newJob{kind: "quick", payload: 1, runAt: time.Now().Add(time.Hour)})
	ts.dead(1)
	admin.post(adminQueue+"/pause", "").want(204)
	var ready []string
	for range 3 {
		ready = append(ready, ts.enqueue(newJob{kind: "quick", payload: 1}))
	}
	slices.Reverse(ready) // the newest first
	ts.outbox.pushing.Wait()
	ts.outbox.snapshot.expire()

	for state, want := range map[string][]string{"ready": ready, "running": {slow}, "scheduled": {later}, "dead": {doomed}} {
		a := admin.get(adminQueue+"/jobs?total=true&state="+state).want(200).is("total", len(want)).is("next", nil)
		if got := a.strs("id"); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", state, got, want)
		}
		if a.str("items.0.state") != state || a.at("items.0.payload") != nil || a.at("items.0.tries") != nil {
			t.Errorf("%s: %s", state, a.body)
		}
	}
	admin.get(adminQueue+"/jobs").want(200).is("items.0.id", ready[0]) // ready is the default
	admin.get(adminQueue+"/jobs?state=running").want(200).is("items.0.worker", admin.get("/api/v1/admin/queues").str("items.0.workers.0.id"))

	for query, want := range map[string]int{
		"kind=doomed": 1, "kind=doom": 0, "search=doom": 1, "search=" + doomed: 1, "search=SUCH": 1, "search=%25": 0, "search=trace-1": 1, "search=trace": 0,
	} {
		if got := admin.get(adminQueue + "/jobs?state=dead&" + query).want(200).strs("id"); len(got) != want {
			t.Errorf("%s: got %v, want %d", query, got, want)
		}
	}

	var paged []string
	first := adminQueue + "/jobs?state=ready&limit=2"
	for next := first; next != ""; {
		a := admin.get(next).want(200)
		paged = append(paged, a.strs("id")...)
		if next = a.str("next"); next != "" {
			next = first + "&cursor=" + url.QueryEscape(next)
		}
	}
	if !slices.Equal(paged, ready) {
		t.Errorf("in pages: got %v, want %v", paged, ready)
	}
	cursor := url.QueryEscape(admin.get(first).str("next"))
	admin.get(adminQueue+"/jobs?state=scheduled&cursor="+cursor).problem(400, "bad_parameter").field("cursor", "invalid_cursor")
	admin.get(adminQueue+"/jobs?state=lost").problem(400, "bad_parameter").field("state", "not_allowed")
	admin.get(adminQueue+"/jobs?search="+strings.Repeat("x", 201)).problem(400, "bad_parameter").field("search", "too_long")

	admin.get("/api/v1/admin/queues").want(200).is("items.0.paused", true).is("items.0.reachable", true).
		is("items.0.running", 1).is("items.0.scheduled", 1).is("items.0.dead", 1).is("items.0.outboxRows", 5).is("items.0.outboxDead", 1)
}

func TestDashboardShowsAJobWithItsAttemptsAndWithoutItsSecrets(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	admin := ts.signUp("Ada")
	ts.withKind(jobKind{name: "panics", run: func(_ context.Context, j job, _ *pgx.Batch) error {
		if j.Attempt == 1 {
			return retryAfter(time.Millisecond, errors.New("first, token=abcdef"))
		}
		panic("out of cheese")
	}})
	ts.startWorking()
	id := ts.enqueue(newJob{kind: "panics", payload: map[string]any{
		"big": int64(9007199254740993), "user": map[string]any{"password": "hunter2"}, "note": "<b>see</b> https://x.test/?token=hunter3",
	}, trace: "req-1"})
	var a *answer
	eventually(t, 30*time.Second, "two attempts", func() bool {
		a = admin.get("/api/v1/admin/jobs/" + id).want(200)
		return a.at("tries.1") != nil && a.str("state") == "scheduled"
	})
	a.is("trace", "req-1").is("kind", "panics").is("tries.0.error", "first, token=[masked]").is("tries.1.error", "panic: out of cheese")
	if !strings.Contains(a.str("tries.1.stack"), "dashboard_test.go") || a.str("tries.0.worker") == "" || a.str("tries.0.at") == "" {
		t.Errorf("attempts: %s", a.body)
	}
	if strings.Contains(string(a.body), "hunter") || !strings.Contains(string(a.body), "9007199254740993") {
		t.Errorf("payload: %s", a.body)
	}
	a.is("payload.user.password", "[masked]").is("payload.note", "<b>see</b> https://x.test/?token=[masked]")
	admin.get("/api/v1/admin/jobs/"+newUUID().String()).problem(404, "not_found")
	admin.get("/api/v1/admin/jobs/1").problem(404, "not_found")
}

func TestDashboardRetriesOneDeadJobFromItsRow(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	admin := ts.signUp("Ada")
	mend, _ := ts.withKinds()
	ts.startWorking()
	id := ts.enqueue(newJob{kind: "doomed", payload: "bad"})
	ts.dead(1)
	admin.post("/api/v1/admin/jobs/"+id+"/retry", "").want(204) // dies again
	eventually(t, 30*time.Second, "a second attempt", func() bool {
		return admin.get("/api/v1/admin/jobs/"+id).at("tries.1") != nil
	})
	ts.dead(1)
	mend()
	admin.post("/api/v1/admin/jobs/"+id+"/retry", "").want(204)
	eventually(t, 30*time.Second, "it is done", func() bool { return ts.living() == 0 && ts.effects() == 1 })
	admin.post("/api/v1/admin/jobs/"+id+"/retry", "").problem(404, "not_found")
	eventually(t, 30*time.Second, "Redis forgets it", func() bool { return has(t, ts.outbox.queue) == [5]int64{} })
}

func TestDashboardRetriesWhatRedisForgot(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	admin := ts.signUp("Ada")
	mend, _ := ts.withKinds()
	ts.startWorking()
	ts.swept()
	id := ts.enqueue(newJob{kind: "doomed", payload: 1})
	ts.dead(1)
	ts.redis.Del(t.Context(), ts.outbox.queue.prefix+"dead", ts.outbox.queue.prefix+"jobs", ts.outbox.queue.prefix+"tries")
	mend()
	admin.post("/api/v1/admin/jobs/"+id+"/retry", "").want(204)
	eventually(t, sweepEvery/2, "it is done", func() bool { return ts.living() == 0 })
}

func TestDashboardRetryRunsADelayedJobAtOnceAndLeavesARunningOneAlone(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	admin := ts.signUp("Ada")
	_, began := ts.withKinds()
	ts.startWorking()
	later := ts.enqueue(newJob{kind: "quick", payload: 1, runAt: time.Now().Add(time.Hour)})
	slow := ts.enqueue(newJob{kind: "slow", payload: 1})
	<-began
	ts.outbox.pushing.Wait()
	admin.post("/api/v1/admin/jobs/"+later+"/retry", "").want(204)
	eventually(t, 30*time.Second, "the delayed job is done", func() bool { return ts.effects() == 1 })
	admin.post("/api/v1/admin/jobs/"+slow+"/retry", "").problem(409, "job_not_waiting")
	if n := len(admin.get("/api/v1/admin/audit").strs("id")); n != 1 {
		t.Errorf("%d entries of what was done, want 1: a refusal is none", n)
	}
}

func TestDashboardRetryKeepsUniqueJobsUnique(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	admin := ts.signUp("Ada")
	ts.withKinds()
	stop := ts.startWorking()
	for i := range 3 { // a dead one does not hold the key
		ts.enqueue(newJob{kind: "doomed", payload: i, unique: "the only"})
		ts.dead(int64(i + 1))
	}
	stop()
	admin.post(adminQueue+"/retry-dead", `{}`).want(200).is("matched", 3).is("touched", 1)
	ids := admin.get(adminQueue + "/jobs?state=dead").strs("id")
	if len(ids) != 2 {
		t.Fatalf("%d are dead, want 2", len(ids))
	}
	admin.post("/api/v1/admin/jobs/"+ids[0]+"/retry", "").problem(409, "job_not_waiting")
	admin.post(adminQueue+"/retry-dead", `{}`).want(200).is("matched", 2).is("touched", 0)
}

func TestDashboardDeletesARunningJobAndItsEffectDoesNotHappen(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	admin := ts.signUp("Ada")
	_, began := ts.withKinds()
	ts.startWorking()
	id := ts.enqueue(newJob{kind: "slow", payload: 1})
	<-began
	admin.delete("/api/v1/admin/jobs/" + id).want(204)
	eventually(t, 30*time.Second, "Redis forgets it", func() bool { return has(t, ts.outbox.queue) == [5]int64{} })
	if ts.effects() != 0 || ts.living() != 0 || len(began) != 0 {
		t.Errorf("%d effects, %d rows, %d more runs; want none", ts.effects(), ts.living(), len(began))
	}
	admin.delete("/api/v1/admin/jobs/"+id).problem(404, "not_found")
}

func TestDashboardGroupsDeadJobsAndChangesAllOfAGroup(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	admin := ts.signUp("Ada")
	mend, _ := ts.withKinds()
	ts.withKind(jobKind{name: "odd", run: func(_ context.Context, j job, _ *pgx.Batch) error {
		return permanent(fmt.Errorf("odd one %s", j.Payload))
	}})
	ts.startWorking()
	for i := range 3 {
		ts.enqueue(newJob{kind: "doomed", payload: i})
	}
	ts.enqueue(newJob{kind: "odd", payload: "a"})
	ts.enqueue(newJob{kind: "odd", payload: "b"})
	ts.dead(5)
	groups := admin.get(adminQueue+"/dead-groups").want(200).is("items.0.kind", "doomed").is("items.0.count", 3).is("items.1.count", 1).is("items.2.count", 1)
	if text := groups.str("items.0.error"); !strings.HasPrefix(text, "no <b>such</b> address ") || !strings.HasSuffix(text, "password=[masked]") {
		t.Errorf("the group's error is %q", text)
	}
	doomed, odd := groups.str("items.0.id"), groups.str("items.1.id")
	if n := len(admin.get(adminQueue + "/jobs?state=dead&group=" + doomed).strs("id")); n != 3 {
		t.Errorf("%d jobs in the group, want 3", n)
	}

	admin.post(adminQueue+"/retry-dead", `{"group":"`+doomed+`","dryRun":true}`).want(200).is("matched", 3).is("touched", 0).is("dryRun", true)
	admin.post(adminQueue+"/delete-dead", `{"kind":"odd","search":"ODD ONE","dryRun":true}`).want(200).is("matched", 2)
	admin.post(adminQueue+"/delete-dead", `{"kind":"doomed","search":"odd"}`).want(200).is("matched", 0).is("touched", 0)
	ts.dead(5)
	mend()
	admin.post(adminQueue+"/retry-dead", `{"group":"`+doomed+`"}`).want(200).is("matched", 3).is("touched", 3)
	eventually(t, 30*time.Second, "they are done", func() bool { return ts.effects() == 3 })
	admin.post(adminQueue+"/delete-dead", `{"group":"`+odd+`"}`).want(200).is("touched", 1)
	admin.post(adminQueue+"/delete-dead", `{}`).want(200).is("touched", 1)
	ts.dead(0)
	if ts.living() != 0 {
		t.Errorf("%d rows left", ts.living())
	}
	admin.get(adminQueue+"/dead-groups").want(200).is("items", "[]")

	admin.post(adminQueue+"/retry-dead", `{"all":true}`).problem(422, "validation_failed")
	admin.post(adminQueue+"/delete-dead", ``).problem(415, "unsupported_media")
	admin.post(adminQueue+"/delete-dead", `{"search":"`+strings.Repeat("x", 201)+`"}`).problem(422, "validation_failed").field("search", "too_long")

	audit := admin.get("/api/v1/admin/audit?total=true").want(200).is("total", 3)
	if got := audit.strs("action"); !slices.Equal(got, []string{"job.deleted", "job.deleted", "job.retried"}) {
		t.Errorf("audit: %v", got)
	}
	audit.is("items.2.target", "default").is("items.2.actorId", admin.id).is("items.2.actorName", "Ada Tester").is("items.2.detail.count", 3).is("items.2.detail.group", doomed)
}

func TestDashboardPauseOutlivesWhatRedisForgets(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	admin := ts.signUp("Ada")
	ts.withKinds()
	ts.startWorking()
	admin.post(adminQueue+"/pause", "").want(204)
	admin.post(adminQueue+"/pause", "").want(204)
	ts.enqueue(newJob{kind: "quick", payload: 1})
	ts.outbox.pushing.Wait()
	keys, err := ts.redis.Keys(t.Context(), ts.config.redisSpace+":*").Result()
	if err != nil || len(keys) == 0 {
		t.Fatalf("no keys: %v", err)
	}
	ts.redis.Del(t.Context(), slices.DeleteFunc(keys, func(key string) bool { return strings.HasSuffix(key, "workers") })...)
	admin.get("/api/v1/admin/queues").is("items.0.paused", true)
	eventually(t, 30*time.Second, "the relay pauses it again", func() bool {
		return ts.redis.Exists(t.Context(), ts.outbox.queue.prefix+"paused").Val() == 1
	})
	second := ts.enqueue(newJob{kind: "quick", payload: 1})
	time.Sleep(1200 * time.Millisecond)
	if _, err := queryValue[string](t.Context(), ts.db, jobKindSQL, second); err != nil {
		t.Errorf("a job ran while the queue was paused: %v", err)
	}
	admin.post(adminQueue+"/resume", "").want(204)
	admin.get("/api/v1/admin/queues").is("items.0.paused", false)
	eventually(t, 30*time.Second, "all is done", func() bool { return ts.living() == 0 && ts.effects() == 2 })
	if got := admin.get("/api/v1/admin/audit").strs("action"); !slices.Equal(got, []string{"queue.resumed", "queue.paused", "queue.paused"}) {
		t.Errorf("audit: %v", got)
	}
}

// commandCount counts what a client sends to Redis.
type commandCount struct{ pipelines, commands atomic.Int64 }

func (c *commandCount) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *commandCount) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.commands.Add(1)
		return next(ctx, cmd)
	}
}

func (c *commandCount) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.pipelines.Add(1)
		return next(ctx, cmds)
	}
}

func TestDashboardLooksOnceForAllViewers(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	admin := ts.signUp("Ada")
	admin.get("/api/v1/admin/queues").want(200) // a connection is there
	var sent commandCount
	ts.redis.AddHook(&sent)
	ts.outbox.snapshot.expire()
	started := time.Now()
	var viewers sync.WaitGroup
	for range 50 {
		viewers.Go(func() {
			other := &client{s: ts, token: admin.token}
			other.get("/api/v1/admin/queues").want(200)
			other.get(adminQueue + "/jobs").want(200)
		})
	}
	viewers.Wait()
	looks := sent.pipelines.Load() / 2 // a look is two round trips
	if most := 1 + int64(time.Since(started)/snapshotLife); looks < 1 || looks > most || sent.commands.Load() != 0 {
		t.Errorf("%d pipelines and %d commands for 100 requests, want at most %d looks", sent.pipelines.Load(), sent.commands.Load(), most)
	}
}

func TestDashboardLagIsOfTheOldestJobThatNobodyHolds(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	admin := ts.signUp("Ada")
	_, began := ts.withKinds()
	ts.startWorking()
	ts.enqueue(newJob{kind: "slow", payload: 1, runAt: time.Now().Add(-time.Hour)})
	<-began
	ts.outbox.snapshot.expire()
	admin.get("/api/v1/admin/queues").is("items.0.outboxLagMs", 0)
	admin.post(adminQueue+"/pause", "").want(204)
	ts.enqueue(newJob{kind: "quick", payload: 1, runAt: time.Now().Add(-time.Minute)})
	ts.outbox.snapshot.expire()
	if lag := admin.get("/api/v1/admin/queues").num("items.0.outboxLagMs"); lag < 60_000 || lag > 120_000 {
		t.Errorf("the lag is %d ms, want a minute", lag)
	}
}

func TestDashboardWithoutRedisStillShowsWhatTheDatabaseKnows(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := silent.Addr().String()
	silent.Close()
	ts := newTestServer(t, "REDIS_URL=redis://"+address)
	admin := ts.signUp("Ada")
	id := ts.enqueue(newJob{kind: "quick", payload: 1})
	admin.get("/api/v1/admin/queues").want(200).is("items.0.reachable", false).is("items.0.outboxRows", 1).is("items.0.ready", "[0 0 0 0]").is("items.0.workers", "[]")
	admin.get(adminQueue+"/jobs").want(200).is("items.0.id", id)
	admin.get("/api/v1/admin/jobs/"+id).want(200).is("payload", 1)
	admin.post(adminQueue+"/pause", "").want(204) // the relay will tell Redis
	admin.get("/api/v1/admin/queues").is("items.0.paused", true)
	admin.post("/api/v1/admin/jobs/"+id+"/retry", "").problem(503, "unavailable")
	admin.delete("/api/v1/admin/jobs/" + id).want(204) // without its row it does nothing
	admin.get(adminQueue+"/jobs").want(200).is("items", "[]")
}

func TestAdminRoutesAreForAdminsOfTheInstallation(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	admin := ts.signUp("Ada")
	manager, member, nobody := ts.withRole("Mia", globalManager), ts.signUp("Ben"), &client{s: ts}
	id := ts.enqueue(newJob{kind: "unknown", payload: 1, runAt: time.Now().Add(time.Hour)})
	tried := 0
	for _, rt := range ts.routes() {
		method, path, _ := strings.Cut(rt.pattern, " ")
		if !strings.HasPrefix(path, "/api/v1/admin/") {
			continue
		}
		tried++
		path = strings.NewReplacer("{queue}", "default", "{id}", id).Replace(path)
		body := ""
		if strings.HasSuffix(path, "-dead") {
			body = `{}`
		}
		for _, c := range []*client{manager, member} {
			if a := c.do(method, path, body).problem(403, "forbidden"); !strings.Contains(a.str("detail"), "Only admins of the installation") {
				t.Errorf("%s %s: %s", method, path, a.body)
			}
		}
		nobody.do(method, path, body).problem(401, "unauthenticated")
		if strings.Contains(rt.pattern, "{queue}") {
			admin.do(method, strings.Replace(path, "default", "other", 1), body).problem(404, "not_found")
		}
	}
	if tried < 12 {
		t.Errorf("only %d routes tried", tried)
	}
	if ts.living() != 1 || len(admin.get("/api/v1/admin/audit").strs("id")) != 0 {
		t.Error("a refused request changed something")
	}
	admin.get("/api/v1/admin/stats").want(200).is("users", 3).is("jobs", 1).is("deadJobs", 0)
}

func TestAdminAuditListIsPaged(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	admin := ts.signUp("Ada")
	for i := range 5 {
		admin.post(adminQueue+[]string{"/pause", "/resume"}[i%2], "").want(204)
	}
	var got []string
	first := "/api/v1/admin/audit?limit=2"
	for next := first; next != ""; {
		a := admin.get(next).want(200)
		got = append(got, a.strs("action")...)
		if next = a.str("next"); next != "" {
			next = first + "&cursor=" + url.QueryEscape(next)
		}
	}
	if want := []string{"queue.paused", "queue.resumed", "queue.paused", "queue.resumed", "queue.paused"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestDashboardPageIsStaticAndLetsNothingElseIn(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	nobody := &client{s: ts}
	page := nobody.get("/admin/queues").want(200)
	base := "/assets/" + ts.assets.version + "/queues/"
	for _, file := range append(strings.Split(string(page.body), `"`+base)[1:], `api.js"`, `jobs.js"`) {
		name, _, _ := strings.Cut(file, `"`)
		a := nobody.get(base + name).want(200)
		if media := a.header.Get("Content-Type"); media != assetMedia[path.Ext(name)] || a.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s is %q", name, media)
		}
	}
	if page.header.Get("Content-Security-Policy") != pagePolicy || page.header.Get("Cache-Control") != "no-cache" {
		t.Errorf("the page's headers are %v", page.header)
	}
	if regexp.MustCompile(`<style|style=|\son\w+=|<script(>| [^>]*>[^<])`).Match(page.body) {
		t.Error("the page has a script or a style inside")
	}
	for _, name := range []string{"none.js", "..%2Fdocs%2Findex.html", "%2e%2e", "..%5Cdocs", "style.css%00", ".", "index.html"} {
		nobody.get(base+name).problem(404, "not_found")
	}
	scripts, err := webFiles.ReadDir("web/queues")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range scripts {
		text, err := webFiles.ReadFile("web/queues/" + file.Name())
		if err != nil {
			t.Fatal(err)
		}
		if regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|localStorage|\beval\(|new Function|https?://`).Match(bytes.ReplaceAll(text, []byte("http://www.w3.org/2000/svg"), nil)) {
			t.Errorf("%s takes markup, keeps tokens or leaves this server", file.Name())
		}
	}
}
