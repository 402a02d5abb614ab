package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// certificateFiles holds a certificate and its key, in two files that are read again regularly:
// Kubernetes renews a secret under the same names.
type certificateFiles struct {
	cert, key string
	log       *slog.Logger

	mu       sync.Mutex
	pair     *tls.Certificate
	loadedAt time.Time
}

// certificateMaxAge bounds the time since the files were read when a client gets the certificate.
const certificateMaxAge = 30 * time.Second

// tlsConfig returns the configuration of a server. An error is the files'.
func (p *certificateFiles) tlsConfig() (*tls.Config, error) {
	if err := p.load(); err != nil {
		return nil, err
	}
	return &tls.Config{GetCertificate: p.current, MinVersion: tls.VersionTLS12}, nil
}

func (p *certificateFiles) load() error {
	p.loadedAt = time.Now()
	pair, err := tls.LoadX509KeyPair(p.cert, p.key)
	if err != nil {
		return fmt.Errorf("--tls-cert, --tls-key: %w", err)
	}
	p.pair = &pair
	return nil
}

// current returns the certificate for a client: the last certificate that could be read.
func (p *certificateFiles) current(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.loadedAt) >= certificateMaxAge {
		if err := p.load(); err != nil {
			p.log.Error("the certificate cannot be read again, the old one is used", "err", err)
		}
	}
	return p.pair, nil
}

// notAfter returns when the certificate expires, in seconds since 1970.
func (p *certificateFiles) notAfter() float64 {
	pair, err := p.current(nil)
	if err != nil || pair == nil || pair.Leaf == nil {
		return 0
	}
	return float64(pair.Leaf.NotAfter.Unix())
}
