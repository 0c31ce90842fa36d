package main

import (
	"context"
	"log/slog"
	"time"
)

// The few figures that alarms and scaling in CloudWatch go by are written to the log once a minute, as
// lines that CloudWatch Logs makes metrics of (embedded metric format,
// https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html).
// Every process tells of the queue, which is one for all: so it is known also when no worker lives, and
// the maximum over the processes is what the queue is like.
const (
	emfEvery     = time.Minute
	emfNamespace = "TaskFlow"
)

// emfMetadata is the member _aws of a line: which of its other members are metrics.
type emfMetadata struct {
	Timestamp         int64 // ms since 1970
	CloudWatchMetrics []emfDirective
}

type emfDirective struct {
	Namespace  string
	Dimensions [][]string // names of members with text
	Metrics    []emfMetric
}

type emfMetric struct{ Name, Unit string }

// totals is what a process has answered so far.
type totals struct {
	requests, errors int64
	took             []int64 // by requestBounds
}

func (t *traffic) totals() totals {
	sum := totals{took: make([]int64, len(requestBounds)+1)}
	for _, route := range t.all() {
		for _, c := range route.statuses.counts() {
			n := c.n.Load()
			sum.requests += n
			if c.value >= 500 {
				sum.errors += n
			}
		}
		if route.took == nil {
			continue
		}
		for i := range route.took.counts {
			sum.took[i] += route.took.counts[i].Load()
		}
	}
	return sum
}

// percentile is the time within which a share of the requests between two totals was answered, as
// exact as the buckets; false where there was none. What took longer than all of them counts as the last.
func (t totals) percentile(share float64, before totals) (time.Duration, bool) {
	sum := int64(0)
	for i := range t.took {
		sum += t.took[i] - before.took[i]
	}
	if sum == 0 {
		return 0, false
	}
	want, low := share*float64(sum), time.Duration(0)
	for i, high := range requestBounds {
		n := float64(t.took[i] - before.took[i])
		if n > 0 && want <= n {
			return low + time.Duration(want/n*float64(high-low)), true
		}
		want, low = want-n, high
	}
	return low, true
}

// tellCloudWatch writes lines until ctx ends.
func (s *server) tellCloudWatch(ctx context.Context) {
	tick := time.NewTicker(emfEvery)
	defer tick.Stop()
	before := s.traffic.totals()
	for {
		select {
		case <-tick.C:
			before = s.writeEMF(ctx, before)
		case <-ctx.Done():
			s.writeEMF(context.WithoutCancel(ctx), before) // the last part of a minute
			return
		}
	}
}

// writeEMF writes a line, of the requests since some totals, and returns those of now.
func (s *server) writeEMF(ctx context.Context, before totals) totals {
	now := s.traffic.totals()
	view, databaseUp := s.queueNow(ctx)
	metadata := emfMetadata{Timestamp: time.Now().UnixMilli()}
	var attrs []slog.Attr
	tell := func(dimension, value string, metrics []emfMetric) {
		metadata.CloudWatchMetrics = append(metadata.CloudWatchMetrics, emfDirective{emfNamespace, [][]string{{dimension}}, metrics})
		attrs = append(attrs, slog.String(dimension, value))
	}
	role := []emfMetric{{"Requests", "Count"}, {"RequestErrors5xx", "Count"}}
	attrs = append(attrs, slog.Int64("Requests", now.requests-before.requests), slog.Int64("RequestErrors5xx", now.errors-before.errors))
	if p99, some := now.percentile(0.99, before); some {
		role = append(role, emfMetric{"RequestP99Milliseconds", "Milliseconds"})
		attrs = append(attrs, slog.Float64("RequestP99Milliseconds", float64(p99.Microseconds())/1000))
	}
	tell("Role", s.config.role, role)
	var queue []emfMetric
	if databaseUp || view.Reachable {
		queue = append(queue, emfMetric{"QueueOldestReadySeconds", "Seconds"})
		attrs = append(attrs, slog.Float64("QueueOldestReadySeconds", oldestReady(view).Seconds()))
	}
	if databaseUp {
		queue = append(queue, emfMetric{"DeadJobs", "Count"})
		attrs = append(attrs, slog.Int64("DeadJobs", view.OutboxDead))
	}
	if queue != nil {
		tell("Queue", s.outbox.queue.name, queue)
	}
	s.log.LogAttrs(ctx, slog.LevelInfo, "metrics", append(attrs, slog.Any("_aws", metadata))...)
	return now
}
