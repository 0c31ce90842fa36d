package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
)

// stores are a private PostgreSQL and Redis, and the harness's own connections to them.
type stores struct {
	dir       string
	servers   *process // TaskFlow's contestant, which can start them
	databases struct{ taskflow, river string }
	redisURL  string // what contestants use: the socket, or the port
	redis     *redis.Client
	taskflow  *pgx.Conn
	river     *pgx.Conn
	postmast  int // process id
}

// poolSize is the number of connections to PostgreSQL that each contestant may use.
const poolSize = 16

func databaseEnv(dsn string) string {
	return fmt.Sprintf("CONTEST_DATABASE=%s pool_max_conns=%d", dsn, poolSize)
}

func (s *stores) redisEnv() []string { return []string{"CONTEST_REDIS=" + s.redisURL} }

func (s *stores) taskflowEnv() []string {
	return []string{"CONTEST_REDIS=" + s.redisURL, databaseEnv(s.databases.taskflow)}
}

func (s *stores) riverEnv() []string { return []string{databaseEnv(s.databases.river)} }

// openStores starts both servers. PostgreSQL is durable, with its default settings. Redis keeps
// nothing on disk: --save "" --appendonly no.
func openStores(ctx context.Context, tcp bool) (_ *stores, err error) {
	s := &stores{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.dir, err = os.MkdirTemp("", "taskflow-bench-"); err != nil {
		return nil, err
	}
	if err := os.Chmod(s.dir, 0o711); err != nil { // PostgreSQL may have to run as another user
		return nil, err
	}
	// The servers end when this process closes their starter's input, however it ends.
	if s.servers, err = startProgram(context.WithoutCancel(ctx), "servers", []string{"taskflow", "servers", filepath.Join(s.dir, "data")}, nil); err != nil {
		return nil, err
	}
	line, err := s.servers.out.ReadBytes('\n')
	if err != nil {
		return nil, errors.New("the private servers did not start")
	}
	var at struct{ Database, Redis string }
	if err := json.Unmarshal(line, &at); err != nil {
		return nil, err
	}
	if err := s.openRedis(ctx, at.Redis, tcp); err != nil {
		return nil, err
	}
	return s, s.openDatabases(ctx, at.Database)
}

// openRedis turns off the append-only file and opens a port.
func (s *stores) openRedis(ctx context.Context, address string, tcp bool) error {
	options, err := redis.ParseURL(address)
	if err != nil {
		return err
	}
	s.redis, s.redisURL = redis.NewClient(options), address
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	host := free.Addr().String()
	free.Close()
	_, port, _ := net.SplitHostPort(host)
	for _, set := range [][2]string{{"appendonly", "no"}, {"save", ""}, {"bind", "127.0.0.1"}, {"port", port}} {
		if err := s.redis.ConfigSet(ctx, set[0], set[1]).Err(); err != nil {
			return fmt.Errorf("set %s of Redis: %w", set[0], err)
		}
	}
	if tcp {
		s.redisURL = (&url.URL{Scheme: "redis", Host: host}).String()
	}
	return nil
}

func (s *stores) openDatabases(ctx context.Context, dsn string) (err error) {
	s.databases.taskflow = dsn
	s.databases.river = strings.Replace(dsn, "dbname=taskflow", "dbname=river", 1)
	if s.taskflow, err = pgx.Connect(ctx, dsn); err != nil {
		return err
	}
	if _, err := s.taskflow.Exec(ctx, `CREATE DATABASE river`); err != nil {
		return err
	}
	if s.river, err = pgx.Connect(ctx, s.databases.river); err != nil {
		return err
	}
	var backend int
	if err := s.taskflow.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&backend); err != nil {
		return err
	}
	s.postmast = processOf(backend).parent
	return nil
}

func (s *stores) close() {
	if s.redis != nil {
		s.redis.Close()
	}
	for _, conn := range []*pgx.Conn{s.taskflow, s.river} {
		if conn != nil {
			conn.Close(context.Background())
		}
	}
	if s.servers != nil {
		s.servers.in.Close()
		s.servers.cmd.Wait()
	}
	os.RemoveAll(s.dir)
}

// reset empties both stores, and writes out what PostgreSQL would otherwise write during the next
// measurement.
func (s *stores) reset(ctx context.Context) error {
	if err := s.redis.FlushAll(ctx).Err(); err != nil {
		return fmt.Errorf("empty Redis: %w", err)
	}
	if _, err := s.taskflow.Exec(ctx, `TRUNCATE jobs`); err != nil {
		return fmt.Errorf("empty the table of jobs: %w", err)
	}
	var migrated bool
	if err := s.river.QueryRow(ctx, `SELECT to_regclass('river_job') IS NOT NULL`).Scan(&migrated); err != nil {
		return err
	}
	if migrated {
		if _, err := s.river.Exec(ctx, `TRUNCATE river_job`); err != nil {
			return fmt.Errorf("empty River's table of jobs: %w", err)
		}
	}
	_, err := s.taskflow.Exec(ctx, `CHECKPOINT`)
	return err
}

// counts is what the stores and a contestant have used up so far.
type counts struct {
	commands        float64 // Redis's, with those inside scripts
	reads           float64 // of Redis from sockets: about its round trips
	redisSeconds    float64 // CPU
	redisBytes      float64 // memory, without the buffers of clients
	ownSeconds      float64 // CPU
	postgresSeconds float64 // CPU
}

func (c counts) minus(d counts) counts {
	return counts{
		c.commands - d.commands, c.reads - d.reads, c.redisSeconds - d.redisSeconds, c.redisBytes - d.redisBytes,
		c.ownSeconds - d.ownSeconds, c.postgresSeconds - d.postgresSeconds,
	}
}

// count looks at everything. Asking is itself a command or two.
func (s *stores) count(ctx context.Context, pid int) (counts, error) {
	text, err := s.redis.InfoMap(ctx, "everything").Result()
	if err != nil {
		return counts{}, fmt.Errorf("ask Redis: %w", err)
	}
	number := func(section, name string) float64 {
		n, _ := strconv.ParseFloat(text[section][name], 64)
		return n
	}
	c := counts{
		reads:        number("Stats", "total_reads_processed"),
		redisSeconds: number("CPU", "used_cpu_user") + number("CPU", "used_cpu_sys"),
		redisBytes:   number("Memory", "used_memory") - number("Memory", "mem_clients_normal"),
		ownSeconds:   processOf(pid).seconds,
	}
	for _, stat := range text["Commandstats"] {
		calls, _, _ := strings.Cut(strings.TrimPrefix(stat, "calls="), ",")
		n, _ := strconv.ParseFloat(calls, 64)
		c.commands += n
	}
	c.postgresSeconds = s.postgresSeconds()
	return c, nil
}

// postgresSeconds is the CPU of the postmaster, of its processes and of those that have ended.
func (s *stores) postgresSeconds() float64 {
	root := processOf(s.postmast)
	sum := root.seconds + root.endedChildren
	pids, _ := filepath.Glob("/proc/[0-9]*")
	for _, path := range pids {
		pid, _ := strconv.Atoi(filepath.Base(path))
		if child := processOf(pid); child.parent == s.postmast {
			sum += child.seconds
		}
	}
	return sum
}

// processInfo is what /proc tells of a process; elsewhere than on Linux all is zero.
type processInfo struct {
	parent        int
	seconds       float64 // CPU
	endedChildren float64 // CPU of those waited for
}

func processOf(pid int) processInfo {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return processInfo{}
	}
	_, rest, _ := strings.Cut(string(text), ") ") // after the name: state, parent…
	field := strings.Fields(rest)
	if len(field) < 15 {
		return processInfo{}
	}
	parent, _ := strconv.Atoi(field[1])
	ticks := func(i int) float64 {
		n, _ := strconv.ParseFloat(field[i], 64)
		return n * (10 * time.Millisecond).Seconds()
	}
	return processInfo{parent, ticks(11) + ticks(12), ticks(13) + ticks(14)}
}
