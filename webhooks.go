package main

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	maxWebhooks      = 20             // of one project
	maxWebhookURL    = 2048           // characters
	maxWebhookEvents = 50             // kinds that one webhook names
	secretOverlap    = 24 * time.Hour // for which a secret that was replaced signs too
)

// webhook is an address that a project's changes are sent to, by the rules of Standard Webhooks. It is
// the project's: its admins manage it, whoever made it.
type webhook struct {
	ID             uuid       `json:"id"`
	ProjectID      uuid       `json:"projectId"`
	URL            string     `json:"url"`
	Events         []string   `json:"events"` // kinds such as task.created; task.* or * for all
	Active         bool       `json:"active"`
	DisabledReason *string    `json:"disabledReason"`      // gone or failing, where the program turned it off
	FailingSince   *timestamp `json:"failingSince"`        // first failure since the last success
	PreviousUntil  *timestamp `json:"previousSecretUntil"` // until then the replaced secret signs too
	CreatedAt      timestamp  `json:"createdAt"`
	UpdatedAt      timestamp  `json:"updatedAt"`
	Version        int64      `json:"version"`
	Secret         string     `json:"secret,omitempty" db:"-"` // shown when it is made
}

const webhookColumns = `id, project_id, url, events, active, disabled_reason, failing_since,
	CASE WHEN previous_until > clock_timestamp() THEN previous_until END AS previous_until, created_at, updated_at, version`

// newSecret is a key to sign with, and its text.
func newSecret() (key []byte, text string) {
	key = make([]byte, 32)
	rand.Read(key)
	return key, "whsec_" + base64.StdEncoding.EncodeToString(key)
}

// signatures is what a receiver compares: of id, time in seconds and body, by one key after another.
func signatures(id string, at time.Time, body []byte, keys ...[]byte) string {
	text := ""
	for _, key := range keys {
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "%s.%d.%s", id, at.Unix(), body)
		if text != "" {
			text += " "
		}
		text += "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	return text
}

const (
	webhooksSQL       = `SELECT ` + webhookColumns + ` FROM webhooks WHERE project_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3`
	countWebhooksSQL  = `SELECT count(*) FROM webhooks WHERE project_id = $1`
	webhookSQL        = `SELECT ` + webhookColumns + ` FROM webhooks WHERE id = $1`
	webhookProjectSQL = `SELECT project_id FROM webhooks WHERE id = $1`
)

// mayManage is nil for admins of a project, and otherwise the problem of who is none, or not even reads it.
func (s *server) mayManage(r *http.Request, project uuid) error {
	if err := s.mayRead(r.Context(), project); err != nil {
		return err
	}
	return s.needRole(r, project, roleAdmin)
}

// managedWebhook is the id in the path, of a webhook whose project the caller manages.
func (s *server) managedWebhook(r *http.Request) (uuid, error) {
	id, err := pathUUID(r, "id")
	if err != nil {
		return id, err
	}
	project, err := queryValue[uuid](r.Context(), s.db, webhookProjectSQL, id)
	if err != nil {
		return id, err
	}
	return id, s.mayManage(r, project)
}

// handleWebhooks lists a project's webhooks, newest first, for its admins.
func (s *server) handleWebhooks(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r)
	p := s.page(r, q)
	if err := q.done(); err != nil {
		return err
	}
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	if err := s.mayManage(r, id); err != nil {
		return err
	}
	rows, err := queryAll[webhook](r.Context(), s.db, webhooksSQL, id, p.beforeID(), p.limit+1)
	if err != nil {
		return err
	}
	total, err := s.countIf(r.Context(), p.total, countWebhooksSQL, id)
	if err != nil {
		return err
	}
	return writeList(s, w, r, p, rows, total, func(h webhook) cursor { return cursor{ID: h.ID.String()} })
}

// handleWebhook answers one webhook.
func (s *server) handleWebhook(w http.ResponseWriter, r *http.Request) error {
	if err := parseQuery(r).done(); err != nil {
		return err
	}
	id, err := s.managedWebhook(r)
	if err != nil {
		return err
	}
	h, err := queryOne[webhook](r.Context(), s.db, webhookSQL, id)
	if err != nil {
		return err
	}
	return writeVersioned(w, r, http.StatusOK, h.Version, h)
}

// newWebhook is the body of POST /projects/{id}/webhooks.
type newWebhook struct {
	URL    string   `json:"url"`
	Events []string `json:"events"`
	Active *bool    `json:"active"` // default true
}

func (in newWebhook) invalid() []fieldError {
	var f fields
	f.text("url", in.URL, 1, maxWebhookURL, false)
	f.eventKinds("events", in.Events)
	return f.errs
}

var eventKind = regexp.MustCompile(`^(\*|[a-z]{1,30}\.(\*|[a-z_]{1,30}))$`)

// eventKinds checks which events somebody wants. Kinds that there are not, or not yet, are taken.
func (f *fields) eventKinds(field string, kinds []string) {
	if len(kinds) == 0 || len(kinds) > maxWebhookEvents {
		f.wrong(field, "out_of_range", fmt.Sprintf("must have 1 to %d kinds", maxWebhookEvents))
	}
	for i, kind := range kinds[:min(len(kinds), maxWebhookEvents)] {
		at := fmt.Sprintf("%s[%d]", field, i)
		if !eventKind.MatchString(kind) {
			f.wrong(at, "invalid_kind", "must be a kind of event such as task.created, or task.* or * for all")
		} else if slices.Contains(kinds[:i], kind) {
			f.wrong(at, "repeated", "must be there once")
		}
	}
}

// checkURL is the problem of an address that no webhook of this installation may have.
func (s *server) checkURL(address string) error {
	if wrong := s.egress.refusal(address); wrong != "" {
		return invalid(fieldError{"url", "not_allowed", wrong})
	}
	return nil
}

const (
	limitWebhooksSQL = `SELECT refuse('too_many_webhooks') WHERE (SELECT count(*) FROM webhooks WHERE project_id = $1) >= $2`
	insertWebhookSQL = `INSERT INTO webhooks (id, project_id, url, events, active, secret, seq) VALUES ($1, $2, $3, $4, $5, $6, 0)`
	// logWebhookSQL has the webhook begin after the event of its own making.
	logWebhookSQL = `
	UPDATE webhooks w SET seq = log_change(w.project_id, $2, 'webhook.created', w.id, changes('{}', webhook_fields(w))) WHERE id = $1`
)

// handleCreateWebhook makes a webhook and shows its secret this once.
func (s *server) handleCreateWebhook(w http.ResponseWriter, r *http.Request) error {
	project, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	in, err := decode[newWebhook](w, r)
	if err == nil {
		err = s.checkURL(in.URL)
	}
	if err != nil {
		return err
	}
	me, id := callerOf(r.Context()).ID, newUUID()
	key, text := newSecret()
	b := &pgx.Batch{}
	b.Queue(enterProjectSQL, project, me, roleAdmin, nil)
	b.Queue(limitWebhooksSQL, project, maxWebhooks)
	b.Queue(insertWebhookSQL, id, project, in.URL, in.Events, in.Active == nil || *in.Active, key)
	b.Queue(logWebhookSQL, id, me)
	b.Queue(webhookSQL, id)
	made, err := sendOne[webhook](r.Context(), s.db, b)
	if err != nil {
		return err
	}
	made.Secret = text
	return writeCreated(w, r, "/api/v1/webhooks/"+id.String(), made.Version, made)
}

// webhookPatch is the body of PATCH /webhooks/{id}.
type webhookPatch struct {
	URL    optional[string]   `json:"url"`
	Events optional[[]string] `json:"events"`
	Active optional[bool]     `json:"active"`
}

func (in webhookPatch) invalid() []fieldError {
	var f fields
	patchText(&f, "url", in.URL, 1, maxWebhookURL, false)
	notNull(&f, "events", in.Events)
	if in.Events.set && !in.Events.null {
		f.eventKinds("events", in.Events.value)
	}
	notNull(&f, "active", in.Active)
	return f.errs
}

const (
	enterWebhookSQL = `SELECT enter_webhook($1, $2, $3)`
	// patchWebhookSQL sets columns. A webhook that is turned on begins with what happens from then on.
	patchWebhookSQL = `
	WITH w AS (
		UPDATE webhooks w SET url = n.url, events = n.events, active = n.active,
			seq = CASE WHEN n.active AND NOT o.active THEN p.seq ELSE w.seq END,
			disabled_reason = CASE WHEN n.active THEN NULL ELSE w.disabled_reason END,
			failing_since = CASE WHEN n.active AND NOT o.active OR n.url <> o.url THEN NULL ELSE w.failing_since END,
			version = w.version + 1, updated_at = clock_timestamp()
		FROM projects p, webhooks o, jsonb_populate_record(o, $3::jsonb) n
		WHERE o.id = $1 AND w.id = o.id AND p.id = o.project_id AND (n.url, n.events, n.active) IS DISTINCT FROM (o.url, o.events, o.active)
		RETURNING w.id, w.project_id, changes(webhook_fields(o), webhook_fields(w))
			|| CASE WHEN w.url <> o.url THEN '{"url": [null, null]}'::jsonb ELSE '{}' END AS what)
	SELECT log_change(project_id, $2, 'webhook.updated', id, what) FROM w`
)

// handlePatchWebhook changes a webhook, or turns it on or off.
func (s *server) handlePatchWebhook(w http.ResponseWriter, r *http.Request) error {
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	in, err := decode[webhookPatch](w, r)
	if err == nil && in.URL.set {
		err = s.checkURL(in.URL.value)
	}
	if err != nil {
		return err
	}
	set := columns{}
	setColumn(set, "url", in.URL)
	setColumn(set, "events", in.Events)
	setColumn(set, "active", in.Active)
	text, err := set.json()
	if err != nil {
		return err
	}
	me := callerOf(r.Context()).ID
	b := &pgx.Batch{}
	b.Queue(enterWebhookSQL, id, me, ifMatch(r))
	b.Queue(patchWebhookSQL, id, me, text)
	b.Queue(webhookSQL, id)
	h, err := sendOne[webhook](r.Context(), s.db, b)
	if err != nil {
		return err
	}
	return writeVersioned(w, r, http.StatusOK, h.Version, h)
}

const rotateSecretSQL = `
	WITH w AS (
		UPDATE webhooks SET previous_secret = secret, previous_until = clock_timestamp() + $4::interval, secret = $3,
			version = version + 1, updated_at = clock_timestamp()
		WHERE id = $1 RETURNING id, project_id)
	SELECT log_change(project_id, $2, 'webhook.rotated', id, '{}') FROM w`

// handleRotateSecret gives a webhook a new secret and shows it this once. The old one signs beside it
// for a day, so that a receiver has time to learn the new one.
func (s *server) handleRotateSecret(w http.ResponseWriter, r *http.Request) error {
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	me := callerOf(r.Context()).ID
	key, text := newSecret()
	b := &pgx.Batch{}
	b.Queue(enterWebhookSQL, id, me, ifMatch(r))
	b.Queue(rotateSecretSQL, id, me, key, secretOverlap)
	b.Queue(webhookSQL, id)
	h, err := sendOne[webhook](r.Context(), s.db, b)
	if err != nil {
		return err
	}
	h.Secret = text
	return writeVersioned(w, r, http.StatusOK, h.Version, h)
}

const deleteWebhookSQL = `
	WITH w AS (DELETE FROM webhooks WHERE id = $1 RETURNING id, project_id)
	SELECT log_change(project_id, $2, 'webhook.deleted', id, '{}') FROM w`

// handleDeleteWebhook ends a webhook. What it had still to be sent is not sent any more.
func (s *server) handleDeleteWebhook(w http.ResponseWriter, r *http.Request) error {
	id, err := pathUUID(r, "id")
	if err != nil {
		return err
	}
	me := callerOf(r.Context()).ID
	b := &pgx.Batch{}
	b.Queue(enterWebhookSQL, id, me, ifMatch(r))
	b.Queue(deleteWebhookSQL, id, me)
	if err := s.db.send(r.Context(), b); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
