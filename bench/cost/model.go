package main

import (
	"math"

	"github.com/fantail-dev/fantail/shard/s2dev"
)

// prices are in US dollars: s2.dev/pricing, as published in February 2026. Prices move.
//
//	Append       0.0000001 each      ReadSession  0.0000010 a minute
//	CheckTail    0.0000001 each      Read         0.0000010 each
//	CreateStream 0.0000100 each
var prices = s2dev.DefaultPrices

const (
	days    = 30 // of a month
	minutes = days * 24 * 60
)

// ops are operations of S2.
type ops struct {
	appends, reads, checks, creates float64
	sessions                        float64 // read sessions opened
	minutes                         float64 // of read sessions, each rounded up
}

func (o ops) minus(p ops) ops {
	return ops{
		o.appends - p.appends, o.reads - p.reads, o.checks - p.checks, o.creates - p.creates,
		o.sessions - p.sessions, o.minutes - p.minutes,
	}
}

func (o ops) times(n float64) ops {
	return ops{o.appends * n, o.reads * n, o.checks * n, o.creates * n, o.sessions * n, o.minutes * n}
}

func (o ops) over(n float64) ops { return o.times(1 / n) }

// dollars counts an append that S2 may waive (the second within a minute on one
// connection): it is an upper bound.
func (o ops) dollars() float64 {
	return o.appends*prices.Append + o.reads*prices.Read + o.checks*prices.CheckTail +
		o.creates*prices.CreateStream + o.minutes*prices.ReadSessionMinute
}

// units holds what Fantail asks of S2.
type units struct {
	append   ops // for one append
	followed ops // for a stream, each minute with a follower
	node     ops // for a node that owns followed streams, each minute
	deploy   ops // for a stream, when all nodes are replaced once; beyond those above
}

// model is a bill.
type model struct {
	units
	appends float64 // to each stream that has readers, a minute
}

// size holds the numbers of readers, streams and nodes, all month long. Readers are dealt out evenly to streams, and
// at random to nodes.
type size struct {
	readers, streams, nodes, deploys float64 // deploys a day
}

// active returns the number of streams with readers.
func (f size) active() float64 { return min(f.streams, f.readers) }

// pairs returns the number of pairs of a stream and a node with a reader.
func (f size) pairs() float64 {
	if f.readers == 0 {
		return 0
	}
	each := f.readers / f.active()
	return f.active() * f.nodes * (1 - math.Pow(1-1/f.nodes, each))
}

// bill is US dollars a month of each design.
type bill struct{ naive, perNode, fantail float64 }

func (m model) bill(f size) bill {
	written := f.active() * m.appends * minutes
	return bill{
		naive:   held(f.readers, f.deploys) + written*prices.Append,
		perNode: held(f.pairs(), f.deploys) + written*prices.Append,
		fantail: written*m.append.dollars() + m.sessions(f) + m.probes(f) + m.deploys(f),
	}
}

// sessions, probes and deploys are parts of Fantail's bill.
func (m model) sessions(f size) float64 { return f.active() * minutes * m.followed.dollars() }

func (m model) deploys(f size) float64 {
	return f.active() * days * f.deploys * m.deploy.dollars()
}

// probes returns the most probes that nodes make: a node that asks S2 something else does not
// probe it.
func (m model) probes(f size) float64 {
	if f.readers == 0 {
		return 0
	}
	return f.nodes * minutes * m.node.dollars()
}

// held returns the cost of n sessions that are open all month. A deploy ends each once, and
// another minute is begun; it may end them more often, so this is the least.
func held(n, deploys float64) float64 {
	return n * (minutes + days*deploys) * prices.ReadSessionMinute
}
