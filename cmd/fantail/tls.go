package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// keyPair is a certificate and its key in two files, which are read again now and then:
// Kubernetes renews a secret under the same names.
type keyPair struct {
	cert, key string
	log       *slog.Logger

	mu   sync.Mutex
	pair *tls.Certificate
	read time.Time
}

// keyPairAge is how old a certificate may be that a client gets.
const keyPairAge = 30 * time.Second

// config is for a server; an error is the files'.
func (p *keyPair) config() (*tls.Config, error) {
	if err := p.load(); err != nil {
		return nil, err
	}
	return &tls.Config{GetCertificate: p.get, MinVersion: tls.VersionTLS12}, nil
}

func (p *keyPair) load() error {
	p.read = time.Now()
	pair, err := tls.LoadX509KeyPair(p.cert, p.key)
	if err != nil {
		return fmt.Errorf("--tls-cert, --tls-key: %w", err)
	}
	p.pair = &pair
	return nil
}

// get is what a client gets: the last that could be read.
func (p *keyPair) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.read) >= keyPairAge {
		if err := p.load(); err != nil {
			p.log.Error("the certificate cannot be read again, the old one is used", "err", err)
		}
	}
	return p.pair, nil
}

// notAfter is when the certificate that clients get expires, in seconds since 1970.
func (p *keyPair) notAfter() float64 {
	pair, err := p.get(nil)
	if err != nil || pair == nil || pair.Leaf == nil {
		return 0
	}
	return float64(pair.Leaf.NotAfter.Unix())
}
