package cluster

import (
	"context"
	"time"

	"github.com/fantail-dev/fantail/cluster/peertls"
)

// renewLoop applies what Config.ReloadCredentials returns, whenever that has changed, until ctx ends.
func (n *Node) renewLoop(ctx context.Context) {
	tick := time.NewTicker(n.cfg.renewInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := n.renewOnce(); err != nil {
			n.cfg.Logger.Warn("the secrets or the identity cannot be read again, the old ones are used", "err", err)
		}
	}
}

func (n *Node) renewOnce() error {
	secrets, id, err := n.cfg.ReloadCredentials()
	if err != nil {
		return err
	}
	if err := CheckSecrets(secrets); err != nil {
		return err
	}
	p, err := peertls.NewProof(n.cfg.FleetName, secrets, id)
	if err != nil {
		return err
	}
	if p.Equal(n.creds.Proof()) {
		return nil
	}
	if err := n.membership.SetSecrets(secrets); err != nil {
		return err
	}
	n.creds.ReplaceProof(p)
	n.cfg.Logger.Info("secrets renewed", "secrets", len(secrets), "identity", id != nil)
	return nil
}
