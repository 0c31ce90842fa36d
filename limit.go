package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	limitPatience = 100 * time.Millisecond // with Redis
	limitPause    = time.Second            // for which Redis is left alone after it did not answer
	maxBuckets    = 50_000                 // callers that a process remembers of each limit
	maxQuota      = 1_000_000              // permits of one window
)

// rate is a limit: quota at once, and then one more whenever its share of the window has passed. That
// is GCRA, the algorithm of ATM networks: a bucket of permits that is kept as one moment, that at
// which it will be full again. The zero rate is no limit.
type rate struct {
	quota  int
	window time.Duration // whole seconds
}

// parseRate reads a rate such as 600/1m.
func parseRate(text string) (rate, bool) {
	count, span, _ := strings.Cut(text, "/")
	quota, err1 := strconv.Atoi(count)
	window, err2 := time.ParseDuration(span)
	ok := err1 == nil && err2 == nil && 1 <= quota && quota <= maxQuota && time.Second <= window && window <= 24*time.Hour && window%time.Second == 0
	return rate{quota, window}, ok
}

// interval is the time in which one permit comes back.
func (r rate) interval() time.Duration { return r.window / time.Duration(r.quota) }

// free is how many permits a bucket has now that is full again at a moment.
func (r rate) free(full, now time.Time) int {
	if !full.After(now) {
		return r.quota
	}
	return max(0, r.quota-int(math.Ceil(float64(full.Sub(now))/float64(r.interval()))))
}

// draw takes permits from a bucket: none if there are less than need, otherwise need and, while there
// are many left, up to want. The same stands in drawScript.
func (r rate) draw(full, now time.Time, need, want int) (int, time.Time) {
	if full.Before(now) {
		full = now
	}
	free := r.free(full, now)
	if free < need || want == 0 {
		return 0, full
	}
	granted := max(need, min(want, free/4))
	return granted, full.Add(time.Duration(granted) * r.interval())
}

// seats bound what is under way at once in this process: of everybody, and of one. Unlike a rate they are
// given back.
type seats struct {
	mu    sync.Mutex
	taken map[string]int // by whom
	all   int
}

// take takes a seat for somebody and returns what gives it back. Without one it is nil, and his tells
// whether that is because he has as many as one may have.
func (s *seats) take(who string, most, mostOfOne int) (back func(), his bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if his = s.taken[who] >= mostOfOne; his || s.all >= most {
		return nil, his
	}
	if s.taken == nil {
		s.taken = map[string]int{}
	}
	s.taken[who]++
	s.all++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.all--
		if s.taken[who]--; s.taken[who] == 0 {
			delete(s.taken, who)
		}
	}, false
}

// drawScript is rate.draw on a bucket in Redis and by the clock of Redis. A bucket is one key, which
// goes when it is full, so a cluster has nothing to tie together. When a lost answer makes go-redis
// repeat it, permits are lost, and come back with time.
// ARGV: interval in µs, quota, need, want, and permits given while Redis was away, which are taken
// first. Returns the permits granted, and µs until the bucket is full.
var drawScript = redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local interval, quota, need, want = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local owed = tonumber(ARGV[5])
local full = math.max(tonumber(redis.call('GET', KEYS[1]) or '') or now, now)
if owed > 0 then full = math.max(full, math.min(full + owed * interval, now + 2 * quota * interval)) end
local free = quota - math.ceil((full - now) / interval)
local granted = 0
if free >= need and want > 0 then
	granted = math.max(need, math.min(want, math.floor(free / 4)))
	full = full + granted * interval
end
if granted + owed > 0 then
	redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000))
end
return {granted, full - now}`)

// limits is what all limits of one process share: the way to Redis, and whether to go it.
type limits struct {
	redis    redis.UniversalClient
	prefix   string        // of all keys
	patience time.Duration // with Redis
	log      *slog.Logger
	away     atomic.Int64 // Redis does not answer, and is not asked before this moment, ns since 1970; 0: it does
}

// mayAsk tells whether Redis should be asked. While it is away one request in each limitPause tries.
func (l *limits) mayAsk(now time.Time) bool {
	until := l.away.Load()
	return until == 0 || now.UnixNano() >= until && l.away.CompareAndSwap(until, now.Add(limitPause).UnixNano())
}

// limitKey is whom a limit counts: a kind, and an id or a digest.
type limitKey struct {
	kind byte
	id   [16]byte
}

// limiter is one limit. The buckets are in Redis, for all processes together. A process leases
// permits from them in parts, so most requests cost no round trip; no permit is given twice. What
// may be more is what a process leased earlier and still holds: in any window all processes together
// let through at most what the bucket gave and a part for each of them. While Redis is away each
// process counts for itself.
type limiter struct {
	*limits
	name    string
	policy  string // as callers are told of it
	rate    rate
	part    int          // permits leased at once; 1 counts exactly
	refused atomic.Int64 // requests

	mu     sync.Mutex
	young  map[limitKey]*bucket // two generations, so that those go who have not come for long
	old    map[limitKey]*bucket
	turned time.Time // when young was last empty
}

// newLimiter makes a limit, or nil, which limits nothing, of the zero rate.
func newLimiter(shared *limits, name string, r rate, part int) *limiter {
	if r.quota == 0 {
		return nil
	}
	return &limiter{
		limits: shared, name: name, policy: fmt.Sprintf(`"%s";q=%d;w=%.0f`, name, r.quota, r.window.Seconds()), rate: r,
		part: max(1, part), young: map[limitKey]*bucket{}, turned: time.Now(),
	}
}

// bucket is what a process knows of one caller's bucket.
type bucket struct {
	mu     sync.Mutex
	leased int       // permits taken and not yet used
	owed   int       // permits given without asking Redis, while it was away
	full   time.Time // when the bucket in Redis will be full again, as far as is known
}

// bucket finds a caller's; one that was forgotten is as good as full.
func (l *limiter) bucket(key limitKey) *bucket {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.young[key]
	if b != nil {
		return b
	}
	if b = l.old[key]; b == nil {
		b = &bucket{}
	}
	if len(l.young) >= maxBuckets/2 || time.Since(l.turned) > l.rate.window {
		l.old, l.young, l.turned = l.young, map[limitKey]*bucket{}, time.Now()
	}
	l.young[key] = b
	return b
}

// allowance is what a limit says to a request.
type allowance struct {
	ok   bool
	left int           // permits there are still
	full time.Duration // until all are there again
	wait time.Duration // until as many as were asked for will be; 0 if ok
}

// take uses up permits of a caller, all or none. A cost above the quota counts as the quota.
func (l *limiter) take(key limitKey, cost int) allowance {
	cost = min(cost, l.rate.quota)
	b := l.bucket(key)
	b.mu.Lock()
	defer b.mu.Unlock()
	if short := cost - b.leased; short > 0 && l.rate.free(b.full, time.Now()) >= short { // else asking would be in vain
		b.leased += l.draw(key, b, l.rate, short, max(short, l.part))
	}
	if b.leased < cost {
		return l.refusal(b, cost)
	}
	b.leased -= cost
	left := min(l.rate.quota, b.leased+l.rate.free(b.full, time.Now()))
	return allowance{ok: true, left: left, full: l.rate.interval() * time.Duration(l.rate.quota-left)}
}

// refusal tells when there will be as many permits as a request costs.
func (l *limiter) refusal(b *bucket, cost int) allowance {
	now := time.Now()
	left := b.leased + l.rate.free(b.full, now)
	wait := b.full.Sub(now) - l.rate.interval()*time.Duration(l.rate.quota-cost+b.leased)
	return allowance{left: left, full: l.rate.interval() * time.Duration(l.rate.quota-left), wait: max(time.Millisecond, wait)}
}

// look tells whether a caller has a permit left, and takes none.
func (l *limiter) look(key limitKey) allowance {
	b := l.bucket(key)
	b.mu.Lock()
	defer b.mu.Unlock()
	if l.rate.free(b.full, time.Now()) > 0 {
		l.draw(key, b, l.rate, 0, 0)
	}
	if l.rate.free(b.full, time.Now()) == 0 {
		return l.refusal(b, 1)
	}
	return allowance{ok: true}
}

// note counts something that has happened, also beyond the quota: up to twice that.
func (l *limiter) note(key limitKey) {
	b := l.bucket(key)
	b.mu.Lock()
	defer b.mu.Unlock()
	l.draw(key, b, rate{2 * l.rate.quota, 2 * l.rate.window}, 1, 1)
}

// draw is rate.draw on a caller's bucket in Redis, or on its image here when Redis is away.
func (l *limiter) draw(key limitKey, b *bucket, r rate, need, want int) (granted int) {
	now := time.Now()
	if l.mayAsk(now) {
		// Not the request's context: a client who hangs up says nothing about Redis.
		ctx, cancel := context.WithTimeout(context.Background(), l.patience)
		defer cancel()
		name := l.prefix + l.name + ":" + string(key.kind) + hex.EncodeToString(key.id[:])
		reply, err := drawScript.Run(ctx, l.redis, []string{name}, r.interval().Microseconds(), r.quota, need, want, b.owed).Int64Slice()
		if err == nil && len(reply) == 2 {
			if l.away.Swap(0) != 0 {
				l.log.Info("Redis answers again; all processes limit callers together")
			}
			b.owed, b.full = 0, time.Now().Add(time.Duration(reply[1])*time.Microsecond)
			return int(reply[0])
		}
		if l.away.Swap(time.Now().Add(limitPause).UnixNano()) == 0 {
			l.log.Warn("Redis does not answer; each process limits its callers by itself", "error", err)
		}
	}
	granted, b.full = r.draw(b.full, now, need, want)
	b.owed += granted
	return granted
}
