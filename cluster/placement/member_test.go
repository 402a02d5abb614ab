package placement

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func validMember() Member {
	return Member{
		Name: "node-0-1a2b3c4d", RingKey: "node-0", StartedAt: 1700000000000, Revision: 7, OwnsFrom: 0,
		OwnsUntil: Never, Flags: FlagLeaving, RelayVersion: RelayVersionNewest, RelayAddr: "10.1.2.3:4458", HTTPAddr: "10.1.2.3:4437",
		FormatLevel: 1, Features: FeatureTLS, FleetHash: 1 << 63,
	}
}

func TestMemberMetadataRoundTrips(t *testing.T) {
	t.Parallel()
	for _, m := range []Member{validMember(), {Name: "n", RingKey: "k", RelayAddr: "r", OwnsFrom: Never, OwnsUntil: 5}} {
		t.Run(m.Name, func(t *testing.T) {
			got, err := DecodeMember(m.Name, m.Encode())
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(m, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestMemberMetadataOfALaterLayoutIsRead(t *testing.T) {
	t.Parallel()
	m := validMember()
	b := append(m.Encode(), "more than this release knows"...)
	b[0]++
	if got, err := DecodeMember(m.Name, b); err != nil || got != m {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestMemberOfAnotherRingGenerationIsRefused(t *testing.T) {
	t.Parallel()
	m := validMember()
	b := m.Encode()
	b[4]++
	if _, err := DecodeMember(m.Name, b); err == nil {
		t.Error("a member with another ring generation was let in")
	}
}

func TestMemberMetadataFitsInGossip(t *testing.T) {
	t.Parallel()
	long := make([]byte, MaxAddress)
	m := Member{RingKey: string(long[:MaxRingKey]), RelayAddr: string(long), HTTPAddr: string(long)}
	if n := len(m.Encode()); n > 512 {
		t.Errorf("%d bytes", n)
	}
}

func FuzzDecodeMember(f *testing.F) {
	m := validMember()
	f.Add(m.Encode())
	f.Add([]byte{metaVersion})
	f.Add(m.Encode()[:metaFixedBytes+4])
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeMember("n", b)
		if err != nil {
			return
		}
		again, err := DecodeMember("n", m.Encode())
		if err != nil || again != m {
			t.Errorf("%+v became %+v, %v", m, again, err)
		}
	})
}
