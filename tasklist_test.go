package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// tasks are the items of a list.
func (a *answer) tasks() []task {
	a.t.Helper()
	var page list[task]
	if err := json.Unmarshal(a.want(200).body, &page); err != nil {
		a.t.Fatal(err)
	}
	return page.Items
}

// pages reads a list to its end.
func (c *client) pages(path string) []task {
	c.s.t.Helper()
	var all []task
	for path != "" {
		a := c.get(path)
		all = append(all, a.tasks()...)
		path = a.next()
	}
	return all
}

func ids(tasks []task) []uuid {
	var list []uuid
	for _, t := range tasks {
		list = append(list, t.ID)
	}
	return list
}

// taskKeys are the orders of taskOrders, in Go.
var taskKeys = map[string]func(a, b task) int{
	"createdAt": func(a, b task) int { return 0 },
	"updatedAt": func(a, b task) int { return a.UpdatedAt.Compare(b.UpdatedAt.Time) },
	"dueDate": func(a, b task) int {
		return cmp.Compare(*cmp.Or(a.DueDate, new("infinity")), *cmp.Or(b.DueDate, new("infinity")))
	},
	"priority": func(a, b task) int {
		return slices.Index(taskPriorities, a.Priority) - slices.Index(taskPriorities, b.Priority)
	},
	"title":    func(a, b task) int { return cmp.Compare(strings.ToLower(a.Title), strings.ToLower(b.Title)) },
	"position": func(a, b task) int { return cmp.Compare(a.Position, b.Position) },
	"number":   func(a, b task) int { return a.Number - b.Number },
}

// sorted are tasks in the order that the sort parameter names.
func sorted(tasks []task, sort string) []task {
	name, desc := strings.CutPrefix(sort, "-")
	out := slices.SortedFunc(slices.Values(tasks), func(a, b task) int {
		return cmp.Or(taskKeys[name](a, b), cmp.Compare(a.ID.String(), b.ID.String()))
	})
	if desc {
		slices.Reverse(out)
	}
	return out
}

// board is a server with tasks that differ in everything a list can ask for.
type board struct {
	*testServer
	root, alice, bob *client
	web, app, eves   string // eve's project is no concern of alice's and bob's
	live             []task // that alice sees
}

func newBoard(t *testing.T) board {
	b := board{testServer: newTestServer(t)}
	b.root, b.alice, b.bob = b.signUp("Root"), b.signUp("Alice"), b.signUp("Bob")
	eve := b.signUp("Eve")
	b.web, b.app, b.eves = b.alice.project("Web"), b.alice.project("App"), eve.project("Eves")
	b.alice.add(b.web, b.bob, roleMember)
	b.alice.add(b.app, b.bob, roleMember)
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	var made []string
	for i := range 36 {
		by, project := b.alice, b.web
		if i%4 == 3 {
			by = b.bob
		}
		if i >= 28 {
			project = b.app
		}
		more := []string{`"priority":"` + pick(taskPriorities...) + `"`, `"status":"` + pick(taskStatuses...) + `"`,
			pick(`"labels":[]`, `"labels":["bug"]`, `"labels":["bug","ui"]`, `"labels":["100%","Bug"]`),
			`"assigneeId":` + pick(`null`, `"`+b.alice.id+`"`, `"`+b.bob.id+`"`),
			`"dueDate":` + pick(`null`, `"2020-01-01"`, `"2020-01-02"`, `"9999-12-31"`, `"`+time.Now().UTC().Format(time.DateOnly)+`"`)}
		if i >= 6 && i < 12 {
			more = append(more, `"parentId":"`+made[i%3]+`"`)
		}
		made = append(made, by.task(project, pick("alpha", "Alpha", "beta 7", "Ärger", "ärger", "zeta_x", "Z"), more...))
	}
	eve.task(b.eves, "alpha", `"labels":["bug"]`)
	for i := range 4 {
		b.alice.delete("/api/v1/tasks/" + made[13+i*5]).want(204)
	}
	b.exec(`UPDATE tasks SET updated_at = date_trunc('second', updated_at) WHERE number % 2 = 0`) // ties
	b.live = b.alice.get("/api/v1/tasks?limit=100").tasks()
	if len(b.live) != 32 {
		t.Fatalf("alice sees %d tasks, want 32", len(b.live))
	}
	return b
}

// exec changes the database behind the service's back.
func (ts *testServer) exec(sql string, args ...any) {
	ts.t.Helper()
	if _, err := execute(ts.t.Context(), ts.db, sql, args...); err != nil {
		ts.t.Fatal(err)
	}
	ts.cache.forgetAll() // no log tells of it
}

// execLong is exec without the service's time limit.
func (ts *testServer) execLong(sql string, args ...any) {
	ts.t.Helper()
	conn, err := pgx.Connect(ts.t.Context(), string(ts.config.databaseURL))
	if err != nil {
		ts.t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(ts.t.Context()))
	if _, err := conn.Exec(ts.t.Context(), sql, args...); err != nil {
		ts.t.Fatal(err)
	}
}

// condition is a filter of the list and what it means.
type condition struct {
	query string
	holds func(task) bool
}

func (b board) conditions() []condition {
	alice, bob := b.alice.id, b.bob.id
	today := time.Now().UTC().Format(time.DateOnly)
	is := func(id *uuid, want string) bool { return id != nil && id.String() == want }
	due := func(t task) string { return *cmp.Or(t.DueDate, new("")) }
	overdue := func(t task) bool { return due(t) != "" && due(t) < today && t.Status != "done" }
	since := b.live[len(b.live)/2].UpdatedAt
	parent := b.live[slices.IndexFunc(b.live, func(t task) bool { return t.ParentID != nil })].ParentID.String()
	return []condition{
		{"projectId=" + b.web, func(t task) bool { return t.ProjectID.String() == b.web }},
		{"status=todo", func(t task) bool { return t.Status == "todo" }},
		{"status=done,review", func(t task) bool { return t.Status == "done" || t.Status == "review" }},
		{"priority=urgent", func(t task) bool { return t.Priority == "urgent" }},
		{"priority=low,high", func(t task) bool { return t.Priority == "low" || t.Priority == "high" }},
		{"assigneeId=me", func(t task) bool { return is(t.AssigneeID, alice) }},
		{"assigneeId=none", func(t task) bool { return t.AssigneeID == nil }},
		{"assigneeId=" + bob, func(t task) bool { return is(t.AssigneeID, bob) }},
		{"createdBy=me", func(t task) bool { return t.CreatedBy.String() == alice }},
		{"createdBy=" + bob, func(t task) bool { return t.CreatedBy.String() == bob }},
		{"parentId=none", func(t task) bool { return t.ParentID == nil }},
		{"parentId=" + parent, func(t task) bool { return is(t.ParentID, parent) }},
		{"label=bug", func(t task) bool { return slices.Contains(t.Labels, "bug") }},
		{"label=Bug,ui", func(t task) bool { return slices.Contains(t.Labels, "Bug") || slices.Contains(t.Labels, "ui") }},
		{"label=100%25", func(t task) bool { return slices.Contains(t.Labels, "100%") }},
		{"dueFrom=2020-01-02", func(t task) bool { return due(t) >= "2020-01-02" }},
		{"dueTo=2020-01-01", func(t task) bool { return due(t) != "" && due(t) <= "2020-01-01" }},
		{"overdue=true", overdue},
		{"overdue=false", func(t task) bool { return !overdue(t) }},
		{"updatedSince=" + since.Format(timestampFormat), func(t task) bool { return !t.UpdatedAt.Before(since.Time) }},
		{"search=arg", func(t task) bool { return false }},
		{"search=%C3%84RG", func(t task) bool { return strings.EqualFold(t.Title, "ärger") }},
		{"search=_x", func(t task) bool { return t.Title == "zeta_x" }},
		{"deleted=false", func(t task) bool { return true }},
	}
}

func TestListingTasks(t *testing.T) {
	t.Parallel()
	b := newBoard(t)
	conditions := b.conditions()

	b.run("keeps what every filter and every two of them say", func(t *testing.T) {
		for i, one := range conditions {
			for _, two := range conditions[i:] {
				name, _, _ := strings.Cut(one.query, "=")
				if strings.HasPrefix(two.query, name+"=") && one.query != two.query {
					continue // a parameter is given once
				}
				query := one.query
				if one.query != two.query {
					query += "&" + two.query
				}
				var want []task
				for _, task := range b.live {
					if one.holds(task) && two.holds(task) {
						want = append(want, task)
					}
				}
				a := b.alice.get("/api/v1/tasks?limit=100&total=true&sort=createdAt&" + query)
				equal(t, query, ids(a.tasks()), ids(sorted(want, "createdAt")))
				a.is("total", len(want))
			}
		}
	})
	b.run("keeps what many filters at once say", func(t *testing.T) {
		bug := b.alice.task(b.web, "Only one", `"status":"review","priority":"urgent","assigneeId":"`+b.bob.id+`","labels":["bug"],"dueDate":"2020-05-05"`)
		query := "/api/v1/tasks?projectId=" + b.web + "&status=review&priority=urgent&assigneeId=" + b.bob.id +
			"&createdBy=me&parentId=none&label=bug&dueFrom=2020-05-05&dueTo=2020-05-05&overdue=true&updatedSince=2020-01-01T00:00:00Z&search=only&total=true"
		b.alice.get(query).want(200).is("total", 1).is("items.0.id", bug)
		b.alice.delete("/api/v1/tasks/" + bug).want(204)
		b.alice.get(query).want(200).is("total", 0).is("items", "[]").is("next", nil)
		b.alice.get(query+"&deleted=true").want(200).is("items.0.id", bug)
	})
	b.run("sorts by every order both ways, and pages of any size make the whole", func(t *testing.T) {
		for name := range taskKeys {
			for _, sort := range []string{name, "-" + name} {
				for _, project := range []string{"", "&projectId=" + b.web} {
					var want []task
					for _, task := range b.live {
						if project == "" || task.ProjectID.String() == b.web {
							want = append(want, task)
						}
					}
					for limit := 1; limit <= 7; limit++ {
						if project == "" && limit != 3 {
							continue
						}
						path := fmt.Sprintf("/api/v1/tasks?sort=%s&limit=%d%s", sort, limit, project)
						equal(t, path, ids(b.alice.pages(path)), ids(sorted(want, sort)))
					}
				}
			}
		}
		equal(t, "the default order", ids(b.alice.get("/api/v1/tasks?limit=100").tasks()), ids(sorted(b.live, "-createdAt")))
	})
	b.run("loses and doubles nothing while tasks are added", func(t *testing.T) {
		for name := range taskKeys {
			for _, sort := range []string{name, "-" + name} {
				var seen []task
				for path := "/api/v1/tasks?limit=5&sort=" + sort; path != ""; {
					a := b.alice.get(path)
					seen = append(seen, a.tasks()...)
					path = a.next()
					b.bob.task(b.app, "between "+string(rune('a'+len(seen)%26)), `"dueDate":"2020-01-02"`)
				}
				for _, old := range b.live {
					if n := len(slices.DeleteFunc(slices.Clone(seen), func(t task) bool { return t.ID != old.ID })); n != 1 {
						t.Errorf("sort=%s shows %s %d times", sort, old.Ref, n)
					}
				}
				if all := ids(seen); len(slices.CompactFunc(sorted(seen, "createdAt"), func(a, b task) bool { return a.ID == b.ID })) != len(all) {
					t.Errorf("sort=%s shows a task twice", sort)
				}
				b.exec(`DELETE FROM tasks WHERE title LIKE 'between %'`)
			}
		}
	})
	b.run("shows only projects that the caller reads", func(t *testing.T) {
		if all := b.root.get("/api/v1/tasks?limit=100").tasks(); len(all) != len(b.live)+1 {
			t.Errorf("the admin sees %d tasks, want %d", len(all), len(b.live)+1)
		}
		b.alice.get("/api/v1/tasks?projectId="+b.eves).problem(404, "not_found")
		b.alice.get("/api/v1/tasks?projectId="+newUUID().String()).problem(404, "not_found")
		carol := b.signUp("Carol")
		carol.get("/api/v1/tasks?total=true").want(200).is("items", "[]").is("total", 0)
		b.alice.add(b.app, carol, roleViewer)
		for _, task := range carol.get("/api/v1/tasks?limit=100").tasks() {
			if task.ProjectID.String() != b.app {
				t.Errorf("carol sees %s", task.Ref)
			}
		}
		b.alice.delete("/api/v1/projects/" + b.app + "/members/" + carol.id).want(204)
		carol.get("/api/v1/tasks?total=true").want(200).is("total", 0)
	})
	b.run("takes no cursor but its own", func(t *testing.T) {
		path := "/api/v1/tasks?sort=title&limit=2"
		next := b.alice.get(path).str("next")
		bad := func(c *client, path, cursor string) {
			c.get(path+"cursor="+url.QueryEscape(cursor)).problem(400, "bad_parameter").field("cursor", "invalid_cursor")
		}
		for i := range next {
			other := byte('A')
			if next[i] == 'A' {
				other = 'B'
			}
			bad(b.alice, path+"&", next[:i]+string(other)+next[i+1:])
		}
		for _, cursor := range []string{"x", "AAAA", next + "A", next[:len(next)-1], next + "\x01"[:0] + "=", strings.Repeat("A", 64), "../..", "null"} {
			bad(b.alice, path+"&", cursor)
		}
		for _, other := range []string{"/api/v1/tasks?sort=-title&", "/api/v1/tasks?sort=title&status=todo&", "/api/v1/tasks?",
			"/api/v1/tasks?sort=title&projectId=" + b.web + "&", "/api/v1/projects?", "/api/v1/projects/" + b.web + "/members?", "/api/v1/projects/" + b.web + "/activity?"} {
			bad(b.alice, other, next)
		}
		bad(b.bob, path+"&", next)
		b.alice.get("/api/v1/tasks?sort=title&limit=7&total=true&expand=project&cursor=" + next).want(200) // size and additions may change
	})
	b.run("names every parameter that is wrong", func(t *testing.T) {
		for _, row := range []struct{ query, field, code string }{
			{"limit=0", "limit", "out_of_range"}, {"limit=101", "limit", "out_of_range"}, {"limit=%2B5", "limit", "out_of_range"},
			{"limit=ten", "limit", "out_of_range"}, {"limit=", "limit", "empty"}, {"limit=1&limit=2", "limit", "repeated"},
			{"total=1", "total", "not_allowed"}, {"sort=status", "sort", "not_allowed"}, {"sort=--title", "sort", "not_allowed"},
			{"sort=title,-number", "sort", "not_allowed"}, {"status=todo,open", "status", "not_allowed"}, {"status=todo,", "status", "not_allowed"},
			{"priority=Low", "priority", "not_allowed"}, {"assigneeId=you", "assigneeId", "invalid_uuid"}, {"createdBy=none", "createdBy", "invalid_uuid"},
			{"parentId=me", "parentId", "invalid_uuid"}, {"projectId=WEB", "projectId", "invalid_uuid"}, {"dueFrom=2026-02-30", "dueFrom", "invalid_date"},
			{"dueTo=tomorrow", "dueTo", "invalid_date"}, {"updatedSince=2026-02-03", "updatedSince", "invalid_time"}, {"overdue=yes", "overdue", "not_allowed"},
			{"deleted=all", "deleted", "not_allowed"}, {"expand=owner", "expand", "not_allowed"}, {"search=", "search", "empty"},
			{"search=%00", "search", "invalid_text"}, {"search=%ff", "search", "invalid_text"}, {"search=" + strings.Repeat("a", 201), "search", "too_long"},
			{"label=" + strings.Repeat("a,", 50) + "a", "label", "too_many"}, {"color=red", "color", "unknown_parameter"}, {"Status=todo", "Status", "unknown_parameter"},
			{"a;b", "query", "malformed"}, {"x=%zz", "query", "malformed"},
		} {
			b.alice.get("/api/v1/tasks?"+row.query).problem(400, "bad_parameter").field(row.field, row.code)
		}
	})
	b.run("puts people and projects in with the same number of queries for many as for one", func(t *testing.T) {
		queries := func(limit int) int64 {
			before := b.db.pool.Stat().AcquireCount()
			for _, task := range b.alice.get(fmt.Sprintf("/api/v1/tasks?expand=assignee,creator,project&limit=%d", limit)).tasks() {
				if task.Creator.ID != task.CreatedBy || task.Project.ID != task.ProjectID || (task.Assignee == nil) != (task.AssigneeID == nil) ||
					task.Assignee != nil && task.Assignee.ID != *task.AssigneeID {
					t.Errorf("%s has the wrong people or project: %s", task.Ref, jsonOf(task))
				}
			}
			return b.db.pool.Stat().AcquireCount() - before
		}
		if one, all := queries(1), queries(100); one != all {
			t.Errorf("%d queries for one task, %d for all", one, all)
		}
		if got := b.alice.get("/api/v1/tasks?limit=1").object()["items"].([]any)[0].(map[string]any); got["creator"] != nil || got["project"] != nil {
			t.Errorf("people or project unasked in %v", got)
		}
		b.alice.get("/api/v1/tasks/WEB-1?expand=creator,project").want(200).is("creator.id", b.alice.id).is("project.key", "WEB")
	})
	b.run("judges overdue by the caller's own day", func(t *testing.T) {
		west, err := time.LoadLocation("Pacific/Pago_Pago")
		if err != nil {
			t.Fatal(err)
		}
		id := b.alice.task(b.web, "Due in the west", `"dueDate":"`+time.Now().In(west).Format(time.DateOnly)+`"`)
		for zone, total := range map[string]int{"Pacific/Pago_Pago": 0, "Pacific/Kiritimati": 1} {
			b.alice.patch("/api/v1/me", `{"timezone":"`+zone+`"}`).want(200)
			b.alice.get("/api/v1/tasks?overdue=true&search=west&total=true").want(200).is("total", total)
		}
		b.alice.delete("/api/v1/tasks/" + id).want(204)
	})
}

func TestSearchingTasks(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	alice := s.signUp("Alice")
	web := alice.project("Web")
	for _, row := range [][2]string{
		{"Order bread", "from the bakery"},
		{"Bakery opens late", "order nothing before noon"},
		{"ÜBERGRÖẞE straße", "Über alles"},
		{"Fix login on www.example.org", "see https://tracker.example.net/issue/4711?page=2"},
		{"Release v1.20.3-rc1", "path /etc/nginx/conf.d, mail ops@example.com, snake_case_name"},
		{"100% sure", `C:\temp`}, {"1000 times", ""}, {"a_b", ""}, {"axb", ""}, {`back\slash`, ""}, {"It's \"quoted\" & (odd) | !not", "<b>tag</b> &amp; it"},
		{"日本語のタスク", "東京 で"},
	} {
		alice.post("/api/v1/tasks", jsonOf(map[string]any{"projectId": web, "title": row[0], "description": row[1]})).want(201)
	}
	titles := func(search, more string) []string {
		t.Helper()
		return alice.get("/api/v1/tasks?search=" + url.QueryEscape(search) + more).want(200).strs("title")
	}
	for _, row := range []struct{ sentence, search, want string }{
		{"finds whole words in title and description, titles first", "bakery", "Bakery opens late; Order bread"},
		{"wants all words, wherever they stand", "bakery bread", "Order bread"},
		{"wants all words, in any order", "noon bakery order", "Bakery opens late"},
		{"takes the last word as a beginning", "order bre", "Order bread"},
		{"takes the other words whole", "ord bread", ""},
		{"finds any part of the title", "rder br", "Order bread"},
		{"finds no part of a word in the description", "aker not", ""},
		{"does not mind case, of umlauts either", "über", "ÜBERGRÖẞE straße"},
		{"does not mind case in parts of the title", "RGRÖ", "ÜBERGRÖẞE straße"},
		{"finds a word of an address", "example", "Fix login on www.example.org; Release v1.20.3-rc1"},
		{"finds a whole address", "www.example.org", "Fix login on www.example.org"},
		{"finds an address in the description", "tracker.example.net/issue/4711", "Fix login on www.example.org"},
		{"finds a number in an address", "4711", "Fix login on www.example.org"},
		{"finds a version", "v1.20.3", "Release v1.20.3-rc1"},
		{"finds a path", "/etc/nginx", "Release v1.20.3-rc1"},
		{"finds a mail address", "ops@example.com", "Release v1.20.3-rc1"},
		{"finds a part of a name with underscores", "case name", "Release v1.20.3-rc1"},
		{"takes % for itself", "%", "100% sure"},
		{"takes _ for itself", "_", "a_b"},
		{"takes \\ for itself", `\`, `back\slash`},
		{"takes the operators of searches for themselves", `"quoted" & (odd) | !`, "It's \"quoted\" & (odd) | !not"},
		{"takes the operators of searches for spaces elsewhere", "tag:* & (it <->", "It's \"quoted\" & (odd) | !not"},
		{"finds nothing by signs alone", "!&|", ""},
		{"finds a part of a text without spaces", "本語", "日本語のタスク"},
	} {
		s.run(row.sentence, func(t *testing.T) {
			if got := strings.Join(titles(row.search, ""), "; "); got != row.want {
				t.Errorf("%q finds %q, want %q", row.search, got, row.want)
			}
		})
	}
	s.run("sorts as it is asked to", func(t *testing.T) {
		equal(t, "by number", titles("bakery", "&sort=number"), []string{"Order bread", "Bakery opens late"})
		equal(t, "by title", titles("bakery", "&sort=-title"), []string{"Order bread", "Bakery opens late"})
	})
	s.run("pages by relevance without gap or double", func(t *testing.T) {
		for i := range 20 {
			alice.task(web, fmt.Sprintf("Relevant %d", i), `"description":"`+strings.Repeat("relevant ", i%4)+`"`)
		}
		whole := ids(alice.get("/api/v1/tasks?search=relevant&limit=100").tasks())
		if len(whole) != 20 {
			t.Fatalf("found %d, want 20", len(whole))
		}
		for limit := 1; limit <= 7; limit++ {
			equal(t, "pages", ids(alice.pages(fmt.Sprintf("/api/v1/tasks?search=relevant&limit=%d", limit))), whole)
		}
	})
}

func TestSearchesOfMoreThanAreRanked(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	alice := ts.signUp("Alice")
	web := alice.project("Web")
	alice.task(web, "Apple pie of old")
	for range maxMatches / 10 {
		atOnce(10, func(int) *answer {
			return alice.again().post("/api/v1/tasks", `{"projectId":"`+web+`","title":"Apple"}`).want(201)
		})
	}
	alice.task(web, "Pineapple")
	for _, where := range []string{"", "&projectId=" + web} {
		path := "/api/v1/tasks?search=apple&limit=100" + where
		alice.get(path+"&total=true").want(200).is("total", maxMatches)
		if found := alice.pages(path); len(found) != maxMatches || slices.ContainsFunc(found, func(t task) bool { return t.Title != "Apple" }) {
			t.Errorf("%s: got %d, or others than the newest with the word", path, len(found))
		}
		alice.get(path+"&sort=createdAt&total=true").want(200).is("total", maxMatches+2).is("items.0.title", "Apple pie of old")
		if got := alice.get("/api/v1/tasks?search=ineapple" + where).want(200).strs("title"); len(got) != 1 || got[0] != "Pineapple" {
			t.Errorf("a part of a title finds %v", got)
		}
	}
	for range 50 { // whichever connection that was
		if got, err := queryValue[string](t.Context(), ts.db, `SHOW plan_cache_mode`); got != "auto" || err != nil {
			t.Fatalf("a search left %s behind, %v", got, err)
		}
	}
}

func TestSearchesTakeTurns(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	alice := ts.signUp("Alice")
	alice.task(alice.project("Web"), "Found")
	var ends []func()
	for range ts.db.searches.most {
		end, err := ts.db.searches.take(t.Context(), uuid{})
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, end)
	}
	alice.get("/api/v1/tasks").want(200) // only searches wait
	answered := make(chan *answer, 2)
	for range 2 {
		go func() { answered <- alice.again().get("/api/v1/tasks?search=found") }()
	}
	if a := (<-answered).problem(503, "unavailable"); a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	(<-answered).problem(503, "unavailable")
	go func() { answered <- alice.again().get("/api/v1/tasks?search=found") }()
	soon(t, "it waits", func() bool {
		ts.db.searches.mu.Lock()
		defer ts.db.searches.mu.Unlock()
		return ts.db.searches.waiting[uuid{}].users > len(ends)
	})
	for _, end := range ends {
		end()
	}
	(<-answered).want(200).is("items.0.title", "Found")
}

// planNode is the part of a query plan that is looked at here.
type planNode struct {
	NodeType     string `json:"Node Type"`
	Relationship string `json:"Parent Relationship"`
	Alias        string
	Hit          int64 `json:"Shared Hit Blocks"`
	Read         int64 `json:"Shared Read Blocks"`
	Plans        []planNode
}

// nodes are this one and those below it, but for subplans, which run for single rows.
func (n planNode) nodes() []planNode {
	list := []planNode{n}
	for _, child := range n.Plans {
		if child.Relationship != "SubPlan" && child.Relationship != "InitPlan" {
			list = append(list, child.nodes()...)
		}
	}
	return list
}

func TestTheLastPageOfALongListCostsLikeTheFirst(t *testing.T) {
	t.Parallel()
	tasks := 200_000
	if testing.Short() {
		tasks = 20_000
	}
	s := newTestServer(t)
	s.signUp("Root") // sees everything, by another condition
	bob := s.signUp("Bob")
	web := bob.project("Web")
	start := time.Now()
	s.fill(web, bob.id, tasks)
	t.Logf("%d tasks in %v", tasks, time.Since(start))
	conn, err := pgx.Connect(t.Context(), string(s.config.databaseURL))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for name := range taskOrders {
		for _, sort := range []string{name, "-" + name} {
			first := s.explain(t, conn, bob, web, sort, nil)
			back := "-" + sort
			if sort[0] == '-' {
				back = sort[1:]
			}
			sql, args := s.pageOf(bob, web, back, nil)
			rows, err := queryAll[taskRow](t.Context(), s.db, sql, args...)
			if err != nil {
				t.Fatal(err)
			}
			row := rows[len(rows)-1]
			last := s.explain(t, conn, bob, web, sort, &cursor{Key: row.SortKey, ID: row.ID.String()})
			wide := s.explain(t, conn, bob, "", sort, nil)
			t.Logf("sort=%s touches %d blocks for the first page, %d for the last, %d without a project", sort, first, last, wide)
			if limit := float64(first)*1.5 + 2; float64(last) > limit || float64(wide) > limit {
				t.Errorf("sort=%s: only the first page is cheap", sort)
			}
		}
	}
}

// fill puts many tasks into a project, with what lists sort by spread unevenly. Indexes are made
// after that, for speed, as the schema has them; those that no list sorts by are left out.
func (ts *testServer) fill(project, by string, n int) {
	ts.t.Helper()
	indexes, err := queryAll[struct{ Name, Def string }](ts.t.Context(), ts.db, `
		SELECT indexname::text AS name, indexdef AS def FROM pg_indexes i
		WHERE tablename = 'tasks' AND NOT EXISTS (SELECT FROM pg_constraint WHERE conname = indexname)`)
	if err != nil {
		ts.t.Fatal(err)
	}
	for _, index := range indexes {
		ts.execLong(`DROP INDEX ` + index.Name)
	}
	ts.execLong(`INSERT INTO tasks (id, project_id, number, title, priority, position, due_date, created_by, created_at, updated_at)
		SELECT (lpad(to_hex(1700000000000 + n), 12, '0') || '7' || substr(md5(n::text), 1, 3) || 'a' || substr(md5(n::text), 4, 15))::uuid, $1, n,
			'Task ' || n % 5000, (enum_range(NULL::task_priority))[1 + n % 4], (5000000000 + n)::text,
			CASE WHEN n % 400 > 0 THEN date '2026-01-01' + n % 399 END, $2, to_timestamp(1700000000 + n / 1000.0), to_timestamp(1700000000 + n % 7000)
		FROM generate_series(1, $3) n`, project, by, n)
	ts.execLong(`UPDATE projects SET last_number = $2 WHERE id = $1`, project, n)
	for _, index := range indexes {
		if !strings.Contains(index.Def, "USING gin") {
			ts.execLong(index.Def)
		}
	}
	ts.execLong(`VACUUM ANALYZE`)
}

// pageOf is the statement of a page of a project's tasks, or of all, as GET /tasks sends it.
func (ts *testServer) pageOf(c *client, project, sort string, after *cursor) (string, []any) {
	ts.t.Helper()
	me, err := parseUUID(c.id)
	if err != nil {
		ts.t.Fatal(err)
	}
	query := "sort=" + sort
	if project != "" {
		query += "&projectId=" + project
	}
	r := httptest.NewRequest("GET", "/api/v1/tasks?"+query, nil)
	q := parseQuery(r)
	f := q.taskQuery(caller{ID: me, Role: globalMember}, project != "")
	if err := q.done(); err != nil {
		ts.t.Fatal(err)
	}
	return f.page(taskColumns, f.by, page{limit: defaultLimit, after: after})
}

// explain runs a page, wants its plan to read an index without sorting, and returns the blocks of
// tasks and index that it touched.
func (ts *testServer) explain(t *testing.T, conn *pgx.Conn, c *client, project, sort string, after *cursor) int64 {
	t.Helper()
	sql, args := ts.pageOf(c, project, sort, after)
	var plan []byte
	if err := conn.QueryRow(t.Context(), "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "+sql, args...).Scan(&plan); err != nil {
		t.Fatal(err)
	}
	var p []struct{ Plan planNode }
	if err := json.Unmarshal(plan, &p); err != nil {
		t.Fatal(err)
	}
	var blocks int64
	for _, node := range p[0].Plan.nodes() {
		switch {
		case node.Alias == "t" && node.NodeType == "Index Scan":
			blocks = node.Hit + node.Read
		case node.Alias == "t" || project != "" && strings.Contains(node.NodeType, "Sort"): // pages of many projects are merged
			t.Errorf("sort=%s: the plan has a %s\n%s", sort, node.NodeType, plan)
		}
	}
	return blocks
}
