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

// What would be caught: samples that are averaged before squaring, or divided by another number than k; activations of the
// second backward pass that are the gradients of the first; an A, or losses, that depend on what is drawn; a token drawn after
// the end of a window.
func TestSamplesAreAveragedAfterSquaring(t *testing.T) {
	for _, name := range enginetest.Tiny {
		dev := cpu.Open()
		m := enginetest.Load(t, dev, golden.Dir(name), device.F64)
		tokens := golden.Tokens(t, name)
		o := curvature.Options{Kind: curvature.Diagonal, Fisher: curvature.Sampled, Samples: 3, Seed: 4}
		f, losses, err := curvature.Collect(context.Background(), m, tokens, 8, o, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		empirical, trueLosses, err := curvature.Collect(context.Background(), m, tokens, 8, curvature.Options{}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(losses, trueLosses) {
			t.Errorf("%s: losses %v, want %v", name, losses, trueLosses)
		}
		d := captured(t, dev, m, func(tap model.Tap) {
			for _, u := range o.Uniform(0, tokens) { // a forward pass for each
				_, _ = m.ForwardSampled(tokens, [][]float64{u}, tap)
			}
		})
		for i, l := range m.Linears() {
			a, g := f.Of(i)
			want, _ := empirical.Of(i)
			sameBits(t, dev, "A of "+l.Name, []device.Sym{a}, []device.Sym{want})
			mean, diagonal := make([]float64, l.Rows*l.Rows), make([]float64, l.Rows*l.Inputs())
			for k, row := range d.g[i] { // 3 samples of all tokens, one after the other
				for r, x := range row {
					for c, y := range row {
						mean[r*l.Rows+c] += x * y / float64(len(d.g[i]))
					}
					for c, y := range d.a[i][k] {
						diagonal[r*l.Inputs()+c] += x * x * y * y / float64(len(d.g[i]))
					}
				}
				if (k+1)%len(tokens[0]) == 0 && slices.ContainsFunc(row, func(v float64) bool { return v != 0 }) {
					t.Errorf("%s: %s has a gradient at the last token of a window", name, l.Name)
				}
			}
			golden.Near(t, name+": G of "+l.Name, enginetest.Full(dev, g), mean, 1e-12)
			golden.Near(t, name+": D of "+l.Name, device.DownloadSlice[float64](dev, f.Diagonal(i)), diagonal, 1e-12)
		}
		dev.Close()
	}
}

// What would be caught: an expectation that depends on k, as of published code, whose G is k times as large; tokens drawn with
// other than the model's probabilities; a gradient that is not of the token drawn.
//
// The output gradient of the last block's last layer at a token depends on one next token alone, that after it. So what is
// expected of its G is a sum over the vocabulary, Σ_t Σ_v p_tv g_t(v) g_t(v)ᵀ/N, and that of the gradient itself is zero.
func TestExpectationDoesNotDependOnSamples(t *testing.T) {
	dev := cpu.Open()
	defer dev.Close()
	m := enginetest.Load(t, dev, golden.Dir("tiny-llama"), device.F64)
	tokens := golden.Tokens(t, "tiny-llama")[:4]
	last, vocabulary, n := len(m.Linears())-1, m.Config.Vocab, len(tokens)*len(tokens[0])
	x := m.Logits(tokens)
	logits := device.DownloadSlice[float64](dev, x)
	dev.Free(x)
	p, uniform := make([]float64, n*vocabulary), make([][]float64, vocabulary)
	for i := range n {
		sum := 0.
		for v := range vocabulary {
			sum += math.Exp(logits[i*vocabulary+v])
		}
		below := 0.
		for v := range vocabulary {
			p[i*vocabulary+v] = math.Exp(logits[i*vocabulary+v]) / sum
			uniform[v] = append(uniform[v], below+p[i*vocabulary+v]/2) // draws v
			below += p[i*vocabulary+v]
		}
	}
	rows := m.Linears()[last].Rows
	want, mean, size := make([]float64, rows*rows), make([]float64, n*rows), 0.
	d := captured(t, dev, m, func(tap model.Tap) { _, _ = m.ForwardSampled(tokens, uniform, tap) })
	for k, g := range d.g[last] {
		i := k % n
		w := p[i*vocabulary+k/n]
		for r, x := range g {
			mean[i*rows+r] += w * x
			size = math.Max(size, math.Abs(x))
			for c, y := range g {
				want[r*rows+c] += w * x * y / float64(n)
			}
		}
	}
	for _, v := range mean {
		if math.Abs(v) > 1e-9*size {
			t.Fatalf("the expected gradient has an element %v where gradients are up to %v", v, size)
		}
	}
	for _, test := range []struct{ samples, seeds int }{{1, 24}, {4, 6}, {12, 2}} { // as many draws in all
		g := make([]float64, rows*rows)
		for seed := range test.seeds {
			f := collect(t, m, tokens, 8, curvature.Options{Fisher: curvature.Sampled, Samples: test.samples, Seed: uint64(seed)})
			_, s := f.Of(last)
			for i, v := range enginetest.Full(dev, s) {
				g[i] += v / float64(test.seeds)
			}
			f.Free()
		}
		e := golden.Error(g, want)
		t.Logf("%d samples, %d seeds: relative error %.3f", test.samples, test.seeds, e)
		if !(e < 0.2) { // 2304 draws of heavy tails; a factor of 4 would be an error of 3
			t.Errorf("%d samples: G is off by %.3f from what is expected of it", test.samples, e)
		}
	}
}

// What would be caught: numbers that are not those of the seed, the window and the sample, or that two of them share.
func TestUniform(t *testing.T) {
	o := curvature.Options{Samples: 3, Seed: 7}
	batch := [][]int32{make([]int32, 5), make([]int32, 5)}
	u := o.Uniform(4, batch)
	if more := (curvature.Options{Samples: 4, Seed: 7}).Uniform(5, batch[:1]); !slices.Equal(more[2], u[2][5:]) {
		t.Errorf("sample 2 of window 5 is %v, alone and one of four %v", u[2][5:], more[2])
	}
	seen := map[float64]bool{}
	for _, v := range slices.Concat(slices.Concat(u...), slices.Concat(curvature.Options{Samples: 1, Seed: 8}.Uniform(4, batch)...)) {
		if seen[v] {
			t.Errorf("%v was drawn twice", v)
		}
		seen[v] = true
	}
}
