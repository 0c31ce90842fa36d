package main

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// One-time passwords as every authenticator makes them (RFC 6238): SHA-1, six digits, a new one
// every half minute.
const (
	totpPeriod     = 30 // seconds
	totpDrift      = 1  // steps that the two clocks may be apart
	totpSecretSize = 20 // bytes (RFC 4226, section 4)
	recoveryCodes  = 10
	recoverySize   = 10 // bytes of a recovery code
	maxSecondCode  = 40 // characters, with any spaces and dashes
)

// totpAt is the code of a step (RFC 4226, section 5.3).
func totpAt(secret []byte, step int64) string {
	h := hmac.New(sha1.New, secret)
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(step)))
	sum := h.Sum(nil)
	return fmt.Sprintf("%06d", binary.BigEndian.Uint32(sum[sum[19]&0xf:])&0x7fffffff%1_000_000)
}

// totpStep is the step whose code this is, of those that count now; 0 when it is of none.
func totpStep(secret []byte, code string, now time.Time) (found int64) {
	present := now.Unix() / totpPeriod
	for step := present - totpDrift; step <= present+totpDrift; step++ {
		if subtle.ConstantTimeCompare([]byte(totpAt(secret, step)), []byte(code)) == 1 {
			found = step
		}
	}
	return found
}

// plainCode is a code as it is compared: people copy spaces, dashes and capitals along.
func plainCode(code string) string {
	return strings.ToLower(strings.NewReplacer(" ", "", "-", "").Replace(code))
}

const (
	// useTOTPSQL takes a code once: of two requests with the same one, the second finds its step used.
	useTOTPSQL = `
	WITH u AS (
		UPDATE users SET totp_step = $3 WHERE id = $1 AND totp_secret = $2 AND totp_since IS NOT NULL AND totp_step < $3 RETURNING id)
	SELECT refuse('invalid_credentials') WHERE NOT EXISTS (SELECT FROM u)`
	useRecoverySQL = `
	WITH c AS (
		DELETE FROM recovery_codes c USING users u
		WHERE c.user_id = $1 AND c.hash = $2 AND u.id = c.user_id AND u.totp_since IS NOT NULL RETURNING u.id)
	SELECT CASE WHEN EXISTS (SELECT FROM c) THEN log_account_change($1, $1, 'user.recovery_code_used', $1, '{}')::text
		ELSE refuse('invalid_credentials') END`
)

// queueSecondFactor adds to the batch that signs somebody in the statement that uses his code up. A
// code is what the authenticator shows, or a recovery code.
func (s *server) queueSecondFactor(b *pgx.Batch, stored storedPassword, code string) error {
	code = plainCode(code)
	if code == "" {
		return newProblem("totp_required", "")
	}
	if len(code) != 6 {
		b.Queue(useRecoverySQL, stored.ID, tokenHash(code))
		return nil
	}
	step := totpStep(stored.TOTPSecret, code, s.keys.now())
	if step == 0 {
		return newProblem("invalid_credentials", "")
	}
	b.Queue(useTOTPSQL, stored.ID, stored.TOTPSecret, step)
	return nil
}

// passwordProof is the body of requests that need nothing but the present password.
type passwordProof struct {
	CurrentPassword string `json:"currentPassword"`
}

func (in passwordProof) invalid() []fieldError {
	var f fields
	f.text("currentPassword", in.CurrentPassword, 1, maxPassword, false)
	return f.errs
}

// totpSecret is what an authenticator needs to know, as text and as the address that a QR code shows.
type totpSecret struct {
	Secret string `json:"secret"` // base32
	URL    string `json:"url"`    // otpauth://
}

var base32Text = base32.StdEncoding.WithPadding(base32.NoPadding)

// beginTOTPSQL sets a secret that does not count yet, instead of any earlier one.
const beginTOTPSQL = `
	WITH u AS (
		UPDATE users SET totp_secret = $3, totp_step = 0 WHERE id = $1 AND password_hash = $2 AND totp_since IS NULL RETURNING id)
	SELECT CASE WHEN EXISTS (SELECT FROM u) THEN log_account_change($1, $1, 'user.totp_begun', $1, '{}')::text
		WHEN EXISTS (SELECT FROM users WHERE id = $1 AND totp_since IS NOT NULL) THEN refuse('totp_on')
		ELSE refuse('wrong_password') END`

// handleBeginTOTP makes the secret for the caller's authenticator. It counts once he has shown, by a
// code, that his authenticator has it.
func (s *server) handleBeginTOTP(w http.ResponseWriter, r *http.Request) error {
	in, err := decode[passwordProof](w, r)
	if err != nil {
		return err
	}
	stored, err := s.confirmPassword(r, in.CurrentPassword)
	if err != nil {
		return err
	}
	secret := make([]byte, totpSecretSize)
	rand.Read(secret)
	b := &pgx.Batch{}
	b.Queue(beginTOTPSQL, stored.ID, stored.PasswordHash, secret)
	if err := s.db.send(r.Context(), b); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, totpSecret{base32Text.EncodeToString(secret), s.totpURL(stored.Email, secret)})
}

// totpURL is the address that authenticators read. They show issuer and account.
func (s *server) totpURL(email string, secret []byte) string {
	issuer := "TaskFlow"
	if u, err := url.Parse(s.config.publicURL); err == nil {
		issuer = "TaskFlow " + u.Hostname()
	}
	issuer = url.PathEscape(issuer) // not as a form is encoded: they would show the plus signs
	return fmt.Sprintf("otpauth://totp/%s:%s?secret=%s&issuer=%s&algorithm=SHA1&digits=6&period=%d",
		issuer, url.PathEscape(email), base32Text.EncodeToString(secret), issuer, totpPeriod)
}

// totpProof is the body of PUT /me/totp.
type totpProof struct {
	Code string `json:"code"`
}

func (in totpProof) invalid() []fieldError {
	var f fields
	f.text("code", in.Code, 1, maxSecondCode, false)
	return f.errs
}

// recoveryList is shown once.
type recoveryList struct {
	RecoveryCodes []string `json:"recoveryCodes"`
}

const (
	totpStateSQL = `SELECT coalesce(totp_secret, '') AS secret, totp_since IS NOT NULL AS is_on FROM users WHERE id = $1`
	// confirmTOTPSQL works only on the secret whose code was checked. That code is used with it.
	confirmTOTPSQL = `
	WITH u AS (
		UPDATE users SET totp_since = clock_timestamp(), totp_step = $3, version = version + 1, updated_at = clock_timestamp()
		WHERE id = $1 AND totp_secret = $2 AND totp_since IS NULL RETURNING id)
	SELECT CASE WHEN EXISTS (SELECT FROM u) THEN log_account_change($1, $1, 'user.totp_enabled', $1, '{}')::text
		ELSE refuse('totp_on') END`
	deleteRecoverySQL = `DELETE FROM recovery_codes WHERE user_id = $1`
	insertRecoverySQL = `INSERT INTO recovery_codes (user_id, hash) SELECT $1, unnest($2::bytea[])`
)

// handleConfirmTOTP turns the second factor on and answers the recovery codes, this once.
func (s *server) handleConfirmTOTP(w http.ResponseWriter, r *http.Request) error {
	in, err := decode[totpProof](w, r)
	if err != nil {
		return err
	}
	me := callerOf(r.Context()).ID
	state, err := queryOne[struct {
		Secret []byte
		IsOn   bool
	}](r.Context(), s.db, totpStateSQL, me)
	switch {
	case err != nil:
		return err
	case state.IsOn:
		return newProblem("totp_on", "")
	case len(state.Secret) == 0:
		return newProblem("totp_not_begun", "")
	}
	step := totpStep(state.Secret, plainCode(in.Code), s.keys.now())
	if step == 0 {
		return invalid(fieldError{"code", "wrong_code", "must be the six digits that your authenticator shows now; if they are, set its clock right"})
	}
	var out recoveryList
	var hashes [][]byte
	for range recoveryCodes {
		code := newRecoveryCode()
		out.RecoveryCodes = append(out.RecoveryCodes, code)
		hashes = append(hashes, tokenHash(plainCode(code)))
	}
	b := &pgx.Batch{}
	b.Queue(confirmTOTPSQL, me, state.Secret, step)
	b.Queue(deleteRecoverySQL, me)
	b.Queue(insertRecoverySQL, me, hashes)
	if err := s.db.send(r.Context(), b); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, out)
}

// newRecoveryCode is 80 random bits in four groups.
func newRecoveryCode() string {
	raw := make([]byte, recoverySize)
	rand.Read(raw)
	text := strings.ToLower(base32Text.EncodeToString(raw))
	return text[:4] + "-" + text[4:8] + "-" + text[8:12] + "-" + text[12:]
}

// endTOTPSQL works only on the hash that was checked, if one is given.
const endTOTPSQL = `
	WITH u AS (
		UPDATE users SET totp_secret = NULL, totp_since = NULL, totp_step = 0, version = version + 1, updated_at = clock_timestamp()
		WHERE id = $1 AND totp_secret IS NOT NULL AND ($3::text IS NULL OR password_hash = $3) RETURNING id)
	SELECT CASE WHEN EXISTS (SELECT FROM u) THEN log_account_change($1, $2, 'user.totp_disabled', $1, '{}')::text
		WHEN EXISTS (SELECT FROM users WHERE id = $1 AND totp_secret IS NOT NULL) THEN refuse('wrong_password') END`

// queueEndTOTP adds to a batch the statements that turn somebody's second factor off, as by does,
// who is nil for the operator. hash is of the password that was checked.
func queueEndTOTP(b *pgx.Batch, user uuid, by *uuid, hash *string) {
	b.Queue(lockUserSQL, user)
	b.Queue(endTOTPSQL, user, by, hash)
	b.Queue(deleteRecoverySQL, user)
}

// handleEndTOTP turns the caller's second factor off. The recovery codes go with it.
func (s *server) handleEndTOTP(w http.ResponseWriter, r *http.Request) error {
	in, err := decode[passwordProof](w, r)
	if err != nil {
		return err
	}
	stored, err := s.confirmPassword(r, in.CurrentPassword)
	if err != nil {
		return err
	}
	var facts []fact
	if stored.TOTPSecret != nil {
		facts = append(facts, fact{Kind: "user.totp_disabled", Actor: stored.ID, User: &stored.ID})
	}
	b := &pgx.Batch{}
	queueEndTOTP(b, stored.ID, &stored.ID, &stored.PasswordHash)
	if err := s.sendTelling(r.Context(), b, facts...); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
