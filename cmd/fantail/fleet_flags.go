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
)

// fleetFlags is how a node is one of several.
type fleetFlags struct {
	Cluster        string   `help:"Name of the fleet; with it the node is one of several." group:"fleet"`
	Secret         []string `help:"Secret of the fleet, for gossip and between nodes: 32, 48 or 64 hexadecimal digits. Of several the first is used and all are accepted: to change it, add the new one to every node, make it the first on every node, remove the old one from every node." group:"fleet"`
	SecretFile     string   `help:"File of the secrets, one a line, instead. Read again every 10 s." group:"fleet"`
	Gossip         string   `help:"Address of gossip; [::]:4457 where there is IPv6 only." default:":4457" group:"fleet"`
	Relay          string   `help:"Address of the nodes' own traffic (default: the advertised address, port 4467). Whoever connects must prove to be a node of the fleet." group:"fleet"`
	RelayCert      string   `help:"File of the certificate (PEM) that nodes prove themselves with, instead of the secret. It needs no name: its authority counts, and its URI (a SPIFFE id), if it has one. Read again every 10 s." group:"fleet"`
	RelayKey       string   `help:"File of the certificate's key." group:"fleet"`
	RelayCA        string   `name:"relay-ca" help:"File of the authorities (PEM) that other nodes' certificates must come from." group:"fleet"`
	RelaySecret    bool     `help:"Nodes that prove the secret are accepted beside those with certificates. To change to certificates: give every node --relay-ca, then every node --relay-cert, --relay-key and this, then take this away." group:"fleet"`
	RelayPeers     []string `help:"URIs of which another node's certificate must have one; one that ends in / stands for all below it (default: those of this node's own)." group:"fleet"`
	RelayPlaintext string   `help:"With whom the nodes' own traffic is plaintext: migrate is nodes of a release that knows nothing else; never; always is whoever reaches the address: nothing is encrypted, and nobody proves anything." enum:"migrate,never,always" default:"migrate" group:"fleet"`
	Advertise      string   `help:"IP address that other nodes reach this one by (default: the machine's private one)." group:"fleet"`
	Join           []string `help:"Other nodes, or a name that stands for them: host[:port]." group:"fleet"`
}

// fleetConfig is the flags as package cluster wants them; nil: a lone node.
func (f *fleetFlags) fleetConfig(name, http string) (*cluster.Config, []error) {
	join, err := cluster.ParseJoin(f.Join)
	var errs []error
	if err != nil {
		errs = append(errs, fmt.Errorf("--join (%s): %w", variableOf("join"), err))
	}
	if f.Cluster == "" {
		if len(join) > 0 || f.hasSecret() {
			errs = append(errs, errors.New("--join and --secret need --cluster"))
		}
		return nil, errs
	}
	secrets, id, err := f.read()
	if err != nil {
		errs = append(errs, err)
	}
	cfg := &cluster.Config{
		Name: name, Cluster: f.Cluster, Secrets: secrets, Identity: id, Gossip: f.Gossip, Relay: f.Relay,
		Advertise: f.Advertise, HTTP: http, Join: join,
		Plaintext: map[string]cluster.Plaintext{
			"never": cluster.PlaintextNever, "always": cluster.PlaintextAlways,
		}[f.RelayPlaintext],
	}
	if f.SecretFile != "" || f.RelayCA != "" {
		cfg.Renew = f.read
	}
	return cfg, errs
}

func (f *fleetFlags) hasSecret() bool { return f.SecretFile != "" || strings.Join(f.Secret, "") != "" }

// read is the secrets and the identity as they are now.
func (f *fleetFlags) read() ([][]byte, *cluster.Identity, error) {
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
		if n := len(b); err != nil || n != 16 && n != 24 && n != 32 { // an error would repeat it
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
func (f *fleetFlags) identity() (*cluster.Identity, error) {
	switch {
	case (f.RelayCert == "") != (f.RelayKey == ""):
		return nil, errors.New("--relay-cert and --relay-key need each other")
	case f.RelayCA == "" && (f.RelayCert != "" || f.RelaySecret || len(f.RelayPeers) > 0):
		return nil, errors.New("--relay-cert, --relay-peers and --relay-secret need --relay-ca")
	case f.RelayCA == "":
		return nil, nil //nolint:nilnil // as promised
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
	id := &cluster.Identity{Cert: pair, Roots: x509.NewCertPool(), Peers: f.RelayPeers, Secrets: f.RelaySecret}
	if !id.Roots.AppendCertsFromPEM(bytes.TrimSpace(ca)) {
		return nil, errors.New("--relay-ca: no certificate in it")
	}
	return id, nil
}
