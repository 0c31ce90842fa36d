package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/jackc/pgx/v5"
)

// notification is one entry of a user's inbox.
type notification struct {
	ID        uuid            `json:"id"`
	Kind      string          `json:"kind"` // task.assigned, member.added, task.due, task.overdue
	TaskID    *uuid           `json:"taskId"`
	ProjectID *uuid           `json:"projectId"`
	Detail    json.RawMessage `json:"detail"` // actorId; dueDate of reminders
	CreatedAt timestamp       `json:"createdAt"`
	ReadAt    *timestamp      `json:"readAt"`
}

const (
	// inboxSQL shows only what the user may read now: what tells of a project he left, or of one in
	// the trash, is hidden.
	inboxSQL = `
	SELECT n.id, n.kind, n.task_id, n.project_id, n.detail, n.created_at, n.read_at FROM notifications n
	WHERE n.user_id = $1 AND (NOT $2 OR n.read_at IS NULL) AND n.id < $3 AND ` + inboxCondition + `
	ORDER BY n.id DESC LIMIT $4`
	inboxCondition = `(n.project_id IS NULL OR role_in(n.project_id, n.user_id) IS NOT NULL
		AND EXISTS (SELECT FROM projects p WHERE p.id = n.project_id AND p.deleted_at IS NULL))`
	countInboxSQL = `SELECT count(*) FROM notifications n WHERE n.user_id = $1 AND (NOT $2 OR n.read_at IS NULL) AND ` + inboxCondition
)

// handleNotifications lists the caller's inbox, newest first.
func (s *server) handleNotifications(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r)
	p := s.page(r, q)
	unread := q.bool("unread")
	if err := q.done(); err != nil {
		return err
	}
	me := callerOf(r.Context()).ID
	rows, err := queryAll[notification](r.Context(), s.db, inboxSQL, me, unread, p.beforeID(), p.limit+1)
	if err != nil {
		return err
	}
	total, err := s.countIf(r.Context(), p.total, countInboxSQL, me, unread)
	if err != nil {
		return err
	}
	return writeList(s, w, r, p, rows, total, func(n notification) cursor { return cursor{ID: n.ID.String()} })
}

// readMarks is the body of POST /notifications/read: some, or all.
type readMarks struct {
	IDs []uuid `json:"ids"`
	All bool   `json:"all"`
}

func (in readMarks) invalid() []fieldError {
	var f fields
	if (in.IDs == nil) == !in.All {
		f.wrong("ids", "required", "or all must be given, and only one of them")
	}
	if len(in.IDs) > maxBulk {
		f.wrong("ids", "too_many", fmt.Sprintf("must have at most %d ids", maxBulk))
	}
	return f.errs
}

const markReadSQL = `
	UPDATE notifications SET read_at = clock_timestamp()
	WHERE user_id = $1 AND read_at IS NULL AND ($2 OR id = ANY ($3::uuid[]))`

// handleMarkRead marks entries of the caller's inbox as read; others' ids are passed over.
func (s *server) handleMarkRead(w http.ResponseWriter, r *http.Request) error {
	in, err := decode[readMarks](w, r)
	if err != nil {
		return err
	}
	b := &pgx.Batch{}
	b.Queue(markReadSQL, callerOf(r.Context()).ID, in.All, in.IDs)
	if err := s.db.send(r.Context(), b); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// fanoutSQL puts a fact into the inbox of the user it concerns, unless he may no longer read the
// project. An assignment is told once for each time it was made, however often it was asked for,
// and not at all when it no longer holds.
const fanoutSQL = `
	INSERT INTO notifications (id, user_id, kind, task_id, project_id, detail, unique_key)
	SELECT $1::uuid, u.id, $2::text, t.id, p.id, jsonb_build_object('actorId', $6::text),
		CASE WHEN t.id IS NULL THEN $7
			ELSE $2 || ':' || t.id || ':' || (SELECT max(seq) FROM events e WHERE e.subject = t.id AND e.changes ? 'assigneeId') END
	FROM users u JOIN projects p ON p.id = $5 LEFT JOIN tasks t ON t.id = $4
	WHERE u.id = $3 AND u.is_active AND role_in(p.id, u.id) IS NOT NULL AND (t.id IS NULL OR t.assignee_id = u.id)
	ON CONFLICT ON CONSTRAINT notifications_unique_key DO NOTHING`

// runFanout tells the user whom a fact concerns. The entry commits with the job's end, so it is
// made once.
func (s *server) runFanout(ctx context.Context, j job, effect *pgx.Batch) error {
	var f fact
	if err := json.Unmarshal(j.Payload, &f); err != nil {
		return permanent(fmt.Errorf("read payload: %w", err))
	}
	if f.User == nil || *f.User == f.Actor {
		return nil
	}
	project := f.Project
	if project == nil && f.Task != nil {
		found, err := queryAll[projectOf](ctx, s.db, projectOfTaskSQL, f.Task)
		if err != nil || len(found) == 0 {
			return err // a task that is gone concerns nobody
		}
		project = &found[0].ProjectID
	}
	effect.Queue(fanoutSQL, newUUID(), f.Kind, f.User, f.Task, project, f.Actor.String(), "job:"+j.ID)
	return nil
}

// projectOf is the project of a task.
type projectOf struct{ ProjectID uuid }

const projectOfTaskSQL = `SELECT project_id FROM tasks WHERE id = $1`

// remindersSQL makes the day's reminders of everybody for whom it is eight in the morning or later:
// of what is due today, and of what was due yesterday and is not done.
const remindersSQL = `
	INSERT INTO notifications (id, user_id, kind, task_id, project_id, detail, unique_key)
	SELECT uuid_v7(), u.id, CASE WHEN t.due_date = d.today THEN 'task.due' ELSE 'task.overdue' END, t.id, t.project_id,
		jsonb_build_object('dueDate', t.due_date), CASE WHEN t.due_date = d.today THEN 'due:' ELSE 'overdue:' END || t.id || ':' || t.due_date
	FROM users u
	CROSS JOIN LATERAL (SELECT ($1::timestamptz AT TIME ZONE u.timezone)::date AS today) d
	JOIN tasks t ON t.assignee_id = u.id AND t.due_date IN (d.today, d.today - 1) AND t.status <> 'done' AND t.deleted_at IS NULL
	JOIN projects p ON p.id = t.project_id AND p.deleted_at IS NULL AND p.status = 'active'
	WHERE u.is_active AND extract(hour FROM $1::timestamptz AT TIME ZONE u.timezone) >= 8
	ON CONFLICT ON CONSTRAINT notifications_unique_key DO NOTHING`

// runReminders puts due tasks into their assignees' inboxes. A reminder is unique by task and due
// date, so repeating it makes none twice.
func (s *server) runReminders(ctx context.Context, j job, effect *pgx.Batch) error {
	effect.Queue(remindersSQL, j.PushedAt)
	return nil
}
