package main

import "fmt"

// versionCmd prints the version.
type versionCmd struct {
	JSON bool `name:"json" help:"Print JSON." env:"-"`
}

// Run prints the version.
func (c *versionCmd) Run(s stdio) error {
	b := currentBuild()
	if c.JSON {
		return printJSON(s.out, map[string]string{"version": b.version, "revision": b.revision, "go": b.goVersion})
	}
	_, err := fmt.Fprintln(s.out, b)
	return err
}
