package main

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	pollEvery     = 750 * time.Millisecond // in which a change is found that nobody told this process of
	recheckPolls  = 64                     // in which everybody's rights are looked up once more, for changes that no log tells of
	roundEvery    = 10 * time.Millisecond  // the log is read at most so often
	logPage       = 200                    // entries of one scope that are read at once
	maxRoundBytes = 4 << 20                // and of all scopes
	maxTail       = 2 * logPage            // entries of a scope that are kept
	maxTailBytes  = 512 << 10              // of them
	maxTake       = 64 << 10               // bytes that a listener gets at once
	pagesAtOnce   = 2                      // read for listeners who are behind
	maxListeners  = 10_000                 // in this process
	maxOfUser     = 20                     // of one user
)

// A hub tells listeners what the change log says, from the moment or the place on that they ask for:
// each entry of a scope once, in order.
//
// Whoever commits a change tells its process's hub, and by way of the cache's messages those of all
// others; what is told to nobody is found by looking, every pollEvery. The log of the scopes that have
// changed is then read once for all listeners, and after it who of them may see it. Listeners take
// what there is at their own speed from what was read last; who is too slow for that reads the log
// himself. Nothing waits for a listener, and nothing is kept for one.
type hub struct {
	log     *slog.Logger
	redis   redis.UniversalClient
	channel string // of the cache's messages
	self    string // who this process is in them

	patience  time.Duration // of whoever sends to a listener
	heartbeat time.Duration // after which he sends something, at least

	// What the hub asks the database.
	look func(context.Context, question) (findings, error)
	poll func(ctx context.Context, scopes []uuid, seqs []int64) (changed []uuid, err error)
	page func(ctx context.Context, scope uuid, after, last int64) ([]entryOfLog, error)

	once    sync.Once // starts what runs while there may be listeners
	running sync.WaitGroup
	stop    context.CancelFunc
	told    chan struct{} // there are changed scopes
	pages   chan struct{} // one slot for each page that may be read at once
	drained chan struct{} // closed when all listeners should go
	closing sync.Once

	mu                sync.Mutex
	feeds             map[uuid]*feed
	changed           map[*feed]struct{}
	listeners         int
	opened, sent, cut atomic.Int64 // streams, what was sent to them, and those that did not take it in time
	ofUser            map[uuid]int // of them
	polls             int
}

// question is what is asked about scopes that have changed: first the log, then who may see it.
type question struct {
	scopes      []uuid // whose log is read
	after       []int64
	users       []uuid // who wants to see
	projects    []uuid // which, one for each of users
	selves      []uuid // users of whom everything is asked
	everywhere  []uuid // of them, those who want all their projects
	credentials []uuid // with which their listeners came
}

// findings is the answer.
type findings struct {
	news   []entryOfLog
	grants []grant
	alive  map[uuid]time.Time // credentials that hold, and until when
}

// entryOfLog is one entry as it is sent.
type entryOfLog struct {
	scope uuid
	seq   int64
	whole []byte // JSON
	part  []byte // the same for who must not see all of it
}

// extent is how much of a scope a user sees.
type extent int

const (
	seesNothing extent = iota
	seesPart
	seesWhole
)

// grant is what a user may see of a scope, whose log goes up to seq.
type grant struct {
	UserID uuid
	Scope  uuid
	Seq    int64
	Member bool // who wants all his projects wants this
	Sees   extent
}

// feed is a scope's log as this process knows it.
type feed struct {
	id        uuid
	seq       int64        // read up to here; -1: not looked at yet
	last      int64        // it goes on at least up to here
	tail      []entryOfLog // the latest of it, up to seq, without gaps
	tailSize  int
	idle      int // polls since the tail grew
	sees      map[uuid]extent
	listeners map[*listener]struct{}
}

// place is where a listener is in a feed.
type place struct {
	feed *feed
	seq  int64 // he has what is up to here
	in   bool  // he knows that he reads it
}

// listener is one stream. What it has not in common with others is its user's and his credential's.
type listener struct {
	user       uuid
	credential uuid // session or API token
	everywhere bool // wants all projects that he is a member of, also later ones
	ownLog     bool // and what happens to his account
	since      map[uuid]int64
	wake       chan struct{} // there may be something to take
	known      chan struct{} // closed once it is known what he may see
	home       *feed         // his account's
	asked      bool
	over       bool // the credential does not hold any more
	until      time.Time
	places     []*place
	turn       int // the place that comes first next time
}

// step is one thing to send: an entry, or what became of a place.
type step struct {
	what  stepKind
	scope uuid
	seq   int64  // where the listener is then
	data  []byte // the entry
}

type stepKind string

const (
	stepEntry  stepKind = ""
	stepJoined stepKind = "project.joined" // it is read from seq on
	stepLeft   stepKind = "project.left"   // it may not be read any more
	stepReset  stepKind = "reset"          // what was before seq is not known
)

func newHub(client redis.UniversalClient, channel, self string, log *slog.Logger) *hub {
	return &hub{
		log: log, redis: client, channel: channel, self: self,
		told: make(chan struct{}, 1), pages: make(chan struct{}, pagesAtOnce), drained: make(chan struct{}),
		feeds: map[uuid]*feed{}, changed: map[*feed]struct{}{}, ofUser: map[uuid]int{},
	}
}

// start begins to look for changes, once somebody listens.
func (h *hub) start() {
	ctx, stop := context.WithCancel(context.Background())
	h.mu.Lock()
	h.stop = stop
	h.mu.Unlock()
	h.running.Go(func() { h.run(ctx) })
	h.running.Go(func() { h.hear(ctx) })
}

// drain has all listeners go.
func (h *hub) drain() { h.closing.Do(func() { close(h.drained) }) }

// close ends what start began.
func (h *hub) close() {
	h.drain()
	h.once.Do(func() {}) // so that nothing starts after it
	h.mu.Lock()
	stop := h.stop
	h.mu.Unlock()
	if stop != nil {
		stop()
		h.running.Wait()
	}
}

// tell notes that scopes have changed.
func (h *hub) tell(scopes []uuid) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range scopes {
		if f := h.feeds[id]; f != nil {
			h.note(f)
		}
	}
}

// note has a feed looked at in the next round.
func (h *hub) note(f *feed) {
	h.changed[f] = struct{}{}
	poke(h.told)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// hear notes what other processes tell, until ctx ends. It may miss something at any time.
func (h *hub) hear(ctx context.Context) {
	messages := h.redis.Subscribe(ctx, h.channel)
	defer messages.Close()
	channel := messages.Channel()
	for {
		select {
		case m, ok := <-channel:
			if !ok {
				return
			}
			if from, scopes := readChanges(m.Payload); from != h.self {
				h.tell(scopes)
			}
		case <-ctx.Done():
			return
		}
	}
}

// run looks for changes and reads them, until ctx ends.
func (h *hub) run(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	failing := false
	for {
		var err error
		select {
		case <-h.told:
			err = h.round(ctx)
			sleep(ctx, roundEvery)
		case <-tick.C:
			if err = h.seek(ctx); err == nil {
				err = h.round(ctx)
			}
		case <-ctx.Done():
			return
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failing {
			h.log.Warn("streams wait: the change log cannot be read", "error", err)
		}
		failing = err != nil
	}
}

// seek notes the feeds whose log has grown.
func (h *hub) seek(ctx context.Context) error {
	h.mu.Lock()
	var scopes []uuid
	var seqs []int64
	h.polls++
	for id, f := range h.feeds {
		if f.idle++; f.idle > 2 {
			f.tail, f.tailSize = nil, 0
		}
		if f.seq >= 0 {
			scopes, seqs = append(scopes, id), append(seqs, f.seq)
		}
		if int(id[15])%recheckPolls == h.polls%recheckPolls {
			h.note(f)
		}
	}
	h.mu.Unlock()
	if len(scopes) == 0 {
		return nil
	}
	changed, err := h.poll(ctx, scopes, seqs)
	if err == nil {
		h.tell(changed)
	}
	return err
}

// round reads the log of the feeds that have changed, and who may see them. What could not be read
// stays noted for the next.
func (h *hub) round(ctx context.Context) error {
	h.mu.Lock()
	feeds := h.changed
	h.changed = map[*feed]struct{}{}
	q := h.compose(feeds)
	h.mu.Unlock()
	if len(feeds) == 0 {
		return nil
	}
	found, err := h.look(ctx, q)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		for f := range feeds { // without a signal: the next poll is soon enough
			if len(f.listeners) > 0 {
				h.changed[f] = struct{}{}
			}
		}
		return err
	}
	h.apply(q, found)
	return nil
}

// pair is a user and a scope.
type pair struct{ user, scope uuid }

// compose makes the question about feeds.
func (h *hub) compose(feeds map[*feed]struct{}) question {
	var q question
	pairs, users := map[pair]bool{}, map[uuid]bool{}
	ask := func(user uuid, f *feed) {
		if p := (pair{user, f.id}); !pairs[p] {
			pairs[p] = true
			q.users, q.projects = append(q.users, user), append(q.projects, f.id)
		}
	}
	for f := range feeds {
		if f.seq >= 0 {
			q.scopes, q.after = append(q.scopes, f.id), append(q.after, f.seq)
		}
		for l := range f.listeners {
			if l.home != f {
				ask(l.user, f)
				continue
			}
			if len(q.selves) == 0 || q.selves[len(q.selves)-1] != l.user {
				q.selves = append(q.selves, l.user)
			}
			if l.everywhere && !users[l.user] {
				users[l.user] = true
				q.everywhere = append(q.everywhere, l.user)
			}
			q.credentials = append(q.credentials, l.credential)
			l.asked = true
			for _, p := range l.places {
				if p.feed != f {
					ask(l.user, p.feed)
				}
			}
		}
	}
	return q
}

// apply takes over what was found, and wakes whom it concerns.
func (h *hub) apply(q question, found findings) {
	touched := map[*feed]struct{}{}
	for _, n := range found.news {
		if f := h.feeds[n.scope]; f != nil && n.seq > f.seq {
			f.add(n)
			touched[f] = struct{}{}
		}
	}
	granted := map[pair]extent{}
	for _, g := range found.grants {
		granted[pair{g.UserID, g.Scope}] = g.Sees
		h.place(g)
	}
	see := func(user, scope uuid) {
		f := h.feeds[scope]
		if f == nil {
			return
		}
		if sees := granted[pair{user, scope}]; sees != f.sees[user] {
			f.sees[user] = sees
			touched[f] = struct{}{}
		}
	}
	for i, user := range q.users {
		see(user, q.projects[i])
	}
	for p := range granted {
		see(p.user, p.scope)
	}
	for _, user := range q.selves {
		see(user, user)
		home := h.feeds[user]
		if home == nil {
			continue
		}
		for l := range home.listeners {
			if l.home == home && l.asked {
				l.meet(found.alive)
			}
		}
	}
	for f := range touched {
		f.wake()
	}
}

func (f *feed) wake() {
	for l := range f.listeners {
		poke(l.wake)
	}
}

// place notes how far a log goes, and gives listeners who want all their projects a place in one that is new.
func (h *hub) place(g grant) {
	if home := h.feeds[g.UserID]; home != nil && g.Member {
		for l := range home.listeners {
			if l.home == home && l.everywhere && l.asked && !l.has(g.Scope) {
				l.places = append(l.places, &place{feed: h.watch(g.Scope, l)})
				poke(l.wake)
			}
		}
	}
	f := h.feeds[g.Scope]
	if f == nil {
		return
	}
	if f.seq < 0 || g.Seq < f.seq { // the first look; or the database was put back to an earlier state
		f.seq, f.tail, f.tailSize = g.Seq, nil, 0
		f.wake()
	}
	f.last = g.Seq
	if f.last > f.seq {
		h.note(f)
	}
}

// add adds an entry to the tail.
func (f *feed) add(n entryOfLog) {
	if n.seq != f.seq+1 {
		f.tail, f.tailSize = nil, 0 // entries before it are gone
	}
	f.tail = append(f.tail, n)
	f.seq, f.last, f.idle = n.seq, max(f.last, n.seq), 0
	f.tailSize += n.size()
	drop := 0
	for f.tailSize > maxTailBytes && drop < len(f.tail) || len(f.tail)-drop > maxTail {
		f.tailSize -= f.tail[drop].size()
		drop++
	}
	f.tail = f.tail[drop:]
}

func (n entryOfLog) size() int { return len(n.whole) + len(n.part) }

// after is the entry after seq, if it is still there.
func (f *feed) after(seq int64) (entryOfLog, bool) {
	if len(f.tail) == 0 || seq+1 < f.tail[0].seq {
		return entryOfLog{}, false
	}
	return f.tail[seq+1-f.tail[0].seq], true
}

// meet takes over which credentials hold.
func (l *listener) meet(alive map[uuid]time.Time) {
	until, holds := alive[l.credential]
	l.until = until
	if !holds {
		l.over = true
		poke(l.wake)
	}
	select {
	case <-l.known:
	default:
		close(l.known)
	}
}

func (l *listener) has(scope uuid) bool {
	for _, p := range l.places {
		if p.feed.id == scope {
			return true
		}
	}
	return false
}

// watch has a feed kept for a listener.
func (h *hub) watch(id uuid, l *listener) *feed {
	f := h.feeds[id]
	if f == nil {
		f = &feed{id: id, seq: -1, last: -1, sees: map[uuid]extent{}, listeners: map[*listener]struct{}{}}
		h.feeds[id] = f
	}
	f.listeners[l] = struct{}{}
	return f
}

// join adds a listener for projects, or for all of his if there are none. It is known what he may see
// when l.known is closed.
func (h *hub) join(l *listener, projects []uuid) error {
	h.once.Do(h.start)
	l.wake, l.known = make(chan struct{}, 1), make(chan struct{})
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.listeners >= maxListeners {
		return newProblem("unavailable", "This process has as many streams as it takes.")
	}
	if h.ofUser[l.user] >= maxOfUser {
		return newProblem("too_many_streams", "").with("Retry-After", "10")
	}
	h.listeners++
	h.ofUser[l.user]++
	l.home = h.watch(l.user, l)
	if l.ownLog {
		l.places = append(l.places, &place{feed: l.home})
	}
	for _, id := range projects {
		l.places = append(l.places, &place{feed: h.watch(id, l)})
	}
	h.note(l.home)
	return nil
}

// leave takes a listener out.
func (h *hub) leave(l *listener) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.listeners--
	if h.ofUser[l.user]--; h.ofUser[l.user] == 0 {
		delete(h.ofUser, l.user)
	}
	h.forget(l.home, l)
	for _, p := range l.places {
		h.forget(p.feed, l)
	}
}

func (h *hub) forget(f *feed, l *listener) {
	delete(f.listeners, l)
	if len(f.listeners) == 0 {
		delete(h.feeds, f.id)
		delete(h.changed, f)
	}
}

// begin puts a listener of whom everything is known at his places: those he asked for, or else the
// present ends. It returns where he is then, what to send first, and what he may see now.
func (h *hub) begin(l *listener) (at []position, first []step, sees []uuid) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range l.places {
		seen := p.feed.sees[l.user] != seesNothing
		if seen {
			sees = append(sees, p.feed.id)
		}
		since, asked := l.since[p.feed.id]
		switch {
		case asked:
			p.seq, p.in = since, true // take tells if he may not read it any more
		case l.since == nil && seen:
			p.seq, p.in = p.feed.seq, true
		}
		if p.in {
			at = append(at, position{p.feed.id, p.seq})
		}
	}
	for scope := range l.since {
		if l.everywhere && scope != l.user && !l.has(scope) {
			first = append(first, step{what: stepLeft, scope: scope})
		}
	}
	return at, first, sees
}

// next is what there is for a listener now, some maxTake bytes of it; none when he should wait to be
// woken. It is false when his time is over.
func (h *hub) next(ctx context.Context, l *listener) ([]step, bool) {
	steps, late, on := h.take(l)
	if late == nil || len(steps) > 0 || !on {
		return steps, on
	}
	select {
	case h.pages <- struct{}{}:
	case <-ctx.Done():
		return nil, false
	}
	entries, err := h.page(ctx, late.feed.id, late.seq, late.last)
	<-h.pages
	if err != nil {
		sleep(ctx, time.Second)
		poke(l.wake)
		return nil, ctx.Err() == nil
	}
	return h.accept(l, late.place, entries), true
}

// backlog is a place with more to read than the tail has, up to last.
type backlog struct {
	*place
	last int64
}

// take takes steps from the tails.
func (h *hub) take(l *listener) (steps []step, late *backlog, on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l.over || !time.Now().Before(l.until) {
		return nil, nil, false
	}
	size := 0
	l.turn++
	for i := range l.places {
		p := l.places[(l.turn+i)%len(l.places)]
		f, sees := p.feed, p.feed.sees[l.user]
		switch {
		case sees == seesNothing && p.in:
			p.in = false
			steps = append(steps, step{what: stepLeft, scope: f.id})
		case sees == seesNothing:
		case !p.in:
			p.in, p.seq = true, f.seq
			steps = append(steps, step{what: stepJoined, scope: f.id, seq: p.seq})
		case p.seq > max(f.seq, f.last):
			p.seq = f.seq
			steps = append(steps, step{what: stepReset, scope: f.id, seq: p.seq})
		}
		for p.in && p.seq < f.seq && size < maxTake {
			n, ok := f.after(p.seq)
			if !ok {
				late = &backlog{p, f.seq}
				break
			}
			p.seq = n.seq
			data := n.seen(sees)
			size += len(data)
			steps = append(steps, step{scope: f.id, seq: n.seq, data: data})
		}
	}
	return steps, late, true
}

// accept takes entries that were read for a place, if they may still be seen.
func (h *hub) accept(l *listener, p *place, entries []entryOfLog) (steps []step) {
	h.mu.Lock()
	defer h.mu.Unlock()
	sees := p.feed.sees[l.user]
	if sees == seesNothing {
		return nil
	}
	if len(entries) == 0 || entries[0].seq != p.seq+1 { // what came next has been purged
		p.seq = p.feed.seq
		return []step{{what: stepReset, scope: p.feed.id, seq: p.seq}}
	}
	for _, n := range entries {
		p.seq = n.seq
		steps = append(steps, step{scope: n.scope, seq: n.seq, data: n.seen(sees)})
	}
	return steps
}

// seen is what is shown of an entry.
func (n entryOfLog) seen(e extent) []byte {
	if e == seesWhole || n.part == nil {
		return n.whole
	}
	return n.part
}

// position is how far somebody has a scope's log.
type position struct {
	scope uuid
	seq   int64
}
