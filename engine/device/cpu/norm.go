package cpu

import (
	"math"

	"surgeon/engine/device"
	"surgeon/engine/internal/parallel"
)

// The norms: with n the width, g the gain and, in LayerNorm only, m the mean and b the bias,
//
//	z = (x − m)·s,  s = 1/√(Σ(x−m)²/n + eps),  y = g∘z + b,
//	dx = s·(u − mean(u) − z·mean(u∘z)),  u = g∘dy   (RMSNorm without mean(u)).
//
// Sums are kept in float64, elements in T.

// RMSNorm is y_i ← gain ∘ x_i / √(mean(x_i²) + eps).
func (d *Device) RMSNorm(x, gain device.Tensor, eps float64, y device.Tensor) {
	device.CheckRMSNorm(x, gain, y)
	switch x.Type {
	case device.F32:
		norm(whole[float32](d, x), elements[float32](d, gain), nil, eps, whole[float32](d, y))
	case device.F64:
		norm(whole[float64](d, x), elements[float64](d, gain), nil, eps, whole[float64](d, y))
	default:
		w := d.widen()
		d.RMSNorm(w.in(x), w.in(gain), eps, w.out(y))
		w.store()
	}
}

// LayerNorm is y_i ← gain ∘ (x_i − mean(x_i)) / √(var(x_i) + eps) + bias.
func (d *Device) LayerNorm(x, gain, bias device.Tensor, eps float64, y device.Tensor) {
	device.CheckLayerNorm(x, gain, bias, y)
	switch x.Type {
	case device.F32:
		norm(whole[float32](d, x), elements[float32](d, gain), elements[float32](d, bias), eps, whole[float32](d, y))
	case device.F64:
		norm(whole[float64](d, x), elements[float64](d, gain), elements[float64](d, bias), eps, whole[float64](d, y))
	default:
		w := d.widen()
		d.LayerNorm(w.in(x), w.in(gain), w.in(bias), eps, w.out(y))
		w.store()
	}
}

// norm is LayerNorm, or RMSNorm where there is no bias.
func norm[T float](x block[T], gain, bias []T, eps float64, y block[T]) {
	parallel.For(x.rows, rowGrain(x.cols), func(_, i0, i1 int) {
		for i := i0; i < i1; i++ {
			from, to := x.row(i), y.row(i)
			mean, s := moments(from, bias != nil, eps)
			if bias == nil {
				for j, v := range from {
					to[j] = gain[j] * T(float64(v)*s)
				}
				continue
			}
			for j, v := range from {
				to[j] = gain[j]*T((float64(v)-mean)*s) + bias[j]
			}
		}
	})
}

// moments are the m and s of a row.
func moments[T float](x []T, centred bool, eps float64) (mean, s float64) {
	n := float64(len(x))
	if !centred {
		return 0, 1 / math.Sqrt(sumProduct(x, x)/n+eps)
	}
	for _, v := range x {
		mean += float64(v)
	}
	mean /= n
	variance := 0.
	for _, v := range x {
		c := float64(v) - mean
		variance += c * c
	}
	return mean, 1 / math.Sqrt(variance/n+eps)
}

// RMSNormBackward is dx ← Jᵀ·dy + β·dx.
func (d *Device) RMSNormBackward(x, gain device.Tensor, eps float64, dy device.Tensor, beta float64, dx device.Tensor) {
	device.CheckRMSNormBackward(x, gain, dy, dx)
	d.normBackward(false, x, gain, eps, dy, beta, dx)
}

// LayerNormBackward is dx ← Jᵀ·dy + β·dx.
func (d *Device) LayerNormBackward(x, gain device.Tensor, eps float64, dy device.Tensor, beta float64, dx device.Tensor) {
	device.CheckLayerNormBackward(x, gain, dy, dx)
	d.normBackward(true, x, gain, eps, dy, beta, dx)
}

func (d *Device) normBackward(centred bool, x, gain device.Tensor, eps float64, dy device.Tensor, beta float64, dx device.Tensor) {
	switch x.Type {
	case device.F32:
		normBackward(centred, whole[float32](d, x), elements[float32](d, gain), eps, whole[float32](d, dy), float32(beta), whole[float32](d, dx))
	case device.F64:
		normBackward(centred, whole[float64](d, x), elements[float64](d, gain), eps, whole[float64](d, dy), beta, whole[float64](d, dx))
	default:
		w := d.widen()
		d.normBackward(centred, w.in(x), w.in(gain), eps, w.in(dy), beta, w.sum(beta, dx))
		w.store()
	}
}

func normBackward[T float](centred bool, x block[T], gain []T, eps float64, dy block[T], beta T, dx block[T]) {
	n := float64(x.cols)
	parallel.For(x.rows, rowGrain(x.cols), func(_, i0, i1 int) {
		for i := i0; i < i1; i++ {
			from, grad, to := x.row(i), dy.row(i), dx.row(i)
			mean, s := moments(from, centred, eps)
			var meanU, meanUZ float64
			for j, v := range from {
				u := float64(gain[j]) * float64(grad[j])
				meanU += u
				meanUZ += u * (float64(v) - mean)
			}
			meanU, meanUZ = meanU/n, meanUZ*s/n
			if !centred {
				meanU = 0
			}
			for j, v := range from {
				u, z := float64(gain[j])*float64(grad[j]), (float64(v)-mean)*s
				g := T(s * (u - meanU - z*meanUZ))
				if beta != 0 {
					g += beta * to[j]
				}
				to[j] = g
			}
		}
	})
}
