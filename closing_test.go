package main

import (
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestStoppingLosesNoConnection opens connections as fast as it can while the process stops: each is either
// answered or refused, so that a proxy may safely ask another process.
func TestStoppingLosesNoConnection(t *testing.T) {
	t.Parallel()
	p := launch(t, serverEnv(t))
	var answered, refused, lost atomic.Int64
	var first sync.Once
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: testPatience}
	stop := make(chan struct{})
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				resp, err := client.Get(p.http.URL + "/health")
				switch {
				case err == nil && resp.StatusCode == 200:
					resp.Body.Close()
					answered.Add(1)
				case errors.Is(err, syscall.ECONNREFUSED):
					refused.Add(1)
					time.Sleep(time.Millisecond)
				default:
					lost.Add(1)
					first.Do(func() { t.Errorf("neither answered nor refused: %v", err) })
				}
			}
		})
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	if code := p.end(stopTimeout); code != 0 {
		t.Errorf("got exit code %d: %s", code, p.log)
	}
	close(stop)
	all.Wait()
	t.Logf("%d answered, %d refused, %d lost", answered.Load(), refused.Load(), lost.Load())
	if answered.Load() < 100 || refused.Load() == 0 {
		t.Errorf("%d were answered, %d refused", answered.Load(), refused.Load())
	}
}
