package main

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// What each dialect sends is a request as net/http reads it, with the message in it.
func TestDialects(t *testing.T) {
	for name, d := range dialects {
		d = d.of("/v1/stream/load-%d")
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(d.request(7, "-1", "h:1"))))
		if err != nil || !strings.Contains(r.URL.String(), "7") || strings.Contains(r.URL.String(), "!") {
			t.Errorf("%s: reads %v: %v", name, r, err)
		}
		m := message(3, 200)
		in := bufio.NewReader(bytes.NewReader(d.posts(7, "h:1", http.Header{"X-Key": {"k"}}, [][]byte{m, m})))
		for range 2 {
			r, err := http.ReadRequest(in)
			if err != nil || r.Method != http.MethodPost || r.Header.Get("X-Key") != "k" {
				t.Fatalf("%s: writes %v: %v", name, r, err)
			}
			body, _ := io.ReadAll(r.Body)
			text := string(body)
			if d.contentType == "application/x-www-form-urlencoded" {
				form, err := url.ParseQuery(text)
				if err != nil || form.Get("topic") != "load-7" {
					t.Errorf("%s: %v: %v", name, form, err)
				}
				text = form.Get("data")
			}
			if !strings.Contains(text, string(m)) || strings.Contains(r.URL.String()+text, "!") {
				t.Errorf("%s: writes %s to %s", name, text, r.URL)
			}
		}
	}
}
