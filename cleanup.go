package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	purgeChunk = 500                 // rows deleted in one transaction
	keptEnded  = 30 * 24 * time.Hour // how long what has ended stays for an operator to see

	keptNotices = 180 * 24 * time.Hour // how long entries stay in inboxes, read or not
)

const (
	// purgeTasksSQL deletes for good a chunk of one project's tasks that were in the trash too long.
	purgeTasksSQL = `
	WITH home AS (
		SELECT p.id FROM projects p
		WHERE p.id = (SELECT project_id FROM tasks WHERE deleted_at < clock_timestamp() - $1::interval LIMIT 1)
		FOR NO KEY UPDATE),
	gone AS (
		DELETE FROM tasks WHERE id IN (
			SELECT t.id FROM tasks t JOIN home ON t.project_id = home.id
			WHERE t.deleted_at < clock_timestamp() - $1::interval LIMIT $2)
		RETURNING id, project_id)
	SELECT log_change(project_id, NULL, 'task.purged', id, '{}') FROM gone`
	// purgeProjectTasksSQL empties projects that were in the trash too long, whatever their tasks are.
	purgeProjectTasksSQL = `
	DELETE FROM tasks WHERE id IN (
		SELECT t.id FROM tasks t JOIN projects p ON p.id = t.project_id
		WHERE p.deleted_at < clock_timestamp() - $1::interval LIMIT $2)`
	purgeProjectEventsSQL = `
	DELETE FROM events WHERE (scope, seq) IN (
		SELECT e.scope, e.seq FROM events e JOIN projects p ON p.id = e.scope
		WHERE p.deleted_at < clock_timestamp() - $1::interval LIMIT $2)`
	purgeProjectsSQL = `
	DELETE FROM projects WHERE id IN (
		SELECT id FROM projects WHERE deleted_at < clock_timestamp() - $1::interval LIMIT $2)`
)

// runTrashPurge deletes for good what was in the trash for longer than TRASH_DAYS. What is gone is
// not found again, so repeating it is safe.
func (s *server) runTrashPurge(ctx context.Context, _ job, _ *pgx.Batch) error {
	for _, sql := range []string{purgeTasksSQL, purgeProjectTasksSQL, purgeProjectEventsSQL, purgeProjectsSQL} {
		if err := s.purge(ctx, sql, s.config.trashAge); err != nil {
			return fmt.Errorf("purge the trash: %w", err)
		}
	}
	return nil
}

const (
	purgeSessionsSQL = `
	DELETE FROM sessions WHERE id IN (
		SELECT id FROM sessions WHERE least(revoked_at, expires_at) < clock_timestamp() - $1::interval LIMIT $2)`
	purgeInvitationsSQL = `
	DELETE FROM invitations WHERE id IN (
		SELECT id FROM invitations WHERE expires_at < clock_timestamp() - $1::interval LIMIT $2)`
	purgeAccountTokensSQL = `
	DELETE FROM account_tokens WHERE id IN (
		SELECT id FROM account_tokens WHERE expires_at < clock_timestamp() - $1::interval LIMIT $2)`
	purgeAPITokensSQL = `
	DELETE FROM api_tokens WHERE id IN (
		SELECT id FROM api_tokens WHERE expires_at < clock_timestamp() - $1::interval LIMIT $2)`
	// purgeTicksSQL keeps the newest tick of each schedule, from which the next ones are judged.
	purgeTicksSQL = `
	DELETE FROM ticks WHERE (name, tick) IN (
		SELECT t.name, t.tick FROM ticks t WHERE t.tick < clock_timestamp() - $1::interval
			AND EXISTS (SELECT FROM ticks n WHERE n.name = t.name AND n.tick > t.tick) LIMIT $2)`
)

const (
	purgeDeliveriesSQL = `
	DELETE FROM deliveries WHERE id IN (
		SELECT id FROM deliveries WHERE created_at < clock_timestamp() - $1::interval ORDER BY id LIMIT $2)`
	// purgeLeftDeliveriesSQL deletes those of webhooks that are gone, and were for an hour or more.
	purgeLeftDeliveriesSQL = `
	DELETE FROM deliveries WHERE id IN (
		SELECT id FROM deliveries d WHERE NOT EXISTS (SELECT FROM webhooks w WHERE w.id = d.webhook_id) AND created_at < clock_timestamp() - $1::interval LIMIT $2)`
)

// runDeliveriesPurge deletes what webhooks were sent a month ago, and that of deleted webhooks. What is
// gone is not found again, so repeating it is safe.
func (s *server) runDeliveriesPurge(ctx context.Context, _ job, _ *pgx.Batch) error {
	err := s.purge(ctx, purgeDeliveriesSQL, keptEnded)
	if err == nil {
		err = s.purge(ctx, purgeLeftDeliveriesSQL, time.Hour)
	}
	if err != nil {
		return fmt.Errorf("purge deliveries: %w", err)
	}
	return nil
}

// purgeNoticesSQL goes by the time in the ids, by which the primary key has the oldest first.
const purgeNoticesSQL = `
	DELETE FROM notifications WHERE id IN (
		SELECT id FROM notifications
		WHERE id < rpad(lpad(to_hex((extract(epoch FROM clock_timestamp() - $1::interval) * 1000)::bigint), 12, '0'), 32, '0')::uuid ORDER BY id LIMIT $2)`

// runNoticesPurge deletes entries of inboxes that nobody will look for any more. What they were told of is
// so old by then that nothing tells it again, and what is gone is not found again, so repeating it is safe.
func (s *server) runNoticesPurge(ctx context.Context, _ job, _ *pgx.Batch) error {
	if err := s.purge(ctx, purgeNoticesSQL, keptNotices); err != nil {
		return fmt.Errorf("purge notifications: %w", err)
	}
	return nil
}

// runSessionsPurge deletes sessions with their tokens, tokens of other kinds, invitations and ticks
// that ended a month ago. What is gone is not found again, so repeating it is safe.
func (s *server) runSessionsPurge(ctx context.Context, _ job, _ *pgx.Batch) error {
	for _, sql := range []string{purgeSessionsSQL, purgeInvitationsSQL, purgeAccountTokensSQL, purgeAPITokensSQL, purgeTicksSQL} {
		if err := s.purge(ctx, sql, keptEnded); err != nil {
			return fmt.Errorf("purge sessions: %w", err)
		}
	}
	return nil
}

const purgeKeysSQL = `
	DELETE FROM idempotency_keys WHERE (user_id, key) IN (
		SELECT user_id, key FROM idempotency_keys WHERE created_at < clock_timestamp() - $1::interval LIMIT $2)`

// runKeysPurge deletes kept answers that are not given again any more. What is gone is not found
// again, so repeating it is safe.
func (s *server) runKeysPurge(ctx context.Context, _ job, _ *pgx.Batch) error {
	if err := s.purge(ctx, purgeKeysSQL, keyLife); err != nil {
		return fmt.Errorf("purge idempotency keys: %w", err)
	}
	return nil
}

// purge runs a deletion of age and chunk, each time a small transaction, until it finds nothing.
func (s *server) purge(ctx context.Context, sql string, age time.Duration) error {
	for {
		gone, err := execute(ctx, s.db, sql, age, purgeChunk)
		if err != nil || gone == 0 {
			return err
		}
	}
}
