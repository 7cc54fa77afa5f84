package cpu

import (
	"math"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"
	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/lapack/lapack64"

	"surgeon/engine/device"
	"surgeon/engine/internal/parallel"
)

// Everything here splits a triangular matrix in two,
//
//	l = ⎡l₁₁     ⎤    of orders n₁ and n−n₁,
//	    ⎣l₂₁  l₂₂⎦
//
// until the halves are leaves for gonum. Nearly all of the work is then in products with l₂₁, which Gemm does on all cores.

type matrix = block[float64]

// split is where a triangular matrix of order n is cut: near the middle, at a multiple of the leaf.
func split(n int) int { return (n/2 + leaf - 1) / leaf * leaf }

// halves are l₁₁, l₂₁ and l₂₂.
func halves(l matrix) (l11, l21, l22 matrix) {
	n1, n := split(l.rows), l.rows
	return l.part(0, n1, 0, n1), l.part(n1, n, 0, n1), l.part(n1, n, n1, n)
}

// Cholesky is a = l·lᵀ in place. Several matrices are factored side by side: up to orders of some hundred the products of one
// alone are too small to share. Where fewer matrices than cores are left their products are shared all the same.
func (d *Device) Cholesky(as ...device.Tensor) []bool {
	device.CheckCholesky(as)
	ok := make([]bool, len(as))
	parallel.For(len(as), 1, func(_, i, _ int) {
		m := whole[float64](d, as[i])
		ok[i] = cholesky(m) && finiteDiagonal(m)
	})
	return ok
}

// finiteDiagonal sees a NaN or infinity anywhere in the matrix that l was made from: l_ii² = a_ii − Σ_j l_ij². OpenBLAS
// takes a NaN for a good pivot.
func finiteDiagonal(l matrix) bool {
	for i := range l.rows {
		if v := l.data[i*l.stride+i]; math.IsNaN(v) || math.IsInf(v, 0) {
			return false
		}
	}
	return true
}

func cholesky(a matrix) (ok bool) {
	if a.rows == 0 {
		return true
	}
	if a.rows <= leaf {
		_, ok = lapack64.Potrf(blas64.Symmetric{N: a.rows, Stride: a.stride, Data: a.data, Uplo: blas.Lower})
		return ok
	}
	a11, a21, a22 := halves(a)
	if !cholesky(a11) {
		return false
	}
	solveRight(true, a11, a21)
	subtractSquare(a21, a22)
	return cholesky(a22)
}

// subtractSquare is the lower triangle of c ← c − a·aᵀ.
func subtractSquare(a, c matrix) {
	if c.rows <= leaf {
		blas64.Syrk(blas.NoTrans, -1, general64(a), 1, blas64.Symmetric{N: c.rows, Stride: c.stride, Data: c.data, Uplo: blas.Lower})
		return
	}
	n1 := split(c.rows)
	c11, c21, c22 := halves(c)
	a1, a2 := a.part(0, n1, 0, a.cols), a.part(n1, a.rows, 0, a.cols)
	subtractSquare(a1, c11)
	product(false, true, -1, a2, a1, 1, c21)
	subtractSquare(a2, c22)
}

// CholeskySolve is b ← (l·lᵀ)⁻¹·b or b ← b·(l·lᵀ)⁻¹, for several pairs side by side.
func (d *Device) CholeskySolve(side device.Side, ls, bs []device.Tensor) {
	device.CheckCholeskySolve(side, ls, bs)
	parallel.For(len(ls), 1, func(_, i, _ int) {
		if ls[i].Type == device.F32 {
			l, b := whole[float32](d, ls[i]), elements[float32](d, bs[i])
			x, triangle := blas32.Vector{N: l.rows, Inc: 1, Data: b}, blas32.Triangular{N: l.rows, Stride: l.stride, Data: l.data, Uplo: blas.Lower, Diag: blas.NonUnit}
			if l.rows > 0 {
				blas32.Trsv(blas.NoTrans, triangle, x)
				blas32.Trsv(blas.Trans, triangle, x)
			}
			return
		}
		l, b := whole[float64](d, ls[i]), whole[float64](d, bs[i])
		switch {
		case l.rows == 0:
		case len(b.data) == l.rows: // one right side, a row or a column: what counts is how fast l comes from memory
			x := blas64.Vector{N: l.rows, Inc: 1, Data: b.data}
			blas64.Trsv(blas.NoTrans, triangular64(l), x)
			blas64.Trsv(blas.Trans, triangular64(l), x)
		case side == device.Left:
			solveLeft(false, l, b)
			solveLeft(true, l, b)
		default:
			solveRight(true, l, b)
			solveRight(false, l, b)
		}
	})
}

func triangular64(l matrix) blas64.Triangular {
	return blas64.Triangular{N: l.rows, Stride: l.stride, Data: l.data, Uplo: blas.Lower, Diag: blas.NonUnit}
}

// solveLeft is b ← l⁻¹·b, or l⁻ᵀ·b.
func solveLeft(trans bool, l, b matrix) {
	if b.rows == 0 || b.cols == 0 {
		return
	}
	n1, n := split(l.rows), l.rows
	if n <= leaf {
		leafSolve(blas.Left, trans, l, b)
		return
	}
	l11, l21, l22 := halves(l)
	b1, b2 := b.part(0, n1, 0, b.cols), b.part(n1, n, 0, b.cols)
	if trans {
		solveLeft(true, l22, b2)
		product(true, false, -1, l21, b2, 1, b1)
		solveLeft(true, l11, b1)
	} else {
		solveLeft(false, l11, b1)
		product(false, false, -1, l21, b1, 1, b2)
		solveLeft(false, l22, b2)
	}
}

// solveRight is b ← b·l⁻¹, or b·l⁻ᵀ.
func solveRight(trans bool, l, b matrix) {
	if b.rows == 0 || b.cols == 0 {
		return
	}
	n1, n := split(l.rows), l.rows
	if n <= leaf {
		leafSolve(blas.Right, trans, l, b)
		return
	}
	l11, l21, l22 := halves(l)
	b1, b2 := b.part(0, b.rows, 0, n1), b.part(0, b.rows, n1, n)
	if trans {
		solveRight(true, l11, b1)
		product(false, true, -1, b1, l21, 1, b2)
		solveRight(true, l22, b2)
	} else {
		solveRight(false, l22, b2)
		product(false, false, -1, b2, l21, 1, b1)
		solveRight(false, l11, b1)
	}
}

// solvePiece is how many right sides one worker solves for at a time.
const solvePiece = 64

// leafSolve gives each worker some of the right sides: Trsm uses one core.
func leafSolve(side blas.Side, trans bool, l, b matrix) {
	t := blas.NoTrans
	if trans {
		t = blas.Trans
	}
	tri := triangular64(l)
	n := b.cols
	if side == blas.Right {
		n = b.rows
	}
	parallel.For(n, solvePiece, func(_, i, j int) {
		if side == blas.Right {
			blas64.Trsm(side, t, 1, tri, general64(b.part(i, j, 0, b.cols)))
		} else {
			blas64.Trsm(side, t, 1, tri, general64(b.part(0, b.rows, i, j)))
		}
	})
}

// inverseColumns is how many columns of an inverse are made at a time.
const inverseColumns = 256

// CholeskyInverseDiag is d_i ← [(l·lᵀ)⁻¹]_ii = Σ_k [l⁻¹]_ki². The columns j0 to j1−1 of l⁻¹ are zero above row j0; from
// there on they solve l[j0:, j0:]·x = e, so n³/3 FLOP in all, and never more than n×256 elements of scratch memory.
func (d *Device) CholeskyInverseDiag(ls, ds []device.Tensor) {
	device.CheckCholeskyInverseDiag(ls, ds)
	for i := range ls {
		l, diag := whole[float64](d, ls[i]), elements[float64](d, ds[i])
		n := l.rows
		buf, free := scratch[float64](d, n*min(n, inverseColumns))
		for j0 := 0; j0 < n; j0 += inverseColumns {
			j1 := min(n, j0+inverseColumns)
			x := matrix{n - j0, j1 - j0, j1 - j0, buf[:(n-j0)*(j1-j0)]}
			clear(x.data)
			for j := range x.cols {
				x.data[j*x.stride+j] = 1
			}
			solveLeft(false, l.part(j0, n, j0, n), x)
			colDot(x, x, diag[j0:j1])
		}
		free()
	}
}
