package access

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Actions is a set of what may be done to a stream.
type Actions uint8

// The actions, and what each is asked for by.
const (
	Read   Actions = 1 << iota // GET, HEAD
	Append                     // POST with a body
	Close                      // POST with Stream-Closed: true
	Create                     // PUT
	Fork                       // PUT with Stream-Forked-From: of the source
	Delete                     // DELETE
	List                       // GET …/__ds/streams

	allActions = 1<<iota - 1
)

var actionNames = map[string]Actions{
	"read": Read, "append": Append, "close": Close, "create": Create, "fork": Fork, "delete": Delete, "list": List,
	"write": Append | Close | Create, "*": allActions,
}

// String lists the actions as grants name them.
func (a Actions) String() string {
	var names []string
	for name, one := range actionNames {
		if one&(one-1) == 0 && a&one != 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// parseActions returns the actions of the names. Names that are not known grant nothing.
func parseActions(names []string) (a Actions) {
	for _, name := range names {
		a |= actionNames[name]
	}
	return a
}

// Bounds of patterns and names.
const (
	maxPatternBytes    = 512
	maxPatternSegments = 64
	maxPatternDeep     = 4 // "**" in one pattern
	maxGrants          = 64
	maxPatterns        = 128 // patterns and names of one token
	maxTemplateValues  = 32
	maxTemplateBytes   = 128
)

// Grant allows actions on the streams of one project that match one of its patterns or have
// one of its names.
type Grant struct {
	Actions  Actions
	Patterns []Pattern
	Names    []string
}

// matches reports whether the grant is about the stream of a name relative to the project. A name
// with a segment that looks like a wildcard is matched by names alone.
func (g *Grant) matches(name string) bool {
	if slices.Contains(g.Names, name) {
		return true
	}
	if hasWildcard(name) {
		return false
	}
	for i := range g.Patterns {
		if g.Patterns[i].Match(name) {
			return true
		}
	}
	return false
}

// hasWildcard reports whether a segment of a name is "*" or "**".
func hasWildcard(name string) bool {
	if strings.IndexByte(name, '*') < 0 {
		return false
	}
	for s := range strings.SplitSeq(name, "/") {
		if s == "*" || s == "**" {
			return true
		}
	}
	return false
}

// grants holds the grants of one project; they only add.
type grants []Grant

// allow returns those of the wanted actions that the grants allow on a stream.
func (gs grants) allow(want Actions, name string) (allowed Actions) {
	if isReserved(name) {
		return 0
	}
	for i := range gs {
		if gs[i].Actions&want&^allowed != 0 && gs[i].matches(name) {
			allowed |= gs[i].Actions & want
		}
	}
	return allowed
}

// isReserved reports whether a name within a project is one of the server's own.
func isReserved(name string) bool {
	return name == "__ds" || strings.HasPrefix(name, "__ds/")
}

// Pattern is a glob over the decoded names of one project's streams: "*" matches one
// segment, "**" any number of them, every other segment itself, byte for byte.
type Pattern struct {
	segments []segment
}

type segmentKind uint8

const (
	literal segmentKind = iota
	anyOne
	anyMany
	template // filled with a claim before it matches anything
)

type segment struct {
	kind segmentKind
	text string // of a literal itself, of a template the name of the claim
}

var (
	errPatternLong  = fmt.Errorf("it is longer than %d bytes, or has more than %d segments or %d \"**\"", maxPatternBytes, maxPatternSegments, maxPatternDeep)
	errPatternEmpty = errors.New("it has an empty segment: it begins or ends with /, or has // in it")
	errTemplate     = errors.New("a placeholder is a whole segment: {sub} or {claim:NAME}")
)

// ParsePattern parses a pattern. Only where templates are allowed are {sub} and {claim:NAME}
// placeholders; elsewhere they are literal.
func ParsePattern(s string, templates bool) (p Pattern, err error) {
	if len(s) > maxPatternBytes {
		return p, errPatternLong
	}
	deep := 0
	for rest := s; ; {
		text, next, more := cutSegment(rest, templates)
		seg := segment{text: text}
		switch {
		case text == "":
			return p, errPatternEmpty
		case text == "*":
			seg.kind = anyOne
		case text == "**":
			seg.kind = anyMany
			deep++
		case templates && strings.ContainsAny(text, "{}"):
			if seg, err = parseTemplate(text); err != nil {
				return p, err
			}
		}
		p.segments = append(p.segments, seg)
		if !more {
			break
		}
		rest = next
	}
	if len(p.segments) > maxPatternSegments || deep > maxPatternDeep {
		return p, errPatternLong
	}
	return p, nil
}

// cutSegment cuts the first segment off. The name of a claim in a placeholder may hold "/".
func cutSegment(s string, templates bool) (text, rest string, more bool) {
	if templates && strings.HasPrefix(s, "{") {
		if end := strings.Index(s, "}"); end >= 0 {
			if after := s[end+1:]; after == "" {
				return s, "", false
			} else if after[0] == '/' {
				return s[:end+1], after[1:], true
			}
		}
	}
	return strings.Cut(s, "/")
}

func parseTemplate(text string) (segment, error) {
	inner, ok := strings.CutPrefix(text, "{")
	inner, also := strings.CutSuffix(inner, "}")
	if !ok || !also || strings.ContainsAny(inner, "{}") {
		return segment{}, errTemplate
	}
	if inner == "sub" {
		return segment{template, "sub"}, nil
	}
	if name, ok := strings.CutPrefix(inner, "claim:"); ok && name != "" {
		return segment{template, name}, nil
	}
	return segment{}, errTemplate
}

// Match reports whether the pattern matches a stream's whole name within its project. It
// takes at most len(segments) × segments of the name steps, without recursion.
func (p *Pattern) Match(name string) bool {
	rest, done := name, false // what of the name is not matched yet; done: all is
	i, star := 0, -1          // the segment of the pattern; the last "**"
	var restart string        // where the name goes on after what that ** has taken
	for !done || i < len(p.segments) {
		if i < len(p.segments) && p.segments[i].kind == anyMany {
			star, i = i, i+1
			restart = rest
			if i == len(p.segments) {
				return true
			}
			continue
		}
		if i < len(p.segments) && !done {
			text, next, more := strings.Cut(rest, "/")
			if s := &p.segments[i]; s.kind == anyOne || s.kind == literal && s.text == text {
				rest, done, i = next, !more, i+1
				continue
			}
		}
		if star < 0 {
			return false
		}
		_, next, more := strings.Cut(restart, "/")
		if !more { // the "**" has taken all: what follows it has nothing to match
			return false
		}
		restart, rest, done, i = next, next, false, star+1
	}
	return true
}

// isTemplate reports whether the pattern has placeholders.
func (p *Pattern) isTemplate() bool {
	return slices.ContainsFunc(p.segments, func(s segment) bool { return s.kind == template })
}

// fill returns the pattern with its placeholders replaced by a token's claims: none if a
// claim is missing or cannot be a segment, several if it is an array. why says which claim
// it was.
func (p *Pattern) fill(claims Claims) (filled []Pattern, why string) {
	filled = []Pattern{{}}
	for _, s := range p.segments {
		values := []string{s.text}
		if s.kind == template {
			if values, why = templateValues(claims, s.text); why != "" {
				return nil, why
			}
			s.kind = literal
		}
		if len(filled)*len(values) > maxTemplateValues {
			return nil, fmt.Sprintf("the placeholders stand for more than %d patterns", maxTemplateValues)
		}
		next := make([]Pattern, 0, len(filled)*len(values))
		for _, f := range filled {
			for _, v := range values {
				next = append(next, Pattern{append(slices.Clip(f.segments), segment{s.kind, v})})
			}
		}
		filled = next
	}
	return filled, ""
}

// templateValues returns the segments that a claim stands for.
func templateValues(claims Claims, name string) (values []string, why string) {
	v, ok := claims.lookup(name)
	if !ok {
		return nil, fmt.Sprintf("the token has no %s", name)
	}
	array, ok := v.([]any)
	if !ok {
		array = []any{v}
	}
	if len(array) > maxTemplateValues {
		return nil, fmt.Sprintf("%s has more than %d values", name, maxTemplateValues)
	}
	for _, v := range array {
		s, ok := v.(string)
		if !ok || !canBeSegment(s) {
			return nil, fmt.Sprintf("%s cannot be a segment of a name", name)
		}
		values = append(values, s)
	}
	if len(values) == 0 {
		return nil, fmt.Sprintf("%s is empty", name)
	}
	return values, ""
}

// canBeSegment reports whether a claim's value may stand in a name as one segment.
func canBeSegment(s string) bool {
	switch s {
	case "", ".", "..", "*", "**", "__ds":
		return false
	}
	return len(s) <= maxTemplateBytes && utf8.ValidString(s) &&
		!strings.ContainsFunc(s, func(r rune) bool { return r == '/' || r == utf8.RuneError || unicode.IsControl(r) })
}
