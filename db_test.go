package main

import (
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestABatchMayBeSentAgainOnAnotherConnection(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	alice := s.signUp("Alice")
	b := &pgx.Batch{}
	b.Queue(`SELECT refuse('not_found') WHERE $1::text = 'x'`, "y")
	b.Queue(userByEmailSQL, alice.email)
	for range 3 { // each holds the connection that the one before prepared its statements on
		if _, err := sendOne[struct{ ID uuid }](t.Context(), s.db, b); err != nil {
			t.Fatal(err)
		}
		held, err := s.db.pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer held.Release()
	}
}
