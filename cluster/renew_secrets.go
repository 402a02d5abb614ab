package cluster

import (
	"context"
	"time"

	"github.com/fantail-dev/fantail/cluster/peertls"
)

// renewInterval is the pause between two checks for changed secrets or a changed identity.
const renewInterval = 10 * time.Second

// renewLoop applies what Config.Renew returns, whenever that has changed, until ctx ends.
func (r *Node) renewLoop(ctx context.Context) {
	tick := time.NewTicker(r.cfg.renewInterval)
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

func (r *Node) renewOnce() error {
	secrets, id, err := r.cfg.ReloadCredentials()
	if err != nil {
		return err
	}
	if err := CheckSecrets(secrets); err != nil {
		return err
	}
	p, err := peertls.NewProof(r.cfg.FleetName, secrets, id)
	if err != nil {
		return err
	}
	if p.Equal(r.creds.Proof()) {
		return nil
	}
	if err := r.membership.SetSecrets(secrets); err != nil {
		return err
	}
	r.creds.ReplaceProof(p)
	r.cfg.Logger.Info("secrets renewed", "secrets", len(secrets), "identity", id != nil)
	return nil
}
