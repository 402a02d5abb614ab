package shard

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// expiries tell of streams whose time was over: a count, and one line in the log for each
// project and minute.
type expiries struct {
	total atomic.Uint64

	mu   sync.Mutex
	news map[string]*expired // by project, at most expiredProjects
}

// expired is what ended in one project since.
type expired struct {
	since time.Time
	n     int
	one   StreamID
}

// expiredProjects bounds the projects that have a line of their own at a time; others share
// one.
const expiredProjects = 256

func (e *expiries) note(id StreamID, now time.Time) {
	e.total.Add(1)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.news == nil {
		e.news = map[string]*expired{}
	}
	project := id.Project()
	if e.news[project] == nil && len(e.news) >= expiredProjects {
		project = ""
	}
	one := e.news[project]
	if one == nil {
		one = &expired{since: now, one: id}
		e.news[project] = one
	}
	one.n++
}

// tell writes the lines that are due; all: every one.
func (e *expiries) tell(log *slog.Logger, now time.Time, all bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for project, one := range e.news {
		if all || now.Sub(one.since) >= time.Minute {
			delete(e.news, project)
			log.Info("streams have expired", "project", project, "count", one.n, "one", one.one)
		}
	}
}
