package shard_test

import (
	"context"
	"fmt"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
	"github.com/fantail-dev/fantail/shard/tail"
)

// A Manager over a Log: a stream is created, appended to, and followed from its start.
func Example() {
	ctx := context.Background()
	m := shard.NewManager(logtest.NewMemory(1), tail.NewBuffers(0, 0), shard.Config{})
	defer m.Close()

	const orders = shard.StreamID("shop/orders")
	for _, req := range []*shard.Request{
		{Op: shard.OpCreate, Type: "text/plain"},
		{Op: shard.OpAppend, Type: "text/plain", Messages: shard.NewMessages([]byte("one"), []byte("two"))},
		{Op: shard.OpAppend, Type: "text/plain", Messages: shard.NewMessages([]byte("three")), Close: true},
	} {
		req.Stream, req.ID = orders, shard.NewAppendID()
		out, err := m.Do(ctx, req)
		if err != nil || !out.Code.Accepted() {
			fmt.Println(out.Code, out.Why, err)
			return
		}
	}

	buffer, release, err := m.Follow(ctx, orders, 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer release()
	batches, status := buffer.ReadAt(buffer.Info().Start, 1<<20, nil)
	for _, b := range batches {
		for i := range b.Len() {
			fmt.Printf("%s\n", b.Message(i).Body)
		}
	}
	fmt.Println("closed:", status == tail.StatusClosed)
	// Output:
	// one
	// two
	// three
	// closed: true
}
