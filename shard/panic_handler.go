package shard

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// PanicHandler takes panics that cost one reader, one call or one link, and not the process: it
// counts them and logs their stacks. What panics in a method of a Stream, a TailBuffer, a set of
// TailBuffers or a Manager is none of those: a lock may be held, and what it guards half changed, so
// that ends the process. Reading a page of history holds no lock.
type PanicHandler struct {
	log    *slog.Logger
	caught *prometheus.CounterVec
}

// ErrPanic is what a call ends with that panicked.
var ErrPanic = errors.New("internal error")

// NewPanicHandler returns a Panics. All of one registry share a counter. log and reg may be nil.
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

// Handle takes what recover returned, which is not nil, in the deferred function that
// called it. where is one of few words: it labels the metric. The error is ErrPanic. A nil
// Panics catches nothing.
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

// lockHolders lists the receivers whose methods hold locks over what they change, as the names
// of functions begin in a stack.
var lockHolders = []string{methodsOf[Stream](), methodsOf[TailBuffer](), methodsOf[TailBuffers](), methodsOf[Manager]()}

func methodsOf[T any]() string { return "shard.(*" + reflect.TypeFor[T]().Name() + ")." }

// isUnderLock reports whether a method of a locker is on the stack.
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

// crash ends the process with a panic of another goroutine, whose stack is given.
func crash(v any, stack []byte) {
	go panic(fmt.Sprintf("%v\n\n%s", v, stack))
	select {}
}
