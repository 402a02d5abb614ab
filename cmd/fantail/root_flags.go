package main

import (
	"fmt"

	"github.com/fantail-dev/fantail/edge"
)

// rootFlags holds the flag that adds paths to the public address.
type rootFlags struct {
	Root []string `help:"Path below which the streams of one project are, beside /v1/stream/, as PATH:project=NAME, such as /streams/:project=chats. Below it %2F in a path is a slash. Set it on every node."`
}

// applyRoots converts the flag into the configuration of the edge.
func (f *rootFlags) applyRoots(cfg *edge.Config) (errs []error) {
	for _, text := range f.Root {
		r, err := edge.ParseRoot(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("--root %q (%s): %w", text, variableOf("root"), err))
			continue
		}
		cfg.Roots = append(cfg.Roots, r)
	}
	if len(errs) == 0 {
		if err := edge.CheckRoots(cfg.Roots); err != nil {
			errs = append(errs, fmt.Errorf("--root (%s): %w", variableOf("root"), err))
		}
	}
	return errs
}
