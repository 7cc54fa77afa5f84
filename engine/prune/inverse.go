package prune

import (
	"surgeon/engine/device"
)

// firstInverse is the inverse of the first product of a sum over rows × cols of a layer, G₁'⁻¹ ⊗ A₁'⁻¹ times units, with which
// conjugate gradients for the sum are preconditioned. All other products are positive semi-definite, so that F' ≥ G₁' ⊗ A₁'
// and F'⁻¹ ≤ G₁'⁻¹ ⊗ A₁'⁻¹: what it makes of a residual r, rᵀ(G₁'⁻¹ ⊗ A₁'⁻¹)r, is at least rᵀF'⁻¹r, twice what a solution with
// that residual costs above the least. It bounds the error, where a nearer inverse would only estimate it.
//
// (The eigenvectors of the means of the factors make one that is nearer: on random factors with eigenvalues like 1/n², three
// products, 40×48 and damping 0.01, it takes 262 steps to rounding where this one takes 1033. But there a residual of 1e-2 by it
// left 2.4 % above the least, and eigenvectors of large matrices take longer than the steps that they save.)
type firstInverse struct {
	g, a device.Tensor // over rows and cols, of the factors over their units; none for the identity
}

// newFirstInverse makes it over the positions rows × cols, which are alive. 7/3 (R³ + C³) FLOP.
func newFirstInverse(d device.Device, first product, rows, cols []int32) (f firstInverse, err error) {
	if f.g, err = inverseOf(d, first.g, rows); err != nil {
		return firstInverse{}, err
	}
	if f.a, err = inverseOf(d, first.a, cols); err != nil {
		d.Free(f.g)
		return firstInverse{}, err
	}
	return f, nil
}

func (f firstInverse) free(d device.Device) { d.Free(f.g, f.a) }

// solve is x ← (G₁'⁻¹ ⊗ A₁'⁻¹)x times the product's unit, for an R×C matrix.
func (f firstInverse) solve(d device.Device, x device.Tensor) {
	y := d.Alloc(x.Rows, x.Cols, x.Type)
	defer d.Free(y)
	around(d, false, f.g, f.a, x, y)
}

// rounded is solve by products in float32, for R×C matrices, and what gives back its memory.
func (f firstInverse) rounded(d device.Device, rows, cols int) (solve func(x device.Tensor), free func()) {
	g, a := narrowed(d, f.g), narrowed(d, f.a)
	x32, y32 := d.Alloc(rows, cols, device.F32), d.Alloc(rows, cols, device.F32)
	solve = func(x device.Tensor) {
		d.Copy(x, x32)
		around(d, false, g, a, x32, y32)
		d.Copy(x32, x)
	}
	return solve, func() { d.Free(g, a, x32, y32) }
}

// inverseOf is the inverse of the damped factor over the positions idx, none for the identity: 7/3 n³ FLOP. It is that of the
// factor over its unit, so that float32 holds it whatever the scale of the loss.
func inverseOf(d device.Device, f *factor, idx []int32) (device.Tensor, error) {
	l, err := f.cholesky(d, idx)
	if err != nil || f.identity() {
		return device.Tensor{}, err
	}
	defer d.Free(l)
	x := d.Alloc(l.Rows, l.Rows, device.F64)
	d.Zero(x)
	d.AddDiagonal(f.unit(), x)
	d.CholeskySolve(device.Left, []device.Tensor{l}, []device.Tensor{x})
	return x, nil
}
