package main

import (
	"errors"
	"time"
)

// rrule is a placeholder for compiling until the real file replaces it.
type rrule struct{}

func parseRRule(text string) (rrule, error) { return rrule{}, errors.New("not yet") }

func (r rrule) next(start, after time.Time) (time.Time, bool) { return time.Time{}, false }
