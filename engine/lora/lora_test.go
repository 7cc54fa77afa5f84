package lora

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"surgeon/engine/checkpoint"
	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/internal/golden"
	"surgeon/engine/model"
)

// masked is a tiny model on the CPU that has lost a row, a column and a third of the weights of every layer, and all of q and k in
// block 1: without one of them the other has no gradient.
func masked(t *testing.T, name string, typ device.Type) (m *model.Model, windows [][]int32) {
	t.Helper()
	source, err := checkpoint.Open(golden.Dir(name))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	dev := cpu.Open()
	if m, err = model.Load(context.Background(), dev, source, typ); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Free()
		if used := dev.Memory().Used; used != 0 {
			t.Errorf("%d bytes are still held", used)
		}
		dev.Close()
	})
	rng := rand.New(rand.NewPCG(11, 0))
	for _, l := range m.Linears() {
		w := l.Matrix(device.F64)
		values := device.DownloadSlice[float64](dev, w)
		for j := range values {
			row, col := j/l.Inputs(), j%l.Inputs()
			if rng.IntN(3) == 0 || row == 2 || col == 1 || gone(l) {
				values[j] = 0
			}
		}
		device.UploadSlice(dev, values, w)
		l.SetMatrix(w)
		dev.Free(w)
	}
	return m, golden.Tokens(t, name)
}

// gone says which layers masked leaves nothing of.
func gone(l *model.Linear) bool {
	return l.Block == 1 && (l.Role == checkpoint.Q || l.Role == checkpoint.K)
}

// families have no bias anywhere, everywhere, and in q, k and v alone.
var families = []string{"tiny-llama", "tiny-opt", "tiny-qwen2", "tiny-opt-post"}

// weights are those of all layers, as the model's type has them.
func weights(m *model.Model) (all [][]float64) {
	for _, l := range m.Linears() {
		w := l.Matrix(device.F64)
		all = append(all, device.DownloadSlice[float64](m.Device(), w))
		m.Device().Free(w)
	}
	return all
}

// What would be caught: a derivative of the loss by A or B of any layer that is wrong, such as one that forgets the mask, the
// bias, the mean, or what an earlier window has left. Central differences along random directions, h chosen so that both their
// errors, h² times a third derivative and ε/h, stay small: the largest that was seen is 3e-9.
func TestGradient(t *testing.T) {
	for _, name := range families {
		t.Run(name, func(t *testing.T) {
			m, windows := masked(t, name, device.F64)
			const rank = 3
			c, leftOut, err := newCorrections(m, rank)
			defer c.free()
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range m.Linears() {
				if slices.Contains(leftOut, l.Name) != gone(l) {
					t.Errorf("left out are %v", leftOut)
				}
			}
			rng := rand.New(rand.NewPCG(12, 0))
			at := make([]float64, len(c.values))
			for i := range at {
				at[i] = 0.1 * rng.NormFloat64()
			}
			set := func(values []float64) {
				copy(c.values, values)
				if err := c.merge(); err != nil {
					t.Fatal(err)
				}
			}
			loss := func() float64 {
				losses, err := m.Losses(windows[1:2])
				if err != nil {
					t.Fatal(err)
				}
				return losses[0]
			}
			set(at)
			if _, _, err := c.gradient(windows[0]); err != nil { // of which nothing may stay
				t.Fatal(err)
			}
			was, gradient, err := c.gradient(windows[1])
			if err != nil || was != loss() {
				t.Fatalf("loss %v, without a gradient %v: %v", was, loss(), err)
			}
			for _, l := range c.layers {
				middle := l.offset + rank*l.Inputs()
				if end := middle + rank*l.Rows; c.layerOf(l.offset) != l.Linear || c.layerOf(end-1) != l.Linear {
					t.Errorf("numbers %d to %d are not taken for those of %s", l.offset, end-1, l.Name)
				}
				for side, span := range [][2]int{{l.offset, middle}, {middle, middle + rank*l.Rows}} {
					const h = 2e-6
					values, want := [2][]float64{slices.Clone(at), slices.Clone(at)}, 0.
					for i := span[0]; i < span[1]; i++ {
						u := rng.NormFloat64()
						values[0][i] -= h * u
						values[1][i] += h * u
						want += gradient[i] * u
					}
					set(values[0])
					below := loss()
					set(values[1])
					if got := (loss() - below) / (2 * h); math.Abs(got-want) > 2e-8*(1+math.Abs(want)) || want == 0 {
						t.Errorf("%c of %s: the loss changes by %v, the gradient says %v", "AB"[side], l.Name, got, want)
					}
				}
			}
			m.Release()
		})
	}
}

// What would be caught: a zero that comes back, in whatever type, a weight that stays where it was, a layer without weights that
// gets some, a loss that does not go down, other bits the second time.
func TestCorrect(t *testing.T) {
	for _, name := range families {
		for _, typ := range []device.Type{device.F32, device.F64, device.BF16} {
			t.Run(name+" "+typ.String(), func(t *testing.T) {
				var first [][]float64
				for range 2 {
					m, windows := masked(t, name, typ)
					before := weights(m)
					windows = windows[:2]
					losses, err := m.Losses(windows)
					if err != nil {
						t.Fatal(err)
					}
					m.Release()
					o := Options{Rank: 2, Rate: 2e-3, Epochs: 10, Seed: 5}
					var steps []int
					leftOut, err := Correct(context.Background(), m, windows, []int{1, 0}, o, func(done int) { steps = append(steps, done) })
					if err != nil || len(leftOut) != 2 || len(steps) != 20 || steps[19] != 20 {
						t.Fatalf("left out %v after the steps %v: %v", leftOut, steps, err)
					}
					m.Release()
					after := weights(m)
					for i, l := range m.Linears() {
						moved := 0
						for j := range before[i] {
							if (before[i][j] == 0) != (after[i][j] == 0) {
								t.Fatalf("%s[%d] was %v and is %v", l.Name, j, before[i][j], after[i][j])
							}
							if before[i][j] != after[i][j] {
								moved++
							}
						}
						if slices.Contains(leftOut, l.Name) != (moved == 0) {
							t.Errorf("%s: %d weights have moved", l.Name, moved)
						}
					}
					lower, err := m.Losses(windows)
					if err != nil || lower[0]+lower[1] > losses[0]+losses[1]-0.05 {
						t.Errorf("losses were %v and are %v: %v", losses, lower, err)
					}
					m.Release()
					if first == nil {
						first = after
					} else if !slices.EqualFunc(first, after, slices.Equal) {
						t.Error("the second time ends in other bits")
					}
				}
			})
		}
	}
}

// What would be caught: a step of Adam other than the published one, and a rate that does not fall by epochs. The values of the
// first two steps are worked out by hand: the first is the rate itself whatever the gradient, and the second, after gradients 1
// and 3, m̂ = (0.09 + 0.3)/0.19 and v̂ = (0.000999 + 0.009)/0.001999.
func TestAdam(t *testing.T) {
	a, x := newAdam(3), []float64{1, 1, 1}
	a.step(0.5, []float64{1, -1e-3, 0}, x)
	for i, want := range []float64{0.5, 1.5, 1} {
		if math.Abs(x[i]-want) > 1e-5 {
			t.Errorf("after one step x[%d] is %v, want %v", i, x[i], want)
		}
	}
	a.step(0.25, []float64{3, -1e-3, 0}, x)
	for i, want := range []float64{0.5 - 0.25*(0.39/0.19)/math.Sqrt(0.009999/0.001999), 1.75, 1} {
		if math.Abs(x[i]-want) > 1e-5 {
			t.Errorf("after two steps x[%d] is %v, want %v", i, x[i], want)
		}
	}
	moves := func(epochs int) (all float64) { // of the first row of the first B, which begins at 0
		m, windows := masked(t, "tiny-llama", device.F64)
		before := weights(m)
		if _, err := Correct(context.Background(), m, windows, []int{0}, Options{Rank: 1, Rate: 1e-9, Epochs: epochs, Seed: 1}, nil); err != nil {
			t.Fatal(err)
		}
		m.Release()
		for i, w := range weights(m)[1] {
			all = math.Max(all, math.Abs(w-before[1][i]))
		}
		return all
	}
	// With so small a rate every gradient is the same one, so that every step is as long as the rate: 1 + 3/4 + 2/4 + 1/4.
	if ratio := moves(4) / moves(1); math.Abs(ratio-2.5) > 0.01 {
		t.Errorf("four epochs move a weight %v times as far as one", ratio)
	}
}

// What would be caught: a round on nothing that says nothing, NaN that becomes a weight, without its place, a cancelled round
// that goes on.
func TestNoCorrection(t *testing.T) {
	o := Options{Rank: 2, Rate: 1e-3, Epochs: 2}
	correct := func(ctx context.Context, m *model.Model, windows [][]int32, o Options, progress func(int)) error {
		_, err := Correct(ctx, m, windows, []int{1, 0}, o, progress)
		m.Release()
		return err
	}
	t.Run("nothing left", func(t *testing.T) {
		m, windows := masked(t, "tiny-llama", device.F32)
		for _, l := range m.Linears() {
			w := l.Matrix(device.F32)
			m.Device().Zero(w)
			l.SetMatrix(w)
			m.Device().Free(w)
		}
		if err := correct(context.Background(), m, windows, o, nil); err == nil || !strings.Contains(err.Error(), "all zeros") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("overflow", func(t *testing.T) {
		m, windows := masked(t, "tiny-llama", device.F32)
		with := o
		with.Rate = 1e30
		if err := correct(context.Background(), m, windows, with, nil); err == nil || !strings.Contains(err.Error(), "step 2 of 4, calibration window 0: the loss is NaN") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("gradient", func(t *testing.T) {
		m, windows := masked(t, "tiny-llama", device.F32)
		c, _, err := newCorrections(m, 1)
		defer c.free()
		if err != nil {
			t.Fatal(err)
		}
		l := c.layers[3] // an A without bounds under a B of zeros, which no loss sees
		a, _ := c.matrices(l, c.operands)
		c.dev.Zero(c.operands)
		device.UploadSlice(c.dev, slices.Repeat([]float32{float32(math.Inf(1))}, a.Len()), a)
		err = c.step(windows[0], newAdam(len(c.values)), 1e-3)
		if err == nil || !strings.Contains(err.Error(), "layer "+l.Name+": the gradient") {
			t.Errorf("got %v", err)
		}
		m.Release()
	})
	t.Run("cancelled", func(t *testing.T) {
		m, windows := masked(t, "tiny-llama", device.F32)
		ctx, cancel := context.WithCancel(context.Background())
		most := 0
		err := correct(ctx, m, windows, o, func(done int) {
			if most = done; done == 2 {
				cancel()
			}
		})
		if !errors.Is(err, context.Canceled) || most != 2 {
			t.Errorf("after %d steps: %v", most, err)
		}
	})
}
