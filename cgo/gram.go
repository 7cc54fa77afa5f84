//go:build cuda

package cuda

// #include "kernels.h"
import "C"

import "surgeon/engine/device"

// Gram is s_k ← α·x_kᵀx_k + β·s_k for each pair.
func (d *Device) Gram(alpha float64, xs []device.Tensor, beta float64, ss []device.Sym) {
	device.CheckGram(xs, ss)
	for k, x := range xs {
		d.gram(alpha, x, beta, ss[k])
	}
}

func (d *Device) gram(alpha float64, x device.Tensor, beta float64, s device.Sym) {
	from, to := d.at(x), d.at(s.Packed)
	typ, tokens, n, ones := C.int(x.Type), C.int64_t(x.Rows), C.int64_t(x.Cols), C.int(s.N-x.Cols)
	space, free := d.scratch(int64(C.surgeon_gram_scratch(typ, tokens, n, ones)))
	defer free()
	d.run("Gram", func() C.int {
		return C.surgeon_gram(typ, C.int(d.capability), tokens, n, ones, C.double(alpha), from, C.double(beta), to, space, d.queue())
	})
}
