package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestOwnAccount(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ada := ts.signUp("Ada")

	ts.run("changes the fields that a patch has and no other", func(t *testing.T) {
		fields := []string{"firstName", "lastName", "avatarUrl", "timezone", "locale", "email", "role", "isActive", "createdAt"}
		for field, value := range map[string]string{"firstName": "Augusta", "lastName": "King", "avatarUrl": "https://img.example.org/a%20b.png?s=40", "timezone": "America/Argentina/Buenos_Aires", "locale": "zh-Hant-TW"} {
			was := ada.get("/api/v1/me").want(200)
			now := ada.patch("/api/v1/me", `{"`+field+`":"`+value+`"}`).want(200).is(field, value).is("version", was.num("version")+1)
			for _, other := range fields {
				if other != field {
					now.is(other, was.at(other))
				}
			}
			ada.get("/api/v1/me").want(200).is(field, value)
		}
		ada.patch("/api/v1/me", `{"avatarUrl":null}`).want(200).is("avatarUrl", nil).is("firstName", "Augusta")
	})
	ts.run("leaves no trace of a patch that changes nothing", func(t *testing.T) {
		before := ts.state()
		for _, body := range []string{`{}`, `{"firstName":"Augusta"}`, `{"avatarUrl":null,"locale":"zh-Hant-TW"}`} {
			ada.patch("/api/v1/me", body).want(200)
		}
		ts.unchanged(before, "nothing")
	})
	ts.run("has a history with who, from what and to what", func(t *testing.T) {
		ada.patch("/api/v1/me", `{"lastName":"Lovelace"}`).want(200)
		e, err := queryOne[struct {
			Kind    string
			Actor   uuid
			Changes string
		}](t.Context(), ts.db, `SELECT kind, actor, changes::text FROM events WHERE scope = $1::text::uuid ORDER BY seq DESC LIMIT 1`, ada.id)
		if err != nil || e.Kind != "user.updated" || e.Actor.String() != ada.id || e.Changes != `{"lastName": ["King", "Lovelace"]}` {
			t.Errorf("got %+v, %v", e, err)
		}
	})
	ts.run("takes only what it can use", func(t *testing.T) {
		before := ts.state()
		for body, want := range map[string]string{
			`{"firstName":""}`: "firstName required", `{"firstName":null}`: "firstName required", `{"lastName":"\u00a0 "}`: "lastName required", `{"lastName":"` + strings.Repeat("é", 51) + `"}`: "lastName too_long",
			`{"firstName":"a\tb"}`: "firstName invalid_text", `{"avatarUrl":""}`: "avatarUrl invalid_url", `{"avatarUrl":"http://img.example.org/a"}`: "avatarUrl invalid_url", `{"avatarUrl":"javascript:alert(1)"}`: "avatarUrl invalid_url",
			`{"avatarUrl":"https://"}`: "avatarUrl invalid_url", `{"avatarUrl":"https://:443/a"}`: "avatarUrl invalid_url", `{"avatarUrl":"//img.example.org"}`: "avatarUrl invalid_url", `{"avatarUrl":"https://me:secret@img.example.org"}`: "avatarUrl invalid_url",
			`{"avatarUrl":"https://a b.example"}`: "avatarUrl invalid_url", `{"avatarUrl":"https://example.org/` + strings.Repeat("x", 2000) + `"}`: "avatarUrl invalid_url", `{"avatarUrl":"https://example.org/%zz"}`: "avatarUrl invalid_url",
			`{"timezone":""}`: "timezone invalid_timezone", `{"timezone":null}`: "timezone required", `{"timezone":"Local"}`: "timezone invalid_timezone", `{"timezone":"Mars/Olympus"}`: "timezone invalid_timezone",
			`{"timezone":"../../etc/passwd"}`: "timezone invalid_timezone", `{"timezone":"/etc/localtime"}`: "timezone invalid_timezone", `{"timezone":"UTC+1"}`: "timezone invalid_timezone", `{"timezone":"europe/berlin"}`: "timezone invalid_timezone",
			`{"timezone":"zone.tab"}`: "timezone invalid_timezone", `{"timezone":"Europe"}`: "timezone invalid_timezone", `{"timezone":"` + strings.Repeat("x", 5000) + `"}`: "timezone invalid_timezone",
			`{"locale":""}`: "locale invalid_locale", `{"locale":null}`: "locale required", `{"locale":"en_US"}`: "locale invalid_locale", `{"locale":"english"}`: "locale invalid_locale", `{"locale":"en-"}`: "locale invalid_locale",
			`{"locale":"en` + strings.Repeat("-abcdefgh", 4) + `"}`: "locale invalid_locale", `{"email":"eve@example.org"}`: "email unknown_field", `{"role":"admin"}`: "role unknown_field", `{"isActive":false}`: "isActive unknown_field",
		} {
			field, code, _ := strings.Cut(want, " ")
			ada.patch("/api/v1/me", body).problem(422, "validation_failed").field(field, code)
		}
		ada.patch("/api/v1/me", `{"firstName":"","lastName":"","locale":"x","timezone":"x"}`).problem(422, "validation_failed").field("firstName", "required").field("lastName", "required").
			field("locale", "invalid_locale").field("timezone", "invalid_timezone")
		ts.unchanged(before, "a refused patch")
	})
	ts.run("has an ETag that guards it", func(t *testing.T) {
		tag := ada.get("/api/v1/me").want(200).header.Get("ETag")
		if got := ada.with("If-None-Match", tag).get("/api/v1/me").want(304); len(got.body) > 0 || got.header.Get("ETag") != tag {
			t.Errorf("got %s and ETag %s", got.body, got.header.Get("ETag"))
		}
		for _, list := range []string{"*", "W/" + tag, `"x", ` + tag, ` ` + tag + ` ,"y"`} {
			ada.with("If-None-Match", list).get("/api/v1/me").want(304)
		}
		ada.with("If-None-Match", `"x"`).with("If-None-Match", tag).get("/api/v1/me").want(304)
		for _, list := range []string{`"0"`, strings.Trim(tag, `"`), "", `"`} {
			ada.with("If-None-Match", list).get("/api/v1/me").want(200)
		}
		before := ts.state()
		for _, list := range []string{`"0"`, "W/" + tag, strings.Trim(tag, `"`), `"+` + strings.Trim(tag, `"`) + `"`, strings.TrimSuffix(tag, `"`), `"99999999999999999999"`, `"-1"`, "", `"a","b"`, "x"} {
			got := ada.with("If-Match", list).patch("/api/v1/me", `{"firstName":"Never"}`).problem(412, "version_mismatch")
			if got.header.Get("ETag") != tag {
				t.Errorf("If-Match %s: got ETag %s, want %s", list, got.header.Get("ETag"), tag)
			}
		}
		ts.unchanged(before, "a change that If-Match forbids")
		ada.with("If-Match", "*").patch("/api/v1/me", `{"firstName":"Any"}`).want(200)
		tag = ada.get("/api/v1/me").want(200).header.Get("ETag")
		ada.with("If-Match", `"0", `+tag).patch("/api/v1/me", `{"firstName":"Right"}`).want(200)
		answers := atOnce(2, func(i int) *answer {
			c := &client{s: ts, token: ada.token}
			return c.with("If-Match", ada.etag("/api/v1/me")).patch("/api/v1/me", fmt.Sprintf(`{"firstName":"Rival %d"}`, i))
		})
		if got := statuses(answers); got[200] < 1 || got[200]+got[412] != 2 {
			t.Errorf("two at once: got %v", got)
		}
	})
}

// etag is the present version of what stands at a path.
func (c *client) etag(path string) string {
	c.s.t.Helper()
	return (&client{s: c.s, token: c.token}).get(path).want(200).header.Get("ETag")
}

func TestPeopleWhomOneMayKnow(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	ids := func(c *client, query string) []string {
		list := c.get("/api/v1/users?limit=100" + query).want(200).strs("id")
		slices.Sort(list)
		return list
	}
	sorted := func(clients ...*client) (list []string) {
		for _, c := range clients {
			list = append(list, c.id)
		}
		slices.Sort(list)
		return list
	}
	together := sorted(sc.owner, sc.projectAdmin, sc.member, sc.viewer)

	sc.run("are oneself and those of one's projects", func(t *testing.T) {
		for _, c := range []*client{sc.owner, sc.viewer} {
			if got := ids(c, ""); !slices.Equal(got, together) {
				t.Errorf("got %v, want %v", got, together)
			}
		}
		if got := ids(sc.outsider, ""); !slices.Equal(got, sorted(sc.outsider)) {
			t.Errorf("the outsider got %v, want himself", got)
		}
		sc.viewer.get("/api/v1/users?total=true&limit=1").want(200).is("total", 4)
	})
	sc.run("are all to managers and admins", func(t *testing.T) {
		everyone := sorted(sc.admin, sc.manager, sc.owner, sc.projectAdmin, sc.member, sc.viewer, sc.outsider, sc.deactivated)
		for _, c := range []*client{sc.admin, sc.manager} {
			if got := ids(c, ""); !slices.Equal(got, everyone) {
				t.Errorf("got %v, want %v", got, everyone)
			}
		}
	})
	sc.run("are found by a part of name or address, whatever the case", func(t *testing.T) {
		for _, query := range []string{"owner", "OWNER", "ner%20Test", sc.owner.email, "Owner%20Tester%20" + sc.owner.email[:5]} {
			if got := ids(sc.viewer, "&search="+query); !slices.Equal(got, sorted(sc.owner)) {
				t.Errorf("%s: got %v, want the owner", query, got)
			}
		}
		for _, query := range []string{"outsider", "%25", "_wner", "%5C"} {
			if got := ids(sc.viewer, "&search="+query); len(got) != 0 {
				t.Errorf("%s: got %v, want nobody", query, got)
			}
		}
	})
	sc.run("are shown without what is theirs alone", func(t *testing.T) {
		got := sc.viewer.get("/api/v1/users/"+sc.owner.id).want(200).is("firstName", "Owner").is("email", sc.owner.email)
		for _, field := range []string{"role", "isActive", "timezone", "locale", "createdAt", "version"} {
			got.is(field, nil)
		}
		sc.viewer.get("/api/v1/users?search=owner").want(200).is("items.0.role", nil).is("items.0.email", sc.owner.email)
		sc.manager.get("/api/v1/users/"+sc.owner.id).want(200).is("role", nil)
		sc.admin.get("/api/v1/users/"+sc.owner.id).want(200).is("role", "member").is("isActive", true)
		sc.viewer.get("/api/v1/users/"+sc.viewer.id).want(200).is("role", "member")
	})
	sc.run("and of others nothing can be learnt", func(t *testing.T) {
		wantSame(t, sc.outsider.get("/api/v1/users/"+sc.owner.id).problem(404, "not_found"), sc.outsider.get("/api/v1/users/"+newUUID().String()))
	})
	sc.run("until one leaves, or the project is deleted", func(t *testing.T) {
		other := sc.newProject()
		sc.owner.delete("/api/v1/projects/" + sc.project + "/members/" + sc.viewer.id).want(204)
		sc.viewer.get("/api/v1/users/" + sc.owner.id).want(200)
		sc.owner.delete("/api/v1/projects/" + other).want(204)
		sc.viewer.get("/api/v1/users/"+sc.owner.id).problem(404, "not_found")
		if got := ids(sc.viewer, ""); !slices.Equal(got, sorted(sc.viewer)) {
			t.Errorf("got %v, want oneself", got)
		}
	})
}

func TestAccountsInTheHandsOfAdmins(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	root := ts.signUp("Root")

	ts.run("change their role, for the next request on", func(t *testing.T) {
		bob, ada := ts.signUp("Bob"), ts.signUp("Ada")
		project := ada.project("Private")
		path := "/api/v1/projects/" + project
		bob.get(path).problem(404, "not_found")
		for _, step := range []struct {
			role   string
			status int
		}{{"manager", 200}, {"member", 404}, {"admin", 200}, {"member", 404}} {
			root.patch("/api/v1/users/"+bob.id, `{"role":"`+step.role+`"}`).want(200).is("role", step.role)
			bob.get(path).want(step.status)
		}
	})
	ts.run("lose every session when they are deactivated, and keep none for later", func(t *testing.T) {
		bob := ts.signUp("Bob")
		phone := bob.signIn()
		root.patch("/api/v1/users/"+bob.id, `{"isActive":false}`).want(200).is("isActive", false)
		for _, c := range []*client{bob, phone} {
			c.get("/api/v1/me").problem(401, "unauthenticated")
			c.refreshWith(c.refresh).problem(401, "invalid_refresh_token")
		}
		root.patch("/api/v1/users/"+bob.id, `{"isActive":true}`).want(200)
		for _, c := range []*client{bob, phone} {
			c.get("/api/v1/me").problem(401, "unauthenticated")
			c.refreshWith(c.refresh).problem(401, "invalid_refresh_token")
		}
		bob.signIn().get("/api/v1/me").want(200)
	})
	ts.run("take only roles that there are", func(t *testing.T) {
		bob := ts.signUp("Bob")
		before := ts.state()
		for body, field := range map[string]string{`{"role":"owner"}`: "role", `{"role":""}`: "role", `{"role":"Admin"}`: "role", `{"role":null}`: "role", `{"isActive":null}`: "isActive"} {
			root.patch("/api/v1/users/"+bob.id, body).problem(422, "validation_failed").field(field, map[bool]string{true: "required", false: "not_allowed"}[strings.Contains(body, "null")])
		}
		root.patch("/api/v1/users/"+newUUID().String(), `{"role":"manager"}`).problem(404, "not_found")
		root.with("If-Match", `"0"`).patch("/api/v1/users/"+bob.id, `{"role":"manager"}`).problem(412, "version_mismatch")
		root.patch("/api/v1/users/"+bob.id, `{}`).want(200)
		ts.unchanged(before, "a refused patch")
		root.with("If-Match", root.etag("/api/v1/users/"+bob.id)).patch("/api/v1/users/"+bob.id, `{"role":"manager"}`).want(200)
	})
	ts.run("cannot lose the last admin", func(t *testing.T) {
		before := ts.state()
		root.patch("/api/v1/users/"+root.id, `{"role":"member"}`).problem(409, "last_admin")
		root.patch("/api/v1/users/"+root.id, `{"isActive":false}`).problem(409, "last_admin")
		ts.unchanged(before, "the last admin")
	})
	ts.run("nor the last two at once", func(t *testing.T) {
		for i, body := range []string{`{"role":"member"}`, `{"isActive":false}`, `{"role":"manager"}`, `{"isActive":false}`} {
			rival := ts.withRole("Rival", globalAdmin)
			if answers := atOnce(2, func(i int) *answer {
				by, on := root, rival
				if i == 1 {
					by, on = rival, root
				}
				return (&client{s: ts, token: by.token}).patch("/api/v1/users/"+on.id, body)
			}); statuses(answers)[200] != 1 {
				t.Fatalf("round %d: got %v, want one 200", i, statuses(answers))
			}
			admins, err := queryAll[struct{ Email string }](t.Context(), ts.db, `SELECT email FROM users WHERE role = 'admin' AND is_active`)
			if err != nil || len(admins) != 1 {
				t.Fatalf("round %d: got %v, %v, want one admin", i, admins, err)
			}
			if admins[0].Email == rival.email {
				root = rival
			}
		}
	})
}
