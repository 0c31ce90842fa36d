package main

import (
	lru "container/list"
	"context"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// The cache keeps answers ready to be sent, and never gives one that is older than a write that has
// been answered, on whatever process.
//
// Everything in it belongs to a scope: a project or a user, as the change log has them. A scope has a
// token, and an entry is good while the token it was made under is still the scope's. Every write that
// the log tells of gives its scopes new tokens, after its commit and before it is answered. A token is
// read before the database is, so an entry cannot hide a write: either the entry's query saw it, or the
// token is no longer the one it began with.
//
// While a process is alone (see lease.go) tokens and entries live in it. Beside others the tokens live
// in Redis, where one round trip for many requests fetches them, and entries also do, for all to use.
const (
	maxEntry      = 64 << 10 // bytes; what is larger is not kept
	maxKept       = 16 << 20 // bytes kept in this process
	entryOverhead = 300      // bytes that an entry costs beside its own
	entryLife     = 60 * time.Second
	tokenLife     = 10 * time.Minute       // in Redis, since the last write or first read
	lookLimit     = 100 * time.Millisecond // for Redis; then the database is asked
	raiseLimit    = 200 * time.Millisecond // for one try
	maxRaises     = 500                    // tries, 25 ms or more apart; others find out by the entries' end
	maxRound      = 256                    // requests in one round trip
	maxTokens     = 100_000                // kept in this process
	maxHomes      = 50_000                 // too
	maxShared     = 1 << 20                // bytes a second that this process puts into Redis
)

// key names an entry.
type key struct {
	scope uuid
	name  string
}

// entry is one answer.
type entry struct {
	key
	token string
	body  []byte
	until time.Time
}

// cache is one process's part of it.
type cache struct {
	redis   redis.UniversalClient
	space   string
	lease   *lease
	stop    context.CancelFunc
	running sync.WaitGroup
	looks   *batcher[*sight]
	raises  *batcher[raising]
	sharing chan entry
	hits    atomic.Int64
	misses  atomic.Int64
	lookups [len(cacheNames)]struct{ hits, misses atomic.Int64 } // of single entries, by name

	mu      sync.Mutex
	epoch   uint64               // of the lease; what was kept before it is worthless
	tokens  map[uuid]string      // of scopes, while alone
	entries map[key]*lru.Element // of *entry
	order   lru.List             // the one used last in front
	size    int                  // bytes
	filling map[filling]*made
	homes   map[string]uuid // project of a task by its id or ref; a hint, which the entry proves
}

// openCache joins the other processes. It has a client of its own, which gives up soon.
func openCache(address, space string, log *slog.Logger) (*cache, error) {
	lease := &lease{space: space, id: newUUID().String(), log: log, joined: make(chan struct{})}
	var err error
	if lease.redis, err = openImpatientRedis(address, leaseTime/2, lease.connected); err != nil {
		return nil, err
	}
	_, cluster := lease.redis.(*redis.ClusterClient)
	lease.manyNodes.Store(cluster) // the client may be connecting already
	c := &cache{
		redis: lease.redis, space: space, lease: lease, sharing: make(chan entry, 1024),
		tokens: map[uuid]string{}, entries: map[key]*lru.Element{}, filling: map[filling]*made{}, homes: map[string]uuid{},
	}
	c.looks = newBatcher(maxRound, c.fetch)
	c.raises = newBatcher(maxRound, c.publish)
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	c.running.Go(func() { lease.run(ctx) })
	c.running.Go(func() { c.share(ctx) })
	return c, nil
}

// close leaves the other processes, so that the next need not wait for the lease to run out.
func (c *cache) close() {
	if c == nil {
		return
	}
	c.stop()
	c.running.Wait()
	c.lease.leave()
	c.redis.Close()
}

// join waits until this process may serve beside the others.
func (c *cache) join(ctx context.Context) {
	if c != nil {
		c.lease.join(ctx)
	}
}

// newToken is one that no scope ever had.
func newToken() string {
	const digits = "0123456789abcdefghijklmnopqrstuvwxyz"
	var text [16]byte
	for i := range text {
		text[i] = digits[rand.IntN(len(digits))]
	}
	return string(text[:])
}

// sight is what a look at the cache found. Its tokens are the right to keep what it did not find.
type sight struct {
	standing *standing
	keys     []key
	tokens   []string // of the keys' scopes; "" where nothing may be kept
	bodies   [][]byte // nil where there is none
}

// whole tells that everything was found.
func (s *sight) whole() bool {
	for _, body := range s.bodies {
		if body == nil {
			return false
		}
	}
	return true
}

// look looks for entries, in one round trip or none. A cache that is off finds nothing.
func (c *cache) look(ctx context.Context, keys ...key) *sight {
	s := &sight{keys: keys, tokens: make([]string, len(keys)), bodies: make([][]byte, len(keys))}
	if c == nil {
		return s
	}
	now := time.Now()
	s.standing = c.lease.now()
	switch {
	case !s.standing.trusted(now):
	case s.standing.alone:
		c.find(s, now)
	default:
		limited, cancel := context.WithTimeout(ctx, lookLimit)
		defer cancel()
		found := &sight{standing: s.standing, keys: keys, tokens: make([]string, len(keys)), bodies: make([][]byte, len(keys))}
		if err := c.looks.do(limited, found); err == nil && c.stillTrusted(s.standing) {
			s = found
		}
	}
	for i, k := range keys {
		n := &c.lookups[cacheName(k.name)]
		if s.bodies[i] != nil {
			n.hits.Add(1)
		} else {
			n.misses.Add(1)
		}
	}
	hit := s.whole()
	if hit {
		c.hits.Add(1)
	} else {
		c.misses.Add(1)
	}
	timingOf(ctx).look(hit)
	return s
}

// cacheNames are what entries' names begin with, for counting; the last is for all others.
var cacheNames = [...]string{"session", "member", "task", "tasks", "project", "stats", "other"}

// cacheName is the place in cacheNames of an entry's name.
func cacheName(name string) int {
	head := name
	if end := strings.IndexAny(name, "/?"); end >= 0 {
		head = name[:end]
	}
	for i, known := range cacheNames {
		if head == known {
			return i
		}
	}
	return len(cacheNames) - 1
}

// stillTrusted tells whether what Redis said under a standing comes from the Redis of the last good beat.
func (c *cache) stillTrusted(st *standing) bool {
	at, now := c.lease.now(), time.Now()
	return at.generation == st.generation && at.trusted(now) && c.lease.fresh.Load() < at.sent.UnixNano()
}

// find completes a sight from this process alone.
func (c *cache) find(s *sight, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.enter(s.standing)
	for i, k := range s.keys {
		token := c.tokens[k.scope]
		if token == "" {
			if len(c.tokens) >= maxTokens {
				clear(c.tokens)
			}
			token = newToken()
			c.tokens[k.scope] = token
		}
		s.tokens[i] = token
		s.bodies[i] = c.body(k, token, now)
	}
}

// enter empties the cache when the lease has an epoch that it has not seen.
func (c *cache) enter(st *standing) {
	if st.epoch > c.epoch {
		c.epoch = st.epoch
		c.empty()
	}
}

func (c *cache) empty() {
	clear(c.tokens)
	clear(c.entries)
	c.order.Init()
	c.size = 0
}

// body is what an entry made under this token holds.
func (c *cache) body(k key, token string, now time.Time) []byte {
	e, ok := c.entries[k]
	if !ok {
		return nil
	}
	kept := e.Value.(*entry)
	if kept.token != token || now.After(kept.until) {
		c.drop(e)
		return nil
	}
	c.order.MoveToFront(e)
	return kept.body
}

func (c *cache) drop(e *lru.Element) {
	kept := e.Value.(*entry)
	c.order.Remove(e)
	delete(c.entries, kept.key)
	c.size -= len(kept.body) + len(kept.name) + entryOverhead
}

// keep keeps what a sight did not find, as it was read from the database after the sight.
func (c *cache) keep(s *sight, i int, body []byte) {
	if c == nil || s.tokens[i] == "" || len(body) > maxEntry {
		return
	}
	life := entryLife - rand.N(entryLife/5) // so that what was made together does not end together
	e := &entry{key: s.keys[i], token: s.tokens[i], body: body, until: time.Now().Add(life)}
	c.mu.Lock()
	c.enter(s.standing)
	if !s.standing.alone || c.tokens[e.scope] == e.token {
		c.insert(e)
	}
	c.mu.Unlock()
	if !s.standing.alone {
		select {
		case c.sharing <- *e:
		default: // Redis has enough to do
		}
	}
}

// insert adds an entry and drops those used longest ago.
func (c *cache) insert(e *entry) {
	if old, ok := c.entries[e.key]; ok {
		c.drop(old)
	}
	c.entries[e.key] = c.order.PushFront(e)
	c.size += len(e.body) + len(e.name) + entryOverhead
	for c.size > maxKept {
		c.drop(c.order.Back())
	}
}

// text is an entry in Redis: its token and its end in ms, and then the answer.
func (e entry) text() string {
	return e.token + " " + strconv.FormatInt(e.until.UnixMilli(), 10) + "\n" + string(e.body)
}

func openEntry(k key, text string) entry {
	head, body, _ := strings.Cut(text, "\n")
	token, until, _ := strings.Cut(head, " ")
	ms, _ := strconv.ParseInt(until, 10, 64)
	return entry{k, token, []byte(body), time.UnixMilli(ms)}
}

// Keys in Redis: one hash tag for each scope, so that Cluster keeps its keys together.
func (c *cache) tokenKey(generation string, scope uuid) string {
	return c.space + ":" + generation + ":{" + scope.String() + "}"
}

func (c *cache) entryKey(generation string, k key) string {
	return c.tokenKey(generation, k.scope) + k.name
}

// fetch completes sights of many requests in one round trip, or in two where a scope has no token yet.
func (c *cache) fetch(ctx context.Context, sights []*sight) error {
	pipe := c.redis.Pipeline()
	replies := make([][]*redis.SliceCmd, len(sights))
	for i, s := range sights {
		for _, k := range s.keys {
			replies[i] = append(replies[i], pipe.MGet(ctx, c.tokenKey(s.standing.generation, k.scope), c.entryKey(s.standing.generation, k)))
		}
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return err
	}
	first := c.redis.Pipeline()
	firsts := map[*string]*redis.StringCmd{}
	now := time.Now()
	c.mu.Lock()
	for i, s := range sights {
		c.enter(s.standing)
		for j, k := range s.keys {
			values := replies[i][j].Val()
			token, ok := values[0].(string)
			if !ok {
				name := c.tokenKey(s.standing.generation, k.scope)
				first.SetNX(ctx, name, newToken(), tokenLife)
				firsts[&s.tokens[j]] = first.Get(ctx, name)
				continue
			}
			s.tokens[j] = token
			if s.bodies[j] = c.body(k, token, now); s.bodies[j] != nil {
				continue
			}
			if text, ok := values[1].(string); ok {
				if e := openEntry(k, text); e.token == token && now.Before(e.until) {
					s.bodies[j] = e.body
					c.insert(&e)
				}
			}
		}
	}
	c.mu.Unlock()
	if len(firsts) == 0 {
		return nil
	}
	if _, err := first.Exec(ctx); err != nil {
		return err
	}
	for token, reply := range firsts {
		*token = reply.Val()
	}
	return nil
}

// raising is one write's part in a round trip.
type raising struct {
	generation string
	scopes     []uuid
}

// publish gives scopes new tokens, and tells the other processes' hubs of them.
func (c *cache) publish(ctx context.Context, list []raising) error {
	pipe := c.redis.Pipeline()
	message := []byte(c.lease.id)
	for _, r := range list {
		for _, scope := range r.scopes {
			pipe.Set(ctx, c.tokenKey(r.generation, scope), newToken(), tokenLife)
			message = append(message, scope[:]...)
		}
	}
	pipe.Publish(ctx, changesChannel(c.space), message)
	_, err := pipe.Exec(ctx)
	return err
}

// changesChannel is where a process tells which scopes it has changed.
func changesChannel(space string) string { return space + ":changes" }

// readChanges reads a message of that channel: who tells, and 16 bytes for each scope.
func readChanges(message string) (from string, scopes []uuid) {
	const idSize = 36
	if len(message) < idSize {
		return "", nil
	}
	from, message = message[:idSize], message[idSize:]
	for ; len(message) >= 16; message = message[16:] {
		scopes = append(scopes, uuid([]byte(message[:16])))
	}
	return from, scopes
}

// raise gives scopes new tokens. It is called after a commit and before the write is answered, and
// returns when nobody can read what was before, which with Redis in good health takes a round trip
// and in a process that is alone nothing.
func (c *cache) raise(scopes []uuid) {
	if c == nil || len(scopes) == 0 {
		return
	}
	c.forget(scopes)
	lapsed := false
	for range maxRaises {
		st, now := c.lease.now(), time.Now()
		switch {
		case st.alone && st.held(now):
			return
		case st.cutOff(now):
			c.lease.begin() // until then nobody trusts the cache
			return
		case !st.held(now):
			lapsed = true // others may think they are alone until they see this process again
			time.Sleep(beatEvery / 4)
			continue
		case lapsed:
			time.Sleep(aloneTime)
			lapsed = false
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), raiseLimit)
		err := c.raises.do(ctx, raising{st.generation, scopes})
		cancel()
		if at := c.lease.now(); err == nil && at.generation == st.generation && at.held(time.Now()) {
			time.Sleep(time.Until(at.turned.Add(trustTime + beatEvery))) // until nobody trusts the generation before
			return
		}
		time.Sleep(beatEvery / 4)
	}
}

// forget has this process read scopes anew.
func (c *cache) forget(scopes []uuid) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, scope := range scopes {
		delete(c.tokens, scope)
	}
}

// forgetAll is for a write of which nobody knows whether it was made.
func (c *cache) forgetAll() {
	if c == nil {
		return
	}
	c.mu.Lock()
	c.empty()
	c.mu.Unlock()
	if !c.lease.now().alone {
		c.lease.begin()
	}
}

// home is the project that a task, by id or ref, was last seen in; nil if it was not.
func (c *cache) home(task string) *uuid {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if project, ok := c.homes[task]; ok {
		return &project
	}
	return nil
}

// homeOf is home by id, zero if it is not known.
func (c *cache) homeOf(task uuid) uuid {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.homes[task.String()]
}

func (c *cache) noteHome(task string, project uuid) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.homes) >= maxHomes {
		clear(c.homes)
	}
	c.homes[task] = project
}

// filling is an entry that a request is about to make.
type filling struct {
	key
	token string
}

// made tells the requests that wait for an entry how making it went.
type made struct {
	through chan struct{} // closed then
	err     error
}

// fill lets one of many requests for the same entry make it and call end. The others get what they
// can wait for, and look again once it is through.
func (c *cache) fill(s *sight, i int) (end func(error), wait *made) {
	if c == nil || s.tokens[i] == "" {
		return func(error) {}, nil
	}
	f := filling{s.keys[i], s.tokens[i]}
	c.mu.Lock()
	defer c.mu.Unlock()
	if m, ok := c.filling[f]; ok {
		return nil, m
	}
	m := &made{through: make(chan struct{})}
	c.filling[f] = m
	return func(err error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.filling, f)
		m.err = err
		close(m.through)
	}, nil
}

// share puts entries into Redis for other processes, until ctx ends.
func (c *cache) share(ctx context.Context) {
	second, budget := time.Now(), maxShared
	for {
		var e entry
		select {
		case e = <-c.sharing:
		case <-ctx.Done():
			return
		}
		pipe := c.redis.Pipeline()
		for more := true; more; {
			if now := time.Now(); now.Sub(second) > time.Second {
				second, budget = now, maxShared
			}
			if budget -= len(e.body); budget > 0 {
				pipe.Set(ctx, c.entryKey(c.lease.now().generation, e.key), e.text(), time.Until(e.until))
			}
			select {
			case e = <-c.sharing:
			default:
				more = false
			}
		}
		if pipe.Len() > 0 {
			pipe.Exec(ctx) // what is not there is made again
		}
	}
}
