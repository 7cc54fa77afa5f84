package curvature

import (
	"fmt"
	"math"

	"surgeon/engine/device"
	"surgeon/engine/model"
)

// project makes the terms after the first positive semi-definite: what is left of F when the first is taken away has negative
// eigenvalues, and costs and updates need a curvature that has none. A = A⁺ − A⁻, the parts with the eigenvalues above and below
// zero, and of the two products G⁺ ⊗ A⁺ and G⁻ ⊗ A⁻, which are positive semi-definite in G ⊗ A, the larger one is kept.
func (c *collection) project() error {
	for i, l := range c.layers {
		for _, t := range c.factors.Rest(i) {
			if err := c.ctx.Err(); err != nil {
				return err
			}
			cut, err := Project(c.dev, t)
			if err != nil {
				return fmt.Errorf("curvature: block %d, layer %s: %w", l.Block, l.Name, err)
			}
			c.factors.cut[i] = append(c.factors.cut[i], cut)
		}
	}
	return nil
}

// Project makes one term positive semi-definite, and tells how much of it was cut, √(1 − ‖kept‖²/‖all‖²): two eigendecompositions,
// of A and of G.
func Project(d device.Device, t Term) (cut float64, err error) {
	n := max(t.A.N, t.G.N)
	work := [2]flat{{d.Alloc(n, n, device.F64)}, {d.Alloc(n, n, device.F64)}}
	defer d.Free(work[0].Tensor, work[1].Tensor)
	var e [2]spectrum
	for i, s := range []device.Sym{t.A, t.G} {
		e[i] = spectrum{d.Alloc(1, s.N, device.F64), d.Alloc(s.N, s.N, device.F64)}
		defer d.Free(e[i].values, e[i].vectors)
		a := work[0].as(s.N, s.N)
		d.Extract(s, nil, nil, a)
		ok := d.Eigh(false, []device.Tensor{a}, []device.Tensor{e[i].values}, []device.Tensor{e[i].vectors})
		if err := d.Sync(); err != nil {
			return 0, err
		}
		if !ok[0] {
			return 0, fmt.Errorf("the eigenvalues of a factor of order %d were not found; fewer power steps or a smaller rank do without", s.N)
		}
	}
	aPlus, aMinus := squares(d, e[0].values)
	gPlus, gMinus := squares(d, e[1].values)
	sign, kept, all := 1., aPlus*gPlus, (aPlus+aMinus)*(gPlus+gMinus)
	if aMinus*gMinus > kept {
		sign, kept = -1, aMinus*gMinus
	}
	for i, s := range []device.Sym{t.A, t.G} {
		rebuild(d, sign, e[i], work, s)
	}
	if all == 0 { // a layer that nothing reaches
		return 0, nil
	}
	return math.Sqrt(max(0, 1-kept/all)), nil
}

// spectrum is V·diag(w)·Vᵀ: w 1×n, the columns of V the eigenvectors.
type spectrum struct{ values, vectors device.Tensor }

// squares are the sums of squares of the eigenvalues above and below zero.
func squares(d device.Device, values device.Tensor) (plus, minus float64) {
	for _, v := range device.DownloadSlice[float64](d, values) {
		if v > 0 {
			plus += v * v
		} else {
			minus += v * v
		}
	}
	return plus, minus
}

// rebuild is s ← V·diag(max(sign·w, 0))·Vᵀ: the Gram matrix of the rows of Vᵀ, each scaled by the root.
func rebuild(d device.Device, sign float64, e spectrum, work [2]flat, s device.Sym) {
	n := s.N
	x, transposed := work[0].as(n, n), work[1].as(n, n)
	d.Zero(x)
	d.AddDiagonal(1, x)
	d.Gemm(true, false, 1, e.vectors, x, 0, transposed)
	d.ScaleRoot(sign, e.values, transposed, x)
	packed := s
	if s.Packed.Type != device.F64 {
		packed.Packed = work[1].as(1, device.PackedLen(n))
	}
	d.Gram(1, []device.Tensor{x}, 0, []device.Sym{packed})
	if s.Packed.Type != device.F64 {
		d.Copy(packed.Packed, s.Packed)
	}
}

// projectionBytes is the most memory that project takes beside the factors.
func projectionBytes(page device.Page, linears []*model.Linear, o Options) (most int64) {
	if o.Kind != KronSum {
		return 0
	}
	for _, l := range linears {
		square := func(n int) int64 { return page.Tensor(n, n, device.F64) }
		a, g := l.Inputs(), l.Rows
		most = max(most, 2*square(max(a, g))+square(a)+square(g)+page.Tensor(1, a, device.F64)+page.Tensor(1, g, device.F64))
	}
	return most
}
