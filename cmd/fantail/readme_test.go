package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the configuration into the README")

// The README's table of settings has the flags of the command.
func TestReadmeListsTheCommandsSettings(t *testing.T) {
	const path = "../../README.md"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "-update -->\n", "<!-- end of configuration"
	head, rest, ok := strings.Cut(string(b), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("no place for the configuration in the README")
	}
	want := head + begin + settingsTable(t) + end + tail
	if *update {
		err := os.WriteFile(path, []byte(want), 0o644)
		if err != nil {
			t.Fatal(err)
		}
	} else if string(b) != want {
		t.Error("the README's configuration is not the command's: go test ./cmd/fantail -run Readme -update")
	}
}

// settingsTable returns the flags of `fantail serve` as a table.
func settingsTable(t *testing.T) string {
	t.Helper()
	var c cli
	parser, err := newParser(&c)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	fmt.Fprintf(&out, "| `fantail serve` | variable | default | |\n| --- | --- | --- | --- |\n")
	for _, n := range parser.Model.Children {
		if n.Name != "serve" {
			continue
		}
		for _, f := range append(n.Flags, parser.Model.Flags...) {
			if len(f.Envs) == 0 {
				continue // --help and --version
			}
			def := f.Default
			if def != "" {
				def = "`" + def + "`"
			}
			fmt.Fprintf(&out, "| `--%s` | `%s` | %s | %s |\n", f.Name, strings.Join(f.Envs, " "), def, f.Help)
		}
	}
	return out.String()
}
