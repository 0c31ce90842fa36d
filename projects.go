package main

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"unicode"

	"github.com/jackc/pgx/v5"
)

const (
	minProjectName        = 3
	maxProjectName        = 100
	maxProjectDescription = 10_000
)

// project is a body of work with its own members, roles and change log.
type project struct {
	ID          uuid            `json:"id"`
	Key         string          `json:"key"` // prefix of its tasks' refs; never changes
	Name        string          `json:"name"`
	Description string          `json:"description"`
	Color       *string         `json:"color"`
	Status      string          `json:"status"`
	StartDate   *string         `json:"startDate"`
	EndDate     *string         `json:"endDate"`
	Settings    projectSettings `json:"settings"`
	CreatedBy   uuid            `json:"createdBy"`
	CreatedAt   timestamp       `json:"createdAt"`
	UpdatedAt   timestamp       `json:"updatedAt"`
	DeletedAt   *timestamp      `json:"deletedAt"`
	Version     int64           `json:"version"`
}

// projectSettings are switches of one project.
type projectSettings struct {
	ViewersMayComment bool `json:"viewersMayComment"`
}

const projectColumns = `p.id, p.key, p.name, p.description, p.color, p.status, p.start_date::text AS start_date,
	p.end_date::text AS end_date, p.settings, p.created_by, p.created_at, p.updated_at, p.deleted_at, p.version`

var projectStatuses = []string{"active", "archived", "completed"}

// newProjectBody is the body of POST /projects.
type newProjectBody struct {
	Name        string          `json:"name"`
	Key         *string         `json:"key"`
	Description string          `json:"description"`
	Color       *string         `json:"color"`
	StartDate   *string         `json:"startDate"`
	EndDate     *string         `json:"endDate"`
	Settings    projectSettings `json:"settings"`
	OwnerID     *uuid           `json:"ownerId"` // managers and admins make projects for others
}

var (
	projectKey   = regexp.MustCompile(`^[A-Z][A-Z0-9]{1,9}$`)
	projectColor = regexp.MustCompile(`^#[0-9A-Fa-f]{6}$`)
)

func (in newProjectBody) invalid() []fieldError {
	var f fields
	f.text("name", in.Name, minProjectName, maxProjectName, false)
	f.text("description", in.Description, 0, maxProjectDescription, true)
	if in.Key != nil && !projectKey.MatchString(*in.Key) {
		f.wrong("key", "invalid_key", "must be 2 to 10 capitals and digits, the first a capital")
	}
	f.color("color", in.Color)
	if in.StartDate != nil {
		f.date("startDate", *in.StartDate)
	}
	if in.EndDate != nil {
		f.date("endDate", *in.EndDate)
	}
	return f.errs
}

func (f *fields) color(field string, value *string) {
	if value != nil && !projectColor.MatchString(*value) {
		f.wrong(field, "invalid_color", "must be #RRGGBB")
	}
}

const (
	// lockKeySQL lets only one project at a time choose among the keys that differ in their last
	// digits, so that keys derived from one name never meet.
	lockKeySQL = `SELECT pg_advisory_xact_lock(hashtextextended(rtrim($1, '0123456789'), 0))`
	// insertProjectSQL takes the first key of $2 that is free.
	insertProjectSQL = `
	WITH p AS (
		INSERT INTO projects (id, key, name, description, color, start_date, end_date, settings, created_by)
		SELECT $1, coalesce((SELECT k FROM unnest($2::text[]) WITH ORDINALITY AS c(k, n)
				WHERE NOT EXISTS (SELECT FROM projects WHERE key = k) ORDER BY n LIMIT 1), $2[1]),
			$3, $4, $5, $6, $7, $8, $9
		RETURNING *)
	SELECT $1 FROM p`
	insertOwnerSQL = `
	WITH m AS (INSERT INTO members (project_id, user_id, role)
		SELECT $1, id, 'owner' FROM users WHERE id = $2 AND is_active FOR SHARE RETURNING user_id)
	SELECT CASE WHEN NOT EXISTS (SELECT FROM m) THEN refuse('invalid_user', 'ownerId') END`
	logProjectCreatedSQL = `
	SELECT log_change(p.id, $2, 'project.created', p.id, changes('{}', project_fields(p))) FROM projects p WHERE p.id = $1`
	projectByIDSQL = `SELECT ` + projectColumns + ` FROM projects p WHERE p.id = $1`
)

// handleCreateProject makes a project that its maker owns, or whom a manager or admin names.
func (s *server) handleCreateProject(w http.ResponseWriter, r *http.Request) error {
	in, err := decode[newProjectBody](w, r)
	if err != nil {
		return err
	}
	me := callerOf(r.Context())
	owner := me.ID
	if in.OwnerID != nil && *in.OwnerID != me.ID {
		if !me.seesAll() {
			return newProblem("forbidden", "Only managers and admins make projects for others.")
		}
		owner = *in.OwnerID
	}
	id := newUUID()
	keys := keyCandidates(in.Name)
	if in.Key != nil {
		keys = []string{*in.Key}
	}
	b := &pgx.Batch{}
	b.Queue(lockKeySQL, keys[0])
	b.Queue(insertProjectSQL, id, keys, in.Name, in.Description, in.Color, in.StartDate, in.EndDate, in.Settings, me.ID)
	b.Queue(insertOwnerSQL, id, owner)
	b.Queue(logProjectCreatedSQL, id, me.ID)
	b.Queue(projectByIDSQL, id)
	p, err := sendOne[project](r.Context(), s.db, b)
	if err != nil {
		return err
	}
	return writeCreated(w, r, "/api/v1/projects/"+id.String(), p.Version, p)
}

// plainCapitals are what European languages put marks on, without them.
var plainCapitals = strings.NewReplacer("À", "A", "Á", "A", "Â", "A", "Ã", "A", "Ä", "A", "Å", "A", "Æ", "AE", "Ç", "C", "È", "E", "É", "E", "Ê", "E", "Ë", "E",
	"Ì", "I", "Í", "I", "Î", "I", "Ï", "I", "Ł", "L", "Ñ", "N", "Ò", "O", "Ó", "O", "Ô", "O", "Õ", "O", "Ö", "O", "Ø", "O", "Œ", "OE", "ß", "SS", "Ś", "S", "Š", "S",
	"Ù", "U", "Ú", "U", "Û", "U", "Ü", "U", "Ý", "Y", "Ž", "Z")

// keyCandidates derives keys from a name, the nicest first: its initials, or the beginning of a
// single word; then the same with numbers, and last with letters of a random id.
func keyCandidates(name string) []string {
	words := strings.FieldsFunc(plainCapitals.Replace(strings.ToUpper(name)), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
	base := ""
	for _, word := range words {
		ascii := strings.Map(func(r rune) rune {
			if 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' {
				return r
			}
			return -1
		}, word)
		if len(words) == 1 {
			base = ascii
		} else if ascii != "" {
			base += ascii[:1]
		}
	}
	base = strings.TrimLeft(base, "0123456789")
	if len(base) < 2 {
		base = "P" + base + "X"
	}
	base = base[:min(len(base), 6)]
	keys := []string{base}
	for n := 2; n < 100; n++ {
		keys = append(keys, fmt.Sprintf("%s%d", base, n))
	}
	random := strings.ToUpper(newUUID().String())
	return append(keys, "P"+random[28:36])
}

const (
	// visibleSQL holds for projects p that the caller $1 reads; $2 tells that he sees all.
	visibleSQL = `p.deleted_at IS NULL AND ($2 OR EXISTS (
		SELECT FROM members m WHERE m.project_id = p.id AND m.user_id = $1))`
	readProjectSQL     = `SELECT ` + readerColumns + `, ` + projectColumns + ` FROM ` + readerTables + ` WHERE p.id = $3 AND ` + readerCondition
	readableProjectSQL = `SELECT p.id FROM projects p WHERE p.id = $3 AND ` + visibleSQL
)

// handleProject answers one project.
func (s *server) handleProject(w http.ResponseWriter, r *http.Request) error {
	if err := parseQuery(r).done(); err != nil {
		return err
	}
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	return s.writeDocument(w, r, document{&id, "project", func(ctx context.Context, a asker) (reader, content, error) {
		p, err := queryOne[projectReading](ctx, s.db, readProjectSQL, a.session, a.user, id)
		if err != nil {
			return reader{}, content{}, err
		}
		body, err := encode(p.project)
		return p.reader, content{tag: entityTag(p.Version), body: body}, err
	}})
}

// projectReading is a project with who reads it.
type projectReading struct {
	reader
	project
}

// readableProject is the id in the path, of a project that the caller reads.
func (s *server) readableProject(r *http.Request) (uuid, error) {
	id, err := pathUUID(r, "id")
	if err != nil {
		return id, err
	}
	return id, s.mayRead(r.Context(), id)
}

// mayRead is nil when the caller reads the project, and the problem not_found when not.
func (s *server) mayRead(ctx context.Context, project uuid) error {
	me := callerOf(ctx)
	_, err := queryValue[uuid](ctx, s.db, readableProjectSQL, me.ID, me.seesAll(), project)
	return err
}

// projectOrders are the orders a list of projects can have: the text of the sort key, which also
// makes the cursor, and its type.
var projectOrders = map[string]order{
	"createdAt": {"p.id", "uuid", true},
	"updatedAt": {"p.updated_at", "timestamptz", false},
	"name":      {`lower(p.name) COLLATE "C"`, "text", false},
	"key":       {"p.key", "text", true},
}

// handleProjects lists the projects that the caller reads.
func (s *server) handleProjects(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r)
	p := s.page(r, q)
	status := q.listOf("status", projectStatuses...)
	search := likePattern(q.search())
	deleted := q.bool("deleted")
	sort := q.sort(projectOrders, "-createdAt")
	if err := q.done(); err != nil {
		return err
	}
	me := callerOf(r.Context())
	var f filter
	if deleted {
		f.where("p.deleted_at IS NOT NULL AND role_in(p.id, ?) = 'owner'", me.ID)
	} else {
		f.where("p.deleted_at IS NULL AND (? OR p.id IN (SELECT project_id FROM members WHERE user_id = ?))", me.seesAll(), me.ID)
	}
	if status != nil {
		f.where("p.status = ANY (?::text[]::project_status[])", status)
	}
	if search != "" {
		f.where("(p.name ILIKE ? OR p.key ILIKE ?)", search, search)
	}
	var total *int64
	sql, args := f.count("projects p")
	total, err := s.countIf(r.Context(), p.total, sql, args...)
	if err != nil {
		return err
	}
	sql, args = f.page(projectColumns, "projects p", "p.id", sort, p)
	rows, err := queryAll[projectRow](r.Context(), s.db, sql, args...)
	if err != nil {
		return err
	}
	return writeList(s, w, r, p, rows, total, func(row projectRow) cursor {
		return cursor{Key: row.SortKey, ID: row.ID.String()}
	})
}

// projectRow is a project in a list, with the text of its sort key.
type projectRow struct {
	project
	SortKey string `json:"-"`
}

// projectPatch is the body of PATCH /projects/{id}.
type projectPatch struct {
	Name        optional[string]        `json:"name"`
	Description optional[string]        `json:"description"`
	Color       optional[string]        `json:"color"`
	Status      optional[string]        `json:"status"`
	StartDate   optional[string]        `json:"startDate"`
	EndDate     optional[string]        `json:"endDate"`
	Settings    optional[settingsPatch] `json:"settings"`
}

type settingsPatch struct {
	ViewersMayComment optional[bool] `json:"viewersMayComment"`
}

func (in projectPatch) invalid() []fieldError {
	var f fields
	patchText(&f, "name", in.Name, minProjectName, maxProjectName, false)
	if in.Description.set {
		f.text("description", in.Description.value, 0, maxProjectDescription, true)
	}
	if in.Color.set && !in.Color.null {
		f.color("color", &in.Color.value)
	}
	notNull(&f, "status", in.Status)
	if in.Status.set && !in.Status.null {
		f.oneOf("status", in.Status.value, projectStatuses...)
	}
	patchDate(&f, "startDate", in.StartDate)
	patchDate(&f, "endDate", in.EndDate)
	notNull(&f, "settings", in.Settings)
	notNull(&f, "settings.viewersMayComment", in.Settings.value.ViewersMayComment)
	return f.errs
}

// patchDate checks a date of a patch, which null clears.
func patchDate(f *fields, field string, o optional[string]) {
	if o.set && !o.null {
		f.date(field, o.value)
	}
}

const (
	enterProjectSQL = `SELECT enter_project($1, $2, $3, $4)`
	// patchProjectSQL sets columns; settings given are merged over those kept.
	patchProjectSQL = `
	WITH p AS (
		UPDATE projects p SET name = n.name, description = n.description, color = n.color, status = n.status,
			start_date = n.start_date, end_date = n.end_date, settings = n.settings,
			version = p.version + 1, updated_at = clock_timestamp()
		FROM projects o, jsonb_populate_record(o, $3::jsonb || jsonb_build_object('settings', o.settings || coalesce($3::jsonb -> 'settings', '{}'))) n
		WHERE o.id = $1 AND p.id = o.id AND project_fields(n) <> project_fields(o)
		RETURNING p.id, changes(project_fields(o), project_fields(p)) AS what)
	SELECT log_change(id, $2, 'project.updated', id, what) FROM p`
)

// handlePatchProject changes a project's own fields.
func (s *server) handlePatchProject(w http.ResponseWriter, r *http.Request) error {
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	in, err := decode[projectPatch](w, r)
	if err != nil {
		return err
	}
	set := columns{}
	setColumn(set, "name", in.Name)
	if in.Description.set {
		set["description"] = in.Description.value // null clears to the empty text
	}
	setColumn(set, "color", in.Color)
	setColumn(set, "status", in.Status)
	setColumn(set, "start_date", in.StartDate)
	setColumn(set, "end_date", in.EndDate)
	if v := in.Settings.value.ViewersMayComment; v.set {
		set["settings"] = projectSettings{ViewersMayComment: v.value}
	}
	text, err := set.json()
	if err != nil {
		return err
	}
	me := callerOf(r.Context()).ID
	b := &pgx.Batch{}
	b.Queue(enterProjectSQL, id, me, roleAdmin, ifMatch(r))
	b.Queue(patchProjectSQL, id, me, text)
	b.Queue(projectByIDSQL, id)
	p, err := sendOne[project](r.Context(), s.db, b)
	if err != nil {
		return err
	}
	return writeVersioned(w, r, http.StatusOK, p.Version, p)
}

const (
	deleteProjectSQL = `
	WITH p AS (
		UPDATE projects SET deleted_at = clock_timestamp(), updated_at = clock_timestamp(), version = version + 1
		WHERE id = $1 RETURNING id)
	SELECT log_change(id, $2, 'project.deleted', id, '{}') FROM p`
	enterTrashSQL     = `SELECT enter_project($1, $2, $3, $4, trash => true)`
	restoreProjectSQL = `
	WITH p AS (
		UPDATE projects SET deleted_at = NULL, updated_at = clock_timestamp(), version = version + 1
		WHERE id = $1 RETURNING id)
	SELECT log_change(id, $2, 'project.restored', id, '{}') FROM p`
)

// handleDeleteProject puts a project into the trash, with everything in it.
func (s *server) handleDeleteProject(w http.ResponseWriter, r *http.Request) error {
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	me := callerOf(r.Context()).ID
	b := &pgx.Batch{}
	b.Queue(enterProjectSQL, id, me, roleOwner, ifMatch(r))
	b.Queue(deleteProjectSQL, id, me)
	if err := s.db.send(r.Context(), b); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// handleRestoreProject takes a project out of the trash.
func (s *server) handleRestoreProject(w http.ResponseWriter, r *http.Request) error {
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	me := callerOf(r.Context()).ID
	b := &pgx.Batch{}
	b.Queue(enterTrashSQL, id, me, roleOwner, ifMatch(r))
	b.Queue(restoreProjectSQL, id, me)
	b.Queue(projectByIDSQL, id)
	p, err := sendOne[project](r.Context(), s.db, b)
	if err != nil {
		return err
	}
	return writeVersioned(w, r, http.StatusOK, p.Version, p)
}
