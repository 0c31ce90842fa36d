package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"net/smtp"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

const mailPatience = 30 * time.Second // for each step of a dialogue with the mail server; some look long at a message

// mailer hands messages to a mail server (RFC 5321), or without one keeps them as files.
type mailer struct {
	host                  string // of the server; "" for none
	port                  string
	implicit              bool   // TLS from the first byte (RFC 8314), not by STARTTLS
	user                  string // "" to send without signing in
	password              secret
	from                  *mail.Address
	dir                   string // where messages are kept without a server; "" for nowhere
	patience              time.Duration
	dial                  func(ctx context.Context, network, address string) (net.Conn, error)
	sent, failed, refused atomic.Int64   // messages; attempts that may be repeated; messages that the server did not want
	roots                 *x509.CertPool // whom to trust; nil for the system's
}

// newMailer takes settings that loadConfig has checked.
func newMailer(server secret, from, dir string) *mailer {
	m := &mailer{dir: dir, patience: mailPatience, dial: (&net.Dialer{}).DialContext}
	m.from, _ = mail.ParseAddress(from)
	if u, err := url.Parse(string(server)); err == nil && server != "" {
		m.implicit = u.Scheme == "smtps"
		m.host, m.port = u.Hostname(), cmp.Or(u.Port(), map[bool]string{true: "465", false: "587"}[m.implicit])
		m.user = u.User.Username()
		password, _ := u.User.Password()
		m.password = secret(password)
	}
	return m
}

// on tells whether messages go anywhere.
func (m *mailer) on() bool { return m.host != "" || m.dir != "" }

// message is one mail to one reader.
type message struct {
	id      string    // whoever gets the same message twice can tell by it; fit to be a file's name
	at      time.Time // when it was caused
	to      string    // address
	subject string
	text    string
	html    string // says the same

	unsubscribe string // address where a POST ends mails of its sort; "" for those that cannot be ended
}

// send hands a message over. It may arrive twice where the server's last word was lost. An error is
// permanent where the server refuses the message itself.
func (m *mailer) send(ctx context.Context, msg message) error {
	raw, err := m.render(msg)
	switch {
	case err != nil:
		return permanent(fmt.Errorf("write mail: %w", err))
	case m.host != "":
		err = m.deliver(ctx, msg.to, raw)
	case m.dir != "":
		err = m.keep(msg.id, raw)
	default:
		err = errors.New("this process has no SMTP_URL; all processes need the same")
	}
	_, final := errors.AsType[permanentError](err)
	switch {
	case final:
		m.refused.Add(1)
	case err != nil:
		m.failed.Add(1)
	default:
		m.sent.Add(1)
		return nil
	}
	return fmt.Errorf("send mail: %w", err)
}

// keep writes a message to a file, whole or not at all.
func (m *mailer) keep(id string, raw []byte) error {
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return err
	}
	name := filepath.Join(m.dir, id+".eml")
	if err := os.WriteFile(name+".new", raw, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// render writes a message (RFC 5322), the text and the HTML as alternatives. Nothing in it depends
// on when it is sent, so that a second try sends the same.
func (m *mailer) render(msg message) ([]byte, error) {
	if strings.ContainsFunc(msg.to+msg.subject+msg.id+msg.unsubscribe, isControl) {
		return nil, errors.New("a header would have a control character in it")
	}
	var out bytes.Buffer
	_, domain, _ := strings.Cut(m.from.Address, "@")
	headers := [][2]string{
		{"From", m.from.String()},
		{"To", (&mail.Address{Address: msg.to}).String()},
		{"Subject", strings.ReplaceAll(mime.QEncoding.Encode("utf-8", msg.subject), "?= =?", "?=\r\n =?")}, // each word on a line (RFC 2047)
		{"Date", msg.at.UTC().Format(time.RFC1123Z)},
		{"Message-ID", "<" + msg.id + "@" + domain + ">"},
		{"Auto-Submitted", "auto-generated"}, // so that no machine answers (RFC 3834)
		{"MIME-Version", "1.0"},
		{"Content-Type", `multipart/alternative; boundary="` + msg.id + `"`},
	}
	if msg.unsubscribe != "" {
		headers = append(headers, [2]string{"List-Unsubscribe", "<" + msg.unsubscribe + ">"}) // RFC 2369
	}
	if strings.HasPrefix(msg.unsubscribe, "https:") {
		headers = append(headers, [2]string{"List-Unsubscribe-Post", "List-Unsubscribe=One-Click"}) // RFC 8058, for https only
	}
	for _, header := range headers {
		fmt.Fprintf(&out, "%s: %s\r\n", header[0], header[1])
	}
	out.WriteString("\r\n")
	parts := multipart.NewWriter(&out)
	if err := parts.SetBoundary(msg.id); err != nil {
		return nil, err
	}
	for _, part := range [][2]string{{"text/plain", msg.text}, {"text/html", msg.html}} {
		w, err := parts.CreatePart(textproto.MIMEHeader{
			"Content-Type": {part[0] + "; charset=utf-8"}, "Content-Transfer-Encoding": {"quoted-printable"},
		})
		if err != nil {
			return nil, err
		}
		lines := quotedprintable.NewWriter(w)
		if _, err := lines.Write([]byte(part[1])); err != nil {
			return nil, err
		}
		if err := lines.Close(); err != nil {
			return nil, err
		}
	}
	err := parts.Close()
	return out.Bytes(), err
}

// deliver speaks with the server, each step within its time.
func (m *mailer) deliver(ctx context.Context, to string, raw []byte) (err error) {
	dialing, cancel := context.WithTimeout(ctx, m.patience)
	defer cancel()
	conn, err := m.dial(dialing, "tcp", net.JoinHostPort(m.host, m.port))
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	step := func(name string, do func() error) {
		if err != nil {
			return
		}
		conn.SetDeadline(time.Now().Add(m.patience))
		if err = do(); err != nil {
			err = fmt.Errorf("%s: %w", name, cmp.Or(ctx.Err(), err))
		}
	}
	var client *smtp.Client
	step("greeting", func() (err error) {
		peer := conn
		if m.implicit {
			peer = tls.Client(conn, m.tls())
		}
		client, err = smtp.NewClient(peer, m.host)
		return err
	})
	_, domain, _ := strings.Cut(m.from.Address, "@")
	step("EHLO", func() error { return client.Hello(domain) })
	step("STARTTLS", func() error { return m.secure(client) })
	step("AUTH", func() error { return m.signIn(client) })
	step("MAIL", func() error { return final(announce(client, m.from.Address)) })
	step("RCPT", func() error { return final(client.Rcpt(to)) })
	step("DATA", func() error {
		w, err := client.Data()
		if err != nil {
			return final(err)
		}
		if _, err := w.Write(raw); err != nil {
			return err
		}
		return final(w.Close())
	})
	if err == nil {
		conn.SetDeadline(time.Now().Add(m.patience))
		client.Quit() // the server has the message, whatever it answers now
	}
	return err
}

// announce says from whom a message comes. net/smtp would ask for SMTPUTF8 wherever that is offered,
// and then servers further on that do not know it refuse what is all ASCII anyway.
func announce(client *smtp.Client, from string) error {
	id, err := client.Text.Cmd("MAIL FROM:<%s>", from)
	if err != nil {
		return err
	}
	client.Text.StartResponse(id)
	defer client.Text.EndResponse(id)
	_, _, err = client.Text.ReadResponse(250)
	return err
}

func (m *mailer) tls() *tls.Config {
	return &tls.Config{ServerName: m.host, RootCAs: m.roots, MinVersion: tls.VersionTLS12}
}

// secure starts TLS (RFC 3207). A server that does not offer it, or whose offer somebody on the way
// took out, gets neither password nor mail. On this machine there is no way, and often no certificate.
func (m *mailer) secure(client *smtp.Client) error {
	if m.implicit || slices.Contains([]string{"localhost", "127.0.0.1", "::1"}, m.host) {
		return nil
	}
	if offered, _ := client.Extension("STARTTLS"); !offered {
		return errors.New("the server does not offer it; nothing is sent without encryption (SMTP_URL takes smtps:// too)")
	}
	return client.StartTLS(m.tls())
}

func (m *mailer) signIn(client *smtp.Client) error {
	if m.user == "" {
		return nil
	}
	_, mechanisms := client.Extension("AUTH")
	switch offered := strings.Fields(mechanisms); {
	case slices.Contains(offered, "PLAIN"):
		return client.Auth(smtp.PlainAuth("", m.user, string(m.password), m.host))
	case slices.Contains(offered, "LOGIN"):
		return client.Auth(loginAuth{m.user, string(m.password)})
	}
	return fmt.Errorf("the server offers neither PLAIN nor LOGIN (it offers %q)", mechanisms)
}

// loginAuth is AUTH LOGIN, which has no RFC and is all that some servers offer: they ask for the
// name, then for the password.
type loginAuth struct{ user, password string }

func (a loginAuth) Start(*smtp.ServerInfo) (string, []byte, error) { return "LOGIN", nil, nil }

func (a loginAuth) Next(asked []byte, more bool) ([]byte, error) {
	switch {
	case !more:
		return nil, nil
	case strings.HasPrefix(strings.ToLower(string(asked)), "user"):
		return []byte(a.user), nil
	case strings.HasPrefix(strings.ToLower(string(asked)), "pass"):
		return []byte(a.password), nil
	}
	return nil, fmt.Errorf("the server asks something else in AUTH LOGIN: %s", base64.StdEncoding.EncodeToString(asked))
}

// final makes a refusal of the message permanent: a 5xx answer (RFC 5321, section 4.2.1). That one
// must sign in first (530) is a mistake in the settings, which will be mended.
func final(err error) error {
	if refusal, ok := errors.AsType[*textproto.Error](err); ok && refusal.Code >= 500 && refusal.Code != 530 {
		return permanent(err)
	}
	return err
}
