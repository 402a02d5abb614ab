package edge

import "strconv"

// An event stream that the reactor writes says where it ends, by the chunked coding of HTTP/1.1: a
// client and a proxy tell a stream that is over from one that was cut. What is owed at a time is one
// chunk. A client of HTTP/1.0 knows no chunks, and is sent the bytes as they are; the handler driver
// leaves all of it to net/http.

// chunkHead is room for the line before a chunk: at most eight digits.
type chunkHead [10]byte

// lastChunk ends a body.
const lastChunk = "0\r\n\r\n"

// What stands after a chunk, and after the last one that has data.
var (
	chunkEnd = []byte("\r\n")
	bodyEnd  = []byte("\r\n" + lastChunk)
)

// line is the line before a chunk of size bytes.
func (h *chunkHead) line(size int) []byte {
	return append(strconv.AppendUint(h[:0], uint64(size), 16), '\r', '\n')
}

// chunked makes one chunk of b.
func chunked(b []byte) []byte {
	var h chunkHead
	return append(append(h.line(len(b)), b...), chunkEnd...)
}
