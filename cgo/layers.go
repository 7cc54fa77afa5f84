//go:build cuda

package cuda

// #include "kernels.h"
import "C"

import (
	"unsafe"

	"surgeon/engine/device"
)

// Kernels: embed.cu, norm.cu, rope.cu, activation.cu, entropy.cu, sample.cu.

// Embed is x_i ← table[ids_i] + β·x_i.
func (d *Device) Embed(table device.Tensor, ids []int32, beta float64, x device.Tensor) {
	device.CheckEmbed(table, ids, x)
	at, ax := d.at(table), d.at(x)
	list := (*C.int32_t)(d.list("Embed", ids))
	d.run("Embed", func() C.int {
		return C.surgeon_embed(C.int(x.Type), C.int64_t(x.Rows), C.int64_t(x.Cols), at, list, C.double(beta), ax, d.queue())
	})
}

// RMSNorm is y_i ← gain ∘ x_i / √(mean(x_i²) + eps).
func (d *Device) RMSNorm(x, gain device.Tensor, eps float64, y device.Tensor) {
	device.CheckRMSNorm(x, gain, y)
	ax, ag, ay := d.at(x), d.at(gain), d.at(y)
	d.run("RMSNorm", func() C.int {
		return C.surgeon_rms_norm(C.int(x.Type), C.int64_t(x.Rows), C.int64_t(x.Cols), ax, ag, C.double(eps), ay, d.queue())
	})
}

// RMSNormBackward is dx ← Jᵀ·dy + β·dx.
func (d *Device) RMSNormBackward(x, gain device.Tensor, eps float64, dy device.Tensor, beta float64, dx device.Tensor) {
	device.CheckRMSNormBackward(x, gain, dy, dx)
	ax, ag, ady, adx := d.at(x), d.at(gain), d.at(dy), d.at(dx)
	d.run("RMSNormBackward", func() C.int {
		return C.surgeon_rms_norm_backward(C.int(x.Type), C.int64_t(x.Rows), C.int64_t(x.Cols), ax, ag, C.double(eps), ady, C.double(beta), adx, d.queue())
	})
}

// LayerNorm is y_i ← gain ∘ (x_i − mean(x_i)) / √(var(x_i) + eps) + bias.
func (d *Device) LayerNorm(x, gain, bias device.Tensor, eps float64, y device.Tensor) {
	device.CheckLayerNorm(x, gain, bias, y)
	ax, ag, ab, ay := d.at(x), d.at(gain), d.at(bias), d.at(y)
	d.run("LayerNorm", func() C.int {
		return C.surgeon_layer_norm(C.int(x.Type), C.int64_t(x.Rows), C.int64_t(x.Cols), ax, ag, ab, C.double(eps), ay, d.queue())
	})
}

// LayerNormBackward is dx ← Jᵀ·dy + β·dx.
func (d *Device) LayerNormBackward(x, gain device.Tensor, eps float64, dy device.Tensor, beta float64, dx device.Tensor) {
	device.CheckLayerNormBackward(x, gain, dy, dx)
	ax, ag, ady, adx := d.at(x), d.at(gain), d.at(dy), d.at(dx)
	d.run("LayerNormBackward", func() C.int {
		return C.surgeon_layer_norm_backward(C.int(x.Type), C.int64_t(x.Rows), C.int64_t(x.Cols), ax, ag, C.double(eps), ady, C.double(beta), adx, d.queue())
	})
}

// Rope turns the pairs (x_j, x_{j+d/2}) of every head.
func (d *Device) Rope(cos, sin device.Tensor, inverse bool, x device.Tensor) {
	device.CheckRope(cos, sin, x)
	ac, as, ax := d.at(cos), d.at(sin), d.at(x)
	length, half := cos.Rows, cos.Cols
	d.run("Rope", func() C.int {
		return C.surgeon_rope(C.int(x.Type), C.int64_t(length), C.int64_t(x.Rows/length), C.int(x.Cols/(2*half)), C.int(half), ac, as, flag(inverse), ax, d.queue())
	})
}

// SwiGLU is y ← silu(gate) ∘ up.
func (d *Device) SwiGLU(gate, up, y device.Tensor) {
	device.CheckSwiGLU(gate, up, y)
	ag, au, ay := d.at(gate), d.at(up), d.at(y)
	d.run("SwiGLU", func() C.int {
		return C.surgeon_swiglu(C.int(y.Type), C.int64_t(y.Len()), ag, au, ay, d.queue())
	})
}

// SwiGLUBackward is dup ← dy ∘ silu(gate) and dgate ← dy ∘ up ∘ silu′(gate).
func (d *Device) SwiGLUBackward(gate, up, dy, dgate, dup device.Tensor) {
	device.CheckSwiGLUBackward(gate, up, dy, dgate, dup)
	ag, au, ady, adg, adu := d.at(gate), d.at(up), d.at(dy), d.at(dgate), d.at(dup)
	d.run("SwiGLUBackward", func() C.int {
		return C.surgeon_swiglu_backward(C.int(dy.Type), C.int64_t(dy.Len()), ag, au, ady, adg, adu, d.queue())
	})
}

// ReLU is y ← max(x, 0).
func (d *Device) ReLU(x, y device.Tensor) {
	device.CheckReLU(x, y)
	ax, ay := d.at(x), d.at(y)
	d.run("ReLU", func() C.int {
		return C.surgeon_relu(C.int(x.Type), C.int64_t(x.Len()), ax, ay, d.queue())
	})
}

// ReLUBackward is dx ← dy where y > 0 and 0 where y ≤ 0.
func (d *Device) ReLUBackward(y, dy, dx device.Tensor) {
	device.CheckReLUBackward(y, dy, dx)
	ay, ady, adx := d.at(y), d.at(dy), d.at(dx)
	d.run("ReLUBackward", func() C.int {
		return C.surgeon_relu_backward(C.int(y.Type), C.int64_t(y.Len()), ay, ady, adx, d.queue())
	})
}

// CrossEntropy is losses_i ← log Σ_v exp(logits_iv) − logits_i,target(i), and with grad logits ← its gradient.
func (d *Device) CrossEntropy(logits device.Tensor, targets []int32, grad bool, losses device.Tensor) {
	device.CheckCrossEntropy(logits, targets, losses)
	al, as := d.at(logits), d.at(losses)
	list := (*C.int32_t)(d.list("CrossEntropy", targets))
	d.run("CrossEntropy", func() C.int {
		return C.surgeon_cross_entropy(C.int(logits.Type), C.int64_t(logits.Rows), C.int64_t(logits.Cols), al, list, flag(grad), as, d.queue())
	})
}

// Sample is ids_i ← the smallest v with Σ_{u≤v} exp(logits_iu) > uniform_i · Σ_u exp(logits_iu).
func (d *Device) Sample(logits device.Tensor, uniform []float64, ids []int32) {
	device.CheckSample(logits, uniform, ids)
	from, n := d.at(logits), len(ids)
	if n == 0 {
		return
	}
	numbers, freeNumbers := d.scratch(int64(8 * n))
	defer freeNumbers()
	drawn, freeDrawn := d.scratch(int64(4 * n))
	defer freeDrawn()
	d.toDevice("Sample", unsafe.Slice((*byte)(unsafe.Pointer(&uniform[0])), 8*n), pointer(numbers))
	d.run("Sample", func() C.int {
		return C.surgeon_sample(C.int(logits.Type), C.int64_t(n), C.int64_t(logits.Cols), from, (*C.double)(numbers), (*C.int32_t)(drawn), d.queue())
	})
	d.toHost("Sample", pointer(drawn), unsafe.Slice((*byte)(unsafe.Pointer(&ids[0])), 4*n))
}
