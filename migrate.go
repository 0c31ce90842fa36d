package main

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"
	"strconv"

	"github.com/jackc/pgx/v5"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrationLock is the advisory lock under which migrations run: two processes that start at once
// run them once. The number is arbitrary but must never change.
const migrationLock = 7_227_301_655

// A migration is one numbered file, applied once, whole or not at all.
type migration struct {
	version int // from the name: 0007_labels.sql is 7
	name    string
	sql     string
}

// migrations lists the embedded files in order; their numbers must be 1, 2, 3 …
func migrations() ([]migration, error) {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	var list []migration
	for i, path := range names { // Glob sorts
		sql, err := migrationFiles.ReadFile(path)
		if err != nil {
			return nil, err
		}
		name := path[len("migrations/"):]
		version, err := strconv.Atoi(name[:4])
		if err != nil || version != i+1 || name[4] != '_' {
			return nil, fmt.Errorf("migration %s should be number %04d", name, i+1)
		}
		list = append(list, migration{version, name, string(sql)})
	}
	return list, nil
}

const (
	createMigrationsSQL = `CREATE TABLE IF NOT EXISTS migrations (
		version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz(3) NOT NULL DEFAULT clock_timestamp())`
	migrationLockSQL   = `SELECT pg_advisory_xact_lock($1)`
	migrationStateSQL  = `SELECT coalesce(max(version), 0) FROM migrations`
	insertMigrationSQL = `INSERT INTO migrations (version, name) VALUES ($1, $2)`
)

// migrate brings the database to this binary's schema. Each migration is a transaction of its own
// under the advisory lock, so a process killed in between leaves a state from which the next
// continues. A database newer than the binary is refused: an old binary must not run on it.
// It runs on a connection of its own, without the pool's statement timeout.
func migrate(ctx context.Context, url secret, log *slog.Logger) error {
	list, err := migrations()
	if err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, string(url))
	if err != nil {
		return fmt.Errorf("connect for migrations: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for {
		applied, err := migrateOnce(ctx, conn, list)
		if err != nil {
			return err
		}
		if applied == nil {
			return nil
		}
		log.Info("migration applied", "name", applied.name)
	}
}

// migrateOnce applies the next missing migration and returns it, or nil when there is none.
func migrateOnce(ctx context.Context, conn *pgx.Conn, list []migration) (applied *migration, err error) {
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, migrationLockSQL, migrationLock); err != nil {
			return fmt.Errorf("lock for migrations: %w", err)
		}
		if _, err := tx.Exec(ctx, createMigrationsSQL); err != nil {
			return fmt.Errorf("create the table of migrations: %w", err)
		}
		var state int
		if err := tx.QueryRow(ctx, migrationStateSQL).Scan(&state); err != nil {
			return fmt.Errorf("read the state of migrations: %w", err)
		}
		if state > len(list) {
			return fmt.Errorf("the database is at migration %d, newer than this program (%d); use the newer program", state, len(list))
		}
		if state == len(list) {
			return nil
		}
		next := list[state]
		if _, err := tx.Exec(ctx, next.sql); err != nil {
			return fmt.Errorf("migration %s: %w", next.name, err)
		}
		if _, err := tx.Exec(ctx, insertMigrationSQL, next.version, next.name); err != nil {
			return fmt.Errorf("note migration %s: %w", next.name, err)
		}
		applied = &next
		return nil
	})
	return applied, err
}
