package cpu

import (
	"math"

	"surgeon/engine/device"
	"surgeon/engine/internal/parallel"
)

// Axpy is y ← α·x + y.
func (d *Device) Axpy(alpha float64, x, y device.Tensor) {
	device.CheckAxpy(x, y)
	switch x.Type {
	case device.F32:
		axpy(float32(alpha), elements[float32](d, x), elements[float32](d, y))
	case device.F64:
		axpy(alpha, elements[float64](d, x), elements[float64](d, y))
	default:
		w := d.widen()
		d.Axpy(alpha, w.in(x), w.inOut(y))
		w.store()
	}
}

func axpy[T float](alpha T, x, y []T) {
	parallel.For(len(x), grainElements, func(_, i, j int) {
		to := y[i:j]
		for k, v := range x[i:j] {
			to[k] += alpha * v
		}
	})
}

// RowDot is d_i ← Σ_j x_ij·y_ij.
func (d *Device) RowDot(x, y, dot device.Tensor) {
	device.CheckRowDot(x, y, dot)
	switch x.Type {
	case device.F32:
		rowDot(whole[float32](d, x), whole[float32](d, y), elements[float32](d, dot))
	case device.F64:
		rowDot(whole[float64](d, x), whole[float64](d, y), elements[float64](d, dot))
	default:
		w := d.widen()
		d.RowDot(w.in(x), w.in(y), dot)
		w.store()
	}
}

func rowDot[T float](x, y block[T], dot []T) {
	parallel.For(x.rows, rowGrain(x.cols), func(_, i0, i1 int) {
		for i := i0; i < i1; i++ {
			dot[i] = T(sumProduct(x.row(i), y.row(i)))
		}
	})
}

// sumProduct is Σ x_i·y_i in float64, as four sums, so that one addition need not wait for the one before.
func sumProduct[T float](x, y []T) float64 {
	var s0, s1, s2, s3 float64
	i := 0
	for ; i+4 <= len(x); i += 4 {
		a, b := x[i:i+4:i+4], y[i:i+4:i+4]
		s0 += float64(a[0]) * float64(b[0])
		s1 += float64(a[1]) * float64(b[1])
		s2 += float64(a[2]) * float64(b[2])
		s3 += float64(a[3]) * float64(b[3])
	}
	for ; i < len(x); i++ {
		s0 += float64(x[i]) * float64(y[i])
	}
	return (s0 + s1) + (s2 + s3)
}

// ColDot is d_j ← Σ_i x_ij·y_ij.
func (d *Device) ColDot(x, y, dot device.Tensor) {
	device.CheckColDot(x, y, dot)
	switch x.Type {
	case device.F32:
		colDot(whole[float32](d, x), whole[float32](d, y), elements[float32](d, dot))
	case device.F64:
		colDot(whole[float64](d, x), whole[float64](d, y), elements[float64](d, dot))
	default:
		w := d.widen()
		d.ColDot(w.in(x), w.in(y), dot)
		w.store()
	}
}

// columnsPerPiece is how many columns one worker sums over all rows: their sums stay in the nearest cache.
const columnsPerPiece = 128

func colDot[T float](x, y block[T], dot []T) {
	parallel.For(x.cols, columnsPerPiece, func(_, j0, j1 int) {
		var sum [columnsPerPiece]float64
		for i := range x.rows {
			b := y.row(i)[j0:j1]
			for j, v := range x.row(i)[j0:j1] {
				sum[j] += float64(v) * float64(b[j])
			}
		}
		for j := j0; j < j1; j++ {
			dot[j] = T(sum[j-j0])
		}
	})
}

// ScaleRoot is y_i ← √max(sign·w_i, 0)·x_i.
func (d *Device) ScaleRoot(sign float64, w, x, y device.Tensor) {
	device.CheckScaleRoot(sign, w, x, y)
	switch x.Type {
	case device.F32:
		scaleRoot(float32(sign), elements[float32](d, w), whole[float32](d, x), whole[float32](d, y))
	case device.F64:
		scaleRoot(sign, elements[float64](d, w), whole[float64](d, x), whole[float64](d, y))
	default:
		wide := d.widen()
		d.ScaleRoot(sign, w, wide.in(x), wide.out(y))
		wide.store()
	}
}

func scaleRoot[T float](sign T, w []T, x, y block[T]) {
	parallel.For(x.rows, rowGrain(x.cols), func(_, i0, i1 int) {
		for i := i0; i < i1; i++ {
			root := T(0)
			if v := sign * w[i]; v > 0 || v != v {
				root = T(math.Sqrt(float64(v)))
			}
			to := y.row(i)
			for j, v := range x.row(i) {
				to[j] = root * v
			}
		}
	})
}

// Square is y_ij ← x_ij².
func (d *Device) Square(x, y device.Tensor) {
	device.CheckSquare(x, y)
	switch x.Type {
	case device.F32:
		square(elements[float32](d, x), elements[float32](d, y))
	case device.F64:
		square(elements[float64](d, x), elements[float64](d, y))
	default:
		w := d.widen()
		d.Square(w.in(x), w.out(y))
		w.store()
	}
}

func square[T float](x, y []T) {
	parallel.For(len(x), grainElements, func(_, i, j int) {
		to := y[i:j]
		for k, v := range x[i:j] {
			to[k] = v * v
		}
	})
}

// MaxAbs is r_i ← max_j |x_ij| and c_j ← max_i |x_ij|.
func (d *Device) MaxAbs(x, r, c device.Tensor) {
	device.CheckMaxAbs(x, r, c)
	switch x.Type {
	case device.F32:
		maxAbs(whole[float32](d, x), elements[float32](d, r), elements[float32](d, c))
	case device.F64:
		maxAbs(whole[float64](d, x), elements[float64](d, r), elements[float64](d, c))
	default:
		w := d.widen()
		d.MaxAbs(w.in(x), w.out(r), w.out(c))
		w.store()
	}
}

// maxAbs reads x once: each worker keeps the largest of the rows it saw for every column.
func maxAbs[T float](x block[T], r, c []T) {
	seen := make([][]T, parallel.Workers())
	parallel.For(x.rows, rowGrain(x.cols), func(worker, i0, i1 int) {
		if seen[worker] == nil {
			seen[worker] = make([]T, x.cols)
		}
		columns := seen[worker]
		for i := i0; i < i1; i++ {
			var m T
			for j, v := range x.row(i) {
				a := T(math.Abs(float64(v)))
				m, columns[j] = max(m, a), max(columns[j], a) // NaN where one of them is
			}
			r[i] = m
		}
	})
	clear(c)
	for _, columns := range seen {
		for j, v := range columns {
			c[j] = max(c[j], v)
		}
	}
}

// AddDiagonal is a ← a + λ·I.
func (d *Device) AddDiagonal(lambda float64, a device.Tensor) {
	device.CheckAddDiagonal(a)
	switch a.Type {
	case device.F32:
		addDiagonal(lambda, whole[float32](d, a))
	case device.F64:
		addDiagonal(lambda, whole[float64](d, a))
	default:
		w := d.widen()
		d.AddDiagonal(lambda, w.inOut(a))
		w.store()
	}
}

func addDiagonal[T float](lambda float64, a block[T]) {
	for i := range a.rows {
		a.data[i*a.stride+i] += T(lambda)
	}
}

// Diagonal is dst_i ← s_ii.
func (d *Device) Diagonal(s device.Sym, dst []float64) {
	device.CheckDiagonal(s, dst)
	switch s.Packed.Type {
	case device.F32:
		diagonal(elements[float32](d, s.Packed), dst)
	default:
		diagonal(elements[float64](d, s.Packed), dst)
	}
}

func diagonal[T float](packed []T, dst []float64) {
	for i := range dst {
		dst[i] = float64(packed[device.PackedLen(i)+i])
	}
}

// watch is what WatchFinite remembers.
type watch struct {
	tag   int
	found bool
}

// WatchFinite remembers tag if the diagonal of s is not finite.
func (d *Device) WatchFinite(tag int, s device.Sym) {
	device.CheckWatchFinite(s)
	diag, free := scratch[float64](d, s.N)
	defer free()
	d.Diagonal(s, diag)
	for _, v := range diag {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			if !d.watch.found || tag < d.watch.tag {
				d.watch = watch{tag, true}
			}
			return
		}
	}
}

// FirstNonFinite is the smallest tag remembered since it was asked last.
func (d *Device) FirstNonFinite() (tag int, found bool) {
	w := d.watch
	d.watch = watch{}
	return w.tag, w.found
}
