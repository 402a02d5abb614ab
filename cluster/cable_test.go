package cluster

import (
	"context"
	"errors"
	"net"
	"sync"
)

// cable is what one node dials others over. Faults are for the connections that
// it dialled, so one node may lose another whom everybody else reaches.
type cable struct {
	hostNetwork

	mu      sync.Mutex
	refused map[string]bool // by address
	conns   map[*cableConn]struct{}
}

type cableConn struct {
	net.Conn
	cable *cable
	to    string

	once   sync.Once
	closed chan struct{}

	mu     sync.Mutex
	deaf   bool // what comes is lost
	silent bool // what is sent is lost
	left   int  // bytes that may still be sent, if cut
	cut    bool
}

var errCable = errors.New("cable")

func newCable() *cable {
	return &cable{refused: map[string]bool{}, conns: map[*cableConn]struct{}{}}
}

// plug has a node dial over the cable.
func (c *cable) plug(cfg *Config) { cfg.Network = c }

// Dial implements Network.
func (c *cable) Dial(ctx context.Context, addr string) (net.Conn, error) {
	c.mu.Lock()
	refused := c.refused[addr]
	c.mu.Unlock()
	if refused {
		return nil, errCable
	}
	conn, err := c.hostNetwork.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	cc := &cableConn{Conn: conn, cable: c, to: addr, closed: make(chan struct{})}
	c.mu.Lock()
	c.conns[cc] = struct{}{}
	c.mu.Unlock()
	return cc, nil
}

// each changes every connection to an address.
func (c *cable) each(addr string, fn func(*cableConn)) {
	c.mu.Lock()
	var all []*cableConn
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

// refuse has further dials to an address fail, or not.
func (c *cable) refuse(addr string, refused bool) {
	c.mu.Lock()
	c.refused[addr] = refused
	c.mu.Unlock()
}

// sever ends the connections to an address.
func (c *cable) sever(addr string) { c.each(addr, func(cc *cableConn) { _ = cc.Close() }) }

func (cc *cableConn) Read(b []byte) (int, error) {
	n, err := cc.Conn.Read(b)
	cc.mu.Lock()
	deaf := cc.deaf
	cc.mu.Unlock()
	if deaf && err == nil {
		<-cc.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (cc *cableConn) Write(b []byte) (int, error) {
	cc.mu.Lock()
	silent, over := cc.silent, false
	if cc.cut {
		cc.left -= len(b)
		over = cc.left < 0
	}
	cc.mu.Unlock()
	switch {
	case over:
		_ = cc.Conn.Close()
		return 0, errCable
	case silent:
		return len(b), nil
	}
	return cc.Conn.Write(b)
}

func (cc *cableConn) Close() error {
	cc.once.Do(func() {
		close(cc.closed)
		cc.cable.mu.Lock()
		delete(cc.cable.conns, cc)
		cc.cable.mu.Unlock()
	})
	return cc.Conn.Close()
}
