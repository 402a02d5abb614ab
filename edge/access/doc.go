// Package access decides what a request may do to which stream.
//
// It knows credentials, keys, grants, limits and the file that configures them, and nothing of HTTP
// handlers, readers or nodes: the edge asks a Judge once for each request, before it asks anything
// else about the stream.
//
// # What the edge uses
//
//	Open(ctx, Config)            reads the file and watches it, fetches keys; Close
//	Judge.Decide                 (request, project, name, Actions) -> Verdict or Denial
//	Judge.DecideFork             the same for a fork: two streams, one project
//	Judge.DecideList             the same for a listing; Listing.MayRead for its details
//	Denial                       Status, Slug, Reason, Detail, Challenge, SetCookie, RetryAfter
//	Verdict                      Lease; Public, Cookie, Signed; CacheControl, ResourcePolicy
//	Lease                        32 bytes without pointers, kept with an admitted reader; EndsAt
//	Judge.Stays, CheckLease      whether a lease holds at a second, and why it does not (End)
//	Judge.ChangeCount, Changed   the count of what ends leases, and a channel closed at the next
//	Judge.Admit, Charge         the limits, after the decision; WouldAdmit counts without refusing
//	Judge.AddReader, RemoveReader, Readers
//	Judge.StartSession, EndSession  POST and DELETE …/__ds/session
//	Judge.Origins, ParseOrigins  CORS: Origins.Answer; without a file, too
//	Judge.Revocations            Entry makes the message of a revocation, Apply takes it back
//	Judge.Admin, AdminLogin, AdminToken, NewAdminToken
//	Judge.Ready, Hash, KeyAges, CacheBytes, NeedsAdminToken and Config.Observer for health and metrics
//
// How a reader uses its lease: ask Decide, register, then compare ChangeCount with what it was
// before Decide, and ask Stays if it differs. From then on check EndsAt each second, and call CheckLease when
// Changed is closed. A lease that CheckLease calls EndChanged ends within the time of End.Spread, whether
// or not ChangeCount changes again. An append asks Stays once more before it is handed on.
//
// # The life of a request
//
// find (presented.go) looks for what is presented: a bearer, an issuer's header, a signed URL, or on
// reads the project's cookie (session.go). What fails is an error, never "none presented". The
// verifier returns the token's Principal, and need (decide.go) compares its grants, and what is
// public, with what the request wants. denialOf (reasons.go) makes the answer of a refusal.
//
// # The life of a token
//
// verifier.Verify (verifier.go, token.go) looks at a token from cheap to dear: its size, its three
// parts, strict JSON (strict.go), the issuer, the kind, the audience, the issuer's
// conditions (claims.go), the times, the key (keys.go, fetch.go), and only then the
// signature. What is left is a Principal (principal.go): its subject, and what it grants in each project
// (grant.go). Successes are kept by the token itself, so that a storm of
// reconnects costs one verification for each token; failures are not kept, because
// strangers would choose what is forgotten. Times, the issuer, the key and revocations are looked at
// at each use.
//
// # The life of a key
//
// A key set that is fetched from a URL (source.go) replaces nothing by itself (fetch.go). A set counts
// only if it is whole and has a usable key. A key is withdrawn once it was missing from two
// such sets, fetched at least five minutes apart. An issuer that lies, hangs or flaps
// therefore takes no key away, and a token is told that its key is unknown only when a set
// fetched after the token was issued does not have it.
//
// # The life of the file
//
// It counts once two reads of it, a second apart, are the same (watch.go), and is compiled whole
// (compile.go): with an error, the rules before it stay. Issuers, projects and keys have rows
// (registry.go), which leases name by number. What has not changed keeps its row; the row of what
// has changed ends, and with it the leases (lease.go): of a key of a file immediately, of an issuer
// or project over a minute.
//
// # Invariants
//
//  1. A credential that was presented and fails is an error, never "none presented".
//  2. Nothing about a token's validity depends on the request that brings it: not on its
//     host, path, method or address; on the field, if its issuer names one.
//  3. Names that people choose never become patterns. Patterns are parsed before they are
//     filled, and a filled value is one literal segment.
//  4. A token's own grants count only up to the ceiling of its issuer.
//  5. Times are compared with one leeway, Leeway, at verification and at each use. A lease ends
//     after its token, so a reader that was cut off for its token is not admitted with that token
//     again.
//  6. No pattern and no name matches a stream whose first segment is "__ds".
//  7. An append with a producer never hears 403.
//  8. A cookie gives the right to read, and no other.
//  9. A count of changes is raised after the change itself, and read before what it counts.
//
// # Bounds
//
// A token has at most 8 KiB, 8 levels of nesting, 64 grants, and 128 patterns and names
// together; a pattern has at most 512 bytes, 64 segments and four "**". A key set has at
// most 1 MiB and 64 keys. Principals are kept in CacheBytes (32 MiB); the least useful go
// first. At most half of the processors verify at a time: a request that waits longer than
// two seconds for its turn, or finds maxVerifying others waiting, hears Busy. 10,000 revocations
// hold at a time. Limits are counted in 65,536 places of 16 bytes: principals whose hashes meet
// share one. At most 64 appends of a principal and 1,000 of a node wait for their turn, for two
// seconds at most. There are 65,535 rows of a kind; a number is used again an hour after its row
// has ended.
//
// # Goroutines and locks
//
// A Judge has one goroutine that watches the file, and one for each issuer whose keys are fetched;
// a token that is being verified has one. Close waits for the first two. No lock is held while
// another is taken, but for a table's (registry.go), which is the innermost.
package access
