package devicetest_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/device/devicetest"
)

// What would be caught: a row that names an operation of yesterday, one that is timed twice under one name.
func TestBenchmarks(t *testing.T) {
	for _, typ := range []device.Type{device.F32, device.F64, device.BF16} {
		seen := map[string]int{}
		for _, b := range devicetest.Benchmarks(typ) {
			seen[b.Name()]++
		}
		for name, n := range seen {
			if n > 1 {
				t.Errorf("%s is timed %d times", name, n)
			}
		}
		if len(seen) < 70 {
			t.Errorf("%s: only %d calls are timed", typ, len(seen))
		}
	}
}

// What would be caught: copies of the operands that are not taken in turn, so that a call finds its own in the cache, or
// that are no copies.
func TestLoadedTakesCopiesInTurn(t *testing.T) {
	d := cpu.Open()
	defer d.Close()
	calls, last := map[any]int{}, []float64(nil)
	l, err := devicetest.Load(d, devicetest.Case{
		Operands: []devicetest.Operand{{Name: "x", Rows: 1000, Cols: 1000}},
		Call: func(_ device.Device, x []device.Tensor) []float64 {
			calls[x[0].Handle]++
			if end := device.DownloadSlice[float64](d, x[0].Slice(999, 1000)); last != nil && !slices.Equal(end, last) {
				t.Error("copies differ")
			} else {
				last = end
			}
			return nil
		},
	}, device.F64)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Free()
	clear(calls)
	for range l.Copies() {
		if _, err := l.Time(3); err != nil {
			t.Fatal(err)
		}
	}
	if len(calls) != l.Copies() || int64(l.Copies())*8e6 < 256<<20 {
		t.Errorf("%d of %d copies were used, of 8 MB each", len(calls), l.Copies())
	}
	for _, n := range calls {
		if n != 3 {
			t.Fatalf("calls per copy: %v", calls)
		}
	}
}

// What would be caught: a call on what an earlier one has left, copies that differ, memory that is not given back.
func TestLoaded(t *testing.T) {
	d := cpu.Open()
	defer d.Close()
	ops := map[string]devicetest.Op{}
	for _, op := range devicetest.Ops() {
		ops[op.Name] = op
	}
	for _, c := range []struct {
		op    string
		shape devicetest.Shape
		typ   device.Type
	}{
		{"Axpy", devicetest.Shape{M: 1100, N: 1000}, device.F32}, // more than the numbers that repeat
		{"Cholesky", devicetest.Shape{M: 40}, device.F64},
		{"Gram ones=1 beta=1", devicetest.Shape{M: 20, N: 30}, device.BF16},
		{"SwiGLU in place", devicetest.Shape{M: 20, N: 30}, device.F32},
	} {
		t.Run(c.op, func(t *testing.T) {
			l, err := devicetest.Load(d, ops[c.op].Case(c.shape, rand.New(rand.NewPCG(1, 1))), c.typ)
			if err != nil {
				t.Fatal(err)
			}
			first := l.Checksum()
			if !(first > 0) {
				t.Errorf("checksum %v", first)
			}
			if l.Copies() < 2 {
				t.Fatalf("%d copies", l.Copies())
			}
			for range 3 { // each copy is called more than once
				elapsed, err := l.Time(l.Copies() - 1)
				if err != nil || elapsed <= 0 {
					t.Fatal(elapsed, err)
				}
				if again := l.Checksum(); again != first {
					t.Errorf("checksum %v at first, then %v", first, again)
				}
			}
			l.Free()
		})
	}
	if used := d.Memory().Used; used != 0 {
		t.Errorf("%d bytes are still held", used)
	}
}
