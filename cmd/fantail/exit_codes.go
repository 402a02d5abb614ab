package main

import (
	"errors"
	"net/http"

	"github.com/alecthomas/kong"

	"github.com/fantail-dev/fantail/cmd/fantail/internal/dsclient"
	"github.com/fantail-dev/fantail/edge/access"
)

// The exit codes, beside 0 and 1, which is every other error. Pages of the documentation list them.
const (
	exitUsage        = 2 // the command line, a variable or a file of settings is wrong
	exitTokenRefused = 3 // the credential is missing or not good
	exitNotAllowed   = 4 // the credential is good, and does not allow what was asked
	exitWarnings     = 5 // a check found something
	exitNotFound     = 6 // there is no such stream, or no such place in it
	exitConflict     = 7 // the stream is closed, or not what the command takes it for
	exitUnavailable  = 8 // the server does not answer, or not now
)

// exitError ends the process with a code that scripts can tell apart.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func usageError(err error) error { return &exitError{exitUsage, err} }

// exitCode returns the code that an error ends the process with.
func exitCode(err error) int {
	var (
		own     *exitError
		parse   *kong.ParseError
		refused *dsclient.Problem
		gaveUp  *dsclient.GaveUpError
	)
	switch {
	case errors.As(err, &own):
		return own.code
	case errors.As(err, &parse):
		return exitUsage
	case errors.As(err, &refused):
		if refused.Reason == string(access.ReasonNotGranted) { // producers get a 401 for it, because clients take a 403 for a later epoch
			return exitNotAllowed
		}
		return exitOfStatus(refused.Status)
	case errors.As(err, &gaveUp):
		return exitUnavailable
	}
	return 1
}

// exitOfStatus returns the code for a refusal.
func exitOfStatus(status int) int {
	switch status {
	case http.StatusUnauthorized:
		return exitTokenRefused
	case http.StatusForbidden:
		return exitNotAllowed
	case http.StatusNotFound, http.StatusGone:
		return exitNotFound
	case http.StatusConflict, http.StatusPreconditionFailed:
		return exitConflict
	case http.StatusTooManyRequests, http.StatusRequestTimeout:
		return exitUnavailable
	}
	if status >= http.StatusInternalServerError && status != http.StatusNotImplemented {
		return exitUnavailable
	}
	return 1
}
