package wire

import (
	"errors"

	"github.com/fantail-dev/fantail/shard"
)

// BatchAssembler joins the pieces of a record batch.
type BatchAssembler struct {
	buf   []byte
	total int
}

// ErrMalformedPiece refuses a piece that does not belong to the batch before it.
var ErrMalformedPiece = errors.New("malformed piece of a record batch")

// maxPreallocated bounds the space that is allocated for a size that a peer only announces, in
// bytes. It grows with what arrives.
const maxPreallocated = 256 << 10

// NewBuffer returns an empty buffer for total bytes, of which no more than maxPreallocated are allocated
// now.
func NewBuffer(total int) []byte { return make([]byte, 0, min(total, maxPreallocated)) }

// AddPiece adds the data of one Part. With the last piece it returns the whole batch.
func (a *BatchAssembler) AddPiece(data []byte, total uint32) (shard.RecordBatch, bool, error) {
	switch {
	case a.total == 0 && total == 0:
		r, err := shard.ParseBatch(data)
		return r, err == nil, err
	case a.total == 0:
		if total > MaxBatchBytes || int(total) <= len(data) {
			return shard.RecordBatch{}, false, ErrMalformedPiece
		}
		a.total, a.buf = int(total), NewBuffer(int(total))
	case total != 0:
		return shard.RecordBatch{}, false, ErrMalformedPiece
	}
	if len(a.buf)+len(data) > a.total {
		return shard.RecordBatch{}, false, ErrMalformedPiece
	}
	a.buf = append(a.buf, data...)
	if len(a.buf) < a.total {
		return shard.RecordBatch{}, false, nil
	}
	b := a.buf
	*a = BatchAssembler{}
	r, err := shard.ParseBatch(b)
	return r, err == nil, err
}
