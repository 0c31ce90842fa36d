package main

import (
	"bytes"
	"cmp"
	"compress/flate"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf16"
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
func badBodies(t testing.TB, good string, most int) []badBody {
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

func TestAttackJSON(t *testing.T) {
	t.Parallel()
	a := countAttacks(t, 150)
	sc := newScene(t)
	tried := map[string]bool{} // on every route that takes a body
	sc.everyRoute(func(c *client, rt route, method string, good sample) {
		if good.body == "" || isForm(good.body) {
			return
		}
		most := maxBody
		if rt.who == anyone {
			most = maxStrangerBody
		}
		for _, bad := range append(badBodies(sc.t, good.body, most), badBody{name: "empty", status: 400, code: "malformed_json"}) {
			tried[bad.name] = true
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
			tried[encoding] = true
			c.with("Content-Encoding", encoding).refused(method, good.path, good.body, 415, "unsupported_media")
		}
		if method != "PATCH" {
			c.with("Content-Type", "application/merge-patch+json").refused(method, good.path, good.body, 415, "unsupported_media")
		}
		c.with("Content-Type", "application/json").with("Content-Type", "text/plain").refused(method, good.path, good.body, 415, "unsupported_media")
	})
	a.tried += len(tried)

	const me, tasks, projects, bulk = "/api/v1/me", "/api/v1/tasks", "/api/v1/projects", "/api/v1/tasks/bulk"
	task := func(fields string) string { return `{"projectId":"` + sc.project + `","title":"T",` + fields + `}` }
	named := func(name string) string { return `{"firstName":` + jsonOf(name) + `}` }
	before := sc.state()
	for _, bad := range []struct {
		name, method, path, body string
		status                   int
		field, wrong             string // or the detail that a malformed text gets
	}{
		// What costs much more than it weighs.
		{"a long name above as many values", "PATCH", me, `{"` + strings.Repeat("z", 300_000) + `":[1` + strings.Repeat(",1", 300_000) + "]}", 422, strings.Repeat("z", 64) + "…", "unknown_field"},
		{"a long name above as many objects", "PATCH", me, `{"` + strings.Repeat("z", 300_000) + `":[{"a":1}` + strings.Repeat(`,{"a":1}`, 80_000) + "]}", 422, strings.Repeat("z", 64) + "…", "unknown_field"},
		{"100 000 arrays in each other", "PATCH", me, `{"firstName":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + "}", 400, "", "nested deeper than 32 at byte 44."},
		{"100 000 objects in each other", "PATCH", me, strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_000), 400, "", "nested deeper than 32 at byte 160."},
		{"100 000 arrays that never end", "PATCH", me, `{"firstName":` + strings.Repeat("[", 100_000), 400, "", "nested deeper than 32 at byte 44."},
		{"50 000 names", "PATCH", me, "{" + manyNames(50_000) + "}", 400, "", "more than 100 names at byte"},
		{"100 unknown names of 10 000 characters", "PATCH", me, "{" + strings.ReplaceAll(manyNames(100), `"n`, `"`+strings.Repeat("n", 10_000)) + "}", 422, strings.Repeat("n", 64) + "…", "unknown_field"},
		{"a million digits", "POST", tasks, task(`"estimatedHours":` + strings.Repeat("9", 1_000_000)), 422, "estimatedHours", "wrong_type"},
		{"a fraction of a million digits", "POST", tasks, task(`"estimatedHours":0.` + strings.Repeat("3", 1_000_000)), 422, "estimatedHours", "out_of_range"},
		{"an exponent of a million digits", "POST", tasks, task(`"estimatedHours":1e` + strings.Repeat("9", 1_000_000)), 422, "estimatedHours", "wrong_type"},
		{"100 000 escapes", "PATCH", me, `{"firstName":"` + strings.Repeat(`\u0041`, 100_000) + `"}`, 422, "firstName", "too_long"},
		{"100 000 labels", "POST", tasks, task(`"labels":["a"` + strings.Repeat(`,"a"`, 100_000) + "]"), 422, "labels", "too_many"},
		{"20 000 ids", "POST", bulk, `{"delete":true,"ids":["` + sc.project + `"` + strings.Repeat(`,"`+sc.project+`"`, 20_000) + "]}", 422, "ids", "too_many"},
		{"a rule of 100 000 parts", "POST", tasks, task(`"recurrence":"FREQ=DAILY` + strings.Repeat(";COUNT=1", 100_000) + `"`), 422, "recurrence", "invalid_recurrence"},

		// Encodings of Unicode.
		{"UTF-16 with its mark", "PATCH", me, utf16Of("\ufeff"+named("Eve"), false), 400, "", "not valid UTF-8"},
		{"UTF-16 the other way round", "PATCH", me, utf16Of(named("Eve"), true), 400, "", "must be a JSON object"},
		{"a lone surrogate in a name", "PATCH", me, `{"first\ud800Name":"Eve"}`, 400, "", "surrogate stands alone at byte 13."},
		{"surrogates the wrong way round", "PATCH", me, `{"firstName":"\udc00\ud800"}`, 400, "", "surrogate stands alone"},
		{"a surrogate and half an escape", "PATCH", me, `{"firstName":"\ud800\u12"}`, 400, "", "four hexadecimal digits"},
		{"UTF-8 that is cut off", "PATCH", me, "{\"firstName\":\"\xf0\x9f\x98\"}", 400, "", "not valid UTF-8"},
		{"UTF-8 beyond Unicode", "PATCH", me, "{\"firstName\":\"\xf4\x90\x80\x80\"}", 400, "", "not valid UTF-8"},
		{"a NUL in a name", "PATCH", me, `{"firstName\u0000":"Eve"}`, 400, "", `\u0000 is not allowed`},
		{"NUL between tokens", "PATCH", me, "{\"firstName\":\x00\"Eve\"}", 400, "", "value is missing or misspelt at byte 13."},
		{"a no-break space between tokens", "PATCH", me, "{\"firstName\":\u00a0\"Eve\"}", 400, "", "value is missing or misspelt"},

		// Dialects.
		{"a comment", "PATCH", me, `{"firstName":"Eve"} // admin`, 400, "", "text after the JSON value at byte 20."},
		{"a comment within", "PATCH", me, `{/**/"firstName":"Eve"}`, 400, "", "name in double quotes is missing"},
		{"names without quotes", "PATCH", me, `{firstName:"Eve"}`, 400, "", "name in double quotes is missing at byte 1."},
		{"JSON lines", "PATCH", me, named("Eve") + "\n" + named("Mallory"), 400, "", "text after the JSON value"},
		{"a JSON sequence", "PATCH", me, "\x1e" + named("Eve"), 400, "", "must be a JSON object"},
		{"a guard before it", "PATCH", me, ")]}',\n" + named("Eve"), 400, "", "must be a JSON object"},
		{"a string over two lines", "PATCH", me, "{\"firstName\":\"Eve\\\nMallory\"}", 400, "", "escape in a string is unknown"},
		{"a form", "PATCH", me, "firstName=Eve", 400, "", "must be a JSON object"},

		// Names that some would take for others.
		{"a name twice, with different values", "POST", projects, `{"name":"Mine","name":"Yours"}`, 400, "", `"name" stands twice`},
		{"a name twice, once escaped", "POST", projects, `{"name":"Mine","\u006eame":"Yours"}`, 400, "", `"name" stands twice`},
		{"a name twice within", "POST", projects, `{"name":"Mine","settings":{"viewersMayComment":false,"viewersMayComment":true}}`, 400, "", `"viewersMayComment" stands twice`},
		{"a name in two cases", "POST", projects, `{"name":"Mine","Name":"Yours"}`, 422, "Name", "unknown_field"},
		{"a name in Unicode's other case", "PATCH", "/api/v1/projects/" + sc.project, `{"ſtatus":"archived"}`, 422, "ſtatus", "unknown_field"},
		{"a name in another case within", "PATCH", "/api/v1/projects/" + sc.project, `{"settings":{"ViewersMayComment":true}}`, 422, "settings.ViewersMayComment", "unknown_field"},
		{"a path as name", "PATCH", "/api/v1/projects/" + sc.project, `{"settings.viewersMayComment":true}`, 422, "settings.viewersMayComment", "unknown_field"},
		{"a constructor", "POST", projects, `{"name":"Mine","constructor":{"prototype":{"role":"admin"}}}`, 422, "constructor", "unknown_field"},
		{"an empty name", "POST", projects, `{"name":"Mine","":1}`, 422, `""`, "unknown_field"},
		{"a name with a line break", "POST", projects, `{"name":"Mine","a\nb":1}`, 422, "a\ufffdb", "unknown_field"},
		{"one's own role", "PATCH", me, `{"role":"admin"}`, 422, "role", "unknown_field"},
		{"the version", "PATCH", "/api/v1/projects/" + sc.project, `{"version":99}`, 422, "version", "unknown_field"},
		{"the author", "POST", tasks, task(`"createdBy":"` + sc.admin.id + `"`), 422, "createdBy", "unknown_field"},

		// Values of another type or none.
		{"a string for true", "POST", bulk, `{"ids":[],"delete":"true"}`, 422, "delete", "wrong_type"},
		{"1 for true", "POST", bulk, `{"ids":[],"delete":1}`, 422, "delete", "wrong_type"},
		{"a string for a number", "POST", tasks, task(`"estimatedHours":"1"`), 422, "estimatedHours", "wrong_type"},
		{"true for a number", "POST", tasks, task(`"estimatedHours":true`), 422, "estimatedHours", "wrong_type"},
		{"a number for a string", "POST", projects, `{"name":1}`, 422, "name", "wrong_type"},
		{"an object for a string", "POST", "/api/v1/auth/login", `{"email":{"$gt":""},"password":{"$gt":""}}`, 422, "email", "wrong_type"},
		{"an array for a string", "POST", "/api/v1/auth/login", `{"email":["` + sc.viewer.email + `"],"password":"x"}`, 422, "email", "wrong_type"},
		{"an array for an object", "POST", projects, `{"name":"Mine","settings":[]}`, 422, "settings", "wrong_type"},
		{"an object for an array", "POST", tasks, task(`"labels":{"0":"a"}`), 422, "labels", "wrong_type"},
		{"a number in a list of ids", "POST", bulk, `{"ids":[1],"delete":true}`, 422, "ids", "wrong_type"},
		{"a number in a map of strings", "POST", bulk, `{"filter":{"status":1},"delete":true}`, 422, "filter", "wrong_type"},
		{"an id in capitals", "POST", tasks, strings.ToUpper(`{"`) + `projectId":"` + strings.ToUpper(sc.project) + `","title":"T"}`, 422, "projectId", "wrong_type"},
		{"null for a title", "POST", tasks, `{"projectId":"` + sc.project + `","title":null}`, 422, "title", "required"},
		{"null for a project", "POST", tasks, `{"projectId":null,"title":"T"}`, 422, "projectId", "required"},
		{"null for a name in a patch", "PATCH", me, `{"firstName":null}`, 422, "firstName", "required"},
		{"null for a status in a patch", "PATCH", "/api/v1/projects/" + sc.project, `{"status":null}`, 422, "status", "required"},
		{"a number beyond every float", "POST", tasks, task(`"estimatedHours":1e400`), 422, "estimatedHours", "wrong_type"},
		{"a number beyond the greatest", "POST", tasks, task(`"estimatedHours":1e3`), 422, "estimatedHours", "out_of_range"},
		{"a number below zero", "POST", tasks, task(`"estimatedHours":-0.01`), 422, "estimatedHours", "out_of_range"},
		{"a number with three decimals", "POST", tasks, task(`"estimatedHours":0.125`), 422, "estimatedHours", "out_of_range"},
		{"the smallest number there is", "POST", tasks, task(`"estimatedHours":5e-324`), 422, "estimatedHours", "out_of_range"},

		// Texts that show something else than they are.
		{"spaces for a name", "PATCH", me, named(" \u00a0\u3000\u2003"), 422, "firstName", "required"},
		{"a zero-width name", "PATCH", me, named("\u200b\u200d\ufeff\u2060"), 422, "firstName", "required"},
		{"a name of fillers", "PATCH", me, named("\u3164\u115f\uffa0"), 422, "firstName", "required"},
		{"a name of soft hyphens and variation selectors", "PATCH", me, named("\u00ad\u180e"), 422, "firstName", "required"},
		{"a name for private use", "PATCH", me, named("\ue000\U0010fffd"), 422, "firstName", "required"},
		{"a zero-width title", "POST", tasks, `{"projectId":"` + sc.project + `","title":"\u200b"}`, 422, "title", "required"},
		{"a zero-width label", "POST", tasks, task(`"labels":["a","\u200b"]`), 422, "labels[1]", "required"},
		{"a zero-width project", "POST", projects, `{"name":"\u200b\u200b\u200b"}`, 422, "name", "required"},
		{"a name that turns the text after it", "PATCH", me, named("Eve\u202enimda"), 422, "firstName", "invalid_text"},
		{"a title that isolates", "POST", tasks, `{"projectId":"` + sc.project + `","title":"a\u2066b"}`, 422, "title", "invalid_text"},
		{"a label that embeds", "POST", tasks, task(`"labels":["a\u202b"]`), 422, "labels[0]", "invalid_text"},
		{"a line break in a title", "POST", tasks, `{"projectId":"` + sc.project + `","title":"a\nb"}`, 422, "title", "invalid_text"},
		{"C1 controls in a title", "POST", tasks, `{"projectId":"` + sc.project + `","title":"a\u0085\u009bb"}`, 422, "title", "invalid_text"},
		{"a bell in a description", "POST", tasks, task(`"description":"a\u0007b"`), 422, "description", "invalid_text"},
		{"a DEL in a name", "PATCH", me, named("a\x7fb"), 422, "firstName", "invalid_text"},
		{"an escape sequence of terminals", "PATCH", me, named("\x1b[31mEve"), 422, "firstName", "invalid_text"},
		{"a title of 256 characters of four bytes", "POST", tasks, `{"projectId":"` + sc.project + `","title":"` + strings.Repeat("😀", maxTitle+1) + `"}`, 422, "title", "too_long"},
		{"a description of one character too many", "POST", tasks, task(`"description":"` + strings.Repeat("ü", maxDescription+1) + `"`), 422, "description", "too_long"},
	} {
		a.run(sc.testServer, bad.name, func(t *testing.T) {
			code := map[int]string{400: "malformed_json", 422: "validation_failed"}[bad.status]
			began := time.Now()
			answer := sc.owner.do(bad.method, bad.path, bad.body).problem(bad.status, code)
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it costs %v", took)
			}
			if bad.status == 422 {
				answer.field(bad.field, bad.wrong)
			} else if !strings.Contains(answer.str("detail"), bad.wrong) {
				t.Errorf("got %s, want %s", answer.str("detail"), bad.wrong)
			}
			if named, _ := answer.at("errors").([]any); len(answer.body) > 32<<10 || len(named) > maxErrors {
				t.Errorf("the answer has %d bytes", len(answer.body))
			}
		})
	}

	for name, headers := range map[string][]string{ // to a good body
		"no media type":                 {"Content-Type", ""},
		"UTF-16 by its name":            {"Content-Type", "application/json; charset=utf-16"},
		"two charsets":                  {"Content-Type", "application/json; charset=utf-8; charset=utf-7"},
		"an old media type":             {"Content-Type", "text/json"},
		"a media type with a line":      {"Content-Type", "application/json;\tcharset=\"utf-8\\\""},
		"a form by its name":            {"Content-Type", "application/x-www-form-urlencoded"},
		"what a page may send unasked":  {"Content-Type", "text/plain; application/json"},
		"two media types":               {"Content-Type", "application/json", "Content-Type", "application/json"},
		"an encoding that it has not":   {"Content-Encoding", "gzip"},
		"an encoding twice":             {"Content-Encoding", "identity", "Content-Encoding", "gzip"},
		"an encoding of another name":   {"Content-Encoding", "x-gzip"},
		"an encoding in capitals":       {"Content-Encoding", "DEFLATE"},
		"an encoding that nobody knows": {"Content-Encoding", "aws-chunked"},
	} {
		a.run(sc.testServer, name, func(t *testing.T) {
			for i := 0; i < len(headers); i += 2 {
				sc.owner.with(headers[i], headers[i+1])
			}
			sc.owner.post(projects, `{"name":"Labelled"}`).problem(415, "unsupported_media")
		})
	}
	for name, bomb := range map[string]string{"gzip": bombOf(func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }), "deflate": bombOf(func(w io.Writer) io.WriteCloser {
		deflate, _ := flate.NewWriter(w, flate.BestCompression)
		return deflate
	})} {
		a.run(sc.testServer, "100 MB in a few by "+name, func(t *testing.T) {
			sc.owner.with("Content-Encoding", name).post(projects, bomb).problem(415, "unsupported_media")
			sc.owner.post(projects, bomb).problem(400, "malformed_json") // not inflated where it is not said either
		})
	}
	for name, size := range map[string]int{"a byte more than 1 MiB": maxBody + 1, "64 MiB": 64 << 20} {
		for _, whole := range []bool{true, false} {
			a.run(sc.testServer, fmt.Sprintf("%s, its length told: %v", name, whole), func(t *testing.T) {
				request, err := http.NewRequest("POST", sc.http.URL+projects, io.LimitReader(spaces{}, int64(size)))
				if err != nil {
					t.Fatal(err)
				}
				if whole {
					request.ContentLength = int64(size)
				}
				request.Header.Set("Authorization", "Bearer "+sc.owner.token)
				request.Header.Set("Content-Type", "application/json")
				resp, err := testHTTP.Do(request)
				if err != nil {
					return // the server hung up in the middle, which is as good
				}
				defer resp.Body.Close()
				body, _ := io.ReadAll(resp.Body)
				(&answer{t, name, resp.StatusCode, resp.Header, body}).problem(413, "body_too_large")
			})
		}
	}
	sc.unchanged(before, "JSON that was refused")

	sc.run("what is near to an attack and good is taken as it is", func(t *testing.T) {
		emoji := strings.Repeat("😀", maxTitle)
		made := sc.owner.post(tasks, `{"projectId":"`+sc.project+`","title":"`+emoji+`","description":"a\tb\r\n\u202ec","estimatedHours":-1e-400,"actualHours":1E+2,"labels":["👩‍👩‍👧","می\u200cخواهم"]}`).want(201)
		made.is("title", emoji).is("description", "a\tb\r\n\u202ec").is("estimatedHours", 0).is("actualHours", 100).is("labels.0", "👩‍👩‍👧").is("labels.1", "می\u200cخواهم")
		if strings.Contains(string(made.body), "-0,") {
			t.Errorf("minus zero came back: %s", made.body)
		}
		sc.owner.patch(me, named("\u200eאבא")).want(200).is("firstName", "\u200eאבא") // with a mark, which turns nothing but itself
		sc.owner.patch(me, strings.Repeat(" ", maxBody-2)+"{}").want(200)
	})
}

// utf16Of is a text in UTF-16.
func utf16Of(text string, bigEndian bool) string {
	var b []byte
	for _, unit := range utf16.Encode([]rune(text)) {
		low, high := byte(unit), byte(unit>>8)
		if bigEndian {
			low, high = high, low
		}
		b = append(b, low, high)
	}
	return string(b)
}

// bombOf is a good body and 100 MB of spaces, compressed.
func bombOf(compress func(w io.Writer) io.WriteCloser) string {
	var b bytes.Buffer
	w := compress(&b)
	io.WriteString(w, `{"name":"Bomb"}`)
	io.CopyN(w, spaces{}, 100<<20)
	w.Close()
	return b.String()
}

// spaces never end.
type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}
