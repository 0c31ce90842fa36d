package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"html"
	"net/http"
)

// unsubscribeLink is the address at which mails of one sort to a user end: of a kind of notification,
// "digest", or "all". It is good for as long as he has the address that the mail went to. Like all links
// in mails it leads to PUBLIC_URL. It says who he is and can do nothing else.
func (s *server) unsubscribeLink(user uuid, email, what string) string {
	return s.config.publicURL + "/unsubscribe/" + what + "/" + s.keys.unsubscribeToken(user, email, what)
}

func (k *keyring) unsubscribeToken(user uuid, email, what string) string {
	return base64.RawURLEncoding.EncodeToString(append(user[:], k.mac("unsubscribe", user.String(), email, what)...))
}

const emailOfSQL = `SELECT email FROM users WHERE id = $1 AND is_active`

// unsubscriber is the user of a link, or the problem not_found. The sort of mail is authenticated with
// him, so it is one that a mail was sent for.
func (s *server) unsubscriber(ctx context.Context, what, token string) (user uuid, email string, err error) {
	raw, err := decodeSegment(token)
	if err != nil || len(raw) != len(user)+macSize {
		return user, "", newProblem("not_found", "")
	}
	user = uuid(raw[:len(user)])
	if email, err = queryValue[string](ctx, s.db, emailOfSQL, user); err != nil {
		return user, "", err
	}
	if !s.keys.verify(raw[len(user):], "unsubscribe", user.String(), email, what) {
		return user, "", newProblem("not_found", "")
	}
	return user, email, nil
}

// aboutOf is what people call mails of a sort.
func aboutOf(what string) string {
	for _, k := range noticeKinds {
		if k.name == what {
			return "mails about " + k.about
		}
	}
	if what == "digest" {
		return "digests of what is unread"
	}
	return "mails about notifications of any kind"
}

// handleUnsubscribePage asks whether mails should really end: who opens a link in a mail may be a
// program that looks at it for its owner.
func (s *server) handleUnsubscribePage(w http.ResponseWriter, r *http.Request) error {
	what := r.PathValue("what")
	user, email, err := s.unsubscriber(r.Context(), what, r.PathValue("token"))
	if err != nil {
		return err
	}
	forms := ""
	for _, sort := range []string{what, "all"} {
		action := "/unsubscribe/" + sort + "/" + s.keys.unsubscribeToken(user, email, sort)
		forms += fmt.Sprintf(`<form method="post" action="%s"><p>No more %s?</p><button class="primary">No more</button></form>`+"\n", html.EscapeString(action), html.EscapeString(aboutOf(sort)))
		if what == "all" {
			break
		}
	}
	return s.writePlainPage(w, lonePage, "Fewer mails?", "<p>Your inbox in TaskFlow stays as it is.</p>\n"+forms)
}

// handleUnsubscribe ends mails of a sort. A mail program does this at one click with a body that says so
// (RFC 8058), the page with none; whoever has the address may, so there is nothing in the body to judge.
// It never concerns mails about the account itself, and repeating it changes nothing more.
func (s *server) handleUnsubscribe(w http.ResponseWriter, r *http.Request) error {
	what := r.PathValue("what")
	user, _, err := s.unsubscriber(r.Context(), what, r.PathValue("token"))
	if err == nil {
		err = s.stopMail(r.Context(), user, what)
	}
	if err != nil {
		return err
	}
	return s.writePlainPage(w, lonePage, "Done", "<p>You get no more "+html.EscapeString(aboutOf(what))+". Your notification settings can turn it on again.</p>\n")
}
