package main

import (
	"context"
	"net/http"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"
)

const maxComment = 10_000 // characters

// comment is what somebody says about a task.
type comment struct {
	ID        uuid       `json:"id"`
	TaskID    uuid       `json:"taskId"`
	AuthorID  uuid       `json:"authorId"`
	Body      string     `json:"body"`     // a mention in it is @[id of the user]
	Mentions  []uuid     `json:"mentions"` // who is mentioned, each once
	CreatedAt timestamp  `json:"createdAt"`
	EditedAt  *timestamp `json:"editedAt"` // null: never
	Version   int64      `json:"version"`

	Author    *profile  `json:"author,omitempty" db:"-"` // these two only where expand asks
	Mentioned []profile `json:"mentioned,omitzero" db:"-"`
}

// profile is a user as readers of his comments see him. He may have left the project, or the comment
// moved to one he was never in, so it does not tell his address.
type profile struct {
	ID        uuid    `json:"id"`
	FirstName string  `json:"firstName"`
	LastName  string  `json:"lastName"`
	AvatarURL *string `json:"avatarUrl"`
}

const (
	commentColumns = `c.id, c.task_id, c.author_id, c.body, c.mentions, c.created_at, c.edited_at, c.version`
	// readComments selects from the comments of live tasks that the caller $1, $2 reads.
	readComments = ` FROM comments c JOIN tasks t ON t.id = c.task_id AND t.deleted_at IS NULL JOIN projects p ON p.id = t.project_id
	WHERE ` + visibleSQL + ` AND `
	readCommentSQL    = `SELECT ` + commentColumns + readComments + `c.id = $3`
	commentByIDSQL    = `SELECT ` + commentColumns + ` FROM comments c WHERE c.id = $1`
	oldestCommentsSQL = `SELECT ` + commentColumns + readComments + `c.task_id = $3 AND c.id > $4 ORDER BY c.id LIMIT $5`
	newestCommentsSQL = `SELECT ` + commentColumns + readComments + `c.task_id = $3 AND c.id < $4 ORDER BY c.id DESC LIMIT $5`
	countCommentsSQL  = `SELECT count(*)` + readComments + `c.task_id = $3`
	liveTaskSQL       = readableTaskSQL + ` AND t.deleted_at IS NULL`
)

// handleComments lists what was said about a task, oldest first unless asked otherwise.
func (s *server) handleComments(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r)
	p := s.page(r, q)
	sql, from := oldestCommentsSQL, uuid{}
	if q.oneOf("sort", "createdAt", "-createdAt") == "-createdAt" {
		sql, from = newestCommentsSQL, lastUUID
	}
	expand := q.listOf("expand", "author", "mentioned")
	if err := q.done(); err != nil {
		return err
	}
	task, err := s.taskID(r, "id")
	if err != nil {
		return err
	}
	if p.after != nil {
		if from, err = parseUUID(p.after.ID); err != nil {
			return err
		}
	}
	me := callerOf(r.Context())
	comments, err := queryAll[comment](r.Context(), s.db, sql, me.ID, me.seesAll(), task, from, p.limit+1)
	if err != nil {
		return err
	}
	if len(comments) == 0 { // perhaps because he may not read the task
		if _, err := queryValue[uuid](r.Context(), s.db, liveTaskSQL, me.ID, me.seesAll(), task); err != nil {
			return err
		}
	}
	total, err := s.countIf(r.Context(), p.total, countCommentsSQL, me.ID, me.seesAll(), task)
	if err != nil {
		return err
	}
	if err := s.expandComments(r.Context(), comments, expand); err != nil {
		return err
	}
	return writeList(s, w, r, p, comments, total, func(c comment) cursor { return cursor{ID: c.ID.String()} })
}

// handleComment answers one comment.
func (s *server) handleComment(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r)
	expand := q.listOf("expand", "author", "mentioned")
	if err := q.done(); err != nil {
		return err
	}
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	c, err := s.readComment(r.Context(), id)
	if err != nil {
		return err
	}
	if expand == nil {
		return writeVersioned(w, r, http.StatusOK, c.Version, c)
	}
	one := []comment{c} // without an ETag: people have versions of their own
	if err := s.expandComments(r.Context(), one, expand); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, one[0])
}

// readComment is a comment that the caller reads.
func (s *server) readComment(ctx context.Context, id uuid) (comment, error) {
	me := callerOf(ctx)
	return queryOne[comment](ctx, s.db, readCommentSQL, me.ID, me.seesAll(), id)
}

// expandComments puts the people whom comments name into them, by one query for all.
func (s *server) expandComments(ctx context.Context, comments []comment, expand []string) error {
	author, mentioned := slices.Contains(expand, "author"), slices.Contains(expand, "mentioned")
	var ids []uuid
	for _, c := range comments {
		if author {
			ids = append(ids, c.AuthorID)
		}
		if mentioned {
			ids = append(ids, c.Mentions...)
		}
	}
	people, err := s.profiles(ctx, ids)
	if err != nil {
		return err
	}
	for i := range comments {
		c := &comments[i]
		if author {
			who := people[c.AuthorID]
			c.Author = &who
		}
		if mentioned {
			c.Mentioned = profilesOf(people, c.Mentions)
		}
	}
	return nil
}

const profilesSQL = `SELECT id, first_name, last_name, avatar_url FROM users WHERE id = ANY ($1)`

// profiles are users by their ids.
func (s *server) profiles(ctx context.Context, ids []uuid) (map[uuid]profile, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	found, err := queryAll[profile](ctx, s.db, profilesSQL, ids)
	people := make(map[uuid]profile, len(found))
	for _, who := range found {
		people[who.ID] = who
	}
	return people, err
}

func profilesOf(people map[uuid]profile, ids []uuid) []profile {
	list := make([]profile, 0, len(ids))
	for _, id := range ids {
		list = append(list, people[id])
	}
	return list
}

// newComment is the body of POST /tasks/{id}/comments.
type newComment struct {
	Body string `json:"body"`
}

func (in newComment) invalid() []fieldError {
	var f fields
	f.mentioning("body", in.Body, maxComment)
	return f.errs
}

const (
	enterCommentsSQL = `SELECT enter_comments($1, $2)`
	// checkMentionsSQL refuses to mention who is no active member of task $1's project, unless comment $2
	// mentions him already: he may have left, or the task moved.
	checkMentionsSQL = `
	SELECT refuse('not_mentionable', m.id::text) FROM unnest($3::uuid[]) AS m(id)
	WHERE NOT EXISTS (SELECT FROM tasks t JOIN members USING (project_id) JOIN users u ON u.id = user_id
			WHERE t.id = $1 AND user_id = m.id AND u.is_active)
		AND NOT EXISTS (SELECT FROM comments c WHERE c.id = $2 AND m.id = ANY (c.mentions))`
	createCommentSQL = `
	WITH c AS (
		INSERT INTO comments (id, task_id, author_id, body, mentions, created_at) VALUES ($1, $2, $3, $4, $5, $6)
		RETURNING id, task_id)
	SELECT log_change(t.project_id, $3, 'comment.created', t.id, jsonb_build_object('commentId', jsonb_build_array(NULL, c.id)))
	FROM c JOIN tasks t ON t.id = c.task_id`
)

// handleCreateComment says something about a task.
func (s *server) handleCreateComment(w http.ResponseWriter, r *http.Request) error {
	task, err := s.taskID(r, "id")
	if err != nil {
		return err
	}
	in, err := decode[newComment](w, r)
	if err != nil {
		return err
	}
	body, mentions, err := s.withMentions(r.Context(), in.Body, task)
	if err != nil {
		return err
	}
	id, me := newUUID(), callerOf(r.Context()).ID
	b := &pgx.Batch{}
	b.Queue(enterCommentsSQL, task, me)
	b.Queue(checkMentionsSQL, task, id, mentions)
	b.Queue(createCommentSQL, id, task, me, body, mentions, id.time())
	b.Queue(commentByIDSQL, id)
	facts := append([]fact{{Kind: "comment.created", Actor: me, Task: &task, Subject: &id}}, mentionFacts(me, task, id, mentions)...)
	c, err := sendAnd[comment](r.Context(), s, b, facts...)
	if err != nil {
		return err
	}
	return writeCreated(w, r, "/api/v1/comments/"+id.String(), c.Version, c)
}

// mentionFacts tell everybody but the author that a comment mentions him.
func mentionFacts(by, task, comment uuid, mentioned []uuid) []fact {
	var facts []fact
	for _, who := range mentioned {
		if who != by {
			facts = append(facts, fact{Kind: "comment.mentioned", Actor: by, User: &who, Task: &task, Subject: &comment})
		}
	}
	return facts
}

// commentPatch is the body of PATCH /comments/{id}.
type commentPatch struct {
	Body optional[string] `json:"body"`
}

func (in commentPatch) invalid() []fieldError {
	var f fields
	notNull(&f, "body", in.Body)
	if in.Body.set && !in.Body.null {
		f.mentioning("body", in.Body.value, maxComment)
	}
	return f.errs
}

const (
	enterCommentSQL = `SELECT enter_comment($1, $2, $3, $4)`
	// editCommentSQL keeps what the comment said before; an edit that changes nothing leaves no trace.
	editCommentSQL = `
	WITH c AS (
		UPDATE comments c SET body = $3, mentions = $4, edited_at = clock_timestamp(), version = c.version + 1
		FROM comments o WHERE o.id = $1 AND c.id = o.id AND o.body <> $3
		RETURNING c.id, c.task_id, c.edited_at, c.version, o.version AS old, o.body, o.mentions),
	e AS (
		INSERT INTO comment_edits (comment_id, version, body, mentions, edited_at)
		SELECT id, old, body, mentions, edited_at FROM c)
	SELECT log_change(t.project_id, $2, 'comment.updated', t.id, jsonb_build_object(
		'commentId', jsonb_build_array(c.id, c.id), 'version', jsonb_build_array(c.old, c.version)))
	FROM c JOIN tasks t ON t.id = c.task_id`
)

// handlePatchComment edits a comment of the caller's own. Who is mentioned anew is told; of two edits at
// once that mention the same one both may tell him.
func (s *server) handlePatchComment(w http.ResponseWriter, r *http.Request) error {
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	in, err := decode[commentPatch](w, r)
	if err != nil {
		return err
	}
	me := callerOf(r.Context()).ID
	b := &pgx.Batch{}
	b.Queue(enterCommentSQL, id, me, false, ifMatch(r))
	body, mentions, facts := in.Body.value, []uuid{}, []fact(nil)
	if len(splitMentions(body)) > 1 {
		old, err := s.readComment(r.Context(), id)
		if err != nil {
			return err
		}
		if body, mentions, err = s.withMentions(r.Context(), body, old.TaskID); err != nil {
			return err
		}
		b.Queue(checkMentionsSQL, old.TaskID, id, mentions)
		anew := slices.DeleteFunc(slices.Clone(mentions), func(who uuid) bool { return slices.Contains(old.Mentions, who) })
		facts = mentionFacts(me, old.TaskID, id, anew)
	}
	if in.Body.set {
		b.Queue(editCommentSQL, id, me, body, mentions)
	}
	b.Queue(commentByIDSQL, id)
	c, err := sendAnd[comment](r.Context(), s, b, facts...)
	if err != nil {
		return err
	}
	return writeVersioned(w, r, http.StatusOK, c.Version, c)
}

const deleteCommentSQL = `
	WITH c AS (DELETE FROM comments WHERE id = $1 RETURNING id, task_id, author_id)
	SELECT log_change(t.project_id, $2, 'comment.deleted', t.id, jsonb_build_object(
		'commentId', jsonb_build_array(c.id, NULL), 'authorId', jsonb_build_array(c.author_id, NULL)))
	FROM c JOIN tasks t ON t.id = c.task_id`

// handleDeleteComment deletes a comment for good, with all it said before.
func (s *server) handleDeleteComment(w http.ResponseWriter, r *http.Request) error {
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	me := callerOf(r.Context()).ID
	b := &pgx.Batch{}
	b.Queue(enterCommentSQL, id, me, true, ifMatch(r))
	b.Queue(deleteCommentSQL, id, me)
	if err := s.db.send(r.Context(), b); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// commentEdit is what a comment said before an edit.
type commentEdit struct {
	Version  int64     `json:"version"` // that said it
	Body     string    `json:"body"`
	Mentions []uuid    `json:"mentions"`
	EditedAt timestamp `json:"editedAt"` // when it became something else
	EditedBy uuid      `json:"editedBy"`

	Mentioned []profile `json:"mentioned,omitzero" db:"-"` // only where expand asks
}

const (
	// commentEditsSQL is newest first; only authors edit.
	commentEditsSQL = `
	SELECT e.version, e.body, e.mentions, e.edited_at, c.author_id AS edited_by
	FROM comment_edits e JOIN comments c ON c.id = e.comment_id WHERE e.comment_id = $1 AND e.version < $2 ORDER BY e.version DESC LIMIT $3`
	countCommentEditsSQL = `SELECT count(*) FROM comment_edits WHERE comment_id = $1`
)

// handleCommentHistory lists what a comment said before its edits, newest first.
func (s *server) handleCommentHistory(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r)
	p := s.page(r, q)
	expand := q.listOf("expand", "mentioned")
	if err := q.done(); err != nil {
		return err
	}
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	c, err := s.readComment(r.Context(), id)
	if err != nil {
		return err
	}
	before := c.Version
	if p.after != nil {
		if before, err = strconv.ParseInt(p.after.Key, 10, 64); err != nil {
			return err
		}
	}
	edits, err := queryAll[commentEdit](r.Context(), s.db, commentEditsSQL, id, before, p.limit+1)
	if err != nil {
		return err
	}
	total, err := s.countIf(r.Context(), p.total, countCommentEditsSQL, id)
	if err != nil {
		return err
	}
	if expand != nil {
		var ids []uuid
		for _, e := range edits {
			ids = append(ids, e.Mentions...)
		}
		people, err := s.profiles(r.Context(), ids)
		if err != nil {
			return err
		}
		for i := range edits {
			edits[i].Mentioned = profilesOf(people, edits[i].Mentions)
		}
	}
	return writeList(s, w, r, p, edits, total, func(e commentEdit) cursor {
		return cursor{Key: strconv.FormatInt(e.Version, 10)}
	})
}
