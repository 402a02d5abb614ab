package edge

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fantail-dev/fantail/edge/sse/ssetest"
	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// tuple holds what a producer says of a request.
type tuple struct {
	id         string
	epoch, seq int
}

// historyStream holds what a stream is by the protocol's text, told from the requests alone.
type historyStream struct {
	exists, closed bool
	contentType    string
	messages       []string
	offsets        []string // offsets[i] is where messages[:i] end
	seq            string   // the last Stream-Seq
	producers      map[string]tuple
	closedBy       tuple
}

// historyRequest is a POST.
type historyRequest struct {
	contentType, body, seq, closes string
	producer                       tuple // without an id there is none
	partial                        bool  // Producer-Seq is left out
}

func (r historyRequest) header() header {
	h := header{}
	for name, v := range map[string]string{"Content-Type": r.contentType, hSeq: r.seq, hClosed: r.closes, hProducerID: r.producer.id} {
		if v != "" {
			h[name] = v
		}
	}
	if r.producer.id != "" {
		h[hProducerEpoch] = strconv.Itoa(r.producer.epoch)
		if !r.partial {
			h[hProducerSeq] = strconv.Itoa(r.producer.seq)
		}
	}
	return h
}

// judge returns the status of a POST, and the headers that go with it (PROTOCOL 5.2, 5.2.1, 5.3).
func (m *historyStream) judge(r historyRequest) (status int, says header) {
	closes := strings.EqualFold(r.closes, "true")
	switch {
	case !m.exists:
		return 404, nil
	case r.producer.id != "" && r.partial, r.body == "" && !closes, r.body != "" && r.contentType == "":
		return 400, nil
	case m.closed && r.producer.id != "" && r.producer == m.closedBy, m.closed && r.producer.id == "" && r.body == "":
		return 204, header{hClosed: "true", hNextOffset: m.tail()}
	case m.closed:
		return 409, header{hClosed: "true", hNextOffset: m.tail()}
	case r.body != "" && r.contentType != m.contentType:
		return 409, header{hClosed: "", hExpectedSeq: ""}
	}
	if last, known := m.producers[r.producer.id]; r.producer.id != "" {
		switch p := r.producer; {
		case known && p.epoch < last.epoch:
			return 403, header{hProducerEpoch: strconv.Itoa(last.epoch)}
		case known && p.epoch > last.epoch && p.seq != 0:
			return 400, nil
		case known && p.epoch == last.epoch && p.seq <= last.seq:
			return 204, header{hProducerEpoch: strconv.Itoa(last.epoch), hProducerSeq: strconv.Itoa(last.seq)}
		case known && p.epoch == last.epoch && p.seq > last.seq+1:
			return 409, header{hExpectedSeq: strconv.Itoa(last.seq + 1), hReceivedSeq: strconv.Itoa(p.seq)}
		case !known && p.seq > 0:
			return 409, header{hExpectedSeq: "0", hReceivedSeq: strconv.Itoa(p.seq)}
		}
	}
	switch {
	case r.seq != "" && r.seq <= m.seq:
		return 409, header{hExpectedSeq: ""}
	case r.body != "" && m.contentType == jsonType["Content-Type"] && !isHistoryJSON(r.body):
		return 400, nil
	}
	m.accept(r, closes)
	says = header{}
	if closes {
		says[hClosed] = "true"
	}
	if r.producer.id == "" {
		return 204, says
	}
	says[hProducerEpoch], says[hProducerSeq] = strconv.Itoa(r.producer.epoch), strconv.Itoa(r.producer.seq)
	if r.body == "" {
		return 204, says
	}
	return 200, says
}

func (m *historyStream) accept(r historyRequest, closes bool) {
	if r.body != "" {
		m.messages = append(m.messages, r.body)
	}
	if r.seq != "" {
		m.seq = r.seq
	}
	if r.producer.id != "" {
		m.producers[r.producer.id] = r.producer
	}
	if closes {
		m.closed, m.closedBy = true, r.producer
	}
}

// isHistoryJSON: of the bodies that are drawn, these append something.
func isHistoryJSON(body string) bool { return body != "{" && body != "[]" && body[0] != 't' }

func (m *historyStream) tail() string { return m.offsets[len(m.messages)] }

// content returns what a read from the end of messages[:i] has for its body.
func (m *historyStream) content(i int) string {
	if m.contentType != jsonType["Content-Type"] {
		return strings.Join(m.messages[i:], "")
	}
	flat := make([]string, 0, len(m.messages))
	for _, body := range m.messages[i:] {
		flat = append(flat, strings.TrimSuffix(strings.TrimPrefix(body, "["), "]"))
	}
	return "[" + strings.Join(flat, ",") + "]"
}

// history sends requests to a server, and holds its answers against the model.
type history struct {
	*rapid.T
	*historyStream
	srv  *Server
	last string            // the highest offset of any life
	tags map[string]string // what was read with an ETag
}

func (f *history) ask(method, query, body string, h header, status int, says header) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "/v1/stream/x"+query, strings.NewReader(body))
	for k, v := range h {
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	f.srv.ServeHTTP(w, r)
	if w.Code != status {
		f.Fatalf("%s %s %v %q: %d %s, want %d", method, query, h, body, w.Code, w.Body, status)
	}
	for name, v := range says {
		if got := w.Header().Get(name); got != v {
			f.Fatalf("%s %s %v %q: %s is %q, want %q", method, query, h, body, name, got, v)
		}
	}
	return w
}

// note takes the offset of an answer to a write, which must be the tail if nothing was written, and lie behind all others if something was.
func (f *history) note(w *httptest.ResponseRecorder) {
	at := w.Header().Get(hNextOffset)
	switch {
	case len(f.offsets) > len(f.messages):
		if at != f.tail() {
			f.Fatalf("the tail is %s, was %s, and nothing was written", at, f.tail())
		}
		return
	case at <= f.last:
		f.Fatalf("offset %s after %s", at, f.last)
	}
	f.offsets, f.last = append(f.offsets, at), at
}

func (f *history) drawBody() string {
	return rapid.SampledFrom([]string{"1", `["a",[2]]`, "2", "3", "", "{", "[]", "text;"}).Draw(f.T, "body")
}

func (f *history) drawType() string {
	return rapid.SampledFrom([]string{"text/plain", jsonType["Content-Type"]}).Draw(f.T, "type")
}

func (f *history) put() {
	contentType, body := f.drawType(), f.drawBody()
	h := header{"Content-Type": contentType, hClosed: rapid.SampledFrom([]string{"", "", "", "no", "no", "TRUE"}).Draw(f.T, "closed")}
	closes := h[hClosed] == "TRUE"
	if h[hClosed] == "" {
		delete(h, hClosed)
	}
	isJSON := contentType == jsonType["Content-Type"]
	switch {
	case f.exists && (contentType != f.contentType || closes != f.closed):
		f.ask("PUT", "", body, h, 409, header{"Location": ""})
	case f.exists:
		f.ask("PUT", "", body, h, 200, header{"Location": "", hNextOffset: f.tail()})
	case isJSON && body != "" && body != "[]" && !isHistoryJSON(body):
		f.ask("PUT", "", body, h, 400, nil)
	default:
		f.historyStream = &historyStream{exists: true, closed: closes, contentType: contentType, producers: map[string]tuple{}}
		if body != "" && (!isJSON || body != "[]") {
			f.messages, f.offsets = []string{body}, []string{"-1"}
		}
		f.note(f.ask("PUT", "", body, h, 201, header{"Content-Type": contentType}))
	}
}

func (f *history) post() {
	r := historyRequest{
		contentType: rapid.SampledFrom([]string{f.contentType, f.contentType, f.contentType, f.contentType, f.contentType, "", "text/plain", jsonType["Content-Type"]}).Draw(f.T, "type"),
		body:        f.drawBody(),
		seq:         rapid.SampledFrom([]string{"", "", "a", "b", "bb", "c"}).Draw(f.T, "seq"),
		closes:      rapid.SampledFrom([]string{"", "", "", "", "", "", "", "", "", "1", "no", "true", "True"}).Draw(f.T, "closes"),
	}
	if rapid.Bool().Draw(f.T, "producer") {
		r.producer = tuple{
			rapid.SampledFrom([]string{"p", "q"}).Draw(f.T, "id"), rapid.IntRange(0, 2).Draw(f.T, "epoch"), rapid.IntRange(0, 3).Draw(f.T, "seq of producer"),
		}
		r.partial = rapid.IntRange(0, 9).Draw(f.T, "partial") == 0
	}
	status, says := f.judge(r)
	w := f.ask("POST", "", r.body, r.header(), status, says)
	if status < 300 && says[hNextOffset] == "" {
		f.note(w)
	}
}

// read reads from an offset that was told, by catch-up or long-poll.
func (f *history) read() {
	if !f.exists {
		f.ask("GET", "", "", nil, 404, nil)
		f.ask("HEAD", "", "", nil, 404, nil)
		return
	}
	closed := map[bool]string{true: "true"}[f.closed]
	f.ask("HEAD", "", "", nil, 200, header{hNextOffset: f.tail(), hClosed: closed, "Content-Type": f.contentType})
	i := rapid.IntRange(0, len(f.messages)).Draw(f.T, "from")
	query, says := "?offset="+f.offsets[i], header{hNextOffset: f.tail(), hClosed: closed, hUpToDate: "true"}
	if i < len(f.messages) || f.closed {
		status, want := 200, f.content(i)
		if i == len(f.messages) {
			status, want = 204, ""
		}
		if got := f.ask("GET", query+"&live=long-poll", "", nil, status, says).Body.String(); got != want {
			f.Fatalf("long-poll at %s: %q, want %q", query, got, want)
		}
	}
	w := f.ask("GET", query, "", nil, 200, says)
	if got, want := w.Body.String(), f.content(i); got != want {
		f.Fatalf("at %s: %q, want %q", query, got, want)
	}
	tag, now := query+w.Header().Get("ETag"), closed+w.Body.String()
	if was, known := f.tags[tag]; known && was != now {
		f.Fatalf("%s was %q, is %q", tag, was, now)
	}
	f.tags[tag] = now
}

// Requests at random: each has the outcome that the protocol's text gives it, and nothing that was told once is untrue later. A
// server that knows nothing but the log goes on where the one before it stopped.
func TestHistories(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		log := logtest.NewMemory(1)
		var hosts []*shard.Manager
		open := func() *Server {
			hosts = append(hosts, shard.NewManager(log, shard.NewTailBuffers(0, 0), shard.Config{}))
			return New(Config{LongPoll: time.Second}, hosts[len(hosts)-1])
		}
		defer func() {
			for _, h := range hosts {
				_ = h.Close()
			}
		}()
		f := &history{T: rt, srv: open(), historyStream: &historyStream{}, tags: map[string]string{}}
		rt.Repeat(map[string]func(*rapid.T){
			"put":   func(t *rapid.T) { f.T = t; f.put() },
			"post":  func(t *rapid.T) { f.T = t; f.post() },
			"post2": func(t *rapid.T) { f.T = t; f.post() },
			"post3": func(t *rapid.T) { f.T = t; f.post() },
			"read":  func(t *rapid.T) { f.T = t; f.read() },
			"heir":  func(t *rapid.T) { f.T = t; f.srv = open() },
			"delete": func(t *rapid.T) {
				f.T = t
				if rapid.IntRange(0, 3).Draw(t, "really") > 0 {
					return // it would never become long
				}
				f.ask("DELETE", "", "", nil, map[bool]int{true: 204, false: 404}[f.exists], nil)
				f.historyStream = &historyStream{}
			},
		})
	})
}

// Several producers, each of which sends some requests twice, and readers of every kind: all readers see one order, in which
// each producer's messages are once and in theirs, and nothing follows the end.
func TestHistoriesOfSeveralClients(t *testing.T) {
	const writers, each = 4, 40
	s := newSite(t, Config{LongPoll: time.Second})
	s.put("/v1/stream/x", "", text)
	var writing, reading sync.WaitGroup
	seen := make([]string, 3)
	for i, read := range []func(*site) string{readByCatchUp, readByLongPoll, readByEvents} {
		reading.Go(func() { seen[i] = read(s) })
	}
	for w := range writers {
		writing.Go(func() {
			for n := range each {
				h := header{"Content-Type": "text/plain", hProducerID: strconv.Itoa(w), hProducerEpoch: "0", hProducerSeq: strconv.Itoa(n)}
				for try := range 1 + (n+w)%3 {
					if resp := s.do("POST", "/v1/stream/x", fmt.Sprintf("%d.%d;", w, n), h); resp.StatusCode != map[bool]int{true: 200, false: 204}[try == 0] {
						t.Errorf("writer %d, message %d, try %d: %d", w, n, try, resp.StatusCode)
					}
				}
			}
		})
	}
	writing.Wait()
	s.want(s.do("POST", "/v1/stream/x", "", header{hClosed: "true"}), 204)
	reading.Wait()
	next := make([]int, writers)
	messages := strings.Split(strings.TrimSuffix(seen[0], ";"), ";")
	for _, m := range messages {
		w, n, _ := strings.Cut(m, ".")
		if i, err := strconv.Atoi(w); err != nil || n != strconv.Itoa(next[i]) {
			t.Fatalf("%s, want message %d", m, next[i])
		} else {
			next[i]++
		}
	}
	if len(messages) != writers*each || slices.ContainsFunc(seen, func(other string) bool { return other != seen[0] }) {
		t.Errorf("%d messages, want %d; the readers saw\n%s", len(messages), writers*each, strings.Join(seen, "\n"))
	}
}

func readByCatchUp(s *site) (all string)  { return readUntilClosed(s, "") }
func readByLongPoll(s *site) (all string) { return readUntilClosed(s, "&live=long-poll") }

// readUntilClosed reads answer after answer, each from where the one before it ended.
func readUntilClosed(s *site, query string) (all string) {
	for offset := "-1"; ; {
		resp := s.do("GET", "/v1/stream/x?offset="+offset+query, "", nil)
		if resp.StatusCode != http.StatusNoContent {
			all += s.want(resp, 200)
		}
		next := resp.Header.Get(hNextOffset)
		if offset != "-1" && next < offset {
			s.Errorf("%s after %s", next, offset)
		}
		if offset = next; resp.Header.Get(hClosed) == "true" {
			return all
		}
	}
}

// readByEvents reads events up to the end of the connection, which is that of the stream.
func readByEvents(s *site) (all string) {
	resp := s.do("GET", "/v1/stream/x?offset=-1&live=sse", "", nil)
	events, rest, err := ssetest.Parse([]byte(s.want(resp, 200)))
	if err != nil || len(rest) > 0 || len(events) == 0 || !strings.Contains(events[len(events)-1].Data, `"streamClosed":true`) {
		s.Errorf("%v, %q behind %d events", err, rest, len(events))
	}
	for _, e := range events {
		if e.Name == "data" {
			all += e.Data
		}
	}
	return all
}
