package cpu

import (
	"math"

	"surgeon/engine/device"
)

// fromBF16 is exact: a bfloat16 is the upper half of a float32.
func fromBF16(b uint16) float32 { return math.Float32frombits(uint32(b) << 16) }

// toBF16 rounds to nearest even. NaN stays NaN, with its sign.
func toBF16(f float32) uint16 {
	b := math.Float32bits(f)
	if f != f {
		return uint16(b>>16) | 0x40
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// bf16From64 rounds once. By way of the nearest float32 it would round twice, so the float32 between is the one towards
// zero, its last bit set where anything was cut off.
func bf16From64(x float64) uint16 {
	f := float32(x)
	if x != x || float64(f) == x {
		return toBF16(f)
	}
	b := math.Float32bits(f)
	if math.Abs(float64(f)) > math.Abs(x) {
		b--
	}
	return toBF16(math.Float32frombits(b | 1))
}

// widening stands between an operation on bfloat16 tensors and the same operation on float32 tensors. Tensors of other
// types, and the zero Tensor, pass through it unchanged.
type widening struct {
	d            *Device
	narrow, wide []device.Tensor // outputs
	scratch      []device.Tensor
}

func (d *Device) widen() *widening { return &widening{d: d} }

// out is a float32 tensor in place of x, which is stored to x in the end.
func (w *widening) out(x device.Tensor) device.Tensor {
	if x.Type != device.BF16 {
		return x
	}
	y := w.d.Alloc(x.Rows, x.Cols, device.F32)
	w.scratch = append(w.scratch, y)
	w.narrow, w.wide = append(w.narrow, x), append(w.wide, y)
	return y
}

// in is a float32 tensor that holds what x holds.
func (w *widening) in(x device.Tensor) device.Tensor {
	if x.Type != device.BF16 {
		return x
	}
	y := w.d.Alloc(x.Rows, x.Cols, device.F32)
	w.scratch = append(w.scratch, y)
	w.d.Copy(x, y)
	return y
}

// inOut is both.
func (w *widening) inOut(x device.Tensor) device.Tensor {
	y := w.out(x)
	if x.Type == device.BF16 {
		w.d.Copy(x, y)
	}
	return y
}

// sum is for an output that β times its old content goes into.
func (w *widening) sum(beta float64, x device.Tensor) device.Tensor {
	if beta == 0 {
		return w.out(x)
	}
	return w.inOut(x)
}

// store rounds the outputs and gives the scratch tensors back.
func (w *widening) store() {
	for i, x := range w.narrow {
		w.d.Copy(w.wide[i], x)
	}
	w.d.Free(w.scratch...)
}
