// Command asynq is the contestant github.com/hibiken/asynq.
package main

import (
	"context"
	"flag"
	"net/url"
	"os"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"taskflow/bench/contest"
)

func main() {
	check := flag.Duration("check", time.Second, "TaskCheckInterval; the default is asynq's")
	flag.Parse()
	address, err := url.Parse(os.Getenv("CONTEST_REDIS"))
	if err != nil {
		panic(err)
	}
	// As many connections as callers and slots could use at once.
	options := asynq.RedisClientOpt{Network: "tcp", Addr: address.Host, PoolSize: 64}
	if address.Scheme == "unix" {
		options.Network, options.Addr = "unix", address.Path
	}
	client := asynq.NewClient(options)
	plain := options.MakeRedisClient().(*redis.Client)

	contestant := contest.Contestant{
		Push: func(ctx context.Context, payload []byte) error {
			_, err := client.EnqueueContext(ctx, asynq.NewTask("noop", payload))
			return err
		},
		Work: func(ctx context.Context, slots int, run func([]byte)) error {
			server := asynq.NewServer(options, asynq.Config{
				Concurrency: slots, TaskCheckInterval: *check, LogLevel: asynq.ErrorLevel,
			})
			err := server.Start(asynq.HandlerFunc(func(_ context.Context, task *asynq.Task) error {
				run(task.Payload())
				return nil
			}))
			if err != nil {
				return err
			}
			<-ctx.Done()
			server.Shutdown()
			return nil
		},
		Empty: func(ctx context.Context) (bool, error) {
			pipe := plain.Pipeline()
			counts := []*redis.IntCmd{
				pipe.LLen(ctx, "asynq:{default}:pending"), pipe.LLen(ctx, "asynq:{default}:active"),
				pipe.ZCard(ctx, "asynq:{default}:retry"), pipe.ZCard(ctx, "asynq:{default}:scheduled"),
			}
			_, err := pipe.Exec(ctx)
			total := int64(0)
			for _, count := range counts {
				total += count.Val()
			}
			return total == 0, err
		},
	}
	contestant.Serve()
}
