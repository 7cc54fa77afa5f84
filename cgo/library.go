//go:build cuda

package cuda

// #include "kernels.h"
import "C"

import (
	"fmt"
	"unsafe"

	"surgeon/engine/device"
)

// workspaceBytes is what cuBLAS works in: NVIDIA's advice for Hopper, more than it wants on an A100. The same at every run,
// or products might be cut up in another way, and have other bits.
const workspaceBytes = 32 << 20

// library is cuBLAS and cuSOLVER, on this device's stream.
type library struct {
	handle    unsafe.Pointer
	workspace block
	versions  string
}

func (d *Device) startLibrary() error {
	w, ok := d.take(workspaceBytes)
	if !ok {
		return d.err
	}
	d.library.workspace = w
	d.run("cuBLAS and cuSOLVER", func() C.int {
		return C.surgeon_library_open(d.queue(), address(w.at), workspaceBytes, &d.library.handle)
	})
	if d.err == nil {
		var blas, solver C.int
		C.surgeon_library_versions(d.library.handle, &blas, &solver)
		d.library.versions = fmt.Sprintf("cuBLAS %d, cuSOLVER %d", blas, solver)
	}
	return d.err
}

func (d *Device) closeLibrary() {
	if d.library.handle != nil {
		d.run("cuBLAS and cuSOLVER", func() C.int { return C.surgeon_library_close(d.library.handle) })
	}
	if d.library.workspace.size > 0 {
		d.give(d.library.workspace)
	}
	d.library = library{}
}

func flag(b bool) C.int {
	if b {
		return 1
	}
	return 0
}

// Gemm is c ← α·op(a)·op(b) + β·c.
func (d *Device) Gemm(transA, transB bool, alpha float64, a, b device.Tensor, beta float64, c device.Tensor) {
	device.CheckGemm(transA, transB, a, b, c)
	at, bt, ct := d.at(a), d.at(b), d.at(c)
	k := a.Cols
	if transA {
		k = a.Rows
	}
	d.run("Gemm", func() C.int {
		return C.surgeon_gemm(d.library.handle, flag(transA), flag(transB), C.int(a.Type), C.int(c.Type), C.int64_t(c.Rows), C.int64_t(c.Cols), C.int64_t(k),
			C.double(alpha), at, bt, C.double(beta), ct, d.queue())
	})
}

// A call with this many matrices of an order up to small has them factored side by side by a kernel of our own, cholesky.cu.
// Fewer go to cuSOLVER one after the other, unless they are tiny: then there is little work for each of its launches. These
// numbers are reasoned, not measured: the kernel keeps one multiprocessor busy for each matrix, cuSOLVER all for one.
const (
	smallOrder  = C.SURGEON_CHOLESKY_SMALL
	smallEnough = 4
	tinyOrder   = 128
)

// Cholesky is a = l·lᵀ in place. On a device that has failed everything is ok: Sync tells what is not.
func (d *Device) Cholesky(as ...device.Tensor) []bool {
	device.CheckCholesky(as)
	ok := make([]bool, len(as))
	for i := range ok {
		ok[i] = true
	}
	matrices := make([]C.surgeon_matrix, len(as))
	infos, free := d.scratch(int64(4 * len(as)))
	defer free()
	several := 0
	for i, a := range as {
		matrices[i] = C.surgeon_matrix{n: C.int64_t(a.Rows), a: (*C.double)(d.at(a))}
		if a.Rows <= smallOrder {
			several++
		}
	}
	if d.err != nil {
		return ok
	}
	for i := range matrices {
		matrices[i].info = (*C.int)(unsafe.Add(infos, 4*i))
	}
	var small []C.surgeon_matrix
	largest := C.int64_t(0)
	for _, m := range matrices {
		if m.n <= tinyOrder || m.n <= smallOrder && several >= smallEnough {
			small = append(small, m)
			largest = max(largest, m.n)
		} else {
			d.choleskyLarge(m)
		}
	}
	if len(small) > 0 {
		list := d.matrices("Cholesky", small)
		d.run("Cholesky", func() C.int { return C.surgeon_cholesky_small(C.int64_t(len(small)), list, largest, d.queue()) })
	}
	if len(matrices) > 0 {
		list := d.matrices("Cholesky", matrices)
		d.run("Cholesky", func() C.int { return C.surgeon_cholesky_verdict(C.int64_t(len(matrices)), list, d.queue()) })
	}
	for i, info := range d.ints("Cholesky", infos, len(as)) {
		ok[i] = info == 0
	}
	return ok
}

// choleskyLarge is a factorisation by cuSOLVER.
func (d *Device) choleskyLarge(m C.surgeon_matrix) {
	var bytes C.int64_t
	d.run("Cholesky", func() C.int { return C.surgeon_cholesky_workspace(d.library.handle, m.n, m.a, &bytes) })
	work, free := d.scratch(int64(bytes))
	defer free()
	d.run("Cholesky", func() C.int { return C.surgeon_cholesky_large(d.library.handle, m.n, m.a, work, bytes, m.info) })
}

// matrices brings a list of matrices to the device, as list does for indices.
func (d *Device) matrices(op string, list []C.surgeon_matrix) *C.surgeon_matrix {
	return (*C.surgeon_matrix)(d.list(op, words(list)))
}

// words sees the elements of a list, whose size is a multiple of 4 bytes, as an index list.
func words[T any](list []T) []int32 {
	return unsafe.Slice((*int32)(unsafe.Pointer(unsafe.SliceData(list))), len(list)*int(unsafe.Sizeof(list[0]))/4)
}

// ints waits for n ints of the device, 0 on one that has failed.
func (d *Device) ints(op string, at unsafe.Pointer, n int) []int32 {
	x := make([]int32, n)
	if n > 0 {
		d.toHost(op, pointer(at), unsafe.Slice((*byte)(unsafe.Pointer(&x[0])), 4*n))
	}
	if d.err != nil {
		clear(x)
	}
	return x
}

// CholeskySolve is b ← (l·lᵀ)⁻¹·b or b ← b·(l·lᵀ)⁻¹. A few systems, and those of several right sides, are solved one after the
// other by cuBLAS's products, triangle.cpp; many of one right side, which is the same on either side, are solved side by side by a
// kernel of our own, solve.cu. The pairs of one call have one type.
func (d *Device) CholeskySolve(side device.Side, ls, bs []device.Tensor) {
	device.CheckCholeskySolve(side, ls, bs)
	var single []C.surgeon_system
	for i, b := range bs {
		lt, bt := d.at(ls[i]), d.at(b)
		n, others := C.int64_t(ls[i].Rows), C.int64_t(b.Cols)
		if side == device.Right {
			others = C.int64_t(b.Rows)
		}
		if others == 1 && (len(bs) >= smallEnough || b.Type == device.F32) {
			single = append(single, C.surgeon_system{n: n, l: lt, b: bt})
			continue
		}
		scratch, free := d.scratch(8 * int64(C.surgeon_cholesky_solve_scratch(n, others)))
		d.run("CholeskySolve", func() C.int {
			return C.surgeon_cholesky_solve(d.library.handle, flag(side == device.Right), n, others, (*C.double)(lt), (*C.double)(bt), (*C.double)(scratch), d.queue())
		})
		free()
	}
	if len(single) > 0 {
		largest := C.int64_t(0)
		for _, s := range single {
			largest = max(largest, s.n)
		}
		list := (*C.surgeon_system)(d.list("CholeskySolve", words(single)))
		d.run("CholeskySolve", func() C.int {
			return C.surgeon_cholesky_solve_many(C.int(bs[0].Type), C.int64_t(len(single)), list, largest, d.queue())
		})
	}
}

// CholeskyInverseDiag is d_i ← [(l·lᵀ)⁻¹]_ii.
func (d *Device) CholeskyInverseDiag(ls, diags []device.Tensor) {
	device.CheckCholeskyInverseDiag(ls, diags)
	for i, l := range ls {
		lt, to, n := (*C.double)(d.at(l)), (*C.double)(d.at(diags[i])), C.int64_t(l.Rows)
		scratch, free := d.scratch(8 * int64(C.surgeon_cholesky_inverse_scratch(n)))
		d.run("CholeskyInverseDiag", func() C.int {
			return C.surgeon_cholesky_inverse_diagonal(d.library.handle, n, lt, to, (*C.double)(scratch), d.queue())
		})
		free()
	}
}
