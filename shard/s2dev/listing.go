package s2dev

import (
	"sort"
	"strings"
)

func listNames[T any](all map[string]T, prefix, after string, limit int) (names []string, more bool) {
	for name := range all {
		if strings.HasPrefix(name, prefix) && name > after {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	if len(names) > limit {
		return names[:limit], true
	}
	return names, false
}

func (s *catalogue) listBasins(prefix, after string, limit int) (out []basinMeta, more bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	names, more := listNames(s.basins, prefix, after, limit)
	for _, n := range names {
		out = append(out, s.basins[n].meta)
	}
	return out, more
}

func (s *catalogue) listStreams(basin, prefix, after string, limit int) (out []streamMeta, more bool, err *apiError) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b := s.basins[basin]
	if b == nil {
		return nil, false, basinNotFound(basin)
	}
	names, more := listNames(b.streams, prefix, after, limit)
	for _, n := range names {
		st := b.streams[n]
		st.mu.Lock()
		out = append(out, st.meta)
		st.mu.Unlock()
	}
	return out, more, nil
}

// usageOf is a stream's, or with an empty name a basin's; nil: there is none.
func (s *catalogue) usageOf(basin, name string) *StreamUsage {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b := s.basins[basin]
	if b == nil {
		return nil
	}
	if name == "" {
		return b.usage
	}
	if st := b.streams[name]; st != nil {
		return st.usage
	}
	return nil
}

// usages is every tally by its name in Usage.
func (s *catalogue) usages() map[string]*StreamUsage {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := map[string]*StreamUsage{}
	for basin, b := range s.basins {
		out[basin+"/"] = b.usage
		for name, st := range b.streams {
			out[basin+"/"+name] = st.usage
		}
	}
	return out
}

// keepUsages goes on counting where a store left off that was closed and opened again; nobody uses
// either of them meanwhile.
func (s *catalogue) keepUsages(was *catalogue) {
	for basin, b := range s.basins {
		if t := was.usageOf(basin, ""); t != nil {
			b.usage = t
		}
		for name, st := range b.streams {
			if t := was.usageOf(basin, name); t != nil {
				st.usage = t
			}
		}
	}
}

// allStreams returns every stream, for the sweeper.
func (s *catalogue) allStreams() (out []*stream) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, b := range s.basins {
		for _, st := range b.streams {
			out = append(out, st)
		}
	}
	return out
}
