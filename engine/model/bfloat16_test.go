package model_test

import (
	"context"
	"math"
	"slices"
	"testing"

	"surgeon/engine/checkpoint"
	"surgeon/engine/checkpoint/safetensors"
	"surgeon/engine/curvature"
	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/enginetest"
	"surgeon/engine/internal/golden"
	"surgeon/engine/model"
)

// What would be caught: a tensor of a bfloat16 model that has the wrong type for its operation (the device refuses it), a
// gradient or a loss that goes missing between types. A bfloat16 has 8 bits, so values are off by up to 2⁻⁹ = 0.2 %, and a
// few dozen such roundings on the way to a loss make less than 1 %. Gradients of these random models are far more
// sensitive: their factors are compared with those of the float32 model with the weights rounded, and are off by 4 to 12 %.
func TestBFloat16IsNear(t *testing.T) {
	for _, name := range enginetest.Tiny {
		t.Run(name, func(t *testing.T) {
			dev := cpu.Open()
			defer dev.Close()
			tokens := golden.Tokens(t, name)
			var losses [2][]float64
			var factors [2][][]float64
			for i, typ := range []device.Type{device.F32, device.BF16} {
				m := enginetest.Load(t, dev, golden.Dir(name), typ)
				err := m.Round(func(_ string, values []float32) error { return checkpoint.Round(values, safetensors.BF16) })
				if err != nil {
					t.Fatal(err)
				}
				f, both, err := curvature.Collect(context.Background(), m, tokens, 2, curvature.Options{}, nil, nil)
				if err != nil {
					t.Fatal(err)
				}
				for k := 0; k < len(tokens); k += 2 { // the same batches: OpenBLAS has other kernels for other heights
					pair, err := m.Losses(tokens[k : k+2])
					if err != nil {
						t.Fatal(err)
					}
					losses[i] = append(losses[i], pair...)
				}
				if !slices.Equal(both, losses[i]) {
					t.Errorf("%v: losses %v with a backward pass and %v without", typ, both, losses[i])
				}
				for l := range m.Linears() {
					a, g := f.Of(l)
					factors[i] = append(factors[i], enginetest.Full(dev, a), enginetest.Full(dev, g))
				}
				if x := m.Logits(tokens[:1]); x.Type != device.F32 {
					t.Errorf("logits are %v", x.Type)
				}
				f.Free()
			}
			for i, want := range losses[0] {
				if got := losses[1][i]; math.Abs(got-want) > 0.01*want {
					t.Errorf("sequence %d: loss %v, in float32 %v", i, got, want)
				}
			}
			for i, want := range factors[0] {
				if e := distance(factors[1][i], want); !(e < 0.2) {
					t.Errorf("factor %d is off by %.3f of its norm", i, e)
				}
			}
		})
	}
}

// distance is ‖x − y‖ / ‖y‖.
func distance(x, y []float64) float64 {
	var d, n float64
	for i := range y {
		d += (x[i] - y[i]) * (x[i] - y[i])
		n += y[i] * y[i]
	}
	return math.Sqrt(d / n)
}

// What would be caught: weights of a bfloat16 model that are re-fitted in bfloat16. Each step is 2⁻¹² of a weight, far
// below half a unit of its last of eight bits, which are at least 2⁻⁹ of it: rounded at every step a weight would never
// move. Forty steps are 1 %, which bfloat16 does see.
func TestSmallStepsAddUp(t *testing.T) {
	for _, name := range []string{"tiny-llama", "tiny-opt"} { // without and with biases
		dev := cpu.Open()
		defer dev.Close()
		m := enginetest.Load(t, dev, golden.Dir(name), device.BF16)
		for _, l := range m.Linears() {
			x := l.Matrix(device.F64)
			want := device.DownloadSlice[float64](dev, x)
			dev.Free(x)
			for i := range want {
				for range 40 {
					want[i] *= 1 + 1./(1<<12)
				}
			}
			before := m.Values(l.WeightName())
			for range 40 {
				x, step := l.Matrix(device.F64), l.Matrix(device.F64)
				dev.Axpy(1./(1<<12), step, x)
				l.SetMatrix(x)
				dev.Free(x, step)
			}
			x = l.Matrix(device.F64)
			got := device.DownloadSlice[float64](dev, x)
			dev.Free(x)
			for i := range want { // each of the 40 steps rounds to 24 bits
				if math.Abs(got[i]-want[i]) > 40*math.Pow(2, -24)*math.Abs(want[i]) {
					t.Fatalf("%s: element %d is %v, want %v", l.Name, i, got[i], want[i])
				}
			}
			if after := m.Values(l.WeightName()); slices.Equal(after, before) {
				t.Errorf("%s: the values that a file gets have not moved", l.Name)
			}
		}
		m.Free()
		if used := dev.Memory().Used; used != 0 {
			t.Errorf("%d bytes are still held", used)
		}
	}
}

// What would be caught: a pass over weights other than the rounded ones of now, after a step or after values were set, and
// values that do not come back as they were set.
func TestPassesSeeTheStep(t *testing.T) {
	dev := cpu.Open()
	defer dev.Close()
	tokens := golden.Tokens(t, "tiny-opt")
	stepped, set := enginetest.Load(t, dev, golden.Dir("tiny-opt"), device.BF16), enginetest.Load(t, dev, golden.Dir("tiny-opt"), device.BF16)
	dense := losses(t, stepped, tokens)
	for i, l := range stepped.Linears() {
		x, y := l.Matrix(device.F64), l.Matrix(device.F64)
		dev.Axpy(0.3, y, x)
		l.SetMatrix(x)
		for _, name := range []string{l.WeightName(), l.BiasName()} {
			values := stepped.Values(name)
			set.SetValues(name, values)
			if !slices.Equal(set.Values(name), values) {
				t.Errorf("%s comes back changed", name)
			}
		}
		z := set.Linears()[i].Matrix(device.F64)
		if !slices.Equal(device.DownloadSlice[float32](dev, z), device.DownloadSlice[float32](dev, x)) {
			t.Errorf("%s: the matrix of the values that were set is another", l.Name)
		}
		dev.Free(x, y, z)
	}
	a, b := losses(t, stepped, tokens), losses(t, set, tokens)
	if slices.Equal(a, dense) || !slices.Equal(a, b) {
		t.Errorf("losses %v dense, %v after the steps, %v after setting the same values", dense, a, b)
	}
}

func losses(t *testing.T, m *model.Model, tokens [][]int32) []float64 {
	t.Helper()
	x, err := m.Losses(tokens)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// What would be caught: a model that is only measured and takes main memory for masters, or has other losses without them.
func TestLoadFixed(t *testing.T) {
	dev := cpu.Open()
	defer dev.Close()
	c, err := checkpoint.Open(golden.Dir("tiny-opt"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var losses [2][]float64
	for i, load := range []func(context.Context, device.Device, *checkpoint.Checkpoint, device.Type) (*model.Model, error){model.Load, model.LoadFixed} {
		m, err := load(context.Background(), dev, c, device.BF16)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Free()
		for _, l := range m.Linears() {
			if has := m.Master(l.WeightName()) != nil || l.Bias && m.Master(l.BiasName()) != nil; has != (i == 0) {
				t.Errorf("%s has a master: %v", l.Name, has)
			}
		}
		if losses[i], err = m.Losses(golden.Tokens(t, "tiny-opt")); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(losses[0], losses[1]) {
		t.Errorf("losses %v with masters and %v without", losses[0], losses[1])
	}
}
