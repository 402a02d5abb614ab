// Package sendbudget bounds the memory that is held while it is written to clients.
//
// A Budget counts frames of event streams, or pages of catch-up answers, once each however many
// clients hold them (Charge, CountShared). It does not refuse: a client that accepts data is never
// disconnected for what others hold. While more than the limit is held, those that have been blocked
// in one write for longer than BlockedAfter are disconnected, longest-blocked first, and
// goroutines that would load more wait (WaitForRoom).
//
// All methods may be called by any goroutine. A Budget has no goroutine of its own; while its limit
// is exceeded, a timer calls evict each evictInterval. Budget.mu is locked while the methods of an
// Evictable are called, so they lock nothing that is held while the Budget is called.
package sendbudget
