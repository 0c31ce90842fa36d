package main

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// announce adds to a batch the jobs that a fact causes, so that they exist exactly if the batch is
// committed. The caller then hands them to s.outbox.pushSoon.
func (s *server) announce(ctx context.Context, b *pgx.Batch, f fact) ([]job, error) {
	var jobs []job
	for _, n := range s.subscribers(f) {
		n.trace = requestOf(ctx)
		j, err := queueJob(b, n)
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, j)
	}
	return jobs, nil
}
