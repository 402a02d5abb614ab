package main

import (
	"fmt"
	"os"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/fleet"
	"github.com/fantail-dev/fantail/bench/internal/wait"
)

// load is the size of the run.
type load struct {
	streams, few     int // few of them are followed at first
	readers, appends int // of each stream
	reads            string
}

// opensSessions reports whether a stream has a session for its readers.
func (l load) opensSessions() bool { return l.reads == "" || l.reads == "session" }

// counts holds what S2 counted in each part of the run, of all streams together.
type counts struct {
	created, cameFew, came, appended ops
	followedFew, followed            ops // in a minute each
	deployed, left                   ops

	ownersFew, owners   float64 // nodes that owned followed streams in these minutes
	deploying           float64 // minutes that the deploy took
	messages            int     // of each stream
	moved, lost         float64 // streams that changed hands in the deploy
	openWith, openAfter float64 // sessions with readers, and once all have left
}

// units returns the counts for one append, stream, node and deploy.
func (c counts) units(l load) units {
	n := float64(l.streams)
	// A node checks the tail of one of its streams if nothing else is asked of S2,
	// however many it has: the run shows that with few and with all of them.
	u := units{
		append:   c.appended.over(n * float64(l.appends)),
		followed: c.followed.over(n),
		node:     ops{c.followed.appends / c.owners, c.followed.reads / c.owners, c.followed.checks / c.owners, 0, 0, 0},
		deploy:   c.deployed.over(n),
	}
	// What is read and appended in silence is each node's look at the fleet's record.
	u.followed.appends, u.followed.reads, u.followed.checks = 0, 0, 0
	if !l.opensSessions() { // then it checks each of its streams, and has no silence: all are the streams'
		u.followed.checks, u.node.checks = c.followed.checks/n, 0
	}
	u.deploy.appends = max(0, u.deploy.appends-c.followed.appends*c.deploying/n)
	u.deploy.reads = max(0, u.deploy.reads-c.followed.reads*c.deploying/n)
	// Sessions went on meanwhile: that is in followed.
	u.append.minutes = 0
	u.deploy.checks = max(0, u.deploy.checks-c.followed.checks*c.deploying/n)
	// A new session bills a minute that would not have begun otherwise, at the most.
	u.deploy.minutes = u.deploy.sessions
	return u
}

// measure runs the fleet. Streams are made. Readers come to a few of them, and nothing happens
// for a minute. They come to all, and messages are written. Nothing happens for a minute. All
// nodes are replaced, one after the other, and all readers leave.
func measure(l load) (c counts, err error) {
	f, err := fleet.Start(nodeCount, 2*time.Second, "--s2-reads="+l.reads)
	if err != nil {
		return c, err
	}
	defer f.Stop()
	sys := &system{f, l.opensSessions()}
	readers := newCrowd(sys)
	defer readers.leave()
	for _, part := range []struct {
		name string
		into *ops
		do   func() error
	}{
		{"streams are made", &c.created, func() error { return eachStream(l, func(i int) error { return sys.create(i) }) }},
		{"readers of a few come", &c.cameFew, func() error { return joinReaders(sys, readers, l, 0, l.few) }},
		{"nothing happens for a minute", &c.followedFew, func() error { return c.wait(sys, &c.ownersFew) }},
		{"readers of all come", &c.came, func() error { return joinReaders(sys, readers, l, l.few, l.streams) }},
		{"messages are written", &c.appended, func() error { return c.write(sys, readers, l, l.appends) }},
		{"nothing happens for a minute", &c.followed, func() error { return c.wait(sys, &c.owners) }},
		{"nodes are replaced", &c.deployed, func() error { return c.deploy(sys, readers, l) }},
		{"messages are written", new(ops), func() error { return c.write(sys, readers, l, 1) }},
		{"readers leave", &c.left, func() error { return c.leave(sys, readers) }},
	} {
		fmt.Fprintln(os.Stderr, part.name)
		before, _, err := sys.meter()
		if err != nil {
			return c, err
		}
		if err := part.do(); err != nil {
			return c, fmt.Errorf("%s: %w", part.name, err)
		}
		after, _, err := sys.meter()
		if err != nil {
			return c, err
		}
		*part.into = after.minus(before)
	}
	return c, nil
}

func path(stream int) string { return fmt.Sprint("/v1/stream/cost/", stream) }

func eachStream(l load, do func(i int) error) error {
	for i := range l.streams {
		if err := do(i); err != nil {
			return err
		}
	}
	return nil
}

func (s *system) create(i int) error {
	return send("PUT", fleet.HTTP(i%nodeCount)+path(i), "", 201)
}

// joinReaders adds the readers of the streams [from, to).
func joinReaders(sys *system, readers *crowd, l load, from, to int) error {
	for i := from; i < to; i++ {
		for r := range l.readers {
			readers.add(path(i), (i+r)%nodeCount)
		}
	}
	if err := readers.all(0); err != nil {
		return err
	}
	return sys.sessions(to)
}

// sessions waits until n read sessions are open.
func (s *system) sessions(n int) error {
	if !s.opensSessions {
		n = 0
	}
	return wait.For(patience, fmt.Sprint(n, " read sessions are open"), func() bool {
		_, open, err := s.meter()
		return err == nil && int(open) == n
	})
}

// write appends n messages to each stream, through all nodes in turn.
func (c *counts) write(sys *system, readers *crowd, l load, n int) error {
	for m := range n {
		if err := eachStream(l, func(i int) error {
			return send("POST", fleet.HTTP((i+m)%nodeCount)+path(i), fmt.Sprint("message ", m), 204)
		}); err != nil {
			return err
		}
	}
	c.messages += n
	return readers.all(c.messages)
}

// wait lets a minute pass: of each session, whatever its age, S2 counts one more. It
// notes how many nodes own streams that are followed.
func (c *counts) wait(sys *system, owners *float64) (err error) {
	time.Sleep(time.Minute)
	for i := range nodeCount {
		m, err := sys.Metrics(fleet.Admin(i))
		if err != nil {
			return err
		}
		if m["fantail_followed_streams"] > 0 {
			*owners++
		}
	}
	_, c.openWith, err = sys.meter()
	return err
}

func (c *counts) deploy(sys *system, readers *crowd, l load) error {
	began := time.Now()
	for i := range nodeCount {
		moved, lost, err := sys.replace(i)
		if err != nil {
			return err
		}
		c.moved, c.lost = c.moved+moved, c.lost+lost
		if err := readers.all(c.messages); err != nil {
			return err
		}
		if err := sys.sessions(l.streams); err != nil {
			return err
		}
	}
	c.deploying = time.Since(began).Minutes()
	return nil
}

func (c *counts) leave(sys *system, readers *crowd) error {
	readers.leave()
	time.Sleep(2 * time.Second)
	if err := wait.For(patience, "no session is open", func() bool {
		_, open, err := sys.meter()
		return err == nil && open == 0
	}); err != nil {
		_, c.openAfter, _ = sys.meter()
		return err
	}
	return nil
}
