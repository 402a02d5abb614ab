package edge

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/fantail-dev/fantail/shard"
)

// Root is a path below which the streams of one project are, beside streamPathPrefix, below which
// those of all projects are. A slash in a stream's name may be written %2F below it: that is what
// some clients do, and both spellings name one stream. Below streamPathPrefix it may not, because
// gateways judge the path as it is written.
type Root struct {
	// Path begins and ends with a slash: /streams/.
	Path string
	// Project is the project of every stream below Path.
	Project string
}

// The bounds of further roots. Each request is compared with all of them.
const (
	maxRoots     = 16
	maxRootBytes = 128
)

// ParseRoot parses PATH:project=NAME, such as /streams/:project=tanstack.
func ParseRoot(text string) (Root, error) {
	path, project, ok := strings.Cut(text, ":project=")
	if !ok {
		return Root{}, errors.New("want PATH:project=NAME, such as /streams/:project=chats")
	}
	r := Root{path, project}
	return r, r.check()
}

// check returns what is wrong with a root.
func (r Root) check() error {
	switch segments := strings.Split(r.Path, "/"); {
	case len(r.Path) > maxRootBytes:
		return fmt.Errorf("the path has more than %d bytes", maxRootBytes)
	case len(segments) < 3 || segments[0] != "" || segments[len(segments)-1] != "":
		return fmt.Errorf("the path is %q; want it to begin and end with a slash, such as /streams/", r.Path)
	case slices.ContainsFunc(segments[1:len(segments)-1], func(s string) bool { return !isPlainSegment(s) }):
		return fmt.Errorf("the path is %q; want parts of letters, digits, - _ . and ~ alone", r.Path)
	case strings.HasPrefix(r.Path, streamPathPrefix) || strings.HasPrefix(streamPathPrefix, r.Path):
		return fmt.Errorf("the path %q is, holds or is within %s, which has the streams of all projects", r.Path, streamPathPrefix)
	case strings.Contains(r.Project, "/"):
		return fmt.Errorf("the project %q has a slash", r.Project)
	case r.Project == "" || r.Project == "." || r.Project == "..":
		return fmt.Errorf("%q is no name of a project", r.Project)
	}
	if _, err := streamOfPath(r.Project + "/x"); err != nil {
		return fmt.Errorf("%q is no name of a project", r.Project)
	}
	return nil
}

// isPlainSegment reports whether a part of a path has one spelling only.
func isPlainSegment(s string) bool {
	return s != "" && s != "." && s != ".." && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~") == ""
}

// CheckRoots returns what is wrong with the further roots of a server: a path below two of them
// would name two streams.
func CheckRoots(roots []Root) error {
	if len(roots) > maxRoots {
		return fmt.Errorf("there are %d roots; %d at most", len(roots), maxRoots)
	}
	for i, r := range roots {
		if err := r.check(); err != nil {
			return err
		}
		for _, other := range roots[:i] {
			if strings.HasPrefix(r.Path, other.Path) || strings.HasPrefix(other.Path, r.Path) {
				return fmt.Errorf("the paths %q and %q overlap", other.Path, r.Path)
			}
		}
	}
	return nil
}

// streamRoots are the further roots of a server.
type streamRoots []Root

// parseStreamPath returns the stream that an escaped URL path names, below any root.
func (roots streamRoots) parseStreamPath(escaped string) (shard.StreamID, error) {
	for _, r := range roots {
		if name, ok := strings.CutPrefix(escaped, r.Path); ok {
			return r.parseName(name)
		}
	}
	return parseStreamPath(escaped)
}

// parseName returns the stream that the rest of a path names: %2F is a slash, and what comes of it
// is judged as if it had been one.
func (r Root) parseName(escaped string) (shard.StreamID, error) {
	plain, err := url.PathUnescape(escaped)
	if err != nil || strings.Contains(plain, "\x00") || !utf8.ValidString(plain) {
		return "", errName
	}
	for s := range strings.SplitSeq(plain, "/") {
		if s == "" || s == "." || s == ".." {
			return "", errName
		}
	}
	return streamOfPath(r.Project + "/" + plain)
}
