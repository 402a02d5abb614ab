package access

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// algs returns the algorithms that are accepted of an issuer.
func (k *KeysConfig) algs(listed []string) ([]string, error) {
	kinds := 0
	for _, there := range []bool{k.JWKS != "", k.Secret != "", len(k.PEMs) > 0} {
		if there {
			kinds++
		}
	}
	if kinds != 1 {
		return nil, errors.New("one of jwks, secret, or a list of pem files is needed")
	}
	accepted := slices.Concat(rsaAlgs, ed25519Algs, slices.Sorted(maps.Values(curveAlgs)))
	if k.Secret != "" {
		accepted = hmacAlgs
	}
	for _, a := range listed {
		if !slices.Contains(accepted, a) {
			return nil, fmt.Errorf("the algorithm %q does not fit: %s do", a, strings.Join(accepted, ", "))
		}
	}
	if len(listed) > 0 {
		accepted = listed
	}
	return accepted, nil
}

// load returns the issuer's key set: that of the rules before, where it is the same.
func (k *KeysConfig) load(c *compiler, issuer string, old *issuer) (*keySet, error) {
	if k.JWKS != "" {
		if old != nil && reflect.DeepEqual(*k, old.config.Keys) {
			return old.keys, nil
		}
		fetch, every, err := source{url: k.JWKS, caFile: k.CA, tokenFile: k.TokenFile, insecure: k.InsecureHTTP}.fetcher()
		if err != nil {
			return nil, err
		}
		return newFetchedKeys(issuer, fetch, every, c.env), nil
	}
	fixed, err := k.fixed(c.files)
	if err != nil {
		return nil, err
	}
	if old != nil && old.keys.sameAs(fixed) {
		return old.keys, nil
	}
	return newFixedKeys(fixed...), nil
}

// fixed reads the keys that stand in files.
func (k *KeysConfig) fixed(files *fileReader) (all []*key, err error) {
	if k.Secret != "" {
		secret, err := files.secret(k.Secret)
		if err != nil {
			return nil, err
		}
		one, err := newKey("", k.Alg, secret)
		return []*key{one}, err
	}
	for _, c := range k.PEMs {
		b, err := files.read(c.PEM)
		if err != nil {
			return nil, err
		}
		public, err := parsePEM(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.PEM, err)
		}
		one, err := newKey(c.KID, c.Alg, public)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.PEM, err)
		}
		if slices.ContainsFunc(all, func(k *key) bool { return k.name == one.name }) {
			return nil, fmt.Errorf("%s: two keys have the name %.64q", c.PEM, one.name)
		}
		all = append(all, one)
	}
	return all, nil
}
