package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fantail-dev/fantail/shard/s2dev"
)

// backupCmd copies the folder of fantail s2, also while that runs.
type backupCmd struct {
	To      string        `arg:"" help:"Folder to write the copy to. It must not exist. If fantail s2 runs, that process writes it, so it needs the right to."`
	Data    string        `help:"Folder of fantail s2 (its --data)." required:""`
	Timeout time.Duration `help:"Longest time for the copy." default:"1h" env:"-"`
}

// Run asks the process that has the folder open for the copy, and makes it itself if there is none.
func (c *backupCmd) Run(ctx context.Context, s stdio) error {
	to, err := filepath.Abs(c.To)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	began, how := time.Now(), "while fantail s2 runs"
	err = askForBackup(ctx, c.Data, to)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		how = "of a folder that no process has open"
		err = backUpClosed(c.Data, to)
	}
	if err != nil {
		return err
	}
	size, err := folderSize(to)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.out, "backed up %s to %s, %s: %s in %v\n", c.Data, to, how, bytesUnit(size), time.Since(began).Round(time.Millisecond))
	return err
}

// backUpClosed copies a folder that no process has open.
func backUpClosed(data, to string) error {
	if _, err := os.Stat(filepath.Join(data, "LOCK")); err != nil {
		return fmt.Errorf("%s has no data of fantail s2: %w", data, err)
	}
	s, err := s2dev.Open(s2dev.Config{Dir: data})
	if err != nil {
		return err
	}
	return errors.Join(s.Backup(to), s.Close())
}

func folderSize(dir string) (bytes int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			bytes += info.Size()
		}
		return err
	})
	return bytes, err
}

// backupSocket is the file in the folder by which a running fantail s2 is asked for copies. What may be asked there is what
// the rights of files allow, and no page of a browser reaches it.
const backupSocket = "backup.sock"

// backupPath is the path at which a POST with to=FOLDER asks for a copy.
const backupPath = "/backup"

// askForBackup asks the process that has the folder open. The error is ECONNREFUSED or ErrNotExist if there is none.
func askForBackup(ctx context.Context, data, to string) error {
	at := filepath.Join(data, backupSocket)
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", at)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://fantail"+backupPath+"?"+url.Values{"to": {to}}.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	why, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err == nil && resp.StatusCode != http.StatusNoContent {
		err = errors.New(strings.TrimSpace(string(why)))
	}
	return err
}

// serveBackups listens in the folder for what asks for copies, until stop is called.
func serveBackups(data string, backUp func(to string) error) (stop func() error, err error) {
	at := filepath.Join(data, backupSocket)
	if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a process that was killed: the folder is ours now
		return nil, err
	}
	ln, err := new(net.ListenConfig).Listen(context.Background(), "unix", at)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(at, 0o600); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := r.URL.Query().Get("to")
		if r.Method != http.MethodPost || r.URL.Path != backupPath || !filepath.IsAbs(to) {
			http.Error(w, "want POST "+backupPath+"?to=FOLDER", http.StatusBadRequest)
			return
		}
		if err := backUp(to); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ln) }()
	return func() error {
		err := server.Close()
		<-ended // it has removed its file
		return err
	}, nil
}
