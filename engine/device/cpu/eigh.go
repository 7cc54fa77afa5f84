package cpu

import (
	"math"

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
		if !allFinite(a.row(i)[:i+1]) { // LAPACK's routines panic on a NaN, or go on without end
			return false
		}
		clear(v.row(i))
		copy(v.row(i), a.row(i)[:i+1])
	}
	return d.syev(v, w) && !math.IsNaN(w[0])
}
