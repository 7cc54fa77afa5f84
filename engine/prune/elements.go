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

// CostElements measures what the costs of the single weights of some layers are made of: for OBS with one product of damped
// factors 2/3 (R³ + C³) FLOP for a layer, which a device does side by side for all. Where the diagonal of the Fisher block was
// measured too, D_rc = mean g_r²·a_c², costs are multiplied by D_rc / (G_rr·A_cc): what the diagonal is over what the factors
// make of it. In an error nothing is held.
func CostElements(d device.Device, layers []Layer, alive []Kept, kind Cost, damp Damping) ([]ElementCosts, []Raised, error) {
	all := make([]ElementCosts, len(layers))
	raised, err := costElements(d, layers, alive, kind, damp, all)
	if err != nil {
		for _, c := range all {
			c.Free(d)
		}
		return nil, nil, err
	}
	return all, raised, nil
}

func costElements(d device.Device, layers []Layer, alive []Kept, kind Cost, damp Damping, all []ElementCosts) (raised []Raised, err error) {
	var factored []int    // the layers of one product, whose
	var factors []*factor // G and A these are, layer after layer
	for i, l := range layers {
		all[i] = ElementCosts{Name: l.Name, Rows: make([]float64, len(alive[i].Rows)), Cols: make([]float64, len(alive[i].Cols)), Alive: alive[i]}
		out := &all[i]
		switch {
		case count(out.Alive.Rows) == 0 || count(out.Alive.Cols) == 0:
		case len(l.Rest) > 0 || kind == OBS && !l.factored(damp):
			over, more, err := sumOver(d, l, out.Alive, kind, damp)
			if err != nil {
				return nil, err
			}
			out.Over, raised = widened(d, l, out.Alive, over), append(raised, more...)
			for _, at := range positions(out.Alive.Rows) {
				out.Rows[at] = 1
			}
			for _, at := range positions(out.Alive.Cols) {
				out.Cols[at] = 1
			}
		default:
			p := newProducts(d, l, out.Alive, damp)[0]
			if !l.Diagonal.IsZero() {
				out.Over = widened(d, l, out.Alive, diagonalOver(d, l, p.g, p.a))
			}
			factored, factors = append(factored, i), append(factors, p.g, p.a)
		}
	}
	var inverses [][]float64
	if kind != OBD {
		if inverses, err = inverseDiagonals(d, factors); err != nil {
			return nil, err
		}
	}
	for k, f := range factors {
		values := all[factored[k/2]].Rows
		if k%2 == 1 {
			values = all[factored[k/2]].Cols
		}
		if kind == OBD {
			for i, v := range f.diagonal(d) {
				values[f.index[i]] = v
			}
		} else {
			for i, v := range inverses[k] {
				values[f.index[i]] = 1 / v
			}
		}
		raised = append(raised, f.raised()...)
	}
	for _, i := range factored {
		if err := check(LayerCosts{Name: all[i].Name, Rows: all[i].Rows, Cols: all[i].Cols}); err != nil {
			return nil, err
		}
	}
	return raised, nil
}

// diagonalOver is G_rr·A_cc / D_rc over alive rows and columns: +Inf where D is 0, and the cost with it.
func diagonalOver(d device.Device, l Layer, g, a *factor) device.Tensor {
	measured := gather(d, l.Diagonal, g.index, a.index)
	diag := d.Alloc(measured.Rows, measured.Cols, device.F64)
	d.Copy(measured, diag)
	over := outer(d, g.diagonal(d), a.diagonal(d))
	d.Divide(over, diag, over)
	d.Free(measured, diag)
	return over
}

// outer is the matrix of r_i·c_j, the caller frees it.
func outer(d device.Device, r, c []float64) device.Tensor {
	twice := make([]float64, len(r)) // ElementCosts halves
	for i, v := range r {
		twice[i] = 2 * v
	}
	rows, cols, one := device.NewFrom(d, twice, 1, len(r), device.F64), device.NewFrom(d, c, 1, len(c), device.F64), fill(d, len(r), len(c), 1)
	defer d.Free(rows, cols, one)
	x := d.Alloc(len(r), len(c), device.F64)
	d.ElementCosts(one, rows, cols, x)
	return x
}

// widened is an alive matrix, which is freed, in the place it has in the full one, with 1 elsewhere.
func widened(d device.Device, l Layer, alive Kept, x device.Tensor) device.Tensor {
	full := fill(d, l.W.Rows, l.W.Cols, 1)
	d.Scatter(x, positions(alive.Rows), positions(alive.Cols), full)
	d.Free(x)
	return full
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
	Structure  Structure
	KeepBiases bool // biases take no part, as they never do in blocks
	Layers     []WeightsOf
	Costs      func(layer int) (device.Tensor, error) // the R×C costs, F64; whoever asks frees them
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
	for i, l := range w.Layers {
		if n := w.inputs(i); n%w.Structure.M != 0 {
			return fmt.Errorf("layer %s has %d inputs, which are no whole number of blocks of %d", l.Name, n, w.Structure.M)
		}
	}
	return nil
}

// inputs is the columns of a layer that take part: all, or all but the bias.
func (w Weights) inputs(layer int) int {
	l := w.Layers[layer]
	if l.Bias && (w.Structure.Blocks() || w.KeepBiases) {
		return l.Cols - 1
	}
	return l.Cols
}

// values are what is ranked in a layer: the costs of its weights, or for each block the sum of its N smallest. The caller frees
// them.
func (w Weights) values(d device.Device, layer int) (device.Tensor, error) {
	costs, err := w.Costs(layer)
	if err != nil {
		return costs, err
	}
	inner := w.inner(d, layer, costs)
	if !w.Structure.Blocks() {
		return inner, nil
	}
	defer d.Free(inner)
	sums := d.Alloc(inner.Rows, inner.Cols/w.Structure.M, device.F64)
	d.Smallest(w.Structure.N, w.Structure.M, inner, sums, nil)
	return sums, nil
}

// inner is costs without the bias column where that takes no part; costs themselves are freed, or returned.
func (w Weights) inner(d device.Device, layer int, costs device.Tensor) device.Tensor {
	n := w.inputs(layer)
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
	return w.Layers[layer].Rows * w.inputs(layer) / w.Structure.M
}
