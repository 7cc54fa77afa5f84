package curvature_test

import (
	"context"
	"math"
	"slices"
	"testing"

	"surgeon/engine/curvature"
	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/enginetest"
	"surgeon/engine/internal/golden"
	"surgeon/engine/model"
)

// dense is what curvature is made of, as the model hands it out, for plain loops over it.
type dense struct {
	t      *testing.T
	dev    device.Device
	layers []*model.Linear
	inputs [][]float64   // by Linear.Input, what Input was given
	grads  [][]float64   // by layer, what Gradients was given
	a, g   [][][]float64 // by layer and token, what Pair was given; a constant 1 appended where there is a bias
}

func captured(t *testing.T, dev device.Device, m *model.Model, run func(tap model.Tap)) *dense {
	t.Helper()
	layers := m.Linears()
	d := &dense{t: t, dev: dev, layers: layers, inputs: make([][]float64, 4*m.Config.Blocks), grads: make([][]float64, len(layers)),
		a: make([][][]float64, len(layers)), g: make([][][]float64, len(layers))}
	run(d)
	return d
}

func (d *dense) Input(index int, x device.Tensor) {
	d.inputs[index] = append(d.inputs[index], device.DownloadSlice[float64](d.dev, x)...)
}

func (d *dense) Gradients(indexes []int, gs []device.Tensor) {
	for k, i := range indexes {
		d.grads[i] = append(d.grads[i], device.DownloadSlice[float64](d.dev, gs[k])...)
	}
}

func (d *dense) Pair(index int, x, g device.Tensor) {
	xs, gs := device.DownloadSlice[float64](d.dev, x), device.DownloadSlice[float64](d.dev, g)
	for i := range x.Rows {
		row := slices.Clone(xs[i*x.Cols : (i+1)*x.Cols])
		if d.layers[index].Bias {
			row = append(row, 1)
		}
		d.a[index] = append(d.a[index], row)
		d.g[index] = append(d.g[index], slices.Clone(gs[i*g.Cols:(i+1)*g.Cols]))
	}
}

// matrix is square, row-major.
type matrix []float64

func (m matrix) norm() (n float64) {
	for _, v := range m {
		n += v * v
	}
	return math.Sqrt(n)
}

func (m matrix) times(c float64) matrix {
	r := slices.Clone(m)
	for i := range r {
		r[i] *= c
	}
	return r
}

func (m matrix) dot(n matrix) (s float64) {
	for i, v := range m {
		s += v * n[i]
	}
	return s
}

// weightedGram is (1/N) Σ_t (u_tᵀ·m·u_t) v_t v_tᵀ.
func weightedGram(u, v [][]float64, m matrix) matrix {
	n := len(v[0])
	sum := make(matrix, n*n)
	for t := range u {
		w := 0.
		for i, x := range u[t] {
			for j, y := range u[t] {
				w += x * m[i*len(u[t])+j] * y
			}
		}
		for i, x := range v[t] {
			for j, y := range v[t] {
				sum[i*n+j] += w * x * y / float64(len(u))
			}
		}
	}
	return sum
}

type product struct{ a, g matrix }

// nearest is the power method in plain loops (make.py of the golden cases).
func nearest(a, g [][]float64, steps int, before []product) product {
	ones := func(n int) matrix { return slices.Repeat(matrix{1 / float64(n)}, n*n) }
	x, y, sigma := ones(len(a[0])), ones(len(g[0])), 0.
	for k := range steps {
		if k%2 == 0 {
			y = weightedGram(a, g, x)
			for _, p := range before {
				c := p.a.dot(x)
				for i := range y {
					y[i] -= c * p.g[i]
				}
			}
			y = y.times(1 / y.norm())
		} else {
			x = weightedGram(g, a, y)
			for _, p := range before {
				c := p.g.dot(y)
				for i := range x {
					x[i] -= c * p.a[i]
				}
			}
			sigma = x.norm()
			x = x.times(1 / sigma)
		}
	}
	root := math.Sqrt(sigma)
	if x[0] < 0 && y[0] < 0 {
		root = -root
	}
	return product{x.times(root), y.times(root)}
}

// What would be caught: a pair whose input is not the layer's input, or no more, or whose gradient is another layer's.
func TestPairs(t *testing.T) {
	for _, name := range enginetest.Tiny {
		for _, typ := range []device.Type{device.F32, device.F64, device.BF16} {
			dev := cpu.Open()
			m := enginetest.Load(t, dev, golden.Dir(name), typ)
			var paired, plain []float64
			d := captured(t, dev, m, func(tap model.Tap) { paired, _ = m.ForwardBackward(golden.Tokens(t, name)[:3], tap) })
			alone := captured(t, dev, m, func(tap model.Tap) {
				plain, _ = m.ForwardBackward(golden.Tokens(t, name)[:3], struct{ model.Tap }{tap})
			})
			if !slices.Equal(paired, plain) {
				t.Errorf("%s %v: losses %v with pairs, %v without", name, typ, paired, plain)
			}
			for i, l := range m.Linears() {
				var x, g []float64
				for k, row := range d.a[i] {
					x, g = append(x, row[:l.Cols]...), append(g, d.g[i][k]...)
				}
				if !slices.Equal(x, alone.inputs[l.Input()]) || !slices.Equal(g, alone.grads[i]) || !slices.Equal(d.grads[i], alone.grads[i]) {
					t.Errorf("%s %v: %s: other inputs or gradients in pairs", name, typ, l.Name)
				}
			}
			dev.Close()
		}
	}
}

// What would be caught: any error in the half steps, their order, their start, norms, signs, deflation, the constant input of
// a bias. golden went through a model with float32 in places (see engine/testdata/README.md), which counts for more in what is
// left of F when the first product is taken away; the loops here did not.
func TestNearest(t *testing.T) {
	for _, name := range []string{"tiny-llama", "tiny-opt"} {
		dev := cpu.Open()
		m := enginetest.Load(t, dev, golden.Dir(name), device.F64)
		tokens := golden.Tokens(t, name)
		arrays := golden.Open(t, name, "golden", &struct{}{})
		d := captured(t, dev, m, func(tap model.Tap) { _, _ = m.ForwardBackward(tokens, tap) })
		for _, test := range []struct {
			golden string
			o      curvature.Options
		}{
			{"nearest2", curvature.Options{Kind: curvature.Nearest, PowerSteps: 2}},
			{"nearest8", curvature.Options{Kind: curvature.Nearest, PowerSteps: 8}},
			{"nearest8b", curvature.Options{Kind: curvature.KronSum, PowerSteps: 8, Rank: 3}},
		} {
			f, err := curvature.CollectRaw(m, tokens, 3, test.o)
			if err != nil {
				t.Fatal(err)
			}
			for i, l := range m.Linears() {
				a, g := f.Of(i)
				terms := append([]curvature.Term{{A: a, G: g}}, f.Rest(i)...)
				if i%4 == 3 || i < 3 { // the loops are slow: q, k, v of the first block, and of others what is not the same
					var before []product
					for k, term := range terms {
						p := nearest(d.a[i], d.g[i], test.o.PowerSteps, before)
						before = append(before, p)
						golden.Near(t, test.golden+" A of "+l.Name, enginetest.Full(dev, term.A), p.a, 1e-11*math.Pow(10, float64(k)))
						golden.Near(t, test.golden+" G of "+l.Name, enginetest.Full(dev, term.G), p.g, 1e-11*math.Pow(10, float64(k)))
					}
				}
				if i < 3 {
					term, limit := terms[0], 5e-6
					if len(terms) > 1 {
						term, limit = terms[1], 2e-5
					}
					golden.Near(t, test.golden+" A of "+l.Name+", golden", enginetest.Full(dev, term.A), arrays.Get(test.golden+"/"+l.Name+"/A"), limit)
					golden.Near(t, test.golden+" G of "+l.Name+", golden", enginetest.Full(dev, term.G), arrays.Get(test.golden+"/"+l.Name+"/G"), limit)
				}
			}
			f.Free()
		}
		dev.Close()
	}
}

// What would be caught: another diagonal than that of F, or other factors beside it than those of kfac.
func TestDiagonal(t *testing.T) {
	for _, name := range []string{"tiny-llama", "tiny-opt"} {
		dev := cpu.Open()
		m := enginetest.Load(t, dev, golden.Dir(name), device.F64)
		tokens := golden.Tokens(t, name)
		d := captured(t, dev, m, func(tap model.Tap) { _, _ = m.ForwardBackward(tokens, tap) })
		kfac, diagonal := collect(t, m, tokens, 3, curvature.Options{}), collect(t, m, tokens, 3, curvature.Options{Kind: curvature.Diagonal})
		for i, l := range m.Linears() {
			want := make([]float64, l.Rows*l.Inputs())
			for k, a := range d.a[i] {
				for r, g := range d.g[i][k] {
					for c, x := range a {
						want[r*l.Inputs()+c] += g * g * x * x / float64(len(d.a[i]))
					}
				}
			}
			golden.Near(t, "D of "+l.Name, device.DownloadSlice[float64](dev, diagonal.Diagonal(i)), want, 1e-12)
			if !kfac.Diagonal(i).IsZero() {
				t.Error("kfac has a diagonal")
			}
			sameBits(t, dev, "diagonal: "+l.Name, terms(diagonal, i), terms(kfac, i))
		}
		dev.Close()
	}
}

func collect(t *testing.T, m *model.Model, windows [][]int32, batch int, o curvature.Options) *curvature.Factors {
	t.Helper()
	f, _, err := curvature.Collect(context.Background(), m, windows, batch, o, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// terms are all matrices of a layer.
func terms(f *curvature.Factors, layer int) []device.Sym {
	a, g := f.Of(layer)
	all := []device.Sym{a, g}
	for _, t := range f.Rest(layer) {
		all = append(all, t.A, t.G)
	}
	return all
}

func sameBits(t *testing.T, dev device.Device, what string, got, want []device.Sym) {
	t.Helper()
	for k := range want {
		if !slices.Equal(device.DownloadSlice[float64](dev, got[k].Packed), device.DownloadSlice[float64](dev, want[k].Packed)) {
			t.Errorf("%s: matrix %d has other bits", what, k)
		}
	}
}
