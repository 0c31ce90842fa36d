package main

import (
	"net/http"

	"github.com/jackc/pgx/v5"
)

// taskMove is the body of POST /tasks/{id}/move: one place, perhaps in another project.
type taskMove struct {
	Before    *uuid   `json:"before"`
	After     *uuid   `json:"after"`
	First     bool    `json:"first"`
	Last      bool    `json:"last"`
	Status    *string `json:"status"`    // the column it goes to; absent keeps it
	ProjectID *uuid   `json:"projectId"` // absent keeps it; a task comes last in another project
}

func (in taskMove) invalid() []fieldError {
	var f fields
	places := 0
	for _, given := range []bool{in.Before != nil, in.After != nil, in.First, in.Last} {
		if given {
			places++
		}
	}
	if places > 1 || places == 0 && in.ProjectID == nil {
		f.wrong("before", "required", "or after, first or last must be given, and only one of them")
	}
	if in.Status != nil {
		f.oneOf("status", *in.Status, taskStatuses...)
	}
	return f.errs
}

// place is where the task goes, as position_for takes it. A transfer alone puts it last already.
func (in taskMove) place() (place string, anchor *uuid) {
	switch {
	case in.Before != nil:
		return "before", in.Before
	case in.After != nil:
		return "after", in.After
	case in.First:
		return "first", nil
	case in.Last:
		return "last", nil
	}
	return "keep", nil
}

const (
	makeRoomSQL = `SELECT make_room($1, $2)`
	// placeTaskSQL is patchTaskSQL for position and status.
	placeTaskSQL = `
	WITH n AS MATERIALIZED (
		SELECT position_for($1, $3, $4) AS position, coalesce($5::text::task_status, status) AS status FROM tasks WHERE id = $1),
	t AS (
		UPDATE tasks t SET position = n.position, status = n.status,
			started_at = CASE WHEN n.status <> 'todo' THEN coalesce(t.started_at, clock_timestamp()) ELSE t.started_at END,
			completed_at = CASE WHEN n.status = 'done' THEN coalesce(t.completed_at, clock_timestamp()) END,
			version = t.version + 1, updated_at = clock_timestamp()
		FROM tasks o, n
		WHERE o.id = $1 AND t.id = o.id AND (n.position <> o.position OR n.status <> o.status)
		RETURNING t.id, t.project_id, changes(task_fields(o), task_fields(t)) AS what)
	SELECT log_change(project_id, $2, 'task.moved', id, what) FROM t`
	// lockTwoSQL locks the projects of a transfer in the order of their ids, so that two transfers
	// the opposite ways do not wait for each other.
	lockTwoSQL = `
	SELECT id FROM projects WHERE id IN ($2, (SELECT project_id FROM tasks WHERE id = $1)) ORDER BY id FOR NO KEY UPDATE`
	// transferTaskSQL takes a task and everything below it to another project: new numbers, last
	// places, and no assignee who is not a member there. Both projects' logs tell of it. A task that
	// is there already stays as it is.
	transferTaskSQL = `
	WITH RECURSIVE tree AS (
		SELECT id FROM tasks WHERE id = $1 AND project_id <> $3
		UNION ALL SELECT t.id FROM tasks t JOIN tree ON t.parent_id = tree.id),
	counted AS (
		SELECT t.id, t.project_id AS home, row_number() OVER (ORDER BY t.number) AS n FROM tasks t JOIN tree USING (id)),
	p AS (
		UPDATE projects SET last_number = last_number + (SELECT count(*) FROM tree) WHERE id = $3
		RETURNING last_number - (SELECT count(*) FROM tree) AS numbers,
			coalesce((SELECT left(max(position), 10)::bigint FROM tasks WHERE project_id = $3), 5000000000) AS positions),
	moved AS (
		UPDATE tasks t SET project_id = $3, number = p.numbers + c.n, position = lpad((p.positions + c.n)::text, 10, '0'),
			parent_id = CASE WHEN t.id = $1 THEN NULL ELSE t.parent_id END,
			assignee_id = (SELECT user_id FROM members WHERE project_id = $3 AND user_id = t.assignee_id),
			version = t.version + 1, updated_at = clock_timestamp()
		FROM counted c, p, tasks o WHERE t.id = c.id AND o.id = t.id
		RETURNING t.id, c.home, changes(
			task_fields(o) || jsonb_build_object('projectId', o.project_id, 'number', o.number),
			task_fields(t) || jsonb_build_object('projectId', t.project_id, 'number', t.number)) AS what)
	SELECT log_change(home, $2, 'task.left', id, what), log_change($3, $2, 'task.arrived', id, what) FROM moved`
	// untieSQL ends what cannot cross projects: blockers, and watchers who do not read the new one.
	untieSQL = `
	WITH RECURSIVE tree AS (
		SELECT id FROM tasks WHERE id = $1
		UNION ALL SELECT t.id FROM tasks t JOIN tree ON t.parent_id = tree.id),
	ties AS (
		SELECT b.* FROM task_blockers b JOIN tree ON b.task_id = tree.id
		UNION SELECT b.* FROM task_blockers b JOIN tree ON b.blocker_id = tree.id),
	b AS (
		DELETE FROM task_blockers b USING ties, tasks x, tasks y
		WHERE (b.task_id, b.blocker_id) = (ties.task_id, ties.blocker_id)
			AND x.id = b.task_id AND y.id = b.blocker_id AND x.project_id <> y.project_id
		RETURNING b.task_id, b.blocker_id, x.project_id),
	v AS (UPDATE tasks SET version = version + 1, updated_at = clock_timestamp() WHERE id IN (SELECT task_id FROM b)),
	w AS (
		DELETE FROM task_watchers w USING tree, tasks t
		WHERE w.task_id = tree.id AND t.id = tree.id AND role_in(t.project_id, w.user_id) IS NULL)
	SELECT log_change(project_id, $2, 'task.unblocked', task_id, jsonb_build_object('blockedBy', jsonb_build_array(blocker_id, NULL))) FROM b`
)

// handleMoveTask puts a task at a place in its project's order, into a column, or into another
// project, where its subtasks go with it. Under the project's lock no two moves meet.
func (s *server) handleMoveTask(w http.ResponseWriter, r *http.Request) error {
	id, err := s.taskID(r, "id")
	if err != nil {
		return err
	}
	in, err := decode[taskMove](w, r)
	if err != nil {
		return err
	}
	me := callerOf(r.Context()).ID
	place, anchor := in.place()
	b := &pgx.Batch{}
	if in.ProjectID != nil {
		b.Queue(lockTwoSQL, id, in.ProjectID)
	}
	b.Queue(enterTaskSQL, id, me, roleMember, ifMatch(r))
	if in.ProjectID != nil {
		b.Queue(enterWorkSQL, in.ProjectID, me, roleMember)
		b.Queue(transferTaskSQL, id, me, in.ProjectID)
		b.Queue(untieSQL, id, me)
	}
	b.Queue(placeTaskSQL, id, me, place, anchor, in.Status)
	b.Queue(makeRoomSQL, id, me)
	b.Queue(taskByIDSQL, id)
	var facts []fact
	if in.Status != nil {
		facts = statusFacts(me, id, *in.Status)
	}
	t, err := sendAnd[task](r.Context(), s, b, facts...)
	if err != nil {
		return err
	}
	return writeVersioned(w, r, http.StatusOK, t.Version, t)
}

const (
	checkBlockerSQL = `SELECT check_blocker($1, $2)`
	addBlockerSQL   = `
	WITH b AS (INSERT INTO task_blockers (task_id, blocker_id) VALUES ($1, $3) ON CONFLICT DO NOTHING RETURNING task_id, blocker_id),
	t AS (
		UPDATE tasks SET version = version + 1, updated_at = clock_timestamp()
		FROM b WHERE id = b.task_id RETURNING id, project_id, b.blocker_id)
	SELECT log_change(project_id, $2, 'task.blocked', id, jsonb_build_object('blockedBy', jsonb_build_array(NULL, blocker_id))) FROM t`
	removeBlockerSQL = `
	WITH b AS (DELETE FROM task_blockers WHERE task_id = $1 AND blocker_id = $3 RETURNING task_id, blocker_id),
	t AS (
		UPDATE tasks SET version = version + 1, updated_at = clock_timestamp()
		FROM b WHERE id = b.task_id RETURNING id, project_id, b.blocker_id)
	SELECT CASE WHEN NOT EXISTS (SELECT FROM t) THEN refuse('not_found')
		ELSE (SELECT log_change(project_id, $2, 'task.unblocked', id, jsonb_build_object('blockedBy', jsonb_build_array(blocker_id, NULL)))::text FROM t) END`
)

// handleAddBlocker says that a task cannot be finished before another. Repeating it changes nothing.
func (s *server) handleAddBlocker(w http.ResponseWriter, r *http.Request) error {
	id, err := s.taskID(r, "id")
	if err != nil {
		return err
	}
	other, err := s.taskID(r, "otherId")
	if err != nil {
		return err
	}
	me := callerOf(r.Context()).ID
	b := &pgx.Batch{}
	b.Queue(enterTaskSQL, id, me, roleMember, ifMatch(r))
	b.Queue(checkBlockerSQL, id, other)
	b.Queue(addBlockerSQL, id, me, other)
	b.Queue(taskByIDSQL, id)
	t, err := sendOne[task](r.Context(), s.db, b)
	if err != nil {
		return err
	}
	return writeVersioned(w, r, http.StatusOK, t.Version, t)
}

// handleRemoveBlocker takes that back.
func (s *server) handleRemoveBlocker(w http.ResponseWriter, r *http.Request) error {
	id, err := s.taskID(r, "id")
	if err != nil {
		return err
	}
	other, err := s.taskID(r, "otherId")
	if err != nil {
		return err
	}
	me := callerOf(r.Context()).ID
	b := &pgx.Batch{}
	b.Queue(enterTaskSQL, id, me, roleMember, ifMatch(r))
	b.Queue(removeBlockerSQL, id, me, other)
	if err := s.db.send(r.Context(), b); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

const (
	watchSQL = `
	WITH w AS (INSERT INTO task_watchers (task_id, user_id) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING task_id)
	SELECT log_change(t.project_id, $2, 'task.watched', t.id, '{}') FROM w JOIN tasks t ON t.id = w.task_id`
	unwatchTaskSQL = `
	WITH w AS (DELETE FROM task_watchers WHERE task_id = $1 AND user_id = $2 RETURNING task_id)
	SELECT log_change(t.project_id, $2, 'task.unwatched', t.id, '{}') FROM w JOIN tasks t ON t.id = w.task_id`
)

// handleWatch makes the caller hear of a task; repeating it changes nothing.
func (s *server) handleWatch(w http.ResponseWriter, r *http.Request) error {
	return s.setWatch(w, r, watchSQL)
}

// handleUnwatch ends that; repeating it changes nothing.
func (s *server) handleUnwatch(w http.ResponseWriter, r *http.Request) error {
	return s.setWatch(w, r, unwatchTaskSQL)
}

func (s *server) setWatch(w http.ResponseWriter, r *http.Request, sql string) error {
	id, err := s.taskID(r, "id")
	if err != nil {
		return err
	}
	me := callerOf(r.Context()).ID
	b := &pgx.Batch{}
	b.Queue(enterTaskSQL, id, me, roleViewer, nil)
	b.Queue(sql, id, me)
	if err := s.db.send(r.Context(), b); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
