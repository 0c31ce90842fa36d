package main

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// sendAnd sends a batch whose last statement returns one row, together with the jobs that its
// facts cause, and hands those to the workers.
func sendAnd[T any](ctx context.Context, s *server, b *pgx.Batch, facts ...fact) (T, error) {
	last := b.QueuedQueries[len(b.QueuedQueries)-1]
	b.QueuedQueries = b.QueuedQueries[:len(b.QueuedQueries)-1]
	var jobs []job
	for _, f := range facts {
		more, err := s.announce(ctx, b, f)
		if err != nil {
			var none T
			return none, err
		}
		jobs = append(jobs, more...)
	}
	b.QueuedQueries = append(b.QueuedQueries, last)
	value, err := sendOne[T](ctx, s.db, b)
	if err == nil {
		afterCommit(ctx, func(context.Context) { s.outbox.pushSoon(jobs...) })
	}
	return value, err
}

// sendTelling sends a batch together with the jobs that its facts cause.
func (s *server) sendTelling(ctx context.Context, b *pgx.Batch, facts ...fact) error {
	var jobs []job
	for _, f := range facts {
		more, err := s.announce(ctx, b, f)
		if err != nil {
			return err
		}
		jobs = append(jobs, more...)
	}
	if err := s.db.send(ctx, b); err != nil {
		return err
	}
	afterCommit(ctx, func(context.Context) { s.outbox.pushSoon(jobs...) })
	return nil
}

// announce adds to a batch the jobs that a fact causes, so that they exist exactly if the batch is
// committed. The caller then hands them to s.outbox.pushSoon.
func (s *server) announce(ctx context.Context, b *pgx.Batch, f fact) ([]job, error) {
	var jobs []job
	for _, n := range s.subscribers(f) {
		n.trace = traceOf(ctx).carried()
		j, err := queueJob(b, n)
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, j)
	}
	return jobs, nil
}
