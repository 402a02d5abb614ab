package s2dev

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// heldDisk is a disk that does not sync its log, from held on until let.
type heldDisk struct {
	vfs.FS
	held    atomic.Bool
	waiting chan struct{} // a sync waits
	release func()
}

func newHeldDisk() *heldDisk {
	d := &heldDisk{waiting: make(chan struct{}, 1)}
	on := make(chan struct{})
	d.release = sync.OnceFunc(func() { close(on) })
	d.FS = errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		default:
			return nil
		}
		if d.held.Load() && strings.HasSuffix(op.Path, ".log") {
			select {
			case d.waiting <- struct{}{}:
			default:
			}
			<-on
		}
		return nil
	}))
	return d
}

// A change of the catalogue waits for the disk. Calls without a change do not wait for it.
func TestCatalogueChangesDoNotStallOtherCalls(t *testing.T) {
	for name, change := range map[string]func(*Server, *Direct) error{
		"create": func(_ *Server, d *Direct) error {
			return d.EnsureStream(t.Context(), "new")
		},
		"reconfigure": func(s *Server, _ *Direct) error {
			_, err := s.catalogue.patchStream(testBasin, "s", patchFields{"storage_class": []byte(`"standard"`)})
			return asError(err)
		},
		"delete": func(s *Server, _ *Direct) error {
			return asError(s.catalogue.deleteStream(testBasin, "other"))
		},
		"create a basin": func(s *Server, _ *Direct) error {
			return s.Direct("another-basin").EnsureBasin()
		},
	} {
		t.Run(name, func(t *testing.T) {
			disk := newHeldDisk()
			s, d := openDirect(t, Config{Dir: "data", fs: disk})
			t.Cleanup(disk.release)
			mustAppend(t, d, textRecords("a"))
			if err := d.EnsureStream(t.Context(), "other"); err != nil {
				t.Fatal(err)
			}
			disk.held.Store(true)
			changed, others := make(chan error, 1), make(chan error, 1)
			go func() { changed <- change(s, d) }()
			<-disk.waiting
			go func() {
				_, tail := d.Tail(t.Context(), "s")
				_, read := d.Read(t.Context(), "s", 0, 1, 0, false)
				others <- errors.Join(tail, read, d.EnsureStream(t.Context(), "s"))
			}()
			limit, stop := context.WithTimeout(t.Context(), 5*time.Second)
			defer stop()
			select {
			case err := <-others:
				if err != nil {
					t.Fatal(err)
				}
			case <-limit.Done():
				t.Fatal("they wait for the disk")
			}
			if name == "create" {
				_, err := d.Tail(t.Context(), "new")
				wantRefusal(t, err, 404, "stream_not_found") // the change is not durable yet
			}
			disk.release()
			if err := <-changed; err != nil {
				t.Fatal(err)
			}
		})
	}
}
