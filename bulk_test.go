package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// statuses are the results of a bulk change.
func (a *answer) statuses() string {
	a.t.Helper()
	return strings.Join(a.strs("status"), " ")
}

func TestBulkChanges(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	s.signUp("Root")
	alice, bob := s.signUp("Alice"), s.signUp("Bob")
	web, app, eves := alice.project("Web"), alice.project("App"), bob.project("Eves")
	alice.add(web, bob, roleMember)
	alice.add(app, bob, roleViewer)
	bulk := func(body string) *answer { return bob.post("/api/v1/tasks/bulk", body) }
	quoted := func(ids ...string) string { return `["` + strings.Join(ids, `","`) + `"]` }
	seq := func(project string) int {
		return alice.get("/api/v1/projects/" + project + "/activity?total=true").num("total")
	}

	mine, read, theirs := alice.task(web, "Mine"), alice.task(app, "Read only"), alice.task(alice.project("Secret"), "Secret")
	own, gone := bob.task(eves, "Own"), alice.task(web, "Gone")
	alice.delete("/api/v1/tasks/" + gone).want(204)
	all := quoted(mine, read, theirs, own, gone, newUUID().String())

	s.run("by ids say for each what the single request would", func(t *testing.T) {
		a := bulk(`{"ids":` + all + `,"set":{"priority":"high","labels":["x"]}}`).want(200)
		a.is("matched", 6).is("dryRun", false).is("items.0.id", mine).is("items.0.task.priority", "high").is("items.3.task.id", own)
		if got := a.statuses(); got != "200 403 404 200 404 404" {
			t.Errorf("got %s", got)
		}
		a.is("items.1.problem.code", "forbidden").is("items.2.problem.code", "not_found")
		alice.get("/api/v1/tasks/"+read).is("priority", "medium")
		history := alice.history(mine, map[string]string{bob.id: "bob"})
		if got := history[len(history)-1]; got != "task.updated bob labels:[]>[x] priority:medium>high" {
			t.Errorf("the history ends with %s", got)
		}
		if got := bulk(`{"ids":` + quoted(mine, mine) + `,"set":{"priority":"high"}}`).want(200).statuses(); got != "200 200" {
			t.Errorf("changes to what it is got %s", got)
		}
		a = bulk(`{"ids":` + quoted(mine, own) + `,"set":{"assigneeId":"` + alice.id + `"}}`).want(200) // no member of Eves
		if got := a.statuses(); got != "200 422" || a.str("items.1.problem.errors.0.field") != "assigneeId" {
			t.Errorf("got %s: %s", got, a.body)
		}
	})
	s.run("tell in a dry run what would happen, and nothing does", func(t *testing.T) {
		before := seq(web)
		version := alice.get("/api/v1/tasks/" + mine).num("version")
		for body, want := range map[string]string{
			`"set":{"title":"New"}`:                    "200 403 404 200 404 404",
			`"set":{"assigneeId":"` + alice.id + `"}`:  "200 403 404 422 404 404",
			`"set":{"parentId":"` + mine + `"}`:        "422 403 404 422 404 404",
			`"set":{"dueDate":null,"status":"review"}`: "200 403 404 200 404 404",
			`"delete":true`:                            "204 403 404 204 404 404",
		} {
			a := bulk(`{"ids":`+all+`,"dryRun":true,`+body+`}`).want(200).is("dryRun", true)
			if got := a.statuses(); got != want {
				t.Errorf("%s got %s, want %s", body, got, want)
			}
		}
		bulk(`{"ids":[],"dryRun":true,"delete":true}`).want(200).is("matched", 0).is("items", "[]")
		alice.get("/api/v1/tasks/"+mine).want(200).is("version", version)
		if after := seq(web); after != before {
			t.Errorf("the log grew from %d to %d", before, after)
		}
	})
	s.run("by filter meet the tasks that the list has", func(t *testing.T) {
		for i := range 5 {
			alice.task(web, fmt.Sprint("Sweep ", i), `"labels":["sweep"]`)
		}
		alice.task(app, "Sweep elsewhere", `"labels":["sweep"]`)
		filter := `"filter":{"label":"sweep","status":"todo","search":"sweep"}`
		a := bulk(`{`+filter+`,"set":{"status":"done"},"dryRun":true}`).want(200).is("matched", 6)
		if got := a.statuses(); got != "200 200 200 200 200 403" {
			t.Errorf("the dry run got %s", got)
		}
		bulk(`{`+filter+`,"set":{"status":"done"}}`).want(200).is("matched", 6)
		bulk(`{`+filter+`,"set":{"status":"done"}}`).want(200).is("matched", 1)
		alice.get("/api/v1/tasks?label=sweep&status=done&total=true").is("total", 5)
		bulk(`{"filter":{"projectId":"`+newUUID().String()+`"},"delete":true}`).problem(404, "not_found")
	})
	s.run("delete subtasks with their parent, whatever the order", func(t *testing.T) {
		tree := func() (root, child, leaf string) {
			root = alice.task(web, "root", `"labels":["tree"]`)
			child = alice.task(web, "child", `"labels":["tree"],"parentId":"`+root+`"`)
			return root, child, alice.task(web, "leaf", `"labels":["tree"],"parentId":"`+child+`"`)
		}
		root, child, leaf := tree()
		if got := bulk(`{"filter":{"label":"tree"},"delete":true}`).want(200).statuses(); got != "204 204 204" {
			t.Errorf("by filter got %s", got)
		}
		alice.post("/api/v1/tasks/"+root+"/restore", "").want(200)
		alice.get("/api/v1/tasks/" + leaf).want(200)
		if got := bulk(`{"ids":` + quoted(child, root, leaf, leaf) + `,"delete":true}`).want(200).statuses(); got != "204 204 204 204" {
			t.Errorf("by ids got %s", got)
		}
		alice.get("/api/v1/tasks?label=tree&total=true").is("total", 0)
	})
	s.run("are refused whole when they are not clear, or too large", func(t *testing.T) {
		many := make([]string, maxBulk+1)
		for i := range many {
			many[i] = newUUID().String()
		}
		for _, row := range []struct{ body, field, code string }{
			{`{"set":{"title":"x"}}`, "ids", "required"},
			{`{"ids":[],"filter":{"status":"todo"},"delete":true}`, "ids", "required"},
			{`{"ids":` + quoted(mine) + `}`, "set", "required"},
			{`{"ids":` + quoted(mine) + `,"delete":true,"set":{}}`, "set", "required"},
			{`{"ids":` + quoted(mine) + `,"set":null}`, "set", "required"},
			{`{"ids":` + quoted(mine) + `,"set":{"title":""}}`, "set.title", "required"},
			{`{"ids":` + quoted(mine) + `,"set":{"colour":""}}`, "set.colour", "unknown_field"},
			{`{"ids":["WEB-1"],"delete":true}`, "ids", "wrong_type"},
			{`{"ids":` + quoted(many...) + `,"delete":true}`, "ids", "too_many"},
			{`{"filter":{},"delete":true}`, "filter", "required"},
			{`{"filter":{"status":"open"},"delete":true}`, "filter.status", "not_allowed"},
			{`{"filter":{"limit":"5"},"delete":true}`, "filter.limit", "unknown_parameter"},
			{`{"filter":{"sort":"title"},"delete":true}`, "filter.sort", "unknown_parameter"},
			{`{"filter":{"deleted":"true"},"delete":true}`, "filter.deleted", "unknown_parameter"},
			{`{"filter":{"label":"a\u0001"},"delete":true}`, "filter.label", "invalid_text"},
		} {
			bulk(row.body).problem(422, "validation_failed").field(row.field, row.code)
		}
		s.exec(`INSERT INTO tasks (id, project_id, number, title, position, created_by, created_at, updated_at)
			SELECT gen_random_uuid(), $1, 1000 + n, 'Many', (6000000000 + n)::text, $2, now(), now() FROM generate_series(1, $3) n`, web, bob.id, maxBulk+1)
		bulk(`{"filter":{"search":"many"},"delete":true}`).problem(422, "validation_failed").field("filter", "too_many")
		alice.get("/api/v1/tasks?search=many&sort=number&limit=1&total=true").is("total", maxBulk+1)
		s.exec(`UPDATE tasks SET title = 'One' WHERE number = 1001`)
		a := bulk(`{"filter":{"search":"many"},"set":{"priority":"low"}}`).want(http.StatusOK).is("matched", maxBulk)
		if strings.Count(a.statuses(), "200") != maxBulk {
			t.Error("not all of the largest change were made")
		}
	})
}
