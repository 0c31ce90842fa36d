package main

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// gathers has the mails made that are due at a moment, as the schedule does every minute.
func (ts *testServer) gathers(at time.Time) {
	ts.t.Helper()
	if err := ts.runGather(ts.t.Context(), job{PushedAt: at}, nil); err != nil {
		ts.t.Fatal(err)
	}
}

// noticesTo is what an address got so far of notifications, once nothing is on its way any more.
func (ts *testServer) noticesTo(ms *mailServer, address string) (list []readMail) {
	ts.t.Helper()
	eventually(ts.t, 3*testPatience, "all mail is sent", func() bool { return ts.living() == 0 })
	for _, m := range ts.mailsTo(ms, address) {
		if m.header.Get("List-Unsubscribe") != "" {
			list = append(list, m)
		}
	}
	return list
}

// confirmed signs somebody up whose address is his.
func (ts *testServer) confirmed(name string) *client {
	ts.t.Helper()
	c := ts.signUp(name)
	ts.exec(`UPDATE users SET email_verified_at = clock_timestamp() WHERE id = $1`, c.id)
	return c
}

// later is when what happened until now has waited long enough.
func later() time.Time { return time.Now().Add(mailPause + time.Second) }

func TestNotificationsAreMailed(t *testing.T) {
	t.Parallel()
	ts, ms := newMailedServer(t, "PUBLIC_URL=https://tasks.example.org")
	root := ts.confirmed("Root")
	project := root.project("Launch")
	joined := func(name string) *client {
		c := ts.confirmed(name)
		ts.exec(`INSERT INTO members (project_id, user_id, role) VALUES ($1, $2, 'member')`, project, c.id) // untold
		return c
	}
	give := func(c *client, title string) string {
		task := root.task(project, title, `"assigneeId":"`+c.id+`"`)
		c.told("")
		return task
	}
	read := func(c *client) { c.post("/api/v1/notifications/read", `{"all":true}`).want(204) }

	ts.run("together, when the first has waited two minutes", func(t *testing.T) {
		ada := joined("Ada")
		give(ada, "Ship it")
		ts.gathers(time.Now().Add(mailPause - testPatience))
		if got := ts.noticesTo(ms, ada.email); len(got) != 0 {
			t.Fatalf("got %+v", got)
		}
		give(ada, "Sell it & count")
		ts.gathers(later())
		ts.gathers(later())
		got := ts.noticesTo(ms, ada.email)
		if len(got) != 1 || got[0].subject != "Root Tester gave you LAUNCH-1 “Ship it”, and 1 more" {
			t.Fatalf("got %+v", got)
		}
		m := got[0]
		for _, want := range []string{"Hello Ada,\n\n- Root Tester gave you LAUNCH-1 “Ship it”.\n- Root Tester gave you LAUNCH-2 “Sell it & count”.\n\nhttps://tasks.example.org/\n", "No more mails about tasks that are given to you: https://tasks.example.org/unsubscribe/task.assigned/", "No more mails about notifications of any kind: https://tasks.example.org/unsubscribe/all/"} {
			if !strings.Contains(m.text, want) {
				t.Errorf("no %q in %s", want, m.text)
			}
		}
		if !strings.Contains(m.html, "Root Tester gave you LAUNCH-2 “Sell it &amp; count”.") || m.header.Get("List-Unsubscribe-Post") != "List-Unsubscribe=One-Click" || m.header.Get("Auto-Submitted") != "auto-generated" ||
			!strings.HasPrefix(m.header.Get("List-Unsubscribe"), "<https://tasks.example.org/unsubscribe/task.assigned/") {
			t.Errorf("got %+v", m)
		}
		give(ada, "Later") // is another mail
		ts.gathers(later())
		if got := ts.noticesTo(ms, ada.email); len(got) != 2 || got[1].subject != "Root Tester gave you LAUNCH-3 “Later”." {
			t.Errorf("got %+v", got)
		}
	})
	ts.run("of every kind that is wanted", func(t *testing.T) {
		ada := joined("Ada")
		var kinds []string
		for _, k := range noticeKinds {
			kinds = append(kinds, `{"kind":"`+k.name+`","inbox":false,"email":true}`)
		}
		ada.put(settingsPath, `{"kinds":[`+strings.Join(kinds, ",")+`]}`).want(200)
		id := give(ada, "Ship")
		root.patch("/api/v1/tasks/"+id, `{"status":"in_progress","dueDate":"2026-03-02"}`).want(200)
		root.comment(id, "Well done")
		root.comment(id, "Well done, @["+ada.id+"]")
		remind(ts, "2026-03-02T09:00:00Z")
		root.patch("/api/v1/projects/"+project+"/members/"+ada.id, `{"role":"viewer"}`).want(200)
		ada.told("")
		read(ada) // it has none of these
		ts.gathers(later())
		got := ts.noticesTo(ms, ada.email)
		if len(got) != 1 || strings.Count(got[0].text, "\n- ") != 6 {
			t.Fatalf("got %+v", got)
		}
		for _, want := range []string{"gave you LAUNCH-", "moved LAUNCH-", "from todo to in progress.", "Root Tester commented on LAUNCH-", "Root Tester mentioned you in a comment on LAUNCH-", "“Ship” is due on 2026-03-02.", "Root Tester made you viewer of “Launch”."} {
			if !strings.Contains(got[0].text, want) {
				t.Errorf("no %q in %s", want, got[0].text)
			}
		}
		if !strings.Contains(got[0].header.Get("List-Unsubscribe"), "/unsubscribe/all/") {
			t.Errorf("got %+v", got[0].header)
		}
		ada.get("/api/v1/notifications?total=true").want(200).is("total", 0)
		root.delete("/api/v1/projects/" + project + "/members/" + ada.id).want(204)
		ada.told("")
		ts.gathers(later())
		if got := ts.noticesTo(ms, ada.email); len(got) != 2 || got[1].subject != "You are not a member of “Launch” any more." {
			t.Errorf("got %+v", got)
		}
	})
	ts.run("as one mail after a change of very many tasks", func(t *testing.T) {
		ada := joined("Ada")
		var ids []string
		for i := range maxNoticeLines + 20 {
			ids = append(ids, root.task(project, fmt.Sprint("Part ", i)))
		}
		root.post("/api/v1/tasks/bulk", `{"ids":["`+strings.Join(ids, `","`)+`"],"set":{"assigneeId":"`+ada.id+`"}}`).want(200)
		ada.told("")
		ts.gathers(later())
		got := ts.noticesTo(ms, ada.email)
		if len(got) != 1 || strings.Count(got[0].text, "\n- ") != maxNoticeLines || !strings.Contains(got[0].text, "\n\nAnd 20 more.\n") || !strings.HasSuffix(got[0].subject, "and 69 more") {
			t.Fatalf("got %d mails: %+v", len(got), got)
		}
	})
	ts.run("only while they should be", func(t *testing.T) {
		foreign := root.project("Foreign")
		for name, ended := range map[string]func(c *client, task string){
			"Reader": func(c *client, task string) { read(c) },
			"Former": func(c *client, task string) {
				ts.exec(`UPDATE tasks SET assignee_id = NULL WHERE id = $1`, task)
				ts.exec(`DELETE FROM members WHERE user_id = $1`, c.id)
			},
			"Outsider": func(c *client, task string) {
				root.post("/api/v1/tasks/"+task+"/move", `{"projectId":"`+foreign+`"}`).want(200)
			},
			"Late":        func(c *client, task string) { root.delete("/api/v1/tasks/" + task).want(204) },
			"Inactive":    func(c *client, task string) { root.patch("/api/v1/users/"+c.id, `{"isActive":false}`).want(200) },
			"Unconfirmed": func(c *client, task string) { ts.exec(`UPDATE users SET email_verified_at = NULL WHERE id = $1`, c.id) },
			"Silent":      func(c *client, task string) { c.put(settingsPath, `{"email":false}`).want(200) },
			"Unwilling": func(c *client, task string) {
				c.put(settingsPath, `{"kinds":[{"kind":"task.assigned","email":false}]}`).want(200)
			},
			"Unsubscribed": func(c *client, task string) { c.s.anonymous().post(unsubscribePath(c, "all"), "").want(200) },
		} {
			c := joined(name)
			task := give(c, "Ship")
			ended(c, task)
			ts.gathers(later())
			if got := ts.noticesTo(ms, c.email); len(got) != 0 {
				t.Errorf("%s: got %+v", name, got)
			}
		}
		never := ts.signUp("Never") // has confirmed no address, and so waits for no mail
		ts.exec(`INSERT INTO members (project_id, user_id, role) VALUES ($1, $2, 'member')`, project, never.id)
		give(never, "Ship")
		ts.exec(`UPDATE users SET email_verified_at = clock_timestamp() WHERE id = $1`, never.id)
		ts.gathers(later())
		if got := ts.noticesTo(ms, never.email); len(got) != 0 {
			t.Errorf("got %+v", got)
		}
	})
	ts.run("again as the same mail, where the server's last word was lost", func(t *testing.T) {
		ada := joined("Ada")
		give(ada, "Ship")
		ms.set("message", "hang up")
		ts.gathers(later())
		eventually(t, 3*testPatience, "it was sent", func() bool {
			n, err := queryValue[int](t.Context(), ts.db, `SELECT count(*) FROM jobs WHERE attempts > 0 AND dead_at IS NULL`)
			return err == nil && n == 1
		})
		ms.unset("message")
		ts.gathers(later())
		got := ts.noticesTo(ms, ada.email)
		if len(got) != 2 || got[0].header.Get("Message-Id") != got[1].header.Get("Message-Id") || got[0].text != got[1].text || got[0].header.Get("Date") != got[1].header.Get("Date") {
			t.Errorf("got %+v", got)
		}
	})
	ts.run("once, however many gather them", func(t *testing.T) {
		var all []*client
		for i := range 5 {
			all = append(all, joined(fmt.Sprint("Ada", i)))
			give(all[i], "Ship")
		}
		var gatherers sync.WaitGroup
		at := later()
		for range 8 {
			gatherers.Go(func() {
				if err := ts.runGather(t.Context(), job{PushedAt: at}, nil); err != nil {
					t.Error(err)
				}
			})
		}
		gatherers.Wait()
		for _, c := range all {
			if got := ts.noticesTo(ms, c.email); len(got) != 1 {
				t.Errorf("got %+v", got)
			}
		}
	})
	ts.run("without anything that people put into them", func(t *testing.T) {
		link, image := regexp.MustCompile(`(?i)(https?://|www\.|mailto:)\S+`), regexp.MustCompile(`<(img|script|form)`)
		for i, text := range []string{"http://evil.example/?a=b", `"><img src=x onerror=y>`, "<script>x</script>", "{link} %s %[1]s", "www.evil.example", "Ship\u2028Bcc: eve@evil.example", "mailto:eve@evil.example", strings.Repeat("王ü", 127)} {
			ada := joined("Ada")
			ts.exec(`UPDATE users SET first_name = left($2, 50), last_name = '' || left($2, 50) WHERE id = $1`, root.id, text)
			give(ada, text)
			ts.gathers(later())
			got := ts.noticesTo(ms, ada.email)
			if len(got) != 1 {
				t.Fatalf("%d: got %+v", i, got)
			}
			for _, found := range link.FindAllString(got[0].text+got[0].html, -1) {
				if !strings.HasPrefix(found, "https://tasks.example.org/") {
					t.Errorf("%q becomes %q", text, found)
				}
			}
			if image.MatchString(got[0].html) || strings.Contains(got[0].text+got[0].html+got[0].subject, "evil.example") || len(got[0].header["Bcc"]) > 0 || !strings.Contains(got[0].text, unlinked(text)+"”.\n") {
				t.Errorf("%q: got %+v", text, got[0])
			}
		}
	})
}

func remind(ts *testServer, at string) {
	ts.t.Helper()
	now, err := time.Parse(time.RFC3339, at)
	if err != nil {
		ts.t.Fatal(err)
	}
	effect := &pgx.Batch{}
	if err := ts.runReminders(ts.t.Context(), job{PushedAt: now}, effect); err != nil {
		ts.t.Fatal(err)
	}
	if err := ts.db.send(ts.t.Context(), effect); err != nil {
		ts.t.Fatal(err)
	}
}

// TestDigestsComeOnceADayOrWeek runs the clock over the days on which clocks are set, with several
// processes at once, and compares with what the clocks on the wall show.
func TestDigestsComeOnceADayOrWeek(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t, "SMTP_URL=", "DATA_DIR="+t.TempDir()) // nobody works: the jobs can be counted
	type reader struct {
		*client
		zone    *time.Location
		digest  string
		hour    int
		weekday time.Weekday
	}
	var readers []reader
	for _, row := range []struct {
		zone, digest  string
		hour, weekday int
	}{
		{"Europe/Berlin", "daily", 2, 1}, {"Europe/Berlin", "daily", 3, 1}, {"Europe/Berlin", "daily", 0, 1}, {"America/New_York", "daily", 1, 1}, {"Australia/Lord_Howe", "daily", 2, 1},
		{"Asia/Kathmandu", "daily", 23, 1}, {"UTC", "daily", 8, 1}, {"Europe/Berlin", "weekly", 2, 7}, {"Pacific/Kiritimati", "weekly", 0, 1}, {"America/New_York", "weekly", 17, 5},
	} {
		zone, err := time.LoadLocation(row.zone)
		if err != nil {
			t.Fatal(err)
		}
		c := ts.confirmed("Reader")
		c.patch("/api/v1/me", `{"timezone":"`+row.zone+`"}`).want(200)
		c.put(settingsPath, fmt.Sprintf(`{"digest":%q,"hour":%d,"weekday":%d}`, row.digest, row.hour, row.weekday)).want(200)
		readers = append(readers, reader{c, zone, row.digest, row.hour, time.Weekday(row.weekday % 7)})
	}
	// due is the reading of a reader's clock for which his last digest came due, counted by hand.
	due := func(r reader, at time.Time) time.Time {
		wall := onClock(at.In(r.zone))
		day := time.Date(wall.Year(), wall.Month(), wall.Day(), r.hour, 0, 0, 0, time.UTC)
		for day.After(wall) || r.digest == "weekly" && day.Weekday() != r.weekday {
			day = day.AddDate(0, 0, -1)
		}
		return day
	}
	for _, start := range []string{"2027-03-12T12:10:00Z", "2027-03-26T12:10:00Z", "2027-04-02T12:10:00Z", "2027-10-01T12:10:00Z", "2027-10-29T12:10:00Z", "2027-11-05T12:10:00Z"} {
		begin, err := time.Parse(time.RFC3339, start)
		if err != nil {
			t.Fatal(err)
		}
		ts.exec(`UPDATE notification_settings s SET digested = ($1::timestamptz AT TIME ZONE u.timezone) FROM users u WHERE u.id = s.user_id`, begin)
		last := map[string]time.Time{}
		for _, r := range readers {
			last[r.id] = due(r, begin)
		}
		for at := begin.Add(20 * time.Minute); at.Before(begin.Add(60 * time.Hour)); at = at.Add(time.Hour) {
			ts.exec(`TRUNCATE jobs`)
			ts.exec(`INSERT INTO notifications (id, user_id, kind, detail, created_at) SELECT uuid_v7(), user_id, 'member.removed', '{"projectName": "Launch"}', $1::timestamptz FROM notification_settings`, at.Add(-time.Minute))
			var processes sync.WaitGroup
			for range 3 {
				processes.Go(func() {
					if err := ts.runGather(t.Context(), job{PushedAt: at}, nil); err != nil {
						t.Error(err)
					}
				})
			}
			processes.Wait()
			made, err := queryAll[struct{ UserID string }](t.Context(), ts.db, `SELECT payload ->> 'userId' AS user_id FROM jobs ORDER BY 1`)
			if err != nil {
				t.Fatal(err)
			}
			var got, want []string
			for _, m := range made {
				got = append(got, m.UserID)
			}
			for _, r := range readers {
				if now := due(r, at); now.After(last[r.id]) {
					want = append(want, r.id)
					last[r.id] = now
				}
			}
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Fatalf("at %v: digests for %v, want %v", at, got, want)
			}
		}
	}
	if n, err := queryValue[int](t.Context(), ts.db, `SELECT count(*) FROM (SELECT mail_id FROM notifications GROUP BY mail_id HAVING count(DISTINCT user_id) > 1 AND mail_id IS NOT NULL) shared`); err != nil || n != 0 {
		t.Errorf("%d mails are of several users, %v", n, err)
	}
}

// A process that gathers dies at every other mail it makes, before or at the commit.
func TestMailsAreGatheredOnceByProcessesThatDie(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t, "SMTP_URL=", "DATA_DIR="+t.TempDir())
	const readers = 4
	for range readers {
		ts.confirmed("Reader").put(settingsPath, `{"digest":"daily"}`).want(200)
	}
	ts.exec(`UPDATE notification_settings SET digested = '-infinity'`)
	ts.exec(`INSERT INTO notifications (id, user_id, kind, by_mail) SELECT uuid_v7(), user_id, 'task.due', n = 1 FROM notification_settings, generate_series(1, 2) n`)
	ts.exec(`TRUNCATE jobs`)
	ts.exec(`CREATE SEQUENCE deaths`)
	ts.exec(`CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF nextval('deaths') % 5 <> 0 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
			RETURN NULL;
		END $$`)
	ts.exec(`CREATE TRIGGER die AFTER INSERT ON jobs FOR EACH STATEMENT EXECUTE FUNCTION die()`)
	ts.exec(`CREATE CONSTRAINT TRIGGER die_late AFTER UPDATE ON notifications DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die()`)
	deaths := 0
	for tries := 0; ; tries++ {
		err := ts.runGather(t.Context(), job{PushedAt: later().Add(time.Duration(tries) * time.Minute)}, nil)
		if err == nil {
			break
		}
		if deaths++; deaths > 10_000 {
			t.Fatal(err)
		}
		if deaths == 20 {
			ts.exec(`ALTER SEQUENCE deaths INCREMENT BY 5 RESTART 5`) // from here on nobody dies
		}
	}
	type outcome struct{ Mails, Users, Told int }
	got, err := queryOne[outcome](t.Context(), ts.db, `
		SELECT (SELECT count(*) FROM jobs) AS mails, (SELECT count(DISTINCT payload) FROM jobs) AS users, (SELECT count(*) FROM notifications n JOIN jobs j ON j.id = n.mail_id) AS told`)
	if want := (outcome{2 * readers, readers, 2 * readers}); err != nil || got != want || deaths < 20 {
		t.Errorf("after %d deaths got %+v, %v; want %+v", deaths, got, err, want)
	}
}

func TestDigestsHaveWhatIsNew(t *testing.T) {
	t.Parallel()
	ts, ms := newMailedServer(t)
	root, ada := ts.confirmed("Root"), ts.confirmed("Ada")
	project := root.project("Launch")
	root.add(project, ada, roleMember) // is mailed by itself
	ada.told("")
	task := ada.task(project, "Ship")
	move := func(status string) {
		root.patch("/api/v1/tasks/"+task, `{"status":"`+status+`"}`).want(200)
		ada.told("")
	}
	move("review") // before there were digests
	ada.put(settingsPath, `{"digest":"daily"}`).want(200)
	day := time.Date(time.Now().Year(), time.Now().Month(), time.Now().Day(), 8, 0, 0, 0, time.UTC)
	digest := func(days int) []readMail {
		ts.t.Helper()
		ts.gathers(day.AddDate(0, 0, days))
		return slices.DeleteFunc(ts.noticesTo(ms, ada.email), func(m readMail) bool { return !strings.HasPrefix(m.subject, "Your daily digest") })
	}
	move("done")
	ada.post("/api/v1/notifications/read", `{"ids":["`+ada.get("/api/v1/notifications").str("items.0.id")+`"]}`).want(204) // so that is no news
	move("todo")
	got := digest(1)
	if len(got) != 1 || got[0].subject != "Your daily digest: 2 unread" || !strings.Contains(got[0].text, "from todo to review.\n- Root Tester moved LAUNCH-1 “Ship” from done to todo.\n") ||
		!strings.Contains(got[0].header.Get("List-Unsubscribe"), "http://taskflow.test/unsubscribe/digest/") || got[0].header.Get("List-Unsubscribe-Post") != "" { // RFC 8058 is for https
		t.Fatalf("got %+v", got)
	}
	if got := digest(2); len(got) != 1 {
		t.Errorf("nothing is new, got %+v", got)
	}
	move("done")
	if got := digest(2); len(got) != 1 {
		t.Errorf("a second on the same day: got %+v", got)
	}
	if got := digest(3); len(got) != 2 || got[1].subject != "Your daily digest: 1 unread" {
		t.Errorf("got %+v", got)
	}
	move("todo")
	ada.delete("/api/v1/projects/" + project + "/members/" + ada.id).want(204)
	if got := digest(4); len(got) != 2 {
		t.Errorf("of what she may not read: got %+v", got)
	}
	ts.gathers(day.AddDate(0, 1, 0))
	ts.anonymous().post(unsubscribePath(ada, "digest"), "").want(200)
	ada.get(settingsPath).want(200).is("digest", "off").is("email", true)
}

func unsubscribePath(c *client, what string) string {
	return "/unsubscribe/" + what + "/" + c.s.keys.unsubscribeToken(c.uuid(), c.email, what)
}

func TestUnsubscribing(t *testing.T) {
	t.Parallel()
	ts, ms := newMailedServer(t, "PUBLIC_URL=https://tasks.example.org")
	ada, bob := ts.confirmed("Ada"), ts.confirmed("Bob")
	emailOf := func(c *client) string {
		a, on := c.get(settingsPath).want(200), ""
		for i, k := range noticeKinds {
			if a.at(fmt.Sprintf("kinds.%d.email", i)) == true {
				on += k.name + " "
			}
		}
		return fmt.Sprint(on, a.at("email"), " ", a.at("digest"))
	}
	all := emailOf(ada)
	oneClick := func(path string) *answer {
		return ts.anonymous().with("Content-Type", "application/x-www-form-urlencoded").post(path, "List-Unsubscribe=One-Click")
	}
	ts.run("takes one click of a mail program, for one kind", func(t *testing.T) {
		path := unsubscribePath(ada, "task.due")
		for range 3 {
			if a := oneClick(path).want(200); !strings.Contains(string(a.body), "no more mails about tasks that are due") {
				t.Errorf("got %s", a.body)
			}
		}
		if got := emailOf(ada); got != strings.Replace(all, "task.due ", "", 1) || ada.get(settingsPath).num("version") != 2 {
			t.Errorf("got %s", got)
		}
		ada.get(settingsPath).is("kinds.4.kind", "task.due").is("kinds.4.inbox", true)
	})
	ts.run("takes one click of a person, not a look at the page", func(t *testing.T) {
		path := unsubscribePath(bob, "task.due")
		page := ts.anonymous().get(path).want(200)
		ts.anonymous().do("HEAD", path, "").want(200)
		actions := regexp.MustCompile(`action="([^"]+)"`).FindAllStringSubmatch(string(page.body), -1)
		if emailOf(bob) != all || len(actions) != 2 || actions[0][1] != path || actions[1][1] != unsubscribePath(bob, "all") || !strings.Contains(page.header.Get("Content-Security-Policy"), "form-action 'self'") {
			t.Fatalf("got %v, %s", page.header, page.body)
		}
		browser := func(origin string) *client {
			return ts.anonymous().with("Origin", origin).with("Content-Type", "application/x-www-form-urlencoded")
		}
		browser("https://evil.example").post(actions[1][1], "").problem(403, "cross_origin")
		browser("https://tasks.example.org").post(actions[1][1], "").want(200)
		if got := emailOf(bob); got != strings.Replace(all, "true", "false", 1) {
			t.Errorf("got %s", got)
		}
	})
	ts.run("takes the form of RFC 8058 that has parts, too", func(t *testing.T) {
		eve := ts.confirmed("Eve")
		ts.anonymous().with("Content-Type", "multipart/form-data; boundary=x").post(unsubscribePath(eve, "all"), "--x\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--x--\r\n").want(200)
		eve.get(settingsPath).is("email", false)
	})
	ts.run("is for who got the mail, for what it was, while the address is his", func(t *testing.T) {
		eve := ts.confirmed("Eve")
		eventually(t, time.Minute, "the mail that asks her to confirm is sent", func() bool { return ts.living() == 0 })
		good := unsubscribePath(eve, "task.due")
		token := good[strings.LastIndex(good, "/")+1:]
		moved := *eve
		moved.email = "before@example.org"
		for _, path := range []string{
			"/unsubscribe/all/" + token, "/unsubscribe/digest/" + token, "/unsubscribe/task.overdue/" + token, "/unsubscribe/task.due/" + token[:42], "/unsubscribe/task.due/" + token + "A",
			"/unsubscribe/task.due/B" + token[1:], "/unsubscribe/task.due/" + token[:42] + "-", "/unsubscribe/task.due/" + strings.Repeat("A", 43), "/unsubscribe/task.due/%00", unsubscribePath(&moved, "task.due"),
			"/unsubscribe/task.due/" + newUUID().String(), "/unsubscribe/x'--/" + token,
		} {
			before := ts.state()
			oneClick(path).problem(404, "not_found")
			ts.anonymous().get(path).problem(404, "not_found")
			ts.unchanged(before, path)
		}
		ts.anonymous().get("/unsubscribe/task.due").problem(404, "not_found")
		if got := ts.log.grep(token); got != "" {
			t.Errorf("the log has %s", got)
		}
		ts.anonymous().do("DELETE", good, "").problem(405, "method_not_allowed")
		ada.patch("/api/v1/users/"+eve.id, `{"isActive":false}`).want(200)
		oneClick(good).problem(404, "not_found")
	})
	ts.run("never ends mails about the account", func(t *testing.T) {
		fay := ts.confirmed("Fay")
		oneClick(unsubscribePath(fay, "all")).want(200)
		ts.forgot(fay.email)
		if m := ts.lastMail(ms, fay.email, 2); m.use != "reset" || m.header.Get("List-Unsubscribe") != "" {
			t.Errorf("got %+v", m)
		}
	})
	ts.run("may be undone", func(t *testing.T) {
		ada.put(settingsPath, `{}`).want(200)
		if got := emailOf(ada); got != all {
			t.Errorf("got %s", got)
		}
	})
}

func TestKeptMailsAreForWhoIsAtTheMachine(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t, "SMTP_URL=", "DATA_DIR="+t.TempDir())
	c := ts.anonymous()
	if a := c.get("/dev/mails").want(200); !strings.Contains(string(a.body), "None yet") {
		t.Errorf("got %s", a.body)
	}
	first := testMessage()
	first.text, first.html = "Hello <b>,\n\nhttp://taskflow.test/account#reset=abc&x\n", `<p style="color:red">Hello</p><script>alert(1)</script>`
	id := ts.keepMail(first)
	ts.keepMail(testMessage())
	list := string(c.get("/dev/mails").want(200).body)
	if strings.Count(list, "<tr><td>") != 2 || !strings.Contains(list, `<a href="/dev/mails/`+id+`">Grüße, Ada: “100 %”</a>`) {
		t.Errorf("got %s", list)
	}
	if a := c.get("/dev/mails/" + id).want(200); !strings.Contains(string(a.body), `Hello &lt;b&gt;,`) || !strings.Contains(string(a.body), `<a href="http://taskflow.test/account#reset=abc&amp;x">http://`) {
		t.Errorf("got %s", a.body)
	}
	a := c.get("/dev/mails/" + id + "/html").want(200)
	if string(a.body) != first.html+"\n" && string(a.body) != first.html || a.header.Get("Content-Security-Policy") != "sandbox; default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'" {
		t.Errorf("got %v %s", a.header, a.body)
	}
	for _, path := range []string{"/dev/mails/x", "/dev/mails/" + newUUID().String(), "/dev/mails/..%2f..%2fjwt", "/dev/mails/" + strings.ToUpper(id)} {
		c.get(path).problem(404, "not_found")
	}

	// What others send gets none of it.
	asks := func(s *testServer, change func(r *http.Request)) int {
		code := 0
		for _, path := range []string{"/dev/mails", "/dev/mails/" + id, "/dev/mails/" + id + "/html"} {
			r := httptest.NewRequest("GET", "http://localhost:8080"+path, nil)
			r.RemoteAddr = "127.0.0.1:4711"
			change(r)
			w := httptest.NewRecorder()
			s.handler().ServeHTTP(w, r)
			code = max(code, w.Code)
			if w.Code != 200 && strings.Contains(w.Body.String(), "Hello") {
				t.Errorf("got %s", w.Body)
			}
		}
		return code
	}
	changes := map[string]func(r *http.Request){
		"from elsewhere":              func(r *http.Request) { r.RemoteAddr = "192.0.2.1:4711" },
		"to a name that leads here":   func(r *http.Request) { r.Host = "evil.example:8080" },
		"to one that looks local":     func(r *http.Request) { r.Host = "127.0.0.1.evil.example" },
		"from a page of another site": func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") },
		"by a proxy":                  func(r *http.Request) { r.Header.Set("X-Forwarded-For", "127.0.0.1") },
		"by another proxy":            func(r *http.Request) { r.Header.Set("Forwarded", "for=127.0.0.1") },
		"to no name":                  func(r *http.Request) { r.Host = "" },
	}
	for _, name := range slices.Sorted(maps.Keys(changes)) {
		if got := asks(ts, changes[name]); got != 404 {
			t.Errorf("%s: got %d", name, got)
		}
	}
	for _, host := range []string{"localhost:8080", "localhost", "127.0.0.1:8080", "[::1]:8080", "[::1]"} {
		if got := asks(ts, func(r *http.Request) { r.Host = host }); got != 200 {
			t.Errorf("%s: got %d", host, got)
		}
	}
	if got := asks(newTestServer(t, "SMTP_URL=off"), func(*http.Request) {}); got != 404 { // as in production
		t.Errorf("without kept mails: got %d", got)
	}
}
