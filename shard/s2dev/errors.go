package s2dev

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// apiError is a refusal as the client gets it: an HTTP status and a JSON body.
type apiError struct {
	status  int
	code    string
	message string
	body    any // replaces {code, message} for 412 and 416
}

func (e *apiError) Error() string {
	if e.body != nil {
		b, _ := json.Marshal(e.body)
		return fmt.Sprintf("s2dev: %d %s", e.status, b)
	}
	return fmt.Sprintf("s2dev: %d %s: %s", e.status, e.code, e.message)
}

func (e *apiError) json() []byte {
	body := e.body
	if body == nil {
		body = map[string]string{"code": e.code, "message": e.message}
	}
	b, err := json.Marshal(body)
	if err != nil {
		panic("s2dev: error body: " + err.Error())
	}
	return b
}

// statusByCode is S2's own table of codes (s2-api error.rs).
var statusByCode = map[string]int{
	"bad_frame": 400, "bad_header": 400, "bad_json": 400, "bad_path": 400, "bad_proto": 400,
	"bad_query": 400, "decryption_failed": 400,
	"authn":             401,
	"permission_denied": 403, "quota_exhausted": 403,
	"basin_not_found": 404, "stream_not_found": 404, "access_token_not_found": 404,
	"request_timeout":         408,
	"resource_already_exists": 409, "basin_deletion_pending": 409,
	"stream_deletion_pending": 409, "transaction_conflict": 409,
	"invalid":       422,
	"rate_limited":  429,
	"client_hangup": 499,
	"other":         500, "storage": 500,
	"not_implemented": 501,
	"hot_server":      502,
	"unavailable":     503, "server_draining": 503,
	"upstream_timeout": 504,
}

func newError(code, format string, args ...any) *apiError {
	status, ok := statusByCode[code]
	if !ok {
		status = http.StatusInternalServerError
	}
	return &apiError{status: status, code: code, message: fmt.Sprintf(format, args...)}
}

func invalidError(format string, args ...any) *apiError { return newError("invalid", format, args...) }

func seqMismatch(expected uint64) *apiError {
	return &apiError{
		status: http.StatusPreconditionFailed,
		body:   map[string]uint64{"seq_num_mismatch": expected},
	}
}

func fenceMismatch(current string) *apiError {
	return &apiError{
		status: http.StatusPreconditionFailed,
		body:   map[string]string{"fencing_token_mismatch": current},
	}
}

func positionUnwritten(tail position) *apiError {
	return &apiError{
		status: http.StatusRequestedRangeNotSatisfiable,
		body:   map[string]position{"tail": tail},
	}
}

func basinNotFound(basin string) *apiError {
	return newError("basin_not_found", "basin `%s` not found", basin)
}

func streamNotFound(basin, stream string) *apiError {
	return newError("stream_not_found", "stream `%s` in basin `%s` not found", stream, basin)
}

func streamDeleted() *apiError {
	return newError("stream_deletion_pending", "stream deletion pending")
}
