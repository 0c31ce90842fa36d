package main

import (
	"context"
	"sync"
	"time"
)

// batcher gathers what many goroutines ask for while one request is under way, and does it all in
// the next: the more there is to do, the larger the batches.
type batcher[T any] struct {
	most  int
	flush func(context.Context, []T) error
	mu    sync.Mutex
	next  *batch[T] // being gathered
	busy  bool      // a flush is under way
}

type batch[T any] struct {
	items []T
	done  chan struct{}
	err   error
}

func newBatcher[T any](most int, flush func(context.Context, []T) error) *batcher[T] {
	return &batcher[T]{most: most, flush: flush}
}

// do has one item done with others. Of a batch that fails, all fail.
func (b *batcher[T]) do(ctx context.Context, item T) error {
	b.mu.Lock()
	if b.next == nil || len(b.next.items) == b.most {
		if b.next != nil { // full: do it here, beside the one under way
			full := b.next
			b.next = nil
			b.mu.Unlock()
			b.run(full)
			b.mu.Lock()
		}
		if b.next == nil {
			b.next = &batch[T]{done: make(chan struct{})}
		}
	}
	mine := b.next
	mine.items = append(mine.items, item)
	if !b.busy {
		b.busy = true
		go b.loop()
	}
	b.mu.Unlock()
	select {
	case <-mine.done:
		return mine.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// loop flushes batches until none is gathered.
func (b *batcher[T]) loop() {
	for {
		b.mu.Lock()
		mine := b.next
		b.next = nil
		if mine == nil {
			b.busy = false
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
		b.run(mine)
	}
}

func (b *batcher[T]) run(mine *batch[T]) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	mine.err = b.flush(ctx, mine.items)
	close(mine.done)
}

// turns lets at most so many act at once for one key; the others wait in line.
type turns struct {
	most    int
	mu      sync.Mutex
	waiting map[[16]byte]*line
}

type line struct {
	slots chan struct{}
	users int
}

func newTurns(most int) *turns { return &turns{most: most, waiting: map[[16]byte]*line{}} }

// take waits for a turn and returns how to end it.
func (t *turns) take(ctx context.Context, key [16]byte) (end func(), err error) {
	t.mu.Lock()
	l := t.waiting[key]
	if l == nil {
		l = &line{slots: make(chan struct{}, t.most)}
		t.waiting[key] = l
	}
	l.users++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(t.waiting, key)
		}
	}
	select {
	case l.slots <- struct{}{}:
		return func() { <-l.slots; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
