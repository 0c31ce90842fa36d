package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// order is the titles of a project's tasks in their order.
func (c *client) order(project string) string {
	c.s.t.Helper()
	return strings.Join(c.get("/api/v1/tasks?limit=100&sort=position&projectId="+project).want(200).strs("title"), "")
}

func TestMovingTasks(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	alice := s.signUp("Alice")
	web, app := alice.project("Web"), alice.project("App")
	task := map[string]string{}
	for _, title := range []string{"a", "b", "c", "d", "e"} {
		task[title] = alice.task(web, title)
	}
	move := func(title, body string) *answer {
		for name, id := range task {
			body = strings.ReplaceAll(body, "<"+name+">", id)
		}
		return alice.post("/api/v1/tasks/"+task[title]+"/move", body)
	}

	for _, row := range []struct{ sentence, title, body, want string }{
		{"stands last when it is new", "e", `{"last":true}`, "abcde"},
		{"goes first", "c", `{"first":true}`, "cabde"},
		{"goes last", "a", `{"last":true}`, "cbdea"},
		{"goes before another", "e", `{"before":"<b>"}`, "cebda"},
		{"goes after another", "c", `{"after":"<d>"}`, "ebdca"},
		{"goes before the first", "a", `{"before":"<e>"}`, "aebdc"},
		{"goes after the last", "e", `{"after":"<c>"}`, "abdce"},
		{"goes between two", "e", `{"after":"<a>"}`, "aebdc"},
		{"stays where it is", "e", `{"before":"<b>"}`, "aebdc"},
		{"takes a column with it", "e", `{"last":true,"status":"done"}`, "abdce"},
	} {
		s.run(row.sentence, func(t *testing.T) {
			a := move(row.title, row.body).want(200)
			if got := alice.order(web); got != row.want {
				t.Errorf("the order is %s, want %s", got, row.want)
			}
			again := move(row.title, row.body).want(200)
			if string(again.body) != string(a.body) || again.header.Get("ETag") != a.header.Get("ETag") {
				t.Errorf("moving it there again made %s of %s", again.body, a.body)
			}
		})
	}
	s.run("sets the time of completion with its column", func(t *testing.T) {
		if move("e", `{"first":true}`).want(200).str("completedAt") == "" {
			t.Error("a done task lost its completedAt by a move")
		}
		move("e", `{"last":true,"status":"todo"}`).want(200).is("completedAt", nil)
	})
	s.run("needs one place, next to another task of the project", func(t *testing.T) {
		before := alice.order(web)
		foreign, trashed := alice.task(app, "foreign"), alice.task(web, "trashed")
		alice.delete("/api/v1/tasks/" + trashed).want(204)
		for _, row := range []struct{ body, field, code string }{
			{`{}`, "before", "required"},
			{`{"status":"done"}`, "before", "required"},
			{`{"first":true,"last":true}`, "before", "required"},
			{`{"before":"<b>","after":"<c>"}`, "before", "required"},
			{`{"before":"<a>"}`, "before", "not_found"},
			{`{"after":"<a>"}`, "after", "not_found"},
			{`{"after":"` + foreign + `"}`, "after", "not_found"},
			{`{"before":"` + trashed + `"}`, "before", "not_found"},
			{`{"before":"` + newUUID().String() + `"}`, "before", "not_found"},
			{`{"last":true,"status":"doing"}`, "status", "not_allowed"},
			{`{"last":"yes"}`, "last", "wrong_type"},
		} {
			move("a", row.body).problem(422, "validation_failed").field(row.field, row.code)
		}
		alice.with("If-Match", `"99"`).post("/api/v1/tasks/"+task["a"]+"/move", `{"last":true}`).problem(412, "version_mismatch")
		if got := alice.order(web); got != before {
			t.Errorf("refused moves made %s of %s", got, before)
		}
	})
}

func TestManyMovesAtOnceKeepOneOrder(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	alice := s.signUp("Alice")
	web := alice.project("Web")
	var cards []string
	for i := range 30 {
		cards = append(cards, alice.task(web, fmt.Sprint("Card ", i)))
	}
	slices.Sort(cards)
	long := 10 * time.Second
	if testing.Short() {
		long = 4 * time.Second
	}
	end := time.Now().Add(long)
	var moves atomic.Int64
	alice.parallel(20, func(alice *client, _ int) {
		for time.Now().Before(end) {
			pair := rand.Perm(len(cards))
			body := []string{`{"first":true}`, `{"last":true}`, `{"before":"` + cards[pair[1]] + `"}`, `{"after":"` + cards[pair[1]] + `"}`,
				`{"after":"` + cards[pair[1]] + `","status":"review"}`}[rand.IntN(5)]
			if a := alice.post("/api/v1/tasks/"+cards[pair[0]]+"/move", body); a.status != 200 {
				t.Errorf("got %d: %s", a.status, a.body)
			}
			if moves.Add(1)%20 != 0 {
				continue
			}
			seen := alice.get("/api/v1/tasks?limit=100&sort=position&projectId=" + web).strs("id")
			if slices.Sort(seen); !slices.Equal(seen, cards) {
				t.Errorf("in between there are %d cards, want each of %d once", len(seen), len(cards))
			}
		}
	})
	listed := alice.get("/api/v1/tasks?limit=100&sort=position&projectId=" + web).want(200)
	positions := listed.strs("position")
	if !slices.IsSorted(positions) || len(slices.Compact(positions)) != len(cards) {
		t.Errorf("positions are %v", positions)
	}
	t.Logf("%d moves in %v", moves.Load(), long)
}

func TestPositionsLieBetweenTheirNeighbours(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	alice := s.signUp("Alice")
	s.run("wherever they are put", func(t *testing.T) {
		s.execLong(`DO $$
		DECLARE
			keys text[] := ARRAY[position_between(NULL, NULL)];
			i int;
			key text;
		BEGIN
			PERFORM setseed(0.42);
			FOR n IN 1..4000 LOOP
				i := floor(random() * (cardinality(keys) + 1)); -- 0 is before the first
				IF n % 4 > 0 THEN i := i / 16; END IF;          -- mostly into a crowd
				key := position_between(keys[i], keys[i + 1]);
				IF key <= keys[i] COLLATE "C" OR key >= keys[i + 1] COLLATE "C" OR key !~ '^\d{10}([0-9A-Za-z]*[1-9A-Za-z])?$' THEN
					RAISE 'between % and % is %', keys[i], keys[i + 1], key;
				END IF;
				keys := keys[:i] || key || keys[i + 1:];
			END LOOP;
		END $$`)
	})
	s.run("and are renewed in the same order before they grow too long", func(t *testing.T) {
		web := alice.project("Web")
		titles := "abcdefgh"
		var cards []string
		for _, title := range strings.Split(titles, "") {
			cards = append(cards, alice.task(web, title))
		}
		s.exec(`CREATE PROCEDURE crowd(project uuid, actor uuid, anchor uuid, moved uuid[], times int) LANGUAGE plpgsql AS $$
		DECLARE
			task uuid;
			least text;
			next text;
		BEGIN
			FOR n IN 1..times LOOP
				task := moved[1 + n % cardinality(moved)];
				UPDATE tasks SET position = position_for(id, 'after', anchor) WHERE id = task;
				PERFORM make_room(task, actor);
				SELECT position INTO least FROM tasks WHERE id = anchor;
				SELECT position INTO next FROM tasks WHERE id = task;
				IF next <= least COLLATE "C" OR length(next) > 1000 OR (SELECT min(position) FROM tasks WHERE project_id = project AND position > least) <> next THEN
					RAISE 'move % went to %', n, next;
				END IF;
				COMMIT;
			END LOOP;
		END $$`)
		s.exec(`DROP INDEX tasks_search, tasks_title_trgm, tasks_labels`) // for speed
		s.execLong(`CALL crowd($1, $2, $3, $4, 7000)`, web, alice.id, cards[1], cards[2:4])
		if got := alice.order(web); got != "abcdefgh" && got != "abdcefgh" {
			t.Errorf("the order is %s", got)
		}
		renewed := alice.get("/api/v1/projects/"+web+"/activity?total=true").num("total") - 1 - len(cards)
		if renewed < 3 || renewed > 6 { // b, c and d, in the few thousandth move
			t.Errorf("the crowd was renewed by %d changes", renewed)
		}
		if got := alice.get("/api/v1/tasks/" + cards[5]).want(200); got.num("version") != 1 {
			t.Error("a task far from the crowd was changed")
		}
		if history := alice.history(cards[1], nil); len(history) < 2 || !strings.HasPrefix(history[1], "task.moved "+alice.id+" position") {
			t.Errorf("history is %v", history)
		}
	})
}

func TestBlockers(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	alice := s.signUp("Alice")
	web, app := alice.project("Web"), alice.project("App")
	a, b, c, foreign := alice.task(web, "a"), alice.task(web, "b"), alice.task(web, "c"), alice.task(app, "foreign")
	block := func(task, by string) *answer { return alice.put("/api/v1/tasks/"+task+"/blockers/"+by, "") }
	free := func(task, by string) *answer { return alice.delete("/api/v1/tasks/" + task + "/blockers/" + by) }
	read := func(task string) *answer { return alice.get("/api/v1/tasks/" + task).want(200) }

	s.run("are shown, and adding one again changes nothing", func(t *testing.T) {
		first := block(a, b).want(200).is("blockedBy.0", b).is("version", 2)
		if again := block(a, b).want(200); string(again.body) != string(first.body) {
			t.Errorf("adding it again made %s of %s", again.body, first.body)
		}
		read(a).is("version", 2)
		read(b).is("version", 1)
	})
	s.run("make no circle, short or long", func(t *testing.T) {
		block(b, c).want(200)
		for _, pair := range [][2]string{{a, a}, {b, a}, {c, b}, {c, a}} {
			block(pair[0], pair[1]).problem(409, "blocker_cycle")
		}
		block(a, c).want(200)
		free(a, c).want(204)
	})
	s.run("make no circle either when two are added at once", func(t *testing.T) {
		for range 20 {
			x, y := alice.task(web, "x"), alice.task(web, "y")
			second := *alice
			var both sync.WaitGroup
			var one, two *answer
			both.Go(func() { one = block(x, y) })
			both.Go(func() { two = second.put("/api/v1/tasks/"+y+"/blockers/"+x, "") })
			both.Wait()
			if one.status+two.status != 200+409 {
				t.Errorf("got %d and %d, want one 200 and one 409", one.status, two.status)
			}
		}
	})
	s.run("are live tasks of the same project", func(t *testing.T) {
		block(a, foreign).problem(404, "not_found")
		block(a, newUUID().String()).problem(404, "not_found")
		trashed := alice.task(web, "trashed")
		alice.delete("/api/v1/tasks/" + trashed).want(204)
		block(a, trashed).problem(404, "not_found")
		block(trashed, a).problem(404, "not_found")
	})
	s.run("disappear with their deletion and come back with them", func(t *testing.T) {
		tag := read(a).header.Get("ETag")
		alice.delete("/api/v1/tasks/" + b).want(204)
		alice.with("If-None-Match", tag).get("/api/v1/tasks/"+a).want(200).is("blockedBy", "[]")
		alice.with("If-Match", tag).patch("/api/v1/tasks/"+a, `{"title":"x"}`).problem(412, "version_mismatch")
		tag = read(a).header.Get("ETag")
		alice.post("/api/v1/tasks/"+b+"/restore", "").want(200).is("blockedBy.0", c)
		alice.with("If-None-Match", tag).get("/api/v1/tasks/"+a).want(200).is("blockedBy.0", b)
	})
	s.run("are removed, once", func(t *testing.T) {
		alice.with("If-Match", `"1"`).delete("/api/v1/tasks/"+a+"/blockers/"+b).problem(412, "version_mismatch")
		free(a, b).want(204)
		free(a, b).problem(404, "not_found")
		read(a).is("blockedBy", "[]")
	})
}

func TestWatching(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	alice, vera := s.signUp("Alice"), s.signUp("Vera")
	web := alice.project("Web")
	task := alice.task(web, "Task")
	alice.add(web, vera, roleViewer)
	path := "/api/v1/tasks/" + task + "/watch"
	watchers := func() int64 {
		n, err := queryValue[int64](t.Context(), s.db, `SELECT count(*) FROM task_watchers WHERE task_id = $1`, task)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	s.run("is for every reader, and twice is once", func(t *testing.T) {
		vera.put(path, "").want(204)
		vera.put(path, "").want(204)
		alice.put(path, "").want(204)
		if watchers() != 2 {
			t.Errorf("%d watch, want 2", watchers())
		}
		vera.delete(path).want(204)
		vera.delete(path).want(204)
		if got := alice.history(task, map[string]string{alice.id: "alice", vera.id: "vera"}); strings.Join(got[1:], ", ") != "task.watched vera, task.watched alice, task.unwatched vera" {
			t.Errorf("history is %v", got)
		}
		alice.get("/api/v1/tasks/"+task).is("version", 1)
	})
	s.run("ends with membership", func(t *testing.T) {
		vera.put(path, "").want(204)
		alice.delete("/api/v1/projects/" + web + "/members/" + vera.id).want(204)
		if watchers() != 1 {
			t.Errorf("%d watch, want 1", watchers())
		}
	})
}

func TestTransferBetweenProjects(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	s.signUp("Root")
	alice, bob, carol := s.signUp("Alice"), s.signUp("Bob"), s.signUp("Carol")
	web, app := alice.project("Web"), alice.project("App")
	alice.add(web, bob, roleMember)
	alice.add(web, carol, roleMember)
	alice.add(app, carol, roleViewer)
	to := func(c *client, task, project string) *answer {
		return c.post("/api/v1/tasks/"+task+"/move", `{"projectId":"`+project+`"}`)
	}

	s.run("takes the subtasks along and cuts what cannot cross", func(t *testing.T) {
		parent, outside, waiting := alice.task(web, "parent"), alice.task(web, "outside"), alice.task(web, "waiting")
		root := alice.task(web, "root", `"parentId":"`+parent+`","assigneeId":"`+bob.id+`","dueDate":"2026-01-01","labels":["x"]`)
		child := alice.task(web, "child", `"parentId":"`+root+`","assigneeId":"`+carol.id+`"`)
		leaf := alice.task(web, "leaf", `"parentId":"`+child+`"`)
		trashed := alice.task(web, "trashed", `"parentId":"`+child+`"`)
		alice.delete("/api/v1/tasks/" + trashed).want(204)
		for _, pair := range [][2]string{{root, outside}, {waiting, child}, {child, leaf}} {
			alice.put("/api/v1/tasks/"+pair[0]+"/blockers/"+pair[1], "").want(200)
		}
		for _, c := range []*client{alice, bob, carol} {
			c.put("/api/v1/tasks/"+child+"/watch", "").want(204)
		}
		alice.task(app, "there before")
		before := alice.get("/api/v1/tasks/" + waiting).num("version")

		a := to(alice, root, app).want(200)
		a.is("projectId", app).is("ref", "APP-2").is("parentId", nil).is("assigneeId", nil).is("blockedBy", "[]").is("dueDate", "2026-01-01").is("labels", "[x]")
		alice.get("/api/v1/tasks/"+child).want(200).is("ref", "APP-3").is("parentId", root).is("assigneeId", carol.id).is("blockedBy.0", leaf).is("projectId", app)
		alice.get("/api/v1/tasks/"+leaf).want(200).is("ref", "APP-4").is("parentId", child)
		alice.get("/api/v1/tasks/"+waiting).want(200).is("blockedBy", "[]").is("version", before+1)
		alice.get("/api/v1/tasks/WEB-4").problem(404, "not_found")
		if got := alice.order(app); got != "there beforerootchildleaf" {
			t.Errorf("the order is %s", got)
		}
		bob.get("/api/v1/tasks/"+child).problem(404, "not_found")
		carol.get("/api/v1/tasks/" + child).want(200)
		watchers, err := queryValue[[]uuid](t.Context(), s.db, `SELECT array_agg(user_id ORDER BY user_id) FROM task_watchers WHERE task_id = $1`, child)
		if err != nil || len(watchers) != 2 || watchers[0].String() != alice.id || watchers[1].String() != carol.id {
			t.Errorf("watchers are %v, %v; want alice and carol", watchers, err)
		}
		alice.post("/api/v1/tasks/"+trashed+"/restore", "").want(200).is("ref", "APP-5").is("parentId", child)
		alice.post("/api/v1/tasks", `{"projectId":"`+app+`","title":"next"}`).want(201).is("ref", "APP-6")
		alice.post("/api/v1/tasks", `{"projectId":"`+web+`","title":"next"}`).want(201).is("ref", "WEB-8") // no number comes twice
	})
	s.run("needs the right to work on both sides", func(t *testing.T) {
		task, theirs := alice.task(web, "task"), alice.task(app, "theirs")
		to(bob, task, app).problem(404, "not_found")
		to(carol, task, app).problem(403, "forbidden")
		to(carol, theirs, web).problem(403, "forbidden")
		to(alice, task, newUUID().String()).problem(404, "not_found")
		alice.get("/api/v1/tasks/"+task).is("version", 1)
	})
	s.run("may choose the place and the column at once", func(t *testing.T) {
		task, first := alice.task(web, "task"), alice.get("/api/v1/tasks?limit=1&sort=position&projectId="+app).str("items.0.id")
		a := alice.post("/api/v1/tasks/"+task+"/move", `{"projectId":"`+app+`","before":"`+first+`","status":"done"}`).want(200)
		a.is("projectId", app).is("status", "done")
		alice.get("/api/v1/tasks?limit=1&sort=position&projectId="+app).is("items.0.id", task)
	})
	s.run("to where it is changes nothing", func(t *testing.T) {
		task := alice.task(web, "task")
		alice.task(web, "later")
		before := alice.get("/api/v1/tasks/" + task)
		if a := to(alice, task, web).want(200); string(a.body) != string(before.body) {
			t.Errorf("it became %s, was %s", a.body, before.body)
		}
		alice.post("/api/v1/tasks/"+task+"/move", `{"projectId":"`+web+`","status":"review"}`).want(200).is("position", before.str("position"))
	})
	s.run("the opposite ways at once fails nobody", func(t *testing.T) {
		x, y := alice.task(web, "x"), alice.task(app, "y")
		second := *alice
		for range 25 {
			var both sync.WaitGroup
			both.Go(func() {
				for _, project := range []string{app, web} {
					if a := to(alice, x, project); a.status != 200 {
						t.Errorf("got %d: %s", a.status, a.body)
					}
				}
			})
			both.Go(func() {
				for _, project := range []string{web, app} {
					if a := to(&second, y, project); a.status != 200 {
						t.Errorf("got %d: %s", a.status, a.body)
					}
				}
			})
			both.Wait()
		}
	})
	s.run("and changing at once fails nobody", func(t *testing.T) {
		x := alice.task(web, "x")
		second := *alice
		for range 25 {
			var both sync.WaitGroup
			both.Go(func() {
				for _, project := range []string{app, web} {
					if a := to(alice, x, project); a.status != 200 {
						t.Errorf("got %d: %s", a.status, a.body)
					}
				}
			})
			both.Go(func() {
				for i := range 4 {
					if a := second.patch("/api/v1/tasks/"+x, fmt.Sprintf(`{"title":"x%d"}`, i)); a.status != 200 {
						t.Errorf("got %d: %s", a.status, a.body)
					}
				}
			})
			both.Wait()
		}
	})
}
