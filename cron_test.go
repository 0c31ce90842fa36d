package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func zoneOf(t testing.TB, name string) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

func cronOf(t testing.TB, line, zone string) cronLine {
	t.Helper()
	c, err := parseCron(line, zoneOf(t, zone))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCronLineFiresAtTheseMoments(t *testing.T) {
	const berlin, newYork, lordHowe, kathmandu = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"
	for _, row := range []struct {
		line, zone, after, want string // moments on the clock of the zone, with its offset
	}{
		{"* * * * *", "UTC", "2026-03-01T10:00Z", "2026-03-01T10:01Z 2026-03-01T10:02Z"},
		{"*/15 * * * *", "UTC", "2026-03-01T10:46Z", "2026-03-01T11:00Z 2026-03-01T11:15Z"},
		{"7-59/20 3,5 * * *", "UTC", "2026-03-01T10:00Z", "2026-03-02T03:07Z 2026-03-02T03:27Z 2026-03-02T03:47Z 2026-03-02T05:07Z"},
		{"0 9 * * mon-fri", "UTC", "2026-03-06T09:00Z", "2026-03-09T09:00Z 2026-03-10T09:00Z"},
		{"0 9 * * fri-sun", "UTC", "2026-03-06T09:00Z", "2026-03-07T09:00Z 2026-03-08T09:00Z 2026-03-13T09:00Z"},
		{"0 9 * * 7", "UTC", "2026-03-06T09:00Z", "2026-03-08T09:00Z 2026-03-15T09:00Z"},
		{"0 9 * JAN,Jul 1", "UTC", "2026-01-26T09:00Z", "2026-07-06T09:00Z"},
		{"0 0 13 * fri", "UTC", "2026-03-01T00:00Z", "2026-03-06T00:00Z 2026-03-13T00:00Z 2026-03-20T00:00Z 2026-03-27T00:00Z 2026-04-03T00:00Z 2026-04-10T00:00Z 2026-04-13T00:00Z"},
		{"0 0 */2 * fri", "UTC", "2026-03-01T00:00Z", "2026-03-13T00:00Z 2026-03-27T00:00Z"}, // begins with *: both
		{"0 0 31 * *", "UTC", "2026-01-31T00:00Z", "2026-03-31T00:00Z 2026-05-31T00:00Z 2026-07-31T00:00Z 2026-08-31T00:00Z"},
		{"59 23 31 12 *", "UTC", "2026-12-31T23:58Z", "2026-12-31T23:59Z 2027-12-31T23:59Z"},
		{"0 0 29 2 *", "UTC", "2026-01-01T00:00Z", "2028-02-29T00:00Z 2032-02-29T00:00Z"},
		{"0 0 29 2 *", "UTC", "2096-02-29T00:00Z", ""}, // 2100 is no leap year
		{"0 0 30 2 *", "UTC", "2026-01-01T00:00Z", ""},
		{"0 0 31 4,6,9,11 *", "UTC", "2026-01-01T00:00Z", ""},

		// In Berlin 2:00 is followed by 3:00 on 29 March, and 2:59 by 2:00 on 25 October.
		{"30 2 * * *", berlin, "2026-03-28T02:30+01:00", "2026-03-29T03:00+02:00 2026-03-30T02:30+02:00"},
		{"*/20 2,3 * * *", berlin, "2026-03-28T12:00+01:00", "2026-03-29T03:00+02:00 2026-03-29T03:20+02:00 2026-03-29T03:40+02:00 2026-03-30T02:00+02:00"},
		{"30 2 * * *", berlin, "2026-10-24T02:30+02:00", "2026-10-25T02:30+02:00 2026-10-26T02:30+01:00"},
		{"30 2 * * *", berlin, "2026-10-25T02:10+01:00", "2026-10-26T02:30+01:00"}, // asked in the repeated hour
		{"30 2,3 * * *", berlin, "2026-10-25T02:30+02:00", "2026-10-25T03:30+01:00"},
		{"30 * * * *", berlin, "2026-03-29T00:30+01:00", "2026-03-29T01:30+01:00 2026-03-29T03:30+02:00"},
		{"30 * * * *", berlin, "2026-10-25T01:30+02:00", "2026-10-25T02:30+02:00 2026-10-25T02:30+01:00 2026-10-25T03:30+01:00"},
		{"0 */2 * * *", berlin, "2026-10-25T00:30+02:00", "2026-10-25T02:00+02:00 2026-10-25T02:00+01:00 2026-10-25T04:00+01:00"},
		{"30 0-23 * * *", berlin, "2026-10-25T02:30+02:00", "2026-10-25T03:30+01:00"}, // hours written out are fixed ones

		{"15 2 * * *", newYork, "2026-03-07T12:00-05:00", "2026-03-08T03:00-04:00 2026-03-09T02:15-04:00"},
		{"30 1 * * *", newYork, "2026-10-31T12:00-04:00", "2026-11-01T01:30-04:00 2026-11-02T01:30-05:00"},
		{"0,30 */1 * * *", newYork, "2026-11-01T01:00-04:00", "2026-11-01T01:30-04:00 2026-11-01T01:00-05:00 2026-11-01T01:30-05:00 2026-11-01T02:00-05:00"},

		// Lord Howe goes from 2:00 to 2:30, and from 2:00 back to 1:30.
		{"15 2 * * *", lordHowe, "2026-10-03T12:00+10:30", "2026-10-04T02:30+11:00 2026-10-05T02:15+11:00"},
		{"45 1 * * *", lordHowe, "2026-04-04T12:00+11:00", "2026-04-05T01:45+11:00 2026-04-06T01:45+10:30"},
		{"45 * * * *", lordHowe, "2026-04-05T00:45+11:00", "2026-04-05T01:45+11:00 2026-04-05T01:45+10:30 2026-04-05T02:45+10:30"},

		{"0 6 1 * *", kathmandu, "2026-03-01T00:15Z", "2026-04-01T06:00+05:45"},
		{"0 * * * *", kathmandu, "2026-03-01T00:00Z", "2026-03-01T06:00+05:45 2026-03-01T07:00+05:45"},

		// Midnight is left out in Beirut, shown again in Havana, and Samoa had no 30 December.
		{"0 0 29 3 *", "Asia/Beirut", "2026-03-28T12:00+02:00", "2026-03-29T01:00+03:00"},
		{"30 0 * * *", "America/Havana", "2026-10-31T12:00-04:00", "2026-11-01T00:30-04:00 2026-11-02T00:30-05:00"},
		{"0 9 * * *", "Pacific/Apia", "2011-12-29T09:00-10:00", "2011-12-31T00:00+14:00 2011-12-31T09:00+14:00"},
	} {
		t.Run(row.line+" "+row.zone+" after "+row.after, func(t *testing.T) {
			c := cronOf(t, row.line, row.zone)
			at, err := time.Parse("2006-01-02T15:04Z07:00", row.after)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for range max(1, len(strings.Fields(row.want))) {
				if at = c.next(at); at.IsZero() {
					break
				}
				got = append(got, at.Format("2006-01-02T15:04Z07:00"))
			}
			if got := strings.Join(got, " "); got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
		})
	}
}

func TestCronLineIsRefusedWithTheFieldAndTheRule(t *testing.T) {
	for line, want := range map[string]string{
		"":                   `cron line "" has 0 fields; write five: minute hour day-of-month month day-of-week`,
		"@daily":             `cron line "@daily" has 1 fields; write five: minute hour day-of-month month day-of-week`,
		"0 0 * * * *":        `cron line "0 0 * * * *" has 6 fields; write five: minute hour day-of-month month day-of-week`,
		"60 * * * *":         `cron line "60 * * * *": minute "60" must be *, a number from 0 to 59, a range such as 0-1, or a list of those`,
		"-1 * * * *":         `cron line "-1 * * * *": minute "-1" must be *, a number from 0 to 59, a range such as 0-1, or a list of those`,
		"+1 * * * *":         `cron line "+1 * * * *": minute "+1" must be *, a number from 0 to 59, a range such as 0-1, or a list of those`,
		"1,,2 * * * *":       `cron line "1,,2 * * * *": minute "" must be *, a number from 0 to 59, a range such as 0-1, or a list of those`,
		"1-2-3 * * * *":      `cron line "1-2-3 * * * *": minute "1-2-3" must be *, a number from 0 to 59, a range such as 0-1, or a list of those`,
		"* 24 * * *":         `cron line "* 24 * * *": hour "24" must be *, a number from 0 to 23, a range such as 0-1, or a list of those`,
		"* * 0 * *":          `cron line "* * 0 * *": day-of-month "0" must be *, a number from 1 to 31, a range such as 1-2, or a list of those`,
		"* * L * *":          `cron line "* * L * *": day-of-month "L" must be *, a number from 1 to 31, a range such as 1-2, or a list of those`,
		"* * * 13 *":         `cron line "* * * 13 *": month "13" must be *, a number from 1 to 12, a name such as jan, a range, or a list of those`,
		"* * * january *":    `cron line "* * * january *": month "january" must be *, a number from 1 to 12, a name such as jan, a range, or a list of those`,
		"* * * * 8":          `cron line "* * * * 8": day-of-week "8" must be *, a number from 0 to 7, a name such as sun, a range, or a list of those`,
		"* * * * unm":        `cron line "* * * * unm": day-of-week "unm" must be *, a number from 0 to 7, a name such as sun, a range, or a list of those`,
		"* 18-6 * * *":       `cron line "* 18-6 * * *": hour "18-6" is a range that runs backwards; write two, from 18 and up to 6`,
		"5/15 * * * *":       `cron line "5/15 * * * *": minute "5/15" has a step without a range; write 5-59/15`,
		"*/0 * * * *":        `cron line "*/0 * * * *": minute "*/0" has a bad step; after / write a number from 1 to 59`,
		"* */x * * *":        `cron line "* */x * * *": hour "*/x" has a bad step; after / write a number from 1 to 23`,
		"* */99999999 * * *": `cron line "* */99999999 * * *": hour "*/99999999" has a bad step; after / write a number from 1 to 23`,
	} {
		t.Run(line, func(t *testing.T) {
			if _, err := parseCron(line, time.UTC); err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
}

func TestCronNamesAreTheirNumbers(t *testing.T) {
	for day := range 7 {
		name := strings.ToLower(time.Weekday(day).String()[:3])
		if got, want := cronOf(t, "0 0 * * "+name, "UTC"), cronOf(t, fmt.Sprintf("0 0 * * %d", day), "UTC"); got != want {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
	for month := time.January; month <= time.December; month++ {
		if got, want := cronOf(t, "0 0 1 "+month.String()[:3]+" *", "UTC"), cronOf(t, fmt.Sprintf("0 0 1 %d *", month), "UTC"); got != want {
			t.Errorf("%s: got %+v, want %+v", month, got, want)
		}
	}
}

// naiveCron is a line as five sets of values, beside its text.
type naiveCron struct {
	text   string
	values [5][64]bool
	star   [5]bool
}

// randomCron writes fields of every form. Hours are mostly those in which clocks are changed.
func randomCron(r *rand.Rand) *naiveCron {
	n := &naiveCron{}
	var texts []string
	for i, f := range cronFields {
		add := func(low, high, step int) {
			for v := low; v <= high; v += step {
				n.values[i][v] = true
			}
		}
		switch pick := r.IntN(8); {
		case pick < 3 || i == 2 && pick < 5 || i == 3 && pick < 6:
			n.star[i] = true
			add(f.low, f.high, 1)
			texts = append(texts, "*")
		case pick == 3 && i < 2:
			n.star[i] = true
			step := 1 + r.IntN(f.high)
			add(f.low, f.star, step)
			texts = append(texts, fmt.Sprintf("*/%d", step))
		default:
			var items []string
			for range 1 + r.IntN(3) {
				low, high := f.low+r.IntN(f.high-f.low+1), f.low+r.IntN(f.high-f.low+1)
				if i == 1 && r.IntN(3) > 0 {
					low, high = r.IntN(4), r.IntN(4)
				}
				step := 1 + r.IntN(3)
				switch {
				case low > high:
					add(low, low, 1)
					items = append(items, fmt.Sprint(low))
				case step == 1:
					add(low, high, 1)
					items = append(items, fmt.Sprintf("%d-%d", low, high))
				default:
					add(low, high, step)
					items = append(items, fmt.Sprintf("%d-%d/%d", low, high, step))
				}
			}
			texts = append(texts, strings.Join(items, ","))
		}
	}
	n.values[4][0] = n.values[4][0] || n.values[4][7]
	n.text = strings.Join(texts, " ")
	return n
}

// wallClock is what the clock of a zone showed, minute by minute.
type wallClock struct {
	from     time.Time
	shown    []int       // for each minute since from, what the clock showed, in minutes since the first of days
	days     []time.Time // all that there are, shown or not
	restless []bool      // for each minute, whether the clock was set in the three hours before
}

func newWallClock(zone *time.Location, from, to time.Time) wallClock {
	w := wallClock{from: from}
	_, offset := from.In(zone).Zone()
	first := from.AddDate(0, 0, -2) // at midnight
	changed := -180
	for at := from; at.Before(to); at = at.Add(time.Minute) {
		before := offset
		if _, offset = at.In(zone).Zone(); offset != before {
			changed = len(w.shown)
		}
		w.shown = append(w.shown, int(at.Unix()-first.Unix()+int64(offset))/60)
		w.restless = append(w.restless, len(w.shown)-changed < 180)
	}
	for d := first; d.Before(to.AddDate(0, 0, 3)); d = d.AddDate(0, 0, 1) {
		w.days = append(w.days, d)
	}
	return w
}

// fits tells whether a line fits what a clock shows.
func (w *wallClock) fits(n *naiveCron, shown int) bool {
	if !n.values[0][shown%60] || !n.values[1][shown/60%24] {
		return false
	}
	date := w.days[shown/(24*60)]
	day, weekday := n.values[2][date.Day()], n.values[4][date.Weekday()]
	if n.star[2] || n.star[4] {
		day = day && weekday
	} else {
		day = day || weekday
	}
	return day && n.values[3][date.Month()]
}

// ticks are the minutes in which a line fires: with fixed hours when the clock shows or passes a
// reading for the first time, otherwise whenever it shows one.
func (w *wallClock) ticks(n *naiveCron) []int {
	var ticks []int
	next := w.shown[0]
	for minute, shown := range w.shown {
		fires := n.star[1] && w.fits(n, shown)
		for ; next <= shown; next++ {
			fires = fires || !n.star[1] && w.fits(n, next)
		}
		if fires {
			ticks = append(ticks, minute)
		}
	}
	return ticks
}

func TestCronAgreesWithAClockReadEveryMinute(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for _, name := range []string{
		"UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Sao_Paulo", "Asia/Beirut", "America/Havana",
		"Pacific/Apia", "Africa/Casablanca", "Europe/Dublin", "America/St_Johns", "Antarctica/Troll", "Africa/Cairo", "Pacific/Chatham",
	} {
		t.Run(name, func(t *testing.T) {
			zone := zoneOf(t, name)
			from := time.Date(2009+r.IntN(15), time.Month(1+r.IntN(12)), 1, 0, 0, 0, 0, time.UTC)
			clock := newWallClock(zone, from, from.AddDate(1, 1, 0))
			for range 4 {
				n := randomCron(r)
				c, err := parseCron(n.text, zone)
				if err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				ticks := clock.ticks(n)
				last := -1
				for i, minute := range append(ticks, len(clock.shown)) {
					from, to := clock.from.Add(time.Duration(last)*time.Minute), clock.from.Add(time.Duration(minute)*time.Minute)
					last = minute
					end := minute == len(clock.shown)
					if !end && i%(1+len(ticks)/500) > 0 && !clock.restless[minute] { // a sample is enough
						continue
					}
					for _, after := range []time.Time{from, to.Add(-1), from.Add(time.Duration(r.Int64N(int64(to.Sub(from)))))} {
						if got := c.next(after); !end && !got.Equal(to) || end && !got.IsZero() && got.Before(to) {
							t.Fatalf("seed %d: %q after %s: got %s, want %s", seed, n.text, after.In(zone), got, to.In(zone))
						}
					}
				}
			}
		})
	}
}

// FuzzCron looks for a line that is accepted and fires at a moment that its zone's clock does not show
// or jump to, or that leaves out a whole minute that it fits.
func FuzzCron(f *testing.F) {
	for _, line := range []string{"* * * * *", "*/5 0-23/2 1,15 jan-mar mon", "60 24 32 13 8", "0 0 29 2 7", "1/2 * * * *", "@daily", "0 0 30 2 *", "7-59/20 */3 * * fri-sun", "30 2 * * *"} {
		f.Add(line, int64(1774746000))
		f.Add(line, int64(1792890000))
	}
	berlin := zoneOf(f, "Europe/Berlin")
	f.Fuzz(func(t *testing.T, line string, unix int64) {
		c, err := parseCron(line, berlin)
		if err != nil {
			return
		}
		if c.minutes == 0 || c.hours == 0 || c.days == 0 || c.months == 0 || c.weekdays == 0 || c.minutes>>60 != 0 || c.hours>>24 != 0 {
			t.Fatalf("%q: %+v", line, c)
		}
		began := time.Now()
		fits := func(wall time.Time) bool {
			return c.minutes>>wall.Minute()&1 == 1 && c.hours>>wall.Hour()&1 == 1 && c.months>>wall.Month()&1 == 1 && c.onDay(wall.Day(), wall.Weekday())
		}
		at := time.Unix(unix%(1<<33), 0)
		for range 3 {
			next := c.next(at)
			if next.IsZero() {
				return
			}
			if !next.After(at) || next.Second() != 0 || next.Nanosecond() != 0 || next.After(at.AddDate(5, 0, 2)) {
				t.Fatalf("%q: %s is no next after %s", line, next, at)
			}
			if !fits(onClock(next)) && !clockSetBetween(next.Add(-time.Second), next, berlin) {
				t.Fatalf("%q fires at %s", line, next)
			}
			for m := at.Truncate(time.Minute).Add(time.Minute); m.Before(next) && m.Before(at.Add(3*time.Hour)); m = m.Add(time.Minute) {
				if fits(onClock(m.In(berlin))) && (c.everyHour || !clockSetBetween(m.Add(-3*time.Hour), m, berlin)) {
					t.Fatalf("%q after %s leaves out %s before %s", line, at, m, next)
				}
			}
			at = next
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("%q took %v", line, took)
		}
	})
}

// clockSetBetween tells whether a zone's clock was set between two moments.
func clockSetBetween(from, to time.Time, zone *time.Location) bool {
	_, end := from.In(zone).ZoneBounds()
	return !end.IsZero() && !end.After(to)
}
