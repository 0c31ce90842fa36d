package main

import (
	"context"
	"fmt"
	"net/http"
	"time"
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

// guess is one try of a password. It counts as wrong from the beginning, so that a thousand at once
// are no way around, until it is forgiven.
type guess struct {
	s       *server
	pair    limitKey
	network limitKey
	account limitKey
	slowed  bool // the account's count was full
}

// guess begins a try of the password of an account, named by its canonical address, before anything
// is known of the account: the answer is the same for one that does not exist.
func (s *server) guess(r *http.Request, email string) (*guess, error) {
	if s.waiting.Load() >= maxWaiting {
		return nil, tooManyHashes()
	}
	network := networkOf(clientAddr(r), 24, 64)
	g := &guess{s: s, pair: s.guessKey(email, network.String()), network: s.guessKey(network.String()), account: s.guessKey(email)}
	if a := s.guesses.pair.take(g.pair, 1); !a.ok {
		return nil, tooManyGuesses(a)
	}
	if a := s.guesses.network.take(g.network, 1); !a.ok {
		s.guesses.pair.giveBack(g.pair, 1)
		return nil, tooManyGuesses(a)
	}
	if a := s.guesses.account.take(g.account, 1); !a.ok {
		g.slowed = true
		known, err := queryValue[bool](r.Context(), s.db, knownNetworkSQL, email, network.String())
		if err != nil {
			g.forgive()
			return nil, err
		}
		if !known {
			sleep(r.Context(), guessDelay)
		}
	}
	return g, nil
}

// knownNetworkSQL tells whether an account has a session from a network.
const knownNetworkSQL = `
	SELECT EXISTS (
		SELECT FROM sessions s JOIN users u ON u.id = s.user_id
		WHERE u.email = $1 AND s.revoked_at IS NULL AND nullif(s.ip, '')::inet <<= $2::text::inet)`

// check is checkPassword for this try. Without an answer, nothing was guessed.
func (g *guess) check(ctx context.Context, hash, password string) (bool, error) {
	right, err := g.s.checkPassword(ctx, hash, password)
	if err != nil {
		g.forgive()
	}
	return right, err
}

// forgive takes the try out of the counts: everything about it was right.
func (g *guess) forgive() {
	g.s.guesses.pair.giveBack(g.pair, 1)
	g.s.guesses.network.giveBack(g.network, 1)
	if !g.slowed {
		g.s.guesses.account.giveBack(g.account, 1)
	}
}

func tooManyGuesses(a allowance) error {
	return newProblem("rate_limited", fmt.Sprintf("Too many wrong passwords from here; try again in %s seconds.", seconds(a.wait))).with("Retry-After", seconds(a.wait))
}

// guessKey names what is counted without telling Redis whose account it is.
func (s *server) guessKey(parts ...string) limitKey {
	return limitKey{'d', [16]byte(s.keys.mac("guess", parts...))}
}
