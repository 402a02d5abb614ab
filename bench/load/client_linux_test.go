package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// event is a data event and its control event, as a server sends them.
func event(offset string, messages ...string) string {
	return fmt.Sprintf("event: data\ndata:[%s]\nid: %s\n\nevent: control\ndata:{\"streamNextOffset\":\"%s\",\"upToDate\":true}\n\n",
		strings.Join(messages, ","), offset, offset)
}

func chunked(s string, size int) string {
	var b strings.Builder
	b.WriteString("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
	for len(s) > 0 {
		n := min(size, len(s))
		fmt.Fprintf(&b, "%x\r\n%s\r\n", n, s[:n])
		s = s[n:]
	}
	return b.String()
}

// However a stream is cut into chunks and reads, the same comes of it; a message that is
// missing and one that comes twice are noticed.
func TestClientReads(t *testing.T) {
	m := func(n int64) string { return string(message(n, 60)) }
	good := event("1_3", m(0), m(1), m(2)) + ":\n\n" + event("1_4", m(3))
	for _, tc := range []struct {
		stream                  string
		messages, lost, doubled int
	}{
		{good, 4, 0, 0},
		{good + event("1_6", m(5)), 5, 1, 0},
		{good + event("1_4", m(3)), 4, 0, 1},
	} {
		plain := "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + tc.stream
		for _, wire := range []string{plain, chunked(tc.stream, 7), chunked(tc.stream, 100)} {
			for range 50 {
				c := &client{}
				r := &reader{phase: phaseHead}
				for rest := wire; rest != ""; {
					n := 1 + rand.IntN(min(len(rest), 40))
					if !c.feed(0, r, []byte(rest[:n])) {
						t.Fatal("the connection is over")
					}
					rest = rest[n:]
				}
				s := &c.sum
				if s.Messages != tc.messages || s.Lost != tc.lost || s.Doubled != tc.doubled || !r.tip || !strings.HasPrefix(string(r.offset), "1_") {
					t.Fatalf("%d messages, %d lost, %d doubled, at %s; %s", s.Messages, s.Lost, s.Doubled, r.offset, s.Why)
				}
				if s.Latency.Count() != tc.messages {
					t.Fatal(s.Latency.Count())
				}
			}
		}
	}
}
