// Package s2 keeps streams in S2: with the official Go SDK, and with package s2s for read sessions.
// It is the shard.Log of every deployment. In the program it is the only importer of the SDK; package
// s2dev, which answers as S2 does, shares the SDK's generated messages.
//
// # The path of an append
//
// logCalls.Append calls Config.locate, which maps the stream's id to a basin and a stream of S2,
// and then its service. sdkService.append converts each entry (toSDKRecord); the SDK encodes one
// unary call and hands it to responseValidator, which calls the transport. Config.classifyAppend
// converts an error into one of the Log contract: certainly not written, or ErrAppendUnknown, which
// shard resolves. metrics.recordCall counts the call, and health.recordAnswer or recordFailure notes
// whether S2 answers.
//
// connect chooses the transport: http1Transport for an S2 without TLS, on the caller's goroutine;
// http.Transport for an S2 with TLS; bridge through a proxy.
//
// Log.OpenAppendSession is the other way of an append: a session of package s2s, on which shard has
// several batches in flight. Its end says which of them may be written. Each batch counts as a call.
//
// A new stream is made by its first append where its basin's configuration says so; creations knows where
// (creation.go). It reads a basin's configuration when the basin is first used, and then each hour.
//
// Read, Last and Tail are one unary call each, too. No call is repeated here, except a GET on a
// reused connection that the server had closed.
//
// # The path of a delivery
//
// Log.Feed follows a stream without a goroutine. A feed (feed.go) runs one session of package s2s after
// another, each from the record after the last record that was delivered or that its follower has by
// other means. When something has arrived, a pause is over or a connection is there, feed.signal queues
// it for the workers, one of which carries out feed.step: deliver takes what has arrived, a few pages
// at a time, and calls Follower.TakePage. Records below Follower.WantedPos are skipped without a look
// into them.
//
// With Config.SDKSessions, logCalls.Follow does the same with a goroutine for each stream. The session is
// the SDK's: in sdkService.runSession the pump goroutine takes records from the SDK, and a channel of
// sessionBuffer records carries them to deliverPages on the caller's goroutine. The SDK's own session
// does not stay open, since it takes a clean end for success, and its retry budget counts the losses
// of a whole life. Records in its buffer may be lost with a session. Over package s2s Follow works as
// well (s2sService.runSession).
//
// logCalls.Replay runs sessions with a count, for takeovers. A handover reads nothing here. A page of a
// fork is a Read of its source's stream.
//
// # An S2 in this process
//
// InProcess is the Log of a lone node with the embedded S2: its service calls a Basin (s2dev.Direct)
// in place of the SDK, and converts errors into the SDK's (toSDKError). Everything else is logCalls,
// as for Log. There is no Watch, since there is nothing that could be unreachable, and a session has
// no pump goroutine.
//
// # The fleet's record
//
// In each basin that the settings name, the stream __ds/fleet belongs to the fleet
// (record_sites.go). The Log knows it by the id __ds/fleet/BASIN. A template names no fixed basin:
// its home basin holds the record, if there is one. Without a home basin, a probe only asks whether
// S2 answers and accepts the token, in the basin of the project "default". Errors of a probe are
// explained in an operator's words, with the setting to look at and without the token.
//
// # Invariants
//
//  1. An append is attempted once. The caller learns that it is done, is not done, or may be done.
//  2. Records reach the caller in order and once, never two calls together.
//  3. OpenSessions counts the sessions that S2 bills.
//
// # Bounds
//
//   - Records that wait: a window and a frame of bytes per session (package s2s), or sessionBuffer
//     records of the SDK.
//   - Workers: as many as processors. A feed has pagesPerStep pages before the next feed's turn.
//   - Idle connections: maxIdleConns. Further ones are closed after their call.
//   - Sessions reopened: reopensPerSecond. Further ones wait.
//   - Basins created for new projects of a template: createBasinBurst, and one each createBasinEvery
//     after that. Further ones are refused with ErrLogBusy.
//
// # Goroutines
//
// One per basin whose configuration is being read: Close waits for them. Those of package s2s, and the
// workers while a feed has something to do: Close waits for them. None for a feed at rest. With
// SDKSessions, one pump per open session, for which Follow and Replay wait; the SDK's own goroutines
// end with the session's context. With a proxy, those of the bridge's server: Close waits for them.
//
// # Not here
//
// Whether a session is wanted, and for how long (shard). The SDK's append sessions are not used: an
// idle one wakes up a hundred times a second, and its errors say of written batches that they were
// refused.
package s2
