package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	patience      = time.Second            // with a statement, and then with the server, before both are given up; twice that for a connection
	pingTimeout   = 700 * time.Millisecond // for one connection that was idle, before the next is tried
	txAttempts    = 4                      // of a transaction that may run again
	writersAtOnce = 2                      // in one project: one commits while the next is on its way
)

// database is the pool with the few ways this program talks to PostgreSQL. Each of them waits a
// bounded time for a connection and turns what a client may know of an error into a problem.
type database struct {
	pool     *pgxpool.Pool
	patience time.Duration // the constant, but in tests
	answers  atomic.Int64  // that statements had, also by refusals
	asking   sync.Mutex    // held while the server is asked for a sign of life
	asked    time.Time     // when the last such question had its answer
	alive    bool          // that answer

	turns    *turns               // of writers in one project
	searches *turns               // of all searches
	home     func(task uuid) uuid // the project that a task was last seen in; zero: not known

	uses       *histogram   // for how long connections were in use, each time
	failures   atomic.Int64 // of those
	statements statementCount

	changed   func(scopes []uuid) // is called after a commit with the projects and users whose log tells of it
	uncertain func()              // is called when nobody knows whether there was a commit
}

// openDatabase makes the pool; it does not wait for the server. maxConns 0 means pgx's default,
// the larger of 4 and the number of processors.
func openDatabase(ctx context.Context, url string, maxConns int) (*database, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, errors.New("DATABASE_URL is not a PostgreSQL connection string") // the error of pgx quotes it
	}
	if maxConns > 0 {
		cfg.MaxConns = int32(maxConns)
	}
	cfg.ConnConfig.ConnectTimeout = 2 * patience
	cfg.PingTimeout = pingTimeout
	for name, value := range map[string]string{
		"application_name":                    "taskflow",
		"timezone":                            "UTC",
		"statement_timeout":                   "10s",
		"lock_timeout":                        "5s",
		"idle_in_transaction_session_timeout": "10s",
	} {
		if _, set := cfg.ConnConfig.RuntimeParams[name]; !set {
			cfg.ConnConfig.RuntimeParams[name] = value
		}
	}
	// A client that hangs up cancels its query. Asking the server to cancel keeps the connection;
	// pgx's default closes it, which under many hang-ups becomes a storm of new connections.
	cfg.ConnConfig.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{
			Conn: c, CancelRequestDelay: 100 * time.Millisecond, DeadlineDelay: time.Second,
		}
	}
	// Schema functions tell in notices which scopes a transaction changes (see told in schema.sql).
	cfg.ConnConfig.RuntimeParams["client_min_messages"] = "notice"
	cfg.ConnConfig.OnNotice = func(c *pgconn.PgConn, n *pgconn.Notice) {
		if scope, err := parseUUID(n.Message); err == nil && n.Code == "TF001" {
			told, _ := c.CustomData()[changedScopes].([]uuid)
			c.CustomData()[changedScopes] = append(told, scope)
		}
	}
	statements := statementCount{new(atomic.Int64)}
	cfg.ConnConfig.Tracer = statements
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open database pool: %w", err)
	}
	return &database{
		pool: pool, patience: patience, uses: newHistogram(useBounds), statements: statements, turns: newTurns(writersAtOnce), searches: newTurns(1 + runtime.GOMAXPROCS(0)), home: func(uuid) uuid { return uuid{} },
		changed: func([]uuid) {}, uncertain: func() {},
	}, nil
}

// changedScopes is where a connection keeps what notices told of the present transaction.
const changedScopes = "changed scopes"

// conn runs fn with a connection, waiting at most twice the patience for it; or with that of the
// transaction that ctx belongs to.
func (d *database) conn(ctx context.Context, fn func(*pgxpool.Conn) error) error {
	if held := heldOf(ctx); held != nil {
		return fn(held.conn)
	}
	wait, cancel := context.WithTimeout(ctx, 2*d.patience)
	c, err := d.pool.Acquire(wait)
	cancel()
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &unreachableError{err}
	}
	defer c.Release()
	return fn(c)
}

// run is conn for statements, which may take their time while the server lives, but must not hold a
// request when it has stopped answering, as one does that is paused or whose network is gone.
// It returns when nobody can be given what the statements have changed from the cache.
func (d *database) run(ctx context.Context, fn func(*pgxpool.Conn) error) error {
	if t := timingOf(ctx); t != nil {
		defer func(began time.Time) { t.db.Add(int64(time.Since(began))) }(time.Now())
	}
	if heldOf(ctx) != nil { // hold tells of the whole
		return d.conn(ctx, func(c *pgxpool.Conn) error { return d.watch(c, fn) })
	}
	var scopes []uuid
	broken := false
	err := d.conn(ctx, func(c *pgxpool.Conn) error {
		began := time.Now()
		err := d.watch(c, fn)
		d.uses.observe(time.Since(began))
		pg := c.Conn().PgConn()
		scopes, _ = pg.CustomData()[changedScopes].([]uuid)
		delete(pg.CustomData(), changedScopes)
		broken = err != nil && c.Conn().IsClosed()
		return err
	})
	if isFailure(ctx, err) {
		d.failures.Add(1)
	}
	if len(scopes) > 0 {
		d.changed(scopes)
	} else if broken {
		d.uncertain()
	}
	return err
}

// useBounds are the buckets of connections' uses.
var useBounds = []time.Duration{
	500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	100 * time.Millisecond, 500 * time.Millisecond, 2500 * time.Millisecond, 10 * time.Second,
}

// isFailure tells whether an error is the database's or the program's, and not an answer to a client:
// no row, a refusal of a schema function, a rule that is his to keep, or that he has gone.
func isFailure(ctx context.Context, err error) bool {
	if err == nil || ctx.Err() != nil {
		return false
	}
	_, answer := errors.AsType[*problem](dbError(err))
	return !answer
}

// statementCount counts statements, those of batches too.
type statementCount struct{ *atomic.Int64 }

func (n statementCount) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	n.Add(1)
	return ctx
}

func (n statementCount) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (n statementCount) TraceBatchStart(ctx context.Context, _ *pgx.Conn, batch pgx.TraceBatchStartData) context.Context {
	n.Add(int64(batch.Batch.Len()))
	return ctx
}

func (n statementCount) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

func (n statementCount) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// watch runs fn and looks after the server meanwhile.
func (d *database) watch(c *pgxpool.Conn, fn func(*pgxpool.Conn) error) error {
	var mu sync.Mutex
	var timer *time.Timer
	over := false
	mu.Lock()
	timer = time.AfterFunc(d.patience, func() {
		lives := d.lives()
		mu.Lock()
		defer mu.Unlock()
		switch {
		case over:
		case lives:
			timer.Reset(d.patience)
		default:
			c.Conn().PgConn().Conn().Close() // fn fails with it
		}
	})
	mu.Unlock()
	defer func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
		timer.Stop()
	}()
	err := fn(c)
	if !isConnectionError(err) {
		d.answers.Add(1)
	}
	return err
}

// lives tells whether the server answers anybody: a new connection, or any statement meanwhile.
// Whoever waited while another asked takes that answer.
func (d *database) lives() bool {
	began, answers := time.Now(), d.answers.Load()
	d.asking.Lock()
	defer d.asking.Unlock()
	if d.asked.After(began) {
		return d.alive
	}
	ctx, cancel := context.WithTimeout(context.Background(), d.patience)
	defer cancel()
	c, err := pgconn.ConnectConfig(ctx, &d.pool.Config().ConnConfig.Config)
	if err == nil {
		c.Close(ctx)
	}
	_, refused := errors.AsType[*pgconn.PgError](err) // that is an answer too
	d.alive, d.asked = err == nil || refused || d.answers.Load() > answers, time.Now()
	return d.alive
}

// unreachableError is a failure to get a connection at all: nothing was sent.
type unreachableError struct{ cause error }

func (e *unreachableError) Error() string { return "acquire database connection: " + e.cause.Error() }
func (e *unreachableError) Unwrap() error { return e.cause }

// queryAll returns every row of a query as a T, by column name.
func queryAll[T any](ctx context.Context, d *database, sql string, args ...any) ([]T, error) {
	var list []T
	err := d.run(ctx, func(c *pgxpool.Conn) error {
		rows, err := c.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByName[T])
		return err
	})
	return list, dbError(err)
}

// queryOne returns the only row of a query as a T; no row is the problem "not_found".
func queryOne[T any](ctx context.Context, d *database, sql string, args ...any) (T, error) {
	var value T
	err := d.query(ctx, one(&value), sql, args...)
	return value, err
}

// query hands the rows of a query to a function, which may be run again.
func (d *database) query(ctx context.Context, read func(pgx.Rows) error, sql string, args ...any) error {
	return d.again(ctx, func() error {
		return d.run(ctx, func(c *pgxpool.Conn) error {
			rows, err := c.Query(ctx, sql, args...)
			if err != nil {
				return err
			}
			return read(rows)
		})
	})
}

// queryValue returns the only column of the only row of a query.
func queryValue[T any](ctx context.Context, d *database, sql string, args ...any) (T, error) {
	var value T
	err := d.run(ctx, func(c *pgxpool.Conn) error {
		return c.QueryRow(ctx, sql, args...).Scan(&value)
	})
	return value, dbError(err)
}

// execute runs one statement and returns the number of rows it touched.
func execute(ctx context.Context, d *database, sql string, args ...any) (int64, error) {
	var n int64
	err := d.run(ctx, func(c *pgxpool.Conn) error {
		tag, err := c.Exec(ctx, sql, args...)
		n = tag.RowsAffected()
		return err
	})
	return n, dbError(err)
}

// unsent is a copy of a batch. pgx keeps in a batch that it sent the statements that the connection had
// prepared for it, which another connection does not know: what may be sent again is sent as a copy.
func unsent(b *pgx.Batch) *pgx.Batch {
	c := &pgx.Batch{}
	for _, q := range b.QueuedQueries {
		c.Queue(q.SQL, q.Arguments...)
	}
	return c
}

// turn waits until few enough other writes of this process are under way in the project that a batch
// enters. They would only wait for each other in the database, where each of them holds a connection
// and every waiting one makes the others slower.
func (d *database) turn(ctx context.Context, b *pgx.Batch) (end func(), err error) {
	first := b.QueuedQueries[0]
	if heldOf(ctx) != nil || !strings.HasPrefix(first.SQL, "SELECT enter_") || len(first.Arguments) == 0 {
		return func() {}, nil
	}
	key, ok := first.Arguments[0].(uuid)
	if project, given := first.Arguments[0].(*uuid); given && project != nil {
		key, ok = *project, true
	}
	if home := d.home(key); home != (uuid{}) {
		key = home
	}
	if !ok {
		return func() {}, nil
	}
	return d.turns.take(ctx, key)
}

// send runs a batch as one transaction in one round trip; an error of any statement undoes all.
// It runs again where the server asks for that (serialization, deadlock) or nothing was sent.
func (d *database) send(ctx context.Context, b *pgx.Batch) error {
	end, err := d.turn(ctx, b)
	if err != nil {
		return err
	}
	defer end()
	return d.again(ctx, func() error {
		return d.run(ctx, func(c *pgxpool.Conn) error {
			return undoable(ctx, b, func(b *pgx.Batch) error { return c.SendBatch(ctx, b).Close() })
		})
	})
}

// sendOne is send for a batch whose last statement returns one row, a T by column name.
// No row is the problem "not_found".
func sendOne[T any](ctx context.Context, d *database, b *pgx.Batch) (T, error) {
	var value T
	end, err := d.turn(ctx, b)
	if err != nil {
		return value, err
	}
	defer end()
	err = d.again(ctx, func() error {
		return d.run(ctx, func(c *pgxpool.Conn) error {
			return undoable(ctx, b, func(b *pgx.Batch) (err error) {
				results := c.SendBatch(ctx, b)
				defer func() {
					if closed := results.Close(); err == nil {
						err = closed
					}
				}()
				for range b.Len() - 1 {
					if _, err := results.Exec(); err != nil {
						return err
					}
				}
				rows, err := results.Query()
				if err != nil {
					return err
				}
				value, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[T])
				return err
			})
		})
	})
	return value, err
}

// sendEach sends queries in one round trip and hands each one's rows to its function, as query does.
func (d *database) sendEach(ctx context.Context, b *pgx.Batch, read ...func(pgx.Rows) error) error {
	return d.again(ctx, func() error {
		return d.run(ctx, func(c *pgxpool.Conn) error {
			results := c.SendBatch(ctx, unsent(b))
			defer results.Close()
			for _, read := range read {
				rows, err := results.Query()
				if err == nil {
					err = read(rows)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// ignored reads the rows of a query for their effect only.
func ignored(rows pgx.Rows) error {
	rows.Close()
	return rows.Err()
}

// one reads the only row of a query by column name; no row is the problem "not_found".
func one[T any](into *T) func(pgx.Rows) error {
	return func(rows pgx.Rows) (err error) {
		*into, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[T])
		return err
	}
}

// all reads every row of a query by column name.
func all[T any](into *[]T) func(pgx.Rows) error {
	return func(rows pgx.Rows) (err error) {
		*into, err = pgx.CollectRows(rows, pgx.RowToStructByName[T])
		return err
	}
}

// inTx runs fn in a transaction, for the few changes that must look before they write. Like send
// it may run fn again, so fn has no effect but on tx.
func (d *database) inTx(ctx context.Context, fn func(tx pgx.Tx) error) error {
	if held := heldOf(ctx); held != nil {
		return dbError(pgx.BeginFunc(ctx, held.tx, fn))
	}
	return d.again(ctx, func() error {
		return d.run(ctx, func(c *pgxpool.Conn) error { return pgx.BeginFunc(ctx, c, fn) })
	})
}

// heldTx is a transaction that goes on over several calls.
type heldTx struct {
	conn  *pgxpool.Conn
	tx    pgx.Tx
	after []func(context.Context) // to do once it is committed
}

type heldKey struct{}

// heldOf is the transaction that ctx belongs to, or nil.
func heldOf(ctx context.Context) *heldTx {
	held, _ := ctx.Value(heldKey{}).(*heldTx)
	return held
}

// hold runs fn with a context that makes one transaction of all that is done with it: each call is a
// part that fails alone, and what fn returns decides of the whole. Like inTx it may run fn again. The
// context is for one goroutine.
func (d *database) hold(ctx context.Context, fn func(context.Context) error) error {
	var held *heldTx
	err := d.again(ctx, func() error {
		return d.run(ctx, func(c *pgxpool.Conn) error {
			return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
				held = &heldTx{conn: c, tx: tx}
				return fn(context.WithValue(ctx, heldKey{}, held))
			})
		})
	})
	if err == nil {
		for _, do := range held.after {
			do(ctx)
		}
	}
	return err
}

// afterCommit does something that must not happen before what ctx belongs to is committed: at once,
// or at the end of the transaction that goes on, and not at all if that fails.
func afterCommit(ctx context.Context, do func(context.Context)) {
	if held := heldOf(ctx); held != nil {
		held.after = append(held.after, do)
		return
	}
	do(ctx)
}

// setTraceSQL has the changes of the rest of a transaction noted as a part of a trace: a mark, or "" for none.
const setTraceSQL = `SELECT set_config('taskflow.trace', $1, true)`

// traced has a batch note what its changes are a part of, as setTraceSQL does. That goes along with the gate
// through which a write enters a project, since a statement of its own would cost every write.
func traced(ctx context.Context, b *pgx.Batch) *pgx.Batch {
	t := traceOf(ctx)
	if t == nil {
		return b
	}
	for _, q := range b.QueuedQueries[:b.Len()-1] { // the last one's rows are read
		if gate, ok := strings.CutPrefix(q.SQL, "SELECT enter_"); ok {
			q.SQL = "SELECT set_config('taskflow.trace', $" + strconv.Itoa(len(q.Arguments)+1) + ", true), enter_" + gate
			q.Arguments = append(slices.Clone(q.Arguments), t.mark())
			break
		}
	}
	return b
}

// undoable sends an unsent copy of a batch. In a transaction that goes on it is one part, which is
// undone alone when it fails.
func undoable(ctx context.Context, b *pgx.Batch, send func(*pgx.Batch) error) error {
	held := heldOf(ctx)
	if held == nil {
		return send(traced(ctx, unsent(b)))
	}
	part := &pgx.Batch{}
	part.Queue("SAVEPOINT part")
	part.QueuedQueries = append(part.QueuedQueries, traced(ctx, unsent(b)).QueuedQueries...)
	err := send(part)
	if err != nil {
		held.conn.Exec(ctx, "ROLLBACK TO SAVEPOINT part") // where that fails too, so does the whole
	}
	return err
}

// again runs a transaction until it succeeds, fails for good, or has been tried txAttempts times.
// A part of a transaction that goes on is not tried again; the whole is.
func (d *database) again(ctx context.Context, run func() error) error {
	for attempt := 1; ; attempt++ {
		err := run()
		if err == nil {
			return nil
		}
		if attempt == txAttempts || heldOf(ctx) != nil || !mayRunAgain(err) {
			return dbError(err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(mathrand.IntN(10<<attempt)+1) * time.Millisecond):
		}
	}
}

// sleep waits, or less when ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// mayRunAgain tells whether a failed transaction certainly left nothing behind and could succeed now.
func mayRunAgain(err error) bool {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code == "40001" || pg.Code == "40P01"
	}
	if _, ok := errors.AsType[*unreachableError](err); ok {
		return false // it has already waited
	}
	return pgconn.SafeToRetry(err)
}

// constraintProblems says what a broken constraint means to the client who broke it. Only those
// that a valid request can meet are here; any other is a bug of ours and answered as internal.
var constraintProblems = map[string]func() *problem{
	"users_email_key":  func() *problem { return newProblem("email_taken", "") },
	"projects_key_key": func() *problem { return newProblem("key_taken", "") },
	"members_pkey":     func() *problem { return newProblem("already_member", "") },
	"tasks_assignee_fkey": func() *problem {
		return invalid(fieldError{"assigneeId", "not_a_member", "must be a member of the project"})
	},
	"tasks_dates_check": func() *problem { return invalid(fieldError{"dueDate", "before_start", "must not be before startDate"}) },
	"projects_dates_check": func() *problem {
		return invalid(fieldError{"endDate", "before_start", "must not be before startDate"})
	},
	"jobs_unique":              func() *problem { return newProblem("job_not_waiting", "") },
	"task_blockers_self_check": func() *problem { return newProblem("blocker_cycle", "A task cannot block itself.") },
}

// dbError turns an error of PostgreSQL into a problem where the client should know of it:
// what a schema function refused, a broken rule, or a server that cannot serve now.
func dbError(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return newProblem("not_found", "")
	}
	if _, ok := errors.AsType[*problem](err); ok {
		return err
	}
	if isConnectionError(err) {
		return &unavailableError{cause: err}
	}
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return err
	}
	switch {
	case pg.Code == "TF000":
		return refused(pg.Message, pg.Detail)
	case constraintProblems[pg.ConstraintName] != nil:
		return constraintProblems[pg.ConstraintName]()
	case slices.Contains([]string{"08", "53", "57", "58"}, pg.Code[:2]), // connection; resources; shutdown or timeout; disk
		pg.Code == "55P03", pg.Code == "25006", pg.Code == "40001", pg.Code == "40P01": // lock timeout, read-only, tried enough
		return &unavailableError{cause: err}
	}
	return err
}

// refused is the problem of what a schema function refused (see refuse in schema.sql).
func refused(code, detail string) *problem {
	switch code {
	case "forbidden":
		return newProblem(code, "This needs the role "+detail+" in the project.")
	case "project_not_active":
		return newProblem(code, "The project is "+detail+", for reading only; set its status to active first.")
	case "last_owner":
		if detail != "" {
			return newProblem(code, "You are the only owner of "+detail+", which others are members of: make one of them an owner, or delete the project, first.")
		}
	case "version_mismatch":
		return newProblem(code, "").with("ETag", `"`+detail+`"`)
	case "invalid_parent":
		if detail == "cycle" {
			return invalid(fieldError{"parentId", "cycle", "must not be the task itself or one of its subtasks"})
		}
		return invalid(fieldError{"parentId", "not_found", "must be a task of the same project"})
	case "idempotency_key_in_use":
		return newProblem(code, "").with("Retry-After", "1")
	case "invalid_timezone":
		return invalid(fieldError{"timezone", code, "must be an IANA time zone such as Europe/Berlin"})
	case "invalid_user":
		return invalid(fieldError{detail, "not_found", "must be an active user of this installation"})
	case "not_author":
		return newProblem("forbidden", "Only who wrote a comment may edit it; admins of the project may delete it.")
	case "not_mentionable":
		return invalid(fieldError{"body", "not_a_member", "must mention members of the project only, which @[" + detail + "] is not; write the name without @, or put it between backticks"})
	case "invalid_neighbor":
		return invalid(fieldError{detail, "not_found", "must be another task of the same project"})
	}
	return newProblem(code, "")
}

// unavailableError is a database that cannot serve now. The client sees 503, the log the cause.
type unavailableError struct{ cause error }

func (e *unavailableError) Error() string { return "database unavailable: " + e.cause.Error() }
func (e *unavailableError) Unwrap() error { return e.cause }

// isConnectionError tells whether no connection could be had, for whatever reason, or one broke in use.
func isConnectionError(err error) bool {
	_, unreachable := errors.AsType[*unreachableError](err)
	_, network := errors.AsType[net.Error](err)
	return unreachable || network || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, pgconn.ErrConnClosed)
}

// timing is what a request took, where SERVER_TIMING asks for it.
type timing struct {
	began  time.Time
	db     atomic.Int64 // ns
	looks  atomic.Int64 // at the cache
	misses atomic.Int64
}

type timingKey struct{}

// timingOf is the timing of the request that ctx belongs to, or nil.
func timingOf(ctx context.Context) *timing {
	t, _ := ctx.Value(timingKey{}).(*timing)
	return t
}

// look notes whether the cache had what was looked for.
func (t *timing) look(hit bool) {
	if t == nil {
		return
	}
	t.looks.Add(1)
	if !hit {
		t.misses.Add(1)
	}
}

// String is the timing as the header Server-Timing has it (W3C), in ms.
func (t *timing) String() string {
	ms := func(ns int64) string { return strconv.FormatFloat(float64(ns)/1e6, 'f', 3, 64) }
	cache := "hit"
	switch {
	case t.misses.Load() > 0:
		cache = "miss"
	case t.looks.Load() == 0:
		cache = "unused"
	}
	return "cache;desc=" + cache + ", db;dur=" + ms(t.db.Load()) + ", total;dur=" + ms(int64(time.Since(t.began)))
}
