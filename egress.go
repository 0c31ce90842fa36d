package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	egressTimeout   = 10 * time.Second // of a request, from looking up the host to the end of the answer
	maxAnswer       = 64 << 10         // bytes read of an answer's body
	maxAnswerHeader = 16 << 10         // bytes
)

// egress sends requests to addresses that users chose, but to none inside: every address is judged when
// it is dialled, so neither the way it is written nor what the DNS says of it later gets around that.
// Redirects are not followed, and no proxy of the environment is asked, which would dial by itself.
// Each request has a connection of its own, which ends with the request's time whatever the peer does.
type egress struct {
	inside  []netip.Prefix // networks that may be called although they are not public
	timeout time.Duration  // egressTimeout, but in tests
	dialer  net.Dialer
	roots   *x509.CertPool // whom to trust; nil for the system's
}

func newEgress(inside []netip.Prefix) *egress { return &egress{inside: inside, timeout: egressTimeout} }

var (
	// publicIPv6 is all of IPv6 that has been given out for the public internet.
	publicIPv6 = netip.MustParsePrefix("2000::/3")
	// special are the parts of IPv4 and of publicIPv6 that are not public, by IANA's registries of
	// special-purpose addresses (RFC 6890), and those that carry an IPv4 address to somewhere else.
	special = []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"),       // this host
		netip.MustParsePrefix("10.0.0.0/8"),      // private
		netip.MustParsePrefix("100.64.0.0/10"),   // behind a carrier's NAT
		netip.MustParsePrefix("127.0.0.0/8"),     // loopback
		netip.MustParsePrefix("169.254.0.0/16"),  // link-local, with the metadata of clouds
		netip.MustParsePrefix("172.16.0.0/12"),   // private
		netip.MustParsePrefix("192.0.0.0/24"),    // protocols
		netip.MustParsePrefix("192.0.2.0/24"),    // documentation
		netip.MustParsePrefix("192.88.99.0/24"),  // 6to4 relays
		netip.MustParsePrefix("192.168.0.0/16"),  // private
		netip.MustParsePrefix("198.18.0.0/15"),   // benchmarks
		netip.MustParsePrefix("198.51.100.0/24"), // documentation
		netip.MustParsePrefix("203.0.113.0/24"),  // documentation
		netip.MustParsePrefix("224.0.0.0/4"),     // multicast
		netip.MustParsePrefix("240.0.0.0/4"),     // reserved, and broadcast
		netip.MustParsePrefix("2001::/23"),       // protocols, Teredo among them
		netip.MustParsePrefix("2001:db8::/32"),   // documentation
		netip.MustParsePrefix("2002::/16"),       // 6to4
		netip.MustParsePrefix("3fff::/20"),       // documentation
	}
)

func anyContains(networks []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(addr) })
}

// permits tells whether an address may be called. Without TLS only what the operator named may be.
func (e *egress) permits(addr netip.Addr, plain bool) bool {
	if addr.Zone() != "" {
		return false
	}
	addr = addr.Unmap()
	if anyContains(e.inside, addr) {
		return true
	}
	return !plain && (addr.Is4() || publicIPv6.Contains(addr)) && !anyContains(special, addr)
}

// endsInNumber is how hosts end that some resolvers read as an IPv4 address: 127.1, 0x7f000001, 017700000001.
var endsInNumber = regexp.MustCompile(`(?i)(^|\.)(0x[0-9a-f]*|[0-9]+)\.?$`)

// refusal says what is wrong with the address of a receiver, "" for nothing. Where the host is a name,
// only dialling shows where it leads.
func (e *egress) refusal(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Opaque != "" || u.Hostname() == "" || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "must be an address such as https://example.org/hook, in ASCII and percent-encoded"
	}
	port, wrongPort := strconv.ParseUint(u.Port(), 10, 16)
	literal, notLiteral := netip.ParseAddr(u.Hostname())
	switch {
	case u.User != nil:
		return "must not have a user name or password in it; the signature proves who sends"
	case strings.Contains(text, "#"):
		return "must not have a fragment (#)"
	case u.Port() == "" && strings.HasSuffix(u.Host, ":"), u.Port() != "" && (wrongPort != nil || port != 80 && port != 443 && port < 1024):
		return "must have no port, or 80, 443 or one from 1024 to 65535"
	case u.Scheme == "http" && e.inside == nil:
		return "must begin with https://; the operator can allow http within networks by WEBHOOK_ALLOW_NETWORKS"
	case notLiteral == nil && !e.permits(literal, u.Scheme == "http"):
		return "must not lead to an address that is not public; the operator can allow networks by WEBHOOK_ALLOW_NETWORKS"
	case notLiteral != nil && endsInNumber.MatchString(u.Hostname()):
		return "must have a host name, or an IP address in its usual form"
	}
	return ""
}

// errInside is a host that leads where no request goes.
var errInside = errors.New("the address is not public")

// dial connects, within the request's time, to an address that it judges. The connection ends then too.
func (e *egress) dial(plain bool) func(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := e.dialer
	dialer.Timeout = e.timeout
	dialer.Control = func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil || !e.permits(at.Addr(), plain) {
			return errInside
		}
		return nil
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, address)
		if err == nil {
			conn.SetDeadline(time.Now().Add(e.timeout))
		}
		return conn, err
	}
}

// reply is what came back.
type reply struct {
	status int
	body   []byte // at most maxAnswer; what came in time
}

// post sends a body and waits for the answer. Its errors tell a user what he can do about them, and
// nothing of the networks here.
func (e *egress) post(ctx context.Context, address string, header http.Header, body []byte) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil || e.refusal(address) != "" { // it was judged when it was set, but the settings may have changed
		return reply{}, errors.New("the address is not allowed any more")
	}
	req.Header = header
	transport := &http.Transport{
		DialContext:       e.dial(req.URL.Scheme == "http"),
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxAnswerHeader,
		TLSClientConfig: &tls.Config{RootCAs: e.roots, MinVersion: tls.VersionTLS12},
	}
	resp, err := transport.RoundTrip(req) // unlike a client it follows no redirect
	if err != nil {
		return reply{}, e.explain(err)
	}
	defer resp.Body.Close()
	got := reply{status: resp.StatusCode}
	if got.status != http.StatusSwitchingProtocols { // whose body is the connection
		got.body, _ = io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // the status alone decides
	}
	return got, nil
}

// explain makes of a failure what its user may know: whether a name is not known here or leads inside,
// and who listens there, it does not tell.
func (e *egress) explain(err error) error {
	lookup, unknown := errors.AsType[*net.DNSError](err)
	certificate, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	failure, network := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, errInside), unknown && !lookup.Timeout():
		return errors.New("the host has no public address; the operator can allow others by WEBHOOK_ALLOW_NETWORKS")
	case errors.Is(err, context.DeadlineExceeded), network && failure.Timeout():
		return fmt.Errorf("no answer within %v", e.timeout)
	case untrusted:
		return fmt.Errorf("TLS: %w", certificate.Err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return errors.New("the receiver refused the connection")
	}
	return errors.New("the connection failed before there was an answer")
}
