//go:build cuda

package cuda

// #include "kernels.h"
import "C"

import (
	"unsafe"

	"surgeon/engine/device"
)

// Kernels: elements.cu, histogram.cu, smallest.cu.

// ElementCosts is cost_ij ← ((½·r_i)·w_ij²)·c_j.
func (d *Device) ElementCosts(w, r, c, cost device.Tensor) {
	device.CheckElementCosts(w, r, c, cost)
	aw, ar, ac, to := d.doubles(w), d.doubles(r), d.doubles(c), d.doubles(cost)
	d.run("ElementCosts", func() C.int {
		return C.surgeon_element_costs(C.int64_t(w.Rows), C.int64_t(w.Cols), aw, ar, ac, to, d.queue())
	})
}

// doubles is at, for a tensor of float64.
func (d *Device) doubles(t device.Tensor) *C.double { return (*C.double)(d.at(t)) }

// Histogram counts elements by a digit of their keys.
func (d *Device) Histogram(x device.Tensor, prefix uint64, bits int, counts []int64) {
	digit := device.CheckHistogram(x, prefix, bits, counts)
	from := d.doubles(x)
	if x.Len() == 0 {
		return
	}
	more := make([]int64, len(counts))
	bytes := int64(8 * len(counts))
	at, free := d.scratch(bytes)
	defer free()
	d.clear("Histogram", at, bytes)
	d.run("Histogram", func() C.int {
		return C.surgeon_histogram(C.int64_t(x.Len()), from, C.uint64_t(prefix), C.int(bits), C.int(digit), (*C.uint64_t)(at), d.queue())
	})
	d.toHost("Histogram", pointer(at), unsafe.Slice((*byte)(unsafe.Pointer(&more[0])), bytes))
	if d.err != nil {
		return
	}
	for i, n := range more {
		counts[i] += n
	}
}

// Compare tells how the elements stand to the limit.
func (d *Device) Compare(x device.Tensor, limit float64, marks []device.Order) {
	device.CheckCompare(x, marks)
	from := d.doubles(x)
	d.marks("Compare", unsafe.Slice((*byte)(unsafe.SliceData(marks)), len(marks)), func(at *C.uint8_t) C.int {
		return C.surgeon_compare(C.int64_t(x.Len()), from, C.double(limit), at, d.queue())
	})
}

// marks has f make a byte for each element on the device, and brings them to the host.
func (d *Device) marks(op string, dst []byte, f func(at *C.uint8_t) C.int) {
	if len(dst) == 0 {
		return
	}
	at, free := d.scratch(int64(len(dst)))
	defer free()
	d.run(op, func() C.int { return f((*C.uint8_t)(at)) })
	d.toHost(op, pointer(at), dst)
}

// The kernels know the longest run that is added up in ascending order by another name.
var _ = [1]struct{}{}[C.SURGEON_SMALLEST_ORDERED-device.SmallestOrdered]

// Smallest finds the n smallest of runs of m.
func (d *Device) Smallest(n, m int, x, sums device.Tensor, marks []bool) {
	device.CheckSmallest(n, m, x, sums, marks)
	from, to := d.doubles(x), d.doubles(sums)
	call := func(at *C.uint8_t) C.int {
		return C.surgeon_smallest(C.int64_t(x.Len()/m), C.int64_t(n), C.int64_t(m), from, to, at, d.queue())
	}
	if marks == nil {
		d.run("Smallest", func() C.int { return call(nil) })
		return
	}
	d.marks("Smallest", unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(marks))), len(marks)), call)
}

// Divide is z_i ← x_i / y_i.
func (d *Device) Divide(x, y, z device.Tensor) {
	device.CheckDivide(x, y, z)
	ax, ay, az := d.doubles(x), d.doubles(y), d.doubles(z)
	d.run("Divide", func() C.int { return C.surgeon_divide(C.int64_t(x.Len()), ax, ay, az, d.queue()) })
}

// DivideOuter is x_ij ← x_ij / (α + s_i·t_j).
func (d *Device) DivideOuter(alpha float64, s, t, x device.Tensor) {
	device.CheckDivideOuter(s, t, x)
	as, at, ax := d.doubles(s), d.doubles(t), d.doubles(x)
	d.run("DivideOuter", func() C.int {
		return C.surgeon_divide_outer(C.int64_t(x.Rows), C.int64_t(x.Cols), C.double(alpha), as, at, ax, d.queue())
	})
}
