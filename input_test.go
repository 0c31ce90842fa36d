package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// A badBody is a body that every route which takes one refuses.
type badBody struct {
	name   string
	body   string
	status int
	code   string
	field  string // that the problem names, with the code
	wrong  string
	media  string // Content-Type; "" is JSON's
}

// malformedValues are no JSON values, or none that may be in a body.
var malformedValues = map[string]string{
	"nothing": "", "a leading plus": "+1", "a leading zero": "01", "a leading point": ".5", "a trailing point": "1.", "half an exponent": "1e",
	"hexadecimal": "0x1", "NaN": "NaN", "infinity": "-Infinity", "two signs": "--1", "Python": "True", "JavaScript": "undefined",
	"single quotes": "'a'", "a comment": "1 /* one */", "an unfinished string": `"a`, "an unfinished escape": `"\`, "an unknown escape": `"\x41"`,
	"a short escape": `"\u12"`, "a signed escape": `"\u+123"`, "a raw newline": "\"a\nb\"", "a raw NUL": "\"\x00\"", "an escaped NUL": `"\u0000"`,
	"a lone high surrogate": `"\ud800"`, "a lone low surrogate": `"\udc00"`, "a high surrogate and a letter": `"\ud83dx"`, "two high surrogates": `"\ud83d\ud83d"`,
	"a byte that is not UTF-8": "\"\xff\"", "an overlong form": "\"\xc0\xaf\"", "a surrogate in UTF-8": "\"\xed\xa0\x80\"", "Latin-1": "\"M\xfcller\"",
	"a missing colon": `1 "b" 2`, "a trailing comma in an array": "[1,]", "no comma": "[1 2]", "an open array": "[1", "an open object": `{"a":1`,
	"nesting beyond 32": strings.Repeat("[", 32) + strings.Repeat("]", 32), "very deep nesting": strings.Repeat("[", 10_000),
	"the same name within": `{"a":1,"a":2}`, "the same name in another spelling": `{"a":1,"\u0061":2}`,
}

// badBodies are variants of a body that is good.
func badBodies(t *testing.T, good string, most int) []badBody {
	t.Helper()
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(good), &fields); err != nil {
		t.Fatalf("%v in sample %s", err, good)
	}
	malformed := func(name, body string) badBody {
		return badBody{name: name, body: body, status: 400, code: "malformed_json"}
	}
	list := []badBody{
		malformed("blank", " \r\n\t"), malformed("null", "null"), malformed("a number", "1"), malformed("a string", `"a"`), malformed("an empty array", "[]"),
		malformed("an array", "["+good+"]"), malformed("a byte order mark", "\ufeff"+good), malformed("a form feed", "\f"+good), malformed("UTF-16", "{\x00}\x00"),
		malformed("two values", good+good), malformed("text after it", good+"x"), malformed("NUL after it", good+"\x00"), malformed("cut off", good[:len(good)-1]),
		malformed("no brace", good[1:]), malformed("a trailing comma", good[:len(good)-1]+",}"), malformed("a leading comma", "{,"+good[1:]), malformed("a number as name", `{1:2}`),
		malformed("too many names", "{"+manyNames(101)+"}"),
		{name: "more than the most", body: strings.Repeat(" ", most) + good, status: 413, code: "body_too_large"},
		{name: "an unknown field", body: `{"zzz":1,` + good[1:], status: 422, code: "validation_failed", field: "zzz", wrong: "unknown_field"},
		{name: "an unknown field with a huge number", body: `{"zzz":` + strings.Repeat("9", 10_000) + "," + good[1:], status: 422, code: "validation_failed", field: "zzz", wrong: "unknown_field"},
		{name: "an unknown field with a huge name", body: `{"` + strings.Repeat("z", 10_000) + `":1,` + good[1:], status: 422, code: "validation_failed", field: strings.Repeat("z", 64) + "…", wrong: "unknown_field"},
		{name: "a prototype", body: `{"__proto__":{"admin":true},` + good[1:], status: 422, code: "validation_failed", field: "__proto__", wrong: "unknown_field"},
	}
	for name, value := range malformedValues {
		list = append(list, malformed(name, `{"zzz":`+value+","+good[1:]))
	}
	for _, media := range []string{"text/plain", "application/xml", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json; charset=latin1",
		"application/json, text/plain", "application/jsonx", "json", ";", "application/vnd.api+json"} {
		list = append(list, badBody{name: media, body: good, status: 415, code: "unsupported_media", media: media})
	}
	for name, value := range fields {
		list = append(list, malformed("a repeated "+name, fmt.Sprintf(`{"%s":%s,%s`, name, value, good[1:])))
		shouted := strings.ToUpper(name)
		list = append(list, badBody{name: shouted, body: strings.Replace(good, `"`+name+`"`, `"`+shouted+`"`, 1), status: 422, code: "validation_failed", field: shouted, wrong: "unknown_field"})
		for _, other := range otherTypes(value) {
			body := strings.Replace(good, fmt.Sprintf(`"%s":%s`, name, value), fmt.Sprintf(`"%s":%s`, name, other), 1)
			list = append(list, badBody{name: name + " as " + other, body: body, status: 422, code: "validation_failed", field: name, wrong: "wrong_type"})
		}
	}
	return list
}

func manyNames(n int) string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf(`"n%d":%d`, i, i))
	}
	return strings.Join(names, ",")
}

// otherTypes are values of every JSON type but a value's own; and a number beyond any.
func otherTypes(value json.RawMessage) []string {
	kind := func(first byte) byte {
		switch {
		case '0' <= first && first <= '9':
			return '0'
		case first == 'f':
			return 't'
		}
		return first
	}
	list := []string{"1e400"}
	for _, other := range []string{`"text"`, "12", "true", `{"a":1}`, `["a"]`} {
		if kind(other[0]) != kind(value[0]) {
			list = append(list, other)
		}
	}
	return list
}

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
func everyRoute(t *testing.T, test func(sc *scene, c *client, rt route, method string, good sample)) {
	sc := newScene(t)
	for _, rt := range sc.routes() {
		method, _, _ := strings.Cut(rt.pattern, " ")
		sc.run(rt.pattern, func(t *testing.T) {
			c := sc.admin.signIn()
			good := samples[rt.pattern](sc, c)
			if good.as != nil {
				c = good.as
			}
			before := sc.state()
			test(sc, c, rt, method, good)
			sc.unchanged(before, "what was refused")
			if a := c.do(method, good.path, good.body); a.status >= 400 {
				t.Errorf("%s: got %d afterwards: %s", a.what, a.status, a.body)
			}
		})
	}
}

func TestBodiesThatAreRefused(t *testing.T) {
	t.Parallel()
	everyRoute(t, func(sc *scene, c *client, rt route, method string, good sample) {
		if good.body == "" {
			return
		}
		most := maxBody
		if rt.who == anyone {
			most = maxStrangerBody
		}
		for _, bad := range append(badBodies(sc.t.(*testing.T), good.body, most), badBody{name: "empty", status: 400, code: "malformed_json"}) {
			c.with("Content-Type", cmp.Or(bad.media, "application/json"))
			a := c.refused(method, good.path, bad.body, bad.status, bad.code)
			if bad.field != "" && a.status == bad.status {
				a.field(bad.field, bad.wrong)
			}
			if len(a.body) > 2000 {
				sc.t.Errorf("%s: the answer to %s repeats too much: %d bytes", rt.pattern, bad.name, len(a.body))
			}
		}
		for _, encoding := range []string{"gzip", "br", "identity, gzip", "x"} {
			c.with("Content-Encoding", encoding).refused(method, good.path, good.body, 415, "unsupported_media")
		}
		if method != "PATCH" {
			c.with("Content-Type", "application/merge-patch+json").refused(method, good.path, good.body, 415, "unsupported_media")
		}
		c.with("Content-Type", "application/json").with("Content-Type", "text/plain").refused(method, good.path, good.body, 415, "unsupported_media")
	})
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

func TestQueriesThatAreRefused(t *testing.T) {
	t.Parallel()
	everyRoute(t, func(sc *scene, c *client, rt route, method string, good sample) {
		if !strings.HasPrefix(good.path, "/api/") { // a page may be opened with any query
			return
		}
		path, _, _ := strings.Cut(good.path, "?")
		for query, want := range map[string][2]string{
			"zzz=1": {"zzz", "unknown_parameter"}, "zzz": {"zzz", "unknown_parameter"}, "zzz=1&zzz=2": {"zzz", "unknown_parameter"}, "ID=1": {"ID", "unknown_parameter"},
			"=1": {"query", "unknown_parameter"}, "%00=1": {"\ufffd", "unknown_parameter"}, "zzz=1;limit=1": {"query", "malformed"}, "zzz=%": {"query", "malformed"},
			"zzz=%zz": {"query", "malformed"}, "z%f=1": {"query", "malformed"}, "%C3%28=1": {"\ufffd(", "unknown_parameter"},
			strings.Repeat("z", 100) + "=1":    {strings.Repeat("z", 64) + "…", "unknown_parameter"},
			"zzz=" + strings.Repeat("1", 8200): {"query", "too_long"},
		} {
			c.refused(method, path+"?"+query, good.body, 400, "bad_parameter").field(want[0], want[1])
		}
		if method != "GET" || c.get(path+"?limit=1").status != 200 {
			return
		}
		for query, want := range map[string][2]string{ // every list takes these three
			"limit=0": {"limit", "out_of_range"}, "limit=101": {"limit", "out_of_range"}, "limit=-1": {"limit", "out_of_range"}, "limit=1.5": {"limit", "out_of_range"},
			"limit=ten": {"limit", "out_of_range"}, "limit=%2B5": {"limit", "out_of_range"}, "limit=0x5": {"limit", "out_of_range"}, "limit=%205": {"limit", "out_of_range"},
			"limit=99999999999999999999": {"limit", "out_of_range"}, "limit=": {"limit", "empty"}, "limit": {"limit", "empty"}, "limit=1&limit=1": {"limit", "repeated"},
			"limit=%D9%A5": {"limit", "out_of_range"}, "limit=5%00": {"limit", "invalid_text"}, "total=yes": {"total", "not_allowed"}, "total=TRUE": {"total", "not_allowed"}, "total=": {"total", "empty"},
			"cursor=": {"cursor", "empty"}, "cursor=abc": {"cursor", "invalid_cursor"}, "cursor=%0A": {"cursor", "invalid_text"}, "cursor=%FF": {"cursor", "invalid_text"},
			"cursor=" + strings.Repeat("A", 4000): {"cursor", "invalid_cursor"}, "cursor=e30": {"cursor", "invalid_cursor"},
		} {
			c.refused(method, path+"?"+query, "", 400, "bad_parameter").field(want[0], want[1])
		}
	})
}

func TestParametersThatAreRefused(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	for path, tests := range map[string]map[string]string{
		"/api/v1/tasks": {
			"status=open": "status not_allowed", "status=todo,": "status not_allowed", "status=TODO": "status not_allowed", "status=": "status empty", "status=todo&status=done": "status repeated",
			"priority=1": "priority not_allowed", "sort=": "sort empty", "sort=id": "sort not_allowed", "sort=--title": "sort not_allowed", "sort=title;drop": "query malformed", "sort=title,number": "sort not_allowed",
			"expand=members": "expand not_allowed", "projectId=1": "projectId invalid_uuid", "assigneeId=you": "assigneeId invalid_uuid", "createdBy=none": "createdBy invalid_uuid", "parentId=me": "parentId invalid_uuid",
			"overdue=1": "overdue not_allowed", "deleted=1": "deleted not_allowed", "search=%00": "search invalid_text", "search=a%0Ab": "search invalid_text", "search=%ED%A0%80": "search invalid_text",
			"search=": "search empty", "search=" + strings.Repeat("x", maxSearch+1): "search too_long", "label=" + strings.Repeat("x,", 60): "label too_many", "label=%1F": "label invalid_text",
		},
		"/api/v1/projects": {"status=open": "status not_allowed", "sort=-": "sort not_allowed", "search=%7F": "search invalid_text", "search=" + strings.Repeat("ü", maxSearch+1): "search too_long", "deleted=yes": "deleted not_allowed"},
		"/api/v1/users":    {"search=%C2%85": "search invalid_text", "search=" + strings.Repeat("x", maxSearch+1): "search too_long", "sort=email": "sort unknown_parameter"},
	} {
		for query, want := range tests {
			field, code, _ := strings.Cut(want, " ")
			sc.viewer.refused("GET", path+"?"+query, "", 400, "bad_parameter").field(field, code)
		}
	}
	for _, text := range []string{"%25", "_", "%5C", "'", "%22", "%27%3B%20DROP%20TABLE%20users--", "%25%25%25", "%28", "%3A%2A", "%26", "%7C%21", "%3C-%3E", "a%20%26", "%F0%9F%98%80", "%C3%9F", strings.Repeat("x%20", 60)} {
		for _, path := range []string{"/api/v1/tasks", "/api/v1/projects", "/api/v1/users"} {
			sc.viewer.get(path + "?search=" + text).want(200)
		}
	}
	sc.viewer.get("/api/v1/users?search=%25").want(200).is("items", "[]") // LIKE's own characters are literals
	sc.viewer.get("/api/v1/users?search=_").want(200).is("items", "[]")
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

// badIDs are no ids: as path segments they name nothing.
var badIDs = []string{"%00", "%2F", "a%2Fb", "..%2Fme", "%2e%2e", "%2E", "0", "-1", "null", "undefined", "me", "*", "%20", "%ff", "%F0%9F%98%80", "%0d%0aX-Evil:1", "%27%20OR%201=1--",
	"{id}", "%7Bid%7D", "urn:uuid:0192f0c1-2345-7abc-8def-0123456789ab", "0192F0C1-2345-7ABC-8DEF-0123456789AB", "0192f0c123457abc8def0123456789ab", "%7B0192f0c1-2345-7abc-8def-0123456789ab%7D",
	"0192f0c1-2345-7abc-8def-0123456789ab%20", "0192f0c1-2345-7abc-8def-0123456789abc", "0192f0c1-2345-7abc-8def-0123456789ag", "0192f0c1_2345_7abc_8def_0123456789ab", "00000000-0000-0000-0000-000000000000",
	"ffffffff-ffff-ffff-ffff-ffffffffffff", strings.Repeat("a", 5000), "WEB-0", "web-1", "WEB-01", "WEB--1", "WEB-99999999999999999999", "WEB-1e1", "NOSUCHKEY-1"}

func TestIDsThatNameNothing(t *testing.T) {
	t.Parallel()
	everyRoute(t, func(sc *scene, c *client, rt route, method string, good sample) {
		_, pattern, _ := strings.Cut(rt.pattern, " ")
		wildcards := strings.Split(pattern, "/")
		path, query, _ := strings.Cut(good.path, "?")
		for i := range wildcards {
			if !strings.HasPrefix(wildcards[i], "{") || wildcards[i] == "{$}" {
				continue
			}
			for _, bad := range badIDs {
				segments := strings.Split(path, "/")
				segments[i] = bad
				c.refused(method, strings.TrimSuffix(strings.Join(segments, "/")+"?"+query, "?"), good.body, 404, "not_found")
			}
		}
	})
}

func TestMethodsThatARouteDoesNotHave(t *testing.T) {
	t.Parallel()
	allowed := map[string][]string{}
	everyMethod := []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}
	everyRoute(t, func(sc *scene, c *client, rt route, method string, good sample) {
		_, pattern, _ := strings.Cut(rt.pattern, " ")
		if len(allowed) == 0 {
			for _, other := range sc.routes() {
				method, pattern, _ := strings.Cut(other.pattern, " ")
				allowed[pattern] = append(allowed[pattern], method)
				if method == "GET" {
					allowed[pattern] = append(allowed[pattern], "HEAD")
				}
			}
		}
		path, _, _ := strings.Cut(good.path, "?")
		// A literal path may also match another route's wildcard, as /tasks/bulk does /tasks/{id}.
		for _, method := range append(everyMethod, "OPTIONS", "TRACE", "PROPFIND", "get", "MERGE-PATCH") {
			if slices.Contains(allowed[pattern], method) || pattern == "/api/v1/tasks/bulk" {
				continue
			}
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
}

func TestPathsThatLeadNowhere(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	c := ts.signUp("Ada")
	for _, path := range []string{"//", "//api/v1/me", "/api//v1/me", "/api/v1//me", "/api/v1/me/", "/api/v1/me//", "/api/v1/./me", "/api/v1/../v1/me", "/api/v1/me/..", "/api/v1/me/.", "/../etc/passwd",
		"/api/v1/%2e%2e/v1/me", "/api/v1/me%2Fsessions", "/api/v1/me%00", "/api/v1/me%20", "/API/v1/me", "/api/v1/Me", "/api/v2/me", "/api/v1", "/api", "/docs/", "/docs/../docs", "/docs/openapi.yaml",
		"/docs/%2e%2e%2fschema.sql", "/docs/init.js/", "/problems/", "/problems/nothing", "/problems/not_found/", "/index.html", "/favicon.ico", "/.git/config", "/.env", "/debug/pprof/", "/api/v1/tasks/"} {
		a := c.do("GET", path, "").problem(404, "not_found")
		if a.header.Get("Location") != "" {
			t.Errorf("%s: got a redirect to %s", path, a.header.Get("Location"))
		}
	}
	c.get("/api/v1/%6de").want(200) // another spelling of the same path
}

// exchange sends bytes on a connection of their own and returns all that comes back.
func (ts *testServer) exchange(request string) string {
	ts.t.Helper()
	conn, err := net.Dial("tcp", ts.http.Listener.Addr().String())
	if err != nil {
		ts.t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(conn, request) // the server may hang up before the end
	answer, _ := io.ReadAll(conn)
	return string(answer)
}

func TestRequestsThatAreBarelyHTTP(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	c := ts.signUp("Ada")
	before := ts.state()
	const end = " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
	for name, test := range map[string]struct{ request, want string }{
		"no version":                 {"GET /health\r\n\r\n", "400"},
		"no host":                    {"GET /health HTTP/1.1\r\n\r\n", "400"},
		"two hosts":                  {"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"},
		"a space in a header's name": {"GET /health HTTP/1.1\r\nHost: x\r\nX Y: z\r\n\r\n", "400"},
		"a NUL in a header":          {"GET /health HTTP/1.1\r\nHost: x\r\nX-Y: \x00\r\n\r\n", "400"},
		"two lengths":                {"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}", "400"},
		"a negative length":          {"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "400"},
		"an unknown encoding":        {"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "501"},
		"headers beyond 16 KiB":      {"GET /health" + end + "X-Long: " + strings.Repeat("x", 32<<10) + "\r\n\r\n", "431"},
		"broken chunks":              {"POST /api/v1/auth/login" + end + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n", "400 bad_request"},
		"a body that ends early":     {"POST /api/v1/auth/login HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\n{}", ""},
		"OPTIONS *":                  {"OPTIONS *" + end + "\r\n", "400 bad_request"},
		"GET *":                      {"GET *" + end + "\r\n", "400 bad_request"},
		"CONNECT":                    {"CONNECT evil.example:443" + end + "\r\n", "400 bad_request"},
		"a bad escape in the path":   {"GET /api/v1/%zz" + end + "\r\n", "400"},
		"the URL as target":          {"GET http://evil.example/api/v1/me" + end + "\r\n", "401 unauthenticated"},
		"bytes beyond ASCII":         {"GET /api/v1/\xff\xfe" + end + "\r\n", "404 not_found"},
		"a sane request id":          {"GET /nowhere" + end + "X-Request-Id: sane-1\r\n\r\n", "404 sane-1"},
		"two Authorization headers":  {"GET /api/v1/me" + end + "Authorization: Bearer " + c.token + "\r\nAuthorization: Bearer " + c.token + "\r\n\r\n", "401 unauthenticated"},
	} {
		t.Run(name, func(t *testing.T) {
			answer := ts.exchange(test.request)
			for _, want := range strings.Fields(test.want) {
				if !strings.Contains(answer, want) {
					t.Errorf("got %q, want %q in it", answer, want)
				}
			}
			if strings.Contains(test.want, " ") { // our own, not net/http's
				resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(answer)), nil)
				if err != nil {
					t.Fatal(err)
				}
				checkHeaders(t, name, resp.Header)
			}
		})
	}
	ts.unchanged(before, "a request that is barely HTTP")
	c.get("/api/v1/me").want(200)
}
