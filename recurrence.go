package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	maxRRule    = 500 // characters
	maxInterval = 999
	maxCount    = 9999
)

// rrule is a recurrence rule of RFC 5545 for whole days. A day is a time.Time at midnight UTC; time
// zones have no part in it.
type rrule struct {
	freq      string
	interval  int          // every so many days, weeks, months or years
	months    []int        // BYMONTH; none: any
	monthDays []int        // BYMONTHDAY; negative ones count from the month's end
	weekdays  []nthWeekday // BYDAY
	weekStart time.Weekday // matters to every second week and the like
	count     int          // of occurrences; 0: no end
	until     time.Time    // the last day an occurrence may be on; zero: no end
}

// nthWeekday is a weekday of BYDAY.
type nthWeekday struct {
	n   int // which one of the month or year, from the end if negative; 0: each
	day time.Weekday
}

var (
	frequencies  = []string{"DAILY", "WEEKLY", "MONTHLY", "YEARLY"}
	weekdayCodes = []string{"SU", "MO", "TU", "WE", "TH", "FR", "SA"}
)

// parseRRule reads the text of a rule, such as FREQ=MONTHLY;BYDAY=2TU: the parts FREQ, INTERVAL,
// BYMONTH, BYMONTHDAY, BYDAY, WKST, and COUNT or UNTIL, in any order. Of a date-time in UNTIL only
// the date counts. Its errors say what the text must be, to follow the name of a field.
func parseRRule(text string) (rrule, error) {
	r := rrule{interval: 1, weekStart: time.Monday}
	if len(text) > maxRRule {
		return r, fmt.Errorf("must have at most %d characters", maxRRule)
	}
	if strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return r, errors.New("must have no spaces, line breaks or letters other than A to Z")
	}
	var names []string
	for part := range strings.SplitSeq(strings.ToUpper(text), ";") {
		name, value, ok := strings.Cut(part, "=")
		if !ok {
			return r, fmt.Errorf("must be parts such as FREQ=WEEKLY with ; between them, which %.40q is not", part)
		}
		if slices.Contains(names, name) {
			return r, fmt.Errorf("must have %s only once", name)
		}
		names = append(names, name)
		if err := r.set(name, value); err != nil {
			return r, err
		}
	}
	return r, r.check()
}

// set reads one part.
func (r *rrule) set(name, value string) error {
	ok := true
	want := ""
	switch name {
	case "FREQ":
		r.freq, ok, want = value, slices.Contains(frequencies, value), "DAILY, WEEKLY, MONTHLY or YEARLY"
	case "INTERVAL":
		r.interval, ok = ruleNumber(value, 1, maxInterval)
		want = fmt.Sprintf("a number from 1 to %d", maxInterval)
	case "COUNT":
		r.count, ok = ruleNumber(value, 1, maxCount)
		want = fmt.Sprintf("a number from 1 to %d", maxCount)
	case "UNTIL":
		r.until, ok = ruleDate(value)
		want = "a date such as 20261231, or one with a time in UTC such as 20261231T235959Z"
	case "BYMONTH":
		r.months, ok = ruleList(value, func(item string) (int, bool) { return ruleNumber(item, 1, 12) })
		slices.Sort(r.months)
		want = "different months from 1 to 12 with , between them"
	case "BYMONTHDAY":
		r.monthDays, ok = ruleList(value, func(item string) (int, bool) { return signedNumber(item, 31) })
		slices.Sort(r.monthDays)
		want = "different days from 1 to 31, or from the month's end -1 to -31, with , between them"
	case "BYDAY":
		r.weekdays, ok = ruleList(value, ruleWeekday)
		slices.SortFunc(r.weekdays, func(a, b nthWeekday) int {
			return cmp.Or(cmp.Compare(a.n, b.n), cmp.Compare((a.day+6)%7, (b.day+6)%7)) // Monday first
		})
		want = "different days such as MO, or 2TU and -1FR for the second and the last, with , between them"
	case "WKST":
		ok, want = value == "MO" || value == "SU", "MO or SU"
		if value == "SU" {
			r.weekStart = time.Sunday
		}
	default:
		return fmt.Errorf("must not have %.40q; the parts are FREQ, INTERVAL, BYMONTH, BYMONTHDAY, BYDAY, WKST, COUNT and UNTIL", name)
	}
	if !ok {
		return fmt.Errorf("must have as %s %s, not %.40q", name, want, value)
	}
	return nil
}

// check refuses parts that do not go together.
func (r rrule) check() error {
	most := 0 // the highest ordinal before a weekday
	switch {
	case r.freq == "MONTHLY", r.freq == "YEARLY" && r.months != nil:
		most = 5
	case r.freq == "YEARLY":
		most = 53
	}
	beyond := func(w nthWeekday) bool { return max(w.n, -w.n) > most }
	switch {
	case r.freq == "":
		return errors.New("must have a FREQ: DAILY, WEEKLY, MONTHLY or YEARLY")
	case r.count > 0 && !r.until.IsZero():
		return errors.New("must not have both COUNT and UNTIL; leave one out")
	case r.freq == "WEEKLY" && r.monthDays != nil:
		return errors.New("must not have BYMONTHDAY with FREQ=WEEKLY; write FREQ=MONTHLY")
	case most == 0 && slices.ContainsFunc(r.weekdays, beyond):
		return errors.New("must have weekdays without numbers in BYDAY, or FREQ=MONTHLY or FREQ=YEARLY")
	case slices.ContainsFunc(r.weekdays, beyond):
		return fmt.Errorf("must have in BYDAY numbers from 1 to %d and from -1 to -%d", most, most)
	}
	return nil
}

// ruleList reads a list in which nothing stands twice.
func ruleList[T comparable](value string, read func(string) (T, bool)) ([]T, bool) {
	var list []T
	for item := range strings.SplitSeq(value, ",") {
		v, ok := read(item)
		if !ok || slices.Contains(list, v) {
			return nil, false
		}
		list = append(list, v)
	}
	return list, true
}

func ruleNumber(text string, low, high int) (int, bool) {
	n, err := strconv.ParseUint(text, 10, 16) // no sign
	return int(n), err == nil && low <= int(n) && int(n) <= high
}

func signedNumber(text string, high int) (int, bool) {
	digits, negative := strings.CutPrefix(text, "-")
	if !negative {
		digits = strings.TrimPrefix(text, "+")
	}
	n, ok := ruleNumber(digits, 1, high)
	if negative {
		n = -n
	}
	return n, ok
}

func ruleDate(text string) (time.Time, bool) {
	day, _, timed := strings.Cut(text, "T")
	d, err := time.Parse("20060102", day)
	if err == nil && timed {
		_, err = time.Parse("20060102T150405Z", text)
	}
	return d, err == nil && d.Year() >= 1000
}

func ruleWeekday(text string) (nthWeekday, bool) {
	at := max(0, len(text)-2)
	w := nthWeekday{day: time.Weekday(slices.Index(weekdayCodes, text[at:]))}
	ok := w.day >= 0
	if at > 0 && ok {
		w.n, ok = signedNumber(text[:at], 53)
	}
	return w, ok
}

// String is the rule in one way of writing of many.
func (r rrule) String() string {
	text := "FREQ=" + r.freq
	add := func(name string, given bool, value any) {
		if given {
			text += fmt.Sprintf(";%s=%v", name, value)
		}
	}
	add("INTERVAL", r.interval > 1, r.interval)
	add("BYMONTH", r.months != nil, commas(r.months))
	add("BYMONTHDAY", r.monthDays != nil, commas(r.monthDays))
	add("BYDAY", r.weekdays != nil, commas(r.weekdays))
	add("WKST", r.weekStart != time.Monday, weekdayCodes[r.weekStart])
	add("COUNT", r.count > 0, r.count)
	add("UNTIL", !r.until.IsZero(), r.until.Format("20060102"))
	return text
}

func commas[T any](list []T) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(list), " ", ","), "[]")
}

func (w nthWeekday) String() string {
	if w.n == 0 {
		return weekdayCodes[w.day]
	}
	return strconv.Itoa(w.n) + weekdayCodes[w.day]
}

// next is the first occurrence after a day; none is left if it returns false. start is the first
// day of the series (DTSTART) and its first occurrence, also where the rule would not say so.
//
// Every call is given the start of the whole series, not the latest occurrence: from it COUNT is
// counted and every second week told from the others. COUNT counts the rule's days, whether or not
// something was done on each. A month or year without the day asked for is passed over, as the RFC
// has it: monthly on the 31st means seven times a year, and BYMONTHDAY=-1 the last day of each.
func (r rrule) next(start, after time.Time) (time.Time, bool) {
	d := start
	if !after.Before(start) {
		if r.count == 0 {
			d = after // nothing to count
		}
		for n := 2; n == 2 || !d.After(after); n++ {
			var ok bool
			if d, ok = r.match(start, d.AddDate(0, 0, 1)); !ok || r.count > 0 && n > r.count {
				return time.Time{}, false
			}
		}
	}
	return d, r.until.IsZero() || !d.After(r.until)
}

// match is the first day from a day on that fits the rule, COUNT and UNTIL apart. It looks for
// interval times 400 years: after those the calendar, and with it the rule, begins anew.
func (r rrule) match(start, from time.Time) (time.Time, bool) {
	limit := min(from.Year()+400*r.interval, 9999)
	first := r.period(start)
	for d := from; d.Year() <= limit; {
		period := r.period(d)
		if rest := (period - first) % r.interval; rest > 0 {
			d = r.beginning(period + r.interval - rest)
			continue
		}
		if r.fits(start, d) {
			return d, true
		}
		if year, month, _ := d.Date(); r.months != nil && !slices.Contains(r.months, int(month)) {
			d = time.Date(year, month+1, 1, 0, 0, 0, 0, time.UTC)
		} else {
			d = d.Add(24 * time.Hour)
		}
	}
	return time.Time{}, false
}

const daysBefore1970 = 719_162 // since Monday, 1 January of the year 1

// period is the number of the day, week, month or year that a day is in.
func (r rrule) period(d time.Time) int {
	days := int(d.Unix()/86_400) + daysBefore1970
	switch r.freq {
	case "DAILY":
		return days
	case "WEEKLY":
		return (days + r.weekShift()) / 7
	case "MONTHLY":
		return 12*d.Year() + int(d.Month()) - 1
	}
	return d.Year()
}

// beginning is the first day of a period.
func (r rrule) beginning(period int) time.Time {
	switch r.freq {
	case "DAILY":
		return time.Unix(int64(period-daysBefore1970)*86_400, 0).UTC()
	case "WEEKLY":
		return time.Unix(int64(7*period-r.weekShift()-daysBefore1970)*86_400, 0).UTC()
	case "MONTHLY":
		return time.Date(period/12, time.Month(period%12+1), 1, 0, 0, 0, 0, time.UTC)
	}
	return time.Date(period, 1, 1, 0, 0, 0, 0, time.UTC)
}

// weekShift is by how many days weeks begin before Monday.
func (r rrule) weekShift() int { return int(time.Monday - r.weekStart) }

// fits tells whether a day is one that the rule names in its period. What it does not name is as
// on the start.
func (r rrule) fits(start, d time.Time) bool {
	year, month, day := d.Date()
	if r.months != nil && !slices.Contains(r.months, int(month)) {
		return false
	}
	if r.monthDays != nil && !slices.Contains(r.monthDays, day) && !slices.Contains(r.monthDays, day-daysOf(year, month)-1) {
		return false
	}
	if r.weekdays != nil {
		return slices.ContainsFunc(r.weekdays, func(w nthWeekday) bool { return d.Weekday() == w.day && (w.n == 0 || r.isNth(w.n, d)) })
	}
	switch {
	case r.monthDays != nil, r.freq == "DAILY":
		return true
	case r.freq == "WEEKLY":
		return d.Weekday() == start.Weekday()
	}
	return day == start.Day() && (r.freq == "MONTHLY" || r.months != nil || month == start.Month())
}

// isNth tells whether a day is the nth of its weekday: in its year, if the rule is yearly and names
// no months, or else in its month.
func (r rrule) isNth(n int, d time.Time) bool {
	at, length := d.Day(), daysOf(d.Year(), d.Month())
	if r.freq == "YEARLY" && r.months == nil {
		at, length = d.YearDay(), time.Date(d.Year(), 12, 31, 0, 0, 0, 0, time.UTC).YearDay()
	}
	return n == (at+6)/7 || n == -((length-at)/7+1)
}

func daysOf(year int, month time.Month) int {
	return time.Date(year, month+1, 0, 0, 0, 0, 0, time.UTC).Day()
}
