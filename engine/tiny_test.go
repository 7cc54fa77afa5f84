package engine

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"surgeon/engine/device/cpu"
	"surgeon/engine/internal/golden"
	"surgeon/engine/report"
)

// tiny makes a directory with one of the tiny models, a tokenizer of its 128 tokens, and a text of that alphabet.
func tiny(t testing.TB, name string) (model, text string) {
	t.Helper()
	dir := t.TempDir()
	model, text = filepath.Join(dir, name), filepath.Join(dir, "text.txt")
	if err := os.CopyFS(model, os.DirFS(golden.Dir(name))); err != nil {
		t.Fatal(err)
	}
	vocab := map[string]int{"Ġ": 0, "Ċ": 1}
	letters := []rune{}
	for c := '!'; c <= '~'; c++ {
		vocab[string(c)] = len(vocab)
		letters = append(letters, c)
	}
	for i := len(vocab); i < 128; i++ {
		vocab[string(rune('Ā'+i))] = i
	}
	doc := map[string]any{"version": "1.0", "added_tokens": []any{}, "normalizer": nil, "post_processor": nil,
		"pre_tokenizer": map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
		"decoder":       map[string]any{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
		"model":         map[string]any{"type": "BPE", "vocab": vocab, "merges": []any{}}}
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(8, 0))
	words := make([]rune, 4000)
	for i := range words {
		words[i] = letters[int(float64(len(letters))*r.Float64()*r.Float64())]
		if r.IntN(7) == 0 {
			words[i] = ' '
		}
	}
	for path, data := range map[string][]byte{filepath.Join(model, "tokenizer.json"): raw, text: []byte(string(words))} {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return model, text
}

// tinyOptions prune a tiny model to 40 % in four shots.
func tinyOptions(model, text, output string) Options {
	return Options{Model: model, Text: []string{text}, Samples: 12, Length: 32, HeldOut: 4, Seed: 100, Target: 0.4, Shots: 4,
		StepLimit: 0.2, DampG: 0.01, DampA: 0.01, Output: output, Batch: 2, Precision: "float32", Version: "test"}
}

// silent is a Watcher that keeps what it is told and can cancel the run.
type silent struct {
	shots    []report.Shot
	warnings []string
	said     []string
	onShot   func(report.Shot)
	onStage  func(name string)
	onStep   func(done int)
}

func (s *silent) Stage(name string, _ int) {
	if s.onStage != nil {
		s.onStage(name)
	}
}
func (s *silent) Step(done int) {
	if s.onStep != nil {
		s.onStep(done)
	}
}
func (s *silent) Say(sentence string)  { s.said = append(s.said, sentence) }
func (s *silent) Warn(sentence string) { s.warnings = append(s.warnings, sentence) }
func (s *silent) Shot(x report.Shot) {
	s.shots = append(s.shots, x)
	if s.onShot != nil {
		s.onShot(x)
	}
}

// pruneTiny runs to the end on a new CPU device.
func pruneTiny(t testing.TB, ctx context.Context, o Options, w Watcher) (*report.Report, error) {
	t.Helper()
	dev := cpu.Open()
	defer dev.Close()
	return Prune(ctx, dev, o, w)
}

// weightsOf are the bytes of a written model's weights.
func weightsOf(t testing.TB, dir string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
