package cluster

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/wire"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// Neither one stranger, nor all of them, nor a member can have more than a bounded number of links,
// and they keep no member out.
func TestLinksOfAPeerAreBounded(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	s := f.nodes[0]
	conn, err := grpc.NewClient("passthrough:///"+s.relayAddr(), grpc.WithTransportCredentials(asPeer(t, s.creds)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	link := uint64(1000)
	opens := func(name string) error {
		c, err := relaypb.NewRelayClient(conn).Control(ctx)
		if err != nil {
			return err
		}
		link++
		err = c.Send(&relaypb.ToOwner{Hello: &relaypb.Hello{
			Version: placement.RelayVersionNewest, From: &relaypb.PeerAddress{Name: []byte(name)}, To: wire.Bytes(s.self), Incarnation: link,
		}})
		if err != nil {
			return err
		}
		_, err = c.Recv()
		return err
	}
	for i := range 2 * maxUnknownLinks {
		err := opens(fmt.Sprintf("stranger-%d", i))
		if want := i < maxUnknownLinks; (err == nil) != want || !want && status.Code(err) != codes.ResourceExhausted {
			t.Fatalf("link %d of strangers: %v", i, err)
		}
	}
	for i := 1; i < 2*maxLinksPerMember; i++ { // the member has one already
		if err := opens(f.nodes[1].self); (err == nil) != (i < maxLinksPerMember) {
			t.Fatalf("link %d of a member: %v", i, err)
		}
	}
	f.add()
	f.awaitAgreement()
}

// A description from a later or a broken release fails the call, and not the node.
func TestMalformedAnswersFailTheCallAlone(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	owner, other := f.nodes[0], f.nodes[1]
	id := f.streamOwnedBy(owner)
	f.mustDo(owner, write(id, shard.OpCreate), shard.CodeCreated)
	owner.local.manager = &lyingServer{owner.local.manager}
	links := fmt.Sprint(f.linkIncarnations())
	if _, err := other.Info(t.Context(), id, 0); !errors.Is(err, shard.ErrUnavailable) || errors.Is(err, placement.ErrUnreachable) {
		t.Errorf("%v", err)
	}
	if got := fmt.Sprint(f.linkIncarnations()); got != links {
		t.Errorf("links broke: %s, %s", links, got)
	}
}

// lyingServer describes streams that cannot exist.
type lyingServer struct{ streamManager }

func (lyingServer) Info(context.Context, shard.StreamID, shard.InfoOptions) (shard.Info, error) {
	return shard.Info{Exists: true, Generation: 1, Tail: 9}, nil
}
