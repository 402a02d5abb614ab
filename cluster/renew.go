package cluster

import (
	"bytes"
	"context"
	"slices"
	"time"
)

// renewEvery is how often a node looks whether its secrets or its identity were changed.
const renewEvery = 10 * time.Second

// renew takes over what Config.Renew says, whenever it says something new, until ctx ends.
func (r *Relay) renew(ctx context.Context) {
	tick := time.NewTicker(r.cfg.renewEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := r.renewOnce(); err != nil {
			r.cfg.Logger.Warn("the secrets or the identity cannot be read again, the old ones are used", "err", err)
		}
	}
}

func (r *Relay) renewOnce() error {
	secrets, id, err := r.cfg.Renew()
	if err != nil {
		return err
	}
	if err := CheckSecrets(secrets); err != nil {
		return err
	}
	p, err := newProof(r.cfg.Cluster, secrets, id)
	if err != nil {
		return err
	}
	if p.same(r.creds.proof.Load()) {
		return nil
	}
	if err := r.ms.renew(secrets); err != nil {
		return err
	}
	r.creds.renew(p)
	r.cfg.Logger.Info("secrets renewed", "secrets", len(secrets), "identity", id != nil)
	return nil
}

// renew has gossip use other secrets: the first encrypts, all decrypt.
func (m *membership) renew(secrets [][]byte) error {
	for _, s := range secrets {
		if err := m.keys.AddKey(s); err != nil {
			return err
		}
	}
	if err := m.keys.UseKey(secrets[0]); err != nil {
		return err
	}
	for _, s := range m.keys.GetKeys() {
		if slices.ContainsFunc(secrets, func(k []byte) bool { return bytes.Equal(k, s) }) {
			continue
		}
		if err := m.keys.RemoveKey(s); err != nil {
			return err
		}
	}
	return nil
}
