package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

// plainParameters are the parameters of GET /tasks as regular expressions have them; dates, times and
// lengths are judged besides.
var plainParameters = func() map[string]*regexp.Regexp {
	forms := map[string]*regexp.Regexp{}
	const id = `[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`
	list := func(words string) string { return `(` + words + `)(,(` + words + `))*` }
	for name, form := range map[string]string{
		"projectId": id, "assigneeId": id + `|me|none`, "createdBy": id + `|me`, "parentId": id + `|none`, "status": list(`todo|in_progress|review|done`), "priority": list(`low|medium|high|urgent`),
		"deleted": `true|false`, "overdue": `true|false`, "total": `true|false`, "label": `[^\x00-\x1f\x7f-\x9f]+`, "search": `[^\x00-\x1f\x7f-\x9f]{1,200}`, "dueFrom": `[1-9]\d{3}-\d\d-\d\d`,
		"dueTo": `[1-9]\d{3}-\d\d-\d\d`, "updatedSince": `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)`, "expand": list(`assignee|creator|project`),
		"sort": `-?(createdAt|updatedAt|dueDate|priority|title|position|number)`, "limit": `0*([1-9]|[1-9]\d|100)`,
	} {
		forms[name] = regexp.MustCompile(`^(?:` + form + `)$`)
	}
	return forms
}()

// plainQuery reads a query as the description has it; nil if it breaks a rule.
func plainQuery(text string) map[string]string {
	read := map[string]string{}
	for pair := range strings.SplitSeq(text, "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		name, err1 := url.QueryUnescape(name)
		value, err2 := url.QueryUnescape(value)
		form, known := plainParameters[name]
		_, twice := read[name]
		if err1 != nil || err2 != nil || !known || twice || strings.Contains(pair, ";") || !utf8.ValidString(value) || !form.MatchString(value) || name == "label" && strings.Count(value, ",") >= 50 {
			return nil
		}
		var err error
		switch name {
		case "dueFrom", "dueTo":
			_, err = time.Parse(time.DateOnly, value)
		case "updatedSince":
			_, err = time.Parse(time.RFC3339, value)
		}
		if err != nil {
			return nil
		}
		read[name] = value
	}
	return read
}

// FuzzFilter looks for a query of GET /tasks that PostgreSQL stumbles over, one that is judged
// otherwise than the description says, and for tasks in an answer that do not fit it.
func FuzzFilter(f *testing.F) {
	ts := newTestServer(f)
	ada := ts.signUp("Ada")
	project := ada.project("Fuzzed")
	for i, title := range []string{"one", "50% of_it", `back\slash`, "Ärger & co:*"} {
		ada.task(project, title, `"status":"`+taskStatuses[i]+`"`, `"priority":"`+taskPriorities[i]+`"`, `"labels":["a","100%"]`, `"dueDate":"2026-0`+string(rune('1'+i))+`-01"`)
	}
	for _, query := range []string{
		"", "status=todo,done&priority=low", "assigneeId=me&createdBy=me&parentId=none", "projectId=" + project, "projectId=" + project + "&sort=-position&search=one", "projectId=" + newUUID().String(),
		"label=a,100%25&deleted=true", "dueFrom=2026-01-01&dueTo=9999-12-31&updatedSince=2026-01-01T00:00:00%2B01:00", "overdue=false&total=true&limit=1&sort=title", "search=%C3%84rger+%26+co%3A%2A", "search=%25",
		"search=%5C&sort=priority", "search=a%27%29%3B--&limit=100", "search=%00", "sort=number", "sort=-dueDate&expand=project,assignee", "a=1;b=2", "status=%74odo", "status", "&&limit=2&", "limit=%2B1", "cursor=AAAA",
	} {
		f.Add(query)
	}
	handler := ts.http.Config.Handler
	f.Fuzz(func(t *testing.T, query string) {
		if len(query) > maxQuery || strings.ContainsFunc(query, func(c rune) bool { return c <= ' ' || c > '~' || c == '#' }) { // what net/http lets through
			return
		}
		r := httptest.NewRequest("GET", "/api/v1/tasks", nil)
		r.URL.RawQuery = query
		r.Header.Set("Authorization", "Bearer "+ada.token)
		w := httptest.NewRecorder()
		began := time.Now()
		handler.ServeHTTP(w, r)
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("%q took %v", query, took)
		}
		defer ts.log.reset()
		plain := plainQuery(query)
		named := plain["projectId"]
		switch {
		case w.Code == 400 && plain == nil:
			return
		case w.Code == 404 && named != "" && named != project:
			return
		case w.Code != 200 || plain == nil:
			t.Fatalf("%q: got %d, but plainly it is %q: %s\n%s", query, w.Code, plain, w.Body, ts.log.grep("ERROR"))
		}
		var page list[task]
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil {
			t.Fatal(err)
		}
		among := func(name, value string) bool {
			return plain[name] == "" || slices.Contains(strings.Split(plain[name], ","), value)
		}
		for _, item := range page.Items {
			due := ""
			if item.DueDate != nil {
				due = *item.DueDate
			}
			labelled := plain["label"] == "" || slices.ContainsFunc(item.Labels, func(l string) bool { return among("label", l) })
			if !among("status", item.Status) || !among("priority", item.Priority) || !labelled || plain["dueFrom"] > due && plain["dueFrom"] != "" || plain["dueTo"] < due && plain["dueTo"] != "" ||
				plain["deleted"] == "true" || named != "" && named != item.ProjectID.String() {
				t.Errorf("%q finds %+v", query, item)
			}
		}
	})
}

// FuzzForwardedFor compares with reading the whole list from its right end, and adds claims on its
// left, which must change nothing.
func FuzzForwardedFor(f *testing.F) {
	var networks []netip.Prefix
	for _, network := range []string{"10.0.0.0/8", "127.0.0.0/8", "2001:db8:ff::/48"} {
		networks = append(networks, netip.MustParsePrefix(network))
	}
	s := &server{config: config{proxies: networks}}
	for _, list := range []string{"192.0.2.1", "6.6.6.6, 192.0.2.1, 10.0.0.1", "10.0.0.2,10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1,2001:db8:ff::2", "", ",", "unknown, 10.0.0.1", "192.0.2.1:80", "fe80::1%eth0",
		strings.Repeat("10.0.0.1,", 19) + "10.0.0.2", strings.Repeat("10.0.0.1,", 30), "\t192.0.2.1 ", "0x7f.1", "[::1]"} {
		f.Add(list, "6.6.6.6")
	}
	proxy := netip.MustParseAddr("127.0.0.1")
	f.Fuzz(func(t *testing.T, list, claim string) {
		began := time.Now()
		got := s.forwardedFor(list, proxy)
		hops := strings.Split(list, ",")
		slices.Reverse(hops)
		want, settled := proxy, false
		for i, hop := range hops {
			addr, err := netip.ParseAddr(strings.Trim(hop, " \t"))
			if settled = err != nil || strings.Contains(hop, "%") || i == maxHops; settled {
				break
			}
			if want = addr.Unmap(); !slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(want) }) {
				settled = true
				break
			}
		}
		if got != want || !got.IsValid() || got.Zone() != "" {
			t.Errorf("%q: got %v, want %v", list, got, want)
		}
		if settled {
			if again := s.forwardedFor(claim+","+list, proxy); again != got {
				t.Errorf("%q is %v, and with %q in front %v", list, got, claim, again)
			}
		}
		r := &http.Request{RemoteAddr: "192.0.2.99:1", Header: http.Header{"X-Forwarded-For": {list}, "X-Forwarded-Proto": {claim}}}
		if scheme := s.unproxy(r); scheme != "http" || r.RemoteAddr != "192.0.2.99:1" {
			t.Errorf("%q and %q of who is no proxy are believed: %s, %s", list, claim, scheme, r.RemoteAddr)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%d bytes took %v", len(list), took)
		}
	})
}

var fuzzRequests = flag.Int("fuzz-requests", 2000, "random requests that TestFuzzedRequests sends")

// fuzzer makes requests that are nearly right.
type fuzzer struct {
	*scene
	*rand.Rand
	routes  []route
	samples map[string]sample // by pattern
	makers  map[string]*client
	callers []*client
	words   []string // of everything that stood in a sample
}

// pick is one of several.
func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// recast gives every role to somebody new, as what was sent before may have ended sessions, accounts
// and projects, and makes new samples.
func (f *fuzzer) recast() {
	f.admin, f.manager = f.withRole("Admin", globalAdmin), f.withRole("Manager", globalManager)
	f.owner, f.projectAdmin, f.member, f.viewer, f.outsider = f.signUp("Owner"), f.signUp("Keeper"), f.signUp("Member"), f.signUp("Viewer"), f.signUp("Outsider")
	f.project = f.newProject()
	f.callers = []*client{f.admin, f.manager, f.owner, f.projectAdmin, f.member, f.viewer, f.outsider, f.deactivated, f.anonymous(), {s: f.testServer, token: "eyJhbGciOiJub25lIn0.e30."}}
	f.words = nil
	for _, rt := range f.routes {
		maker := pick(f.Rand, f.admin, f.owner)
		s := samples[rt.pattern](f.scene, maker)
		f.samples[rt.pattern], f.makers[rt.pattern] = s, cmp.Or(s.as, maker)
		f.words = append(f.words, strings.FieldsFunc(s.path+" "+s.body, func(c rune) bool { return strings.ContainsRune(` /?&="{}[],:`, c) })...)
	}
	f.words = slices.DeleteFunc(f.words, func(word string) bool { _, token := f.issued.Load(word); return token }) // whose place is not a path, which is logged
}

// text is one that something may stumble over.
func (f *fuzzer) text() string {
	switch f.IntN(4) {
	case 0:
		return pick(f.Rand, f.words...)
	case 1:
		return pick(f.Rand, sqlTexts...)
	case 2:
		return randomText()
	}
	return pick(f.Rand, "", " ", "\u200b", "a", "null", "0", "-1", "1e400", "todo", "done", "high", "me", "none", "true", "2026-02-30", "2026-03-01", "9999-12-31", "2026-01-01T00:00:00Z", "FREQ=DAILY;COUNT=3", "FREQ=YEARLY;BYDAY=53MO",
		"a@example.org", "a@b\r\nBcc: c@example.org", "https://example.org/a.png", "javascript:alert(1)", "Europe/Berlin", "../../etc/passwd", "de-DE", "#00ff00", "default", "noop", newUUID().String(), strings.Repeat("ü", 255), strings.Repeat("x", 30_000), "title", "-title", "WEB-1", "SCENE-1", "0", "1", "100", "\u202e")
}

// value is any JSON; what stands in @ @ becomes a text that is none.
func (f *fuzzer) value(depth int) any {
	switch f.IntN(10) {
	case 0:
		return nil
	case 1:
		return f.IntN(2) == 0
	case 2:
		return pick(f.Rand, 0, 1, -1, 0.5, 1e3, 1e308, -1e308, 0.125, 1<<53+1)
	case 3:
		return "@" + pick(f.Rand, "1e999", "01", "NaN", `"\ud800"`, `"\u0000"`, "'a'", "{}{}", strings.Repeat("[", 40), `{"a":1,"a":2}`, strings.Repeat("9", 400)) + "@"
	case 4:
		if depth < 3 {
			return map[string]any{f.text(): f.value(depth + 1), pick(f.Rand, f.words...): f.value(depth + 1)}
		}
	case 5:
		var list []any
		for range f.IntN(5) {
			list = append(list, f.value(depth+1))
		}
		return list
	}
	return f.text()
}

// mutated is a value with something in it changed.
func (f *fuzzer) mutated(v any) any {
	switch v := v.(type) {
	case map[string]any:
		names := slices.Sorted(func(yield func(string) bool) {
			for name := range v {
				if !yield(name) {
					return
				}
			}
		})
		switch {
		case len(names) == 0 || f.IntN(6) == 0:
			v[cmp.Or(pick(f.Rand, f.words...), "a")] = f.value(0)
		case f.IntN(6) == 0:
			delete(v, pick(f.Rand, names...))
		default:
			name := pick(f.Rand, names...)
			v[name] = f.mutated(v[name])
		}
		return v
	case []any:
		if len(v) > 0 && f.IntN(2) == 0 {
			i := f.IntN(len(v))
			v[i] = f.mutated(v[i])
			return v
		}
		return append(v, f.value(0))
	}
	return f.value(0)
}

var rawValue = regexp.MustCompile(`"@((?:[^"\\]|\\.)*)@"`)

// body is a sample's with a few changes, of its JSON or of its bytes.
func (f *fuzzer) body(good string) string {
	if good == "" && f.IntN(8) > 0 {
		return ""
	}
	text := cmp.Or(good, "{}")
	if f.IntN(5) > 0 {
		var v any
		json.Unmarshal([]byte(text), &v)
		for range f.IntN(4) {
			v = f.mutated(v)
		}
		text = rawValue.ReplaceAllStringFunc(jsonOf(v), func(quoted string) string {
			var raw string
			json.Unmarshal([]byte(quoted), &raw)
			return strings.Trim(raw, "@")
		})
	}
	if f.IntN(6) == 0 {
		b := []byte(text)
		for range 1 + f.IntN(3) {
			at := f.IntN(len(b) + 1)
			switch b = slices.Clone(b); f.IntN(3) {
			case 0:
				b = append(b[:at], b[min(len(b), at+f.IntN(5)):]...)
			case 1:
				b = slices.Insert(b, at, byte(f.IntN(256)))
			default:
				b = slices.Insert(b, at, b[at:min(len(b), at+f.IntN(20))]...)
			}
		}
		text = string(b)
	}
	return text
}

// path is a sample's with a segment or a parameter changed.
func (f *fuzzer) path(good string) string {
	path, query, _ := strings.Cut(good, "?")
	segments := strings.Split(path, "/")
	if f.IntN(6) == 0 {
		segments[1+f.IntN(len(segments)-1)] = pick(f.Rand, pick(f.Rand, badIDs...), pick(f.Rand, f.words...), url.PathEscape(f.text()))
	}
	if f.IntN(30) == 0 {
		segments = slices.Insert(segments, 1+f.IntN(len(segments)), pick(f.Rand, "", ".", "..", "x", "%2e%2e", url.PathEscape(f.text())))
	}
	path = strings.Join(segments, "/")
	if f.IntN(3) == 0 {
		for range 1 + f.IntN(3) {
			name := pick(f.Rand, "limit", "cursor", "total", "sort", "search", "status", "priority", "projectId", "assigneeId", "createdBy", "parentId", "label", "dueFrom", "dueTo", "updatedSince", "overdue", "deleted", "expand", "unread", "state", "kind", "group", "zzz")
			query += "&" + name + "=" + pick(f.Rand, url.QueryEscape(f.text()), f.text())
		}
	}
	return strings.ReplaceAll(path, "#", "") + "?" + strings.NewReplacer("#", "", " ", "+").Replace(strings.TrimPrefix(query, "&"))
}

// headers are those that change what a request means.
func (f *fuzzer) headers(header http.Header) {
	header.Set("X-Forwarded-For", fmt.Sprintf("2001:db8:%x::1", f.IntN(1<<16)))
	for name, values := range map[string][]string{
		"If-Match": {`"1"`, "*", `W/"1"`, `"99"`, "garbage", ""}, "If-None-Match": {`"1"`, "*", `"1", "2"`}, "Idempotency-Key": {"fuzz", "", `"quoted"`, strings.Repeat("k", 256), newUUID().String()},
		"Content-Type": {"application/json", "application/merge-patch+json", "text/plain", "", "application/json; charset=utf-16"}, "Content-Encoding": {"identity", "gzip"}, "Origin": {"https://evil.example", "null"}, "Sec-Fetch-Site": {"cross-site", "same-origin"},
		"X-Forwarded-For": {"192.0.2.1, 10.0.0.1", "garbage"}, "X-Forwarded-Proto": {"https", "http"}, "X-Request-Id": {"fuzz", strings.Repeat("x", 100)}, "Range": {"bytes=0-1"}, "Accept": {"text/html", "*/*;q=0"}, "Accept-Encoding": {"gzip", "x"},
		"X-HTTP-Method-Override": {"DELETE"}, "Traceparent": {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "garbage"}, "Cookie": {"a=b"}, "Connection": {"close"}, "Last-Event-ID": {"1"}, "User-Agent": {strings.Repeat("ü", 600), ""},
	} {
		if f.IntN(20) == 0 {
			header.Set(name, pick(f.Rand, values...))
		}
	}
}

// request is the next one; nil where it is none that net/http would send.
func (f *fuzzer) request() (*http.Request, string) {
	rt := pick(f.Rand, f.routes...)
	method, _, _ := strings.Cut(rt.pattern, " ")
	if f.IntN(20) == 0 {
		method = pick(f.Rand, "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "PROPFIND")
	}
	s := f.samples[rt.pattern]
	body := f.body(s.body)
	request, err := http.NewRequest(method, f.http.URL+f.path(s.path), strings.NewReader(body))
	if err != nil {
		return nil, ""
	}
	if isForm(s.body) {
		request.Header.Set("Content-Type", formMedia)
	} else if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	if f.IntN(10) == 0 {
		request.ContentLength = -1 // in chunks
	}
	f.headers(request.Header)
	as := f.makers[rt.pattern]
	if f.IntN(3) == 0 {
		as = pick(f.Rand, f.callers...)
	}
	if as.token != "" {
		request.Header.Set("Authorization", "Bearer "+as.token)
	}
	return request, fmt.Sprintf("%s %.500s %.2000s", method, request.URL, body)
}

// judge sends a request and says what is wrong with the answer, "" for nothing.
func judge(t *testing.T, request *http.Request) (status int, wrong string) {
	resp, err := testHTTP.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := bodyOf(resp)
	if err != nil {
		return 0, err.Error()
	}
	if resp.Close && (resp.StatusCode == 400 || resp.StatusCode == 431) && resp.Header.Get("X-Request-Id") == "" {
		return resp.StatusCode, "" // net/http refuses what no handler should see
	}
	checkHeaders(t, request.Method+" "+request.URL.Path, resp.Header)
	var p problem
	json.Unmarshal(body, &p)
	code, known := problemCodes[p.Code]
	switch {
	case len(body) > 1<<20:
		return resp.StatusCode, fmt.Sprintf("an answer of %d bytes", len(body))
	case resp.StatusCode < 300 && resp.Header.Get("Content-Type") == "application/json" && request.Method != "HEAD" && !json.Valid(body):
		return resp.StatusCode, "no JSON"
	case resp.StatusCode < 400 || request.Method == "HEAD":
	case resp.Header.Get("Content-Type") != "application/problem+json" || !known || code.status != resp.StatusCode || p.Detail == "" || bytes.Contains(body, []byte("SQLSTATE")) || bytes.Contains(body, []byte("goroutine")):
		return resp.StatusCode, "no whole problem"
	case resp.StatusCode == 503 && resp.Header.Get("Retry-After") == "":
		return resp.StatusCode, "no time to come back"
	}
	if resp.StatusCode >= 500 && resp.StatusCode != 503 {
		return resp.StatusCode, "an error of ours"
	}
	return resp.StatusCode, ""
}

// settled is how many goroutines and bytes there are when nothing is under way.
func settled(idle func()) (goroutines int, heap uint64) {
	var m runtime.MemStats
	for range 2 {
		idle()
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return runtime.NumGoroutine(), m.HeapAlloc
}

// TestFuzzedRequests sends random requests to every route, four at once. It runs alone, as it counts
// goroutines and bytes: go test -run FuzzedRequests -fuzz-requests 100000 -v .
func TestFuzzedRequests(t *testing.T) {
	seed := rand.Uint64()
	sc := newScene(t)
	sc.unrecorded = true
	sc.config.proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} // so that not all random passwords come from one network
	f := &fuzzer{scene: sc, Rand: rand.New(rand.NewPCG(seed, 0)), routes: sc.routes(), samples: map[string]sample{}, makers: map[string]*client{}}
	const atOnce, round = 4, 500
	rounds := max(4, *fuzzRequests/round)
	statuses, routes := map[int]int{}, map[string]int{}
	var goroutines [3]int // after the first round, in the middle, at the end
	var heap [3]uint64
	for i := range rounds {
		f.recast()
		sc.log.reset() // of what succeeded to make the samples
		for range round / atOnce {
			var mu sync.Mutex
			var all sync.WaitGroup
			for range atOnce {
				request, what := f.request()
				if request == nil {
					continue
				}
				all.Go(func() {
					status, wrong := judge(t, request)
					mu.Lock()
					defer mu.Unlock()
					statuses[status]++
					if wrong != "" {
						t.Errorf("seed %d: %s as %.300s: got %d, %s\n%s", seed, what, request.Header, status, wrong, sc.log.grep(`"level":"ERROR"`))
					}
				})
			}
			all.Wait()
		}
		for line := range strings.Lines(sc.log.String()) {
			var record struct {
				Msg, Route string
				Status     int
			}
			json.Unmarshal([]byte(line), &record)
			if record.Status > 0 && record.Status < 300 {
				routes[record.Route]++
			}
		}
		sc.checkLog(t)
		sc.log.reset()
		sc.issued.Clear()
		if at := slices.Index([]int{0, rounds / 2, rounds - 1}, i); at >= 0 {
			goroutines[at], heap[at] = settled(testHTTP.CloseIdleConnections)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d requests, which succeeded on %d of %d routes: statuses %v; goroutines %v and heap %v after the first round, in the middle and at the end", rounds*round, len(routes), len(f.routes), statuses, goroutines, heap)
	eventually(t, time.Minute, "as few goroutines as at first", func() bool {
		goroutines[2], heap[2] = settled(testHTTP.CloseIdleConnections)
		return goroutines[2] <= goroutines[0]+5
	})
	if heap[2] > heap[1]*5/4+8<<20 { // what is kept for callers and projects fills up meanwhile, and has an end
		t.Errorf("the heap grew from %d to %d", heap[1], heap[2])
	}
	if len(routes) < len(f.routes)*3/4 {
		t.Errorf("requests succeeded on %d of %d routes only: the others are not reached", len(routes), len(f.routes))
	}
	if statuses[503] > *fuzzRequests/100 {
		t.Errorf("%d requests got 503", statuses[503])
	}
}
