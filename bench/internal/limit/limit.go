// Package limit is what servers are measured against: a loop in C that sends ready frames.
package limit

import (
	_ "embed"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed loop/limit.c
var source string

// Build compiles the loop into a directory; it needs cc. The program takes a port of
// 127.0.0.1, and says "serving".
func Build(dir string) (path string, err error) {
	path = filepath.Join(dir, "limit")
	cmd := exec.Command("cc", "-O2", "-x", "c", "-o", path, "-")
	cmd.Stdin = strings.NewReader(source)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("the loop in C: %w: %s", err, out)
	}
	return path, nil
}
