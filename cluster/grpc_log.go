package cluster

import (
	"fmt"
	"log/slog"
	"os"

	"google.golang.org/grpc/grpclog"
)

// UseLogForGRPC makes log the logger of gRPC, for the whole process. It must be called before any use of
// gRPC.
func UseLogForGRPC(log *slog.Logger) { grpclog.SetLoggerV2(grpcLog{log}) }

// grpcLog passes gRPC's log on to the process's own. gRPC's information is of no use here, and its
// warnings report the state of connections, which the relay's log lines tell better.
type grpcLog struct{ *slog.Logger }

func (grpcLog) Info(...any)            {}
func (grpcLog) Infoln(...any)          {}
func (grpcLog) Infof(string, ...any)   {}
func (l grpcLog) Warning(a ...any)     { l.Debug("grpc", "err", fmt.Sprint(a...)) }
func (l grpcLog) Warningln(a ...any)   { l.Debug("grpc", "err", fmt.Sprint(a...)) }
func (l grpcLog) Error(a ...any)       { l.Warn("grpc", "err", fmt.Sprint(a...)) }
func (l grpcLog) Errorln(a ...any)     { l.Warn("grpc", "err", fmt.Sprint(a...)) }
func (l grpcLog) Fatal(a ...any)       { l.fatal(fmt.Sprint(a...)) }
func (l grpcLog) Fatalln(a ...any)     { l.fatal(fmt.Sprint(a...)) }
func (l grpcLog) V(level int) bool     { return false }
func (l grpcLog) fatal(message string) { l.Logger.Error("grpc", "err", message); os.Exit(1) }

func (l grpcLog) Warningf(format string, a ...any) { l.Warning(fmt.Sprintf(format, a...)) }
func (l grpcLog) Errorf(format string, a ...any)   { l.Error(fmt.Sprintf(format, a...)) }
func (l grpcLog) Fatalf(format string, a ...any)   { l.Fatal(fmt.Sprintf(format, a...)) }
