package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Service is bin/taskflow, serving the API on the servers' stores.
type Service struct {
	URL string
	cmd *exec.Cmd
}

// StartService starts it with default settings but for those given and waits until it is ready. Its
// log is in a file, as in production.
func StartService(ctx context.Context, servers *Servers, env ...string) (*Service, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := l.Addr().String()
	l.Close()
	log, err := os.Create(filepath.Join(servers.Dir, "taskflow.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s := &Service{URL: "http://" + address, cmd: exec.Command("../bin/taskflow", "serve")}
	s.cmd.Env = append([]string{"DATABASE_URL=" + servers.Database, "REDIS_URL=" + servers.RedisURL, "JWT_SECRET=a secret for nothing but benchmarks",
		"LISTEN_ADDR=" + address, "ROLE=api", "ACCESS_TOKEN_TTL=24h", "RATE_LIMIT=off", "AUTH_RATE_LIMIT=off"}, env...)
	s.cmd.Stderr, s.cmd.SysProcAttr = log, Apart()
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w; make build", err)
	}
	for began := time.Now(); time.Since(began) < 30*time.Second; time.Sleep(10 * time.Millisecond) {
		if _, err := s.Call(ctx, "", "GET", "/ready", ""); err == nil {
			return s, nil
		}
	}
	s.End()
	return nil, errors.New("TaskFlow did not become ready")
}

// PID is that of its process.
func (s *Service) PID() int { return s.cmd.Process.Pid }

// End kills it.
func (s *Service) End() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}}

// Call makes a request and returns the answer, or one value of it. An answer other than 2xx is an error.
func (s *Service) Call(ctx context.Context, token, method, path, body string, want ...string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.URL+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s answered %d: %s", method, path, resp.StatusCode, text)
	}
	if err != nil || len(want) == 0 {
		return string(text), err
	}
	var values map[string]any
	if err := json.Unmarshal([]byte(text), &values); err != nil {
		return "", err
	}
	return fmt.Sprint(values[want[0]]), nil
}
