package main

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

const (
	maxSearch      = 200  // characters of a search text
	maxListFilter  = 50   // members of a comma list
	relevanceDepth = 1000 // newest matches that a search without sort ranks
)

// order is one way to sort a list: the SQL of its key and the key's type, which the cursor's text
// is cast back to. The id breaks ties.
type order struct{ expr, typ string }

// sorting is an order and its direction.
type sorting struct {
	order
	desc bool
}

// sort reads the sort parameter: the name of an order, with - for descending.
func (q *query) sort(orders map[string]order, otherwise string) sorting {
	text := q.text("sort")
	if text == "" {
		text = otherwise
	}
	name, desc := strings.CutPrefix(text, "-")
	o, ok := orders[name]
	if !ok {
		q.wrong("sort", "not_allowed", "must be one of "+strings.Join(sortedKeys(orders), ", ")+", with - in front for descending")
	}
	return sorting{o, desc}
}

func sortedKeys[T any](m map[string]T) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// filter collects the conditions of a list and their arguments.
type filter struct {
	conditions []string
	args       []any
}

// arg adds an argument and returns its placeholder.
func (f *filter) arg(value any) string {
	f.args = append(f.args, value)
	return "$" + strconv.Itoa(len(f.args))
}

// where adds a condition with ? for each argument. The text is always ours, never a client's.
func (f *filter) where(condition string, args ...any) {
	for _, value := range args {
		condition = strings.Replace(condition, "?", f.arg(value), 1)
	}
	f.conditions = append(f.conditions, condition)
}

func (f *filter) clause() string {
	if len(f.conditions) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(f.conditions, " AND ")
}

// count is the statement that counts all rows of the list.
func (f *filter) count(from string) (string, []any) {
	return "SELECT count(*) FROM " + from + f.clause(), f.args
}

// page is the statement of one page: rows after the cursor in the given order, one more than the
// limit. It adds its condition to the filter, so it comes last.
func (f *filter) page(columns, from, id string, by sorting, p page) (string, []any) {
	less, direction := ">", ""
	if by.desc {
		less, direction = "<", " DESC"
	}
	if p.after != nil {
		if by.expr == id {
			f.where(id+" "+less+" ?::text::uuid", p.after.ID)
		} else {
			f.where("("+by.expr+", "+id+") "+less+" (?::text::"+by.typ+", ?::text::uuid)", p.after.Key, p.after.ID)
		}
	}
	sort := by.expr + direction
	if by.expr != id {
		sort += ", " + id + direction
	}
	return fmt.Sprintf("SELECT %s, (%s)::text AS sort_key FROM %s%s ORDER BY %s LIMIT %d",
		columns, by.expr, from, f.clause(), sort, p.limit+1), f.args
}

// taskOrders are the orders a list of tasks can have. createdAt is the id itself, a UUIDv7. A task
// without a due date sorts as if due at the end of time.
var taskOrders = map[string]order{
	"createdAt": {"t.id", "uuid"},
	"updatedAt": {"t.updated_at", "timestamptz"},
	"dueDate":   {"coalesce(t.due_date, 'infinity')", "date"},
	"priority":  {"t.priority", "task_priority"},
	"title":     {`lower(t.title) COLLATE "C"`, "text"},
	"position":  {"t.position", "text"},
	"number":    {"t.number", "integer"},
}

// relevance sorts a search by how well a task matches; it is the default of a list with search.
var relevance = sorting{order{"t.rank", "numeric"}, true}

// taskQuery is a list of tasks as the client asked for it.
type taskQuery struct {
	filter
	project *uuid
	by      sorting
	from    string // what the page is selected from
	expand  []string
}

// taskQuery reads the parameters of GET /tasks into conditions on tasks t and their projects p.
func (q *query) taskQuery(r *http.Request) taskQuery {
	me := callerOf(r.Context())
	f := taskQuery{from: "tasks t JOIN projects p ON p.id = t.project_id"}
	f.visible(q, me)
	if q.bool("deleted") {
		f.where("t.deleted_at IS NOT NULL")
	} else {
		f.where("t.deleted_at IS NULL")
	}
	if list := q.listOf("status", taskStatuses...); list != nil {
		f.where("t.status = ANY (?::text[]::task_status[])", list)
	}
	if list := q.listOf("priority", taskPriorities...); list != nil {
		f.where("t.priority = ANY (?::text[]::task_priority[])", list)
	}
	f.person(q, "assigneeId", "t.assignee_id", me)
	if id := q.uuidOr("createdBy", "me"); id != nil {
		f.where("t.created_by = ?", id.or(me.ID))
	}
	if id := q.uuidOr("parentId", "none"); id != nil {
		if id.word != "" {
			f.where("t.parent_id IS NULL")
		} else {
			f.where("t.parent_id = ?", id.id)
		}
	}
	if text := q.text("label"); text != "" {
		labels := strings.Split(text, ",")
		if len(labels) > maxListFilter {
			q.wrong("label", "too_many", fmt.Sprintf("must have at most %d labels", maxListFilter))
		}
		f.where("t.labels && ?::text[]", labels)
	}
	f.dates(q, me)
	f.search(q)
	f.expand = q.listOf("expand", "assignee", "creator", "project")
	return f
}

// visible limits the list to projects the caller reads, or the one he names.
func (f *taskQuery) visible(q *query, me caller) {
	f.project = q.uuid("projectId")
	f.where("p.deleted_at IS NULL")
	if f.project != nil {
		f.where("t.project_id = ? AND (? OR EXISTS (SELECT FROM members m WHERE m.project_id = p.id AND m.user_id = ?))", *f.project, me.seesAll(), me.ID)
	} else if !me.seesAll() {
		f.where("t.project_id IN (SELECT project_id FROM members WHERE user_id = ?)", me.ID)
	}
}

// person is a filter for a user's id, me or none.
func (f *taskQuery) person(q *query, name, column string, me caller) {
	id := q.uuidOr(name, "me", "none")
	switch {
	case id == nil:
	case id.word == "none":
		f.where(column + " IS NULL")
	default:
		f.where(column+" = ?", id.or(me.ID))
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

// search finds tasks by whole words in title and description, the last word also as a beginning,
// and by any part of the title. Without sort the best matches come first.
func (f *taskQuery) search(q *query) {
	text := q.text("search")
	if n := len([]rune(text)); n > maxSearch {
		q.wrong("search", "too_long", fmt.Sprintf("must have at most %d characters", maxSearch))
		return
	}
	if text == "" {
		f.by = q.sort(taskOrders, "-createdAt")
		return
	}
	pattern, words := f.arg(likePattern(text)), f.arg(prefixQuery(text))
	f.where("(t.search @@ to_tsquery('simple', " + words + ") OR t.title ILIKE " + pattern + ")")
	if q.values.Has("sort") {
		f.by = q.sort(taskOrders, "")
		return
	}
	q.known = append(q.known, "sort")
	f.by = relevance
	f.from = fmt.Sprintf(`(SELECT t.*, round((ts_rank(t.search, to_tsquery('simple', %s)) + (t.title ILIKE %s)::int)::numeric, 6) AS rank
		FROM %s%s ORDER BY t.id DESC LIMIT %d) t JOIN projects p ON p.id = t.project_id`, words, pattern, f.from, f.clause(), relevanceDepth)
	f.conditions = nil
}

// prefixQuery is a text as the argument of to_tsquery: all its words, the last as a prefix.
// Letters and digits only, so nothing in it is an operator.
func prefixQuery(text string) string {
	words := strings.FieldsFunc(text, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r) })
	if len(words) == 0 {
		return ""
	}
	return strings.Join(words, " & ") + ":*"
}

// idOrWord is a parameter that is an id or one of a few words.
type idOrWord struct {
	id   uuid
	word string
}

// or is the id, or what the word stands for.
func (v *idOrWord) or(id uuid) uuid {
	if v.word != "" {
		return id
	}
	return v.id
}

func (q *query) uuidOr(name string, words ...string) *idOrWord {
	text := q.text(name)
	if text == "" {
		return nil
	}
	if slices.Contains(words, text) {
		return &idOrWord{word: text}
	}
	id, err := parseUUID(text)
	if err != nil {
		q.wrong(name, "invalid_uuid", err.Error()+" or "+strings.Join(words, " or "))
	}
	return &idOrWord{id: id}
}
