package main

import (
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
)

const invitationLife = 7 * 24 * time.Hour

// member is a user's place in a project.
type member struct {
	User     person     `json:"user"`
	Role     memberRole `json:"role"`
	JoinedAt timestamp  `json:"joinedAt"`
	Version  int64      `json:"version"`
}

// memberRow is a member as the database gives it.
type memberRow struct {
	person
	Role     memberRole
	JoinedAt timestamp
	Version  int64
}

func (m memberRow) member() member { return member{m.person, m.Role, m.JoinedAt, m.Version} }

const memberColumns = `u.id, u.first_name, u.last_name, u.email, u.avatar_url, m.role, m.created_at AS joined_at, m.version`

const (
	membersSQL = `
	SELECT ` + memberColumns + ` FROM members m JOIN users u ON u.id = m.user_id
	WHERE m.project_id = $1 AND u.id > $2 ORDER BY u.id LIMIT $3`
	countMembersSQL = `SELECT count(*) FROM members WHERE project_id = $1`
	memberSQL       = `
	SELECT ` + memberColumns + ` FROM members m JOIN users u ON u.id = m.user_id WHERE m.project_id = $1 AND m.user_id = $2`
)

// handleMembers lists a project's members.
func (s *server) handleMembers(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r)
	p := s.page(r, q)
	if err := q.done(); err != nil {
		return err
	}
	id, err := s.readableProject(r)
	if err != nil {
		return err
	}
	var after uuid
	if p.after != nil {
		if after, err = parseUUID(p.after.ID); err != nil {
			return err
		}
	}
	rows, err := queryAll[memberRow](r.Context(), s.db, membersSQL, id, after, p.limit+1)
	if err != nil {
		return err
	}
	total, err := s.countIf(r.Context(), p.total, countMembersSQL, id)
	if err != nil {
		return err
	}
	var members []member
	for _, row := range rows {
		members = append(members, row.member())
	}
	return writeList(s, w, r, p, members, total, func(m member) cursor { return cursor{ID: m.User.ID.String()} })
}

var memberRoles = []string{string(roleViewer), string(roleMember), string(roleAdmin), string(roleOwner)}

// newMember is the body of POST /projects/{id}/members: a user, or an address.
type newMember struct {
	UserID *uuid  `json:"userId"`
	Email  string `json:"email"`
	Role   string `json:"role"`
}

func (in newMember) invalid() []fieldError {
	var f fields
	if (in.UserID == nil) == (in.Email == "") {
		f.wrong("userId", "required", "or email must be given, and only one of them")
	}
	if in.Email != "" {
		f.email("email", in.Email)
	}
	f.oneOf("role", in.Role, memberRoles...)
	return f.errs
}

// invitation is an offer of membership to an address that has no account yet.
type invitation struct {
	ID        uuid       `json:"id"`
	ProjectID uuid       `json:"projectId"`
	Email     string     `json:"email"`
	Role      memberRole `json:"role"`
	InvitedBy uuid       `json:"invitedBy"`
	CreatedAt timestamp  `json:"createdAt"`
	ExpiresAt timestamp  `json:"expiresAt"`
	Token     string     `json:"token,omitempty" db:"-"` // shown once, to the inviter; also mailed where mail is set up
}

const invitationColumns = `id, project_id, email, role, invited_by, created_at, expires_at`

const (
	// grantSQL refuses to give or take a role at or above the actor's own, unless he is an owner.
	grantSQL = `
	SELECT refuse('forbidden', 'owner') WHERE role_in($1, $2) < 'owner'
		AND (role_in($1, $2) <= $3::text::member_role
			OR role_in($1, $2) <= coalesce((SELECT role FROM members WHERE project_id = $1 AND user_id = $4), 'viewer'))`
	// keepInvitationSQL is grantSQL for an invitation that is replaced or taken back.
	keepInvitationSQL = `
	SELECT refuse('forbidden', 'owner') FROM invitations
	WHERE project_id = $1 AND (id = $3 OR email = $4) AND role_in($1, $2) < 'owner' AND role_in($1, $2) <= role`
	// userByEmailSQL finds an account by an address that is proved to be its owner's, where mail can prove
	// it ($2): anybody may register with anybody's address, and wait there to be added.
	userByEmailSQL = `SELECT id FROM users WHERE email = $1 AND is_active AND (email_verified_at IS NOT NULL OR NOT $2)`
	// insertMemberSQL waits for who deletes the account at this moment.
	insertMemberSQL = `
	WITH m AS (
		INSERT INTO members (project_id, user_id, role)
		SELECT $1, id, $4::text::member_role FROM users WHERE id = $3 AND is_active FOR SHARE RETURNING user_id, role)
	SELECT CASE WHEN NOT EXISTS (SELECT FROM m) THEN refuse('invalid_user', 'userId')
		ELSE log_change($1, $2, 'member.added', $3, jsonb_build_object('role', jsonb_build_array(NULL, $4::text)))::text END`
	deleteInvitedSQL = `DELETE FROM invitations WHERE project_id = $1 AND email = (SELECT email FROM users WHERE id = $2)`
	// insertInvitationSQL invites an address; inviting it again replaces role and token.
	insertInvitationSQL = `
	INSERT INTO invitations (id, project_id, email, role, token_hash, invited_by, expires_at)
	VALUES ($1, $2, $3, $4::text::member_role, $5, $6, clock_timestamp() + $7::interval)
	ON CONFLICT ON CONSTRAINT invitations_email_key DO UPDATE SET id = excluded.id, role = excluded.role,
		token_hash = excluded.token_hash, invited_by = excluded.invited_by, created_at = clock_timestamp(), expires_at = excluded.expires_at`
	logInvitedSQL = `
	SELECT log_change($1, $2, 'invitation.created', $3, jsonb_build_object('email', jsonb_build_array(NULL, $4::text), 'role', jsonb_build_array(NULL, $5::text)))`
	invitationSQL = `SELECT ` + invitationColumns + ` FROM invitations WHERE id = $1`
)

// handleAddMember adds a user to a project, or invites an address that no active user has, or has proved:
// 201 with the member, or 202 with the invitation.
func (s *server) handleAddMember(w http.ResponseWriter, r *http.Request) error {
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	in, err := decode[newMember](w, r)
	if err != nil {
		return err
	}
	me := callerOf(r.Context()).ID
	b := &pgx.Batch{}
	b.Queue(enterProjectSQL, id, me, roleAdmin, nil)
	b.Queue(grantSQL, id, me, in.Role, in.UserID)
	user := in.UserID
	if user == nil {
		if err := s.db.send(r.Context(), b); err != nil { // may he at all? Only then may he learn who has an account
			return err
		}
		found, err := queryAll[struct{ ID uuid }](r.Context(), s.db, userByEmailSQL, canonicalEmail(in.Email), s.mail.on())
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return s.invite(w, r, b, id, in)
		}
		user = &found[0].ID
	}
	b.Queue(insertMemberSQL, id, me, user, in.Role)
	b.Queue(deleteInvitedSQL, id, user)
	b.Queue(memberSQL, id, user)
	row, err := sendAnd[memberRow](r.Context(), s, b, fact{Kind: "member.added", Actor: me, User: user, Project: &id})
	if err != nil {
		return err
	}
	return writeCreated(w, r, "/api/v1/projects/"+id.String()+"/members/"+user.String(), row.Version, row.member())
}

// invite adds the invitation to the batch that has passed the gate.
func (s *server) invite(w http.ResponseWriter, r *http.Request, b *pgx.Batch, project uuid, in newMember) error {
	me := callerOf(r.Context()).ID
	id, email := newUUID(), canonicalEmail(in.Email)
	token := s.keys.mailTokens("invitation", id.String())[0]
	b.Queue(keepInvitationSQL, project, me, nil, email)
	b.Queue(insertInvitationSQL, id, project, email, in.Role, tokenHash(token), me, invitationLife)
	b.Queue(logInvitedSQL, project, me, id, email, in.Role)
	b.Queue(invitationSQL, id)
	made, err := sendAnd[invitation](r.Context(), s, b, fact{Kind: "member.invited", Actor: me, Project: &project, Subject: &id})
	if err != nil {
		return err
	}
	made.Token = token
	w.Header().Set("Location", "/api/v1/projects/"+project.String()+"/invitations/"+id.String())
	return writeJSON(w, http.StatusAccepted, made)
}

// memberPatch is the body of PATCH /projects/{id}/members/{userId}.
type memberPatch struct {
	Role string `json:"role"`
}

func (in memberPatch) invalid() []fieldError {
	var f fields
	f.oneOf("role", in.Role, memberRoles...)
	return f.errs
}

const (
	lockMemberSQL = `
	SELECT CASE WHEN NOT EXISTS (SELECT FROM members WHERE project_id = $1 AND user_id = $2) THEN refuse('not_found')
		WHEN (SELECT version FROM members WHERE project_id = $1 AND user_id = $2) <> ALL ($3::bigint[])
		THEN refuse('version_mismatch', (SELECT version::text FROM members WHERE project_id = $1 AND user_id = $2)) END`
	patchMemberSQL = `
	WITH m AS (
		UPDATE members m SET role = $4::text::member_role, version = m.version + 1
		FROM members o
		WHERE o.project_id = $1 AND o.user_id = $3 AND m.project_id = o.project_id AND m.user_id = o.user_id AND o.role <> $4::text::member_role
		RETURNING m.user_id, o.role AS old, m.role AS new)
	SELECT log_change($1, $2, 'member.updated', user_id, jsonb_build_object('role', jsonb_build_array(old, new))) FROM m`
	keepOwnerSQL = `SELECT refuse('last_owner') WHERE NOT EXISTS (SELECT FROM members WHERE project_id = $1 AND role = 'owner')`
)

// handlePatchMember changes a member's role.
func (s *server) handlePatchMember(w http.ResponseWriter, r *http.Request) error {
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	user, err := pathUUID(r, "userId")
	if err != nil {
		return err
	}
	in, err := decode[memberPatch](w, r)
	if err != nil {
		return err
	}
	me := callerOf(r.Context()).ID
	b := &pgx.Batch{}
	b.Queue(enterProjectSQL, id, me, roleAdmin, nil)
	b.Queue(lockMemberSQL, id, user, ifMatch(r))
	b.Queue(grantSQL, id, me, in.Role, user)
	b.Queue(patchMemberSQL, id, me, user, in.Role)
	b.Queue(keepOwnerSQL, id)
	b.Queue(memberSQL, id, user)
	row, err := sendAnd[memberRow](r.Context(), s, b, fact{Kind: "member.updated", Actor: me, User: &user, Project: &id})
	if err != nil {
		return err
	}
	return writeVersioned(w, r, http.StatusOK, row.Version, row.member())
}

const (
	// unassignSQL takes a leaving member's tasks from him, each with its history entry.
	unassignSQL = `
	WITH t AS (
		UPDATE tasks SET assignee_id = NULL, version = version + 1, updated_at = clock_timestamp()
		WHERE project_id = $1 AND assignee_id = $3 RETURNING id)
	SELECT log_change($1, $2, 'task.updated', id, jsonb_build_object('assigneeId', jsonb_build_array($3::uuid, NULL))) FROM t`
	unwatchSQL = `
	DELETE FROM task_watchers w USING tasks t WHERE w.task_id = t.id AND t.project_id = $1 AND w.user_id = $2`
	deleteMemberSQL = `
	WITH m AS (DELETE FROM members WHERE project_id = $1 AND user_id = $3 RETURNING user_id, role)
	SELECT log_change($1, $2, 'member.removed', user_id, jsonb_build_object('role', jsonb_build_array(role, NULL))) FROM m`
)

// handleRemoveMember removes a member, or lets the caller leave. His tasks lose their assignee.
func (s *server) handleRemoveMember(w http.ResponseWriter, r *http.Request) error {
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	user, err := pathUUID(r, "userId")
	if err != nil {
		return err
	}
	me := callerOf(r.Context()).ID
	b := &pgx.Batch{}
	if user == me {
		b.Queue(enterProjectSQL, id, me, roleViewer, nil)
		b.Queue(lockMemberSQL, id, user, ifMatch(r))
	} else {
		b.Queue(enterProjectSQL, id, me, roleAdmin, nil)
		b.Queue(lockMemberSQL, id, user, ifMatch(r))
		b.Queue(grantSQL, id, me, roleViewer, user)
	}
	b.Queue(unassignSQL, id, me, user)
	b.Queue(unwatchSQL, id, user)
	b.Queue(deleteMemberSQL, id, me, user)
	b.Queue(keepOwnerSQL, id)
	if err := s.sendTelling(r.Context(), b, fact{Kind: "member.removed", Actor: me, User: &user, Project: &id}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

const (
	invitationsSQL = `
	SELECT ` + invitationColumns + ` FROM invitations WHERE project_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3`
	countInvitationsSQL = `SELECT count(*) FROM invitations WHERE project_id = $1`
)

// handleInvitations lists the invitations of a project that nobody has accepted, for its admins.
func (s *server) handleInvitations(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r)
	p := s.page(r, q)
	if err := q.done(); err != nil {
		return err
	}
	id, err := s.readableProject(r)
	if err != nil {
		return err
	}
	if err := s.needRole(r, id, roleAdmin); err != nil {
		return err
	}
	rows, err := queryAll[invitation](r.Context(), s.db, invitationsSQL, id, p.beforeID(), p.limit+1)
	if err != nil {
		return err
	}
	total, err := s.countIf(r.Context(), p.total, countInvitationsSQL, id)
	if err != nil {
		return err
	}
	return writeList(s, w, r, p, rows, total, func(i invitation) cursor { return cursor{ID: i.ID.String()} })
}

const needRoleSQL = `SELECT coalesce(role_in($1, $2) >= $3::text::member_role, false)`

// needRole is for the few reads that want more than viewing.
func (s *server) needRole(r *http.Request, project uuid, need memberRole) error {
	ok, err := queryValue[bool](r.Context(), s.db, needRoleSQL, project, callerOf(r.Context()).ID, need)
	if err == nil && !ok {
		err = refused("forbidden", string(need))
	}
	return err
}

const deleteInvitationSQL = `
	WITH i AS (DELETE FROM invitations WHERE project_id = $1 AND id = $3 RETURNING id, email)
	SELECT CASE WHEN NOT EXISTS (SELECT FROM i) THEN refuse('not_found')
		ELSE log_change($1, $2, 'invitation.deleted', $3, (SELECT jsonb_build_object('email', jsonb_build_array(email, NULL)) FROM i))::text END`

// handleDeleteInvitation takes an invitation back.
func (s *server) handleDeleteInvitation(w http.ResponseWriter, r *http.Request) error {
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	invited, err := pathUUID(r, "invitationId")
	if err != nil {
		return err
	}
	me := callerOf(r.Context()).ID
	b := &pgx.Batch{}
	b.Queue(enterProjectSQL, id, me, roleAdmin, nil)
	b.Queue(keepInvitationSQL, id, me, invited, nil)
	b.Queue(deleteInvitationSQL, id, me, invited)
	if err := s.db.send(r.Context(), b); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// acceptance is the body of POST /invitations/accept.
type acceptance struct {
	Token string `json:"token"`
}

func (in acceptance) invalid() []fieldError {
	var f fields
	f.text("token", in.Token, 1, 100, false)
	return f.errs
}

const (
	// enterInvitationSQL locks the project of a valid invitation to the caller's own address.
	enterInvitationSQL = `
	SELECT p.id FROM projects p
	WHERE p.deleted_at IS NULL AND p.id = (SELECT i.project_id FROM invitations i JOIN users u ON u.email = i.email
		WHERE i.token_hash = $1 AND i.expires_at > clock_timestamp() AND u.id = $2)
	FOR NO KEY UPDATE`
	// acceptSQL uses the invitation up. Whoever is a member already keeps the role he has.
	acceptSQL = `
	WITH i AS (
		DELETE FROM invitations i USING users u, projects p
		WHERE i.token_hash = $1 AND i.expires_at > clock_timestamp() AND u.id = $2 AND u.email = i.email
			AND p.id = i.project_id AND p.deleted_at IS NULL RETURNING i.project_id, i.role),
	m AS (
		INSERT INTO members (project_id, user_id, role) SELECT project_id, $2, role FROM i
		ON CONFLICT DO NOTHING RETURNING project_id, role)
	SELECT CASE WHEN NOT EXISTS (SELECT FROM i) THEN refuse('not_found')
		ELSE (SELECT log_change(project_id, $2, 'member.added', $2, jsonb_build_object('role', jsonb_build_array(NULL, role)))::text FROM m) END`
	acceptedProjectSQL = `SELECT ` + projectColumns + ` FROM projects p WHERE p.id = $1`
	invitedProjectSQL  = `SELECT project_id AS id FROM invitations WHERE token_hash = $1`
)

// handleAcceptInvitation makes the caller a member by a token that was sent to his address, and
// answers the project.
func (s *server) handleAcceptInvitation(w http.ResponseWriter, r *http.Request) error {
	in, err := decode[acceptance](w, r)
	if err != nil {
		return err
	}
	me, hash := callerOf(r.Context()).ID, tokenHash(in.Token)
	invited, err := queryOne[struct{ ID uuid }](r.Context(), s.db, invitedProjectSQL, hash)
	if err != nil {
		return err
	}
	b := &pgx.Batch{}
	b.Queue(setTraceSQL, traceOf(r.Context()).mark())
	b.Queue(enterInvitationSQL, hash, me)
	b.Queue(lockActiveSQL, me)
	b.Queue(acceptSQL, hash, me)
	b.Queue(acceptedProjectSQL, invited.ID)
	p, err := sendOne[project](r.Context(), s.db, b)
	if err != nil {
		return err
	}
	return writeVersioned(w, r, http.StatusOK, p.Version, p)
}
