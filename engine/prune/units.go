package prune

import (
	"fmt"
	"math"
	"slices"

	"surgeon/engine/checkpoint"
	"surgeon/engine/device"
)

// Coupling is all units of one kind in one block (method.md section 3). A unit is what computes one thing, whole:
//
//	MLP, unit j         row j of gate and up (fc1, with its bias), column j of down (fc2)
//	attention, unit h   the rows of key/value head h in k and v, those of the query heads that share it in q, their columns in o
//
// Its columns are all that reads what its rows compute. So where a unit goes the loss rises by what its columns are worth, and
// only the consumer, the layer that has these, is re-fitted.
type Coupling struct {
	Name  string // "the heads of block 3"
	Units int
	Parts []Part // producers, then the consumer
}

// Part is what a unit takes of one layer: unit u takes rows, or columns, u·Width to (u+1)·Width.
type Part struct {
	Layer int // place in the model's linear layers
	Side  Side
	Width int
}

// Consumer is the part that has columns.
func (c Coupling) Consumer() Part { return c.Parts[len(c.Parts)-1] }

// Couplings are those of all blocks, attention before the MLP. linears are all of the model's, in their order.
func Couplings(c checkpoint.Config, linears []checkpoint.Linear) []Coupling {
	all := make([]Coupling, 2*c.Blocks)
	for b := range c.Blocks {
		all[2*b] = Coupling{Name: fmt.Sprintf("the heads of block %d", b), Units: c.KVHeads}
		all[2*b+1] = Coupling{Name: fmt.Sprintf("the neurons of block %d", b), Units: c.Inner}
	}
	queries := c.Heads / c.KVHeads * c.HeadDim // of one key/value head
	for i, l := range linears {
		kind, part := 0, Part{Layer: i, Side: Row, Width: c.HeadDim}
		switch l.Role {
		case checkpoint.Q:
			part.Width = queries
		case checkpoint.O:
			part.Side, part.Width = Col, queries
		case checkpoint.Gate, checkpoint.Up:
			kind, part.Width = 1, 1
		case checkpoint.Down:
			kind, part.Side, part.Width = 1, Col, 1
		}
		at := &all[2*l.Block+kind]
		at.Parts = append(at.Parts, part)
	}
	return all
}

// CostUnits are the costs of the units of a coupling, whose consumer is l, in nats per token, with numerators undamped. A unit
// takes the alive columns Q:
//
//	OBS  ½ tr( ([A'⁻¹]_QQ)⁻¹ W_Qᵀ G W_Q )      OBD  ½ tr( A_QQ W_Qᵀ G W_Q )
//
// the cost of a column where it takes one; 0 where it has none, and for the only unit of a coupling, which never goes.
// CostUnitsFLOP has the arithmetic.
func CostUnits(d device.Device, l Layer, alive Kept, c Coupling, kind Cost, damp Damping) ([]float64, []Raised, error) {
	if !l.factored(damp) {
		panic(device.Misuse("prune: units are costed by one product of damped factors"))
	}
	p := newProducts(d, l, alive, damp)[0]
	columns := unitColumns(c, p.a.index)
	costs := make([]float64, c.Units)
	if c.Units == 1 || len(p.g.index) == 0 || len(p.a.index) == 0 {
		return costs, nil, nil
	}
	var err error
	if c.Consumer().Width == 1 {
		err = p.singleCosts(d, l, columns, kind, costs)
	} else {
		err = p.groupCosts(d, l, columns, kind, costs)
	}
	if err != nil {
		return nil, nil, err
	}
	for u, v := range costs {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, nil, fmt.Errorf("layer %s: the cost of unit %d is %v", l.Name, u, v)
		}
	}
	return costs, p.a.raised(), nil
}

// unitColumns are the alive columns of each unit, as positions among the alive ones, which are at index in the full matrix.
func unitColumns(c Coupling, index []int32) [][]int32 {
	all, width := make([][]int32, c.Units), int32(c.Consumer().Width)
	for i, at := range index {
		if u := at / width; int(u) < c.Units { // a bias column, the last, belongs to none
			all[u] = append(all[u], int32(i))
		}
	}
	return all
}

// singleCosts are those of units of one column.
func (p product) singleCosts(d device.Device, l Layer, columns [][]int32, kind Cost, costs []float64) error {
	w, energies := gather(d, l.W, p.g.index, p.a.index), d.Alloc(1, len(p.a.index), device.F64)
	defer d.Free(energies)
	sideEnergies(d, device.Left, p.g.square(d, p.g.index), w, energies)
	d.Free(w)
	weights := p.a.diagonal(d) // A_cc, or 1/[A'⁻¹]_cc
	if kind == OBS {
		inverses, err := inverseDiagonals(d, []*factor{p.a})
		if err != nil {
			return err
		}
		for i, v := range inverses[0] {
			weights[i] = 1 / v
		}
	}
	values := device.DownloadSlice[float64](d, energies)
	for u, q := range columns {
		for _, i := range q {
			costs[u] = values[i] / 2 * weights[i]
		}
	}
	return nil
}

// groupCosts are those of units of several columns.
func (p product) groupCosts(d device.Device, l Layer, columns [][]int32, kind Cost, costs []float64) error {
	var units []int // those that have any
	for u, q := range columns {
		if len(q) > 0 {
			units = append(units, u)
		}
	}
	energies := p.groupEnergies(d, l, columns, units)
	defer d.Free(energies...)
	weights, err := p.groupWeights(d, columns, units, kind)
	if err != nil {
		return err
	}
	defer d.Free(weights...)
	for k, u := range units {
		costs[u] = dot(d, energies[k], weights[k]) / 2 // the trace of their product, for both are symmetric
	}
	return d.Sync()
}

// groupEnergies are W_Qᵀ G W_Q of some units.
func (p product) groupEnergies(d device.Device, l Layer, columns [][]int32, units []int) (all []device.Tensor) {
	w, gw := gather(d, l.W, p.g.index, p.a.index), d.Alloc(len(p.g.index), len(p.a.index), device.F64)
	defer d.Free(w, gw)
	square := p.g.square(d, p.g.index)
	left(d, square, w, gw)
	d.Free(square)
	for _, u := range units {
		q := columns[u]
		x, gx, e := d.Alloc(w.Rows, len(q), device.F64), d.Alloc(w.Rows, len(q), device.F64), d.Alloc(len(q), len(q), device.F64)
		d.Gather(w, nil, q, x)
		d.Gather(gw, nil, q, gx)
		d.Gemm(true, false, 1, x, gx, 0, e)
		d.Free(x, gx)
		all = append(all, e)
	}
	return all
}

// groupWeights are ([A'⁻¹]_QQ)⁻¹ of some units, or A_QQ.
func (p product) groupWeights(d device.Device, columns [][]int32, units []int, kind Cost) (all []device.Tensor, err error) {
	if kind == OBD || p.a.identity() {
		for _, u := range units {
			all = append(all, p.columnBlock(d, columns[u]))
		}
		return all, nil
	}
	inverse, err := inverseOf(d, p.a) // times the factor's unit
	if err != nil {
		return nil, err
	}
	var blocks []device.Tensor
	for _, u := range units {
		blocks = append(blocks, gather(d, inverse, columns[u], columns[u]))
	}
	d.Free(inverse)
	defer d.Free(blocks...)
	if slices.Contains(d.Cholesky(blocks...), false) { // it is of the inverse of what is positive definite, but for rounding
		if err := d.Sync(); err != nil {
			return nil, fmt.Errorf("layer %s, factor %s: %w", p.a.layer, p.a.name, err)
		}
		return nil, &NotPositiveDefinite{Raised{Layer: p.a.layer, Factor: p.a.name, Share: p.a.share}}
	}
	for _, u := range units {
		all = append(all, scaledIdentity(d, p.a.unit(), len(columns[u])))
	}
	d.CholeskySolve(device.Left, blocks, all)
	return all, nil
}

// columnBlock is A over some of its alive columns.
func (p product) columnBlock(d device.Device, columns []int32) device.Tensor {
	if p.a.identity() {
		return scaledIdentity(d, 1, len(columns))
	}
	at := make([]int32, len(columns))
	for i, c := range columns {
		at[i] = p.a.index[c]
	}
	return p.a.square(d, at)
}

// SelectUnits finds one threshold for the whole model over all units, in the order of their cost per weight, then of the
// couplings, then of the units (method.md section 4). costs has a list for each coupling, alive one entry for each linear layer. A
// unit that would bring what is gone beyond ⌊target·Total⌋ is skipped, and so is the last of a coupling that has an alive
// column; the sweep goes on to the cheapest that fits. What is dead goes first, whatever the target. Threshold is a cost per
// weight.
func SelectUnits(couplings []Coupling, costs [][]float64, alive []Kept, target float64) (Selection, error) {
	if !(target > 0 && target < 1) {
		return Selection{}, fmt.Errorf("the target sparsity is %v; it must lie between 0 and 1", target)
	}
	s := newSweep(alive)
	s.takeDead()
	limit := int(target * float64(s.total))
	var keys []uint64
	var places []uint32
	var all []unit
	left := make([]int, len(couplings)) // units that have an alive column
	for i, c := range couplings {
		for index, cost := range costs[i] {
			u := unit{coupling: i, index: index}
			if math.IsNaN(cost) {
				return Selection{}, fmt.Errorf("the cost of unit %d of %s is NaN", index, c.Name)
			}
			if u.weights = s.unitWeights(c, index); u.weights == 0 { // it is gone
				continue
			}
			if u.read = s.read(c, index); u.read {
				left[i]++
			}
			keys, places, all = append(keys, sortable(cost/float64(u.weights))), append(places, uint32(len(all))), append(all, u)
		}
	}
	keys, places = radixSort(keys, places)
	tau := -1.0
	for k, place := range places {
		u := all[place]
		if s.removed+u.weights > limit || u.read && left[u.coupling] == 1 {
			continue
		}
		s.takeUnit(u, couplings[u.coupling])
		if u.read {
			left[u.coupling]--
		}
		tau = unsortable(keys[k])
	}
	return Selection{Threshold: tau, Removed: s.removed, Total: s.total, Kept: s.kept}, nil
}

// unit is one that is not gone yet.
type unit struct {
	coupling, index int
	weights         int  // that go with it: units share no row and no column of one layer, so they stay as many
	read            bool // it has an alive column
}

// side marks what stays of one side of a layer.
func (s *sweep) side(p Part) []bool {
	if p.Side == Row {
		return s.kept[p.Layer].Rows
	}
	return s.kept[p.Layer].Cols
}

// of is what stays of unit u in a layer.
func (s *sweep) of(p Part, u int) []bool { return s.side(p)[u*p.Width : (u+1)*p.Width] }

func (s *sweep) unitWeights(c Coupling, u int) (n int) {
	for _, p := range c.Parts {
		n += count(s.of(p, u)) * s.weights(p.Layer, p.Side)
	}
	return n
}

// read says whether anything reads what unit u computes.
func (s *sweep) read(c Coupling, u int) bool { return slices.Contains(s.of(c.Consumer(), u), true) }

func (s *sweep) takeUnit(u unit, c Coupling) {
	for _, p := range c.Parts {
		for i, kept := range s.of(p, u.index) {
			if kept {
				s.take(candidate{layer: p.Layer, side: p.Side, index: u.index*p.Width + i})
			}
		}
	}
}
