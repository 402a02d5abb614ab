package cluster

import (
	"context"
	"errors"
	"net"
	"sync"
)

// faultyDialer dials other nodes for one node. Its faults hit only the connections that it dialled,
// so one node may lose a peer that all others reach.
type faultyDialer struct {
	hostNetwork

	mu      sync.Mutex
	refused map[string]bool // by address
	conns   map[*faultyConn]struct{}
}

type faultyConn struct {
	net.Conn
	dialer *faultyDialer
	to     string

	once   sync.Once
	closed chan struct{}

	mu          sync.Mutex
	dropsReads  bool // what arrives is lost
	dropsWrites bool // what is sent is lost
	left        int  // bytes that may still be sent before the connection breaks
	cut         bool
}

var errFaultyDialer = errors.New("faulty dialer")

func newFaultyDialer() *faultyDialer {
	return &faultyDialer{refused: map[string]bool{}, conns: map[*faultyConn]struct{}{}}
}

// useIn makes a node dial through the faultyDialer.
func (d *faultyDialer) useIn(cfg *Config) { cfg.Network = d }

// Dial implements Network.
func (d *faultyDialer) Dial(ctx context.Context, addr string) (net.Conn, error) {
	d.mu.Lock()
	refused := d.refused[addr]
	d.mu.Unlock()
	if refused {
		return nil, errFaultyDialer
	}
	conn, err := d.hostNetwork.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	c := &faultyConn{Conn: conn, dialer: d, to: addr, closed: make(chan struct{})}
	d.mu.Lock()
	d.conns[c] = struct{}{}
	d.mu.Unlock()
	return c, nil
}

// changeConns applies fn to every connection to an address.
func (d *faultyDialer) changeConns(addr string, fn func(*faultyConn)) {
	d.mu.Lock()
	var all []*faultyConn
	for c := range d.conns {
		if c.to == addr {
			all = append(all, c)
		}
	}
	d.mu.Unlock()
	for _, c := range all {
		c.mu.Lock()
		fn(c)
		c.mu.Unlock()
	}
}

// refuse makes further dials to an address fail, or not.
func (d *faultyDialer) refuse(addr string, refused bool) {
	d.mu.Lock()
	d.refused[addr] = refused
	d.mu.Unlock()
}

// sever breaks the connections to an address.
func (d *faultyDialer) sever(addr string) {
	d.changeConns(addr, func(c *faultyConn) { _ = c.Close() })
}

func (c *faultyConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	deaf := c.dropsReads
	c.mu.Unlock()
	if deaf && err == nil {
		<-c.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *faultyConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	silent, over := c.dropsWrites, false
	if c.cut {
		c.left -= len(b)
		over = c.left < 0
	}
	c.mu.Unlock()
	switch {
	case over:
		_ = c.Conn.Close()
		return 0, errFaultyDialer
	case silent:
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *faultyConn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.dialer.mu.Lock()
		delete(c.dialer.conns, c)
		c.dialer.mu.Unlock()
	})
	return c.Conn.Close()
}
