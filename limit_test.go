package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func TestRates(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	type draw struct {
		after      time.Duration // since the one before
		need, want int
		granted    int
		free       int // afterwards
	}
	for name, test := range map[string]struct {
		rate  rate
		draws []draw
	}{
		"a bucket is full at first, and never more than that": {rate{3, 3 * time.Second}, []draw{{0, 1, 1, 1, 2}, {0, 1, 1, 1, 1}, {0, 1, 1, 1, 0}, {0, 1, 1, 0, 0}, {time.Hour, 3, 3, 3, 0}, {0, 1, 1, 0, 0}}},
		"permits come back one by one":                        {rate{3, 3 * time.Second}, []draw{{0, 3, 3, 3, 0}, {999 * time.Millisecond, 1, 1, 0, 0}, {time.Millisecond, 1, 1, 1, 0}, {2 * time.Second, 1, 1, 1, 1}, {0, 2, 2, 0, 1}}},
		"refusals cost nothing":                               {rate{2, 2 * time.Second}, []draw{{0, 2, 2, 2, 0}, {time.Second / 2, 1, 1, 0, 0}, {time.Second / 4, 1, 1, 0, 0}, {time.Second / 4, 1, 1, 1, 0}}},
		"parts are small where little is left":                {rate{100, 100 * time.Second}, []draw{{0, 1, 5, 5, 95}, {0, 80, 80, 80, 15}, {0, 1, 5, 3, 12}, {0, 8, 8, 8, 4}, {0, 1, 5, 1, 3}, {0, 4, 9, 0, 3}, {0, 3, 9, 3, 0}}},
		"looking takes none":                                  {rate{2, 2 * time.Hour}, []draw{{0, 0, 0, 0, 2}, {0, 2, 2, 2, 0}, {0, 0, 0, 0, 0}}},
		"seven do not divide a minute":                        {rate{7, time.Minute}, []draw{{0, 7, 7, 7, 0}, {8571 * time.Millisecond, 1, 1, 0, 0}, {time.Millisecond, 1, 1, 1, 0}, {time.Minute, 7, 7, 7, 0}}},
		"a million in a second":                               {rate{maxQuota, time.Second}, []draw{{0, maxQuota, maxQuota, maxQuota, 0}, {time.Millisecond, 1, 1, 1, 999}}},
	} {
		t.Run(name, func(t *testing.T) {
			now, full := start, time.Time{}
			for i, d := range test.draws {
				now = now.Add(d.after)
				var granted int
				granted, full = test.rate.draw(full, now, d.need, d.want)
				if free := test.rate.free(full, now); granted != d.granted || free != d.free {
					t.Fatalf("draw %d: got %d, leaving %d; want %d, leaving %d", i, granted, free, d.granted, d.free)
				}
			}
		})
	}
}

// The same draws by the script, on a real Redis, give the same permits.
func TestRatesInRedisAreTheSame(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	const hour = 3600                 // a permit does not come back while the test runs
	for i, draws := range [][][3]int{ // need, want, granted
		{{1, 1, 1}, {2, 2, 2}, {1, 1, 0}, {0, 0, 0}},
		{{1, 9, 1}, {1, 9, 1}, {1, 9, 1}, {1, 9, 0}},
		{{0, 0, 0}, {4, 4, 0}, {3, 9, 3}},
	} {
		key := fmt.Sprint(ts.config.redisSpace, ":rates:", i)
		full, now := time.Time{}, time.Now()
		for n, d := range draws {
			got, err := drawScript.Run(t.Context(), ts.redis, []string{key}, hour*1_000_000, 3, d[0], d[1], 0).Int64Slice()
			if err != nil || int(got[0]) != d[2] || got[1] < 0 || got[1] > 3*hour*1_000_000 {
				t.Fatalf("draw %d of %v: got %v, %v", n, draws, got, err)
			}
			var granted int
			if granted, full = (rate{3, 3 * time.Hour}).draw(full, now, d[0], d[1]); granted != d[2] {
				t.Errorf("draw %d of %v: the process gives %d", n, draws, granted)
			}
		}
		if life := ts.redis.PTTL(t.Context(), key).Val(); life > 3*time.Hour {
			t.Errorf("the key lives for %v", life)
		}
	}
	ts.redis.Set(t.Context(), ts.config.redisSpace+":rates:x", "garbage", 0)
	if got, err := drawScript.Run(t.Context(), ts.redis, []string{ts.config.redisSpace + ":rates:x"}, 1000, 3, 1, 1, 0).Int64Slice(); err != nil || got[0] != 1 {
		t.Errorf("garbage: got %v, %v", got, err)
	}
}

// draws counts what a server asks Redis about limits.
type draws struct{ n atomic.Int64 }

func (d *draws) DialHook(next redis.DialHook) redis.DialHook { return next }
func (d *draws) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "evalsha" && strings.Contains(fmt.Sprint(cmd.Args()[3]), ":limit:") {
			d.n.Add(1)
		}
		return next(ctx, cmd)
	}
}
func (d *draws) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (ts *testServer) countDraws() *draws {
	d := &draws{}
	ts.redis.AddHook(d)
	return d
}

func TestRequestsOfOneCallerAreLimited(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t, "RATE_LIMIT=10/1h", "TRUSTED_PROXIES=127.0.0.1")
	ada, bob := ts.signUp("Ada"), ts.signUp("Bob")
	project := ada.project("Limited") // one of ten

	ts.run("and told what is left", func(t *testing.T) {
		a := ada.get("/api/v1/me").want(200)
		if policy, left := a.header.Get("RateLimit-Policy"), a.header.Get("RateLimit"); policy != `"default";q=10;w=3600` || left != `"default";r=8;t=720` {
			t.Errorf("got %s and %s", policy, left)
		}
		for n := 7; n >= 0; n-- {
			if left := ada.get("/api/v1/me").want(200).header.Get("RateLimit"); !strings.HasPrefix(left, fmt.Sprintf(`"default";r=%d;t=`, n)) {
				t.Errorf("got %s, want %d left", left, n)
			}
		}
	})
	ts.run("to 429 without any effect, until the time that it says", func(t *testing.T) {
		before := ts.state()
		a := ada.post("/api/v1/tasks", `{"projectId":"`+project+`","title":"One too many"}`).problem(429, "rate_limited")
		var wait int
		if fmt.Sscan(a.header.Get("Retry-After"), &wait); wait < 300 || wait > 360 {
			t.Errorf("got Retry-After %s, want the six minutes in which one comes back", a.header.Get("Retry-After"))
		}
		ada.do("HEAD", "/api/v1/me", "").want(429)
		ada.get("/api/v1/admin/stats").problem(429, "rate_limited")
		ts.unchanged(before, "a request beyond the limit")
	})
	ts.run("alone, whatever address it comes from and however it signs in", func(t *testing.T) {
		ada.with("X-Forwarded-For", "192.0.2.200").get("/api/v1/me").problem(429, "rate_limited")
		ada.signIn().get("/api/v1/me").problem(429, "rate_limited")
		bob.get("/api/v1/me").want(200)
	})
	ts.run("by address where nobody is signed in", func(t *testing.T) {
		nobody, bad := ts.anonymous(), &client{s: ts, token: "bad"}
		for range 10 {
			bad.with("X-Forwarded-For", "192.0.2.1").get("/api/v1/me").problem(401, "unauthenticated")
		}
		bad.with("X-Forwarded-For", "192.0.2.1").get("/api/v1/me").problem(429, "rate_limited")
		nobody.with("X-Forwarded-For", "192.0.2.1").post(refreshPath, `{"refreshToken":"x"}`).problem(429, "rate_limited")
		bad.with("X-Forwarded-For", "192.0.2.2").get("/api/v1/me").problem(401, "unauthenticated")
		bob.with("X-Forwarded-For", "192.0.2.1").get("/api/v1/me").want(200)
		for i := range 10 { // one customer's network
			bad.with("X-Forwarded-For", fmt.Sprintf("2001:db8::%d", i)).get("/api/v1/me").problem(401, "unauthenticated")
		}
		bad.with("X-Forwarded-For", "2001:db8::ffff:1").get("/api/v1/me").problem(429, "rate_limited")
		bad.with("X-Forwarded-For", "2001:db8:0:1::1").get("/api/v1/me").problem(401, "unauthenticated")
	})
	ts.run("but not in pages, and in how the service is", func(t *testing.T) {
		for _, path := range []string{"/health", "/ready", "/docs", "/openapi.yaml", "/problems/rate_limited", "/"} {
			if a := ada.with("X-Forwarded-For", "192.0.2.1").get(path); a.status > 302 || a.header.Get("RateLimit") != "" {
				t.Errorf("%s: got %d, RateLimit %s", path, a.status, a.header.Get("RateLimit"))
			}
		}
	})
}

func TestCostlyRequestsCountAsMore(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t, "RATE_LIMIT=100/24h")
	ada := ts.signUp("Ada")
	id := ada.task(ada.project("Costly"), "Task") // two requests
	left := func(a *answer) (n int) {
		fmt.Sscanf(a.header.Get("RateLimit"), `"default";r=%d;`, &n)
		return n
	}
	for _, test := range []struct {
		answer *answer
		left   int
	}{
		{ada.get("/api/v1/tasks").want(200), 97},
		{ada.get("/api/v1/tasks?search=task").want(200), 92},
		{ada.get("/api/v1/tasks?total=true").want(200), 87},
		{ada.post("/api/v1/tasks/bulk", `{"ids":["`+id+`"],"set":{"priority":"low"}}`).want(200), 67},
	} {
		if got := left(test.answer); got != test.left {
			t.Errorf("%s leaves %d, want %d", test.answer.what, got, test.left)
		}
	}
	if got := left(ada.changePassword("staple of good habits").want(204)); got != 47 {
		t.Errorf("a new password leaves %d, want 47", got)
	}
	small := newTestServer(t, "RATE_LIMIT=3/1h").signUp("Bob")
	small.get("/api/v1/tasks?search=x").want(200) // all there is, as more than that would never be
	small.get("/api/v1/me").problem(429, "rate_limited")
}

func TestWhatAsksForAPasswordIsCostly(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	for _, rt := range sc.routes() {
		asks := strings.Contains(samples[rt.pattern](sc, sc.owner).body, "currentPassword")
		if asks != (cost(rt, httptest.NewRequest("GET", "/", nil)) == 20) && rt.pattern != "POST /api/v1/tasks/bulk" {
			t.Errorf("%s asks for a password: %v; it is as costly: %v", rt.pattern, asks, !asks)
		}
	}
}

func TestLimitsAreSharedByAllProcesses(t *testing.T) {
	t.Parallel()
	database := newTestDatabase(t)
	servers := []*testServer{startTestServer(t, database, "RATE_LIMIT=200/24h"), startTestServer(t, database, "RATE_LIMIT=200/24h")}
	ada := servers[0].signUp("Ada")
	spread := func() map[int]int {
		return statuses(atOnce(300, func(i int) *answer {
			return (&client{s: servers[i%2], token: ada.token}).get("/api/v1/me")
		}))
	}
	counted := []*draws{servers[0].countDraws(), servers[1].countDraws()}
	got := spread()
	if asked := counted[0].n.Load() + counted[1].n.Load(); asked > 100 {
		t.Errorf("asked Redis %d times for 300 requests", asked)
	}
	spread() // what the two still held
	if got[200] < 180 || got[200] > 200 || got[429] != 300-got[200] {
		t.Errorf("got %v, want 200 let through, or fewer by what a process holds", got)
	}
	if more := spread(); more[429] != 300 {
		t.Errorf("then got %v, want none let through", more)
	}
}

func TestMostRequestsDoNotAskRedis(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t, "RATE_LIMIT=10000/24h")
	ada := ts.signUp("Ada")
	asked := ts.countDraws()
	for range 400 {
		ada.get("/api/v1/me").want(200)
	}
	if n := asked.n.Load(); n != 1 {
		t.Errorf("400 requests asked Redis %d times, want once for a part of 500", n)
	}
	off := newTestServer(t)
	bob := off.signUp("Bob")
	asked = off.countDraws()
	if a := bob.get("/api/v1/me").want(200); a.header.Get("RateLimit") != "" || a.header.Get("RateLimit-Policy") != "" || asked.n.Load() != 0 {
		t.Errorf("without a limit: got %s, and asked Redis %d times", a.header.Get("RateLimit"), asked.n.Load())
	}
}

func TestManyRequestsAtOnceAreCountedExactly(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t, "RATE_LIMIT=40/24h", "AUTH_RATE_LIMIT=12/24h")
	ada, bob := ts.signUp("Ada"), ts.signUp("Bob") // two of twelve
	if got := statuses(atOnce(100, func(int) *answer { return (&client{s: ts, token: ada.token}).get("/api/v1/me") })); got[200] != 40 || got[429] != 60 {
		t.Errorf("got %v, want 40 let through", got)
	}
	if got := statuses(atOnce(30, func(int) *answer { return ts.anonymous().post(registerPath, registration("not an address")) })); got[422] != 10 || got[429] != 20 {
		t.Errorf("got %v, want 10 let through", got)
	}
	before := ts.state()
	a := ts.anonymous().post(registerPath, registration("new@example.org")).problem(429, "rate_limited")
	if policy := a.header.Get("RateLimit-Policy"); policy != `"sign-in";q=12;w=86400` {
		t.Errorf("got %s", policy)
	}
	ts.anonymous().post(loginPath, jsonOf(credentials{bob.email, testPassword})).problem(429, "rate_limited")
	ts.unchanged(before, "a refused registration")
	bob.refreshWith(bob.refresh).want(200) // an office shares its address
}

func TestLimitsEnd(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t, "RATE_LIMIT=2/8s")
	ada := ts.signUp("Ada")
	for ada.get("/api/v1/me").status == 200 {
	}
	eventually(t, 3*testPatience, "another request", func() bool { return ada.get("/api/v1/me").status == 200 })
	eventually(t, 3*testPatience, "everything again", func() bool {
		keys := ts.redis.Keys(t.Context(), ts.config.redisSpace+":limit:default:*")
		return keys.Err() == nil && len(keys.Val()) == 0
	})
}

func TestLimitsWithoutRedis(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(p *proxy) (end func()){
		"killed": func(p *proxy) func() {
			p.set(func() { p.down = true })
			p.kill()
			return func() { p.set(func() { p.down = false }) }
		},
		"paused": func(p *proxy) func() { return p.silence() },
	} {
		t.Run("are counted by the process while it is "+name, func(t *testing.T) {
			p, address := newRedisProxy(t)
			ts := newTestServer(t, "REDIS_URL="+address, "RATE_LIMIT=50/24h", "AUTH_RATE_LIMIT=5/24h")
			ada, bob := ts.signUp("Ada"), ts.signUp("Bob")
			for range 10 {
				ada.get("/api/v1/me").want(200)
			}
			ts.guesses.pair.patience = limitPatience
			asked := ts.countDraws()
			end := fault(p)
			began := time.Now()
			answers := map[int]int{}
			for range 60 {
				answers[ada.get("/api/v1/me").status]++
			}
			if answers[200] != 40 || answers[429] != 20 {
				t.Errorf("got %v, want the 40 that are left", answers)
			}
			bob.get("/api/v1/me").want(200)
			if n, most := asked.n.Load(), 1+int64(time.Since(began)/limitPause); n > most {
				t.Errorf("asked Redis %d times in %v, want at most %d", n, time.Since(began), most)
			}
			for range 3 { // of five, two were used to sign up
				ts.anonymous().post(registerPath, `{}`).problem(422, "validation_failed")
			}
			ts.anonymous().post(registerPath, `{}`).problem(429, "rate_limited")
			end()
			soon(t, "Redis asked again", func() bool {
				bob.get("/api/v1/me")
				return strings.Contains(ts.log.String(), "Redis answers again")
			})
			if ada.get("/api/v1/me").status != 429 {
				t.Error("what was counted meanwhile is forgotten")
			}
			if n := strings.Count(ts.log.String(), "Redis does not answer; each process"); n != 1 {
				t.Errorf("the log tells %d times that Redis is away, want once", n)
			}
		})
	}
}

// A Redis that is full or only a copy answers with an error.
func TestOtherProcessesLearnWhatWasGivenWithoutRedis(t *testing.T) {
	t.Parallel()
	p, address := newRedisProxy(t)
	database := newTestDatabase(t)
	cut := startTestServer(t, database, "REDIS_URL="+address, "AUTH_RATE_LIMIT=20/24h", "TRUSTED_PROXIES=127.0.0.1")
	other := startTestServer(t, database, "AUTH_RATE_LIMIT=20/24h", "TRUSTED_PROXIES=127.0.0.1")
	ask := func(ts *testServer, addr string) (left int) {
		a := ts.anonymous().with("X-Forwarded-For", addr).post(verifyPath, jsonOf(addressProof{"x"})).problem(403, "invalid_token")
		_, rest, _ := strings.Cut(a.header.Get("RateLimit"), ";r=")
		fmt.Sscanf(rest, "%d;", &left)
		return left
	}
	for range 3 {
		ask(cut, "192.0.2.1")
	}
	cut.guesses.pair.patience = limitPatience
	p.set(func() { p.down = true })
	p.kill()
	for range 5 {
		ask(cut, "192.0.2.1")
	}
	p.set(func() { p.down = false })
	soon(t, "Redis asked again", func() bool {
		ask(cut, "192.0.2.2")
		return strings.Contains(cut.log.String(), "Redis answers again")
	})
	ask(cut, "192.0.2.1")
	if left := ask(other, "192.0.2.1"); left != 10 {
		t.Errorf("after ten of twenty %d are left", left)
	}
}

func TestLimitsWithARedisThatRefuses(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t, "RATE_LIMIT=5/1h")
	ada := ts.signUp("Ada")
	name := ts.config.redisSpace + ":limit:default:u" + strings.ReplaceAll(ada.id, "-", "")
	if err := ts.redis.LPush(t.Context(), name, "not a number").Err(); err != nil { // so the script fails
		t.Fatal(err)
	}
	answers := map[int]int{}
	for range 10 {
		answers[ada.get("/api/v1/me").status]++
	}
	if answers[http.StatusOK] != 5 || answers[http.StatusTooManyRequests] != 5 {
		t.Errorf("got %v, want five let through", answers)
	}
}

func TestCallersThatALimitRemembersAreBounded(t *testing.T) {
	t.Parallel()
	shared := &limits{log: slog.New(slog.DiscardHandler)}
	shared.away.Store(time.Now().Add(time.Hour).UnixNano())
	l := newLimiter(shared, "test", rate{2, time.Hour}, 1)
	key := func(i int) limitKey { return limitKey{'t', [16]byte{byte(i), byte(i >> 8), byte(i >> 16)}} }
	for i := range 2*maxBuckets + 10 {
		l.take(key(i), 1)
		if i%1000 == 0 {
			l.take(key(0), 1) // who keeps coming is remembered
		}
	}
	if n := len(l.young) + len(l.old); n > maxBuckets || n < maxBuckets/2 {
		t.Errorf("remembers %d, want at most %d", n, maxBuckets)
	}
	if a := l.take(key(0), 1); a.ok {
		t.Error("forgot who kept coming")
	}
	if a := l.take(key(1), 2); !a.ok {
		t.Error("remembers who came once, long ago")
	}
}
