package main

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// parseWith parses a command line with a file of settings.
func parseWith(t *testing.T, file string, environ []string, args ...string) (*cli, error) {
	t.Helper()
	path := writeTestFile(t, "fantail.yaml", file)
	var c cli
	parser, err := parserFor(&c, append(args, "--config="+path), environ)
	if err != nil {
		return nil, err
	}
	_, err = parser.Parse(append(args, "--config="+path))
	return &c, err
}

// A flag counts before its variable, the variable before the file, the command's part of the file before
// the rest.
func TestConfigFile(t *testing.T) {
	const file = "url: http://a\npatience: 1m\nlog-level: debug\ntail: {patience: 2m}\nserve:\n  s2-basin-map: {x: basin-x, y: basin-y}\n  join: [n1, n2]\n  max-readers: 7\n"
	c, err := parseWith(t, file, nil, "tail", "room")
	if err != nil || c.Tail.URL != "http://a" || c.Tail.Patience.String() != "2m0s" || c.LogLevel.String() != "DEBUG" {
		t.Errorf("%+v, %v", c.Tail, err)
	}
	if c, err = parseWith(t, file, nil, "info", "room", "--url=http://b"); err != nil || c.Info.URL != "http://b" || c.Info.Patience.String() != "1m0s" {
		t.Errorf("%+v, %v", c.Info, err)
	}
	if c, err = parseWith(t, file, nil, "serve"); err != nil || c.Serve.MaxReaders != 7 || !slices.Equal(c.Serve.Join, []string{"n1", "n2"}) || c.Serve.S2BasinMap["y"] != "basin-y" {
		t.Errorf("%+v, %v", c.Serve, err)
	}
	t.Setenv("FANTAIL_URL", "http://c")
	if c, err = parseWith(t, file, nil, "tail", "room"); err != nil || c.Tail.URL != "http://c" {
		t.Errorf("%+v, %v", c.Tail, err)
	}
	for _, bad := range []string{"urll: x", "serve: {s3-basin: x}", "tail: {from: now}", "config: x", "url:", "url: a\nurl: b", "- a", "serve: {max-readers: many}", "serve: 3"} {
		if _, err := parseWith(t, bad, nil, "serve"); err == nil {
			t.Errorf("%q is accepted", bad)
		} else if got := exitCode(err); got != exitUsage {
			t.Errorf("%q ends with %d: %v", bad, got, err)
		}
	}
	if err := run([]string{"version", "--config=/does/not/exist"}, nil); exitCode(err) != exitUsage {
		t.Errorf("%v", err)
	}
	if got := configPath([]string{"x", "--", "--config=y"}, []string{"FANTAIL_CONFIG=z"}); got != "z" {
		t.Errorf("%q", got)
	}
}

// What the shells complete.
func TestCompletion(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("there is no bash")
	}
	script := writeTestFile(t, "completion", mustPrint(t, "", "completion", "bash"))
	for words, want := range map[string]string{
		"fantail ta": "tail", "fantail tail --li": "--live", "fantail tail --live = s": "sse", "fantail tail --live ": "sse long-poll",
		"fantail token ": "explain mint admin", "fantail token mint --al": "--alg", "fantail drain --w": "--wait --within",
	} {
		list := strings.Split(words, " ")
		for i, w := range list {
			list[i] = fmt.Sprintf("%q", w)
		}
		out, err := exec.CommandContext(t.Context(), bash, "-c", fmt.Sprintf("source %s; COMP_WORDS=(%s); COMP_CWORD=%d; _fantail; echo ${COMPREPLY[@]}", script, strings.Join(list, " "), len(list)-1)).CombinedOutput()
		got := strings.TrimSpace(string(out))
		if err != nil || !strings.HasPrefix(got, want) {
			t.Errorf("%q completes to %q, want %q (%v)", words, got, want, err)
		}
	}
	for _, shell := range []string{"zsh", "fish"} {
		out := mustPrint(t, "", "completion", shell)
		if !strings.Contains(out, "undrain") {
			t.Errorf("%s: %s", shell, out)
		}
		if path, err := exec.LookPath(shell); err == nil {
			if out, err := exec.CommandContext(t.Context(), path, "-n", writeTestFile(t, shell, out)).CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", shell, err, out)
			}
		}
	}
	mustExit(t, exitUsage, "completion", "tcsh")
}

func TestVersionCommand(t *testing.T) {
	if got := mustPrint(t, "", "version"); !strings.HasPrefix(got, "fantail ") {
		t.Errorf("%q", got)
	}
	if got := mustPrint(t, "", "version", "--json"); !strings.Contains(got, `"revision":`) {
		t.Errorf("%q", got)
	}
}
