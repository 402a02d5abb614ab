package main

import (
	"fmt"
	"math"

	"github.com/fantail-dev/fantail/bench/internal/child"
)

// held holds what a process keeps, in bytes.
type held struct{ heap, resident int }

func heldBy(p *child.Peer) (m held, err error) {
	s, err := p.Ask("memory")
	if err == nil {
		_, err = fmt.Sscan(s, &m.heap, &m.resident)
	}
	return m, err
}

// stage is a step of a node, and what its process holds afterwards.
type stage struct {
	name, line string
	streams    int  // that its cost is spread over
	onTop      bool // its cost is what it adds to the stage before
}

// streams measures the memory of a node for streams that exist without use, and for streams that
// are followed: with a read session at S2 for each, and in exclusive mode, without. Followers are
// in the node's process (Host.Follow, which is what the first SSE reader of a stream does),
// because 10,000 sockets of readers would be counted with them, and a process may not have as
// many files as it likes.
func streams(endpoint string, z sizes) error {
	fmt.Printf("\nstreams: a node's memory; bytes for each stream of heap and stacks, and as the system counts\n\n")
	fmt.Printf("%-58s %9s %9s\n", "", "heap", "resident")
	create, follow := fmt.Sprintf("create %d", z.streams), fmt.Sprintf("follow %d", z.followed)
	exist := fmt.Sprintf("%d streams ", z.streams)
	followed := fmt.Sprintf("%d of them followed, ", z.followed)
	for _, n := range []struct {
		exclusive bool
		stages    []stage
	}{
		{false, []stage{
			{exist + "just made here, in memory", create, z.streams, false},
			{exist + "made here and released", "idle", z.streams, false},
			{followed + "a session each", follow, z.followed, true},
		}},
		{false, []stage{{exist + "exist, to a fresh node", "idle", z.streams, false}}},
		{true, []stage{{followed + "exclusive mode", follow, z.followed, false}}},
	} {
		if err := climb(endpoint, n.exclusive, n.stages); err != nil {
			return err
		}
	}
	fmt.Println()
	return nil
}

// climb starts a node and prints what each stage adds.
func climb(endpoint string, exclusive bool, stages []stage) error {
	p, err := child.Self("-node", edgeName, "-endpoint", endpoint, fmt.Sprintf("-exclusive=%v", exclusive))
	if err != nil {
		return err
	}
	defer p.Stop()
	// Connections and whatever else the first streams cost, once.
	for _, line := range []string{"warm 256", "idle"} {
		if _, err := p.Ask(line); err != nil {
			return err
		}
	}
	base, err := heldBy(p)
	if err != nil {
		return err
	}
	last := base
	for _, s := range stages {
		if _, err := p.Ask(s.line); err != nil {
			return err
		}
		m, err := heldBy(p)
		if err != nil {
			return err
		}
		before := base
		if s.onTop {
			before = last
		}
		per := func(now, before int) float64 { return math.Round(float64(now-before)/float64(s.streams)) + 0 } // no -0
		fmt.Printf("%-58s %9.0f %9.0f\n", s.name, per(m.heap, before.heap), per(m.resident, before.resident))
		last = m
	}
	return nil
}
