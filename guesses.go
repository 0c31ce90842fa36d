package main

import (
	"context"
	"net/http"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// Wrong passwords are counted by account and network together, so that whoever guesses is stopped
// and the owner, who is elsewhere, is not; by network, for who tries one password on many accounts;
// and by account, for who guesses from many networks: that makes sign-ins slow, but only from
// networks where the account has no session, and never impossible.
var (
	pairGuesses    = rate{10, 30 * time.Minute}
	networkGuesses = rate{100, 30 * time.Minute}
	accountGuesses = rate{20, 10 * time.Minute}
)

const guessDelay = 2 * time.Second // of a sign-in to an account that is being guessed from everywhere

// guess is one try of the password of an account.
type guess struct {
	s                      *server
	pair, network, account limitKey
}

// guess begins a try for an account, named by its canonical address, before anything is known of the
// account: all that follows is the same for one that does not exist.
func (s *server) guess(r *http.Request, email string) (*guess, error) {
	if s.waiting.Load() >= maxWaiting {
		return nil, tooManyHashes()
	}
	network := networkOf(clientAddr(r), 24, 64).String()
	g := &guess{s: s, pair: s.guessKey(email, network), network: s.guessKey(network), account: s.guessKey(email)}
	if err := g.allowed(); err != nil {
		return nil, err
	}
	if !s.guesses.account.look(g.account).ok {
		known, err := queryValue[bool](r.Context(), s.db, knownNetworkSQL, email, network)
		if err != nil {
			return nil, err
		}
		if !known {
			s.guesses.slowed.Add(1)
			sleep(r.Context(), guessDelay)
		}
	}
	return g, s.hashPlace() // after the delay, which would keep places from others
}

// end lets somebody else try.
func (g *guess) end() { g.s.waiting.Add(-1) }

// knownNetworkSQL tells whether an account has a session from a network.
const knownNetworkSQL = `
	SELECT EXISTS (
		SELECT FROM sessions s JOIN users u ON u.id = s.user_id
		WHERE u.email = $1 AND s.revoked_at IS NULL AND nullif(s.ip, '')::inet <<= $2::text::inet)`

// allowed refuses where too much has been guessed.
func (g *guess) allowed() error {
	pair, network := g.s.guesses.pair.look(g.pair), g.s.guesses.network.look(g.network)
	if !pair.ok {
		g.s.guesses.pair.refused.Add(1)
	} else if !network.ok {
		g.s.guesses.network.refused.Add(1)
	}
	for _, a := range []allowance{pair, network} {
		if !a.ok {
			wait := seconds(a.wait)
			return newProblem("rate_limited", "Too many wrong passwords came from your network; wait "+wait+" s.").with("Retry-After", wait)
		}
	}
	return nil
}

// wrong counts this try, once it is known to be wrong.
func (g *guess) wrong() {
	g.s.guesses.wrong.Add(1)
	g.s.guesses.pair.note(g.pair)
	g.s.guesses.network.note(g.network)
	g.s.guesses.account.note(g.account)
}

// check compares a password with a hash, and counts a wrong one. An empty hash, of an account that
// does not exist, takes as long and never matches. Of many tries at once those go on that are still
// allowed when their turn to be hashed comes.
func (g *guess) check(ctx context.Context, hash, password string) (bool, error) {
	if err := g.s.hashSlot(ctx); err != nil {
		return false, err
	}
	defer func() { <-g.s.hashing }()
	if err := g.allowed(); err != nil {
		return false, err
	}
	if hash == "" {
		_, err := bcrypt.GenerateFromPassword(passwordDigest(password), g.s.config.bcryptCost)
		g.wrong()
		return false, err
	}
	right := bcrypt.CompareHashAndPassword([]byte(hash), passwordDigest(password)) == nil
	if !right {
		g.wrong()
	}
	return right, nil
}

// confirmPassword judges the present password that a signed-in caller sends with a change that asks
// for it, and returns what is stored of it.
func (s *server) confirmPassword(r *http.Request, password string) (storedPassword, error) {
	stored, err := queryOne[storedPassword](r.Context(), s.db, passwordByIDSQL, callerOf(r.Context()).ID)
	if err != nil {
		return stored, err
	}
	guess, err := s.guess(r, stored.Email)
	if err != nil {
		return stored, err
	}
	defer guess.end()
	right, err := guess.check(r.Context(), stored.PasswordHash, password)
	if err == nil && !right {
		err = newProblem("wrong_password", "")
	}
	return stored, err
}

// guessKey names what is counted without telling Redis whose account it is.
func (s *server) guessKey(parts ...string) limitKey {
	return limitKey{'d', [16]byte(s.keys.mac("guess", parts...))}
}
