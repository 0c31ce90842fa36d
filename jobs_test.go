package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// runs runs one job of a kind to its end, as a worker would.
func (ts *testServer) runs(kind string, payload any) {
	ts.t.Helper()
	ended := make(chan ending, 1)
	id := ts.enqueue(newJob{kind: kind, payload: payload})
	ts.outbox.runJob(ts.t.Context(), job{ID: id, Kind: kind, Payload: []byte(jsonOf(payload)), PushedAt: time.Now(), Attempt: 1}, func(e ending) { ended <- e })
	if e := <-ended; e.mode != "done" {
		ts.t.Fatalf("%s ended as %s: %s", kind, e.mode, e.err)
	}
}

func TestTheInboxTellsWhatConcernsItsUser(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ts.startWorking()
	alice, bob := ts.signUp("Alice"), ts.signUp("Bob")
	project := alice.project("Launch")
	alice.add(project, bob, roleMember)
	task := alice.task(project, "Ship", `"assigneeId":"`+bob.id+`"`)
	inbox := func() []string { return bob.get("/api/v1/notifications").want(200).strs("kind") }
	eventually(t, 30*time.Second, "both entries", func() bool { return len(inbox()) == 2 })

	t.Run("an assignment that changes nothing is told no second time", func(t *testing.T) {
		alice.patch("/api/v1/tasks/"+task, `{"assigneeId":"`+bob.id+`"}`).want(200)
		eventually(t, 30*time.Second, "the job is done", func() bool { return ts.living() == 0 })
		if got := inbox(); len(got) != 2 || !slices.Contains(got, "task.assigned") || !slices.Contains(got, "member.added") {
			t.Errorf("got %v", got)
		}
	})
	t.Run("one's own acts are not told", func(t *testing.T) {
		bob.patch("/api/v1/tasks/"+task, `{"assigneeId":null}`).want(200)
		bob.patch("/api/v1/tasks/"+task, `{"assigneeId":"`+bob.id+`"}`).want(200)
		eventually(t, 30*time.Second, "the job is done", func() bool { return ts.living() == 0 })
		if got := inbox(); len(got) != 2 {
			t.Errorf("got %v", got)
		}
	})
	t.Run("reading marks entries, and only one's own", func(t *testing.T) {
		a := bob.get("/api/v1/notifications?unread=true&total=true").want(200).is("total", 2)
		id := a.str("items.0.id")
		alice.post("/api/v1/notifications/read", `{"ids":["`+id+`"]}`).want(204)
		bob.get("/api/v1/notifications?unread=true&total=true").is("total", 2)
		bob.post("/api/v1/notifications/read", `{"ids":["`+id+`"]}`).want(204)
		bob.get("/api/v1/notifications?unread=true&total=true").is("total", 1)
		bob.post("/api/v1/notifications/read", `{"all":true}`).want(204)
		bob.get("/api/v1/notifications?unread=true&total=true").is("total", 0)
		bob.post("/api/v1/notifications/read", `{"all":true,"ids":[]}`).problem(422, "validation_failed").field("ids", "required")
	})
	t.Run("a removed member sees no entry of the project", func(t *testing.T) {
		alice.delete("/api/v1/projects/" + project + "/members/" + bob.id).want(204)
		eventually(t, 30*time.Second, "he is told of that", func() bool { return ts.living() == 0 })
		bob.get("/api/v1/notifications?total=true").want(200).is("total", 1).is("items.0.kind", "member.removed").is("items.0.projectId", nil)
	})
}

func TestRemindersComeOnceInTheMorningOfTheAssignee(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	alice := ts.signUp("Alice")
	alice.patch("/api/v1/me", `{"timezone":"Pacific/Kiritimati"}`).want(200) // UTC+14
	project := alice.project("Launch")
	mine := `"assigneeId":"` + alice.id + `"`
	alice.task(project, "due", mine, `"dueDate":"2026-03-02"`)
	alice.task(project, "missed", mine, `"dueDate":"2026-03-01"`)
	alice.task(project, "done", mine, `"dueDate":"2026-03-01"`, `"status":"done"`)
	alice.task(project, "later", mine, `"dueDate":"2026-03-03"`)
	alice.task(project, "nobody's", `"dueDate":"2026-03-02"`)
	remind := func(at string) []string {
		t.Helper()
		now, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		effect := &pgx.Batch{}
		if err := ts.runReminders(t.Context(), job{PushedAt: now}, effect); err != nil {
			t.Fatal(err)
		}
		if err := ts.db.send(t.Context(), effect); err != nil {
			t.Fatal(err)
		}
		kinds := alice.get("/api/v1/notifications").want(200).strs("kind")
		slices.Sort(kinds)
		return kinds
	}
	if got := remind("2026-03-01T17:59:00Z"); len(got) != 0 { // 07:59 there
		t.Errorf("before eight: got %v", got)
	}
	for range 3 {
		if got := remind("2026-03-01T18:00:00Z"); !slices.Equal(got, []string{"task.due", "task.overdue"}) {
			t.Errorf("at eight: got %v", got)
		}
	}
}

func TestTheTrashIsPurgedAfterItsDaysAndNotBefore(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	alice := ts.signUp("Alice")
	kept, gone := alice.project("Kept"), alice.project("Gone")
	parent := alice.task(kept, "old")
	child := alice.task(kept, "old child", `"parentId":"`+parent+`"`)
	fresh := alice.task(kept, "fresh")
	alice.task(gone, "inside")
	for _, id := range []string{parent, fresh} {
		alice.delete("/api/v1/tasks/" + id).want(204)
	}
	alice.delete("/api/v1/projects/" + gone).want(204)
	ts.runs("trash.purge", nil)
	alice.post("/api/v1/tasks/"+parent+"/restore", "").want(200)
	alice.delete("/api/v1/tasks/" + parent).want(204)

	ts.exec(`UPDATE tasks SET deleted_at = deleted_at - interval '31 days' WHERE id IN ($1, $2)`, parent, child)
	ts.exec(`UPDATE projects SET deleted_at = deleted_at - interval '31 days' WHERE id = $1`, gone)
	ts.runs("trash.purge", nil)
	alice.post("/api/v1/tasks/"+parent+"/restore", "").want(404)
	alice.post("/api/v1/tasks/"+fresh+"/restore", "").want(200)
	alice.post("/api/v1/projects/"+gone+"/restore", "").want(404)
	n, err := queryValue[int64](t.Context(), ts.db, `SELECT (SELECT count(*) FROM tasks) + (SELECT count(*) FROM projects) * 100 + (SELECT count(*) FROM events WHERE scope = $1) * 10000`, gone)
	if err != nil || n != 101 {
		t.Errorf("got %d (%v), want one task, one project and no event of the other", n, err)
	}
	if got := alice.task(kept, "next"); alice.get("/api/v1/tasks/"+got).num("number") != 4 {
		t.Error("a purged task's number was given again")
	}
}

func TestEndedSessionsArePurgedAfterAMonth(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	alice := ts.signUp("Alice")
	old := ts.signUp("Old")
	old.post("/api/v1/auth/logout", "").want(204)
	ts.exec(`UPDATE sessions SET revoked_at = revoked_at - interval '31 days' WHERE user_id = $1`, old.id)
	ts.runs("sessions.purge", nil)
	alice.get("/api/v1/me").want(200)
	n, err := queryValue[int64](t.Context(), ts.db, `SELECT (SELECT count(*) FROM sessions) * 10 + (SELECT count(*) FROM refresh_tokens)`)
	if err != nil || n != 11 {
		t.Errorf("got %d (%v), want one session and one token", n, err)
	}
}

func TestKeptFiguresAreServedOnlyWhileTheyHold(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	alice := ts.signUp("Alice")
	project := alice.project("Launch")
	alice.task(project, "one")
	live := string(alice.get("/api/v1/projects/"+project+"/stats").want(200).is("tasks", 1).body)
	ts.runs("project.stats", nil)
	if kept := string(alice.get("/api/v1/projects/" + project + "/stats").want(200).body); kept != live {
		t.Errorf("kept figures differ from live ones:\n%s\n%s", kept, live)
	}
	ts.exec(`UPDATE project_stats SET stats = stats || '{"tasks": 77}'`)
	alice.get("/api/v1/projects/"+project+"/stats").is("tasks", 77)
	alice.task(project, "two")
	alice.get("/api/v1/projects/"+project+"/stats").is("tasks", 2)
}

func TestASeriesGoesOnWhenItsTaskIsDone(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ts.startWorking()
	alice := ts.signUp("Alice")
	project := alice.project("Launch")
	today := time.Now().UTC()
	due := today.AddDate(0, 0, 3).Format(time.DateOnly)
	task := alice.task(project, "Water the plants", `"recurrence":"FREQ=DAILY;INTERVAL=2"`, `"dueDate":"`+due+`"`, `"labels":["home"]`)
	alice.patch("/api/v1/tasks/"+task, `{"status":"done"}`).want(200)
	next := func() *answer { return alice.get("/api/v1/tasks?status=todo&projectId=" + project).want(200) }
	eventually(t, 30*time.Second, "the next task", func() bool { return len(next().strs("id")) == 1 })
	next().is("items.0.dueDate", today.AddDate(0, 0, 5).Format(time.DateOnly)).is("items.0.title", "Water the plants").is("items.0.labels.0", "home").is("items.0.number", 2)

	t.Run("reopening and doing it again makes no second", func(t *testing.T) {
		alice.patch("/api/v1/tasks/"+task, `{"status":"todo"}`).want(200)
		alice.patch("/api/v1/tasks/"+task, `{"status":"done"}`).want(200)
		eventually(t, 30*time.Second, "the job is done", func() bool { return ts.living() == 0 })
		if got := next().strs("id"); len(got) != 1 {
			t.Errorf("got %v", got)
		}
	})
	t.Run("an overdue one goes on from today", func(t *testing.T) {
		late := alice.task(project, "Late", `"recurrence":"FREQ=DAILY"`, `"dueDate":"2024-01-01"`)
		alice.patch("/api/v1/tasks/"+late, `{"status":"done"}`).want(200)
		eventually(t, 30*time.Second, "the next", func() bool {
			return slices.Contains(next().strs("dueDate"), time.Now().UTC().Format(time.DateOnly))
		})
	})
	t.Run("one without a due date gets one", func(t *testing.T) {
		undated := alice.task(project, "Undated", `"recurrence":"FREQ=WEEKLY;COUNT=3"`)
		for range 2 {
			alice.patch("/api/v1/tasks/"+undated, `{"status":"done"}`).want(200)
			eventually(t, 30*time.Second, "the next", func() bool {
				a := alice.get("/api/v1/tasks?status=todo&search=Undated&projectId=" + project).want(200)
				if len(a.strs("id")) != 1 {
					return false
				}
				undated = a.str("items.0.id")
				return a.str("items.0.dueDate") != ""
			})
		}
	})
	t.Run("a rule that is none is refused with what is wrong", func(t *testing.T) {
		alice.patch("/api/v1/tasks/"+task, `{"recurrence":"FREQ=HOURLY"}`).problem(422, "validation_failed").field("recurrence", "invalid_recurrence")
	})
}

func TestNoKindOfJobMindsABadPayload(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	nobody := newUUID().String()
	for _, kind := range ts.jobKinds() {
		for _, payload := range []string{
			`null`, `{}`, `[]`, `"x"`, `7`, `{"taskId":7}`, `{"kind":"task.assigned","userId":"x"}`, `{"unknown":"` + nobody + `"}`,
			// Of people, projects and tasks that are gone.
			`{"kind":"task.assigned","actorId":"` + newUUID().String() + `","userId":"` + nobody + `","taskId":"` + nobody + `","projectId":"` + nobody + `"}`,
			`{"kind":"member.added","actorId":"` + newUUID().String() + `","userId":"` + nobody + `","projectId":"` + nobody + `"}`,
		} {
			id := ts.enqueue(newJob{kind: kind.name, payload: json.RawMessage(payload)})
			ended := make(chan ending, 1)
			ts.outbox.runJob(t.Context(), job{ID: id, Kind: kind.name, Payload: []byte(payload), PushedAt: time.Now(), Attempt: 1}, func(e ending) { ended <- e })
			if e := <-ended; e.mode != "done" && (e.mode != "dead" || !strings.HasPrefix(e.err, "read payload: ")) {
				t.Errorf("%s of %s ended as %s: %s", kind.name, payload, e.mode, e.err)
			}
		}
	}
}

func TestJobsOfADeletedProjectAreDroppedAndTheirNeighboursFlowOn(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	alice, bob := ts.signUp("Alice"), ts.signUp("Bob")
	gone, kept := alice.project("Gone"), alice.project("Kept")
	for _, project := range []string{gone, kept} {
		alice.add(project, bob, roleMember)
		task := alice.task(project, "Ship", `"assigneeId":"`+bob.id+`"`, `"recurrence":"FREQ=DAILY"`)
		alice.patch("/api/v1/tasks/"+task, `{"status":"done"}`).want(200)
	}
	ts.exec(`DELETE FROM projects WHERE id = $1`, gone)
	ts.startWorking()
	eventually(t, 30*time.Second, "no job is left, not even a dead one", func() bool { return ts.living() == 0 })
	bob.get("/api/v1/notifications?total=true").want(200).is("total", 3) // that it is done, too
	alice.get("/api/v1/tasks?total=true&projectId="+kept).want(200).is("total", 2)
}

func TestAJobTooLargeToKeepIsRefusedWithAllThatCausesIt(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	alice := ts.signUp("Alice")
	project := alice.project("Launch")
	ts.subscribers = func(f fact) []newJob {
		return []newJob{{kind: "notification.fanout", payload: f}, {kind: "notification.fanout", payload: strings.Repeat("x", maxRowPayload)}}
	}
	before := alice.get("/api/v1/projects/" + project).want(200)
	alice.post("/api/v1/tasks", `{"projectId":"`+project+`","title":"Ship","assigneeId":"`+alice.id+`"}`).problem(413, "body_too_large")
	alice.get("/api/v1/tasks?total=true&projectId="+project).want(200).is("total", 0)
	if after := alice.get("/api/v1/projects/" + project); after.header.Get("ETag") != before.header.Get("ETag") || ts.living() != 0 {
		t.Errorf("%d jobs were kept, or the project changed:\n%s\n%s", ts.living(), before.body, after.body)
	}
}

// switchable is a proxy between the service and a store that can be switched off: then it takes
// connections and says nothing, so that whoever waits for the store waits for long.
type switchable struct {
	listener net.Listener
	mu       sync.Mutex
	off      bool
	open     []net.Conn
}

func newSwitchable(t *testing.T, target string) *switchable {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &switchable{listener: listener}
	t.Cleanup(func() { listener.Close(); s.set(true) })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			s.take(client, target)
		}
	}()
	return s
}

func (s *switchable) take(client net.Conn, target string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = append(s.open, client)
	if s.off {
		return
	}
	server, err := net.Dial("unix", target)
	if err != nil {
		client.Close()
		return
	}
	s.open = append(s.open, server)
	go func() { io.Copy(server, client); server.Close() }()
	go func() { io.Copy(client, server); client.Close() }()
}

// set switches off, or on again; either breaks all connections.
func (s *switchable) set(off bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.off = off
	for _, c := range s.open {
		c.Close()
	}
	s.open = nil
}

func TestWithoutRedisWritesAreAsFastAndJobsRunWhenItIsBack(t *testing.T) {
	t.Parallel()
	between := newSwitchable(t, strings.TrimPrefix(world.redisURL, "unix://"))
	ts := newTestServer(t, "REDIS_URL=redis://"+between.listener.Addr().String())
	ts.startWorking()
	alice, bob := ts.signUp("Alice"), ts.signUp("Bob")
	project := alice.project("Launch")
	alice.add(project, bob, roleMember)
	write := func(n int) time.Duration {
		var all []time.Duration
		for i := range n {
			start := time.Now()
			alice.task(project, fmt.Sprint("task ", i), `"assigneeId":"`+bob.id+`"`)
			all = append(all, time.Since(start))
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	with := write(50)
	between.set(true)
	without := write(10)
	if without > with+time.Second { // one that waited for Redis would take more than three seconds
		t.Errorf("a write takes %v without Redis, %v with", without, with)
	}
	t.Logf("median write %v with Redis, %v without", with, without)
	between.set(false)
	eventually(t, sweepEvery/2, "all jobs done", func() bool { return ts.living() == 0 })
	bob.get("/api/v1/notifications?total=true").want(200).is("total", 61)
}
