package demo

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// sizeLimitBytes bounds what the demo adds to the binary and to a clone.
const sizeLimitBytes = 3_000_000

func embedded(t *testing.T, name string) []byte {
	t.Helper()
	b, err := files.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Catches a retrained model that bloats the binary, a file that is embedded but never extracted, and a text cut short.
func TestEmbeddedSizes(t *testing.T) {
	atLeast := map[string]int{"config.json": 100, "tokenizer.json": 10_000, "model.safetensors": 2 * 918_656, "calibration.txt": 60_000, "heldout.txt": 20_000}
	entries, err := files.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	total, names := 0, []string{}
	for _, e := range entries {
		b := embedded(t, e.Name())
		total += len(b)
		names = append(names, e.Name())
		if least, ok := atLeast[e.Name()]; !ok || len(b) < least {
			t.Errorf("%s holds %d bytes, want at least %d", e.Name(), len(b), least)
		}
	}
	if total >= sizeLimitBytes {
		t.Errorf("embedded files hold %d bytes together, want less than %d", total, sizeLimitBytes)
	}
	listed := []string{}
	for _, f := range layout {
		listed = append(listed, f.name)
	}
	slices.Sort(listed)
	if !slices.Equal(names, listed) {
		t.Errorf("embedded %v, extracted %v", names, listed)
	}
}

// Catches a wrong or missing file, a stray one, and a second call that fails or rewrites.
func TestExtract(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "demo")
	for range 2 {
		if err := Extract(dir); err != nil {
			t.Fatal(err)
		}
	}
	found := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if found != len(layout) {
		t.Errorf("%d files extracted, want %d", found, len(layout))
	}
	for _, f := range layout {
		got, err := os.ReadFile(filepath.Join(dir, f.place))
		if err != nil {
			t.Error(err)
		} else if !bytes.Equal(got, embedded(t, f.name)) {
			t.Errorf("%s differs from the embedded %s", f.place, f.name)
		}
	}
	// One file lost, as after a stopped first call: the next call restores it.
	lost := filepath.Join(dir, HeldoutText)
	if err := os.Remove(lost); err != nil {
		t.Fatal(err)
	}
	if err := Extract(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(lost); err != nil {
		t.Error(err)
	}
}

// Catches overwriting a model of the user's, also one whose file has the same size, and half a demo written beside it.
func TestExtractLeavesOtherFilesAlone(t *testing.T) {
	config := bytes.Clone(embedded(t, "config.json"))
	config[len(config)/2] ^= 1
	for name, content := range map[string][]byte{"other size": []byte("mine"), "same size": config} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, ModelDir, "config.json")
			if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, content, 0o644); err != nil {
				t.Fatal(err)
			}
			err := Extract(dir)
			if err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v, want one that names %s", err, path)
			}
			if got, _ := os.ReadFile(path); !bytes.Equal(got, content) {
				t.Errorf("%s was overwritten", path)
			}
			if _, err := os.Stat(filepath.Join(dir, HeldoutText)); err == nil {
				t.Errorf("%s was written although the directory holds another model", HeldoutText)
			}
		})
	}
}

// config is the part of config.json that fixes the shapes.
type config struct {
	Architectures []string `json:"architectures"`
	Vocab         int      `json:"vocab_size"`
	Hidden        int      `json:"hidden_size"`
	Intermediate  int      `json:"intermediate_size"`
	Layers        int      `json:"num_hidden_layers"`
	Heads         int      `json:"num_attention_heads"`
	KV            int      `json:"num_key_value_heads"`
	HeadDim       int      `json:"head_dim"`
	Tied          bool     `json:"tie_word_embeddings"`
}

func readConfig(t *testing.T) (c config) {
	t.Helper()
	if err := json.Unmarshal(embedded(t, "config.json"), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// Catches a config.json that does not describe the weights, a lost or misplaced tensor, and weights that are not finite
// or all zero. The header is read here by hand so that this test does not lean on the reader it may one day be used to debug.
func TestWeights(t *testing.T) {
	c := readConfig(t)
	if !slices.Equal(c.Architectures, []string{"LlamaForCausalLM"}) || c.Vocab != 1024 || c.Heads%c.KV != 0 || !c.Tied {
		t.Errorf("config.json: %+v", c)
	}
	want := map[string][]int{"model.embed_tokens.weight": {c.Vocab, c.Hidden}, "model.norm.weight": {c.Hidden}}
	for l := range c.Layers {
		p := fmt.Sprintf("model.layers.%d.", l)
		want[p+"input_layernorm.weight"] = []int{c.Hidden}
		want[p+"post_attention_layernorm.weight"] = []int{c.Hidden}
		want[p+"self_attn.q_proj.weight"] = []int{c.Heads * c.HeadDim, c.Hidden}
		want[p+"self_attn.k_proj.weight"] = []int{c.KV * c.HeadDim, c.Hidden}
		want[p+"self_attn.v_proj.weight"] = []int{c.KV * c.HeadDim, c.Hidden}
		want[p+"self_attn.o_proj.weight"] = []int{c.Hidden, c.Heads * c.HeadDim}
		want[p+"mlp.gate_proj.weight"] = []int{c.Intermediate, c.Hidden}
		want[p+"mlp.up_proj.weight"] = []int{c.Intermediate, c.Hidden}
		want[p+"mlp.down_proj.weight"] = []int{c.Hidden, c.Intermediate}
	}

	file := embedded(t, "model.safetensors")
	length := binary.LittleEndian.Uint64(file)
	if length > uint64(len(file)-8) {
		t.Fatalf("header of %d bytes in a file of %d", length, len(file))
	}
	var header map[string]json.RawMessage
	if err := json.Unmarshal(file[8:8+length], &header); err != nil {
		t.Fatal(err)
	}
	delete(header, "__metadata__")
	data := file[8+length:]
	if len(header) != len(want) {
		t.Errorf("%d tensors, want %d", len(header), len(want))
	}
	weights := 0
	for name, shape := range want {
		var got struct {
			Type    string `json:"dtype"`
			Shape   []int  `json:"shape"`
			Offsets [2]int `json:"data_offsets"`
		}
		if err := json.Unmarshal(header[name], &got); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		n := 1
		for _, s := range shape {
			n *= s
		}
		lo, hi := got.Offsets[0], got.Offsets[1]
		if got.Type != "BF16" || !slices.Equal(got.Shape, shape) || lo < 0 || hi > len(data) || hi-lo != 2*n {
			t.Errorf("%s: %+v, want BF16 %v within %d bytes", name, got, shape, len(data))
			continue
		}
		weights += n
		square := 0.0
		for i := lo; i < hi; i += 2 {
			w := float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(data[i:])) << 16))
			if math.IsNaN(w) || math.IsInf(w, 0) {
				t.Fatalf("%s: weight %d is %v", name, (i-lo)/2, w)
			}
			square += w * w
		}
		if rms := math.Sqrt(square / float64(n)); rms < 0.01 || rms > 10 {
			t.Errorf("%s: root mean square %g, want a trained matrix's (0.01 to 10)", name, rms)
		}
	}
	if weights != 918_656 || 2*weights != len(data) {
		t.Errorf("%d weights in %d bytes, want 918656 and no gap", weights, len(data))
	}
}

// Catches a tokenizer of another kind or size than the model's, and texts that are not what a tokenizer takes as text.
func TestTokenizerAndTexts(t *testing.T) {
	var tok struct {
		Model struct {
			Type   string         `json:"type"`
			Vocab  map[string]int `json:"vocab"`
			Merges []any          `json:"merges"`
		} `json:"model"`
		PreTokenizer struct {
			Type           string `json:"type"`
			AddPrefixSpace bool   `json:"add_prefix_space"`
		} `json:"pre_tokenizer"`
	}
	if err := json.Unmarshal(embedded(t, "tokenizer.json"), &tok); err != nil {
		t.Fatal(err)
	}
	if tok.Model.Type != "BPE" || tok.PreTokenizer.Type != "ByteLevel" || tok.PreTokenizer.AddPrefixSpace {
		t.Errorf("tokenizer.json: model %s, pre-tokenizer %+v", tok.Model.Type, tok.PreTokenizer)
	}
	// 256 bytes, one special token, and one token per merge.
	if v := readConfig(t).Vocab; len(tok.Model.Vocab) != v || len(tok.Model.Merges) != v-257 || tok.Model.Vocab["<|endoftext|>"] != 0 {
		t.Errorf("%d tokens and %d merges, want %d and %d", len(tok.Model.Vocab), len(tok.Model.Merges), v, v-257)
	}
	for _, name := range []string{"calibration.txt", "heldout.txt"} {
		text := embedded(t, name)
		if !utf8.Valid(text) || bytes.ContainsRune(text, utf8.RuneError) || bytes.ContainsAny(text, "\r\x00") || bytes.Contains(text, []byte("<|endoftext|>")) {
			t.Errorf("%s: not clean UTF-8 text", name)
		}
	}
	if bytes.Contains(embedded(t, "calibration.txt"), embedded(t, "heldout.txt")[:200]) {
		t.Error("heldout.txt begins inside calibration.txt: the two must be separate samples")
	}
}

// Catches a model or texts replaced without a new reference.json, whose figures other tests compare forward passes with.
func TestReferenceIsConsistent(t *testing.T) {
	b, err := os.ReadFile("reference.json")
	if err != nil {
		t.Fatal(err)
	}
	var ref struct {
		Window      int       `json:"window"`
		Tokens      int       `json:"tokens"`
		IDs         []int     `json:"ids"`
		Loss32      []float64 `json:"loss_float32"`
		Loss64      []float64 `json:"loss_float64"`
		HeldoutLoss float64   `json:"loss_heldout_float64"`
		Logits      []float64 `json:"logits_window0_last_position_float64"`
	}
	if err := json.Unmarshal(b, &ref); err != nil {
		t.Fatal(err)
	}
	if ref.Window != 256 || len(ref.IDs) != ref.Window || ref.Tokens < 8*ref.Window || len(ref.Loss32) != 8 || len(ref.Loss64) != 8 || len(ref.Logits) == 0 {
		t.Fatalf("reference.json: window %d, %d ids of %d, %d and %d losses", ref.Window, len(ref.IDs), ref.Tokens, len(ref.Loss32), len(ref.Loss64))
	}
	for i := range ref.Loss64 {
		// Both are sums of 255 terms of a few nats; float32 through four blocks keeps about six digits.
		if math.Abs(ref.Loss32[i]-ref.Loss64[i]) > 1e-5*ref.Loss64[i] {
			t.Errorf("window %d: %g in float32, %g in float64", i, ref.Loss32[i], ref.Loss64[i])
		}
	}
	if ref.HeldoutLoss < 1 || ref.HeldoutLoss > math.Log(1024)/1.5 {
		t.Errorf("loss on heldout.txt %g nats: not that of a trained model of 1,024 tokens", ref.HeldoutLoss)
	}
	// The ids must spell the text: every token is bytes in GPT-2's printable form, where a letter stands for itself.
	var tok struct {
		Model struct {
			Vocab map[string]int `json:"vocab"`
		} `json:"model"`
	}
	if err := json.Unmarshal(embedded(t, "tokenizer.json"), &tok); err != nil {
		t.Fatal(err)
	}
	pieces := make([]string, len(tok.Model.Vocab))
	for s, id := range tok.Model.Vocab {
		pieces[id] = s
	}
	letters := func(s string) string {
		return strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
				return r
			}
			return -1
		}, s)
	}
	spelt := ""
	for _, id := range ref.IDs {
		spelt += letters(pieces[id])
	}
	if text := letters(string(embedded(t, "heldout.txt"))); spelt == "" || !strings.HasPrefix(text, spelt) {
		t.Errorf("the ids spell %.60q, heldout.txt begins %.60q", spelt, text)
	}
}
