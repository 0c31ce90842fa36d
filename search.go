package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
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

// found is a WITH of the newest tasks among those of a filter that the search finds, with their ranks: those
// of the words, then, if these are few, those of a part of the title.
//
// The server knows how frequent words are, and so whether going through the newest tasks finds enough of
// them soon. Of parts it knows little: their order is one that no index has, which leaves it the index of parts.
func (s search) found(tasks filter, newest string) string {
	find := func(order string, conditions ...string) string {
		within := filter{conditions: append(slices.Clone(tasks.conditions), conditions...)}
		return fmt.Sprintf("SELECT t.id, round((ts_rank(t.search, %s) + (%s)::int)::numeric, 6) AS rank FROM tasks t%s ORDER BY %s LIMIT %d",
			s.words, s.part, within.clause(), order, maxMatches)
	}
	return fmt.Sprintf("WITH whole AS MATERIALIZED (%s), parts AS (%s), found AS (SELECT * FROM whole UNION ALL SELECT * FROM parts ORDER BY %s LIMIT %d)",
		find(newest, "t.search @@ "+s.words),
		find("t.id::text DESC", s.part, "NOT t.search @@ "+s.words, fmt.Sprintf("(SELECT count(*) FROM whole) < %d", maxMatches)),
		bestFirst.clause("id"), maxMatches)
}

// bestFirst is the order of what was found.
var bestFirst = sorting{order{"rank", "numeric", false}, true}

// prefixQuery is a text as the argument of to_tsquery: all its words, the last as a prefix.
// Letters and digits only, so nothing in it is an operator.
func prefixQuery(text string) string {
	words := strings.FieldsFunc(text, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r) })
	if len(words) == 0 {
		return ""
	}
	return strings.Join(words, " & ") + ":*"
}
