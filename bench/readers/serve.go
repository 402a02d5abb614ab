package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/fantail-dev/fantail/edge"
	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// collector returns the port on which a server is asked to free its memory: the next port.
func collector(addr string) string {
	host, port, _ := net.SplitHostPort(addr)
	n, _ := strconv.Atoi(port)
	return net.JoinHostPort(host, strconv.Itoa(n+1))
}

// serve runs a lone node over a log in memory.
func serve(kind, addr string, heartbeat time.Duration) error {
	host := shard.NewManager(logtest.NewMemory(1), shard.NewTailBuffers(0, 0), shard.Config{ColdOpens: 1e6})
	node := edge.New(edge.Config{Heartbeat: heartbeat, NoReactor: kind != "reactor" && kind != "tls"}, host)
	server := node.HTTPServer()
	var lc net.ListenConfig
	ln, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return err
	}
	gc, err := lc.Listen(context.Background(), "tcp", collector(addr))
	if err != nil {
		return err
	}
	// Not around the node: a frame more, and the stacks of waiting handlers are twice as large.
	go func() {
		_ = http.Serve(gc, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { debug.FreeOSMemory() })) //nolint:gosec // on loopback
	}()
	ln = edge.Listen(ln)
	fmt.Println("serving")
	if strings.HasPrefix(kind, "tls") {
		if server.TLSConfig, err = selfSigned(); err != nil {
			return err
		}
		return server.ServeTLS(ln, "", "")
	}
	return server.Serve(ln)
}

// selfSigned returns a configuration with a self-signed certificate, for HTTP/1.1 only.
func selfSigned() (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	names := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), DNSNames: []string{"x"}}
	der, err := x509.CreateCertificate(rand.Reader, names, names, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		NextProtos:   []string{"http/1.1"}, MinVersion: tls.VersionTLS13,
	}, nil
}
