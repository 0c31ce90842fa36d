package main

import (
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

// keyServer hands out the keys of a role, as ECS does.
type keyServer struct {
	*httptest.Server
	asked  atomic.Int32
	handle atomic.Pointer[http.HandlerFunc]
}

func newKeyServer(t *testing.T, handle http.HandlerFunc) *keyServer {
	t.Helper()
	k := &keyServer{}
	k.handle.Store(&handle)
	k.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k.asked.Add(1)
		(*k.handle.Load())(w, r)
	}))
	t.Cleanup(k.Close)
	return k
}

// giveKeys answers the keys that s3Server knows, good for a while.
func giveKeys(w http.ResponseWriter, life time.Duration) {
	fmt.Fprintf(w, `{"RoleArn":"arn:aws:iam::1:role/r","AccessKeyId":%q,"SecretAccessKey":%q,"Token":%q,"Expiration":%q}`,
		s3Key, s3Secret, s3Token, time.Now().Add(life).UTC().Format(time.RFC3339))
}

// asRole is a bucket without keys of its own.
func (s *s3Server) asRole(k *keyServer) *s3Bucket {
	return newBucket(bucketSettings{name: "attic", region: "eu-north-1", endpoint: s.URL, giver: keyGiver{address: k.URL + "/v2/credentials/1"}})
}

// The whole way through, as in a task of ECS: no key is set, and every request is signed with those of the role.
func TestAttachmentsByTheRoleOfATask(t *testing.T) {
	t.Parallel()
	s := newS3Server(t)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("let me in\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	k := newKeyServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "let me in" || r.URL.Path != "/v2/credentials/1" {
			w.WriteHeader(403)
			return
		}
		giveKeys(w, 6*time.Hour)
	})
	ts := newTestServer(t, "STORAGE_URL=s3://attic?region=eu-north-1&endpoint="+s.URL, "AWS_CONTAINER_CREDENTIALS_FULL_URI="+k.URL+"/v2/credentials/1", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE="+file)
	ada := ts.signUp("Ada")
	id := ada.attach(ada.task(ada.project("Launch"), "Ship"), "a.txt", "content")
	link := ada.get("/api/v1/attachments/" + id + "/content").want(307).header.Get("Location")
	u, err := url.Parse(link)
	if err != nil || u.Query().Get("X-Amz-Security-Token") != s3Token {
		t.Errorf("the link does not hold the role's token: %v", err)
	}
	resp, err := http.Get(link)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || len(s.refused) > 0 || k.asked.Load() != 1 {
		t.Errorf("the link answers %d, refused are %v, keys were asked for %d times", resp.StatusCode, s.refused, k.asked.Load())
	}
	if said := ts.log.String(); strings.Contains(said, s3Secret) || strings.Contains(said, s3Token) || strings.Contains(said, "let me in") {
		t.Error("the log has a secret")
	}
}

func TestKeysOfARole(t *testing.T) {
	t.Parallel()
	put := func(b *s3Bucket) error { return b.put(t.Context(), "KEY", strings.NewReader("x")) }

	t.Run("are asked for once by many at the same time", func(t *testing.T) {
		s, begun := newS3Server(t), make(chan struct{})
		k := newKeyServer(t, func(w http.ResponseWriter, r *http.Request) {
			<-begun
			giveKeys(w, time.Hour)
		})
		b := s.asRole(k)
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if err := put(b); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(50 * time.Millisecond) // for all to come; fewer would ask no more often
		close(begun)
		all.Wait()
		if n := k.asked.Load(); n != 1 {
			t.Errorf("they were asked for %d times", n)
		}
	})

	t.Run("are renewed before they end, while others use the old ones", func(t *testing.T) {
		s, renew := newS3Server(t), make(chan struct{})
		k := newKeyServer(t, func(w http.ResponseWriter, r *http.Request) { giveKeys(w, keysEarly+time.Minute) })
		b := s.asRole(k)
		if err := put(b); err != nil {
			t.Fatal(err)
		}
		slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-renew
			giveKeys(w, 6*time.Hour)
		})
		k.handle.Store(&slow)
		later := time.Now().Add(2 * time.Minute)
		one := make(chan error)
		go func() {
			_, err := b.role.at(t.Context(), later)
			one <- err
		}()
		for k.asked.Load() < 2 {
			time.Sleep(time.Millisecond)
		}
		for range 5 {
			if keys, err := b.role.at(t.Context(), later); err != nil || keys.access != s3Key {
				t.Errorf("got %v", err)
			}
		}
		close(renew)
		if err := <-one; err != nil {
			t.Error(err)
		}
		if keys, err := b.role.at(t.Context(), later.Add(time.Hour)); err != nil || time.Until(keys.until) < 5*time.Hour || k.asked.Load() != 2 {
			t.Errorf("got keys until %v, %v, asked for %d times", keys.until, err, k.asked.Load())
		}
	})

	t.Run("are used to their end where no new ones are to be had", func(t *testing.T) {
		s := newS3Server(t)
		k := newKeyServer(t, func(w http.ResponseWriter, r *http.Request) { giveKeys(w, keysEarly+time.Minute) })
		b := s.asRole(k)
		if err := put(b); err != nil {
			t.Fatal(err)
		}
		broken := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) })
		k.handle.Store(&broken)
		soon, end := time.Now().Add(2*time.Minute), time.Now().Add(keysEarly+2*time.Minute)
		for range 5 {
			if _, err := b.role.at(t.Context(), soon); err != nil {
				t.Error(err)
			}
		}
		if n := k.asked.Load(); n != 2 {
			t.Errorf("they were asked for %d times in a moment, want 2", n)
		}
		if _, err := b.role.at(t.Context(), soon.Add(keysPause+time.Second)); err != nil || k.asked.Load() != 3 {
			t.Errorf("after a pause: got %v, asked for %d times", err, k.asked.Load())
		}
		if _, err := b.role.at(t.Context(), end); err == nil {
			t.Error("keys that have ended are used")
		}
	})

	t.Run("make links that last as long as they say, or none", func(t *testing.T) {
		s := newS3Server(t)
		k := newKeyServer(t, func(w http.ResponseWriter, r *http.Request) { giveKeys(w, linkLife-10*time.Second) })
		if link := s.asRole(k).link(t.Context(), "KEY", "attachment", "text/plain", linkLife); link != "" {
			t.Errorf("got %s, whose keys end before", link)
		}
		whole := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { giveKeys(w, time.Hour) })
		k.handle.Store(&whole)
		if link := s.asRole(k).link(t.Context(), "KEY", "attachment", "text/plain", linkLife); link == "" {
			t.Error("got none")
		}
	})

	t.Run("that cannot be had are told without what was answered", func(t *testing.T) {
		s := newS3Server(t)
		for name, answer := range map[string]http.HandlerFunc{
			"refused":  func(w http.ResponseWriter, r *http.Request) { http.Error(w, "hunter2", 403) },
			"no JSON":  func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hunter2") },
			"an error": func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"code":"hunter2"}`) },
			"no end": func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprint(w, `{"AccessKeyId":"a","SecretAccessKey":"hunter2","Token":"t"}`)
			},
			"moved":     func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/hunter2", 302) },
			"cut short": func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) },
		} {
			k := newKeyServer(t, answer)
			b := s.asRole(k)
			if _, err := b.keys(t.Context()); err == nil || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "/v2/credentials/1") {
				t.Errorf("%s: got %v", name, err)
			}
			if link := b.link(t.Context(), "KEY", "attachment", "text/plain", linkLife); link != "" {
				t.Errorf("%s: a link without keys: %s", name, link)
			}
		}
		if len(s.asked) > 0 {
			t.Errorf("the bucket was sent %v", s.asked)
		}
	})
}
