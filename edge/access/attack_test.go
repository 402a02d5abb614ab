package access

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"pgregory.net/rapid"
)

// sizeOf returns a token of a size, all of which is in its payload.
func sizeOf(t testing.TB, size int) string {
	for pad := max(0, (size-400)*3/4); ; pad++ {
		if token := appToken(t, map[string]any{"pad": strings.Repeat("a", pad)}); len(token) >= size {
			return token
		}
	}
}

// The table of RFC 8725 and what else parsers disagree about: each token is made by hand, and but
// for one thing good.
func TestTokensThatParsersDisagreeAbout(t *testing.T) {
	t.Parallel()
	k := testKeys()
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := p384.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&k.rsa.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	set := writeFile(t, "jwks.json", keySetOf(jwk("r", k.rsa), jwk("e", k.ec), jwk("d", k.ed),
		map[string]any{"kty": "EC", "crv": "P-384", "kid": "p384", "x": b64.EncodeToString(point[1:49]), "y": b64.EncodeToString(point[49:])},
		map[string]any{"kty": "oct", "kid": "oct", "k": b64.EncodeToString([]byte(testSecret))}))
	j := judgeOf(t, `
issuers:
  - iss: i
    keys: { jwks: "file://`+set+`" }
    audience: [fantail]
    projects: [acme]
    grants: [ { actions: [read], streams: ["**"] } ]
`, Config{})
	now := time.Now().Unix()
	const claims = `{"iss":"i","sub":"ada","aud":"fantail","iat":%d,"exp":%d%s}`
	plain := fmt.Sprintf(claims, now, now+60, "")
	with := func(more string) string { return fmt.Sprintf(claims, now, now+60, more) }
	raw := func(header, payload string, key any) string { return signRaw(t, []byte(header), []byte(payload), key) }
	const rs, es = `{"alg":"RS256","kid":"r"}`, `{"alg":"ES256","kid":"e"}`
	good := raw(es, plain, k.ec)
	pieces := strings.Split(good, ".")
	signature, err := b64.DecodeString(pieces[2])
	if err != nil {
		t.Fatal(err)
	}
	join := func(sig []byte) string { return pieces[0] + "." + pieces[1] + "." + b64.EncodeToString(sig) }
	for name, row := range map[string]struct {
		token string
		want  []Reason // one of them; none: it is good
	}{
		"good":                           {good, nil},
		"alg none":                       {b64.EncodeToString([]byte(`{"alg":"none"}`)) + "." + pieces[1] + ".", []Reason{ReasonBadSignature}},
		"alg None":                       {b64.EncodeToString([]byte(`{"alg":"None","kid":"e"}`)) + "." + pieces[1] + "." + pieces[2], []Reason{ReasonBadSignature}},
		"alg in small letters":           {raw(`{"alg":"rs256","kid":"r"}`, plain, k.rsa), []Reason{ReasonBadSignature}},
		"alg with a space":               {raw(`{"alg":"RS256 ","kid":"r"}`, plain, k.rsa), []Reason{ReasonBadSignature}},
		"alg that is a list":             {raw(`{"alg":["RS256"],"kid":"r"}`, plain, k.rsa), []Reason{ReasonMalformed}},
		"the public key as HMAC's":       {raw(`{"alg":"HS256","kid":"r"}`, plain, string(public)), []Reason{ReasonBadSignature}},
		"a published secret":             {raw(`{"alg":"HS256","kid":"oct"}`, plain, testSecret), []Reason{ReasonBadSignature}},
		"P-384 as ES256":                 {raw(`{"alg":"ES256","kid":"p384"}`, plain, k.ec), []Reason{ReasonKeysStale, ReasonUnknownKey}},
		"the other kind's kid":           {raw(`{"alg":"ES256","kid":"r"}`, plain, k.ec), []Reason{ReasonKeysStale, ReasonUnknownKey}},
		"another key's kid":              {raw(`{"alg":"RS256","kid":"r"}`, plain, k.rsa2), []Reason{ReasonBadSignature}},
		"a signature of zeros":           {join(make([]byte, 64)), []Reason{ReasonBadSignature}},
		"no signature":                   {join(nil), []Reason{ReasonBadSignature}},
		"half a signature":               {join(signature[:32]), []Reason{ReasonBadSignature}},
		"a longer signature":             {join(append(signature[:64:64], 0)), []Reason{ReasonBadSignature}},
		"a signature in DER":             {raw(es, plain, derKey{k.ec}), []Reason{ReasonBadSignature}},
		"another payload":                {pieces[0] + "." + b64.EncodeToString([]byte(strings.Replace(plain, "ada", "bob", 1))) + "." + pieces[2], []Reason{ReasonBadSignature}},
		"a claim twice":                  {raw(rs, with(`,"sub":"bob"`), k.rsa), []Reason{ReasonMalformed}},
		"a claim twice, in escapes":      {raw(rs, with(`,"\u0073ub":"bob"`), k.rsa), []Reason{ReasonMalformed}},
		"a nested claim twice":           {raw(rs, with(`,"o":{"a":1,"a":2}`), k.rsa), []Reason{ReasonMalformed}},
		"a header's member twice":        {raw(`{"alg":"none","alg":"RS256","kid":"r"}`, plain, k.rsa), []Reason{ReasonMalformed}},
		"another case is another claim":  {raw(rs, with(`,"Sub":"bob","EXP":1`), k.rsa), nil},
		"iss in capitals":                {raw(rs, strings.Replace(plain, `"iss"`, `"ISS"`, 1), k.rsa), []Reason{ReasonUnknownIssuer}},
		"invalid UTF-8":                  {raw(rs, with(",\"x\":\"a\xff\""), k.rsa), []Reason{ReasonMalformed}},
		"an unpaired surrogate":          {raw(rs, with(`,"x":"\ud800"`), k.rsa), []Reason{ReasonMalformed}},
		"nested too deeply":              {raw(rs, with(`,"x":`+strings.Repeat("[", 9)+strings.Repeat("]", 9)), k.rsa), []Reason{ReasonMalformed}},
		"nested without an end":          {raw(rs, `{"a":`+strings.Repeat("[", 4000), k.rsa), []Reason{ReasonMalformed}},
		"something behind":               {raw(rs, plain+"{}", k.rsa), []Reason{ReasonMalformed}},
		"an array":                       {raw(rs, "["+plain+"]", k.rsa), []Reason{ReasonMalformed}},
		"null":                           {raw(rs, "null", k.rsa), []Reason{ReasonMalformed}},
		"an empty payload":               {raw(rs, "", k.rsa), []Reason{ReasonMalformed}},
		"exp as text":                    {raw(rs, strings.Replace(plain, fmt.Sprint(now+60), `"`+fmt.Sprint(now+60)+`"`, 1), k.rsa), []Reason{ReasonMalformed}},
		"exp with a fraction":            {raw(rs, strings.Replace(plain, fmt.Sprint(now+60), fmt.Sprint(now+60)+".5", 1), k.rsa), nil},
		"exp beyond all":                 {raw(rs, strings.Replace(plain, fmt.Sprint(now+60), "1e18", 1), k.rsa), []Reason{ReasonMalformed}},
		"exp of zero":                    {raw(rs, strings.Replace(plain, fmt.Sprint(now+60), "0", 1), k.rsa), []Reason{ReasonMalformed}},
		"exp below zero":                 {raw(rs, strings.Replace(plain, fmt.Sprint(now+60), "-1", 1), k.rsa), []Reason{ReasonMalformed}},
		"exp that overflows":             {raw(rs, strings.Replace(plain, fmt.Sprint(now+60), "1e400", 1), k.rsa), []Reason{ReasonMalformed}},
		"exp of true":                    {raw(rs, strings.Replace(plain, fmt.Sprint(now+60), "true", 1), k.rsa), []Reason{ReasonMalformed}},
		"iat of null":                    {raw(rs, strings.Replace(plain, `"iat":`+fmt.Sprint(now), `"iat":null`, 1), k.rsa), []Reason{ReasonMalformed}},
		"no iat":                         {raw(rs, strings.Replace(plain, `"iat":`+fmt.Sprint(now)+",", "", 1), k.rsa), nil},
		"crit":                           {raw(`{"alg":"RS256","kid":"r","crit":["x"],"x":1}`, plain, k.rsa), []Reason{ReasonMalformed}},
		"an empty crit":                  {raw(`{"alg":"RS256","kid":"r","crit":[]}`, plain, k.rsa), []Reason{ReasonMalformed}},
		"b64 false":                      {raw(`{"alg":"RS256","kid":"r","b64":false}`, plain, k.rsa), []Reason{ReasonMalformed}},
		"a certificate of its own":       {raw(`{"alg":"RS256","kid":"r","x5c":["x"]}`, plain, k.rsa), []Reason{ReasonMalformed}},
		"kid of 10 KiB":                  {raw(`{"alg":"RS256","kid":"`+strings.Repeat("k", 4000)+`"}`, plain, k.rsa), []Reason{ReasonMalformed}},
		"kid that is a path":             {raw(`{"alg":"RS256","kid":"../../dev/null"}`, plain, k.rsa), []Reason{ReasonKeysStale, ReasonUnknownKey}},
		"an empty kid":                   {raw(`{"alg":"ES256","kid":""}`, plain, k.ec), nil}, // the one key of its kind
		"typ that is a number":           {raw(`{"alg":"RS256","kid":"r","typ":1}`, plain, k.rsa), []Reason{ReasonWrongType}},
		"an ID token of another":         {raw(`{"alg":"RS256","kid":"r","typ":"JWE"}`, plain, k.rsa), []Reason{ReasonWrongType}},
		"aud of null":                    {raw(rs, strings.Replace(plain, `"fantail"`, "null", 1), k.rsa), []Reason{ReasonWrongAudience}},
		"aud in an array in an array":    {raw(rs, strings.Replace(plain, `"fantail"`, `[["fantail"]]`, 1), k.rsa), []Reason{ReasonWrongAudience}},
		"aud that begins so":             {raw(rs, strings.Replace(plain, `"fantail"`, `"fantail.evil"`, 1), k.rsa), []Reason{ReasonWrongAudience}},
		"five parts":                     {good + ".a.b", []Reason{ReasonMalformed}},
		"JWS in JSON":                    {`{"payload":"` + pieces[1] + `","signature":"` + pieces[2] + `"}`, []Reason{ReasonTwoCredentials}},
		"a line's end inside":            {pieces[0] + ".\n" + pieces[1] + "." + pieces[2], []Reason{ReasonMalformed}},
		"a line's end at the end":        {good[:len(good)-4] + "\n" + good[len(good)-4:], []Reason{ReasonMalformed}},
		"padding":                        {good + "==", []Reason{ReasonMalformed}},
		"the other alphabet":             {strings.NewReplacer("-", "+", "_", "/").Replace(raw(es, with(`,"x":"~~~???>>>"`), k.ec)) + "+/", []Reason{ReasonMalformed, ReasonBadSignature}},
		"a key that wraps its algorithm": {raw(`{"alg":"PS256","kid":"r"}`, plain, k.rsa), []Reason{ReasonBadSignature}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, d := j.Decide(ask("GET", "/", "Authorization: Bearer "+row.token), "acme", "x", Read)
			for _, want := range row.want {
				if reasonOf(d) == want {
					return
				}
			}
			if row.want != nil || d != nil {
				t.Errorf("%v, want one of %v", d, row.want)
			}
		})
	}
}

// derKey signs as ASN.1, which JWS does not.
type derKey struct{ *ecdsa.PrivateKey }

// Tokens up to 8 KiB are looked at; longer ones cost nothing.
func TestTokenSizes(t *testing.T) {
	t.Parallel()
	j := judgeOf(t, shopFile(t), Config{})
	for _, size := range []int{500, 4096, MaxTokenBytes - 8} {
		if _, d := j.Decide(ask("GET", "/", "Authorization: Bearer "+sizeOf(t, size)), "acme", "rooms/1", Read); d != nil {
			t.Errorf("%d bytes: %v", size, d)
		}
	}
	for _, token := range []string{sizeOf(t, MaxTokenBytes+8), strings.Repeat("a", 9<<10), strings.Repeat(".", 1<<20), strings.Repeat("a.", 1<<19)} {
		if _, d := j.Decide(ask("GET", "/", "Authorization: Bearer "+token), "acme", "rooms/1", Read); reasonOf(d) != ReasonMalformed || len(d.Detail) > 400 {
			t.Errorf("%d bytes: %v", len(token), d)
		}
	}
}

// Requests that are as large as a server lets them be are answered, quickly and in few words.
func TestHugeRequests(t *testing.T) {
	t.Parallel()
	j := judgeOf(t, shopFile(t), Config{})
	token := appToken(t, nil)
	long := strings.Repeat("a/", 4000)
	for name, r := range map[string]*http.Request{
		"a query of parameters":    ask("GET", "/?"+strings.Repeat("x-exp=1&", 20000)),
		"a query of escapes":       ask("GET", "/?"+strings.Repeat("%78=1&", 20000)),
		"a query of ampersands":    ask("GET", "/?"+strings.Repeat("&", 100000)),
		"a cookie of pairs":        ask("GET", "/", "Cookie: "+strings.Repeat("a=b; ", 20000)),
		"a cookie of ours, often":  ask("GET", "/", "Cookie: "+strings.Repeat("__Host-fantail-acme=x; ", 5000)),
		"an origin":                ask("GET", "/", "Cookie: __Host-fantail-acme="+token, "Origin: https://"+strings.Repeat("a.", 50000)+"trusted.example.evil"),
		"a field of commas":        ask("GET", "/", "Authorization: "+strings.Repeat(",", 100000)),
		"many fields":              manyFields(2000),
		"a name of 8,000 bytes":    ask("GET", "/", "Authorization: Bearer "+token),
		"a signed URL of anything": ask("GET", "/?x-exp="+strings.Repeat("9", 50000)+"&x-kid="+strings.Repeat("k", 50000)+"&x-sig="+strings.Repeat("s", 43)),
	} {
		began := time.Now()
		_, d := j.Decide(r, "acme", "no/"+long, Read)
		if d == nil || len(d.Detail) > 1000 || time.Since(began) > 2*time.Second {
			t.Errorf("%s: %v after %v", name, d, time.Since(began))
		}
	}
}

func manyFields(n int) *http.Request {
	r := ask("GET", "/")
	for range n {
		r.Header.Add("Authorization", "Bearer x")
	}
	return r
}

// Whatever is in a query, a signed URL is found in it as url.ParseQuery would: never less is seen,
// and never another value.
func FuzzFindSignature(f *testing.F) {
	for _, q := range []string{"", "x-exp=1&x-kid=2&x-sig=3", "x-exp=1&x-exp=2", "%78-exp=1", "x-kid=a+b%20c", "x-sig", "x-sig=%", "a=b&&x-sig=;", "X-SIG=1", "x-exp=1;x-kid=2"} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, q string) {
		s, has := findSignature(q)
		all, err := url.ParseQuery(q)
		there := 0
		for _, name := range []string{"x-exp", "x-kid", "x-sig"} {
			there += len(all[name])
		}
		if there > 0 && !has {
			t.Fatalf("%q: not seen", q)
		}
		if err != nil || !has {
			return
		}
		for name, got := range map[string]string{"x-exp": s.Expires, "x-kid": s.KeyID, "x-sig": s.Sum} {
			if values := all[name]; got != "" && (len(values) != 1 || values[0] != got) {
				t.Errorf("%q: %s is %q of %q", q, name, got, values)
			}
		}
	})
}

// Cookies are found as net/http finds them, where it finds them.
func FuzzFindCookie(f *testing.F) {
	for _, c := range []string{"", "__Host-fantail-acme=x", "a=b; __Host-fantail-acme=x", "__Host-fantail-acme=x; __Host-fantail-acme=y", "__Host-fantail-acme", "__Host-fantail-acme =x", ";;=;"} {
		f.Add(c)
	}
	f.Fuzz(func(t *testing.T, field string) {
		if strings.ContainsFunc(field, unicode.IsControl) { // no server takes such a field
			t.Skip()
		}
		r := &http.Request{Header: http.Header{"Cookie": {field}}}
		value, n := findCookie(r.Header, &project{}, "acme")
		all := r.CookiesNamed("__Host-fantail-acme")
		if len(all) > n {
			t.Fatalf("%q: %d are there, %d are seen", field, len(all), n)
		}
		if n == 1 && len(all) == 1 && strings.Trim(all[0].Value, " \t") != strings.Trim(value, `"`) && !all[0].Quoted {
			t.Errorf("%q: %q, want %q", field, value, all[0].Value)
		}
	})
}

// No file makes the parser panic, and one that is taken compiles or is told why not.
func FuzzParseFile(f *testing.F) {
	paths, _ := filepath.Glob("testdata/recipes/*.yaml")
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	f.Add("a: &a [*a]\n")
	f.Add("projects: { a: { limits: { bytes: 1e9 } } }")
	f.Fuzz(func(_ *testing.T, text string) {
		file, err := ParseFile([]byte(text))
		if err != nil {
			return
		}
		for n := range file.Issuers { // no file of this machine is read for a fuzzer
			file.Issuers[n].Keys = KeysConfig{JWKS: "https://keys.example"}
		}
		for name, p := range file.Projects {
			p.Sign = nil
			file.Projects[name] = p
		}
		env := newEnvironment(Config{})
		_, _ = file.compile(env, &fileReader{}, nil)
	})
}

// A grant whose template is filled with whatever a person is called reaches that person's streams
// and no other person's; a name that looks like a pattern is reached by names alone.
func TestNoNameBecomesAPattern(t *testing.T) {
	t.Parallel()
	segment := rapid.OneOf(rapid.SampledFrom([]string{"*", "**", "a", "b", "..", "__ds", "{sub}", "%2A", "a*"}), rapid.StringMatching(`[^/\x00]{1,6}`))
	rapid.Check(t, func(t *rapid.T) {
		sub := segment.Draw(t, "sub")
		other := rapid.OneOf(rapid.Just(sub), segment).Draw(t, "other")
		p, err := ParsePattern("users/{sub}/**", true)
		if err != nil {
			t.Fatal(err)
		}
		filled, _ := p.fill(Claims{"sub": sub})
		gs := grants{{Actions: Read, Patterns: filled}}
		rest := segment.Draw(t, "rest")
		plain := rest != "*" && rest != "**" && other != "*" && other != "**"
		name := "users/" + other + "/" + rest
		if got, want := gs.allow(Read, name) != 0, other == sub && len(filled) > 0 && plain; got != want {
			t.Fatalf("%q reaches %q: %v, want %v", sub, name, got, want)
		}
		exact := grants{{Actions: Read, Names: []string{"room/" + sub}}}
		if got := exact.allow(Read, "room/"+other) != 0; got != (sub == other) {
			t.Fatalf("the name %q reaches %q: %v", sub, other, got)
		}
	})
}

// Decisions, changes of the file, revocations and readers at the same time: no token is judged by
// rights that were taken away before the request came, and every count comes back to nothing.
func TestEverythingTogether(t *testing.T) {
	t.Parallel()
	with := shopFile(t)
	without := strings.Replace(with, `"rooms/**", `, `"halls/**", `, 1)
	j := judgeOf(t, with, Config{})
	var stop atomic.Bool
	var wg sync.WaitGroup
	var swap sync.RWMutex // held for writing while the rights change
	inForce := true
	for i := range 4 {
		r := ask("GET", "/", "Authorization: Bearer "+appToken(t, map[string]any{"sub": fmt.Sprint("s", i)}))
		wg.Go(func() {
			for !stop.Load() {
				swap.RLock()
				v, d := j.Decide(r, "acme", "rooms/1", Read)
				if d != nil && d.Status != 503 && (d.Reason != ReasonNotGranted || inForce) || d == nil && !inForce {
					t.Errorf("%v while it is granted: %v", d, inForce)
				}
				swap.RUnlock()
				if d != nil {
					continue
				}
				if j.AddReader(r, v.Lease) == nil {
					j.Stays(v.Lease, j.env.second())
					j.RemoveReader(v.Lease)
				}
				j.Admit(r, v.Lease, Use{Bytes: 1})
			}
		})
	}
	wg.Go(func() {
		for i := 0; !stop.Load(); i++ {
			b, err := j.Revocations().Entry(RevokeRequest{Issuer: "app", Subject: fmt.Sprint("nobody", i)})
			if err == nil {
				err = j.Revocations().Apply(b, fmt.Sprint(i))
			}
			if err != nil && i < MaxRevocations {
				t.Error(err)
			}
			<-j.changedOrNow()
		}
	})
	for range 30 {
		swap.Lock()
		inForce = !inForce
		file := map[bool]string{true: with, false: without}[inForce]
		if err := j.adoptFile([]byte(file)); err != nil {
			t.Error(err)
		}
		swap.Unlock()
		_ = j.Readers()
		_, _ = j.Ready()
	}
	stop.Store(true)
	wg.Wait()
	if n := j.Readers()["acme"]; n != 0 {
		t.Errorf("%d readers are left", n)
	}
}

// changedOrNow is a channel that is closed: the loop above must not wait for what it makes itself.
func (j *Judge) changedOrNow() <-chan struct{} {
	_ = j.Changed()
	c := make(chan struct{})
	close(c)
	return c
}

// A storm of junk, while the key server hangs, keeps no more tokens waiting than there is room for,
// and none that is known.
func TestJunkWhileTheKeyServerHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &lyingServer{set: keySetOf(jwk("r", testKeys().rsa))}
		env := newEnvironment(Config{})
		keys := newFetchedKeys("i", s.get, fetchEvery, env)
		i := &issuer{name: "i", keys: keys, algs: rsaAlgs, maxTTL: DefaultMaxTTL}
		done := make(chan struct{})
		go func() { defer close(done); keys.run(t.Context()) }()
		synctest.Wait()
		s.answer(func() { s.hangs = true })
		advance(fetchEvery * 2)
		now := time.Now().Unix()
		claims := Claims{"exp": json.Number(fmt.Sprint(now + 60)), "iat": json.Number(fmt.Sprint(now))}
		var waited, refused atomic.Int32
		var wg sync.WaitGroup
		for n := range 3 * maxVerifying {
			wg.Go(func() {
				began := time.Now()
				p := &parts{header: map[string]any{"alg": "RS256", "kid": fmt.Sprint("junk", n)}, claims: maps.Clone(claims)}
				if _, no := i.verify(t.Context(), p, env); no == nil || no.Reason != ReasonKeysStale {
					t.Error(no)
				}
				if refused.Add(1); time.Since(began) > 0 {
					waited.Add(1)
				}
			})
		}
		wg.Wait()
		if waited.Load() > maxVerifying || refused.Load() != 3*maxVerifying {
			t.Errorf("%d have waited", waited.Load())
		}
	})
}

// The seeded hash of an empty claim is none: tokens without a sub are not revoked together by it.
func TestEmptyClaimsAreNoSubject(t *testing.T) {
	t.Parallel()
	j := judgeOf(t, shopFile(t), Config{})
	r := ask("GET", "/", "Authorization: Bearer "+appToken(t, map[string]any{"sub": nil, "jti": nil}))
	l := lease(t, j, r, "acme", "rooms/1")
	for _, q := range []RevokeRequest{{Issuer: "app", Subject: "x"}, {Issuer: "app", ID: "x"}} {
		b, err := j.Revocations().Entry(q)
		if err != nil {
			t.Fatal(err)
		}
		if err := j.Revocations().Apply(b, "1"); err != nil {
			t.Fatal(err)
		}
	}
	if j.endNow(l) != EndNone {
		t.Error(j.endNow(l))
	}
	lease(t, j, r, "acme", "rooms/1")
}

// A row's number is used again only long after its end, and never while it holds.
func TestRowsAreUsedAgainLate(t *testing.T) {
	t.Parallel()
	tb := &table{}
	first, err := tb.add("a", 1, 1000)
	if err != nil || first.number != 1 {
		t.Fatal(first, err)
	}
	first.gone.Store(1000)
	second, _ := tb.add("b", 2, 1000+rowReuse)
	third, _ := tb.add("c", 3, 1000+rowReuse+1)
	if second.number != 2 || third.number != 1 || tb.at(1) != third || tb.at(0) != nil || tb.at(99) != nil {
		t.Errorf("%d %d", second.number, third.number)
	}
	for n := range 1<<16 - 3 {
		if _, err := tb.add("x", 9, 2000); err != nil {
			t.Fatal(n, err)
		}
		if n > 100 { // the rest in one step: adding copies
			rows := make([]*row, 1<<16)
			copy(rows, *tb.rows.Load())
			for i := range rows {
				if i > 0 && rows[i] == nil {
					rows[i] = &row{number: uint16(i)}
				}
			}
			tb.rows.Store(&rows)
			break
		}
	}
	if _, err := tb.add("more", 9, 2000); err == nil {
		t.Error("there is no bound")
	}
}

// Header fields that mean something else hold no tokens.
func TestIssuersHeaderIsItsOwn(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"x-gateway-assertion": true, "Cf-Access-Jwt-Assertion": true, "authorization": false, "Cookie": false, "sec-fetch-site": false, "Origin": false,
		"X Y": false, "X:Y": false, "x\\r\\ny": false,
	} {
		j := newJudge(Config{})
		err := j.adoptFile([]byte(strings.Replace(shopFile(t), "header: x-gateway-assertion", "header: \""+name+"\"", 1)))
		if (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
		j.Close()
	}
}
