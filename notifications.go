package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/jackc/pgx/v5"
)

// maxUnread is how many unread entries are counted for a badge.
const maxUnread = 1000

// notification is one entry of a user's inbox.
type notification struct {
	ID        uuid            `json:"id"`
	Kind      string          `json:"kind"` // one of noticeKinds
	TaskID    *uuid           `json:"taskId"`
	ProjectID *uuid           `json:"projectId"`
	Detail    json.RawMessage `json:"detail"` // actorId, and by the kind: commentId, dueDate, status and role as [old, new], projectName
	CreatedAt timestamp       `json:"createdAt"`
	ReadAt    *timestamp      `json:"readAt"`
}

const (
	// inboxSQL shows only what the user may read now: what tells of a project he left, or of one in
	// the trash, is hidden.
	inboxSQL = `
	SELECT n.id, n.kind, n.task_id, n.project_id, n.detail, n.created_at, n.read_at FROM notifications n
	WHERE n.user_id = $1 AND n.inbox AND (NOT $2 OR n.read_at IS NULL) AND n.id < $3 AND ` + inboxCondition + `
	ORDER BY n.id DESC LIMIT $4`
	inboxCondition = `(n.project_id IS NULL OR role_in(n.project_id, n.user_id) IS NOT NULL
		AND EXISTS (SELECT FROM projects p WHERE p.id = n.project_id AND p.deleted_at IS NULL))`
	countInboxSQL = `SELECT count(*) FROM notifications n WHERE n.user_id = $1 AND n.inbox AND (NOT $2 OR n.read_at IS NULL) AND ` + inboxCondition
	// countUnreadSQL counts by project first, so that the right to read each is looked up once.
	countUnreadSQL = `
	SELECT coalesce(sum(n.entries), 0)::bigint FROM (
		SELECT user_id, project_id, count(*) AS entries FROM (
			SELECT user_id, project_id FROM notifications WHERE user_id = $1 AND read_at IS NULL AND inbox ORDER BY id DESC LIMIT $2) newest
		GROUP BY user_id, project_id) n
	WHERE ` + inboxCondition
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

// unreadCount is what a badge shows.
type unreadCount struct {
	Unread int64 `json:"unread"` // at most maxUnread
}

// handleUnreadCount answers how many entries of the caller's inbox are unread.
func (s *server) handleUnreadCount(w http.ResponseWriter, r *http.Request) error {
	if err := parseQuery(r).done(); err != nil {
		return err
	}
	n, err := queryValue[int64](r.Context(), s.db, countUnreadSQL, callerOf(r.Context()).ID, maxUnread)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, unreadCount{n})
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

// markReadSQL passes over what is only mailed: it is not in the inbox, so nobody has read it there.
const markReadSQL = `
	UPDATE notifications SET read_at = clock_timestamp()
	WHERE user_id = $1 AND read_at IS NULL AND inbox AND ($2 OR id = ANY ($3::uuid[]))`

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

// A fact only says that something may have changed; what did is in the change log, and there it has a
// number that is told once. So the same change may be asked to be told any number of times, and of
// several in a row the last is told. $2 is a moment before the fact: what changed long ago is not news.
const (
	// tellAssigneeSQL tells of an assignment, unless it does not hold any more.
	tellAssigneeSQL = `
	SELECT tell(t.assignee_id, e.actor, 'task.assigned', t.id, t.project_id, jsonb_build_object('actorId', e.actor), 'task.assigned:' || e.scope || ':' || e.seq, $3)
	` + fromLivingTask + ` CROSS JOIN LATERAL (
		SELECT scope, seq, actor FROM events WHERE subject = t.id AND at > $2 AND changes ? 'assigneeId' ORDER BY at DESC, seq DESC LIMIT 1) e
	WHERE t.id = $1`
	// tellStatusSQL tells the followers of a task of its new status.
	tellStatusSQL = `
	SELECT tell(f.user_id, e.actor, 'task.status_changed', t.id, t.project_id,
		jsonb_build_object('actorId', e.actor, 'status', e.changes -> 'status'), 'task.status_changed:' || e.scope || ':' || e.seq, $3)
	` + fromLivingTask + ` CROSS JOIN LATERAL (
		SELECT scope, seq, actor, changes FROM events
		WHERE subject = t.id AND at > $2 AND changes #>> '{status,0}' IS NOT NULL ORDER BY at DESC, seq DESC LIMIT 1) e
	CROSS JOIN LATERAL (` + followersOfTask + `) f
	WHERE t.id = $1`
	// tellCommentSQL tells the followers of a task of a comment, and tellMentionSQL one who is mentioned in
	// it, instead: both have the same key.
	tellCommentSQL = `
	SELECT tell(f.user_id, $2, 'comment.created', t.id, t.project_id, jsonb_build_object('actorId', $2::uuid, 'commentId', $3::uuid), 'comment:' || $3::uuid, $4)
	` + fromLivingTask + ` CROSS JOIN LATERAL (` + followersOfTask + `) f
	WHERE t.id = $1`
	tellMentionSQL = `
	SELECT tell($5, $2, 'comment.mentioned', t.id, t.project_id, jsonb_build_object('actorId', $2::uuid, 'commentId', $3::uuid), 'comment:' || $3::uuid, $4)
	` + fromLivingTask + ` WHERE t.id = $1`
	fromLivingTask  = `FROM tasks t JOIN projects p ON p.id = t.project_id AND p.deleted_at IS NULL AND t.deleted_at IS NULL`
	followersOfTask = `SELECT t.assignee_id AS user_id UNION SELECT t.created_by UNION SELECT user_id FROM task_watchers WHERE task_id = t.id`
	// tellMemberSQL tells the user $1 that he is in a project now, or as what.
	tellMemberSQL = `
	SELECT tell($1, e.actor, $5, NULL, p.id, jsonb_build_object('actorId', e.actor, 'role', e.changes -> 'role'), $5 || ':' || e.scope || ':' || e.seq, $3)
	` + fromMemberEvent + ` WHERE p.id = $4 AND p.deleted_at IS NULL`
	// tellRemovedSQL tells him that he is not in it any more. That is all, with the name that it had then:
	// what is in it, and how it is called now, is nothing to him.
	tellRemovedSQL = `
	SELECT tell($1, e.actor, $5, NULL, NULL, jsonb_build_object('projectName', coalesce((
			SELECT r.changes #>> '{name,0}' FROM events r WHERE r.scope = p.id AND r.seq > e.seq AND r.changes ? 'name' AND r.subject = p.id ORDER BY r.seq LIMIT 1), p.name)),
		$5 || ':' || e.scope || ':' || e.seq, $3)
	` + fromMemberEvent + ` WHERE p.id = $4 AND NOT EXISTS (SELECT FROM members m WHERE m.project_id = p.id AND m.user_id = $1)`
	fromMemberEvent = `FROM projects p CROSS JOIN LATERAL (
		SELECT scope, seq, actor, changes FROM events WHERE subject = $1 AND scope = p.id AND kind = $5 AND at > $2 ORDER BY at DESC, seq DESC LIMIT 1) e`
)

// runFanout tells users of a fact. The entries commit with the job's end, so they are made once.
func (s *server) runFanout(_ context.Context, j job, effect *pgx.Batch) error {
	var f fact
	if err := json.Unmarshal(j.Payload, &f); err != nil {
		return permanent(fmt.Errorf("read payload: %w", err))
	}
	id, err := parseUUID(j.ID)
	if err != nil {
		return permanent(fmt.Errorf("read job id: %w", err))
	}
	since, mails := id.time().Add(-maxSkew), s.mailsByDefault(f.Kind)
	switch f.Kind {
	case "task.assigned":
		effect.Queue(tellAssigneeSQL, f.Task, since, mails)
	case "task.status_changed":
		effect.Queue(tellStatusSQL, f.Task, since, mails)
	case "comment.created":
		effect.Queue(tellCommentSQL, f.Task, f.Actor, f.Subject, mails)
	case "comment.mentioned":
		effect.Queue(tellMentionSQL, f.Task, f.Actor, f.Subject, mails, f.User)
	case "member.added", "member.updated":
		effect.Queue(tellMemberSQL, f.User, since, mails, f.Project, f.Kind)
	case "member.removed":
		effect.Queue(tellRemovedSQL, f.User, since, mails, f.Project, f.Kind)
	default:
		return permanent(fmt.Errorf("read payload: nobody is told of %q", f.Kind))
	}
	return nil
}

// mailsByDefault tells whether a kind is mailed if its user has not set it; nil where nothing is mailed.
func (s *server) mailsByDefault(kind string) *bool {
	for _, k := range noticeKinds {
		if k.name == kind && s.mail.on() {
			return &k.email
		}
	}
	return nil
}

// remindersSQL makes the day's reminders of everybody for whom it is eight in the morning or later:
// of what is due today, and of what was due yesterday and is not done.
const remindersSQL = `
	SELECT tell(u.id, NULL, 'task.' || r.what, t.id, t.project_id, jsonb_build_object('dueDate', t.due_date), r.key, CASE r.what WHEN 'due' THEN $2::boolean ELSE $3 END)
	FROM users u
	CROSS JOIN LATERAL (SELECT ($1::timestamptz AT TIME ZONE u.timezone)::date AS today) d
	JOIN tasks t ON t.assignee_id = u.id AND t.due_date IN (d.today, d.today - 1) AND t.status <> 'done' AND t.deleted_at IS NULL
	JOIN projects p ON p.id = t.project_id AND p.deleted_at IS NULL AND p.status = 'active'
	CROSS JOIN LATERAL (SELECT w.what, w.what || ':' || t.id || ':' || t.due_date AS key
		FROM (SELECT CASE WHEN t.due_date = d.today THEN 'due' ELSE 'overdue' END AS what) w) r
	WHERE u.is_active AND extract(hour FROM $1::timestamptz AT TIME ZONE u.timezone) >= 8
		AND NOT EXISTS (SELECT FROM notifications n WHERE n.user_id = u.id AND n.unique_key = r.key)`

// runReminders puts due tasks into their assignees' inboxes. A reminder is unique by task and due
// date, so repeating it makes none twice.
func (s *server) runReminders(_ context.Context, j job, effect *pgx.Batch) error {
	effect.Queue(remindersSQL, j.PushedAt, s.mailsByDefault("task.due"), s.mailsByDefault("task.overdue"))
	return nil
}
