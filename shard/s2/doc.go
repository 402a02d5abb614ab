// Package s2 keeps streams in S2 with the official Go SDK: it is the shard.Log
// of every real deployment and the only importer of the SDK.
//
// # The life of a call
//
// A stream's name is mapped to a basin and a stream of S2 (config.go; check_settings.go is for what may be set). Appends,
// reads and tail checks are one unary call each, never repeated here: S2's reply
// is translated into the Log contract (errors.go), and what it leaves open is
// ErrAppendUnknown, the shard's to settle. To an S2 without TLS it is made on the goroutine that
// calls (http1_transport.go); through a proxy, by way of connect.go. Records are translated in records.go. An S2
// in the same process is called without SDK and wire (in_process.go); what it answers
// is worded as the SDK's, and takes the same way from there.
//
// # The life of a read session
//
// Follow opens the SDK's session and opens it again whenever it ends (read_session.go),
// because the SDK's own does not stay up: a clean end of the reply looks like
// success, and its retry budget counts the losses of a whole life. It resumes
// after the last record that it delivered, never where the SDK says it stands:
// records that the SDK had buffered may be lost with a session.
//
// # Where the fleet's record is
//
// In each basin that the settings fix the stream __ds/fleet is the fleet's (fleet_record.go): the Log
// takes it for a stream of the id __ds/fleet/BASIN. A template fixes none: its home basin, if
// there is one, holds the record; without one only whether S2 answers and knows the token is
// asked, at the basin of the project default. Errors are put in an operator's words there, with
// the setting to look at and without the token.
//
// # Invariants
//
//  1. One attempt per append. A caller learns done, not done, or unknown.
//  2. Records reach the caller in order, once, by one goroutine.
//  3. OpenSessions counts what S2 would bill.
//
// # Goroutines
//
// One pump per open session, waited for before Follow or Replay returns (the
// SDK's own goroutines end with the session's context). Where there is a proxy, those of the
// bridge's server, which Close waits for.
//
// # Not here
//
// Whether a session is wanted, and for how long (shard). Decision: no session for
// appends: an idle one of the SDK wakes a hundred times a second.
package s2
