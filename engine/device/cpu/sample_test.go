package cpu_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
)

// Would catch ids that are drawn with other than the softmax's probabilities, or one that cannot be drawn at all: at the ends
// of [0, 1), beside logits of −Inf.
func TestSample(t *testing.T) {
	d := cpu.Open()
	inf, below1 := math.Inf(1), math.Nextafter(1, 0)
	row := []float64{-inf, 0, math.Log(3), -inf, math.Log(4), -inf} // 0, 1/8, 3/8, 0, 1/2, 0
	for _, typ := range []device.Type{device.F32, device.F64, device.BF16} {
		x := device.NewFrom(d, slices.Repeat(row, 7), 7, len(row), typ)
		ids := make([]int32, 7)
		d.Sample(x, []float64{0, 0.12, 0.13, 0.49, 0.51, 0.99, below1}, ids)
		if want := []int32{1, 1, 2, 2, 4, 4, 4}; !slices.Equal(ids, want) {
			t.Errorf("%s: drew %v, want %v", typ, ids, want)
		}
	}
	const n = 80000
	r := rand.New(rand.NewPCG(1, 2))
	x := device.NewFrom(d, slices.Repeat(row, n), n, len(row), device.F32)
	uniform, ids, count := make([]float64, n), make([]int32, n), make([]float64, len(row))
	for i := range uniform {
		uniform[i] = r.Float64()
	}
	d.Sample(x, uniform, ids)
	for _, id := range ids {
		count[id]++
	}
	for v, p := range []float64{0, 1. / 8, 3. / 8, 0, 1. / 2, 0} {
		if off := math.Abs(count[v] - n*p); off > 4*math.Sqrt(n*p*(1-p)) {
			t.Errorf("id %d was drawn %v of %d times, want %v of them", v, count[v], n, p)
		}
	}
}
