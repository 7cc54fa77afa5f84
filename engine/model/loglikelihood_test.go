package model_test

import (
	"errors"
	"math"
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/enginetest"
	"surgeon/engine/internal/golden"
	"surgeon/engine/model"
)

// What would be caught: a target that is read at another position, a sum that is a mean or has another sign, and tokens behind
// the last target that change what stands before them. The losses of all sequences are known in float64.
func TestLogLikelihoods(t *testing.T) {
	for _, name := range enginetest.Tiny {
		dev := cpu.Open()
		defer dev.Close()
		m := enginetest.Load(t, dev, golden.Dir(name), device.F64)
		tokens := golden.Tokens(t, name)
		losses, err := m.Losses(tokens)
		if err != nil {
			t.Fatal(err)
		}
		const fill = 5
		var inputs, targets, first [][]int32
		want := make([]float64, len(tokens))
		for s, ids := range tokens {
			in, out := append([]int32{}, ids[:len(ids)-1]...), append([]int32{}, ids[1:]...)
			for i := range fill {
				in, out = append(in, int32(7*s+i)), append(out, -1)
			}
			half := append([]int32{}, out...)
			for i := range half {
				if i >= len(ids)/2 {
					half[i] = -1
				}
			}
			inputs, targets, first = append(inputs, in), append(targets, out), append(first, half)
			want[s] = -losses[s] * float64(len(ids)-1)
		}
		all, err := m.LogLikelihoods(inputs, targets)
		if err != nil {
			t.Fatal(err)
		}
		golden.Near(t, name, all, want, 1e-12)
		front, err := m.LogLikelihoods(inputs, first)
		if err != nil {
			t.Fatal(err)
		}
		// p(a, b | c) = p(a | c) p(b | c, a)
		for s := range first {
			for i := range first[s] {
				if first[s][i] >= 0 {
					targets[s][i] = -1
				}
			}
		}
		behind, err := m.LogLikelihoods(inputs, targets)
		if err != nil {
			t.Fatal(err)
		}
		for s := range front {
			if !(front[s] < 0 && behind[s] < 0) {
				t.Errorf("%s: %v and %v", name, front[s], behind[s])
			}
			front[s] += behind[s]
		}
		golden.Near(t, name+", in two parts", front, want, 1e-12)
		for i := range targets[0] {
			targets[0][i] = -1
		}
		if none, err := m.LogLikelihoods(inputs[:1], targets[:1]); err != nil || none[0] != 0 || math.Signbit(none[0]) {
			t.Errorf("%s: without a target %v, %v", name, none, err)
		}
	}
}

// What would be caught: a log-likelihood that is not a number and passes for one, or is told of another sequence.
func TestLogLikelihoodNotFinite(t *testing.T) {
	dev := cpu.Open()
	defer dev.Close()
	m := enginetest.Load(t, dev, golden.Dir("tiny-llama"), device.F32)
	values := make([]float32, 128*32)
	for i := range values {
		values[i] = 0.01
	}
	for i := range 32 {
		values[9*32+i] = float32(math.NaN())
	}
	m.SetValues("model.embed_tokens.weight", values)
	_, err := m.LogLikelihoods([][]int32{{1, 2, 3}, {1, 9, 3}}, [][]int32{{2, 3, 4}, {-1, 3, -1}})
	bad, ok := errors.AsType[*model.NonFiniteLoss](err)
	if !ok || bad.Sequence != 1 {
		t.Errorf("got %v", err)
	}
}
