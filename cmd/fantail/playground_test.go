package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Web pages of other origins, and of a name that points at this machine, kill no node. A
// link to the page works.
func TestPlaygroundRefusesOtherPages(t *testing.T) {
	f := startFleet(t, 1)
	base, addr := f.page.url(), f.page.listener.Addr().String()
	send := func(method, path, host string, header ...string) (int, http.Header) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(`{"stream":"/v1/stream/x","readers":1}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		a, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = a.Body.Close()
		return a.StatusCode, a.Header
	}
	strangers := map[string][]string{
		"another origin":             {addr, "Origin", "https://evil.example"},
		"another origin, which says": {addr, "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"},
		"a page on another port":     {addr, "Origin", "http://127.0.0.1:3000", "Sec-Fetch-Site", "same-site"},
		"a frame without an origin":  {addr, "Origin", "null"},
		"a name that points here":    {"evil.example:" + addr[strings.LastIndex(addr, ":")+1:]},
		"that name, as its own page": {"evil.example", "Origin", "http://evil.example", "Sec-Fetch-Site", "same-origin"},
	}
	for who, header := range strangers {
		for _, path := range []string{"dev/nodes/node-1/kill", "dev/nodes/node-1/stop", "dev/readers"} {
			if code, _ := send("POST", path, header[0], header[1:]...); code != http.StatusForbidden {
				t.Errorf("%s: POST %s: %d", who, path, code)
			}
		}
	}
	for _, path := range []string{"dev/nodes/node-1/kill", "admin/fleet", "dev/nodes"} {
		if code, h := send("GET", path, addr, "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"); code != http.StatusForbidden || h.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("GET %s: %d", path, code)
		}
	}
	if f.places[0].running() == nil {
		t.Fatal("the node was killed")
	}
	for path, want := range map[string]int{"": 200, "page/app.js": 403} {
		if code, _ := send("GET", path, addr, "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"); code != want {
			t.Errorf("a link to /%s: %d, want %d", path, code, want)
		}
	}
	if code, _ := send("GET", "", addr, "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe"); code != http.StatusForbidden {
		t.Errorf("a frame: %d", code)
	}
	if code, _ := send("GET", "", "evil.example", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"); code != http.StatusForbidden {
		t.Errorf("a link by another name: %d", code)
	}
}

// A node is killed and started again from the playground, and another one is stopped. Readers and
// writers lose nothing, and the readers that were added come back.
func TestPlaygroundKillsAndStartsNodes(t *testing.T) {
	const readers, added = 9, 30
	f, c := startFleet(t, 3), newClient(t)
	toys := func() (r toyReport) {
		t.Helper()
		if err := json.Unmarshal(c.must(t, 200, "GET", f.page.url()+"dev/nodes", "").body, &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	do := func(status int, name, verb string) {
		t.Helper()
		c.must(t, status, "POST", f.page.url()+"dev/nodes/"+name+"/"+verb, "")
	}
	ready := func() int {
		t.Helper()
		var r fleetReport
		if err := json.Unmarshal(c.must(t, 200, "GET", f.page.url()+"admin/fleet", "").body, &r); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, m := range r.Members {
			if m.Node != nil && m.Node.Ready {
				n++
			}
		}
		return n
	}
	url := func(i int) string { return f.places[i%3].origin() + "/v1/stream/s" }
	c.must(t, 201, "PUT", url(0), "", ofJSON...)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	all, ended := c.follow(ctx, t, readers, 40*time.Second, func(i, try int) string { return url(i + try) })
	c.must(t, 200, "POST", f.page.url()+"dev/readers", fmt.Sprintf(`{"stream":"/v1/stream/s","readers":%d}`, added))
	n := 0
	write := func() {
		writeSurely(ctx, t, c, url, 0, n)
		n++
	}
	await := func(what string, ok func() bool) {
		t.Helper()
		eventually(t, 40*time.Second, what, func() bool {
			write()
			return ok()
		})
	}
	await("every reader is there, every node ready", func() bool { return toys().Readers.Connected == added && ready() == 3 })
	do(409, "node-2", "start")
	do(404, "node-4", "kill")
	do(404, "node-2", "burn")
	do(200, "node-2", "kill")
	do(409, "node-2", "kill")
	if s := toys().Nodes[1].State; s != devKilled {
		t.Errorf("node-2 is %s", s)
	}
	await("the readers are at the others", func() bool { return toys().Readers.Connected == added && ready() == 2 })
	do(200, "node-2", "start")
	await("it is back", func() bool { return ready() == 3 })
	do(200, "node-1", "stop") // the playground asks another node from now on
	await("the others serve", func() bool { return toys().Readers.Connected == added && ready() == 2 })
	c.must(t, 200, "POST", f.page.url()+"dev/readers", `{"stream":"/v1/stream/s","readers":0}`)
	if r := toys().Readers; r.Connected != 0 || r.Wanted != 0 {
		t.Errorf("readers that were sent away: %+v", r)
	}
	c.must(t, 400, "POST", f.page.url()+"dev/readers", `{"stream":"http://elsewhere/","readers":1}`)
	want := c.readAll(t, url(1))
	eventually(t, 20*time.Second, "every message is delivered", func() bool {
		for _, r := range all {
			if r.count.Load() < int64(len(want)) {
				return false
			}
		}
		return true
	})
	stop()
	ended()
	if len(want) != n {
		t.Errorf("%d messages in the stream, %d were written", len(want), n)
	}
	for i, r := range all {
		wantSame(t, fmt.Sprintf("reader %d", i), r.got, want)
	}
}
