package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// keyed is a client whose next request has an Idempotency-Key.
func (c *client) keyed(key string) *client { return c.with("Idempotency-Key", key) }

// wantReplay fails the test unless an answer is another once more.
func wantReplay(t testing.TB, first, again *answer) {
	t.Helper()
	if again.header.Get("Idempotency-Replayed") != "true" || first.header.Get("Idempotency-Replayed") != "" {
		t.Errorf("%.200s: got Idempotency-Replayed %q, then %q", first.what, first.header.Get("Idempotency-Replayed"), again.header.Get("Idempotency-Replayed"))
	}
	if first.status != again.status || !bytes.Equal(first.body, again.body) {
		t.Errorf("%.200s: got %d %s, then %d %s", first.what, first.status, first.body, again.status, again.body)
	}
	for _, name := range []string{"Content-Type", "Location", "Etag", "Cache-Control"} {
		if first.header.Get(name) != again.header.Get(name) {
			t.Errorf("%.200s: got %s %q, then %q", first.what, name, first.header.Get(name), again.header.Get(name))
		}
	}
}

// count is the number of rows of a table.
func (ts *testServer) count(table string) int {
	ts.t.Helper()
	n, err := queryValue[int](ts.t.Context(), ts.db, "SELECT count(*) FROM "+table)
	if err != nil {
		ts.t.Fatal(err)
	}
	return n
}

func TestRepeatedRequests(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	body := func(title string) string {
		return `{"projectId":"` + sc.project + `","title":"` + title + `","assigneeId":"` + sc.member.id + `"}`
	}

	sc.run("get the first answer and have no effect", func(t *testing.T) {
		device := sc.owner.signIn()
		first := sc.owner.keyed("first").post("/api/v1/tasks", body("Once")).want(201)
		if first.header.Get("Location") != "/api/v1/tasks/"+first.str("id") || first.header.Get("ETag") != `"1"` {
			t.Errorf("got %v", first.header)
		}
		before := sc.state()
		for range 3 {
			wantReplay(t, first, sc.owner.keyed("first").post("/api/v1/tasks", body("Once")))
		}
		wantReplay(t, first, device.keyed("first").post("/api/v1/tasks", body("Once")))
		sc.unchanged(before, "a repetition")
		sc.owner.get("/api/v1/tasks?search=once&total=true").want(200).is("total", 1)
		sc.owner.get("/api/v1/tasks/"+first.str("id")+"/activity").want(200).is("items.1", nil)
	})
	sc.run("get the first answer also after the thing was changed and deleted", func(t *testing.T) {
		first := sc.owner.keyed("third").post("/api/v1/tasks", body("Thrice")).want(201)
		sc.owner.patch("/api/v1/tasks/"+first.str("id"), `{"title":"Renamed"}`).want(200)
		wantReplay(t, first, sc.owner.keyed("third").post("/api/v1/tasks", body("Thrice")))
		sc.owner.delete("/api/v1/tasks/" + first.str("id")).want(204)
		wantReplay(t, first, sc.owner.keyed("third").post("/api/v1/tasks", body("Thrice")))
	})
	sc.run("must be the same", func(t *testing.T) {
		before := sc.state()
		sc.owner.keyed("first").post("/api/v1/tasks", body("Another")).problem(422, "idempotency_key_reused")
		sc.owner.keyed("first").post("/api/v1/tasks", body("Once")+" ").problem(422, "idempotency_key_reused")
		sc.owner.keyed("first").post("/api/v1/projects", body("Once")).problem(422, "idempotency_key_reused")
		sc.owner.keyed("first").post("/api/v1/tasks/bulk", body("Once")).problem(422, "idempotency_key_reused")
		sc.unchanged(before, "a key used for something else")
	})
	sc.run("of others are their own", func(t *testing.T) {
		a := sc.member.keyed("first").post("/api/v1/tasks", body("Once")).want(201)
		if a.header.Get("Idempotency-Replayed") != "" {
			t.Error("a member got the owner's answer")
		}
		sc.outsider.keyed("first").post("/api/v1/tasks", body("Once")).problem(404, "not_found")
		sc.anonymous().keyed("first").post("/api/v1/tasks", body("Once")).problem(401, "unauthenticated")
	})
	sc.run("of what failed are tried again", func(t *testing.T) {
		before := sc.state()
		sc.owner.keyed("fourth").post("/api/v1/tasks", `{"projectId":"`+sc.project+`"}`).problem(422, "validation_failed")
		sc.owner.keyed("fourth").post("/api/v1/tasks", "{").problem(400, "malformed_json")
		sc.viewer.keyed("fourth").post("/api/v1/tasks", body("Not mine")).problem(403, "forbidden")
		sc.owner.keyed("fourth").post("/api/v1/tasks", strings.Replace(body("Nobody's"), sc.member.id, sc.outsider.id, 1)).problem(422, "validation_failed").field("assigneeId", "not_a_member")
		sc.owner.keyed("fourth").post("/api/v1/tasks", strings.Repeat(" ", maxBody)+body("Long")).problem(413, "body_too_large")
		sc.owner.keyed("fourth").with("Content-Type", "text/plain").post("/api/v1/tasks", body("Plain")).problem(415, "unsupported_media")
		sc.unchanged(before, "requests that failed")
		first := sc.owner.keyed("fourth").post("/api/v1/tasks", body("At last")).want(201)
		wantReplay(t, first, sc.owner.keyed("fourth").post("/api/v1/tasks", body("At last")))
	})
	sc.run("are only known for a day", func(t *testing.T) {
		first := sc.owner.keyed("fifth").post("/api/v1/tasks", body("Daily")).want(201)
		sc.sql("UPDATE idempotency_keys SET created_at = created_at - interval '23 hours'")
		wantReplay(t, first, sc.owner.keyed("fifth").post("/api/v1/tasks", body("Daily")))
		sc.sql("UPDATE idempotency_keys SET created_at = created_at - interval '61 minutes'")
		next := sc.owner.keyed("fifth").post("/api/v1/tasks", body("Daily")).want(201)
		if next.header.Get("Idempotency-Replayed") != "" || next.str("id") == first.str("id") {
			t.Errorf("a day later: got %v %s", next.header, next.body)
		}
		wantReplay(t, next, sc.owner.keyed("fifth").post("/api/v1/tasks", body("Daily")))
		kept := sc.count("idempotency_keys")
		if err := sc.runKeysPurge(t.Context(), job{}, &pgx.Batch{}); err != nil {
			t.Fatal(err)
		}
		if n := sc.count("idempotency_keys"); n != 1 || kept < 5 {
			t.Errorf("of %d keys %d are left, want the one of today", kept, n)
		}
		wantReplay(t, next, sc.owner.keyed("fifth").post("/api/v1/tasks", body("Daily")))
	})
}

func TestIdempotencyKeys(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ada := ts.signUp("Ada")
	for i, key := range []string{"a", strings.Repeat("k", maxKey), "8e03978e-40d5-43dd-bc93-6894a57f9324", "!#$%&'()*+,-./:;<=>?@[]^_`{|}~", "?1=:"} {
		first := ada.keyed(key).post("/api/v1/projects", fmt.Sprintf(`{"name":"Made %d"}`, i)).want(201)
		wantReplay(t, first, ada.keyed(`"`+key+`"`).post("/api/v1/projects", fmt.Sprintf(`{"name":"Made %d"}`, i))) // as the draft has it
	}
	before := ts.state()
	for _, key := range []string{"", " ", `""`, `"`, `"a`, `a"b`, `a\b`, "a b", strings.Repeat("k", maxKey+1), "ключ", "a\tb"} {
		ada.keyed(key).post("/api/v1/projects", `{"name":"Refused"}`).problem(400, "bad_parameter").field("Idempotency-Key", "invalid_key")
	}
	ada.keyed("a").keyed("b").post("/api/v1/projects", `{"name":"Refused"}`).problem(400, "bad_parameter").field("Idempotency-Key", "invalid_key")
	ts.unchanged(before, "a bad key")

	// Where nobody is signed in, and where repeating does no harm, the header means nothing.
	for range 2 {
		a := ts.anonymous().keyed("a").post(loginPath, jsonOf(credentials{ada.email, testPassword})).want(200)
		if a.header.Get("Idempotency-Replayed") != "" {
			t.Error("a sign-in was repeated")
		}
		ada.keyed("a").get("/api/v1/me").want(200)
		ada.keyed("a b").patch("/api/v1/me", `{"firstName":"Ada"}`).want(200)
	}
	if n := ts.count("idempotency_keys"); n != 5 {
		t.Errorf("got %d keys, want 5", n)
	}
}

// Every route that takes an Idempotency-Key is called twice with it.
func TestEveryPOSTCanBeRepeated(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	tried := 0
	for _, rt := range sc.routes() {
		if !strings.HasPrefix(rt.pattern, "POST ") || rt.who == anyone {
			continue
		}
		sc.run(rt.pattern, func(t *testing.T) {
			c := sc.admin.signIn()
			sent, key := samples[rt.pattern](sc, c), newUUID().String()
			first := c.keyed(key).post(sent.path, sent.body)
			if first.status >= 300 {
				t.Fatalf("got %d %s", first.status, first.body)
			}
			again := sc.admin.signIn() // signing out ended the session
			before := sc.state()
			wantReplay(t, first, again.keyed(key).post(sent.path, sent.body))
			sc.unchanged(before, "a repetition")
			other := sent.body + " "
			if isForm(sent.body) { // of which only what is in it counts
				other = formOf("note.txt", "another note")
			}
			again.keyed(key).post(sent.path, other).problem(422, "idempotency_key_reused")
			tried++
		})
	}
	if tried < 10 {
		t.Errorf("only %d routes tried", tried)
	}
}

func TestKeptAnswersAreSealed(t *testing.T) {
	t.Parallel()
	database := newTestDatabase(t)
	ts := startTestServer(t, database)
	ada := ts.signUp("Ada")
	project := ada.project("Launch")
	path, body := "/api/v1/projects/"+project+"/members", `{"email":"secret@example.org","role":"member"}`
	first := ada.keyed("invite").post(path, body).want(202)
	kept, err := queryAll[keptAnswer](t.Context(), ts.db, `SELECT fingerprint, answer FROM idempotency_keys`)
	if err != nil || len(kept) != 1 {
		t.Fatalf("got %d rows, %v", len(kept), err)
	}
	for _, text := range []string{first.str("token"), "secret@example.org", "invite", "status"} {
		if bytes.Contains(kept[0].Answer, []byte(text)) || bytes.Contains(kept[0].Fingerprint, []byte(text)) {
			t.Errorf("the database has %q in clear", text)
		}
	}
	old := strings.Repeat("test secret ", 4)
	for name, test := range map[string]struct {
		env    []string
		status int
	}{
		"the next secret, with the old one": {[]string{"JWT_SECRET=" + strings.Repeat("new secret! ", 4), "JWT_SECRET_PREVIOUS=" + old}, 202},
		"the next secret alone":             {[]string{"JWT_SECRET=" + strings.Repeat("new secret! ", 4)}, 422},
	} {
		t.Run(name, func(t *testing.T) {
			next := startTestServer(t, database, test.env...)
			c := (&client{s: next, email: ada.email}).signIn()
			a := c.keyed("invite").post(path, body).want(test.status)
			if test.status == 202 {
				wantReplay(t, first, a)
			} else if !strings.Contains(a.problem(422, "idempotency_key_reused").str("detail"), "JWT_SECRET") {
				t.Errorf("got %s", a.body)
			}
		})
	}
	t.Run("an answer put under another key", func(t *testing.T) {
		ts.t = t
		ada.keyed("other").post("/api/v1/projects", `{"name":"Other"}`).want(201)
		ts.sql(`UPDATE idempotency_keys o SET answer = i.answer FROM idempotency_keys i WHERE i.key <> o.key`)
		ada.keyed("invite").post(path, body).problem(422, "idempotency_key_reused")
	})
}

func TestRepeatedBulkChanges(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	a, b, foreign := sc.owner.task(sc.project, "A"), sc.owner.task(sc.project, "B"), sc.admin.task(sc.admin.project("Elsewhere"), "C")
	body := `{"ids":["` + a + `","` + foreign + `","` + b + `"],"set":{"status":"done"}}`

	sc.run("do what can be done, once", func(t *testing.T) {
		first := sc.owner.keyed("bulk").post("/api/v1/tasks/bulk", body).want(200).is("items.0.status", 200).is("items.1.status", 404).is("items.2.status", 200)
		sc.owner.get("/api/v1/tasks/"+b).want(200).is("status", "done")
		sc.owner.patch("/api/v1/tasks/"+b, `{"status":"todo"}`).want(200)
		before := sc.state()
		wantReplay(t, first, sc.owner.keyed("bulk").post("/api/v1/tasks/bulk", body))
		sc.unchanged(before, "a repeated bulk change")
		plain := sc.owner.post("/api/v1/tasks/bulk", body).want(200).is("items.1.status", 404) // without a key the same answers
		if slices.Contains(plain.header.Values("Idempotency-Replayed"), "true") {
			t.Error("a request without a key was a repetition")
		}
	})
	sc.run("only look, where they say so", func(t *testing.T) {
		dry := strings.Replace(body, `"set"`, `"dryRun":true,"set"`, 1)
		before, keys := sc.count("events"), sc.count("idempotency_keys")
		first := sc.owner.keyed("dry").post("/api/v1/tasks/bulk", dry).want(200).is("items.0.status", 200).is("items.1.status", 404)
		wantReplay(t, first, sc.owner.keyed("dry").post("/api/v1/tasks/bulk", dry))
		if sc.count("events") != before || sc.count("idempotency_keys") != keys+1 {
			t.Error("a dry run left something")
		}
	})
}

// The job that a keyed request causes exists with it, and is handed out once it is committed.
func TestRepeatedRequestsCauseTheirJobsOnce(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ts.startWorking()
	ada, bob := ts.signUp("Ada"), ts.signUp("Bob")
	project := ada.project("Launch")
	ada.add(project, bob, roleMember)
	body := `{"projectId":"` + project + `","title":"Tell Bob","assigneeId":"` + bob.id + `"}`
	first := ada.keyed("tell").post("/api/v1/tasks", body).want(201)
	soon(t, "both notifications", func() bool { return bob.get("/api/v1/notifications?total=true").want(200).num("total") == 2 })
	wantReplay(t, first, ada.keyed("tell").post("/api/v1/tasks", body))
	soon(t, "all jobs done", func() bool { return ts.living() == 0 })
	bob.get("/api/v1/notifications?total=true").want(200).is("total", 2)
}

func TestAnswersThatAreLost(t *testing.T) {
	t.Parallel()
	p, database := newProxy(t, newTestDatabase(t))
	ts := startTestServer(t, database)
	ada := ts.signUp("Ada")
	project := ada.project("Launch")
	body := func(title string) string { return `{"projectId":"` + project + `","title":"` + title + `"}` }
	only := func(title string) {
		ts.t.Helper()
		ada.get("/api/v1/tasks?search="+title+"&total=true").want(200).is("total", 1)
	}

	ts.run("because the client hung up", func(t *testing.T) {
		for range 10 {
			conn, err := net.Dial("tcp", ts.http.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			text := body("hungup")
			fmt.Fprintf(conn, "POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nIdempotency-Key: hungup\r\nContent-Length: %d\r\n\r\n%s", ada.token, len(text), text)
			conn.Close()
		}
		soon(t, "an answer", func() bool { return ada.keyed("hungup").post("/api/v1/tasks", body("hungup")).status == 201 })
		only("hungup")
	})
	ts.run("because the database went away", func(t *testing.T) {
		for i, cut := range []int{1, 200, 600, 900, 1200, 1500, 2000, 2500, 3000, 4000} {
			title := fmt.Sprint("cut", i)
			p.set(func() { p.cut = cut }) // new connections break after so many bytes
			p.kill()
			ada.keyed(title).post("/api/v1/tasks", body(title))
			p.set(func() { p.cut = 0 })
			p.kill()
			soon(t, "an answer", func() bool { return ada.keyed(title).post("/api/v1/tasks", body(title)).status == 201 })
			only(title)
		}
	})
}

func TestTransactionsThatGoOn(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	if _, err := execute(t.Context(), ts.db, `CREATE TABLE notes (text text)`); err != nil {
		t.Fatal(err)
	}
	note := func(ctx context.Context, text string) error {
		b := &pgx.Batch{}
		b.Queue(`INSERT INTO notes VALUES ($1)`, text)
		return ts.db.send(ctx, b)
	}
	refuse := func(ctx context.Context, code string) error {
		b := &pgx.Batch{}
		b.Queue(`INSERT INTO notes VALUES ('refused')`)
		b.Queue(`SELECT refuse($1)`, code)
		return ts.db.send(ctx, b)
	}
	notes := func() string {
		list, err := queryValue[string](t.Context(), ts.db, `SELECT coalesce(string_agg(text, ' ' ORDER BY text), '') FROM notes`)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	after := 0
	var seen []string
	err := ts.db.hold(t.Context(), func(ctx context.Context) error {
		afterCommit(ctx, func(ctx context.Context) {
			after++
			if heldOf(ctx) != nil {
				t.Error("after the commit the transaction still goes on")
			}
		})
		if err := note(ctx, "a"); err != nil {
			return err
		}
		if p, ok := errors.AsType[*problem](refuse(ctx, "forbidden")); !ok || p.Code != "forbidden" {
			t.Errorf("a part that fails: got %v", p)
		}
		err := ts.db.inTx(ctx, func(tx pgx.Tx) error {
			tx.Exec(ctx, `INSERT INTO notes VALUES ('undone')`)
			return errDryRun
		})
		if !errors.Is(err, errDryRun) {
			t.Errorf("got %v", err)
		}
		seen = append(seen, notes())
		return note(ctx, "b")
	})
	if err != nil || after != 1 || notes() != "a b" || !slices.Equal(seen, []string{""}) {
		t.Errorf("got %v, %d calls after it, %q; others saw %q meanwhile", err, after, notes(), seen)
	}
	err = ts.db.hold(t.Context(), func(ctx context.Context) error {
		afterCommit(ctx, func(context.Context) { after++ })
		return errors.Join(note(ctx, "c"), newProblem("forbidden", ""))
	})
	if err == nil || after != 1 || notes() != "a b" {
		t.Errorf("a whole that fails: got %v, %d calls after it, %q", err, after, notes())
	}
	attempts := 0
	err = ts.db.hold(t.Context(), func(ctx context.Context) error {
		attempts++
		afterCommit(ctx, func(context.Context) { after++ })
		if err := note(ctx, "d"); err != nil {
			return err
		}
		if attempts < 3 {
			_, err := execute(ctx, ts.db, `DO $$ BEGIN RAISE serialization_failure; END $$`)
			return err
		}
		return nil
	})
	if err != nil || attempts != 3 || after != 2 || notes() != "a b d" {
		t.Errorf("a whole that is tried again: got %v after %d tries, %d calls after it, %q", err, attempts, after, notes())
	}
	func() {
		defer func() { recover() }()
		ts.db.hold(t.Context(), func(ctx context.Context) error {
			note(ctx, "e")
			panic("on purpose")
		})
	}()
	if notes() != "a b d" || ts.db.pool.Stat().AcquiredConns() != 0 {
		t.Errorf("after a panic: %q, %d connections held", notes(), ts.db.pool.Stat().AcquiredConns())
	}
}

// Clients with keys repeat what they got no answer to, over processes that are killed: everything is
// there once.
func TestKeyedRequestsOverKilledProcesses(t *testing.T) {
	t.Parallel()
	env := serverEnv(t)
	p := launch(t, env)
	ada := p.signUp("Ada")
	project := ada.project("Launch")
	const writers, each = 4, 25
	var mu sync.Mutex
	address := p.http.URL
	send := func(title string) bool {
		mu.Lock()
		url := address
		mu.Unlock()
		req, err := http.NewRequest("POST", url+"/api/v1/tasks", strings.NewReader(`{"projectId":"`+project+`","title":"`+title+`"}`))
		if err != nil {
			return false
		}
		req.Header = http.Header{"Authorization": {"Bearer " + ada.token}, "Content-Type": {"application/json"}, "Idempotency-Key": {title}}
		resp, err := testHTTP.Do(req)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return err == nil && resp.StatusCode == 201
	}
	var all sync.WaitGroup
	var written sync.Map
	for i := range writers {
		all.Go(func() {
			for n := range each {
				title := fmt.Sprintf("task-%d-%d", i, n)
				for !send(title) {
					time.Sleep(10 * time.Millisecond)
				}
				written.Store(title, true)
			}
		})
	}
	finished := make(chan struct{})
	go func() { all.Wait(); close(finished) }()
	kills := 0
	for ended := false; !ended && kills < 3; kills++ {
		eventually(t, time.Minute, "some writing", func() bool {
			n := 0
			written.Range(func(any, any) bool { n++; return true })
			return n > kills*20
		})
		p.cmd.Process.Kill()
		<-p.ended
		p = launch(t, env)
		mu.Lock()
		address = p.http.URL
		mu.Unlock()
		select {
		case <-finished:
			ended = true
		default:
		}
	}
	<-finished
	c := p.as(ada)
	c.get("/api/v1/tasks?projectId="+project+"&total=true").want(200).is("total", writers*each)
	titles := c.pagesOf("/api/v1/tasks?projectId="+project+"&sort=title", 100, "title")
	slices.Sort(titles)
	if n := len(slices.Compact(titles)); n != writers*each {
		t.Errorf("got %d different tasks after %d kills, want each of %d once", n, kills, writers*each)
	}
	t.Logf("%d tasks over %d kills", len(titles), kills)
}
