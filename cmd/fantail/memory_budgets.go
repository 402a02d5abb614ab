package main

import (
	"fmt"
	"log/slog"
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

const mib = 1 << 20

// budgets lists how many bytes of messages and streams a node holds at most. Each kind has a
// maximum, which applies if there is plenty of memory, and a minimum, with which the node still
// works (one body or chunk of the largest size, some of everything). Readers, the Go runtime and
// encoding buffers come on top.
var budgets = []budget{
	{"tails", 512 * mib, 32 * mib, func(c *nodeConfig, n int64) { c.tailBytes = n }},
	{"states", 512 * mib, 32 * mib, func(c *nodeConfig, n int64) { c.shard.StateBytes = n }},
	{"pages", 256 * mib, 16 * mib, func(c *nodeConfig, n int64) { c.shard.PageBytes = n }},
	{"frames", 256 * mib, 16 * mib, func(c *nodeConfig, n int64) { c.edge.FrameBytes = n }},
	{"sse", 64 * mib, 8 * mib, func(c *nodeConfig, n int64) { c.edge.PinnedBytes = n }},
	{"chunks", 512 * mib, 40 * mib, func(c *nodeConfig, n int64) { c.edge.ChunkBytes = n }},
	{"bodies", 64 * mib, 24 * mib, func(c *nodeConfig, n int64) { c.edge.MaxBodies = n }},
	{"peer-bodies", 64 * mib, 24 * mib, func(c *nodeConfig, n int64) {
		if c.fleet != nil {
			c.fleet.PeerWriteBytes = n
		}
	}},
	{"s2-windows", 64 * mib, mib / 2, func(c *nodeConfig, n int64) { c.s2.WindowBytes = n }},
	{"links", 256 * mib, 12 * mib, func(c *nodeConfig, n int64) {
		if c.fleet != nil {
			c.fleet.LinkCreditBytes = n
		}
	}},
}

type budget struct {
	name     string
	max, min int64
	apply    func(*nodeConfig, int64)
}

const (
	// minMemory is the smallest value of --memory.
	minMemory = 512 * mib
	// readerBytes is the memory per reader of an event stream, with its share of the heap's slack.
	readerBytes = 2 << 10
)

// budgetPool returns the bytes for all budgets: three quarters of the process's memory without 256
// MiB, and at least two fifths of it.
func budgetPool(memory int64) int64 { return max(memory/4*3-256*mib, memory/5*2) }

// splitBudgets returns the size of each budget. Each gets its minimum, and all the same fraction of
// the range up to their maxima. memory 0: there is plenty.
func splitBudgets(memory int64) []int64 {
	var full, least int64
	for _, b := range budgets {
		full, least = full+b.max, least+b.min
	}
	part := 1.0
	if memory > 0 {
		part = min(max(float64(budgetPool(memory)-least)/float64(full-least), 0), 1)
	}
	out := make([]int64, len(budgets))
	for i, b := range budgets {
		out[i] = b.min + int64(part*float64(b.max-b.min))
	}
	return out
}

// memoryLimit is the memory that the process may use, and the source of that limit; bytes 0: there
// is no limit.
type memoryLimit struct {
	bytes  int64
	source string
}

// findMemoryLimit returns the limit of the setting, or else the lower one of GOMEMLIMIT and the
// cgroup.
func findMemoryLimit(setting byteSize, getenv func(string) string, root string) memoryLimit {
	group := cgroupMemoryLimit(root)
	var soft byteSize
	_ = soft.UnmarshalText([]byte(getenv("GOMEMLIMIT"))) // an error is "off", or a value that Go itself has refused
	switch {
	case setting > 0:
		return memoryLimit{int64(setting), "--memory"}
	case soft > 0 && (group == 0 || int64(soft) < group):
		return memoryLimit{int64(soft) / 9 * 10, "GOMEMLIMIT"}
	case group > 0:
		return memoryLimit{group, "cgroup"}
	}
	return memoryLimit{}
}

// applyTo sets the node's budgets and its number of readers by the limit. It sets the garbage
// collector's limit to nine tenths of it, unless GOMEMLIMIT is set.
func (m memoryLimit) applyTo(cfg *nodeConfig, log *slog.Logger, getenv func(string) string) {
	for i, n := range splitBudgets(m.bytes) {
		budgets[i].apply(cfg, n)
	}
	if m.bytes == 0 {
		return
	}
	if getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(m.bytes / 10 * 9)
	}
	if m.bytes < minMemory {
		log.Warn("there is little memory for a node: want 512 MiB or more", "memory", m.bytes, "from", m.source)
	}
	if room := int(m.bytes / 4 / readerBytes); cfg.edge.MaxReaders > room {
		log.Warn("there is not the memory for --max-readers, which is lowered", "memory", m.bytes, "from", m.source,
			"wanted", cfg.edge.MaxReaders, "max_readers", room)
		cfg.edge.MaxReaders = room
	}
}

// cgroupMemoryLimit returns the lowest memory limit of the process's cgroup and its ancestors, of
// version 1 or 2; 0: there is none.
func cgroupMemoryLimit(root string) int64 {
	raw, err := os.ReadFile(path.Join(root, "proc/self/cgroup"))
	if err != nil {
		return 0
	}
	least := int64(math.MaxInt64)
	look := func(mount, group, file string) {
		for group = path.Clean("/" + group); ; group = path.Dir(group) {
			b, err := os.ReadFile(path.Join(root, mount, group, file))
			if n, bad := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && bad == nil && n > 0 {
				least = min(least, n)
			}
			if group == "/" {
				return
			}
		}
	}
	for line := range strings.Lines(string(raw)) {
		of, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, group, ok := strings.Cut(rest, ":")
		switch {
		case !ok:
		case of == "0" && controllers == "":
			look("sys/fs/cgroup", group, "memory.max")
			look("sys/fs/cgroup/unified", group, "memory.max")
		case strings.Contains(","+controllers+",", ",memory,"):
			look("sys/fs/cgroup/memory", group, "memory.limit_in_bytes")
		}
	}
	if least >= 1<<50 { // version 1 has a large number for "none"
		return 0
	}
	return least
}

// byteSize is a number of bytes as a setting: 1073741824, 1GiB, 512MiB; 0: not set.
type byteSize int64

// UnmarshalText implements encoding.TextUnmarshaler. It reads numbers as Go reads GOMEMLIMIT.
func (b *byteSize) UnmarshalText(text []byte) error {
	s, unit := strings.TrimSpace(string(text)), int64(1)
	for suffix, n := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40} {
		if t, ok := strings.CutSuffix(s, suffix); ok {
			s, unit = t, n
		}
	}
	n, err := strconv.ParseInt(strings.TrimSuffix(s, "B"), 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit {
		return fmt.Errorf("%q: want a number of bytes such as 2GiB or 512MiB", text)
	}
	*b = byteSize(n * unit)
	return nil
}
