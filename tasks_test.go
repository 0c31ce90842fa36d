package main

import (
	"encoding/json"
	"fmt"
	"maps"

	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// equal fails the test unless two lists are the same.
func equal[T comparable](t testing.TB, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

// parallel runs a function in n goroutines, each with a client of its own for the same user.
func (c *client) parallel(n int, do func(c *client, i int)) {
	var group sync.WaitGroup
	for i := range n {
		own := *c
		group.Go(func() { do(&own, i) })
	}
	group.Wait()
}

// object is the body as a map.
func (a *answer) object() map[string]any {
	a.t.Helper()
	var v map[string]any
	if err := json.Unmarshal(a.body, &v); err != nil {
		a.t.Fatalf("%.300s: %v", a.what, err)
	}
	return v
}

// history is a task's change log, oldest first, each entry as "kind actor field:old>new …" with the
// fields in order. People and tasks stand by the names given.
func (c *client) history(task string, names map[string]string) []string {
	c.s.t.Helper()
	var lines []string
	items := c.get("/api/v1/tasks/" + task + "/activity?limit=100").want(200).at("items").([]any)
	for _, item := range items {
		var e struct {
			Kind, ActorID string
			At            time.Time
			Changes       map[string][2]any
		}
		if err := json.Unmarshal([]byte(jsonOf(item)), &e); err != nil {
			c.s.t.Fatal(err)
		}
		if age := time.Since(e.At); age < -time.Second || age > 10*time.Minute {
			c.s.t.Errorf("%s happened %v ago", e.Kind, age)
		}
		line := e.Kind + " " + e.ActorID
		for _, field := range slices.Sorted(maps.Keys(e.Changes)) {
			if field != "position" {
				line += fmt.Sprintf(" %s:%v>%v", field, e.Changes[field][0], e.Changes[field][1])
			} else {
				line += " position"
			}
		}
		for id, name := range names {
			line = strings.ReplaceAll(line, id, name)
		}
		lines = append(lines, line)
	}
	slices.Reverse(lines)
	return lines
}

func TestCreatingTasksAtOnceGivesEveryNumberOnce(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	alice := s.signUp("Alice")
	web := alice.project("Web")
	const connections, each = 16, 1000 / 16
	var mu sync.Mutex
	var numbers []int
	alice.parallel(connections, func(alice *client, i int) {
		n := each
		if i < 1000%connections {
			n++
		}
		for j := range n {
			a := alice.post("/api/v1/tasks", fmt.Sprintf(`{"projectId":%q,"title":"Task %d of %d"}`, web, j, i))
			if a.status != 201 {
				t.Errorf("got %d: %s", a.status, a.body)
				continue
			}
			mu.Lock()
			numbers = append(numbers, a.num("number"))
			mu.Unlock()
		}
	})
	slices.Sort(numbers)
	var want []int
	for n := range 1000 {
		want = append(want, n+1)
	}
	equal(t, "numbers", numbers, want)

	var seqs []int
	for path := "/api/v1/projects/" + web + "/activity?limit=100"; path != ""; {
		a := alice.get(path).want(200)
		for _, item := range a.at("items").([]any) {
			seqs = append(seqs, int(item.(map[string]any)["seq"].(float64)))
		}
		path = a.next()
	}
	want = append(want, 1001) // the project's own creation is the first
	slices.Reverse(want)
	equal(t, "seqs of the project's activity", seqs, want)
}

// next is the path in the Link header, "" on the last page. It must agree with the body.
func (a *answer) next() string {
	a.t.Helper()
	link, cursor := a.header.Get("Link"), a.str("next")
	if (link == "") != (cursor == "") || !strings.Contains(link, cursor) {
		a.t.Fatalf("%s: Link is %q, next is %q", a.what, link, cursor)
	}
	path, _ := strings.CutSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`)
	return path
}

func TestTaskFields(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	alice, bob := s.signUp("Alice"), s.signUp("Bob")
	web := alice.project("Web Site")
	alice.add(web, bob, roleMember)

	s.run("have their defaults", func(t *testing.T) {
		a := alice.post("/api/v1/tasks", `{"projectId":"`+web+`","title":"Ship"}`).want(201)
		if got, want := a.header.Get("Location"), "/api/v1/tasks/"+a.str("id"); got != want {
			t.Errorf("Location is %s, want %s", got, want)
		}
		a.is("ref", "WS-1").is("number", 1).is("title", "Ship").is("description", "").is("status", "todo").is("priority", "medium")
		a.is("assigneeId", nil).is("parentId", nil).is("labels", "[]").is("blockedBy", "[]").is("createdBy", alice.id).is("version", 1)
		a.is("startedAt", nil).is("completedAt", nil).is("deletedAt", nil).is("createdAt", a.str("updatedAt"))
	})
	s.run("are kept as they are given", func(t *testing.T) {
		in := map[string]any{"title": "Größe 日本 <b>", "description": "two\nlines\tand 😀", "status": "review", "priority": "urgent",
			"assigneeId": bob.id, "parentId": alice.task(web, "Parent"), "startDate": "2026-02-28", "dueDate": "2026-03-01",
			"estimatedHours": 999.99, "actualHours": 0.1, "labels": []any{"b", "a"}}
		body := maps.Clone(in)
		body["projectId"] = web
		a := alice.post("/api/v1/tasks", jsonOf(body)).want(201)
		got := a.object()
		for field, want := range in {
			if jsonOf(got[field]) != jsonOf(want) {
				t.Errorf("%s is %v, want %v", field, got[field], want)
			}
		}
		if read := alice.get("/api/v1/tasks/" + a.str("id")).want(200); string(read.body) != string(a.body) {
			t.Errorf("read %s after creating %s", read.body, a.body)
		}
	})
	s.run("are refused when they break a rule, by name", func(t *testing.T) {
		task := alice.task(web, "Unchanged")
		before := string(alice.get("/api/v1/tasks/" + task).body)
		for _, row := range []struct{ field, value, at, code string }{
			{"title", `""`, "title", "required"},
			{"title", `"  "`, "title", "required"},
			{"title", `"` + strings.Repeat("ü", 256) + `"`, "title", "too_long"},
			{"title", `"a\nb"`, "title", "invalid_text"},
			{"title", `7`, "title", "wrong_type"},
			{"description", `"` + strings.Repeat("ü", 20_001) + `"`, "description", "too_long"},
			{"description", `"\u0007"`, "description", "invalid_text"},
			{"status", `"Done"`, "status", "not_allowed"},
			{"priority", `"none"`, "priority", "not_allowed"},
			{"assigneeId", `"` + newUUID().String() + `"`, "assigneeId", "not_a_member"},
			{"assigneeId", `"me"`, "assigneeId", "wrong_type"},
			{"parentId", `"` + newUUID().String() + `"`, "parentId", "not_found"},
			{"startDate", `"2026-02-29"`, "startDate", "invalid_date"},
			{"dueDate", `"2026-03-01T00:00:00Z"`, "dueDate", "invalid_date"},
			{"dueDate", `"2025-12-31","startDate":"2026-01-01"`, "dueDate", "before_start"},
			{"estimatedHours", `1000`, "estimatedHours", "out_of_range"},
			{"estimatedHours", `0.001`, "estimatedHours", "out_of_range"},
			{"actualHours", `-0.01`, "actualHours", "out_of_range"},
			{"actualHours", `1e400`, "actualHours", "wrong_type"},
			{"labels", `["` + strings.Repeat("l", 51) + `"]`, "labels[0]", "too_long"},
			{"labels", `["a","a"]`, "labels[1]", "duplicate"},
			{"labels", `["a,b"]`, "labels[0]", "invalid_text"},
			{"labels", `[" a"]`, "labels[0]", "invalid_text"},
			{"labels", `[` + strings.Repeat(`"x",`, 20) + `"x"]`, "labels", "too_many"},
			{"labels", `["a",null]`, "labels[1]", "required"},
			{"number", `5`, "number", "unknown_field"},
			{"Title", `"x"`, "Title", "unknown_field"},
		} {
			body := `{"` + row.field + `":` + row.value
			alice.patch("/api/v1/tasks/"+task, body+`}`).problem(422, "validation_failed").field(row.at, row.code)
			if row.field != "title" {
				body += `,"title":"x"`
			}
			alice.post("/api/v1/tasks", body+`,"projectId":"`+web+`"}`).problem(422, "validation_failed").field(row.at, row.code)
		}
		if after := string(alice.get("/api/v1/tasks/" + task).body); after != before {
			t.Errorf("refused changes left %s, want %s", after, before)
		}
		alice.get("/api/v1/projects/"+web+"/activity?total=true").want(200).is("total", 6) // nothing from what was refused
	})
	s.run("at their limits are accepted", func(t *testing.T) {
		labels := make([]string, 20)
		for i := range labels {
			labels[i] = strings.Repeat("ä", 48) + fmt.Sprintf("%02d", i)
		}
		alice.post("/api/v1/tasks", jsonOf(map[string]any{"projectId": web, "title": strings.Repeat("ü", 255),
			"description": strings.Repeat("😀", 20_000), "labels": labels})).want(201)
	})
	s.run("need a project that the caller may work in", func(t *testing.T) {
		eve := s.signUp("Eve")
		alice.post("/api/v1/tasks", `{"title":"x"}`).problem(422, "validation_failed").field("projectId", "required")
		eve.post("/api/v1/tasks", `{"title":"x","projectId":"`+web+`"}`).problem(404, "not_found")
		alice.add(web, eve, roleViewer)
		eve.post("/api/v1/tasks", `{"title":"x","projectId":"`+web+`"}`).problem(403, "forbidden")
	})
}

func TestPatchingATask(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	alice, bob := s.signUp("Alice"), s.signUp("Bob")
	web := alice.project("Web")
	alice.add(web, bob, roleMember)
	parent := alice.task(web, "Parent")
	full := `"description":"text","status":"review","priority":"high","assigneeId":"` + bob.id + `","parentId":"` + parent +
		`","startDate":"2026-01-01","dueDate":"2026-02-01","estimatedHours":1.5,"actualHours":2,"labels":["a"]`

	s.run("changes the one field that is sent, and null clears it", func(t *testing.T) {
		path := "/api/v1/tasks/" + alice.task(web, "Task", full)
		for _, row := range []struct{ field, value, cleared string }{ // cleared "" means required
			{"title", `"New"`, ""},
			{"description", `"other"`, `""`},
			{"status", `"in_progress"`, ""},
			{"priority", `"low"`, ""},
			{"assigneeId", `"` + alice.id + `"`, `null`},
			{"parentId", `"` + alice.task(web, "Other parent") + `"`, `null`},
			{"startDate", `"2026-01-02"`, `null`},
			{"dueDate", `"2026-02-02"`, `null`},
			{"estimatedHours", `0.25`, `null`},
			{"actualHours", `0`, `null`},
			{"labels", `["b","c"]`, `[]`},
		} {
			for send, want := range map[string]string{row.value: row.value, "null": row.cleared} {
				before := alice.get(path).want(200).object()
				a := alice.with("Content-Type", "application/merge-patch+json").patch(path, `{"`+row.field+`":`+send+`}`)
				if want == "" {
					a.problem(422, "validation_failed").field(row.field, "required")
					continue
				}
				after := a.want(200).object()
				if got := jsonOf(after[row.field]); got != want {
					t.Errorf("%s is %s after sending %s, want %s", row.field, got, send, want)
				}
				if read := alice.get(path).object(); jsonOf(read) != jsonOf(after) {
					t.Errorf("answered %v, then read %v", after, read)
				}
				if after["version"].(float64) != before["version"].(float64)+1 || after["updatedAt"].(string) < before["updatedAt"].(string) {
					t.Errorf("version and updatedAt went from %v to %v", before, after)
				}
				for _, field := range []string{row.field, "version", "updatedAt"} {
					delete(before, field)
					delete(after, field)
				}
				if jsonOf(before) != jsonOf(after) {
					t.Errorf("sending only %s changed more:\n%v\n%v", row.field, before, after)
				}
			}
		}
	})
	s.run("that changes nothing leaves version and history as they are", func(t *testing.T) {
		task := alice.task(web, "Task", full)
		before := alice.get("/api/v1/tasks/" + task).want(200)
		for _, body := range []string{`{}`, `{` + full + `}`, `{"title":"Task"}`, `{"estimatedHours":1.50}`} {
			a := bob.patch("/api/v1/tasks/"+task, body).want(200)
			if string(a.body) != string(before.body) || a.header.Get("ETag") != `"1"` {
				t.Errorf("%s gave %s, want %s", body, a.body, before.body)
			}
		}
		if got := alice.history(task, nil); len(got) != 1 {
			t.Errorf("history is %v, want the creation only", got)
		}
	})
	s.run("keeps when work began, and when it was done until it is reopened", func(t *testing.T) {
		path := "/api/v1/tasks/" + alice.task(web, "Task")
		begun := alice.patch(path, `{"status":"in_progress"}`).want(200).is("completedAt", nil).str("startedAt")
		done := alice.patch(path, `{"status":"done"}`).want(200).is("startedAt", begun).str("completedAt")
		if begun == "" || done == "" {
			t.Errorf("startedAt is %q, completedAt %q", begun, done)
		}
		alice.patch(path, `{"title":"Renamed"}`).want(200).is("completedAt", done)
		alice.patch(path, `{"status":"todo"}`).want(200).is("completedAt", nil).is("startedAt", begun)
		alice.task(web, "Born done", `"status":"done"`)
	})
	s.run("by two people at once keeps both their fields", func(t *testing.T) {
		path := "/api/v1/tasks/" + alice.task(web, "Task")
		for round := range 50 {
			var both sync.WaitGroup
			both.Go(func() { alice.patch(path, fmt.Sprintf(`{"title":"Title %d"}`, round)) })
			both.Go(func() { bob.patch(path, fmt.Sprintf(`{"description":"Text %d"}`, round)) })
			both.Wait()
			alice.get(path).want(200).is("title", fmt.Sprint("Title ", round)).is("description", fmt.Sprint("Text ", round)).is("version", 3+2*round)
		}
	})
	s.run("with If-Match by two people at once changes it once", func(t *testing.T) {
		path := "/api/v1/tasks/" + alice.task(web, "Task")
		tag := alice.get(path).header.Get("ETag")
		for round := range 50 {
			answers := make([]*answer, 2)
			var both sync.WaitGroup
			for i, c := range []*client{alice, bob} {
				both.Go(func() {
					answers[i] = c.with("If-Match", tag).patch(path, fmt.Sprintf(`{"title":"Round %d by %d"}`, round, i))
				})
			}
			both.Wait()
			won, lost := answers[0], answers[1]
			if won.status != 200 {
				won, lost = lost, won
			}
			present := won.want(200).header.Get("ETag")
			lost.problem(412, "version_mismatch")
			if lost.header.Get("ETag") != present || present == tag {
				t.Fatalf("412 says %s is present, the change said %s after %s", lost.header.Get("ETag"), present, tag)
			}
			alice.get(path).is("title", won.str("title"))
			tag = present
		}
	})
	s.run("accepts any of several tags, and *", func(t *testing.T) {
		path := "/api/v1/tasks/" + alice.task(web, "Task")
		alice.with("If-Match", `"9", "1"`).patch(path, `{"title":"1"}`).want(200)
		alice.with("If-Match", "*").patch(path, `{"title":"2"}`).want(200)
		for _, tag := range []string{`W/"3"`, `3`, `"0"`, `"x"`, `""`} {
			alice.with("If-Match", tag).patch(path, `{"title":"3"}`).problem(412, "version_mismatch")
		}
		alice.with("If-Match", `"2"`).delete(path).problem(412, "version_mismatch")
		alice.with("If-Match", `"3"`).delete(path).want(204)
	})
}

func TestSingleResourcesAreNotSentAgain(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	alice := s.signUp("Alice")
	web := alice.project("Web")
	task := alice.task(web, "Task")
	for _, path := range []string{"/api/v1/tasks/" + task, "/api/v1/tasks/WEB-1", "/api/v1/projects/" + web, "/api/v1/me"} {
		s.run(path[len("/api/v1/"):], func(t *testing.T) {
			tag := alice.get(path).want(200).header.Get("ETag")
			for _, match := range []string{tag, `W/` + tag, `"other", ` + tag, "*"} {
				a := alice.with("If-None-Match", match).get(path).want(304)
				if len(a.body) > 0 || a.header.Get("ETag") != tag {
					t.Errorf("304 for %s has body %q and tag %s", match, a.body, a.header.Get("ETag"))
				}
			}
			alice.with("If-None-Match", `"other"`).get(path).want(200)
		})
	}
	alice.patch("/api/v1/tasks/"+task, `{"title":"Changed"}`).want(200)
	alice.with("If-None-Match", `"1"`).get("/api/v1/tasks/" + task).want(200)
}

func TestEveryChangeOfATaskIsInItsHistory(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	alice, bob := s.signUp("Alice"), s.signUp("Bob")
	web, app := alice.project("Web"), alice.project("App")
	alice.add(web, bob, roleMember)
	alice.add(app, bob, roleMember)
	other, third := alice.task(web, "Other"), alice.task(web, "Third")
	id := alice.task(web, "Task")
	path := "/api/v1/tasks/" + id
	names := map[string]string{alice.id: "alice", bob.id: "bob", other: "other", third: "third", web: "web", app: "app"}
	var want []string
	want = append(want, "task.created alice description:<nil>> labels:<nil>>[] position priority:<nil>>medium status:<nil>>todo title:<nil>>Task")
	for _, step := range []struct{ body, want string }{
		{`{"title":"Title"}`, "title:Task>Title"},
		{`{"description":"Text"}`, "description:>Text"},
		{`{"status":"done"}`, "status:todo>done"},
		{`{"priority":"urgent"}`, "priority:medium>urgent"},
		{`{"assigneeId":"` + alice.id + `"}`, "assigneeId:<nil>>alice"},
		{`{"parentId":"` + third + `"}`, "parentId:<nil>>third"},
		{`{"startDate":"2026-01-01"}`, "startDate:<nil>>2026-01-01"},
		{`{"dueDate":"2026-01-02"}`, "dueDate:<nil>>2026-01-02"},
		{`{"estimatedHours":1.5}`, "estimatedHours:<nil>>1.5"},
		{`{"actualHours":0}`, "actualHours:<nil>>0"},
		{`{"labels":["a"]}`, "labels:[]>[a]"},
		{`{"labels":null,"assigneeId":null,"status":"todo"}`, "assigneeId:alice><nil> labels:[a]>[] status:done>todo"},
	} {
		bob.patch(path, step.body).want(200)
		want = append(want, "task.updated bob "+step.want)
	}
	bob.post(path+"/move", `{"first":true,"status":"review"}`).want(200)
	bob.put(path+"/blockers/"+other, "").want(200)
	bob.put(path+"/watch", "").want(204)
	alice.delete(path + "/watch").want(204) // did not watch
	bob.delete(path + "/watch").want(204)
	alice.delete("/api/v1/tasks/" + other).want(204)
	alice.post("/api/v1/tasks/"+other+"/restore", "").want(200)
	alice.delete(path + "/blockers/" + other).want(204)
	alice.put(path+"/blockers/"+other, "").want(200)
	alice.delete(path).want(204)
	bob.post(path+"/restore", "").want(200)
	bob.patch(path, `{"assigneeId":"`+bob.id+`"}`).want(200)
	bob.post(path+"/move", `{"projectId":"`+app+`"}`).want(200)
	alice.delete("/api/v1/projects/" + app + "/members/" + bob.id).want(204)
	want = append(want, "task.moved bob position status:todo>review", "task.blocked bob blockedBy:<nil>>other",
		"task.watched bob", "task.unwatched bob", "task.unblocked alice blockedBy:other><nil>", "task.blocked alice blockedBy:<nil>>other",
		"task.unblocked alice blockedBy:other><nil>", "task.blocked alice blockedBy:<nil>>other",
		"task.deleted alice", "task.restored bob", "task.updated bob assigneeId:<nil>>bob",
		"task.left bob number:3>1 parentId:third><nil> position projectId:web>app",
		"task.arrived bob number:3>1 parentId:third><nil> position projectId:web>app",
		"task.unblocked bob blockedBy:other><nil>", "task.updated alice assigneeId:bob><nil>")
	got := alice.history(id, names)
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("entry %d: got\n%s\nwant\n%s", i, strings.Join(got[min(i, len(got)):], "\n"), strings.Join(want[min(i, len(want)):], "\n"))
		}
	}

	s.run("which is read page by page", func(t *testing.T) {
		all := alice.get(path + "/activity?limit=100&total=true").want(200)
		all.is("total", len(want))
		for limit := 1; limit <= 7; limit++ {
			var pages []string
			for next := fmt.Sprintf("%s/activity?limit=%d", path, limit); next != ""; {
				a := alice.get(next).want(200)
				for _, item := range a.at("items").([]any) {
					pages = append(pages, jsonOf(item))
				}
				next = a.next()
			}
			var whole []string
			for _, item := range all.at("items").([]any) {
				whole = append(whole, jsonOf(item))
			}
			equal(t, fmt.Sprint("pages of ", limit), pages, whole)
		}
	})
	s.run("which only readers of the project see", func(t *testing.T) {
		bob.get(path+"/activity").problem(404, "not_found")
		alice.get("/api/v1/tasks/"+newUUID().String()+"/activity").problem(404, "not_found")
	})
}

func TestSubtasks(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	alice := s.signUp("Alice")
	web, app := alice.project("Web"), alice.project("App")
	child := func(parent, title string) string { return alice.task(web, title, `"parentId":"`+parent+`"`) }
	put := func(task, parent string) *answer {
		return alice.patch("/api/v1/tasks/"+task, `{"parentId":"`+parent+`"}`)
	}
	live := func(task string) bool { return alice.get("/api/v1/tasks/"+task).status == 200 }
	restore := func(task string) *answer { return alice.post("/api/v1/tasks/"+task+"/restore", "") }

	s.run("make no circle and stay in their project", func(t *testing.T) {
		a := alice.task(web, "a")
		b := child(a, "b")
		c := child(b, "c")
		for _, parent := range []string{a, b, c} {
			put(a, parent).problem(422, "validation_failed").field("parentId", "cycle")
		}
		put(c, a).want(200)
		put(b, c).want(200)
		foreign := alice.task(app, "foreign")
		put(a, foreign).problem(422, "validation_failed").field("parentId", "not_found")
		alice.post("/api/v1/tasks", `{"projectId":"`+web+`","title":"x","parentId":"`+foreign+`"}`).problem(422, "validation_failed").field("parentId", "not_found")
		alice.delete("/api/v1/tasks/" + c).want(204)
		put(a, c).problem(422, "validation_failed").field("parentId", "not_found")
	})
	s.run("make no circle either when two are set at once", func(t *testing.T) {
		for range 20 {
			a, b := alice.task(web, "a"), alice.task(web, "b")
			second := *alice
			var both sync.WaitGroup
			both.Go(func() { put(a, b) })
			both.Go(func() { second.patch("/api/v1/tasks/"+b, `{"parentId":"`+a+`"}`) })
			both.Wait()
			if alice.get("/api/v1/tasks/"+a).str("parentId") != "" && alice.get("/api/v1/tasks/"+b).str("parentId") != "" {
				t.Fatal("each is the other's parent")
			}
		}
	})
	s.run("go to the trash and come back with their parent, but not those that went before", func(t *testing.T) {
		root := alice.task(web, "root")
		before := child(root, "deleted before")
		alice.delete("/api/v1/tasks/" + before).want(204)
		tree := []string{root}
		for range 12 {
			tree = append(tree, child(tree[len(tree)-1], "deeper"), child(tree[len(tree)-1], "beside"))
		}
		alice.delete("/api/v1/tasks/" + root).want(204)
		for _, id := range tree {
			if live(id) {
				t.Fatal("a subtask outlived its parent")
			}
		}
		alice.delete("/api/v1/tasks/"+root).problem(404, "not_found")
		alice.get("/api/v1/tasks?deleted=true&limit=100&projectId="+web).want(200).is("items.0.deletedAt", alice.get("/api/v1/tasks?deleted=true&projectId="+web).str("items.1.deletedAt"))
		restore(root).want(200).is("deletedAt", nil)
		restore(root).problem(404, "not_found")
		for _, id := range tree {
			if !live(id) {
				t.Fatal("a subtask did not come back with its parent")
			}
		}
		if live(before) {
			t.Error("a subtask that was deleted before came back with its parent")
		}
		restore(before).want(200).is("parentId", root)
	})
	s.run("come back without a parent that stays in the trash", func(t *testing.T) {
		root := alice.task(web, "root")
		middle := child(root, "middle")
		leaf := child(middle, "leaf")
		alice.delete("/api/v1/tasks/" + root).want(204)
		restore(middle).want(200).is("parentId", nil)
		alice.get("/api/v1/tasks/"+leaf).want(200).is("parentId", middle)
		restore(root).want(200)
		alice.get("/api/v1/tasks/"+middle).want(200).is("parentId", nil)
	})
}

func TestTasksAnswerToTheirRef(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	alice, eve := s.signUp("Alice"), s.signUp("Eve")
	eve.project("Own")
	web := alice.project("Web")
	ids := []string{alice.task(web, "One"), alice.task(web, "Two")}

	alice.get("/api/v1/tasks/WEB-1").want(200).is("id", ids[0])
	alice.patch("/api/v1/tasks/WEB-1", `{"title":"Uno"}`).want(200).is("id", ids[0])
	alice.get("/api/v1/tasks/WEB-2/activity").want(200).is("items.0.subjectId", ids[1])
	alice.put("/api/v1/tasks/WEB-1/blockers/WEB-2", "").want(200).is("blockedBy.0", ids[1])
	alice.delete("/api/v1/tasks/WEB-1/blockers/WEB-2").want(204)
	alice.put("/api/v1/tasks/WEB-1/watch", "").want(204)
	alice.delete("/api/v1/tasks/WEB-1/watch").want(204)
	alice.post("/api/v1/tasks/WEB-1/move", `{"last":true}`).want(200).is("id", ids[0])
	alice.delete("/api/v1/tasks/WEB-1").want(204)
	alice.get("/api/v1/tasks/WEB-1").problem(404, "not_found")
	alice.post("/api/v1/tasks/WEB-1/restore", "").want(200).is("id", ids[0])

	for _, ref := range []string{"WEB-3", "WEB-0", "WEB-01", "web-1", "WEB-9999999999", "WEB-", "NONE-1", "WEB-1%00", "x"} {
		alice.get("/api/v1/tasks/"+ref).problem(404, "not_found")
	}
	for _, path := range []string{"WEB-1", "WEB-1/activity"} {
		eve.get("/api/v1/tasks/"+path).problem(404, "not_found")
	}
}

func TestOnlyActiveProjectsTakeWork(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	alice, bob := s.signUp("Alice"), s.signUp("Bob")
	web, app := alice.project("Web"), alice.project("App")
	alice.add(web, bob, roleMember)
	alice.add(app, bob, roleMember)
	task, other, trashed := alice.task(web, "Task"), alice.task(web, "Other"), alice.task(web, "Trashed")
	alice.put("/api/v1/tasks/"+task+"/blockers/"+other, "").want(200)
	alice.delete("/api/v1/tasks/" + trashed).want(204)
	foreign := alice.task(app, "Foreign")
	for _, status := range []string{"archived", "completed"} {
		bob.patch("/api/v1/projects/"+web, `{"status":"`+status+`"}`).problem(403, "forbidden")
		alice.patch("/api/v1/projects/"+web, `{"status":"`+status+`"}`).want(200).is("status", status)
		seq := alice.get("/api/v1/projects/" + web + "/activity?total=true").num("total")
		for _, request := range []struct{ method, path, body string }{
			{"POST", "", `{"projectId":"` + web + `","title":"x"}`},
			{"PATCH", "/" + task, `{"title":"x"}`},
			{"DELETE", "/" + task, ""},
			{"POST", "/" + trashed + "/restore", ""},
			{"POST", "/" + task + "/move", `{"last":true}`},
			{"POST", "/" + task + "/move", `{"projectId":"` + app + `"}`},
			{"POST", "/" + foreign + "/move", `{"projectId":"` + web + `"}`},
			{"PUT", "/" + other + "/blockers/" + task, ""},
			{"DELETE", "/" + task + "/blockers/" + other, ""},
			{"PUT", "/" + task + "/watch", ""},
		} {
			bob.do(request.method, "/api/v1/tasks"+request.path, request.body).problem(409, "project_not_active")
		}
		bob.get("/api/v1/tasks/" + task).want(200)
		bob.get("/api/v1/tasks?projectId=" + web).want(200)
		alice.patch("/api/v1/projects/"+web, `{"name":"Renamed `+status+`"}`).want(200)
		alice.get("/api/v1/projects/"+web+"/activity?total=true").want(200).is("total", seq+1)
	}
	alice.patch("/api/v1/projects/"+web, `{"status":"active"}`).want(200)
	bob.patch("/api/v1/tasks/"+task, `{"title":"x"}`).want(200)
}
