package curvature_test

import (
	"context"
	"math"
	"slices"
	"testing"

	"gonum.org/v1/gonum/mat"

	"surgeon/engine/curvature"
	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/enginetest"
	"surgeon/engine/internal/golden"
	"surgeon/engine/model"
)

// every kind, with a sampled Fisher where there are gradients.
var every = []curvature.Options{
	{}, {Kind: curvature.Nearest, PowerSteps: 4}, {Kind: curvature.KronSum, PowerSteps: 4, Rank: 3}, {Kind: curvature.Activations},
	{Kind: curvature.Identity}, {Kind: curvature.Diagonal}, {Fisher: curvature.Sampled, Samples: 2, Seed: 5},
	{Kind: curvature.Nearest, PowerSteps: 2, Fisher: curvature.Sampled, Samples: 2}, {Kind: curvature.Diagonal, Fisher: curvature.Sampled, Samples: 1},
	{Consumers: true}, {Kind: curvature.Activations, Consumers: true}, {Fisher: curvature.Sampled, Samples: 2, Seed: 5, Consumers: true},
}

// What would be caught: consumers whose factors are others than with all layers measured, a layer that is measured for nothing.
func TestConsumers(t *testing.T) {
	dev := cpu.Open()
	defer dev.Close()
	for _, name := range []string{"tiny-llama3", "tiny-opt"} {
		m, tokens := enginetest.Load(t, dev, golden.Dir(name), device.F64), golden.Tokens(t, name)
		for _, o := range []curvature.Options{{}, {Kind: curvature.Activations}} {
			all := collect(t, m, tokens, 3, o)
			o.Consumers = true
			some := collect(t, m, tokens, 3, o)
			for i, l := range m.Linears() {
				a, g := some.Of(i)
				wantA, wantG := all.Of(i)
				if !l.Consumer() {
					if a.N+g.N > 0 {
						t.Errorf("%s: %s has factors of orders %d and %d", name, l.Name, a.N, g.N)
					}
					continue
				}
				if a.N != wantA.N || g.N != wantG.N {
					t.Fatalf("%s: %s has factors of orders %d and %d, of %d and %d with all layers", name, l.Name, a.N, g.N, wantA.N, wantG.N)
				}
				for _, x := range [][2]device.Sym{{a, wantA}, {g, wantG}} {
					if x[0].N > 0 && !slices.Equal(enginetest.Full(dev, x[0]), enginetest.Full(dev, x[1])) {
						t.Errorf("%s: a factor of %s differs", name, l.Name)
					}
				}
			}
			some.Free()
			all.Free()
		}
		m.Free()
	}
}

// What would be caught: a sum that depends on how windows are put into batches, by a weight of a batch, a draw that goes by
// the batch, a buffer that is larger than the last batch; a loss that is of drawn tokens; progress that does not end where
// Passes says.
func TestBatches(t *testing.T) {
	for _, name := range []string{"tiny-llama", "tiny-opt-post"} {
		dev := cpu.Open()
		m := enginetest.Load(t, dev, golden.Dir(name), device.F64)
		tokens := golden.Tokens(t, name)
		want, err := m.Losses(tokens)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range every {
			first := collect(t, m, tokens, 1, o)
			for _, batch := range []int{3, 8} {
				seen := 0
				f, losses, err := curvature.Collect(context.Background(), m, tokens, batch, o, nil, func(done int) { seen = done })
				if err != nil {
					t.Fatal(err)
				}
				if seen != o.Passes()*len(tokens) {
					t.Errorf("%s %+v: %d windows were told as done, of %d passes over %d", name, o, seen, o.Passes(), len(tokens))
				}
				if o.Kind != curvature.Identity {
					golden.Near(t, "losses", losses, want, 1e-12)
				}
				for i, l := range m.Linears() {
					for k, s := range terms(f, i) {
						if s.N > 0 { // each product is made of what those before it leave of F
							golden.Near(t, o.Kind.String()+" "+l.Name, enginetest.Full(dev, s), enginetest.Full(dev, terms(first, i)[k]), 1e-9)
						}
					}
					if d := f.Diagonal(i); !d.IsZero() {
						golden.Near(t, "diagonal of "+l.Name, device.DownloadSlice[float64](dev, d), device.DownloadSlice[float64](dev, first.Diagonal(i)), 1e-11)
					}
				}
				f.Free()
			}
			again := collect(t, m, tokens, 1, o)
			for i, l := range m.Linears() {
				for k, s := range terms(first, i) {
					if s.N > 0 {
						sameBits(t, dev, o.Kind.String()+" again "+l.Name, terms(again, i)[k:k+1], []device.Sym{s})
					}
				}
			}
			first.Free()
			again.Free()
		}
		dev.Close()
	}
}

// What would be caught: another A than that of kfac, a backward pass, or its memory, that nothing needs.
func TestActivationsAndIdentity(t *testing.T) {
	for _, name := range []string{"tiny-llama", "tiny-opt"} {
		dev := cpu.Open()
		m := enginetest.Load(t, dev, golden.Dir(name), device.F32)
		tokens := golden.Tokens(t, name)
		before := dev.Memory()
		none, losses, err := curvature.Collect(context.Background(), m, tokens, 2, curvature.Options{Kind: curvature.Identity}, nil, nil)
		if err != nil || losses != nil || dev.Memory() != before {
			t.Errorf("identity: losses %v, %v; memory %+v, before %+v", losses, err, dev.Memory(), before)
		}
		if a, g := none.Of(3); a.N != 0 || g.N != 0 {
			t.Errorf("identity: factors of orders %d and %d", a.N, g.N)
		}
		o := curvature.Options{Kind: curvature.Activations}
		f := collect(t, m, tokens, 2, o)
		if got, want := dev.Memory().Used-before.Used, curvature.Bytes(0, m.Linears(), device.F32, o)+model.WorkspaceBytes(0, m.Config, m.Type, len(tokens[0]), 2, false); got != want {
			t.Errorf("activations: %d bytes are held, want %d", got, want)
		}
		kfac := collect(t, m, tokens, 2, curvature.Options{})
		for i, l := range m.Linears() {
			a, g := f.Of(i)
			want, _ := kfac.Of(i)
			if g.N != 0 {
				t.Errorf("activations: G of %s is of order %d", l.Name, g.N)
			}
			sameBits(t, dev, "A of "+l.Name, []device.Sym{a}, []device.Sym{want})
		}
		dev.Close()
	}
}

// What would be caught: a start that is not the last measurement's, or is put together wrong from a file; a matrix that
// decides about the next bits and is not in the file.
func TestWarmStart(t *testing.T) {
	for _, name := range []string{"tiny-llama", "tiny-opt"} {
		for _, typ := range []device.Type{device.F32, device.F64} {
			dev := cpu.Open()
			m := enginetest.Load(t, dev, golden.Dir(name), typ)
			tokens := golden.Tokens(t, name)[:4]
			weights := dev.Memory().Used
			for _, o := range []curvature.Options{{Kind: curvature.Nearest, PowerSteps: 2}, {Kind: curvature.KronSum, PowerSteps: 4, Rank: 2}} {
				first := collect(t, m, tokens, 4, o)
				fromFile := curvature.NewWarm(m, o)
				names := map[string]bool{}
				for k, w := range fromFile.Warmth() {
					from := first.Warmth()[k]
					if w.Name != from.Name || names[w.Name] {
						t.Errorf("matrix %d is %s, and %s in the file", k, from.Name, w.Name)
					}
					names[w.Name] = true
					device.UploadSlice(dev, device.DownloadSlice[float64](dev, from.Packed), w.Packed)
				}
				m.Release()
				first.KeepWarm()
				if got, want := dev.Memory().Used-weights, 2*curvature.WarmBytes(0, m.Linears(), typ, o); got != want {
					t.Errorf("%d bytes are held by two warm starts, want %d", got, want)
				}
				warm, _, err := curvature.Collect(context.Background(), m, tokens, 4, o, first, nil)
				if err != nil {
					t.Fatal(err)
				}
				resumed, _, err := curvature.Collect(context.Background(), m, tokens, 4, o, fromFile, nil)
				if err != nil {
					t.Fatal(err)
				}
				twice := o
				twice.PowerSteps *= 2
				long := collect(t, m, tokens, 4, twice)
				for i, l := range m.Linears() {
					sameBits(t, dev, "from a file: "+l.Name, terms(resumed, i), terms(warm, i))
					if typ == device.F64 { // the second product also depends on how far the first one is
						for k := range 2 {
							golden.Near(t, "half as many half steps twice: "+l.Name, enginetest.Full(dev, terms(warm, i)[k]), enginetest.Full(dev, terms(long, i)[k]), 1e-12)
						}
					}
				}
				warm.Free()
				resumed.Free()
				long.Free()
				m.Release()
				if used := dev.Memory().Used; used != weights {
					t.Fatalf("%d bytes are held where the weights take %d", used, weights)
				}
			}
			dev.Close()
		}
	}
}

// What would be caught: a sum that is not positive semi-definite, a projection that changes what it need not, a share of what
// was cut that is not so.
func TestProjection(t *testing.T) {
	dev := cpu.Open()
	defer dev.Close()
	m := enginetest.Load(t, dev, golden.Dir("tiny-opt"), device.F64)
	tokens := golden.Tokens(t, "tiny-opt")
	o := curvature.Options{Kind: curvature.KronSum, PowerSteps: 6, Rank: 3}
	raw, err := curvature.CollectRaw(m, tokens, 4, o)
	if err != nil {
		t.Fatal(err)
	}
	f := collect(t, m, tokens, 4, o)
	cutSomething := false
	for i, l := range m.Linears() {
		sameBits(t, dev, "the first product of "+l.Name, terms(f, i)[:2], terms(raw, i)[:2])
		for k, term := range f.Rest(i) {
			before, kept, all := raw.Rest(i)[k], 1., 1.
			parts := [2]float64{1, 1} // squared norms of the products of the parts above and below zero
			for _, s := range []device.Sym{before.A, before.G} {
				plus, minus := 0., 0.
				for _, v := range eigenvalues(t, dev, s) {
					if v > 0 {
						plus += v * v
					} else {
						minus += v * v
					}
				}
				parts[0], parts[1], all = parts[0]*plus, parts[1]*minus, all*(plus+minus)
			}
			sign := 1.
			if parts[1] > parts[0] {
				sign = -1
			}
			// ‖X − Y‖² over all positive semi-definite Y is the sum of squares of the eigenvalues below zero.
			for j, s := range []device.Sym{term.A, term.G} {
				x, y := enginetest.Full(dev, []device.Sym{before.A, before.G}[j]), enginetest.Full(dev, s)
				values := eigenvalues(t, dev, s)
				if slices.Min(values) < -1e-14*slices.Max(values) {
					t.Errorf("%s: a factor has the eigenvalue %v, and %v", l.Name, slices.Min(values), slices.Max(values))
				}
				var far, least, norm float64
				for p := range x {
					far += (sign*x[p] - y[p]) * (sign*x[p] - y[p])
					norm += y[p] * y[p]
				}
				for _, v := range eigenvalues(t, dev, []device.Sym{before.A, before.G}[j]) {
					least += math.Pow(math.Min(sign*v, 0), 2)
				}
				if math.Abs(math.Sqrt(far)-math.Sqrt(least)) > 1e-10*math.Sqrt(norm) {
					t.Errorf("%s: a factor was moved by %v, %v is enough", l.Name, math.Sqrt(far), math.Sqrt(least))
				}
				kept *= norm
			}
			want := math.Sqrt(1 - kept/all)
			if got := f.Cut(i)[k]; math.Abs(got-want) > 1e-6 || got < 0 || got > 1 {
				t.Errorf("%s: %v is said to be cut, %v was", l.Name, got, want)
			}
			cutSomething = cutSomething || want > 0.1
		}
	}
	if !cutSomething {
		t.Error("nothing was cut anywhere: this tests nothing")
	}
}

// What would be caught: tokens that are weighed by the factor of another step, side or product, or a size that is none.
func TestEffectiveTokens(t *testing.T) {
	dev := cpu.Open()
	defer dev.Close()
	for _, name := range []string{"tiny-llama", "tiny-opt"} {
		m := enginetest.Load(t, dev, golden.Dir(name), device.F64)
		tokens := golden.Tokens(t, name)
		d := captured(t, dev, m, func(tap model.Tap) { _, _ = m.ForwardBackward(tokens, tap) })
		before := collect(t, m, tokens, 3, curvature.Options{Kind: curvature.Nearest, PowerSteps: 2})
		size := func(s device.Sym, vectors [][]float64) float64 {
			full := matrix(enginetest.Full(dev, s))
			var sum, squares float64
			for _, v := range vectors {
				var w float64
				for i, x := range v {
					for j, y := range v {
						w += x * full[i*s.N+j] * y
					}
				}
				sum, squares = sum+w, squares+w*w
			}
			return sum * sum / squares
		}
		for _, o := range []curvature.Options{{Kind: curvature.Nearest, PowerSteps: 4}, {Kind: curvature.KronSum, PowerSteps: 4, Rank: 2}} {
			f := collect(t, m, tokens, 3, o)
			for i, l := range m.Linears() {
				a, _ := before.Of(i) // what the last G is made by
				_, g := f.Of(i)
				got, n := f.EffectiveTokens(i), float64(len(d.a[i]))
				golden.Near(t, l.Name, []float64{got.G, got.A}, []float64{size(a, d.a[i]), size(g, d.g[i])}, 1e-9)
				if !(got.A >= 1 && got.A < n && got.G >= 1 && got.G < n) {
					t.Errorf("%s: %+v of %v tokens", l.Name, got, n)
				}
			}
		}
		// The first G is made by an A of all ones, whatever is drawn for a token and however often.
		sampled := curvature.Options{Kind: curvature.Nearest, PowerSteps: 2, Fisher: curvature.Sampled, Samples: 1}
		once := collect(t, m, tokens, 3, sampled)
		sampled.Samples = 3
		thrice := collect(t, m, tokens, 3, sampled)
		for i, l := range m.Linears() {
			golden.Near(t, l.Name+", drawn three times", []float64{thrice.EffectiveTokens(i).G}, []float64{once.EffectiveTokens(i).G}, 1e-9)
		}
		if got := collect(t, m, tokens, 3, curvature.Options{}).EffectiveTokens(0); got != (curvature.EffectiveTokens{}) {
			t.Errorf("tokens that count alike: %+v", got)
		}
		m.Free()
	}
}

func eigenvalues(t *testing.T, dev device.Device, s device.Sym) []float64 {
	t.Helper()
	var e mat.EigenSym
	if !e.Factorize(mat.NewSymDense(s.N, enginetest.Full(dev, s)), false) {
		t.Fatal("no eigenvalues")
	}
	return e.Values(nil)
}

// What would be caught: a curvature that is further from F than one that it should be nearer than.
func TestRelativeErrors(t *testing.T) {
	dev := cpu.Open()
	defer dev.Close()
	m := enginetest.Load(t, dev, golden.Dir("tiny-llama"), device.F64)
	tokens := golden.Tokens(t, "tiny-llama")
	d := captured(t, dev, m, func(tap model.Tap) { _, _ = m.ForwardBackward(tokens, tap) })
	const layer = 1 // k of block 0: 16 × 32
	a, g := d.a[layer], d.g[layer]
	rows, cols := len(g[0]), len(a[0])
	n := rows * cols
	fisher := mat.NewSymDense(n, nil)
	outer := mat.NewDense(len(a), n, nil) // row t is vec(g_t a_tᵀ)
	for t := range a {
		for r, x := range g[t] {
			for c, y := range a[t] {
				outer.Set(t, r*cols+c, x*y)
			}
		}
	}
	fisher.SymOuterK(1/float64(len(a)), outer.T())
	far := func(terms []device.Sym) float64 {
		sum, norm := 0., 0.
		var full [][]float64
		for _, s := range terms {
			full = append(full, enginetest.Full(dev, s))
		}
		for i := range n {
			for j := range n {
				v := fisher.At(i, j)
				norm += v * v
				for k := 0; k < len(full); k += 2 {
					v -= full[k+1][i/cols*rows+j/cols] * full[k][i%cols*cols+j%cols]
				}
				sum += v * v
			}
		}
		return math.Sqrt(sum / norm)
	}
	kfac, nearest := collect(t, m, tokens, 4, curvature.Options{}), collect(t, m, tokens, 4, curvature.Options{Kind: curvature.Nearest, PowerSteps: 6})
	raw, err := curvature.CollectRaw(m, tokens, 4, curvature.Options{Kind: curvature.KronSum, PowerSteps: 6, Rank: 3})
	if err != nil {
		t.Fatal(err)
	}
	sum := collect(t, m, tokens, 4, curvature.Options{Kind: curvature.KronSum, PowerSteps: 6, Rank: 3})
	errors := []float64{far(terms(kfac, layer)), far(terms(nearest, layer)), far(terms(raw, layer)[:4]), far(terms(raw, layer))}
	projected := []float64{far(terms(sum, layer)[:4]), far(terms(sum, layer))}
	t.Logf("‖F − …‖/‖F‖: kfac %.4f, nearest %.4f, two products %.4f, three %.4f; positive semi-definite ones: two %.4f, three %.4f, cut %.3f",
		errors[0], errors[1], errors[2], errors[3], projected[0], projected[1], sum.Cut(layer))
	for k := 1; k < len(errors); k++ {
		if !(errors[k] < errors[k-1]) {
			t.Errorf("errors %v do not fall", errors)
		}
	}
	if !(errors[0] < 1) {
		t.Error("nothing is nearer to F than kfac is")
	}
	// The nearest one is a projection: what is left is orthogonal to it, ‖F‖² = ‖G⊗A‖² + ‖F − G⊗A‖².
	var square float64 = 1
	for _, s := range terms(nearest, layer) {
		square *= math.Pow(matrix(enginetest.Full(dev, s)).norm(), 2)
	}
	if all := math.Pow(mat.Norm(fisher, 2), 2); math.Abs(square/all+errors[1]*errors[1]-1) > 1e-4 {
		t.Errorf("a share of %v of ‖F‖² is in the nearest product and %v is not", square/all, errors[1]*errors[1])
	}
}
