package shard

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// expiryReports counts the streams that expired, and logs one line for each project and minute.
type expiryReports struct {
	total atomic.Uint64

	mu        sync.Mutex
	byProject map[string]*projectExpiries // at most maxExpiryProjects
}

// projectExpiries holds what has expired in one project since a moment.
type projectExpiries struct {
	since   time.Time
	count   int
	example StreamID
}

// maxExpiryProjects bounds the projects that have a line of their own at a time; the others share
// one.
const maxExpiryProjects = 256

// noteExpiry counts an expired stream.
func (e *expiryReports) noteExpiry(id StreamID, now time.Time) {
	e.total.Add(1)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.byProject == nil {
		e.byProject = map[string]*projectExpiries{}
	}
	project := id.Project()
	if e.byProject[project] == nil && len(e.byProject) >= maxExpiryProjects {
		project = ""
	}
	one := e.byProject[project]
	if one == nil {
		one = &projectExpiries{since: now, example: id}
		e.byProject[project] = one
	}
	one.count++
}

// logDue writes the lines that are due; all: every line.
func (e *expiryReports) logDue(log *slog.Logger, now time.Time, all bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for project, one := range e.byProject {
		if all || now.Sub(one.since) >= time.Minute {
			delete(e.byProject, project)
			log.Info("streams have expired", "project", project, "count", one.count, "one", one.example)
		}
	}
}
