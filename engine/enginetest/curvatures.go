package enginetest

import (
	"context"
	"fmt"
	"testing"

	"surgeon/engine/curvature"
	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/internal/golden"
)

// Curvatures compares all kinds of curvature in float64 with those of the CPU. It would catch: a device on which a weighted
// sum, a draw, a diagonal or a projection is another one. Terms after the first are made of what is left of F, and are off by
// so much more.
func Curvatures(t *testing.T, open func(*testing.T) device.Device) {
	for _, c := range []struct {
		name string // without and with biases
		o    curvature.Options
	}{
		{"tiny-llama", curvature.Options{Kind: curvature.Nearest, PowerSteps: 2, Fisher: curvature.Sampled, Samples: 2, Seed: 1}},
		{"tiny-opt", curvature.Options{Kind: curvature.KronSum, PowerSteps: 4, Rank: 2}},
		{"tiny-llama", curvature.Options{Kind: curvature.Activations}},
		{"tiny-opt", curvature.Options{Kind: curvature.Diagonal}},
	} {
		t.Run(fmt.Sprintf("%s %s %s", c.name, c.o.Kind, c.o.Fisher), func(t *testing.T) {
			var got, want [][]float64
			var cuts [2][]float64
			tokens := golden.Tokens(t, c.name)[:3]
			for side, dev := range []device.Device{open(t), cpu.Open()} {
				defer dev.Close()
				m := Load(t, dev, golden.Dir(c.name), device.F64)
				f, losses, err := curvature.Collect(context.Background(), m, tokens, 2, c.o, nil, nil)
				if err != nil {
					t.Fatal(err)
				}
				all := [][]float64{losses}
				for i := range m.Linears() {
					a, g := f.Of(i)
					for _, term := range append([]curvature.Term{{A: a, G: g}}, f.Rest(i)...) {
						all = append(all, Full(dev, term.A))
						if c.o.Kind != curvature.Activations {
							all = append(all, Full(dev, term.G))
						}
					}
					if c.o.Kind == curvature.Diagonal {
						all = append(all, device.DownloadSlice[float64](dev, f.Diagonal(i)))
					}
					cuts[side] = append(cuts[side], f.Cut(i)...)
				}
				if side == 0 {
					got = all
				} else {
					want = all
				}
				f.Free()
			}
			for i := range want {
				golden.Near(t, fmt.Sprintf("array %d", i), got[i], want[i], 1e-8)
			}
			golden.Near(t, "what was cut", cuts[0], cuts[1], 1e-6)
		})
	}
}
