package main

import (
	"encoding/json"
	"net/http"
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
		ada.with("X-Forwarded-Proto", "https").with("X-Forwarded-Proto", "http").get("/api/v1/me").problem(403, "https_required") // the first is the client's own
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
