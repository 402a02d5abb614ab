package access

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// settleTime separates two reads of the file that have to be the same before it counts: a
	// file in the middle of being written is often valid, and shorter.
	settleTime = time.Second
	// watchEvery separates two looks at the file.
	watchEvery = 10 * time.Second
	// sayEvery separates two lines in the log about a file that cannot be taken.
	sayEvery = time.Minute
	// settleTries bounds the reads at the start of a file that keeps changing.
	settleTries = 10
)

// fileReader reads the files that the file names, and remembers what was in them. A file is read
// once for each compilation.
type fileReader struct {
	known map[string][]byte
}

// read returns what is in a file.
func (r *fileReader) read(path string) ([]byte, error) {
	if b, ok := r.known[path]; ok {
		return b, nil
	}
	b, err := readFile(path)
	if err != nil {
		return nil, err
	}
	if r.known == nil {
		r.known = map[string][]byte{}
	}
	r.known[path] = b
	return b, nil
}

// secret returns what is in a file, without the line's end that editors add.
func (r *fileReader) secret(path string) ([]byte, error) {
	b, err := r.read(path)
	return bytes.TrimRight(b, "\r\n"), err
}

// OpenRegular opens a regular file, also behind symbolic links. Others are refused: a pipe without a
// writer would block, a device may never end.
func OpenRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // without it, opening a pipe waits for a writer
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", path)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// readFile reads a file of at most maxFileBytes.
func readFile(path string) ([]byte, error) {
	f, err := OpenRegular(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err == nil && len(b) > maxFileBytes {
		err = fmt.Errorf("%s has more than %d bytes", path, maxFileBytes)
	}
	return b, err
}

// watchedFile holds the file of a Judge, and the files that it names.
type watchedFile struct {
	path  string
	mu    sync.Mutex        // held while the file is looked at
	now   []byte            // in force, or about to be
	named map[string][]byte // the files that it names, as they were when it was compiled, or are about to be
	said  time.Time         // when the log last said that it cannot be taken
}

var errNotSettled = errors.New("the file keeps changing")

// settle reads the file, and those that it names, until two reads, settleTime apart, are the same: half
// a secret is a secret, too.
func (w *watchedFile) settle(ctx context.Context) error {
	b, err := readFile(w.path)
	if err != nil {
		return err
	}
	named := readNamed(b)
	for range settleTries {
		select {
		case <-time.After(settleTime):
		case <-ctx.Done():
			return ctx.Err()
		}
		again, err := readFile(w.path)
		if err != nil {
			return err
		}
		namedAgain := readNamed(again)
		if bytes.Equal(b, again) && maps.EqualFunc(named, namedAgain, bytes.Equal) {
			w.now, w.named = b, named
			return nil
		}
		b, named = again, namedAgain
	}
	return errNotSettled
}

// readNamed reads the keys and secrets that a file of rights names. What cannot be read is left out:
// to compile the file says why.
func readNamed(file []byte) map[string][]byte {
	files := &fileReader{}
	if f, err := ParseFile(file); err == nil {
		for _, path := range f.namedFiles() {
			_, _ = files.read(path)
		}
	}
	return files.known
}

// namedFiles lists the files that are compiled with the file.
func (f *File) namedFiles() (paths []string) {
	for _, i := range f.Issuers {
		if i.Keys.Secret != "" {
			paths = append(paths, i.Keys.Secret)
		}
		for _, k := range i.Keys.PEMs {
			paths = append(paths, k.PEM)
		}
	}
	for _, p := range f.Projects {
		for _, s := range p.Sign {
			paths = append(paths, s.Secret)
		}
	}
	return paths
}

// hasChanged reports whether the file, or a file that it names, differs from when it was compiled.
func (w *watchedFile) hasChanged() (bool, error) {
	b, err := readFile(w.path)
	if err != nil || !bytes.Equal(b, w.now) {
		return true, err
	}
	for path, was := range w.named {
		if b, err := readFile(path); err != nil || !bytes.Equal(b, was) {
			return true, err
		}
	}
	return false, nil
}

// adoptFile compiles the file, with the present content of the files that it names, and puts it in
// force.
func (j *Judge) adoptFile(b []byte) error { return j.adoptFileWith(b, nil) }

// adoptFileWith does what adoptFile does, with named files that have been read already.
func (j *Judge) adoptFileWith(b []byte, named map[string][]byte) error {
	f, err := ParseFile(b)
	if err != nil {
		return err
	}
	files := &fileReader{known: maps.Clone(named)}
	r, err := f.compile(j.env, files, j.verifier.rules.Load())
	if err != nil {
		return err
	}
	r.hash = fileHash(b)
	j.adopt(r)
	if j.file != nil {
		j.file.now, j.file.named = b, maps.Clone(files.known)
	}
	return nil
}

// adopt puts compiled rules in force. A file that loses its last admin token opens nothing: the admin
// address stays locked, and the log says so.
func (j *Judge) adopt(r *rules) {
	if len(r.admin) > 0 {
		j.adminLocked.Store(true)
	}
	j.verifier.adopt(r)
	j.limiter.adopt(r)
	if len(r.admin) == 0 && j.adminLocked.Load() {
		j.env.log.Warn("the file of rights has no admin token any more: the admin address stays locked until the file has one again, or this node starts again")
	}
}

// fileHash names a file for gossip: members compare it.
func fileHash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// watch looks at the file until ctx ends, and puts changes in force.
func (j *Judge) watch(ctx context.Context) {
	t := time.NewTicker(watchEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			j.Reload(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// Reload looks at the file now, as a Judge does every ten seconds by itself. It adopts the file if
// it has changed and settled. After an error the rules in force stay, and the log says why.
func (j *Judge) Reload(ctx context.Context) {
	w := j.file
	w.mu.Lock()
	defer w.mu.Unlock()
	changed, err := w.hasChanged()
	if !changed {
		return
	}
	next := &watchedFile{path: w.path}
	if err == nil {
		err = next.settle(ctx)
	}
	if err == nil {
		err = j.adoptFileWith(next.now, next.named)
	}
	switch {
	case err == nil:
		w.said = time.Time{}
		j.env.log.Info("the file of rights has changed and is in force", "path", w.path, "hash", j.Hash())
	case ctx.Err() == nil && time.Since(w.said) >= sayEvery:
		w.said = time.Now()
		j.env.log.Error("the file of rights has changed and has an error: the old one stays in force", "path", w.path, "hash", j.Hash(), "err", err)
	}
}
