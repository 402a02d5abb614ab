package shard

import (
	"errors"
	"fmt"
	"log/slog"
	"path"
	"reflect"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fantail-dev/fantail/shard/tail"
)

// PanicHandler handles panics that cost one reader, one call or one link, and not the process: it
// counts them and logs their stacks. A panic in a method of a Stream, a tail.Buffer, a tail.Buffers
// or a Manager is not one of them: a lock may be held over half-changed state, so it ends the
// process. Reading a page of history holds no lock.
type PanicHandler struct {
	log    *slog.Logger
	caught *prometheus.CounterVec // by where they were caught
}

// ErrPanic is the error of a call that panicked.
var ErrPanic = errors.New("internal error")

// NewPanicHandler returns a PanicHandler. All of one registry share a counter. log and reg may be
// nil.
func NewPanicHandler(log *slog.Logger, reg prometheus.Registerer) *PanicHandler {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p := &PanicHandler{log: log, caught: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fantail_panics_total", Help: "Panics that cost one reader, call or link, by where they were caught.",
	}, []string{"where"})}
	if reg == nil {
		return p
	}
	if err := reg.Register(p.caught); err != nil {
		var there prometheus.AlreadyRegisteredError
		if !errors.As(err, &there) {
			panic(err)
		}
		p.caught, _ = there.ExistingCollector.(*prometheus.CounterVec)
	}
	return p
}

// Handle handles v, which recover returned in the deferred function that calls Handle; v is not
// nil. where labels the metric, so it is one of few words. The error is ErrPanic. A nil
// PanicHandler panics with v.
func (p *PanicHandler) Handle(where string, v any) error {
	if p == nil {
		panic(v)
	}
	stack := debug.Stack()
	if isUnderLock() {
		crash(v, stack)
	}
	p.caught.WithLabelValues(where).Inc()
	p.log.Error("panic", "where", where, "panic", fmt.Sprint(v), "stack", string(stack))
	return fmt.Errorf("%w: %s", ErrPanic, where)
}

// lockHolders lists the receivers with methods that hold locks over what they change, as function
// names begin in a stack.
var lockHolders = []string{methodsOf[Stream](), methodsOf[tail.Buffer](), methodsOf[tail.Buffers](), methodsOf[Manager]()}

func methodsOf[T any]() string {
	t := reflect.TypeFor[T]()
	return path.Base(t.PkgPath()) + ".(*" + t.Name() + ")."
}

// isUnderLock reports whether a method of a lock holder is on the stack.
func isUnderLock() bool {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	for {
		f, more := frames.Next()
		name := f.Function[strings.LastIndexByte(f.Function, '/')+1:]
		for _, l := range lockHolders {
			if strings.HasPrefix(name, l) && !strings.HasPrefix(name, methodsOf[Manager]()+"ReadPage") {
				return true
			}
		}
		if !more {
			return false
		}
	}
}

// crash ends the process with a panic of another goroutine; v and stack are the caller's.
func crash(v any, stack []byte) {
	go panic(fmt.Sprintf("%v\n\n%s", v, stack))
	select {}
}
