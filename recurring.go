package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// recurring is a done task that repeats, with what its next occurrence depends on.
type recurring struct {
	Recurrence string
	Start      *time.Time // due date of the first task of the series
	Due        *time.Time
	Today      time.Time // at the assignee's, or else the creator's
}

const (
	// recurringSQL finds the task if it is still done and has not been repeated.
	recurringSQL = `
	SELECT t.recurrence, t.due_date AS due, coalesce(t.series_start, t.due_date) AS start,
		(clock_timestamp() AT TIME ZONE (SELECT timezone FROM users WHERE id = coalesce(t.assignee_id, t.created_by)))::date AS today
	FROM tasks t JOIN projects p ON p.id = t.project_id
	WHERE t.id = $1 AND t.status = 'done' AND t.recurrence IS NOT NULL AND t.deleted_at IS NULL
		AND p.deleted_at IS NULL AND p.status = 'active' AND NOT EXISTS (SELECT FROM tasks n WHERE n.recurs_from = t.id)`
	// repeatTaskSQL makes the next task of a series: what was planned is copied, what was done is not.
	// A task is repeated once, which the unique index on recurs_from holds against two runs at once.
	repeatTaskSQL = `
	WITH o AS (
		SELECT * FROM tasks WHERE id = $1 AND deleted_at IS NULL AND NOT EXISTS (SELECT FROM tasks n WHERE n.recurs_from = $1)),
	p AS (
		UPDATE projects SET last_number = last_number + 1 WHERE id = (SELECT project_id FROM o) RETURNING id, last_number),
	t AS (
		INSERT INTO tasks (id, project_id, number, title, description, priority, assignee_id, parent_id, position,
			start_date, due_date, estimated_hours, labels, created_by, created_at, updated_at, recurrence, recurs_from, series_start)
		SELECT $2, p.id, p.last_number, o.title, o.description, o.priority, o.assignee_id, o.parent_id,
			position_between((SELECT max(position) FROM tasks WHERE project_id = p.id), NULL),
			o.start_date + ($3::date - o.due_date), $3, o.estimated_hours, o.labels, o.created_by, $4, $4, o.recurrence, o.id, coalesce(o.series_start, o.due_date, $3)
		FROM o, p RETURNING *)
	SELECT log_change(t.project_id, NULL, 'task.created', t.id, changes('{}', task_fields(t))) FROM t`
	lockProjectOfTaskSQL = `SELECT id FROM projects WHERE id = (SELECT project_id FROM tasks WHERE id = $1) FOR NO KEY UPDATE`
)

// repeated is the payload of task.recur.
type repeated struct {
	Task uuid `json:"taskId"`
}

// runRecur makes the next task of a series when one was done. Whatever the time of completion, the
// next due date is the rule's first after the present one that is not past. A task is repeated at
// most once, so running it again makes no second.
func (s *server) runRecur(ctx context.Context, j job, effect *pgx.Batch) error {
	var in repeated
	if err := json.Unmarshal(j.Payload, &in); err != nil {
		return permanent(fmt.Errorf("read payload: %w", err))
	}
	found, err := queryAll[recurring](ctx, s.db, recurringSQL, in.Task)
	if err != nil || len(found) == 0 {
		return err // gone, reopened or repeated already
	}
	task := found[0]
	rule, err := parseRRule(task.Recurrence)
	if err != nil {
		return permanent(fmt.Errorf("read the task's recurrence: %w", err))
	}
	start, after := task.Today, task.Today
	if task.Due != nil {
		start, after = *task.Start, *task.Due
	}
	if yesterday := task.Today.AddDate(0, 0, -1); after.Before(yesterday) {
		after = yesterday
	}
	due, more := rule.next(start, after)
	if !more {
		return nil
	}
	id := newUUID()
	effect.Queue(setTraceSQL, traceOf(ctx).mark())
	effect.Queue(lockProjectOfTaskSQL, in.Task)
	effect.Queue(repeatTaskSQL, in.Task, id, due.Format(time.DateOnly), id.time())
	effect.Queue(setTraceSQL, "") // other jobs' effects may follow in the transaction
	return nil
}
