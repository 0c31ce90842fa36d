package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// leftoverLimit is how long the servers of a killed earlier run may take to be gone.
const leftoverLimit = 10 * time.Second

// privatePostgres is the PostgreSQL of privateServers.
type privatePostgres struct {
	url      string // of the database taskflow, which start makes
	dir      string // has the data and the log
	sockets  string // folder of the socket
	durable  bool
	progress io.Writer
	initdb   string       // path of the program
	postgres string       // path of the program, of the same version
	child    *childServer // nil until started
}

func (p *privatePostgres) data() string { return filepath.Join(p.dir, "postgres") }

// postgresVersion is the major version of PostgreSQL that made the data in dir, or "" when there is none yet.
func postgresVersion(dir string) string {
	version, _ := os.ReadFile(filepath.Join(dir, "postgres", "PG_VERSION"))
	return string(bytes.TrimSpace(version))
}

// start runs PostgreSQL on the data of an earlier run, or on new data, as the first of users that works.
// It returns when the database taskflow is there.
func (p *privatePostgres) start(ctx context.Context, forks forker, users []runAs) error {
	user, installed, err := p.chooseUser(users)
	if err != nil {
		return err
	}
	log, err := openChildLog(filepath.Join(p.dir, "postgres.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	switch version := postgresVersion(p.dir); version {
	case installed:
		err = user.own(p.data(), users)
	case "":
		err = p.makeData(ctx, forks, user, log)
	default:
		err = fmt.Errorf("data folder %s was made by PostgreSQL %s, but PostgreSQL %s is installed: install version %[2]s, convert %s by pg_upgrade, or set DATA_DIR to another folder",
			p.dir, version, installed, p.data())
	}
	if err != nil {
		return err
	}
	if err := user.own(p.sockets, users); err != nil {
		return err
	}
	return p.serve(ctx, forks, user, log)
}

// serve starts the server. One of a killed run may still be dying: PostgreSQL refuses to start
// beside it, and is asked again.
func (p *privatePostgres) serve(ctx context.Context, forks forker, user runAs, log *os.File) error {
	deadline, told := time.Now().Add(leftoverLimit), false
	for {
		if err := p.removeStaleLocks(); err != nil {
			return err
		}
		if err := log.Truncate(0); err != nil {
			return fmt.Errorf("empty PostgreSQL log: %w", err)
		}
		var err error
		if p.child, err = forks.start("PostgreSQL", user, syscall.SIGQUIT, p.data(), log, p.postgres, p.args()...); err != nil {
			return err
		}
		if err = p.child.waitUntil(ctx, p.answers); err == nil {
			return nil
		}
		if !p.child.ended() || !refusedLeftover(log.Name()) || time.Now().After(deadline) {
			return err
		}
		if !told {
			fmt.Fprintln(p.progress, "PostgreSQL: waiting for the server of an earlier run to end…")
			told = true
		}
		time.Sleep(10 * childPollEvery)
	}
}

// chooseUser returns the first of users that can run PostgreSQL in the data folder, and the major
// version of the program.
func (p *privatePostgres) chooseUser(users []runAs) (runAs, string, error) {
	var refusals []error
	for _, user := range users {
		if !user.isSelf() {
			os.Chmod(p.dir, 0o711) // lets it pass to its own folder; the others stay closed
		}
		cmd := exec.Command(p.postgres, "--version")
		cmd.Dir = p.dir
		cmd.SysProcAttr = user.attributes(syscall.SIGKILL)
		out, err := cmd.CombinedOutput()
		var major int
		if err == nil {
			_, err = fmt.Sscanf(string(out), "postgres (PostgreSQL) %d", &major)
		}
		if err == nil {
			return user, strconv.Itoa(major), nil
		}
		refusals = append(refusals, fmt.Errorf("as %s: %w %s", user.name, err, bytes.TrimSpace(out)))
	}
	err := errors.Join(refusals...)
	if os.Geteuid() == 0 {
		return runAs{}, "", fmt.Errorf("PostgreSQL refuses to run as root, and no other user can run it in %s: set DATA_DIR to a folder that the user postgres can reach, or run as an ordinary user:\n%w", p.dir, err)
	}
	return runAs{}, "", fmt.Errorf("ask PostgreSQL for its version: %w", err)
}

// makeData makes new data, under another name until it is whole: a killed start must not leave half of it.
func (p *privatePostgres) makeData(ctx context.Context, forks forker, user runAs, log *os.File) error {
	fmt.Fprintln(p.progress, "PostgreSQL: making the database (first start)…")
	unfinished := p.data() + ".new"
	if err := os.RemoveAll(unfinished); err != nil {
		return fmt.Errorf("make database: %w", err)
	}
	if err := os.Mkdir(unfinished, 0o700); err != nil {
		return fmt.Errorf("make database: %w", err)
	}
	if err := user.own(unfinished, nil); err != nil {
		return err
	}
	args := []string{"-D", unfinished, "-U", "taskflow", "-A", "trust", "-E", "UTF8", "--locale=" + serverLocale, "--no-instructions"}
	if !p.durable {
		args = append(args, "--no-sync")
	}
	c, err := forks.start("initdb", user, syscall.SIGKILL, unfinished, log, p.initdb, args...)
	if err != nil {
		return err
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("make database: %w", context.Cause(ctx)), c.killAll()) // initdb runs postgres
	}
	if !c.cmd.ProcessState.Success() {
		return c.failed(fmt.Errorf("make database: initdb: %v", c.cmd.ProcessState))
	}
	if err := os.Rename(unfinished, p.data()); err != nil {
		return fmt.Errorf("make database: %w", err)
	}
	return nil
}

func (p *privatePostgres) args() []string {
	args := []string{"-D", p.data(), "-k", p.sockets, "-p", "5432"}
	settings := []string{"listen_addresses=", "max_connections=200", "timezone=UTC", "log_timezone=UTC"}
	if !p.durable {
		settings = append(settings, "fsync=off", "synchronous_commit=off", "full_page_writes=off",
			"wal_level=minimal", "max_wal_senders=0", "shared_buffers=32MB", "autovacuum=off")
	}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	return args
}

// answers makes the database taskflow if it is not there yet.
func (p *privatePostgres) answers(ctx context.Context) (bool, error) {
	config, err := pgx.ParseConfig(p.url)
	if err != nil {
		return false, err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err == nil {
		conn.Close(ctx)
		return true, nil
	}
	const cannotConnectNow, invalidCatalogName = "57P03", "3D000"
	var refusal *pgconn.PgError
	switch {
	case !errors.As(err, &refusal), refusal.Code == cannotConnectNow:
		return false, nil
	case refusal.Code != invalidCatalogName:
		return false, err
	}
	config.Database = "postgres"
	if conn, err = pgx.ConnectConfig(ctx, config); err != nil {
		return false, err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "CREATE DATABASE taskflow"); err != nil {
		return false, fmt.Errorf("create database taskflow: %w", err)
	}
	return true, nil
}

// refusedLeftover tells whether PostgreSQL refused to start because a process of an earlier one still has the data.
func refusedLeftover(log string) bool {
	text, _ := os.ReadFile(log)
	return bytes.Contains(text, []byte(`lock file "postmaster.pid" already exists`)) ||
		bytes.Contains(text, []byte("pre-existing shared memory block"))
}

// removeStaleLocks removes what makes PostgreSQL take another program for a server: a lock file whose pid,
// after a restart of the machine or the container, belongs to that program. This folder of sockets is only
// ours, but for the data PostgreSQL knows better, unless the program surely has nothing to do with it.
func (p *privatePostgres) removeStaleLocks() error {
	if err := os.Remove(filepath.Join(p.sockets, ".s.PGSQL.5432.lock")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove stale lock: %w", err)
	}
	path := filepath.Join(p.data(), "postmaster.pid")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read lock of PostgreSQL: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil || !worksElsewhere(pid, p.data()) {
		return nil
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove stale lock: %w", err)
	}
	return nil
}
