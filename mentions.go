package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxMentions  = 100 // in one text
	mentionGrows = 37  // characters from @a, as it was written, to @[id], as it is kept
)

// In a text @ada, @ada.lovelace, @"Ada Lovelace" and @[id] mention somebody. All of them are kept as
// @[id], so that a mention outlives the name and comes back as it is in a PATCH.
var mentionForm = regexp.MustCompile(`^@(?:\[[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\]|"[^"\x60\n]{1,101}"|[\p{L}\p{M}\p{N}_][\p{L}\p{M}\p{N}._+-]*)`)

// mentionAt is what may be a mention at the beginning of a text, "" for none. The end of a sentence is
// not part of a name, and what another @ follows is an address.
func mentionAt(text string) string {
	form := mentionForm.FindString(text)
	if form == "" || form[1] == '[' || form[1] == '"' {
		return form
	}
	if strings.HasPrefix(text[len(form):], "@") {
		return ""
	}
	if form = strings.TrimRight(form, "._+-"); form == "@" {
		return ""
	}
	return form
}

// mayBegin tells whether a mention may begin after a text: not within an address such as
// ada@example.org or https://example.org/@ada. Scripts without capitals may have no space between words.
func mayBegin(before string) bool {
	r, _ := utf8.DecodeLastRuneInString(before)
	return before == "" || !unicode.IsLower(r) && !unicode.IsUpper(r) && !unicode.IsDigit(r) && !strings.ContainsRune("._%+-/@", r)
}

// afterCode is the end of the code that begins with the backticks at i: where as many stand again, in
// the same line if they are one or two. Backticks that nothing closes are text.
func afterCode(text string, i int) int {
	ticks := func(at int) int { return len(text) - at - len(strings.TrimLeft(text[at:], "`")) }
	n := ticks(i)
	begin := i + n
	code := text[begin:]
	if n < 3 {
		code, _, _ = strings.Cut(code, "\n")
	}
	for at := 0; ; {
		next := strings.Index(code[at:], text[i:begin])
		if next < 0 {
			return begin
		}
		at += next
		m := ticks(begin + at)
		if at += m; m == n {
			return begin + at
		}
	}
}

// mentionParts are a text taken apart: those at odd places may be mentions, the others are none.
type mentionParts []string

func splitMentions(text string) mentionParts {
	var parts mentionParts
	done := 0
	for i := 0; i < len(text); {
		switch text[i] {
		case '`':
			i = afterCode(text, i)
			continue
		case '@':
			form := ""
			if mayBegin(text[:i]) {
				form = mentionAt(text[i:])
			}
			if form != "" {
				parts = append(parts, text[done:i], form)
				i += len(form)
				done = i
				continue
			}
		}
		i++
	}
	return append(parts, text[done:])
}

// each calls a function with every part that may be a mention.
func (parts mentionParts) each(do func(part *string)) {
	for i := 1; i < len(parts); i += 2 {
		do(&parts[i])
	}
}

func isMention(part string) bool { return strings.HasPrefix(part, "@[") }

// mentioning checks a long text in which members may be mentioned. A mention counts as two characters
// as @[id], for nobody writes it shorter: so a text that was accepted is accepted when it comes back.
func (f *fields) mentioning(field, text string, most int) {
	if utf8.RuneCountInString(text) > most+maxMentions*mentionGrows { // before any work
		f.wrong(field, "too_long", fmt.Sprintf("must have at most %d characters", most))
		return
	}
	parts, n := splitMentions(text), 0
	parts.each(func(part *string) {
		if isMention(*part) {
			*part = "@i"
			n++
		}
	})
	if n > maxMentions {
		f.tooManyMentions(field)
		return
	}
	f.text(field, strings.Join(parts, ""), 1, most, true)
}

func (f *fields) tooManyMentions(field string) {
	f.wrong(field, "too_many", fmt.Sprintf("must have at most %d mentions", maxMentions))
}

// namedMembersSQL finds the active members of a task's project whom names $4 mean, whatever their case.
const namedMembersSQL = `
	SELECT n.name, array_agg(DISTINCT u.id) AS ids
	FROM tasks t JOIN projects p ON p.id = t.project_id
	JOIN members m ON m.project_id = p.id JOIN users u ON u.id = m.user_id AND u.is_active
	CROSS JOIN LATERAL (VALUES (u.first_name), (replace(u.first_name || '.' || u.last_name, ' ', '.')), (split_part(u.email, '@', 1)),
		('"' || u.first_name || '"'), ('"' || u.first_name || ' ' || u.last_name || '"')) w(way)
	JOIN unnest($4::text[]) n(name) ON lower(n.name) = lower(w.way)
	WHERE t.id = $3 AND ` + visibleSQL + ` GROUP BY n.name`

// withMentions is the body of a comment on a task as it is kept, and whom it mentions. A name that no member has is
// only text; one that several have is refused, for whoever wrote it means one of them to be told.
// Whether the mentioned are members when it is kept is for checkMentionsSQL to judge.
func (s *server) withMentions(ctx context.Context, text string, task uuid) (string, []uuid, error) {
	parts := splitMentions(text)
	var names []string
	parts.each(func(part *string) {
		if !isMention(*part) {
			names = append(names, (*part)[1:])
		}
	})
	members := map[string][]uuid{}
	if names != nil {
		slices.Sort(names)
		me := callerOf(ctx)
		named, err := queryAll[struct {
			Name string
			IDs  []uuid
		}](ctx, s.db, namedMembersSQL, me.ID, me.seesAll(), task, slices.Compact(names))
		if err != nil {
			return "", nil, err
		}
		for _, n := range named {
			members[n.Name] = n.IDs
		}
	}
	var f fields
	n, mentioned := 0, []uuid{}
	parts.each(func(part *string) {
		switch found := members[(*part)[1:]]; {
		case len(found) == 1:
			*part = "@[" + found[0].String() + "]"
		case len(found) > 1:
			f.wrong("body", "ambiguous_mention", *part+` is the name of more than one member; write @first.last, @"First Last", or @[id]`)
		}
		if isMention(*part) {
			id, _ := parseUUID(strings.Trim(*part, "@[]")) // mentionForm has it
			n++
			if !slices.Contains(mentioned, id) {
				mentioned = append(mentioned, id)
			}
		}
	})
	if n > maxMentions {
		f.tooManyMentions("body")
	}
	if f.errs != nil {
		return "", nil, invalid(f.errs...)
	}
	return strings.Join(parts, ""), mentioned, nil
}
