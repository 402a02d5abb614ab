package edge

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/edge/access"
)

// limitedFile is a file of rights with small limits for the project acme.
func limitedFile(t *testing.T, limits string) string {
	t.Helper()
	path := rightsFile(t)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(b), "    origins:", "    limits: { "+limits+" }\n    origins:", 1)
	if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// An append over its rate waits for its turn before its body is read, and is refused only if the wait
// would be too long; another project does not notice.
func TestAppendsWaitForTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := bubbleWithRights(t, limitedFile(t, "requests: 10"))
		token := bearer(tokenOf(t, nil))
		token["Content-Type"] = "text/plain"
		began := time.Now()
		statuses := map[int]int{}
		for range 60 { // 20 of a burst of 2 s, one of which the stream's creation had
			statuses[ask(t, b.srv, "POST", "/v1/stream/acme/rooms/a", strings.NewReader("x"), token).Code]++
		}
		if took := time.Since(began); statuses[204] != 60 || took < 3*time.Second || took > 5*time.Second {
			t.Errorf("%v after %v, want 60 accepted after some 4 s", statuses, took)
		}
		other := bearer(tokenOf(t, map[string]any{"project": "beta"}))
		other["Content-Type"] = "text/plain"
		began = time.Now()
		if w := ask(t, b.srv, "PUT", "/v1/stream/beta/rooms/a", nil, other); w.Code != 201 || time.Since(began) != 0 {
			t.Errorf("another project: %d after %v", w.Code, time.Since(began))
		}
	})
}

// What is over a limit and does not wait is refused with the limit's name and a pause.
func TestRequestsOverALimitAreRefused(t *testing.T) {
	for limit, c := range map[string]struct {
		limits, method, path, body string
		status                     int
	}{
		"limit_requests":           {"requests: 1", "GET", "/v1/stream/acme/lobby/none", "", 429},
		"limit_creates":            {"creates: 1", "PUT", "/v1/stream/acme/rooms/%d", "", 429},
		"limit_body":               {"body: 10", "POST", "/v1/stream/acme/rooms/a", strings.Repeat("x", 11), 413},
		"limit_principal_requests": {"principal: { requests: 1 }", "GET", "/v1/stream/acme/rooms/a", "", 429},
	} {
		t.Run(limit, func(t *testing.T) {
			s := newSite(t, Config{Judge: newJudge(t, limitedFile(t, c.limits), access.Config{})})
			token := bearer(tokenOf(t, nil))
			token["Content-Type"] = "text/plain"
			for i := range 30 {
				path := c.path
				if strings.Contains(path, "%d") {
					path = fmt.Sprintf(path, i)
				}
				resp := s.do(c.method, path, c.body, token)
				if resp.StatusCode != c.status {
					continue
				}
				p := readProblem(t, c.status, resp.Header.Get("Content-Type"), s.want(resp, c.status))
				if p.Reason != limit || (resp.Header.Get("Retry-After") == "") != (c.status == http.StatusRequestEntityTooLarge) {
					t.Errorf("%+v, Retry-After %q", p, resp.Header.Get("Retry-After"))
				}
				return
			}
			t.Error("nothing was refused")
		})
	}
}

// A project has at most its number of live readers; one that leaves makes room for another.
func TestReadersOverALimitAreRefused(t *testing.T) {
	s := newSite(t, Config{Judge: newJudge(t, limitedFile(t, "readers: 2"), access.Config{})})
	token := bearer(tokenOf(t, nil))
	token["Content-Type"] = "text/plain"
	s.put("/v1/stream/acme/rooms/a", "one", token)
	const live = "/v1/stream/acme/rooms/a?offset=-1&live=sse"
	first := s.do("GET", live, "", token)
	s.events(first, 1)
	s.events(s.do("GET", live, "", token), 1)
	p := readProblem(t, 429, "application/problem+json", s.want(s.do("GET", live, "", token), 429))
	if p.Reason != "limit_readers" {
		t.Errorf("%+v", p)
	}
	token["Accept"] = "text/event-stream"
	if b := s.want(s.do("GET", live, "", token), 200); !strings.HasPrefix(b, "retry: ") {
		t.Errorf("an EventSource hears %q", b)
	}
	_ = first.Body.Close()
	s.eventually("the reader has left", func() bool { return s.srv.cfg.Judge.Readers()["acme"] == 1 })
	delete(token, "Accept")
	s.events(s.do("GET", live, "", token), 1)
}
