package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestProjectFields(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	s.signUp("Root")
	alice, bob, vera := s.signUp("Alice"), s.signUp("Bob"), s.signUp("Vera")

	s.run("have their defaults", func(t *testing.T) {
		a := alice.post("/api/v1/projects", `{"name":"Web Site"}`).want(201)
		if got, want := a.header.Get("Location"), "/api/v1/projects/"+a.str("id"); got != want {
			t.Errorf("Location is %s, want %s", got, want)
		}
		a.is("key", "WS").is("name", "Web Site").is("description", "").is("color", nil).is("status", "active").is("startDate", nil).is("endDate", nil)
		a.is("settings.viewersMayComment", false).is("createdBy", alice.id).is("deletedAt", nil).is("version", 1)
		if read := alice.get("/api/v1/projects/" + a.str("id")).want(200); string(read.body) != string(a.body) {
			t.Errorf("read %s after creating %s", read.body, a.body)
		}
		alice.get("/api/v1/projects/"+a.str("id")+"/members").want(200).is("items.0.user.id", alice.id).is("items.0.role", "owner")
	})
	s.run("are kept, patched one by one, and cleared by null", func(t *testing.T) {
		full := `"description":"text","color":"#12abEF","startDate":"2026-01-01","endDate":"2026-12-31"`
		a := alice.post("/api/v1/projects", `{"name":"Full","key":"F1",`+full+`,"settings":{"viewersMayComment":true}}`).want(201)
		a.is("key", "F1").is("settings.viewersMayComment", true)
		path := "/api/v1/projects/" + a.str("id")
		for _, row := range []struct{ field, value, cleared string }{ // cleared "" means required
			{"name", `"New name"`, ""},
			{"description", `"other"`, `""`},
			{"color", `"#000000"`, `null`},
			{"status", `"completed"`, ""},
			{"startDate", `"2026-01-02"`, `null`},
			{"endDate", `"2026-12-30"`, `null`},
			{"settings", `{"viewersMayComment":false}`, ""},
		} {
			for send, want := range map[string]string{row.value: row.value, "null": row.cleared} {
				before := alice.get(path).object()
				a := alice.patch(path, `{"`+row.field+`":`+send+`}`)
				if want == "" {
					a.problem(422, "validation_failed").field(row.field, "required")
					continue
				}
				after := a.want(200).object()
				if got := jsonOf(after[row.field]); got != want {
					t.Errorf("%s is %s after sending %s, want %s", row.field, got, send, want)
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
		before := alice.get(path)
		for _, body := range []string{`{}`, `{"name":"New name"}`, `{"settings":{}}`, `{"settings":{"viewersMayComment":false}}`} {
			if a := alice.patch(path, body).want(200); string(a.body) != string(before.body) {
				t.Errorf("%s made %s of %s", body, a.body, before.body)
			}
		}
		alice.with("If-Match", `"1"`).patch(path, `{"name":"Late"}`).problem(412, "version_mismatch")
		alice.with("If-Match", before.header.Get("ETag")).patch(path, `{"name":"In time"}`).want(200)
		kinds := alice.get(path + "/activity").want(200).strs("kind")
		if kinds[0] != "project.updated" || kinds[len(kinds)-1] != "project.created" {
			t.Errorf("the activity is %v", kinds)
		}
		alice.get(path+"/activity").is("items.0.changes.name", "[New name In time]").is("items.0.actorId", alice.id)
	})
	s.run("are refused when they break a rule, by name", func(t *testing.T) {
		path := "/api/v1/projects/" + alice.project("Unchanged")
		for _, row := range []struct{ field, value, at, code string }{
			{"name", `"ab"`, "name", "too_short"},
			{"name", `"   "`, "name", "required"},
			{"name", `"` + strings.Repeat("ü", 101) + `"`, "name", "too_long"},
			{"description", `"` + strings.Repeat("ü", 10_001) + `"`, "description", "too_long"},
			{"color", `"red"`, "color", "invalid_color"},
			{"color", `"#12345"`, "color", "invalid_color"},
			{"color", `"#123456\n"`, "color", "invalid_color"},
			{"endDate", `"2026-02-30"`, "endDate", "invalid_date"},
			{"endDate", `"2025-01-01","startDate":"2026-01-01"`, "endDate", "before_start"},
			{"settings", `{"viewersMayComment":"yes"}`, "settings.viewersMayComment", "wrong_type"},
			{"settings", `{"other":true}`, "settings.other", "unknown_field"},
			{"seq", `5`, "seq", "unknown_field"},
		} {
			body := `{"` + row.field + `":` + row.value
			alice.patch(path, body+`}`).problem(422, "validation_failed").field(row.at, row.code)
			if row.field != "name" {
				body += `,"name":"Some name"`
			}
			alice.post("/api/v1/projects", body+`}`).problem(422, "validation_failed").field(row.at, row.code)
		}
		alice.patch(path, `{"key":"OTHER"}`).problem(422, "validation_failed").field("key", "unknown_field")
		alice.patch(path, `{"settings":{"viewersMayComment":null}}`).problem(422, "validation_failed").field("settings.viewersMayComment", "required")
		alice.get(path).is("version", 1)
	})
	s.run("are changed by admins only, and deleted by owners only", func(t *testing.T) {
		web := alice.project("Web")
		alice.add(web, bob, roleAdmin)
		alice.add(web, vera, roleMember)
		path := "/api/v1/projects/" + web
		vera.patch(path, `{"name":"Hers"}`).problem(403, "forbidden")
		bob.patch(path, `{"name":"His"}`).want(200)
		bob.delete(path).problem(403, "forbidden")
		alice.with("If-Match", `"1"`).delete(path).problem(412, "version_mismatch")
		alice.delete(path).want(204)
	})
	s.run("name another owner where a manager or admin says so", func(t *testing.T) {
		mia := s.withRole("Mia", globalManager)
		body := `{"name":"For Bob","ownerId":"` + bob.id + `"}`
		alice.post("/api/v1/projects", body).problem(403, "forbidden")
		made := mia.post("/api/v1/projects", body).want(201).is("createdBy", mia.id).str("id")
		bob.get("/api/v1/projects/"+made+"/members?total=true").want(200).is("total", 1).is("items.0.user.id", bob.id).is("items.0.role", "owner")
		mia.post("/api/v1/projects", `{"name":"For nobody","ownerId":"`+newUUID().String()+`"}`).problem(422, "validation_failed").field("ownerId", "not_found")
	})
}

func TestProjectKeys(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	alice := s.signUp("Alice")
	for _, row := range []struct{ name, want string }{
		{"Website", "WEBSIT"}, {"Web Site", "WS"}, {"web-site 2026", "WS2"}, {"Web Site", "WS3"}, {"Ärger & Öl", "AO"}, {"Проект", "PX"},
		{"日本語", "PX2"}, {"42 is it", "II"}, {"2026", "PX3"}, {"A team", "AT"}, {"äbc déf", "AD"}, {"one two three four five six seven", "OTTFFS"},
	} {
		alice.post("/api/v1/projects", `{"name":"`+row.name+`"}`).want(201).is("key", row.want)
	}
	s.run("may be chosen, once", func(t *testing.T) {
		alice.post("/api/v1/projects", `{"name":"Chosen","key":"ZED"}`).want(201).is("key", "ZED")
		alice.post("/api/v1/projects", `{"name":"Again","key":"ZED"}`).problem(409, "key_taken")
		for _, key := range []string{"Z", "zed", "1Z", "Z-1", "ABCDEFGHIJK", "ZÄ", "ZED\n", ""} {
			alice.post("/api/v1/projects", jsonOf(map[string]string{"name": "Chosen", "key": key})).problem(422, "validation_failed").field("key", "invalid_key")
		}
	})
	s.run("of deleted projects stay theirs", func(t *testing.T) {
		gone := alice.post("/api/v1/projects", `{"name":"Gone","key":"GONE"}`).want(201).str("id")
		alice.delete("/api/v1/projects/" + gone).want(204)
		alice.post("/api/v1/projects", `{"name":"Gone"}`).want(201).is("key", "GONE2")
		alice.post("/api/v1/projects/"+gone+"/restore", "").want(200).is("key", "GONE")
	})
	s.run("never meet, however many projects of one name are made at once", func(t *testing.T) {
		var mu sync.Mutex
		keys := map[string]bool{}
		alice.parallel(30, func(alice *client, i int) {
			a := alice.post("/api/v1/projects", `{"name":"Same name"}`)
			if a.status != 201 {
				t.Errorf("got %d: %s", a.status, a.body)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			keys[a.str("key")] = true
		})
		if len(keys) != 30 || !keys["SN"] || !keys["SN30"] {
			t.Errorf("the keys are %v", slices.Sorted(maps.Keys(keys)))
		}
	})
	s.run("are found when a hundred are taken", func(t *testing.T) {
		for range 69 {
			alice.project("Same name")
		}
		a := alice.post("/api/v1/projects", `{"name":"Same name"}`).want(201)
		if !projectKey.MatchString(a.str("key")) || strings.HasPrefix(a.str("key"), "SN") {
			t.Errorf("the key is %s", a.str("key"))
		}
		alice.post("/api/v1/tasks", `{"projectId":"`+a.str("id")+`","title":"x"}`).want(201).is("ref", a.str("key")+"-1")
	})
}

func TestDeletedProjects(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	root := s.signUp("Root")
	alice, bob := s.signUp("Alice"), s.signUp("Bob")
	web := alice.project("Web")
	alice.add(web, bob, roleAdmin)
	task, trashed := alice.task(web, "Task", `"assigneeId":"`+bob.id+`"`), alice.task(web, "Trashed")
	alice.delete("/api/v1/tasks/" + trashed).want(204)
	other := alice.task(alice.project("Other"), "Other")
	alice.post("/api/v1/projects/"+web+"/restore", "").problem(404, "not_found")
	alice.delete("/api/v1/projects/" + web).want(204)

	s.run("are invisible with everything in them, for everybody", func(t *testing.T) {
		for _, c := range []*client{root, alice, bob} {
			for _, path := range []string{"/projects/" + web, "/projects/" + web + "/stats", "/projects/" + web + "/activity", "/projects/" + web + "/members",
				"/projects/" + web + "/invitations", "/tasks/" + task, "/tasks/WEB-1", "/tasks/" + task + "/activity", "/tasks?projectId=" + web} {
				c.get("/api/v1"+path).problem(404, "not_found")
			}
			c.patch("/api/v1/projects/"+web, `{"name":"New name"}`).problem(404, "not_found")
			c.delete("/api/v1/projects/"+web).problem(404, "not_found")
			c.patch("/api/v1/tasks/"+task, `{"title":"x"}`).problem(404, "not_found")
			c.post("/api/v1/tasks/"+trashed+"/restore", "").problem(404, "not_found")
			c.post("/api/v1/tasks", `{"projectId":"`+web+`","title":"x"}`).problem(404, "not_found")
			c.put("/api/v1/tasks/"+task+"/watch", "").problem(404, "not_found")
			c.post("/api/v1/projects/"+web+"/members", `{"userId":"`+root.id+`","role":"viewer"}`).problem(404, "not_found")
			for _, query := range []string{"", "?deleted=true", "?search=task", "?search=task&sort=title", "?assigneeId=" + bob.id, "?label=x"} {
				for _, ref := range c.get("/api/v1/tasks" + query).want(200).strs("ref") {
					if strings.HasPrefix(ref, "WEB-") {
						t.Errorf("tasks%s shows %s", query, ref)
					}
				}
			}
		}
		alice.post("/api/v1/tasks/"+other+"/move", `{"projectId":"`+web+`"}`).problem(404, "not_found")
		if keys := alice.get("/api/v1/projects").strs("key"); slices.Contains(keys, "WEB") {
			t.Errorf("the list shows %v", keys)
		}
	})
	s.run("are listed and restored by owners only", func(t *testing.T) {
		bob.get("/api/v1/projects?deleted=true&total=true").want(200).is("total", 0)
		bob.post("/api/v1/projects/"+web+"/restore", "").problem(404, "not_found")
		root.get("/api/v1/projects?deleted=true&total=true").want(200).is("total", 1)
		alice.get("/api/v1/projects?deleted=true&total=true").want(200).is("total", 1).is("items.0.id", web)
		alice.with("If-Match", `"1"`).post("/api/v1/projects/"+web+"/restore", "").problem(412, "version_mismatch")
		alice.post("/api/v1/projects/"+web+"/restore", "").want(200).is("deletedAt", nil).is("id", web)
		bob.get("/api/v1/tasks/WEB-1").want(200).is("id", task).is("assigneeId", bob.id)
		bob.get("/api/v1/tasks/"+trashed).problem(404, "not_found")
		if kinds := alice.get("/api/v1/projects/" + web + "/activity").strs("kind"); kinds[0] != "project.restored" || kinds[1] != "project.deleted" {
			t.Errorf("the activity is %v", kinds)
		}
	})
}

func TestListingProjects(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	root, alice, bob := s.signUp("Root"), s.signUp("Alice"), s.signUp("Bob")
	mia := s.withRole("Mia", globalManager)
	for i, name := range []string{"beta", "Alpha", "alpha two", "100% sure", "Ärger", "gamma", "Beta"} {
		status := []string{"active", "archived", "completed"}[i%3]
		alice.patch("/api/v1/projects/"+alice.project(name), `{"status":"`+status+`"}`).want(200)
	}
	theirs := bob.project("Bobs own")
	names := func(c *client, query string) string {
		return strings.Join(c.get("/api/v1/projects?"+query).want(200).strs("name"), " ")
	}
	for _, row := range []struct{ sentence, query, want string }{
		{"newest first", "", "Beta gamma Ärger 100% sure alpha two Alpha beta"},
		{"by name without regard to case", "sort=name", "100% sure Alpha alpha two beta Beta gamma Ärger"},
		{"by name backwards", "sort=-name", "Ärger gamma Beta beta alpha two Alpha 100% sure"},
		{"by key", "sort=key", "Alpha Ärger alpha two beta Beta gamma 100% sure"},
		{"of one status", "status=archived", "Ärger Alpha"},
		{"of several", "status=archived,completed", "gamma Ärger alpha two Alpha"},
		{"by part of the name", "search=ALPH", "alpha two Alpha"},
		{"by part of the key", "search=eta2", "Beta"},
		{"with % for itself", "search=%25", "100% sure"},
		{"with _ for itself", "search=_", ""},
	} {
		s.run(row.sentence, func(t *testing.T) {
			if got := names(alice, row.query); got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
		})
	}
	s.run("page by page", func(t *testing.T) {
		for _, sort := range []string{"createdAt", "-createdAt", "updatedAt", "-updatedAt", "name", "-name", "key", "-key"} {
			whole := alice.get("/api/v1/projects?sort=" + sort).want(200).strs("id")
			for limit := 1; limit <= 4; limit++ {
				var pages []string
				for path := fmt.Sprintf("/api/v1/projects?sort=%s&limit=%d&total=true", sort, limit); path != ""; {
					a := alice.get(path).want(200).is("total", 7)
					pages = append(pages, a.strs("id")...)
					path = a.next()
				}
				equal(t, sort, pages, whole)
			}
		}
	})
	s.run("of whoever may read them", func(t *testing.T) {
		for _, c := range []*client{root, mia} {
			c.get("/api/v1/projects?total=true").want(200).is("total", 8)
			c.get("/api/v1/projects/" + theirs).want(200)
		}
		bob.get("/api/v1/projects?total=true").want(200).is("total", 1).is("items.0.id", theirs)
		mia.patch("/api/v1/projects/"+theirs, `{"name":"Hers now"}`).problem(403, "forbidden")
		root.patch("/api/v1/projects/"+theirs, `{"name":"Roots"}`).want(200)
	})
}

func TestProjectStats(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	s.signUp("Root")
	alice, bob := s.signUp("Alice"), s.signUp("Bob")
	web := alice.project("Web")
	path := "/api/v1/projects/" + web + "/stats"
	s.run("of an empty project are zeros", func(t *testing.T) {
		a := alice.get(path).want(200)
		a.is("tasks", 0).is("byStatus", "map[done:0 in_progress:0 review:0 todo:0]").is("byPriority", "map[high:0 low:0 medium:0 urgent:0]")
		a.is("overdue", 0).is("completionRate", 0).is("members", 1).is("leadTimeHours", nil).is("cycleTimeHours", nil)
	})
	s.run("are those of its tasks", func(t *testing.T) {
		alice.add(web, bob, roleViewer)
		today := time.Now().UTC()
		day := func(ago int) string { return today.AddDate(0, 0, -ago).Format(time.DateOnly) }
		other := alice.project("Other")
		for _, row := range []struct {
			project, more                        string
			createdAgo, startedAgo, completedAgo int // hours before noon of today; 0 is not at all
		}{
			{web, `"status":"todo","priority":"low"`, 1, 0, 0},
			{web, `"status":"todo","priority":"urgent","dueDate":"` + day(1) + `"`, 25, 0, 0},        // overdue
			{web, `"status":"in_progress","priority":"high","dueDate":"` + day(0) + `"`, 25, 20, 0},  // due today: not yet
			{web, `"status":"review","priority":"high","dueDate":"2020-01-01"`, 24 * 29, 24 * 28, 0}, // overdue, of the first day shown
			{web, `"status":"done","priority":"low","dueDate":"2020-01-01"`, 50, 30, 26},             // lead 24, cycle 4
			{web, `"status":"done","priority":"medium"`, 24 * 30, 100, 24 * 29},                      // before the days shown; lead 24, cycle negative
			{web, `"status":"done","priority":"medium"`, 12, 11, 2},                                  // lead 10, cycle 9
			{web, `"status":"done","priority":"medium","labels":["deleted"]`, 5, 4, 1},
			{other, `"status":"done"`, 5, 4, 1},
		} {
			id := alice.task(row.project, "Task", row.more)
			s.exec(`UPDATE tasks SET created_at = n - $2 * interval '1 hour', started_at = n - nullif($3, 0) * interval '1 hour', completed_at = n - nullif($4, 0) * interval '1 hour'
				FROM (SELECT date_trunc('day', now(), 'UTC') + interval '12 hours' AS n) noon WHERE id = $1`, id, row.createdAgo, row.startedAgo, row.completedAgo)
			if strings.Contains(row.more, "deleted") {
				alice.delete("/api/v1/tasks/" + id).want(204)
			}
		}
		a := bob.get(path).want(200)
		a.is("tasks", 7).is("byStatus", "map[done:3 in_progress:1 review:1 todo:2]").is("byPriority", "map[high:2 low:2 medium:2 urgent:1]")
		a.is("overdue", 2).is("completionRate", 3.0/7).is("members", 2).is("leadTimeHours", 24).is("cycleTimeHours", 4)
		created, completed := map[string]float64{day(0): 2, day(1): 2, day(2): 1, day(29): 1}, map[string]float64{day(0): 1, day(1): 1, day(29): 1}
		if n := len(a.at("days").([]any)); n != 30 {
			t.Fatalf("%d days, want 30", n)
		}
		for i, v := range a.at("days").([]any) {
			got := v.(map[string]any)
			if d := day(29 - i); got["day"] != d || got["created"] != created[d] || got["completed"] != completed[d] {
				t.Errorf("got %v, want created %v and completed %v on %s", got, created[d], completed[d], d)
			}
		}
	})
}
