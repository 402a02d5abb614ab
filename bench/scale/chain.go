package main

import "fmt"

const (
	// chainSize is the size of the chain's messages, in bytes.
	chainSize = 100
	// warmUps are streams, of warmMessages each, that a fresh node serves first:
	// connections, those to its peers too, and buffers are then there.
	warmUps, warmMessages = 8, 5000
)

// chainBench is a fork of a fork of a fork …, each with its part of the messages, against a plain
// stream of as many. Both are read as a client does it, chunk by chunk, on a lone node and on a
// node of three that owns neither stream; cold (all nodes started again) and immediately once
// more.
type chainBench struct {
	endpoint string
	messages int
	rivals   [2]string // the plain stream, the far end of the chain
	warm     []string
	ends     [2]string // offsets of their last chunks
	table    table
}

func chain(endpoint string, z sizes) error {
	b := &chainBench{endpoint: endpoint, messages: z.messages}
	if err := b.write(z.chain); err != nil {
		return err
	}
	for r := range z.rounds {
		for _, nodes := range []int{1, 3} {
			if err := b.reads(nodes, r); err != nil {
				return err
			}
			if err := b.timeFirstBytes(nodes, r); err != nil {
				return err
			}
		}
	}
	fmt.Printf("\nchain: the far end of %d streams, each a fork of the one before, against a plain stream;\n"+
		"%d messages of %d bytes to either; medians in ms\n\n", z.chain, z.messages, chainSize)
	b.table.print("plain", "chain")
	fmt.Println()
	return nil
}

// write makes the streams, with names that the first of three nodes does not own.
func (b *chainBench) write(length int) error {
	f, err := startFleet(b.endpoint, 3)
	if err != nil {
		return err
	}
	defer f.stop()
	c, err := f.edge()
	if err != nil {
		return err
	}
	var names []string
	for i := 0; len(names) < 1+length+warmUps; i++ {
		name := fmt.Sprintf("bench/chain-%d", i)
		owner, err := f.owner(name)
		if err != nil {
			return err
		}
		if owner != edgeName {
			names = append(names, name)
		}
	}
	plain, links := names[0], names[1:1+length]
	b.warm = names[1+length:]
	b.rivals = [2]string{plain, links[length-1]}
	for _, name := range b.warm {
		if err := c.write(name, "", warmMessages, chainSize); err != nil {
			return err
		}
	}
	if err := c.write(plain, "", b.messages, chainSize); err != nil {
		return err
	}
	source := ""
	for i, name := range links {
		part := b.messages*(i+1)/length - b.messages*i/length
		if err := c.write(name, source, part, chainSize); err != nil {
			return err
		}
		source = name
	}
	return nil
}

// fresh starts nodes and warms their connections up.
func (b *chainBench) fresh(nodes int) (fleet, *client, error) {
	f, err := startFleet(b.endpoint, nodes)
	if err != nil {
		return nil, nil, err
	}
	c, err := f.edge()
	if err == nil {
		err = c.warmUp(b.warm, chainSize)
	}
	if err != nil {
		f.stop()
	}
	return f, c, err
}

func where(nodes int) string {
	if nodes == 1 {
		return "lone node"
	}
	return fmt.Sprintf("one of %d, not the owner", nodes)
}

// turns says which of the two goes first in a round.
func turns(round int) [2]int {
	if round%2 == 0 {
		return [2]int{0, 1}
	}
	return [2]int{1, 0}
}

func (b *chainBench) reads(nodes, round int) error {
	f, c, err := b.fresh(nodes)
	if err != nil {
		return err
	}
	defer f.stop()
	for _, state := range []string{"cold", "warm", "warm"} {
		p := b.table.pair(where(nodes) + ": start to tail, " + state)
		for _, i := range turns(round) {
			n, last, took, err := c.catchUp(b.rivals[i], chainSize)
			if err != nil {
				return err
			}
			if n != b.messages {
				return fmt.Errorf("%s: read %d messages of %d", b.rivals[i], n, b.messages)
			}
			b.ends[i] = last
			p.add(i, took)
		}
	}
	return nil
}

func (b *chainBench) timeFirstBytes(nodes, round int) error {
	f, c, err := b.fresh(nodes)
	if err != nil {
		return err
	}
	defer f.stop()
	for n := range 11 {
		p := b.table.pair(where(nodes) + ": first byte of the last chunk, " + temper(n))
		for _, i := range turns(round + n) {
			took, err := c.firstByte(b.rivals[i], b.ends[i])
			if err != nil {
				return err
			}
			p.add(i, took)
		}
	}
	return nil
}

// temper names the n-th turn on a fresh node.
func temper(n int) string {
	if n == 0 {
		return "cold"
	}
	return "warm"
}
