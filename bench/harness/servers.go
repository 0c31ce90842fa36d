package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
)

// Servers are a private PostgreSQL, durable and with its default settings, and a private Redis that
// keeps nothing on disk (--save "" --appendonly no). Both listen on Unix sockets.
type Servers struct {
	Dir      string // for anything; goes with the servers
	Database string // keyword DSN of the database taskflow, which has TaskFlow's tables; the user is a superuser
	RedisURL string
	Redis    *redis.Client

	starter  *exec.Cmd
	hold     io.Closer // the starter's input: it ends the servers when this is closed, by whatever
	postgres int       // process id of the postmaster
	redis    int
}

// StartServers starts both; BuildContestant has made the program that does it. ctx bounds the start only.
func StartServers(ctx context.Context) (_ *Servers, err error) {
	s := &Servers{}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.Dir, err = os.MkdirTemp("", "taskflow-bench-"); err != nil {
		return nil, err
	}
	if err := os.Chmod(s.Dir, 0o711); err != nil { // PostgreSQL may have to run as another user
		return nil, err
	}
	starter := exec.Command(filepath.Join(Programs, "taskflow"), "servers", filepath.Join(s.Dir, "data"))
	starter.Stderr = os.Stderr
	starter.SysProcAttr = Apart()
	in, err := starter.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := starter.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := starter.Start(); err != nil {
		return nil, fmt.Errorf("start the private servers: %w", err)
	}
	s.starter, s.hold = starter, in
	var at struct{ Database, Redis string }
	if err := json.NewDecoder(out).Decode(&at); err != nil {
		return nil, errors.New("the private servers did not start")
	}
	s.Database, s.RedisURL = at.Database, at.Redis
	if err := s.openRedis(ctx); err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, s.Database)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	var backend int
	if err := conn.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&backend); err != nil {
		return nil, err
	}
	s.postgres = processOf(backend).parent
	return s, nil
}

func (s *Servers) openRedis(ctx context.Context) error {
	options, err := redis.ParseURL(s.RedisURL)
	if err != nil {
		return err
	}
	s.Redis = redis.NewClient(options)
	for setting, value := range map[string]string{"appendonly": "no", "save": ""} {
		if err := s.Redis.ConfigSet(ctx, setting, value).Err(); err != nil {
			return fmt.Errorf("set %s of Redis: %w", setting, err)
		}
	}
	info, err := s.Redis.InfoMap(ctx, "server").Result()
	if err != nil {
		return fmt.Errorf("ask Redis: %w", err)
	}
	s.redis, err = strconv.Atoi(info["Server"]["process_id"])
	return err
}

// Apart puts a child into a process group of its own, so that Ctrl-C in a terminal reaches only this
// process, which ends its children in order.
func Apart() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// Close ends the servers and removes the folder.
func (s *Servers) Close() {
	if s.Redis != nil {
		s.Redis.Close()
	}
	if s.starter != nil {
		s.hold.Close()
		s.starter.Wait()
	}
	os.RemoveAll(s.Dir)
}

// PostgresLog is the file that PostgreSQL logs to.
func (s *Servers) PostgresLog() string { return filepath.Join(s.Dir, "data", "postgres.log") }

// PostgresCPU is the seconds of the postmaster, of its processes and of those that have ended.
func (s *Servers) PostgresCPU() float64 {
	root := processOf(s.postgres)
	sum := root.seconds + root.endedChildren
	for _, pid := range childrenOf(s.postgres) {
		sum += processOf(pid).seconds
	}
	return sum
}

// PostgresMemory is the bytes of all processes of PostgreSQL, what they share counted once.
func (s *Servers) PostgresMemory() float64 {
	sum := proportional(s.postgres)
	for _, pid := range childrenOf(s.postgres) {
		sum += proportional(pid)
	}
	return sum
}

// RedisCPU is the seconds of Redis.
func (s *Servers) RedisCPU() float64 { return CPU(s.redis) }

// RedisMemory is the resident bytes of Redis.
func (s *Servers) RedisMemory() float64 { return Resident(s.redis) }

// RedisVersion is empty when Redis does not answer.
func (s *Servers) RedisVersion(ctx context.Context) string {
	info, _ := s.Redis.InfoMap(ctx, "server").Result()
	return info["Server"]["redis_version"]
}
