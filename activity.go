package main

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// An event is one entry of the change log: who changed which fields of what, from what to what.
// A project's events are numbered without gaps in the order in which the changes were committed.
type event struct {
	Scope   uuid            `json:"scope"` // the project; or the user, for changes to an account
	Seq     int64           `json:"seq"`
	At      timestamp       `json:"at"`
	ActorID *uuid           `json:"actorId"` // null: the system
	Kind    string          `json:"kind"`
	Subject uuid            `json:"subjectId"`
	Changes json.RawMessage `json:"changes"` // {field: [old, new]}
}

const eventColumns = `scope, seq, at, actor AS actor_id, kind, subject, changes`

// scopeEventsSQL lists a project's log, newest first, before a seq.
const scopeEventsSQL = `
	SELECT ` + eventColumns + ` FROM events
	WHERE scope = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3`

// adminsEvents holds for events whose changes only a project's admins see: who is invited is for them
// to know, as the list of invitations is.
const adminsEvents = `kind LIKE 'invitation.%'`

// projectEventsSQL is scopeEventsSQL for the user $4, who reads the project.
const projectEventsSQL = `
	SELECT scope, seq, at, actor AS actor_id, kind, subject,
		CASE WHEN ` + adminsEvents + ` AND NOT coalesce(role_in($1, $4) >= 'admin', false) THEN '{}' ELSE changes END AS changes
	FROM events WHERE scope = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3`

// handleProjectActivity lists everything that happened in a project, newest first.
func (s *server) handleProjectActivity(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r)
	p := s.page(r, q)
	if err := q.done(); err != nil {
		return err
	}
	id, err := s.readableProject(r)
	if err != nil {
		return err
	}
	before := int64(1<<63 - 1)
	if p.after != nil {
		if before, err = strconv.ParseInt(p.after.Key, 10, 64); err != nil {
			return err
		}
	}
	events, err := queryAll[event](r.Context(), s.db, projectEventsSQL, id, before, p.limit+1, callerOf(r.Context()).ID)
	if err != nil {
		return err
	}
	total, err := s.countIf(r.Context(), p.total, `SELECT seq FROM projects WHERE id = $1`, id)
	if err != nil {
		return err
	}
	return writeList(s, w, r, p, events, total, func(e event) cursor {
		return cursor{Key: strconv.FormatInt(e.Seq, 10)}
	})
}

// subjectEventsSQL lists the history of one task, newest first. A task that moved between projects
// has events in both logs, which only the time orders.
const subjectEventsSQL = `
	SELECT ` + eventColumns + ` FROM events
	WHERE subject = $1 AND (at, seq) < ($2, $3) ORDER BY at DESC, seq DESC LIMIT $4`

const countSubjectEventsSQL = `SELECT count(*) FROM events WHERE subject = $1`

// handleTaskActivity lists a task's history, newest first.
func (s *server) handleTaskActivity(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r)
	p := s.page(r, q)
	if err := q.done(); err != nil {
		return err
	}
	id, err := s.readableTask(r)
	if err != nil {
		return err
	}
	at, seq := time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), int64(0)
	if p.after != nil {
		if at, err = time.Parse(time.RFC3339Nano, p.after.Key); err != nil {
			return err
		}
		if seq, err = strconv.ParseInt(p.after.ID, 10, 64); err != nil {
			return err
		}
	}
	events, err := queryAll[event](r.Context(), s.db, subjectEventsSQL, id, at, seq, p.limit+1)
	if err != nil {
		return err
	}
	total, err := s.countIf(r.Context(), p.total, countSubjectEventsSQL, id)
	if err != nil {
		return err
	}
	return writeList(s, w, r, p, events, total, func(e event) cursor {
		return cursor{Key: e.At.Format(time.RFC3339Nano), ID: strconv.FormatInt(e.Seq, 10)}
	})
}
