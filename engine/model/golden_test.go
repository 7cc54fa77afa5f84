package model_test

import (
	"context"
	"fmt"
	"testing"

	"surgeon/engine/checkpoint"
	"surgeon/engine/curvature"
	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/internal/golden"
	"surgeon/engine/model"
)

// doc is what these tests read of golden.json and float64.json.
type doc struct {
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

// What would be caught: any error in a forward or backward pass, of any of the architectures, and in the sums of the
// factors: sign, scale, order of heads, RoPE, windows, biases, the constant input, the last position.
func TestGoldenFloat64(t *testing.T) {
	for _, name := range families {
		t.Run(name, func(t *testing.T) {
			dev := cpu.Open()
			defer dev.Close()
			m := load(t, dev, golden.Dir(name), device.F64)
			tokens := golden.Tokens(t, name)
			logits := device.DownloadSlice[float64](dev, m.Logits(tokens[:1]))
			for _, batch := range []int{1, 3, 8} {
				f, losses, err := curvature.Collect(context.Background(), m, tokens, batch, nil)
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range sources {
					if s.name == "golden" && name == "tiny-opt-post" {
						continue // has only the float64 case
					}
					var want doc
					arrays := golden.Open(t, name, s.name, &want)
					golden.Near(t, s.name+" logits", logits, arrays.Get("dense/logits0"), s.logits)
					golden.Near(t, fmt.Sprintf("%s losses, batches of %d", s.name, batch), losses, want.DenseLoss, s.loss)
					for i, l := range m.Linears() {
						a, g := f.Of(i)
						golden.Near(t, s.name+" A of "+l.Name, full(dev, a), arrays.Get("dense/"+l.Name+"/A"), s.factors)
						golden.Near(t, s.name+" G of "+l.Name, full(dev, g), arrays.Get("dense/"+l.Name+"/G"), s.factors)
					}
				}
				f.Free()
			}
			if got, err := m.Losses(tokens); err != nil {
				t.Error(err)
			} else {
				var want doc
				golden.Open(t, name, "float64", &want)
				golden.Near(t, "losses of a forward-only pass", got, want.DenseLoss, 1e-9)
			}
		})
	}
}

func load(t *testing.T, dev device.Device, dir string, typ device.Type) *model.Model {
	t.Helper()
	c, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	m, err := model.Load(dev, c, typ)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// full is a packed triangle as a row-major square.
func full(dev device.Device, s device.Sym) []float64 {
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
