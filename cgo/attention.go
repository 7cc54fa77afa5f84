//go:build cuda

package cuda

// #include "kernels.h"
import "C"

import "surgeon/engine/device"

// heads is h for the n rows of q, as a launcher wants it.
func heads(h device.Heads, n int) C.surgeon_heads {
	return C.surgeon_heads{
		sequences: C.int64_t(n / h.Length), length: C.int64_t(h.Length), window: C.int64_t(h.Window),
		query: C.int(h.Query), key_value: C.int(h.KeyValue), dim: C.int(h.Dim), scale: C.double(h.Scale),
	}
}

// Attention is kernels/attention.cu, or attention_tensor.cu.
func (d *Device) Attention(h device.Heads, q, k, v, out, lse device.Tensor) {
	device.CheckAttention(h, q, k, v, out, lse)
	aq, ak, av, aout, alse := d.at(q), d.at(k), d.at(v), d.at(out), d.at(lse)
	d.run("Attention", func() C.int {
		return C.surgeon_attention(C.int(q.Type), heads(h, q.Rows), aq, ak, av, aout, alse, d.queue())
	})
}

// AttentionBackward is kernels/attention_backward.cu, attention_backward_tensor.cu or attention_backward_warpgroup.cu.
func (d *Device) AttentionBackward(h device.Heads, q, k, v, out, lse, dout, dq, dk, dv device.Tensor) {
	device.CheckAttentionBackward(h, q, k, v, out, lse, dout, dq, dk, dv)
	aq, ak, av, aout, alse, adout := d.at(q), d.at(k), d.at(v), d.at(out), d.at(lse), d.at(dout)
	adq, adk, adv := d.at(dq), d.at(dk), d.at(dv)
	shape := heads(h, q.Rows)
	scratch, free := d.scratch(int64(C.surgeon_attention_scratch(C.int(q.Type), shape)))
	defer free()
	d.run("AttentionBackward", func() C.int {
		return C.surgeon_attention_backward(C.int(q.Type), C.int(d.capability), shape, aq, ak, av, aout, alse, adout, adq, adk, adv, scratch, d.queue())
	})
}
