package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// writeCertificate writes a self-signed certificate for 127.0.0.1, and its key.
func writeCertificate(t *testing.T, serial int64, cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"fantail"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func certificatePaths(t *testing.T) (cert, key string) {
	t.Helper()
	dir := t.TempDir()
	return filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
}

// A node speaks HTTP/2 and HTTP/1.1 under TLS, for event streams, too.
func TestHTTP1AndHTTP2UnderTLS(t *testing.T) {
	cert, key := certificatePaths(t)
	writeCertificate(t, 1, cert, key)
	ps := startProcesses(t, 0)
	node := ps.spawn(t, 0, "--tls-cert="+cert, "--tls-key="+key)
	url := "https://" + node.addr("http") + "/v1/stream/" + ps.run + "/s"
	for _, major := range []int{1, 2} {
		tr := &http.Transport{
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // the certificate is this test's
			ForceAttemptHTTP2: major == 2,
		}
		t.Cleanup(tr.CloseIdleConnections)
		c := &client{&http.Client{Transport: tr}}
		if major == 1 {
			c.must(t, 201, "PUT", url, "", "Content-Type", "text/plain")
		}
		c.must(t, 204, "POST", url, "one;", "Content-Type", "text/plain")
		req, err := http.NewRequestWithContext(t.Context(), "GET", url+"?live=sse&offset=-1", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil || resp.ProtoMajor != major || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
		defer func() { _ = resp.Body.Close() }()
		var got bytes.Buffer
		for b := make([]byte, 512); strings.Count(got.String(), "one;") < major; {
			n, err := resp.Body.Read(b)
			if got.Write(b[:n]); err != nil {
				t.Fatalf("%q, then %v", got.String(), err)
			}
		}
	}
}

// A certificate is read again after half a minute. If it cannot be read, the old one stays in use.
func TestCertificateIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cert, key := certificatePaths(t)
		p := &certificateFiles{cert: cert, key: key, log: slog.New(slog.DiscardHandler)}
		if _, err := p.tlsConfig(); err == nil {
			t.Error("no error without files")
		}
		writeCertificate(t, 1, cert, key)
		cfg, err := p.tlsConfig()
		if err != nil {
			t.Fatal(err)
		}
		want := func(serial int64) {
			t.Helper()
			c, err := cfg.GetCertificate(nil)
			if err != nil || c.Leaf.SerialNumber.Int64() != serial {
				t.Errorf("%v %v, want number %d", c, err, serial)
			}
		}
		want(1)
		writeCertificate(t, 2, cert, key)
		want(1)
		<-time.After(certificateMaxAge)
		want(2)
		if err := os.WriteFile(key, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		<-time.After(certificateMaxAge)
		want(2)
		writeCertificate(t, 3, cert, key)
		<-time.After(certificateMaxAge)
		want(3)
	})
}
