package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/cluster"
	"github.com/fantail-dev/fantail/shard"
)

// Whatever the memory, the budgets together fit into the pool, and the pool leaves room.
func TestMemoryBudgetsFitTheLimit(t *testing.T) {
	sum := func(memory int64) (sum int64) {
		for i, n := range splitBudgets(memory) {
			if n < budgets[i].min || n > budgets[i].max {
				t.Errorf("%s of %d MiB: %d", budgets[i].name, memory/mib, n)
			}
			sum += n
		}
		return sum
	}
	if got := sum(0) / mib; got != 2560 {
		t.Errorf("all budgets are %d MiB: docs/configuration.md says 2.5 GiB", got)
	}
	last := int64(0)
	for m := int64(minMemory); m <= 16<<30; m += 64 * mib {
		got := sum(m)
		if got > budgetPool(m) || budgetPool(m) > m/5*4 || got < last {
			t.Errorf("of %d MiB the pool is %d and the budgets are %d", m/mib, budgetPool(m)/mib, got/mib)
		}
		last = got
	}
	if sum(4<<30) != sum(0) {
		t.Error("4 GiB are not plenty")
	}
	most := int64(shard.RequestCost(shard.MaxBody, shard.MaxMessages))
	for _, b := range budgets {
		if strings.HasSuffix(b.name, "bodies") && b.min < most {
			t.Errorf("%s: the least is %d, and the largest append costs %d", b.name, b.min, most)
		}
	}
	cfg := nodeConfig{fleet: &cluster.Config{}}
	for i, b := range budgets {
		b.apply(&cfg, int64(i+1))
	}
	got := []int64{
		cfg.tailBytes, cfg.shard.StateBytes, cfg.shard.PageBytes, cfg.edge.FrameBytes, cfg.edge.PinnedBytes,
		cfg.edge.ChunkBytes, cfg.edge.MaxBodies, cfg.fleet.PeerWriteBytes, cfg.s2.WindowBytes, cfg.fleet.LinkCreditBytes,
	}
	for i, n := range got {
		if n != int64(i+1) || len(got) != len(budgets) {
			t.Errorf("%s does not set its own budget", budgets[i].name)
		}
	}
}

func TestMemoryLimitIsFound(t *testing.T) {
	write := func(root string, files ...string) string {
		for i := 0; i < len(files); i += 2 {
			path := filepath.Join(root, files[i])
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(files[i+1]), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return root
	}
	v2 := write(t.TempDir(), "proc/self/cgroup", "0::/\n", "sys/fs/cgroup/memory.max", "536870912\n")
	nested := write(t.TempDir(), "proc/self/cgroup", "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max", "max\n", "sys/fs/cgroup/a/memory.max", "1073741824\n")
	v1 := write(t.TempDir(), "proc/self/cgroup", "4:cpu,memory:/x\n0::/\n", "sys/fs/cgroup/memory/x/memory.limit_in_bytes", "2147483648\n",
		"sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
	outside := write(t.TempDir(), "proc/self/cgroup", "0::/../../pod\n", "sys/fs/cgroup/memory.max", "536870912\n")
	none := write(t.TempDir(), "proc/self/cgroup", "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
	for _, c := range []struct {
		root, soft string
		setting    byteSize
		want       int64
		from       string
	}{
		{v2, "", 0, 512 * mib, "cgroup"},
		{nested, "", 0, 1 << 30, "cgroup"},
		{v1, "", 0, 2 << 30, "cgroup"},
		{outside, "", 0, 512 * mib, "cgroup"},
		{none, "", 0, 0, ""},
		{t.TempDir(), "", 0, 0, ""},
		{v2, "", 1 << 30, 1 << 30, "--memory"},
		{v2, "450MiB", 0, 500 * mib, "GOMEMLIMIT"},
		{v2, "4GiB", 0, 512 * mib, "cgroup"},
		{v2, "off", 0, 512 * mib, "cgroup"},
		{none, "900MiB", 0, 1000 * mib, "GOMEMLIMIT"},
	} {
		t.Run(fmt.Sprintf("%d, GOMEMLIMIT %q, root %s", c.setting, c.soft, filepath.Base(c.root)), func(t *testing.T) {
			got := findMemoryLimit(c.setting, func(string) string { return c.soft }, c.root)
			if got.bytes != c.want || got.source != c.from {
				t.Errorf("%+v: %+v", c, got)
			}
		})
	}
	for text, want := range map[string]int64{"0": 0, "1024": 1024, "1024B": 1024, "2KiB": 2048, "3MiB": 3 * mib, "4GiB": 4 << 30, " 1TiB": 1 << 40} {
		var b byteSize
		if err := b.UnmarshalText([]byte(text)); err != nil || int64(b) != want {
			t.Errorf("%q: %d %v", text, b, err)
		}
	}
	for _, text := range []string{"", "1G", "-1", "1.5GiB", "GiB", "9999999999999TiB", "off"} {
		if new(byteSize).UnmarshalText([]byte(text)) == nil {
			t.Errorf("%q is no error", text)
		}
	}
}

// limitMemory creates a cgroup with a memory limit, and returns the file that processes are added
// to.
func limitMemory(t *testing.T, limit int64) (procs string) {
	t.Helper()
	for _, kind := range []struct{ root, file string }{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"}, {"/sys/fs/cgroup", "memory.max"}, {"/sys/fs/cgroup/unified", "memory.max"},
	} {
		dir, err := os.MkdirTemp(kind.root, "fantail-test-") //nolint:usetesting // in the cgroups' file system
		if err != nil {
			continue
		}
		t.Cleanup(func() { _ = os.Remove(dir) })
		if os.WriteFile(filepath.Join(dir, kind.file), []byte(strconv.FormatInt(limit, 10)), 0o644) == nil {
			return filepath.Join(dir, "cgroup.procs")
		}
	}
	t.Skip("no cgroup can be made here")
	return ""
}

// With default settings a node in a container of 512 MiB survives six clients that catch up with
// 400 MB.
func TestSmallContainerSurvivesCatchUp(t *testing.T) {
	procs := limitMemory(t, 512*mib)
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	s := spawn(t, "embedded S2", "s2", "--listen=127.0.0.1:0") // in this process the race detector would slow it down
	at := freePorts(t, 2)
	cmd := exec.Command("sh", "-c", `echo $$ > "$0" && exec "$@"`, procs, path,
		"serve", "--http="+at[0], "--admin="+at[1], "--s2-endpoint="+s.addr("url"), "--s2-basin="+devBasin)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "GOMEMLIMIT=") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	var log syncBuffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Log(log.String())
		}
	}()
	c := newClient(t)
	eventually(t, 20*time.Second, "it serves", func() bool {
		a, err := c.do(t.Context(), "GET", "http://"+at[1]+"/readyz", "")
		return err == nil && a.status == 200
	})
	url := "http://" + at[0] + "/v1/stream/p/s"
	c.must(t, 201, "PUT", url, "", "Content-Type", "application/octet-stream")
	const bodies, size = 400, 1 << 20
	body := strings.Repeat("x", size)
	for range bodies {
		c.must(t, 204, "POST", url, body, "Content-Type", "application/octet-stream")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var reading sync.WaitGroup
	for i := range 6 {
		reading.Go(func() {
			got, err := c.countBytes(ctx, url)
			if err != nil || got != bodies*size {
				t.Errorf("client %d got %d bytes: %v", i, got, err)
			}
		})
	}
	reading.Wait()
	select {
	case err := <-ended:
		ended <- err
		t.Fatalf("the node has ended: %v", err)
	default:
	}
	if b, err := os.ReadFile(filepath.Join(filepath.Dir(procs), "memory.max_usage_in_bytes")); err == nil {
		n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		t.Logf("at most %d MiB", n/mib)
	}
}

// countBytes catches up with a stream and counts its bytes.
func (c *client) countBytes(ctx context.Context, url string) (n int64, err error) {
	for at := "-1"; ; {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"?offset="+at, nil)
		if err != nil {
			return n, err
		}
		resp, err := c.http.Do(req)
		if err != nil {
			return n, err
		}
		k, err := io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		switch {
		case err != nil:
			return n + k, err
		case resp.StatusCode == http.StatusServiceUnavailable, resp.StatusCode == http.StatusTooManyRequests: // the node is at a limit
			continue
		}
		n += k
		at = resp.Header.Get("Stream-Next-Offset")
		if resp.Header.Get("Stream-Up-To-Date") == "true" {
			return n, nil
		}
	}
}
