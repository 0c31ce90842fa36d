package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	maxNap    = 30 * time.Second // between looks at the clock, which may be set meanwhile
	shortNap  = 5 * time.Second  // when something due was not made: the database failed, or another process is at it
	maxMissed = 100              // ticks of one schedule that are made up for
	maxSkew   = time.Minute      // that a process's clock may be ahead of the database's
)

// schedule is a job that time causes. Its ticks are kept under its name: a schedule with a new name
// starts anew, one with a new line goes on from the newest tick of the old.
type schedule struct {
	name       string // without spaces
	line, zone string // a cron line and the name of a time zone
	kind       string // of the job
	payload    any
	catchUp    string // after ticks at which no process ran: "latest" makes the newest job only, "all" each, at most maxMissed

	cron cronLine // line and zone, read
}

// read checks a schedule and makes it ready to run.
func (sc *schedule) read(kinds map[string]jobKind) error {
	zone, err := time.LoadLocation(sc.zone)
	if err != nil {
		return fmt.Errorf("time zone %q: %w", sc.zone, err)
	}
	if sc.cron, err = parseCron(sc.line, zone); err != nil {
		return err
	}
	if _, known := kinds[sc.kind]; !known {
		return fmt.Errorf("no job is of kind %q", sc.kind)
	}
	if sc.name == "" || strings.ContainsAny(sc.name, " \n") {
		return errors.New("its name is empty or has a space")
	}
	if sc.catchUp != "latest" && sc.catchUp != "all" {
		return fmt.Errorf("catchUp is %q; write latest or all", sc.catchUp)
	}
	return nil
}

// due are the ticks for which a schedule owes a job, oldest first: those after seen, up to now, as
// far as catchUp makes up for them. skipped is how many it does not; next is the first after now,
// zero if there is none.
func (sc *schedule) due(seen, now time.Time) (ticks []time.Time, skipped int, next time.Time) {
	keep := 1
	if sc.catchUp == "all" {
		keep = maxMissed
	}
	for next = sc.cron.next(seen); !next.IsZero() && !next.After(now); next = sc.cron.next(next) {
		if ticks = append(ticks, next); len(ticks) > keep {
			ticks = ticks[1:]
			skipped++
		}
	}
	return ticks, skipped, next
}

// scheduler makes the jobs of schedules in one process.
type scheduler struct {
	*outbox
	list []schedule
	now  func() time.Time // the process's clock
}

// runSchedules makes the jobs of schedules until ctx ends. Any number of processes may run the same
// list, with clocks that differ: a tick and its job are one transaction, and a tick is a primary key.
// A schedule that is wrong is logged and left out.
func (s *server) runSchedules(ctx context.Context, list []schedule) {
	newScheduler(s.outbox, list, time.Now).run(ctx)
}

func newScheduler(o *outbox, list []schedule, now func() time.Time) *scheduler {
	s := &scheduler{outbox: o, now: now}
	for i, sc := range list {
		err := sc.read(o.kinds)
		if slices.ContainsFunc(list[:i], func(other schedule) bool { return other.name == sc.name }) {
			err = errors.New("another has its name")
		}
		if err != nil {
			o.log.Error("schedule left out", "schedule", sc.name, "error", err)
			continue
		}
		s.list = append(s.list, sc)
	}
	return s
}

func (s *scheduler) run(ctx context.Context) {
	for ctx.Err() == nil {
		nap, err := s.round(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.Warn("schedules wait", "error", err)
		}
		sleep(ctx, nap)
	}
}

// newestTick is what the database knows of one schedule.
type newestTick struct {
	Name string
	Tick *time.Time // nil before the first
	Now  time.Time  // on the database's clock
}

// newestTicksSQL looks only at the newest tick of each schedule; older ones may have been deleted.
const newestTicksSQL = `
	SELECT name, (SELECT max(tick) FROM ticks t WHERE t.name = n.name) AS tick, clock_timestamp() AS now
	FROM unnest($1::text[]) AS n(name)`

// round makes what is due and returns for how long nothing more will be. It trusts the process's
// clock, but not for ticks that are still to come on the database's: their rows would stop the
// schedule until then, for every process.
func (s *scheduler) round(ctx context.Context) (time.Duration, error) {
	names := make([]string, len(s.list))
	for i, sc := range s.list {
		names[i] = sc.name
	}
	found, err := queryAll[newestTick](ctx, s.db, newestTicksSQL, names)
	if err != nil {
		return shortNap, fmt.Errorf("read the newest ticks: %w", err)
	}
	seen := map[string]*time.Time{}
	now := s.now()
	for _, f := range found {
		seen[f.Name] = f.Tick
		if now.Sub(f.Now) > maxSkew {
			s.log.Warn("the clock is ahead of the database's, which schedules go by now; set it right", "by", now.Sub(f.Now).String())
			now = f.Now
		}
	}
	nap := maxNap
	var failed error
	for _, sc := range s.list {
		next, err := s.makeDue(ctx, &sc, seen[sc.name], now)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("schedule %s: %w", sc.name, err))
		}
		nap = min(nap, next)
	}
	return nap, failed
}

// makeDue makes the jobs that one schedule owes and returns the time until the next. A schedule that
// has never been seen owes nothing and starts now.
func (s *scheduler) makeDue(ctx context.Context, sc *schedule, seen *time.Time, now time.Time) (time.Duration, error) {
	if seen == nil {
		start := now.Truncate(time.Minute)
		if _, err := s.makeTick(ctx, sc, nil, start); err != nil {
			return shortNap, err
		}
		seen = &start
	}
	ticks, skipped, next := sc.due(*seen, now)
	for i, tick := range ticks {
		mine, err := s.makeTick(ctx, sc, seen, tick)
		if err != nil || !mine {
			return shortNap, err
		}
		seen = &tick
		if i == 0 && skipped > 0 {
			s.log.Warn("schedule missed ticks", "schedule", sc.name, "skipped", skipped, "made", len(ticks))
		}
	}
	if next.IsZero() {
		return maxNap, nil
	}
	return next.Sub(now), nil
}

// claimTickSQL gives a tick to whoever asks first, if the newest is still the one he has judged by.
const claimTickSQL = `
	INSERT INTO ticks (name, tick)
	SELECT $1, $2::timestamptz WHERE NOT EXISTS (SELECT FROM ticks WHERE name = $1 AND tick > coalesce($3::timestamptz, '-infinity'))
	ON CONFLICT DO NOTHING`

// makeTick makes a tick and its job, both or neither, unless another process was first. The very
// first tick, with nothing seen before, has no job.
func (s *scheduler) makeTick(ctx context.Context, sc *schedule, seen *time.Time, tick time.Time) (mine bool, err error) {
	var made []job
	err = s.db.inTx(ctx, func(tx pgx.Tx) error {
		made = nil
		claimed, err := tx.Exec(ctx, claimTickSQL, sc.name, tick, seen)
		if err != nil || claimed.RowsAffected() == 0 || seen == nil {
			return err
		}
		b := &pgx.Batch{}
		j, err := queueJob(b, newJob{kind: sc.kind, payload: sc.payload, priority: normalPriority, trace: newTrace(sc.name+"@"+tick.UTC().Format(time.RFC3339), nil).carried()})
		if err != nil {
			return err
		}
		made = append(made, j)
		return tx.SendBatch(ctx, b).Close()
	})
	if err != nil {
		return false, err
	}
	s.pushSoon(made...)
	return len(made) > 0, nil
}
