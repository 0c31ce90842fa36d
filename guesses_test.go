package main

import (
	"strings"
	"testing"
)

// signInFrom is a sign-in from an address, as a trusted proxy tells it.
func (ts *testServer) signInFrom(addr, email, password string) *answer {
	ts.t.Helper()
	return ts.anonymous().with("X-Forwarded-For", addr).post(loginPath, jsonOf(credentials{email, password}))
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
