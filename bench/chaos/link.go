package main

import (
	"errors"
	"net"
	"time"
)

// startLink listens, and carries each connection to another address with a delay each way, as if that
// was far away. It keeps no more than the kernel's buffers and linkChunks pieces of each direction.
func startLink(listen, to string, roundTrip time.Duration) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			go joinFar(near, to, roundTrip/2)
		}
	}()
	return nil
}

// joinFar joins a connection with one to S2. The first answer to a dial is as far away as every other.
func joinFar(near net.Conn, to string, delay time.Duration) {
	far, err := net.DialTimeout("tcp", to, 3*time.Second)
	if err != nil {
		_ = near.Close()
		return
	}
	go carry(near, far, delay)
	carry(far, near, delay)
}

const linkChunks = 1024

// carry carries one direction, and closes its end when the other has ended.
func carry(from, to net.Conn, delay time.Duration) {
	type piece struct {
		b   []byte
		due time.Time
	}
	pieces := make(chan piece, linkChunks)
	go func() {
		defer func() { _ = to.Close() }()
		for p := range pieces {
			if wait := time.Until(p.due); wait > 0 {
				<-time.After(wait)
			}
			if _, err := to.Write(p.b); err != nil {
				_ = from.Close()
				for range pieces { // until the reader has noticed
					continue
				}
				return
			}
		}
	}()
	defer close(pieces)
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			pieces <- piece{append([]byte(nil), buf[:n]...), time.Now().Add(delay)}
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				_ = to.Close()
			}
			return
		}
	}
}
