package edge

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/edge/access"
)

// lockedBubble is a bubble with a file of rights, and a stream in it.
func lockedBubble(t *testing.T, file string) (*bubble, *access.Judge) {
	t.Helper()
	j := newJudge(t, file, access.Config{})
	b := newBubble(t, Config{Judge: j}, nil)
	owner := bearer(tokenOf(t, map[string]any{"role": "owner", "exp": time.Now().Add(20 * time.Hour).Unix()}))
	owner["Content-Type"] = "text/plain"
	if w := ask(t, b.srv, "PUT", "/v1/stream/acme/rooms/a", strings.NewReader("one"), owner); w.Code != 201 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return b, j
}

// A long-poll ends, as at a timeout, when its token's leeway is over: no reader waits on by
// a right that has ended, and none is told that something failed.
func TestLongPollEndsWithItsRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := lockedBubble(t, rightsFile(t))
		left := 5 * time.Second
		token := bearer(tokenOf(t, map[string]any{"exp": time.Now().Add(left - access.Leeway).Unix()}))
		began := time.Now()
		w := ask(t, b.srv, "GET", "/v1/stream/acme/rooms/a?offset=now&live=long-poll", nil, token)
		if took := time.Since(began); w.Code != 204 || took < left-time.Second || took > left+6*time.Second {
			t.Errorf("%d after %v, want 204 after %v", w.Code, took, left)
		}
		if w := ask(t, b.srv, "GET", "/v1/stream/acme/rooms/a?offset=now&live=long-poll", nil, token); w.Code != 401 {
			t.Errorf("%d: the token is good no longer", w.Code)
		}
	})
}

// A revocation wakes long-polls, and is not missed by one that is just being admitted.
func TestLongPollEndsWhenItsTokenIsRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, j := lockedBubble(t, rightsFile(t))
		token := bearer(tokenOf(t, nil))
		done := make(chan string)
		go func() {
			began := time.Now()
			w := ask(t, b.srv, "GET", "/v1/stream/acme/rooms/a?offset=now&live=long-poll", nil, token)
			done <- fmt.Sprint(w.Code, " after ", time.Since(began))
		}()
		time.Sleep(3 * time.Second) //nolint:forbidigo // a bubble's time
		revoke(t, j, access.RevokeRequest{Issuer: "app", Subject: "ada"})
		if got := <-done; got != "204 after 3s" {
			t.Errorf("%s, want 204 after 3s", got)
		}
		if w := ask(t, b.srv, "GET", "/v1/stream/acme/rooms/a", nil, token); w.Code != http.StatusUnauthorized {
			t.Errorf("%d: the token is revoked", w.Code)
		}
	})
}

// revoke does what a message of the stream of revocations does.
func revoke(t *testing.T, j *access.Judge, q access.RevokeRequest) {
	t.Helper()
	entry, err := j.Revocations().Entry(q)
	if err == nil {
		err = j.Revocations().Apply(entry, "1")
	}
	if err != nil {
		t.Fatal(err)
	}
}
