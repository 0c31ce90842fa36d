package main

import (
	"context"
	"net/http"
	"sync"
	"time"
)

const readyTimeout = time.Second // for each store to answer

// health is what /health and /ready answer.
type health struct {
	Status  string            `json:"status"` // ok, unavailable or stopping
	Version string            `json:"version"`
	Checks  map[string]string `json:"checks,omitempty"` // ok or unavailable, by store
}

// handleHealth says that the process lives, whatever its stores do: restarting it would not help them.
func (s *server) handleHealth(w http.ResponseWriter, r *http.Request) error {
	return writeJSON(w, http.StatusOK, health{Status: "ok", Version: version})
}

// handleReady says whether requests should be sent here: 503 while a store does not answer and
// from the moment the process is asked to stop.
func (s *server) handleReady(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	var database, redis error
	var both sync.WaitGroup
	both.Go(func() { database = s.db.pool.Ping(ctx) })
	both.Go(func() { redis = s.redis.Ping(ctx).Err() })
	both.Wait()
	out := health{Status: "ok", Version: version, Checks: map[string]string{"database": checked(database), "redis": checked(redis)}}
	status := http.StatusOK
	if database != nil || redis != nil {
		out.Status, status = "unavailable", http.StatusServiceUnavailable
	}
	if s.stopping.Load() {
		out.Status, status = "stopping", http.StatusServiceUnavailable
	}
	return writeJSON(w, status, out)
}

func checked(err error) string {
	if err != nil {
		return "unavailable"
	}
	return "ok"
}
