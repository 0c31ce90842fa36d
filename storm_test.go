package main

import (
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
)

// stormEnv makes this test binary a worker process of TestAStormOfKillsLosesAndDoublesNothing.
const stormEnv = "TASKFLOW_STORM_DATABASE"

// stormWorker runs jobs until it is killed. Each has an effect that shows when it happens twice.
func stormWorker() {
	cfg := config{databaseURL: secret(os.Getenv(stormEnv)), databaseConns: 8, redisURL: secret(os.Getenv("TASKFLOW_STORM_REDIS")), redisSpace: "storm"}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s, err := newServer(ctx, cfg, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		panic(err)
	}
	defer s.close()
	s.outbox.kinds["storm"] = jobKind{name: "storm", timeout: 10 * time.Second, run: func(ctx context.Context, j job, effect *pgx.Batch) error {
		sleep(ctx, rand.N(20*time.Millisecond))
		effect.Queue(`INSERT INTO storm (job) VALUES ($1)`, j.ID)
		return nil
	}}
	s.outbox.work(ctx, 16, time.Second)
}

// Redis is killed three times and flushed once, worker processes are killed every second, and
// still each of the jobs has its effect exactly once, soon after the last kill.
func TestAStormOfKillsLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	jobs := 20_000
	if testing.Short() {
		jobs = 2_000
	}
	database := newTestDatabase(t)
	dir, err := os.MkdirTemp("", "tfs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "r.sock")
	startRedis := func() *exec.Cmd {
		os.Remove(socket)
		cmd := exec.Command("redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no", "--dir", dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	kill := func(cmd *exec.Cmd) { cmd.Process.Kill(); cmd.Wait() }
	store := startRedis()
	defer func() { kill(store) }()
	startWorker := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), stormEnv+"="+string(database), "TASKFLOW_STORM_REDIS=unix://"+socket)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}

	s, err := newServer(t.Context(), config{databaseURL: database, databaseConns: 8, redisURL: secret("unix://" + socket), redisSpace: "storm", jwtSecret: "x"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if _, err := execute(t.Context(), s.db, `CREATE TABLE storm (job uuid)`); err != nil {
		t.Fatal(err)
	}
	var workers [3]*exec.Cmd
	for i := range workers {
		workers[i] = startWorker()
	}
	defer func() {
		for _, w := range workers {
			kill(w)
		}
	}()

	made := make(chan error, 1)
	go func() { // 100 at a time, each batch a transaction, over the whole storm
		for n := 0; n < jobs; n += 100 {
			b := &pgx.Batch{}
			var pushes []job
			for range 100 {
				j, err := queueJob(b, newJob{kind: "storm", payload: n, priority: rand.N(priorities)})
				if err != nil {
					made <- err
					return
				}
				pushes = append(pushes, j)
			}
			if err := s.db.send(context.Background(), b); err != nil {
				made <- err
				return
			}
			s.outbox.pushSoon(pushes...)
			time.Sleep(60 * time.Millisecond)
		}
		made <- nil
	}()

	for second := range 12 {
		time.Sleep(time.Second)
		victim := rand.N(len(workers))
		kill(workers[victim])
		workers[victim] = startWorker()
		switch second {
		case 2, 5, 8:
			kill(store)
			time.Sleep(300 * time.Millisecond)
			store = startRedis()
		case 10:
			client := redis.NewClient(&redis.Options{Network: "unix", Addr: socket})
			if err := client.FlushAll(t.Context()).Err(); err != nil {
				t.Error(err)
			}
			client.Close()
		}
	}
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	calm := time.Now()
	left := func() int64 {
		n, err := queryValue[int64](t.Context(), s.db, `SELECT count(*) FROM jobs WHERE dead_at IS NULL`)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for left() > 0 && time.Since(calm) < 3*time.Minute {
		time.Sleep(100 * time.Millisecond)
	}
	type outcome struct{ Effects, Jobs, Dead, Left int64 }
	got, err := queryOne[outcome](t.Context(), s.db, `
		SELECT (SELECT count(*) FROM storm) AS effects, (SELECT count(DISTINCT job) FROM storm) AS jobs,
			(SELECT count(*) FROM jobs WHERE dead_at IS NOT NULL) AS dead, (SELECT count(*) FROM jobs WHERE dead_at IS NULL) AS left`)
	if err != nil {
		t.Fatal(err)
	}
	if want := (outcome{int64(jobs), int64(jobs), 0, 0}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	t.Logf("%d jobs, 12 kills of workers, 3 of Redis, 1 FLUSHALL: all done %v after the last", jobs, time.Since(calm).Round(time.Millisecond))
}
