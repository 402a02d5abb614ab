package s2dev

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/s2-streamstore/s2-sdk-go/s2"
	"go.uber.org/goleak"
)

const (
	testBasin = "test-basin"
	crashDir  = "S2DEV_CRASH_DIR"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		serveUntilKilled(dir)
	}
	goleak.VerifyTestMain(m)
}

// serveUntilKilled is the body of the process that the crash test kills.
func serveUntilKilled(dir string) {
	s, err := Open(Config{Dir: dir, Basins: []string{testBasin}})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println(s.URL())
	select {}
}

// open starts a server that is closed with the test.
func open(t testing.TB, cfg Config) *Server {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// dialBasin returns a client of the test basin that tries everything once.
func dialBasin(url string) *s2.BasinClient {
	base := strings.TrimSuffix(url, "/") + "/v1"
	c := s2.New("ignored", &s2.ClientOptions{
		BaseURL:          base,
		MakeBasinBaseURL: func(string) string { return base },
		RetryConfig:      &s2.RetryConfig{MaxAttempts: 1},
	})
	return c.Basin(testBasin)
}

func mustCreate(t testing.TB, b *s2.BasinClient, name string) *s2.StreamClient {
	t.Helper()
	_, err := b.Streams.Create(t.Context(), s2.CreateStreamArgs{Stream: s2.StreamName(name)})
	if err != nil {
		t.Fatal(err)
	}
	return b.Stream(s2.StreamName(name))
}

func bodyRecords(texts ...string) *s2.AppendInput {
	in := &s2.AppendInput{}
	for _, s := range texts {
		in.Records = append(in.Records, s2.AppendRecord{Body: []byte(s)})
	}
	return in
}
