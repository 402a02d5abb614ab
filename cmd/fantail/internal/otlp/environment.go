package otlp

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// environment reads OpenTelemetry's variables, and collects what is wrong with them.
type environment struct {
	getenv func(string) string
	errs   []error
}

// wrong notes that a setting has a value which cannot be used.
func (e *environment) wrong(name, value, want string) {
	e.errs = append(e.errs, fmt.Errorf("%s: %q: %s", name, value, want))
}

// last returns the last of several variables that is set, and its name. A variable of traces alone comes
// after that of all signals.
func (e *environment) last(names ...string) (name, value string) {
	for _, n := range names {
		if v := strings.TrimSpace(e.getenv(n)); v != "" {
			name, value = n, v
		}
	}
	return name, value
}

// oneOf reads one of several words.
func (e *environment) oneOf(def string, words []string, names ...string) string {
	name, v := e.last(names...)
	switch {
	case v == "":
		return def
	case slices.Contains(words, strings.ToLower(v)):
		return strings.ToLower(v)
	}
	e.wrong(name, v, "want "+strings.Join(words, ", ")+"; --traces (FANTAIL_TRACES) goes to OTLP over HTTP whatever it says")
	return def
}

// count reads a number of 1 or more.
func (e *environment) count(def int, names ...string) int {
	name, v := e.last(names...)
	if v == "" {
		return def
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > maxCount {
		e.wrong(name, v, fmt.Sprintf("want 1 to %d", maxCount))
		return def
	}
	return n
}

// maxCount bounds numbers: a queue of as many spans takes about 2 GB.
const maxCount = 1_000_000

// milliseconds reads a time.
func (e *environment) milliseconds(def time.Duration, names ...string) time.Duration {
	return time.Duration(e.count(int(def.Milliseconds()), names...)) * time.Millisecond
}

// fraction reads a number from 0 to 1.
func (e *environment) fraction(def float64, name string) float64 {
	name, v := e.last(name)
	if v == "" {
		return def
	}
	f, err := strconv.ParseFloat(v, 64)
	if err != nil || !(f >= 0 && f <= 1) {
		e.wrong(name, v, "want 0 to 1")
		return def
	}
	return f
}

// pairs reads key=value,key=value, with values as in a URL. An error does not quote a value, which may be
// secret.
func (e *environment) pairs(names ...string) map[string]string {
	all := map[string]string{}
	name, list := e.last(names...)
	if list == "" {
		return all
	}
	for i, p := range strings.Split(list, ",") {
		k, v, ok := strings.Cut(p, "=")
		v, err := url.PathUnescape(strings.TrimSpace(v))
		if k = strings.TrimSpace(k); !ok || k == "" || err != nil {
			e.errs = append(e.errs, fmt.Errorf("%s: number %d: want key=value", name, i+1))
			continue
		}
		all[k] = v
	}
	return all
}

// url reads the URL of a collector, and adds a path to it.
func (e *environment) url(name, v, path string) *url.URL {
	u, err := url.Parse(v)
	switch {
	case v == "":
		e.errs = append(e.errs, fmt.Errorf("%s is set and empty: want the URL of a collector, such as http://127.0.0.1:4318", name))
		return &url.URL{}
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		e.errs = append(e.errs, fmt.Errorf("%s: want the URL of a collector, such as http://127.0.0.1:4318", name))
		return &url.URL{}
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		e.errs = append(e.errs, fmt.Errorf("%s: want a URL without user, query and fragment; credentials go into OTEL_EXPORTER_OTLP_HEADERS", name))
	}
	return u.JoinPath(path)
}

// tls reads the certificates; nil: the system's authorities, and no certificate of this node.
func (e *environment) tls() *tls.Config {
	ca, caFile := e.last("OTEL_EXPORTER_OTLP_CERTIFICATE", "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE")
	certName, cert := e.last("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE")
	_, key := e.last("OTEL_EXPORTER_OTLP_CLIENT_KEY", "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY")
	if caFile == "" && cert == "" && key == "" {
		return nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		b, err := os.ReadFile(caFile)
		cfg.RootCAs = x509.NewCertPool()
		if err == nil && !cfg.RootCAs.AppendCertsFromPEM(b) {
			err = errors.New("no certificate in it")
		}
		if err != nil {
			e.errs = append(e.errs, fmt.Errorf("%s: %w", ca, err))
		}
	}
	if cert == "" && key == "" {
		return cfg
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		e.errs = append(e.errs, fmt.Errorf("%s and its key: %w", certName, err))
	}
	cfg.Certificates = []tls.Certificate{pair}
	return cfg
}
