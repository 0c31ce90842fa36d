package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// program builds this program as it is shipped, once for all tests.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "taskflow-program-")
	if err != nil {
		return "", err
	}
	world.programs = dir
	path := filepath.Join(dir, "taskflow")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version=v0-test", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// process is the program, running.
type process struct {
	*testServer // its API and its log; nothing of the server within
	cmd         *exec.Cmd
	ended       chan struct{}
}

// serverEnv is a production configuration on a database and a Redis of its own. Processes of one
// test may share it.
func serverEnv(t *testing.T, more ...string) []string {
	t.Helper()
	return append([]string{"DATABASE_URL=" + string(newTestDatabase(t)), fmt.Sprintf("REDIS_URL=%s?db=%d", world.redisURL, 1+redisDatabases.Add(1)%15),
		"JWT_SECRET=" + strings.Repeat("secret of a process ", 2), "LISTEN_ADDR=127.0.0.1:0", "BCRYPT_COST=10", "RATE_LIMIT=off", "AUTH_RATE_LIMIT=off"}, more...)
}

var redisDatabases atomic.Int64

// command is the program with arguments and an environment of nothing but env.
func command(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir()}, env...)
	return cmd
}

// launch starts the program and waits until it serves.
func launch(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	return launchAs(t, command(t, env, args...))
}

// launchAs is launch for a command that leads to the program.
func launchAs(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{testServer: &testServer{t: t, log: &lockedBuffer{}}, cmd: cmd, ended: make(chan struct{})}
	p.cmd.Stderr = p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.ended
	})
	for deadline := time.Now().Add(time.Minute); p.http == nil; time.Sleep(10 * time.Millisecond) {
		var serving struct{ Address string }
		if line := p.log.grep(`"msg":"serving"`); line != "" && json.Unmarshal([]byte(line), &serving) == nil {
			p.http = &httptest.Server{URL: "http://" + serving.Address}
		}
		if p.hasEnded() || time.Now().After(deadline) {
			t.Fatalf("%v does not serve: %s", cmd.Args, p.log)
		}
	}
	return p
}

func (p *process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// end waits for the process to end and returns its exit code, -1 after a signal.
func (p *process) end(within time.Duration) int {
	p.t.Helper()
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(within):
		p.t.Fatalf("the process is still there after %v: %s", within, p.log)
		return 0
	}
}

// as is a client of an earlier process at this one.
func (p *process) as(c *client) *client {
	return &client{s: p.testServer, token: c.token, refresh: c.refresh, id: c.id, email: c.email}
}

// writers create tasks from several connections, each with a title of its own, until the server is
// gone, and note which were acknowledged.
type writers struct {
	all          sync.WaitGroup
	mu           sync.Mutex
	acknowledged []string
}

func (w *writers) start(c *client, project, prefix string) {
	for i := range 8 {
		w.all.Go(func() {
			for n := 0; ; n++ {
				title := fmt.Sprintf("%s-%d-%d", prefix, i, n)
				req, err := http.NewRequest("POST", c.s.http.URL+"/api/v1/tasks", strings.NewReader(`{"projectId":"`+project+`","title":"`+title+`"}`))
				if err != nil {
					return
				}
				req.Header.Set("Authorization", "Bearer "+c.token)
				req.Header.Set("Content-Type", "application/json")
				resp, err := testHTTP.Do(req)
				if err != nil {
					return
				}
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err == nil && resp.StatusCode == 201 {
					w.mu.Lock()
					w.acknowledged = append(w.acknowledged, title)
					w.mu.Unlock()
				}
			}
		})
	}
}

// count is how many tasks have been acknowledged so far.
func (w *writers) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acknowledged)
}

// check fails the test unless every acknowledged task is there once, and numbers have neither gaps nor doubles.
func (w *writers) check(c *client, project string) {
	c.s.t.Helper()
	titles, numbers := map[string]int{}, map[string]int{}
	total := 0
	for next := "&total=true"; ; {
		page := c.get("/api/v1/tasks?sort=number&limit=100&projectId=" + project + next).want(200)
		for _, title := range page.strs("title") {
			titles[title]++
		}
		for _, number := range page.strs("number") {
			numbers[number]++
		}
		if page.at("total") != nil {
			total = page.num("total")
		}
		if page.at("next") == nil {
			break
		}
		next = "&cursor=" + page.str("next")
	}
	for _, title := range w.acknowledged {
		if titles[title] != 1 {
			c.s.t.Errorf("%s was acknowledged and is there %d times", title, titles[title])
		}
	}
	for n := range total {
		if numbers[strconv.Itoa(n+1)] != 1 {
			c.s.t.Errorf("number %d is there %d times", n+1, numbers[strconv.Itoa(n+1)])
		}
	}
	if total < len(w.acknowledged) || total > len(w.acknowledged)+8*5 {
		c.s.t.Errorf("%d tasks were acknowledged, %d are there", len(w.acknowledged), total)
	}
}

func TestAcknowledgedWritesOutliveTheProcess(t *testing.T) {
	t.Parallel()
	env := serverEnv(t)
	p := launch(t, env)
	ada := p.signUp("Ada")
	project := ada.project("Project")
	var w writers
	for round := range 3 {
		w.start(p.as(ada), project, strconv.Itoa(round))
		soon(t, "fifty more tasks", func() bool { return w.count() >= 50*(round+1) })
		p.cmd.Process.Kill()
		w.all.Wait()
		p = launch(t, env)
		w.check(p.as(ada), project)
	}
}

func TestAcknowledgedWritesOutliveDevMode(t *testing.T) {
	t.Parallel()
	onlyOnLinux(t)
	dir := tempFolder(t)
	env := []string{"DATA_DIR=" + dir, "LISTEN_ADDR=127.0.0.1:0", "LOG_FORMAT=json", "BCRYPT_COST=4"}
	p := launch(t, env, "dev")
	ada := p.signUp("Ada")
	project := ada.project("Project")
	var w writers

	t.Run("when its PostgreSQL is killed, which it says and stops", func(t *testing.T) {
		p.t = t
		w.start(ada, project, "postgres")
		soon(t, "fifty tasks", func() bool { return w.count() >= 50 })
		text, err := os.ReadFile(filepath.Join(dir, "postgres", "postmaster.pid"))
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(text), "\n")
		pid, err := strconv.Atoi(first)
		if err != nil {
			t.Fatal(err)
		}
		syscall.Kill(pid, syscall.SIGKILL)
		if code := p.end(30 * time.Second); code != 1 {
			t.Errorf("got exit code %d, want 1", code)
		}
		w.all.Wait()
		if !strings.Contains(p.log.String(), "taskflow: PostgreSQL ended by itself (signal: killed); see "+dir+"/postgres.log") {
			t.Errorf("it does not say why it stopped: %s", p.log)
		}
		p = launch(t, env, "dev")
		w.check(p.as(ada), project) // signed in still: the secret is kept too
	})
	t.Run("when it is killed itself", func(t *testing.T) {
		p = relaunched(t, p, env)
		w.start(p.as(ada), project, "process")
		before := w.count()
		soon(t, "fifty more tasks", func() bool { return w.count() >= before+50 })
		p.cmd.Process.Kill()
		w.all.Wait()
		p = launch(t, env, "dev")
		w.check(p.as(ada), project)
		p.cmd.Process.Signal(os.Interrupt)
		if code := p.end(30 * time.Second); code != 0 {
			t.Errorf("got exit code %d, want 0: %s", code, p.log)
		}
	})
}

// relaunched is p, or where the test before ended it, another on the same data.
func relaunched(t *testing.T, p *process, env []string) *process {
	t.Helper()
	if p.hasEnded() {
		return launch(t, env, "dev")
	}
	return p
}

func TestSIGTERM(t *testing.T) {
	t.Parallel()
	p := launch(t, serverEnv(t, "BCRYPT_COST=13"))
	p.signUp("Ada")

	late := make(chan *answer)
	go func() { late <- p.anonymous().post(registerPath, registration("late@example.org")) }() // takes a good part of a second
	time.Sleep(100 * time.Millisecond)
	start := time.Now()
	p.cmd.Process.Signal(syscall.SIGTERM)
	soon(t, "not ready, for a balancer to see", func() bool {
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get(p.http.URL + "/ready")
		if err != nil {
			t.Fatalf("no new connection while stopping: %v", err)
		}
		resp.Body.Close()
		return resp.StatusCode == 503
	})
	p.anonymous().get("/health").want(200)
	(<-late).want(201)
	if code := p.end(stopTimeout); code != 0 {
		t.Errorf("got exit code %d, want 0", code)
	}
	if took := time.Since(start); took < drainTime {
		t.Errorf("ended after %v, before a balancer can have noticed", took)
	}
	p.checkLog(t)
}

func TestSecondSIGTERM(t *testing.T) {
	t.Parallel()
	p := launch(t, serverEnv(t))
	p.cmd.Process.Signal(syscall.SIGTERM)
	soon(t, "stopping", func() bool { return p.log.grep(`"msg":"stopping"`) != "" })
	time.Sleep(50 * time.Millisecond)
	p.cmd.Process.Signal(syscall.SIGTERM)
	if code := p.end(drainTime / 2); code != -1 {
		t.Errorf("got exit code %d, want an end by the signal", code)
	}
}

func TestWorkerProcess(t *testing.T) {
	t.Parallel()
	p := launch(t, serverEnv(t), "-role=worker", "-workers=2")
	p.unrecorded = true // the description is the API's
	c := p.anonymous()
	c.get("/health").want(200).is("version", "v0-test")
	c.get("/ready").want(200)
	for _, path := range []string{"/", "/docs", "/api/v1/me", "/openapi.yaml", "/admin/queues"} {
		c.get(path).problem(404, "not_found")
	}
	c.post(registerPath, registration("ada@example.org")).problem(404, "not_found")
	p.cmd.Process.Signal(syscall.SIGTERM)
	if code := p.end(stopTimeout); code != 0 {
		t.Errorf("got exit code %d, want 0", code)
	}
	p.checkLog(t)
}

func TestCommandsOfTheProgram(t *testing.T) {
	t.Parallel()
	env := serverEnv(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	client, _ := ownRedis(t, "--maxmemory-policy", "allkeys-lru")
	evicting := "unix://" + client.(*redis.Client).Options().Addr
	p := launch(t, env)
	running := "LISTEN_ADDR=" + strings.TrimPrefix(p.http.URL, "http://")

	for _, test := range []struct {
		name  string
		env   []string
		stdin string
		args  []string
		code  int
		words string // that it prints
	}{
		{"version", nil, "", []string{"version"}, 0, "v0-test"},
		{"help", nil, "", []string{"help"}, 0, "usage: taskflow"},
		{"help of the flags", nil, "", []string{"serve", "-h"}, 0, "-role"},
		{"an unknown command", nil, "", []string{"serv"}, 1, `unknown command "serv"; see taskflow help`},
		{"an unknown flag", nil, "", []string{"-port=1"}, 1, "-port"},
		{"no settings", nil, "", nil, 1, "taskflow: DATABASE_URL must be set, such as postgres://user:password@host:5432/taskflow\ntaskflow: REDIS_URL must be set"},
		{"a port in use", append(env, "LISTEN_ADDR="+taken.Addr().String()), "", nil, 1, "address already in use; set LISTEN_ADDR to another address"},
		{"a Redis that evicts", append(env, "REDIS_URL="+evicting), "", nil, 1, "taskflow: Redis would evict jobs when it is full: set maxmemory-policy to noeviction (it is allkeys-lru)"},
		{"a healthy service", []string{running}, "", []string{"healthcheck"}, 0, ""},
		{"no service", []string{"LISTEN_ADDR=127.0.0.1:1"}, "", []string{"healthcheck"}, 1, "taskflow: health check: "},
		{"migrate", env, "", []string{"migrate"}, 0, ""},
		{"no database", []string{"DATABASE_URL=host=/nowhere"}, "", []string{"migrate"}, 1, "taskflow: connect for migrations: "},
		{"an operator", env, testPassword + "\n", []string{"admin", "create-user", "-email", "op@example.org", "-role", "admin"}, 0, "account made: op@example.org"},
		{"a wrong operator", env, testPassword + "\n", []string{"admin", "create-user", "-email", "op@example.org"}, 1, "taskflow: Email already registered"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd := command(t, test.env, test.args...)
			var out strings.Builder
			cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(test.stdin), &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer time.AfterFunc(time.Minute, func() { cmd.Process.Kill() }).Stop() // one that goes on is wrong too
			code, err := 0, cmd.Wait()
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				code = exit.ExitCode()
			} else if err != nil {
				t.Fatal(err)
			}
			if said := out.String(); code != test.code || !strings.Contains(said, test.words) || strings.Contains(said, testPassword) || strings.Contains(said, "goroutine 1 [") {
				t.Errorf("got exit code %d and %q, want %d and %q", code, said, test.code, test.words)
			}
		})
	}
	p.anonymous().post(loginPath, jsonOf(credentials{"op@example.org", testPassword})).want(200).is("user.role", "admin")
}
