package s2s

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
)

var (
	// ErrClosed is the error of a session or client that the caller closed.
	ErrClosed = errors.New("s2s: closed")
	// ErrLost is the error of a session whose connection was lost, or that S2 reset.
	ErrLost = errors.New("s2s: session lost")
	// ErrSilent is an ErrLost: nothing was heard of the session for too long.
	ErrSilent = fmt.Errorf("%w: nothing was heard of it", ErrLost)
	// ErrGoAway is an ErrLost: S2 closes the connection. A new session uses another one.
	ErrGoAway = fmt.Errorf("%w: S2 closes its connection", ErrLost)
	// ErrNotTaken is an ErrLost of a session that S2 has certainly not begun.
	ErrNotTaken = fmt.Errorf("%w: S2 did not take it", ErrLost)
	// ErrProtocol is an ErrLost: what arrived is not S2's protocol.
	ErrProtocol = fmt.Errorf("%w: not S2's protocol", ErrLost)
	// ErrFull is the error of a Submit for which the session has no room.
	ErrFull = errors.New("s2s: too much is in flight")
	// ErrEnded is the error of a Submit after the session's end, which TakeAcks returns.
	ErrEnded = errors.New("s2s: the session has ended")
	// ErrTooLarge is the error of a Submit of a batch that no frame can hold.
	ErrTooLarge = errors.New("s2s: batch is too large")

	errCleanEnd = fmt.Errorf("s2s: session ended: %w", io.EOF)
)

const maxErrorBytes = 64 << 10 // of an error's body

// Error is an error that S2 answered, with HTTP status, code and message.
type Error struct {
	Status        int
	Code, Message string
	// Tail holds the end of the stream, if S2 refused a position (412, 416) and says so.
	Tail *uint64
}

func (e *Error) Error() string {
	if e.Tail != nil {
		return fmt.Sprintf("S2 answers %d %s: the tail is %d", e.Status, e.Code, *e.Tail)
	}
	return fmt.Sprintf("S2 answers %d %s: %s", e.Status, e.Code, e.Message)
}

// Refusal returns the parts of the answer. It makes an Error a Refusal of package s2.
func (e *Error) Refusal() (status int, code, message string, tail *uint64) {
	return e.Status, e.Code, e.Message, e.Tail
}

// HasNoEffect reports whether S2 declares the answer free of side effects: what was refused is
// certainly not written.
func (e *Error) HasNoEffect() bool {
	switch {
	case e.Code == "hot_server", e.Code == "server_draining":
		return true
	case e.Status == http.StatusRequestTimeout, e.Status == 499:
		return false
	}
	return e.Status >= 400 && e.Status < 500
}

// decodeError returns the error of an answer with a status of 400 or above.
func decodeError(status int, body []byte) *Error {
	e := &Error{Status: status}
	var fields struct {
		Code     string  `json:"code"`
		Message  string  `json:"message"`
		Mismatch *uint64 `json:"seq_num_mismatch"`
		Fence    *string `json:"fencing_token_mismatch"`
		Tail     *struct {
			SeqNum *uint64 `json:"seq_num"`
		} `json:"tail"`
	}
	if err := json.Unmarshal(body, &fields); err != nil {
		e.Message = string(bytes.TrimSpace(body[:min(len(body), 512)]))
		return e
	}
	e.Code, e.Message = fields.Code, fields.Message
	switch {
	case status == http.StatusPreconditionFailed && fields.Mismatch != nil:
		e.Code, e.Tail = "seq_num_mismatch", fields.Mismatch
	case status == http.StatusPreconditionFailed && fields.Fence != nil:
		e.Code, e.Message = "fencing_token_mismatch", *fields.Fence
	case status == http.StatusRequestedRangeNotSatisfiable && fields.Tail != nil:
		e.Code, e.Tail = "range_not_satisfiable", fields.Tail.SeqNum
	}
	return e
}
