package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// production is a whole configuration of a production server.
func production() map[string]string {
	return map[string]string{"DATABASE_URL": "postgres://u:p@db/taskflow", "REDIS_URL": "redis://r:6379/0", "JWT_SECRET": strings.Repeat("s", 32)}
}

func load(command string, env map[string]string, args ...string) (config, error) {
	return loadConfig(command, args, func(name string) string { return env[name] }, io.Discard)
}

func TestSettingsThatAreWrong(t *testing.T) {
	t.Parallel()
	const value = "hunter2" // whatever is wrong with a value, it may be a secret in the wrong place

	t.Run("are all reported at once, by name and rule, without a value", func(t *testing.T) {
		env := map[string]string{}
		for _, name := range settingNames {
			env[name] = value
		}
		for _, name := range []string{"DATA_DIR", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN"} {
			delete(env, name) // any text may be one
		}
		_, err := load("serve", env)
		if err == nil {
			t.Fatal("got no error")
		}
		lines := strings.Split(err.Error(), "\n")
		for name := range env {
			if n := len(slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return !strings.HasPrefix(line, name+" must be") })); n != 1 {
				t.Errorf("%s is reported %d times in\n%v", name, n, err)
			}
		}
		if strings.Contains(err.Error(), value) || len(lines) != len(env) {
			t.Errorf("got %d lines, want %d without %q:\n%v", len(lines), len(env), value, err)
		}
	})
	t.Run("are each refused", func(t *testing.T) {
		for name, values := range map[string][]string{
			"DATABASE_URL":        {"hunter2", "postgres://u:hunter2@[bad/taskflow", "postgres://u:hunter2@h:port/x", "mysql://u:hunter2@h/x", "postgres://u@h/x?sslmode=hunter2"},
			"DATABASE_MAX_CONNS":  {"0", "2", "1001", "-1", "ten", "1.5", "1e2", " 8"},
			"REDIS_URL":           {"hunter2", "http://hunter2", "redis://r/hunter2", "redis://:hunter2@r:port", "localhost:6379", "redis://r,hunter2", "redis+sentinel://hunter2/m/x"},
			"JWT_SECRET":          {strings.Repeat("s", 31)},
			"JWT_SECRET_PREVIOUS": {strings.Repeat("s", 31)},
			"METRICS_ADDR":        {"9464", "host", ":65536", ":http"},
			"METRICS_TOKEN":       {"short", "fifteen bytes.."},
			"EMF_METRICS":         {"yes", "ON"},
			"LISTEN_ADDR":         {"8080", "host", "host:", ":65536", ":-1", ":http", "a:b:80", "[::1:80"},
			"PUBLIC_URL":          {"tasks.example.org", "ftp://x", "http://", "https://x?y", "https://x#y", "https://u:hunter2@x", "http://:80"},
			"ASSET_BASE_URL":      {"hunter2", "cdn.example.org", "ftp://cdn.example.org", "https://", "https://u:hunter2@cdn.example.org", "https://cdn.example.org?hunter2", "https://cdn.example.org/#", "https://cdn.example.org;hunter2", "https://cdn.example.org/a b", "https://cdn.example.org/'", "https://cdn.example.org,https://b", "https://cdn.example.org:0", "https://*", "https://cdn.example.org//x", "https://cdn.example.org\n"},
			"TRUSTED_PROXIES":     {"hunter2", "10.0.0.0/33", "10.0.0.1/8", "0.0.0.0/0", "::/0", "::ffff:10.0.0.0/104", "10.0.0.0/8,", "10.0.0.0/8;fd00::/8", "proxy.example.org"},
			"CORS_ORIGINS":        {"hunter2", "*", "null", "https://", "https://app.example.org/", "https://app.example.org/path", "https://App.example.org", "https://app.example.org:443", "http://app.example.org:80", "ftp://app.example.org", "https://u:hunter2@app.example.org", "https://app.example.org:99999", "https://app.example.org:", "https://app.example.org,", "https://a.example.org https://b.example.org"},
			"TLS_DOMAINS":         {"hunter2", "*.example.org", "Tasks.example.org", "tasks.example.org:443", "192.0.2.1", "tasks.example.org.", "-a.example.org", "a..org", "müller.example.org"},
			"RATE_LIMIT":          {"hunter2", "600", "600/", "/1m", "0/1m", "-1/1m", "600/1", "600/500ms", "600/1500ms", "600/25h", "1000001/1m", "1.5/1m", "on", "Off", "600/1m/1m", "0"},
			"AUTH_RATE_LIMIT":     {"10", "10/0s", "many/1m"},
			"ROLE":                {"both", "API", "api,worker"},
			"WORKERS":             {"0", "1001", "many"},
			"MIGRATE":             {"true", "1", "ON"},
			"REGISTRATION":        {"closed", "Open"},
			"BCRYPT_COST":         {"3", "9", "17", "low"},
			"ACCESS_TOKEN_TTL":    {"15", "59s", "25h", "-15m", "forever"},
			"REFRESH_TOKEN_TTL":   {"30d", "59m", "8761h"},
			"TRASH_DAYS":          {"0", "3651", "30d"},
			"SMTP_URL":            {"hunter2", "mail.example.org:587", "http://u:hunter2@mail.example.org", "smtp://", "smtp://u:hunter2@:587", "smtp://u:hunter2@h:70000", "smtp://h/hunter2", "smtp://h?hunter2", "smtp://u:hunter2%zz@h", "OFF"},
			"MAIL_FROM":           {"hunter2", "TaskFlow", "a@example.org, b@example.org", "TaskFlow <hunter2>", "ä@example.org", "TaskFlow <a@example.org", "a@example.org\r\nBcc: b@example.org"},
			"STORAGE_URL": {"hunter2", "/var/lib/hunter2", "file://hunter2/x", "file:files", "file:///x?hunter2", "file:///x#hunter2", "s3://", "s3://Hunter2", "s3://b", "s3://hunter2/x", "s3://u:hunter2@bucket", "s3://bucket?hunter2=1", "s3://bucket?region=a&region=b",
				"s3://bucket?region=hunter2%20", "s3://bucket?endpoint=hunter2", "s3://bucket?endpoint=https://u:hunter2@h", "s3://bucket?endpoint=https://h?hunter2", "s3://bucket?downloads=hunter2", "s3://bucket?downloads=", "http://hunter2"},
			"UPLOAD_MAX_BYTES":    {"0", "-1", "100MiB", "1e8", "+5", "51539607553", "off"},
			"STORAGE_QUOTA_BYTES": {"0", "Off", "10GiB", "1125899906842625"},
			"LOG_LEVEL":           {"trace", "INFO", "7"},
			"LOG_FORMAT":          {"yaml", "JSON"},
			"SENTRY_DSN":          {"hunter2", "https://sentry.example.org/1", "https://hunter2@/1", "https://hunter2@sentry.example.org", "https://hunter2@sentry.example.org/", "https://hunter2@sentry.example.org/project", "ftp://hunter2@sentry.example.org/1", "https://hunter2@sentry.example.org/1?a=b", "https://hunter2@sentry.example.org/1#a", "https://hunter2@sentry.example.org:99999/1", "https://hunter2@sentry.example.org:/1", "https://hunter2 @sentry.example.org/1", "https://hunter2%0d%0a@sentry.example.org/1", "https://hunter2@sentry.example.org/../1", "https://hunter2@sentry.example.org/1\n", "//hunter2@sentry.example.org/1"},

			"WEBHOOK_ALLOW_NETWORKS": {"hunter2", "10.0.0.0/33", "10.0.0.1/8", "0.0.0.0/0", "::/0", "::ffff:10.0.0.0/104", "10.0.0.0/8,", "localhost"},
		} {
			if !slices.Contains(settingNames, name) {
				t.Errorf("%s is no setting", name)
			}
			for _, value := range values {
				env := production()
				env[name] = value
				if _, err := load("serve", env); err == nil || !strings.HasPrefix(err.Error(), name+" must be") || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("%s=%s: got %v, want only what it must be", name, value, err)
				}
			}
		}
	})
	t.Run("are metrics for a log that does not take them", func(t *testing.T) {
		for _, pair := range []string{"LOG_FORMAT=text", "LOG_LEVEL=warn"} {
			env := production()
			name, value, _ := strings.Cut(pair, "=")
			env["EMF_METRICS"], env[name] = "on", value
			if _, err := load("serve", env); err == nil || !strings.HasPrefix(err.Error(), "EMF_METRICS must be off") {
				t.Errorf("%s: got %v", pair, err)
			}
			env[name] = ""
			if _, err := load("serve", env); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("are files that are no certificate", func(t *testing.T) {
		cert, key := newCertificate(t, "localhost")
		_, other := newCertificate(t, "localhost")
		for _, test := range []struct{ cert, key, domains, want string }{
			{cert, other, "", "TLS_CERT must be a certificate in PEM, of the private key in TLS_KEY"},
			{key, cert, "", "TLS_CERT must be a certificate in PEM, of the private key in TLS_KEY"},
			{cert, "", "", "TLS_KEY must be the path"},
			{"", key, "", "TLS_CERT must be the path"},
			{cert, key, "tasks.example.org", "TLS_DOMAINS must be unset"},
		} {
			env := production()
			env["TLS_CERT"], env["TLS_KEY"], env["TLS_DOMAINS"] = test.cert, test.key, test.domains
			if _, err := load("serve", env); err == nil || !strings.HasPrefix(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want only %s", err, test.want)
			}
		}
	})
	t.Run("are missing", func(t *testing.T) {
		_, err := load("serve", nil)
		wantWords(t, err, "DATABASE_URL must be set", "REDIS_URL must be set", "JWT_SECRET must be set", "openssl rand -hex 32")
		_, err = load("migrate", nil)
		if wantWords(t, err, "DATABASE_URL must be set"); strings.Contains(err.Error(), "JWT") || strings.Contains(err.Error(), "REDIS") {
			t.Errorf("migrate needs only the database, got %v", err)
		}
		if _, err := load("dev", nil); err != nil {
			t.Errorf("dev mode needs nothing, got %v", err)
		}
	})
	t.Run("are missing for mail", func(t *testing.T) {
		env := production()
		env["SMTP_URL"] = "smtp://u:hunter2@mail.example.org"
		_, err := load("serve", env)
		wantWords(t, err, "MAIL_FROM must be set", "PUBLIC_URL must be set")
		if strings.Contains(err.Error(), value) {
			t.Errorf("got %v", err)
		}
		env["MAIL_FROM"], env["PUBLIC_URL"] = "Tasks <tasks@example.org>", "https://tasks.example.org"
		if c, err := load("serve", env); err != nil || c.mailDir != "" || c.smtpURL != "smtp://u:hunter2@mail.example.org" {
			t.Errorf("got %+v, %v", c, err)
		}
	})
	t.Run("are in files that cannot be read, or are there twice", func(t *testing.T) {
		env := production()
		env["REDIS_URL_FILE"] = filepath.Join(t.TempDir(), value)
		env["JWT_SECRET_FILE"] = t.TempDir()
		_, err := load("serve", env)
		wantWords(t, err, "REDIS_URL_FILE must name a file that can be read", "JWT_SECRET_FILE must name a file that can be read", "REDIS_URL is given twice", "JWT_SECRET is given twice")
		if strings.Contains(err.Error(), value) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("are arguments", func(t *testing.T) {
		for _, args := range [][]string{{"postgres://u:hunter2@h/x"}, {"-role", "api", value}, {"-password", value}, {"-role=" + value}, {"-listen"}} {
			var said strings.Builder
			if _, err := loadConfig("serve", args, func(name string) string { return production()[name] }, &said); err == nil || strings.Contains(err.Error()+said.String(), value) {
				t.Errorf("%v: got %v and %s", args, err, said.String())
			}
		}
	})
}

func TestSettingsComeFromFlagsThenEnvironmentThenFiles(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "setting")
	if err := os.WriteFile(file, []byte("redis://from-file:6379/0\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := production()
	delete(env, "REDIS_URL")
	env["REDIS_URL_FILE"], env["ROLE"], env["WORKERS"], env["LISTEN_ADDR"], env["MIGRATE"] = file, "worker", "3", ":1", "on"
	c, err := load("serve", env, "-role=api", "-listen", "[::1]:9", "-migrate=off")
	if err != nil {
		t.Fatal(err)
	}
	if c.redisURL != "redis://from-file:6379/0" || c.role != "api" || c.workers != 3 || c.listenAddr != "[::1]:9" || c.migrate || c.publicURL != "http://[::1]:9" {
		t.Errorf("got %+v", c)
	}
}

func TestDefaultSettings(t *testing.T) {
	t.Parallel()
	c, err := load("serve", production())
	if err != nil {
		t.Fatal(err)
	}
	if c.listenAddr != ":8080" || c.publicURL != "http://localhost:8080" || c.role != "all" || c.workers != 8 || !c.migrate || c.registration != "open" || c.bcryptCost != 12 ||
		c.accessTTL != 15*time.Minute || c.refreshTTL != 720*time.Hour || c.trashAge != 720*time.Hour || c.logFormat != "json" || c.logLevel != slog.LevelInfo || c.databaseConns < 8 {
		t.Errorf("serve: got %+v", c)
	}
	if c.rateLimit != (rate{600, time.Minute}) || c.authRateLimit != (rate{30, time.Minute}) || c.proxies != nil || c.corsOrigins != nil || c.servesTLS() {
		t.Errorf("serve: got %v, %v, %v, %v", c.rateLimit, c.authRateLimit, c.proxies, c.corsOrigins)
	}
	if c, err := load("dev", nil); err != nil || c.rateLimit != (rate{}) || c.authRateLimit != (rate{}) {
		t.Errorf("dev: got limits %v, %v, %v", c.rateLimit, c.authRateLimit, err)
	}
	if c, err = load("dev", nil); err != nil || c.listenAddr != "127.0.0.1:8080" || c.logFormat != "text" || c.dataDir != ".taskflow" {
		t.Errorf("dev: got %+v, %v", c, err)
	}
	if c.smtpURL != "" || c.mailDir != filepath.Join(".taskflow", "mails") {
		t.Errorf("dev keeps mail in %q", c.mailDir)
	}
	if c, err = load("dev", map[string]string{"SMTP_URL": "off"}); err != nil || c.smtpURL != "" || c.mailDir != "" {
		t.Errorf("dev without mail: got %q, %v", c.mailDir, err)
	}
	if c, err = load("serve", production()); err != nil || c.smtpURL != "" || c.mailDir != "" {
		t.Errorf("serve without SMTP_URL keeps mail in %q, %v", c.mailDir, err)
	}
	if c, err = load("dev", map[string]string{"LISTEN_ADDR": ":8080", "PUBLIC_URL": "https://tasks.example.org/sub//", "BCRYPT_COST": "4"}); err != nil || c.listenAddr != ":8080" || c.publicURL != "https://tasks.example.org/sub" || c.bcryptCost != 4 {
		t.Errorf("dev with settings: got %+v, %v", c, err)
	}
}

func TestSettingsOfTheStorage(t *testing.T) {
	t.Parallel()
	if c, err := load("serve", production()); err != nil || c.storageDir != "/var/lib/taskflow/files" || c.bucket != (bucketSettings{}) || c.uploadMax != 100<<20 || c.storageQuota != 10<<30 {
		t.Errorf("by default: got %q, %v, %d, %d, %v", c.storageDir, c.bucket.name, c.uploadMax, c.storageQuota, err)
	}
	if c, err := load("dev", nil); err != nil || c.storageDir != filepath.Join(".taskflow", "files") {
		t.Errorf("dev: got %q, %v", c.storageDir, err)
	}
	env := production()
	env["STORAGE_URL"], env["UPLOAD_MAX_BYTES"], env["STORAGE_QUOTA_BYTES"] = "file:///srv/files/", "51539607552", "off"
	if c, err := load("serve", env); err != nil || c.storageDir != "/srv/files" || c.uploadMax != 48<<30 || c.storageQuota != 0 {
		t.Errorf("a folder: got %q, %d, %d, %v", c.storageDir, c.uploadMax, c.storageQuota, err)
	}
	env["STORAGE_URL"] = "s3://bucket?region=eu-central-1&endpoint=https://s3.example.org:9000&downloads=through"
	if _, err := load("serve", env); err == nil || !strings.HasPrefix(err.Error(), "STORAGE_URL must have the keys of its bucket in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") {
		t.Errorf("a bucket without keys: got %v", err)
	}
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY_FILE"], env["AWS_SESSION_TOKEN"] = "AKID", file, "token"
	want := bucketSettings{name: "bucket", region: "eu-central-1", endpoint: "https://s3.example.org:9000", through: true, keys: bucketKeys{access: "AKID", secret: "hunter2", session: "token"}}
	c, err := load("serve", env)
	if err != nil || c.bucket != want {
		t.Errorf("a bucket: got another, %v", err)
	}
	if said := fmt.Sprintf("%v %+v %#v", c.bucket, c.bucket, c.bucket); strings.Contains(said, "hunter2") {
		t.Errorf("a secret shows itself: %s", said)
	}
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY_FILE": "", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/id", "AWS_CONTAINER_CREDENTIALS_FULL_URI": "https://keys.example.org/"} {
		env[name] = value
	}
	want.keys, want.role = bucketKeys{}, roleSettings{address: "http://169.254.170.2/v2/id"}
	if c, err := load("serve", env); err != nil || c.bucket != want {
		t.Errorf("a role by its path: got another, %v", err)
	}
	env["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"], env["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"] = "", file
	for address, ok := range map[string]bool{
		"http://169.254.170.23/v1/credentials": true, "http://[fd00:ec2::23]/v1": true, "http://127.0.0.2:8080/": true, "http://[::1]/": true, "http://localhost/": true, "https://keys.example.org/": true,
		"http://169.254.169.254/": false, "http://keys.example.org/": false, "http://10.0.0.1/": false, "http://127.0.0.1.example.org/": false, "https://": false, "ftp://localhost/": false, "/v2/id": false, "http://[::1": false,
	} {
		env["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = address
		c, err := load("serve", env)
		if ok && (err != nil || c.bucket.role != roleSettings{secret(address), "hunter2", file}) {
			t.Errorf("a role at %s: got another, %v", address, err)
		} else if !ok && (err == nil || !strings.HasPrefix(err.Error(), "AWS_CONTAINER_CREDENTIALS_FULL_URI must be an https address")) {
			t.Errorf("a role at %s: got %v", address, err)
		}
	}
	env["AWS_ACCESS_KEY_ID"] = "AKID"
	env["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = "https://keys.example.org/"
	if _, err := load("serve", env); err == nil || !strings.HasPrefix(err.Error(), "STORAGE_URL must have the keys") {
		t.Errorf("half of a pair of keys beside a role: got %v", err)
	}
	env["AWS_SECRET_ACCESS_KEY"] = "set"
	if c, err := load("serve", env); err != nil || c.bucket.role != (roleSettings{}) || c.bucket.keys.secret != "set" {
		t.Errorf("keys beside a role: got others, %v", err)
	}
	env["STORAGE_URL"] = "s3://bucket"
	if c, err := load("serve", env); err != nil || c.bucket.region != "us-east-1" || c.bucket.endpoint != "" || c.bucket.through {
		t.Errorf("Amazon's: got %+v, %v", c.bucket, err)
	}
}

func TestSettingsOfTheWayIn(t *testing.T) {
	t.Parallel()
	cert, key := newCertificate(t, "localhost")
	env := production()
	env["TRUSTED_PROXIES"], env["CORS_ORIGINS"] = "10.0.0.0/8, 192.0.2.1,fd00::/8,::1", "https://app.example.org,http://localhost:3000,http://[::1]:3000"
	env["RATE_LIMIT"], env["AUTH_RATE_LIMIT"], env["TLS_CERT"], env["TLS_KEY"] = "5000/1h0m0s", "off", cert, key
	c, err := load("serve", env)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(c.proxies, c.corsOrigins, c.rateLimit, c.authRateLimit, c.publicURL); got !=
		"[10.0.0.0/8 192.0.2.1/32 fd00::/8 ::1/128] [https://app.example.org http://localhost:3000 http://[::1]:3000] {5000 3600000000000} {0 0}https://localhost:8080" {
		t.Errorf("got %s", got)
	}
	env = production()
	for listen, want := range map[string]string{":443": "https://tasks.example.org", ":8443": "https://tasks.example.org:8443"} {
		env["TLS_DOMAINS"], env["LISTEN_ADDR"] = "tasks.example.org, www.xn--mller-kva.example", listen
		if c, err := load("serve", env); err != nil || !c.servesTLS() || len(c.tlsDomains) != 2 || c.publicURL != want {
			t.Errorf("got %v, %s, %v, want %s", c.tlsDomains, c.publicURL, err, want)
		}
	}
}

func TestRedisMayBeOneServerAClusterOrSentinel(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"redis://r:6379/0", "rediss://:p@r", "unix:///run/r.sock", "redis://r:1,redis://r:2", "redis+sentinel://:p@s:1,s:2/m/0"} {
		env := production()
		env["REDIS_URL"] = address
		if c, err := load("serve", env); err != nil || string(c.redisURL) != address {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestSecretsDoNotShowThemselves(t *testing.T) {
	t.Parallel()
	c, err := load("serve", map[string]string{"DATABASE_URL": "postgres://u:hunter2@db/taskflow", "REDIS_URL": "redis://:hunter2@r:6379/0", "JWT_SECRET": strings.Repeat("hunter2", 5), "SMTP_URL": "smtp://u:hunter2@m", "MAIL_FROM": "a@example.org", "PUBLIC_URL": "https://tasks.example.org", "JWT_SECRET_PREVIOUS": strings.Repeat("hunter2", 6), "SENTRY_DSN": "https://hunter2@sentry.example.org/42"})
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	for _, format := range []string{"json", "text"} {
		c.logFormat = format
		newLogger(c, &log).Info("config", "config", c, "url", c.databaseURL, "secret", &c.jwtSecret, "collector", c.collector, "group", slog.GroupValue(slog.Any("previous", c.jwtPrevious)))
	}
	said := log.String() + fmt.Sprintf("%v %+v %#v %s %q %x", c, c, c, c.databaseURL, c.redisURL, c.smtpURL)
	if strings.Contains(said, "hunter2") || strings.Contains(said, fmt.Sprintf("%x", "hunter2")) {
		t.Errorf("a secret shows itself: %s", said)
	}
}

func TestLogsAreOneLineForEachRecord(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"json", "text"} {
		var log strings.Builder
		newLogger(config{logFormat: format}, &log).Info("a\nb", "key", "c\r\nlevel=ERROR msg=forged\u2028\x00\x1b[31m", "bytes", []byte("d\ne"), "broken", "\xff")
		if strings.Count(log.String(), "\n") != 1 || strings.ContainsAny(strings.TrimSuffix(log.String(), "\n"), "\r\n\x00\x1b") {
			t.Errorf("%s: got %q", format, log.String())
		}
	}
}
