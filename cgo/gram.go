//go:build cuda

package cuda

// #include "kernels.h"
import "C"

import (
	"slices"

	"surgeon/engine/device"
)

// Gram is s_k ← α·x_kᵀx_k + β·s_k for each pair, as many side by side as the kernels take. Which of them are cut into parts, and so
// their bits, depends on all of those: lists are cut in the order in which they come.
func (d *Device) Gram(alpha float64, xs []device.Tensor, beta float64, ss []device.Sym) {
	device.CheckGram(xs, ss)
	list := make([]C.surgeon_gram_matrix, len(xs))
	for k, x := range xs {
		list[k] = C.surgeon_gram_matrix{n: C.int64_t(x.Cols), ones: C.int(ss[k].N - x.Cols), x: d.at(x), s: d.at(ss[k].Packed)}
	}
	for part := range slices.Chunk(list, C.SURGEON_GRAM_MOST) {
		d.gram(xs[0], alpha, part, beta)
	}
}

// GramScratch takes x to be aligned, as what Alloc gives is.
func (d *Device) GramScratch(t device.Type, n int, cols []int, ones bool) (bytes int64) {
	list := make([]C.surgeon_gram_matrix, len(cols))
	for k := range cols {
		list[k] = C.surgeon_gram_matrix{n: C.int64_t(cols[k]), ones: flag(ones)}
	}
	for part := range slices.Chunk(list, C.SURGEON_GRAM_MOST) {
		bytes = max(bytes, int64(C.surgeon_gram_scratch(C.int(t), C.int64_t(n), C.int(len(part)), &part[0])))
	}
	return bytes
}

// gram makes a list that is no longer than the kernels take. x is one of those with its type and tokens.
func (d *Device) gram(x device.Tensor, alpha float64, list []C.surgeon_gram_matrix, beta float64) {
	typ, tokens, count := C.int(x.Type), C.int64_t(x.Rows), C.int(len(list))
	space, free := d.scratch(int64(C.surgeon_gram_scratch(typ, tokens, count, &list[0])))
	defer free()
	d.run("Gram", func() C.int {
		return C.surgeon_gram(typ, C.int(d.capability), tokens, count, &list[0], C.double(alpha), C.double(beta), space, d.queue())
	})
}
