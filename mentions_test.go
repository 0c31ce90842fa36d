package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// tellComments has every fact about comments cause a job, which nobody runs.
func (ts *testServer) tellComments() {
	ts.subscribers = func(f fact) []newJob {
		if strings.HasPrefix(f.Kind, "comment.") {
			return []newJob{{kind: "notification.fanout", payload: f}}
		}
		return nil
	}
}

// told are the facts about a comment that were told since it was last asked, each as its kind and the
// name of whom it concerns.
func (ts *testServer) told(task, comment string, people map[string]*client) string {
	ts.t.Helper()
	rows, err := queryAll[struct{ Told string }](ts.t.Context(), ts.db, `
		WITH j AS (DELETE FROM jobs WHERE payload ->> 'kind' LIKE 'comment.%' RETURNING *)
		SELECT concat_ws(' ', payload ->> 'kind', payload ->> 'userId') AS told FROM j
		WHERE payload ->> 'taskId' = $1 AND payload ->> 'subjectId' = $2 ORDER BY id`, task, comment)
	if err != nil {
		ts.t.Fatal(err)
	}
	var all []string
	for _, row := range rows {
		all = append(all, row.Told)
	}
	text := strings.Join(all, ", ")
	for name, c := range people {
		text = strings.ReplaceAll(text, c.id, name)
	}
	return text
}

func TestMentions(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ts.tellComments()
	people := map[string]*client{}
	for _, name := range []string{"Alice", "Bob", "Mary", "Alex", "Other", "Olga", "Fred", "Ines", "Twin"} {
		people[name] = ts.signUp(name)
	}
	alice, bob, olga := people["Alice"], people["Bob"], people["Olga"]
	bob.patch("/api/v1/me", `{"firstName":"Bób","lastName":"O’Hara"}`).want(200)
	people["Mary"].patch("/api/v1/me", `{"firstName":"Mary Ann"}`).want(200)
	people["Other"].patch("/api/v1/me", `{"firstName":"Alex","lastName":"Roe"}`).want(200)
	handle, _, _ := strings.Cut(people["Twin"].email, "@") // by which he is called in two ways
	people["Twin"].patch("/api/v1/me", `{"firstName":"`+handle+`"}`).want(200)
	web := alice.project("Web Site")
	for _, name := range []string{"Bob", "Mary", "Alex", "Other", "Fred", "Ines", "Twin"} {
		alice.add(web, people[name], roleViewer)
	}
	alice.delete("/api/v1/projects/" + web + "/members/" + people["Fred"].id).want(204)
	alice.patch("/api/v1/users/"+people["Ines"].id, `{"isActive":false}`).want(200)
	task := alice.task(web, "Discussed")
	path := "/api/v1/tasks/" + task + "/comments"
	// Texts stand here with names in place of ids, and {bob} for the part of bob's address before the @.
	written := func(text string) string {
		for name, c := range people {
			local, _, _ := strings.Cut(c.email, "@")
			text = strings.ReplaceAll(strings.ReplaceAll(text, "["+name+"]", "["+c.id+"]"), "{"+name+"}", local)
		}
		return text
	}
	say := func(text string) *answer { ts.t.Helper(); return alice.post(path, jsonOf(newComment{written(text)})) }

	for _, row := range []struct{ text, kept, mentions string }{
		{"@Bób", "@[Bob]", "Bob"}, {"@bób, @BÓB!", "@[Bob], @[Bob]!", "Bob"}, {"(@bób)", "(@[Bob])", "Bob"}, {"Ask @bób.", "Ask @[Bob].", "Bob"}, {"Ask @bób...", "Ask @[Bob]...", "Bob"},
		{"@bób's", "@[Bob]'s", "Bob"}, {"**@bób**", "**@[Bob]**", "Bob"}, {"> @bób wrote", "> @[Bob] wrote", "Bob"}, {"请@bób 看", "请@[Bob] 看", "Bob"}, {"@{Bob}", "@[Bob]", "Bob"}, {"@{Twin}", "@[Twin]", "Twin"},
		{`@"Bób O’Hara" and @"bób o’hara"`, "@[Bob] and @[Bob]", "Bob"}, {`@"Bób"`, "@[Bob]", "Bob"}, {"@alex.roe and @Alex.Tester", "@[Other] and @[Alex]", "Other Alex"}, {"@{Alex}", "@[Alex]", "Alex"},
		{"@mary.ann.tester", "@[Mary]", "Mary"}, {`@"Mary Ann Tester"`, "@[Mary]", "Mary"}, {`@"Mary Ann"`, "@[Mary]", "Mary"}, {"@[Bob]@[Mary]@bób", "@[Bob]@[Mary]@[Bob]", "Bob Mary"}, {"@alice", "@[Alice]", "Alice"},
		{"one\n@bób\r\n@[Mary]", "one\n@[Bob]\r\n@[Mary]", "Bob Mary"}, {"don`t, @bób\nwon`t", "don`t, @[Bob]\nwon`t", "Bob"}, {"``` @bób", "``` @[Bob]", "Bob"}, {"`` ` `` @bób `@bób`", "`` ` `` @[Bob] `@bób`", "Bob"},
		{"@alice @olga and x@[Olga] and @[Alice]", "@[Alice] @olga and x@[Olga] and @[Alice]", "Alice"},
		// These mention nobody.
		{text: "@olga @fred @ines @mary"}, {text: "@everyone, @Override"}, {text: "@bóbby @bó"}, {text: "@ bób @"}, {text: "@-bób @. @_"}, {text: "@@bób"}, {text: "@"}, {text: "@%"}, {text: "@' OR 1=1--"}, {text: `@"Bób`}, {text: `@"" @"Bób\"`},
		{text: "{Bob}@example.org"}, {text: "@{Bob}@example.org"}, {text: "x@bób.example"}, {text: "https://example.org/@bób"}, {text: "first_@bób"}, {text: "user+@bób"}, {text: "ü@bób"}, {text: "1@bób"}, {text: "x@[Bob]"},
		{text: "`@bób` ``@alex` @[Olga]`` @mary"}, {text: "```\n@alex @[Olga]\n\n```"}, {text: "````go\n``` @bób\n````"}, {text: "`one `` @alex`"}, {text: "@[bób]"}, {text: "@[Bob0]"}, {text: "@[" + strings.ToUpper(bob.id) + "]"}, {text: "@[" + bob.id + "0]"},
	} {
		ts.run("in "+row.text, func(t *testing.T) {
			if row.mentions == "" {
				row.kept = row.text
			}
			a := say(row.text).want(201).is("body", written(row.kept))
			var ids []string
			for name := range strings.FieldsSeq(row.mentions) {
				ids = append(ids, people[name].id)
			}
			a.is("mentions", fmt.Sprint(ids))
			if back := alice.edit(a.str("id"), a.str("body")).want(200); string(back.body) != string(a.body) {
				t.Errorf("sent back it became %s of %s", back.body, a.body)
			}
		})
	}
	ts.run("by a name that several have are refused, with how to write it", func(t *testing.T) {
		id := say("Said").want(201).str("id")
		before := ts.state()
		for _, text := range []string{"@alex", "Hello @ALEX, how are you?", `@"Alex"`, "@bób and @alex"} {
			say(text).problem(422, "validation_failed").field("body", "ambiguous_mention")
			alice.edit(id, text).problem(422, "validation_failed").field("body", "ambiguous_mention")
		}
		ts.unchanged(before, "an ambiguous name")
	})
	ts.run("by the id of somebody else than an active member are refused", func(t *testing.T) {
		id := say("Said").want(201).str("id")
		before := ts.state()
		for _, whom := range []string{people["Olga"].id, people["Fred"].id, people["Ines"].id, web, newUUID().String()} {
			say("@bób and @["+whom+"]").problem(422, "validation_failed").field("body", "not_a_member")
			alice.edit(id, "@["+whom+"]").problem(422, "validation_failed").field("body", "not_a_member")
		}
		ts.unchanged(before, "a mention of no member")
	})
	ts.run("are told once to each but the author, and in an edit to those who are new", func(t *testing.T) {
		ts.told(task, "", nil)
		a := say("@bób, @[Mary], @alice and @{Bob}").want(201)
		id := a.str("id")
		for _, row := range []struct{ edit, told string }{
			{"", "comment.created, comment.mentioned Bob, comment.mentioned Mary"},
			{"@bób and @[Mary]", ""},
			{"@bób and @alex.tester", "comment.mentioned Alex"},
			{"nobody", ""},
			{"@olga", ""},
			{"`@bób`", ""},
		} {
			if row.edit != "" {
				alice.edit(id, written(row.edit)).want(200)
			}
			if got := ts.told(task, id, people); got != row.told {
				t.Errorf("%q told %q, want %q", row.edit, got, row.told)
			}
		}
		alice.with("If-Match", `"1"`).edit(id, "@bób").problem(412, "version_mismatch")
		alice.delete("/api/v1/comments/" + id).want(204)
		alice.edit(id, "@bób").problem(404, "not_found")
		if got := ts.told(task, id, people); got != "" {
			t.Errorf("what was refused told %q", got)
		}
	})
	ts.run("follow names, and stay when the mentioned leaves", func(t *testing.T) {
		nina := ts.signUp("Nina")
		alice.add(web, nina, roleMember)
		id := say("@nina").want(201).str("id")
		alice.edit(id, "@nina, please").want(200)
		nina.patch("/api/v1/me", `{"firstName":"Antonina","avatarUrl":"https://img.example.org/nina"}`).want(200)
		say("@nina").want(201).is("mentions", "[]")
		about := alice.get("/api/v1/comments/"+id+"?expand=author,mentioned").want(200).is("mentioned.0.firstName", "Antonina").is("mentioned.0.avatarUrl", "https://img.example.org/nina").
			is("mentioned.0.id", nina.id).is("mentioned.1", nil).is("author.firstName", "Alice")
		if about.header.Get("ETag") != "" || strings.Contains(string(about.body), "@example.org") {
			t.Errorf("got %v %s", about.header, about.body)
		}
		alice.get("/api/v1/comments/"+id+"/history?expand=mentioned").want(200).is("items.0.mentioned.0.firstName", "Antonina")
		alice.delete("/api/v1/projects/" + web + "/members/" + nina.id).want(204)
		alice.get("/api/v1/comments/"+id+"?expand=mentioned").want(200).is("mentioned.0.firstName", "Antonina").is("author", nil)
		ts.told(task, id, nil)
		alice.edit(id, "@["+nina.id+"], thank you").want(200).is("mentions", "["+nina.id+"]")
		if got := ts.told(task, id, people); got != "" {
			t.Errorf("told %q", got)
		}
		alice.edit(id, "Thank you").want(200).is("mentions", "[]")
		alice.edit(id, "@["+nina.id+"], come back").problem(422, "validation_failed").field("body", "not_a_member")
	})
	ts.run("are at most 100, and count as two characters", func(t *testing.T) {
		zoe := ts.signUp("Zoe")
		zoe.patch("/api/v1/me", `{"firstName":"Z"}`).want(200)
		alice.add(web, zoe, roleViewer)
		full := strings.Repeat("@Z ", 100) + strings.Repeat("ü", maxComment-300)
		a := say(full).want(201).is("mentions", "["+zoe.id+"]")
		if n := len([]rune(a.str("body"))); n != maxComment+maxMentions*mentionGrows {
			t.Errorf("it is kept in %d characters", n)
		}
		alice.edit(a.str("id"), a.str("body")).want(200).is("version", 1)
		before := ts.state()
		token := "@[" + zoe.id + "]"
		for text, code := range map[string]string{
			full + "x": "too_long", a.str("body") + "x": "too_long", strings.Repeat("@Z ", 101): "too_many", strings.Repeat(token, 101): "too_many", strings.Repeat(token, 100) + "@z": "too_many",
			strings.Repeat(token, 100) + strings.Repeat("x", maxComment-199): "too_long", "`" + strings.Repeat(token, 300) + "`": "too_long",
		} {
			say(text).problem(422, "validation_failed").field("body", code)
			alice.edit(a.str("id"), text).problem(422, "validation_failed").field("body", code)
		}
		ts.unchanged(before, "too many mentions")
		say(strings.Repeat("@a ", 3000)+"@z").want(201).is("mentions", "["+zoe.id+"]") // names that nobody has are only text
	})
	ts.run("are of members when they are kept, whoever leaves meanwhile", func(t *testing.T) {
		for range 5 {
			lena := ts.signUp("Lena")
			alice.add(web, lena, roleMember)
			one, two := crowd{testServer: ts}.both(
				func() *answer { return (&client{s: ts, token: alice.token}).post(path, `{"body":"@[`+lena.id+`]"}`) },
				func() *answer { return lena.delete("/api/v1/projects/" + web + "/members/" + lena.id) })
			two.want(204)
			if one.status != 201 {
				one.problem(422, "validation_failed").field("body", "not_a_member")
			}
			// The log has both in their order.
			log := fmt.Sprint(alice.get("/api/v1/projects/" + web + "/activity?limit=2").want(200).strs("kind"))
			if want := map[int]string{201: "[member.removed comment.created]", 422: "[member.removed member.added]"}[one.status]; log != want {
				t.Errorf("got %d and the log %s", one.status, log)
			}
		}
	})
	ts.run("are no way to learn who is in a project that one does not read", func(t *testing.T) {
		for _, text := range []string{"@alex", "@bób", "@[Bob]", "@nobody"} {
			olga.post(path, jsonOf(newComment{written(text)})).problem(404, "not_found")
		}
	})
}

func TestAMentionThatIsKeptIsFoundAgain(t *testing.T) {
	t.Parallel()
	pieces := []string{"@", "ada", "[", "]", `"`, "`", "``", "```", " ", "\n", ".", "-", "_", "/", "é", "日", "@ada", `@"Ada Lovelace"`, "@[0192f0c1-2345-7abc-8def-0123456789ab]", "0192f0c1-2345-7abc-8def-0123456789ab"}
	const token = "@[0192f0c1-2345-7abc-8def-ffffffffffff]"
	found := 0
	for range 50_000 {
		var text string
		for range rand.IntN(12) {
			text += pieces[rand.IntN(len(pieces))]
		}
		parts := splitMentions(text)
		if joined := strings.Join(parts, ""); joined != text || len(parts)%2 != 1 {
			t.Fatalf("%q became %q", text, parts)
		}
		kept := slices.Clone(parts)
		kept.each(func(part *string) {
			found++
			if rand.IntN(3) > 0 { // a name that a member has
				*part = token
			}
		})
		if again := splitMentions(strings.Join(kept, "")); !slices.Equal(again, kept) {
			t.Fatalf("%q is kept as %q, and then taken apart as %q", text, kept, again)
		}
	}
	if found < 10_000 {
		t.Errorf("only %d mentions were tried", found)
	}
}
