package s2s

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"golang.org/x/net/http2"
)

// windowsWait is the time for which Windows waits for what a server grants beside its first settings.
const windowsWait = 500 * time.Millisecond

// Windows returns how many bytes an endpoint takes before it has acknowledged any: of one stream, and
// of one connection. It makes a connection of its own.
func Windows(ctx context.Context, base string) (stream, conn int, err error) {
	u, err := url.Parse(base)
	if err != nil {
		return 0, 0, fmt.Errorf("s2s: endpoint: %w", err)
	}
	nc, err := dialHTTP2(ctx, u)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = nc.Close() }()
	_ = nc.SetDeadline(time.Now().Add(handshakeTimeout))
	if _, err := nc.Write([]byte(http2.ClientPreface)); err != nil {
		return 0, 0, err
	}
	f := http2.NewFramer(nc, nc)
	if err := f.WriteSettings(); err != nil {
		return 0, 0, err
	}
	stream, conn = defaultWindow, defaultWindow
	for settled := false; ; {
		frame, err := f.ReadFrame()
		var timeout net.Error
		switch {
		case settled && errors.As(err, &timeout) && timeout.Timeout():
			return stream, conn, nil
		case err != nil:
			return 0, 0, err
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if frame.IsAck() {
				continue
			}
			if v, ok := frame.Value(http2.SettingInitialWindowSize); ok {
				stream = int(v)
			}
			settled = true
			_ = nc.SetReadDeadline(time.Now().Add(windowsWait))
			if err := f.WriteSettingsAck(); err != nil {
				return 0, 0, err
			}
		case *http2.WindowUpdateFrame:
			if frame.StreamID == 0 {
				conn += int(frame.Increment)
			}
		}
	}
}

// dialHTTP2 makes a connection that speaks HTTP/2 by prior knowledge, or by TLS's choice.
func dialHTTP2(ctx context.Context, u *url.URL) (net.Conn, error) {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	addr := net.JoinHostPort(u.Hostname(), port)
	dialer := &net.Dialer{Timeout: dialTimeout}
	if u.Scheme != "https" {
		return dialer.DialContext(ctx, "tcp", addr)
	}
	return (&tls.Dialer{NetDialer: dialer, Config: &tls.Config{ServerName: u.Hostname(), NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}}).DialContext(ctx, "tcp", addr)
}
