package main

import (
	"encoding/json"
	"math/rand/v2"
	"testing"

	"github.com/jackc/pgx/v5"
)

// TestRowsBecomeTheSameJSON compares rows that became JSON on their way with encoding/json.
func TestRowsBecomeTheSameJSON(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	type row struct {
		AText      *string    `json:"aText"`
		AnID       *uuid      `json:"anId" db:"an_id"`
		Flag       *bool      `json:"flag"`
		SmallCount *int32     `json:"smallCount"`
		Count      *int64     `json:"count"`
		Hours      *float64   `json:"hours"`
		At         *timestamp `json:"at"`
		Words      []string   `json:"words"`
		IDs        []uuid     `json:"ids" db:"ids"`
		Status     *string    `json:"status"`
	}
	const sql = `
	SELECT $1::text AS a_text, $2::uuid AS an_id, $3::bool AS flag, $4::int AS small_count, $5::bigint AS count, $6::float8 AS hours,
		$7::timestamptz AS at, $8::text[] AS words, $9::uuid[] AS ids, $10::text::task_status AS status`
	alphabet := []rune("ab \"\\/<>&'\n\r\t\b\f\x01\x1f\x7f\u0080\u2028\u2029äß漢🎉\ufffd")
	text := func() string {
		var out []rune
		for range rand.N(20) {
			out = append(out, alphabet[rand.N(len(alphabet))])
		}
		return string(out)
	}
	check := func(args ...any) {
		t.Helper()
		var got []byte
		err := ts.db.query(t.Context(), func(rows pgx.Rows) (err error) {
			defer rows.Close()
			rows.Next()
			got, err = newRowEncoder(rows, 0, 10).append(nil, rows.RawValues())
			return err
		}, sql, args...)
		if err != nil {
			t.Fatal(err)
		}
		value, err := queryOne[row](t.Context(), ts.db, sql, args...)
		if err != nil {
			t.Fatal(err)
		}
		want, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%q: got\n%s\nwant\n%s", args, got, want)
		}
	}
	id := newUUID()
	check(nil, nil, nil, nil, nil, nil, nil, nil, nil, nil)
	check("", uuid{}, false, 0, 0, 0.0, timestamp{id.time()}, []string{}, []uuid{}, "todo")
	for range 300 {
		words := []string{}
		for range rand.N(4) {
			words = append(words, text())
		}
		check(text(), newUUID(), rand.N(2) == 0, rand.Int32()-1<<30, rand.Int64()-1<<62, float64(rand.N(100_000))/100,
			timestamp{id.time().Add(-1 * (1 << 50))}, words, []uuid{newUUID(), newUUID()}[:rand.N(3)], "in_progress")
	}
	if _, err := queryOne[row](t.Context(), ts.db, sql, nil, nil, nil, nil, nil, nil, nil, nil, nil, "no status"); err == nil {
		t.Error("got no error for what the database refuses")
	}
	err := ts.db.query(t.Context(), func(rows pgx.Rows) (err error) {
		defer rows.Close()
		rows.Next()
		_, err = newRowEncoder(rows, 0, 1).append(nil, rows.RawValues())
		return err
	}, `SELECT interval '1 day' AS unknown`)
	if err == nil {
		t.Error("got no error for a type that has no JSON here")
	}
}
