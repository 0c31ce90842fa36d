package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/big"
	"mime"
	"mime/multipart"
	"net"
	"net/mail"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const mailHost = "mail.example.org" // of every mailServer; its dial leads there

// mailServer is a small SMTP server (RFC 5321) with STARTTLS and a certificate of its own making.
type mailServer struct {
	t        testing.TB
	listener net.Listener
	cert     tls.Certificate
	roots    *x509.CertPool    // that know the certificate
	implicit bool              // TLS from the first byte
	offers   []string          // extensions
	answers  map[string]string // by command, "greeting" and "message": what to say instead; "" for nothing at all, "hang up" to do that

	mu    sync.Mutex
	heard strings.Builder // what came unencrypted
	mails []receivedMail
}

// receivedMail is a message as the server took it.
type receivedMail struct {
	from, to string
	user     string // who signed in, as name and password
	secure   bool
	raw      string
}

func newMailServer(t testing.TB) *mailServer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{mailHost}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	ms := &mailServer{t: t, cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots: x509.NewCertPool(),
		offers: []string{"8BITMIME", "SMTPUTF8", "STARTTLS", "AUTH LOGIN PLAIN"}, answers: map[string]string{}}
	ms.roots.AddCert(cert)
	if ms.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := ms.listener.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer conn.Close()
				defer context.AfterFunc(ctx, func() { conn.Close() })()
				ms.serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		ms.listener.Close()
		conns.Wait()
	})
	return ms
}

// mailer is one that reaches this server by the name of mailHost.
func (ms *mailServer) mailer(smtpURL string) *mailer {
	m := newMailer(secret(smtpURL), "Täskflow <tasks@example.org>", "")
	ms.reachedBy(m)
	return m
}

func (ms *mailServer) reachedBy(m *mailer) {
	m.roots = ms.roots
	m.dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, ms.listener.Addr().String())
	}
}

// set changes what the server says from now on.
func (ms *mailServer) set(command, answer string) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	ms.answers[command] = answer
}

func (ms *mailServer) unset(command string) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	delete(ms.answers, command)
}

// with changes what the server does.
func (ms *mailServer) with(change func()) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	change()
}

// serve is one dialogue.
func (ms *mailServer) serve(conn net.Conn) {
	ms.mu.Lock()
	secure, offered := ms.implicit, ms.offers
	ms.mu.Unlock()
	from, to, user := "", "", ""
	if secure {
		conn = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{ms.cert}})
	}
	in := bufio.NewReader(conn)
	line := func() string {
		text, err := in.ReadString('\n')
		if err != nil {
			return "QUIT"
		}
		if !secure {
			ms.mu.Lock()
			ms.heard.WriteString(text)
			ms.mu.Unlock()
		}
		return strings.TrimRight(text, "\r\n")
	}
	// say answers a command; it returns false where the server says something else than it should.
	say := func(command, answer string) bool {
		ms.mu.Lock()
		other, changed := ms.answers[command]
		ms.mu.Unlock()
		if changed && other == "hang up" {
			conn.Close()
			return false
		}
		if changed {
			answer = other
		}
		if answer != "" {
			fmt.Fprint(conn, answer+"\r\n")
		}
		return !changed
	}
	say("greeting", "220 "+mailHost+" ready")
	for {
		text := line()
		command, rest, _ := strings.Cut(text, " ")
		switch command = strings.ToUpper(command); command {
		case "EHLO", "HELO":
			command = "EHLO"
			offers := slices.DeleteFunc(append([]string{mailHost}, offered...), func(offer string) bool { return secure && offer == "STARTTLS" })
			say(command, "250-"+strings.Join(offers, "\r\n250-")+"\r\n250 HELP")
		case "STARTTLS":
			if say(command, "220 go ahead") {
				conn = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{ms.cert}})
				in.Reset(conn)
				secure = true
			}
		case "AUTH":
			mechanism, initial, _ := strings.Cut(rest, " ")
			if mechanism == "LOGIN" {
				say("LOGIN", "334 "+base64.StdEncoding.EncodeToString([]byte("Username:")))
				name := unbase64(line())
				say("LOGIN", "334 "+base64.StdEncoding.EncodeToString([]byte("Password:")))
				user = name + " " + unbase64(line())
			} else {
				user = strings.TrimSpace(strings.ReplaceAll(unbase64(initial), "\x00", " "))
			}
			say(command, "235 welcome")
		case "MAIL":
			if from = rest; !strings.HasSuffix(from, ">") {
				ms.t.Errorf("MAIL asks for more than it needs: %s", from)
			}
			say(command, "250 ok")
		case "RCPT":
			to = rest
			say(command, "250 ok")
		case "DATA":
			if !say(command, "354 go on") {
				break
			}
			var raw strings.Builder
			for text := line(); text != "."; text = line() {
				if text == "QUIT" {
					return // the connection broke
				}
				raw.WriteString(strings.TrimPrefix(text, ".") + "\n")
			}
			ms.mu.Lock()
			answer, changed := ms.answers["message"]
			if !changed || answer == "hang up" {
				ms.mails = append(ms.mails, receivedMail{addressIn(from), addressIn(to), user, secure, raw.String()})
			}
			ms.mu.Unlock()
			say("message", "250 queued")
		case "QUIT":
			say(command, "221 bye")
			return
		default:
			say(command, "500 what?")
		}
	}
}

func unbase64(text string) string {
	plain, _ := base64.StdEncoding.DecodeString(text)
	return string(plain)
}

// addressIn is the address in FROM:<a@b> BODY=8BITMIME.
func addressIn(text string) string {
	_, text, _ = strings.Cut(text, "<")
	text, _, _ = strings.Cut(text, ">")
	return text
}

// taken is what the server took so far.
func (ms *mailServer) taken() []receivedMail {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return slices.Clone(ms.mails)
}

// readMail is a message as its reader sees it.
type readMail struct {
	header           mail.Header
	subject          string
	text, html       string
	link, use, token string // of its only link
}

var mailedLink = regexp.MustCompile(`(?m)^(\S+/account#(\w+)=(\S+))$`)

// readMailOf fails the test unless the message is whole: text and HTML that say the same.
func readMailOf(t testing.TB, raw string) readMail {
	t.Helper()
	msg, err := mail.ReadMessage(strings.NewReader(raw))
	if err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
	m := readMail{header: msg.Header}
	if m.subject, err = new(mime.WordDecoder).DecodeHeader(msg.Header.Get("Subject")); err != nil {
		t.Fatal(err)
	}
	media, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil || media != "multipart/alternative" {
		t.Fatalf("got %s, %v", media, err)
	}
	parts := multipart.NewReader(msg.Body, params["boundary"])
	for _, want := range []string{"text/plain; charset=utf-8", "text/html; charset=utf-8"} {
		part, err := parts.NextPart()
		if err != nil || part.Header.Get("Content-Type") != want {
			t.Fatalf("got %v, %v, want %s", part, err, want)
		}
		body, err := io.ReadAll(part)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(body), "\r\n", "\n")
		if m.text == "" {
			m.text = text
		} else {
			m.html = text
		}
	}
	if _, err := parts.NextPart(); err != io.EOF {
		t.Errorf("more than two parts: %v", err)
	}
	if match := mailedLink.FindStringSubmatch(m.text); match != nil {
		m.link, m.use, m.token = match[1], match[2], match[3]
		if strings.Count(m.html, `href="`+m.link+`"`) != 1 {
			t.Errorf("the HTML has not the link %s: %s", m.link, m.html)
		}
	}
	return m
}

func testMessage() message {
	return message{
		id: "0199a420-3b57-7d6c-8f02-96e4a1d7c35b", at: time.Date(2026, 3, 1, 9, 30, 0, 0, time.UTC), to: "ada@example.org", subject: "Grüße, Ada: “100 %”",
		text: "Hello Ada,\n\n.a line that begins with a dot\n.\n" + strings.Repeat("a long line of ünïcödé ", 100) + "\ntrailing space \nFrom here\n", html: "<p>Hello &amp; <b>goodbye</b> = 100 %</p>\n",
	}
}

func TestMailArrivesWhole(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		url      string
		implicit bool
		offers   []string
		user     string
	}{
		"by STARTTLS, signed in":              {url: "smtp://robot:p%40ss%3Aword@mail.example.org", offers: []string{"STARTTLS", "AUTH LOGIN PLAIN"}, user: "robot p@ss:word"},
		"by STARTTLS, signed in as some want": {url: "smtp://robot:secret@mail.example.org:2525", offers: []string{"STARTTLS", "AUTH LOGIN XOAUTH2"}, user: "robot secret"},
		"by TLS from the first byte":          {url: "smtps://robot:secret@mail.example.org", implicit: true, offers: []string{"AUTH PLAIN"}, user: "robot secret"},
		"without signing in":                  {url: "smtp://mail.example.org:25/", offers: []string{"STARTTLS"}},
	} {
		t.Run(name, func(t *testing.T) {
			ms := newMailServer(t)
			ms.with(func() { ms.implicit, ms.offers = test.implicit, test.offers })
			m, msg := ms.mailer(test.url), testMessage()
			for range 2 { // a second try sends the same
				if err := m.send(t.Context(), msg); err != nil {
					t.Fatal(err)
				}
			}
			got := ms.taken()
			if len(got) != 2 || got[0] != got[1] {
				t.Fatalf("got %v", got)
			}
			if got[0].from != "tasks@example.org" || got[0].to != "ada@example.org" || got[0].user != test.user || !got[0].secure {
				t.Errorf("got %+v", got[0])
			}
			read := readMailOf(t, got[0].raw)
			if read.subject != msg.subject || read.text != msg.text || read.html != msg.html {
				t.Errorf("got %+v", read)
			}
			for header, want := range map[string]string{"To": "<ada@example.org>", "Message-Id": "<" + msg.id + "@example.org>", "Date": "Sun, 01 Mar 2026 09:30:00 +0000", "Auto-Submitted": "auto-generated", "Mime-Version": "1.0"} {
				if read.header.Get(header) != want {
					t.Errorf("%s: got %q, want %q", header, read.header.Get(header), want)
				}
			}
			if from, err := read.header.AddressList("From"); err != nil || len(from) != 1 || from[0].Name != "Täskflow" {
				t.Errorf("From: got %v, %v", from, err)
			}
			for line := range strings.Lines(got[0].raw) {
				if len(line) > 998 || strings.ContainsFunc(line, func(r rune) bool { return r > 126 }) {
					t.Errorf("a line that not every server takes: %q", line)
				}
			}
			if heard := ms.heard.String(); strings.Contains(heard, "AUTH") || strings.Contains(heard, "MAIL") {
				t.Errorf("not encrypted: %s", heard)
			}
		})
	}
}

func TestMailIsNotSent(t *testing.T) {
	t.Parallel()
	const url = "smtp://robot:secret@mail.example.org"
	refused := func(t *testing.T, ms *mailServer, m *mailer, final bool, words ...string) {
		t.Helper()
		err := m.send(t.Context(), testMessage())
		wantWords(t, err, words...)
		if _, got := errors.AsType[permanentError](err); got != final {
			t.Errorf("permanent is %v, want %v: %v", got, final, err)
		}
		if strings.Contains(fmt.Sprint(err), "secret") || len(ms.taken()) > 0 {
			t.Errorf("got %v, and the server has %v", err, ms.taken())
		}
	}
	unheard := func(t *testing.T, ms *mailServer) {
		t.Helper()
		ms.mu.Lock()
		defer ms.mu.Unlock()
		if heard := ms.heard.String(); strings.Contains(heard, "AUTH") || strings.Contains(heard, "MAIL") {
			t.Errorf("not encrypted: %s", heard)
		}
	}
	t.Run("where the offer of STARTTLS is missing", func(t *testing.T) {
		ms := newMailServer(t)
		ms.with(func() { ms.offers = []string{"AUTH PLAIN"} })
		refused(t, ms, ms.mailer(url), false, "STARTTLS", "does not offer it", "smtps://")
		unheard(t, ms)
	})
	t.Run("where STARTTLS is offered and refused", func(t *testing.T) {
		ms := newMailServer(t)
		ms.set("STARTTLS", "454 not now")
		refused(t, ms, ms.mailer(url), false, "STARTTLS", "454")
		unheard(t, ms)
	})
	t.Run("to a server whose certificate nobody knows, or of another name", func(t *testing.T) {
		ms := newMailServer(t)
		m := ms.mailer(url)
		m.roots = x509.NewCertPool()
		refused(t, ms, m, false, "STARTTLS", "certificate")
		m = ms.mailer("smtp://robot:secret@other.example.org")
		refused(t, ms, m, false, "STARTTLS", "certificate", "other.example.org")
		unheard(t, ms)
	})
	t.Run("to a server that takes no sign-in we know, or not ours", func(t *testing.T) {
		ms := newMailServer(t)
		ms.set("AUTH", "535 no")
		refused(t, ms, ms.mailer(url), false, "AUTH", "535")
		ms.with(func() { ms.offers = []string{"STARTTLS", "AUTH CRAM-MD5"} })
		refused(t, ms, ms.mailer(url), false, "AUTH", "neither PLAIN nor LOGIN", "CRAM-MD5")
	})
	t.Run("that a server refuses for good", func(t *testing.T) {
		for _, command := range []string{"MAIL", "RCPT", "DATA", "message"} {
			ms := newMailServer(t)
			ms.set(command, "550 5.1.1 never")
			refused(t, ms, ms.mailer(url), true, "550", "never")
		}
	})
	t.Run("that a server refuses for now, or for want of a setting", func(t *testing.T) {
		for _, command := range []string{"greeting", "EHLO", "MAIL", "RCPT", "DATA", "message"} {
			ms := newMailServer(t)
			ms.set(command, "451 4.3.0 later")
			refused(t, ms, ms.mailer(url), false, "451", "later")
		}
		ms := newMailServer(t)
		ms.set("MAIL", "530 5.7.0 sign in first")
		refused(t, ms, ms.mailer("smtp://mail.example.org"), false, "530")
		ms.set("greeting", "554 go away")
		refused(t, ms, ms.mailer(url), false, "554")
	})
	t.Run("while a server says nothing, at whatever step", func(t *testing.T) {
		for _, command := range []string{"greeting", "EHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "message"} {
			ms := newMailServer(t)
			ms.set(command, "")
			m := ms.mailer(url)
			m.patience = 300 * time.Millisecond
			refused(t, ms, m, false, "timeout")
			ms.set(command, "hang up")
			if command != "message" { // that one it has taken
				refused(t, ms, m, false, "EOF")
			}
		}
	})
	t.Run("when its job is cancelled", func(t *testing.T) {
		ms := newMailServer(t)
		ms.set("RCPT", "")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- ms.mailer(url).send(ctx, testMessage()) }()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("when nobody listens, or there is no server", func(t *testing.T) {
		ms := newMailServer(t)
		m := ms.mailer(url)
		ms.listener.Close()
		refused(t, ms, m, false, "refused")
		refused(t, ms, newMailer("", "a@example.org", ""), false, "SMTP_URL")
	})
	t.Run("with headers that would be others", func(t *testing.T) {
		ms := newMailServer(t)
		for _, change := range []func(*message){
			func(m *message) { m.to = "ada@example.org>\r\nBcc: <eve@example.org" },
			func(m *message) { m.to = "ada@example.org\nX: y" },
			func(m *message) { m.subject = "Hello\r\nBcc: eve@example.org" },
			func(m *message) { m.subject = "Hello\r\n\r\n<script>" },
			func(m *message) { m.id = "x\r\ny" },
		} {
			msg := testMessage()
			change(&msg)
			err := ms.mailer(url).send(t.Context(), msg)
			if _, final := errors.AsType[permanentError](err); !final || len(ms.taken()) > 0 {
				t.Errorf("%+v: got %v", msg, err)
			}
		}
	})
}

func TestMailOnThisMachineNeedsNoCertificate(t *testing.T) {
	t.Parallel()
	ms := newMailServer(t)
	ms.with(func() { ms.offers = []string{"STARTTLS", "AUTH PLAIN"} }) // as Debian's Postfix has it, with a certificate that nobody knows
	for _, host := range []string{"localhost", "127.0.0.1", "[::1]"} {
		m := ms.mailer("smtp://robot:secret@" + host)
		if err := m.send(t.Context(), testMessage()); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if got := ms.taken(); len(got) != 3 || got[2].secure || got[2].user != "robot secret" {
		t.Errorf("got %+v", got)
	}
}

func TestMailWithoutAServerIsKept(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "made", "mails")
	m := newMailer("", "TaskFlow <taskflow@localhost>", dir)
	msg := testMessage()
	for range 2 {
		if err := m.send(t.Context(), msg); err != nil {
			t.Fatal(err)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 || files[0].Name() != msg.id+".eml" {
		t.Fatalf("got %v, %v", files, err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, msg.id+".eml"))
	if err != nil {
		t.Fatal(err)
	}
	if read := readMailOf(t, string(raw)); read.text != msg.text || read.subject != msg.subject {
		t.Errorf("got %+v", read)
	}
	if info, err := os.Stat(filepath.Join(dir, msg.id+".eml")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want a file for its owner only", info.Mode(), err)
	}
}

func TestTheMailerTakesItsAddressApart(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]*mailer{
		"smtp://h":             {host: "h", port: "587"},
		"smtps://h/":           {host: "h", port: "465", implicit: true},
		"smtp://u:p%2F@h:2525": {host: "h", port: "2525", user: "u", password: "p/"},
		"smtp://[::1]:25":      {host: "::1", port: "25"},
	} {
		m := newMailer(secret(url), "a@example.org", "")
		if m.host != want.host || m.port != want.port || m.implicit != want.implicit || m.user != want.user || m.password != want.password || !m.on() {
			t.Errorf("%s: got %+v", url, m)
		}
	}
	if newMailer("", "a@example.org", "").on() {
		t.Error("on without a server")
	}
}
