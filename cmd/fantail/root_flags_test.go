package main

import (
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"github.com/fantail-dev/fantail/edge"
)

func TestRootFlag(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		want []edge.Root
		errs []string
	}{
		{"none", nil, nil, nil},
		{"two", []string{"--root=/streams/:project=chats", "--root=/a/b/:project=x"}, []edge.Root{{Path: "/streams/", Project: "chats"}, {Path: "/a/b/", Project: "x"}}, nil},
		{"two in one", []string{"--root=/streams/:project=chats,/a/b/:project=x"}, []edge.Root{{Path: "/streams/", Project: "chats"}, {Path: "/a/b/", Project: "x"}}, nil},
		{"without a project", []string{"--root=/streams/"}, nil, []string{"--root", "want PATH:project=NAME"}},
		{"overlapping", []string{"--root=/a/:project=x", "--root=/a/b/:project=x"}, nil, []string{"FANTAIL_ROOT", "overlap"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var flags cli
			parser, err := newParser(&flags)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := parser.Parse(append([]string{"serve", "--name=n", "--s2-basin=my-basin-1", "--s2-token=t", "--http=127.0.0.1:0"}, c.args...)); err != nil {
				t.Fatal(err)
			}
			cfg, err := flags.Serve.nodeConfig(slog.New(slog.DiscardHandler))
			if len(c.errs) == 0 {
				if err != nil || !reflect.DeepEqual(cfg.edge.Roots, c.want) {
					t.Errorf("%v %v", cfg.edge.Roots, err)
				}
				return
			}
			for _, part := range c.errs {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("%v, want %q in it", err, part)
				}
			}
		})
	}
}
