package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
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

// TestAttackHTTP sends what no client should. Each is followed by a good request on the same
// connection, marked by the 200 at the end: whether the server goes on to it says where it takes the
// bad one to end. No bytes of a body may ever be taken for a request.
func TestAttackHTTP(t *testing.T) {
	t.Parallel()
	a := countAttacks(t, 110)
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
	json := func(body string) string { return fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body) }
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

		"a length and chunks":          {post + fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 100), []int{422}},
		"chunks and a length":          {post + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n2\r\n{}\r\n0\r\n\r\n", []int{422}},
		"chunked twice":                {post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", []int{501}},
		"chunked and then another":     {post + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", []int{501}},
		"an encoding nobody knows":     {post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", []int{501}},
		"an encoding with a tab":       {post + "Transfer-Encoding:\tchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", []int{422}},
		"an encoding with a VT":        {post + "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n", []int{400}},
		"a space before its colon":     {post + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", []int{400}},
		"a chunk size that is none":    {post + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n", []int{400}},
		"a chunk size with a sign":     {post + "Transfer-Encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n", []int{400}},
		"a chunk size beyond 64 bits":  {post + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("F", 17) + "\r\n{}\r\n0\r\n\r\n", []int{400}},
		"a chunk longer than its size": {post + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}xx\r\n0\r\n\r\n", []int{400}},
		"an extension of a chunk":      {post + "Transfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\n\r\n", []int{422}},
		"an extension of 1 MiB":        {post + "Transfer-Encoding: chunked\r\n\r\n2;" + strings.Repeat("a", 1<<20) + "\r\n{}\r\n0\r\n\r\n", []int{400}},
		"a length in the trailer":      {post + "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n2\r\n{}\r\n0\r\nContent-Length: 5\r\n\r\n", []int{400}},

		"chunks in capitals":             {post + "Transfer-Encoding: CHUNKED\r\n\r\n2\r\n{}\r\n0\r\n\r\n", []int{422}},
		"chunked in quotes":              {post + "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", []int{501}},
		"identity":                       {post + "Transfer-Encoding: identity\r\n" + json("{}"), []int{501}},
		"gzip and then chunks":           {post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", []int{501}},
		"no encoding":                    {post + "Transfer-Encoding:\r\n" + json("{}"), []int{501}},
		"an encoding folded into a line": {post + "Transfer-Encoding:\r\n chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", []int{422}},
		"an encoding of version 1.0":     {"POST /api/v1/auth/login HTTP/1.0\r\nConnection: keep-alive\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}", []int{422}},
		"an encoding beside its double":  {post + "Transfer-Encoding: chunked\r\nTransfer_Encoding: identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n", []int{422}},
		"a request in the length's rest": {post + fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n%s", len(smuggled)+12, smuggled), []int{422}},
		"a request after the last chunk": {post + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, []int{400}},
		"a request in a chunk":           {post + fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(smuggled), smuggled), []int{400}},
		"chunk lines that end in LF":     {post + "Transfer-Encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\n", []int{400}},
		"chunk lines that end in CR":     {post + "Transfer-Encoding: chunked\r\n\r\n2\r{}\r\n0\r\n\r\n", []int{400}},
		"an extension with a LF":         {post + "Transfer-Encoding: chunked\r\n\r\n2;a\n{}\r\n0\r\n\r\n", []int{400}},
		"a chunk size in 0x":             {post + "Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n", []int{400}},
		"a chunk size after a space":     {post + "Transfer-Encoding: chunked\r\n\r\n 2\r\n{}\r\n0\r\n\r\n", []int{400}},
		"a chunk size below zero":        {post + "Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n", []int{400}},
		"an empty chunk size":            {post + "Transfer-Encoding: chunked\r\n\r\n\r\n{}\r\n0\r\n\r\n", []int{400}},
		"chunks that do not end":         {post + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", []int{400}},
		"chunks of one byte":             {post + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1\r\n \r\n", 20_000) + "0\r\n\r\n", []int{413}},
		"a token in the trailer":         {"GET /api/v1/me" + host + "Transfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n0\r\nAuthorization: Bearer " + ada.token + "\r\n\r\n", []int{401}},
		"a media type in the trailer":    {"POST /api/v1/auth/login" + host + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nContent-Type: application/json\r\n\r\n", []int{415}},
		"a trailer of 1 MiB":             {post + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" + strings.Repeat("X-A: "+strings.Repeat("x", 1000)+"\r\n", 1000) + "\r\n", []int{400}},
		"a length with a space within":   {post + "Content-Length: 1 2\r\n\r\n{}", []int{400}},
		"a length in other digits":       {post + "Content-Length: \u0662\r\n\r\n{}", []int{400}},
		"a length with a fraction":       {post + "Content-Length: 2.0\r\n\r\n{}", []int{400}},
		"a length with a CR":             {post + "Content-Length: 2\r3\r\n\r\n{}", []int{400}},
		"a length with a NUL":            {post + "Content-Length: 2\x00\r\n\r\n{}", []int{400}},
		"a length after a space":         {post + "Content-Length : 2\r\n\r\n{}", []int{400}},
		"a length of GET":                {"GET /health" + host + "Content-Length: 5\r\n\r\n", []int{200, 400}},

		"version 0.9":                {"GET /health\r\n\r\n", []int{400}},
		"version 1.0 without a Host": {"GET /health HTTP/1.0\r\n\r\n", []int{200}},
		"version 1.0 kept alive":     {"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", []int{200}},
		"version 1.2":                {"GET /health HTTP/1.2\r\nHost: x\r\n\r\n", []int{200, 200}},
		"version 3":                  {"GET /health HTTP/3.0\r\nHost: x\r\n\r\n", []int{505}},
		"all that OPTIONS can ask":   {"OPTIONS *" + host + end, []int{400, 200}},
		"a star":                     {"GET *" + host + end, []int{400, 200}},
		"a bad escape in the path":   {"GET /api/v1/%zz" + host + end, []int{400}},
		"bytes beyond ASCII":         {"GET /api/v1/\xff\xfe" + host + end, []int{404, 200}},
		"a fragment":                 {"GET /health#/api/v1/me" + host + end, []int{404, 200}},
		"a user in the target":       {"GET http://x:y@x/api/v1/me" + host + end, []int{401, 200}},
		"a script as target":         {"GET javascript:alert(1)" + host + end, []int{400, 200}},
		"an empty target":            {"GET  HTTP/1.1\r\nHost: x\r\n\r\n", []int{400}},
		"a method in lower case":     {"get /health" + host + end, []int{405, 200}},
		"a method of 8 KiB":          {strings.Repeat("G", 8<<10) + " /health" + host + end, []int{405, 200}},
		"TRACE with a token":         {"TRACE /api/v1/me" + host + "Authorization: Bearer " + ada.token + "\r\n\r\n", []int{405, 200}},
		"an answer for a request":    {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", []int{400}},
		"SMTP":                       {"EHLO evil.example\r\nMAIL FROM:<a@evil.example>\r\n\r\n", []int{400}},
		"Redis":                      {"*1\r\n$8\r\nFLUSHALL\r\n\r\n", []int{400}},
		"a PROXY line":               {"PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\nGET /health" + host + end, []int{400}},
		"empty lines before it":      {"\r\n\r\nGET /health" + host + end, []int{400}},

		"an empty Host":                       {"GET /health HTTP/1.1\r\nHost:\r\n\r\n", []int{200, 200}},
		"a Host with a user":                  {"GET /health HTTP/1.1\r\nHost: a@x\r\n\r\n", []int{400}},
		"a Host of another site":              {"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", []int{302, 200}},
		"a target and another Host":           {"GET http://x/api/v1/me HTTP/1.1\r\nHost: evil.example\r\n\r\n", []int{401, 200}},
		"10 000 headers":                      {"GET /health" + host + strings.Repeat("A: b\r\n", 10_000) + end, []int{431}},
		"3 000 different headers":             {"GET /health" + host + manyHeaders(3000) + end, []int{431}},
		"a header's name of 20 KiB":           {"GET /health" + host + strings.Repeat("X", 21<<10) + ": b\r\n\r\n", []int{431}},
		"a line that is folded 9 000 times":   {"GET /health" + host + "X-A: b\r\n" + strings.Repeat(" c\r\n", 9000) + end, []int{431}},
		"an Upgrade to a WebSocket":           {"GET /api/v1/tasks" + host + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", []int{401, 200}},
		"two tokens":                          {"GET /api/v1/me" + host + "Authorization: Bearer " + ada.token + "\r\nAuthorization: Bearer " + ada.token + "\r\n\r\n", []int{401, 200}},
		"a body that is refused and not sent": {"POST /api/v1/tasks" + host + "Content-Type: application/json\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n", []int{401}},
		"a body too long that is not sent":    {post + "Content-Length: 100000\r\nExpect: 100-continue\r\n\r\n", []int{413}},
		"a body that is asked for":            {post + "Expect: 100-continue\r\n" + json("{}"), []int{100, 422, 200}},
		"a body that ends early":              {post + "Content-Length: 100\r\n\r\n{", []int{400}},

		"fifty at once":                {strings.Repeat("GET /health"+host+end+"GET /nowhere"+host+end, 25), append(slices.Repeat([]int{200, 404}, 25), 200)},
		"three at once":                {"GET /health" + host + end + "GET /nowhere" + host + end, []int{200, 404, 200}},
		"a good one after a bad one":   {"GET /health" + host + end + "BAD\r\n\r\n" + "GET /nowhere" + host + end, []int{200, 400}},
		"a good one after bad headers": {"GET /health" + host + "X Y: z\r\n\r\n" + "GET /nowhere" + host + end, []int{400}},
	} {
		a.run(ts, name, func(t *testing.T) {
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
	ts.attackByLeaving(a, ada)
	ts.attackSlowly(a)
	attackByClaims(t, a)
	ada.get("/api/v1/me").want(200)
}

// manyHeaders are different ones.
func manyHeaders(n int) string {
	var lines strings.Builder
	for i := range n {
		fmt.Fprintf(&lines, "X-%d: b\r\n", i)
	}
	return lines.String()
}

// attackSlowly holds connections for as long as a server lets it.
func (ts *testServer) attackSlowly(a *attacks) {
	patient := ts.http.Config.Handler
	quick := newWeb(patient, ts.server.log)
	quick.ReadHeaderTimeout, quick.ReadTimeout, quick.WriteTimeout, quick.IdleTimeout = 2*time.Second, 3*time.Second, 10*time.Second, 2*time.Second
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		ts.t.Fatal(err)
	}
	var open atomic.Int64 // connections
	quick.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
	}
	go quick.Serve(listener)
	ts.t.Cleanup(func() { quick.Close() })
	dial := func(t *testing.T) net.Conn {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(time.Minute)) // the server hangs up long before
		return conn
	}
	healthy := func(t *testing.T) {
		resp, err := testHTTP.Get("http://" + listener.Addr().String() + "/health")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("then a good request got %d", resp.StatusCode)
		}
	}
	const get, post = "GET /health HTTP/1.1\r\nHost: x\r\n", "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	cases := map[string]struct{ bytes, drip, want string }{ // drip: sent again and again; want: how the answer begins
		"before the first byte":     {"", "", ""},
		"within the request line":   {"GET /hea", "", ""},
		"within the headers":        {get + "X-A: ", "", ""},
		"with a header at a time":   {get, "X-A: b\r\n", ""},
		"with a byte at a time":     {get + "X-A: ", "b", ""},
		"within the body":           {post + "Content-Length: 50\r\n\r\n{", "", "HTTP/1.1 400 Bad Request"},
		"with the body by the byte": {post + "Content-Length: 5000\r\n\r\n{", " ", "HTTP/1.1 400 Bad Request"},
		"with chunks of a byte":     {post + "Transfer-Encoding: chunked\r\n\r\n", "1\r\n \r\n", "HTTP/1.1 400 Bad Request"},
		"after an answer":           {get + "\r\n", "", "HTTP/1.1 200 OK"},
		"within the second request": {get + "\r\nGET /hea", "", "HTTP/1.1 200 OK"},
	}
	ts.t.(*testing.T).Run("takes its time", func(t *testing.T) {
		for name, test := range cases {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				conn := dial(t)
				defer conn.Close()
				io.WriteString(conn, test.bytes)
				go func() {
					for test.drip != "" {
						if _, err := io.WriteString(conn, test.drip); err != nil {
							return
						}
						time.Sleep(100 * time.Millisecond) // the attack itself
					}
				}()
				answer, err := io.ReadAll(conn)
				reset := test.drip != "" && err != nil && strings.Contains(err.Error(), "reset") // as something came after the end
				if err != nil && !reset || !strings.HasPrefix(string(answer), test.want) && !reset || test.want == "" && len(answer) > 0 && !strings.HasPrefix(string(answer), "HTTP/1.1 4") {
					t.Errorf("got %.100q, %v; want %q and the end of the connection", answer, err, test.want)
				}
				healthy(t)
			})
		}
		t.Run("without reading what it asked for", func(t *testing.T) {
			t.Parallel()
			conn := dial(t)
			defer conn.Close()
			_, err := io.WriteString(conn, strings.Repeat("GET /openapi.yaml HTTP/1.1\r\nHost: x\r\n\r\n", 200_000))
			if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %v, want an end of the connection by the server", err)
			}
			healthy(t)
		})
		t.Run("on 200 connections", func(t *testing.T) {
			t.Parallel()
			for range 200 {
				io.WriteString(dial(t), "GET /hea") // never closed here
			}
			healthy(t)
		})
	})
	a.tried += len(cases) + 2
	eventually(ts.t, time.Minute, "the end of all slow connections", func() bool {
		testHTTP.CloseIdleConnections()
		return open.Load() == 0
	})
	real := newWeb(patient, ts.server.log)
	if real.ReadHeaderTimeout != 5*time.Second || real.ReadTimeout != 30*time.Second || real.WriteTimeout != 30*time.Second || real.IdleTimeout != 2*time.Minute || real.MaxHeaderBytes != 16<<10 {
		ts.t.Errorf("a server has other limits than it should: %+v", real)
	}
}

// attackByLeaving hangs up where a server could believe that it has got all.
func (ts *testServer) attackByLeaving(a *attacks, ada *client) {
	project := ada.project("Left")
	body := `{"projectId":"` + project + `","title":"Half"}`
	head := "POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + ada.token + "\r\nContent-Type: application/json\r\nX-Request-Id: "
	for name, rest := range map[string]string{
		"within the body":              fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body)+2, body),
		"before the last chunk":        fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(body), body),
		"within a chunk":               fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s", len(body)+1, body),
		"within the end of the chunks": fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n", len(body), body),
		"with an Idempotency-Key":      fmt.Sprintf("Idempotency-Key: left\r\nContent-Length: %d\r\n\r\n%s", len(body)+2, body),
	} {
		for _, half := range []bool{true, false} {
			a.run(ts, fmt.Sprintf("leaves %s, and listens on: %v", name, half), func(t *testing.T) {
				before := ts.state()
				conn, err := net.Dial("tcp", ts.http.Listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(time.Minute))
				id := newUUID().String()
				io.WriteString(conn, head+id+"\r\n"+rest)
				if half {
					conn.(*net.TCPConn).CloseWrite()
					if answer, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") {
						t.Errorf("got %.200q, %v", answer, err)
					}
				} else {
					conn.Close()
				}
				eventually(t, time.Minute, "the end of the request", func() bool { return ts.log.grep(id) != "" })
				ts.unchanged(before, "half a request")
			})
		}
	}
	a.run(ts, "leaves while the answer comes", func(t *testing.T) {
		conn, err := net.Dial("tcp", ts.http.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, "GET /openapi.yaml HTTP/1.1\r\nHost: x\r\n\r\n")
		conn.Read(make([]byte, 100))
		conn.(*net.TCPConn).SetLinger(0) // by a reset
		conn.Close()
	})
	a.run(ts, "sends a hundred at once, and is answered in their order", func(t *testing.T) {
		var requests, want, got []string
		for i := range 100 {
			want = append(want, fmt.Sprintf("order-%d", i))
			requests = append(requests, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: x\r\nX-Request-Id: order-%d\r\n%s\r\n", []string{"/health", "/ready", "/nowhere"}[i%3], i, []string{"", "Connection: close\r\n"}[i/99]))
		}
		for line := range strings.Lines(ts.exchange(strings.Join(requests, ""))) {
			if id, ok := strings.CutPrefix(line, "X-Request-Id: "); ok {
				got = append(got, strings.TrimSpace(id))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %v", got)
		}
	})
}

// exchange sends bytes on a connection of their own and returns all that comes back.
func (ts *testServer) exchange(request string) string {
	ts.t.Helper()
	conn, err := net.Dial("tcp", ts.http.Listener.Addr().String())
	if err != nil {
		ts.t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(conn, request) // the server may hang up before the end
	answer, _ := io.ReadAll(conn)
	return string(answer)
}

// attackByClaims says of itself what only a proxy may say.
func attackByClaims(t *testing.T, a *attacks) {
	ts := newTestServer(t, "AUTH_RATE_LIMIT=5/24h", "TRUSTED_PROXIES=127.0.0.1,10.0.0.0/8")
	ts.unrecorded = true
	attempt := func(headers ...string) int {
		c := ts.anonymous()
		for i := 0; i < len(headers); i += 2 {
			c.with(headers[i], headers[i+1])
		}
		return c.post(loginPath, "{}").status
	}
	for i := range 5 {
		if got := attempt("X-Forwarded-For", "192.0.2.1"); got != 422 {
			t.Errorf("attempt %d of five got %d", i, got)
		}
	}
	for name, headers := range map[string][]string{ // all from 192.0.2.1
		"nothing":                        {"X-Forwarded-For", "192.0.2.1"},
		"an address before":              {"X-Forwarded-For", "6.6.6.6, 192.0.2.1"},
		"a trusted address before":       {"X-Forwarded-For", "10.0.0.1, 192.0.2.1"},
		"a header before":                {"X-Forwarded-For", "6.6.6.6", "X-Forwarded-For", "192.0.2.1"},
		"our own proxies after":          {"X-Forwarded-For", "6.6.6.6, 192.0.2.1, 10.0.0.1"},
		"this machine before":            {"X-Forwarded-For", "127.0.0.1, 192.0.2.1"},
		"the other writing":              {"X-Forwarded-For", "::ffff:192.0.2.1"},
		"hexadecimal":                    {"X-Forwarded-For", "::ffff:c000:201"},
		"Forwarded":                      {"X-Forwarded-For", "192.0.2.1", "Forwarded", "for=6.6.6.6"},
		"X-Real-IP":                      {"X-Forwarded-For", "192.0.2.1", "X-Real-IP", "6.6.6.6"},
		"True-Client-IP":                 {"X-Forwarded-For", "192.0.2.1", "True-Client-IP", "6.6.6.6"},
		"the header in another spelling": {"X-Forwarded-For", "192.0.2.1", "X_Forwarded_For", "6.6.6.6"},
		"a thousand addresses before":    {"X-Forwarded-For", strings.Repeat("6.6.6.6,", 1000) + "192.0.2.1"},
		"what is no address, before":     {"X-Forwarded-For", "'; DROP TABLE users; --, 192.0.2.1"},
		"empty entries before":           {"X-Forwarded-For", ",,,192.0.2.1"},
		"a token that is none":           {"X-Forwarded-For", "192.0.2.1", "Authorization", "Bearer x"},
	} {
		a.run(ts, "claims by "+name, func(t *testing.T) {
			if got := attempt(headers...); got != 429 {
				t.Errorf("got %d, want 429: the limit of an address is got around", got)
			}
		})
	}
	if got := attempt("X-Forwarded-For", "192.0.2.2"); got != 422 {
		t.Errorf("another address got %d", got)
	}
	untrusting := newTestServer(t, "AUTH_RATE_LIMIT=5/24h")
	a.run(untrusting, "claims where no proxy is trusted", func(t *testing.T) {
		last := 0
		for i := range 6 {
			last = untrusting.anonymous().with("X-Forwarded-For", fmt.Sprintf("192.0.2.%d", i)).with("X-Real-IP", fmt.Sprintf("192.0.2.%d", i)).post(loginPath, "{}").status
		}
		if last != 429 {
			t.Errorf("the sixth of five got %d", last)
		}
	})
}
