package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestEMFLinesSayWhatHappened(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t, "EMF_METRICS=on", "LOG_FORMAT=json")
	alice := ts.signUp("Alice")
	before := ts.traffic.totals()
	for range 3 {
		alice.get("/api/v1/me").want(200)
	}
	ts.sql(`INSERT INTO jobs (id, kind, payload, dead_at) VALUES (gen_random_uuid(), 'noop', '{}', now()), (gen_random_uuid(), 'noop', '{}', now())`)
	ts.sql(`INSERT INTO jobs (id, kind, payload, run_at) VALUES (gen_random_uuid(), 'noop', '{}', now() - interval '2 minutes')`)
	now := ts.writeEMF(t.Context(), before)
	lines := strings.Split(strings.TrimSpace(ts.log.grep(`"_aws"`)), "\n")
	if len(lines) != 1 {
		t.Fatalf("got %d lines", len(lines))
	}
	var line map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &line); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{"Requests": 3.0, "RequestErrors5xx": 0.0, "DeadJobs": 2.0, "Role": "all", "Queue": "default"} {
		if line[name] != want {
			t.Errorf("%s: got %v, want %v", name, line[name], want)
		}
	}
	p99, _ := line["RequestP99Milliseconds"].(float64)
	if p99 <= 0 || p99 > float64(testPatience.Milliseconds()) {
		t.Errorf("RequestP99Milliseconds: got %v", line["RequestP99Milliseconds"])
	}
	// The format: each metric of a directive is a number, each dimension a text, both members of the line.
	var metadata struct {
		AWS emfMetadata `json:"_aws"`
	}
	if err := json.Unmarshal([]byte(lines[0]), &metadata); err != nil {
		t.Fatal(err)
	}
	if age := time.Since(time.UnixMilli(metadata.AWS.Timestamp)); age < 0 || age > testPatience {
		t.Errorf("it is %v old", age)
	}
	told := map[string]string{}
	for _, d := range metadata.AWS.CloudWatchMetrics {
		for _, m := range d.Metrics {
			if _, number := line[m.Name].(float64); !number || d.Namespace != "TaskFlow" || len(d.Dimensions) != 1 || len(d.Dimensions[0]) != 1 {
				t.Errorf("%+v of %+v", m, d)
			}
			told[m.Name] = d.Dimensions[0][0] + " " + m.Unit
			if _, text := line[d.Dimensions[0][0]].(string); !text {
				t.Errorf("dimension %s is no text", d.Dimensions[0][0])
			}
		}
	}
	for name, want := range map[string]string{"QueueOldestReadySeconds": "Queue Seconds", "DeadJobs": "Queue Count", "Requests": "Role Count",
		"RequestErrors5xx": "Role Count", "RequestP99Milliseconds": "Role Milliseconds"} {
		if told[name] != want {
			t.Errorf("%s: got %q, want %q", name, told[name], want)
		}
	}

	ts.outbox.snapshot.expire()
	ts.outbox.lookWait = 0 // Redis does not answer in time: the database knows it
	ts.writeEMF(t.Context(), now)
	lines = strings.Split(strings.TrimSpace(ts.log.grep(`"_aws"`)), "\n")
	clear(line)
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &line); err != nil {
		t.Fatal(err)
	}
	if _, told := line["RequestP99Milliseconds"]; told || line["Requests"] != 0.0 {
		t.Errorf("without requests got %v", line)
	}
	if age, _ := line["QueueOldestReadySeconds"].(float64); age < 120 || age > 180 {
		t.Errorf("QueueOldestReadySeconds: got %v", line["QueueOldestReadySeconds"])
	}
}

func TestPercentilesComeFromTheBuckets(t *testing.T) {
	t.Parallel()
	traffic := &traffic{}
	route, before := traffic.of("GET /x"), traffic.totals()
	if _, some := before.percentile(0.99, before); some {
		t.Error("there is one of nothing")
	}
	observe := func(n int, took time.Duration) {
		for range n {
			route.took.observe(took)
		}
	}
	observe(98, 3*time.Millisecond)
	observe(2, 700*time.Millisecond)
	if got, _ := traffic.totals().percentile(0.99, before); got < 500*time.Millisecond || got > time.Second {
		t.Errorf("got %v, want half a second to one", got)
	}
	if got, _ := traffic.totals().percentile(0.5, before); got < 2500*time.Microsecond || got > 5*time.Millisecond {
		t.Errorf("got %v, want 2.5 to 5 ms", got)
	}
	before = traffic.totals()
	observe(1, time.Minute)
	if got, _ := traffic.totals().percentile(0.99, before); got != 10*time.Second {
		t.Errorf("got %v, want the last bound", got)
	}
}
