package cpu

import (
	"errors"
	"math"
	"runtime"
	"sync/atomic"
	"testing"
)

// TestParallelPanic would catch a panic that ends the process because it happened in a goroutine of parallel, one that lost
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
				parallel(pieces, 1, func(worker, _, _ int) {
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
	parallel(100, 7, func(_, i, j int) { sum.Add(int64(j - i)) })
	if sum.Load() != 100 {
		t.Errorf("after a panic: %d elements in pieces, want 100", sum.Load())
	}
}

// What would be caught: panels that leave a part out or are too long, more of them than it takes, and one that is a small rest.
func TestEven(t *testing.T) {
	for _, most := range []int{16, 256, 384, math.MaxInt} {
		for n := 1; n < 2000; n++ {
			got := even(n, most)
			pieces, last := 1+(n-1)/got, n-(n-1)/got*got
			if got < 1 || got > most || pieces != 1+(n-1)/most || pieces > 1 && got-last > 16*pieces {
				t.Fatalf("%d in pieces of at most %d: %d, the last %d", n, most, got, last)
			}
		}
	}
}
