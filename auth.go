package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	maxUserAgent = 200 // characters kept of a session's User-Agent
	refreshGrace = 10 * time.Second
)

// session is what register, login and refresh answer.
type session struct {
	User         *account `json:"user,omitempty"`
	AccessToken  string   `json:"accessToken"`
	RefreshToken string   `json:"refreshToken"`
	ExpiresIn    int64    `json:"expiresIn"` // seconds the access token lives
	TokenType    string   `json:"tokenType"` // Bearer
}

// newAccount is the body of POST /auth/register.
type newAccount struct {
	Email     string `json:"email"`
	Password  string `json:"password"`
	FirstName string `json:"firstName"`
	LastName  string `json:"lastName"`
}

func (in newAccount) invalid() []fieldError {
	var f fields
	f.email("email", in.Email)
	f.text("firstName", in.FirstName, 1, maxName, false)
	f.text("lastName", in.LastName, 1, maxName, false)
	f.newPassword("password", in.Password, in.FirstName, in.LastName, in.Email)
	return f.errs
}

// handleRegister makes an account and signs it in.
func (s *server) handleRegister(w http.ResponseWriter, r *http.Request) error {
	in, err := decode[newAccount](w, r)
	if err != nil {
		return err
	}
	hash, err := s.hashPassword(r.Context(), in.Password)
	if err != nil {
		return err
	}
	id := newUUID()
	b := &pgx.Batch{}
	b.Queue(firstAccountSQL)
	b.Queue(registrationSQL, canonicalEmail(in.Email), s.config.registration)
	queueAccount(b, id, in, hash, "")
	out := s.queueSession(b, r, storedPassword{ID: id, PasswordHash: hash})
	b.Queue(accountByIDSQL, id)
	user, err := sendAnd[account](r.Context(), s, b, fact{Kind: "user.registered", Actor: id, User: &id})
	if err != nil {
		return err
	}
	out.User = &user
	w.Header().Set("Location", "/api/v1/me")
	return writeJSON(w, http.StatusCreated, out)
}

const (
	// firstAccountSQL makes registrations in an empty installation wait for each other, so that only
	// one is the first. It is a statement of its own: the next one sees what a rival has committed.
	firstAccountSQL = `SELECT pg_advisory_xact_lock(7227301656) WHERE NOT EXISTS (SELECT FROM users)`
	// registrationSQL refuses a registration that the setting does not allow. The first account is
	// always allowed.
	registrationSQL = `
	SELECT refuse('registration_closed') WHERE $2 <> 'open' AND EXISTS (SELECT FROM users)
		AND NOT ($2 = 'invite' AND EXISTS (SELECT FROM invitations WHERE email = $1 AND expires_at > now()))`
)

// insertAccountSQL makes the first account an admin unless a role is given.
const insertAccountSQL = `
	WITH u AS (
		INSERT INTO users (id, email, password_hash, first_name, last_name, role)
		SELECT $1, $2, $3, $4, $5, CASE WHEN $6 <> '' THEN $6::global_role
			WHEN EXISTS (SELECT FROM users) THEN 'member' ELSE 'admin' END
		RETURNING *)
	SELECT log_account_change(u.id, u.id, 'user.registered', u.id, changes('{}', user_fields(u))) FROM u`

// queueAccount adds to a batch the statement that makes an account.
func queueAccount(b *pgx.Batch, id uuid, in newAccount, hash string, role globalRole) {
	b.Queue(insertAccountSQL, id, canonicalEmail(in.Email), hash, in.FirstName, in.LastName, string(role))
}

// login is the body of POST /auth/login.
type login struct {
	Email    string `json:"email"`
	Password string `json:"password"`
	TOTP     string `json:"totp"` // of accounts that have a second factor: its code, or a recovery code
}

func (in login) invalid() []fieldError {
	var f fields
	f.text("email", in.Email, 1, maxEmail, false)
	f.text("password", in.Password, 1, maxPassword, false)
	f.text("totp", in.TOTP, 0, maxSecondCode, false)
	return f.errs
}

// handleLogin starts a session. An unknown address, a wrong password and a deactivated account get
// the same answer after the same work; a wrong code gets it too, but only with the right password is
// one asked for.
func (s *server) handleLogin(w http.ResponseWriter, r *http.Request) error {
	in, err := decode[login](w, r)
	if err != nil {
		return err
	}
	guess, err := s.guess(r, canonicalEmail(in.Email))
	if err != nil {
		return err
	}
	defer guess.end()
	found, err := queryAll[storedPassword](r.Context(), s.db, passwordByEmailSQL, canonicalEmail(in.Email))
	if err != nil {
		return err
	}
	var stored storedPassword
	if len(found) == 1 {
		stored = found[0]
	}
	right, err := guess.check(r.Context(), stored.PasswordHash, in.Password)
	if err != nil {
		return err
	}
	if right && !stored.IsActive {
		guess.wrong()
	}
	if !right || !stored.IsActive {
		return newProblem("invalid_credentials", "")
	}
	out, err := s.startSession(r, stored, in.TOTP)
	if p, ok := errors.AsType[*problem](err); ok && p.Code == "invalid_credentials" {
		guess.wrong() // codes are guessed too, by who has the password
	}
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, out)
}

// startSession signs in somebody whose password was checked.
func (s *server) startSession(r *http.Request, stored storedPassword, code string) (session, error) {
	b := &pgx.Batch{}
	if stored.TOTPSecret != nil {
		if err := s.queueSecondFactor(b, stored, code); err != nil {
			return session{}, err
		}
	}
	out := s.queueSession(b, r, stored)
	b.Queue(accountByIDSQL, stored.ID)
	user, err := sendOne[account](r.Context(), s.db, b)
	out.User = &user
	return out, err
}

const (
	// insertSessionSQL works only on the hash that was checked and on an active account, and without a
	// second factor ($7) only where none is needed, so that a sign-in under way when one of these is
	// changed fails.
	insertSessionSQL = `
	WITH u AS (
		SELECT id FROM users WHERE id = $2 AND password_hash = $3 AND is_active AND ($7 OR totp_since IS NULL) FOR NO KEY UPDATE),
	s AS (
		INSERT INTO sessions (id, user_id, user_agent, ip, expires_at)
		SELECT $1, id, $4, $5, clock_timestamp() + $6::interval FROM u RETURNING id, user_id)
	SELECT CASE WHEN EXISTS (SELECT FROM s) THEN log_account_change($2, $2, 'session.started', $1, '{}')::text
		ELSE refuse('invalid_credentials') END`
	insertRefreshSQL = `INSERT INTO refresh_tokens (hash, session_id) VALUES ($1, $2)`
)

// queueSession adds to a batch the statements that start a session for a user whose password was
// checked, and his code if he has a second factor, and returns its tokens.
func (s *server) queueSession(b *pgx.Batch, r *http.Request, stored storedPassword) session {
	id, token := newUUID(), randomToken()
	b.Queue(insertSessionSQL, id, stored.ID, stored.PasswordHash, printable(r.UserAgent(), maxUserAgent), clientAddr(r).String(), s.config.refreshTTL, stored.TOTPSecret != nil)
	b.Queue(insertRefreshSQL, tokenHash(token), id)
	return s.tokens(stored.ID, id, token)
}

func (s *server) tokens(user, id uuid, refresh string) session {
	return session{
		AccessToken: s.keys.accessToken(user, id, s.config.accessTTL), RefreshToken: refresh,
		ExpiresIn: int64(s.config.accessTTL.Seconds()), TokenType: "Bearer",
	}
}

// refreshBody is the body of POST /auth/refresh.
type refreshBody struct {
	RefreshToken string `json:"refreshToken"`
}

func (in refreshBody) invalid() []fieldError {
	var f fields
	f.text("refreshToken", in.RefreshToken, 1, 100, false)
	return f.errs
}

// refreshState is a refresh token with its session, locked.
type refreshState struct {
	SessionID uuid
	UserID    uuid
	Alive     bool // session and account may go on
	Used      bool
	Recently  bool   // used within refreshGrace
	Spare     []byte // hash of its successor, if that has not been used
}

const (
	refreshStateSQL = `
	SELECT s.id AS session_id, s.user_id, s.revoked_at IS NULL AND s.expires_at > clock_timestamp() AND u.is_active AS alive,
		t.used_at IS NOT NULL AS used, coalesce(t.used_at > clock_timestamp() - $3::interval, false) AS recently,
		(SELECT n.hash FROM refresh_tokens n WHERE n.hash = ANY ($2) AND n.used_at IS NULL) AS spare
	FROM refresh_tokens t JOIN sessions s ON s.id = t.session_id JOIN users u ON u.id = s.user_id
	WHERE t.hash = $1 FOR UPDATE OF s`
	useRefreshSQL = `
	WITH t AS (UPDATE refresh_tokens SET used_at = clock_timestamp() WHERE hash = $1)
	UPDATE sessions SET last_used_at = clock_timestamp() WHERE id = $2`
	revokeSessionSQL = `
	WITH s AS (UPDATE sessions SET revoked_at = clock_timestamp() WHERE id = $1 AND revoked_at IS NULL RETURNING id, user_id)
	SELECT log_account_change(user_id, $2, $3, id, '{}') FROM s`
)

// handleRefresh trades a refresh token for a new pair (RFC 9700, section 4.14).
func (s *server) handleRefresh(w http.ResponseWriter, r *http.Request) error {
	in, err := decode[refreshBody](w, r)
	if err != nil {
		return err
	}
	out, err := s.refresh(r.Context(), in.RefreshToken)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, out)
}

// refresh uses a refresh token up. A token works once. Its successor is derived from it, so a
// client that lost the answer may ask again within refreshGrace and gets the same one. A token that
// comes back later, or after its successor was used, is in two hands: the session ends.
func (s *server) refresh(ctx context.Context, token string) (session, error) {
	old, tokens, hashes := tokenHash(token), s.keys.successors(token), [][]byte{}
	for _, next := range tokens {
		hashes = append(hashes, tokenHash(next))
	}
	var state refreshState
	var next string
	var jobs []job
	err := s.db.inTx(ctx, func(tx pgx.Tx) error {
		next, jobs = "", nil
		// The second look is under the session's lock, so it sees what a rival just did.
		for range 2 {
			rows, err := tx.Query(ctx, refreshStateSQL, old, hashes, refreshGrace)
			if err != nil {
				return err
			}
			if state, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[refreshState]); err != nil {
				return err
			}
		}
		switch {
		case !state.Alive:
			return nil
		case !state.Used:
			next = tokens[0]
			b := &pgx.Batch{}
			b.Queue(useRefreshSQL, old, state.SessionID)
			b.Queue(insertRefreshSQL, hashes[0], state.SessionID)
			return tx.SendBatch(ctx, b).Close()
		case state.Recently && state.Spare != nil:
			next = tokens[slices.IndexFunc(hashes, func(hash []byte) bool { return bytes.Equal(hash, state.Spare) })]
			return nil
		}
		b := &pgx.Batch{}
		b.Queue(revokeSessionSQL, state.SessionID, state.UserID, "session.reuse_detected")
		var err error
		if jobs, err = s.announce(ctx, b, fact{Kind: "session.reuse_detected", User: &state.UserID, Subject: &state.SessionID}); err != nil {
			return err
		}
		return tx.SendBatch(ctx, b).Close()
	})
	if err == nil {
		s.outbox.pushSoon(jobs...)
	}
	if p, ok := err.(*problem); ok && p.Code == "not_found" || err == nil && next == "" {
		return session{}, newProblem("invalid_refresh_token", "")
	}
	if err != nil {
		return session{}, err
	}
	return s.tokens(state.UserID, state.SessionID, next), nil
}

// successors are the refresh tokens that can follow one, by each of the secrets: the first is made,
// the others are known, so that a new JWT_SECRET does not take a repeated request for theft.
func (k *keyring) successors(token string) []string {
	var next []string
	for _, secret := range k.secrets {
		next = append(next, base64.RawURLEncoding.EncodeToString(sum256(derive(secret, "refresh"), token)))
	}
	return next
}

// handleLogout ends the session of the token that asks.
func (s *server) handleLogout(w http.ResponseWriter, r *http.Request) error {
	c := callerOf(r.Context())
	b := &pgx.Batch{}
	b.Queue(revokeSessionSQL, c.Session, c.ID, "session.ended")
	if err := s.db.send(r.Context(), b); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

const callerSQL = `
	SELECT u.id, s.id AS session_id, u.role, u.timezone, s.expires_at AS until
	FROM sessions s JOIN users u ON u.id = s.user_id
	WHERE s.id = $1 AND s.user_id = $2 AND s.revoked_at IS NULL AND s.expires_at > now() AND u.is_active`

// authenticate finds who makes a request by its bearer token (RFC 6750). Rights are those of now,
// never of the token, so an ended session or a deactivated account is out at once.
func (s *server) authenticate(r *http.Request) (caller, error) {
	token, err := bearerToken(r)
	if err != nil {
		return caller{}, err
	}
	if strings.HasPrefix(token, apiTokenPrefix) {
		return s.authenticateToken(r.Context(), token)
	}
	c, err := s.accessClaims(token)
	if err != nil {
		return caller{}, err
	}
	sight := s.cache.look(r.Context(), c.key())
	if who, ok := readCaller(c, sight.bodies[0]); ok {
		return who, nil
	}
	who, err := s.sessionCaller(r.Context(), c)
	if err == nil {
		s.cache.keep(sight, 0, who.entry())
	}
	return who, err
}

// signIn finds the caller and notes him in the request.
func (s *server) signIn(rec *recorder, r *http.Request) (*http.Request, error) {
	c, err := s.authenticate(r)
	if err != nil {
		return r, err
	}
	rec.user = c.ID
	return r.WithContext(withCaller(r.Context(), c)), nil
}

// signInReader is signIn for handlers that ask who calls together with what he reads: it only opens
// the token. Who uses an API token is looked up at once.
func (s *server) signInReader(rec *recorder, r *http.Request) (*http.Request, error) {
	token, err := bearerToken(r)
	if err != nil {
		return r, err
	}
	if strings.HasPrefix(token, apiTokenPrefix) {
		r, err = s.signIn(rec, r)
		rec.claims.Subject = rec.user
		return r, err
	}
	rec.claims, err = s.accessClaims(token)
	rec.user = rec.claims.Subject
	return r, err
}

// bearerToken is a request's token.
func bearerToken(r *http.Request) (string, error) {
	header := r.Header["Authorization"]
	if len(header) != 1 {
		return "", newProblem("unauthenticated", "")
	}
	scheme, token, _ := strings.Cut(header[0], " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", newProblem("unauthenticated", "")
	}
	return token, nil
}

// accessClaims are the claims of an access token that holds.
func (s *server) accessClaims(token string) (claims, error) {
	c, err := s.keys.verifyAccess(token)
	if err != nil {
		return claims{}, newProblem("unauthenticated", "The access token is not valid or has expired.")
	}
	return c, nil
}

// sessionCaller is the user of a session that has not ended.
func (s *server) sessionCaller(ctx context.Context, c claims) (caller, error) {
	who, err := queryOne[caller](ctx, s.db, callerSQL, c.Session, c.Subject)
	if p, ok := err.(*problem); ok && p.Code == "not_found" {
		return caller{}, newProblem("unauthenticated", "The session has ended.")
	}
	return who, err
}

// key is where the cache keeps the caller of a session, among what depends on the user.
func (c claims) key() key { return key{c.Subject, "session/" + c.Session.String()} }

// entry is a caller in the cache.
func (c caller) entry() []byte {
	return fmt.Appendf(nil, "%s %d %s", c.Role, c.Until.UnixMilli(), c.Timezone)
}

// readCaller is the caller that an entry made for a session tells of, until the session ends.
func readCaller(c claims, entry []byte) (caller, bool) {
	role, rest, _ := strings.Cut(string(entry), " ")
	until, zone, _ := strings.Cut(rest, " ")
	ms, err := strconv.ParseInt(until, 10, 64)
	who := caller{ID: c.Subject, Session: c.Session, Role: globalRole(role), Timezone: zone, Until: timestamp{time.UnixMilli(ms)}}
	return who, err == nil && time.Now().Before(who.Until.Time)
}
