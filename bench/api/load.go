package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"taskflow/bench/harness"
)

// sample is one measurement.
type sample struct {
	requests float64
	rate     float64 // a second
	p50, p99 float64 // milliseconds; wrk corrects them for requests it would have sent while it waited
	refused  float64 // answers that were no 2xx or 3xx
	broken   float64 // connections that failed, and answers that took longer than patience
	own      float64 // CPU of the service, microseconds a request
	redis    float64
	postgres float64
	memory   memory
}

// memory is in bytes: the most the service and Redis had, and what PostgreSQL had halfway.
type memory struct{ own, redis, postgres float64 }

const (
	warmUp   = 1               // seconds of the same load before each measurement
	brief    = 3               // seconds, at most, of one that no budget speaks of
	patience = 5 * time.Second // of wrk with an answer
)

// load has wrk send requests to a service by so many connections, and notes the measurement.
func (b *bench) load(ctx context.Context, s *service, r row, requests []string) error {
	file := filepath.Join(b.servers.Dir, "requests")
	if err := os.WriteFile(file, []byte(strings.Join(requests, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	if err := b.quiet(ctx); err != nil {
		return err
	}
	if _, err := b.wrk(ctx, s, r.connections, warmUp, file); err != nil {
		return err
	}
	s.complaints()
	seconds := b.secondsFor(r)
	profiled := b.profiling(ctx, s, r, seconds)
	var got wrkSummary
	m, err := b.measured(s.pid(), seconds, func() (requests float64, err error) {
		got, err = b.wrk(ctx, s, r.connections, seconds, file)
		return got.Requests, err
	})
	if err = errors.Join(err, profiled()); err != nil {
		return err
	}
	m.rate, m.p50, m.p99 = got.Requests/(got.Us/1e6), got.P50/1e3, got.P99/1e3
	m.refused, m.broken = got.Status, got.Socket+got.Timeout
	b.results.add(r, b.round, m)
	told := ""
	if m.refused+m.broken > 0 {
		told = fmt.Sprintf("; %.0f refused, %.0f broken", m.refused, m.broken)
		if why := s.complaints(); why != "" {
			told += ", such as\n" + why
		}
		b.note(fmt.Errorf("%v%s", r, told))
	}
	b.say("%-75v %6.0f/s  p50 %7.2f ms  p99 %7.2f ms%s", r, m.rate, m.p50, m.p99, told)
	return nil
}

func (b *bench) secondsFor(r row) int {
	if r.connections == usual {
		return b.seconds
	}
	return min(b.seconds, brief)
}

// measured runs a load of so many seconds and says what it cost. The load returns how many requests it made.
func (b *bench) measured(pid, seconds int, load func() (float64, error)) (sample, error) {
	done := make(chan struct{})
	peak := make(chan memory)
	go func() { peak <- b.watchMemory(pid, seconds, done) }()
	own, redis, postgres := harness.CPU(pid), b.servers.RedisCPU(), b.servers.PostgresCPU()
	n, err := load()
	own, redis, postgres = harness.CPU(pid)-own, b.servers.RedisCPU()-redis, b.servers.PostgresCPU()-postgres
	close(done)
	m := sample{requests: n, own: 1e6 * own / n, redis: 1e6 * redis / n, postgres: 1e6 * postgres / n, memory: <-peak}
	if err == nil && n == 0 {
		err = errors.New("nothing was answered")
	}
	return m, err
}

func (b *bench) watchMemory(pid, seconds int, done <-chan struct{}) (m memory) {
	often := time.NewTicker(200 * time.Millisecond)
	defer often.Stop()
	halfway := time.After(time.Duration(seconds) * time.Second / 2) // once: it costs PostgreSQL's time
	for {
		select {
		case <-often.C:
			m.own, m.redis = max(m.own, harness.Resident(pid)), max(m.redis, b.servers.RedisMemory())
		case <-halfway:
			m.postgres = b.servers.PostgresMemory()
		case <-done:
			return m
		}
	}
}

// wrkSummary is what load.lua prints.
type wrkSummary struct{ Requests, Us, P50, P99, Status, Socket, Timeout float64 }

// wrk sends the requests of a file (see load.lua) with one thread, as many as connections allow.
func (b *bench) wrk(ctx context.Context, s *service, connections, seconds int, file string) (sum wrkSummary, err error) {
	cmd := exec.CommandContext(ctx, "wrk", "-t1", fmt.Sprintf("-c%d", connections), fmt.Sprintf("-d%ds", seconds),
		"--timeout", patience.String(), "-s", "api/load.lua", "-H", "Authorization: Bearer "+b.world.token, s.url, "--", file)
	cmd.SysProcAttr = harness.Apart()
	out, err := cmd.CombinedOutput()
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	if err == nil {
		err = json.Unmarshal(lines[len(lines)-1], &sum)
	}
	if err != nil {
		return sum, fmt.Errorf("wrk: %w\n%s", err, out)
	}
	return sum, nil
}

// profiling starts a CPU profile of the service if one is wanted; the function it returns waits for its end.
func (b *bench) profiling(ctx context.Context, s *service, r row, seconds int) (wait func() error) {
	if b.profile == "" || s.profile == "" || b.round > 0 {
		return func() error { return nil }
	}
	result := make(chan error, 1)
	go func() {
		result <- func() error {
			req, err := http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", s.profile, seconds), nil)
			if err != nil {
				return err
			}
			resp, err := client.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			file, err := os.Create(filepath.Join(b.profile, r.file()))
			if err != nil {
				return err
			}
			_, err = io.Copy(file, resp.Body)
			return errors.Join(err, file.Close())
		}()
	}()
	return func() error { return <-result }
}

var notInNames = regexp.MustCompile(`[^a-zA-Z0-9]+`)

// file is the name of the row's profile.
func (r row) file() string {
	return strings.Trim(notInNames.ReplaceAllString(r.String(), "-"), "-") + ".prof"
}

// transact has pgbench run a script by so many connections, as prepared statements. Its first seconds
// do not count: a new connection has caches of its own to fill.
func (b *bench) transact(ctx context.Context, database string, r row, script string) error {
	file := filepath.Join(b.servers.Dir, "script")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		return err
	}
	if err := b.quiet(ctx); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, b.pgbench, "-M", "prepared", "-n", "-j", "1", "-c", strconv.Itoa(r.connections), "-T", "3600", "-P", "1",
		"-f", file, b.dsn(database))
	cmd.SysProcAttr = harness.Apart()
	out, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer cmd.Wait()
	defer cmd.Process.Kill() // pgbench counts its time from before it connects: it is ended once it has run long enough
	lines := bufio.NewScanner(out)
	if _, _, err := follow(lines, warmUp+r.connections/16); err != nil {
		return fmt.Errorf("%v: %w", r, err)
	}
	var seconds float64
	m, err := b.measured(0, b.secondsFor(r), func() (transactions float64, err error) {
		transactions, seconds, err = follow(lines, b.secondsFor(r))
		return transactions, err
	})
	if err != nil {
		return fmt.Errorf("%v: %w", r, err)
	}
	m.rate = m.requests / seconds
	m.p50, m.p99, m.own, m.memory.own = math.NaN(), math.NaN(), math.NaN(), math.NaN()
	b.results.add(r, b.round, m)
	b.say("%-75v %6.0f/s", r, m.rate)
	return nil
}

// follow adds up so many of the lines in which pgbench tells each second of its progress.
func follow(lines *bufio.Scanner, n int) (transactions, seconds float64, err error) {
	for n > 0 {
		if !lines.Scan() {
			return 0, 0, errors.New("pgbench ended early")
		}
		var at, tps float64
		if _, err := fmt.Sscanf(lines.Text(), "progress: %f s, %f tps", &at, &tps); err == nil {
			transactions, seconds, n = transactions+tps, seconds+1, n-1
		} else if strings.Contains(lines.Text(), "error:") {
			return 0, 0, errors.New(lines.Text())
		}
	}
	return transactions, seconds, nil
}

// findPgbench looks on PATH and then where Debian keeps it.
func findPgbench() (string, error) {
	if program, err := exec.LookPath("pgbench"); err == nil {
		return program, nil
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench")
	if len(found) == 0 {
		return "", errors.New("pgbench is missing; on Debian and Ubuntu: apt-get install postgresql")
	}
	return found[len(found)-1], nil
}

// quiet has PostgreSQL write now what it would otherwise write during the next measurement.
func (b *bench) quiet(ctx context.Context) error {
	_, err := b.db.Exec(ctx, `CHECKPOINT`)
	return err
}
