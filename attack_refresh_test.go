package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"strings"
	"testing"
)

// age makes a client's use of a refresh token longer ago than the time in which it may be repeated.
func (c *client) age(token string) {
	c.s.t.Helper()
	c.s.sql("UPDATE refresh_tokens SET used_at = used_at - interval '11 seconds' WHERE hash = $1", tokenHash(token))
}

// refreshed is the successor of a refresh token.
func (c *client) refreshed(token string) string {
	c.s.t.Helper()
	return c.refreshWith(token).want(200).str("refreshToken")
}

// reuses is how often a client's session was ended because a token of it came back.
func (c *client) reuses() int {
	c.s.t.Helper()
	n, err := queryValue[int](c.s.t.Context(), c.s.db, `SELECT count(*) FROM events WHERE kind = 'session.reuse_detected' AND subject = $1::text::uuid`, sessionOf(c))
	if err != nil {
		c.s.t.Fatal(err)
	}
	return n
}

func TestAttackRefresh(t *testing.T) {
	t.Parallel()
	a := countAttacks(t, 70)
	a.copies(t)
	a.endedSessions(t)
	a.noRefreshTokens(t)
}

// copies is about somebody who has a copy of a refresh token.
func (a *attacks) copies(t *testing.T) {
	ts := newTestServer(t)
	elsewhere := startTestServer(t, ts.config.databaseURL) // another process
	ada := ts.signUp("Ada")
	elsewhere.t = t
	for name, steal := range map[string]func(c *client) (again string){
		"after its successor was used": func(c *client) string {
			c.refreshed(c.refreshed(c.refresh))
			return c.refresh
		},
		"more than ten seconds later": func(c *client) string {
			c.refreshed(c.refresh)
			c.age(c.refresh)
			return c.refresh
		},
		"from far back in the chain": func(c *client) string {
			token := c.refresh
			for range 5 {
				token = c.refreshed(token)
			}
			return c.refresh
		},
		"the second from the end, late": func(c *client) string {
			next := c.refreshed(c.refresh)
			c.refreshed(next)
			c.age(next)
			return next
		},
		"of one who followed its owner within seconds, and then was late": func(c *client) string {
			next := c.refreshed(c.refresh)
			c.refreshWith(c.refresh).want(200).is("refreshToken", next) // the thief, as if the answer had been lost
			c.refreshed(next)
			c.refreshed(next) // the thief
			c.age(next)
			return next
		},
	} {
		a.run(ts, "a copy that comes back "+name, func(t *testing.T) {
			c, other := ada.signIn(), ada.signIn()
			again := steal(c)
			if c.reuses() != 0 {
				t.Fatal("the theft was found before it was one")
			}
			c.refreshWith(again).problem(401, "invalid_refresh_token")
			for _, s := range []*testServer{ts, elsewhere} {
				(&client{s: s, token: c.token}).get("/api/v1/me").problem(401, "unauthenticated")
				(&client{s: s, token: other.token}).get("/api/v1/me").want(200)
			}
			other.refreshed(other.refresh)
			if n := c.reuses(); n != 1 {
				t.Errorf("got %d entries in the log, want 1", n)
			}
		})
	}
	a.run(ts, "the successors of a copy, however often", func(t *testing.T) {
		c := ada.signIn()
		next := c.refreshed(c.refresh)
		c.age(c.refresh)
		c.refreshWith(c.refresh).problem(401, "invalid_refresh_token")
		before := ts.state()
		for _, token := range []string{next, next, c.refresh, ts.keys.successors(next)[0]} {
			c.refreshWith(token).problem(401, "invalid_refresh_token")
		}
		ts.unchanged(before, "tokens of a session that has ended") // nor is its owner told again
	})
	a.run(ts, "one token fifty times at once gives one successor", func(t *testing.T) {
		c := ada.signIn()
		before := ts.count("refresh_tokens")
		answers := atOnce(50, func(i int) *answer {
			return (&client{s: []*testServer{ts, elsewhere}[i%2]}).refreshWith(c.refresh)
		})
		for _, got := range answers {
			got.want(200).is("refreshToken", answers[0].str("refreshToken"))
		}
		if n := ts.count("refresh_tokens") - before; n != 1 {
			t.Errorf("got %d new tokens, want 1", n)
		}
		c.get("/api/v1/me").want(200)
		c.refreshed(answers[0].str("refreshToken"))
	})
	a.run(ts, "an old token fifty times at once ends the session once", func(t *testing.T) {
		c := ada.signIn()
		c.refreshed(c.refreshed(c.refresh))
		if got := statuses(atOnce(50, func(i int) *answer {
			return (&client{s: []*testServer{ts, elsewhere}[i%2]}).refreshWith(c.refresh)
		})); got[401] != 50 || c.reuses() != 1 {
			t.Errorf("got %v and %d entries in the log, want 401 only and 1", got, c.reuses())
		}
		c.get("/api/v1/me").problem(401, "unauthenticated")
	})
	a.run(ts, "old and new tokens of one session at once leave no thief in", func(t *testing.T) {
		for range 5 {
			c := ada.signIn()
			chain := []string{c.refresh}
			for range 3 {
				chain = append(chain, c.refreshed(chain[len(chain)-1]))
			}
			answers := atOnce(20, func(i int) *answer { return c.refreshWith(chain[i%len(chain)]) })
			for i, got := range answers {
				if i%len(chain) < 2 {
					got.problem(401, "invalid_refresh_token") // their successors were used
				}
			}
			if c.get("/api/v1/me").problem(401, "unauthenticated"); c.reuses() != 1 {
				t.Errorf("got %d entries in the log, want 1", c.reuses())
			}
			last := []string{chain[3]}
			for _, got := range answers {
				if got.status == 200 {
					last = append(last, got.str("refreshToken"))
				}
			}
			for _, token := range last {
				c.refreshWith(token).problem(401, "invalid_refresh_token")
			}
		}
	})
	a.run(ts, "signing out while refreshing leaves nothing alive", func(t *testing.T) {
		for range 10 {
			c := ada.signIn()
			answers := atOnce(4, func(i int) *answer {
				if i == 0 {
					return c.again().post("/api/v1/auth/logout", "").want(204)
				}
				return c.refreshWith(c.refresh)
			})
			for _, got := range answers[1:] {
				if got.status == 200 {
					(&client{s: ts, token: got.str("accessToken")}).get("/api/v1/me").problem(401, "unauthenticated")
					c.refreshWith(got.str("refreshToken")).problem(401, "invalid_refresh_token")
				}
			}
		}
	})
}

// endedSessions is about tokens of what has ended.
func (a *attacks) endedSessions(t *testing.T) {
	ts := newTestServer(t)
	ada := ts.signUp("Ada")
	for name, end := range map[string]func(user, c *client){ // end gets two sessions of a user and ends the second
		"was signed out":                func(user, c *client) { c.post("/api/v1/auth/logout", "").want(204) },
		"was ended from another device": func(user, c *client) { user.delete("/api/v1/me/sessions/" + sessionOf(c)).want(204) },
		"was ended with all others":     func(user, c *client) { user.delete("/api/v1/me/sessions").want(204) },
		"ended with a new password":     func(user, c *client) { user.changePassword("staple of good habits").want(204) },
		"ended with the account":        func(user, c *client) { user.leave().want(204) },
		"ended by an operator's reset": func(user, c *client) {
			if err := ts.adminSetPassword(t.Context(), user.email, "staple of good habits"); err != nil {
				ts.t.Fatal(err)
			}
		},
		"is of a deactivated account": func(user, c *client) { ada.patch("/api/v1/users/"+user.id, `{"isActive":false}`).want(200) },
		"is of one active again":      func(user, c *client) { ada.deactivateAndBack(user) },
		"has reached the end of its time": func(user, c *client) {
			ts.sql("UPDATE sessions SET expires_at = clock_timestamp() - interval '1 ms' WHERE id = $1::text::uuid", sessionOf(c))
		},
	} {
		a.run(ts, "a token of a session that "+name, func(t *testing.T) {
			user := ts.signUp("User")
			c := user.signIn()
			next := c.refreshed(c.refresh)
			end(user, c)
			before := ts.state()
			for _, token := range []string{next, c.refresh, next} {
				c.refreshWith(token).problem(401, "invalid_refresh_token")
			}
			ts.unchanged(before, "a token of an ended session")
			c.get("/api/v1/me").problem(401, "unauthenticated")
		})
	}
	a.run(ts, "a session does not grow older by it", func(t *testing.T) {
		c := ada.signIn()
		ends := c.get("/api/v1/me/sessions").want(200).str("items.0.expiresAt")
		c.refreshed(c.refreshed(c.refresh))
		c.get("/api/v1/me/sessions").want(200).is("items.0.expiresAt", ends)
	})
}

// noRefreshTokens is about what never was one, and about how it may be sent.
func (a *attacks) noRefreshTokens(t *testing.T) {
	ts := newTestServer(t)
	ada := ts.signUp("Ada")
	good := ada.signIn()
	sum := sha256.Sum256([]byte(good.refresh))
	swapped := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 32
		case 'A' <= r && r <= 'Z':
			return r + 32
		}
		return r
	}, good.refresh)
	for name, token := range map[string]string{
		"one letter":                     "x",
		"a random one":                   randomToken(),
		"one that is longer":             good.refresh + "A",
		"one that is shorter":            good.refresh[:42],
		"one without its first letter":   good.refresh[1:],
		"one with another last letter":   spareBit(good.refresh),
		"one padded":                     good.refresh + "=",
		"one in the other alphabet":      strings.NewReplacer("-", "+", "_", "/").Replace(good.refresh) + "=",
		"one in the other case":          swapped,
		"one backwards":                  good.refresh[21:] + good.refresh[:21],
		"one twice":                      good.refresh + good.refresh,
		"a space before it":              " " + good.refresh,
		"a space after it":               good.refresh + " ",
		"a zero-width space after it":    good.refresh + "\u200b",
		"a full-width letter":            "\uff21" + good.refresh[1:],
		"what the database has of it":    base64.RawURLEncoding.EncodeToString(sum[:]),
		"what it has, in hexadecimal":    hex.EncodeToString(sum[:]),
		"what it has, as bytea is shown": `\x` + hex.EncodeToString(sum[:]),
		"its successor, never made":      ts.keys.successors(good.refresh)[0],
		"its successor by another key":   base64.RawURLEncoding.EncodeToString(sum256(nil, good.refresh)),
		"its successor by the raw key":   base64.RawURLEncoding.EncodeToString(sum256(ts.keys.secrets[0], good.refresh)),
		"a token with a prefix":          apiTokenPrefix + good.refresh,
		"an API token":                   ada.tokenFor("write").token,
		"an API token in part":           strings.TrimPrefix(ada.tokenFor("write").token, apiTokenPrefix),
		"a token that would be mailed":   ts.keys.mailTokens("password", newUUID().String())[0],
		"an invitation":                  invite(ada, ada.project("Invited"), "invited@example.org"),
		"a session's id":                 sessionOf(good),
		"a user's id":                    ada.id,
		"part of an access token":        good.token[:100],
		"SQL":                            "' OR 1=1 --",
		"SQL, with the hash":             "' OR hash = hash OR '' = '",
		"a wildcard":                     "%",
		"null as text":                   "null",
		"an object as text":              `{"$ne":null}`,
	} {
		a.run(ts, "instead of a token "+name, func(t *testing.T) {
			before := ts.state()
			ts.anonymous().post(refreshPath, jsonOf(refreshBody{token})).problem(401, "invalid_refresh_token")
			good.with("X-Ignored", "1").post(refreshPath, jsonOf(refreshBody{token})).problem(401, "invalid_refresh_token") // a session beside it is no help
			ts.unchanged(before, "no refresh token")
		})
	}
	for name, test := range map[string]struct {
		media, body string
		status      int
		code        string
	}{
		"an access token":            {"", jsonOf(refreshBody{good.token}), 422, "validation_failed"},
		"a token of 10 KB":           {"", jsonOf(refreshBody{strings.Repeat("A", 10<<10)}), 422, "validation_failed"},
		"nothing":                    {"", jsonOf(refreshBody{}), 422, "validation_failed"},
		"null":                       {"", `{"refreshToken":null}`, 422, "validation_failed"},
		"a list":                     {"", `{"refreshToken":["` + good.refresh + `"]}`, 422, "validation_failed"},
		"an object":                  {"", `{"refreshToken":{"$gt":""}}`, 422, "validation_failed"},
		"true":                       {"", `{"refreshToken":true}`, 422, "validation_failed"},
		"NUL after the token":        {"", `{"refreshToken":"` + good.refresh + `\u0000"}`, 400, "malformed_json"},
		"two tokens":                 {"", `{"refreshToken":"` + randomToken() + `","refreshToken":"` + good.refresh + `"}`, 400, "malformed_json"},
		"two, one escaped":           {"", `{"refreshToken":"` + randomToken() + `","refresh\u0054oken":"` + good.refresh + `"}`, 400, "malformed_json"},
		"another spelling":           {"", `{"refresh_token":"` + good.refresh + `"}`, 422, "validation_failed"},
		"another case":               {"", `{"RefreshToken":"` + good.refresh + `"}`, 422, "validation_failed"},
		"another user beside it":     {"", `{"refreshToken":"` + good.refresh + `","userId":"` + newUUID().String() + `"}`, 422, "validation_failed"},
		"a session of one's choice":  {"", `{"refreshToken":"` + good.refresh + `","sid":"` + newUUID().String() + `"}`, 422, "validation_failed"},
		"a longer life beside it":    {"", `{"refreshToken":"` + good.refresh + `","expiresIn":1000000}`, 422, "validation_failed"},
		"an access token beside it":  {"", `{"refreshToken":"` + good.refresh + `","accessToken":"` + good.token + `"}`, 422, "validation_failed"},
		"a form, as OAuth has it":    {"application/x-www-form-urlencoded", "grant_type=refresh_token&refresh_token=" + url.QueryEscape(good.refresh), 415, "unsupported_media"},
		"JSON that is called a text": {"text/plain", jsonOf(refreshBody{good.refresh}), 415, "unsupported_media"},
		"no body":                    {"application/json", "", 400, "malformed_json"},
	} {
		a.run(ts, "a body with "+name, func(t *testing.T) {
			before := ts.state()
			c := ts.anonymous()
			if test.media != "" {
				c.with("Content-Type", test.media)
			}
			c.with("Cookie", "refreshToken="+good.refresh).post(refreshPath, test.body).problem(test.status, test.code)
			ts.unchanged(before, "a refused body")
		})
	}
	a.run(ts, "the token in the query", func(t *testing.T) {
		before := ts.state()
		ts.anonymous().post(refreshPath+"?refreshToken="+good.refresh, jsonOf(refreshBody{good.refresh})).problem(400, "bad_parameter")
		ts.anonymous().get(refreshPath+"?refreshToken="+good.refresh).problem(405, "method_not_allowed")
		ts.unchanged(before, "a token in the query")
	})
	a.run(ts, "another user's token beside one's own session", func(t *testing.T) {
		eve, bob := ts.signUp("Eve"), ts.signUp("Bob")
		got := eve.post(refreshPath, jsonOf(refreshBody{bob.refresh})).want(200)
		(&client{s: ts, token: got.str("accessToken")}).get("/api/v1/me").want(200).is("id", bob.id) // it is his session, and nothing of hers
		eve.get("/api/v1/me/sessions?total=true").want(200).is("total", 1)
		eve.get("/api/v1/me").want(200).is("id", eve.id)
	})
	a.run(ts, "an Idempotency-Key that others chose", func(t *testing.T) {
		c, victim := ada.signIn(), ts.signUp("Victim")
		first := victim.keyed("same").post(refreshPath, jsonOf(refreshBody{victim.refresh})).want(200)
		again := c.keyed("same").post(refreshPath, jsonOf(refreshBody{c.refresh})).want(200)
		if again.header.Get("Idempotency-Replayed") != "" || again.str("refreshToken") == first.str("refreshToken") {
			t.Error("an answer with tokens was repeated to somebody else")
		}
	})
	good.refreshed(good.refresh) // all the while the good one was good
}

// deactivateAndBack has an admin deactivate an account and activate it again.
func (c *client) deactivateAndBack(other *client) {
	c.s.t.Helper()
	c.patch("/api/v1/users/"+other.id, `{"isActive":false}`).want(200)
	c.patch("/api/v1/users/"+other.id, `{"isActive":true}`).want(200)
}

// changePassword sets another password than the one that all tests have.
func (c *client) changePassword(password string) *answer {
	c.s.t.Helper()
	return c.put("/api/v1/me/password", jsonOf(passwordChange{testPassword, password}))
}
