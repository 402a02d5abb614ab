package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// configFile is a file of settings (YAML). Its keys are names of flags, which count for every command
// that has them, or names of commands, whose values are flags of that command alone:
//
//	url: https://streams.example
//	serve:
//	  s2-basin: my-streams
//	  join: [node-1, node-2]
//
// A flag on the command line counts before its variable, and that before the file.
type configFile struct {
	path   string
	values map[string]any
}

// openConfigFile reads the file that the arguments or else the variable name; nil: none is named.
func openConfigFile(args, environ []string) (*configFile, error) {
	path := configPath(args, environ)
	if path == "" {
		return nil, nil //nolint:nilnil // no file is no error
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	f := &configFile{path: path}
	if err := yaml.Unmarshal(b, &f.values); err != nil {
		return nil, fmt.Errorf("--config: %s: %w", path, err)
	}
	return f, nil
}

// configPath finds --config before the arguments are parsed, because the file has a say in that.
func configPath(args, environ []string) (path string) {
	for _, kv := range environ {
		if v, ok := strings.CutPrefix(kv, variableOf("config")+"="); ok {
			path = v
		}
	}
	for i, a := range args {
		switch v, ok := strings.CutPrefix(a, "--config"); {
		case a == "--":
			return path
		case ok && strings.HasPrefix(v, "="):
			path = v[1:]
		case ok && v == "" && i+1 < len(args):
			path = args[i+1]
		}
	}
	return path
}

// Validate implements kong.Resolver: a setting that does not exist is an error.
func (f *configFile) Validate(app *kong.Application) error {
	all := map[string]bool{}
	eachFlag(app, func(flag *kong.Flag) { all[flag.Name] = true })
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(f.values)) {
		section, isSection := f.values[name].(map[string]any)
		command := findCommand(app, name)
		switch {
		case isSection && command != nil:
			has := map[string]bool{}
			eachFlagOf(command, func(flag *kong.Flag) { has[flag.Name] = true })
			for _, key := range slices.Sorted(maps.Keys(section)) {
				switch {
				case !has[key]:
					errs = append(errs, fmt.Errorf("%s: %s.%s: no such setting", f.path, name, key))
				case section[key] == nil:
					errs = append(errs, fmt.Errorf("%s: %s.%s has no value", f.path, name, key))
				}
			}
		case !all[name] || name == "config":
			errs = append(errs, fmt.Errorf("%s: %s: no such setting", f.path, name))
		case f.values[name] == nil:
			errs = append(errs, fmt.Errorf("%s: %s has no value", f.path, name))
		}
	}
	return errors.Join(errs...)
}

func findCommand(app *kong.Application, name string) *kong.Node {
	for _, n := range app.Children {
		if n.Name == name && n.Type == kong.CommandNode {
			return n
		}
	}
	return nil
}

// Resolve implements kong.Resolver.
func (f *configFile) Resolve(_ *kong.Context, parent *kong.Path, flag *kong.Flag) (any, error) {
	if !hasVariable(flag) {
		return nil, nil //nolint:nilnil // as kong wants it
	}
	if _, set := os.LookupEnv(variableOfFlag(flag)); set {
		return nil, nil //nolint:nilnil // as kong wants it
	}
	v, ok := f.values[flag.Name]
	for n := parent.Node(); n != nil; n = n.Parent {
		if section, is := f.values[n.Name].(map[string]any); is {
			if own, has := section[flag.Name]; has {
				v, ok = own, true
			}
		}
	}
	if !ok {
		return nil, nil //nolint:nilnil // as kong wants it
	}
	return settingText(v), nil
}

// settingText returns a value as it would stand on the command line.
func settingText(v any) string {
	switch v := v.(type) {
	case []any:
		parts := make([]string, len(v))
		for i := range v {
			parts[i] = fmt.Sprint(v[i])
		}
		return strings.Join(parts, ",")
	case map[string]any:
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, fmt.Sprintf("%s=%v", k, v[k]))
		}
		return strings.Join(parts, ";")
	}
	return fmt.Sprint(v)
}

// eachFlagOf calls fn with every flag of a command, and of its parents, that may be in a file.
func eachFlagOf(n *kong.Node, fn func(*kong.Flag)) {
	for _, group := range n.AllFlags(false) {
		for _, f := range group {
			if hasVariable(f) {
				fn(f)
			}
		}
	}
	for _, child := range n.Children {
		eachFlagOf(child, fn)
	}
}
