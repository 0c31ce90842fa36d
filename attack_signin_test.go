package main

import (
	"cmp"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestAttackSignIn(t *testing.T) {
	t.Parallel()
	a := countAttacks(t, 95)
	a.guessing(t)
	a.hashing(t)
	a.timing(t)
	a.secondFactors(t)
	a.mailedTokens(t)
	a.injection(t)
}

// tryFrom is a sign-in with the right password and a code, from an address as a trusted proxy tells it.
func (c *client) tryFrom(addr, code string) *answer {
	c.s.t.Helper()
	return c.s.anonymous().with("X-Forwarded-For", addr).post(loginPath, jsonOf(login{c.email, testPassword, code}))
}

// guessing is about what limits wrong passwords.
func (a *attacks) guessing(t *testing.T) {
	ts := newTestServer(t, "TRUSTED_PROXIES=127.0.0.1")
	ada := ts.signUp("Ada")
	ts.signInFrom("198.51.100.7", ada.email, testPassword).want(200) // where she works

	a.run(ts, "guessing from one network", func(t *testing.T) {
		for i := range 10 {
			ts.signInFrom(fmt.Sprintf("203.0.113.%d", i), ada.email, fmt.Sprint("wrong password ", i)).problem(401, "invalid_credentials")
		}
		before := ts.state()
		a := ts.signInFrom("203.0.113.99", ada.email, testPassword).problem(429, "rate_limited") // the right one tells no more
		var wait int
		if fmt.Sscan(a.header.Get("Retry-After"), &wait); wait < 120 || wait > 180 {
			t.Errorf("got Retry-After %s, want the three minutes in which one comes back", a.header.Get("Retry-After"))
		}
		ts.unchanged(before, "a guess too many")
	})
	a.run(ts, "guessing to keep the owner out", func(t *testing.T) {
		ts.signInFrom("198.51.100.8", ada.email, testPassword).want(200)
		ts.signInFrom("203.0.114.1", ada.email, testPassword).want(200)
		ts.signInFrom("2001:db8::1", ada.email, testPassword).want(200)
		bob := ts.signUp("Bob")
		ts.signInFrom("203.0.113.99", bob.email, testPassword).want(200) // nor is anybody else in that network
	})
	// Ten guesses that seem to come from everywhere come from where they do.
	for name, claim := range map[string]func(i int) string{
		"claims in X-Forwarded-For":         func(i int) string { return fmt.Sprintf("192.%d.2.1, 233.252.1.5", i) },
		"claims of having come by a proxy":  func(i int) string { return fmt.Sprintf("192.%d.2.1, 233.252.2.5, 127.0.0.1", i) },
		"claims of many hops":               func(i int) string { return strings.Repeat(fmt.Sprintf("192.%d.2.1,", i), 100) + "233.252.3.5" },
		"one address written in other ways": func(i int) string { return []string{"233.252.4.5", "::ffff:233.252.4.5", "\t233.252.4.5 "}[i%3] },
		"all addresses of a network":        func(i int) string { return fmt.Sprintf("233.252.5.%d", 20*i) },
		"all addresses of one in IPv6":      func(i int) string { return fmt.Sprintf("2001:db8:1::%d:%x", i, 7*i) },
		"claims that are no addresses":      func(i int) string { return fmt.Sprintf("192.%d.2.1, evil-%d", i, i) },
		"another port with each":            func(i int) string { return fmt.Sprintf("192.0.2.7:%d", 4000+i) },
		"another zone with each":            func(i int) string { return fmt.Sprintf("fe80::1%%eth%d", i) },
	} {
		a.run(ts, "guessing by "+name, func(t *testing.T) {
			bob := ts.signUp("Bob")
			for i := range 10 {
				ts.signInFrom(claim(i), bob.email, "wrong password").problem(401, "invalid_credentials")
			}
			ts.signInFrom(claim(10), bob.email, testPassword).problem(429, "rate_limited")
			ts.signInFrom("198.51.100.9", bob.email, testPassword).want(200)
		})
	}
	a.run(ts, "guessing by headers that nobody vouches for", func(t *testing.T) {
		alone := startTestServer(t, newTestDatabase(t))
		bob := alone.signUp("Bob")
		for i, name := range []string{"X-Forwarded-For", "Forwarded", "X-Real-Ip", "True-Client-Ip", "Cf-Connecting-Ip", "X-Client-Ip", "X-Originating-Ip", "X-Remote-Addr", "Via", "Client-Ip"} {
			alone.anonymous().with(name, fmt.Sprintf("192.0.%d.1", i)).post(loginPath, jsonOf(credentials{bob.email, "wrong password"})).problem(401, "invalid_credentials")
		}
		alone.anonymous().with("X-Forwarded-For", "198.51.100.7").post(loginPath, jsonOf(credentials{bob.email, testPassword})).problem(429, "rate_limited")
	})
	a.run(ts, "guessing by other spellings of the address", func(t *testing.T) {
		kim := ts.signUp("Kim")
		for i := range 10 {
			spelling := []string{kim.email, strings.ToUpper(kim.email), strings.ToUpper(kim.email[:i+1]) + kim.email[i+1:], strings.Replace(kim.email, "k", "\u212a", 1)}[i%4] // the Kelvin sign, whose small letter is k
			ts.signInFrom("233.252.10.1", spelling, "wrong password").problem(401, "invalid_credentials")
		}
		ts.signInFrom("233.252.10.2", kim.email, testPassword).problem(429, "rate_limited")
	})
	a.run(ts, "spellings that only look like the address", func(t *testing.T) {
		bob := ts.signUp("Bob")
		wrong := ts.signInFrom("233.252.11.1", bob.email, "wrong password").problem(401, "invalid_credentials")
		for i, spelling := range []string{" " + bob.email, bob.email + " ", bob.email + ".", bob.email + "\u200b", bob.email + "\u00a0", "\ufeff" + bob.email, strings.Replace(bob.email, "o", "\u043e", 1), strings.Replace(bob.email, "@", "\uff20", 1), "<" + bob.email + ">", `"` + strings.Replace(bob.email, "@", `"@`, 1), strings.Replace(bob.email, "@", "+x@", 1), bob.email + "," + bob.email} {
			wantSame(t, wrong, ts.signInFrom(fmt.Sprintf("233.252.%d.1", 20+i), spelling, testPassword))
		}
	})
	a.run(ts, "asking who has an account", func(t *testing.T) {
		gone, bob := ts.signUp("Gone"), ts.signUp("Bob")
		ada.patch("/api/v1/users/"+gone.id, `{"isActive":false}`).want(200)
		before := ts.state()
		for i := range 12 {
			wrong := ts.signInFrom("192.0.2.1", bob.email, "wrong password")
			wantSame(t, wrong, ts.signInFrom("192.0.2.1", "nobody@example.org", testPassword))
			wantSame(t, wrong, ts.signInFrom("192.0.2.1", gone.email, testPassword))
			if want := map[bool]int{true: 401, false: 429}[i < 10]; wrong.status != want {
				t.Errorf("try %d: got %d, want %d", i, wrong.status, want)
			}
		}
		ts.unchanged(before, "failed sign-ins")
	})
	a.run(ts, "making right passwords count", func(t *testing.T) {
		for range 25 {
			ts.signInFrom("198.51.100.7", ada.email, testPassword).want(200)
		}
		got := statuses(atOnce(40, func(i int) *answer {
			return ts.signInFrom("198.51.100.7", ada.email, testPassword)
		}))
		if got[200]+got[503] != 40 || got[200] < 10 {
			t.Errorf("got %v, want all signed in, or told that the server is busy", got)
		}
	})
	a.run(ts, "guessing the present password at an open laptop, wherever it is asked for", func(t *testing.T) {
		eve := ts.signUp("Eve")
		at := func(addr string) *client { return eve.with("X-Forwarded-For", addr) }
		wrong := jsonOf(passwordProof{"wrong password"})
		for range 2 {
			at("192.0.2.77").put("/api/v1/me/password", jsonOf(passwordChange{"wrong password", "another password"})).problem(403, "wrong_password")
			at("192.0.2.78").do("DELETE", "/api/v1/me", wrong).problem(403, "wrong_password")
			at("192.0.2.79").post(totpPath, wrong).problem(403, "wrong_password")
			at("192.0.2.80").do("DELETE", totpPath, wrong).problem(403, "wrong_password")
			ts.signInFrom("192.0.2.81", eve.email, "wrong password").problem(401, "invalid_credentials")
		}
		before := ts.state()
		at("192.0.2.77").put("/api/v1/me/password", jsonOf(passwordChange{testPassword, "another password"})).problem(429, "rate_limited")
		at("192.0.2.77").do("DELETE", "/api/v1/me", proof).problem(429, "rate_limited")
		at("192.0.2.77").post(totpPath, proof).problem(429, "rate_limited")
		at("192.0.2.77").do("DELETE", totpPath, proof).problem(429, "rate_limited")
		ts.signInFrom("192.0.2.82", eve.email, testPassword).problem(429, "rate_limited")
		ts.unchanged(before, "a guess too many")
	})
	a.run(ts, "guessing many at once", func(t *testing.T) {
		bob := ts.signUp("Bob")
		got := statuses(atOnce(60, func(i int) *answer {
			return ts.signInFrom("233.252.0.1", bob.email, "wrong password")
		}))
		if most := 10 + cap(ts.hashing); got[401] < 10 || got[401] > most || got[401]+got[429]+got[503] != 60 {
			t.Errorf("got %v, want from 10 to %d judged", got, most)
		}
	})
	a.run(ts, "one password for many accounts", func(t *testing.T) {
		eve := ts.signUp("Eve")
		start, tried := time.Now(), 0
		for ; tried < 200; tried++ {
			a := ts.signInFrom(fmt.Sprintf("203.0.115.%d", tried), fmt.Sprintf("person%d@example.org", tried), "password1")
			if a.status == 429 {
				break
			}
			a.problem(401, "invalid_credentials")
			if tried%20 == 0 {
				ts.signInFrom("203.0.115.1", eve.email, testPassword).want(200) // an account of one's own clears nothing
			}
		}
		if back := int(time.Since(start) / networkGuesses.interval()); tried < 100 || tried > 100+back {
			t.Errorf("tried %d accounts, want 100, and %d that came back meanwhile", tried, back)
		}
		ts.signInFrom("203.0.116.2", "person100@example.org", "password1").problem(401, "invalid_credentials")
	})
	// It becomes slow, but for its owner where he is at home, and he gets in from anywhere.
	a.run(ts, "guessing one account from many networks", func(t *testing.T) {
		ada := ts.signUp("Ada")
		ts.signInFrom("198.51.100.7", ada.email, testPassword).want(200)
		for i := range 20 {
			ts.signInFrom(fmt.Sprintf("203.2.%d.1", i), ada.email, "wrong password").problem(401, "invalid_credentials")
		}
		atOnce(5, func(i int) *answer { return ts.signInFrom(fmt.Sprintf("203.1.%d.1", i), ada.email, "wrong password") }) // a few more than count
		slow := func(addr, password string, status int) {
			ts.t.Helper()
			start := time.Now()
			ts.signInFrom(addr, ada.email, password).want(status)
			if took := time.Since(start); took < guessDelay {
				ts.t.Errorf("a sign-in from %s took %v, want at least %v", addr, took, guessDelay)
			}
		}
		slow("203.0.117.1", "wrong password", 401)
		slow("192.0.3.1", testPassword, 200)
		// At home nothing of it is felt; a hundred such waits would take this test beyond its time.
		start := time.Now()
		for range 15 {
			ts.signInFrom("198.51.100.99", ada.email, testPassword).want(200)
		}
		if took := time.Since(start); took > 15*guessDelay {
			t.Errorf("15 sign-ins from a known network took %v", took)
		}
		ts.signInFrom("192.0.3.9", ada.email, testPassword).want(200) // known by now
	})
}

// hashing is about keeping the processors busy with one's own password, so that nobody else can sign in.
func (a *attacks) hashing(t *testing.T) {
	ts := newTestServer(t, "RATE_LIMIT=100/24h")
	for name, send := range map[string]func(c *client) *answer{
		"new passwords": func(c *client) *answer { return c.changePassword(testPassword) },
		"new addresses": func(c *client) *answer {
			return c.put("/api/v1/me/email", jsonOf(emailChange{"x@example.org", "not it"}))
		},
		"second factors begun":  func(c *client) *answer { return c.keyed(newUUID().String()).post(totpPath, proof) },
		"second factors ended":  func(c *client) *answer { return c.do("DELETE", totpPath, proof) },
		"accounts nearly ended": func(c *client) *answer { return c.do("DELETE", "/api/v1/me", jsonOf(passwordProof{"not it"})) },
	} {
		a.run(ts, "a flood of "+name, func(t *testing.T) {
			eve := ts.signUp("Eve")
			for range 5 {
				if got := send(eve); got.status == 429 {
					t.Errorf("got %d", got.status)
				}
			}
			send(eve).problem(429, "rate_limited")
			ts.signUp("Ada").get("/api/v1/me").want(200)
		})
	}
}

// timing is about what the time of an answer tells.
func (a *attacks) timing(t *testing.T) {
	ts := newTestServer(t, "BCRYPT_COST=8")
	admin, ada, gone := ts.signUp("Admin"), ts.signUp("Ada"), ts.signUp("Gone")
	admin.patch("/api/v1/users/"+gone.id, `{"isActive":false}`).want(200)
	attempts := map[string]string{
		"wrong": jsonOf(credentials{ada.email, "wrong password"}), "unknown": jsonOf(credentials{"nobody@example.org", testPassword}),
		"deactivated": jsonOf(credentials{gone.email, testPassword}), "no address": jsonOf(credentials{"x", testPassword}),
	}
	a.run(ts, "measuring who has an account", func(t *testing.T) {
		fastest := map[string]time.Duration{}
		for range 7 {
			for name, body := range attempts {
				start := time.Now()
				ts.anonymous().post(loginPath, body).want(401)
				fastest[name] = min(cmp.Or(fastest[name], time.Hour), time.Since(start))
			}
			start := time.Now()
			if _, err := ts.hashPassword(t.Context(), "x"); err != nil {
				t.Fatal(err)
			}
			fastest["one hash"] = min(cmp.Or(fastest["one hash"], time.Hour), time.Since(start))
		}
		for name, took := range fastest {
			if took < fastest["one hash"]/2 || took > 5*fastest["wrong"] {
				t.Errorf("%s took %v; one hash %v, a wrong password %v", name, took, fastest["one hash"], fastest["wrong"])
			}
		}
	})
}

// secondFactors is about getting past one with the password in hand.
func (a *attacks) secondFactors(t *testing.T) {
	ts := newTestServer(t, "TRUSTED_PROXIES=127.0.0.1")
	step := ts.withClock()
	networks := 0
	network := func() string { // of each case its own
		networks++
		return fmt.Sprintf("203.0.%d.1", networks)
	}
	guarded := func() (*client, *authenticator, []any) {
		ts.t.Helper()
		ada := ts.signUp("Ada")
		auth := newAuthenticator(ada)
		return ada, auth, ada.confirmTOTP(auth.code(0)).want(200).at("recoveryCodes").([]any)
	}

	a.run(ts, "guessing codes", func(t *testing.T) {
		ada, auth, _ := guarded()
		from := network()
		for i := range pairGuesses.quota {
			ada.tryFrom(from, fmt.Sprintf("%06d", i)).problem(401, "invalid_credentials")
		}
		ada.tryFrom(from, auth.code(1)).problem(429, "rate_limited") // the right one tells no more
		ada.tryFrom(network(), auth.code(1)).want(200)
	})
	a.run(ts, "guessing recovery codes", func(t *testing.T) {
		ada, _, codes := guarded()
		from := network()
		for range pairGuesses.quota {
			ada.tryFrom(from, newRecoveryCode()).problem(401, "invalid_credentials")
		}
		ada.tryFrom(from, codes[0].(string)).problem(429, "rate_limited")
	})
	a.run(ts, "guessing codes at once", func(t *testing.T) {
		ada, _, _ := guarded()
		from := network()
		got := statuses(atOnce(60, func(i int) *answer { return ada.tryFrom(from, fmt.Sprintf("%06d", i)) }))
		if got[401] > 60-20 || got[401]+got[429]+got[503] != 60 {
			t.Errorf("got %v, want most of them not judged", got)
		}
	})
	a.run(ts, "a code once more", func(t *testing.T) {
		ada, auth, _ := guarded()
		from := network()
		ada.tryFrom(from, auth.code(0)).problem(401, "invalid_credentials") // confirming has used it
		ada.tryFrom(from, auth.code(-1)).problem(401, "invalid_credentials")
		code := auth.code(1)
		ada.tryFrom(from, code).want(200)
		ada.tryFrom(from, code).problem(401, "invalid_credentials")
		step(1)
		ada.tryFrom(from, code).problem(401, "invalid_credentials")
		ada.tryFrom(from, auth.code(1)[:3]+" "+auth.code(1)[3:]).want(200)
		ada.tryFrom(from, auth.code(0)).problem(401, "invalid_credentials") // older than the last
		step(3)
		ada.tryFrom(from, auth.code(-1)).want(200) // a clock that is behind
		ada.tryFrom(from, auth.code(0)).want(200)
	})
	a.run(ts, "a code twenty times at once", func(t *testing.T) {
		ada, auth, _ := guarded()
		code, from := auth.code(1), []string{network(), network(), network()}
		if got := statuses(atOnce(20, func(i int) *answer { return ada.tryFrom(from[i%3], code) })); got[200] != 1 || got[401] != 19 {
			t.Errorf("got %v, want one 200", got)
		}
	})
	a.run(ts, "a recovery code twenty times at once, and once more", func(t *testing.T) {
		ada, _, codes := guarded()
		code, from := codes[3].(string), []string{network(), network(), network()}
		if got := statuses(atOnce(20, func(i int) *answer { return ada.tryFrom(from[i%3], code) })); got[200] != 1 || got[401] != 19 {
			t.Errorf("got %v, want one 200", got)
		}
		at := network()
		ada.tryFrom(at, strings.ToUpper(strings.ReplaceAll(codes[9].(string), "-", " "))).want(200)
		ada.tryFrom(at, codes[9].(string)).problem(401, "invalid_credentials")
		n, err := queryValue[int](t.Context(), ts.db, `SELECT count(*) FROM recovery_codes WHERE user_id = $1::text::uuid`, ada.id)
		if err != nil || n != 8 {
			t.Errorf("%d codes are left, %v", n, err)
		}
	})
	a.run(ts, "the codes of somebody else", func(t *testing.T) {
		ada, _, _ := guarded()
		_, his, codes := guarded()
		before, from := ts.state(), network()
		for _, code := range []string{his.code(0), his.code(1), his.code(-1), codes[0].(string)} {
			ada.tryFrom(from, code).problem(401, "invalid_credentials")
		}
		ts.unchanged(before, "another's codes")
	})
	a.run(ts, "codes of other times", func(t *testing.T) {
		ada, auth, _ := guarded()
		step(5)
		before, from := ts.state(), network()
		for _, off := range []int64{-5, -3, -2, 2, 3, 2880} {
			ada.tryFrom(from, auth.code(off)).problem(401, "invalid_credentials")
		}
		ts.unchanged(before, "codes of other times")
	})
	a.run(ts, "texts that some take for a code", func(t *testing.T) {
		ada, auth, codes := guarded()
		before := ts.state()
		code, hash := auth.code(1), tokenHash(plainCode(codes[0].(string)))
		fullWidth := strings.Map(func(r rune) rune { return r + '０' - '0' }, code)
		for _, text := range []string{"", " ", "--", "- -", code[:5], code + "0", "0" + code, "+" + code[1:], fullWidth, code + "\u200b", "0x" + code[2:], "1e5", code[:5] + "O", "null", "true", "......", "%", "______",
			"' OR '1", fmt.Sprintf("%x", hash)[:40], codes[0].(string)[:15], codes[0].(string) + "a", base32Text.EncodeToString(auth.secret)} {
			want := "invalid_credentials"
			if strings.Trim(text, " -") == "" {
				want = "totp_required"
			}
			ada.tryFrom(network(), text).problem(401, want)
		}
		ts.unchanged(before, "texts that are no code")
		ada.tryFrom(network(), code).want(200)
	})
	a.run(ts, "a code instead of the password", func(t *testing.T) {
		ada, auth, codes := guarded()
		before, from := ts.state(), network()
		wrong := ts.signInFrom(from, ada.email, "not it").problem(401, "invalid_credentials")
		for _, code := range []string{"", auth.code(1), codes[0].(string), "000000"} {
			wantSame(t, wrong, ts.anonymous().with("X-Forwarded-For", from).post(loginPath, jsonOf(login{ada.email, "not it", code})))
		}
		for _, code := range []string{"000000", "abcd-efgh-ijkl-mnop"} {
			wantSame(t, wrong, ada.tryFrom(from, code))
		}
		ts.unchanged(before, "a failed sign-in")
	})
	a.run(ts, "leaving it out, in every way that JSON has", func(t *testing.T) {
		ada, _, _ := guarded()
		before := ts.state()
		for rest, status := range map[string]int{"": 401, `,"totp":""`: 401, `,"totp":null`: 401, `,"totp":0`: 422, `,"totp":false`: 422, `,"totp":[]`: 422, `,"totp":{}`: 422, `,"TOTP":"000000"`: 422, `,"totpEnabled":false`: 422, `,"skipTotp":true`: 422, `,"totp":"","totp":""`: 400} {
			ts.anonymous().with("X-Forwarded-For", network()).post(loginPath, `{"email":"`+ada.email+`","password":"`+testPassword+`"`+rest+`}`).want(status)
		}
		ts.unchanged(before, "a sign-in without a code")
	})
	a.run(ts, "a stolen session, to turn it off, to begin anew or to take it over", func(t *testing.T) {
		ada, auth, _ := guarded()
		robot := ada.tokenFor("write")
		robot.get("/api/v1/me").want(200) // its use is noted, once a minute
		before := ts.state()
		ada.with("X-Forwarded-For", network()).do("DELETE", totpPath, jsonOf(passwordProof{"not it"})).problem(403, "wrong_password")
		ada.with("X-Forwarded-For", network()).post(totpPath, jsonOf(passwordProof{"not it"})).problem(403, "wrong_password")
		ada.confirmTOTP(auth.code(1)).problem(409, "totp_on")
		robot.do("DELETE", totpPath, proof).problem(403, "session_required")
		ada.patch("/api/v1/me", `{"totpEnabled":false}`).problem(422, "validation_failed").field("totpEnabled", "unknown_field")
		ts.unchanged(before, "a stolen session")
	})
	a.run(ts, "codes of a secret that was replaced, or was never confirmed", func(t *testing.T) {
		ada, old, codes := guarded()
		ada.do("DELETE", totpPath, proof).want(204)
		begun := newAuthenticator(ada)
		ada.tryFrom(network(), begun.code(1)).want(200) // nothing is asked for yet, so nothing is looked at
		next := newAuthenticator(ada)
		ada.confirmTOTP(begun.code(1)).problem(422, "validation_failed").field("code", "wrong_code")
		ada.confirmTOTP(next.code(0)).want(200)
		for _, code := range []string{old.code(1), begun.code(1), codes[0].(string)} {
			ada.tryFrom(network(), code).problem(401, "invalid_credentials")
		}
		ada.tryFrom(network(), next.code(1)).want(200)
	})
	for change, statement := range map[string]string{
		"a second factor is turned on": `UPDATE users SET totp_secret = '\x01', totp_since = now() WHERE id = $1`,
		"the password is changed":      "UPDATE users SET password_hash = 'changed' WHERE id = $1",
		"the account is deactivated":   "UPDATE users SET is_active = false WHERE id = $1",
	} {
		a.run(ts, "a sign-in that is under way when "+change, func(t *testing.T) {
			bob := ts.signUp("Bob")
			tx, err := ts.db.pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback(t.Context())
			if _, err := tx.Exec(t.Context(), statement, bob.id); err != nil {
				t.Fatal(err)
			}
			answered := make(chan *answer)
			go func() { answered <- bob.tryFrom("203.1.1.1", "") }()
			ts.waitForLock()
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			(<-answered).problem(401, "invalid_credentials")
		})
	}
}

// mailedTokens is about the tokens that set passwords and confirm addresses.
func (a *attacks) mailedTokens(t *testing.T) {
	ts, ms := newMailedServer(t)
	root := ts.signUp("Root")
	const another = "staple of good habits"
	forgetful := func() (bob *client, token string) { // has asked for a new password
		ts.t.Helper()
		bob = ts.signUp("Bob")
		ts.forgot(bob.email)
		return bob, ts.lastMail(ms, bob.email, 2).token // the first is of the registration
	}

	a.run(ts, "a token twenty times at once, and once more", func(t *testing.T) {
		bob, token := forgetful()
		answers := atOnce(20, func(i int) *answer { return ts.reset(token, fmt.Sprintf("the number %d of many", i)) })
		if got := statuses(answers); got[204] != 1 || got[403] != 19 {
			t.Fatalf("got %v, want one 204 and nineteen 403", got)
		}
		for i, a := range answers {
			if a.status == 204 {
				ts.anonymous().post(loginPath, jsonOf(credentials{bob.email, fmt.Sprintf("the number %d of many", i)})).want(200)
			}
		}
		ts.reset(token, another).problem(403, "invalid_token")
	})
	a.run(ts, "a token that a newer one has replaced", func(t *testing.T) {
		bob, first := forgetful()
		ts.forgot(bob.email)
		second := ts.lastMail(ms, bob.email, 3).token
		ts.reset(first, another).problem(403, "invalid_token")
		ts.reset(second, another).want(204)
		ts.reset(first, another).problem(403, "invalid_token")
	})
	for why, spoil := range map[string]func(bob *client){
		"is an hour old": func(bob *client) {
			ts.sql(`UPDATE account_tokens SET expires_at = clock_timestamp() - interval '1 ms' WHERE user_id = $1::text::uuid`, bob.id)
		},
		"is of a deactivated account": func(bob *client) { root.patch("/api/v1/users/"+bob.id, `{"isActive":false}`).want(200) },
		"is of a deleted account":     func(bob *client) { bob.leave().want(204) },
		"went to an address he left": func(bob *client) {
			ts.sql(`UPDATE users SET email = 'left-' || email WHERE id = $1::text::uuid`, bob.id)
		},
		"was asked for before a change": func(bob *client) { bob.changePassword(another).want(204) },
	} {
		a.run(ts, "a token that "+why, func(t *testing.T) {
			bob, token := forgetful()
			spoil(bob)
			ts.mailsTo(ms, bob.email)
			before := ts.state()
			ts.reset(token, "another of good habits").problem(403, "invalid_token")
			ts.unchanged(before, "a token that is not good")
		})
	}
	a.run(ts, "tokens of another kind, everywhere", func(t *testing.T) {
		bob := ts.signUp("Bob")
		verification := ts.lastMail(ms, bob.email, 1).token
		ts.forgot(bob.email)
		reset := ts.lastMail(ms, bob.email, 2).token
		api := bob.post("/api/v1/me/tokens", `{"name":"x","scopes":["write"]}`).want(201).str("token")
		invited := root.post("/api/v1/projects/"+root.project("Project")+"/members", `{"email":"invited@example.org","role":"viewer"}`).want(202).str("token")
		ts.mailsTo(ms, "invited@example.org")
		before := ts.state()
		for _, other := range []string{verification, invited, bob.refresh, bob.token[:100], api, reset + "x", reset[1:], strings.ToLower(reset), spareBit(reset), " " + reset, "x", "%", "' OR ''='"} {
			ts.reset(other, another).problem(403, "invalid_token")
		}
		for _, other := range []string{reset, invited, bob.refresh, api} {
			ts.verify(other).problem(403, "invalid_token")
		}
		for _, other := range []string{verification, reset, invited, bob.refresh, bob.token} {
			c := &client{s: ts, token: other}
			if other != bob.token {
				c.get("/api/v1/me").problem(401, "unauthenticated")
			}
			if other != bob.refresh && len(other) < 100 {
				c.refreshWith(other).problem(401, "invalid_refresh_token")
			}
			if other != invited && len(other) < 100 {
				bob.post("/api/v1/invitations/accept", jsonOf(acceptance{other})).problem(404, "not_found")
			}
		}
		(&client{s: ts, token: apiTokenPrefix + reset}).get("/api/v1/me").problem(401, "unauthenticated")
		ts.unchanged(before, "a token of another kind")
		ts.reset(reset, another).want(204)
	})
	a.run(ts, "a token for somebody else's account", func(t *testing.T) {
		bob, token := forgetful()
		for _, rest := range []string{`,"email":"` + root.email + `"`, `,"userId":"` + root.id + `"`, `,"id":"` + root.id + `"`, `,"token":"` + token + `"`} {
			if got := ts.anonymous().post(resetPath, `{"token":"`+token+`","password":"`+another+`"`+rest+`}`); got.status != 422 && got.status != 400 {
				t.Errorf("got %d %s", got.status, got.body)
			}
		}
		root.post(resetPath, jsonOf(passwordReset{token, another})).want(204) // whoever shows it, it is Bob's
		root.get("/api/v1/me").want(200)
		root.signIn()
		ts.anonymous().post(loginPath, jsonOf(credentials{bob.email, another})).want(200)
	})
	a.run(ts, "asking who has an account, by forgetting passwords", func(t *testing.T) {
		gone := ts.signUp("Gone")
		ts.lastMail(ms, gone.email, 1)
		root.patch("/api/v1/users/"+gone.id, `{"isActive":false}`).want(200)
		known := ts.anonymous().post(forgotPath, jsonOf(forgotten{root.email})).want(202)
		for _, email := range []string{"nobody@example.org", gone.email} {
			unknown := ts.anonymous().post(forgotPath, jsonOf(forgotten{email})).want(202)
			for name := range known.header {
				if name != "Date" && name != "X-Request-Id" && known.header.Get(name) != unknown.header.Get(name) {
					t.Errorf("%s: the header %s tells apart: %q and %q", email, name, known.header.Get(name), unknown.header.Get(name))
				}
			}
			if len(unknown.body) > 0 || len(known.body) > 0 {
				t.Errorf("got %q and %q", unknown.body, known.body)
			}
		}
		if n := len(ts.mailsTo(ms, "nobody@example.org")) + len(ts.mailsTo(ms, gone.email)); n != 1 { // of the registration
			t.Errorf("%d mails to nobody", n)
		}
	})
	a.run(ts, "an account with somebody else's address, waiting to be added to his projects", func(t *testing.T) {
		eve, project := ts.signUp("Boss"), root.project("Confidential")
		members := "/api/v1/projects/" + project + "/members"
		ts.lastMail(ms, eve.email, 1) // which she does not get
		invited := root.post(members, `{"email":"`+eve.email+`","role":"admin"}`).want(202)
		eve.get("/api/v1/projects/"+project).problem(404, "not_found")
		m := ts.lastMail(ms, eve.email, 2)
		if m.use != "invitation" || m.token != invited.str("token") {
			t.Errorf("got %+v", m)
		}
		ts.verify(m.token).problem(403, "invalid_token") // it proves no address
		bob := ts.signUp("Bob")
		ts.verify(ts.lastMail(ms, bob.email, 1).token).want(204)
		root.post(members, `{"email":"`+bob.email+`","role":"viewer"}`).want(201)
	})
	a.run(ts, "an account with somebody else's address, left with tokens and a second factor", func(t *testing.T) {
		eve := ts.signUp("Victim")
		ts.lastMail(ms, eve.email, 1)
		token := eve.post("/api/v1/me/tokens", `{"name":"later","scopes":["read"]}`).want(201).str("token")
		eve.confirmTOTP(newAuthenticator(eve).code(0)).want(200)
		ts.anonymous().post(forgotPath, jsonOf(forgotten{eve.email})).want(202)
		ts.anonymous().post(resetPath, jsonOf(passwordReset{ts.lastMail(ms, eve.email, 2).token, another})).want(204) // by the owner
		owner := ts.anonymous().post(loginPath, jsonOf(credentials{eve.email, another})).want(200)
		(&client{s: ts, token: token}).get("/api/v1/me").problem(401, "unauthenticated")
		owner.is("user.totpEnabled", false)
		if n := ts.number(`SELECT count(*) FROM recovery_codes WHERE user_id = $1::text::uuid`, eve.id); n != 0 {
			t.Errorf("%d recovery codes are left", n)
		}
	})
	a.run(ts, "a mail to oneself about another's account", func(t *testing.T) {
		eve, sent := ts.signUp("Eve"), len(ms.taken())
		before := len(ts.mailsTo(ms, eve.email))
		for _, email := range []string{root.email + "," + eve.email, root.email + " " + eve.email, root.email + "\r\nBcc: " + eve.email, root.email + "%0d%0aBcc:" + eve.email, "<" + root.email + ">" + eve.email, `"` + root.email + `"@example.org`} {
			ts.anonymous().post(forgotPath, jsonOf(forgotten{email})).problem(422, "validation_failed").field("email", "invalid_email")
		}
		ts.anonymous().post(forgotPath, `{"email":["`+root.email+`","`+eve.email+`"]}`).problem(422, "validation_failed").field("email", "wrong_type")
		if got := ts.mailsTo(ms, eve.email); len(got) != before || len(ms.taken()) > sent+before {
			t.Errorf("got %+v", got)
		}
	})
	a.run(ts, "a stolen session, to move the account to another address", func(t *testing.T) {
		bob := ts.signUp("Bob")
		ts.lastMail(ms, bob.email, 1)
		before := ts.state()
		bob.put("/api/v1/me/email", jsonOf(emailChange{"eve@example.org", "not it"})).problem(403, "wrong_password")
		bob.patch("/api/v1/me", `{"email":"eve@example.org"}`).problem(422, "validation_failed").field("email", "unknown_field")
		bob.put("/api/v1/me/email", jsonOf(emailChange{strings.ToUpper(root.email), testPassword})).problem(409, "email_taken")
		ts.unchanged(before, "a stolen session")
	})
	a.run(ts, "a wish for another address that the thief of a password left behind", func(t *testing.T) {
		bob := ts.signUp("Bob")
		ts.lastMail(ms, bob.email, 1)
		bob.put("/api/v1/me/email", jsonOf(emailChange{"thief@example.org", testPassword})).want(202)
		wish := ts.lastMail(ms, "thief@example.org", 1).token
		ts.forgot(bob.email)
		ts.reset(ts.lastMail(ms, bob.email, 2).token, another).want(204)
		ts.verify(wish).problem(403, "invalid_token")
		bob.get("/api/v1/me").problem(401, "unauthenticated")
		ts.anonymous().post(loginPath, jsonOf(credentials{bob.email, another})).want(200)
	})
}

// injection is about what is put into the fields of signing up and in.
func (a *attacks) injection(t *testing.T) {
	ts := newTestServer(t, "TRUSTED_PROXIES=127.0.0.1")
	root, ada := ts.signUp("Root"), ts.signUp("Ada")
	networks := 0
	post := func(path, body string) *answer { // from a network of its own
		ts.t.Helper()
		networks++
		return ts.anonymous().with("X-Forwarded-For", fmt.Sprintf("203.%d.%d.1", networks/250, networks%250)).post(path, body)
	}
	for name, text := range map[string]string{
		"SQL that is always true":    `' OR '1'='1`,
		"SQL that comments":          `' OR 1=1 --`,
		"SQL that unites":            `' UNION SELECT id, password_hash, true, email, '', '', NULL FROM users --`,
		"SQL that drops":             `'; DROP TABLE users; --`,
		"SQL that sleeps":            `'||pg_sleep(10)--`,
		"SQL between dollars":        `$$; SELECT 1; $$`,
		"a backslash and a quote":    `\' OR 1=1 --`,
		"a place of a parameter":     `$1`,
		"a wildcard":                 `%`,
		"LDAP":                       `*)(uid=*))(|(uid=*`,
		"a template":                 `{{7*7}}${7*7}<%= 7*7 %>`,
		"HTML":                       `<script>alert(1)</script>`,
		"an end of line":             "x\r\nSet-Cookie: admin=1",
		"an object in text":          `{"$ne": null}`,
		"letters of both directions": "ada\u202e@example.org",
	} {
		a.run(ts, "at sign-in: "+name, func(t *testing.T) {
			before := ts.state()
			for _, in := range []credentials{{text, testPassword}, {ada.email, text}, {ada.email + text, testPassword}, {text, text}} {
				if got := post(loginPath, jsonOf(in)); got.status != 401 && got.status != 422 {
					t.Errorf("got %d %s", got.status, got.body)
				}
			}
			post(registerPath, jsonOf(newAccount{text, testPassword, "A", "B"})).problem(422, "validation_failed").field("email", "invalid_email")
			ts.unchanged(before, "an injection")
			ada.get("/api/v1/me").want(200)
		})
	}
	for name, value := range map[string]string{
		"a condition": `{"$ne":null}`, "another condition": `{"$gt":""}`, "a pattern": `{"$regex":".*"}`, "a list": `["` + testPassword + `"]`, "true": "true", "zero": "0", "null": "null", "an empty list": "[]",
	} {
		a.run(ts, "no text but "+name, func(t *testing.T) {
			before := ts.state()
			for _, body := range []string{`{"email":"` + ada.email + `","password":` + value + `}`, `{"email":` + value + `,"password":"` + testPassword + `"}`, `{"email":` + value + `,"password":` + value + `}`} {
				post(loginPath, body).problem(422, "validation_failed")
			}
			ts.unchanged(before, "no text")
		})
	}

	signsIn := func(email, password string) int {
		ts.t.Helper()
		return post(loginPath, jsonOf(credentials{email, password})).status
	}
	a.run(ts, "a password that begins with the same 72 bytes", func(t *testing.T) {
		long := strings.Repeat("no joke ", 9)
		post(registerPath, jsonOf(newAccount{"long@example.org", long + "b", "A", "B"})).want(201)
		if signsIn("long@example.org", long+"b") != 200 {
			t.Error("the right one is refused")
		}
		for _, wrong := range []string{long, long + "c", long + "bb", long[:71], strings.Repeat("no joke ", 16)} {
			if got := signsIn("long@example.org", wrong); got != 401 {
				t.Errorf("%q: got %d", wrong, got)
			}
		}
	})
	a.run(ts, "a password up to its NUL", func(t *testing.T) {
		for _, tail := range []string{`\u0000`, `\u0000x`, `\u0000` + strings.Repeat("x", 80)} {
			post(loginPath, `{"email":"`+ada.email+`","password":"`+testPassword+tail+`"}`).problem(400, "malformed_json")
		}
		post(registerPath, `{"email":"nul@example.org","password":"abc\u0000long enough","firstName":"A","lastName":"B"}`).problem(400, "malformed_json")
	})
	a.run(ts, "a password that is nearly right", func(t *testing.T) {
		ada := ts.signUp("Ada") // many guesses of one account are slowed down
		for _, wrong := range []string{strings.ToUpper(testPassword), " " + testPassword, testPassword + " ", testPassword[1:], testPassword[:len(testPassword)-1], strings.ReplaceAll(testPassword, " ", "\u00a0"), strings.Replace(testPassword, "o", "\u043e", 1), testPassword + "\u200b"} {
			if got := signsIn(ada.email, wrong); got != 401 {
				t.Errorf("%q: got %d", wrong, got)
			}
		}
	})
	a.run(ts, "what the database has of a password", func(t *testing.T) {
		ada := ts.signUp("Ada")
		stored, err := queryOne[storedPassword](t.Context(), ts.db, passwordByEmailSQL, ada.email)
		if err != nil {
			t.Fatal(err)
		}
		for _, wrong := range []string{stored.PasswordHash, string(passwordDigest(testPassword)), stored.PasswordHash[len("$2a$04$"):]} {
			if got := signsIn(ada.email, wrong); got != 401 {
				t.Errorf("%q: got %d", wrong, got)
			}
		}
	})
	a.run(ts, "a password that takes long to hash", func(t *testing.T) {
		before := ts.state()
		post(loginPath, jsonOf(credentials{ada.email, strings.Repeat("x", 129)})).problem(422, "validation_failed").field("password", "too_long")
		post(loginPath, jsonOf(credentials{ada.email, strings.Repeat("x", 1<<20)})).problem(413, "body_too_large")
		post(registerPath, jsonOf(newAccount{"huge@example.org", strings.Repeat("x", 1<<20), "A", "B"})).problem(413, "body_too_large")
		post(loginPath, jsonOf(credentials{strings.Repeat("x", 15<<10), testPassword})).problem(422, "validation_failed").field("email", "too_long")
		ts.unchanged(before, "long passwords")
	})
	a.run(ts, "a deleted account, whose hash is empty", func(t *testing.T) {
		left := ts.signUp("Left")
		left.leave().want(204)
		email := "deleted-" + left.id + "@deleted.invalid"
		for _, password := range []string{testPassword, "x", " "} {
			for _, address := range []string{left.email, email} {
				if got := signsIn(address, password); got != 401 && got != 422 {
					t.Errorf("%s with %q: got %d", address, password, got)
				}
			}
		}
	})
	a.run(ts, "registering with an address that somebody has", func(t *testing.T) {
		before := ts.state()
		for _, email := range []string{ada.email, strings.ToUpper(ada.email), strings.ToUpper(ada.email[:1]) + ada.email[1:], strings.Replace(ada.email, "example", "EXAMPLE", 1)} {
			post(registerPath, registration(email)).problem(409, "email_taken")
		}
		for _, email := range []string{ada.email + " ", " " + ada.email, ada.email + "\u200b", ada.email + ".", strings.Replace(ada.email, "a", "\u0430", 1), strings.Replace(ada.email, "@", "\uff20", 1), ada.email + "\n"} {
			post(registerPath, registration(email)).problem(422, "validation_failed").field("email", "invalid_email")
		}
		ts.unchanged(before, "an address that is taken")
	})
	for field, value := range map[string]string{
		"role": `"admin"`, "Role": `"admin"`, "isAdmin": "true", "admin": "true", "globalRole": `"admin"`, "isActive": "true", "id": `"` + root.id + `"`, "emailVerified": "true", "email_verified_at": `"2026-01-01T00:00:00Z"`,
		"passwordHash": `"x"`, "version": "9", "createdAt": `"2020-01-01T00:00:00Z"`, "__proto__": `{"role":"admin"}`, "constructor": `{"prototype":{"role":"admin"}}`, "totpEnabled": "false", "seq": "1",
	} {
		a.run(ts, "giving oneself "+field, func(t *testing.T) {
			before := ts.state()
			extra := `,"` + field + `":` + value + `}`
			register := strings.TrimSuffix(registration("self@example.org"), "}") + extra
			for _, got := range []*answer{
				post(registerPath, register),
				ada.patch("/api/v1/me", `{"firstName":"Ada"`+extra),
				ada.put("/api/v1/me/password", `{"currentPassword":"`+testPassword+`","newPassword":"`+testPassword+`"`+extra),
				ada.post("/api/v1/projects", `{"name":"Made"`+extra),
				ada.post(tokensPath, `{"name":"Made","scopes":["write"]`+extra),
			} {
				got.problem(422, "validation_failed").field(field, "unknown_field")
			}
			ts.unchanged(before, "a field that is not the caller's to set")
		})
	}
	a.run(ts, "making oneself an admin", func(t *testing.T) {
		before := ts.state()
		ada.patch("/api/v1/users/"+ada.id, `{"role":"admin"}`).problem(403, "forbidden")
		ada.patch("/api/v1/users/"+root.id, `{"isActive":false}`).problem(403, "forbidden")
		ada.post("/api/v1/projects", `{"name":"For another","ownerId":"`+root.id+`"}`).problem(403, "forbidden")
		ada.post(tokensPath, `{"name":"Mighty","scopes":["write","*"]}`).problem(422, "validation_failed")
		ts.unchanged(before, "a member as an admin")
	})
	ada.get("/api/v1/me").want(200).is("role", "member").is("version", 1)
	root.get("/api/v1/me").want(200).is("role", "admin").is("version", 1)
}
