package main

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
)

// statsDocument selects a project's figures as the JSON that the API answers, with the seq of the
// log at which they hold. Days are UTC days, the last 30, oldest first; overdue is due before today
// and not done; lead time is the median from creation to completion and cycle time from leaving
// todo, in hours, null without a completed task.
const statsDocument = `
	SELECT p.id AS project_id, p.seq, jsonb_build_object(
		'tasks', t.tasks,
		'byStatus', jsonb_build_object('todo', t.todo, 'in_progress', t.in_progress, 'review', t.review, 'done', t.done),
		'byPriority', jsonb_build_object('low', t.low, 'medium', t.medium, 'high', t.high, 'urgent', t.urgent),
		'overdue', t.overdue,
		'completionRate', CASE WHEN t.tasks = 0 THEN 0 ELSE t.done::float8 / t.tasks END,
		'members', (SELECT count(*) FROM members m WHERE m.project_id = p.id),
		'days', (
			SELECT jsonb_agg(jsonb_build_object('day', d::date, 'created', coalesce(c.n, 0), 'completed', coalesce(f.n, 0)) ORDER BY d)
			FROM generate_series(date_trunc('day', now()) - interval '29 days', date_trunc('day', now()), interval '1 day') d
			LEFT JOIN (SELECT date_trunc('day', created_at) AS day, count(*) AS n FROM tasks
				WHERE project_id = p.id AND deleted_at IS NULL AND created_at >= date_trunc('day', now()) - interval '29 days' GROUP BY 1) c ON c.day = d
			LEFT JOIN (SELECT date_trunc('day', completed_at) AS day, count(*) AS n FROM tasks
				WHERE project_id = p.id AND deleted_at IS NULL AND completed_at >= date_trunc('day', now()) - interval '29 days' GROUP BY 1) f ON f.day = d),
		'leadTimeHours', t.lead, 'cycleTimeHours', t.cycle) AS stats
	FROM projects p CROSS JOIN LATERAL (
		SELECT count(*) AS tasks,
			count(*) FILTER (WHERE status = 'todo') AS todo, count(*) FILTER (WHERE status = 'in_progress') AS in_progress,
			count(*) FILTER (WHERE status = 'review') AS review, count(*) FILTER (WHERE status = 'done') AS done,
			count(*) FILTER (WHERE priority = 'low') AS low, count(*) FILTER (WHERE priority = 'medium') AS medium,
			count(*) FILTER (WHERE priority = 'high') AS high, count(*) FILTER (WHERE priority = 'urgent') AS urgent,
			count(*) FILTER (WHERE due_date < (now() AT TIME ZONE 'UTC')::date AND status <> 'done') AS overdue,
			extract(epoch FROM percentile_cont(0.5) WITHIN GROUP (ORDER BY completed_at - created_at))::float8 / 3600 AS lead,
			extract(epoch FROM percentile_cont(0.5) WITHIN GROUP (ORDER BY completed_at - started_at))::float8 / 3600 AS cycle
		FROM tasks WHERE project_id = p.id AND deleted_at IS NULL) t`

const (
	// keptStatsSQL finds figures that still hold: made at the present seq, and today.
	keptStatsSQL = `
	SELECT s.stats FROM project_stats s JOIN projects p ON p.id = s.project_id
	WHERE p.id = $1 AND s.seq = p.seq AND s.made_at >= date_trunc('day', now())`
	statsNowSQL = `SELECT s.stats FROM (` + statsDocument + ` WHERE p.id = $1) s`
)

// projectStats is a row with a project's figures.
type projectStats struct{ Stats json.RawMessage }

// handleProjectStats answers a project's figures, from those kept if they still hold.
func (s *server) handleProjectStats(w http.ResponseWriter, r *http.Request) error {
	if err := parseQuery(r).done(); err != nil {
		return err
	}
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	day := time.Now().UTC().Format(time.DateOnly) // figures are of a day
	return s.writeDocument(w, r, document{&id, "stats/" + day, func(ctx context.Context, a asker) (reader, content, error) {
		b := &pgx.Batch{}
		b.Queue(readerSQL, a.session, a.user, id)
		b.Queue(keptStatsSQL, id)
		var who reader
		var kept []projectStats
		err := s.db.sendEach(ctx, b, one(&who), all(&kept))
		if err == nil && len(kept) == 0 {
			kept, err = queryAll[projectStats](ctx, s.db, statsNowSQL, id)
		}
		if err != nil || len(kept) == 0 {
			return who, content{}, err
		}
		body, err := encode(kept[0].Stats)
		return who, content{body: body}, err
	}})
}

const (
	staleStatsSQL = `
	SELECT p.id FROM projects p LEFT JOIN project_stats s ON s.project_id = p.id
	WHERE p.deleted_at IS NULL AND (s.seq IS DISTINCT FROM p.seq OR s.made_at < date_trunc('day', now()))
	ORDER BY s.made_at NULLS FIRST LIMIT 500`
	keepStatsSQL = `
	INSERT INTO project_stats (project_id, seq, stats)
	SELECT project_id, seq, stats FROM (` + statsDocument + ` WHERE p.id = $1) s
	ON CONFLICT (project_id) DO UPDATE SET seq = excluded.seq, stats = excluded.stats, made_at = clock_timestamp()`
)

// staleStats is a project whose kept figures no longer hold.
type staleStats struct{ ID uuid }

// runStats keeps the figures of projects that changed, so that reading them costs nothing however
// many tasks there are. They are made from the tasks each time, so repeating it is safe.
func (s *server) runStats(ctx context.Context, _ job, _ *pgx.Batch) error {
	stale, err := queryAll[staleStats](ctx, s.db, staleStatsSQL)
	if err != nil {
		return err
	}
	for _, p := range stale {
		if _, err := execute(ctx, s.db, keepStatsSQL, p.ID); err != nil {
			return err
		}
	}
	return nil
}
