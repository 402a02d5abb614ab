package sim

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/fantail-dev/fantail/cluster"
)

// Ports of a node.
const (
	portGossip = "4457"
	portRelay  = "4458"
	portHTTP   = "80"
)

// network connects machines. Paths are directed: what goes one way may be lost while
// the other way is whole.
type network struct {
	mu       sync.Mutex
	rnd      *rand.Rand
	machines map[string]*machine // by IP
	paths    map[[2]string]*path // from, to
	conns    map[*conn]struct{}
	port     int             // the last ephemeral one
	names    func() []string // what DNS says
}

func newNetwork(seed uint64) *network {
	return &network{
		rnd: rand.New(rand.NewPCG(seed, 2)), machines: map[string]*machine{},
		paths: map[[2]string]*path{}, conns: map[*conn]struct{}{}, port: 32767,
	}
}

func (n *network) float() float64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.rnd.Float64()
}

// machine has an IP address. Processes come and go on it.
type machine struct {
	net *network
	ip  string

	mu            sync.Mutex
	lost          bool    // off: it does not even refuse
	connsWhenLost []*conn // its connections when it was lost
	pauses        []*fault
	heldPackets   []func() // packets that wait for the end of a pause
	tcp           map[string]*listener
	gossip        *gossip
}

func (n *network) machine(ip string) *machine {
	n.mu.Lock()
	defer n.mu.Unlock()
	m := n.machines[ip]
	if m == nil {
		m = &machine{net: n, ip: ip, tcp: map[string]*listener{}}
		n.machines[ip] = m
	}
	return m
}

// maxHeldPackets bounds the packets that wait for a machine that is paused.
const maxHeldPackets = 512

// paused reports whether a pause holds the machine's traffic.
func (m *machine) paused() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.pauses {
		f.noteHit()
	}
	return len(m.pauses) > 0
}

func (m *machine) hold(packet func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.heldPackets) < maxHeldPackets {
		m.heldPackets = append(m.heldPackets, packet)
	}
}

// pause holds all traffic of the machine, in both directions, until resume.
func (m *machine) pause(f *fault) {
	m.mu.Lock()
	m.pauses = append(m.pauses, f)
	m.mu.Unlock()
}

func (m *machine) resume(f *fault) {
	m.mu.Lock()
	m.pauses = without(m.pauses, f)
	held := m.heldPackets
	m.heldPackets = nil
	m.mu.Unlock()
	for _, packet := range held {
		packet()
	}
	m.net.wakeAll()
}

func without[T comparable](all []T, one T) (rest []T) {
	for _, x := range all {
		if x != one {
			rest = append(rest, x)
		}
	}
	return rest
}

// path is one direction between two machines.
type path struct {
	net      *network
	from, to *machine

	mu     sync.Mutex
	cuts   []*fault
	faults []*fault // those that add loss or delay, or block packets
}

func (n *network) path(from, to string) *path {
	a, b := n.machine(from), n.machine(to)
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.paths[[2]string{from, to}]
	if p == nil {
		p = &path{net: n, from: a, to: b}
		n.paths[[2]string{from, to}] = p
	}
	return p
}

// isShut reports whether nothing gets through. A call counts as having met the fault: it is made
// only for something that is to be sent.
func (p *path) isShut() bool {
	p.mu.Lock()
	for _, f := range p.cuts {
		f.noteHit()
	}
	cut := len(p.cuts) > 0
	p.mu.Unlock()
	return cut || p.from.paused() || p.to.paused()
}

func (p *path) cut(f *fault) {
	p.mu.Lock()
	p.cuts = append(p.cuts, f)
	p.mu.Unlock()
}

func (p *path) addFault(f *fault) {
	p.mu.Lock()
	p.faults = append(p.faults, f)
	p.mu.Unlock()
}

// removeFault ends what a fault does to the path. The caller wakes the readers that waited.
func (p *path) removeFault(f *fault) {
	p.mu.Lock()
	p.cuts, p.faults = without(p.cuts, f), without(p.faults, f)
	p.mu.Unlock()
}

// Delays of a healthy path, one way.
const (
	delayMin = 200 * time.Microsecond
	delayMax = time.Millisecond
	// retransmit is the delay for the loss of a segment of a stream, doubled each time.
	retransmit = 200 * time.Millisecond
)

func (p *path) state() (loss, packetLoss float64, delay time.Duration, by []*fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.faults {
		loss = max(loss, f.loss)
		packetLoss = max(packetLoss, f.loss, f.packetLoss)
		delay += f.delay
	}
	return loss, packetLoss, delay, p.faults
}

func (n *network) jitter() time.Duration {
	return delayMin + time.Duration(n.float()*float64(delayMax-delayMin))
}

// streamDelay returns the delay of a chunk of a stream: what is lost arrives late.
func (p *path) streamDelay(int) time.Duration {
	loss, _, more, by := p.state()
	d := p.net.jitter()
	if more > 0 {
		d += time.Duration((0.5 + p.net.float()/2) * float64(more))
		noteHits(by)
	}
	for again := retransmit; loss > 0 && again < 4*time.Second && p.net.float() < loss; again *= 2 {
		d += again
		noteHits(by)
	}
	return d
}

func noteHits(fs []*fault) {
	for _, f := range fs {
		f.noteHit()
	}
}

// send delivers a packet, late or never.
func (p *path) send(deliver func()) {
	_, loss, more, by := p.state()
	p.mu.Lock()
	cut := len(p.cuts) > 0
	for _, f := range p.cuts {
		f.noteHit()
	}
	p.mu.Unlock()
	if cut {
		return
	}
	if loss > 0 && p.net.float() < loss {
		noteHits(by)
		return
	}
	d := p.net.jitter()
	if more > 0 {
		d += time.Duration((0.5 + p.net.float()/2) * float64(more))
	}
	time.AfterFunc(d, func() {
		for _, m := range []*machine{p.from, p.to} {
			if m.paused() {
				m.hold(deliver)
				return
			}
		}
		deliver()
	})
}

// wakeAll makes every reader check again whether its path is open.
func (n *network) wakeAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		notify(c.in.wake)
	}
}

// port is the network as seen by one process on a machine.
type port struct {
	m *machine

	mu        sync.Mutex
	dead      bool
	conns     map[*conn]struct{}
	listeners []*listener
	gossip    *gossip
}

var _ cluster.Network = (*port)(nil)

func (m *machine) boot() *port {
	m.mu.Lock()
	ghosts := m.connsWhenLost
	m.lost, m.connsWhenLost = false, nil
	m.mu.Unlock()
	for _, c := range ghosts { // the machine knows nothing of them any more, and says so
		c.reset(false)
	}
	return &port{m: m, conns: map[*conn]struct{}{}}
}

var errDead = errors.New("the process is dead")

// kill ends all that the process has on the network. silent: its machine is lost as well, and no
// peer hears of it.
func (p *port) kill(silent bool) {
	p.m.mu.Lock()
	p.m.lost = silent
	p.m.mu.Unlock()
	p.mu.Lock()
	p.dead = true
	conns, ls, g := p.conns, p.listeners, p.gossip
	p.conns = map[*conn]struct{}{}
	p.mu.Unlock()
	for _, l := range ls {
		_ = l.Close()
	}
	if g != nil {
		g.takeOff()
	}
	for c := range conns {
		c.reset(silent)
		if silent {
			p.m.connsWhenLost = append(p.m.connsWhenLost, c)
		}
	}
}

func (p *port) isKilled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

// register keeps a connection for kill.
func (p *port) register(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return false
	}
	p.conns[c] = struct{}{}
	c.close = func() {
		p.mu.Lock()
		delete(p.conns, c)
		p.mu.Unlock()
		p.m.net.mu.Lock()
		delete(p.m.net.conns, c)
		p.m.net.mu.Unlock()
	}
	p.m.net.mu.Lock()
	p.m.net.conns[c] = struct{}{}
	p.m.net.mu.Unlock()
	return true
}

// Lookup implements cluster.Network.
func (p *port) Lookup(context.Context, string) ([]string, error) {
	return p.m.net.names(), nil
}

// listener implements net.Listener.
type listener struct {
	port    *port
	addr    *net.TCPAddr
	backlog chan net.Conn
	once    sync.Once
	done    chan struct{}
}

// Listen implements cluster.Network.
func (p *port) Listen(_ context.Context, addr string) (net.Listener, error) {
	l, err := p.listen(addr)
	if err != nil {
		return nil, err
	}
	return l, nil
}

func (p *port) listen(addr string) (*listener, error) {
	at, err := tcpAddr(addr)
	if err != nil {
		return nil, err
	}
	l := &listener{port: p, addr: at, backlog: make(chan net.Conn, 1024), done: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return nil, errDead
	}
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.m.tcp[addr] != nil {
		return nil, syscall.EADDRINUSE
	}
	p.m.tcp[addr] = l
	p.listeners = append(p.listeners, l)
	return l, nil
}

func tcpAddr(addr string) (*net.TCPAddr, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(port)
	return &net.TCPAddr{IP: net.ParseIP(host), Port: n}, err
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.backlog:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() {
		m := l.port.m
		m.mu.Lock()
		if m.tcp[l.addr.String()] == l {
			delete(m.tcp, l.addr.String())
		}
		m.mu.Unlock()
		close(l.done)
		for {
			select {
			case c := <-l.backlog:
				_ = c.Close()
				continue
			default:
			}
			return
		}
	})
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return l.addr }

// dialRetry is the pause before a lost request for a connection is sent again.
const dialRetry = 250 * time.Millisecond

// Dial implements cluster.Network.
func (p *port) Dial(ctx context.Context, addr string) (net.Conn, error) {
	to, err := tcpAddr(addr)
	if err != nil {
		return nil, err
	}
	n := p.m.net
	there, back := n.path(p.m.ip, to.IP.String()), n.path(to.IP.String(), p.m.ip)
	for {
		if p.isKilled() {
			return nil, errDead
		}
		open := !there.isShut() && !back.isShut() && !there.to.isLost()
		wait := dialRetry
		if open {
			wait = there.streamDelay(0) + back.streamDelay(0)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if open {
			return p.connect(there, back, to)
		}
	}
}

func (m *machine) isLost() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lost
}

func (p *port) connect(there, back *path, to *net.TCPAddr) (net.Conn, error) {
	there.to.mu.Lock()
	l := there.to.tcp[to.String()]
	there.to.mu.Unlock()
	if l == nil {
		return nil, syscall.ECONNREFUSED
	}
	n := p.m.net
	n.mu.Lock()
	n.port = 32768 + (n.port+1-32768)%28000
	from := &net.TCPAddr{IP: net.ParseIP(p.m.ip), Port: n.port}
	n.mu.Unlock()
	client, server := newConnPair(there, back, from, to)
	if !p.register(client) {
		return nil, errDead
	}
	if !l.port.register(server) {
		_ = client.Close()
		return nil, syscall.ECONNREFUSED
	}
	select {
	case <-l.done:
	case l.backlog <- server:
		return client, nil
	default:
	}
	_ = client.Close()
	_ = server.Close()
	return nil, syscall.ECONNREFUSED
}

// gossip is memberlist's transport.
type gossip struct {
	port    *port
	ln      *listener
	packets chan *memberlist.Packet
	streams chan net.Conn
	done    chan struct{}
	once    sync.Once
	wg      sync.WaitGroup
}

// GossipTransport implements cluster.Network.
func (p *port) GossipTransport(addr string) (memberlist.Transport, error) {
	ln, err := p.listen(addr)
	if err != nil {
		return nil, err
	}
	g := &gossip{
		port: p, ln: ln, packets: make(chan *memberlist.Packet, 4096),
		streams: make(chan net.Conn), done: make(chan struct{}),
	}
	p.mu.Lock()
	p.gossip = g
	p.mu.Unlock()
	p.m.mu.Lock()
	p.m.gossip = g
	p.m.mu.Unlock()
	g.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			select {
			case g.streams <- c:
			case <-g.done:
				_ = c.Close()
			}
		}
	})
	return g, nil
}

// FinalAdvertiseAddr implements memberlist.Transport.
func (g *gossip) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	return net.ParseIP(ip), port, nil
}

// WriteTo implements memberlist.Transport.
func (g *gossip) WriteTo(b []byte, addr string) (time.Time, error) {
	now := time.Now()
	if g.port.isKilled() {
		return now, errDead
	}
	to, err := tcpAddr(addr)
	if err != nil {
		return now, err
	}
	ip := to.IP.String()
	p := g.port.m.net.path(g.port.m.ip, ip)
	packet := &memberlist.Packet{
		Buf:  append([]byte(nil), b...),
		From: &net.UDPAddr{IP: net.ParseIP(g.port.m.ip), Port: g.ln.addr.Port},
	}
	p.send(func() {
		p.to.mu.Lock()
		dst := p.to.gossip
		p.to.mu.Unlock()
		if dst == nil {
			return
		}
		packet.Timestamp = time.Now()
		select {
		case dst.packets <- packet:
		default: // as with a full socket
		}
	})
	return now, nil
}

// PacketCh implements memberlist.Transport.
func (g *gossip) PacketCh() <-chan *memberlist.Packet { return g.packets }

// StreamCh implements memberlist.Transport.
func (g *gossip) StreamCh() <-chan net.Conn { return g.streams }

// DialTimeout implements memberlist.Transport.
func (g *gossip) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return g.port.Dial(ctx, addr)
}

// takeOff removes the transport from the network.
func (g *gossip) takeOff() {
	m := g.port.m
	m.mu.Lock()
	if m.gossip == g {
		m.gossip = nil
	}
	m.mu.Unlock()
}

// Shutdown implements memberlist.Transport.
func (g *gossip) Shutdown() error {
	g.once.Do(func() {
		g.takeOff()
		_ = g.ln.Close()
		close(g.done)
		g.wg.Wait()
	})
	return nil
}
