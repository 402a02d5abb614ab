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
func (g grpcLog) Warning(a ...any)     { g.Debug("grpc", "err", fmt.Sprint(a...)) }
func (g grpcLog) Warningln(a ...any)   { g.Debug("grpc", "err", fmt.Sprint(a...)) }
func (g grpcLog) Error(a ...any)       { g.Warn("grpc", "err", fmt.Sprint(a...)) }
func (g grpcLog) Errorln(a ...any)     { g.Warn("grpc", "err", fmt.Sprint(a...)) }
func (g grpcLog) Fatal(a ...any)       { g.fatal(fmt.Sprint(a...)) }
func (g grpcLog) Fatalln(a ...any)     { g.fatal(fmt.Sprint(a...)) }
func (g grpcLog) V(level int) bool     { return false }
func (g grpcLog) fatal(message string) { g.Logger.Error("grpc", "err", message); os.Exit(1) }

func (g grpcLog) Warningf(format string, a ...any) { g.Warning(fmt.Sprintf(format, a...)) }
func (g grpcLog) Errorf(format string, a ...any)   { g.Error(fmt.Sprintf(format, a...)) }
func (g grpcLog) Fatalf(format string, a ...any)   { g.Fatal(fmt.Sprintf(format, a...)) }
