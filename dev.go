package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// serverStartLimit is the time to the first answer; recovery from a crash takes its part of it.
	serverStartLimit = time.Minute

	// maxSocketPath is the longest path of a Unix socket, in bytes: Linux has room for 107, macOS for 103.
	maxSocketPath = 103

	// debianPostgres holds a folder for each installed major version, whose bin is not on PATH.
	debianPostgres = "/usr/lib/postgresql"
)

// privateServers are a PostgreSQL and a Redis that live and die with this process.
// They listen on Unix sockets only, in a folder that no other user can enter.
type privateServers struct {
	databaseURL string // keyword DSN; the user taskflow is a superuser
	redisURL    string

	dir      string // holds everything below, and the sockets unless its path is too long
	durable  bool
	progress io.Writer
	sockets  string
	locks    []*os.File // of dir, and of sockets when it is not in dir
	forks    forker
	postgres *childServer // nil until started
	redis    *childServer // nil until started
	watchers sync.WaitGroup
	gone     chan error // servers that ended by themselves
	stopping atomic.Bool
	stopOnce sync.Once
	stopErr  error
}

// startPrivateServers returns when both servers answer; ctx bounds the start, not their life. dir is
// made if absent and belongs to one process at a time.
//
// A durable start keeps its data in dir, survives kill -9 of any process, and goes on with what it
// finds at the next start. Any other start is for tests: dir must be empty, nothing is ever synced to
// disk, and stop removes dir.
func startPrivateServers(ctx context.Context, dir string, durable bool, progress io.Writer) (*privateServers, error) {
	return startPrivateServersAs(ctx, dir, durable, progress, postgresUsers())
}

// startPrivateServersAs runs PostgreSQL, which refuses to be root, as the first of users that works.
func startPrivateServersAs(ctx context.Context, dir string, durable bool, progress io.Writer, users []runAs) (_ *privateServers, err error) {
	p := &privateServers{durable: durable, progress: progress, forks: newForker(), gone: make(chan error, 2)}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.stop())
		}
	}()
	if err := p.takeFolders(dir); err != nil {
		return nil, err
	}
	programs, err := findServerPrograms(filepath.SplitList(os.Getenv("PATH")), debianPostgres, postgresVersion(p.dir))
	if err != nil {
		return nil, err
	}

	ctx, cancel := context.WithTimeoutCause(ctx, serverStartLimit, fmt.Errorf("no answer within %v", serverStartLimit))
	defer cancel()
	var starts sync.WaitGroup
	failures := make(chan error, 2)
	starts.Go(func() {
		if err := p.startPostgres(ctx, programs, users); err != nil {
			failures <- err
			cancel()
		}
	})
	starts.Go(func() {
		if err := p.startRedis(ctx, programs.redis); err != nil {
			failures <- err
			cancel()
		}
	})
	starts.Wait()
	if len(failures) > 0 {
		return nil, <-failures // the first; a second one only says that it was cancelled
	}
	for _, c := range []*childServer{p.postgres, p.redis} {
		p.watchers.Go(func() {
			<-c.done
			if !p.stopping.Load() {
				p.gone <- fmt.Errorf("%s ended by itself (%v); see %s", c.name, c.cmd.ProcessState, c.log)
			}
		})
	}
	return p, nil
}

// exited has an error for each server that ends by itself; the other one goes on. stop closes it.
func (p *privateServers) exited() <-chan error { return p.gone }

// stop ends both servers in order, and after a start that was not durable removes their folder.
// Calling it again, or at the same time, waits for the first call and returns its error.
func (p *privateServers) stop() error {
	p.stopOnce.Do(func() {
		p.stopping.Store(true)
		// A throw-away PostgreSQL need not write a checkpoint. SIGKILL is the last resort for any: it
		// leaves a shared memory segment behind.
		postgres, redis := []os.Signal{syscall.SIGQUIT, syscall.SIGKILL}, []os.Signal{syscall.SIGKILL}
		if p.durable {
			postgres = slices.Insert(postgres, 0, os.Signal(syscall.SIGINT))
			redis = slices.Insert(redis, 0, os.Signal(syscall.SIGTERM))
		}
		var postgresErr, redisErr, removeErr error
		var stops sync.WaitGroup
		stops.Go(func() { postgresErr = p.postgres.end(postgres...) })
		stops.Go(func() { redisErr = p.redis.end(redis...) })
		stops.Wait()
		close(p.forks)
		if len(p.locks) > 0 { // else the folders belong to somebody else
			removeErr = os.RemoveAll(p.sockets)
			if !p.durable {
				removeErr = cmp.Or(os.RemoveAll(p.dir), removeErr)
			}
		}
		for _, lock := range p.locks {
			unlockFolder(lock)
		}
		p.stopErr = errors.Join(postgresErr, redisErr, removeErr)
		if postgresErr == nil && redisErr == nil {
			p.watchers.Wait()
			close(p.gone)
		}
	})
	return p.stopErr
}

// takeFolders makes the data folder and the folder for sockets, and locks them against other processes.
func (p *privateServers) takeFolders(dir string) (err error) {
	if p.dir, err = filepath.Abs(dir); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return fmt.Errorf("make data folder: %w", err)
	}
	lock, err := lockFolder(p.dir)
	if err != nil {
		return err
	}
	if entries, err := os.ReadDir(p.dir); !p.durable && (err != nil || len(entries) > 1) {
		os.Remove(lock.Name())
		unlockFolder(lock)
		return cmp.Or(err, fmt.Errorf("throw-away folder %s is not empty", p.dir))
	}
	p.locks = append(p.locks, lock)

	inDir := filepath.Join(p.dir, "sockets")
	if p.sockets, err = socketFolder(inDir, os.TempDir()); err != nil {
		return err
	}
	if p.sockets != inDir {
		lock, err := lockFolder(p.sockets)
		if err != nil {
			return err
		}
		p.locks = append(p.locks, lock)
	}
	quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(p.sockets)
	p.databaseURL = "host='" + quoted + "' port=5432 user=taskflow dbname=taskflow"
	p.redisURL = (&url.URL{Scheme: "unix", Path: p.redisSocket()}).String()
	return nil
}

// socketFolder makes the folder for both sockets: want, or a new one in temp when the path would be too
// long for a socket or has a comma, which separates hosts in a DSN.
func socketFolder(want, temp string) (string, error) {
	const prefix = "taskflow-sockets-"
	fits := func(folder string) bool {
		return len(folder)+len("/.s.PGSQL.5432") <= maxSocketPath && !strings.Contains(folder, ",")
	}
	if fits(want) {
		if err := os.MkdirAll(want, 0o700); err != nil {
			return "", fmt.Errorf("make folder for sockets: %w", err)
		}
		return want, nil
	}
	if !fits(filepath.Join(temp, prefix+"4294967295")) {
		return "", fmt.Errorf("the data folder and the temporary folder %s have paths too long for Unix sockets: set TMPDIR to a short one, like /tmp", temp)
	}
	sweepPrivateServers(temp, prefix)
	folder, err := os.MkdirTemp(temp, prefix)
	if err != nil {
		return "", fmt.Errorf("make folder for sockets: %w", err)
	}
	return folder, nil
}

// lockFolder takes dir for this process. The lock goes with the returned file or with the process, so
// that a killed run leaves none; the pid in the file is for people, and for sweepPrivateServers.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data folder: %w", err)
	}
	free, err := tryLock(f)
	if err == nil && !free {
		owner, _ := io.ReadAll(io.LimitReader(f, 20))
		err = fmt.Errorf("data folder %s is in use by process %s; stop it or set DATA_DIR to another folder", dir, cmp.Or(string(owner), "(just started)"))
	} else if err == nil {
		if err = f.Truncate(0); err == nil {
			_, err = f.WriteString(strconv.Itoa(os.Getpid()))
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func unlockFolder(lock *os.File) {
	lock.Truncate(0)
	unlock(lock)
	lock.Close()
}

// sweepPrivateServers removes the throw-away folders prefix… in parent that killed processes left. What
// cannot be removed is left to the next sweep.
func sweepPrivateServers(parent, prefix string) {
	entries, _ := os.ReadDir(parent)
	for _, entry := range entries {
		if entry.IsDir() && strings.HasPrefix(entry.Name(), prefix) {
			sweepFolder(filepath.Join(parent, entry.Name()))
		}
	}
}

func sweepFolder(dir string) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR, 0)
	if err != nil {
		return // another user's, or about to be locked
	}
	defer lock.Close()
	// Without a pid it is about to be locked too, and its owner would find it taken.
	if pid, err := io.ReadAll(io.LimitReader(lock, 20)); err != nil || len(pid) == 0 {
		return
	}
	if free, err := tryLock(lock); err != nil || !free {
		return
	}
	// The lock file goes last, so that a removal that fails here is tried again.
	if os.RemoveAll(filepath.Join(dir, "postgres")) == nil && os.RemoveAll(filepath.Join(dir, "redis")) == nil {
		os.RemoveAll(dir)
	}
}

// serverPrograms are the paths of the programs to run.
type serverPrograms struct{ initdb, postgres, redis string }

// findServerPrograms looks in the folders of path and then in Debian's, newest version first. The Debian folder
// of version, which made the data, is tried before all others. initdb and postgres come from one folder,
// so that they are the same version.
func findServerPrograms(path []string, debian, version string) (serverPrograms, error) {
	installed, _ := filepath.Glob(filepath.Join(debian, "*", "bin"))
	number := func(bin string) float64 {
		n, _ := strconv.ParseFloat(filepath.Base(filepath.Dir(bin)), 64)
		return n
	}
	slices.SortFunc(installed, func(a, b string) int { return cmp.Compare(number(b), number(a)) })
	folders := slices.Concat(path, installed)
	if version != "" {
		folders = slices.Insert(folders, 0, filepath.Join(debian, version, "bin"))
	}

	var found serverPrograms
	for _, folder := range folders {
		initdb, noInitdb := exec.LookPath(filepath.Join(folder, "initdb"))
		postgres, noPostgres := exec.LookPath(filepath.Join(folder, "postgres"))
		if found.postgres == "" && noInitdb == nil && noPostgres == nil {
			found.initdb, found.postgres = initdb, postgres
		}
		redis, noRedis := exec.LookPath(filepath.Join(folder, "redis-server"))
		if found.redis == "" && noRedis == nil {
			found.redis = redis
		}
	}
	missing, packages := "", ""
	if found.postgres == "" {
		missing, packages = "initdb and postgres, ", " postgresql"
	}
	if found.redis == "" {
		missing, packages = missing+"redis-server, ", packages+" redis-server"
	}
	if missing != "" {
		return found, fmt.Errorf("programs not found: %s; on Debian and Ubuntu: apt-get install%s", strings.TrimSuffix(missing, ", "), packages)
	}
	return found, nil
}

func (p *privateServers) startPostgres(ctx context.Context, programs serverPrograms, users []runAs) error {
	postgres := &privatePostgres{
		url: p.databaseURL, dir: p.dir, sockets: p.sockets, durable: p.durable, progress: p.progress,
		initdb: programs.initdb, postgres: programs.postgres,
	}
	err := postgres.start(ctx, p.forks, users)
	p.postgres = postgres.child
	return err
}

func (p *privateServers) redisSocket() string { return filepath.Join(p.sockets, "redis.sock") }

func (p *privateServers) startRedis(ctx context.Context, program string) error {
	// Unlike PostgreSQL, Redis does not notice another one that writes the same files.
	for deadline := time.Now().Add(leftoverLimit); ; time.Sleep(100 * time.Millisecond) {
		conn, err := net.Dial("unix", p.redisSocket())
		if err != nil {
			break
		}
		conn.Close()
		if time.Now().After(deadline) {
			return fmt.Errorf("the Redis of an earlier run still serves %s; stop it", p.redisSocket())
		}
	}
	data := filepath.Join(p.dir, "redis")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return fmt.Errorf("make Redis folder: %w", err)
	}
	log, err := openChildLog(filepath.Join(p.dir, "redis.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	appendonly := "no"
	if p.durable {
		appendonly = "yes"
	}
	p.redis, err = p.forks.start("Redis", self(), syscall.SIGKILL, data, log, program,
		"--port", "0", "--unixsocket", p.redisSocket(), "--unixsocketperm", "700", "--dir", data,
		"--save", "", "--appendonly", appendonly, "--maxmemory-policy", "noeviction")
	if err != nil {
		return err
	}
	return p.redis.waitUntil(ctx, p.redisAnswers)
}

// redisAnswers is false while Redis still loads its data.
func (p *privateServers) redisAnswers(context.Context) (bool, error) {
	conn, err := net.Dial("unix", p.redisSocket())
	if err != nil {
		return false, nil
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
		return false, nil
	}
	reply := make([]byte, len("+PONG"))
	io.ReadFull(conn, reply)
	return string(reply) == "+PONG", nil
}
