// Package contest is what the contestants written in Go do alike: they take orders line by line,
// put a queue under a load, and answer with what they measured. The harness draws the conclusions.
//
//	push N                   32 callers add N jobs, one job a call
//	drain SLOTS N            a worker with so many slots runs N jobs; ends when the queue knows they are done
//	steady SLOTS N RATE      N jobs, RATE a second, with a worker beside: milliseconds from each call to the handler
//	pickup SLOTS N SECONDS   the same for one job at a time on an idle queue; at most N jobs, at most so long
//	hold SLOTS N             a worker takes N jobs and never ends them; answers when it holds all
//	profile FILE             writes a CPU profile of all that follows, until the order profile without a file
//
// An answer is one line of JSON.
//
// The package main of TaskFlow cannot import this one. The harness compiles this file into it, with
// another package clause (go help build, -overlay), so that all are measured by the same code. That
// is why every name begins with contest.
package contest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const contestCallers = 32

// contestPayload is what a job carries: 200 bytes of JSON that say when it was pushed.
func contestPayload() []byte {
	return fmt.Appendf(nil, `{"t":%d,"p":"%s"}`, time.Now().UnixNano(), contestFill)
}

var contestFill = strings.Repeat("x", 168)

// contestAge is how long ago a payload was made, in milliseconds.
func contestAge(payload []byte) float64 {
	var p struct {
		Sent int64 `json:"t"`
	}
	if err := json.Unmarshal(payload, &p); err != nil {
		panic(err)
	}
	return float64(time.Now().UnixNano()-p.Sent) / 1e6
}

// Contestant is a queue under load.
type Contestant struct {
	Push  func(ctx context.Context, payload []byte) error
	Work  func(ctx context.Context, slots int, run func(payload []byte)) error // until ctx ends
	Empty func(context.Context) (bool, error)                                  // nothing waits, runs, or waits to be tried again

	workers sync.WaitGroup
}

// contestAnswer is one line of output; only what was asked for is in it.
type contestAnswer struct {
	Seconds float64   `json:"seconds,omitempty"`
	Ran     int64     `json:"ran,omitempty"` // runs of handlers; more than jobs when some ran twice
	Ms      []float64 `json:"ms,omitempty"`
	Error   string    `json:"error,omitempty"`
}

// Serve does what standard input asks for.
func (c *Contestant) Serve() {
	lines := bufio.NewScanner(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		order, rest, _ := strings.Cut(lines.Text(), " ")
		c.workers.Wait() // of the order before
		a, err := c.do(context.Background(), order, rest)
		if err != nil {
			a.Error = err.Error()
		}
		out.Encode(a)
	}
}

func (c *Contestant) do(ctx context.Context, order, rest string) (contestAnswer, error) {
	if order == "profile" {
		return contestAnswer{}, c.profile(rest)
	}
	var arg [3]int
	fmt.Sscan(rest, &arg[0], &arg[1], &arg[2])
	switch order {
	case "push":
		return c.push(ctx, arg[0])
	case "drain":
		return c.drain(ctx, arg[0], arg[1])
	case "steady":
		return c.steady(ctx, arg[0], arg[1], arg[2])
	case "pickup":
		return c.pickup(ctx, arg[0], arg[1], time.Duration(arg[2])*time.Second)
	case "hold":
		return c.hold(ctx, arg[0], arg[1])
	}
	return contestAnswer{}, fmt.Errorf("unknown order %q", order)
}

func (c *Contestant) profile(path string) error {
	pprof.StopCPUProfile()
	if path == "" {
		return nil
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return pprof.StartCPUProfile(file)
}

// work starts a worker; stop ends it in the background.
func (c *Contestant) work(ctx context.Context, slots int, run func([]byte)) (stop func()) {
	ctx, stop = context.WithCancel(ctx)
	c.workers.Go(func() {
		if err := c.Work(ctx, slots, run); err != nil {
			fmt.Fprintln(os.Stderr, "work:", err)
			os.Exit(1)
		}
	})
	return stop
}

func (c *Contestant) push(ctx context.Context, n int) (contestAnswer, error) {
	var next atomic.Int64
	var pushers sync.WaitGroup
	var failed [contestCallers]error
	start := time.Now()
	for i := range contestCallers {
		pushers.Go(func() {
			for next.Add(1) <= int64(n) && failed[i] == nil {
				failed[i] = c.Push(ctx, contestPayload())
			}
		})
	}
	pushers.Wait()
	return contestAnswer{Seconds: time.Since(start).Seconds()}, errors.Join(failed[:]...)
}

// drain measures from the first job's start, so that starting a worker is not counted.
func (c *Contestant) drain(ctx context.Context, slots, n int) (contestAnswer, error) {
	var ran atomic.Int64
	var first time.Time
	all := make(chan struct{})
	stop := c.work(ctx, slots, func([]byte) {
		count := ran.Add(1)
		if count == 1 {
			first = time.Now()
		}
		if count == int64(n) {
			close(all)
		}
	})
	defer stop()
	<-all
	for {
		empty, err := c.Empty(ctx)
		if empty || err != nil {
			return contestAnswer{Seconds: time.Since(first).Seconds(), Ran: ran.Load()}, err
		}
		time.Sleep(time.Millisecond)
	}
}

func (c *Contestant) steady(ctx context.Context, slots, n, rate int) (contestAnswer, error) {
	ages := make(chan float64, 2*n)
	stop := c.work(ctx, slots, func(payload []byte) { ages <- contestAge(payload) })
	defer stop()
	failed := make(chan error, n)
	start := time.Now()
	for i := range n {
		time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / time.Duration(rate))))
		go func() {
			if err := c.Push(ctx, contestPayload()); err != nil {
				failed <- err
			}
		}()
	}
	var a contestAnswer
	for len(a.Ms) < n {
		select {
		case ms := <-ages:
			a.Ms = append(a.Ms, ms)
		case err := <-failed:
			return a, err
		}
	}
	return a, nil
}

func (c *Contestant) pickup(ctx context.Context, slots, n int, limit time.Duration) (contestAnswer, error) {
	ages := make(chan float64, 2*n)
	stop := c.work(ctx, slots, func(payload []byte) { ages <- contestAge(payload) })
	defer stop()
	if err := c.Push(ctx, contestPayload()); err != nil { // this one waits for the worker to start
		return contestAnswer{}, err
	}
	<-ages
	var a contestAnswer
	for start := time.Now(); len(a.Ms) < n && time.Since(start) < limit; {
		time.Sleep(10*time.Millisecond + rand.N(20*time.Millisecond))
		if err := c.Push(ctx, contestPayload()); err != nil {
			return a, err
		}
		a.Ms = append(a.Ms, <-ages)
	}
	return a, nil
}

func (c *Contestant) hold(ctx context.Context, slots, n int) (contestAnswer, error) {
	held := make(chan struct{}, 2*n)
	c.work(ctx, slots, func([]byte) {
		held <- struct{}{}
		select {}
	})
	for range n {
		<-held
	}
	return contestAnswer{Ran: int64(n)}, nil
}
