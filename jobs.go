package main

import (
	"time"
)

// jobKinds is every kind of job and what it does. Each function says why repeating it is safe.
func (s *server) jobKinds() []jobKind {
	return []jobKind{
		{name: "email.send", timeout: 5 * time.Minute, limit: 4, outside: true, run: s.runEmail},
		{name: "notification.fanout", timeout: 10 * time.Second, run: s.runFanout},
		{name: "webhook.deliver", timeout: 30 * time.Second, limit: max(1, s.config.workers*3/4), outside: true, run: s.runDeliver, ended: s.wakeDeliveries},
		{name: "notification.gather", timeout: time.Minute, limit: 1, run: s.runGather},
		{name: "notification.mail", timeout: 5 * time.Minute, limit: 4, outside: true, run: s.runNoticeMail},
		{name: "task.recur", timeout: 10 * time.Second, run: s.runRecur},
		{name: "task.reminders", timeout: 5 * time.Minute, limit: 1, run: s.runReminders},
		{name: "attachment.process", timeout: 2 * time.Minute, limit: 1, outside: true, run: s.runProcess},
		{name: "attachment.cleanup", timeout: 10 * time.Minute, limit: 1, outside: true, run: s.runAttachmentCleanup},
		{name: "project.stats", timeout: 5 * time.Minute, limit: 1, run: s.runStats},
		{name: "trash.purge", timeout: 10 * time.Minute, limit: 1, run: s.runTrashPurge},
		{name: "cache.raise", timeout: 30 * time.Second, run: s.runRaise},
		{name: "keys.purge", timeout: 10 * time.Minute, limit: 1, run: s.runKeysPurge},
		{name: "sessions.purge", timeout: 10 * time.Minute, limit: 1, run: s.runSessionsPurge},
		{name: "deliveries.purge", timeout: 10 * time.Minute, limit: 1, run: s.runDeliveriesPurge},
		{name: "notifications.purge", timeout: 10 * time.Minute, limit: 1, run: s.runNoticesPurge},
	}
}

// subscriptions says which jobs a fact causes.
func (s *server) subscriptions(f fact) []newJob {
	if _, told := emails[f.Kind]; told && s.mail.on() {
		return []newJob{{kind: "email.send", payload: f, priority: 1}}
	}
	switch f.Kind {
	case "task.done":
		return []newJob{{kind: "task.recur", payload: repeated{Task: *f.Task}, priority: 1}}
	case "task.assigned", "task.status_changed", "comment.created", "comment.mentioned", "member.added", "member.updated", "member.removed":
		return []newJob{{kind: "notification.fanout", payload: f, priority: 1}}
	case "attachment.created":
		return []newJob{{kind: "attachment.process", payload: f, priority: 2}}
	case "attachment.deleted":
		return []newJob{{kind: "attachment.cleanup", payload: f, priority: 2}}
	}
	return nil
}

// schedules are the jobs that time causes, in UTC; what depends on a person's own time looks at
// his time zone itself.
func schedules() []schedule {
	return []schedule{
		{name: "project.stats", line: "* * * * *", zone: "UTC", kind: "project.stats", catchUp: "latest"},
		{name: "task.reminders", line: "*/15 * * * *", zone: "UTC", kind: "task.reminders", catchUp: "latest"},
		{name: "notification.gather", line: "* * * * *", zone: "UTC", kind: "notification.gather", catchUp: "latest"},
		{name: "trash.purge", line: "17 3 * * *", zone: "UTC", kind: "trash.purge", catchUp: "latest"},
		{name: "attachment.cleanup", line: "47 * * * *", zone: "UTC", kind: "attachment.cleanup", catchUp: "latest"},
		{name: "keys.purge", line: "7 * * * *", zone: "UTC", kind: "keys.purge", catchUp: "latest"},
		{name: "sessions.purge", line: "37 3 * * *", zone: "UTC", kind: "sessions.purge", catchUp: "latest"},
		{name: "deliveries.purge", line: "47 3 * * *", zone: "UTC", kind: "deliveries.purge", catchUp: "latest"},
		{name: "notifications.purge", line: "57 3 * * *", zone: "UTC", kind: "notifications.purge", catchUp: "latest"},
	}
}
