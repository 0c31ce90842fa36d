package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
)

const maxFilter = 1000 // jobs that one filtered action touches

// handleQueues answers every queue with what it holds and does.
func (s *server) handleQueues(w http.ResponseWriter, r *http.Request) error {
	if err := parseQuery(r).done(); err != nil {
		return err
	}
	view, err := s.outbox.look(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, list[queueView]{Items: []queueView{view}})
}

// adminJob is a job as operators see it.
type adminJob struct {
	ID        uuid            `json:"id"`
	Queue     string          `json:"queue"`
	Kind      string          `json:"kind"`
	State     string          `json:"state" db:"-"` // ready, running, scheduled or dead
	Priority  int             `json:"priority"`
	Payload   json.RawMessage `json:"payload"` // secrets masked
	Trace     string          `json:"trace"`   // request id of the cause
	Attempts  int             `json:"attempts"`
	Error     *string         `json:"error"` // of the last failed attempt
	Worker    string          `json:"worker,omitempty" db:"-"`
	RunAt     timestamp       `json:"runAt"`
	CreatedAt timestamp       `json:"createdAt"`
	DeadAt    *timestamp      `json:"deadAt"`
	Tries     []tryLine       `json:"tries,omitempty" db:"-"` // failed attempts, the newest last; only for one job
}

const adminJobColumns = `id, queue, kind, priority, payload, trace, attempts, error, run_at, created_at, dead_at`

var jobStates = []string{"ready", "running", "scheduled", "dead"}

// jobFilter reads what jobs an operator means: a state, a kind, and a text in id, kind or error.
func (s *server) jobFilter(queue, state, kind, search string, running map[string]string) filter {
	var f filter
	f.where("queue = ?", queue)
	held := make([]string, 0, len(running))
	for id := range running {
		if _, err := parseUUID(id); err == nil {
			held = append(held, id)
		}
	}
	switch state {
	case "dead":
		f.where("dead_at IS NOT NULL")
	case "running":
		f.where("dead_at IS NULL AND id = ANY (?::text[]::uuid[])", held)
	case "scheduled":
		f.where("dead_at IS NULL AND run_at > clock_timestamp() AND id <> ALL (?::text[]::uuid[])", held)
	case "ready":
		f.where("dead_at IS NULL AND run_at <= clock_timestamp() AND id <> ALL (?::text[]::uuid[])", held)
	}
	if kind != "" {
		f.where("kind = ?", kind)
	}
	if search != "" {
		pattern := likePattern(search)
		f.where("(id::text ILIKE ? OR kind ILIKE ? OR error ILIKE ?)", pattern, pattern, pattern)
	}
	return f
}

// handleQueueJobs lists a queue's jobs in one state, newest first.
func (s *server) handleQueueJobs(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r)
	p := s.page(r, q)
	state := q.oneOf("state", jobStates...)
	kind, search := q.text("kind"), q.text("search")
	if err := q.done(); err != nil {
		return err
	}
	if state == "" {
		state = "ready"
	}
	if err := s.knownQueue(r); err != nil {
		return err
	}
	view, err := s.outbox.look(r.Context())
	if err != nil {
		return err
	}
	f := s.jobFilter(r.PathValue("queue"), state, kind, search, view.runningJobs)
	sql, args := f.count("jobs")
	total, err := s.countIf(r.Context(), p.total, sql, args...)
	if err != nil {
		return err
	}
	f.where("id < ?", p.beforeID())
	sql = fmt.Sprintf("SELECT %s FROM jobs%s ORDER BY id DESC LIMIT %d", adminJobColumns, f.clause(), p.limit+1)
	jobs, err := queryAll[adminJob](r.Context(), s.db, sql, f.args...)
	if err != nil {
		return err
	}
	for i := range jobs {
		jobs[i].show(view.runningJobs)
	}
	return writeList(s, w, r, p, jobs, total, func(j adminJob) cursor { return cursor{ID: j.ID.String()} })
}

// show completes a row for an operator: its state, and its payload without secrets.
func (j *adminJob) show(running map[string]string) {
	j.Worker = running[j.ID.String()]
	switch {
	case j.DeadAt != nil:
		j.State = "dead"
	case j.Worker != "":
		j.State = "running"
	case j.RunAt.After(time.Now()):
		j.State = "scheduled"
	default:
		j.State = "ready"
	}
	j.Payload = masked(j.Payload)
}

var secretName = regexp.MustCompile(`(?i)password|secret|token|authorization|cookie|apikey|api_key`)

// masked is a payload whose secrets, known by their names, are not shown.
func masked(payload json.RawMessage) json.RawMessage {
	var v any
	if err := json.Unmarshal(payload, &v); err != nil {
		return json.RawMessage(`"[unreadable]"`)
	}
	out, err := json.Marshal(mask(v))
	if err != nil {
		return json.RawMessage(`"[unreadable]"`)
	}
	return out
}

func mask(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, inner := range v {
			if secretName.MatchString(name) {
				v[name] = "[masked]"
			} else {
				v[name] = mask(inner)
			}
		}
	case []any:
		for i := range v {
			v[i] = mask(v[i])
		}
	}
	return v
}

func (s *server) knownQueue(r *http.Request) error {
	if r.PathValue("queue") != s.outbox.queue.name {
		return newProblem("not_found", "")
	}
	return nil
}

const adminJobSQL = `SELECT ` + adminJobColumns + ` FROM jobs WHERE id = $1`

// handleAdminJob answers one job with its failed attempts.
func (s *server) handleAdminJob(w http.ResponseWriter, r *http.Request) error {
	if err := parseQuery(r).done(); err != nil {
		return err
	}
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	j, err := queryOne[adminJob](r.Context(), s.db, adminJobSQL, id)
	if err != nil {
		return err
	}
	view, err := s.outbox.look(r.Context())
	if err != nil {
		return err
	}
	j.show(view.runningJobs)
	if j.Tries, err = s.outbox.queue.tries(r.Context(), id.String()); err != nil {
		return &unavailableError{cause: err}
	}
	return writeJSON(w, http.StatusOK, j)
}

const auditSQL = `INSERT INTO audit (id, actor, action, target, detail) VALUES ($1, $2, $3, $4, $5)`

// audit adds to a batch the note that the caller did something to a queue or a job.
func (s *server) audit(ctx context.Context, b *pgx.Batch, action, target string, detail map[string]any) {
	if detail == nil {
		detail = map[string]any{}
	}
	b.Queue(auditSQL, newUUID(), callerOf(ctx).ID, action, target, detail)
}

const setPausedSQL = `INSERT INTO queues (name, paused) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET paused = excluded.paused`

// handlePauseQueue stops handing out a queue's jobs; those that run go on, and new ones wait.
func (s *server) handlePauseQueue(w http.ResponseWriter, r *http.Request) error {
	return s.setPaused(w, r, true)
}

// handleResumeQueue goes on handing them out.
func (s *server) handleResumeQueue(w http.ResponseWriter, r *http.Request) error {
	return s.setPaused(w, r, false)
}

// setPaused keeps the pause in the database, from where the relay renews it if Redis forgets.
func (s *server) setPaused(w http.ResponseWriter, r *http.Request, paused bool) error {
	if err := s.knownQueue(r); err != nil {
		return err
	}
	name, action := r.PathValue("queue"), "queue.resumed"
	if paused {
		action = "queue.paused"
	}
	b := &pgx.Batch{}
	b.Queue(setPausedSQL, name, paused)
	s.audit(r.Context(), b, action, name, nil)
	if err := s.db.send(r.Context(), b); err != nil {
		return err
	}
	if err := s.outbox.queue.pause(r.Context(), paused); err != nil {
		return &unavailableError{cause: err}
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

const (
	retryJobsSQL  = `UPDATE jobs SET dead_at = NULL, attempts = 0, run_at = clock_timestamp() WHERE id = ANY ($1::text[]::uuid[]) RETURNING id::text`
	deleteJobsSQL = `DELETE FROM jobs WHERE id = ANY ($1::text[]::uuid[]) RETURNING id::text`
)

// handleRetryJob has a dead or delayed job run at once, with all its attempts anew.
func (s *server) handleRetryJob(w http.ResponseWriter, r *http.Request) error {
	return s.actOnJob(w, r, retryJobsSQL, "job.retried", s.outbox.queue.requeue)
}

// handleDeleteJob deletes a job; one that runs is cancelled, and its effect does not happen.
func (s *server) handleDeleteJob(w http.ResponseWriter, r *http.Request) error {
	return s.actOnJob(w, r, deleteJobsSQL, "job.deleted", s.outbox.queue.remove)
}

// actOnJob does something to one job: first to its row, together with the note of it, then in
// Redis, where the relay would find it if this process died in between.
func (s *server) actOnJob(w http.ResponseWriter, r *http.Request, sql, action string, tell func(context.Context, []string) error) error {
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	if n, err := s.actOnJobs(r.Context(), []string{id.String()}, sql, action, id.String(), tell); err != nil {
		return err
	} else if n == 0 {
		return newProblem("not_found", "")
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// actOnJobs does something to jobs and returns how many there were.
func (s *server) actOnJobs(ctx context.Context, ids []string, sql, action, target string, tell func(context.Context, []string) error) (int, error) {
	var touched []string
	err := s.db.inTx(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, sql, ids)
		if err != nil {
			return err
		}
		if touched, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil || len(touched) == 0 {
			return err
		}
		b := &pgx.Batch{}
		s.audit(ctx, b, action, target, map[string]any{"count": len(touched)})
		return tx.SendBatch(ctx, b).Close()
	})
	if err != nil || len(touched) == 0 {
		return 0, err
	}
	if err := tell(ctx, touched); err != nil {
		return 0, &unavailableError{cause: err}
	}
	return len(touched), nil
}

// deadFilter is the body of retry-dead and delete-dead: which of a queue's dead jobs.
type deadFilter struct {
	Kind   string `json:"kind"`
	Search string `json:"search"` // in id, kind or error
	DryRun bool   `json:"dryRun"` // only count
}

func (in deadFilter) invalid() []fieldError {
	var f fields
	f.text("kind", in.Kind, 0, 100, false)
	f.text("search", in.Search, 0, maxSearch, false)
	return f.errs
}

// deadAnswer says how many jobs were meant, or touched.
type deadAnswer struct {
	Matched int64 `json:"matched"`
	Touched int   `json:"touched"` // at most 1000 in one request
	DryRun  bool  `json:"dryRun"`
}

// handleRetryDead has all dead jobs that match run again.
func (s *server) handleRetryDead(w http.ResponseWriter, r *http.Request) error {
	return s.actOnDead(w, r, retryJobsSQL, "job.retried", s.outbox.queue.requeue)
}

// handleDeleteDead deletes all dead jobs that match.
func (s *server) handleDeleteDead(w http.ResponseWriter, r *http.Request) error {
	return s.actOnDead(w, r, deleteJobsSQL, "job.deleted", s.outbox.queue.remove)
}

func (s *server) actOnDead(w http.ResponseWriter, r *http.Request, sql, action string, tell func(context.Context, []string) error) error {
	if err := s.knownQueue(r); err != nil {
		return err
	}
	in, err := decode[deadFilter](w, r)
	if err != nil {
		return err
	}
	f := s.jobFilter(r.PathValue("queue"), "dead", in.Kind, in.Search, nil)
	count, args := f.count("jobs")
	matched, err := queryValue[int64](r.Context(), s.db, count, args...)
	if err != nil {
		return err
	}
	out := deadAnswer{Matched: matched, DryRun: in.DryRun}
	if !in.DryRun {
		rows, err := queryAll[jobID](r.Context(), s.db, "SELECT id::text FROM jobs"+f.clause()+" ORDER BY id LIMIT "+strconv.Itoa(maxFilter), f.args...)
		if err != nil {
			return err
		}
		ids := make([]string, len(rows))
		for i, row := range rows {
			ids[i] = row.ID
		}
		if out.Touched, err = s.actOnJobs(r.Context(), ids, sql, action, r.PathValue("queue"), tell); err != nil {
			return err
		}
	}
	return writeJSON(w, http.StatusOK, out)
}

// deadGroup is dead jobs that died alike.
type deadGroup struct {
	Kind   string    `json:"kind"`
	Error  string    `json:"error"`
	Count  int64     `json:"count"`
	Newest timestamp `json:"newest"`
}

const deadGroupsSQL = `
	SELECT kind, coalesce(error, '') AS error, count(*) AS count, max(dead_at) AS newest
	FROM jobs WHERE queue = $1 AND dead_at IS NOT NULL GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 100`

// handleDeadGroups lists a queue's dead jobs by kind and error, the most frequent first.
func (s *server) handleDeadGroups(w http.ResponseWriter, r *http.Request) error {
	if err := parseQuery(r).done(); err != nil {
		return err
	}
	if err := s.knownQueue(r); err != nil {
		return err
	}
	groups, err := queryAll[deadGroup](r.Context(), s.db, deadGroupsSQL, r.PathValue("queue"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, list[deadGroup]{Items: append([]deadGroup{}, groups...)})
}

// auditEntry is one thing an operator did.
type auditEntry struct {
	ID      uuid            `json:"id"`
	At      timestamp       `json:"at"`
	ActorID uuid            `json:"actorId"`
	Action  string          `json:"action"`
	Target  string          `json:"target"`
	Detail  json.RawMessage `json:"detail"`
}

const (
	auditListSQL   = `SELECT id, at, actor AS actor_id, action, target, detail FROM audit WHERE id < $1 ORDER BY id DESC LIMIT $2`
	countAuditSQL  = `SELECT count(*) FROM audit`
	adminTotalsSQL = `
	SELECT (SELECT count(*) FROM users) AS users, (SELECT count(*) FROM users WHERE is_active) AS active_users,
		(SELECT count(*) FROM sessions WHERE revoked_at IS NULL AND expires_at > now()) AS sessions,
		(SELECT count(*) FROM projects WHERE deleted_at IS NULL) AS projects,
		(SELECT count(*) FROM tasks WHERE deleted_at IS NULL) AS tasks,
		(SELECT count(*) FROM jobs WHERE dead_at IS NULL) AS jobs, (SELECT count(*) FROM jobs WHERE dead_at IS NOT NULL) AS dead_jobs`
)

// handleAudit lists what operators did, newest first.
func (s *server) handleAudit(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r)
	p := s.page(r, q)
	if err := q.done(); err != nil {
		return err
	}
	rows, err := queryAll[auditEntry](r.Context(), s.db, auditListSQL, p.beforeID(), p.limit+1)
	if err != nil {
		return err
	}
	total, err := s.countIf(r.Context(), p.total, countAuditSQL)
	if err != nil {
		return err
	}
	return writeList(s, w, r, p, rows, total, func(e auditEntry) cursor { return cursor{ID: e.ID.String()} })
}

// adminTotals are the installation's sizes.
type adminTotals struct {
	Users       int64  `json:"users"`
	ActiveUsers int64  `json:"activeUsers"`
	Sessions    int64  `json:"sessions"`
	Projects    int64  `json:"projects"`
	Tasks       int64  `json:"tasks"`
	Jobs        int64  `json:"jobs"`
	DeadJobs    int64  `json:"deadJobs"`
	Version     string `json:"version" db:"-"`
}

// handleAdminStats answers the installation's sizes.
func (s *server) handleAdminStats(w http.ResponseWriter, r *http.Request) error {
	if err := parseQuery(r).done(); err != nil {
		return err
	}
	totals, err := queryOne[adminTotals](r.Context(), s.db, adminTotalsSQL)
	if err != nil {
		return err
	}
	totals.Version = version
	return writeJSON(w, http.StatusOK, totals)
}
