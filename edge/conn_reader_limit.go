package edge

import (
	"net/http"

	"github.com/fantail-dev/fantail/edge/netconn"
)

const (
	// maxConnStreams bounds the requests in progress on one connection of HTTP/2.
	maxConnStreams = 100
	// maxConnReaders bounds the readers among them, which stay. The client's other requests,
	// appends too, use the rest; otherwise they would wait behind the readers in silence.
	maxConnReaders = 80
)

// admitOnConn counts a reader on its connection of HTTP/2, until done. A reader beyond maxConnReaders
// is refused, with the advice to open another connection.
//
// A browser opens another connection only if it is told that this connection accepts no more
// requests (GOAWAY, which net/http sends for Connection: close), and does so by itself; its
// readers on this connection stay. Other clients are not told so. A client that queues requests
// itself, as Go's does, would leave queued requests on the connection, where they would never be
// answered.
func (s *Server) admitOnConn(w http.ResponseWriter, r *http.Request) (done func(), err error) {
	conn := netconn.Of(r)
	if r.ProtoMajor < 2 || conn == nil {
		return func() {}, nil
	}
	if conn.HTTP2Readers.Add(1) > maxConnReaders {
		conn.HTTP2Readers.Add(-1)
		if r.Header.Get("Sec-Fetch-Mode") != "" {
			w.Header().Set("Connection", "close")
		}
		return nil, s.metrics.countRefused(errConnFull)
	}
	return func() { conn.HTTP2Readers.Add(-1) }, nil
}
