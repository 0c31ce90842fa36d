package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

const settingsPath = "/api/v1/me/notification-settings"

// told waits for all jobs and returns what a client's inbox says of a task, or of a project if task is
// "", newest first: kinds and details.
func (c *client) told(task string) (kinds []string, list *answer) {
	c.s.t.Helper()
	eventually(c.s.t, testPatience*3, "all is told", func() bool { return c.s.living() == 0 })
	list = c.get("/api/v1/notifications?limit=100").want(200)
	for i, id := range list.strs("taskId") {
		if id == task || id == "<nil>" && task == "" {
			kinds = append(kinds, list.strs("kind")[i])
		}
	}
	return kinds, list
}

// wantTold fails the test unless an inbox says exactly this of a task, newest first.
func (c *client) wantTold(task string, want ...string) *answer {
	c.s.t.Helper()
	got, list := c.told(task)
	if !slices.Equal(got, want) {
		c.s.t.Errorf("%s is told %v, want %v", c.email, got, want)
	}
	return list
}

// announces has a fact told, as a feature does that announces it.
func (ts *testServer) announces(f fact) {
	ts.t.Helper()
	for _, n := range ts.subscriptions(f) {
		ts.enqueue(n)
	}
}

// uuid is a client's id as facts have it.
func (c *client) uuid() uuid { return uuidOf(c.s.t, c.id) }

func uuidOf(t testing.TB, text string) uuid {
	t.Helper()
	id, err := parseUUID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestFollowersOfATaskAreToldOfIt(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ts.startWorking()
	root, maker, doer, watcher, other := ts.signUp("Root"), ts.signUp("Maker"), ts.signUp("Doer"), ts.signUp("Watcher"), ts.signUp("Other")
	project := root.project("Launch")
	root.add(project, maker, roleMember)
	root.add(project, doer, roleMember)
	for _, c := range []*client{watcher, other} {
		root.add(project, c, roleViewer)
	}
	followed := func() string {
		task := maker.task(project, "Ship", `"assigneeId":"`+doer.id+`"`)
		watcher.put("/api/v1/tasks/"+task+"/watch", "").want(204)
		return task
	}
	ts.run("when its status changes, all but who did it", func(t *testing.T) {
		task := followed()
		doer.patch("/api/v1/tasks/"+task, `{"status":"in_progress"}`).want(200)
		list := maker.wantTold(task, "task.status_changed")
		list.is("items.0.detail.status", "[todo in_progress]").is("items.0.detail.actorId", doer.id).is("items.0.projectId", project)
		watcher.wantTold(task, "task.status_changed")
		doer.wantTold(task, "task.assigned")
		other.wantTold(task)
		root.post("/api/v1/tasks/"+task+"/move", `{"last":true,"status":"done"}`).want(200)
		doer.wantTold(task, "task.status_changed", "task.assigned").is("items.0.detail.status", "[in_progress done]")
		maker.wantTold(task, "task.status_changed", "task.status_changed")
	})
	ts.run("not when a status is set that it has", func(t *testing.T) {
		task := followed()
		doer.patch("/api/v1/tasks/"+task, `{"status":"todo"}`).want(200)
		root.post("/api/v1/tasks/"+task+"/move", `{"last":true,"status":"todo"}`).want(200)
		maker.wantTold(task)
		doer.patch("/api/v1/tasks/"+task, `{"status":"review"}`).want(200)
		doer.patch("/api/v1/tasks/"+task, `{"status":"review"}`).want(200)
		maker.wantTold(task, "task.status_changed")
	})
	ts.run("by a change of many tasks as by single ones", func(t *testing.T) {
		one, two := followed(), followed()
		doer.post("/api/v1/tasks/bulk", `{"ids":["`+one+`","`+two+`"],"set":{"status":"done"}}`).want(200)
		watcher.wantTold(one, "task.status_changed")
		watcher.wantTold(two, "task.status_changed")
	})
	ts.run("not those who may not read it any more", func(t *testing.T) {
		task, gone := followed(), ts.signUp("Gone")
		root.add(project, gone, roleViewer)
		gone.put("/api/v1/tasks/"+task+"/watch", "").want(204)
		ts.exec(`DELETE FROM members WHERE user_id = $1`, gone.id) // and watches still
		doer.patch("/api/v1/tasks/"+task, `{"status":"review"}`).want(200)
		watcher.wantTold(task, "task.status_changed")
		if n, err := queryValue[int](t.Context(), ts.db, `SELECT count(*) FROM notifications WHERE user_id = $1 AND task_id = $2`, gone.id, task); err != nil || n != 0 {
			t.Errorf("got %d, %v", n, err)
		}
	})
	ts.run("of comments; who is mentioned is told that, and only that", func(t *testing.T) {
		task := followed()
		doer.told("")
		unread := doer.get("/api/v1/notifications/count").want(200).num("unread")
		comment := maker.comment(task, "Look, @["+doer.id+"] and @["+maker.id+"]")
		doer.wantTold(task, "comment.mentioned", "task.assigned").is("items.0.detail.commentId", comment)
		watcher.wantTold(task, "comment.created").is("items.0.detail.actorId", maker.id).is("items.0.detail.commentId", comment)
		maker.wantTold(task)
		doer.get("/api/v1/notifications/count").want(200).is("unread", unread+1)

		maker.edit(comment, "Look, @["+doer.id+"], and you too, @["+watcher.id+"] and @["+other.id+"]").want(200)
		watcher.wantTold(task, "comment.mentioned", "comment.created")
		other.wantTold(task, "comment.mentioned")
		doer.wantTold(task, "comment.mentioned", "task.assigned")
	})
	ts.run("not of a comment that is gone", func(t *testing.T) {
		task, resume := followed(), ts.pauses(root)
		comment := maker.comment(task, "Look, @["+doer.id+"]")
		maker.delete("/api/v1/comments/" + comment).want(204)
		resume()
		doer.wantTold(task, "task.assigned")
		watcher.wantTold(task)
	})
	ts.run("once, however often a fact is told", func(t *testing.T) {
		task := followed()
		comment, changed, who := uuidOf(t, maker.comment(task, "Look, @["+doer.id+"]")), uuidOf(t, task), doer.uuid()
		maker.patch("/api/v1/tasks/"+task, `{"status":"review"}`).want(200)
		for range 5 {
			ts.announces(fact{Kind: "task.status_changed", Actor: root.uuid(), Task: &changed})
			ts.announces(fact{Kind: "comment.created", Actor: maker.uuid(), Task: &changed, Subject: &comment})
			ts.announces(fact{Kind: "comment.mentioned", Actor: maker.uuid(), User: &who, Task: &changed, Subject: &comment})
		}
		for c, want := range map[*client][]string{watcher: {"comment.created", "task.status_changed"}, doer: {"comment.mentioned", "task.assigned", "task.status_changed"}} {
			got, _ := c.told(task)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		}
	})
	ts.run("not of what changed before they followed", func(t *testing.T) {
		task := followed()
		doer.patch("/api/v1/tasks/"+task, `{"status":"review"}`).want(200)
		watcher.wantTold(task, "task.status_changed")
		ts.exec(`UPDATE events SET at = at - interval '5 minutes' WHERE subject = $1`, task)
		other.put("/api/v1/tasks/"+task+"/watch", "").want(204)
		doer.patch("/api/v1/tasks/"+task, `{"status":"review"}`).want(200)
		other.wantTold(task)
	})
}

func TestMembersAreToldWhatTheyAre(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ts.startWorking()
	root, ada := ts.signUp("Root"), ts.signUp("Ada")
	project := root.project("Launch")
	path := "/api/v1/projects/" + project + "/members/" + ada.id
	root.add(project, ada, roleViewer)
	ada.wantTold("", "member.added").is("items.0.detail.role", "[<nil> viewer]")
	root.patch(path, `{"role":"viewer"}`).want(200)
	ada.wantTold("", "member.added")
	root.patch(path, `{"role":"admin"}`).want(200)
	ada.wantTold("", "member.updated", "member.added").is("items.0.detail.role", "[viewer admin]").is("items.0.detail.actorId", root.id)

	ts.run("and once they are removed, only from what, as it was called then", func(t *testing.T) {
		stop := ts.pauses(root)
		root.delete(path).want(204)
		root.patch("/api/v1/projects/"+project, `{"name":"Secret name"}`).want(200)
		stop()
		list := ada.wantTold("", "member.removed")
		list.is("items.0.detail", "map[projectName:Launch]").is("items.0.projectId", nil)
	})
	ts.run("not of leaving by themselves, nor of being removed if they are back", func(t *testing.T) {
		bob := ts.signUp("Bob")
		root.add(project, bob, roleMember)
		bob.wantTold("", "member.added")
		bob.delete("/api/v1/projects/" + project + "/members/" + bob.id).want(204)
		bob.wantTold("")
		root.add(project, bob, roleMember)
		bob.wantTold("", "member.added", "member.added")
		stop := ts.pauses(root)
		root.delete("/api/v1/projects/" + project + "/members/" + bob.id).want(204)
		root.add(project, bob, roleViewer)
		stop()
		bob.wantTold("", "member.added", "member.added", "member.added")
	})
}

// pauses holds all jobs until the function it returns is called.
func (ts *testServer) pauses(admin *client) (resume func()) {
	ts.t.Helper()
	admin.post("/api/v1/admin/queues/default/pause", "").want(204)
	return func() { ts.t.Helper(); admin.post("/api/v1/admin/queues/default/resume", "").want(204) }
}

func TestUnreadEntriesAreCounted(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ts.startWorking()
	root, ada := ts.signUp("Root"), ts.signUp("Ada")
	here, there := root.project("Here"), root.project("There")
	count := func(want int) {
		t.Helper()
		ada.told("")
		ada.get("/api/v1/notifications/count").want(200).is("unread", want)
	}
	count(0)
	root.add(here, ada, roleMember)
	root.add(there, ada, roleMember)
	root.task(there, "Ship", `"assigneeId":"`+ada.id+`"`)
	count(3)
	ada.post("/api/v1/notifications/read", `{"ids":["`+ada.get("/api/v1/notifications").str("items.0.id")+`"]}`).want(204)
	count(2)
	root.delete("/api/v1/projects/" + here).want(204) // what tells of it is hidden
	count(1)
	ts.exec(`INSERT INTO notifications (id, user_id, kind, project_id) SELECT uuid_v7(), $1, 'member.added', $2 FROM generate_series(1, 1500)`, ada.id, there)
	count(maxUnread)
	ada.post("/api/v1/notifications/read", `{"all":true}`).want(204)
	count(0)
}

func TestNotificationSettings(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ts.startWorking()
	root, ada := ts.signUp("Root"), ts.signUp("Ada")
	project := root.project("Launch")

	ts.run("are there before anybody set them", func(t *testing.T) {
		a := ada.get(settingsPath).want(200).is("email", true).is("digest", "off").is("hour", 8).is("weekday", 1).is("version", 1)
		for i, k := range noticeKinds {
			a.is(fmt.Sprintf("kinds.%d.kind", i), k.name).is(fmt.Sprintf("kinds.%d.inbox", i), true).is(fmt.Sprintf("kinds.%d.email", i), k.email)
		}
		ada.with("If-None-Match", a.header.Get("ETag")).get(settingsPath).want(304)
	})
	ts.run("are replaced as a whole, what is left out by the default", func(t *testing.T) {
		a := ada.with("If-Match", `"1"`).put(settingsPath, `{"kinds":[{"kind":"member.added","inbox":false},{"kind":"comment.created","email":true}],"email":null,"digest":"weekly","hour":17,"weekday":5}`).want(200)
		a.is("kinds.6.kind", "member.added").is("kinds.6.inbox", false).is("kinds.6.email", true).is("kinds.2.email", true).is("digest", "weekly").is("hour", 17).is("weekday", 5).is("version", 2).is("email", true)
		ada.with("If-Match", `"1"`).put(settingsPath, `{}`).problem(412, "version_mismatch")
		if again := ada.get(settingsPath).want(200); string(again.body) != string(a.body) || again.header.Get("ETag") != `"2"` {
			t.Errorf("got %s", again.body)
		}
		same := `{"kinds":[{"kind":"member.added","inbox":false},{"kind":"comment.created","email":true}],"digest":"weekly","hour":17,"weekday":5}`
		ada.put(settingsPath, same).want(200).is("version", 2)
		ada.get("/api/v1/me/export").want(200).is("notificationSettings.hour", 17).is("history.0.kind", "user.notifications_set").is("history.0.changes.hour", "[8 17]")
	})
	ts.run("keep out of the inbox what is not wanted there", func(t *testing.T) {
		root.add(project, ada, roleMember)
		ada.wantTold("")
		ada.put(settingsPath, `{}`).want(200).is("kinds.6.inbox", true).is("version", 3)
		task := root.task(project, "Ship", `"assigneeId":"`+ada.id+`"`)
		ada.wantTold(task, "task.assigned")
		root.get(settingsPath).want(200).is("version", 1) // others' are their own
	})
	ts.run("must be such that they can be", func(t *testing.T) {
		for body, want := range map[string]string{
			`{"kinds":[{"kind":"task.eaten"}]}`:                   "kinds[0].kind not_allowed",
			`{"kinds":[{"inbox":true}]}`:                          "kinds[0].kind not_allowed",
			`{"kinds":[{"kind":"task.due"},{"kind":"task.due"}]}`: "kinds[1].kind duplicate",
			`{"kinds":[{"kind":"task.due","sms":true}]}`:          "kinds[0].sms unknown_field",
			`{"kinds":[{"kind":"task.due","email":1}]}`:           "kinds.email wrong_type",
			`{"digest":"hourly"}`:                                 "digest not_allowed",
			`{"hour":24}`:                                         "hour out_of_range",
			`{"hour":-1}`:                                         "hour out_of_range",
			`{"weekday":0}`:                                       "weekday out_of_range",
			`{"weekday":8}`:                                       "weekday out_of_range",
			`{"hour":8.5}`:                                        "hour wrong_type",
			`{"version":3}`:                                       "version unknown_field",
			`{"kinds":[` + strings.Repeat(`{"kind":"x"},`, 200) + `{"kind":"x"}]}`: "kinds[0].kind not_allowed",
		} {
			field, code, _ := strings.Cut(want, " ")
			ada.put(settingsPath, body).problem(422, "validation_failed").field(field, code)
		}
		ada.get(settingsPath).want(200).is("version", 3)
	})
	ts.run("go with the account", func(t *testing.T) {
		ada.do("DELETE", "/api/v1/me", `{"currentPassword":"`+testPassword+`"}`).want(204)
		if n, err := queryValue[int](t.Context(), ts.db, `SELECT count(*) FROM notification_settings WHERE user_id = $1`, ada.id); err != nil || n != 0 {
			t.Errorf("got %d, %v", n, err)
		}
	})
}

func TestInboxesKeepHalfAYear(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	root, ada := ts.signUp("Root"), ts.signUp("Ada")
	ts.startWorking()
	root.add(root.project("Launch"), ada, roleMember)
	ada.wantTold("", "member.added")
	// What is older came before it in every way; half of it was read.
	ts.exec(`
		INSERT INTO notifications (id, user_id, kind, detail, created_at, read_at)
		SELECT overlay(n.id::text PLACING left(t.ms, 8) || '-' || right(t.ms, 4) FROM 1)::uuid, n.user_id, 'member.removed', jsonb_build_object('projectName', days::text), n.created_at - make_interval(days => days), CASE WHEN days % 2 = 0 THEN n.created_at END
		FROM notifications n, generate_series(1, 1500) days,
			LATERAL (SELECT lpad(to_hex((extract(epoch FROM n.created_at - make_interval(days => days, mins => CASE WHEN days = 180 THEN -1 ELSE 0 END)) * 1000)::bigint), 12, '0') AS ms) t`)
	ts.runs("notifications.purge", nil)
	got := ada.get("/api/v1/notifications?total=true&limit=1").want(200).is("total", 181).is("items.0.kind", "member.added")
	for got.at("next") != nil {
		got = ada.get("/api/v1/notifications?limit=100&cursor=" + got.str("next")).want(200)
	}
	items := got.at("items").([]any)
	if last := got.at(fmt.Sprintf("items.%d.detail.projectName", len(items)-1)); last != "180" {
		t.Errorf("the oldest is from %v days ago, want 180", last)
	}
}
