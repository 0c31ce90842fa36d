package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	startLimit = 2 * time.Minute // for dev mode to answer, with a database to be made first
	stopLimit  = 30 * time.Second
	pageLimit  = 6 * time.Minute // for everything the browser does
)

// TestAPIPageWorksInABrowser drives the real page of a real process: docs.mjs registers, authorizes
// and makes a project by the page's own buttons.
func TestAPIPageWorksInABrowser(t *testing.T) {
	installed(t, "playwright-core/package.json")
	base := startService(t)
	ctx, cancel := context.WithTimeout(t.Context(), pageLimit)
	defer cancel()
	page := exec.CommandContext(ctx, node(t), "docs.mjs", base, chromium(t), filepath.Join(t.ArtifactDir(), "docs.png"))
	page.WaitDelay = stopLimit // the browser ends by itself when the script is killed
	out, err := page.CombinedOutput()
	if err != nil {
		t.Errorf("docs.mjs: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// chromium is the path of the browser.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{os.Getenv("CHROMIUM"), "/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome"} {
		if program, err := exec.LookPath(name); err == nil {
			return program
		}
	}
	t.Fatal("chromium is not installed; on Debian: apt-get install chromium, elsewhere set CHROMIUM to the path of Chromium or Chrome")
	return ""
}

// startService builds the program and runs its dev mode, with settings of its own, until the test ends. It
// returns the address.
func startService(t *testing.T, env ...string) string {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "taskflow")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	address := freeAddress(t)
	log, err := os.Create(filepath.Join(dir, "taskflow.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	service := exec.Command(program, "dev")
	service.Env = append(withoutSettings(os.Environ()), "DATA_DIR="+filepath.Join(dir, "data"), "LISTEN_ADDR="+address)
	service.Env = append(service.Env, env...)
	service.Stdout, service.Stderr = log, log
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- service.Wait() }()
	t.Cleanup(func() {
		service.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("taskflow dev ended with %v\n%s", err, tail(log.Name()))
			}
		case <-time.After(stopLimit):
			service.Process.Kill()
			t.Errorf("taskflow dev did not stop within %v\n%s", stopLimit, tail(log.Name()))
		}
		if t.Failed() {
			t.Logf("log of taskflow dev:\n%s", tail(log.Name()))
		}
	})
	base := schemeOf(env) + address
	for deadline := time.Now().Add(startLimit); ; time.Sleep(50 * time.Millisecond) {
		if err := ready(t.Context(), base); err == nil {
			return base
		} else if time.Now().After(deadline) {
			t.Fatalf("taskflow dev is not ready after %v: %v\n%s", startLimit, err, tail(log.Name()))
		}
		select {
		case err := <-ended:
			ended <- nil
			t.Fatalf("taskflow dev ended with %v\n%s", err, tail(log.Name()))
		default:
		}
	}
}

func ready(ctx context.Context, base string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, "GET", base+"/ready", nil)
	if err != nil {
		return err
	}
	response, err := (&http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // one that the test has made is not known
	}}).Do(request)
	if err != nil {
		return err
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New("/ready answers " + response.Status)
	}
	return nil
}

// freeAddress is a loopback address that nobody listens on at the moment.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// withoutSettings keeps what any program needs of the environment, and nothing that would set
// TaskFlow up other than by default.
func withoutSettings(environ []string) []string {
	var kept []string
	for _, pair := range environ {
		switch name, _, _ := strings.Cut(pair, "="); name {
		case "PATH", "HOME", "TMPDIR", "LANG", "USER":
			kept = append(kept, pair)
		}
	}
	return kept
}

// tail is the end of a log.
func tail(name string) string {
	text, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-8000):])
}
