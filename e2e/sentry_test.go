package e2e

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestErrorReportsAreReadBySentrysLibrary has a real process give up a job, and what it reports taken
// apart by a library that others wrote.
func TestErrorReportsAreReadBySentrysLibrary(t *testing.T) {
	installed(t, "@sentry/core/package.json")
	reports := make(chan []byte, 64)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err == nil && r.URL.Path == "/api/42/envelope/" {
			reports <- body
		}
	}))
	defer collector.Close()
	startService(t, "SENTRY_DSN="+strings.Replace(collector.URL, "://", "://key@", 1)+"/42")
	insert := `INSERT INTO jobs (id, kind, payload) VALUES (uuid_v7(), 'notification.fanout', '"not what it should be"') RETURNING id`
	out, err := exec.CommandContext(t.Context(), psql(t), "-d", databaseOf(t), "-qAt", "-c", insert).Output()
	if err != nil {
		t.Fatalf("psql: %v", err)
	}
	job := strings.TrimSpace(string(out))
	select {
	case report := <-reports:
		file := filepath.Join(t.TempDir(), "envelope")
		if err := os.WriteFile(file, report, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), node(t), "sentry.mjs", file, job).CombinedOutput()
		if err != nil {
			t.Errorf("sentry.mjs: %v\n%s\n%s", err, out, report)
		}
		t.Logf("%s", out)
	case <-time.After(startLimit):
		t.Fatal("nothing was reported")
	}
}
