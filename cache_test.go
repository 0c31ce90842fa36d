package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
)

// redisProcess is a Redis of one test, which may be paused, emptied and killed.
type redisProcess struct {
	t      testing.TB
	dir    string
	socket string
	cmd    *exec.Cmd
}

// newRedisProcess starts one with an append-only file, of which a kill may cost the last second.
func newRedisProcess(t testing.TB) *redisProcess {
	t.Helper()
	dir, err := os.MkdirTemp("", "tfr")
	if err != nil {
		t.Fatal(err)
	}
	p := &redisProcess{t: t, dir: dir, socket: filepath.Join(dir, "r.sock")}
	p.start()
	t.Cleanup(func() {
		p.kill()
		os.RemoveAll(dir)
	})
	return p
}

func (p *redisProcess) start() {
	os.Remove(p.socket)
	p.cmd = exec.Command("redis-server", "--port", "0", "--unixsocket", p.socket, "--save", "", "--appendonly", "yes", "--dir", p.dir)
	if err := p.cmd.Start(); err != nil {
		p.t.Error(err)
	}
}

func (p *redisProcess) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

func (p *redisProcess) url() string { return "unix://" + p.socket }

// pause stops a process for a while, as a machine does that swaps or moves.
func pause(process *os.Process, d time.Duration) {
	process.Signal(syscall.SIGSTOP)
	time.Sleep(d)
	process.Signal(syscall.SIGCONT)
}

// coherence is a history: what was acknowledged before a read began must be in it.
type coherence struct {
	t         *testing.T
	processes []*process
	reads     atomic.Int64
	writes    atomic.Int64
	failures  atomic.Int64
}

// call sends a request to some process and decodes its answer.
func (c *coherence) call(as *client, process int, method, path, body string, into any) int {
	req, err := http.NewRequest(method, c.processes[process].http.URL+path, strings.NewReader(body))
	if err != nil {
		c.t.Error(err)
		return 0
	}
	req.Header.Set("Authorization", "Bearer "+as.token)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	sent := time.Now()
	resp, err := testHTTP.Do(req)
	if took := time.Since(sent); took > 4*time.Second {
		c.t.Logf("%s %s at process %d took %v", method, path, process, took)
	}
	if err != nil {
		c.failures.Add(1)
		return 0
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 500 {
		c.t.Errorf("%s %s at process %d: %d %v %s", method, path, process, resp.StatusCode, err, text)
		return 0
	}
	if into != nil {
		if err := json.Unmarshal(text, into); err != nil && resp.StatusCode < 300 {
			c.t.Error(err)
		}
	}
	return resp.StatusCode
}

func (c *coherence) some() int { return rand.N(len(c.processes)) }

// register is something with a number that grows, and the last one that was acknowledged.
type register struct {
	path, ref, id string
	acknowledged  atomic.Int64
}

// write makes the number grow until ctx ends, at any process.
func (c *coherence) write(ctx context.Context, as *client, r *register, field string) {
	for n := int64(1); ctx.Err() == nil; n++ {
		if c.call(as, c.some(), "PATCH", r.path, fmt.Sprintf(`{"%s":"%d"}`, field, 1000+n), nil) == 200 {
			r.acknowledged.Store(1000 + n)
			c.writes.Add(1)
		}
		time.Sleep(rand.N(40 * time.Millisecond))
	}
}

type titled struct{ ID, Title, Name string }

func (c *coherence) check(what string, process int, got string, want int64) {
	c.reads.Add(1)
	if n, _ := strconv.ParseInt(got, 10, 64); n < want {
		c.t.Errorf("%s at process %d is %q, older than %d, which was acknowledged before", what, process, got, want)
	}
}

// read reads everything, over and over, in every way and at any process.
func (c *coherence) read(ctx context.Context, as *client, project *register, tasks []*register) {
	for ; ctx.Err() == nil; time.Sleep(rand.N(5 * time.Millisecond)) {
		process, task := c.some(), tasks[rand.N(len(tasks))]
		switch rand.N(4) {
		case 0, 1:
			path, want := task.path, task.acknowledged.Load()
			if rand.N(2) == 0 {
				path = "/api/v1/tasks/" + task.ref
			}
			var got titled
			if c.call(as, process, "GET", path, "", &got) == 200 {
				c.check(path, process, got.Title, want)
			}
		case 2:
			want := project.acknowledged.Load()
			var got titled
			if c.call(as, process, "GET", project.path, "", &got) == 200 {
				c.check(project.path, process, got.Name, want)
			}
		case 3:
			want := map[string]int64{}
			for _, task := range tasks {
				want[task.id] = task.acknowledged.Load()
			}
			var got struct{ Items []titled }
			if c.call(as, process, "GET", "/api/v1/tasks?projectId="+project.id, "", &got) == 200 {
				for _, item := range got.Items {
					c.check("the list's "+item.ID, process, item.Title, want[item.ID])
				}
			}
		}
	}
}

// rights gives and takes rights and sessions; each change holds for the very next request to any process.
func (c *coherence) rights(ctx context.Context, owner, guest *client, project, task *register) {
	expect := func(as *client, path string, want int, after string) {
		for i := range c.processes {
			if got := c.call(as, i, "GET", path, "", nil); got != want && got != 0 {
				c.t.Errorf("%s: got %d at process %d %s, want %d", path, got, i, after, want)
			}
		}
	}
	for ctx.Err() == nil {
		expect(guest, task.path, 404, "before he is a member")
		if c.call(owner, c.some(), "POST", project.path+"/members", `{"userId":"`+guest.id+`","role":"viewer"}`, nil) == 201 {
			expect(guest, task.path, 200, "once he is a member")
		}
		for c.call(owner, c.some(), "DELETE", project.path+"/members/"+guest.id, "", nil) == 0 && ctx.Err() == nil {
		}
		if ctx.Err() == nil {
			expect(guest, project.path, 404, "once he is removed")
		}
		again := &client{}
		var signedIn struct{ AccessToken string }
		if c.call(again, c.some(), "POST", loginPath, jsonOf(credentials{guest.email, testPassword}), &signedIn) == 200 {
			again.token = signedIn.AccessToken
			expect(again, "/api/v1/me", 200, "with a session")
			if c.call(again, c.some(), "POST", "/api/v1/auth/logout", "", nil) == 204 {
				expect(again, "/api/v1/me", 401, "once the session has ended")
			}
		}
	}
}

// Three processes share one cache while Redis is paused, emptied and killed, and the processes are
// paused and killed themselves: what was acknowledged is what everybody reads from then on.
func TestNobodyReadsWhatIsOlderThanAnAcknowledgedWrite(t *testing.T) {
	t.Parallel()
	length := time.Minute
	if testing.Short() {
		length = 10 * time.Second
	}
	store := newRedisProcess(t)
	env := serverEnv(t, "REDIS_URL="+store.url(), "DATABASE_MAX_CONNS=6")
	c := &coherence{t: t}
	for range 3 {
		c.processes = append(c.processes, launch(t, env))
	}
	owner, guest := c.processes[0].signUp("Owner"), c.processes[0].signUp("Guest")
	reader := c.processes[0].signUp("Reader")
	id := owner.project("Shared")
	owner.add(id, reader, roleViewer)
	project := &register{path: "/api/v1/projects/" + id, id: id}
	var tasks []*register
	for range 4 {
		made := owner.post("/api/v1/tasks", `{"projectId":"`+id+`","title":"1000"}`).want(201)
		tasks = append(tasks, &register{path: "/api/v1/tasks/" + made.str("id"), ref: made.str("ref"), id: made.str("id")})
	}

	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var all sync.WaitGroup
	all.Go(func() { c.write(ctx, owner, project, "name") })
	for _, task := range tasks {
		all.Go(func() { c.write(ctx, owner, task, "title") })
	}
	for range 6 {
		all.Go(func() { c.read(ctx, reader, project, tasks) })
	}
	all.Go(func() { c.rights(ctx, owner, guest, project, tasks[0]) })
	for turn := 0; ctx.Err() == nil; turn++ {
		sleep(ctx, 2*time.Second)
		switch turn % 5 {
		case 0:
			pause(store.cmd.Process, rand.N(2*time.Second))
		case 1:
			client := redis.NewClient(&redis.Options{Network: "unix", Addr: store.socket})
			if err := client.FlushAll(context.Background()).Err(); err != nil {
				t.Error(err)
			}
			client.Close()
		case 2:
			store.kill()
			time.Sleep(rand.N(500 * time.Millisecond))
			store.start()
		case 3:
			pause(c.processes[rand.N(len(c.processes))].cmd.Process, rand.N(3*time.Second))
		case 4:
			time.Sleep(2 * time.Second) // all in good health
		}
	}
	all.Wait()
	t.Logf("%d reads, %d writes, %d requests without an answer", c.reads.Load(), c.writes.Load(), c.failures.Load())
	if c.reads.Load() < 100 || c.writes.Load() < 20 {
		t.Errorf("only %d reads and %d writes", c.reads.Load(), c.writes.Load())
	}
}

// roundTrips counts what a server asks of its stores.
type roundTrips struct {
	trips, statements, redis atomic.Int64
}

func (c *roundTrips) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.trips.Add(1)
	c.statements.Add(1)
	return ctx
}
func (c *roundTrips) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (c *roundTrips) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	c.trips.Add(1)
	c.statements.Add(int64(data.Batch.Len()))
	return ctx
}
func (c *roundTrips) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (c *roundTrips) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

func (c *roundTrips) DialHook(next redis.DialHook) redis.DialHook { return next }
func (c *roundTrips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if name := cmd.Name(); name != "evalsha" && name != "eval" { // the lease's beat
			c.redis.Add(1)
		}
		return next(ctx, cmd)
	}
}
func (c *roundTrips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.redis.Add(1)
		return next(ctx, cmds)
	}
}

// countTraffic has a server's traffic with PostgreSQL, and with Redis for its cache, counted.
func (ts *testServer) countTraffic() *roundTrips {
	ts.t.Helper()
	c := &roundTrips{}
	cfg := ts.db.pool.Config()
	cfg.ConnConfig.Tracer = c
	pool, err := pgxpool.NewWithConfig(ts.t.Context(), cfg)
	if err != nil {
		ts.t.Fatal(err)
	}
	ts.db.pool.Close()
	ts.db.pool = pool
	if ts.cache != nil {
		ts.cache.redis.AddHook(c)
	}
	return c
}

// since is what was counted since it was asked last: round trips and statements to PostgreSQL, and
// round trips of the cache to Redis.
func (c *roundTrips) since() [3]int64 {
	return [3]int64{c.trips.Swap(0), c.statements.Swap(0), c.redis.Swap(0)}
}

func TestRoundTripsOfRequests(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"alone", "beside another process", "without a cache"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			env := "CACHE=on"
			if mode == "without a cache" {
				env = "CACHE=off"
			}
			ts := newTestServer(t, env)
			if mode == "beside another process" {
				startTestServer(t, ts.config.databaseURL)
				soon(t, "both processes trust their cache", func() bool {
					st := ts.cache.lease.now()
					return !st.alone && st.trusted(time.Now())
				})
			}
			alice := ts.signUp("Alice")
			bob := ts.signUp("Bob")
			project := alice.project("Launch")
			alice.add(project, bob, roleMember)
			made := alice.post("/api/v1/tasks", `{"projectId":"`+project+`","title":"One"}`).want(201)
			other := alice.task(project, "Two")
			task, ref := "/api/v1/tasks/"+made.str("id"), "/api/v1/tasks/"+made.str("ref")
			list, stats := "/api/v1/tasks?projectId="+project, "/api/v1/projects/"+project+"/stats"
			ts.runs("project.stats", nil)
			for _, path := range []string{task, ref} { // where they are is known from now on
				alice.get(path).want(200)
			}
			c := ts.countTraffic()
			change := func() {
				alice.patch("/api/v1/projects/"+project, fmt.Sprintf(`{"name":"Name %d"}`, rand.N(1<<30))).want(200)
			}
			for _, test := range []struct {
				what            string
				send            func() *answer
				miss            [2]int64 // round trips and statements to PostgreSQL, when the project has changed
				write           bool
				withoutAnything [2]int64 // and with CACHE=off, where the caller is read by himself
			}{
				{"read a task", func() *answer { return alice.get(task) }, [2]int64{1, 1}, false, [2]int64{1, 1}},
				{"read a task by its ref", func() *answer { return alice.get(ref) }, [2]int64{1, 1}, false, [2]int64{1, 1}},
				{"list tasks", func() *answer { return alice.get(list + "&limit=20") }, [2]int64{1, 2}, false, [2]int64{1, 2}},
				{"list some tasks", func() *answer { return alice.get(list + "&status=todo&assigneeId=me&sort=-priority") }, [2]int64{1, 2}, false, [2]int64{1, 2}},
				{"read a project", func() *answer { return alice.get("/api/v1/projects/" + project) }, [2]int64{1, 1}, false, [2]int64{1, 1}},
				{"read its figures", func() *answer { return alice.get(stats) }, [2]int64{2, 3}, false, [2]int64{2, 3}},
				{"create a task", func() *answer { return alice.post("/api/v1/tasks", `{"projectId":"`+project+`","title":"Made"}`) }, [2]int64{1, 2}, true, [2]int64{2, 3}},
				{"create an assigned task", func() *answer {
					return alice.post("/api/v1/tasks", `{"projectId":"`+project+`","title":"Made","assigneeId":"`+bob.id+`"}`)
				}, [2]int64{1, 3}, true, [2]int64{2, 4}},
				{"change a task", func() *answer { return alice.patch(task, fmt.Sprintf(`{"title":"T %d"}`, rand.N(1<<30))) }, [2]int64{1, 3}, true, [2]int64{2, 4}},
				{"move a task", func() *answer { return alice.post(task+"/move", `{"after":"`+other+`"}`) }, [2]int64{1, 4}, true, [2]int64{2, 5}},
				{"watch a task", func() *answer { return alice.put(task+"/watch", "") }, [2]int64{1, 2}, true, [2]int64{2, 3}},
			} {
				want, wantAgain := [3]int64{test.miss[0], test.miss[1], 0}, [3]int64{}
				if test.write {
					wantAgain = want
				}
				switch mode {
				case "without a cache":
					want = [3]int64{test.withoutAnything[0], test.withoutAnything[1], 0}
					wantAgain = want
				case "beside another process":
					want[2], wantAgain[2] = 1, 1 // all scopes together
					if test.write {
						want[2], wantAgain[2] = 2, 2 // the caller's, and then the project's new token
					}
				}
				var first, again [3]int64
				right := func() bool {
					change()
					c.since()
					test.send()
					first = c.since()
					test.send()
					again = c.since()
					if mode == "beside another process" && !test.write {
						first[2], again[2] = min(first[2], 1), min(again[2], 1) // what was read is put into Redis, sooner or later
					}
					repeats := strings.HasPrefix(test.what, "watch") || strings.HasPrefix(test.what, "move") // the second changes nothing
					return first == want && (again == wantAgain || repeats)
				}
				// On a busy machine a beat may be late, and the cache be off for a moment.
				for deadline := time.Now().Add(20 * time.Second); !right(); time.Sleep(beatEvery) {
					if time.Now().After(deadline) || mode == "without a cache" {
						t.Errorf("%s: got %v and then %v round trips, statements and round trips to Redis, want %v and then %v", test.what, first, again, want, wantAgain)
						break
					}
				}
			}
		})
	}
}

// Many clients want the same answer at the moment it has to be made anew: it is made once.
func TestAHerdCausesOneQuery(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	alice := ts.signUp("Alice")
	project := alice.project("Launch")
	task := alice.task(project, "Hot")
	path := "/api/v1/tasks/" + task
	alice.get(path).want(200)
	alice.get(path).want(200)
	c := ts.countTraffic()
	id, err := parseUUID(project)
	if err != nil {
		t.Fatal(err)
	}
	herd := func() int64 {
		ts.cache.forget([]uuid{id})
		hold, err := ts.db.pool.Acquire(t.Context()) // so that the query takes as long as it takes all to come
		if err != nil {
			t.Fatal(err)
		}
		defer hold.Release()
		if _, err := hold.Exec(t.Context(), `BEGIN; LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE`); err != nil {
			t.Fatal(err)
		}
		c.since()
		var all sync.WaitGroup
		var came atomic.Int64
		for range 500 {
			all.Go(func() {
				came.Add(1)
				if got := alice.again().get(path); got.status != 200 {
					t.Errorf("got %d %s", got.status, got.body)
				}
			})
		}
		soon(t, "all have come", func() bool { return came.Load() == 500 && c.trips.Load() > 0 })
		time.Sleep(100 * time.Millisecond)
		if _, err := hold.Exec(t.Context(), `ROLLBACK`); err != nil {
			t.Fatal(err)
		}
		all.Wait()
		return c.since()[1] - 1 // without the ROLLBACK
	}
	var caused []int64 // more than one where the machine is so busy that the cache cannot be trusted for a moment
	for range 5 {
		if caused = append(caused, herd()); caused[len(caused)-1] == 1 {
			return
		}
	}
	t.Errorf("500 clients caused %v statements, want one", caused)
}

// again is the same client, for requests at the same time.
func (c *client) again() *client { return &client{s: c.s, token: c.token, id: c.id, email: c.email} }

func TestServerTiming(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t, "SERVER_TIMING=on")
	alice := ts.signUp("Alice")
	path := "/api/v1/projects/" + alice.project("Launch")
	alice.get(path).want(200)
	for _, test := range []struct {
		path, want string
	}{
		{path, `^cache;desc=hit, db;dur=0\.000, total;dur=\d+\.\d{3}$`},
		{path + "/stats", `^cache;desc=miss, db;dur=\d+\.\d{3}, total;dur=\d+\.\d{3}$`},
		{"/docs", `^cache;desc=unused, db;dur=0\.000, total;dur=\d+\.\d{3}$`},
		{"/api/v1/nowhere", `^cache;desc=unused`},
	} {
		if got := alice.get(test.path).header.Get("Server-Timing"); !regexp.MustCompile(test.want).MatchString(got) {
			t.Errorf("%s: got %q, want %s", test.path, got, test.want)
		}
	}
	ts = newTestServer(t)
	if got := ts.anonymous().get("/health").header.Get("Server-Timing"); got != "" {
		t.Errorf("got %q without being asked", got)
	}
}
