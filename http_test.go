package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestHandlersThatFail(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ts.http.Config.Handler = ts.front(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		half := func() {
			w.Header().Set("Content-Length", "100")
			w.Write([]byte(`{"half":`))
		}
		switch r.URL.Path {
		case "/panic":
			panic("with detail: hunter2")
		case "/error":
			ts.fail(w, r, errors.New("with detail: hunter2"))
		case "/half-panic":
			half()
			http.NewResponseController(w).Flush()
			panic("late")
		case "/half-error":
			half()
			ts.fail(w, r, errors.New("late"))
		case "/abort":
			half()
			panic(http.ErrAbortHandler)
		}
	}))
	defer ts.log.reset() // it has the panics that no other test may have

	for _, path := range []string{"/panic", "/error"} {
		t.Run("answer 500 with nothing of the cause: "+path, func(t *testing.T) {
			resp, err := testHTTP.Get(ts.http.URL + path)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			checkHeaders(t, path, resp.Header)
			id := resp.Header.Get("X-Request-Id")
			(&answer{t, path, resp.StatusCode, resp.Header, body}).problem(500, "internal")
			if strings.Contains(string(body), "hunter2") || strings.Contains(string(body), "goroutine") {
				t.Errorf("the answer tells the cause: %s", body)
			}
			if lines := ts.log.grep(id); !strings.Contains(lines, "hunter2") || !strings.Contains(lines, `"level":"ERROR"`) || strings.Count(lines, `"msg":"request"`) != 1 {
				t.Errorf("the log does not tell the cause: %s", lines)
			}
		})
	}
	for _, path := range []string{"/half-panic", "/half-error", "/abort"} {
		t.Run("break the connection when the answer has begun: "+path, func(t *testing.T) {
			resp, err := testHTTP.Get(ts.http.URL + path)
			if err != nil {
				return // nothing of it had been sent yet
			}
			defer resp.Body.Close()
			if body, err := io.ReadAll(resp.Body); err == nil {
				t.Errorf("half an answer looks whole: %s", body)
			}
		})
	}
}

func (l *lockedBuffer) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

func TestRequestsAreLoggedOnce(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ada := ts.signUp("Ada")
	for _, test := range []struct {
		method, path, logged, route, user string
		status                            int
	}{
		{"GET", "/api/v1/me", "/api/v1/me", "GET /api/v1/me", ada.id, 200},
		{"GET", "/api/v1/tasks?search=secret", "/api/v1/tasks", "GET /api/v1/tasks", ada.id, 200},
		{"GET", "/nowhere%0A%22,%22forged%22:%22%FF", "/nowhere\n\",\"forged\":\"\ufffd", "", "", 404},
		{"POST", "/api/v1/me", "/api/v1/me", "", "", 405},
	} {
		id := newUUID().String()
		ada.with("X-Request-Id", id).do(test.method, test.path, "").want(test.status)
		var got struct {
			Method, Path, Route, User, IP, RequestID string
			Status                                   int
			Bytes                                    int
			Ms                                       float64
		}
		lines := ts.log.grep(id)
		if err := json.Unmarshal([]byte(lines), &got); err != nil {
			t.Fatalf("%v in %s", err, lines)
		}
		if got.Method != test.method || got.Path != test.logged || got.Route != test.route || got.User != test.user || got.Status != test.status || got.IP != "127.0.0.1" || got.Bytes == 0 || got.Ms <= 0 || got.Ms > 30_000 {
			t.Errorf("got %s, want %+v", lines, test)
		}
	}
	if strings.Contains(ts.log.String(), "search=secret") {
		t.Error("the log has a query")
	}
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	c := newTestServer(t).anonymous()
	for _, id := range []string{"a", "0192f0c1-2345-7abc-8def-0123456789ab", strings.Repeat("x", 64), "A-1"} {
		c.with("X-Request-Id", id).get("/nowhere").problem(404, "not_found").is("requestId", id)
	}
	for _, id := range []string{"", " ", strings.Repeat("x", 65), "a b", "a_b", `a","level":"ERROR`, "é", "a,b", "../a"} {
		got := c.with("X-Request-Id", id).get("/nowhere").problem(404, "not_found").header.Get("X-Request-Id")
		if _, err := parseUUID(got); err != nil {
			t.Errorf("%q: got %q, want a new one", id, got)
		}
	}
	first := c.with("X-Request-Id", "one").with("X-Request-Id", "two").get("/nowhere").header.Get("X-Request-Id")
	if first != "one" {
		t.Errorf("two ids: got %s", first)
	}
}

func TestStoppingServersSendTheirClientsElsewhere(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	c := ts.signUp("Ada")
	ts.stopping.Store(true)
	resp, err := testHTTP.Get(ts.http.URL + "/ready")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if !resp.Close || resp.StatusCode != 503 {
		t.Errorf("got %d, closing %v; want 503 and an end of the connection", resp.StatusCode, resp.Close)
	}
	c.get("/ready").want(503).is("status", "stopping").is("checks.database", "ok")
	c.get("/api/v1/me").want(200)
	c.get("/health").want(200)
}

// pagesOf reads a list page by page and returns the values of one field.
func (c *client) pagesOf(path string, limit int, field string) (values []string) {
	c.s.t.Helper()
	for next := fmt.Sprintf("%s&limit=%d", path, limit); ; {
		page := c.get(next).want(200)
		list := page.strs(field)
		values = append(values, list...)
		link := page.header.Get("Link")
		if page.at("next") == nil {
			if link != "" {
				c.s.t.Errorf("the last page of %s links to %s", path, link)
			}
			return values
		}
		next = strings.TrimSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`)
		if len(list) != limit || !strings.Contains(next, "cursor="+page.str("next")) {
			c.s.t.Fatalf("%s: got %d of %d and Link %s", path, len(list), limit, link)
		}
	}
}

func TestCursors(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	for i := range 7 {
		sc.owner.task(sc.project, fmt.Sprintf("Same title %d", i/3), `"priority":"high"`)
	}
	for range 3 {
		sc.owner.signIn()
		sc.owner.project("Another")
		invite(sc.owner, sc.project, fmt.Sprintf("nobody%d@example.org", accounts.Add(1)))
	}
	lists := map[string]string{ // with the field that tells rows apart
		"/api/v1/tasks?sort=title": "id", "/api/v1/tasks?sort=-priority": "id", "/api/v1/tasks?search=same": "id", "/api/v1/tasks?sort=-number": "id", "/api/v1/tasks?sort=dueDate": "id",
		"/api/v1/projects?sort=name": "id", "/api/v1/projects?sort=-createdAt": "id", "/api/v1/me/sessions?": "id", "/api/v1/users?": "id", "/api/v1/projects/" + sc.project + "/members?": "user",
		"/api/v1/projects/" + sc.project + "/activity?": "seq", "/api/v1/projects/" + sc.project + "/invitations?": "id",
	}

	sc.run("lead through a whole list, each row once, whatever the size of the pages", func(t *testing.T) {
		for path, field := range lists {
			whole := sc.owner.pagesOf(path, 100, field)
			sorted := slices.Clone(whole)
			slices.Sort(sorted)
			if len(slices.Compact(sorted)) != len(whole) || len(whole) < 3 {
				t.Errorf("%s: got %v", path, whole)
			}
			for _, limit := range []int{1, 2, len(whole) - 1, len(whole)} {
				if got := sc.owner.pagesOf(path, limit, field); !slices.Equal(got, whole) {
					t.Errorf("%s in pages of %d: got %v, want %v", path, limit, got, whole)
				}
			}
			sc.owner.get(path+"&total=true&limit=1").want(200).is("total", len(whole))
			first := sc.owner.get(path + "&limit=1").want(200).str("next")
			sc.owner.get(path+"&total=true&limit=2&cursor="+first).want(200).is("total", len(whole)) // the size may change on the way
		}
	})
	sc.run("keep their place while rows come and go", func(t *testing.T) {
		const path = "/api/v1/tasks?sort=-number&limit=3"
		page := sc.owner.get(path).want(200)
		sc.owner.task(sc.project, "New")
		sc.owner.delete("/api/v1/tasks/" + page.str("items.2.id")).want(204)
		sc.owner.get(path+"&cursor="+page.str("next")).want(200).is("items.0.number", page.num("items.2.number")-1)
	})
}

func TestPagesForPeople(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	c := ts.anonymous()
	base := "/assets/" + ts.assets.version
	for path, media := range map[string]string{
		"/docs": "text/html; charset=utf-8", base + "/docs/init.js": "text/javascript; charset=utf-8", base + "/docs/swagger-ui.css": "text/css; charset=utf-8", base + "/docs/swagger-ui-bundle.js": "text/javascript; charset=utf-8",
		base + "/docs/favicon-32x32.png": "image/png", "/openapi.yaml": "application/yaml", "/account": "text/html; charset=utf-8", base + "/account/main.js": "text/javascript; charset=utf-8",
	} {
		a := c.get(path).want(200)
		if a.header.Get("Content-Type") != media || len(a.body) < 100 || strings.Contains(a.header.Get("Content-Security-Policy"), "unsafe") {
			t.Errorf("%s: got %d bytes of %s, policy %s", path, len(a.body), a.header.Get("Content-Type"), a.header.Get("Content-Security-Policy"))
		}
	}
	if got := c.get("/").want(302).header.Get("Location"); got != "/docs" {
		t.Errorf("got %s, want /docs", got)
	}
	for code, p := range problemCodes {
		a := c.get("/problems/" + code).want(200)
		if !strings.Contains(string(a.body), p.help) || !strings.HasPrefix(a.header.Get("Content-Type"), "text/plain") {
			t.Errorf("%s is not explained: %s", code, a.body)
		}
	}
}

func TestPasswordsWaitForASlot(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ada := ts.signUp("Ada")
	ts.hashWait = hashingPatience
	for range cap(ts.hashing) {
		ts.hashing <- struct{}{}
	}
	start := time.Now()
	a := ts.anonymous().post(loginPath, jsonOf(credentials{ada.email, testPassword})).problem(503, "unavailable")
	if took := time.Since(start); took < hashingPatience || a.header.Get("Retry-After") == "" {
		t.Errorf("after %v: Retry-After %q", took, a.header.Get("Retry-After"))
	}
	ada.get("/api/v1/me").want(200) // everything else goes on
	time.AfterFunc(200*time.Millisecond, func() { <-ts.hashing })
	ts.anonymous().post(loginPath, jsonOf(credentials{ada.email, testPassword})).want(200)
}
