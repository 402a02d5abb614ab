package s2

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/shard"
)

var (
	_ shard.ListingLog = (*Log)(nil)
	_ shard.ListingLog = (*InProcess)(nil)
)

// ListLogs implements shard.ListingLog.
func (l *logCalls) ListLogs(ctx context.Context, project, prefix, after string, limit int) (shard.LogList, error) {
	basin, root, err := l.cfg.locateProject(project)
	if err != nil {
		return shard.LogList{}, err
	}
	if after < prefix { // S2 refuses it
		after = ""
	}
	if after != "" {
		after = root + after
	}
	ctx, cancel := context.WithTimeout(ctx, l.cfg.timeout)
	defer cancel()
	start := time.Now()
	list, err := l.service.list(ctx, basin, root+prefix, after, limit)
	err = l.cfg.classifyError("list streams", err)
	l.metrics.recordCall(opList, start, err)
	if err != nil {
		return shard.LogList{}, err
	}
	for i := range list.Names {
		name, ok := strings.CutPrefix(list.Names[i].Name, root+prefix)
		if !ok {
			return shard.LogList{}, fmt.Errorf("list streams: S2 names %q, which does not begin with %q", list.Names[i].Name, root+prefix)
		}
		list.Names[i].Name = prefix + name
	}
	return list, nil
}

// locateProject returns the basin of a project's streams, and what their names begin with there.
func (c *Config) locateProject(project string) (basin, root string, err error) {
	const any = "x"
	basin, name, err := c.locate(shard.StreamID(project + "/" + any))
	return basin, strings.TrimSuffix(name, any), err
}

func (s *sdkService) list(ctx context.Context, basin, prefix, after string, limit int) (list shard.LogList, err error) {
	page, err := s.basins.get(basin).Streams.List(ctx, &s2.ListStreamsArgs{Prefix: prefix, StartAfter: after, Limit: new(limit)})
	if err != nil {
		return list, err
	}
	list.More = page.HasMore
	for _, i := range page.Streams {
		if i.DeletedAt == nil {
			list.Names = append(list.Names, shard.ListedLog{Name: string(i.Name), Created: shard.Millis(max(0, i.CreatedAt.UnixMilli()))}) //nolint:gosec // not negative
		}
	}
	return list, nil
}

func (s *inProcessService) list(ctx context.Context, basin, prefix, after string, limit int) (list shard.LogList, err error) {
	names, created, more, err := s.basins.get(basin).List(ctx, prefix, after, limit)
	list.More = more
	for i := range names {
		list.Names = append(list.Names, shard.ListedLog{Name: names[i], Created: shard.Millis(created[i])})
	}
	return list, toSDKError(err)
}
