package main

import (
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/edge/access"
)

// An operator's browser logs in with a token and gets a cookie, which is good at that address for twelve
// hours: for reads, and for what a page of the same origin sends. Nothing else opens the address, also
// once the file has lost its last token.
func TestOperatorLogsIn(t *testing.T) {
	t.Parallel()
	f := newSettingsFleet(t, 0, 0)
	path, admin := rightsOf(t, f.run)
	f.nodes = append(f.nodes, f.start(0, "--auth="+path))
	f.awaitReady()
	f.c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	base := "http://" + f.nodes[0].addr("admin")
	form := []string{"Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "same-origin"}
	login := func(status int, token string, header ...string) answer {
		t.Helper()
		return f.c.must(t, status, "POST", base+loginPath, url.Values{"token": {token}}.Encode(), header...)
	}
	page := f.c.must(t, 200, "GET", base+loginPath, "")
	if policy := page.header.Get("Content-Security-Policy"); !strings.Contains(policy, "frame-ancestors 'none'") || !strings.Contains(string(page.body), `type="password"`) {
		t.Errorf("%s %s", policy, page.body)
	}
	other, _ := access.NewAdminToken()
	login(401, other, form...)
	if a := login(401, `<script>`, form...); strings.Contains(string(a.body), "<script>") || a.header.Get("Set-Cookie") != "" {
		t.Errorf("%s", a.body)
	}
	login(401, strings.Repeat("x", 2*maxLoginBody), form...)
	login(403, admin, "Content-Type", form[1], "Sec-Fetch-Site", "cross-site")
	in := login(303, admin, form...)
	cookie, err := http.ParseSetCookie(in.header.Get("Set-Cookie"))
	if err != nil || cookie.Name != access.AdminCookie || !cookie.HttpOnly || !cookie.Secure || cookie.SameSite != http.SameSiteStrictMode || cookie.MaxAge != int((12*time.Hour).Seconds()) {
		t.Fatalf("%v (%v)", in.header, err)
	}
	by := []string{"Cookie", cookie.Name + "=" + cookie.Value}
	f.c.must(t, 200, "GET", base+"/metrics", "", by...)
	f.c.must(t, 401, "GET", base+"/metrics", "", "Cookie", cookie.Name+"="+cookie.Value+"x")
	f.c.must(t, 403, "POST", base+"/admin/drain", "", by...) // no browser said of which page
	f.c.must(t, 403, "POST", base+"/admin/drain", "", append(by, "Sec-Fetch-Site", "same-site")...)
	f.c.must(t, 400, "POST", base+"/admin/revoke", "{}", append(by, "Sec-Fetch-Site", "same-origin")...)
	out := f.c.must(t, 303, "POST", base+logoutPath, "", append(by, "Sec-Fetch-Site", "same-origin")...)
	if c, err := http.ParseSetCookie(out.header.Get("Set-Cookie")); err != nil || c.Name != access.AdminCookie || c.MaxAge >= 0 {
		t.Errorf("%v (%v)", out.header, err)
	}
	if !strings.Contains(f.nodes[0].log.String(), `"msg":"operator"`) || strings.Contains(f.nodes[0].log.String(), admin) {
		t.Error("the log does not tell of the login, or tells the token")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	open, _, _ := strings.Cut(string(b), "admin:")
	if err := os.WriteFile(path, []byte(open), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the login ends with its token", func() bool {
		a, err := f.c.do(t.Context(), "GET", base+"/metrics", "", by...)
		return err == nil && a.status == 401
	})
	f.c.must(t, 401, "GET", base+"/metrics", "", "Authorization", "Bearer "+admin)
	f.c.must(t, 401, "GET", base+"/metrics", "")
	if !strings.Contains(f.nodes[0].log.String(), "stays locked") {
		t.Error("the log does not say why")
	}
	f.c.must(t, 200, "GET", base+"/readyz", "")
}
