package main

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	keyLife = 24 * time.Hour // in which a request with the same Idempotency-Key is a repetition
	maxKey  = 255            // characters
)

// idempotencyKey is what a request says that only its repetitions say too, "" if it has no such
// header. The draft has it as a string in quotes (RFC 9651, section 3.3.3); many send it bare.
func idempotencyKey(r *http.Request) (string, error) {
	values := r.Header.Values("Idempotency-Key")
	if len(values) == 0 {
		return "", nil
	}
	key := values[0]
	if len(key) > 2 && key[0] == '"' && key[len(key)-1] == '"' {
		key = key[1 : len(key)-1]
	}
	if len(values) > 1 || key == "" || len(key) > maxKey || strings.ContainsFunc(key, func(c rune) bool { return c <= ' ' || c > '~' || c == '"' || c == '\\' }) {
		return "", badParameter(fieldError{"Idempotency-Key", "invalid_key", fmt.Sprintf("must be given once and have 1 to %d ASCII characters without spaces, quotes and backslashes, such as a UUID", maxKey)})
	}
	return key, nil
}

// heldAnswer is an answer that is held back until what it tells of is committed.
type heldAnswer struct {
	Status int         `json:"status"`
	Fields http.Header `json:"header"`
	Body   []byte      `json:"body"`
}

func (a *heldAnswer) Header() http.Header { return a.Fields }

func (a *heldAnswer) WriteHeader(status int) {
	if a.Status == 0 {
		a.Status = status
	}
}

func (a *heldAnswer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	a.Body = append(a.Body, b...)
	return len(b), nil
}

// send writes the answer.
func (a *heldAnswer) send(w http.ResponseWriter) {
	for name, values := range a.Fields {
		w.Header()[name] = values
	}
	w.WriteHeader(a.Status)
	w.Write(a.Body)
}

// keptAnswer is what the database has for a key; nothing before the first request has been answered.
type keptAnswer struct {
	Fingerprint []byte // SHA-256 of path and body
	Answer      []byte // sealed heldAnswer
}

const (
	// claimKeySQL keeps repetitions out while the first request runs, on whatever process.
	claimKeySQL = `SELECT refuse('idempotency_key_in_use') WHERE NOT pg_try_advisory_xact_lock($1)`
	// keptAnswerSQL is a statement of its own: under the lock it sees what the first has committed.
	keptAnswerSQL = `
	SELECT k.fingerprint, k.answer
	FROM (SELECT) one LEFT JOIN idempotency_keys k ON k.user_id = $1 AND k.key = $2 AND k.created_at > clock_timestamp() - $3::interval`
	keepAnswerSQL = `
	INSERT INTO idempotency_keys (user_id, key, fingerprint, answer) VALUES ($1, $2, $3, $4)
	ON CONFLICT (user_id, key) DO UPDATE SET fingerprint = excluded.fingerprint, answer = excluded.answer, created_at = excluded.created_at`
)

// once is a handler whose effect happens once for each Idempotency-Key of a caller.
func (s *server) once(handle handlerFunc) handlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		key, err := idempotencyKey(r)
		if err != nil {
			return err
		}
		if key == "" {
			return handle(w, r)
		}
		body, err := readBody(r) // before the transaction, which waits for no client
		if err != nil {
			return err
		}
		answer, err := s.answerOnce(r, key, sum256(nil, r.URL.EscapedPath(), string(body)), func(w http.ResponseWriter, r *http.Request) error {
			r.Body = io.NopCloser(bytes.NewReader(body))
			return handle(w, r)
		})
		if err != nil {
			return err
		}
		answer.send(w)
		return nil
	}
}

// answerOnce is the answer of a handler for a key, kept or new: everything it does in the database, the
// key and the answer are one transaction, and whoever comes with the key again gets that answer. A request
// that fails leaves nothing, so its key can be tried again. handle may run more than once, but takes effect
// once. fingerprint is what repetitions have in common with the first request.
func (s *server) answerOnce(r *http.Request, key string, fingerprint []byte, handle handlerFunc) (answer heldAnswer, err error) {
	owner := callerOf(r.Context()).ID
	digest := sum256(owner[:], key)
	err = s.db.hold(r.Context(), func(ctx context.Context) error {
		b := &pgx.Batch{}
		b.Queue(claimKeySQL, int64(binary.BigEndian.Uint64(digest)))
		b.Queue(keptAnswerSQL, owner, digest, keyLife)
		kept, err := sendOne[keptAnswer](ctx, s.db, b)
		if err != nil {
			return err
		}
		if kept.Fingerprint != nil {
			answer, err = s.keys.repeat(kept, fingerprint, digest)
			return err
		}
		answer = heldAnswer{Fields: http.Header{}}
		if err := handle(&answer, r.WithContext(ctx)); err != nil {
			return err
		}
		sealed, err := s.keys.sealAnswer(answer, digest)
		if err != nil {
			return err
		}
		b = &pgx.Batch{}
		b.Queue(keepAnswerSQL, owner, digest, fingerprint, sealed)
		return s.db.send(ctx, b)
	})
	return answer, err
}

// repeat is the answer that was kept, for a request that is the same as the first.
func (k *keyring) repeat(kept keptAnswer, fingerprint, digest []byte) (heldAnswer, error) {
	if !bytes.Equal(kept.Fingerprint, fingerprint) {
		return heldAnswer{}, newProblem("idempotency_key_reused", "")
	}
	answer, err := k.openAnswer(kept.Answer, digest)
	if err != nil {
		return answer, newProblem("idempotency_key_reused", "The request was made before, but its answer can no longer be read, as JWT_SECRET was replaced. Look whether it had its effect.")
	}
	answer.Fields.Set("Idempotency-Replayed", "true")
	return answer, nil
}

// sealAnswer encrypts an answer for the database: some have secrets in them that are shown once.
func (k *keyring) sealAnswer(a heldAnswer, digest []byte) ([]byte, error) {
	text, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("encode answer to keep: %w", err)
	}
	return answerCipher(k.secrets[0]).Seal(nil, nil, text, digest), nil
}

func (k *keyring) openAnswer(sealed, digest []byte) (heldAnswer, error) {
	var a heldAnswer
	for _, secret := range k.secrets {
		if text, err := answerCipher(secret).Open(nil, nil, sealed, digest); err == nil {
			err = json.Unmarshal(text, &a)
			return a, err
		}
	}
	return a, errors.New("sealed with another secret")
}

// answerCipher is AES-256-GCM with a random nonce before each text.
func answerCipher(secret []byte) cipher.AEAD {
	block, err := aes.NewCipher(derive(secret, "answer"))
	if err != nil { // the key has 32 bytes: cannot happen
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return aead
}
