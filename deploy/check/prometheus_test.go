package check

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestPrometheusTakesItsFiles(t *testing.T) {
	for _, args := range [][]string{
		{"check", "config", "prometheus.yml"}, {"check", "rules", "--lint=all", "--lint-fatal", "alerts.yml"}, {"test", "rules", "alerts_test.yml"},
	} {
		promtool := exec.Command("promtool", args...)
		promtool.Dir = filepath.Join(top, "deploy/prometheus")
		if out, err := promtool.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// alertRule is a rule as Prometheus has it.
type alertRule struct {
	Name, Query, Health, LastError string
	Labels, Annotations            map[string]string
}

var (
	alertName = regexp.MustCompile(`(?m)^      - alert: (\w+)$`)
	testName  = regexp.MustCompile(`(?m)^  - name: (\w+) (fires|keeps quiet)$`)
	heading   = regexp.MustCompile(`(?m)^## (\w+)$`)
)

func TestEveryAlertIsTestedAndExplained(t *testing.T) {
	alerts, explained, tested := []string{}, []string{}, []string{}
	for _, match := range alertName.FindAllStringSubmatch(string(read(t, "deploy/prometheus/alerts.yml")), -1) {
		alerts = append(alerts, match[1])
	}
	for _, match := range heading.FindAllStringSubmatch(string(read(t, "docs/alerts.md")), -1) {
		explained = append(explained, match[1])
	}
	for _, match := range testName.FindAllStringSubmatch(string(read(t, "deploy/prometheus/alerts_test.yml")), -1) {
		tested = append(tested, match[1]+" "+match[2])
	}
	if len(alerts) < 20 || !slices.Equal(alerts, explained) {
		t.Errorf("alerts.yml has %v, docs/alerts.md %v", alerts, explained)
	}
	for _, name := range alerts {
		if !slices.Contains(tested, name+" fires") || !slices.Contains(tested, name+" keeps quiet") {
			t.Errorf("alerts_test.yml does not test when %s fires and when not", name)
		}
	}
}

// started is a process that ends with the test.
func started(t *testing.T, env []string, name string, args ...string) {
	t.Helper()
	var out bytes.Buffer
	process := exec.Command(name, args...)
	process.Env, process.Stdout, process.Stderr = append(os.Environ(), env...), &out, &out
	process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		process.Process.Signal(syscall.SIGTERM)
		process.Wait()
		if t.Failed() {
			text := out.Bytes()
			t.Logf("%s said:\n%s", filepath.Base(name), text[max(0, len(text)-4000):])
		}
	})
}

// within waits until something holds.
func within(t *testing.T, patience time.Duration, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatalf("%s: not within %v", what, patience)
}

const scrapingToken = "0123456789abcdef"

// running is a real process of the program, with its own PostgreSQL and Redis.
type running struct {
	t            *testing.T
	api, metrics string // where it answers
	token        string // of who signed up
}

func newRunning(t *testing.T) *running {
	t.Helper()
	dir, err := os.MkdirTemp("", "taskflow-metrics-") // t.TempDir() is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // the database has a user of its own
		t.Fatal(err)
	}
	program := filepath.Join(dir, "taskflow")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", program, ".")
	build.Dir = top
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	api, metrics := freeAddress(t), freeAddress(t)
	started(t, []string{"DATA_DIR=" + filepath.Join(dir, "data"), "LISTEN_ADDR=" + api, "METRICS_ADDR=" + metrics, "METRICS_TOKEN=" + scrapingToken, "BCRYPT_COST=4"}, program, "dev")
	r := &running{t: t, api: "http://" + api, metrics: metrics}
	within(t, 30*time.Second, "ready", func() bool {
		resp, err := http.Get(r.api + "/ready")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil && resp.StatusCode == 200
	})
	return r
}

// call sends JSON, or what is said to be of another kind, and returns the answer's members.
func (r *running) call(ctx context.Context, method, path, media string, body []byte, want int) map[string]any {
	req, err := http.NewRequestWithContext(ctx, method, r.api+path, bytes.NewReader(body))
	if err != nil {
		r.t.Error(err)
		return nil
	}
	if r.token != "" {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
	if len(body) > 0 {
		req.Header.Set("Content-Type", media)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		if ctx.Err() == nil {
			r.t.Error(err)
		}
		return nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != want {
		r.t.Errorf("%s %s: got %d, want %d: %s", method, path, resp.StatusCode, want, text)
	}
	var members map[string]any
	json.Unmarshal(text, &members) // nil of an empty answer
	return members
}

// use has the program do some of everything until ctx ends.
func (r *running) use(ctx context.Context) {
	t := r.t
	const media = "application/json"
	post := func(path, body string, want int) map[string]any {
		return r.call(ctx, "POST", path, media, []byte(body), want)
	}
	signedUp := post("/api/v1/auth/register", `{"email":"ada@example.org","password":"correct horse","firstName":"Ada","lastName":"Lovelace"}`, 201)
	r.token, _ = signedUp["accessToken"].(string)
	project, _ := post("/api/v1/projects", `{"name":"Launch"}`, 201)["id"].(string)
	hooks := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer hooks.Close()
	post("/api/v1/projects/"+project+"/webhooks", `{"url":"`+hooks.URL+`","events":["task.created"]}`, 201)
	var streaming sync.WaitGroup
	defer streaming.Wait()
	streaming.Go(func() {
		req, _ := http.NewRequestWithContext(ctx, "GET", r.api+"/api/v1/events?projectId="+project, nil)
		req.Header.Set("Authorization", "Bearer "+r.token)
		if resp, err := http.DefaultClient.Do(req); err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	})
	for n := 0; ctx.Err() == nil && !t.Failed(); n++ {
		task, _ := post("/api/v1/tasks", `{"projectId":"`+project+`","title":"Task"}`, 201)["id"].(string)
		for range 4 {
			r.call(ctx, "GET", "/api/v1/tasks/"+task, media, nil, 200)
		}
		r.call(ctx, "GET", "/api/v1/projects/"+project+"/stats", media, nil, 200)
		r.call(ctx, "GET", "/api/v1/nowhere", media, nil, 404)
		post("/api/v1/auth/password/forgot", `{"email":"ada@example.org"}`, 202)
		if n < 5 {
			post("/api/v1/auth/login", `{"email":"ada@example.org","password":"wrong"}`, 401)
		}
		var form bytes.Buffer
		parts := multipart.NewWriter(&form)
		part, _ := parts.CreateFormFile("file", "notes.txt") // to memory
		io.WriteString(part, "some text")
		parts.Close()
		r.call(ctx, "POST", "/api/v1/tasks/"+task+"/attachments", parts.FormDataContentType(), form.Bytes(), 201)
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// prometheus is one that scrapes, by the sample of its settings, each second.
type prometheus struct {
	t   *testing.T
	url string
}

func newPrometheus(t *testing.T, target string) *prometheus {
	t.Helper()
	dir, address := t.TempDir(), freeAddress(t)
	settings := string(read(t, "deploy/prometheus/prometheus.yml"))
	for old, new := range map[string]string{"- localhost:9464\n": "- " + target + "\n", "_interval: 15s": "_interval: 1s", "scrape_timeout: 10s": "scrape_timeout: 1s"} {
		if !strings.Contains(settings, old) {
			t.Fatalf("prometheus.yml has no %q", old)
		}
		settings = strings.ReplaceAll(settings, old, new)
	}
	for name, content := range map[string][]byte{"prometheus.yml": []byte(settings), "alerts.yml": read(t, "deploy/prometheus/alerts.yml")} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	started(t, nil, "prometheus", "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address)
	return &prometheus{t, "http://" + address}
}

// ask reads what the API of Prometheus answers into a value.
func (p *prometheus) ask(path string, into any) error {
	resp, err := http.Get(p.url + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		return fmt.Errorf("%s: %d %s %w", path, resp.StatusCode, text, err)
	}
	return json.Unmarshal(text, into)
}

// finds tells how many series a query has now that are numbers.
func (p *prometheus) finds(query string) (n int, err error) {
	var answer struct {
		Data struct {
			Result []struct{ Value [2]any }
		}
	}
	err = p.ask("/api/v1/query?query="+url.QueryEscape(query), &answer)
	for _, series := range answer.Data.Result {
		text, _ := series.Value[1].(string)
		if value, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(value) {
			n++
		}
	}
	return n, err
}

// dashboardQueries are those of the dashboard, as Grafana would send them.
func dashboardQueries(t *testing.T) map[string]string {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(read(t, "deploy/grafana/taskflow.json"), &dashboard); err != nil {
		t.Fatal(err)
	}
	queries := map[string]string{}
	for _, panel := range dashboard.Panels {
		for i, target := range panel.Targets {
			queries[fmt.Sprintf("%s %d", panel.Title, i)] = strings.NewReplacer("$instance", ".*", "$__rate_interval", "10s").Replace(target.Expr)
		}
	}
	return queries
}

var (
	selector = regexp.MustCompile(`\b(taskflow_\w+|process_\w+|go_\w+|up)\b(\{[^}]*\})?`)
	anyOf5xx = regexp.MustCompile(`status=~"5\.\."`) // there should be none
	ofHelp   = regexp.MustCompile(`(?m)^# TYPE (\S+) (\S+)$`)
)

// TestPrometheusUnderstandsARunningProgram uses the program a little while a Prometheus scrapes it, and then asks
// everything that the dashboard asks, and whether there is everything that alerts are about.
func TestPrometheusUnderstandsARunningProgram(t *testing.T) {
	r := newRunning(t)
	p := newPrometheus(t, r.metrics)
	ctx, stop := context.WithCancel(t.Context())
	var using sync.WaitGroup
	using.Go(func() { r.use(ctx) })
	defer using.Wait()
	defer stop()

	var rules struct {
		Data struct{ Groups []struct{ Rules []alertRule } }
	}
	within(t, 15*time.Second, "all rules evaluated", func() bool {
		err := p.ask("/api/v1/rules", &rules)
		return err == nil && len(rules.Data.Groups) == 1 && !slices.ContainsFunc(rules.Data.Groups[0].Rules, func(rule alertRule) bool { return rule.Health == "unknown" })
	})
	waiting := dashboardQueries(t)
	asked := strings.Builder{}
	for _, query := range waiting {
		asked.WriteString(query + "\n")
	}
	if len(waiting) < 60 {
		t.Errorf("the dashboard has only %d queries", len(waiting))
	}
	for _, rule := range rules.Data.Groups[0].Rules {
		if rule.Health != "ok" {
			t.Errorf("%s: %s %s", rule.Name, rule.Health, rule.LastError)
		}
		if rule.Annotations["summary"] == "" || rule.Annotations["runbook"] != "docs/alerts.md#"+strings.ToLower(rule.Name) || !slices.Contains([]string{"page", "ticket"}, rule.Labels["severity"]) {
			t.Errorf("%s: %v %v", rule.Name, rule.Annotations, rule.Labels)
		}
		for _, series := range selector.FindAllString(rule.Query, -1) {
			waiting[rule.Name+" about "+series] = anyOf5xx.ReplaceAllString(series, `status!=""`)
		}
	}
	var lacking []string
	for deadline := time.Now().Add(20 * time.Second); len(waiting) > 0 && time.Now().Before(deadline) && !t.Failed(); time.Sleep(500 * time.Millisecond) {
		lacking = nil
		for name, query := range waiting {
			n, err := p.finds(query)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if n > 0 {
				delete(waiting, name)
			} else {
				lacking = append(lacking, name+": "+query)
			}
		}
	}
	for _, name := range slices.Sorted(slices.Values(lacking)) {
		t.Errorf("no data: %s", name)
	}

	text := r.scraped("http://"+r.metrics+"/metrics", "", http.StatusOK)
	promtool := exec.Command("promtool", "check", "metrics")
	promtool.Stdin = bytes.NewReader(text)
	if out, err := promtool.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
	r.scraped(r.api+"/metrics", "Bearer "+scrapingToken, http.StatusOK)
	r.scraped(r.api+"/metrics", "", http.StatusUnauthorized)
	shown := 0
	for _, match := range ofHelp.FindAllStringSubmatch(string(text), -1) {
		if strings.Contains(asked.String(), match[1]) {
			shown++
		} else if strings.HasPrefix(match[1], "taskflow_") {
			t.Errorf("no panel shows %s", match[1])
		}
	}
	if shown < 60 {
		t.Errorf("only %d families are shown", shown)
	}
}

// scraped is what is answered to a scrape.
func (r *running) scraped(url, authorization string, want int) []byte {
	r.t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != want {
		r.t.Errorf("%s: got %d, want %d (%v)", url, resp.StatusCode, want, err)
	}
	return text
}
