package transport

import (
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fantail-dev/fantail/cluster/internal/guard"
	"github.com/fantail-dev/fantail/cluster/internal/notify"
	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/wire"
	"github.com/fantail-dev/fantail/proto/relaypb"
)

// Control serves a link's control lane. The peer's session lasts as long as this call.
func (s *Server) Control(
	lane grpc.BidiStreamingServer[relaypb.ToOwner, relaypb.ToEdge],
) error {
	m, err := lane.Recv()
	if err != nil {
		return err
	}
	session, err := s.openSession(lane.Context(), m.GetHello())
	if err != nil {
		return err
	}
	defer s.closeSession(session)
	hello := &relaypb.Hello{Version: placement.RelayVersionNewest, From: wire.EncodePeerAddr(s.self)}
	if err := lane.Send(&relaypb.ToEdge{Hello: hello}); err != nil {
		return err
	}
	read := make(chan error, 1)
	s.wg.Go(func() {
		var err error
		defer func() { read <- err }()
		defer guard.ToError(s.panics, panicInLink, &err)
		err = session.readControl(lane, m)
	})
	watch := time.NewTicker(SilenceTimeout / 6)
	defer watch.Stop()
	for {
		select {
		case err := <-read:
			return err
		case <-watch.C:
			if time.Since(time.Unix(0, session.lastHeard.Load())) > SilenceTimeout {
				return status.Error(codes.DeadlineExceeded, errPeerSilent.Error())
			}
		}
	}
}

func (s *session) readControl(
	lane grpc.BidiStreamingServer[relaypb.ToOwner, relaypb.ToEdge], m *relaypb.ToOwner,
) error {
	for {
		if err := wire.CheckToOwner(m); err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
		if err := s.handleControl(m); err != nil {
			return err
		}
		if b := m.GetHeartbeat(); b != 0 {
			if err := lane.Send(&relaypb.ToEdge{Heartbeat: b, Status: encodeStatus(s.streams.StatusFor(s.peer)), Readers: s.changedTotals()}); err != nil {
				return err
			}
		}
		var err error
		if m, err = lane.Recv(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// maxBulkLanes bounds the bulk lanes of a session that are open or wait for the previous one to
// end.
const maxBulkLanes = 4

// Bulk serves a link's bulk lane: it sends Frames of what the session's subscriptions are due.
func (s *Server) Bulk(
	q *relaypb.BulkRequest, lane grpc.ServerStreamingServer[relaypb.Frame],
) error {
	s.mu.Lock()
	session := s.sessions[q.GetIncarnation()]
	s.mu.Unlock()
	if session == nil {
		return status.Error(codes.NotFound, "no such link")
	}
	if session.bulkLanes.Add(1) > maxBulkLanes {
		session.bulkLanes.Add(-1)
		return status.Error(codes.ResourceExhausted, "too many bulk lanes")
	}
	defer session.bulkLanes.Add(-1)
	select {
	case session.bulkSlot <- struct{}{}: // the previous lane has ended
	case <-lane.Context().Done():
		return nil
	case <-session.ctx.Done():
		return nil
	}
	defer func() {
		<-session.bulkSlot
		notify.Send(session.wake) // a wake-up that this lane consumed may be meant for the next one
	}()
	var f frameBuilder
	for {
		session.fillFrame(&f, q.GetBulkLane())
		if len(f.frame.Parts) > 0 {
			if err := lane.Send(&f.frame); err != nil {
				return err
			}
			continue
		}
		select {
		case <-session.wake:
		case <-lane.Context().Done():
			return nil
		case <-session.ctx.Done():
			return nil
		}
	}
}
