package prune

import (
	"fmt"
	"math"
	"slices"

	"surgeon/engine/device"
	"surgeon/engine/internal/parallel"
)

// WeightSelection tells which single weights go: those that cost less than a limit, and of those that cost just that as many as
// fit, the first ones of the first layers. Which ones these are is asked layer by layer, while the layer still is as it was.
type WeightSelection struct {
	Threshold *float64 // τ: the largest cost that was taken; nil where weights are not compared over the whole model
	Total     int      // weights of all layers

	weights Weights
	cuts    []cut // per layer
	perRow  []int // InRow: how many go of each row, per layer
}

// cut is where a selection ends in a layer.
type cut struct {
	limit float64
	equal int64 // how many of those that equal the limit go
}

// SelectWeights finds the ⌊target·total⌋ cheapest single weights, of those that take part. For blocks, target stands to N/M as the blocks that are taken
// stand to all of them: at N/M, the most there can be, every block loses its N cheapest weights, and below it the blocks with
// the smallest sums do. Nothing is sorted and no cost is kept: the k-th smallest is found digit by digit of the bits of the
// costs, most significant first, with one look at all layers for each.
//
// A cost that is NaN, negative or infinite is an error that names the layer.
func SelectWeights(d device.Device, w Weights, scope Scope, target float64) (WeightSelection, error) {
	s := WeightSelection{Total: w.Total(), weights: w}
	if !(target > 0 && target < 1) {
		return s, fmt.Errorf("the target sparsity is %v; it must lie between 0 and 1", target)
	}
	if w.Structure.Blocks() && target > w.Structure.Share() {
		return s, fmt.Errorf("the target sparsity is %v; %v takes away %v at most", target, w.Structure, w.Structure.Share())
	}
	all, ranked := make([]int, len(w.Layers)), 0
	for i := range all {
		all[i] = i
		ranked += w.ranked(i)
	}
	if scope == InRow || w.Structure.Blocks() { // there not every cost is ranked
		if err := w.checkFinite(d, all); err != nil {
			return s, err
		}
	}
	switch scope {
	case InRow:
		s.perRow = make([]int, len(w.Layers))
		for i := range w.Layers {
			s.perRow[i] = w.Structure.Taken(target, w.inputs(i))
		}
		return s, nil
	case InLayer:
		for i := range w.Layers {
			cuts, err := w.cheapest(d, []int{i}, w.Structure.Taken(target, w.ranked(i)))
			if err != nil {
				return s, err
			}
			s.cuts = append(s.cuts, cuts...)
		}
		return s, nil
	}
	n := w.Structure.Taken(target, ranked)
	var err error
	if s.cuts, err = w.cheapest(d, all, n); n > 0 && err == nil {
		s.Threshold = &s.cuts[0].limit
	}
	return s, err
}

// digits are how many bits of the costs are looked at in turn: at first the sign and the exponent, where NaN, infinities and
// negative numbers show.
var digits = []int{12, 13, 13, 13, 13}

// notFinite is the first digit of infinities and NaN; those of negative numbers are above it.
const notFinite = 0x7ff

// cheapest finds where the n cheapest of these layers end.
func (w Weights) cheapest(d device.Device, layers []int, n int) ([]cut, error) {
	cuts := make([]cut, len(layers))
	if n == 0 {
		return cuts, w.checkFinite(d, layers)
	}
	var prefix uint64
	var equal []int64 // of each layer, whose keys are prefix in all bits looked at so far
	read, left := 0, int64(n)
	for _, digit := range digits {
		perLayer := make([][]int64, len(layers))
		sum := make([]int64, 1<<digit)
		for k, layer := range layers {
			values, err := w.values(d, layer)
			if err != nil {
				return nil, err
			}
			counts, err := w.histogram(d, layer, values, prefix, read, digit)
			if err != nil {
				return nil, err
			}
			for b, c := range counts {
				sum[b] += c
			}
			perLayer[k] = counts
		}
		bin := 0
		for left > sum[bin] {
			left -= sum[bin]
			bin++
		}
		prefix, read = prefix<<digit|uint64(bin), read+digit
		equal = equal[:0]
		for _, counts := range perLayer {
			equal = append(equal, counts[bin])
		}
	}
	for k := range cuts {
		cuts[k] = cut{limit: math.Float64frombits(prefix), equal: min(equal[k], left)}
		left -= cuts[k].equal
	}
	return cuts, nil
}

// histogram counts a digit of a layer's values, and frees them.
func (w Weights) histogram(d device.Device, layer int, values device.Tensor, prefix uint64, read, digit int) ([]int64, error) {
	counts := make([]int64, 1<<digit)
	d.Histogram(values, prefix, read, counts)
	d.Free(values)
	if err := d.Sync(); err != nil {
		return nil, fmt.Errorf("layer %s: %w", w.Layers[layer].Name, err)
	}
	if read == 0 && slices.ContainsFunc(counts[notFinite:], func(n int64) bool { return n != 0 }) {
		return nil, fmt.Errorf("layer %s: the cost of a weight is negative, infinite or NaN", w.Layers[layer].Name)
	}
	return counts, nil
}

// checkFinite looks at every cost, ranked or not.
func (w Weights) checkFinite(d device.Device, layers []int) error {
	for _, layer := range layers {
		costs, err := w.Costs(layer)
		if err != nil {
			return err
		}
		if _, err := w.histogram(d, layer, costs, 0, 0, digits[0]); err != nil {
			return err
		}
	}
	return nil
}

// Gone marks the weights of a layer, R×C in row-major order, that are gone after the shot.
func (s WeightSelection) Gone(d device.Device, layer int) ([]bool, error) {
	l := s.weights.Layers[layer]
	costs, err := s.weights.Costs(layer)
	if err != nil {
		return nil, err
	}
	inner := s.weights.inner(d, layer, costs)
	defer d.Free(inner)
	marks, err := s.among(d, layer, inner)
	if err != nil || inner.Cols == l.Cols {
		return marks, err
	}
	all := make([]bool, l.Rows*l.Cols) // with the column of the bias
	for i := range l.Rows {
		copy(all[i*l.Cols:], marks[i*inner.Cols:(i+1)*inner.Cols])
	}
	return all, nil
}

// among marks those that go among the ones that take part.
func (s WeightSelection) among(d device.Device, layer int, costs device.Tensor) ([]bool, error) {
	marks, structure := make([]bool, costs.Len()), s.weights.Structure
	if s.perRow != nil {
		d.Smallest(s.perRow[layer], costs.Cols, costs, device.Tensor{}, marks)
		return marks, d.Sync()
	}
	if !structure.Blocks() {
		return s.cuts[layer].below(d, costs)
	}
	sums := d.Alloc(costs.Rows, costs.Cols/structure.M, device.F64)
	defer d.Free(sums)
	d.Smallest(structure.N, structure.M, costs, sums, marks)
	blocks, err := s.cuts[layer].below(d, sums)
	if err != nil {
		return nil, err
	}
	parallel.For(len(marks), marksGrain, func(_, from, to int) {
		for i := from; i < to; i++ { // a row is a whole number of blocks
			marks[i] = marks[i] && blocks[i/structure.M]
		}
	})
	return marks, nil
}

// below marks the values that the cut takes.
func (c cut) below(d device.Device, values device.Tensor) ([]bool, error) {
	order := make([]device.Order, values.Len())
	d.Compare(values, c.limit, order)
	if err := d.Sync(); err != nil {
		return nil, err
	}
	marks := make([]bool, len(order))
	equal := make([]int64, 1+len(order)/marksGrain) // of each piece: how many there are
	parallel.For(len(order), marksGrain, func(_, from, to int) {
		n := int64(0)
		for i, o := range order[from:to] {
			marks[from+i] = o == device.Less
			if o == device.Equal {
				n++
			}
		}
		equal[from/marksGrain] = n
	})
	left := c.equal
	for i, n := range equal { // how many are taken: the first ones
		equal[i] = min(n, left)
		left -= equal[i]
	}
	parallel.For(len(order), marksGrain, func(_, from, to int) {
		for i := from; equal[from/marksGrain] > 0 && i < to; i++ {
			if order[i] == device.Equal {
				marks[i] = true
				equal[from/marksGrain]--
			}
		}
	})
	return marks, nil
}

// marksGrain is how many marks are worth a goroutine.
const marksGrain = 1 << 16
