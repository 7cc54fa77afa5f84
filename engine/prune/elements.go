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

// CostElements measures what the costs of a layer's single weights are made of: 2/3 (R³ + C³) FLOP for OBS with one product of
// damped factors. Where the diagonal of the Fisher block was measured too, D_rc = mean g_r²·a_c², costs are multiplied by
// D_rc / (G_rr·A_cc): what the diagonal is over what the factors make of it.
func CostElements(d device.Device, l Layer, alive Kept, kind Cost, damp Damping) (ElementCosts, []Raised, error) {
	out := ElementCosts{Name: l.Name, Rows: make([]float64, len(alive.Rows)), Cols: make([]float64, len(alive.Cols)), Alive: alive}
	if count(alive.Rows) == 0 || count(alive.Cols) == 0 {
		return out, nil, nil
	}
	if len(l.Rest) > 0 || kind == OBS && !l.factored(damp) {
		for _, side := range []struct {
			marks []bool
			dst   []float64
		}{{alive.Rows, out.Rows}, {alive.Cols, out.Cols}} {
			for _, at := range positions(side.marks) {
				side.dst[at] = 1
			}
		}
		over, raised, err := sumOver(d, l, alive, kind, damp)
		if err != nil {
			return out, nil, err
		}
		out.Over = widened(d, l, alive, over)
		return out, raised, nil
	}
	g, a := newFactor(d, l.Name, "G", l.G, alive.Rows, damp.G), newFactor(d, l.Name, "A", l.A, alive.Cols, damp.A)
	for _, side := range []struct {
		f   *factor
		dst []float64
	}{{g, out.Rows}, {a, out.Cols}} {
		values := side.f.diagonal(d)
		if kind != OBD {
			inverse, err := inverseDiagonal(d, side.f)
			if err != nil {
				return out, nil, err
			}
			for i, v := range inverse {
				values[i] = 1 / v
			}
		}
		for i, at := range side.f.index {
			side.dst[at] = values[i]
		}
	}
	if !l.Diagonal.IsZero() {
		out.Over = widened(d, l, alive, diagonalOver(d, l, g, a))
	}
	return out, append(g.raised(damp.G), a.raised(damp.A)...), check(LayerCosts{Name: l.Name, Rows: out.Rows, Cols: out.Cols})
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
