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
	// row ½ (w_r A w_rᵀ) / [G'⁻¹]_rr, column ½ (w_cᵀ G w_c) / [A'⁻¹]_cc.
	OBS Cost = iota
	// OBD is the increase without correlation and without re-fitting: row ½ G_rr (w_r A w_rᵀ), column ½ A_cc (w_cᵀ G w_c).
	OBD
	// Magnitude is the increase under the identity as curvature: ½ |w_r|², ½ |w_c|².
	Magnitude
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

	rowEnergy, colEnergy := d.Alloc(1, len(rows), device.F64), d.Alloc(1, len(cols), device.F64)
	defer d.Free(rowEnergy, colEnergy)
	if kind == Magnitude {
		d.RowDot(w, w, rowEnergy)
		d.ColDot(w, w, colEnergy)
		spread(out.Rows, rows, device.DownloadSlice[float64](d, rowEnergy), func(e float64, _ int) float64 { return e / 2 })
		spread(out.Cols, cols, device.DownloadSlice[float64](d, colEnergy), func(e float64, _ int) float64 { return e / 2 })
		return out, nil, nil
	}

	a := newFactor(d, l.Name, "A", l.A, alive.Cols, damp.A)
	g := newFactor(d, l.Name, "G", l.G, alive.Rows, damp.G)
	product := d.Alloc(len(rows), len(cols), device.F64)
	defer d.Free(product)
	square := a.square(d, cols)
	d.Gemm(false, false, 1, w, square, 0, product)
	d.RowDot(product, w, rowEnergy)
	d.Free(square)
	square = g.square(d, rows)
	d.Gemm(false, false, 1, square, w, 0, product)
	d.ColDot(product, w, colEnergy)
	d.Free(square)
	re, ce := device.DownloadSlice[float64](d, rowEnergy), device.DownloadSlice[float64](d, colEnergy)

	if kind == OBD {
		gd, ad := diagonal(d, l.G), diagonal(d, l.A)
		spread(out.Rows, rows, re, func(e float64, i int) float64 { return e / 2 * gd[rows[i]] })
		spread(out.Cols, cols, ce, func(e float64, i int) float64 { return e / 2 * ad[cols[i]] })
		return out, nil, check(out)
	}
	gi, err := inverseDiagonal(d, g)
	if err != nil {
		return out, nil, err
	}
	ai, err := inverseDiagonal(d, a)
	if err != nil {
		return out, nil, err
	}
	spread(out.Rows, rows, re, func(e float64, i int) float64 { return e / 2 / gi[i] })
	spread(out.Cols, cols, ce, func(e float64, i int) float64 { return e / 2 / ai[i] })
	return out, append(g.raised(damp.G), a.raised(damp.A)...), check(out)
}

// inverseDiagonal is the diagonal of the inverse of the damped factor, over its alive indices.
func inverseDiagonal(d device.Device, f *factor) ([]float64, error) {
	l, err := f.cholesky(d, f.index)
	if err != nil {
		return nil, err
	}
	diag := d.Alloc(1, l.Rows, device.F64)
	d.CholeskyInverseDiag([]device.Tensor{l}, []device.Tensor{diag})
	x := device.DownloadSlice[float64](d, diag)
	d.Free(l, diag)
	return x, nil
}

// spread writes cost(energy_i, i) to the position at_i of dst.
func spread(dst []float64, at []int32, energy []float64, cost func(energy float64, i int) float64) {
	for i, p := range at {
		dst[p] = cost(energy[i], i)
	}
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
