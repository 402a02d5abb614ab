package s2dev

import (
	"io"
	"net/http"
	"strings"
	"testing"

	pb "github.com/s2-streamstore/s2-sdk-go/generated"
)

// Names and storage classes at the edge of what is allowed get the answers of s2-lite 0.43.4.
func TestNamesAndClassesAreCheckedAsByS2(t *testing.T) {
	s := open(t, Config{Basins: []string{testBasin}})
	for _, c := range []struct {
		method, basin, path, body string
		status                    int
		want                      string
	}{
		{"GET", "no-such-basin", "streams", "", 404, "basin_not_found"},
		{"GET", testBasin, "streams", "", 200, "has_more"},
		{"PUT", testBasin, "streams/a", `{"storage_class":"glacier"}`, 201, `"a"`},
		{"GET", testBasin, "streams/a", "", 200, `"glacier"`},
		{"PATCH", testBasin, "streams/a", `{"storage_class":"another"}`, 200, `"another"`},
		{"PUT", testBasin, "streams/a%00b", "", 400, "NUL"},
		{"POST", testBasin, "streams", `{"stream":"a\u0000b"}`, 422, "NUL"},
		{"PUT", testBasin, "streams/" + strings.Repeat("n", 513), "", 400, "512"},
		{"PUT", testBasin, "streams/a%ff", "", 400, "UTF-8"},
		{"GET", testBasin, "streams/a%ff/records?seq_num=0", "", 400, "UTF-8"},
		{"GET", testBasin, "streams/a%c3", "", 400, "UTF-8"},
		{"GET", testBasin, "streams/%ed%a0%80/records/tail", "", 400, "UTF-8"},
		{"PUT", testBasin, "basins/basin%ff-name", "", 400, "bad_path"},
		{"GET", testBasin + "\xff", "streams", "", 400, "bad_header"},
		{"GET", testBasin, "streams?prefix=%ff", "", 400, "UTF-8"},
		{"GET", testBasin, "streams?start_after=a%ff", "", 400, "UTF-8"},
		{"GET", testBasin, "basins?prefix=%ff", "", 400, "UTF-8"},
		{"POST", testBasin, "streams", "{\"stream\":\"a\xff\"}", 400, "bad_json"},
		{"POST", testBasin, "streams", `{"stream":"a\ud800"}`, 400, "bad_json"},
		{"POST", testBasin, "streams", `{"stream":"a\udc00\ud800"}`, 400, "bad_json"},
		{"POST", testBasin, "streams", `{"stream":"a\ud800\\udc00"}`, 400, "bad_json"},
		{"POST", testBasin, "basins", "{\"basin\":\"some-basin\xff\"}", 400, "bad_json"},
		{"POST", testBasin, "streams/a/records", "{\"records\":[{\"body\":\"\xff\"}]}", 400, "bad_json"},
		{"POST", testBasin, "streams", `{"stream":"\\ud800 is text, \ud83d\ude00 a pair"}`, 201, "pair"},
		{"PUT", testBasin, "streams/%c3%a9%f0%9f%98%80", "", 201, "é😀"},
		{"PUT", testBasin, "streams/%ef%bf%bd", "", 201, "\ufffd"},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), c.method, s.URL()+"/v1/"+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Close = true
			req.Header.Set("S2-Basin", c.basin)
			req.Header.Set("Content-Type", mimeJSON)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil || resp.StatusCode != c.status || !strings.Contains(string(b), c.want) {
				t.Errorf("%s %s: %d %s %v, want %d %s", c.method, c.path, resp.StatusCode, b, err, c.status, c.want)
			}
		})
	}
}

// The name of a stream that its first append or read creates is checked, too.
func TestNamesOfStreamsMadeByUseAreChecked(t *testing.T) {
	s := open(t, Config{Basins: []string{testBasin}})
	ask(t, s, "PATCH", "/v1/basins/"+testBasin, `{"create_stream_on_append":true,"create_stream_on_read":true}`).wantAnswer(t, 200)
	d := s.Direct(testBasin)
	for _, name := range []string{"a\xff", "", "..", "a\x00"} {
		if _, err := d.Tail(t.Context(), name); err == nil {
			t.Errorf("the tail of %q was told", name)
		}
		in := &pb.AppendInput{Records: []*pb.AppendRecord{{Body: []byte("x")}}}
		if _, _, _, err := d.Append(t.Context(), name, in); err == nil {
			t.Errorf("appended to %q", name)
		}
		if err := d.EnsureStream(t.Context(), name); err == nil {
			t.Errorf("%q was made", name)
		}
	}
	ask(t, s, "GET", "/v1/streams", "").wantAnswer(t, 200, `"streams":[]`)
}
