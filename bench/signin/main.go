// Command signin has many people sign in at one moment, and measures what everybody else notices. It
// must run in the folder bench, after `make build`.
//
//	go run ./signin -signins 5000
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"taskflow/bench/harness"
)

const (
	accounts = 50
	password = "correct horse battery"
)

func main() {
	signins := flag.Int("signins", 5000, "sign-ins at once")
	rate := flag.Int("rate", 200, "reads a second meanwhile; a fifth as many of /health")
	seconds := flag.Int("seconds", 10, "seconds of the reads before")
	flood := flag.String("flood", "", "only sign in, at this address; the program starts itself with it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *flood != "" {
		fmt.Println(signIn(ctx, *flood, *signins))
		return
	}
	if err := run(ctx, *signins, *rate, time.Duration(*seconds)*time.Second); err != nil {
		fmt.Fprintln(os.Stderr, "signin:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, signins, rate int, length time.Duration) error {
	if err := harness.BuildContestant(ctx); err != nil { // it starts the servers
		return err
	}
	servers, err := harness.StartServers(ctx)
	if err != nil {
		return err
	}
	defer servers.Close()
	service, err := harness.StartService(ctx, servers)
	if err != nil {
		return err
	}
	defer service.End()
	token, task, err := people(ctx, service)
	if err != nil {
		return err
	}
	readWhile := func(what string, do func()) {
		reading, end := context.WithCancel(ctx)
		var all sync.WaitGroup
		reads, health := &load{}, &load{}
		all.Go(func() { reads.run(reading, service, rate, token, "/api/v1/tasks/"+task) })
		all.Go(func() { health.run(reading, service, rate/5, "", "/health") })
		do()
		end()
		all.Wait()
		fmt.Printf("%s: GET a task %s; /health %s\n", what, reads, health)
	}
	readWhile("before", func() { time.Sleep(time.Second) }) // connections, caches
	readWhile("before", func() { time.Sleep(length) })
	before := harness.Resident(service.PID())
	var answers []byte
	readWhile("meanwhile", func() { // in a process of their own, so that it does not hold up the reads
		answers, err = exec.CommandContext(ctx, os.Args[0], "-flood", service.URL, "-signins", strconv.Itoa(signins)).Output()
	})
	if err != nil {
		return err
	}
	fmt.Printf("%d sign-ins: %s", signins, answers)
	fmt.Printf("memory: %.1f MB before, %.1f MB after\n", before/1e6, harness.Resident(service.PID())/1e6)
	return ctx.Err()
}

// people makes the accounts, and a task for one of them.
func people(ctx context.Context, s *harness.Service) (token, task string, err error) {
	for n := range accounts {
		body := fmt.Sprintf(`{"email":"user%d@example.org","password":"%s","firstName":"User","lastName":"Number"}`, n, password)
		if token, err = s.Call(ctx, "", "POST", "/api/v1/auth/register", body, "accessToken"); err != nil {
			return "", "", err
		}
	}
	project, err := s.Call(ctx, token, "POST", "/api/v1/projects", `{"name":"Project"}`, "id")
	if err != nil {
		return "", "", err
	}
	task, err = s.Call(ctx, token, "POST", "/api/v1/tasks", `{"projectId":"`+project+`","title":"Read me"}`, "id")
	return token, task, err
}

// load is requests at a rate, whatever they take.
type load struct {
	mu     sync.Mutex
	took   []float64 // ms
	failed int
}

func (l *load) run(ctx context.Context, s *harness.Service, rate int, token, path string) {
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	var all sync.WaitGroup
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			all.Wait()
			return
		}
		all.Go(func() {
			began := time.Now()
			_, err := s.Call(context.WithoutCancel(ctx), token, "GET", path, "")
			l.mu.Lock()
			defer l.mu.Unlock()
			l.took = append(l.took, time.Since(began).Seconds()*1000)
			if err != nil {
				l.failed++
			}
		})
	}
}

func (l *load) String() string {
	slices.Sort(l.took)
	return fmt.Sprintf("%d, %d failed, p50 %.2f ms, p99 %.2f ms", len(l.took), l.failed, harness.Percentile(l.took, 0.5), harness.Percentile(l.took, 0.99))
}

// signIn has so many sign in at once, each by a connection of his own, and counts the answers.
func signIn(ctx context.Context, url string, signins int) string {
	var mu sync.Mutex
	counts, took := map[string]int{}, map[string][]float64{}
	var all sync.WaitGroup
	began := time.Now()
	transport := &http.Transport{DisableKeepAlives: true}
	for n := range signins {
		all.Go(func() {
			answer := signInOnce(ctx, &http.Client{Transport: transport}, url, n%accounts)
			mu.Lock()
			defer mu.Unlock()
			counts[answer]++
			took[answer] = append(took[answer], time.Since(began).Seconds())
		})
	}
	all.Wait()
	var out []string
	for answer, n := range counts {
		out = append(out, fmt.Sprintf("%d × %s, the last after %.1f s", n, answer, slices.Max(took[answer])))
	}
	slices.SortFunc(out, func(a, b string) int { return cmp.Compare(a, b) })
	return strings.Join(out, "; ")
}

func signInOnce(ctx context.Context, client *http.Client, url string, account int) string {
	body := fmt.Sprintf(`{"email":"user%d@example.org","password":"%s"}`, account, password)
	req, err := http.NewRequestWithContext(ctx, "POST", url+"/api/v1/auth/login", strings.NewReader(body))
	if err != nil {
		return err.Error()
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return "no answer"
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return "no answer"
	}
	var problem struct{ Code string }
	json.Unmarshal(text, &problem)
	answer := strings.TrimSpace(fmt.Sprint(resp.StatusCode, " ", problem.Code))
	if resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") == "" {
		answer += " without Retry-After"
	}
	return answer
}
