package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"github.com/jackc/pgx/v5"
)

// noticeKind is one kind of thing that users are told. All of them are in the inbox, if a user does
// not want it otherwise.
type noticeKind struct {
	name  string
	email bool   // by default also mailed as it happens: what is rare, and wants something of its reader
	about string // what mails of it are about
}

// noticeKinds are all kinds, as settings list them.
var noticeKinds = []noticeKind{
	{"task.assigned", true, "tasks that are given to you"},
	{"comment.mentioned", true, "comments that mention you"},
	{"comment.created", false, "comments on your tasks"},
	{"task.status_changed", false, "the status of your tasks"},
	{"task.due", true, "tasks that are due"},
	{"task.overdue", true, "tasks that are overdue"},
	{"member.added", true, "projects that you are added to"},
	{"member.updated", false, "your role in projects"},
	{"member.removed", true, "projects that you are removed from"},
	{"webhook.disabled", true, "webhooks of your projects that are turned off"},
}

// mailedKinds are those that are mailed by default.
func mailedKinds() []string {
	var names []string
	for _, k := range noticeKinds {
		if k.email {
			names = append(names, k.name)
		}
	}
	return names
}

// kindSetting is how a user is told of one kind.
type kindSetting struct {
	Kind  string `json:"kind"`
	Inbox bool   `json:"inbox"` // in the inbox
	Email bool   `json:"email"` // mailed as it happens, if the address is confirmed
}

// noticeSettings is what a user wants to be told, and how.
type noticeSettings struct {
	Kinds   []kindSetting `json:"kinds"`
	Email   bool          `json:"email"`   // false: no mail of notifications at all
	Digest  string        `json:"digest"`  // off, daily, weekly: mails of what is unread and was not mailed as it happened
	Hour    int           `json:"hour"`    // of digests, on the user's clock
	Weekday int           `json:"weekday"` // of weekly ones; 1 is Monday (ISO 8601)
	Version int64         `json:"version"`
}

// channels is what the database keeps of one kind; nil is the default.
type channels struct {
	Inbox *bool `json:"inbox,omitempty"`
	Email *bool `json:"email,omitempty"`
}

// storedSettings is the row of a user who has set something.
type storedSettings struct {
	Kinds   map[string]channels
	Email   bool
	Digest  string
	Hour    int
	Weekday int
	Version int64
}

// defaultSettings are those of who has set nothing; the table's defaults are the same.
var defaultSettings = storedSettings{Email: true, Digest: "off", Hour: 8, Weekday: 1, Version: 1}

// whole is a row with what it leaves to the defaults.
func (in storedSettings) whole() noticeSettings {
	out := noticeSettings{Email: in.Email, Digest: in.Digest, Hour: in.Hour, Weekday: in.Weekday, Version: in.Version}
	for _, k := range noticeKinds {
		set, setting := in.Kinds[k.name], kindSetting{k.name, true, k.email}
		if set.Inbox != nil {
			setting.Inbox = *set.Inbox
		}
		if set.Email != nil {
			setting.Email = *set.Email
		}
		out.Kinds = append(out.Kinds, setting)
	}
	return out
}

// newSettings is the body of PUT /me/notification-settings; what is left out is as by default.
type newSettings struct {
	Kinds []struct {
		Kind  string `json:"kind"`
		Inbox *bool  `json:"inbox"`
		Email *bool  `json:"email"`
	} `json:"kinds"`
	Email   *bool   `json:"email"`
	Digest  *string `json:"digest"`
	Hour    *int    `json:"hour"`
	Weekday *int    `json:"weekday"`
}

func (in newSettings) invalid() []fieldError {
	var f fields
	var names, seen []string
	for _, k := range noticeKinds {
		names = append(names, k.name)
	}
	for i, k := range in.Kinds {
		field := fmt.Sprintf("kinds[%d].kind", i)
		f.oneOf(field, k.Kind, names...)
		if slices.Contains(seen, k.Kind) {
			f.wrong(field, "duplicate", "must not stand twice")
		}
		seen = append(seen, k.Kind)
	}
	if in.Digest != nil {
		f.oneOf("digest", *in.Digest, "off", "daily", "weekly")
	}
	f.within("hour", in.Hour, 0, 23)
	f.within("weekday", in.Weekday, 1, 7)
	return f.errs
}

func (f *fields) within(field string, value *int, least, most int) {
	if value != nil && (*value < least || *value > most) {
		f.wrong(field, "out_of_range", fmt.Sprintf("must be a whole number from %d to %d", least, most))
	}
}

// stored is the row that the body asks for, but for its version.
func (in newSettings) stored() storedSettings {
	out := defaultSettings
	out.Kinds = map[string]channels{}
	for _, k := range in.Kinds {
		out.Kinds[k.Kind] = channels{k.Inbox, k.Email}
	}
	if in.Email != nil {
		out.Email = *in.Email
	}
	if in.Digest != nil {
		out.Digest = *in.Digest
	}
	if in.Hour != nil {
		out.Hour = *in.Hour
	}
	if in.Weekday != nil {
		out.Weekday = *in.Weekday
	}
	return out
}

const (
	settingsSQL     = `SELECT kinds, email, digest, hour, weekday, version FROM notification_settings WHERE user_id = $1`
	keepSettingsSQL = `INSERT INTO notification_settings (user_id) VALUES ($1) ON CONFLICT DO NOTHING`
	// matchSettingsSQL judges If-Match. It follows the lock of the user's row.
	matchSettingsSQL = `
	SELECT refuse('version_mismatch', version::text) FROM notification_settings WHERE user_id = $1 AND version <> ALL ($2::bigint[])`
	// putSettingsSQL sets everything. What is told when changes only from now on: the next digest is the
	// first that is due after this. Settings that are the same already leave no trace.
	putSettingsSQL = `
	WITH s AS (
		UPDATE notification_settings s SET kinds = $2::jsonb, email = $3, digest = $4, hour = $5::int, weekday = $6::int, version = s.version + 1,
			digested = CASE WHEN (o.digest, o.hour, o.weekday) = ($4, $5::int, $6::int) THEN o.digested ELSE clock_timestamp() AT TIME ZONE u.timezone END
		FROM notification_settings o JOIN users u ON u.id = o.user_id
		WHERE o.user_id = $1 AND s.user_id = o.user_id AND (o.kinds, o.email, o.digest, o.hour::int, o.weekday::int) <> ($2::jsonb, $3, $4, $5::int, $6::int)
		RETURNING ` + settingsChanged
	// stopMailSQL turns off mails of one kind, of digests, or all. What is off already stays so.
	stopMailSQL = `
	WITH s AS (
		UPDATE notification_settings s SET email = n.email, digest = n.digest, kinds = n.kinds, version = s.version + 1
		FROM notification_settings o, LATERAL (
			SELECT o.email AND $2 <> 'all' AS email, CASE WHEN $2 = 'digest' THEN 'off' ELSE o.digest END AS digest,
				CASE WHEN $2 IN ('all', 'digest') THEN o.kinds
					ELSE o.kinds || jsonb_build_object($2::text, coalesce(o.kinds -> $2, '{}') || '{"email": false}') END AS kinds) n
		WHERE o.user_id = $1 AND s.user_id = o.user_id AND (o.email, o.digest, o.kinds) <> (n.email, n.digest, n.kinds)
		RETURNING ` + settingsChanged
	// settingsChanged ends both, and puts what has changed into the account's log.
	settingsChanged = `s.user_id, changes(to_jsonb(o) - '{user_id,digested,version}'::text[], to_jsonb(s) - '{user_id,digested,version}'::text[]) AS what)
	SELECT log_account_change(user_id, user_id, 'user.notifications_set', user_id, what) FROM s`
)

// settingsOf are the settings of a user.
func (s *server) settingsOf(ctx context.Context, user uuid) (noticeSettings, error) {
	found, err := queryAll[storedSettings](ctx, s.db, settingsSQL, user)
	if err != nil || len(found) == 0 {
		return defaultSettings.whole(), err
	}
	return found[0].whole(), nil
}

// handleNoticeSettings answers how the caller is told of what.
func (s *server) handleNoticeSettings(w http.ResponseWriter, r *http.Request) error {
	if err := parseQuery(r).done(); err != nil {
		return err
	}
	settings, err := s.settingsOf(r.Context(), callerOf(r.Context()).ID)
	if err != nil {
		return err
	}
	return writeVersioned(w, r, http.StatusOK, settings.Version, settings)
}

// handleSetNotices sets how the caller is told of what.
func (s *server) handleSetNotices(w http.ResponseWriter, r *http.Request) error {
	in, err := decode[newSettings](w, r)
	if err != nil {
		return err
	}
	me, set := callerOf(r.Context()).ID, in.stored()
	b := &pgx.Batch{}
	b.Queue(lockActiveSQL, me)
	b.Queue(keepSettingsSQL, me)
	b.Queue(matchSettingsSQL, me, ifMatch(r))
	b.Queue(putSettingsSQL, me, set.Kinds, set.Email, set.Digest, set.Hour, set.Weekday)
	b.Queue(settingsSQL, me)
	now, err := sendOne[storedSettings](r.Context(), s.db, b)
	if err != nil {
		return err
	}
	return writeVersioned(w, r, http.StatusOK, now.Version, now.whole())
}

// stopMail turns off the mails of one kind of notification for a user, or digests, or all.
func (s *server) stopMail(ctx context.Context, user uuid, what string) error {
	b := &pgx.Batch{}
	b.Queue(lockActiveSQL, user)
	b.Queue(keepSettingsSQL, user)
	b.Queue(stopMailSQL, user, what)
	return s.db.send(ctx, b)
}
