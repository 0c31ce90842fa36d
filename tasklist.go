package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const maxLabelFilter = 50 // labels in one filter

// tasksOfProjects is what lists are selected from.
const tasksOfProjects = "tasks t JOIN projects p ON p.id = t.project_id"

// taskOrders are the orders a list of tasks can have. A task without a due date sorts as if due at
// the end of time.
var taskOrders = map[string]order{
	"createdAt": {"t.created_at", "timestamptz", false},
	"updatedAt": {"t.updated_at", "timestamptz", false},
	"dueDate":   {"coalesce(t.due_date, 'infinity')", "date", false},
	"priority":  {"t.priority", "task_priority", false},
	"title":     {`lower(t.title) COLLATE "C"`, "text", false},
	"position":  {"t.position", "text", true}, // these two in one project only
	"number":    {"t.number", "integer", true},
}

// taskQuery is a list of tasks as the client asked for it.
type taskQuery struct {
	filter          // on tasks t
	project  *uuid  // the one asked for; nil means all that the caller reads
	readable string // the condition on those projects p
	theirs   string // the same on their tasks t
	narrow   bool   // a filter has an index of its own, over all projects
	personal bool   // it depends on who asks
	search   *search
	ranked   bool // the best matches of the search come first
	by       sorting
	expand   []string
}

// flat is all conditions together, for tasks t joined to their projects p.
func (f taskQuery) flat() filter {
	conditions := f.conditions
	if f.readable != "" {
		conditions = append(slices.Clone(conditions), f.readable)
	}
	return filter{conditions, f.args}
}

// page is the statement of one page of the list. Over many projects it takes a page of each, by the index of the
// order, and merges them, as there is no index over just the projects that somebody reads.
func (f taskQuery) page(columns string, by sorting, p page) (string, []any) {
	if f.ranked {
		found, args := f.found()
		matches := filter{args: args}
		best, args := matches.page("id, rank", "found", "id", bestFirst, p)
		return fmt.Sprintf("%s SELECT %s, m.sort_key FROM (%s) m JOIN tasks t ON t.id = m.id JOIN projects p ON p.id = t.project_id ORDER BY %s",
			found, columns, best, bestFirst.clause("m.id")), args
	}
	if f.project != nil || f.narrow {
		flat := f.flat()
		return flat.page(columns, tasksOfProjects, "t.id", by, p)
	}
	f.where("t.project_id = p.id")
	each, args := f.filter.page("t.*", "tasks t", "t.id", by, p)
	return fmt.Sprintf("SELECT %s, t.sort_key FROM projects p CROSS JOIN LATERAL (%s) t WHERE %s ORDER BY %s LIMIT %d",
		columns, each, f.readable, by.clause("t.id"), p.limit+1), args
}

// count is the statement that counts all tasks of the list.
func (f taskQuery) count() (string, []any) {
	if f.ranked {
		found, args := f.found()
		return found + " SELECT count(*) FROM found", args
	}
	flat := f.flat()
	return flat.count(tasksOfProjects)
}

// found is the matches of a search of which the best come first.
func (f taskQuery) found() (string, []any) {
	newest := "t.created_at DESC, t.id DESC" // which has an index for each project
	if f.project == nil {
		newest = "t.id DESC" // the same order over all projects
		f.where(f.theirs)
	}
	return f.search.found(f.filter, newest), f.args
}

// ask reads one page, and the total if it is wanted. A batch may have other statements already, for read.
func (f taskQuery) ask(ctx context.Context, db *database, p page, into func(pgx.Rows) error, b *pgx.Batch, read ...func(pgx.Rows) error) (total *int64, err error) {
	if f.search != nil {
		end, err := searchTurn(ctx, db)
		if err != nil {
			return nil, err
		}
		defer end()
		b.Queue(planSearchSQL)
		read = append(read, ignored)
	}
	if p.total {
		sql, args := f.count()
		b.Queue(sql, args...)
		read = append(read, func(rows pgx.Rows) error {
			n, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[int64])
			total = &n
			return err
		})
	}
	sql, args := f.page(taskColumns, f.by, p)
	b.Queue(sql, args...)
	err = db.sendEach(ctx, b, append(read, into)...)
	return total, err
}

// taskQuery reads the parameters of GET /tasks into conditions on tasks t and their projects p.
// With judged it is known that the caller reads the project that he names.
func (q *query) taskQuery(me caller, judged bool) taskQuery {
	var f taskQuery
	if f.project = q.uuid("projectId"); judged && f.project != nil {
		f.where("t.project_id = ?", *f.project)
	} else {
		f.visible(me)
	}
	if q.bool("deleted") {
		f.where("t.deleted_at IS NOT NULL")
	} else {
		f.where("t.deleted_at IS NULL")
	}
	f.oneOf("t.status", "task_status", q.listOf("status", taskStatuses...))
	f.oneOf("t.priority", "task_priority", q.listOf("priority", taskPriorities...))
	switch id := q.uuidOr("assigneeId", "me", "none"); {
	case id == nil:
	case id.word == "none":
		f.where("t.assignee_id IS NULL")
	default:
		f.narrow, f.personal = true, f.personal || id.word == "me"
		f.where("t.assignee_id = ?", id.or(me.ID))
	}
	if id := q.uuidOr("createdBy", "me"); id != nil {
		f.personal = f.personal || id.word == "me"
		f.where("t.created_by = ?", id.or(me.ID))
	}
	if id := q.uuidOr("parentId", "none"); id != nil {
		if id.word != "" {
			f.where("t.parent_id IS NULL")
		} else {
			f.narrow = true
			f.where("t.parent_id = ?", id.id)
		}
	}
	if text := q.text("label"); text != "" {
		labels := strings.Split(text, ",")
		if len(labels) > maxLabelFilter {
			q.wrong("label", "too_many", fmt.Sprintf("must have at most %d labels", maxLabelFilter))
		}
		f.narrow = true
		f.where("t.labels && ?::text[]", labels)
	}
	f.dates(q, me)
	if text := q.search(); text != "" {
		f.search = newSearch(text, &f.filter)
		f.ranked = !q.unranked && !q.values.Has("sort")
	}
	if f.search == nil || q.values.Has("sort") {
		f.by = q.sort(taskOrders, "-createdAt")
	} else {
		q.known = append(q.known, "sort")
	}
	if f.search != nil && !f.ranked {
		f.where(f.search.condition())
	}
	f.by.unique = f.by.unique && f.project != nil
	f.expand = q.listOf("expand", "assignee", "creator", "project")
	return f
}

// visible limits the list to projects the caller reads, or the one he names. That is judged once,
// before any task of it is looked at.
func (f *taskQuery) visible(me caller) {
	readable, theirs := "p.deleted_at IS NULL", "t.project_id NOT IN (SELECT id FROM projects WHERE deleted_at IS NOT NULL)"
	if !me.seesAll() {
		own := " IN (SELECT project_id FROM members WHERE user_id = " + f.arg(me.ID) + ")"
		readable, theirs = readable+" AND p.id"+own, theirs+" AND t.project_id"+own
	}
	if f.project == nil {
		f.readable, f.theirs = readable, theirs
		return
	}
	f.where("t.project_id = ? AND EXISTS (SELECT FROM projects p WHERE p.id = ? AND "+readable+")", *f.project, *f.project)
}

// oneOf is a filter for some values of a column; nil is no filter. A single one is compared plainly,
// for only then an index gives rows in the order of its next column.
func (f *taskQuery) oneOf(column, typ string, list []string) {
	switch len(list) {
	case 0:
	case 1:
		f.where(column+" = ?::text::"+typ, list[0])
	default:
		f.where(column+" = ANY (?::text[]::"+typ+"[])", list)
	}
}

func (f *taskQuery) dates(q *query, me caller) {
	if day := q.date("dueFrom"); day != "" {
		f.where("t.due_date >= ?::text::date", day)
	}
	if day := q.date("dueTo"); day != "" {
		f.where("t.due_date <= ?::text::date", day)
	}
	if since := q.timestamp("updatedSince"); since != nil {
		f.where("t.updated_at >= ?", *since)
	}
	switch q.oneOf("overdue", "true", "false") {
	case "true":
		f.where("t.due_date < ?::text::date AND t.status <> 'done'", me.today())
	case "false":
		f.where("NOT coalesce(t.due_date < ?::text::date AND t.status <> 'done', false)", me.today())
	}
}

// today is the caller's own date.
func (c caller) today() string {
	zone, err := time.LoadLocation(c.Timezone)
	if err != nil {
		zone = time.UTC
	}
	return time.Now().In(zone).Format(time.DateOnly)
}

// taskRow is a task in a list, with the text of its sort key.
type taskRow struct {
	task
	SortKey string `json:"-"`
}

// handleTasks lists tasks of the projects that the caller reads. A list of one project that depends
// on nothing but that project's log is a document.
func (s *server) handleTasks(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r)
	if q.values.Has("projectId") && !q.values.Has("overdue") && !q.values.Has("deleted") && !q.values.Has("expand") {
		return s.handleProjectTasks(w, r, q)
	}
	if callerOf(r.Context()).ID == (uuid{}) {
		var err error
		if r, err = s.signIn(recorderOf(w), r); err != nil {
			return err
		}
	}
	p := s.page(r, q)
	f := q.taskQuery(callerOf(r.Context()), false)
	if err := q.done(); err != nil {
		return err
	}
	var page encodedPage
	var rows []taskRow // where more is to be added to them
	read := page.read(p.limit)
	if len(f.expand) > 0 {
		read = all(&rows)
	}
	total, err := f.ask(r.Context(), s.db, p, read, &pgx.Batch{})
	if err != nil {
		return err
	}
	if len(page.items)+len(rows) == 0 && f.project != nil { // perhaps because he may not read it
		if err := s.mayRead(r.Context(), *f.project); err != nil {
			return err
		}
	}
	if len(f.expand) == 0 {
		page.content(s, r, total).write(w)
		return nil
	}
	tasks := make([]*task, len(rows))
	for i := range rows {
		tasks[i] = &rows[i].task
	}
	if err := s.expandTasks(r.Context(), tasks, f.expand); err != nil {
		return err
	}
	return writeList(s, w, r, p, rows, total, taskRow.cursor)
}

func (row taskRow) cursor() cursor { return cursor{Key: row.SortKey, ID: row.ID.String()} }

// handleProjectTasks lists tasks of one project.
func (s *server) handleProjectTasks(w http.ResponseWriter, r *http.Request, q *query) error {
	me := recorderOf(w).claims.Subject
	p := s.page(r, q)
	f := q.taskQuery(caller{ID: me}, true)
	if err := q.done(); err != nil {
		return err
	}
	name := "tasks?" + q.values.Encode()
	if f.personal {
		name += " " + me.String()
	}
	return s.writeDocument(w, r, document{f.project, name, func(ctx context.Context, a asker) (reader, content, error) {
		b := &pgx.Batch{}
		b.Queue(readerSQL, a.session, a.user, f.project)
		var who reader
		var page encodedPage
		total, err := f.ask(ctx, s.db, p, page.read(p.limit), b, one(&who))
		if err != nil {
			return who, content{}, err
		}
		return who, page.content(s, r, total), nil
	}})
}

// encodedPage is the page of a list whose rows have become JSON on their way.
type encodedPage struct {
	items []byte  // with commas between them
	last  *cursor // of the last item, if there is a next page
}

// read reads rows that begin with an id and end with the text of a sort key, which is not shown.
func (page *encodedPage) read(limit int) func(pgx.Rows) error {
	return func(rows pgx.Rows) (err error) {
		defer rows.Close()
		*page = encodedPage{}
		var encoder rowEncoder
		var at cursor
		for n := 0; rows.Next(); n++ {
			if n == limit {
				page.last = &at
				break
			}
			values := rows.RawValues()
			key := len(values) - 1
			if n == 0 {
				encoder = newRowEncoder(rows, 0, key)
				page.items = make([]byte, 0, 1024*min(limit, 20))
			} else {
				page.items = append(page.items, ',')
			}
			if page.items, err = encoder.append(page.items, values[:key]); err != nil {
				return err
			}
			at = cursor{Key: string(values[key]), ID: uuid(values[0]).String()}
		}
		rows.Close()
		return rows.Err()
	}
}

// content is the answer, as listContent makes it.
func (page *encodedPage) content(s *server, r *http.Request, total *int64) content {
	c := content{body: make([]byte, 0, len(page.items)+200)}
	c.body = append(append(append(c.body, `{"items":[`...), page.items...), `],"next":`...)
	if page.last == nil {
		c.body = append(c.body, "null"...)
	} else {
		next, link := s.nextPage(r, *page.last)
		c.link, c.body = link, appendString(c.body, next)
	}
	if total != nil {
		c.body = strconv.AppendInt(append(c.body, `,"total":`...), *total, 10)
	}
	c.body = append(c.body, "}\n"...)
	return c
}
