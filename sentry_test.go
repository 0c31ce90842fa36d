package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
)

// collector is a small server that takes envelopes as Sentry documents them, and no others.
type collector struct {
	*httptest.Server
	t    testing.TB
	hang chan struct{} // nil: it answers at once
	mu   sync.Mutex
	got  []*answer // events, by the paths of their parts
	raw  bytes.Buffer
}

const collectorSecret = "9f1e2d3c4b5a69788796a5b4c3d2e1f0"

func newCollector(t testing.TB, hangs bool) *collector {
	t.Helper()
	c := &collector{t: t}
	if hangs {
		c.hang = make(chan struct{})
	}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if c.hang != nil {
			<-c.hang
			return
		}
		event, wrong := openReport(r, body)
		if err != nil || wrong != nil {
			t.Errorf("not an envelope: %v, %v: %s %s %v\n%s", err, wrong, r.Method, r.URL, r.Header, body)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.got = append(c.got, &answer{t: t, what: "a report", body: event})
		fmt.Fprintln(&c.raw, r.Method, r.URL, r.Header, string(body))
		io.WriteString(w, `{"id":"`+strings.Repeat("0", 32)+`"}`)
	}))
	t.Cleanup(func() {
		if c.hang != nil {
			close(c.hang)
		}
		c.Close()
	})
	return c
}

// dsn is a setting that names it.
func (c *collector) dsn() string {
	return "SENTRY_DSN=http://" + collectorSecret + "@" + strings.TrimPrefix(c.URL, "http://") + "/sub/42"
}

var (
	reportID   = regexp.MustCompile(`^[0-9a-f]{32}$`)
	reportAuth = regexp.MustCompile(`^Sentry sentry_version=7, sentry_client=taskflow/[^ ,]+, sentry_key=` + collectorSecret + `$`)
)

// openReport reads an envelope: a line of headers, and for each item a line with its type and its length,
// so many bytes and the end of a line. It wants one item, an event.
func openReport(r *http.Request, body []byte) (event []byte, err error) {
	if r.Method != "POST" || r.URL.RequestURI() != "/sub/api/42/envelope/" || r.Header.Get("Content-Type") != "application/x-sentry-envelope" {
		return nil, errors.New("method, path or type")
	}
	if !reportAuth.MatchString(r.Header.Get("X-Sentry-Auth")) {
		return nil, errors.New("who sends")
	}
	line, rest, ok := bytes.Cut(body, []byte("\n"))
	var head struct {
		EventID string    `json:"event_id"`
		SentAt  time.Time `json:"sent_at"`
	}
	if err := unmarshalStrict(line, &head); !ok || err != nil || !reportID.MatchString(head.EventID) || time.Since(head.SentAt).Abs() > time.Minute {
		return nil, fmt.Errorf("headers: %w", err)
	}
	line, rest, ok = bytes.Cut(rest, []byte("\n"))
	var item struct {
		Type        string `json:"type"`
		ContentType string `json:"content_type"`
		Length      int    `json:"length"`
	}
	if err := unmarshalStrict(line, &item); !ok || err != nil || item.Type != "event" || item.ContentType != "application/json" || item.Length < 2 {
		return nil, fmt.Errorf("an item's headers: %w", err)
	}
	if len(rest) != item.Length+1 || rest[item.Length] != '\n' || !json.Valid(rest[:item.Length]) {
		return nil, fmt.Errorf("an item of %d bytes, not %d", len(rest)-1, item.Length)
	}
	var is struct {
		EventID string `json:"event_id"`
	}
	if err := json.Unmarshal(rest[:item.Length], &is); err != nil || is.EventID != head.EventID {
		return nil, fmt.Errorf("an item with another id: %w", err)
	}
	return rest[:item.Length], nil
}

// await waits for the report after so many others, and returns it.
func (c *collector) await(n int) *answer {
	c.t.Helper()
	eventually(c.t, 30*time.Second, fmt.Sprintf("%d reports", n), func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.got) >= n
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got[n-1]
}

func (c *collector) all() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.raw.String()
}

// nearest is the call of a report's stack that is nearest to the panic.
func nearest(t testing.TB, report *answer) map[string]any {
	t.Helper()
	frames, _ := report.at("exception.values.0.stacktrace.frames").([]any)
	if len(frames) < 3 {
		t.Fatalf("no stack in %s", report.body)
	}
	outermost := frames[0].(map[string]any)
	if outermost["in_app"] != false && outermost["module"] != "runtime" {
		t.Errorf("the stack begins with %v", outermost)
	}
	return frames[len(frames)-1].(map[string]any)
}

// withRoutes has a test server answer other routes.
func (ts *testServer) withRoutes(routes ...route) {
	mux := http.NewServeMux()
	for _, rt := range routes {
		mux.Handle(rt.pattern, ts.guard(rt))
	}
	ts.http.Config.Handler = ts.front(mux)
}

// fails is client.do for answers that are 500.
func (c *client) fails(method, path, body string, header map[string]string) *answer {
	c.s.t.Helper()
	req, err := http.NewRequest(method, c.s.http.URL+path, strings.NewReader(body))
	if err != nil {
		c.s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	for name, value := range header {
		req.Header.Set(name, value)
	}
	resp, err := testHTTP.Do(req)
	if err != nil {
		c.s.t.Fatal(err)
	}
	defer resp.Body.Close()
	got, _ := io.ReadAll(resp.Body)
	return &answer{c.s.t, method + " " + path, resp.StatusCode, resp.Header, got}
}

func panicOnPurpose(r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	panic(fmt.Errorf("no way with %s, Authorization: %s, Cookie: %s, token=%s for ada.lovelace@example.org",
		body, r.Header.Get("Authorization"), r.Header.Get("Cookie"), r.URL.Query().Get("token")))
}

func TestWhatGoesWrongReachesTheCollectorWithoutSecrets(t *testing.T) {
	t.Parallel()
	c := newCollector(t, false)
	ts := newTestServer(t, c.dsn())
	alice := ts.signUp("Alice")
	defer ts.log.reset() // it has what no other test may have
	var none *task
	ts.withRoutes(
		route{"POST /api/v1/boom/{id}", signedIn, func(_ http.ResponseWriter, r *http.Request) error { panicOnPurpose(r); return nil }},
		route{"GET /api/v1/boom", signedIn, func(_ http.ResponseWriter, r *http.Request) error { panicOnPurpose(r); return nil }},
		route{"GET /api/v1/nil", signedIn, func(http.ResponseWriter, *http.Request) error { return errors.New(none.Title) }},
		route{"GET /api/v1/error", signedIn, func(http.ResponseWriter, *http.Request) error {
			return fmt.Errorf("ask: %w", &storageError{cause: errors.New(`put "secret":"s3cr3t-value" to postgres://u:hunter2@db/x`)})
		}},
		route{"GET /api/v1/late", signedIn, func(w http.ResponseWriter, r *http.Request) error {
			w.WriteHeader(200)
			http.NewResponseController(w).Flush()
			panic("too late")
		}},
		route{"GET /api/v1/mail", signedIn, func(http.ResponseWriter, *http.Request) error { return newProblem("mail_off", "") }},
		route{"GET /api/v1/gone", signedIn, func(http.ResponseWriter, *http.Request) error { return newProblem("not_found", "") }},
	)
	hidden := map[string]string{"Cookie": "session=c00kie-value", "Traceparent": "00-" + givenTrace + "-" + givenParent + "-01"}
	alice.fails("GET", "/api/v1/mail", "", nil).want(501)
	alice.fails("GET", "/api/v1/gone", "", nil).want(404) // neither is reported, so what follows is the first

	alice.fails("POST", "/api/v1/boom/path-value", `{"password":"p4ssw0rd-value"}`, hidden).want(500)
	first := c.await(1)
	line := ts.lines(givenTrace)[0]
	first.is("level", "error").is("platform", "go").is("transaction", "POST /api/v1/boom/{id}").is("user.id", alice.id).is("tags.requestId", line.RequestID).
		is("contexts.trace.trace_id", givenTrace).is("contexts.trace.parent_span_id", givenParent).is("release", "taskflow@"+version).is("environment", "development").
		is("exception.values.0.type", "error").is("exception.values.0.mechanism.handled", false).is("user", "map[id:"+alice.id+"]")
	if frame := nearest(t, first); frame["function"] != "panicOnPurpose" || frame["filename"] != "sentry_test.go" || frame["in_app"] != true || frame["lineno"].(float64) < 100 {
		t.Errorf("it panicked in %v", frame)
	}
	if text := string(first.body); !strings.Contains(text, `"filename":"net/http/server.go"`) || strings.Contains(text, "gopanic") || first.str("server_name") == "" || first.at("request") != nil {
		t.Errorf("got %s", text)
	}
	if value := first.str("exception.values.0.value"); !strings.HasPrefix(value, "no way with ") {
		t.Errorf("the panic is %q", value)
	}
	alice.fails("GET", "/api/v1/boom?token=qu3ry-value", "", hidden).want(500)
	c.await(2).is("transaction", "GET /api/v1/boom")
	alice.fails("GET", "/api/v1/nil", "", nil).want(500)
	if frame := nearest(t, c.await(3).is("exception.values.0.type", "runtime.errorString")); !strings.Contains(fmt.Sprint(frame["function"]), "TestWhatGoesWrong") {
		t.Errorf("a nil pointer in %v", frame)
	}
	alice.fails("GET", "/api/v1/error", "", nil).want(503)
	c.await(4).is("level", "warning").is("exception.values.0.type", "main.storageError").is("tags.status", "503").is("transaction", "GET /api/v1/error").is("exception.values.0.stacktrace", nil)
	testHTTP.Do(func() *http.Request {
		req, _ := http.NewRequest("GET", ts.http.URL+"/api/v1/late", nil)
		req.Header.Set("Authorization", "Bearer "+alice.token)
		return req
	}())
	c.await(5).is("exception.values.0.value", "too late").is("exception.values.0.type", "panic")

	cause := (&trace{request: "the-request", id: [16]byte{1: 7}}).carried()
	ts.withKind(jobKind{name: "hopeless", run: func(context.Context, job, *pgx.Batch) error {
		return permanent(errors.New("refused for bob@example.org, password: p4ssw0rd-value"))
	}})
	ts.withKind(jobKind{name: "panics", run: func(context.Context, job, *pgx.Batch) error { panic("out of cheese") }})
	ts.withKind(jobKind{name: "flaky", run: func(context.Context, job, *pgx.Batch) error { return retryAfter(time.Hour, errors.New("not yet")) }})
	ts.startWorking()
	ts.enqueue(newJob{kind: "flaky", payload: 1})
	eventually(t, 30*time.Second, "the flaky job has failed", func() bool { return ts.log.grep("not yet") != "" })
	ts.enqueue(newJob{kind: "hopeless", payload: 1, trace: cause})
	c.await(6).is("transaction", "hopeless").is("tags.kind", "hopeless").is("tags.queue", "default").is("tags.attempt", "1").is("tags.dead", "true").
		is("tags.requestId", "the-request").is("contexts.trace.trace_id", "00070000000000000000000000000000").is("exception.values.0.value", "refused for [address], password: [masked]")
	ts.enqueue(newJob{kind: "panics", payload: 1, trace: cause})
	if frame := nearest(t, c.await(7).is("tags.kind", "panics").is("exception.values.0.value", "out of cheese").is("tags.dead", "false").is("contexts.trace.trace_id", "00070000000000000000000000000000")); !strings.Contains(fmt.Sprint(frame["function"]), "TestWhatGoesWrong") {
		t.Errorf("a job panicked in %v", frame)
	}
	id := ts.enqueue(newJob{kind: "flaky", payload: 1, trace: cause})
	if err := ts.redis.RPush(t.Context(), ts.outbox.queue.prefix+"poisoned", id).Err(); err != nil {
		t.Fatal(err)
	}
	c.await(8).is("tags.job", id).is("tags.dead", "true").is("tags.requestId", "the-request")

	for _, secret := range []string{"p4ssw0rd-value", "c00kie-value", "qu3ry-value", "path-value", "s3cr3t-value", "hunter2", alice.token, alice.email, "lovelace", "bob@", "127.0.0.1:5", "Bearer"} {
		if strings.Contains(c.all(), secret) {
			t.Errorf("%s is in what was sent: %s", secret, c.all())
		}
	}
	if strings.Contains(ts.log.String(), collectorSecret) {
		t.Error("the log has the collector's key")
	}
}

func TestNobodyWaitsForACollectorThatHangs(t *testing.T) {
	t.Parallel()
	c := newCollector(t, true)
	var stopping time.Time
	t.Cleanup(func() { // when the server is closed
		if took := time.Since(stopping); took > reportPatience+5*time.Second {
			t.Errorf("the server took %v to stop", took)
		}
	})
	ts := newTestServer(t, c.dsn())
	alice := ts.signUp("Alice")
	ts.withRoutes(route{"GET /api/v1/boom", signedIn, func(http.ResponseWriter, *http.Request) error { panic("on purpose") }},
		route{"GET /api/v1/me", signedIn, ts.handleMe})
	began := time.Now()
	for range 50 {
		alice.fails("GET", "/api/v1/boom", "", nil).want(500)
		alice.fails("GET", "/api/v1/me", "", nil).want(200)
	}
	if took := time.Since(began); took > reportTimeout { // what even one that waited would take
		t.Errorf("100 requests took %v", took)
	}
	if lost := ts.reports.lost.Load(); lost < 45 || len(ts.reports.waiting) > maxSame {
		t.Errorf("of 50 reports of one error %d wait and %d are lost", len(ts.reports.waiting), lost)
	}
	ts.log.reset()
	t.Cleanup(func() { stopping = time.Now() })
}

// TestAFloodOfErrorsIsBounded runs beside no other test, as it counts what the process has.
func TestAFloodOfErrorsIsBounded(t *testing.T) {
	c := newCollector(t, true)
	var log lockedBuffer
	cfg, err := load("dev", map[string]string{"SENTRY_DSN": strings.TrimPrefix(c.dsn(), "SENTRY_DSN=")})
	if err != nil {
		t.Fatal(err)
	}
	r := newReporter(cfg, slog.New(slog.NewJSONHandler(&log, nil)))
	used := func() (memory uint64, goroutines int) {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc, runtime.NumGoroutine()
	}
	memory, goroutines := used()
	const n = 10_000
	var all sync.WaitGroup
	began := time.Now()
	for i := range 100 {
		all.Go(func() {
			for j := range n / 100 {
				r.tell(report{kind: "flood", place: fmt.Sprint(i, " ", j), text: strings.Repeat("x", 10_000), trace: newTrace("", nil)})
			}
		})
	}
	all.Wait()
	if took := time.Since(began); took > reportTimeout {
		t.Errorf("telling took %v", took)
	}
	memoryThen, goroutinesThen := used()
	if memoryThen > memory+4<<20 || goroutinesThen > goroutines+10 {
		t.Errorf("memory grew from %d to %d, goroutines from %d to %d", memory, memoryThen, goroutines, goroutinesThen)
	}
	if waiting, lost := len(r.waiting), r.lost.Load(); waiting > maxReports || lost < n-maxReported || len(r.counted) > maxReported {
		t.Errorf("%d wait, %d are lost, %d are told apart", waiting, lost, len(r.counted))
	}
	began = time.Now()
	r.close()
	if took := time.Since(began); took > reportPatience+3*time.Second {
		t.Errorf("closing took %v", took)
	}
	if lost := r.lost.Load(); lost != n || !strings.Contains(log.String(), `"msg":"error reports were not sent"`) || strings.Contains(log.String(), collectorSecret) {
		t.Errorf("%d are lost, and the log says %s", lost, &log)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestACollectorIsLeftAloneForAsLongAsItAsks(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status int
		header http.Header
		pause  time.Duration // 0: none
	}{
		"seconds":                {429, http.Header{"Retry-After": {"30"}}, 30 * time.Second},
		"a date":                 {429, http.Header{"Retry-After": {"Sat, 01 Jan 2000 00:02:00 GMT"}}, 2 * time.Minute}, // synctest begins with that year
		"nothing":                {429, nil, usualPause},
		"no number":              {429, http.Header{"Retry-After": {"NaN"}}, usualPause},
		"errors":                 {200, http.Header{"X-Sentry-Rate-Limits": {"120:error:organization"}}, 2 * time.Minute},
		"everything":             {200, http.Header{"X-Sentry-Rate-Limits": {"90::organization:quota"}}, 90 * time.Second},
		"the longest of several": {429, http.Header{"X-Sentry-Rate-Limits": {"10:default;error:key, 100:error;session:key"}, "Retry-After": {"10"}}, 100 * time.Second},
		"other kinds":            {200, http.Header{"X-Sentry-Rate-Limits": {"120:transaction;session:key"}}, 0},
		"only other kinds":       {429, http.Header{"X-Sentry-Rate-Limits": {"120:transaction:key"}, "Retry-After": {"120"}}, 0},
		"more than is believed":  {200, http.Header{"X-Sentry-Rate-Limits": {"1e300:error:key"}}, longestPause},
		"nonsense":               {200, http.Header{"X-Sentry-Rate-Limits": {"NaN:error:key, :error, ,:, -5:error:key, x"}}, 0},
		"to be fixed":            {500, http.Header{"Retry-After": {"120"}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sent := 0
				r := newReporter(config{collector: collectorSettings{"https://sentry.example.org/api/1/envelope/", "key"}}, slog.New(slog.DiscardHandler))
				r.http.Transport = roundTrip(func(*http.Request) (*http.Response, error) {
					if sent++; sent > 1 {
						return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
					}
					return &http.Response{StatusCode: test.status, Header: test.header, Body: http.NoBody}, nil
				})
				tell := func() int {
					r.tell(report{kind: "same", place: "here"})
					synctest.Wait()
					return sent
				}
				if tell() != 1 {
					t.Fatal("the first is not sent")
				}
				want := 2
				if test.pause > 0 {
					time.Sleep(test.pause - time.Second)
					if tell() != 1 {
						t.Errorf("it is not left alone for %v", test.pause)
					}
					time.Sleep(2 * time.Second)
				}
				if tell() != want {
					t.Errorf("got %d reports, want %d", sent, want)
				}
				r.close()
			})
		})
	}
	t.Run("and the same error is not sent again and again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			sent := 0
			r := newReporter(config{collector: collectorSettings{"https://sentry.example.org/api/1/envelope/", "key"}}, slog.New(slog.DiscardHandler))
			r.http.Transport = roundTrip(func(*http.Request) (*http.Response, error) {
				sent++
				return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
			})
			for minute := range 3 {
				for range 20 {
					r.tell(report{kind: "same", place: "here"})
				}
				r.tell(report{kind: "other", place: "here"})
				synctest.Wait()
				if want := (minute + 1) * (maxSame + 1); sent != want {
					t.Errorf("got %d reports after %d minutes, want %d", sent, minute, want)
				}
				time.Sleep(time.Minute)
			}
			for i := range 3 * maxReports {
				r.tell(report{kind: "many", place: fmt.Sprint(i)})
				synctest.Wait()
			}
			if want := 3*(maxSame+1) + maxReported; sent != want {
				t.Errorf("got %d reports of many errors, want %d", sent, want)
			}
			r.close()
		})
	})
}
