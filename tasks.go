package main

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

const (
	maxTitle       = 255 // characters
	maxDescription = 20_000
	maxHours       = 999.99
	maxLabels      = 20
	maxLabel       = 50 // characters
)

var (
	taskStatuses   = []string{"todo", "in_progress", "review", "done"}
	taskPriorities = []string{"low", "medium", "high", "urgent"}
)

// task is a piece of work in a project.
type task struct {
	ID             uuid       `json:"id"`
	Ref            string     `json:"ref"` // project key and number: WEB-12
	ProjectID      uuid       `json:"projectId"`
	Number         int        `json:"number"` // counts in the project from 1 without gaps
	Title          string     `json:"title"`
	Description    string     `json:"description"`
	Status         string     `json:"status"`
	Priority       string     `json:"priority"`
	AssigneeID     *uuid      `json:"assigneeId"`
	ParentID       *uuid      `json:"parentId"`
	Position       string     `json:"position"` // place in the project's order, compared bytewise
	StartDate      *string    `json:"startDate"`
	DueDate        *string    `json:"dueDate"`
	EstimatedHours *float64   `json:"estimatedHours"`
	ActualHours    *float64   `json:"actualHours"`
	Labels         []string   `json:"labels"`
	Recurrence     *string    `json:"recurrence"` // RFC 5545 RRULE: being done makes the next one
	BlockedBy      []uuid     `json:"blockedBy"`  // live tasks that must be done first
	CreatedBy      uuid       `json:"createdBy"`
	StartedAt      *timestamp `json:"startedAt"`   // first left todo
	CompletedAt    *timestamp `json:"completedAt"` // became done; null again when reopened
	CreatedAt      timestamp  `json:"createdAt"`
	UpdatedAt      timestamp  `json:"updatedAt"`
	DeletedAt      *timestamp `json:"deletedAt"`
	Version        int64      `json:"version"`

	Assignee *person  `json:"assignee,omitempty" db:"-"` // these three only where expand asks
	Creator  *person  `json:"creator,omitempty" db:"-"`
	Project  *project `json:"project,omitempty" db:"-"`
}

// taskColumns select a task t of project p.
const taskColumns = `t.id, p.key || '-' || t.number AS ref, t.project_id, t.number, t.title, t.description, t.status, t.priority,
	t.assignee_id, t.parent_id, t.position, t.start_date::text AS start_date, t.due_date::text AS due_date,
	t.estimated_hours::float8 AS estimated_hours, t.actual_hours::float8 AS actual_hours, t.labels, t.recurrence,
	ARRAY(SELECT b.blocker_id FROM task_blockers b JOIN tasks o ON o.id = b.blocker_id AND o.deleted_at IS NULL
		WHERE b.task_id = t.id ORDER BY 1) AS blocked_by,
	t.created_by, t.started_at, t.completed_at, t.created_at, t.updated_at, t.deleted_at, t.version`

// newTask is the body of POST /tasks.
type newTask struct {
	ProjectID      *uuid    `json:"projectId"`
	Title          string   `json:"title"`
	Description    string   `json:"description"`
	Status         *string  `json:"status"`   // default todo
	Priority       *string  `json:"priority"` // default medium
	AssigneeID     *uuid    `json:"assigneeId"`
	ParentID       *uuid    `json:"parentId"`
	StartDate      *string  `json:"startDate"`
	DueDate        *string  `json:"dueDate"`
	EstimatedHours *float64 `json:"estimatedHours"`
	ActualHours    *float64 `json:"actualHours"`
	Labels         []string `json:"labels"`
	Recurrence     *string  `json:"recurrence"`
}

func (in newTask) invalid() []fieldError {
	var f fields
	f.required("projectId", in.ProjectID != nil)
	f.text("title", in.Title, 1, maxTitle, false)
	f.text("description", in.Description, 0, maxDescription, true)
	if in.Status != nil {
		f.oneOf("status", *in.Status, taskStatuses...)
	}
	if in.Priority != nil {
		f.oneOf("priority", *in.Priority, taskPriorities...)
	}
	if in.StartDate != nil {
		f.date("startDate", *in.StartDate)
	}
	if in.DueDate != nil {
		f.date("dueDate", *in.DueDate)
	}
	f.hours("estimatedHours", in.EstimatedHours)
	f.hours("actualHours", in.ActualHours)
	f.labels("labels", in.Labels)
	if in.Recurrence != nil {
		f.recurrence("recurrence", *in.Recurrence)
	}
	return f.errs
}

func (f *fields) recurrence(field, value string) {
	if _, err := parseRRule(value); err != nil {
		f.wrong(field, "invalid_recurrence", err.Error())
	}
}

func (f *fields) hours(field string, value *float64) {
	if value != nil && (*value < 0 || *value > maxHours || math.Round(*value*100)/100 != *value) {
		f.wrong(field, "out_of_range", fmt.Sprintf("must be from 0 to %v with at most two decimals", maxHours))
	}
}

func (f *fields) labels(field string, labels []string) {
	if len(labels) > maxLabels {
		f.wrong(field, "too_many", fmt.Sprintf("must have at most %d labels", maxLabels))
		return
	}
	for i, label := range labels {
		at := fmt.Sprintf("%s[%d]", field, i)
		f.text(at, label, 1, maxLabel, false)
		switch {
		case strings.Contains(label, ","):
			f.wrong(at, "invalid_text", "must not contain a comma")
		case strings.TrimSpace(label) != label:
			f.wrong(at, "invalid_text", "must not begin or end with a space")
		case slices.Contains(labels[:i], label):
			f.wrong(at, "duplicate", "must not stand twice")
		}
	}
}

const (
	enterWorkSQL   = `SELECT enter_work($1, $2, $3)`
	checkParentSQL = `SELECT check_parent($1, $2, $3)`
	// createTaskSQL takes the project's next number, puts the task last in its order and logs it.
	createTaskSQL = `
	WITH p AS (
		UPDATE projects SET seq = seq + 1, last_number = last_number + 1 WHERE id = $2 RETURNING id, key, seq, last_number),
	t AS (
		INSERT INTO tasks (id, project_id, number, title, description, status, priority, assignee_id, parent_id, position,
			start_date, due_date, estimated_hours, actual_hours, labels, created_by, started_at, completed_at, created_at, updated_at, recurrence)
		SELECT $1, p.id, p.last_number, $4, $5, $6::text::task_status, $7::text::task_priority, $8, $9,
			position_between((SELECT max(position) FROM tasks WHERE project_id = $2), NULL),
			$10::text::date, $11::text::date, $12::float8, $13::float8, $14::text[], $3,
			CASE WHEN $6 <> 'todo' THEN $15::timestamptz END, CASE WHEN $6 = 'done' THEN $15::timestamptz END, $15, $15, $16
		FROM p RETURNING *),
	e AS (
		INSERT INTO events (scope, seq, actor, kind, subject, changes)
		SELECT told(p.id), p.seq, $3, 'task.created', t.id, changes('{}', task_fields(t)) FROM p, t)
	SELECT ` + taskColumns + ` FROM t, p`
)

// createTask makes a task. Its id's time is its time of creation, so both sort alike.
func (s *server) createTask(ctx context.Context, by uuid, in newTask) (task, error) {
	id := newUUID()
	status, priority := "todo", "medium"
	if in.Status != nil {
		status = *in.Status
	}
	if in.Priority != nil {
		priority = *in.Priority
	}
	if in.Labels == nil {
		in.Labels = []string{}
	}
	b := &pgx.Batch{}
	b.Queue(enterWorkSQL, in.ProjectID, by, roleMember)
	if in.ParentID != nil {
		b.Queue(checkParentSQL, id, in.ParentID, in.ProjectID)
	}
	b.Queue(createTaskSQL, id, in.ProjectID, by, in.Title, in.Description, status, priority, in.AssigneeID, in.ParentID,
		in.StartDate, in.DueDate, in.EstimatedHours, in.ActualHours, in.Labels, id.time(), in.Recurrence)
	var facts []fact
	if in.AssigneeID != nil {
		facts = append(facts, fact{Kind: "task.assigned", Actor: by, User: in.AssigneeID, Task: &id, Project: in.ProjectID})
	}
	return sendAnd[task](ctx, s, b, facts...)
}

// handleCreateTask makes a task in a project where the caller is at least a member.
func (s *server) handleCreateTask(w http.ResponseWriter, r *http.Request) error {
	in, err := decode[newTask](w, r)
	if err != nil {
		return err
	}
	t, err := s.createTask(r.Context(), callerOf(r.Context()).ID, in)
	if err != nil {
		return err
	}
	s.cache.noteHome(t.ID.String(), t.ProjectID)
	return writeCreated(w, r, "/api/v1/tasks/"+t.ID.String(), t.Version, t)
}

const (
	readableTaskSQL = `SELECT t.id FROM tasks t JOIN projects p ON p.id = t.project_id WHERE t.id = $3 AND ` + visibleSQL
	// readTaskHead selects a task with who reads it.
	readTaskHead = `
	SELECT ` + readerColumns + `, ` + taskColumns + ` FROM ` + readerTables + ` JOIN tasks t ON t.project_id = p.id AND t.deleted_at IS NULL
	WHERE ` + readerCondition + ` AND `
	readTaskSQL      = readTaskHead + `t.id = $3`
	readTaskByRefSQL = readTaskHead + `p.key = $3 AND t.number = $4`
	taskByIDSQL      = `SELECT ` + taskColumns + ` FROM tasks t JOIN projects p ON p.id = t.project_id WHERE t.id = $1`
	taskByRefSQL     = `SELECT t.id FROM tasks t JOIN projects p ON p.id = t.project_id WHERE p.key = $1 AND t.number = $2`
)

var taskRef = regexp.MustCompile(`^([A-Z][A-Z0-9]{1,9})-([1-9][0-9]{0,8})$`)

// parseRef reads a ref such as WEB-12.
func parseRef(text string) (key string, number int, ok bool) {
	ref := taskRef.FindStringSubmatch(text)
	if ref == nil {
		return "", 0, false
	}
	number, err := strconv.Atoi(ref[2])
	return ref[1], number, err == nil
}

// taskID is the id of the task that a path names, by id or by ref. Whether the caller may see it is
// for the next statement to judge.
func (s *server) taskID(r *http.Request, name string) (uuid, error) {
	key, number, ok := parseRef(r.PathValue(name))
	if !ok {
		return pathUUID(r, name)
	}
	return queryValue[uuid](r.Context(), s.db, taskByRefSQL, key, number)
}

// readableTask is the id in the path, of a task, perhaps in the trash, whose project the caller reads.
func (s *server) readableTask(r *http.Request) (uuid, error) {
	id, err := s.taskID(r, "id")
	if err != nil {
		return id, err
	}
	me := callerOf(r.Context())
	return queryValue[uuid](r.Context(), s.db, readableTaskSQL, me.ID, me.seesAll(), id)
}

// handleTask answers one task.
func (s *server) handleTask(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r)
	expand := q.listOf("expand", "assignee", "creator", "project")
	if err := q.done(); err != nil {
		return err
	}
	name := r.PathValue("id")
	sql, args := readTaskByRefSQL, []any{}
	if key, number, ok := parseRef(name); ok {
		args = append(args, key, number)
	} else {
		id, err := pathUUID(r, "id")
		if err != nil {
			return err
		}
		sql, args = readTaskSQL, append(args, id)
	}
	d := document{project: s.cache.home(name), name: "task/" + name}
	if expand != nil {
		d.project = nil // people have versions of their own: no ETag for the whole, nor a place in the cache
	}
	d.read = func(ctx context.Context, a asker) (reader, content, error) {
		args := append([]any{a.session, a.user}, args...)
		if expand == nil {
			who, c, err := s.queryResource(ctx, sql, args...)
			if err == nil {
				s.cache.noteHome(name, who.ReadProject)
			}
			return who, c, err
		}
		t, err := queryOne[taskReading](ctx, s.db, sql, args...)
		if err == nil {
			err = s.expandTasks(ctx, []*task{&t.task}, expand)
		}
		if err != nil {
			return reader{}, content{}, err
		}
		body, err := encode(t.task)
		return t.reader, content{body: body}, err
	}
	return s.writeDocument(w, r, d)
}

// taskReading is a task with who reads it.
type taskReading struct {
	reader
	task
}

const (
	peopleByIDSQL   = `SELECT id, first_name, last_name, email, avatar_url FROM users WHERE id = ANY ($1)`
	projectsByIDSQL = `SELECT ` + projectColumns + ` FROM projects p WHERE p.id = ANY ($1)`
)

// expandTasks puts the people and projects that tasks name into them: at most one query for all
// people and one for all projects.
func (s *server) expandTasks(ctx context.Context, tasks []*task, expand []string) error {
	people, projects := map[uuid]*person{}, map[uuid]*project{}
	assignee, creator := slices.Contains(expand, "assignee"), slices.Contains(expand, "creator")
	for _, t := range tasks {
		if assignee && t.AssigneeID != nil {
			people[*t.AssigneeID] = nil
		}
		if creator {
			people[t.CreatedBy] = nil
		}
		if slices.Contains(expand, "project") {
			projects[t.ProjectID] = nil
		}
	}
	if len(people) > 0 {
		found, err := queryAll[person](ctx, s.db, peopleByIDSQL, mapKeys(people))
		if err != nil {
			return err
		}
		for i := range found {
			people[found[i].ID] = &found[i]
		}
	}
	if len(projects) > 0 {
		found, err := queryAll[project](ctx, s.db, projectsByIDSQL, mapKeys(projects))
		if err != nil {
			return err
		}
		for i := range found {
			projects[found[i].ID] = &found[i]
		}
	}
	for _, t := range tasks {
		if assignee && t.AssigneeID != nil {
			t.Assignee = people[*t.AssigneeID]
		}
		if creator {
			t.Creator = people[t.CreatedBy]
		}
		t.Project = projects[t.ProjectID]
	}
	return nil
}

func mapKeys[V any](m map[uuid]V) []uuid {
	keys := make([]uuid, 0, len(m))
	for id := range m {
		keys = append(keys, id)
	}
	return keys
}

// taskPatch is the body of PATCH /tasks/{id}.
type taskPatch struct {
	Title          optional[string]   `json:"title"`
	Description    optional[string]   `json:"description"`
	Status         optional[string]   `json:"status"`
	Priority       optional[string]   `json:"priority"`
	AssigneeID     optional[uuid]     `json:"assigneeId"`
	ParentID       optional[uuid]     `json:"parentId"`
	StartDate      optional[string]   `json:"startDate"`
	DueDate        optional[string]   `json:"dueDate"`
	EstimatedHours optional[float64]  `json:"estimatedHours"`
	ActualHours    optional[float64]  `json:"actualHours"`
	Labels         optional[[]string] `json:"labels"`
	Recurrence     optional[string]   `json:"recurrence"`
}

func (in taskPatch) invalid() []fieldError {
	var f fields
	patchText(&f, "title", in.Title, 1, maxTitle, false)
	if in.Description.set {
		f.text("description", in.Description.value, 0, maxDescription, true)
	}
	notNull(&f, "status", in.Status)
	if in.Status.set && !in.Status.null {
		f.oneOf("status", in.Status.value, taskStatuses...)
	}
	notNull(&f, "priority", in.Priority)
	if in.Priority.set && !in.Priority.null {
		f.oneOf("priority", in.Priority.value, taskPriorities...)
	}
	patchDate(&f, "startDate", in.StartDate)
	patchDate(&f, "dueDate", in.DueDate)
	if in.EstimatedHours.set {
		f.hours("estimatedHours", &in.EstimatedHours.value)
	}
	if in.ActualHours.set {
		f.hours("actualHours", &in.ActualHours.value)
	}
	f.labels("labels", in.Labels.value)
	if in.Recurrence.set && !in.Recurrence.null {
		f.recurrence("recurrence", in.Recurrence.value)
	}
	return f.errs
}

// columns are the patch as columns of tasks.
func (in taskPatch) columns() columns {
	set := columns{}
	setColumn(set, "title", in.Title)
	setColumn(set, "status", in.Status)
	setColumn(set, "priority", in.Priority)
	setColumn(set, "assignee_id", in.AssigneeID)
	setColumn(set, "parent_id", in.ParentID)
	setColumn(set, "start_date", in.StartDate)
	setColumn(set, "due_date", in.DueDate)
	setColumn(set, "estimated_hours", in.EstimatedHours)
	setColumn(set, "actual_hours", in.ActualHours)
	setColumn(set, "recurrence", in.Recurrence)
	if in.Description.set {
		set["description"] = in.Description.value // null clears to the empty text
	}
	if in.Labels.set {
		set["labels"] = append([]string{}, in.Labels.value...)
	}
	return set
}

const (
	enterTaskSQL = `SELECT enter_task($1, $2, $3, $4)`
	// patchTaskSQL sets columns; one that changes nothing leaves no trace. completed_at follows
	// status: it keeps the moment the task became done, and goes when it is reopened.
	patchTaskSQL = `
	WITH t AS (
		UPDATE tasks t SET title = n.title, description = n.description, status = n.status, priority = n.priority,
			assignee_id = n.assignee_id, parent_id = n.parent_id, start_date = n.start_date, due_date = n.due_date,
			estimated_hours = n.estimated_hours, actual_hours = n.actual_hours, labels = n.labels, recurrence = n.recurrence,
			started_at = CASE WHEN n.status <> 'todo' THEN coalesce(t.started_at, clock_timestamp()) ELSE t.started_at END,
			completed_at = CASE WHEN n.status = 'done' THEN coalesce(t.completed_at, clock_timestamp()) END,
			version = t.version + 1, updated_at = clock_timestamp()
		FROM tasks o, jsonb_populate_record(o, $3) n
		WHERE o.id = $1 AND t.id = o.id AND task_fields(n) <> task_fields(o)
		RETURNING t.id, t.project_id, changes(task_fields(o), task_fields(t)) AS what)
	SELECT log_change(project_id, $2, 'task.updated', id, what) FROM t`
	checkOwnParentSQL = `SELECT check_parent($1, $2, (SELECT project_id FROM tasks WHERE id = $1))`
)

// facts are what a patch may have brought about, for others to look at.
func (in taskPatch) facts(by, id uuid) []fact {
	var facts []fact
	if in.AssigneeID.set && !in.AssigneeID.null {
		facts = append(facts, fact{Kind: "task.assigned", Actor: by, User: &in.AssigneeID.value, Task: &id})
	}
	if in.Status.set {
		facts = append(facts, statusFacts(by, id, in.Status.value)...)
	}
	return facts
}

// statusFacts are what setting a status may have brought about.
func statusFacts(by, id uuid, status string) []fact {
	facts := []fact{{Kind: "task.status_changed", Actor: by, Task: &id}}
	if status == "done" {
		facts = append(facts, fact{Kind: "task.done", Actor: by, Task: &id})
	}
	return facts
}

// taskUpdate is the change of the fields that the patch has and no other. Its last statement
// selects the task.
func taskUpdate(by, id uuid, in taskPatch, versions []int64) (*pgx.Batch, error) {
	text, err := in.columns().json()
	if err != nil {
		return nil, err
	}
	b := &pgx.Batch{}
	b.Queue(enterTaskSQL, id, by, roleMember, versions)
	if in.ParentID.set && !in.ParentID.null {
		b.Queue(checkOwnParentSQL, id, in.ParentID.value)
	}
	b.Queue(patchTaskSQL, id, by, text)
	b.Queue(taskByIDSQL, id)
	return b, nil
}

// handlePatchTask changes a task.
func (s *server) handlePatchTask(w http.ResponseWriter, r *http.Request) error {
	id, err := s.taskID(r, "id")
	if err != nil {
		return err
	}
	in, err := decode[taskPatch](w, r)
	if err != nil {
		return err
	}
	b, err := taskUpdate(callerOf(r.Context()).ID, id, in, ifMatch(r))
	if err != nil {
		return err
	}
	t, err := sendAnd[task](r.Context(), s, b, in.facts(callerOf(r.Context()).ID, id)...)
	if err != nil {
		return err
	}
	return writeVersioned(w, r, http.StatusOK, t.Version, t)
}

const (
	// deleteTaskSQL puts a task and everything below it into the trash, at one moment by which
	// restoreTaskSQL knows what belongs together. Tasks that waited for one of them lose a blocker.
	// It returns the ids of all that went.
	deleteTaskSQL = `
	WITH RECURSIVE tree AS (
		SELECT id, clock_timestamp() AS at FROM tasks WHERE id = $1
		UNION ALL SELECT t.id, tree.at FROM tasks t JOIN tree ON t.parent_id = tree.id WHERE t.deleted_at IS NULL),
	gone AS (
		UPDATE tasks t SET deleted_at = tree.at, updated_at = tree.at, version = t.version + 1
		FROM tree WHERE t.id = tree.id RETURNING t.id, t.project_id),
	` + freedTasks + `
	SELECT array_agg(id ORDER BY seq) FILTER (WHERE id IS NOT NULL) AS ids FROM (
		SELECT id, log_change(project_id, $2, 'task.deleted', id, '{}') AS seq FROM gone
		UNION ALL
		SELECT NULL, log_change(project_id, $2, 'task.unblocked', id, jsonb_build_object('blockedBy', jsonb_build_array(blocker_id, NULL))) FROM freed) e`
	// freedTasks gives the tasks outside a tree that wait for one in it a new version, as blockedBy
	// names only live tasks; freed is one row for each blocker that they lose or have again.
	freedTasks = `
	waiting AS (
		SELECT b.task_id, b.blocker_id FROM task_blockers b JOIN tree ON b.blocker_id = tree.id
		WHERE b.task_id NOT IN (SELECT id FROM tree)),
	waited AS (
		UPDATE tasks SET version = version + 1, updated_at = clock_timestamp()
		WHERE id IN (SELECT task_id FROM waiting) RETURNING id, project_id),
	freed AS (SELECT id, project_id, blocker_id FROM waited JOIN waiting ON task_id = id)`
	enterTrashedTaskSQL = `SELECT enter_task($1, $2, $3, $4, trash => true)`
	// restoreTaskSQL undoes deleteTaskSQL. A task whose parent is still in the trash comes back without it.
	restoreTaskSQL = `
	WITH RECURSIVE tree AS (
		SELECT id, deleted_at, clock_timestamp() AS at FROM tasks WHERE id = $1
		UNION ALL SELECT t.id, t.deleted_at, tree.at FROM tasks t JOIN tree ON t.parent_id = tree.id WHERE t.deleted_at = tree.deleted_at),
	back AS (
		UPDATE tasks t SET deleted_at = NULL, updated_at = tree.at, version = t.version + 1,
			parent_id = CASE WHEN t.id = $1 AND EXISTS (SELECT FROM tasks up WHERE up.id = t.parent_id AND up.deleted_at IS NOT NULL)
				THEN NULL ELSE t.parent_id END
		FROM tree, tasks o WHERE t.id = tree.id AND o.id = t.id
		RETURNING t.id, t.project_id, changes(task_fields(o), task_fields(t)) AS what),
	` + freedTasks + `
	SELECT log_change(project_id, $2, 'task.restored', id, what) FROM back
	UNION ALL
	SELECT log_change(project_id, $2, 'task.blocked', id, jsonb_build_object('blockedBy', jsonb_build_array(NULL, blocker_id))) FROM freed`
)

// taskDeletion is the change that puts a task into the trash, with its subtasks.
func taskDeletion(by, id uuid, versions []int64) *pgx.Batch {
	b := &pgx.Batch{}
	b.Queue(enterTaskSQL, id, by, roleMember, versions)
	b.Queue(deleteTaskSQL, id, by)
	return b
}

// handleDeleteTask puts a task into the trash, with its subtasks.
func (s *server) handleDeleteTask(w http.ResponseWriter, r *http.Request) error {
	id, err := s.taskID(r, "id")
	if err != nil {
		return err
	}
	if err := s.db.send(r.Context(), taskDeletion(callerOf(r.Context()).ID, id, ifMatch(r))); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// handleRestoreTask takes a task out of the trash, with the subtasks that went with it.
func (s *server) handleRestoreTask(w http.ResponseWriter, r *http.Request) error {
	id, err := s.taskID(r, "id")
	if err != nil {
		return err
	}
	me := callerOf(r.Context()).ID
	b := &pgx.Batch{}
	b.Queue(enterTrashedTaskSQL, id, me, roleMember, ifMatch(r))
	b.Queue(restoreTaskSQL, id, me)
	b.Queue(taskByIDSQL, id)
	t, err := sendOne[task](r.Context(), s.db, b)
	if err != nil {
		return err
	}
	return writeVersioned(w, r, http.StatusOK, t.Version, t)
}
