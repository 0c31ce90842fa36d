package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// emptyDatabase is one without a schema.
func emptyDatabase(t *testing.T) secret {
	t.Helper()
	database := newTestDatabase(t)
	conn := connect(t, database)
	if _, err := conn.Exec(t.Context(), "DROP SCHEMA public CASCADE; CREATE SCHEMA public"); err != nil {
		t.Fatal(err)
	}
	return database
}

func connect(t *testing.T, database secret) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), string(database))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// catalogSQL describes everything in the schema public, but for the table of migrations, in lines that can be compared.
const catalogSQL = `
	WITH mine AS (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname !~ '^migrations'),
	lines AS (
		SELECT format('relation %s %s', relname, relkind) AS line FROM pg_class JOIN mine USING (oid)
		UNION ALL SELECT format('column %s.%s %s %s null:%s generated:%s collation:%s default:%s', attrelid::regclass, attname, attnum, format_type(atttypid, atttypmod), NOT attnotnull, attgenerated,
			attcollation::regcollation, pg_get_expr(adbin, adrelid))
			FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum WHERE attrelid IN (SELECT oid FROM mine) AND attnum > 0 AND NOT attisdropped
		UNION ALL SELECT format('constraint %s on %s %s', conname, conrelid::regclass, pg_get_constraintdef(oid)) FROM pg_constraint WHERE conrelid IN (SELECT oid FROM mine)
		UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid IN (SELECT oid FROM mine)
		UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM mine) AND NOT tgisinternal
		UNION ALL SELECT format('type %s %s', t.oid::regtype, string_agg(enumlabel, ',' ORDER BY enumsortorder)) FROM pg_type t JOIN pg_enum ON enumtypid = t.oid WHERE typnamespace = 'public'::regnamespace GROUP BY t.oid
		UNION ALL SELECT pg_get_functiondef(p.oid) FROM pg_proc p WHERE pronamespace = 'public'::regnamespace AND prokind <> 'a'
			AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = p.oid AND deptype = 'e')
		UNION ALL SELECT format('view %s %s', viewname, definition) FROM pg_views WHERE schemaname = 'public'
		UNION ALL SELECT format('extension %s', extname) FROM pg_extension)
	SELECT line FROM lines ORDER BY 1`

func catalog(t *testing.T, database secret) []string {
	t.Helper()
	rows, err := connect(t, database).Query(t.Context(), catalogSQL)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestSchemaIsWhatTheMigrationsMake(t *testing.T) {
	t.Parallel()
	schema, err := os.ReadFile("schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	byHand, migrated := emptyDatabase(t), emptyDatabase(t)
	if _, err := connect(t, byHand).Exec(t.Context(), string(schema)); err != nil {
		t.Fatal(err)
	}
	if err := migrate(t.Context(), migrated, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	got, want := catalog(t, migrated), catalog(t, byHand)
	if len(got) < 200 {
		t.Errorf("only %d lines: the comparison does not see the schema", len(got))
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("only the migrations make %s", line)
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("only schema.sql has %s", line)
		}
	}
}

// applied is the migrations that a database has, by number.
func applied(t *testing.T, database secret) []int {
	t.Helper()
	rows, err := connect(t, database).Query(t.Context(), `SELECT version FROM migrations ORDER BY version`)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestMigrationsRun(t *testing.T) {
	t.Parallel()
	list, err := migrations()
	if err != nil {
		t.Fatal(err)
	}
	var all []int
	for _, m := range list {
		all = append(all, m.version)
	}

	t.Run("once, however many processes start at once", func(t *testing.T) {
		database := emptyDatabase(t)
		var log lockedBuffer
		errs := make(chan error)
		for range 4 {
			go func() { errs <- migrate(t.Context(), database, slog.New(slog.NewJSONHandler(&log, nil))) }()
		}
		for range 4 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if got := strings.Count(log.String(), "migration applied"); got != len(list) || !slices.Equal(applied(t, database), all) {
			t.Errorf("applied %d migrations, the database has %v, want %v", got, applied(t, database), all)
		}
	})
	t.Run("to the end after they were killed in between", func(t *testing.T) {
		database := emptyDatabase(t)
		conn := connect(t, database)
		if _, err := migrateOnce(t.Context(), conn, list); err != nil {
			t.Fatal(err)
		}
		tx, err := conn.Begin(t.Context()) // the next one without its end, on a connection that dies
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), migrationLockSQL, migrationLock); err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), list[1].sql); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- migrate(t.Context(), database, slog.New(slog.DiscardHandler)) }()
		time.Sleep(100 * time.Millisecond) // it waits for the lock
		conn.PgConn().Conn().Close()
		if err := <-done; err != nil || !slices.Equal(applied(t, database), all) {
			t.Errorf("got %v, the database has %v, want %v", err, applied(t, database), all)
		}
	})
	t.Run("not at all when one fails, and say which", func(t *testing.T) {
		database := emptyDatabase(t)
		conn := connect(t, database)
		broken := append(slices.Clone(list), migration{len(list) + 1, "9999_broken.sql", "CREATE TABLE half (id int); SELECT 1/0;"})
		for range list {
			if _, err := migrateOnce(t.Context(), conn, broken); err != nil {
				t.Fatal(err)
			}
		}
		_, err := migrateOnce(t.Context(), conn, broken)
		wantWords(t, err, "migration 9999_broken.sql", "division by zero")
		if got := catalog(t, database); slices.ContainsFunc(got, func(line string) bool { return strings.Contains(line, "half") }) || !slices.Equal(applied(t, database), all) {
			t.Error("half a migration is left")
		}
	})
	t.Run("on no database that is newer", func(t *testing.T) {
		database := newTestDatabase(t)
		if _, err := connect(t, database).Exec(t.Context(), insertMigrationSQL, len(list)+1, "from_the_future.sql"); err != nil {
			t.Fatal(err)
		}
		wantWords(t, migrate(t.Context(), database, slog.New(slog.DiscardHandler)), fmt.Sprintf("the database is at migration %d", len(list)+1), "use the newer program")
	})
	t.Run("again without doing anything", func(t *testing.T) {
		database := newTestDatabase(t)
		before := catalog(t, database)
		if err := migrate(t.Context(), database, slog.New(slog.DiscardHandler)); err != nil || !slices.Equal(catalog(t, database), before) {
			t.Errorf("got %v, or another schema", err)
		}
	})
}
