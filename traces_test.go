package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// This file looks at what requests leave behind: in headers, in the log, in the database.

// checkHeaders fails the test unless an answer has what every answer must have.
func checkHeaders(t testing.TB, what string, header http.Header) {
	t.Helper()
	for name, want := range map[string]string{
		"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Content-Security-Policy": "frame-ancestors 'none'",
		"X-Request-Id": "", "Cache-Control": "",
	} {
		if got := header.Get(name); got == "" || !strings.Contains(got, want) {
			t.Errorf("%s: header %s is %q, want %q in it", what, name, got, want)
		}
	}
	if header.Get("Content-Type") == "application/problem+json" && header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s: a problem that may be stored", what)
	}
}

// checkLog fails the test if the log has a panic or a 500, a secret, or a record that is not one line of JSON.
func (ts *testServer) checkLog(t testing.TB) {
	log := ts.log.String()
	if strings.Contains(log, `"msg":"panic"`) || strings.Contains(log, `"status":500`) {
		t.Errorf("the log has a panic or a 500:\n%s", ts.log.grep(`"level":"ERROR"`))
	}
	for line := range strings.Lines(log) {
		var record struct{ Time, Level, Msg string }
		if err := json.Unmarshal([]byte(line), &record); err != nil || record.Time == "" || record.Level == "" || record.Msg == "" {
			t.Errorf("not a log record on one line: %s", line)
		}
		if strings.Contains(line, testPassword) || strings.Contains(line, "Bearer ") {
			t.Errorf("the log has a secret: %s", line)
		}
		for _, word := range tokenLike.FindAllString(line, -1) {
			if _, secret := ts.issued.Load(word); secret {
				t.Errorf("the log has a token: %s", line)
			}
		}
	}
}

var (
	tokenLike  = regexp.MustCompile(`[A-Za-z0-9_-]{19,}`)
	givenToken = regexp.MustCompile(`"(?:accessToken|refreshToken|token|ticket|secret)":"([^"]+)"|"recoveryCodes":(\[[^]]+])`)
)

// noteTokens remembers the tokens in an answer, for checkLog.
func (ts *testServer) noteTokens(body []byte) {
	for _, match := range givenToken.FindAllSubmatch(body, -1) {
		ts.noteSecret(string(match[1]) + string(match[2]))
	}
}

func (ts *testServer) noteSecret(text string) {
	for _, piece := range tokenLike.FindAllString(text, -1) {
		ts.issued.Store(piece, true)
	}
}

// state is a digest of every table: where it is equal, nothing was written. It looks at where each row
// lies and who wrote it, not at what is in it: that is many times cheaper, and a row that was written
// again as it was counts too.
func (ts *testServer) state() string {
	ts.t.Helper()
	tables, err := queryAll[struct{ Name string }](context.Background(), ts.db, `
		SELECT quote_ident(relname) AS name FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1`)
	if err != nil {
		ts.t.Fatal(err)
	}
	var digests []string
	for _, table := range tables {
		digests = append(digests, fmt.Sprintf("(SELECT concat('%s ', count(*), ' ', bit_xor(hash_record_extended(ROW(ctid, xmin), 0))) FROM %s)", table.Name, table.Name))
	}
	state, err := queryValue[string](context.Background(), ts.db, "SELECT concat_ws(E'\n', "+strings.Join(digests, ", ")+")")
	if err != nil {
		ts.t.Fatal(err)
	}
	return state
}

// unchanged fails the test if the database is no longer in this state.
func (ts *testServer) unchanged(state, after string) {
	ts.t.Helper()
	if now := ts.state(); now != state {
		ts.t.Errorf("%.300s changed the database: got\n%s\nwant\n%s", after, now, state)
	}
}
