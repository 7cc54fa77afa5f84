// Package curvature measures the Kronecker factors of the loss's curvature on a device.
//
// For a linear layer y = x·Wᵀ (+ b) with input vector a (C values, a constant 1 appended where there is a bias) and
// gradient g (R values) of the summed loss of a sequence at the output, over N calibration tokens,
//
//	A = (1/N) Σ_t a_t a_tᵀ   C×C        G = (1/N) Σ_t g_t g_tᵀ   R×R        F ≈ G ⊗ A
//
// where F is the layer's Fisher block for the row-major vec(W) (method.md section 1; The LLM Surgeon, section 3.1). Both
// are plain sums over tokens: the way sequences are put into batches changes nothing but the rounding. Layers that read
// the same input share one A. Only lower triangles are made and kept, in float32 (float64 for a float64 model).
//
// Another curvature would come as another Tap: activations only (G = I) drops Gradient; nearest Kronecker products weight
// the rows of a and g before the same Gram; a sum of products is a second pair of factors per layer.
package curvature

import (
	"context"
	"errors"
	"fmt"

	"surgeon/engine/device"
	"surgeon/engine/model"
)

// Factors are the factors of all linear layers of a model.
type Factors struct {
	Tokens int // N

	a      []device.Sym // by Linear.Input
	g      []device.Sym // by place in Model.Linears
	inputs []int        // Linear.Input of each layer
	dev    device.Device
}

// Of returns the factors of the layer with that place in Model.Linears. A is shared with the layers that read the same
// input.
func (f *Factors) Of(layer int) (a, g device.Sym) { return f.a[f.inputs[layer]], f.g[layer] }

// Free gives the memory back.
func (f *Factors) Free() {
	for _, s := range append(f.a, f.g...) {
		f.dev.Free(s.Packed)
	}
	f.a, f.g = nil, nil
}

// Bytes is the memory that the factors of these layers take as type t.
func Bytes(linears []*model.Linear, t device.Type) int64 {
	var n int64
	seen := map[int]bool{}
	for _, l := range linears {
		n += int64(device.PackedLen(l.Rows))
		if !seen[l.Input()] {
			seen[l.Input()] = true
			n += int64(device.PackedLen(l.Inputs()))
		}
	}
	return n * int64(t.Acc().Size())
}

// NonFinite is the error of a NaN or an infinity in what a factor is made of.
type NonFinite struct {
	What  string // "input" or "output gradient"
	Layer string
	Block int
	First int // calibration windows, from 0, of the batch
	Last  int
}

func (e *NonFinite) Error() string {
	return fmt.Sprintf("the %s of block %d, layer %s, holds a NaN or an infinity in %s: "+
		"the model overflows there; try float32 weights, or leave that text out", e.What, e.Block, e.Layer, between(e.First, e.Last))
}

// between names the calibration windows first to last.
func between(first, last int) string {
	if first == last {
		return fmt.Sprintf("calibration window %d", first)
	}
	return fmt.Sprintf("calibration windows %d to %d", first, last)
}

// Collect runs forward and backward over all windows, batchSize of them at a time, and returns the factors and the mean
// loss of each window in nats. progress, if not nil, is called after each batch with the number of windows done. A
// cancelled ctx ends the work before the next batch. The caller frees the factors.
func Collect(ctx context.Context, m *model.Model, windows [][]int32, batchSize int, progress func(done int)) (*Factors, []float64, error) {
	f := newFactors(m)
	tap := &tap{factors: f, layers: m.Linears()}
	for _, w := range windows {
		f.Tokens += len(w)
	}
	losses := make([]float64, 0, len(windows))
	fail := func(err error) (*Factors, []float64, error) {
		f.Free()
		return nil, nil, err
	}
	for first := 0; first < len(windows); first += batchSize {
		if err := ctx.Err(); err != nil {
			return fail(err)
		}
		batch := windows[first:min(first+batchSize, len(windows))]
		tap.first, tap.last = first, first+len(batch)-1
		l, err := m.ForwardBackward(batch, tap)
		if broken := tap.nonFinite(); broken != nil {
			return fail(broken)
		}
		if err != nil {
			var bad *model.NonFiniteLoss
			if errors.As(err, &bad) {
				return fail(fmt.Errorf("calibration window %d: the loss is %v though all inputs and gradients are finite", first+bad.Sequence, bad.Loss))
			}
			return fail(fmt.Errorf("curvature: %s: %w", between(first, tap.last), err))
		}
		losses = append(losses, l...)
		if progress != nil {
			progress(len(losses))
		}
	}
	if err := m.Device().Sync(); err != nil {
		return fail(fmt.Errorf("curvature: %w", err))
	}
	return f, losses, nil
}

func newFactors(m *model.Model) *Factors {
	f := &Factors{dev: m.Device()}
	for _, l := range m.Linears() {
		f.inputs = append(f.inputs, l.Input())
		f.g = append(f.g, device.AllocSym(f.dev, l.Rows, m.Type.Acc()))
		for len(f.a) <= l.Input() {
			f.a = append(f.a, device.Sym{})
		}
		if f.a[l.Input()].N == 0 {
			f.a[l.Input()] = device.AllocSym(f.dev, l.Inputs(), m.Type.Acc())
		}
	}
	return f
}

// tap adds what the passes hand out to the factors.
type tap struct {
	factors     *Factors
	layers      []*model.Linear
	first, last int // windows of the batch
}

func (t *tap) Input(index int, x device.Tensor) { t.add(index, x, t.factors.a[index]) }

// Gradient is tagged so that the layer which the backward pass meets first has the smallest tag: that is where a NaN
// comes from.
func (t *tap) Gradient(index int, g device.Tensor) {
	t.add(len(t.factors.a)+len(t.layers)-1-index, g, t.factors.g[index])
}

// add is s ← (1/N)·xᵀx + s, s starting from nothing with the first window.
func (t *tap) add(tag int, x device.Tensor, s device.Sym) {
	beta := 1.0
	if t.first == 0 {
		beta = 0
	}
	t.factors.dev.Gram(1/float64(t.factors.Tokens), x, beta, s)
	t.factors.dev.WatchFinite(tag, s)
}

// nonFinite tells where the first NaN or infinity of this batch stood, if there was one.
func (t *tap) nonFinite() error {
	tag, found := t.factors.dev.FirstNonFinite()
	if !found {
		return nil
	}
	e := &NonFinite{What: "input", First: t.first, Last: t.last}
	var layer *model.Linear
	if n := len(t.factors.a); tag >= n {
		e.What, layer = "output gradient", t.layers[len(t.layers)-1-(tag-n)]
	} else {
		for i, input := range t.factors.inputs {
			if input == tag {
				layer = t.layers[i]
				break
			}
		}
	}
	e.Layer, e.Block = layer.Name, layer.Block
	return e
}
