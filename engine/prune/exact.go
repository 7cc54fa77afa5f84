package prune

import "surgeon/engine/device"

// exactCosts are OBS costs from the exact inverse of spectral.go. Removing a set Q of weights and re-fitting the rest raises the
// quadratic model by ½ w_Qᵀ ([F'⁻¹]_QQ)⁻¹ w_Q. For row r that block is K₂ diag(t_r) K₂ᵀ with t = (K₁∘K₁)·T, for column c
// K₁ diag(t_c) K₁ᵀ with t = T·(K₂∘K₂)ᵀ, so that
//
//	row r     ½ Σ_j U_rj² / t_rj,  U = W K₂⁻ᵀ,  t = (K₁∘K₁) T
//	column c  ½ Σ_i U_ic² / t_ic,  U = K₁⁻¹ W,  t = T (K₂∘K₂)ᵀ
//
// exactly, for all rows and columns by four products; K and T are those of F'/unit, and what they give is times unit. Numerators
// and denominators take the same damped F': this is the increase of the model that the update minimises. The published form for
// one product of damped factors (costs.go) takes the undamped factor above and the damped one below, and is lower by about the
// damping. FLOP: 4·R²·C + 4·R·C² beside what newSpectral takes.
func exactCosts(d device.Device, l Layer, alive Kept, damp Damping, out LayerCosts) ([]Raised, error) {
	products := newProducts(d, l, alive, damp)
	w := gather(d, l.W, products[0].g.index, products[0].a.index)
	defer d.Free(w)
	s, err := newSpectral(d, l, products, products[0].g.index, products[0].a.index, damp)
	if err != nil {
		return nil, err
	}
	defer s.free(d)
	inverse := s.reciprocals(d)
	u, t := d.Alloc(w.Rows, w.Cols, device.F64), d.Alloc(w.Rows, w.Cols, device.F64)
	rows, cols := d.Alloc(1, w.Rows, device.F64), d.Alloc(1, w.Cols, device.F64)
	defer d.Free(inverse, u, t, rows, cols)

	right(d, w, s.cols.back, u)
	squares := s.rows.squares(d)
	left(d, squares, inverse, t)
	d.Free(squares)
	d.Divide(u, t, t)
	d.RowDot(u, t, rows)

	if s.rows.back.IsZero() {
		d.Copy(w, u)
	} else {
		d.Gemm(true, false, 1, s.rows.back, w, 0, u)
	}
	squares = s.cols.squares(d)
	rightTransposed(d, inverse, squares, t)
	d.Free(squares)
	d.Divide(u, t, t)
	d.ColDot(u, t, cols)

	for i, v := range device.DownloadSlice[float64](d, rows) {
		out.Rows[products[0].g.index[i]] = s.unit * v / 2
	}
	for j, v := range device.DownloadSlice[float64](d, cols) {
		out.Cols[products[0].a.index[j]] = s.unit * v / 2
	}
	return s.raised, nil
}

// sumOver is what ½ w² is divided by for the costs of single weights, for every curvature but one product of damped factors, over
// alive rows and columns, R×C F64: OBS [F'⁻¹]_(rc),(rc), OBD 1 / Σ_k G_k,rr A_k,cc. The caller frees it.
func sumOver(d device.Device, l Layer, alive Kept, kind Cost, damp Damping) (device.Tensor, []Raised, error) {
	if kind != OBD {
		return fisherInverseDiagonal(d, l, alive, damp)
	}
	rows, cols := count(alive.Rows), count(alive.Cols)
	sum, over := fill(d, rows, cols, 0), fill(d, rows, cols, 1)
	for _, p := range newProducts(d, l, alive, Damping{}) {
		one := outer(d, p.g.diagonal(d), p.a.diagonal(d))
		d.Axpy(1, one, sum)
		d.Free(one)
	}
	d.Divide(over, sum, over)
	d.Free(sum)
	return over, nil, nil
}

// fisherInverseDiagonal is [F'⁻¹]_(rc),(rc) = [(K₁∘K₁) T (K₂∘K₂)ᵀ]_rc over alive rows and columns, R×C F64, for a curvature that is
// not one product of damped factors, and where something is alive. The caller frees it.
func fisherInverseDiagonal(d device.Device, l Layer, alive Kept, damp Damping) (device.Tensor, []Raised, error) {
	products := newProducts(d, l, alive, damp)
	s, err := newSpectral(d, l, products, products[0].g.index, products[0].a.index, damp)
	if err != nil {
		return device.Tensor{}, nil, err
	}
	defer s.free(d)
	over := d.Alloc(len(products[0].g.index), len(products[0].a.index), device.F64)
	unit := s.inverseDiagonal(d)
	d.Zero(over)
	d.Axpy(1/s.unit, unit, over)
	d.Free(unit)
	return over, s.raised, nil
}

// inverseDiagonal is the diagonal of (F'/unit)⁻¹, R×C; the caller frees it.
func (s *spectral) inverseDiagonal(d device.Device) device.Tensor {
	t := s.reciprocals(d)
	x := d.Alloc(t.Rows, t.Cols, device.F64)
	defer d.Free(x)
	squares := s.rows.squares(d)
	left(d, squares, t, x)
	d.Free(squares)
	squares = s.cols.squares(d)
	rightTransposed(d, x, squares, t)
	d.Free(squares)
	return t
}

// reciprocals is T, T_ij = 1/(α + s_i·t_j).
func (s *spectral) reciprocals(d device.Device) device.Tensor {
	t := fill(d, s.rows.values.Cols, s.cols.values.Cols, 1)
	d.DivideOuter(s.alpha, s.rows.values, s.cols.values, t)
	return t
}

// squares is K∘K, zero for the identity.
func (b basis) squares(d device.Device) device.Tensor {
	if b.k.IsZero() {
		return device.Tensor{}
	}
	x := d.Alloc(b.k.Rows, b.k.Rows, device.F64)
	d.Square(b.k, x)
	return x
}

// rightTransposed is y ← x·aᵀ, where a zero a stands for the identity.
func rightTransposed(d device.Device, x, a, y device.Tensor) {
	if a.IsZero() {
		d.Copy(x, y)
		return
	}
	d.Gemm(false, true, 1, x, a, 0, y)
}
