package cpu

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// parallel calls f for the pieces [0, grain), [grain, 2·grain), … of [0, n), on as many goroutines as there are cores. Who
// works on a piece depends on chance, where it begins and ends does not: f must write nothing that another piece reads or
// writes, but for what it keeps under its worker's number, 0 to workers()−1.
func parallel(n, grain int, f func(worker, i, j int)) {
	if n <= 0 {
		return
	}
	pieces := 1 + (n-1)/grain
	var next atomic.Int64
	run := func(worker int) {
		for {
			p := int(next.Add(1)) - 1
			if p >= pieces {
				return
			}
			f(worker, p*grain, p*grain+min(grain, n-p*grain))
		}
	}
	var wg sync.WaitGroup
	for w := 1; w < min(workers(), pieces); w++ {
		wg.Go(func() { run(w) })
	}
	run(0)
	wg.Wait()
}

func workers() int { return runtime.GOMAXPROCS(0) }

// grainElements is the least work for which another goroutine is worth waking: some 10 µs of moving memory.
const grainElements = 16384

// rowGrain is how many rows of n elements make a piece.
func rowGrain(n int) int { return max(1, grainElements/max(1, n)) }
