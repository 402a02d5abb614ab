package s2s

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// A frame of a session is three bytes of length (of flag and payload), the flag, and the payload.
const (
	frameHead     = 3
	maxFrameBytes = 2 << 20
	flagTerminal  = 0x80
	flagCompress  = 0x60
	flagZstd      = 0x20
	flagGzip      = 0x40
	// partChunk is the first allocation for a frame that arrives in parts: the length that a frame
	// claims is not believed before so much of it has come.
	partChunk = 16 << 10
)

func appendFrameHead(b []byte, flag byte, payload int) []byte {
	n := payload + 1
	return append(b, byte(n>>16), byte(n>>8), byte(n), flag)
}

// frameReader cuts the bytes of a session into frames. It holds nothing between frames.
type frameReader struct {
	part []byte // of the frame that has begun, with its length
}

// next takes bytes from data until a frame is complete. The frame (flag and payload) is nil if
// more bytes are needed. shared: the frame lies in data, and must be copied to be kept.
func (f *frameReader) next(data []byte) (frame []byte, shared bool, rest []byte, err error) {
	if len(f.part) == 0 {
		n, err := frameLength(data)
		if err != nil {
			return nil, false, nil, err
		}
		if n > 0 && len(data) >= n {
			return data[frameHead:n], true, data[n:], nil
		}
	}
	for len(f.part) < frameHead && len(data) > 0 {
		f.part, data = append(f.part, data[0]), data[1:]
	}
	n, err := frameLength(f.part)
	if err != nil || n == 0 {
		return nil, false, nil, err
	}
	take := min(n-len(f.part), len(data))
	f.grow(take, n)
	f.part, data = append(f.part, data[:take]...), data[take:]
	if len(f.part) < n {
		return nil, false, nil, nil
	}
	frame, f.part = f.part[frameHead:], nil
	return frame, false, data, nil
}

// grow makes room for n more bytes of a frame of so many.
func (f *frameReader) grow(n, whole int) {
	want := len(f.part) + n
	if want <= cap(f.part) {
		return
	}
	room := make([]byte, len(f.part), min(whole, max(want, 2*cap(f.part), partChunk)))
	copy(room, f.part)
	f.part = room
}

// frameLength returns the length of the frame that b begins with, its head included. It is 0 if b
// is shorter than the head.
func frameLength(b []byte) (int, error) {
	if len(b) < frameHead {
		return 0, nil
	}
	n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
	if n == 0 || n > maxFrameBytes {
		return 0, fmt.Errorf("frame of %d bytes", n)
	}
	return frameHead + n, nil
}

// openFrame returns the payload of a frame; copied: it does not lie in the frame. A terminal frame
// returns end: an *Error, or errCleanEnd if its status is none.
func openFrame(frame []byte) (payload []byte, copied bool, end, err error) {
	flag, payload := frame[0], frame[1:]
	if flag&flagCompress != 0 {
		if payload, err = decompress(flag&flagCompress, payload); err != nil {
			return nil, false, nil, err
		}
		copied = true
	}
	end, err = decodeTerminal(flag, payload)
	return payload, copied, end, err
}

// decompress returns a payload that S2 compressed. This package asks for none (writeRequest), but a
// proxy on the way may ask for it.
func decompress(how byte, payload []byte) (out []byte, err error) {
	switch how {
	case flagZstd:
		out, err = zstdDecoder.DecodeAll(payload, nil)
	case flagGzip:
		var r *gzip.Reader
		if r, err = gzip.NewReader(bytes.NewReader(payload)); err == nil {
			out, err = io.ReadAll(io.LimitReader(r, maxFrameBytes+1))
		}
	default:
		err = fmt.Errorf("unknown compression %#x", how)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("compressed frame: %w", err)
	case len(out) > maxFrameBytes:
		return nil, fmt.Errorf("compressed frame of more than %d bytes", maxFrameBytes)
	}
	return out, nil
}

// zstdDecoder refuses what would exceed a frame. Its options are right, so there is no error.
var zstdDecoder, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxFrameBytes))

// decodeTerminal returns the end that a terminal frame tells, or nil.
func decodeTerminal(flag byte, payload []byte) (end, err error) {
	switch {
	case flag&flagTerminal == 0:
		return nil, nil
	case len(payload) < 2:
		return nil, fmt.Errorf("terminal frame of %d bytes", len(payload))
	}
	status := int(binary.BigEndian.Uint16(payload))
	if status < 400 {
		return errCleanEnd, nil
	}
	return decodeError(status, payload[2:]), nil
}
