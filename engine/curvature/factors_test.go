package curvature_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	"surgeon/engine/checkpoint"
	"surgeon/engine/curvature"
	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/enginetest"
	"surgeon/engine/internal/golden"
	"surgeon/engine/model"
)

// Factors are compared with golden and with a float64 oracle in package model, for every architecture and batch size.

func load(t *testing.T, dev device.Device, name string) *model.Model {
	t.Helper()
	c, err := checkpoint.Open(golden.Dir(name))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m, err := model.Load(context.Background(), dev, c, device.F32)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// set changes one element of a tensor.
func set(m *model.Model, name string, at int, value float32) {
	values := m.Values(name)
	values[at] = value
	m.SetValues(name, values)
}

// What would be caught: a NaN or an infinity that passes, or is put down to the wrong layer, block or window.
func TestNonFinite(t *testing.T) {
	const width = 32
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, test := range []struct {
		name   string
		tensor string
		at     int
		value  float32
		token  int32 // put into window 2 only, if not 0
		batch  int
		want   curvature.NonFinite
	}{
		{"NaN in the embedding of a token", "model.embed_tokens.weight", 127 * width, nan, 127, 1,
			curvature.NonFinite{What: "input", Layer: "model.layers.0.self_attn.q_proj", Block: 0, First: 2, Last: 2}},
		{"the same in batches of 3", "model.embed_tokens.weight", 127 * width, nan, 127, 3,
			curvature.NonFinite{What: "input", Layer: "model.layers.0.self_attn.q_proj", Block: 0, First: 0, Last: 2}},
		{"infinity in a weight", "model.layers.1.self_attn.o_proj.weight", 5, inf, 0, 1,
			curvature.NonFinite{What: "input", Layer: "model.layers.1.mlp.gate_proj", Block: 1}},
		{"NaN in the head", "lm_head.weight", 7, nan, 0, 1,
			curvature.NonFinite{What: "output gradient", Layer: "model.layers.1.mlp.down_proj", Block: 1}},
		{"a finite weight so large that squares overflow", "model.layers.0.mlp.gate_proj.weight", 3, 1e30, 0, 1,
			curvature.NonFinite{What: "input", Layer: "model.layers.0.mlp.down_proj", Block: 0}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dev := cpu.Open()
			defer dev.Close()
			m := load(t, dev, "tiny-llama")
			held := dev.Memory().Used
			windows := golden.Tokens(t, "tiny-llama")
			for _, w := range windows {
				for i := range w {
					if w[i] == 127 {
						w[i] = 126
					}
				}
			}
			if test.token != 0 {
				windows[2][5] = test.token
			}
			set(m, test.tensor, test.at, test.value)
			for _, o := range every {
				if o.Kind == curvature.Identity || o.Kind == curvature.Activations && test.want.What != "input" {
					continue // looks at nothing, or not at gradients
				}
				want := test.want
				if o.Consumers { // the first that is looked at of the block
					want.Layer = strings.NewReplacer("q_proj", "o_proj", "gate_proj", "down_proj").Replace(want.Layer)
				}
				_, _, err := curvature.Collect(context.Background(), m, windows, test.batch, o, nil, nil)
				var got *curvature.NonFinite
				if !errors.As(err, &got) || *got != want {
					t.Errorf("%+v: got %v, want %v", o, err, &want)
				}
				m.Release()
				if used := dev.Memory().Used; used != held {
					t.Errorf("%+v: %d bytes are held after the error, %d before", o, used, held)
				}
			}
		})
	}
}

// What would be caught: a weighted sum that overflows though inputs and gradients do not, and that nobody sees.
func TestWeightedSumOverflows(t *testing.T) {
	dev := cpu.Open()
	defer dev.Close()
	m := load(t, dev, "tiny-llama")
	m.SetValues("model.layers.0.mlp.down_proj.weight", make([]float32, 32*48)) // what is large does not go on
	set(m, "model.layers.0.mlp.gate_proj.weight", 3, 1e16)
	head := m.Values("lm_head.weight")
	for i := range head {
		head[i] *= 1e6
	}
	m.SetValues("lm_head.weight", head)
	_, _, err := curvature.Collect(context.Background(), m, golden.Tokens(t, "tiny-llama"), 4, curvature.Options{Kind: curvature.Nearest, PowerSteps: 2}, nil, nil)
	var got *curvature.NonFinite
	want := curvature.NonFinite{What: "sum of output gradients", Layer: "model.layers.0.mlp.down_proj", Block: 0, First: 0, Last: 7}
	if !errors.As(err, &got) || *got != want {
		t.Errorf("got %v, want %v", err, &want)
	}
}

// What would be caught: a stop that is not heard, factors that are not freed.
func TestCancel(t *testing.T) {
	dev := cpu.Open()
	defer dev.Close()
	m := load(t, dev, "tiny-opt")
	windows := golden.Tokens(t, "tiny-opt")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	seen := 0
	_, _, err := curvature.Collect(ctx, m, windows, 1, curvature.Options{}, nil, func(done int) {
		if seen = done; done == 3 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || seen != 3 {
		t.Errorf("after %d windows: %v", seen, err)
	}
	m.Free()
	if used := dev.Memory().Used; used != 0 {
		t.Errorf("%d bytes are still held", used)
	}
}

// What would be caught: a stop between half steps, or before terms are made positive semi-definite, that is not heard.
func TestCancelLater(t *testing.T) {
	dev := cpu.Open()
	defer dev.Close()
	m := load(t, dev, "tiny-llama")
	windows := golden.Tokens(t, "tiny-llama")
	o := curvature.Options{Kind: curvature.KronSum, PowerSteps: 4, Rank: 2}
	for _, at := range []int{8, 20, 64} {
		ctx, cancel := context.WithCancel(context.Background())
		seen := 0
		_, _, err := curvature.Collect(ctx, m, windows, 2, o, nil, func(done int) {
			if seen = done; done == at {
				cancel()
			}
		})
		if !errors.Is(err, context.Canceled) || seen != at {
			t.Errorf("stopped at %d windows: %v after %d", at, err, seen)
		}
		cancel()
	}
	m.Free()
	if used := dev.Memory().Used; used != 0 {
		t.Errorf("%d bytes are still held", used)
	}
}

// counted is a device that counts what it is asked for, and not what its operations work in.
type counted struct {
	device.Device
	page       device.Page
	used, peak int64
}

func (d *counted) Alloc(rows, cols int, t device.Type) device.Tensor {
	d.used += d.page.Tensor(rows, cols, t)
	d.peak = max(d.peak, d.used)
	return d.Device.Alloc(rows, cols, t)
}

func (d *counted) Free(ts ...device.Tensor) {
	for _, t := range ts {
		if !t.IsZero() {
			d.used -= d.page.Tensor(t.Rows, t.Cols, t.Type)
		}
	}
	d.Device.Free(ts...)
}

// What would be caught: a plan of memory that is not what is allocated.
func TestBytes(t *testing.T) {
	for _, name := range []string{"tiny-llama", "tiny-qwen2"} {
		for _, typ := range []device.Type{device.F32, device.F64, device.BF16} {
			for i := range 2 * len(every) {
				o, page := every[i/2], device.Page(i%2*5000) // with pages, and without any
				dev := &counted{Device: cpu.Open(), page: page}
				m := enginetest.Load(t, dev, golden.Dir(name), typ)
				weights := dev.used
				if want := int64(typ.Size()) * int64(m.Parameters()); page == 0 && weights != want {
					t.Errorf("%s: weights take %d bytes, want %d", name, weights, want)
				}
				windows := golden.Tokens(t, name)[:4]
				f := collect(t, m, windows, 4, o)
				workspace := model.WorkspaceBytes(page, m.Config, m.Type, len(windows[0]), 4, o.Kind != curvature.Activations)
				if o.Kind == curvature.Identity {
					workspace = 0
				}
				peak := weights + workspace + curvature.Bytes(page, m.Linears(), typ, o) + curvature.ScratchBytes(page, m.Linears(), typ, o, 4*len(windows[0]))
				if dev.peak != peak {
					t.Errorf("%s %v %+v: %d bytes are held at most, in pages of %d: planned are %d", name, typ, o, dev.peak, page, peak)
				}
				m.Release()
				if got, want := dev.used-weights, curvature.Bytes(page, m.Linears(), typ, o); got != want {
					t.Errorf("%s %v %+v: factors take %d bytes, Bytes says %d", name, typ, o, got, want)
				}
				f.Free()
				if dev.used != weights {
					t.Errorf("%s %v %+v: %d bytes are held where the weights take %d", name, typ, o, dev.used, weights)
				}
				dev.Close()
			}
		}
	}
}
