package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// A link joins this network with one of its own, in which S2 runs: two TUN devices, between which it
// carries each packet with a delay. So TCP sees a path that is long, with windows and slow start. It
// needs root.

const (
	namespace = "fantail-distance"
	hereIP    = "10.231.7.1"
	farIP     = "10.231.7.2"
)

type link struct {
	here, far *os.File
	delay     atomic.Int64 // each way, ns
}

// openLink makes the network and the devices.
func openLink() (*link, error) {
	run := func(line string) error {
		args := strings.Fields(line)
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, out)
		}
		return nil
	}
	_ = exec.Command("ip", "netns", "del", namespace).Run()
	l := &link{}
	var err error
	if err = run("ip netns add " + namespace); err != nil {
		return nil, err
	}
	if l.here, err = openTUN("fdhere"); err != nil {
		return nil, err
	}
	if l.far, err = openTUN("fdfar"); err != nil {
		return nil, err
	}
	for _, line := range []string{
		"ip link set fdfar netns " + namespace,
		"ip addr add " + hereIP + " peer " + farIP + " dev fdhere",
		"ip link set fdhere up mtu 1500 txqueuelen 10000",
		"ip -n " + namespace + " addr add " + farIP + " peer " + hereIP + " dev fdfar",
		"ip -n " + namespace + " link set fdfar up mtu 1500 txqueuelen 10000",
		"ip -n " + namespace + " link set lo up",
	} {
		if err := run(line); err != nil {
			return nil, err
		}
	}
	go l.carry(l.here, l.far)
	go l.carry(l.far, l.here)
	return l, nil
}

func (l *link) close() {
	_ = exec.Command("ip", "netns", "del", namespace).Run()
	_, _ = l.here.Close(), l.far.Close()
}

// setRoundTrip changes the delay of packets from now on.
func (l *link) setRoundTrip(d time.Duration) { l.delay.Store(int64(d / 2)) }

// carry carries the packets of one direction, in order.
func (l *link) carry(from, to *os.File) {
	type packet struct {
		b   []byte
		due time.Time
	}
	packets := make(chan packet, 1<<16)
	go func() {
		for p := range packets {
			if wait := time.Until(p.due); wait > 0 {
				<-time.After(wait)
			}
			_, _ = to.Write(p.b)
		}
	}()
	defer close(packets)
	for {
		b := make([]byte, 2048)
		n, err := from.Read(b)
		if errors.Is(err, os.ErrClosed) || err != nil {
			return
		}
		packets <- packet{b[:n], time.Now().Add(time.Duration(l.delay.Load()))}
	}
}

// openTUN makes a device for IP packets.
func openTUN(name string) (*os.File, error) {
	fd, err := syscall.Open("/dev/net/tun", syscall.O_RDWR|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("a TUN device, which needs root: %w", err)
	}
	var req struct {
		name  [16]byte
		flags uint16
		_     [22]byte
	}
	copy(req.name[:], name)
	const (
		iffTUN    = 0x0001
		iffNoPI   = 0x1000
		tunSetIff = 0x400454ca
	)
	req.flags = iffTUN | iffNoPI
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), tunSetIff, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return nil, fmt.Errorf("TUN device %s: %w", name, errno)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// farAddr is S2's address behind the link.
var farAddr = net.JoinHostPort(farIP, "4430")
