package main

import (
	"bytes"
	"fmt"
	"sort"
	"strings"

	"github.com/alecthomas/kong"
)

// completionCmd prints a script by which a shell completes commands and flags.
type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"Shell: bash, zsh or fish."`
}

// Run prints the script.
func (c *completionCmd) Run(k *kong.Kong, s stdio) error {
	var b bytes.Buffer
	commands := completionsOf(k.Model.Node, nil)
	switch c.Shell {
	case "bash":
		writeBash(&b, commands)
	case "zsh":
		b.WriteString("#compdef fantail\nautoload -U +X bashcompinit && bashcompinit\n")
		writeBash(&b, commands)
	case "fish":
		writeFish(&b, commands)
	}
	_, err := s.out.Write(b.Bytes())
	return err
}

// completion holds what may follow a command.
type completion struct {
	path     []string // the command
	commands []word
	flags    []word
}

// word is a command or a flag.
type word struct {
	name, help string
	values     []string // that a flag may have; nil: anything
	takesValue bool
}

// completionsOf returns what may follow each command below a node.
func completionsOf(n *kong.Node, path []string) (all []completion) {
	c := completion{path: path}
	for _, child := range n.Children {
		if child.Type != kong.CommandNode || child.Hidden {
			continue
		}
		name := append(append([]string{}, path...), child.Name)
		c.commands = append(c.commands, word{name: child.Name, help: child.Help})
		all = append(all, completionsOf(child, name)...)
	}
	for _, group := range n.AllFlags(true) {
		for _, f := range group {
			w := word{name: "--" + f.Name, help: f.Help, takesValue: !f.IsBool()}
			if f.Enum != "" {
				w.values = f.EnumSlice()
			}
			c.flags = append(c.flags, w)
		}
	}
	sort.Slice(c.flags, func(i, j int) bool { return c.flags[i].name < c.flags[j].name })
	return append([]completion{c}, all...)
}

func names(words []word) string {
	var out []string
	for _, w := range words {
		out = append(out, w.name)
	}
	return strings.Join(out, " ")
}

// writeBash writes a function that finds the command in the line, and completes its flags and
// commands; after a flag with a closed set of values those, and otherwise names of files.
func writeBash(b *bytes.Buffer, all []completion) {
	b.WriteString("_fantail() {\n  local cur=\"${COMP_WORDS[COMP_CWORD]}\" prev=\"${COMP_WORDS[COMP_CWORD-1]}\" path='' w\n" +
		"  for w in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n    case \"$path $w\" in\n")
	for _, c := range all {
		if len(c.path) > 0 {
			fmt.Fprintf(b, "      %q) path=%q ;;\n", " "+strings.Join(c.path, " "), " "+strings.Join(c.path, " "))
		}
	}
	b.WriteString("    esac\n  done\n  case \"$prev\" in\n    =) prev=\"${COMP_WORDS[COMP_CWORD-2]}\" ;;\n  esac\n  case \"$cur\" in\n    =) cur='' ;;\n  esac\n  case \"$path:$prev\" in\n")
	for _, c := range all {
		for _, f := range c.flags {
			if f.values != nil {
				fmt.Fprintf(b, "    %q) COMPREPLY=($(compgen -W %q -- \"$cur\")); return ;;\n", pathOf(c)+":"+f.name, strings.Join(f.values, " "))
			}
		}
	}
	b.WriteString("  esac\n  case \"$path\" in\n")
	for _, c := range all {
		fmt.Fprintf(b, "    %q) w=%q ;;\n", pathOf(c), strings.TrimSpace(names(c.commands)+" "+names(c.flags)))
	}
	b.WriteString("  esac\n  COMPREPLY=($(compgen -W \"$w\" -- \"$cur\"))\n}\ncomplete -o default -F _fantail fantail\n")
}

func pathOf(c completion) string {
	if len(c.path) == 0 {
		return ""
	}
	return " " + strings.Join(c.path, " ")
}

func writeFish(b *bytes.Buffer, all []completion) {
	quote := func(s string) string {
		return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
	}
	for _, c := range all {
		condition := "__fish_use_subcommand"
		if len(c.path) > 0 {
			condition = "__fish_seen_subcommand_from " + c.path[0]
			if len(c.path) > 1 {
				condition += "; and __fish_seen_subcommand_from " + c.path[1]
			}
		}
		for _, w := range c.commands {
			fmt.Fprintf(b, "complete -c fantail -n %s -f -a %s -d %s\n", quote(condition), w.name, quote(firstSentence(w.help)))
		}
		for _, f := range c.flags {
			line := fmt.Sprintf("complete -c fantail -n %s -l %s -d %s", quote(condition), strings.TrimPrefix(f.name, "--"), quote(firstSentence(f.help)))
			switch {
			case f.values != nil:
				line += " -x -a " + quote(strings.Join(f.values, " "))
			case f.takesValue:
				line += " -r"
			}
			b.WriteString(line + "\n")
		}
	}
}

func firstSentence(help string) string {
	before, _, _ := strings.Cut(help, ". ")
	return strings.TrimSuffix(before, ".")
}
