package prune

import (
	"fmt"
	"math"

	"surgeon/engine/device"
)

// Cost is the measure by which rows and columns are ranked.
type Cost uint8

const (
	// OBS is the increase of the loss after the weights that stay have been re-fitted:
	// row ½ (w_r A w_rᵀ) / [G'⁻¹]_rr, column ½ (w_cᵀ G w_c) / [A'⁻¹]_cc. For other curvatures than one product of damped
	// factors see exact.go.
	OBS Cost = iota
	// OBD is the increase without correlation and without re-fitting: row ½ G_rr (w_r A w_rᵀ), column ½ A_cc (w_cᵀ G w_c),
	// summed over the products of a sum.
	OBD
)

// Costs are the costs of all rows and columns of a layer, in nats per token (method.md section 3; The LLM Surgeon,
// section 3.2). Numerators take the undamped factor, denominators the damped one. All numerators of the rows come from one
// product, rowsum((W A) ∘ W): 2·R·C² + 2·R²·C FLOP for both sides, and 2/3 (R³ + C³) for the denominators. What stays is
// to be told apart with alive; dead structures cost 0. The returned Raised lists dampings that had to be raised.
func Costs(d device.Device, l Layer, alive Kept, kind Cost, damp Damping) (LayerCosts, []Raised, error) {
	rows, cols := positions(alive.Rows), positions(alive.Cols)
	out := LayerCosts{Name: l.Name, Rows: make([]float64, len(alive.Rows)), Cols: make([]float64, len(alive.Cols)), Alive: alive}
	if len(rows) == 0 || len(cols) == 0 {
		return out, nil, nil
	}
	w := d.Alloc(len(rows), len(cols), device.F64)
	defer d.Free(w)
	d.Gather(l.W, rows, cols, w)

	var raised []Raised
	var err error
	switch {
	case kind == OBD:
		obdCosts(d, l, alive, w, out)
	case l.factored(damp):
		raised, err = factoredCosts(d, l, alive, damp, w, out)
	default:
		raised, err = exactCosts(d, l, alive, damp, w, out)
	}
	if err != nil {
		return out, nil, err
	}
	return out, raised, check(out)
}

// factoredCosts are OBS costs for F' = G' ⊗ A', as published: undamped above, damped below.
func factoredCosts(d device.Device, l Layer, alive Kept, damp Damping, w device.Tensor, out LayerCosts) ([]Raised, error) {
	a := newFactor(d, l.Name, "A", l.A, alive.Cols, damp.A)
	g := newFactor(d, l.Name, "G", l.G, alive.Rows, damp.G)
	re, ce := energies(d, g, a, w)
	gi, err := inverseDiagonal(d, g)
	if err != nil {
		return nil, err
	}
	ai, err := inverseDiagonal(d, a)
	if err != nil {
		return nil, err
	}
	for i, at := range g.index {
		out.Rows[at] = re[i] / 2 / gi[i]
	}
	for j, at := range a.index {
		out.Cols[at] = ce[j] / 2 / ai[j]
	}
	return append(g.raised(damp.G), a.raised(damp.A)...), nil
}

// obdCosts are OBD costs for a sum of products: row ½ Σ_k G_k,rr (w_r A_k w_rᵀ), column ½ Σ_k A_k,cc (w_cᵀ G_k w_c).
func obdCosts(d device.Device, l Layer, alive Kept, w device.Tensor, out LayerCosts) {
	for _, p := range newProducts(d, l, alive, Damping{}) {
		re, ce := energies(d, p.g, p.a, w)
		gd, ad := p.g.diagonal(d), p.a.diagonal(d)
		for i, at := range p.g.index {
			out.Rows[at] += re[i] / 2 * gd[i]
		}
		for j, at := range p.a.index {
			out.Cols[at] += ce[j] / 2 * ad[j]
		}
	}
}

// energies are the numerators of one product, w_r A w_rᵀ of all rows and w_cᵀ G w_c of all columns.
func energies(d device.Device, g, a *factor, w device.Tensor) (rows, cols []float64) {
	rowEnergy, colEnergy := d.Alloc(1, w.Rows, device.F64), d.Alloc(1, w.Cols, device.F64)
	defer d.Free(rowEnergy, colEnergy)
	product := d.Alloc(w.Rows, w.Cols, device.F64)
	defer d.Free(product)
	square := a.square(d, a.index)
	right(d, w, square, product)
	d.RowDot(product, w, rowEnergy)
	d.Free(square)
	square = g.square(d, g.index)
	left(d, square, w, product)
	d.ColDot(product, w, colEnergy)
	d.Free(square)
	return device.DownloadSlice[float64](d, rowEnergy), device.DownloadSlice[float64](d, colEnergy)
}

// inverseDiagonal is the diagonal of the inverse of the damped factor, over its alive indices.
func inverseDiagonal(d device.Device, f *factor) ([]float64, error) {
	l, err := f.cholesky(d, f.index)
	if err != nil {
		return nil, err
	}
	if f.identity() {
		return f.diagonal(d), nil
	}
	diag := d.Alloc(1, l.Rows, device.F64)
	defer d.Free(l, diag)
	d.CholeskyInverseDiag([]device.Tensor{l}, []device.Tensor{diag})
	return device.DownloadSlice[float64](d, diag), nil
}

// check refuses costs that are not finite.
func check(c LayerCosts) error {
	for side, costs := range [2][]float64{c.Rows, c.Cols} {
		for i, v := range costs {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				return fmt.Errorf("layer %s: the cost of %v %d is %v", c.Name, Side(side), i, v)
			}
		}
	}
	return nil
}
