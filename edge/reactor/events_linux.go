package reactor

import "golang.org/x/sys/unix"

// addConn adds a reader. The header of its response is sent first.
func (l *loop) addConn(d *reader, fd int, encrypted *tlsWriter, head []byte) {
	c := l.conns.allocate()
	l.readers.Add(1)
	c.session, c.release, c.fd, c.tls = d.session, d.release, int32(fd), encrypted
	c.session.Begin(head)
	if err := l.setEpollEvents(unix.EPOLL_CTL_ADD, c, false); err != nil {
		l.cfg.Logger.Warn("watch a connection", "err", err)
		l.closeConn(c)
		return
	}
	key := c.session.Key()
	group := l.streams[key]
	if group == nil {
		group = &streamReaders{loop: l, key: key}
		l.streams[key] = group
	}
	c.group, c.groupIndex = group, int32(len(group.readers))
	group.readers = append(group.readers, c)
	if len(group.readers) == 1 {
		l.queueStream(group) // so that deliverToStream registers a Waker
	}
	if l.advance(c); encrypted != nil && c.state != connClosed {
		l.readTLS(c) // what net/http has read already
	}
}

// handleEvent handles an event of epoll.
func (l *loop) handleEvent(ev *unix.EpollEvent) {
	c := l.conns.lookup(connRef{uint32(ev.Fd), uint32(ev.Pad)})
	if c == nil {
		return
	}
	defer l.recoverConn(c)
	switch {
	case ev.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0:
		l.closeConn(c)
	case ev.Events&unix.EPOLLIN != 0:
		l.readTLS(c)
	}
	if ev.Events&unix.EPOLLOUT != 0 && c.state == connBlocked {
		l.advance(c)
	}
}
