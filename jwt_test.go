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

func TestAccessTokensThatAreRefused(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ada, bob := ts.signUp("Ada"), ts.signUp("Bob")
	mine, err := ts.keys.verifyAccess(ada.token)
	if err != nil {
		t.Fatal(err)
	}
	his, err := ts.keys.verifyAccess(bob.token)
	if err != nil {
		t.Fatal(err)
	}
	kid, now := keyID(ts.keys.secrets[0]), time.Now().Unix()
	header := fmt.Sprintf(`{"alg":"HS256","kid":"%s","typ":"at+jwt"}`, kid)
	claimsWith := func(pairs ...any) string { // name, value as JSON
		values := map[string]string{"iss": `"taskflow"`, "aud": `"taskflow-api"`, "sub": jsonOf(mine.Subject), "sid": jsonOf(mine.Session),
			"iat": fmt.Sprint(now), "nbf": fmt.Sprint(now), "exp": fmt.Sprint(now + 60)}
		for i := 0; i < len(pairs); i += 2 {
			values[pairs[i].(string)] = fmt.Sprint(pairs[i+1])
		}
		var fields []string
		for name, value := range values {
			if value != "" {
				fields = append(fields, `"`+name+`":`+value)
			}
		}
		return "{" + strings.Join(fields, ",") + "}"
	}
	good := claimsWith()
	forge := ts.keys.forge
	use := func(token string) *answer { c := client{s: ts, token: token}; return c.get("/api/v1/me") }
	use(forge(header, good)).want(200) // so what is refused below is refused for what is wrong with it

	segments := strings.Split(ada.token, ".")
	resign := func(key []byte) string {
		signed := segments[0] + "." + segments[1]
		return signed + "." + base64.RawURLEncoding.EncodeToString(signature(key, signed))
	}
	otherKeys := newKeyring(secret(strings.Repeat("other ", 6)))
	replaced := func(old, new string) string { return forge(strings.Replace(header, old, new, 1), good) }
	for name, token := range map[string]string{
		"alg none, unsigned":       base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"at+jwt"}`)) + "." + segments[1] + ".",
		"alg none, signed":         replaced("HS256", "none"),
		"alg NONE":                 replaced("HS256", "NONE"),
		"alg HS512":                replaced("HS256", "HS512"),
		"alg RS256":                replaced("HS256", "RS256"),
		"alg in another case":      replaced("HS256", "hs256"),
		"no alg":                   replaced(`"alg":"HS256",`, ""),
		"another kid":              replaced(kid, "00000000"),
		"a path as kid":            replaced(kid, "../../dev/null"),
		"no kid":                   replaced(`"kid":"`+kid+`",`, ""),
		"typ JWT":                  replaced("at+jwt", "JWT"),
		"no typ":                   replaced(`,"typ":"at+jwt"`, ""),
		"crit":                     replaced("{", `{"crit":["exp"],`),
		"jku":                      replaced("{", `{"jku":"https://evil.example/keys",`),
		"jwk":                      replaced("{", `{"jwk":{"kty":"oct","k":"AAAA"},`),
		"unencoded":                replaced("{", `{"b64":false,`),
		"alg twice":                replaced("{", `{"alg":"HS256",`),
		"a header that is null":    forge("null", good),
		"a header that is no JSON": forge("x", good),
		"a claim twice":            forge(header, strings.Replace(good, "{", `{"sub":`+jsonOf(his.Subject)+",", 1)),
		"an unknown claim":         forge(header, claimsWith("role", `"admin"`)),
		"claims that are null":     forge(header, "null"),
		"claims that are an array": forge(header, "["+good+"]"),
		"claims and more":          forge(header, good+good),
		"no claims":                forge(header, "{}"),
		"claims in Latin-1":        forge(header, claimsWith("iss", "\"\xe9\"")),
		"another issuer":           forge(header, claimsWith("iss", `"evil"`)),
		"no issuer":                forge(header, claimsWith("iss", "")),
		"another audience":         forge(header, claimsWith("aud", `"other"`)),
		"several audiences":        forge(header, claimsWith("aud", `["taskflow-api"]`)),
		"expired":                  forge(header, claimsWith("exp", now-1)),
		"expiring now":             forge(header, claimsWith("exp", now)),
		"no expiry":                forge(header, claimsWith("exp", "")),
		"expiry as text":           forge(header, claimsWith("exp", fmt.Sprintf(`"%d"`, now+60))),
		"expiry as a fraction":     forge(header, claimsWith("exp", fmt.Sprintf(`%d.5`, now+60))),
		"expiry beyond any number": forge(header, claimsWith("exp", "1e300")),
		"expiry beyond 64 bits":    forge(header, claimsWith("exp", "9223372036854775808")),
		"not yet valid":            forge(header, claimsWith("nbf", now+3600)),
		"from the future":          forge(header, claimsWith("iat", now+3600)),
		"from the far future":      forge(header, claimsWith("nbf", "9223372036854775807")),
		"no user":                  forge(header, claimsWith("sub", "")),
		"a user that is no id":     forge(header, claimsWith("sub", `"admin"`)),
		"another user's session":   forge(header, claimsWith("sid", jsonOf(his.Session))),
		"an unknown session":       forge(header, claimsWith("sid", jsonOf(newUUID()))),
		"an unknown user":          forge(header, claimsWith("sub", jsonOf(newUUID()))),
		"another secret":           otherKeys.accessToken(mine.Subject, mine.Session, time.Hour),
		"the secret itself as key": resign(ts.keys.secrets[0]),
		"the key of another use":   resign(derive(ts.keys.secrets[0], "refresh")),
		"an empty key":             resign(nil),
		"altered claims":           segments[0] + "." + strings.ToLower(segments[1]) + "." + segments[2],
		"another's claims":         segments[0] + "." + strings.Split(bob.token, ".")[1] + "." + segments[2],
		"no signature":             segments[0] + "." + segments[1] + ".",
		"two segments":             segments[0] + "." + segments[1],
		"four segments":            ada.token + "." + segments[2],
		"a dot at the end":         ada.token + ".",
		"dots":                     "..",
		"padding":                  ada.token + "=",
		"half a signature":         ada.token[:len(ada.token)-20],
		"beyond 4 KiB":             forge(header, claimsWith("iss", `"`+strings.Repeat("x", 4000)+`"`)),
		"a refresh token":          ada.refresh,
		"a cursor":                 ts.keys.sealCursor(cursor{"a", "b"}, "scope"),
		"a password":               "hunter2",
	} {
		ts.run(name, func(t *testing.T) { use(token).problem(401, "unauthenticated") })
	}

	ts.run("every other last character of the signature", func(t *testing.T) {
		const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/=. "
		for _, last := range alphabet {
			token := ada.token[:len(ada.token)-1] + string(last)
			if _, err := ts.keys.verifyAccess(token); (err == nil) != (token == ada.token) {
				t.Errorf("…%c: got %v", last, err)
			}
		}
	})
	ts.run("line breaks, which the standard decoder skips", func(t *testing.T) {
		for _, i := range []int{0, 5, len(segments[0]), len(ada.token) - 3, len(ada.token)} {
			if _, err := ts.keys.verifyAccess(ada.token[:i] + "\n" + ada.token[i:]); err == nil {
				t.Errorf("a line break at %d is accepted", i)
			}
		}
	})
	ts.run("other ways to authorize", func(t *testing.T) {
		for _, value := range []string{"Bearer", "Bearer ", ada.token, "Basic " + ada.token, "Bearer  " + ada.token, "Bearer " + ada.token + " x", "Bearer " + ada.token + ",Bearer " + ada.token, "Bearer\t" + ada.token, "Token " + ada.token} {
			got := ts.anonymous().with("Authorization", value).get("/api/v1/me").problem(401, "unauthenticated")
			if got.header.Get("WWW-Authenticate") != `Bearer realm="taskflow"` {
				t.Errorf("got WWW-Authenticate %q", got.header.Get("WWW-Authenticate"))
			}
		}
		ts.anonymous().with("Authorization", "bearer "+ada.token).get("/api/v1/me").want(200) // schemes have no case
	})
	use(ada.token).want(200)
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
