package curvature

import (
	"fmt"

	"surgeon/engine/device"
	"surgeon/engine/model"
)

// running is a sum over batches, which starts from nothing.
type running struct {
	device.Sym
	begun bool
}

// beta is what the sum so far counts in the next one: 0 the first time, then 1.
func (r *running) beta() float64 {
	if !r.begun {
		r.begun = true
		return 0
	}
	return 1
}

// sums is a tap that adds what the passes hand out to A and G.
type sums struct {
	watch
	c              *collection
	a, g           []running
	shareA, shareG float64
	group          []device.Sym // of Gradients
}

func (c *collection) sums() sums {
	s := sums{watch: c.watch(), c: c}
	for _, a := range c.factors.a {
		s.a = append(s.a, running{Sym: a})
	}
	for _, g := range c.factors.g {
		s.g = append(s.g, running{Sym: g})
	}
	s.shareA, s.shareG = c.share()
	return s
}

func (s *sums) Input(index int, x device.Tensor) {
	sum := &s.a[index]
	if sum.N == 0 {
		return
	}
	s.dev.Gram(s.shareA, []device.Tensor{x}, sum.beta(), []device.Sym{sum.Sym})
	s.dev.WatchFinite(s.ofInput(index), sum.Sym)
}

// Gradients adds to several G by one call. Layers that come together always do: their sums have all begun, or none, and are all
// measured, or none.
func (s *sums) Gradients(indexes []int, gs []device.Tensor) {
	if s.g[indexes[0]].N == 0 {
		return
	}
	beta := 0.0
	s.group = s.group[:0]
	for _, i := range indexes {
		beta = s.g[i].beta()
		s.group = append(s.group, s.g[i].Sym)
	}
	s.dev.Gram(s.shareG, gs, beta, s.group)
	for k, i := range indexes {
		s.dev.WatchFinite(s.ofGradient(i), s.group[k])
	}
}

// diagonalSums also adds to the diagonal of F.
type diagonalSums struct {
	sums
	begun []bool
}

// Pair is D ← share·(g∘g)ᵀ(x∘x) + D.
func (s *diagonalSums) Pair(index int, x, g device.Tensor) {
	d, scratch := s.c.factors.Diagonal(index), s.c.scratch
	beta := 1.0
	if !s.begun[index] {
		beta, s.begun[index] = 0, true
	}
	v := scratch.vectors(s.dev, x, s.layers[index].Bias)
	xx := scratch.product(v.Rows, v.Cols)
	s.dev.Square(v, xx)
	u := scratch.vectors(s.dev, g, false)
	gg := scratch.vector(u.Rows, u.Cols)
	s.dev.Square(u, gg)
	s.dev.Gemm(true, false, s.shareG, gg, xx, beta, d)
}

// watch remembers where a NaN or an infinity comes from, by tags: what the passes meet first has the smallest. Inputs come
// before gradients, and of those the last layers come first.
type watch struct {
	dev    device.Device
	layers []*model.Linear
	inputs int // distinct ones
}

// watchingTap is a tap that has a watch.
type watchingTap interface {
	model.Tap
	nonFinite(first, last int) error
}

func (c *collection) watch() watch {
	w := watch{dev: c.dev, layers: c.layers}
	for _, l := range c.layers {
		w.inputs = max(w.inputs, l.Input()+1)
	}
	return w
}

func (w *watch) ofInput(index int) (tag int) { return index }

func (w *watch) ofGradient(index int) (tag int) { return w.inputs + len(w.layers) - 1 - index }

// nonFinite tells where the first NaN or infinity of a batch stood, if there was one.
func (w *watch) nonFinite(first, last int) error {
	tag, found := w.dev.FirstNonFinite()
	if !found {
		return nil
	}
	if tag >= w.inputs {
		return w.broken("output gradient", w.layers[len(w.layers)-1-(tag-w.inputs)], first, last)
	}
	for _, l := range w.layers {
		if l.Input() == tag {
			return w.broken("input", l, first, last)
		}
	}
	panic(fmt.Sprintf("curvature: no layer has input %d", tag))
}

func (w *watch) broken(what string, l *model.Linear, first, last int) error {
	return &NonFinite{What: what, Layer: l.Name, Block: l.Block, First: first, Last: last}
}

// NonFinite is the error of a NaN or an infinity in what a factor is made of.
type NonFinite struct {
	What  string // "input", "output gradient", or, where only their weighted sum overflows, "sum of inputs" or "sum of output gradients"
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
