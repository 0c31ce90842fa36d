package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// newCertificate writes a certificate for some names, signed by itself, and its key, and returns the paths.
func newCertificate(t testing.TB, names ...string) (cert, key string) {
	t.Helper()
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeCertificate(t, cert, key, names...)
	return cert, key
}

func writeCertificate(t testing.TB, cert, key string, names ...string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// serveTLS has a server speak TLS as serve does, and returns its address.
func (ts *testServer) serveTLS(cfg config, directory string) string {
	ts.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		ts.t.Fatal(err)
	}
	web := newWeb(ts.http.Config.Handler, ts.server.log)
	web.TLSConfig = certificates(cfg, directory, ts.server.log)
	go web.ServeTLS(listener, "", "")
	ts.t.(*testing.T).Cleanup(func() { web.Close() })
	return listener.Addr().String()
}

// visit asks for /health on a connection of its own and returns the serial number of the certificate.
func visit(address string, cfg *tls.Config) (serial *big.Int, resp *http.Response, err error) {
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true, ForceAttemptHTTP2: true}}
	if resp, err = client.Get("https://" + address + "/health"); err != nil {
		return nil, nil, err
	}
	resp.Body.Close()
	return resp.TLS.PeerCertificates[0].SerialNumber, resp, nil
}

func TestCertificateFiles(t *testing.T) {
	t.Parallel()
	ts := newTestServer(t, "PUBLIC_URL=https://tasks.example.org")
	cert, key := newCertificate(t, "tasks.example.org")
	address := ts.serveTLS(testConfig(t, ts.config.databaseURL, "TLS_CERT="+cert, "TLS_KEY="+key), "")
	anyone := &tls.Config{InsecureSkipVerify: true}
	first, resp, err := visit(address, anyone)
	if err != nil {
		t.Fatal(err)
	}

	t.Run("let the service speak TLS by itself", func(t *testing.T) {
		if resp.StatusCode != 200 || resp.ProtoMajor != 2 || resp.Header.Get("Strict-Transport-Security") == "" {
			t.Errorf("got %d by %s with %v", resp.StatusCode, resp.Proto, resp.Header)
		}
		checkHeaders(t, "over TLS", resp.Header)
	})
	t.Run("do not let anybody speak an old TLS", func(t *testing.T) {
		for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
			if _, _, err := visit(address, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version}); err == nil {
				t.Errorf("%s is accepted", tls.VersionName(version))
			}
		}
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			if _, _, err := visit(address, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version}); err != nil {
				t.Errorf("%s: %v", tls.VersionName(version), err)
			}
		}
	})
	t.Run("leave nothing to plain http", func(t *testing.T) {
		resp, err := testHTTP.Get("http://" + address + "/health")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 400 {
			t.Errorf("got %d, want 400", resp.StatusCode)
		}
	})
	t.Run("stay in use while they are half written", func(t *testing.T) {
		if err := os.WriteFile(cert, []byte("-----BEGIN CERTI"), 0o600); err != nil {
			t.Fatal(err)
		}
		soon(t, "a warning", func() bool {
			serial, _, err := visit(address, anyone)
			if err != nil || serial.Cmp(first) != 0 {
				t.Fatalf("got %v, %v", serial, err)
			}
			return strings.Contains(ts.log.String(), "the old certificate goes on")
		})
	})
	t.Run("are read again when they change", func(t *testing.T) {
		writeCertificate(t, cert, key, "tasks.example.org")
		soon(t, "the new certificate", func() bool {
			serial, _, err := visit(address, anyone)
			return err == nil && serial.Cmp(first) != 0
		})
	})
}

// authority is a certificate authority that speaks as much of ACME (RFC 8555) as it takes to get a
// certificate by tls-alpn-01 (RFC 8737). It does not look at signatures.
type authority struct {
	*httptest.Server
	t       *testing.T
	key     *ecdsa.PrivateKey
	root    *x509.Certificate
	verify  string // address at which it looks for domains
	orders  atomic.Int64
	domain  string // of the latest order
	proven  bool   // by whoever has the domain
	chain   []byte // PEM
	serials atomic.Int64
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key}
	if a.root, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.Server = httptest.NewServer(http.HandlerFunc(a.serve))
	t.Cleanup(a.Close)
	return a
}

func (a *authority) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Replay-Nonce", randomToken())
	var jws struct{ Payload string }
	json.NewDecoder(r.Body).Decode(&jws)
	payload, _ := base64.RawURLEncoding.DecodeString(jws.Payload)
	order := map[string]any{
		"status": "pending", "identifiers": []any{map[string]string{"type": "dns", "value": a.domain}},
		"authorizations": []string{a.URL + "/authorization"}, "finalize": a.URL + "/finalize",
	}
	status := map[bool]string{false: "pending", true: "valid"}[a.proven]
	challenge := map[string]string{"type": "tls-alpn-01", "url": a.URL + "/challenge", "token": "a-token", "status": status}
	var answer any
	code := http.StatusOK
	switch r.URL.Path {
	case "/directory":
		answer = map[string]string{"newNonce": a.URL + "/nonce", "newAccount": a.URL + "/account", "newOrder": a.URL + "/new-order"}
	case "/account":
		w.Header().Set("Location", a.URL+"/account/1")
		answer, code = map[string]string{"status": "valid"}, http.StatusCreated
	case "/new-order":
		var in struct{ Identifiers []struct{ Value string } }
		json.Unmarshal(payload, &in)
		a.domain, a.proven, a.chain = in.Identifiers[0].Value, false, nil
		order["identifiers"] = in.Identifiers
		a.orders.Add(1)
		w.Header().Set("Location", a.URL+"/order")
		answer, code = order, http.StatusCreated
	case "/authorization":
		answer = map[string]any{"status": status, "identifier": map[string]string{"type": "dns", "value": a.domain}, "challenges": []any{challenge}}
	case "/challenge":
		a.proven = a.prove()
		answer = challenge
	case "/order", "/finalize":
		if r.URL.Path == "/finalize" {
			a.sign(payload)
		}
		w.Header().Set("Location", a.URL+"/order")
		switch {
		case a.chain != nil:
			order["status"], order["certificate"] = "valid", a.URL+"/certificate"
		case a.proven:
			order["status"] = "ready"
		}
		answer = order
	case "/certificate":
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		w.Write(a.chain)
		return
	}
	w.WriteHeader(code)
	if answer != nil {
		json.NewEncoder(w).Encode(answer)
	}
}

// prove asks the domain for the certificate that only who ordered can have made for it.
func (a *authority) prove() bool {
	conn, err := tls.Dial("tcp", a.verify, &tls.Config{ServerName: a.domain, NextProtos: []string{"acme-tls/1"}, InsecureSkipVerify: true})
	if err != nil {
		a.t.Errorf("challenge: %v", err)
		return false
	}
	defer conn.Close()
	shown := conn.ConnectionState().PeerCertificates[0]
	return slices.Equal(shown.DNSNames, []string{a.domain}) && slices.ContainsFunc(shown.Extensions, func(e pkix.Extension) bool {
		return e.Critical && e.Id.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31})
	})
}

func (a *authority) sign(payload []byte) {
	var in struct{ CSR string }
	json.Unmarshal(payload, &in)
	der, _ := base64.RawURLEncoding.DecodeString(in.CSR)
	request, err := x509.ParseCertificateRequest(der)
	if err != nil || !a.proven {
		a.t.Errorf("order of %s: %v, proven %v", a.domain, err, a.proven)
		return
	}
	leaf, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1 + a.serials.Add(1)), DNSNames: request.DNSNames, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a.root, request.PublicKey, a.key)
	if err != nil {
		a.t.Error(err)
	}
	a.chain = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf})
}

func TestCertificatesByACME(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	ts := newTestServer(t)
	dir := t.TempDir()
	cfg := testConfig(t, ts.config.databaseURL, "TLS_DOMAINS=tasks.example.org", "DATA_DIR="+dir)
	ca.verify = ts.serveTLS(cfg, ca.URL+"/directory")
	roots := x509.NewCertPool()
	roots.AddCert(ca.root)
	named := func(name string) *tls.Config { return &tls.Config{RootCAs: roots, ServerName: name} }

	serial, resp, err := visit(ca.verify, named("tasks.example.org"))
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("got %v", err)
	}
	if again, _, err := visit(ca.verify, named("tasks.example.org")); err != nil || again.Cmp(serial) != 0 || ca.orders.Load() != 1 {
		t.Errorf("then got %v, %v, after %d orders, want the same", again, err, ca.orders.Load())
	}
	for _, name := range []string{"other.example.org", "evil.example"} {
		if _, _, err := visit(ca.verify, named(name)); err == nil || ca.orders.Load() != 1 {
			t.Errorf("%s: got %v after %d orders, want no certificate for it", name, err, ca.orders.Load())
		}
	}
	if _, _, err := visit(ca.verify, &tls.Config{RootCAs: roots, ServerName: "tasks.example.org", MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 is accepted")
	}
	files, err := filepath.Glob(filepath.Join(dir, "certificates", "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("kept %v, %v", files, err)
	}
	for _, file := range files {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v, want only its owner to read it", file, info.Mode(), err)
		}
	}
	if next, _, err := visit(ts.serveTLS(cfg, ca.URL+"/directory"), named("tasks.example.org")); err != nil || next.Cmp(serial) != 0 || ca.orders.Load() != 1 {
		t.Errorf("the next process got %v, %v after %d orders, want the certificate that is kept", next, err, ca.orders.Load())
	}
}

// The program with a certificate of its own, and its health check.
func TestProgramWithTLS(t *testing.T) {
	t.Parallel()
	cert, key := newCertificate(t, "tasks.example.org")
	files := []string{"TLS_CERT=" + cert, "TLS_KEY=" + key}
	for name, env := range map[string][]string{"files": files, "domains": {"TLS_DOMAINS=tasks.example.org", "DATA_DIR=" + t.TempDir()}} {
		t.Run(name, func(t *testing.T) {
			p := launch(t, serverEnv(t, env...))
			address := strings.TrimPrefix(p.http.URL, "http://")
			if out, err := command(t, append(env, "LISTEN_ADDR="+address), "healthcheck").CombinedOutput(); err != nil {
				t.Errorf("the health check fails: %v: %s", err, out)
			}
			if out, err := command(t, append(env, "LISTEN_ADDR=127.0.0.1:1"), "healthcheck").CombinedOutput(); err == nil {
				t.Errorf("the health check of nothing succeeds: %s", out)
			}
			if name == "files" {
				if _, resp, err := visit(address, &tls.Config{InsecureSkipVerify: true}); err != nil || resp.StatusCode != 200 {
					t.Errorf("got %v", err)
				}
			}
		})
	}
	bad := command(t, serverEnv(t, "TLS_CERT="+cert, "TLS_KEY="+cert), "serve")
	if out, err := bad.CombinedOutput(); err == nil || !strings.Contains(string(out), "TLS_CERT must be a certificate in PEM, of the private key in TLS_KEY") {
		t.Errorf("got %v: %s", err, out)
	}
}
