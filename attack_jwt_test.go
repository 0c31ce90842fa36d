package main

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// forgery makes tokens that differ from a good one in what a test says.
type forgery struct {
	*testServer
	secret []byte // the one that signs
	header string
	claims map[string]string // by name, as JSON; "" leaves one out
}

// newForgery begins with what the server itself would write for a client's session.
func newForgery(c *client) forgery {
	good, err := c.s.keys.verifyAccess(c.token)
	if err != nil {
		c.s.t.Fatal(err)
	}
	now, secret := time.Now().Unix(), c.s.keys.secrets[0]
	return forgery{c.s, secret, `{"alg":"HS256","kid":"` + keyID(secret) + `","typ":"at+jwt"}`, map[string]string{
		"iss": `"taskflow"`, "aud": `"taskflow-api"`, "sub": jsonOf(good.Subject), "sid": jsonOf(good.Session),
		"iat": fmt.Sprint(now), "nbf": fmt.Sprint(now), "exp": fmt.Sprint(now + 3600)}}
}

// body is the claims as JSON, some of them replaced: name, value.
func (f forgery) body(pairs ...string) string {
	var fields []string
	for _, name := range []string{"iss", "aud", "sub", "sid", "iat", "nbf", "exp"} {
		value := f.claims[name]
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				value = pairs[i+1]
			}
		}
		if value != "" {
			fields = append(fields, `"`+name+`":`+value)
		}
	}
	return "{" + strings.Join(fields, ",") + "}"
}

// sign makes a token of two segments as they are, with a key.
func sign(key []byte, signed string) string {
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature(key, signed))
}

// segment is a part of a token.
func segment(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// spareBit sets the last bit of a segment, which stands for nothing where its bytes are not a multiple of three.
func spareBit(segment string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := len(segment) - 1
	return segment[:last] + alphabet[strings.IndexByte(alphabet, segment[last])+1:][:1]
}

// token signs a header and claims with the key that makes access tokens.
func (f forgery) token(header, claims string) string {
	return sign(derive(f.secret, "access"), segment(header)+"."+segment(claims))
}

// with is a good token but for its claims, name and value each.
func (f forgery) with(pairs ...string) string { return f.token(f.header, f.body(pairs...)) }

// headed is a good token but for one piece of its header.
func (f forgery) headed(old, new string) string {
	return f.token(strings.Replace(f.header, old, new, 1), f.body())
}

func TestAttackJWT(t *testing.T) {
	t.Parallel()
	a := countAttacks(t, 200)
	const retired = "a secret that was taken out of use long ago"
	ts := newTestServer(t, "JWT_SECRET_PREVIOUS="+strings.Repeat("last secret ", 4))
	ada, bob, gone, left := ts.signUp("Ada"), ts.signUp("Bob"), ts.signUp("Gone"), ts.signUp("Left")
	project := ada.project("Target")
	for _, c := range []*client{bob, gone, left} {
		ada.add(project, c, roleAdmin) // so that nothing but the token keeps them out
	}
	ended, loggedOut, late := ada.signIn(), ada.signIn(), ada.signIn()
	ada.patch("/api/v1/users/"+gone.id, `{"isActive":false}`).want(200)
	left.leave().want(204)
	ada.delete("/api/v1/me/sessions/" + sessionOf(ended)).want(204)
	loggedOut.post("/api/v1/auth/logout", "").want(204)
	ts.sql(`UPDATE sessions SET expires_at = clock_timestamp() - interval '1 ms' WHERE id = $1::text::uuid`, sessionOf(late))
	byHand := ts.signUp("Hand")
	ada.add(project, byHand, roleAdmin)
	robot := byHand.tokenFor("write", "admin")
	ts.sql(`UPDATE users SET is_active = false WHERE id = $1::text::uuid`, byHand.id)
	api := ada.tokenFor("write").token
	invitation := invite(ada, project, "invited@example.org")
	mailed := ts.keys.mailTokens("password", newUUID().String())[0]
	good := newForgery(ada)
	now := time.Now().Unix()
	kid := keyID(good.secret)

	before := ts.state()
	// works fails the test unless a token is taken: then what is refused is refused for what is wrong with it.
	works := func(token string) {
		ts.t.Helper()
		(&client{s: ts, token: token}).get("/api/v1/me").want(200).is("id", ada.id)
		(&client{s: ts, token: token}).get("/api/v1/projects/" + project).want(200)
	}
	// refused sends a request to a route of each kind: they find out in different ways who calls.
	refused := func(with func(c *client) *client) {
		ts.t.Helper()
		for _, send := range []func(c *client) *answer{
			func(c *client) *answer { return c.get("/api/v1/me") },
			func(c *client) *answer { return c.get("/api/v1/projects/" + project) },
			func(c *client) *answer { return c.get("/api/v1/tasks?limit=1") },
			func(c *client) *answer { return c.get("/api/v1/tasks?projectId=" + project) },
			func(c *client) *answer {
				return c.post("/api/v1/tasks", `{"projectId":"`+project+`","title":"Got through"}`)
			},
			func(c *client) *answer { return c.get("/api/v1/admin/stats") },
			func(c *client) *answer { return c.delete("/api/v1/me/sessions") },
		} {
			got := send(with(ts.anonymous())).problem(401, "unauthenticated")
			if got.header.Get("WWW-Authenticate") != `Bearer realm="taskflow"` {
				ts.t.Errorf("got WWW-Authenticate %q", got.header.Get("WWW-Authenticate"))
			}
		}
	}
	works(good.with())

	segments := strings.Split(ada.token, ".")
	resigned := func(key []byte) string { return sign(key, segments[0]+"."+segments[1]) }
	access := derive(good.secret, "access")
	signed := func(header, claims string) string { return sign(access, header+"."+claims) }
	head, claims := segment(good.header), segment(good.body())
	last, lastOf := ts.keys.secrets[1], good
	lastOf.secret = last
	urlSafe := good.with() // with a letter that the two alphabets have apart
	for exp := now + 61; !strings.ContainsAny(urlSafe, "-_"); exp++ {
		urlSafe = good.with("exp", fmt.Sprint(exp))
	}
	his, other := newForgery(bob), newKeyring(secret(strings.Repeat("other ", 6)))
	gonesSession, endedSession := newForgery(gone), newForgery(ended)
	mine, err := ts.keys.verifyAccess(ada.token)
	if err != nil {
		t.Fatal(err)
	}

	for name, token := range map[string]string{
		"alg none, unsigned":         segment(`{"alg":"none","typ":"at+jwt"}`) + "." + segments[1] + ".",
		"alg none, no last dot":      segment(`{"alg":"none","typ":"at+jwt"}`) + "." + segments[1],
		"alg none, kept signature":   segment(`{"alg":"none","typ":"at+jwt"}`) + "." + segments[1] + "." + segments[2],
		"alg none, signed":           good.headed("HS256", "none"),
		"alg None":                   good.headed("HS256", "None"),
		"alg NONE":                   good.headed("HS256", "NONE"),
		"alg nOnE":                   good.headed("HS256", "nOnE"),
		"alg HS384":                  good.headed("HS256", "HS384"),
		"alg HS512":                  good.headed("HS256", "HS512"),
		"alg RS256":                  good.headed("HS256", "RS256"),
		"alg PS256":                  good.headed("HS256", "PS256"),
		"alg ES256":                  good.headed("HS256", "ES256"),
		"alg EdDSA":                  good.headed("HS256", "EdDSA"),
		"alg in another case":        good.headed("HS256", "hs256"),
		"alg with a space":           good.headed("HS256", "HS256 "),
		"alg empty":                  good.headed("HS256", ""),
		"alg null":                   good.headed(`"HS256"`, "null"),
		"alg a number":               good.headed(`"HS256"`, "256"),
		"alg a list":                 good.headed(`"HS256"`, `["HS256"]`),
		"no alg":                     good.headed(`"alg":"HS256",`, ""),
		"alg twice":                  good.headed("{", `{"alg":"none",`),
		"the name alg in capitals":   good.headed(`"alg"`, `"ALG"`),
		"an alg escaped in its name": good.headed("{", `{"\u0061lg":"none",`),

		"another kid":                    good.headed(kid, "00000000"),
		"a longer kid":                   good.headed(kid, kid+"0"),
		"a path as kid":                  good.headed(kid, "../../../../dev/null"),
		"an address as kid":              good.headed(kid, "https://evil.example/key"),
		"SQL as kid":                     good.headed(kid, "' UNION SELECT 'key' --"),
		"an empty kid":                   good.headed(kid, ""),
		"a kid that is null":             good.headed(`"`+kid+`"`, "null"),
		"a kid that is a number":         good.headed(`"`+kid+`"`, "1"),
		"no kid":                         good.headed(`"kid":"`+kid+`",`, ""),
		"the kid of the last secret":     good.headed(kid, keyID(last)),
		"the last secret by another kid": lastOf.with(),
		"typ JWT":                        good.headed("at+jwt", "JWT"),
		"typ in capitals":                good.headed("at+jwt", "AT+JWT"),
		"a media type as typ":            good.headed("at+jwt", "application/at+jwt"),
		"no typ":                         good.headed(`,"typ":"at+jwt"`, ""),
		"crit":                           good.headed("{", `{"crit":["exp"],`),
		"an empty crit":                  good.headed("{", `{"crit":[],`),
		"a key of its own":               good.headed("{", `{"jwk":{"kty":"oct","k":"AAAA"},`),
		"a place of keys":                good.headed("{", `{"jku":"https://evil.example/keys",`),
		"a chain of certificates":        good.headed("{", `{"x5c":["MIIB"],`),
		"a place of certificates":        good.headed("{", `{"x5u":"https://evil.example/cert",`),
		"claims not encoded":             good.headed("{", `{"b64":false,"crit":["b64"],`),
		"claims compressed":              good.headed("{", `{"zip":"DEF",`),
		"a nested token":                 good.token(strings.Replace(good.header, "{", `{"cty":"JWT",`, 1), good.with()),
		"a token as its claims":          good.token(good.header, ada.token),
		"a header that is null":          good.token("null", good.body()),
		"a header that is a list":        good.token("["+good.header+"]", good.body()),
		"a header that is no JSON":       good.token("x", good.body()),
		"an empty header":                good.token("", good.body()),
		"a header and more":              good.token(good.header+"{}", good.body()),
		"a header in Latin-1":            good.headed("at+jwt", "at+jwt\xe9"),
		"a byte order mark":              good.token("\xef\xbb\xbf"+good.header, good.body()),
		"32 headers in each other":       good.token(strings.Repeat(`{"alg":`, 33)+`"HS256"`+strings.Repeat("}", 33), good.body()),

		"no issuer":                                     good.with("iss", ""),
		"another issuer":                                good.with("iss", `"evil"`),
		"an issuer that begins the same":                good.with("iss", `"taskflow.evil.example"`),
		"an issuer in a list":                           good.with("iss", `["taskflow"]`),
		"an issuer in Latin-1":                          good.with("iss", "\"taskflow\xe9\""),
		"an issuer with NUL":                            good.with("iss", `"taskflow\u0000"`),
		"no audience":                                   good.with("aud", ""),
		"another audience":                              good.with("aud", `"other"`),
		"several audiences":                             good.with("aud", `["taskflow-api","other"]`),
		"the audience in a list":                        good.with("aud", `["taskflow-api"]`),
		"no user":                                       good.with("sub", ""),
		"a user that is null":                           good.with("sub", "null"),
		"a user of zeros":                               good.with("sub", jsonOf(uuid{})),
		"a user that is no id":                          good.with("sub", `"admin"`),
		"a user in capitals":                            good.with("sub", strings.ToUpper(good.claims["sub"])),
		"a user that is a number":                       good.with("sub", "1"),
		"a user that is a list":                         good.with("sub", "["+good.claims["sub"]+"]"),
		"a user that is an object":                      good.with("sub", `{"id":`+good.claims["sub"]+"}"),
		"a user with SQL":                               good.with("sub", `"`+ada.id+`' OR '1'='1"`),
		"an unknown user":                               good.with("sub", jsonOf(newUUID())),
		"another user with one's session":               good.with("sub", his.claims["sub"]),
		"a deactivated user":                            gonesSession.with(),
		"a deactivated user, by session":                good.with("sub", gonesSession.claims["sub"]),
		"a deleted user":                                good.with("sub", jsonOf(left.id)),
		"a deleted user, all of his":                    left.token,
		"no session":                                    good.with("sid", ""),
		"a session that is null":                        good.with("sid", "null"),
		"a session of zeros":                            good.with("sid", jsonOf(uuid{})),
		"an unknown session":                            good.with("sid", jsonOf(newUUID())),
		"another user's session":                        good.with("sid", his.claims["sid"]),
		"a session that was ended":                      endedSession.with(),
		"a session that was signed out":                 loggedOut.token,
		"a session whose time is over":                  late.token,
		"expired":                                       good.with("exp", fmt.Sprint(now-1)),
		"expired, in milliseconds":                      good.with("exp", fmt.Sprint((now+60)*1000)),
		"expiring now":                                  good.with("exp", fmt.Sprint(now)),
		"expiring in 1970":                              good.with("exp", "0"),
		"expiring before 1970":                          good.with("exp", fmt.Sprint(-now-60)),
		"no expiry":                                     good.with("exp", ""),
		"an expiry that is null":                        good.with("exp", "null"),
		"an expiry as text":                             good.with("exp", fmt.Sprintf(`"%d"`, now+60)),
		"an expiry in words":                            good.with("exp", `"never"`),
		"an expiry as a fraction":                       good.with("exp", fmt.Sprintf(`%d.5`, now+60)),
		"an expiry as a power of ten":                   good.with("exp", "2e9"),
		"an expiry that is true":                        good.with("exp", "true"),
		"an expiry that is NaN":                         good.with("exp", "NaN"),
		"an expiry that is infinite":                    good.with("exp", "Infinity"),
		"an expiry beyond any number":                   good.with("exp", "1e300"),
		"an expiry of a thousand digits":                good.with("exp", strings.Repeat("9", 1000)),
		"an expiry beyond 64 bits":                      good.with("exp", "9223372036854775808"),
		"an expiry at the end of time":                  good.with("exp", "9223372036854775807"),
		"an expiry beyond any life":                     good.with("exp", fmt.Sprint(now+25*60*60)),
		"an expiry in a list":                           good.with("exp", fmt.Sprintf("[%d]", now+60)),
		"not yet valid":                                 good.with("nbf", fmt.Sprint(now+3600)),
		"not valid before the end of time":              good.with("nbf", "9223372036854775807"),
		"not valid before its beginning":                good.with("nbf", "-9223372036854775808"),
		"no beginning":                                  good.with("nbf", ""),
		"from the future":                               good.with("iat", fmt.Sprint(now+3600)),
		"from the beginning of time":                    good.with("iat", "-9223372036854775808"),
		"from before what 64 bits tell from the future": good.with("iat", "-9223372036854775000"),
		"of no time":                                    good.with("iat", ""),
		"a claim twice":                                 good.token(good.header, strings.Replace(good.body(), "{", `{"sub":`+his.claims["sub"]+",", 1)),
		"a claim in two cases":                          good.token(good.header, strings.Replace(good.body(), "{", `{"Sub":`+his.claims["sub"]+",", 1)),
		"an unknown claim":                              good.token(good.header, strings.Replace(good.body(), "{", `{"role":"admin",`, 1)),
		"claims that are null":                          good.token(good.header, "null"),
		"claims that are a list":                        good.token(good.header, "["+good.body()+"]"),
		"claims that are text":                          good.token(good.header, jsonOf(good.body())),
		"claims and more":                               good.token(good.header, good.body()+good.body()),
		"claims with a comment":                         good.token(good.header, good.body()+"//"),
		"claims that end too early":                     good.token(good.header, strings.TrimSuffix(good.body(), "}")),
		"no claims":                                     good.token(good.header, "{}"),
		"nothing for claims":                            good.token(good.header, ""),
		"NUL after the claims":                          good.token(good.header, good.body()+"\x00"),
		"300 claims in each other":                      good.with("sub", strings.Repeat("[", 300)+strings.Repeat("]", 300)),

		"an empty key":                 resigned(nil),
		"a key of one byte":            resigned([]byte{0}),
		"a key that everybody tries":   resigned([]byte("secret")),
		"the secret itself as key":     resigned(good.secret),
		"the secret in hexadecimal":    resigned(fmt.Appendf(nil, "%x", access)),
		"the kid as key":               resigned([]byte(kid)),
		"the key of refresh tokens":    resigned(derive(good.secret, "refresh")),
		"the key of mailed tokens":     resigned(derive(good.secret, "mail")),
		"the key of cursors":           resigned(derive(good.secret, "cursor")),
		"the access key of nothing":    resigned(derive(nil, "access")),
		"a secret that is retired":     newKeyring(retired).accessToken(mine.Subject, mine.Session, time.Hour),
		"a secret of elsewhere":        other.accessToken(mine.Subject, mine.Session, time.Hour),
		"the signature of another's":   segments[0] + "." + segments[1] + "." + strings.Split(bob.token, ".")[2],
		"another's claims":             segments[0] + "." + strings.Split(bob.token, ".")[1] + "." + segments[2],
		"changed claims":               segments[0] + "." + segment(strings.Replace(good.body(), ada.id, bob.id, 1)) + "." + segments[2],
		"claims in lower case":         segments[0] + "." + strings.ToLower(segments[1]) + "." + segments[2],
		"header and claims exchanged":  sign(access, claims+"."+head),
		"a signature of zeros":         segments[0] + "." + segments[1] + "." + segment(strings.Repeat("\x00", 32)),
		"no signature":                 segments[0] + "." + segments[1] + ".",
		"half a signature":             ada.token[:len(ada.token)-20],
		"a signature of 16 bytes":      segments[0] + "." + segments[1] + "." + segment(string(signature(access, segments[0]+"."+segments[1])[:16])),
		"a signature of 33 bytes":      segments[0] + "." + segments[1] + "." + segment(string(signature(access, segments[0]+"."+segments[1]))+"\x00"),
		"a longer signature":           ada.token + "AA",
		"a signature in hexadecimal":   segments[0] + "." + segments[1] + "." + fmt.Sprintf("%x", signature(access, segments[0]+"."+segments[1])),
		"one segment":                  segments[1],
		"two segments":                 segments[0] + "." + segments[1],
		"four segments":                ada.token + "." + segments[2],
		"two segments, well signed":    sign(access, head),
		"three, one empty":             sign(access, head+"."),
		"four segments, one empty":     signed(head, claims+"."),
		"four segments, well signed":   signed(head, claims+"."+claims),
		"five, as encrypted ones have": head + "." + segment("key") + "." + segment("iv") + "." + claims + "." + segments[2],
		"five empty ones":              "....",
		"a dot before":                 "." + ada.token,
		"a dot at the end":             ada.token + ".",
		"dots":                         "..",
		"JSON instead":                 `{"protected":"` + head + `","payload":"` + claims + `","signature":"` + segments[2] + `"}`,

		"padding":                            ada.token + "=",
		"padding, well signed":               signed(head+"=", claims),
		"padding of the claims, well signed": signed(head, claims+"=="),
		"a space in the claims, well signed": signed(head, claims[:4]+" "+claims[4:]),
		"a tab before, well signed":          signed("\t"+head, claims),
		"the other alphabet":                 strings.NewReplacer("-", "+", "_", "/").Replace(urlSafe),
		"a letter of no alphabet":            ada.token[:len(ada.token)-1] + "!",
		"spare bits in the signature":        segments[0] + "." + segments[1] + "." + spareBit(segments[2]),
		"spare bits, well signed":            signed(spareBit(segment(good.header+strings.Repeat(" ", (4-len(good.header)%3)%3))), claims),
		"beyond 4 KiB":                       good.with("iss", `"`+strings.Repeat("x", 4000)+`"`),
		"beyond 4 KiB, all spaces":           good.token(good.header+strings.Repeat(" ", 4000), good.body()),
		"10 KiB of dots":                     strings.Repeat(".", 10<<10),

		"a refresh token":                               ada.refresh,
		"a refresh token, dotted":                       ada.refresh + "." + ada.refresh + "." + ada.refresh,
		"an API token of an account that is not active": robot.token,
		"a token of an account that is not active":      byHand.token,
		"an API token in part":                          strings.TrimPrefix(api, apiTokenPrefix),
		"an API token longer":                           api + "A",
		"an API token of zeros":                         apiTokenPrefix + strings.Repeat("A", 43),
		"an access token as API":                        apiTokenPrefix + ada.token,
		"the prefix alone":                              apiTokenPrefix,
		"an API token, like SQL":                        apiTokenPrefix + "%",
		"a mailed token":                                mailed,
		"a mailed token as API":                         apiTokenPrefix + mailed,
		"an invitation":                                 invitation,
		"a cursor":                                      ts.keys.sealCursor(cursor{"a", "b"}, "scope"),
		"a user's id":                                   ada.id,
		"a session's id":                                mine.Session.String(),
		"a password":                                    "hunter2",
		"null":                                          "null",
		"undefined":                                     "undefined",
	} {
		a.run(ts, name, func(t *testing.T) {
			refused(func(c *client) *client { c.token = token; return c })
			works(good.with())
		})
	}
	for name, header := range map[string][]string{
		"no token":                     {"Bearer"},
		"an empty token":               {"Bearer "},
		"no scheme":                    {ada.token},
		"Basic":                        {"Basic " + ada.token},
		"Basic, with the password":     {"Basic " + base64.StdEncoding.EncodeToString([]byte(ada.email+":"+testPassword))},
		"the scheme Token":             {"Token " + ada.token},
		"the scheme DPoP":              {"DPoP " + ada.token},
		"a scheme that begins so":      {"BearerX " + ada.token},
		"Bearer twice":                 {"Bearer Bearer " + ada.token},
		"two spaces":                   {"Bearer  " + ada.token},
		"a tab":                        {"Bearer\t" + ada.token},
		"words after it":               {"Bearer " + ada.token + " x"},
		"a list of two":                {"Bearer " + ada.token + ",Bearer " + ada.token},
		"two tokens":                   {"Bearer " + ada.token + " " + ada.token},
		"a token in quotes":            {`Bearer "` + ada.token + `"`},
		"a parameter":                  {"Bearer token=" + ada.token},
		"two headers":                  {"Bearer " + ada.token, "Bearer " + ada.token},
		"two headers, the first bad":   {"Bearer x", "Bearer " + ada.token},
		"two headers, the second bad":  {"Bearer " + ada.token, "Bearer x"},
		"two headers, one Basic":       {"Bearer " + ada.token, "Basic x"},
		"a scheme of look-alikes":      {"Веarer " + ada.token},
		"bytes that are no UTF-8":      {"Bearer \xff\xfe" + ada.token},
		"a no-break space":             {"Bearer\u00a0" + ada.token},
		"UTF-16, as far as it goes":    {"B\u0113arer " + ada.token},
		"a token followed by a letter": {"Bearer " + ada.token + "\u0430"},
	} {
		a.run(ts, "in the header "+name, func(t *testing.T) {
			refused(func(c *client) *client {
				for _, value := range header {
					c.with("Authorization", value)
				}
				return c
			})
			works(ada.token)
		})
	}
	for name, where := range map[string][2]string{
		"a cookie":                   {"Cookie", "access_token=" + ada.token + "; token=" + ada.token + "; Authorization=Bearer " + ada.token},
		"X-Access-Token":             {"X-Access-Token", ada.token},
		"X-Authorization":            {"X-Authorization", "Bearer " + ada.token},
		"Proxy-Authorization":        {"Proxy-Authorization", "Bearer " + ada.token},
		"a protocol of WebSockets":   {"Sec-WebSocket-Protocol", "bearer, " + ada.token},
		"X-User":                     {"X-User", ada.id},
		"X-Forwarded-User":           {"X-Forwarded-User", ada.email},
		"X-Remote-User":              {"Remote-User", ada.id},
		"X-Original-URL":             {"X-Original-URL", "/health"},
		"X-Rewrite-URL":              {"X-Rewrite-URL", "/health"},
		"a certificate's name":       {"X-SSL-Client-S-DN", "CN=" + ada.email},
		"a trailer that is promised": {"Trailer", "Authorization"},
	} {
		a.run(ts, "elsewhere than in Authorization: "+name, func(t *testing.T) {
			refused(func(c *client) *client { return c.with(where[0], where[1]) })
		})
	}
	a.run(ts, "in the query", func(t *testing.T) {
		for _, name := range []string{"access_token", "token", "authorization", "jwt", "bearer"} {
			ts.anonymous().get("/api/v1/me?"+name+"="+ada.token).problem(401, "unauthenticated")
			ts.anonymous().post("/api/v1/tasks?"+name+"="+ada.token, `{"projectId":"`+project+`","title":"Got through"}`).problem(401, "unauthenticated")
			ada.get("/api/v1/me?"+name+"="+ada.token).problem(400, "bad_parameter") // it never is where logs and referrers have it
		}
	})
	a.run(ts, "in the body", func(t *testing.T) {
		ts.anonymous().post("/api/v1/tasks", `{"projectId":"`+project+`","title":"Got through","accessToken":"`+ada.token+`"}`).problem(401, "unauthenticated")
	})
	// sent is the status of the answer to a header as it is, which a client of Go would not send.
	sent := func(authorization string) int {
		conn, err := net.Dial("tcp", ts.http.Listener.Addr().String())
		if err != nil {
			ts.t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Minute))
		go io.WriteString(conn, "GET /api/v1/me HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: "+authorization+"\r\n\r\n") // the server may hang up before the end
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil && strings.Contains(err.Error(), "reset") { // it has hung up while more was coming, which can overtake its answer
			return 431
		} else if err != nil {
			ts.t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	for name, attack := range map[string]struct {
		header string
		want   int
	}{
		"a token of 1 MiB":          {"Bearer " + strings.Repeat("A", 1<<20), 431},
		"a good token and 1 MiB":    {"Bearer " + ada.token + strings.Repeat(" ", 1<<20) + "x", 431},
		"NUL before it":             {"Bearer \x00" + ada.token, 400},
		"NUL after it":              {"Bearer " + ada.token + "\x00", 400},
		"a line break within":       {"Bearer " + ada.token[:20] + "\n" + ada.token[20:], 400},
		"a CR within":               {"Bearer " + ada.token[:20] + "\r" + ada.token[20:], 400},
		"folded into the next line": {"Bearer\r\n " + ada.token + " x", 401},
	} {
		a.run(ts, "on the wire: "+name, func(t *testing.T) {
			if got := sent(attack.header); got != attack.want {
				t.Errorf("got %d, want %d", got, attack.want)
			}
			if got := sent("Bearer " + ada.token); got != 200 {
				t.Errorf("the good one got %d", got)
			}
		})
	}
	a.run(ts, "another last letter of the signature, whichever", func(t *testing.T) {
		const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/=. "
		for _, last := range alphabet {
			token := ada.token[:len(ada.token)-1] + string(last)
			if _, err := ts.keys.verifyAccess(token); (err == nil) != (token == ada.token) {
				t.Errorf("…%c: got %v", last, err)
			}
		}
	})
	a.run(ts, "line breaks, which the standard decoder skips", func(t *testing.T) {
		for _, i := range []int{0, 5, len(segments[0]), len(ada.token) - 3, len(ada.token)} {
			for _, between := range []string{"\n", "\r", "\r\n"} {
				if _, err := ts.keys.verifyAccess(ada.token[:i] + between + ada.token[i:]); err == nil {
					t.Errorf("a line break at %d is accepted", i)
				}
				if _, err := ts.keys.verifyAccess(signed(head, claims[:5]+between+claims[5:])); err == nil {
					t.Errorf("a line break that is signed is accepted")
				}
			}
		}
	})
	ts.unchanged(before, "refused tokens")
	works(good.with())
	works(ada.token)
	works(lastOf.token(strings.Replace(lastOf.header, kid, keyID(last), 1), lastOf.body()))
	(&client{s: ts, token: api}).get("/api/v1/me").want(200).is("id", ada.id)
	ts.anonymous().with("Authorization", "bearer "+ada.token).get("/api/v1/me").want(200) // schemes have no case (RFC 9110, section 11.1)
}
