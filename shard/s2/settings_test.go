package s2

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/shard"
)

func TestStreamsAreLocatedInBasins(t *testing.T) {
	for _, c := range []struct {
		cfg           Config
		id            shard.StreamID
		basin, stream string
		denied        bool
	}{
		{Config{Basin: "fantail-dev"}, "p/a/b", "fantail-dev", "p/a/b", false},
		{Config{BasinTemplate: "ds-{project}"}, "project/a/b", "ds-project", "a/b", false},
		{Config{BasinTemplate: "ds-{project}"}, "UPPER/a", "", "", true},
		{Config{BasinMap: map[string]string{"p": "basin-of-p"}}, "p/a", "basin-of-p", "a", false},
		{Config{BasinMap: map[string]string{"p": "basin-of-p"}}, "q/a", "", "", true},
		{Config{Basin: "fantail-dev"}, "noproject", "", "", true},
	} {
		t.Run(string(c.id), func(t *testing.T) {
			basin, stream, err := c.cfg.locate(c.id)
			if basin != c.basin && !c.denied || stream != c.stream && !c.denied || errors.Is(err, shard.ErrLogDenied) != c.denied {
				t.Errorf("%s: %s %s %v", c.id, basin, stream, err)
			}
		})
	}
}

func TestConfigErrorsAreReportedTogether(t *testing.T) {
	_, err := Open(Config{Basin: "x"})
	for _, want := range []string{"token", "basin \"x\""} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}

// No two projects ever share streams, and no setting is ignored.
func TestProjectsNeverShareStreams(t *testing.T) {
	for want, cfg := range map[string]Config{
		"{project}":    {BasinTemplate: "one-for-all"},
		"share":        {BasinMap: map[string]string{"a": "basin-of-both", "b": "basin-of-both"}},
		"want one of":  {BasinMap: map[string]string{"a": "basin-of-a"}, BasinTemplate: "ds-{project}"},
		"want one of ": {Basin: "fantail-dev", BasinTemplate: "ds-{project}"},
	} {
		t.Run(want, func(t *testing.T) {
			cfg.Token = "t"
			if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v", cfg, err)
			}
		})
	}
}

// An impossible endpoint is refused at the start, with advice. Other spellings of a valid endpoint
// are equal to it.
func TestEndpointIsNormalized(t *testing.T) {
	for given, want := range map[string]string{
		"": "", "http://127.0.0.1:4430": "http://127.0.0.1:4430", "HTTP://S2.Example:5500/": "http://s2.example:5500",
		" https://s2.example/v1\n": "https://s2.example", "http://[::1]:4430/v1/": "http://[::1]:4430",
		"https://gate.example/s2/": "https://gate.example/s2", "http://s2_lite:80": "http://s2_lite:80",
	} {
		t.Run(fmt.Sprintf("%q", given), func(t *testing.T) {
			c := Config{Endpoint: given, Token: "t", Basin: testBasin}
			if wrong := c.Check(); len(wrong) > 0 || c.Endpoint != want {
				t.Errorf("%q: %q %v, want %q", given, c.Endpoint, wrong, want)
			}
		})
	}
	for given, want := range map[string]string{
		"127.0.0.1:5500": "write http://127.0.0.1:5500 or", "s2:5500": "write http://s2:5500 or", "s2": "no scheme",
		"ftp://s2": "want http or https", "://s2": "want http or https", "http://": "names no host", "http:///v1": "names no host",
		"http://:80": "names no host", "http://s2:": "port", "http://s2:0": "port", "http://s2:70000": "port", "http://s2:x": "no URL",
		"http://a b": "blanks", "http://s2\x00": "control", "http://s\u00fc": "ASCII", "http://me:secret@s2": "user",
		"http://s2?x=1": "query", "http://s2/#x": "query", "http://s2/a%2fb": "plain path", "http://s2//v1": "plain path", "http://s2/../v1": "plain path",
		"http:/s2": "no scheme", "http:s2": "no scheme",
	} {
		t.Run(fmt.Sprintf("%q", given), func(t *testing.T) {
			_, err := Open(Config{Endpoint: given, Token: "t", Basin: testBasin})
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%q: %v, want %q", given, err, want)
			}
		})
	}
}

// A token is valid if it fits into a header.
func TestTokenIsNormalized(t *testing.T) {
	for given, want := range map[string]string{"t": "t", " t\n": "t", "a.b_c-d=": "a.b_c-d="} {
		t.Run(given, func(t *testing.T) {
			c := Config{Token: given, Basin: testBasin}
			if wrong := c.Check(); len(wrong) > 0 || c.Token != want {
				t.Errorf("%q: %q %v", given, c.Token, wrong)
			}
		})
	}
	for _, given := range []string{"two words", "two\nlines", "a\x00b", "t\u00f6ken", " "} {
		c := Config{Token: given, Endpoint: "http://s2", Basin: testBasin}
		wrong := c.Check()
		if len(wrong) != 1 || wrong[0].Setting != "token" || strings.Contains(wrong[0].Error(), strings.TrimSpace(given)+"x") {
			t.Errorf("%q: %v", given, wrong)
		}
	}
}

// A template names valid basins under a prefix of the operator's own.
func TestTemplateIsChecked(t *testing.T) {
	for _, good := range []string{"ds-{project}", "d{project}", "ds-{project}-eu", "a-{project}-{project}"} {
		if err := checkTemplate(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for given, want := range map[string]string{
		"ds": "no {project}", "{project}": "prefix", "{project}-eu": "prefix", "ds-{project}-{env}": "placeholder", "ds-{Project}": "no {project}",
		"ds-{project": "no {project}", "ds-{project}}": "placeholder", "DS-{project}": "a-z", "ds_{project}": "a-z", "-{project}": "a-z",
		"ds-{project}-": "a-z", "d s-{project}": "a-z", strings.Repeat("d", 48) + "{project}": "at most",
	} {
		t.Run(fmt.Sprintf("%q", given), func(t *testing.T) {
			if err := checkTemplate(given); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %q", given, err, want)
			}
		})
	}
	for _, bad := range []map[string]string{{"": "basin-of-a"}, {" a": "basin-of-a"}, {"a/b": "basin-of-a"}, {"a": "Basin-of-a"}, {"a": " basin-of-a"}, {"a": "short"}} {
		if checkBasinMap(bad) == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

// Clients that invent projects do not cause the creation of a basin for each.
func TestInventedProjectsDoNotCreateManyBasins(t *testing.T) {
	r := newTestEnv(t)
	log, err := Open(Config{Endpoint: r.server.URL(), BasinTemplate: "made-for-{project}", CreateBasins: true})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	made := 0
	for i := range 3 * createBasinBurst {
		switch err := log.Create(t.Context(), shard.StreamID(fmt.Sprintf("p%d/s", i))); {
		case err == nil:
			made++
		case !errors.Is(err, shard.ErrLogBusy):
			t.Error(err)
		}
	}
	if made < createBasinBurst || made > createBasinBurst+2 {
		t.Errorf("%d basins were made", made)
	}
	if err := log.Create(t.Context(), "p0/another"); err != nil {
		t.Errorf("in a basin that is there: %v", err)
	}
}

func TestErrorsAreClassified(t *testing.T) {
	server := func(status int, code string) error {
		return &s2.S2Error{Status: status, Code: code, Origin: "server", Message: "m"}
	}
	for _, c := range []struct {
		err  error
		want error
	}{
		{server(404, "stream_not_found"), shard.ErrNoLog},
		{server(409, "stream_deletion_pending"), shard.ErrNoLog},
		{server(404, "basin_not_found"), shard.ErrLogDenied},
		{server(http.StatusForbidden, "permission_denied"), shard.ErrLogDenied},
		{server(422, "invalid"), shard.ErrLogDenied},
		{server(429, "rate_limited"), shard.ErrLogBusy},
		{server(502, "hot_server"), shard.ErrLogBusy},
		{server(503, "server_draining"), shard.ErrLogBusy},
		{server(409, "transaction_conflict"), shard.ErrLogBusy},
		{server(408, "request_timeout"), shard.ErrAppendUnknown},
		{server(503, "unavailable"), shard.ErrAppendUnknown},
		{server(500, "storage"), shard.ErrAppendUnknown},
		{errors.New("connection reset"), shard.ErrAppendUnknown},
	} {
		t.Run(c.err.Error(), func(t *testing.T) {
			if got := new(Config).classifyAppend(c.err); !errors.Is(got, c.want) {
				t.Errorf("%v: %v, want %v", c.err, got, c.want)
			}
		})
	}
}
