package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"strings"
	"time"

	"github.com/fantail-dev/fantail/edge/access"
)

// stdio holds a command's input and output.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

var processIO = stdio{os.Stdin, os.Stdout, os.Stderr}

// maxInput bounds what a command reads of a key, a token or claims.
const maxInput = 1 << 20

// readInput reads a file, or standard input for "-".
func (s stdio) readInput(path string) ([]byte, error) {
	from := s.in
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		from = f
	}
	b, err := io.ReadAll(io.LimitReader(from, maxInput+1))
	switch {
	case err != nil:
		return nil, err
	case len(b) > maxInput:
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxInput)
	case len(bytes.TrimSpace(b)) == 0:
		return nil, fmt.Errorf("%s is empty", path)
	}
	return b, nil
}

// tokenCmd makes and explains tokens.
type tokenCmd struct {
	Explain explainCmd `cmd:"" help:"Say what a file of rights makes of a token, which is read from standard input. It prints no part of the signature. Exit code 0: the token is good (and allows what --do asks); 3: it is not good; 4: it does not allow it; 1: another error."`
	Mint    mintCmd    `cmd:"" help:"Make a token, for a back end without a library or to try rights out."`
	Admin   adminCmd   `cmd:"" help:"Make a token for the admin address. The token goes to standard output, the line for the file of rights to standard error."`
}

// explainCmd says what a file makes of a token.
type explainCmd struct {
	Auth   string   `help:"File of rights." required:""`
	Do     []string `help:"Actions to ask for: read, append, close, create, fork, delete, list, write, *. Needs --stream." env:"-"`
	Stream string   `help:"Stream to ask about, as PROJECT/NAME, decoded. Needs --do." env:"-"`
	JSON   bool     `name:"json" help:"Print JSON." env:"-"`
}

// Run explains the token on standard input.
func (c *explainCmd) Run(ctx context.Context, log *slog.Logger) error {
	return c.run(ctx, processIO, log)
}

func (c *explainCmd) run(ctx context.Context, s stdio, log *slog.Logger) error {
	if c.Auth == "" {
		return errors.New("--auth (FANTAIL_AUTH): it is empty")
	}
	want, err := access.ParseActions(c.Do)
	if err != nil {
		return fmt.Errorf("--do: %w", err)
	}
	project, name, _ := strings.Cut(c.Stream, "/")
	if (c.Stream == "") != (len(c.Do) == 0) || c.Stream != "" && name == "" {
		return errors.New("--do and --stream need each other; --stream has the form PROJECT/NAME")
	}
	token, err := s.readInput("-")
	if err != nil {
		return err
	}
	text := strings.TrimSpace(string(token))
	if rest, ok := cutBearer(text); ok {
		text = rest
	}
	e, err := access.Explain(ctx, c.Auth, text, access.Config{Logger: log})
	if err != nil {
		return err
	}
	var no *access.Refusal
	if c.Stream != "" {
		no = e.Allows(want, project, name)
	}
	if c.JSON {
		err = explainJSON(s.out, e, no)
	} else {
		err = explainText(s.out, e, c.Stream != "", no)
	}
	if err != nil {
		return err
	}
	return explainExit(e, no)
}

// explainExit returns the error that gives the exit code for the explained decision.
func explainExit(e *access.Explanation, no *access.Refusal) error {
	switch {
	case e.Refusal != nil:
		return &exitError{exitTokenRefused, fmt.Errorf("the token is not good: %w", e.Refusal)}
	case no != nil:
		return &exitError{exitNotAllowed, fmt.Errorf("not allowed: %w", no)}
	}
	return nil
}

// cutBearer takes a whole Authorization field, too.
func cutBearer(text string) (token string, ok bool) {
	text = strings.TrimSpace(strings.TrimPrefix(strings.TrimPrefix(text, "Authorization:"), "authorization:"))
	if len(text) > 7 && strings.EqualFold(text[:7], "bearer ") {
		return strings.TrimSpace(text[7:]), true
	}
	return "", false
}

func explainText(w io.Writer, e *access.Explanation, asked bool, no *access.Refusal) error {
	var b strings.Builder
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-9s %s\n", name, value)
		}
	}
	verdict := "good"
	if e.Refusal != nil {
		verdict = fmt.Sprintf("not good: %s (%d): %s", e.Refusal.Reason, e.Refusal.Status(), e.Refusal.Detail)
	}
	line("token", verdict)
	line("issuer", quoted(e.Issuer))
	line("subject", quoted(e.Subject))
	line("id", quoted(e.ID))
	line("key", strings.TrimSpace(e.Algorithm+" "+quoted(e.KeyID)))
	line("type", quoted(e.Type))
	line("issued", timeOf(e.Issued))
	line("expires", timeOf(e.Expires))
	if e.Header != "" {
		line("sent in", e.Header)
	}
	explainRights(&b, e)
	for _, note := range e.Notes {
		line("note", note)
	}
	if asked && e.Refusal == nil {
		answer := "allowed"
		if no != nil {
			answer = fmt.Sprintf("not allowed: %s (%d): %s", no.Reason, no.Status(), no.Detail)
		}
		line("asked", answer)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// explainRights lists what the token grants, or would grant.
func explainRights(b *strings.Builder, e *access.Explanation) {
	for _, r := range e.Rights {
		title := "in " + r.Project
		if e.Refusal != nil {
			title += ", if it were good"
		}
		fmt.Fprintf(b, "%s:\n", title)
		for _, g := range r.Grants {
			fmt.Fprintf(b, "  %s\n", g)
		}
		if len(r.Grants) == 0 {
			b.WriteString("  nothing but what is public\n")
		}
	}
}

// quoted returns a token's value so that it cannot move the cursor of a terminal.
func quoted(s string) string {
	if s == "" {
		return ""
	}
	return fmt.Sprintf("%q", s)
}

func timeOf(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	ago := time.Since(t).Round(time.Second)
	if ago >= 0 {
		return fmt.Sprintf("%s (%v ago)", t.Format(time.RFC3339), ago)
	}
	return fmt.Sprintf("%s (in %v)", t.Format(time.RFC3339), -ago)
}

func explainJSON(w io.Writer, e *access.Explanation, no *access.Refusal) error {
	answer := map[string]any{
		"good": e.Refusal == nil, "issuer": e.Issuer, "subject": e.Subject, "id": e.ID, "alg": e.Algorithm, "kid": e.KeyID, "typ": e.Type,
		"expires": e.Expires, "rights": e.Rights, "notes": e.Notes,
	}
	for name, r := range map[string]*access.Refusal{"refused": e.Refusal, "denied": no} {
		if r != nil {
			answer[name] = map[string]any{"reason": r.Reason, "status": r.Status(), "detail": r.Detail}
		}
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(answer)
}

// mintCmd makes a token.
type mintCmd struct {
	Key     string        `help:"File with the private key (PEM) or the secret; - for standard input." required:"" env:"-"`
	Alg     string        `help:"Algorithm, such as ES256 (default: the key's)." env:"-"`
	KID     string        `name:"kid" help:"Name of the key, as the file of rights or the key set has it." env:"-"`
	Issuer  string        `help:"The token's iss." required:"" env:"-"`
	Subject string        `help:"The token's sub." env:"-"`
	Aud     []string      `name:"audience" help:"The token's aud." env:"-"`
	TTL     time.Duration `name:"ttl" help:"How long it is good." default:"5m" env:"-"`
	Project string        `help:"Project of the grants below. Needed if the issuer speaks for several." env:"-"`
	Grant   []string      `help:"A grant by patterns: ACTIONS:PATTERN, such as read,append:rooms/**. It counts up to the issuer's ceiling." sep:"none" env:"-"`
	Names   []string      `name:"grant-name" help:"A grant by an exact name, for whatever people choose: ACTIONS:NAME." sep:"none" env:"-"`
	Claims  string        `help:"File with further claims (JSON object)." env:"-"`
}

// Run prints a token.
func (c *mintCmd) Run() error { return c.run(processIO, time.Now()) }

func (c *mintCmd) run(s stdio, now time.Time) error {
	if c.TTL < time.Second {
		return errors.New("--ttl: want 1s or more")
	}
	key, err := s.readInput(c.Key)
	if err != nil {
		return fmt.Errorf("--key: %w", err)
	}
	signer, err := access.NewSigner(key, c.Alg, c.KID)
	if err != nil {
		return fmt.Errorf("--key: %w", err)
	}
	claims, err := c.claims(s, now)
	if err != nil {
		return err
	}
	token, err := signer.Sign(claims)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(s.out, token)
	return err
}

func (c *mintCmd) claims(s stdio, now time.Time) (map[string]any, error) {
	claims := map[string]any{}
	if c.Claims != "" {
		b, err := s.readInput(c.Claims)
		if err == nil {
			d := json.NewDecoder(bytes.NewReader(b))
			d.UseNumber()
			err = d.Decode(&claims)
		}
		if err != nil {
			return nil, fmt.Errorf("--claims: %w", err)
		}
	}
	maps.Copy(claims, map[string]any{"iss": c.Issuer, "iat": now.Unix(), "exp": now.Add(c.TTL).Unix()})
	if c.Subject != "" {
		claims["sub"] = c.Subject
	}
	if len(c.Aud) > 0 {
		claims["aud"] = c.Aud
	}
	entries, err := c.entries()
	if entries != nil {
		claims["authorization_details"] = entries
	}
	return claims, err
}

// entries returns the grants that the flags name, as the token has them.
func (c *mintCmd) entries() (entries []any, err error) {
	for flag, list := range map[string][]string{"--grant": c.Grant, "--grant-name": c.Names} {
		for _, g := range list {
			actions, of, ok := strings.Cut(g, ":")
			if !ok {
				return nil, fmt.Errorf("%s: %q has not the form ACTIONS:NAME", flag, g)
			}
			streams, names := []string{of}, []string(nil)
			if flag == "--grant-name" {
				streams, names = names, streams
			}
			e, err := access.GrantEntry(c.Project, strings.Split(actions, ","), streams, names)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", flag, err)
			}
			entries = append(entries, e)
		}
	}
	return entries, nil
}

// adminCmd makes a token for the admin address.
type adminCmd struct {
	Name string `arg:"" help:"Name of the token: it stands in the log beside what was done with it."`
}

// Run prints a token and the line of the file.
func (c *adminCmd) Run() error { return c.run(processIO) }

func (c *adminCmd) run(s stdio) error {
	token, sum := access.NewAdminToken()
	if _, err := fmt.Fprintln(s.out, token); err != nil {
		return err
	}
	_, err := fmt.Fprintf(s.err, "The token is printed once. For the file of rights, which needs its SHA-256 alone:\n\n  admin:\n    tokens:\n      - { name: %s, sha256: %s }\n", c.Name, sum)
	return err
}
