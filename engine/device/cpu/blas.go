//go:build !openblas

package cpu

import (
	"math"
	"runtime"
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
