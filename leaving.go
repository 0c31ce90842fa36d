package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	exportPage  = 500              // rows fetched at once
	exportWrite = 30 * time.Second // for a client to take what they make
)

// membership is a user's place in a project, as he takes it along.
type membership struct {
	ProjectID uuid       `json:"projectId"`
	Key       string     `json:"key"`
	Name      string     `json:"name"`
	Role      memberRole `json:"role"`
	JoinedAt  timestamp  `json:"joinedAt"`
}

const (
	membershipsSQL = `
	SELECT p.id AS project_id, p.key, p.name, m.role, m.created_at AS joined_at
	FROM members m JOIN projects p ON p.id = m.project_id AND p.deleted_at IS NULL
	WHERE m.user_id = $1 AND p.id < $2 ORDER BY p.id DESC LIMIT $3`
	ownTasksSQL = `
	SELECT ` + taskColumns + ` FROM tasks t JOIN projects p ON p.id = t.project_id
	WHERE (t.created_by = $1 OR t.assignee_id = $1) AND t.id < $3 AND ` + visibleSQL + ` ORDER BY t.id DESC LIMIT $4`
	ownCommentsSQL = `
	SELECT ` + commentColumns + ` FROM comments c JOIN tasks t ON t.id = c.task_id JOIN projects p ON p.id = t.project_id
	WHERE c.author_id = $1 AND c.id < $3 AND ` + visibleSQL + ` ORDER BY c.id DESC LIMIT $4`
	ownAttachmentsSQL = `
	SELECT ` + attachmentColumns + ` FROM attachments a JOIN tasks t ON t.id = a.task_id JOIN projects p ON p.id = t.project_id
	WHERE a.created_by = $1 AND a.id < $3 AND ` + visibleSQL + ` ORDER BY a.id DESC LIMIT $4`
)

// handleExport answers everything about the caller as one document: his account and its history,
// sessions, API tokens, memberships, the tasks he made or has, the comments he wrote and what is known of
// the files he sent, as far as he reads their projects, and his inbox with its settings. It is written as
// it is read, so that it may be of any size.
func (s *server) handleExport(w http.ResponseWriter, r *http.Request) error {
	if err := parseQuery(r).done(); err != nil {
		return err
	}
	ctx, me := r.Context(), callerOf(r.Context())
	a, err := queryOne[account](ctx, s.db, accountByIDSQL, me.ID)
	if err != nil {
		return err
	}
	settings, err := s.settingsOf(ctx, me.ID)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Disposition", `attachment; filename="taskflow-export.json"`)
	x := &export{w: bufio.NewWriter(w), conn: http.NewResponseController(w)}
	x.value("exportedAt", timestamp{time.Now()})
	x.value("account", a)
	exportList(x, "history", func(last *event) ([]event, error) {
		before := int64(1<<63 - 1)
		if last != nil {
			before = last.Seq
		}
		return queryAll[event](ctx, s.db, scopeEventsSQL, me.ID, before, exportPage)
	})
	exportList(x, "sessions", func(last *sessionInfo) ([]sessionInfo, error) {
		return queryAll[sessionInfo](ctx, s.db, sessionsSQL, me.ID, me.Session, beforeIf(last, func() uuid { return last.ID }), exportPage)
	})
	exportList(x, "tokens", func(last *apiToken) ([]apiToken, error) {
		return queryAll[apiToken](ctx, s.db, apiTokensSQL, me.ID, beforeIf(last, func() uuid { return last.ID }), exportPage)
	})
	exportList(x, "memberships", func(last *membership) ([]membership, error) {
		return queryAll[membership](ctx, s.db, membershipsSQL, me.ID, beforeIf(last, func() uuid { return last.ProjectID }), exportPage)
	})
	exportList(x, "tasks", func(last *task) ([]task, error) {
		return queryAll[task](ctx, s.db, ownTasksSQL, me.ID, me.seesAll(), beforeIf(last, func() uuid { return last.ID }), exportPage)
	})
	exportList(x, "comments", func(last *comment) ([]comment, error) {
		return queryAll[comment](ctx, s.db, ownCommentsSQL, me.ID, me.seesAll(), beforeIf(last, func() uuid { return last.ID }), exportPage)
	})
	exportList(x, "attachments", func(last *attachment) ([]attachment, error) {
		return queryAll[attachment](ctx, s.db, ownAttachmentsSQL, me.ID, me.seesAll(), beforeIf(last, func() uuid { return last.ID }), exportPage)
	})
	x.value("notificationSettings", settings)
	exportList(x, "notifications", func(last *notification) ([]notification, error) {
		return queryAll[notification](ctx, s.db, inboxSQL, me.ID, false, beforeIf(last, func() uuid { return last.ID }), exportPage)
	})
	if err := x.end(); err != nil {
		w.Header().Del("Content-Disposition") // of the problem, if it can still be told
		return err
	}
	return nil
}

// beforeIf is the id below which the next page of a list begins.
func beforeIf[T any](last *T, id func() uuid) uuid {
	if last == nil {
		return lastUUID
	}
	return id()
}

// export writes one JSON object, a member at a time.
type export struct {
	w       *bufio.Writer
	conn    *http.ResponseController
	members int
	err     error // the first; nothing is written after it
}

func (x *export) text(parts ...string) {
	for _, part := range parts {
		if x.err == nil {
			_, x.err = x.w.WriteString(part)
		}
	}
}

func (x *export) json(v any) {
	if x.err != nil {
		return
	}
	text, err := json.Marshal(v)
	if err != nil {
		x.err = fmt.Errorf("encode export: %w", err)
		return
	}
	_, x.err = x.w.Write(text)
}

// name begins a member of the object.
func (x *export) name(name string) {
	if x.members++; x.members == 1 {
		x.text("{")
	} else {
		x.text(",\n")
	}
	x.text(`"`, name, `":`)
}

func (x *export) value(name string, v any) {
	x.name(name)
	x.json(v)
}

// exportList writes a member that is a list, page by page. fetch gets what comes after a row, in
// pages of exportPage. No connection to the database is held while the client takes its time.
func exportList[T any](x *export, name string, fetch func(last *T) ([]T, error)) {
	x.name(name)
	x.text("[")
	var last *T
	for x.err == nil {
		rows, err := fetch(last)
		if err != nil {
			x.err = err
			return
		}
		x.conn.SetWriteDeadline(time.Now().Add(exportWrite)) // of this page; one that cannot be set is the server's own
		for i := range rows {
			if last != nil {
				x.text(",\n")
			}
			x.json(rows[i])
			last = &rows[i]
		}
		if len(rows) < exportPage {
			break
		}
	}
	x.text("]")
}

func (x *export) end() error {
	x.text("}\n")
	if x.err == nil {
		x.err = x.w.Flush()
	}
	return x.err
}

const (
	// lockHomesSQL locks the projects of a user, in the order in which everybody locks several.
	lockHomesSQL = `
	SELECT id FROM projects WHERE id IN (SELECT project_id FROM members WHERE user_id = $1) ORDER BY id FOR NO KEY UPDATE`
	// anonymiseSQL leaves of a user what the history of others' projects needs: that there was one.
	anonymiseSQL = `
	WITH u AS (
		UPDATE users SET email = 'deleted-' || id || '@deleted.invalid', password_hash = '', first_name = 'Deleted', last_name = 'user',
			avatar_url = NULL, timezone = 'UTC', locale = 'en', role = 'member', is_active = false, email_verified_at = NULL,
			totp_secret = NULL, totp_since = NULL, totp_step = 0, version = version + 1, updated_at = clock_timestamp()
		WHERE id = $1 AND password_hash = $2 AND is_active RETURNING id)
	SELECT CASE WHEN EXISTS (SELECT FROM u) THEN log_account_change($1, $1, 'user.deleted', $1, '{}')::text
		ELSE refuse('wrong_password') END`
	// othersNeedSQL refuses to leave a project to members of whom none is an owner.
	othersNeedSQL = `
	SELECT refuse('last_owner', keys) FROM (
		SELECT string_agg(p.key, ', ' ORDER BY p.key) AS keys FROM members m JOIN projects p ON p.id = m.project_id AND p.deleted_at IS NULL
		WHERE m.user_id = $1 AND m.role = 'owner'
			AND EXISTS (SELECT FROM members o WHERE o.project_id = p.id AND o.user_id <> $1)
			AND NOT EXISTS (SELECT FROM members o WHERE o.project_id = p.id AND o.user_id <> $1 AND o.role = 'owner')) p
	WHERE keys IS NOT NULL`
	// sharedSQL are the projects that a user has together with others.
	sharedSQL = `SELECT m.project_id FROM members m
		WHERE m.user_id = $1 AND EXISTS (SELECT FROM members o WHERE o.project_id = m.project_id AND o.user_id <> $1)`
	trashOwnSQL = `
	WITH p AS (
		UPDATE projects SET deleted_at = clock_timestamp(), updated_at = clock_timestamp(), version = version + 1
		WHERE deleted_at IS NULL AND id IN (SELECT project_id FROM members WHERE user_id = $1) AND id NOT IN (` + sharedSQL + `) RETURNING id)
	SELECT log_change(id, $1, 'project.deleted', id, '{}') FROM p`
	unassignAllSQL = `
	WITH t AS (
		UPDATE tasks SET assignee_id = NULL, version = version + 1, updated_at = clock_timestamp()
		WHERE assignee_id = $1 AND project_id IN (` + sharedSQL + `) RETURNING id, project_id)
	SELECT log_change(project_id, $1, 'task.updated', id, jsonb_build_object('assigneeId', jsonb_build_array($1::uuid, NULL))) FROM t`
	leaveAllSQL = `
	WITH m AS (DELETE FROM members WHERE user_id = $1 AND project_id IN (` + sharedSQL + `) RETURNING project_id, role)
	SELECT log_change(project_id, $1, 'member.removed', $1, jsonb_build_object('role', jsonb_build_array(role, NULL))) FROM m`
)

// eraseSQL deletes what is only the user's own, with all that says where he was and what he was called.
const eraseSQL = `
	WITH w AS (DELETE FROM task_watchers WHERE user_id = $1), n AS (DELETE FROM notifications WHERE user_id = $1), p AS (DELETE FROM notification_settings WHERE user_id = $1),
	s AS (DELETE FROM sessions WHERE user_id = $1), a AS (DELETE FROM api_tokens WHERE user_id = $1),
	t AS (DELETE FROM account_tokens WHERE user_id = $1), c AS (DELETE FROM recovery_codes WHERE user_id = $1)
	UPDATE events SET changes = '{}' WHERE scope = $1 AND changes <> '{}'`

// handleDeleteMe deletes the caller's account. What he did stays in the history of the projects, done
// by a deleted user; projects that only he was in go into the trash. It is refused where others would
// be left without an owner or an admin.
func (s *server) handleDeleteMe(w http.ResponseWriter, r *http.Request) error {
	in, err := decode[passwordProof](w, r)
	if err != nil {
		return err
	}
	stored, err := s.confirmPassword(r, in.CurrentPassword)
	if err != nil {
		return err
	}
	me := stored.ID
	b := &pgx.Batch{}
	b.Queue(setTraceSQL, traceOf(r.Context()).mark())
	b.Queue(lockHomesSQL, me)
	b.Queue(lockAdminsSQL)
	b.Queue(anonymiseSQL, me, stored.PasswordHash)
	b.Queue(keepAdminSQL)
	b.Queue(othersNeedSQL, me)
	b.Queue(trashOwnSQL, me)
	b.Queue(unassignAllSQL, me)
	b.Queue(leaveAllSQL, me)
	b.Queue(eraseSQL, me)
	if err := s.db.send(r.Context(), b); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
