//go:build cuda

package cuda

// #include "kernels.h"
import "C"

import (
	"slices"
	"unsafe"

	"surgeon/engine/device"
)

const (
	// defaultJacobiOrder is the largest order for the kernels of eigh.cu. For larger matrices there is rarely more than one at a time,
	// and cuSOLVER's way by a tridiagonal matrix needs fewer FLOP.
	defaultJacobiOrder = 2048
	// sweepLimit: six to a dozen are usual, twenty have been seen where hundreds of eigenvalues are equal.
	sweepLimit = 30
)

// Eigh is a = V·diag(w)·Vᵀ. On a device that has failed everything is ok: Sync tells what is not.
func (d *Device) Eigh(warm bool, as, values, vectors []device.Tensor) []bool {
	device.CheckEigh(as, values, vectors)
	ok := make([]bool, len(as))
	status, free := d.scratch(int64(4 * len(as)))
	defer free()
	if d.err != nil {
		for i := range ok {
			ok[i] = true
		}
		return ok
	}
	var list []C.surgeon_eigen
	var of []int // whose matrix it is
	for i, a := range as {
		ok[i] = a.Rows == 0
		if n := a.Rows; n > 0 && n <= d.jacobiOrder {
			scratch, free := d.scratch(8 * int64(C.surgeon_eigh_scratch(C.int64_t(n))))
			defer free()
			v, free := d.scratch(8 * int64(n*n))
			defer free()
			m := d.eigen(a, values[i], vectors[i], scratch, unsafe.Add(status, 4*len(list)))
			m.v = (*C.double)(v)
			list, of = append(list, m), append(of, i)
		}
	}
	if len(list) > 0 {
		for k, s := range d.jacobi(warm, list, status) {
			ok[of[k]] = s == C.SURGEON_EIGH_DONE
		}
	}
	for i, a := range as {
		if a.Rows > d.jacobiOrder {
			scratch, free := d.scratch(8 * int64(C.surgeon_eigh_scratch(C.int64_t(a.Rows))))
			ok[i] = d.eighLarge(d.eigen(a, values[i], vectors[i], scratch, status)) == C.SURGEON_EIGH_DONE
			free()
		}
	}
	return ok
}

func (d *Device) eigen(a, values, vectors device.Tensor, scratch, status unsafe.Pointer) C.surgeon_eigen {
	return C.surgeon_eigen{n: C.int64_t(a.Rows), a: (*C.double)(d.at(a)), values: (*C.double)(d.at(values)), vectors: (*C.double)(d.at(vectors)),
		scratch: (*C.double)(scratch), status: (*C.int)(status)}
}

// jacobi works on all of list together. status is where theirs are.
func (d *Device) jacobi(warm bool, list []C.surgeon_eigen, status unsafe.Pointer) []int32 {
	at := (*C.surgeon_eigen)(d.list("Eigh", words(list)))
	count, largest := C.int64_t(len(list)), C.int64_t(0)
	for _, m := range list {
		largest = max(largest, m.n)
	}
	d.run("Eigh", func() C.int { return C.surgeon_eigh_begin(count, at, largest, flag(warm), d.queue()) })
	if warm {
		w, free := d.scratch(8 * int64(largest*largest))
		for _, m := range list {
			d.run("Eigh", func() C.int {
				return C.surgeon_eigh_rotate(d.library.handle, m.n, m.a, m.v, m.vectors, (*C.double)(w), d.queue())
			})
		}
		free()
	}
	var told []int32
	for sweep := range sweepLimit + 1 {
		d.run("Eigh", func() C.int { return C.surgeon_eigh_check(count, at, largest, flag(sweep == 0), d.queue()) })
		told = d.ints("Eigh", status, len(list))
		if sweep == sweepLimit || !slices.Contains(told, C.SURGEON_EIGH_RUNNING) {
			break
		}
		d.run("Eigh", func() C.int { return C.surgeon_eigh_sweep(count, at, largest, d.queue()) })
	}
	d.run("Eigh", func() C.int { return C.surgeon_eigh_end(count, at, largest, d.queue()) })
	return told
}

// eighLarge is by cuSOLVER, unless the matrix is not finite.
func (d *Device) eighLarge(m C.surgeon_eigen) (status int32) {
	at := (*C.surgeon_eigen)(d.list("Eigh", words([]C.surgeon_eigen{m})))
	d.run("Eigh", func() C.int { return C.surgeon_eigh_begin(1, at, m.n, 0, d.queue()) })
	if status = d.ints("Eigh", unsafe.Pointer(m.status), 1)[0]; status == C.SURGEON_EIGH_FAILED {
		return status
	}
	var bytes C.int64_t
	d.run("Eigh", func() C.int { return C.surgeon_eigh_workspace(d.library.handle, m.n, m.a, m.values, &bytes) })
	work, free := d.scratch(int64(bytes))
	defer free()
	d.run("Eigh", func() C.int {
		return C.surgeon_eigh_large(d.library.handle, m.n, m.a, m.values, work, bytes, m.status)
	})
	d.run("Eigh", func() C.int { return C.surgeon_eigh_end_large(at, m.n, d.queue()) })
	return d.ints("Eigh", unsafe.Pointer(m.status), 1)[0]
}

// EighBatch is cuSOLVER's decomposition of many matrices of one order in one call, which no run makes: the benchmark sets Eigh
// beside it. as holds as.Rows/as.Cols of them, one below the other, and gets eigenvector j of each in its row j; values gets
// theirs, a row for each.
func (d *Device) EighBatch(as, values device.Tensor) []bool {
	n, count := as.Cols, as.Rows/as.Cols
	if as.Type != device.F64 || values.Type != device.F64 || as.Rows != count*n || values.Rows != count || values.Cols != n {
		panic(device.Misuse("EighBatch: as must be float64 matrices of one order, one below the other, and values a row for each"))
	}
	infos, free := d.scratch(int64(4 * count))
	defer free()
	var bytes C.int64_t
	d.run("EighBatch", func() C.int {
		return C.surgeon_eigh_batch_workspace(d.library.handle, C.int64_t(n), C.int64_t(count), (*C.double)(d.at(as)), (*C.double)(d.at(values)), &bytes)
	})
	work, free := d.scratch(int64(bytes))
	defer free()
	d.run("EighBatch", func() C.int {
		return C.surgeon_eigh_batch(d.library.handle, C.int64_t(n), C.int64_t(count), (*C.double)(d.at(as)), (*C.double)(d.at(values)), work, bytes, (*C.int)(infos))
	})
	ok := make([]bool, count)
	for i, info := range d.ints("EighBatch", infos, count) {
		ok[i] = info == 0
	}
	return ok
}
