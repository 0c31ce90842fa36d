package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// What pgbench runs, and whose plans the page shows, are the service's own statements, taken from
// PostgreSQL's log while the service answers one request: no copy of them can grow old here.

const (
	logStatements = `ALTER DATABASE %s SET log_statement = 'all'`
	logPlans      = `ALTER DATABASE %[1]s SET session_preload_libraries = 'auto_explain'; ALTER DATABASE %[1]s SET auto_explain.log_min_duration = 0;
		ALTER DATABASE %[1]s SET auto_explain.log_analyze = on; ALTER DATABASE %[1]s SET auto_explain.log_buffers = on`
	repetitions = 20 // before the one that counts: after five a prepared statement may get another plan
)

// message is one of PostgreSQL's log.
type message struct{ transaction, severity, text string }

// statement is one that the service sent.
type statement struct {
	transaction string
	sql         string
	args        map[int]string // as SQL literals
}

// logged is what PostgreSQL logs while the service answers a request, after it has answered it often.
// settings are what the database is to log.
func (b *bench) logged(ctx context.Context, database, settings string, request func(context.Context, *service) error) ([]message, error) {
	if _, err := b.db.Exec(ctx, fmt.Sprintf(settings, database)); err != nil {
		return nil, err
	}
	defer b.db.Exec(context.WithoutCancel(ctx), fmt.Sprintf(`ALTER DATABASE %s RESET ALL`, database))
	s, err := b.serve(ctx, database, "CACHE=off", "DATABASE_MAX_CONNS=3")
	if err != nil {
		return nil, err
	}
	defer s.stop()
	for range repetitions {
		if err := request(ctx, s); err != nil {
			return nil, err
		}
	}
	log, err := os.Open(b.servers.PostgresLog())
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if _, err := log.Seek(0, io.SeekEnd); err != nil {
		return nil, err
	}
	if err := request(ctx, s); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(log)
	return messages(string(text)), err
}

// logPrefix stands before each message; %v is the transaction.
const logPrefix = "{%v} "

var messageStart = regexp.MustCompile(`^\{([0-9/]*)\} ([A-Z]+):  (.*)`)

// messages splits a log. Lines that go on with a message begin with a tab.
func messages(log string) []message {
	var list []message
	for line := range strings.Lines(log) {
		line = strings.TrimSuffix(line, "\n")
		if m := messageStart.FindStringSubmatch(line); m != nil {
			list = append(list, message{m[1], m[2], m[3]})
		} else if len(list) > 0 {
			list[len(list)-1].text += "\n" + strings.TrimPrefix(line, "\t")
		}
	}
	return list
}

var (
	executed   = regexp.MustCompile(`(?s)^execute [^:]*: (.*)`)
	parameter  = regexp.MustCompile(`(?s)\$(\d+) = (NULL|'(?:[^']|'')*')`)
	parameters = regexp.MustCompile(`^[Pp]arameters: `)
)

// statements are those that a log says were executed.
func statements(log []message) []statement {
	var list []statement
	for _, m := range log {
		if m.severity == "LOG" {
			if sql := executed.FindStringSubmatch(m.text); sql != nil {
				list = append(list, statement{m.transaction, sql[1], map[int]string{}})
			}
		} else if m.severity == "DETAIL" && parameters.MatchString(m.text) && len(list) > 0 {
			for _, p := range parameter.FindAllStringSubmatch(m.text, -1) {
				n, _ := strconv.Atoi(p[1])
				list[len(list)-1].args[n] = p[2]
			}
		}
	}
	return list
}

// transaction is the statements of the transaction that has one with such a text in it.
func transaction(log []message, text string) ([]statement, error) {
	all := statements(log)
	i := slices.IndexFunc(all, func(s statement) bool { return strings.Contains(s.sql, text) })
	if i < 0 {
		return nil, fmt.Errorf("PostgreSQL's log has no statement with %q", text)
	}
	return slices.DeleteFunc(all, func(s statement) bool { return s.transaction != all[i].transaction }), nil
}

var placeholder = regexp.MustCompile(`\$\d+`)

// inline is the statement with its arguments in it, each as replace wants it.
func (s statement) inline(replace func(literal string) string) string {
	return placeholder.ReplaceAllStringFunc(s.sql, func(p string) string {
		n, _ := strconv.Atoi(p[1:])
		return replace(s.args[n])
	})
}

// script is statements for pgbench, those of one transaction in one round trip, as the service sends them.
func script(list []statement, replace func(literal string) string) string {
	text := ""
	for len(list) > 0 {
		n := 1
		for n < len(list) && list[n].transaction == list[0].transaction {
			n++
		}
		if n > 1 {
			text += "\\startpipeline\n"
		}
		for _, s := range list[:n] {
			text += s.inline(replace) + ";\n"
		}
		if n > 1 {
			text += "\\endpipeline\n"
		}
		list = list[n:]
	}
	return text
}

// scripts are what pgbench runs beside the service.
type scripts struct {
	byKey     string // the row of a task by its id, and nothing else
	read      string // what GET /tasks/{id} sends
	list      string // the list of a project, by filter and sort
	create    string // the transaction that makes a task in any project
	createOne string // the same, always in one project
}

// record takes the scripts from the service's answers to one request of each kind.
func (b *bench) record(ctx context.Context) error {
	d, project := datasets[0], b.world.spread()[0]
	task := b.world.ids[d.size][0]
	read, err := b.logged(ctx, d.database(), logStatements, b.sending("GET /api/v1/tasks/"+task))
	if err != nil {
		return err
	}
	list, err := b.logged(ctx, d.database(), logStatements, b.sending("GET "+filteredPath(project)))
	if err != nil {
		return err
	}
	var create []message
	if err := b.onClone(ctx, d, func(database string) (err error) {
		create, err = b.logged(ctx, database, logStatements, b.sending(b.newTasks([]string{project})[0]))
		return err
	}); err != nil {
		return err
	}
	listing, err := transaction(list, "FROM tasks")
	if err != nil {
		return err
	}
	creating, err := transaction(create, "INSERT INTO tasks")
	if err != nil {
		return err
	}
	columns, err := b.taskColumns(ctx, d)
	if err != nil {
		return err
	}

	anyTask, anyProject := oneOf(b.world.ids[d.size]), oneOf(b.world.spread())
	made := func(literal string) string {
		switch {
		case b.isNew(literal):
			return "uuid_v7()"
		case isNow(literal):
			return "clock_timestamp()"
		}
		return literal
	}
	b.scripts = scripts{
		byKey:     anyTask.choose + "SELECT " + columns + " FROM tasks WHERE id = " + anyTask.chosen + ";\n",
		read:      anyTask.choose + script(statements(read), anyTask.insteadOf(task)),
		list:      anyProject.choose + script(listing, anyProject.insteadOf(project)),
		createOne: script(creating, made),
		create: anyProject.choose + script(creating, func(literal string) string {
			return anyProject.insteadOf(project)(made(literal))
		}),
	}
	return nil
}

// choice is one id out of many, by chance, as pgbench makes it: its own variables are only numbers.
type choice struct{ choose, chosen string }

func oneOf(ids []string) choice {
	return choice{fmt.Sprintf("\\set n random(1, %d)\n", len(ids)), "(('{" + strings.Join(ids, ",") + "}'::uuid[])[:n])"}
}

// insteadOf puts the choice where an id was.
func (c choice) insteadOf(id string) func(literal string) string {
	return func(literal string) string {
		if literal == "'"+id+"'" {
			return c.chosen
		}
		return literal
	}
}

// taskColumns are the columns of tasks that are not derived from others.
func (b *bench) taskColumns(ctx context.Context, d dataset) (columns string, err error) {
	err = b.onDatabase(ctx, d.database(), func(db *pgx.Conn) error {
		return db.QueryRow(ctx, `SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
			WHERE attrelid = 'tasks'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''`).Scan(&columns)
	})
	return columns, err
}

var uuidLiteral = regexp.MustCompile(`^'[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}'$`)

// isNew tells whether a literal is an id that the request made.
func (b *bench) isNew(literal string) bool {
	known := slices.Concat(b.world.users, b.world.projects)
	return uuidLiteral.MatchString(literal) && !slices.Contains(known, strings.Trim(literal, "'"))
}

// isNow tells whether a literal is about the present time.
func isNow(literal string) bool {
	at, err := time.Parse("2006-01-02 15:04:05.999999-07", strings.Trim(literal, "'"))
	return err == nil && time.Since(at).Abs() < time.Hour
}

// plan is that of one statement.
type plan struct {
	request   string
	size      int // of the database, in tasks
	sql, text string
}

// plansOf are those of a request's statements, in the order in which they ran.
func (b *bench) plansOf(ctx context.Context, d dataset, database, name string, request func(context.Context, *service) error) error {
	log, err := b.logged(ctx, database, logPlans, request)
	if err != nil {
		return fmt.Errorf("plans of %s: %w", name, err)
	}
	found := false
	for _, m := range log {
		_, text, ok := strings.Cut(m.text, "plan:\nQuery Text: ")
		lines := strings.Split(text, "\n")
		root := slices.IndexFunc(lines, func(line string) bool { return strings.Contains(line, "  (cost=") })
		if !ok || root < 0 {
			continue
		}
		found = true
		sql, _, _ := strings.Cut(strings.Join(lines[:root], "\n"), "\nQuery Parameters: ") // of PostgreSQL 16
		if !slices.ContainsFunc(b.plans, func(p plan) bool { return p.sql == sql }) {      // who asks is looked up by each
			b.plans = append(b.plans, plan{name, d.size, sql, strings.Join(lines[root:], "\n")})
		}
	}
	if !found {
		return fmt.Errorf("plans of %s: PostgreSQL logged none", name)
	}
	return nil
}
