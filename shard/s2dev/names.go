package s2dev

import (
	"strings"
	"unicode/utf8"
)

// The limits of S2's API, in bytes or items.
const (
	minBasinName    = 8
	maxBasinName    = 48
	maxStreamName   = 512
	maxRequestToken = 36
	maxFenceToken   = 36
	maxBatchRecords = 1000
	maxBatchBytes   = 1 << 20
	maxListPage     = 1000
)

func lowerOrDigit(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

func checkBasinName(name string) *apiError {
	if len(name) < minBasinName || len(name) > maxBasinName {
		return invalidError("basin name must be between %d and %d bytes in length",
			minBasinName, maxBasinName)
	}
	if !lowerOrDigit(name[0]) || !lowerOrDigit(name[len(name)-1]) {
		return invalidError("basin name must begin and end with a lowercase letter or number")
	}
	for i := range len(name) {
		if !lowerOrDigit(name[i]) && name[i] != '-' {
			return invalidError("basin name must comprise lowercase letters, numbers, and hyphens")
		}
	}
	return nil
}

func checkStreamName(name string) *apiError {
	if name == "" || len(name) > maxStreamName {
		return invalidError("stream name must be between 1 and %d bytes in length", maxStreamName)
	}
	if !utf8.ValidString(name) {
		return invalidError("stream name must be valid UTF-8")
	}
	if strings.ContainsRune(name, 0) {
		return invalidError("stream name must not contain NUL bytes")
	}
	if name == "." || name == ".." {
		return invalidError("stream name must not be `.` or `..`")
	}
	return nil
}
