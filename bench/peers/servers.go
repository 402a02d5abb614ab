//go:build linux

package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/child"
	"github.com/fantail-dev/fantail/bench/internal/fleet"
	"github.com/fantail-dev/fantail/bench/internal/limit"
	"github.com/fantail-dev/fantail/bench/internal/wait"
)

// server is a server that is compared, at the settings that its documentation names for many
// readers.
type server struct {
	name, title string
	dialect     string // of bench/load
	path        string // of a stream
	headers     []string
	missing     func() error // why it cannot be started here
	start       func(dir string) (running, error)
}

type running struct {
	url  string
	pid  int // with its children, what is measured
	stop func()
}

const (
	limitName = "c"
	port      = "4837"
	addr      = "127.0.0.1:" + port
	secret    = "a-secret-of-at-least-32-characters!!"
)

// fetched returns a path in the folder in which bench/peers/install puts what it builds.
func fetched(name string) string { return filepath.Join("bench", "peers", "bin", name) }

// servers lists all servers, given Fantail's binary.
func servers(binary string) []*server {
	return []*server{
		{
			name: limitName, title: "loop in C", dialect: "sse", missing: command("cc"),
			start: func(dir string) (running, error) {
				path, err := limit.Build(dir)
				if err != nil {
					return running{}, err
				}
				return launch(path, port)
			},
		},
		{
			name: "fantail", title: "Fantail, on an S2 over the wire", dialect: "durable", path: "/v1/stream/load-%d", missing: func() error { return nil },
			start: func(string) (running, error) {
				f, err := fleet.Start(1, time.Second)
				if err != nil {
					return running{}, err
				}
				return running{fleet.HTTP(0), f.PIDs()[0], f.Stop}, nil
			},
		},
		{
			name: "lone", title: "Fantail, its S2 in the process", dialect: "durable", path: "/v1/stream/load-%d", missing: func() error { return nil },
			start: func(string) (running, error) {
				return launch(binary, "dev", "--port="+port, "--admin-port=4838", "--s2-port=4839")
			},
		},
		{
			name: "rust", title: "durable-streams 0.1.5 (Rust), in memory", dialect: "durable", path: "/v1/stream/load-%d", missing: file(fetched("durable-streams-server")),
			start: func(dir string) (running, error) {
				return launch(fetched("durable-streams-server"), "--port", port, "--data-dir", dir, "--durability", "memory", "--tail-cache-bytes", "65536")
			},
		},
		{
			name: "nchan", title: "nchan, 2 workers", dialect: "nchan", missing: file("/usr/lib/nginx/modules/ngx_nchan_module.so"),
			start: func(dir string) (running, error) {
				conf := filepath.Join(dir, "nginx.conf")
				if err := os.WriteFile(conf, []byte(strings.ReplaceAll(nchanConf, "DIR", dir)), 0o600); err != nil {
					return running{}, err
				}
				return launch("nginx", "-c", conf, "-e", filepath.Join(dir, "error.log"))
			},
		},
		{
			name: "nethttp", title: "net/http, a channel a reader", dialect: "sse", missing: func() error { return nil },
			start: func(string) (running, error) {
				self, err := os.Executable()
				if err != nil {
					return running{}, err
				}
				return launch(self, "-serve="+addr)
			},
		},
		{
			name: "mercure", title: "Mercure 0.21", dialect: "mercure", missing: file(fetched("mercure")),
			headers: []string{"Authorization: Bearer " + mercureToken()},
			start: func(dir string) (running, error) {
				conf := filepath.Join(dir, "Caddyfile")
				if err := os.WriteFile(conf, []byte(mercureConf), 0o600); err != nil {
					return running{}, err
				}
				return launch(fetched("mercure"), "run", "--config", conf, "--adapter", "caddyfile")
			},
		},
		{
			name: "centrifugo", title: "Centrifugo 6.9", dialect: "centrifugo", missing: file(fetched("centrifugo")),
			headers: []string{"X-API-Key: " + secret},
			start: func(dir string) (running, error) {
				conf := filepath.Join(dir, "config.json")
				if err := os.WriteFile(conf, []byte(centrifugoConf), 0o600); err != nil {
					return running{}, err
				}
				return launch(fetched("centrifugo"), "-c", conf)
			},
		},
		{
			name: "node", title: "@durable-streams/server 0.3.7 (Node), in memory", dialect: "durable", path: "/v1/stream/load-%d",
			missing: file("bench/peers/node_modules/@durable-streams/server"),
			start: func(string) (running, error) {
				return launch("node", "bench/peers/node.mjs", port)
			},
		},
	}
}

// launch starts a program and waits until it listens.
func launch(path string, args ...string) (running, error) {
	c, err := child.Start(path, "", args...)
	if err != nil {
		return running{}, err
	}
	err = wait.For(20*time.Second, path+" listens", func() bool {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil || c.Ended()
	})
	if err == nil && c.Ended() {
		err = fmt.Errorf("%s has ended", path)
	}
	if err != nil {
		c.Stop()
		return running{}, err
	}
	return running{"http://" + addr, c.PID(), c.Stop}, nil
}

func command(name string) func() error {
	return func() error {
		_, err := exec.LookPath(name)
		return err
	}
}

func file(path string) func() error {
	return func() error {
		_, err := os.Stat(path)
		return err
	}
}

// mercureToken returns a token that may publish whatever it likes.
func mercureToken() string {
	part := base64.RawURLEncoding.EncodeToString
	text := part([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + part([]byte(`{"mercure":{"publish":["*"]}}`))
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return text + "." + part(mac.Sum(nil))
}

const mercureConf = `{
	auto_https off
	admin off
	log {
		level ERROR
	}
}
:` + port + ` {
	route {
		mercure {
			publisher_jwt ` + secret + `
			anonymous
			transport local
		}
	}
}
`

const centrifugoConf = `{
  "http_server": {"address": "127.0.0.1", "port": ` + port + `},
  "log": {"level": "error"},
  "http_api": {"key": "` + secret + `"},
  "client": {"insecure": true, "allow_anonymous_connect_without_token": true, "connection_limit": 0},
  "uni_sse": {"enabled": true},
  "channel": {"without_namespace": {"allow_subscribe_for_client": true, "allow_subscribe_for_anonymous": true}}
}
`

const nchanConf = `load_module /usr/lib/nginx/modules/ngx_nchan_module.so;
daemon off;
worker_processes 2;
worker_rlimit_nofile 20000;
pid DIR/nginx.pid;
events { worker_connections 19000; }
http {
  access_log off;
  client_body_temp_path DIR/body;
  proxy_temp_path DIR/proxy;
  fastcgi_temp_path DIR/fastcgi;
  uwsgi_temp_path DIR/uwsgi;
  scgi_temp_path DIR/scgi;
  keepalive_requests 1000000000;
  tcp_nodelay on;
  nchan_shared_memory_size 512M;
  server {
    listen ` + addr + ` backlog=4096;
    location ~ /sub/(\d+)$ {
      nchan_subscriber eventsource;
      nchan_channel_id $1;
      nchan_subscriber_first_message newest;
    }
    location ~ /pub/(\d+)$ {
      nchan_publisher http;
      nchan_channel_id $1;
      nchan_message_buffer_length 2000;
    }
  }
}
`
