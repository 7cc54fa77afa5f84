package engine

import (
	"context"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"surgeon/engine/checkpoint"
	"surgeon/engine/checkpoint/gguf/gguftest"
)

// tinyGGUF writes a random Llama of one block as llama.cpp's converter does, and a text of its letters.
func tinyGGUF(t testing.TB) (model, text string) {
	t.Helper()
	const width, inner, heads, positions = 16, 24, 2, 64
	tokens, types := []string{"<unk>", "<s>", "</s>", "▁"}, []int32{2, 3, 3, 1}
	for c := 'a'; c <= 'z'; c++ {
		tokens, types = append(tokens, string(c)), append(types, 1)
	}
	f := gguftest.File{Metadata: []gguftest.Entry{
		{Key: "general.architecture", Value: "llama"},
		{Key: "llama.block_count", Value: uint32(1)},
		{Key: "llama.context_length", Value: uint32(positions)},
		{Key: "llama.embedding_length", Value: uint32(width)},
		{Key: "llama.feed_forward_length", Value: uint32(inner)},
		{Key: "llama.attention.head_count", Value: uint32(heads)},
		{Key: "llama.attention.layer_norm_rms_epsilon", Value: float32(1e-5)},
		{Key: "tokenizer.ggml.model", Value: "llama"},
		{Key: "tokenizer.ggml.tokens", Value: tokens},
		{Key: "tokenizer.ggml.token_type", Value: types},
		{Key: "tokenizer.ggml.scores", Value: make([]float32, len(tokens))},
	}}
	r := rand.New(rand.NewPCG(11, 0))
	for _, x := range []struct {
		name  string
		shape []int
	}{
		{"token_embd", []int{len(tokens), width}}, {"output", []int{len(tokens), width}}, {"output_norm", []int{width}},
		{"blk.0.attn_norm", []int{width}}, {"blk.0.ffn_norm", []int{width}},
		{"blk.0.attn_q", []int{width, width}}, {"blk.0.attn_k", []int{width, width}}, {"blk.0.attn_v", []int{width, width}}, {"blk.0.attn_output", []int{width, width}},
		{"blk.0.ffn_gate", []int{inner, width}}, {"blk.0.ffn_up", []int{inner, width}}, {"blk.0.ffn_down", []int{width, inner}},
	} {
		var data []byte
		for range elements(x.shape) {
			bits := math.Float32bits(float32(r.NormFloat64()) / 4)
			data = append(data, byte(bits), byte(bits>>8), byte(bits>>16), byte(bits>>24))
		}
		f.Tensors = append(f.Tensors, gguftest.Tensor{Name: x.name + ".weight", Shape: x.shape, Data: data})
	}
	var words strings.Builder
	for range 2000 {
		words.WriteString(strings.ReplaceAll(tokens[3+r.IntN(len(tokens)-3)], "▁", " "))
	}
	dir := t.TempDir()
	model, text = filepath.Join(dir, "tiny.gguf"), filepath.Join(dir, "text.txt")
	for path, content := range map[string][]byte{model: f.Bytes(), text: []byte(words.String())} {
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return model, text
}

// What would be caught: a model made from a GGUF file that has lost which tokens begin and end a text, without which questions
// that have no context cannot be asked.
func TestPruneGGUF(t *testing.T) {
	model, text := tinyGGUF(t)
	o := tinyOptions(model, text, filepath.Join(t.TempDir(), "out"))
	o.Shots, o.Target = 1, 0.1
	if _, err := pruneTiny(t, context.Background(), o, &silent{}); err != nil {
		t.Fatal(err)
	}
	spell := func(path string) [2]string {
		c, err := checkpoint.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		begin, end, err := c.SpecialTokens()
		if err != nil {
			t.Fatal(err)
		}
		return [2]string{begin, end}
	}
	if got, want := spell(o.Output), spell(model); got != want || want != [2]string{"<s>", "</s>"} {
		t.Errorf("the tokens around a text are %q, those of the GGUF file %q", got, want)
	}
	task := filepath.Join(t.TempDir(), "bare.jsonl")
	if err := os.WriteFile(task, []byte(`{"context": "", "choices": ["a b", "c d"], "answer": 0}`+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{model, o.Output} {
		if _, err := evaluateTiny(t, context.Background(), EvalOptions{Model: path, Tasks: []string{task}, Batch: 1, Precision: "float32", Version: "test"}, &silent{}); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}
