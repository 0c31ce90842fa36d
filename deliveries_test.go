package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Many processes make deliveries while many clients write: each event becomes one delivery.
func TestEachEventBecomesOneDelivery(t *testing.T) {
	t.Parallel()
	database := newTestDatabase(t)
	ts, other := startTestServer(t, database), startTestServer(t, database)
	alice := ts.signUp("Alice")
	const projects, writes = 3, 40
	var ids [projects]string
	for i := range ids {
		ids[i] = alice.project(fmt.Sprint("Project ", i))
		alice.webhook(ids[i], fmt.Sprintf("https://hooks%d.example.org", i), "*")
		alice.webhook(ids[i], fmt.Sprintf("https://hooks%d.example.org", i), "task.created", "nothing.yet")
	}
	var making, writing sync.WaitGroup
	over := make(chan struct{})
	for i := range 4 {
		making.Go(func() {
			for {
				if _, err := []*testServer{ts, other}[i%2].startDeliveries(t.Context()); err != nil {
					t.Error(err)
				}
				select {
				case <-over:
					return
				case <-time.After(time.Millisecond):
				}
			}
		})
	}
	for _, id := range ids {
		writing.Go(func() {
			c := alice.again()
			for i := range writes {
				task := c.task(id, fmt.Sprint("Task ", i))
				c.patch("/api/v1/tasks/"+task, `{"priority":"high"}`).want(200)
			}
		})
	}
	writing.Wait()
	close(over)
	making.Wait()
	for ts.number(`SELECT count(*) FROM webhooks w JOIN projects p ON p.id = w.project_id WHERE w.seq < p.seq`) > 0 {
		if _, err := ts.startDeliveries(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for name, sql := range map[string]string{
		"events without their delivery": `
			SELECT count(*) FROM webhooks w JOIN events e ON e.scope = w.project_id AND e.seq > 2 AND (w.events = '{*}' AND e.seq > 3 OR e.kind = 'task.created')
			WHERE (SELECT count(*) FROM deliveries d WHERE d.webhook_id = w.id AND (d.body::json -> 'data' ->> 'seq')::bigint = e.seq) <> 1`,
		"deliveries too many":            `SELECT count(*) - 3 * 40 * 3 - 3 FROM deliveries`, // two events, of which one is for both; and the second webhook's making
		"deliveries begun without a job": `SELECT count(*) FROM deliveries d WHERE state = 'sending' AND NOT EXISTS (SELECT FROM jobs j WHERE j.id = d.job_id AND j.payload ->> 'deliveryId' = d.id::text)`,
		"jobs of no delivery":            `SELECT count(*) FROM jobs WHERE kind = 'webhook.deliver' AND id NOT IN (SELECT job_id FROM deliveries WHERE state = 'sending')`,
		"webhooks with too much begun":   `SELECT count(*) FROM (SELECT FROM deliveries WHERE state = 'sending' GROUP BY webhook_id HAVING count(*) <> 4) x`,
	} {
		if n := ts.number(sql); n != 0 {
			t.Errorf("%d %s", n, name)
		}
	}
}

// A receiver that is slow or fails gets one request at a time, and holds up no other.
func TestASlowReceiverHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	for name, status := range map[string]int{"that is slow": http.StatusOK, "that fails": http.StatusBadGateway} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ts := newHookServer(t)
			ts.egress.timeout = time.Minute
			alice := ts.signUp("Alice")
			project := alice.project("Launch")
			release := make(chan struct{})
			slow := newReceiver(t, func(_ int, w http.ResponseWriter, r *http.Request) {
				select {
				case <-release:
				case <-r.Context().Done():
				}
				w.WriteHeader(status)
			})
			quick := newReceiver(t, nil)
			id, _ := alice.webhook(project, slow.URL, "task.created")
			alice.webhook(project, quick.URL, "task.created")
			for i := range 12 {
				alice.task(project, fmt.Sprint("Task ", i))
			}
			sending := func() int {
				return ts.number(`SELECT count(*) FROM deliveries WHERE state = 'sending' AND webhook_id = $1::text::uuid`, id)
			}
			ts.startDelivering()
			quick.await(12)
			slow.await(underWay)
			began := time.Now()
			if n := sending(); n != underWay {
				t.Errorf("%d requests are under way at first", n)
			}
			eventually(t, time.Minute, "it is slow", func() bool { return time.Since(began) > slowAfter })
			for range underWay {
				release <- struct{}{}
			}
			slow.await(underWay + 1)
			if n := sending(); n != 1 {
				t.Errorf("%d requests are under way then", n)
			}
			close(release)
		})
	}
}

func TestDeliveriesArePurgedAfterAMonth(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	alice := ts.signUp("Alice")
	project := alice.project("Launch")
	kept, _ := alice.webhook(project, "https://hooks.example.org", "*")
	gone, _ := alice.webhook(project, "https://hooks.example.org", "*")
	send := func(id string) string {
		return alice.post("/api/v1/webhooks/"+id+"/test", "").want(202).str("id")
	}
	old, fresh := send(kept), send(kept)
	send(gone)
	alice.delete("/api/v1/webhooks/" + gone).want(204)
	ts.runs("deliveries.purge", nil)
	if n := ts.count("deliveries"); n != 3 {
		t.Errorf("%d deliveries are left at first", n)
	}
	ts.sql(`UPDATE deliveries SET created_at = created_at - interval '31 days' WHERE id = $1::text::uuid`, old)
	ts.sql(`UPDATE deliveries SET created_at = created_at - interval '61 minutes' WHERE id <> $1::text::uuid`, old)
	ts.runs("deliveries.purge", nil)
	if n := ts.count("deliveries"); n != 1 {
		t.Errorf("%d deliveries are left", n)
	}
	alice.get("/api/v1/deliveries/" + fresh).want(200)
	alice.get("/api/v1/deliveries/"+old).problem(404, "not_found")
}

// What was sent when its worker was killed is sent again, with the same id, and the log tells of one delivery.
func TestAKilledWorkersDeliveryIsSentAgain(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{}, 10)
	hang := make(chan struct{})
	rec := newReceiver(t, func(n int, w http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		if n == 1 {
			<-hang
		}
	})
	env := serverEnv(t, "WEBHOOK_ALLOW_NETWORKS=127.0.0.1/32", "HTTP_PROXY=http://127.0.0.1:1", "LOG_LEVEL=info") // a proxy is not asked
	api, worker := launch(t, env, "-role=api"), launch(t, env, "-role=worker")
	alice := api.signUp("Alice")
	project := alice.project("Launch")
	id, secret := alice.webhook(project, rec.URL, "task.created")
	alice.task(project, "Ship")
	select {
	case <-arrived:
	case <-time.After(2 * time.Minute):
		t.Fatalf("nothing was sent: %s", worker.log)
	}
	worker.cmd.Process.Kill()
	worker.end(time.Minute)
	close(hang)
	launch(t, env, "-role=worker")
	got := rec.await(2)
	if got[0].id() != got[1].id() || got[0].body != got[1].body || len(got[1].signatures(t, secret)) != 1 {
		t.Errorf("first %v, then %v", got[0], got[1])
	}
	alice.delivered(got[0].id(), "delivered").is("attempts", 1)
	alice.get("/api/v1/webhooks/"+id+"/deliveries?total=true").want(200).is("total", 1)
}

// Many webhooks to one host that does not answer take few of the workers, and hold up no other host.
func TestASlowHostHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	ts := newHookServer(t)
	ts.deliveries.retries = slices.Repeat([]time.Duration{time.Millisecond}, 1000)
	ts.egress.timeout = 100 * time.Millisecond
	alice := ts.signUp("Alice")
	hanging := newReceiver(t, func(_ int, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	other := newReceiver(t, nil)
	elsewhere := strings.Replace(other.URL, "127.0.0.1", "localhost", 1)
	const hangers = 10 // in each project
	var projects []string
	for i := range 2 {
		project := alice.project(fmt.Sprint("Launch ", i))
		for n := range hangers {
			alice.webhook(project, hanging.URL+fmt.Sprint("/", n), "task.created")
		}
		projects = append(projects, project)
	}
	alice.webhook(projects[0], elsewhere, "task.created")
	alice.webhook(projects[1], other.URL, "task.created") // at the host, but not in trouble
	for i := range 6 {
		alice.task(projects[i%2], fmt.Sprint("Task ", i))
	}
	sending := func(condition string) int {
		return ts.number(`SELECT count(*) FROM deliveries d JOIN webhooks w ON w.id = d.webhook_id WHERE d.state = 'sending' AND ` + condition)
	}
	for range 8 { // nobody works yet; each look reads for ten webhooks, and does not start more than before
		if _, err := ts.startDeliveries(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if at, away := sending(`w.url LIKE '%127.0.0.1%'`), sending(`w.url LIKE '%localhost%'`); at != hostUnderWay || away != 3 {
		t.Errorf("%d requests to the host are under way at first, %d to the other", at, away)
	}
	ts.startDelivering()
	other.await(6)
	inTroubleThere := `w.failing_since IS NOT NULL AND w.url LIKE '` + hanging.URL + `/%'` // on a busy machine others may be, too
	eventually(t, time.Minute, "all that hang are in trouble", func() bool {
		return ts.number(`SELECT count(*) FROM webhooks w WHERE `+inTroubleThere) == 2*hangers
	})
	eventually(t, time.Minute, "what was begun before is over", func() bool { return sending(inTroubleThere) <= hostInTrouble })
	for range 50 {
		if n := sending(inTroubleThere); n > hostInTrouble {
			t.Fatalf("%d requests to the host are under way", n)
		}
		time.Sleep(5 * time.Millisecond)
	}
	alice.task(projects[1], "One more") // arrives although the others at the host are in trouble
	other.await(7)
}

// What an operator does to the jobs that send deliveries shows in these, and is not for good.
func TestADeliveryWhoseJobIsGoneHasFailed(t *testing.T) {
	t.Parallel()
	ts := newHookServer(t)
	rec := newReceiver(t, nil)
	root, alice := ts.signUp("Root"), ts.signUp("Alice")
	project := alice.project("Launch")
	alice.webhook(project, rec.URL, "task.created")
	var ids, jobs []string
	for i := range 2 {
		alice.task(project, fmt.Sprint("Task ", i))
	}
	if _, err := ts.startDeliveries(t.Context()); err != nil { // nobody works yet
		t.Fatal(err)
	}
	rows, err := queryAll[struct{ ID, Job string }](t.Context(), ts.db, `SELECT id::text, job_id::text AS job FROM deliveries WHERE state = 'sending' ORDER BY id`)
	if err != nil || len(rows) != 2 {
		t.Fatalf("got %v, %v", rows, err)
	}
	for _, row := range rows {
		ids, jobs = append(ids, row.ID), append(jobs, row.Job)
	}
	root.delete("/api/v1/admin/jobs/" + jobs[0]).want(204)
	ts.sql(`UPDATE jobs SET dead_at = clock_timestamp(), error = 'crashed' WHERE id = $1::text::uuid`, jobs[1])
	ts.startDelivering()
	alice.delivered(ids[0], "failed").is("error", "an operator deleted the job that sends it").is("attempts", 0).is("nextAttemptAt", nil)
	alice.delivered(ids[1], "failed").is("error", "the job that sends it failed; an operator can retry it")
	if got := rec.all(); len(got) != 0 {
		t.Fatalf("got %v", got)
	}
	alice.post("/api/v1/deliveries/"+ids[0]+"/redeliver", "").want(202)
	alice.delivered(ids[0], "delivered").is("error", nil)
	root.post("/api/v1/admin/jobs/"+jobs[1]+"/retry", "").want(204)
	alice.delivered(ids[1], "delivered").is("error", nil)
	if got := rec.await(2); got[0].id() != ids[0] || got[1].id() != ids[1] {
		t.Errorf("got %v", got)
	}
}
