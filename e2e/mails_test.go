package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// mailHost is where the mail server listens. TaskFlow asks only a server on 127.0.0.1 for no TLS, so this is
// another host to it, which needs no DNS.
const mailHost = "127.0.0.2"

// TestMailsArriveAtAServerThatOthersWrote has a real process send its mails, by STARTTLS and with a password, to the
// server of mails.mjs, which Nodemailer's people wrote. It reads them by their parser, and follows the links in
// them as a mail program and as a reader with a browser do.
func TestMailsArriveAtAServerThatOthersWrote(t *testing.T) {
	installed(t, "playwright-core/package.json")
	installed(t, "smtp-server/package.json")
	installed(t, "mailparser/package.json")
	dir := t.TempDir()
	certificate(t, dir, "trusted")
	certificate(t, dir, "strange")
	_, port, err := net.SplitHostPort(freeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	trusted := filepath.Join(dir, "trusted.pem")
	base := startService(t, "TLS_CERT="+trusted, "TLS_KEY="+filepath.Join(dir, "trusted.key"), "SSL_CERT_FILE="+trusted,
		"SMTP_URL=smtp://robot:p%40ss%3Aword@"+net.JoinHostPort(mailHost, port), "MAIL_FROM=Täskflow <tasks@tasks.example.org>")
	ctx, cancel := context.WithTimeout(t.Context(), pageLimit)
	defer cancel()
	script := exec.CommandContext(ctx, node(t), "mails.mjs", base, chromium(t), dir, mailHost, port, psql(t), databaseOf(t))
	script.Env = append(os.Environ(), "NODE_EXTRA_CA_CERTS="+trusted)
	script.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	script.Cancel = func() error { return syscall.Kill(-script.Process.Pid, syscall.SIGKILL) }
	out, err := script.CombinedOutput()
	if err != nil {
		t.Errorf("mails.mjs: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// certificate makes one of this machine that vouches for itself, as name.pem and name.key.
func certificate(t *testing.T, dir, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.ParseIP("127.0.0.1"), net.ParseIP(mailHost)}, IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{".pem": {Type: "CERTIFICATE", Bytes: cert}, ".key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, name+file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// schemeOf is how a service with these settings is reached.
func schemeOf(env []string) string {
	for _, pair := range env {
		if strings.HasPrefix(pair, "TLS_CERT=") {
			return "https://"
		}
	}
	return "http://"
}
