package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	mailPause      = 2 * time.Minute    // from a notification to its mail, for others to join it
	digestLookback = 8 * 24 * time.Hour // what was unread for longer is no news
	maxNoticeLines = 50                 // told in one mail; of more it has the number
	maxSubject     = 150                // characters
)

// Which notification goes with which mail is written into its row in the same statement that makes the
// mail's job, so each is mailed once, however many processes gather and however often.
const (
	// gatherSQL makes a mail to each user whose oldest notification that waits has waited long enough.
	gatherSQL = `
	WITH due AS MATERIALIZED (
		SELECT user_id, uuid_v7() AS mail FROM notifications WHERE by_mail AND mail_id IS NULL
		GROUP BY user_id HAVING min(created_at) <= $1::timestamptz - $2::interval),
	n AS (
		UPDATE notifications n SET mail_id = due.mail FROM due
		WHERE n.user_id = due.user_id AND n.by_mail AND n.mail_id IS NULL RETURNING n.user_id, n.mail_id)
	` + insertMailJobs
	// digestSQL makes the digest of each user for whom one has come due since the last: what is unread
	// and was not mailed by itself. Days and hours are those of the user's clock, on which no reading
	// comes twice here: what is skipped by the clock is due when it has been.
	digestSQL = `
	WITH o AS (
		SELECT s.user_id, date_trunc(CASE s.digest WHEN 'daily' THEN 'day' ELSE 'week' END, ($1::timestamptz AT TIME ZONE u.timezone) - d.shift) + d.shift AS due
		FROM notification_settings s JOIN users u ON u.id = s.user_id AND u.is_active AND u.email_verified_at IS NOT NULL,
			LATERAL (SELECT make_interval(hours => s.hour, days => CASE s.digest WHEN 'weekly' THEN s.weekday - 1 ELSE 0 END) AS shift) d
		WHERE s.digest <> 'off' AND s.email),
	due AS MATERIALIZED (
		UPDATE notification_settings s SET digested = o.due FROM o
		WHERE s.user_id = o.user_id AND s.digested < o.due RETURNING s.user_id, uuid_v7() AS mail),
	n AS (
		UPDATE notifications n SET mail_id = due.mail FROM due
		WHERE n.user_id = due.user_id AND n.read_at IS NULL AND n.inbox AND NOT n.by_mail AND n.mail_id IS NULL AND n.created_at > $1::timestamptz - $2::interval
		RETURNING n.user_id, n.mail_id)
	` + insertMailJobs
	// insertMailJobs has the user for operators to see; the job goes by its id. What a mail tells has many
	// causes, so it is a part of the trace of what gathered them, $3.
	insertMailJobs = `
	INSERT INTO jobs (id, kind, priority, payload, trace)
	SELECT DISTINCT mail_id, 'notification.mail', 1::smallint, jsonb_build_object('userId', user_id), $3::text FROM n
	RETURNING id::text, payload::text`
)

// runGather makes the mails that are due at this minute. What they hold is marked by the statements
// themselves, so repeating it makes none twice.
func (s *server) runGather(ctx context.Context, j job, _ *pgx.Batch) error {
	if !s.mail.on() {
		return nil
	}
	for _, due := range []struct {
		sql  string
		time time.Duration
	}{{gatherSQL, mailPause}, {digestSQL, digestLookback}} {
		made, err := queryAll[struct{ ID, Payload string }](ctx, s.db, due.sql, j.PushedAt, due.time, traceOf(ctx).carried())
		if err != nil {
			return fmt.Errorf("gather mails: %w", err)
		}
		for _, m := range made {
			s.outbox.pushSoon(job{ID: m.ID, Kind: "notification.mail", Priority: 1, Trace: traceOf(ctx).carried(), Payload: []byte(m.Payload)})
		}
	}
	return nil
}

// noticeLine is a notification as a mail tells it.
type noticeLine struct {
	User    uuid
	Email   string
	Name    string
	Kind    string
	ByMail  bool   // not in a digest
	Digest  string // daily or weekly
	Actor   string
	Project string
	Ref     string // of the task
	Title   string
	Due     string // date
	Old     string // status
	New     string // status, or role; why a webhook was turned off
	Total   int    // lines of the mail, also beyond maxNoticeLines
}

// noticeMailSQL looks once more at what goes with a mail: what was read meanwhile, what the user may
// not read any more and what he does not want mailed any more is left out.
const noticeMailSQL = `
	SELECT u.id AS user, u.email, u.first_name AS name, n.kind, n.by_mail, coalesce(s.digest, 'off') AS digest,
		coalesce(a.first_name || ' ' || a.last_name, 'Somebody') AS actor, coalesce(p.name, n.detail ->> 'projectName', '') AS project,
		coalesce(p.key || '-' || t.number, '') AS ref, coalesce(t.title, '') AS title, coalesce(n.detail ->> 'dueDate', '') AS due,
		coalesce(n.detail #>> '{status,0}', '') AS old, coalesce(n.detail #>> '{status,1}', n.detail #>> '{role,1}', n.detail ->> 'reason', '') AS new, count(*) OVER () AS total
	FROM notifications n JOIN users u ON u.id = n.user_id AND u.is_active AND u.email_verified_at IS NOT NULL
	LEFT JOIN notification_settings s ON s.user_id = u.id
	LEFT JOIN tasks t ON t.id = n.task_id
	LEFT JOIN projects p ON p.id = coalesce(t.project_id, n.project_id)
	LEFT JOIN users a ON a.id = (n.detail ->> 'actorId')::uuid
	WHERE n.mail_id = $1 AND n.read_at IS NULL AND t.deleted_at IS NULL AND coalesce(s.email, true)
		AND CASE WHEN n.by_mail THEN coalesce((s.kinds -> n.kind ->> 'email')::boolean, n.kind = ANY ($2::text[])) ELSE s.digest <> 'off' END
		AND (n.detail ->> 'commentId' IS NULL OR EXISTS (SELECT FROM comments c WHERE c.id = (n.detail ->> 'commentId')::uuid))
		AND (p.id IS NULL OR p.deleted_at IS NULL AND role_in(p.id, u.id) IS NOT NULL)
	ORDER BY n.id LIMIT $3`

// runNoticeMail mails what was gathered for a user. The message has the job's id, so a second run,
// when the end of the first was lost, sends what mail programs show once.
func (s *server) runNoticeMail(ctx context.Context, j job, _ *pgx.Batch) error {
	var whom struct{} // the rows say it
	if err := json.Unmarshal(j.Payload, &whom); err != nil {
		return permanent(fmt.Errorf("read payload: %w", err))
	}
	id, err := parseUUID(j.ID)
	if err != nil {
		return permanent(errors.New("read job id"))
	}
	lines, err := queryAll[noticeLine](ctx, s.db, noticeMailSQL, id, mailedKinds(), maxNoticeLines)
	if err != nil || len(lines) == 0 {
		return err // all of it has come to nothing
	}
	msg := s.noticeMessage(lines)
	msg.id, msg.at = j.ID, id.time()
	return s.mail.send(ctx, msg)
}

// noticeMessage writes a mail of notifications to one user, but for what tells it from others. All that
// people chose is in it as text, of which no mail program makes a link, and as HTML it is escaped.
func (s *server) noticeMessage(lines []noticeLine) message {
	first, more := lines[0], ""
	if hidden := first.Total - len(lines); hidden > 0 {
		more = fmt.Sprintf("And %d more.", hidden)
	}
	msg := message{to: first.Email, subject: first.sentence()}
	switch {
	case !first.ByMail:
		msg.subject = fmt.Sprintf("Your %s digest: %d unread", first.Digest, first.Total)
	case first.Total > 1:
		msg.subject = fmt.Sprintf("%s, and %d more", strings.TrimSuffix(msg.subject, "."), first.Total-1)
	}
	msg.subject = printable(msg.subject, maxSubject)
	greeting, home := greetingOf(first.Name), s.config.publicURL+"/"
	text, page := &strings.Builder{}, &strings.Builder{}
	fmt.Fprintf(text, "%s,\n\n", greeting)
	for _, line := range lines {
		fmt.Fprintf(text, "- %s\n", line.sentence())
		fmt.Fprintf(page, htmlParagraph, html.EscapeString(line.sentence()))
	}
	if more != "" {
		fmt.Fprintf(text, "\n%s\n", more)
		fmt.Fprintf(page, htmlParagraph, more)
	}
	fmt.Fprintf(text, "\n%s\n\n-- \nTaskFlow at %s\n", home, s.site())
	fmt.Fprintf(page, htmlLink, html.EscapeString(home), "Open TaskFlow")
	footer := html.EscapeString("TaskFlow at " + s.site())
	for i, what := range stoppable(lines) {
		link := s.unsubscribeLink(first.User, first.Email, what)
		if i == 0 {
			msg.unsubscribe = link
		}
		fmt.Fprintf(text, "No more %s: %s\n", aboutOf(what), link)
		footer += fmt.Sprintf(`<br><a href="%s" style="color:#596273">No more %s</a>`, html.EscapeString(link), html.EscapeString(aboutOf(what)))
	}
	msg.text = text.String()
	msg.html = fmt.Sprintf(htmlLayout, html.EscapeString(msg.subject), html.EscapeString(greeting), page.String(), footer)
	return msg
}

// stoppable are the sorts of mail to which a mail belongs, the narrowest first: the digests, or the one
// kind it is about if it is one, and all.
func stoppable(lines []noticeLine) []string {
	if !lines[0].ByMail {
		return []string{"digest", "all"}
	}
	for _, line := range lines {
		if line.Kind != lines[0].Kind {
			return []string{"all"}
		}
	}
	return []string{lines[0].Kind, "all"}
}

// sentence tells of the notification. A kind that this program does not know, as a newer one made it,
// is told by its name.
func (n noticeLine) sentence() string {
	who, project, task := unlinked(n.Actor), "“"+unlinked(n.Project)+"”", n.Ref+" “"+unlinked(n.Title)+"”"
	switch n.Kind {
	case "task.assigned":
		return who + " gave you " + task + "."
	case "task.status_changed":
		return who + " moved " + task + " from " + spaced(n.Old) + " to " + spaced(n.New) + "."
	case "task.due":
		return task + " is due on " + n.Due + "."
	case "task.overdue":
		return task + " was due on " + n.Due + "."
	case "comment.mentioned":
		return who + " mentioned you in a comment on " + task + "."
	case "comment.created":
		return who + " commented on " + task + "."
	case "member.added":
		return who + " added you to " + project + "."
	case "member.updated":
		return who + " made you " + n.New + " of " + project + "."
	case "webhook.disabled":
		return "A webhook of " + project + " was turned off, because what it is sent to is " + n.New + "."
	case "member.removed":
		return "You are not a member of " + project + " any more."
	}
	return "There is news: " + n.Kind + "."
}

// spaced is a status as people write it.
func spaced(status string) string { return strings.ReplaceAll(status, "_", " ") }
