package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// signInFrom is a sign-in from an address, as a trusted proxy tells it.
func (ts *testServer) signInFrom(addr, email, password string) *answer {
	ts.t.Helper()
	return ts.anonymous().with("X-Forwarded-For", addr).post(loginPath, jsonOf(credentials{email, password}))
}

func TestGuessingPasswords(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t, "TRUSTED_PROXIES=127.0.0.1")
	ada := ts.signUp("Ada")
	ts.signInFrom("198.51.100.7", ada.email, testPassword).want(200) // where she works

	ts.run("ends after ten wrong ones from one network", func(t *testing.T) {
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
	ts.run("does not keep the owner out", func(t *testing.T) {
		ts.signInFrom("198.51.100.8", ada.email, testPassword).want(200)
		ts.signInFrom("203.0.114.1", ada.email, testPassword).want(200)
		ts.signInFrom("2001:db8::1", ada.email, testPassword).want(200)
	})
	ts.run("counts for no other account", func(t *testing.T) {
		bob := ts.signUp("Bob")
		ts.signInFrom("203.0.113.99", bob.email, testPassword).want(200)
	})
	ts.run("in IPv6 is one network of 64 bits", func(t *testing.T) {
		ada := ts.signUp("Ada")
		for i := range 10 {
			ts.signInFrom(fmt.Sprintf("2001:db8:1::%d:1", i), ada.email, "wrong password").problem(401, "invalid_credentials")
		}
		ts.signInFrom("2001:db8:1::ffff", ada.email, testPassword).problem(429, "rate_limited")
		ts.signInFrom("2001:db8:1:1::1", ada.email, testPassword).want(200)
	})
	ts.run("looks the same for accounts that do not exist or are deactivated", func(t *testing.T) {
		gone, bob := ts.signUp("Gone"), ts.signUp("Bob")
		ada.patch("/api/v1/users/"+gone.id, `{"isActive":false}`).want(200)
		for i := range 12 {
			wrong := ts.signInFrom("192.0.2.1", bob.email, "wrong password")
			wantSame(t, wrong, ts.signInFrom("192.0.2.1", "nobody@example.org", testPassword))
			wantSame(t, wrong, ts.signInFrom("192.0.2.1", gone.email, testPassword))
			if want := map[bool]int{true: 401, false: 429}[i < 10]; wrong.status != want {
				t.Errorf("try %d: got %d, want %d", i, wrong.status, want)
			}
		}
	})
	ts.run("counts wrong ones only", func(t *testing.T) {
		for range 25 {
			ts.signInFrom("198.51.100.7", ada.email, testPassword).want(200)
		}
	})
	ts.run("is the same with the present password of a session", func(t *testing.T) {
		eve := ts.signUp("Eve") // an open laptop
		change := func(old string) *answer {
			return eve.with("X-Forwarded-For", "192.0.2.77").put("/api/v1/me/password", jsonOf(passwordChange{old, "another password"}))
		}
		for range 6 {
			change("wrong password").problem(403, "wrong_password")
		}
		for range 4 {
			ts.signInFrom("192.0.2.78", eve.email, "wrong password").problem(401, "invalid_credentials")
		}
		change(testPassword).problem(429, "rate_limited")
		ts.signInFrom("192.0.2.78", eve.email, testPassword).problem(429, "rate_limited")
	})
	ts.run("is no quicker with many at once", func(t *testing.T) {
		ada := ts.signUp("Ada")
		got := statuses(atOnce(60, func(i int) *answer {
			return ts.signInFrom("233.252.0.1", ada.email, "wrong password")
		}))
		if most := 10 + cap(ts.hashing); got[401] < 10 || got[401] > most || got[401]+got[429]+got[503] != 60 {
			t.Errorf("got %v, want from 10 to %d judged", got, most)
		}
	})
	ts.run("is not what many right ones at once are", func(t *testing.T) {
		got := statuses(atOnce(40, func(i int) *answer {
			return ts.signInFrom("198.51.100.7", ada.email, testPassword)
		}))
		if got[200]+got[503] != 40 || got[200] < 10 {
			t.Errorf("got %v, want all signed in, or told that the server is busy", got)
		}
	})
}

func TestGuessingOnePasswordForManyAccounts(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t, "TRUSTED_PROXIES=127.0.0.1")
	eve := ts.signUp("Eve")
	start, tried := time.Now(), 0
	for ; tried < 200; tried++ {
		a := ts.signInFrom(fmt.Sprintf("203.0.113.%d", tried), fmt.Sprintf("person%d@example.org", tried), "password1")
		if a.status == 429 {
			break
		}
		a.problem(401, "invalid_credentials")
		if tried%20 == 0 {
			ts.signInFrom("203.0.113.1", eve.email, testPassword).want(200) // an account of one's own clears nothing
		}
	}
	if back := int(time.Since(start) / networkGuesses.interval()); tried < 100 || tried > 100+back {
		t.Errorf("tried %d accounts, want 100, and %d that came back meanwhile", tried, back)
	}
	ts.signInFrom("203.0.114.2", "person100@example.org", "password1").problem(401, "invalid_credentials")
}

// Many networks guess one account. It becomes slow, but for its owner where he is at home, and he
// gets in from anywhere.
func TestAttackFromManyNetworks(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t, "TRUSTED_PROXIES=127.0.0.1")
	ada := ts.signUp("Ada")
	ts.signInFrom("198.51.100.7", ada.email, testPassword).want(200)
	for i := range 20 {
		ts.signInFrom(fmt.Sprintf("203.0.%d.1", i), ada.email, "wrong password").problem(401, "invalid_credentials")
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
	slow("203.0.113.1", "wrong password", 401)
	slow("192.0.2.1", testPassword, 200)
	// At home nothing of it is felt; a hundred such waits would take this test beyond its time.
	start := time.Now()
	for range 15 {
		ts.signInFrom("198.51.100.99", ada.email, testPassword).want(200)
	}
	if took := time.Since(start); took > 15*guessDelay {
		t.Errorf("15 sign-ins from a known network took %v", took)
	}
	ts.signInFrom("192.0.2.9", ada.email, testPassword).want(200) // known by now
}

func TestGuessesAreCountedWithoutRedis(t *testing.T) {
	t.Parallel()
	p, address := newRedisProxy(t)
	ts := newTestServer(t, "REDIS_URL="+address)
	ada := ts.signUp("Ada")
	wrong := jsonOf(credentials{ada.email, "wrong password"})
	for range 5 {
		ts.anonymous().post(loginPath, wrong).problem(401, "invalid_credentials")
	}
	ts.guesses.pair.patience = limitPatience
	p.set(func() { p.down = true })
	p.kill()
	for range 5 { // the process remembers the first five
		ts.anonymous().post(loginPath, wrong).problem(401, "invalid_credentials")
	}
	ts.anonymous().post(loginPath, wrong).problem(429, "rate_limited")
	ada.get("/api/v1/me").want(200)
	p.set(func() { p.down = false })
	soon(t, "Redis asked again", func() bool {
		ts.anonymous().post(loginPath, jsonOf(credentials{"nobody@example.org", "x"}))
		return strings.Contains(ts.log.String(), "Redis answers again")
	})
	ts.anonymous().post(loginPath, wrong).problem(429, "rate_limited")
}

// What could not be judged was not a wrong guess.
func TestGuessesWithoutAnAnswerDoNotCount(t *testing.T) {
	t.Parallel()
	p, database := newProxy(t, newTestDatabase(t))
	ts := startTestServer(t, database)
	ada := ts.signUp("Ada")
	right := jsonOf(credentials{ada.email, testPassword})
	p.set(func() { p.down = true })
	p.kill()
	for range 12 {
		ts.anonymous().post(loginPath, right).problem(503, "unavailable")
	}
	p.set(func() { p.down = false })
	ts.hashWait = hashingPatience
	for range cap(ts.hashing) {
		ts.hashing <- struct{}{}
	}
	got := statuses(atOnce(12, func(int) *answer { return ts.anonymous().post(loginPath, right) }))
	if got[503] != 12 {
		t.Errorf("without a slot: got %v, want 503", got)
	}
	for range cap(ts.hashing) {
		<-ts.hashing
	}
	ts.anonymous().post(loginPath, right).want(200)
}

func TestManySignInsAtOnceLeaveTheOthersAlone(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ada := ts.signUp("Ada")
	body := jsonOf(credentials{ada.email, testPassword})
	for range cap(ts.hashing) { // until all have come
		ts.hashing <- struct{}{}
	}
	done := make(chan []*answer, 1)
	go func() { done <- atOnce(300, func(int) *answer { return ts.anonymous().post(loginPath, body) }) }()
	soon(t, "a full queue", func() bool { return ts.waiting.Load() >= maxWaiting })
	for range cap(ts.hashing) {
		<-ts.hashing
	}
	var answers []*answer
	reads := 0
	for answers == nil {
		select {
		case answers = <-done:
		default:
			ada.get("/api/v1/me").want(200)
			ts.anonymous().get("/health").want(200)
			reads++
		}
	}
	got := statuses(answers)
	if got[200] < maxWaiting || got[503] == 0 || got[200]+got[503] != 300 {
		t.Errorf("got %v, want those who waited signed in and the others told to come again", got)
	}
	for _, a := range answers {
		if a.status == 503 && a.header.Get("Retry-After") == "" {
			t.Fatalf("no Retry-After: %s", a.body)
		}
	}
	if ts.waiting.Load() != 0 || len(ts.hashing) != 0 {
		t.Errorf("%d wait still, %d hash still", ts.waiting.Load(), len(ts.hashing))
	}
	t.Logf("%v, and %d reads meanwhile", got, reads)
	ts.anonymous().post(loginPath, body).want(200)
}
