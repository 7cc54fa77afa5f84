package prune

import (
	"fmt"
	"math"

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

// Damping is what is added to the diagonals, as a share of the mean of the diagonal over alive indices:
// A' = A + λ_A·I with λ_A = A·mean(diag A), and so for G. With Joint it is added to the product, or to the sum of products,
// instead: F' = F + λ·I with λ = √(G·A)·mean(diag F), so that equal shares stand for that share of F.
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
	Factor string  // "A" or "G"
	Share  float64 // the damping it took, as a share of the mean diagonal
}

// NotPositiveDefinite is the error of a matrix that cannot be factored even with the highest damping.
type NotPositiveDefinite struct{ Raised }

func (e *NotPositiveDefinite) Error() string {
	return fmt.Sprintf("layer %s: the factor %s is not positive definite even with a damping of %g times its mean diagonal; "+
		"it needs more calibration text, or a higher --damp-%s", e.Layer, e.Factor, e.Share, map[string]string{"A": "a", "G": "g"}[e.Factor])
}

// Alive finds the rows and columns of the layer that are not dead. A row is dead if it is all zero in W or G_rr = 0, a
// column if it is all zero in W or A_cc = 0: restricting everything to alive ones is exact for "already zero stays zero".
// A weight that is not finite is an error.
func Alive(d device.Device, l Layer) (Kept, error) {
	r, c := d.Alloc(1, l.W.Rows, l.W.Type), d.Alloc(1, l.W.Cols, l.W.Type)
	defer d.Free(r, c)
	d.MaxAbs(l.W, r, c)
	rows, err := alive(d, l, r, l.G, "row")
	if err != nil {
		return Kept{}, err
	}
	cols, err := alive(d, l, c, l.A, "column")
	return Kept{Rows: rows, Cols: cols}, err
}

func alive(d device.Device, l Layer, largest device.Tensor, s device.Sym, what string) ([]bool, error) {
	weights := device.DownloadSlice[float64](d, largest)
	marks := ones(len(weights))
	for i, w := range weights {
		if math.IsNaN(w) || math.IsInf(w, 0) {
			return nil, fmt.Errorf("layer %s: %s %d holds a weight that is %v", l.Name, what, i, w)
		}
		marks[i] = w > 0
	}
	if s.N == 0 {
		return marks, nil
	}
	for i, v := range diagonal(d, s) {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("layer %s: the curvature of %s %d is %v", l.Name, what, i, v)
		}
		marks[i] = marks[i] && v > 0
	}
	return marks, nil
}

func diagonal(d device.Device, s device.Sym) []float64 {
	x := make([]float64, s.N)
	d.Diagonal(s, x)
	return x
}

// factor is one Kronecker factor restricted to alive indices.
type factor struct {
	layer, name string // name is A or G
	sym         device.Sym
	index       []int32 // alive positions
	mean        float64 // of the diagonal over alive indices
	share       float64 // the damping in force
}

func newFactor(d device.Device, layer, name string, s device.Sym, alive []bool, share float64) *factor {
	f := &factor{layer: layer, name: name, sym: s, index: positions(alive), share: share}
	diag := diagonal(d, s)
	for _, i := range f.index {
		f.mean += diag[i]
	}
	f.mean /= float64(max(len(f.index), 1))
	return f
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

// square is the undamped factor over the positions idx.
func (f *factor) square(d device.Device, idx []int32) device.Tensor {
	return f.block(d, idx, idx)
}

// block is the undamped factor at rows × cols.
func (f *factor) block(d device.Device, rows, cols []int32) device.Tensor {
	x := d.Alloc(len(rows), len(cols), device.F64)
	d.Extract(f.sym, rows, cols, x)
	return x
}

// cholesky factors the damped factor over the positions idx, a part of index. If it is not positive definite the damping
// is raised tenfold, for this factor from now on.
func (f *factor) cholesky(d device.Device, idx []int32) (device.Tensor, error) {
	for range maxRaises + 1 {
		x := f.square(d, idx)
		d.AddDiagonal(f.share*f.mean, x)
		if d.Cholesky(x)[0] {
			return x, nil
		}
		d.Free(x)
		if err := d.Sync(); err != nil {
			return device.Tensor{}, fmt.Errorf("layer %s, factor %s: %w", f.layer, f.name, err)
		}
		f.raise()
	}
	return device.Tensor{}, &NotPositiveDefinite{Raised{Layer: f.layer, Factor: f.name, Share: f.share / 10}}
}

// raise takes ten times the damping.
func (f *factor) raise() { f.share = max(f.share*10, 1e-8) }

// raised tells whether the damping had to go above asked.
func (f *factor) raised(asked float64) []Raised {
	if f.share == asked {
		return nil
	}
	return []Raised{{Layer: f.layer, Factor: f.name, Share: f.share}}
}
