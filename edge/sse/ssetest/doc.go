// Package ssetest has what the tests of event streams share: a client's parser, and RecordBatches
// made by hand.
package ssetest
