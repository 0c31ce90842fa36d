package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestMailOfWhatConcernsAnAccount(t *testing.T) {
	t.Parallel()
	ts, ms := newMailedServer(t)
	signUp := func(name string) *client {
		c := ts.signUp(name)
		ts.lastMail(ms, c.email, 1)
		return c
	}
	root := signUp("Root")

	ts.run("warns of a refresh token that was used twice", func(t *testing.T) {
		ada := signUp("Ada")
		phone := &client{s: ts, id: ada.id, email: ada.email}
		a := phone.with("User-Agent", "Phone of Ada (https://evil.example)").post(loginPath, jsonOf(credentials{ada.email, testPassword})).want(200)
		phone.refresh = a.str("refreshToken")
		next := phone.refreshWith(phone.refresh).want(200).str("refreshToken")
		phone.refreshWith(next).want(200)
		phone.refreshWith(phone.refresh).problem(401, "invalid_refresh_token")
		phone.refreshWith(phone.refresh).problem(401, "invalid_refresh_token") // told once
		m := ts.lastMail(ms, ada.email, 2)
		if m.subject != "We signed out one of your devices" || !strings.Contains(m.text, "Phone of Ada (https:// evil. example)") || strings.Contains(m.html, "evil.example") {
			t.Errorf("got %+v", m)
		}
	})
	ts.run("warns when the second factor is turned off", func(t *testing.T) {
		ada := signUp("Ada")
		newAuthenticator(ada)
		ada.do("DELETE", totpPath, proof).want(204) // it was not on yet
		a := newAuthenticator(ada)
		ada.confirmTOTP(a.code(0)).want(200)
		ada.do("DELETE", totpPath, proof).want(204)
		if m := ts.lastMail(ms, ada.email, 2); m.subject != "Your second factor is off" {
			t.Errorf("got %+v", m)
		}
	})
	ts.run("brings an invitation, whose link is good for the address", func(t *testing.T) {
		project := root.project("Web <b>site</b> of evil.example")
		told := root.post("/api/v1/projects/"+project+"/members", `{"email":"Carl@example.org","role":"member"}`).want(202)
		m := ts.lastMail(ms, "carl@example.org", 1)
		if m.subject != "Root Tester invites you to a project" || m.use != "invitation" || m.token != told.str("token") ||
			!strings.Contains(m.text, "“Web <b>site</ b> of evil. example”") || !strings.Contains(m.html, "Web &lt;b&gt;site&lt;/ b&gt; of evil. example") {
			t.Errorf("got %+v", m)
		}
		a := ts.anonymous().post(registerPath, registration("carl@example.org")).want(201)
		carl := &client{s: ts, token: a.str("accessToken")}
		carl.post("/api/v1/invitations/accept", jsonOf(acceptance{m.token})).want(200).is("id", project)
	})
	ts.run("brings no invitation that was taken back or replaced meanwhile", func(t *testing.T) {
		project := "/api/v1/projects/" + root.project("Project")
		root.post("/api/v1/admin/queues/default/pause", "").want(204)
		first := root.post(project+"/members", `{"email":"dora@example.org","role":"member"}`).want(202)
		root.post(project+"/members", `{"email":"emil@example.org","role":"member"}`).want(202)
		root.delete(project + "/invitations/" + first.str("id")).want(204)
		second := root.post(project+"/members", `{"email":"emil@example.org","role":"viewer"}`).want(202)
		root.post("/api/v1/admin/queues/default/resume", "").want(204)
		if m := ts.lastMail(ms, "emil@example.org", 1); m.token != second.str("token") {
			t.Errorf("got %+v", m)
		}
		if list := ts.mailsTo(ms, "dora@example.org"); len(list) != 0 {
			t.Errorf("got %+v", list)
		}
	})
	ts.run("cannot be made to carry anything else", func(t *testing.T) {
		links := regexp.MustCompile(`https?://\S|www\.\S`)
		for i, name := range []string{"{link}", `"><img src=x>`, "http://evil.example/?a=b", "ünïcödé 王", "Ada\u2028Bcc: x"} {
			email := fmt.Sprintf("name%d@example.org", i)
			ts.anonymous().post(registerPath, jsonOf(newAccount{email, testPassword, name, "Tester"})).want(201)
			m := ts.lastMail(ms, email, 1)
			if strings.Contains(m.html, "<img") || strings.Contains(m.text, "evil.example") || len(links.FindAllString(m.text, -1)) != 1 || len(m.header["Bcc"]) > 0 || !strings.HasPrefix(m.text, "Hello "+unlinked(name)) {
				t.Errorf("%q: got %+v", name, m)
			}
		}
	})
	ts.run("is given up at once where the server refuses the address, and holds up no other", func(t *testing.T) {
		ms.set("RCPT", "550 5.1.1 no such user")
		eve := ts.signUp("Eve")
		eventually(t, 30*time.Second, "the mail is dead", func() bool {
			dead, err := queryValue[int](t.Context(), ts.db, `SELECT count(*) FROM jobs WHERE dead_at IS NOT NULL AND error LIKE '%no such user%' AND attempts = 1`)
			return err == nil && dead == 1
		})
		ms.unset("RCPT")
		signUp("Frank")
		if list := ts.mailsTo(ms, eve.email); len(list) != 0 {
			t.Errorf("got %+v", list)
		}
	})
	ts.run("is tried again with the same message when the server's last word was lost", func(t *testing.T) {
		ms.set("message", "hang up") // it has taken it, and does not say so
		gil := ts.signUp("Gil")
		eventually(t, 30*time.Second, "it was sent", func() bool {
			n, err := queryValue[int](t.Context(), ts.db, `SELECT count(*) FROM jobs WHERE attempts > 0 AND dead_at IS NULL`)
			return err == nil && n == 1
		})
		ms.unset("message")
		list := ts.mailsTo(ms, gil.email)
		if len(list) != 2 || list[0].header.Get("Message-Id") != list[1].header.Get("Message-Id") || list[0].text != list[1].text {
			t.Errorf("got %+v", list)
		}
	})
	ts.run("is not sent for what was not committed", func(t *testing.T) {
		before := len(ms.taken())
		ts.anonymous().post(registerPath, registration(root.email)).problem(409, "email_taken")
		ts.mailsTo(ms, root.email)
		if got := len(ms.taken()); got != before {
			t.Errorf("%d mails more", got-before)
		}
	})
}

func TestDevModeKeepsMail(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ts := newTestServer(t, "SMTP_URL=", "DATA_DIR="+dir)
	ts.startWorking()
	ts.signUp("Ada")
	eventually(t, 30*time.Second, "a mail is kept", func() bool { return ts.living() == 0 })
	files, err := filepath.Glob(filepath.Join(dir, "mails", "*.eml"))
	if err != nil || len(files) != 1 {
		t.Fatalf("got %v, %v", files, err)
	}
	raw, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	m := readMailOf(t, string(raw))
	ts.noteSecret(m.token)
	ts.verify(m.token).want(204)
}

// Every fact that is told by mail makes a mail that can be read.
func TestEveryMailCanBeWritten(t *testing.T) {
	t.Parallel()
	for kind, e := range emails {
		l := letter{Name: "Ada", Site: "tasks.example.org", Inviter: "Bob", Project: "Launch", Device: "Phone"}
		if e.link != "" {
			l.Link = "https://tasks.example.org/account#" + e.link + "=x"
		}
		subject, text, html := e.write(l)
		if subject == "" || len(subject) > 78 || !strings.HasPrefix(text, "Hello Ada,\n\n") || strings.ContainsAny(subject+text+html, "{}%") {
			t.Errorf("%s: got %q, %q, %s", kind, subject, text, html)
		}
		if linked := strings.Contains(text, "\n"+l.Link+"\n") && strings.Contains(html, `<a href="`+l.Link+`"`) && strings.Contains(html, ">"+e.button+"</a>"); linked != (e.link != "") {
			t.Errorf("%s: its link is wrong: %s %s", kind, text, html)
		}
		if e.token != "" && e.link == "" {
			t.Errorf("%s has a token and no link", kind)
		}
	}
}
