package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	maxQuery = 8 << 10 // bytes of a query string
	maxHops  = 20      // proxies that X-Forwarded-For is read through
)

// apiHeaders stand on every answer. Pages widen the content policy for their own files. All answers
// share the values, which nobody changes in place.
var apiHeaders = []struct {
	name   string
	values []string
}{
	{"Vary", []string{"Origin"}},
	{"Content-Security-Policy", []string{"default-src 'none'; frame-ancestors 'none'"}},
	{"Referrer-Policy", []string{"no-referrer"}},
	{"X-Content-Type-Options", []string{"nosniff"}},
	{"Cache-Control", []string{"no-store"}},
}

// front is the outermost handler, around the mux: request id, where the request comes from, headers,
// panics and the access log; then it refuses what no route should see.
func (s *server) front(mux http.Handler) http.Handler {
	origins := http.NewCrossOriginProtection()
	public, _ := url.Parse(s.config.publicURL) // config.check has read it
	for _, origin := range append([]string{public.Scheme + "://" + public.Host}, s.config.corsOrigins...) {
		if err := origins.AddTrustedOrigin(origin); err != nil {
			s.log.Error("origin not trusted", "origin", origin, "error", err)
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		s.traffic.inFlight.Add(1)
		rec := &recorder{ResponseWriter: w}
		id := requestID(r)
		t := newTrace(id, r.Header["Traceparent"])
		r = r.WithContext(withTrace(r.Context(), t))
		if s.config.timing {
			rec.timing = &timing{began: start}
			r = r.WithContext(context.WithValue(r.Context(), timingKey{}, rec.timing))
		}
		scheme := s.unproxy(r)
		header := w.Header()
		header.Set("X-Request-Id", id)
		for _, h := range apiHeaders {
			header[h.name] = h.values
		}
		if scheme == "https" {
			header.Set("Strict-Transport-Security", "max-age=31536000") // RFC 6797
		}
		if s.stopping.Load() || r.TransferEncoding != nil || !r.ProtoAtLeast(1, 1) {
			// So that the client's next request goes elsewhere; and that what a proxy took for a part of
			// this one, by a length beside the chunks or none, is not taken for the next (RFC 9112, section 6.1).
			header.Set("Connection", "close")
		}
		defer func() {
			took := time.Since(start)
			s.traffic.end(rec.seen, r.Method, rec.status, took)
			s.log.LogAttrs(r.Context(), slog.LevelInfo, "request", slog.String("requestId", id), slog.String("traceId", t.traceID()), slog.String("method", r.Method),
				slog.String("path", loggedPath(r, rec.route)), slog.String("route", rec.route), slog.Int("status", rec.status), slog.Int64("bytes", rec.bytes),
				slog.Float64("ms", float64(took.Microseconds())/1000), slog.String("user", rec.caller()), slog.String("ip", clientAddr(r).String()))
		}()
		defer func() {
			if p := recover(); p == http.ErrAbortHandler {
				panic(p)
			} else if p != nil {
				s.traffic.panics.Add(1)
				s.log.Error("panic", "panic", fmt.Sprint(p), "stack", string(debug.Stack()), "requestId", id, "traceId", t.traceID())
				s.reports.tell(report{level: "error", kind: panicType(p), text: fmt.Sprint(p), by: "panic", place: rec.route, frames: panicFrames(), user: rec.caller(), trace: t,
					tags: map[string]string{"requestId": id, "status": "500"}})
				s.fail(rec, r, errPanicked)
			}
		}()
		shared := s.shareWith(header, r)
		if p := sanePath(r); p != nil {
			s.fail(rec, r, p)
			return
		}
		if scheme == "http" && public.Scheme == "https" && r.URL.Path != "/health" && r.URL.Path != "/ready" {
			s.fail(rec, r, newProblem("https_required", "This installation is reached at "+s.config.publicURL+" only. What you sent went over the network in clear: change what was secret in it."))
			return
		}
		if shared && r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			allowShared(header)
			rec.WriteHeader(http.StatusNoContent)
			return
		}
		if err := origins.Check(r); err != nil {
			s.fail(rec, r, newProblem("cross_origin", ""))
			return
		}
		mux.ServeHTTP(rec, r)
	})
}

// loggedPath is a request's path as the log may have it: of a route whose address holds a token, the route's.
func loggedPath(r *http.Request, route string) string {
	if _, path, _ := strings.Cut(route, " "); strings.Contains(path, "{token}") {
		return path
	}
	return r.URL.Path
}

// shareWith lets pages of other origins read the answer where CORS_ORIGINS names theirs, and tells
// whether it does (https://fetch.spec.whatwg.org, CORS protocol). Tokens are sent by the page itself,
// so no cookies are let through.
func (s *server) shareWith(header http.Header, r *http.Request) bool {
	origin := r.Header["Origin"]
	if len(origin) != 1 || !slices.Contains(s.config.corsOrigins, origin[0]) {
		return false
	}
	header.Set("Access-Control-Allow-Origin", origin[0])
	header.Set("Access-Control-Expose-Headers", "ETag, Idempotency-Replayed, Link, Location, RateLimit, RateLimit-Policy, Retry-After, X-Request-Id")
	return true
}

// allowShared answers a preflight: everything the API takes. Whether there is such a route, the page
// learns from the request itself.
func allowShared(header http.Header) {
	header.Add("Vary", "Access-Control-Request-Method, Access-Control-Request-Headers")
	header.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE")
	header.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, Traceparent, X-Request-Id")
	header.Set("Access-Control-Max-Age", "7200") // seconds
}

// sanePath refuses what the mux would answer itself, in plain text or by a redirect.
func sanePath(r *http.Request) error {
	if r.Method == http.MethodConnect || !strings.HasPrefix(r.URL.Path, "/") {
		return newProblem("bad_request", "The request target must be a path.")
	}
	if clean := path.Clean(r.URL.Path); clean != r.URL.Path && (clean+"/" != r.URL.Path || clean == "/") {
		return newProblem("not_found", "")
	}
	if len(r.URL.RawQuery) > maxQuery {
		return badParameter(fieldError{"query", "too_long", fmt.Sprintf("must be at most %d bytes", maxQuery)})
	}
	return nil
}

var saneRequestID = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)

// requestID is the client's own id where it is harmless to repeat, or else a new one.
func requestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-Id"); saneRequestID.MatchString(id) {
		return id
	}
	return newUUID().String()
}

// clientAddr is where a request comes from.
func clientAddr(r *http.Request) netip.Addr {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	return peer.Addr().Unmap()
}

// unproxy finds out where a request comes from, notes it in r as if there were no proxies, and returns
// the scheme that the client used: https, http, or "" for who asks from this machine itself. Only
// trusted proxies are believed what they say of that.
func (s *server) unproxy(r *http.Request) (scheme string) {
	addr := clientAddr(r)
	switch {
	case r.TLS != nil:
		scheme = "https"
	case !addr.IsLoopback():
		scheme = "http"
	}
	if !s.trusts(addr) {
		return scheme
	}
	if said := r.Header["X-Forwarded-Proto"]; len(said) > 0 {
		scheme = "http"
		if _, last, _ := cutLast(","+said[len(said)-1], ","); strings.EqualFold(strings.TrimSpace(last), "https") {
			scheme = "https"
		}
	}
	if list := r.Header["X-Forwarded-For"]; len(list) > 0 {
		r.RemoteAddr = netip.AddrPortFrom(s.forwardedFor(strings.Join(list, ","), addr), 0).String()
	}
	return scheme
}

func (s *server) trusts(addr netip.Addr) bool {
	return slices.ContainsFunc(s.config.proxies, func(network netip.Prefix) bool { return network.Contains(addr) })
}

// forwardedFor is the rightmost address in X-Forwarded-For that no trusted proxy has: each proxy adds
// who asked it on the right, so what stands to the left of that is anybody's claim. Where the list
// ends or has no address, it is the proxy that wrote there.
func (s *server) forwardedFor(list string, proxy netip.Addr) netip.Addr {
	for range maxHops {
		before, hop, more := cutLast(list, ",")
		if !more {
			before, hop = "", list
		}
		addr, err := netip.ParseAddr(strings.Trim(hop, " \t"))
		if err != nil || addr.Zone() != "" {
			return proxy
		}
		proxy = addr.Unmap()
		if !more || !s.trusts(proxy) {
			return proxy
		}
		list = before
	}
	return proxy
}

// networkOf is the network of an address by which strangers are told apart.
func networkOf(addr netip.Addr, bits4, bits6 int) netip.Prefix {
	bits := bits6
	if addr.Is4() {
		bits = bits4
	}
	network, err := addr.Prefix(bits)
	if err != nil { // no address: all of those are one
		return netip.PrefixFrom(netip.IPv6Unspecified(), 128)
	}
	return network
}

// addressKey is who a limit counts where nobody is signed in: an address, or in IPv6 the network of
// 64 bits that one customer has at least.
func addressKey(r *http.Request) limitKey {
	return limitKey{'a', networkOf(clientAddr(r), 32, 64).Addr().As16()}
}

// charge counts a request against a limit, and tells the caller what is left of it
// (draft-ietf-httpapi-ratelimit-headers-10). It refuses the request when that is not enough.
func charge(w http.ResponseWriter, l *limiter, key limitKey, cost int) error {
	if l == nil {
		return nil
	}
	a := l.take(key, cost)
	w.Header().Set("RateLimit-Policy", l.policy)
	w.Header().Set("RateLimit", `"`+l.name+`";r=`+strconv.Itoa(a.left)+";t="+seconds(a.full))
	if a.ok {
		return nil
	}
	l.refused.Add(1)
	return newProblem("rate_limited", fmt.Sprintf("You may make %d requests at once, and then one every %v; wait %s s.", l.rate.quota, l.rate.interval(), seconds(a.wait))).
		with("Retry-After", seconds(a.wait))
}

// seconds is a time in whole seconds, rounded up, as headers have it.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}
