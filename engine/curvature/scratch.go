package curvature

import (
	"surgeon/engine/device"
	"surgeon/engine/model"
)

// scratch is what a measurement works in beside the factors, for one layer at a time.
type scratch struct {
	weights, ones flat // one for each token
	total         device.Tensor
	square        flat // the largest factor, unpacked
	wide, narrow  flat // vectors of all tokens: made of an operand, and an operand as it is needed
	owned         []device.Tensor
}

// flat is memory that is seen as matrices of changing shape.
type flat struct{ device.Tensor }

// as is the beginning of it as a rows×cols matrix.
func (f flat) as(rows, cols int) device.Tensor {
	return f.Reshape(f.Len(), 1).Slice(0, rows*cols).Reshape(rows, cols)
}

// ofRows is a number for each of so many rows.
func (f flat) ofRows(rows int) device.Tensor { return f.as(1, rows) }

// product is room for a product of all vectors of a layer.
func (s *scratch) product(rows, cols int) device.Tensor { return s.wide.as(rows, cols) }

// vector is where vectors puts what it makes.
func (s *scratch) vector(rows, cols int) device.Tensor { return s.narrow.as(rows, cols) }

// unpacked is room for a factor of order n.
func (s *scratch) unpacked(n int) device.Tensor { return s.square.as(n, n) }

// vectors is x in the type in which sums are kept, a constant 1 appended to every row where one says so: x itself where it is
// that already. What product gave is lost.
func (s *scratch) vectors(d device.Device, x device.Tensor, one bool) device.Tensor {
	acc := x.Type.Acc()
	if !one {
		if x.Type == acc {
			return x
		}
		y := s.vector(x.Rows, x.Cols)
		d.Copy(x, y)
		return y
	}
	if x.Type != acc {
		y := s.product(x.Rows, x.Cols)
		d.Copy(x, y)
		x = y
	}
	n := int32(x.Cols)
	y := s.vector(x.Rows, x.Cols+1)
	cols := make([]int32, n)
	for j := range cols {
		cols[j] = int32(j)
	}
	d.Scatter(x, nil, cols, y)
	d.Scatter(s.ones.as(x.Rows, 1), nil, []int32{n}, y)
	return y
}

// newScratch allocates what o needs for batches of so many tokens.
func newScratch(d device.Device, layers []*model.Linear, t device.Type, o Options, tokens int) *scratch {
	var owned []device.Tensor
	s := layoutScratch(layers, t, o, tokens, func(rows, cols int) device.Tensor {
		x := d.Alloc(rows, cols, t.Acc())
		owned = append(owned, x)
		return x
	})
	s.owned = owned
	if n := s.ones.Len(); n > 0 {
		ones := make([]float32, n)
		for i := range ones {
			ones[i] = 1
		}
		device.UploadSlice(d, ones, s.ones.Tensor)
	}
	return s
}

func (s *scratch) free(d device.Device) { d.Free(s.owned...) }

// layoutScratch makes it of what alloc returns.
func layoutScratch(layers []*model.Linear, t device.Type, o Options, tokens int, alloc func(rows, cols int) device.Tensor) *scratch {
	s := &scratch{}
	if !o.paired() {
		return s
	}
	order, convert := 0, t != t.Acc() || o.Kind == Diagonal
	for _, l := range layers {
		order = max(order, l.Rows, l.Inputs())
		convert = convert || l.Bias
	}
	s.ones = flat{alloc(1, tokens)}
	s.wide = flat{alloc(tokens, order)}
	if convert {
		s.narrow = flat{alloc(tokens, order)}
	}
	if o.Warm() {
		s.weights, s.total, s.square = flat{alloc(1, tokens)}, alloc(1, 1), flat{alloc(order, order)}
	}
	return s
}

// paired says that inputs and gradients are needed together.
func (o Options) paired() bool { return o.Warm() || o.Kind == Diagonal }

// GramBytes is the most memory that a device works in for a Gram matrix of a measurement, in batches of so many tokens, or for
// those that are made side by side. of is its GramScratch.
func GramBytes(of func(t device.Type, tokens int, cols []int, ones bool) int64, linears []*model.Linear, t device.Type, o Options, tokens int) (most int64) {
	add := func(t device.Type, ones bool, cols ...int) { most = max(most, of(t, tokens, cols, ones)) }
	for first := 0; first < len(linears); {
		var rows []int
		for _, l := range linears[first:] { // the gradients of layers with one input come together
			if l.Input() != linears[first].Input() {
				break
			}
			rows = append(rows, l.Rows)
			if o.Warm() { // of the vectors of either side, weighed
				add(t.Acc(), false, l.Rows)
				add(t.Acc(), false, l.Inputs())
			}
		}
		if !o.Warm() && o.measures(linears[first]) {
			add(t, linears[first].Bias, linears[first].Cols)
			if o.gradients() {
				add(t, false, rows...)
			}
		}
		first += len(rows)
	}
	return most
}

// ScratchBytes is the most memory that a measurement takes beside the factors and the model's passes, for batches of so many
// tokens, on a device of such pages.
func ScratchBytes(page device.Page, linears []*model.Linear, t device.Type, o Options, tokens int) int64 {
	var passes int64
	layoutScratch(linears, t, o, tokens, func(rows, cols int) device.Tensor {
		passes += page.Tensor(rows, cols, t.Acc())
		return device.Tensor{}
	})
	return max(passes, projectionBytes(page, linears, o))
}
