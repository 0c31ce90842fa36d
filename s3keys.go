package main

import (
	"cmp"
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
	"sync/atomic"
	"time"
)

const (
	keysAhead     = 10 * time.Minute // before keys end others are asked for, while they still sign
	keysLeast     = 2 * time.Minute  // that keys must be good for: as long as what they sign
	keysPatience  = 5 * time.Second  // with one request for keys
	keysPause     = time.Second      // between two of them
	maxKeysAnswer = 64 << 10         // bytes
)

// roleKeys are the keys of the role that AWS gives a container. They last some hours; the container asks
// for the next ones: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-iam-roles.html
type roleKeys struct {
	roleSettings
	client *http.Client
	now    func() time.Time
	turn   chan struct{}            // of one: whose it is asks, all others wait or go on with what is held
	held   atomic.Pointer[heldKeys] // never nil
}

// heldKeys are keys as they were told, and what asking for others came to.
type heldKeys struct {
	bucketKeys
	until  time.Time
	again  time.Time // not to ask before
	failed error     // of the last request, or nil
}

func newRoleKeys(set roleSettings) *roleKeys {
	k := &roleKeys{roleSettings: set, now: time.Now, turn: make(chan struct{}, 1), client: &http.Client{
		Transport: &http.Transport{ // never by a proxy
			DialContext:       (&net.Dialer{Timeout: time.Second}).DialContext,
			DisableKeepAlives: true, // hours lie between two requests
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	k.held.Store(&heldKeys{failed: errors.New("no keys yet")})
	return k
}

// current is keys that are good for keysLeast at least. One caller at a time asks for new ones; the others
// wait only where there is nothing left to sign with.
func (k *roleKeys) current(ctx context.Context) (bucketKeys, error) {
	held := k.held.Load()
	left := held.until.Sub(k.now())
	if left > keysAhead {
		return held.bucketKeys, nil
	}
	if left > keysLeast {
		select {
		case k.turn <- struct{}{}:
		default:
			return held.bucketKeys, nil
		}
	} else {
		select {
		case k.turn <- struct{}{}:
		case <-ctx.Done():
			return bucketKeys{}, ctx.Err()
		}
	}
	defer func() { <-k.turn }()
	if held = k.held.Load(); !k.now().Before(held.again) && held.until.Sub(k.now()) <= keysAhead { // nobody else has just asked
		held = k.ask(ctx, held)
		k.held.Store(held)
	}
	if held.until.Sub(k.now()) > keysLeast {
		return held.bucketKeys, nil
	}
	return bucketKeys{}, fmt.Errorf("keys of the container's role: %w", cmp.Or(held.failed, errors.New("they are about to end, and there are no others")))
}

// ask asks for keys and, where there are none, keeps those before. A caller who goes away does not end it:
// others wait for the answer.
func (k *roleKeys) ask(ctx context.Context, before *heldKeys) *heldKeys {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keysPatience)
	defer cancel()
	next, err := k.fetch(ctx)
	if err != nil {
		next = &heldKeys{bucketKeys: before.bucketKeys, until: before.until, failed: err}
	}
	next.again = k.now().Add(keysPause)
	return next
}

// fetch asks once. Its errors have neither the address nor anything of the answer: both are secret.
func (k *roleKeys) fetch(ctx context.Context) (*heldKeys, error) {
	token := string(k.token)
	if k.tokenFile != "" {
		content, err := os.ReadFile(k.tokenFile)
		if err != nil {
			return nil, fmt.Errorf("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: %w", err)
		}
		token = strings.TrimRight(string(content), "\r\n")
	}
	r, err := http.NewRequestWithContext(ctx, "GET", string(k.address), nil)
	if err != nil {
		return nil, errors.New("the address cannot be asked")
	}
	r.Header.Set("Accept", "application/json")
	if token != "" {
		r.Header.Set("Authorization", token)
	}
	resp, err := k.client.Do(r)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		AccessKeyId, SecretAccessKey, Token string // as AWS spells them
		Expiration                          time.Time
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxKeysAnswer))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer is %d", resp.StatusCode)
	}
	if json.Unmarshal(body, &answer) != nil || answer.AccessKeyId == "" || answer.SecretAccessKey == "" || answer.Expiration.IsZero() {
		return nil, errors.New("the answer has no keys")
	}
	return &heldKeys{bucketKeys: bucketKeys{secret(answer.AccessKeyId), secret(answer.SecretAccessKey), secret(answer.Token)}, until: answer.Expiration}, nil
}
