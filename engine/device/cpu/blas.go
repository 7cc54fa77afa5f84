//go:build !openblas

package cpu

const (
	blasName = "gonum"
	// skipsZeros: gonum's Gemm leaves out products with a zero of its left operand, and so loses 0·NaN.
	skipsZeros = true
	// leaf is the order below which triangular matrices go to gonum's own routines, which use one core. Larger ones are
	// split in two, so that most of the work is Gemm.
	leaf = 64
)
