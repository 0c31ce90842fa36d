package main

import (
	"bufio"
	"bytes"
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
	"regexp"
	"strings"
	"syscall"
	"time"

	"taskflow/bench/harness"
)

const (
	readyLimit = 30 * time.Second
	jwtSecret  = "a secret for nothing but benchmarks" // the same for all processes: so is the token
)

// service is a program that answers HTTP: TaskFlow, or the bare handler.
type service struct {
	cmd     *exec.Cmd
	url     string
	log     string        // file with its standard error
	profile string        // where CPU profiles come from; "" without
	started time.Duration // from the start of the process to the first yes of /ready
	ended   chan struct{} // closed then
}

func (s *service) pid() int { return s.cmd.Process.Pid }

// stop ends the process at once: nobody waits for its answers.
func (s *service) stop() {
	s.cmd.Process.Kill()
	<-s.ended
	os.Remove(s.log)
}

// end asks the process to stop, as an operator does, and waits until it has.
func (s *service) end() {
	s.cmd.Process.Signal(syscall.SIGTERM)
	<-s.ended
	os.Remove(s.log)
}

// watch waits for the process.
func (s *service) watch() {
	s.cmd.Wait()
	close(s.ended)
}

// command is a program, not yet started. Of our environment it gets nothing: settings of somebody's
// own TaskFlow are not for it.
func (b *bench) command(program string, env []string, args ...string) *service {
	b.started++
	s := &service{
		cmd:   exec.Command(program, args...),
		log:   filepath.Join(b.servers.Dir, fmt.Sprintf("%s-%d.log", filepath.Base(program), b.started)),
		ended: make(chan struct{}),
	}
	s.cmd.Env, s.cmd.SysProcAttr = env, harness.Apart()
	return s
}

// start runs it with its standard error in a file.
func (s *service) start() error {
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd.Stderr = log
	return s.cmd.Start()
}

// serve starts TaskFlow on a database and an empty Redis, and returns once it is ready.
func (b *bench) serve(ctx context.Context, database string, settings ...string) (_ *service, err error) {
	if err := b.servers.Redis.FlushAll(ctx).Err(); err != nil {
		return nil, fmt.Errorf("empty Redis: %w", err)
	}
	return b.serveAgain(ctx, database, settings...)
}

// serveAgain is serve on the Redis as it is. One that is empty may have forgotten other processes, for
// which the first waits a second.
func (b *bench) serveAgain(ctx context.Context, database string, settings ...string) (_ *service, err error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	env := append([]string{
		"RATE_LIMIT=off", "AUTH_RATE_LIMIT=off",
		"DATABASE_URL=" + b.dsn(database), "REDIS_URL=" + b.servers.RedisURL, "JWT_SECRET=" + jwtSecret, "LISTEN_ADDR=" + address,
		"ROLE=api", "ACCESS_TOKEN_TTL=24h", "BCRYPT_COST=10",
	}, settings...)
	profile := ""
	if b.profile != "" {
		if profile, err = freeAddress(); err != nil {
			return nil, err
		}
		env = append(env, "PROFILE_ADDR="+profile)
	}
	s := b.command(b.program, env, "serve")
	s.url, s.profile = "http://"+address, profile
	began := time.Now()
	if err := s.start(); err != nil {
		return nil, err
	}
	go s.watch()
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	for {
		if _, err := s.call(ctx, "", "GET", "/ready", ""); err == nil {
			s.started = time.Since(began)
			return s, nil
		}
		err := errors.New("it ended")
		select {
		case <-time.After(time.Millisecond):
			continue
		case <-s.ended:
		case <-ctx.Done():
			err = ctx.Err()
		}
		err = fmt.Errorf("TaskFlow did not become ready: %w\n%s", err, s.lastLog())
		s.stop()
		return nil, err
	}
}

// lastLog is the end of what the process wrote.
func (s *service) lastLog() string {
	text, _ := os.ReadFile(s.log)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}

var complaint = regexp.MustCompile(`"level":"(WARN|ERROR)"|"status":[45]\d\d`)

// complaints is the first lines of the log about something that went wrong, and empties the log.
func (s *service) complaints() string {
	text, _ := os.ReadFile(s.log)
	os.Truncate(s.log, 0)
	var found []string
	for line := range strings.Lines(string(text)) {
		if len(found) < 3 && complaint.MatchString(line) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return strings.Join(found, "\n")
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// serveBare starts the handler that writes these bytes and does nothing else.
func (b *bench) serveBare(body []byte) (*service, error) {
	file := filepath.Join(b.servers.Dir, "body")
	if err := os.WriteFile(file, body, 0o600); err != nil {
		return nil, err
	}
	s := b.command(filepath.Join(harness.Programs, "bare"), nil, file)
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.start(); err != nil {
		return nil, err
	}
	address, err := bufio.NewReader(out).ReadString('\n')
	go s.watch()
	if err != nil {
		err = fmt.Errorf("the bare handler did not start:\n%s", s.lastLog())
		s.stop()
		return nil, err
	}
	s.url = "http://" + strings.TrimSpace(address)
	return s, nil
}

// client has as many connections as there are callers.
var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}}

// call makes one request and returns the body of the answer, which must be of the 200s.
func (s *service) call(ctx context.Context, token, method, path, body string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s answered %d: %s", method, path, resp.StatusCode, bytes.TrimSpace(answer))
	}
	return answer, err
}

// callFor is call for an answer of JSON.
func callFor[T any](ctx context.Context, s *service, token, method, path, body string) (T, error) {
	var value T
	answer, err := s.call(ctx, token, method, path, body)
	if err != nil {
		return value, err
	}
	return value, json.Unmarshal(answer, &value)
}
