package peertls

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Identity is a certificate that the operator's authority issued for this node.
type Identity struct {
	// Cert is the certificate that peers are shown, with its key. Without one they are shown the
	// first secret's.
	Cert tls.Certificate
	// AcceptSecrets makes this node also accept peers that prove one of the secrets. Without a Cert it
	// always does.
	AcceptSecrets bool
	// Roots holds the authorities that a peer's certificate must come from.
	Roots *x509.CertPool
	// PeerURIs lists URIs, such as SPIFFE ids, of which a peer's certificate must have one. An entry
	// that ends in / stands for all URIs below it. Empty: those of Cert. If Cert has none, every
	// certificate from Roots is accepted.
	PeerURIs []string
}

// Proof holds what this node shows to peers, and what it accepts from them. It is immutable.
type Proof struct {
	cert         *tls.Certificate
	acceptedKeys []ed25519.PublicKey // of peers
	roots        *x509.CertPool
	peerURIs     []string
	secrets      [][]byte // from which acceptedKeys were derived
}

var (
	errNotOfFleet    = errors.New("not of this fleet: its secret or its certificate's authority differs")
	errNoCertificate = errors.New("no certificate")
)

// NewProof derives the keys of a fleet's secrets, or uses an identity.
func NewProof(cluster string, secrets [][]byte, id *Identity) (*Proof, error) {
	p := &Proof{secrets: secrets}
	if id != nil {
		if p.roots, p.peerURIs = id.Roots, id.PeerURIs; p.roots == nil {
			return nil, errors.New("relay identity: no authority")
		}
		if len(id.Cert.Certificate) > 0 {
			p.cert = &id.Cert
			if err := p.checkIdentity(); err != nil || !id.AcceptSecrets {
				return p, err
			}
		}
	}
	for i, s := range secrets {
		key, err := deriveKey(cluster, s)
		if err != nil {
			return nil, err
		}
		pub, _ := key.Public().(ed25519.PublicKey)
		p.acceptedKeys = append(p.acceptedKeys, pub)
		if i > 0 || p.cert != nil {
			continue
		}
		if p.cert, err = selfSignedCert(key); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// deriveKey returns the key pair that a secret stands for in a fleet of that name.
func deriveKey(cluster string, secret []byte) (ed25519.PrivateKey, error) {
	seed, err := hkdf.Key(sha256.New, secret, nil, "fantail/relay/1\x00"+cluster, ed25519.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("derive the relay's key: %w", err)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// selfSignedCert returns a certificate for a key. TLS needs one; peers check only the key.
func selfSignedCert(key ed25519.PrivateKey) (*tls.Certificate, error) {
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "fantail"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("the relay's certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

func (p *Proof) checkIdentity() error {
	leaf, err := x509.ParseCertificate(p.cert.Certificate[0])
	if err != nil {
		return fmt.Errorf("relay identity: %w", err)
	}
	if len(p.peerURIs) == 0 {
		for _, u := range leaf.URIs {
			p.peerURIs = append(p.peerURIs, u.String())
		}
	}
	chain := []*x509.Certificate{leaf}
	for _, der := range p.cert.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("relay identity: %w", err)
		}
		chain = append(chain, c)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if err := p.checkPeer(chain, usage, time.Now()); err != nil {
			return fmt.Errorf("relay identity: peers would not accept it: %w", err)
		}
	}
	return nil
}

// checkPeer returns why a peer that owns the key of a certificate is not accepted; at is when it
// proved that.
func (p *Proof) checkPeer(certs []*x509.Certificate, usage x509.ExtKeyUsage, at time.Time) error {
	if len(certs) == 0 {
		return errNoCertificate
	}
	pub, _ := certs[0].PublicKey.(ed25519.PublicKey)
	switch {
	case slices.ContainsFunc(p.acceptedKeys, func(k ed25519.PublicKey) bool { return k.Equal(pub) }):
		return nil
	case p.roots == nil:
		return errNotOfFleet
	}
	between := x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	if _, err := certs[0].Verify(x509.VerifyOptions{
		Roots: p.roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage},
	}); err != nil {
		return fmt.Errorf("%w: %w", errNotOfFleet, err)
	}
	if len(p.peerURIs) > 0 && !slices.ContainsFunc(certs[0].URIs, p.matchesPeerURI) {
		return fmt.Errorf("%w: it is %v, not %q", errNotOfFleet, certs[0].URIs, p.peerURIs)
	}
	return nil
}

func (p *Proof) matchesPeerURI(u *url.URL) bool {
	return slices.ContainsFunc(p.peerURIs, func(want string) bool {
		return u.String() == want || strings.HasSuffix(want, "/") && strings.HasPrefix(u.String(), want)
	})
}

// Equal reports whether two proofs show and accept the same.
func (p *Proof) Equal(o *Proof) bool {
	return slices.EqualFunc(p.secrets, o.secrets, bytes.Equal) && (p.roots == nil) == (o.roots == nil) && len(p.acceptedKeys) == len(o.acceptedKeys) &&
		(p.roots == nil || p.roots.Equal(o.roots) && slices.Equal(p.peerURIs, o.peerURIs) &&
			slices.EqualFunc(p.cert.Certificate, o.cert.Certificate, bytes.Equal))
}
