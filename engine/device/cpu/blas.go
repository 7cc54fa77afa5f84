//go:build !openblas

package cpu

import (
	"math"
	"runtime"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/lapack"
	"gonum.org/v1/gonum/lapack/lapack64"
)

const (
	blasName = "gonum"
	// skipsZeros: gonum's Gemm leaves out products with a zero of its left operand, and so loses 0·NaN.
	skipsZeros = true
	// leaf is the order below which triangular matrices go to gonum's own routines, which use one core. Larger ones are
	// split in two, so that most of the work is Gemm.
	leaf = 64
	// panelRows × panelCols of a product are made by one call. gonum's Gemm shares its work among the cores itself.
	panelRows, panelCols = math.MaxInt, math.MaxInt
)

// kernels names what gonum's kernels differ by.
func kernels() string { return runtime.GOARCH }

// syev is v ← the eigenvectors of its lower triangle, in columns, and w ← the values, by the QR method.
func (d *Device) syev(v matrix, w []float64) (ok bool) {
	sym := blas64.Symmetric{N: v.rows, Stride: v.stride, Data: v.data, Uplo: blas.Lower}
	var best [1]float64
	lapack64.Syev(lapack.EVCompute, sym, w, best[:], -1)
	size := max(int(best[0]), 3*v.rows-1)
	work, free := scratch[float64](d, size)
	defer free()
	return lapack64.Syev(lapack.EVCompute, sym, w, work, size)
}
