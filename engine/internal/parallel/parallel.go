// Package parallel shares the work of loops among the cores.
package parallel

import (
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// For calls f for the pieces [0, grain), [grain, 2·grain), … of [0, n), on as many goroutines as there are cores. Who
// works on a piece depends on chance, where it begins and ends does not: f must write nothing that another piece reads or
// writes, but for what it keeps under its worker's number, 0 to Workers()−1.
//
// A panic in f comes back through the caller, with its value, wherever f ran: misuse found in a piece must reach whoever
// recovers there, and a goroutine that nobody recovers in would end the program with a stack trace. The other workers
// finish the piece they are at and take no more. Of several panics one is kept. Where the caller has asked for a panic in place of
// a fault (debug.SetPanicOnFault, which is of one goroutine), its workers have too.
func For(n, grain int, f func(worker, i, j int)) {
	if n <= 0 {
		return
	}
	pieces := 1 + (n-1)/grain
	var next atomic.Int64
	var trouble atomic.Pointer[panicked]
	run := func(worker int) {
		defer func() {
			if value := recover(); value != nil {
				trouble.CompareAndSwap(nil, &panicked{value})
			}
		}()
		for trouble.Load() == nil {
			p := int(next.Add(1)) - 1
			if p >= pieces {
				return
			}
			f(worker, p*grain, p*grain+min(grain, n-p*grain))
		}
	}
	onFault := debug.SetPanicOnFault(true)
	debug.SetPanicOnFault(onFault)
	var wg sync.WaitGroup
	for w := 1; w < min(Workers(), pieces); w++ {
		wg.Go(func() {
			debug.SetPanicOnFault(onFault)
			run(w)
		})
	}
	run(0)
	wg.Wait()
	if t := trouble.Load(); t != nil {
		panic(t.value)
	}
}

// panicked is what a worker of For panicked with.
type panicked struct{ value any }

// Workers is how many goroutines For uses at most.
func Workers() int { return runtime.GOMAXPROCS(0) }
