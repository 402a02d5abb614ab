package s2dev

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// A frame of a session is three bytes of length (of flag and payload), the flag, and the payload.
const (
	maxFrameBytes    = 2 << 20
	minCompressBytes = 1 << 10
	flagTerminal     = 0x80
	flagMask         = 0x60
	flagShift        = 5
	maxBodyBytes     = 8 << 20 // of a request's body, decompressed: JSON may escape 1 MiB sixfold
)

type compression byte

const (
	plain compression = iota
	zstandard
	gzipped
)

var (
	zstdEncoder, _ = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderLevel(zstd.SpeedFastest))
	zstdDecoder, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(2),
		zstd.WithDecoderMaxMemory(maxBodyBytes))
)

// acceptedCompression returns the best compression that the client accepts: zstd before gzip, as in
// S2.
func acceptedCompression(h http.Header) compression {
	best := plain
	for _, line := range h.Values("Accept-Encoding") {
		for part := range strings.SplitSeq(line, ",") {
			name, _, _ := strings.Cut(part, ";")
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "zstd":
				return zstandard
			case "gzip":
				best = gzipped
			}
		}
	}
	return best
}

func compress(c compression, payload []byte) ([]byte, compression) {
	if len(payload) < minCompressBytes {
		return payload, plain
	}
	switch c {
	case zstandard:
		return zstdEncoder.EncodeAll(payload, nil), zstandard
	case gzipped:
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		// A bytes.Buffer does not fail.
		_, _ = w.Write(payload)
		_ = w.Close()
		return b.Bytes(), gzipped
	}
	return payload, plain
}

func decompress(c compression, payload []byte, limit int) ([]byte, error) {
	var out []byte
	var err error
	switch c {
	case plain:
		out = payload
	case zstandard:
		out, err = zstdDecoder.DecodeAll(payload, nil)
	case gzipped:
		var r *gzip.Reader
		if r, err = gzip.NewReader(bytes.NewReader(payload)); err == nil {
			out, err = io.ReadAll(io.LimitReader(r, int64(limit)+1))
		}
	default:
		err = fmt.Errorf("unknown compression %d", c)
	}
	if err == nil && len(out) > limit {
		err = fmt.Errorf("payload exceeds %d bytes", limit)
	}
	return out, err
}

func frame(flag byte, payload []byte) []byte {
	n := len(payload) + 1
	b := make([]byte, 0, n+3)
	b = append(b, byte(n>>16), byte(n>>8), byte(n), flag)
	return append(b, payload...)
}

func dataFrame(c compression, payload []byte) []byte {
	payload, c = compress(c, payload)
	return frame(byte(c)<<flagShift, payload)
}

func terminalFrame(e *apiError) []byte {
	payload := binary.BigEndian.AppendUint16(nil, uint16(e.status))
	return frame(flagTerminal, append(payload, e.json()...))
}

// readFrame returns the next message of the client, and io.EOF at a clean end.
func readFrame(r io.Reader) ([]byte, error) {
	var head [3]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
	if n == 0 || n > maxFrameBytes {
		return nil, newError("bad_frame", "frame of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	if b[0]&flagTerminal != 0 {
		return nil, newError("bad_frame", "unexpected terminal frame as input")
	}
	out, err := decompress(compression(b[0]&flagMask>>flagShift), b[1:], maxFrameBytes)
	if err != nil {
		return nil, newError("bad_frame", "%s", err)
	}
	return out, nil
}
