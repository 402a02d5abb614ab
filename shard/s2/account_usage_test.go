package s2

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"
)

// fakeMetrics is an S2 that has metrics of basins, as S2 documents them, and nothing else.
func fakeMetrics(t *testing.T, answer func(basin, set string) (status int, body string)) *Log {
	t.Helper()
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, _ := strconv.ParseInt(r.FormValue("start"), 10, 64)
		until, _ := strconv.ParseInt(r.FormValue("end"), 10, 64)
		if r.Header.Get("Authorization") != "Bearer t0ken" || until-from != 3600 || r.FormValue("interval") != "minute" {
			t.Errorf("%s %v", r.URL, r.Header)
		}
		status, body := answer(r.PathValue("basin"), r.FormValue("set"))
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	mux := http.NewServeMux()
	mux.Handle("GET /v1/metrics/{basin}", hs.Config.Handler)
	hs.Config.Handler = mux
	t.Cleanup(hs.Close)
	log, err := Open(Config{Endpoint: hs.URL, Token: "t0ken", BasinMap: map[string]string{"a": "basin-aa", "b": "basin-bb"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	return log
}

// accumulation is a series of S2's.
func accumulation(name string, values ...float64) string {
	points := ""
	for i, v := range values {
		if i > 0 {
			points += ","
		}
		points += fmt.Sprintf("[%d,%g]", 1_700_000_000+60*i, v)
	}
	return fmt.Sprintf(`{"accumulation":{"interval":"minute","name":%q,"unit":"operations","values":[%s]}}`, name, points)
}

// The usage is the sum over basins and minutes; what S2 adds to its answers later does not matter.
func TestUsageIsSummedOverBasins(t *testing.T) {
	log := fakeMetrics(t, func(basin, set string) (int, string) {
		switch basin + " " + set {
		case "basin-aa read-ops":
			return 200, `{"values":[` + accumulation("streaming", 1, 2, 3) + `,` + accumulation("unary", 10) + `,{"scalar":{"name":"new","unit":"bytes","value":5}}]}`
		case "basin-aa append-ops":
			return 200, `{"values":[` + accumulation("express", 100, 200) + `,` + accumulation("standard", 1000) + `],"new":true}`
		case "basin-bb read-ops":
			return 200, `{"values":[` + accumulation("streaming", 4) + `]}`
		}
		return 200, `{"values":[]}`
	})
	now := time.Unix(1_700_003_600, 0)
	u, err := log.AskUsage(t.Context(), now)
	if want := (Usage{From: now.Add(-time.Hour), Until: now, SessionMinutes: 10, Reads: 10, Appends: 1300}); err != nil || u != want {
		t.Errorf("%+v, %v", u, err)
	}
}

// What an S2 without metrics answers, or one that refuses the token, is final; anything else is not.
func TestUsageThatCannotBeAsked(t *testing.T) {
	for status, final := range map[int]bool{401: true, 403: true, 404: true, 501: true, 429: false, 500: false, 503: false} {
		log := fakeMetrics(t, func(string, string) (int, string) { return status, `{"code":"x","message":"no"}` })
		if _, err := log.AskUsage(t.Context(), time.Now()); err == nil || errors.Is(err, ErrNoUsage) != final {
			t.Errorf("%d: %v", status, err)
		}
	}
	if _, err := newTestEnv(t).log.AskUsage(t.Context(), time.Now()); !errors.Is(err, ErrNoUsage) {
		t.Errorf("the embedded S2: %v", err)
	}
	log := fakeMetrics(t, func(string, string) (int, string) { return 200, "<html>" })
	if _, err := log.AskUsage(t.Context(), time.Now()); err == nil || errors.Is(err, ErrNoUsage) {
		t.Errorf("nonsense: %v", err)
	}
}

// Settings that name no basins, or too many, cannot have it.
func TestUsageNeedsNamedBasins(t *testing.T) {
	many := map[string]string{}
	for i := range maxUsageBasins + 1 {
		many[fmt.Sprint(i)] = fmt.Sprintf("basin-%04d", i)
	}
	for name, c := range map[string]struct {
		cfg Config
		ok  bool
	}{
		"one basin":     {Config{Basin: "basin-aa"}, true},
		"a map":         {Config{BasinMap: map[string]string{"a": "basin-aa"}}, true},
		"a template":    {Config{BasinTemplate: "ds-{project}", HomeBasin: "basin-aa"}, false},
		"a map of many": {Config{BasinMap: many}, false},
	} {
		if err := c.cfg.CheckUsage(); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
