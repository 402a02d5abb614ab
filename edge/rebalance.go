package edge

import (
	"context"
	"math"
	"time"
)

// RebalancePolicy says when a node sends readers elsewhere because it has many more than others,
// as after a deploy that began with it.
type RebalancePolicy struct {
	// Threshold is how far above the mean a node may be, as a part of it (0.25; 0: it
	// sends nobody away).
	Threshold float64
	// Floor is how many readers above the mean are left alone (200).
	Floor int
	// Rate is the part of its readers that a node sends away each second (0.01).
	Rate float64
}

// settledAfter is the age before which no reader is sent elsewhere for balance.
const settledAfter = 30 * time.Second

// excess is how many readers a node sends away in a second that has so many, and others
// so many each.
func (b RebalancePolicy) excess(mine int, others []int) int {
	if b.Threshold <= 0 || len(others) == 0 {
		return 0
	}
	sum := mine
	for _, n := range others {
		sum += n
	}
	mean := float64(sum) / float64(1+len(others))
	above := float64(mine) - mean
	if above <= float64(b.Floor) || above <= mean*b.Threshold {
		return 0
	}
	return int(math.Ceil(min(float64(mine)*b.Rate, above)))
}

// Rebalance sends event streams elsewhere, slowly, while this node has many more than
// others, until ctx ends. exchange tells the fleet how many are here and returns how many
// each other node has. Who is sent away has been here for a while, and is between two
// events.
func (s *Server) Rebalance(ctx context.Context, b RebalancePolicy, exchange func(readers int) (others []int)) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := 0; ; {
		var shed chan<- struct{}
		if n > 0 {
			shed = s.shed
		}
		select {
		case <-ctx.Done():
			return
		case shed <- struct{}{}:
			n--
		case <-tick.C:
			if n = b.excess(s.Readers(), exchange(s.Readers())); s.drain.on.Load() {
				n = 0 // they leave anyway
			}
		}
	}
}

// sheds is where a reader that has been here since began hears that it is to leave; nil
// while it is young.
func (s *Server) sheds(began time.Time) <-chan struct{} {
	if time.Since(began) < settledAfter {
		return nil
	}
	return s.shed
}
