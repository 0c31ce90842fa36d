package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// scrapePatience is how long a scrape waits for what the database and Redis know; it answers with the
// rest then.
const scrapePatience = 2 * time.Second

// admitScraper lets in who has METRICS_TOKEN. Without that setting there is no such route.
func (s *server) admitScraper(r *http.Request) error {
	if s.config.metricsToken == "" {
		return newProblem("not_found", "")
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	given, wanted := sha256.Sum256([]byte(token)), sha256.Sum256([]byte(s.config.metricsToken)) // of one length, whatever was sent
	if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(given[:], wanted[:]) != 1 {
		return newProblem("unauthenticated", "This needs the installation's METRICS_TOKEN.")
	}
	return nil
}

// handleMetrics answers what Prometheus asks.
func (s *server) handleMetrics(w http.ResponseWriter, r *http.Request) error {
	if err := parseQuery(r).done(); err != nil {
		return err
	}
	return writeFile(w, expositionMedia, s.metrics(r.Context()))
}

// metricsHandler answers on METRICS_ADDR, without a token: whoever reaches it may know.
func (s *server) metricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", expositionMedia)
		w.Write(s.metrics(r.Context()))
	})
	return mux
}

// metrics is everything that this process tells. Of what the database or Redis would have to say and do
// not in time, there is nothing in it.
func (s *server) metrics(ctx context.Context) []byte {
	view, databaseUp := s.queueNow(ctx)
	e := &exposition{text: make([]byte, 0, 64<<10)}
	writeBuild(e, s.config.role)
	s.writeTraffic(e)
	s.writeDatabase(e, databaseUp)
	s.writeCache(e)
	s.writeQueue(e, view, databaseUp)
	s.writeRuns(e)
	s.writeOutside(e)
	writeRuntime(e)
	writeProcess(e, s.began)
	return e.text
}

// queueNow is the queue, at most a second old, and whether the database told its part of it in time.
func (s *server) queueNow(ctx context.Context) (queueView, bool) {
	type looked struct {
		view queueView
		err  error
	}
	found := make(chan looked, 1)
	go func() {
		view, err := s.outbox.look(ctx)
		found <- looked{view, err}
	}()
	select {
	case l := <-found:
		return l.view, l.err == nil
	case <-time.After(scrapePatience):
		return queueView{}, false
	}
}

// writeTraffic writes what was asked of this process.
func (s *server) writeTraffic(e *exposition) {
	routes := s.traffic.all()
	e.family("taskflow_http_requests_total", "counter", "Requests answered, by the pattern of their route.")
	for _, route := range routes {
		for _, c := range route.statuses.counts() {
			e.sample(float64(c.n.Load()), "method", route.method, "route", route.path, "status", strconv.Itoa(c.value))
		}
	}
	e.family("taskflow_http_request_seconds", "histogram", "Time from a request's head to the end of its answer. Streams are left out.")
	for _, route := range routes {
		if route.took != nil && route.took.count() > 0 {
			e.times(route.took, "method", route.method, "route", route.path)
		}
	}
	e.one("taskflow_http_requests_in_flight", "gauge", "Requests being answered, streams among them.", float64(s.traffic.inFlight.Load()))
	e.family("taskflow_panics_total", "counter", "Panics of handlers; each is a bug.")
	e.sample(float64(s.traffic.panics.Load()), "where", "request")
	e.sample(float64(s.outbox.queue.runs.panics.Load()), "where", "job")
	lost := int64(0)
	if s.reports != nil {
		lost = s.reports.lost.Load()
	}
	e.one("taskflow_reports_lost_total", "counter", "Reports of errors that did not reach the collector.", float64(lost))
	e.family("taskflow_rate_limited_total", "counter", "Requests refused because there were too many, by limit.")
	for _, l := range []*limiter{s.requests, s.signIns, s.guesses.pair, s.guesses.network} {
		if l != nil {
			e.sample(float64(l.refused.Load()), "limit", l.name)
		}
	}
	e.one("taskflow_wrong_passwords_total", "counter", "Passwords and second factors that were wrong, at sign-in and where they are asked for again.", float64(s.guesses.wrong.Load()))
	e.one("taskflow_slowed_sign_ins_total", "counter", "Sign-ins that were made to wait, as their account is being guessed.", float64(s.guesses.slowed.Load()))
	e.one("taskflow_password_hashes_waiting", "gauge", "Passwords being hashed, and those that wait for a processor.", float64(s.waiting.Load()))
	e.one("taskflow_stopping", "gauge", "1 from the moment the process is asked to stop.", oneIf(s.stopping.Load()))
}

// writeDatabase writes how this process gets on with PostgreSQL.
func (s *server) writeDatabase(e *exposition, up bool) {
	pool := s.db.pool.Stat()
	e.one("taskflow_database_up", "gauge", "1 if the database answered this scrape in time.", oneIf(up))
	e.family("taskflow_database_connections", "gauge", "Connections of the pool, by state.")
	e.sample(float64(pool.AcquiredConns()), "state", "acquired")
	e.sample(float64(pool.IdleConns()), "state", "idle")
	e.sample(float64(pool.ConstructingConns()), "state", "connecting")
	e.one("taskflow_database_connections_max", "gauge", "Connections that the pool may have.", float64(pool.MaxConns()))
	e.one("taskflow_database_connections_opened_total", "counter", "Connections made.", float64(pool.NewConnsCount()))
	e.one("taskflow_database_waits_total", "counter", "Times that a connection had to be waited for.", float64(pool.EmptyAcquireCount()))
	e.one("taskflow_database_wait_seconds_total", "counter", "Time waited for connections.", pool.EmptyAcquireWaitTime().Seconds())
	e.one("taskflow_database_waits_ended_total", "counter", "Times that somebody gave up waiting for a connection.", float64(pool.CanceledAcquireCount()))
	e.one("taskflow_database_statements_total", "counter", "Statements sent, those of batches and the ends of transactions among them.", float64(s.db.statements.Load()))
	e.family("taskflow_database_use_seconds", "histogram", "How long a connection was in use, each time: for a statement, a batch or a transaction.")
	e.times(s.db.uses)
	e.one("taskflow_database_errors_total", "counter", "Uses that failed, but for what a client is told, such as a conflict.", float64(s.db.failures.Load()))
}

// writeCache writes how the cache and Redis fare.
func (s *server) writeCache(e *exposition) {
	e.one("taskflow_redis_commands_total", "counter", "Commands sent to Redis, scripts as one.", float64(s.redised.commands.Load()))
	e.one("taskflow_redis_errors_total", "counter", "Commands that failed.", float64(s.redised.failures.Load()))
	if l := s.guesses.pair; l != nil {
		e.one("taskflow_limits_alone", "gauge", "1 while each process limits callers by itself, as Redis does not answer.", oneIf(l.away.Load() != 0))
	}
	if s.cache == nil {
		return
	}
	e.family("taskflow_cache_requests_total", "counter", "Looks at the cache for all that a request needs.")
	e.sample(float64(s.cache.hits.Load()), "result", "hit")
	e.sample(float64(s.cache.misses.Load()), "result", "miss")
	e.family("taskflow_cache_entries_total", "counter", "Entries looked for, by what they hold.")
	for i, name := range cacheNames {
		e.sample(float64(s.cache.lookups[i].hits.Load()), "name", name, "result", "hit")
		e.sample(float64(s.cache.lookups[i].misses.Load()), "name", name, "result", "miss")
	}
	s.cache.mu.Lock()
	kept, size := len(s.cache.entries), s.cache.size
	s.cache.mu.Unlock()
	e.one("taskflow_cache_kept_entries", "gauge", "Entries in this process.", float64(kept))
	e.one("taskflow_cache_kept_bytes", "gauge", "Bytes that they take.", float64(size))
	st, now := s.cache.lease.now(), time.Now()
	e.one("taskflow_cache_trusted", "gauge", "1 while the cache is read; 0 while all comes from the database.", oneIf(st.trusted(now)))
	e.one("taskflow_cache_alone", "gauge", "1 while no other process shares the cache.", oneIf(st.alone))
	e.one("taskflow_cache_lease_held", "gauge", "1 while others count on this process to hear of its writes.", oneIf(st.held(now)))
	e.one("taskflow_cache_beat_failures", "gauge", "Beats to Redis that failed since the last good one.", float64(st.failures))
}

// writeQueue writes the queue, as Redis and the database have it: the same on every process.
func (s *server) writeQueue(e *exposition, view queueView, databaseUp bool) {
	name := s.outbox.queue.name
	e.one("taskflow_redis_up", "gauge", "1 if the queue's Redis answered this scrape in time.", oneIf(view.Reachable))
	if databaseUp {
		e.family("taskflow_queue_jobs", "gauge", "Jobs in the database, by kind and state; counted up to a million.")
		all := map[string]outboxState{otherKind: {}}
		for kind := range s.outbox.kinds {
			all[kind] = outboxState{}
		}
		for _, of := range view.ofKinds {
			kind := of.Kind
			if _, known := s.outbox.kinds[kind]; !known {
				kind = otherKind
			}
			sum := all[kind]
			all[kind] = outboxState{Due: sum.Due + of.Due, Held: sum.Held + of.Held, Later: sum.Later + of.Later, Dead: sum.Dead + of.Dead}
		}
		for _, kind := range slices.Sorted(maps.Keys(all)) {
			of := all[kind]
			e.sample(float64(of.Due), "queue", name, "kind", kind, "state", "ready")
			e.sample(float64(of.Held), "queue", name, "kind", kind, "state", "running")
			e.sample(float64(of.Later), "queue", name, "kind", kind, "state", "scheduled")
			e.sample(float64(of.Dead), "queue", name, "kind", kind, "state", "dead")
		}
		e.family("taskflow_outbox_jobs", "gauge", "Living jobs in the database.")
		e.sample(float64(view.OutboxRows), "queue", name)
		e.family("taskflow_outbox_lag_seconds", "gauge", "For how long the oldest job that no worker holds has been due, by the database.")
		e.sample(float64(view.OutboxLagMs)/1000, "queue", name)
		e.family("taskflow_queue_paused", "gauge", "1 while an operator has the queue paused.")
		e.sample(oneIf(view.Paused), "queue", name)
	}
	if databaseUp || view.Reachable {
		e.family("taskflow_queue_oldest_ready_seconds", "gauge", "Age of the job that waits longest for a worker.")
		e.sample(oldestReady(view).Seconds(), "queue", name)
	}
	if view.Reachable {
		e.family("taskflow_queue_workers", "gauge", "Processes that take jobs.")
		e.sample(float64(len(view.Workers)), "queue", name)
	}
	e.one("taskflow_outbox_pushed_again_total", "counter", "Jobs that this process found missing in Redis and pushed again.", float64(s.outbox.pushedAgain.Load()))
	s.outbox.mu.Lock()
	waiting := len(s.outbox.toPush)
	s.outbox.mu.Unlock()
	e.one("taskflow_outbox_pushing", "gauge", "Jobs of this process that wait to be handed to Redis.", float64(waiting))
}

// oldestReady is how long the job that waits longest has been waiting: as Redis hands jobs out, or
// where that does not answer, as the database has them.
func oldestReady(view queueView) time.Duration {
	if view.Reachable {
		return time.Duration(view.OldestMs) * time.Millisecond
	}
	return time.Duration(view.OutboxLagMs) * time.Millisecond
}

// writeRuns writes the jobs that this process ran.
func (s *server) writeRuns(e *exposition) {
	runs, name := s.outbox.queue.runs.ofKind, s.outbox.queue.name
	kinds := slices.Sorted(maps.Keys(runs))
	e.family("taskflow_jobs_total", "counter", "Jobs that this process had, by how that ended: done, retry and dead after a run, delay and release without one.")
	for _, kind := range kinds {
		of := runs[kind]
		e.sample(float64(of.done.Load()), "queue", name, "kind", kind, "outcome", "done")
		e.sample(float64(of.retry.Load()), "queue", name, "kind", kind, "outcome", "retry")
		e.sample(float64(of.dead.Load()), "queue", name, "kind", kind, "outcome", "dead")
		e.sample(float64(of.delay.Load()), "queue", name, "kind", kind, "outcome", "delay")
		e.sample(float64(of.release.Load()), "queue", name, "kind", kind, "outcome", "release")
	}
	e.family("taskflow_job_seconds", "histogram", "How long jobs ran.")
	for _, kind := range kinds {
		e.times(runs[kind].took, "queue", name, "kind", kind)
	}
}

// writeOutside writes what goes in and out besides requests.
func (s *server) writeOutside(e *exposition) {
	s.hub.mu.Lock()
	open := s.hub.listeners
	s.hub.mu.Unlock()
	e.one("taskflow_streams_open", "gauge", "Streams of events that are open.", float64(open))
	e.one("taskflow_streams_opened_total", "counter", "Streams begun.", float64(s.hub.opened.Load()))
	e.one("taskflow_stream_events_total", "counter", "Events sent to streams.", float64(s.hub.sent.Load()))
	e.one("taskflow_streams_cut_total", "counter", "Streams cut off, as their clients did not take what was sent.", float64(s.hub.cut.Load()))
	e.family("taskflow_mails_total", "counter", "Attempts to hand a mail over: sent, failed to be repeated, refused for good.")
	e.sample(float64(s.mail.sent.Load()), "outcome", "sent")
	e.sample(float64(s.mail.failed.Load()), "outcome", "failed")
	e.sample(float64(s.mail.refused.Load()), "outcome", "refused")
	hooks := &s.deliveries.outcomes
	e.family("taskflow_webhook_attempts_total", "counter", "Attempts to tell webhooks: delivered, retry to be repeated, failed for good.")
	e.sample(float64(hooks.delivered.Load()), "outcome", "delivered")
	e.sample(float64(hooks.again.Load()), "outcome", "retry")
	e.sample(float64(hooks.failed.Load()), "outcome", "failed")
	e.family("taskflow_webhook_attempt_seconds", "histogram", "How long such attempts took.")
	e.times(hooks.took)
	e.one("taskflow_uploads_total", "counter", "Files taken in.", float64(s.intakes.files.Load()))
	e.one("taskflow_upload_bytes_total", "counter", "Bytes of them.", float64(s.intakes.bytes.Load()))
}
