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

func (s *store) listBasins(prefix, after string, limit int) (out []basinMeta, more bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	names, more := listNames(s.basins, prefix, after, limit)
	for _, n := range names {
		out = append(out, s.basins[n].meta)
	}
	return out, more
}

func (s *store) listStreams(basin, prefix, after string, limit int) (out []streamMeta, more bool, err *apiError) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b := s.basins[basin]
	if b == nil {
		return nil, false, basinMissing(basin)
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

// tally is a stream's, or with an empty name a basin's; nil: there is none.
func (s *store) tally(basin, name string) *StreamUsage {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b := s.basins[basin]
	if b == nil {
		return nil
	}
	if name == "" {
		return b.used
	}
	if st := b.streams[name]; st != nil {
		return st.used
	}
	return nil
}

// tallies is every tally by its name in Usage.
func (s *store) tallies() map[string]*StreamUsage {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := map[string]*StreamUsage{}
	for basin, b := range s.basins {
		out[basin+"/"] = b.used
		for name, st := range b.streams {
			out[basin+"/"+name] = st.used
		}
	}
	return out
}

// takeTallies goes on counting where a store left off that was closed and opened again; nobody uses
// either of them meanwhile.
func (s *store) takeTallies(was *store) {
	for basin, b := range s.basins {
		if t := was.tally(basin, ""); t != nil {
			b.used = t
		}
		for name, st := range b.streams {
			if t := was.tally(basin, name); t != nil {
				st.used = t
			}
		}
	}
}

// all returns every stream, for the sweeper.
func (s *store) all() (out []*stream) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, b := range s.basins {
		for _, st := range b.streams {
			out = append(out, st)
		}
	}
	return out
}
