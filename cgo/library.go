//go:build cuda

package cuda

// #include "kernels.h"
import "C"

import (
	"cmp"
	"fmt"
	"slices"
	"unsafe"

	"surgeon/engine/device"
)

// workspaceBytes is what cuBLAS and cuBLASLt work in, one after the other: NVIDIA's advice for Hopper, more than it wants on an
// A100. The same at every run, or products might be cut up in another way, and have other bits.
const workspaceBytes = 32 << 20

// library is cuBLAS, cuBLASLt and cuSOLVER, on this device's stream.
type library struct {
	handle    unsafe.Pointer
	workspace block
	scalars   block // α and β of a product, where they are not on the host
	versions  string
}

func (d *Device) startLibrary() error {
	w, ok := d.take(workspaceBytes)
	if !ok {
		return d.err
	}
	d.library.workspace = w
	f, ok := d.take(2 * 4)
	if !ok {
		return d.err
	}
	d.library.scalars = f
	d.run("cuBLAS and cuSOLVER", func() C.int {
		return C.surgeon_library_open(d.queue(), address(w.at), workspaceBytes, (*C.float)(address(f.at)), &d.library.handle)
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
	for _, b := range []block{d.library.workspace, d.library.scalars} {
		if b.size > 0 {
			d.give(b)
		}
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

// Linear is y ← x·wᵀ + b + β·y: of bfloat16 in one call of cuBLASLt where the shape allows it, linear.cpp.
func (d *Device) Linear(x, w, b device.Tensor, beta float64, y device.Tensor) {
	device.CheckLinear(x, w, b, y)
	ax, aw, ab, ay := d.at(x), d.at(w), d.at(b), d.at(y)
	d.run("Linear", func() C.int {
		return C.surgeon_linear(d.library.handle, C.int(x.Type), C.int64_t(y.Rows), C.int64_t(y.Cols), C.int64_t(x.Cols), ax, aw, ab, C.double(beta), ay, d.queue())
	})
}

// LinearApart is Linear by a kernel and a product of cuBLAS, whatever the shape: what the benchmark sets Linear beside.
func (d *Device) LinearApart(x, w, b device.Tensor, beta float64, y device.Tensor) {
	device.CheckLinear(x, w, b, y)
	ax, aw, ab, ay := d.at(x), d.at(w), d.at(b), d.at(y)
	d.run("LinearApart", func() C.int {
		return C.surgeon_linear_apart(d.library.handle, C.int(x.Type), C.int64_t(y.Rows), C.int64_t(y.Cols), C.int64_t(x.Cols), ax, aw, ab, C.double(beta), ay, d.queue())
	})
}

// defaultFactorOrder is the largest order of matrices that cholesky.cu factors by itself, side by side. Beyond it, factors are made in blocks of
// defaultFactorBlock columns: cholesky.cu takes 0.63 ms for order 1000 on an H100 (surgeon bench ops --filter '^Cholesky of many', commit 4c936ec),
// and the products around it are large enough for cuBLAS then.
const (
	defaultFactorOrder = C.SURGEON_CHOLESKY_MANY
	defaultFactorBlock = 1024
)

// defaultTriangleOrder is the largest order of triangles that triangles.cu inverts and solves with side by side. One that is larger keeps cuBLAS busy
// by itself. Reasoned, not measured.
const defaultTriangleOrder = C.SURGEON_TRIANGLES_MANY

// scratchAtOnce is what the matrices of a call have of scratch memory together, in bytes; where they want more they are worked on in
// several parts, unless one alone wants it.
const scratchAtOnce = 1 << 30

// sideBySide gives f the elements of a list in order, the largest orders first, as many at a time as there is scratch memory for: those
// of numbers, with where the scratch memory of each begins put in by place.
func sideBySide[T any](d *Device, list []T, order func(T) C.int64_t, numbers func(T) C.int64_t, place func(*T, unsafe.Pointer), f func(part []T, orders *C.int64_t)) {
	slices.SortStableFunc(list, func(a, b T) int { return cmp.Compare(order(b), order(a)) })
	for len(list) > 0 {
		count, bytes := 0, int64(0)
		for count < len(list) && (count == 0 || bytes+8*int64(numbers(list[count])) <= d.scratchAtOnce) {
			bytes += 8 * int64(numbers(list[count]))
			count++
		}
		part, orders := list[:count], make([]C.int64_t, count)
		list = list[count:]
		scratch, free := d.scratch(bytes)
		if d.err != nil {
			return
		}
		at := 0
		for i := range part {
			orders[i] = order(part[i])
			place(&part[i], unsafe.Add(scratch, at))
			at += 8 * int(numbers(part[i]))
		}
		f(part, &orders[0])
		free()
	}
}

// Cholesky is a = l·lᵀ in place. On a device that has failed everything is ok: Sync tells what is not.
func (d *Device) Cholesky(as ...device.Tensor) []bool {
	device.CheckCholesky(as)
	ok := make([]bool, len(as))
	for i := range ok {
		ok[i] = true
	}
	var blocks []int // of matrix i in infos, block after block
	all := 0
	for _, a := range as {
		n := 1
		if a.Rows > d.factorOrder {
			n = (a.Rows + d.factorBlock - 1) / d.factorBlock
		}
		blocks = append(blocks, n)
		all += n
	}
	infos, free := d.scratch(int64(4 * all))
	defer free()
	if d.err != nil { // infos is no address
		return ok
	}
	var many, large []C.surgeon_matrix
	at := 0
	for i, a := range as {
		n := C.int64_t(a.Rows)
		m := C.surgeon_matrix{n: n, stride: n, a: (*C.double)(d.at(a)), info: (*C.int)(unsafe.Add(infos, 4*at))}
		at += blocks[i]
		if blocks[i] == 1 {
			many = append(many, m)
		} else {
			large = append(large, m)
		}
	}
	d.factor(many)
	d.factorLarge(large)
	verdicts := d.ints("Cholesky", infos, all)
	at = 0
	for i, n := range blocks {
		ok[i] = !slices.ContainsFunc(verdicts[at:at+n], func(info int32) bool { return info != 0 })
		at += n
	}
	return ok
}

// factor is the factorisation of matrices side by side.
func (d *Device) factor(many []C.surgeon_matrix) {
	sideBySide(d, many, func(m C.surgeon_matrix) C.int64_t { return m.n }, func(m C.surgeon_matrix) C.int64_t { return C.surgeon_cholesky_scratch(m.n) },
		func(m *C.surgeon_matrix, scratch unsafe.Pointer) { m.scratch = (*C.double)(scratch) },
		func(part []C.surgeon_matrix, orders *C.int64_t) {
			list := d.matrices("Cholesky", part)
			d.run("Cholesky", func() C.int { return C.surgeon_cholesky_many(C.int64_t(len(part)), list, orders, d.queue()) })
		})
}

// factorLarge goes through large matrices block by block of their diagonals, cholesky_large.cpp: those of all of them side by side, what is
// below one after the other. The info of each block follows that of the one before.
func (d *Device) factorLarge(large []C.surgeon_matrix) {
	if len(large) == 0 {
		return
	}
	width, below := C.int64_t(d.factorBlock), C.int64_t(0)
	for _, m := range large {
		below = max(below, m.n-width)
	}
	scratch, free := d.scratch(int64(8 * width * below))
	defer free()
	for step := C.int64_t(0); len(large) > 0; step++ {
		p := step * width
		var diagonal []C.surgeon_matrix
		var inverses []C.surgeon_triangle
		more := large[:0]
		for _, m := range large {
			square := C.surgeon_matrix{n: min(width, m.n-p), stride: m.n, a: (*C.double)(unsafe.Add(unsafe.Pointer(m.a), 8*p*(m.n+1))), info: (*C.int)(unsafe.Add(unsafe.Pointer(m.info), 4*step))}
			diagonal = append(diagonal, square)
			if m.n > p+width {
				more = append(more, m)
				inverses = append(inverses, C.surgeon_triangle{n: width, stride: m.n, l: square.a})
			}
		}
		large = more
		d.factor(diagonal)
		next := large // the matrices of inverses, which are all of one order and so stay in theirs
		sideBySide(d, inverses, func(t C.surgeon_triangle) C.int64_t { return t.n }, func(t C.surgeon_triangle) C.int64_t { return width * width },
			func(t *C.surgeon_triangle, scratch unsafe.Pointer) { t.inverse = (*C.double)(scratch) },
			func(part []C.surgeon_triangle, orders *C.int64_t) {
				list := (*C.surgeon_triangle)(d.list("Cholesky", words(part)))
				d.run("Cholesky", func() C.int { return C.surgeon_triangles_invert(C.int64_t(len(part)), list, orders, d.queue()) })
				for i, t := range part {
					m := next[i]
					d.run("Cholesky", func() C.int {
						return C.surgeon_cholesky_below(d.library.handle, m.n, p, width, m.a, t.inverse, (*C.double)(scratch), d.queue())
					})
				}
				next = next[len(part):]
			})
	}
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

// triangles gives f those of list of an order up to triangleOrder.
func (d *Device) triangles(list []C.surgeon_triangle, f func(part []C.surgeon_triangle, orders *C.int64_t)) {
	sideBySide(d, list, func(t C.surgeon_triangle) C.int64_t { return t.n }, func(t C.surgeon_triangle) C.int64_t { return C.surgeon_triangles_scratch(t.n, t.m) },
		func(t *C.surgeon_triangle, scratch unsafe.Pointer) {
			t.inverse = (*C.double)(scratch)
			t.between = (*C.double)(unsafe.Add(scratch, 8*t.n*t.n))
		}, f)
}

// systemsEnough is from how many systems of single right sides on solve.cu, with a block of threads for each, is the faster way: reasoned,
// not measured. One in float32 has no other.
const systemsEnough = 4

// CholeskySolve is b ← (l·lᵀ)⁻¹·b or b ← b·(l·lᵀ)⁻¹. Systems of several right sides, and a few of single ones, are solved side by side
// by way of inverses, triangles.cu, and large ones one after the other by cuBLAS's products, triangle.cpp; many of one right side, which is
// the same on either side, by solve.cu. The pairs of one call have one type.
func (d *Device) CholeskySolve(side device.Side, ls, bs []device.Tensor) {
	device.CheckCholeskySolve(side, ls, bs)
	rightSides := func(b device.Tensor) int {
		if side == device.Right {
			return b.Rows
		}
		return b.Cols
	}
	singles := 0
	for _, b := range bs {
		if rightSides(b) == 1 {
			singles++
		}
	}
	var single []C.surgeon_system
	var many []C.surgeon_triangle
	for i, b := range bs {
		lt, bt := d.at(ls[i]), d.at(b)
		n, others := C.int64_t(ls[i].Rows), C.int64_t(rightSides(b))
		switch {
		case others == 1 && (singles >= systemsEnough || b.Type == device.F32):
			single = append(single, C.surgeon_system{n: n, l: lt, b: bt})
		case ls[i].Rows <= d.triangleOrder:
			many = append(many, C.surgeon_triangle{n: n, m: others, stride: n, l: (*C.double)(lt), b: (*C.double)(bt)})
		default:
			scratch, free := d.scratch(8 * int64(C.surgeon_cholesky_solve_scratch(n, others)))
			d.run("CholeskySolve", func() C.int {
				return C.surgeon_cholesky_solve(d.library.handle, flag(side == device.Right), n, others, (*C.double)(lt), (*C.double)(bt), (*C.double)(scratch), d.queue())
			})
			free()
		}
	}
	d.triangles(many, func(part []C.surgeon_triangle, orders *C.int64_t) {
		others := C.int64_t(0)
		for _, t := range part {
			others = max(others, t.m)
		}
		list := (*C.surgeon_triangle)(d.list("CholeskySolve", words(part)))
		d.run("CholeskySolve", func() C.int {
			return C.surgeon_triangles_solve(flag(side == device.Right), C.int64_t(len(part)), list, orders, others, d.queue())
		})
	})
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
	var many []C.surgeon_triangle
	for i, l := range ls {
		lt, to, n := (*C.double)(d.at(l)), (*C.double)(d.at(diags[i])), C.int64_t(l.Rows)
		if l.Rows <= d.triangleOrder {
			many = append(many, C.surgeon_triangle{n: n, stride: n, l: lt, b: to})
			continue
		}
		scratch, free := d.scratch(8 * int64(C.surgeon_cholesky_inverse_scratch(n)))
		d.run("CholeskyInverseDiag", func() C.int {
			return C.surgeon_cholesky_inverse_diagonal(d.library.handle, n, lt, to, (*C.double)(scratch), d.queue())
		})
		free()
	}
	d.triangles(many, func(part []C.surgeon_triangle, orders *C.int64_t) {
		list := (*C.surgeon_triangle)(d.list("CholeskyInverseDiag", words(part)))
		d.run("CholeskyInverseDiag", func() C.int {
			return C.surgeon_triangles_inverse_diagonal(C.int64_t(len(part)), list, orders, d.queue())
		})
	})
}
