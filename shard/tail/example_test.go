package tail_test

import (
	"fmt"

	"github.com/fantail-dev/fantail/shard/tail"
)

// reader is a Waker that a goroutine waits for.
type reader chan struct{}

func (r reader) Wake() {
	select {
	case r <- struct{}{}:
	default: // it is awake
	}
}

// A feed extends a Buffer, and a reader goes on from where it was.
func ExampleBuffer() {
	buffers := tail.NewBuffers(0, 0)
	feed := buffers.Open("shop/orders", tail.Info{Exists: true, Generation: 1}, 0)
	defer feed.Release()

	buffer, pos, me := buffers.Lookup("shop/orders"), tail.Pos(0), make(reader, 1)
	defer buffer.Release()
	fmt.Println("waits:", buffer.Watch(me, pos))

	b := tail.NewBuilder(0, 2, 6)
	b.Add(0, 1, []byte("one"))
	b.Add(1, 2, []byte("two"))
	if err := feed.Extend(b.Build(2, 2, 0, false)); err != nil {
		fmt.Println(err)
	}

	<-me
	batches, status := buffer.ReadAt(pos, 1<<20, nil)
	for _, b := range batches {
		fmt.Printf("%s\n", b.Payload())
		pos = b.To()
	}
	fmt.Println("at the tip:", status == tail.StatusTip, "next:", pos)
	// Output:
	// waits: true
	// onetwo
	// at the tip: true next: 2
}
