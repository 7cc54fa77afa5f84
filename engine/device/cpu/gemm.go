package cpu

import (
	"unsafe"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"
	"gonum.org/v1/gonum/blas/blas64"

	"surgeon/engine/device"
	"surgeon/engine/internal/parallel"
)

// block is a part of a matrix: rows×cols elements, the rows stride elements apart.
type block[T float] struct {
	rows, cols, stride int
	data               []T
}

// whole is all of t.
func whole[T float](d *Device, t device.Tensor) block[T] {
	return block[T]{t.Rows, t.Cols, t.Cols, elements[T](d, t)}
}

// part is rows i0 to i1−1 and columns j0 to j1−1.
func (b block[T]) part(i0, i1, j0, j1 int) block[T] {
	p := block[T]{i1 - i0, j1 - j0, b.stride, nil}
	if p.rows > 0 && p.cols > 0 {
		p.data = b.data[i0*b.stride+j0 : (i1-1)*b.stride+j1]
	}
	return p
}

func (b block[T]) row(i int) []T { return b.data[i*b.stride : i*b.stride+b.cols] }

// Gemm is c ← α·op(a)·op(b) + β·c.
func (d *Device) Gemm(transA, transB bool, alpha float64, a, b device.Tensor, beta float64, c device.Tensor) {
	device.CheckGemm(transA, transB, a, b, c)
	switch a.Type {
	case device.F32:
		product(transA, transB, float32(alpha), whole[float32](d, a), whole[float32](d, b), float32(beta), whole[float32](d, c))
	case device.F64:
		product(transA, transB, alpha, whole[float64](d, a), whole[float64](d, b), beta, whole[float64](d, c))
	default:
		w := d.widen()
		d.Gemm(transA, transB, alpha, w.in(a), w.in(b), beta, w.sum(beta, c))
		w.store()
	}
}

// Linear is y ← x·wᵀ + b + β·y.
func (d *Device) Linear(x, w, b device.Tensor, beta float64, y device.Tensor) {
	device.CheckLinear(x, w, b, y)
	switch x.Type {
	case device.F32:
		linear(whole[float32](d, x), whole[float32](d, w), elements[float32](d, b), float32(beta), whole[float32](d, y))
	case device.F64:
		linear(whole[float64](d, x), whole[float64](d, w), elements[float64](d, b), beta, whole[float64](d, y))
	default:
		wide := d.widen()
		d.Linear(wide.in(x), wide.in(w), wide.in(b), beta, wide.sum(beta, y))
		wide.store()
	}
}

// linear puts b + β·y into y before the product, which is added to it.
func linear[T float](x, w block[T], b []T, beta T, y block[T]) {
	parallel.For(y.rows, rowGrain(y.cols), func(_, i0, i1 int) {
		for i := i0; i < i1; i++ {
			accumulate(b, beta, y.row(i))
		}
	})
	product(false, true, 1, x, w, 1, y)
}

// product is c ← α·op(a)·op(b) + β·c on all cores, c being cut into panels.
func product[T float](transA, transB bool, alpha T, a, b block[T], beta T, c block[T]) {
	if c.rows <= panelRows && c.cols <= panelCols || c.rows == 0 || c.cols == 0 {
		gemm(transA, transB, alpha, a, b, beta, c)
		return
	}
	rows, cols := even(c.rows, panelRows), even(c.cols, panelCols)
	across := 1 + (c.cols-1)/cols
	parallel.For((1+(c.rows-1)/rows)*across, 1, func(_, p, _ int) {
		i0, j0 := p/across*rows, p%across*cols
		i1, j1 := min(c.rows, i0+rows), min(c.cols, j0+cols)
		gemm(transA, transB, alpha, a.outputs(!transA, i0, i1), b.outputs(transB, j0, j1), beta, c.part(i0, i1, j0, j1))
	})
}

// even is how long pieces of n are that are about alike and at most `most` long.
func even(n, most int) int {
	const step = 16 // what the kernels of BLAS take at one time, or a multiple of it
	pieces := 1 + (n-1)/most
	return min(most, (n+pieces*step-1)/(pieces*step)*step)
}

// outputs is the part of an operand that makes rows, or columns, i to j−1 of a product: some of its rows or of its columns.
func (b block[T]) outputs(rows bool, i, j int) block[T] {
	if rows {
		return b.part(i, j, 0, b.cols)
	}
	return b.part(0, b.rows, i, j)
}

// gemm is c ← α·op(a)·op(b) + β·c by one call.
func gemm[T float](transA, transB bool, alpha T, a, b block[T], beta T, c block[T]) {
	if c.rows == 0 || c.cols == 0 {
		return
	}
	k := a.cols
	if transA {
		k = a.rows
	}
	if k == 0 || alpha == 0 { // gonum multiplies by α
		scale(beta, c)
		return
	}
	tA, tB := blas.NoTrans, blas.NoTrans
	if transA {
		tA = blas.Trans
	}
	if transB {
		tB = blas.Trans
	}
	if unsafe.Sizeof(alpha) == 4 {
		blas32.Gemm(tA, tB, float32(alpha), general32(a), general32(b), float32(beta), general32(c))
	} else {
		blas64.Gemm(tA, tB, float64(alpha), general64(a), general64(b), float64(beta), general64(c))
	}
	if skipsZeros && (transA || !transB) {
		restoreNaN(transA, transB, alpha, a, b, c)
	}
}

// general32 is a block[float32], under the name that the compiler knows it by in generic code.
func general32[T float](b block[T]) blas32.General {
	f := *(*block[float32])(unsafe.Pointer(&b))
	return blas32.General{Rows: f.rows, Cols: f.cols, Stride: f.stride, Data: f.data}
}

func general64[T float](b block[T]) blas64.General {
	f := *(*block[float64])(unsafe.Pointer(&b))
	return blas64.General{Rows: f.rows, Cols: f.cols, Stride: f.stride, Data: f.data}
}

// scale is c ← β·c, not reading c where β is 0.
func scale[T float](beta T, c block[T]) {
	for i := range c.rows {
		row := c.row(i)
		if beta == 0 {
			clear(row)
			continue
		}
		for j := range row {
			row[j] *= beta
		}
	}
}

// restoreNaN adds to c the products 0·b for the b that are not finite.
func restoreNaN[T float](transA, transB bool, alpha T, a, b, c block[T]) {
	for k := range b.rows {
		row := b.row(k)
		if allFinite(row) {
			continue
		}
		for j, v := range row {
			if v-v == 0 {
				continue
			}
			l, col := k, j // the element of op(b)
			if transB {
				l, col = j, k
			}
			for i := range c.rows {
				p := i*a.stride + l
				if transA {
					p = l*a.stride + i
				}
				if alpha*a.data[p] == 0 {
					c.data[i*c.stride+col] += 0 * v
				}
			}
		}
	}
}

// allFinite says whether x holds neither NaN nor an infinity. x − x is 0 for every finite x, and NaN for others.
func allFinite[T float](x []T) bool {
	var s0, s1, s2, s3 T
	i := 0
	for ; i+4 <= len(x); i += 4 {
		v := x[i : i+4 : i+4]
		s0 += v[0] - v[0]
		s1 += v[1] - v[1]
		s2 += v[2] - v[2]
		s3 += v[3] - v[3]
	}
	for ; i < len(x); i++ {
		s0 += x[i] - x[i]
	}
	return s0+s1+s2+s3 == 0
}

// gramTile is the side of the pieces that the triangle is made of. Smaller ones would balance better between cores, larger
// ones let Gemm pack less for each product.
const gramTile = 192

// Gram is s_k ← α·x_kᵀx_k + β·s_k for each pair, one after the other.
func (d *Device) Gram(alpha float64, xs []device.Tensor, beta float64, ss []device.Sym) {
	device.CheckGram(xs, ss)
	for k, x := range xs {
		switch x.Type {
		case device.F32:
			gram[float32](d, alpha, x, beta, ss[k])
		case device.F64:
			gram[float64](d, alpha, x, beta, ss[k])
		default:
			w := d.widen()
			gram[float32](d, alpha, w.in(x), beta, ss[k])
			w.store()
		}
	}
}

// GramScratch is nothing: sums are made in place.
func (*Device) GramScratch(device.Type, int, []int, bool) int64 { return 0 }

// gram is s ← α·xᵀx + β·s. It makes the triangle tile by tile. Tiles on the diagonal are made by Syrk, which leaves out what is above it, the
// others by Gemm, each by one core:
//
//	      0      192    384
//	  0   ◣
//	      ████◣
//	192   ███████◣             tile (i, j) ← α · x[:, i]ᵀ · x[:, j], added to the packed rows of s
//	      ██████████◣
//	384   █████████████◣
func gram[T float](d *Device, alpha float64, x device.Tensor, beta float64, s device.Sym) {
	xs, packed := whole[T](d, x), elements[T](d, s.Packed)
	n := x.Cols
	side := (n + gramTile - 1) / gramTile
	buf, free := scratch[T](d, max(n, parallel.Workers()*gramTile*gramTile))
	defer free()
	parallel.For(device.PackedLen(side), 1, func(worker, task, _ int) {
		i0, j0 := gramTileAt(side, task)
		i1, j1 := min(n, i0+gramTile), min(n, j0+gramTile)
		tile := block[T]{i1 - i0, j1 - j0, j1 - j0, buf[worker*gramTile*gramTile:][:(i1-i0)*(j1-j0)]}
		if i0 == j0 {
			syrk(T(alpha), xs.part(0, x.Rows, i0, i1), tile)
		} else {
			gemm(true, false, T(alpha), xs.part(0, x.Rows, i0, i1), xs.part(0, x.Rows, j0, j1), 0, tile)
		}
		for i := i0; i < i1; i++ {
			end := min(j1, i+1)
			accumulate(tile.row(i - i0)[:end-j0], T(beta), packed[device.PackedLen(i)+j0:device.PackedLen(i)+end])
		}
	})
	if s.N == n { // no constant 1
		return
	}
	last := buf[:0]
	if n > 0 {
		last = buf[:n]
	}
	columnSums(xs, last)
	for j := range last {
		last[j] *= T(alpha)
	}
	row := packed[device.PackedLen(n):]
	accumulate(last, T(beta), row[:n])
	accumulate([]T{T(alpha * float64(x.Rows))}, T(beta), row[n:])
}

// gramTileAt is where a tile begins. Those below the diagonal come first: they take twice as long as those on it, and the
// last ones are what a core may be left alone with.
func gramTileAt(side, task int) (i0, j0 int) {
	if below := side * (side - 1) / 2; task >= below {
		return (task - below) * gramTile, (task - below) * gramTile
	}
	i := 1
	for task >= i {
		task -= i
		i++
	}
	return i * gramTile, task * gramTile
}

// syrk is the lower triangle of c ← α·aᵀ·a, by one call.
func syrk[T float](alpha T, a, c block[T]) {
	if c.rows == 0 {
		return
	}
	scale(0, c) // gonum multiplies the old content by 0, which leaves a NaN
	if a.rows == 0 {
		return
	}
	if unsafe.Sizeof(alpha) == 4 {
		g := general32(c)
		blas32.Syrk(blas.Trans, float32(alpha), general32(a), 0, blas32.Symmetric{N: g.Rows, Stride: g.Stride, Data: g.Data, Uplo: blas.Lower})
	} else {
		g := general64(c)
		blas64.Syrk(blas.Trans, float64(alpha), general64(a), 0, blas64.Symmetric{N: g.Rows, Stride: g.Stride, Data: g.Data, Uplo: blas.Lower})
	}
	if skipsZeros && alpha != 0 {
		restoreNaN(true, false, alpha, a, a, c)
	}
}

// accumulate is y ← x + β·y, not reading y where β is 0.
func accumulate[T float](x []T, beta T, y []T) {
	if beta == 0 {
		copy(y, x)
		return
	}
	for j, v := range x {
		y[j] = v + beta*y[j]
	}
}

// columnSums is s_j ← Σ_i x_ij.
func columnSums[T float](x block[T], s []T) {
	const columns = 64
	parallel.For(x.cols, columns, func(_, j0, j1 int) {
		var sum [columns]float64
		for i := range x.rows {
			for j, v := range x.row(i)[j0:j1] {
				sum[j] += float64(v)
			}
		}
		for j := j0; j < j1; j++ {
			s[j] = T(sum[j-j0])
		}
	})
}
