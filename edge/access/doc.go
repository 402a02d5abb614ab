// Package access decides what a request may do to which stream.
//
// It knows tokens, keys, grants and the file that configures them, and nothing of HTTP
// handlers, readers or nodes: the edge asks a Judge once for each request, before it asks
// anything else about the stream.
//
// # The life of a token
//
// Verifier.Verify (verifier.go, token.go) looks at a token from cheap to dear: its size, its three
// parts, strict JSON (strict.go), the issuer, the kind, the audience, the issuer's
// conditions (claims.go), the times, the key (keys.go, fetch.go), and only then the
// signature. What is left is a Principal: its subject, and what it grants in each project
// (grant.go). Successes are kept by the token itself, so that a storm of
// reconnects costs one verification for each token; failures are not kept, because
// strangers would choose what is forgotten.
//
// # The life of a key
//
// A key set that is fetched from a URL replaces nothing by itself (fetch.go). A set counts
// only if it is whole and has a usable key. A key is withdrawn once it was missing from two
// such sets, fetched at least five minutes apart. An issuer that lies, hangs or flaps
// therefore takes no key away, and a token is told that its key is unknown only when a set
// fetched after the token was issued does not have it.
//
// # Invariants
//
//  1. A credential that was presented and fails is an error, never "none presented".
//  2. Nothing about a token's validity depends on the request that brings it: not on its
//     host, path, method or address.
//  3. Names that people choose never become patterns. Patterns are parsed before they are
//     filled, and a filled value is one literal segment.
//  4. A token's own grants count only up to the ceiling of its issuer.
//  5. Times are compared with one leeway, Leeway, at verification and at each use.
//  6. No pattern and no name matches a stream whose first segment is "__ds".
//
// # Bounds
//
// A token has at most 8 KiB, 8 levels of nesting, 64 grants, and 128 patterns and names
// together; a pattern has at most 512 bytes, 64 segments and four "**". A key set has at
// most 1 MiB and 64 keys. Principals are kept in CacheBytes (32 MiB); the least useful go
// first. At most half of the processors verify at a time: a request that waits longer than
// two seconds for its turn hears Busy.
package access
