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
