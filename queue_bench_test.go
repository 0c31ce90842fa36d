//go:build contest

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
)

// With the tag contest the test binary is a program for bench/, which puts this queue and its peers
// under the same loads; it ends before any test would start. Contestant, which takes the orders and
// measures, comes from bench/contest/contest.go: the harness compiles that file in here.
//
//	taskflow engine        the queue alone
//	taskflow outbox        jobs that are made in a transaction, run, and end in one
//	taskflow servers DIR   the private servers of a contest, until standard input ends
func init() {
	if err := runContest(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "taskflow:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func runContest(ctx context.Context, args []string) error {
	switch {
	case len(args) == 2 && args[0] == "servers":
		return serveContest(ctx, args[1])
	case len(args) == 1 && args[0] == "engine":
		q, err := contestQueue("engine")
		if err != nil {
			return err
		}
		engineContestant(q).Serve()
	case len(args) == 1 && args[0] == "outbox":
		q, err := contestQueue("outbox")
		if err != nil {
			return err
		}
		db, err := contestDatabase(ctx)
		if err != nil {
			return err
		}
		outboxContestant(db, q).Serve()
	default:
		return fmt.Errorf("unknown arguments %q", args)
	}
	return nil
}

// serveContest runs a durable PostgreSQL, with the tables of this program, and a Redis.
func serveContest(ctx context.Context, dir string) error {
	servers, err := startPrivateServers(ctx, dir, true, os.Stderr)
	if err != nil {
		return err
	}
	defer servers.stop()
	if err := migrate(ctx, secret(servers.databaseURL), slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	json.NewEncoder(os.Stdout).Encode(map[string]string{"database": servers.databaseURL, "redis": servers.redisURL})
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func contestQueue(space string) (*queue, error) {
	options, err := redis.ParseURL(os.Getenv("CONTEST_REDIS"))
	if err != nil {
		return nil, err
	}
	options.ContextTimeoutEnabled = true
	return newQueue(redis.NewClient(options), space, "default"), nil
}

// contestDatabase has all connections open: a busy machine must not make the service's short patience
// the result. How many they are stands in the address.
func contestDatabase(ctx context.Context) (*database, error) {
	db, err := openDatabase(ctx, os.Getenv("CONTEST_DATABASE"), 0)
	if err != nil {
		return nil, err
	}
	var open []*pgxpool.Conn
	for deadline := time.Now().Add(time.Minute); len(open) < int(db.pool.Config().MaxConns); {
		c, err := db.pool.Acquire(ctx)
		if err == nil {
			open = append(open, c)
		} else if time.Now().After(deadline) {
			return nil, err
		}
	}
	for _, c := range open {
		c.Release()
	}
	return db, nil
}

func engineContestant(q *queue) *Contestant {
	return &Contestant{
		Push: func(ctx context.Context, payload []byte) error {
			return q.push(ctx, job{ID: newUUID().String(), Kind: "noop", Priority: normalPriority, Payload: payload})
		},
		Work: func(ctx context.Context, slots int, run func([]byte)) error {
			timeout := func(string) time.Duration { return time.Minute }
			handle := func(_ context.Context, j job, end func(ending)) {
				run(j.Payload)
				end(done)
			}
			q.work(ctx, slots, time.Second, timeout, handle, func(err error) { fmt.Fprintln(os.Stderr, "engine:", err) })
			return nil
		},
		Empty: func(ctx context.Context) (bool, error) {
			n, err := q.redis.HLen(ctx, q.prefix+"jobs").Result()
			return n == 0, err
		},
	}
}

func outboxContestant(db *database, q *queue) *Contestant {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	pushing := newOutbox(db, q, log, nil)
	engine := engineContestant(q)
	return &Contestant{
		Push: func(ctx context.Context, payload []byte) error {
			b := &pgx.Batch{}
			j, err := queueJob(b, newJob{kind: "noop", priority: normalPriority, payload: json.RawMessage(payload)})
			if err != nil {
				return err
			}
			if err := db.send(ctx, b); err != nil {
				return err
			}
			pushing.pushSoon(j)
			return nil
		},
		Work: func(ctx context.Context, slots int, run func([]byte)) error {
			noop := jobKind{name: "noop", timeout: time.Minute, run: func(_ context.Context, j job, _ *pgx.Batch) error {
				run(j.Payload)
				return nil
			}}
			newOutbox(db, q, log, []jobKind{noop}).work(ctx, slots, time.Second)
			return nil
		},
		Empty: func(ctx context.Context) (bool, error) {
			rows, err := queryValue[bool](ctx, db, `SELECT EXISTS (SELECT FROM jobs)`)
			if rows || err != nil {
				return false, err
			}
			return engine.Empty(ctx)
		},
	}
}
