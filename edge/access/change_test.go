package access

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// lease returns the lease of an allowed read.
func lease(t testing.TB, j *Judge, r *http.Request, project, name string) Lease {
	t.Helper()
	v, d := j.Decide(r, project, name, Read)
	if d != nil {
		t.Fatal(d)
	}
	return v.Lease
}

func (j *Judge) endNow(l Lease) End {
	why, _ := j.CheckLease(l, j.env.second())
	return why
}

// A change of rights ends the leases of what has changed over a minute, and no others; requests
// are judged by the new rights immediately.
func TestChangeOfTheFileEndsLeases(t *testing.T) {
	t.Parallel()
	file := shopFile(t)
	j := judgeOf(t, file, Config{})
	app := ask("GET", "/", "Authorization: Bearer "+appToken(t, nil))
	public := ask("GET", "/")
	signed := ask("GET", "/"+signedQuery("k1", "acme/p", time.Now().Unix()+60))
	gate := ask("GET", "/", "X-Gateway-Assertion: "+signToken(t, map[string]any{"alg": "HS256"}, about("gateway", "g", map[string]any{"aud": "fantail"}), testSecret))
	for name, row := range map[string]struct {
		old, new                  string
		app, public, signed, gate End
	}{
		"origins alone":         {`"https://app.example", `, ``, EndNone, EndNone, EndNone, EndNone},
		"the age of public":     {`public_age: 20s`, `public_age: 10s`, EndNone, EndNone, EndNone, EndNone},
		"limits":                {`public_age: 20s`, `limits: { requests: 5 }`, EndNone, EndNone, EndNone, EndNone},
		"a comment":             {`  acme:`, "# well\n  acme:", EndNone, EndNone, EndNone, EndNone},
		"a grant of an issuer":  {`"rooms/**", `, `"rooms/1", `, EndChanged, EndNone, EndNone, EndNone},
		"the lifetime of ones":  {`iss: app`, "iss: app\n    max_ttl: 2h", EndChanged, EndNone, EndNone, EndNone},
		"an issuer's name":      {`iss: app`, "iss: other", EndRevoked, EndNone, EndNone, EndNone},
		"what is public":        {`streams: ["lobby/**"]`, `streams: ["lobby/*"]`, EndChanged, EndChanged, EndChanged, EndNone},
		"a secret's name":       {`kid: k1`, `kid: k2`, EndChanged, EndChanged, EndRevoked, EndNone},
		"another project alone": {`beta: { cookie: __session }`, `beta: { public: [ { actions: [read], names: [x] } ] }`, EndNone, EndNone, EndNone, EndChanged},
	} {
		t.Run(name, func(t *testing.T) {
			if err := j.adoptFile([]byte(file)); err != nil {
				t.Fatal(err)
			}
			leases := map[string]Lease{
				"app": lease(t, j, app, "acme", "rooms/1"), "public": lease(t, j, public, "acme", "lobby/1"),
				"signed": lease(t, j, signed, "acme", "p"), "gate": lease(t, j, gate, "beta", "gate/1"),
			}
			generation, changed := j.ChangeCount(), j.Changed()
			next := strings.Replace(file, row.old, row.new, 1)
			if next == file {
				t.Fatal("nothing was replaced")
			}
			if err := j.adoptFile([]byte(next)); err != nil {
				t.Fatal(err)
			}
			if <-changed; j.ChangeCount() == generation {
				t.Error("the generation is the same")
			}
			want := map[string]End{"app": row.app, "public": row.public, "signed": row.signed, "gate": row.gate}
			now := j.env.second()
			for of, l := range leases {
				if got := j.endNow(l); got != want[of] {
					t.Errorf("%s: %q, want %q", of, got, want[of])
				}
				if stays := j.Stays(l, now); stays != (want[of] != EndRevoked) {
					t.Errorf("%s stays: %v", of, stays)
				}
				if l.until = 0; j.Stays(l, now+changeSpread+1) != (want[of] == EndNone) {
					t.Errorf("%s stays after the time for it: %v", of, want[of] != EndNone)
				}
			}
		})
	}
}

// A token that was verified before is judged by the new rights immediately, by a new verification.
func TestRequestsAreJudgedByTheNewRights(t *testing.T) {
	t.Parallel()
	file := shopFile(t)
	j := judgeOf(t, file, Config{})
	r := ask("GET", "/", "Authorization: Bearer "+appToken(t, nil))
	lease(t, j, r, "acme", "rooms/2")
	if err := j.adoptFile([]byte(strings.Replace(file, `"rooms/**", `, `"rooms/1", `, 1))); err != nil {
		t.Fatal(err)
	}
	if _, d := j.Decide(r, "acme", "rooms/2", Read); reasonOf(d) != ReasonNotGranted {
		t.Error(d)
	}
	lease(t, j, r, "acme", "rooms/1")
	other := writeFile(t, "other", []byte(testSecret+"2"))
	if err := j.adoptFile([]byte(strings.Replace(file, strings.Split(strings.Split(file, "secret: ")[1], " ")[0], other, 1))); err != nil {
		t.Fatal(err)
	}
	if _, d := j.Decide(r, "acme", "rooms/1", Read); reasonOf(d) != ReasonBadSignature {
		t.Errorf("with another key: %v", d)
	}
}

// A key that the file drops ends its leases immediately; one that it keeps does not.
func TestKeyThatTheFileDropsEndsLeases(t *testing.T) {
	t.Parallel()
	file := shopFile(t)
	j := judgeOf(t, file, Config{})
	l := lease(t, j, ask("GET", "/", "Authorization: Bearer "+appToken(t, nil)), "acme", "rooms/1")
	other := writeFile(t, "other", []byte(testSecret+"2"))
	path := strings.Split(strings.Split(file, "secret: ")[1], " ")[0]
	if err := os.WriteFile(path, []byte(testSecret+"\n"), 0o600); err != nil { // the same secret
		t.Fatal(err)
	}
	if err := j.adoptFile([]byte(file)); err != nil {
		t.Fatal(err)
	}
	if end := j.endNow(l); end != EndNone {
		t.Errorf("nothing has changed: %q", end)
	}
	if err := j.adoptFile([]byte(strings.Replace(file, path, other, 1))); err != nil {
		t.Fatal(err)
	}
	if end := j.endNow(l); end != EndRevoked {
		t.Errorf("%q", end)
	}
}

// The file is read again when it changes, and so are the files that it names. One with an error
// keeps the rights in force.
func TestFileIsReadAgain(t *testing.T) {
	t.Parallel()
	file := shopFile(t)
	secret := strings.Split(strings.Split(file, "secret: ")[1], " ")[0]
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "auth.yaml")
		write := func(path, text string) {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(path, file)
		log := &recordedLog{}
		j, err := Open(t.Context(), Config{Path: path, Logger: log.logger()})
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		hash := j.Hash()
		r := ask("GET", "/", "Authorization: Bearer "+appToken(t, map[string]any{"exp": time.Now().Unix() + 3600}))
		may := func(name string) bool {
			_, d := j.Decide(r, "acme", name, Read)
			return d == nil
		}
		if !may("rooms/2") || may("halls/2") {
			t.Fatal("not as the file says")
		}
		write(path, strings.Replace(file, "rooms/**", "halls/**", 1))
		advance(20 * time.Second)
		if may("rooms/2") || !may("halls/2") || j.Hash() == hash {
			t.Error("the change is not in force")
		}
		write(path, "issuers: [")
		advance(5 * time.Minute)
		if !may("halls/2") {
			t.Error("an error has taken the rights away")
		}
		if n := log.count("an error"); n < 4 || n > 6 {
			t.Errorf("%d lines in five minutes", n)
		}
		write(path, file)
		advance(20 * time.Second)
		if !may("rooms/2") || j.Hash() != hash {
			t.Error("the file is good again, and not in force")
		}
		write(secret, testSecret+" and more")
		advance(20 * time.Second)
		if may("rooms/2") {
			t.Error("the secret is another, and the old one holds")
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		advance(time.Minute)
		if _, d := j.Decide(ask("GET", "/"), "acme", "lobby/1", Read); d != nil {
			t.Errorf("a file that is gone has taken the rights away: %v", d)
		}
	})
}

// A file is a regular one, also behind links, as Kubernetes makes them. A pipe would block, and a device
// need not end: both are refused, at the start and later, and so are those that the file names.
func TestFilesAreRegular(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pipe, link, file := filepath.Join(dir, "pipe"), filepath.Join(dir, "link"), filepath.Join(dir, "file")
	shop := shopFile(t)
	secret := strings.Split(strings.Split(shop, "secret: ")[1], " ")[0]
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), os.WriteFile(file, []byte(shop), 0o600), os.Symlink("file", link)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, "/dev/zero", dir} {
		if _, err := Open(t.Context(), Config{Path: path}); err == nil || !strings.Contains(err.Error(), "no regular file") {
			t.Errorf("%s: %v", path, err)
		}
		j := newJudge(Config{})
		if err := j.adoptFile([]byte(strings.Replace(shop, secret, path, 1))); err == nil || !strings.Contains(err.Error(), "no regular file") {
			t.Errorf("a secret in %s: %v", path, err)
		}
		j.Close()
		if _, err := readBounded(path); err == nil { // a key set, a certificate or a token for the key server
			t.Errorf("keys in %s are read", path)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		log := &recordedLog{}
		j, err := Open(t.Context(), Config{Path: link, Logger: log.logger()})
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		hash := j.Hash()
		if err := errors.Join(os.Remove(link), os.Symlink("pipe", link)); err != nil {
			t.Fatal(err)
		}
		advance(30 * time.Second)
		if j.Hash() != hash || log.count("no regular file") != 1 {
			t.Errorf("%d lines", log.count("no regular file"))
		}
		if err := errors.Join(os.WriteFile(file, []byte(shop+"\n# more\n"), 0o600), os.Remove(link), os.Symlink("file", link)); err != nil {
			t.Fatal(err)
		}
		advance(30 * time.Second)
		if j.Hash() == hash {
			t.Error("the file is a regular one again, and not in force")
		}
	})
}

// Kubernetes changes a mounted file by one link: path -> ..data/path, ..data -> a folder of that time.
// The file and what it names are of one folder then, and a swap in the middle of a read does not count.
func TestFileChangesByLinks(t *testing.T) {
	t.Parallel()
	shop := shopFile(t)
	secret := strings.Split(strings.Split(shop, "secret: ")[1], " ")[0]
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		version := func(name, rooms, key string) {
			file := strings.Replace(strings.Replace(shop, secret, filepath.Join(dir, "secret"), 1), "rooms/**", rooms, 1)
			if err := errors.Join(os.Mkdir(filepath.Join(dir, name), 0o700),
				os.WriteFile(filepath.Join(dir, name, "auth.yaml"), []byte(file), 0o600),
				os.WriteFile(filepath.Join(dir, name, "secret"), []byte(key), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		swap := func(name string) {
			if err := errors.Join(os.Symlink(name, filepath.Join(dir, "..new")), os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, "..data"))); err != nil {
				t.Fatal(err)
			}
		}
		version("..1", "rooms/**", testSecret)
		swap("..1")
		if err := errors.Join(os.Symlink("..data/auth.yaml", filepath.Join(dir, "auth.yaml")), os.Symlink("..data/secret", filepath.Join(dir, "secret"))); err != nil {
			t.Fatal(err)
		}
		j, err := Open(t.Context(), Config{Path: filepath.Join(dir, "auth.yaml")})
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		may := func(key, name string) bool {
			claims := about("app", "ada", map[string]any{"aud": "fantail"})
			_, d := j.Decide(ask("GET", "/", "Authorization: Bearer "+signToken(t, map[string]any{"alg": "HS256"}, claims, key)), "acme", name, Read)
			return d == nil
		}
		if !may(testSecret, "rooms/2") {
			t.Fatal("not as the file says")
		}
		const other = testSecret + " of the second version"
		version("..2", "halls/**", other)
		swap("..2")
		advance(20 * time.Second)
		if may(testSecret, "halls/2") || !may(other, "halls/2") || may(other, "rooms/2") {
			t.Error("after a swap: not the rights and the secret of one version")
		}
		for range 20 { // links that flap never show half of each
			swap("..1")
			advance(settleTime / 2)
			swap("..2")
			advance(settleTime / 2)
			if may(other, "rooms/2") || may(testSecret, "halls/2") {
				t.Fatal("rights of one version with the secret of the other")
			}
		}
		swap("..1")
		advance(30 * time.Second)
		if !may(testSecret, "rooms/2") {
			t.Error("the first version is back, and not in force")
		}
	})
}

// A file that keeps changing, as one that is being written, does not count.
func TestFileCountsWhenItHasSettled(t *testing.T) {
	t.Parallel()
	file := shopFile(t)
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "auth.yaml")
		part := file[:strings.Index(file, "      - { when: { role: [admin] }")]
		if err := os.WriteFile(path, []byte(part), 0o600); err != nil {
			t.Fatal(err)
		}
		go func() {
			advance(settleTime / 2)
			_ = os.WriteFile(path, []byte(file), 0o600)
		}()
		j, err := Open(t.Context(), Config{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		if j.Hash() != fileHash([]byte(file)) {
			t.Error("the file counted in the middle of being written")
		}
	})
	if _, err := Open(t.Context(), Config{Path: filepath.Join(t.TempDir(), "absent")}); err == nil {
		t.Error("a file that is not there is opened")
	}
}

// A revocation reaches requests, leases and signed URLs that it is about, and no others.
func TestRevocations(t *testing.T) {
	t.Parallel()
	now := time.Now().Unix()
	claims := map[string]any{"jti": "t1", "iat": now - 10}
	for name, row := range map[string]struct {
		q              RevokeRequest
		claims         map[string]any
		token, another bool // are revoked
		url            bool
	}{
		"by subject":               {q: RevokeRequest{Issuer: "app", Subject: "ada"}, token: true},
		"by another subject":       {q: RevokeRequest{Issuer: "app", Subject: "adam"}},
		"by an issuer's":           {q: RevokeRequest{Issuer: "gateway", Subject: "ada"}},
		"by id":                    {q: RevokeRequest{Issuer: "app", ID: "t1"}, token: true},
		"by another id":            {q: RevokeRequest{Issuer: "app", ID: "ada"}},
		"the whole issuer":         {q: RevokeRequest{Issuer: "app", All: true}, token: true, another: true},
		"before it was issued":     {q: RevokeRequest{Issuer: "app", Subject: "ada", Before: uint32(now - 11)}},
		"when it was issued":       {q: RevokeRequest{Issuer: "app", Subject: "ada", Before: uint32(now - 10)}, token: true},
		"a token without a time":   {q: RevokeRequest{Issuer: "app", Subject: "ada", Before: uint32(now - 1000)}, claims: map[string]any{"iat": nil}, token: true},
		"blocked whenever issued":  {q: RevokeRequest{Issuer: "app", Subject: "ada", BlockUntil: uint32(now + 60)}, claims: map[string]any{"iat": now + 20}, token: true},
		"in its project":           {q: RevokeRequest{Issuer: "app", Subject: "ada", Project: "acme"}, token: true},
		"in another project":       {q: RevokeRequest{Issuer: "app", Subject: "ada", Project: "beta"}},
		"a key of signed URLs":     {q: RevokeRequest{Project: "acme", KID: "k1"}, url: true},
		"another project's key":    {q: RevokeRequest{Project: "beta", KID: "k1"}},
		"another key":              {q: RevokeRequest{Project: "acme", KID: "k2"}},
		"an issuer's key by name":  {q: RevokeRequest{Issuer: "app", Key: thumbprint([]byte(testSecret))}, token: true, another: true},
		"another issuer's by name": {q: RevokeRequest{Issuer: "gateway", Key: thumbprint([]byte(testSecret))}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := judgeOf(t, shopFile(t), Config{})
			c := maps.Clone(claims)
			maps.Copy(c, row.claims)
			asks := map[string]*http.Request{
				"token":   ask("GET", "/", "Authorization: Bearer "+appToken(t, c)),
				"another": ask("GET", "/", "Authorization: Bearer "+appToken(t, map[string]any{"sub": "bob"})),
				"url":     ask("GET", "/"+signedQuery("k1", "acme/rooms/1", now+60)),
			}
			leases := map[string]Lease{}
			for of, r := range asks {
				leases[of] = lease(t, j, r, "acme", "rooms/1")
			}
			message, err := j.Revocations().Entry(row.q)
			if err != nil {
				t.Fatal(err)
			}
			for of, r := range asks {
				if _, d := j.Decide(r, "acme", "rooms/1", Read); d != nil {
					t.Errorf("%s is revoked before the stream says so: %v", of, d)
				}
			}
			changed := j.Changed()
			if err := j.Revocations().Apply(message, "7"); err != nil || j.Revocations().Position() != "7" {
				t.Fatal(err, j.Revocations().Position())
			}
			<-changed
			for of, want := range map[string]bool{"token": row.token, "another": row.another, "url": row.url} {
				_, d := j.Decide(asks[of], "acme", "rooms/1", Read)
				if got := reasonOf(d) == ReasonRevoked; got != want {
					t.Errorf("%s: %v, want %v", of, d, want)
				}
				if got := j.endNow(leases[of]) == EndRevoked; got != want || j.Stays(leases[of], j.env.second()) == want {
					t.Errorf("the lease of %s: %v, want %v", of, got, want)
				}
			}
		})
	}
}

// What the fleet has not made revokes nothing.
func TestForgedRevocationsAreIgnored(t *testing.T) {
	t.Parallel()
	old, new := RevocationKey([]byte("old")), RevocationKey([]byte("new"))
	j := judgeOf(t, shopFile(t), Config{RevocationKeys: [][]byte{new, old}})
	elsewhere := judgeOf(t, shopFile(t), Config{RevocationKeys: [][]byte{RevocationKey([]byte("x"))}})
	before := judgeOf(t, shopFile(t), Config{RevocationKeys: [][]byte{old}})
	q := RevokeRequest{Issuer: "app", Subject: "ada"}
	entry := func(j *Judge) string {
		b, err := j.Revocations().Entry(q)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	mine := entry(j)
	for name, bad := range map[string]string{
		"of another fleet": entry(elsewhere),
		"of anybody":       `{"v":1,"issuer":"app","sub":"ada","before":4294967295,"until":4294967295,"mac":""}`,
		"changed":          strings.Replace(mine, `"ada"`, `"bob"`, 1),
		"moved":            strings.Replace(mine, `"sub"`, `"id"`, 1),
		"of tomorrow":      strings.Replace(mine, `"v":1`, `"v":2`, 1),
		"with more":        strings.Replace(mine, `"v":1`, `"v":1,"x":1`, 1),
		"no JSON":          "hello",
		"nothing":          "",
		"a broken array":   "[" + mine,
	} {
		if err := j.Revocations().Apply([]byte(bad), "1"); err == nil || len(j.Revocations().List()) != 0 {
			t.Errorf("%s: %v %v", name, err, j.Revocations().List())
		}
	}
	if err := j.Revocations().Apply([]byte("["+mine+","+entry(before)+","+entry(elsewhere)+"]"), "2"); err == nil {
		t.Error("a forged one among good ones is not told of")
	}
	if n := len(j.Revocations().List()); n != 1 { // both are the same
		t.Errorf("%d hold", n)
	}
}

// New secrets of the fleet make good what was taken for forged, once it is read again; what holds goes on
// to hold, and the first key makes new ones.
func TestRevocationKeysAreReplaced(t *testing.T) {
	t.Parallel()
	old, new := RevocationKey([]byte("old")), RevocationKey([]byte("new"))
	judge := func(keys ...[]byte) *Revocations {
		return judgeOf(t, shopFile(t), Config{RevocationKeys: keys}).Revocations()
	}
	entry := func(r *Revocations, subject string) []byte {
		b, err := r.Entry(RevokeRequest{Issuer: "app", Subject: subject})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	began, rotated := judge(old), judge(new, old)
	ada, bob := entry(began, "ada"), entry(rotated, "bob")
	apply := func(b []byte, good bool, hold int) {
		t.Helper()
		if err := began.Apply(b, "1"); good != (err == nil) || len(began.List()) != hold {
			t.Errorf("%v, %d hold", err, len(began.List()))
		}
	}
	apply(ada, true, 1)
	apply(bob, false, 1)
	for _, row := range []struct {
		keys    [][]byte
		changed bool
	}{{nil, false}, {[][]byte{old}, false}, {[][]byte{old, new}, true}, {[][]byte{old, new}, false}, {[][]byte{new, old}, true}} {
		if began.SetKeys(row.keys) != row.changed {
			t.Errorf("%d keys: want changed %v", len(row.keys), row.changed)
		}
	}
	if n := began.Rejected(); n != 0 {
		t.Errorf("%d are said to be forged, before they are looked at again", n)
	}
	apply(bob, true, 2)
	if began.SetKeys([][]byte{new}); judge(new).Apply(entry(began, "eve"), "2") != nil {
		t.Error("the first key does not make new ones")
	}
	apply(ada, false, 2) // of a secret that is no longer the fleet's, and it holds already
}

// Requests to revoke that say nothing, or too much, are errors.
func TestRevokeRequestsAreChecked(t *testing.T) {
	t.Parallel()
	j := judgeOf(t, shopFile(t), Config{})
	for body, want := range map[string]bool{
		`{"issuer":"app","sub":"ada"}`:                 true,
		`{"issuer":"app","all":true}`:                  true,
		`{"project":"acme","kid":"k1"}`:                true,
		`{}`:                                           false,
		`{"issuer":"app"}`:                             false,
		`{"sub":"ada"}`:                                false,
		`{"issuer":"app","sub":"ada","id":"x"}`:        false,
		`{"issuer":"app","sub":"ada","all":true}`:      false,
		`{"kid":"k1"}`:                                 false,
		`{"issuer":"app","kid":"k1","project":"acme"}`: false,
		`{"issuer":"app","sub":"ada","before":5,"block_until":6}`:     false,
		`{"issuer":"app","sub":"ada","until":5}`:                      false,
		`{"issuer":"app","sub":"ada"} {}`:                             false,
		`{"issuer":"other","sub":"ada"}`:                              false,
		`{"issuer":"app","sub":"ada","before":5}`:                     false, // holds no longer
		`{"issuer":"app","key":"k","before":5}`:                       false,
		`{"issuer":"app","sub":"` + strings.Repeat("a", 2000) + `"}`:  false,
		`{"issuer":"app","sub":"ada","before":"2026-01-01T00:00:00"}`: false,
	} {
		q, err := ParseRevokeRequest([]byte(body))
		if err == nil {
			_, err = j.Revocations().Entry(q)
		}
		if (err == nil) != want {
			t.Errorf("%.80s: %v", body, err)
		}
	}
}

// The list has a bound, and what holds no longer leaves it.
func TestRevocationsAreBoundedAndEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := judgeOf(t, shopFile(t), Config{})
		r := j.Revocations()
		until := uint32(time.Now().Add(time.Hour).Unix())
		for i := range MaxRevocations {
			b, err := r.Entry(RevokeRequest{Issuer: "app", Subject: fmt.Sprint(i), BlockUntil: until})
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Apply(b, fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := r.Entry(RevokeRequest{Issuer: "app", Subject: "more"}); err == nil {
			t.Error("one more is taken")
		}
		list := r.List()
		b, err := json.Marshal(list[0])
		if err != nil || len(list) != MaxRevocations || !strings.Contains(string(b), `"sub":"0"`) {
			t.Fatalf("%d %s %v", len(list), b, err)
		}
		<-time.After(time.Hour)
		if n := len(r.List()); n != 0 {
			t.Errorf("%d hold after their time", n)
		}
		if _, err := r.Entry(RevokeRequest{Issuer: "app", Subject: "more"}); err != nil {
			t.Error(err)
		}
	})
}

// A key that its issuer drops ends its leases and its tokens, after two fetches without it.
func TestWithdrawnKeyEndsLeases(t *testing.T) {
	t.Parallel()
	k := testKeys()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "jwks.json")
		write := func(b []byte) {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(keySetOf(jwk("a", k.rsa), jwk("b", k.ec)))
		j := judgeOf(t, `
issuers:
  - iss: i
    keys: { jwks: "file://`+path+`" }
    audience: [fantail]
    projects: [acme]
    grants: [ { actions: [read], streams: ["**"] } ]
`, Config{})
		if ready, missing := j.Ready(); !ready || missing != nil {
			t.Fatal(missing)
		}
		claims := about("i", "ada", map[string]any{"aud": "fantail"})
		a := ask("GET", "/", "Authorization: Bearer "+signToken(t, map[string]any{"alg": "RS256", "kid": "a"}, claims, k.rsa))
		b := ask("GET", "/", "Authorization: Bearer "+signToken(t, map[string]any{"alg": "ES256", "kid": "b"}, claims, k.ec))
		la, lb := lease(t, j, a, "acme", "x"), lease(t, j, b, "acme", "x")
		write(keySetOf(jwk("b", k.ec, "alg", "ES256")))
		advance(withdrawAfter / 2)
		if j.endNow(la) != EndNone {
			t.Error("the key is withdrawn by one set without it")
		}
		lease(t, j, a, "acme", "x")
		changed := j.Changed()
		advance(withdrawAfter)
		<-changed
		if j.endNow(la) != EndRevoked || j.endNow(lb) != EndNone {
			t.Errorf("%q %q", j.endNow(la), j.endNow(lb))
		}
		if _, d := j.Decide(a, "acme", "x", Read); reasonOf(d) != ReasonUnknownKey {
			t.Error(d)
		}
		lease(t, j, b, "acme", "x")
	})
}

// A node is ready when each issuer has keys, or has had a minute to bring them.
func TestReadyWaitsForKeysForAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "jwks.json")
		log := &recordedLog{}
		j := judgeOf(t, `
issuers:
  - iss: i
    keys: { jwks: "file://`+path+`" }
    audience: [fantail]
    projects: [acme]
`, Config{Logger: log.logger()})
		if ready, missing := j.Ready(); ready || len(missing) != 1 {
			t.Fatal(ready, missing)
		}
		advance(50 * time.Second)
		if ready, _ := j.Ready(); ready {
			t.Error("ready too early")
		}
		advance(20 * time.Second)
		if ready, missing := j.Ready(); !ready || len(missing) != 1 {
			t.Error(ready, missing)
		}
		_, d := j.Decide(ask("GET", "/", "Authorization: Bearer "+signToken(t, map[string]any{"alg": "RS256", "kid": "a"}, about("i", "ada", map[string]any{"aud": "fantail"}), testKeys().rsa)), "acme", "x", Read)
		if d == nil || d.Status != 503 || d.RetryAfter == 0 {
			t.Error(d)
		}
		advance(5 * time.Minute)
		if n := log.count("answered 503"); n == 0 {
			t.Error("the log says nothing of it")
		}
		if err := os.WriteFile(path, keySetOf(jwk("a", testKeys().rsa)), 0o600); err != nil {
			t.Fatal(err)
		}
		advance(time.Minute)
		if ready, missing := j.Ready(); !ready || missing != nil {
			t.Error(ready, missing)
		}
		if age, ok := j.KeyAges()["i"]; !ok || age > time.Minute {
			t.Error(age, ok)
		}
	})
}

// A revocation in one project counts there, whatever the token was used for before.
func TestRevocationInOneProject(t *testing.T) {
	t.Parallel()
	j := judgeOf(t, shopFile(t), Config{})
	r := ask("GET", "/", "X-Gateway-Assertion: "+signToken(t, map[string]any{"alg": "HS256"}, about("gateway", "g", map[string]any{"aud": "fantail"}), testSecret))
	b, err := j.Revocations().Entry(RevokeRequest{Issuer: "gateway", Subject: "g", Project: "beta"})
	if err != nil {
		t.Fatal(err)
	}
	acme, beta := lease(t, j, r, "acme", "gate/1"), lease(t, j, r, "beta", "gate/1")
	if err := j.Revocations().Apply(b, "1"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		lease(t, j, r, "acme", "gate/1")
		if _, d := j.Decide(r, "beta", "gate/1", Read); reasonOf(d) != ReasonRevoked {
			t.Error(d)
		}
	}
	if j.endNow(acme) != EndNone || j.endNow(beta) != EndRevoked {
		t.Errorf("%q %q", j.endNow(acme), j.endNow(beta))
	}
}

// Projects behind a prefix have their settings in common, and their tokens apart.
func TestProjectsBehindAPrefix(t *testing.T) {
	t.Parallel()
	secret := writeFile(t, "secret", []byte(testSecret))
	file := `
issuers:
  - iss: app
    keys: { secret: ` + secret + ` }
    audience: [fantail]
    project_claim: org
    project_prefix: org-
    grants: [ { actions: [read], streams: ["**"] } ]
projects:
  org-*: { public: [ { actions: [read], names: [lobby] } ], origins: ["https://app.example"] }
`
	j := judgeOf(t, file, Config{})
	r := ask("GET", "/", "Authorization: Bearer "+appToken(t, map[string]any{"org": "a"}))
	l := lease(t, j, r, "org-a", "x")
	for project, want := range map[string]Reason{"org-b": ReasonWrongProject, "a": ReasonWrongProject, "org-": ReasonWrongProject, "org-*": ReasonWrongProject, "org-a/b": ReasonWrongProject} {
		if _, d := j.Decide(r, project, "x", Read); reasonOf(d) != want {
			t.Errorf("%s: %v", project, d)
		}
	}
	lease(t, j, ask("GET", "/"), "org-b", "lobby")
	if _, d := j.Decide(ask("GET", "/"), "org-", "lobby", Read); reasonOf(d) != ReasonNoCredential {
		t.Errorf("a project without a name is public: %v", d)
	}
	if !j.Origins("org-b").Allows("https://app.example") || j.Origins("other") != nil {
		t.Error("the origins of projects behind a prefix")
	}
	revoke := func(project string) {
		b, err := j.Revocations().Entry(RevokeRequest{Issuer: "app", Subject: "ada", Project: project})
		if err == nil {
			err = j.Revocations().Apply(b, "1")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := j.Revocations().Entry(RevokeRequest{Issuer: "app", Subject: "ada", Project: "acme"}); err == nil || j.endNow(l) != EndNone {
		t.Errorf("a project that is not configured: %v", err)
	}
	revoke("org-b") // may end the lease, and must not refuse the token
	lease(t, j, r, "org-a", "x")
	revoke("org-a")
	if _, d := j.Decide(r, "org-a", "x", Read); reasonOf(d) != ReasonRevoked || j.endNow(l) != EndRevoked {
		t.Error(d)
	}
	for name, bad := range map[string]string{"a prefix that no issuer has": "  orgs-*: {", "a project in its reach": "  a*: {"} {
		k := newJudge(Config{})
		if err := k.adoptFile([]byte(strings.Replace(file, "  org-*: {", bad, 1))); err == nil {
			t.Errorf("%s is taken", name)
		}
		k.Close()
	}
}

// A second change of rights gives the readers of the first no more time.
func TestFirstChangeCounts(t *testing.T) {
	t.Parallel()
	file := shopFile(t)
	synctest.Test(t, func(t *testing.T) {
		j := judgeOf(t, file, Config{})
		r := ask("GET", "/", "Authorization: Bearer "+appToken(t, map[string]any{"exp": time.Now().Unix() + 3600}))
		for _, changes := range [][2]string{{`"rooms/**", `, `streams: ["lobby/**"]`}, {`streams: ["lobby/**"]`, `"rooms/**", `}} {
			if err := j.adoptFile([]byte(file)); err != nil {
				t.Fatal(err)
			}
			l := lease(t, j, r, "acme", "rooms/1")
			next := file
			for _, text := range changes {
				next = strings.Replace(next, text, strings.Replace(text, "**", "*", 1), 1)
				if err := j.adoptFile([]byte(next)); err != nil {
					t.Fatal(err)
				}
				<-time.After(45 * time.Second)
			}
			if j.Stays(l, j.env.second()) {
				t.Error("a reader stays for more than a minute after the first change")
			}
		}
	})
}

// A secret that is being written does not count either: half of it is a secret, too.
func TestNamedFilesCountWhenTheyHaveSettled(t *testing.T) {
	t.Parallel()
	whole := strings.Repeat("s", 40) + strings.Repeat("t", 40)
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path, secret := filepath.Join(dir, "auth.yaml"), filepath.Join(dir, "secret")
		write := func(path, content string) {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Error(err)
			}
		}
		write(path, fmt.Sprintf("projects: { acme: { sign: [ { kid: k1, secret: %s } ] } }", secret))
		write(secret, whole[:40])
		go func() {
			advance(settleTime / 2)
			write(secret, whole[:60])
			advance(settleTime)
			write(secret, whole)
		}()
		j, err := Open(t.Context(), Config{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		if got := j.verifier.rules.Load().projects["acme"].sign[0].secret; string(got) != whole {
			t.Errorf("%d of %d bytes of the secret count", len(got), len(whole))
		}
	})
}

// A revocation in a project that there is not is an error: it would revoke nothing, and say that it has.
func TestRevocationNamesAProject(t *testing.T) {
	t.Parallel()
	j := judgeOf(t, shopFile(t), Config{})
	for _, q := range []RevokeRequest{{Project: "acmee", KID: "k1"}, {Issuer: "app", Subject: "ada", Project: "acmee"}, {Issuer: "app", All: true, Project: "ac*"}} {
		if _, err := j.Revocations().Entry(q); err == nil || !strings.Contains(err.Error(), "not configured") {
			t.Errorf("%+v: %v", q, err)
		}
	}
}

// brokenObserver panics where a token is verified.
type brokenObserver struct{ noObserver }

func (brokenObserver) Verified(string, Reason) { panic("broken") }

// A panic while a token is verified costs its request, and not the process.
func TestPanicOfAVerificationIsContained(t *testing.T) {
	t.Parallel()
	j := judgeOf(t, shopFile(t), Config{Observer: brokenObserver{}})
	if _, d := j.Decide(ask("GET", "/", "Authorization: Bearer "+appToken(t, nil)), "acme", "rooms/1", Read); d == nil || d.Status != http.StatusServiceUnavailable {
		t.Errorf("%v, want 503", d)
	}
}
