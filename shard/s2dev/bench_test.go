package s2dev

import (
	"strings"
	"testing"
)

func benchmarkAppend(b *testing.B, cfg Config) {
	cfg.Basins = []string{testBasin}
	s := open(b, cfg)
	c := mustCreate(b, dialBasin(s.URL()), "s")
	in := bodyRecords(strings.Repeat("x", 200))
	b.SetParallelism(16)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := c.Append(b.Context(), in); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkAppendMemory(b *testing.B) { benchmarkAppend(b, Config{}) }
func BenchmarkAppendDisk(b *testing.B)   { benchmarkAppend(b, Config{Dir: b.TempDir()}) }
