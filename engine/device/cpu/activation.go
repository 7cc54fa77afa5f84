package cpu

import (
	"surgeon/engine/device"
	"surgeon/engine/internal/parallel"
)

// SwiGLU is y ← silu(gate) ∘ up.
func (d *Device) SwiGLU(gate, up, y device.Tensor) {
	device.CheckSwiGLU(gate, up, y)
	switch gate.Type {
	case device.F32:
		swiGLU(elements[float32](d, gate), elements[float32](d, up), elements[float32](d, y))
	case device.F64:
		swiGLU(elements[float64](d, gate), elements[float64](d, up), elements[float64](d, y))
	default:
		w := d.widen()
		d.SwiGLU(w.in(gate), w.in(up), w.out(y))
		w.store()
	}
}

func swiGLU[T float](gate, up, y []T) {
	parallel.For(len(y), grainElements, func(_, i, j int) {
		for k := i; k < j; k++ {
			y[k] = gate[k] / (1 + exp(-gate[k])) * up[k]
		}
	})
}

// SwiGLUBackward is dup ← dy ∘ silu(gate) and dgate ← dy ∘ up ∘ silu′(gate), silu′(z) = σ(z)·(1 + z·(1 − σ(z))).
func (d *Device) SwiGLUBackward(gate, up, dy, dgate, dup device.Tensor) {
	device.CheckSwiGLUBackward(gate, up, dy, dgate, dup)
	switch gate.Type {
	case device.F32:
		swiGLUBackward(elements[float32](d, gate), elements[float32](d, up), elements[float32](d, dy),
			elements[float32](d, dgate), elements[float32](d, dup))
	case device.F64:
		swiGLUBackward(elements[float64](d, gate), elements[float64](d, up), elements[float64](d, dy),
			elements[float64](d, dgate), elements[float64](d, dup))
	default:
		w := d.widen()
		d.SwiGLUBackward(w.in(gate), w.in(up), w.in(dy), w.out(dgate), w.out(dup))
		w.store()
	}
}

func swiGLUBackward[T float](gate, up, dy, dgate, dup []T) {
	parallel.For(len(dy), grainElements, func(_, i, j int) {
		for k := i; k < j; k++ {
			z, u, g := gate[k], up[k], dy[k]
			sigma := 1 / (1 + exp(-z))
			dup[k] = g * z * sigma
			dgate[k] = g * u * sigma * (1 + z*(1-sigma))
		}
	})
}

// ReLU is y ← max(x, 0).
func (d *Device) ReLU(x, y device.Tensor) {
	device.CheckReLU(x, y)
	switch x.Type {
	case device.F32:
		relu(elements[float32](d, x), elements[float32](d, y))
	case device.F64:
		relu(elements[float64](d, x), elements[float64](d, y))
	default:
		w := d.widen()
		d.ReLU(w.in(x), w.out(y))
		w.store()
	}
}

func relu[T float](x, y []T) {
	parallel.For(len(x), grainElements, func(_, i, j int) {
		for k := i; k < j; k++ {
			if v := x[k]; v > 0 || v != v {
				y[k] = v
			} else {
				y[k] = 0
			}
		}
	})
}

// ReLUBackward is dx ← dy where y > 0 and 0 where y ≤ 0.
func (d *Device) ReLUBackward(y, dy, dx device.Tensor) {
	device.CheckReLUBackward(y, dy, dx)
	switch y.Type {
	case device.F32:
		reluBackward(elements[float32](d, y), elements[float32](d, dy), elements[float32](d, dx))
	case device.F64:
		reluBackward(elements[float64](d, y), elements[float64](d, dy), elements[float64](d, dx))
	default:
		w := d.widen()
		d.ReLUBackward(w.in(y), w.in(dy), w.out(dx))
		w.store()
	}
}

func reluBackward[T float](y, dy, dx []T) {
	parallel.For(len(y), grainElements, func(_, i, j int) {
		for k := i; k < j; k++ {
			switch v := y[k]; {
			case v > 0:
				dx[k] = dy[k]
			case v != v:
				dx[k] = v
			default:
				dx[k] = 0
			}
		}
	})
}
