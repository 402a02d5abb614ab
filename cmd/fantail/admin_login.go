package main

import (
	"fmt"
	"html"
	"net/http"

	"github.com/fantail-dev/fantail/edge/access"
)

const (
	// loginPath is open, where the file of rights has admin tokens: an operator's browser exchanges a
	// token for a cookie here, because it can send no Authorization field by itself.
	loginPath  = "/admin/login"
	logoutPath = "/admin/logout"
	// maxLoginBody bounds the body of a login.
	maxLoginBody = 1 << 10
)

// loginPolicy lets the form be sent to this address alone, and allows neither scripts nor frames.
const loginPolicy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

const loginForm = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Fantail: log in</title>
<style>body { font: 1rem system-ui; max-width: 24rem; margin: 4rem auto } input, button { font: inherit; width: 100%%; box-sizing: border-box; margin-top: .5rem }</style>
<h1>Log in</h1>
<p role="status">%s</p>
<form method="post" action="` + loginPath + `">
<label>Admin token <input type="password" name="token" autocomplete="current-password" required autofocus></label>
<button>Log in</button>
</form>
</html>
`

func writeLoginForm(w http.ResponseWriter, status int, says string) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", loginPolicy)
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, loginForm, html.EscapeString(says))
}

// handleLoginForm answers with the form.
func (n *node) handleLoginForm(w http.ResponseWriter, _ *http.Request) {
	if n.canLogIn(w) {
		writeLoginForm(w, http.StatusOK, "Tokens are made by fantail token admin, and listed in the file of rights.")
	}
}

// handleLogin exchanges a token for a cookie.
func (n *node) handleLogin(w http.ResponseWriter, r *http.Request) {
	if !n.canLogIn(w) {
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxLoginBody)
	token := r.PostFormValue("token")
	cookie, ok := n.judge.AdminLogin(token, n.adminCookieKey[:])
	if !ok {
		writeLoginForm(w, http.StatusUnauthorized, "This is not one of the admin tokens of the file of rights.")
		return
	}
	name, _ := n.judge.AdminToken(token)
	n.cfg.log.Info("operator", "token", name, "method", r.Method, "path", loginPath)
	w.Header().Set("Set-Cookie", cookie)
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// handleLogout ends a login.
func (n *node) handleLogout(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Set-Cookie", access.AdminLogout())
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, loginPath, http.StatusSeeOther)
}

// canLogIn answers a request to a node that has no tokens to log in by, and returns false.
func (n *node) canLogIn(w http.ResponseWriter) bool {
	if n.judge != nil && n.judge.NeedsAdminToken() {
		return true
	}
	http.Error(w, "logins need --auth with a file that has admin tokens; the token of --admin-token-file is sent as Authorization: Bearer TOKEN", http.StatusNotFound)
	return false
}
