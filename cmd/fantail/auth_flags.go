package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/fantail-dev/fantail/edge"
	"github.com/fantail-dev/fantail/edge/access"
)

// authFlags holds the flags that decide which clients may do what.
type authFlags struct {
	Auth        *string  `help:"File of rights (YAML): which tokens may do what to which streams. Read again when it changes. The value off means that everything is open although other nodes have a file (default: everything is open)." group:"auth"`
	AuthObserve bool     `name:"auth-observe" help:"Judge requests by the file of rights, count and log what would be refused, and refuse nothing. To switch rights on in a running fleet." group:"auth"`
	CORSOrigins []string `name:"cors-origins" help:"Origins whose web pages may use this server, such as https://app.example or https://*.app.example, where the file of rights names none. *: every origin, without cookies. none: a proxy in front does it." default:"*" group:"auth"`
	Cache       string   `help:"Which caches may keep answers. shared: a CDN, too, as far as the request identifies no client. private: only the client's own." enum:"shared,private" default:"shared" group:"auth"`
}

// authConfig says where a node's rights come from.
type authConfig struct {
	path    string // empty: everything is open
	off     bool   // everything is open on purpose
	said    bool   // another node of this process has said that everything is open
	secrets [][]byte
	// reloadSecrets reads the secrets again (nil: they do not change).
	reloadSecrets func() ([][]byte, error)
}

// applyRights converts the flags into the configuration of the edge.
func (f *authFlags) applyRights(cfg *edge.Config) (a authConfig, errs []error) {
	switch {
	case f.Auth == nil:
	case *f.Auth == "":
		errs = append(errs, fmt.Errorf("--auth (%s) is set and empty: want the path of a file, or off", variableOf("auth")))
	case *f.Auth == "off":
		a.off = true
	default:
		a.path = *f.Auth
	}
	if f.AuthObserve && a.path == "" {
		errs = append(errs, errors.New("--auth-observe needs --auth with a file"))
	}
	cfg.ObserveOnly = f.AuthObserve
	cfg.PrivateCache = f.Cache == "private"
	switch {
	case slices.Contains(f.CORSOrigins, ""):
		errs = append(errs, fmt.Errorf("--cors-origins (%s) is set and empty: want origins, * or none", variableOf("cors-origins")))
	case slices.Equal(f.CORSOrigins, []string{"none"}):
		cfg.NoCORS = true
	case len(f.CORSOrigins) == 0, slices.Equal(f.CORSOrigins, []string{"*"}): // the default, also of the edge
	default:
		var err error
		if cfg.Origins, err = access.ParseOrigins(f.CORSOrigins); err != nil {
			errs = append(errs, fmt.Errorf("--cors-origins: %w", err))
		}
	}
	return a, errs
}
