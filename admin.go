package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const adminUsage = `usage: taskflow admin <action> [flags]

actions:
  create-user    -email E [-first-name F] [-last-name L] [-role member|manager|admin]
  set-role       -email E -role member|manager|admin
  reset-password -email E    (ends all sessions of the account)
  disable-totp   -email E    (turns the account's second factor off)

A password is read from the first line of standard input; an empty line makes one and prints it.
DATABASE_URL names the database. While dev mode runs, its own is found by
DATABASE_URL_FILE=.taskflow/database_url
`

const tellPatience = 5 * time.Second // for a worker to tell running processes

// runAdmin changes accounts from the command line, for whoever may read the database's password.
func runAdmin(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) error {
	if len(args) == 0 || !slices.Contains([]string{"create-user", "set-role", "reset-password", "disable-totp"}, args[0]) {
		fmt.Fprint(stderr, adminUsage)
		if len(args) > 0 && slices.Contains([]string{"help", "-h", "-help", "--help"}, args[0]) {
			return nil
		}
		return errors.New("admin needs one of these actions")
	}
	action := args[0]
	flags := flag.NewFlagSet("taskflow admin "+action, flag.ContinueOnError)
	flags.SetOutput(stderr)
	email := flags.String("email", "", "address of the account")
	first := flags.String("first-name", "New", "first name")
	last := flags.String("last-name", "User", "last name")
	role := flags.String("role", "member", "member, manager or admin")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("admin %s takes only flags, no other arguments", action)
	}
	cfg, err := loadConfig("admin", nil, getenv, stderr)
	if err != nil {
		return err
	}
	s, err := newAdminServer(ctx, cfg)
	if err != nil {
		return err
	}
	defer s.db.pool.Close()
	switch action {
	case "create-user":
		password, err := readPassword(stdin, stdout)
		if err != nil {
			return err
		}
		err = s.adminCreateUser(ctx, newAccount{Email: *email, Password: password, FirstName: *first, LastName: *last}, globalRole(*role))
		return said(stdout, err, "account made: "+*email)
	case "set-role":
		if err := s.adminSetRole(ctx, *email, globalRole(*role)); err != nil {
			return said(stdout, err, "")
		}
		return said(stdout, nil, *email+" is now "+*role+s.tellProcesses(ctx))
	case "disable-totp":
		if err := s.adminEndTOTP(ctx, *email); err != nil {
			return said(stdout, err, "")
		}
		return said(stdout, nil, *email+" signs in without a second factor"+s.tellProcesses(ctx))
	}
	password, err := readPassword(stdin, stdout)
	if err != nil {
		return err
	}
	if err := s.adminSetPassword(ctx, *email, password); err != nil {
		return said(stdout, err, "")
	}
	return said(stdout, nil, "password set; all sessions of "+*email+" have ended"+s.tellProcesses(ctx))
}

const waitingJobSQL = `SELECT count(*) FROM jobs WHERE id = $1`

// tellProcesses has a worker tell all running processes of what this one has changed, and waits for
// it. It returns what the operator should know when none does.
func (s *server) tellProcesses(ctx context.Context) string {
	const hint = "\nNo worker is running: API processes may take a minute to notice."
	b := &pgx.Batch{}
	j, err := queueJob(b, newJob{kind: "cache.raise", payload: s.told})
	if err == nil {
		err = s.db.send(ctx, b)
	}
	for deadline := time.Now().Add(tellPatience); err == nil && time.Now().Before(deadline); sleep(ctx, 100*time.Millisecond) {
		if n, err := queryValue[int](ctx, s.db, waitingJobSQL, j.ID); err != nil || n == 0 {
			return ""
		}
	}
	return hint
}

// newAdminServer is a server with a database and nothing else.
func newAdminServer(ctx context.Context, cfg config) (*server, error) {
	db, err := openDatabase(ctx, string(cfg.databaseURL), 1)
	if err != nil {
		return nil, err
	}
	s := &server{config: cfg, db: db, log: slog.New(slog.DiscardHandler), hashing: make(chan struct{}, 1), hashWait: hashingPatience}
	db.changed = func(scopes []uuid) { s.told = append(s.told, scopes...) }
	return s, nil
}

func said(w io.Writer, err error, message string) error {
	if p, ok := errors.AsType[*problem](err); ok {
		return fmt.Errorf("%s: %s", p.Title, p.Detail)
	}
	if err == nil {
		fmt.Fprintln(w, message)
	}
	return err
}

// readPassword takes one line; an empty one makes a password and shows it.
func readPassword(stdin io.Reader, stdout io.Writer) (string, error) {
	line, err := bufio.NewReader(stdin).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", fmt.Errorf("read the password: %w", err)
	}
	if password := strings.TrimRight(line, "\r\n"); password != "" {
		return password, nil
	}
	password := randomToken()[:20]
	fmt.Fprintln(stdout, "password:", password)
	return password, nil
}

// adminCreateUser makes an account whatever REGISTRATION says.
func (s *server) adminCreateUser(ctx context.Context, in newAccount, role globalRole) error {
	errs := in.invalid()
	var f fields
	f.oneOf("role", string(role), string(globalMember), string(globalManager), string(globalAdmin))
	if errs = append(errs, f.errs...); len(errs) > 0 {
		return invalid(errs...)
	}
	hash, err := s.hashPassword(ctx, in.Password)
	if err != nil {
		return err
	}
	b := &pgx.Batch{}
	queueAccount(b, newUUID(), in, hash, role)
	return s.db.send(ctx, b)
}

// adminSetRole changes an account's global role; the last admin stays.
func (s *server) adminSetRole(ctx context.Context, email string, role globalRole) error {
	patch := userPatch{Role: optional[string]{set: true, value: string(role)}}
	if errs := patch.invalid(); len(errs) > 0 {
		return invalid(errs...)
	}
	found, err := s.accountAt(ctx, email)
	if err != nil {
		return err
	}
	_, err = s.patchUser(ctx, nil, found.ID, patch, nil)
	return err
}

const adminPasswordSQL = `
	WITH u AS (
		UPDATE users SET password_hash = $2, version = version + 1, updated_at = clock_timestamp() WHERE id = $1 RETURNING id)
	SELECT log_account_change(id, NULL, 'user.password_changed', id, '{}') FROM u`

// adminSetPassword sets a password and ends the account's sessions.
func (s *server) adminSetPassword(ctx context.Context, email, password string) error {
	found, err := s.accountAt(ctx, email)
	if err != nil {
		return err
	}
	var f fields
	if f.newPassword("password", password, found.FirstName, found.LastName, found.Email); len(f.errs) > 0 {
		return invalid(f.errs...)
	}
	hash, err := s.hashPassword(ctx, password)
	if err != nil {
		return err
	}
	b := &pgx.Batch{}
	b.Queue(adminPasswordSQL, found.ID, hash)
	b.Queue(forgetTokensSQL, found.ID)
	b.Queue(revokeSessionsSQL, found.ID, nil, nil)
	return s.db.send(ctx, b)
}

// adminEndTOTP turns an account's second factor off, for somebody who has lost it.
func (s *server) adminEndTOTP(ctx context.Context, email string) error {
	found, err := s.accountAt(ctx, email)
	if err != nil {
		return err
	}
	b := &pgx.Batch{}
	queueEndTOTP(b, found.ID, nil, nil)
	return s.db.send(ctx, b)
}

func (s *server) accountAt(ctx context.Context, email string) (storedPassword, error) {
	found, err := queryAll[storedPassword](ctx, s.db, passwordByEmailSQL, canonicalEmail(email))
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("no account has the address %q", email)
	}
	if err != nil {
		return storedPassword{}, err
	}
	return found[0], nil
}

// runHealthcheck asks a running service on this machine whether it lives, for container runtimes.
func runHealthcheck(ctx context.Context, args []string, getenv func(string) string, stderr io.Writer) error {
	cfg, err := loadConfig("healthcheck", args, func(name string) string { // only the address matters here, and whether it speaks TLS
		if strings.HasPrefix(name, "LISTEN_ADDR") || strings.HasPrefix(name, "TLS_") {
			return getenv(name)
		}
		return ""
	}, stderr)
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(cfg.listenAddr)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	// Whose name the certificate has is of no concern on the way to oneself.
	client := http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	scheme := "http://"
	if cfg.servesTLS() {
		scheme = "https://"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+net.JoinHostPort(host, port)+"/health", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if alert, ok := errors.AsType[*net.OpError](err); ok && alert.Op == "remote error" && cfg.tlsDomains != nil {
		return nil // a service that has no certificate for no name lives
	}
	if err != nil {
		return fmt.Errorf("health check: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("health check: the service answered %s", resp.Status)
	}
	return nil
}
