package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// Times of leases. They are far enough apart that a clock which runs a tenth too fast or too slow
// does no harm, and each is measured on one clock only.
const (
	beatEvery  = 100 * time.Millisecond
	beatLimit  = 250 * time.Millisecond  // a beat beside others that takes longer tells of a Redis in trouble
	trustTime  = 400 * time.Millisecond  // after a good beat was sent, for reading beside others
	aloneTime  = 800 * time.Millisecond  // and for reading alone
	leaseTime  = time.Second             // after which others count this process as gone
	settleTime = 1300 * time.Millisecond // after a change that others may see later
)

// A lease is a process's part in the cache that all processes share. Each process beats in Redis; a
// beat tells it of the others and of the generation, the name under which everything is kept:
//
//   - A process that is alone keeps its cache to itself, with no word to Redis: nobody else writes.
//   - Whoever joins others waits leaseTime before it does anything, also where Redis knows of none
//     but may have forgotten them. By then they have seen it, or their own lease has run out.
//   - Whenever something may have been missed, by anybody, the generation changes: Redis did not
//     answer, began anew or went back in time, a process died or was alone until now. From the change on
//     nobody reads the cache for settleTime, in which all others have seen it too, or lost their lease.
//
// This is cache coherence by leases (Gray and Cheriton 1989) with one server for all leases.
type lease struct {
	redis     redis.UniversalClient
	space     string
	id        string // of this life of this process
	log       *slog.Logger
	at        atomic.Pointer[standing]
	fresh     atomic.Int64  // when the client last made a connection, which may be to a Redis begun anew
	anew      atomic.Bool   // the next beat must change the generation
	manyNodes atomic.Bool   // Redis is a Cluster
	joined    chan struct{} // closed when this process may write
	once      sync.Once
}

// standing is what the beats have established. It is replaced, never changed.
type standing struct {
	generation string
	epoch      uint64    // counts the times at which what is kept in the process became worthless
	alone      bool      // no other process lives
	sent       time.Time // when the last good beat was sent
	from       time.Time // reading is safe from then on
	faulty     bool      // beside others: the last beat failed, was slow or told of a change
	failures   int       // beats that failed since the last good one
	refused    bool      // the last of them because nobody listens
	turned     time.Time // when this process saw the generation change
	run        string    // which life of Redis
	unsure     time.Time // until then there may be others of whom Redis has forgotten
}

// trusted tells whether the cache may be read now.
func (st *standing) trusted(now time.Time) bool {
	if st.alone {
		return now.Sub(st.sent) < aloneTime
	}
	return !st.faulty && now.Sub(st.sent) < trustTime && !now.Before(st.from)
}

// held tells whether others still count on hearing of this process's writes.
func (st *standing) held(now time.Time) bool { return now.Sub(st.sent) < leaseTime-beatEvery }

// cutOff tells that Redis has been away for so long that all others know it. That nobody listens is
// certain; that nobody answers may as well be this process's own slowness, so it takes longer.
func (st *standing) cutOff(now time.Time) bool {
	away := now.Sub(st.sent)
	return st.refused && st.failures > 1 && away >= leaseTime || st.failures > 3 && away >= 3*leaseTime
}

// beatScript renews a member's lease. KEYS: members ZSET id → when the lease ends, ms; generation.
// ARGV: id, ms, 1 at the first beat, generation to leave behind or -, one to begin.
var beatScript = redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local died = redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local others = redis.call('ZCARD', KEYS[1])
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then others = others - 1 end
local generation = redis.call('GET', KEYS[2])
local lost = generation and 0 or 1
if lost == 1 or generation == ARGV[4] or died > 0 or ARGV[3] == '1' and others == 0 then
	generation = ARGV[5]
	redis.call('SET', KEYS[2], generation)
end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
return {generation, others, lost, string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')}`)

// join waits until this process may write: the others have seen it, or there are none. Without
// Redis nobody can say, so it waits as long as they could have gone without seeing it.
func (l *lease) join(ctx context.Context) {
	select {
	case <-l.joined:
	case <-time.After(leaseTime + beatLimit):
	case <-ctx.Done():
	}
}

// leave ends the membership.
func (l *lease) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), beatLimit)
	defer cancel()
	l.redis.ZRem(ctx, l.key("members"), l.id)
}

func (l *lease) key(name string) string { return l.space + ":{cache}:" + name }

// connected notes a new connection to Redis. The beat tells which life of Redis it is, but only of
// the node of a Cluster that the beat goes to; another one may be a replica that has taken over and
// lags behind, so everybody begins anew.
func (l *lease) connected(context.Context, *redis.Conn) error {
	l.fresh.Store(time.Now().UnixNano())
	if l.manyNodes.Load() {
		l.begin()
	}
	return nil
}

// now is the present standing.
func (l *lease) now() *standing {
	if st := l.at.Load(); st != nil {
		return st
	}
	return &standing{faulty: true}
}

// begin has everybody start with an empty cache.
func (l *lease) begin() { l.anew.Store(true) }

// run beats until ctx ends.
func (l *lease) run(ctx context.Context) {
	var first time.Time // good beat
	for ctx.Err() == nil {
		sent, was := time.Now(), l.now()
		st, err := l.beat(ctx, was, sent)
		if err != nil && ctx.Err() == nil && !was.faulty {
			l.log.Warn("cache off: Redis does not answer", "error", err)
		}
		l.at.Store(st)
		if first.IsZero() && st.sent.Equal(sent) {
			first = sent
		}
		if !first.IsZero() && (st.alone || sent.Sub(first) > leaseTime) {
			l.once.Do(func() { close(l.joined) })
		}
		sleep(ctx, beatEvery)
	}
}

// beat is one beat and the standing that follows from it.
func (l *lease) beat(ctx context.Context, was *standing, sent time.Time) (*standing, error) {
	st, first, left := *was, "0", "-"
	if was.generation == "" {
		first = "1"
	} else if l.anew.Swap(false) {
		left = was.generation
	}
	limited, cancel := context.WithTimeout(ctx, leaseTime/2)
	defer cancel()
	reply, err := beatScript.Run(limited, l.redis, []string{l.key("members"), l.key("generation")},
		l.id, leaseTime.Milliseconds(), first, left, newUUID().String()).Slice()
	if err != nil {
		if !was.alone {
			l.begin()
		}
		st.faulty, st.failures = true, was.failures+1 // who was alone stays so until its lease runs out
		st.refused = errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
		return &st, err
	}
	generation, _ := reply[0].(string)
	others, _ := reply[1].(int64)
	lost, _ := reply[2].(int64)
	run, _ := reply[3].(string)
	if generation != was.generation {
		st.turned = time.Now()
	}
	restarted := run != was.run && was.run != ""
	if lost == 1 || restarted || generation != was.generation && was.generation != "" {
		st.unsure = sent.Add(leaseTime)
	}
	st.generation, st.run, st.sent, st.failures = generation, run, sent, 0
	st.alone = others == 0 && !sent.Before(st.unsure)
	switch {
	case st.alone:
		st.faulty = false
		if !was.alone || time.Since(was.sent) >= leaseTime {
			st.epoch++ // others may have come and gone
		}
	case was.alone, restarted, time.Since(sent) > beatLimit:
		// What was written alone has not been told to anybody; another life of Redis may be an earlier
		// state; in a slow one others may have missed something.
		l.begin()
		st.faulty = true
	default:
		st.faulty = false
		if was.faulty || generation != was.generation {
			st.epoch++
			st.from = time.Now().Add(settleTime)
		}
	}
	return &st, nil
}
