package cpu_test

import (
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/device/devicetest"
)

// Would catch an operation whose float64 code is not the definition: the reference of all parity tests would be wrong.
func TestDefinition(t *testing.T) {
	open := func(*testing.T) device.Device { return cpu.Open() }
	devicetest.Run(t, open, devicetest.Options{Types: []device.Type{device.F64}, Loops: true})
}

// Would catch a sum that is shared between workers, a piece whose edge depends on their number, a kernel whose result
// depends on where in memory its operands begin: a run stopped and gone on elsewhere would end differently.
func TestSameBitsOnAnyNumberOfCores(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	larger := map[string][]devicetest.Shape{ // several pieces even for gonum's Gemm
		"Gemm NN beta=0": {{M: 200, N: 330, K: 100}}, "Gemm NT beta=0": {{M: 200, N: 330, K: 100}}, "Gemm TN beta=0": {{M: 200, N: 330, K: 100}},
		"CrossEntropy grad=true": {{M: 40, N: 3000}}, "Gram ones=1 beta=0": {{M: 100, N: 400}}, "Cholesky": {{M: 400}}, "ColDot": {{M: 50, N: 1000}},
	}
	for _, op := range devicetest.Ops() {
		for _, typ := range []device.Type{device.F32, device.F64} {
			if op.Types != nil && !slices.Contains(op.Types, typ) || op.Types == nil && typ == device.F64 {
				continue
			}
			for _, s := range append(larger[op.Name], op.Shapes[max(0, len(op.Shapes)-5):]...) { // the first ones are small
				var first [][]float64
				for _, procs := range []int{1, 2, 5} {
					runtime.GOMAXPROCS(procs)
					got := outputs(op, typ, s)
					if first == nil {
						first = got
					}
					for i := range got {
						if !slices.EqualFunc(got[i], first[i], func(a, b float64) bool { return math.Float64bits(a) == math.Float64bits(b) }) {
							t.Errorf("%s %s %s: operand %d has other bits on %d cores than on 1", op.Name, typ, s, i, procs)
						}
					}
				}
			}
		}
	}
}

// outputs makes a call and returns all operands after it.
func outputs(op devicetest.Op, typ device.Type, s devicetest.Shape) (after [][]float64) {
	r := rand.New(rand.NewPCG(1, 2))
	d := cpu.Open()
	c := op.Case(s, r)
	var x []device.Tensor
	for _, o := range c.Operands {
		t := typ
		if o.As != nil {
			t = o.As(typ)
		}
		x = append(x, device.NewFrom(d, o.Values(typ, r, false), o.Rows, o.Cols, t))
	}
	c.Call(d, x)
	for _, t := range x {
		after = append(after, device.DownloadSlice[float64](d, t))
	}
	return after
}
