package main

import (
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const totpPath = "/api/v1/me/totp"

// The codes of RFC 6238, appendix B, for SHA-1, to six digits.
func TestCodesAreThoseOfTheRFC(t *testing.T) {
	t.Parallel()
	for at, want := range map[int64]string{59: "287082", 1111111109: "081804", 1111111111: "050471", 1234567890: "005924", 2000000000: "279037", 20000000000: "353130"} {
		secret := []byte("12345678901234567890")
		if got := totpAt(secret, at/totpPeriod); got != want {
			t.Errorf("at %d: got %s, want %s", at, got, want)
		}
		for drift, counts := range map[int64]bool{-2: false, -1: true, 0: true, 1: true, 2: false} {
			now := time.Unix(at+drift*totpPeriod, 0)
			if got := totpStep(secret, want, now); (got == at/totpPeriod) != counts && now.Unix() > 0 {
				t.Errorf("%d steps off: got step %d", drift, got)
			}
		}
	}
}

// proof is the body of requests that ask for the present password.
var proof = jsonOf(passwordProof{testPassword})

// authenticator makes codes as an app does, at a server whose clock the test moves.
type authenticator struct {
	ts     *testServer
	secret []byte
}

// newAuthenticator begins a second factor for c.
func newAuthenticator(c *client) *authenticator {
	c.s.t.Helper()
	secret, err := base32Text.DecodeString(c.post(totpPath, proof).want(200).str("secret"))
	if err != nil || len(secret) != 20 {
		c.s.t.Fatalf("got %d bytes, %v", len(secret), err)
	}
	return &authenticator{c.s, secret}
}

// code is that of the present step, or of some steps off.
func (a *authenticator) code(off int64) string {
	return totpAt(a.secret, a.ts.keys.now().Unix()/totpPeriod+off)
}

// withClock gives the server a clock that stands still, and a function that moves it.
func (ts *testServer) withClock() (step func(n int64)) {
	var ahead atomic.Int64
	start := time.Now()
	ts.keys.now = func() time.Time { return start.Add(time.Duration(ahead.Load()) * totpPeriod * time.Second) }
	return func(n int64) { ahead.Add(n) }
}

func (c *client) confirmTOTP(code string) *answer {
	c.s.t.Helper()
	return c.put(totpPath, jsonOf(totpProof{code}))
}

func (c *client) signInWith(code string) *answer {
	c.s.t.Helper()
	return c.s.anonymous().post(loginPath, jsonOf(login{c.email, testPassword, code}))
}

func TestSecondFactor(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	step := ts.withClock()

	ts.run("counts once a code has shown that the authenticator has the secret", func(t *testing.T) {
		ada := ts.signUp("Ada")
		ada.confirmTOTP("123456").problem(409, "totp_not_begun")
		made := ada.post(totpPath, proof).want(200)
		u, err := url.Parse(made.str("url"))
		if err != nil || u.Scheme != "otpauth" || u.Host != "totp" || u.Path != "/TaskFlow taskflow.test:"+ada.email || strings.Contains(made.str("url"), "+") ||
			u.Query().Get("secret") != made.str("secret") || u.Query().Get("issuer") != "TaskFlow taskflow.test" || u.Query().Get("digits") != "6" || u.Query().Get("period") != "30" || u.Query().Get("algorithm") != "SHA1" {
			t.Errorf("got %s, %v", made.str("url"), err)
		}
		a := newAuthenticator(ada) // again: the first secret is forgotten
		ada.signIn()
		ada.get("/api/v1/me").want(200).is("totpEnabled", false).is("version", 1)
		for _, code := range []string{a.code(2), a.code(-2), "12345", "1234567", "abcdef", totpAt([]byte("another"), 1)} {
			ada.confirmTOTP(code).problem(422, "validation_failed").field("code", "wrong_code")
		}
		ada.confirmTOTP("").problem(422, "validation_failed").field("code", "required")
		list := ada.confirmTOTP(a.code(0)).want(200).at("recoveryCodes").([]any)
		seen := map[any]bool{}
		for _, code := range list {
			seen[code] = true
		}
		if len(seen) != 10 || len(list) != 10 {
			t.Errorf("got %v", list)
		}
		ada.get("/api/v1/me").want(200).is("totpEnabled", true).is("version", 2)
		ada.confirmTOTP(a.code(1)).problem(409, "totp_on")
		ada.post(totpPath, proof).problem(409, "totp_on")
		ada.signInWith("").problem(401, "totp_required")
	})
	ts.run("is asked for after the right password only", func(t *testing.T) {
		ada := ts.signUp("Ada")
		a := newAuthenticator(ada)
		ada.confirmTOTP(a.code(-1)).want(200)
		before := ts.state()
		wrong := ts.anonymous().post(loginPath, jsonOf(login{ada.email, "not it", ""})).problem(401, "invalid_credentials")
		wantSame(t, wrong, ts.anonymous().post(loginPath, jsonOf(login{ada.email, "not it", a.code(0)})))
		wantSame(t, wrong, ada.signInWith("000000"))
		wantSame(t, wrong, ada.signInWith("abcd-efgh-ijkl-mnop"))
		for _, code := range []string{"", " ", "--"} {
			if ada.signInWith(code).status != 401 {
				t.Errorf("%q signs in", code)
			}
		}
		ts.anonymous().post(loginPath, jsonOf(login{ada.email, testPassword, strings.Repeat("1", 41)})).problem(422, "validation_failed").field("totp", "too_long")
		ts.unchanged(before, "a failed sign-in")
		ada.signInWith(a.code(0)).want(200).is("user.id", ada.id).is("user.totpEnabled", true)
	})
	ts.run("goes with the present password, and its recovery codes with it", func(t *testing.T) {
		ada := ts.signUp("Ada")
		a := newAuthenticator(ada)
		code := ada.confirmTOTP(a.code(0)).want(200).str("recoveryCodes.0")
		before := ts.state()
		ada.do("DELETE", totpPath, jsonOf(passwordProof{"not it"})).problem(403, "wrong_password")
		ada.do("DELETE", totpPath, `{}`).problem(422, "validation_failed").field("currentPassword", "required")
		ada.do("DELETE", totpPath, "").problem(415, "unsupported_media")
		ada.post(totpPath, jsonOf(passwordProof{"not it"})).problem(403, "wrong_password")
		ts.unchanged(before, "a wrong password")
		ada.do("DELETE", totpPath, proof).want(204)
		ada.get("/api/v1/me").want(200).is("totpEnabled", false)
		ada.signIn()
		ada.signInWith(code).want(200) // no code is asked for, so none is looked at
		ada.do("DELETE", totpPath, proof).want(204)
		b := newAuthenticator(ada)
		ada.confirmTOTP(b.code(0)).want(200)
		ada.signInWith(code).problem(401, "invalid_credentials")
		step(2)
		ada.signInWith(a.code(0)).problem(401, "invalid_credentials")
		ada.signInWith(b.code(0)).want(200)
	})
	ts.run("stays on when the password is reset, and an operator can turn it off", func(t *testing.T) {
		ada := ts.signUp("Ada")
		a := newAuthenticator(ada)
		ada.confirmTOTP(a.code(0)).want(200)
		if err := ts.adminSetPassword(t.Context(), ada.email, "staple of good habits"); err != nil {
			t.Fatal(err)
		}
		ts.anonymous().post(loginPath, jsonOf(login{ada.email, "staple of good habits", ""})).problem(401, "totp_required")
		if err := ts.adminEndTOTP(t.Context(), ada.email); err != nil {
			t.Fatal(err)
		}
		ts.anonymous().post(loginPath, jsonOf(login{ada.email, "staple of good habits", ""})).want(200).is("user.totpEnabled", false)
	})
}
