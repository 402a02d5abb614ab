package edge

import "strconv"

// An event stream that the reactor writes over HTTP/1.1 says where it ends, by the chunked
// coding: clients and proxies tell a stream that is over from one that was cut. What is pending
// for a reader is one chunk, so a reader in the middle of one has no more state than before:
// the line before the chunk and the one after it are buffers of the same write. Readers in the
// same state share both. It costs 7 to 8 bytes a write and, measured beside the same server
// without it (bench/readers), no processor time: 6.9 to 7.2 us a delivery with, 6.8 to 7.1
// without. A client of HTTP/1.0 knows no chunks and is sent the bytes as they are. Where
// net/http writes, it frames.

// chunkHead holds the line before a chunk: at most eight digits.
type chunkHead [10]byte

// lastChunk ends a body.
const lastChunk = "0\r\n\r\n"

// The bytes after a chunk, and after the last one that has data.
var (
	chunkEnd = []byte("\r\n")
	bodyEnd  = []byte("\r\n" + lastChunk)
)

// line returns the line before a chunk of size bytes.
func (h *chunkHead) line(size int) []byte {
	return append(strconv.AppendUint(h[:0], uint64(size), 16), '\r', '\n')
}

// chunked returns b as one chunk.
func chunked(b []byte) []byte {
	var h chunkHead
	return append(append(h.line(len(b)), b...), chunkEnd...)
}
