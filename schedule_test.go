package main

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// scheduleWorld is a database on which processes run schedules, in a bubble where time passes as
// fast as they are idle. Clocks begin at start. PostgreSQL's own clock is the real one.
type scheduleWorld struct {
	t     *testing.T // of the bubble
	db    *database
	log   *lockedBuffer
	begin time.Time // of the bubble
	start time.Time // on the clocks of processes
}

// inScheduleWorld runs a test in a bubble, on a database of its own.
func inScheduleWorld(t *testing.T, start string, test func(w *scheduleWorld)) {
	t.Helper()
	url := newTestDatabase(t)
	synctest.Test(t, func(t *testing.T) {
		at, err := time.Parse(time.RFC3339, start)
		if err != nil {
			t.Fatal(err)
		}
		db, err := openDatabase(t.Context(), string(url), 6)
		if err != nil {
			t.Fatal(err)
		}
		defer db.pool.Close()
		test(&scheduleWorld{t: t, db: db, log: &lockedBuffer{}, begin: time.Now(), start: at})
	})
}

// clock is one that is off by skew.
func (w *scheduleWorld) clock(skew time.Duration) func() time.Time {
	return func() time.Time { return w.start.Add(time.Since(w.begin) + skew) }
}

// process is a scheduler of its own, as one process has it.
func (w *scheduleWorld) process(now func() time.Time, list ...schedule) *scheduler {
	w.t.Helper()
	options, err := redis.ParseURL(world.redisURL)
	if err != nil {
		w.t.Fatal(err)
	}
	// The client would ask the resolver about its address, and that cannot be done in a bubble.
	options.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	client := redis.NewClient(options)
	w.t.Cleanup(func() { client.Close() })
	log := slog.New(slog.NewTextHandler(w.log, nil))
	return newScheduler(newOutbox(w.db, newQueue(client, "t"+newUUID().String(), "default"), log, []jobKind{{name: "noop"}}), list, now)
}

// runFor runs processes at once for so long.
func (w *scheduleWorld) runFor(d time.Duration, processes ...*scheduler) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), d)
	defer cancel()
	var all sync.WaitGroup
	for _, p := range processes {
		all.Go(func() { p.run(ctx) })
	}
	all.Wait()
	for _, p := range processes {
		p.pushing.Wait()
	}
}

// made are the ticks of a schedule that have jobs, oldest first and as often as there are jobs.
func (w *scheduleWorld) made(name string) []string {
	w.t.Helper()
	found, err := queryAll[struct{ Trace string }](w.t.Context(), w.db, `SELECT trace FROM jobs WHERE trace LIKE $1 || '@%' ORDER BY trace`, name)
	if err != nil {
		w.t.Fatal(err)
	}
	ticks := []string{}
	for _, f := range found {
		tick, _, _ := strings.Cut(strings.TrimPrefix(f.Trace, name+"@"), "/") // what follows is of the trace
		ticks = append(ticks, tick)
	}
	return ticks
}

func (w *scheduleWorld) exec(sql string) {
	w.t.Helper()
	if _, err := w.db.pool.Exec(w.t.Context(), sql); err != nil {
		w.t.Fatal(err)
	}
}

// ticksOf are the ticks of a line after a moment and up to another.
func (w *scheduleWorld) ticksOf(line, zone string, after, to time.Time) []string {
	w.t.Helper()
	c := cronOf(w.t, line, zone)
	ticks := []string{}
	for tick := c.next(after); !tick.After(to); tick = c.next(tick) {
		ticks = append(ticks, tick.UTC().Format(time.RFC3339))
	}
	return ticks
}

// wantTicks fails the test unless there is a job for each of the ticks and no other.
func (w *scheduleWorld) wantTicks(name string, want []string) {
	w.t.Helper()
	times := map[string]int{}
	for _, tick := range w.made(name) {
		times[tick]++
	}
	for _, tick := range want {
		if times[tick] != 1 {
			w.t.Errorf("%s: got %d jobs for %s, want one", name, times[tick], tick)
		}
		delete(times, tick)
	}
	if len(times) > 0 {
		w.t.Errorf("%s: got jobs for the ticks %v, want none", name, times)
	}
}

func everyMinute(catchUp string) schedule {
	return schedule{name: "minutely", line: "* * * * *", kind: "noop", catchUp: catchUp}
}

func TestScheduleFiresOncePerTickHoweverManyProcesses(t *testing.T) {
	for _, row := range []struct{ change, start string }{
		{"the clock is set forward", "2025-03-29T23:15:20Z"},
		{"the clock is set back", "2025-10-25T23:15:20Z"},
	} {
		t.Run(row.change, func(t *testing.T) {
			inScheduleWorld(t, row.start, func(w *scheduleWorld) {
				list := []schedule{
					{name: "minutely", line: "* * * * *", zone: "Europe/Berlin", kind: "noop", catchUp: "latest"},
					{name: "fixed", line: "*/10 0-4 * * *", zone: "Europe/Berlin", kind: "noop", catchUp: "all"},
				}
				skews := []time.Duration{3 * time.Second, 3 * time.Second, 0, -4 * time.Second, -200 * time.Millisecond} // two are first at once
				var processes []*scheduler
				for _, skew := range skews {
					processes = append(processes, w.process(w.clock(skew), list...))
				}
				w.runFor(2*time.Hour+10*time.Minute, processes...)
				end := w.clock(0)()
				for _, sc := range list {
					w.wantTicks(sc.name, w.ticksOf(sc.line, sc.zone, w.start, end))
				}
				if w.log.String() != "" {
					w.t.Errorf("losing a tick to another process is nothing to log:\n%s", w.log)
				}
			})
		})
	}
}

func TestScheduleMakesNoJobTheFirstTime(t *testing.T) {
	inScheduleWorld(t, "2025-06-01T12:00:00Z", func(w *scheduleWorld) {
		w.runFor(50*time.Second, w.process(w.clock(0), everyMinute("all")), w.process(w.clock(0), everyMinute("all")))
		w.wantTicks("minutely", []string{})
		w.runFor(30*time.Second, w.process(w.clock(0), everyMinute("all")))
		w.wantTicks("minutely", []string{"2025-06-01T12:01:00Z"})
	})
}

func TestScheduleMakesUpForMissedTicks(t *testing.T) {
	for _, row := range []struct {
		catchUp string
		outage  time.Duration
		want    func(missed []string) []string
	}{
		{"latest", 5 * time.Hour, func(missed []string) []string { return missed[len(missed)-1:] }},
		{"all", 90 * time.Minute, func(missed []string) []string { return missed }},
		{"all", 50 * time.Hour, func(missed []string) []string { return missed[len(missed)-maxMissed:] }},
	} {
		t.Run(fmt.Sprintf("%s after %s", row.catchUp, row.outage), func(t *testing.T) {
			inScheduleWorld(t, "2025-06-01T12:00:00Z", func(w *scheduleWorld) {
				w.runFor(90*time.Second, w.process(w.clock(0), everyMinute(row.catchUp)))
				stopped := w.clock(0)()
				time.Sleep(row.outage)
				// Only the newest tick may be relied on: the others may have been deleted.
				w.exec(`DELETE FROM ticks WHERE tick < (SELECT max(tick) FROM ticks)`)
				back := w.clock(0)()
				w.runFor(10*time.Second, w.process(w.clock(0), everyMinute(row.catchUp)), w.process(w.clock(0), everyMinute(row.catchUp)))
				want := append([]string{"2025-06-01T12:01:00Z"}, row.want(w.ticksOf("* * * * *", "", stopped, back))...)
				w.wantTicks("minutely", want)
			})
		})
	}
}

func TestScheduleLosesNoTickWhenProcessesAreKilled(t *testing.T) {
	inScheduleWorld(t, "2025-06-01T12:00:10Z", func(w *scheduleWorld) {
		// Again and again the connection dies, when it makes a job or when it commits a tick.
		w.exec(`CREATE SEQUENCE deaths`)
		w.exec(`CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
				IF nextval('deaths') % 5 = 0 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
				RETURN NULL;
			END $$`)
		w.exec(`CREATE TRIGGER die AFTER INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION die()`)
		w.exec(`CREATE CONSTRAINT TRIGGER die AFTER INSERT ON ticks DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die()`)
		// Processes begin and end all the time, so that sometimes none runs, for less than a minute.
		ctx, cancel := context.WithTimeout(w.t.Context(), 45*time.Minute)
		defer cancel()
		var places sync.WaitGroup
		for range 2 {
			places.Go(func() {
				for ctx.Err() == nil {
					life, cancel := context.WithTimeout(ctx, rand.N(2*time.Minute))
					w.process(w.clock(0), everyMinute("all")).run(life)
					cancel()
					sleep(ctx, rand.N(40*time.Second))
				}
			})
		}
		places.Wait()
		w.runFor(time.Minute, w.process(w.clock(0), everyMinute("all")))
		w.wantTicks("minutely", w.ticksOf("* * * * *", "", w.start, w.clock(0)()))
		if deaths, err := queryValue[int](w.t.Context(), w.db, `SELECT last_value / 5 FROM deaths`); err != nil || deaths < 10 {
			w.t.Errorf("got %d deaths, %v; want ten or more", deaths, err)
		}
	})
}

func TestScheduleMakesNothingTwiceWhenAClockIsSet(t *testing.T) {
	inScheduleWorld(t, "2025-06-01T12:00:10Z", func(w *scheduleWorld) {
		var mu sync.Mutex
		var skew time.Duration
		set := func(d time.Duration) { mu.Lock(); skew = d; mu.Unlock() }
		clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return w.clock(skew)() }
		hourly := schedule{name: "hourly", line: "0 * * * *", kind: "noop", catchUp: "latest"}
		go func() {
			time.Sleep(10 * time.Minute) // 12:10
			set(-30 * time.Minute)       // 11:40
			time.Sleep(40 * time.Minute) // 12:20
			set(60 * time.Minute)        // 13:50; 13:00 was left out
			time.Sleep(40 * time.Minute) // 14:30
			set(-2 * time.Hour)          // 11:30
			time.Sleep(4 * time.Hour)    // 15:30
		}()
		w.runFor(5*time.Hour+30*time.Minute, w.process(clock, everyMinute("latest"), hourly))
		want := w.ticksOf("* * * * *", "", w.start, clock())
		for missed := range slices.Values(w.ticksOf("* * * * *", "", w.start.Add(20*time.Minute), w.start.Add(109*time.Minute))) {
			want = slices.DeleteFunc(want, func(tick string) bool { return tick == missed }) // 12:21 to 13:49
		}
		w.wantTicks("minutely", want)
		w.wantTicks("hourly", []string{"2025-06-01T13:00:00Z", "2025-06-01T14:00:00Z", "2025-06-01T15:00:00Z"})
	})
}

func TestScheduleRefusesAProcessThatJudgedLongAgo(t *testing.T) {
	inScheduleWorld(t, "2025-06-01T12:00:10Z", func(w *scheduleWorld) {
		sc := everyMinute("latest")
		stale := w.process(w.clock(0), sc)
		w.runFor(90*time.Second, w.process(w.clock(0), sc))
		seen := w.start.Truncate(time.Minute) // what it read before it hung, while the others went on and old ticks were deleted
		w.runFor(time.Hour, w.process(w.clock(0), sc))
		w.exec(`DELETE FROM ticks WHERE tick < (SELECT max(tick) FROM ticks)`)
		if mine, err := stale.makeTick(w.t.Context(), &stale.list[0], &seen, seen.Add(time.Minute)); mine || err != nil {
			w.t.Errorf("got %v, %v; want the tick refused", mine, err)
		}
		w.wantTicks("minutely", w.ticksOf("* * * * *", "", w.start, w.clock(0)()))
	})
}

func TestScheduleHandsItsJobsToTheQueue(t *testing.T) {
	inScheduleWorld(t, "2025-06-01T12:00:10Z", func(w *scheduleWorld) {
		p := w.process(w.clock(0), schedule{name: "minutely", line: "* * * * *", kind: "noop", catchUp: "latest", payload: map[string]int{"n": 7}})
		w.runFor(10*time.Minute, p)
		jobs, err := queryAll[rowOfJob](w.t.Context(), w.db, `SELECT `+jobRowColumns+` FROM jobs`)
		if err != nil || len(jobs) != 10 {
			w.t.Fatalf("got %d jobs, %v; want 10", len(jobs), err)
		}
		for _, j := range jobs {
			if missing, err := p.queue.missing(w.t.Context(), []string{j.ID}); len(missing) > 0 || err != nil || j.Kind != "noop" || j.Payload != `{"n": 7}` {
				w.t.Errorf("%+v: missing %v, %v", j, missing, err)
			}
		}
	})
}

func TestScheduleOfAClockFarAheadGoesByTheDatabase(t *testing.T) {
	now := time.Now()
	inScheduleWorld(t, now.UTC().Format(time.RFC3339), func(w *scheduleWorld) {
		w.exec(`INSERT INTO ticks (name, tick) VALUES ('minutely', date_trunc('minute', clock_timestamp()) - interval '3 minutes')`)
		s := w.process(w.clock(400*24*time.Hour), everyMinute("all"))
		nap, err := s.round(w.t.Context())
		if err != nil || nap > time.Minute {
			w.t.Fatalf("got %v, %v; want the time to the next minute", nap, err)
		}
		s.pushing.Wait()
		if got := w.made("minutely"); len(got) < 3 || len(got) > 4 {
			w.t.Errorf("got %v; want the ticks of the last three minutes", got)
		}
		if !strings.Contains(w.log.String(), "the clock is ahead") {
			w.t.Errorf("no warning in %s", w.log)
		}
	})
}

func TestScheduleThatIsWrongStopsNoOther(t *testing.T) {
	inScheduleWorld(t, "2025-06-01T12:00:00Z", func(w *scheduleWorld) {
		p := w.process(w.clock(0),
			schedule{name: "unreadable", line: "* * * *", kind: "noop", catchUp: "latest"},
			schedule{name: "nowhere", line: "* * * * *", zone: "Europe/Bielefeld", kind: "noop", catchUp: "latest"},
			schedule{name: "unknown", line: "* * * * *", kind: "nop", catchUp: "latest"},
			schedule{name: "with space", line: "* * * * *", kind: "noop", catchUp: "latest"},
			schedule{name: "careless", line: "* * * * *", kind: "noop"},
			schedule{name: "endless", line: "* * * * *", kind: "noop", catchUp: "latest", payload: func() {}},
			schedule{name: "never", line: "0 0 30 2 *", kind: "noop", catchUp: "latest"},
			everyMinute("latest"), everyMinute("all"),
		)
		w.runFor(2*time.Minute+time.Second, p)
		w.wantTicks("minutely", []string{"2025-06-01T12:01:00Z", "2025-06-01T12:02:00Z"})
		for _, word := range []string{
			"write five", "unknown time zone Europe/Bielefeld", "no job is of kind", "empty or has a space", "write latest or all", "encode job noop", "another has its name",
		} {
			if !strings.Contains(w.log.String(), word) {
				w.t.Errorf("no %q in the log:\n%s", word, w.log)
			}
		}
	})
}

func TestSchedulesOfTheProgramAreRight(t *testing.T) {
	s := newTestServer(t)
	list := schedules()
	if got := newScheduler(s.outbox, list, time.Now); len(got.list) != len(list) {
		t.Errorf("some schedules were left out:\n%s", s.log.grep("schedule left out"))
	}
}
