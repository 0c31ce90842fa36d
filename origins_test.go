package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// loggedAddr is where the server thinks that a request with these headers came from.
func (c *client) loggedAddr(headers ...string) string {
	c.s.t.Helper()
	id := newUUID().String()
	c.with("X-Request-Id", id)
	for i := 0; i < len(headers); i += 2 {
		c.with(headers[i], headers[i+1])
	}
	c.get("/health").want(200)
	var line struct{ IP string }
	if err := json.Unmarshal([]byte(c.s.log.grep(id)), &line); err != nil {
		c.s.t.Fatal(err)
	}
	return line.IP
}

func TestWhereRequestsComeFrom(t *testing.T) {
	t.Parallel()
	t.Run("is the rightmost address that no trusted proxy has", func(t *testing.T) {
		c := newTestServer(t, "TRUSTED_PROXIES=127.0.0.0/8,10.0.0.0/8,2001:db8:ff::/48").anonymous()
		for list, want := range map[string]string{
			"192.0.2.1":                                 "192.0.2.1",
			"6.6.6.6, 192.0.2.1":                        "192.0.2.1",
			"6.6.6.6, 192.0.2.1, 10.0.0.1":              "192.0.2.1",
			"6.6.6.6,192.0.2.1,10.0.0.1,2001:db8:ff::2": "192.0.2.1",
			"10.0.0.2, 10.0.0.1":                        "10.0.0.2",
			"2001:db8::1":                               "2001:db8::1",
			"2001:DB8:0:0:0:0:0:1":                      "2001:db8::1",
			"::ffff:192.0.2.1":                          "192.0.2.1",
			"::ffff:10.0.0.1":                           "10.0.0.1",
			" \t192.0.2.1\t ":                           "192.0.2.1",
			"":                                          "127.0.0.1",
			"192.0.2.1,":                                "127.0.0.1", // the proxy wrote nothing
			"192.0.2.1, unknown":                        "127.0.0.1",
			"192.0.2.1, _hidden, 10.0.0.1":              "10.0.0.1",
			"192.0.2.1:4711":                            "127.0.0.1",
			"[2001:db8::1]":                             "127.0.0.1",
			"fe80::1%eth0":                              "127.0.0.1",
			"192.0.2.01":                                "127.0.0.1",
			"3221225985":                                "127.0.0.1",
			"192.0.2.1; for=6.6.6.6":                    "127.0.0.1",
			"localhost":                                 "127.0.0.1",
			"192.0.2.1 10.0.0.1":                        "127.0.0.1",
			"192.0.2.1," + strings.Repeat("10.0.0.1,", 19) + "10.0.0.2": "10.0.0.1", // no farther than 20 proxies
			strings.Repeat("10.0.0.1,", 1000) + "192.0.2.1":             "192.0.2.1",
		} {
			if got := c.loggedAddr("X-Forwarded-For", list); got != want {
				t.Errorf("%.60s: got %s, want %s", list, got, want)
			}
		}
		if got := c.loggedAddr("X-Forwarded-For", "6.6.6.6", "X-Forwarded-For", "192.0.2.1", "X-Forwarded-For", "10.0.0.1"); got != "192.0.2.1" {
			t.Errorf("several headers: got %s", got)
		}
		if got := c.loggedAddr(); got != "127.0.0.1" {
			t.Errorf("no header: got %s", got)
		}
	})
	t.Run("is the peer where no proxy is trusted", func(t *testing.T) {
		for _, proxies := range []string{"", "10.0.0.0/8,127.0.0.2"} {
			c := newTestServer(t, "TRUSTED_PROXIES="+proxies).anonymous()
			for _, name := range []string{"X-Forwarded-For", "Forwarded", "X-Real-IP", "True-Client-IP", "CF-Connecting-IP", "X-Client-IP"} {
				if got := c.loggedAddr(name, "192.0.2.1"); got != "127.0.0.1" {
					t.Errorf("%s from who is not trusted: got %s", name, got)
				}
			}
		}
	})
	t.Run("is what a session shows", func(t *testing.T) {
		ts := newTestServer(t, "TRUSTED_PROXIES=127.0.0.1")
		ada := ts.signUp("Ada")
		ts.signInFrom("2001:db8::1", ada.email, testPassword).want(200)
		ada.get("/api/v1/me/sessions").want(200).is("items.0.ip", "2001:db8::1").is("items.1.ip", "127.0.0.1")
	})
}

// from makes every request come from an address.
func (ts *testServer) from(addr string) {
	inner := ts.http.Config.Handler
	ts.http.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.RemoteAddr = addr + ":4711"
		inner.ServeHTTP(w, r)
	})
}

func TestPlainHTTPIsRefusedWhereTheServiceIsHTTPS(t *testing.T) {
	t.Parallel()
	const hsts = "Strict-Transport-Security"
	secure := func(t *testing.T, env ...string) (*testServer, *client) {
		ts := newTestServer(t, append(env, "PUBLIC_URL=https://tasks.example.org")...)
		ts.unrecorded = true // these answers can be those of any route
		return ts, ts.signUp("Ada")
	}
	t.Run("by what a trusted proxy says of the scheme", func(t *testing.T) {
		ts, ada := secure(t, "TRUSTED_PROXIES=127.0.0.1")
		before := ts.state()
		for proto, https := range map[string]bool{"https": true, "HTTPS": true, "http, https": true, " https ": true, "http": false, "https, http": false, "": false, "wss": false, "httpsx": false, "https,": false} {
			a := ada.with("X-Forwarded-Proto", proto).get("/api/v1/me")
			if https && (a.status != 200 || a.header.Get(hsts) != "max-age=31536000") {
				t.Errorf("%q: got %d, %s %q", proto, a.status, hsts, a.header.Get(hsts))
			}
			if !https {
				a.problem(403, "https_required")
				if a.header.Get(hsts) != "" || a.header.Get("Location") != "" || !strings.Contains(a.str("detail"), "https://tasks.example.org") {
					t.Errorf("%q: got %v %s", proto, a.header, a.body)
				}
			}
		}
		for _, path := range []string{"/docs", "/", "/nowhere", "/openapi.yaml"} {
			ada.with("X-Forwarded-Proto", "http").get(path).problem(403, "https_required")
		}
		ada.with("X-Forwarded-Proto", "http").post(loginPath, jsonOf(credentials{ada.email, testPassword})).problem(403, "https_required")
		ada.with("X-Forwarded-Proto", "http").post("/api/v1/projects", `{"name":"In clear"}`).problem(403, "https_required")
		ada.with("X-Forwarded-Proto", "http").do("OPTIONS", "/api/v1/me", "").problem(403, "https_required")
		ada.with("X-Forwarded-Proto", "http").get("/health").want(200)
		ada.with("X-Forwarded-Proto", "http").get("/ready").want(200)
		ts.unchanged(before, "plain http")
		ada.get("/api/v1/me").want(200) // this machine itself, past the proxy
	})
	t.Run("by the connection where no proxy is trusted", func(t *testing.T) {
		ts, ada := secure(t)
		if a := ada.get("/api/v1/me").want(200); a.header.Get(hsts) != "" {
			t.Errorf("plain http got %s", a.header.Get(hsts))
		}
		ts.from("192.0.2.1")
		ada.get("/api/v1/me").problem(403, "https_required")
		ada.with("X-Forwarded-Proto", "https").get("/api/v1/me").problem(403, "https_required")
		ada.get("/health").want(200)
	})
	t.Run("but not where it is http", func(t *testing.T) {
		ts := newTestServer(t, "TRUSTED_PROXIES=192.0.2.1")
		ada := ts.signUp("Ada")
		ts.from("192.0.2.1")
		ada.with("X-Forwarded-Proto", "http").get("/api/v1/me").want(200)
		if a := ada.with("X-Forwarded-Proto", "https").get("/api/v1/me").want(200); a.header.Get(hsts) == "" {
			t.Error("https without " + hsts)
		}
	})
}

func TestEveryAnswerHasItsHeaders(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t, "TRUSTED_PROXIES=127.0.0.1", "PUBLIC_URL=https://tasks.example.org", "RATE_LIMIT=100/24h", "CORS_ORIGINS=https://app.example.org")
	ts.unrecorded = true
	ada := ts.signUp("Ada")
	tag := ada.get("/api/v1/me").want(200).header.Get("ETag")
	check := func(status int, method, path, body string, headers ...string) {
		t.Helper()
		ada.with("X-Forwarded-Proto", "https")
		for i := 0; i < len(headers); i += 2 {
			ada.with(headers[i], headers[i+1])
		}
		a := ada.do(method, path, body).want(status) // do checks the headers that every answer has
		if a.header.Get("Strict-Transport-Security") == "" || !strings.Contains(strings.Join(a.header.Values("Vary"), ","), "Origin") {
			t.Errorf("%s answers %d with %v", a.what, status, a.header)
		}
		if csp := a.header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s answers %d with the policy %s", a.what, status, csp)
		}
	}
	for _, path := range []string{"/docs", "/docs/init.js", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/docs/favicon-32x32.png", "/admin/queues", "/openapi.yaml", "/problems/not_found", "/health", "/ready", "/api/v1/me"} {
		check(200, "GET", path, "")
		check(200, "HEAD", path, "")
	}
	check(302, "GET", "/", "")
	check(304, "GET", "/api/v1/me", "", "If-None-Match", tag)
	check(201, "POST", "/api/v1/projects", `{"name":"Made"}`)
	check(204, "DELETE", "/api/v1/me/sessions", "")
	check(204, "OPTIONS", "/api/v1/me", "", "Origin", "https://app.example.org", "Access-Control-Request-Method", "GET")
	check(400, "GET", "/api/v1/me?x=1", "")
	check(400, "PATCH", "/api/v1/me", "{")
	check(403, "POST", "/api/v1/projects", "{}", "Sec-Fetch-Site", "cross-site")
	check(404, "GET", "/nowhere", "")
	check(404, "GET", "/api//v1/me", "")
	check(404, "GET", "/docs/nothing", "")
	check(405, "OPTIONS", "/api/v1/me", "")
	check(405, "TRACE", "/health", "")
	check(412, "PATCH", "/api/v1/me", "{}", "If-Match", `"99"`)
	check(413, "PATCH", "/api/v1/me", strings.Repeat(" ", maxBody+1))
	check(415, "PATCH", "/api/v1/me", "{}", "Content-Type", "text/plain")
	check(422, "PATCH", "/api/v1/me", `{"x":1}`)
	for ada.get("/api/v1/me").status == 200 {
	}
	check(429, "GET", "/api/v1/me", "")
	ada.token = "bad"
	check(401, "GET", "/api/v1/me", "")
	ts.stopping.Store(true)
	check(503, "GET", "/ready", "")
	ts.http.Config.Handler = ts.front(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("on purpose") }))
	resp := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/api/v1/me", nil)
	r.RemoteAddr = "127.0.0.1:1"
	r.Header.Set("X-Forwarded-Proto", "https")
	ts.http.Config.Handler.ServeHTTP(resp, r)
	checkHeaders(t, "a panic", resp.Header())
	if resp.Code != 500 || resp.Header().Get("Strict-Transport-Security") == "" {
		t.Errorf("a panic answers %d with %v", resp.Code, resp.Header())
	}
	ts.log.reset() // it has the panic that no other test may have
}

func TestPagesOfOtherOrigins(t *testing.T) {
	t.Parallel()
	const app = "https://app.example.org"
	ts := newTestServer(t, "CORS_ORIGINS="+app+",http://localhost:3000", "RATE_LIMIT=60/24h")
	ts.unrecorded = true
	ada := ts.signUp("Ada")

	ts.run("read what the API answers, good or bad, where they are allowed", func(t *testing.T) {
		for _, origin := range []string{app, "http://localhost:3000"} {
			for _, a := range []*answer{
				ada.with("Origin", origin).get("/api/v1/me").want(200),
				ada.with("Origin", origin).with("Sec-Fetch-Site", "cross-site").post("/api/v1/projects", `{"name":"From a page"}`).want(201),
				ada.with("Origin", origin).post("/api/v1/projects", "{").want(400),
				ada.with("Origin", origin).get("/nowhere").want(404),
				ts.anonymous().with("Origin", origin).get("/api/v1/me").want(401),
			} {
				if a.header.Get("Access-Control-Allow-Origin") != origin || !strings.Contains(a.header.Get("Access-Control-Expose-Headers"), "Retry-After") ||
					a.header.Get("Access-Control-Allow-Credentials") != "" || a.header.Get("Vary") != "Origin" {
					t.Errorf("%s: got %v", a.what, a.header)
				}
			}
		}
	})
	ts.run("ask first, and learn what they may send", func(t *testing.T) {
		for _, path := range []string{"/api/v1/me", "/api/v1/tasks/bulk", "/nowhere"} {
			a := ts.anonymous().with("Origin", app).with("Access-Control-Request-Method", "PATCH").with("Access-Control-Request-Headers", "authorization,content-type").do("OPTIONS", path, "").want(204)
			for name, want := range map[string]string{
				"Access-Control-Allow-Origin": app, "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE", "Access-Control-Max-Age": "7200", "Access-Control-Allow-Credentials": "",
			} {
				if got := a.header.Get(name); got != want {
					t.Errorf("%s: got %q, want %q", name, got, want)
				}
			}
			for _, name := range []string{"Authorization", "Content-Type", "If-Match", "Idempotency-Key"} {
				if !strings.Contains(a.header.Get("Access-Control-Allow-Headers"), name) {
					t.Errorf("%s is not allowed", name)
				}
			}
			if vary := strings.Join(a.header.Values("Vary"), ", "); vary != "Origin, Access-Control-Request-Method, Access-Control-Request-Headers" || len(a.body) != 0 {
				t.Errorf("got Vary %s and %s", vary, a.body)
			}
		}
		ts.anonymous().with("Origin", app).do("OPTIONS", "/api/v1/me", "").want(405) // no preflight
	})
	ts.run("learn nothing where they are not", func(t *testing.T) {
		for _, origin := range []string{"https://evil.example", "null", app + ".evil.example", "https://app.example.org:8443", "http://app.example.org", "https://APP.example.org", app + "/", "https://x.app.example.org", "*", ""} {
			for _, a := range []*answer{
				ada.with("Origin", origin).get("/api/v1/me").want(200),
				ts.anonymous().with("Origin", origin).with("Access-Control-Request-Method", "GET").do("OPTIONS", "/api/v1/me", "").want(405),
			} {
				for name := range a.header {
					if strings.HasPrefix(name, "Access-Control-") {
						t.Errorf("%s: %s got %s", origin, a.what, name)
					}
				}
				if a.header.Get("Vary") != "Origin" {
					t.Errorf("%s: got Vary %s", origin, a.header.Get("Vary"))
				}
			}
		}
		if a := ada.with("Origin", app).with("Origin", "https://evil.example").get("/api/v1/me").want(200); a.header.Get("Access-Control-Allow-Origin") != "" {
			t.Error("two origins are allowed")
		}
	})
	ts.run("also learn of the limit", func(t *testing.T) {
		for ada.get("/api/v1/me").status == 200 {
		}
		if a := ada.with("Origin", app).get("/api/v1/me").want(429); a.header.Get("Access-Control-Allow-Origin") != app {
			t.Errorf("got %v", a.header)
		}
	})
}

func TestWritesOfOtherSites(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t, "CORS_ORIGINS=https://app.example.org", "PUBLIC_URL=http://tasks.example.org")
	ts.unrecorded = true
	ada := ts.signUp("Ada")
	host := strings.TrimPrefix(ts.http.URL, "http://")
	before := ts.state()
	for _, headers := range []map[string]string{
		{"Sec-Fetch-Site": "cross-site"},
		{"Sec-Fetch-Site": "same-site"},
		{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
		{"Sec-Fetch-Site": "same-site", "Origin": "https://other.example.org"},
		{"Sec-Fetch-Site": "anything"},
		{"Origin": "https://evil.example"},
		{"Origin": "null"},
		{"Origin": "http://" + host + ".evil.example"},
		{"Origin": "https://app.example.org:444"},
	} {
		for method, path := range map[string]string{"POST": "/api/v1/projects", "PATCH": "/api/v1/me", "PUT": "/api/v1/me/password", "DELETE": "/api/v1/me/sessions"} {
			for name, value := range headers {
				ada.with(name, value)
			}
			ada.do(method, path, `{"name":"Forged","firstName":"Forged"}`).problem(403, "cross_origin")
		}
	}
	ts.unchanged(before, "another site's write")
	for i, headers := range []map[string]string{
		{},
		{"Sec-Fetch-Site": "same-origin"},
		{"Sec-Fetch-Site": "none"},
		{"Sec-Fetch-Site": "cross-site", "Origin": "https://app.example.org"},
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
