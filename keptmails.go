package main

import (
	"errors"
	"fmt"
	"html"
	"io"
	"io/fs"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/mail"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	maxMails    = 100     // mails that the list has
	maxMailSize = 1 << 20 // bytes of one that are read
)

// mayReadKept refuses whoever is not a person at this machine: dev mode's mails have links that open
// accounts. The request must come from here, by no proxy and from no page of another origin, and ask for
// a name that only this machine has: any site can have its own name lead here (DNS rebinding).
func (s *server) mayReadKept(r *http.Request) error {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	named := host == "localhost" || net.ParseIP(strings.Trim(host, "[]")).IsLoopback()
	asked := false // by something between
	for _, name := range []string{"Origin", "Forwarded", "Via", "X-Forwarded-For", "X-Real-Ip"} {
		asked = asked || len(r.Header[name]) > 0
	}
	if s.mail.dir == "" || asked || !named || !clientAddr(r).IsLoopback() {
		return newProblem("not_found", "")
	}
	return nil
}

// keptMail is a mail as dev mode keeps it.
type keptMail struct {
	id         uuid
	header     mail.Header
	subject    string
	text, html string
}

// keptMail reads the mail of a job.
func (s *server) keptMail(id uuid) (keptMail, error) {
	k := keptMail{id: id}
	file, err := os.Open(filepath.Join(s.mail.dir, id.String()+".eml"))
	if errors.Is(err, fs.ErrNotExist) {
		return k, newProblem("not_found", "")
	}
	if err != nil {
		return k, fmt.Errorf("read kept mail: %w", err)
	}
	defer file.Close()
	msg, err := mail.ReadMessage(io.LimitReader(file, maxMailSize))
	if err != nil {
		return k, fmt.Errorf("read kept mail: %w", err)
	}
	k.header = msg.Header
	if k.subject, err = new(mime.WordDecoder).DecodeHeader(msg.Header.Get("Subject")); err != nil {
		return k, fmt.Errorf("read kept mail: %w", err)
	}
	_, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	parts := multipart.NewReader(msg.Body, params["boundary"])
	for _, into := range []*string{&k.text, &k.html} {
		if err != nil {
			break
		}
		var part *multipart.Part
		if part, err = parts.NextPart(); err == nil {
			var body []byte
			body, err = io.ReadAll(part)
			*into = string(body)
		}
	}
	if err != nil {
		return k, fmt.Errorf("read kept mail: %w", err)
	}
	return k, nil
}

// handleKeptMails lists the mails that dev mode has kept, newest first.
func (s *server) handleKeptMails(w http.ResponseWriter, r *http.Request) error {
	if err := s.mayReadKept(r); err != nil {
		return err
	}
	files, err := os.ReadDir(s.mail.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list kept mails: %w", err)
	}
	rows, listed := "", 0
	for _, file := range slices.Backward(files) { // named by ids, which sort by time
		id, err := parseUUID(strings.TrimSuffix(file.Name(), ".eml"))
		if err != nil || listed == maxMails {
			continue
		}
		k, err := s.keptMail(id)
		if err != nil {
			return err
		}
		listed++
		rows += fmt.Sprintf(`<tr><td>%s</td><td>%s</td><td><a href="/dev/mails/%s">%s</a></td></tr>`+"\n", html.EscapeString(k.header.Get("Date")),
			html.EscapeString(k.header.Get("To")), id, html.EscapeString(k.subject))
	}
	if listed == 0 {
		return s.writePlainPage(w, widePage, "Mails", "<p>None yet. In dev mode, what would be mailed is kept in "+html.EscapeString(s.mail.dir)+".</p>\n")
	}
	return s.writePlainPage(w, widePage, "Mails", "<table>\n<thead><tr><th>Sent</th><th>To</th><th>Subject</th></tr></thead>\n<tbody>\n"+rows+"</tbody>\n</table>\n")
}

// handleKeptMail shows one, as text; addresses of this installation in it are links.
func (s *server) handleKeptMail(w http.ResponseWriter, r *http.Request) error {
	k, err := s.askedForKept(r)
	if err != nil {
		return err
	}
	text := ""
	for line := range strings.Lines(k.text) {
		before, link, found := strings.Cut(strings.TrimRight(line, "\r\n"), s.config.publicURL)
		text += html.EscapeString(before)
		if link = html.EscapeString(s.config.publicURL + link); found {
			text += `<a href="` + link + `">` + link + `</a>`
		}
		text += "\n"
	}
	return s.writePlainPage(w, widePage, k.subject, fmt.Sprintf("<p>%s<br>To %s</p>\n<pre>%s</pre>\n<p><a href=\"/dev/mails/%s/html\">As HTML</a> · <a href=\"/dev/mails\">All mails</a></p>\n",
		html.EscapeString(k.header.Get("Date")), html.EscapeString(k.header.Get("To")), text, k.id))
}

// handleKeptHTML shows one's HTML, in a sandbox without scripts, forms, or anything from elsewhere.
func (s *server) handleKeptHTML(w http.ResponseWriter, r *http.Request) error {
	k, err := s.askedForKept(r)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Security-Policy", "sandbox; default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	return writeFile(w, "text/html; charset=utf-8", []byte(k.html))
}

func (s *server) askedForKept(r *http.Request) (keptMail, error) {
	if err := s.mayReadKept(r); err != nil {
		return keptMail{}, err
	}
	id, err := pathUUID(r, "id")
	if err != nil {
		return keptMail{}, err
	}
	return s.keptMail(id)
}
