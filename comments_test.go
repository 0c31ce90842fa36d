package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// comment says something about a task and returns the comment's id.
func (c *client) comment(task, body string) string {
	c.s.t.Helper()
	return c.post("/api/v1/tasks/"+task+"/comments", jsonOf(newComment{body})).want(201).str("id")
}

// edit has a comment say something else.
func (c *client) edit(comment, body string) *answer {
	c.s.t.Helper()
	return c.patch("/api/v1/comments/"+comment, jsonOf(newComment{body}))
}

// said are the bodies of a list.
func (a *answer) said() string { a.t.Helper(); return strings.Join(a.want(200).strs("body"), " ") }

func TestWhoComments(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	task := sc.owner.task(sc.project, "Discussed")
	path := "/api/v1/tasks/" + task + "/comments"
	everybody := map[string]*client{"owner": sc.owner, "project admin": sc.projectAdmin, "member": sc.member, "viewer": sc.viewer, "manager": sc.manager, "admin": sc.admin, "outsider": sc.outsider}
	mayComment := func(yes bool) {
		sc.t.Helper()
		sc.owner.patch("/api/v1/projects/"+sc.project, fmt.Sprintf(`{"settings":{"viewersMayComment":%v}}`, yes)).want(200)
	}
	writers := []string{"owner", "project admin", "member", "admin"}
	for _, viewersToo := range []bool{true, false} {
		sc.run(fmt.Sprintf("by role, where viewers may: %v", viewersToo), func(t *testing.T) {
			mayComment(viewersToo)
			for role, c := range everybody {
				got := c.post(path, `{"body":"From a `+role+`"}`)
				switch {
				case role == "outsider":
					got.problem(404, "not_found")
				case slices.Contains(writers, role) || viewersToo:
					got.want(201).is("authorId", c.id).is("taskId", task)
				default:
					got.problem(403, "forbidden")
				}
			}
		})
	}
	for _, author := range []string{"owner", "project admin", "member", "viewer"} {
		sc.run("nobody else edits what a "+author+" wrote, and only admins delete it", func(t *testing.T) {
			mayComment(true)
			for role, c := range everybody {
				id := everybody[author].comment(task, "Said")
				edited, deleted := c.edit(id, "Not said"), c.delete("/api/v1/comments/"+id)
				switch {
				case role == author:
					edited.want(200)
					deleted.want(204)
				case role == "outsider":
					edited.problem(404, "not_found")
					deleted.problem(404, "not_found")
				case role == "owner" || role == "project admin" || role == "admin":
					edited.problem(403, "forbidden")
					deleted.want(204)
				default:
					edited.problem(403, "forbidden")
					deleted.problem(403, "forbidden")
				}
			}
		})
	}
	sc.run("an author who may not write any more changes nothing, and one who has left sees nothing", func(t *testing.T) {
		mayComment(true)
		guest := sc.signUp("Guest")
		sc.owner.add(sc.project, guest, roleViewer)
		id := guest.comment(task, "Said")
		mayComment(false)
		before := sc.state()
		guest.edit(id, "Not said").problem(403, "forbidden")
		guest.delete("/api/v1/comments/"+id).problem(403, "forbidden")
		guest.get("/api/v1/comments/"+id).want(200).is("body", "Said")
		sc.unchanged(before, "a viewer")
		sc.owner.delete("/api/v1/projects/" + sc.project + "/members/" + guest.id).want(204)
		before = sc.state()
		guest.edit(id, "Not said").problem(404, "not_found")
		guest.delete("/api/v1/comments/"+id).problem(404, "not_found")
		guest.get("/api/v1/comments/"+id).problem(404, "not_found")
		sc.unchanged(before, "a former member")
		sc.owner.get("/api/v1/comments/"+id+"?expand=author").want(200).is("body", "Said").is("author.firstName", "Guest")
	})
	sc.run("nothing is said, edited or deleted in a project that is not active", func(t *testing.T) {
		id := sc.owner.comment(task, "Said")
		for _, status := range []string{"archived", "completed"} {
			sc.owner.patch("/api/v1/projects/"+sc.project, `{"status":"`+status+`"}`).want(200)
			before := sc.state()
			sc.owner.post(path, `{"body":"More"}`).problem(409, "project_not_active")
			sc.owner.edit(id, "Less").problem(409, "project_not_active")
			sc.owner.delete("/api/v1/comments/"+id).problem(409, "project_not_active")
			sc.unchanged(before, "a comment in a project that is "+status)
			sc.viewer.get("/api/v1/comments/" + id).want(200)
			sc.viewer.get(path).want(200)
			sc.owner.patch("/api/v1/projects/"+sc.project, `{"status":"active"}`).want(200)
		}
	})
	sc.run("comments wait in the trash with their task, and go with it", func(t *testing.T) {
		trashed := sc.owner.task(sc.project, "Trashed")
		id := sc.owner.comment(trashed, "Said")
		sc.owner.edit(id, "Said again").want(200)
		sc.owner.delete("/api/v1/tasks/" + trashed).want(204)
		before := sc.state()
		for _, where := range []string{"/tasks/" + trashed + "/comments", "/comments/" + id, "/comments/" + id + "/history"} {
			sc.admin.get("/api/v1"+where).problem(404, "not_found")
		}
		sc.owner.post("/api/v1/tasks/"+trashed+"/comments", `{"body":"More"}`).problem(404, "not_found")
		sc.owner.edit(id, "Less").problem(404, "not_found")
		sc.owner.delete("/api/v1/comments/"+id).problem(404, "not_found")
		sc.unchanged(before, "a comment in the trash")
		sc.owner.post("/api/v1/tasks/"+trashed+"/restore", "").want(200)
		sc.owner.get("/api/v1/comments/"+id).want(200).is("body", "Said again")

		sc.owner.delete("/api/v1/tasks/" + trashed).want(204)
		sc.sql(`UPDATE tasks SET deleted_at = now() - interval '31 days' WHERE id = $1::text::uuid`, trashed)
		comments, edits := sc.count("comments"), sc.count("comment_edits")
		sc.runs("trash.purge", nil)
		if sc.count("comments") != comments-1 || sc.count("comment_edits") != edits-1 {
			t.Errorf("%d of %d comments and %d of %d edits are left", sc.count("comments"), comments, sc.count("comment_edits"), edits)
		}
	})
}

func TestComments(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	alice, bob := ts.signUp("Alice"), ts.signUp("Bob")
	web := alice.project("Web Site")
	alice.add(web, bob, roleMember)

	ts.run("are kept as they are given, and found by a task's ref", func(t *testing.T) {
		task := alice.post("/api/v1/tasks", `{"projectId":"`+web+`","title":"Ship"}`).want(201)
		body := "Größe 日本 <b>\r\n\ttwo\n\u202e lines 😀 "
		a := alice.post("/api/v1/tasks/"+task.str("ref")+"/comments", jsonOf(newComment{body})).want(201)
		id := a.str("id")
		a.is("taskId", task.str("id")).is("authorId", alice.id).is("body", body).is("mentions", "[]").is("editedAt", nil).is("version", 1)
		if got, want := a.header.Get("Location"), "/api/v1/comments/"+id; got != want || a.header.Get("ETag") != `"1"` {
			t.Errorf("got %v, want %s", a.header, want)
		}
		if read := bob.get("/api/v1/comments/" + id).want(200); string(read.body) != string(a.body) || read.header.Get("ETag") != `"1"` {
			t.Errorf("read %s after %s", read.body, a.body)
		}
		bob.with("If-None-Match", `"1"`).get("/api/v1/comments/" + id).want(304)
		if got := bob.get("/api/v1/tasks/" + task.str("ref") + "/comments").said(); got != body {
			t.Errorf("got %q", got)
		}
		if again := bob.get("/api/v1/tasks/" + task.str("id")); again.num("version") != 1 {
			t.Errorf("the task became %s", again.body)
		}
	})
	ts.run("have 1 to 10 000 characters, none of control", func(t *testing.T) {
		task := alice.task(web, "Limits")
		id := alice.comment(task, strings.Repeat("ü", maxComment))
		before := ts.state()
		for _, row := range []struct{ value, code string }{
			{`""`, "required"}, {`" \n\t"`, "required"}, {`"\u200b"`, "required"}, {`null`, "required"}, {`7`, "wrong_type"},
			{jsonOf(strings.Repeat("ü", maxComment+1)), "too_long"}, {jsonOf(strings.Repeat("x", 500_000)), "too_long"},
			{`"a\u0007"`, "invalid_text"}, {`"a\u001b[31m"`, "invalid_text"}, {`"a\u007f"`, "invalid_text"}, {`"a\u0085"`, "invalid_text"},
		} {
			alice.post("/api/v1/tasks/"+task+"/comments", `{"body":`+row.value+`}`).problem(422, "validation_failed").field("body", row.code)
			alice.patch("/api/v1/comments/"+id, `{"body":`+row.value+`}`).problem(422, "validation_failed").field("body", row.code)
		}
		alice.post("/api/v1/tasks/"+task+"/comments", `{}`).problem(422, "validation_failed").field("body", "required")
		alice.patch("/api/v1/comments/"+id, `{}`).want(200).is("version", 1)
		alice.patch("/api/v1/comments/"+id, jsonOf(newComment{strings.Repeat("ü", maxComment)})).want(200).is("version", 1).is("editedAt", nil)
		ts.unchanged(before, "a comment that is refused, or says the same")
	})
	ts.run("show that they were edited, and what they said before", func(t *testing.T) {
		task := alice.task(web, "Edited")
		id := alice.comment(task, "one")
		first := alice.edit(id, "two").want(200).is("body", "two").is("version", 2)
		second := alice.edit(id, "three").want(200).is("version", 3)
		if first.str("editedAt") == "" || first.str("editedAt") > second.str("editedAt") || second.header.Get("ETag") != `"3"` {
			t.Errorf("got %s, then %s", first.body, second.body)
		}
		path := "/api/v1/comments/" + id + "/history"
		bob.get(path+"?total=true").want(200).is("total", 2).
			is("items.0.body", "two").is("items.0.version", 2).is("items.0.editedAt", second.str("editedAt")).is("items.0.editedBy", alice.id).
			is("items.1.body", "one").is("items.1.version", 1).is("items.1.editedAt", first.str("editedAt")).is("items.1.mentioned", nil)
		page := bob.get(path+"?limit=1").want(200).is("items.0.version", 2)
		bob.get(page.next()).want(200).is("items.0.version", 1).is("items.1", nil).is("next", nil)
		equal(t, "the task's history", bob.history(task, map[string]string{id: "it", alice.id: "alice", task: "the task", web: "web"})[1:], []string{
			"comment.created alice commentId:<nil>>it", "comment.updated alice commentId:it>it version:1>2", "comment.updated alice commentId:it>it version:2>3"})
	})
	ts.run("leave nothing of their texts when they are deleted", func(t *testing.T) {
		task := alice.task(web, "Deleted")
		id := bob.comment(task, "the password is zyzzyva")
		bob.edit(id, "the password is not zyzzyva").want(200)
		alice.delete("/api/v1/comments/" + id).want(204)
		alice.get("/api/v1/comments/"+id).problem(404, "not_found")
		alice.get("/api/v1/comments/"+id+"/history").problem(404, "not_found")
		alice.delete("/api/v1/comments/"+id).problem(404, "not_found")
		alice.get("/api/v1/tasks/"+task+"/comments?total=true").want(200).is("items", "[]").is("total", 0)
		log := bob.history(task, map[string]string{id: "it", alice.id: "alice", bob.id: "bob"})
		if last := log[len(log)-1]; last != "comment.deleted alice authorId:bob><nil> commentId:it><nil>" {
			t.Errorf("the log ends with %s", last)
		}
		if n, err := queryValue[int](t.Context(), ts.db, `SELECT count(*) FROM (SELECT c::text FROM comments c UNION ALL SELECT e::text FROM comment_edits e UNION ALL SELECT v::text FROM events v) x(t) WHERE t LIKE '%zyzzyva%'`); err != nil || n != 0 {
			t.Errorf("%d rows still have it, %v", n, err)
		}
	})
	ts.run("change only in the version that the client knows", func(t *testing.T) {
		id := alice.comment(alice.task(web, "Contested"), "one")
		path := "/api/v1/comments/" + id
		alice.with("If-Match", `"1"`).edit(id, "two").want(200)
		before := ts.state()
		if a := alice.with("If-Match", `"1"`).edit(id, "three").problem(412, "version_mismatch"); a.header.Get("ETag") != `"2"` {
			t.Errorf("got ETag %s", a.header.Get("ETag"))
		}
		alice.with("If-Match", `W/"2"`).delete(path).problem(412, "version_mismatch")
		bob.with("If-Match", `"1"`).edit(id, "three").problem(403, "forbidden")
		ts.unchanged(before, "a change of another version")
		alice.with("If-Match", `"1", "2"`).delete(path).want(204)
	})
	ts.run("lose no edit of many at once", func(t *testing.T) {
		id := alice.comment(alice.task(web, "Crowded"), "edit 0")
		const n = 8
		answers := atOnce(n, func(i int) *answer { return (&client{s: ts, token: alice.token}).edit(id, fmt.Sprint("edit ", i+1)) })
		seen := []string{alice.get("/api/v1/comments/"+id).want(200).is("version", n+1).str("body")}
		seen = append(seen, alice.get("/api/v1/comments/"+id+"/history").want(200).strs("body")...)
		if statuses(answers)[200] != n || len(slices.Compact(slices.Sorted(slices.Values(seen)))) != n+1 {
			t.Errorf("got %v and %v", statuses(answers), seen)
		}
		answers = atOnce(n, func(i int) *answer {
			return (&client{s: ts, token: alice.token}).with("If-Match", fmt.Sprintf(`"%d"`, n+1)).edit(id, fmt.Sprint("last ", i))
		})
		if got := statuses(answers); got[200] != 1 || got[412] != n-1 {
			t.Errorf("with If-Match got %v", got)
		}
	})
	ts.run("are written once for each Idempotency-Key", func(t *testing.T) {
		path := "/api/v1/tasks/" + alice.task(web, "Once") + "/comments"
		first := alice.keyed("once").post(path, `{"body":"To @bob"}`).want(201).is("mentions", "["+bob.id+"]")
		wantReplay(t, first, alice.keyed("once").post(path, `{"body":"To @bob"}`))
		alice.keyed("once").post(path, `{"body":"To nobody"}`).problem(422, "idempotency_key_reused")
		alice.get(path+"?total=true").want(200).is("total", 1)
	})
	ts.run("are listed oldest first, or newest, in pages that hold while others write and delete", func(t *testing.T) {
		task := alice.task(web, "Listed")
		path := "/api/v1/tasks/" + task + "/comments"
		var ids []string
		for i := range 5 {
			ids = append(ids, alice.comment(task, fmt.Sprint(i)))
		}
		if got := alice.get(path).said(); got != "0 1 2 3 4" {
			t.Errorf("got %s", got)
		}
		if got := alice.get(path + "?sort=-createdAt").said(); got != "4 3 2 1 0" {
			t.Errorf("got %s", got)
		}
		first := alice.get(path+"?limit=2&total=true").is("total", 5)
		down := alice.get(path + "?limit=2&sort=-createdAt")
		alice.delete("/api/v1/comments/" + ids[1]).want(204) // the last of a page
		alice.delete("/api/v1/comments/" + ids[2]).want(204)
		alice.comment(task, "5")
		second := alice.get(first.next())
		if got := first.said() + "|" + second.said() + "|" + alice.get(second.next()).said(); got != "0 1|3 4|5" {
			t.Errorf("got %s", got)
		}
		if got := down.said() + "|" + alice.get(down.next()).said(); got != "4 3|0" {
			t.Errorf("got %s", got)
		}
		alice.get(path+"?cursor="+down.str("next")).problem(400, "bad_parameter").field("cursor", "invalid_cursor") // of the other order
		for query, want := range map[string]string{"sort=author": "sort not_allowed", "sort=": "sort empty", "expand=task": "expand not_allowed"} {
			field, code, _ := strings.Cut(want, " ")
			alice.get(path+"?"+query).problem(400, "bad_parameter").field(field, code)
		}
	})
	ts.run("go with their task to another project", func(t *testing.T) {
		app := alice.project("App")
		task := alice.task(web, "Moved")
		carol := ts.signUp("Carol")
		alice.add(app, carol, roleMember)
		id, his := alice.comment(task, "Ask @bob"), bob.comment(task, "Asked")
		alice.post("/api/v1/tasks/"+task+"/move", `{"projectId":"`+app+`"}`).want(200)
		a := carol.get("/api/v1/tasks/"+task+"/comments?expand=author,mentioned").want(200).
			is("items.0.body", "Ask @["+bob.id+"]").is("items.0.mentioned.0.firstName", "Bob").is("items.0.mentioned.1", nil).
			is("items.1.author.id", bob.id).is("items.1.author.lastName", "Tester").is("items.1.mentioned", "[]")
		if strings.Contains(string(a.body), bob.email) {
			t.Errorf("an address is told to who shares no project with him: %s", a.body)
		}
		bob.get("/api/v1/comments/"+his).problem(404, "not_found")
		bob.edit(his, "Not asked").problem(404, "not_found")
		alice.edit(id, "Do ask @["+bob.id+"] or @carol").want(200).is("mentions", "["+bob.id+" "+carol.id+"]")
		alice.post("/api/v1/tasks/"+task+"/comments", `{"body":"@[`+bob.id+`]"}`).problem(422, "validation_failed").field("body", "not_a_member")
	})
	ts.run("stay without a name when their author deletes his account, who takes them along before", func(t *testing.T) {
		dora := ts.signUp("Dora")
		alice.add(web, dora, roleMember)
		closed := alice.project("Closed")
		alice.add(closed, dora, roleMember)
		task := alice.task(web, "Left")
		id := dora.comment(task, "Mine")
		dora.comment(alice.task(closed, "Closed"), "I read this no more")
		alice.delete("/api/v1/projects/" + closed + "/members/" + dora.id).want(204)
		alice.comment(task, "Not hers, but to @dora")
		dora.get(exportPath).want(200).is("comments.0.id", id).is("comments.0.body", "Mine").is("comments.1", nil)
		dora.leave().want(204)
		alice.get("/api/v1/tasks/"+task+"/comments?expand=author,mentioned").want(200).
			is("items.0.body", "Mine").is("items.0.author.firstName", "Deleted").is("items.0.author.lastName", "user").is("items.1.mentioned.0.firstName", "Deleted")
		alice.delete("/api/v1/comments/" + id).want(204)
	})
}
