package parallel

import (
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
)

// TestParallelPanic would catch a panic that ends the process because it happened in a goroutine of For, one that lost
// its value on the way to the caller, and workers that go on after it.
func TestParallelPanic(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	misuse := errors.New("misuse")
	for _, in := range []struct {
		name   string
		panics func(worker int) bool
	}{
		{"in the calling goroutine", func(worker int) bool { return worker == 0 }},
		{"in another", func(worker int) bool { return worker > 0 }},
		{"in all", func(int) bool { return true }},
	} {
		t.Run(in.name, func(t *testing.T) {
			const pieces = 1 << 30 // without an end to them: only a panic stops the workers in time
			var done atomic.Bool
			got := func() (value any) {
				defer func() { value = recover() }()
				For(pieces, 1, func(worker, _, _ int) {
					if in.panics(worker) {
						panic(misuse)
					}
					runtime.Gosched()
				})
				done.Store(true)
				return nil
			}()
			if got != misuse || done.Load() {
				t.Errorf("the caller got %v, want the value of the panic", got)
			}
		})
	}
	sum := new(atomic.Int64)
	For(100, 7, func(_, i, j int) { sum.Add(int64(j - i)) })
	if sum.Load() != 100 {
		t.Errorf("after a panic: %d elements in pieces, want 100", sum.Load())
	}
}
