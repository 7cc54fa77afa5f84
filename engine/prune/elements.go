package prune

import (
	"fmt"

	"surgeon/engine/device"
)

// ElementCosts are the costs of a layer's single weights (method.md section 3), in a form that takes two vectors and not as much
// room as the layer: they are made from the weights whenever they are looked at,
//
//	cost_rc = ½ w_rc² · Rows_r · Cols_c / Over_rc        nats per token
//
// with Rows_r = 1/[G'⁻¹]_rr and Cols_c = 1/[A'⁻¹]_cc for OBS, G_rr and A_cc for OBD, 0 for what is dead. Over is 1 unless the
// curvature is more than one product of two factors.
type ElementCosts struct {
	Name       string
	Rows, Cols []float64
	Over       device.Tensor // R×C, F64; zero where it is 1 everywhere
	Alive      Kept
}

// CostElements measures what the costs of a layer's single weights are made of: 2/3 (R³ + C³) FLOP for OBS.
func CostElements(d device.Device, l Layer, alive Kept, kind Cost, damp Damping) (ElementCosts, []Raised, error) {
	out := ElementCosts{Name: l.Name, Rows: make([]float64, len(alive.Rows)), Cols: make([]float64, len(alive.Cols)), Alive: alive}
	rows, cols := positions(alive.Rows), positions(alive.Cols)
	if len(rows) == 0 || len(cols) == 0 {
		return out, nil, nil
	}
	var raised []Raised
	for _, side := range []struct {
		name  string
		sym   device.Sym
		alive []bool
		share float64
		dst   []float64
	}{{"G", l.G, alive.Rows, damp.G, out.Rows}, {"A", l.A, alive.Cols, damp.A, out.Cols}} {
		at := positions(side.alive)
		switch {
		case side.sym.N == 0:
			spread(side.dst, at, side.dst[:len(at)], func(float64, int) float64 { return 1 })
		case kind == OBD:
			diag := diagonal(d, side.sym)
			spread(side.dst, at, diag[:len(at)], func(_ float64, i int) float64 { return diag[at[i]] })
		default:
			f := newFactor(d, l.Name, side.name, side.sym, side.alive, side.share)
			inverse, err := inverseDiagonal(d, f)
			if err != nil {
				return out, nil, err
			}
			spread(side.dst, at, inverse, func(v float64, _ int) float64 { return 1 / v })
			raised = append(raised, f.raised(side.share)...)
		}
	}
	return out, raised, check(LayerCosts{Name: l.Name, Rows: out.Rows, Cols: out.Cols})
}

// Of is the R×C matrix of costs for the weights w, R×C and F64; the caller frees it.
func (c ElementCosts) Of(d device.Device, w device.Tensor) device.Tensor {
	r, k := device.NewFrom(d, c.Rows, 1, len(c.Rows), device.F64), device.NewFrom(d, c.Cols, 1, len(c.Cols), device.F64)
	defer d.Free(r, k)
	cost := d.Alloc(w.Rows, w.Cols, device.F64)
	d.ElementCosts(w, r, k, cost)
	if !c.Over.IsZero() {
		d.Divide(cost, c.Over, cost)
	}
	return cost
}

// Free gives back what the costs hold on the device.
func (c ElementCosts) Free(d device.Device) { d.Free(c.Over) }

// Weights are the single weights of all layers, or blocks of them, as a selection sees them.
type Weights struct {
	Structure Structure
	Layers    []WeightsOf
	Costs     func(layer int) (device.Tensor, error) // the R×C costs, F64; whoever asks frees them
}

// WeightsOf is one layer.
type WeightsOf struct {
	Name       string
	Rows, Cols int  // of [W b]
	Bias       bool // the last column is a bias
}

// CheckBlocks refuses a layer whose inputs are no whole number of blocks.
func (w Weights) CheckBlocks() error {
	if !w.Structure.Blocks() {
		return nil
	}
	for _, l := range w.Layers {
		if n := l.inputs(w.Structure); n%w.Structure.M != 0 {
			return fmt.Errorf("layer %s has %d inputs, which are no whole number of blocks of %d", l.Name, n, w.Structure.M)
		}
	}
	return nil
}

// inputs is the columns that take part: with blocks, those without the bias.
func (l WeightsOf) inputs(s Structure) int {
	if l.Bias && s.Blocks() {
		return l.Cols - 1
	}
	return l.Cols
}

// values are what is ranked in a layer: the costs of its weights, or for each block the sum of its N smallest. The caller frees
// them.
func (w Weights) values(d device.Device, layer int) (device.Tensor, error) {
	costs, err := w.Costs(layer)
	if err != nil || !w.Structure.Blocks() {
		return costs, err
	}
	inner := w.inner(d, layer, costs)
	defer d.Free(inner)
	sums := d.Alloc(inner.Rows, inner.Cols/w.Structure.M, device.F64)
	d.Smallest(w.Structure.N, w.Structure.M, inner, sums, nil)
	return sums, nil
}

// inner is costs without the bias column; costs themselves are freed, or returned.
func (w Weights) inner(d device.Device, layer int, costs device.Tensor) device.Tensor {
	n := w.Layers[layer].inputs(w.Structure)
	if n == costs.Cols {
		return costs
	}
	columns := make([]int32, n)
	for i := range columns {
		columns[i] = int32(i)
	}
	inner := d.Alloc(costs.Rows, n, costs.Type)
	d.Gather(costs, nil, columns, inner)
	d.Free(costs)
	return inner
}

// Total is the number of weights of all layers.
func (w Weights) Total() int {
	n := 0
	for _, l := range w.Layers {
		n += l.Rows * l.Cols
	}
	return n
}

// ranked is the number of weights, or of blocks, that are compared in a layer.
func (w Weights) ranked(layer int) int {
	l := w.Layers[layer]
	return l.Rows * l.inputs(w.Structure) / w.Structure.M
}
