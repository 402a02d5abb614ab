package s2dev

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2"
)

var errInMemory = errors.New("s2dev: the data is in memory: there is no folder to back up")

// Backup writes a copy of Dir to a folder that does not exist, while the server goes on. The copy has everything that was
// acknowledged before the call, each batch whole, and no batch that was not ordered before Backup returns. A later Open can
// serve it. On one file system the copy shares files with Dir; neither changes them, so that either may be deleted.
func (s *Server) Backup(to string) error {
	s.mu.Lock() // neither Restart nor Close meanwhile
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("s2dev: closed")
	}
	d, ok := s.catalogue.storage.(*diskStorage)
	if !ok {
		return errInMemory
	}
	return d.backup(to)
}

// backup copies the storage. An error of the copy's disk is none of the storage's.
func (d *diskStorage) backup(to string) error {
	if err := d.failure.err(); err != nil {
		return err
	}
	to, err := filepath.Abs(to)
	if err != nil {
		return err
	}
	if err := d.db.Checkpoint(to, pebble.WithFlushedWAL()); err != nil { // which syncs what --sync=interval has not
		return fmt.Errorf("s2dev: back up to %s: %w", to, err)
	}
	return nil
}
