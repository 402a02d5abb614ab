package main

// bug is a text of a file, and what stands there with the bug.
type bug struct{ name, file, old, new string }

var bugs = []bug{
	// Tokens.
	{"audience-not-checked", "token.go", `func() *Refusal { return i.checkAudience(p.claims) },`, `func() *Refusal { return nil },`},
	{"conditions-not-checked", "token.go", `func() *Refusal { return i.checkConditions(p.claims) },`, `func() *Refusal { return nil },`},
	{"type-not-checked", "token.go", `p.checkType,`, `func() *Refusal { return nil },`},
	{"exp-not-checked-at-use", "verifier.go", `if !p.Expired(now) {`, `if true {`},
	{"exp-without-leeway", "principal.go", `return now.Unix() >= p.Expires+int64(Leeway/time.Second)`, `return now.Unix() >= p.Expires`},
	{"nbf-not-checked", "token.go", `case t.notBefore > at+leeway || t.issued > at+leeway:`, `case t.issued > at+leeway:`},
	{"iat-not-checked", "token.go", `case t.notBefore > at+leeway || t.issued > at+leeway:`, `case t.notBefore > at+leeway:`},
	{"ttl-without-iat-unbounded", "token.go", `case t.expires > at+most+leeway && t.issued == 0:`, `case false:`},
	{"alg-of-the-token", "keys.go", `if !slices.Contains(k.algs, alg) {
		return false`, `if false {
		return false`},
	{"alg-of-any-issuer", "token.go", `if !slices.Contains(i.algs, alg) {`, `if !slices.Contains(i.algs, alg) && false {`},
	{"signature-not-checked", "token.go", `	if !good {`, `	if !good && false {`},
	{"crit-accepted", "token.go", `"crit", "jwk"`, `"jwk"`},
	{"doubled-members", "strict.go", `; twice {`, `; twice && false {`},
	{"surrogates", "strict.go", `if r == utf8.RuneError {`, `if r == utf8.RuneError && false {`},
	{"nesting", "strict.go", `if depth == maxNesting {`, `if false {`},
	{"line-ends-in-tokens", "token.go", `strings.ContainsAny(token, "\r\n")`, `false`},

	// Grants.
	{"ceiling-ignored", "principal.go", `p.own[project].allow(left, name) & p.ceiling.allow(left, name)`, `p.own[project].allow(left, name)`},
	{"unknown-members-ignored", "entries.go", `return g, "", refuse(ReasonBadGrants, "a grant of the token has the member`, `_ = refuse(ReasonBadGrants, "a grant of the token has the member`},
	{"project-not-looked-at", "principal.go", `	if !p.knows(project) {
		return 0`, `	if false {
		return 0`},
	{"any-value-fills", "grant.go", `if !ok || !canBeSegment(s) {`, `if !ok {`},
	{"wildcards-match-wildcards", "grant.go", `	if hasWildcard(name) {
		return false`, `	if false {
		return false`},
	{"reserved-names-granted", "decide.go", `	if isReserved(name) {
		return 0
	}
	return allowed`, `	return allowed`},
	{"list-by-text", "decide.go", `root += s.text + "/"`, `root += s.text`},
	{"list-by-any-action", "decide.go", `ok && gs[i].Actions&List != 0 &&`, `ok &&`},
	{"fork-source-not-judged", "decide.go", `no = c.need(Read|Fork, sourceProject, source)`, `no = nil`},
	{"fork-by-read-alone", "decide.go", `no = c.need(Read|Fork, sourceProject, source)`, `no = c.need(Read, sourceProject, source)`},
	{"fork-across-projects", "decide.go", `if no == nil && project != sourceProject {`, `if false {`},
	{"nothing-wanted-is-allowed", "decide.go", `if want != 0 && c.allow`, `if c.allow`},

	// Presented.
	{"failing-is-none", "decide.go", `	if c.from, no = find(r, c.rules, c.project, project); no != nil {
		return no
	}`, `	if c.from, no = find(r, c.rules, c.project, project); no != nil {
		c.from, no = presented{}, nil
	}`},
	{"first-of-two-fields", "presented.go", `if len(fields) > 1 || strings.Contains(fields[0], ",") {
		return presented{}, two`, `if strings.Contains(fields[0], ",") {
		return presented{}, two`},
	{"comma-in-a-field", "presented.go", `if len(fields) > 1 || strings.Contains(fields[0], ",") {
		return presented{}, two`, `if len(fields) > 1 {
		return presented{}, two`},
	{"token-and-url", "presented.go", `	if from.kind != presentedNothing {
		return from, errTwoCredentials
	}
	return presented{kind: presentedURL`, `	return presented{kind: presentedURL`},
	{"last-parameter-counts", "presented.go", `err != nil || seen[at] {`, `err != nil {`},
	{"parameters-in-escapes", "presented.go", `if plain, err := url.QueryUnescape(name); err == nil {`, `if plain, err := url.QueryUnescape(name); err != nil {`},
	{"header-from-anywhere", "judge.go", `case pr.issuer.header != from.header:`, `case false:`},
	{"cookie-writes", "presented.go", `p == nil || r.Method != http.MethodGet && r.Method != http.MethodHead {`, `p == nil {`},
	{"cookie-lists", "decide.go", `c.pr.allow(want&Read, project, name)`, `c.pr.allow(want, project, name)`},
	{"first-of-two-cookies", "presented.go", `	case n > 1:`, `	case n > 5:`},
	{"cookie-cross-site", "session.go", `(site == "same-site" || site == "cross-site") && listed,`, `(site == "same-site" || site == "cross-site"),`},
	{"cookie-by-navigation", "session.go", `n > 1 || n == 1 && dest != "empty" {`, `n > 1 || n == 5 && dest != "empty" {`},
	{"cookie-of-old-browsers", "session.go", `sites == 0 && (origins == 0 || listed):`, `sites == 0:`},
	{"star-lists-all", "origins.go", `if o == nil || origin == "" || len(o.exact)`, `if o.Any() {
		return true
	}
	if o == nil || origin == "" || len(o.exact)`},
	{"cookie-not-deleted", "decide.go", `		d.SetCookie = deletedCookie(project)`, `		d.SetCookie = ""`},
	{"session-by-any-page", "session.go", `	if no := checkSessionOrigin(r.Header, p); no != nil {
		return "", no
	}
`, ``},
	{"session-names-anything", "session.go", `	if checkProject(projectName) != nil {
		return ""
	}
`, ``},

	// Signed URLs.
	{"url-expires-late", "signed.go", `case now.Unix() >= exp+leeway:`, `case now.Unix() >= exp+leeway+1:`},
	{"url-without-an-end", "signed.go", `case exp > now.Unix()+int64(MaxSignedTTL/time.Second)+leeway:`, `case false:`},
	{"url-writes", "decide.go", `		allowed = want & Read
`, `		allowed = want
`},
	{"url-of-another-key", "signed.go", `if k.ID != s.KeyID {`, `if false {`},

	// Answers.
	{"403-to-a-producer", "reasons.go", `r.Method == http.MethodPost && hasProducer(r.Header) {`, `false {`},
	{"public-for-all", "decide.go", `Public: c.from.kind == presentedNothing,`, `Public: true,`},
	{"public-kept-for-long", "caching.go", `min(v.maxAge, seconds, maxPublicAge)`, `uint8(maxPublicAge)`},
	{"clock-not-doubted", "decide.go", `if j.cfg.ClockDoubt != nil && j.cfg.ClockDoubt() {`, `if false {`},
	{"wildcard-without-a-dot", "origins.go", `!strings.HasPrefix(suffix, ".") || len(suffix) < 2`, `len(suffix) < 2`},
	{"wildcard-of-any-scheme", "origins.go", `ok && scheme == w.scheme && label`, `ok && label`},
	{"credentials-for-all", "origins.go", `return CORS{Origin: "*"}`, `return CORS{Origin: origin, Credentials: true}`},

	// Leases, changes and revocations.
	{"lease-ends-early", "decide.go", `max(c.pr.Expires+leewaySeconds, now`, `max(c.pr.Expires, now`},
	{"lease-has-no-spread", "decide.go", `clampSecond(at + rand.Int64N(leaseSpread))`, `clampSecond(at + 0*rand.Int64N(leaseSpread) + 6)`},
	{"second-check-missing", "judge.go", `		case pr.checked.Load() == count:
			return pr, nil
`, `		case pr.checked.Load() != 0:
			return pr, nil
`},
	{"checked-for-all-projects", "judge.go", `		case revokedNowhere:
			pr.checked.Store(count)`, `		case revokedNowhere, revokedElsewhere:
			pr.checked.Store(count)`},
	{"old-rights-in-the-cache", "verifier.go", `{ return p.issuer.row.ended() == 0 && p.key.row.ended() == 0 }`, `{ return p.key.row.ended() == 0 }`},
	{"withdrawn-key-in-the-cache", "verifier.go", `{ return p.issuer.row.ended() == 0 && p.key.row.ended() == 0 }`, `{ return p.issuer.row.ended() == 0 }`},
	{"withdrawn-key-keeps-readers", "fetch.go", `		k.row.gone.Store(s.env.second())
`, ``},
	{"withdrawn-by-one-set", "fetch.go", `if at.Sub(since) >= withdrawAfter || `, `if at.Sub(since) >= 0 || `},
	{"revoked-by-exact-time", "revocations.go", `uint32(p.Issued) > h.before {`, `uint32(p.Issued) >= h.before {`},
	{"revoked-lease-stays", "lease.go", `	if at := j.revocations.matchLease(l, now); at != 0 {
		return EndRevoked, at
	}
`, ``},
	{"revoked-url-lease-stays", "revocations.go", `if key != nil && r.matchURL(key, now) {`, `if false {`},
	{"mac-not-compared", "revocation_entry.go", `if hmac.Equal([]byte(s.mac(key)), []byte(s.MAC)) {`, `if len(key) > 0 && s.MAC != "" {`},
	{"mac-of-half", "revocation_entry.go", `[]string{one.Issuer, one.Subject, one.ID, one.Key, one.Project, one.KID} {
		m.Write`, `[]string{one.Issuer, one.ID, one.Key, one.Project, one.KID} {
		m.Write`},
	{"mac-without-lengths", "revocation_entry.go", `		m.Write(binary.BigEndian.AppendUint32(nil, uint32(len(s)))) //nolint:gosec // bounded
`, ``},
	{"project-of-a-revocation", "revocations.go", `h.project == "" || h.project == project {`, `true {`},
	{"changes-end-all", "compile_project.go", `		p.row = old.row
`, `		p.row = nil
`},
	{"rows-used-again-soon", "registry.go", `gone != 0 && gone+rowReuse < now {`, `gone != 0 {`},

	// The file.
	{"empty-settings", "file.go", `append(emptySettings(&whole, ""), d.Decode(f))...`, `d.Decode(f)`},
	{"unknown-keys", "file.go", `	d = yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)`, `	d = yaml.NewDecoder(bytes.NewReader(b))`},
	{"one-read-counts", "watch.go", `if bytes.Equal(b, again) && maps.EqualFunc(named, namedAgain, bytes.Equal) {`, `if true {
			again = b`},
	{"error-takes-rights-away", "watch.go", `	if err == nil {
		err = j.adoptFileWith(next.now, next.named)
	}`, `	if err == nil {
		if err = j.adoptFileWith(next.now, next.named); err != nil {
			_ = j.adoptFile([]byte("projects: { none: { public_age: 1s } }"))
		}
	}`},
	{"named-files-not-watched", "watch.go", `	for path, was := range w.named {`, `	for path, was := range map[string][]byte{} {`},
	{"users-own-claims", "checks.go", `claim == own || strings.HasPrefix(claim, own+"/") || claim == own[1:]`, `claim == own`},

	// Limits and admin.
	{"limit-not-divided", "bucket.go", `if r.each > 0 && nodes > 1 {`, `if false {`},
	{"limit-below-one", "bucket.go", `min(r.each*float64(nodes), max(r.each, float64(in)))`, `r.each * float64(nodes)`},
	{"gets-wait", "limits.go", `	if r.Method == http.MethodPost {
		return limitWait`, `	if true {
		return limitWait`},
	{"nothing-given-back", "bucket.go", `{ b.until.Add(-r.cost(n)) }`, `{}`},
	{"waiting-unbounded", "limits.go", `if s.waiting.Add(1) > maxWaitingEach {`, `if s.waiting.Add(1) > 1<<20 {`},
	{"readers-of-a-node", "limits.go", `all+int64(j.limiter.otherReaders(p.name)) > p.limits.readers {`, `all > p.limits.readers {`},
	{"public-as-principals", "limits.go", `case lease.issuer == 0 && lease.key == 0:`, `case false:`},
	{"admin-by-any-form", "admin.go", `if len(token) != adminTokenBytes || !strings.HasPrefix(token, adminPrefix) {`, `if false {`},
	{"login-outlives-token", "admin.go", `	m.Write(t.sum[:])
`, ``},
	{"login-without-an-end", "admin.go", `err != nil || at <= j.env.now().Unix() || len`, `err != nil || at <= 0 || len`},
	{"last-token-opens", "admin.go", `return j.adminLocked.Load()`, `return len(j.verifier.rules.Load().admin) > 0`},
	{"pipes-and-devices", "watch.go", `if err == nil && !info.Mode().IsRegular() {`, `if err == nil && info == nil {`},
	{"links-refused", "watch.go", `os.O_RDONLY|syscall.O_NONBLOCK`, `os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW`},
	{"keys-for-good", "revocations.go", `r.keys, r.rejected = keys, 0`, `r.rejected = 0`},
	{"keys-always-new", "revocations.go", `|| slices.EqualFunc(r.keys, keys, bytes.Equal) {`, `|| slices.EqualFunc(r.keys, keys, bytes.Equal) && len(keys) == 0 {`},
	{"observing-waits", "limits.go", `if wait == 0 || !waits {`, `if wait == 0 {`},
	{"unannounced-bodies", "limits.go", `	if denial := j.denyBody(r, p, bytes); denial != nil {
		return denial
	}
	p.use`, `	p.use`},
	{"public-served-stale", "caching.go", `max-age=%d, %s", age, NeverStale)`, `max-age=%d", age)`},
	{"kept-for-public-age-always", "caching.go", `min(v.maxAge, seconds, maxPublicAge)`, `min(v.maxAge, maxPublicAge)`},
	{"login-by-any-page", "admin.go", `!safe && (sites != 1 || site != "same-origin") {`, `!safe && sites == 9 && site == "" {`},
}

// besideBug is a bug in what the edge does with a decision. Its tests are many and slow: only some run.
type besideBug struct {
	bug
	tests string // a pattern
}

var besideBugs = []besideBug{
	{bug{"waits-outlast-rights", "../create_wait.go", `c.stay.permit(), c.now())`, `nil, c.now())`}, "TestWaitEndsWithItsRight"},
	{bug{"stuck-readers-stay", "../reactor/timers_linux.go", `case c.session.HasOverstayed(l.elapsed()): // progress or not`, `case false:`}, "TestReaderThatTakesNothing"},
	{bug{"stuck-goroutines-stay", "../stay.go", `			s.overstays.cutOverstayed(s.cfg.Now())
`, ``}, "TestReaderThatTakesNothing"},
	{bug{"cut-without-grace", "../sse/departure.go", `now.Sub(d.permitAt) >= MaxOverstay`, `true`}, "TestReaderThatTakesNothing"},
	{bug{"revocations-put-off", "../stay.go", `	case why == access.EndRevoked && s.why == why: // however many revocations follow
`, ``}, "TestManyRevocations"},
	{bug{"ends-not-paced", "../lease_ends.go", `for most := max(maxEndsPerSecond, readers/60); e.count[at] >= most; at++ { //nolint:revive // the loop is the search
	}`, `_ = readers`}, "TestReadersOfAFleet|TestLeasesThatEndTogether"},
	{bug{"public-readers-given-back", "../lease_ends.go", `	if second == 0 {
		return
	}
`, ``}, "TestLeasesThatEndTogether|TestPublicAnswers"},
	{bug{"appends-not-looked-at-again", "../authorize.go", `case !dec.judged, netconn`, `case true, netconn`}, "TestRightOfAnAppend"},
	{bug{"preflights-wait", "../route.go", `		leaveBody(w, r)
		s.preflight`, `		_ = s.discardBody(w, r)
		s.preflight`}, "TestPreflight"},
	{bug{"long-polls-kept-long", "../caching.go", `	case long == cacheLongPoll:
		return dec.CacheControlWithin(longPollSeconds)
`, ``}, "TestPublicAnswers"},
	{bug{"kept-where-nothing-is", "../caching.go", `	case dec.IsKept():`, `	case dec.Public:`}, "TestPublicAnswers"},
	{bug{"observed-limits-free", "../authorize.go", `if denial = j.WouldAdmit(r, dec.Lease, use); denial != nil {`, `if false {`}, "TestObservedLimits"},
	{bug{"observed-limits-refuse", "../authorize.go", `	case dec.observed:
		s.logObserved(r, denial)
		return nil
	}
	return denial`, `	}
	return denial`}, "TestObservedLimits"},
	{bug{"secrets-not-read-again", "../../cmd/fantail/auth.go", `reloadSecrets(); err == nil && n.judge`, `reloadSecrets(); err != nil && n.judge`}, "TestRevocationAfterTheSecretIsChanged"},
	{bug{"stream-not-read-again", "../../cmd/fantail/revocation_feed.go", `			case <-f.again:
				return errReadAgain
`, `			case <-f.again:
`}, "TestForgedRevocations"},
	{bug{"forged-fill-the-log", "../../cmd/fantail/revocation_feed.go", `ignoredLimiter: rate.Sometimes{Interval: ignoredInterval}`, `ignoredLimiter: rate.Sometimes{Every: 1}`}, "TestForgedRevocations"},
	{bug{"login-for-all", "../../cmd/fantail/admin.go", `r.URL.Path == loginPath, file`, `r.URL.Path != "/x", file`}, "TestOperatorLogsIn"},
	{bug{"observed-readers-refused", "../stay.go", `	case denial != nil && dec.observed:
		s.logObserved(r, denial)
		return nil, nil //nolint:nilnil // it would be refused, and is not counted
`, ``}, "TestObservedLimits"},
}
