package main

import (
	"github.com/fantail-dev/fantail/bench/internal/child"
	"github.com/fantail-dev/fantail/shard/s2dev"
)

const (
	basin = "fantail-bench"
	// storeBytes is more than ten million small records take.
	storeBytes = 12 << 30
)

// runStore runs the process of the embedded S2.
func runStore() error {
	s, err := s2dev.Open(s2dev.Config{Basins: []string{basin}, MaxBytes: storeBytes})
	if err != nil {
		return err
	}
	child.Serve(func(string) (string, error) { return s.URL(), nil })
	return s.Close()
}
