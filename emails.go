package main

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
)

// emailKind is what is mailed about one kind of fact.
type emailKind struct {
	subject string
	body    string // paragraphs with {names} of what a letter has, one of them perhaps the {link}
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
Somebody, most likely you, has made an account at {site} with this address. Please confirm that it is yours:

{link}

The link works once, within an hour. If it was not you, you need not do anything.`,
	},
	"user.email_requested": {
		subject: "Please confirm your new address",
		token:   "email", link: "verify", button: "Confirm my new address",
		body: `
The owner of an account at {site} wants to use it with this address. If that is you, please confirm it:

{link}

The link works once, within an hour; until then the old address stays. If it was not you, you need not do anything.`,
	},
	"user.email_changed": {
		subject: "The address of your account has changed",
		body: `
Your account at {site} has a new address, and this one does not belong to it any more.

If that was not you, somebody knows your password: please tell the operator of {site} at once.`,
	},
	"password.forgotten": {
		subject: "Set a new password",
		token:   "password", link: "reset", button: "Set a new password",
		body: `
Somebody, most likely you, has forgotten the password of your account at {site}. Here you can set a new one:

{link}

The link works once, within an hour, and only the newest one does. If it was not you, you need not do anything: your password stays as it is.`,
	},
	"user.password_changed": {
		subject: "Your password has changed",
		body: `
The password of your account at {site} has been changed, and other devices were signed out. API tokens go on working.

If that was not you, please set a new password at once by "forgot password", and look at your sessions and API tokens.`,
	},
	"user.totp_disabled": {
		subject: "Your second factor is off",
		body: `
Signing in to your account at {site} takes only the password from now on: the second factor has been turned off.

If that was not you, please change your password at once, and turn the second factor on again.`,
	},
	"session.reuse_detected": {
		subject: "We signed out one of your devices",
		body: `
A device that was signed in to your account at {site} showed a token that had been used before. That happens when somebody has copied it, so we have signed this device out{device}.

You can sign in again. If you do not know why this could happen, please change your password.`,
	},
	"member.invited": {
		subject: "{inviter} invites you to a project",
		link:    "invitation", button: "Accept the invitation",
		body: `
{inviter} invites you to the project “{project}” at {site}.

{link}

The link works once, within seven days, for this address. If you do not know what this is about, you need not do anything.`,
	},
}

// letter is what is filled in.
type letter struct {
	Name    string // of whom it is addressed to; "" if that is unknown
	Site    string // this installation
	Link    string
	Inviter string
	Project string
	Device  string
}

// htmlLayout takes subject, greeting, paragraphs and footer; the next two are its paragraphs.
const (
	htmlLayout = `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>%s</title></head>
<body style="margin:0;padding:24px;background:#f5f6f8;color:#1a1f27;font:16px/1.5 system-ui,sans-serif">
<div style="max-width:34em;margin:0 auto;padding:24px;background:#fff;border:1px solid #e2e5ea;border-radius:8px">
<p style="margin:0 0 1em">%s,</p>
%s<p style="margin:2em 0 0;font-size:13px;color:#596273">%s</p>
</div>
</body>
</html>
`
	htmlParagraph = `<p style="margin:0 0 1em">%s</p>
`
	htmlLink = `<p style="margin:1.5em 0"><a href="%[1]s" style="display:inline-block;padding:10px 18px;border-radius:6px;background:#3f5bd8;color:#fff;text-decoration:none">%[2]s</a></p>
<p style="margin:0 0 1em;font-size:13px;color:#596273;overflow-wrap:anywhere">%[1]s</p>
`
)

// write makes the message of a letter: the text, and the same as HTML, where all that is filled in is
// escaped, as text or as an attribute in quotes. Templates would do that too, but they look up
// methods by name, and so keep the linker from leaving out what is never called: a third of the program.
func (e emailKind) write(l letter) (subject, text, page string) {
	device, greeting := unlinked(l.Device), greetingOf(l.Name)
	if device != "" {
		device = ": " + device
	}
	fill := strings.NewReplacer("{site}", l.Site, "{link}", l.Link, "{inviter}", unlinked(l.Inviter), "{project}", unlinked(l.Project), "{device}", device)
	subject, text = fill.Replace(e.subject), greeting+",\n"
	var paragraphs strings.Builder
	for paragraph := range strings.SplitSeq(strings.TrimSpace(e.body), "\n\n") {
		filled := fill.Replace(paragraph)
		text += "\n" + filled + "\n"
		if paragraph == "{link}" {
			fmt.Fprintf(&paragraphs, htmlLink, html.EscapeString(filled), html.EscapeString(e.button))
		} else {
			fmt.Fprintf(&paragraphs, htmlParagraph, html.EscapeString(filled))
		}
	}
	text += "\n-- \nTaskFlow at " + l.Site + "\n"
	page = fmt.Sprintf(htmlLayout, html.EscapeString(subject), html.EscapeString(greeting), paragraphs.String(), html.EscapeString("TaskFlow at "+l.Site))
	return subject, text, page
}

// greetingOf begins a mail to somebody; "" is a stranger.
func greetingOf(name string) string {
	if name = unlinked(name); name != "" {
		return "Hello " + name
	}
	return "Hello"
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
	l.Site = s.site()
	msg := message{id: j.ID, at: id.time(), to: to}
	msg.subject, msg.text, msg.html = e.write(l)
	return s.mail.send(ctx, msg)
}

// site is what mails call this installation.
func (s *server) site() string {
	_, site, _ := strings.Cut(s.config.publicURL, "://")
	return site
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
