package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
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
	Trace     string          `json:"trace"`    // request id of the cause
	TraceID   string          `json:"traceId"`  // trace-id
	Attempts  int             `json:"attempts"` // failed ones
	Error     *string         `json:"error"`    // of the last failed attempt; secrets masked
	Worker    string          `json:"worker,omitempty" db:"-"`
	RunAt     timestamp       `json:"runAt"`
	CreatedAt timestamp       `json:"createdAt"`
	DeadAt    *timestamp      `json:"deadAt"`
	Payload   json.RawMessage `json:"payload,omitempty"`      // secrets masked; only for one job, as it may be a megabyte
	Tries     []tryLine       `json:"tries,omitempty" db:"-"` // failed attempts, the newest last; only for one job
}

// adminJobColumns are those of lists, which go without payloads.
const adminJobColumns = `id, queue, kind, priority, split_part(trace, '/', 1) AS trace, left(split_part(trace, '/', 2), 32) AS trace_id, attempts, error, run_at, created_at, dead_at`

var jobStates = []string{"ready", "running", "scheduled", "dead"}

// jobFilter is which jobs of a queue an operator means. Empty fields mean any.
type jobFilter struct {
	state  string
	kind   string
	search string // in id, kind or error, or the whole id of the request or the trace
	group  string // of dead jobs that died alike
}

// deadGroupID names the dead jobs of one kind whose errors are alike but for ids and numbers.
const deadGroupID = `md5(kind || E'\n' || regexp_replace(coalesce(error, ''), '[0-9a-f]{8}-[0-9a-f-]{27}|[0-9]+', '#', 'g'))`

// conditions are a filter's rows of table jobs. running are the ids that workers hold.
func (in jobFilter) conditions(queue string, running map[string]string) filter {
	var f filter
	f.where("queue = ?", queue)
	switch in.state {
	case "dead":
		f.where("dead_at IS NOT NULL")
	case "running":
		f.where("dead_at IS NULL AND id = ANY (?::uuid[])", heldIDs(running))
	case "scheduled":
		f.where("dead_at IS NULL AND run_at > clock_timestamp() AND id <> ALL (?::uuid[])", heldIDs(running))
	case "ready":
		f.where("dead_at IS NULL AND run_at <= clock_timestamp() AND id <> ALL (?::uuid[])", heldIDs(running))
	}
	if in.kind != "" {
		f.where("kind = ?", in.kind)
	}
	if in.group != "" {
		f.where(deadGroupID+" = ?", in.group)
	}
	if in.search != "" {
		pattern := likePattern(in.search)
		f.where("(id::text ILIKE ? OR kind ILIKE ? OR error ILIKE ? OR split_part(trace, '/', 1) = ? OR left(split_part(trace, '/', 2), 32) = ?)", pattern, pattern, pattern, in.search, in.search)
	}
	return f
}

// handleQueueJobs lists a queue's jobs in one state, newest first.
func (s *server) handleQueueJobs(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r)
	p := s.page(r, q)
	in := jobFilter{state: q.oneOf("state", jobStates...), kind: q.text("kind"), search: q.search(), group: q.text("group")}
	if err := q.done(); err != nil {
		return err
	}
	if in.state == "" {
		in.state = "ready"
	}
	if err := s.knownQueue(r); err != nil {
		return err
	}
	view, err := s.outbox.look(r.Context())
	if err != nil {
		return err
	}
	f := in.conditions(r.PathValue("queue"), view.runningJobs)
	sql, args := f.count("jobs")
	total, err := s.countIf(r.Context(), p.total, sql, args...)
	if err != nil {
		return err
	}
	f.where("id < ?", p.beforeID())
	sql = fmt.Sprintf("SELECT %s, NULL::jsonb AS payload FROM jobs%s ORDER BY id DESC LIMIT %d", adminJobColumns, f.clause(), p.limit+1)
	jobs, err := queryAll[adminJob](r.Context(), s.db, sql, f.args...)
	if err != nil {
		return err
	}
	for i := range jobs {
		jobs[i].show(view.runningJobs)
	}
	return writeList(s, w, r, p, jobs, total, func(j adminJob) cursor { return cursor{ID: j.ID.String()} })
}

// show completes a row for an operator: its state, and no secrets.
func (j *adminJob) show(running map[string]string) {
	j.Worker = running[j.ID.String()]
	switch {
	case j.DeadAt != nil:
		j.State, j.Worker = "dead", ""
	case j.Worker != "":
		j.State = "running"
	case j.RunAt.After(time.Now()):
		j.State = "scheduled"
	default:
		j.State = "ready"
	}
	if j.Error != nil {
		text := maskText(*j.Error)
		j.Error = &text
	}
	if j.Payload != nil {
		j.Payload = masked(j.Payload)
	}
	for i := range j.Tries {
		j.Tries[i].Error, j.Tries[i].Stack = maskText(j.Tries[i].Error), maskText(j.Tries[i].Stack)
	}
}

func (s *server) knownQueue(r *http.Request) error {
	if r.PathValue("queue") != s.outbox.queue.name {
		return newProblem("not_found", "")
	}
	return nil
}

const adminJobSQL = `SELECT ` + adminJobColumns + `, payload FROM jobs WHERE id = $1`

// handleAdminJob answers one job with its payload and its failed attempts, which are Redis's to
// remember: without it there are none.
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
	if view.Reachable {
		if j.Tries, err = s.outbox.queue.tries(r.Context(), id.String()); err != nil {
			return &unavailableError{cause: err}
		}
	}
	j.show(view.runningJobs)
	return writeJSON(w, http.StatusOK, j)
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

// setPaused keeps the pause in the database, from where the relay renews it if Redis forgets, or
// does not hear of it now.
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
	s.audit(r.Context(), b, auditNote{action, name, nil})
	if err := s.db.send(r.Context(), b); err != nil {
		return err
	}
	afterCommit(r.Context(), func(ctx context.Context) {
		if err := s.outbox.queue.pause(ctx, paused); err != nil {
			s.log.Warn("pause left to the relay", "queue", name, "error", err)
		}
		s.outbox.snapshot.expire()
	})
	w.WriteHeader(http.StatusNoContent)
	return nil
}

const (
	// retryJobsSQL revives dead jobs and hastens delayed ones. Of jobs with one unique key at most one
	// may live: the newest is revived, and none while one lives already.
	retryJobsSQL = `
	UPDATE jobs j SET dead_at = NULL, attempts = 0, run_at = clock_timestamp() FROM (
		SELECT DISTINCT ON (coalesce(unique_key, id::text)) id FROM jobs d
		WHERE id = ANY ($1::text[]::uuid[]) AND (dead_at IS NOT NULL OR run_at > clock_timestamp())
			AND NOT EXISTS (SELECT FROM jobs l WHERE l.unique_key = d.unique_key AND l.dead_at IS NULL AND l.id <> d.id)
		ORDER BY coalesce(unique_key, id::text), id DESC) picked
	WHERE j.id = picked.id RETURNING j.id::text`
	deleteJobsSQL = `DELETE FROM jobs WHERE id = ANY ($1::text[]::uuid[]) RETURNING id::text`
	jobKindSQL    = `SELECT kind FROM jobs WHERE id = $1`
)

// retryJobs has dead and delayed jobs run at once, with all their attempts anew, and returns those
// that do. Redis forgets them first and gets them again from their rows: whatever fails in between,
// a living row is in Redis or will be pushed by the relay.
func (s *server) retryJobs(ctx context.Context, ids []string, note auditNote) ([]string, error) {
	if err := s.outbox.queue.reset(ctx, ids); err != nil {
		return nil, &unavailableError{cause: err}
	}
	touched, err := s.changeJobs(ctx, retryJobsSQL, ids, note)
	if err != nil || len(touched) == 0 {
		return nil, err
	}
	afterCommit(ctx, func(ctx context.Context) {
		err := s.outbox.queue.reset(ctx, touched) // those that the relay pushed again meanwhile, as they were before
		for chunk := range slices.Chunk(touched, maxBatch) {
			if err == nil {
				err = s.outbox.pushMissing(ctx, chunk)
			}
		}
		if err != nil {
			s.log.Warn("retry left to the relay", "jobs", len(touched), "error", err)
		}
	})
	return touched, nil
}

// deleteJobs deletes jobs and returns those that there were. One that runs is cancelled; its effect
// cannot happen any more, as its row is gone.
func (s *server) deleteJobs(ctx context.Context, ids []string, note auditNote) ([]string, error) {
	touched, err := s.changeJobs(ctx, deleteJobsSQL, ids, note)
	if err != nil || len(touched) == 0 {
		return nil, err
	}
	afterCommit(ctx, func(ctx context.Context) {
		if err := s.outbox.queue.remove(ctx, touched); err != nil {
			s.log.Warn("Redis still has deleted jobs, which will do nothing", "jobs", len(touched), "error", err)
		}
	})
	return touched, nil
}

// changeJobs changes rows, notes it in the audit list, and returns the ids of the rows changed.
func (s *server) changeJobs(ctx context.Context, sql string, ids []string, note auditNote) (touched []string, err error) {
	defer afterCommit(ctx, func(context.Context) { s.outbox.snapshot.expire() })
	err = s.db.inTx(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, sql, ids)
		if err != nil {
			return err
		}
		if touched, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil || len(touched) == 0 {
			return err
		}
		note.detail["count"] = len(touched)
		b := &pgx.Batch{}
		s.audit(ctx, b, note)
		return tx.SendBatch(ctx, b).Close()
	})
	return touched, err
}

// jobChange is retryJobs or deleteJobs.
type jobChange func(context.Context, []string, auditNote) ([]string, error)

// handleRetryJob has a dead or delayed job run at once.
func (s *server) handleRetryJob(w http.ResponseWriter, r *http.Request) error {
	return s.changeJob(w, r, "job.retried", s.retryJobs)
}

// handleDeleteJob deletes a job in any state.
func (s *server) handleDeleteJob(w http.ResponseWriter, r *http.Request) error {
	return s.changeJob(w, r, "job.deleted", s.deleteJobs)
}

func (s *server) changeJob(w http.ResponseWriter, r *http.Request, action string, change jobChange) error {
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	kind, err := queryValue[string](r.Context(), s.db, jobKindSQL, id)
	if err != nil {
		return err
	}
	note := auditNote{action, id.String(), map[string]any{"kind": kind}}
	touched, err := change(r.Context(), []string{id.String()}, note)
	if err != nil {
		return err
	}
	if len(touched) == 0 {
		return newProblem("job_not_waiting", "")
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// deadFilter is the body of retry-dead and delete-dead: which of a queue's dead jobs.
type deadFilter struct {
	Kind   string `json:"kind"`
	Search string `json:"search"` // in id, kind or error
	Group  string `json:"group"`  // id of a group of dead-groups
	DryRun bool   `json:"dryRun"` // only count
}

func (in deadFilter) invalid() []fieldError {
	var f fields
	f.text("kind", in.Kind, 0, 100, false)
	f.text("search", in.Search, 0, maxSearch, false)
	f.text("group", in.Group, 0, 100, false)
	return f.errs
}

// deadAnswer says how many jobs were meant, and how many changed.
type deadAnswer struct {
	Matched int64 `json:"matched"`
	Touched int   `json:"touched"` // at most 1000 in one request
	DryRun  bool  `json:"dryRun"`
}

// handleRetryDead has all dead jobs that match run again.
func (s *server) handleRetryDead(w http.ResponseWriter, r *http.Request) error {
	return s.changeDead(w, r, "job.retried", s.retryJobs)
}

// handleDeleteDead deletes all dead jobs that match.
func (s *server) handleDeleteDead(w http.ResponseWriter, r *http.Request) error {
	return s.changeDead(w, r, "job.deleted", s.deleteJobs)
}

// changeDead counts the dead jobs that match, and changes the oldest of them.
func (s *server) changeDead(w http.ResponseWriter, r *http.Request, action string, change jobChange) error {
	if err := s.knownQueue(r); err != nil {
		return err
	}
	in, err := decode[deadFilter](w, r)
	if err != nil {
		return err
	}
	queue := r.PathValue("queue")
	f := jobFilter{state: "dead", kind: in.Kind, search: in.Search, group: in.Group}.conditions(queue, nil)
	count, args := f.count("jobs")
	matched, err := queryValue[int64](r.Context(), s.db, count, args...)
	if err != nil {
		return err
	}
	out := deadAnswer{Matched: matched, DryRun: in.DryRun}
	if matched > 0 && !in.DryRun {
		rows, err := queryAll[jobID](r.Context(), s.db, "SELECT id::text FROM jobs"+f.clause()+" ORDER BY id LIMIT "+strconv.Itoa(maxFilter), f.args...)
		if err != nil {
			return err
		}
		ids := make([]string, len(rows))
		for i, row := range rows {
			ids[i] = row.ID
		}
		touched, err := change(r.Context(), ids, auditNote{action, queue, in.detail()})
		if err != nil {
			return err
		}
		out.Touched = len(touched)
	}
	return writeJSON(w, http.StatusOK, out)
}

// detail is the filter as the audit list keeps it.
func (in deadFilter) detail() map[string]any {
	detail := map[string]any{}
	for name, value := range map[string]string{"kind": in.Kind, "search": in.Search, "group": in.Group} {
		if value != "" {
			detail[name] = value
		}
	}
	return detail
}

// deadGroup is dead jobs of one kind that died alike.
type deadGroup struct {
	ID     string    `json:"id"` // as the group of a filter
	Kind   string    `json:"kind"`
	Error  string    `json:"error"` // of the newest; others differ in ids and numbers only
	Count  int64     `json:"count"`
	Oldest timestamp `json:"oldest"`
	Newest timestamp `json:"newest"`
}

const deadGroupsSQL = `
	SELECT ` + deadGroupID + ` AS id, kind, coalesce((array_agg(error ORDER BY dead_at DESC))[1], '') AS error,
		count(*) AS count, min(dead_at) AS oldest, max(dead_at) AS newest
	FROM jobs WHERE queue = $1 AND dead_at IS NOT NULL GROUP BY 1, 2 ORDER BY 4 DESC, 6 DESC LIMIT 100`

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
	for i := range groups {
		groups[i].Error = maskText(groups[i].Error)
	}
	return writeJSON(w, http.StatusOK, list[deadGroup]{Items: append([]deadGroup{}, groups...)})
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

const adminTotalsSQL = `
	SELECT (SELECT count(*) FROM users) AS users, (SELECT count(*) FROM users WHERE is_active) AS active_users,
		(SELECT count(*) FROM sessions WHERE revoked_at IS NULL AND expires_at > now()) AS sessions,
		(SELECT count(*) FROM projects WHERE deleted_at IS NULL) AS projects,
		(SELECT count(*) FROM tasks WHERE deleted_at IS NULL) AS tasks,
		(SELECT count(*) FROM jobs WHERE dead_at IS NULL) AS jobs, (SELECT count(*) FROM jobs WHERE dead_at IS NOT NULL) AS dead_jobs`

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
