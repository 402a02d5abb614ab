package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/fantail-dev/fantail/cmd/fantail/internal/dsclient"
)

const (
	maxBatchMessages = 10_000  // of one request; servers accept 32,768
	maxBatchSize     = 1 << 20 // of one request with several messages
	maxReadPiece     = 256 << 10
	// maxValue bounds one JSON value of an input: an array of them may be larger than a request.
	maxValue = 256 << 20
)

// input reads messages, and groups those that are there together.
type input struct {
	form     inputForm
	oneByOne bool
	messages chan []byte   // closed at the end, after which err is set
	stopped  chan struct{} // closed when no batch is taken any more
	err      error
	ahead    []byte // a message that the last batch had no room for
}

// batch is the body of one request.
type batch struct {
	body     []byte
	messages int
	size     int64 // of the messages
	last     bool  // the input has ended
}

func newInput(form inputForm, oneByOne bool) *input {
	return &input{form: form, oneByOne: oneByOne, messages: make(chan []byte, 1024), stopped: make(chan struct{})}
}

// stop ends read, once it has read something.
func (in *input) stop() { close(in.stopped) }

// read reads the messages given on the command line, or else from r.
func (in *input) read(r io.Reader, given []string) {
	defer close(in.messages)
	if len(given) > 0 {
		var texts []string
		for _, m := range given {
			if in.form == formLines {
				m += "\n"
			}
			texts = append(texts, m)
		}
		if in.form != formJSON {
			for _, m := range texts {
				if in.err = in.emit([]byte(m)); in.err != nil {
					return
				}
			}
			return
		}
		r = strings.NewReader(strings.Join(texts, "\n"))
	}
	switch in.form {
	case formJSON:
		in.err = in.readJSON(r)
	case formLines:
		in.err = in.readLines(r)
	default:
		in.err = in.readBytes(r)
	}
}

var errStopped = errors.New("stopped")

func (in *input) emit(m []byte) error {
	if len(m) > dsclient.MaxBody {
		return fmt.Errorf("a message has %d bytes: servers accept %d in one request", len(m), dsclient.MaxBody)
	}
	if len(m) == 0 { // the protocol knows no empty message
		return nil
	}
	select {
	case in.messages <- m:
		return nil
	case <-in.stopped:
		return errStopped
	}
}

func (in *input) readJSON(r io.Reader) error {
	bounded := &boundedReader{r: r}
	d := json.NewDecoder(bounded)
	for {
		bounded.left = maxValue
		var v json.RawMessage
		err := d.Decode(&v)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return usageError(fmt.Errorf("the input is no JSON, after %d bytes: %w", d.InputOffset(), err))
		}
		elements := []json.RawMessage{v}
		if v[0] == '[' {
			if err := json.Unmarshal(v, &elements); err != nil {
				return err
			}
		}
		for _, e := range elements {
			if err := in.emit(e); err != nil {
				return err
			}
		}
	}
}

// boundedReader refuses to read more than left bytes.
type boundedReader struct {
	r    io.Reader
	left int
}

// Read implements io.Reader.
func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("a value has more than %d bytes", maxValue)
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

func (in *input) readLines(r io.Reader) error {
	lines := bufio.NewReaderSize(r, 64<<10)
	var line []byte
	for {
		part, err := lines.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull) && len(line) <= dsclient.MaxBody:
			continue
		case len(line) > 0:
			if err := in.emit(line); err != nil {
				return err
			}
			line = nil
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

func (in *input) readBytes(r io.Reader) error {
	for {
		b := make([]byte, maxReadPiece)
		n, err := r.Read(b)
		if n > 0 {
			if err := in.emit(b[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// next returns the next batch: it waits for a message, and takes those along that are there. The
// last batch may be empty.
func (in *input) next(ctx context.Context) (batch, error) {
	var parts [][]byte
	size := 0
	take := func(m []byte, ok bool) (full bool) {
		switch {
		case !ok:
			return true
		case len(parts) > 0 && size+len(m) > maxBatchSize:
			in.ahead = m
			return true
		}
		parts, size = append(parts, m), size+len(m)
		return in.oneByOne || len(parts) >= maxBatchMessages
	}
	full, ended := false, false
	if in.ahead != nil {
		full, in.ahead = take(in.ahead, true), nil
	}
	for !full {
		if len(parts) == 0 {
			select {
			case m, ok := <-in.messages:
				full, ended = take(m, ok), !ok
			case <-ctx.Done():
				return batch{}, context.Cause(ctx)
			}
			continue
		}
		select {
		case m, ok := <-in.messages:
			full, ended = take(m, ok), !ok
		default:
			full = true
		}
	}
	if ended && in.err != nil {
		if len(parts) == 0 {
			return batch{}, in.err
		}
		ended = false // what came before the error is sent; the next call returns it
	}
	return batch{in.body(parts), len(parts), int64(size), ended}, nil
}

// body returns messages as the body of a request.
func (in *input) body(parts [][]byte) []byte {
	if len(parts) == 0 {
		return nil
	}
	if in.form != formJSON {
		return bytes.Join(parts, nil)
	}
	return append(append([]byte{'['}, bytes.Join(parts, []byte{','})...), ']')
}
