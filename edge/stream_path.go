package edge

import (
	"errors"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/fantail-dev/fantail/shard"
)

const (
	streamPathPrefix = "/v1/stream/"
	defaultProject   = "default"
)

var (
	errNoRoute  = errors.New("no such path")
	errName     = errors.New("malformed stream name")
	errReserved = errors.New("reserved name")
)

// parseStreamPath returns the stream that an escaped URL path below streamPathPrefix names. A path of
// one segment is a stream of the project "default". Requests come by streamRoots.parseStreamPath.
func parseStreamPath(escaped string) (shard.StreamID, error) {
	rest, ok := strings.CutPrefix(escaped, streamPathPrefix)
	if !ok {
		return "", errNoRoute
	}
	segments := strings.Split(rest, "/")
	for i, s := range segments {
		plain, err := url.PathUnescape(s)
		if err != nil || plain == "" || plain == "." || plain == ".." ||
			strings.ContainsAny(plain, "/\x00") || !utf8.ValidString(plain) {
			return "", errName
		}
		segments[i] = plain
	}
	if len(segments) == 1 {
		segments = []string{defaultProject, segments[0]}
	}
	return streamOfPath(strings.Join(segments, "/"))
}

// streamOfPath returns the stream of a project and a name, neither of them escaped.
func streamOfPath(projectAndName string) (shard.StreamID, error) {
	if shard.StreamID(projectAndName).Reserved() {
		return "", errReserved
	}
	id, err := shard.ParseStreamID(projectAndName)
	if err != nil {
		return "", errName
	}
	return id, nil
}

// splitStream returns a stream's project and its name within the project.
func splitStream(id shard.StreamID) (project, name string) {
	project, name, _ = strings.Cut(string(id), "/")
	return project, name
}
