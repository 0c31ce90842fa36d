package main

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// requestBounds are the buckets of requests' times.
var requestBounds = []time.Duration{
	500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

// traffic is what one process was asked, and how it went. Requests are told apart by the pattern that
// matched and never by their paths, so there are as many as there are routes.
type traffic struct {
	inFlight atomic.Int64
	panics   atomic.Int64

	mu     sync.Mutex
	routes []*routeTraffic
}

// routeTraffic is that of one route.
type routeTraffic struct {
	method, path string
	statuses     tally
	took         *histogram // nil for what lasts as long as the client likes
}

// unmatched stands for the route of requests that are refused before one is found, or have none.
const unmatched = "unmatched"

// of is the traffic of a pattern. Streams are counted, and their times are not.
func (t *traffic) of(pattern string) *routeTraffic {
	t.mu.Lock()
	defer t.mu.Unlock()
	method, path, _ := strings.Cut(pattern, " ")
	for _, route := range t.routes {
		if route.method == method && route.path == path {
			return route
		}
	}
	route := &routeTraffic{method: method, path: path}
	if pattern != "GET /api/v1/events" {
		route.took = newHistogram(requestBounds)
	}
	t.routes = append(t.routes, route)
	return route
}

// all are those there are.
func (t *traffic) all() []*routeTraffic {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.routes)
}

// end counts a request that has been answered. Without a route it is counted by its method, where
// that is one of HTTP's.
func (t *traffic) end(route *routeTraffic, method string, status int, took time.Duration) {
	t.inFlight.Add(-1)
	if route == nil {
		if !slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions}, method) {
			method = "other"
		}
		route = t.of(method + " " + unmatched)
	}
	if status == 0 {
		status = http.StatusOK // net/http's own, of an answer that nobody wrote
	}
	route.statuses.add(status)
	if route.took != nil {
		route.took.observe(took)
	}
}

// attemptOutcomes counts attempts to tell webhooks something.
type attemptOutcomes struct {
	delivered, again, failed atomic.Int64 // arrived; to be tried again; given up
	took                     *histogram
}

// note counts one, by the state that its delivery is in after it.
func (o *attemptOutcomes) note(state string, took time.Duration) {
	switch state {
	case "delivered":
		o.delivered.Add(1)
	case "waiting":
		o.again.Add(1)
	default:
		o.failed.Add(1)
	}
	o.took.observe(took)
}
