package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// A change becomes deliveries after it is committed: each webhook has read its project's log up to a
// seq, and whoever makes deliveries of what comes next raises it in the same transaction. So each
// webhook has exactly one delivery of each event that it wants, and a write pays nothing for it.
//
// What is due becomes jobs, a few of each webhook and of each host at a time, so that a receiver that is
// slow, or has been away, fills neither the queue nor the workers, however many webhooks lead to it. Those
// in trouble count by themselves, so that one that fails does not slow others at a host that many use.
//
// A job is one attempt; its outcome is its effect. An attempt whose outcome was lost is made again: a
// receiver gets each event at least once, with the same webhook-id. The order in which events arrive is
// not promised.
const (
	deliveryPoll   = time.Second            // between looks at what other processes have written, and at what has become due
	deliveryGather = 20 * time.Millisecond  // between looks while there is something to do
	deliveryLull   = 200 * time.Millisecond // between looks while others write what no webhook wants
	lostPoll       = time.Second            // between looks for attempts whose jobs are gone
	readAhead      = 100                    // events that one webhook reads in one transaction
	readersAtOnce  = 10                     // webhooks that do
	startedAtOnce  = 500                    // jobs made in one transaction
	underWay       = 4                      // attempts of one webhook at a time; one while it is failing or slow
	hostUnderWay   = 16                     // attempts at one host, of all webhooks that are neither
	hostInTrouble  = 2                      // of all that are
	slowAfter      = time.Second            // an answer is slow
	offAfter       = 3 * 24 * time.Hour     // in which every attempt failed
	keptAnswerText = 4 << 10                // bytes of an answer's body for people to see
	testKind       = "webhook.test"
	deliveryLock   = 7_227_301_659 // advisory lock of who makes deliveries and jobs of them
)

// deliveryRetries are the times from one failed attempt to the next. A tenth more is chance, so that
// what failed together does not return together.
var deliveryRetries = []time.Duration{5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour}

const (
	lockDeliveriesSQL = `SELECT pg_advisory_xact_lock($1)`
	// makeDeliveriesSQL reads on in the logs, and tells whether there is more to read. The body is made
	// here for good, since it is what the receiver can rely on being the same each time. The limit keeps
	// the planner from reading all events there are.
	makeDeliveriesSQL = `
	WITH behind (id, project_id, key, events, seq, upto, last) AS MATERIALIZED (
		SELECT w.id, w.project_id, p.key, w.events, w.seq, least(p.seq, w.seq + $1) AS upto, p.seq
		FROM webhooks w JOIN projects p ON p.id = w.project_id
		WHERE w.active AND w.seq < p.seq LIMIT $2 FOR UPDATE OF w),
	made AS (
		INSERT INTO deliveries (id, webhook_id, kind, trace, body)
		SELECT uuid_v7(), b.id, e.kind, e.trace, json_build_object('type', e.kind,
			'timestamp', to_char(e.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
			'data', json_build_object('project', json_build_object('id', b.project_id, 'key', b.key), 'seq', e.seq,
				'actorId', e.actor, 'subjectId', e.subject, 'changes', e.changes))
		FROM behind b CROSS JOIN LATERAL (
			SELECT * FROM events WHERE scope = b.project_id AND seq > b.seq AND seq <= b.upto ORDER BY seq LIMIT $1) e
		WHERE b.events && ARRAY['*', e.kind, split_part(e.kind, '.', 1) || '.*']
		ORDER BY b.id, e.seq),
	read AS (UPDATE webhooks w SET seq = b.upto FROM behind b WHERE w.id = b.id)
	SELECT count(*) AS webhooks, count(*) = $2 OR coalesce(bool_or(upto < last), false) AS more FROM behind`
	// startDeliveriesSQL makes jobs of what is due. It visits only webhooks that have something waiting,
	// from one to the next in the index, and takes what has waited longest; a clock that stands still
	// lets the index find that.
	startDeliveriesSQL = `
	WITH RECURSIVE busy AS (
		(SELECT webhook_id FROM deliveries WHERE state = 'waiting' ORDER BY webhook_id LIMIT 1)
		UNION ALL
		SELECT (SELECT d.webhook_id FROM deliveries d WHERE d.state = 'waiting' AND d.webhook_id > b.webhook_id ORDER BY d.webhook_id LIMIT 1)
		FROM busy b WHERE b.webhook_id IS NOT NULL),
	sending AS MATERIALIZED (
		SELECT w.id, ` + hostOfWebhook + ` AS host, ` + inTrouble + ` AS trouble, count(*) AS n
		FROM deliveries u JOIN jobs j ON j.id = u.job_id AND j.dead_at IS NULL JOIN webhooks w ON w.id = u.webhook_id WHERE u.state = 'sending' GROUP BY w.id),
	due AS (
		SELECT d.id, d.next_at, ` + hostOfWebhook + ` AS host, ` + inTrouble + ` AS trouble FROM busy b JOIN webhooks w ON w.id = b.webhook_id CROSS JOIN LATERAL (
			SELECT d.id, d.next_at FROM deliveries d WHERE d.webhook_id = w.id AND d.state = 'waiting' AND d.next_at <= statement_timestamp() ORDER BY d.next_at
			LIMIT greatest(0, CASE WHEN ` + inTrouble + ` THEN 1 ELSE $1::bigint END - coalesce((SELECT s.n FROM sending s WHERE s.id = w.id), 0))) d),
	fit AS (
		SELECT d.id FROM (SELECT *, row_number() OVER (PARTITION BY host, trouble ORDER BY next_at) AS place FROM due) d
		LEFT JOIN (SELECT host, trouble, sum(n) AS n FROM sending GROUP BY host, trouble) s ON s.host = d.host AND s.trouble = d.trouble
		WHERE d.place + coalesce(s.n, 0) <= CASE WHEN d.trouble THEN $5::bigint ELSE $4::bigint END ORDER BY d.next_at LIMIT $2),
	started AS (
		UPDATE deliveries d SET state = 'sending', job_id = uuid_v7() FROM fit WHERE d.id = fit.id AND d.state = 'waiting' RETURNING d.id, d.job_id, d.trace)
	INSERT INTO jobs (id, kind, priority, payload, trace)
	SELECT job_id, 'webhook.deliver', $3, jsonb_build_object('deliveryId', id), coalesce('/' || encode(trace, 'hex'), '') FROM started RETURNING id::text, payload::text, trace`
	hostOfWebhook = `rtrim(substring(lower(w.url) FROM '^https?://(\[[^]]*\]|[^/?#:]*)'), '.')` // with all its ports
	inTrouble     = `(w.failing_since IS NOT NULL OR w.slow)`
)

// startedDelivery is a job as the database made it.
type startedDelivery struct{ ID, Payload, Trace string }

// startDeliveries makes deliveries of what happened and jobs of what is due, and tells how soon to look
// again if there is reason to. Processes take turns at it.
func (s *server) startDeliveries(ctx context.Context) (pause time.Duration, err error) {
	var read struct {
		Webhooks int
		More     bool
	}
	var started []startedDelivery
	b := &pgx.Batch{}
	b.Queue(lockDeliveriesSQL, deliveryLock)
	b.Queue(makeDeliveriesSQL, readAhead, readersAtOnce)
	b.Queue(startDeliveriesSQL, underWay, startedAtOnce, normalPriority, hostUnderWay, hostInTrouble)
	if err := s.db.sendEach(ctx, b, ignored, one(&read), all(&started)); err != nil {
		return deliveryPoll, err
	}
	jobs := make([]job, len(started))
	for i, d := range started {
		jobs[i] = job{ID: d.ID, Kind: "webhook.deliver", Priority: normalPriority, Trace: d.Trace, Payload: []byte(d.Payload)}
	}
	s.outbox.pushSoon(jobs...)
	switch {
	case read.More || len(started) == startedAtOnce:
		s.wakeDeliveries()
		return 0, nil
	case read.Webhooks > 0 || len(started) > 0:
		return deliveryGather, nil
	}
	return deliveryLull, nil
}

// runDeliveries starts deliveries until ctx ends: soon after a change that this process has made, or an
// attempt that it has ended, and otherwise each deliveryPoll.
func (s *server) runDeliveries(ctx context.Context) {
	var looking sync.WaitGroup
	looking.Go(func() { s.endLostDeliveries(ctx) })
	defer looking.Wait()
	for ctx.Err() == nil {
		began := time.Now()
		pause, err := s.startDeliveries(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.Warn("webhooks wait", "error", err)
		}
		select {
		case <-s.deliveries.due:
		case <-time.After(deliveryPoll):
		case <-ctx.Done():
		}
		sleep(ctx, pause-time.Since(began))
	}
}

// endLostSQL ends attempts whose job an operator has deleted, or that is dead, which he may still have
// retried: then it goes on where it was. A job ends with its attempt, in one transaction, so there is no
// moment at which a job that is well is not there.
const endLostSQL = `
	UPDATE deliveries d SET state = 'failed', next_at = NULL, job_id = l.dead,
		error = CASE WHEN l.dead IS NULL THEN 'an operator deleted the job that sends it' ELSE 'the job that sends it failed; an operator can retry it' END
	FROM (SELECT u.id, u.job_id, j.id AS dead FROM deliveries u LEFT JOIN jobs j ON j.id = u.job_id WHERE u.state = 'sending' AND (j.id IS NULL OR j.dead_at IS NOT NULL)) l
	WHERE d.id = l.id AND d.state = 'sending' AND d.job_id = l.job_id`

// endLostDeliveries looks for attempts that nobody makes any more, until ctx ends.
func (s *server) endLostDeliveries(ctx context.Context) {
	for ; ctx.Err() == nil; sleep(ctx, lostPoll) {
		if _, err := execute(ctx, s.db, endLostSQL); err != nil && ctx.Err() == nil {
			s.log.Warn("lost deliveries wait", "error", err)
		}
	}
}

// wakeDeliveries has deliveries started soon, where this process does that.
func (s *server) wakeDeliveries() {
	select {
	case s.deliveries.due <- struct{}{}:
	default:
	}
}

// deliveryJob is the payload of one attempt.
type deliveryJob struct {
	DeliveryID uuid `json:"deliveryId"`
}

// attempt is what is needed for one.
type attempt struct {
	WebhookID uuid
	URL       string
	Off       bool // nothing more is to be sent
	Kind      string
	Body      string
	Tries     int
	Key       []byte
	OldKey    []byte // nil: none that still signs
}

const (
	attemptSQL = `
	SELECT d.webhook_id, w.url, d.kind <> $3 AND (NOT w.active OR p.deleted_at IS NOT NULL AND d.kind <> 'project.deleted') AS off, d.kind, d.body, d.tries,
		w.secret AS key, CASE WHEN w.previous_until > clock_timestamp() THEN w.previous_secret END AS old_key
	FROM deliveries d JOIN webhooks w ON w.id = d.webhook_id JOIN projects p ON p.id = w.project_id
	WHERE d.id = $1 AND d.job_id = $2 AND d.state IN ('sending', 'failed')`
	giveUpSQL = `UPDATE deliveries SET state = 'failed', next_at = NULL, job_id = NULL, error = $3 WHERE id = $1 AND job_id = $2`
	// endAttemptSQL notes an outcome; $9 is the time until the next attempt, NULL for none.
	endAttemptSQL = `
	UPDATE deliveries SET state = $3::text::delivery_state, attempts = attempts + 1, tries = CASE WHEN $3::text = 'delivered' THEN tries ELSE tries + 1 END,
		last_at = $4, took_ms = $5, status = nullif($6::integer, 0), answer = $7, error = nullif($8::text, ''), next_at = clock_timestamp() + $9::interval, job_id = NULL
	WHERE id = $1 AND job_id = $2`
	// succeededSQL and failedSQL touch the webhook only where that changes something.
	succeededSQL = `UPDATE webhooks SET failing_since = NULL, slow = $2 WHERE id = $1 AND (failing_since IS NOT NULL OR slow <> $2)`
	failedSQL    = `UPDATE webhooks SET failing_since = clock_timestamp() WHERE id = $1 AND failing_since IS NULL`
	// disableSQL turns a webhook off, if it is on: at once, or when all has failed for $3. The project's
	// owners find that in their inboxes, everybody in its history.
	disableSQL = `
	WITH p AS MATERIALIZED (
		SELECT p.id FROM projects p JOIN webhooks w ON w.project_id = p.id
		WHERE w.id = $1 AND w.active AND ($3::interval IS NULL OR w.failing_since < clock_timestamp() - $3::interval) FOR NO KEY UPDATE OF p),
	w AS (
		UPDATE webhooks w SET active = false, disabled_reason = $2, version = version + 1, updated_at = clock_timestamp()
		FROM p WHERE w.id = $1 AND w.project_id = p.id AND w.active RETURNING w.id, w.project_id, w.version)
	SELECT log_change(project_id, NULL, 'webhook.disabled', id, jsonb_build_object('active', jsonb_build_array(true, false), 'disabledReason', jsonb_build_array(NULL, $2::text))),
		(SELECT count(tell(m.user_id, NULL, 'webhook.disabled', NULL, w.project_id, jsonb_build_object('webhookId', w.id, 'reason', $2::text), 'webhook:' || w.id || ':' || w.version, $4))
		FROM members m WHERE m.project_id = w.project_id AND m.role = 'owner')
	FROM w`
)

// runDeliver is one attempt. It may be made twice, when the end of the first was lost, with the same
// webhook-id; its outcome is noted once.
func (s *server) runDeliver(ctx context.Context, j job, effect *pgx.Batch) error {
	var p deliveryJob
	if err := json.Unmarshal(j.Payload, &p); err != nil {
		return permanent(fmt.Errorf("read payload: %w", err))
	}
	found, err := queryAll[attempt](ctx, s.db, attemptSQL, p.DeliveryID, j.ID, testKind)
	if err != nil || len(found) == 0 {
		return err // what is gone, or asked for anew, is not to be sent
	}
	a := found[0]
	if a.Off {
		effect.Queue(giveUpSQL, p.DeliveryID, j.ID, "the webhook was off")
		return nil
	}
	began := time.Now()
	got, err := s.egress.post(ctx, a.URL, a.header(p.DeliveryID.String(), began, traceOf(ctx)), []byte(a.Body))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.endAttempt(effect, p.DeliveryID, j.ID, a, began, got, err)
	return nil
}

// header is what a request has besides its body.
func (a attempt) header(id string, at time.Time, t *trace) http.Header {
	keys := [][]byte{a.Key}
	if a.OldKey != nil {
		keys = append(keys, a.OldKey)
	}
	return http.Header{
		"Content-Type": {"application/json"}, "User-Agent": {"TaskFlow-Webhooks"}, "Traceparent": {t.traceparent()},
		"Webhook-Id": {id}, "Webhook-Timestamp": {strconv.FormatInt(at.Unix(), 10)}, "Webhook-Signature": {signatures(id, at, []byte(a.Body), keys...)},
	}
}

// endAttempt queues what follows from an attempt: the next one, the end, or that of the webhook.
func (s *server) endAttempt(effect *pgx.Batch, id uuid, job string, a attempt, began time.Time, got reply, failure error) {
	state, reason, took := "failed", "", time.Since(began)
	var next *time.Duration
	switch {
	case failure == nil && got.status >= 200 && got.status < 300:
		state = "delivered"
	case failure != nil:
		reason = failure.Error()
	case got.status >= 300 && got.status < 400:
		reason = fmt.Sprintf("the receiver answered %d; redirects are not followed", got.status)
	default:
		reason = fmt.Sprintf("the receiver answered %d", got.status)
	}
	gone := got.status == http.StatusGone
	if retries := s.deliveries.retries; state == "failed" && !gone && a.Kind != testKind && a.Tries < len(retries) {
		delay := retries[a.Tries] + rand.N(retries[a.Tries]/10+1)
		state, next = "waiting", &delay
	}
	s.deliveries.outcomes.note(state, took)
	var answer *string
	if got.status != 0 {
		text := strings.ReplaceAll(clip(string(got.body), keptAnswerText), "\x00", "")
		answer = &text
	}
	effect.Queue(endAttemptSQL, id, job, state, began, took.Milliseconds(), got.status, answer, reason, next)
	switch {
	case state == "delivered":
		effect.Queue(succeededSQL, a.WebhookID, took > slowAfter)
	case gone:
		effect.Queue(disableSQL, a.WebhookID, "gone", nil, s.mailsByDefault("webhook.disabled"))
	case a.Kind != testKind:
		effect.Queue(failedSQL, a.WebhookID)
		effect.Queue(disableSQL, a.WebhookID, "failing", s.deliveries.offAfter, s.mailsByDefault("webhook.disabled"))
	}
}

// delivery is what a webhook was or will be sent, and how its last attempt went.
type delivery struct {
	ID            uuid       `json:"id"` // the webhook-id that the receiver sees
	WebhookID     uuid       `json:"webhookId"`
	Type          string     `json:"type"`
	State         string     `json:"state"`
	Attempts      int        `json:"attempts"`
	NextAttemptAt *timestamp `json:"nextAttemptAt"`
	LastAttemptAt *timestamp `json:"lastAttemptAt"`
	DurationMs    *int       `json:"durationMs"`
	AnswerStatus  *int       `json:"answerStatus"` // null: no answer
	Answer        *string    `json:"answer"`       // the beginning of its body
	Error         *string    `json:"error"`
	CreatedAt     timestamp  `json:"createdAt"`
}

// deliveryWhole is a delivery with what is sent.
type deliveryWhole struct {
	delivery
	Payload json.RawMessage `json:"payload"`
}

const (
	deliveryColumns = `d.id, d.webhook_id, d.kind AS type, d.state::text AS state, d.attempts, CASE WHEN d.state = 'waiting' THEN d.next_at END AS next_attempt_at,
	d.last_at AS last_attempt_at, d.took_ms AS duration_ms, d.status AS answer_status, d.answer, d.error, d.created_at`
	deliveriesSQL      = `SELECT ` + deliveryColumns + ` FROM deliveries d WHERE d.webhook_id = $1 AND d.id < $2 ORDER BY d.id DESC LIMIT $3`
	countDeliveriesSQL = `SELECT count(*) FROM deliveries WHERE webhook_id = $1`
	deliverySQL        = `SELECT ` + deliveryColumns + `, d.body::json AS payload FROM deliveries d WHERE d.id = $1`
	deliveryHomeSQL    = `SELECT w.project_id FROM deliveries d JOIN webhooks w ON w.id = d.webhook_id WHERE d.id = $1`
)

// handleDeliveries lists what a webhook was sent in the last 30 days, newest first.
func (s *server) handleDeliveries(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r)
	p := s.page(r, q)
	if err := q.done(); err != nil {
		return err
	}
	id, err := s.managedWebhook(r)
	if err != nil {
		return err
	}
	rows, err := queryAll[delivery](r.Context(), s.db, deliveriesSQL, id, p.beforeID(), p.limit+1)
	if err != nil {
		return err
	}
	total, err := s.countIf(r.Context(), p.total, countDeliveriesSQL, id)
	if err != nil {
		return err
	}
	return writeList(s, w, r, p, rows, total, func(d delivery) cursor { return cursor{ID: d.ID.String()} })
}

// handleDelivery answers one delivery with what is sent.
func (s *server) handleDelivery(w http.ResponseWriter, r *http.Request) error {
	if err := parseQuery(r).done(); err != nil {
		return err
	}
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	project, err := queryValue[uuid](r.Context(), s.db, deliveryHomeSQL, id)
	if err == nil {
		err = s.mayManage(r, project)
	}
	if err != nil {
		return err
	}
	d, err := queryOne[deliveryWhole](r.Context(), s.db, deliverySQL, id)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, d)
}

const insertTestSQL = `
	INSERT INTO deliveries (id, webhook_id, kind, body)
	SELECT $1, w.id, $3::text, json_build_object('type', $3::text, 'timestamp', to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
		'data', json_build_object('project', json_build_object('id', p.id, 'key', p.key), 'actorId', $4::uuid, 'subjectId', w.id, 'changes', json_build_object()))
	FROM webhooks w JOIN projects p ON p.id = w.project_id WHERE w.id = $2`

// handleTestWebhook sends a webhook an event that tells of nothing, once, also while it is off.
func (s *server) handleTestWebhook(w http.ResponseWriter, r *http.Request) error {
	webhook, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	me, id := callerOf(r.Context()).ID, newUUID()
	b := &pgx.Batch{}
	b.Queue(enterWebhookSQL, webhook, me, nil)
	b.Queue(insertTestSQL, id, webhook, testKind, me)
	b.Queue(deliverySQL, id)
	d, err := sendOne[deliveryWhole](r.Context(), s.db, b)
	if err != nil {
		return err
	}
	afterCommit(r.Context(), func(context.Context) { s.wakeDeliveries() })
	w.Header().Set("Location", "/api/v1/deliveries/"+id.String())
	return writeJSON(w, http.StatusAccepted, d)
}

const (
	enterDeliverySQL = `SELECT enter_webhook((SELECT webhook_id FROM deliveries WHERE id = $1), $2)`
	mustBeOnSQL      = `SELECT refuse('webhook_off') FROM webhooks w JOIN deliveries d ON d.webhook_id = w.id WHERE d.id = $1 AND NOT w.active AND d.kind <> $2`
	// redeliverSQL leaves alone what is just being sent.
	redeliverSQL = `
	UPDATE deliveries SET state = 'waiting', next_at = clock_timestamp(), tries = 0, job_id = NULL
	WHERE id = $1 AND NOT (state = 'sending' AND EXISTS (SELECT FROM jobs WHERE jobs.id = job_id AND dead_at IS NULL))`
)

// handleRedeliver has a delivery sent at once, with the same webhook-id, and tried as often as a new one.
func (s *server) handleRedeliver(w http.ResponseWriter, r *http.Request) error {
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	b := &pgx.Batch{}
	b.Queue(enterDeliverySQL, id, callerOf(r.Context()).ID)
	b.Queue(mustBeOnSQL, id, testKind)
	b.Queue(redeliverSQL, id)
	b.Queue(deliverySQL, id)
	d, err := sendOne[deliveryWhole](r.Context(), s.db, b)
	if err != nil {
		return err
	}
	afterCommit(r.Context(), func(context.Context) { s.wakeDeliveries() })
	return writeJSON(w, http.StatusAccepted, d)
}
