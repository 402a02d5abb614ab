package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

// The bare path: how long TCP alone takes for what an append of 16 MiB sends. The sink runs behind the
// link.

const sinkPort = "4431"

// runSink answers each transfer, once it has all of it, with one byte.
func runSink(addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			var n uint64
			for binary.Read(c, binary.BigEndian, &n) == nil {
				if _, err := io.CopyN(io.Discard, c, int64(n)); err != nil {
					return
				}
				if _, err := c.Write([]byte{1}); err != nil {
					return
				}
			}
		}()
	}
}

// bareTCP sends 16 MiB a few times over one connection.
func bareTCP(trip time.Duration) (string, error) {
	c, err := net.Dial("tcp", net.JoinHostPort(farIP, sinkPort))
	if err != nil {
		return "", err
	}
	defer c.Close()
	b := make([]byte, 8+16<<20)
	binary.BigEndian.PutUint64(b, 16<<20)
	var took []time.Duration
	for range 6 {
		sent := time.Now()
		if _, err := c.Write(b); err != nil {
			return "", err
		}
		if _, err := io.ReadFull(c, b[8:9]); err != nil {
			return "", err
		}
		took = append(took, time.Since(sent))
	}
	return fmt.Sprintf("%.1f  first %.1f", float64(slices.Min(took))/float64(trip), float64(took[0])/float64(trip)), nil
}
