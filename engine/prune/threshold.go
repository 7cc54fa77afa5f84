package prune

import (
	"fmt"
	"math"
	"slices"
)

// Side says whether a structure is a row or a column.
type Side uint8

const (
	Row Side = iota
	Col
)

func (s Side) String() string { return [...]string{"row", "column"}[s] }

// LayerCosts are the costs of one layer's rows and columns, in nats per token; a dead one costs 0.
type LayerCosts struct {
	Name       string
	Rows, Cols []float64 // R and C values
	Alive      Kept      // rows and columns that are not dead
}

// Kept marks rows and columns of one layer.
type Kept struct{ Rows, Cols []bool }

// Count is the number of rows and of columns marked.
func (k Kept) Count() (rows, cols int) { return count(k.Rows), count(k.Cols) }

// Weights is the number of weights at marked rows and columns.
func (k Kept) Weights() int {
	r, c := k.Count()
	return r * c
}

func count(marks []bool) int {
	n := 0
	for _, m := range marks {
		if m {
			n++
		}
	}
	return n
}

// Ranking is the order in which structures are taken.
type Ranking uint8

const (
	ByCost          Ranking = iota // the cost itself, as published
	ByCostPerWeight                // the cost divided by the alive weights that go with the structure
)

// Budget is what one shot may remove.
type Budget struct {
	Target    float64 // share of all weights of the pruned layers that may be gone after the shot, dead ones included
	StepLimit float64 // largest share of its alive rows, or columns, that a matrix loses in the shot; 1 = no limit
	Ranking   Ranking
}

// Selection is what stays after a shot.
type Selection struct {
	Threshold float64 // τ: the rank value of the last structure taken, −1 where none was
	Removed   int     // weights gone, dead ones included, the crossings of rows and columns counted once
	Total     int     // weights of all layers
	Kept      []Kept  // per layer
}

// Select finds one threshold for the whole model in one sweep over all rows and columns of all layers in ascending order
// (method.md section 4). What is gone from a layer of R rows and C columns with r and c removed is R·C − (R−r)(C−c); the
// sweep ends before ⌊Target·Total⌋ would be exceeded.
//
// With StepLimit 1 it is the paper's rule: τ is the largest value for which everything at or below it fits, so equal
// values go together or not at all. With a limit the order is (value, layer, rows before columns, index), a structure
// whose matrix has reached its limit is skipped, and the sweep goes on. Dead structures go first and count against no limit.
//
// A cost that is NaN is an error that names the layer.
func Select(layers []LayerCosts, b Budget) (Selection, error) {
	if !(b.Target > 0 && b.Target < 1) {
		return Selection{}, fmt.Errorf("the target sparsity is %v; it must lie between 0 and 1", b.Target)
	}
	if !(b.StepLimit > 0 && b.StepLimit <= 1) {
		return Selection{}, fmt.Errorf("the step limit is %v; it must lie above 0 and at most at 1", b.StepLimit)
	}
	alive := make([]Kept, len(layers))
	for i, l := range layers {
		alive[i] = l.Alive
	}
	s := newSweep(alive)
	limit := int(b.Target * float64(s.total))
	o, err := rank(layers, b.Ranking)
	if err != nil {
		return Selection{}, err
	}
	s.takeDead()
	sweep := s.together
	if b.StepLimit < 1 {
		sweep = func(o order, limit int) float64 { return s.limited(o, limit, b.StepLimit) }
	}
	tau := sweep(o, limit)
	return Selection{Threshold: tau, Removed: s.removed, Total: s.total, Kept: s.kept}, nil
}

// sweep is the state of the selection: integer counters per layer, nothing else.
type sweep struct {
	alive, kept    []Kept
	left           [][2]int // rows and columns that stay, per layer
	removed, total int
}

// newSweep begins with every row and column, of which those that are not alive are to go first.
func newSweep(alive []Kept) *sweep {
	s := &sweep{alive: alive, kept: make([]Kept, len(alive)), left: make([][2]int, len(alive))}
	for i, a := range alive {
		s.kept[i] = Kept{Rows: ones(len(a.Rows)), Cols: ones(len(a.Cols))}
		s.left[i] = [2]int{len(a.Rows), len(a.Cols)}
		s.total += len(a.Rows) * len(a.Cols)
	}
	return s
}

func ones(n int) []bool {
	x := make([]bool, n)
	for i := range x {
		x[i] = true
	}
	return x
}

// weights is what goes when one more row, or column, of the layer goes now.
func (s *sweep) weights(layer int, side Side) int { return s.left[layer][1-side] }

func (s *sweep) take(c candidate) {
	s.removed += s.weights(c.layer, c.side)
	s.left[c.layer][c.side]--
	if c.side == Row {
		s.kept[c.layer].Rows[c.index] = false
	} else {
		s.kept[c.layer].Cols[c.index] = false
	}
}

func (s *sweep) takeDead() {
	for i, layer := range s.alive {
		for side, alive := range [2][]bool{layer.Rows, layer.Cols} {
			for j, a := range alive {
				if !a {
					s.take(candidate{layer: i, side: Side(side), index: j})
				}
			}
		}
	}
}

// together takes groups of equal value while they fit. A group is first tried on the counters alone.
func (s *sweep) together(o order, limit int) (tau float64) {
	tau = -1
	var group []candidate
	for i := 0; i < o.len(); i += len(group) {
		group = group[:0]
		removed := s.removed
		for j := i; j < o.len() && o.keys[j] == o.keys[i]; j++ {
			c := o.at(j)
			removed += s.weights(c.layer, c.side)
			s.left[c.layer][c.side]--
			group = append(group, c)
		}
		for _, c := range group {
			s.left[c.layer][c.side]++
		}
		if removed > limit {
			return tau
		}
		for _, c := range group {
			s.take(c)
		}
		tau = group[0].value
	}
	return tau
}

// limited takes one structure after the other, passing over matrices that have lost their share.
func (s *sweep) limited(o order, limit int, share float64) (tau float64) {
	tau = -1
	quota := make([][2]int, len(s.alive))
	for i, alive := range s.alive {
		r, c := alive.Count()
		quota[i] = [2]int{int(share * float64(r)), int(share * float64(c))}
	}
	for i := range o.len() {
		c := o.at(i)
		if quota[c.layer][c.side] == 0 {
			continue
		}
		if s.removed+s.weights(c.layer, c.side) > limit {
			return tau
		}
		quota[c.layer][c.side]--
		s.take(c)
		tau = c.value
	}
	return tau
}

// candidate is one row or column.
type candidate struct {
	value float64 // what it is ranked by
	layer int
	side  Side
	index int
}

// order is the alive structures in the order (value, layer, rows before columns, index), without a record for each: 10
// million of them take 120 MB, and mostly only the first few are looked at.
type order struct {
	keys   []uint64 // sortable values, ascending
	places []uint32 // position in the row of all structures: layer after layer, rows before columns
	starts []int    // where each layer's rows, and its columns, begin in that row
}

func (o order) len() int { return len(o.keys) }

func (o order) at(i int) candidate {
	place := int(o.places[i])
	list, found := slices.BinarySearch(o.starts, place)
	if !found {
		list--
	}
	for list+1 < len(o.starts) && o.starts[list+1] == place { // an empty list begins where the next one does
		list++
	}
	return candidate{value: unsortable(o.keys[i]), layer: list / 2, side: Side(list % 2), index: place - o.starts[list]}
}

// rank sorts the alive structures of all layers.
func rank(layers []LayerCosts, by Ranking) (order, error) {
	n := 0
	for _, l := range layers {
		r, c := l.Alive.Count()
		n += r + c
	}
	o := order{keys: make([]uint64, 0, n), places: make([]uint32, 0, n)}
	place := 0
	for _, l := range layers {
		r, c := l.Alive.Count()
		for side, x := range [2]struct {
			costs  []float64
			alive  []bool
			weight int
		}{{l.Rows, l.Alive.Rows, c}, {l.Cols, l.Alive.Cols, r}} {
			o.starts = append(o.starts, place)
			for j, v := range x.costs {
				if math.IsNaN(v) {
					return order{}, fmt.Errorf("%s: the cost of %v %d is NaN", l.Name, Side(side), j)
				}
				if !x.alive[j] {
					continue
				}
				if by == ByCostPerWeight {
					v /= float64(max(x.weight, 1))
				}
				o.keys, o.places = append(o.keys, sortable(v)), append(o.places, uint32(place+j))
			}
			place += len(x.costs)
		}
	}
	o.keys, o.places = radixSort(o.keys, o.places)
	return o, nil
}
