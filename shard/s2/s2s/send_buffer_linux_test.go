package s2s

import (
	"net"
	"syscall"
	"testing"
)

// A send buffer is made larger where the kernel allows it, and never smaller.
func TestSendBufferIsNeverNarrowed(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	size := func() (n int) {
		raw, err := nc.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) { n, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF) })
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := size()
	for _, want := range []int{0, 1 << 10, 16 << 10} {
		if widenSendBuffer(nc, want); size() < before {
			t.Errorf("%d wanted: %d and %d before", want, size(), before)
		}
	}
	set, auto := sendBufferLimits()
	widenSendBuffer(nc, 8<<20)
	if got := size(); 2*min(set, 8<<20) > auto && got <= auto || got < before {
		t.Errorf("%d, of a kernel that allows %d and takes up to %d itself", got, set, auto)
	}
}
