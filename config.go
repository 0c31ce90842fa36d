package main

import (
	"cmp"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	safeBcryptCost  = 10             // the least that guards passwords
	maxAccessTTL    = 24 * time.Hour // that can be set
	minMetricsToken = 16             // bytes
	maxUpload       = 48 << 30       // bytes that can be set; a bucket takes 10 000 parts (s3.go)
)

// version is set by the linker; see the Makefile.
var version = "dev"

// secret is a value that never shows itself in a log or an error.
type secret string

func (secret) String() string       { return "[secret]" }
func (secret) GoString() string     { return "[secret]" }
func (secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

// config is everything an operator can set. loadConfig is the only place that reads the environment.
type config struct {
	databaseURL    secret         // may hold a password
	databaseConns  int            // most connections of this process to PostgreSQL
	redisURL       secret         // may hold a password
	redisSpace     string         // prefix of all keys
	cache          bool           // keep answers ready
	timing         bool           // tell in Server-Timing what a request took
	jwtSecret      secret         // signs; at least 32 bytes
	jwtPrevious    secret         // still accepted while a new secret is rolled out; or empty
	listenAddr     string         // host:port
	publicURL      string         // where people reach this installation, without a slash at the end
	assetBaseURL   string         // where pages load their files from, without a slash at the end; "": from here
	role           string         // all, api or worker
	workers        int            // goroutines that run jobs
	migrate        bool           // apply migrations at start
	registration   string         // open, invite or off
	rateLimit      rate           // of a caller's requests; zero: none
	authRateLimit  rate           // of sign-ins, registrations and the like from one address; zero: none
	proxies        []netip.Prefix // whose X-Forwarded-For and X-Forwarded-Proto count
	hookNetworks   []netip.Prefix // not public, but webhooks may call them
	corsOrigins    []string       // whose pages may call the API
	tlsCert        string         // files, PEM; or empty
	tlsKey         string
	tlsDomains     []string          // names to get certificates for by ACME; or empty
	bcryptCost     int               // 4–16
	accessTTL      time.Duration     // life of an access token
	refreshTTL     time.Duration     // life of a session, counted from sign-in
	trashAge       time.Duration     // how long what was deleted can be restored
	collector      collectorSettings // of errors
	logLevel       slog.Level
	smtpURL        secret         // where mail is handed over; "" for nowhere
	mailFrom       string         // address, perhaps with a name
	mailDir        string         // where dev mode keeps mail without a server; "" for nowhere
	logFormat      string         // json or text
	metricsAddr    string         // host:port where metrics are served without a token; or empty
	metricsToken   secret         // shows them at GET /metrics; or empty
	emf            bool           // tell CloudWatch some of them in the log
	dataDir        string         // dev mode's servers and secret
	storageDir     string         // folder of attachments, where there is no bucket
	bucket         bucketSettings // where they are instead; zero: in the folder
	uploadMax      int64          // bytes of one attachment
	storageQuota   int64          // bytes of all attachments of a project; 0: no limit
	dev            bool
	usedDefaultURL bool // publicURL was made from listenAddr
}

// bucketSettings are those of a bucket in S3, or what speaks its language.
type bucketSettings struct {
	name, region string
	endpoint     string // scheme and host, perhaps with a path; "": Amazon's
	through      bool   // downloads go through this process, as clients do not reach the bucket
	keys         bucketKeys
	role         roleSettings // where to ask for keys, if there are none
}

// bucketKeys are what requests to a bucket are signed with.
type bucketKeys struct {
	access, secret secret
	session        secret // or ""
}

// roleSettings are where the keys of the role are that a container has in AWS:
// https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html
type roleSettings struct {
	address   secret // has an id that is as good as the keys; "": there is no role
	token     secret // authorizes who asks; or ""
	tokenFile string // has the token instead, and another one from time to time; or ""
}

// collectorSettings are those of who collects errors; zero: nobody does.
type collectorSettings struct {
	endpoint string // where envelopes go
	key      secret
}

// Format hides them, as that of config does.
func (collectorSettings) Format(w fmt.State, verb rune) { io.WriteString(w, "[collector]") }

// Format hides them, as that of config does.
func (bucketSettings) Format(w fmt.State, verb rune) { io.WriteString(w, "[bucket]") }

// Format hides all settings: printing a struct goes past its fields' own String.
func (config) Format(w fmt.State, verb rune) { io.WriteString(w, "[settings]") }

// settingNames is every variable loadConfig reads, in the order the README lists them; each also
// works as NAME_FILE, the path of a file that holds the value (a mounted secret).
var settingNames = []string{
	"DATABASE_URL", "DATABASE_MAX_CONNS", "REDIS_URL", "CACHE", "SERVER_TIMING", "JWT_SECRET", "JWT_SECRET_PREVIOUS", "LISTEN_ADDR", "PUBLIC_URL", "ASSET_BASE_URL",
	"TRUSTED_PROXIES", "CORS_ORIGINS", "TLS_CERT", "TLS_KEY", "TLS_DOMAINS", "RATE_LIMIT", "AUTH_RATE_LIMIT",
	"ROLE", "WORKERS", "MIGRATE", "REGISTRATION", "BCRYPT_COST", "ACCESS_TOKEN_TTL", "REFRESH_TOKEN_TTL",
	"TRASH_DAYS", "SMTP_URL", "MAIL_FROM", "WEBHOOK_ALLOW_NETWORKS", "STORAGE_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
	"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN",
	"UPLOAD_MAX_BYTES", "STORAGE_QUOTA_BYTES", "SENTRY_DSN", "LOG_LEVEL", "LOG_FORMAT", "METRICS_ADDR", "METRICS_TOKEN", "EMF_METRICS", "DATA_DIR",
}

// loadConfig reads flags and environment. It reports every mistake at once, by name and with the
// rule, and never with the value, which may be a secret put in the wrong place.
// In dev mode DATABASE_URL, REDIS_URL and JWT_SECRET may be absent: dev mode provides them.
func loadConfig(command string, args []string, getenv func(string) string, stderr io.Writer) (config, error) {
	env := settings{getenv: getenv}
	dev := command == "dev" || command == "healthcheck" // neither needs to be told of servers
	c := config{dev: dev, redisSpace: "tf"}

	flags := flag.NewFlagSet("taskflow "+command, flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", "", "address to listen on, host:port (LISTEN_ADDR)")
	role := flags.String("role", "", "all, api or worker (ROLE)")
	workers := flags.String("workers", "", "goroutines that run jobs (WORKERS)")
	migrate := flags.String("migrate", "", "on or off: apply migrations at start (MIGRATE)")
	if err := flags.Parse(args); err != nil {
		return c, err
	}
	if flags.NArg() > 0 {
		return c, fmt.Errorf("%s takes only flags, no other arguments; see taskflow help", command)
	}

	c.databaseURL = secret(env.text("DATABASE_URL", "", ""))
	c.redisURL = secret(env.text("REDIS_URL", "", ""))
	c.databaseConns = env.number("DATABASE_MAX_CONNS", "", max(8, 4*runtime.NumCPU()), 3, 1000)
	c.cache = env.oneOf("CACHE", "", "on", "off") == "on"
	c.timing = env.oneOf("SERVER_TIMING", "", "off", "on") == "on"
	c.jwtSecret = secret(env.text("JWT_SECRET", "", ""))
	c.jwtPrevious = secret(env.text("JWT_SECRET_PREVIOUS", "", ""))
	defaultAddr := ":8080"
	if dev {
		defaultAddr = "127.0.0.1:8080"
	}
	c.listenAddr = env.text("LISTEN_ADDR", *listen, defaultAddr)
	c.publicURL = strings.TrimRight(env.text("PUBLIC_URL", "", ""), "/")
	c.assetBaseURL = env.assetBase("ASSET_BASE_URL")
	c.proxies = env.networks("TRUSTED_PROXIES")
	c.corsOrigins = env.origins("CORS_ORIGINS")
	c.tlsCert, c.tlsKey = env.text("TLS_CERT", "", ""), env.text("TLS_KEY", "", "")
	c.tlsDomains = env.domains("TLS_DOMAINS")
	c.rateLimit, c.authRateLimit = env.rate("RATE_LIMIT", "600/1m", dev), env.rate("AUTH_RATE_LIMIT", "30/1m", dev)
	c.role = env.oneOf("ROLE", *role, "all", "api", "worker")
	c.workers = env.number("WORKERS", *workers, 8, 1, 1000)
	c.migrate = env.oneOf("MIGRATE", *migrate, "on", "off") == "on"
	c.registration = env.oneOf("REGISTRATION", "", "open", "invite", "off")
	c.bcryptCost = env.number("BCRYPT_COST", "", 12, 4, 16)
	c.accessTTL = env.duration("ACCESS_TOKEN_TTL", 15*time.Minute, time.Minute, maxAccessTTL)
	c.refreshTTL = env.duration("REFRESH_TOKEN_TTL", 720*time.Hour, time.Hour, 8760*time.Hour)
	c.trashAge = time.Duration(env.number("TRASH_DAYS", "", 30, 1, 3650)) * 24 * time.Hour
	c.dataDir = env.text("DATA_DIR", "", ".taskflow")
	c.smtpURL = secret(env.text("SMTP_URL", "", ""))
	c.mailFrom = env.text("MAIL_FROM", "", "")
	c.uploadMax = env.bytes("UPLOAD_MAX_BYTES", 100<<20, maxUpload, false)
	c.storageQuota = env.bytes("STORAGE_QUOTA_BYTES", 10<<30, 1<<50, true)
	c.readStorage(&env)
	c.readCollector(&env)
	if c.hookNetworks = env.networks("WEBHOOK_ALLOW_NETWORKS"); c.hookNetworks == nil && dev {
		c.hookNetworks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")} // a developer's own receivers
	}
	defaultFormat := []string{"json", "text"}
	if dev {
		slices.Reverse(defaultFormat)
	}
	c.metricsAddr, c.metricsToken = env.text("METRICS_ADDR", "", ""), secret(env.text("METRICS_TOKEN", "", ""))
	c.emf = env.oneOf("EMF_METRICS", "", "off", "on") == "on"
	c.logFormat = env.oneOf("LOG_FORMAT", "", defaultFormat...)
	if err := c.logLevel.UnmarshalText([]byte(env.oneOf("LOG_LEVEL", "", "info", "debug", "warn", "error"))); err != nil {
		env.wrong("LOG_LEVEL", "must be debug, info, warn or error")
	}
	if c.emf && (c.logFormat != "json" || c.logLevel > slog.LevelInfo) {
		env.wrong("EMF_METRICS", "must be off unless LOG_FORMAT is json and LOG_LEVEL info or debug: it is written to the log")
	}
	c.check(command, &env)
	return c, errors.Join(env.errs...)
}

// check judges the settings that have rules of their own, and those that must be there.
func (c *config) check(command string, env *settings) {
	// The parser's error is not for the operator's eyes: it quotes what it could not read.
	if _, err := pgxpool.ParseConfig(string(c.databaseURL)); err != nil && c.databaseURL != "" {
		env.wrong("DATABASE_URL", "must be a PostgreSQL address such as postgres://user:password@host:5432/taskflow")
	}
	if _, err := parseRedisURL(string(c.redisURL)); err != nil && c.redisURL != "" {
		env.wrong("REDIS_URL", err.Error())
	}
	if !isListenAddress(c.listenAddr) {
		env.wrong("LISTEN_ADDR", "must be host:port or :port, such as 127.0.0.1:8080")
	}
	if c.metricsAddr != "" && (!isListenAddress(c.metricsAddr) || c.metricsAddr == c.listenAddr) {
		env.wrong("METRICS_ADDR", "must be host:port or :port, such as 127.0.0.1:9464, and another than LISTEN_ADDR")
	}
	if c.metricsToken != "" && len(c.metricsToken) < minMetricsToken {
		env.wrong("METRICS_TOKEN", fmt.Sprintf("must be at least %d bytes, such as the output of: openssl rand -hex 16", minMetricsToken))
	}
	c.checkTLS(env)
	if c.publicURL == "" {
		c.publicURL, c.usedDefaultURL = c.defaultPublicURL(), true
	} else if u, err := url.Parse(c.publicURL); err != nil || u.Hostname() == "" || (u.Scheme != "http" && u.Scheme != "https") || strings.ContainsAny(c.publicURL, "?#@") {
		env.wrong("PUBLIC_URL", "must be an http or https address such as https://tasks.example.org")
	}
	c.checkMail(env)
	if !c.dev {
		if c.databaseURL == "" {
			env.wrong("DATABASE_URL", "must be set, such as postgres://user:password@host:5432/taskflow")
		}
		needsServers := command == "serve"
		if needsServers && c.redisURL == "" {
			env.wrong("REDIS_URL", "must be set, such as redis://host:6379/0")
		}
		if needsServers && c.jwtSecret == "" {
			env.wrong("JWT_SECRET", "must be set to at least 32 random bytes, such as the output of: openssl rand -hex 32")
		}
		if c.bcryptCost < safeBcryptCost {
			env.wrong("BCRYPT_COST", fmt.Sprintf("must be %d to 16 (less only in dev mode)", safeBcryptCost))
		}
	}
	if c.jwtSecret != "" && len(c.jwtSecret) < 32 {
		env.wrong("JWT_SECRET", "must be at least 32 bytes")
	}
	if c.jwtPrevious != "" && len(c.jwtPrevious) < 32 {
		env.wrong("JWT_SECRET_PREVIOUS", "must be at least 32 bytes")
	}
}

// isListenAddress tells whether an address can be listened on.
func isListenAddress(text string) bool {
	_, port, err := net.SplitHostPort(text)
	_, notNumber := strconv.ParseUint(port, 10, 16)
	return err == nil && notNumber == nil
}

// checkMail judges where mail goes, and turns what says so into what newMailer takes.
func (c *config) checkMail(env *settings) {
	switch c.smtpURL {
	case "off":
		c.smtpURL = ""
	case "":
		if c.dev {
			c.mailDir = filepath.Join(c.dataDir, "mails")
		}
	default:
		if !isMailServer(string(c.smtpURL)) {
			env.wrong("SMTP_URL", "must be a mail server's address such as smtp://user:password@host:587 or smtps://user:password@host:465, with signs in the password percent-encoded; or off")
			break
		}
		if c.mailFrom == "" {
			env.wrong("MAIL_FROM", "must be set where SMTP_URL is, such as TaskFlow <taskflow@example.org>")
		}
		if c.usedDefaultURL && !c.dev {
			env.wrong("PUBLIC_URL", "must be set where SMTP_URL is, such as https://tasks.example.org: links in mails lead there")
		}
	}
	c.mailFrom = cmp.Or(c.mailFrom, "TaskFlow <taskflow@localhost>")
	from, err := mail.ParseAddress(c.mailFrom)
	if err != nil || strings.ContainsFunc(c.mailFrom, isControl) || strings.ContainsFunc(from.Address, func(r rune) bool { return r > '~' }) {
		env.wrong("MAIL_FROM", "must be an address such as TaskFlow <taskflow@example.org>")
	}
}

var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

// readStorage reads where attachments are kept.
func (c *config) readStorage(env *settings) {
	c.storageDir = "/var/lib/taskflow/files"
	if c.dev {
		c.storageDir = filepath.Join(c.dataDir, "files")
	}
	access, key, token := env.text("AWS_ACCESS_KEY_ID", "", ""), env.text("AWS_SECRET_ACCESS_KEY", "", ""), env.text("AWS_SESSION_TOKEN", "", "")
	role := env.role()
	text := env.text("STORAGE_URL", "", "")
	if text == "" {
		return
	}
	u, err := url.Parse(text)
	if err == nil && u.Scheme == "file" && u.Host == "" && filepath.IsAbs(u.Path) && !strings.ContainsAny(text, "?#") {
		c.storageDir = filepath.Clean(u.Path)
		return
	}
	if err != nil || u.Scheme != "s3" || !c.readBucket(u) {
		env.wrong("STORAGE_URL", "must be a folder such as file:///var/lib/taskflow/files, or a bucket such as s3://bucket?region=eu-central-1, with &endpoint=https://s3.example.org where it is not Amazon's, and with &downloads=through where clients do not reach it")
		return
	}
	switch {
	case access != "" && key != "":
		c.bucket.keys = bucketKeys{secret(access), secret(key), secret(token)}
	case access == "" && key == "" && role.address != "":
		c.bucket.role = role
	default:
		env.wrong("STORAGE_URL", "must have the keys of its bucket in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role that AWS gives the container")
	}
}

// ecsCredentials is where ECS tells a container its role's keys, without the path.
const ecsCredentials = "http://169.254.170.2"

// role is where the keys of a container's role are. AWS sets these variables itself.
func (s *settings) role() roleSettings {
	relative, full := s.text("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "", ""), s.text("AWS_CONTAINER_CREDENTIALS_FULL_URI", "", "")
	role := roleSettings{secret(full), secret(s.text("AWS_CONTAINER_AUTHORIZATION_TOKEN", "", "")), s.getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")}
	if full != "" && !isKeyServer(full) {
		s.wrong("AWS_CONTAINER_CREDENTIALS_FULL_URI", "must be an https address, or an http address of this machine or of AWS's for containers")
	}
	if relative != "" {
		role.address = secret(ecsCredentials + relative)
		if !strings.HasPrefix(relative, "/") {
			s.wrong("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "must be a path as ECS sets it")
		}
	}
	return role
}

// isKeyServer tells whether keys may be asked for at an address: by http only on this machine and where AWS
// answers containers.
func isKeyServer(text string) bool {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" {
		return err == nil && u.Hostname() != "" && u.Scheme == "https"
	}
	addr, err := netip.ParseAddr(u.Hostname())
	return err == nil && addr.IsLoopback() || slices.Contains([]string{"localhost", "169.254.170.2", "169.254.170.23", "fd00:ec2::23"}, u.Hostname())
}

// readBucket tells whether an address is that of a bucket, with nothing in it that means nothing.
func (c *config) readBucket(u *url.URL) bool {
	query, err := url.ParseQuery(u.RawQuery)
	for name, values := range query {
		if len(values) != 1 || !slices.Contains([]string{"region", "endpoint", "downloads"}, name) {
			return false
		}
	}
	c.bucket = bucketSettings{name: u.Host, region: cmp.Or(query.Get("region"), "us-east-1"), endpoint: query.Get("endpoint"), through: query.Get("downloads") == "through"}
	if at, err := url.Parse(c.bucket.endpoint); c.bucket.endpoint != "" && (err != nil || at.Scheme != "https" && at.Scheme != "http" || at.Hostname() == "" || at.User != nil || strings.ContainsAny(c.bucket.endpoint, "?#")) {
		return false
	}
	return err == nil && u.User == nil && strings.Trim(u.Path, "/") == "" && u.Fragment == "" && bucketName.MatchString(u.Host) && regionName.MatchString(c.bucket.region) &&
		(!query.Has("downloads") || c.bucket.through || query.Get("downloads") == "redirect")
}

var (
	collectorKey = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)
	projectPath  = regexp.MustCompile(`^((?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*)/([0-9]{1,20})$`)
)

// readCollector reads where errors are told: a DSN of Sentry, or of what speaks its language
// (https://develop.sentry.dev/sdk/foundations/transport/authentication/). The second key of old ones is not used.
func (c *config) readCollector(env *settings) {
	text := env.text("SENTRY_DSN", "", "")
	if text == "" {
		return
	}
	u, err := url.Parse(text)
	ok := err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Hostname() != "" && !strings.HasSuffix(u.Host, ":") && !strings.ContainsAny(text, "?#%") &&
		collectorKey.MatchString(u.User.Username()) && projectPath.MatchString(u.Path)
	if ok {
		_, err = strconv.ParseUint(cmp.Or(u.Port(), "443"), 10, 16)
	}
	if !ok || err != nil {
		env.wrong("SENTRY_DSN", "must be a DSN such as https://key@sentry.example.org/42, as the collector shows it")
		return
	}
	part := projectPath.FindStringSubmatch(u.Path)
	c.collector = collectorSettings{endpoint: u.Scheme + "://" + u.Host + part[1] + "/api/" + part[2] + "/envelope/", key: secret(u.User.Username())}
}

var regionName = regexp.MustCompile(`^[a-z0-9-]{1,40}$`)

// isMailServer tells whether newMailer can use an address.
func isMailServer(text string) bool {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "smtp" && u.Scheme != "smtps" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || strings.ContainsAny(text, "?#") {
		return false
	}
	_, err = strconv.ParseUint(cmp.Or(u.Port(), "587"), 10, 16)
	return err == nil
}

// checkTLS judges the settings of certificates, of which there are none, two files, or domains.
func (c *config) checkTLS(env *settings) {
	if c.tlsCert == "" && c.tlsKey == "" {
		return
	}
	cert, err := os.ReadFile(c.tlsCert)
	if err != nil {
		env.wrong("TLS_CERT", "must be the path of a file with the certificate and its chain, in PEM")
	}
	key, errKey := os.ReadFile(c.tlsKey)
	if errKey != nil {
		env.wrong("TLS_KEY", "must be the path of a file with the private key of the certificate, in PEM")
	}
	if _, unfit := tls.X509KeyPair(cert, key); err == nil && errKey == nil && unfit != nil {
		env.wrong("TLS_CERT", "must be a certificate in PEM, of the private key in TLS_KEY")
	}
	if c.tlsDomains != nil {
		env.wrong("TLS_DOMAINS", "must be unset where TLS_CERT and TLS_KEY are set")
	}
}

// servesTLS tells whether this process speaks TLS itself.
func (c *config) servesTLS() bool { return c.tlsCert != "" || c.tlsDomains != nil }

// defaultPublicURL is the address a browser on this machine would use, or that of the first domain.
func (c *config) defaultPublicURL() string {
	host, port, _ := net.SplitHostPort(c.listenAddr)
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = "localhost"
	}
	switch {
	case !c.servesTLS():
		return "http://" + net.JoinHostPort(host, port)
	case c.tlsDomains == nil:
		return "https://" + net.JoinHostPort(host, port)
	}
	return strings.TrimSuffix("https://"+net.JoinHostPort(c.tlsDomains[0], port), ":443")
}

// settings reads single values and collects what is wrong with them.
type settings struct {
	getenv func(string) string
	errs   []error
}

func (s *settings) wrong(name, rule string) {
	s.errs = append(s.errs, fmt.Errorf("%s %s", name, rule))
}

// text is the value of a flag, a variable or a file, in this order, or else the default.
func (s *settings) text(name, fromFlag, otherwise string) string {
	if fromFlag != "" {
		return fromFlag
	}
	value, file := s.getenv(name), s.getenv(name+"_FILE")
	if value != "" && file != "" {
		s.wrong(name, "is given twice: by itself and as "+name+"_FILE")
	}
	if file != "" {
		content, err := os.ReadFile(file)
		if err != nil {
			s.wrong(name+"_FILE", "must name a file that can be read")
			return otherwise
		}
		value = strings.TrimRight(string(content), "\r\n")
	}
	return cmp.Or(value, otherwise)
}

func (s *settings) number(name, fromFlag string, otherwise, least, most int) int {
	text := s.text(name, fromFlag, strconv.Itoa(otherwise))
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		s.wrong(name, fmt.Sprintf("must be a whole number from %d to %d", least, most))
		return otherwise
	}
	return n
}

// bytes is a size from 1 to most, or where that is allowed 0 for off.
func (s *settings) bytes(name string, otherwise, most int64, off bool) int64 {
	text, rule := s.text(name, "", strconv.FormatInt(otherwise, 10)), fmt.Sprintf("must be a whole number of bytes from 1 to %d", most)
	if off {
		rule += ", or off"
	}
	if off && text == "off" {
		return 0
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 || n > most || text[0] == '+' {
		s.wrong(name, rule)
		return otherwise
	}
	return n
}

func (s *settings) duration(name string, otherwise, least, most time.Duration) time.Duration {
	d, err := time.ParseDuration(s.text(name, "", otherwise.String()))
	if err != nil || d < least || d > most {
		s.wrong(name, fmt.Sprintf("must be a duration from %v to %v, such as 15m or 720h", least, most))
		return otherwise
	}
	return d
}

// oneOf is one of the choices; the first is the default.
func (s *settings) oneOf(name, fromFlag string, choices ...string) string {
	text := s.text(name, fromFlag, choices[0])
	if !slices.Contains(choices, text) {
		s.wrong(name, "must be one of "+strings.Join(choices, ", "))
		return choices[0]
	}
	return text
}

// rate is a limit such as 600/1m, or off, which is also dev mode's default.
func (s *settings) rate(name, otherwise string, dev bool) rate {
	if dev {
		otherwise = "off"
	}
	text := s.text(name, "", otherwise)
	if text == "off" {
		return rate{}
	}
	r, ok := parseRate(text)
	if !ok {
		s.wrong(name, fmt.Sprintf("must be a number of requests from 1 to %d and a time from 1s to 24h in whole seconds, such as 600/1m, or off", maxQuota))
	}
	return r
}

// list is a comma list, nil when there is none; ok judges its members.
func (s *settings) list(name, rule string, ok func(string) bool) []string {
	text := s.text(name, "", "")
	if text == "" {
		return nil
	}
	list := strings.Split(text, ",")
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
		if !ok(list[i]) {
			s.wrong(name, rule)
			return nil
		}
	}
	return list
}

// networks is a list of networks or single addresses. One of everybody is refused: whoever is
// believed can claim any address.
func (s *settings) networks(name string) []netip.Prefix {
	var networks []netip.Prefix
	s.list(name, "must be a comma list of networks or addresses such as 10.0.0.0/8, 192.0.2.1, fd00::/8", func(text string) bool {
		network, err := netip.ParsePrefix(text)
		if addr, notAddr := netip.ParseAddr(text); notAddr == nil {
			network, err = netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()), nil
		}
		networks = append(networks, network)
		return err == nil && network.Bits() > 0 && network == network.Masked() && !network.Addr().Is4In6()
	})
	return networks
}

// origins is a list of origins exactly as browsers send them (RFC 6454, section 6.2).
func (s *settings) origins(name string) []string {
	return s.list(name, "must be a comma list of origins such as https://app.example.org: scheme, host in lower case, the port unless it is the usual one, and no slash at the end", func(text string) bool {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || text != strings.ToLower(u.Scheme+"://"+u.Host) {
			return false
		}
		_, wrongPort := strconv.ParseUint(cmp.Or(u.Port(), "1"), 10, 16)
		usual := u.Scheme == "https" && u.Port() == "443" || u.Scheme == "http" && u.Port() == "80"
		return wrongPort == nil && !usual && !strings.HasSuffix(u.Host, ":")
	})
}

// assetAddress has no sign that means anything in HTML or in a Content-Security-Policy.
var assetAddress = regexp.MustCompile(`^https?://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[1-9][0-9]{0,4})?(/[A-Za-z0-9._~-]+)*/?$`)

// assetBase is an address to which the paths of files are added; "" for none.
func (s *settings) assetBase(name string) string {
	text := s.text(name, "", "")
	if text != "" && !assetAddress.MatchString(text) {
		s.wrong(name, "must be an http or https address of letters, digits and signs of names, such as https://cdn.example.org")
	}
	return strings.TrimSuffix(text, "/")
}

var domainName = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]$`)

// domains is a list of names in the DNS.
func (s *settings) domains(name string) []string {
	return s.list(name, "must be a comma list of domains such as tasks.example.org, in lower case and ASCII", domainName.MatchString)
}
