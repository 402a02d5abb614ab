package edge

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/shard"
)

// The entity tag of a stream's end is its Stream-Next-Offset in quotes. HEAD, POST and a refused
// If-Match have it. The tags of chunks, which GET has (etag), name a place of another kind.

var (
	errTagUnclosed = errors.New("a quote is open")
	errTagFollowed = errors.New("want a comma after an entity tag")
)

// setTail sets the headers that say where a stream ends.
func setTail(h http.Header, info shard.Info) {
	b := append(make([]byte, 0, position.OffsetLen+2), '"')
	b = append(position.AppendOffset(b, info.Generation, info.Tail), '"')
	tag := string(b)
	values := []string{tag[1 : len(tag)-1], tag}
	h[hNextOffset], h[hETag] = values[:1:1], values[1:]
}

// parseIfMatch reads the condition of an append; nil: it has none. Tags are compared strongly, so a
// weak one meets no stream. A tag may come without its quotes.
func parseIfMatch(h http.Header) (*shard.TailCondition, error) {
	values := h[hIfMatch]
	if len(values) == 0 {
		return nil, nil //nolint:nilnil // no condition is not an error
	}
	for _, name := range [...]string{hProducerID, hProducerEpoch, hProducerSeq} {
		if hasHeader(h, name) {
			return nil, badHeader(hIfMatch, "and Producer-* exclude each other: a producer's append can be repeated, and so meets another end")
		}
	}
	c, n := &shard.TailCondition{}, 0
	for _, v := range values {
		for more := true; more; {
			var tag entityTag
			var err error
			if tag, v, more, err = cutTag(v); err != nil {
				return nil, fmt.Errorf("%w: %s: %w", errNotATail, hIfMatch, err)
			}
			if tag == (entityTag{}) { // an empty element of a list
				continue
			}
			if n++; n > shard.MaxTailPlaces {
				return nil, badHeader(hIfMatch, fmt.Sprintf("has more than %d entity tags", shard.MaxTailPlaces))
			}
			if tag.weak {
				continue
			}
			place, ok := parsePlace(tag.text)
			if !ok {
				return nil, fmt.Errorf("%w: %s: %.80q", errNotATail, hIfMatch, tag.text)
			}
			c.Places = append(c.Places, place)
		}
	}
	if n == 0 {
		return nil, badHeader(hIfMatch, "is empty")
	}
	return c, nil
}

// entityTag is an element of a list of entity tags.
type entityTag struct {
	text         string
	weak, quoted bool
}

// cutTag cuts the first element off a list of entity tags; more reports whether others follow.
func cutTag(list string) (tag entityTag, rest string, more bool, err error) {
	rest = strings.TrimLeft(list, " \t")
	if after, ok := strings.CutPrefix(rest, `W/"`); ok {
		tag.weak, rest = true, `"`+after
	}
	if after, ok := strings.CutPrefix(rest, `"`); ok {
		tag.quoted = true
		if tag.text, rest, ok = strings.Cut(after, `"`); !ok {
			return entityTag{}, "", false, errTagUnclosed
		}
		if rest = strings.TrimLeft(rest, " \t"); rest != "" && rest[0] != ',' {
			return entityTag{}, "", false, errTagFollowed
		}
	}
	before, rest, more := strings.Cut(rest, ",")
	if !tag.quoted {
		tag.text = strings.TrimRight(before, " \t")
	}
	return tag, rest, more, nil
}

// parsePlace reads the text of an entity tag: an offset as answers have it, or -1 for the start.
func parsePlace(text string) (shard.Place, bool) {
	o, err := position.ParseOffset(text)
	switch {
	case err != nil, len(text) != position.OffsetLen && text != "-1":
		return shard.Place{}, false
	case o.Kind != position.OffsetStart && o.Kind != position.OffsetMinted:
		return shard.Place{}, false // it names no place without a stream
	}
	return shard.Place{Generation: o.Generation, Pos: o.Pos}, true
}
