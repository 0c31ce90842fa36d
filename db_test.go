package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A proxy stands between a server and one of its stores, and can be a bad network.
type proxy struct {
	target string // path of a Unix socket
	listen net.Listener
	mu     sync.Mutex
	conns  []net.Conn
	down   bool          // refuses connections
	silent chan struct{} // closed when bytes may pass; nil: always
	cut    int           // after so many bytes from the target a connection is cut; 0: never
}

// newProxy stands before the tests' PostgreSQL and returns the address of a database through it.
func newProxy(t testing.TB, database secret) (*proxy, secret) {
	t.Helper()
	cfg, err := pgx.ParseConfig(string(database))
	if err != nil {
		t.Fatal(err)
	}
	p := startProxy(t, filepath.Join(cfg.Host, ".s.PGSQL.5432"))
	port := p.listen.Addr().(*net.TCPAddr).Port
	return p, secret(fmt.Sprintf("host=127.0.0.1 port=%d user=%s sslmode=disable dbname=%s", port, cfg.User, cfg.Database))
}

// newRedisProxy stands before the tests' Redis and returns the address through it.
func newRedisProxy(t testing.TB) (*proxy, string) {
	t.Helper()
	p := startProxy(t, strings.TrimPrefix(world.redisURL, "unix://"))
	return p, "redis://" + p.listen.Addr().String()
}

func startProxy(t testing.TB, target string) *proxy {
	t.Helper()
	listen, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{target: target, listen: listen}
	go p.accept()
	t.Cleanup(func() {
		listen.Close()
		p.set(func() { p.down = true })
		p.kill()
	})
	return p
}

func (p *proxy) accept() {
	for {
		client, err := p.listen.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("unix", p.target)
		p.mu.Lock()
		if p.down || err != nil {
			client.(*net.TCPConn).SetLinger(0) // a reset, as of a closed port
			client.Close()
			if err == nil {
				server.Close()
			}
		} else {
			p.conns = append(p.conns, client, server)
			go p.pass(server, client, 0)
			go p.pass(client, server, p.cut)
		}
		p.mu.Unlock()
	}
}

// pass copies until an end, or until it has passed most bytes.
func (p *proxy) pass(to, from net.Conn, most int) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 16<<10)
	for passed := 0; ; {
		n, err := from.Read(buffer)
		p.mu.Lock()
		silent := p.silent
		p.mu.Unlock()
		if silent != nil {
			<-silent
		}
		if most > 0 && passed+n > most {
			to.Write(buffer[:most-passed])
			return
		}
		passed += n
		if _, wrote := to.Write(buffer[:n]); err != nil || wrote != nil {
			return
		}
	}
}

func (p *proxy) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

// kill cuts every connection.
func (p *proxy) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.conns {
		conn.Close()
	}
	p.conns = nil
}

// silence lets nothing through until it is called again; connections stay.
func (p *proxy) silence() (end func()) {
	silent := make(chan struct{})
	p.set(func() { p.silent = silent })
	return func() {
		p.set(func() { p.silent = nil })
		close(silent)
	}
}

// soon calls check until it holds, for at most ten seconds.
func soon(t testing.TB, what string, check func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !check(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within ten seconds: %s", what)
		}
	}
}

func TestDatabaseDown(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(p *proxy) (end func()){
		"refuses connections": func(p *proxy) func() {
			p.set(func() { p.down = true })
			p.kill()
			return func() { p.set(func() { p.down = false }) }
		},
		"is a black hole": func(p *proxy) func() { return p.silence() },
		"cuts every answer short": func(p *proxy) func() {
			p.set(func() { p.cut = 100 })
			p.kill()
			return func() {
				p.set(func() { p.cut = 0 })
				p.kill()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := newTestDatabase(t)
			p, through := newProxy(t, database)
			ts := startTestServer(t, through)
			ts.db.patience = patience
			direct := startTestServer(t, database)
			direct.t = t
			ada := ts.signUp("Ada")
			project := ada.project("Project")
			task := ada.task(project, "Task")
			before := direct.state()

			end := fault(p)
			for range 2 { // the first meets living connections, the second the pool's memory of it
				for _, a := range atOnce(8, func(i int) *answer {
					c := &client{s: ts, token: ada.token}
					start := time.Now()
					var a *answer
					switch i % 4 {
					case 0:
						a = c.get("/api/v1/tasks/" + task)
					case 1:
						a = c.post("/api/v1/tasks", `{"projectId":"`+project+`","title":"Lost"}`)
					case 2:
						a = c.patch("/api/v1/tasks/"+task, `{"title":"Lost"}`)
					case 3:
						a = c.post(loginPath, jsonOf(credentials{ada.email, testPassword}))
					}
					if took := time.Since(start); took > 5*time.Second {
						t.Errorf("%s took %v", a.what, took)
					}
					return a
				}) {
					if a.problem(503, "unavailable").header.Get("Retry-After") == "" {
						t.Errorf("%s: no Retry-After", a.what)
					}
				}
			}
			ts.anonymous().get("/health").want(200).is("status", "ok")
			ts.anonymous().get("/ready").want(503).is("status", "unavailable").is("checks.database", "unavailable").is("checks.redis", "ok")
			ts.anonymous().get("/nowhere").problem(404, "not_found")

			end()
			soon(t, "ready again", func() bool { return ts.anonymous().get("/ready").status == 200 })
			soon(t, "serving again", func() bool { return ada.get("/api/v1/tasks/"+task).status == 200 })
			direct.unchanged(before, "an answer of 503")
			ada.patch("/api/v1/tasks/"+task, `{"title":"After"}`).want(200).is("title", "After")
		})
	}
}

func TestDatabaseRestarts(t *testing.T) {
	t.Parallel()
	p, through := newProxy(t, newTestDatabase(t))
	ts := startTestServer(t, through)
	ada := ts.signUp("Ada")
	project := ada.project("Project")
	var titles []string
	for i := range 200 {
		if i%20 == 19 {
			p.kill()
		}
		title := fmt.Sprintf("Task %d", i)
		if a := ada.post("/api/v1/tasks", `{"projectId":"`+project+`","title":"`+title+`"}`); a.status == 201 {
			titles = append(titles, title)
		} else {
			a.problem(503, "unavailable")
		}
	}
	found := map[string]int{}
	for next := ""; ; {
		page := ada.get("/api/v1/tasks?limit=100" + next).want(200)
		for _, title := range page.strs("title") {
			found[title]++
		}
		if page.at("next") == nil {
			break
		}
		next = "&cursor=" + page.str("next")
	}
	for _, title := range titles {
		if found[title] != 1 {
			t.Errorf("%s was acknowledged and is there %d times", title, found[title])
		}
	}
	if len(titles) < 150 {
		t.Errorf("only %d of 200 tasks made it over ten cuts", len(titles))
	}
}

// TestSlowIsNotDead keeps a statement waiting for longer than the server's patience: as long as the
// server answers at all, the statement may take its time.
func TestSlowIsNotDead(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ts.db.patience = patience
	ada := ts.signUp("Ada")
	project := ada.project("Project")
	tx, err := ts.db.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SELECT FROM projects WHERE id = $1::text::uuid FOR UPDATE`, project); err != nil {
		t.Fatal(err)
	}
	released := make(chan struct{})
	defer func() { <-released }()
	time.AfterFunc(2*patience+200*time.Millisecond, func() {
		tx.Rollback(context.Background())
		close(released)
	})
	start := time.Now()
	ada.patch("/api/v1/projects/"+project, `{"name":"Slowly"}`).want(200)
	if took := time.Since(start); took < 2*patience {
		t.Errorf("took only %v: the test does not test", took)
	}
}

func TestClientsThatHangUp(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ada := ts.signUp("Ada")
	project := ada.project("Project")
	task := ada.task(project, "Task")
	for range 3 {
		tx, err := ts.db.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tx.Rollback(context.Background()) })
		if _, err := tx.Exec(t.Context(), `SELECT FROM projects WHERE id = $1::text::uuid FOR UPDATE`, project); err != nil {
			t.Fatal(err)
		}
		ctx, hangUp := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for range 30 { // many more than connections
			all.Go(func() {
				req, err := http.NewRequestWithContext(ctx, "PATCH", ts.http.URL+"/api/v1/tasks/"+task, strings.NewReader(`{"title":"Gone"}`))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("Authorization", "Bearer "+ada.token)
				req.Header.Set("Content-Type", "application/json")
				if resp, err := testHTTP.Do(req); err == nil {
					resp.Body.Close()
				}
			})
		}
		ts.waitForLock()
		hangUp()
		all.Wait()
		soon(t, "no connection waits any more", func() bool { return ts.db.pool.Stat().AcquiredConns() == 1 })
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		ada.get("/api/v1/tasks/" + task).want(200)
	}
	if text := ts.log.String(); strings.Contains(text, "request failed") {
		t.Errorf("that clients hung up was logged as a failure: %s", text)
	}
	ada.patch("/api/v1/tasks/"+task, `{"title":"Kept"}`).want(200)
	soon(t, "all connections back in the pool", func() bool { return ts.db.pool.Stat().AcquiredConns() == 0 })
	if made := ts.db.pool.Stat().NewConnsCount(); made > 16 {
		t.Errorf("90 cancelled requests took %d connections", made)
	}
}

func TestTransactionsThatRunAgain(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	pgError := func(code string) error { return &pgconn.PgError{Code: code} }
	for name, test := range map[string]struct {
		err   error
		fails int // times before it succeeds
		tries int
		code  string // of the problem; "" is success, "internal" is no problem
	}{
		"deadlock":                       {pgError("40P01"), 2, 3, ""},
		"serialization failure":          {pgError("40001"), 3, 4, ""},
		"serialization failure for ever": {pgError("40001"), 100, txAttempts, "unavailable"},
		"not sent":                       {fmt.Errorf("wrapped: %w", notSent{}), 1, 2, ""},
		"cut off":                        {io.ErrUnexpectedEOF, 100, 1, "unavailable"},
		"disk full":                      {pgError("53100"), 100, 1, "unavailable"},
		"statement timeout":              {pgError("57014"), 100, 1, "unavailable"},
		"lock timeout":                   {pgError("55P03"), 100, 1, "unavailable"},
		"read-only":                      {pgError("25006"), 100, 1, "unavailable"},
		"shutting down":                  {pgError("57P01"), 100, 1, "unavailable"},
		"no connection":                  {&unreachableError{pgError("28P01")}, 100, 1, "unavailable"},
		"too slow":                       {context.DeadlineExceeded, 100, 1, "unavailable"},
		"no row":                         {pgx.ErrNoRows, 100, 1, "not_found"},
		"refused":                        {&pgconn.PgError{Code: "TF000", Message: "last_admin"}, 100, 1, "last_admin"},
		"a bug":                          {pgError("42601"), 100, 1, "internal"},
	} {
		t.Run(name, func(t *testing.T) {
			tries := 0
			err := ts.db.again(t.Context(), func() error {
				if tries++; tries > test.fails {
					return nil
				}
				return test.err
			})
			got := ""
			if p, ok := errors.AsType[*problem](err); ok {
				got = p.Code
			} else if _, busy := errors.AsType[*unavailableError](err); busy {
				got = "unavailable"
			} else if err != nil {
				got = "internal"
			}
			if got != test.code || tries != test.tries {
				t.Errorf("got %v after %d tries, want %q after %d", err, tries, test.code, test.tries)
			}
		})
	}
	t.Run("meet a real deadlock", func(t *testing.T) {
		ts.sql(`CREATE TABLE rows AS SELECT n, 0 AS sum FROM generate_series(1, 8) n`)
		var all sync.WaitGroup
		var tries atomic.Int32
		for i := range 8 { // four pairs, each of which locks its two rows in opposite orders
			all.Go(func() {
				first, second := i+1, i^1+1
				b := &pgx.Batch{}
				b.Queue(`UPDATE rows SET sum = sum + 1 WHERE n = $1`, first)
				b.Queue(`SELECT pg_sleep(0.3)`)
				b.Queue(`UPDATE rows SET sum = sum + 1 WHERE n = $1`, second)
				err := ts.db.again(t.Context(), func() error {
					tries.Add(1)
					return ts.db.run(t.Context(), func(c *pgxpool.Conn) error { return c.SendBatch(t.Context(), unsent(b)).Close() })
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		sum, err := queryValue[int](t.Context(), ts.db, `SELECT sum(sum) FROM rows`)
		if err != nil || sum != 16 || tries.Load() <= 8 {
			t.Errorf("got %d, %v after %d tries, want every change once: 16, and some tried again", sum, err, tries.Load())
		}
	})
}

// notSent is an error of which pgx knows that nothing was sent.
type notSent struct{}

func (notSent) Error() string     { return "not sent" }
func (notSent) SafeToRetry() bool { return true }

func TestUUIDs(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	t.Run("are version 7 and all different", func(t *testing.T) {
		seen := map[uuid]bool{}
		for range 10_000 {
			u := newUUID()
			if seen[u] || !form.MatchString(u.String()) {
				t.Fatalf("%v is not new, or no UUIDv7", u)
			}
			seen[u] = true
		}
	})
	t.Run("sort by the time they were made, in Go, as text and in PostgreSQL", func(t *testing.T) {
		ts := newTestServer(t)
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		var made []uuid
		for i := range 200 {
			made = append(made, uuidAt(at.Add(time.Duration(i*i)*time.Millisecond)))
		}
		sorted, err := queryAll[struct{ ID uuid }](t.Context(), ts.db, `SELECT id FROM unnest($1::uuid[]) id ORDER BY id`, made)
		if err != nil {
			t.Fatal(err)
		}
		for i, u := range made {
			if sorted[i].ID != u || i > 0 && (bytes.Compare(made[i-1][:], u[:]) >= 0 || made[i-1].String() >= u.String()) {
				t.Fatalf("%v is out of order", u)
			}
			if want := at.Add(time.Duration(i*i) * time.Millisecond); !u.time().Equal(want) {
				t.Errorf("%v was made at %v, want %v", u, u.time(), want)
			}
		}
		if bytes.Compare(lastUUID[:], made[199][:]) <= 0 {
			t.Error("the last is not the last")
		}
	})
	t.Run("have one text", func(t *testing.T) {
		u := newUUID()
		if got, err := parseUUID(u.String()); err != nil || got != u {
			t.Errorf("got %v, %v, want %v", got, err, u)
		}
		text := u.String()
		for _, bad := range []string{"", text[1:], text + "0", strings.ToUpper(text), "{" + text + "}", "urn:uuid:" + text, strings.ReplaceAll(text, "-", ""), strings.ReplaceAll(text, "-", "_"), " " + text[1:],
			text[:35] + "g", text[:35] + "G", text[:34] + "é", strings.Repeat("-", 36), text[:8] + "0" + text[9:]} {
			if got, err := parseUUID(bad); err == nil {
				t.Errorf("%q: got %v, want an error", bad, got)
			}
		}
	})
}

func TestPoolSettings(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	settings, err := queryAll[struct{ Name, Setting string }](t.Context(), ts.db, `
		SELECT name, setting FROM pg_settings WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'TimeZone', 'application_name') ORDER BY lower(name)`)
	if err != nil {
		t.Fatal(err)
	}
	want := []struct{ Name, Setting string }{{"application_name", "taskflow"}, {"idle_in_transaction_session_timeout", "10000"}, {"lock_timeout", "5000"}, {"statement_timeout", "10000"}, {"TimeZone", "UTC"}}
	if !slices.Equal(settings, want) {
		t.Errorf("got %v, want %v", settings, want)
	}
}

func TestABatchMayBeSentAgainOnAnotherConnection(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	alice := s.signUp("Alice")
	b := &pgx.Batch{}
	b.Queue(`SELECT refuse('not_found') WHERE $1::text = 'x'`, "y")
	b.Queue(userByEmailSQL, alice.email, false)
	for range 3 { // each holds the connection that the one before prepared its statements on
		if _, err := sendOne[struct{ ID uuid }](t.Context(), s.db, b); err != nil {
			t.Fatal(err)
		}
		held, err := s.db.pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer held.Release()
	}
}

// TestThePasswordOfTheDatabaseMayComeByItself has PostgreSQL ask for a password, which stands in a variable
// of its own: so a store of secrets can have it without knowing the address.
func TestThePasswordOfTheDatabaseMayComeByItself(t *testing.T) {
	t.Parallel()
	const password = "p@ss: word/?&%20'"
	conn, err := pgx.Connect(t.Context(), world.databaseURL+" dbname=postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	name := fmt.Sprintf("guarded%d", world.databases.Add(1))
	quoted := "'" + strings.ReplaceAll(password, "'", "''") + "'"
	for _, sql := range []string{"CREATE ROLE " + name + " LOGIN PASSWORD " + quoted, "CREATE DATABASE " + name + " OWNER " + name + " TEMPLATE template0"} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	var rules string
	if err := conn.QueryRow(t.Context(), "SHOW hba_file").Scan(&rules); err != nil {
		t.Fatal(err)
	}
	all, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(rules, append([]byte("local all "+name+" scram-sha-256\n"), all...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "SELECT pg_reload_conf()"); err != nil {
		t.Fatal(err)
	}
	address := "postgres:///" + name + "?user=" + name + "&host=" + url.QueryEscape(conn.Config().Host)
	migrate := func(env ...string) (failed bool, said string) {
		t.Helper()
		out, err := command(t, append(env, "DATABASE_URL="+address), "migrate").CombinedOutput()
		return err != nil, string(out)
	}
	eventually(t, 10*time.Second, "PostgreSQL asks for a password", func() bool {
		conn, err := pgx.Connect(t.Context(), address)
		if err == nil {
			conn.Close(t.Context())
		}
		return err != nil
	})
	if failed, said := migrate(); !failed {
		t.Errorf("without a password: %s", said)
	}
	if failed, said := migrate("PGPASSWORD=hunter2"); !failed || strings.Contains(said, "hunter2") {
		t.Errorf("with another password: %s", said)
	}
	if failed, said := migrate("PGPASSWORD=" + password); failed || !strings.Contains(said, "migration applied") {
		t.Errorf("with the password: %s", said)
	}
}
