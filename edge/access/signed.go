package access

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// A signed URL reads one stream until a time. It is signed over the stream's decoded name and
// never over a path, so it is the same under every root and every spelling of the name. The
// application holds the secret and signs by itself; the server only checks.

const (
	// MaxSignedTTL bounds how far ahead a signed URL may expire.
	MaxSignedTTL = 24 * time.Hour
	// signedPrefix precedes the name in what is signed: the version, and the action.
	signedPrefix = "fantail-url-v1\nread\n"
	// signatureLength counts the characters of 32 bytes in base64url without padding.
	signatureLength = 43
)

// SigningKey is one secret of a project, by which its URLs are signed.
type SigningKey struct {
	ID     string
	secret []byte
}

// NewSigningKey returns a key. The secret has at least 32 bytes.
func NewSigningKey(id string, secret []byte) (SigningKey, error) {
	switch {
	case id == "" || len(id) > maxKeyIDBytes:
		return SigningKey{}, fmt.Errorf("a key's id has 1 to %d bytes", maxKeyIDBytes)
	case len(secret) < minSecretBytes:
		return SigningKey{}, fmt.Errorf("a secret of %d bytes; %d are the least", len(secret), minSecretBytes)
	}
	return SigningKey{ID: id, secret: secret}, nil
}

// Sign returns the x-sig of a stream's URL that expires at exp, in seconds since 1970. stream
// is the decoded name with its project: "acme/room 1".
func (k SigningKey) Sign(stream string, exp int64) string {
	m := hmac.New(sha256.New, k.secret)
	m.Write([]byte(signedPrefix + stream + "\n" + strconv.FormatInt(exp, 10)))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// Signature holds the parameters of a signed URL: x-exp, x-kid and x-sig, as they came.
type Signature struct{ Expires, KeyID, Sum string }

var errSignature = errors.New("x-exp, x-kid and x-sig are each needed once: x-exp in seconds since 1970, x-sig as 43 characters of base64url")

// check returns until when the signature is good, in seconds since 1970, if it is one of a
// stream's, and by which of the project's keys.
func (s Signature) check(keys []projectSecret, stream string, now time.Time) (expires int64, by int, no *Refusal) {
	exp, err := strconv.ParseInt(s.Expires, 10, 64)
	if err != nil || exp <= 0 || strconv.FormatInt(exp, 10) != s.Expires || s.KeyID == "" || len(s.Sum) != signatureLength {
		return 0, 0, refuse(ReasonURLMalformed, "%s", errSignature)
	}
	leeway := int64(Leeway / time.Second)
	for by, k := range keys {
		if k.ID != s.KeyID {
			continue
		}
		switch {
		case !hmac.Equal([]byte(k.Sign(stream, exp)), []byte(s.Sum)):
			return 0, 0, refuse(ReasonBadSignature, "the URL's signature is not that of %.128q", stream)
		case exp > now.Unix()+int64(MaxSignedTTL/time.Second)+leeway:
			return 0, 0, refuse(ReasonTooLongLived, "the URL is signed for more than %v", MaxSignedTTL)
		case now.Unix() >= exp+leeway:
			return 0, 0, refuse(ReasonExpired, "the URL has expired")
		}
		return exp, by, nil
	}
	return 0, 0, refuse(ReasonUnknownKey, "the project has no signing key %.64q", s.KeyID)
}
