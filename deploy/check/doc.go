// Package check has tests of what deploy/helm renders, by the types of the programs that read it. It
// is a module of its own, so that go.mod of Fantail lists only what the server runs on.
package check
