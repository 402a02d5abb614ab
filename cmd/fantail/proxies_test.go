package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// proxy is one of the recipes in deploy/proxies.
type proxy struct {
	name, recipe string
	command      func(config string) []string
	reload       func(t *testing.T, p *runningProxy) // nil: it takes changes in another way
	readiness    bool                                // it asks nodes whether they are ready
	replace      []string                            // further texts of the recipe, and what stands there instead
	versionFlag  string
}

// runningProxy is a proxy in front of three nodes.
type runningProxy struct {
	url, config string
	cmd         *exec.Cmd
	adminPort   string // of Caddy
}

func signalProxy(s syscall.Signal) func(*testing.T, *runningProxy) {
	return func(t *testing.T, p *runningProxy) {
		if err := p.cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
}

var proxies = []proxy{
	{
		name: "nginx", recipe: "nginx.conf", versionFlag: "-v", reload: signalProxy(syscall.SIGHUP),
		command: func(config string) []string {
			return []string{"-c", config, "-g", "daemon off; pid " + config + ".pid; error_log " + config + ".log;"}
		},
	},
	{
		name: "haproxy", recipe: "haproxy.cfg", versionFlag: "-v", readiness: true, reload: signalProxy(syscall.SIGUSR2),
		command: func(config string) []string { return []string{"-W", "-db", "-f", config} },
	},
	{
		name: "caddy", recipe: "Caddyfile", versionFlag: "version", readiness: true,
		command: func(config string) []string { return []string{"run", "--config", config, "--adapter", "caddyfile"} },
		reload: func(t *testing.T, p *runningProxy) {
			out, err := exec.Command("caddy", "reload", "--force", "--address=127.0.0.1:"+p.adminPort, "--config", p.config, "--adapter", "caddyfile").CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		},
	},
	{
		name: "envoy", recipe: "envoy.yaml", versionFlag: "--version", readiness: true,
		command: func(config string) []string {
			return []string{"--config-path", config, "--disable-hot-restart", "--concurrency", "2", "--log-level", "warning"}
		},
	},
}

func portOf(t *testing.T, address string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// start starts the proxy by its recipe, in front of servers at hosts that have the same ports.
func (p proxy) start(t *testing.T, hosts []string, httpPort, adminPort string) *runningProxy {
	t.Helper()
	b, err := os.ReadFile("../../deploy/proxies/" + p.recipe)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key, both := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), filepath.Join(dir, "tls.pem")
	writeCertificate(t, 1, cert, key)
	pem := ""
	for _, file := range []string{cert, key} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		pem += string(b)
	}
	if err := os.WriteFile(both, []byte(pem), 0o600); err != nil {
		t.Fatal(err)
	}
	front := portOf(t, freePorts(t, 1)[0])
	running := &runningProxy{url: "https://127.0.0.1:" + front + "/v1/stream/", config: filepath.Join(dir, "config"+filepath.Ext(p.recipe)), adminPort: portOf(t, freePorts(t, 1)[0])}
	replace := []string{
		"listen 443", "listen 127.0.0.1:" + front, "bind :443", "bind 127.0.0.1:" + front, "streams.example.com:443", "https://127.0.0.1:" + front,
		"/etc/nginx/tls.crt", cert, "/etc/nginx/tls.key", key, "/etc/haproxy/tls.pem", both, "/etc/caddy/tls.crt", cert, "/etc/caddy/tls.key", key,
		"localhost:2019", "127.0.0.1:" + running.adminPort, "port 4447", "port " + adminPort, "health_port 4447", "health_port " + adminPort,
		"address: 0.0.0.0, port_value: 443", "address: 127.0.0.1, port_value: " + front, "port_value: 4447", "port_value: " + adminPort,
		"/etc/envoy/tls.crt", cert, "/etc/envoy/tls.key", key,
		"worker_rlimit_nofile 200000", "worker_rlimit_nofile 8000", "worker_connections 100000", "worker_connections 4000", "maxconn 200000", "maxconn 2000",
	}
	replace = append(replace, p.replace...)
	for i, host := range hosts {
		replace = append(replace, fmt.Sprintf("node-%d:4437", i+1), host+":"+httpPort,
			fmt.Sprintf("address: node-%d, port_value: 4437", i+1), "address: "+host+", port_value: "+httpPort)
	}
	if err := os.WriteFile(running.config, []byte(strings.NewReplacer(replace...).Replace(string(b))), 0o600); err != nil {
		t.Fatal(err)
	}
	var log transcript
	running.cmd = exec.Command(p.name, p.command(running.config)...)
	running.cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	running.cmd.Stdout, running.cmd.Stderr = &log, &log
	if err := running.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = running.cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = running.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			_ = running.cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Log(log.String())
		}
	})
	eventually(t, 10*time.Second, p.name+" listens", func() bool {
		c, err := tls.Dial("tcp", "127.0.0.1:"+front, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // this test's certificate
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return running
}

// proxyClient returns a client that speaks one version of HTTP under TLS.
func proxyClient(t *testing.T, major int) *client {
	t.Helper()
	var versions http.Protocols
	versions.SetHTTP1(major == 1)
	versions.SetHTTP2(major == 2)
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Protocols: &versions, MaxIdleConnsPerHost: 64} //nolint:gosec // this test's certificate
	t.Cleanup(tr.CloseIdleConnections)
	return &client{&http.Client{Transport: tr}}
}

// startFleetOnHosts starts three nodes that have the same ports on addresses of their own.
func startFleetOnHosts(t *testing.T) (ps *processes, hosts []string, httpPort, adminPort string) {
	t.Helper()
	ps = startProcesses(t, 0)
	httpPort, adminPort = portOf(t, freePorts(t, 1)[0]), portOf(t, freePorts(t, 1)[0])
	for i := range 3 {
		host := fmt.Sprintf("127.0.0.%d", 20+i)
		hosts = append(hosts, host)
		more := []string{"--http=" + host + ":" + httpPort, "--admin=" + host + ":" + adminPort, "--linger=3s"}
		if i > 0 {
			more = append(more, "--join="+ps.nodes[0].addr("gossip"))
		}
		ps.nodes = append(ps.nodes, ps.spawn(t, i, more...))
	}
	ps.awaitOwners(t)
	return ps, hosts, httpPort, adminPort
}

// Each recipe passes events immediately, long-polls, the largest appends, and a write's 503 once;
// it loses nothing over a reload and over a node's drain.
func TestProxyRecipes(t *testing.T) {
	if os.Getenv("TEST_PROXIES") == "" {
		t.Skip("TEST_PROXIES is not set: it wants nginx, HAProxy, Caddy and Envoy")
	}
	for _, p := range proxies {
		t.Run(p.name, func(t *testing.T) {
			out, err := exec.Command(p.name, p.versionFlag).CombinedOutput()
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
			t.Log(first)
			ps, hosts, httpPort, adminPort := startFleetOnHosts(t)
			front := p.start(t, hosts, httpPort, adminPort)
			url := func(stream string) string { return front.url + ps.run + "/" + stream }
			for _, major := range []int{1, 2} {
				checkProxyPasses(t, proxyClient(t, major), major, url(fmt.Sprintf("passes-%d", major)))
			}
			if p.reload != nil {
				checkProxyReloads(t, p, front, url("reloads"))
			}
			checkProxyDrains(t, p, ps, url("drains"))
			checkProxySendsWritesOnce(t, p)
		})
	}
}

func checkProxyPasses(t *testing.T, c *client, major int, url string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c.must(t, 201, "PUT", url, "", "Content-Type", "application/json")
	// An event arrives while the answer goes on.
	req, err := http.NewRequestWithContext(ctx, "GET", url+"?live=sse&offset=-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != major || resp.StatusCode != 200 {
		t.Fatalf("%s %d, want HTTP/%d", resp.Proto, resp.StatusCode, major)
	}
	events := make(chan string, 100)
	go func() {
		buf := make([]byte, 4<<10)
		for {
			n, err := resp.Body.Read(buf)
			if err != nil {
				return
			}
			events <- string(buf[:n])
		}
	}()
	await := func(what string) {
		t.Helper()
		for {
			select {
			case e := <-events:
				if strings.Contains(e, what) {
					return
				}
			case <-time.After(2 * time.Second):
				t.Fatalf("HTTP/%d: no %s within 2 s", major, what)
			}
		}
	}
	await("upToDate")
	c.must(t, 204, "POST", url, `"live"`, "Content-Type", "application/json")
	await("live")
	// A long-poll waits for a message.
	got := make(chan answer, 1)
	tail := c.must(t, 200, "HEAD", url, "").header.Get("Stream-Next-Offset")
	go func() {
		a, _ := c.do(ctx, "GET", url+"?live=long-poll&offset="+tail, "")
		got <- a
	}()
	c.must(t, 204, "POST", url, `"polled"`, "Content-Type", "application/json")
	if a := <-got; a.status != 200 || !strings.Contains(string(a.body), "polled") {
		t.Errorf("HTTP/%d: a long-poll got %d %s", major, a.status, a.body)
	}
	// The largest append.
	large := strings.Repeat("x", 16<<20)
	c.must(t, 201, "PUT", url+"-large", "", "Content-Type", "application/octet-stream")
	c.must(t, 204, "POST", url+"-large", large, "Content-Type", "application/octet-stream")
	if n, err := c.countBytes(ctx, url+"-large"); err != nil || n != int64(len(large)) {
		t.Errorf("HTTP/%d: %d bytes of the largest append: %v", major, n, err)
	}
}

// checkOnceBehind writes messages while disturb runs. Readers get each once and in order.
func checkOnceBehind(t *testing.T, url string, disturb func(write func())) {
	t.Helper()
	c := proxyClient(t, 1)
	c.must(t, 201, "PUT", url, "", "Content-Type", "application/json")
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	n := 0
	write := func() {
		writeSurely(ctx, t, c, func(int) string { return url }, 0, n)
		n++
	}
	write()
	readers, ended := c.follow(ctx, t, 20, 20*time.Second, func(int, int) string { return url })
	disturb(write)
	write()
	all := c.readAll(t, url)
	checkOnceInOrder(t, all, 1, n)
	writeSurely(ctx, t, c, func(int) string { return url }, 0, n)
	eventually(t, 20*time.Second, "all is delivered", func() bool {
		for _, r := range readers {
			if r.count.Load() < int64(n+1) {
				return false
			}
		}
		return true
	})
	stop()
	ended()
	for _, r := range readers {
		checkOnceInOrder(t, r.got, 1, n+1)
	}
}

func checkProxyReloads(t *testing.T, p proxy, front *runningProxy, url string) {
	t.Helper()
	checkOnceBehind(t, url, func(write func()) {
		p.reload(t, front)
		for range 20 {
			write()
		}
	})
}

// checkProxyDrains drains a node by hand: no write fails, and a proxy that asks for readiness sends
// it nothing more.
func checkProxyDrains(t *testing.T, p proxy, ps *processes, url string) {
	t.Helper()
	c := newClient(t)
	admin := ps.nodes[0].addr("admin")
	requests := func() float64 {
		n, _ := c.metric(t.Context(), admin, "fantail_http_requests_total")
		return n
	}
	checkOnceBehind(t, url, func(write func()) {
		c.must(t, 202, "POST", "http://"+admin+"/admin/drain", "")
		eventually(t, 20*time.Second, "the node is drained", func() bool {
			write()
			return strings.Contains(string(c.must(t, 200, "GET", "http://"+admin+"/admin/drain", "").body), `"drained"`)
		})
		before := requests()
		for range 20 {
			write()
		}
		if after := requests(); p.readiness && after != before {
			t.Errorf("a drained node gets %v requests of 20", after-before)
		}
	})
}

// checkProxySendsWritesOnce counts how often a write arrives that nodes answer with 503.
func checkProxySendsWritesOnce(t *testing.T, p proxy) {
	t.Helper()
	var writes atomic.Int64
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Method == "POST" {
			writes.Add(1)
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	hosts := []string{"127.0.0.30", "127.0.0.31", "127.0.0.32"}
	httpPort, adminPort := portOf(t, freePorts(t, 1)[0]), portOf(t, freePorts(t, 1)[0])
	for _, host := range hosts {
		for _, port := range []string{httpPort, adminPort} {
			l, err := net.Listen("tcp", host+":"+port)
			if err != nil {
				t.Fatal(err)
			}
			s := httptest.NewUnstartedServer(h)
			_ = s.Listener.Close()
			s.Listener = l
			s.Start()
			t.Cleanup(s.Close)
		}
	}
	front := p.start(t, hosts, httpPort, adminPort)
	c := proxyClient(t, 1)
	if a, err := c.do(t.Context(), "POST", front.url+"p/s", "x"); err != nil || a.status != 503 || writes.Load() != 1 {
		t.Errorf("a write that gets 503 was answered with %d (%v) and sent %d times", a.status, err, writes.Load())
	}
}
