// Package s2 keeps streams in S2 with the official Go SDK. It is the shard.Log of every deployment,
// and the only importer of the SDK.
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
// Read, Last and Tail are one unary call each, too. No call is repeated here, except a GET on a
// reused connection that the server had closed.
//
// # The path of a delivery
//
// logCalls.Follow runs one readSession after another: the SDK's own session does not stay open, since
// it takes a clean end for success, and its retry budget counts the losses of a whole life. In
// sdkService.runSession the pump goroutine takes records from the SDK, fromSDKRecord converts them,
// and a channel of sessionBuffer records carries them to deliverPages on the caller's goroutine,
// which calls fn with pages. A new session begins after the last record that was delivered, not
// where the SDK stands: records in the SDK's buffer may be lost with a session.
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
// (fleet_record.go). The Log knows it by the id __ds/fleet/BASIN. A template names no fixed basin:
// its home basin holds the record, if there is one. Without a home basin, a probe only asks whether
// S2 answers and accepts the token, in the basin of the project "default". Errors of a probe are
// explained in an operator's words, with the setting to look at and without the token.
//
// # Invariants
//
//  1. An append is attempted once. The caller learns that it is done, is not done, or may be done.
//  2. Records reach the caller in order, once, on one goroutine.
//  3. OpenSessions counts the sessions that S2 bills.
//
// # Bounds
//
// sessionBuffer records per session; maxIdleConns idle connections, further ones are closed after
// their call; reopensPerSecond sessions reopened, further ones wait; createBasinBurst basins
// created for new projects of a template, and one each createBasinEvery after that, further ones
// are refused with ErrLogBusy.
//
// # Goroutines
//
// One pump per open session. Follow and Replay wait for it. The SDK's own goroutines end with the
// session's context. With a proxy, those of the bridge's server: Close waits for them.
//
// # Not here
//
// Whether a session is wanted, and for how long (shard). Append sessions: an idle one of the SDK
// wakes up a hundred times a second.
package s2
