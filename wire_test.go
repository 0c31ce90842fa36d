package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// answersTo sends bytes on a connection of their own and returns the statuses of all answers until
// the server closes it, and whether what it sent was nothing else.
func (ts *testServer) answersTo(bytes string) (statuses []int, clean bool) {
	ts.t.Helper()
	conn, err := net.Dial("tcp", ts.http.Listener.Addr().String())
	if err != nil {
		ts.t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	go func() {
		io.WriteString(conn, bytes) // the server may hang up before the end
		conn.(*net.TCPConn).CloseWrite()
	}()
	answers := bufio.NewReader(conn)
	for {
		if _, err := answers.Peek(1); err != nil {
			return statuses, err == io.EOF || strings.Contains(err.Error(), "reset")
		}
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			return statuses, false
		}
		if resp.StatusCode != 100 {
			_, err = io.Copy(io.Discard, resp.Body)
		}
		statuses = append(statuses, resp.StatusCode)
		if err != nil || resp.StatusCode == 500 {
			return statuses, false
		}
	}
}

// TestBytesOnTheWire sends what no client should. Each is followed by a good request on the same
// connection, marked by the 200 at the end: whether the server goes on to it says where it takes the
// bad one to end. No bytes of a body may ever be taken for a request.
func TestBytesOnTheWire(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	ada := ts.signUp("Ada")
	before := ts.state()
	const (
		host = " HTTP/1.1\r\nHost: x\r\n"
		end  = "\r\n"
		next = "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
		post = "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	)
	// A request within a body: that it has been answered shows by a status that nothing else has.
	const smuggled = "GET /admin/queues HTTP/1.1\r\nHost: x\r\nX-Request-Id: smuggled\r\n\r\n"
	for name, test := range map[string]struct {
		bytes string
		want  []int // of the answers, in order
	}{
		"a good request": {"GET /health" + host + end, []int{200, 200}},

		"two spaces in the request line":  {"GET  /health" + host + end, []int{400}},
		"a fourth word in it":             {"GET /health extra" + host + end, []int{400}},
		"a tab in it":                     {"GET\t/health" + host + end, []int{400}},
		"one word":                        {"GET\r\n\r\n", []int{400}},
		"a method that is no token":       {"G@T /health" + host + end, []int{400}},
		"no method":                       {" /health" + host + end, []int{400}},
		"a version of three digits":       {"GET /health HTTP/1.10\r\nHost: x\r\n\r\n", []int{400}},
		"a version in lower case":         {"GET /health http/1.1\r\nHost: x\r\n\r\n", []int{400}},
		"version 2 in words":              {"GET /health HTTP/2.0\r\nHost: x\r\n\r\n", []int{505}},
		"the preface of HTTP/2":           {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []int{400}},
		"a greeting of TLS":               {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\x00", 64) + "\r\n\r\n", []int{400}},
		"nothing but NUL":                 {strings.Repeat("\x00", 100) + "\r\n\r\n", []int{400}},
		"a target without a slash":        {"GET health" + host + end, []int{400}},
		"an authority as target":          {"GET x:80" + host + end, []int{400, 200}},
		"a NUL in the target":             {"GET /health\x00" + host + end, []int{400}},
		"an absolute target":              {"GET http://evil.example/health" + host + end, []int{200, 200}},
		"an absolute target to elsewhere": {"GET ftp://evil.example/" + host + end, []int{302, 200}},
		"a target of 64 KiB":              {"GET /" + strings.Repeat("x", 64<<10) + host + end, []int{431}},
		"lines that end in LF alone":      {"GET /health HTTP/1.1\nHost: x\n\n", []int{200, 200}},
		"CONNECT":                         {"CONNECT evil.example:443" + host + end, []int{400, 200}},

		"no Host":                     {"GET /health HTTP/1.1\r\n\r\n", []int{400}},
		"two Hosts":                   {"GET /health" + host + "Host: y\r\n\r\n", []int{400}},
		"two equal Hosts":             {"GET /health" + host + "Host: x\r\n\r\n", []int{400}},
		"a Host with a path":          {"GET /health HTTP/1.1\r\nHost: x/y\r\n\r\n", []int{400}},
		"a Host with a space":         {"GET /health HTTP/1.1\r\nHost: x y\r\n\r\n", []int{400}},
		"a header without a colon":    {"GET /health" + host + "Nothing\r\n\r\n", []int{400}},
		"a header without a name":     {"GET /health" + host + ": x\r\n\r\n", []int{400}},
		"a space before the colon":    {"GET /health" + host + "X-A : b\r\n\r\n", []int{400}},
		"a space before the name":     {"GET /health HTTP/1.1\r\n X-A: b\r\nHost: x\r\n\r\n", []int{400}},
		"a name that is no token":     {"GET /health" + host + "X(A): b\r\n\r\n", []int{400}},
		"a NUL in a name":             {"GET /health" + host + "X\x00A: b\r\n\r\n", []int{400}},
		"a NUL in a value":            {"GET /health" + host + "X-A: b\x00c\r\n\r\n", []int{400}},
		"a CR alone in a value":       {"GET /health" + host + "X-A: b\rX-B: c\r\n\r\n", []int{400}},
		"a value folded into a line":  {"GET /health" + host + "X-A: b\r\n c\r\n\r\n", []int{200, 200}},
		"a length folded into a line": {post + "Content-Length:\r\n 2\r\n\r\n{}", []int{422, 200}},
		"20 KiB of headers":           {"GET /health" + host + "X-A: " + strings.Repeat("x", 21<<10) + "\r\n\r\n", []int{431}},
		"2 000 headers":               {"GET /health" + host + strings.Repeat("X-Again: xxxxx\r\n", 2000) + end, []int{431}},
		"an Expect that nobody knows": {"GET /health" + host + "Expect: wonders\r\n\r\n", []int{417}},
		"an Upgrade":                  {"GET /health" + host + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", []int{200, 200}},

		"two lengths":                    {post + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", []int{400}},
		"two lengths in one":             {post + "Content-Length: 2, 3\r\n\r\n{}", []int{400}},
		"a length with a sign":           {post + "Content-Length: +2\r\n\r\n{}", []int{400}},
		"a negative length":              {post + "Content-Length: -2\r\n\r\n{}", []int{400}},
		"a hexadecimal length":           {post + "Content-Length: 0x2\r\n\r\n{}", []int{400}},
		"a length beyond 64 bits":        {post + "Content-Length: 99999999999999999999\r\n\r\n{}", []int{400}},
		"an empty length":                {post + "Content-Length:\r\n\r\n{}", []int{400}},
		"the same length twice":          {post + "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", []int{422, 200}},
		"a body that GET has no use for": {fmt.Sprintf("GET /health%sContent-Length: %d\r\n\r\n%s", host, len(smuggled), smuggled), []int{200, 200}},
		"a body after a refusal":         {fmt.Sprintf("POST /api/v1/tasks%sContent-Length: %d\r\n\r\n%s", host, len(smuggled), smuggled), []int{401, 200}},
		"a body where there is no route": {fmt.Sprintf("POST /nowhere%sContent-Length: %d\r\n\r\n%s", host, len(smuggled), smuggled), []int{404, 200}},

		"a length and chunks":          {post + fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 100), []int{422, 200}},
		"chunks and a length":          {post + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n2\r\n{}\r\n0\r\n\r\n", []int{422, 200}},
		"chunked twice":                {post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", []int{501}},
		"chunked and then another":     {post + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", []int{501}},
		"an encoding nobody knows":     {post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", []int{501}},
		"an encoding with a tab":       {post + "Transfer-Encoding:\tchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", []int{422, 200}},
		"an encoding with a VT":        {post + "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n", []int{400}},
		"a space before its colon":     {post + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", []int{400}},
		"a chunk size that is none":    {post + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n", []int{400}},
		"a chunk size with a sign":     {post + "Transfer-Encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n", []int{400}},
		"a chunk size beyond 64 bits":  {post + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("F", 17) + "\r\n{}\r\n0\r\n\r\n", []int{400}},
		"a chunk longer than its size": {post + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}xx\r\n0\r\n\r\n", []int{400}},
		"an extension of a chunk":      {post + "Transfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\n\r\n", []int{422, 200}},
		"an extension of 1 MiB":        {post + "Transfer-Encoding: chunked\r\n\r\n2;" + strings.Repeat("a", 1<<20) + "\r\n{}\r\n0\r\n\r\n", []int{400}},
		"a length in the trailer":      {post + "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n2\r\n{}\r\n0\r\nContent-Length: 5\r\n\r\n", []int{400}},

		"three at once":                {"GET /health" + host + end + "GET /nowhere" + host + end, []int{200, 404, 200}},
		"a good one after a bad one":   {"GET /health" + host + end + "BAD\r\n\r\n" + "GET /nowhere" + host + end, []int{200, 400}},
		"a good one after bad headers": {"GET /health" + host + "X Y: z\r\n\r\n" + "GET /nowhere" + host + end, []int{400}},
	} {
		t.Run(name, func(t *testing.T) {
			got, clean := ts.answersTo(test.bytes + next)
			if !slices.Equal(got, test.want) || !clean {
				t.Errorf("got %v, cleanly %v; want %v", got, clean, test.want)
			}
			if again, _ := ts.answersTo(next); !slices.Equal(again, []int{200}) {
				t.Errorf("then a good request got %v", again)
			}
		})
	}
	if line := ts.log.grep("smuggled"); line != "" {
		t.Errorf("a body was taken for a request: %s", line)
	}
	ts.unchanged(before, "bytes on the wire")
	ada.get("/api/v1/me").want(200)
}

func TestConnectionsThatTakeTheirTime(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	patient := ts.http.Config.Handler
	quick := newWeb(patient, ts.server.log)
	quick.ReadHeaderTimeout, quick.ReadTimeout, quick.IdleTimeout = 2*time.Second, 3*time.Second, 2*time.Second
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go quick.Serve(listener)
	t.Cleanup(func() { quick.Close() })
	const post = "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n"
	for name, test := range map[string]struct{ bytes, want string }{ // want: how the answer begins
		"before the first byte":     {"", ""},
		"within the request line":   {"GET /hea", ""},
		"within the headers":        {"GET /health HTTP/1.1\r\nHost: x\r\nX-A: ", ""},
		"within the body":           {post + "{", "HTTP/1.1 400 Bad Request"},
		"after an answer":           {"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK"},
		"within the second request": {"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /hea", "HTTP/1.1 200 OK"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(time.Minute)) // the server hangs up long before
			io.WriteString(conn, test.bytes)
			answer, err := io.ReadAll(conn)
			if err != nil || !strings.HasPrefix(string(answer), test.want) || test.want == "" && len(answer) > 0 && !strings.HasPrefix(string(answer), "HTTP/1.1 4") {
				t.Errorf("got %.100q, %v; want %q and the end of the connection", answer, err, test.want)
			}
			resp, err := testHTTP.Get("http://" + listener.Addr().String() + "/health")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != 200 {
				t.Errorf("then a good request got %d", resp.StatusCode)
			}
		})
	}
	real := newWeb(patient, ts.server.log)
	if real.ReadHeaderTimeout != 5*time.Second || real.ReadTimeout != 30*time.Second || real.WriteTimeout != 30*time.Second || real.IdleTimeout != 2*time.Minute || real.MaxHeaderBytes != 16<<10 {
		t.Errorf("a server has other limits than it should: %+v", real)
	}
}
