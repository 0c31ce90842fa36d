package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// atOnce calls fn n times at the same time and returns the answers.
func atOnce(n int, fn func(i int) *answer) []*answer {
	answers := make([]*answer, n)
	var all sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		all.Go(func() {
			<-start
			answers[i] = fn(i)
		})
	}
	close(start)
	all.Wait()
	return answers
}

// statuses counts answers by status.
func statuses(answers []*answer) map[int]int {
	counts := map[int]int{}
	for _, a := range answers {
		counts[a.status]++
	}
	return counts
}

// sql runs a statement on the server's database and fails the test if it touches no row.
func (ts *testServer) sql(statement string, args ...any) {
	ts.t.Helper()
	if n, err := execute(ts.t.Context(), ts.db, statement, args...); err != nil || n == 0 {
		ts.t.Fatalf("%s: %d rows, %v", statement, n, err)
	}
	ts.cache.forgetAll() // no log tells of it
}

func registration(email string) string {
	return jsonOf(newAccount{email, testPassword, "Ada", "Lovelace"})
}

const registerPath, loginPath, refreshPath = "/api/v1/auth/register", "/api/v1/auth/login", "/api/v1/auth/refresh"

func TestRegister(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	nobody := ts.anonymous()

	ts.run("makes the first account the admin and signs it in", func(t *testing.T) {
		a := nobody.post(registerPath, registration("Ada@Example.ORG")).want(201).is("user.role", "admin").is("user.email", "ada@example.org").
			is("user.timezone", "UTC").is("user.isActive", true).is("user.version", 1).is("expiresIn", 900).is("tokenType", "Bearer")
		if a.header.Get("Location") != "/api/v1/me" || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("got header %v", a.header)
		}
		if strings.Contains(strings.ToLower(string(a.body)), "hash") || strings.Contains(string(a.body), "assword") {
			t.Errorf("the answer tells of the password: %s", a.body)
		}
		ada := client{s: ts, token: a.str("accessToken")}
		ada.get("/api/v1/me").want(200).is("id", a.str("user.id"))
	})
	ts.run("makes later accounts members", func(t *testing.T) {
		nobody.post(registerPath, registration("bob@example.org")).want(201).is("user.role", "member")
	})
	ts.run("takes an address once, in whatever case", func(t *testing.T) {
		before := ts.state()
		nobody.post(registerPath, registration("ada@example.org")).problem(409, "email_taken")
		nobody.post(registerPath, registration("ADA@example.org")).problem(409, "email_taken")
		ts.unchanged(before, "a taken address")
	})
	ts.run("takes any address that mail can be sent to", func(t *testing.T) {
		for _, email := range []string{"a@localhost", "o'brien@example.org", "ada+taskflow@example.org", "a.b-c_d@mail.example.co.uk", "x@xn--bcher-kva.example", "1@2.example",
			strings.Repeat("a", 64) + "@example.org", "a@" + strings.Repeat("b", 63) + "." + strings.Repeat("c", 63) + "." + strings.Repeat("d", 63) + "." + strings.Repeat("e", 54) + ".com"} {
			nobody.post(registerPath, registration(email)).want(201).is("user.email", email)
		}
	})
	ts.run("refuses anything else as an address", func(t *testing.T) {
		for email, code := range map[string]string{"": "required", "ada": "invalid_email", "ada@": "invalid_email", "@example.org": "invalid_email", "ada@example": "invalid_email", "ada@@example.org": "invalid_email",
			"ada@exa mple.org": "invalid_email", " ada@example.org": "invalid_email", "ada@example.org ": "invalid_email", "ada@example.org\n": "invalid_email", "ada@example.org\r\nBcc: b@example.org": "invalid_email",
			"Ada <ada@example.org>": "invalid_email", `"ada"@example.org`: "invalid_email", "ada(comment)@example.org": "invalid_email", ".ada@example.org": "invalid_email", "a..da@example.org": "invalid_email",
			"ada.@example.org": "invalid_email", "ada@-example.org": "invalid_email", "ada@example..org": "invalid_email", "ada@example.org.": "invalid_email", "ada@[127.0.0.1]": "invalid_email", "a,b@example.org": "invalid_email",
			"ä@example.org": "invalid_email", "ada@bücher.example": "invalid_email", "аda@example.org": "invalid_email", "ada@example.org\u200b": "invalid_email", "\u212a@example.org": "invalid_email",
			strings.Repeat("a", 65) + "@example.org": "too_long", "ada@" + strings.Repeat("b.", 130) + "org": "too_long", strings.Repeat("a", 10_000): "too_long"} {
			nobody.post(registerPath, registration(email)).problem(422, "validation_failed").field("email", code)
		}
	})
	ts.run("counts a password's characters, not its bytes", func(t *testing.T) {
		for i, password := range []string{"tr0ub4dor", strings.Repeat("no joke ", 16), strings.Repeat("😀🎈🎂🐘🦊🐙🦉🐝", 16), "ünïcödé!", "        spaces        "} {
			email := fmt.Sprintf("password%d@example.org", i)
			nobody.post(registerPath, jsonOf(newAccount{email, password, "A", "B"})).want(201)
			nobody.post(loginPath, jsonOf(credentials{email, password})).want(200)
			for _, wrong := range []string{password[:len(password)-1], strings.TrimSpace(password) + "x", strings.ToUpper(password) + "x"} {
				if len([]rune(wrong)) <= maxPassword {
					nobody.post(loginPath, jsonOf(credentials{email, strings.ToValidUTF8(wrong, "?")})).problem(401, "invalid_credentials")
				}
			}
		}
		for password, code := range map[string]string{"": "required", "1234567": "too_short", "üüüüüüü": "too_short", strings.Repeat("a", 129): "too_long", "12345678\t": "invalid_text", "12345678\u0085": "invalid_text", "\n\n\n\n\n\n\n\n": "required"} {
			nobody.post(registerPath, jsonOf(newAccount{"p@example.org", password, "A", "B"})).problem(422, "validation_failed").field("password", code)
		}
	})
	ts.run("names people as they are called", func(t *testing.T) {
		nobody.post(registerPath, jsonOf(newAccount{"name@example.org", testPassword, "Ng", "O’Brien-Łukasiewicz 王 " + strings.Repeat("é", 20)})).want(201)
		for name, code := range map[string]string{"": "required", " \u00a0": "required", strings.Repeat("x", 51): "too_long", "a\nb": "invalid_text", "a\x1bb": "invalid_text"} {
			nobody.post(registerPath, jsonOf(newAccount{"name2@example.org", testPassword, name, "B"})).problem(422, "validation_failed").field("firstName", code)
		}
	})
	ts.run("names everything that is wrong at once", func(t *testing.T) {
		nobody.post(registerPath, `{}`).problem(422, "validation_failed").field("email", "required").field("password", "required").field("firstName", "required").field("lastName", "required")
	})
}

func TestFirstRegistrationsAtOnce(t *testing.T) {
	t.Parallel()
	register := func(ts *testServer) []*answer {
		return atOnce(10, func(i int) *answer {
			return ts.anonymous().post(registerPath, registration(fmt.Sprintf("first%d@example.org", i)))
		})
	}
	t.Run("make one admin", func(t *testing.T) {
		answers := register(newTestServer(t))
		admins := slices.DeleteFunc(answers, func(a *answer) bool { return a.want(201).str("user.role") != "admin" })
		if len(admins) != 1 {
			t.Errorf("got %d admins, want 1", len(admins))
		}
	})
	t.Run("make one account where registration is closed", func(t *testing.T) {
		for _, mode := range []string{"off", "invite"} {
			if got := statuses(register(newTestServer(t, "REGISTRATION="+mode))); got[201] != 1 || got[403] != 9 {
				t.Errorf("%s: got %v, want one 201 and nine 403", mode, got)
			}
		}
	})
}

func TestRegistrationModes(t *testing.T) {
	t.Parallel()
	t.Run("off lets nobody but the first in", func(t *testing.T) {
		ts := newTestServer(t, "REGISTRATION=off")
		ada := ts.signUp("Ada")
		invite(ada, ada.project("Project"), "bob@example.org")
		before := ts.state()
		ts.anonymous().post(registerPath, registration("bob@example.org")).problem(403, "registration_closed")
		ts.unchanged(before, "a closed registration")
	})
	t.Run("invite lets those in who have an invitation", func(t *testing.T) {
		ts := newTestServer(t, "REGISTRATION=invite")
		ada := ts.signUp("Ada")
		project := ada.project("Project")
		nobody := ts.anonymous()
		nobody.post(registerPath, registration("bob@example.org")).problem(403, "registration_closed")
		token := invite(ada, project, "Bob@example.org")
		nobody.post(registerPath, registration("eve@example.org")).problem(403, "registration_closed")
		a := nobody.post(registerPath, registration("BOB@example.org")).want(201)
		bob := client{s: ts, token: a.str("accessToken")}
		bob.post("/api/v1/invitations/accept", `{"token":"`+token+`"}`).want(200).is("id", project)
		invite(ada, project, "late@example.org")
		ts.sql("UPDATE invitations SET expires_at = now()")
		nobody.post(registerPath, registration("late@example.org")).problem(403, "registration_closed")
	})
}

// invite invites an address into a project and returns the token.
func invite(c *client, project, email string) string {
	c.s.t.Helper()
	return c.post("/api/v1/projects/"+project+"/members", `{"email":"`+email+`","role":"member"}`).want(202).str("token")
}

func TestSignInGivesTheAccountAndANewSession(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ada := ts.signUp("Ada")
	again := ada.signIn()
	again.get("/api/v1/me").want(200).is("id", ada.id)
	ada.get("/api/v1/me").want(200)
	ada.get("/api/v1/me/sessions?total=true").want(200).is("total", 2)
	ts.anonymous().post(loginPath, jsonOf(credentials{strings.ToUpper(ada.email), testPassword})).want(200).is("user.id", ada.id)
}

// waitForLock returns when a statement on this server's database waits for a lock.
func (ts *testServer) waitForLock() {
	ts.t.Helper()
	ts.waitForLocks(1)
}

// waitForLocks returns when so many statements wait for one. It asks on a connection of its own, as
// those that wait may have taken all of the server's.
func (ts *testServer) waitForLocks(n int) {
	ts.t.Helper()
	conn, err := pgx.Connect(ts.t.Context(), string(ts.config.databaseURL))
	if err != nil {
		ts.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	soon(ts.t, "a statement that waits for a lock", func() bool {
		var waiting int
		err := conn.QueryRow(ts.t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&waiting)
		return err == nil && waiting >= n
	})
}

func (c *client) refreshWith(token string) *answer {
	c.s.t.Helper()
	return (&client{s: c.s}).post(refreshPath, `{"refreshToken":"`+token+`"}`)
}

func TestRefresh(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ada := ts.signUp("Ada")

	ts.run("gives a new pair for the same session", func(t *testing.T) {
		c := ada.signIn()
		a := c.refreshWith(c.refresh).want(200).is("expiresIn", 900).is("tokenType", "Bearer").is("user", nil)
		if a.str("refreshToken") == c.refresh {
			t.Error("the refresh token is the same")
		}
		next := client{s: ts, token: a.str("accessToken")}
		next.get("/api/v1/me").want(200)
		c.get("/api/v1/me").want(200)
		next.post("/api/v1/auth/logout", "").want(204)
		c.get("/api/v1/me").problem(401, "unauthenticated")
	})
	ts.run("gives the same successor again to who lost the answer", func(t *testing.T) {
		c := ada.signIn()
		next := c.refreshWith(c.refresh).want(200).str("refreshToken")
		c.refreshWith(c.refresh).want(200).is("refreshToken", next)
		c.refreshWith(next).want(200)
	})
	ts.run("does not make a session longer", func(t *testing.T) {
		c := ada.signIn()
		ends := c.get("/api/v1/me/sessions").want(200).str("items.0.expiresAt")
		next := c.refreshWith(c.refresh).want(200).str("refreshToken")
		c.get("/api/v1/me/sessions").want(200).is("items.0.expiresAt", ends)
		ts.sql("UPDATE sessions SET expires_at = clock_timestamp() - interval '1 ms' WHERE id = $1::text::uuid", sessionOf(c))
		c.refreshWith(next).problem(401, "invalid_refresh_token")
		c.get("/api/v1/me").problem(401, "unauthenticated")
	})
}

// sessionOf is the id of a client's session.
func sessionOf(c *client) string {
	claims, err := c.s.keys.verifyAccess(c.token)
	if err != nil {
		c.s.t.Fatal(err)
	}
	return claims.Session.String()
}

func TestSessions(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t, "REFRESH_TOKEN_TTL=2h")
	ada, bob := ts.signUp("Ada"), ts.signUp("Bob")
	agent := "Mozilla/5.0 \x80" + strings.Repeat("x", 300)
	phone := &client{s: ts, email: ada.email}
	a := phone.with("User-Agent", agent).post(loginPath, jsonOf(credentials{ada.email, testPassword})).want(200)
	phone.token = a.str("accessToken")

	ts.run("are listed, the newest first, with where they come from", func(t *testing.T) {
		list := ada.get("/api/v1/me/sessions?total=true").want(200).is("total", 2).is("items.0.id", sessionOf(phone)).is("items.0.current", false).is("items.1.current", true).
			is("items.0.ip", "127.0.0.1").is("items.0.userAgent", "Mozilla/5.0 \ufffd"+strings.Repeat("x", maxUserAgent-13)+"…")
		made, err1 := time.Parse(time.RFC3339, list.str("items.0.createdAt"))
		ends, err2 := time.Parse(time.RFC3339, list.str("items.0.expiresAt"))
		if err1 != nil || err2 != nil || ends.Sub(made).Round(time.Minute) != 2*time.Hour {
			t.Errorf("lives from %v to %v, want 2 h", made, ends)
		}
		first := ada.get("/api/v1/me/sessions?limit=1").want(200)
		ada.get("/api/v1/me/sessions?limit=1&cursor="+first.str("next")).want(200).is("items.0.id", sessionOf(ada)).is("next", nil)
	})
	ts.run("end one by one, and at once", func(t *testing.T) {
		tablet := ada.signIn()
		path := "/api/v1/me/sessions/" + sessionOf(tablet)
		bob.delete(path).problem(404, "not_found")
		tablet.get("/api/v1/me").want(200)
		ada.delete(path).want(204)
		tablet.get("/api/v1/me").problem(401, "unauthenticated")
		tablet.refreshWith(tablet.refresh).problem(401, "invalid_refresh_token")
		ada.delete(path).problem(404, "not_found")
		ada.delete("/api/v1/me/sessions/"+newUUID().String()).problem(404, "not_found")
	})
	ts.run("end all but the one that asks", func(t *testing.T) {
		more := []*client{ada.signIn(), ada.signIn(), phone}
		ada.delete("/api/v1/me/sessions").want(204)
		for _, c := range more {
			c.get("/api/v1/me").problem(401, "unauthenticated")
		}
		ada.get("/api/v1/me/sessions?total=true").want(200).is("total", 1).is("items.0.id", sessionOf(ada))
		ada.delete("/api/v1/me/sessions").want(204) // again: nothing to end
		bob.get("/api/v1/me").want(200)
	})
	ts.run("end by signing out, and only once", func(t *testing.T) {
		c := ada.signIn()
		c.post("/api/v1/auth/logout", "").want(204)
		c.post("/api/v1/auth/logout", "").problem(401, "unauthenticated")
		c.refreshWith(c.refresh).problem(401, "invalid_refresh_token")
		ada.get("/api/v1/me").want(200)
	})
	ts.run("end by themselves when their time is over", func(t *testing.T) {
		c := ada.signIn()
		ts.sql("UPDATE sessions SET expires_at = clock_timestamp() - interval '1 ms' WHERE id = $1::text::uuid", sessionOf(c))
		c.get("/api/v1/me").problem(401, "unauthenticated")
		ada.delete("/api/v1/me/sessions/" + sessionOf(c)).want(http.StatusNoContent)
	})
}

func TestPasswordChange(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ada := ts.signUp("Ada")
	change := func(c *client, old, new string) *answer {
		return c.put("/api/v1/me/password", jsonOf(passwordChange{old, new}))
	}

	ts.run("needs the present password", func(t *testing.T) {
		before := ts.state()
		change(ada, "not it", "another password").problem(403, "wrong_password")
		change(ada, testPassword, "short").problem(422, "validation_failed").field("newPassword", "too_short")
		change(ada, testPassword, strings.Repeat("x", 129)).problem(422, "validation_failed").field("newPassword", "too_long")
		change(ada, "", "another password").problem(422, "validation_failed").field("currentPassword", "required")
		ts.unchanged(before, "a refused password")
	})
	ts.run("ends the other sessions and no more", func(t *testing.T) {
		other := ada.signIn()
		change(ada, testPassword, "another password").want(204)
		ada.get("/api/v1/me").want(200).is("version", 2)
		ada.refreshWith(ada.refresh).want(200)
		other.get("/api/v1/me").problem(401, "unauthenticated")
		other.refreshWith(other.refresh).problem(401, "invalid_refresh_token")
		ts.anonymous().post(loginPath, jsonOf(credentials{ada.email, testPassword})).problem(401, "invalid_credentials")
		ts.anonymous().post(loginPath, jsonOf(credentials{ada.email, "another password"})).want(200)
	})
	ts.run("happens once of two at once", func(t *testing.T) {
		bob := ts.signUp("Bob")
		answers := atOnce(2, func(i int) *answer {
			return change(&client{s: ts, token: bob.token}, testPassword, fmt.Sprintf("new password %d", i))
		})
		if got := statuses(answers); got[204] != 1 || got[403] != 1 {
			t.Fatalf("got %v, want one 204 and one 403", got)
		}
		winner := slices.IndexFunc(answers, func(a *answer) bool { return a.status == 204 })
		ts.anonymous().post(loginPath, jsonOf(credentials{bob.email, fmt.Sprintf("new password %d", winner)})).want(200)
	})
}
