package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

var queueSpaces atomic.Int64

// newTestQueue is a queue of its own on the tests' Redis.
func newTestQueue(t testing.TB) *queue {
	t.Helper()
	options, err := redis.ParseURL(world.redisURL)
	if err != nil {
		t.Fatal(err)
	}
	options.ContextTimeoutEnabled = true
	client := redis.NewClient(options)
	t.Cleanup(func() { client.Close() })
	return newQueue(client, fmt.Sprintf("t%d-%d", time.Now().UnixNano(), queueSpaces.Add(1)), "default")
}

// BenchmarkQueue is a no-op job of 200 bytes: 32 goroutines push, then one worker runs all.
func BenchmarkQueue(b *testing.B) {
	for _, slots := range []int{16, 64, 256} {
		b.Run(fmt.Sprintf("slots=%d", slots), func(b *testing.B) {
			q := newTestQueue(b)
			payload := make([]byte, 200)
			for i := range payload {
				payload[i] = 'x'
			}
			start := time.Now()
			var next atomic.Int64
			var pushers sync.WaitGroup
			for range 32 {
				pushers.Go(func() {
					for {
						if next.Add(1) > int64(b.N) {
							return
						}
						if err := q.push(b.Context(), job{ID: newUUID().String(), Kind: "noop", Priority: normalPriority, Payload: payload}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			pushers.Wait()
			pushed := time.Since(start)
			ctx, cancel := context.WithCancel(b.Context())
			var ran atomic.Int64
			start = time.Now()
			q.work(ctx, slots, time.Second, func(string) time.Duration { return time.Minute }, func(_ context.Context, _ job, end func(ending)) {
				end(done)
				if ran.Add(1) == int64(b.N) {
					cancel()
				}
			}, func(err error) { b.Log(err) })
			drained := time.Since(start)
			b.ReportMetric(float64(b.N)/pushed.Seconds(), "push/s")
			b.ReportMetric(float64(b.N)/drained.Seconds(), "drain/s")
			b.ReportMetric(float64(b.N)/(pushed+drained).Seconds(), "both/s")
		})
	}
}
