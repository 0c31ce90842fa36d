package main

import (
	"context"
	"encoding/json"
	"fmt"
	htmltemplate "html/template"
	"regexp"
	"strings"
	"text/template"

	"github.com/jackc/pgx/v5"
)

// emailKind is what is mailed about one kind of fact.
type emailKind struct {
	subject string
	body    string // a template over letter: paragraphs, one of them perhaps the link
	button  string // what the link does
	token   string // kind of the account token in it
	link    string // what stands before the token in the page's address
}

// emails are the facts that are told by mail. Those with a token go to the address that it is for,
// others to the user's.
var emails = map[string]emailKind{
	"user.registered": {
		subject: "Please confirm your address",
		token:   "email", link: "verify", button: "Confirm my address",
		body: `
Somebody, most likely you, has made an account at {{.Site}} with this address. Please confirm that it is yours:

{{.Link}}

The link works once, within an hour. If it was not you, you need not do anything.`,
	},
	"user.email_requested": {
		subject: "Please confirm your new address",
		token:   "email", link: "verify", button: "Confirm my new address",
		body: `
The owner of an account at {{.Site}} wants to use it with this address. If that is you, please confirm it:

{{.Link}}

The link works once, within an hour; until then the old address stays. If it was not you, you need not do anything.`,
	},
	"user.email_changed": {
		subject: "The address of your account has changed",
		body: `
Your account at {{.Site}} has a new address, and this one does not belong to it any more.

If that was not you, somebody knows your password: please tell the operator of {{.Site}} at once.`,
	},
	"password.forgotten": {
		subject: "Set a new password",
		token:   "password", link: "reset", button: "Set a new password",
		body: `
Somebody, most likely you, has forgotten the password of your account at {{.Site}}. Here you can set a new one:

{{.Link}}

The link works once, within an hour, and only the newest one does. If it was not you, you need not do anything: your password stays as it is.`,
	},
	"user.password_changed": {
		subject: "Your password has changed",
		body: `
The password of your account at {{.Site}} has been changed, and other devices were signed out. API tokens go on working.

If that was not you, please set a new password at once by "forgot password", and look at your sessions and API tokens.`,
	},
	"user.totp_disabled": {
		subject: "Your second factor is off",
		body: `
Signing in to your account at {{.Site}} takes only the password from now on: the second factor has been turned off.

If that was not you, please change your password at once, and turn the second factor on again.`,
	},
	"session.reuse_detected": {
		subject: "We signed out one of your devices",
		body: `
A device that was signed in to your account at {{.Site}} showed a token that had been used before. That happens when somebody has copied it, so we have signed this device out{{if .Device}}: {{.Device}}{{end}}.

You can sign in again. If you do not know why this could happen, please change your password.`,
	},
	"member.invited": {
		subject: "{{.Inviter}} invites you to a project",
		link:    "invitation", button: "Accept the invitation",
		body: `
{{.Inviter}} invites you to the project “{{.Project}}” at {{.Site}}.

{{.Link}}

The link works once, within seven days, for this address. If you do not know what this is about, you need not do anything.`,
	},
}

// letter is what the templates know.
type letter struct {
	Name    string // of whom it is addressed to; "" if that is unknown
	Site    string // this installation
	Link    string
	Inviter string
	Project string
	Device  string
}

const (
	textLayout = `Hello{{with .Name}} {{.}}{{end}},
{{range .Paragraphs}}
{{.}}
{{end}}
-- 
TaskFlow at {{.Site}}
`
	htmlLayout = `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{.Subject}}</title></head>
<body style="margin:0;padding:24px;background:#f5f6f8;color:#1a1f27;font:16px/1.5 system-ui,sans-serif">
<div style="max-width:34em;margin:0 auto;padding:24px;background:#fff;border:1px solid #e2e5ea;border-radius:8px">
<p style="margin:0 0 1em">Hello{{with .Name}} {{.}}{{end}},</p>
{{range .Paragraphs}}{{if eq . $.Link}}<p style="margin:1.5em 0"><a href="{{.}}" style="display:inline-block;padding:10px 18px;border-radius:6px;background:#3f5bd8;color:#fff;text-decoration:none">{{$.Button}}</a></p>
<p style="margin:0 0 1em;font-size:13px;color:#596273;overflow-wrap:anywhere">{{.}}</p>
{{else}}<p style="margin:0 0 1em">{{.}}</p>
{{end}}{{end}}<p style="margin:2em 0 0;font-size:13px;color:#596273">TaskFlow at {{.Site}}</p>
</div>
</body>
</html>
`
)

var (
	textMail = template.Must(template.New("text").Parse(textLayout))
	htmlMail = htmltemplate.Must(htmltemplate.New("html").Parse(htmlLayout))
)

// write makes the message of a letter: the text, and the same as HTML.
func (e emailKind) write(l letter) (subject, text, html string, err error) {
	l.Name, l.Inviter, l.Project, l.Device = unlinked(l.Name), unlinked(l.Inviter), unlinked(l.Project), unlinked(l.Device)
	fill := func(source string) string {
		var out strings.Builder
		t, wrong := template.New("mail").Parse(source)
		if wrong == nil {
			wrong = t.Execute(&out, l)
		}
		if wrong != nil {
			err = wrong
		}
		return out.String()
	}
	page := struct {
		letter
		Subject    string
		Button     string
		Paragraphs []string
	}{letter: l, Subject: fill(e.subject), Button: e.button}
	page.Paragraphs = strings.Split(strings.TrimSpace(fill(e.body)), "\n\n")
	var asText, asHTML strings.Builder
	if err == nil {
		err = textMail.Execute(&asText, page)
	}
	if err == nil {
		err = htmlMail.Execute(&asHTML, page)
	}
	return page.Subject, asText.String(), asHTML.String(), err
}

var linkParts = regexp.MustCompile(`[.:/@]+`)

// unlinked is a text that users chose, such that no mail program makes a link of it: what strangers
// get from this server should lead only here.
func unlinked(text string) string {
	return strings.TrimSpace(linkParts.ReplaceAllString(text, "$0 "))
}

const (
	noticeSQL = `
	SELECT u.email, u.first_name AS name, coalesce(s.user_agent, '') AS device
	FROM users u LEFT JOIN sessions s ON s.id = $2 AND s.user_id = u.id WHERE u.id = $1 AND u.is_active`
	invitationMailSQL = `
	SELECT i.email, i.token_hash AS hash, p.name AS project, u.first_name || ' ' || u.last_name AS inviter
	FROM invitations i JOIN projects p ON p.id = i.project_id JOIN users u ON u.id = i.invited_by
	WHERE i.id = $1 AND i.expires_at > clock_timestamp() AND p.deleted_at IS NULL`
)

// runEmail mails one fact to whom it concerns, unless that has come to nothing: a token that was
// used, an invitation that was taken back, an account that is gone. The message has the job's id, so
// a second run, when the end of the first was lost, sends what mail programs show once.
func (s *server) runEmail(ctx context.Context, j job, _ *pgx.Batch) error {
	var f fact
	if err := json.Unmarshal(j.Payload, &f); err != nil {
		return permanent(fmt.Errorf("read payload: %w", err))
	}
	e, known := emails[f.Kind]
	if !known {
		return permanent(fmt.Errorf("read payload: no mail tells of %q", f.Kind))
	}
	id, err := parseUUID(j.ID)
	if err != nil {
		return permanent(fmt.Errorf("read job id: %w", err))
	}
	to, l, err := s.address(ctx, j, f, e)
	if err != nil || to == "" {
		return err
	}
	_, l.Site, _ = strings.Cut(s.config.publicURL, "://")
	msg := message{id: j.ID, at: id.time(), to: to}
	if msg.subject, msg.text, msg.html, err = e.write(l); err != nil {
		return permanent(fmt.Errorf("write mail: %w", err))
	}
	return s.mail.send(ctx, msg)
}

// address finds to whom a fact is told and what his letter needs; "" when it has come to nothing.
func (s *server) address(ctx context.Context, j job, f fact, e emailKind) (to string, l letter, err error) {
	switch {
	case e.token != "":
		issued, err := s.issueToken(ctx, j.ID, e.token, f.User, f.Email)
		if err != nil || issued == nil {
			return "", l, err
		}
		l.Name, l.Link = issued.Name, s.mailLink(e.link, s.keys.mailTokenOf(e.token, j.ID, issued.Hash))
		to = issued.Email
	case f.Kind == "member.invited":
		found, err := queryAll[struct {
			Email, Project, Inviter string
			Hash                    []byte
		}](ctx, s.db, invitationMailSQL, f.Subject)
		if err != nil || len(found) == 0 {
			return "", l, err
		}
		l.Project, l.Inviter = found[0].Project, found[0].Inviter
		l.Link = s.mailLink(e.link, s.keys.mailTokenOf("invitation", f.Subject.String(), found[0].Hash))
		to = found[0].Email
	default:
		found, err := queryAll[struct{ Email, Name, Device string }](ctx, s.db, noticeSQL, f.User, f.Subject)
		if err != nil || len(found) == 0 {
			return "", l, err
		}
		l.Name, l.Device = found[0].Name, found[0].Device
		if to = f.Email; to == "" {
			to = found[0].Email
		}
	}
	if e.link != "" && l.Link == "" {
		err = permanent(fmt.Errorf("the token of this mail was made with a JWT_SECRET that is not known any more"))
	}
	return to, l, err
}

// mailLink is the address of the page where a token is used. The token stands behind the #, so that
// it reaches neither a server's log nor another site.
func (s *server) mailLink(use, token string) string {
	if token == "" {
		return ""
	}
	return s.config.publicURL + "/account#" + use + "=" + token
}
