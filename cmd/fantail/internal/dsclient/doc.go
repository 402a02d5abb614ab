// Package dsclient speaks Durable Streams over HTTP, for the commands of fantail.
//
// A Client holds how a server is reached: its URL, a credential, and how long a failing server is
// waited for. Stream names one stream; its methods are the requests of the protocol. A Producer
// appends in order, each message once. Follow reads a stream as it grows, over any number of
// connections, each message once and in order.
//
// # What is sent again
//
// A request that another try may answer is sent again: after 408, 429 and 5xx except 501, and after a
// connection that failed. It waits for as long as Retry-After says, or else twice as long each time,
// at random, maxBackoff at most. Client.Patience bounds the time without any success; then the last
// error is returned. An append is sent again only with a producer's headers, because without them it
// might be stored twice.
//
// # Goroutines
//
// None outlive the calls. Follow runs one that watches for silence while a connection is open.
package dsclient
