package s2

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/shard"
)

func TestPlace(t *testing.T) {
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
		basin, stream, err := c.cfg.place(c.id)
		if basin != c.basin && !c.denied || stream != c.stream && !c.denied || errors.Is(err, shard.ErrLogDenied) != c.denied {
			t.Errorf("%s: %s %s %v", c.id, basin, stream, err)
		}
	}
}

func TestConfigErrorsAllAtOnce(t *testing.T) {
	_, err := Open(Config{Basin: "x"})
	for _, want := range []string{"token", "basin \"x\""} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}

// Two projects never share streams, and no setting is passed over.
func TestConfigOfBasins(t *testing.T) {
	for want, cfg := range map[string]Config{
		"{project}":    {BasinTemplate: "one-for-all"},
		"share":        {BasinMap: map[string]string{"a": "basin-of-both", "b": "basin-of-both"}},
		"one of":       {BasinMap: map[string]string{"a": "basin-of-a"}, BasinTemplate: "ds-{project}"},
		"want one of ": {Basin: "fantail-dev", BasinTemplate: "ds-{project}"},
	} {
		cfg.Token = "t"
		if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

func TestClassify(t *testing.T) {
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
		{server(408, "request_timeout"), shard.ErrUnknown},
		{server(503, "unavailable"), shard.ErrUnknown},
		{server(500, "storage"), shard.ErrUnknown},
		{errors.New("connection reset"), shard.ErrUnknown},
	} {
		if got := new(Config).appendErr(c.err); !errors.Is(got, c.want) {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
}
