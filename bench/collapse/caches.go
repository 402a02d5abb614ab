package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/child"
	"github.com/fantail-dev/fantail/bench/internal/fleet"
	"github.com/fantail-dev/fantail/bench/internal/wait"
)

// cache names what stands in front of the nodes.
type cache struct {
	name  string
	start func() (*front, error)
}

// front is a cache that runs.
type front struct {
	addr string
	stop func()
}

const frontAddr = "127.0.2.1:8080"

func caches() []cache {
	return []cache{
		{"none", func() (*front, error) {
			return &front{strings.TrimPrefix(fleet.HTTP(0), "http://"), func() {}}, nil
		}},
		{"nginx", startNginx},
		{"varnish", startVarnish},
	}
}

// recipe returns a recipe of deploy/proxies in front of this fleet's nodes.
func recipe(name string, more ...string) (string, error) {
	b, err := os.ReadFile("deploy/proxies/" + name)
	if err != nil {
		return "", err
	}
	for i := range 3 {
		node := strings.TrimPrefix(fleet.HTTP(min(i, *nodes-1)), "http://")
		host, _, _ := net.SplitHostPort(node)
		more = append(more, fmt.Sprintf("node-%d:4437", i+1), node, fmt.Sprintf(`"node-%d"`, i+1), `"`+host+`"`)
	}
	return strings.NewReplacer(more...).Replace(string(b)), nil
}

// startNginx runs the recipe without TLS.
func startNginx() (*front, error) {
	dir, err := os.MkdirTemp("", "fantail-nginx-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // nginx's workers have a user of their own
		return nil, err
	}
	config, err := recipe("nginx-cache.conf", "listen 443 ssl http2", "listen "+frontAddr,
		"    ssl_certificate /etc/nginx/tls.crt;\n", "", "    ssl_certificate_key /etc/nginx/tls.key;\n", "",
		"worker_rlimit_nofile 200000", "worker_rlimit_nofile 20000", "worker_connections 100000", "worker_connections 19000",
		"worker_processes auto", "worker_processes 1", "/var/cache/nginx/fantail", filepath.Join(dir, "cache"))
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return nil, err
	}
	return startFront(dir, "nginx", "-c", path, "-g", "daemon off; pid "+dir+"/pid; error_log "+dir+"/log;")
}

func startVarnish() (*front, error) {
	dir, err := os.MkdirTemp("", "fantail-varnish-")
	if err != nil {
		return nil, err
	}
	config, err := recipe("varnish.vcl")
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "fantail.vcl")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return nil, err
	}
	return startFront(dir, "varnishd", "-F", "-j", "none", "-n", filepath.Join(dir, "varnish"), "-f", path, "-a", frontAddr, "-s", "malloc,256m")
}

// startFront runs a program until it listens.
func startFront(dir, name string, args ...string) (*front, error) {
	program, err := exec.LookPath(name)
	if err != nil {
		return nil, err
	}
	c, err := child.Start(program, "", args...)
	if err != nil {
		return nil, err
	}
	stop := func() {
		c.Stop()
		_ = os.RemoveAll(dir)
	}
	err = wait.For(20*time.Second, name+" listens", func() bool {
		conn, err := net.Dial("tcp", frontAddr)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil || c.Ended()
	})
	if err != nil || c.Ended() {
		stop()
		return nil, fmt.Errorf("%s does not listen: %w", name, err)
	}
	return &front{frontAddr, stop}, nil
}
