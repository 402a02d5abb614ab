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
