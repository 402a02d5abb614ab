package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"

	"github.com/fantail-dev/fantail/edge"
	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// serve is a lone node over a log in memory.
func serve(kind, addr string) error {
	host := shard.NewHost(logtest.NewMemory(1), shard.NewTails(0, 0), shard.Config{})
	node := edge.New(edge.Config{NoReactor: kind == "handlers"}, host)
	server := node.HTTPServer()
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/gc" {
			debug.FreeOSMemory()
			return
		}
		node.ServeHTTP(w, r)
	})
	var lc net.ListenConfig
	ln, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return err
	}
	fmt.Println("serving")
	return server.Serve(ln)
}
