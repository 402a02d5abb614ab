package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
)

// version and revision are set by the linker for releases. Otherwise Go's own record of the build
// is used.
var version, revision string

// buildInfo holds the versions of this program.
type buildInfo struct{ version, revision, goVersion string }

// currentBuild returns what the linker set, or else what Go recorded of the module and its
// repository.
func currentBuild() buildInfo {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return buildInfoOf(info)
}

func buildInfoOf(info *debug.BuildInfo) buildInfo {
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	b := buildInfo{
		version: version, revision: cmp.Or(revision, settings["vcs.revision"], "unknown"),
		goVersion: cmp.Or(info.GoVersion, runtime.Version()),
	}
	if b.version == "" && info.Main.Version != "(devel)" {
		b.version = info.Main.Version
	}
	if b.version = cmp.Or(b.version, "dev"); settings["vcs.modified"] == "true" && revision == "" {
		b.revision += "-modified"
	}
	return b
}

func (b buildInfo) String() string {
	return fmt.Sprintf("fantail %s (commit %s, %s, %s/%s)", b.version, b.revision, b.goVersion, runtime.GOOS, runtime.GOARCH)
}
