// Package byteclass tells which bytes a piece of a request may have: a Class is a set of kinds of
// text, of which All and Class.Has find a byte in a table. HTTP semantics and the parser of append
// connections judge by the same table.
package byteclass
