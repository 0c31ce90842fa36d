package main

import (
	"net/url"
	"strings"
	"testing"
)

// refused sends what must be refused and returns the answer, a whole problem with this code.
func (c *client) refused(method, path, body string, status int, code string) *answer {
	c.s.t.Helper()
	a := c.do(method, path, body)
	if method == "HEAD" && a.status == status {
		return a
	}
	if a.status != status || a.str("code") != code {
		c.s.t.Errorf("%.200s: got %d, want %d %s: %.600s", a.what, a.status, status, code, a.body)
		return a
	}
	return a.problem(status, code)
}

// everyRoute calls test with every route's sample, for somebody who may call them all, and makes
// sure that nothing test sent changed anything, and that the sample itself succeeds afterwards.
func (sc *scene) everyRoute(test func(c *client, rt route, method string, good sample)) {
	sc.t.Helper()
	for _, rt := range sc.routes() {
		if rt.who == scrapers {
			continue // who have a token of their own
		}
		method, _, _ := strings.Cut(rt.pattern, " ")
		sc.run(rt.pattern, func(t *testing.T) {
			c := sc.admin.signIn()
			good := samples[rt.pattern](sc, c)
			if good.as != nil {
				c = good.as
			}
			before := sc.state()
			test(c, rt, method, good)
			sc.unchanged(before, "what was refused")
			if a := c.do(method, good.path, good.body); a.status >= 400 {
				t.Errorf("%s: got %d afterwards: %s", a.what, a.status, a.body)
			}
		})
	}
}

func TestBodiesThatAreAccepted(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	c := ts.signUp("Ada")
	for name, body := range map[string]string{
		"spaces around it":        " \r\n\t{ \"firstName\" :\t\"Ada\" } \n",
		"escapes":                 `{"firstName":"\u0041d\u0061","\u006castName":"\"\\\/Lovelace"}`,
		"surrogate pairs":         `{"firstName":"\ud83d\ude00","lastName":"😀"}`,
		"nothing to change":       `{}`,
		"up to the most":          strings.Repeat(" ", maxBody-2) + "{}",
		"characters, not bytes":   `{"firstName":"` + strings.Repeat("ü", maxName) + `"}`,
		"a replacement character": `{"firstName":"\ufffd"}`,
	} {
		ts.run(name, func(t *testing.T) {
			for _, media := range []string{"application/json", "application/merge-patch+json", "Application/JSON; Charset=UTF-8", `application/json;charset="utf-8"`} {
				c.with("Content-Type", media).with("Content-Encoding", "identity").patch("/api/v1/me", body).want(200)
			}
		})
	}
}

var badDates = []string{"2026-02-30", "2025-02-29", "2026-13-01", "2026-00-10", "2026-1-1", "20260101", "2026/01/01", "01-01-2026", "0000-01-01", "0999-12-31", "10000-01-01",
	"-2026-01-01", "+2026-01-01", "2026-01-01T00:00:00Z", " 2026-01-01", "2026-01-01 ", "today", "infinity", "-infinity", "epoch", "2026-01-32", "２０２６-01-01", "2026-W01-1", "2026-001", "null"}

var badTimes = []string{"2026-01-01", "2026-01-01T00:00", "2026-01-01T00:00:00", "2026-01-01 00:00:00Z", "2026-02-30T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T00:60:00Z",
	"2026-01-01T00:00:61Z", "2026-01-01t00:00:00z", "2026-01-01T00:00:00+0100", "2026-01-01T00:00:00%2B25:00", "1767225600", "now", "infinity", "26-01-01T00:00:00Z", "2026-01-01T00:00:00,5Z"}

func TestDatesAndTimesThatAreRefused(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	id := sc.owner.task(sc.project, "Dated")
	before := sc.state()
	for _, date := range badDates {
		text := jsonOf(date)
		sc.owner.refused("POST", "/api/v1/tasks", `{"projectId":"`+sc.project+`","title":"T","dueDate":`+text+`}`, 422, "validation_failed").field("dueDate", "invalid_date")
		sc.owner.refused("PATCH", "/api/v1/tasks/"+id, `{"startDate":`+text+`}`, 422, "validation_failed").field("startDate", "invalid_date")
		sc.owner.refused("POST", "/api/v1/projects", `{"name":"Dated","startDate":`+text+`}`, 422, "validation_failed").field("startDate", "invalid_date")
		sc.owner.refused("PATCH", "/api/v1/projects/"+sc.project, `{"endDate":`+text+`}`, 422, "validation_failed").field("endDate", "invalid_date")
		for _, name := range []string{"dueFrom", "dueTo"} {
			sc.owner.refused("GET", "/api/v1/tasks?"+name+"="+url.QueryEscape(date), "", 400, "bad_parameter").field(name, "invalid_date")
		}
	}
	for _, at := range badTimes {
		sc.owner.refused("GET", "/api/v1/tasks?updatedSince="+strings.ReplaceAll(at, " ", "%20"), "", 400, "bad_parameter").field("updatedSince", "invalid_time")
	}
	for _, at := range []string{"0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "2026-01-01T00:00:00%2B14:00", "2026-01-01T00:00:00.5-09:30"} {
		sc.owner.get("/api/v1/tasks?updatedSince=" + at).want(200)
	}
	sc.unchanged(before, "a refused date")
	sc.owner.patch("/api/v1/tasks/"+id, `{"startDate":"1000-01-01","dueDate":"9999-12-31"}`).want(200)
	sc.owner.patch("/api/v1/tasks/"+id, `{"startDate":"2028-02-29"}`).want(200)
}
