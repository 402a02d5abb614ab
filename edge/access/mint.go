package access

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/golang-jwt/jwt/v5"
)

// Signer signs tokens: for back ends without a library, and for trying things out.
type Signer struct {
	key     any // a private key, or []byte
	alg, id string
}

// NewSigner returns a signer by a private key in PEM (PKCS #8, PKCS #1 or SEC 1), or by a secret of
// at least 32 bytes. alg may be empty where the key allows one only, or has a usual one.
func NewSigner(key []byte, alg, kid string) (*Signer, error) {
	s := &Signer{key: bytes.TrimRight(key, "\r\n"), alg: alg, id: kid}
	public := s.key
	if block, _ := pem.Decode(key); block != nil {
		private, err := parsePrivate(block)
		if err != nil {
			return nil, err
		}
		s.key, public = private, private.Public()
	} else if bytes.Contains(key, []byte("-----BEGIN")) {
		return nil, errors.New("the PEM block is broken")
	}
	k, err := newKey(kid, alg, public)
	if err != nil {
		return nil, err
	}
	if s.alg == "" {
		s.alg = k.algs[0]
	}
	return s, nil
}

func parsePrivate(block *pem.Block) (crypto.Signer, error) {
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("a PEM block of the type %.32q: a private key is needed to sign", block.Type)
	}
	if err != nil {
		return nil, err
	}
	switch key := key.(type) {
	case *rsa.PrivateKey:
		return key, nil
	case *ecdsa.PrivateKey:
		return key, nil
	case ed25519.PrivateKey:
		return key, nil
	}
	return nil, fmt.Errorf("a key of the kind %T", key)
}

// Sign returns a token with some claims.
func (s *Signer) Sign(claims map[string]any) (string, error) {
	header := map[string]any{"alg": s.alg, "typ": "JWT"}
	if s.id != "" {
		header["kid"] = s.id
	}
	h, err := json.Marshal(header)
	if err != nil {
		return "", err
	}
	c, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	alg := s.alg
	if slices.Contains(ed25519Algs, alg) {
		alg = "EdDSA"
	}
	signed := base64.RawURLEncoding.EncodeToString(h) + "." + base64.RawURLEncoding.EncodeToString(c)
	sum, err := jwt.GetSigningMethod(alg).Sign(signed, s.key)
	if err != nil {
		return "", err
	}
	token := signed + "." + base64.RawURLEncoding.EncodeToString(sum)
	if len(token) > MaxTokenBytes {
		return "", fmt.Errorf("the token has %d bytes, and %d are the most", len(token), MaxTokenBytes)
	}
	return token, nil
}

// GrantEntry returns an entry of a token's authorization_details, which its issuer's ceiling bounds.
func GrantEntry(project string, actions, streams, names []string) (map[string]any, error) {
	if _, err := ParseActions(actions); err != nil {
		return nil, err
	}
	e := map[string]any{"type": detailType, "actions": actions}
	if project != "" {
		e["project"] = project
	}
	if len(streams) > 0 {
		e["streams"] = streams
	}
	if len(names) > 0 {
		e["names"] = names
	}
	for _, s := range streams {
		if _, err := ParsePattern(s, false); err != nil {
			return nil, fmt.Errorf("the pattern %q: %w", s, err)
		}
	}
	for _, name := range names {
		if err := checkName(name); err != nil {
			return nil, fmt.Errorf("the name %q: %w", name, err)
		}
	}
	return e, nil
}
