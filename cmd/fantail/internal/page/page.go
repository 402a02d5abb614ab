// Package page has the page that a browser shows of a node, and of a fleet of `fantail dev`. Its files
// are embedded, and load nothing from anywhere else. It holds no state and no goroutine; what it shows
// comes from the JSON of the admin address, which the page asks for by itself.
package page

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"mime"
	"net/http"
	"path"
	"strings"
)

//go:embed assets
var assets embed.FS

// Config holds what the page needs to know before it asks for anything. Every client that reaches
// the address may see it.
type Config struct {
	// Playground has the page write, read, kill and start nodes, by the paths below /dev/.
	Playground bool `json:"playground"`
	// Connect has the origins, besides its own, that the page may talk to.
	Connect []string `json:"-"`
}

// Paths returns the paths of the page's files, for a mux: the page itself is GET /{$}.
func Paths() []string { return []string{"GET /{$}", "GET /page/"} }

// IsPath reports whether a path is the page's or one of its files.
func IsPath(p string) bool { return p == "/" || strings.HasPrefix(p, "/page/") }

// file is an embedded file, ready to be served.
type file struct {
	body      []byte
	kind, tag string
}

// NewHandler returns the handler of the page and its files.
func NewHandler(c Config) http.Handler {
	files := map[string]file{}
	entries, _ := assets.ReadDir("assets") // what is embedded can be read
	for _, e := range entries {
		body, _ := assets.ReadFile("assets/" + e.Name())
		files["/page/"+e.Name()] = newFile(body, contentType(e.Name()))
	}
	files["/"] = files["/page/index.html"]
	config, _ := json.Marshal(c)
	files["/page/config"] = newFile(config, "application/json")
	policy := c.policy()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		setHeaders(w.Header(), policy)
		w.Header().Set("Content-Type", f.kind)
		w.Header().Set("ETag", f.tag)
		if r.Header.Get("If-None-Match") == f.tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = w.Write(f.body)
	})
}

func newFile(body []byte, kind string) file {
	sum := sha256.Sum256(body)
	return file{body, kind, `"` + hex.EncodeToString(sum[:8]) + `"`}
}

// contentType returns the type of a file. It does not depend on the machine's tables.
func contentType(name string) string {
	switch ext := path.Ext(name); ext {
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	default:
		return mime.TypeByExtension(ext)
	}
}

// policy returns the Content-Security-Policy: the page's own files, its own address, and what Connect
// names. No markup from a string, no form that goes anywhere, no frame around it.
func (c *Config) policy() string {
	connect := append([]string{"'self'"}, c.Connect...)
	return "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src " + strings.Join(connect, " ") +
		"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
}

func setHeaders(h http.Header, policy string) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-cache")
}
