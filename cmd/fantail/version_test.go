package main

import (
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
)

// Without the linker's help a build reports its module's version, if there is one, and its commit.
func TestBuildInfoWithoutTheLinker(t *testing.T) {
	vcs := []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "true"}}
	for want, info := range map[buildInfo]*debug.BuildInfo{
		{"v1.2.3", "unknown", "go1.26"}:       {GoVersion: "go1.26", Main: debug.Module{Version: "v1.2.3"}},
		{"dev", "abc-modified", "go1.26"}:     {GoVersion: "go1.26", Main: debug.Module{Version: "(devel)"}, Settings: vcs},
		{"dev", "abc", "go1.26"}:              {GoVersion: "go1.26", Settings: vcs[:1]},
		{"dev", "unknown", runtime.Version()}: {},
	} {
		if got := buildInfoOf(info); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}

// The command prints its version, commit and Go version, also as set by the linker.
func TestVersionFlagPrintsTheBuild(t *testing.T) {
	t.Parallel()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(path, "--version").CombinedOutput()
	for _, want := range []string{"fantail ", "commit ", runtime.Version()} {
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s %v: %q is missing", out, err, want)
		}
	}
}
