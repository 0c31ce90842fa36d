package main

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"strings"
)

// A trace is what a request or a job is a part of. It has two names: the id of the request that began it
// here, and the trace-id of W3C Trace Context (https://www.w3.org/TR/trace-context/), which programs in
// front of this one may have begun and receivers of webhooks go on with.
//
// Of the standard's tracestate nothing is kept: it is for the parties of one trace to read, nobody here
// does, and webhooks lead out to others.
type trace struct {
	request string   // id of the request, or name and tick of the schedule; "" if neither is known
	id      [16]byte // trace-id, never zero
	parent  [8]byte  // parent-id of who asks; zero: nobody who said so
	span    [8]byte  // parent-id of what happens here
	sampled bool     // who asks keeps the trace, and would like others to
}

// newTrace goes on with the trace that the headers traceparent of a request name. Where there is not just
// one, or it is not valid, the request begins a trace.
func newTrace(request string, traceparent []string) *trace {
	t := &trace{request: request, span: randomSpan()}
	if len(traceparent) == 1 {
		t.read(traceparent[0])
	}
	t.begin()
	return t
}

// begin gives a trace an id, if it has none.
func (t *trace) begin() {
	for t.id == [16]byte{} {
		binary.NativeEndian.PutUint64(t.id[:8], rand.Uint64())
		binary.NativeEndian.PutUint64(t.id[8:], rand.Uint64())
	}
}

func randomSpan() (span [8]byte) {
	for span == [8]byte{} {
		binary.NativeEndian.PutUint64(span[:], rand.Uint64())
	}
	return span
}

// read takes over a traceparent (section 3.2) if it is valid: version, trace-id, parent-id and flags with
// dashes between them, in lower-case hex. A version that is yet to come may have more after another dash,
// which is not read; version ff is none.
func (t *trace) read(text string) {
	const size = 2 + 1 + 32 + 1 + 16 + 1 + 2
	if len(text) < size || text[2] != '-' || text[35] != '-' || text[52] != '-' {
		return
	}
	if version := text[:2]; version == "ff" || version == "00" && len(text) > size || len(text) > size && text[size] != '-' {
		return
	}
	var version, flags [1]byte
	var id [16]byte
	var parent [8]byte
	if !unhex(version[:], text[:2]) || !unhex(id[:], text[3:35]) || !unhex(parent[:], text[36:52]) || !unhex(flags[:], text[53:55]) {
		return
	}
	if id != [16]byte{} && parent != [8]byte{} {
		t.id, t.parent, t.sampled = id, parent, flags[0]&1 == 1
	}
}

// unhex reads lower-case hex that fills a number of bytes.
func unhex(into []byte, text string) bool {
	if len(text) != 2*len(into) || strings.ContainsFunc(text, func(r rune) bool { return 'A' <= r && r <= 'F' }) {
		return false
	}
	_, err := hex.Decode(into, []byte(text))
	return err == nil
}

// traceparent is the header of a request that goes out, as a part of its own.
func (t *trace) traceparent() string {
	span := randomSpan()
	return "00-" + t.traceID() + "-" + hex.EncodeToString(span[:]) + "-" + t.flags()
}

// traceID is the trace-id as text; "" of no trace.
func (t *trace) traceID() string {
	if t == nil {
		return ""
	}
	return hex.EncodeToString(t.id[:])
}

func (t *trace) flags() string {
	if t.sampled {
		return "01"
	}
	return "00"
}

// mark is what the change log keeps of a trace: trace-id and flags, in hex; "" of no trace.
func (t *trace) mark() string {
	if t == nil {
		return ""
	}
	return t.traceID() + t.flags()
}

// carried is what a job keeps of its cause: the request's id, a slash, and the mark; "" of no trace.
func (t *trace) carried() string {
	if t == nil {
		return ""
	}
	return t.request + "/" + t.mark()
}

// carriedTrace is the trace of a job. One that an older process made has the request's id only, or
// nothing; it begins a trace.
func carriedTrace(text string) *trace {
	t := &trace{span: randomSpan()}
	var mark string
	t.request, mark, _ = strings.Cut(text, "/")
	if id, flags := [16]byte{}, [1]byte{}; len(mark) == 34 && unhex(id[:], mark[:32]) && unhex(flags[:], mark[32:]) {
		t.id, t.sampled = id, flags[0]&1 == 1
	}
	t.begin()
	return t
}

type traceKey struct{}

func withTrace(ctx context.Context, t *trace) context.Context {
	return context.WithValue(ctx, traceKey{}, t)
}

// traceOf is the trace of the request or job that ctx belongs to, or nil.
func traceOf(ctx context.Context) *trace {
	t, _ := ctx.Value(traceKey{}).(*trace)
	return t
}

// requestOf is the request's id, for logs and problems.
func requestOf(ctx context.Context) string {
	if t := traceOf(ctx); t != nil {
		return t.request
	}
	return ""
}
