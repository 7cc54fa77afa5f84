//go:build cuda

package cuda

// #include "kernels.h"
import "C"

import "surgeon/engine/device"

// Kernels: vector.cu, root.cu.

// Axpy is y ← α·x + y.
func (d *Device) Axpy(alpha float64, x, y device.Tensor) {
	device.CheckAxpy(x, y)
	ax, ay := d.at(x), d.at(y)
	d.run("Axpy", func() C.int {
		return C.surgeon_axpy(C.int(x.Type), C.int64_t(x.Len()), C.double(alpha), ax, ay, d.queue())
	})
}

// RowDot is d_i ← Σ_j x_ij·y_ij.
func (d *Device) RowDot(x, y, dot device.Tensor) {
	device.CheckRowDot(x, y, dot)
	ax, ay, ad := d.at(x), d.at(y), d.at(dot)
	scratch, free := d.scratch(int64(C.surgeon_row_dot_scratch(C.int64_t(x.Rows), C.int64_t(x.Cols))))
	defer free()
	d.run("RowDot", func() C.int {
		return C.surgeon_row_dot(C.int(x.Type), C.int64_t(x.Rows), C.int64_t(x.Cols), ax, ay, ad, scratch, d.queue())
	})
}

// ColDot is d_j ← Σ_i x_ij·y_ij.
func (d *Device) ColDot(x, y, dot device.Tensor) {
	device.CheckColDot(x, y, dot)
	ax, ay, ad := d.at(x), d.at(y), d.at(dot)
	scratch, free := d.scratch(int64(C.surgeon_col_dot_scratch(C.int64_t(x.Rows), C.int64_t(x.Cols))))
	defer free()
	d.run("ColDot", func() C.int {
		return C.surgeon_col_dot(C.int(x.Type), C.int64_t(x.Rows), C.int64_t(x.Cols), ax, ay, ad, scratch, d.queue())
	})
}

// Energies is e_j ← x_jᵀ·s·x_j of the columns of x, or e_i ← x_i·s·x_iᵀ of its rows.
func (d *Device) Energies(side device.Side, s, x, e device.Tensor) {
	device.CheckEnergies(side, s, x, e)
	as, ax, ae := d.at(s), d.at(x), d.at(e)
	right := flag(side == device.Right)
	scratch, free := d.scratch(int64(C.surgeon_energies_scratch(right, C.int64_t(x.Rows), C.int64_t(x.Cols))))
	defer free()
	d.run("Energies", func() C.int {
		return C.surgeon_energies(d.library.handle, right, C.int64_t(x.Rows), C.int64_t(x.Cols), (*C.double)(as), (*C.double)(ax), (*C.double)(ae), scratch, d.queue())
	})
}

// ScaleRoot is y_i ← √max(sign·w_i, 0)·x_i.
func (d *Device) ScaleRoot(sign float64, w, x, y device.Tensor) {
	device.CheckScaleRoot(sign, w, x, y)
	aw, ax, ay := d.at(w), d.at(x), d.at(y)
	d.run("ScaleRoot", func() C.int {
		return C.surgeon_scale_root(C.int(x.Type), C.int64_t(x.Rows), C.int64_t(x.Cols), C.double(sign), aw, ax, ay, d.queue())
	})
}

// Square is y_ij ← x_ij².
func (d *Device) Square(x, y device.Tensor) {
	device.CheckSquare(x, y)
	ax, ay := d.at(x), d.at(y)
	d.run("Square", func() C.int {
		return C.surgeon_square(C.int(x.Type), C.int64_t(x.Len()), ax, ay, d.queue())
	})
}

// MaxAbs is r_i ← max_j |x_ij| and c_j ← max_i |x_ij|.
func (d *Device) MaxAbs(x, r, c device.Tensor) {
	device.CheckMaxAbs(x, r, c)
	ax, ar, ac := d.at(x), d.at(r), d.at(c)
	scratch, free := d.scratch(int64(C.surgeon_max_abs_scratch(C.int64_t(x.Rows), C.int64_t(x.Cols))))
	defer free()
	d.run("MaxAbs", func() C.int {
		return C.surgeon_max_abs(C.int(x.Type), C.int64_t(x.Rows), C.int64_t(x.Cols), ax, ar, ac, scratch, d.queue())
	})
}
