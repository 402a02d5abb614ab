package shard_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

func withTTL(seconds uint64, msgs ...string) *shard.Request {
	q := create("text/plain", msgs...)
	q.HasTTL, q.TTL = true, seconds
	return q
}

func exists(t testing.TB, h *shard.Manager, ask shard.InfoOptions) bool {
	t.Helper()
	info, err := h.Info(t.Context(), stream, ask)
	if err != nil {
		t.Fatal(err)
	}
	return info.Exists
}

func TestTTLSlides(t *testing.T) { synctest.Test(t, testTTLSlides) }

func testTTLSlides(t *testing.T) {
	h := node(t, logtest.NewMemory(1))
	first := do(t, h, withTTL(10, "a"), shard.CodeCreated)
	for range 5 { // reads and appends extend it
		advance(8 * time.Second)
		if !exists(t, h, shard.InfoTouch) {
			t.Fatal("expired though it was read")
		}
		advance(8 * time.Second)
		do(t, h, appendReq("text/plain", "b"), shard.CodeAppended)
	}
	advance(8 * time.Second)
	if !exists(t, h, 0) { // HEAD does not extend it
		t.Fatal("expired too early")
	}
	advance(3 * time.Second)
	if exists(t, h, 0) {
		t.Fatal("still there after its time")
	}
	do(t, h, appendReq("text/plain", "late"), shard.CodeNotFound)
	second := do(t, h, withTTL(10, "new"), shard.CodeCreated)
	if second.Info.Generation <= first.Info.Generation {
		t.Errorf("life %d after %d", second.Info.Generation, first.Info.Generation)
	}
	equal(t, history(t, h), []string{"new"})
}

func TestExpiresAtDoesNotSlide(t *testing.T) { synctest.Test(t, testExpiresAt) }

func testExpiresAt(t *testing.T) {
	h := node(t, logtest.NewMemory(1))
	q := create("text/plain", "a")
	q.Expires = shard.MillisOf(time.Now().Add(10 * time.Second))
	do(t, h, q, shard.CodeCreated)
	advance(9 * time.Second)
	do(t, h, appendReq("text/plain", "b"), shard.CodeAppended)
	if !exists(t, h, shard.InfoTouch) {
		t.Fatal("expired too early")
	}
	advance(2 * time.Second)
	if exists(t, h, shard.InfoTouch) {
		t.Fatal("still there after its time")
	}
}

// A stream with live readers is in use.
func TestFollowedStreamDoesNotExpire(t *testing.T) { synctest.Test(t, testFollowedTTL) }

func testFollowedTTL(t *testing.T) {
	h := node(t, logtest.NewMemory(1))
	do(t, h, withTTL(10), shard.CodeCreated)
	_, release, err := h.Follow(t.Context(), stream, 0)
	if err != nil {
		t.Fatal(err)
	}
	advance(10 * time.Minute)
	if !exists(t, h, 0) {
		t.Fatal("expired under its reader")
	}
	release()
	advance(11 * time.Second)
	if exists(t, h, 0) {
		t.Fatal("still there after its last reader and its time")
	}
}

// The owner dies. The new owner may let the stream live longer than the reads that it never saw
// would have, and never shorter.
func TestNewOwnerNeverShortensTTL(t *testing.T) { synctest.Test(t, testHeirTTL) }

func testHeirTTL(t *testing.T) {
	log := logtest.NewMemory(1)
	h := node(t, log)
	do(t, h, withTTL(600, "a"), shard.CodeCreated)
	for range 10 { // reads only, for longer than the TTL: they are made durable now and then
		advance(2 * time.Minute)
		if !exists(t, h, shard.InfoTouch) {
			t.Fatal("expired though it was read")
		}
	}
	_ = h.Close()
	heir := node(t, log)
	advance(9 * time.Minute)
	if !exists(t, heir, 0) {
		t.Fatal("the heir let it expire before its time")
	}
	advance(20 * time.Minute)
	if exists(t, heir, 0) {
		t.Fatal("still there long after its time")
	}
	// The 404 rests on a tombstone: the next owner answers the same.
	if exists(t, node(t, log), 0) {
		t.Fatal("back from the dead")
	}
}

// In exclusive mode acknowledgements are the tail: no session is opened, and the guard finds a
// writer that breaks the promise.
func TestExclusiveModeOpensNoSession(t *testing.T) { synctest.Test(t, testExclusive) }

func testExclusive(t *testing.T) {
	log := logtest.NewMemory(1)
	h := shard.NewManager(log, shard.NewTailBuffers(0, 0), inMode(shard.Config{Mode: shard.ModeExclusive}))
	defer func() { _ = h.Close() }()
	out := do(t, h, create("text/plain"), shard.CodeCreated)
	tail, release, err := h.Follow(t.Context(), stream, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	do(t, h, appendReq("text/plain", "a", "b"), shard.CodeAppended)
	equal(t, takeMessages(t, tail, out.Info.Tail, 2), []string{"a", "b"})
	if n := log.OpenSessions(); n != 0 {
		t.Fatalf("%d sessions in exclusive mode", n)
	}
	log.AppendForeign(stream, "intruder")
	advance(31 * time.Second)
	synctest.Wait()
	equal(t, takeMessages(t, tail, out.Info.Tail, 3), []string{"a", "b", "intruder"})
}

// A stream keeps one session for any number of followers, also through losses.
func TestManyFollowersShareOneSession(t *testing.T) { synctest.Test(t, testManyFollowers) }

func testManyFollowers(t *testing.T) {
	log := logtest.NewMemory(1)
	h := node(t, log)
	out := do(t, h, create("text/plain"), shard.CodeCreated)
	var want []string
	for i := range 50 {
		tail, release, err := h.Follow(t.Context(), stream, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		m := fmt.Sprint(i)
		log.AppendForeign(stream, m)
		want = append(want, m)
		equal(t, takeMessages(t, tail, out.Info.Tail, len(want)), want)
		if n := log.OpenSessions(); n != 1 {
			t.Fatalf("%d sessions for %d readers", n, i+1)
		}
	}
}
