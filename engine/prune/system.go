package prune

import (
	"fmt"
	"math"
	"slices"

	"surgeon/engine/device"
)

// Layer is one linear layer as the method sees it. W is float64, whatever the model is: every factorisation and every
// product with its result is done in float64. Its curvature is the sum of Kronecker products G ⊗ A + Σ Rest: one product,
// unless a sum was asked for.
type Layer struct {
	Name string
	W    device.Tensor // R×C, [W b] where there is a bias, F64
	Term
	Rest     []Term
	Diagonal device.Tensor // R×C, the mean of g_r²·a_c², for element costs; zero where it was not measured
}

// Term is one Kronecker product G ⊗ A. Factors are of the type they were summed in; one of order 0 stands for the identity: a
// curvature that was not measured, and needs no damping.
type Term struct {
	A device.Sym // C×C
	G device.Sym // R×R
}

// terms are all products of the curvature.
func (l Layer) terms() []Term { return append([]Term{l.Term}, l.Rest...) }

// factored says whether F' is one product G' ⊗ A' of factors that are damped one by one, or the identity. Everything else
// is computed as spectral.go and operator.go tell.
func (l Layer) factored(damp Damping) bool {
	return len(l.Rest) == 0 && (!damp.Joint || l.G.N == 0 && l.A.N == 0)
}

// Damping is what is added to the diagonals, as a share of the mean of the diagonal over alive indices:
// A' = A + λ_A·I with λ_A = A·mean(diag A), and so for G. With Joint it is added to the product, or to the sum of products,
// instead: F' = F + λ·I with λ = √(G·A)·mean(diag F), so that equal shares stand for that share of F. Of a sum only the
// factors of the first product are damped, F' = G₁' ⊗ A₁' + Σ_{k>1} G_k ⊗ A_k.
type Damping struct {
	G, A  float64
	Joint bool
}

// maxRaises is how often a damping is raised tenfold for a matrix that is not positive definite. Six times from 0.01 adds
// ten thousand times the mean diagonal: what is still not positive definite then is no Gram matrix.
const maxRaises = 6

// Raised tells that a matrix could be factored only with more damping than was asked for.
type Raised struct {
	Layer  string
	Factor string  // "A" or "G", or "F" where the damping is added to the product
	Share  float64 // the damping it took, as a share of the mean diagonal
}

// NotPositiveDefinite is the error of a matrix that cannot be factored even with the highest damping.
type NotPositiveDefinite struct{ Raised }

func (e *NotPositiveDefinite) Error() string {
	return fmt.Sprintf("layer %s: the factor %s is not positive definite even with a damping of %g times its mean diagonal; "+
		"it needs more calibration text, or a higher %s", e.Layer, e.Factor, e.Share,
		map[string]string{"A": "--damp-a", "G": "--damp-g", "F": "--damp-g and --damp-a"}[e.Factor])
}

// Alive finds the rows and columns of some layers that are not dead. A row is dead if it is all zero in W or G_rr = 0, a
// column if it is all zero in W or A_cc = 0, in all products of a sum: restricting everything to alive ones is exact for
// "already zero stays zero".
// A weight that is not finite is an error.
func Alive(d device.Device, layers []Layer) ([]Kept, error) {
	var largest []device.Tensor // of rows and columns, layer after layer
	defer func() { d.Free(largest...) }()
	for _, l := range layers {
		r, c := d.Alloc(1, l.W.Rows, l.W.Type), d.Alloc(1, l.W.Cols, l.W.Type)
		d.MaxAbs(l.W, r, c)
		largest = append(largest, r, c)
	}
	all := make([]Kept, len(layers))
	for i, l := range layers {
		var gs, as []device.Sym
		for _, t := range l.terms() {
			gs, as = append(gs, t.G), append(as, t.A)
		}
		var err error
		if all[i].Rows, err = alive(d, l, largest[2*i], gs, "row"); err != nil {
			return nil, err
		}
		if all[i].Cols, err = alive(d, l, largest[2*i+1], as, "column"); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func alive(d device.Device, l Layer, largest device.Tensor, factors []device.Sym, what string) ([]bool, error) {
	weights := device.DownloadSlice[float64](d, largest)
	marks := ones(len(weights))
	for i, w := range weights {
		if math.IsNaN(w) || math.IsInf(w, 0) {
			return nil, fmt.Errorf("layer %s: %s %d holds a weight that is %v", l.Name, what, i, w)
		}
		marks[i] = w > 0
	}
	curved := make([]bool, len(marks))
	for _, s := range factors {
		if s.N == 0 {
			curved = ones(len(marks))
			continue
		}
		for i, v := range diagonal(d, s) {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				return nil, fmt.Errorf("layer %s: the curvature of %s %d is %v", l.Name, what, i, v)
			}
			curved[i] = curved[i] || v > 0
		}
	}
	for i := range marks {
		marks[i] = marks[i] && curved[i]
	}
	return marks, nil
}

func diagonal(d device.Device, s device.Sym) []float64 {
	x := make([]float64, s.N)
	d.Diagonal(s, x)
	return x
}

// factor is one Kronecker factor restricted to alive indices. The identity is never damped, and never made: where its
// matrix, or its Cholesky factor, is asked for, the answer is the zero Tensor.
type factor struct {
	layer, name string // name is A or G
	sym         device.Sym
	index       []int32 // alive positions
	mean        float64 // of the diagonal over alive indices
	asked       float64 // the damping that was asked for, as a share of mean
	share       float64 // the one in force
}

func newFactor(d device.Device, layer, name string, s device.Sym, alive []bool, share float64) *factor {
	f := &factor{layer: layer, name: name, sym: s, index: positions(alive), asked: share, share: share}
	for _, v := range f.diagonal(d) {
		f.mean += v
	}
	f.mean /= float64(max(len(f.index), 1))
	return f
}

func (f *factor) identity() bool { return f.sym.N == 0 }

// diagonal is that of the undamped factor, over alive indices.
func (f *factor) diagonal(d device.Device) []float64 {
	x := make([]float64, len(f.index))
	if f.identity() {
		for i := range x {
			x[i] = 1
		}
		return x
	}
	all := diagonal(d, f.sym)
	for i, at := range f.index {
		x[i] = all[at]
	}
	return x
}

// positions lists the marked places.
func positions(marks []bool) []int32 {
	x := make([]int32, 0, len(marks))
	for i, m := range marks {
		if m {
			x = append(x, int32(i))
		}
	}
	return x
}

// unit is a power of 4 near the mean of the diagonal: what is divided by it, or by its root, has the same bits and numbers near 1,
// which float32 holds whatever the scale of the loss.
func (f *factor) unit() float64 {
	if f.identity() || !(f.mean > 0) || math.IsInf(f.mean, 0) {
		return 1
	}
	_, exponent := math.Frexp(f.mean)
	return math.Ldexp(1, exponent&^1)
}

// square is the undamped factor over the positions idx.
func (f *factor) square(d device.Device, idx []int32) device.Tensor {
	return extract(d, f.sym, idx)
}

// extract is s over the positions idx, the zero Tensor for the identity.
func extract(d device.Device, s device.Sym, idx []int32) device.Tensor {
	if s.N == 0 {
		return device.Tensor{}
	}
	x := d.Alloc(len(idx), len(idx), device.F64)
	d.Extract(s, idx, idx, x)
	return x
}

// scaledIdentity is α·I of order n; the caller frees it.
func scaledIdentity(d device.Device, alpha float64, n int) device.Tensor {
	x := d.Alloc(n, n, device.F64)
	d.Zero(x)
	d.AddDiagonal(alpha, x)
	return x
}

// damped is the damped factor over the positions idx.
func (f *factor) damped(d device.Device, idx []int32) device.Tensor {
	x := f.square(d, idx)
	if !f.identity() {
		d.AddDiagonal(f.share*f.mean, x)
	}
	return x
}

// block is the undamped factor at rows × cols; not for the identity.
func (f *factor) block(d device.Device, rows, cols []int32) device.Tensor {
	x := d.Alloc(len(rows), len(cols), device.F64)
	d.Extract(f.sym, rows, cols, x)
	return x
}

// cholesky factors one factor, as factorise does.
func (f *factor) cholesky(d device.Device, idx []int32) (device.Tensor, error) {
	ls, err := factorise(d, []*factor{f}, [][]int32{idx})
	if err != nil {
		return device.Tensor{}, err
	}
	return ls[0], nil
}

// factorise makes the Cholesky factors of damped factors over the positions idx, a part of index each, side by side. Where one is
// not positive definite its damping is raised tenfold, for this factor from now on. The caller frees them.
func factorise(d device.Device, factors []*factor, idx [][]int32) ([]device.Tensor, error) {
	ls := make([]device.Tensor, len(factors))
	var todo []int
	for i, f := range factors {
		if !f.identity() {
			todo = append(todo, i)
		}
	}
	for range maxRaises + 1 {
		var squares []device.Tensor
		for _, i := range todo {
			ls[i] = factors[i].damped(d, idx[i])
			squares = append(squares, ls[i])
		}
		ok := d.Cholesky(squares...)
		again := todo[:0]
		for k, i := range todo {
			if !ok[k] {
				d.Free(ls[i])
				ls[i] = device.Tensor{}
				factors[i].raise()
				again = append(again, i)
			}
		}
		if todo = again; len(todo) == 0 {
			return ls, nil
		}
		if err := d.Sync(); err != nil {
			d.Free(ls...)
			return nil, fmt.Errorf("layer %s, factor %s: %w", factors[todo[0]].layer, factors[todo[0]].name, err)
		}
	}
	d.Free(ls...)
	f := factors[todo[0]]
	return nil, &NotPositiveDefinite{Raised{Layer: f.layer, Factor: f.name, Share: f.share / 10}}
}

// same says whether both are one matrix, with one damping, over the same indices.
func (f *factor) same(g *factor) bool {
	return f.sym == g.sym && f.share == g.share && slices.Equal(f.index, g.index)
}

// raise takes ten times the damping.
func (f *factor) raise() { f.share = max(f.share*10, 1e-8) }

// raised tells whether the damping had to go above what was asked for.
func (f *factor) raised() []Raised {
	if f.share == f.asked {
		return nil
	}
	return []Raised{{Layer: f.layer, Factor: f.name, Share: f.share}}
}
