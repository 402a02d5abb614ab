package main

// canaryCheck checks what one reader receives of one stream: each message of each writer once, in the
// writer's order. It is pure.
type canaryCheck struct {
	writers             map[int]*writerCheck
	received            int
	doubled, reordered  int
	unknown             int // messages that no writer sent
	examples            []canaryFault
	maxExamples, stream int
}

// writerCheck holds what a reader has of one writer.
type writerCheck struct {
	next    int          // above every message received
	missing map[int]bool // below next
}

// canaryFault is one message that was not received as it should be.
type canaryFault struct {
	What    string `json:"what"` // lost, doubled, reordered, unknown
	Stream  int    `json:"stream"`
	Writer  int    `json:"writer"`
	Message int    `json:"message"`
}

// maxFaultExamples bounds the faults that a report lists.
const maxFaultExamples = 20

func newCanaryCheck(stream, writers int) *canaryCheck {
	c := &canaryCheck{writers: map[int]*writerCheck{}, stream: stream, maxExamples: maxFaultExamples}
	for w := range writers {
		c.writers[w] = &writerCheck{missing: map[int]bool{}}
	}
	return c
}

func (c *canaryCheck) note(what string, writer, message int) {
	if len(c.examples) < c.maxExamples {
		c.examples = append(c.examples, canaryFault{what, c.stream, writer, message})
	}
}

// maxAhead bounds how far a message may be ahead of the message that is due; beyond it no writer sent
// it.
const maxAhead = 1_000_000

// receive checks the next message.
func (c *canaryCheck) receive(writer, n int) {
	w := c.writers[writer]
	c.received++
	switch {
	case w == nil || n < 0 || n > w.next+maxAhead:
		c.unknown++
		c.note("unknown", writer, n)
	case n >= w.next:
		for k := w.next; k < n; k++ {
			w.missing[k] = true
		}
		w.next = n + 1
	case w.missing[n]:
		delete(w.missing, n)
		c.reordered++
		c.note("reordered", writer, n)
	default:
		c.doubled++
		c.note("doubled", writer, n)
	}
}

// finish returns how many acknowledged messages were not received. acked has the number of
// acknowledged messages of each writer, which are its first ones.
func (c *canaryCheck) finish(acked []int) (lost int) {
	for writer, count := range acked {
		w := c.writers[writer]
		for n := range count {
			if n >= w.next || w.missing[n] {
				lost++
				c.note("lost", writer, n)
			}
		}
	}
	return lost
}
