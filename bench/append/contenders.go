package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/bench/internal/child"
	"github.com/fantail-dev/fantail/bench/internal/parallel"
	"github.com/fantail-dev/fantail/bench/internal/poster"
	"github.com/fantail-dev/fantail/bench/internal/wait"
)

// embedded returns Fantail on its own S2: over the wire, in the process, and there on disk.
func (o options) embedded(s *servers) ([]group, error) {
	dir, err := os.MkdirTemp("", "fantail-append-")
	if err != nil {
		return nil, err
	}
	s.scratch = append(s.scratch, dir)
	if err := s.store(o); err != nil {
		return nil, err
	}
	wire, err := s.node(o, wireAddr, "--s2-endpoint=http://"+storeAddr)
	if err != nil {
		return nil, err
	}
	lone, err := s.node(o, loneAddr, "--s2-port=4631")
	if err != nil {
		return nil, err
	}
	disk, err := s.node(o, diskAddr, "--s2-port=4632", "--data="+filepath.Join(dir, "s2"))
	if err != nil {
		return nil, err
	}
	nothing, err := s.self("-empty")
	if err != nil {
		return nil, err
	}
	direct, err := o.sdk("http://"+storeAddr, 1)
	if err != nil {
		return nil, err
	}
	db, err := openPebble(filepath.Join(dir, "pebble"))
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, db)
	keep, err := s.self("-keep=" + filepath.Join(dir, "kept"))
	if err != nil {
		return nil, err
	}
	many := func(streams int) []*contender {
		return []*contender{
			{name: "a handler that does nothing", server: nothing, open: o.posters(o.n, emptyAddr, streams)},
			{name: "Fantail, S2 over the wire", server: wire, open: o.posters(o.n, wireAddr, streams)},
			{name: "Fantail, S2 in the process", server: lone, open: o.posters(o.n, loneAddr, streams)},
		}
	}
	return []group{
		{"one after the other", []*contender{
			{name: "SDK alone", open: direct},
			{name: "Fantail, S2 over the wire", server: wire, open: o.posters(1, wireAddr, 1)},
			{name: "Fantail, S2 in the process", server: lone, open: o.posters(1, loneAddr, 1)},
		}},
		{fmt.Sprintf("%d posters on one stream", o.n), many(1)},
		{fmt.Sprintf("%d posters over %d streams", o.n, o.streams), many(o.streams)},
		{fmt.Sprintf("%d, over %d streams, fsynced", o.n, o.streams), []*contender{
			{name: "Pebble alone, no HTTP", open: o.keepers(&keeper{db: db})},
			{name: "a handler that writes to it", server: keep, open: o.posters(o.n, keepAddr, o.streams)},
			{name: "Fantail, S2 in the process", server: disk, open: o.posters(o.n, diskAddr, o.streams)},
		}},
	}, nil
}

// compare returns two builds of Fantail, and nothing else: each with an S2 of its own in the
// process, and both over the wire on the same.
func (o options) compare(s *servers, before string) ([]group, error) {
	if err := s.store(o); err != nil {
		return nil, err
	}
	old := o
	old.binary = before
	type node struct {
		name, addr string
		o          options
		args       []string
		child      *child.Child
	}
	nodes := []*node{
		{"S2 over the wire, before", wireBefore, old, []string{"--s2-endpoint=http://" + storeAddr}, nil},
		{"S2 over the wire", wireAddr, o, []string{"--s2-endpoint=http://" + storeAddr}, nil},
		{"S2 in the process, before", loneBefore, old, []string{"--s2-port=4633"}, nil},
		{"S2 in the process", loneAddr, o, []string{"--s2-port=4631"}, nil},
	}
	for _, n := range nodes {
		c, err := s.node(n.o, n.addr, n.args...)
		if err != nil {
			return nil, err
		}
		n.child = c
	}
	var all []group
	for _, pair := range [][]*node{nodes[:2], nodes[2:]} {
		load := func(title string, posters, streams int) {
			g := group{title: title}
			for _, n := range pair {
				g.all = append(g.all, &contender{name: n.name, server: n.child, open: o.posters(posters, n.addr, streams)})
			}
			all = append(all, g)
		}
		load("one after the other", 1, 1)
		load(fmt.Sprintf("%d posters on one stream", o.n), o.n, 1)
		load(fmt.Sprintf("%d posters over %d streams", o.n, o.streams), o.n, o.streams)
	}
	return all, nil
}

// store starts an embedded S2 in a process of its own.
func (s *servers) store(o options) error {
	if _, err := s.start("", o.binary, "s2", "--listen="+storeAddr, "--basin="+basin); err != nil {
		return err
	}
	return wait.For(10*time.Second, "S2", func() bool { return answers("http://" + storeAddr + "/health") })
}

// given returns Fantail on a server of S2 that runs already, and the SDK alone on the same
// server.
func (o options) given(s *servers, endpoint string) ([]group, error) {
	node, err := s.node(o, wireAddr, "--s2-endpoint="+endpoint)
	if err != nil {
		return nil, err
	}
	thin, err := s.self("-thin=" + endpoint)
	if err != nil {
		return nil, err
	}
	var groups []group
	for _, n := range []int{o.n, 4 * o.n} {
		direct, err := o.sdk(endpoint, n)
		if err != nil {
			return nil, err
		}
		groups = append(groups, group{fmt.Sprintf("%d writers over %d streams", n, o.streams), []*contender{
			{name: "SDK alone", open: direct},
			{name: "a handler that calls the SDK", server: thin, open: o.posters(n, emptyAddr, o.streams)},
			{name: "Fantail", server: node, open: o.posters(n, wireAddr, o.streams)},
		}})
	}
	return groups, nil
}

// posters makes n workers with a connection each; they share the streams.
func (o options) posters(n int, addr string, streams int) func() ([]worker, error) {
	return func() ([]worker, error) {
		all, err := poster.Crowd(n, addr, streams, streamPath, o.body)
		workers := make([]worker, len(all))
		for i, p := range all {
			workers[i] = worker{p.Post, p.Close}
		}
		return workers, err
	}
}

const basin = "fantail-dev"

// client returns S2's own client, which keeps up to n connections.
func client(endpoint string, n int) *s2.Client {
	base := strings.TrimSuffix(endpoint, "/") + "/v1"
	return s2.New("none", &s2.ClientOptions{
		BaseURL: base, MakeBasinBaseURL: func(string) string { return base },
		RetryConfig: &s2.RetryConfig{MaxAttempts: 1}, // as Fantail's
		HTTPClient:  &http.Client{Transport: &http.Transport{MaxIdleConns: n, MaxIdleConnsPerHost: n}},
	})
}

// directName returns the stream of a program without Fantail.
func directName(name string) s2.StreamName { return s2.StreamName("direct-" + name) }

// sdk appends with S2's own client, as n goroutines of a program without Fantail would; they
// share as many streams as posters do. A single goroutine has a single stream.
func (o options) sdk(endpoint string, n int) (func() ([]worker, error), error) {
	ctx, own := context.Background(), client(endpoint, n)
	if _, err := own.Basins.Ensure(ctx, s2.EnsureBasinArgs{Basin: basin}); err != nil {
		return nil, err
	}
	in := own.Basin(basin)
	streams := make([]*s2.StreamClient, o.streams)
	if n == 1 {
		streams = streams[:1]
	}
	err := parallel.Do(len(streams), func(i int) error {
		name := directName(fmt.Sprint("bench-", i))
		streams[i] = in.Stream(name)
		_, err := in.Streams.Ensure(ctx, s2.EnsureStreamArgs{Stream: name})
		return err
	})
	return func() ([]worker, error) {
		workers := make([]worker, n)
		for w := range workers {
			turn := w % len(streams)
			workers[w] = worker{func() error {
				if turn += n; turn >= len(streams) { // used by no other poster
					turn = w % len(streams)
				}
				_, err := streams[turn].Append(ctx, &s2.AppendInput{Records: []s2.AppendRecord{{Body: o.body}}})
				return err
			}, func() {}}
		}
		return workers, nil
	}, err
}

// keeper writes about what an append is to the embedded S2, a record and its stream's head, to a
// Pebble with the memtables of the embedded S2; durably. The record has no headers, which are 80
// bytes.
type keeper struct {
	db   *pebble.DB
	next atomic.Uint64
}

func openPebble(dir string) (*pebble.DB, error) {
	return pebble.Open(dir, &pebble.Options{MemTableSize: 16 << 20, FormatMajorVersion: pebble.FormatNewest, Logger: quiet{}})
}

// quiet is Pebble's log.
type quiet struct{}

func (quiet) Infof(string, ...any)           {}
func (quiet) Errorf(string, ...any)          {}
func (quiet) Fatalf(format string, a ...any) { panic(fmt.Sprintf(format, a...)) }

func (k *keeper) put(stream uint64, body []byte) error {
	key := binary.BigEndian.AppendUint64([]byte{'r'}, stream)
	b := k.db.NewBatch()
	err := errors.Join(
		b.Set(binary.BigEndian.AppendUint64(key, k.next.Add(1)), body, nil),
		b.Set(append([]byte{'h'}, key[1:]...), make([]byte, 32), nil),
		b.Commit(pebble.Sync),
	)
	return errors.Join(err, b.Close())
}

// keepers returns goroutines that share the streams.
func (o options) keepers(k *keeper) func() ([]worker, error) {
	return func() ([]worker, error) {
		workers := make([]worker, o.n)
		for w := range workers {
			stream := uint64(w)
			workers[w] = worker{func() error {
				if stream += uint64(o.n); stream >= uint64(o.streams) {
					stream = uint64(w)
				}
				return k.put(stream, o.body)
			}, func() {}}
		}
		return workers, nil
	}
}
