package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	keysPatience = 3 * time.Second  // with who hands out keys; it is on the same machine
	keysEarly    = 10 * time.Minute // before their end, new ones are asked for; Amazon has them ready then
	keysPause    = 10 * time.Second // until it is asked again after a failure, while the old ones are good
	maxKeys      = 64 << 10         // bytes of an answer
)

// s3Keys sign requests.
type s3Keys struct {
	access, secret, token secret
	until                 time.Time // zero: for good
}

// roleKeys are the keys of a role, renewed before they end, by one at a time.
type roleKeys struct {
	giver  keyGiver
	client *http.Client
	turn   chan struct{} // held by who asks for new ones

	mu    sync.Mutex
	held  s3Keys
	again time.Time // not before this new ones are asked for while the held are good
}

func newRoleKeys(giver keyGiver) *roleKeys {
	return &roleKeys{giver: giver, turn: make(chan struct{}, 1), client: &http.Client{
		Timeout: keysPatience,
		// No proxy of the environment, which the answer is no business of.
		Transport:     &http.Transport{DialContext: (&net.Dialer{Timeout: time.Second}).DialContext, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// at is the keys for a request that is signed now. While the held ones are good nobody waits but who renews them.
func (k *roleKeys) at(ctx context.Context, now time.Time) (s3Keys, error) {
	held, good, fresh := k.look(now)
	if fresh {
		return held, nil
	}
	select {
	case k.turn <- struct{}{}:
	default:
		if good {
			return held, nil
		}
		select {
		case k.turn <- struct{}{}:
		case <-ctx.Done():
			return s3Keys{}, &storageError{cause: ctx.Err()}
		}
	}
	defer func() { <-k.turn }()
	if held, good, fresh = k.look(now); fresh { // somebody else has been faster
		return held, nil
	}
	made, err := k.ask(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case err == nil:
		k.held, k.again = made, now.Add(keysPause)
		return made, nil
	case good:
		k.again = now.Add(keysPause)
		return held, nil
	}
	return s3Keys{}, &storageError{cause: err}
}

// look is the keys that are held, whether they are good, and whether they need not be renewed yet.
func (k *roleKeys) look(now time.Time) (held s3Keys, good, fresh bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	good = k.held.until.After(now)
	return k.held, good, good && (k.held.until.Sub(now) > keysEarly || now.Before(k.again))
}

// ask gets keys. Its errors hold nothing of the answer, which has secrets.
func (k *roleKeys) ask(ctx context.Context) (s3Keys, error) {
	r, err := http.NewRequestWithContext(ctx, "GET", k.giver.address, nil)
	if err != nil {
		return s3Keys{}, fmt.Errorf("ask for the role's keys: %w", err)
	}
	token := string(k.giver.token)
	if k.giver.tokenFile != "" {
		content, err := os.ReadFile(k.giver.tokenFile)
		if err != nil {
			return s3Keys{}, fmt.Errorf("ask for the role's keys: %w", err)
		}
		token = strings.TrimSpace(string(content))
	}
	if token != "" {
		r.Header.Set("Authorization", token)
	}
	resp, err := k.client.Do(r)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // without the address, whose path is as good as a key
		}
		return s3Keys{}, fmt.Errorf("ask for the role's keys: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxKeys))
	if err != nil {
		return s3Keys{}, fmt.Errorf("ask for the role's keys: %w", err)
	}
	var said struct {
		AccessKeyID     secret `json:"AccessKeyId"`
		SecretAccessKey secret
		Token           secret
		Expiration      time.Time // RFC 3339
	}
	if resp.StatusCode != http.StatusOK {
		return s3Keys{}, fmt.Errorf("ask for the role's keys: the answer is %d", resp.StatusCode)
	}
	if json.Unmarshal(body, &said) != nil || said.AccessKeyID == "" || said.SecretAccessKey == "" || said.Token == "" || said.Expiration.IsZero() {
		return s3Keys{}, errors.New("ask for the role's keys: the answer holds none")
	}
	return s3Keys{said.AccessKeyID, said.SecretAccessKey, said.Token, said.Expiration}, nil
}
