//go:build openblas

package cpu

import (
	"math"

	"gonum.org/v1/gonum/blas/blas32"
	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/lapack/lapack64"
	blasnetlib "gonum.org/v1/netlib/blas/netlib"
	lapacknetlib "gonum.org/v1/netlib/lapack/netlib"
)

const (
	blasName   = "OpenBLAS"
	skipsZeros = false
	// leaf: OpenBLAS's triangular routines are as good as its Gemm, so nothing is split.
	leaf = math.MaxInt
)

func init() {
	blas32.Use(blasnetlib.Implementation{})
	blas64.Use(blasnetlib.Implementation{})
	lapack64.Use(lapacknetlib.Implementation{})
}
