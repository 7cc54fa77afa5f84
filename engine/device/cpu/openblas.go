//go:build openblas

package cpu

// #cgo LDFLAGS: -lopenblas -llapacke
// void openblas_set_num_threads(int);
// char *openblas_get_corename(void);
import "C"

import (
	"gonum.org/v1/gonum/blas/blas32"
	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/lapack/lapack64"
	blasnetlib "gonum.org/v1/netlib/blas/netlib"
	"gonum.org/v1/netlib/lapack/lapacke"
	lapacknetlib "gonum.org/v1/netlib/lapack/netlib"
)

const (
	blasName = "OpenBLAS"
	// skipsZeros: OpenBLAS multiplies all there is to multiply.
	skipsZeros = false
	// leaf is the order below which triangular matrices go to OpenBLAS whole.
	leaf = 96
	// panelRows × panelCols of a product are made by one call. OpenBLAS's own threads are not used: they come from one pool
	// for the whole process, for which the small products of several attention heads queue up (ten times slower), and they
	// cut a sum at places that depend on their number.
	panelRows, panelCols = 256, 384
)

func init() {
	C.openblas_set_num_threads(1)
	blas32.Use(blasnetlib.Implementation{})
	blas64.Use(blasnetlib.Implementation{})
	lapack64.Use(lapacknetlib.Implementation{})
}

// kernels names the processors whose kernels OpenBLAS chose when it was loaded.
func kernels() string { return C.GoString(C.openblas_get_corename()) }

// syev is v ← the eigenvectors of its lower triangle, in columns, and w ← the values, by divide and conquer, most of whose work
// is Gemm: several times as fast as the QR method for large orders, for 2·n² numbers of memory. The interface of lapack64 has no
// such routine.
func (d *Device) syev(v matrix, w []float64) (ok bool) {
	n := v.rows
	var best [1]float64
	var bestInts [1]int32
	lapacke.Dsyevd('V', 'L', n, v.data, v.stride, w, best[:], -1, bestInts[:], -1)
	work, free := scratch[float64](d, max(int(best[0]), 1+6*n+2*n*n))
	defer free()
	ints := make([]int32, max(int(bestInts[0]), 3+5*n))
	return lapacke.Dsyevd('V', 'L', n, v.data, v.stride, w, work, len(work), ints, len(ints))
}
