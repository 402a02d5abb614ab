package access

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func adminFile(tokens ...string) string {
	return "admin:\n  tokens:\n    - " + strings.Join(tokens, "\n    - ") + "\n"
}

// An admin token opens by itself or by a login; nothing else does.
func TestAdmin(t *testing.T) {
	t.Parallel()
	token, sum := NewAdminToken()
	other, otherSum := NewAdminToken()
	if len(token) != adminTokenBytes || token == other {
		t.Fatal(token)
	}
	var clock atomic.Int64
	clock.Store(time.Now().Unix())
	file := adminFile(fmt.Sprintf("{ name: ada, sha256: %s }", sum), fmt.Sprintf("{ name: bob, sha256: %s }", strings.ToUpper(otherSum)))
	j := judgeOf(t, file, Config{Now: func() time.Time { return time.Unix(clock.Load(), 0) }})
	key := []byte("a key of the fleet")
	set, ok := j.AdminLogin(token, key)
	if !ok {
		t.Fatal("no login")
	}
	c, err := http.ParseSetCookie(set)
	if err != nil || c.Name != "__Host-fantail-admin" || c.MaxAge != 12*3600 || !c.Secure || !c.HttpOnly || c.Path != "/" || c.SameSite != http.SameSiteStrictMode {
		t.Fatal(set, err)
	}
	cookie := "Cookie: " + c.Name + "=" + c.Value
	third, _ := NewAdminToken()
	const here = "Sec-Fetch-Site: same-origin"
	for name, row := range map[string]struct {
		r      *http.Request
		who    string
		status int
	}{
		"a token":                      {ask("POST", "/", "Authorization: Bearer "+token), "ada", 0},
		"another":                      {ask("GET", "/", "Authorization: Bearer "+other), "bob", 0},
		"one that is not in the file":  {ask("GET", "/", "Authorization: Bearer "+third), "", 401},
		"a part of one":                {ask("GET", "/", "Authorization: Bearer "+token[:46]), "", 401},
		"its sum":                      {ask("GET", "/", "Authorization: Bearer "+sum), "", 401},
		"nothing":                      {ask("GET", "/"), "", 401},
		"an empty field":               {ask("GET", "/", "Authorization:"), "", 401},
		"two":                          {ask("GET", "/", "Authorization: Bearer "+token, "Authorization: Bearer "+token), "", 401},
		"a login":                      {ask("GET", "/", cookie), "ada", 0},
		"a login for a change":         {ask("POST", "/", cookie, here), "ada", 0},
		"by another page":              {ask("POST", "/", cookie, "Sec-Fetch-Site: same-site"), "", 403},
		"by something else":            {ask("DELETE", "/", cookie), "", 403},
		"a bad token beats it":         {ask("GET", "/", cookie, "Authorization: Bearer "+third), "", 401},
		"a login twice":                {ask("GET", "/", cookie, cookie), "", 400},
		"a login of another":           {ask("GET", "/", strings.Replace(cookie, "=ada.", "=bob.", 1)), "", 401},
		"a login for longer":           {ask("GET", "/", strings.Replace(cookie, "=ada.", "=ada.9", 1)), "", 401},
		"a login without its MAC":      {ask("GET", "/", cookie[:len(cookie)-44]), "", 401},
		"an empty login":               {ask("GET", "/", "Cookie: __Host-fantail-admin="), "", 401},
		"the token as the cookie":      {ask("GET", "/", "Cookie: __Host-fantail-admin="+token), "", 401},
		"a name that only looks alike": {ask("GET", "/", "Cookie: __host-fantail-admin="+c.Value), "", 401},
	} {
		who, d := j.Admin(row.r, key)
		if who != row.who || (d == nil) != (row.status == 0) || d != nil && d.Status != row.status {
			t.Errorf("%s: %q %v", name, who, d)
		}
	}
	if _, d := j.Admin(ask("GET", "/", cookie), []byte("another key")); d == nil {
		t.Error("a login of another fleet")
	}
	for _, bad := range []string{"", "password", third, "fta_", strings.Repeat("a", 1<<20)} {
		if _, ok := j.AdminLogin(bad, key); ok {
			t.Errorf("a login with %.20q", bad)
		}
	}
	clock.Add(12 * 3600)
	if _, d := j.Admin(ask("GET", "/", cookie), key); reasonOf(d) != ReasonExpired {
		t.Errorf("after twelve hours: %v", d)
	}
	clock.Add(-3600)
	if err := j.adoptFile([]byte(adminFile(fmt.Sprintf("{ name: ada, sha256: %s }", otherSum)))); err != nil {
		t.Fatal(err)
	}
	if _, d := j.Admin(ask("GET", "/", cookie), key); d == nil {
		t.Error("a login outlives its token")
	}
	if out, err := http.ParseSetCookie(AdminLogout()); err != nil || out.MaxAge != -1 || out.Name != AdminCookie {
		t.Error(out, err)
	}
}

// A file that loses its last admin token opens nothing: the address stays locked, the log says so, and a
// token that the file has later is good.
func TestAdminStaysLocked(t *testing.T) {
	t.Parallel()
	token, sum := NewAdminToken()
	log := &recordedLog{}
	shop := shopFile(t)
	j := judgeOf(t, shop, Config{Logger: log.logger()})
	if j.NeedsAdminToken() || log.count("admin token") > 0 {
		t.Error("a file that never had an admin token locks the admin address")
	}
	locked := func(file string, may bool) {
		t.Helper()
		if err := j.adoptFile([]byte(file)); err != nil {
			t.Fatal(err)
		}
		_, denial := j.Admin(ask("POST", "/", "Authorization: Bearer "+token), nil)
		if !j.NeedsAdminToken() || may != (denial == nil) {
			t.Errorf("locked: %v; with the token: %v", j.NeedsAdminToken(), denial)
		}
		if _, denial := j.Admin(ask("GET", "/"), nil); denial == nil || denial.Status != http.StatusUnauthorized {
			t.Errorf("without a token: %v", denial)
		}
	}
	with := shop + adminFile("{ name: ada, sha256: "+sum+" }")
	locked(with, true)
	locked(shop, false)
	if n := log.count("stays locked"); n != 1 {
		t.Errorf("%d lines say that it stays locked", n)
	}
	locked(with, true)
}

func TestAdminTokensOfTheFile(t *testing.T) {
	t.Parallel()
	_, sum := NewAdminToken()
	password := sha256.Sum256([]byte("password"))
	k := judgeOf(t, adminFile("{ name: ada, sha256: "+hex.EncodeToString(password[:])+" }"), Config{})
	if _, ok := k.AdminToken("password"); ok {
		t.Error("a password opens the admin address")
	}
	for name, row := range map[string]struct{ file, says string }{
		"good":           {adminFile("{ name: ada, sha256: " + sum + " }"), ""},
		"a password":     {adminFile("{ name: ada, sha256: secret }"), "64 hexadecimal digits"},
		"half a sum":     {adminFile("{ name: ada, sha256: " + sum[:32] + " }"), "64 hexadecimal digits"},
		"no name":        {adminFile("{ sha256: " + sum + " }"), "1 to 64"},
		"a name in dots": {adminFile("{ name: a.b, sha256: " + sum + " }"), "1 to 64"},
		"a name twice":   {adminFile("{ name: a, sha256: "+sum+" }", "{ name: a, sha256: "+sum+" }"), "twice"},
		"no tokens":      {"admin: { tokens: [] }", "empty"},
		"public":         {"admin: { public: true }", "not found"},
	} {
		j := newJudge(Config{})
		err := j.adoptFile([]byte(row.file))
		if row.says == "" && (err != nil || !j.NeedsAdminToken()) || row.says != "" && (err == nil || !strings.Contains(err.Error(), row.says)) {
			t.Errorf("%s: %v, want %q", name, err, row.says)
		}
		j.Close()
	}
}
