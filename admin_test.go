package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

// operator runs a command as main does and returns what it printed and its error.
func operator(t *testing.T, env map[string]string, stdin string, args ...string) (string, error) {
	t.Helper()
	var stdout, stderr strings.Builder
	err := run(t.Context(), args, func(name string) string { return env[name] }, strings.NewReader(stdin), &stdout, &stderr)
	return stdout.String() + stderr.String(), err
}

func TestOperatorsCommands(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t, "REGISTRATION=off")
	env := map[string]string{"DATABASE_URL": string(ts.config.databaseURL), "BCRYPT_COST": "10"}
	admin := func(stdin string, args ...string) (string, error) {
		return operator(t, env, stdin, append([]string{"admin"}, args...)...)
	}
	must := func(stdin string, args ...string) string {
		t.Helper()
		out, err := admin(stdin, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	signIn := func(email, password string, status int) *client {
		a := ts.anonymous().post(loginPath, jsonOf(credentials{email, password})).want(status)
		return &client{s: ts, email: email, token: a.str("accessToken")}
	}

	ts.run("make accounts, also where registration is closed", func(t *testing.T) {
		wantText(t, must(testPassword+"\r\n", "create-user", "-email", "Ada@example.org", "-first-name", "Ada", "-last-name", "Lovelace", "-role", "admin"), "account made: Ada@example.org")
		signIn("ada@example.org", testPassword, 200).get("/api/v1/me").want(200).is("role", "admin").is("firstName", "Ada")
		must(testPassword, "create-user", "-email", "bob@example.org") // the last line need not end
		signIn("bob@example.org", testPassword, 200).get("/api/v1/me").want(200).is("role", "member")
	})
	ts.run("make a password and show it when none is given", func(t *testing.T) {
		_, password, _ := strings.Cut(must("\n", "create-user", "-email", "eve@example.org"), "password: ")
		password, _, _ = strings.Cut(password, "\n")
		if len(password) != 20 {
			t.Errorf("got %q", password)
		}
		signIn("eve@example.org", password, 200)
	})
	ts.run("refuse what the API refuses", func(t *testing.T) {
		before := ts.state()
		for _, test := range []struct {
			stdin string
			args  []string
			words string
		}{
			{testPassword, []string{"create-user", "-email", "ada@example.org"}, "Email already registered"},
			{testPassword, []string{"create-user"}, "email must not be empty"},
			{testPassword, []string{"create-user", "-email", "x"}, "email must be an address"},
			{"short", []string{"create-user", "-email", "x@example.org"}, "password must have at least 8"},
			{testPassword, []string{"create-user", "-email", "x@example.org", "-role", "owner"}, "role must be one of"},
			{"qwertyuiop", []string{"create-user", "-email", "x@example.org"}, "password must not be a common word"},
			{"Ada.Lovelace1815", []string{"reset-password", "-email", "ada@example.org"}, "password must not be a common word"},
			{"", []string{"disable-totp", "-email", "nobody@example.org"}, "no account"},
			{"", []string{"set-role", "-email", "ada@example.org", "-role", "member"}, "Last admin"},
			{"", []string{"set-role", "-email", "ada@example.org", "-role", "king"}, "role must be one of"},
			{"", []string{"set-role", "-email", "nobody@example.org", "-role", "member"}, `no account has the address "nobody@example.org"`},
			{"short", []string{"reset-password", "-email", "ada@example.org"}, "password must have at least 8"},
			{testPassword, []string{"reset-password", "-email", "nobody@example.org"}, "no account"},
			{"", []string{"reset-password", "ada@example.org"}, "takes only flags"},
			{"", []string{"delete-user"}, "needs one of these actions"},
			{"", nil, "needs one of these actions"},
		} {
			out, err := admin(test.stdin, test.args...)
			wantWords(t, err, test.words)
			if strings.Contains(out+err.Error(), testPassword) {
				t.Errorf("%v shows the password", test.args)
			}
		}
		ts.unchanged(before, "a refused command")
	})
	ts.run("say that it may take a while where no worker runs", func(t *testing.T) {
		wantText(t, must("", "set-role", "-email", "bob@example.org", "-role", "member"), "No worker is running")
	})
	ts.run("set roles and passwords, and end the sessions", func(t *testing.T) {
		defer ts.startWorking()()
		bob := signIn("bob@example.org", testPassword, 200)
		bob.get("/api/v1/me").want(200).is("role", "member")
		out := must("", "set-role", "-email", "BOB@example.org", "-role", "manager")
		if out != "BOB@example.org is now manager\n" {
			t.Errorf("got %q", out)
		}
		bob.get("/api/v1/me").want(200).is("role", "manager")
		must("another password\n", "reset-password", "-email", "bob@example.org")
		bob.get("/api/v1/me").problem(401, "unauthenticated")
		signIn("bob@example.org", testPassword, 401)
		signIn("bob@example.org", "another password", 200)
	})
	ts.run("turn off the second factor of who has lost it", func(t *testing.T) {
		must(testPassword, "create-user", "-email", "zoe@example.org")
		zoe := signIn("zoe@example.org", testPassword, 200)
		zoe.confirmTOTP(newAuthenticator(zoe).code(0)).want(200)
		zoe.signInWith("").problem(401, "totp_required")
		wantText(t, must("", "disable-totp", "-email", zoe.email), "zoe@example.org signs in without a second factor")
		zoe.signIn()
		must("", "disable-totp", "-email", zoe.email)
	})
	ts.run("explain themselves", func(t *testing.T) {
		for _, args := range [][]string{{"admin", "-h"}, {"admin", "help"}, {"help"}} {
			if out, err := operator(t, nil, "", args...); err != nil || !strings.Contains(out, "usage: taskflow") {
				t.Errorf("%v: got %v and %s", args, err, out)
			}
		}
		_, err := operator(t, nil, "", "frobnicate")
		wantWords(t, err, `unknown command "frobnicate"`, "taskflow help")
		_, err = operator(t, nil, testPassword, "admin", "create-user", "-email", "x@example.org")
		wantWords(t, err, "DATABASE_URL must be set")
		if out, err := operator(t, nil, "", "version"); err != nil || out != version+"\n" {
			t.Errorf("got %q, %v", out, err)
		}
	})
	ts.run("say when there is no database", func(t *testing.T) {
		nowhere := map[string]string{"DATABASE_URL": "host=" + t.TempDir() + " dbname=x password=hunter2", "BCRYPT_COST": "10"}
		_, err := operator(t, nowhere, testPassword, "admin", "set-role", "-email", "ada@example.org", "-role", "member")
		wantWords(t, err, "acquire database connection")
		if _, err := operator(t, nowhere, "", "migrate"); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("got %v", err)
		}
	})
}

// wantText fails the test unless a text has these words, whatever their case.
func wantText(t *testing.T, text, words string) {
	t.Helper()
	if !strings.Contains(strings.ToLower(text), strings.ToLower(words)) {
		t.Errorf("got %q, want %q in it", text, words)
	}
}

func TestHealthcheck(t *testing.T) {
	t.Parallel()
	status := http.StatusOK
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/health" {
			status = http.StatusNotFound
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(web.Close)
	_, port, err := net.SplitHostPort(web.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	check := func(env map[string]string, args ...string) error {
		_, err := operator(t, env, "", append([]string{"healthcheck"}, args...)...)
		return err
	}
	for _, address := range []string{"127.0.0.1:" + port, ":" + port, "0.0.0.0:" + port, "[::]:" + port} {
		if err := check(map[string]string{"LISTEN_ADDR": address, "DATABASE_URL": "nonsense", "JWT_SECRET": "short"}); err != nil {
			t.Errorf("%s: got %v", address, err)
		}
	}
	if err := check(nil, "-listen=localhost:"+port); err != nil {
		t.Error(err)
	}
	status = http.StatusServiceUnavailable
	wantWords(t, check(map[string]string{"LISTEN_ADDR": ":" + port}), "503")
	web.Close()
	wantWords(t, check(map[string]string{"LISTEN_ADDR": ":" + port}), "health check", "refused")
	wantWords(t, check(map[string]string{"LISTEN_ADDR_FILE": filepath.Join(t.TempDir(), "none")}), "LISTEN_ADDR_FILE must name a file")
	wantWords(t, check(map[string]string{"LISTEN_ADDR": "x"}), "LISTEN_ADDR must be")
	wantWords(t, check(nil, "now"), "healthcheck takes only flags")
}
