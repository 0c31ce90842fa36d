package check

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/sirupsen/logrus"
)

const ownImage = "taskflow:latest" // made from the Dockerfile

// install copies what compose.yaml needs to a folder and makes its secrets there, as an operator does.
func install(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, path := range []string{"compose.yaml", "deploy/secrets.sh", "deploy/nginx.conf", "deploy/compose/nginx.site.conf", "deploy/compose/nginx.listen.conf"} {
		if err := copyFile(filepath.Join(top, path), filepath.Join(dir, path)); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := secretsScript(dir, "tasks.example.org").CombinedOutput(); err != nil {
		t.Fatalf("deploy/secrets.sh: %v\n%s", err, out)
	}
	return dir
}

func secretsScript(dir string, args ...string) *exec.Cmd {
	return exec.Command(filepath.Join(dir, "deploy/secrets.sh"), args...)
}

// loadCompose is compose.yaml as Docker Compose understands it. What it would warn of is an error.
func loadCompose(t *testing.T, dir string) *types.Project {
	t.Helper()
	var warnings bytes.Buffer
	logrus.SetOutput(&warnings)
	defer logrus.SetOutput(os.Stderr)
	options, err := cli.NewProjectOptions(nil, cli.WithWorkingDirectory(dir), cli.WithDefaultConfigPath, cli.WithEnvFiles(), cli.WithDotEnv)
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatalf("compose.yaml: %v", err)
	}
	if warnings.Len() > 0 {
		t.Errorf("compose.yaml: %s", warnings.String())
	}
	return project
}

func TestComposeFileLoadsOnlyWithAnAddress(t *testing.T) {
	dir := install(t)
	loadCompose(t, dir)
	options, err := cli.NewProjectOptions([]string{filepath.Join(dir, "compose.yaml")}, cli.WithWorkingDirectory(dir))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := options.LoadProject(t.Context()); err == nil || !strings.Contains(err.Error(), "deploy/secrets.sh") {
		t.Errorf("without .env it says %v, want what to run first", err)
	}
}

func TestComposeRunsTheWholeTopology(t *testing.T) {
	project := loadCompose(t, install(t))
	want := []string{"api", "migrate", "nginx", "postgres", "redis", "worker"}
	if names := project.ServiceNames(); !slices.Equal(names, want) {
		t.Fatalf("services are %v, want %v", names, want)
	}
	for name, service := range project.Services {
		for other, how := range service.DependsOn {
			target := project.Services[other]
			switch how.Condition {
			case types.ServiceConditionHealthy:
				if target.HealthCheck == nil || target.HealthCheck.Disable {
					t.Errorf("%s waits for the health of %s, which has no health check", name, other)
				}
			case types.ServiceConditionCompletedSuccessfully:
				if target.Restart != "no" {
					t.Errorf("%s waits for the end of %s, which is started again (%q)", name, other, target.Restart)
				}
			default:
				t.Errorf("%s does not wait until %s can be used (%s)", name, other, how.Condition)
			}
		}
	}
	for _, name := range []string{"api", "worker"} {
		for _, other := range []string{"migrate", "postgres", "redis"} {
			if _, waits := project.Services[name].DependsOn[other]; !waits {
				t.Errorf("%s does not wait for %s", name, other)
			}
		}
	}
	api := project.Services["api"]
	if n := api.GetScale(); n != 2 {
		t.Errorf("%d processes of the API, want 2, so that one can be started again", n)
	}
	var stores []string
	for _, name := range []string{"api", "worker"} {
		for _, volume := range project.Services[name].Volumes {
			stores = append(stores, volume.Source+" at "+volume.Target)
		}
	}
	if want := []string{"files at /var/lib/taskflow/files", "files at /var/lib/taskflow/files"}; !slices.Equal(stores, want) {
		t.Errorf("the folder of attachments is %v, want %v: one for all", stores, want)
	}
	for _, name := range []string{"postgres", "redis"} {
		if volumes := project.Services[name].Volumes; len(volumes) != 1 || volumes[0].Type != types.VolumeTypeVolume || project.Volumes[volumes[0].Source].Name == "" {
			t.Errorf("%s keeps its data in %v, want one volume with a name", name, volumes)
		}
	}
}

func TestComposeServicesAreHardened(t *testing.T) {
	project := loadCompose(t, install(t))
	for name, s := range project.Services {
		complain := func(format string, args ...any) { t.Helper(); t.Errorf(name+": "+format, args...) }
		if !s.ReadOnly {
			complain("its root can be written to")
		}
		if !slices.Equal(s.CapDrop, []string{"ALL"}) || len(s.CapAdd) > 0 || s.Privileged {
			complain("it has capabilities: dropped are %v, added %v", s.CapDrop, s.CapAdd)
		}
		if !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
			complain("it may gain privileges")
		}
		if own := s.Image == ownImage; own == (s.User != "") || s.User == "0" || strings.HasPrefix(s.User, "0:") || s.User == "root" {
			complain("it runs as %q, want a user that is not root: the image's own, or where that starts as root, a number", s.User)
		}
		if s.Image != ownImage && !regexp.MustCompile(`^[a-z/]+:\d+\.\d+(\.\d+)?(-[a-z]+)?$`).MatchString(s.Image) {
			complain("image %s, want it with a major and a minor version", s.Image)
		}
		if (s.Image == ownImage) != (s.Build != nil) {
			complain("only %s is built here", ownImage)
		}
		if s.Deploy == nil || s.Deploy.Resources.Limits == nil || s.Deploy.Resources.Limits.MemoryBytes == 0 || s.Deploy.Resources.Limits.NanoCPUs == 0 || s.Deploy.Resources.Limits.Pids == 0 {
			complain("it has no limit of memory, processors and processes")
		}
		if s.HealthCheck == nil {
			complain("it has no health check")
		}
		if oneShot := name == "migrate"; oneShot != (s.Restart == "no") || !oneShot && s.Restart != "unless-stopped" || oneShot != s.HealthCheck.Disable {
			complain("it is started again: %q; its health check is off: %v", s.Restart, s.HealthCheck.Disable)
		}
		if s.StopGracePeriod == nil || time.Duration(*s.StopGracePeriod) < stopLimit {
			complain("it is killed after %v, want at least %v", s.StopGracePeriod, stopLimit)
		}
		if len(s.Logging.Options) == 0 || s.Logging.Options["max-size"] == "" {
			complain("its log grows without end")
		}
	}
}

func TestComposeTellsTheOutsideOnlyOfNginx(t *testing.T) {
	project := loadCompose(t, install(t))
	for name, s := range project.Services {
		if published := len(s.Ports) > 0; published != (name == "nginx") || s.NetworkMode != "" {
			t.Errorf("%s publishes %v on network %q", name, s.Ports, s.NetworkMode)
		}
	}
	networks := map[string][]string{
		"postgres": {"data"}, "redis": {"data"}, "migrate": {"data"},
		"api": {"data", "front"}, "worker": {"data", "outside"}, "nginx": {"front"},
	}
	for name, want := range networks {
		if got := slices.Sorted(maps.Keys(project.Services[name].Networks)); !slices.Equal(got, want) {
			t.Errorf("%s is in the networks %v, want %v", name, got, want)
		}
	}
	if !project.Networks["data"].Internal {
		t.Error("the stores' network has a way out")
	}

	address := project.Services["nginx"].Networks["front"].Ipv4Address
	if trusted := project.Services["api"].Environment["TRUSTED_PROXIES"]; trusted == nil || *trusted != address {
		t.Errorf("the API believes another address than that of nginx, %s", address)
	}
	config := project.Networks["front"].Ipam.Config[0]
	subnet, others := netip.MustParsePrefix(config.Subnet), netip.MustParsePrefix(config.IPRange)
	if nginx := netip.MustParseAddr(address); !subnet.Contains(nginx) || others.Contains(nginx) || !subnet.Overlaps(others) || others.Bits() < subnet.Bits() {
		t.Errorf("nginx has %s in %s, of which others get %s: want an address that no other can get", address, subnet, others)
	}
}

// TestComposeSecretsAreThere follows each secret from its file to who reads it.
func TestComposeSecretsAreThere(t *testing.T) {
	project := loadCompose(t, install(t))
	read := map[string]bool{}
	for name, s := range project.Services {
		used, err := json.Marshal([]any{s.Environment, s.Command, s.HealthCheck, mustRead(t, "deploy/compose/nginx.listen.conf", name == "nginx")})
		if err != nil {
			t.Fatal(err)
		}
		given := map[string]bool{}
		for _, secret := range s.Secrets {
			given[secret.Source], read[secret.Source] = true, true
			if !strings.Contains(string(used), "/run/secrets/"+secret.Source) {
				t.Errorf("%s is given %s, which it does not read", name, secret.Source)
			}
		}
		for _, path := range regexp.MustCompile(`/run/secrets/(\w+)`).FindAllStringSubmatch(string(used), -1) {
			if !given[path[1]] {
				t.Errorf("%s reads %s, which it is not given", name, path[0])
			}
		}
		for _, volume := range s.Volumes {
			if volume.Type != types.VolumeTypeBind {
				continue
			}
			if _, err := os.Stat(volume.Source); err != nil || !volume.ReadOnly {
				t.Errorf("%s mounts %s: %v; read-only: %v", name, volume.Source, err, volume.ReadOnly)
			}
		}
	}
	for name, secret := range project.Secrets {
		if info, err := os.Stat(secret.File); err != nil || info.Size() == 0 {
			t.Errorf("secret %s: deploy/secrets.sh does not make %s (%v)", name, secret.File, err)
		}
		if !read[name] {
			t.Errorf("secret %s is nobody's", name)
		}
	}
}

// mustRead is a file of the repository where it is asked for.
func mustRead(t *testing.T, path string, asked bool) string {
	t.Helper()
	if !asked {
		return ""
	}
	return string(read(t, path))
}

func TestSecretsAreMadeOnce(t *testing.T) {
	dir := install(t)
	secrets := filepath.Join(dir, "deploy/secrets")
	if info, err := os.Stat(secrets); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder is %v (%v), want only its owner to enter", info.Mode(), err)
	}
	before := contents(t, secrets)
	for name := range before {
		if info, err := os.Stat(filepath.Join(secrets, name)); err != nil || info.Mode().Perm() != 0o444 {
			t.Errorf("%s is %v (%v), want every container to read it and nobody to change it", name, info.Mode(), err)
		}
	}
	if _, err := tls.X509KeyPair([]byte(before["tls_cert"]), []byte(before["tls_key"])); err != nil {
		t.Errorf("the certificate: %v", err)
	}
	if out, err := secretsScript(dir, "tasks.example.org").CombinedOutput(); err == nil || !strings.Contains(string(out), "there already") {
		t.Errorf("a second time it says %q (%v), want it to refuse", out, err)
	}
	if after := contents(t, secrets); !maps.Equal(before, after) {
		t.Error("a second time it changes secrets")
	}
	if out, err := secretsScript(dir, "tasks.example.org; id").CombinedOutput(); err == nil {
		t.Errorf("it takes anything for a domain\n%s", out)
	}

	other := contents(t, filepath.Join(install(t), "deploy/secrets"))
	for name, content := range before {
		if other[name] == content {
			t.Errorf("%s is the same in every installation", name)
		}
	}

	// A certificate that the operator has is kept.
	for name := range before {
		if !strings.HasPrefix(name, "tls_") {
			os.Remove(filepath.Join(secrets, name))
		}
	}
	if out, err := secretsScript(dir, "tasks.example.org").CombinedOutput(); err != nil {
		t.Errorf("with a certificate: %v\n%s", err, out)
	}
	if after := contents(t, secrets); after["tls_cert"] != before["tls_cert"] || after["jwt_secret"] == before["jwt_secret"] {
		t.Error("with a certificate it makes another one, or no new secrets")
	}
}

// contents is every file of a folder.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(filepath.Join(dir, path))
		files[path] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestTheProgramTakesWhatItIsSet runs the program with the environment of each service of compose.yaml, and
// with that of the unit.
func TestTheProgramTakesWhatItIsSet(t *testing.T) {
	dir := install(t)
	project := loadCompose(t, dir)
	known := settingNames(t)
	program := filepath.Join(t.TempDir(), "taskflow")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", program, ".")
	build.Dir, build.Env = top, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for _, name := range []string{"api", "worker", "migrate"} {
		service := project.Services[name]
		var env []string
		for setting, value := range service.Environment {
			if !slices.Contains(known, strings.TrimSuffix(setting, "_FILE")) && setting != "GOMEMLIMIT" {
				t.Errorf("%s: %s is no setting", name, setting)
			}
			env = append(env, setting+"="+strings.ReplaceAll(*value, "/run/secrets", filepath.Join(dir, "deploy/secrets")))
		}
		env = append(env, "LISTEN_ADDR=127.0.0.1:0")
		command := []string(service.Command)
		if len(command) == 0 {
			command = []string{"serve"}
		}
		t.Run(name, func(t *testing.T) { takes(t, program, env, command) })
	}
	command := strings.Fields(unit(t)["ExecStart"][0])
	t.Run("unit", func(t *testing.T) {
		takes(t, program, append(unitEnvironment(t), "MIGRATE=off", "LISTEN_ADDR=127.0.0.1:0"), command[1:])
	})
}

// takes runs the program without its stores: it serves all the same, or says that it cannot migrate them.
func takes(t *testing.T, program string, env, command []string) {
	t.Helper()
	t.Parallel()
	cmd := exec.Command(program, command...)
	cmd.Env = env
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(startLimit, func() { cmd.Process.Kill() })
	defer kill.Stop()
	var said bytes.Buffer
	for buffer := make([]byte, 4096); ; {
		n, err := log.Read(buffer)
		said.Write(buffer[:n])
		if err != nil || strings.Contains(said.String(), `"msg":"serving"`) || strings.Contains(said.String(), "connect for migrations") {
			break
		}
	}
	cmd.Process.Signal(syscall.SIGKILL)
	cmd.Wait()
	want := `"msg":"serving"`
	if command[0] == "migrate" {
		want = "connect for migrations"
	}
	if !strings.Contains(said.String(), want) {
		t.Errorf("taskflow %s says %s", command, said.String())
	}
}

// settingNames is what config.go reads.
func settingNames(t *testing.T) []string {
	t.Helper()
	list := regexp.MustCompile(`(?s)var settingNames = \[\]string\{(.*?)\n\}`).FindSubmatch(read(t, "config.go"))
	if list == nil {
		t.Fatal("config.go has no list of its settings")
	}
	var names []string
	for _, name := range regexp.MustCompile(`"([A-Z_]+)"`).FindAllStringSubmatch(string(list[1]), -1) {
		names = append(names, name[1])
	}
	return names
}

// TestComposeRedisLosesNoJob runs Redis by the command line of compose.yaml, and its health check.
func TestComposeRedisLosesNoJob(t *testing.T) {
	dir := install(t)
	service := loadCompose(t, dir).Services["redis"]
	data, socket := t.TempDir(), filepath.Join(folder(t), "redis.sock")
	here := strings.NewReplacer("/run/secrets", filepath.Join(dir, "deploy/secrets"), "/data", data, "redis-cli", "redis-cli -s "+socket)
	var args []string
	for _, arg := range service.Command {
		args = append(args, here.Replace(arg))
	}
	redis := exec.Command(args[0], append(args[1:], "--port", "0", "--unixsocket", socket)...)
	if err := redis.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		redis.Process.Signal(syscall.SIGTERM)
		redis.Wait()
	}()
	check := here.Replace(service.HealthCheck.Test[1])
	waitFor(t, "the health check of Redis", func() error {
		out, err := exec.Command("sh", "-c", strings.ReplaceAll(check, "$$", "$")).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w %s", err, out)
		}
		return err
	})
	password := strings.TrimPrefix(strings.TrimSpace(contents(t, filepath.Join(dir, "deploy/secrets"))["redis_conf"]), "requirepass ")
	ask := func(password string, args ...string) string {
		cmd := exec.Command("redis-cli", append([]string{"-s", socket}, args...)...)
		cmd.Env = append(os.Environ(), "REDISCLI_AUTH="+password)
		out, err := cmd.Output()
		if failed := (*exec.ExitError)(nil); err != nil && !errors.As(err, &failed) {
			t.Fatal(err)
		}
		return strings.Join(strings.Fields(string(out)), " ")
	}
	for setting, want := range map[string]string{"appendonly": "yes", "maxmemory-policy": "noeviction", "appendfsync": "everysec", "dir": data} {
		if got := ask(password, "config", "get", setting); got != setting+" "+want {
			t.Errorf("it runs with %s, want %s", got, want)
		}
	}
	if answer := ask("", "dbsize"); !strings.Contains(answer, "NOAUTH") {
		t.Errorf("without a password it answers %q", answer)
	}
}

// TestComposeNginxConfigurationIsValid lets nginx read what its container is given. Where this machine's is
// older than that of the container, two of its lines are put as it knows them.
func TestComposeNginxConfigurationIsValid(t *testing.T) {
	dir := install(t)
	service := loadCompose(t, dir).Services["nginx"]
	etc, tmp := t.TempDir(), t.TempDir()
	out, err := exec.Command("nginx", "-v").CombinedOutput()
	if err != nil {
		t.Fatalf("nginx -v: %v", err)
	}
	version := regexp.MustCompile(`nginx/1\.(\d+)\.`).FindSubmatch(out)
	if version == nil {
		t.Fatalf("nginx -v says %s", out)
	}
	older, replaced := len(version[1]) < 2 || string(version[1]) < "28", 0
	for _, volume := range service.Volumes {
		content, err := os.ReadFile(volume.Source)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.NewReplacer("/run/secrets", filepath.Join(dir, "deploy/secrets"), " /tmp/", " "+tmp+"/").Replace(string(content))
		if older {
			for _, line := range [][2]string{{"server api:8080 resolve", "server 127.0.0.1:8080"}, {"listen 8443 ssl;\nhttp2 on;", "listen 8443 ssl http2;"}} {
				if strings.Contains(text, line[0]) {
					text, replaced = strings.ReplaceAll(text, line[0], line[1]), replaced+1
				}
			}
		}
		if err := os.WriteFile(filepath.Join(etc, filepath.Base(volume.Target)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if older && replaced != 2 {
		t.Errorf("%d lines were put for an older nginx, want 2", replaced)
	}
	args := []string{"-t", "-p", etc, "-c", filepath.Join(etc, "nginx.conf")}
	for _, arg := range service.Command {
		args = append(args, strings.ReplaceAll(arg, "/tmp/", tmp+"/"))
	}
	out, err = exec.Command(service.Entrypoint[0], args...).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("[warn]")) {
		t.Errorf("nginx %s: %v\n%s", args, err, out)
	}
}

// TestComposeTakesTheGuidesOverride lays what docs/deploy.md has for compose.override.yaml over compose.yaml.
func TestComposeTakesTheGuidesOverride(t *testing.T) {
	dir := install(t)
	block := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(read(t, "docs/deploy.md"))
	if block == nil {
		t.Fatal("docs/deploy.md has no YAML")
	}
	if err := os.WriteFile(filepath.Join(dir, "compose.override.yaml"), block[1], 0o600); err != nil {
		t.Fatal(err)
	}
	project := loadCompose(t, dir)
	known := settingNames(t)
	for _, name := range []string{"api", "worker"} {
		service := project.Services[name]
		if len(service.Secrets) != 4 || service.Environment["MAIL_FROM"] == nil || service.Environment["JWT_SECRET_FILE"] == nil {
			t.Errorf("%s has %v and the secrets %v, want those of both files", name, service.Environment, service.Secrets)
		}
		for setting := range service.Environment {
			if !slices.Contains(known, strings.TrimSuffix(setting, "_FILE")) && setting != "GOMEMLIMIT" {
				t.Errorf("%s: %s is no setting", name, setting)
			}
		}
	}
}
