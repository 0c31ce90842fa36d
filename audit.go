package main

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/jackc/pgx/v5"
)

// auditEntry is one thing an operator did.
type auditEntry struct {
	ID        uuid            `json:"id"`
	At        timestamp       `json:"at"`
	ActorID   uuid            `json:"actorId"`
	ActorName string          `json:"actorName"` // as it is now
	Action    string          `json:"action"`    // queue.paused, queue.resumed, job.retried, job.deleted
	Target    string          `json:"target"`    // name of a queue or id of a job
	Detail    json.RawMessage `json:"detail"`    // kind, or filter, and count
}

// auditNote is what the audit list should say of a change.
type auditNote struct {
	action string
	target string
	detail map[string]any
}

const insertAuditSQL = `INSERT INTO audit (id, actor, action, target, detail) VALUES ($1, $2, $3, $4, $5)`

// audit adds to a batch the note that the caller did something to a queue or a job.
func (s *server) audit(ctx context.Context, b *pgx.Batch, note auditNote) {
	if note.detail == nil {
		note.detail = map[string]any{}
	}
	b.Queue(insertAuditSQL, newUUID(), callerOf(ctx).ID, note.action, note.target, note.detail)
}

const (
	auditListSQL = `
	SELECT a.id, a.at, a.actor AS actor_id, u.first_name || ' ' || u.last_name AS actor_name, a.action, a.target, a.detail
	FROM audit a JOIN users u ON u.id = a.actor WHERE a.id < $1 ORDER BY a.id DESC LIMIT $2`
	countAuditSQL = `SELECT count(*) FROM audit`
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
