package main

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

var (
	stormEvents = flag.Int("storm-events", 120, "events that TestNoNewsIsLostInAStorm makes; from 1000 on time is not moved in it")
	stormSeed   = flag.Uint64("storm-seed", 0, "what its chances begin with; 0 for another each time")
)

// newsStorm is a history that people, API processes and workers make while they are killed, and what
// those people and the peers saw of it.
type newsStorm struct {
	t        *testing.T
	seed     uint64
	server   *server // has the settings of the processes; it serves nothing
	env      []string
	people   []*client // the first owns the projects; every second has all kinds mailed
	projects []string
	secrets  map[string]string // of webhooks, by project
	mails    *mailServer
	hooks    *receiver

	mu        sync.Mutex
	processes []*process
	killed    []*process
	tasks     map[string]string // acknowledged: id by title
	open      []string          // ids of them that nobody has tried to move
	comments  map[string]bool   // ids
	moved     map[string]bool   // ids of tasks
	invited   map[string]bool   // addresses
	unknown   int               // requests without an answer
	requests  map[string]int    // of each delivery
	accepted  map[string]bool   // deliveries that were answered 204
}

// TestNoNewsIsLostInAStorm kills processes of the API and workers, and Redis, while people work, with
// webhooks whose receiver fails and a mail server that does. In the end what was acknowledged is in the
// change log; each event arrived at its webhook, under one id; each entry is in its inbox once; and what
// was to be mailed stands in a mail that has one Message-ID, however often it came.
func TestNoNewsIsLostInAStorm(t *testing.T) {
	t.Parallel()
	n := &newsStorm{t: t, seed: cmp.Or(*stormSeed, rand.Uint64()), secrets: map[string]string{}, tasks: map[string]string{}, comments: map[string]bool{},
		moved: map[string]bool{}, invited: map[string]bool{}, requests: map[string]int{}, accepted: map[string]bool{}}
	store := newRedisProcess(t)
	n.settle(store)
	random, began, kills, third := n.chance(0), time.Now(), 0, 0
	written := n.write()
	stopUpsetting := n.upsetMails()
	for during := true; during; kills++ {
		select {
		case <-written:
			during = false
		case <-time.After(n.pause(random)):
		}
		n.kill(n.victim(random, kills))
		if now := 3 * n.events() / *stormEvents; now > third {
			if third = now; third == 1 {
				store.kill()
				time.Sleep(300 * time.Millisecond)
				store.start()
			} else {
				n.flush(store)
			}
		}
		n.hurry()
	}
	wrote := time.Since(began)
	if !n.hurried() { // the mails of the last events are made up to three minutes later, in a storm as well
		for end := time.Now().Add(mailPause + time.Minute); time.Now().Before(end) && n.count(`SELECT count(*) FROM notifications WHERE by_mail AND mail_id IS NULL`) > 0; kills++ {
			time.Sleep(3 * n.pause(random))
			n.kill(n.victim(random, kills))
		}
	}
	stopUpsetting()
	calm := time.Now()
	for left := n.left(); left != ""; left = n.left() {
		if time.Since(calm) > 10*time.Minute {
			t.Fatalf("seed %d: not done after ten minutes: %s", n.seed, left)
		}
		time.Sleep(100 * time.Millisecond)
		n.hurry()
	}
	settled := time.Since(calm)
	n.checkLogs()
	n.checkHistory()
	t.Logf("seed %d: %d events acknowledged in %v, %d requests without an answer, %d kills of processes, one of Redis, one FLUSHALL; all done %v after the last",
		n.seed, n.events(), wrote.Round(time.Millisecond), n.unknown, kills, settled.Round(time.Millisecond))
	n.checkHooks()
	n.checkNotices()
}

// hurried tells whether time is moved instead of waited for.
func (n *newsStorm) hurried() bool { return *stormEvents < 1000 }

// chance is a source of it for one user of it.
func (n *newsStorm) chance(user uint64) *rand.Rand { return rand.New(rand.NewPCG(n.seed, user)) }

// victim is the process that dies next; each in turn where there are few kills.
func (n *newsStorm) victim(random *rand.Rand, kills int) int {
	if n.hurried() {
		return kills % len(n.processes)
	}
	return random.IntN(len(n.processes))
}

// pause is the time between two kills.
func (n *newsStorm) pause(random *rand.Rand) time.Duration {
	if n.hurried() {
		return 100 * time.Millisecond
	}
	return time.Second + time.Duration(random.IntN(1000))*time.Millisecond
}

// settle starts everything: processes, people who are in all projects, and a webhook of each project.
func (n *newsStorm) settle(store *redisProcess) {
	t := n.t
	roles, people, projects := []string{"api", "api", "worker", "worker", "worker"}, 40, 5
	if n.hurried() {
		roles, people, projects = []string{"api", "worker", "worker"}, 6, 2
	}
	n.mails = newMailServer(t)
	n.hooks = newReceiver(t, n.answer)
	n.env = serverEnv(t, "REDIS_URL="+store.url(), "PUBLIC_URL=https://tasks.example.org", "MAIL_FROM=TaskFlow <tasks@example.org>",
		"SMTP_URL=smtp://"+n.mails.listener.Addr().String(), "WEBHOOK_ALLOW_NETWORKS=127.0.0.1/32", "LOG_LEVEL=info", "DATABASE_MAX_CONNS=6", "TMPDIR="+os.TempDir())
	cfg, err := loadConfig("serve", nil, func(name string) (value string) {
		for _, pair := range n.env {
			if key, set, _ := strings.Cut(pair, "="); key == name {
				value = set // the last, as in an environment
			}
		}
		return value
	}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if n.server, err = newServer(t.Context(), cfg, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.server.close)
	for _, role := range roles {
		n.processes = append(n.processes, launch(t, n.env, "-role="+role))
	}
	api := n.processes[0]
	var everything []string
	for _, k := range noticeKinds {
		everything = append(everything, `{"kind":"`+k.name+`","inbox":true,"email":true}`)
	}
	for i := range people {
		c := api.signUp(fmt.Sprint("P", i))
		if n.people = append(n.people, c); i%2 == 1 {
			c.put(settingsPath, `{"kinds":[`+strings.Join(everything, ",")+`]}`).want(200)
		}
	}
	n.exec(`UPDATE users SET email_verified_at = clock_timestamp()`)
	for i := range projects {
		project := n.people[0].project(fmt.Sprint("Project ", i))
		for _, c := range n.people[1:] {
			n.people[0].add(project, c, roleMember)
		}
		_, n.secrets[project] = n.people[0].webhook(project, n.hooks.URL, "*")
		n.projects = append(n.projects, project)
	}
}

func (n *newsStorm) exec(sql string, args ...any) {
	n.t.Helper()
	if _, err := execute(n.t.Context(), n.server.db, sql, args...); err != nil {
		n.t.Fatal(err)
	}
}

func (n *newsStorm) count(sql string, args ...any) int {
	n.t.Helper()
	count, err := queryValue[int](n.t.Context(), n.server.db, sql, args...)
	if err != nil {
		n.t.Fatal(err)
	}
	return count
}

// kill ends a process without warning and puts another in its place.
func (n *newsStorm) kill(i int) {
	p := n.processes[i]
	p.cmd.Process.Kill()
	<-p.ended
	again := launch(n.t, n.env, p.cmd.Args[1:]...)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.killed = append(n.killed, p)
	n.processes[i] = again
}

func (n *newsStorm) flush(store *redisProcess) {
	client := redis.NewClient(&redis.Options{Network: "unix", Addr: store.socket})
	defer client.Close()
	if err := client.FlushAll(n.t.Context()).Err(); err != nil {
		n.t.Error(err)
	}
}

// hurry moves time where it is not waited for: the 15 s until a worker that is gone is noticed, the 5 s
// until a failed delivery is tried again, and the minutes until a notification is mailed.
func (n *newsStorm) hurry() {
	if !n.hurried() {
		return
	}
	q, ctx := n.server.outbox.queue, n.t.Context()
	workers, _ := n.server.redis.ZRange(ctx, q.prefix+"workers", 0, -1).Result() // nothing while Redis is away
	for _, id := range workers {
		for _, p := range n.killed {
			if strings.Contains(id, fmt.Sprintf("-%d-", p.cmd.Process.Pid)) {
				n.server.redis.ZAddXX(ctx, q.prefix+"workers", redis.Z{Score: 1, Member: id})
			}
		}
	}
	n.exec(`UPDATE deliveries SET next_at = clock_timestamp() WHERE state = 'waiting' AND next_at > clock_timestamp()`)
	if err := n.server.runGather(ctx, job{PushedAt: later()}, nil); err != nil {
		n.t.Error(err)
	}
}

// answer is what the receiver of the webhooks does: it verifies, and of one delivery in eight the first
// request goes wrong.
func (n *newsStorm) answer(i int, w http.ResponseWriter, r *http.Request) {
	n.hooks.mu.Lock()
	got := n.hooks.got[i-1]
	n.hooks.mu.Unlock()
	project, _ := got.at(n.t, "data.project.id").(string)
	if len(got.signatures(n.t, n.secrets[project])) != 1 {
		n.t.Errorf("not signed: %v", got)
	}
	fate := fnv.New32()
	io.WriteString(fate, got.id())
	n.mu.Lock()
	n.requests[got.id()]++
	first := n.requests[got.id()] == 1
	n.mu.Unlock()
	switch luck := fate.Sum32() % 1000; {
	case first && luck < 80:
		w.WriteHeader(http.StatusInternalServerError)
		return
	case first && luck < 120:
		panic(http.ErrAbortHandler) // cuts the connection
	case first && luck < 125 && !n.hurried():
		<-r.Context().Done() // until the sender has had enough
		return
	}
	n.mu.Lock()
	n.accepted[got.id()] = true
	n.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

// upsetMails has the mail server refuse messages, and take them without a word, now and then.
func (n *newsStorm) upsetMails() (stop func()) {
	calm, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for random := n.chance(1); ; {
			for _, mood := range []string{"451 busy", "hang up", ""} {
				if mood == "" {
					n.mails.unset("message")
				} else {
					n.mails.set("message", mood)
				}
				select {
				case <-time.After(time.Duration(200+random.IntN(800)) * time.Millisecond):
				case <-calm:
					n.mails.unset("message")
					return
				}
			}
		}
	}()
	return func() {
		close(calm)
		<-ended
	}
}

// events is how many were acknowledged so far.
func (n *newsStorm) events() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.tasks) + len(n.comments) + len(n.moved) + len(n.invited)
}

// write has people work until there are enough events.
func (n *newsStorm) write() (done chan struct{}) {
	var writers sync.WaitGroup
	for i := range 6 {
		writers.Go(func() {
			random := n.chance(uint64(2 + i))
			for serial := 0; n.events() < *stormEvents && !n.t.Failed(); serial++ {
				n.act(random, fmt.Sprintf("%d-%d", i, serial))
				if !n.hurried() { // 5 000 in about three minutes
					time.Sleep(time.Duration(random.IntN(360)) * time.Millisecond)
				} else {
					time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond)
				}
			}
		})
	}
	done = make(chan struct{})
	go func() {
		writers.Wait()
		close(done)
	}()
	return done
}

// act is one thing that somebody does: he makes a task for another, moves one, comments on one, perhaps
// mentioning somebody, or invites somebody.
func (n *newsStorm) act(random *rand.Rand, name string) {
	who, other := n.people[random.IntN(len(n.people))], n.people[random.IntN(len(n.people))]
	project, task := n.projects[random.IntN(len(n.projects))], ""
	n.mu.Lock()
	if len(n.open) > 0 {
		task = n.open[random.IntN(len(n.open))]
	}
	n.mu.Unlock()
	switch luck := random.IntN(100); {
	case luck < 2:
		email := "guest-" + name + "@example.org"
		if n.call(n.people[0], "POST", "/api/v1/projects/"+project+"/members", jsonOf(map[string]string{"email": email, "role": "member"}), "", nil) {
			n.note(func() { n.invited[email] = true })
		}
	case luck < 35 || task == "":
		body := jsonOf(map[string]string{"projectId": project, "title": name, "assigneeId": other.id})
		key := ""
		if luck%2 == 0 {
			key = name // and then he asks until he knows
		}
		var made struct{ ID string }
		for tries := 0; ; tries++ {
			if n.call(who, "POST", "/api/v1/tasks", body, key, &made) {
				n.note(func() {
					n.tasks[name] = made.ID
					n.open = append(n.open, made.ID)
				})
				return
			}
			if key == "" || n.t.Failed() {
				return
			}
			if tries == 1000 {
				n.t.Errorf("%s was not made after %d tries", name, tries)
			}
			time.Sleep(20 * time.Millisecond)
		}
	case luck < 55:
		mine := false // once, as of several moves in a row only the last is told
		n.note(func() {
			for i, id := range n.open {
				if id == task {
					n.open[i] = n.open[len(n.open)-1]
					n.open, mine = n.open[:len(n.open)-1], true
					break
				}
			}
		})
		if mine && n.call(who, "PATCH", "/api/v1/tasks/"+task, `{"status":"review"}`, "", nil) {
			n.note(func() { n.moved[task] = true })
		}
	default:
		body := "I see. " + name
		if luck < 75 {
			body += " @[" + other.id + "]"
		}
		var made struct{ ID string }
		if n.call(who, "POST", "/api/v1/tasks/"+task+"/comments", jsonOf(newComment{body}), "", &made) {
			n.note(func() { n.comments[made.ID] = true })
		}
	}
}

func (n *newsStorm) note(what func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	what()
}

// call asks an API process and tells whether it acknowledged; if not, nobody knows.
func (n *newsStorm) call(as *client, method, path, body, key string, into any) bool {
	n.mu.Lock()
	var bases []string
	for _, p := range n.processes {
		if strings.HasSuffix(p.cmd.Args[1], "api") {
			bases = append(bases, p.http.URL)
		}
	}
	n.mu.Unlock()
	req, err := http.NewRequest(method, bases[rand.IntN(len(bases))]+path, strings.NewReader(body))
	if err != nil {
		n.t.Error(err)
		return false
	}
	req.Header.Set("Authorization", "Bearer "+as.token)
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	var text []byte
	resp, err := testHTTP.Do(req)
	if err == nil {
		text, err = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	if err != nil || resp.StatusCode == 503 || strings.Contains(string(text), `"idempotency_key_in_use"`) { // its first request died, and the database has yet to notice
		n.note(func() { n.unknown++ })
		return false
	}
	if resp.StatusCode >= 300 {
		n.t.Errorf("%s %s %s: %d %s", method, path, body, resp.StatusCode, text)
		return false
	}
	if into != nil {
		if err := json.Unmarshal(text, into); err != nil {
			n.t.Error(err)
		}
	}
	return true
}

// left is what is still to be done, "" for nothing.
func (n *newsStorm) left() string {
	for what, sql := range map[string]string{
		"jobs":          `SELECT count(*) FROM jobs WHERE dead_at IS NULL`,
		"deliveries":    `SELECT count(*) FROM deliveries WHERE state IN ('waiting', 'sending')`,
		"webhooks":      `SELECT count(*) FROM webhooks w JOIN projects p ON p.id = w.project_id WHERE w.seq < p.seq`,
		"notifications": `SELECT count(*) FROM notifications WHERE by_mail AND mail_id IS NULL`,
	} {
		if left := n.count(sql); left > 0 {
			return fmt.Sprint(left, " ", what)
		}
	}
	return ""
}

// checkLogs looks for what no process should have to say, and for jobs that were given up.
func (n *newsStorm) checkLogs() {
	for _, p := range append(n.killed, n.processes...) {
		if wrong := p.log.grep(`"level":"ERROR"`); wrong != "" {
			n.t.Errorf("in the log of %v: %s", p.cmd.Args[1], wrong)
		}
	}
	if dead, err := queryAll[struct{ Kind, Error string }](n.t.Context(), n.server.db, `SELECT kind, error FROM jobs WHERE dead_at IS NOT NULL`); err != nil || len(dead) > 0 {
		n.t.Errorf("jobs are dead: %v %v", dead, err)
	}
}

// loggedEvent is a row of the change log.
type loggedEvent struct {
	Scope   string
	Seq     int64
	Actor   *string
	Kind    string
	Subject string
	Changes string
}

func (n *newsStorm) history() []loggedEvent {
	events, err := queryAll[loggedEvent](n.t.Context(), n.server.db,
		`SELECT scope::text, seq, actor::text, kind, subject::text, changes::text FROM events WHERE scope = ANY ($1::text[]::uuid[]) ORDER BY scope, seq`, n.projects)
	if err != nil {
		n.t.Fatal(err)
	}
	return events
}

// to is what a change set a field to, as text.
func (e loggedEvent) to(field string) string {
	var changes map[string][2]any
	json.Unmarshal([]byte(e.Changes), &changes)
	text, _ := changes[field][1].(string)
	return text
}

// checkHistory looks for everything that was acknowledged in the change log, where it is once. No number
// in it is left out, and no request that was repeated had its effect twice.
func (n *newsStorm) checkHistory() {
	last, found := map[string]int64{}, map[string]int{}
	for _, e := range n.history() {
		if e.Seq != last[e.Scope]+1 {
			n.t.Errorf("%d comes after %d", e.Seq, last[e.Scope])
		}
		last[e.Scope] = e.Seq
		switch e.Kind {
		case "task.created":
			found["task "+e.Subject]++
			found["title "+e.to("title")]++
		case "comment.created":
			found["comment "+e.to("commentId")]++
		case "invitation.created":
			found["invited "+e.to("email")]++
		default:
			if e.to("status") == "review" {
				found["moved "+e.Subject]++
			}
		}
	}
	once := func(what string) {
		if found[what] != 1 {
			n.t.Errorf("acknowledged, and %d times in the log: %s", found[what], what)
		}
	}
	for title, id := range n.tasks {
		once("task " + id)
		once("title " + title)
	}
	for id := range n.comments {
		once("comment " + id)
	}
	for id := range n.moved {
		once("moved " + id)
	}
	for email := range n.invited {
		once("invited " + email)
	}
	for what, times := range found {
		if times != 1 {
			n.t.Errorf("%d times in the log: %s", times, what)
		}
	}
}

// checkHooks compares what the receiver got with the change log since the webhooks were made.
func (n *newsStorm) checkHooks() {
	type place struct {
		project string
		seq     int64
	}
	ids, bodies, again := map[place]string{}, map[string]string{}, 0
	for _, got := range n.hooks.all() {
		project, _ := got.at(n.t, "data.project.id").(string)
		seq, _ := got.at(n.t, "data.seq").(float64)
		at := place{project, int64(seq)}
		if ids[at] != "" {
			again++
		}
		if ids[at] != "" && ids[at] != got.id() || bodies[got.id()] != "" && bodies[got.id()] != got.body {
			n.t.Errorf("sent again as something else: %v as %s, %s", at, ids[at], got.body)
		}
		ids[at], bodies[got.id()] = got.id(), got.body
	}
	began, sent := map[string]bool{}, 0
	for _, e := range n.history() {
		if e.Kind == "webhook.created" {
			began[e.Scope] = true
			continue
		}
		if !began[e.Scope] {
			continue
		}
		sent++
		id := ids[place{e.Scope, e.Seq}]
		if !n.accepted[id] {
			n.t.Errorf("event %d of %s did not arrive (%q, %d requests)", e.Seq, e.Scope, id, n.requests[id])
			continue
		}
		var body struct {
			Type string
			Data struct {
				ActorID, SubjectID *string
				Changes            any
			}
		}
		var changes any
		if err := json.Unmarshal([]byte(bodies[id]), &body); err != nil {
			n.t.Error(err)
		}
		json.Unmarshal([]byte(e.Changes), &changes)
		if body.Type != e.Kind || !reflect.DeepEqual(body.Data.ActorID, e.Actor) || body.Data.SubjectID == nil || *body.Data.SubjectID != e.Subject || !reflect.DeepEqual(body.Data.Changes, changes) {
			n.t.Errorf("got %s of %+v", bodies[id], e)
		}
	}
	if len(ids) != sent || len(bodies) != sent {
		n.t.Errorf("%d ids of %d events came, want %d", len(bodies), len(ids), sent)
	}
	if left := n.count(`SELECT count(*) FROM deliveries WHERE state <> 'delivered' OR attempts < 1`); left > 0 || n.count(`SELECT count(*) FROM deliveries`) != sent {
		n.t.Errorf("%d deliveries are not as they went", left)
	}
	n.t.Logf("%d events at the webhooks' receiver, %d requests more", sent, again)
}

// notice is an entry that must be in an inbox.
type notice struct{ User, Kind, Task, Comment string }

// wanted is who must be told what, by hand: a task's maker, assignee and whom a comment mentions, but nobody of what
// he did himself.
func (n *newsStorm) wanted() map[notice]int {
	type made struct {
		ID, CreatedBy string
		AssigneeID    *string
	}
	tasks, err := queryAll[made](n.t.Context(), n.server.db, `SELECT id::text, created_by::text, assignee_id::text FROM tasks`)
	if err != nil {
		n.t.Fatal(err)
	}
	want, byID := map[notice]int{}, map[string]made{}
	tell := func(actor string, entry notice) {
		if entry.User != actor {
			want[entry] = 1
		}
	}
	for _, task := range tasks {
		byID[task.ID] = task
		tell(task.CreatedBy, notice{*task.AssigneeID, "task.assigned", task.ID, ""})
	}
	for _, e := range n.history() {
		if e.Kind != "task.created" && e.to("status") == "review" {
			tell(*e.Actor, notice{byID[e.Subject].CreatedBy, "task.status_changed", e.Subject, ""})
			tell(*e.Actor, notice{*byID[e.Subject].AssigneeID, "task.status_changed", e.Subject, ""})
		}
	}
	comments, err := queryAll[struct{ ID, TaskID, AuthorID, Body string }](n.t.Context(), n.server.db, `SELECT id::text, task_id::text, author_id::text, body FROM comments`)
	if err != nil {
		n.t.Fatal(err)
	}
	for _, c := range comments {
		_, mentioned, _ := strings.Cut(strings.TrimSuffix(c.Body, "]"), "@[")
		if mentioned != "" {
			tell(c.AuthorID, notice{mentioned, "comment.mentioned", c.TaskID, c.ID})
		}
		for _, follower := range []string{byID[c.TaskID].CreatedBy, *byID[c.TaskID].AssigneeID} {
			if follower != mentioned {
				tell(c.AuthorID, notice{follower, "comment.created", c.TaskID, c.ID})
			}
		}
	}
	return want
}

// checkNotices compares inboxes and mails with what must be in them.
func (n *newsStorm) checkNotices() {
	want, got, added := n.wanted(), map[notice]int{}, 0
	byMail := map[string]bool{} // kinds that are mailed where nobody set anything
	for _, k := range noticeKinds {
		byMail[k.name] = k.email
	}
	mails := n.readMails()
	var api *process
	for _, p := range n.processes {
		if strings.HasSuffix(p.cmd.Args[1], "api") {
			api = p
		}
	}
	for i, c := range n.people {
		for next := ""; ; {
			page := api.as(c).get("/api/v1/notifications?limit=100" + next).want(200)
			items, _ := page.at("items").([]any)
			for _, each := range items {
				item := each.(map[string]any)
				if item["kind"] == "member.added" {
					added++
					continue
				}
				comment, _ := item["detail"].(map[string]any)["commentId"].(string)
				got[notice{c.id, item["kind"].(string), item["taskId"].(string), comment}]++
			}
			if page.at("next") == nil {
				break
			}
			next = "&cursor=" + page.str("next")
		}
		rows, err := queryAll[struct {
			Kind, Title string
			ByMail      bool
			MailID      *string
		}](n.t.Context(), n.server.db, `
			SELECT n.kind, coalesce(t.title, '') AS title, n.by_mail, n.mail_id::text FROM notifications n LEFT JOIN tasks t ON t.id = n.task_id WHERE n.user_id = $1 ORDER BY n.id`, c.id)
		if err != nil {
			n.t.Fatal(err)
		}
		lines := map[string]int{}
		for _, row := range rows {
			if wants := i%2 == 1 || byMail[row.Kind]; row.ByMail != wants {
				n.t.Errorf("%s of %s: to be mailed is %v", row.Kind, c.email, row.ByMail)
			}
			if !row.ByMail {
				continue
			}
			m, arrived := mails[*row.MailID]
			if lines[*row.MailID]++; !arrived || m.header.Get("To") != "<"+c.email+">" || lines[*row.MailID] <= maxNoticeLines && !strings.Contains(m.text, row.Title) {
				n.t.Errorf("%s “%s” to %s does not stand in mail %s: %+v", row.Kind, row.Title, c.email, *row.MailID, m)
			}
		}
		for id, told := range lines {
			hidden := 0
			if _, rest, more := strings.Cut(mails[id].text, "\nAnd "); more {
				fmt.Sscan(rest, &hidden)
			}
			if shown := strings.Count(mails[id].text, "\n- "); shown+hidden != told {
				n.t.Errorf("mail %s tells of %d and %d more, want %d", id, shown, hidden, told)
			}
			delete(mails, id)
		}
	}
	if !reflect.DeepEqual(got, want) {
		for entry := range want {
			if got[entry] != 1 {
				n.t.Errorf("%d times in the inbox: %+v", got[entry], entry)
			}
		}
		for entry := range got {
			if want[entry] == 0 {
				n.t.Errorf("nobody should be told %+v", entry)
			}
		}
	}
	if members := (len(n.people) - 1) * len(n.projects); added != members {
		n.t.Errorf("%d were told that they are members, want %d", added, members)
	}
	for id, m := range mails {
		n.t.Errorf("nobody should get mail %s: %+v", id, m)
	}
	n.t.Logf("%d entries in %d inboxes", len(got)+added, len(n.people))
}

// readMails are the mails of notifications that came, by id, after a look at all mails: each that came more than
// once is the same to the byte, and each account and invitation got its own.
func (n *newsStorm) readMails() map[string]readMail {
	raws, notices, others := map[string]string{}, map[string]readMail{}, map[string]string{}
	for _, taken := range n.mails.taken() {
		m := readMailOf(n.t, taken.raw)
		id := m.header.Get("Message-Id")
		if raws[id] != "" && raws[id] != taken.raw {
			n.t.Errorf("came again as another: %s\n%s", raws[id], taken.raw)
		}
		raws[id] = taken.raw
		if m.header.Get("List-Unsubscribe") != "" {
			notices[strings.Trim(strings.TrimSuffix(id, "@example.org>"), "<")] = m
			continue
		}
		if others[taken.to] != "" && others[taken.to] != id {
			n.t.Errorf("%s got two mails", taken.to)
		}
		others[taken.to] = id
	}
	for _, c := range n.people {
		if others[c.email] == "" {
			n.t.Errorf("%s got no mail to confirm the address", c.email)
		}
	}
	for email := range n.invited {
		if others[email] == "" {
			n.t.Errorf("%s got no invitation", email)
		}
	}
	n.t.Logf("%d mails, of which %d came more than once", len(raws), len(n.mails.taken())-len(raws))
	return notices
}
