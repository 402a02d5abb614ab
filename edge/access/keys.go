package access

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"slices"

	"github.com/golang-jwt/jwt/v5"
)

// Bounds of keys.
const (
	maxKeySetBytes = 1 << 20
	maxKeys        = 64
	minRSABits     = 2048
	minSecretBytes = 32
	maxKeyIDBytes  = 256
)

// key is one key that signatures are verified with.
type key struct {
	id     string // the kid; empty: it has none
	name   string // the kid, or a thumbprint of the key where there is none
	algs   []string
	row    *row // of this key, in leases
	public any  // *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey, or []byte for HMAC
}

// The algorithms by the kind of key. "Ed25519" (RFC 9864) is another name for EdDSA.
var (
	rsaAlgs     = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	hmacAlgs    = []string{"HS256", "HS384", "HS512"}
	ed25519Algs = []string{"EdDSA", "Ed25519"}
	curveAlgs   = map[elliptic.Curve]string{
		elliptic.P256(): "ES256", elliptic.P384(): "ES384", elliptic.P521(): "ES512",
	}
)

// verify reports whether a signature over the signed part of a token is the key's.
func (k *key) verify(alg, signed string, signature []byte) bool {
	if !slices.Contains(k.algs, alg) {
		return false
	}
	if alg == "Ed25519" {
		alg = "EdDSA"
	}
	method := jwt.GetSigningMethod(alg)
	return method != nil && method.Verify(signed, signature, k.public) == nil
}

// isSame reports whether two keys have one name, and are one: an issuer may say more of its use.
func (k *key) isSame(other *key) bool {
	return k.name == other.name && reflect.DeepEqual(k.public, other.public)
}

// newKey checks a public key and lists the algorithms that it may be used with: alg alone,
// unless that is empty.
func newKey(id, alg string, public any) (*key, error) {
	if len(id) > maxKeyIDBytes {
		return nil, fmt.Errorf("its kid is longer than %d bytes", maxKeyIDBytes)
	}
	k := &key{id: id, name: id, public: public}
	switch public := public.(type) {
	case *rsa.PublicKey:
		if public.N.BitLen() < minRSABits {
			return nil, fmt.Errorf("an RSA key of %d bits; %d are the least", public.N.BitLen(), minRSABits)
		}
		k.algs = rsaAlgs
	case *ecdsa.PublicKey:
		name, ok := curveAlgs[public.Curve]
		if !ok {
			return nil, errors.New("a curve other than P-256, P-384 and P-521")
		}
		k.algs = []string{name}
	case ed25519.PublicKey:
		k.algs = ed25519Algs
	case []byte:
		if len(public) < minSecretBytes {
			return nil, fmt.Errorf("a secret of %d bytes; %d are the least", len(public), minSecretBytes)
		}
		k.algs = hmacAlgs
	default:
		return nil, fmt.Errorf("a key of the kind %T", public)
	}
	if alg != "" {
		if !slices.Contains(k.algs, alg) {
			return nil, fmt.Errorf("the algorithm %.32q is not one of this kind of key", alg)
		}
		k.algs = []string{alg}
		if slices.Contains(ed25519Algs, alg) {
			k.algs = ed25519Algs
		}
	}
	if k.name == "" {
		k.name = thumbprint(public)
	}
	return k, nil
}

// thumbprint names a key that has no kid by what it is.
func thumbprint(public any) string {
	var b []byte
	if secret, ok := public.([]byte); ok {
		b = secret
	} else if der, err := x509.MarshalPKIXPublicKey(public); err == nil {
		b = der
	}
	sum := sha256.Sum256(b)
	return "sha256:" + base64.RawURLEncoding.EncodeToString(sum[:12])
}

// parsePEM returns the public key of a PEM file: a public key, or a certificate's.
func parsePEM(b []byte) (any, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	switch block.Type {
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return cert.PublicKey, nil
	}
	return nil, fmt.Errorf("a PEM block of the type %.32q; PUBLIC KEY or CERTIFICATE is needed", block.Type)
}

// jsonWebKey holds the members of a key in a set that are read (RFC 7517).
type jsonWebKey struct {
	Kty string `json:"kty"`
	Use string `json:"use"`
	Alg string `json:"alg"`
	Kid string `json:"kid"`
	N   string `json:"n"`
	E   string `json:"e"`
	Crv string `json:"crv"`
	X   string `json:"x"`
	Y   string `json:"y"`
}

var errNoKeys = errors.New("the set has no key that can be used")

// parseKeySet returns the usable keys of a JSON Web Key Set by their names. Keys that cannot
// be used, such as those for encryption, are skipped. It is an error if none can be used, or
// if two keys have one kid.
func parseKeySet(b []byte) (map[string]*key, error) {
	if len(b) > maxKeySetBytes {
		return nil, fmt.Errorf("the set has more than %d bytes", maxKeySetBytes)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(b, &set); err != nil {
		return nil, fmt.Errorf("no JSON Web Key Set: %w", err)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("the set has more than %d keys", maxKeys)
	}
	keys := map[string]*key{}
	for _, raw := range set.Keys {
		k, err := parseKey(raw)
		if err != nil {
			continue
		}
		if keys[k.name] != nil {
			return nil, fmt.Errorf("two keys have the kid %.64q", k.name)
		}
		keys[k.name] = k
	}
	if len(keys) == 0 {
		return nil, errNoKeys
	}
	return keys, nil
}

// parseKey returns one key of a set.
func parseKey(raw []byte) (*key, error) {
	var j jsonWebKey
	if err := json.Unmarshal(raw, &j); err != nil {
		return nil, err
	}
	if j.Use != "" && j.Use != "sig" {
		return nil, errors.New("a key for something else than signatures")
	}
	var public any
	var err error
	switch j.Kty {
	case "RSA":
		public, err = j.rsa()
	case "EC":
		public, err = j.ec()
	case "OKP":
		public, err = j.okp()
	default: // "oct" is a secret, and a secret that is published is none
		err = fmt.Errorf("a key of the type %.32q", j.Kty)
	}
	if err != nil {
		return nil, err
	}
	return newKey(j.Kid, j.Alg, public)
}

func (j *jsonWebKey) rsa() (crypto.PublicKey, error) {
	n, err := base64.RawURLEncoding.DecodeString(j.N)
	if err != nil {
		return nil, err
	}
	e, err := base64.RawURLEncoding.DecodeString(j.E)
	if err != nil {
		return nil, err
	}
	exponent := new(big.Int).SetBytes(e)
	if len(n) > 2048 || !exponent.IsInt64() || exponent.Int64() < 3 || exponent.Int64() > 1<<31-1 || exponent.Bit(0) == 0 {
		return nil, errors.New("an RSA key out of bounds")
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exponent.Int64())}, nil
}

func (j *jsonWebKey) ec() (crypto.PublicKey, error) {
	curves := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}
	curve := curves[j.Crv]
	if curve == nil {
		return nil, fmt.Errorf("the curve %.32q", j.Crv)
	}
	size := (curve.Params().BitSize + 7) / 8
	x, err := base64.RawURLEncoding.DecodeString(j.X)
	if err != nil {
		return nil, err
	}
	y, err := base64.RawURLEncoding.DecodeString(j.Y)
	if err != nil {
		return nil, err
	}
	if len(x) != size || len(y) != size {
		return nil, errors.New("coordinates of another length than the curve's")
	}
	return ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, x, y))
}

func (j *jsonWebKey) okp() (crypto.PublicKey, error) {
	x, err := base64.RawURLEncoding.DecodeString(j.X)
	if err != nil {
		return nil, err
	}
	if j.Crv != "Ed25519" || len(x) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("the curve %.32q", j.Crv)
	}
	return ed25519.PublicKey(x), nil
}
