package main

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"
)

// forge signs a header and claims as they are, with the key that makes access tokens.
func (k *keyring) forge(header, claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode([]byte(header)) + "." + encode([]byte(claims))
	return signed + "." + encode(signature(derive(k.secrets[0], "access"), signed))
}

// fixedKeys is a keyring whose tokens are the same in every run, and one such token.
func fixedKeys() (*keyring, string) {
	k := newKeyring(secret(strings.Repeat("fixed ", 6)))
	k.now = func() time.Time { return time.Unix(1_800_000_000, 0) }
	return k, k.accessToken(uuid{1}, uuid{2}, time.Hour)
}

// FuzzVerifyAccess looks for a second text that is taken for a token this server signed.
func FuzzVerifyAccess(f *testing.F) {
	k, token := fixedKeys()
	f.Add(token)
	for i := range 3 {
		parts := strings.Split(token, ".")
		parts[i] += "="
		f.Add(strings.Join(parts, "."))
		parts[i] = ""
		f.Add(strings.Join(parts, "."))
	}
	f.Add(token + "\n")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := k.verifyAccess(text)
		if (err == nil) != (text == token) {
			t.Errorf("%q: got %+v, %v", text, c, err)
		}
	})
}

// FuzzOpenCursor looks for a second text that is taken for a cursor this server made.
func FuzzOpenCursor(f *testing.F) {
	k, _ := fixedKeys()
	sealed := k.sealCursor(cursor{"key", "id"}, "scope")
	f.Add(sealed, "scope")
	f.Add(sealed, "scope2")
	f.Add(sealed+"A", "scope")
	f.Add(sealed[:20], "scope")
	f.Fuzz(func(t *testing.T, text, scope string) {
		c, err := k.openCursor(text, scope)
		if good := text == sealed && scope == "scope"; (err == nil) != good || good && *c != (cursor{"key", "id"}) {
			t.Errorf("%q for %q: got %+v, %v", text, scope, c, err)
		}
	})
}

func TestClocksMayDifferALittle(t *testing.T) {
	t.Parallel()
	k, token := fixedKeys()
	for seconds, want := range map[int64]bool{-31: false, -30: true, 0: true, 3599: true, 3600: false} {
		k.now = func() time.Time { return time.Unix(1_800_000_000+seconds, 0) }
		if _, err := k.verifyAccess(token); (err == nil) != want {
			t.Errorf("%d s after it was made: got %v, want valid %v", seconds, err, want)
		}
	}
}

func TestSecretsAreReplacedWithoutSigningAnybodyOut(t *testing.T) {
	t.Parallel()
	old, new := strings.Repeat("old secret ", 4), strings.Repeat("new secret ", 4)
	database := newTestDatabase(t)
	before := startTestServer(t, database, "JWT_SECRET="+old)
	during := startTestServer(t, database, "JWT_SECRET="+new, "JWT_SECRET_PREVIOUS="+old)
	after := startTestServer(t, database, "JWT_SECRET="+new)
	on := func(ts *testServer, c *client) *client {
		return &client{s: ts, token: c.token, refresh: c.refresh, id: c.id, email: c.email}
	}
	ada := before.signUp("Ada")
	ada.project("One")
	ada.project("Two")
	next := ada.get("/api/v1/projects?limit=1").want(200).str("next")

	during.t, after.t = t, t
	on(during, ada).get("/api/v1/me").want(200)
	on(during, ada).get("/api/v1/projects?limit=1&cursor=" + next).want(200)
	on(after, ada).get("/api/v1/me").problem(401, "unauthenticated")
	later := on(during, ada).signIn()
	on(after, later).get("/api/v1/me").want(200)
	on(before, later).get("/api/v1/me").problem(401, "unauthenticated")

	body := `{"refreshToken":"` + ada.refresh + `"}`
	first := on(before, ada).post("/api/v1/auth/refresh", body).want(200).str("refreshToken")
	on(during, ada).post("/api/v1/auth/refresh", body).want(200).is("refreshToken", first) // a repeated request is no theft
	on(after, ada).post("/api/v1/auth/refresh", `{"refreshToken":"`+first+`"}`).want(200)
}
