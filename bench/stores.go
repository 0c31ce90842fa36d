package main

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"taskflow/bench/harness"
)

// stores are a private PostgreSQL and Redis, and the harness's own connections to them.
type stores struct {
	*harness.Servers
	databases struct{ taskflow, river string }
	redisURL  string // what contestants use: the socket, or the port
	taskflow  *pgx.Conn
	river     *pgx.Conn
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

// openStores starts both servers.
func openStores(ctx context.Context, tcp bool) (_ *stores, err error) {
	s := &stores{}
	if s.Servers, err = harness.StartServers(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := s.openPort(ctx, tcp); err != nil {
		return nil, err
	}
	return s, s.openDatabases(ctx)
}

// openPort lets Redis be reached by TCP too.
func (s *stores) openPort(ctx context.Context, tcp bool) error {
	s.redisURL = s.RedisURL
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	host := free.Addr().String()
	free.Close()
	_, port, _ := net.SplitHostPort(host)
	for _, set := range [][2]string{{"bind", "127.0.0.1"}, {"port", port}} {
		if err := s.Redis.ConfigSet(ctx, set[0], set[1]).Err(); err != nil {
			return fmt.Errorf("set %s of Redis: %w", set[0], err)
		}
	}
	if tcp {
		s.redisURL = (&url.URL{Scheme: "redis", Host: host}).String()
	}
	return nil
}

func (s *stores) openDatabases(ctx context.Context) (err error) {
	s.databases.taskflow = s.Database
	s.databases.river = strings.Replace(s.Database, "dbname=taskflow", "dbname=river", 1)
	if s.taskflow, err = pgx.Connect(ctx, s.databases.taskflow); err != nil {
		return err
	}
	if _, err := s.taskflow.Exec(ctx, `CREATE DATABASE river`); err != nil {
		return err
	}
	s.river, err = pgx.Connect(ctx, s.databases.river)
	return err
}

func (s *stores) close() {
	for _, conn := range []*pgx.Conn{s.taskflow, s.river} {
		if conn != nil {
			conn.Close(context.Background())
		}
	}
	s.Close()
}

// reset empties both stores, and writes out what PostgreSQL would otherwise write during the next
// measurement.
func (s *stores) reset(ctx context.Context) error {
	if err := s.Redis.FlushAll(ctx).Err(); err != nil {
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
	text, err := s.Redis.InfoMap(ctx, "everything").Result()
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
		ownSeconds:   harness.CPU(pid),
	}
	for _, stat := range text["Commandstats"] {
		calls, _, _ := strings.Cut(strings.TrimPrefix(stat, "calls="), ",")
		n, _ := strconv.ParseFloat(calls, 64)
		c.commands += n
	}
	c.postgresSeconds = s.PostgresCPU()
	return c, nil
}
