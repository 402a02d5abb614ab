package shard

import (
	"encoding/json"
	"mime"
	"strings"
	"unicode/utf8"
)

// OctetStream is the content type of a stream that was created without one.
const OctetStream = "application/octet-stream"

// validJSON reports whether b is JSON text by RFC 8259: valid, and in UTF-8.
func validJSON(b []byte) bool { return json.Valid(b) && utf8.Valid(b) }

// IsJSON reports whether a content type is application/json, parameters aside.
func IsJSON(contentType string) bool { return MediaType(contentType) == "application/json" }

// plainType reports whether a content type is its own media type: lower case, without
// parameters or anything unusual.
func plainType(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '/' && c != '-' && c != '+' && c != '.' {
			return false
		}
	}
	return strings.Count(s, "/") == 1 && s[0] != '/' && s[len(s)-1] != '/'
}

// MediaType returns the type/subtype of a content type in lower case, without parameters. The
// protocol compares these (PROTOCOL 5.1).
func MediaType(contentType string) string {
	if plainType(contentType) { // nearly every content type, on the path of every append
		return contentType
	}
	if t, _, err := mime.ParseMediaType(contentType); err == nil {
		return t
	}
	t, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(t))
}
