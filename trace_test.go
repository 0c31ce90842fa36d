package main

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	givenTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
	givenParent = "00f067aa0ba902b7"
)

// traced is a line of the log, as far as it tells what it is a part of.
type tracedLine struct{ Msg, Kind, RequestID, TraceID string }

// lines are the log's lines with a text, read.
func (ts *testServer) lines(text string) []tracedLine {
	ts.t.Helper()
	var out []tracedLine
	for line := range strings.Lines(ts.log.grep(text)) {
		var l tracedLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			ts.t.Fatalf("%v in %s", err, line)
		}
		out = append(out, l)
	}
	return out
}

// request is the line of the log that tells of a request.
func (ts *testServer) request(a *answer) tracedLine {
	ts.t.Helper()
	for _, l := range ts.lines(a.header.Get("X-Request-Id")) {
		if l.Msg == "request" {
			return l
		}
	}
	ts.t.Fatalf("%s is not in the log", a.what)
	return tracedLine{}
}

var (
	isTraceID     = regexp.MustCompile(`^[0-9a-f]{32}$`)
	isTraceparent = regexp.MustCompile(`^00-([0-9a-f]{32})-([0-9a-f]{16})-(0[01])$`)
)

func TestOnlyAValidTraceparentGoesOn(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	alice := ts.signUp("Alice")
	for _, valid := range []string{
		"00-" + givenTrace + "-" + givenParent + "-01",
		"00-" + givenTrace + "-" + givenParent + "-00",
		"00-" + givenTrace + "-" + givenParent + "-ff", // flags that are yet to come
		" 00-" + givenTrace + "-" + givenParent + "-01 ",
		"01-" + givenTrace + "-" + givenParent + "-01", // versions that are yet to come
		"cc-" + givenTrace + "-" + givenParent + "-01-what-the-future-will-be-like",
		"fe-" + givenTrace + "-" + givenParent + "-01-",
	} {
		if got := ts.request(alice.with("traceparent", valid).get("/api/v1/me").want(200)); got.TraceID != givenTrace {
			t.Errorf("%q: got %+v", valid, got)
		}
	}
	seen := map[string]bool{}
	for _, hostile := range []string{
		"", "-", "00", givenTrace, strings.Repeat("0", 55), strings.Repeat("-", 55),
		"00-" + givenTrace + "-" + givenParent,
		"00-" + givenTrace + "-" + givenParent + "-",
		"00-" + givenTrace + "-" + givenParent + "-0",
		"00-" + givenTrace + "-" + givenParent + "-010",
		"00-" + givenTrace + "-" + givenParent + "-01-more",
		"00-" + givenTrace + "-" + givenParent + "-01,",
		"00-" + givenTrace + "-" + givenParent + "-0G",
		"00-" + givenTrace + "-" + givenParent + "-0A",
		"00_" + givenTrace + "_" + givenParent + "_01",
		"ff-" + givenTrace + "-" + givenParent + "-01",
		"FE-" + givenTrace + "-" + givenParent + "-01",
		"0g-" + givenTrace + "-" + givenParent + "-01",
		"0-0" + givenTrace + "-" + givenParent + "-01",
		"01-" + givenTrace + "-" + givenParent + "-01.more",
		"01-" + givenTrace + "-" + givenParent + "-0",
		"00-" + strings.ToUpper(givenTrace) + "-" + givenParent + "-01",
		"00-" + givenTrace + "-" + strings.ToUpper(givenParent) + "-01",
		"00-" + strings.Repeat("0", 32) + "-" + givenParent + "-01",
		"00-" + givenTrace + "-" + strings.Repeat("0", 16) + "-01",
		"00-" + givenTrace[:31] + "g-" + givenParent + "-01",
		"00-" + givenTrace[:31] + " -" + givenParent + "-01",
		"00-" + givenTrace[:30] + "é-" + givenParent + "-01",
		"00-" + givenTrace[:30] + "\xff\xfe-" + givenParent + "-01",
		"00-" + givenTrace + "-" + givenParent[:8] + "\t" + givenParent[9:] + "-01",
		`00-` + givenTrace + `-` + givenParent + `-01","level":"ERROR`,
		"00-" + givenTrace + "-" + givenParent + "-01, 00-" + givenTrace + "-" + givenParent + "-01",
		"00-" + strings.Repeat("4bf92f35", 1000) + "-" + givenParent + "-01",
		"' OR 1=1 --", "${jndi:ldap://x}", "<script>", "../../etc/passwd", "%00%0d%0a",
	} {
		got := ts.request(alice.with("traceparent", hostile).get("/api/v1/me").want(200))
		if !isTraceID.MatchString(got.TraceID) || got.TraceID == givenTrace || seen[got.TraceID] || got.TraceID == strings.Repeat("0", 32) {
			t.Errorf("%q: got %+v", hostile, got)
		}
		seen[got.TraceID] = true
		if len(hostile) > 32 && strings.Contains(ts.log.String(), hostile) {
			t.Errorf("%q is in the log", hostile)
		}
	}
	one := "00-" + givenTrace + "-" + givenParent + "-01"
	if got := ts.request(alice.with("traceparent", one).with("traceparent", one).get("/api/v1/me").want(200)); got.TraceID == givenTrace {
		t.Error("one of two goes on")
	}
	if got := ts.request(alice.with("traceparent", one).get("/nowhere").problem(404, "not_found")); got.TraceID != givenTrace {
		t.Errorf("a problem: got %+v", got)
	}
}

func TestATraceGoesFromRequestToJobToJobToWebhook(t *testing.T) {
	t.Parallel()
	ts := newHookServer(t, "SMTP_URL=off")
	alice := ts.signUp("Alice")
	rec := newReceiver(t, nil)
	project := alice.project("Launch")
	task := alice.task(project, "Water the plants", `"recurrence":"FREQ=DAILY"`, `"dueDate":"2030-01-01"`)
	id, _ := alice.webhook(project, rec.URL, "task.updated", "task.created", "task.moved", "member.*")
	ts.startDelivering()

	done := alice.with("traceparent", "00-"+givenTrace+"-"+givenParent+"-01").with("X-Request-Id", "the-cause").patch("/api/v1/tasks/"+task, `{"status":"done"}`).want(200)
	if got := ts.request(done); got != (tracedLine{"request", "", "the-cause", givenTrace}) {
		t.Errorf("the request: got %+v", got)
	}
	parents := map[string]bool{givenParent: true}
	for _, got := range rec.await(2) { // the change, and the next task that the job task.recur has made
		match := isTraceparent.FindStringSubmatch(got.header.Get("traceparent"))
		if match == nil || match[1] != givenTrace || match[3] != "01" || parents[match[2]] || match[2] == strings.Repeat("0", 16) {
			t.Fatalf("%v: traceparent is %q", got.at(t, "type"), got.header.Get("traceparent"))
		}
		parents[match[2]] = true
		if got.header.Get("tracestate") != "" || got.header.Get("x-request-id") != "" {
			t.Errorf("the webhook is told %v", got.header)
		}
	}
	kinds := func() map[string]tracedLine {
		found := map[string]tracedLine{}
		for _, l := range ts.lines(givenTrace) {
			if l.Msg == "job done" {
				found[l.Kind] = l
			}
		}
		return found
	}
	eventually(t, 30*time.Second, "the jobs' lines", func() bool { return kinds()["task.recur"].TraceID != "" && kinds()["webhook.deliver"].TraceID != "" })
	if got := kinds(); got["task.recur"].RequestID != "the-cause" {
		t.Errorf("the jobs: got %+v", got)
	}

	ts.run("and each request's changes have its own", func(t *testing.T) {
		before := len(rec.all())
		alice.with("traceparent", "00-11111111111111111111111111111111-"+givenParent+"-00").patch("/api/v1/tasks/"+task, `{"title":"First"}`).want(200)
		other := ts.request(alice.patch("/api/v1/tasks/"+task, `{"title":"Second"}`).want(200))
		for _, got := range rec.await(before + 2)[before:] {
			want := map[string]string{"First": "11111111111111111111111111111111", "Second": other.TraceID}[fmt.Sprint(got.at(t, "data.changes.title.1"))]
			if match := isTraceparent.FindStringSubmatch(got.header.Get("traceparent")); match == nil || match[1] != want || match[3] != "00" {
				t.Errorf("got %q, want %s", got.header.Get("traceparent"), want)
			}
		}
	})
	ts.run("also of a test, and of one who joins and leaves", func(t *testing.T) {
		before := len(rec.all())
		alice.with("traceparent", "00-22222222222222222222222222222222-"+givenParent+"-00").post("/api/v1/webhooks/"+id+"/test", "").want(202)
		if got := rec.await(before + 1)[before].header.Get("traceparent"); !strings.HasPrefix(got, "00-22222222222222222222222222222222-") {
			t.Errorf("a test: got %q", got)
		}
		token := alice.post("/api/v1/projects/"+project+"/members", `{"email":"bob.to.be@example.org","role":"member"}`).want(202).str("token")
		bob := &client{s: ts, email: "bob.to.be@example.org"}
		bob.token = bob.post("/api/v1/auth/register", jsonOf(newAccount{bob.email, testPassword, "Bob", "Tester"})).want(201).str("accessToken")
		bob.with("traceparent", "00-33333333333333333333333333333333-"+givenParent+"-00").post("/api/v1/invitations/accept", jsonOf(acceptance{token})).want(200)
		if got := rec.await(before + 2)[before+1].header.Get("traceparent"); !strings.HasPrefix(got, "00-33333333333333333333333333333333-") {
			t.Errorf("joining: got %q", got)
		}
		bob.with("traceparent", "00-44444444444444444444444444444444-"+givenParent+"-00").do("DELETE", "/api/v1/me", `{"currentPassword":"`+testPassword+`"}`).want(204)
		if got := rec.await(before + 3)[before+2].header.Get("traceparent"); !strings.HasPrefix(got, "00-44444444444444444444444444444444-") {
			t.Errorf("leaving: got %q", got)
		}
	})
	ts.run("and what an older process has written is told with a trace of its own", func(t *testing.T) {
		before := len(rec.all())
		if _, err := execute(t.Context(), ts.db, `SELECT log_change($1, $2, 'task.moved', $3, '{}')`, project, alice.id, task); err != nil {
			t.Fatal(err)
		}
		ts.wakeDeliveries()
		if got := rec.await(before + 1)[before].header.Get("traceparent"); !isTraceparent.MatchString(got) || strings.Contains(got, givenTrace) || strings.Contains(got, "2222222222222222") {
			t.Errorf("got %q", got)
		}
	})
}

func TestAJobsLinesHaveTheTraceOfItsCause(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ts.server.subscribers = func(f fact) []newJob {
		return map[string][]newJob{"first": {{kind: "first", payload: f}}, "second": {{kind: "second", payload: f}}}[f.Kind]
	}
	ts.withKind(jobKind{name: "first", run: func(ctx context.Context, _ job, _ *pgx.Batch) error {
		b := &pgx.Batch{}
		b.Queue(`SELECT 1`)
		return ts.sendTelling(ctx, b, fact{Kind: "second"})
	}})
	ts.withKind(jobKind{name: "second", run: func(context.Context, job, *pgx.Batch) error { return permanent(fmt.Errorf("no way")) }})
	ctx := withTrace(t.Context(), newTrace("the-request", []string{"00-" + givenTrace + "-" + givenParent + "-01"}))
	b := &pgx.Batch{}
	b.Queue(`SELECT 1`)
	if err := ts.sendTelling(ctx, b, fact{Kind: "first"}); err != nil {
		t.Fatal(err)
	}
	ts.startWorking()
	eventually(t, 30*time.Second, "the second job's line", func() bool { return ts.log.grep(`"job failed"`) != "" })
	want := []tracedLine{{"job done", "first", "the-request", givenTrace}, {"job failed", "second", "the-request", givenTrace}}
	for _, line := range want {
		eventually(t, 30*time.Second, fmt.Sprintf("%+v in the log", line), func() bool {
			for _, got := range ts.lines(givenTrace) {
				if got == line {
					return true
				}
			}
			return false
		})
	}
	admin := ts.withRole("Root", globalAdmin)
	for _, search := range []string{"the-request", givenTrace} {
		admin.get("/api/v1/admin/queues/default/jobs?state=dead&search="+search).want(200).is("items.0.kind", "second").is("items.0.trace", "the-request").is("items.0.traceId", givenTrace)
	}

	t.Run("and those that an older process made have the request's id", func(t *testing.T) {
		ts.enqueue(newJob{kind: "second", payload: 1, trace: "from-before"})
		eventually(t, 30*time.Second, "the old job's line", func() bool { return len(ts.lines(`"from-before"`)) == 1 })
		if got := ts.lines(`"from-before"`)[0]; !isTraceID.MatchString(got.TraceID) || got.TraceID == givenTrace {
			t.Errorf("got %+v", got)
		}
		admin.get("/api/v1/admin/queues/default/jobs?state=dead&search=from-before").want(200).is("items.0.trace", "from-before").is("items.0.traceId", "")
	})
}
