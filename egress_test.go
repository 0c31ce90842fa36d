package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// names is a DNS server (RFC 1035) that knows a few names and says of all others that they are none.
type names struct {
	socket net.PacketConn
	known  map[string][]string // the addresses of a name
}

func newNames(t testing.TB, known map[string][]string) *net.Resolver {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	go (&names{socket, known}).serve()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", socket.LocalAddr().String())
	}}
}

func (n *names) serve() {
	packet := make([]byte, 512)
	for {
		size, from, err := n.socket.ReadFrom(packet)
		if err != nil {
			return
		}
		if answer := n.answer(packet[:size]); answer != nil {
			n.socket.WriteTo(answer, from)
		}
	}
}

// answer is what a query with one question is answered, nil if it is none.
func (n *names) answer(query []byte) []byte {
	if len(query) < 17 {
		return nil
	}
	var name []string
	at := 12
	for at < len(query) && query[at] != 0 {
		end := at + 1 + int(query[at])
		if end >= len(query) {
			return nil
		}
		name = append(name, string(query[at+1:end]))
		at = end
	}
	question := query[12 : at+5]
	kind := binary.BigEndian.Uint16(query[at+1:])
	addresses, known := n.known[strings.Join(name, ".")]
	code := byte(0)
	if !known {
		code = 3 // NXDOMAIN
	}
	var records []byte
	count := uint16(0)
	for _, text := range addresses {
		raw := netip.MustParseAddr(text).AsSlice()
		if kind == 1 && len(raw) == 4 || kind == 28 && len(raw) == 16 {
			records = append(records, 0xc0, 12, byte(kind>>8), byte(kind), 0, 1, 0, 0, 0, 0, 0, byte(len(raw)))
			records = append(records, raw...)
			count++
		}
	}
	answer := append([]byte{query[0], query[1], 0x84, code, 0, 1, byte(count >> 8), byte(count), 0, 0, 0, 0}, question...)
	return append(answer, records...)
}

func TestWhichAddressesMayBeCalled(t *testing.T) {
	t.Parallel()
	none, some := newEgress(nil), newEgress([]netip.Prefix{netip.MustParsePrefix("10.20.0.0/16"), netip.MustParsePrefix("fd00:1::/32"), netip.MustParsePrefix("127.0.0.1/32")})
	inside := strings.Fields(`0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 127.0.0.1 127.255.255.254 169.254.0.1 169.254.169.254 172.16.0.0 172.31.255.255
		192.0.0.1 192.0.0.170 192.0.2.1 192.88.99.1 192.168.0.1 192.168.255.255 198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.9 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
		:: ::1 ::7f00:1 ::127.0.0.1 ::ffff:0:127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.1.2.3 ::ffff:169.254.169.254 ::ffff:192.168.1.1 64:ff9b::127.0.0.1 64:ff9b::8.8.8.8 64:ff9b:1::1 100::1 1fff::1
		2001::1 2001:0:7f00:1:: 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1:: 2002:808:808::1 3fff::1 3fff:fff::1 4000::1 5f00::1 fc00::1 fd00::1 fd12:3456::1 fe80::1 fec0::1 ff02::1 ff0e::1
		fe80::1%eth0 fe80::1%lo 2606:4700::1111%eth0 ::1%lo ::ffff:127.0.0.1%1`)
	for _, text := range inside {
		addr := netip.MustParseAddr(text)
		if none.permits(addr, false) || none.permits(addr, true) {
			t.Errorf("%s may be called", text)
		}
	}
	if len(inside) < 50 {
		t.Errorf("only %d addresses were tried", len(inside))
	}
	for _, text := range strings.Fields(`1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.1 100.63.255.255 100.128.0.1 126.255.255.255 128.0.0.1 169.253.1.1 169.255.1.1 172.15.255.255 172.32.0.1 192.0.1.1 192.0.3.1
		192.167.1.1 192.169.1.1 198.17.1.1 198.20.1.1 203.0.114.1 223.255.255.255 ::ffff:8.8.8.8 2001:200::1 2001:4860:4860::8888 2606:4700:4700::1111 2a00:1450::1 2003::1 3ffe::1`) {
		addr := netip.MustParseAddr(text)
		if !none.permits(addr, false) || none.permits(addr, true) {
			t.Errorf("%s may not be called, or without TLS", text)
		}
	}
	for text, want := range map[string]bool{"10.20.1.2": true, "::ffff:10.20.1.2": true, "10.21.0.1": false, "fd00:1::5": true, "fd00:2::5": false, "127.0.0.1": true, "127.0.0.2": false, "fd00:1::5%eth0": false} {
		if addr := netip.MustParseAddr(text); some.permits(addr, true) != want || some.permits(addr, false) != want {
			t.Errorf("%s of the operator's networks: want %v", text, want)
		}
	}
}

func TestAddressesOfReceiversThatAreRefused(t *testing.T) {
	t.Parallel()
	production, local := newEgress(nil), newEgress([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")})
	refused := []string{
		"", "hooks", "hooks.example.org/x", "//hooks.example.org", "https:", "https://", "https:///x", "https:hooks.example.org", "ftp://hooks.example.org", "file:///etc/passwd", "gopher://hooks.example.org:70/_x", "javascript:alert(1)",
		"https://user@hooks.example.org", "https://user:pass@hooks.example.org", "https://hooks.example.org#x", "https://hooks.example.org/#", "https://hooks.example.org:", "https://hooks.example.org:0", "https://hooks.example.org:22", "https://hooks.example.org:25",
		"https://hooks.example.org:1023", "https://hooks.example.org:65536", "https://hooks.example.org:http", "https://hooks.example.org/ü", "https://hööks.example.org", "https://hooks.example.org/a b", "https://hooks.example.org/\r\nHost: x", "https://hooks.exa\tmple.org",
		"https://0/", "https://0.0.0.0/", "https://1/", "https://127.1/", "https://127.0.1/", "https://2130706433/", "https://0x7f000001/", "https://0x7f.1/", "https://0X7F.0.0.1/", "https://017700000001/", "https://0177.0.0.1/", "https://127.0.0.1./", "https://1.2.3.4.5/", "https://8.8.8.08/", "https://hooks.256/",
		"https://10.0.0.1/", "https://169.254.169.254/latest/meta-data/", "https://192.168.1.1:8443/", "https://[::]/", "https://[::1]:6379/", "https://[::ffff:10.0.0.1]/", "https://[fe80::1%25eth0]/", "https://[fd00::1]/", "https://[64:ff9b::7f00:1]/", "https://[::1", "https://[::1]x/", "https://[127.0.0.1]/",
	}
	for _, address := range refused {
		for name, e := range map[string]*egress{"in production": production, "where loopback is allowed": local} {
			if e.refusal(address) == "" {
				t.Errorf("%q is taken %s", address, name)
			}
			if _, err := e.post(t.Context(), address, http.Header{}, nil); err == nil {
				t.Errorf("%q is called %s", address, name)
			}
		}
	}
	for _, address := range []string{"https://127.0.0.1/", "https://127.9.9.9:8080/", "http://127.0.0.1:8080/", "http://hooks.example.org/"} {
		if production.refusal(address) == "" || local.refusal(address) != "" {
			t.Errorf("%s: want it taken only where loopback is allowed", address)
		}
	}
	for _, address := range []string{"https://hooks.example.org", "https://hooks.example.org/a?b=c%20d", "https://hooks.example.org:443/", "https://hooks.example.org:80/", "https://hooks.example.org:8443/x", "HTTPS://Hooks.Example.Org/", "https://8.8.8.8/", "https://[2606:4700::1111]:8443/x", "https://xn--hks-sna.example.org", "https://1.example.org", "https://hooks.0xample"} {
		if wrong := production.refusal(address); wrong != "" {
			t.Errorf("%s %s", address, wrong)
		}
	}
}

// However a host is written, and whatever the DNS says of it, nobody is called who is inside.
func TestNobodyInsideIsCalled(t *testing.T) {
	t.Parallel()
	var called atomic.Int64
	var port string
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		if port != "" {
			address = "[::1]:" + port
		}
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		_, port, _ = net.SplitHostPort(listener.Addr().String())
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				called.Add(1)
				conn.Close()
			}
		}()
	}
	e := newEgress(nil)
	hosts := map[string][]string{
		"loop.test": {"127.0.0.1"}, "other.test": {"127.9.8.7"}, "six.test": {"::1"}, "both.test": {"127.0.0.1", "::1"}, "mapped.test": {"::ffff:127.0.0.1"}, "any.test": {"0.0.0.0"}, "any6.test": {"::"},
		"meta.test": {"169.254.169.254"}, "private.test": {"10.0.0.1", "192.168.0.1", "172.16.0.1"}, "shared.test": {"100.64.0.1"}, "local.test": {"fe80::1"}, "unique.test": {"fd00::1"}, "nat64.test": {"64:ff9b::7f00:1"},
		"6to4.test": {"2002:7f00:1::"}, "teredo.test": {"2001:0:7f00:1::"}, "compatible.test": {"::127.0.0.1"}, "multicast.test": {"224.0.0.1"}, "broadcast.test": {"255.255.255.255"},
		// As resolvers of some systems read them.
		"127.1": {"127.0.0.1"}, "2130706433": {"127.0.0.1"}, "0x7f000001": {"127.0.0.1"}, "0x7f.1": {"127.0.0.1"}, "017700000001": {"127.0.0.1"}, "0177.0.0.1": {"127.0.0.1"}, "0": {"0.0.0.0"},
		"nowhere.test": {},
	}
	e.dialer.Resolver = newNames(t, hosts)
	tried := []string{"localhost", "LOCALHOST", "localhost.", "127.0.0.1", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1", "0.0.0.0", "::", "::1%lo", "unknown.test", "loop.test."}
	for host := range hosts {
		tried = append(tried, host)
	}
	for _, host := range tried {
		for _, plain := range []bool{false, true} {
			conn, err := e.dial(plain)(t.Context(), "tcp", net.JoinHostPort(host, port))
			if err == nil {
				conn.Close()
				t.Errorf("%s is called", host)
			} else if got := e.explain(err).Error(); !strings.HasPrefix(got, "the host has no public address") {
				t.Errorf("%s: got %q for %v", host, got, err)
			}
		}
	}
	if len(tried) < 30 || called.Load() != 0 {
		t.Errorf("%d hosts led to %d calls", len(tried), called.Load())
	}
	e.inside = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	if conn, err := e.dial(true)(t.Context(), "tcp", net.JoinHostPort("both.test", port)); err != nil {
		t.Errorf("an allowed address is not called: %v", err) // so the names do lead there
	} else {
		conn.Close()
	}
}

func TestARequestToAReceiver(t *testing.T) {
	t.Parallel()
	e := newEgress([]netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")})
	post := func(address string) (reply, error) {
		return e.post(t.Context(), address, http.Header{"Webhook-Id": {"x"}}, []byte("body"))
	}
	t.Run("is not led elsewhere by a redirect", func(t *testing.T) {
		var followed atomic.Int64
		target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Add(1) }))
		defer target.Close()
		for _, status := range []int{301, 302, 303, 307, 308} {
			for _, to := range []string{target.URL, "http://169.254.169.254/", "/elsewhere", "file:///etc/passwd"} {
				calls := 0
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					calls++
					w.Header().Set("Location", to)
					w.WriteHeader(status)
				}))
				got, err := post(server.URL)
				server.Close()
				if err != nil || got.status != status || calls != 1 || followed.Load() != 0 {
					t.Errorf("%d to %s: got %d (%v) after %d calls, and %d to where it led", status, to, got.status, err, calls, followed.Load())
				}
			}
		}
	})
	t.Run("trusts only a certificate of the host", func(t *testing.T) {
		server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }))
		defer server.Close()
		if _, err := post(server.URL); err == nil || !strings.HasPrefix(err.Error(), "TLS: x509: ") {
			t.Errorf("an unknown certificate: got %v", err)
		}
		trusting := newEgress(e.inside)
		trusting.roots = x509.NewCertPool()
		trusting.roots.AddCert(server.Certificate())
		if got, err := trusting.post(t.Context(), server.URL, http.Header{}, []byte("body")); err != nil || string(got.body) != "body" {
			t.Errorf("a trusted one: got %q, %v", got.body, err)
		}
		if _, err := post(strings.Replace(server.URL, "https", "http", 1)); err != nil {
			t.Errorf("plain HTTP to a server of TLS, which answers 400: got %v", err)
		}
	})
	t.Run("tells what failed and nothing of the network", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		closed := listener.Addr().String()
		listener.Close()
		if _, err := post("http://" + closed); err == nil || err.Error() != "the receiver refused the connection" {
			t.Errorf("got %v", err)
		}
		server := httptest.NewServer(nil)
		defer server.Close()
		if _, err := post(strings.Replace(server.URL, "http", "https", 1)); err == nil || strings.Contains(err.Error(), "127.0.0.1") {
			t.Errorf("TLS to a server without: got %v", err)
		}
	})
}

// Whatever a receiver does with its answer, it holds nobody longer than the timeout, nor fills the memory.
func TestReceiversThatTakeTheirTime(t *testing.T) {
	t.Parallel()
	const timeout = 2 * time.Second
	forever := func(conn net.Conn, piece string, pause time.Duration) {
		for {
			if _, err := io.WriteString(conn, piece); err != nil {
				return
			}
			time.Sleep(pause)
		}
	}
	for name, test := range map[string]struct {
		answer func(conn net.Conn)
		status int // 0: no answer in time
		body   int // bytes, at least
	}{
		"say nothing": {func(conn net.Conn) { io.Copy(io.Discard, conn) }, 0, 0},
		"trickle headers": {func(conn net.Conn) {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nX: ")
			forever(conn, "x", 20*time.Millisecond)
		}, 0, 0},
		"have endless headers": {func(conn net.Conn) {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
			forever(conn, "X: "+strings.Repeat("x", 1000)+"\r\n", 0)
		}, 0, 0},
		"are always about to": {func(conn net.Conn) { forever(conn, "HTTP/1.1 100 Continue\r\n\r\n", 0) }, 0, 0},
		"hint and hint":       {func(conn net.Conn) { forever(conn, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 0) }, 0, 0},
		"trickle a body": {func(conn net.Conn) {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
			forever(conn, "x", 20*time.Millisecond)
		}, 200, 1},
		"have an endless body": {func(conn net.Conn) {
			io.WriteString(conn, "HTTP/1.1 500 No\r\n\r\n")
			forever(conn, strings.Repeat("x", 10_000), 0)
		}, 500, maxAnswer},
		"send endless chunks": {func(conn net.Conn) {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			forever(conn, "5\r\nabcde\r\n", 0)
		}, 200, maxAnswer},
		"change the protocol": {func(conn net.Conn) {
			io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
			io.Copy(io.Discard, conn)
		}, 101, 0},
		"promise more": {func(conn net.Conn) {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nx")
			io.Copy(io.Discard, conn)
		}, 200, 1},
		"send no HTTP": {func(conn net.Conn) { forever(conn, "220 mail.example.org ESMTP\r\n", 0) }, 0, 0},
		"hang up":      {func(conn net.Conn) {}, 0, 0},
		"compress what is huge": {func(conn net.Conn) {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")
			io.Copy(conn, bytes.NewReader(make([]byte, 1<<20)))
		}, 200, maxAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			go func() {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				io.ReadFull(conn, make([]byte, 20)) // of the request
				test.answer(conn)
			}()
			e := newEgress([]netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")})
			e.timeout = timeout
			began := time.Now()
			got, err := e.post(t.Context(), "http://"+listener.Addr().String(), http.Header{}, []byte("{}"))
			if got.status != test.status || (err == nil) != (test.status != 0) || len(got.body) < test.body || len(got.body) > maxAnswer {
				t.Errorf("got %d with %d bytes, %v", got.status, len(got.body), err)
			}
			if took := time.Since(began); took > timeout+20*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
	t.Run("are left when the job ends", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			if conn, err := listener.Accept(); err == nil {
				cancel(errStopping)
				defer conn.Close()
				io.Copy(io.Discard, conn)
			}
		}()
		e := newEgress([]netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")})
		e.timeout = time.Hour
		if _, err := e.post(ctx, "http://"+listener.Addr().String(), http.Header{}, nil); err == nil || !errors.Is(context.Cause(ctx), errStopping) {
			t.Errorf("got %v", err)
		}
	})
}

func TestEverySpecialNetworkIsAsItIsWritten(t *testing.T) {
	for i, network := range special {
		if network != network.Masked() || slices.Contains(special[:i], network) {
			t.Errorf("%v has bits beyond its mask, or is there twice", fmt.Sprint(network))
		}
	}
}
