package main

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/s2-streamstore/s2-sdk-go/s2"
)

// A program that uses S2 directly, and knows nothing of Fantail, writes to the same stream and
// reads from it: its records reach SSE readers on every node, and our records are plain records for
// it.
func TestNativeProgramsShareAStream(t *testing.T) {
	f := startFleet(t, 3)
	c := newClient(t)
	c.must(t, 201, "PUT", f.url(0, "shared"), "", "Content-Type", "application/json")
	base := f.s2.URL() + "/v1"
	conns := &http.Transport{}
	t.Cleanup(conns.CloseIdleConnections)
	native := s2.New("none", &s2.ClientOptions{
		BaseURL: base, MakeBasinBaseURL: func(string) string { return base }, HTTPClient: &http.Client{Transport: conns},
	}).Basin(devBasin).Stream("default/shared")

	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	readers := make([]*reader, 3)
	var reading sync.WaitGroup
	for i := range readers {
		r := &reader{client: c, url: func(int) string { return f.url(i, "shared") }}
		readers[i] = r
		reading.Go(func() {
			if err := r.run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	session, err := native.ReadSession(ctx, &s2.ReadOptions{SeqNum: new(uint64)})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	for _, m := range []string{`"1 native"`, `"2 ours"`, `"3 native"`, `"4 ours"`} {
		if m[3] == 'o' {
			c.must(t, 204, "POST", f.url(int(m[1]), "shared"), m, "Content-Type", "application/json")
			continue
		}
		if _, err := native.Append(ctx, &s2.AppendInput{Records: []s2.AppendRecord{{Body: []byte(m)}}}); err != nil {
			t.Fatal(err)
		}
	}
	var seen []string
	for len(seen) < 4 && session.Next() {
		if body := session.Record().Body; len(body) > 0 { // control records have none
			seen = append(seen, string(body))
		}
	}
	wantSame(t, "the native reader", seen, []string{`"1 native"`, `"2 ours"`, `"3 native"`, `"4 ours"`})
	c.must(t, 204, "POST", f.url(2, "shared"), "", "Stream-Closed", "true")
	reading.Wait()
	for _, r := range readers {
		wantSame(t, "an SSE reader", r.got, []string{"1 native", "2 ours", "3 native", "4 ours"})
	}
}
