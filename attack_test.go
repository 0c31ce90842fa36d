package main

import (
	"flag"
	"strings"
	"testing"
)

// The attack suite is the files attack_*_test.go, a test for each kind of attack, from outside and
// against real servers: go test -run Attack -v . tells how many were tried.

// attacks counts the attacks of one such test, as they run: one that is not reached defends nothing.
type attacks struct{ tried int }

// countAttacks has a test fail that tried fewer attacks than it should. It comes before the servers of
// the test, so that its verdict comes after theirs.
func countAttacks(t *testing.T, least int) *attacks {
	a := &attacks{}
	t.Cleanup(func() {
		some := strings.Contains(flag.Lookup("test.run").Value.String(), "/")
		if a.tried < least && !some {
			t.Errorf("%d attacks were tried, want at least %d", a.tried, least)
		} else if !t.Failed() {
			t.Logf("%s: %d attacks, none got through", strings.TrimPrefix(t.Name(), "TestAttack"), a.tried)
		}
	})
	return a
}

// run tries one attack.
func (a *attacks) run(ts *testServer, name string, attack func(t *testing.T)) {
	ts.t.(*testing.T).Helper()
	ts.run(name, func(t *testing.T) {
		a.tried++
		attack(t)
	})
}
