package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
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

// FuzzJWT looks for a second text that is taken for a token this server signed, and, as if the key
// were known, for a signed one whose header and claims are not exactly what this server writes.
func FuzzJWT(f *testing.F) {
	k, token := fixedKeys()
	segments := strings.Split(token, ".")
	header, _ := decodeSegment(segments[0])
	content, _ := decodeSegment(segments[1])
	f.Add(token, string(header), string(content))
	for i := range 3 {
		parts := strings.Split(token, ".")
		parts[i] += "="
		f.Add(strings.Join(parts, "."), string(header)+" ", string(content)+"\n")
		parts[i] = ""
		f.Add(strings.Join(parts, "."), "{}", "{}")
	}
	f.Add(token+"\n", strings.Replace(string(header), "HS256", "none", 1), strings.Replace(string(content), "taskflow-api", "other", 1))
	f.Add("eyJhbGciOiJub25lIn0.e30.", strings.Replace(string(header), "{", `{"crit":["exp"],`, 1), strings.Replace(string(content), "{", `{"exp":9999999999,`, 1))
	f.Add(strings.Replace(token, ".", "..", 1), strings.Replace(string(header), "typ", "TYP", 1), strings.Replace(string(content), "1800003600", "1.8000036e9", 1))
	f.Fuzz(func(t *testing.T, text, header, content string) {
		if c, err := k.verifyAccess(text); (err == nil) != (text == token) {
			t.Errorf("%q: got %+v, %v", text, c, err)
		}
		c, err := k.verifyAccess(k.forge(header, content))
		if err != nil {
			return
		}
		var h, b map[string]any
		if json.Unmarshal([]byte(header), &h) != nil || json.Unmarshal([]byte(content), &b) != nil || len(b) != 7 ||
			!reflect.DeepEqual(h, map[string]any{"alg": "HS256", "kid": keyID(k.secrets[0]), "typ": "at+jwt"}) {
			t.Fatalf("%q and %q are accepted", header, content)
		}
		now := float64(k.now().Unix())
		sub, sid := fmt.Sprint(b["sub"]), fmt.Sprint(b["sid"])
		exp, nbf, iat := b["exp"].(float64), b["nbf"].(float64), b["iat"].(float64)
		if b["iss"] != "taskflow" || b["aud"] != "taskflow-api" || sub != c.Subject.String() || sid != c.Session.String() || exp <= now || nbf > now+30 || iat > now+30 {
			t.Errorf("%q is accepted as %+v", content, c)
		}
	})
}

// FuzzCursor looks for a second text that is taken for a cursor this server made, and for a place in
// a list that a cursor does not lead back to.
func FuzzCursor(f *testing.F) {
	k, _ := fixedKeys()
	sealed := k.sealCursor(cursor{"key", "id"}, "scope")
	f.Add(sealed, "scope", "key", "id")
	f.Add(sealed, "scope2", "", "")
	f.Add(sealed+"A", "scope", "\x00\u2028<>&", `","k":"x`)
	f.Add(sealed[:20], "scope", strings.Repeat("ü", 300), "\\")
	f.Fuzz(func(t *testing.T, text, scope, key, id string) {
		c, err := k.openCursor(text, scope)
		if good := text == sealed && scope == "scope"; (err == nil) != good || good && *c != (cursor{"key", "id"}) {
			t.Errorf("%q for %q: got %+v, %v", text, scope, c, err)
		}
		if !utf8.ValidString(key) || !utf8.ValidString(id) { // PostgreSQL has none
			return
		}
		made := k.sealCursor(cursor{key, id}, scope)
		if c, err := k.openCursor(made, scope); err != nil || *c != (cursor{key, id}) {
			t.Errorf("%q, %q: got %+v, %v", key, id, c, err)
		}
		at := (len(key) + len(id) + len(scope)) % len(made)
		altered := made[:at] + string(rune('A'+(made[at]-'A'+1)%26)) + made[at+1:]
		for _, other := range [][2]string{{altered, scope}, {made, scope + "x"}, {made[1:], scope}, {made + "A", scope}, {"\n" + made, scope}} {
			if c, err := k.openCursor(other[0], other[1]); err == nil {
				t.Errorf("%q for %q instead of %q for %q is accepted as %+v", other[0], other[1], made, scope, c)
			}
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
