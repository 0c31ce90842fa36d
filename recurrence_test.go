package main

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func day(t testing.TB, text string) time.Time {
	t.Helper()
	d, err := time.Parse(time.DateOnly, text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func ruleOf(t testing.TB, text string) rrule {
	t.Helper()
	r, err := parseRRule(text)
	if err != nil {
		t.Fatalf("%s %v", text, err)
	}
	return r
}

func TestRRuleOccursOnTheseDays(t *testing.T) {
	for _, row := range []struct {
		rule, start string
		want        string // a month, then its days; "…" where it goes on
	}{
		// The examples of RFC 5545, section 3.8.5.3, as far as they are about days.
		{"FREQ=DAILY;COUNT=10", "1997-09-02", "1997-09 2 3 4 5 6 7 8 9 10 11"},
		{"FREQ=DAILY;INTERVAL=2", "1997-09-02", "1997-09 2 4 6 8 10 12 14 16 18 20 22 24 26 28 30 1997-10 2 4 …"},
		{"FREQ=DAILY;INTERVAL=10;COUNT=5", "1997-09-02", "1997-09 2 12 22 1997-10 2 12"},
		{"FREQ=WEEKLY;COUNT=10", "1997-09-02", "1997-09 2 9 16 23 30 1997-10 7 14 21 28 1997-11 4"},
		{"FREQ=WEEKLY;INTERVAL=2;WKST=SU", "1997-09-02", "1997-09 2 16 30 1997-10 14 28 1997-11 11 25 1997-12 9 23 1998-01 6 20 …"},
		{"FREQ=WEEKLY;COUNT=10;WKST=SU;BYDAY=TU,TH", "1997-09-02", "1997-09 2 4 9 11 16 18 23 25 30 1997-10 2"},
		{"FREQ=WEEKLY;INTERVAL=2;UNTIL=19971223T000000Z;WKST=SU;BYDAY=MO,WE,FR", "1997-09-01",
			"1997-09 1 3 5 15 17 19 29 1997-10 1 3 13 15 17 27 29 31 1997-11 10 12 14 24 26 28 1997-12 8 10 12 22"},
		{"FREQ=WEEKLY;INTERVAL=2;COUNT=8;WKST=SU;BYDAY=TU,TH", "1997-09-02", "1997-09 2 4 16 18 30 1997-10 2 14 16"},
		{"FREQ=MONTHLY;COUNT=10;BYDAY=1FR", "1997-09-05", "1997-09 5 1997-10 3 1997-11 7 1997-12 5 1998-01 2 1998-02 6 1998-03 6 1998-04 3 1998-05 1 1998-06 5"},
		{"FREQ=MONTHLY;UNTIL=19971224T000000Z;BYDAY=1FR", "1997-09-05", "1997-09 5 1997-10 3 1997-11 7 1997-12 5"},
		{"FREQ=MONTHLY;INTERVAL=2;COUNT=10;BYDAY=1SU,-1SU", "1997-09-07", "1997-09 7 28 1997-11 2 30 1998-01 4 25 1998-03 1 29 1998-05 3 31"},
		{"FREQ=MONTHLY;COUNT=6;BYDAY=-2MO", "1997-09-22", "1997-09 22 1997-10 20 1997-11 17 1997-12 22 1998-01 19 1998-02 16"},
		{"FREQ=MONTHLY;BYMONTHDAY=-3", "1997-09-28", "1997-09 28 1997-10 29 1997-11 28 1997-12 29 1998-01 29 1998-02 26 …"},
		{"FREQ=MONTHLY;COUNT=10;BYMONTHDAY=2,15", "1997-09-02", "1997-09 2 15 1997-10 2 15 1997-11 2 15 1997-12 2 15 1998-01 2 15"},
		{"FREQ=MONTHLY;COUNT=10;BYMONTHDAY=1,-1", "1997-09-30", "1997-09 30 1997-10 1 31 1997-11 1 30 1997-12 1 31 1998-01 1 31 1998-02 1"},
		{"FREQ=MONTHLY;INTERVAL=18;COUNT=10;BYMONTHDAY=10,11,12,13,14,15", "1997-09-10", "1997-09 10 11 12 13 14 15 1999-03 10 11 12 13"},
		{"FREQ=MONTHLY;INTERVAL=2;BYDAY=TU", "1997-09-02", "1997-09 2 9 16 23 30 1997-11 4 11 18 25 1998-01 6 13 20 27 1998-03 3 10 17 24 31 …"},
		{"FREQ=YEARLY;COUNT=10;BYMONTH=6,7", "1997-06-10",
			"1997-06 10 1997-07 10 1998-06 10 1998-07 10 1999-06 10 1999-07 10 2000-06 10 2000-07 10 2001-06 10 2001-07 10"},
		{"FREQ=YEARLY;INTERVAL=2;COUNT=10;BYMONTH=1,2,3", "1997-03-10",
			"1997-03 10 1999-01 10 1999-02 10 1999-03 10 2001-01 10 2001-02 10 2001-03 10 2003-01 10 2003-02 10 2003-03 10"},
		{"FREQ=YEARLY;BYDAY=20MO", "1997-05-19", "1997-05 19 1998-05 18 1999-05 17 …"},
		{"FREQ=YEARLY;BYMONTH=3;BYDAY=TH", "1997-03-13", "1997-03 13 20 27 1998-03 5 12 19 26 1999-03 4 11 18 25 …"},
		{"FREQ=YEARLY;BYDAY=TH;BYMONTH=6,7,8", "1997-06-05", "1997-06 5 12 19 26 1997-07 3 10 17 24 31 1997-08 7 14 21 28 1998-06 4 11 18 25 1998-07 2 …"},
		{"FREQ=MONTHLY;BYDAY=FR;BYMONTHDAY=13", "1997-09-02", "1997-09 2 1998-02 13 1998-03 13 1998-11 13 1999-08 13 2000-10 13 …"}, // the RFC leaves out the start by EXDATE
		{"FREQ=MONTHLY;BYDAY=SA;BYMONTHDAY=7,8,9,10,11,12,13", "1997-09-13", "1997-09 13 1997-10 11 1997-11 8 1997-12 13 1998-01 10 1998-02 7 1998-03 7 1998-04 11 …"},
		{"FREQ=YEARLY;INTERVAL=4;BYMONTH=11;BYDAY=TU;BYMONTHDAY=2,3,4,5,6,7,8", "1996-11-05", "1996-11 5 2000-11 7 2004-11 2 …"},
		{"FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU;WKST=MO", "1997-08-05", "1997-08 5 10 19 24"},
		{"FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU;WKST=SU", "1997-08-05", "1997-08 5 17 19 31"},
		{"FREQ=MONTHLY;BYMONTHDAY=15,30;COUNT=5", "2007-01-15", "2007-01 15 30 2007-02 15 2007-03 15 30"},

		// Ends of months.
		{"FREQ=MONTHLY", "2026-01-31", "2026-01 31 2026-03 31 2026-05 31 2026-07 31 2026-08 31 2026-10 31 2026-12 31 2027-01 31 …"},
		{"FREQ=MONTHLY;BYMONTHDAY=31", "2026-01-10", "2026-01 10 31 2026-03 31 2026-05 31 …"},
		{"FREQ=MONTHLY;BYMONTHDAY=-1", "2027-11-30", "2027-11 30 2027-12 31 2028-01 31 2028-02 29 2028-03 31 2028-04 30 …"},
		{"FREQ=MONTHLY;BYMONTHDAY=-31", "2026-01-01", "2026-01 1 2026-03 1 2026-05 1 …"},
		{"FREQ=MONTHLY;BYMONTHDAY=30,-1", "2026-04-30", "2026-04 30 2026-05 30 31 2026-06 30 …"}, // once where both name it
		{"FREQ=MONTHLY;BYDAY=5MO", "2026-03-30", "2026-03 30 2026-06 29 2026-08 31 2026-11 30 …"},
		{"FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYMONTHDAY=-1,-2,-3", "2026-01-30", "2026-01 30 2026-02 26 27 2026-03 30 31 2026-04 28 29 30 …"},

		// Leap years.
		{"FREQ=YEARLY", "2024-02-29", "2024-02 29 2028-02 29 2032-02 29 …"},
		{"FREQ=YEARLY", "2096-02-29", "2096-02 29 2104-02 29 …"},
		{"FREQ=YEARLY;INTERVAL=3", "2024-02-29", "2024-02 29 2036-02 29 2048-02 29 …"},
		{"FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=-1", "2026-02-28", "2026-02 28 2027-02 28 2028-02 29 2029-02 28 …"},
		{"FREQ=YEARLY;BYDAY=53TH", "2026-12-31", "2026-12 31 2032-12 30 2037-12 31 …"},
		{"FREQ=YEARLY;BYDAY=-1SU", "2026-12-27", "2026-12 27 2027-12 26 2028-12 31 …"},
		{"FREQ=DAILY;INTERVAL=365", "2027-03-01", "2027-03 1 2028-02 29 2029-02 28 …"},

		// Long intervals, also before 1970 and far ahead.
		{"FREQ=WEEKLY;INTERVAL=3;BYDAY=SU,MO", "2026-03-05", "2026-03 5 8 23 29 2026-04 13 19 …"},
		{"FREQ=WEEKLY;INTERVAL=3;BYDAY=SU,MO;WKST=SU", "2026-03-05", "2026-03 5 22 23 2026-04 12 13 …"},
		{"FREQ=WEEKLY;INTERVAL=2", "1969-12-20", "1969-12 20 1970-01 3 17 31 …"},
		{"FREQ=MONTHLY;INTERVAL=999", "2026-01-01", "2026-01 1 2109-04 1 2192-07 1 …"},
		{"FREQ=YEARLY;INTERVAL=999", "2026-01-01", "2026-01 1 3025-01 1 4024-01 1 …"},
		{"FREQ=DAILY", "9999-12-30", "9999-12 30 31"},

		// Parts that narrow days down.
		{"FREQ=DAILY;BYDAY=MO,TU,WE,TH,FR", "2026-03-05", "2026-03 5 6 9 10 11 12 13 16 …"},
		{"FREQ=DAILY;UNTIL=20000131;BYMONTH=1;BYMONTHDAY=1,-1", "1998-01-01", "1998-01 1 31 1999-01 1 31 2000-01 1 31"},
		{"FREQ=WEEKLY;BYMONTH=1,12", "2026-01-15", "2026-01 15 22 29 2026-12 3 10 17 24 31 2027-01 7 …"},
		{"FREQ=YEARLY;BYMONTHDAY=13", "2026-11-13", "2026-11 13 2026-12 13 2027-01 13 …"},

		// Ends, and starts that the rule would not name.
		{"FREQ=DAILY;COUNT=1", "2026-03-05", "2026-03 5"},
		{"FREQ=DAILY;UNTIL=20260307", "2026-03-05", "2026-03 5 6 7"},
		{"FREQ=DAILY;UNTIL=20260307T000000Z", "2026-03-05", "2026-03 5 6 7"},
		{"FREQ=DAILY;UNTIL=20260304", "2026-03-05", ""},
		{"FREQ=WEEKLY;BYDAY=MO;COUNT=3", "2026-03-05", "2026-03 5 9 16"},
		{"FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "2026-03-05", "2026-03 5"},
		{"FREQ=YEARLY;INTERVAL=4;BYMONTH=2;BYMONTHDAY=29", "2025-01-01", "2025-01 1"},
		{"FREQ=MONTHLY;BYDAY=5MO;BYMONTHDAY=28", "2026-03-05", "2026-03 5"},
	} {
		t.Run(row.rule+" from "+row.start, func(t *testing.T) {
			r, start := ruleOf(t, row.rule), day(t, row.start)
			days, goesOn := strings.CutSuffix(row.want, " …")
			after, month, got := start.AddDate(0, 0, -1), "", ""
			for range 100 {
				d, ok := r.next(start, after)
				if !ok || goesOn && len(got) >= len(days) {
					break
				}
				if m := d.Format("2006-01"); m != month {
					month, got = m, got+" "+m
				}
				got, after = fmt.Sprintf("%s %d", got, d.Day()), d
			}
			if got = strings.TrimPrefix(got, " "); got != days {
				t.Errorf("got  %s\nwant %s", got, days)
			}
			if _, more := r.next(start, after); more != goesOn {
				t.Errorf("got more %v, want %v", more, goesOn)
			}
		})
	}
}

func TestRRuleNextNeedsNoOccurrenceToGoOnFrom(t *testing.T) {
	start := day(t, "2026-03-02")
	for _, row := range []struct{ rule, after, want string }{
		{"FREQ=WEEKLY;INTERVAL=2", "2026-03-10", "2026-03-16"}, // done late, or moved
		{"FREQ=WEEKLY;INTERVAL=2;COUNT=3", "2026-03-20", "2026-03-30"},
		{"FREQ=WEEKLY;INTERVAL=2;COUNT=3", "2026-03-30", ""},
		{"FREQ=WEEKLY;COUNT=3", "2026-05-01", ""}, // all its days have passed
		{"FREQ=DAILY;COUNT=9999", "2053-07-14", "2053-07-15"},
		{"FREQ=DAILY;COUNT=9999", "2053-07-17", ""},
		{"FREQ=WEEKLY", "2020-01-01", "2026-03-02"},
	} {
		got := ""
		if d, ok := ruleOf(t, row.rule).next(start, day(t, row.after)); ok {
			got = d.Format(time.DateOnly)
		}
		if got != row.want {
			t.Errorf("%s after %s: got %q, want %q", row.rule, row.after, got, row.want)
		}
	}
}

func TestRRuleIsWrittenInOneWay(t *testing.T) {
	for text, want := range map[string]string{
		"FREQ=DAILY;INTERVAL=1;WKST=MO":                                        "FREQ=DAILY",
		"freq=weekly;byday=su,mo":                                              "FREQ=WEEKLY;BYDAY=MO,SU",
		"WKST=SU;BYDAY=TH,TU;COUNT=08;INTERVAL=2;FREQ=WEEKLY":                  "FREQ=WEEKLY;INTERVAL=2;BYDAY=TU,TH;WKST=SU;COUNT=8",
		"UNTIL=20261231T235959Z;FREQ=YEARLY;BYMONTHDAY=-1,+31,2;BYMONTH=12,01": "FREQ=YEARLY;BYMONTH=1,12;BYMONTHDAY=-1,2,31;UNTIL=20261231",
		"FREQ=MONTHLY;BYDAY=+2TU,-1FR,SA":                                      "FREQ=MONTHLY;BYDAY=-1FR,SA,2TU",
	} {
		r := ruleOf(t, text)
		if got := r.String(); got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
		if again := ruleOf(t, want); !reflect.DeepEqual(again, r) {
			t.Errorf("%s: got %+v back, want %+v", text, again, r)
		}
	}
}

func TestRRuleIsRefusedWithAdvice(t *testing.T) {
	const parts = "; the parts are FREQ, INTERVAL, BYMONTH, BYMONTHDAY, BYDAY, WKST, COUNT and UNTIL"
	const months, days = "must have as BYMONTH different months from 1 to 12 with , between them", "must have as BYMONTHDAY different days from 1 to 31, or from the month's end -1 to -31, with , between them"
	const weekdays = "must have as BYDAY different days such as MO, or 2TU and -1FR for the second and the last, with , between them"
	const until = "must have as UNTIL a date such as 20261231, or one with a time in UTC such as 20261231T235959Z"
	for text, want := range map[string]string{
		"":                                      `must be parts such as FREQ=WEEKLY with ; between them, which "" is not`,
		"daily":                                 `must be parts such as FREQ=WEEKLY with ; between them, which "DAILY" is not`,
		"FREQ=DAILY;":                           `must be parts such as FREQ=WEEKLY with ; between them, which "" is not`,
		"FREQ=DAILY\nFREQ=DAILY":                "must have no spaces, line breaks or letters other than A to Z",
		"FREQ=DAıLY":                            "must have no spaces, line breaks or letters other than A to Z",
		"FREQ=DAILY;COUNT=\x00":                 "must have no spaces, line breaks or letters other than A to Z",
		strings.Repeat("FREQ=DAILY;", 46):       "must have at most 500 characters",
		"RRULE:FREQ=DAILY":                      `must not have "RRULE:FREQ"` + parts,
		"FREQ=DAILY;BYHOUR=9":                   `must not have "BYHOUR"` + parts,
		"FREQ=DAILY;BYSETPOS=1":                 `must not have "BYSETPOS"` + parts,
		"FREQ=DAILY;FREQ=WEEKLY":                "must have FREQ only once",
		"INTERVAL=2":                            "must have a FREQ: DAILY, WEEKLY, MONTHLY or YEARLY",
		"FREQ=HOURLY":                           `must have as FREQ DAILY, WEEKLY, MONTHLY or YEARLY, not "HOURLY"`,
		"FREQ=":                                 `must have as FREQ DAILY, WEEKLY, MONTHLY or YEARLY, not ""`,
		"FREQ=DAILY;INTERVAL=0":                 `must have as INTERVAL a number from 1 to 999, not "0"`,
		"FREQ=DAILY;INTERVAL=1000":              `must have as INTERVAL a number from 1 to 999, not "1000"`,
		"FREQ=DAILY;INTERVAL=-1":                `must have as INTERVAL a number from 1 to 999, not "-1"`,
		"FREQ=DAILY;COUNT=10000":                `must have as COUNT a number from 1 to 9999, not "10000"`,
		"FREQ=DAILY;COUNT=99999999999999999999": `must have as COUNT a number from 1 to 9999, not "99999999999999999999"`,
		"FREQ=DAILY;COUNT=2;UNTIL=20261231":     "must not have both COUNT and UNTIL; leave one out",
		"FREQ=DAILY;UNTIL=2026-12-31":           until + `, not "2026-12-31"`,
		"FREQ=DAILY;UNTIL=20260231":             until + `, not "20260231"`,
		"FREQ=DAILY;UNTIL=20261231T235959":      until + `, not "20261231T235959"`,
		"FREQ=DAILY;UNTIL=00010101":             until + `, not "00010101"`,
		"FREQ=YEARLY;BYMONTH=13":                months + `, not "13"`,
		"FREQ=YEARLY;BYMONTH=1,1":               months + `, not "1,1"`,
		"FREQ=YEARLY;BYMONTH=":                  months + `, not ""`,
		"FREQ=MONTHLY;BYMONTHDAY=0":             days + `, not "0"`,
		"FREQ=MONTHLY;BYMONTHDAY=-32":           days + `, not "-32"`,
		"FREQ=MONTHLY;BYMONTHDAY=--1":           days + `, not "--1"`,
		"FREQ=WEEKLY;BYMONTHDAY=1":              "must not have BYMONTHDAY with FREQ=WEEKLY; write FREQ=MONTHLY",
		"FREQ=WEEKLY;BYDAY=MONDAY":              weekdays + `, not "MONDAY"`,
		"FREQ=WEEKLY;BYDAY=M":                   weekdays + `, not "M"`,
		"FREQ=WEEKLY;BYDAY=MO,,TU":              weekdays + `, not "MO,,TU"`,
		"FREQ=MONTHLY;BYDAY=0MO":                weekdays + `, not "0MO"`,
		"FREQ=WEEKLY;BYDAY=2MO":                 "must have weekdays without numbers in BYDAY, or FREQ=MONTHLY or FREQ=YEARLY",
		"FREQ=MONTHLY;BYDAY=6MO":                "must have in BYDAY numbers from 1 to 5 and from -1 to -5",
		"FREQ=YEARLY;BYMONTH=3;BYDAY=-6MO":      "must have in BYDAY numbers from 1 to 5 and from -1 to -5",
		"FREQ=YEARLY;BYDAY=54MO":                weekdays + `, not "54MO"`,
		"FREQ=WEEKLY;WKST=TU":                   `must have as WKST MO or SU, not "TU"`,
	} {
		if _, err := parseRRule(text); err == nil || err.Error() != want {
			t.Errorf("%q\ngot  %v\nwant %s", text, err, want)
		}
	}
}

// naiveRRule is a rule as a test over all days, beside its text.
type naiveRRule struct {
	text      string
	freq      string
	interval  int
	months    map[time.Month]bool
	monthDays map[int]bool
	weekdays  map[string]bool // as written: MO, 2TU, -1FR
	sunday    bool            // weeks begin on it
}

func randomRRule(r *rand.Rand) naiveRRule {
	n := naiveRRule{freq: frequencies[r.IntN(4)], interval: 1}
	parts := []string{"FREQ=" + n.freq}
	if r.IntN(2) == 0 {
		n.interval = 1 + r.IntN(5)
		parts = append(parts, fmt.Sprintf("INTERVAL=%d", n.interval))
	}
	list := func(name string, item func() string) {
		var items []string
		for range 1 + r.IntN(4) {
			if text := item(); !strings.Contains(","+strings.Join(items, ",")+",", ","+text+",") {
				items = append(items, text)
			}
		}
		parts = append(parts, name+"="+strings.Join(items, ","))
	}
	if r.IntN(4) == 0 {
		n.months = map[time.Month]bool{}
		list("BYMONTH", func() string { m := 1 + r.IntN(12); n.months[time.Month(m)] = true; return fmt.Sprint(m) })
	}
	if n.freq != "WEEKLY" && r.IntN(3) == 0 {
		n.monthDays = map[int]bool{}
		list("BYMONTHDAY", func() string {
			d := r.IntN(63) - 31
			if d == 0 {
				d = -1
			}
			n.monthDays[d] = true
			return fmt.Sprint(d)
		})
	}
	if r.IntN(2) == 0 {
		n.weekdays = map[string]bool{}
		list("BYDAY", func() string {
			text := weekdayCodes[r.IntN(7)]
			if n.freq >= "M" && n.freq != "WEEKLY" && r.IntN(2) == 0 {
				most := 5
				if n.freq == "YEARLY" && n.months == nil {
					most = 53
				}
				text = fmt.Sprint((1+r.IntN(most))*(1-2*r.IntN(2))) + text
			}
			n.weekdays[text] = true
			return text
		})
	}
	if n.sunday = r.IntN(3) == 0; n.sunday {
		parts = append(parts, "WKST=SU")
	}
	r.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	n.text = strings.Join(parts, ";")
	return n
}

// days are the occurrences up to a last day, found by walking through all days and counting.
func (n naiveRRule) days(start, last time.Time) []time.Time {
	found := []time.Time{start}
	period := 0 // since the start's
	for d := start.AddDate(0, 0, 1); !d.After(last); d = d.AddDate(0, 0, 1) {
		switch {
		case n.freq == "DAILY",
			n.freq == "WEEKLY" && (d.Weekday() == time.Sunday && n.sunday || d.Weekday() == time.Monday && !n.sunday),
			n.freq == "MONTHLY" && d.Day() == 1, n.freq == "YEARLY" && d.YearDay() == 1:
			period++
		}
		if period%n.interval == 0 && n.fits(start, d) {
			found = append(found, d)
		}
	}
	return found
}

func (n naiveRRule) fits(start, d time.Time) bool {
	if n.months != nil && !n.months[d.Month()] {
		return false
	}
	left := 1 // days of the month from here on
	for e := d; e.AddDate(0, 0, 1).Month() == d.Month(); e = e.AddDate(0, 0, 1) {
		left++
	}
	if n.monthDays != nil && !n.monthDays[d.Day()] && !n.monthDays[-left] {
		return false
	}
	if n.weekdays != nil {
		code := weekdayCodes[d.Weekday()]
		span := func(e time.Time) bool {
			return e.Year() == d.Year() && (n.freq == "YEARLY" && n.months == nil || e.Month() == d.Month())
		}
		nth, last := 0, 0
		for e := d; span(e); e = e.AddDate(0, 0, -7) {
			nth++
		}
		for e := d; span(e); e = e.AddDate(0, 0, 7) {
			last--
		}
		return n.weekdays[code] || n.weekdays[fmt.Sprint(nth)+code] || n.weekdays[fmt.Sprint(last)+code]
	}
	if n.monthDays != nil {
		return true
	}
	switch n.freq {
	case "WEEKLY":
		return d.Weekday() == start.Weekday()
	case "MONTHLY":
		return d.Day() == start.Day()
	case "YEARLY":
		return d.Day() == start.Day() && (n.months != nil || d.Month() == start.Month())
	}
	return true
}

func TestRRuleAgreesWithWalkingThroughAllDays(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	for range 120 {
		n := randomRRule(random)
		start := time.Date(1960+random.IntN(100), 1, 1+random.IntN(366), 0, 0, 0, 0, time.UTC)
		if random.IntN(4) == 0 { // the ends of months are where it is difficult
			start = time.Date(start.Year(), start.Month()+1, 0, 0, 0, 0, 0, time.UTC)
		}
		last := start.AddDate(8, 0, 0)
		days := n.days(start, last)
		rule := ruleOf(t, n.text)
		for i, d := range days {
			var want time.Time // zero where it is after the last
			if i+1 < len(days) {
				want = days[i+1]
			}
			check := func(r rrule, after time.Time, want time.Time, what string) {
				got, ok := r.next(start, after)
				if !ok || got.After(last) {
					got = time.Time{}
				}
				if !got.Equal(want) {
					t.Fatalf("seed %d: %s from %s, after %s: got %v, want %v", seed, n.text+what, start.Format(time.DateOnly), after.Format(time.DateOnly), got, want)
				}
			}
			check(rule, d, want, "")
			if !want.IsZero() {
				check(rule, d.AddDate(0, 0, random.IntN(int(want.Sub(d)/(24*time.Hour)))), want, "")
			}
			if i%50 == 7 { // an end here leaves all before as it was
				counted, until := rule, rule
				counted.count, until.until = i+1, d
				check(counted, days[i-1], d, ";COUNT")
				check(counted, d, time.Time{}, ";COUNT")
				check(until, days[i-1], d, ";UNTIL")
				check(until, d, time.Time{}, ";UNTIL")
			}
		}
	}
}

// naiveOf reads the text of a rule that was accepted.
func naiveOf(text string) naiveRRule {
	n := naiveRRule{text: text, interval: 1}
	for part := range strings.SplitSeq(strings.ToUpper(text), ";") {
		name, value, _ := strings.Cut(part, "=")
		var numbers []int
		var days []string
		for item := range strings.SplitSeq(value, ",") {
			number, weekday := strings.TrimRight(item, "ADEFHMORSTUW"), strings.TrimLeft(item, "+-0123456789")
			v, err := strconv.Atoi(number)
			if err == nil {
				weekday = strconv.Itoa(v) + weekday // without + and leading zeros
			}
			numbers, days = append(numbers, v), append(days, weekday)
		}
		switch name {
		case "FREQ":
			n.freq = value
		case "INTERVAL":
			n.interval = numbers[0]
		case "BYMONTH":
			n.months = map[time.Month]bool{}
			for _, m := range numbers {
				n.months[time.Month(m)] = true
			}
		case "BYMONTHDAY":
			n.monthDays = map[int]bool{}
			for _, d := range numbers {
				n.monthDays[d] = true
			}
		case "BYDAY":
			n.weekdays = map[string]bool{}
			for _, d := range days {
				n.weekdays[d] = true
			}
		case "WKST":
			n.sunday = value == "SU"
		}
	}
	return n
}

// FuzzRRULE looks for a rule that is accepted and means another than it says: other days than those
// found by walking through two years, or another after it was written again.
func FuzzRRULE(f *testing.F) {
	for _, text := range []string{
		"FREQ=DAILY", "FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,SU;WKST=SU", "FREQ=MONTHLY;BYMONTHDAY=31,-1;COUNT=5", "freq=yearly;bymonth=2;bymonthday=29;until=20400101T000000Z",
		"FREQ=YEARLY;BYDAY=20MO,-1FR", "FREQ=MONTHLY;BYDAY=5MO;BYMONTHDAY=1", "FREQ=YEARLY;INTERVAL=999;COUNT=9999", "RRULE:FREQ=DAILY", "FREQ=DAILY;COUNT=0",
		"FREQ=MONTHLY;BYDAY=+02TU,-1FR;INTERVAL=03", "FREQ=YEARLY;COUNT=9999;BYMONTH=2;BYMONTHDAY=29;BYDAY=SA,SU",
	} {
		f.Add(text, 9000, 3)
		f.Add(text, -40_000, 900)
	}
	f.Fuzz(func(t *testing.T, text string, from, later int) {
		r, err := parseRRule(text)
		if err != nil {
			return
		}
		again, err := parseRRule(r.String())
		if err != nil || !reflect.DeepEqual(again, r) || again.String() != r.String() {
			t.Fatalf("%q is %q, and that is %+v, %v; want %+v", text, r.String(), again, err, r)
		}
		start := time.Unix(int64(from%100_000)*86_400, 0).UTC()
		last := start.AddDate(2, 0, 0)
		var want []time.Time
		for i, d := range naiveOf(text).days(start, last) {
			if (r.count == 0 || i < r.count) && (r.until.IsZero() || !d.After(r.until)) {
				want = append(want, d)
			}
		}
		began := time.Now()
		var got []time.Time
		d, ok := r.next(start, start.AddDate(0, 0, -1))
		for ; ok && !d.After(last) && len(got) < 50; d, ok = r.next(start, d) {
			got = append(got, d)
		}
		if !slices.Equal(got, want[:min(50, len(want))]) {
			t.Fatalf("%q from %s: got %v, want %v", text, start, got, want)
		}
		after := start.AddDate(0, 0, later%1_000_000)
		if d, ok := r.next(start, after); ok && (!d.After(after) || d.Before(start) || !r.until.IsZero() && d.After(r.until) || d.Year() > 9999) {
			t.Fatalf("%q from %s: %s is no next day after %s", text, start, d, after)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("%q from %s took %v", text, start, took)
		}
	})
}
