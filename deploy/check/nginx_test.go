package check

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// everyHeader is what each answer has, whoever gave it.
var everyHeader = map[string]string{
	"Content-Security-Policy":   "default-src 'none'; frame-ancestors 'none'",
	"Referrer-Policy":           "no-referrer",
	"X-Content-Type-Options":    "nosniff",
	"Cache-Control":             "no-store",
	"Strict-Transport-Security": "max-age=31536000",
}

// front is an nginx with deploy/nginx.conf before upstreams of a test.
type front struct {
	t           *testing.T
	dir         string
	https, http string // addresses
	said        bytes.Buffer
}

// startFront starts nginx before processes at addresses.
func startFront(t *testing.T, processes ...string) *front {
	t.Helper()
	f := &front{t: t, dir: folder(t), https: freeAddress(t), http: freeAddress(t)}
	if err := os.Chmod(f.dir, 0o711); err != nil { // where root starts it, its workers are nobody
		t.Fatal(err)
	}
	var servers strings.Builder
	for _, address := range processes {
		fmt.Fprintf(&servers, "server %s max_fails=10 fail_timeout=2s;\n", address)
	}
	site := "access_log access.log requests;\nupstream taskflow { zone taskflow 64k;\n" + servers.String() + "keepalive 16; keepalive_timeout 2s; }\n"
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		site += fmt.Sprintf("%s_temp_path tmp_%[1]s;\n", kind)
	}
	for name, content := range map[string]string{
		"nginx.conf":        string(read(t, "deploy/nginx.conf")),
		"nginx.site.conf":   site,
		"nginx.listen.conf": fmt.Sprintf("listen %s;\nlisten %s ssl http2;\nssl_certificate tls.crt;\nssl_certificate_key tls.key;\nset $public https://tasks.example.org;\n", f.http, f.https),
	} {
		if err := os.WriteFile(filepath.Join(f.dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	openssl := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "tls.key", "-out", "tls.crt", "-days", "1", "-subj", "/CN=localhost")
	openssl.Dir = f.dir
	if out, err := openssl.CombinedOutput(); err != nil {
		t.Fatalf("openssl: %v\n%s", err, out)
	}
	nginx := exec.Command("nginx", "-e", "stderr", "-p", f.dir, "-c", filepath.Join(f.dir, "nginx.conf"), "-g", "daemon off; pid pid;")
	nginx.Stderr = &f.said
	nginx.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if out, err := exec.Command(nginx.Path, append([]string{"-t"}, nginx.Args[1:]...)...).CombinedOutput(); err != nil || bytes.Contains(out, []byte("[warn]")) && !bytes.Contains(out, []byte("open file resource limit")) {
		t.Fatalf("nginx -t: %v\n%s", err, out)
	}
	if err := nginx.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		nginx.Process.Signal(syscall.SIGTERM)
		nginx.Wait()
	})
	waitFor(t, "nginx", func() error {
		conn, err := net.Dial("tcp", f.https)
		if err == nil {
			conn.Close()
		}
		return err
	})
	return f
}

// behind starts nginx before one process that answers as a handler does.
func behind(t *testing.T, handle http.HandlerFunc) *front {
	t.Helper()
	server := httptest.NewServer(handle)
	t.Cleanup(server.Close)
	return startFront(t, server.Listener.Addr().String())
}

// browser speaks HTTP/2, trusts everybody and follows nothing.
func browser() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true, DisableCompression: true},
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// reply is an answer, read whole.
type reply struct {
	*http.Response
	body []byte
}

// do sends a request; headers are names and values in turn.
func (f *front) do(method, path string, body io.Reader, headers ...string) reply {
	f.t.Helper()
	url := path
	if !strings.Contains(path, "://") {
		url = "https://" + f.https + path
	}
	request, err := http.NewRequest(method, url, body)
	if err != nil {
		f.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Add(headers[i], headers[i+1])
	}
	client := browser()
	defer client.CloseIdleConnections()
	response, err := client.Do(request)
	if err != nil {
		f.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil {
		f.t.Fatalf("%s %s: %v", method, path, err)
	}
	return reply{response, got}
}

// raw sends the bytes of a request by HTTP/1.1.
func (f *front) raw(text string) reply {
	f.t.Helper()
	conn, err := tls.Dial("tcp", f.https, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		f.t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, text)
	request, _ := http.NewRequest("GET", "https://x/", nil)
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	if err != nil {
		f.t.Fatalf("%.100q: %v", text, err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		f.t.Fatalf("%.100q: %v", text, err)
	}
	return reply{response, body}
}

// wantProblem fails the test unless an answer is a problem of the API's shape, with a code that the program
// explains under this status, and every header once.
func (f *front) wantProblem(r reply, status int, code, instance string) {
	f.t.Helper()
	var p struct{ Type, Title, Detail, Instance, Code, RequestID, Status any }
	if err := json.Unmarshal(r.body, &p); err != nil {
		f.t.Fatalf("%v in %d %s", err, r.StatusCode, r.body)
	}
	if r.StatusCode != status || p.Status != float64(status) || p.Code != code || p.Type != "/problems/"+code || p.Instance != instance || p.RequestID != r.Header.Get("X-Request-Id") ||
		p.Title == nil || p.Detail == nil || r.Header.Get("Content-Type") != "application/problem+json" {
		f.t.Errorf("got %d %s %s, want a problem %d %s of %s", r.StatusCode, r.Header.Get("Content-Type"), r.body, status, code, instance)
	}
	explained := regexp.MustCompile(`"` + code + `": *\{` + fmt.Sprint(status) + `, "([^"]+)"`).FindSubmatch(read(f.t, "problem.go"))
	if explained == nil || string(explained[1]) != p.Title {
		f.t.Errorf("the program does not know %s as %d %v", code, status, p.Title)
	}
	for name, want := range everyHeader {
		if got := r.Header[name]; !slices.Equal(got, []string{want}) && (name != "Strict-Transport-Security" || r.Request.URL.Scheme == "https") {
			f.t.Errorf("%d has %s: %q, want %q once", status, name, got, want)
		}
	}
	again := slices.Contains([]int{429, 502, 503, 504}, status)
	if len(r.Header["X-Request-Id"]) != 1 || (r.Header.Get("Retry-After") != "") != again {
		f.t.Errorf("%d has the headers %v", status, r.Header)
	}
}

func TestNginxAnswersItsOwnErrorsAsTheAPIDoes(t *testing.T) {
	var asked atomic.Int64
	up := behind(t, func(w http.ResponseWriter, r *http.Request) { asked.Add(1) })
	nowhere := startFront(t, freeAddress(t))

	nowhere.wantProblem(nowhere.do("GET", "/api/v1/me?secret=1", nil), 502, "bad_gateway", "/api/v1/me")
	nowhere.wantProblem(nowhere.do("POST", "/api/v1/tasks", strings.NewReader("{}")), 502, "bad_gateway", "/api/v1/tasks")
	up.wantProblem(up.do("POST", "/api/v1/tasks", io.LimitReader(zeros{}, 1<<20+1)), 413, "body_too_large", "/api/v1/tasks")
	up.wantProblem(up.do("POST", "/api/v1/tasks", bytes.NewReader(make([]byte, 1<<20+1))), 413, "body_too_large", "/api/v1/tasks")
	up.wantProblem(up.do("TRACE", "/api/v1/me", nil), 405, "method_not_allowed", "/api/v1/me")
	up.wantProblem(up.raw("GET / HTTP/1.1\r\nHost: x\r\nX-Long: "+strings.Repeat("x", 20<<10)+"\r\n\r\n"), 400, "bad_request", "/")
	up.wantProblem(up.raw("GET /a\"b HTTP/1.1\r\n\r\n"), 400, "bad_request", "/")              // without a Host
	up.wantProblem(up.do("GET", "http://"+up.https+"/docs", nil), 400, "bad_request", "/docs") // http to the port of https
	if asked.Load() != 0 {
		t.Errorf("%d of these reached the process", asked.Load())
	}
	up.do("POST", "/api/v1/tasks", bytes.NewReader(make([]byte, 1<<20)))
	if asked.Load() != 1 {
		t.Errorf("a body of 1 MiB did not reach the process")
	}

	t.Run("504, when a process cannot be connected to in time", func(t *testing.T) {
		f := startFront(t, deaf(t))
		start := time.Now()
		f.wantProblem(f.do("GET", "/docs", nil), 504, "gateway_timeout", "/docs")
		if took := time.Since(start); took < time.Second {
			t.Errorf("it took %v only: not a timeout", took)
		}
	})
	t.Run("429, when there are too many requests from an address", func(t *testing.T) {
		got := map[int]int{}
		for range 2 { // one after the other, in two bundles: nginx ends a connection after 1000
			conn, err := tls.Dial("tcp", nowhere.https, &tls.Config{InsecureSkipVerify: true})
			if err != nil {
				t.Fatal(err)
			}
			go io.WriteString(conn, strings.Repeat("GET /docs HTTP/1.1\r\nHost: x\r\n\r\n", 900))
			answers := bufio.NewReader(conn)
			for range 900 {
				request, _ := http.NewRequest("GET", "https://x/docs", nil)
				response, err := http.ReadResponse(answers, request)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(response.Body)
				if got[response.StatusCode]++; response.StatusCode == 429 && got[429] == 1 {
					nowhere.wantProblem(reply{response, body}, 429, "rate_limited", "/docs")
				}
			}
			conn.Close()
		}
		if got[429] == 0 || got[502] < 600 {
			t.Errorf("got %v, want 600 at once and then 429", got)
		}
	})
	t.Run("429, when too many are under way", func(t *testing.T) {
		var under sync.WaitGroup
		through, end := make(chan bool, 1000), make(chan bool)
		f := behind(t, func(w http.ResponseWriter, r *http.Request) { through <- true; <-end })
		clients := browser()
		for range 500 {
			under.Go(func() {
				if response, err := clients.Get("https://" + f.https + "/slow"); err == nil {
					response.Body.Close()
				}
			})
		}
		for range 500 {
			select {
			case <-through:
			case <-time.After(30 * time.Second):
				t.Fatal("500 at once do not get through")
			}
		}
		f.wantProblem(f.do("GET", "/slow", nil), 429, "rate_limited", "/slow")
		close(end)
		under.Wait()
		clients.CloseIdleConnections()
	})
}

// deaf is an address whose connections are never accepted, nor refused: its queue is full.
func deaf(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for range 4 {
		conn, err := net.DialTimeout("tcp", address, 300*time.Millisecond)
		if err != nil {
			return address
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Fatal("the queue does not fill")
	return ""
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestNginxPassesRequestsAndAnswersOnAsTheyAre(t *testing.T) {
	var got *http.Request
	f := behind(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		for name, value := range everyHeader {
			w.Header().Set(name, value)
		}
		w.Header().Set("Content-Security-Policy", "default-src 'self'")
		w.Header().Set("X-Request-Id", r.Header.Get("X-Request-Id"))
		w.Header().Set("ETag", `"7"`)
		w.WriteHeader(502)
		io.WriteString(w, "mine")
	})
	r := f.do("GET", "/api/v1/tasks/a%2Fb?q=%20&q=1", nil, "X-Forwarded-For", "192.0.2.1", "X-Forwarded-Proto", "http", "X-Real-Ip", "192.0.2.1", "Forwarded", "for=192.0.2.1",
		"X-Forwarded-Host", "evil.example", "Proxy", "evil.example", "X-Request-Id", "mine-1", "Authorization", "Bearer x")
	if r.Proto != "HTTP/2.0" || r.StatusCode != 502 || string(r.body) != "mine" || r.Header.Get("ETag") != `"7"` || r.Header.Get("X-Request-Id") != "mine-1" {
		t.Errorf("got %s %d %s %v", r.Proto, r.StatusCode, r.body, r.Header)
	}
	for name, want := range everyHeader {
		if name == "Content-Security-Policy" {
			want = "default-src 'self'"
		}
		if !slices.Equal(r.Header[name], []string{want}) {
			t.Errorf("got %s: %q, want what the process says, once", name, r.Header[name])
		}
	}
	if got.RequestURI != "/api/v1/tasks/a%2Fb?q=%20&q=1" || got.Host != f.https || got.Header.Get("Authorization") != "Bearer x" || got.Proto != "HTTP/1.1" || got.Close {
		t.Errorf("the process is asked for %s at %s with %v", got.RequestURI, got.Host, got.Header)
	}
	for name, want := range map[string][]string{"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Proto": {"https"}, "X-Real-Ip": nil, "Forwarded": nil, "X-Forwarded-Host": nil, "Proxy": nil} {
		if !slices.Equal(got.Header[name], want) {
			t.Errorf("the process is told %s: %q, want %q", name, got.Header[name], want)
		}
	}
	for _, id := range []string{"", "a b", `a"b`, strings.Repeat("a", 65)} {
		if r := f.do("GET", "/", nil, "X-Request-Id", id); r.Header.Get("X-Request-Id") == id || !regexp.MustCompile("^[0-9a-f]{32}$").MatchString(r.Header.Get("X-Request-Id")) {
			t.Errorf("%q: got the request id %q", id, r.Header.Get("X-Request-Id"))
		}
	}
	if _, err := tls.Dial("tcp", f.https, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	if conn, err := tls.Dial("tcp", f.https, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}); err != nil {
		t.Errorf("TLS 1.2: %v", err)
	} else {
		conn.Close()
	}
}

// breaking is a process that takes requests and breaks off; it tells of each.
func breaking(t *testing.T) (address string, took *atomic.Int64) {
	t.Helper()
	took = &atomic.Int64{}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				took.Add(1)
			}
			conn.Close()
		}
	}()
	return listener.Addr().String(), took
}

func TestNginxNeverSendsAChangeTwice(t *testing.T) {
	var whole atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { whole.Add(1) }))
	t.Cleanup(server.Close)
	address, broken := breaking(t)

	for _, method := range []string{"POST", "PATCH", "GET"} {
		t.Run(method+", to a process that breaks off", func(t *testing.T) {
			f := startFront(t, address, server.Listener.Addr().String())
			whole.Store(0)
			broken.Store(0)
			failed := int64(0)
			for range 8 {
				r := f.do(method, "/api/v1/tasks", strings.NewReader("{}"))
				if r.StatusCode == 502 {
					failed++
				}
			}
			if broken.Load() == 0 || method == "GET" && (failed != 0 || whole.Load() != 8) || method != "GET" && (failed != broken.Load() || whole.Load()+failed != 8) {
				t.Errorf("of 8, %d were answered 502; %d came to the process that breaks off and %d to the other", failed, broken.Load(), whole.Load())
			}
		})
	}
	t.Run("but to another process where one is not there", func(t *testing.T) {
		f := startFront(t, freeAddress(t), server.Listener.Addr().String())
		for range 8 {
			if r := f.do("POST", "/api/v1/tasks", strings.NewReader("{}")); r.StatusCode != 200 {
				t.Errorf("got %d", r.StatusCode)
			}
		}
		if r := f.do("POST", "/api/v1/tasks/1/attachments", bytes.NewReader(make([]byte, 2<<20))); r.StatusCode != 200 {
			t.Errorf("got %d for a file", r.StatusCode)
		}
	})
}

func TestNginxHidesWhatIsForOperators(t *testing.T) {
	f := behind(t, func(w http.ResponseWriter, r *http.Request) { t.Errorf("the process is asked for %s", r.RequestURI) })
	for _, path := range []string{"/metrics", "/metrics/", "//metrics", "/%6detrics", "/api/../metrics", "/debug/pprof/heap", "/dev/mails"} {
		f.wantProblem(f.raw("GET "+path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), 404, "not_found", path)
	}
	f.wantProblem(f.do("GET", "/~problem", nil), 404, "not_found", "/~problem")
}

func TestNginxLeadsOnlyPagesFromHTTPToHTTPS(t *testing.T) {
	asked := ""
	f := behind(t, func(w http.ResponseWriter, r *http.Request) {
		asked += r.URL.Path + " " + r.Header.Get("X-Forwarded-Proto") + "\n"
	})
	for _, method := range []string{"GET", "HEAD"} {
		r := f.do(method, "http://"+f.http+"/docs?a=1", nil)
		if r.StatusCode != 308 || r.Header.Get("Location") != "https://tasks.example.org/docs?a=1" {
			t.Errorf("%s: got %d to %s", method, r.StatusCode, r.Header.Get("Location"))
		}
		for name, want := range everyHeader {
			if got := strings.Join(r.Header[name], "|"); got != want && name != "Strict-Transport-Security" {
				t.Errorf("%s: got %s: %s", method, name, got)
			}
		}
	}
	f.wantProblem(f.do("GET", "http://"+f.http+"/api/v1/me", nil), 403, "https_required", "/api/v1/me")
	f.wantProblem(f.do("POST", "http://"+f.http+"/api/v1/auth/login", strings.NewReader("{}")), 403, "https_required", "/api/v1/auth/login")
	f.wantProblem(f.do("POST", "http://"+f.http+"/unsubscribe/all/token", nil), 403, "https_required", "/unsubscribe/all/token")
	if r := f.do("GET", "http://"+f.http+"/health", nil); r.StatusCode != 200 || asked != "/health http\n" {
		t.Errorf("got %d; the process was asked for %q, want /health only", r.StatusCode, asked)
	}
}

func TestNginxCompressesWhatTellsNothing(t *testing.T) {
	large := strings.Repeat("words that come again and again, ", 100)
	f := behind(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", r.URL.Query().Get("type"))
		w.Header().Set("ETag", `"7"`)
		io.WriteString(w, large)
	})
	for path, want := range map[string]bool{
		"/docs?type=text/html": true, "/openapi.yaml?type=application/yaml": true, "/docs/init.js?type=text/javascript": true,
		"/api/v1/tasks?type=application/json": true, "/api/v1/projects/1/members?type=application/json": true, "/api/v1/tasks/T-1/comments?type=application/json": true,
		"/api/v1/tasks/T-1?type=application/json": false, // its ETag would become weak
		"/api/v1/me?type=application/json":        false, "/api/v1/me/tokens?type=application/json": false, "/api/v1/auth/login?type=application/json": false,
		"/api/v1/projects/1/webhooks?type=application/json": false, "/api/v1/events?type=text/event-stream": false, "/api/v1/attachments/1/content?type=text/plain": false,
	} {
		r := f.do("GET", path, nil, "Accept-Encoding", "gzip")
		got := r.Header.Get("Content-Encoding") == "gzip"
		if got != want || !want && (r.Header.Get("ETag") != `"7"` || string(r.body) != large) {
			t.Errorf("%s: compressed %v with %s, want %v", path, got, r.Header.Get("ETag"), want)
		}
		if got {
			text, err := gzip.NewReader(bytes.NewReader(r.body))
			if err != nil {
				t.Fatal(err)
			}
			if whole, err := io.ReadAll(text); err != nil || string(whole) != large || !strings.Contains(strings.Join(r.Header["Vary"], ","), "Accept-Encoding") {
				t.Errorf("%s: %v, Vary %v", path, err, r.Header["Vary"])
			}
		}
	}
}

func TestNginxStreams(t *testing.T) {
	step := make(chan string, 10)
	f := behind(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" { // without X-Accel-Buffering
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, "data: first\n\n")
			w.(http.Flusher).Flush()
			step <- "sent"
			<-r.Context().Done()
			step <- "left"
			return
		}
		first := make([]byte, 1000)
		_, err := io.ReadFull(r.Body, first)
		step <- fmt.Sprintf("began %v", err)
		n, err := io.Copy(io.Discard, r.Body)
		step <- fmt.Sprintf("read %d %v", n, err)
	})
	next := func(t *testing.T, want string) {
		t.Helper()
		select {
		case got := <-step:
			if got != want {
				t.Errorf("the process says %q, want %q", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("the process does not say %q", want)
		}
	}
	t.Run("events as they come, and tells of a reader who leaves", func(t *testing.T) {
		client := browser()
		response, err := client.Get("https://" + f.https + "/api/v1/events")
		if err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(response.Body).ReadString('\n')
		if err != nil || line != "data: first\n" {
			t.Errorf("got %q, %v", line, err)
		}
		next(t, "sent")
		response.Body.Close()
		client.CloseIdleConnections()
		next(t, "left")
	})
	t.Run("files as they come, however large", func(t *testing.T) {
		body, w := io.Pipe()
		go func() {
			w.Write(make([]byte, 100<<10))
			for len(step) == 0 {
				time.Sleep(time.Millisecond)
			}
			io.CopyN(w, zeros{}, 4<<20) // only after the process has begun to read
			w.Close()
		}()
		if r := f.do("POST", "/api/v1/tasks/T-1/attachments", body); r.StatusCode != 200 {
			t.Errorf("got %d %s", r.StatusCode, r.body)
		}
		next(t, "began <nil>")
		next(t, fmt.Sprintf("read %d <nil>", 4<<20+100<<10-1000))
		if files, _ := filepath.Glob(filepath.Join(f.dir, "tmp_client_body", "*")); len(files) > 0 {
			t.Errorf("left on the disk: %v", files)
		}
	})
}

func TestNginxLogsNoSecrets(t *testing.T) {
	f := startFront(t, freeAddress(t))
	f.do("GET", "/api/v1/events?ticket=hunter2", nil, "X-Request-Id", "one")
	f.do("GET", "/unsubscribe/task.due/hunter2?x", nil, "Authorization", "Bearer hunter2", "X-Request-Id", "two")
	f.do("POST", "/api/v1/tasks?hunter2", bytes.NewReader(make([]byte, 1<<20+1)), "Referer", "https://x/?hunter2", "User-Agent", "hunter2", "X-Request-Id", "three")
	f.do("GET", "/a%22%0A,%22forged%22:%22?hunter2", nil, "X-Request-Id", "four")
	want := []string{"one GET /api/v1/events 502", "two GET /unsubscribe/task.due/{token} 502", "three POST /api/v1/tasks 413", "four GET /a%22%0A,%22forged%22:%22 502"}
	var log []byte
	waitFor(t, "the log", func() (err error) {
		if log, err = os.ReadFile(filepath.Join(f.dir, "access.log")); bytes.Count(log, []byte("\n")) < len(want) {
			return fmt.Errorf("%d of %d lines are there (%v)", bytes.Count(log, []byte("\n")), len(want), err)
		}
		return nil
	})
	var got []string
	for line := range bytes.Lines(log) {
		var r struct {
			RequestID, Method, Path, IP, Time string
			Status                            int
			Seconds                           float64
		}
		if err := json.Unmarshal(line, &r); err != nil || r.IP != "127.0.0.1" || r.Time == "" {
			t.Errorf("%v in %s", err, line)
		}
		got = append(got, fmt.Sprintf("%s %s %s %d", r.RequestID, r.Method, r.Path, r.Status))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if all := string(log) + f.said.String(); strings.Contains(all, "hunter2") {
		t.Errorf("there is a secret in the log: %s", all)
	}
}
