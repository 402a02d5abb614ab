// Package otlptest has a collector for tests, which takes spans by OTLP over HTTP.
package otlptest

import (
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Collector takes spans. Its URL is that of its base.
type Collector struct {
	URL string

	mu       sync.Mutex
	spans    []Span
	resource map[string]string // of the newest spans
	header   http.Header       // of the newest request
	status   int               // of its answers; 0: 200
	hangs    bool
}

// Span is a span as it came.
type Span struct {
	Node, Name, Kind  string
	Trace, ID, Parent string
	Links             []string // traces
	Attributes        map[string]string
	Failed            bool
	Text              string // all of it, to search
}

// New returns a Collector that ends with the test.
func New(t testing.TB) *Collector {
	t.Helper()
	c := &Collector{}
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := c.take(w, r); err != nil {
			t.Errorf("%s %s: %v", r.Method, r.URL.Path, err)
		}
	}))
	t.Cleanup(hs.Close)
	c.URL = hs.URL
	return c
}

// Hang has the Collector answer no request any more.
func (c *Collector) Hang() {
	c.mu.Lock()
	c.hangs = true
	c.mu.Unlock()
}

// Refuse has the Collector answer with a status.
func (c *Collector) Refuse(status int) {
	c.mu.Lock()
	c.status = status
	c.mu.Unlock()
}

func (c *Collector) take(w http.ResponseWriter, r *http.Request) error {
	c.mu.Lock()
	hangs, status := c.hangs, c.status
	c.mu.Unlock()
	switch {
	case hangs:
		_, _ = io.Copy(io.Discard, r.Body) // or the end of the connection would not be noticed
		<-r.Context().Done()
		return nil
	case status != 0:
		w.WriteHeader(status)
		return nil
	case r.Method != http.MethodPost || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf":
		return fmt.Errorf("content type %q", r.Header.Get("Content-Type"))
	}
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		var err error
		if body, err = gzip.NewReader(r.Body); err != nil {
			return err
		}
	}
	b, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	var req collectorpb.ExportTraceServiceRequest
	if err := proto.Unmarshal(b, &req); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.header = r.Header
	for _, rs := range req.GetResourceSpans() {
		c.resource = textOf(rs.GetResource().GetAttributes())
		for _, ss := range rs.GetScopeSpans() {
			for _, s := range ss.GetSpans() {
				c.spans = append(c.spans, spanOf(c.resource["service.instance.id"], s))
			}
		}
	}
	return nil
}

func spanOf(node string, s *tracepb.Span) Span {
	out := Span{
		Node: node, Name: s.GetName(), Kind: strings.ToLower(strings.TrimPrefix(s.GetKind().String(), "SPAN_KIND_")),
		Trace: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()), Parent: hex.EncodeToString(s.GetParentSpanId()),
		Attributes: textOf(s.GetAttributes()), Failed: s.GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR, Text: s.String(),
	}
	for _, l := range s.GetLinks() {
		out.Links = append(out.Links, hex.EncodeToString(l.GetTraceId()))
	}
	return out
}

// textOf returns attributes as text.
func textOf(all []*commonpb.KeyValue) map[string]string {
	m := map[string]string{}
	for _, a := range all {
		switch v := a.GetValue().GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			m[a.GetKey()] = v.StringValue
		case *commonpb.AnyValue_IntValue:
			m[a.GetKey()] = fmt.Sprint(v.IntValue)
		case *commonpb.AnyValue_BoolValue:
			m[a.GetKey()] = fmt.Sprint(v.BoolValue)
		default:
			m[a.GetKey()] = fmt.Sprint(v)
		}
	}
	return m
}

// Spans returns the spans that have come.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans)
}

// Resource returns what the newest spans say of their node.
func (c *Collector) Resource() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.resource)
}

// Header returns the header of the newest request.
func (c *Collector) Header() http.Header {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.header.Clone()
}

// Tree describes the spans of a trace that have come: each as node, kind and name, with those below it in
// brackets, in the order of their names.
func (c *Collector) Tree(trace string) string {
	below := map[string][]Span{}
	known := map[string]bool{}
	for _, s := range c.Spans() {
		if s.Trace == trace {
			known[s.ID] = true
		}
	}
	for _, s := range c.Spans() {
		if s.Trace != trace {
			continue
		}
		if !known[s.Parent] {
			s.Parent = ""
		}
		below[s.Parent] = append(below[s.Parent], s)
	}
	var describe func(parent string) string
	describe = func(parent string) string {
		var all []string
		for _, s := range below[parent] {
			one := s.Node + " " + s.Kind + " " + s.Name
			if inner := describe(s.ID); inner != "" {
				one += " [" + inner + "]"
			}
			all = append(all, one)
		}
		slices.Sort(all)
		return strings.Join(all, ", ")
	}
	return describe("")
}
