package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	maxStreamProjects = 100              // of one stream
	ticketLife        = 30 * time.Second // until a ticket has to be used
	heartbeat         = 15 * time.Second // to 25 s without anything to send; proxies give up after 60 s
	writePatience     = 10 * time.Second // with a client that does not read
	maxStartRetry     = 4 * time.Second  // until a client comes again that was cut off
	maxStopRetry      = 8 * time.Second  // and one that was sent away, with all others
)

// newHub is the hub of this process, who goes by self among those that share the cache.
func (s *server) newHub(self string) *hub {
	h := newHub(s.redis, changesChannel(s.config.redisSpace), self, s.log)
	h.patience, h.heartbeat = writePatience, heartbeat
	h.look, h.poll, h.page = s.lookAtLog, s.pollLog, s.pageOfLog
	return h
}

const (
	// logSQL reads scopes $1 from their places $2 on, up to $3.
	logSQL = `
	SELECT e.* FROM unnest($1::uuid[], $2::bigint[]) AS w (scope, after)
	CROSS JOIN LATERAL (
		SELECT ` + eventColumns + `, ` + adminsEvents + ` AS admins_only FROM events
		WHERE events.scope = w.scope AND seq > w.after AND seq <= $3 ORDER BY seq LIMIT $4) e
	ORDER BY e.scope, e.seq`
	// grantsSQL tells what users $1 see of projects $2, users $3 of all they are members of, and
	// users $4 of their own logs.
	grantsSQL = `
	WITH asked AS (
		SELECT * FROM unnest($1::uuid[], $2::uuid[]) AS w (user_id, scope)
		UNION SELECT user_id, project_id FROM members WHERE user_id = ANY ($3))
	SELECT u.id AS user_id, p.id AS scope, p.seq, m.user_id IS NOT NULL AS member, CASE WHEN p.deleted_at IS NOT NULL THEN 0
		WHEN u.role = 'admin' OR m.role >= 'admin' THEN 2 WHEN u.role = 'manager' OR m.role IS NOT NULL THEN 1 ELSE 0 END AS sees
	FROM asked a JOIN users u ON u.id = a.user_id AND u.is_active JOIN projects p ON p.id = a.scope
	LEFT JOIN members m ON m.project_id = p.id AND m.user_id = u.id
	UNION ALL SELECT id, id, seq, false, 2 FROM users WHERE id = ANY ($4) AND is_active`
	// credentialsSQL tells which sessions and API tokens hold, and until when.
	credentialsSQL = `
	SELECT s.id, s.expires_at AS until FROM sessions s JOIN users u ON u.id = s.user_id AND u.is_active
	WHERE s.id = ANY ($1) AND s.revoked_at IS NULL AND s.expires_at > now()
	UNION ALL SELECT t.id, coalesce(t.expires_at, now() + interval '1 day') FROM api_tokens t JOIN users u ON u.id = t.user_id AND u.is_active
	WHERE t.id = ANY ($1) AND (t.expires_at IS NULL OR t.expires_at > now())`
)

// lookAtLog answers a hub in one round trip. Who may see what is read after the log, so that nobody
// is shown what happened after he was no longer to see it.
func (s *server) lookAtLog(ctx context.Context, q question) (findings, error) {
	found := findings{alive: map[uuid]time.Time{}}
	var holding []struct {
		ID    uuid
		Until time.Time
	}
	b := &pgx.Batch{}
	b.Queue(logSQL, q.scopes, q.after, int64(1<<63-1), logPage)
	b.Queue(grantsSQL, q.users, q.projects, q.everywhere, q.selves)
	b.Queue(credentialsSQL, q.credentials)
	err := s.db.sendEach(ctx, b, entries(&found.news, maxRoundBytes), all(&found.grants), all(&holding))
	for _, c := range holding {
		found.alive[c.ID] = c.Until
	}
	return found, err
}

// pollSQL finds the scopes whose log is not at the place given.
const pollSQL = `
	SELECT w.id FROM unnest($1::uuid[], $2::bigint[]) AS w (id, seq)
	LEFT JOIN projects p ON p.id = w.id LEFT JOIN users u ON u.id = w.id
	WHERE coalesce(p.seq, u.seq) <> w.seq`

func (s *server) pollLog(ctx context.Context, scopes []uuid, seqs []int64) (changed []uuid, err error) {
	rows, err := queryAll[struct{ ID uuid }](ctx, s.db, pollSQL, scopes, seqs)
	for _, row := range rows {
		changed = append(changed, row.ID)
	}
	return changed, err
}

// pageOfLog reads what comes after a place in one scope, some maxTake bytes of it.
func (s *server) pageOfLog(ctx context.Context, scope uuid, after, last int64) (list []entryOfLog, err error) {
	err = s.db.query(ctx, entries(&list, maxTake), logSQL, []uuid{scope}, []int64{after}, last, logPage)
	return list, err
}

// entries reads rows of logSQL until they have most bytes.
func entries(into *[]entryOfLog, most int) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		defer rows.Close()
		*into = nil
		for size := 0; size < most && rows.Next(); {
			row, err := pgx.RowToStructByName[struct {
				event
				AdminsOnly bool
			}](rows)
			if err != nil {
				return err
			}
			n := entryOfLog{scope: row.Scope, seq: row.Seq}
			if n.whole, err = json.Marshal(row.event); err != nil {
				return err
			}
			if row.AdminsOnly {
				row.Changes = json.RawMessage("{}")
				if n.part, err = json.Marshal(row.event); err != nil {
					return err
				}
			}
			*into = append(*into, n)
			size += n.size()
		}
		return rows.Err()
	}
}

// handleEvents streams what happens in projects as server-sent events (WHATWG HTML, section 9.2). An
// event's id is the places up to which the client then has the log of each project, and of his own
// account: with it he goes on where he was, at any process and whatever was lost on the way.
func (s *server) handleEvents(w http.ResponseWriter, r *http.Request) error {
	l, projects, err := newListener(r)
	if err != nil {
		return err
	}
	if err := s.hub.join(l, projects); err != nil {
		return err
	}
	defer s.hub.leave(l)
	select {
	case <-l.known:
	case <-time.After(2 * s.db.patience):
		return &unavailableError{errors.New("it took too long to find out what may be streamed")}
	case <-s.hub.drained:
		return newProblem("unavailable", "This process is about to end.")
	case <-r.Context().Done():
		return r.Context().Err()
	}
	at, first, sees := s.hub.begin(l)
	for _, id := range projects {
		if !slices.Contains(sees, id) || id == l.user {
			return newProblem("not_found", "")
		}
	}
	if len(sees) > maxStreamProjects+1 {
		return badParameter(fieldError{"projectId", "required", fmt.Sprintf("must name the projects, at most %d: you are a member of more", maxStreamProjects)})
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx sends on at once
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	s.hub.opened.Add(1)
	out := &eventWriter{w: w, control: http.NewResponseController(w), patience: s.hub.patience, at: at}
	out.control.SetReadDeadline(time.Time{}) // that of the request has been read
	out.begin(l.user)
	for _, st := range first {
		out.add(st)
	}
	if out.send() == nil {
		s.follow(r.Context(), l, out)
	}
	return nil
}

// newListener reads what a request wants to hear: of some projects, or of all.
func newListener(r *http.Request) (*listener, []uuid, error) {
	q := parseQuery(r)
	me := callerOf(r.Context())
	l := &listener{user: me.ID, credential: me.Session}
	if me.scopes != nil {
		l.credential = me.token
	}
	var projects []uuid
	if text := q.text("projectId"); text != "" {
		for id := range strings.SplitSeq(text, ",") {
			project, err := parseUUID(id)
			if err != nil || slices.Contains(projects, project) {
				q.wrong("projectId", "invalid_uuid", "must be ids of projects with commas between them, each once")
				break
			}
			projects = append(projects, project)
		}
		if len(projects) > maxStreamProjects {
			q.wrong("projectId", "too_many", fmt.Sprintf("must be at most %d projects", maxStreamProjects))
		}
	}
	l.everywhere = projects == nil
	l.ownLog = l.everywhere && me.scopes == nil // accounts are for people
	q.text("ticket")
	last := q.text("lastEventId")
	if header := strings.Join(r.Header["Last-Event-Id"], ","); header != "" { // a browser's repetition has both: this is later
		last = header
	}
	var err error
	if l.since, err = parsePositions(last); err != nil {
		q.wrong("lastEventId", "invalid_event_id", err.Error())
	}
	return l, projects, q.done()
}

var errPositions = errors.New("must be the id of an event as it came; start again without it")

// parsePositions reads an event's id; nil for none.
func parsePositions(text string) (map[uuid]int64, error) {
	if text == "" {
		return nil, nil
	}
	at := map[uuid]int64{}
	for place := range strings.SplitSeq(text, ",") {
		id, number, _ := strings.Cut(place, ":")
		scope, err := parseUUID(id)
		seq, err2 := strconv.ParseInt(number, 10, 64)
		_, again := at[scope]
		if err != nil || err2 != nil || again || len(at) >= 2*maxStreamProjects || number != strconv.FormatInt(seq, 10) || seq < 0 {
			return nil, errPositions
		}
		at[scope] = seq
	}
	return at, nil
}

// follow sends what there is and waits for more, until the client goes, or has to.
func (s *server) follow(ctx context.Context, l *listener, out *eventWriter) {
	pause := s.hub.heartbeat
	beat := time.NewTimer(someTime(pause, pause*5/3))
	defer beat.Stop()
	for {
		steps, on := s.hub.next(ctx, l)
		if !on {
			return
		}
		for _, st := range steps {
			out.add(st)
		}
		if len(steps) == 0 {
			select {
			case <-l.wake:
				continue
			case <-beat.C:
				out.buffer = append(out.buffer, ":\n\n"...) // a comment
			case <-s.hub.drained:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-s.hub.drained:
			out.retry(maxStopRetry)
			out.send()
			return
		default:
		}
		if err := out.send(); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				s.hub.cut.Add(1)
			}
			return
		}
		s.hub.sent.Add(int64(len(steps)))
		beat.Reset(someTime(pause, pause*5/3))
	}
}

// someTime is a random one, so that not all do the same at once.
func someTime(least, most time.Duration) time.Duration { return least + rand.N(most-least) }

// eventWriter writes events to one client.
type eventWriter struct {
	w        http.ResponseWriter
	control  *http.ResponseController
	patience time.Duration // for one send
	buffer   []byte
	at       []position // what the client has, once he has the buffer
}

// begin tells from where on the stream is whole.
func (e *eventWriter) begin(user uuid) {
	e.retry(maxStartRetry)
	projects := []uuid{}
	for _, p := range e.at {
		if p.scope != user {
			projects = append(projects, p.scope)
		}
	}
	text, _ := json.Marshal(map[string][]uuid{"projects": projects}) // ids only
	e.message("ready", text)
}

// retry tells how long to wait before coming again.
func (e *eventWriter) retry(most time.Duration) {
	e.buffer = fmt.Appendf(e.buffer, "retry: %d\n\n", someTime(most/4, most).Milliseconds())
}

// add adds a step.
func (e *eventWriter) add(st step) {
	i := slices.IndexFunc(e.at, func(p position) bool { return p.scope == st.scope })
	switch {
	case st.what == stepLeft && i >= 0:
		e.at = slices.Delete(e.at, i, i+1)
	case st.what == stepLeft:
	case i < 0:
		e.at = append(e.at, position{st.scope, st.seq})
	default:
		e.at[i].seq = st.seq
	}
	switch st.what {
	case stepEntry:
		e.message("", st.data)
	case stepLeft:
		e.message(string(st.what), fmt.Appendf(nil, `{"scope":"%s"}`, st.scope))
	default:
		e.message(string(st.what), fmt.Appendf(nil, `{"scope":"%s","seq":%d}`, st.scope, st.seq))
	}
}

// message adds an event. Its data is JSON, which has no line breaks.
func (e *eventWriter) message(kind string, data []byte) {
	if kind != "" {
		e.buffer = append(append(append(e.buffer, "event: "...), kind...), '\n')
	}
	e.buffer = append(e.buffer, "id: "...)
	for i, p := range e.at {
		if i > 0 {
			e.buffer = append(e.buffer, ',')
		}
		text := p.scope.text()
		e.buffer = strconv.AppendInt(append(append(e.buffer, text[:]...), ':'), p.seq, 10)
	}
	e.buffer = append(append(append(e.buffer, "\ndata: "...), data...), "\n\n"...)
}

// send sends what was added. A client that does not take it in time is cut off.
func (e *eventWriter) send() error {
	e.control.SetWriteDeadline(time.Now().Add(e.patience))
	_, err := e.w.Write(e.buffer)
	if err == nil {
		err = e.control.Flush()
	}
	if e.buffer = e.buffer[:0]; cap(e.buffer) > 4<<10 {
		e.buffer = nil
	}
	return err
}

// eventsTicket opens a stream once, for what cannot send a header, as EventSource in browsers.
type eventsTicket struct {
	Ticket    string `json:"ticket"`
	ExpiresIn int    `json:"expiresIn"` // seconds
}

// handleEventsTicket makes a ticket for the session that asks.
func (s *server) handleEventsTicket(w http.ResponseWriter, r *http.Request) error {
	c := callerOf(r.Context())
	return writeJSON(w, http.StatusOK, eventsTicket{s.keys.sealTicket(newUUID(), c), int(ticketLife.Seconds())})
}

// sealTicket makes a ticket. Its id tells when it was made.
func (k *keyring) sealTicket(id uuid, c caller) string {
	body := slices.Concat(id[:], c.ID[:], c.Session[:])
	return base64.RawURLEncoding.EncodeToString(append(k.mac("ticket", string(body)), body...))
}

// openTicket tells whose a ticket is that was made within ticketLife.
func (k *keyring) openTicket(text string) (id uuid, c claims, ok bool) {
	raw, err := decodeSegment(text)
	if err != nil || len(raw) != macSize+3*16 || !k.verify(raw[:macSize], "ticket", string(raw[macSize:])) {
		return id, c, false
	}
	body := raw[macSize:]
	id, c.Subject, c.Session = uuid(body[:16]), uuid(body[16:32]), uuid(body[32:])
	age := k.now().Sub(id.time())
	return id, c, -jwtClockSkew <= age && age < ticketLife
}

// signInByTicket finds who asks by the ticket in the query. It works once: on any process, or while
// Redis is away once on each.
func (s *server) signInByTicket(rec *recorder, r *http.Request) (*http.Request, error) {
	text := r.URL.Query().Get("ticket")
	if text == "" {
		return r, newProblem("unauthenticated", "")
	}
	id, c, ok := s.keys.openTicket(text)
	if !ok || !s.tickets.take(limitKey{'t', id}, 1).ok {
		return r, newProblem("unauthenticated", "The ticket is not valid, was used before, or is older than 30 s; get another.")
	}
	who, err := s.sessionCaller(r.Context(), c)
	if err != nil {
		return r, err
	}
	rec.user = who.ID
	return r.WithContext(withCaller(r.Context(), who)), nil
}
