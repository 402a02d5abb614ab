package wire

import (
	"fmt"
	"strings"
	"unicode/utf8"
	"unsafe"

	"google.golang.org/protobuf/proto"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// Bytes returns a text as the bytes of a message, without a copy: a message is only written while it
// is built.
func Bytes[S ~string](s S) []byte { return unsafe.Slice(unsafe.StringData(string(s)), len(s)) }

// Text returns the text of a message's bytes, without a copy.
func Text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// maxSentence bounds a sentence for people, in bytes; the rest is dropped.
const maxSentence = 1 << 10

// encodeSentence returns a sentence for people as bytes that every release can read.
func encodeSentence(s string) []byte {
	return Bytes(strings.ToValidUTF8(s[:min(len(s), maxSentence)], "\uFFFD"))
}

// EncodeError returns the text of err as a sentence for people.
func EncodeError(err error) []byte { return encodeSentence(err.Error()) }

// maxDescription bounds the description of a stream in one message, in bytes. The longest ancestry
// of a fork takes half of it.
const maxDescription = 64 << 10

var (
	errDescriptionLong = fmt.Errorf("%w: its description is too long", shard.ErrNeedsLaterRelease)
	errPeerNeedsUTF8   = fmt.Errorf("%w: the peer reads no text but UTF-8", shard.ErrNeedsLaterRelease)
)

// CheckDescribable returns why a peer that speaks a version of the contract cannot receive a
// stream's description; nil: it can.
func CheckDescribable(info *relaypb.Info, version uint32) error {
	switch {
	case proto.Size(info) > maxDescription:
		return errDescriptionLong
	case version >= placement.RelayVersionBytes:
		return nil
	}
	texts := [][]byte{info.GetType(), info.GetExpiresRaw()}
	for _, a := range info.GetChain() {
		texts = append(texts, a.GetStream())
	}
	return CheckUTF8(texts...)
}

// CheckUTF8 returns errPeerNeedsUTF8 unless a release before RelayVersionBytes can read the texts.
func CheckUTF8(texts ...[]byte) error {
	for _, t := range texts {
		if !utf8.Valid(t) {
			return errPeerNeedsUTF8
		}
	}
	return nil
}
