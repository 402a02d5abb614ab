package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

var update = flag.Bool("update", false, "write the table of settings into docs/configuration.md")

// The page of settings has the flags of the command.
func TestPageListsTheCommandsSettings(t *testing.T) {
	const path = "../docs/configuration.md"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "-update -->\n", "<!-- end of configuration"
	head, rest, ok := strings.Cut(string(b), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("the page has no place for the table")
	}
	want := head + begin + settingsTable(t) + end + tail
	if *update {
		err := os.WriteFile(path, []byte(want), 0o644)
		if err != nil {
			t.Fatal(err)
		}
	} else if string(b) != want {
		t.Error("docs/configuration.md is not what the command says: go test ./cmd/fantail -run PageLists -update")
	}
}

// settingsTable returns the flags of each command as a table.
func settingsTable(t *testing.T) string {
	t.Helper()
	var c cli
	parser, err := newParser(&c)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, command := range []string{"serve", "s2", "dev"} {
		for _, n := range parser.Model.Children {
			if n.Name == command {
				fmt.Fprintf(&out, "\n| `fantail %s` | variable | default | |\n| --- | --- | --- | --- |\n", command)
				writeSettings(&out, n.Flags)
			}
		}
	}
	fmt.Fprintf(&out, "\n| every command | variable | default | |\n| --- | --- | --- | --- |\n")
	writeSettings(&out, parser.Model.Flags)
	return out.String()
}

func writeSettings(out *strings.Builder, flags []*kong.Flag) {
	for _, f := range flags {
		if len(f.Envs) == 0 || f.Hidden {
			continue // --help and --version, and settings that have another name now
		}
		def := f.Default
		if def != "" {
			def = "`" + def + "`"
		}
		fmt.Fprintf(out, "| `--%s` | `%s` | %s | %s |\n", f.Name, strings.Join(f.Envs, " "), def, f.Help)
	}
}
