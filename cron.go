package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// cronLine is a line of crontab(5), five fields, read on the clock of a time zone.
//
// Where that clock is set forward or back, there are two kinds of line. One with fixed hours means
// the time of day: a time that is left out comes at the moment the clock jumps, one that is
// repeated comes the first time only, so that a daily line fires once a day. One whose hour field
// begins with * means every minute that passes: it fires whenever the clock reads so, in the
// repeated hour once more.
type cronLine struct {
	minutes, hours, days, months, weekdays uint64 // bit n is set where n matches
	eitherDay                              bool   // both day fields are restricted, and one of them is enough
	everyHour                              bool   // the hour field begins with *
	zone                                   *time.Location
}

// cronField is what may stand in one of the five places.
type cronField struct {
	name      string
	low, high int
	star      int    // the last value that * stands for
	names     string // three letters for each value from low on
}

var cronFields = [...]cronField{
	{"minute", 0, 59, 59, ""},
	{"hour", 0, 23, 23, ""},
	{"day-of-month", 1, 31, 31, ""},
	{"month", 1, 12, 12, "janfebmaraprmayjunjulaugsepoctnovdec"},
	{"day-of-week", 0, 7, 6, "sunmontuewedthufrisat"},
}

// parseCron reads the five fields: * or a list of values and ranges, either with a step after /.
// If neither day field begins with *, a day matches when one of them does, as in Vixie cron;
// otherwise both must.
func parseCron(line string, zone *time.Location) (cronLine, error) {
	texts := strings.Fields(line)
	if len(texts) != len(cronFields) {
		return cronLine{}, fmt.Errorf("cron line %q has %d fields; write five: minute hour day-of-month month day-of-week", line, len(texts))
	}
	c := cronLine{zone: zone}
	for i, bits := range []*uint64{&c.minutes, &c.hours, &c.days, &c.months, &c.weekdays} {
		for item := range strings.SplitSeq(texts[i], ",") {
			found, err := cronFields[i].parse(item)
			if err != nil {
				return cronLine{}, fmt.Errorf("cron line %q: %s %q %w", line, cronFields[i].name, item, err)
			}
			*bits |= found
		}
	}
	c.weekdays |= c.weekdays >> 7 & 1 // 7 is Sunday too
	c.everyHour = texts[1][0] == '*'
	c.eitherDay = texts[2][0] != '*' && texts[4][0] != '*'
	return c, nil
}

// parse reads one item of a field's list, as bits. Its errors go on from the field's name.
func (f cronField) parse(item string) (uint64, error) {
	span, stepText, stepped := strings.Cut(item, "/")
	first, last, ranged := strings.Cut(span, "-")
	low, high := f.low, f.star
	if span != "*" {
		var ok bool
		if low, ok = f.value(first); !ok {
			return 0, f.rule()
		}
		high = low
		if ranged {
			if high, ok = f.value(last); !ok {
				return 0, f.rule()
			}
			if high == 0 && low > 0 && f.high == 7 {
				high = 7 // fri-sun
			}
		} else if stepped {
			return 0, fmt.Errorf("has a step without a range; write %d-%d/%.3s", low, f.star, stepText)
		}
	}
	if low > high {
		return 0, fmt.Errorf("is a range that runs backwards; write two, from %d and up to %d", low, high)
	}
	step := 1
	if stepped {
		var ok bool
		if step, ok = cronNumber(stepText); !ok || step < 1 || step > f.star {
			return 0, fmt.Errorf("has a bad step; after / write a number from 1 to %d", f.star)
		}
	}
	var bits uint64
	for v := low; v <= high; v += step {
		bits |= 1 << v
	}
	return bits, nil
}

// value reads one value, a number or a name.
func (f cronField) value(text string) (int, bool) {
	if i := strings.Index(f.names, strings.ToLower(text)); len(text) == 3 && i >= 0 && i%3 == 0 {
		return f.low + i/3, true
	}
	n, ok := cronNumber(text)
	return n, ok && f.low <= n && n <= f.high
}

func cronNumber(text string) (int, bool) {
	n, err := strconv.ParseUint(text, 10, 8) // no sign
	return int(n), err == nil
}

func (f cronField) rule() error {
	if f.names == "" {
		return fmt.Errorf("must be *, a number from %d to %d, a range such as %d-%d, or a list of those", f.low, f.high, f.low, f.low+1)
	}
	return fmt.Errorf("must be *, a number from %d to %d, a name such as %s, a range, or a list of those", f.low, f.high, f.names[:3])
}

// next is the first moment after another at which the line fires; zero if that is more than five
// years away, as with 30 February.
func (c cronLine) next(after time.Time) time.Time {
	after = after.Round(0).In(c.zone)
	if c.everyHour {
		return c.nextReading(after)
	}
	// The clock has shown everything before this, also what it shows again after being set back.
	shown := onClock(after)
	for at := after; ; {
		start, _ := at.ZoneBounds()
		if start.IsZero() || after.Sub(start) > 48*time.Hour {
			break
		}
		at = start.Add(-1)
		if before := onClock(at); before.After(shown) {
			shown = before
		}
	}
	wall := c.match(shown.Add(1))
	if wall.IsZero() {
		return wall
	}
	return c.shows(wall)
}

// nextReading is next for a line that follows every minute.
func (c cronLine) nextReading(after time.Time) time.Time {
	for from := after.Add(1); ; {
		wall := c.match(onClock(from))
		if wall.IsZero() {
			return wall
		}
		_, offset := from.Zone()
		_, end := from.ZoneBounds()
		at := wall.Add(-time.Duration(offset) * time.Second).In(c.zone)
		if end.IsZero() || at.Before(end) {
			return at
		}
		from = end
	}
}

// onClock is what the clock of a moment's zone shows then, written as a time in UTC, where days
// have 24 hours and can be counted with.
func onClock(t time.Time) time.Time {
	_, offset := t.Zone()
	return t.Add(time.Duration(offset) * time.Second).UTC()
}

// shows is the first moment at which the clock shows a reading or has jumped over it.
func (c cronLine) shows(wall time.Time) time.Time {
	for t := wall.Add(-26 * time.Hour).In(c.zone); ; { // no zone is further from UTC
		_, offset := t.Zone()
		start, end := t.ZoneBounds()
		at := wall.Add(-time.Duration(offset) * time.Second).In(c.zone)
		if at.Before(start) {
			at = start
		}
		if end.IsZero() || at.Before(end) {
			return at
		}
		t = end
	}
}

// match is the first whole minute from a reading of the clock on that fits all fields; zero if
// there is none in five years.
func (c cronLine) match(from time.Time) time.Time {
	w := from.Truncate(time.Minute)
	if w.Before(from) {
		w = w.Add(time.Minute)
	}
	for limit := w.AddDate(5, 0, 0); w.Before(limit); {
		year, month, day := w.Date()
		switch {
		case c.months>>month&1 == 0:
			w = time.Date(year, month+1, 1, 0, 0, 0, 0, time.UTC)
		case !c.onDay(day, w.Weekday()):
			w = time.Date(year, month, day+1, 0, 0, 0, 0, time.UTC)
		case c.hours>>w.Hour()&1 == 0:
			w = w.Truncate(time.Hour).Add(time.Hour)
		case c.minutes>>w.Minute()&1 == 0:
			w = w.Add(time.Minute)
		default:
			return w
		}
	}
	return time.Time{}
}

func (c cronLine) onDay(day int, weekday time.Weekday) bool {
	byDay, byWeekday := c.days>>day&1 == 1, c.weekdays>>weekday&1 == 1
	if c.eitherDay {
		return byDay || byWeekday
	}
	return byDay && byWeekday
}
