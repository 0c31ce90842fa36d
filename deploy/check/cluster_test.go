package check

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// cluster is deploy/cluster.sh, running.
type cluster struct {
	t       *testing.T
	env     []string
	dir     string
	port    int
	script  *exec.Cmd
	said    *lockedBuffer
	ended   chan struct{}
	clients []*http.Client // of HTTP/2, who trust its certificate
}

// lockedBuffer is written to by one goroutine and read by another.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// patience is for what takes seconds, on a machine that does other things too.
const patience = 2 * time.Minute

// freePorts is the first of ten ports in a row that nobody listens on.
func freePorts(t *testing.T) int {
	t.Helper()
	for first := 20000 + os.Getpid()%500*10; first < 32000; first += 10 {
		free := true
		for port := first; port < first+10 && free; port++ {
			listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if free = err == nil; free {
				listener.Close()
			}
		}
		if free {
			return first
		}
	}
	t.Fatal("no ten ports in a row are free")
	return 0
}

// newCluster builds the program and starts a cluster with settings of the program.
func newCluster(t *testing.T, settings ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: folder(t), port: freePorts(t)}
	program := filepath.Join(c.dir, "taskflow")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", program, ".")
	build.Dir = top
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	if err := os.Chmod(c.dir, 0o711); err != nil { // where root starts it, PostgreSQL runs as another
		t.Fatal(err)
	}
	c.env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.dir, "TASKFLOW=" + program, "CLUSTER_DIR=" + filepath.Join(c.dir, "data"), fmt.Sprintf("CLUSTER_PORT=%d", c.port)}, settings...)
	t.Cleanup(func() { c.kill(); c.wantGone() })
	c.start()
	return c
}

// run is the script with arguments.
func (c *cluster) run(args ...string) *exec.Cmd {
	cmd := exec.Command("bash", append([]string{top + "/deploy/cluster.sh"}, args...)...)
	cmd.Env = c.env
	return cmd
}

// start runs the script until it says that all is there.
func (c *cluster) start() {
	c.t.Helper()
	script, said, ended := c.run(), &lockedBuffer{}, make(chan struct{})
	script.Stdout, script.Stderr = said, said
	script.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	if err := script.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() { script.Wait(); close(ended) }()
	c.script, c.said, c.ended = script, said, ended
	for deadline := time.Now().Add(patience); !strings.Contains(said.String(), "TaskFlow runs as a cluster."); time.Sleep(20 * time.Millisecond) {
		select {
		case <-ended:
			c.t.Fatalf("the script ended: %s", said)
		default:
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("the cluster does not start: %s", said)
		}
	}
	certificate, err := os.ReadFile(filepath.Join(c.dir, "data/nginx/tls.crt"))
	if err != nil {
		c.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certificate)
	c.clients = nil
	for range 4 {
		c.clients = append(c.clients, &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots}}})
	}
}

// kill ends the script as nothing can be done against.
func (c *cluster) kill() {
	c.script.Process.Kill()
	<-c.ended
	for _, client := range c.clients {
		client.CloseIdleConnections()
	}
}

// wantGone fails the test if a process of the cluster is left: each has its lock open.
func (c *cluster) wantGone() {
	c.t.Helper()
	lock, err := os.Open(filepath.Join(c.dir, "data/lock"))
	if err != nil {
		return // it never came so far
	}
	defer lock.Close()
	for deadline := time.Now().Add(40 * time.Second); syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			out, _ := exec.Command("ps", "-eo", "pid,args").Output()
			c.t.Fatalf("processes of the cluster are left:\n%s", out)
		}
	}
}

// url is that of a path at nginx, or at one of the processes behind it.
func (c *cluster) url(at int, path string) string {
	if at == 0 {
		return fmt.Sprintf("https://localhost:%d%s", c.port+3, path)
	}
	return fmt.Sprintf("http://127.0.0.1:%d%s", c.port+at, path)
}

// ask sends a request to nginx (0) or to a process (1 and 2) and returns what it answers.
func (c *cluster) ask(at int, token, method, path, body string, headers ...string) (int, map[string]any, error) {
	request, err := http.NewRequest(method, c.url(at, path), strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := c.clients[at].Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, nil, err
	}
	answer := map[string]any{"protocol": response.Proto}
	if len(text) > 0 {
		err = json.Unmarshal(text, &answer)
	}
	return response.StatusCode, answer, err
}

// want is ask that must be answered with a status.
func (c *cluster) want(status, at int, token, method, path, body string, headers ...string) map[string]any {
	c.t.Helper()
	got, answer, err := c.ask(at, token, method, path, body, headers...)
	if err != nil || got != status {
		c.t.Fatalf("%s %s at %d: got %d %v (%v), want %d", method, path, at, got, answer, err, status)
	}
	return answer
}

// signUp makes an account and returns its id and a token.
func (c *cluster) signUp(name string) (id, token string) {
	c.t.Helper()
	a := c.want(201, 0, "", "POST", "/api/v1/auth/register", fmt.Sprintf(`{"email":"%s@example.org","password":"correct horse battery","firstName":"%[1]s","lastName":"Tester"}`, name))
	return a["user"].(map[string]any)["id"].(string), a["accessToken"].(string)
}

// sql asks a database by the script.
func (c *cluster) sql(server, query string) string {
	c.t.Helper()
	out, err := c.run("psql", server, "-Atc", query).CombinedOutput()
	if err != nil {
		c.t.Fatalf("%s: %v\n%s", query, err, out)
	}
	return strings.TrimSpace(string(out))
}

// log is what a process has logged.
func (c *cluster) log(name string) string {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(c.dir, "data/log", name))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(text)
}

// TestCluster runs what an operator runs, and asks it through nginx as users do.
func TestCluster(t *testing.T) {
	c := newCluster(t, "RATE_LIMIT=off", "AUTH_RATE_LIMIT=12/1m", "BCRYPT_COST=10")
	run := func(name string, test func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			defer func(outer *testing.T) { c.t = outer }(c.t)
			c.t = t
			test(t)
		})
	}
	_, ada := c.signUp("Ada")
	bobID, bob := c.signUp("Bob")
	project := c.want(201, 0, ada, "POST", "/api/v1/projects", `{"name":"Rolling"}`)["id"].(string)
	task := c.want(201, 0, ada, "POST", "/api/v1/tasks", `{"projectId":"`+project+`","title":"First"}`)["id"].(string)
	list := c.want(200, 0, ada, "GET", "/api/v1/tasks?projectId="+project, "")
	if items := list["items"].([]any); len(items) != 1 || items[0].(map[string]any)["id"] != task || list["protocol"] != "HTTP/2.0" {
		t.Errorf("got %v, want one task by HTTP/2", list)
	}
	c.want(201, 0, ada, "POST", "/api/v1/projects/"+project+"/members", `{"userId":"`+bobID+`","role":"member"}`)

	run("gives requests to both processes in turn", func(t *testing.T) {
		for i := range 20 {
			c.want(200, 0, ada, "GET", "/api/v1/me", "", "X-Request-Id", fmt.Sprintf("in-turn-%d-", i))
		}
		one, two := strings.Count(c.log("api_1"), "in-turn-"), strings.Count(c.log("api_2"), "in-turn-")
		if one+two != 20 || one < 5 || two < 5 {
			t.Errorf("of 20 requests, one process answered %d and the other %d", one, two)
		}
	})
	run("shows at one process what the other was told just before", func(t *testing.T) {
		for i := range 20 {
			title := fmt.Sprintf("Title %d", i)
			c.want(200, 1+i%2, ada, "GET", "/api/v1/tasks/"+task, "") // so that both keep it ready
			c.want(200, 2-i%2, ada, "GET", "/api/v1/tasks/"+task, "")
			c.want(200, 1+i%2, ada, "PATCH", "/api/v1/tasks/"+task, `{"title":"`+title+`"}`)
			if got := c.want(200, 2-i%2, ada, "GET", "/api/v1/tasks/"+task, "")["title"]; got != title {
				t.Fatalf("got %q after %q was acknowledged", got, title)
			}
		}
	})
	run("streams from one process what was written at the other, at once", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		streams := []chan string{c.stream(ctx, bob, project), c.stream(ctx, bob, project)}
		soonest := patience
		for i := range 6 {
			title := fmt.Sprintf("Streamed %d", i)
			start := time.Now()
			c.want(200, 1+i%2, ada, "PATCH", "/api/v1/tasks/"+task, `{"title":"`+title+`"}`)
			for _, events := range streams {
				for event := ""; !strings.Contains(event, title); {
					select {
					case event = <-events:
					case <-ctx.Done():
						t.Fatalf("%q is not streamed", title)
					}
				}
			}
			soonest = min(soonest, time.Since(start))
		}
		if soonest > 900*time.Millisecond {
			t.Errorf("the soonest came after %v", soonest)
		}
		t.Logf("the soonest event came after %v", soonest)
	})
	run("copies everything to the replica", func(t *testing.T) {
		if got := c.sql("replica", "SELECT pg_is_in_recovery()"); got != "t" {
			t.Errorf("it is no replica: %s", got)
		}
		waitFor(t, "the task at the replica", func() error {
			if got := c.sql("replica", "SELECT title FROM tasks WHERE id = '"+task+"'"); got != "Streamed 5" {
				return fmt.Errorf("it has %q", got)
			}
			return nil
		})
		if got := c.sql("primary", "SELECT state || ' ' || slot.active FROM pg_stat_replication, pg_replication_slots slot"); got != "streaming true" {
			t.Errorf("the primary says %q", got)
		}
	})
	run("starts one after the other again, under load, and nothing fails", func(t *testing.T) { c.rollUnderLoad(ada, bob, bobID, project) })
	run("counts what all processes let through together", func(t *testing.T) {
		through := 2 // have signed up
		for {
			status, _, err := c.ask(0, "", "POST", "/api/v1/auth/login", `{"email":"nobody@example.org","password":"correct horse battery"}`)
			if err != nil || status != 401 && status != 429 {
				t.Fatalf("got %d %v", status, err)
			}
			if status == 429 {
				break
			}
			through++
		}
		if through < 10 || through > 14 {
			t.Errorf("%d sign-ins were let through, want 12 a minute", through)
		}
		for at := 1; at <= 2; at++ {
			c.want(429, at, "", "POST", "/api/v1/auth/login", `{"email":"nobody@example.org","password":"correct horse battery"}`)
		}
	})
	run("leaves no process behind when all is killed, and goes on with its data", func(t *testing.T) {
		for _, name := range []string{"primary", "redis", "api_1"} {
			if pid := strings.TrimSpace(c.file("run/" + name)); name != "primary" { // that would take the script with it
				exec.Command("kill", "-KILL", pid).Run()
			}
		}
		c.kill()
		c.wantGone()
		c.start()
		if got := c.want(200, 0, ada, "GET", "/api/v1/tasks/"+task, "")["title"]; got != "Streamed 5" {
			t.Errorf("got %v", got)
		}
	})
	run("stops in order when it is asked to", func(t *testing.T) {
		c.script.Process.Signal(syscall.SIGINT)
		select {
		case <-c.ended:
		case <-time.After(patience):
			t.Fatal("it does not stop")
		}
		if code := c.script.ProcessState.ExitCode(); code != 0 {
			t.Errorf("got exit code %d: %s", code, c.said)
		}
		c.wantGone()
		if log := c.log("primary"); !strings.Contains(log, "database system is shut down") {
			t.Errorf("PostgreSQL was not shut down: %s", log)
		}
	})
	for _, name := range []string{"api_1", "api_2", "worker_1", "worker_2"} {
		if log := c.log(name); strings.Contains(log, `"level":"ERROR"`) || strings.Contains(log, "panic") {
			t.Errorf("%s has logged errors: %s", name, log)
		}
	}
}

// file is a file in the data folder.
func (c *cluster) file(name string) string {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(c.dir, "data", name))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(text)
}

// stream opens a stream of a project through nginx and sends what each line says.
func (c *cluster) stream(ctx context.Context, token, project string) chan string {
	c.t.Helper()
	request, err := http.NewRequestWithContext(ctx, "GET", c.url(0, "/api/v1/events?projectId="+project), nil)
	if err != nil {
		c.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := c.clients[3].Transport.RoundTrip(request)
	if err != nil || response.StatusCode != 200 {
		c.t.Fatalf("a stream: %v %v", response, err)
	}
	c.t.Cleanup(func() { response.Body.Close() })
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() && lines.Text() != "event: ready" {
	}
	events := make(chan string, 1000)
	go func() {
		for lines.Scan() {
			events <- lines.Text()
		}
	}()
	return events
}

// rollUnderLoad starts all processes again while 200 requests come each second: reads, and comments on tasks of
// Bob's, each of which is a job that makes a notification of his. All succeed, and each notification is there once.
func (c *cluster) rollUnderLoad(ada, bob, bobID, project string) {
	t := c.t
	var tasks []string
	for i := range 10 {
		tasks = append(tasks, c.want(201, 0, ada, "POST", "/api/v1/tasks", fmt.Sprintf(`{"projectId":"%s","title":"Load %d","assigneeId":"%s"}`, project, i, bobID))["id"].(string))
	}
	count := func() string {
		return c.sql("primary", "SELECT count(*) || ' of ' || count(DISTINCT detail->>'commentId') FROM notifications WHERE kind = 'comment.created' AND user_id = '"+bobID+"'")
	}
	var failed, done, made atomic.Int64
	var first sync.Once
	var all sync.WaitGroup
	fail := func(format string, args ...any) {
		failed.Add(1)
		first.Do(func() { t.Errorf("the first failure: "+format, args...) })
	}
	stop := make(chan struct{})
	all.Go(func() {
		began := time.Now()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Until(began.Add(time.Duration(i) * time.Second / 200))): // also where it is late
			}
			all.Go(func() {
				task, method, path, body, want := tasks[i%10], "GET", "", "", 200
				switch i % 8 {
				case 0:
					method, path, body, want = "POST", "/api/v1/tasks/"+task+"/comments", fmt.Sprintf(`{"body":"Comment %d"}`, i), 201
				case 2:
					method, path, body = "PATCH", "/api/v1/tasks/"+task, fmt.Sprintf(`{"title":"Load %d"}`, i)
				case 4:
					path = "/api/v1/tasks?projectId=" + project
				default:
					path = "/api/v1/tasks/" + task
				}
				status, answer, err := c.ask(0, ada, method, path, body, "X-Request-Id", fmt.Sprintf("load-%d", i))
				if done.Add(1); err != nil || status != want {
					fail("load-%d %s %s: %d %v %v", i, method, path, status, answer, err)
				}
				if method == "POST" {
					made.Add(1)
				}
			})
		}
	})
	start := time.Now()
	out, err := c.run("roll").CombinedOutput()
	took := time.Since(start)
	close(stop)
	all.Wait()
	if err != nil || strings.Count(string(out), "was started again") != 4 {
		t.Errorf("roll: %v\n%s", err, out)
	}
	for _, name := range []string{"api_1", "api_2", "worker_1", "worker_2"} {
		if log := c.log(name); strings.Count(log, `"msg":"serving"`) != 2 || strings.Count(log, `"msg":"stopping"`) != 1 {
			t.Errorf("%s was not started again", name)
		}
	}
	t.Logf("%d requests in %v (%.0f a second), %d of them comments; %d failed", done.Load(), took.Round(time.Millisecond), float64(done.Load())/took.Seconds(), made.Load(), failed.Load())
	if failed.Load() > 0 {
		t.Errorf("%d of %d requests failed", failed.Load(), done.Load())
	}
	want := fmt.Sprintf("%d of %[1]d", made.Load())
	waitFor(t, "all jobs", func() error {
		if got := count(); got != want {
			return fmt.Errorf("%s notifications are there, want %s", got, want)
		}
		return nil
	})
}
