package main

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// longSize is the size of the records, in bytes.
	longSize = 32
	// longAppends is the least number of appends that write each of the two streams. It is more
	// than the ids that a stream remembers, so both remember equally many.
	longAppends = 1100
	// longPost is the most records in one append: a batch, with room for a checkpoint.
	longPost = 950
	// inFlight appends of a stream wait at the node at the same time.
	inFlight = 4
	// stride is the number of appends of a round to both, so that the distance to the last
	// checkpoint (at most 500 records), which a take-over reads, takes all values.
	stride = 67
)

var (
	rivals   = [2]string{"bench/short", "bench/long"}
	longWarm = []string{"bench/warm-0", "bench/warm-1", "bench/warm-2", "bench/warm-3"}
)

// compareLengths compares a stream of ten million records with a stream of ten thousand: what a node asks
// S2 for, and how long its clients wait, must not depend on the length. The records are written
// as JSON arrays through a node.
func compareLengths(endpoint string, z sizes) error {
	counts := [2]int{z.few, z.records}
	if err := writeLong(endpoint, counts); err != nil {
		return err
	}
	var t table
	var middles [2]string
	for i, n := range counts {
		middles[i] = strconv.Itoa(n / 2) // an S2 sequence number is an offset, too
	}
	for r := range z.rounds {
		if err := onFresh(endpoint, func(c *client) error { return readLong(c, r, middles, &t) }); err != nil {
			return err
		}
		if err := onFresh(endpoint, func(c *client) error { return appendLong(c, r, &t) }); err != nil {
			return err
		}
	}
	fmt.Printf("\nlong: a stream of %d records of %d bytes against one of %d, on a lone node; medians in ms\n\n",
		z.records, longSize, z.few)
	t.print("short", "long")
	fmt.Println()
	return nil
}

func writeLong(endpoint string, counts [2]int) error {
	f, err := startFleet(endpoint, 1)
	if err != nil {
		return err
	}
	defer f.stop()
	c, err := f.edge()
	if err != nil {
		return err
	}
	for _, name := range longWarm {
		if err := c.write(name, "", warmMessages, longSize); err != nil {
			return err
		}
	}
	for i, name := range rivals {
		if err := c.create(name, ""); err != nil {
			return err
		}
		began := time.Now()
		if err := fill(c, name, counts[i]); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "%s: %d records in %.1f s\n", name, counts[i], time.Since(began).Seconds())
		if at, err := c.tail(name); err != nil || at < uint64(counts[i]) {
			return fmt.Errorf("%s ends at %d: %w", name, at, err)
		}
	}
	return nil
}

// fill appends records, in appends of about one size.
func fill(c *client, stream string, records int) error {
	var g errgroup.Group
	g.SetLimit(inFlight)
	appends := max(longAppends, (records+longPost-1)/longPost)
	for i := range appends {
		if n := records*(i+1)/appends - records*i/appends; n > 0 {
			g.Go(func() error { return c.post(stream, n, longSize, n) })
		}
	}
	return g.Wait()
}

// onFresh calls fn with a lone node that has nothing in memory but connections.
func onFresh(endpoint string, fn func(*client) error) error {
	f, err := startFleet(endpoint, 1)
	if err != nil {
		return err
	}
	defer f.stop()
	c, err := f.edge()
	if err != nil {
		return err
	}
	if err := c.warmUp(longWarm, longSize); err != nil {
		return err
	}
	return fn(c)
}

// readLong has a fresh node asked for the first time, and then again.
func readLong(c *client, round int, middles [2]string, t *table) error {
	both := func(name string, ask func(i int) (time.Duration, error)) error {
		for _, i := range turns(round) {
			took, err := ask(i)
			if err != nil {
				return err
			}
			t.pair(name).add(i, took)
		}
		return nil
	}
	head := func(i int) (time.Duration, error) { return c.head(rivals[i]) }
	middle := func(i int) (time.Duration, error) { return c.firstByte(rivals[i], middles[i]) }
	if err := both("take-over: a fresh node's first HEAD", head); err != nil {
		return err
	}
	for n := range 11 {
		if err := both("first byte of the middle, "+temper(n), middle); err != nil {
			return err
		}
		if err := both("HEAD", head); err != nil {
			return err
		}
	}
	return nil
}

// appendLong has a fresh node append to both.
func appendLong(c *client, round int, t *table) error {
	for n, name := range []string{"take-over: a fresh node's first append", "an append after it"} {
		body := array(1+n*(stride-2), longSize)
		for _, i := range turns(round) {
			_, took, err := c.ask(http.MethodPost, rivals[i], body, isJSON...)
			if err != nil {
				return err
			}
			t.pair(name).add(i, took)
		}
	}
	return nil
}
