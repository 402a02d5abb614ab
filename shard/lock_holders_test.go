package shard

import (
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/fantail-dev/fantail/shard/tail"
)

// The names of lock holders are those that a stack shows, whatever package the type is in.
func TestLockHoldersAreNamedAsInAStack(t *testing.T) {
	for i, method := range []any{(*Stream).waitReady, (*tail.Buffer).Info, (*tail.Buffers).Bytes, (*Manager).Info} {
		name := runtime.FuncForPC(reflect.ValueOf(method).Pointer()).Name()
		if !strings.HasPrefix(name[strings.LastIndexByte(name, '/')+1:], lockHolders[i]) {
			t.Errorf("%s does not begin with %s", name, lockHolders[i])
		}
	}
}
