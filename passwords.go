package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha512"
	"encoding/base64"
	"time"

	"golang.org/x/crypto/bcrypt"
)

const (
	minPassword     = 8                       // characters
	maxPassword     = 128                     // characters
	hashingPatience = 1500 * time.Millisecond // waiting for a slot to hash a password
	maxWaiting      = 64                      // passwords that wait for one; more have no hope
)

// storedPassword is what sign-in needs to know of an account.
type storedPassword struct {
	ID           uuid
	Email        string
	PasswordHash string
	IsActive     bool
}

const (
	passwordByEmailSQL = `SELECT id, email, password_hash, is_active FROM users WHERE email = $1`
	passwordByIDSQL    = `SELECT id, email, password_hash, is_active FROM users WHERE id = $1`
)

// passwordKey keeps our password digests apart from anybody else's SHA-384 lists. It is no secret
// and must never change. It is not derived from JWT_SECRET, so that secret can be replaced.
const passwordKey = "taskflow/password/v1"

// passwordDigest is the password in 64 characters without NUL, because bcrypt stops at NUL and
// ignores what comes after 72 bytes.
func passwordDigest(password string) []byte {
	h := hmac.New(sha512.New384, []byte(passwordKey))
	h.Write([]byte(password))
	return []byte(base64.StdEncoding.EncodeToString(h.Sum(nil)))
}

// hashPassword is slow on purpose; see hashSlot.
func (s *server) hashPassword(ctx context.Context, password string) (string, error) {
	if err := s.hashSlot(ctx); err != nil {
		return "", err
	}
	defer func() { <-s.hashing }()
	hash, err := bcrypt.GenerateFromPassword(passwordDigest(password), s.config.bcryptCost)
	return string(hash), err
}

// hashSlot waits for one of the few slots in which passwords are hashed, so that many sign-ins at
// once cannot take every processor from the rest. There is one less than processors.
func (s *server) hashSlot(ctx context.Context) error {
	defer s.waiting.Add(-1)
	if s.waiting.Add(1) > maxWaiting {
		return tooManyHashes()
	}
	select {
	case s.hashing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(s.hashWait):
		return tooManyHashes()
	}
}

func tooManyHashes() error { return newProblem("unavailable", "Too many sign-ins at once.") }
