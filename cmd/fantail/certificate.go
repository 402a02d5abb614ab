package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// certificateFiles is a certificate and its key in two files, which are read again now and then:
// Kubernetes renews a secret under the same names.
type certificateFiles struct {
	cert, key string
	log       *slog.Logger

	mu       sync.Mutex
	pair     *tls.Certificate
	loadedAt time.Time
}

// certificateMaxAge is how old a certificate may be that a client gets.
const certificateMaxAge = 30 * time.Second

// tlsConfig is for a server; an error is the files'.
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

// current is what a client gets: the last that could be read.
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

// notAfter is when the certificate that clients get expires, in seconds since 1970.
func (p *certificateFiles) notAfter() float64 {
	pair, err := p.current(nil)
	if err != nil || pair == nil || pair.Leaf == nil {
		return 0
	}
	return float64(pair.Leaf.NotAfter.Unix())
}
