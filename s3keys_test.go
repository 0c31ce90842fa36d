package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// keyServer tells a container the keys of its role, as ECS does.
type keyServer struct {
	*httptest.Server
	mu    sync.Mutex
	keys  bucketKeys
	life  time.Duration // of the keys it tells
	fail  string        // what it answers with 500 instead; "" for nothing
	hold  chan struct{} // answers wait until it is closed; nil: they do not
	token string        // who asks must have it
	asked atomic.Int64
}

func newKeyServer(t *testing.T) *keyServer {
	t.Helper()
	k := &keyServer{keys: s3Keys(), life: 6 * time.Hour, token: "hunter2"}
	k.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k.asked.Add(1)
		k.mu.Lock()
		keys, life, fail, hold, token := k.keys, k.life, k.fail, k.hold, k.token
		k.mu.Unlock()
		if hold != nil {
			<-hold
		}
		switch {
		case r.Header.Get("Authorization") != token:
			w.WriteHeader(http.StatusForbidden)
		case fail != "":
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprint(w, fail)
		default:
			json.NewEncoder(w).Encode(map[string]string{
				"RoleArn": "arn:aws:iam::111122223333:role/taskflow", "AccessKeyId": string(keys.access), "SecretAccessKey": string(keys.secret), "Token": string(keys.session),
				"Expiration": time.Now().Add(life).UTC().Format(time.RFC3339),
			})
		}
	}))
	t.Cleanup(k.Close)
	return k
}

// role asks the server, with a clock that the test can put forward.
func (k *keyServer) role() (role *roleKeys, forward func(time.Duration)) {
	role = newRoleKeys(roleSettings{address: secret(k.URL + "/v2/credentials/id"), token: "hunter2"})
	var ahead atomic.Int64
	role.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	return role, func(d time.Duration) { ahead.Add(int64(d)) }
}

// change makes the server tell something else.
func (k *keyServer) change(change func(k *keyServer)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change(k)
}

var otherKeys = bucketKeys{access: "ASIAOTHER", secret: "another/secret", session: "another+token"}

func TestKeysOfARole(t *testing.T) {
	t.Parallel()
	current := func(t *testing.T, role *roleKeys, want bucketKeys) {
		t.Helper()
		if got, err := role.current(t.Context()); err != nil || got != want {
			t.Errorf("got keys of %s, %v", string(got.access), err)
		}
	}
	count := func(t *testing.T, k *keyServer, want int64) {
		t.Helper()
		if got := k.asked.Load(); got != want {
			t.Errorf("they were asked for %d times, want %d", got, want)
		}
	}
	t.Run("are asked for once and renewed before they end", func(t *testing.T) {
		k := newKeyServer(t)
		role, forward := k.role()
		current(t, role, s3Keys())
		forward(6*time.Hour - keysAhead - time.Minute)
		k.change(func(k *keyServer) { k.keys, k.life = otherKeys, 12*time.Hour })
		current(t, role, s3Keys())
		count(t, k, 1)
		forward(2 * time.Minute)
		current(t, role, otherKeys)
		count(t, k, 2)
	})
	t.Run("are asked for once by all at once", func(t *testing.T) {
		k := newKeyServer(t)
		role, forward := k.role()
		all := func() (done func() []bucketKeys) {
			var wait sync.WaitGroup
			got := make([]bucketKeys, 32)
			for i := range got {
				wait.Go(func() { got[i], _ = role.current(t.Context()) })
			}
			return func() []bucketKeys { wait.Wait(); return got }
		}
		hold := make(chan struct{})
		k.change(func(k *keyServer) { k.hold = hold })
		done := all()
		for k.asked.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
		close(hold)
		for _, got := range done() {
			if got != s3Keys() {
				t.Fatalf("got keys of %q", string(got.access))
			}
		}
		count(t, k, 1)

		hold = make(chan struct{})
		k.change(func(k *keyServer) { k.hold, k.keys, k.life = hold, otherKeys, 12*time.Hour })
		forward(6*time.Hour - keysAhead + time.Minute)
		renewing := make(chan struct{})
		go func() { defer close(renewing); role.current(t.Context()) }()
		for k.asked.Load() == 1 {
			time.Sleep(time.Millisecond)
		}
		for _, got := range all()() { // while one waits for the next keys, the others go on
			if got != s3Keys() {
				t.Fatalf("got keys of %q", string(got.access))
			}
		}
		close(hold)
		<-renewing
		current(t, role, otherKeys)
		count(t, k, 2)
	})
	t.Run("stay in use until they end where there are no others", func(t *testing.T) {
		k := newKeyServer(t)
		role, forward := k.role()
		current(t, role, s3Keys())
		k.change(func(k *keyServer) { k.fail = string(s3Keys().secret) })
		forward(6*time.Hour - keysAhead + time.Minute)
		for range 10 {
			current(t, role, s3Keys())
		}
		count(t, k, 2) // not at every request
		forward(keysAhead - time.Minute - keysLeast + time.Second)
		for range 10 {
			_, err := role.current(t.Context())
			if err == nil || !strings.Contains(err.Error(), "the answer is 500") || strings.Contains(err.Error(), s3Secret) || strings.Contains(err.Error(), "/v2/") {
				t.Fatalf("got %v", err)
			}
		}
		count(t, k, 3)
		k.change(func(k *keyServer) { k.fail, k.keys, k.life = "", otherKeys, 12*time.Hour })
		forward(keysPause)
		current(t, role, otherKeys)
	})
	t.Run("are for who has the token, which may change in its file", func(t *testing.T) {
		k := newKeyServer(t)
		file := filepath.Join(t.TempDir(), "token")
		write := func(token string) {
			t.Helper()
			if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("old")
		role, forward := k.role()
		role.token, role.tokenFile = "hunter2", file
		if _, err := role.current(t.Context()); err == nil || !strings.Contains(err.Error(), "403") {
			t.Errorf("with another token: got %v", err)
		}
		write("hunter2")
		forward(keysPause)
		current(t, role, s3Keys())
		os.Remove(file)
		if _, err := role.fetch(t.Context()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("without the file: got %v", err)
		}
	})
	t.Run("are asked for also when who needed them first has gone", func(t *testing.T) {
		k := newKeyServer(t)
		role, _ := k.role()
		hold := make(chan struct{})
		k.change(func(k *keyServer) { k.hold = hold })
		gone, leave := context.WithCancel(t.Context())
		first := make(chan error, 1)
		go func() { _, err := role.current(gone); first <- err }()
		for k.asked.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
		if _, err := role.current(canceled()); !errors.Is(err, context.Canceled) {
			t.Errorf("who has gone still waits: %v", err)
		}
		leave()
		close(hold)
		<-first
		current(t, role, s3Keys())
		count(t, k, 1)
	})
	for what, answer := range map[string]string{
		"no JSON": "<html>", "no end": `{"AccessKeyId":"a","SecretAccessKey":"b","Token":"c"}`, "no secret": `{"AccessKeyId":"a","Expiration":"2100-01-01T00:00:00Z"}`,
		"only an end that is past": `{"AccessKeyId":"a","SecretAccessKey":"b","Expiration":"2020-01-01T00:00:00Z"}`,
	} {
		t.Run("are not taken from an answer with "+what, func(t *testing.T) {
			odd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, answer) }))
			defer odd.Close()
			if got, err := newRoleKeys(roleSettings{address: secret(odd.URL)}).current(t.Context()); err == nil || got != (bucketKeys{}) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// The whole way through: a bucket that only a role's keys open, which change under way.
func TestAttachmentsInABucketOfARole(t *testing.T) {
	t.Parallel()
	s, k := newS3Server(t), newKeyServer(t)
	ts := newTestServer(t, "STORAGE_URL=s3://attic?region=eu-north-1&endpoint="+s.URL, "AWS_CONTAINER_CREDENTIALS_FULL_URI="+k.URL+"/v2/credentials/id", "AWS_CONTAINER_AUTHORIZATION_TOKEN=hunter2")
	ada := ts.signUp("Ada")
	task := ada.task(ada.project("Launch"), "Ship")
	fetch := func(id string) {
		t.Helper()
		link := ada.get("/api/v1/attachments/" + id + "/content").want(307).header.Get("Location")
		if u, err := url.Parse(link); err != nil || u.Query().Get("X-Amz-Security-Token") == "" {
			t.Errorf("the link has no token: %v", err)
		}
		resp, err := http.Get(link)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("the link answers %d: %v", resp.StatusCode, s.refused)
		}
	}
	id := ada.attach(task, "a.txt", "content")
	fetch(id)
	role := ts.server.blobs.(*s3Bucket).role
	k.change(func(k *keyServer) { k.keys = otherKeys })
	s.mu.Lock()
	s.keys = otherKeys
	s.mu.Unlock()
	held := *role.held.Load()
	held.until, held.again = time.Now().Add(keysLeast), time.Time{}
	role.held.Store(&held)
	fetch(id)
	ada.attach(task, "b.txt", "content")
	if got := k.asked.Load(); got != 2 {
		t.Errorf("keys were asked for %d times", got)
	}
	k.Close()
	held.until = time.Now()
	role.held.Store(&held)
	a := ada.get("/api/v1/attachments/"+id+"/content").problem(503, "unavailable")
	ada.post("/api/v1/tasks/"+task+"/attachments", formOf("c", "x")).problem(503, "unavailable")
	for _, leak := range []string{s3Secret, string(otherKeys.secret), "hunter2", "credentials/id"} {
		if strings.Contains(ts.log.String(), leak) || strings.Contains(string(a.body), leak) {
			t.Errorf("%q has got out", leak)
		}
	}
}
