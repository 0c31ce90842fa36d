package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	apiTokenPrefix   = "tf_"
	maxAPITokens     = 50              // of one user
	maxAPITokenName  = 100             // characters
	maxAPITokenYears = 10              // until it expires
	tokenUseEvery    = 1 * time.Minute // at most so often its last use is noted
)

// randomToken is 256 bits that nobody can guess.
func randomToken() string {
	var raw [32]byte
	rand.Read(raw[:])
	return base64.RawURLEncoding.EncodeToString(raw[:])
}

// tokenHash is what the database keeps of a token, so that reading it gives nobody a token.
func tokenHash(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// What an API token may do; never more than its user may.
const (
	scopeRead  = "read"  // GET and HEAD
	scopeWrite = "write" // every method
	scopeAdmin = "admin" // also what only admins of the installation may do
)

// apiToken lets a program act for a user.
type apiToken struct {
	ID         uuid       `json:"id"`
	Name       string     `json:"name"`
	Scopes     []string   `json:"scopes"`
	CreatedAt  timestamp  `json:"createdAt"`
	ExpiresAt  *timestamp `json:"expiresAt"`              // null: never
	LastUsedAt *timestamp `json:"lastUsedAt"`             // to the minute
	Token      string     `json:"token,omitempty" db:"-"` // shown once, to who made it
}

const apiTokenColumns = `id, name, scopes, created_at, expires_at, last_used_at`

const (
	apiTokensSQL = `
	SELECT ` + apiTokenColumns + ` FROM api_tokens WHERE user_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3`
	countAPITokensSQL = `SELECT count(*) FROM api_tokens WHERE user_id = $1`
)

// handleAPITokens lists the caller's API tokens, newest first.
func (s *server) handleAPITokens(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r)
	p := s.page(r, q)
	if err := q.done(); err != nil {
		return err
	}
	me := callerOf(r.Context()).ID
	rows, err := queryAll[apiToken](r.Context(), s.db, apiTokensSQL, me, p.beforeID(), p.limit+1)
	if err != nil {
		return err
	}
	total, err := s.countIf(r.Context(), p.total, countAPITokensSQL, me)
	if err != nil {
		return err
	}
	return writeList(s, w, r, p, rows, total, func(t apiToken) cursor { return cursor{ID: t.ID.String()} })
}

// newAPIToken is the body of POST /me/tokens.
type newAPIToken struct {
	Name      string   `json:"name"`
	Scopes    []string `json:"scopes"`
	ExpiresAt *string  `json:"expiresAt"` // default never
}

func (in newAPIToken) invalid() []fieldError {
	var f fields
	f.text("name", in.Name, 1, maxAPITokenName, false)
	for i, scope := range in.Scopes {
		field := fmt.Sprintf("scopes[%d]", i)
		f.oneOf(field, scope, scopeRead, scopeWrite, scopeAdmin)
		if slices.Contains(in.Scopes[:i], scope) {
			f.wrong(field, "repeated", "must be there once")
		}
	}
	if !slices.Contains(in.Scopes, scopeRead) && !slices.Contains(in.Scopes, scopeWrite) {
		f.wrong("scopes", "required", "must have read or write, which admin comes on top of")
	}
	if in.ExpiresAt != nil {
		at, ok := parseTimestamp(*in.ExpiresAt)
		switch now := time.Now(); {
		case !ok:
			f.wrong("expiresAt", "invalid_time", "must be an RFC 3339 time such as 2026-03-01T09:30:00Z")
		case at.Before(now) || at.After(now.AddDate(maxAPITokenYears, 0, 0)):
			f.wrong("expiresAt", "out_of_range", fmt.Sprintf("must be in the future, within %d years", maxAPITokenYears))
		}
	}
	return f.errs
}

const (
	// lockUserSQL makes changes to one account wait for each other.
	lockUserSQL       = `SELECT id FROM users WHERE id = $1 FOR NO KEY UPDATE`
	limitAPITokensSQL = `SELECT refuse('too_many_tokens') WHERE (SELECT count(*) FROM api_tokens WHERE user_id = $1) >= $2`
	insertAPITokenSQL = `INSERT INTO api_tokens (id, user_id, name, hash, scopes, expires_at) VALUES ($1, $2, $3, $4, $5, $6)`
	logAPITokenSQL    = `
	SELECT log_account_change($1, $1, 'token.created', $2, jsonb_build_object('name', jsonb_build_array(NULL, $3::text), 'scopes', jsonb_build_array(NULL, $4::text[])))`
	apiTokenSQL = `SELECT ` + apiTokenColumns + ` FROM api_tokens WHERE id = $1`
)

// handleCreateAPIToken makes an API token and shows it this once.
func (s *server) handleCreateAPIToken(w http.ResponseWriter, r *http.Request) error {
	in, err := decode[newAPIToken](w, r)
	if err != nil {
		return err
	}
	var expires *time.Time
	if in.ExpiresAt != nil {
		at, _ := parseTimestamp(*in.ExpiresAt)
		expires = &at
	}
	me, id, token := callerOf(r.Context()).ID, newUUID(), apiTokenPrefix+randomToken()
	b := &pgx.Batch{}
	b.Queue(lockActiveSQL, me)
	b.Queue(limitAPITokensSQL, me, maxAPITokens)
	b.Queue(insertAPITokenSQL, id, me, in.Name, tokenHash(token), in.Scopes, expires)
	b.Queue(logAPITokenSQL, me, id, in.Name, in.Scopes)
	b.Queue(apiTokenSQL, id)
	made, err := sendOne[apiToken](r.Context(), s.db, b)
	if err != nil {
		return err
	}
	made.Token = token
	w.Header().Set("Location", "/api/v1/me/tokens/"+id.String())
	return writeJSON(w, http.StatusCreated, made)
}

// deleteAPITokenSQL ends one token of a user; another's is not found.
const deleteAPITokenSQL = `
	WITH t AS (DELETE FROM api_tokens WHERE id = $1 AND user_id = $2 RETURNING id)
	SELECT CASE WHEN EXISTS (SELECT FROM t) THEN log_account_change($2, $2, 'token.deleted', $1, '{}')::text
		ELSE refuse('not_found') END`

// handleDeleteAPIToken ends one of the caller's API tokens.
func (s *server) handleDeleteAPIToken(w http.ResponseWriter, r *http.Request) error {
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	b := &pgx.Batch{}
	b.Queue(deleteAPITokenSQL, id, callerOf(r.Context()).ID)
	if err := s.db.send(r.Context(), b); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// tokenCaller is who acts by an API token.
type tokenCaller struct {
	TokenID  uuid
	ID       uuid
	Role     globalRole
	Timezone string
	Scopes   []string
}

// tokenCallerSQL finds the user of a token that holds now, and notes the use now and then.
const tokenCallerSQL = `
	WITH t AS (
		SELECT t.id AS token_id, t.scopes, u.id, u.role, u.timezone FROM api_tokens t JOIN users u ON u.id = t.user_id
		WHERE t.hash = $1 AND (t.expires_at IS NULL OR t.expires_at > now()) AND u.is_active),
	used AS (
		UPDATE api_tokens a SET last_used_at = now() FROM t
		WHERE a.id = t.token_id AND (a.last_used_at IS NULL OR a.last_used_at < now() - $2::interval))
	SELECT token_id, id, role, timezone, scopes FROM t`

// authenticateToken finds who makes a request by an API token. Token, account and role are looked up
// each time.
func (s *server) authenticateToken(ctx context.Context, token string) (caller, error) {
	found, err := queryAll[tokenCaller](ctx, s.db, tokenCallerSQL, tokenHash(token), tokenUseEvery)
	if err != nil {
		return caller{}, err
	}
	if len(found) == 0 {
		return caller{}, newProblem("unauthenticated", "The API token is not valid, has expired or was deleted.")
	}
	t := found[0]
	return caller{ID: t.ID, Role: t.Role, Timezone: t.Timezone, scopes: t.Scopes, token: t.TokenID}, nil
}
