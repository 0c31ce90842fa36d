package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

const exportPath = "/api/v1/me/export"

func (c *client) leave() *answer {
	c.s.t.Helper()
	return c.do("DELETE", "/api/v1/me", proof)
}

func TestDeletingOnesAccount(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	root := ts.signUp("Root")

	ts.run("leaves nothing that signs in, and no name", func(t *testing.T) {
		ada := ts.signUp("Ada")
		phone, robot := ada.signIn(), ada.tokenFor("read")
		ada.patch("/api/v1/me", `{"avatarUrl":"https://img.example.org/ada","lastName":"Lovelace"}`).want(200)
		a := newAuthenticator(ada)
		ada.confirmTOTP(a.code(0)).want(200)
		ada.leave().want(204)
		for _, c := range []*client{ada, phone, robot} {
			c.get("/api/v1/me").problem(401, "unauthenticated")
		}
		ada.refreshWith(ada.refresh).problem(401, "invalid_refresh_token")
		ada.signInWith(a.code(1)).problem(401, "invalid_credentials")
		root.get("/api/v1/users/"+ada.id).want(200).is("firstName", "Deleted").is("lastName", "user").is("email", "deleted-"+ada.id+"@deleted.invalid").is("isActive", false).is("avatarUrl", nil)
		left, err := queryValue[string](t.Context(), ts.db, `SELECT concat_ws(' ', (SELECT string_agg(u::text, ' ') FROM users u), (SELECT string_agg(e::text, ' ') FROM events e), (SELECT string_agg(s::text, ' ') FROM sessions s))`)
		if err != nil || strings.Contains(left, ada.email) || strings.Contains(left, "Lovelace") || strings.Contains(left, "img.example.org") {
			t.Errorf("got %v and %s", err, left)
		}
		for _, table := range []string{"sessions", "api_tokens", "account_tokens", "recovery_codes", "notifications", "members"} {
			if n, err := queryValue[int](t.Context(), ts.db, `SELECT count(*) FROM `+table+` WHERE user_id = $1::text::uuid`, ada.id); err != nil || n != 0 {
				t.Errorf("%s has %d rows of him, %v", table, n, err)
			}
		}
		ts.anonymous().post(registerPath, registration(ada.email)).want(201) // the address is free again
	})
	ts.run("keeps what he did in others' projects, and takes his tasks from him", func(t *testing.T) {
		ada, bob := ts.signUp("Ada"), ts.signUp("Bob")
		project := bob.project("Together")
		bob.add(project, ada, roleMember)
		task := ada.task(project, "Hers", `"assigneeId":"`+ada.id+`"`)
		ada.put("/api/v1/tasks/"+task+"/watch", "").want(204)
		ada.leave().want(204)
		bob.get("/api/v1/tasks/"+task).want(200).is("createdBy", ada.id).is("assigneeId", nil).is("version", 2)
		history := bob.get("/api/v1/projects/"+project+"/activity").want(200).is("items.0.kind", "member.removed").is("items.0.subjectId", ada.id).is("items.0.actorId", ada.id).is("items.1.kind", "task.updated")
		if seqs := history.strs("seq"); len(seqs) != history.num("items.0.seq") {
			t.Errorf("the log has gaps: %v", seqs)
		}
		bob.get("/api/v1/projects/"+project+"/members?total=true").want(200).is("total", 1)
		bob.get("/api/v1/users/"+ada.id).problem(404, "not_found")
	})
	ts.run("puts projects that nobody else is in into the trash", func(t *testing.T) {
		ada := ts.signUp("Ada")
		project := ada.project("Alone")
		task := ada.task(project, "Hers", `"assigneeId":"`+ada.id+`"`)
		ada.leave().want(204)
		root.get("/api/v1/projects/"+project).problem(404, "not_found")
		root.post("/api/v1/projects/"+project+"/restore", "").want(200)
		root.get("/api/v1/tasks/"+task).want(200).is("assigneeId", ada.id)
	})
	ts.run("is refused while others would have no owner, and says where", func(t *testing.T) {
		ada, bob := ts.signUp("Ada"), ts.signUp("Bob")
		ids, keys := map[string]string{}, map[string]string{}
		for _, name := range []string{"Zebra", "Aardvark", "Mine alone", "Gone"} {
			id := ada.project(name)
			ids[name], keys[name] = id, ada.get("/api/v1/projects/"+id).str("key")
			if name != "Mine alone" {
				ada.add(id, bob, roleAdmin)
			}
		}
		ada.delete("/api/v1/projects/" + ids["Gone"]).want(204)
		before := ts.state()
		a := ada.leave().problem(409, "last_owner")
		if want := "only owner of " + keys["Aardvark"] + ", " + keys["Zebra"] + ","; !strings.Contains(a.str("detail"), want) {
			t.Errorf("got %s, want %s", a.str("detail"), want)
		}
		ts.unchanged(before, "a refused deletion")
		ada.delete("/api/v1/projects/" + ids["Zebra"]).want(204)
		ada.patch("/api/v1/projects/"+ids["Aardvark"]+"/members/"+bob.id, `{"role":"owner"}`).want(200)
		ada.leave().want(204)
		bob.get("/api/v1/projects/" + ids["Aardvark"]).want(200)
	})
	ts.run("needs the present password", func(t *testing.T) {
		before := ts.state()
		root.do("DELETE", "/api/v1/me", jsonOf(passwordProof{"not it"})).problem(403, "wrong_password")
		root.do("DELETE", "/api/v1/me", `{}`).problem(422, "validation_failed").field("currentPassword", "required")
		ts.unchanged(before, "a refused deletion")
	})
	ts.run("is refused for the last admin, also of two at once", func(t *testing.T) {
		before := ts.state()
		root.leave().problem(409, "last_admin")
		ts.unchanged(before, "a refused deletion")
		rival := ts.withRole("Rival", globalAdmin)
		both := []*client{root, rival}
		if got := statuses(atOnce(2, func(i int) *answer { return both[i].leave() })); got[204] != 1 || got[409] != 1 {
			t.Errorf("got %v, want one 204 and one 409", got)
		}
	})
	ts.run("happens once of two at once, and beside changes of the same projects", func(t *testing.T) {
		ada, bob := ts.signUp("Ada"), ts.signUp("Bob")
		projects := []string{bob.project("One"), bob.project("Two"), bob.project("Three")}
		for _, id := range projects {
			bob.add(id, ada, roleMember)
		}
		answers := atOnce(8, func(i int) *answer {
			if i < 2 {
				return (&client{s: ts, token: ada.token}).leave()
			}
			return (&client{s: ts, token: bob.token}).post("/api/v1/tasks", `{"projectId":"`+projects[i%3]+`","title":"Meanwhile","assigneeId":"`+ada.id+`"}`)
		})
		left := 0
		for i, a := range answers {
			switch {
			case i < 2 && a.status == 204:
				left++
			case i < 2 && a.status != 401 && a.status != 403:
				t.Errorf("leaving: got %d %s", a.status, a.body)
			case i >= 2 && a.status != 201:
				a.problem(422, "validation_failed").field("assigneeId", "not_a_member")
			}
		}
		if left != 1 {
			t.Errorf("left %d times", left)
		}
		for _, id := range projects {
			for _, assignee := range bob.get("/api/v1/tasks?projectId=" + id).want(200).strs("assigneeId") {
				if assignee != "<nil>" {
					t.Errorf("a task is left with %s", assignee)
				}
			}
		}
	})
}

func exportRequest(t *testing.T, c *client) *http.Request {
	req, err := http.NewRequestWithContext(t.Context(), "GET", c.s.http.URL+exportPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	return req
}

func TestTakingOnesDataAlong(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	root, ada, bob := ts.signUp("Root"), ts.signUp("Ada"), ts.signUp("Bob")
	mine, shared, closed := ada.project("Mine"), bob.project("Shared"), bob.project("Closed")
	bob.add(shared, ada, roleMember)
	bob.add(closed, ada, roleMember)
	made, given := ada.task(mine, "I made “this”\u2028"), bob.task(shared, "I have this", `"assigneeId":"`+ada.id+`"`)
	bob.task(shared, "Not mine")
	unread := ada.task(closed, "I read this no more")
	sent, old := ada.attach(made, "sent.txt", "from me"), ada.attach(given, "old.txt", "gone")
	bob.attach(given, "bobs.txt", "from him")
	ada.attach(unread, "unread.txt", "hidden")
	ada.delete("/api/v1/attachments/" + old).want(204)
	bob.delete("/api/v1/projects/" + closed + "/members/" + ada.id).want(204)
	robot := ada.tokenFor("read")

	ts.run("gives one document with all that is his", func(t *testing.T) {
		a := ada.get(exportPath).want(200).is("account.id", ada.id).is("account.email", ada.email).is("sessions.0.current", true).is("sessions.1", nil).is("tokens.0.name", "for a test").is("tokens.1", nil).
			is("tasks.0.id", given).is("tasks.1.id", made).is("tasks.1.title", "I made “this”\u2028").is("tasks.2", nil).is("memberships.0.projectId", shared).is("memberships.0.role", "member").is("memberships.1.role", "owner").is("memberships.2", nil).
			is("attachments.0.id", sent).is("attachments.0.name", "sent.txt").is("attachments.0.size", 7).is("attachments.0.checksum", ada.get("/api/v1/attachments/"+sent).str("checksum")).is("attachments.1", nil).
			is("history.0.kind", "token.created").is("notifications", "[]")
		key, err := queryValue[string](t.Context(), ts.db, `SELECT key FROM blobs WHERE attachment_id = $1::text::uuid`, sent)
		if err != nil || strings.Contains(string(a.body), "from me") || strings.Contains(string(a.body), key) {
			t.Error("it has what is in a file, or where that is kept")
		}
		if a.header.Get("Content-Disposition") != `attachment; filename="taskflow-export.json"` || a.header.Get("Content-Type") != "application/json" || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("got %v", a.header)
		}
		if strings.Contains(string(a.body), robot.token) || strings.Contains(strings.ToLower(string(a.body)), "hash") {
			t.Error("it has what signs in")
		}
	})
	ts.run("is whole also when it is long", func(t *testing.T) {
		const n = 2*exportPage + 7
		if _, err := execute(t.Context(), ts.db, `
			INSERT INTO notifications (id, user_id, kind, detail) SELECT uuid_v7(), $1::text::uuid, 'task.due', jsonb_build_object('dueDate', '2026-01-01'::date + n) FROM generate_series(1, $2::int) n`, ada.id, n); err != nil {
			t.Fatal(err)
		}
		var got struct {
			Notifications []struct {
				ID     string
				Detail struct{ DueDate string }
			}
		}
		if err := json.Unmarshal(ada.get(exportPath).want(200).body, &got); err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, entry := range got.Notifications {
			seen[entry.Detail.DueDate] = true
		}
		if len(seen) != n || len(got.Notifications) != n {
			t.Errorf("got %d entries, %d of them different, want %d", len(got.Notifications), len(seen), n)
		}
	})
	ts.run("shows an admin what is his, and not everybody's", func(t *testing.T) {
		root.get(exportPath).want(200).is("tasks", "[]").is("memberships", "[]").is("account.role", "admin")
	})
	ts.run("does not end as if it were whole when the database goes away", func(t *testing.T) {
		if _, err := execute(t.Context(), ts.db, `ALTER TABLE notifications RENAME TO gone`); err != nil {
			t.Fatal(err)
		}
		resp, err := testHTTP.Do(exportRequest(t, ada))
		if err == nil {
			defer resp.Body.Close()
			var got map[string]any
			if err := json.NewDecoder(resp.Body).Decode(&got); err == nil && resp.StatusCode == 200 {
				t.Errorf("got a whole document: %s", fmt.Sprint(got))
			}
		}
		if _, err := execute(t.Context(), ts.db, `ALTER TABLE gone RENAME TO notifications`); err != nil {
			t.Fatal(err)
		}
		ada.get(exportPath).want(200)
		ts.log.reset() // it has the error that no other test may have
	})
}
