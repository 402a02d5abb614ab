package gossip

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"unicode"
)

// ParseJoinAddrs returns the addresses of Config.Join without the blanks around them, and all their
// errors. They are checked at the start, because a node whose addresses are never found
// would begin a fleet of its own.
func ParseJoinAddrs(addrs []string) (clean []string, err error) {
	if len(addrs) == 1 && strings.TrimSpace(addrs[0]) == "" {
		return nil, nil
	}
	var errs []error
	for _, a := range addrs {
		a = strings.TrimSpace(a)
		if err := checkJoinAddr(a); err != nil {
			errs = append(errs, fmt.Errorf("%q: %w", a, err))
		}
		clean = append(clean, a)
	}
	return clean, errors.Join(errs...)
}

// checkJoinAddr returns what is wrong with one address.
func checkJoinAddr(a string) error {
	switch {
	case a == "":
		return errors.New("an empty address between two commas")
	case strings.Contains(a, "://"):
		return errors.New("want host[:port], without http:// or any other scheme")
	case strings.ContainsFunc(a, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(`/?#@"'`, r) }):
		return errors.New("want host[:port], several of them separated by commas")
	case net.ParseIP(a) != nil: // an IPv6 address has colons
		return nil
	}
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		if strings.Contains(a, ":") {
			return errors.New("want host[:port], an IPv6 address with a port in brackets")
		}
		host, port = a, strconv.Itoa(DefaultPort)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return fmt.Errorf("port %q: want 1 to 65535", port)
	}
	if host == "" || len(host) > 253 {
		return errors.New("no host")
	}
	return nil
}
