package curvature

import (
	"fmt"

	"surgeon/engine/device"
	"surgeon/engine/model"
)

// Factors tell the curvature of all linear layers of a model: F ≈ Σ_k G_k ⊗ A_k, of which mostly there is one term.
type Factors struct {
	Tokens int // N

	dev      device.Device
	layers   []*model.Linear
	inputs   []int        // place in a, of each layer
	a        []device.Sym // by Linear.Input, or by layer where each has its own
	g        []device.Sym // by layer
	rest     [][]Term     // by layer
	cut      [][]float64  // by layer, of each of rest
	diagonal []device.Tensor

	effective []EffectiveTokens // by layer
}

// Term is one Kronecker product G ⊗ A. A matrix of order 0 stands for the identity.
type Term struct {
	A device.Sym // C×C
	G device.Sym // R×R
}

// Of returns the first term of the layer with that place in Model.Linears. A may be shared with the layers that read the
// same input.
func (f *Factors) Of(layer int) (a, g device.Sym) { return f.a[f.inputs[layer]], f.g[layer] }

// Rest returns the other terms of a layer, positive semi-definite each.
func (f *Factors) Rest(layer int) []Term { return f.rest[layer] }

// Cut tells for each term of Rest how much making it positive semi-definite has taken away: ‖before − after‖ / ‖before‖ of the
// product G ⊗ A, in the Frobenius norm, from 0 to 1.
func (f *Factors) Cut(layer int) []float64 { return f.cut[layer] }

// EffectiveTokens is on how many tokens the factors of a nearest product rest. In its last half steps token t counts
// a_tᵀ A a_t in G and g_tᵀ G g_t in A, and (Σw)²/Σw² tokens of one weight tell as much as those. Where a few tokens have inputs
// a hundred times as long as all others, it is these few, however many there are of the others.
type EffectiveTokens struct{ A, G float64 }

// EffectiveTokens returns that of a layer's first term; zeros where tokens count alike.
func (f *Factors) EffectiveTokens(layer int) EffectiveTokens { return f.effective[layer] }

// Diagonal returns the R×C matrix D_rc = (1/N) Σ_t g_r² a_c², the diagonal of F, of a layer; the zero Tensor where it was not
// measured.
func (f *Factors) Diagonal(layer int) device.Tensor { return f.diagonal[layer] }

// newFactors makes room for what o asks for. What warm holds is taken from it, or given back.
func newFactors(dev device.Device, layers []*model.Linear, t device.Type, o Options, warm *Factors) *Factors {
	f := &Factors{dev: dev, layers: layers, cut: make([][]float64, len(layers)), effective: make([]EffectiveTokens, len(layers))}
	if warm != nil {
		if !o.Warm() || len(warm.a) != len(layers) || len(warm.rest[0]) != o.products()-1 {
			panic(device.Misuse("curvature: a warm start from factors of another kind or rank"))
		}
		warm.KeepWarm()
	}
	f.layout(o, func(n int) device.Sym {
		return device.AllocSym(dev, n, t.Acc())
	}, func(rows, cols int) device.Tensor { return dev.Alloc(rows, cols, t.Acc()) }, warm)
	if warm != nil {
		warm.a, warm.rest = nil, nil
	}
	return f
}

// layout fills f with what the functions make, taking the A of warm, if there is one, before making others.
func (f *Factors) layout(o Options, sym func(n int) device.Sym, matrix func(rows, cols int) device.Tensor, warm *Factors) {
	f.a, f.g, f.inputs = nil, make([]device.Sym, len(f.layers)), make([]int, len(f.layers))
	f.rest, f.diagonal = make([][]Term, len(f.layers)), make([]device.Tensor, len(f.layers))
	for i, l := range f.layers {
		f.inputs[i] = l.Input()
		if o.Warm() { // A depends on the gradients
			f.inputs[i] = i
		}
		for len(f.a) <= f.inputs[i] {
			f.a = append(f.a, device.Sym{})
		}
		if !o.measures(l) {
			continue
		}
		if f.a[f.inputs[i]].N == 0 {
			if warm != nil {
				f.a[f.inputs[i]] = warm.a[i]
			} else {
				f.a[f.inputs[i]] = sym(l.Inputs())
			}
		}
		if o.gradients() {
			f.g[i] = sym(l.Rows)
		}
		for k := range o.products() - 1 {
			var a device.Sym
			if warm != nil {
				a = warm.rest[i][k].A
			} else {
				a = sym(l.Inputs())
			}
			f.rest[i] = append(f.rest[i], Term{A: a, G: sym(l.Rows)})
		}
		if o.Kind == Diagonal {
			f.diagonal[i] = matrix(l.Rows, l.Inputs())
		}
	}
}

// Bytes is the memory that the factors of these layers take, of a model of type t, on a device of such pages.
func Bytes(page device.Page, linears []*model.Linear, t device.Type, o Options) (bytes int64) {
	f := Factors{layers: linears}
	f.layout(o, func(n int) device.Sym {
		bytes += page.Sym(n, t.Acc())
		return device.Sym{N: n}
	}, func(rows, cols int) device.Tensor {
		bytes += page.Tensor(rows, cols, t.Acc())
		return device.Tensor{}
	}, nil)
	return bytes
}

// Free gives the memory back.
func (f *Factors) Free() {
	f.freeAllButA()
	for _, s := range f.a {
		f.dev.Free(s.Packed)
	}
	for _, terms := range f.rest {
		for _, t := range terms {
			f.dev.Free(t.A.Packed)
		}
	}
	f.a, f.rest = nil, nil
}

func (f *Factors) freeAllButA() {
	for i := range f.g {
		f.dev.Free(f.g[i].Packed, f.diagonal[i])
		f.g[i], f.diagonal[i] = device.Sym{}, device.Tensor{}
	}
	for _, terms := range f.rest {
		for k := range terms {
			f.dev.Free(terms[k].G.Packed)
			terms[k].G = device.Sym{}
		}
	}
}

// # Warm start
//
// The power method begins with an A: that of the last shot's, where there is one. The G of a half step is made of an A alone.

// Warm says whether a measurement starts from the factors of the one before.
func (o Options) Warm() bool { return o.Kind == Nearest || o.Kind == KronSum }

// KeepWarm gives back all that the next measurement does not start from. Of and Rest have no G from here on.
func (f *Factors) KeepWarm() { f.freeAllButA() }

// Named is a matrix under a name that no other one of the factors has.
type Named struct {
	Name string
	device.Sym
}

// Warmth are the matrices that the next measurement starts from, for a file: what they hold decides about its bits.
func (f *Factors) Warmth() []Named {
	var all []Named
	for i, l := range f.layers {
		all = append(all, Named{l.Name + ".A1", f.a[f.inputs[i]]})
		for k, t := range f.rest[i] {
			all = append(all, Named{fmt.Sprintf("%s.A%d", l.Name, k+2), t.A})
		}
	}
	return all
}

// NewWarm makes what KeepWarm leaves, of undefined content: that of Warmth is to be read from a file.
func NewWarm(m *model.Model, o Options) *Factors {
	layers := m.Linears()
	f := &Factors{dev: m.Device(), layers: layers, g: make([]device.Sym, len(layers)), rest: make([][]Term, len(layers)), diagonal: make([]device.Tensor, len(layers))}
	for i, l := range layers {
		f.inputs = append(f.inputs, i)
		f.a = append(f.a, device.AllocSym(f.dev, l.Inputs(), m.Type.Acc()))
		for range o.products() - 1 {
			f.rest[i] = append(f.rest[i], Term{A: device.AllocSym(f.dev, l.Inputs(), m.Type.Acc())})
		}
	}
	return f
}

// WarmBytes is the memory of what KeepWarm leaves, as in Bytes.
func WarmBytes(page device.Page, linears []*model.Linear, t device.Type, o Options) (bytes int64) {
	if !o.Warm() {
		return 0
	}
	for _, l := range linears {
		bytes += int64(o.products()) * page.Sym(l.Inputs(), t.Acc())
	}
	return bytes
}
