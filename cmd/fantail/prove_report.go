package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"
)

// proofTally counts what went wrong with messages.
type proofTally struct {
	Lost      int           `json:"lost"`
	Doubled   int           `json:"doubled"`
	Reordered int           `json:"reordered"`
	Unknown   int           `json:"unknown"` // messages that no writer sent
	Faults    []canaryFault `json:"faults,omitempty"`
}

func (t *proofTally) good() bool { return t.Lost+t.Doubled+t.Reordered+t.Unknown == 0 }

// versionCount says how many nodes run a version.
type versionCount struct {
	Version string `json:"version"`
	Nodes   int    `json:"nodes"`
}

// proof is the report of a proof.
type proof struct {
	Began    time.Time `json:"began"`
	Ended    time.Time `json:"ended"`
	By       string    `json:"by"` // the version of this command
	Server   string    `json:"server"`
	Command  []string  `json:"command,omitempty"`
	Exit     string    `json:"commandError,omitempty"`
	Passed   bool      `json:"passed"`
	Failures []string  `json:"failures,omitempty"`

	Streams  int   `json:"streams"`
	Writers  int   `json:"writers"`
	Readers  int   `json:"readers"`
	Messages int64 `json:"messages"`  // acknowledged
	Received int64 `json:"delivered"` // to all readers
	proofTally

	LongestStall  float64   `json:"longestStallSeconds"` // from sending a message until the last reader had it
	StallAt       time.Time `json:"longestStallAt"`
	LongestAppend float64   `json:"longestAppendSeconds"`
	Closed        int64     `json:"connectionsClosed"` // of readers
	Retries       int64     `json:"requestsSentAgain"`

	Nodes    int            `json:"nodesWatched"`
	Sessions *int           `json:"s2SessionsOpened"` // null: no admin address was asked
	Before   []versionCount `json:"versionsBefore,omitempty"`
	After    []versionCount `json:"versionsAfter,omitempty"`
}

// signedProof is a proof with its signature, by Ed25519 over the bytes of Proof as they stand in the file.
type signedProof struct {
	Proof     json.RawMessage `json:"proof"`
	Algorithm string          `json:"alg"`
	PublicKey string          `json:"publicKey"` // base64
	Signature string          `json:"signature"` // base64
}

const proofAlgorithm = "Ed25519"

// sign returns the signed report.
func (p *proof) sign(key ed25519.PrivateKey) ([]byte, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("the key has no public part")
	}
	out, err := json.Marshal(signedProof{
		Proof: b, Algorithm: proofAlgorithm, PublicKey: base64.StdEncoding.EncodeToString(public),
		Signature: base64.StdEncoding.EncodeToString(ed25519.Sign(key, b)),
	})
	return append(out, '\n'), err
}

// verifyProof returns the report of a signed one. public is the key with which it has to be signed;
// nil: the key that it names.
func verifyProof(file []byte, public ed25519.PublicKey) (*proof, error) {
	var s signedProof
	if err := json.Unmarshal(file, &s); err != nil {
		return nil, fmt.Errorf("it is no proof: %w", err)
	}
	named, err := base64.StdEncoding.DecodeString(s.PublicKey)
	if err != nil || len(named) != ed25519.PublicKeySize || s.Algorithm != proofAlgorithm {
		return nil, errors.New("it is no proof: it names no key of Ed25519")
	}
	if public == nil {
		public = named
	}
	signature, err := base64.StdEncoding.DecodeString(s.Signature)
	if err != nil || !ed25519.Verify(public, s.Proof, signature) {
		return nil, errors.New("the signature is not good: the proof was changed, or signed with another key")
	}
	p := new(proof)
	return p, json.Unmarshal(s.Proof, p)
}

// parsePrivateKey returns the Ed25519 key of a PEM file (PKCS #8).
func parsePrivateKey(b []byte) (ed25519.PrivateKey, error) {
	if block, _ := pem.Decode(b); block != nil {
		if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
			if ed, ok := key.(ed25519.PrivateKey); ok {
				return ed, nil
			}
		}
	}
	return nil, errors.New("want a private key of Ed25519 (PEM), such as openssl genpkey -algorithm ed25519 makes")
}

// parsePublicKey returns the Ed25519 key of a PEM file, or of base64 as a proof has it.
func parsePublicKey(b []byte) (ed25519.PublicKey, error) {
	if block, _ := pem.Decode(b); block != nil {
		if key, err := x509.ParsePKIXPublicKey(block.Bytes); err == nil {
			if ed, ok := key.(ed25519.PublicKey); ok {
				return ed, nil
			}
		}
	}
	if key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(b))); err == nil && len(key) == ed25519.PublicKeySize {
		return key, nil
	}
	return nil, errors.New("want a public key of Ed25519: PEM, or base64 as a proof has it")
}

// rows returns the report as names and values.
func (p *proof) rows() (rows [][2]string) {
	row := func(name, format string, args ...any) {
		rows = append(rows, [2]string{name, fmt.Sprintf(format, args...)})
	}
	row("server", "%s", p.Server)
	if len(p.Command) > 0 {
		row("command", "%s", strings.Join(p.Command, " "))
	}
	row("time", "%s, for %v", p.Began.UTC().Format(time.RFC3339), p.Ended.Sub(p.Began).Round(time.Second))
	row("load", "%d streams, %d writers, %d readers", p.Streams, p.Writers, p.Readers)
	row("messages", "%d acknowledged, %d deliveries", p.Messages, p.Received)
	row("lost", "%d", p.Lost)
	row("doubled", "%d", p.Doubled)
	row("reordered", "%d", p.Reordered)
	if p.Unknown > 0 {
		row("not ours", "%d", p.Unknown)
	}
	row("longest stall", "%.3f s from sending a message until each reader had it; longest append %.3f s", p.LongestStall, p.LongestAppend)
	row("connections closed", "%d of readers; %d requests were sent again", p.Closed, p.Retries)
	if p.Sessions != nil {
		row("S2 sessions opened", "%d, by %d nodes", *p.Sessions, p.Nodes)
		row("versions before", "%s", joinVersions(p.Before))
		row("versions after", "%s", joinVersions(p.After))
	}
	return rows
}

func joinVersions(list []versionCount) string {
	var out []string
	for _, v := range list {
		out = append(out, fmt.Sprintf("%d × %s", v.Nodes, v.Version))
	}
	return strings.Join(out, ", ")
}

func (p *proof) verdict() string {
	if p.Passed {
		return "PASSED"
	}
	return "FAILED"
}

// writeText writes the report for a terminal.
func (p *proof) writeText(w io.Writer) error {
	var b bytes.Buffer
	for _, r := range p.rows() {
		fmt.Fprintf(&b, "%-19s %s\n", r[0], r[1])
	}
	for _, f := range p.Faults {
		fmt.Fprintf(&b, "%s: message %d of writer %d in stream %d\n", f.What, f.Message, f.Writer, f.Stream)
	}
	fmt.Fprintf(&b, "%-19s %s\n", "result", strings.Join(append([]string{p.verdict()}, p.Failures...), "; "))
	_, err := w.Write(b.Bytes())
	return err
}

var proofPage = template.Must(template.New("proof").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Proof of a rollout: {{.Verdict}}</title>
<style>
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 45rem; margin: 2rem auto; padding: 0 1rem }
h1 span { color: light-dark(#0a6b2d, #6fd88f) } h1 span.failed { color: light-dark(#b00020, #ff8a80) }
th { text-align: left; padding: .2rem 1rem .2rem 0; vertical-align: top; font-weight: 600; white-space: nowrap }
</style>
<h1>Proof of a rollout: <span{{if not .Proof.Passed}} class="failed"{{end}}>{{.Verdict}}</span></h1>
{{range .Proof.Failures}}<p>{{.}}</p>
{{end}}<table>
{{range .Rows}}<tr><th scope="row">{{index . 0}}</th><td>{{index . 1}}</td></tr>
{{end}}</table>
{{if .Proof.Faults}}<h2>Messages</h2><ul>
{{range .Proof.Faults}}<li>{{.What}}: message {{.Message}} of writer {{.Writer}} in stream {{.Stream}}</li>
{{end}}</ul>{{end}}
<p>Measured by {{.Proof.By}}.</p>
</html>
`))

// writeHTML writes the report as a page.
func (p *proof) writeHTML(w io.Writer) error {
	return proofPage.Execute(w, struct {
		Proof   *proof
		Verdict string
		Rows    [][2]string
	}{p, p.verdict(), p.rows()})
}
