package cpu

import (
	"surgeon/engine/device"
	"surgeon/engine/internal/parallel"
)

// Embed is x_i ← table[ids_i] + β·x_i.
func (d *Device) Embed(table device.Tensor, ids []int32, beta float64, x device.Tensor) {
	device.CheckEmbed(table, ids, x)
	switch x.Type {
	case device.F32:
		embed(whole[float32](d, table), ids, float32(beta), whole[float32](d, x))
	case device.F64:
		embed(whole[float64](d, table), ids, beta, whole[float64](d, x))
	default: // not the whole table, which is large
		w := d.widen()
		picked := d.Alloc(x.Rows, x.Cols, device.BF16)
		d.Gather(table, ids, nil, picked)
		accumulate(elements[float32](d, w.in(picked)), float32(beta), elements[float32](d, w.sum(beta, x)))
		w.store()
		d.Free(picked)
	}
}

func embed[T float](table block[T], ids []int32, beta T, x block[T]) {
	parallel.For(x.rows, rowGrain(x.cols), func(_, i0, i1 int) {
		for i := i0; i < i1; i++ {
			accumulate(table.row(int(ids[i])), beta, x.row(i))
		}
	})
}

// Rope turns the pairs (x_j, x_{j+d/2}) of every head.
func (d *Device) Rope(cos, sin device.Tensor, inverse bool, x device.Tensor) {
	device.CheckRope(cos, sin, x)
	switch x.Type {
	case device.F32:
		rope(whole[float32](d, cos), whole[float32](d, sin), inverse, whole[float32](d, x))
	case device.F64:
		rope(whole[float64](d, cos), whole[float64](d, sin), inverse, whole[float64](d, x))
	default:
		w := d.widen()
		d.Rope(cos, sin, inverse, w.inOut(x))
		w.store()
	}
}

func rope[T float](cos, sin block[T], inverse bool, x block[T]) {
	half := cos.cols
	parallel.For(x.rows, rowGrain(x.cols), func(_, i0, i1 int) {
		for i := i0; i < i1; i++ {
			c, s, row := cos.row(i%cos.rows), sin.row(i%cos.rows), x.row(i)
			for h := 0; h < len(row); h += 2 * half {
				lo, hi := row[h:h+half], row[h+half:h+2*half]
				for j, a := range lo {
					b, sj := hi[j], s[j]
					if inverse {
						sj = -sj
					}
					lo[j], hi[j] = a*c[j]-b*sj, b*c[j]+a*sj
				}
			}
		}
	})
}
