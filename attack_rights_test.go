package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// What everybody may do by role on every route, and that a refusal has no effect, is the matter of
// routes_test.go. Here somebody tries to get around it.
func TestAttackRights(t *testing.T) {
	t.Parallel()
	a := countAttacks(t, 1500)
	a.swappedIDs(t)
	a.foreignIDs(t)
	a.invitations(t)
	a.outsiders(t)
	a.canary(t)
	a.roles(t)
}

var anyUUID = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)

// swappedIDs sends to every route with two ids one of a project and one of another. He who does owns
// both projects, so nothing but that they do not belong together keeps him from it.
func (a *attacks) swappedIDs(t *testing.T) {
	sc := newScene(t)
	here, there := sc.project, sc.newProject()
	in := func(project string, make func(*scene, *client) sample) sample {
		sc.project = project
		return make(sc, sc.owner)
	}
	tried := 0
	for _, rt := range sc.routes() {
		if strings.Count(rt.pattern, "{") < 2 || rt.who == globalAdmins || rt.who == anyone {
			continue
		}
		method, _, _ := strings.Cut(rt.pattern, " ")
		mine, his := in(here, samples[rt.pattern]), in(there, samples[rt.pattern])
		ids, others := anyUUID.FindAllString(mine.path, -1), anyUUID.FindAllString(his.path, -1)
		if len(ids) != 2 || len(others) != 2 {
			t.Fatalf("%s: the samples are %s and %s", rt.pattern, mine.path, his.path)
		}
		for i := range ids {
			for name, path := range map[string]string{
				"of another project":     strings.Replace(mine.path, ids[i], others[i], 1),
				"of the other project":   strings.Replace(his.path, others[i], ids[i], 1),
				"of nothing":             strings.Replace(mine.path, ids[i], newUUID().String(), 1),
				"in the other's place":   strings.Replace(mine.path, ids[i], ids[1-i], 1),
				"in capitals":            strings.Replace(mine.path, ids[i], strings.ToUpper(ids[i]), 1),
				"with braces":            strings.Replace(mine.path, ids[i], "%7B"+ids[i]+"%7D", 1),
				"without its dashes":     strings.Replace(mine.path, ids[i], strings.ReplaceAll(ids[i], "-", ""), 1),
				"with a NUL after it":    strings.Replace(mine.path, ids[i], ids[i]+"%00", 1),
				"with another behind it": strings.Replace(mine.path, ids[i], ids[i]+"%2F"+others[i], 1),
			} {
				if name == "in the other's place" && strings.Contains(rt.pattern, "blockers") && method == "PUT" {
					continue // a task that blocks itself is another matter
				}
				a.run(sc.testServer, fmt.Sprintf("%s with the id %d %s", rt.pattern, i+1, name), func(t *testing.T) {
					before := sc.state()
					sc.owner.refused(method, path, mine.body, 404, "not_found")
					sc.unchanged(before, "an id that does not belong there")
				})
				tried++
			}
		}
		for _, good := range []sample{mine, his} {
			if got := sc.owner.do(method, good.path, good.body); got.status >= 300 {
				t.Errorf("%s: got %d with ids that belong together: %s", got.what, got.status, got.body)
			}
		}
	}
	if tried < 50 {
		t.Errorf("only %d ids were swapped", tried)
	}
}

// foreignIDs sends ids in bodies and filters that do not belong there, and ids of what is another
// user's own.
func (a *attacks) foreignIDs(t *testing.T) {
	sc := newScene(t)
	here, there := sc.project, sc.newProject()
	secret := sc.admin.project("Secret")
	task, next, foreign, hidden := sc.owner.task(here, "Here"), sc.owner.task(here, "Next"), sc.owner.task(there, "There"), sc.admin.task(secret, "Secret")
	trashed := sc.owner.task(here, "Trashed")
	sc.owner.delete("/api/v1/tasks/" + trashed).want(204)
	said, hiddenSaid := sc.owner.comment(task, "Said"), sc.admin.comment(hidden, "Secret")
	session := sc.member.signIn()
	token := sc.member.post(tokensPath, `{"name":"His","scopes":["read"]}`).want(201).header.Get("Location")
	reader := sc.outsider
	sc.owner.add(there, reader, roleViewer)

	for name, test := range map[string]struct {
		c                  *client
		method, path, body string
		status             int
		code, field, wrong string
	}{
		"a parent in another project":             {sc.owner, "POST", "/tasks", `{"projectId":"` + here + `","title":"x","parentId":"` + foreign + `"}`, 422, "validation_failed", "parentId", "not_found"},
		"a parent in a secret project":            {sc.owner, "POST", "/tasks", `{"projectId":"` + here + `","title":"x","parentId":"` + hidden + `"}`, 422, "validation_failed", "parentId", "not_found"},
		"a parent in the trash":                   {sc.owner, "POST", "/tasks", `{"projectId":"` + here + `","title":"x","parentId":"` + trashed + `"}`, 422, "validation_failed", "parentId", "not_found"},
		"a parent of another kind":                {sc.owner, "POST", "/tasks", `{"projectId":"` + here + `","title":"x","parentId":"` + here + `"}`, 422, "validation_failed", "parentId", "not_found"},
		"a new parent in another project":         {sc.owner, "PATCH", "/tasks/" + task, `{"parentId":"` + foreign + `"}`, 422, "validation_failed", "parentId", "not_found"},
		"itself as parent":                        {sc.owner, "PATCH", "/tasks/" + task, `{"parentId":"` + task + `"}`, 422, "validation_failed", "parentId", "cycle"},
		"an assignee who is no member":            {sc.owner, "POST", "/tasks", `{"projectId":"` + here + `","title":"x","assigneeId":"` + sc.outsider.id + `"}`, 422, "validation_failed", "assigneeId", "not_a_member"},
		"an assignee who sees all":                {sc.owner, "POST", "/tasks", `{"projectId":"` + here + `","title":"x","assigneeId":"` + sc.admin.id + `"}`, 422, "validation_failed", "assigneeId", "not_a_member"},
		"an assignee of another kind":             {sc.owner, "PATCH", "/tasks/" + task, `{"assigneeId":"` + here + `"}`, 422, "validation_failed", "assigneeId", "not_a_member"},
		"an assignee who does not exist":          {sc.owner, "PATCH", "/tasks/" + task, `{"assigneeId":"` + newUUID().String() + `"}`, 422, "validation_failed", "assigneeId", "not_a_member"},
		"a task's project, by changing it":        {sc.owner, "PATCH", "/tasks/" + task, `{"projectId":"` + there + `"}`, 422, "validation_failed", "projectId", "unknown_field"},
		"a task's creator":                        {sc.owner, "PATCH", "/tasks/" + task, `{"createdBy":"` + sc.member.id + `"}`, 422, "validation_failed", "createdBy", "unknown_field"},
		"a task's number":                         {sc.owner, "POST", "/tasks", `{"projectId":"` + here + `","title":"x","number":1}`, 422, "validation_failed", "number", "unknown_field"},
		"an id of one's choice":                   {sc.owner, "POST", "/tasks", `{"projectId":"` + here + `","title":"x","id":"` + foreign + `"}`, 422, "validation_failed", "id", "unknown_field"},
		"a project that one only reads":           {reader, "POST", "/tasks", `{"projectId":"` + there + `","title":"x"}`, 403, "forbidden", "", ""},
		"a secret project":                        {reader, "POST", "/tasks", `{"projectId":"` + secret + `","title":"x"}`, 404, "not_found", "", ""},
		"a place before another's":                {sc.owner, "POST", "/tasks/" + task + "/move", `{"before":"` + foreign + `"}`, 422, "validation_failed", "before", "not_found"},
		"a place after a secret one's":            {sc.owner, "POST", "/tasks/" + task + "/move", `{"after":"` + hidden + `"}`, 422, "validation_failed", "after", "not_found"},
		"a place after one in the trash":          {sc.owner, "POST", "/tasks/" + task + "/move", `{"after":"` + trashed + `"}`, 422, "validation_failed", "after", "not_found"},
		"a move to a secret project":              {sc.owner, "POST", "/tasks/" + task + "/move", `{"projectId":"` + secret + `"}`, 404, "not_found", "", ""},
		"a move by who only reads the target":     {sc.member, "POST", "/tasks/" + task + "/move", `{"projectId":"` + secret + `"}`, 404, "not_found", "", ""},
		"a move out of what one only reads":       {sc.viewer, "POST", "/tasks/" + task + "/move", `{"projectId":"` + there + `"}`, 403, "forbidden", "", ""},
		"a blocker in another project":            {sc.owner, "PUT", "/tasks/" + task + "/blockers/" + foreign, "", 404, "not_found", "", ""},
		"a blocker in a secret project":           {sc.owner, "PUT", "/tasks/" + task + "/blockers/" + hidden, "", 404, "not_found", "", ""},
		"a blocker in the trash":                  {sc.owner, "PUT", "/tasks/" + task + "/blockers/" + trashed, "", 404, "not_found", "", ""},
		"a blocker of what one only reads":        {sc.viewer, "PUT", "/tasks/" + task + "/blockers/" + next, "", 403, "forbidden", "", ""},
		"a member who does not exist":             {sc.owner, "POST", "/projects/" + here + "/members", `{"userId":"` + newUUID().String() + `","role":"viewer"}`, 422, "validation_failed", "userId", "not_found"},
		"a member who is deactivated":             {sc.owner, "POST", "/projects/" + here + "/members", `{"userId":"` + sc.deactivated.id + `","role":"viewer"}`, 422, "validation_failed", "userId", "not_found"},
		"oneself as a member elsewhere":           {sc.outsider, "POST", "/projects/" + here + "/members", `{"userId":"` + sc.outsider.id + `","role":"owner"}`, 404, "not_found", "", ""},
		"oneself as more":                         {sc.member, "PATCH", "/projects/" + here + "/members/" + sc.member.id, `{"role":"owner"}`, 403, "forbidden", "", ""},
		"oneself as more, by an admin":            {sc.projectAdmin, "PATCH", "/projects/" + here + "/members/" + sc.projectAdmin.id, `{"role":"owner"}`, 403, "forbidden", "", ""},
		"an owner by inviting":                    {sc.projectAdmin, "POST", "/projects/" + here + "/members", `{"email":"second@example.org","role":"owner"}`, 403, "forbidden", "", ""},
		"a project for another":                   {sc.outsider, "POST", "/projects", `{"name":"Made","ownerId":"` + sc.admin.id + `"}`, 403, "forbidden", "", ""},
		"a project of another's making":           {sc.outsider, "POST", "/projects", `{"name":"Made","createdBy":"` + sc.admin.id + `"}`, 422, "validation_failed", "createdBy", "unknown_field"},
		"a project's owner, by changing it":       {sc.owner, "PATCH", "/projects/" + here, `{"ownerId":"` + sc.member.id + `"}`, 422, "validation_failed", "ownerId", "unknown_field"},
		"a project out of its trash":              {sc.owner, "PATCH", "/projects/" + here, `{"deletedAt":null}`, 422, "validation_failed", "deletedAt", "unknown_field"},
		"a list of a secret project":              {sc.owner, "GET", "/tasks?projectId=" + secret, "", 404, "not_found", "", ""},
		"a list of a secret project, expanded":    {sc.owner, "GET", "/tasks?projectId=" + secret + "&expand=creator", "", 404, "not_found", "", ""},
		"a list of a secret project's trash":      {sc.owner, "GET", "/tasks?projectId=" + secret + "&deleted=true", "", 404, "not_found", "", ""},
		"a change to all of a secret project":     {sc.owner, "POST", "/tasks/bulk", `{"filter":{"projectId":"` + secret + `"},"delete":true}`, 404, "not_found", "", ""},
		"a comment on a secret task":              {sc.owner, "POST", "/tasks/" + hidden + "/comments", `{"body":"x"}`, 404, "not_found", "", ""},
		"a comment on what one only reads":        {sc.viewer, "POST", "/tasks/" + task + "/comments", `{"body":"x"}`, 403, "forbidden", "", ""},
		"a comment on a task in the trash":        {sc.owner, "POST", "/tasks/" + trashed + "/comments", `{"body":"x"}`, 404, "not_found", "", ""},
		"a comment in another's name":             {sc.owner, "POST", "/tasks/" + task + "/comments", `{"body":"x","authorId":"` + sc.member.id + `"}`, 422, "validation_failed", "authorId", "unknown_field"},
		"a comment's task":                        {sc.owner, "PATCH", "/comments/" + said, `{"taskId":"` + foreign + `"}`, 422, "validation_failed", "taskId", "unknown_field"},
		"another's comment":                       {sc.member, "PATCH", "/comments/" + said, `{"body":"x"}`, 403, "forbidden", "", ""},
		"another's comment, by an admin":          {sc.admin, "PATCH", "/comments/" + said, `{"body":"x"}`, 403, "forbidden", "", ""},
		"another's comment, by deleting it":       {sc.member, "DELETE", "/comments/" + said, "", 403, "forbidden", "", ""},
		"a secret comment":                        {sc.owner, "GET", "/comments/" + hiddenSaid, "", 404, "not_found", "", ""},
		"a secret comment's history":              {sc.owner, "GET", "/comments/" + hiddenSaid + "/history", "", 404, "not_found", "", ""},
		"a secret comment, by deleting it":        {sc.owner, "DELETE", "/comments/" + hiddenSaid, "", 404, "not_found", "", ""},
		"a comment by the id of its task":         {sc.owner, "GET", "/comments/" + task, "", 404, "not_found", "", ""},
		"a mention of who is no member":           {sc.owner, "POST", "/tasks/" + task + "/comments", `{"body":"@[` + sc.outsider.id + `]"}`, 422, "validation_failed", "body", "not_a_member"},
		"a mention of who sees all":               {sc.owner, "POST", "/tasks/" + task + "/comments", `{"body":"@[` + sc.admin.id + `]"}`, 422, "validation_failed", "body", "not_a_member"},
		"a mention of who does not exist":         {sc.owner, "PATCH", "/comments/" + said, `{"body":"@[` + newUUID().String() + `]"}`, 422, "validation_failed", "body", "not_a_member"},
		"another user's session":                  {sc.owner, "DELETE", "/me/sessions/" + sessionOf(session), "", 404, "not_found", "", ""},
		"another user's session, by an admin":     {sc.admin, "DELETE", "/me/sessions/" + sessionOf(session), "", 404, "not_found", "", ""},
		"another user's API token":                {sc.owner, "DELETE", strings.TrimPrefix(token, "/api/v1"), "", 404, "not_found", "", ""},
		"another user's API token, by an admin":   {sc.admin, "DELETE", strings.TrimPrefix(token, "/api/v1"), "", 404, "not_found", "", ""},
		"another user's account":                  {sc.owner, "PATCH", "/users/" + sc.member.id, `{"isActive":false}`, 403, "forbidden", "", ""},
		"one's own account, as an admin does":     {sc.owner, "PATCH", "/users/" + sc.owner.id, `{"role":"admin"}`, 403, "forbidden", "", ""},
		"an account by a manager":                 {sc.manager, "PATCH", "/users/" + sc.manager.id, `{"role":"admin"}`, 403, "forbidden", "", ""},
		"a stranger's account":                    {sc.deactivated, "GET", "/users/" + sc.owner.id, "", 401, "unauthenticated", "", ""},
		"an account that one shares nothing with": {sc.outsider.s.signUp("Alone"), "GET", "/users/" + sc.owner.id, "", 404, "not_found", "", ""},
		"a task by the id of its project":         {sc.owner, "GET", "/tasks/" + here, "", 404, "not_found", "", ""},
		"a project by the id of its task":         {sc.owner, "GET", "/projects/" + task, "", 404, "not_found", "", ""},
		"a project by the id of its owner":        {sc.owner, "GET", "/projects/" + sc.owner.id + "/activity", "", 404, "not_found", "", ""},
		"an account's history as a task's":        {sc.owner, "GET", "/tasks/" + sc.owner.id + "/activity", "", 404, "not_found", "", ""},
		"an account's history as a project's":     {sc.admin, "GET", "/projects/" + sc.member.id + "/activity", "", 404, "not_found", "", ""},
		"a project's history as a task's":         {sc.owner, "GET", "/tasks/" + here + "/activity", "", 404, "not_found", "", ""},
	} {
		a.run(sc.testServer, "by an id: "+name, func(t *testing.T) {
			before := sc.state()
			got := test.c.refused(test.method, "/api/v1"+test.path, test.body, test.status, test.code)
			if test.field != "" {
				got.field(test.field, test.wrong)
			}
			sc.unchanged(before, "an id that does not belong there")
		})
	}
	a.run(sc.testServer, "by an id: many tasks, some of them secret", func(t *testing.T) {
		before := sc.state()
		got := sc.viewer.post("/api/v1/tasks/bulk", `{"ids":["`+task+`","`+foreign+`","`+hidden+`","`+newUUID().String()+`"],"delete":true}`).want(200)
		if got.statuses() != "403 403 404 404" || got.at("items.2.problem.code") != got.at("items.3.problem.code") || got.at("items.2.problem.detail") != got.at("items.3.problem.detail") {
			t.Errorf("got %s", got.body)
		}
		sc.unchanged(before, "a bulk change of what is not one's own")
	})
	a.run(sc.testServer, "by an id: another user's entries of an inbox", func(t *testing.T) {
		id := newUUID()
		sc.sql(`INSERT INTO notifications (id, user_id, kind, project_id) VALUES ($1, $2::text::uuid, 'member.added', $3::text::uuid)`, id, sc.member.id, here)
		before := sc.state()
		for _, c := range []*client{sc.owner, sc.admin, sc.outsider} {
			c.post("/api/v1/notifications/read", `{"ids":["`+id.String()+`"]}`).want(204)
		}
		sc.unchanged(before, "another's inbox")
		sc.member.get("/api/v1/notifications?unread=true&total=true").want(200).is("total", 1)
	})
}

// invitations is about whom a project invites, which only its admins may know.
func (a *attacks) invitations(t *testing.T) {
	sc := newScene(t)
	path := "/api/v1/projects/" + sc.project
	invited := sc.owner.post(path+"/members", `{"email":"zyzzyva@example.org","role":"admin"}`).want(202).str("id")
	sc.owner.delete(path + "/invitations/" + invited).want(204)
	invite(sc.owner, sc.project, "zyzzyva@example.org")
	for name, c := range map[string]*client{"viewer": sc.viewer, "member": sc.member, "manager": sc.manager, "outsider": sc.outsider} {
		a.run(sc.testServer, "learning whom a project invites as a "+name, func(t *testing.T) {
			for _, what := range []string{"/activity", "/activity?limit=2&total=true", "/invitations", "/members", "/stats", ""} {
				if got := c.get(path + what); strings.Contains(string(got.body), "zyzzyva") {
					t.Errorf("%s: %s", what, got.body)
				}
			}
			c.patch(path+"/members/"+invited, `{"role":"viewer"}`).want(map[bool]int{true: 404, false: 403}[name == "outsider"])
		})
	}
	for _, c := range []*client{sc.projectAdmin, sc.owner, sc.admin} {
		c.get(path+"/activity").want(200).is("items.0.kind", "invitation.created").is("items.0.changes.email", "[<nil> zyzzyva@example.org]")
	}
	sc.viewer.get(path+"/activity").want(200).is("items.0.kind", "invitation.created").is("items.0.changes", "map[]")
}

// outsiders asks for everything in a project as somebody who is not in it, and then for what does not
// exist: the answers are the same.
func (a *attacks) outsiders(t *testing.T) {
	s := newTestServer(t)
	alice := s.signUp("Alice")
	web := alice.project("Web")
	task, other := alice.task(web, "Task"), alice.task(web, "Other")
	alice.put("/api/v1/tasks/"+task+"/blockers/"+other, "").want(200)
	trashed, gone := alice.task(web, "Trashed"), alice.project("Gone")
	alice.delete("/api/v1/tasks/" + trashed).want(204)
	alice.delete("/api/v1/projects/" + gone).want(204)
	invited := alice.post("/api/v1/projects/"+web+"/members", `{"email":"x@example.org","role":"viewer"}`).want(202).str("id")
	said := alice.comment(task, "Said")
	eve := s.signUp("Eve")
	own := eve.project("Own")
	mine := eve.task(own, "Mine")
	before := s.state()

	for _, request := range []struct{ method, path, body string }{
		{"GET", "/tasks/{task}", ""},
		{"HEAD", "/tasks/{task}", ""},
		{"PATCH", "/tasks/{task}", `{"title":"x"}`},
		{"DELETE", "/tasks/{task}", ""},
		{"POST", "/tasks/{trashed}/restore", ""},
		{"POST", "/tasks/{task}/move", `{"last":true}`},
		{"POST", "/tasks/{task}/move", `{"projectId":"` + own + `"}`},
		{"POST", "/tasks/" + mine + "/move", `{"projectId":"{web}"}`},
		{"POST", "/tasks/" + mine + "/move", `{"before":"{task}"}`},
		{"GET", "/tasks/{task}/activity", ""},
		{"GET", "/tasks/{trashed}/activity", ""},
		{"PUT", "/tasks/{task}/blockers/{other}", ""},
		{"PUT", "/tasks/" + mine + "/blockers/{other}", ""},
		{"DELETE", "/tasks/{task}/blockers/{other}", ""},
		{"PUT", "/tasks/{task}/watch", ""},
		{"DELETE", "/tasks/{task}/watch", ""},
		{"GET", "/tasks/{task}/comments", ""},
		{"GET", "/tasks/{task}/comments?total=true&expand=author", ""},
		{"POST", "/tasks/{task}/comments", `{"body":"@alice"}`},
		{"POST", "/tasks/{task}/comments", `{"body":"@[{alice}]"}`},
		{"POST", "/tasks/" + mine + "/comments", `{"body":"@[{alice}]"}`},
		{"GET", "/comments/{said}", ""},
		{"HEAD", "/comments/{said}", ""},
		{"GET", "/comments/{said}?expand=author,mentioned", ""},
		{"GET", "/comments/{said}/history", ""},
		{"PATCH", "/comments/{said}", `{"body":"x"}`},
		{"PATCH", "/comments/{said}", `{"body":"@alice"}`},
		{"DELETE", "/comments/{said}", ""},
		{"POST", "/tasks", `{"projectId":"{web}","title":"x"}`},
		{"POST", "/tasks", `{"projectId":"` + own + `","title":"x","parentId":"{task}"}`},
		{"PATCH", "/tasks/" + mine, `{"parentId":"{task}"}`},
		{"GET", "/tasks?projectId={web}", ""},
		{"GET", "/tasks?projectId={web}&total=true&search=task", ""},
		{"GET", "/tasks?parentId={task}", ""},
		{"GET", "/tasks?createdBy={alice}&total=true", ""},
		{"GET", "/tasks?assigneeId={alice}&total=true", ""},
		{"POST", "/tasks/bulk", `{"ids":["{task}","{trashed}"],"delete":true}`},
		{"POST", "/tasks/bulk", `{"ids":["{task}","{trashed}"],"delete":true,"dryRun":true}`},
		{"POST", "/tasks/bulk", `{"filter":{"projectId":"{web}"},"delete":true}`},
		{"GET", "/projects/{web}", ""},
		{"HEAD", "/projects/{web}", ""},
		{"PATCH", "/projects/{web}", `{"name":"Mine"}`},
		{"DELETE", "/projects/{web}", ""},
		{"POST", "/projects/{web}/restore", ""},
		{"POST", "/projects/{gone}/restore", ""},
		{"GET", "/projects/{web}/stats", ""},
		{"GET", "/projects/{web}/activity", ""},
		{"GET", "/projects/{web}/members", ""},
		{"POST", "/projects/{web}/members", `{"email":"x@example.org","role":"viewer"}`},
		{"POST", "/projects/{web}/members", `{"email":"` + alice.email + `","role":"viewer"}`},
		{"POST", "/projects/{web}/members", `{"userId":"` + eve.id + `","role":"owner"}`},
		{"PATCH", "/projects/{web}/members/{alice}", `{"role":"viewer"}`},
		{"DELETE", "/projects/{web}/members/{alice}", ""},
		{"DELETE", "/projects/{web}/members/" + eve.id, ""},
		{"GET", "/projects/{web}/invitations", ""},
		{"DELETE", "/projects/{web}/invitations/{invited}", ""},
		{"GET", "/users/{alice}", ""},
		{"PATCH", "/users/{alice}", `{"role":"member"}`},
	} {
		for _, conditions := range [][]string{nil, {"If-None-Match", "*"}, {"If-Match", "*"}, {"If-Match", `"1"`}, {"If-Match", `"99"`}, {"Idempotency-Key", "eves"}} {
			a.tried++
			ask := func(ids map[string]string) string {
				path, body := request.path, request.body
				for name, id := range ids {
					path, body = strings.ReplaceAll(path, "{"+name+"}", id), strings.ReplaceAll(body, "{"+name+"}", id)
				}
				if len(conditions) > 0 {
					eve.with(conditions[0], conditions[1]+map[bool]string{true: newUUID().String()}[conditions[0] == "Idempotency-Key"])
				}
				got := eve.do(request.method, "/api/v1"+path, body)
				text := string(got.body)
				for name, id := range ids {
					text = strings.ReplaceAll(text, id, name)
				}
				if got.status >= 400 && request.method != "HEAD" {
					text = strings.ReplaceAll(text, got.str("requestId"), "request")
				}
				return fmt.Sprint(got.status, " ", got.header.Get("ETag"), got.header.Get("Content-Length"), got.header.Get("Link"), text)
			}
			real := map[string]string{"task": task, "other": other, "trashed": trashed, "web": web, "gone": gone, "invited": invited, "alice": alice.id, "said": said}
			none := map[string]string{}
			for name := range real {
				none[name] = newUUID().String()
			}
			if got, want := ask(real), ask(none); got != want {
				t.Errorf("%s %s %v: the outsider got\n%s\nand for what does not exist\n%s", request.method, request.path, conditions, got, want)
			}
		}
	}
	s.sql(`DELETE FROM idempotency_keys`) // what succeeded without an effect is remembered
	s.unchanged(before, "an outsider")
}

// canary puts a word that is nowhere else into every text of a project, and looks for it, and for the
// project's ids, in all that others are answered.
func (a *attacks) canary(t *testing.T) {
	const word = "zyzzyva"
	sc := newScene(t)
	sc.startWorking()
	// The project is one of hers; the others share nothing with it, or do not any more.
	keeper, former, removed := sc.signUp("Keeper"), sc.signUp("Former"), sc.signUp("Removed")
	sc.sql(`UPDATE users SET first_name = $2, last_name = $2, email = $2 || '@example.org', avatar_url = 'https://example.org/' || $2 WHERE id = $1::text::uuid`, keeper.id, word)
	made := keeper.post("/api/v1/projects", `{"name":"`+word+`","description":"`+word+`","key":"ZYZZYVA"}`).want(201)
	secret := made.str("id")
	keeper.patch("/api/v1/projects/"+secret, `{"description":"`+word+` again"}`).want(200)
	for _, c := range []*client{former, removed} {
		keeper.add(secret, c, roleAdmin)
	}
	task := former.task(secret, word, `"description":"`+word+`"`, `"labels":["`+word+`"]`, `"assigneeId":"`+former.id+`"`, `"dueDate":"`+time.Now().UTC().Format(time.DateOnly)+`"`)
	keeper.patch("/api/v1/tasks/"+task, `{"title":"`+word+` changed","assigneeId":"`+removed.id+`"}`).want(200)
	below := keeper.task(secret, word+" below", `"parentId":"`+task+`"`, `"assigneeId":"`+former.id+`"`)
	keeper.put("/api/v1/tasks/"+task+"/blockers/"+below, "").want(200)
	trashed := keeper.task(secret, word+" trashed")
	keeper.delete("/api/v1/tasks/" + trashed).want(204)
	former.put("/api/v1/tasks/"+task+"/watch", "").want(204)
	said := former.comment(task, word+", @"+word+" and @["+removed.id+"]")
	former.patch("/api/v1/comments/"+said, `{"body":"`+word+` edited"}`).want(200)
	told := keeper.comment(task, "@["+former.id+"], "+word)
	keeper.patch("/api/v1/comments/"+told, `{"body":"`+word+` again"}`).want(200)
	invited := keeper.post("/api/v1/projects/"+secret+"/members", `{"email":"`+word+`.guest@example.org","role":"viewer"}`).want(202)
	cursors := map[string]string{}
	for _, path := range []string{"/api/v1/tasks?limit=1", "/api/v1/tasks?limit=1&projectId=" + secret, "/api/v1/projects/" + secret + "/activity?limit=1", "/api/v1/tasks/" + task + "/activity?limit=1", "/api/v1/projects/" + secret + "/members?limit=1"} {
		cursors[path] = keeper.get(path).want(200).str("next")
	}
	eventually(t, 30*time.Second, "the inboxes are filled", func() bool { return sc.living() == 0 })
	former.get("/api/v1/notifications?total=true").want(200).is("items.0.projectId", secret)
	robot := former.tokenFor("write", "admin")
	robot.get("/api/v1/projects/" + secret).want(200)
	keeper.keyed("keepers").post("/api/v1/tasks", `{"projectId":"`+secret+`","title":"`+word+` once"}`).want(201)
	former.delete("/api/v1/projects/" + secret + "/members/" + former.id).want(204)
	keeper.delete("/api/v1/projects/" + secret + "/members/" + removed.id).want(204)
	eventually(t, 30*time.Second, "all is told", func() bool { return sc.living() == 0 })

	ids := []string{secret, task, below, trashed, said, told, invited.str("id"), keeper.id}
	project := sc.project
	requests := [][3]string{} // method, path, body
	for _, rt := range sc.routes() {
		method, path, _ := strings.Cut(rt.pattern, " ")
		if !strings.HasPrefix(path, "/api/v1/") || rt.who == anyone || rt.who == inPerson && method != "GET" {
			continue
		}
		path = strings.NewReplacer("{userId}", keeper.id, "{invitationId}", invited.str("id"), "{otherId}", below).Replace(path)
		of := []string{secret, task, trashed, "ZYZZYVA-1", keeper.id}
		if strings.HasPrefix(path, "/api/v1/comments/") {
			of = []string{said, told, task}
		}
		for _, id := range of {
			at := strings.Replace(path, "{id}", id, 1)
			made := samples[rt.pattern](sc, sc.owner)
			requests = append(requests, [3]string{method, at, strings.ReplaceAll(made.body, project, secret)})
			if !strings.Contains(path, "{id}") {
				break
			}
		}
	}
	for _, query := range []string{
		"tasks?search=" + word, "tasks?search=zyz&total=true", "tasks?search=" + word + "&sort=-priority&total=true", "tasks?label=" + word + "&total=true", "tasks?expand=assignee,creator,project&limit=100", "tasks?deleted=true&limit=100", "tasks?assigneeId=me", "tasks?createdBy=me&total=true",
		"tasks?createdBy=me&deleted=true", "tasks?createdBy=" + keeper.id + "&total=true", "tasks?assigneeId=" + keeper.id, "tasks?parentId=" + task + "&total=true", "tasks?overdue=false&limit=100", "tasks?updatedSince=2020-01-01T00:00:00Z&limit=100&sort=-updatedAt", "tasks?dueFrom=2020-01-01&sort=dueDate",
		"tasks?projectId=" + secret, "tasks?projectId=" + secret + "&expand=project", "tasks?projectId=" + secret + "&deleted=true", "tasks?projectId=" + secret + "&total=true&search=" + word, "tasks?projectId=" + secret + "&assigneeId=me", "tasks?projectId=" + secret + "&overdue=true",
		"projects?search=" + word + "&total=true", "projects?search=ZYZ", "projects?deleted=true", "projects?sort=key&limit=100", "users?search=" + word + "&total=true", "users?limit=100", "users?search=example.org&limit=100", "notifications?limit=100&total=true", "notifications?unread=true", "me/export", "me", "tasks/ZYZZYVA-1", "tasks/ZYZZYVA-1/activity", "tasks/ZYZZYVA-1/comments?expand=author,mentioned&total=true",
		"comments/" + said + "?expand=author,mentioned", "comments/" + told + "/history?expand=mentioned&total=true",
	} {
		requests = append(requests, [3]string{"GET", "/api/v1/" + query, ""}, [3]string{"HEAD", "/api/v1/" + query, ""})
	}
	for _, filter := range []string{`{"search":"` + word + `"}`, `{"label":"` + word + `"}`, `{"createdBy":"me"}`, `{"createdBy":"` + keeper.id + `"}`, `{"parentId":"` + task + `"}`, `{"status":"todo"}`} {
		requests = append(requests, [3]string{"POST", "/api/v1/tasks/bulk", `{"filter":` + filter + `,"set":{"priority":"low"},"dryRun":true}`}, [3]string{"POST", "/api/v1/tasks/bulk", `{"filter":` + filter + `,"delete":true}`})
	}
	for path, next := range cursors {
		requests = append(requests, [3]string{"GET", path + "&cursor=" + next, ""})
	}
	found := 0
	for _, request := range requests {
		if got := keeper.do("GET", request[1], ""); request[0] == "GET" && strings.Contains(strings.ToLower(string(got.body)), word) {
			found++ // so it is there to be found
		}
	}
	if found < 30 || len(cursors) != 5 || slices.Contains([]string{cursors["/api/v1/tasks?limit=1"]}, "") {
		t.Errorf("the word is in %d answers to its owner, with the cursors %v", found, cursors)
	}
	before := sc.number(`SELECT seq FROM projects WHERE id = $1::text::uuid`, secret)
	for name, c := range map[string]*client{"a stranger": sc.outsider, "a former member": former, "a member who was removed": removed, "a former member's program": robot, "an owner of another project": sc.owner} {
		a.run(sc.testServer, "looking for a word as "+name, func(t *testing.T) {
			for _, request := range requests {
				a.tried++
				got := c.do(request[0], request[1], request[2])
				text := strings.ToLower(string(got.body) + fmt.Sprint(got.header))
				text = strings.ReplaceAll(text, `"projectname":"`+word+`"`, "") // what he was removed from
				for _, own := range []string{request[1], request[2]} {          // what he sent he may see again
					for _, piece := range append(anyUUID.FindAllString(own, -1), "zyzzyva-1", "search="+word, word) {
						if strings.Contains(strings.ToLower(own), piece) && (got.status >= 400 || piece != word) {
							text = strings.ReplaceAll(text, piece, "")
						}
					}
				}
				for _, leak := range append(slices.Clone(ids), word) {
					if strings.Contains(text, leak) {
						t.Errorf("%s %s %s: %d has %s: %.600s", request[0], request[1], request[2], got.status, leak, got.body)
					}
				}
				if total := regexp.MustCompile(`"(total|matched)":\s*[1-9]`).FindString(text); total != "" && strings.Contains(request[1]+request[2], word) {
					t.Errorf("%s %s %s: %s", request[0], request[1], request[2], got.body)
				}
			}
		})
	}
	if after := sc.number(`SELECT seq FROM projects WHERE id = $1::text::uuid`, secret); after != before {
		t.Errorf("%d changes in a project by those who are not in it", after-before)
	}
	a.run(sc.testServer, "a word by another user's Idempotency-Key", func(t *testing.T) {
		for _, c := range []*client{sc.outsider, former, sc.owner} {
			c.keyed("keepers").post("/api/v1/tasks", `{"projectId":"`+secret+`","title":"`+word+` once"}`).problem(404, "not_found")
		}
	})
	keeper.get("/api/v1/tasks/"+task).want(200).is("title", word+" changed").is("assigneeId", nil)
}

// number is what a statement counts.
func (ts *testServer) number(sql string, args ...any) int {
	ts.t.Helper()
	n, err := queryValue[int](ts.t.Context(), ts.db, sql, args...)
	if err != nil {
		ts.t.Fatal(err)
	}
	return n
}

// roles has everybody give and take every role, and compares with the rule.
func (a *attacks) roles(t *testing.T) {
	x := newTeam(t)
	subject := x.signUp("Subject")
	callers := map[string]*client{"outsider": x.outsider, "global manager": x.mia, "global admin": x.root}
	rights := map[string]memberRole{"global manager": roleViewer, "global admin": roleOwner} // what they may in the project
	for role, c := range x.by {
		callers["project "+string(role)], rights["project "+string(role)] = c, role
	}
	rank := func(role memberRole) int { return slices.Index(allRoles, role) }
	// want is the status that the rule asks for: nobody gives or takes a role at or above his own; owners may.
	want := func(caller string, good int, roles ...memberRole) int {
		mine, reads := rights[caller]
		if !reads {
			return 404
		}
		for _, role := range roles {
			if rank(mine) < rank(roleAdmin) || mine != roleOwner && rank(role) >= rank(mine) {
				return 403
			}
		}
		return good
	}
	set := func(role memberRole) {
		x.exec(`DELETE FROM members WHERE project_id = $1 AND user_id = $2`, x.project, subject.id)
		if role != "" {
			x.exec(`INSERT INTO members (project_id, user_id, role) VALUES ($1, $2, $3)`, x.project, subject.id, role)
		}
	}
	check := func(what string, got *answer, want int, before, after memberRole) {
		x.t.Helper()
		a.tried++
		if got.status != want {
			x.t.Errorf("%s: got %d, want %d: %s", what, got.status, want, got.body)
		}
		if want >= 400 {
			after = before
		}
		if role := x.roleOf(subject); role != after {
			x.t.Errorf("%s: the role is now %q, want %q", what, role, after)
		}
	}
	for caller, c := range callers {
		x.run("roles given and taken by the "+caller, func(t *testing.T) {
			for _, next := range allRoles {
				set("")
				got := c.post(x.path, `{"userId":"`+subject.id+`","role":"`+string(next)+`"}`)
				check(caller+" adds a "+string(next), got, want(caller, 201, next), "", next)
				set("")
				got = c.post(x.path, `{"email":"`+subject.email+`","role":"`+string(next)+`"}`)
				check(caller+" adds by address a "+string(next), got, want(caller, 201, next), "", next)
				for _, before := range allRoles {
					set(before)
					got := c.patch(x.path+"/"+subject.id, `{"role":"`+string(next)+`"}`)
					check(caller+" makes of a "+string(before)+" a "+string(next), got, want(caller, 200, before, next), before, next)
				}
			}
			for _, before := range allRoles {
				set(before)
				got := c.delete(x.path + "/" + subject.id)
				check(caller+" removes a "+string(before), got, want(caller, 204, before), before, "")
			}
		})
	}
}
