package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
)

const mailTokenLife = time.Hour // of a token that is sent by mail to the owner of an account

// mailTokens are the tokens that can be made of an id, one by each secret: the first is made, the
// others were. So a token is in a mail and nowhere else: the database has its hash, the job that
// mails it has the id, and who has neither the secret nor the mail cannot make it. Each use has
// tokens of its own.
func (k *keyring) mailTokens(use, id string) []string {
	var tokens []string
	for _, secret := range k.secrets {
		tokens = append(tokens, base64.RawURLEncoding.EncodeToString(sum256(derive(secret, "mail"), use, id)))
	}
	return tokens
}

// mailTokenOf is the token with this hash; "" when it was made by a secret that is not known any more.
func (k *keyring) mailTokenOf(use, id string, hash []byte) string {
	for _, token := range k.mailTokens(use, id) {
		if bytes.Equal(tokenHash(token), hash) {
			return token
		}
	}
	return ""
}

// issuedToken is a token as its mail needs it.
type issuedToken struct {
	Email string // to which it goes
	Name  string // of its user
	Hash  []byte
}

const (
	// issueTokenSQL makes the token of a job, once, for the user $3, or without one for the active user
	// at the address $4. It is for the address $4, or else for the present one. A job that was
	// overtaken by a newer one makes none.
	issueTokenSQL = `
	INSERT INTO account_tokens (id, user_id, kind, email, hash, expires_at)
	SELECT $1, u.id, $2, CASE WHEN $4 = '' THEN u.email ELSE $4 END, $5, clock_timestamp() + $6::interval
	FROM users u
	WHERE (u.id = $3 OR $3::uuid IS NULL AND u.email = $4) AND u.is_active
		AND NOT EXISTS (SELECT FROM account_tokens n WHERE n.user_id = u.id AND n.kind = $2 AND n.id > $1)
	ON CONFLICT (id) DO NOTHING`
	// goodToken holds for a token t of user u that can be used: a password's only at the address it was
	// sent to while that is the user's, and of each kind only the newest.
	goodToken = `t.used_at IS NULL AND t.expires_at > clock_timestamp() AND u.is_active AND (t.kind <> 'password' OR t.email = u.email)
		AND NOT EXISTS (SELECT FROM account_tokens n WHERE n.user_id = t.user_id AND n.kind = t.kind AND n.id > t.id)`
	issuedTokenSQL = `
	SELECT t.email, u.first_name AS name, t.hash FROM account_tokens t JOIN users u ON u.id = t.user_id
	WHERE t.id = $1 AND ` + goodToken
)

// queueToken adds to a batch the making of the token that a job mails.
func (s *server) queueToken(b *pgx.Batch, job, kind string, user *uuid, email string) {
	b.Queue(issueTokenSQL, job, kind, user, email, tokenHash(s.keys.mailTokens(kind, job)[0]), mailTokenLife)
}

// issueToken makes the token that a job mails, or finds the one that was made for it. nil means that
// there is nothing to mail: no such account, or the token was used or replaced meanwhile.
func (s *server) issueToken(ctx context.Context, job, kind string, user *uuid, email string) (*issuedToken, error) {
	b := &pgx.Batch{}
	s.queueToken(b, job, kind, user, email)
	if err := s.db.send(ctx, b); err != nil {
		return nil, err
	}
	found, err := queryAll[issuedToken](ctx, s.db, issuedTokenSQL, job)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

// tokenHolder is the user of a token that was mailed.
type tokenHolder struct {
	ID        uuid
	Email     string // his present address
	FirstName string
	LastName  string
	NewEmail  string // to which the token was sent
}

const tokenHolderSQL = `
	SELECT u.id, u.email, u.first_name, u.last_name, t.email AS new_email FROM account_tokens t JOIN users u ON u.id = t.user_id
	WHERE t.hash = $1 AND t.kind = $2 AND ` + goodToken

func (s *server) tokenHolder(ctx context.Context, kind, token string) (tokenHolder, error) {
	found, err := queryAll[tokenHolder](ctx, s.db, tokenHolderSQL, tokenHash(token), kind)
	if err == nil && len(found) == 0 {
		err = newProblem("invalid_token", "")
	}
	if err != nil {
		return tokenHolder{}, err
	}
	return found[0], nil
}

// useTokenSQL uses a token up, or refuses. It follows lockUserSQL, so it sees what a rival has done.
const useTokenSQL = `
	WITH used AS (
		UPDATE account_tokens t SET used_at = clock_timestamp() FROM users u
		WHERE t.hash = $1 AND t.kind = $2 AND u.id = t.user_id AND u.id = $3 AND u.email = $4 AND ` + goodToken + ` RETURNING t.id)
	SELECT refuse('invalid_token') WHERE NOT EXISTS (SELECT FROM used)`

// queueUseToken adds to a batch the statements that lock the user of a token and use it up.
func queueUseToken(b *pgx.Batch, kind, token string, holder tokenHolder) {
	b.Queue(lockUserSQL, holder.ID)
	b.Queue(useTokenSQL, tokenHash(token), kind, holder.ID, holder.Email)
}

// forgotten is the body of POST /auth/password/forgot.
type forgotten struct {
	Email string `json:"email"`
}

func (in forgotten) invalid() []fieldError {
	var f fields
	f.email("email", in.Email)
	return f.errs
}

// handleForgotPassword has a token sent to an address. Whether anybody has the address is for the
// job to find out, so the answer and the time it takes do not tell.
func (s *server) handleForgotPassword(w http.ResponseWriter, r *http.Request) error {
	in, err := decode[forgotten](w, r)
	if err != nil {
		return err
	}
	if !s.mail.on() {
		return newProblem("mail_off", "")
	}
	if err := s.sendTelling(r.Context(), &pgx.Batch{}, fact{Kind: "password.forgotten", Email: canonicalEmail(in.Email)}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// passwordReset is the body of POST /auth/password/reset.
type passwordReset struct {
	Token    string `json:"token"`
	Password string `json:"password"`
}

func (in passwordReset) invalid() []fieldError {
	var f fields
	f.text("token", in.Token, 1, 100, false)
	f.newPassword("password", in.Password)
	return f.errs
}

const (
	// dropUnprovedSQL takes the API tokens and the second factor from an account whose address nobody had
	// proved: somebody else may have registered it and left them behind.
	dropUnprovedSQL = `
	WITH u AS (
		UPDATE users SET totp_secret = NULL, totp_since = NULL, totp_step = 0 WHERE id = $1 AND email_verified_at IS NULL RETURNING id),
	t AS (DELETE FROM api_tokens WHERE user_id IN (SELECT id FROM u))
	DELETE FROM recovery_codes WHERE user_id IN (SELECT id FROM u)`
	// resetPasswordSQL sets a password by a mailed token, which also proves the address.
	resetPasswordSQL = `
	WITH u AS (
		UPDATE users SET password_hash = $2, email_verified_at = coalesce(email_verified_at, clock_timestamp()),
			version = version + 1, updated_at = clock_timestamp()
		WHERE id = $1 RETURNING id)
	SELECT log_account_change(id, id, 'user.password_changed', id, '{}') FROM u`
)

// handleResetPassword sets a new password by a token from a mail, and ends all sessions of the account.
func (s *server) handleResetPassword(w http.ResponseWriter, r *http.Request) error {
	in, err := decode[passwordReset](w, r)
	if err != nil {
		return err
	}
	holder, err := s.tokenHolder(r.Context(), "password", in.Token) // before the work of hashing, which is not for everybody
	if err != nil {
		return err
	}
	var f fields
	if f.newPassword("password", in.Password, holder.FirstName, holder.LastName, holder.Email); len(f.errs) > 0 {
		return invalid(f.errs...)
	}
	hash, err := s.hashPassword(r.Context(), in.Password)
	if err != nil {
		return err
	}
	b := &pgx.Batch{}
	queueUseToken(b, "password", in.Token, holder)
	b.Queue(dropUnprovedSQL, holder.ID)
	b.Queue(resetPasswordSQL, holder.ID, hash)
	b.Queue(forgetTokensSQL, holder.ID)
	b.Queue(revokeSessionsSQL, holder.ID, nil, holder.ID)
	if err := s.sendTelling(r.Context(), b, fact{Kind: "user.password_changed", Actor: holder.ID, User: &holder.ID}); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// addressProof is the body of POST /auth/email/verify.
type addressProof struct {
	Token string `json:"token"`
}

func (in addressProof) invalid() []fieldError {
	var f fields
	f.text("token", in.Token, 1, 100, false)
	return f.errs
}

// verifyEmailSQL makes the address of a token the user's, if it is not yet, and proved.
const verifyEmailSQL = `
	WITH u AS (
		UPDATE users SET email = $2, email_verified_at = clock_timestamp(), version = version + 1, updated_at = clock_timestamp()
		WHERE id = $1 RETURNING id, email)
	SELECT log_account_change(id, id, 'user.email_verified', id, changes(jsonb_build_object('email', $3::text), jsonb_build_object('email', email))) FROM u`

// handleVerifyEmail confirms the address that a token was mailed to; an address that was asked for
// becomes the account's then, and the old one is told.
func (s *server) handleVerifyEmail(w http.ResponseWriter, r *http.Request) error {
	in, err := decode[addressProof](w, r)
	if err != nil {
		return err
	}
	holder, err := s.tokenHolder(r.Context(), "email", in.Token)
	if err != nil {
		return err
	}
	b := &pgx.Batch{}
	queueUseToken(b, "email", in.Token, holder)
	b.Queue(verifyEmailSQL, holder.ID, holder.NewEmail, holder.Email)
	var facts []fact
	if holder.NewEmail != holder.Email {
		facts = append(facts, fact{Kind: "user.email_changed", Actor: holder.ID, User: &holder.ID, Email: holder.Email})
	}
	if err := s.sendTelling(r.Context(), b, facts...); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// emailChange is the body of PUT /me/email.
type emailChange struct {
	Email           string `json:"email"`
	CurrentPassword string `json:"currentPassword"`
}

func (in emailChange) invalid() []fieldError {
	var f fields
	f.email("email", in.Email)
	f.text("currentPassword", in.CurrentPassword, 1, maxPassword, false)
	return f.errs
}

// requestEmailSQL notes that a user wants another address. It works only on the hash that was checked.
const requestEmailSQL = `
	SELECT CASE WHEN NOT EXISTS (SELECT FROM users WHERE id = $1 AND password_hash = $2) THEN refuse('wrong_password')
		WHEN EXISTS (SELECT FROM users WHERE email = $3 AND id <> $1) THEN refuse('email_taken')
		ELSE log_account_change($1, $1, 'user.email_requested', $1, jsonb_build_object('email', jsonb_build_array($4::text, $3::text)))::text END`

// handleSetEmail has a token sent to the caller's new address; until he brings it back the old one
// stays. His present address may be confirmed again so, which also takes an earlier wish back.
func (s *server) handleSetEmail(w http.ResponseWriter, r *http.Request) error {
	in, err := decode[emailChange](w, r)
	if err != nil {
		return err
	}
	if !s.mail.on() {
		return newProblem("mail_off", "")
	}
	stored, err := s.confirmPassword(r, in.CurrentPassword)
	if err != nil {
		return err
	}
	email := canonicalEmail(in.Email)
	b := &pgx.Batch{}
	b.Queue(lockUserSQL, stored.ID)
	b.Queue(requestEmailSQL, stored.ID, stored.PasswordHash, email, stored.Email)
	jobs, err := s.announce(r.Context(), b, fact{Kind: "user.email_requested", Actor: stored.ID, User: &stored.ID, Email: email})
	if err != nil {
		return err
	}
	for _, j := range jobs { // made here, so that a new password makes it worthless even before it is mailed
		s.queueToken(b, j.ID, "email", &stored.ID, email)
	}
	if err := s.db.send(r.Context(), b); err != nil {
		return err
	}
	s.outbox.pushSoon(jobs...)
	w.WriteHeader(http.StatusAccepted)
	return nil
}
