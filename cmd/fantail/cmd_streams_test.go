package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// fantail runs a command as the process does, with its standard input, and returns what it printed.
func fantail(t *testing.T, in string, args ...string) (out string, err error) {
	t.Helper()
	c := typed(in)
	err = runCommand(t.Context(), c.stdio(), args)
	return c.out.String(), err
}

// runCommand runs a command as run does, without the variables of this process.
func runCommand(ctx context.Context, s stdio, args []string) error {
	var c cli
	parser, err := newParser(&c)
	if err != nil {
		return err
	}
	cmd, err := parser.Parse(args)
	if err != nil {
		return err
	}
	cmd.BindTo(ctx, (*context.Context)(nil))
	cmd.Bind(s, parser)
	return cmd.Run(quietLog, logFormat("text"), repeatedStop(nil))
}

// mustPrint runs a command that must succeed, and returns what it printed.
func mustPrint(t *testing.T, in string, args ...string) string {
	t.Helper()
	out, err := fantail(t, in, args...)
	if err != nil {
		t.Fatalf("fantail %q: %v", args, err)
	}
	return out
}

// mustExit runs a command that must fail with a code, and returns its error.
func mustExit(t *testing.T, code int, args ...string) error {
	t.Helper()
	_, err := fantail(t, "", args...)
	expectExit(t, fmt.Sprintf("fantail %q", args), err, code)
	return err
}

// One message is not "1 messages".
func TestAppendCountsInWords(t *testing.T) {
	for want, r := range map[string]appendResult{
		"appended 0 messages, 0 bytes, closed; next offset x\n": {Closed: true, NextOffset: "x"},
		"appended 1 message, 1 byte; next offset x\n":           {Messages: 1, Bytes: 1, NextOffset: "x"},
		"appended 2 messages, 10 bytes; next offset x\n":        {Messages: 2, Bytes: 10, NextOffset: "x"},
	} {
		var out bytes.Buffer
		if err := (&appendCmd{}).report(stdio{out: &out}, r); err != nil || out.String() != want {
			t.Errorf("%q, want %q (%v)", out.String(), want, err)
		}
	}
}

// The commands about one stream, on different nodes of an open fleet.
func TestStreamCommands(t *testing.T) {
	f := startFleet(t, 3)
	at := func(i int) string { return "--url=" + strings.TrimSuffix(f.url(i, ""), "/v1/stream/") }
	stream := f.url(0, "default/room")
	if got := mustPrint(t, "", "new", "room", at(0)); got != "created "+f.url(0, "room")+"\n" {
		t.Errorf("new: %q", got)
	}
	if got := mustPrint(t, "", "new", stream, at(1)); got != "exists "+stream+"\n" {
		t.Errorf("new again: %q", got)
	}
	mustExit(t, exitConflict, "new", "room", "--type=text/plain", at(0))
	if got := mustPrint(t, "", "append", "room", `{"n":1}`, `2`, at(1)); !strings.HasPrefix(got, "appended 2 messages, 8 bytes; next offset ") {
		t.Errorf("append: %q", got)
	}
	var r appendResult
	if err := json.Unmarshal([]byte(mustPrint(t, "3 [4,\n 5]\n\"six\"{ \"n\":\n7}", "append", "room", "--json", at(2))), &r); err != nil || r.Messages != 5 || r.Requests == 0 {
		t.Errorf("append: %+v, %v", r, err)
	}
	const want = "{\"n\":1}\n2\n3\n4\n5\n\"six\"\n{\"n\":7}\n"
	if got := mustPrint(t, "", "tail", "room", at(0)); got != want {
		t.Errorf("tail: %q", got)
	}
	var info struct {
		URL, ContentType, NextOffset string
		Closed                       bool
	}
	if err := json.Unmarshal([]byte(mustPrint(t, "", "info", "room", "--json", at(1))), &info); err != nil || info.NextOffset != r.NextOffset || info.ContentType != jsonType {
		t.Errorf("info: %+v, %v", info, err)
	}
	var first struct{ NextOffset string }
	line, _, _ := strings.Cut(mustPrint(t, "", "tail", "room", "--json", at(1)), "\n")
	if err := json.Unmarshal([]byte(line), &first); err != nil || first.NextOffset != r.NextOffset {
		t.Errorf("tail --json: %s, %v", line, err)
	}
	mustPrint(t, "", "fork", "room", "side", "--offset=-1", "--sub-offset=2", at(2))
	mustPrint(t, "", "append", "side", `"end"`, "--close", at(0))
	for _, follow := range []string{"--live=sse", "--live=long-poll"} {
		if got := mustPrint(t, "", "tail", "-f", follow, "side", at(1)); got != "{\"n\":1}\n2\n\"end\"\n" {
			t.Errorf("the fork: %q", got)
		}
	}
	if err := mustExit(t, exitConflict, "append", "side", "1", at(0)); !strings.Contains(err.Error(), "stream-closed") {
		t.Errorf("%v", err)
	}
	mustPrint(t, "", "rm", "side", "room", at(0))
	mustExit(t, exitNotFound, "rm", "room", at(0))
	mustPrint(t, "", "rm", "-f", "room", at(0))
	mustExit(t, exitNotFound, "tail", "room", at(0))
	mustExit(t, exitNotFound, "append", "room", "1", at(0))
	if err := mustExit(t, exitNotFound, "info", "room", at(0)); !strings.Contains(err.Error(), "fantail new") {
		t.Errorf("info: %v", err)
	}
}

// The forms of input, and that they come out as they went in.
func TestAppendForms(t *testing.T) {
	f := startFleet(t, 1)
	at := "--url=" + strings.TrimSuffix(f.url(0, ""), "/v1/stream/")
	binary := string([]byte{0, 1, 0xff, '\r', '\n', 0xfe}) + strings.Repeat("x", 3<<20)
	for _, row := range []struct{ name, in, contentType string }{
		{"lines", "one\n\n three\r\nfour", "text/plain"},
		{"bytes", binary, "application/octet-stream"},
		{"nothing", "", "text/plain"},
	} {
		mustPrint(t, row.in, "append", row.name, "--create", "--type="+row.contentType, at)
		if got := mustPrint(t, "", "tail", row.name, at); got != row.in {
			t.Errorf("%s: %d bytes, want %d", row.name, len(got), len(row.in))
		}
		if got := mustPrint(t, "", "tail", "-f", "--live=long-poll", "--for=300ms", row.name, at); got != row.in {
			t.Errorf("%s, followed: %d bytes, want %d", row.name, len(got), len(row.in))
		}
	}
	mustExit(t, exitUsage, "append", "json", "{", "--create", at)
	mustPrint(t, "", "append", "lines", "x", "-q", at)
	mustExit(t, exitConflict, "append", "lines", "1", "--type=application/json", at)
	mustExit(t, exitUsage, "tail", "lines", "-n=3", "--since=1m", at)
	mustExit(t, exitUsage, "tail", at)
	mustExit(t, exitUsage, "tail", "a//b", at)
	mustExit(t, exitUsage, "append", "lines", "--token-file=-", at)
	for _, n := range []int{1, 2} { // a line that needs more than one request's place is not split
		long := strings.Repeat("y", n*maxBatchSize-1) + "\n"
		mustPrint(t, long+long, "append", fmt.Sprint("long", n), "--create", "--type=text/plain", at)
		if got := mustPrint(t, "", "tail", fmt.Sprint("long", n), at); got != long+long {
			t.Errorf("%d bytes", len(got))
		}
	}
}

// A server that cannot be reached, and one that is none.
func TestUnreachableServer(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") }))
	defer other.Close()
	mustExit(t, exitUnavailable, "info", "room", "--url="+freePorts(t, 1)[0], "--patience=200ms")
	if err := mustExit(t, 1, "tail", "room", "--url="+other.URL); !strings.Contains(err.Error(), "Durable Streams") {
		t.Errorf("%v", err)
	}
	mustExit(t, exitUsage, "tail", "room", "--url=ftp://x")
	mustExit(t, exitUsage, "tail", "room", "--token=a", "--token-file=b")
	mustExit(t, exitUsage, "tail", "--no-such-flag")
}

// The commands over TLS, with a token from a file or a variable, and with a signed URL.
func TestStreamCommandsWithRightsOverTLS(t *testing.T) {
	t.Parallel()
	cert, key := certificatePaths(t)
	writeCertificate(t, 1, cert, key)
	ps := startProcesses(t, 0)
	rights, _ := rightsOf(t, ps.run)
	bearer := bearerOf(t, "ada")[1]
	secret := writeTestFile(t, "signing", strings.Repeat("s", 40))
	addSigning(t, rights, ps.run, secret)
	node := ps.spawn(t, 0, "--tls-cert="+cert, "--tls-key="+key, "--auth="+rights)
	at := []string{"--url=https://" + node.addr("http"), "--ca=" + cert}
	token := writeTestFile(t, "token", bearer+"\n")
	withToken := append(slices.Clone(at), "--token-file="+token)
	room := ps.run + "/rooms/a b"
	mustPrint(t, "", append([]string{"new", room}, withToken...)...)
	mustPrint(t, "", append([]string{"append", room, "1", "--token=" + strings.TrimPrefix(bearer, "Bearer ")}, at...)...)
	mustExit(t, exitTokenRefused, append([]string{"tail", room}, at...)...)
	mustExit(t, exitTokenRefused, append([]string{"tail", room, "--token=abc"}, at...)...)
	if err := mustExit(t, exitNotAllowed, append([]string{"new", ps.run + "/secret"}, withToken...)...); !strings.Contains(err.Error(), "not_granted") {
		t.Errorf("%v", err)
	}
	signed := typed("")
	if err := (&signCmd{Stream: room, Key: secret, KID: "k1", TTL: time.Minute, URL: at[0][len("--url="):] + "/v1/stream"}).run(signed.stdio(), time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"tail", "--url-file=-"}, {"tail", "-f", "--for=300ms", "--url-file=-"}, {"tail", "-f", "--for=300ms", "--live=long-poll", "--url-file=-"}} {
		if got := mustPrint(t, signed.out.String(), append(args, at[1])...); got != "1\n" {
			t.Errorf("%v: %q", args, got)
		}
	}
	if err := mustExit(t, exitNotAllowed, "append", strings.TrimSpace(signed.out.String()), "2", "--type=application/json", at[1]); strings.Contains(err.Error(), "x-sig") {
		t.Errorf("the signature is in %v", err)
	}
	mustExit(t, 1, "info", room, at[0], "--token-file="+token) // an unknown authority is final
}

// addSigning adds to a file of rights a secret for signed URLs.
func addSigning(t *testing.T, rights, project, secret string) {
	t.Helper()
	replaceInFile(t, rights, project+": { ", fmt.Sprintf("%s: { sign: [ { kid: k1, secret: %s } ], ", project, secret))
}

// flakyProxy stands between a client and a server. It loses answers, answers 503, and cuts answers
// with events.
type flakyProxy struct {
	target   string
	requests atomic.Int64
	lost     atomic.Int64
	cut      atomic.Int64
}

func (p *flakyProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := p.requests.Add(1)
	if n%5 == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	out, _ := http.NewRequestWithContext(r.Context(), r.Method, p.target+r.URL.RequestURI(), r.Body)
	out.Header = r.Header
	resp, err := http.DefaultClient.Do(out)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer resp.Body.Close()
	if r.Method == http.MethodPost && n%3 == 0 {
		p.lost.Add(1)
		panic(http.ErrAbortHandler) // the append is done, and its answer lost
	}
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	if r.URL.Query().Get("live") != "sse" {
		_, _ = io.Copy(w, resp.Body)
		return
	}
	_ = http.NewResponseController(w).Flush()
	for left := 150 + 37*int(n%11); ; {
		b := make([]byte, left)
		k, err := resp.Body.Read(b)
		_, _ = w.Write(b[:k])
		_ = http.NewResponseController(w).Flush()
		if left -= k; left <= 0 || err != nil {
			p.cut.Add(1)
			panic(http.ErrAbortHandler)
		}
	}
}

// Appends whose answers are lost are stored once, and a follower whose connections are cut anywhere
// gets each message once, in order.
func TestCommandsSurviveABadConnection(t *testing.T) {
	t.Parallel()
	f := startFleet(t, 3)
	flaky := &flakyProxy{target: strings.TrimSuffix(f.url(1, ""), "/v1/stream/")}
	between := httptest.NewServer(flaky)
	defer between.Close()
	at := "--url=" + between.URL
	mustPrint(t, "", "new", "s", at)
	var in, want strings.Builder
	for i := range 400 {
		fmt.Fprintf(&in, "{\"n\": %d}\n", i)
		fmt.Fprintf(&want, "{\"n\":%d}\n", i)
	}
	got := new(transcript)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var reading sync.WaitGroup
	reading.Go(func() {
		if err := runCommand(ctx, stdio{strings.NewReader(""), got, io.Discard}, []string{"tail", "-f", "s", at}); err != nil {
			t.Error(err)
		}
	})
	for _, part := range slices.Collect(slices.Chunk(strings.SplitAfter(strings.TrimSpace(in.String()), "\n"), 10)) {
		mustPrint(t, strings.Join(part, ""), "append", "s", "--one-by-one", "--type=application/json", at)
	}
	mustPrint(t, "", "append", "s", "--close", "--type=application/json", at)
	reading.Wait()
	if got.String() != want.String() {
		t.Errorf("the follower has\n%s", got)
	}
	if all := mustPrint(t, "", "tail", "s", at); all != want.String() {
		t.Errorf("the stream has\n%s", all)
	}
	if flaky.lost.Load() < 20 || flaky.cut.Load() < 5 {
		t.Errorf("%d answers were lost and %d connections cut: the test proves little", flaky.lost.Load(), flaky.cut.Load())
	}
}

// A bar is for terminals, and nothing of it is in a file.
func TestProgressIsForTerminals(t *testing.T) {
	var b bytes.Buffer
	p := newProgress(&b, "append", 10, countUnit)
	p.add(3)
	p.finish()
	if p != nil || b.Len() > 0 {
		t.Errorf("it printed %q", b.String())
	}
	shown := &progress{out: &b, what: "append", total: 200, format: countUnit, began: time.Now()}
	shown.add(100)
	if got := b.String(); !strings.Contains(got, "append [===============               ]  50 %  100 of 200") {
		t.Errorf("%q", got)
	}
}

// replaceInFile replaces a text in a file.
func replaceInFile(t *testing.T, path, old, with string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), old) {
		t.Fatalf("%s does not have %q", path, old)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(b), old, with, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A listing pages through a project, without the server's own names and those of other projects.
func TestLs(t *testing.T) {
	f := startFleet(t, 2)
	at := "--url=" + strings.TrimSuffix(f.url(1, ""), "/v1/stream/")
	mustPrint(t, "", "new", "acme/rooms/a b", "--ttl=1h", at)
	mustPrint(t, "", "append", "acme/rooms/a b", "1", "--close", at)
	mustPrint(t, "", "new", "acme/rooms/c", "--type=text/plain", at)
	mustPrint(t, "", "new", "acme2/x", at)
	mustPrint(t, "", "new", "gone", at)
	mustPrint(t, "", "rm", "gone", at)
	for prefix, want := range map[string]string{
		"acme/": "acme/rooms/a b\nacme/rooms/c\n", "acme/rooms/c": "acme/rooms/c\n", "acme2/": "acme2/x\n", "": "default/gone\n", "nothing/": "",
	} {
		if got := mustPrint(t, "", "ls", prefix, at); got != want {
			t.Errorf("ls %q: %q, want %q", prefix, got, want)
		}
	}
	if got := mustPrint(t, "", "ls", "acme/", "--after=acme/rooms/a b", at); got != "acme/rooms/c\n" {
		t.Errorf("after: %q", got)
	}
	if got := mustPrint(t, "", "ls", "acme/", "--limit=1", at); got != "acme/rooms/a b\n" {
		t.Errorf("limit: %q", got)
	}
	if got := mustPrint(t, "", "ls", "-l", at); got != "" {
		t.Errorf("a deleted stream is listed: %q", got)
	}
	long := mustPrint(t, "", "ls", "-l", "acme/", at)
	if !strings.Contains(long, "acme/rooms/a b  application/json  closed  ") || !strings.Contains(long, "acme/rooms/c    text/plain        open    ") {
		t.Errorf("ls -l: %s", long)
	}
	var info struct{ NextOffset string }
	if err := json.Unmarshal([]byte(mustPrint(t, "", "info", "acme/rooms/a b", "--json", at)), &info); err != nil || !strings.Contains(long, info.NextOffset) {
		t.Errorf("%v: the offset %q is not in %s", err, info.NextOffset, long)
	}
	if got := mustPrint(t, "", "ls", "-l", "acme/", "--json", at); !strings.Contains(got, `"ttlSeconds":3600`) {
		t.Errorf("ls --json: %s", got)
	}
}

// A project of 100,000 streams is listed whole, and each page takes about as long as the first.
func TestLsOfManyStreams(t *testing.T) {
	f := startFleet(t, 1)
	const streams = 100_000
	basin := f.s2.Direct(devBasin)
	for i := range streams {
		if err := basin.EnsureStream(t.Context(), fmt.Sprintf("many/%07d", i)); err != nil {
			t.Fatal(err)
		}
	}
	at := strings.TrimSuffix(f.url(0, ""), "/v1/stream/")
	c := newClient(t)
	page := func(after string) time.Duration {
		best := time.Hour
		for range 5 {
			began := time.Now()
			a := c.must(t, 200, "GET", at+"/v1/stream/many/__ds/streams?limit=1000&after="+after, "")
			if best = min(best, time.Since(began)); !strings.Contains(string(a.body), `"next":`) {
				t.Fatalf("%.200s", a.body)
			}
		}
		return best
	}
	first, middle := page(""), page("0050000")
	began := time.Now()
	names := mustPrint(t, "", "ls", "many/", "--url="+at)
	t.Logf("the first page of 1,000 takes %v, one in the middle %v, all %v", first, middle, time.Since(began))
	if got := strings.Count(names, "\n"); got != streams || !strings.HasSuffix(names, "many/0099999\n") {
		t.Errorf("%d names", got)
	}
	if middle > 5*first {
		t.Errorf("a page in the middle takes %v, the first %v", middle, first)
	}
}

// The last messages, and the last ones with what comes after them.
func TestTailFromTheEnd(t *testing.T) {
	f := startFleet(t, 2)
	at := "--url=" + strings.TrimSuffix(f.url(0, ""), "/v1/stream/")
	mustPrint(t, "1 2 3 4 5", "append", "s", "--create", "--close", "--one-by-one", at)
	for _, args := range [][]string{{"-n", "2"}, {"--from=tail-2"}, {"-f", "-n", "2"}, {"-f", "--live=long-poll", "-n", "2"}} {
		if got := mustPrint(t, "", append([]string{"tail", "s", at}, args...)...); got != "4\n5\n" {
			t.Errorf("%v: %q", args, got)
		}
	}
}

// What came since a time, and what comes after it, through a node that owns the stream and one that does
// not.
func TestTailSinceATime(t *testing.T) {
	f := startFleet(t, 2)
	urls := []string{"--url=" + strings.TrimSuffix(f.url(0, ""), "/v1/stream/"), "--url=" + strings.TrimSuffix(f.url(1, ""), "/v1/stream/")}
	mustPrint(t, "1 2", "append", "s", "--create", "--one-by-one", urls[0])
	between := time.Now().Truncate(time.Millisecond).Add(time.Millisecond)
	<-time.After(time.Until(between)) // the clock of the S2 in this process shows it, too
	mustPrint(t, "3 4 5", "append", "s", "--close", "--one-by-one", urls[0])
	since := between.Format(time.RFC3339Nano)
	for _, url := range urls {
		for want, flags := range map[string][][]string{
			"3\n4\n5\n":       {{"--since=" + since}, {"--from=at:" + since}, {fmt.Sprint("--from=at:", between.UnixMilli())}, {"-f", "--since=" + since}, {"-f", "--live=long-poll", "--since=" + since}},
			"1\n2\n3\n4\n5\n": {{"--since=1h"}, {"--from=at:0"}, {"-f", "--since=1h"}},
			"":                {{"--since=2999-01-01T00:00:00Z"}, {"-f", "--since=2999-01-01T00:00:00+02:00"}},
		} {
			for _, args := range flags {
				if got := mustPrint(t, "", append([]string{"tail", "s", url}, args...)...); got != want {
					t.Errorf("%v: %q, want %q", args, got, want)
				}
			}
		}
	}
	mustExit(t, exitUsage, "tail", "s", "--since=yesterday", urls[0])
}
