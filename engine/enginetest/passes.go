package enginetest

import (
	"context"
	"fmt"
	"testing"

	"surgeon/engine/checkpoint"
	"surgeon/engine/curvature"
	"surgeon/engine/device"
	"surgeon/engine/internal/golden"
	"surgeon/engine/model"
)

// Tiny are the tiny models, one for each architecture.
var Tiny = []string{"tiny-llama", "tiny-llama3", "tiny-mistral", "tiny-qwen2", "tiny-qwen3", "tiny-opt", "tiny-opt-post"}

// passDoc is what Passes reads of golden.json and float64.json.
type passDoc struct {
	DenseLoss []float64 `json:"dense_loss"`
}

// limits of the relative error. golden's arrays that went through a model carry float32 roundings of about 1e-6 (see
// engine/testdata/README.md); float64's carry none.
var sources = []struct {
	name                  string
	logits, loss, factors float64
}{
	{"golden", 2e-6, 1e-6, 5e-6},
	{"float64", 1e-9, 1e-9, 1e-9},
}

// Passes compares logits, losses and factors in float64 with the cases of all tiny models. It would catch: any error in a
// forward or backward pass, of any of the architectures, and in the sums of the factors: sign, scale, order of heads, RoPE,
// windows, biases, the constant input, the last position.
func Passes(t *testing.T, open func(*testing.T) device.Device) {
	for _, name := range Tiny {
		t.Run(name, func(t *testing.T) {
			dev := open(t)
			defer dev.Close()
			m := Load(t, dev, golden.Dir(name), device.F64)
			tokens := golden.Tokens(t, name)
			logits := device.DownloadSlice[float64](dev, m.Logits(tokens[:1]))
			for _, batch := range []int{1, 3, 8} {
				f, losses, err := curvature.Collect(context.Background(), m, tokens, batch, curvature.Options{}, nil, nil)
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range sources {
					if s.name == "golden" && name == "tiny-opt-post" {
						continue // has only the float64 case
					}
					var want passDoc
					arrays := golden.Open(t, name, s.name, &want)
					golden.Near(t, s.name+" logits", logits, arrays.Get("dense/logits0"), s.logits)
					golden.Near(t, fmt.Sprintf("%s losses, batches of %d", s.name, batch), losses, want.DenseLoss, s.loss)
					for i, l := range m.Linears() {
						a, g := f.Of(i)
						golden.Near(t, s.name+" A of "+l.Name, Full(dev, a), arrays.Get("dense/"+l.Name+"/A"), s.factors)
						golden.Near(t, s.name+" G of "+l.Name, Full(dev, g), arrays.Get("dense/"+l.Name+"/G"), s.factors)
					}
				}
				f.Free()
			}
			if got, err := m.Losses(tokens); err != nil {
				t.Error(err)
			} else {
				var want passDoc
				golden.Open(t, name, "float64", &want)
				golden.Near(t, "losses of a forward-only pass", got, want.DenseLoss, 1e-9)
			}
		})
	}
}

// Load brings the model of a directory to the device.
func Load(t *testing.T, dev device.Device, dir string, typ device.Type) *model.Model {
	t.Helper()
	c, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	m, err := model.Load(context.Background(), dev, c, typ)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Full is a packed triangle as a row-major square.
func Full(dev device.Device, s device.Sym) []float64 {
	packed := device.DownloadSlice[float64](dev, s.Packed)
	x := make([]float64, s.N*s.N)
	for i := range s.N {
		for j := range i + 1 {
			v := packed[device.PackedLen(i)+j]
			x[i*s.N+j], x[j*s.N+i] = v, v
		}
	}
	return x
}
