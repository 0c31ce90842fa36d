package check

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

const (
	maxImage   = 30 << 20 // bytes of all files
	buildLimit = 5 * time.Minute
	startLimit = 30 * time.Second
	stopLimit  = 30 * time.Second // what orchestrators are told to wait
)

// TestImageRunsAsItIsBuilt does by hand what a container engine does with the Dockerfile, for there is
// not one everywhere: the context as .dockerignore leaves it, each RUN in a root of its own (with this
// machine's programs instead of those of the base image), the COPYs of the last stage into an empty
// folder. In it, read-only, as the image's user and without privileges, the program serves on real
// stores, keeps an attachment in its volume, is healthy, and ends in order.
func TestImageRunsAsItIsBuilt(t *testing.T) {
	all, _ := stages(t, read(t, "Dockerfile"))
	if len(all) != 2 {
		t.Fatalf("it has %d stages, want one that builds and one that is the image", len(all))
	}
	built, root := folder(t), folder(t)
	names := copyContext(t, filepath.Join(built, workdir(all[0])))
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "deploy") || strings.HasPrefix(name, "bin") {
			t.Errorf("%s reaches the builder: .dockerignore lets it through", name)
		}
	}
	runStage(t, all[0], built)
	copyStage(t, all[1], built, root)
	if size := sizeOf(t, root); size >= maxImage {
		t.Errorf("the image holds %d bytes, want less than %d", size, maxImage)
	} else {
		t.Logf("the image holds %.1f MB", float64(size)/1e6)
	}

	stores := startStores(t, filepath.Join(root, "taskflow"))
	c := startContainer(t, all[1], root, stores)
	c.ask("GET", "/ready", "", "", "", http.StatusOK)
	c.useIt()
	if out, err := c.run("healthcheck").CombinedOutput(); err != nil {
		t.Errorf("taskflow healthcheck while it serves: %v\n%s", err, out)
	}
	if files := filesIn(t, c.volume); len(files) != 1 {
		t.Errorf("the volume holds %v, want the attachment", files)
	}
	c.stop()
	if out, err := c.run("healthcheck").CombinedOutput(); err == nil {
		t.Errorf("taskflow healthcheck says that a stopped service lives\n%s", out)
	}
	if out, err := c.run("version").CombinedOutput(); err != nil || string(out) != "v0.0.0-checked\n" {
		t.Errorf("version is %q (%v), want what the build was given as VERSION", out, err)
	}
}

// folder is a folder that also root's files are removed from in the end.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tf-image-") // short: sockets' paths have a limit
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if out, err := asRoot(context.Background(), "rm", "-rf", "--one-file-system", dir).CombinedOutput(); err != nil {
			t.Errorf("remove %s: %v\n%s", dir, err, out)
		}
	})
	return dir
}

// asRoot runs a program as root, by sudo where this is not root.
func asRoot(ctx context.Context, args ...string) *exec.Cmd {
	if os.Getuid() != 0 {
		args = append([]string{"sudo", "-n"}, args...)
	}
	return exec.CommandContext(ctx, args[0], args[1:]...)
}

func rootDoes(t *testing.T, args ...string) {
	t.Helper()
	if out, err := asRoot(t.Context(), args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", args, err, out)
	}
}

// workdir is where a stage works, from its root.
func workdir(stage instructions.Stage) string {
	if c := last[*instructions.WorkdirCommand](stage); c != nil {
		return c.Path
	}
	return "/"
}

// copyContext copies what .dockerignore leaves of the repository, and tells what that is.
func copyContext(t *testing.T, to string) (names []string) {
	t.Helper()
	patterns, err := ignorefile.ReadAll(bytes.NewReader(read(t, ".dockerignore")))
	if err != nil {
		t.Fatal(err)
	}
	ignored, err := patternmatcher.New(patterns)
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(top, path)
		if err != nil || name == "." {
			return err
		}
		if entry.IsDir() && slices.Contains([]string{".git", ".taskflow", "node_modules"}, entry.Name()) {
			return fs.SkipDir // large, and judged by their names below
		}
		drop, err := ignored.MatchesOrParentMatches(name)
		if err != nil || drop || !entry.Type().IsRegular() {
			return err
		}
		names = append(names, name)
		return copyFile(path, filepath.Join(to, name))
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".git/config", ".taskflow/jwt_secret", ".env", "deploy/secrets/jwt_secret", "bin/taskflow"} {
		if drop, err := ignored.MatchesOrParentMatches(name); err != nil || !drop {
			t.Errorf("%s would reach the builder: .dockerignore lets it through (%v)", name, err)
		}
	}
	return names
}

// copyFile copies a file with its mode, and makes the folders that it needs.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if closed := out.Close(); err == nil {
		err = closed
	}
	return err
}

// buildScript makes the folder $1 a root with all of this machine's programs, read-only, and runs $4 there
// in the folder $2 as the user $3. The mounts end with it.
const buildScript = `set -e
root=$1
for dir in /usr /bin /sbin /lib /lib64 /etc "$(readlink -f "$GOROOT")"; do
  if [ -L "$dir" ]; then [ -e "$root$dir" ] || cp -P "$dir" "$root$dir"
  elif [ -d "$dir" ]; then mkdir -p "$root$dir"; mount --rbind -o ro "$dir" "$root$dir"; fi
done
for dir in /dev /proc "$GOMODCACHE" "$GOCACHE"; do mkdir -p "$root$dir"; mount --rbind "$dir" "$root$dir"; done
mkdir -p "$root/tmp" && chmod 1777 "$root/tmp"
exec /usr/sbin/chroot --userspec="$3" "$root" sh -ec 'cd "$1"; eval "$2"' sh "$2" "$4"`

// runStage runs the RUN lines of a stage as they stand.
func runStage(t *testing.T, stage instructions.Stage, root string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), buildLimit)
	defer cancel()
	goEnv, err := exec.CommandContext(ctx, "go", "env", "GOROOT", "GOMODCACHE", "GOCACHE", "GOPROXY").Output()
	if err != nil {
		t.Fatal(err)
	}
	paths := strings.Split(strings.TrimSpace(string(goEnv)), "\n")
	for _, command := range stage.Commands {
		run, is := command.(*instructions.RunCommand)
		if !is {
			continue
		}
		if !run.PrependShell || len(run.CmdLine) != 1 {
			t.Fatalf("%s: want a line for the shell", run)
		}
		cmd := asRoot(ctx, "env", "-i", "PATH="+paths[0]+"/bin:/usr/bin:/bin", "HOME=/tmp", "GOTOOLCHAIN=local",
			"GOROOT="+paths[0], "GOMODCACHE="+paths[1], "GOCACHE="+paths[2], "GOPROXY="+paths[3],
			"VERSION=v0.0.0-checked", "TARGETOS="+runtime.GOOS, "TARGETARCH="+runtime.GOARCH,
			"unshare", "--mount", "--propagation", "private", "sh", "-c", buildScript, "sh",
			root, workdir(stage), fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid()), run.CmdLine[0])
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", run, err, out)
		}
	}
}

// copyStage makes the files of a stage. What the other stage was not seen to make comes with its base
// image, so it is this machine's own.
func copyStage(t *testing.T, stage instructions.Stage, built, root string) {
	t.Helper()
	for _, command := range stage.Commands {
		c, is := command.(*instructions.CopyCommand)
		if !is {
			continue
		}
		if c.From != "build" || len(c.SourcePaths) != 1 || strings.HasSuffix(c.DestPath, "/") {
			t.Fatalf("%s: want one thing from the stage build to a path of its own", c)
		}
		from, to := filepath.Join(built, c.SourcePaths[0]), filepath.Join(root, c.DestPath)
		if _, err := os.Stat(from); err != nil {
			from = c.SourcePaths[0]
		}
		owner := c.Chown
		if owner == "" {
			owner = "0:0"
		}
		rootDoes(t, "mkdir", "-p", filepath.Dir(to))
		rootDoes(t, "cp", "-rL", "--preserve=mode", from, to)
		rootDoes(t, "chown", "-R", owner, to)
	}
	rootDoes(t, "chmod", "755", root)
}

func sizeOf(t *testing.T, root string) (size int64) {
	t.Helper()
	out, err := asRoot(t.Context(), "du", "--bytes", "--summarize", root).Output()
	if err != nil {
		t.Fatal(err)
	}
	if size, err = strconv.ParseInt(strings.Fields(string(out))[0], 10, 64); err != nil {
		t.Fatal(err)
	}
	return size
}

func filesIn(t *testing.T, dir string) []string {
	t.Helper()
	out, err := asRoot(t.Context(), "find", dir, "-type", "f").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}

// startStores runs a PostgreSQL and a Redis until the test ends, those of dev mode, and returns the folder
// of their sockets, which anybody may use.
func startStores(t *testing.T, program string) string {
	t.Helper()
	dir := folder(t)
	var log bytes.Buffer
	dev := exec.Command(program, "dev")
	dev.Env = []string{"PATH=" + os.Getenv("PATH"), "DATA_DIR=" + dir, "LISTEN_ADDR=" + freeAddress(t), "ROLE=api"}
	dev.Stderr = &log
	if err := dev.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		dev.Process.Signal(syscall.SIGTERM)
		if err := dev.Wait(); err != nil {
			t.Errorf("dev mode: %v\n%s", err, log.String())
		}
	})
	sockets := filepath.Join(dir, "sockets")
	waitFor(t, "dev mode's database", func() error { _, err := os.Stat(filepath.Join(dir, "database_url")); return err })
	rootDoes(t, "chmod", "755", dir, sockets)
	rootDoes(t, "chmod", "777", filepath.Join(sockets, "redis.sock"))
	return sockets
}

// waitFor repeats until there is no error.
func waitFor(t *testing.T, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(startLimit)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v after %v", what, err, startLimit)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// container is the image running, as near to what an engine makes of it as chroot comes.
type container struct {
	t                    *testing.T
	root, stores, volume string // folders
	user, entry, listen  string
	main                 *exec.Cmd
	log                  bytes.Buffer
}

// containerScript makes the folder $1 a read-only root with the stores' sockets $2 and the volume $3, and runs
// the rest there as the user $4, who can gain no privileges. The process stays the same one throughout.
const containerScript = `set -e
root=$1 stores=$2 volume=$3 user=$4
shift 4
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount --bind "$stores" "$root/stores"
mount --bind "$volume" "$root/var/lib/taskflow/files"
exec setpriv --no-new-privs /usr/sbin/chroot --userspec="$user" --groups= "$root" "$@"`

// startContainer runs what the stage says until stop. The volume is as an engine makes one at first: with
// the owner of the folder that it is mounted on.
func startContainer(t *testing.T, stage instructions.Stage, root, stores string) *container {
	t.Helper()
	c := &container{
		t: t, root: root, stores: stores, volume: folder(t), listen: freeAddress(t),
		user: last[*instructions.UserCommand](stage).User, entry: last[*instructions.EntrypointCommand](stage).CmdLine[0],
	}
	rootDoes(t, "chown", "--reference", filepath.Join(root, "var/lib/taskflow/files"), c.volume)
	rootDoes(t, "mkdir", "-p", filepath.Join(root, "stores"))
	c.main = c.run(last[*instructions.CmdCommand](stage).CmdLine...)
	c.main.Stderr = &c.log
	c.main.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // else sudo, where it is, hands no signal of ours on
	if err := c.main.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.stop)
	waitFor(t, "the image's health check", func() error {
		out, err := c.run("healthcheck").CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, out)
		}
		return err
	})
	return c
}

// run is a command in the container, with nothing in its environment but settings.
func (c *container) run(args ...string) *exec.Cmd {
	return asRoot(context.Background(), slices.Concat([]string{"env", "-i", "LISTEN_ADDR=" + c.listen, "DATA_DIR=/var/lib/taskflow",
		"DATABASE_URL=host=/stores user=taskflow dbname=taskflow", "REDIS_URL=unix:///stores/redis.sock", "JWT_SECRET=" + strings.Repeat("k", 32),
		"/usr/bin/unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", containerScript, "sh", c.root, c.stores, c.volume, c.user, c.entry}, args)...)
}

// stop asks the program to end, which it does in time and with 0.
func (c *container) stop() {
	if c.main.ProcessState != nil {
		return
	}
	pid := strconv.Itoa(c.main.Process.Pid)
	if out, err := asRoot(context.Background(), "kill", "-TERM", pid).CombinedOutput(); err != nil {
		c.t.Errorf("stop the image's program: %v\n%s", err, out)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.main.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			c.t.Errorf("the image's program ended with %v\n%s", err, c.log.String())
		}
	case <-time.After(stopLimit):
		asRoot(context.Background(), "kill", "-KILL", pid).Run()
		c.t.Errorf("the image's program did not end within %v of SIGTERM", stopLimit)
	}
}

// ask sends a request and decodes the answer, which must have the status.
func (c *container) ask(method, path, token, media, body string, status int) (answer map[string]any) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, "http://"+c.listen+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Content-Type", media)
	req.Header.Set("Authorization", "Bearer "+token)
	if token == "" {
		req.Header.Del("Authorization")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != status {
		c.t.Fatalf("%s %s: %s %v (%v), want %d\n%s", method, path, resp.Status, answer, err, status, c.log.String())
	}
	return answer
}

// useIt signs up, plans a task and attaches a file to it.
func (c *container) useIt() {
	c.t.Helper()
	const media = "application/json"
	token := c.ask("POST", "/api/v1/auth/register", "", media, `{"email":"ada@example.org","password":"correct horse","firstName":"Ada","lastName":"Lovelace"}`, 201)["accessToken"].(string)
	project := c.ask("POST", "/api/v1/projects", token, media, `{"name":"Relaunch"}`, 201)["id"].(string)
	task := c.ask("POST", "/api/v1/tasks", token, media, fmt.Sprintf(`{"projectId":%q,"title":"Ship it"}`, project), 201)["id"].(string)
	c.ask("POST", "/api/v1/tasks/"+task+"/attachments", token, "multipart/form-data; boundary=part",
		"--part\r\nContent-Disposition: form-data; name=\"file\"; filename=\"notes.txt\"\r\n\r\nremember\r\n--part--\r\n", 201)
}
