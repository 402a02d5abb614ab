// Package s2dev is an S2 of our own: a server that speaks S2's v1 API on one port.
package s2dev
