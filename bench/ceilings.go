package bench

import (
	"fmt"
	"slices"
	"time"

	"surgeon/engine/device"
	"surgeon/engine/device/devicetest"
)

// Ceilings are what bounds everything that a device does, each measured on it when it is first asked for: a large product
// for what is arithmetic, a large copy for what is memory.
type Ceilings struct {
	d    device.Device
	gemm map[device.Type]float64
	copy float64
}

// NewCeilings measures nothing yet.
func NewCeilings(d device.Device) *Ceilings {
	return &Ceilings{d: d, gemm: map[device.Type]float64{}}
}

// Gemm is the FLOP/s of a large product of that type.
func (c *Ceilings) Gemm(t device.Type) (float64, error) {
	if c.gemm[t] == 0 {
		ops := devicetest.Ops()
		op := ops[slices.IndexFunc(ops, func(op devicetest.Op) bool { return op.Name == "Gemm NN beta=0" })]
		seconds, large, err := c.fastest(t, func(scale int) devicetest.Case {
			return op.Case(devicetest.Shape{M: 512 * scale, N: 1536 * scale, K: 1536 * scale}, nil)
		})
		if err != nil {
			return 0, fmt.Errorf("a large product in %s: %w", t, err)
		}
		c.gemm[t] = large.FLOPs / seconds
	}
	return c.gemm[t], nil
}

// Copy is the bytes per second that a large copy reads and writes, together.
func (c *Ceilings) Copy() (float64, error) {
	if c.copy == 0 {
		seconds, large, err := c.fastest(device.F32, func(scale int) devicetest.Case {
			rows := 8192 * scale
			return devicetest.Case{
				Operands: []devicetest.Operand{{Name: "x", Rows: rows, Cols: 4096}, {Name: "y", Rows: rows, Cols: 4096, Role: devicetest.Out}},
				Call:     func(d device.Device, x []device.Tensor) []float64 { d.Copy(x[0], x[1]); return nil },
			}
		})
		if err != nil {
			return 0, fmt.Errorf("a large copy: %w", err)
		}
		c.copy = large.Bytes(device.F32) / seconds
	}
	return c.copy, nil
}

const (
	// largeEnough is how long a call takes that is large: what comes before and after it is nothing beside it. What does not
	// take so long at the largest scale is timed in rounds of several calls.
	largeEnough = 10 * time.Millisecond
	scaleMost   = 8
	// The fastest of some rounds is taken: of five, or, where they take long, of as many as are done in half a second.
	triesMost, triesLeast = 5, 2
	triesFor              = 500 * time.Millisecond
)

// fastest is the shortest time of a call, in seconds, that is as large as it has to be and as memory allows.
func (c *Ceilings) fastest(t device.Type, at func(scale int) devicetest.Case) (seconds float64, large devicetest.Case, err error) {
	for scale := 1; ; scale *= 2 {
		large = at(scale)
		l, err := devicetest.Load(c.d, large, t)
		if err != nil {
			return 0, large, err
		}
		once, err := l.Time(1)
		m := c.d.Memory()
		last := scale == scaleMost || once >= largeEnough || m.Total > 0 && 8*large.Held(t) > m.Total/4
		start := time.Now()
		for i := 0; last && err == nil && i < triesMost && (i < triesLeast || time.Since(start) < triesFor); i++ {
			var round float64
			if round, err = perCall(l, callsFor(l, once)); seconds == 0 || round < seconds {
				seconds = round
			}
		}
		l.Free()
		if last || err != nil {
			return seconds, large, err
		}
	}
}

// callsFor is the number of calls, each taking about so long, that make a round.
func callsFor(l *devicetest.Loaded, once time.Duration) int {
	return int(max(1, min(int64(l.Copies()), int64(roundAtLeast/max(once, 1))+1)))
}

// perCall times a round, in seconds per call.
func perCall(l *devicetest.Loaded, calls int) (float64, error) {
	elapsed, err := l.Time(calls)
	return elapsed.Seconds() / float64(calls), err
}
