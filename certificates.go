package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

const lookAtFiles = time.Second // how often a certificate's files are looked at, while somebody connects

// certificates is how this process speaks TLS, or nil where it does not: by the files of TLS_CERT and
// TLS_KEY, or for TLS_DOMAINS by certificates that it gets by ACME (RFC 8555) from the authority
// whose directory is given, when the first client asks for a name, and keeps in DATA_DIR. The
// authority asks back on the port it knows, 443, by tls-alpn-01 (RFC 8737).
func certificates(cfg config, directory string, log *slog.Logger) *tls.Config {
	switch {
	case cfg.tlsCert != "":
		files := &certificateFiles{cert: cfg.tlsCert, key: cfg.tlsKey, log: log}
		return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: files.certificate}
	case cfg.tlsDomains != nil:
		manager := &autocert.Manager{
			Prompt:     autocert.AcceptTOS,
			Cache:      autocert.DirCache(filepath.Join(cfg.dataDir, "certificates")),
			HostPolicy: autocert.HostWhitelist(cfg.tlsDomains...),
			Client:     &acme.Client{DirectoryURL: directory},
		}
		managed := manager.TLSConfig()
		managed.MinVersion = tls.VersionTLS12
		return managed
	}
	return nil
}

// certificateFiles is a certificate in two files, read again when they change, so that it can be
// renewed without a restart.
type certificateFiles struct {
	cert, key string
	log       *slog.Logger

	mu     sync.Mutex
	looked time.Time        // at the files
	stamp  string           // of the files that loaded is from
	loaded *tls.Certificate // stays while the files are no certificate, as between the writing of the two
}

func (f *certificateFiles) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.loaded != nil && time.Since(f.looked) < lookAtFiles {
		return f.loaded, nil
	}
	f.looked = time.Now()
	stamp := fileStamp(f.cert) + fileStamp(f.key)
	if f.loaded != nil && stamp == f.stamp {
		return f.loaded, nil
	}
	fresh, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil && f.loaded == nil {
		return nil, fmt.Errorf("load TLS_CERT and TLS_KEY: %w", err)
	}
	if err != nil {
		f.log.Warn("the changed TLS_CERT and TLS_KEY cannot be used; the old certificate goes on", "error", err)
		return f.loaded, nil
	}
	if f.loaded != nil {
		f.log.Info("certificate changed", "expires", fresh.Leaf.NotAfter)
	}
	f.loaded, f.stamp = &fresh, stamp
	return f.loaded, nil
}

// fileStamp changes when a file does.
func fileStamp(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(info.Size(), info.ModTime().UnixNano(), " ")
}
