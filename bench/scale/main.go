// Command scale measures whether what should not depend on size does not: the
// length of a chain of forks, the length of a stream, the number of streams. What
// is compared is measured in turn in one run, so read the ratios.
//
//	go run ./bench/scale                  all of it
//	go run ./bench/scale -what chain      a fork of a fork of a fork … against a plain stream (chain.go)
//	go run ./bench/scale -what long       ten million records against ten thousand (long.go)
//	go run ./bench/scale -what streams    memory of streams that exist, and of followed ones (streams.go)
//
// The embedded S2 keeps everything in memory, in a process of its own. So is each
// node; it is put together as cmd/fantail does it, and stopped and started again
// wherever something is to be measured cold.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/fantail-dev/fantail/bench/internal/child"
)

// sizes holds what the flags say.
type sizes struct {
	rounds            int
	messages, chain   int // of the chain and its rival; streams in the chain
	records, few      int // of the long stream and its rival
	streams, followed int
}

func main() {
	what := flag.String("what", "all", "chain, long, streams or all")
	var z sizes
	flag.IntVar(&z.rounds, "rounds", 0, "rounds of each (0: 10 of chain, 40 of long)")
	flag.IntVar(&z.messages, "messages", 50_000, "chain: messages of either stream")
	flag.IntVar(&z.chain, "chain", 10, "chain: streams in the chain")
	flag.IntVar(&z.records, "records", 10_000_000, "long: records of the long stream")
	flag.IntVar(&z.few, "few", 10_000, "long: records of the short one")
	flag.IntVar(&z.streams, "streams", 100_000, "streams: how many exist")
	flag.IntVar(&z.followed, "followed", 10_000, "streams: how many are followed")
	var node nodeFlags
	store := flag.Bool("store", false, "run as the embedded S2, on behalf of the bench")
	flag.StringVar(&node.name, "node", "", "run as this node, on behalf of the bench")
	flag.StringVar(&node.join, "join", "", "gossip address of another node; \"first\" begins a fleet")
	flag.StringVar(&node.endpoint, "endpoint", "", "S2 of the node")
	flag.BoolVar(&node.exclusive, "exclusive", false, "no other program writes to S2")
	flag.Parse()
	var err error
	switch {
	case *store:
		err = runStore()
	case node.name != "":
		err = runNode(node)
	default:
		err = run(*what, z)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run(what string, z sizes) error {
	fmt.Println(strings.Join(append([]string{"$ go run ./bench/scale"}, os.Args[1:]...), " "))
	ran := false
	for _, m := range []struct {
		name    string
		measure func(endpoint string, z sizes) error
		rounds  int
	}{{"chain", chain, 10}, {"long", compareLengths, 40}, {"streams", streams, 1}} {
		if what != "all" && what != m.name {
			continue
		}
		ran = true
		z := z
		z.rounds = cmp.Or(z.rounds, m.rounds)
		if err := withStore(func(endpoint string) error { return m.measure(endpoint, z) }); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	if !ran {
		return fmt.Errorf("-what %s: want chain, long, streams or all", what)
	}
	return nil
}

// withStore calls fn with the address of an embedded S2 that is there meanwhile.
func withStore(fn func(endpoint string) error) error {
	store, err := child.Self("-store")
	if err != nil {
		return err
	}
	defer store.Stop()
	endpoint, err := store.Ask("url")
	if err != nil {
		return err
	}
	return fn(endpoint)
}
