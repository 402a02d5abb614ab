package edge

import (
	"net/http"
	"strconv"
)

// The modes of requests that are not readers.
const (
	modeAppend    requestMode = "append"
	modeCreate    requestMode = "create"
	modeDelete    requestMode = "delete"
	modeHead      requestMode = "head"
	modePreflight requestMode = "preflight"
	modeOther     requestMode = "other"
)

// modeOf returns the mode of a method; a GET may have another.
func modeOf(method string) requestMode {
	switch method {
	case http.MethodGet:
		return modeCatchUp
	case http.MethodPost:
		return modeAppend
	case http.MethodPut:
		return modeCreate
	case http.MethodDelete:
		return modeDelete
	case http.MethodHead:
		return modeHead
	case http.MethodOptions:
		return modePreflight
	}
	return modeOther
}

// methodLabel returns a method as a metric label: clients can send any method.
func methodLabel(method string) string {
	if modeOf(method) == modeOther {
		return "other"
	}
	return method
}

// requestMode labels requests and readers, from a closed set.
type requestMode string

const (
	modeSSE      requestMode = "sse"
	modeLongPoll requestMode = "long-poll"
	modeCatchUp  requestMode = "catch-up"
)

// maxLogText bounds a client's text in a log line.
const maxLogText = 256

// statusLabels are the statuses as metric labels.
var statusLabels = func() (all [600]string) {
	for i := range all {
		all[i] = strconv.Itoa(i)
	}
	return all
}()

func clipForLog(s string) string { return s[:min(len(s), maxLogText)] }
