package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	acquireTimeout = 2 * time.Second        // waiting for a free connection or a dead server
	pingTimeout    = 700 * time.Millisecond // for one connection that was idle, before the next is tried
	patience       = time.Second            // with a statement, and then with the server, before both are given up
	txAttempts     = 4                      // of a transaction that may run again
)

// database is the pool with the few ways this program talks to PostgreSQL. Each of them waits a
// bounded time for a connection and turns what a client may know of an error into a problem.
type database struct {
	pool    *pgxpool.Pool
	answers atomic.Int64 // that statements had, also by refusals
	asking  sync.Mutex   // held while the server is asked for a sign of life
	asked   time.Time    // when the last such question had its answer
	alive   bool         // that answer
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
	cfg.ConnConfig.ConnectTimeout = acquireTimeout
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
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open database pool: %w", err)
	}
	return &database{pool: pool}, nil
}

// conn runs fn with a connection, waiting at most acquireTimeout for it.
func (d *database) conn(ctx context.Context, fn func(*pgxpool.Conn) error) error {
	wait, cancel := context.WithTimeout(ctx, acquireTimeout)
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
func (d *database) run(ctx context.Context, fn func(*pgxpool.Conn) error) error {
	return d.conn(ctx, func(c *pgxpool.Conn) error {
		var mu sync.Mutex
		var timer *time.Timer
		over := false
		mu.Lock()
		timer = time.AfterFunc(patience, func() {
			lives := d.lives()
			mu.Lock()
			defer mu.Unlock()
			switch {
			case over:
			case lives:
				timer.Reset(patience)
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
	})
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
	ctx, cancel := context.WithTimeout(context.Background(), patience)
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
	b := &pgx.Batch{}
	b.Queue(sql, args...)
	return sendOne[T](ctx, d, b)
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

// send runs a batch as one transaction in one round trip; an error of any statement undoes all.
// It runs again where the server asks for that (serialization, deadlock) or nothing was sent.
func (d *database) send(ctx context.Context, b *pgx.Batch) error {
	return d.again(ctx, func() error {
		return d.run(ctx, func(c *pgxpool.Conn) error { return c.SendBatch(ctx, unsent(b)).Close() })
	})
}

// sendOne is send for a batch whose last statement returns one row, a T by column name.
// No row is the problem "not_found".
func sendOne[T any](ctx context.Context, d *database, b *pgx.Batch) (T, error) {
	var value T
	err := d.again(ctx, func() error {
		return d.run(ctx, func(c *pgxpool.Conn) (err error) {
			results := c.SendBatch(ctx, unsent(b))
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
	return value, err
}

// inTx runs fn in a transaction, for the few changes that must look before they write. Like send
// it may run fn again, so fn has no effect but on tx.
func (d *database) inTx(ctx context.Context, fn func(tx pgx.Tx) error) error {
	return d.again(ctx, func() error {
		return d.run(ctx, func(c *pgxpool.Conn) error { return pgx.BeginFunc(ctx, c, fn) })
	})
}

// again runs a transaction until it succeeds, fails for good, or has been tried txAttempts times.
func (d *database) again(ctx context.Context, run func() error) error {
	for attempt := 1; ; attempt++ {
		err := run()
		if err == nil {
			return nil
		}
		if attempt == txAttempts || !mayRunAgain(err) {
			return dbError(err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(mathrand.IntN(10<<attempt)+1) * time.Millisecond):
		}
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
	case "invalid_timezone":
		return invalid(fieldError{"timezone", code, "must be an IANA time zone such as Europe/Berlin"})
	case "invalid_user":
		return invalid(fieldError{detail, "not_found", "must be an active user of this installation"})
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

// uuid is an id: a UUIDv7 (RFC 9562), so that ids sort by the time they were made and indexes stay dense.
type uuid [16]byte

// lastUUID sorts after every id.
var lastUUID = uuid{255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}

// newUUID makes an id of the present time and 62 random bits. The twelve bits after the millisecond
// are its fraction (RFC 9562, section 6.2, method 3), so ids made one after the other sort so.
func newUUID() uuid { return uuidAt(time.Now()) }

func uuidAt(at time.Time) uuid {
	var u uuid
	rand.Read(u[8:])
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(at.UnixMilli()))
	copy(u[:6], ms[2:])
	fraction := at.Nanosecond() % 1e6 * 4096 / 1e6
	u[6], u[7] = 0x70|byte(fraction>>8), byte(fraction)
	u[8] = u[8]&0x3f | 0x80
	return u
}

// time is the moment the id was made, to the millisecond.
func (u uuid) time() time.Time {
	var ms [8]byte
	copy(ms[2:], u[:6])
	return time.UnixMilli(int64(binary.BigEndian.Uint64(ms[:]))).UTC()
}

var errUUID = errors.New("must be a UUID such as 0192f0c1-2345-7abc-8def-0123456789ab")

// parseUUID reads the one text form this API writes: lower case, four dashes.
func parseUUID(s string) (uuid, error) {
	var u uuid
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' || strings.ToLower(s) != s {
		return u, errUUID
	}
	n, err := hex.Decode(u[:], []byte(s[:8]+s[9:13]+s[14:18]+s[19:23]+s[24:]))
	if err != nil || n != 16 {
		return uuid{}, errUUID
	}
	return u, nil
}

func (u uuid) String() string {
	text, _ := u.MarshalText()
	return string(text)
}

func (u uuid) MarshalText() ([]byte, error) {
	out := make([]byte, 36)
	hex.Encode(out[0:8], u[0:4])
	hex.Encode(out[9:13], u[4:6])
	hex.Encode(out[14:18], u[6:8])
	hex.Encode(out[19:23], u[8:10])
	hex.Encode(out[24:36], u[10:16])
	out[8], out[13], out[18], out[23] = '-', '-', '-', '-'
	return out, nil
}

// UnmarshalText fails with the error that encoding/json completes with the field's name.
func (u *uuid) UnmarshalText(text []byte) (err error) {
	if *u, err = parseUUID(string(text)); err != nil {
		return &json.UnmarshalTypeError{Value: "that text", Type: reflect.TypeFor[uuid]()}
	}
	return nil
}

// ScanUUID and UUIDValue are how pgx reads and writes a uuid.
func (u *uuid) ScanUUID(v pgtype.UUID) error {
	if !v.Valid {
		return errors.New("scan NULL into uuid")
	}
	*u = v.Bytes
	return nil
}

func (u uuid) UUIDValue() (pgtype.UUID, error) { return pgtype.UUID{Bytes: u, Valid: true}, nil }

// timestamp is a moment, in JSON always RFC 3339 in UTC with milliseconds.
type timestamp struct{ time.Time }

const timestampFormat = "2006-01-02T15:04:05.000Z"

func (t timestamp) MarshalJSON() ([]byte, error) {
	return t.UTC().AppendFormat(nil, `"`+timestampFormat+`"`), nil
}

// ScanTimestamptz and TimestamptzValue are how pgx reads and writes a timestamp.
func (t *timestamp) ScanTimestamptz(v pgtype.Timestamptz) error {
	if !v.Valid {
		return errors.New("scan NULL into timestamp")
	}
	t.Time = v.Time
	return nil
}

func (t timestamp) TimestamptzValue() (pgtype.Timestamptz, error) {
	return pgtype.Timestamptz{Time: t.Time, Valid: true}, nil
}
