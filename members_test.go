package main

import (
	"slices"
	"strings"
	"sync"
	"testing"
)

// team is a project with somebody in every role.
type team struct {
	*testServer
	root, mia *client // global admin and manager, who are no members
	outsider  *client
	by        map[memberRole]*client
	project   string
	path      string // of its members
}

var allRoles = []memberRole{roleViewer, roleMember, roleAdmin, roleOwner}

func newTeam(t *testing.T) team {
	s := newTestServer(t)
	x := team{testServer: s, root: s.signUp("Root"), mia: s.withRole("Mia", globalManager), outsider: s.signUp("Eve"), by: map[memberRole]*client{}}
	owner := s.signUp("Owner")
	x.project = owner.project("Team")
	x.path = "/api/v1/projects/" + x.project + "/members"
	for _, role := range allRoles {
		x.by[role] = owner
		if role != roleOwner {
			x.by[role] = s.signUp(string(role))
			owner.add(x.project, x.by[role], role)
		}
	}
	return x
}

// roleOf is a user's role in the project as the database has it; "" is none.
func (x team) roleOf(c *client) memberRole {
	x.t.Helper()
	role, err := queryValue[memberRole](x.t.Context(), x.db, `SELECT coalesce((SELECT role::text FROM members WHERE project_id = $1 AND user_id = $2), '')`, x.project, c.id)
	if err != nil {
		x.t.Fatal(err)
	}
	return role
}

func TestMembers(t *testing.T) {
	t.Parallel()
	x := newTeam(t)
	owner, admin, member, viewer := x.by[roleOwner], x.by[roleAdmin], x.by[roleMember], x.by[roleViewer]

	x.run("are listed page by page, to every reader", func(t *testing.T) {
		for _, c := range []*client{viewer, x.mia, x.root} {
			var pages []string
			for path := x.path + "?limit=1&total=true"; path != ""; {
				a := c.get(path).want(200).is("total", 4)
				pages = append(pages, a.str("items.0.user.id"))
				path = a.next()
			}
			want := []string{owner.id, admin.id, member.id, viewer.id}
			slices.Sort(want)
			equal(t, "members", pages, want)
		}
		a := viewer.get(x.path)
		for i, item := range a.at("items").([]any) {
			if user := item.(map[string]any)["user"].(map[string]any); len(user) != 5 {
				t.Errorf("member %d shows %v", i, user)
			}
		}
	})
	x.run("are added once, as active users", func(t *testing.T) {
		gone := x.signUp("Gone")
		x.exec(`UPDATE users SET is_active = false WHERE id = $1`, gone.id)
		for _, row := range []struct {
			body, code, field, error string
			status                   int
		}{
			{`{"userId":"` + member.id + `","role":"viewer"}`, "already_member", "", "", 409},
			{`{"email":"` + strings.ToUpper(member.email) + `","role":"viewer"}`, "already_member", "", "", 409},
			{`{"userId":"` + gone.id + `","role":"viewer"}`, "validation_failed", "userId", "not_found", 422},
			{`{"userId":"` + newUUID().String() + `","role":"viewer"}`, "validation_failed", "userId", "not_found", 422},
			{`{"userId":"` + x.outsider.id + `"}`, "validation_failed", "role", "not_allowed", 422},
			{`{"userId":"` + x.outsider.id + `","role":"boss"}`, "validation_failed", "role", "not_allowed", 422},
			{`{"userId":"` + x.outsider.id + `","email":"a@example.org","role":"viewer"}`, "validation_failed", "userId", "required", 422},
			{`{"role":"viewer"}`, "validation_failed", "userId", "required", 422},
			{`{"email":"nobody","role":"viewer"}`, "validation_failed", "email", "invalid_email", 422},
		} {
			a := owner.post(x.path, row.body).problem(row.status, row.code)
			if row.field != "" {
				a.field(row.field, row.error)
			}
		}
		if x.roleOf(member) != roleMember || x.roleOf(x.outsider) != "" {
			t.Error("a refused request changed a role")
		}
	})
	x.run("change by version", func(t *testing.T) {
		path := x.path + "/" + viewer.id
		owner.patch(path, `{"role":"viewer"}`).want(200).is("version", 1)
		tag := owner.with("If-Match", `"1"`).patch(path, `{"role":"member"}`).want(200).is("role", "member").header.Get("ETag")
		if a := owner.with("If-Match", `"1"`).patch(path, `{"role":"admin"}`).problem(412, "version_mismatch"); tag != `"2"` || a.header.Get("ETag") != tag {
			t.Errorf("the tags are %s and %s", tag, a.header.Get("ETag"))
		}
		owner.with("If-Match", `"1"`).delete(path).problem(412, "version_mismatch")
		owner.patch(path, `{"role":"viewer"}`).want(200)
		owner.patch(x.path+"/"+newUUID().String(), `{"role":"viewer"}`).problem(404, "not_found")
		owner.patch(x.path+"/x", `{"role":"viewer"}`).problem(404, "not_found")
		a := owner.get("/api/v1/projects/" + x.project + "/activity").want(200)
		a.is("items.0.kind", "member.updated").is("items.0.subjectId", viewer.id).is("items.0.actorId", owner.id).is("items.0.changes.role", "[member viewer]")
	})
	x.run("lose their tasks and rights at once when they are removed, and history says so", func(t *testing.T) {
		task := owner.task(x.project, "Task", `"assigneeId":"`+member.id+`"`)
		trashed := owner.task(x.project, "Trashed", `"assigneeId":"`+member.id+`"`)
		owner.delete("/api/v1/tasks/" + trashed).want(204)
		member.patch("/api/v1/tasks/"+task, `{"title":"Still mine"}`).want(200)
		admin.delete(x.path + "/" + member.id).want(204)
		member.patch("/api/v1/tasks/"+task, `{"title":"Too late"}`).problem(404, "not_found")
		member.get("/api/v1/tasks/"+task).problem(404, "not_found")
		owner.get("/api/v1/tasks/"+task).want(200).is("assigneeId", nil).is("version", 3)
		owner.post("/api/v1/tasks/"+trashed+"/restore", "").want(200).is("assigneeId", nil)
		history := owner.history(task, map[string]string{admin.id: "admin", member.id: "member"})
		if got := history[len(history)-1]; got != "task.updated admin assigneeId:member><nil>" {
			t.Errorf("the history ends with %s", got)
		}
		admin.delete(x.path+"/"+member.id).problem(404, "not_found")
		owner.add(x.project, member, roleMember)
	})
	x.run("may leave, but for the last owner", func(t *testing.T) {
		viewer.delete(x.path + "/" + viewer.id).want(204)
		viewer.get("/api/v1/projects/"+x.project).problem(404, "not_found")
		owner.delete(x.path+"/"+owner.id).problem(409, "last_owner")
		owner.patch(x.path+"/"+owner.id, `{"role":"admin"}`).problem(409, "last_owner")
		x.root.patch(x.path+"/"+owner.id, `{"role":"admin"}`).problem(409, "last_owner")
		x.root.delete(x.path+"/"+owner.id).problem(409, "last_owner")
		x.mia.delete(x.path+"/"+x.mia.id).problem(404, "not_found")
		owner.patch(x.path+"/"+admin.id, `{"role":"owner"}`).want(200)
		owner.delete(x.path + "/" + owner.id).want(204)
		admin.add(x.project, owner, roleOwner)
		admin.patch(x.path+"/"+admin.id, `{"role":"admin"}`).want(200)
	})
}

func TestInvitations(t *testing.T) {
	t.Parallel()
	x := newTeam(t)
	owner, admin, member := x.by[roleOwner], x.by[roleAdmin], x.by[roleMember]
	project := "/api/v1/projects/" + x.project
	invite := func(c *client, email string, role memberRole) *answer {
		return c.post(x.path, `{"email":"`+email+`","role":"`+string(role)+`"}`)
	}
	accept := func(c *client, token string) *answer {
		return c.post("/api/v1/invitations/accept", `{"token":"`+token+`"}`)
	}
	count := func() int { return owner.get(project + "/invitations?total=true").want(200).num("total") }

	x.run("make a member of whoever registers with the address", func(t *testing.T) {
		a := invite(admin, "New@Example.org", roleMember).want(202)
		a.is("email", "new@example.org").is("role", "member").is("invitedBy", admin.id).is("projectId", x.project)
		if a.header.Get("Location") != project+"/invitations/"+a.str("id") {
			t.Errorf("Location is %s", a.header.Get("Location"))
		}
		listed := owner.get(project+"/invitations").want(200).is("items.0.id", a.str("id"))
		if listed.at("items.0.token") != nil {
			t.Error("the list shows tokens")
		}
		if a.str("token") == "" || strings.Contains(x.log.String(), a.str("token")) {
			t.Error("no token, or it is in the log")
		}
		carl := &client{s: x.testServer, email: "new@example.org"}
		registered := carl.post("/api/v1/auth/register", jsonOf(newAccount{carl.email, testPassword, "Carl", "Tester"})).want(201)
		carl.token, carl.id = registered.str("accessToken"), registered.str("user.id")
		carl.get(project).problem(404, "not_found")
		accept(carl, a.str("token")).want(200).is("id", x.project)
		if x.roleOf(carl) != roleMember || count() != 0 {
			t.Errorf("the role is %q and %d invitations are left", x.roleOf(carl), count())
		}
		accept(carl, a.str("token")).problem(404, "not_found")
		owner.get(project+"/activity").is("items.0.kind", "member.added").is("items.0.subjectId", carl.id).is("items.0.actorId", carl.id).is("items.1.kind", "invitation.created")
	})
	x.run("are for their own address, until they expire", func(t *testing.T) {
		late := x.signUp("Late")
		x.exec(`UPDATE users SET is_active = false WHERE id = $1`, late.id)
		token := invite(owner, late.email, roleViewer).want(202).str("token")
		x.exec(`UPDATE users SET is_active = true WHERE id = $1`, late.id)
		accept(x.outsider, token).problem(404, "not_found")
		accept(owner, token).problem(404, "not_found")
		accept(late, token+"x").problem(404, "not_found")
		accept(late, "").problem(422, "validation_failed").field("token", "required")
		x.exec(`UPDATE invitations SET expires_at = now() - interval '1 second'`)
		accept(late, token).problem(404, "not_found")
		x.exec(`UPDATE invitations SET expires_at = now() + interval '1 hour'`)
		owner.delete(project).want(204)
		accept(late, token).problem(404, "not_found")
		owner.post(project+"/restore", "").want(200)
		accept(late, token).want(200)
		if x.roleOf(late) != roleViewer {
			t.Errorf("the role is %q", x.roleOf(late))
		}
	})
	x.run("replace the earlier one to the same address", func(t *testing.T) {
		first := invite(owner, "again@example.org", roleMember).want(202)
		second := invite(owner, "again@example.org", roleViewer).want(202)
		if count() != 1 || first.str("token") == second.str("token") {
			t.Errorf("%d invitations; tokens %s and %s", count(), first.str("token"), second.str("token"))
		}
		again := &client{s: x.testServer, email: "again@example.org"}
		registered := again.post("/api/v1/auth/register", jsonOf(newAccount{again.email, testPassword, "Again", "Tester"})).want(201)
		again.token, again.id = registered.str("accessToken"), registered.str("user.id")
		accept(again, first.str("token")).problem(404, "not_found")
		var both sync.WaitGroup
		twice := *again
		var one, two *answer
		both.Go(func() { one = accept(again, second.str("token")) })
		both.Go(func() { two = accept(&twice, second.str("token")) })
		both.Wait()
		if one.status+two.status != 200+404 || x.roleOf(again) != roleViewer {
			t.Errorf("got %d and %d, and the role %q", one.status, two.status, x.roleOf(again))
		}
	})
	x.run("are given and taken back by the rule for roles", func(t *testing.T) {
		for _, role := range []memberRole{roleAdmin, roleOwner} {
			invite(admin, "high@example.org", role).problem(403, "forbidden")
		}
		invite(member, "low@example.org", roleViewer).problem(403, "forbidden")
		high := invite(owner, "high@example.org", roleAdmin).want(202).str("id")
		invite(admin, "high@example.org", roleViewer).problem(403, "forbidden")
		admin.delete(project+"/invitations/"+high).problem(403, "forbidden")
		low := invite(owner, "low@example.org", roleMember).want(202).str("id")
		member.get(project+"/invitations").problem(403, "forbidden")
		member.delete(project+"/invitations/"+low).problem(403, "forbidden")
		admin.get(project+"/invitations?total=true").want(200).is("total", 2).is("items.0.id", low)
		admin.delete(project + "/invitations/" + low).want(204)
		admin.delete(project+"/invitations/"+low).problem(404, "not_found")
		other := owner.project("Other")
		owner.delete("/api/v1/projects/"+other+"/invitations/"+high).problem(404, "not_found")
		owner.delete(project + "/invitations/" + high).want(204)
		owner.get(project+"/activity").is("items.0.kind", "invitation.deleted").is("items.0.changes.email", "[high@example.org <nil>]")
	})
	x.run("leave a member the role he has", func(t *testing.T) {
		dora := x.signUp("Dora")
		x.exec(`UPDATE users SET is_active = false WHERE id = $1`, dora.id)
		token := invite(owner, dora.email, roleViewer).want(202).str("token")
		x.exec(`UPDATE users SET is_active = true WHERE id = $1`, dora.id)
		x.exec(`INSERT INTO members (project_id, user_id, role) VALUES ($1, $2, 'admin')`, x.project, dora.id)
		accept(dora, token).want(200)
		if x.roleOf(dora) != roleAdmin {
			t.Errorf("the role is %q", x.roleOf(dora))
		}
	})
	x.run("end when the user is added otherwise", func(t *testing.T) {
		x.exec(`UPDATE users SET is_active = false WHERE id = $1`, x.outsider.id)
		invite(owner, x.outsider.email, roleViewer).want(202)
		x.exec(`UPDATE users SET is_active = true WHERE id = $1`, x.outsider.id)
		before := count()
		owner.add(x.project, x.outsider, roleViewer)
		if count() != before-1 {
			t.Errorf("%d invitations are left of %d", count(), before)
		}
	})
}
