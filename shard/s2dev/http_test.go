package s2dev

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/s2-streamstore/s2-sdk-go/s2"
)

// answer holds the answer to one request.
type answer struct {
	asked  string
	status int
	body   string
}

// ask makes one plain request; headers are pairs.
func ask(t *testing.T, s *Server, method, path, body string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL()+path,
		strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("s2-basin", testBasin)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{asked: method + " " + path, status: res.StatusCode, body: string(got)}
}

func (a answer) wantAnswer(t *testing.T, status int, parts ...string) {
	t.Helper()
	if a.status != status {
		t.Fatalf("%s: %d %s, want %d", a.asked, a.status, a.body, status)
	}
	for _, p := range parts {
		if !strings.Contains(a.body, p) {
			t.Fatalf("%s: %s lacks %s", a.asked, a.body, p)
		}
	}
}

func TestAnswersAreThoseOfS2(t *testing.T) {
	s, _ := openWithStream(t, Config{})
	const records = "/v1/streams/s/records"
	fence := `{"records":[{"headers":[["","fence"]],"body":"me"}]}`
	for _, c := range []struct {
		method, path, body string
		headers            []string
		status             int
		part               string
	}{
		{"GET", records, "", nil, 416, `{"tail":{"seq_num":0,"timestamp":0}}`},
		{"GET", records + "?seq_num=0&clamp=true", "", nil, 416, `"tail"`},
		{"GET", records + "?seq_num=1&tail_offset=1", "", nil, 422, `"invalid"`},
		{"GET", records + "?seq_num=x", "", nil, 400, `"bad_query"`},
		{"POST", records, `{"records":[{"body":"a"},{"body":"b"}]}`, nil, 200, `"seq_num":2`},
		{
			"POST", records, `{"records":[{"body":"x"}],"match_seq_num":1}`, nil, 412,
			`{"seq_num_mismatch":2}`,
		},
		{"POST", records, `{"records":[]}`, nil, 422, `"invalid"`},
		{"POST", records, `{"records":[{"headers":[["","no"]]}]}`, nil, 422, "unknown command"},
		{"POST", records, `{"records":[{"headers":[["","a"],["b","c"]]}]}`, nil, 422, "name"},
		{"POST", records, `{`, nil, 400, `"bad_json"`},
		{"POST", records, "\xff", []string{"Content-Type", mimeProto}, 400, `"bad_proto"`},
		{"POST", records, fence, nil, 200, `"seq_num":3`},
		{
			"POST", records, `{"records":[{"body":"x"}],"fencing_token":"you"}`, nil, 412,
			`{"fencing_token_mismatch":"me"}`,
		},
		{
			"POST", records, `{"records":[{"body":"/w=="}]}`,
			[]string{"s2-format", "base64"},
			200,
			`"seq_num":4`,
		},
		{"GET", records + "?seq_num=3", "", []string{"s2-format", "base64"}, 200, `"/w=="`},
		{"GET", records + "?seq_num=3", "", nil, 200, "\ufffd"},
		{"GET", records + "?seq_num=9", "", nil, 416, `"seq_num":4`},
		{"GET", records + "?seq_num=0&count=0", "", nil, 200, `{"records":[]}`},
		{"GET", records + "?seq_num=0&bytes=1", "", nil, 200, `{"records":[]}`},
		{"GET", records + "/tail", "", nil, 200, `"seq_num":4`},
		{"GET", "/v1/streams/none/records", "", nil, 404, `"stream_not_found"`},
		{
			"GET", "/v1/streams/s", "",
			[]string{"s2-basin", "no-such-basin"},
			404,
			`"basin_not_found"`,
		},
		{"GET", "/v1/streams/s", "", []string{"s2-basin", ""}, 400, `"bad_header"`},
		{"GET", "/v1/basins/SHORT", "", nil, 400, `"bad_path"`},
		{"GET", "/v1/access-tokens", "", nil, 501, `"not_implemented"`},
		{"GET", "/v1/locations/default", "", nil, 501, `"not_implemented"`},
		{"GET", "/v1/metrics", "", nil, 501, `"not_implemented"`},
		{"GET", "/health", "", nil, 200, "OK"},
		{"GET", "/metrics", "", nil, 200, `s2dev_operations_total{op="append"}`},
		{"GET", "/metrics", "", nil, 200, `s2dev_read_session_minutes_total 0`},
		{"GET", "/nothing", "", nil, 404, ""},
		{"PUT", records, "", nil, 405, ""},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			ask(t, s, c.method, c.path, c.body, c.headers...).wantAnswer(t, c.status, c.part)
		})
	}
}

func TestStreamNameIsOneSegment(t *testing.T) {
	s, _ := openWithStream(t, Config{})
	b := dialBasin(s.URL())
	for _, name := range []string{"a/b", "a/records", "records/tail", "a%2Fb", "ü ?#", "a//b/"} {
		c := mustCreate(t, b, name)
		if _, err := c.Append(t.Context(), bodyRecords(name)); err != nil {
			t.Fatal(err)
		}
		got := readAllRecords(t, c)
		if len(got) != 1 || string(got[0].Body) != name {
			t.Fatalf("%q: %v", name, got)
		}
	}
	list, err := b.Streams.List(t.Context(), &s2.ListStreamsArgs{Prefix: "a/"})
	if err != nil || len(list.Streams) != 3 {
		t.Fatalf("%+v %v", list, err)
	}
}

func TestPatchHasThreeStates(t *testing.T) {
	s, _ := openWithStream(t, Config{})
	patch := func(body string, want ...string) {
		t.Helper()
		ask(t, s, "PATCH", "/v1/streams/s", body).wantAnswer(t, 200, want...)
	}
	patch(`{"retention_policy":{"age":5},"timestamping":{"mode":"arrival","uncapped":true}}`,
		`{"age":5}`, `"arrival"`, `"uncapped":true`)
	patch(`{"timestamping":{"mode":null}}`, `{"age":5}`, `"client-prefer"`, `"uncapped":true`)
	patch(`{"retention_policy":null,"timestamping":null}`, `{"age":604800}`, `"uncapped":false`)
	patch(`{"retention_policy":{"infinite":{}}}`, `{"infinite":{}}`)
	for body, status := range map[string]int{
		`{"retention_policy":{"age":0}}`:               422,
		`{"retention_policy":{}}`:                      400,
		`{"timestamping":{"mode":"never"}}`:            400,
		`{"retention_policy":{"age":1,"infinite":{}}}`: 400,
	} {
		t.Run(body, func(t *testing.T) {
			ask(t, s, "PATCH", "/v1/streams/s", body).wantAnswer(t, status)
		})
	}
}

func TestBodiesMayBeCompressed(t *testing.T) {
	s, _ := openWithStream(t, Config{})
	body := []byte(`{"records":[{"body":"` + strings.Repeat("a", 4000) + `"}]}`)
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, _ = w.Write(body)
	_ = w.Close()
	for encoding, wire := range map[string]string{
		"gzip": zipped.String(), "zstd": string(zstdEncoder.EncodeAll(body, nil)),
	} {
		t.Run(encoding, func(t *testing.T) {
			ask(t, s, "POST", "/v1/streams/s/records", wire, "Content-Encoding", encoding).wantAnswer(t, 200)
		})
	}
	ask(t, s, "POST", "/v1/streams/s/records", "x", "Content-Encoding", "br").wantAnswer(t, 400, "bad_header")
	bomb := zstdEncoder.EncodeAll(make([]byte, maxBodyBytes+1), nil)
	ask(t, s, "POST", "/v1/streams/s/records", string(bomb), "Content-Encoding", "zstd").wantAnswer(t, 400, "bad_header")
}

func TestSessionsMayBeCompressed(t *testing.T) {
	s, _ := openWithStream(t, Config{})
	text := strings.Repeat("compress me ", 1000)
	for _, kind := range []s2.CompressionType{s2.CompressionZstd, s2.CompressionGzip} {
		base := s.URL() + "/v1"
		c := s2.New("ignored", &s2.ClientOptions{
			BaseURL: base, MakeBasinBaseURL: func(string) string { return base },
			Compression: kind,
		}).Basin(testBasin).Stream("s")
		ack, err := submit(t, openAppendSession(t, c), bodyRecords(text))
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.ReadSession(t.Context(), &s2.ReadOptions{SeqNum: &ack.Start.SeqNum})
		if err != nil {
			t.Fatal(err)
		}
		if !r.Next() || string(r.Record().Body) != text {
			t.Fatalf("got %v", r.Err())
		}
		_ = r.Close()
	}
}

// readEvents reads server-sent events up to the first empty line, n times.
func readEvents(t *testing.T, s *Server, path string, n int, headers ...string) []string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", s.URL()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("s2-basin", testBasin)
	req.Header.Set("Accept", mimeSSE)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var out []string
	lines := bufio.NewScanner(res.Body)
	one := ""
	for len(out) < n && lines.Scan() {
		if lines.Text() != "" {
			one += lines.Text() + "\n"
			continue
		}
		out, one = append(out, one), ""
	}
	if len(out) < n {
		t.Fatalf("%d events: %q %v", len(out), out, lines.Err())
	}
	return out
}

func TestReadSessionsAsServerSentEvents(t *testing.T) {
	s, c := openWithStream(t, Config{})
	if _, err := c.Append(t.Context(), bodyRecords("a", "b", "c")); err != nil {
		t.Fatal(err)
	}
	const path = "/v1/streams/s/records?seq_num=0"
	got := readEvents(t, s, path, 2)
	if !strings.HasPrefix(got[0], "event: batch\nid: 2,3,27\n") ||
		!strings.HasPrefix(got[1], "event: ping\n") {
		t.Fatalf("%q", got)
	}
	got = readEvents(t, s, path+"&count=2", 2, "Last-Event-ID", "0,1,9")
	if !strings.HasPrefix(got[0], "event: batch\nid: 1,1,9\n") || got[1] != "data: [DONE]\n" {
		t.Fatalf("%q", got)
	}
	_, data, _ := strings.Cut(got[0], "data: ")
	var batch jsonReadBatch
	if err := json.Unmarshal([]byte(data), &batch); err != nil || batch.Records[0].Body != "b" {
		t.Fatalf("%s %v", data, err)
	}
}

func TestUnaryReadWaits(t *testing.T) {
	s, c := openWithStream(t, Config{})
	got := make(chan string, 1)
	go func() {
		req, err := http.NewRequestWithContext(t.Context(), "GET",
			s.URL()+"/v1/streams/s/records?seq_num=0&wait=30", nil)
		if err != nil {
			panic(err)
		}
		req.Header.Set("s2-basin", testBasin)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			got <- err.Error()
			return
		}
		defer func() { _ = res.Body.Close() }()
		b, _ := io.ReadAll(res.Body)
		got <- string(b)
	}()
	eventually(t, func() bool { return s.Usage().Total.Ops[OpRead] == 1 })
	if _, err := c.Append(t.Context(), bodyRecords("a")); err != nil {
		t.Fatal(err)
	}
	if b := <-got; !strings.Contains(b, `"body":"a"`) {
		t.Fatal(b)
	}
	ask(t, s, "GET", "/v1/streams/s/records?seq_num=1&wait=1", "").wantAnswer(t, 200, `{"records":[]}`)
}

func TestRequestsFromOtherOriginsAreRefused(t *testing.T) {
	s, _ := openWithStream(t, Config{})
	ask(t, s, "POST", "/v1/basins", `{"basin":"from-a-page"}`,
		"Origin", "https://example.org", "Sec-Fetch-Site", "cross-site").wantAnswer(t, 403)
	req, err := http.NewRequestWithContext(t.Context(), "GET", s.URL()+"/v1/basins", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "rebound.example.org"
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 403 {
		t.Fatalf("another host's name: %d", res.StatusCode)
	}
}
