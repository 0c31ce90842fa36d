package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

const tokensPath = "/api/v1/me/tokens"

// tokenFor makes an API token with these scopes and returns a client that has only it.
func (c *client) tokenFor(scopes ...string) *client {
	c.s.t.Helper()
	token := c.post(tokensPath, jsonOf(map[string]any{"name": "for a test", "scopes": scopes})).want(201).str("token")
	return &client{s: c.s, token: token, id: c.id, email: c.email}
}

func TestAPITokens(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	root, ada := ts.signUp("Root"), ts.signUp("Ada")

	ts.run("are shown once, and act for their user", func(t *testing.T) {
		made := ada.post(tokensPath, `{"name":"Back-up of 王","scopes":["read"],"expiresAt":"2030-01-01T12:00:00+02:00"}`).want(201).
			is("name", "Back-up of 王").is("scopes", "[read]").is("expiresAt", "2030-01-01T10:00:00.000Z").is("lastUsedAt", nil)
		token := made.str("token")
		if !strings.HasPrefix(token, "tf_") || len(token) != 46 || made.header.Get("Location") != tokensPath+"/"+made.str("id") || made.header.Get("Cache-Control") != "no-store" {
			t.Errorf("got %s and %v", token, made.header)
		}
		list := ada.get(tokensPath+"?total=true").want(200).is("total", 1).is("items.0.id", made.str("id")).is("items.0.token", nil).is("items.0.name", "Back-up of 王")
		if strings.Contains(string(list.body), token[3:]) {
			t.Error("the list shows the token")
		}
		robot := &client{s: ts, token: token}
		robot.get("/api/v1/me").want(200).is("id", ada.id)
		robot.do("HEAD", "/api/v1/me", "").want(200)
		if n, err := queryValue[int](t.Context(), ts.db, `SELECT count(*) FROM api_tokens t WHERE position(convert_to($1, 'UTF8') IN hash) > 0 OR t::text LIKE '%' || $1 || '%'`, token[3:]); err != nil || n != 0 {
			t.Errorf("the database has the token: %d, %v", n, err)
		}
		ada.delete(made.header.Get("Location")).want(204)
		robot.get("/api/v1/me").problem(401, "unauthenticated")
		ada.delete(made.header.Get("Location")).problem(404, "not_found")
		kinds, err := queryAll[struct{ Kind string }](t.Context(), ts.db, `SELECT kind FROM events WHERE scope = $1::text::uuid AND subject = $2::text::uuid ORDER BY seq`, ada.id, made.str("id"))
		if err != nil || fmt.Sprint(kinds) != "[{token.created} {token.deleted}]" {
			t.Errorf("the log has %v, %v", kinds, err)
		}
	})
	ts.run("do what their scopes say", func(t *testing.T) {
		project := ada.project("Project")
		read, write := ada.tokenFor("read"), ada.tokenFor("write")
		read.get("/api/v1/projects/" + project).want(200)
		write.get("/api/v1/projects/" + project).want(200)
		write.task(project, "By a program")
		read.get("/api/v1/me").want(200) // its use is noted, once a minute
		before := ts.state()
		a := read.post("/api/v1/tasks", `{"projectId":"`+project+`","title":"Never"}`).problem(403, "insufficient_scope")
		if got := a.header.Get("WWW-Authenticate"); got != `Bearer realm="taskflow", error="insufficient_scope", scope="write"` {
			t.Errorf("got %s", got)
		}
		read.patch("/api/v1/me", `{"firstName":"Never"}`).problem(403, "insufficient_scope")
		ts.unchanged(before, "a token without the scope")
	})
	ts.run("do what is an admin's only with that scope, and for an admin", func(t *testing.T) {
		for _, test := range []struct {
			c      *client
			scopes []string
			read   string
			write  string
		}{
			{root, []string{"read", "write"}, "insufficient_scope", "insufficient_scope"},
			{root, []string{"read", "admin"}, "", "insufficient_scope"},
			{root, []string{"write", "admin"}, "", ""},
			{ada, []string{"write", "admin"}, "forbidden", "forbidden"},
		} {
			robot := test.c.tokenFor(test.scopes...)
			for code, a := range map[*string]*answer{&test.read: robot.get("/api/v1/admin/queues"), &test.write: robot.patch("/api/v1/users/"+ada.id, `{"role":"member"}`)} {
				if *code == "" {
					a.want(200)
				} else {
					a.problem(403, *code)
				}
			}
		}
	})
	ts.run("end when they expire, and with the account", func(t *testing.T) {
		bob := ts.signUp("Bob")
		robot := bob.tokenFor("read")
		ts.sql(`UPDATE api_tokens SET expires_at = now() - interval '1 ms' WHERE user_id = $1::text::uuid`, bob.id)
		robot.get("/api/v1/me").problem(401, "unauthenticated")
		bob.get(tokensPath).want(200).is("items.0.name", "for a test") // he sees that it has expired
		robot = bob.tokenFor("read")
		robot.get("/api/v1/me").want(200)
		bob.put("/api/v1/me/password", jsonOf(passwordChange{testPassword, "staple of good habits"})).want(204)
		robot.get("/api/v1/me").want(200)
		root.patch("/api/v1/users/"+bob.id, `{"isActive":false}`).want(200)
		robot.get("/api/v1/me").problem(401, "unauthenticated")
		root.patch("/api/v1/users/"+bob.id, `{"isActive":true}`).want(200)
		robot.get("/api/v1/me").problem(401, "unauthenticated")
	})
	ts.run("have the rights that their user has now", func(t *testing.T) {
		bob := ts.signUp("Bob")
		project := ada.project("Shared")
		ada.add(project, bob, roleMember)
		robot := bob.tokenFor("write")
		robot.task(project, "Mine")
		ada.delete("/api/v1/projects/" + project + "/members/" + bob.id).want(204)
		robot.get("/api/v1/projects/"+project).problem(404, "not_found")
	})
	ts.run("note their last use, at most once a minute", func(t *testing.T) {
		bob := ts.signUp("Bob")
		robot := bob.tokenFor("read")
		atOnce(8, func(int) *answer { return (&client{s: ts, token: robot.token}).get("/api/v1/me").want(200) })
		used := bob.get(tokensPath).want(200).str("items.0.lastUsedAt")
		if at, err := time.Parse(time.RFC3339, used); err != nil || time.Since(at) > time.Minute {
			t.Errorf("got %s", used)
		}
		before := ts.state()
		robot.get("/api/v1/me").want(200)
		ts.unchanged(before, "a second use")
		ts.sql(`UPDATE api_tokens SET last_used_at = last_used_at - interval '61 seconds' WHERE user_id = $1::text::uuid`, bob.id)
		robot.get("/api/v1/me").want(200)
		if again := bob.get(tokensPath).want(200).str("items.0.lastUsedAt"); again < used {
			t.Errorf("got %s after %s", again, used)
		}
	})
	ts.run("are one's own", func(t *testing.T) {
		made := ada.post(tokensPath, `{"name":"x","scopes":["read"]}`).want(201)
		root.delete(made.header.Get("Location")).problem(404, "not_found")
		for _, token := range root.get(tokensPath).want(200).strs("id") {
			if token == made.str("id") {
				t.Error("another's token is listed")
			}
		}
	})
	ts.run("are refused where something is wrong with the wish", func(t *testing.T) {
		before := ts.state()
		for body, want := range map[string]string{
			`{"scopes":["read"]}`: "name required", `{"name":"` + strings.Repeat("ü", 101) + `","scopes":["read"]}`: "name too_long", `{"name":"a\nb","scopes":["read"]}`: "name invalid_text",
			`{"name":"x"}`: "scopes required", `{"name":"x","scopes":[]}`: "scopes required", `{"name":"x","scopes":["admin"]}`: "scopes required", `{"name":"x","scopes":["read","all"]}`: "scopes[1] not_allowed",
			`{"name":"x","scopes":["read","read"]}`: "scopes[1] repeated", `{"name":"x","scopes":["READ"]}`: "scopes[0] not_allowed",
			`{"name":"x","scopes":["read"],"expiresAt":"2030-01-01"}`: "expiresAt invalid_time", `{"name":"x","scopes":["read"],"expiresAt":"2020-01-01T00:00:00Z"}`: "expiresAt out_of_range",
			`{"name":"x","scopes":["read"],"expiresAt":"9999-01-01T00:00:00Z"}`: "expiresAt out_of_range", `{"name":"x","scopes":["read"],"expiresAt":""}`: "expiresAt invalid_time",
		} {
			field, code, _ := strings.Cut(want, " ")
			ada.post(tokensPath, body).problem(422, "validation_failed").field(field, code)
		}
		ts.unchanged(before, "a refused token")
	})
	ts.run("are fifty for each user, also when two are made at once", func(t *testing.T) {
		bob := ts.signUp("Bob")
		for range maxAPITokens - 1 {
			bob.tokenFor("read")
		}
		if got := statuses(atOnce(3, func(int) *answer {
			return (&client{s: ts, token: bob.token}).post(tokensPath, `{"name":"x","scopes":["read"]}`)
		})); got[201] != 1 || got[409] != 2 {
			t.Errorf("got %v, want one 201 and two 409", got)
		}
		if got := bob.pagesOf(tokensPath+"?total=true", 20, "id"); len(got) != maxAPITokens {
			t.Errorf("%d tokens are listed", len(got))
		}
	})
	ts.run("are not mistaken for others", func(t *testing.T) {
		robot := ada.tokenFor("write")
		for _, token := range []string{"tf_", "tf_x", robot.token + "x", robot.token[:45], strings.ToUpper(robot.token), strings.Replace(robot.token, "tf_", "TF_", 1), "tf_" + ada.refresh, "tf_" + ada.token, strings.Repeat("tf_", 2000)} {
			(&client{s: ts, token: token}).get("/api/v1/me").problem(401, "unauthenticated")
		}
		robot.refreshWith(robot.token).problem(401, "invalid_refresh_token")
		robot.refreshWith(robot.token[3:]).problem(401, "invalid_refresh_token")
	})
}

// TestEveryRouteWithEveryScope calls every route with API tokens of an owner who is also an admin, and
// compares with the table of routes: a token does what its scopes say, and nothing that is for people.
func TestEveryRouteWithEveryScope(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	sc.sql(`UPDATE users SET role = 'admin' WHERE id = $1::text::uuid`, sc.owner.id)
	kinds := [][]string{{"read"}, {"write"}, {"read", "admin"}, {"write", "admin"}}
	var robots []*client
	for _, scopes := range kinds {
		robots = append(robots, sc.owner.tokenFor(scopes...))
	}
	for _, rt := range sc.routes() {
		if rt.who == anyone || rt.who == scrapers {
			continue
		}
		method, _, _ := strings.Cut(rt.pattern, " ")
		sc.run(rt.pattern, func(t *testing.T) {
			for i, scopes := range kinds {
				want := ""
				switch {
				case rt.who == inPerson:
					want = "session_required"
				case rt.who == globalAdmins && !slices.Contains(scopes, "admin"), method != "GET" && !slices.Contains(scopes, "write"):
					want = "insufficient_scope"
				}
				made := samples[rt.pattern](sc, sc.owner)
				robots[i].get("/api/v1/me").want(200) // its use is noted, which is once a minute
				before := sc.state()
				a := robots[i].do(method, made.path, made.body)
				if want != "" {
					a.problem(403, want)
					sc.unchanged(before, "a token without the scope")
				} else if a.status >= 400 {
					t.Errorf("%v: got %d, want success: %s", scopes, a.status, a.body)
				}
			}
		})
	}
}
