package edge

import (
	"context"
	"math"
	"time"
)

// RebalancePolicy limits how a node disconnects readers when it has many more than others,
// as after a deploy that began with this node.
type RebalancePolicy struct {
	// Threshold is by what fraction of the mean a node may be above it (0.25; 0: it
	// disconnects no readers).
	Threshold float64
	// Floor is the number of readers above the mean that is tolerated (200).
	Floor int
	// Rate is the fraction of its readers that a node disconnects each second (0.01).
	Rate float64
}

// minRebalanceAge is the age before which no reader is disconnected for balance.
const minRebalanceAge = 30 * time.Second

// readersToMove returns how many of its mine readers this node should disconnect in the next
// second, given the counts of the other nodes.
func (p RebalancePolicy) readersToMove(mine int, others []int) int {
	if p.Threshold <= 0 || len(others) == 0 {
		return 0
	}
	sum := mine
	for _, n := range others {
		sum += n
	}
	mean := float64(sum) / float64(1+len(others))
	above := float64(mine) - mean
	if above <= float64(p.Floor) || above <= mean*p.Threshold {
		return 0
	}
	return int(math.Ceil(min(float64(mine)*p.Rate, above)))
}

// Rebalance disconnects event streams, slowly, while this node has many more than
// others, until ctx ends. exchange tells the fleet how many are here and returns how many
// each other node has. A reader is disconnected only after minRebalanceAge, and between two
// events.
func (s *Server) Rebalance(ctx context.Context, p RebalancePolicy, exchange func(readers int) (others []int)) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := 0; ; {
		var shed chan<- struct{}
		if n > 0 {
			shed = s.rebalanceSignals
		}
		select {
		case <-ctx.Done():
			return
		case shed <- struct{}{}:
			n--
		case <-tick.C:
			if n = p.readersToMove(s.Readers(), exchange(s.Readers())); s.rules.Orders().Drain {
				n = 0 // the drain disconnects them anyway
			}
		}
	}
}
