package main

import (
	"fmt"
	"sync"

	"github.com/fantail-dev/fantail/bench/internal/child"
)

// fleet is the processes of some nodes. The first, named edge, takes the requests.
type fleet []*child.Peer

const edgeName = "edge"

// startFleet starts fresh nodes, which have nothing in memory, and waits until
// they see each other. The names are always the same, and so are the owners.
func startFleet(endpoint string, nodes int) (f fleet, err error) {
	defer func() {
		if err != nil {
			f.stop()
		}
	}()
	join := ""
	if nodes > 1 {
		join = beginsFleet
	}
	for i := range nodes {
		name := edgeName
		if i > 0 {
			name = fmt.Sprintf("owner-%d", i)
		}
		p, err := child.Self("-node", name, "-join", join, "-endpoint", endpoint)
		if err != nil {
			return f, err
		}
		f = append(f, p)
		if join == beginsFleet {
			if join, err = p.Ask("gossip"); err != nil {
				return f, err
			}
		}
	}
	if nodes == 1 {
		return f, nil
	}
	for _, p := range f {
		if _, err := p.Ask(fmt.Sprintf("await %d", nodes)); err != nil {
			return f, err
		}
	}
	return f, nil
}

// edge returns the node that takes the requests, as a client sees it.
func (f fleet) edge() (*client, error) {
	at, err := f[0].Ask("http")
	if err != nil {
		return nil, err
	}
	return newClient(at), nil
}

// owner returns the name of a stream's owner; a lone node owns all.
func (f fleet) owner(stream string) (string, error) {
	if len(f) == 1 {
		return edgeName, nil
	}
	return f[0].Ask("owner " + stream)
}

func (f fleet) stop() {
	var wg sync.WaitGroup
	for _, p := range f {
		wg.Go(p.Stop)
	}
	wg.Wait()
}
