package edge

import (
	"crypto/rand"
	"encoding/hex"
)

// newRequestID returns an id for a failed request, by which its client and its operator can name it.
func newRequestID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

const hRequestID = "X-Request-Id"
