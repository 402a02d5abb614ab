// Command beyond computes what a fleet larger than this machine would come to: it asks the
// ring itself for the owner of each stream before and after a change, and multiplies what was
// measured here (the other files of bench/results). It measures nothing but the ring.
//
//	go run ./bench/beyond
package main

import (
	"flag"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// What the code says (shard/opens.go, cluster/follow_loop.go, cluster/gossip/announce.go).
const (
	opensPerSecond = 200  // sessions that a node opens when it takes over
	takesPerSecond = 700  // the same when it is handed them
	movesPerSecond = 2000 // subscriptions that an edge moves while it is fed
	pushPull       = 10   // seconds between two exchanges of all that gossip knows
	metaBytes      = 512  // of a member in gossip, at most
	partitions     = 4093
)

// What was measured, with the file of bench/results that says so.
const (
	readerBytes     = 1051  // of a reader in the process, after a collection: readers.txt
	kernelBytes     = 10240 // of its socket: the kernel's
	deliveryCPU     = 10    // µs of a busy node, whatever else it does included: 100k-fanout.txt
	ownerBytes      = 6738  // of a followed stream at its owner, without the SDK: scale.txt
	sessionBytes    = 71611 // of the SDK's session, on top: scale.txt
	subscribedBytes = 517   // of a subscription at the owner: relay.txt
	edgeBytes       = 775   // of a subscription and its Tail at the edge: relay.txt
	eventBytes      = 470   // of a message of 256 bytes, relayed or written: readers.txt
)

type fleet struct {
	nodes, streams, readers int
	perStream               float64 // messages a second
}

func main() {
	streams := flag.Int("streams", 1_000_000, "followed streams")
	readers := flag.Int("readers", 1_000_000, "readers")
	rate := flag.Float64("rate", 0.1, "messages a second on each stream")
	flag.Parse()
	fmt.Printf("%d followed streams, %d readers, %g messages a second on each stream\n\n", *streams, *readers, *rate)
	var all []column
	for _, n := range []int{10, 30, 100, 300} {
		all = append(all, compute(fleet{n, *streams, *readers, *rate}))
	}
	print(all)
}

// column holds the figures for one size of fleet.
type column struct {
	title string
	cells []cell
}

type cell struct{ what, text string }

func (c *column) add(what, format string, a ...any) {
	c.cells = append(c.cells, cell{what, fmt.Sprintf(format, a...)})
}

func compute(f fleet) column {
	c := column{title: fmt.Sprintf("%d nodes", f.nodes)}
	members := make([]placement.Member, f.nodes)
	for i := range members {
		name := fmt.Sprint("node-", i)
		members[i] = placement.Member{Name: name, RingKey: name, OwnsUntil: placement.Never}
	}
	began := time.Now()
	before := placement.NewView(members).TableAt(began)
	took := time.Since(began)
	after := placement.NewView(members[1:]).TableAt(began)

	owned, moved := map[string]int{}, map[string]int{}
	bystanders := 0
	for i := range f.streams {
		id := shard.StreamID(fmt.Sprint("default/stream-", i))
		was, is := before.Owner(id).Name, after.Owner(id).Name
		owned[was]++
		if was != is {
			moved[is]++
			if was != members[0].Name {
				bystanders++
			}
		}
	}
	mean := float64(f.streams) / float64(f.nodes)
	most, heir := peak(owned), peak(moved)

	c.add("the ring is made in, ms", "%.0f", float64(took)/1e6)
	c.add("partitions a node", "%.0f", partitions/float64(f.nodes))
	c.add("streams of the fullest node, of the mean", "%.2f", float64(most)/mean)
	c.add("- one node dies", "")
	c.add("streams that it owned", "%d", owned[members[0].Name])
	c.add("streams of others that move, too", "%d", bystanders)
	c.add("streams that the busiest heir gets", "%d", heir)
	c.add("all sessions are back after, s", "%.0f", float64(heir)/opensPerSecond+3)
	c.add("- one node is replaced", "")
	c.add("the busiest heir has its sessions after, s", "%.0f", float64(heir)/takesPerSecond)

	// Of a stream with so many readers, spread evenly, this many nodes have one.
	share := float64(f.readers) / float64(f.streams)
	edges := float64(f.nodes) * (1 - math.Pow(1-1/float64(f.nodes), share))
	subscribed := float64(f.streams) * edges / float64(f.nodes)
	own := 1 / float64(f.nodes) // of them this node owns
	c.add("followed elsewhere are moved by an edge in, s", "%.1f", subscribed*float64(owned[members[0].Name]+bystanders)/float64(f.streams)/movesPerSecond)
	c.add("- a node, readers spread evenly", "")
	c.add("readers", "%d", f.readers/f.nodes)
	c.add("memory of readers, process, MB", "%.0f", float64(f.readers/f.nodes)*readerBytes/1e6)
	c.add("memory of readers, kernel, MB", "%.0f", float64(f.readers/f.nodes)*kernelBytes/1e6)
	c.add("memory of streams owned, MB", "%.0f", mean*(ownerBytes+edges*subscribedBytes)/1e6)
	c.add("memory of the SDK's sessions, MB", "%.0f", mean*sessionBytes/1e6)
	c.add("streams followed here", "%.0f", subscribed)
	c.add("memory of those, MB", "%.0f", subscribed*(1-own)*edgeBytes/1e6)
	messages := mean * f.perStream
	c.add("relayed by an owner, MB/s", "%.1f", messages*edges*(1-own)*eventBytes/1e6)
	c.add("deliveries a second", "%.0f", float64(f.readers)*f.perStream/float64(f.nodes))
	c.add("cores for those", "%.2f", float64(f.readers)*f.perStream/float64(f.nodes)*deliveryCPU/1e6)
	scale := 1.0 // memberlist stretches the interval above 32 members
	if f.nodes > 32 {
		scale = math.Ceil(math.Log2(float64(f.nodes))-5) + 1
	}
	c.add("gossip at rest, KB/s, at most", "%.1f", 4*float64(f.nodes)*metaBytes/pushPull/scale/1e3)
	c.add("links to other nodes", "%d", f.nodes-1)
	return c
}

func peak(m map[string]int) (most int) {
	for _, n := range m {
		most = max(most, n)
	}
	return most
}

func print(all []column) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	titles := make([]string, len(all))
	for i := range all {
		titles[i] = all[i].title
	}
	fmt.Fprintf(w, "\t%s\t\n", strings.Join(titles, "\t"))
	width := 0
	for _, c := range all[0].cells {
		width = max(width, len(c.what))
	}
	for i, first := range all[0].cells {
		row := []string{first.what + strings.Repeat(" ", width-len(first.what))}
		for _, c := range all {
			row = append(row, c.cells[i].text)
		}
		if title, ok := strings.CutPrefix(first.what, "- "); ok {
			row = append([]string{title + strings.Repeat(" ", width-len(title))}, slices.Repeat([]string{""}, len(all))...)
		}
		fmt.Fprintf(w, "%s\t\n", strings.Join(row, "\t"))
	}
	_ = w.Flush()
}
