package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"
)

// maxMatches is how many of the newest matches a search without sort ranks, and lists.
const maxMatches = 200

// A search finds the tasks t that have all words of a text in title and description, the last word also
// as a beginning, and those whose title has the text anywhere.
type search struct {
	words string // a tsquery
	part  string // the condition on the title
}

func newSearch(text string, f *filter) *search {
	return &search{"to_tsquery('simple', " + f.arg(prefixQuery(text)) + ")", "t.title ILIKE " + f.arg(likePattern(text))}
}

func (s search) condition() string { return "(t.search @@ " + s.words + " OR " + s.part + ")" }

// planSearchSQL, in a batch before a search, has the server plan the rest for just its words: a plan for any
// words reads all tasks for the rare, or sorts half of them for the frequent. The costs are those of
// data in memory, and of an index of words, which has to collect all matches before it gives the
// first; with the default ones some searches took twice the time.
const planSearchSQL = `SELECT set_config('plan_cache_mode', 'force_custom_plan', true),
	set_config('random_page_cost', '1.1', true), set_config('cpu_index_tuple_cost', '0.05', true)`

// planAsUsualSQL ends that for the rest of the transaction.
const planAsUsualSQL = `SELECT set_config('plan_cache_mode', 'auto', true)`

// searchPatience is how long a search waits for its turn.
const searchPatience = 3 * time.Second

// searchTurn waits until few enough other searches of this process are under way. They keep a processor
// busy, so more at once would only wait for each other, and have the rest wait.
func searchTurn(ctx context.Context, db *database) (end func(), err error) {
	waiting, cancel := context.WithTimeout(ctx, searchPatience)
	defer cancel()
	if end, err = db.searches.take(waiting, uuid{}); err != nil && ctx.Err() == nil {
		err = newProblem("unavailable", "Too many searches at once.")
	}
	return end, err
}

// match is a task that a search found.
type match struct {
	ID   uuid
	Rank float64 // six digits after the point
}

// matches are the best first.
type matches []match

// newest finds the newest matches among tasks, the best first: those of the words, then, if these are few,
// those of a part of the title. What is in the batch already is for read.
//
// The server knows how frequent words are, and so whether going through the newest tasks finds enough of
// them soon. Of parts it knows little: their order is one that no index has, which leaves it the index of parts.
func (s search) newest(ctx context.Context, db *database, tasks filter, newest string, b *pgx.Batch, read ...func(pgx.Rows) error) (found matches, err error) {
	find := func(b *pgx.Batch, condition, order string) {
		within := filter{append(slices.Clone(tasks.conditions), condition), tasks.args}
		b.Queue(planSearchSQL)
		b.Queue(fmt.Sprintf("SELECT t.id, round((ts_rank(t.search, %s) + (%s)::int)::numeric, 6)::float8 AS rank FROM tasks t%s ORDER BY %s LIMIT %d",
			s.words, s.part, within.clause(), order, maxMatches), tasks.args...)
	}
	var whole, parts []match
	b = unsent(b) // which may be sent again as it was
	find(b, "t.search @@ "+s.words, newest)
	if err := db.sendEach(ctx, b, append(read, ignored, all(&whole))...); err != nil {
		return nil, err
	}
	if len(whole) < maxMatches {
		b := &pgx.Batch{}
		find(b, s.part+" AND NOT t.search @@ "+s.words, "t.id::text DESC")
		if err := db.sendEach(ctx, b, ignored, all(&parts)); err != nil {
			return nil, err
		}
	}
	found = slices.Concat(whole, parts)
	slices.SortFunc(found, func(a, b match) int {
		return cmp.Or(cmp.Compare(b.Rank, a.Rank), bytes.Compare(b.ID[:], a.ID[:]))
	})
	return found[:min(len(found), maxMatches)], nil
}

// page is a page of matches, and one more, as matchesSQL takes it.
func (m matches) page(p page) []any {
	if p.after != nil {
		rank, _ := strconv.ParseFloat(p.after.Key, 64) // we have written it
		m = slices.DeleteFunc(m, func(m match) bool {
			return m.Rank > rank || m.Rank == rank && m.ID.String() >= p.after.ID
		})
	}
	var ids []uuid
	var ranks []string
	for _, m := range m[:min(len(m), p.limit+1)] {
		ids, ranks = append(ids, m.ID), append(ranks, strconv.FormatFloat(m.Rank, 'f', -1, 64))
	}
	return []any{ids, ranks}
}

const matchesSQL = `SELECT ` + taskColumns + `, m.rank AS sort_key
	FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY m (id, rank, place) JOIN tasks t ON t.id = m.id JOIN projects p ON p.id = t.project_id
	ORDER BY m.place`

// prefixQuery is a text as the argument of to_tsquery: all its words, the last as a prefix.
// Letters and digits only, so nothing in it is an operator.
func prefixQuery(text string) string {
	words := strings.FieldsFunc(text, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r) })
	if len(words) == 0 {
		return ""
	}
	return strings.Join(words, " & ") + ":*"
}
