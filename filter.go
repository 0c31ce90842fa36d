package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// order is one way to sort a list: the SQL of its key and the key's type, which the cursor's text
// is cast back to. The id breaks ties, unless the key is unique in the list.
type order struct {
	expr, typ string
	unique    bool
}

// sorting is an order and its direction.
type sorting struct {
	order
	desc bool
}

// clause is the sorting as ORDER BY takes it.
func (by sorting) clause(id string) string {
	direction := ""
	if by.desc {
		direction = " DESC"
	}
	if by.unique {
		return by.expr + direction
	}
	return by.expr + direction + ", " + id + direction
}

// sort reads the sort parameter: the name of an order, with - for descending.
func (q *query) sort(orders map[string]order, otherwise string) sorting {
	text := q.text("sort")
	if text == "" {
		text = otherwise
	}
	name, desc := strings.CutPrefix(text, "-")
	o, ok := orders[name]
	if !ok {
		q.wrong("sort", "not_allowed", "must be one of "+strings.Join(sortedKeys(orders), ", ")+", with - in front for descending")
	}
	return sorting{o, desc}
}

func sortedKeys[T any](m map[string]T) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// filter collects the conditions of a list and their arguments.
type filter struct {
	conditions []string
	args       []any
}

// arg adds an argument and returns its placeholder.
func (f *filter) arg(value any) string {
	f.args = append(f.args, value)
	return "$" + strconv.Itoa(len(f.args))
}

// where adds a condition with ? for each argument. The text is always ours, never a client's.
func (f *filter) where(condition string, args ...any) {
	for _, value := range args {
		condition = strings.Replace(condition, "?", f.arg(value), 1)
	}
	f.conditions = append(f.conditions, condition)
}

func (f *filter) clause() string {
	if len(f.conditions) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(f.conditions, " AND ")
}

// count is the statement that counts all rows of the list.
func (f *filter) count(from string) (string, []any) {
	return "SELECT count(*) FROM " + from + f.clause(), f.args
}

// page is the statement of one page: rows after the cursor in the given order, one more than the
// limit. It adds its condition to the filter, so it comes last.
func (f *filter) page(columns, from, id string, by sorting, p page) (string, []any) {
	less := ">"
	if by.desc {
		less = "<"
	}
	if p.after != nil {
		if by.unique {
			f.where(by.expr+" "+less+" ?::text::"+by.typ, p.after.Key)
		} else {
			f.where("("+by.expr+", "+id+") "+less+" (?::text::"+by.typ+", ?::text::uuid)", p.after.Key, p.after.ID)
		}
	}
	return fmt.Sprintf("SELECT %s, (%s)::text AS sort_key FROM %s%s ORDER BY %s LIMIT %d",
		columns, by.expr, from, f.clause(), by.clause(id), p.limit+1), f.args
}

// idOrWord is a parameter that is an id or one of a few words.
type idOrWord struct {
	id   uuid
	word string
}

// or is the id, or what the word stands for.
func (v *idOrWord) or(id uuid) uuid {
	if v.word != "" {
		return id
	}
	return v.id
}

func (q *query) uuidOr(name string, words ...string) *idOrWord {
	text := q.text(name)
	if text == "" {
		return nil
	}
	if slices.Contains(words, text) {
		return &idOrWord{word: text}
	}
	id, err := parseUUID(text)
	if err != nil {
		q.wrong(name, "invalid_uuid", err.Error()+" or "+strings.Join(words, " or "))
	}
	return &idOrWord{id: id}
}

// likePattern matches a text anywhere, with LIKE's own characters taken literally; "" stays "".
func likePattern(text string) string {
	if text == "" {
		return ""
	}
	return "%" + strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(text) + "%"
}
