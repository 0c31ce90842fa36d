package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A page of another site has the user's browser, and what it can make it send.
func TestAttackBrowser(t *testing.T) {
	t.Parallel()
	a := countAttacks(t, 1000)
	a.routesFromElsewhere(t)
	a.origins(t)
	a.markup(t)
	a.ways(t)
	a.headers(t)
}

// app is the origin whose pages may call the API.
const app = "https://app.example.org"

// strangers are origins that are not app, as near to it as can be.
var strangers = []string{
	"https://evil.example", "null", app + ".evil.example", "https://evilapp.example.org", "https://x.app.example.org", "https://example.org", "https://app.example.org.", app + ":8443", app + ":443", "http://app.example.org",
	"https://APP.example.org", "HTTPS://app.example.org", app + "/", app + "?", app + "#", app + "/path", app + "@evil.example", "https://evil.example#" + app, "https://evil.example/?" + app, app + "%60.evil.example", app + "_.evil.example",
	app + " https://evil.example", app + ", https://evil.example", "https://evil.example, " + app, "https://app-example.org", "https://appXexample.org", "https://app.example.orgx", "https://app.example.or", "https://\u0430pp.example.org", "https://app.example\u3002org", "file://", "chrome-extension://abc",
	"http://localhost", "http://127.0.0.1:3000", "http://[::1]:3000", "*", ".", "",
}

// unshared fails the test if an answer tells a browser that a page may read it.
func unshared(t *testing.T, got *answer) {
	t.Helper()
	for name := range got.header {
		if strings.HasPrefix(name, "Access-Control-") || name == "Timing-Allow-Origin" || name == "Cross-Origin-Resource-Policy" && got.header.Get(name) == "cross-origin" {
			t.Errorf("%s got %s: %s", got.what, name, got.header.Get(name))
		}
	}
	if !strings.Contains(strings.Join(got.header.Values("Vary"), ","), "Origin") {
		t.Errorf("%s got Vary %q", got.what, got.header.Values("Vary"))
	}
}

// routesFromElsewhere sends to every route what another site's page can send, none of which has an
// effect, and looks at what the route's own answer lets a browser do.
func (a *attacks) routesFromElsewhere(t *testing.T) {
	sc := newScene(t)
	sc.everyRoute(func(c *client, rt route, method string, good sample) {
		t := sc.t.(*testing.T)
		sc.unrecorded = true
		if method != "GET" {
			for _, headers := range [][]string{
				{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}, {"Origin", "null"},
				{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example", "Referer", sc.http.URL + "/docs"},
			} {
				a.tried++
				for i := 0; i < len(headers); i += 2 {
					c.with(headers[i], headers[i+1])
				}
				unshared(t, c.refused(method, good.path, good.body, 403, "cross_origin"))
			}
		}
		if good.body != "" { // what a form can send, and what a page can without asking first
			for _, media := range []string{"text/plain", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json", "application/json, text/plain", "text/plain; application/json", "application/json;charset=utf-16", "application/jsonx", ""} {
				if isForm(good.body) && strings.HasPrefix(media, "multipart/") {
					continue
				}
				a.tried++
				c.with("Content-Type", media).refused(method, good.path, good.body, 415, "unsupported_media")
			}
		}
		_, path, _ := strings.Cut(rt.pattern, " ")
		if method != "GET" && !slices.ContainsFunc(sc.routes(), func(other route) bool { return other.pattern == "POST "+path }) {
			for _, header := range []string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override"} {
				a.tried++
				c.with(header, method).refused("POST", good.path, good.body, 405, "method_not_allowed")
			}
		}
		for _, asked := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
			a.tried++
			unshared(t, sc.anonymous().with("Origin", "https://evil.example").with("Access-Control-Request-Method", asked).with("Access-Control-Request-Headers", "authorization").do("OPTIONS", good.path, "").want(405))
		}
		if method == "GET" {
			a.tried++
			got := c.with("Origin", "https://evil.example").with("Sec-Fetch-Site", "cross-site").get(good.path)
			here := strings.HasPrefix(good.path, "/dev/") // only for who is at the machine, and no page of another site
			if unshared(t, got); here != (got.status == 404) || !here && got.status >= 400 {
				t.Errorf("%s: got %d", got.what, got.status)
			}
			private := strings.HasPrefix(good.path, "/api/")
			if cached := got.header.Get("Cache-Control"); private && cached != "no-store" && cached != "private, no-cache" {
				t.Errorf("%s may be stored: %s", got.what, cached)
			}
			media, page := got.header.Get("Content-Type"), got.status == 200 && strings.HasPrefix(got.header.Get("Content-Type"), "text/html")
			file := strings.HasPrefix(got.header.Get("Content-Disposition"), "attachment") // to be kept, and no page whatever it is
			if file && !strings.HasPrefix(got.header.Get("Content-Security-Policy"), "sandbox; default-src 'none'") && media != "application/json" {
				t.Errorf("%s is a file by the policy %s", got.what, got.header.Get("Content-Security-Policy"))
			}
			stream := media == "text/event-stream" // no type of a script, which nosniff asks for
			if private && !file && !stream && media != "application/json" || page && !slices.Contains([]string{pagePolicy, plainPolicy}, got.header.Get("Content-Security-Policy")) {
				t.Errorf("%s is %s by the policy %s", got.what, media, got.header.Get("Content-Security-Policy"))
			}
			if private && !file && !stream && (len(got.body) == 0 || got.body[0] != '{') {
				t.Errorf("%s is a script too: %.40s", got.what, got.body)
			}
			if got.header.Get("Set-Cookie") != "" || page && inlined.Match(got.body) {
				t.Errorf("%s has %v and %s", got.what, got.header["Set-Cookie"], inlined.Find(got.body))
			}
			if private {
				c.refused("GET", good.path+map[bool]string{true: "&", false: "?"}[strings.Contains(good.path, "?")]+"callback=alert", "", 400, "bad_parameter")
			}
		}
	})
}

// inlined is what a page must not have where its policy forbids scripts inside it, or anything from elsewhere.
var inlined = regexp.MustCompile(`(?i)<style|\sstyle=|\son\w+=|<script(>| [^>]*>[^<])|javascript:|<base|<iframe|<object|(src|href|action)="?(https?:)?//`)

// origins is about pages that read, and pages that write.
func (a *attacks) origins(t *testing.T) {
	ts := newTestServer(t, "CORS_ORIGINS="+app+",http://localhost:3000", "PUBLIC_URL=http://tasks.example.org")
	ts.unrecorded = true
	ada := ts.signUp("Ada")
	project := ada.project("Open")
	host := strings.TrimPrefix(ts.http.URL, "http://")

	for _, origin := range strangers {
		a.run(ts, "reading from the origin "+origin, func(t *testing.T) {
			for _, got := range []*answer{
				ada.with("Origin", origin).get("/api/v1/me").want(200),
				ada.with("Origin", origin).get("/api/v1/projects/" + project).want(200),
				ada.with("Origin", origin).get("/nowhere").want(404),
				ts.anonymous().with("Origin", origin).get("/api/v1/me").want(401),
				ts.anonymous().with("Origin", origin).get("/openapi.yaml").want(200),
				ts.anonymous().with("Origin", origin).with("Access-Control-Request-Method", "GET").do("OPTIONS", "/api/v1/me", "").want(405),
				ts.anonymous().with("Origin", origin).with("Access-Control-Request-Method", "PATCH").with("Access-Control-Request-Private-Network", "true").do("OPTIONS", "/api/v1/me", "").want(405),
			} {
				unshared(t, got)
			}
		})
	}
	for name, two := range map[string][2]string{"the good one first": {app, "https://evil.example"}, "the good one last": {"https://evil.example", app}, "twice the good one": {app, app}} {
		a.run(ts, "reading from two origins, "+name, func(t *testing.T) {
			unshared(t, ada.with("Origin", two[0]).with("Origin", two[1]).get("/api/v1/me").want(200))
		})
	}
	a.run(ts, "reading with the user's cookies from an origin that is allowed", func(t *testing.T) {
		for _, origin := range []string{app, "http://localhost:3000"} {
			for _, got := range []*answer{
				ada.with("Origin", origin).get("/api/v1/me").want(200),
				ada.with("Origin", origin).with("Sec-Fetch-Site", "cross-site").post("/api/v1/projects", `{"name":"From a page"}`).want(201),
				ada.with("Origin", origin).post("/api/v1/projects", "{").want(400),
				ada.with("Origin", origin).get("/nowhere").want(404),
				ts.anonymous().with("Origin", origin).with("Cookie", "token="+ada.token).get("/api/v1/me").want(401),
			} {
				if got.header.Get("Access-Control-Allow-Origin") != origin || !strings.Contains(got.header.Get("Access-Control-Expose-Headers"), "Retry-After") ||
					got.header.Get("Access-Control-Allow-Credentials") != "" || got.header.Get("Vary") != "Origin" {
					t.Errorf("%s: got %v", got.what, got.header)
				}
			}
		}
	})
	for _, path := range []string{"/api/v1/me", "/api/v1/tasks/bulk", "/nowhere"} {
		a.run(ts, "asking for more than the API takes at "+path, func(t *testing.T) {
			got := ts.anonymous().with("Origin", app).with("Access-Control-Request-Method", "TRACE").with("Access-Control-Request-Headers", "authorization,cookie,x-anything,host").do("OPTIONS", path, "").want(204)
			for name, want := range map[string]string{
				"Access-Control-Allow-Origin": app, "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE", "Access-Control-Max-Age": "7200", "Access-Control-Allow-Credentials": "", "Access-Control-Allow-Private-Network": "",
				"Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, Traceparent, X-Request-Id",
			} {
				if got := got.header.Get(name); got != want {
					t.Errorf("%s: got %q, want %q", name, got, want)
				}
			}
			if vary := strings.Join(got.header.Values("Vary"), ", "); vary != "Origin, Access-Control-Request-Method, Access-Control-Request-Headers" || len(got.body) != 0 {
				t.Errorf("got Vary %s and %s", vary, got.body)
			}
			ts.anonymous().with("Origin", app).do("OPTIONS", "/api/v1/me", "").want(405) // no preflight
		})
	}
	for i, headers := range []map[string]string{
		{"Sec-Fetch-Site": "cross-site"},
		{"Sec-Fetch-Site": "same-site"},
		{"Sec-Fetch-Site": "anything"},
		{"Sec-Fetch-Site": "Same-Origin"},
		{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Sec-Fetch-User": "?1"},
		{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
		{"Sec-Fetch-Site": "cross-site", "Origin": "http://" + host},
		{"Sec-Fetch-Site": "same-site", "Origin": "https://other.example.org"},
		{"Sec-Fetch-Site": "cross-site", "Origin": "null"},
		{"Origin": "https://evil.example"},
		{"Origin": "null"},
		{"Origin": "http://" + host + ".evil.example"},
		{"Origin": "http://" + host + "@evil.example"},
		{"Origin": "https://app.example.org:444"},
		{"Origin": "http://tasks.example.org.evil.example"},
		{"Origin": "http://evil.example", "X-Forwarded-Host": "evil.example"},
		{"Origin": "http://evil.example", "Referer": "http://" + host + "/docs"},
	} {
		a.run(ts, fmt.Sprintf("writing as another site's page does: %d", i), func(t *testing.T) {
			before := ts.state()
			for method, path := range map[string]string{"POST": "/api/v1/projects", "PATCH": "/api/v1/me", "PUT": "/api/v1/me/password", "DELETE": "/api/v1/me/sessions"} {
				for name, value := range headers {
					ada.with(name, value)
				}
				unshared(t, ada.do(method, path, `{"name":"Forged","firstName":"Forged"}`).problem(403, "cross_origin"))
			}
			ts.unchanged(before, "another site's write")
		})
	}
	for i, headers := range []map[string]string{
		{},
		{"Sec-Fetch-Site": "same-origin"},
		{"Sec-Fetch-Site": "none"},
		{"Sec-Fetch-Site": "cross-site", "Origin": app},
		{"Sec-Fetch-Site": "same-site", "Origin": "http://tasks.example.org"},
		{"Origin": "http://" + host},
		{"Origin": "http://tasks.example.org"}, // a proxy may ask under another name
	} {
		for name, value := range headers {
			ada.with(name, value)
		}
		ada.post("/api/v1/projects", fmt.Sprintf(`{"name":"Meant %d"}`, i)).want(201)
	}
	ada.with("Sec-Fetch-Site", "cross-site").with("Origin", "https://evil.example").get("/api/v1/me").want(200) // reading it is up to the browser
	ada.with("Sec-Fetch-Site", "cross-site").get("/docs").want(200)                                             // a link
}

// markup is about texts that a browser would run, were they sent as anything that it runs.
func (a *attacks) markup(t *testing.T) {
	ts := newTestServer(t)
	ts.unrecorded = true
	ada := ts.signUp("Ada")
	for name, text := range map[string]string{
		"a script":         `<script>alert(1)</script>`,
		"an image":         `"><img src=x onerror=alert(1)>`,
		"a link":           `<a href="javascript:alert(1)">x`,
		"an SVG":           `<svg/onload=alert(1)>`,
		"a closing script": `</script><script>alert(1)//`,
		"a template":       `{{constructor.constructor('alert(1)')()}}`,
		"line separators":  "x\u2028alert(1)\u2029x",
	} {
		a.run(ts, "in names: "+name, func(t *testing.T) {
			short := text[:min(len(text), 50)]
			ada.patch("/api/v1/me", jsonOf(map[string]string{"firstName": short})).want(200)
			project := ada.post("/api/v1/projects", jsonOf(map[string]string{"name": "P " + text, "description": text})).want(201).str("id")
			task := ada.post("/api/v1/tasks", jsonOf(map[string]any{"projectId": project, "title": text, "description": text, "labels": []string{strings.ReplaceAll(short, ",", "")}})).want(201)
			for _, path := range []string{
				"/api/v1/me", "/api/v1/projects", "/api/v1/projects/" + project, "/api/v1/projects/" + project + "/activity", "/api/v1/projects/" + project + "/members", "/api/v1/tasks/" + task.str("id"),
				"/api/v1/tasks/" + task.str("id") + "?expand=assignee,creator,project", "/api/v1/tasks?projectId=" + project, "/api/v1/tasks?expand=creator", "/api/v1/tasks/" + task.str("id") + "/activity", "/api/v1/users", exportPath,
			} {
				for _, accept := range []string{"*/*", "text/html,application/xhtml+xml", "text/html"} {
					got := ada.with("Accept", accept).get(path).want(200)
					if media := got.header.Get("Content-Type"); media != "application/json" || got.header.Get("X-Content-Type-Options") != "nosniff" || !strings.HasPrefix(got.header.Get("Content-Security-Policy"), "default-src 'none'") {
						t.Errorf("%s is %s by %v", path, media, got.header)
					}
				}
			}
			ada.get("/api/v1/tasks/"+task.str("id")).want(200).is("title", text) // kept as it is; showing it is the page's work
		})
	}
	for name, send := range map[string]func(text string) *answer{
		"a path":        func(text string) *answer { return ada.get("/" + text) },
		"a code's path": func(text string) *answer { return ts.anonymous().get("/problems/" + text) },
		"a parameter":   func(text string) *answer { return ada.get("/api/v1/tasks?status=" + text) },
		"its name":      func(text string) *answer { return ada.get("/api/v1/tasks?" + text + "=1") },
		"a page's file": func(text string) *answer { return ts.anonymous().get("/assets/1/docs/" + text) },
		"an id":         func(text string) *answer { return ada.get("/api/v1/tasks/" + text) },
	} {
		a.run(ts, "repeated from "+name, func(t *testing.T) {
			for _, text := range []string{"%3Cscript%3Ealert(1)%3C%2Fscript%3E", "%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E", "x%0d%0aSet-Cookie:%20a=1", "%0d%0a%0d%0a%3Chtml%3E", "%E2%80%AE"} {
				got := send(text)
				if got.status < 400 || got.header.Get("Content-Type") != "application/problem+json" || got.header.Get("Set-Cookie") != "" || strings.Contains(string(got.body), "<script") || strings.Contains(string(got.body), "<img") {
					t.Errorf("got %d %v %s", got.status, got.header, got.body)
				}
			}
		})
	}
}

// ways is about ways to lead a browser, or its user, elsewhere.
func (a *attacks) ways(t *testing.T) {
	ts, ms := newMailedServer(t)
	ts.unrecorded = true
	ada := ts.signUp("Ada")
	ts.lastMail(ms, ada.email, 1)
	project := ada.project("Open")

	for _, path := range []string{"//evil.example", "//evil.example/..", "///evil.example", "/\\evil.example", "/%5Cevil.example", "/%2F%2Fevil.example", "/%2Fevil.example", "/docs//evil.example", "/docs/..//evil.example", "/.evil.example", "/?next=//evil.example", "/?url=https://evil.example", "/docs/", "/api", "/api/v1/", "/account/", "/admin", "/;//evil.example", "/%09/evil.example", "/@evil.example"} {
		a.run(ts, "a redirect by "+path, func(t *testing.T) {
			for _, method := range []string{"GET", "HEAD", "POST"} {
				got := ts.anonymous().do(method, path, "")
				if to := got.header.Get("Location"); to != "" && to != "/docs" || got.status/100 == 3 && to != "/docs" {
					t.Errorf("%s: got %d to %q", method, got.status, to)
				}
			}
		})
	}
	for name, headers := range map[string][]string{
		"the Host":              {"Host", "evil.example"},
		"the Host with a port":  {"Host", "taskflow.test:evil.example"},
		"a forwarded host":      {"X-Forwarded-Host", "evil.example"},
		"a forwarded server":    {"X-Forwarded-Server", "evil.example", "X-Host", "evil.example", "X-Original-Host", "evil.example"},
		"Forwarded":             {"Forwarded", "host=evil.example;proto=https"},
		"a forwarded prefix":    {"X-Forwarded-Prefix", "//evil.example", "X-Forwarded-Port", "666", "X-Forwarded-Scheme", "gopher"},
		"the origin of a page":  {"Referer", "https://evil.example/"},
		"an address as a query": {"X-Original-Url", "//evil.example", "X-Rewrite-Url", "//evil.example"},
	} {
		a.run(ts, "links in mails and answers by "+name, func(t *testing.T) {
			bob := ts.signUp("Bob")
			send := func(method, path, token, body string) *http.Response {
				req, err := http.NewRequestWithContext(t.Context(), method, ts.http.URL+path, strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Content-Type", "application/json")
				req.Header.Set("Authorization", "Bearer "+token)
				for i := 0; i < len(headers); i += 2 {
					req.Header.Set(headers[i], headers[i+1])
					if headers[i] == "Host" {
						req.Host = headers[i+1]
					}
				}
				resp, err := testHTTP.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				return resp
			}
			forgot := send("POST", forgotPath, "", jsonOf(forgotten{bob.email}))
			if forgot.StatusCode == 400 && name == "the Host with a port" {
				return // it is no host
			}
			if forgot.StatusCode != 202 {
				t.Fatalf("got %d", forgot.StatusCode)
			}
			if m := ts.lastMail(ms, bob.email, 2); !strings.HasPrefix(m.link, "http://taskflow.test/account#reset=") || strings.Contains(m.text+m.html, "evil") {
				t.Errorf("got %+v", m)
			}
			made := send("POST", "/api/v1/tasks", ada.token, `{"projectId":"`+project+`","title":"Made"}`)
			listed := send("GET", "/api/v1/tasks?limit=1&projectId="+project, ada.token, "")
			root := send("GET", "/", "", "")
			for _, got := range []string{made.Header.Get("Location"), listed.Header.Get("Link"), root.Header.Get("Location")} {
				if strings.Contains(got, "evil") || strings.Contains(got, "//") {
					t.Errorf("a link to %s", got)
				}
			}
			if !strings.HasPrefix(made.Header.Get("Location"), "/api/v1/tasks/") || root.Header.Get("Location") != "/docs" {
				t.Errorf("got %v and %v", made.Header, root.Header)
			}
		})
	}
	a.run(ts, "links to elsewhere in what users are called", func(t *testing.T) {
		eve := ts.signUp("Eve")
		eve.patch("/api/v1/me", `{"firstName":"http://evil.example","lastName":"<a href=//evil.example>x</a>"}`).want(200)
		p := eve.post("/api/v1/projects", `{"name":"Click https://evil.example/now"}`).want(201).str("id")
		invite(eve, p, "target@example.org")
		if m := ts.lastMail(ms, "target@example.org", 1); strings.Contains(m.text+m.html+m.subject, "evil.example") || strings.Contains(m.html, "<a href=//") {
			t.Errorf("got %+v", m)
		}
		ada.patch("/api/v1/me", `{"avatarUrl":"javascript:alert(1)"}`).problem(422, "validation_failed").field("avatarUrl", "invalid_url")
		for _, address := range []string{"data:text/html,x", "http://example.org/a", "//evil.example/a", "https:evil.example", "https:///a", "https://user@example.org/", "ftp://example.org/", "\tjavascript:alert(1)", "https://"} {
			ada.patch("/api/v1/me", jsonOf(map[string]string{"avatarUrl": address})).problem(422, "validation_failed").field("avatarUrl", "invalid_url")
		}
	})
	a.run(ts, "TRACE, to have headers repeated", func(t *testing.T) {
		for _, path := range []string{"/", "/health", "/api/v1/me"} {
			if got := ada.do("TRACE", path, ""); got.status != 405 || strings.Contains(string(got.body), ada.token) {
				t.Errorf("got %d %s", got.status, got.body)
			}
		}
	})
	a.run(ts, "methods in parameters and fields", func(t *testing.T) {
		task := ada.task(project, "Kept")
		before := ts.state()
		for _, path := range []string{"?_method=DELETE", "?method=DELETE", "?X-HTTP-Method-Override=DELETE"} {
			ada.post("/api/v1/tasks/"+task+path, "").problem(405, "method_not_allowed")
			ada.get("/api/v1/tasks/"+task+path).problem(400, "bad_parameter")
			ada.patch("/api/v1/tasks/"+task+path, `{"title":"Changed"}`).problem(400, "bad_parameter")
		}
		ada.patch("/api/v1/tasks/"+task, `{"_method":"DELETE"}`).problem(422, "validation_failed").field("_method", "unknown_field")
		ts.unchanged(before, "a method elsewhere than where it stands")
	})
}

// headers is about what every kind of answer tells a browser not to do.
func (a *attacks) headers(t *testing.T) {
	ts := newTestServer(t, "TRUSTED_PROXIES=127.0.0.1", "PUBLIC_URL=https://tasks.example.org", "RATE_LIMIT=100/24h", "CORS_ORIGINS="+app)
	ts.unrecorded = true
	ada := ts.signUp("Ada")
	tag := ada.get("/api/v1/me").want(200).header.Get("ETag")
	var seen []int
	check := func(status int, method, path, body string, headers ...string) {
		t.Helper()
		a.run(ts, fmt.Sprintf("framing, sniffing and scripts in %d of %s %s", status, method, path), func(t *testing.T) {
			ada.with("X-Forwarded-Proto", "https")
			for i := 0; i < len(headers); i += 2 {
				ada.with(headers[i], headers[i+1])
			}
			got := ada.do(method, path, body).want(status) // do checks the headers that every answer has
			if got.header.Get("Strict-Transport-Security") == "" || !strings.Contains(strings.Join(got.header.Values("Vary"), ","), "Origin") || got.header.Get("Set-Cookie") != "" {
				t.Errorf("%s answers %d with %v", got.what, status, got.header)
			}
			if csp := got.header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
				t.Errorf("%s answers %d with the policy %s", got.what, status, csp)
			}
			for _, name := range []string{"Server", "X-Powered-By", "Refresh", "Public-Key-Pins"} {
				if value := got.header.Get(name); value != "" {
					t.Errorf("%s answers %d with %s: %s", got.what, status, name, value)
				}
			}
			seen = append(seen, status)
		})
	}
	for _, path := range []string{"/docs", "/docs/init.js", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/docs/favicon-32x32.png", "/account", "/account/main.js", "/admin/queues", "/admin/queues/main.js", "/admin/queues/icon.svg", "/openapi.yaml", "/problems/not_found", "/health", "/ready", "/api/v1/me"} {
		check(200, "GET", path, "")
		check(200, "HEAD", path, "")
	}
	check(302, "GET", "/", "")
	check(304, "GET", "/api/v1/me", "", "If-None-Match", tag)
	check(201, "POST", "/api/v1/projects", `{"name":"Made"}`)
	check(204, "DELETE", "/api/v1/me/sessions", "")
	check(204, "OPTIONS", "/api/v1/me", "", "Origin", app, "Access-Control-Request-Method", "GET")
	check(400, "GET", "/api/v1/me?x=1", "")
	check(400, "PATCH", "/api/v1/me", "{")
	check(403, "POST", "/api/v1/projects", "{}", "Sec-Fetch-Site", "cross-site")
	check(404, "GET", "/nowhere", "")
	check(404, "GET", "/api//v1/me", "")
	check(404, "GET", "/docs/nothing", "")
	check(405, "OPTIONS", "/api/v1/me", "")
	check(405, "TRACE", "/health", "")
	check(409, "POST", registerPath, registration(ada.email))
	check(412, "PATCH", "/api/v1/me", "{}", "If-Match", `"99"`)
	check(413, "PATCH", "/api/v1/me", strings.Repeat(" ", maxBody+1))
	check(415, "PATCH", "/api/v1/me", "{}", "Content-Type", "text/plain")
	check(422, "PATCH", "/api/v1/me", `{"x":1}`)
	check(501, "POST", forgotPath, jsonOf(forgotten{ada.email}))
	for ada.get("/api/v1/me").status == 200 {
	}
	check(429, "GET", "/api/v1/me", "")
	ada.token = "bad"
	check(401, "GET", "/api/v1/me", "")
	ts.stopping.Store(true)
	check(503, "GET", "/ready", "")
	a.run(ts, "framing, sniffing and scripts in a 500", func(t *testing.T) {
		resp, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/api/v1/me", nil)
		r.RemoteAddr = "127.0.0.1:1"
		r.Header.Set("X-Forwarded-Proto", "https")
		ts.front(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("on purpose") })).ServeHTTP(resp, r)
		checkHeaders(t, "a panic", resp.Header())
		if resp.Code != 500 || resp.Header().Get("Strict-Transport-Security") == "" || strings.Contains(resp.Body.String(), "purpose") {
			t.Errorf("a panic answers %d with %v %s", resp.Code, resp.Header(), resp.Body)
		}
		ts.log.reset() // it has the panic that no other test may have
	})
	for _, status := range []int{200, 201, 204, 302, 304, 400, 401, 403, 404, 405, 409, 412, 413, 415, 422, 429, 501, 503} {
		if !slices.Contains(seen, status) && !t.Failed() {
			t.Errorf("no answer was %d", status)
		}
	}
}
