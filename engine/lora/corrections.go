package lora

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"surgeon/engine/device"
	"surgeon/engine/model"
)

// corrections are the low-rank changes of a model's layers. In a list of numbers, values or gradients, A and B of one layer
// follow each other row by row, and layer follows layer.
type corrections struct {
	m      *model.Model
	dev    device.Device
	rank   int
	layers []correction
	place  []int     // in layers, for every layer of the model; −1 for those left out
	values []float64 // of all A and B

	operands, gradients device.Tensor    // the same on the device, and what is to be added up there; 1×len(values)
	scratch             [2]device.Tensor // as large as the largest layer
	ones                device.Tensor    // a constant 1 for each token, of the model's type; none where no layer has a bias
}

// correction is that of one layer.
type correction struct {
	*model.Linear
	base   device.Tensor // W as it was, Rows×Inputs of type Acc
	offset int           // of its numbers in a list
}

// newCorrections makes corrections of nothing, A and B being zero. What was allocated until an error is there to be freed.
func newCorrections(m *model.Model, rank int) (c *corrections, leftOut []string, err error) {
	c = &corrections{m: m, dev: m.Device(), rank: rank}
	numbers, largest := 0, 0
	for _, l := range m.Linears() {
		base := l.Matrix(m.Type.Acc())
		if c.empty(base) {
			c.dev.Free(base)
			c.place, leftOut = append(c.place, -1), append(leftOut, l.Name)
			continue
		}
		c.place = append(c.place, len(c.layers))
		c.layers = append(c.layers, correction{l, base, numbers})
		numbers += rank * (l.Rows + l.Inputs())
		largest = max(largest, l.Rows*l.Inputs())
	}
	if err := c.dev.Sync(); err != nil {
		return c, nil, fmt.Errorf("copying the weights: %w", err)
	}
	if len(c.layers) == 0 {
		return c, nil, errors.New("every layer is all zeros, so there is no weight left to correct")
	}
	c.values = make([]float64, numbers)
	c.operands, c.gradients = c.dev.Alloc(1, numbers, m.Type.Acc()), c.dev.Alloc(1, numbers, m.Type.Acc())
	for i := range c.scratch {
		c.scratch[i] = c.dev.Alloc(largest, 1, m.Type.Acc())
	}
	return c, leftOut, nil
}

// empty says whether w is all zeros.
func (c *corrections) empty(w device.Tensor) bool {
	rows, cols := c.dev.Alloc(1, w.Rows, w.Type), c.dev.Alloc(1, w.Cols, w.Type)
	defer c.dev.Free(rows, cols)
	c.dev.MaxAbs(w, rows, cols)
	return !slices.ContainsFunc(device.DownloadSlice[float64](c.dev, rows), func(v float64) bool { return v != 0 })
}

func (c *corrections) free() {
	for _, l := range c.layers {
		c.dev.Free(l.base)
	}
	c.dev.Free(c.operands, c.gradients, c.scratch[0], c.scratch[1], c.ones)
}

// draw draws every A from the standard normal distribution.
func (c *corrections) draw(rng *rand.Rand) {
	for _, l := range c.layers {
		for i := range c.rank * l.Inputs() {
			c.values[l.offset+i] = rng.NormFloat64()
		}
	}
	device.UploadSlice(c.dev, c.values, c.operands)
}

// matrices are A and B of a layer, or their gradients, in such a list.
func (c *corrections) matrices(l correction, list device.Tensor) (a, b device.Tensor) {
	at, middle, end := l.offset, l.offset+c.rank*l.Inputs(), l.offset+c.rank*(l.Inputs()+l.Rows)
	list = list.Reshape(list.Len(), 1)
	return list.Slice(at, middle).Reshape(c.rank, l.Inputs()), list.Slice(middle, end).Reshape(l.Rows, c.rank)
}

// layerOf is the layer that the i-th number of a list belongs to.
func (c *corrections) layerOf(i int) *model.Linear {
	n := len(c.layers)
	for c.layers[n-1].offset > i {
		n--
	}
	return c.layers[n-1].Linear
}

// room is the beginning of a scratch matrix, as rows×cols.
func (c *corrections) room(i, rows, cols int) device.Tensor {
	return c.scratch[i].Slice(0, rows*cols).Reshape(rows, cols)
}

// merge makes every layer of the model W + M ∘ (B·A), by the values.
func (c *corrections) merge() error {
	device.UploadSlice(c.dev, c.values, c.operands)
	for _, l := range c.layers {
		a, b := c.matrices(l, c.operands)
		w := c.room(0, l.Rows, l.Inputs())
		c.dev.Gemm(false, false, 1, b, a, 0, w)
		c.mask(l, w)
		c.dev.Axpy(1, l.base, w)
		l.SetMatrix(w)
		if err := c.dev.Err(); err != nil {
			return fmt.Errorf("block %d, layer %s: %w", l.Block, l.Name, err)
		}
	}
	return nil
}

// mask is x ← M ∘ x, in the scratch matrix that x is not in: the derivative of ReLU is 1 at a square, and 0 at the square of 0.
func (c *corrections) mask(l correction, x device.Tensor) {
	squares := c.room(1, l.Rows, l.Inputs())
	c.dev.Square(l.base, squares)
	c.dev.ReLUBackward(squares, x, x)
}

// gradient is the mean loss of a window in nats, and the gradient of that for all values.
func (c *corrections) gradient(window []int32) (loss float64, gradient []float64, err error) {
	losses, err := c.m.ForwardBackward([][]int32{window}, (*tap)(c))
	if err != nil {
		return 0, nil, err
	}
	return losses[0], device.DownloadSlice[float64](c.dev, c.gradients), c.dev.Sync()
}

// tap makes gradients of what the passes hand out.
type tap corrections

func (*tap) Input(int, device.Tensor)         {}
func (*tap) Gradients([]int, []device.Tensor) {}

// Pair makes dA and dB of a layer, all its tokens being of one window.
func (t *tap) Pair(index int, x, g device.Tensor) {
	c := (*corrections)(t)
	if c.place[index] < 0 {
		return
	}
	l := c.layers[c.place[index]]
	dw := c.room(0, l.Rows, l.Inputs())
	perToken := 1 / float64(x.Rows-1) // the passes are those of the sum
	if l.Bias {
		cols := make([]int32, l.Cols)
		for j := range cols {
			cols[j] = int32(j)
		}
		part, sum := c.room(1, l.Rows, l.Cols), c.room(1, l.Rows, 1)
		c.dev.Gemm(true, false, perToken, g, x, 0, part)
		c.dev.Scatter(part, nil, cols, dw)
		c.dev.Gemm(true, false, perToken, g, c.constant(x), 0, sum)
		c.dev.Scatter(sum, nil, []int32{int32(l.Cols)}, dw)
	} else {
		c.dev.Gemm(true, false, perToken, g, x, 0, dw)
	}
	c.mask(l, dw)
	a, b := c.matrices(l, c.operands)
	da, db := c.matrices(l, c.gradients)
	c.dev.Gemm(false, true, 1, dw, a, 0, db)
	c.dev.Gemm(true, false, 1, b, dw, 0, da)
}

// constant is a 1 for every row of x.
func (c *corrections) constant(x device.Tensor) device.Tensor {
	if c.ones.Rows != x.Rows {
		c.dev.Free(c.ones)
		c.ones = device.NewFrom(c.dev, slices.Repeat([]float32{1}, x.Rows), x.Rows, 1, x.Type)
	}
	return c.ones
}

// Bytes is the most memory that a round takes on the device beside the model and its passes over windows of so many tokens,
// on a device of such pages.
func Bytes(page device.Page, linears []*model.Linear, t device.Type, rank, tokens int) int64 {
	var weights, largest, part, ones int64
	for _, l := range linears {
		n := page.Tensor(l.Rows, l.Inputs(), t.Acc())
		weights, largest = weights+n, max(largest, n)
		if l.Bias { // SetMatrix takes [W b] apart
			part, ones = max(part, n), page.Tensor(tokens, 1, t)
		}
	}
	return weights + 2*page.Of(numbers(linears, rank)*int64(t.Acc().Size())) + 2*largest + part + ones
}

// HostBytes is the memory that a round takes on the host: values, gradients, and both means of Adam.
func HostBytes(linears []*model.Linear, rank int) int64 { return 4 * 8 * numbers(linears, rank) }

func numbers(linears []*model.Linear, rank int) (n int64) {
	for _, l := range linears {
		n += int64(rank) * int64(l.Rows+l.Inputs())
	}
	return n
}

var _ model.Pairs = (*tap)(nil)
