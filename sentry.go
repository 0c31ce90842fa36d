package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Limits of what is told to the collector of errors. Whatever it does, requests and jobs do not wait.
const (
	maxReports     = 64              // that wait to be sent; more are dropped
	maxSame        = 5               // of one type at one place in a minute
	maxReported    = 100             // of all in a minute
	maxReportText  = 2 << 10         // bytes of an error's text
	maxFrames      = 100             // of a stack; the nearest to the panic
	reportTimeout  = 5 * time.Second // of a request to the collector
	reportPatience = 2 * time.Second // for what still waits when the process ends
	usualPause     = time.Minute     // after a 429 that does not say how long
	longestPause   = 24 * time.Hour  // that a collector is believed
	reportTell     = time.Minute     // between lines of the log about reports that were lost
	reportClient   = "taskflow"      // what the collector knows this program as
	reportMedia    = "application/x-sentry-envelope"
)

// reporter tells a collector what went wrong, in the language of Sentry: an event, in an envelope
// (https://develop.sentry.dev/sdk/foundations/transport/envelopes/). It runs in one goroutine from
// newReporter to close. A nil one tells nobody.
type reporter struct {
	endpoint string
	auth     string // X-Sentry-Auth
	http     *http.Client
	log      *slog.Logger
	about    aboutProcess

	waiting chan report
	dropped atomic.Int64 // of which the log has not told yet
	lost    atomic.Int64 // in all
	mu      sync.Mutex
	minute  time.Time         // when the counting began
	counted map[sameError]int // reports since; as many as maxReported
	total   int

	until    time.Time // the collector wants nothing before
	told     time.Time // when the log last told of what was lost
	stopping chan struct{}
	ended    chan struct{}
	cancel   context.CancelFunc // of requests under way
	ctx      context.Context
}

// aboutProcess is what all its reports say.
type aboutProcess struct{ release, environment, server string }

// sameError is what makes errors the same: the type, and where it came up.
type sameError struct{ kind, place string }

// report is one thing that went wrong. It has nothing of a request but what is named here: no address, no
// header, no body, no path and no query.
type report struct {
	at     time.Time
	level  string // error, or warning where the cause is a store
	kind   string // type of the error
	text   string // may have secrets, which do not get further than here
	by     string // panic, http or job: how it was noticed
	place  string // route pattern or kind of job
	frames []frame
	user   string // id, or ""
	trace  *trace // nil: none
	tags   map[string]string
}

// newReporter starts a reporter; nil where no collector is set.
func newReporter(cfg config, log *slog.Logger) *reporter {
	if cfg.collector.endpoint == "" {
		return nil
	}
	host, _ := os.Hostname()
	r := &reporter{
		endpoint: cfg.collector.endpoint,
		// https://develop.sentry.dev/sdk/foundations/transport/authentication/
		auth: "Sentry sentry_version=7, sentry_client=" + reportClient + "/" + version + ", sentry_key=" + string(cfg.collector.key),
		log:  log, about: aboutProcess{release: reportClient + "@" + version, environment: "production", server: host},
		http: &http.Client{
			Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 16 << 10},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Timeout:       reportTimeout,
		},
		waiting: make(chan report, maxReports), counted: map[sameError]int{},
		stopping: make(chan struct{}), ended: make(chan struct{}),
	}
	if cfg.dev {
		r.about.environment = "development"
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	go r.run()
	return r
}

// tell has a report sent soon, unless there were too many. It never waits.
func (r *reporter) tell(e report) {
	if r == nil {
		return
	}
	e.at = time.Now()
	if !r.admits(e) {
		r.drop()
		return
	}
	select {
	case r.waiting <- e:
	default:
		r.drop()
	}
}

func (r *reporter) drop() {
	r.dropped.Add(1)
	r.lost.Add(1)
}

// admits counts a report, and tells whether it is within what may be sent in a minute.
func (r *reporter) admits(e report) bool {
	same := sameError{e.kind, e.place}
	if len(e.frames) > 0 {
		same.place = e.frames[0].Function + ":" + strconv.Itoa(e.frames[0].Line)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.at.Sub(r.minute) >= time.Minute {
		r.minute, r.total = e.at, 0
		clear(r.counted)
	}
	if r.total >= maxReported || r.counted[same] >= maxSame {
		return false
	}
	r.total++
	r.counted[same]++
	return true
}

// run sends what is told until close, and then what still waits.
func (r *reporter) run() {
	defer close(r.ended)
	for {
		select {
		case e := <-r.waiting:
			r.deliver(e)
			continue
		default:
		}
		select {
		case e := <-r.waiting:
			r.deliver(e)
		case <-r.stopping:
			return
		}
	}
}

// close sends what waits, for at most reportPatience, and ends the reporter.
func (r *reporter) close() {
	if r == nil {
		return
	}
	close(r.stopping)
	impatient := time.AfterFunc(reportPatience, r.cancel)
	<-r.ended
	impatient.Stop()
	r.cancel()
	r.http.CloseIdleConnections()
	r.tellLost(nil)
}

// deliver sends one report, once. The collector may ask for a pause, in which none is sent.
func (r *reporter) deliver(e report) {
	var err error
	if e.at.Before(r.until) || r.ctx.Err() != nil || time.Now().Before(r.until) {
		r.drop()
	} else if err = r.send(e); err != nil {
		r.drop()
	}
	if time.Since(r.told) >= reportTell {
		r.tellLost(err)
	}
}

// tellLost has the log tell how many reports were lost since it last did.
func (r *reporter) tellLost(err error) {
	if n := r.dropped.Swap(0); n > 0 {
		r.told = time.Now()
		r.log.Warn("error reports were not sent", "count", n, "error", err)
	}
}

func (r *reporter) send(e report) error {
	body, err := r.envelope(e)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(r.ctx, http.MethodPost, r.endpoint, bytes.NewReader(body))
	if err != nil {
		return errors.New("the collector's address is not valid") // without it
	}
	req.Header = http.Header{"Content-Type": {reportMedia}, "X-Sentry-Auth": {r.auth}, "User-Agent": {reportClient + "/" + version}}
	resp, err := r.http.Do(req)
	if err != nil {
		if failed, ok := errors.AsType[*url.Error](err); ok {
			err = failed.Err // it quotes the address
		}
		return err
	}
	io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	resp.Body.Close()
	if pause := pauseOf(resp); pause > 0 {
		r.until = time.Now().Add(min(pause, longestPause))
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("the collector answered %d", resp.StatusCode)
	}
	return nil
}

// pauseOf is for how long a collector wants no errors, by its answer
// (https://develop.sentry.dev/sdk/foundations/transport/rate-limiting/). X-Sentry-Rate-Limits lists seconds,
// categories with semicolons between them, none for all, and more that is for nobody here to read.
func pauseOf(resp *http.Response) (pause time.Duration) {
	limits := strings.Join(resp.Header.Values("X-Sentry-Rate-Limits"), ",")
	for limit := range strings.SplitSeq(limits, ",") {
		part := strings.Split(strings.TrimSpace(limit), ":")
		after, err := strconv.ParseFloat(part[0], 64)
		if err != nil || len(part) < 2 || part[1] != "" && !slices.Contains(strings.Split(part[1], ";"), "error") {
			continue
		}
		pause = max(pause, untilAfter(after))
	}
	if limits != "" || resp.StatusCode != http.StatusTooManyRequests {
		return pause
	}
	text := resp.Header.Get("Retry-After") // RFC 9110, section 10.2.3
	if after, err := strconv.ParseFloat(text, 64); err == nil && after >= 0 {
		return untilAfter(after)
	}
	if at, err := http.ParseTime(text); err == nil {
		return time.Until(at)
	}
	return usualPause
}

// untilAfter is a number of seconds, within what a collector is believed.
func untilAfter(seconds float64) time.Duration {
	if !(seconds > 0) { // also what is no number
		return 0
	}
	return time.Duration(min(seconds, longestPause.Seconds()) * float64(time.Second))
}

// frame is one call of a stack (https://develop.sentry.dev/sdk/foundations/transport/event-payloads/stacktrace/).
type frame struct {
	Function string `json:"function"`
	Module   string `json:"module"` // package
	Filename string `json:"filename"`
	Line     int    `json:"lineno"`
	InApp    bool   `json:"in_app"` // this program's own
}

// panicFrames are the calls that led to a panic, the nearest first. It is for the deferred function that
// has recovered it.
func panicFrames() []frame {
	pcs := make([]uintptr, maxFrames)
	calls := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs)])
	own, more := calls.Next() // this function
	self, _ := splitFunction(own.Function)
	var frames []frame
	panicked := false
	for more {
		var call runtime.Frame
		call, more = calls.Next()
		module, function := splitFunction(call.Function)
		switch {
		case call.Function == "runtime.gopanic":
			panicked, frames = true, nil // what was called since is how it was recovered
		case panicked && len(frames) == 0 && module == "runtime": // how the processor's complaint became a panic
		default:
			frames = append(frames, frame{function, module, fileOf(call.File, module == self), call.Line, module == self})
		}
	}
	if !panicked {
		return nil
	}
	return frames
}

// splitFunction splits the name of a function, such as net/http.(*conn).serve, after its package.
func splitFunction(name string) (module, function string) {
	slash := strings.LastIndexByte(name, '/') + 1
	dot := strings.IndexByte(name[slash:], '.')
	if dot < 0 {
		return "", name
	}
	return name[:slash+dot], name[slash+dot+1:]
}

// fileOf is a source file without where it lay when the program was built.
func fileOf(file string, own bool) string {
	if own {
		return path.Base(file)
	}
	for _, root := range []string{"/pkg/mod/", "/src/"} {
		if _, inside, ok := strings.Cut(file, root); ok {
			return inside
		}
	}
	return file
}

// mailAddress is an address of somebody in an error's text, as mail servers put it there.
var mailAddress = regexp.MustCompile(`[^\s<>()\[\]@,;:"'/]+@[^\s<>()\[\]@,;:"'/]+\.[A-Za-z]{2,}`)

// shown is an error's text without secrets and people's addresses.
func shown(text string) string {
	return clip(mailAddress.ReplaceAllString(maskText(clip(text, 2*maxReportText)), "[address]"), maxReportText)
}

// errorType names an error by the innermost of its types that tells something.
func errorType(err error) string {
	name := "error"
	for ; err != nil; err = errors.Unwrap(err) {
		switch text := strings.TrimPrefix(fmt.Sprintf("%T", err), "*"); text {
		case "errors.errorString", "errors.joinError", "fmt.wrapError", "fmt.wrapErrors":
		default:
			name = text
		}
	}
	return name
}

// panicType names what a panic was called with.
func panicType(value any) string {
	if err, ok := value.(error); ok {
		return errorType(err)
	}
	return "panic"
}

// The parts of an event (https://develop.sentry.dev/sdk/foundations/transport/event-payloads/).
type (
	reportEvent struct {
		EventID     string            `json:"event_id"`
		Timestamp   string            `json:"timestamp"`
		Platform    string            `json:"platform"`
		Level       string            `json:"level"`
		Release     string            `json:"release"`
		Environment string            `json:"environment"`
		ServerName  string            `json:"server_name,omitempty"`
		Transaction string            `json:"transaction,omitempty"`
		Tags        map[string]string `json:"tags,omitempty"`
		User        *reportUser       `json:"user,omitempty"`
		Contexts    map[string]any    `json:"contexts"`
		Exception   reportExceptions  `json:"exception"`
		SDK         reportSDK         `json:"sdk"`
	}
	reportUser struct {
		ID string `json:"id"`
	}
	reportSDK struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	}
	reportExceptions struct {
		Values []reportException `json:"values"`
	}
	reportException struct {
		Type       string          `json:"type"`
		Value      string          `json:"value"`
		Mechanism  reportMechanism `json:"mechanism"`
		Stacktrace *reportStack    `json:"stacktrace,omitempty"`
	}
	reportMechanism struct {
		Type    string `json:"type"`
		Handled bool   `json:"handled"`
	}
	reportStack struct {
		Frames []frame `json:"frames"` // the nearest last
	}
)

// envelope is a report as it is sent: a line of headers, a line about the one item, and the item.
func (r *reporter) envelope(e report) ([]byte, error) {
	id := newUUID()
	event := reportEvent{
		EventID: hex.EncodeToString(id[:]), Timestamp: e.at.UTC().Format(time.RFC3339Nano), Platform: "go", Level: e.level,
		Release: r.about.release, Environment: r.about.environment, ServerName: r.about.server, Transaction: e.place,
		Tags: e.tags, SDK: reportSDK{reportClient, version}, Contexts: map[string]any{"runtime": map[string]string{"name": "go", "version": runtime.Version()}},
	}
	if e.user != "" {
		event.User = &reportUser{e.user}
	}
	if e.trace != nil {
		of := map[string]string{"trace_id": e.trace.traceID(), "span_id": hex.EncodeToString(e.trace.span[:])}
		if e.trace.parent != [8]byte{} {
			of["parent_span_id"] = hex.EncodeToString(e.trace.parent[:])
		}
		event.Contexts["trace"] = of
	}
	exception := reportException{Type: cmp.Or(e.kind, "error"), Value: shown(e.text), Mechanism: reportMechanism{e.by, e.by != "panic"}}
	if len(e.frames) > 0 {
		slices.Reverse(e.frames)
		exception.Stacktrace = &reportStack{e.frames}
	}
	event.Exception.Values = []reportException{exception}
	item, err := json.Marshal(event)
	if err != nil {
		return nil, fmt.Errorf("encode error report: %w", err)
	}
	head := fmt.Sprintf("{\"event_id\":%q,\"sent_at\":%q}\n{\"type\":\"event\",\"content_type\":\"application/json\",\"length\":%d}\n",
		event.EventID, time.Now().UTC().Format(time.RFC3339Nano), len(item))
	return append(append([]byte(head), item...), '\n'), nil
}
