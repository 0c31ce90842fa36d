package main

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// server is what every handler hangs on: the stores and the settings of one process.
type server struct {
	config   config
	log      *slog.Logger
	db       *database
	redis    redis.UniversalClient
	keys     *keyring      // signs tokens and cursors
	hashing  chan struct{} // one slot for each password hash that may run at once
	waiting  atomic.Int64  // hashes that wait for a slot
	hashWait time.Duration // how long one waits
	outbox   *outbox
	cache    *cache // nil: off
	hub      *hub
	mail     *mailer
	egress   *egress
	assets   *assets   // what pages load
	blobs    blobStore // what files hold
	uploads  seats     // of files that are coming in
	reports  *reporter // of what went wrong; nil: to nobody

	requests *limiter // what one caller may ask for; nil: no limit
	signIns  *limiter // sign-ins and the like from one address; nil: no limit
	tickets  *limiter // of which each lets one in
	guesses  struct { // wrong passwords
		pair, network, account *limiter
		wrong, slowed          atomic.Int64
	}

	deliveries struct { // what webhooks are sent
		due      chan struct{}   // something may be
		retries  []time.Duration // deliveryRetries, but in tests
		offAfter time.Duration   // likewise
		outcomes attemptOutcomes
	}

	began   time.Time                           // when this process did
	traffic traffic                             // what it was asked
	redised redisTraffic                        // what it asked of Redis
	intakes struct{ files, bytes atomic.Int64 } // of uploads

	// subscribers says which jobs a fact causes; see events.go.
	subscribers func(fact) []newJob
	told        []uuid      // scopes that an operator's command has changed
	stopping    atomic.Bool // the process is about to end: not ready for new requests
}

// A fact is something that happened, as told to whoever subscribed to its kind in jobs.go. So a
// feature says what it did without knowing who wants to hear it.
type fact struct {
	Kind    string `json:"kind"`             // such as task.assigned
	Actor   uuid   `json:"actorId"`          // who did it
	User    *uuid  `json:"userId,omitempty"` // whom it concerns
	Task    *uuid  `json:"taskId,omitempty"`
	Project *uuid  `json:"projectId,omitempty"`
	Subject *uuid  `json:"subjectId,omitempty"` // something else, by its kind: an invitation, a session
	Email   string `json:"email,omitempty"`     // address, where it is not the user's present one
}

// globalRole is a user's role in the whole installation.
type globalRole string

const (
	globalMember  globalRole = "member"
	globalManager globalRole = "manager" // reads every project, makes projects for others
	globalAdmin   globalRole = "admin"   // everything
)

// memberRole is a user's role in one project, each with all that the ones before it may do.
type memberRole string

const (
	roleViewer memberRole = "viewer" // reads and watches
	roleMember memberRole = "member" // plans the work
	roleAdmin  memberRole = "admin"  // members and settings
	roleOwner  memberRole = "owner"  // everything, and deletes the project
)

// caller is who makes a request, as the database has it now, never as a token claims.
type caller struct {
	ID       uuid       `db:"id"`
	Session  uuid       `db:"session_id"`
	Role     globalRole `db:"role"`
	Timezone string     `db:"timezone"` // decides what "today" is
	Until    timestamp  `db:"until"`    // when the session ends
	scopes   []string   // of the API token that asks; nil for a session
	token    uuid       // that API token
}

// seesAll tells whether the caller reads every project.
func (c caller) seesAll() bool { return c.Role == globalManager || c.Role == globalAdmin }

type contextKey int

const callerKey contextKey = iota

// callerOf is the signed-in user of a request; the route table makes sure that there is one.
func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey).(*caller)
	if c == nil {
		return caller{}
	}
	return *c
}

func withCaller(ctx context.Context, c caller) context.Context {
	return context.WithValue(ctx, callerKey, &c)
}
