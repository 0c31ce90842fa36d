package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// sink is a client that throws everything away.
type sink struct {
	header http.Header
	status int
	bytes  int
}

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) WriteHeader(status int)      { s.status = status }
func (s *sink) Write(b []byte) (int, error) { s.bytes += len(b); return len(b), nil }

// benchmarkRequest measures a request from the outermost handler on, without the network.
func benchmarkRequest(b *testing.B, c *client, status int, method, path, body string) {
	b.Helper()
	handler := c.s.handler()
	req := httptest.NewRequest(method, path, nil)
	req.RemoteAddr = "127.0.0.1:50000"
	req.Header.Set("Authorization", "Bearer "+c.token)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	b.ReportAllocs()
	for b.Loop() {
		w := &sink{header: http.Header{}}
		r := *req
		if body != "" {
			r.Body = http.NoBody
			r.Body = readCloser{strings.NewReader(body)}
		}
		handler.ServeHTTP(w, &r)
		if w.status != status {
			b.Fatalf("%s %s: got %d, want %d", method, path, w.status, status)
		}
	}
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

// BenchmarkRequests are the requests that are made most, with a warm cache and without one.
func BenchmarkRequests(b *testing.B) {
	for _, cache := range []string{"on", "off"} {
		ts := newTestServer(b, "CACHE="+cache, "LOG_LEVEL=info")
		alice := ts.signUp("Alice")
		project := alice.project("Launch")
		id := ""
		for n := range 20 {
			id = alice.task(project, fmt.Sprintf("Task %d with a title of some length", n))
		}
		b.Run("cache="+cache+"/read a task", func(b *testing.B) { benchmarkRequest(b, alice, 200, "GET", "/api/v1/tasks/"+id, "") })
		b.Run("cache="+cache+"/list 20 tasks", func(b *testing.B) {
			benchmarkRequest(b, alice, 200, "GET", "/api/v1/tasks?projectId="+project+"&limit=20", "")
		})
		b.Run("cache="+cache+"/create a task", func(b *testing.B) {
			benchmarkRequest(b, alice, 201, "POST", "/api/v1/tasks", `{"projectId":"`+project+`","title":"Made by a benchmark"}`)
		})
	}
}
