package cpu

import (
	"surgeon/engine/device"
	"surgeon/engine/internal/parallel"
)

// Gather is y_ij ← x[rows_i, cols_j].
func (d *Device) Gather(x device.Tensor, rows, cols []int32, y device.Tensor) {
	device.CheckGather(x, rows, cols, y)
	switch x.Type {
	case device.F32:
		gather(elements[float32](d, x), x.Cols, rows, cols, elements[float32](d, y), y.Rows, y.Cols)
	case device.F64:
		gather(elements[float64](d, x), x.Cols, rows, cols, elements[float64](d, y), y.Rows, y.Cols)
	default:
		gather(elements[uint16](d, x), x.Cols, rows, cols, elements[uint16](d, y), y.Rows, y.Cols)
	}
}

func gather[E any](x []E, xCols int, rows, cols []int32, y []E, m, n int) {
	parallel.For(m, rowGrain(n), func(_, i0, i1 int) {
		for i := i0; i < i1; i++ {
			from, to := x[at(rows, i)*xCols:][:xCols], y[i*n:(i+1)*n]
			if cols == nil {
				copy(to, from)
				continue
			}
			for j, c := range cols {
				to[j] = from[c]
			}
		}
	})
}

// at is the i-th index of a list; nil stands for all indices.
func at(list []int32, i int) int {
	if list == nil {
		return i
	}
	return int(list[i])
}

// Scatter is y[rows_i, cols_j] ← x_ij.
func (d *Device) Scatter(x device.Tensor, rows, cols []int32, y device.Tensor) {
	device.CheckScatter(x, rows, cols, y)
	switch x.Type {
	case device.F32:
		scatter(elements[float32](d, x), x.Rows, x.Cols, rows, cols, elements[float32](d, y), y.Cols)
	case device.F64:
		scatter(elements[float64](d, x), x.Rows, x.Cols, rows, cols, elements[float64](d, y), y.Cols)
	default:
		scatter(elements[uint16](d, x), x.Rows, x.Cols, rows, cols, elements[uint16](d, y), y.Cols)
	}
}

func scatter[E any](x []E, m, n int, rows, cols []int32, y []E, yCols int) {
	parallel.For(m, rowGrain(n), func(_, i0, i1 int) {
		for i := i0; i < i1; i++ {
			from, to := x[i*n:(i+1)*n], y[at(rows, i)*yCols:][:yCols]
			if cols == nil {
				copy(to, from)
				continue
			}
			for j, c := range cols {
				to[c] = from[j]
			}
		}
	})
}

// Extract is y_ij ← s[rows_i, cols_j].
func (d *Device) Extract(s device.Sym, rows, cols []int32, y device.Tensor) {
	device.CheckExtract(s, rows, cols, y)
	switch {
	case s.Packed.Type == device.F64:
		extract(elements[float64](d, s.Packed), rows, cols, whole[float64](d, y))
	case y.Type == device.F64:
		extract(elements[float32](d, s.Packed), rows, cols, whole[float64](d, y))
	default:
		extract(elements[float32](d, s.Packed), rows, cols, whole[float32](d, y))
	}
}

// extract is by tiles, as what lies above the diagonal is read down a column of the triangle: the cache lines that one row
// of the tile reads serve the next rows too.
func extract[S, T float](packed []S, rows, cols []int32, y block[T]) {
	const tile = 64
	parallel.For(y.rows, tile, func(_, i0, i1 int) {
		for j0 := 0; j0 < y.cols; j0 += tile {
			j1 := min(y.cols, j0+tile)
			for i := i0; i < i1; i++ {
				r, to := at(rows, i), y.row(i)[j0:j1]
				row := packed[device.PackedLen(r):][:r+1]
				if cols != nil {
					for j, c := range cols[j0:j1] {
						if c := int(c); c <= r {
							to[j] = T(row[c])
						} else {
							to[j] = T(packed[device.PackedLen(c)+r])
						}
					}
					continue
				}
				below := min(max(r+1-j0, 0), len(to)) // of the triangle, and the diagonal
				for j := range below {
					to[j] = T(row[j0+j])
				}
				p := device.PackedLen(j0+below) + r
				for j := below; j < len(to); j++ {
					to[j] = T(packed[p])
					p += j0 + j + 1 // a row of the triangle further
				}
			}
		}
	})
}
