// TaskFlow is a self-hosted task-management service: one program, with PostgreSQL and Redis beside it.
//
// The files are in one order. A file uses only what is declared in files below it, so the program
// reads from top to bottom, and a change reaches only upwards; layers_test.go holds them to it.
//
// Wiring: what a process is.
//
//	main.go      commands, and the life of a process from settings to stop
//	admin.go     the operator's subcommands: accounts, health check
//	dev.go       dev mode's private PostgreSQL and Redis
//	dev_postgres.go  the PostgreSQL of the two
//	dev_child.go     child processes that die with this one
//	dev_linux.go, dev_other.go  what of that depends on the system
//	closing_linux.go, closing_other.go  a listener's end
//	routes.go    every URL and who may call it
//	jobs.go      every kind of job, what causes it, and every schedule
//
// Features: what it offers.
//
//	keptmails.go  dev mode's mails, to be read in a browser
//	noticemails.go  mails of what is in inboxes: as it happens, and digests
//	unsubscribe.go  turning those off, by a link
//	emf.go       a few figures of a process, for CloudWatch
//	monitoring.go what a process tells of itself, to Prometheus
//	web.go       pages, and the files that they load
//	health.go    alive and ready
//	stream.go    what happens, told as it happens: server-sent events
//	dashboard.go queues and jobs, for operators
//	audit.go     what they did
//	deliveries.go what webhooks are sent, until it has arrived
//	webhooks.go  addresses that a project's changes are sent to
//	cleanup.go   purging what was deleted or has ended
//	emails.go    what is told by mail, and how
//	leaving.go   taking one's data along, and deleting one's account
//	notifications.go  the inbox, and reminders
//	noticesettings.go  who wants to be told what, and how
//	recurring.go the next task of a series
//	bulk.go      one change to many tasks
//	activity.go  the change log, read back as activity and history
//	thumbnails.go  what images show, at a glance
//	attachments.go files of tasks
//	comments.go  what is said about tasks
//	mentions.go  whom a text means
//	moves.go     order, transfer between projects, blockers, watchers
//	tasklist.go  tasks in lists: filters, sorting
//	search.go    finding tasks by words
//	tasks.go     tasks, one at a time
//	members.go   members and invitations
//	stats.go     a project's figures
//	projects.go  projects
//	documents.go answers about one project, ready to be sent
//	recovery.go  forgotten passwords, and addresses to confirm
//	auth.go      register, sign in, refresh, sign out
//	totp.go      second factors
//	tokens.go    tokens, and those of programs
//	accounts.go  the own account, its sessions, and other people
//	guesses.go   slowing down who guesses passwords
//	passwords.go hashing and checking
//
// Core: what every feature hangs on.
//
//	filter.go    from filters and sorting to SQL
//	idempotency.go  POSTs that can be repeated
//	transfers.go files on their way in and out
//	front.go     what meets every request first: where it comes from, headers, the access log, limits
//	http.go      handlers, bodies in, JSON out, lists, cursors
//	schedule.go  jobs that time causes
//	events.go    telling of what happened, to whoever subscribed
//	server.go    the server and who is calling it
//	traffic.go   what was asked, and how it went
//
// Engines: what knows nothing of tasks.
//
//	mail.go      handing mail to a server
//	assets.go    files of pages, under addresses that change with what they hold
//	s3.go        files in a bucket
//	s3keys.go    the keys to it, where AWS gives them to a container
//	blobs.go     files in a folder
//	egress.go    requests to addresses that users chose, and to none inside
//	outbox.go    jobs that are neither lost nor done twice: the database's side of the queue
//	worker.go    taking and running jobs, and ending them
//	queue.go     the queue on Redis
//	scripts.go   its keys, and the scripts that change them
//	sentry.go    telling a collector of errors what went wrong
//	hub.go       the change log for those who listen to it
//	cache.go     answers kept ready, never old
//	lease.go     what processes that share the cache know of each other
//	cron.go      cron lines
//	recurrence.go  RFC 5545 rules
//	jwt.go       access tokens and other authenticated values
//	json.go      strict JSON
//	migrate.go   the database's schema, step by step
//	masking.go   hiding secrets from who looks after the service
//	rows.go      rows that become JSON on their way
//	db.go        PostgreSQL
//	ids.go       ids and times
//	trace.go     what a request or a job is a part of
//	batch.go     many requests in one round trip, and turns
//	certificates.go  TLS
//	process.go   what the system and the Go runtime know of this process
//	config.go    settings
//	limit.go     how often somebody may do something
//	redis.go     one Redis, a Cluster, or Sentinel
//	metrics.go   counting, and the text that Prometheus reads
//	problem.go   errors that a client may see
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"
	_ "time/tzdata" // time zones also where the system has none

	"github.com/redis/go-redis/v9"
	"golang.org/x/crypto/acme"
)

const (
	stopTimeout = 25 * time.Second // from being asked to stop to the end
	drainTime   = 3 * time.Second  // of it: not ready but still serving, for balancers to look elsewhere
	// Then: for connections under way to be made and accepted. Other clients wait a second for another process.
	handshakeTime = 50 * time.Millisecond
)

const usage = `usage: taskflow [command] [flags]

commands:
  serve        run the service (the default); needs DATABASE_URL, REDIS_URL and JWT_SECRET
  dev          run it with a private PostgreSQL and Redis in DATA_DIR (.taskflow)
  migrate      bring the database to this program's schema, and end
  admin        make accounts, set roles and passwords; see taskflow admin
  healthcheck  end with 0 if the service at LISTEN_ADDR is alive
  version      print the version

Settings are environment variables; the README lists them. Flags: taskflow serve -h.
`

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(250) // the heap is small: memory is spent to spare collections
	}
	if err := run(context.Background(), os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "taskflow:", strings.ReplaceAll(err.Error(), "\n", "\ntaskflow: "))
		os.Exit(1)
	}
}

// run is the program without its process: it takes everything it uses from outside.
func run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) error {
	command := "serve"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		command, args = args[0], args[1:]
	}
	switch command {
	case "help":
		fmt.Fprint(stdout, usage)
		return nil
	case "version":
		fmt.Fprintln(stdout, version)
		return nil
	case "healthcheck":
		return runHealthcheck(ctx, args, getenv, stderr)
	case "admin":
		return runAdmin(ctx, args, getenv, stdin, stdout, stderr)
	case "serve", "dev", "migrate":
	default:
		return fmt.Errorf("unknown command %q; see taskflow help", command)
	}
	cfg, err := loadConfig(command, args, getenv, stderr)
	if err != nil {
		return err
	}
	log := newLogger(cfg, stderr)
	redis.SetLogger(redisLog{log})
	if command == "migrate" {
		return migrate(ctx, cfg.databaseURL, log)
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	if command == "dev" {
		return runDev(ctx, cfg, log, stderr)
	}
	return serve(ctx, cfg, log, nil)
}

// newLogger writes one line for each record, whatever is in it.
func newLogger(cfg config, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.logLevel}
	if cfg.logFormat == "text" {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

// redisLog makes what go-redis has to say lines of our log. The errors themselves reach the caller
// anyway, so it is for debugging.
type redisLog struct{ log *slog.Logger }

func (l redisLog) Printf(ctx context.Context, format string, args ...any) {
	l.log.DebugContext(ctx, "redis", "message", fmt.Sprintf(format, args...))
}

// runDev serves with private servers for what the settings do not name.
func runDev(ctx context.Context, cfg config, log *slog.Logger, stderr io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if cfg.databaseURL == "" || cfg.redisURL == "" {
		private, err := startPrivateServers(ctx, cfg.dataDir, true, stderr)
		if err != nil {
			return err
		}
		defer private.stop()
		if cfg.databaseURL == "" {
			cfg.databaseURL = secret(private.databaseURL)
			if err := os.WriteFile(filepath.Join(cfg.dataDir, "database_url"), []byte(private.databaseURL+"\n"), 0o600); err != nil {
				return fmt.Errorf("note where the database is: %w", err)
			}
		}
		if cfg.redisURL == "" {
			cfg.redisURL = secret(private.redisURL)
		}
		go func() {
			if err, failed := <-private.exited(); failed {
				cancel(err)
			}
		}()
	}
	if cfg.jwtSecret == "" {
		var err error
		if cfg.jwtSecret, err = keptSecret(filepath.Join(cfg.dataDir, "jwt_secret")); err != nil {
			return err
		}
	}
	err := serve(ctx, cfg, log, func(address string) {
		fmt.Fprintf(stderr, welcome, cfg.publicURL, cfg.publicURL, cfg.publicURL, cfg.dataDir, cmp.Or(cfg.mailDir, "as SMTP_URL says"))
	})
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause // a private server died
	}
	return err
}

const welcome = `
TaskFlow is ready.

  API        %s/api/v1
  API page   %s/docs  (try every route from the browser)
  Sign up    curl -s %s/api/v1/auth/register -H 'Content-Type: application/json' \
               -d '{"email":"ada@example.org","password":"correct horse","firstName":"Ada","lastName":"Lovelace"}'
             The first account is the admin.
  Data       %s  (stop with Ctrl-C; everything is kept)
  Mail       %s

`

// keptSecret is the secret in a file, made at first.
func keptSecret(path string) (secret, error) {
	content, err := os.ReadFile(path)
	if err == nil && len(content) >= 32 {
		return secret(content), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read the signing secret: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("make the data folder: %w", err)
	}
	made := randomToken()
	if err := os.WriteFile(path, []byte(made), 0o600); err != nil {
		return "", fmt.Errorf("keep the signing secret: %w", err)
	}
	return secret(made), nil
}

// newServer opens the stores. It does not wait for them: a process may start before they do.
func newServer(ctx context.Context, cfg config, log *slog.Logger) (*server, error) {
	client, err := openRedis(string(cfg.redisURL))
	if err != nil {
		return nil, err
	}
	db, err := openDatabase(ctx, string(cfg.databaseURL), cfg.databaseConns)
	if err != nil {
		return nil, err
	}
	s := &server{
		config: cfg, log: log, db: db, redis: client, began: time.Now(),
		keys:     newKeyring(cfg.jwtSecret, cfg.jwtPrevious),
		hashing:  make(chan struct{}, max(1, runtime.GOMAXPROCS(0)-1)),
		hashWait: hashingPatience,
		mail:     newMailer(cfg.smtpURL, cfg.mailFrom, cfg.mailDir),
		egress:   newEgress(cfg.hookNetworks),
		blobs:    folder{cfg.storageDir},
		reports:  newReporter(cfg, log),
	}
	if s.assets, err = newAssets(cfg.assetBaseURL); err != nil {
		return nil, err
	}
	if cfg.bucket.name != "" {
		s.blobs = newBucket(cfg.bucket)
	}
	s.deliveries.outcomes.took = newHistogram(requestBounds)
	client.AddHook(&s.redised)
	s.deliveries.due, s.deliveries.retries, s.deliveries.offAfter = make(chan struct{}, 1), deliveryRetries, offAfter
	s.subscribers = s.subscriptions
	self := ""
	if cfg.cache {
		if s.cache, err = openCache(string(cfg.redisURL), cfg.redisSpace, log); err != nil {
			return nil, err
		}
		s.cache.redis.AddHook(&s.redised)
		db.home, db.uncertain, self = s.cache.homeOf, s.cache.forgetAll, s.cache.lease.id
	}
	s.hub = s.newHub(self)
	db.changed = func(scopes []uuid) {
		s.hub.tell(scopes)
		s.cache.raise(scopes) // nothing where it is off
	}
	raise := db.changed
	db.changed = func(scopes []uuid) { raise(scopes); s.wakeDeliveries() }
	s.makeLimits()
	s.outbox = newOutbox(db, newQueue(s.redis, cfg.redisSpace, "default"), log, s.jobKinds())
	s.outbox.reports = s.reports
	return s, nil
}

// makeLimits makes the limits of callers. Of a caller's requests a process leases a twentieth of the
// quota at once; what guards passwords is counted one by one.
func (s *server) makeLimits() {
	shared := &limits{redis: s.redis, prefix: s.config.redisSpace + ":limit:", patience: limitPatience, log: s.log}
	s.requests = newLimiter(shared, "default", s.config.rateLimit, s.config.rateLimit.quota/20)
	s.signIns = newLimiter(shared, "sign-in", s.config.authRateLimit, 1)
	s.tickets = newLimiter(shared, "ticket", rate{1, 2 * ticketLife}, 1)
	s.guesses.pair = newLimiter(shared, "guess-pair", pairGuesses, 1)
	s.guesses.network = newLimiter(shared, "guess-network", networkGuesses, 1)
	s.guesses.account = newLimiter(shared, "guess-account", accountGuesses, 1)
}

// close lets go of the stores.
func (s *server) close() {
	s.hub.close()
	s.db.pool.Close()
	s.cache.close()
	s.redis.Close()
	s.reports.close()
}

// serve is the life of a process: migrate, listen, and stop when ctx ends. ready is called with
// the address once requests are answered.
func serve(ctx context.Context, cfg config, log *slog.Logger, ready func(address string)) error {
	if cfg.migrate {
		if err := migrate(ctx, cfg.databaseURL, log); err != nil {
			return err
		}
	}
	s, err := newServer(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer s.close()
	if cfg.bcryptCost < safeBcryptCost {
		log.Warn("BCRYPT_COST is too low for passwords of people", "cost", cfg.bcryptCost, "least", safeBcryptCost)
	}
	if !s.mail.on() {
		log.Warn("no SMTP_URL: nobody can reset a password or change an address, and invitations and warnings are not mailed")
	}
	s.cache.join(ctx)
	var plain net.ListenConfig
	plain.SetMultipathTCP(false) // which ignoreNewConnections could do nothing with
	listener, err := plain.Listen(ctx, "tcp", cfg.listenAddr)
	if err != nil {
		return fmt.Errorf("%w; set LISTEN_ADDR to another address", err)
	}
	handler := s.handler()
	if cfg.role == "worker" {
		handler = s.workerHandler()
	}
	ended, err := s.serveMetrics()
	if err != nil {
		listener.Close()
		return err
	}
	defer ended()
	web := newWeb(handler, log)
	web.TLSConfig = certificates(cfg, acme.LetsEncryptURL, log)
	web.RegisterOnShutdown(s.hub.drain) // it waits for the streams to end
	failed := make(chan error, 1)
	go func() {
		if web.TLSConfig != nil {
			failed <- web.ServeTLS(fairListener{listener}, "", "")
		} else {
			failed <- web.Serve(fairListener{listener})
		}
	}()
	log.Info("serving", "address", listener.Addr().String(), "role", cfg.role, "version", version)
	if ready != nil {
		ready(listener.Addr().String())
	}
	working, stopWorking := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWorking()
	worked := make(chan error, 1)
	go func() { worked <- s.work(working) }()
	var telling sync.WaitGroup
	if cfg.emf {
		telling.Go(func() { s.tellCloudWatch(working) })
	}
	defer func() {
		stopWorking()
		telling.Wait()
	}()
	select {
	case err := <-failed:
		stopWorking()
		<-worked
		return fmt.Errorf("serve: %w", err)
	case err := <-worked: // only a Redis that jobs would be lost in ends it before its time
		web.Close()
		return err
	case <-ctx.Done():
	}
	stopWorking()
	err = s.stop(web, listener)
	return errors.Join(err, <-worked)
}

// serveMetrics serves them on an address of their own, if there is one, until end is called.
func (s *server) serveMetrics() (end func(), err error) {
	if s.config.metricsAddr == "" {
		return func() {}, nil
	}
	listener, err := net.Listen("tcp", s.config.metricsAddr)
	if err != nil {
		return nil, fmt.Errorf("%w; set METRICS_ADDR to another address", err)
	}
	web := newWeb(s.metricsHandler(), s.log)
	s.log.Info("serving metrics", "address", listener.Addr().String())
	through := make(chan struct{})
	go func() {
		defer close(through)
		web.Serve(listener)
	}()
	return func() {
		web.Close()
		<-through
	}, nil
}

// fairListener lets all that can run do so before it accepts a connection. So thousands that come at
// once wait in the kernel's line, not before everybody else's requests.
type fairListener struct{ net.Listener }

func (l fairListener) Accept() (net.Conn, error) {
	runtime.Gosched()
	return l.Listener.Accept()
}

// newWeb is the HTTP server of a handler, with its limits.
func newWeb(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug), // peers' broken handshakes and the like

		DisableGeneralOptionsHandler: true, // OPTIONS * too is answered by our handler, with our headers
	}
}

// work runs jobs and schedules until ctx ends, in a process whose role that is. It fails only on a
// Redis in which jobs would be lost.
func (s *server) work(ctx context.Context) error {
	if err := s.checkRedis(ctx); err != nil {
		return err
	}
	if s.config.role == "api" {
		<-ctx.Done()
		return nil
	}
	var both sync.WaitGroup
	both.Go(func() { s.runSchedules(ctx, schedules()) })
	both.Go(func() { s.runDeliveries(ctx) })
	both.Go(func() { s.outbox.work(ctx, s.config.workers, stopTimeout-5*time.Second) })
	both.Wait()
	return nil
}

// checkRedis waits until Redis answers and refuses one in which jobs could be lost unseen.
func (s *server) checkRedis(ctx context.Context) error {
	for ctx.Err() == nil {
		warning, err := s.outbox.queue.checkRedis(ctx)
		if _, wrong := errors.AsType[*wrongRedisError](err); wrong {
			return err
		}
		if err == nil {
			if warning != "" {
				s.log.Warn(warning)
			}
			return nil
		}
		s.log.Warn("Redis does not answer; jobs wait in the database", "error", err)
		sleep(ctx, time.Second)
	}
	return nil
}

// stop ends the process in order: not ready first, for as long as balancers take to notice, then
// the requests in flight, then the rest. Dev mode has no balancer, and a person who waits.
// A second signal ends it at once, as the first has given signals back to the system.
func (s *server) stop(web *http.Server, listener net.Listener) error {
	s.log.Info("stopping", "timeout", stopTimeout.String())
	s.stopping.Store(true)
	signal.Reset(os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if !s.config.dev {
		time.Sleep(drainTime)
		ignoreNewConnections(listener)
		time.Sleep(handshakeTime)
	}
	if err := web.Shutdown(ctx); err != nil {
		web.Close()
		return fmt.Errorf("stop with requests still running: %w", err)
	}
	return nil
}
