package shard

import "context"

// Prober is a Log that knows where in storage the fleet keeps its record, and how to describe that
// to an operator. A Manager asks there, with the node's own settings, whether storage lets it do
// what it has to do (Manager.WatchStanding).
type Prober interface {
	Log
	// Sites lists the basins that the settings name, in order of their names. The Log's
	// methods take a Site's Log for an id.
	Sites() []Site
	// Mapping returns one line that says how projects map to basins. Equal settings give equal
	// lines. The line is part of the fleet's identity; the endpoint is not.
	Mapping() string
	// Describe returns where a site is, and which setting says so.
	Describe(s Site) string
	// Explain returns what an error of a call at a site means: which server refuses or does not
	// answer, and which setting to look at. It never contains a secret.
	Explain(s Site, err error) string
}

// Site is a basin with a log of the fleet's own.
type Site struct {
	// Log is the id of that log.
	Log StreamID
	// Basin is the basin's name.
	Basin string
	// Templated: the basin is not fixed by a setting (a template names one per project). It holds
	// no record and may be missing; it only tells whether storage answers, and knows the token.
	Templated bool
}

// impossiblePos is a position that no log reaches.
const impossiblePos = 1 << 62

// probeRights asks storage for each right that a node needs on a log, by calls without effect: an
// append and a trim that are refused for their position where the right is there. create asks for
// the right to create streams too, which costs more. Errors: Log's.
func probeRights(ctx context.Context, log Log, id StreamID, create bool) error {
	for _, e := range []Entry{{Body: []byte("probe")}, {Trim: true}} {
		if _, err := log.Append(ctx, id, impossiblePos, []Entry{e}); !isTail(err) {
			return err
		}
	}
	if create {
		return log.Create(ctx, id)
	}
	return nil
}
