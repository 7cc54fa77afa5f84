//go:build cuda

package cuda

// #include "kernels.h"
import "C"

import (
	"math"
	"unsafe"

	"surgeon/engine/device"
)

// Gather is y_ij ← x[rows_i, cols_j].
func (d *Device) Gather(x device.Tensor, rows, cols []int32, y device.Tensor) {
	device.CheckGather(x, rows, cols, y)
	from, to := d.at(x), d.at(y)
	is, js := d.indices("Gather", rows, cols)
	d.run("Gather", func() C.int {
		return C.surgeon_gather(C.int(x.Type), C.int64_t(y.Rows), C.int64_t(y.Cols), from, C.int64_t(x.Cols), is, js, to, d.queue())
	})
}

// Scatter is y[rows_i, cols_j] ← x_ij.
func (d *Device) Scatter(x device.Tensor, rows, cols []int32, y device.Tensor) {
	device.CheckScatter(x, rows, cols, y)
	from, to := d.at(x), d.at(y)
	is, js := d.indices("Scatter", rows, cols)
	d.run("Scatter", func() C.int {
		return C.surgeon_scatter(C.int(x.Type), C.int64_t(x.Rows), C.int64_t(x.Cols), from, is, js, C.int64_t(y.Cols), to, d.queue())
	})
}

// Extract is y_ij ← s[rows_i, cols_j].
func (d *Device) Extract(s device.Sym, rows, cols []int32, y device.Tensor) {
	device.CheckExtract(s, rows, cols, y)
	from, to := d.at(s.Packed), d.at(y)
	is, js := d.indices("Extract", rows, cols)
	d.run("Extract", func() C.int {
		return C.surgeon_extract(C.int(s.Packed.Type), C.int(y.Type), from, C.int64_t(y.Rows), is, C.int64_t(y.Cols), js, to, d.queue())
	})
}

// indices is lists, as the launchers have them.
func (d *Device) indices(op string, rows, cols []int32) (is, js *C.int32_t) {
	a, b := d.lists(op, rows, cols)
	return (*C.int32_t)(a), (*C.int32_t)(b)
}

// AddDiagonal is a ← a + λ·I.
func (d *Device) AddDiagonal(lambda float64, a device.Tensor) {
	device.CheckAddDiagonal(a)
	at := d.at(a)
	d.run("AddDiagonal", func() C.int {
		return C.surgeon_add_diagonal(C.int(a.Type), C.int64_t(a.Rows), C.double(lambda), at, d.queue())
	})
}

// Diagonal downloads the diagonal of s.
func (d *Device) Diagonal(s device.Sym, dst []float64) {
	device.CheckDiagonal(s, dst)
	from := d.at(s.Packed)
	if s.N == 0 {
		return
	}
	diag, free := d.scratch(int64(8 * s.N))
	defer free()
	d.run("Diagonal", func() C.int {
		return C.surgeon_diagonal(C.int(s.Packed.Type), C.int64_t(s.N), from, (*C.double)(diag), d.queue())
	})
	d.toHost("Diagonal", pointer(diag), unsafe.Slice((*byte)(unsafe.Pointer(&dst[0])), 8*s.N))
}

// What WatchFinite remembers is one number on the device, so that nothing waits before FirstNonFinite.

// startWatch makes the number. It is there from the beginning, for it must not look like a tensor that an operation keeps.
func (d *Device) startWatch() error {
	d.watched, _ = d.take(8)
	d.forget("WatchFinite")
	return d.err
}

func (d *Device) closeWatch() {
	if d.watched.size > 0 {
		d.give(d.watched)
		d.watched = block{}
	}
}

func (d *Device) smallestTag() *C.int64_t { return (*C.int64_t)(address(d.watched.at)) }

func (d *Device) forget(op string) {
	d.run(op, func() C.int { return C.surgeon_watch_forget(d.smallestTag(), d.queue()) })
}

// WatchFinite remembers tag if the diagonal of s is not finite.
func (d *Device) WatchFinite(tag int, s device.Sym) {
	device.CheckWatchFinite(s)
	at := d.at(s.Packed)
	d.run("WatchFinite", func() C.int {
		return C.surgeon_watch_finite(C.int(s.Packed.Type), C.int64_t(s.N), at, C.int64_t(tag), d.smallestTag(), d.queue())
	})
}

// FirstNonFinite is the smallest tag remembered since it was asked last.
func (d *Device) FirstNonFinite() (tag int, found bool) {
	smallest := int64(math.MaxInt64) // none
	d.toHost("FirstNonFinite", d.watched.at, unsafe.Slice((*byte)(unsafe.Pointer(&smallest)), 8))
	if smallest == math.MaxInt64 {
		return 0, false
	}
	d.forget("FirstNonFinite")
	return int(smallest), true
}
