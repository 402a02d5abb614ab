package access

import (
	"strconv"
	"strings"
	"testing"
	"time"
)

func signingKey(t testing.TB, id, secret string) SigningKey {
	t.Helper()
	k, err := NewSigningKey(id, []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

const signingSecret = "correct-horse-battery-staple-0123456789"

// The vector that README shows; Node, Python and openssl make the same of it.
func TestSignedURLVector(t *testing.T) {
	t.Parallel()
	got := signingKey(t, "k1", signingSecret).Sign("acme/chat/room 1/é", 1767225600)
	if want := "MngUFq_tam1W5gCAYEpwPsEBRTOtdMelATeLaKxkDV4"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// An answer may be kept for the shortest of what the project, the credential and the answer allow.
func TestAnswersAreKeptForTheirTimeAtMost(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		v      Verdict
		within uint8
		want   string
	}{
		{Verdict{Public: true, maxAge: 60}, 60, "public, max-age=60, " + NeverStale},
		{Verdict{Public: true, maxAge: 60}, 20, "public, max-age=20, " + NeverStale},
		{Verdict{Public: true, maxAge: 5}, 20, "public, max-age=5, " + NeverStale},
		{Verdict{Public: true, maxAge: 5}, 0, "public, max-age=0, " + NeverStale},
		{Verdict{Signed: true, maxAge: 60}, 20, "private, max-age=20"},
		{Verdict{Signed: true, maxAge: 3}, 20, "private, max-age=3"},
		{Verdict{Signed: true}, 20, "private, no-cache"},
		{Verdict{Cookie: true, maxAge: 60}, 20, "private, no-cache"},
		{Verdict{}, 20, "private, no-cache"},
	} {
		if got := row.v.CacheControlWithin(row.within); got != row.want {
			t.Errorf("%+v within %d s: %q, want %q", row.v, row.within, got, row.want)
		}
		if row.v.IsKept() != (row.v.Public && row.v.maxAge > 0) {
			t.Errorf("%+v: kept by shared caches: %v", row.v, row.v.IsKept())
		}
	}
}

// A signed URL is good for one stream, by a key of its project, until its time.
func TestSignedURLIsChecked(t *testing.T) {
	t.Parallel()
	const stream, now = "acme/room", 1_800_000_000
	keys := []projectSecret{{SigningKey: signingKey(t, "old", signingSecret+"-old")}, {SigningKey: signingKey(t, "k1", signingSecret)}}
	sign := func(stream string, exp int64) string { return keys[1].Sign(stream, exp) }
	for name, row := range map[string]struct {
		exp  string
		kid  string
		sum  string
		want Reason
	}{
		"good":                  {"1800000060", "k1", sign(stream, now+60), ""},
		"by an older key":       {"1800000060", "old", keys[0].Sign(stream, now+60), ""},
		"within the leeway":     {"1799999971", "k1", sign(stream, now-29), ""},
		"expired":               {"1799999970", "k1", sign(stream, now-30), ReasonExpired},
		"for a day":             {"1800086400", "k1", sign(stream, now+86400), ""},
		"for longer":            {"1800086431", "k1", sign(stream, now+86431), ReasonTooLongLived},
		"of another stream":     {"1800000060", "k1", sign("acme/room2", now+60), ReasonBadSignature},
		"of another project":    {"1800000060", "k1", sign("beta/room", now+60), ReasonBadSignature},
		"of another time":       {"1800000061", "k1", sign(stream, now+60), ReasonBadSignature},
		"by another key":        {"1800000060", "old", sign(stream, now+60), ReasonBadSignature},
		"by no key":             {"1800000060", "k2", sign(stream, now+60), ReasonUnknownKey},
		"without a kid":         {"1800000060", "", sign(stream, now+60), ReasonURLMalformed},
		"without a time":        {"", "k1", sign(stream, now+60), ReasonURLMalformed},
		"a zero before":         {"01800000060", "k1", sign(stream, now+60), ReasonURLMalformed},
		"a plus before":         {"+1800000060", "k1", sign(stream, now+60), ReasonURLMalformed},
		"a fraction":            {"1800000060.0", "k1", sign(stream, now+60), ReasonURLMalformed},
		"below zero":            {"-1", "k1", sign(stream, -1), ReasonURLMalformed},
		"beyond all":            {"99999999999999999999", "k1", sign(stream, now), ReasonURLMalformed},
		"padded":                {"1800000060", "k1", sign(stream, now+60) + "=", ReasonURLMalformed},
		"short":                 {"1800000060", "k1", sign(stream, now+60)[:42], ReasonURLMalformed},
		"in other letters":      {"1800000060", "k1", strings.ToUpper(sign(stream, now+60)), ReasonBadSignature},
		"a name with a newline": {strconv.Itoa(now + 60), "k1", sign("acme/room\n1", now+60), ReasonBadSignature},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, no := Signature{row.exp, row.kid, row.sum}.check(keys, stream, time.Unix(now, 0))
			got := Reason("")
			if no != nil {
				got = no.Reason
			}
			if got != row.want {
				t.Errorf("%v, want %q", no, row.want)
			}
		})
	}
	if _, err := NewSigningKey("k", []byte("short")); err == nil {
		t.Error("a short secret is taken")
	}
}
