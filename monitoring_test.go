package main

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const testMetricsToken = "a token for scraping"

// scrape is what a server tells Prometheus: samples by name and labels, as they are written.
func (ts *testServer) scrape() map[string]float64 {
	ts.t.Helper()
	return readExposition(ts.t, ts.metrics(ts.t.Context()))
}

var sampleLine = regexp.MustCompile(`^([a-z_]+(?:\{(?:[a-z_]+="(?:[^"\\]|\\.)*",?)+\})?) (\S+)$`)

func readExposition(t testing.TB, text []byte) map[string]float64 {
	t.Helper()
	samples := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "#") {
			continue
		}
		match := sampleLine.FindStringSubmatch(line)
		if match == nil {
			t.Errorf("not a sample: %q", line)
			continue
		}
		value, err := strconv.ParseFloat(match[2], 64)
		if err != nil {
			t.Errorf("not a value: %q", line)
		}
		if _, twice := samples[match[1]]; twice {
			t.Errorf("twice: %q", line)
		}
		samples[match[1]] = value
	}
	return samples
}

func TestMetricsAreForWhoHasTheToken(t *testing.T) {
	t.Parallel()
	open := newTestServer(t, "METRICS_TOKEN="+testMetricsToken)
	stranger := open.anonymous()
	for _, given := range []string{"", "Bearer", "Bearer ", "Bearer " + testMetricsToken + "x", "Bearer " + testMetricsToken[1:], "Basic " + testMetricsToken, testMetricsToken, "Bearer " + open.signUp("Admin").token} {
		if given != "" {
			stranger.with("Authorization", given)
		}
		stranger.get("/metrics").problem(http.StatusUnauthorized, "unauthenticated")
	}
	for _, given := range []string{"Bearer ", "bearer "} {
		got := stranger.with("Authorization", given+testMetricsToken).get("/metrics").want(200)
		if media := got.header.Get("Content-Type"); media != expositionMedia {
			t.Errorf("got %q", media)
		}
		if !bytes.Contains(got.body, []byte("\ntaskflow_http_requests_in_flight 1\n")) {
			t.Errorf("the scrape is not in flight:\n%s", got.body)
		}
	}
	stranger.with("Authorization", "Bearer "+testMetricsToken).get("/metrics?x=1").problem(http.StatusBadRequest, "bad_parameter")
	worker := httptest.NewServer(open.workerHandler())
	defer worker.Close()
	open.http.URL, worker.URL = worker.URL, open.http.URL
	stranger.get("/metrics").problem(http.StatusUnauthorized, "unauthenticated")
	stranger.with("Authorization", "Bearer "+testMetricsToken).get("/metrics").want(200)
	open.http.URL = worker.URL

	closed := newTestServer(t)
	for _, given := range []string{"", "Bearer ", "Bearer " + testMetricsToken} {
		there, nowhere := closed.anonymous(), closed.anonymous()
		if given != "" {
			there, nowhere = there.with("Authorization", given), nowhere.with("Authorization", given)
		}
		a, b := there.get("/metrics"), nowhere.get("/metricz")
		a.body = bytes.ReplaceAll(a.body, []byte("/metrics"), []byte("/metricz"))
		wantSame(t, a, b)
	}
}

func TestTheMetricsAddressNeedsNoToken(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	own := httptest.NewServer(ts.metricsHandler())
	defer own.Close()
	for path, want := range map[string]int{"/metrics": 200, "/": 404, "/health": 404, "/api/v1/me": 404} {
		resp, err := http.Get(own.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: got %d, want %d", path, resp.StatusCode, want)
		}
	}
}

func TestAnExpositionIsEscaped(t *testing.T) {
	t.Parallel()
	e := &exposition{}
	e.family("a", "gauge", "back\\slash\nand line")
	e.sample(1.5, "label", "quote\" back\\slash\nline \xff")
	if want := "# HELP a back\\\\slash\\nand line\n# TYPE a gauge\na{label=\"quote\\\" back\\\\slash\\nline \ufffd\"} 1.5\n"; string(e.text) != want {
		t.Errorf("got %q, want %q", e.text, want)
	}
	for value, want := range map[float64]string{0: "0", 1: "1", -3: "-3", 1e15: "1000000000000000", 0.00025: "0.00025", 1e300: "1e+300"} {
		if got := formatValue(value); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// TestMetricsTellTheTruth does a known number of everything and compares.
func TestMetricsTellTheTruth(t *testing.T) {
	t.Parallel()
	ms := newMailServer(t)
	ts := newHookServer(t, "SMTP_URL=smtp://"+mailHost, "MAIL_FROM=taskflow@example.org", "AUTH_RATE_LIMIT=40/1h")
	ms.reachedBy(ts.mail)
	failing := map[string]int{"flaky": 1, "broken": 100}
	var mu sync.Mutex
	tried := map[string]int{}
	ts.withKind(jobKind{name: "test.works", run: func(context.Context, job, *pgx.Batch) error { return nil }})
	ts.withKind(jobKind{name: "test.fails", run: func(_ context.Context, j job, _ *pgx.Batch) error {
		name := string(j.Payload)
		mu.Lock()
		defer mu.Unlock()
		if tried[name]++; name == `"panics"` && tried[name] == 1 {
			panic("on purpose")
		}
		if tried[name] > failing[strings.Trim(name, `"`)] {
			return nil
		}
		if strings.Contains(name, "broken") {
			return permanent(errors.New("broken"))
		}
		return retryAfter(time.Millisecond, errors.New("flaky"))
	}})
	before := ts.scrape()
	alice := ts.signUp("Alice")
	project := alice.project("Launch")
	ts.outbox.pushing.Wait()

	// Requests: each line is a pattern, a status and how many of them.
	wanted := map[string]float64{}
	request := func(method, route string, status, n int) {
		wanted[`taskflow_http_requests_total{method="`+method+`",route="`+route+`",status="`+strconv.Itoa(status)+`"}`] += float64(n)
		if route != "/api/v1/events" {
			wanted[`taskflow_http_request_seconds_count{method="`+method+`",route="`+route+`"}`] += float64(n)
		}
	}
	request("POST", "/api/v1/auth/register", 201, 1)
	request("POST", "/api/v1/projects", 201, 1)
	rec := newReceiver(t, func(n int, w http.ResponseWriter, r *http.Request) {
		switch n {
		case 1:
			w.WriteHeader(500)
		case 4:
			w.WriteHeader(410)
		}
	})
	hook, _ := alice.webhook(project, rec.URL, "task.created")
	request("POST", "/api/v1/projects/{id}/webhooks", 201, 1)
	stream := alice.listen("?projectId="+project, "")
	ids := make([]string, 3)
	for i := range ids {
		ids[i] = alice.task(project, "Task")
		if entry := stream.next(); entry.kind != "" {
			t.Errorf("got %+v", entry)
		}
	}
	request("POST", "/api/v1/tasks", 201, 3)
	for i, id := range ids {
		for range 4 {
			alice.get("/api/v1/tasks/" + id).want(200)
		}
		alice.get("/api/v1/tasks/" + id + "?x=" + strconv.Itoa(i)).want(400)
	}
	request("GET", "/api/v1/tasks/{id}", 200, 12)
	request("GET", "/api/v1/tasks/{id}", 400, 3)
	for _, id := range []string{"x", "y'--", newUUID().String()} {
		alice.get("/api/v1/tasks/" + id).want(404)
	}
	request("GET", "/api/v1/tasks/{id}", 404, 3)
	alice.get("/nowhere/" + project).want(404)
	request("GET", "unmatched", 404, 1)
	alice.do("BREW", "/api/v1/tasks", "").want(405)
	request("other", "unmatched", 405, 1)
	for range 2 {
		ts.anonymous().post("/api/v1/auth/login", jsonOf(credentials{alice.email, "wrong password"})).want(401)
	}
	request("POST", "/api/v1/auth/login", 401, 2)
	refused := 0
	for range 60 { // of 40 in an hour, some are used up
		if ts.anonymous().post("/api/v1/auth/email/verify", `{}`).status == 429 {
			refused++
		}
	}
	request("POST", "/api/v1/auth/email/verify", 429, refused)
	request("POST", "/api/v1/auth/email/verify", 422, 60-refused)
	if refused < 20 || refused > 25 {
		t.Errorf("%d of 60 were refused", refused)
	}
	alice.attach(ids[0], "notes.txt", "twelve bytes")

	// Jobs, mails and deliveries.
	for range 5 {
		ts.enqueue(newJob{kind: "test.works", payload: "w"})
	}
	for _, payload := range []string{"flaky", "broken", "panics"} {
		ts.enqueue(newJob{kind: "test.fails", payload: payload})
	}
	ts.enqueue(newJob{kind: "test.works", payload: "later", runAt: time.Now().Add(time.Hour)})
	ts.startDelivering()
	rec.await(4)
	eventually(t, time.Minute, "all is done", func() bool {
		n, err := queryValue[int](t.Context(), ts.db, `SELECT count(*) FROM jobs WHERE dead_at IS NULL AND run_at < now() + interval '1 minute'`)
		got := ts.scrape()
		return err == nil && n == 0 && got[`taskflow_job_seconds_count{queue="default",kind="test.fails"}`] == 5 && got["taskflow_stream_events_total"] >= 5
	})
	alice.get("/api/v1/webhooks/"+hook).want(200).is("active", false)
	request("GET", "/api/v1/webhooks/{id}", 200, 1)
	mails := len(ms.taken())
	if mails == 0 {
		t.Error("nothing was mailed")
	}
	job := func(kind, outcome string, n int) {
		wanted[`taskflow_jobs_total{queue="default",kind="`+kind+`",outcome="`+outcome+`"}`] = float64(n)
	}
	job("test.works", "done", 5)
	job("test.fails", "done", 2)
	job("test.fails", "dead", 1)
	job("test.fails", "retry", 2)
	job("webhook.deliver", "done", 4)
	job("email.send", "done", mails)
	job("attachment.process", "done", 1)
	for name, value := range map[string]float64{
		`taskflow_job_seconds_count{queue="default",kind="test.fails"}`:            5,
		`taskflow_panics_total{where="job"}`:                                       1,
		`taskflow_panics_total{where="request"}`:                                   0,
		`taskflow_mails_total{outcome="sent"}`:                                     float64(mails),
		`taskflow_mails_total{outcome="failed"}`:                                   0,
		`taskflow_webhook_attempts_total{outcome="delivered"}`:                     2,
		`taskflow_webhook_attempts_total{outcome="retry"}`:                         1,
		`taskflow_webhook_attempts_total{outcome="failed"}`:                        1,
		`taskflow_webhook_attempt_seconds_count`:                                   4,
		`taskflow_wrong_passwords_total`:                                           2,
		`taskflow_rate_limited_total{limit="sign-in"}`:                             float64(refused),
		`taskflow_streams_opened_total`:                                            1,
		`taskflow_streams_open`:                                                    1,
		`taskflow_stream_events_total`:                                             5, // tasks, a file, and the end of the webhook
		`taskflow_uploads_total`:                                                   1,
		`taskflow_upload_bytes_total`:                                              12,
		`taskflow_http_requests_in_flight`:                                         1, // the stream
		`taskflow_queue_jobs{queue="default",kind="test.works",state="scheduled"}`: 1,
		`taskflow_queue_jobs{queue="default",kind="test.fails",state="scheduled"}`: 0,
		`taskflow_queue_jobs{queue="default",kind="test.fails",state="dead"}`:      1,
		`taskflow_outbox_jobs{queue="default"}`:                                    1,
		`taskflow_queue_workers{queue="default"}`:                                  1,
		`taskflow_cache_entries_total{name="task",result="hit"}`:                   9,
		`taskflow_cache_entries_total{name="other",result="hit"}`:                  0,
		`taskflow_cache_entries_total{name="other",result="miss"}`:                 0,
	} {
		wanted[name] = value
	}
	time.Sleep(snapshotLife)
	got := ts.scrape()
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		if got[name] != wanted[name] {
			t.Errorf("%s: got %v, want %v", name, got[name], wanted[name])
		}
	}
	for name, value := range before {
		if strings.Contains(name, "_total") && !strings.HasPrefix(name, "go_") && got[name] < value {
			t.Errorf("%s has gone down from %v to %v", name, value, got[name])
		}
	}
	requests := 0.0
	for name, value := range got {
		if strings.HasPrefix(name, "taskflow_http_requests_total") {
			requests += value
		}
		if math.IsNaN(value) || strings.Contains(name, project) || strings.Contains(name, ids[0]) || strings.Contains(name, alice.id) {
			t.Errorf("%s %v", name, value)
		}
	}
	if logged := strings.Count(ts.log.String(), `"msg":"request"`); int(requests) != logged {
		t.Errorf("%v requests are counted, the log has %d", requests, logged)
	}
}

func TestAScrapeAnswersWhateverIsAway(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	if got := ts.scrape(); got["taskflow_redis_up"] != 1 || got["taskflow_database_up"] != 1 || got["taskflow_cache_trusted"] != 1 {
		t.Errorf("got %v %v %v", got["taskflow_redis_up"], got["taskflow_database_up"], got["taskflow_cache_trusted"])
	}
	ts.outbox.snapshot.expire()
	ts.db.pool.Close()
	got := ts.scrape()
	if _, told := got[`taskflow_outbox_jobs{queue="default"}`]; told || got["taskflow_redis_up"] != 1 || got["taskflow_database_up"] != 0 || got["go_goroutines"] < 1 {
		t.Errorf("without a database got %v", got)
	}
}

func TestCountingCostsLittle(t *testing.T) {
	traffic := &traffic{}
	route := traffic.of("GET /api/v1/tasks/{id}")
	route.statuses.add(200)
	if n := testing.AllocsPerRun(1000, func() {
		traffic.inFlight.Add(1)
		traffic.end(route, "GET", 200, 300*time.Microsecond)
	}); n != 0 {
		t.Errorf("counting a request allocates %v times", n)
	}
}

// BenchmarkCounting is what a request pays for being counted.
func BenchmarkCounting(b *testing.B) {
	traffic := &traffic{}
	route := traffic.of("GET /api/v1/tasks/{id}")
	count := func() {
		traffic.inFlight.Add(1)
		traffic.end(route, "GET", 200, 300*time.Microsecond)
	}
	b.Run("alone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			count()
		}
	})
	b.Run("on all processors", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				count()
			}
		})
	})
}
