package page

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func get(t *testing.T, h http.Handler, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

var reference = regexp.MustCompile(`(?:src|href)="(/page/[^"]*)"|from "\./([^"]*)"|import\("\./([^"]*)"\)`)

// Every file that the page names is there, has its type, and may be kept by its tag. Nothing is loaded
// from elsewhere.
func TestPageIsWhole(t *testing.T) {
	h := NewHandler(Config{Playground: true, Connect: []string{"http://127.0.0.1:4437"}})
	types := map[string]string{"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml", "": "text/html; charset=utf-8", "config": "application/json"}
	seen, todo := map[string]bool{}, []string{"/", "/page/config"}
	for size := 0; len(todo) > 0; {
		path := todo[0]
		if todo = todo[1:]; seen[path] {
			continue
		}
		seen[path] = true
		a := get(t, h, path)
		body := a.Body.String()
		if size += len(body); size > 100<<10 {
			t.Error("the page is no longer small")
		}
		ext := path[strings.LastIndexAny(path, "./")+1:]
		if a.Code != http.StatusOK || a.Header().Get("Content-Type") != types[ext] {
			t.Errorf("%s: %d %s", path, a.Code, a.Header().Get("Content-Type"))
		}
		if again := get(t, h, path, "If-None-Match", a.Header().Get("ETag")); again.Code != http.StatusNotModified || again.Body.Len() > 0 {
			t.Errorf("%s: %d with its own tag", path, again.Code)
		}
		if policy := a.Header().Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") {
			t.Errorf("%s: policy %s", path, policy)
		}
		if strings.Contains(strings.ReplaceAll(body, "http://www.w3.org/2000/svg", ""), "https://") {
			t.Errorf("%s names another site", path)
		}
		for _, m := range reference.FindAllStringSubmatch(body, -1) {
			for _, name := range m[1:] {
				if name != "" {
					todo = append(todo, "/page/"+strings.TrimPrefix(name, "/page/"))
				}
			}
		}
	}
	if len(seen) != 10 { // the page, its configuration, style, icon and six modules
		t.Errorf("files: %v", seen)
	}
	if a := get(t, h, "/page/nothing"); a.Code != http.StatusNotFound {
		t.Errorf("no such file: %d", a.Code)
	}
}
