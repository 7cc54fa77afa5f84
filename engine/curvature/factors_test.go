package curvature_test

import (
	"context"
	"errors"
	"math"
	"testing"

	"surgeon/engine/checkpoint"
	"surgeon/engine/curvature"
	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
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
	m, err := model.Load(dev, c, device.F32)
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
			_, _, err := curvature.Collect(context.Background(), m, windows, test.batch, curvature.Options{}, nil, nil)
			var got *curvature.NonFinite
			if !errors.As(err, &got) || *got != test.want {
				t.Errorf("got %v, want %v", err, &test.want)
			}
			if used := dev.Memory().Used; used > 4<<20 {
				t.Errorf("%d bytes are held after the error", used)
			}
		})
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

// What would be caught: a plan of memory that is not what is allocated.
func TestBytes(t *testing.T) {
	for _, name := range []string{"tiny-llama", "tiny-opt", "tiny-qwen2"} {
		dev := cpu.Open()
		m := load(t, dev, name)
		weights := dev.Memory().Used
		if want := 4 * int64(m.Parameters()); weights != want {
			t.Errorf("%s: weights take %d bytes, want %d", name, weights, want)
		}
		windows := golden.Tokens(t, name)
		f, _, err := curvature.Collect(context.Background(), m, windows, 4, curvature.Options{}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		workspace := model.WorkspaceBytes(m.Config, m.Type, len(windows[0]), 4, true)
		if got, want := dev.Memory().Used-weights-workspace, curvature.Bytes(m.Linears(), device.F32, curvature.Options{}); got != want {
			t.Errorf("%s: factors take %d bytes, Bytes says %d", name, got, want)
		}
		m.Release()
		f.Free()
		if used := dev.Memory().Used; used != weights {
			t.Errorf("%s: %d bytes are held where the weights take %d", name, used, weights)
		}
		dev.Close()
	}
}
