package s2s

import (
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
)

// widenSendBuffer lets the kernel hold more of a connection's bytes that are sent and not
// acknowledged, up to want. By itself Linux goes up to the last number of tcp_wmem, often 4 MiB: so
// much a connection sends in one round trip. A buffer that is set may be twice net.core.wmem_max. Where
// that is less, the kernel is left alone.
func widenSendBuffer(nc net.Conn, want int) {
	tcp, ok := nc.(*net.TCPConn)
	if !ok || want <= 0 {
		return
	}
	if most, auto := sendBufferLimits(); 2*min(want, most) > auto && auto > 0 {
		_ = tcp.SetWriteBuffer(min(want, most))
	}
}

// sendBufferLimits returns the kernel's limits: of a buffer that is set, and of one that grows by
// itself. They are 0 where there is no such kernel.
var sendBufferLimits = sync.OnceValues(func() (set, auto int) {
	return lastNumberIn("/proc/sys/net/core/wmem_max"), lastNumberIn("/proc/sys/net/ipv4/tcp_wmem")
})

func lastNumberIn(file string) int {
	b, err := os.ReadFile(file)
	fields := strings.Fields(string(b))
	if err != nil || len(fields) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(fields[len(fields)-1]) // 0: it is no number
	return n
}
