package golden

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// TinyRun makes a directory with one of the tiny models, a tokenizer of its 128 tokens, and a text of that alphabet.
func TinyRun(t testing.TB, name string) (model, text string) {
	t.Helper()
	dir := t.TempDir()
	model, text = filepath.Join(dir, name), filepath.Join(dir, "text.txt")
	if err := os.CopyFS(model, os.DirFS(Dir(name))); err != nil {
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
