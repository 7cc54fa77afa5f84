package cpu

import (
	"math"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/lapack"
	"gonum.org/v1/gonum/lapack/lapack64"

	"surgeon/engine/device"
)

// Eigh is a = V·diag(w)·Vᵀ, by way of a tridiagonal matrix, which has no use for the vectors that warm offers. gonum's own
// routine takes 12 s for order 1024; OpenBLAS is what makes larger ones bearable.
func (d *Device) Eigh(warm bool, as, values, vectors []device.Tensor) []bool {
	device.CheckEigh(as, values, vectors)
	ok := make([]bool, len(as))
	for i, a := range as {
		w, v := elements[float64](d, values[i]), whole[float64](d, vectors[i])
		ok[i] = (!warm || allFinite(v.data)) && d.eigh(whole[float64](d, a), w, v)
	}
	return ok
}

func (d *Device) eigh(a matrix, w []float64, v matrix) bool {
	n := a.rows
	if n == 0 {
		return true
	}
	for i := range n {
		if !allFinite(a.row(i)[:i+1]) { // Syev panics on a NaN, or goes on without end
			return false
		}
		clear(v.row(i))
		copy(v.row(i), a.row(i)[:i+1])
	}
	sym := blas64.Symmetric{N: n, Stride: v.stride, Data: v.data, Uplo: blas.Lower}
	var best [1]float64
	lapack64.Syev(lapack.EVCompute, sym, w, best[:], -1)
	size := max(int(best[0]), 3*n-1)
	work, free := scratch[float64](d, size)
	defer free()
	return lapack64.Syev(lapack.EVCompute, sym, w, work, size) && !math.IsNaN(w[0])
}
