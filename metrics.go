package main

import (
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Metrics are counted where things happen, in plain atomic integers: adding to one takes some
// nanoseconds and no memory. When somebody asks, an exposition writes down what they are then, as
// Prometheus reads it (https://prometheus.io/docs/instrumenting/exposition_formats/, text format 0.0.4).

const expositionMedia = "text/plain; version=0.0.4; charset=utf-8"

// histogram counts how long things took, in buckets.
type histogram struct {
	bounds []time.Duration // upper ends, ascending
	counts []atomic.Int64  // one for each, and one for what took longer
	sum    atomic.Int64    // ns
}

func newHistogram(bounds []time.Duration) *histogram {
	return &histogram{bounds: bounds, counts: make([]atomic.Int64, len(bounds)+1)}
}

func (h *histogram) observe(d time.Duration) {
	i := 0
	for i < len(h.bounds) && d > h.bounds[i] {
		i++
	}
	h.counts[i].Add(1)
	h.sum.Add(int64(d))
}

// count is how many were observed.
func (h *histogram) count() (n int64) {
	for i := range h.counts {
		n += h.counts[i].Load()
	}
	return n
}

// tally counts by a number of few values that are not known beforehand, such as a status.
type tally struct {
	list atomic.Pointer[[]*tallied] // replaced when it grows, so that it is read without a lock
	grow sync.Mutex
}

type tallied struct {
	value int
	n     atomic.Int64
}

func (t *tally) add(value int) {
	c := t.find(value)
	if c == nil {
		c = t.enter(value)
	}
	c.n.Add(1)
}

// counts are those of all values so far.
func (t *tally) counts() []*tallied {
	if list := t.list.Load(); list != nil {
		return *list
	}
	return nil
}

func (t *tally) find(value int) *tallied {
	for _, c := range t.counts() {
		if c.value == value {
			return c
		}
	}
	return nil
}

func (t *tally) enter(value int) *tallied {
	t.grow.Lock()
	defer t.grow.Unlock()
	if c := t.find(value); c != nil {
		return c
	}
	c := &tallied{value: value}
	list := append(append([]*tallied{}, t.counts()...), c)
	t.list.Store(&list)
	return c
}

// exposition is the text being written: families one after the other, each with its samples.
type exposition struct {
	text []byte
	name string // of the present family
}

// family begins one. Its kind is counter, gauge or histogram.
func (e *exposition) family(name, kind, help string) {
	e.name = name
	e.text = append(append(append(append(e.text, "# HELP "...), name...), ' '), escapeHelp.Replace(help)...)
	e.text = append(append(append(append(append(e.text, "\n# TYPE "...), name...), ' '), kind...), '\n')
}

// sample writes one value of the present family. labels are names and values in turn.
func (e *exposition) sample(value float64, labels ...string) { e.line("", value, labels) }

// one writes a family that has only one value.
func (e *exposition) one(name, kind, help string, value float64) {
	e.family(name, kind, help)
	e.sample(value)
}

// times writes a histogram, in seconds.
func (e *exposition) times(h *histogram, labels ...string) {
	total := int64(0)
	for i := range h.counts {
		total += h.counts[i].Load()
		end := "+Inf"
		if i < len(h.bounds) {
			end = formatValue(h.bounds[i].Seconds())
		}
		e.line("_bucket", float64(total), append(labels[:len(labels):len(labels)], "le", end))
	}
	e.line("_sum", time.Duration(h.sum.Load()).Seconds(), labels)
	e.line("_count", float64(total), labels)
}

func (e *exposition) line(suffix string, value float64, labels []string) {
	e.text = append(append(e.text, e.name...), suffix...)
	for i := 0; i+1 < len(labels); i += 2 {
		before := byte(',')
		if i == 0 {
			before = '{'
		}
		e.text = append(append(append(e.text, before), labels[i]...), `="`...)
		e.text = append(append(e.text, escapeLabel.Replace(strings.ToValidUTF8(labels[i+1], "\ufffd"))...), '"')
	}
	if len(labels) > 0 {
		e.text = append(e.text, '}')
	}
	e.text = append(append(append(e.text, ' '), formatValue(value)...), '\n')
}

var (
	escapeHelp  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	escapeLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// formatValue is a number as the format has it.
func formatValue(v float64) string {
	switch {
	case math.IsInf(v, 1):
		return "+Inf"
	case math.IsInf(v, -1):
		return "-Inf"
	case v == math.Trunc(v) && math.Abs(v) < 1<<53:
		return strconv.FormatInt(int64(v), 10)
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

// oneIf is 1 for true.
func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
