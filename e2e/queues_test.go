package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestQueuesPageWorksInABrowser drives the operators' page of a real process: queues.mjs breaks
// jobs, finds them on the page as dead, mends, retries, pauses and deletes, by mouse and by keyboard.
func TestQueuesPageWorksInABrowser(t *testing.T) {
	installed(t, "playwright-core/package.json")
	installed(t, "axe-core/package.json")
	base := startService(t)
	ctx, cancel := context.WithTimeout(t.Context(), pageLimit)
	defer cancel()
	page := exec.CommandContext(ctx, node(t), "queues.mjs", base, chromium(t), psql(t), databaseOf(t), t.ArtifactDir())
	page.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	page.Cancel = func() error { return syscall.Kill(-page.Process.Pid, syscall.SIGKILL) }
	out, err := page.CombinedOutput()
	if err != nil {
		t.Errorf("queues.mjs: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// databaseOf is the address of the database of the test's service, which dev mode leaves in its data folder.
func databaseOf(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(databaseFile(t))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// databaseFile is where that address stands, in the data folder.
func databaseFile(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(filepath.Dir(t.TempDir()), "*", "data", "database_url"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%d services have a database_url, want one (%v)", len(files), err)
	}
	return files[0]
}

// psql is the path of PostgreSQL's client, which comes with the server.
func psql(t *testing.T) string {
	t.Helper()
	beside, _ := filepath.Glob("/usr/lib/postgresql/*/bin/psql")
	for _, name := range append([]string{"psql"}, beside...) {
		if program, err := exec.LookPath(name); err == nil {
			return program
		}
	}
	t.Fatal("psql is not installed; on Debian: apt-get install postgresql-client")
	return ""
}
