package edge

import "net/http"

const (
	// connStreams is how many requests one connection of HTTPAddr/2 may have under way.
	connStreams = 100
	// connReaders is how many of them may be readers, who stay. What else the client asks, an
	// append too, has the rest, or it would wait behind them in silence.
	connReaders = 80
)

// occupy takes one of the places that readers have on their connection, until done. With none left
// a reader is refused, with the advice to open another connection.
//
// A browser opens another one only if it is told that this one takes no more requests (GOAWAY,
// which net/http says for Connection: close), and then by itself; who is here stays. Others are not
// told so: clients that queue requests themselves, as Go's, leave those on the connection that were
// queued by then, and nobody would answer them.
func (s *Server) occupy(w http.ResponseWriter, r *http.Request) (done func(), err error) {
	wire := wireBelow(r)
	if r.ProtoMajor < 2 || wire == nil {
		return func() {}, nil
	}
	if wire.readers.Add(1) > connReaders {
		wire.readers.Add(-1)
		if r.Header.Get("Sec-Fetch-Mode") != "" {
			w.Header().Set("Connection", "close")
		}
		return nil, s.m.refuse(errConnFull)
	}
	return func() { wire.readers.Add(-1) }, nil
}
