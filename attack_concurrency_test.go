package main

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
)

// crowd is one or more processes on one database, and who attacks them by doing things at once.
type crowd struct {
	*testServer
	more []*testServer
}

// on is a client as he is on one of the processes, by turns.
func (x crowd) on(i int, c *client) *client {
	processes := append([]*testServer{x.testServer}, x.more...)
	return &client{s: processes[i%len(processes)], token: c.token, id: c.id, email: c.email}
}

// both does two things at once and returns their answers.
func (x crowd) both(one, two func() *answer) (*answer, *answer) {
	got := atOnce(2, func(i int) *answer { return []func() *answer{one, two}[i]() })
	return got[0], got[1]
}

// oneWins fails the test unless one of two answers is good and the other a refusal with this status.
func oneWins(t *testing.T, one, two *answer, refusal int) {
	t.Helper()
	if (one.status < 300) == (two.status < 300) || max(one.status, two.status) != refusal {
		t.Errorf("got %d and %d, want a success and %d\n%s\n%s", one.status, two.status, refusal, one.body, two.body)
	}
}

func TestAttackConcurrency(t *testing.T) {
	t.Parallel()
	a := countAttacks(t, 30)
	a.losingRights(t)
	ts := newTestServer(t)
	x := crowd{testServer: ts}
	root, ada, bob := ts.signUp("Root"), ts.signUp("Ada"), ts.signUp("Bob")
	run := func(name string, attack func(t *testing.T)) {
		ts.t.(*testing.T).Helper()
		a.run(ts, name, attack)
	}
	// owned is a project of two owners, ada and bob.
	owned := func() (id, members string) {
		ts.t.Helper()
		id = ada.project("Two owners")
		ada.add(id, bob, roleOwner)
		return id, "/api/v1/projects/" + id + "/members/"
	}
	const owners = `SELECT count(*) FROM members m JOIN users u ON u.id = m.user_id WHERE project_id = $1::text::uuid AND m.role = 'owner' AND u.is_active`

	const rounds = 8
	for name, act := range map[string]func(members string) (one, two func() *answer){
		"leave": func(members string) (one, two func() *answer) {
			return func() *answer { return x.on(0, ada).delete(members + ada.id) }, func() *answer { return x.on(1, bob).delete(members + bob.id) }
		},
		"step down": func(members string) (one, two func() *answer) {
			return func() *answer { return x.on(0, ada).patch(members+ada.id, `{"role":"admin"}`) }, func() *answer { return x.on(1, bob).patch(members+bob.id, `{"role":"viewer"}`) }
		},
		"leave, and step down": func(members string) (one, two func() *answer) {
			return func() *answer { return x.on(0, ada).delete(members + ada.id) }, func() *answer { return x.on(1, bob).patch(members+bob.id, `{"role":"admin"}`) }
		},
	} {
		run("the last two owners "+name, func(t *testing.T) {
			for range rounds {
				id, members := owned()
				one, two := x.both(act(members))
				if oneWins(t, one, two, 409); x.number(owners, id) != 1 {
					t.Errorf("%d owners are left", x.number(owners, id))
				}
			}
		})
	}
	run("the last two owners take it from each other", func(t *testing.T) {
		for range rounds {
			id, members := owned()
			one, two := x.both(func() *answer { return x.on(0, ada).patch(members+bob.id, `{"role":"viewer"}`) }, func() *answer { return x.on(1, bob).delete(members + ada.id) })
			if (one.status < 300) == (two.status < 300) || max(one.status, two.status) >= 500 || x.number(owners, id) != 1 {
				t.Errorf("got %d and %d, and %d owners", one.status, two.status, x.number(owners, id))
			}
		}
	})
	run("one of the last two owners leaves, the other deletes his account", func(t *testing.T) {
		for range rounds {
			carl, dora := ts.signUp("Carl"), ts.signUp("Dora")
			id := carl.project("Shared")
			carl.add(id, dora, roleOwner)
			carl.add(id, bob, roleViewer)
			one, two := x.both(func() *answer { return x.on(0, carl).delete("/api/v1/projects/" + id + "/members/" + carl.id) }, func() *answer { return x.on(1, dora).leave() })
			if oneWins(t, one, two, 409); x.number(owners, id) != 1 {
				t.Errorf("%d owners are left", x.number(owners, id))
			}
		}
	})
	alone := crowd{testServer: newTestServer(t)}
	alone.signUp("Root")
	a.run(alone.testServer, "the last two admins", func(t *testing.T) {
		const admins = `SELECT count(*) FROM users WHERE role = 'admin' AND is_active`
		acts := []func(me, him *client) *answer{
			func(me, him *client) *answer { return me.patch("/api/v1/users/"+him.id, `{"role":"member"}`) },
			func(me, him *client) *answer { return me.patch("/api/v1/users/"+him.id, `{"isActive":false}`) },
			func(me, him *client) *answer { return me.patch("/api/v1/users/"+me.id, `{"role":"member"}`) },
			func(me, him *client) *answer { return me.leave() },
		}
		for i, first := range acts {
			for j, second := range acts {
				one, two := alone.signUp("One"), alone.signUp("Two")
				alone.sql(`UPDATE users SET role = CASE WHEN id = ANY ($1::text[]::uuid[]) THEN 'admin' ELSE 'member' END::global_role WHERE is_active`, []string{one.id, two.id})
				alone.both(func() *answer { return first(one, two) }, func() *answer { return second(two, one) })
				if n := alone.number(admins); n < 1 {
					t.Errorf("%d and %d at once: %d admins", i, j, n)
				}
			}
		}
	})

	run("one invitation, accepted fifty times", func(t *testing.T) {
		project := ada.project("Invited")
		token := invite(ada, project, "carl@example.org")
		carl := ts.signUpAs("carl@example.org")
		got := statuses(atOnce(50, func(i int) *answer {
			return x.on(i, carl).post("/api/v1/invitations/accept", jsonOf(acceptance{token}))
		}))
		if got[200] != 1 || got[404] != 49 {
			t.Errorf("got %v, want one 200", got)
		}
		if n := x.number(`SELECT count(*) FROM events WHERE scope = $1::text::uuid AND kind = 'member.added' AND subject = $2::text::uuid`, project, carl.id); n != 1 {
			t.Errorf("the log tells of it %d times", n)
		}
	})
	for name, end := range map[string]func(project, invited, email string) *answer{
		"is taken back": func(project, invited, email string) *answer {
			return x.on(1, ada).delete("/api/v1/projects/" + project + "/invitations/" + invited)
		},
		"is replaced by a lesser one": func(project, invited, email string) *answer {
			return x.on(1, ada).post("/api/v1/projects/"+project+"/members", `{"email":"`+email+`","role":"viewer"}`)
		},
		"loses its project": func(project, invited, email string) *answer {
			return x.on(1, ada).delete("/api/v1/projects/" + project)
		},
	} {
		run("an invitation, accepted while it "+name, func(t *testing.T) {
			for range rounds {
				project, email := ada.project("Invited"), fmt.Sprintf("dora%d@example.org", accounts.Add(1))
				made := ada.post("/api/v1/projects/"+project+"/members", `{"email":"`+email+`","role":"admin"}`).want(202)
				dora := ts.signUpAs(email)
				accepted, ended := x.both(func() *answer {
					return x.on(0, dora).post("/api/v1/invitations/accept", jsonOf(acceptance{made.str("token")}))
				}, func() *answer { return end(project, made.str("id"), email) })
				role, err := queryValue[string](t.Context(), ts.db, `SELECT coalesce((SELECT role::text FROM members WHERE project_id = $1::text::uuid AND user_id = $2::text::uuid), '')`, project, dora.id)
				switch {
				case err != nil || accepted.status >= 500 || ended.status >= 500:
					t.Errorf("got %d, %d, %v", accepted.status, ended.status, err)
				case (accepted.status == 200) != (role == "admin"):
					t.Errorf("accepting got %d, ending it %d, and the role is %q", accepted.status, ended.status, role)
				}
				if n := x.number(`SELECT count(*) FROM events WHERE scope = $1::text::uuid AND subject = $2::text::uuid AND kind = 'member.added'`, project, dora.id); n > 1 || n == 0 && role != "" {
					t.Errorf("the log tells %d times of the role %q", n, role)
				}
			}
		})
	}

	run("refreshing and signing in while the password is changed", func(t *testing.T) {
		for range rounds {
			carl := ts.signUp("Carl")
			phone, tablet := carl.signIn(), carl.signIn()
			answers := atOnce(7, func(i int) *answer {
				switch i {
				case 0:
					return x.on(0, carl).changePassword("staple of good habits")
				case 1, 2:
					return (&client{s: x.on(i, carl).s}).refreshWith(phone.refresh)
				case 3, 4:
					return (&client{s: x.on(i, carl).s}).refreshWith(tablet.refresh)
				}
				return (&client{s: x.on(i, carl).s}).post(loginPath, jsonOf(credentials{carl.email, testPassword}))
			})
			answers[0].want(204)
			for i, got := range answers[1:] {
				if got.status == 200 {
					(&client{s: x.on(i, carl).s, token: got.str("accessToken")}).get("/api/v1/me").problem(401, "unauthenticated")
					x.on(i+1, carl).refreshWith(got.str("refreshToken")).problem(401, "invalid_refresh_token")
				} else if got.status != 401 {
					t.Errorf("got %d %s", got.status, got.body)
				}
			}
			carl.get("/api/v1/me").want(200)
			carl.get("/api/v1/me/sessions?total=true").want(200).is("total", 1)
		}
	})
	run("eight new passwords", func(t *testing.T) {
		carl := ts.signUp("Carl")
		answers := atOnce(8, func(i int) *answer { return x.on(i, carl).changePassword(fmt.Sprintf("the number %d of many", i)) })
		right := 0
		for i, got := range answers {
			if got.status == 204 {
				right++
				ts.anonymous().post(loginPath, jsonOf(credentials{carl.email, fmt.Sprintf("the number %d of many", i)})).want(200)
			} else if got.status != 403 { // what the others sent is no longer the present one
				t.Errorf("got %d %s", got.status, got.body)
			}
		}
		if right != 1 {
			t.Errorf("%d of them were set", right)
		}
	})
	run("turning a second factor on, twice", func(t *testing.T) {
		carl := ts.signUp("Carl")
		auth := newAuthenticator(carl)
		answers := atOnce(10, func(i int) *answer { return x.on(i, carl).confirmTOTP(auth.code(0)) })
		if got := statuses(answers); got[200] != 1 || got[409] != 9 {
			t.Errorf("got %v, want one 200", got)
		}
		if n := ts.count("recovery_codes"); n != recoveryCodes {
			t.Errorf("%d recovery codes, want those of one answer", n)
		}
	})

	same := func(key, body string, i int) *answer { return x.on(i, ada).keyed(key).post("/api/v1/tasks", body) }
	run("one Idempotency-Key, fifty times", func(t *testing.T) {
		body := `{"projectId":"` + ada.project("Launch") + `","title":"Once"}`
		before := ts.count("tasks")
		answers := atOnce(50, func(i int) *answer { return same("many", body, i) })
		first := same("many", body, 0).want(201)
		for _, got := range answers {
			switch got.status {
			case 201:
				got.is("id", first.str("id"))
			case 409:
				if got.problem(409, "idempotency_key_in_use").header.Get("Retry-After") == "" {
					t.Error("no Retry-After")
				}
			default:
				t.Errorf("got %d %s", got.status, got.body)
			}
		}
		if n := ts.count("tasks") - before; n != 1 || statuses(answers)[201] == 0 {
			t.Errorf("got %d tasks by %v, want 1", n, statuses(answers))
		}
	})
	run("one Idempotency-Key while the first is at it", func(t *testing.T) {
		project := ada.project("Launch")
		body := `{"projectId":"` + project + `","title":"Once"}`
		tx, err := ts.db.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(context.Background())
		if _, err := tx.Exec(t.Context(), "SELECT FROM projects WHERE id = $1::text::uuid FOR UPDATE", project); err != nil {
			t.Fatal(err)
		}
		answered := make(chan *answer)
		go func() { answered <- same("waiting", body, 0) }()
		ts.waitForLock()
		same("waiting", body, 0).problem(409, "idempotency_key_in_use")
		same("waiting", body, 1).problem(409, "idempotency_key_in_use")
		x.on(0, ada).keyed("other").post("/api/v1/projects", `{"name":"Meanwhile"}`).want(201)
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantReplay(t, (<-answered).want(201), same("waiting", body, 1))
	})
	run("one Idempotency-Key with two bodies", func(t *testing.T) {
		project, before := ada.project("Launch"), ts.count("tasks")
		answers := atOnce(20, func(i int) *answer {
			return same("two", fmt.Sprintf(`{"projectId":"%s","title":"Body %d"}`, project, i%2), i)
		})
		if got := statuses(answers); got[201] == 0 || got[201]+got[409]+got[422] != 20 || ts.count("tasks")-before != 1 {
			t.Errorf("got %v and %d tasks, want 1", got, ts.count("tasks")-before)
		}
	})

	project := ada.project("Versions")
	ada.add(project, bob, roleMember)
	task := ada.task(project, "Contested")
	for path, body := range map[string]string{
		"/api/v1/tasks/" + task: `{"title":"By %d"}`, "/api/v1/projects/" + project: `{"name":"By number %d"}`, "/api/v1/me": `{"firstName":"By %d"}`,
	} {
		run("fifty changes of one version of "+strings.Split(path, "/")[3], func(t *testing.T) {
			tag := ada.etag(path)
			answers := atOnce(50, func(i int) *answer { return x.on(i, ada).with("If-Match", tag).patch(path, fmt.Sprintf(body, i)) })
			if got := statuses(answers); got[200] != 1 || got[412] != 49 {
				t.Errorf("got %v, want one 200 and 49 times 412", got)
			}
			if next := ada.etag(path); next == tag {
				t.Error("nothing was changed")
			}
		})
	}
	run("deleting a version that is being changed", func(t *testing.T) {
		for range rounds {
			task := ada.task(project, "Contested")
			path := "/api/v1/tasks/" + task
			tag := ada.etag(path)
			deleted, patched := x.both(func() *answer { return x.on(0, ada).with("If-Match", tag).delete(path) }, func() *answer { return x.on(1, bob).with("If-Match", tag).patch(path, `{"title":"Changed"}`) })
			if (deleted.status == 204) == (patched.status == 200) || deleted.status != 204 && deleted.status != 412 || patched.status != 200 && patched.status != 404 {
				t.Errorf("deleting got %d, changing %d", deleted.status, patched.status)
			}
		}
	})
	run("changing what is being deleted", func(t *testing.T) {
		for range rounds {
			task := ada.task(project, "Contested")
			answers := atOnce(12, func(i int) *answer {
				if i == 6 {
					return x.on(i, ada).delete("/api/v1/tasks/" + task).want(204)
				}
				return x.on(i, bob).patch("/api/v1/tasks/"+task, fmt.Sprintf(`{"title":"Change %d"}`, i))
			})
			got := statuses(answers)
			if got[200]+got[404] != 11 {
				t.Errorf("got %v", got)
			}
			history := x.number(`SELECT count(*) FROM events WHERE subject = $1::text::uuid`, task)
			last := x.number(`SELECT count(*) FROM events e WHERE subject = $1::text::uuid AND kind = 'task.deleted' AND seq = (SELECT max(seq) FROM events WHERE subject = e.subject)`, task)
			if history != 2+got[200] || last != 1 {
				t.Errorf("%d changes were answered, %d stand in the history, the deletion last: %v", got[200], history, last == 1)
			}
		}
	})

	run("registering one address fifty times", func(t *testing.T) {
		email := "fifty@example.org"
		answers := atOnce(50, func(i int) *answer {
			spelling := []string{email, strings.ToUpper(email), "Fifty@Example.Org"}[i%3]
			return (&client{s: x.on(i, ada).s}).post(registerPath, registration(spelling))
		})
		if got := statuses(answers); got[201] != 1 || got[201]+got[409]+got[503] != 50 {
			t.Errorf("got %v, want one 201", got)
		}
		if n := x.number(`SELECT count(*) FROM users WHERE lower(email) = $1`, email); n != 1 {
			t.Errorf("%d accounts", n)
		}
	})
	run("more API tokens than one may have", func(t *testing.T) {
		carl := ts.signUp("Carl")
		for range maxAPITokens - 5 {
			carl.tokenFor("read")
		}
		if got := statuses(atOnce(20, func(i int) *answer { return x.on(i, carl).post(tokensPath, `{"name":"x","scopes":["read"]}`) })); got[201] != 5 || got[409] != 15 {
			t.Errorf("got %v, want five 201", got)
		}
	})
	run("a write that waits while its author is deactivated", func(t *testing.T) {
		eve, project := ts.signUp("Eve"), ada.project("Contested")
		ada.add(project, eve, roleMember)
		tx, err := ts.db.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(context.Background())
		if _, err := tx.Exec(t.Context(), "SELECT FROM projects WHERE id = $1::text::uuid FOR UPDATE", project); err != nil {
			t.Fatal(err)
		}
		answered := make(chan *answer, 1)
		go func() { answered <- eve.post("/api/v1/tasks", `{"projectId":"`+project+`","title":"Too late"}`) }()
		ts.waitForLock()
		root.patch("/api/v1/users/"+eve.id, `{"isActive":false}`).want(200)
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		(<-answered).problem(404, "not_found")
		ada.get("/api/v1/tasks?total=true&projectId="+project).want(200).is("total", 0)
	})
	// Each is held up by a lock on what it changes last, until the other waits for it.
	for name, test := range map[string]struct {
		lock       string
		addedFirst bool
	}{
		"a project whose new owner deletes his account meanwhile": {`SELECT FROM invitations WHERE email = (SELECT email FROM users WHERE id = $1::text::uuid) FOR UPDATE`, true},
		"a deleted account that becomes an owner meanwhile":       {`SELECT FROM sessions WHERE user_id = $1::text::uuid FOR UPDATE`, false},
	} {
		run(name, func(t *testing.T) {
			gone, project := ts.signUp("Gone"), ada.project("Ghosts")
			ts.sql(`INSERT INTO invitations (id, project_id, email, role, token_hash, invited_by, expires_at)
				VALUES ($1, $2::text::uuid, $3, 'viewer', $5, $4::text::uuid, now() + interval '1 hour')`, newUUID(), project, gone.email, ada.id, tokenHash(gone.email))
			tx, err := ts.db.pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback(context.Background())
			if _, err := tx.Exec(t.Context(), test.lock, gone.id); err != nil {
				t.Fatal(err)
			}
			added, left := make(chan *answer, 1), make(chan *answer, 1)
			add := func() {
				added <- x.on(0, ada).post("/api/v1/projects/"+project+"/members", `{"userId":"`+gone.id+`","role":"owner"}`)
			}
			leave := func() { left <- x.on(1, gone).leave() }
			first, second := leave, add
			if test.addedFirst {
				first, second = add, leave
			}
			go first()
			ts.waitForLocks(1)
			go second()
			ts.waitForLocks(2)
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			(<-left).want(204)
			if got := <-added; (got.status == 201) != test.addedFirst || got.status >= 500 {
				t.Errorf("adding him got %d %s", got.status, got.body)
			}
			if n := x.number(`SELECT count(*) FROM members WHERE user_id = $1::text::uuid`, gone.id); n != 0 {
				t.Error("a deleted account is an owner")
			}
		})
	}
	run("API tokens that a deactivated account was about to make", func(t *testing.T) {
		for range rounds {
			carl := ts.signUp("Carl")
			atOnce(8, func(i int) *answer {
				if i == 4 {
					return x.on(0, root).patch("/api/v1/users/"+carl.id, `{"isActive":false}`).want(200)
				}
				return x.on(i, carl).post(tokensPath, `{"name":"Later","scopes":["write"]}`)
			})
			if n := x.number(`SELECT count(*) FROM api_tokens WHERE user_id = $1::text::uuid`, carl.id); n != 0 {
				t.Errorf("%d of them wait until it is active again", n)
			}
		}
	})
	run("what a deleted account was about to make", func(t *testing.T) {
		for range rounds {
			project, email := ada.project("Invited"), fmt.Sprintf("gone%d@example.org", accounts.Add(1))
			token := invite(ada, project, email)
			gone := ts.signUpAs(email)
			atOnce(10, func(i int) *answer {
				c := x.on(i, gone)
				switch i {
				case 0:
					return c.leave().want(204)
				case 1, 2, 3:
					return c.post("/api/v1/projects", `{"name":"Ghost"}`)
				case 4, 5, 6:
					return c.post(tokensPath, `{"name":"Ghost","scopes":["write"]}`)
				case 7, 8:
					return c.patch("/api/v1/me", `{"firstName":"Ghost"}`)
				}
				return c.post("/api/v1/invitations/accept", jsonOf(acceptance{token}))
			})
			for what, sql := range map[string]string{
				"places in projects that others use": `SELECT count(*) FROM members m JOIN projects p ON p.id = m.project_id WHERE m.user_id = $1::text::uuid AND p.deleted_at IS NULL`,
				"API tokens":                         `SELECT count(*) FROM api_tokens WHERE user_id = $1::text::uuid`,
				"sessions":                           `SELECT count(*) FROM sessions WHERE user_id = $1::text::uuid`,
				"names":                              `SELECT count(*) FROM users WHERE id = $1::text::uuid AND first_name <> 'Deleted'`,
			} {
				if n := x.number(sql, gone.id); n != 0 {
					t.Errorf("a deleted account has %d %s", n, what)
				}
			}
		}
	})
}

// losingRights has somebody write as fast as he can, on two processes, while his right to do so ends.
// What he sends once that is answered is refused.
func (a *attacks) losingRights(t *testing.T) {
	ts := newTestServer(t)
	x := crowd{ts, []*testServer{startTestServer(t, ts.config.databaseURL)}}
	root, ada := ts.signUp("Root"), ts.signUp("Ada")
	for name, loss := range map[string]struct {
		end  func(project string, eve *client) *answer
		want int // of what comes too late
	}{
		"is removed": {func(project string, eve *client) *answer {
			return ada.delete("/api/v1/projects/" + project + "/members/" + eve.id)
		}, 404},
		"becomes a viewer": {func(project string, eve *client) *answer {
			return ada.patch("/api/v1/projects/"+project+"/members/"+eve.id, `{"role":"viewer"}`)
		}, 403},
		"is deactivated": {func(project string, eve *client) *answer {
			return root.patch("/api/v1/users/"+eve.id, `{"isActive":false}`)
		}, 401},
		"signs out elsewhere": {func(project string, eve *client) *answer { return x.on(1, eve).post("/api/v1/auth/logout", "") }, 401},
		"deletes his account": {func(project string, eve *client) *answer { return x.on(1, eve).leave() }, 401},
		"loses the project":   {func(project string, eve *client) *answer { return ada.delete("/api/v1/projects/" + project) }, 404},
		"sees it archived": {func(project string, eve *client) *answer {
			return ada.patch("/api/v1/projects/"+project, `{"status":"archived"}`)
		}, 409},
	} {
		a.run(ts, "writing while one "+name, func(t *testing.T) {
			x.more[0].t = t
			eve, project := ts.signUp("Eve"), ada.project("Open")
			ada.add(project, eve, roleMember)
			task := ada.task(project, "Contested")
			said := eve.comment(task, "Contested")
			var over atomic.Bool // the end has been answered
			writes := []func(c *client) *answer{
				func(c *client) *answer { return c.patch("/api/v1/tasks/"+task, `{"title":"`+newUUID().String()+`"}`) },
				func(c *client) *answer { return c.post("/api/v1/tasks", `{"projectId":"`+project+`","title":"New"}`) },
				func(c *client) *answer {
					return c.post("/api/v1/tasks/"+task+"/move", `{"status":"review","last":true}`)
				},
				func(c *client) *answer { return c.post("/api/v1/tasks/"+task+"/comments", `{"body":"New"}`) },
				func(c *client) *answer { return c.patch("/api/v1/comments/"+said, `{"body":"`+newUUID().String()+`"}`) },
			}
			began := make(chan struct{}, 100)
			go func() {
				for range 10 {
					<-began
				}
				if got := loss.end(project, eve); got.status >= 300 {
					t.Errorf("got %d %s", got.status, got.body)
				}
				over.Store(true)
			}()
			answers := atOnce(10, func(i int) *answer {
				for n := 0; ; n++ {
					late := over.Load()
					got := writes[i%5](x.on(i, eve))
					if n == 1 {
						began <- struct{}{}
					}
					if late {
						return got
					}
				}
			})
			for _, got := range answers {
				got.want(loss.want)
			}
			before := ts.state()
			for i, write := range writes {
				write(x.on(i, eve)).want(loss.want)
			}
			ts.unchanged(before, "a write that came too late")
			if n := x.number(`SELECT count(*) FROM events e WHERE actor = $2::text::uuid AND scope = $1::text::uuid AND kind ~ '^(task|comment)[.]'
				AND seq > (SELECT max(seq) FROM events l WHERE l.scope = e.scope AND l.kind IN ('member.removed', 'member.updated', 'project.deleted', 'project.updated'))`, project, eve.id); n > 0 {
				t.Errorf("the log has %d changes after the end", n)
			}
		})
	}
}

// signUpAs makes an account with an address.
func (ts *testServer) signUpAs(email string) *client {
	ts.t.Helper()
	a := ts.anonymous().post(registerPath, registration(email)).want(201)
	return &client{s: ts, token: a.str("accessToken"), refresh: a.str("refreshToken"), id: a.str("user.id"), email: email}
}
