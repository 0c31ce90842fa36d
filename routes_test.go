package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// scene is an installation with somebody in every role, and a project that has them as members.
type scene struct {
	*testServer
	admin, manager, owner, projectAdmin, member, viewer, outsider, deactivated *client

	project string
}

func newScene(t *testing.T) *scene {
	t.Helper()
	sc := &scene{testServer: newTestServer(t, "SMTP_URL=", "DATA_DIR="+t.TempDir())} // mail that is not sent, as nobody works
	sc.admin = sc.signUp("Admin")                                                    // the first account
	sc.manager = sc.withRole("Manager", globalManager)
	sc.owner, sc.projectAdmin, sc.member, sc.viewer = sc.signUp("Owner"), sc.signUp("Keeper"), sc.signUp("Member"), sc.signUp("Viewer")
	sc.outsider, sc.deactivated = sc.signUp("Outsider"), sc.signUp("Gone")
	sc.admin.patch("/api/v1/users/"+sc.deactivated.id, `{"isActive":false}`).want(200)
	sc.project = sc.newProject()
	return sc
}

// newProject is a project of the owner with everybody in his role.
func (sc *scene) newProject() string {
	sc.t.Helper()
	id := sc.owner.project("Scene")
	sc.owner.add(id, sc.projectAdmin, roleAdmin)
	sc.owner.add(id, sc.member, roleMember)
	sc.owner.add(id, sc.viewer, roleViewer)
	return id
}

// deadJob is a job that was given up.
func (sc *scene) deadJob() string {
	sc.t.Helper()
	id := newUUID()
	if _, err := execute(sc.t.Context(), sc.db, `
		INSERT INTO jobs (id, kind, payload, attempts, dead_at, error) VALUES ($1, 'noop', '{}', 20, clock_timestamp(), 'broken')`, id); err != nil {
		sc.t.Fatal(err)
	}
	return id.String()
}

// invitation is the token of an invitation for an address, which may have an account.
func (sc *scene) invitation(email string) string {
	sc.t.Helper()
	token := randomToken()
	if _, err := execute(sc.t.Context(), sc.db, `
		INSERT INTO invitations (id, project_id, email, role, token_hash, invited_by, expires_at)
		SELECT $1, $2::text::uuid, $3, 'viewer', $4, created_by, now() + interval '1 hour' FROM projects WHERE id = $2::text::uuid`,
		newUUID(), sc.owner.project("Invited"), email, tokenHash(token)); err != nil {
		sc.t.Fatal(err)
	}
	return token
}

// accountToken is a token of a kind that was mailed to a user.
func (sc *scene) accountToken(c *client, kind string) string {
	sc.t.Helper()
	token := randomToken()
	if _, err := execute(sc.t.Context(), sc.db, `
		INSERT INTO account_tokens (id, user_id, kind, email, hash, expires_at) VALUES ($1, $2::text::uuid, $3, $4, $5, now() + interval '1 hour')`,
		newUUID(), c.id, kind, c.email, tokenHash(token)); err != nil {
		sc.t.Fatal(err)
	}
	return token
}

// keepMail has dev mode keep a mail, and returns its name.
func (ts *testServer) keepMail(msg message) string {
	ts.t.Helper()
	msg.id, msg.at = newUUID().String(), time.Now()
	if err := ts.mail.send(ts.t.Context(), msg); err != nil {
		ts.t.Fatal(err)
	}
	return msg.id
}

// sample is a request to a route that succeeds for everybody whom the table lets in.
type sample struct {
	path string
	body string
	id   string  // the id, in path or body, that decides who may know of it; "" where nobody is kept out
	as   *client // who sends it instead, where it succeeds and ends the account or changes how it signs in
}

// samples makes one request for each route, fresh every time, to be sent by c.
var samples = map[string]func(sc *scene, c *client) sample{
	"GET /health":       at("/health"),
	"GET /ready":        at("/ready"),
	"GET /metrics":      at("/metrics"),
	"GET /{$}":          at("/"),
	"GET /openapi.yaml": at("/openapi.yaml"),
	"GET /docs":         at("/docs"),
	"GET /admin/queues": at("/admin/queues"),
	"GET /assets/{version}/{page}/{file}": func(sc *scene, c *client) sample {
		return at("/assets/"+sc.assets.version+"/queues/main.js")(sc, c)
	},
	"GET /problems/{code}": at("/problems/not_found"),
	"GET /account":         at("/account"),

	"POST /api/v1/auth/register": func(sc *scene, c *client) sample {
		return sample{path: "/api/v1/auth/register", body: fmt.Sprintf(`{"email":"new%d@example.org","password":"long enough","firstName":"New","lastName":"One"}`, accounts.Add(1))}
	},
	"POST /api/v1/auth/login": func(sc *scene, c *client) sample {
		return sample{path: "/api/v1/auth/login", body: jsonOf(credentials{sc.viewer.email, testPassword})}
	},
	"POST /api/v1/auth/refresh": func(sc *scene, c *client) sample {
		return sample{path: "/api/v1/auth/refresh", body: `{"refreshToken":"` + sc.viewer.signIn().refresh + `"}`}
	},
	"POST /api/v1/auth/logout": at("/api/v1/auth/logout"),
	"POST /api/v1/auth/password/forgot": func(sc *scene, c *client) sample {
		return sample{path: forgotPath, body: jsonOf(forgotten{sc.viewer.email})}
	},
	"POST /api/v1/auth/password/reset": func(sc *scene, c *client) sample {
		return sample{path: resetPath, body: jsonOf(passwordReset{sc.accountToken(sc.signUp("Reset"), "password"), "staple of good habits"})}
	},
	"POST /api/v1/auth/email/verify": func(sc *scene, c *client) sample {
		return sample{path: verifyPath, body: jsonOf(addressProof{sc.accountToken(sc.signUp("Verified"), "email")})}
	},

	"GET /api/v1/me": at("/api/v1/me"),
	"PATCH /api/v1/me": func(sc *scene, c *client) sample {
		return sample{path: "/api/v1/me", body: `{"firstName":"Renamed","timezone":"Europe/Berlin"}`}
	},
	"PUT /api/v1/me/password": func(sc *scene, c *client) sample {
		return sample{path: "/api/v1/me/password", body: `{"currentPassword":"` + testPassword + `","newPassword":"` + testPassword + `"}`}
	},
	"PUT /api/v1/me/email": func(sc *scene, c *client) sample {
		return sample{path: "/api/v1/me/email", body: jsonOf(emailChange{fmt.Sprintf("moved%d@example.org", accounts.Add(1)), testPassword})}
	},
	"DELETE /api/v1/me": func(sc *scene, c *client) sample {
		return sample{path: "/api/v1/me", body: proof, as: sc.signUp("Leaving")}
	},
	"GET /api/v1/me/export": at(exportPath),
	"POST /api/v1/me/totp":  func(sc *scene, c *client) sample { return sample{path: totpPath, body: proof} },
	"PUT /api/v1/me/totp": func(sc *scene, c *client) sample {
		careful := sc.signUp("Careful")
		return sample{path: totpPath, body: jsonOf(totpProof{newAuthenticator(careful).code(1)}), as: careful} // for a minute at least
	},
	"DELETE /api/v1/me/totp": func(sc *scene, c *client) sample { return sample{path: totpPath, body: proof} },
	"GET /api/v1/me/tokens":  at(tokensPath),
	"POST /api/v1/me/tokens": func(sc *scene, c *client) sample {
		return sample{path: tokensPath, body: `{"name":"Sample","scopes":["read"],"expiresAt":"` + time.Now().AddDate(1, 0, 0).UTC().Format(time.RFC3339) + `"}`}
	},
	"DELETE /api/v1/me/tokens/{id}": func(sc *scene, c *client) sample {
		return sample{path: c.post(tokensPath, `{"name":"Sample","scopes":["read"]}`).want(201).header.Get("Location")}
	},
	"GET /api/v1/me/sessions":    at("/api/v1/me/sessions"),
	"DELETE /api/v1/me/sessions": at("/api/v1/me/sessions"),
	"DELETE /api/v1/me/sessions/{id}": func(sc *scene, c *client) sample {
		return sample{path: "/api/v1/me/sessions/" + c.signIn().get("/api/v1/me/sessions").want(200).str("items.0.id")}
	},
	"GET /api/v1/users": at("/api/v1/users?search=er&limit=5"),
	"GET /api/v1/users/{id}": func(sc *scene, c *client) sample {
		return sample{path: "/api/v1/users/" + c.id}
	},
	"PATCH /api/v1/users/{id}": func(sc *scene, c *client) sample {
		return sample{path: "/api/v1/users/" + sc.signUp("Patched").id, body: `{"role":"manager","isActive":true}`}
	},

	"POST /api/v1/projects": func(sc *scene, c *client) sample {
		return sample{path: "/api/v1/projects", body: `{"name":"Made","description":"For a test","color":"#00ff00","startDate":"2026-01-01","endDate":"2026-12-31","settings":{"viewersMayComment":true}}`}
	},
	"GET /api/v1/projects":      at("/api/v1/projects?sort=name"),
	"GET /api/v1/projects/{id}": inProject(""),
	"PATCH /api/v1/projects/{id}": func(sc *scene, c *client) sample {
		return sample{path: "/api/v1/projects/" + sc.project, body: `{"description":"Patched","status":"active"}`, id: sc.project}
	},
	"DELETE /api/v1/projects/{id}": func(sc *scene, c *client) sample {
		id := sc.newProject()
		return sample{path: "/api/v1/projects/" + id, id: id}
	},
	"POST /api/v1/projects/{id}/restore": func(sc *scene, c *client) sample {
		id := sc.newProject()
		sc.owner.delete("/api/v1/projects/" + id).want(204)
		return sample{path: "/api/v1/projects/" + id + "/restore", id: id}
	},
	"GET /api/v1/projects/{id}/stats":    inProject("/stats"),
	"GET /api/v1/projects/{id}/activity": inProject("/activity"),
	"GET /api/v1/projects/{id}/members":  inProject("/members"),
	"POST /api/v1/projects/{id}/members": func(sc *scene, c *client) sample {
		return sample{path: "/api/v1/projects/" + sc.project + "/members", body: `{"userId":"` + sc.signUp("Added").id + `","role":"viewer"}`, id: sc.project}
	},
	"PATCH /api/v1/projects/{id}/members/{userId}": func(sc *scene, c *client) sample {
		other := sc.signUp("Promoted")
		sc.owner.add(sc.project, other, roleViewer)
		return sample{path: "/api/v1/projects/" + sc.project + "/members/" + other.id, body: `{"role":"member"}`, id: sc.project}
	},
	"DELETE /api/v1/projects/{id}/members/{userId}": func(sc *scene, c *client) sample {
		other := sc.signUp("Removed")
		sc.owner.add(sc.project, other, roleViewer)
		return sample{path: "/api/v1/projects/" + sc.project + "/members/" + other.id, id: sc.project}
	},
	"GET /api/v1/projects/{id}/invitations": inProject("/invitations"),
	"DELETE /api/v1/projects/{id}/invitations/{invitationId}": func(sc *scene, c *client) sample {
		invited := sc.owner.post("/api/v1/projects/"+sc.project+"/members", fmt.Sprintf(`{"email":"nobody%d@example.org","role":"viewer"}`, accounts.Add(1))).want(202)
		return sample{path: "/api/v1/projects/" + sc.project + "/invitations/" + invited.str("id"), id: sc.project}
	},
	"POST /api/v1/invitations/accept": func(sc *scene, c *client) sample {
		return sample{path: "/api/v1/invitations/accept", body: `{"token":"` + sc.invitation(c.email) + `"}`}
	},

	"GET /api/v1/projects/{id}/webhooks": inProject("/webhooks"),
	"POST /api/v1/projects/{id}/webhooks": func(sc *scene, c *client) sample {
		id := sc.newProject() // as each has a limit
		return sample{path: "/api/v1/projects/" + id + "/webhooks", body: `{"url":"https://hooks.example.org/taskflow","events":["task.*","comment.created"],"active":true}`, id: id}
	},
	"GET /api/v1/webhooks/{id}":              onWebhook("", ""),
	"PATCH /api/v1/webhooks/{id}":            onWebhook("", `{"url":"https://hooks.example.org/other","events":["*"],"active":false}`),
	"DELETE /api/v1/webhooks/{id}":           onWebhook("", ""),
	"POST /api/v1/webhooks/{id}/rotate":      onWebhook("/rotate", ""),
	"POST /api/v1/webhooks/{id}/test":        onWebhook("/test", ""),
	"GET /api/v1/webhooks/{id}/deliveries":   onWebhook("/deliveries", ""),
	"GET /api/v1/deliveries/{id}":            onDelivery(""),
	"POST /api/v1/deliveries/{id}/redeliver": onDelivery("/redeliver"),

	"POST /api/v1/tasks": func(sc *scene, c *client) sample {
		body := `{"projectId":"` + sc.project + `","title":"Made","description":"x","status":"todo","priority":"high","assigneeId":"` + sc.member.id +
			`","startDate":"2026-01-01","dueDate":"2026-12-31","estimatedHours":1.5,"actualHours":0,"labels":["a"]}`
		return sample{path: "/api/v1/tasks", body: body, id: sc.project}
	},
	"GET /api/v1/tasks": at("/api/v1/tasks?sort=priority&total=true"),
	"POST /api/v1/tasks/bulk": func(sc *scene, c *client) sample {
		return sample{path: "/api/v1/tasks/bulk", body: `{"ids":["` + sc.owner.task(sc.project, "Bulk") + `"],"set":{"priority":"low"},"dryRun":false}`}
	},
	"GET /api/v1/tasks/{id}":    onTask("", ""),
	"PATCH /api/v1/tasks/{id}":  onTask("", `{"title":"Patched","status":"done","priority":"low","startDate":"2026-01-01","estimatedHours":2,"labels":["b"]}`),
	"DELETE /api/v1/tasks/{id}": onTask("", ""),
	"POST /api/v1/tasks/{id}/restore": func(sc *scene, c *client) sample {
		id := sc.owner.task(sc.project, "Restored")
		sc.owner.delete("/api/v1/tasks/" + id).want(204)
		return sample{path: "/api/v1/tasks/" + id + "/restore", id: id}
	},
	"POST /api/v1/tasks/{id}/move":           onTask("/move", `{"first":true,"status":"review"}`),
	"GET /api/v1/tasks/{id}/activity":        onTask("/activity", ""),
	"GET /api/v1/tasks/{id}/attachments":     onTask("/attachments", ""),
	"POST /api/v1/tasks/{id}/attachments":    onTask("/attachments", formOf("note.txt", "a note")),
	"GET /api/v1/attachments/{id}":           onAttachment(""),
	"DELETE /api/v1/attachments/{id}":        onAttachment(""),
	"GET /api/v1/attachments/{id}/content":   onAttachment("/content"),
	"GET /api/v1/attachments/{id}/thumbnail": onAttachment("/thumbnail"),
	"PUT /api/v1/tasks/{id}/watch":           onTask("/watch", ""),
	"DELETE /api/v1/tasks/{id}/watch":        onTask("/watch", ""),
	"PUT /api/v1/tasks/{id}/blockers/{otherId}": func(sc *scene, c *client) sample {
		id := sc.owner.task(sc.project, "Blocked")
		return sample{path: "/api/v1/tasks/" + id + "/blockers/" + sc.owner.task(sc.project, "Blocker"), id: id}
	},
	"DELETE /api/v1/tasks/{id}/blockers/{otherId}": func(sc *scene, c *client) sample {
		id := sc.owner.task(sc.project, "Blocked")
		path := "/api/v1/tasks/" + id + "/blockers/" + sc.owner.task(sc.project, "Blocker")
		sc.owner.put(path, "").want(200)
		return sample{path: path, id: id}
	},

	"GET /api/v1/events": func(sc *scene, c *client) sample {
		return sample{path: "/api/v1/events?projectId=" + sc.project, id: sc.project}
	},
	"POST /api/v1/events/ticket": at("/api/v1/events/ticket"),

	"GET /api/v1/tasks/{id}/comments": func(sc *scene, c *client) sample {
		id := sc.owner.task(sc.project, "Discussed")
		sc.owner.comment(id, "First")
		return sample{path: "/api/v1/tasks/" + id + "/comments?expand=author,mentioned&total=true&sort=-createdAt", id: id}
	},
	"POST /api/v1/tasks/{id}/comments": func(sc *scene, c *client) sample {
		id := sc.owner.task(sc.project, "Discussed")
		return sample{path: "/api/v1/tasks/" + id + "/comments", body: `{"body":"Said to @[` + sc.member.id + `]"}`, id: id}
	},
	"GET /api/v1/comments/{id}":         onComment("", ""),
	"GET /api/v1/comments/{id}/history": onComment("/history", ""),
	"PATCH /api/v1/comments/{id}":       onComment("", `{"body":"Edited"}`),
	"DELETE /api/v1/comments/{id}":      onComment("", ""),

	"GET /api/v1/me/notification-settings": at("/api/v1/me/notification-settings"),
	"PUT /api/v1/me/notification-settings": func(sc *scene, c *client) sample {
		return sample{path: "/api/v1/me/notification-settings", body: `{"email":true,"digest":"daily","hour":7,"weekday":1,"kinds":[{"kind":"task.due","inbox":true,"email":false}]}`}
	},
	"GET /unsubscribe/{what}/{token}":  unsubscribing,
	"POST /unsubscribe/{what}/{token}": unsubscribing,
	"GET /dev/mails":                   at("/dev/mails"),
	"GET /dev/mails/{id}":              func(sc *scene, c *client) sample { return sample{path: "/dev/mails/" + sc.keepMail(testMessage())} },
	"GET /dev/mails/{id}/html": func(sc *scene, c *client) sample {
		return sample{path: "/dev/mails/" + sc.keepMail(testMessage()) + "/html"}
	},

	"GET /api/v1/notifications":       at("/api/v1/notifications?unread=true"),
	"GET /api/v1/notifications/count": at("/api/v1/notifications/count"),
	"POST /api/v1/notifications/read": func(sc *scene, c *client) sample {
		return sample{path: "/api/v1/notifications/read", body: `{"all":true}`}
	},

	"GET /api/v1/admin/stats":                      at("/api/v1/admin/stats"),
	"GET /api/v1/admin/audit":                      at("/api/v1/admin/audit"),
	"GET /api/v1/admin/queues":                     at("/api/v1/admin/queues"),
	"GET /api/v1/admin/queues/{queue}/jobs":        at("/api/v1/admin/queues/default/jobs?state=dead"),
	"GET /api/v1/admin/queues/{queue}/dead-groups": at("/api/v1/admin/queues/default/dead-groups"),
	"POST /api/v1/admin/queues/{queue}/pause":      at("/api/v1/admin/queues/default/pause"),
	"POST /api/v1/admin/queues/{queue}/resume":     at("/api/v1/admin/queues/default/resume"),
	"POST /api/v1/admin/queues/{queue}/retry-dead": func(sc *scene, c *client) sample {
		sc.deadJob()
		return sample{path: "/api/v1/admin/queues/default/retry-dead", body: `{"kind":"noop","search":"broken","dryRun":false}`}
	},
	"POST /api/v1/admin/queues/{queue}/delete-dead": func(sc *scene, c *client) sample {
		sc.deadJob()
		return sample{path: "/api/v1/admin/queues/default/delete-dead", body: `{"kind":"noop","search":"broken","dryRun":false}`}
	},
	"GET /api/v1/admin/jobs/{id}": func(sc *scene, c *client) sample { return sample{path: "/api/v1/admin/jobs/" + sc.deadJob()} },
	"POST /api/v1/admin/jobs/{id}/retry": func(sc *scene, c *client) sample {
		return sample{path: "/api/v1/admin/jobs/" + sc.deadJob() + "/retry"}
	},
	"DELETE /api/v1/admin/jobs/{id}": func(sc *scene, c *client) sample { return sample{path: "/api/v1/admin/jobs/" + sc.deadJob()} },
}

func at(path string) func(*scene, *client) sample {
	return func(*scene, *client) sample { return sample{path: path} }
}

func unsubscribing(sc *scene, c *client) sample {
	user, err := parseUUID(sc.viewer.id)
	if err != nil {
		sc.t.Fatal(err)
	}
	return sample{path: "/unsubscribe/task.due/" + sc.keys.unsubscribeToken(user, sc.viewer.email, "task.due")}
}

func inProject(rest string) func(*scene, *client) sample {
	return func(sc *scene, c *client) sample {
		return sample{path: "/api/v1/projects/" + sc.project + rest, id: sc.project}
	}
}

// webhook is a webhook of the scene's project, which may have more of them than anybody can make.
func (sc *scene) webhook() string {
	sc.t.Helper()
	id := newUUID()
	sc.sql(`
		INSERT INTO webhooks (id, project_id, url, events, secret, seq)
		SELECT $1, id, 'https://hooks.example.org/taskflow', '{*}', '\x00', seq FROM projects WHERE id = $2::text::uuid`, id, sc.project)
	return id.String()
}

func onWebhook(rest, body string) func(*scene, *client) sample {
	return func(sc *scene, c *client) sample {
		id := sc.webhook()
		return sample{path: "/api/v1/webhooks/" + id + rest, body: body, id: id}
	}
}

func onDelivery(rest string) func(*scene, *client) sample {
	return func(sc *scene, c *client) sample {
		id := sc.owner.post("/api/v1/webhooks/"+sc.webhook()+"/test", "").want(202).str("id")
		return sample{path: "/api/v1/deliveries/" + id + rest, id: id}
	}
}

func onTask(rest, body string) func(*scene, *client) sample {
	return func(sc *scene, c *client) sample {
		id := sc.owner.task(sc.project, "Sample")
		return sample{path: "/api/v1/tasks/" + id + rest, body: body, id: id}
	}
}

// onAttachment is about a file that is the member's, with a thumbnail.
func onAttachment(rest string) func(*scene, *client) sample {
	return func(sc *scene, c *client) sample {
		id := sc.member.attach(sc.member.task(sc.project, "Sample"), "dot.png", dot)
		sc.process(id)
		return sample{path: "/api/v1/attachments/" + id + rest, id: id}
	}
}

// onComment is about a comment of the caller's own, if he may write one.
func onComment(rest, body string) func(*scene, *client) sample {
	return func(sc *scene, c *client) sample {
		task := sc.owner.task(sc.project, "Discussed")
		made := c.post("/api/v1/tasks/"+task+"/comments", `{"body":"Said"}`)
		if made.status != 201 {
			made = sc.owner.post("/api/v1/tasks/"+task+"/comments", `{"body":"Said"}`).want(201)
		}
		id := made.str("id")
		return sample{path: "/api/v1/comments/" + id + rest, body: body, id: id}
	}
}

// wantedStatus is what the table says of a caller with a role: 0 for any success.
func wantedStatus(who access, role string) int {
	rank := slices.Index([]string{"anonymous", "expired", "deactivated", "outsider", "viewer", "member", "project admin", "owner"}, role)
	const outsider, viewer, member, projectAdmin, owner = 3, 4, 5, 6, 7
	projects := map[access]int{viewers: viewer, readers: viewer, ticketed: viewer, members: member, admins: projectAdmin, owners: owner, trashOwners: owner}
	switch role {
	case "manager":
		rank = viewer // in every project
	case "admin":
		rank = owner
	}
	switch {
	case who == anyone:
		return 0
	case who == scrapers: // METRICS_TOKEN is not set
		return 404
	case rank < outsider:
		return 401
	case who == signedIn, who == inPerson, who == listers, who == globalAdmins && role == "admin":
		return 0
	case who == globalAdmins:
		return 403
	case rank == outsider, who == trashOwners && rank < owner:
		return 404
	case rank < projects[who]:
		return 403
	}
	return 0
}

// TestEveryRouteForEveryRole calls every route as everybody and compares with the table of routes.
func TestEveryRouteForEveryRole(t *testing.T) {
	t.Parallel()
	sc := newScene(t)
	expired := &client{s: sc.testServer, token: expiredToken(t, sc.viewer)}
	roles := []struct {
		name string
		c    *client
	}{
		{"anonymous", sc.anonymous()}, {"expired", expired}, {"deactivated", sc.deactivated}, {"outsider", sc.outsider}, {"viewer", sc.viewer},
		{"member", sc.member}, {"project admin", sc.projectAdmin}, {"owner", sc.owner}, {"manager", sc.manager}, {"admin", sc.admin},
	}
	for _, rt := range sc.routes() {
		make, ok := samples[rt.pattern]
		if !ok {
			t.Errorf("%s has no sample in this test", rt.pattern)
			continue
		}
		method, path, _ := strings.Cut(rt.pattern, " ")
		if isFaced(t) && strings.HasPrefix(path, "/dev/") {
			continue // only for who asks from this machine without a proxy
		}
		sc.run(rt.pattern, func(t *testing.T) {
			for _, role := range roles {
				sc.callAs(role.name, role.c, rt.who, method, make)
			}
		})
	}
	for pattern := range samples {
		if !slices.ContainsFunc(sc.routes(), func(rt route) bool { return rt.pattern == pattern }) {
			t.Errorf("there is no route %s any more", pattern)
		}
	}
}

// expiredToken is an access token of somebody's living session whose time is over.
func expiredToken(t *testing.T, c *client) string {
	t.Helper()
	claims, err := c.s.keys.verifyAccess(c.token)
	if err != nil {
		t.Fatal(err)
	}
	return c.s.keys.accessToken(claims.Subject, claims.Session, -time.Second)
}

// callAs sends a route's sample as somebody and judges the answer.
func (sc *scene) callAs(role string, as *client, who access, method string, make func(*scene, *client) sample) {
	sc.t.Helper()
	maker := sc.outsider
	if wantedStatus(signedIn, role) == 0 {
		maker = as
		defer func(as *client) {
			if as.get("/api/v1/me").status == 401 { // some routes end the session
				as.token = as.signIn().token
			}
		}(as)
	}
	sent, want, before := make(sc, maker), wantedStatus(who, role), ""
	if want != 0 {
		before = sc.state()
	} else if sent.as != nil {
		as = sent.as
	}
	got := as.do(method, sent.path, sent.body)
	switch {
	case want == 0 && (got.status < 200 || got.status >= 400):
		sc.t.Errorf("%s as %s: got %d, want success: %s", got.what, role, got.status, got.body)
	case want == 0:
		return
	case got.status != want:
		sc.t.Errorf("%s as %s: got %d, want %d: %s", got.what, role, got.status, want, got.body)
	}
	got.problem(got.status, map[int]string{401: "unauthenticated", 403: "forbidden", 404: "not_found"}[want])
	if want == 404 && who != scrapers {
		nowhere := strings.NewReplacer(sent.id, newUUID().String())
		wantSame(sc.t, got, as.do(method, nowhere.Replace(sent.path), nowhere.Replace(sent.body)))
	}
	sc.unchanged(before, got.what+" as "+role)
}

// wantSame fails the test unless two problems differ in nothing but the request they answer.
func wantSame(t testing.TB, a, b *answer) {
	t.Helper()
	plain := func(a *answer) []byte {
		var p problem
		if err := json.Unmarshal(a.body, &p); err != nil {
			t.Fatal(err)
		}
		body := bytes.ReplaceAll(a.body, []byte(jsonOf(p.Instance)), nil)
		header := a.header.Clone()
		header.Del("Date")
		header.Del("X-Request-Id")
		return fmt.Append(bytes.ReplaceAll(body, []byte(p.RequestID), nil), a.status, header)
	}
	if !bytes.Equal(plain(a), plain(b)) {
		t.Errorf("these tell apart what the caller may not know of:\n%s %v %s\n%s %v %s", a.what, a.header, a.body, b.what, b.header, b.body)
	}
}

// describedRoutes reads openapi.yaml line by line: its paths stand at two spaces, their methods at four.
func describedRoutes(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	pathLine, methodLine := regexp.MustCompile(`^  (/\S*):$`), regexp.MustCompile(`^    (get|put|post|patch|delete|head|options|trace):$`)
	var list []string
	section, path := "", ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\r\n ")
		if line != "" && line[0] != ' ' && line[0] != '#' {
			section = line
		}
		if section != "paths:" {
			continue
		}
		if match := pathLine.FindStringSubmatch(line); match != nil {
			path = match[1]
		} else if match := methodLine.FindStringSubmatch(line); match != nil {
			list = append(list, strings.ToUpper(match[1])+" "+path)
		}
	}
	return list
}

func TestOpenAPIDescribesEveryRouteAndNoOther(t *testing.T) {
	t.Parallel()
	described := describedRoutes(t)
	pages := []string{"GET /{$}", "GET /docs", "GET /admin/queues", "GET /account", "GET /assets/{version}/{page}/{file}",
		"GET /unsubscribe/{what}/{token}", "POST /unsubscribe/{what}/{token}", "GET /dev/mails", "GET /dev/mails/{id}", "GET /dev/mails/{id}/html"} // for people, not of the API
	var table []string
	for _, rt := range (&server{}).routes() {
		table = append(table, rt.pattern)
		if !slices.Contains(described, rt.pattern) && !slices.Contains(pages, rt.pattern) {
			t.Errorf("openapi.yaml does not describe %s", rt.pattern)
		}
	}
	for i, pattern := range described {
		if !slices.Contains(table, pattern) {
			t.Errorf("openapi.yaml describes %s, which is no route", pattern)
		}
		if slices.Contains(described[:i], pattern) {
			t.Errorf("openapi.yaml describes %s twice", pattern)
		}
	}
}

// What holds for every route of the API stands at each in the description.
func TestOpenAPIDescribesLimitsAndKeysEverywhere(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	pathLine, methodLine := regexp.MustCompile(`^  (/\S*):$`), regexp.MustCompile(`^    (get|put|post|patch|delete):$`)
	blocks, path, pattern := map[string]string{}, "", ""
	paths, _, _ := strings.Cut(string(text), "\ncomponents:\n")
	for line := range strings.Lines(paths) {
		line = strings.TrimRight(line, "\n")
		if match := pathLine.FindStringSubmatch(line); match != nil {
			path = match[1]
		} else if match := methodLine.FindStringSubmatch(line); match != nil {
			pattern = strings.ToUpper(match[1]) + " " + path
		}
		blocks[pattern] += line + "\n"
	}
	for _, rt := range (&server{}).routes() {
		method, path, _ := strings.Cut(rt.pattern, " ")
		if !strings.HasPrefix(path, "/api/") {
			continue
		}
		wanted := []string{"#/components/responses/TooManyRequests"}
		if method == "POST" && rt.who != anyone {
			wanted = append(wanted, "#/components/parameters/IdempotencyKey", "'409':", "'422':")
		}
		for _, want := range wanted {
			if !strings.Contains(blocks[rt.pattern], want) {
				t.Errorf("openapi.yaml does not describe %s of %s", want, rt.pattern)
			}
		}
	}
}

func TestWorkersAnswerOnlyHowTheyAre(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t)
	t.Cleanup(ts.http.Close)
	ts.http, ts.unrecorded = httptest.NewServer(ts.workerHandler()), true // the description is the API's
	c := ts.anonymous()
	c.get("/health").want(200).is("status", "ok")
	c.get("/ready").want(200).is("status", "ok").is("checks.database", "ok").is("checks.redis", "ok")
	for _, rt := range ts.routes() {
		method, path, _ := strings.Cut(rt.pattern, " ")
		path = strings.NewReplacer("{$}", "", "{", "", "}", "").Replace(path)
		if path != "/health" && path != "/ready" {
			c.do(method, path, "").problem(http.StatusNotFound, "not_found")
		}
	}
	c.post("/health", "").problem(http.StatusMethodNotAllowed, "method_not_allowed")
}
