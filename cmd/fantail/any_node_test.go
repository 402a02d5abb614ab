package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// What holds on one node holds on any: each test spreads its requests over a fleet, as a balancer
// would.

var ofJSON = []string{"Content-Type", "application/json"}

// A message that was acknowledged on one node is immediately there on every other, for all kinds of
// requests. A thousand times.
func TestWritesAreReadOnEveryNodeImmediately(t *testing.T) {
	t.Parallel()
	f := startFleet(t, 3)
	c := newClient(t)
	const streams, rounds = 10, 1000
	last := make([]string, streams)
	for i := range last {
		last[i] = c.must(t, 201, "PUT", f.url(i, fmt.Sprint("ryw-", i)), "", ofJSON...).header.Get("Stream-Next-Offset")
	}
	for i := range rounds {
		s := i % streams
		stream, want := fmt.Sprint("ryw-", s), fmt.Sprintf(`["%d"]`, i)
		next := c.must(t, 204, "POST", f.url(i/streams, stream), want, ofJSON...).header.Get("Stream-Next-Offset")
		var asking sync.WaitGroup
		for j := range f.nodes {
			url := f.url(j, stream)
			asking.Go(func() { // the newest offset, the messages after the last, and both at the tip
				if a, err := c.do(t.Context(), "HEAD", url, ""); err != nil || a.header.Get("Stream-Next-Offset") != next {
					t.Errorf("round %d: HEAD on node %d: %v %v, acknowledged %s", i, j, a.header, err, next)
				}
			})
			queries := []string{"?offset=" + last[s], "?offset=" + last[s] + "&live=long-poll"}
			if i%20 == 0 {
				queries = append(queries, "?offset=tail-1", "?offset=tail-1&live=long-poll")
			}
			for _, query := range queries {
				asking.Go(func() {
					a, err := c.do(t.Context(), "GET", url+query, "")
					if err != nil || a.status != 200 || string(a.body) != want || a.header.Get("Stream-Next-Offset") != next {
						t.Errorf("round %d: GET %s on node %d: %d %s %v, acknowledged %s", i, query, j, a.status, a.body, err, want)
					}
				})
			}
			asking.Go(func() {
				r := reader{client: c, url: func(int) string { return url }, offset: last[s]}
				ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
				defer stop()
				r.heard = func() {
					if len(r.got) > 0 {
						stop()
					}
				}
				if err := r.run(ctx); err != nil || !slices.Equal(r.got, []string{fmt.Sprint(i)}) || r.offset != next {
					t.Errorf("round %d: SSE on node %d: %v to %s, %v, acknowledged %s", i, j, r.got, r.offset, err, want)
				}
			})
		}
		if asking.Wait(); t.Failed() {
			return
		}
		last[s] = next
	}
}

// Forks of forks with different owners: every node reads the same, from every offset. A followed
// fork costs one read session, and its inherited part none. Deletion goes up the whole chain.
func TestForksOfForksReadTheSameOnEveryNode(t *testing.T) {
	t.Parallel()
	f := startFleet(t, 3)
	c := newClient(t)
	const depth = 6
	name := func(i int) string { return fmt.Sprint("gen-", i) }
	var all []string   // the messages of the newest generation
	var marks []string // an offset, and
	var counts []int   // how many messages are below it
	c.must(t, 201, "PUT", f.url(0, name(0)), "", ofJSON...)
	for i := range depth {
		if i > 0 {
			c.must(t, 201, "PUT", f.url(i, name(i)), "", "Stream-Forked-From", "/v1/stream/"+name(i-1))
		}
		for j := range 3 {
			m := fmt.Sprintf("%d-%d", i, j)
			a := c.must(t, 204, "POST", f.url(i+j, name(i)), `"`+m+`"`, ofJSON...)
			all = append(all, m)
			marks, counts = append(marks, a.header.Get("Stream-Next-Offset")), append(counts, len(all))
		}
		// The source goes on by itself.
		if i > 0 {
			c.must(t, 204, "POST", f.url(i, name(i-1)), `"elsewhere"`, ofJSON...)
		}
	}
	far := name(depth - 1)
	if !slices.IsSorted(marks) {
		t.Errorf("offsets do not sort: %q", marks)
	}
	for n := range f.nodes {
		wantSame(t, fmt.Sprint("node ", n), c.readAll(t, f.url(n, far)), all)
		for i, mark := range marks {
			a := c.must(t, 200, "GET", f.url(n, far)+"?offset="+mark, "")
			wantSame(t, fmt.Sprintf("node %d from %d", n, counts[i]), decodeTexts(t, a.body), all[counts[i]:])
		}
	}

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var reading sync.WaitGroup
	readers := make([]*reader, 9)
	for i := range readers {
		readers[i] = &reader{client: c, url: func(int) string { return f.url(i, far) }}
		reading.Go(func() {
			if err := readers[i].run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, 20*time.Second, "everybody has the past", func() bool {
		return !slices.ContainsFunc(readers, func(r *reader) bool { return r.count.Load() < int64(len(all)) })
	})
	var wrong string
	t.Cleanup(func() {
		if wrong != "" {
			t.Log(wrong)
		}
	})
	eventually(t, 10*time.Second, "one read session, of the fork that is followed", func() bool {
		wrong = ""
		for stream, used := range f.s2.Usage().Streams {
			want := int64(0)
			if stream == devBasin+"/default/"+far { // whose readers may have the past before it is open
				want = 1
			}
			if used.OpenReadSessions != want {
				wrong += fmt.Sprintf("%s has %d read sessions, want %d; ", stream, used.OpenReadSessions, want)
			}
		}
		return wrong == ""
	})
	c.must(t, 204, "POST", f.url(1, far), `"live"`, ofJSON...)
	c.must(t, 204, "POST", f.url(2, far), "", "Stream-Closed", "true")
	all = append(all, "live")
	reading.Wait()
	for i, r := range readers {
		wantSame(t, fmt.Sprint("reader ", i), r.got, all)
		if r.tries != 1 {
			t.Errorf("reader %d connected %d times", i, r.tries)
		}
	}

	for i := range depth - 1 { // the sources stay, only for their forks
		c.must(t, 204, "DELETE", f.url(i, name(i)), "")
		for n := range f.nodes {
			c.must(t, 410, "GET", f.url(n, name(i)), "")
			c.must(t, 409, "PUT", f.url(n, name(i)), "", ofJSON...)
		}
	}
	for n := range f.nodes {
		wantSame(t, fmt.Sprint("without sources, node ", n), c.readAll(t, f.url(n, far)), all)
	}
	c.must(t, 204, "DELETE", f.url(0, far), "")
	for i := range depth {
		for n := range f.nodes {
			eventually(t, 5*time.Second, name(i)+" is gone for good", func() bool {
				a, err := c.do(t.Context(), "HEAD", f.url(n, name(i)), "")
				return err == nil && a.status == http.StatusNotFound
			})
		}
	}
	c.must(t, 201, "PUT", f.url(1, name(0)), `["anew"]`, ofJSON...)
	wantSame(t, "made anew", c.readAll(t, f.url(2, name(0))), []string{"anew"})
}

// A stream that was deleted or has expired, and is created again, never shows anything of the
// earlier stream, on any node, whatever the nodes hold in memory.
func TestStreamMadeAgainShowsNothingOfTheEarlierOne(t *testing.T) {
	t.Parallel()
	f := startFleet(t, 3)
	c := newClient(t)
	const stream, lives = "lives", 30
	for life := range lives {
		h := ofJSON
		expires := life%3 == 2
		if expires {
			h = append(slices.Clone(ofJSON), "Stream-TTL", "0")
		}
		if life > 0 {
			c.must(t, 404, "GET", f.url(life, stream)+"?offset=-1", "")
		}
		c.must(t, 201, "PUT", f.url(life, stream), fmt.Sprintf(`["%d-a","%d-b"]`, life, life), h...)
		if expires {
			continue
		}
		// Every node has the stream in memory, for each kind of request.
		var offset string
		for n := range f.nodes {
			a := c.must(t, 200, "GET", f.url(n, stream)+"?offset=-1&live=long-poll", "")
			offset = a.header.Get("Stream-Next-Offset")
			wantSame(t, fmt.Sprintf("life %d, node %d", life, n), decodeTexts(t, a.body), []string{fmt.Sprint(life, "-a"), fmt.Sprint(life, "-b")})
			wantSame(t, fmt.Sprintf("life %d, node %d", life, n), c.readAll(t, f.url(n, stream)), decodeTexts(t, a.body))
		}
		c.must(t, 204, "DELETE", f.url(life+1, stream), "")
		for n := range f.nodes {
			for _, live := range []string{"", "&live=long-poll", "&live=sse"} {
				c.must(t, 404, "GET", f.url(n, stream)+"?offset="+offset+live, "")
			}
			c.must(t, 404, "HEAD", f.url(n, stream), "")
		}
		c.must(t, 201, "PUT", f.url(life+2, stream), "", ofJSON...)
		for n := range f.nodes {
			for _, live := range []string{"", "&live=long-poll", "&live=sse"} {
				c.must(t, 410, "GET", f.url(n, stream)+"?offset="+offset+live, "")
			}
			if got := c.readAll(t, f.url(n, stream)); len(got) != 0 {
				t.Fatalf("life %d, node %d: %q of a life before", life, n, got)
			}
		}
		c.must(t, 204, "DELETE", f.url(life, stream), "")
	}
}

// The same offset has the same bytes and the same tag on every node.
func TestSameOffsetHasTheSameBytesOnEveryNode(t *testing.T) {
	t.Parallel()
	f := startFleet(t, 3)
	c := newClient(t)
	c.must(t, 201, "PUT", f.url(0, "chunks"), "", ofJSON...)
	// Very many messages, and then messages of many sizes, so that chunks end by number and by
	// size.
	c.must(t, 204, "POST", f.url(0, "chunks"), "["+strings.Repeat("1,", 24_000)+"1]", ofJSON...)
	for i := range 12 {
		m := fmt.Sprintf(`"%s"`, strings.Repeat(fmt.Sprint(i%10), 1<<(i+3)))
		c.must(t, 204, "POST", f.url(i, "chunks"), "["+strings.Repeat(m+",", 300)+m+"]", ofJSON...)
	}
	c.must(t, 204, "POST", f.url(1, "chunks"), "", "Stream-Closed", "true")
	chunks := 0
	for at, done := "-1", false; !done; chunks++ {
		first := c.must(t, 200, "GET", f.url(0, "chunks")+"?offset="+at, "")
		for n := range f.nodes {
			again := c.must(t, 200, "GET", f.url(n, "chunks")+"?offset="+at, "")
			if string(again.body) != string(first.body) {
				t.Fatalf("at %s: %d bytes on node %d, %d on another", at, len(again.body), n, len(first.body))
			}
			for _, h := range []string{"ETag", "Cache-Control", "Stream-Next-Offset", "Stream-Closed"} {
				if again.header.Get(h) != first.header.Get(h) {
					t.Errorf("at %s: %s %q on node %d, %q on another", at, h, again.header.Get(h), n, first.header.Get(h))
				}
			}
		}
		at, done = first.header.Get("Stream-Next-Offset"), first.header.Get("Stream-Up-To-Date") == "true"
	}
	if chunks < 5 {
		t.Errorf("%d chunks", chunks)
	}
}
