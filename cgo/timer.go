//go:build cuda

package cuda

import (
	"fmt"
	"os"
	"slices"
	"time"
)

// timer adds up how long operations take, where SURGEON_CUDA_SYNC=1 makes every one of them wait. A nil timer does nothing.
type timer struct {
	calls map[string]*calls
}

type calls struct {
	n    int
	time time.Duration
}

func newTimer() *timer {
	if os.Getenv("SURGEON_CUDA_SYNC") != "1" {
		return nil
	}
	return &timer{calls: map[string]*calls{}}
}

// start begins a call of op; what it returns ends it.
func (t *timer) start(op string) (stop func()) {
	if t == nil {
		return func() {}
	}
	begin := time.Now()
	return func() {
		c := t.calls[op]
		if c == nil {
			c = &calls{}
			t.calls[op] = c
		}
		c.n++
		c.time += time.Since(begin)
	}
}

// print writes a line for each operation to standard error, the longest first.
func (t *timer) print(name string) {
	if t == nil || len(t.calls) == 0 {
		return
	}
	ops := make([]string, 0, len(t.calls))
	for op := range t.calls {
		ops = append(ops, op)
	}
	slices.SortFunc(ops, func(a, b string) int { return int(t.calls[b].time - t.calls[a].time) })
	fmt.Fprintf(os.Stderr, "%s, every call waited for (SURGEON_CUDA_SYNC=1):\n%-24s%10s%12s%12s\n", name, "operation", "steps", "ms", "µs each")
	for _, op := range ops {
		c := t.calls[op]
		fmt.Fprintf(os.Stderr, "%-24s%10d%12.1f%12.1f\n", op, c.n, c.time.Seconds()*1e3, c.time.Seconds()*1e6/float64(c.n))
	}
}
