package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
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

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
)

// tempFolder is like t.TempDir, but its path leaves room for a socket, the user postgres may pass it, and
// it is removed by the next test if this one is killed.
func tempFolder(t *testing.T) string {
	t.Helper()
	return folderIn(t, os.TempDir())
}

func folderIn(t *testing.T, temp string) string {
	t.Helper()
	const prefix = "taskflow-dev-"
	sweepPrivateServers(temp, prefix)
	locked, err := os.MkdirTemp(temp, prefix)
	if err != nil {
		t.Fatal(err)
	}
	lock, err := lockFolder(locked)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.RemoveAll(locked)
		unlockFolder(lock)
	})
	dir := filepath.Join(locked, "dir")
	if err := errors.Join(os.Chmod(locked, 0o711), os.Mkdir(dir, 0o711)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// startServers stops them at the end of the test, if the test did not.
func startServers(t *testing.T, dir string, durable bool) *privateServers {
	t.Helper()
	p, err := startPrivateServers(t.Context(), dir, durable, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.stop() })
	return p
}

func stopServers(t *testing.T, p *privateServers) {
	t.Helper()
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
}

// refusedStart wants the start to fail with an error that has all of words.
func refusedStart(t *testing.T, dir string, durable bool, words ...string) {
	t.Helper()
	p, err := startPrivateServers(t.Context(), dir, durable, io.Discard)
	if err == nil {
		p.stop()
		t.Fatalf("started, want an error with %q", words)
	}
	wantWords(t, err, words...)
}

func wantWords(t *testing.T, err error, words ...string) {
	t.Helper()
	for _, word := range words {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("got error %v, want one with %q", err, word)
		}
	}
}

// ask returns the first column of the first row as text.
func ask(t *testing.T, p *privateServers, sql string) (answer string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), p.databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	rows, err := conn.Query(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
	if err == nil && rows.Next() {
		err = rows.Scan(&answer)
	}
	rows.Close()
	if err != nil || rows.Err() != nil {
		t.Fatalf("%s: %v, %v", sql, err, rows.Err())
	}
	return answer
}

func redisClient(t *testing.T, p *privateServers) *redis.Client {
	t.Helper()
	options, err := redis.ParseURL(p.redisURL)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(options)
	t.Cleanup(func() { client.Close() })
	return client
}

// mark writes something to both servers; wantMark wants it back.
func mark(t *testing.T, p *privateServers, value string) {
	t.Helper()
	ask(t, p, "DROP TABLE IF EXISTS mark")
	ask(t, p, "CREATE TABLE mark AS SELECT '"+value+"'::text AS value")
	if err := redisClient(t, p).Set(t.Context(), "mark", value, 0).Err(); err != nil {
		t.Fatal(err)
	}
}

func wantMark(t *testing.T, p *privateServers, value string) {
	t.Helper()
	if got := ask(t, p, "SELECT value FROM mark"); got != value {
		t.Errorf("PostgreSQL: got %q, want %q", got, value)
	}
	if got := redisClient(t, p).Get(t.Context(), "mark").Val(); got != value {
		t.Errorf("Redis: got %q, want %q", got, value)
	}
}

// processesIn are the processes that work in dir: every process of both servers does. Empty where there is no /proc.
func processesIn(dir string) (found []string) {
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		if cwd, err := os.Readlink(link); err == nil && strings.HasPrefix(cwd, dir+"/") {
			found = append(found, link)
		}
	}
	return found
}

func TestPrivateServers(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempFolder(t), "made")
	p := startServers(t, dir, false)

	t.Run("answer on Unix sockets only", func(t *testing.T) {
		if got := ask(t, p, "SHOW listen_addresses"); got != "" {
			t.Errorf("PostgreSQL: got listen_addresses %q, want none", got)
		}
		if got := redisClient(t, p).ConfigGet(t.Context(), "port").Val()["port"]; got != "0" {
			t.Errorf("Redis: got port %q, want 0", got)
		}
	})

	t.Run("have a database and a role named taskflow", func(t *testing.T) {
		if got := ask(t, p, "SELECT current_database() || ' ' || current_user"); got != "taskflow taskflow" {
			t.Errorf("got %q, want taskflow twice", got)
		}
	})

	t.Run("know letters beyond ASCII", func(t *testing.T) {
		if got := ask(t, p, "SELECT lower('Ä') || pg_encoding_to_char(encoding) FROM pg_database WHERE datname = 'taskflow'"); got != "äUTF8" {
			t.Errorf("got %q, want äUTF8", got)
		}
	})

	t.Run("do not share their folder", func(t *testing.T) {
		refusedStart(t, dir, false, "data folder "+dir, "in use by process "+strconv.Itoa(os.Getpid()), "set DATA_DIR to another folder")
		refusedStart(t, dir, true, "in use by process")
		ask(t, p, "SELECT 'still there'")
	})

	t.Run("leave no process and no file when they stop", func(t *testing.T) {
		if len(processesIn(dir)) == 0 && exists("/proc/self/cwd") {
			t.Error("found no process while they run")
		}
		stopServers(t, p)
		if left := processesIn(dir); len(left) > 0 {
			t.Errorf("processes left: %v", left)
		}
		if exists(dir) {
			t.Errorf("%s is left", dir)
		}
		stopServers(t, p)
		if err := <-p.exited(); err != nil {
			t.Errorf("got %v, want nothing: stop is not an accident", err)
		}
	})
}

func onlyOnLinux(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("other systems do not offer this")
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestPrivateServersKeepData(t *testing.T) {
	t.Parallel()
	dir := tempFolder(t)
	p := startServers(t, dir, true)
	mark(t, p, "first")
	stopServers(t, p)

	t.Run("over a stop", func(t *testing.T) {
		p := startServers(t, dir, true)
		wantMark(t, p, "first")
		stopServers(t, p)
	})

	t.Run("over SIGKILL of both, and tell of their end", func(t *testing.T) {
		p := startServers(t, dir, true)
		mark(t, p, "second")
		p.postgres.cmd.Process.Kill()
		p.redis.cmd.Process.Kill()
		errs := []string{(<-p.exited()).Error(), (<-p.exited()).Error()}
		slices.Sort(errs)
		for i, words := range []string{"PostgreSQL ended by itself (signal: killed); see " + dir + "/postgres.log", "Redis ended by itself (signal: killed); see " + dir + "/redis.log"} {
			if errs[i] != words {
				t.Errorf("got %q, want %q", errs[i], words)
			}
		}
		stopServers(t, p)
		p = startServers(t, dir, true)
		wantMark(t, p, "second")
		stopServers(t, p)
	})

	t.Run("beside another program with the pid of a server that was killed", func(t *testing.T) {
		onlyOnLinux(t)
		other := exec.Command("sleep", "60")
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
		defer other.Wait()
		defer other.Process.Kill()
		stale := fmt.Appendf(nil, "%d\n%s/postgres\n1\n5432\n%s/sockets\n\n", other.Process.Pid, dir, dir)
		os.Mkdir(filepath.Join(dir, "sockets"), 0o700)
		for _, name := range []string{"postgres/postmaster.pid", "sockets/.s.PGSQL.5432.lock"} {
			if err := os.WriteFile(filepath.Join(dir, name), stale, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		p := startServers(t, dir, true)
		wantMark(t, p, "second")
		stopServers(t, p)
	})

	t.Run("over SIGKILL of their parent, and die with it", func(t *testing.T) {
		onlyOnLinux(t)
		parent := exec.Command(os.Args[0], "-test.run=^TestPrivateServersParent$")
		parent.Env = append(os.Environ(), parentFolder+"="+dir, "TMPDIR="+filepath.Dir(dir), "TASKFLOW_EXCHANGES=")
		parent.Stderr = os.Stderr
		out, err := parent.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := parent.Start(); err != nil {
			t.Fatal(err)
		}
		defer parent.Wait()
		defer parent.Process.Kill()
		for lines := bufio.NewScanner(out); ; {
			if !lines.Scan() {
				t.Fatal("the parent started nothing")
			}
			if lines.Text() == "started" {
				break
			}
		}
		mark(t, p, "third") // the same sockets
		refusedStart(t, dir, true, "in use by process "+strconv.Itoa(parent.Process.Pid))
		parent.Process.Kill()
		parent.Wait()

		p := startServers(t, dir, true) // at once, while they may still be dying
		wantMark(t, p, "third")
		stopServers(t, p)
		if left := processesIn(dir); len(left) > 0 {
			t.Errorf("processes left: %v", left)
		}
	})

	t.Run("and show the log when they cannot start", func(t *testing.T) {
		settings := filepath.Join(dir, "postgres", "postgresql.auto.conf")
		if err := os.WriteFile(settings, []byte("no_such_setting = 1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		refusedStart(t, dir, true, "start PostgreSQL", "postgres.log", `unrecognized configuration parameter "no_such_setting"`)
	})

	t.Run("from another version of PostgreSQL", func(t *testing.T) {
		if err := os.WriteFile(filepath.Join(dir, "postgres", "PG_VERSION"), []byte("9\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		refusedStart(t, dir, true, "was made by PostgreSQL 9, but PostgreSQL ", "install version 9", "pg_upgrade", "DATA_DIR")
	})
}

// parentFolder is the environment variable that makes TestPrivateServersParent a program of its own.
const parentFolder = "TASKFLOW_TEST_PARENT_OF_SERVERS"

// TestPrivateServersParent is no test: TestPrivateServersKeepData kills it.
func TestPrivateServersParent(t *testing.T) {
	dir := os.Getenv(parentFolder)
	if dir == "" {
		t.Skip("only for TestPrivateServersKeepData")
	}
	startServers(t, dir, true)
	fmt.Println("\nstarted")
	time.Sleep(time.Minute)
}

func TestPrivateServersGiveUpWithTheirContext(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempFolder(t), "made")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	p, err := startPrivateServers(ctx, dir, false, io.Discard)
	if err == nil {
		p.stop()
		t.Skip("started within 20 ms")
	}
	wantWords(t, err, "deadline exceeded")
	if exists(dir) {
		t.Errorf("%s is left", dir)
	}
	eventually(t, 10*time.Second, "no process in it", func() bool { return len(processesIn(dir)) == 0 })
}

func TestPrivateServersFolders(t *testing.T) {
	t.Parallel()

	t.Run("may have any name", func(t *testing.T) {
		p := startServers(t, filepath.Join(tempFolder(t), `it's 100% "odd"\, ü`), false)
		mark(t, p, "found")
		wantMark(t, p, "found")
		stopServers(t, p)
		if exists(p.sockets) {
			t.Errorf("%s is left", p.sockets)
		}
	})

	t.Run("may have a path too long for a socket", func(t *testing.T) {
		long := filepath.Join(tempFolder(t), strings.Repeat("long/", 20))
		temp := tempFolder(t)
		folder, err := socketFolder(long, temp)
		if err != nil || filepath.Dir(folder) != temp {
			t.Fatalf("got %s, %v, want a folder in %s", folder, err, temp)
		}
		if info, err := os.Stat(folder); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("got %v, %v, want a folder only for us", info.Mode(), err)
		}
		if _, err := net.Listen("unix", filepath.Join(folder, ".s.PGSQL.5432")); err != nil {
			t.Error(err)
		}
		_, err = socketFolder(long, long)
		wantWords(t, err, "set TMPDIR")
	})

	t.Run("must be empty if they are thrown away", func(t *testing.T) {
		dir := tempFolder(t)
		precious := filepath.Join(dir, "precious")
		if err := os.WriteFile(precious, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		refusedStart(t, dir, false, dir+" is not empty")
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Errorf("got %v, %v, want only the file that was there", entries, err)
		}
	})

	t.Run("of killed processes are swept", func(t *testing.T) {
		parent := tempFolder(t)
		folder := func(name, pid string) string {
			dir := filepath.Join(parent, name)
			if err := os.MkdirAll(filepath.Join(dir, "postgres", "base"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "lock"), []byte(pid), 0o600); err != nil {
				t.Fatal(err)
			}
			return dir
		}
		killed, fresh, other, running := folder("test-1", "4194305"), folder("test-2", ""), folder("mine", "4194305"), folder("test-3", "")
		lock, err := lockFolder(running)
		if err != nil {
			t.Fatal(err)
		}
		defer unlockFolder(lock)
		sweepPrivateServers(parent, "test-")
		for dir, want := range map[string]bool{killed: false, fresh: true, other: true, running: true} {
			if got := exists(dir); got != want {
				t.Errorf("%s: got exists %v, want %v", dir, got, want)
			}
		}
	})
}

func TestFindServerPrograms(t *testing.T) {
	t.Parallel()
	install := func(folder string, names ...string) string {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if err := os.WriteFile(filepath.Join(folder, name), []byte("#!/bin/sh\n"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		return folder
	}
	debian := t.TempDir()
	for _, version := range []string{"9.6", "16", "17", "8"} {
		install(filepath.Join(debian, version, "bin"), "initdb", "postgres")
	}
	path := []string{install(t.TempDir(), "postgres"), install(t.TempDir(), "redis-server")} // a postgres without its initdb

	for _, test := range []struct {
		name          string
		path          []string
		debian        string
		version       string
		postgres      string // its folder
		wantInMessage []string
	}{
		{"takes the newest", path, debian, "", debian + "/17/bin", nil},
		{"takes the one that made the data", path, debian, "16", debian + "/16/bin", nil},
		{"takes the newest if the one that made the data is gone", path, debian, "15", debian + "/17/bin", nil},
		{"prefers the path", slices.Insert(slices.Clone(path), 0, debian+"/8/bin"), debian, "", debian + "/8/bin", nil},
		{"names all that is missing", nil, "", "", "", []string{"initdb and postgres, redis-server", "apt-get install postgresql redis-server"}},
		{"names only what is missing", path, "", "", "", []string{"not found: initdb and postgres;", "apt-get install postgresql"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			found, err := findServerPrograms(test.path, test.debian, test.version)
			if len(test.wantInMessage) > 0 {
				wantWords(t, err, test.wantInMessage...)
				return
			}
			if err != nil || filepath.Dir(found.postgres) != test.postgres || filepath.Dir(found.initdb) != test.postgres || filepath.Dir(found.redis) != path[1] {
				t.Errorf("got %+v, %v, want PostgreSQL in %s", found, err, test.postgres)
			}
		})
	}
}

// As root, PostgreSQL runs in a user namespace where that is allowed; this is what happens elsewhere.
func TestPrivateServersOfRootWithoutNamespaces(t *testing.T) {
	t.Parallel()
	users := postgresUsers()
	if os.Geteuid() != 0 || len(users) < 2 {
		t.Skip("not root, or no user postgres")
	}
	outside := users[1:]

	t.Run("run as the user postgres, on the same data", func(t *testing.T) {
		dir := folderIn(t, "/tmp") // any other TMPDIR may be closed to that user
		for i, users := range [][]runAs{outside, users, outside} {
			p, err := startPrivateServersAs(t.Context(), dir, true, io.Discard, users)
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				mark(t, p, "kept")
			}
			wantMark(t, p, "kept")
			stopServers(t, p)
		}
	})

	t.Run("need a folder that the user postgres can reach", func(t *testing.T) {
		closed := filepath.Join(tempFolder(t), "closed")
		if err := os.Mkdir(closed, 0o700); err != nil {
			t.Fatal(err)
		}
		p, err := startPrivateServersAs(t.Context(), filepath.Join(closed, "inner"), true, io.Discard, outside)
		if err == nil {
			p.stop()
		}
		wantWords(t, err, "refuses to run as root", "set DATA_DIR to a folder that the user postgres can reach", syscall.EACCES.Error())
	})

	t.Run("take no data from another user", func(t *testing.T) {
		dir := tempFolder(t)
		data := filepath.Join(dir, "postgres")
		if err := os.Mkdir(data, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(data, 12345, 12345); err != nil {
			t.Fatal(err)
		}
		wantWords(t, users[0].own(data, users), data+" belongs to the user with id 12345")
	})
}
