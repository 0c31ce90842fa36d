package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

const forgotPath, resetPath, verifyPath = "/api/v1/auth/password/forgot", "/api/v1/auth/password/reset", "/api/v1/auth/email/verify"

// newMailedServer is a server that does its jobs, and the mail server that it uses.
func newMailedServer(t testing.TB, env ...string) (*testServer, *mailServer) {
	t.Helper()
	ms := newMailServer(t)
	ts := newTestServer(t, append([]string{"SMTP_URL=smtp://robot:hunter2@" + mailHost, "MAIL_FROM=TaskFlow <tasks@example.org>"}, env...)...)
	ms.reachedBy(ts.mail)
	ts.startWorking()
	return ts, ms
}

// mailsTo is what an address got so far, once nothing is on its way any more, in the order of causes.
func (ts *testServer) mailsTo(ms *mailServer, address string) (list []readMail) {
	ts.t.Helper()
	eventually(ts.t, 30*time.Second, "all mail is sent", func() bool {
		n, err := queryValue[int](ts.t.Context(), ts.db, `SELECT count(*) FROM jobs WHERE kind = 'email.send' AND dead_at IS NULL`)
		return err == nil && n == 0
	})
	for _, got := range ms.taken() {
		if got.to == address {
			m := readMailOf(ts.t, got.raw)
			ts.noteSecret(m.token)
			list = append(list, m)
		}
	}
	slices.SortFunc(list, func(a, b readMail) int {
		return strings.Compare(a.header.Get("Message-Id"), b.header.Get("Message-Id"))
	})
	return list
}

// lastMail is the last of so many mails that an address got.
func (ts *testServer) lastMail(ms *mailServer, address string, count int) readMail {
	ts.t.Helper()
	list := ts.mailsTo(ms, address)
	if len(list) != count {
		ts.t.Fatalf("%s has got %d mails, want %d", address, len(list), count)
	}
	return list[count-1]
}

func (ts *testServer) forgot(email string) {
	ts.t.Helper()
	ts.anonymous().post(forgotPath, jsonOf(forgotten{email})).want(202)
}

func (ts *testServer) reset(token, password string) *answer {
	ts.t.Helper()
	return ts.anonymous().post(resetPath, jsonOf(passwordReset{token, password}))
}

func (ts *testServer) verify(token string) *answer {
	ts.t.Helper()
	return ts.anonymous().post(verifyPath, jsonOf(addressProof{token}))
}

func TestForgottenPasswords(t *testing.T) {
	t.Parallel()
	ts, ms := newMailedServer(t)

	ts.run("are set anew by a link in a mail, which ends all sessions", func(t *testing.T) {
		ada := ts.signUp("Ada")
		phone := ada.signIn()
		ts.forgot(strings.ToUpper(ada.email))
		m := ts.lastMail(ms, ada.email, 2) // the first is of the registration
		if m.subject != "Set a new password" || m.use != "reset" || m.link != "http://taskflow.test/account#reset="+m.token || !strings.Contains(m.text, "Hello Ada,") || len(m.token) != 43 {
			t.Fatalf("got %+v", m)
		}
		ts.reset(m.token, "staple of good habits").want(204)
		for _, c := range []*client{ada, phone} {
			c.get("/api/v1/me").problem(401, "unauthenticated")
			c.refreshWith(c.refresh).problem(401, "invalid_refresh_token")
		}
		ts.anonymous().post(loginPath, jsonOf(credentials{ada.email, testPassword})).problem(401, "invalid_credentials")
		again := ts.anonymous().post(loginPath, jsonOf(credentials{ada.email, "staple of good habits"})).want(200).is("user.emailVerified", true).is("user.version", 2)
		if n, err := queryValue[int](t.Context(), ts.db, `SELECT count(*) FROM events WHERE scope = $1::text::uuid AND kind = 'user.password_changed'`, again.str("user.id")); err != nil || n != 1 {
			t.Errorf("got %d entries in the log, %v", n, err)
		}
		if told := ts.lastMail(ms, ada.email, 3); told.subject != "Your password has changed" || told.token != "" {
			t.Errorf("got %+v", told)
		}
	})
	ts.run("keep API tokens, unless nobody had proved the address", func(t *testing.T) {
		for _, proved := range []bool{true, false} {
			bob := ts.signUp("Bob")
			if token := ts.lastMail(ms, bob.email, 1).token; proved {
				ts.verify(token).want(204)
			}
			robot := bob.tokenFor("read")
			ts.forgot(bob.email)
			ts.reset(ts.lastMail(ms, bob.email, 2).token, "staple of good habits").want(204)
			robot.get("/api/v1/me").want(map[bool]int{true: 200, false: 401}[proved])
		}
	})
	ts.run("say what is wrong with a request", func(t *testing.T) {
		ts.anonymous().post(forgotPath, `{"email":"x"}`).problem(422, "validation_failed").field("email", "invalid_email")
		ts.reset("", "short").problem(422, "validation_failed").field("token", "required").field("password", "too_short")
		ts.reset("x", "Password123!").problem(422, "validation_failed").field("password", "too_common")
		bob := ts.signUp("Bobby")
		ts.forgot(bob.email)
		token := ts.lastMail(ms, bob.email, 2).token
		ts.reset(token, "BobbyTester99").problem(422, "validation_failed").field("password", "too_common")
		ts.reset(token, "staple of good habits").want(204)
	})
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	ts, ms := newMailedServer(t)
	signUp := func(name string) *client {
		c := ts.signUp(name)
		ts.lastMail(ms, c.email, 1) // or a wish for another address would overtake it
		return c
	}
	change := func(c *client, email, password string) *answer {
		return c.put("/api/v1/me/email", jsonOf(emailChange{email, password}))
	}

	ts.run("are confirmed by a link that registering sends", func(t *testing.T) {
		ada := signUp("Ada")
		ada.get("/api/v1/me").want(200).is("emailVerified", false)
		m := ts.lastMail(ms, ada.email, 1)
		if m.subject != "Please confirm your address" || m.use != "verify" {
			t.Fatalf("got %+v", m)
		}
		ts.verify(m.token).want(204)
		ada.get("/api/v1/me").want(200).is("emailVerified", true).is("email", ada.email).is("version", 2)
		ts.verify(m.token).problem(403, "invalid_token")
	})
	ts.run("change when the new one is confirmed, and the old one is told", func(t *testing.T) {
		ada := signUp("Ada")
		change(ada, "New.Ada@Example.org", testPassword).want(202)
		ada.get("/api/v1/me").want(200).is("email", ada.email).is("version", 1)
		m := ts.lastMail(ms, "new.ada@example.org", 1)
		ts.lastMail(ms, ada.email, 1)
		ts.verify(m.token).want(204)
		ada.get("/api/v1/me").want(200).is("email", "new.ada@example.org").is("emailVerified", true).is("version", 2)
		if told := ts.lastMail(ms, ada.email, 2); told.subject != "The address of your account has changed" {
			t.Errorf("got %+v", told)
		}
		ts.lastMail(ms, "new.ada@example.org", 1)
		ts.anonymous().post(loginPath, jsonOf(credentials{ada.email, testPassword})).problem(401, "invalid_credentials")
		ts.anonymous().post(loginPath, jsonOf(credentials{"new.ada@example.org", testPassword})).want(200)
		e, err := queryAll[struct{ Kind, Changes string }](t.Context(), ts.db, `SELECT kind, changes::text FROM events WHERE scope = $1::text::uuid AND kind LIKE 'user.email%' ORDER BY seq`, ada.id)
		want := `{"email": ["` + ada.email + `", "new.ada@example.org"]}`
		if err != nil || len(e) != 2 || e[0].Kind != "user.email_requested" || e[1].Kind != "user.email_verified" || e[0].Changes != want || e[1].Changes != want {
			t.Errorf("got %+v, %v", e, err)
		}
	})
	ts.run("need the present password", func(t *testing.T) {
		ada := signUp("Ada")
		before := ts.state()
		change(ada, "x@example.org", "not it").problem(403, "wrong_password")
		change(ada, "x", testPassword).problem(422, "validation_failed").field("email", "invalid_email")
		change(ada, "", "").problem(422, "validation_failed").field("email", "required").field("currentPassword", "required")
		ts.unchanged(before, "a refused change")
	})
	ts.run("belong to one account, also when two confirm the same", func(t *testing.T) {
		ada, bob := signUp("Ada"), signUp("Bob")
		change(ada, strings.ToUpper(bob.email), testPassword).problem(409, "email_taken")
		change(ada, "both@example.org", testPassword).want(202)
		first := ts.lastMail(ms, "both@example.org", 1).token
		change(bob, "both@example.org", testPassword).want(202)
		second := ts.lastMail(ms, "both@example.org", 2).token
		tokens := []string{first, second}
		if got := statuses(atOnce(2, func(i int) *answer { return ts.verify(tokens[i]) })); got[204] != 1 || got[409] != 1 {
			t.Errorf("got %v, want one 204 and one 409", got)
		}
	})
	ts.run("take the newest token only, and a new password makes it worthless", func(t *testing.T) {
		ada := signUp("Ada")
		change(ada, "one@example.org", testPassword).want(202)
		one := ts.lastMail(ms, "one@example.org", 1).token
		change(ada, "two@example.org", testPassword).want(202)
		ts.verify(one).problem(403, "invalid_token") // also before the next mail has gone
		two := ts.lastMail(ms, "two@example.org", 1).token
		ada.put("/api/v1/me/password", jsonOf(passwordChange{testPassword, "staple of good habits"})).want(204)
		ts.verify(two).problem(403, "invalid_token")
		ada.get("/api/v1/me").want(200).is("email", ada.email)
	})
	ts.run("can be confirmed again, which takes a wish back", func(t *testing.T) {
		ada := signUp("Ada")
		change(ada, "typo@example.org", testPassword).want(202)
		wish := ts.lastMail(ms, "typo@example.org", 1).token
		change(ada, ada.email, testPassword).want(202)
		ts.verify(wish).problem(403, "invalid_token")
		ts.verify(ts.lastMail(ms, ada.email, 2).token).want(204)
		ada.get("/api/v1/me").want(200).is("email", ada.email).is("emailVerified", true)
		ts.lastMail(ms, ada.email, 2) // nothing has changed, so nobody is told
	})
	ts.run("leave links to the old one worthless", func(t *testing.T) {
		ada := signUp("Ada")
		ts.forgot(ada.email)
		reset := ts.lastMail(ms, ada.email, 2).token
		change(ada, "moved@example.org", testPassword).want(202)
		ts.verify(ts.lastMail(ms, "moved@example.org", 1).token).want(204)
		ts.reset(reset, "staple of good habits").problem(403, "invalid_token")
	})
}

func TestWithoutMail(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ada := ts.signUp("Ada")
	before := ts.state()
	ts.anonymous().post(forgotPath, jsonOf(forgotten{ada.email})).problem(501, "mail_off")
	ada.put("/api/v1/me/email", jsonOf(emailChange{"x@example.org", testPassword})).problem(501, "mail_off")
	ts.unchanged(before, "what needs mail")
	ada.put("/api/v1/me/password", jsonOf(passwordChange{testPassword, "staple of good habits"})).want(204)
	if n := ts.living(); n != 0 {
		t.Errorf("%d jobs that nobody can do", n)
	}
}

func TestMailedTokensOutliveAChangeOfTheSecret(t *testing.T) {
	t.Parallel()
	ts, ms := newMailedServer(t, "JWT_SECRET="+strings.Repeat("old secret ", 4))
	ada := ts.signUp("Ada")
	ts.mailsTo(ms, ada.email)
	ms.set("RCPT", "451 later") // it is made, and then cannot be sent
	ts.forgot(ada.email)
	eventually(t, 30*time.Second, "a token that waits", func() bool {
		n, err := queryValue[int](t.Context(), ts.db, `SELECT count(*) FROM jobs WHERE attempts > 0`)
		return err == nil && n == 1
	})
	ts.keys.secrets = [][]byte{[]byte(strings.Repeat("new secret ", 4)), ts.keys.secrets[0]}
	ms.unset("RCPT")
	ts.reset(ts.lastMail(ms, ada.email, 2).token, "staple of good habits").want(204)
}

func TestTokensArePurgedAMonthAfterTheirEnd(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ada := ts.signUp("Ada")
	for _, ended := range []string{"31 days", "29 days"} {
		if _, err := execute(t.Context(), ts.db, `
			WITH a AS (INSERT INTO api_tokens (id, user_id, name, hash, scopes, expires_at) SELECT uuid_v7(), id, $2, convert_to($2, 'UTF8'), '{read}', now() - $2::text::interval FROM users)
			INSERT INTO account_tokens (id, user_id, kind, email, hash, expires_at) SELECT uuid_v7(), id, 'email', $2, convert_to($2, 'UTF8'), now() - $2::text::interval FROM users WHERE id = $1::text::uuid`, ada.id, ended); err != nil {
			t.Fatal(err)
		}
	}
	ada.tokenFor("read") // for ever
	ts.runs("sessions.purge", nil)
	left, err := queryValue[string](t.Context(), ts.db, `SELECT concat_ws(', ', (SELECT string_agg(name, ' and ' ORDER BY id) FROM api_tokens), (SELECT string_agg(email, ' and ') FROM account_tokens))`)
	if err != nil || left != "29 days and for a test, 29 days" {
		t.Errorf("got %s, %v", left, err)
	}
}
