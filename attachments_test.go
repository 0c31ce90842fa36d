package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

const (
	formBoundary = "----taskflow-test"
	formMedia    = "multipart/form-data; boundary=" + formBoundary
)

// isForm tells a body that formOf made, or part of one, from JSON.
func isForm(body string) bool { return strings.HasPrefix(body, "--"+formBoundary) }

// formOf is a form with a file.
func formOf(name, content string) string {
	return partOf(`form-data; name="file"; filename="`+name+`"`, content) + "--" + formBoundary + "--\r\n"
}

// partOf is one part of a form.
func partOf(disposition, content string) string {
	return "--" + formBoundary + "\r\nContent-Disposition: " + disposition + "\r\nContent-Type: text/html\r\n\r\n" + content + "\r\n"
}

// pngOf is a PNG of one colour.
func pngOf(w, h int) string {
	var out bytes.Buffer
	if err := png.Encode(&out, image.NewGray(image.Rect(0, 0, w, h))); err != nil {
		panic(err)
	}
	return out.String()
}

var dot = pngOf(2, 1)

// attach puts a file to a task and returns the attachment's id.
func (c *client) attach(task, name, content string) string {
	c.s.t.Helper()
	return c.post("/api/v1/tasks/"+task+"/attachments", formOf(name, content)).want(201).str("id")
}

// process looks at an attachment as its job does.
func (ts *testServer) process(attachment string) {
	ts.t.Helper()
	effect := &pgx.Batch{}
	if err := ts.runProcess(ts.t.Context(), job{Payload: []byte(`{"subjectId":"` + attachment + `"}`)}, effect); err != nil {
		ts.t.Fatal(err)
	}
	if effect.Len() > 0 {
		if err := ts.db.send(ts.t.Context(), effect); err != nil {
			ts.t.Fatal(err)
		}
	}
}

// cleanUp removes blobs that belong to nothing, as the job does.
func (ts *testServer) cleanUp() {
	ts.t.Helper()
	if err := ts.runAttachmentCleanup(ts.t.Context(), job{}, &pgx.Batch{}); err != nil {
		ts.t.Fatal(err)
	}
}

// stored is how many files the storage has, of whatever kind.
func (ts *testServer) stored() (n int) {
	ts.t.Helper()
	err := filepath.WalkDir(ts.config.storageDir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		ts.t.Fatal(err)
	}
	return n
}

// wantStored fails the test unless the storage and its table have so many blobs.
func (ts *testServer) wantStored(n int, after string) {
	ts.t.Helper()
	if files, rows := ts.stored(), ts.count("blobs"); files != n || rows != n {
		ts.t.Errorf("%s: got %d files and %d rows, want %d", after, files, rows, n)
	}
}

func TestAFileIsKeptAsItIs(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	task := sc.member.task(sc.project, "Ship")
	content := strings.Repeat("All of it, \x00\xff and nothing else.\n", 5000)
	sum := hexSum([]byte(content))

	made := sc.member.post("/api/v1/tasks/"+task+"/attachments", formOf("plan.bin", content)).want(201)
	id := made.str("id")
	path := "/api/v1/attachments/" + id
	sc.run("and what is known of it is told", func(t *testing.T) {
		for _, a := range []*answer{made, sc.viewer.get(path).want(200)} {
			a.is("name", "plan.bin").is("size", len(content)).is("checksum", sum).is("contentType", "application/octet-stream").is("taskId", task).is("projectId", sc.project).
				is("createdBy", sc.member.id).is("width", nil).is("height", nil).is("thumbnail", false).is("version", 1)
			if a.header.Get("ETag") != `"1"` {
				t.Errorf("got %v", a.header)
			}
		}
		if made.header.Get("Location") != path {
			t.Errorf("got %v", made.header)
		}
		sc.viewer.with("If-None-Match", `"1"`).get(path).want(304)
	})
	sc.run("and comes back, to be kept and not shown", func(t *testing.T) {
		got := sc.viewer.get(path + "/content").want(200)
		if string(got.body) != content {
			t.Errorf("got %d bytes, want %d", len(got.body), len(content))
		}
		for name, want := range map[string]string{"Content-Type": "application/octet-stream", "Content-Disposition": `attachment; filename="plan.bin"`, "Content-Security-Policy": "sandbox; default-src 'none'; frame-ancestors 'none'",
			"X-Content-Type-Options": "nosniff", "Cache-Control": "private, no-cache", "ETag": `"` + sum + `"`, "Accept-Ranges": "bytes", "Content-Length": fmt.Sprint(len(content))} {
			if got.header.Get(name) != want {
				t.Errorf("%s is %q, want %q", name, got.header.Get(name), want)
			}
		}
		if again := sc.viewer.with("If-None-Match", `W/"x", "`+sum+`"`).get(path + "/content").want(304); len(again.body) != 0 {
			t.Errorf("got %d bytes", len(again.body))
		}
		if head := sc.viewer.do("HEAD", path+"/content", "").want(200); head.header.Get("Content-Length") != fmt.Sprint(len(content)) {
			t.Errorf("HEAD: got %v", head.header)
		}
	})
	sc.run("and stands in the list of the task, newest first", func(t *testing.T) {
		second := sc.owner.attach(task, "second", "")
		a := sc.viewer.get("/api/v1/tasks/"+task+"/attachments?limit=1&total=true").want(200).is("total", 2).is("items.0.id", second).is("items.0.size", 0)
		sc.viewer.get("/api/v1/tasks/"+task+"/attachments?limit=1&cursor="+a.str("next")).want(200).is("items.0.id", id).is("next", nil)
		if got := sc.viewer.get("/api/v1/attachments/" + second + "/content").want(200); len(got.body) != 0 {
			t.Errorf("got %q", got.body)
		}
		sc.owner.delete("/api/v1/attachments/" + second).want(204)
	})
	sc.run("and in the history of the task", func(t *testing.T) {
		a := sc.viewer.get("/api/v1/tasks/" + task + "/activity").want(200)
		if got := a.strs("kind"); !slices.Equal(got, []string{"attachment.deleted", "attachment.created", "attachment.created", "task.created"}) {
			t.Errorf("got %v", got)
		}
		a.is("items.2.changes.attachmentId", "[<nil> "+id+"]").is("items.2.changes.name", "[<nil> plan.bin]").is("items.2.actorId", sc.member.id)
	})
	sc.run("until it is deleted", func(t *testing.T) {
		sc.member.with("If-Match", `"7"`).delete(path).problem(412, "version_mismatch")
		sc.member.with("If-Match", `"1"`).delete(path).want(204)
		for _, rest := range []string{"", "/content", "/thumbnail"} {
			sc.member.get(path+rest).problem(404, "not_found")
		}
		sc.member.delete(path).problem(404, "not_found")
		sc.cleanUp()
		sc.wantStored(0, "after the cleanup")
	})
}

func TestPartsOfAFile(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ada := ts.signUp("Ada")
	path := "/api/v1/attachments/" + ada.attach(ada.task(ada.project("Launch"), "Ship"), "digits", "0123456789") + "/content"
	tag := ada.get(path).header.Get("ETag")
	for asked, want := range map[string]string{
		"bytes=0-0": "0", "bytes=2-4": "234", "bytes=8-": "89", "bytes=-3": "789", "bytes=-99": "0123456789", "bytes=5-99999999999999999999": "56789", "bytes=0-9": "0123456789", "bytes= 1-2 ": "12",
	} {
		a := ada.with("Range", asked).get(path).want(206)
		from := strings.Index("0123456789", want)
		if string(a.body) != want || a.header.Get("Content-Range") != fmt.Sprintf("bytes %d-%d/10", from, from+len(want)-1) {
			t.Errorf("%s: got %q, %v", asked, a.body, a.header)
		}
	}
	for _, asked := range []string{"bytes=0-1,3-4", "bytes=4-2", "bytes=a-b", "bytes=1", "bytes=-", "bytes", "items=0-1", "bytes=--1", "bytes=+1-2", "bytes=1-2;3", "0-1", "bytes=1-٣"} {
		if a := ada.with("Range", asked).get(path).want(200); string(a.body) != "0123456789" || a.header.Get("Content-Range") != "" {
			t.Errorf("%s: got %q, %v", asked, a.body, a.header)
		}
	}
	for _, asked := range []string{"bytes=10-", "bytes=10-11", "bytes=-0", "bytes=99999999999999999999-"} {
		a := ada.with("Range", asked).get(path).problem(416, "range_not_satisfiable")
		if a.header.Get("Content-Range") != "bytes */10" || a.header.Get("Content-Disposition") != "" {
			t.Errorf("%s: got %v", asked, a.header)
		}
	}
	ada.with("Range", "bytes=1-1").with("If-Range", tag).get(path).want(206)
	for _, other := range []string{`"x"`, "W/" + tag, "Mon, 02 Jan 2006 15:04:05 GMT"} {
		ada.with("Range", "bytes=1-1").with("If-Range", other).get(path).want(200)
	}
}

func TestKindsOfFilesAreWhatTheyAre(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ada := ts.signUp("Ada")
	task := ada.task(ada.project("Launch"), "Ship")
	for name, want := range map[string]struct{ content, media string }{
		"a.png":     {dot, "image/png"},
		"a.pdf":     {"%PDF-1.7\n", "application/pdf"},
		"a.zip":     {"PK\x03\x04", "application/zip"},
		"a.txt":     {"Hello", "text/plain"},
		"utf16.txt": {"\xff\xfeH\x00", "text/plain"},
		"a.html":    {"<html><script>alert(1)</script>", "application/octet-stream"},
		"b.html":    {"<!-- --><script>alert(1)</script>", "application/octet-stream"},
		"c.png":     {"\n<!DOCTYPE html><p>", "application/octet-stream"},
		"a.svg":     {`<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>`, "application/octet-stream"},
		"b.svg":     {`<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>`, "text/plain"}, // a sandboxed download like all
		"a.gif":     {"GIF89a/*" + strings.Repeat("\x00", 20) + "*/=1;alert(1)", "image/gif"},
		"a.wasm":    {"\x00asm\x01\x00\x00\x00", "application/octet-stream"},
		"a.ttf":     {"\x00\x01\x00\x00", "application/octet-stream"},
		"empty":     {"", "text/plain"},
	} {
		a := ada.post("/api/v1/tasks/"+task+"/attachments", formOf(name, want.content)).want(201).is("contentType", want.media)
		got := ada.get("/api/v1/attachments/" + a.str("id") + "/content").want(200)
		if string(got.body) != want.content || got.header.Get("Content-Type") != want.media || !strings.HasPrefix(got.header.Get("Content-Disposition"), "attachment;") ||
			!strings.HasPrefix(got.header.Get("Content-Security-Policy"), "sandbox;") || got.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: got %q, %v", name, got.body, got.header)
		}
	}
}

// fileNames are what clients call files, and what these are called here.
var fileNames = map[string]string{
	"plan.pdf":                           "plan.pdf",
	"../../etc/passwd":                   "passwd",
	`..\..\boot.ini`:                     "boot.ini",
	`C:\Users\ada\Übersicht.md`:          "Übersicht.md",
	"/":                                  "file",
	"..":                                 "file",
	" . ":                                "file",
	"a/..":                               "file",
	"":                                   "file",
	"\u200b\u200d":                       "file",
	".profile":                           ".profile",
	"  spaced out.txt  ":                 "spaced out.txt",
	"dots...":                            "dots",
	"exe.\u202Efdp.exe":                  "exe.fdp.exe",
	"a\u2028b\u2066c\x7f\x1b.d":          "abc.d",
	"a\x00b.txt":                         "ab.txt",
	"a\xffb.txt":                         "a\ufffdb.txt",
	`quo"te;%22'.txt`:                    `quo"te;%22'.txt`,
	"日本語 🚀.txt":                          "日本語 🚀.txt",
	strings.Repeat("ü", 10_000) + ".tar": strings.Repeat("ü", 251) + ".tar",
	strings.Repeat("x.", 300):            strings.TrimSuffix(strings.Repeat("x.", 128), "."),
	"a." + strings.Repeat("b", 300):      "a." + strings.Repeat("b", 253),
}

func TestFileNamesAreMadeFitToBeShown(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ada := ts.signUp("Ada")
	task := ada.task(ada.project("Launch"), "Ship")
	for sent, want := range fileNames {
		if got := cleanFileName(sent); got != want {
			t.Errorf("%.100q: got %.300q, want %.300q", sent, got, want)
		}
		if len(sent) > 4000 || strings.ContainsAny(sent, "\x00\x1b\x7f") || sent == "" { // what a header may not have
			continue
		}
		quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(sent)
		a := ada.post("/api/v1/tasks/"+task+"/attachments", formOf(quoted, "x")).want(201)
		if got := a.str("name"); got != want {
			t.Errorf("%.100q over the wire: got %.300q, want %.300q", sent, got, want)
		}
		head := ada.get("/api/v1/attachments/" + a.str("id") + "/content").want(200).header.Get("Content-Disposition")
		if _, params, err := mime.ParseMediaType(head); err != nil || params["filename"] != want {
			t.Errorf("%.100q: got %q, %v", sent, head, err)
		}
	}
	// RFC 8187 says in the header itself what the name is.
	a := ada.post("/api/v1/tasks/"+task+"/attachments", partOf(`form-data; name=file; filename*=UTF-8''%2e%2e%2f%0d%0aSet-Cookie%3a%20a%3db%e2%80%ae.txt`, "x")+"--"+formBoundary+"--").want(201).is("name", "Set-Cookie: a=b.txt")
	if got := ada.get("/api/v1/attachments/" + a.str("id") + "/content").want(200).header; got.Get("Set-Cookie") != "" {
		t.Errorf("got %v", got)
	}
}

// FuzzMultipartName looks for a name that is not fit to be shown, or that a Content-Disposition loses.
func FuzzMultipartName(f *testing.F) {
	for sent := range fileNames {
		f.Add(sent)
	}
	f.Fuzz(func(t *testing.T, sent string) {
		name := cleanFileName(sent)
		var rules fields
		if rules.text("name", name, 1, maxFileName, false); len(rules.errs) > 0 || !utf8.ValidString(name) || strings.ContainsAny(name, "/\\\r\n\x00") || strings.Trim(name, ".") == "" {
			t.Errorf("%q becomes %q: %v", sent, name, rules.errs)
		}
		if again := cleanFileName(name); again != name {
			t.Errorf("%q becomes %q, and that %q", sent, name, again)
		}
		head := offer(name)
		kind, params, err := mime.ParseMediaType(head)
		if err != nil || kind != "attachment" || params["filename"] != name || strings.ContainsFunc(head, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%q is offered as %q, which is %v, %v", name, head, params, err)
		}
	})
}

func TestFormsThatAreRefused(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	task := sc.member.task(sc.project, "Ship")
	path := "/api/v1/tasks/" + task + "/attachments"
	end := "--" + formBoundary + "--\r\n"
	good := formOf("a.txt", "content")
	before := sc.state()
	for name, test := range map[string]struct {
		body, media string
		status      int
		code        string
		field       [2]string
	}{
		"no part":                         {end, "", 422, "validation_failed", [2]string{"file", "required"}},
		"another part":                    {partOf(`form-data; name="upload"; filename="a"`, "x") + end, "", 422, "validation_failed", [2]string{"upload", "unknown_field"}},
		"a field":                         {partOf(`form-data; name="title"`, "x") + good, "", 422, "validation_failed", [2]string{"title", "unknown_field"}},
		"a field after the file":          {strings.TrimSuffix(good, end) + partOf(`form-data; name="title"`, "x") + end, "", 422, "validation_failed", [2]string{"title", "unknown_field"}},
		"two files":                       {strings.TrimSuffix(good, end) + good, "", 422, "validation_failed", [2]string{"file", "repeated"}},
		"a file that has no filename":     {partOf(`form-data; name="file"`, "x") + end, "", 422, "validation_failed", [2]string{"file", "required"}},
		"a part without a disposition":    {"--" + formBoundary + "\r\nContent-Type: text/plain\r\n\r\nx\r\n" + end, "", 400, "bad_request", [2]string{}},
		"a part of another kind":          {partOf(`attachment; name="file"; filename="a"`, "x") + end, "", 400, "bad_request", [2]string{}},
		"a disposition that is none":      {partOf(`form-data; name="file; filename="a`, "x") + end, "", 400, "bad_request", [2]string{}},
		"a CR in the name":                {partOf("form-data; name=\"file\"; filename=\"a\rb\"", "x") + end, "", 400, "bad_request", [2]string{}},
		"a file in base64":                {strings.Replace(good, "Content-Type:", "Content-Transfer-Encoding: base64\r\nContent-Type:", 1), "", 400, "bad_request", [2]string{}},
		"nothing":                         {"", formMedia, 400, "bad_request", [2]string{}},
		"no boundary in it":               {"content", formMedia, 400, "bad_request", [2]string{}},
		"another boundary":                {good, "multipart/form-data; boundary=other", 400, "bad_request", [2]string{}},
		"a file that is cut off":          {good[:len(good)-len(end)-4], "", 400, "bad_request", [2]string{}},
		"a head that is cut off":          {good[:40], "", 400, "bad_request", [2]string{}},
		"no end":                          {good[:len(good)-6], "", 400, "bad_request", [2]string{}},
		"something instead of an end":     {good[:len(good)-6] + "zzzz\r\n", "", 400, "bad_request", [2]string{}},
		"a head of 100 KB":                {strings.Replace(good, "Content-Type:", "X-Long: "+strings.Repeat("x", 100_000)+"\r\nContent-Type:", 1), "", 413, "body_too_large", [2]string{}},
		"a head of 2 000 lines":           {strings.Replace(good, "Content-Type:", strings.Repeat("X-Again: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n", 2000)+"Content-Type:", 1), "", 413, "body_too_large", [2]string{}},
		"a preamble of 100 KB":            {strings.Repeat("x\r\n", 33_000) + good, formMedia, 413, "body_too_large", [2]string{}},
		"a second head of 100 KB":         {strings.TrimSuffix(good, end) + strings.Replace(good, "Content-Type:", "X-Long: "+strings.Repeat("x", 100_000)+"\r\nContent-Type:", 1), "", 413, "body_too_large", [2]string{}},
		"JSON":                            {`{"file":"x"}`, "", 415, "unsupported_media", [2]string{}},
		"no media type":                   {good, "none", 415, "unsupported_media", [2]string{}},
		"a mixed body":                    {good, "multipart/mixed; boundary=" + formBoundary, 415, "unsupported_media", [2]string{}},
		"no boundary in the header":       {good, "multipart/form-data", 415, "unsupported_media", [2]string{}},
		"an empty boundary":               {good, `multipart/form-data; boundary=""`, 415, "unsupported_media", [2]string{}},
		"a boundary of 71 characters":     {good, "multipart/form-data; boundary=" + strings.Repeat("b", 71), 415, "unsupported_media", [2]string{}},
		"two boundaries":                  {good, formMedia + "; boundary=other", 415, "unsupported_media", [2]string{}},
		"a form in the form of a browser": {"file=x", "application/x-www-form-urlencoded", 415, "unsupported_media", [2]string{}},
	} {
		sc.run(name, func(t *testing.T) {
			if test.media != "" {
				sc.member.with("Content-Type", test.media)
			}
			a := sc.member.refused("POST", path, test.body, test.status, test.code)
			if test.field[0] != "" {
				a.field(test.field[0], test.field[1])
			}
			sc.unchanged(before, name)
			sc.wantStored(0, name)
		})
	}
	sc.member.with("Content-Encoding", "gzip").refused("POST", path, good, 415, "unsupported_media")
	sc.member.keyed("a b").refused("POST", path, good, 400, "bad_parameter").field("Idempotency-Key", "invalid_key")
	sc.unchanged(before, "a form that was refused")
	for _, body := range []string{good, "preamble\r\n" + good + "epilogue", strings.TrimSuffix(good, "\r\n")} {
		sc.member.with("Content-Type", formMedia).post(path, body).want(201).is("size", 7)
	}
}

// sending is an upload whose body comes when the test wants it to.
type sending struct {
	*io.PipeWriter
	answer chan *answer // nil where the request failed
}

// send begins an upload. The path ends in /attachments; the file has no name that matters.
func (c *client) send(path string) *sending {
	c.s.t.Helper()
	r, w := io.Pipe()
	req, err := http.NewRequest("POST", c.s.http.URL+path, r)
	if err != nil {
		c.s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Content-Type", formMedia)
	up := &sending{w, make(chan *answer, 1)}
	t := c.s.t
	go func() {
		resp, err := testHTTP.Do(req)
		if err != nil {
			r.CloseWithError(err)
			up.answer <- nil
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		r.CloseWithError(errors.New("answered"))
		up.answer <- &answer{t, "POST " + path, resp.StatusCode, resp.Header, body}
	}()
	return up
}

// begin sends the head of a form and some of its file.
func (up *sending) begin(content string) {
	io.WriteString(up, strings.TrimSuffix(formOf("f", content), "\r\n--"+formBoundary+"--\r\n"))
}

// finish sends the end of the form and waits for the answer.
func (up *sending) finish() *answer {
	io.WriteString(up, "\r\n--"+formBoundary+"--\r\n")
	up.Close()
	return <-up.answer
}

func TestWhoMayNotAttachIsRefusedBeforeHeSends(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	task := sc.member.task(sc.project, "Ship")
	path := "/api/v1/tasks/" + task + "/attachments"
	before := sc.state()
	for name, test := range map[string]struct {
		c      *client
		status int
		code   string
	}{"a viewer": {sc.viewer, 403, "forbidden"}, "an outsider": {sc.outsider, 404, "not_found"}, "a stranger": {sc.anonymous(), 401, "unauthenticated"}} {
		sc.run(name, func(t *testing.T) {
			up := test.c.send(path) // not a byte of the body comes
			(<-up.answer).problem(test.status, test.code)
		})
	}
	sc.unchanged(before, "who may not attach")
	sc.run("and who may no longer when he is through", func(t *testing.T) {
		removed := sc.signUp("Removed")
		sc.owner.add(sc.project, removed, roleMember)
		up := removed.send(path)
		up.begin("content")
		eventually(t, time.Minute, "it comes in", func() bool { return sc.stored() == 1 })
		sc.owner.delete("/api/v1/projects/" + sc.project + "/members/" + removed.id).want(204)
		up.finish().problem(404, "not_found")
		sc.wantStored(0, "a member who was removed meanwhile")
	})
	sc.run("and when the task is gone by then", func(t *testing.T) {
		gone := sc.member.task(sc.project, "Gone")
		up := sc.member.send("/api/v1/tasks/" + gone + "/attachments")
		up.begin("content")
		eventually(t, time.Minute, "it comes in", func() bool { return sc.stored() == 1 })
		sc.owner.delete("/api/v1/tasks/" + gone).want(204)
		up.finish().problem(404, "not_found")
		sc.wantStored(0, "a task that went meanwhile")
	})
	sc.run("and in an archived project", func(t *testing.T) {
		id := sc.member.attach(task, "a", "x")
		sc.owner.patch("/api/v1/projects/"+sc.project, `{"status":"archived"}`).want(200)
		sc.member.post(path, formOf("a", "x")).problem(409, "project_not_active")
		sc.member.delete("/api/v1/attachments/"+id).problem(409, "project_not_active")
		sc.viewer.get("/api/v1/attachments/" + id + "/content").want(200)
		sc.owner.patch("/api/v1/projects/"+sc.project, `{"status":"active"}`).want(200)
		sc.member.delete("/api/v1/attachments/" + id).want(204)
	})
}

func TestAFileIsDeletedByItsAuthorOrAnAdmin(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	task := sc.member.task(sc.project, "Ship")
	other := sc.signUp("Other")
	sc.owner.add(sc.project, other, roleMember)
	path := func() string { return "/api/v1/attachments/" + sc.member.attach(task, "a", "x") }
	first := path()
	other.delete(first).problem(403, "forbidden")
	sc.manager.delete(first).problem(403, "forbidden")
	sc.member.delete(first).want(204)
	for _, c := range []*client{sc.projectAdmin, sc.owner, sc.admin} {
		c.delete(path()).want(204)
	}
	last := path()
	sc.owner.patch("/api/v1/projects/"+sc.project+"/members/"+sc.member.id, `{"role":"viewer"}`).want(200)
	sc.member.delete(last).problem(403, "forbidden")
	sc.member.get(last).want(200)
}

func TestLimitsOfFiles(t *testing.T) {
	t.Parallel()
	sc := newSceneWith(t, "UPLOAD_MAX_BYTES=1000", "STORAGE_QUOTA_BYTES=2500")
	task := sc.member.task(sc.project, "Ship")
	path := "/api/v1/tasks/" + task + "/attachments"
	of := func(n int) string { return formOf("f", strings.Repeat("x", n)) }

	sc.run("a file may have so many bytes and not one more", func(t *testing.T) {
		id := sc.member.post(path, of(1000)).want(201).str("id")
		before := sc.state()
		sc.member.post(path, of(1001)).problem(413, "file_too_large")
		sc.member.post(path, of(50_000)).problem(413, "file_too_large")
		sc.member.post(path, of(200_000)).problem(413, "body_too_large") // as its Content-Length says
		sc.unchanged(before, "a file that is too large")
		sc.wantStored(1, "files that are too large")
		sc.member.delete("/api/v1/attachments/" + id).want(204)
		sc.cleanUp()
	})
	sc.run("also where it does not say how long it is", func(t *testing.T) {
		up := sc.member.send(path)
		go up.begin(strings.Repeat("x", 10<<20))
		(<-up.answer).problem(413, "file_too_large")
		sc.wantStored(0, "a file without a length")
	})
	sc.run("the files of a project may have so many together, and not one more", func(t *testing.T) {
		first := sc.member.attach(task, "a", strings.Repeat("x", 1000))
		sc.member.attach(sc.member.task(sc.project, "Other"), "a", strings.Repeat("x", 1000))
		sc.member.post(path, of(501)).problem(413, "quota_exceeded")
		sc.member.post(path, of(500)).want(201)
		sc.member.post(path, of(0)).want(201)
		sc.member.post(path, of(1)).problem(413, "quota_exceeded")
		sc.member.delete("/api/v1/attachments/" + first).want(204)
		sc.member.post(path, of(1000)).want(201)
		sc.cleanUp()
		sc.wantStored(4, "a full project")
		sc.owner.attach(sc.owner.task(sc.newProject(), "Elsewhere"), "a", strings.Repeat("x", 1000))
	})
	sc.run("also of two who come at once", func(t *testing.T) {
		task := sc.owner.task(sc.newProject(), "Ship")
		sc.owner.attach(task, "a", strings.Repeat("x", 1000))
		files := sc.stored()
		var ups []*sending
		for range 2 {
			up := sc.owner.send("/api/v1/tasks/" + task + "/attachments")
			up.begin(strings.Repeat("x", 1000))
			ups = append(ups, up)
		}
		eventually(t, time.Minute, "both come in", func() bool { return sc.stored() == files+2 })
		got := []int{ups[0].finish().status, ups[1].finish().status}
		slices.Sort(got)
		if !slices.Equal(got, []int{201, 413}) || sc.stored() != files+1 {
			t.Errorf("got %v and %d files more", got, sc.stored()-files)
		}
	})
}

// newSceneWith is a scene with settings of its own.
func newSceneWith(t *testing.T, env ...string) *scene {
	t.Helper()
	sc := &scene{testServer: newTestServer(t, env...)}
	sc.admin, sc.owner, sc.member = sc.signUp("Admin"), sc.signUp("Owner"), sc.signUp("Member")
	sc.projectAdmin, sc.viewer = sc.signUp("Keeper"), sc.signUp("Viewer")
	sc.project = sc.newProject()
	return sc
}

func TestAnUploadThatIsAbortedLeavesNothing(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	path := "/api/v1/tasks/" + sc.member.task(sc.project, "Ship") + "/attachments"
	before := sc.state()
	for range 3 {
		up := sc.member.send(path)
		up.begin(strings.Repeat("x", 1<<20))
		eventually(t, time.Minute, "it comes in", func() bool { return sc.stored() == 1 })
		up.CloseWithError(errors.New("the client hangs up"))
		if a := <-up.answer; a != nil {
			t.Errorf("got %d", a.status)
		}
		eventually(t, time.Minute, "nothing is left", func() bool { return sc.stored() == 0 && sc.count("blobs") == 0 })
	}
	sc.unchanged(before, "an upload that was aborted")
}

func TestRepeatedUploads(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	task := sc.member.task(sc.project, "Ship")
	path, elsewhere := "/api/v1/tasks/"+task+"/attachments", "/api/v1/tasks/"+sc.member.task(sc.project, "Other")+"/attachments"
	first := sc.member.keyed("one").post(path, formOf("a.txt", "content")).want(201)
	before := sc.state()
	wantReplay(t, first, sc.member.keyed("one").post(path, formOf("a.txt", "content")))
	other := strings.ReplaceAll(formOf("a.txt", "content"), formBoundary, "other-boundary") // as every browser makes
	wantReplay(t, first, sc.member.keyed("one").with("Content-Type", "multipart/form-data; boundary=other-boundary").post(path, other))
	sc.member.keyed("one").post(path, formOf("a.txt", "another")).problem(422, "idempotency_key_reused")
	sc.member.keyed("one").post(path, formOf("b.txt", "content")).problem(422, "idempotency_key_reused")
	sc.member.keyed("one").post(elsewhere, formOf("a.txt", "content")).problem(422, "idempotency_key_reused")
	sc.wantStored(1, "repetitions")
	sc.unchanged(before, "repetitions")
	sc.viewer.keyed("two").post(path, formOf("a.txt", "content")).problem(403, "forbidden")
	sc.member.keyed("two").post(path, "--"+formBoundary+"--").problem(422, "validation_failed")
	wantReplay(t, sc.member.keyed("two").post(path, formOf("a.txt", "content")).want(201), sc.member.keyed("two").post(path, formOf("a.txt", "content")))
	answers := atOnce(4, func(int) *answer {
		return (&client{s: sc.testServer, token: sc.member.token}).keyed("three").post(path, formOf("a.txt", "at once"))
	})
	made := map[string]bool{}
	for _, a := range answers {
		if a.status == 201 {
			made[a.str("id")] = true
		} else {
			a.problem(409, "idempotency_key_in_use")
		}
	}
	if len(made) != 1 {
		t.Errorf("four at once made %d", len(made))
	}
	sc.wantStored(3, "repetitions at once")
}

func TestWhatNothingNeedsIsRemovedFromTheStorage(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	put := func(name string) string {
		sc.t.Helper()
		if err := sc.blobs.put(t.Context(), name, strings.NewReader("x")); err != nil {
			sc.t.Fatal(err)
		}
		return name
	}
	sc.run("of uploads whose process died, after a day", func(t *testing.T) {
		sc.sql(reserveBlobSQL, put("BEFOREITSROWWASCOMMITTED"), false)
		sc.sql(reserveBlobSQL, "BEFOREITSFIRSTBYTE", false)
		sc.sql("UPDATE blobs SET created_at = clock_timestamp() - interval '23 hours'")
		sc.cleanUp()
		if sc.stored() != 1 || sc.count("blobs") != 2 {
			t.Error("an upload is removed while it may still go on")
		}
		sc.sql("UPDATE blobs SET created_at = clock_timestamp() - interval '25 hours'")
		sc.cleanUp()
		sc.wantStored(0, "a day later")
	})
	sc.run("of tasks and projects that were purged", func(t *testing.T) {
		project := sc.newProject()
		task, other := sc.owner.task(sc.project, "Purged"), sc.owner.task(project, "Purged with its project")
		for _, task := range []string{task, other} {
			sc.process(sc.owner.attach(task, "dot.png", dot))
		}
		sc.wantStored(4, "two files and their thumbnails")
		sc.owner.delete("/api/v1/tasks/" + task).want(204)
		sc.owner.delete("/api/v1/projects/" + project).want(204)
		sc.cleanUp()
		sc.wantStored(4, "the trash")
		sc.sql("UPDATE tasks SET deleted_at = deleted_at - interval '31 days' WHERE deleted_at IS NOT NULL")
		sc.sql("UPDATE projects SET deleted_at = deleted_at - interval '31 days' WHERE deleted_at IS NOT NULL")
		if err := sc.runTrashPurge(t.Context(), job{}, &pgx.Batch{}); err != nil {
			t.Fatal(err)
		}
		sc.cleanUp()
		sc.wantStored(0, "a purge")
	})
	sc.run("by a job, soon after an attachment was deleted", func(t *testing.T) {
		id := sc.member.attach(sc.member.task(sc.project, "Ship"), "dot.png", dot)
		sc.process(id)
		sc.startWorking()
		sc.member.delete("/api/v1/attachments/" + id).want(204)
		eventually(t, time.Minute, "it is gone", func() bool { return sc.stored() == 0 && sc.count("blobs") == 0 })
	})
	sc.run("and one that the storage does not give up keeps no other", func(t *testing.T) {
		task := sc.member.task(sc.project, "Many")
		for i := range 3 {
			sc.member.attach(task, fmt.Sprint(i), "x")
		}
		sc.sql("DELETE FROM attachments")
		whole := sc.blobs
		stubborn, err := queryValue[string](t.Context(), sc.db, "SELECT min(key) FROM blobs")
		if err != nil {
			t.Fatal(err)
		}
		sc.blobs = keepsOne{whole, stubborn}
		if err := sc.runAttachmentCleanup(t.Context(), job{}, &pgx.Batch{}); err == nil {
			t.Error("got no error")
		}
		sc.wantStored(1, "one that stays")
		sc.blobs = whole
		sc.cleanUp()
		sc.wantStored(0, "the next time")
	})
}

// keepsOne is a storage that does not give up one of its blobs.
type keepsOne struct {
	blobStore
	key string
}

func (k keepsOne) delete(ctx context.Context, key string) error {
	if key == k.key {
		return &storageError{cause: errors.New("mine")}
	}
	return k.blobStore.delete(ctx, key)
}

func TestFilesGoWithTheirTask(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	task := sc.owner.task(sc.project, "Ship")
	id := sc.owner.attach(task, "a", "content")
	path := "/api/v1/attachments/" + id
	sc.run("into the trash and back", func(t *testing.T) {
		sc.owner.delete("/api/v1/tasks/" + task).want(204)
		for _, rest := range []string{"", "/content"} {
			sc.owner.get(path+rest).problem(404, "not_found")
		}
		sc.owner.get("/api/v1/tasks/"+task+"/attachments").problem(404, "not_found")
		sc.owner.post("/api/v1/tasks/"+task+"/attachments", formOf("a", "x")).problem(404, "not_found")
		sc.owner.delete(path).problem(404, "not_found")
		sc.owner.post("/api/v1/tasks/"+task+"/restore", "").want(200)
		sc.viewer.get(path + "/content").want(200)
	})
	sc.run("into another project", func(t *testing.T) {
		there := sc.owner.project("There")
		sc.owner.add(there, sc.outsider, roleViewer)
		sc.owner.post("/api/v1/tasks/"+task+"/move", `{"projectId":"`+there+`"}`).want(200)
		sc.owner.get(path).want(200).is("projectId", there)
		sc.outsider.get(path + "/content").want(200)
		sc.viewer.get(path+"/content").problem(404, "not_found")
		sc.viewer.get(path).problem(404, "not_found")
	})
}

// What the pace allows a client, by what he has been waited for and what has come.
func TestThePaceOfTransfers(t *testing.T) {
	t.Parallel()
	var last time.Time
	set := func(at time.Time) error { last = at; return nil }
	p := &pace{}
	left := func(waited time.Duration, n int64) time.Duration {
		p.waited, p.bytes = waited, n
		p.step(set, func() (int, error) { return 0, nil })
		return time.Until(last).Round(10 * time.Second)
	}
	for _, test := range []struct {
		waited time.Duration
		bytes  int64
		want   time.Duration
	}{
		{0, 0, 30 * time.Second}, {20 * time.Second, 0, 10 * time.Second}, {time.Hour, 0, 30*time.Second - time.Hour}, {0, 16 << 20, 30*time.Second + 1024*time.Second}, {1024 * time.Second, 16 << 20, 30 * time.Second}, {0, 48 << 30, maxTransfer},
	} {
		if got := left(test.waited, test.bytes); got < test.want-20*time.Second || got > test.want+20*time.Second {
			t.Errorf("after %v and %d bytes: got %v, want %v", test.waited, test.bytes, got, test.want)
		}
	}
}

// As many files come in at once as the process and a user may have; who has to wait is told, and when.
func TestUploadsAtOnceAreLimited(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	path := "/api/v1/tasks/" + sc.member.task(sc.project, "Ship") + "/attachments"
	var all []*sending
	under := func(c *client) {
		up := c.send(path)
		up.begin("x")
		all = append(all, up)
		eventually(t, time.Minute, "it comes in", func() bool { return sc.count("blobs") == len(all) })
	}
	refused := func(c *client, status int, code string) {
		t.Helper()
		before := sc.count("blobs")
		if a := c.post(path, formOf("one.txt", "too many")).problem(status, code); a.header.Get("Retry-After") == "" {
			t.Errorf("got %v", a.header)
		}
		if n := sc.count("blobs"); n != before {
			t.Errorf("%d blobs, want %d", n, before)
		}
	}
	for range maxUploadsOfUser {
		under(sc.member)
	}
	refused(sc.member, 429, "too_many_uploads")
	sc.viewer.post(path, formOf("one.txt", "no")).problem(403, "forbidden") // takes no place
	for len(all) < maxUploads {
		other := sc.signUp("Other")
		sc.owner.add(sc.project, other, roleMember)
		for range min(maxUploadsOfUser, maxUploads-len(all)) {
			under(other)
		}
	}
	refused(sc.owner, 503, "unavailable")
	refused(sc.member, 429, "too_many_uploads")
	all[0].finish().want(201)
	all[1].CloseWithError(errors.New("the client hangs up"))
	<-all[1].answer
	eventually(t, time.Minute, "what was aborted is gone", func() bool { return sc.count("blobs") == maxUploads-1 })
	sc.owner.attach(strings.Split(path, "/")[4], "two.txt", "both places are free again")
	sc.member.attach(strings.Split(path, "/")[4], "three.txt", "for him too")
	for _, up := range all[2:] {
		up.finish().want(201)
	}
	sc.uploads.mu.Lock()
	defer sc.uploads.mu.Unlock()
	if sc.uploads.all != 0 || len(sc.uploads.taken) != 0 {
		t.Errorf("%d uploads are still counted, of %v", sc.uploads.all, sc.uploads.taken)
	}
}
