package access

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The signatures of these tests are made by the standard library alone, so that the library
// that verifies is not judged by itself.

var b64 = base64.RawURLEncoding

// testKeys are made once: RSA keys are slow to make.
var testKeys = sync.OnceValue(func() (k struct {
	rsa, rsa2 *rsa.PrivateKey
	small     *rsa.PrivateKey
	ec        *ecdsa.PrivateKey
	ed        ed25519.PrivateKey
},
) {
	k.rsa, _ = rsa.GenerateKey(rand.Reader, 2048)
	k.rsa2, _ = rsa.GenerateKey(rand.Reader, 2048)
	k.small, _ = rsa.GenerateKey(rand.Reader, 1024)
	k.ec, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, k.ed, _ = ed25519.GenerateKey(rand.Reader)
	return k
})

const testSecret = "a secret of more than thirty-two bytes"

// signToken makes a token; the header's alg decides how it is signed by the key.
func signToken(t testing.TB, header, claims map[string]any, key any) string {
	t.Helper()
	h, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	c, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return signRaw(t, h, c, key)
}

func signRaw(t testing.TB, header, claims []byte, key any) string {
	t.Helper()
	signed := b64.EncodeToString(header) + "." + b64.EncodeToString(claims)
	sum := sha256.Sum256([]byte(signed))
	var sig []byte
	var err error
	switch key := key.(type) {
	case *rsa.PrivateKey:
		sig, err = rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	case *ecdsa.PrivateKey:
		var r, s *big.Int
		if r, s, err = ecdsa.Sign(rand.Reader, key, sum[:]); err == nil {
			sig = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		}
	case derKey:
		sig, err = ecdsa.SignASN1(rand.Reader, key.PrivateKey, sum[:])
	case ed25519.PrivateKey:
		sig = ed25519.Sign(key, []byte(signed))
	case string:
		m := hmac.New(sha256.New, []byte(key))
		m.Write([]byte(signed))
		sig = m.Sum(nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + b64.EncodeToString(sig)
}

// jwk returns the public half of a key as a set lists it.
func jwk(kid string, key any, more ...string) map[string]any {
	j := map[string]any{"kid": kid, "use": "sig"}
	switch key := key.(type) {
	case *rsa.PrivateKey:
		maps.Copy(j, map[string]any{"kty": "RSA", "n": b64.EncodeToString(key.N.Bytes()), "e": b64.EncodeToString(big.NewInt(int64(key.E)).Bytes())})
	case *ecdsa.PrivateKey:
		point, err := key.PublicKey.Bytes()
		if err != nil {
			panic(err)
		}
		maps.Copy(j, map[string]any{"kty": "EC", "crv": "P-256", "x": b64.EncodeToString(point[1:33]), "y": b64.EncodeToString(point[33:])})
	case ed25519.PrivateKey:
		public, _ := key.Public().(ed25519.PublicKey)
		maps.Copy(j, map[string]any{"kty": "OKP", "crv": "Ed25519", "x": b64.EncodeToString(public)})
	}
	for i := 0; i+1 < len(more); i += 2 {
		j[more[i]] = more[i+1]
	}
	return j
}

func keySetOf(keys ...map[string]any) []byte {
	if keys == nil {
		keys = []map[string]any{}
	}
	b, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		panic(err)
	}
	return b
}

// writeFile writes a file of the test's own and returns its path.
func writeFile(t testing.TB, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// judgeOf compiles a file and waits for its key sets.
func judgeOf(t testing.TB, file string, cfg Config) *Judge {
	t.Helper()
	j := newJudge(cfg)
	t.Cleanup(j.Close)
	if err := j.adoptFile([]byte(file)); err != nil {
		t.Fatal(err)
	}
	for _, i := range j.verifier.rules.Load().issuers {
		i.keys.mu.Lock()
		tried, next := i.keys.tried, i.keys.next
		i.keys.mu.Unlock()
		if !tried {
			<-next
		}
	}
	return j
}

// verifierOf is judgeOf, for tests of tokens alone.
func verifierOf(t testing.TB, file string, cfg Config) *verifier {
	t.Helper()
	return judgeOf(t, file, cfg).verifier
}

// about returns the claims of a token that is good for an hour, with more.
func about(iss, sub string, more map[string]any) map[string]any {
	now := time.Now().Unix()
	c := map[string]any{"iss": iss, "sub": sub, "iat": now, "exp": now + 3600}
	maps.Copy(c, more)
	return c
}

// recordedLog keeps the lines of a logger.
type recordedLog struct {
	mu    sync.Mutex
	lines strings.Builder
}

func (l *recordedLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines.Write(b)
}

func (l *recordedLog) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *recordedLog) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.lines.String(), text)
}
