// Command river is the contestant github.com/riverqueue/river, on its driver for pgx.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"taskflow/bench/contest"
)

// noop is a job whose arguments stay as they are, so that no time is spent on decoding them.
type noop struct{ payload []byte }

func (noop) Kind() string { return "noop" }

func (n noop) MarshalJSON() ([]byte, error) { return n.payload, nil }

func (n *noop) UnmarshalJSON(text []byte) error {
	n.payload = append([]byte(nil), text...)
	return nil
}

type worker struct {
	river.WorkerDefaults[noop]
	run func([]byte)
}

func (w *worker) Work(_ context.Context, job *river.Job[noop]) error {
	w.run(job.Args.payload)
	return nil
}

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "river:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	pool, err := pgxpool.New(ctx, os.Getenv("CONTEST_DATABASE"))
	if err != nil {
		return err
	}
	driver := riverpgxv5.New(pool)
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: log})
	if err != nil {
		return err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return err
	}
	inserter, err := river.NewClient(driver, &river.Config{Logger: log})
	if err != nil {
		return err
	}

	contestant := contest.Contestant{
		Push: func(ctx context.Context, payload []byte) error {
			return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
				_, err := inserter.InsertTx(ctx, tx, noop{payload}, nil)
				return err
			})
		},
		Work: func(ctx context.Context, slots int, run func([]byte)) error {
			workers := river.NewWorkers()
			river.AddWorker(workers, &worker{run: run})
			client, err := river.NewClient(driver, &river.Config{
				// The two intervals are those of River's own benchmark, whose comment says that they
				// matter most; the defaults are 100 ms and 1 s.
				FetchCooldown:     2 * time.Millisecond,
				FetchPollInterval: 20 * time.Millisecond,
				Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: slots}},
				Workers:           workers,
				Logger:            log,
			})
			if err != nil {
				return err
			}
			if err := client.Start(context.WithoutCancel(ctx)); err != nil {
				return err
			}
			<-ctx.Done()
			return client.Stop(context.WithoutCancel(ctx))
		},
		Empty: func(ctx context.Context) (empty bool, err error) {
			err = pool.QueryRow(ctx, `SELECT NOT EXISTS (SELECT FROM river_job
				WHERE state IN ('available', 'pending', 'retryable', 'running', 'scheduled'))`).Scan(&empty)
			return empty, err
		},
	}
	contestant.Serve()
	return nil
}
