package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

const (
	maxEmail      = 254  // characters, RFC 5321
	maxEmailLocal = 64   // of them before the @
	maxName       = 50   // characters of a first or last name
	maxAvatar     = 2000 // characters of an address
)

// account is a user as he sees himself, and as admins see him.
type account struct {
	ID        uuid       `json:"id"`
	Email     string     `json:"email"`
	FirstName string     `json:"firstName"`
	LastName  string     `json:"lastName"`
	AvatarURL *string    `json:"avatarUrl"`
	Timezone  string     `json:"timezone"` // IANA name; decides what "overdue" means
	Locale    string     `json:"locale"`   // BCP 47
	Role      globalRole `json:"role"`
	IsActive  bool       `json:"isActive"`
	CreatedAt timestamp  `json:"createdAt"`
	UpdatedAt timestamp  `json:"updatedAt"`
	Version   int64      `json:"version"`

	EmailVerified bool `json:"emailVerified"` // by a token that was mailed to it
	TOTPEnabled   bool `json:"totpEnabled"`   // signing in takes a second factor
}

const accountColumns = `id, email, first_name, last_name, avatar_url, timezone, locale, role, is_active, created_at, updated_at, version,
	email_verified_at IS NOT NULL AS email_verified, totp_since IS NOT NULL AS totp_enabled`

const accountByIDSQL = `SELECT ` + accountColumns + ` FROM users WHERE id = $1`

// person is a user as those see him who share a project with him.
type person struct {
	ID        uuid    `json:"id"`
	FirstName string  `json:"firstName"`
	LastName  string  `json:"lastName"`
	Email     string  `json:"email"`
	AvatarURL *string `json:"avatarUrl"`
}

// canonicalEmail is the form in which an address is stored and compared.
func canonicalEmail(email string) string { return strings.ToLower(email) }

// emailAddress is an addr-spec (RFC 5321) without quoting, at a domain with a dot or at localhost.
// ASCII only, as browsers have it: two addresses that look alike are two addresses, and every mail
// server can deliver to it. Domains in other letters have an ASCII form.
var emailAddress = regexp.MustCompile(`^[A-Za-z0-9!#$%&'*+/=?^_{|}~` + "`" + `-]+(\.[A-Za-z0-9!#$%&'*+/=?^_{|}~` + "`" + `-]+)*@` +
	`(localhost|([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)$`)

func (f *fields) email(field, value string) {
	switch {
	case value == "":
		f.wrong(field, "required", "must not be empty")
	case len(value) > maxEmail || strings.IndexByte(value, '@') > maxEmailLocal:
		f.wrong(field, "too_long", fmt.Sprintf("must have at most %d characters, %d of them before the @", maxEmail, maxEmailLocal))
	case !emailAddress.MatchString(value):
		f.wrong(field, "invalid_email", "must be an address such as ada@example.org, in ASCII")
	}
}

// handleMe answers the caller's own account.
func (s *server) handleMe(w http.ResponseWriter, r *http.Request) error {
	if err := parseQuery(r).done(); err != nil {
		return err
	}
	a, err := queryOne[account](r.Context(), s.db, accountByIDSQL, callerOf(r.Context()).ID)
	if err != nil {
		return err
	}
	return writeVersioned(w, r, http.StatusOK, a.Version, a)
}

// mePatch is the body of PATCH /me.
type mePatch struct {
	FirstName optional[string] `json:"firstName"`
	LastName  optional[string] `json:"lastName"`
	AvatarURL optional[string] `json:"avatarUrl"`
	Timezone  optional[string] `json:"timezone"`
	Locale    optional[string] `json:"locale"`
}

var localeTag = regexp.MustCompile(`^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$`)

func (in mePatch) invalid() []fieldError {
	var f fields
	patchText(&f, "firstName", in.FirstName, 1, maxName, false)
	patchText(&f, "lastName", in.LastName, 1, maxName, false)
	if in.AvatarURL.set && !in.AvatarURL.null {
		u, err := url.Parse(in.AvatarURL.value)
		if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || utf8.RuneCountInString(in.AvatarURL.value) > maxAvatar || strings.ContainsFunc(in.AvatarURL.value, isControl) {
			f.wrong("avatarUrl", "invalid_url", fmt.Sprintf("must be an https address of at most %d characters", maxAvatar))
		}
	}
	notNull(&f, "timezone", in.Timezone)
	if in.Timezone.set && !in.Timezone.null {
		if _, err := time.LoadLocation(in.Timezone.value); err != nil || in.Timezone.value == "" || in.Timezone.value == "Local" {
			f.errs = append(f.errs, refused("invalid_timezone", "").Errors...)
		}
	}
	notNull(&f, "locale", in.Locale)
	if in.Locale.set && !in.Locale.null && (!localeTag.MatchString(in.Locale.value) || len(in.Locale.value) > 35) {
		f.wrong("locale", "invalid_locale", "must be a language tag (BCP 47) such as en or de-CH")
	}
	return f.errs
}

// notNull refuses null for a field that cannot be cleared.
func notNull[T any](f *fields, field string, o optional[T]) {
	if o.null {
		f.wrong(field, "required", "must not be null; leave it out to keep it")
	}
}

// patchText checks a text of a patch that cannot be cleared.
func patchText(f *fields, field string, o optional[string], least, most int, long bool) {
	notNull(f, field, o)
	if o.set && !o.null {
		f.text(field, o.value, least, most, long)
	}
}

// columns are the fields a patch sets, by column, as jsonb_populate_record takes them: absent
// keeps, null clears.
type columns map[string]any

func setColumn[T any](c columns, name string, o optional[T]) {
	switch {
	case o.null:
		c[name] = nil
	case o.set:
		c[name] = o.value
	}
}

// json is the columns as a parameter for a statement.
func (c columns) json() (string, error) {
	text, err := json.Marshal(map[string]any(c))
	return string(text), err
}

// patchAccountSQL sets columns of an account. A patch that changes nothing leaves no trace.
const patchAccountSQL = `
	WITH u AS (
		UPDATE users u SET email = n.email, first_name = n.first_name, last_name = n.last_name, avatar_url = n.avatar_url,
			timezone = n.timezone, locale = n.locale, role = n.role, is_active = n.is_active,
			version = u.version + 1, updated_at = clock_timestamp()
		FROM users o, jsonb_populate_record(o, $3) n
		WHERE o.id = $1 AND u.id = o.id AND user_fields(n) <> user_fields(o)
		RETURNING u.id, changes(user_fields(o), user_fields(u)) AS what)
	SELECT log_account_change(id, $2, 'user.updated', id, what) FROM u`

// checkTimezoneSQL refuses a zone that this program knows and the database does not: statements
// that compute with people's zones would fail.
const checkTimezoneSQL = `SELECT refuse('invalid_timezone') WHERE NOT EXISTS (SELECT FROM pg_timezone_names WHERE name = $1)`

// lockActiveSQL locks the account of who makes or keeps something by it: a request that was under way
// when the account was deleted or deactivated leaves nothing behind.
const lockActiveSQL = `
	WITH u AS (SELECT id FROM users WHERE id = $1 AND is_active FOR NO KEY UPDATE)
	SELECT refuse('unauthenticated') WHERE NOT EXISTS (SELECT FROM u)`

// lockAccountSQL locks an account and judges If-Match.
const lockAccountSQL = `
	WITH u AS (SELECT version FROM users WHERE id = $1 FOR NO KEY UPDATE)
	SELECT CASE WHEN NOT EXISTS (SELECT FROM u) THEN refuse('not_found')
		WHEN (SELECT version FROM u) <> ALL ($2::bigint[]) THEN refuse('version_mismatch', (SELECT version::text FROM u)) END`

// handlePatchMe changes the caller's own account.
func (s *server) handlePatchMe(w http.ResponseWriter, r *http.Request) error {
	in, err := decode[mePatch](w, r)
	if err != nil {
		return err
	}
	set := columns{}
	setColumn(set, "first_name", in.FirstName)
	setColumn(set, "last_name", in.LastName)
	setColumn(set, "avatar_url", in.AvatarURL)
	setColumn(set, "timezone", in.Timezone)
	setColumn(set, "locale", in.Locale)
	text, err := set.json()
	if err != nil {
		return err
	}
	me := callerOf(r.Context()).ID
	b := &pgx.Batch{}
	if in.Timezone.set {
		b.Queue(checkTimezoneSQL, in.Timezone.value)
	}
	b.Queue(lockActiveSQL, me)
	b.Queue(lockAccountSQL, me, ifMatch(r))
	b.Queue(patchAccountSQL, me, me, text)
	b.Queue(accountByIDSQL, me)
	a, err := sendOne[account](r.Context(), s.db, b)
	if err != nil {
		return err
	}
	return writeVersioned(w, r, http.StatusOK, a.Version, a)
}

// passwordChange is the body of PUT /me/password.
type passwordChange struct {
	CurrentPassword string `json:"currentPassword"`
	NewPassword     string `json:"newPassword"`
}

func (in passwordChange) invalid() []fieldError {
	var f fields
	f.text("currentPassword", in.CurrentPassword, 1, maxPassword, false)
	f.newPassword("newPassword", in.NewPassword)
	return f.errs
}

const (
	// setPasswordSQL works only on the hash that was checked, so of two changes at once one fails.
	setPasswordSQL = `
	WITH u AS (
		UPDATE users SET password_hash = $3, version = version + 1, updated_at = clock_timestamp()
		WHERE id = $1 AND password_hash = $2 RETURNING id)
	SELECT CASE WHEN EXISTS (SELECT FROM u) THEN log_account_change($1, $1, 'user.password_changed', $1, '{}')::text
		ELSE refuse('wrong_password')::text END`
	// forgetTokensSQL makes what was mailed to the owner of an account worthless: whoever has set the
	// password knows what he wants, and a thief before him may have asked for another address.
	forgetTokensSQL = `UPDATE account_tokens SET used_at = clock_timestamp() WHERE user_id = $1 AND used_at IS NULL`
	// revokeSessionsSQL ends the sessions of a user; all but the one given.
	revokeSessionsSQL = `
	WITH s AS (
		UPDATE sessions SET revoked_at = clock_timestamp()
		WHERE user_id = $1 AND id IS DISTINCT FROM $2 AND revoked_at IS NULL RETURNING id)
	SELECT log_account_change($1, $3, 'session.ended', id, '{}') FROM s`
)

// handleSetPassword changes the caller's password and ends his other sessions.
func (s *server) handleSetPassword(w http.ResponseWriter, r *http.Request) error {
	in, err := decode[passwordChange](w, r)
	if err != nil {
		return err
	}
	me := callerOf(r.Context())
	stored, err := s.confirmPassword(r, in.CurrentPassword)
	if err != nil {
		return err
	}
	var f fields
	if f.newPassword("newPassword", in.NewPassword, stored.FirstName, stored.LastName, stored.Email); len(f.errs) > 0 {
		return invalid(f.errs...)
	}
	hash, err := s.hashPassword(r.Context(), in.NewPassword)
	if err != nil {
		return err
	}
	b := &pgx.Batch{}
	b.Queue(setPasswordSQL, me.ID, stored.PasswordHash, hash)
	b.Queue(forgetTokensSQL, me.ID)
	b.Queue(revokeSessionsSQL, me.ID, me.Session, me.ID)
	if err := s.sendTelling(r.Context(), b, fact{Kind: "user.password_changed", Actor: me.ID, User: &me.ID}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// sessionInfo is one signed-in device of a user.
type sessionInfo struct {
	ID         uuid      `json:"id"`
	UserAgent  string    `json:"userAgent"`
	IP         string    `json:"ip"`
	CreatedAt  timestamp `json:"createdAt"`
	LastUsedAt timestamp `json:"lastUsedAt"` // sign-in or latest refresh
	ExpiresAt  timestamp `json:"expiresAt"`
	Current    bool      `json:"current"` // the session of the token that asks
}

const sessionsSQL = `
	SELECT id, user_agent, ip, created_at, last_used_at, expires_at, id = $2 AS current FROM sessions
	WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > now() AND id < $3 ORDER BY id DESC LIMIT $4`

// handleSessions lists the caller's sessions, newest first.
func (s *server) handleSessions(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r)
	p := s.page(r, q)
	if err := q.done(); err != nil {
		return err
	}
	me := callerOf(r.Context())
	rows, err := queryAll[sessionInfo](r.Context(), s.db, sessionsSQL, me.ID, me.Session, p.beforeID(), p.limit+1)
	if err != nil {
		return err
	}
	total, err := s.countIf(r.Context(), p.total, countSessionsSQL, me.ID)
	if err != nil {
		return err
	}
	return writeList(s, w, r, p, rows, total, func(i sessionInfo) cursor { return cursor{ID: i.ID.String()} })
}

const countSessionsSQL = `SELECT count(*) FROM sessions WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > now()`

// endSessionSQL ends one session of a user; another's is not found.
const endSessionSQL = `
	WITH s AS (
		UPDATE sessions SET revoked_at = clock_timestamp()
		WHERE id = $1 AND user_id = $2 AND revoked_at IS NULL RETURNING id)
	SELECT CASE WHEN EXISTS (SELECT FROM s) THEN log_account_change($2, $2, 'session.ended', $1, '{}')::text
		ELSE refuse('not_found')::text END`

// handleEndSession signs one of the caller's devices out.
func (s *server) handleEndSession(w http.ResponseWriter, r *http.Request) error {
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	b := &pgx.Batch{}
	b.Queue(endSessionSQL, id, callerOf(r.Context()).ID)
	if err := s.db.send(r.Context(), b); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// handleEndSessions signs all of the caller's other devices out.
func (s *server) handleEndSessions(w http.ResponseWriter, r *http.Request) error {
	me := callerOf(r.Context())
	b := &pgx.Batch{}
	b.Queue(revokeSessionsSQL, me.ID, me.Session, me.ID)
	if err := s.db.send(r.Context(), b); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

const (
	// knownSQL holds for users u whom the caller $1 may know of: $2 tells that he sees all.
	knownSQL = `(u.id = $1 OR $2 OR EXISTS (
		SELECT FROM members mine JOIN members theirs USING (project_id)
		JOIN projects p ON p.id = mine.project_id AND p.deleted_at IS NULL
		WHERE mine.user_id = $1 AND theirs.user_id = u.id))`
	peopleSQL = `
	SELECT u.id, u.first_name, u.last_name, u.email, u.avatar_url FROM users u
	WHERE ` + knownSQL + ` AND ($3 = '' OR u.first_name || ' ' || u.last_name || ' ' || u.email ILIKE $3) AND u.id < $4
	ORDER BY u.id DESC LIMIT $5`
	countPeopleSQL = `
	SELECT count(*) FROM users u
	WHERE ` + knownSQL + ` AND ($3 = '' OR u.first_name || ' ' || u.last_name || ' ' || u.email ILIKE $3)`
	personByIDSQL = `
	SELECT ` + accountColumns + ` FROM users u WHERE u.id = $3 AND ` + knownSQL
)

// handleUsers lists the people the caller may know of: those of his projects; admins and managers see everyone.
func (s *server) handleUsers(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r)
	p := s.page(r, q)
	search := likePattern(q.search())
	if err := q.done(); err != nil {
		return err
	}
	me := callerOf(r.Context())
	rows, err := queryAll[person](r.Context(), s.db, peopleSQL, me.ID, me.seesAll(), search, p.beforeID(), p.limit+1)
	if err != nil {
		return err
	}
	total, err := s.countIf(r.Context(), p.total, countPeopleSQL, me.ID, me.seesAll(), search)
	if err != nil {
		return err
	}
	return writeList(s, w, r, p, rows, total, func(x person) cursor { return cursor{ID: x.ID.String()} })
}

// handleUser answers one person; to admins, and to himself, with the whole account.
func (s *server) handleUser(w http.ResponseWriter, r *http.Request) error {
	if err := parseQuery(r).done(); err != nil {
		return err
	}
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	me := callerOf(r.Context())
	a, err := queryOne[account](r.Context(), s.db, personByIDSQL, me.ID, me.seesAll(), id)
	if err != nil {
		return err
	}
	if me.Role == globalAdmin || me.ID == id {
		return writeVersioned(w, r, http.StatusOK, a.Version, a)
	}
	return writeVersioned(w, r, http.StatusOK, a.Version, person{a.ID, a.FirstName, a.LastName, a.Email, a.AvatarURL})
}

// userPatch is the body of PATCH /users/{id}, an admin's.
type userPatch struct {
	Role     optional[string] `json:"role"`
	IsActive optional[bool]   `json:"isActive"`
}

func (in userPatch) invalid() []fieldError {
	var f fields
	notNull(&f, "role", in.Role)
	if in.Role.set && !in.Role.null {
		f.oneOf("role", in.Role.value, string(globalMember), string(globalManager), string(globalAdmin))
	}
	notNull(&f, "isActive", in.IsActive)
	return f.errs
}

const (
	// lockAdminsSQL makes changes to admins wait for each other, so that two cannot remove the last two.
	lockAdminsSQL = `SELECT id FROM users WHERE role = 'admin' AND is_active ORDER BY id FOR NO KEY UPDATE`
	keepAdminSQL  = `SELECT refuse('last_admin') WHERE NOT EXISTS (SELECT FROM users WHERE role = 'admin' AND is_active)`
	// dropInactiveSQL deletes every API token of an account that is not active.
	dropInactiveSQL = `DELETE FROM api_tokens WHERE user_id = (SELECT id FROM users WHERE id = $1 AND NOT is_active)`
	// endInactiveSQL ends every session of an account that is not active.
	endInactiveSQL = `
	WITH s AS (
		UPDATE sessions SET revoked_at = clock_timestamp()
		WHERE user_id = (SELECT id FROM users WHERE id = $1 AND NOT is_active) AND revoked_at IS NULL RETURNING id)
	SELECT log_account_change($1, $2, 'session.ended', id, '{}') FROM s`
)

// patchUser changes an account as an admin does; by is nil for the operator's command line.
// Deactivating an account ends its sessions and API tokens.
func (s *server) patchUser(ctx context.Context, by *uuid, id uuid, in userPatch, versions []int64) (account, error) {
	set := columns{}
	setColumn(set, "role", in.Role)
	setColumn(set, "is_active", in.IsActive)
	text, err := set.json()
	if err != nil {
		return account{}, err
	}
	b := &pgx.Batch{}
	b.Queue(lockAdminsSQL)
	b.Queue(lockAccountSQL, id, versions)
	b.Queue(patchAccountSQL, id, by, text)
	b.Queue(keepAdminSQL)
	b.Queue(endInactiveSQL, id, by)
	b.Queue(dropInactiveSQL, id)
	b.Queue(accountByIDSQL, id)
	return sendOne[account](ctx, s.db, b)
}

// handlePatchUser changes the role or the activity of an account.
func (s *server) handlePatchUser(w http.ResponseWriter, r *http.Request) error {
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	in, err := decode[userPatch](w, r)
	if err != nil {
		return err
	}
	me := callerOf(r.Context()).ID
	a, err := s.patchUser(r.Context(), &me, id, in, ifMatch(r))
	if err != nil {
		return err
	}
	return writeVersioned(w, r, http.StatusOK, a.Version, a)
}
