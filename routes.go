package main

import (
	"errors"
	"net/http"
	"slices"
	"strings"
)

// access is who may call a route. The first ones are judged here; the project roles where the
// project is known, in the statement itself (enter_project, visibleSQL, readerSQL). A test calls every route
// as everybody and compares with this table.
type access string

const (
	anyone       access = "anyone"
	scrapers     access = "who has METRICS_TOKEN" // without that setting, nobody
	signedIn     access = "signed in"
	listers      access = "signed in, asked for together with what he lists"
	inPerson     access = "signed in, not by an API token"
	globalAdmins access = "global admin"
	viewers      access = "project viewer"                                        // and every role above
	readers      access = "project viewer, asked for together with what he reads" // see documents.go
	ticketed     access = "project viewer, who may come by a ticket"              // see stream.go
	members      access = "project member"
	admins       access = "project admin"
	owners       access = "project owner"
	trashOwners  access = "owner of a deleted project" // others do not see it
)

// route is one line of the table.
type route struct {
	pattern string // method and path, as net/http's mux reads them
	who     access
	handle  handlerFunc
}

// routes is every URL of the service.
func (s *server) routes() []route {
	return []route{
		{"GET /health", anyone, s.handleHealth}, // is the process alive
		{"GET /ready", anyone, s.handleReady},   // can it serve
		{"GET /metrics", scrapers, s.handleMetrics},
		{"GET /{$}", anyone, s.handleRoot},
		{"GET /openapi.yaml", anyone, s.handleOpenAPI},
		{"GET /docs", anyone, s.handleDocs},
		{"GET /problems/{code}", anyone, s.handleProblemCode},
		{"GET /account", anyone, s.handleAccountPage}, // what links in mails open
		{"GET /unsubscribe/{what}/{token}", anyone, s.handleUnsubscribePage},
		{"POST /unsubscribe/{what}/{token}", anyone, s.handleUnsubscribe}, // also by mail programs (RFC 8058)
		{"GET /dev/mails", anyone, s.handleKeptMails},                     // in dev mode, from this machine
		{"GET /dev/mails/{id}", anyone, s.handleKeptMail},
		{"GET /dev/mails/{id}/html", anyone, s.handleKeptHTML},
		{"GET /admin/queues", anyone, s.handleQueuesPage},
		{"GET /assets/{version}/{page}/{file}", anyone, s.handleAsset}, // what pages load

		{"POST /api/v1/auth/register", anyone, s.handleRegister},
		{"POST /api/v1/auth/login", anyone, s.handleLogin},
		{"POST /api/v1/auth/refresh", anyone, s.handleRefresh},
		{"POST /api/v1/auth/logout", inPerson, s.handleLogout},
		{"POST /api/v1/auth/password/forgot", anyone, s.handleForgotPassword},
		{"POST /api/v1/auth/password/reset", anyone, s.handleResetPassword},
		{"POST /api/v1/auth/email/verify", anyone, s.handleVerifyEmail},

		{"GET /api/v1/me", signedIn, s.handleMe},
		{"PATCH /api/v1/me", signedIn, s.handlePatchMe},
		{"DELETE /api/v1/me", inPerson, s.handleDeleteMe},
		{"GET /api/v1/me/export", inPerson, s.handleExport},
		{"PUT /api/v1/me/password", inPerson, s.handleSetPassword},
		{"PUT /api/v1/me/email", inPerson, s.handleSetEmail},
		{"POST /api/v1/me/totp", inPerson, s.handleBeginTOTP},
		{"PUT /api/v1/me/totp", inPerson, s.handleConfirmTOTP},
		{"DELETE /api/v1/me/totp", inPerson, s.handleEndTOTP},
		{"GET /api/v1/me/tokens", inPerson, s.handleAPITokens},
		{"POST /api/v1/me/tokens", inPerson, s.handleCreateAPIToken},
		{"DELETE /api/v1/me/tokens/{id}", inPerson, s.handleDeleteAPIToken},
		{"GET /api/v1/me/notification-settings", signedIn, s.handleNoticeSettings},
		{"PUT /api/v1/me/notification-settings", signedIn, s.handleSetNotices},
		{"GET /api/v1/me/sessions", inPerson, s.handleSessions},
		{"DELETE /api/v1/me/sessions", inPerson, s.handleEndSessions},
		{"DELETE /api/v1/me/sessions/{id}", inPerson, s.handleEndSession},
		{"GET /api/v1/users", signedIn, s.handleUsers},
		{"GET /api/v1/users/{id}", signedIn, s.handleUser},
		{"PATCH /api/v1/users/{id}", globalAdmins, s.handlePatchUser},

		{"POST /api/v1/projects", signedIn, s.handleCreateProject},
		{"GET /api/v1/projects", signedIn, s.handleProjects},
		{"GET /api/v1/projects/{id}", readers, s.handleProject},
		{"PATCH /api/v1/projects/{id}", admins, s.handlePatchProject},
		{"DELETE /api/v1/projects/{id}", owners, s.handleDeleteProject},
		{"POST /api/v1/projects/{id}/restore", trashOwners, s.handleRestoreProject},
		{"GET /api/v1/projects/{id}/stats", readers, s.handleProjectStats},
		{"GET /api/v1/projects/{id}/activity", viewers, s.handleProjectActivity},
		{"GET /api/v1/projects/{id}/members", viewers, s.handleMembers},
		{"POST /api/v1/projects/{id}/members", admins, s.handleAddMember},
		{"PATCH /api/v1/projects/{id}/members/{userId}", admins, s.handlePatchMember},
		{"DELETE /api/v1/projects/{id}/members/{userId}", admins, s.handleRemoveMember}, // or oneself
		{"GET /api/v1/projects/{id}/invitations", admins, s.handleInvitations},
		{"DELETE /api/v1/projects/{id}/invitations/{invitationId}", admins, s.handleDeleteInvitation},
		{"POST /api/v1/invitations/accept", signedIn, s.handleAcceptInvitation},

		{"GET /api/v1/projects/{id}/webhooks", admins, s.handleWebhooks},
		{"POST /api/v1/projects/{id}/webhooks", admins, s.handleCreateWebhook},
		{"GET /api/v1/webhooks/{id}", admins, s.handleWebhook},
		{"PATCH /api/v1/webhooks/{id}", admins, s.handlePatchWebhook},
		{"DELETE /api/v1/webhooks/{id}", admins, s.handleDeleteWebhook},
		{"POST /api/v1/webhooks/{id}/rotate", admins, s.handleRotateSecret},
		{"POST /api/v1/webhooks/{id}/test", admins, s.handleTestWebhook},
		{"GET /api/v1/webhooks/{id}/deliveries", admins, s.handleDeliveries},
		{"GET /api/v1/deliveries/{id}", admins, s.handleDelivery},
		{"POST /api/v1/deliveries/{id}/redeliver", admins, s.handleRedeliver},

		{"POST /api/v1/tasks", members, s.handleCreateTask},
		{"GET /api/v1/tasks", listers, s.handleTasks}, // those the caller reads
		{"POST /api/v1/tasks/bulk", signedIn, s.handleBulk},
		{"GET /api/v1/tasks/{id}", readers, s.handleTask},
		{"PATCH /api/v1/tasks/{id}", members, s.handlePatchTask},
		{"DELETE /api/v1/tasks/{id}", members, s.handleDeleteTask},
		{"POST /api/v1/tasks/{id}/restore", members, s.handleRestoreTask},
		{"POST /api/v1/tasks/{id}/move", members, s.handleMoveTask},
		{"GET /api/v1/tasks/{id}/activity", viewers, s.handleTaskActivity},
		{"PUT /api/v1/tasks/{id}/blockers/{otherId}", members, s.handleAddBlocker},
		{"DELETE /api/v1/tasks/{id}/blockers/{otherId}", members, s.handleRemoveBlocker},
		{"GET /api/v1/tasks/{id}/attachments", viewers, s.handleAttachments},
		{"POST /api/v1/tasks/{id}/attachments", members, s.handleCreateAttachment},
		{"GET /api/v1/attachments/{id}", viewers, s.handleAttachment},
		{"DELETE /api/v1/attachments/{id}", members, s.handleDeleteAttachment}, // whose it is, or an admin
		{"GET /api/v1/attachments/{id}/content", viewers, s.handleAttachmentContent},
		{"GET /api/v1/attachments/{id}/thumbnail", viewers, s.handleThumbnail},
		{"PUT /api/v1/tasks/{id}/watch", viewers, s.handleWatch},
		{"DELETE /api/v1/tasks/{id}/watch", viewers, s.handleUnwatch},

		{"GET /api/v1/tasks/{id}/comments", viewers, s.handleComments},
		{"POST /api/v1/tasks/{id}/comments", members, s.handleCreateComment}, // viewers too, where the project lets them
		{"GET /api/v1/comments/{id}", viewers, s.handleComment},
		{"GET /api/v1/comments/{id}/history", viewers, s.handleCommentHistory},
		{"PATCH /api/v1/comments/{id}", members, s.handlePatchComment},   // of one's own, as above
		{"DELETE /api/v1/comments/{id}", members, s.handleDeleteComment}, // the same, and admins of the project

		{"GET /api/v1/events", ticketed, s.handleEvents}, // of the projects that the caller reads
		{"POST /api/v1/events/ticket", inPerson, s.handleEventsTicket},

		{"GET /api/v1/notifications", signedIn, s.handleNotifications},
		{"GET /api/v1/notifications/count", signedIn, s.handleUnreadCount},
		{"POST /api/v1/notifications/read", signedIn, s.handleMarkRead},

		{"GET /api/v1/admin/stats", globalAdmins, s.handleAdminStats},
		{"GET /api/v1/admin/audit", globalAdmins, s.handleAudit},
		{"GET /api/v1/admin/queues", globalAdmins, s.handleQueues},
		{"GET /api/v1/admin/queues/{queue}/jobs", globalAdmins, s.handleQueueJobs},
		{"GET /api/v1/admin/queues/{queue}/dead-groups", globalAdmins, s.handleDeadGroups},
		{"POST /api/v1/admin/queues/{queue}/pause", globalAdmins, s.handlePauseQueue},
		{"POST /api/v1/admin/queues/{queue}/resume", globalAdmins, s.handleResumeQueue},
		{"POST /api/v1/admin/queues/{queue}/retry-dead", globalAdmins, s.handleRetryDead},
		{"POST /api/v1/admin/queues/{queue}/delete-dead", globalAdmins, s.handleDeleteDead},
		{"GET /api/v1/admin/jobs/{id}", globalAdmins, s.handleAdminJob},
		{"POST /api/v1/admin/jobs/{id}/retry", globalAdmins, s.handleRetryJob},
		{"DELETE /api/v1/admin/jobs/{id}", globalAdmins, s.handleDeleteJob},
	}
}

// handler is the whole service: the table behind the middleware.
func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	for _, rt := range s.routes() {
		mux.Handle(rt.pattern, s.guard(rt))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { s.fail(w, r, unrouted(mux, r)) })
	return s.front(mux)
}

// workerHandler is what a process that only works answers: how it is.
func (s *server) workerHandler() http.Handler {
	mux := http.NewServeMux()
	for _, rt := range s.routes() {
		if slices.Contains([]string{"GET /health", "GET /ready", "GET /metrics"}, rt.pattern) {
			mux.Handle(rt.pattern, s.guard(rt))
		}
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { s.fail(w, r, unrouted(mux, r)) })
	return s.front(mux)
}

// guard lets a route's callers in, as often as they may, and answers its errors.
func (s *server) guard(rt route) http.Handler {
	handle, limiter, most, seen := rt.handle, s.limitOf(rt), s.mostBody(rt), s.traffic.of(rt.pattern)
	if rt.who != anyone && strings.HasPrefix(rt.pattern, "POST ") && !slices.Contains(streamed, rt.pattern) {
		handle = s.once(rt.handle)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := recorderOf(w)
		rec.route, rec.seen = rt.pattern, seen
		r, err := s.admit(rec, r, rt, limiter)
		if err == nil {
			err = limit(rec, r, most)
		}
		if err == nil {
			err = handle(w, r)
		}
		if err != nil {
			s.fail(w, r, err)
		}
	})
}

// admit finds out who calls a route, and refuses him if he may not, or not so often. The request it
// returns knows its caller.
func (s *server) admit(rec *recorder, r *http.Request, rt route, l *limiter) (*http.Request, error) {
	if rt.who == scrapers {
		return r, s.admitScraper(r)
	}
	if rt.who == anyone {
		return r, charge(rec, l, addressKey(r), cost(rt, r))
	}
	var err error
	switch {
	case rt.who == readers || rt.who == listers: // the rest is looked up together with what they read
		r, err = s.signInReader(rec, r)
	case rt.who == ticketed && r.Header["Authorization"] == nil:
		r, err = s.signInByTicket(rec, r)
	default:
		r, err = s.signIn(rec, r)
	}
	if p, ok := errors.AsType[*problem](err); ok && p.Status == http.StatusUnauthorized {
		if limited := charge(rec, l, addressKey(r), 1); limited != nil {
			return r, limited
		}
	}
	if err != nil {
		return r, err
	}
	if err := charge(rec, l, limitKey{'u', rec.user}, cost(rt, r)); err != nil {
		return r, err
	}
	if err := withinScopes(callerOf(r.Context()), rt); err != nil {
		return r, err
	}
	if rt.who == globalAdmins && callerOf(r.Context()).Role != globalAdmin {
		return r, newProblem("forbidden", "Only admins of the installation may do this.")
	}
	return r, nil
}

// limitOf is the limit that a route's requests count against; nil for pages and for how the process is.
// Refreshing counts as any request of an address: people of one office share it, and no token can be guessed.
func (s *server) limitOf(rt route) *limiter {
	_, path, _ := strings.Cut(rt.pattern, " ")
	switch {
	case !strings.HasPrefix(path, "/api/"):
		return nil
	case rt.who == anyone && path != "/api/v1/auth/refresh":
		return s.signIns
	}
	return s.requests
}

// hashing are the routes that ask for the present password, which takes a processor its time.
var hashing = []string{"PUT /api/v1/me/password", "PUT /api/v1/me/email", "POST /api/v1/me/totp", "DELETE /api/v1/me/totp", "DELETE /api/v1/me"}

// cost is how many requests one counts as.
func cost(rt route, r *http.Request) int {
	switch {
	case rt.pattern == "POST /api/v1/tasks/bulk" || slices.Contains(hashing, rt.pattern):
		return 20
	case strings.Contains(r.URL.RawQuery, "search=") || strings.Contains(r.URL.RawQuery, "total="):
		return 5
	}
	return 1
}

// withinScopes is the problem of an API token that is not made for a route. Every token reads.
func withinScopes(c caller, rt route) error {
	need := scopeWrite
	switch {
	case c.scopes == nil:
		return nil
	case rt.who == inPerson:
		return newProblem("session_required", "")
	case rt.who == globalAdmins && !slices.Contains(c.scopes, scopeAdmin):
		need = scopeAdmin
	case strings.HasPrefix(rt.pattern, "GET ") || slices.Contains(c.scopes, scopeWrite):
		return nil
	}
	return newProblem("insufficient_scope", "This needs an API token with the scope "+need+".").
		with("WWW-Authenticate", `Bearer realm="taskflow", error="insufficient_scope", scope="`+need+`"`) // RFC 6750, section 3.1
}

// streamed are the routes whose bodies are read as they come. They see to their own deadlines, and to
// repetitions, of which a body that is not kept cannot tell beforehand.
var streamed = []string{"POST /api/v1/tasks/{id}/attachments"}

// mostBody is how many bytes a request to a route may bring; strangers bring little.
func (s *server) mostBody(rt route) int64 {
	switch {
	case rt.who == anyone:
		return maxStrangerBody
	case slices.Contains(streamed, rt.pattern):
		return s.config.uploadMax + maxFormHead
	}
	return maxBody
}

// limit bounds what a request may bring: a body of so many bytes, and only a read a query.
func limit(rec *recorder, r *http.Request, most int64) error {
	if r.ContentLength > most { // before a client that waits for 100 is told to send it
		return tooLarge(most)
	}
	if r.Body != http.NoBody {
		r.Body = http.MaxBytesReader(rec.ResponseWriter, r.Body, most)
	}
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return nil
	}
	return parseQuery(r).done()
}

// unrouted is the problem of a request that no pattern matches: 405 where another method would.
func unrouted(mux *http.ServeMux, r *http.Request) *problem {
	var allowed []string
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := mux.Handler(other); pattern != "/" {
			allowed = append(allowed, method)
		}
	}
	if allowed == nil {
		return newProblem("not_found", "")
	}
	return newProblem("method_not_allowed", "").with("Allow", strings.Join(allowed, ", "))
}
