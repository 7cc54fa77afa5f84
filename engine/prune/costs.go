package prune

import (
	"fmt"
	"math"
	"slices"

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

// Costs are the costs of all rows and columns of some layers, in nats per token (method.md section 3; The LLM Surgeon,
// section 3.2). Numerators take the undamped factor, denominators the damped one: R·C² + R²·C FLOP for the numerators of both
// sides of a layer, and 2/3 (R³ + C³) for the denominators, which a device makes side by side for all layers. What stays is to be
// told apart with alive; dead structures cost 0. The returned Raised lists dampings that had to be raised.
func Costs(d device.Device, layers []Layer, alive []Kept, kind Cost, damp Damping) ([]LayerCosts, []Raised, error) {
	all := make([]LayerCosts, len(layers))
	var factored []int
	var raised []Raised
	for i, l := range layers {
		all[i] = LayerCosts{Name: l.Name, Rows: make([]float64, len(alive[i].Rows)), Cols: make([]float64, len(alive[i].Cols)), Alive: alive[i]}
		if count(alive[i].Rows) == 0 || count(alive[i].Cols) == 0 {
			continue
		}
		switch {
		case kind == OBD:
			obdCosts(d, l, alive[i], all[i])
		case l.factored(damp):
			factored = append(factored, i)
		default:
			more, err := exactCosts(d, l, alive[i], damp, all[i])
			if err != nil {
				return nil, nil, err
			}
			raised = append(raised, more...)
		}
	}
	more, err := factoredCosts(d, layers, alive, factored, damp, all)
	if err != nil {
		return nil, nil, err
	}
	for _, c := range all {
		if err := check(c); err != nil {
			return nil, nil, err
		}
	}
	return all, append(raised, more...), nil
}

// factoredCosts are OBS costs for F' = G' ⊗ A', as published, of the layers at some places: undamped above, damped below.
func factoredCosts(d device.Device, layers []Layer, alive []Kept, places []int, damp Damping, all []LayerCosts) (raised []Raised, err error) {
	var factors []*factor // G and A, layer after layer
	var energies []device.Tensor
	defer func() { d.Free(energies...) }()
	for _, i := range places {
		p := newProducts(d, layers[i], alive[i], damp)[0]
		rows, cols := p.energies(d, gather(d, layers[i].W, p.g.index, p.a.index))
		factors, energies = append(factors, p.g, p.a), append(energies, rows, cols)
	}
	inverses, err := inverseDiagonals(d, factors)
	if err != nil {
		return nil, err
	}
	for k, f := range factors {
		costs := all[places[k/2]].Rows
		if k%2 == 1 {
			costs = all[places[k/2]].Cols
		}
		for i, v := range device.DownloadSlice[float64](d, energies[k]) {
			costs[f.index[i]] = v / 2 / inverses[k][i]
		}
		raised = append(raised, f.raised()...)
	}
	return raised, nil
}

// obdCosts are OBD costs for a sum of products: row ½ Σ_k G_k,rr (w_r A_k w_rᵀ), column ½ Σ_k A_k,cc (w_cᵀ G_k w_c).
func obdCosts(d device.Device, l Layer, alive Kept, out LayerCosts) {
	for _, p := range newProducts(d, l, alive, Damping{}) {
		rows, cols := p.energies(d, gather(d, l.W, p.g.index, p.a.index))
		gd, ad := p.g.diagonal(d), p.a.diagonal(d)
		for i, v := range device.DownloadSlice[float64](d, rows) {
			out.Rows[p.g.index[i]] += v / 2 * gd[i]
		}
		for j, v := range device.DownloadSlice[float64](d, cols) {
			out.Cols[p.a.index[j]] += v / 2 * ad[j]
		}
		d.Free(rows, cols)
	}
}

// energies are the numerators of one product, w_r A w_rᵀ of all rows and w_cᵀ G w_c of all columns. The caller frees them; w is
// freed.
func (p product) energies(d device.Device, w device.Tensor) (rows, cols device.Tensor) {
	rows, cols = d.Alloc(1, w.Rows, device.F64), d.Alloc(1, w.Cols, device.F64)
	sideEnergies(d, device.Right, p.a.square(d, p.a.index), w, rows)
	sideEnergies(d, device.Left, p.g.square(d, p.g.index), w, cols)
	d.Free(w)
	return rows, cols
}

// sideEnergies are those of the rows or columns of w by a factor, where a zero one stands for the identity. The factor is freed.
func sideEnergies(d device.Device, side device.Side, square, w, to device.Tensor) {
	switch {
	case !square.IsZero():
		d.Energies(side, square, w, to)
		d.Free(square)
	case side == device.Right:
		d.RowDot(w, w, to)
	default:
		d.ColDot(w, w, to)
	}
}

// inverseDiagonals are the diagonals of the inverses of damped factors, over their alive indices. Layers that read the same input
// share an A: the same matrix over the same indices is inverted once.
func inverseDiagonals(d device.Device, factors []*factor) ([][]float64, error) {
	var distinct []*factor
	var indices [][]int32
	at := make([]int, len(factors)) // in distinct
	for i, f := range factors {
		at[i] = slices.IndexFunc(distinct, f.same)
		if at[i] < 0 {
			at[i] = len(distinct)
			distinct, indices = append(distinct, f), append(indices, f.index)
		}
	}
	ls, err := factorise(d, distinct, indices)
	if err != nil {
		return nil, err
	}
	var made, diagonals []device.Tensor
	for i, l := range ls {
		if !distinct[i].identity() {
			made, diagonals = append(made, l), append(diagonals, d.Alloc(1, l.Rows, device.F64))
		}
	}
	d.CholeskyInverseDiag(made, diagonals)
	d.Free(made...)
	values := make([][]float64, len(distinct))
	next := 0
	for i, f := range distinct {
		if f.identity() {
			values[i] = f.diagonal(d)
			continue
		}
		values[i] = device.DownloadSlice[float64](d, diagonals[next])
		next++
	}
	d.Free(diagonals...)
	all := make([][]float64, len(factors))
	for i, f := range factors {
		all[i], f.share = values[at[i]], distinct[at[i]].share
	}
	return all, nil
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
