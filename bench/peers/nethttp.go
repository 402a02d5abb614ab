//go:build linux

package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
)

// serveNetHTTP runs the server that most programmers write first: a goroutine and a channel for
// each reader. The frame is shared, and a reader that does not keep up is cut.
func serveNetHTTP(addr string) error {
	ln, err := net.Listen("tcp", addr) //nolint:noctx // a command's
	if err != nil {
		return err
	}
	type stream map[chan []byte]struct{}
	var mu sync.Mutex
	streams := map[string]stream{}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /s/{stream}", func(w http.ResponseWriter, r *http.Request) {
		ch, name := make(chan []byte, 1024), r.PathValue("stream")
		mu.Lock()
		if streams[name] == nil {
			streams[name] = stream{}
		}
		streams[name][ch] = struct{}{}
		mu.Unlock()
		defer func() {
			mu.Lock()
			delete(streams[name], ch)
			mu.Unlock()
		}()
		out := http.NewResponseController(w)
		w.Header().Set("Content-Type", "text/event-stream")
		_ = out.Flush()
		for {
			select {
			case frame, ok := <-ch:
				if !ok {
					return
				}
				if _, err := w.Write(frame); err != nil || out.Flush() != nil {
					return
				}
			case <-r.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("POST /s/{stream}", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		frame := fmt.Appendf(nil, "data: %s\n\n", body)
		mu.Lock()
		defer mu.Unlock()
		for ch := range streams[r.PathValue("stream")] {
			select {
			case ch <- frame:
			default:
				close(ch)
				delete(streams[r.PathValue("stream")], ch)
			}
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return http.Serve(ln, mux) //nolint:gosec // a measurement's
}
