package tail

// Pos is a position in the log of a stream: the number that S2 gives to a record (its seq_num), or
// the number that the next record will get.
type Pos uint64

// Generation tells one life of a stream from the next: a stream that is deleted and created again
// has a greater one. 0 is a log that no client created.
type Generation uint64

// Millis is an instant in milliseconds since 1970, by S2's clock where nothing else is said; or
// the time between two such instants.
type Millis uint64
