package s2dev_test

import (
	"context"
	"fmt"

	"github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/shard/s2dev"
)

// A server in memory, and S2's own client.
func Example() {
	server, err := s2dev.Open(s2dev.Config{Basins: []string{"example-basin"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()

	ctx, url := context.Background(), server.URL()+"/v1"
	client := s2.New("any token", &s2.ClientOptions{BaseURL: url, MakeBasinBaseURL: func(string) string { return url }})
	basin := client.Basin("example-basin")
	if _, err := basin.Streams.Create(ctx, s2.CreateStreamArgs{Stream: "orders"}); err != nil {
		fmt.Println(err)
		return
	}
	ack, err := basin.Stream("orders").Append(ctx, &s2.AppendInput{Records: []s2.AppendRecord{{Body: []byte("one")}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("the tail is at", ack.Tail.SeqNum)
	// Output: the tail is at 1
}
