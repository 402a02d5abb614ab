package main

import (
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/s2-streamstore/s2-sdk-go/s2"
)

// serve has do done for what is posted, and says 204.
func serve(addr string, do func(*http.Request) error) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Println("serving")
	return http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := do(r)
		_, _ = io.Copy(io.Discard, r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
}

// serveThin appends what is posted to the stream that the path names. It knows no producers, no
// compare-and-swap, no readers and no failures.
func serveThin(endpoint string) error {
	in := client(endpoint, 1024).Basin(basin)
	return serve(emptyAddr, func(r *http.Request) error {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		stream := in.Stream(directName(strings.TrimPrefix(r.URL.Path, "/v1/stream/")))
		_, err = stream.Append(r.Context(), &s2.AppendInput{Records: []s2.AppendRecord{{Body: body}}})
		return err
	})
}

// serveKeep writes what is posted to Pebble, as keeper does.
func serveKeep(dir string) error {
	db, err := openPebble(dir)
	if err != nil {
		return err
	}
	k := &keeper{db: db}
	return serve(keepAddr, func(r *http.Request) error {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		stream := fnv.New64a()
		_, _ = io.WriteString(stream, r.URL.Path)
		return k.put(stream.Sum64(), body)
	})
}
