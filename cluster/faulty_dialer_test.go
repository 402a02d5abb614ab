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
func (c *faultyDialer) useIn(cfg *Config) { cfg.Network = c }

// Dial implements Network.
func (c *faultyDialer) Dial(ctx context.Context, addr string) (net.Conn, error) {
	c.mu.Lock()
	refused := c.refused[addr]
	c.mu.Unlock()
	if refused {
		return nil, errFaultyDialer
	}
	conn, err := c.hostNetwork.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	cc := &faultyConn{Conn: conn, dialer: c, to: addr, closed: make(chan struct{})}
	c.mu.Lock()
	c.conns[cc] = struct{}{}
	c.mu.Unlock()
	return cc, nil
}

// changeConns applies fn to every connection to an address.
func (c *faultyDialer) changeConns(addr string, fn func(*faultyConn)) {
	c.mu.Lock()
	var all []*faultyConn
	for cc := range c.conns {
		if cc.to == addr {
			all = append(all, cc)
		}
	}
	c.mu.Unlock()
	for _, cc := range all {
		cc.mu.Lock()
		fn(cc)
		cc.mu.Unlock()
	}
}

// refuse makes further dials to an address fail, or not.
func (c *faultyDialer) refuse(addr string, refused bool) {
	c.mu.Lock()
	c.refused[addr] = refused
	c.mu.Unlock()
}

// sever breaks the connections to an address.
func (c *faultyDialer) sever(addr string) {
	c.changeConns(addr, func(cc *faultyConn) { _ = cc.Close() })
}

func (cc *faultyConn) Read(b []byte) (int, error) {
	n, err := cc.Conn.Read(b)
	cc.mu.Lock()
	deaf := cc.dropsReads
	cc.mu.Unlock()
	if deaf && err == nil {
		<-cc.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (cc *faultyConn) Write(b []byte) (int, error) {
	cc.mu.Lock()
	silent, over := cc.dropsWrites, false
	if cc.cut {
		cc.left -= len(b)
		over = cc.left < 0
	}
	cc.mu.Unlock()
	switch {
	case over:
		_ = cc.Conn.Close()
		return 0, errFaultyDialer
	case silent:
		return len(b), nil
	}
	return cc.Conn.Write(b)
}

func (cc *faultyConn) Close() error {
	cc.once.Do(func() {
		close(cc.closed)
		cc.dialer.mu.Lock()
		delete(cc.dialer.conns, cc)
		cc.dialer.mu.Unlock()
	})
	return cc.Conn.Close()
}
