package main

import (
	"bytes"
	"crypto/tls"
	"flag"
	"fmt"
	"net"
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

// throughNginx sends what the tests ask of their servers through an nginx each, with deploy/nginx.conf, by
// https and HTTP/2: make test-proxy. Processes that tests start, and what they say to a listener itself, are
// not reached by it.
var throughNginx = flag.Bool("through-nginx", false, "send the tests' requests through nginx")

// facing are the tests whose servers stay without nginx, and why.
var facing = func() map[string]string {
	tests := map[string]string{}
	for why, names := range map[string]string{
		"they claim to come from elsewhere, by X-Forwarded-For or a plain connection": "TestWhereRequestsComeFrom TestRequestsOfOneCallerAreLimited TestOtherProcessesLearnWhatWasGivenWithoutRedis " +
			"TestAttackSignIn TestPlainHTTPIsRefusedWhereTheServiceIsHTTPS TestAttackBrowser",
		"nginx itself refuses paths that hold NUL or lead out of the root, methods in small letters and TRACE": "TestAttackQueries TestAttackRights TestDashboardPageIsStaticAndLetsNothingElseIn TestTasksAnswerToTheirRef",
		"nginx itself refuses a header that it knows, given twice or too long":                                 "TestOwnAccount TestFuzzedRequests TestAttackJWT",
		"dev mode shows its mails only without a proxy":                                                        "TestAttackJSON",
		"nginx makes new request ids":                                                                          "TestRequestIDs",
		"it is nginx whom Connection is for":                                                                   "TestStoppingServersSendTheirClientsElsewhere",
		"it is nginx whom X-Accel-Buffering is for":                                                            "TestStreamsInHTTP",
		"half an answer that nginx did not begin is 502":                                                       "TestHandlersThatFail",
	} {
		for name := range strings.FieldsSeq(names) {
			tests[name] = why
		}
	}
	return tests
}()

var proxyPort atomic.Int64

// proxies starts them all, so that they end with this process, however that does.
var proxies = sync.OnceValue(newForker)

// isFaced tells whether a test's servers are to have nginx in front.
func isFaced(t testing.TB) bool {
	test, _, _ := strings.Cut(t.Name(), "/")
	return *throughNginx && facing[test] == ""
}

// proxied puts nginx in front of a test's server.
func (ts *testServer) proxied(t testing.TB) {
	t.Helper()
	if !isFaced(t) {
		return
	}
	dir := t.TempDir()
	cert, key := newCertificate(t, "127.0.0.1")
	address := proxyAddress(t)
	conf, err := os.ReadFile("deploy/nginx.conf")
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{ // what deploy/check tests
		{"rate=300r/s", "rate=100000r/s"},              // tests come in floods
		{"^/(metrics|debug|dev)(/|$)", "^/debug(/|$)"}, // and look at what operators see
	} {
		if !bytes.Contains(conf, []byte(change[0])) {
			t.Fatalf("deploy/nginx.conf has no %s", change[0])
		}
		conf = bytes.Replace(conf, []byte(change[0]), []byte(change[1]), 1)
	}
	site := "access_log off;\nupstream taskflow { server " + ts.http.Listener.Addr().String() + "; keepalive 16; keepalive_timeout 2s; }\n"
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		site += fmt.Sprintf("%s_temp_path tmp_%[1]s;\n", kind)
	}
	listen := fmt.Sprintf("listen %s ssl http2;\nssl_certificate %s;\nssl_certificate_key %s;\nset $public https://taskflow.test;\n", address, cert, key)
	for name, content := range map[string]string{"nginx.conf": string(conf), "nginx.site.conf": site, "nginx.listen.conf": listen} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log, err := openChildLog(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	program, err := exec.LookPath("nginx")
	if err != nil {
		program = "/usr/sbin/nginx" // where ordinary users of Debian do not look
	}
	nginx, err := proxies().start("nginx", self(), syscall.SIGTERM, dir, log, program, "-e", "stderr", "-p", dir, "-c", filepath.Join(dir, "nginx.conf"), "-g", "daemon off; master_process off; pid pid;")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := nginx.end(syscall.SIGTERM, os.Kill); err != nil {
			t.Error(err)
		}
	})
	for deadline := time.Now().Add(testPatience); ; time.Sleep(2 * time.Millisecond) {
		conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(nginx.failed(err))
		}
	}
	ts.http.URL = "https://" + address
}

// proxyAddress is an address below those that the system gives out by itself.
func proxyAddress(t testing.TB) string {
	t.Helper()
	for range 10_000 {
		address := fmt.Sprintf("127.0.0.1:%d", 12_000+(int64(os.Getpid())*97+proxyPort.Add(1))%20_000)
		if listener, err := net.Listen("tcp", address); err == nil {
			listener.Close()
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}
