package logtest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// ListLogs implements shard.ListingLog.
func (m *Memory) ListLogs(_ context.Context, project, prefix, after string, limit int) (list shard.LogList, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ops.Lists++
	var names []string
	for id := range m.logs {
		if name, ok := strings.CutPrefix(string(id), project+"/"); ok && strings.HasPrefix(name, prefix) && name > after {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	list.More = len(names) > limit
	for _, n := range names[:min(limit, len(names))] {
		list.Names = append(list.Names, shard.ListedLog{Name: n, Created: shard.MillisOf(time.UnixMilli(1_700_000_000_000))})
	}
	return list, nil
}

// testListing lists a project in pages. A Log without listings passes.
func testListing(e *testCase) {
	log, ok := e.Log.(shard.ListingLog)
	if !ok {
		e.Skip("this Log lists nothing")
	}
	project, root, _ := strings.Cut(string(e.id), "/")
	var want []string
	for i := range 7 {
		name := fmt.Sprintf("%s/%d %%é", root, i)
		want = append(want, name)
		if err := e.Create(e.ctx, shard.StreamID(project+"/"+name)); err != nil {
			e.Fatal(err)
		}
	}
	began := time.Now().Add(-time.Minute)
	for _, limit := range []int{1, 3, 7, 1000} {
		var got []string
		for after, more := "", true; more; {
			page, err := log.ListLogs(e.ctx, project, root+"/", after, limit)
			if err != nil {
				e.Fatal(err)
			}
			if len(page.Names) > limit || page.More && len(page.Names) == 0 {
				e.Fatalf("a page of %d with a limit of %d, more: %v", len(page.Names), limit, page.More)
			}
			for _, l := range page.Names {
				got, after = append(got, l.Name), l.Name
				if _, memory := e.Log.(*Memory); !memory && l.Created < shard.MillisOf(began) {
					e.Errorf("%s was created at %v", l.Name, l.Created)
				}
			}
			more = page.More
		}
		if !slices.Equal(got, want) {
			e.Fatalf("limit %d: %q, want %q", limit, got, want)
		}
	}
	page, err := log.ListLogs(e.ctx, project, root+"/5", "!", 10) // after sorts below the prefix
	if err != nil || len(page.Names) != 1 || page.More {
		e.Errorf("%v %v", page, err)
	}
	page, err = log.ListLogs(e.ctx, project, root+"/x", "", 10)
	if err != nil || len(page.Names) != 0 || page.More {
		e.Errorf("%v %v", page, err)
	}
}
