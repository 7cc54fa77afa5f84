package cpu

import "surgeon/engine/device"

// energyBlock is how many rows or columns of x are multiplied at one time: a panel of gonum's products.
const energyBlock = 128

// Energies is e_j ← x_jᵀ·s·x_j of the columns of x, or e_i ← x_i·s·x_iᵀ of its rows. With H the blocks of s on one side of those on its
// diagonal twice, and those on the diagonal, xᵀ·s·x is xᵀ·H·x: only half of the product with s is made.
func (d *Device) Energies(side device.Side, s, x, e device.Tensor) {
	device.CheckEnergies(side, s, x, e)
	y := d.Alloc(x.Rows, x.Cols, device.F64)
	defer d.Free(y)
	bs, bx, by := whole[float64](d, s), whole[float64](d, x), whole[float64](d, y)
	n := s.Rows
	for from := 0; from < n; from += energyBlock {
		to := min(from+energyBlock, n)
		square := bs.part(from, to, from, to)
		if side == device.Left {
			out := by.part(from, to, 0, x.Cols)
			product(false, false, 1, square, bx.part(from, to, 0, x.Cols), 0, out)
			product(false, false, 2, bs.part(from, to, to, n), bx.part(to, n, 0, x.Cols), 1, out)
		} else {
			out := by.part(0, x.Rows, from, to)
			product(false, false, 1, bx.part(0, x.Rows, from, to), square, 0, out)
			product(false, false, 2, bx.part(0, x.Rows, to, n), bs.part(to, n, from, to), 1, out)
		}
	}
	if side == device.Left {
		d.ColDot(x, y, e)
	} else {
		d.RowDot(x, y, e)
	}
}
