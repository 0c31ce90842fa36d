// Command stream measures many open streams of one TaskFlow process: what each of them keeps of memory,
// what all cost at rest and under writes, and how long a change takes to everybody who hears of it. It
// must run in the folder bench, after `make build`.
//
//	go run ./stream -streams 2000 -projects 100 -rate 50
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"taskflow/bench/harness"
)

const ofUser = 20 // streams of one user, and projects that he is a member of

func main() {
	streams := flag.Int("streams", 2000, "streams, a multiple of 20")
	projects := flag.Int("projects", 100, "projects, at least 20; each stream follows one")
	rate := flag.Int("rate", 50, "writes a second")
	seconds := flag.Int("seconds", 10, "seconds of each measurement")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *streams, *projects, *rate, time.Duration(*seconds)*time.Second); err != nil {
		fmt.Fprintln(os.Stderr, "stream:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, streams, projects, rate int, length time.Duration) error {
	if err := harness.BuildContestant(ctx); err != nil { // it starts the servers
		return err
	}
	servers, err := harness.StartServers(ctx)
	if err != nil {
		return err
	}
	defer servers.Close()
	service, err := harness.StartService(ctx, servers, "BCRYPT_COST=10")
	if err != nil {
		return err
	}
	defer service.End()
	b := &bench{Service: service, servers: servers}
	if err := b.people(ctx, streams/ofUser, projects); err != nil {
		return err
	}
	time.Sleep(time.Second)
	before := harness.Resident(b.PID())
	began := time.Now()
	if err := b.listen(ctx, streams); err != nil {
		return err
	}
	fmt.Printf("%d streams of %d users on %d projects, opened in %.1f s\n", streams, streams/ofUser, projects, time.Since(began).Seconds())
	b.rest(ctx, length) // what opening left is collected
	after := harness.Resident(b.PID())
	fmt.Printf("memory: %.1f MB before, %.1f MB after: %.1f KB a stream\n", before/1e6, after/1e6, (after-before)/1e3/float64(streams))
	fmt.Printf("at rest: %s\n", b.rest(ctx, length))
	fmt.Printf("%d writes a second: %s\n", rate, b.write(ctx, rate, length))
	fmt.Printf("memory afterwards: %.1f MB\n", harness.Resident(b.PID())/1e6)
	return ctx.Err()
}

// bench is the service and everybody who uses it.
type bench struct {
	*harness.Service
	servers *harness.Servers
	users   []string // tokens
	ids     []string // of projects; the first user owns them
	heard   atomic.Int64
	mu      sync.Mutex
	delays  []float64 // ms from before a write to its event
}

// people makes the users and the projects. Each user is a member of some.
func (b *bench) people(ctx context.Context, users, projects int) error {
	var ids []string
	for n := range users {
		text, err := b.Call(ctx, "", "POST", "/api/v1/auth/register", fmt.Sprintf(`{"email":"user%d@example.org","password":"correct horse battery","firstName":"User","lastName":"Number"}`, n))
		if err != nil {
			return err
		}
		var made struct {
			AccessToken string
			User        struct{ ID string }
		}
		if err := json.Unmarshal([]byte(text), &made); err != nil {
			return err
		}
		b.users, ids = append(b.users, made.AccessToken), append(ids, made.User.ID)
	}
	for n := range projects {
		id, err := b.Call(ctx, b.users[0], "POST", "/api/v1/projects", fmt.Sprintf(`{"name":"Project %d"}`, n), "id")
		if err != nil {
			return err
		}
		b.ids = append(b.ids, id)
	}
	for n, id := range ids[1:] {
		for i := range ofUser {
			if _, err := b.Call(ctx, b.users[0], "POST", "/api/v1/projects/"+b.followed(n+1, i)+"/members", `{"userId":"`+id+`","role":"viewer"}`); err != nil {
				return err
			}
		}
	}
	return nil
}

// followed is the project that a user's stream follows.
func (b *bench) followed(user, stream int) string { return b.ids[(user*7+stream)%len(b.ids)] }

// listen opens the streams.
func (b *bench) listen(ctx context.Context, streams int) error {
	reader := &http.Client{Transport: &http.Transport{DisableCompression: true, ReadBufferSize: 2 << 10, WriteBufferSize: 1 << 10}}
	opening := make(chan error, streams)
	slots := make(chan struct{}, 64)
	for n := range streams {
		go func() {
			slots <- struct{}{}
			user := n / ofUser
			req, err := http.NewRequestWithContext(ctx, "GET", b.URL+"/api/v1/events?projectId="+b.followed(user, n%ofUser), nil)
			if err != nil {
				opening <- err
				return
			}
			req.Header.Set("Authorization", "Bearer "+b.users[user])
			resp, err := reader.Do(req)
			if err == nil && resp.StatusCode != 200 {
				err = fmt.Errorf("a stream answered %d", resp.StatusCode)
			}
			opening <- err
			<-slots
			if err == nil {
				b.read(resp.Body)
			}
		}()
	}
	for range streams {
		if err := <-opening; err != nil {
			return err
		}
	}
	return nil
}

// read notes how long events took that tell when they were sent.
func (b *bench) read(body io.Reader) {
	for lines := bufio.NewReaderSize(body, 2<<10); ; {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		if _, rest, ok := bytes.Cut(line, []byte("sent at ")); ok {
			at, _, _ := bytes.Cut(rest, []byte(`"`))
			sent, err := strconv.ParseInt(string(at), 10, 64)
			if err == nil {
				b.heard.Add(1)
				b.mu.Lock()
				b.delays = append(b.delays, float64(time.Now().UnixNano()-sent)/1e6)
				b.mu.Unlock()
			}
		}
	}
}

// cost is what the service and its stores use of a processor while do runs.
func (b *bench) cost(do func()) string {
	pid := b.PID()
	began, service, postgres, redis := time.Now(), harness.CPU(pid), b.servers.PostgresCPU(), b.servers.RedisCPU()
	do()
	took := time.Since(began).Seconds()
	return fmt.Sprintf("of one processor TaskFlow %.1f %%, PostgreSQL %.1f %%, Redis %.1f %%",
		100*(harness.CPU(pid)-service)/took, 100*(b.servers.PostgresCPU()-postgres)/took, 100*(b.servers.RedisCPU()-redis)/took)
}

func (b *bench) rest(ctx context.Context, length time.Duration) string {
	return b.cost(func() {
		select {
		case <-time.After(length):
		case <-ctx.Done():
		}
	})
}

// write makes tasks at a rate, whatever they take, in one project after the other.
func (b *bench) write(ctx context.Context, rate int, length time.Duration) string {
	var mu sync.Mutex
	var took []float64
	var failed error
	cost := b.cost(func() {
		var all sync.WaitGroup
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for n := range int(length.Seconds()) * rate {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			all.Go(func() {
				sent := time.Now()
				_, err := b.Call(ctx, b.users[0], "POST", "/api/v1/tasks", fmt.Sprintf(`{"projectId":"%s","title":"sent at %d"}`, b.ids[n%len(b.ids)], sent.UnixNano()))
				mu.Lock()
				defer mu.Unlock()
				took = append(took, time.Since(sent).Seconds()*1000)
				if err != nil {
					failed = err
				}
			})
		}
		all.Wait()
	})
	time.Sleep(time.Second)
	b.mu.Lock()
	defer b.mu.Unlock()
	slices.Sort(b.delays)
	slices.Sort(took)
	return fmt.Sprintf("%s; %d writes took p50 %.1f ms, p99 %.1f ms (%v); %d events came after p50 %.1f ms, p99 %.1f ms", cost,
		len(took), harness.Percentile(took, 0.5), harness.Percentile(took, 0.99), failed, len(b.delays), harness.Percentile(b.delays, 0.5), harness.Percentile(b.delays, 0.99))
}
