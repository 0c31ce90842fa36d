package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// receiver is somebody's server that webhooks call.
type receiver struct {
	*httptest.Server
	t      testing.TB
	mu     sync.Mutex
	got    []received
	answer func(n int, w http.ResponseWriter, r *http.Request) // to the nth request, from 1; nil: 204
}

// received is one request, as it came.
type received struct {
	header http.Header
	body   string
}

func newReceiver(t testing.TB, answer func(n int, w http.ResponseWriter, r *http.Request)) *receiver {
	t.Helper()
	rec := &receiver{t: t, answer: answer}
	rec.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != "POST" || r.Header.Get("Content-Type") != "application/json" || !json.Valid(body) {
			t.Errorf("got %s %v %s (%v)", r.Method, r.Header, body, err)
		}
		rec.mu.Lock()
		rec.got = append(rec.got, received{r.Header, string(body)})
		n := len(rec.got)
		rec.mu.Unlock()
		if rec.answer == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		rec.answer(n, w, r)
	}))
	t.Cleanup(rec.Close)
	return rec
}

// all is what has come so far.
func (rec *receiver) all() []received {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return slices.Clone(rec.got)
}

// await waits until so many requests have come, and returns them.
func (rec *receiver) await(n int) []received {
	rec.t.Helper()
	eventually(rec.t, time.Minute, fmt.Sprintf("%d requests", n), func() bool { return len(rec.all()) >= n })
	got := rec.all()
	if len(got) != n {
		rec.t.Fatalf("got %d requests, want %d: %v", len(got), n, got)
	}
	return got
}

// at is a value in the body by a path such as data.changes.title.1.
func (got received) at(t testing.TB, path string) any {
	t.Helper()
	return (&answer{t: t, what: "a webhook's request", body: []byte(got.body)}).at(path)
}

// compact is JSON without the spaces in it.
func compact(text string) string {
	var out bytes.Buffer
	json.Compact(&out, []byte(text))
	return out.String()
}

func (got received) id() string { return got.header.Get("webhook-id") }

// signatures are those of the request that a secret verifies, as the text of Standard Webhooks says: of id,
// timestamp and body with dots between them, by the bytes whose base64 stands after whsec_.
func (got received) signatures(t testing.TB, secret string) (verified []int) {
	t.Helper()
	encoded, ok := strings.CutPrefix(secret, "whsec_")
	key, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(key) < 24 || len(key) > 64 {
		t.Fatalf("a secret of %d bytes in another form (%v)", len(key), err)
	}
	seconds, err := strconv.ParseInt(got.header.Get("webhook-timestamp"), 10, 64)
	if age := time.Since(time.Unix(seconds, 0)); err != nil || age < -time.Minute || age > 5*time.Minute {
		t.Errorf("the timestamp is %v old (%v)", age, err)
	}
	mac := hmac.New(sha256.New, key)
	io.WriteString(mac, got.id()+"."+got.header.Get("webhook-timestamp")+"."+got.body)
	for i, one := range strings.Split(got.header.Get("webhook-signature"), " ") {
		version, sum, _ := strings.Cut(one, ",")
		raw, err := base64.StdEncoding.DecodeString(sum)
		if version != "v1" || err != nil {
			t.Errorf("signature %q", one)
		}
		if hmac.Equal(raw, mac.Sum(nil)) {
			verified = append(verified, i)
		}
	}
	return verified
}

// startDelivering has the server make and send deliveries until the test ends, or what it returns is called.
func (ts *testServer) startDelivering() (stop func()) {
	stopWorking := ts.startWorking()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		ts.runDeliveries(ctx)
		close(ended)
	}()
	stop = func() {
		cancel()
		<-ended
		stopWorking()
	}
	ts.t.Cleanup(stop)
	return stop
}

// newHookServer tries again at once, and no more than three times.
func newHookServer(t testing.TB, env ...string) *testServer {
	t.Helper()
	ts := newTestServer(t, env...)
	ts.deliveries.retries = []time.Duration{time.Millisecond, time.Millisecond, time.Millisecond}
	ts.egress.timeout = testPatience
	return ts
}

// webhook makes a webhook.
func (c *client) webhook(project, url string, events ...string) (id, secret string) {
	c.s.t.Helper()
	made := c.post("/api/v1/projects/"+project+"/webhooks", jsonOf(map[string]any{"url": url, "events": events})).want(201)
	return made.str("id"), made.str("secret")
}

// delivered waits until a delivery has this state.
func (c *client) delivered(id, state string) *answer {
	c.s.t.Helper()
	var got *answer
	eventually(c.s.t, time.Minute, "a delivery "+state, func() bool {
		got = c.get("/api/v1/deliveries/" + id).want(200)
		return got.str("state") == state
	})
	return got
}

func TestAWebhookIsToldWhatItWants(t *testing.T) {
	t.Parallel()
	ts := newHookServer(t)
	alice, bob := ts.signUp("Alice"), ts.signUp("Bob")
	rec, other := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "thank\x00s\xff") }), newReceiver(t, nil)
	project, elsewhere := alice.project("Launch"), alice.project("Elsewhere")
	id, secret := alice.webhook(project, rec.URL+"/hook?a=b", "task.*", "member.added")
	alice.webhook(elsewhere, other.URL, "*")
	key := alice.get("/api/v1/projects/" + project).str("key")
	stop := ts.startDelivering()
	var got []received

	ts.run("with old and new values, signed", func(t *testing.T) {
		task := alice.task(project, "Ship", `"priority":"high"`)
		alice.patch("/api/v1/projects/"+project, `{"description":"not asked for"}`).want(200)
		alice.add(project, bob, roleMember)
		bob.patch("/api/v1/tasks/"+task, `{"title":"Ship it"}`).want(200)
		got = rec.await(3)
		slices.SortFunc(got, func(a, b received) int {
			return int(a.at(t, "data.seq").(float64)) - int(b.at(t, "data.seq").(float64))
		})
		for i, want := range []struct {
			kind, subject, actor, changed string
			from, to                      any
		}{
			{"task.created", task, alice.id, "priority", nil, "high"},
			{"member.added", bob.id, alice.id, "role", nil, "member"},
			{"task.updated", task, bob.id, "title", "Ship", "Ship it"},
		} {
			is := func(path string, want any) {
				t.Helper()
				if value := got[i].at(t, path); value != want {
					t.Errorf("%s: %s is %v, want %v", want, path, value, want)
				}
			}
			is("type", want.kind)
			is("data.project.id", project)
			is("data.project.key", key)
			is("data.subjectId", want.subject)
			is("data.actorId", want.actor)
			is("data.changes."+want.changed+".0", want.from)
			is("data.changes."+want.changed+".1", want.to)
			if at, ok := parseTimestamp(got[i].at(t, "timestamp").(string)); !ok || time.Since(at) > 5*time.Minute || time.Since(at) < -time.Minute {
				t.Errorf("%s: at %v", want.kind, got[i].at(t, "timestamp"))
			}
			if verified := got[i].signatures(t, secret); !slices.Equal(verified, []int{0}) {
				t.Errorf("%s: the secret verifies %v of %s", want.kind, verified, got[i].header.Get("webhook-signature"))
			}
		}
		if got[0].id() == got[1].id() || got[1].id() == got[2].id() {
			t.Error("two events have the same id")
		}
	})
	ts.run("and the log of its deliveries tells how that went", func(t *testing.T) {
		alice.delivered(got[2].id(), "delivered").is("webhookId", id).is("type", "task.updated").is("attempts", 1).is("answerStatus", 200).is("answer", "thanks").is("error", nil).
			is("nextAttemptAt", nil).is("payload.data.changes.title.1", "Ship it")
		if whole := alice.get("/api/v1/deliveries/" + got[2].id()); !strings.Contains(string(whole.body), compact(got[2].body)) || whole.at("durationMs") == nil || whole.str("lastAttemptAt") == "" {
			t.Errorf("%s has not %s", whole.body, got[2].body)
		}
		for _, one := range got {
			alice.delivered(one.id(), "delivered")
		}
		list := alice.get("/api/v1/webhooks/"+id+"/deliveries?total=true&limit=2").want(200).is("total", 3).is("items.0.payload", nil)
		rest := alice.get("/api/v1/webhooks/"+id+"/deliveries?limit=2&cursor="+list.str("next")).want(200).is("next", nil)
		if n := len(list.strs("id")) + len(rest.strs("id")); n != 3 {
			t.Errorf("the pages have %d deliveries", n)
		}
	})
	stop()
	for i := range 5 {
		alice.task(project, fmt.Sprint("Task ", i))
	}
	ts.startDelivering()
	ts.run("also of what happened while nobody worked, and of nothing twice", func(t *testing.T) {
		ids := map[string]bool{}
		for _, one := range rec.await(8) {
			ids[one.id()] = true
		}
		if len(ids) != 8 {
			t.Errorf("8 requests had %d ids", len(ids))
		}
	})
	ts.run("of a task that goes to another project, on both sides", func(t *testing.T) {
		task := alice.task(project, "Wanderer")
		alice.post("/api/v1/tasks/"+task+"/move", `{"projectId":"`+elsewhere+`"}`).want(200)
		kinds := func(list []received) (kinds []string) {
			for _, one := range list {
				kinds = append(kinds, one.at(t, "type").(string))
			}
			slices.Sort(kinds)
			return kinds
		}
		if got := kinds(rec.await(10)[8:]); !slices.Equal(got, []string{"task.created", "task.left"}) {
			t.Errorf("where it left: %v", got)
		}
		if got := kinds(other.await(1)); !slices.Equal(got, []string{"task.arrived"}) {
			t.Errorf("where it arrived: %v", got)
		}
	})
	for _, one := range other.all() {
		if strings.Contains(one.body, "Ship") || strings.Contains(one.body, bob.id) {
			t.Errorf("another project's webhook was told %s", one.body)
		}
	}
}

func TestARotatedSecretSignsForADayBesideTheNewOne(t *testing.T) {
	t.Parallel()
	ts := newHookServer(t)
	alice := ts.signUp("Alice")
	rec := newReceiver(t, nil)
	id, first := alice.webhook(alice.project("Launch"), rec.URL, "task.*")
	path := "/api/v1/webhooks/" + id
	ts.startDelivering()

	rotated := alice.with("If-Match", `"1"`).post(path+"/rotate", "").want(200)
	second := rotated.str("secret")
	if until, ok := parseTimestamp(rotated.str("previousSecretUntil")); !ok || time.Until(until) < 23*time.Hour || time.Until(until) > 24*time.Hour || first == second {
		t.Errorf("the old secret is good until %v", until)
	}
	alice.with("If-Match", `"1"`).post(path+"/rotate", "").problem(412, "version_mismatch")
	if got := alice.get(path).want(200); got.at("secret") != nil || strings.Contains(string(got.body), "whsec_") {
		t.Errorf("a secret is shown again: %s", got.body)
	}
	alice.post(path+"/test", "").want(202).is("state", "waiting").is("payload.type", "webhook.test")
	got := rec.await(1)[0]
	if by1, by2 := got.signatures(t, first), got.signatures(t, second); !slices.Equal(by1, []int{1}) || !slices.Equal(by2, []int{0}) {
		t.Errorf("the old secret verifies %v and the new one %v of %s", by1, by2, got.header.Get("webhook-signature"))
	}
	ts.sql(`UPDATE webhooks SET previous_until = clock_timestamp() - interval '1 second'`)
	alice.get(path).want(200).is("previousSecretUntil", nil)
	alice.post(path+"/test", "").want(202)
	got = rec.await(2)[1]
	if by1, by2 := got.signatures(t, first), got.signatures(t, second); len(by1) != 0 || !slices.Equal(by2, []int{0}) || strings.Contains(got.header.Get("webhook-signature"), " ") {
		t.Errorf("a day later the old secret verifies %v and the new one %v", by1, by2)
	}
}

func TestWhatFailsIsTriedAgain(t *testing.T) {
	t.Parallel()
	ts := newHookServer(t)
	alice := ts.signUp("Alice")
	project := alice.project("Launch")
	ts.startDelivering()

	ts.run("with the same id and body, until it succeeds", func(t *testing.T) {
		rec := newReceiver(t, func(n int, w http.ResponseWriter, r *http.Request) {
			switch n {
			case 1:
				w.WriteHeader(500)
			case 2:
				http.Redirect(w, r, "/", http.StatusTemporaryRedirect)
			case 3:
				panic(http.ErrAbortHandler)
			}
		})
		id, secret := alice.webhook(project, rec.URL, "task.created")
		alice.task(project, "Ship")
		got := rec.await(4)
		for _, one := range got {
			if one.id() != got[0].id() || one.body != got[0].body || len(one.signatures(t, secret)) != 1 {
				t.Errorf("one attempt differs: %v", one)
			}
		}
		alice.delivered(got[0].id(), "delivered").is("attempts", 4).is("answerStatus", 200).is("error", nil)
		alice.get("/api/v1/webhooks/"+id).is("failingSince", nil).is("active", true)
		alice.delete("/api/v1/webhooks/" + id).want(204)
		alice.get("/api/v1/deliveries/"+got[0].id()).problem(404, "not_found")
	})
	ts.run("and given up at the end, until somebody asks for it", func(t *testing.T) {
		var mended atomic.Bool
		rec := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request) {
			if !mended.Load() {
				http.Error(w, strings.Repeat("no ", 10_000), http.StatusServiceUnavailable)
			}
		})
		id, _ := alice.webhook(project, rec.URL, "task.created")
		alice.task(project, "Ship")
		delivery := rec.await(4)[3].id()
		failed := alice.delivered(delivery, "failed").is("attempts", 4).is("answerStatus", 503).is("error", "the receiver answered 503").is("nextAttemptAt", nil)
		if n := len(failed.str("answer")); n != keptAnswerText {
			t.Errorf("%d bytes of the answer are kept", n)
		}
		if alice.get("/api/v1/webhooks/"+id).is("active", true).at("failingSince") == nil {
			t.Error("nobody sees that it fails")
		}
		mended.Store(true)
		alice.post("/api/v1/deliveries/"+delivery+"/redeliver", "").want(202).is("id", delivery).is("attempts", 4)
		if got := rec.await(5); got[4].id() != delivery || got[4].body != got[0].body {
			t.Errorf("it was sent as %v", got[4])
		}
		alice.delivered(delivery, "delivered").is("attempts", 5)
		alice.get("/api/v1/webhooks/"+id).is("failingSince", nil)
		alice.delete("/api/v1/webhooks/" + id).want(204)
	})
	ts.run("but a test is not", func(t *testing.T) {
		rec := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
		id, _ := alice.webhook(project, rec.URL, "project.*")
		sent := alice.post("/api/v1/webhooks/"+id+"/test", "").want(202)
		if got := sent.header.Get("Location"); got != "/api/v1/deliveries/"+sent.str("id") {
			t.Errorf("it is to be found at %s", got)
		}
		alice.delivered(sent.str("id"), "failed").is("attempts", 1)
		alice.get("/api/v1/webhooks/"+id).is("failingSince", nil)
		alice.delete("/api/v1/webhooks/" + id).want(204)
	})
	if got := deliveryRetries; len(got) != 9 || got[0] != 5*time.Second || got[8] != 24*time.Hour {
		t.Errorf("the schedule is %v", got)
	}
}

func TestAWebhookIsTurnedOff(t *testing.T) {
	t.Parallel()
	ts := newHookServer(t)
	alice, keeper := ts.signUp("Alice"), ts.signUp("Keeper")
	project := alice.project("Launch")
	alice.add(project, keeper, roleAdmin)
	ts.startDelivering()
	// told are the owners, once.
	told := func(reason string, id string) {
		ts.t.Helper()
		inbox := alice.get("/api/v1/notifications?unread=true&total=true").want(200).is("total", 1)
		inbox.is("items.0.kind", "webhook.disabled").is("items.0.projectId", project).is("items.0.detail.webhookId", id).is("items.0.detail.reason", reason)
		alice.post("/api/v1/notifications/read", `{"all":true}`).want(204)
		for _, kind := range keeper.get("/api/v1/notifications").want(200).strs("kind") {
			if kind == "webhook.disabled" {
				ts.t.Error("an admin was told, who is no owner")
			}
		}
		activity := keeper.get("/api/v1/projects/" + project + "/activity?limit=1").want(200)
		activity.is("items.0.kind", "webhook.disabled").is("items.0.subjectId", id).is("items.0.actorId", nil).is("items.0.changes.disabledReason.1", reason)
	}

	ts.run("when it is gone", func(t *testing.T) {
		rec := newReceiver(t, func(n int, w http.ResponseWriter, _ *http.Request) {
			if n == 1 {
				w.WriteHeader(http.StatusGone)
			}
		})
		id, _ := keeper.webhook(project, rec.URL, "task.*")
		path := "/api/v1/webhooks/" + id
		keeper.task(project, "Ship")
		delivery := rec.await(1)[0].id()
		keeper.delivered(delivery, "failed").is("attempts", 1).is("answerStatus", 410)
		keeper.get(path).want(200).is("active", false).is("disabledReason", "gone").is("version", 2)
		told("gone", id)

		keeper.task(project, "Missed")
		keeper.post("/api/v1/deliveries/"+delivery+"/redeliver", "").problem(409, "webhook_off")
		keeper.post(path+"/test", "").want(202)
		if got := rec.await(2)[1]; got.at(t, "type") != "webhook.test" {
			t.Errorf("while it was off it was sent %s", got.body)
		}
		keeper.patch(path, `{"active":true}`).want(200).is("disabledReason", nil).is("failingSince", nil)
		keeper.task(project, "Heard")
		if got := rec.await(3)[2]; got.at(t, "data.changes.title.1") != "Heard" {
			t.Errorf("turned on again it was sent %s", got.body)
		}
		keeper.delete(path).want(204)
	})
	ts.run("after days of failure, and gives up what waits", func(t *testing.T) {
		rec := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
		id, _ := keeper.webhook(project, rec.URL, "task.*")
		keeper.task(project, "First")
		keeper.delivered(rec.await(4)[0].id(), "failed")
		keeper.get("/api/v1/webhooks/"+id).is("active", true)
		ts.sql(`UPDATE webhooks SET failing_since = failing_since - interval '73 hours'`)
		keeper.task(project, "Second")
		eventually(t, time.Minute, "it is off", func() bool { return keeper.get("/api/v1/webhooks/"+id).want(200).at("active") == false })
		told("failing", id)
		last := keeper.get("/api/v1/webhooks/" + id + "/deliveries?limit=1").want(200).str("items.0.id")
		keeper.delivered(last, "failed").is("error", "the webhook was off").is("attempts", 1)
		rec.await(5)
	})
	ts.run("with its project, after being told", func(t *testing.T) {
		rec := newReceiver(t, nil)
		gone := alice.project("Gone")
		id, _ := alice.webhook(gone, rec.URL, "*")
		alice.delete("/api/v1/projects/" + gone).want(204)
		if got := rec.await(1)[0]; got.at(t, "type") != "project.deleted" {
			t.Errorf("got %s", got.body)
		}
		alice.get("/api/v1/webhooks/"+id).problem(404, "not_found")
		alice.post("/api/v1/webhooks/"+id+"/test", "").problem(404, "not_found")
	})
}

func TestWebhooksAreManagedByAdmins(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	list := "/api/v1/projects/" + sc.project + "/webhooks"
	body := `{"url":"https://hooks.example.org/secret-path","events":["*"]}`

	sc.run("who see them as long as they are that", func(t *testing.T) {
		made := sc.projectAdmin.post(list, body).want(201).is("active", true).is("version", 1)
		path := "/api/v1/webhooks/" + made.str("id")
		if made.header.Get("Location") != path || made.header.Get("ETag") != `"1"` || !strings.HasPrefix(made.str("secret"), "whsec_") {
			t.Errorf("got %v %s", made.header, made.body)
		}
		sc.owner.with("If-None-Match", `"1"`).get(path).want(304)
		sc.owner.with("If-Match", `"2"`).patch(path, `{"active":false}`).problem(412, "version_mismatch")
		sc.owner.with("If-Match", `"1"`).patch(path, `{"active":true}`).want(200).is("version", 1) // which changes nothing
		sc.owner.patch(path, `{"url":"https://hooks.example.org/hidden-path"}`).want(200).is("version", 2)
		sc.owner.patch("/api/v1/projects/"+sc.project+"/members/"+sc.projectAdmin.id, `{"role":"member"}`).want(200)
		sc.projectAdmin.get(path).problem(403, "forbidden")
		sc.owner.get(path).want(200).is("url", "https://hooks.example.org/hidden-path")
		sc.owner.with("If-Match", `"1"`).delete(path).problem(412, "version_mismatch")
		sc.owner.delete(path).want(204)
		sc.owner.delete(path).problem(404, "not_found")
	})
	sc.run("and the history tells of them without addresses", func(t *testing.T) {
		got := sc.viewer.get("/api/v1/projects/" + sc.project + "/activity?limit=4").want(200)
		if strings.Contains(string(got.body), "hooks.example.org") || strings.Contains(string(got.body), "-path") {
			t.Errorf("a viewer learns %s", got.body)
		}
		got.is("items.0.kind", "webhook.deleted").is("items.2.kind", "webhook.updated").is("items.2.changes.url", "[<nil> <nil>]").is("items.3.kind", "webhook.created").is("items.3.changes.events.1", "[*]")
	})
	sc.run("who make up to twenty", func(t *testing.T) {
		other := "/api/v1/projects/" + sc.newProject() + "/webhooks"
		statuses := statuses(atOnce(maxWebhooks+3, func(int) *answer { return (&client{s: sc.testServer, token: sc.owner.token}).post(other, body) }))
		if statuses[201] != maxWebhooks || statuses[409] != 3 {
			t.Errorf("got %v", statuses)
		}
		sc.owner.post(other, body).problem(409, "too_many_webhooks")
		if got := sc.owner.get(other+"?limit=100&total=true").want(200).is("total", maxWebhooks); strings.Contains(string(got.body), "whsec_") {
			t.Errorf("the list shows a secret: %s", got.body)
		}
	})
	sc.run("and get the same secret again with the same key", func(t *testing.T) {
		first := sc.owner.keyed("hook").post(list, body).want(201)
		wantReplay(t, first, sc.owner.keyed("hook").post(list, body))
	})
	sc.run("with addresses and kinds that can be", func(t *testing.T) {
		before := sc.state()
		for body, want := range map[string]string{
			`{"events":["*"]}`: "url required", `{"url":"","events":["*"]}`: "url required", `{"url":"https://127.1/","events":["*"]}`: "url not_allowed", `{"url":"https://10.0.0.1/","events":["*"]}`: "url not_allowed",
			`{"url":"ftp://hooks.example.org","events":["*"]}`: "url not_allowed", `{"url":"https://h/` + strings.Repeat("x", maxWebhookURL) + `","events":["*"]}`: "url too_long",
			`{"url":"https://hooks.example.org"}`: "events out_of_range", `{"url":"https://hooks.example.org","events":[]}`: "events out_of_range", `{"url":"https://hooks.example.org","events":["task"]}`: "events[0] invalid_kind",
			`{"url":"https://hooks.example.org","events":["task.created","Task.created"]}`: "events[1] invalid_kind", `{"url":"https://hooks.example.org","events":["*.created"]}`: "events[0] invalid_kind", `{"url":"https://hooks.example.org","events":["*","*"]}`: "events[1] repeated",
			`{"url":"https://hooks.example.org","events":["*"` + strings.Repeat(`,"a.b"`, maxWebhookEvents) + `]}`: "events out_of_range", `{"url":"https://hooks.example.org","events":["*"],"secret":"whsec_x"}`: "secret unknown_field",
		} {
			field, code, _ := strings.Cut(want, " ")
			sc.owner.refused("POST", list, body, 422, "validation_failed").field(field, code)
		}
		sc.unchanged(before, "a refused webhook")
		id := sc.webhook()
		before = sc.state()
		for body, want := range map[string]string{`{"url":null}`: "url required", `{"url":"https://[::1]:1/"}`: "url not_allowed", `{"events":null}`: "events required", `{"events":["x"]}`: "events[0] invalid_kind", `{"active":null}`: "active required"} {
			field, code, _ := strings.Cut(want, " ")
			sc.owner.refused("PATCH", "/api/v1/webhooks/"+id, body, 422, "validation_failed").field(field, code)
		}
		sc.unchanged(before, "a refused change")
	})
}

func TestAWebhookLeadsNowhereInside(t *testing.T) {
	t.Parallel()
	rec := newReceiver(t, nil)
	ts := newHookServer(t, "WEBHOOK_ALLOW_NETWORKS=192.0.2.0/24")
	ts.egress.dialer.Resolver = newNames(t, map[string][]string{"loop.test": {"127.0.0.1"}, "mapped.test": {"::ffff:127.0.0.1"}, "both.test": {"::1", "127.0.0.1"}, "meta.test": {"169.254.169.254"}})
	alice := ts.signUp("Alice")
	project := alice.project("Launch")
	_, port, _ := strings.Cut(strings.TrimPrefix(rec.URL, "http://"), ":")
	alice.post("/api/v1/projects/"+project+"/webhooks", `{"url":"`+rec.URL+`","events":["*"]}`).problem(422, "validation_failed").field("url", "not_allowed")
	id, _ := alice.webhook(project, "https://hooks.example.org", "*")
	ts.startDelivering()
	for _, host := range []string{"localhost", "loop.test", "mapped.test", "both.test", "meta.test", "nowhere.test"} {
		for _, scheme := range []string{"http", "https"} {
			alice.patch("/api/v1/webhooks/"+id, `{"url":"`+scheme+`://`+host+`:`+port+`/"}`).want(200)
			sent := alice.post("/api/v1/webhooks/"+id+"/test", "").want(202).str("id")
			alice.delivered(sent, "failed").is("answerStatus", nil).is("error", "the host has no public address; the operator can allow others by WEBHOOK_ALLOW_NETWORKS")
		}
	}
	if got := rec.all(); len(got) != 0 {
		t.Errorf("somebody inside was called: %v", got)
	}
}
