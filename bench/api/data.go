package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	projectCount = 100
	userCount    = 10 // besides the admin, whom the first account is: he would see all without looking
	idCount      = 10_000
	history      = 400 * 24 * time.Hour // over which the tasks were made
)

// dataset is a database full of tasks.
type dataset struct {
	size int // tasks, give or take 1 %
	each int // in each of the projects
	deep int // in one project more
}

var datasets = []dataset{{10_000, 100, 0}, {100_000, 1000, 0}, {1_000_000, 100, 1_000_000}}

func (d dataset) database() string { return fmt.Sprintf("tasks_%d", d.size) }

// world is what all datasets share. The first of the users makes all requests; all are members of all
// projects.
type world struct {
	token    string
	users    []string
	projects []string         // the last is the deep one
	ids      map[int][]string // of tasks, by size: all, or about idCount by chance
}

func (w *world) spread() []string { return w.projects[:projectCount] }
func (w *world) deepest() string  { return w.projects[projectCount] }

const baseDatabase = "base" // accounts and projects, no tasks

// makeWorld signs people up and has them make projects, through the front door.
func (b *bench) makeWorld(ctx context.Context) error {
	if _, err := b.db.Exec(ctx, `CREATE DATABASE `+baseDatabase); err != nil {
		return err
	}
	s, err := b.serve(ctx, baseDatabase)
	if err != nil {
		return err
	}
	defer s.stop()
	w := &world{ids: map[int][]string{}}
	for i := range 1 + userCount {
		answer, err := callFor[struct {
			User        struct{ ID string }
			AccessToken string
		}](ctx, s, "", "POST", "/api/v1/auth/register", fmt.Sprintf(
			`{"email":"user%d@example.org","password":"correct horse %d","firstName":"User","lastName":"Number %d"}`, i, i, i))
		if err != nil {
			return err
		}
		if i == 1 {
			w.token = answer.AccessToken
		}
		if i > 0 {
			w.users = append(w.users, answer.User.ID)
		}
	}
	for i := range projectCount + 1 {
		p, err := callFor[struct{ ID string }](ctx, s, w.token, "POST", "/api/v1/projects",
			fmt.Sprintf(`{"name":"Project number %d","key":"P%d"}`, i, i))
		if err != nil {
			return err
		}
		w.projects = append(w.projects, p.ID)
	}
	b.world = w
	return b.onDatabase(ctx, baseDatabase, func(db *pgx.Conn) error {
		_, err := db.Exec(ctx, `
			WITH m AS (
				INSERT INTO members (project_id, user_id, role)
				SELECT p::uuid, u::uuid, 'member' FROM unnest($1::text[]) p, unnest($2::text[]) u RETURNING *)
			SELECT log_change(m.project_id, p.created_by, 'member.added', m.user_id, '{}') FROM m JOIN projects p ON p.id = m.project_id`,
			w.projects, w.users[1:])
		return err
	})
}

// dsn is the address of a database.
func (b *bench) dsn(database string) string {
	return strings.Replace(b.servers.Database, "dbname=taskflow", "dbname="+database, 1)
}

func (b *bench) onDatabase(ctx context.Context, database string, fn func(*pgx.Conn) error) error {
	db, err := pgx.Connect(ctx, b.dsn(database))
	if err != nil {
		return err
	}
	defer db.Close(context.WithoutCancel(ctx))
	return fn(db)
}

// clone copies a database that nobody is connected to.
func (b *bench) clone(ctx context.Context, from, to string) error {
	for _, sql := range []string{`DROP DATABASE IF EXISTS ` + to + ` WITH (FORCE)`, `CREATE DATABASE ` + to + ` TEMPLATE ` + from} {
		if _, err := b.db.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// onClone runs fn on a copy of a dataset.
func (b *bench) onClone(ctx context.Context, d dataset, fn func(database string) error) error {
	const scratch = "scratch"
	if err := b.clone(ctx, d.database(), scratch); err != nil {
		return err
	}
	err := fn(scratch)
	_, dropped := b.db.Exec(context.WithoutCancel(ctx), `DROP DATABASE `+scratch+` WITH (FORCE)`)
	return errors.Join(err, dropped)
}

// fill makes a dataset. Its texts are the same in every run.
func (b *bench) fill(ctx context.Context, d dataset) error {
	if err := b.clone(ctx, baseDatabase, d.database()); err != nil {
		return err
	}
	return b.onDatabase(ctx, d.database(), func(db *pgx.Conn) error {
		for _, sql := range []string{
			`SET session_replication_role = replica`, // no foreign keys are checked: the rows are made to fit
			`SET synchronous_commit = off`, `SET maintenance_work_mem = '512MB'`,
		} {
			if _, err := db.Exec(ctx, sql); err != nil {
				return err
			}
		}
		indexes, err := dropIndexes(ctx, db)
		if err != nil {
			return err
		}
		if err := b.copyTasks(ctx, db, d); err != nil {
			return err
		}
		for _, sql := range append(indexes,
			// The projects' own events, and then one for each task.
			`INSERT INTO events (scope, seq, at, actor, kind, subject, changes)
				SELECT t.project_id, p.seq + t.number, t.created_at, t.created_by, 'task.created', t.id,
					jsonb_build_object('title', jsonb_build_array(NULL, t.title))
				FROM tasks t JOIN projects p ON p.id = t.project_id`,
			`UPDATE projects p SET seq = p.seq + n, last_number = n
				FROM (SELECT project_id, max(number) AS n FROM tasks GROUP BY 1) t WHERE p.id = t.project_id`,
			`VACUUM ANALYZE`, `CHECKPOINT`) {
			if _, err := db.Exec(ctx, sql); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
		return nil
	})
}

// dropIndexes drops those of tasks that are no constraint, and returns how to make them again: a
// million rows are in sooner.
func dropIndexes(ctx context.Context, db *pgx.Conn) ([]string, error) {
	rows, err := db.Query(ctx, `
		SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index i
		WHERE indrelid = 'tasks'::regclass AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid)`)
	if err != nil {
		return nil, err
	}
	var definitions []string
	var name, definition string
	drop := ""
	if _, err := pgx.ForEachRow(rows, []any{&name, &definition}, func() error {
		definitions = append(definitions, definition)
		drop += "DROP INDEX " + name + ";"
		return nil
	}); err != nil {
		return nil, err
	}
	_, err = db.Exec(ctx, drop)
	return definitions, err
}

func (b *bench) copyTasks(ctx context.Context, db *pgx.Conn, d dataset) error {
	in, out := io.Pipe()
	go func() {
		lines := bufio.NewWriterSize(out, 1<<16)
		g := newGenerator(b.world, d)
		for g.next() {
			g.write(lines)
		}
		b.world.ids[d.size] = g.ids
		out.CloseWithError(lines.Flush())
	}()
	_, err := db.PgConn().CopyFrom(ctx, in, `COPY tasks (id, project_id, number, position, title, description, status, priority, assignee_id,
		due_date, estimated_hours, labels, created_by, started_at, completed_at, created_at, updated_at) FROM STDIN`)
	in.CloseWithError(io.ErrClosedPipe)
	if err != nil {
		return fmt.Errorf("load %d tasks: %w", d.size, err)
	}
	return nil
}

// generator makes the tasks of a dataset in the order of their creation: first those of all projects
// in turn, then those of the deep one.
type generator struct {
	*world
	dataset
	*rand.Rand
	words *words
	n     int // tasks so far
	total int
	first time.Time
	ids   []string
}

func newGenerator(w *world, d dataset) *generator {
	chance := rand.New(rand.NewPCG(1, uint64(d.size)))
	return &generator{
		world: w, dataset: d, Rand: chance, words: newWords(chance), total: projectCount*d.each + d.deep,
		first: time.Now().UTC().Add(-history).Truncate(time.Hour),
	}
}

func (g *generator) next() bool {
	g.n++
	return g.n <= g.total
}

// write writes one line as COPY reads it.
func (g *generator) write(out *bufio.Writer) {
	i := g.n - 1
	project, number := i%projectCount, i/projectCount+1
	at := g.first.Add(history / time.Duration(projectCount*g.each+1) * time.Duration(i))
	if i >= projectCount*g.each {
		project, number = projectCount, i-projectCount*g.each+1
		at = g.first.Add(history / time.Duration(g.deep+1) * time.Duration(number))
	}
	id := uuidV7(at, g.Uint64())
	if g.IntN(g.total) < idCount {
		g.ids = append(g.ids, id)
	}
	const format = "2006-01-02T15:04:05.000Z"
	changed := at.Add(min(time.Since(at), time.Duration(g.IntN(1000))*time.Hour))
	status, started, completed := "done", changed.Format(format), changed.Format(format)
	switch roll := g.IntN(100); {
	case roll < 30:
		status, started, completed = "todo", `\N`, `\N`
	case roll < 42:
		status, completed = "in_progress", `\N`
	case roll < 50:
		status, completed = "review", `\N`
	}
	assignee, due, hours := `\N`, `\N`, `\N`
	if g.IntN(10) < 7 {
		assignee = g.users[g.IntN(userCount)]
	}
	if g.IntN(10) < 6 {
		due = at.AddDate(0, 0, 1+g.IntN(90)).Format(time.DateOnly)
	}
	if g.IntN(10) < 4 {
		hours = fmt.Sprintf("%d.%d", g.IntN(40), 25*g.IntN(4))
	}
	fmt.Fprintf(out, "%s\t%s\t%d\t%010d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t{%s}\t%s\t%s\t%s\t%s\t%s\n",
		id, g.projects[project], number, 5_000_000_000+number-1, g.words.title(g.Rand), g.words.description(g.Rand), status,
		priorities[g.IntN(len(priorities))], assignee, due, hours, strings.Join(g.words.labels(g.Rand), ","), g.users[g.IntN(userCount)],
		started, completed, at.Format(format), changed.Format(format))
}

var priorities = []string{"low", "medium", "medium", "medium", "high", "high", "urgent"}

// uuidV7 is an id as the service makes them (RFC 9562): the time in ms, then chance.
func uuidV7(at time.Time, chance uint64) string {
	var u [16]byte
	binary.BigEndian.PutUint64(u[:], uint64(at.UnixMilli())<<16|chance>>52)
	binary.BigEndian.PutUint64(u[8:], chance)
	u[6], u[8] = u[6]&0x0f|0x70, u[8]&0x3f|0x80
	text := hex.EncodeToString(u[:])
	return text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:]
}

// words are what tasks are made of: a few that occur everywhere, and a long tail of names.
type words struct {
	names []string
	zipf  *rand.Zipf // of names and things, the first the most frequent
}

var (
	verbs  = strings.Fields("Fix Add Remove Check Update Review Prepare Write Test Move Clean Plan Order Call Translate Measure Replace Document Migrate Publish")
	manner = strings.Fields("broken slow missing new old monthly weekly internal public duplicate temporary urgent hidden automatic manual")
	things = strings.Fields(`invoice export login report customer order page form button table import backup server email template budget contract
		newsletter search filter calendar meeting release banner photo translation payment reminder password account setting dashboard queue index
		printer delivery warehouse offer price tax supplier ticket survey training room desk phone laptop licence domain certificate firewall`)
	places = strings.Fields("Berlin Paris Vienna Lisbon Oslo Prague Madrid Dublin Warsaw Athens")
	tags   = strings.Fields("bug feature design backend frontend docs legal finance marketing support security mobile urgent later customer internal")
)

// newWords has the same names each time; which is used is chance.
func newWords(chance *rand.Rand) *words {
	w := &words{names: slices.Clone(things)}
	letters := rand.New(rand.NewPCG(0, 0))
	letter := func(of string) string { return string(of[letters.IntN(len(of))]) }
	for range 3000 {
		name := ""
		for range 2 + letters.IntN(2) {
			name += letter("bdfgklmnprstvz") + letter("aeiou")
		}
		w.names = append(w.names, name+letter("lnrstx"))
	}
	w.zipf = rand.NewZipf(chance, 1.2, 20, uint64(len(w.names)-1))
	return w
}

func (w *words) name() string { return w.names[w.zipf.Uint64()] }

// title has four to eight words.
func (w *words) title(chance *rand.Rand) string {
	text := pick(chance, verbs) + " " + pick(chance, manner) + " " + w.name() + " " + w.name()
	if chance.IntN(2) == 0 {
		text += " for " + pick(chance, places)
	}
	if chance.IntN(4) == 0 {
		text += fmt.Sprintf(" #%d", 1000+chance.IntN(9000))
	}
	return text
}

// description has up to four sentences.
func (w *words) description(chance *rand.Rand) string {
	var text strings.Builder
	for range chance.IntN(5) {
		fmt.Fprintf(&text, "%s the %s %s of %s before the %s, as %s asked. ", pick(chance, verbs), pick(chance, manner), w.name(), w.name(), w.name(), pick(chance, places))
	}
	return strings.TrimSpace(text.String())
}

func (w *words) labels(chance *rand.Rand) []string {
	first := chance.IntN(len(tags))
	return append(tags, tags...)[first : first+chance.IntN(4)]
}

func pick(chance *rand.Rand, list []string) string { return list[chance.IntN(len(list))] }
