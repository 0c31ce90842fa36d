package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
)

// world is what all tests of this process share: private servers and a migrated template database.
var world struct {
	databaseURL string // of the template's server, without a database name
	redisURL    string
	databases   atomic.Int64
	admin       struct {
		sync.Mutex // PostgreSQL copies one template at a time
		conn       *pgx.Conn
	}
	recording *recording
	programs  string // folder of what tests built
}

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv(stormEnv) != "" {
		stormWorker()
		return
	}
	if os.Getenv(parentFolder) != "" { // dev_test.go runs this program again for one test
		os.Exit(m.Run())
	}
	os.Exit(func() int {
		redis.SetLogger(redisLog{slog.New(slog.DiscardHandler)})
		const prefix = "taskflow-test-"
		parent := serversFolder()
		sweepPrivateServers(parent, prefix)
		dir, err := os.MkdirTemp(parent, prefix)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		servers, err := startPrivateServers(context.Background(), dir, false, io.Discard)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer servers.stop()
		defer func() { os.RemoveAll(world.programs) }()
		world.redisURL = servers.redisURL
		world.databaseURL = strings.Replace(servers.databaseURL, "dbname=taskflow", "", 1)
		if err := migrate(context.Background(), secret(servers.databaseURL), slog.New(slog.DiscardHandler)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if world.recording, err = openRecording(os.Getenv("TASKFLOW_EXCHANGES")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// testServer is a whole service on a database of its own, answering on a loopback address.
type testServer struct {
	*server
	t          testing.TB
	http       *httptest.Server
	unrecorded bool          // its answers are not those of the API
	log        *lockedBuffer // every log line
	issued     sync.Map      // pieces of every token it gave out, which the log must not have
}

// serversFolder is where the servers of this process keep their data: in memory where there is much of it, as
// each database is hundreds of files, which cost several times as much on a disk.
func serversFolder() string {
	const memory, enough = "/dev/shm", 4 << 30
	var space syscall.Statfs_t
	if os.Getenv("TMPDIR") == "" && syscall.Statfs(memory, &space) == nil && space.Bavail*uint64(space.Bsize) >= enough {
		return memory
	}
	return os.TempDir()
}

// newTestDatabase is a migrated database for one test.
func newTestDatabase(t testing.TB) secret {
	t.Helper()
	name := fmt.Sprintf("t%d", world.databases.Add(1))
	asAdmin(t, "CREATE DATABASE "+name+" TEMPLATE taskflow STRATEGY file_copy")
	t.Cleanup(func() { asAdmin(t, "DROP DATABASE "+name+" WITH (FORCE)") })
	return secret(world.databaseURL + " dbname=" + name)
}

// asAdmin executes a statement on the connection that makes and drops databases.
func asAdmin(t testing.TB, sql string) {
	t.Helper()
	world.admin.Lock()
	defer world.admin.Unlock()
	ctx := context.Background()
	if conn := world.admin.conn; conn == nil || conn.IsClosed() {
		conn, err := pgx.Connect(ctx, world.databaseURL+" dbname=postgres")
		if err != nil {
			t.Fatal(err)
		}
		world.admin.conn = conn
	}
	if _, err := world.admin.conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
}

// testConfig is dev mode's configuration on the given database, with cheap password hashes.
func testConfig(t testing.TB, database secret, env ...string) config {
	t.Helper()
	values := map[string]string{
		"DATABASE_URL": string(database), "REDIS_URL": world.redisURL, "JWT_SECRET": strings.Repeat("test secret ", 4),
		"BCRYPT_COST": "4", "DATABASE_MAX_CONNS": "8", "LOG_LEVEL": "debug", "PUBLIC_URL": "http://taskflow.test", "SMTP_URL": "off",
		"STORAGE_URL": "file://" + t.TempDir(),
	}
	if isFaced(t) {
		values["TRUSTED_PROXIES"] = "127.0.0.1"
	}
	for _, pair := range env {
		name, value, _ := strings.Cut(pair, "=")
		values[name] = value
	}
	cfg, err := loadConfig("dev", nil, func(name string) string { return values[name] }, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	_, cfg.redisSpace, _ = cutLast(string(database), "=") // one space for all servers on one database
	return cfg
}

// newTestServer starts a service on a database of its own. env are settings that differ from testConfig's.
func newTestServer(t testing.TB, env ...string) *testServer {
	t.Helper()
	return startTestServer(t, newTestDatabase(t), env...)
}

func startTestServer(t testing.TB, database secret, env ...string) *testServer {
	t.Helper()
	ts := &testServer{t: t, log: &lockedBuffer{}}
	var err error
	cfg := testConfig(t, database, env...)
	knownAlone(t, cfg)
	ts.server, err = newServer(t.Context(), cfg, slog.New(slog.NewJSONHandler(ts.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	ts.cache.join(t.Context())
	ts.db.patience = testPatience // on a busy machine
	ts.hashWait = testPatience
	ts.guesses.pair.patience = testPatience // of all limits: its Redis is not away
	ts.outbox.lookWait = testPatience
	ts.http = httptest.NewUnstartedServer(nil)
	ts.http.Config = newWeb(ts.handler(), ts.server.log)
	ts.http.Start()
	t.Cleanup(func() {
		ts.http.Close()
		ts.server.close()
		ts.checkLog(t)
	})
	ts.proxied(t)
	return ts
}

// knownAlone has a server not wait for others of whom an empty Redis cannot tell.
func knownAlone(t testing.TB, cfg config) {
	t.Helper()
	client, err := openRedis(string(cfg.redisURL))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	client.SetNX(context.Background(), cfg.redisSpace+":{cache}:generation", "first", time.Hour) // where there is no Redis there is nothing to know
}

// run is a subtest on the same server; failures of its requests are its own.
func (ts *testServer) run(name string, test func(t *testing.T)) {
	outer := ts.t.(*testing.T)
	outer.Helper()
	outer.Run(name, func(t *testing.T) {
		ts.t = t
		defer func() { ts.t = outer }()
		test(t)
	})
}

// lockedBuffer collects a log that many goroutines write.
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

func (l *lockedBuffer) grep(word string) string {
	var lines []string
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, word) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// client is somebody who calls the API; without a token nobody.
type client struct {
	s       *testServer
	token   string
	refresh string
	id      string
	email   string
	header  http.Header // sent with the next request only
}

// answer is what came back.
type answer struct {
	t      testing.TB
	what   string // the request, for failures
	status int
	header http.Header
	body   []byte
}

const testPatience = 10 * time.Second // with what is slow only because the machine is busy

var accounts atomic.Int64

const testPassword = "correct horse battery"

// signUp makes an account; the first of a server is its admin.
func (ts *testServer) signUp(name string) *client {
	ts.t.Helper()
	c := &client{s: ts, email: fmt.Sprintf("%s%d@example.org", strings.ToLower(name), accounts.Add(1))}
	a := c.post("/api/v1/auth/register", jsonOf(newAccount{c.email, testPassword, name, "Tester"})).want(201)
	c.token, c.refresh, c.id = a.str("accessToken"), a.str("refreshToken"), a.str("user.id")
	return c
}

// signIn starts another session of an account, on whatever device calls itself c.
func (c *client) signIn() *client {
	c.s.t.Helper()
	again := &client{s: c.s, id: c.id, email: c.email}
	a := again.post("/api/v1/auth/login", jsonOf(credentials{c.email, testPassword})).want(200)
	again.token, again.refresh = a.str("accessToken"), a.str("refreshToken")
	return again
}

// anonymous is somebody without an account.
func (ts *testServer) anonymous() *client { return &client{s: ts} }

// withRole gives a new user a global role.
func (ts *testServer) withRole(name string, role globalRole) *client {
	ts.t.Helper()
	c := ts.signUp(name)
	if err := ts.adminSetRole(ts.t.Context(), c.email, role); err != nil {
		ts.t.Fatal(err)
	}
	return c
}

// credentials is a sign-in without a second factor.
type credentials struct {
	Email    string `json:"email"`
	Password string `json:"password"`
}

func jsonOf(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// with sets a header of the next request.
func (c *client) with(name, value string) *client {
	if c.header == nil {
		c.header = http.Header{}
	}
	c.header.Add(name, value)
	return c
}

func (c *client) get(path string) *answer         { c.s.t.Helper(); return c.do("GET", path, "") }
func (c *client) post(path, body string) *answer  { c.s.t.Helper(); return c.do("POST", path, body) }
func (c *client) patch(path, body string) *answer { c.s.t.Helper(); return c.do("PATCH", path, body) }
func (c *client) put(path, body string) *answer   { c.s.t.Helper(); return c.do("PUT", path, body) }
func (c *client) delete(path string) *answer      { c.s.t.Helper(); return c.do("DELETE", path, "") }

// do sends a request with the client's token and, unless there is another, the content type of JSON or of a form.
func (c *client) do(method, path, body string) *answer {
	c.s.t.Helper()
	req, err := http.NewRequest(method, c.s.http.URL+path, strings.NewReader(body))
	if err != nil {
		c.s.t.Fatal(err)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if isForm(body) {
		req.Header.Set("Content-Type", formMedia)
	} else if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for name, values := range c.header {
		req.Header[name] = values
	}
	c.header = nil
	resp, err := testHTTP.Do(req)
	if err != nil {
		c.s.t.Errorf("%s %s: %v", method, path, err)
		return &answer{t: c.s.t, what: method + " " + path}
	}
	defer resp.Body.Close()
	got, err := bodyOf(resp)
	if err != nil {
		c.s.t.Errorf("%s %s: %v", method, path, err)
	}
	if !c.s.unrecorded {
		world.recording.add(req, body, resp, got)
	}
	c.s.noteTokens(got)
	checkHeaders(c.s.t, method+" "+path, resp.Header)
	if resp.StatusCode == 500 {
		c.s.t.Errorf("%s %s %s: 500\n%s", method, path, body, c.s.log.grep(`"level":"ERROR"`))
	}
	return &answer{c.s.t, method + " " + path + " " + body, resp.StatusCode, resp.Header, got}
}

// bodyOf is the body of an answer; of a stream, which has no end, its first event.
func bodyOf(resp *http.Response) (got []byte, err error) {
	if resp.Header.Get("Content-Type") != "text/event-stream" || resp.Request.Method == http.MethodHead {
		return io.ReadAll(resp.Body)
	}
	for lines := bufio.NewReader(resp.Body); err == nil && !bytes.Contains(got, []byte("\ndata: ")); {
		var line []byte
		line, err = lines.ReadBytes('\n')
		got = append(got, line...)
	}
	return got, err
}

// testHTTP follows no redirects and keeps many connections.
var testHTTP = &http.Client{
	Transport:     &http.Transport{MaxIdleConnsPerHost: 64, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, // of nginx
	Timeout:       30 * time.Second,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// want fails the test unless the status is this one.
func (a *answer) want(status int) *answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("%.300s: got %d, want %d\n%.600s", a.what, a.status, status, a.body)
	}
	return a
}

// problem fails the test unless the answer is this problem, whole and safe.
func (a *answer) problem(status int, code string) *answer {
	a.t.Helper()
	a.want(status)
	if got := a.str("code"); got != code || a.header.Get("Content-Type") != "application/problem+json" {
		a.t.Fatalf("%.300s: got code %q, want %q\n%s", a.what, got, code, a.body)
	}
	if a.str("title") == "" || a.str("detail") == "" || a.str("requestId") != a.header.Get("X-Request-Id") {
		a.t.Fatalf("%.300s: the problem is not whole: %s", a.what, a.body)
	}
	return a
}

// field fails the test unless the problem names this field with this code.
func (a *answer) field(field, code string) *answer {
	a.t.Helper()
	var p problem
	if err := json.Unmarshal(a.body, &p); err != nil {
		a.t.Fatalf("%s: %v", a.body, err)
	}
	for _, e := range p.Errors {
		if e.Field == field && e.Code == code {
			return a
		}
	}
	a.t.Fatalf("%.300s: no error %s for %s in %s", a.what, code, field, a.body)
	return a
}

// at is a value in the body by a path such as items.0.title.
func (a *answer) at(path string) any {
	a.t.Helper()
	var v any
	if err := json.Unmarshal(a.body, &v); err != nil {
		a.t.Fatalf("%.300s: %v in %.300s", a.what, err, a.body)
	}
	for _, step := range strings.Split(path, ".") {
		switch node := v.(type) {
		case map[string]any:
			v = node[step]
		case []any:
			var i int
			fmt.Sscan(step, &i)
			if i >= len(node) {
				return nil
			}
			v = node[i]
		default:
			return nil
		}
	}
	return v
}

func (a *answer) str(path string) string {
	a.t.Helper()
	s, _ := a.at(path).(string)
	return s
}

func (a *answer) num(path string) int {
	a.t.Helper()
	n, _ := a.at(path).(float64)
	return int(n)
}

// strs are the values of one field of all items.
func (a *answer) strs(field string) []string {
	a.t.Helper()
	items, _ := a.at("items").([]any)
	var out []string
	for _, item := range items {
		out = append(out, fmt.Sprint(item.(map[string]any)[field]))
	}
	return out
}

// is fails the test unless the value at a path prints so.
func (a *answer) is(path string, want any) *answer {
	a.t.Helper()
	if got := fmt.Sprint(a.at(path)); got != fmt.Sprint(want) {
		a.t.Fatalf("%.300s: %s is %s, want %v", a.what, path, got, want)
	}
	return a
}

// project makes a project and returns its id.
func (c *client) project(name string) string {
	c.s.t.Helper()
	return c.post("/api/v1/projects", `{"name":"`+name+`"}`).want(201).str("id")
}

// task makes a task and returns its id. more are further fields, as JSON.
func (c *client) task(project, title string, more ...string) string {
	c.s.t.Helper()
	body := `{"projectId":"` + project + `","title":` + jsonOf(title) + strings.Join(append([]string{""}, more...), ",") + `}`
	return c.post("/api/v1/tasks", body).want(201).str("id")
}

// add makes another client a member of a project.
func (c *client) add(project string, other *client, role memberRole) {
	c.s.t.Helper()
	c.post("/api/v1/projects/"+project+"/members", `{"userId":"`+other.id+`","role":"`+string(role)+`"}`).want(201)
}

// recording writes every request and answer of the tests to a file, for the checks in e2e/ that
// compare them with openapi.yaml.
type recording struct {
	mu  sync.Mutex
	out *json.Encoder
}

func openRecording(path string) (*recording, error) {
	if path == "" {
		return &recording{}, nil
	}
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &recording{out: json.NewEncoder(file)}, nil
}

func (rec *recording) add(req *http.Request, body string, resp *http.Response, got []byte) {
	if rec.out == nil {
		return
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.out.Encode(map[string]any{
		"method": req.Method, "url": req.URL.RequestURI(), "requestHeader": req.Header, "requestBody": body,
		"status": resp.StatusCode, "responseHeader": resp.Header, "responseBody": string(got),
	})
}
