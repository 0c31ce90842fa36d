package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	eventsPath = "/api/v1/events"
	ticketPath = "/api/v1/events/ticket"
	rightsTime = 10 * time.Second // for what takes a second on a machine that does nothing else
)

// told is one server-sent event.
type told struct {
	kind, id, data string
}

// event is the entry of the log that the message tells of.
func (m told) event(t testing.TB) (e event) {
	t.Helper()
	var in struct {
		Scope, SubjectID uuid
		ActorID          *uuid
		Seq              int64
		Kind             string
		Changes          json.RawMessage
	}
	if err := json.Unmarshal([]byte(m.data), &in); err != nil || m.kind != "" {
		t.Fatalf("%+v is no entry of a log: %v", m, err)
	}
	return event{Scope: in.Scope, Seq: in.Seq, ActorID: in.ActorID, Kind: in.Kind, Subject: in.SubjectID, Changes: in.Changes}
}

// listening is a client that reads a stream.
type listening struct {
	t        testing.TB
	cut      context.CancelFunc
	header   http.Header
	messages chan told
	retry    atomic.Int64 // ms, as told last
	comments atomic.Int64
	all      lockedBuffer // every byte
	last     string       // id of the last message taken
}

// streams is a client for streams, which take as long as they take.
var streams = &http.Client{Transport: testHTTP.Transport}

// listen opens a stream with the client's token and waits until it is whole.
func (c *client) listen(query, last string) *listening {
	c.s.t.Helper()
	req, err := http.NewRequest("GET", c.s.http.URL+eventsPath+query, nil)
	if err != nil {
		c.s.t.Fatal(err)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	l := c.s.open(streams, req)
	if m := l.next(); m.kind != "ready" {
		c.s.t.Fatalf("got %+v, want ready", m)
	}
	return l
}

// open starts to read a stream.
func (ts *testServer) open(by *http.Client, req *http.Request) *listening {
	ts.t.Helper()
	ctx, cut := context.WithCancel(context.Background())
	resp, err := by.Do(req.WithContext(ctx))
	if err != nil {
		cut()
		ts.t.Fatal(err)
	}
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		body, _ := io.ReadAll(resp.Body)
		cut()
		ts.t.Fatalf("%s: got %d %s", req.URL, resp.StatusCode, body)
	}
	l := &listening{t: ts.t, header: resp.Header, messages: make(chan told, 1<<18)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		l.read(io.TeeReader(resp.Body, &l.all))
	}()
	l.cut = func() {
		cut()
		resp.Body.Close()
		<-read
	}
	ts.t.Cleanup(l.cut)
	return l
}

// read reads messages until the stream ends, as WHATWG HTML, section 9.2.6, has it.
func (l *listening) read(body io.Reader) {
	defer close(l.messages)
	var m told
	for lines := bufio.NewReader(body); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			m.kind = value
		case "id":
			m.id = value
		case "data":
			m.data += value
		case "retry":
			ms, _ := strconv.ParseInt(value, 10, 64)
			l.retry.Store(ms)
		case "":
			if line != "\n" {
				l.comments.Add(1)
			} else if m.data != "" {
				l.messages <- m
				m = told{}
			}
		}
	}
}

// next waits for a message.
func (l *listening) next() told {
	l.t.Helper()
	select {
	case m, ok := <-l.messages:
		if !ok {
			l.t.Fatalf("the stream has ended after\n%.2000s", l.all.String())
		}
		l.last = m.id
		return m
	case <-time.After(time.Minute):
		l.t.Fatalf("nothing more after\n%.2000s", l.all.String())
		return told{}
	}
}

// until takes messages up to one of a kind, of the stream's own or of the log.
func (l *listening) until(kind string) told {
	l.t.Helper()
	for {
		m := l.next()
		if m.kind == kind || m.kind == "" && m.event(l.t).Kind == kind {
			return m
		}
	}
}

// twoServers are processes that share everything.
func twoServers(t *testing.T, env ...string) (*testServer, *testServer) {
	t.Helper()
	one := newTestServer(t, env...)
	return one, startTestServer(t, one.config.databaseURL, env...)
}

// at is the same client at another server.
func (c *client) at(ts *testServer) *client {
	return &client{s: ts, token: c.token, refresh: c.refresh, id: c.id, email: c.email}
}

// logged is the log of scopes from the database, as "scope seq kind".
func (ts *testServer) logged(scopes ...string) []string {
	ts.t.Helper()
	rows, err := queryAll[struct{ Line string }](ts.t.Context(), ts.db, `
		SELECT concat_ws(' ', scope, seq, kind, subject, changes) AS line FROM events WHERE scope = ANY ($1::text[]::uuid[]) ORDER BY scope, seq`, scopes)
	if err != nil {
		ts.t.Fatal(err)
	}
	var lines []string
	for _, row := range rows {
		lines = append(lines, row.Line)
	}
	return lines
}

// TestStreamsLoseAndRepeatNothing cuts a client off again and again, while others write, and has it go
// on at another process each time.
func TestStreamsLoseAndRepeatNothing(t *testing.T) {
	t.Parallel()
	one, two := twoServers(t)
	ada, bob := one.signUp("Ada"), one.signUp("Bob")
	scopes := []string{ada.id}
	for i := range 3 {
		id := bob.project(fmt.Sprintf("Project %d", i))
		bob.add(id, ada, roleMember)
		scopes = append(scopes, id)
	}
	slices.Sort(scopes)
	for name, query := range map[string]string{"of everything": "", "of one project": "?projectId=" + scopes[0], "of two projects": "?projectId=" + scopes[1] + "," + scopes[2]} {
		query = strings.Replace(query, ada.id, scopes[3], 1)
		t.Run(name, func(t *testing.T) {
			var followed []string
			for _, id := range scopes {
				if query == "" || strings.Contains(query, id) {
					followed = append(followed, id)
				}
			}
			first := ada.listen(query, "")
			got, last := one.logged(followed...), first.last // from here on the stream tells
			first.cut()

			ctx, stop := context.WithCancel(t.Context())
			var writing sync.WaitGroup
			for i, project := range scopes {
				if project == ada.id {
					continue
				}
				writing.Go(func() {
					for n := 0; ctx.Err() == nil; n++ {
						c := bob.at([]*testServer{one, two}[(n+i)%2])
						c.post("/api/v1/tasks", fmt.Sprintf(`{"projectId":"%s","title":"Task %d"}`, project, n))
						time.Sleep(rand.N(10 * time.Millisecond))
					}
				})
			}
			seen := 0
			for cuts := range 20 {
				from, header := query, last
				if cuts%3 == 0 { // as who cannot send the header
					header, from = "", query+map[bool]string{true: "?", false: "&"}[query == ""]+"lastEventId="+url.QueryEscape(last)
				}
				l := ada.at([]*testServer{one, two}[cuts%2]).listen(from, header)
				for range rand.N(20) {
					m := l.next()
					got, last = append(got, lineOf(t, m)), m.id
					seen++
				}
				l.cut()
			}
			stop()
			writing.Wait()
			ada.patch("/api/v1/me", fmt.Sprintf(`{"firstName":"Ada %d"}`, rand.N(1<<30))).want(200)
			want := one.logged(followed...)
			l := ada.at(two).listen(query, last)
			for len(got) < len(want) {
				got = append(got, lineOf(t, l.next()))
			}
			slices.SortStableFunc(got, func(a, b string) int { return strings.Compare(a[:36], b[:36]) })
			if !slices.Equal(got, want) {
				for i := range want {
					if got[i] != want[i] {
						t.Fatalf("entry %d is %s, want %s", i, got[i], want[i])
					}
				}
			}
			if seen < 20 {
				t.Errorf("only %d events came before the last time", seen)
			}
		})
	}
}

// lineOf is a message as logged has it.
func lineOf(t testing.TB, m told) string {
	t.Helper()
	e := m.event(t)
	var changes any
	if err := json.Unmarshal(e.Changes, &changes); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s %d %s %s %s", e.Scope, e.Seq, e.Kind, e.Subject, withSpaces(e.Changes))
}

// withSpaces is JSON with the spaces that PostgreSQL writes.
func withSpaces(text []byte) string {
	var out strings.Builder
	quoted := false
	for i, c := range text {
		if c == '"' && (i == 0 || text[i-1] != '\\') {
			quoted = !quoted
		}
		out.WriteByte(c)
		if !quoted && (c == ':' || c == ',') {
			out.WriteByte(' ')
		}
	}
	return out.String()
}

func TestStreamsHearOfOtherProcessesWithoutLooking(t *testing.T) {
	t.Parallel()
	one, two := twoServers(t)
	two.hub.poll = func(context.Context, []uuid, []int64) ([]uuid, error) { return nil, nil }
	ada := one.signUp("Ada")
	project := ada.project("Told")
	l := ada.at(two).listen("?projectId="+project, "")
	eventually(t, time.Minute, "both share a cache", func() bool { st := one.cache.lease.now(); return !st.alone && st.trusted(time.Now()) })
	for n := range 5 {
		task := ada.task(project, fmt.Sprintf("Task %d", n))
		if got := l.until("task.created").event(t).Subject.String(); got != task {
			t.Errorf("got %s, want %s", got, task)
		}
	}
}

func TestStreamsWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	p, address := newRedisProxy(t)
	one := newTestServer(t)
	two := startTestServer(t, one.config.databaseURL, "REDIS_URL="+address)
	ada, bob := one.signUp("Ada"), one.signUp("Bob")
	project := ada.project("Quiet")
	ada.add(project, bob, roleMember)
	l := bob.at(two).listen("", "")
	p.set(func() { p.down = true })
	p.kill()
	task := ada.task(project, "Unheard")
	if got := l.until("task.created").event(t).Subject.String(); got != task {
		t.Errorf("got %s, want %s", got, task)
	}
	two.anonymous().listen("?ticket="+bob.at(two).post(ticketPath, "").want(200).str("ticket"), "")
	ada.delete("/api/v1/projects/" + project + "/members/" + bob.id).want(204)
	l.until("project.left")
	p.set(func() { p.down = false })
	ada.add(project, bob, roleMember)
	l.until("project.joined")
	ada.task(project, "Heard")
	l.until("task.created")
}

// TestStreamsFollowRights changes rights at one process, and has a stream of another follow.
func TestStreamsFollowRights(t *testing.T) {
	t.Parallel()
	one, two := twoServers(t)
	root := one.signUp("Root")
	owner := one.signUp("Owner")
	secret := owner.project("Canary")
	word := "zyzzyva"

	// listener is somebody with a stream at the other process, who reads the project as this.
	listener := func(t *testing.T, role memberRole) (*client, *listening) {
		t.Helper()
		c := one.signUp("Guest")
		owner.add(secret, c, role)
		return c, c.at(two).listen("", "")
	}
	// silent fails the test if the stream tells anything more of the project.
	silent := func(t *testing.T, l *listening, c *client) {
		t.Helper()
		owner.task(secret, word)
		own := c.project("Mark") // comes after it, as its log is read after it
		for m := l.next(); !strings.Contains(m.data, own); m = l.next() {
			if strings.Contains(m.data, secret) && !strings.Contains(m.data, c.id) {
				t.Errorf("he is still told: %+v", m)
			}
		}
		time.Sleep(2 * pollEvery)
		if strings.Contains(l.all.String(), word) {
			t.Error("the stream tells what he may not read")
		}
	}
	within := func(t *testing.T, what string, began time.Time) {
		t.Helper()
		if took := time.Since(began); took > rightsTime {
			t.Errorf("%s took %v", what, took)
		} else {
			t.Logf("%s took %v", what, took)
		}
	}

	one.run("outsiders hear nothing, and no project of theirs", func(t *testing.T) {
		c := one.signUp("Outsider")
		for _, query := range []string{"?projectId=" + secret, "?projectId=" + newUUID().String(), "?projectId=" + c.id, "?projectId=" + owner.id, "?projectId=" + secret + "&lastEventId=" + secret + ":0"} {
			c.at(two).get(eventsPath+query).problem(404, "not_found")
		}
		own := c.project("Own")
		c.at(two).get(eventsPath+"?projectId="+own+","+secret).problem(404, "not_found")
		l := c.at(two).listen("", secret+":0")
		if m := l.next(); m.kind != "project.left" || strings.Contains(m.id, secret) {
			t.Errorf("got %+v, want project.left", m)
		}
		silent(t, l, c)
	})
	one.run("a removed member is told that he is, and nothing more", func(t *testing.T) {
		c, l := listener(t, roleMember)
		named := c.at(two).listen("?projectId="+secret, "")
		began := time.Now()
		owner.delete("/api/v1/projects/" + secret + "/members/" + c.id).want(204)
		left := l.until("project.left")
		within(t, "project.left", began)
		if !strings.Contains(left.data, secret) || strings.Contains(left.id, secret) {
			t.Errorf("got %+v", left)
		}
		named.until("project.left")
		silent(t, l, c)
		if strings.Contains(named.all.String(), word) {
			t.Error("the stream of the project tells what he may not read")
		}
		owner.add(secret, c, roleViewer)
		joined := named.until("project.joined")
		owner.task(secret, "For him")
		if got := named.next(); got.kind != "" || !strings.Contains(joined.data, fmt.Sprintf(`"seq":%d}`, got.event(t).Seq-1)) {
			t.Errorf("got %+v after %+v", got, joined)
		}
		l.until("project.joined")
	})
	one.run("whose role changes sees what the new one may", func(t *testing.T) {
		c, l := listener(t, roleAdmin)
		invite := func(email string) { // with an address that only admins see
			owner.post("/api/v1/projects/"+secret+"/members", `{"email":"`+email+`","role":"viewer"}`).want(202)
		}
		invite("first@example.org")
		if m := l.until("invitation.created"); !strings.Contains(m.data, "first@example.org") {
			t.Errorf("an admin got %s", m.data)
		}
		owner.patch("/api/v1/projects/"+secret+"/members/"+c.id, `{"role":"viewer"}`).want(200)
		invite("second@example.org")
		if m := l.until("invitation.created"); strings.Contains(m.data, "second@example.org") || !strings.Contains(m.data, `"changes":{}`) {
			t.Errorf("a viewer got %s", m.data)
		}
		again := c.at(one).listen("?projectId="+secret, secret+":0")
		for range 2 {
			if m := again.until("invitation.created"); !strings.Contains(m.data, `"changes":{}`) {
				t.Errorf("a viewer who reads what was got %s", m.data)
			}
		}
	})
	one.run("a manager who is one no more reads no foreign project", func(t *testing.T) {
		c := one.signUp("Manager")
		root.patch("/api/v1/users/"+c.id, `{"role":"manager"}`).want(200)
		l := c.at(two).listen("?projectId="+secret, "")
		owner.task(secret, "For managers")
		l.until("task.created")
		root.patch("/api/v1/users/"+c.id, `{"role":"member"}`).want(200)
		l.until("project.left")
		owner.task(secret, word)
		time.Sleep(2 * pollEvery)
		if strings.Contains(l.all.String(), word) {
			t.Error("the stream tells what he may not read")
		}
	})
	one.run("the stream ends with what it came by", func(t *testing.T) {
		for name, end := range map[string]func(c *client) *listening{
			"signing out": func(c *client) *listening {
				l := c.at(two).listen("?projectId="+secret, "")
				c.post("/api/v1/auth/logout", "").want(204)
				return l
			},
			"a session that is ended from another": func(c *client) *listening {
				l := c.at(two).listen("?projectId="+secret, "")
				c.signIn().delete("/api/v1/me/sessions").want(204)
				return l
			},
			"deactivation": func(c *client) *listening {
				l := c.at(two).listen("?projectId="+secret, "")
				root.patch("/api/v1/users/"+c.id, `{"isActive":false}`).want(200)
				return l
			},
			"an API token that is deleted": func(c *client) *listening {
				made := c.post("/api/v1/me/tokens", `{"name":"robot","scopes":["read"]}`).want(201)
				robot := &client{s: two, token: made.str("token")}
				l := robot.listen("?projectId="+secret, "")
				c.delete("/api/v1/me/tokens/" + made.str("id")).want(204)
				return l
			},
			"an account that is deleted": func(c *client) *listening {
				l := c.at(two).listen("?projectId="+secret, "")
				c.with("Content-Type", "application/json").do("DELETE", "/api/v1/me", jsonOf(passwordProof{CurrentPassword: testPassword})).want(204)
				return l
			},
		} {
			t.Run(name, func(t *testing.T) {
				one.t = t
				c := one.signUp("Gone")
				owner.add(secret, c, roleViewer)
				l := end(c)
				began := time.Now()
				for m := range l.messages {
					if m.kind == "" && m.event(t).Kind != "member.removed" {
						t.Errorf("got %+v", m)
					}
				}
				within(t, "the end", began)
				owner.task(secret, word)
			})
		}
		one.t = t
	})
	one.run("a project that is deleted is left, and joined when it is restored", func(t *testing.T) {
		c := one.signUp("Patient")
		id := owner.project("Bin")
		owner.add(id, c, roleViewer)
		l := c.at(two).listen("", "")
		owner.delete("/api/v1/projects/" + id).want(204)
		l.until("project.left")
		later := c.at(two).listen("", "") // opened while it is in the trash
		owner.post("/api/v1/projects/"+id+"/restore", "").want(200)
		l.until("project.joined")
		later.until("project.joined")
		task := owner.task(id, "Again")
		for _, l := range []*listening{l, later} {
			if got := l.until("task.created").event(t).Subject.String(); got != task {
				t.Errorf("got %s, want %s", got, task)
			}
		}
	})
	one.run("a project that is new to him is joined, told by his own log", func(t *testing.T) {
		c := one.signUp("New")
		l := c.at(two).listen("", "")
		owner.add(secret, c, roleViewer)
		kinds := map[string]bool{}
		for range 2 {
			m := l.next()
			if m.kind == "" {
				e := m.event(t)
				kinds[e.Kind] = e.Scope.String() == c.id && e.Subject.String() == c.id && e.ActorID == nil && string(e.Changes) == `{"role":[null,"viewer"]}`
			} else {
				kinds[m.kind] = strings.Contains(m.data, secret)
			}
		}
		if !kinds["member.added"] || !kinds["project.joined"] {
			t.Errorf("got %v", kinds)
		}
		task := owner.task(secret, "Welcome")
		if got := l.until("task.created").event(t).Subject.String(); got != task {
			t.Errorf("got %s, want %s", got, task)
		}
		own := c.project("Founded")
		if m := l.until("project.joined"); !strings.Contains(m.data, own) {
			t.Errorf("got %+v", m)
		}
		missed := owner.project("Missed")
		last := l.last
		l.cut()
		owner.add(missed, c, roleViewer)
		l = c.at(two).listen("", last)
		if m := l.until("project.joined"); !strings.Contains(m.data, missed) {
			t.Errorf("got %+v", m)
		}
	})
	one.run("an API token hears of projects only", func(t *testing.T) {
		c := one.signUp("Maker")
		made := c.post("/api/v1/me/tokens", `{"name":"robot","scopes":["read"]}`).want(201)
		l := (&client{s: two, token: made.str("token")}).listen("", "")
		c.patch("/api/v1/me", `{"firstName":"Renamed"}`).want(200)
		own := c.project("Robots")
		if m := l.next(); m.kind != "project.joined" || !strings.Contains(m.data, own) {
			t.Errorf("got %+v", m)
		}
	})
}

func TestStreamsResumeOnlyWhatIsThere(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ada := ts.signUp("Ada")
	project := ada.project("Old")
	for n := range 5 {
		ada.task(project, fmt.Sprintf("Task %d", n))
	}
	one := "?projectId=" + project
	ts.run("ids that are none are refused", func(t *testing.T) {
		for _, id := range []string{"x", project, project + ":", project + ":-1", project + ":+1", project + ":01", project + ":1.0", project + ":99999999999999999999", ":1", "," + project + ":1", project + ":1," + project + ":2",
			strings.ToUpper(project) + ":1", project + ":1,", project + ": 1", strings.Repeat(newUUID().String()+":1,", 3) + "x", strings.Repeat(project+":1,", 300)} {
			ada.with("Last-Event-ID", id).get(eventsPath+one).problem(400, "bad_parameter").field("lastEventId", "invalid_event_id")
			if len(id) < 1000 {
				ada.get(eventsPath+one+"&lastEventId="+url.QueryEscape(id)).problem(400, "bad_parameter").field("lastEventId", "invalid_event_id")
			}
		}
		var many []string
		for range 2*maxStreamProjects + 1 {
			many = append(many, newUUID().String())
		}
		ada.with("Last-Event-ID", strings.Join(many, ":1,")+":1").get(eventsPath).problem(400, "bad_parameter").field("lastEventId", "invalid_event_id")
		ada.get(eventsPath+"?projectId="+strings.Join(many, ",")).problem(400, "bad_parameter").field("projectId", "too_many")
		for _, bad := range []string{"x", project + "," + project, project + ",", "," + project, strings.ToUpper(project)} {
			ada.get(eventsPath+"?projectId="+bad).problem(400, "bad_parameter").field("projectId", "invalid_uuid")
		}
		ada.get(eventsPath+"?since=1").problem(400, "bad_parameter").field("since", "unknown_parameter")
	})
	ts.run("from the beginning", func(t *testing.T) {
		l := ada.listen(one, project+":0")
		for seq := range int64(6) {
			if got := l.next(); got.event(t).Seq != seq+1 || got.id != fmt.Sprintf("%s:%d", project, seq+1) {
				t.Fatalf("got %+v, want %d", got, seq+1)
			}
		}
	})
	ts.run("the header counts when the query tells of an earlier place", func(t *testing.T) {
		l := ada.listen(one+"&lastEventId="+project+":1", project+":4")
		if got := l.next().event(t).Seq; got != 5 {
			t.Errorf("got %d, want 5", got)
		}
	})
	ts.run("a place that the log has not reached is reset", func(t *testing.T) {
		l := ada.listen(one, project+":1000")
		if m := l.next(); m.kind != "reset" || m.data != `{"scope":"`+project+`","seq":6}` || m.id != project+":6" {
			t.Errorf("got %+v", m)
		}
		ada.task(project, "After it")
		if got := l.next().event(t).Seq; got != 7 {
			t.Errorf("got %d, want 7", got)
		}
	})
	ts.run("what was purged is reset", func(t *testing.T) {
		ts.sql(`DELETE FROM events WHERE scope = $1::text::uuid AND seq <= 3`, project)
		l := ada.listen(one, project+":1")
		if m := l.next(); m.kind != "reset" || m.data != `{"scope":"`+project+`","seq":7}` {
			t.Errorf("got %+v", m)
		}
		whole := ada.listen(one, project+":3")
		if got := whole.next().event(t).Seq; got != 4 {
			t.Errorf("got %d, want 4", got)
		}
	})
	ts.run("a log that was put back to an earlier state is reset in streams that are open", func(t *testing.T) {
		l := ada.listen(one, "")
		ts.sql(`UPDATE projects SET seq = 5 WHERE id = $1::text::uuid`, project)
		if m := l.next(); m.kind != "reset" || m.data != `{"scope":"`+project+`","seq":5}` {
			t.Errorf("got %+v", m)
		}
		ts.sql(`DELETE FROM events WHERE scope = $1::text::uuid AND seq > 5`, project)
		ada.task(project, "Another six")
		if got := l.next().event(t).Seq; got != 6 {
			t.Errorf("got %d, want 6", got)
		}
	})
	ts.run("as much as was missed", func(t *testing.T) {
		const missed = 5000
		at := ada.listen(one, "").last
		ts.sql(`INSERT INTO events (scope, seq, kind, subject, changes) SELECT id, seq + n, 'task.updated', id, '{"title":["a","b"]}' FROM projects, generate_series(1, $2::int) n WHERE id = $1::text::uuid`, project, missed)
		ts.sql(`UPDATE projects SET seq = seq + $2 WHERE id = $1::text::uuid`, project, missed)
		l := ada.listen(one, at)
		for n := range int64(missed) {
			if got := l.next().event(t).Seq; got != 7+n {
				t.Fatalf("got %d, want %d", got, 7+n)
			}
		}
	})
}

func TestStreamsInHTTP(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t, "CORS_ORIGINS=https://app.example.org")
	ada := ts.signUp("Ada")
	project := ada.project("Open")
	ts.hub.heartbeat = 20 * time.Millisecond
	l := ada.listen("?projectId="+project, "")
	for name, want := range map[string]string{"Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Content-Type-Options": "nosniff"} {
		if got := l.header.Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if ms := l.retry.Load(); ms < 1000 || ms > 4000 {
		t.Errorf("got retry %d", ms)
	}
	eventually(t, time.Minute, "heartbeats come", func() bool { return l.comments.Load() >= 3 })
	if a := ada.do("HEAD", eventsPath+"?projectId="+project, "").want(200); a.header.Get("Content-Type") != "text/event-stream" || len(a.body) > 0 {
		t.Errorf("HEAD: got %v %q", a.header, a.body)
	}
	if a := ada.with("Origin", "https://app.example.org").get(eventsPath).want(200); a.header.Get("Access-Control-Allow-Origin") != "https://app.example.org" {
		t.Errorf("another origin that may: got %v", a.header)
	}
	ada.post(eventsPath, "").problem(405, "method_not_allowed")
	l.cut()
	eventually(t, time.Minute, "nobody is left", func() bool {
		ts.hub.mu.Lock()
		defer ts.hub.mu.Unlock()
		return len(ts.hub.feeds) == 0 && ts.hub.listeners == 0 && len(ts.hub.ofUser) == 0
	})
	if lines := ts.log.grep(`"route":"GET /api/v1/events"`); strings.Count(lines, `"msg":"request"`) != 3 || strings.Contains(lines, project) {
		t.Errorf("the log tells of %s", lines)
	}
}

func TestStreamTickets(t *testing.T) {
	t.Parallel()
	one, two := twoServers(t)
	ada := one.signUp("Ada")
	project := ada.project("Browser")
	ticket := func(c *client) string { return c.post(ticketPath, "").want(200).is("expiresIn", 30).str("ticket") }
	open := func(ts *testServer, ticket string) *answer {
		return ts.anonymous().get(eventsPath + "?projectId=" + project + "&ticket=" + ticket)
	}

	one.run("open one stream, on any process", func(t *testing.T) {
		first := ticket(ada)
		l := two.anonymous().listen("?projectId="+project+"&ticket="+first, "")
		ada.task(project, "Seen")
		l.until("task.created")
		for _, ts := range []*testServer{one, two} {
			open(ts, first).problem(401, "unauthenticated")
		}
		again := two.anonymous().listen("?projectId="+project+"&ticket="+ticket(ada)+"&lastEventId="+project+":1", "")
		again.until("task.created")
	})
	one.run("are made once and are worth nothing elsewhere", func(t *testing.T) {
		good := ticket(ada)
		for _, bad := range []string{"x", good[:len(good)-1], good + "A", strings.Replace(good, good[30:32], "zz", 1), strings.ToUpper(good), strings.Repeat("A", 86), good + "%0A"} {
			open(one, bad).problem(401, "unauthenticated")
		}
		one.anonymous().get(eventsPath).problem(401, "unauthenticated")
		one.anonymous().get("/api/v1/me?ticket="+good).problem(401, "unauthenticated")
		(&client{s: one, token: good}).get(eventsPath).problem(401, "unauthenticated")
		open(one, good).want(200)
		if a := open(one, ada.token); a.status != 401 {
			t.Errorf("an access token in the address: got %d", a.status)
		}
	})
	one.run("are old after 30 s", func(t *testing.T) {
		old := one.keys.sealTicket(uuidAt(time.Now().Add(-ticketLife)), caller{ID: mustUUID(t, ada.id), Session: mustUUID(t, sessionOf(ada))})
		open(one, old).problem(401, "unauthenticated")
		early := one.keys.sealTicket(uuidAt(time.Now().Add(time.Minute)), caller{ID: mustUUID(t, ada.id), Session: mustUUID(t, sessionOf(ada))})
		open(one, early).problem(401, "unauthenticated")
	})
	one.run("end with their session", func(t *testing.T) {
		phone := ada.signIn()
		left := ticket(phone)
		phone.post("/api/v1/auth/logout", "").want(204)
		open(two, left).problem(401, "unauthenticated")
	})
	one.run("are used by one of many at once", func(t *testing.T) {
		shared := ticket(ada)
		got := statuses(atOnce(10, func(i int) *answer { return open([]*testServer{one, two}[i%2], shared) }))
		if got[200] != 1 || got[401] != 9 {
			t.Errorf("got %v, want one let in", got)
		}
	})
}

func mustUUID(t *testing.T, text string) uuid {
	t.Helper()
	id, err := parseUUID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestStreamLimits(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ada, bob := ts.signUp("Ada"), ts.signUp("Bob")
	project := ada.project("Busy")

	ts.run("one user has some, and others theirs", func(t *testing.T) {
		var open []*listening
		for range maxOfUser {
			open = append(open, ada.listen("", ""))
		}
		if a := ada.get(eventsPath).problem(429, "too_many_streams"); a.header.Get("Retry-After") == "" {
			t.Error("there is no Retry-After")
		}
		bob.listen("", "")
		bob.get(eventsPath+"?projectId="+ada.id).problem(404, "not_found") // nor does he take one of hers
		open[0].cut()
		eventually(t, time.Minute, "there is room for another", func() bool { return ada.get(eventsPath).status == 200 })
		for _, l := range open {
			l.cut()
		}
	})
	ts.run("one process has some", func(t *testing.T) {
		ts.hub.mu.Lock()
		ts.hub.listeners += maxListeners
		ts.hub.mu.Unlock()
		if a := bob.get(eventsPath).problem(503, "unavailable"); a.header.Get("Retry-After") == "" {
			t.Error("there is no Retry-After")
		}
		ts.hub.mu.Lock()
		ts.hub.listeners -= maxListeners
		ts.hub.mu.Unlock()
		bob.get(eventsPath).want(200)
	})
	ts.run("who is a member of too many projects names them", func(t *testing.T) {
		carl := ts.signUp("Carl")
		ts.sql(`INSERT INTO projects (id, key, name, created_by) SELECT uuid_v7(), 'M' || n, 'Many', $1::text::uuid FROM generate_series(1, $2::int) n`, carl.id, maxStreamProjects+1)
		ts.sql(`INSERT INTO members (project_id, user_id, role) SELECT id, created_by, 'owner' FROM projects WHERE created_by = $1::text::uuid`, carl.id)
		carl.get(eventsPath).problem(400, "bad_parameter").field("projectId", "required")
		carl.get(eventsPath + "?projectId=" + carl.get("/api/v1/projects?limit=1").str("items.0.id")).want(200)
	})
	ts.run("who does not read is cut off, and nobody else waits for him", func(t *testing.T) {
		ts.hub.patience = 200 * time.Millisecond
		defer func() { ts.hub.patience = writePatience }()
		slow := ts.stuck(ada.token, project)
		good := bob.at(ts)
		ada.add(project, good, roleViewer)
		l := good.listen("?projectId="+project, "")
		// More than the system's buffers hold.
		ts.sql(`SELECT log_change($1::text::uuid, NULL, 'task.updated', $1::text::uuid, jsonb_build_object('description', jsonb_build_array(repeat('a', 40000), repeat('b', 40000)))) FROM generate_series(1, 150)`, project)
		eventually(t, time.Minute, "he is cut off", func() bool {
			ts.hub.mu.Lock()
			defer ts.hub.mu.Unlock()
			return ts.hub.ofUser[mustUUID(t, ada.id)] == 0
		})
		slow.Close()
		want := int64(0)
		for last := ada.get("/api/v1/projects/" + project + "/activity?limit=1").num("items.0.seq"); want < int64(last); {
			got := l.next().event(t).Seq
			if want > 0 && got != want+1 {
				t.Fatalf("got %d after %d", got, want)
			}
			want = got
		}
	})
}

// stuck opens a stream and does not read it.
func (ts *testServer) stuck(token, project string) net.Conn {
	ts.t.Helper()
	conn, err := net.Dial("tcp", ts.http.Listener.Addr().String())
	if err != nil {
		ts.t.Fatal(err)
	}
	ts.t.Cleanup(func() { conn.Close() })
	conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	fmt.Fprintf(conn, "GET %s?projectId=%s HTTP/1.1\r\nHost: taskflow.test\r\nAuthorization: Bearer %s\r\n\r\n", eventsPath, project, token)
	eventually(ts.t, time.Minute, "the stream is open", func() bool {
		ts.hub.mu.Lock()
		defer ts.hub.mu.Unlock()
		return ts.hub.listeners == 1
	})
	return conn
}

func TestManyStreamsShareEachRead(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ada := ts.signUp("Ada")
	project := ada.project("Shared")
	c := ts.countTraffic()
	const users, each = 20, 10
	var guests []*client
	for range users {
		guest := ts.signUp("Guest")
		ada.add(project, guest, roleViewer)
		guests = append(guests, guest)
	}
	var open []*listening
	for i := range users * each {
		open = append(open, guests[i%users].listen("?projectId="+project, ""))
	}
	c.since()
	began := time.Now()
	for n := range 3 {
		ada.task(project, fmt.Sprintf("Task %d", n))
	}
	for i, l := range open {
		for n := range 3 {
			if got := l.next().event(t); got.Kind != "task.created" || !strings.Contains(string(got.Changes), fmt.Sprintf("Task %d", n)) {
				t.Fatalf("stream %d: got %+v, want task %d", i, got, n)
			}
		}
	}
	polls := int64(time.Since(began)/pollEvery) + 1
	if trips := c.since()[0]; trips > 3+3+2*polls+1 { // writes, a read for each, and a look with perhaps a read for each poll
		t.Errorf("%d round trips to PostgreSQL for 3 writes and %d streams", trips, len(open))
	}
}

func TestStreamsEndWithTheProcess(t *testing.T) {
	t.Parallel()
	env := serverEnv(t)
	p := launch(t, env)
	ada := p.signUp("Ada")
	project := ada.project("Moved")
	var open []*listening
	for range 5 {
		open = append(open, ada.listen("?projectId="+project, ""))
	}
	began := time.Now()
	p.cmd.Process.Signal(syscall.SIGTERM)
	for _, l := range open {
		for range l.messages {
			t.Error("there was nothing to tell")
		}
		if ms := l.retry.Load(); ms < maxStopRetry.Milliseconds()/4 || ms > maxStopRetry.Milliseconds() || strings.Count(l.all.String(), "retry: ") != 2 {
			t.Errorf("got retry %d in %s", ms, l.all.String())
		}
	}
	if code := p.end(2 * stopTimeout); code != 0 {
		t.Errorf("got %d after %v: %s", code, time.Since(began), p.log)
	}
	next := launch(t, env)
	l := ada.at(next.testServer).listen("?projectId="+project, open[0].last)
	ada.at(next.testServer).task(project, "Afterwards")
	l.until("task.created")
}
