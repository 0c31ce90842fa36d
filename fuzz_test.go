package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
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
