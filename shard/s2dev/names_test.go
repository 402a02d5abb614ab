package s2dev

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// What s2-lite 0.43.4 answers to names and classes at the edge of what may be.
func TestNamesAndClasses(t *testing.T) {
	s := open(t, Config{Basins: []string{testBasin}})
	for _, c := range []struct {
		method, basin, path, body string
		status                    int
		want                      string
	}{
		{"GET", "no-such-basin", "streams", "", 404, "basin_not_found"},
		{"GET", testBasin, "streams", "", 200, "has_more"},
		{"PUT", testBasin, "streams/a", `{"storage_class":"glacier"}`, 201, `"a"`},
		{"GET", testBasin, "streams/a", "", 200, `"glacier"`},
		{"PATCH", testBasin, "streams/a", `{"storage_class":"another"}`, 200, `"another"`},
		{"PUT", testBasin, "streams/a%00b", "", 400, "NUL"},
		{"POST", testBasin, "streams", `{"stream":"a\u0000b"}`, 422, "NUL"},
		{"PUT", testBasin, "streams/" + strings.Repeat("n", 513), "", 400, "512"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, s.URL()+"/v1/"+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Close = true
		req.Header.Set("S2-Basin", c.basin)
		req.Header.Set("Content-Type", mimeJSON)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != c.status || !strings.Contains(string(b), c.want) {
			t.Errorf("%s %s: %d %s %v, want %d %s", c.method, c.path, resp.StatusCode, b, err, c.status, c.want)
		}
	}
}
