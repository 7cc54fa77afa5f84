//go:build cuda

package cuda

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
)

// What would be caught: cuSOLVER called with the wrong triangle, vectors that are not transposed back, a scale that is lost
// on the way, an infinity that is not noticed, orders on both sides of the limit mixed up.
func TestEighLarge(t *testing.T) {
	d := gpu(t, Options{})
	d.jacobiOrder = 40 // 2048 would take too long to emulate
	r := rand.New(rand.NewPCG(1, 1))
	ref := cpu.Open()
	var as, ws, vs, want []device.Tensor
	var content [][]float64
	orders := []int{0, 70, 33, 41, 45}
	for i, n := range orders {
		a := make([]float64, n*n)
		for i := range n {
			for j := range n {
				a[i*n+j] = math.NaN()
				if j <= i {
					a[i*n+j] = 1e200 * r.NormFloat64()
				}
			}
		}
		if i == 4 {
			a[44*45] = math.Inf(1)
		}
		content = append(content, a)
		as = append(as, device.NewFrom(d, a, n, n, device.F64))
		ws = append(ws, d.Alloc(1, n, device.F64))
		vs = append(vs, d.Alloc(n, n, device.F64))
		want = append(want, ref.Alloc(1, n, device.F64))
		ref.Eigh(false, []device.Tensor{device.NewFrom(ref, a, n, n, device.F64)}, want[i:i+1], []device.Tensor{ref.Alloc(n, n, device.F64)})
	}
	if ok := d.Eigh(false, as, ws, vs); !slices.Equal(ok, []bool{true, true, true, true, false}) {
		t.Fatalf("ok is %v", ok)
	}
	for i, n := range orders[:4] {
		a, w, v, right := content[i], device.DownloadSlice[float64](d, ws[i]), device.DownloadSlice[float64](d, vs[i]), device.DownloadSlice[float64](ref, want[i])
		worst := 0.
		for j := range n {
			worst = max(worst, math.Abs(w[j]-right[j])/1e200)
			for row := range n {
				sum := -w[j] / 1e200 * v[row*n+j]
				for k := range n {
					sum += a[max(row, k)*n+min(row, k)] / 1e200 * v[k*n+j]
				}
				worst = max(worst, math.Abs(sum))
			}
		}
		if !(worst <= 1e-12*float64(n)) {
			t.Errorf("order %d: an error of %.3g", n, worst)
		}
	}
}

// What would be caught: matrices, values or infos of a batch that do not follow one another as cuSOLVER takes them, the wrong
// triangle, a workspace for one of them.
func TestEighBatch(t *testing.T) {
	d := gpu(t, Options{})
	const n, count = 13, 5
	r := rand.New(rand.NewPCG(2, 1))
	batch := make([]float64, count*n*n)
	var as, ws, vs []device.Tensor
	for k := range count {
		a := batch[k*n*n:][:n*n]
		for i := range n {
			for j := range n {
				a[i*n+j] = math.NaN()
				if j <= i {
					a[i*n+j] = r.NormFloat64()
				}
			}
		}
		as, ws, vs = append(as, device.NewFrom(d, a, n, n, device.F64)), append(ws, d.Alloc(1, n, device.F64)), append(vs, d.Alloc(n, n, device.F64))
	}
	x, values := device.NewFrom(d, batch, count*n, n, device.F64), d.Alloc(count, n, device.F64)
	if ok := append(d.EighBatch(x, values), d.Eigh(false, as, ws, vs)...); slices.Contains(ok, false) {
		t.Fatalf("ok is %v", ok)
	}
	rows, got := device.DownloadSlice[float64](d, x), device.DownloadSlice[float64](d, values)
	for k := range count {
		w, v := device.DownloadSlice[float64](d, ws[k]), device.DownloadSlice[float64](d, vs[k])
		for j := range n {
			dot := 0.0 // of two vectors of length 1, with one sign or the other
			for i := range n {
				dot += rows[(k*n+j)*n+i] * v[i*n+j]
			}
			if !(math.Abs(got[k*n+j]-w[j]) < 1e-12*n) || !(math.Abs(math.Abs(dot)-1) < 1e-9) {
				t.Errorf("matrix %d, value %d: %v, want %v; its vector is off by %.3g", k, j, got[k*n+j], w[j], math.Abs(dot)-1)
			}
		}
	}
}
