package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode"

	"github.com/fantail-dev/fantail/cluster"
	"github.com/fantail-dev/fantail/cluster/gossip"
	"github.com/fantail-dev/fantail/cluster/peertls"
)

// fleetFlags holds the flags of a node that is one of several.
type fleetFlags struct {
	Cluster        string   `help:"Name of the fleet. Set it on every node of a fleet (default: the node is alone)." group:"fleet"`
	Secret         []string `help:"Secret of the fleet, for gossip and between nodes: 32, 48 or 64 hexadecimal digits. With several, the first is used and all are accepted. To change it: add the new one on every node, then make it the first on every node, then remove the old one from every node." group:"fleet"`
	SecretFile     string   `help:"File with the secrets, one per line, instead of --secret. Read again every 10 s." group:"fleet"`
	Gossip         string   `help:"Address for gossip between nodes. Use [::]:4457 where there is only IPv6." default:":4457" group:"fleet"`
	Relay          string   `help:"Address for traffic between nodes (default: the advertised address, port 4467). A peer must prove that it is a node of the fleet." group:"fleet"`
	RelayCert      string   `help:"File with the certificate (PEM) by which this node proves that it is of the fleet, instead of the secret. Its host name does not matter. Its authority counts, and its URI (a SPIFFE id), if it has one. Read again every 10 s." group:"fleet"`
	RelayKey       string   `help:"File with the key (PEM) of --relay-cert." group:"fleet"`
	RelayCA        string   `name:"relay-ca" help:"File with the authorities (PEM) of the certificates of other nodes." group:"fleet"`
	RelaySecret    bool     `help:"Accept nodes that prove the secret, beside those with certificates. To change to certificates: set --relay-ca on every node, then --relay-cert, --relay-key and this on every node, then remove this." group:"fleet"`
	RelayPeers     []string `help:"Accept only certificates with one of these URIs. A URI that ends in / stands for all URIs below it (default: the URIs of this node's own certificate)." group:"fleet"`
	RelayPlaintext string   `help:"Which peers may use plaintext between nodes. migrate: those of an older release that supports nothing else. never: no peer. always: all peers, without encryption and without any proof." enum:"migrate,never,always" default:"migrate" group:"fleet"`
	Advertise      string   `help:"IP address under which other nodes reach this one (default: the machine's private address)." group:"fleet"`
	Join           []string `help:"Addresses of other nodes, or a DNS name for them: host[:port]." group:"fleet"`
}

// fleetConfig converts the flags to package cluster's configuration; nil: a lone node. A lone node
// with a file of rights may have a secret, which authenticates revocations.
func (f *fleetFlags) fleetConfig(name, http string, hasRights bool) (*cluster.Config, []error) {
	join, err := gossip.ParseJoinAddrs(f.Join)
	var errs []error
	if err != nil {
		errs = append(errs, fmt.Errorf("--join (%s): %w", variableOf("join"), err))
	}
	if f.Cluster == "" {
		if len(join) > 0 || f.hasSecret() && !hasRights {
			errs = append(errs, errors.New("--join and --secret need --cluster"))
		}
		if f.hasSecret() && hasRights {
			if _, err := f.secrets(); err != nil {
				errs = append(errs, err)
			}
		}
		return nil, errs
	}
	secrets, id, err := f.read()
	if err != nil {
		errs = append(errs, err)
	}
	cfg := &cluster.Config{
		Name: name, FleetName: f.Cluster, Secrets: secrets, Identity: id, GossipAddr: f.Gossip, RelayAddr: f.Relay,
		AdvertiseIP: f.Advertise, HTTPAddr: http, Join: join,
		PlaintextMode: map[string]peertls.PlaintextMode{
			"never": peertls.PlaintextNever, "always": peertls.PlaintextAlways,
		}[f.RelayPlaintext],
	}
	if f.SecretFile != "" || f.RelayCA != "" {
		cfg.ReloadCredentials = f.read
	}
	return cfg, errs
}

func (f *fleetFlags) hasSecret() bool { return f.SecretFile != "" || strings.Join(f.Secret, "") != "" }

// read returns the current secrets and identity.
func (f *fleetFlags) read() ([][]byte, *peertls.Identity, error) {
	secrets, err := f.secrets()
	id, idErr := f.identity()
	return secrets, id, errors.Join(err, idErr)
}

func (f *fleetFlags) secrets() ([][]byte, error) {
	flag, given := "--secret", f.Secret
	if f.SecretFile != "" {
		if strings.Join(f.Secret, "") != "" {
			return nil, errors.New("--secret and --secret-file: want one of them")
		}
		b, err := os.ReadFile(f.SecretFile)
		if err != nil {
			return nil, fmt.Errorf("--secret-file: %w", err)
		}
		flag, given = "--secret-file", strings.FieldsFunc(string(b), func(r rune) bool {
			return r == ',' || unicode.IsSpace(r)
		})
	}
	var secrets [][]byte
	for i, s := range given {
		b, err := hex.DecodeString(strings.TrimSpace(s))
		if n := len(b); err != nil || n != 16 && n != 24 && n != 32 { // an error of hex would quote the secret
			return nil, fmt.Errorf("%s: number %d: want 32, 48 or 64 hexadecimal digits, the same on all nodes", flag, i+1)
		}
		secrets = append(secrets, b)
	}
	if err := cluster.CheckSecrets(secrets); err != nil {
		return nil, fmt.Errorf("%s: want 32, 48 or 64 hexadecimal digits, the same on all nodes: %w", flag, err)
	}
	return secrets, nil
}

// identity reads the relay's certificate; nil: there is none.
func (f *fleetFlags) identity() (*peertls.Identity, error) {
	switch {
	case (f.RelayCert == "") != (f.RelayKey == ""):
		return nil, errors.New("--relay-cert and --relay-key need each other")
	case f.RelayCA == "" && (f.RelayCert != "" || f.RelaySecret || len(f.RelayPeers) > 0):
		return nil, errors.New("--relay-cert, --relay-peers and --relay-secret need --relay-ca")
	case f.RelayCA == "":
		return nil, nil //nolint:nilnil // nil is documented
	}
	var pair tls.Certificate
	if f.RelayCert != "" {
		var err error
		if pair, err = tls.LoadX509KeyPair(f.RelayCert, f.RelayKey); err != nil {
			return nil, fmt.Errorf("--relay-cert, --relay-key: %w", err)
		}
	}
	ca, err := os.ReadFile(f.RelayCA)
	if err != nil {
		return nil, fmt.Errorf("--relay-ca: %w", err)
	}
	id := &peertls.Identity{Cert: pair, Roots: x509.NewCertPool(), PeerURIs: f.RelayPeers, AcceptSecrets: f.RelaySecret}
	if !id.Roots.AppendCertsFromPEM(bytes.TrimSpace(ca)) {
		return nil, errors.New("--relay-ca: no certificate in it")
	}
	return id, nil
}
