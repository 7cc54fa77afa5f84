//go:build cuda

package cuda

import (
	"math"
	"slices"
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
)

// What would be caught: an infinite logit that makes a loss or a gradient NaN where the CPU has a number, or the other way round.
// Rows of −Inf but for a few tell whether a thread that has seen nothing else spoils the sum.
func TestCrossEntropyInfinities(t *testing.T) {
	const n = 3000
	d := gpu(t, Options{})
	inf := math.Inf(1)
	rows := [][]float64{make([]float64, n), slices.Repeat([]float64{-inf}, n), slices.Repeat([]float64{-inf}, n), make([]float64, n), make([]float64, n), make([]float64, n)}
	rows[0][7], rows[0][8] = -inf, -inf
	rows[1][n-1], rows[1][12] = 2, 3 // row 2 has nothing else
	rows[3][5] = inf
	rows[4][n/2] = math.NaN()
	rows[5][0] = math.NaN() // no target: no matter
	targets := []int32{3, 12, 0, 1, 2, -1}
	for _, typ := range []device.Type{device.F32, device.F64, device.BF16} {
		for _, cols := range []int{n, n - 1} {
			var flat []float64
			for _, r := range rows {
				flat = append(flat, r[n-cols:]...)
			}
			run := func(d device.Device) (loss, grad []float64) {
				x, losses := device.NewFrom(d, flat, len(rows), cols, typ), d.Alloc(1, len(rows), typ.Acc())
				d.CrossEntropy(x, targets, true, losses)
				loss, grad = device.DownloadSlice[float64](d, losses), device.DownloadSlice[float64](d, x)
				d.Free(x, losses)
				return loss, grad
			}
			loss, grad := run(d)
			wantLoss, wantGrad := run(cpu.Open())
			near(t, typ.String()+" losses", loss, wantLoss, 1e-6)
			near(t, typ.String()+" gradient", grad, wantGrad, 1./128)
		}
	}
}

// near complains where x is not y, to a relative error, NaN being NaN.
func near(t *testing.T, name string, x, y []float64, limit float64) {
	t.Helper()
	for i := range y {
		if !(x[i] == y[i] || x[i] != x[i] && y[i] != y[i] || math.Abs(x[i]-y[i]) <= limit*math.Abs(y[i])) {
			t.Errorf("%s: element %d is %v, want %v", name, i, x[i], y[i])
			return
		}
	}
}

// What would be caught: elements left out or done twice where there are more than one round of the grid takes.
func TestManyElements(t *testing.T) {
	d := gpu(t, Options{})
	const n = 2*132*16*256 + 7 // two for each thread of the grid, and some
	x := make([]float64, n+1)
	for i := range x {
		x[i] = float64(i)
	}
	for from := range 2 { // in pairs, and one by one
		a, b := device.NewFrom(d, x, n+1, 1, device.F64), device.NewFrom(d, x, n+1, 1, device.F64)
		d.Axpy(2, a.Slice(from, from+n), b.Slice(from, from+n))
		for i, v := range device.DownloadSlice[float64](d, b.Slice(from, from+n)) {
			if want := 3 * x[from+i]; v != want {
				t.Fatalf("from %d: element %d is %v, want %v", from, i, v, want)
			}
		}
		d.Free(a, b)
	}
}
