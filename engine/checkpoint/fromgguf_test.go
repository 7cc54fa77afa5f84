package checkpoint

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/x448/float16"

	"surgeon/engine/checkpoint/gguf/gguftest"
	"surgeon/engine/checkpoint/safetensors"
)

func entry(key string, value any) gguftest.Entry { return gguftest.Entry{Key: key, Value: value} }

// toGGUF stores one of the tiny models as llama.cpp's converter does, all tensors in the given type: 0 F32, 1 F16, 8 Q8_0
// (matrices only, as there).
func toGGUF(t *testing.T, name string, kind uint32) gguftest.File {
	t.Helper()
	c := open(t, tiny(name))
	arch := c.Config.Family
	f := gguftest.File{Metadata: []gguftest.Entry{
		entry("general.architecture", arch),
		entry(arch+".block_count", uint32(c.Config.Blocks)),
		entry(arch+".context_length", uint32(c.Config.MaxPositions)),
		entry(arch+".embedding_length", uint32(c.Config.Width)),
		entry(arch+".feed_forward_length", uint32(c.Config.Inner)),
		entry(arch+".attention.head_count", uint32(c.Config.Heads)),
		entry(arch+".attention.head_count_kv", uint32(c.Config.KVHeads)),
		entry(arch+".attention.key_length", uint32(c.Config.HeadDim)),
		entry(arch+".attention.value_length", uint32(c.Config.HeadDim)),
		entry(arch+".attention.layer_norm_rms_epsilon", float32(c.Config.NormEps)),
		entry(arch+".rope.freq_base", float32(c.Config.Rope.Base)),
		entry("tokenizer.ggml.model", "llama"),
		entry("tokenizer.ggml.tokens", []string{"<unk>", "<s>", "</s>"}),
		entry("tokenizer.ggml.bos_token_id", uint32(1)),
		entry("tokenizer.ggml.eos_token_id", uint32(2)),
	}}
	back := map[string]string{}
	for from, to := range ggufNames {
		back[to] = from
	}
	for _, n := range c.Names() {
		x, shape := read(t, c, n), c.Shape(n)
		dot := strings.LastIndexByte(n, '.')
		module, suffix := n[:dot], n[dot:]
		block := ""
		if rest, ok := strings.CutPrefix(module, "model.layers."); ok {
			number, inner, _ := strings.Cut(rest, ".")
			block, module = "blk."+number+".", inner
		}
		if arch == "llama" && strings.HasSuffix(module, "q_proj") {
			x = permute(x, c.Config.Heads, shape[0])
		}
		if arch == "llama" && strings.HasSuffix(module, "k_proj") {
			x = permute(x, c.Config.KVHeads, shape[0])
		}
		g := gguftest.Tensor{Name: block + back[module] + suffix, Shape: shape, Type: kind}
		if len(shape) == 1 || kind == 8 && shape[1]%32 != 0 {
			g.Type = 0
		}
		switch g.Type {
		case 0:
			g.Data = f32(x...)
		case 1:
			for _, v := range x {
				h := float16.Fromfloat32(v).Bits()
				g.Data = append(g.Data, byte(h), byte(h>>8))
			}
		case 8:
			for ; len(x) > 0; x = x[32:] {
				h := float16.Fromfloat32(1.0 / 32).Bits()
				g.Data = append(g.Data, byte(h), byte(h>>8))
				for _, v := range x[:32] {
					g.Data = append(g.Data, byte(int8(math.Round(max(-127, min(127, float64(v)*32))))))
				}
			}
		}
		f.Tensors = append(f.Tensors, g)
	}
	return f
}

// permute is the converter's reshape(heads, 2, d/2, …) with axes 1 and 2 swapped, as loops.
func permute(x []float32, heads, rows int) []float32 {
	d, cols := rows/heads, len(x)/rows
	var out []float32
	for h := range heads {
		for i := range d / 2 {
			for s := range 2 {
				row := h*d + s*d/2 + i
				out = append(out, x[row*cols:(row+1)*cols]...)
			}
		}
	}
	return out
}

func saveGGUF(t *testing.T, f gguftest.File) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.gguf")
	write(t, path, f.Bytes())
	return path
}

// Catches rows of q and k left in llama.cpp's order (or Qwen's put out of theirs), names translated wrongly, an option of
// the architecture lost, and a config.json that does not say what the model is.
func TestGGUFIsTheSameModel(t *testing.T) {
	for _, name := range []string{"tiny-llama", "tiny-llama3", "tiny-qwen2", "tiny-qwen3"} {
		want := open(t, tiny(name))
		for kind, dtype := range map[uint32]safetensors.DType{0: "F32", 1: "F16", 8: "F32"} {
			file := toGGUF(t, name, kind)
			config := want.Config
			if name == "tiny-llama3" { // its rope parameters cannot be told from a GGUF file; see TestRopeFactors
				config.Rope = Rope{Base: config.Rope.Base}
			}
			c := open(t, saveGGUF(t, file))
			if c.Format != GGUF || c.DType() != dtype || !reflect.DeepEqual(c.Config, config) || !slices.Equal(c.Names(), want.Names()) {
				t.Errorf("%s: %s %s\n got %+v\nwant %+v", name, c.Format, c.DType(), c.Config, config)
			}
			out := filepath.Join(t.TempDir(), "out")
			if err := Write(out, c, WriteOptions{Files: map[string][]byte{"tokenizer.json": []byte("{}")}}); err != nil {
				t.Fatal(err)
			}
			written := open(t, out)
			if !reflect.DeepEqual(written.Config, config) {
				t.Errorf("%s: written as %+v", name, written.Config)
			}
			for _, n := range want.Names() {
				x, y, z := read(t, want, n), read(t, c, n), read(t, written, n)
				limit := map[uint32]float64{0: 0, 1: 1.0 / 2048, 8: 1.0 / 64}[kind]
				for i := range x {
					if diff := math.Abs(float64(x[i] - y[i])); diff > limit*max(1, math.Abs(float64(x[i]))) && math.Abs(float64(x[i])) < 3.9 || y[i] != z[i] {
						t.Errorf("%s: %s[%d] is %v, read as %v, written as %v", name, n, i, x[i], y[i], z[i])
						break
					}
				}
				if stored, _, ok := raw(t, c, n); ok == (kind == 8 && len(c.Shape(n)) == 2 && c.Shape(n)[1]%32 == 0) || ok && stored != dtype && len(c.Shape(n)) == 2 {
					t.Errorf("%s: Raw(%s) gives %s, %v", name, n, stored, ok)
				}
			}
			if kind == 0 {
				for _, n := range want.Names() {
					_, a, _ := raw(t, want, n)
					_, b, _ := raw(t, c, n)
					if !bytes.Equal(a, b) {
						t.Errorf("%s: Raw(%s) differs", name, n)
					}
				}
			}
			text, err := os.ReadFile(filepath.Join(out, configName))
			if err != nil {
				t.Fatal(err)
			}
			var got map[string]any
			if err := json.Unmarshal(text, &got); err != nil {
				t.Fatal(err)
			}
			for key, value := range map[string]any{
				"model_type": config.Family, "architectures": []any{families[config.Family].class}, "bos_token_id": 1.0, "eos_token_id": 2.0, "pad_token_id": nil, "rope_theta": 10000.0,
				"rope_parameters": map[string]any{"rope_type": "default", "rope_theta": 10000.0}, "dtype": dtypeNames[dtype], "torch_dtype": dtypeNames[dtype], "tie_word_embeddings": config.TieHead,
			} {
				if !reflect.DeepEqual(got[key], value) {
					t.Errorf("%s: config.json has %s %v, want %v", name, key, got[key], value)
				}
			}
			if v, err := c.Vocabulary(); err != nil || len(v.Tokens) != 3 {
				t.Errorf("%s: vocabulary %+v, %v", name, v, err)
			}
			if begin, end, err := c.SpecialTokens(); err != nil || begin != "<s>" || end != "</s>" {
				t.Errorf("%s: special tokens %q and %q, %v", name, begin, end, err)
			}
			if _, err := c.TokenizerJSON(); err == nil {
				t.Error("a GGUF file has a tokenizer.json")
			}
			if h, err := c.Hash(context.Background()); err != nil || len(h) != 64 {
				t.Errorf("hash %s, %v", h, err)
			}
		}
	}
}

// Catches Llama 3's stretched positions being dropped, which would go unnoticed in short texts. The factors are written out
// by the rule in wavelengths, as converters do.
func TestRopeFactors(t *testing.T) {
	const d, base, factor = 16, 10000.0, 32.0
	var factors []float32
	for i := range d / 2 {
		wavelength := 2 * math.Pi * math.Pow(base, 2*float64(i)/d)
		switch {
		case wavelength < 8192.0/4:
			factors = append(factors, 1)
		case wavelength > 8192.0/1:
			factors = append(factors, factor)
		default:
			smooth := (8192/wavelength - 1) / (4 - 1)
			factors = append(factors, float32(1/((1-smooth)/factor+smooth)))
		}
	}
	with := func(x []float32) gguftest.File {
		f := toGGUF(t, "tiny-llama3", 0)
		f.Tensors = append(f.Tensors, gguftest.Tensor{Name: ropeFactors, Shape: []int{len(x)}, Data: f32(x...)})
		return f
	}
	c := open(t, saveGGUF(t, with(factors)))
	want := Rope{RopeLlama3, base, factor, 1, 4, 8192}
	if c.Config.Rope != want {
		t.Errorf("%v gave %+v, want %+v", factors, c.Config.Rope, want)
	}
	out := filepath.Join(t.TempDir(), "out")
	if err := Write(out, c, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := open(t, out).Config.Rope; got != want {
		t.Errorf("written as %+v", got)
	}
	// Versions of transformers before 5 read rope_scaling, and refused factors without a decimal point.
	if text := files(t, out)[configName]; strings.Count(text, `"factor": 32.0`) != 2 || !strings.Contains(text, `"rope_scaling"`) || !strings.Contains(text, `"rope_theta": 10000.0`) {
		t.Errorf("config.json is %s", text)
	}
	if got := open(t, saveGGUF(t, with(slices.Repeat([]float32{1}, d/2)))).Config.Rope; got != (Rope{Base: base}) {
		t.Errorf("factors of 1 gave %+v", got)
	}
	other := slices.Clone(factors)
	other[7] *= 1.01
	other[6] *= 1.01
	refused(t, "another rule", saveGGUF(t, with(other)), ropeFactors, "frequency")
	refused(t, "too few factors", saveGGUF(t, with(factors[:5])), ropeFactors, "5 numbers", "8")
}

// Catches GGUF models that would be computed wrongly, and refusals without the key.
func TestGGUFRefuses(t *testing.T) {
	set := func(key string, value any) func(*gguftest.File) {
		return func(f *gguftest.File) {
			for i := range f.Metadata {
				if f.Metadata[i].Key == key {
					f.Metadata[i].Value = value
					return
				}
			}
			f.Metadata = append(f.Metadata, entry(key, value))
		}
	}
	drop := func(name string) func(*gguftest.File) {
		return func(f *gguftest.File) {
			f.Metadata = slices.DeleteFunc(f.Metadata, func(e gguftest.Entry) bool { return e.Key == name })
			f.Tensors = slices.DeleteFunc(f.Tensors, func(x gguftest.Tensor) bool { return x.Name == name })
		}
	}
	for _, c := range []struct {
		name   string
		change func(*gguftest.File)
		want   []string
	}{
		{"architecture", set("general.architecture", "gemma"), []string{`"gemma"`, "llama, qwen2 and qwen3"}},
		{"no architecture", drop("general.architecture"), []string{"general.architecture"}},
		{"architecture is a number", set("general.architecture", uint32(1)), []string{"general.architecture", "uint32"}},
		{"part of a split", set("split.count", uint16(3)), []string{"3 parts", "merge"}},
		{"no width", drop("llama.embedding_length"), []string{"llama.embedding_length"}},
		{"no eps", drop("llama.attention.layer_norm_rms_epsilon"), []string{"layer_norm_rms_epsilon"}},
		{"no heads", set("llama.attention.head_count", uint32(0)), []string{"head_count", "0"}},
		{"heads per block", set("llama.attention.head_count", []uint32{4, 4}), []string{"head_count", "integer"}},
		{"absurd width", set("llama.embedding_length", uint32(4e9)), []string{"4000000000"}},
		{"experts", set("llama.expert_count", uint32(8)), []string{"expert_count", "8"}},
		{"window", set("llama.attention.sliding_window", uint32(4096)), []string{"sliding_window", "4096"}},
		{"part of the head rotated", set("llama.rope.dimension_count", uint32(4)), []string{"rope.dimension_count", "4", "8"}},
		{"yarn", set("llama.rope.scaling.type", "yarn"), []string{"yarn", "linear"}},
		{"linear without factor", set("llama.rope.scaling.type", "linear"), []string{"factor"}},
		{"unknown key", set("llama.attention.scale", float32(0.5)), []string{"llama.attention.scale", "not known"}},
		{"vocabulary", set("llama.vocab_size", uint32(127)), []string{"127", "128"}},
		{"NaN", set("llama.rope.freq_base", float32(math.NaN())), []string{"freq_base", "NaN"}},
		{"no embedding", drop("token_embd.weight"), []string{"token_embd.weight"}},
		{"missing", drop("blk.1.ffn_up.weight"), []string{"1 missing (model.layers.1.mlp.up_proj.weight)"}},
		{"extra", func(f *gguftest.File) {
			f.Tensors = append(f.Tensors, gguftest.Tensor{Name: "blk.0.ffn_gate_exps.weight", Shape: []int{1}, Data: make([]byte, 4)})
		}, []string{"1 not part of the architecture (blk.0.ffn_gate_exps.weight)"}},
		{"a name of the other scheme", func(f *gguftest.File) {
			f.Tensors = append(f.Tensors, gguftest.Tensor{Name: "model.norm.weight", Shape: []int{1}, Data: make([]byte, 4)})
		}, []string{"model.norm.weight", "two tensors"}},
		{"truncated", func(f *gguftest.File) {
			last := &f.Tensors[len(f.Tensors)-1]
			last.Data = last.Data[:len(last.Data)-64]
		}, []string{"truncated"}},
	} {
		f := toGGUF(t, "tiny-llama", 0)
		c.change(&f)
		refused(t, c.name, saveGGUF(t, f), c.want...)
	}
	f := toGGUF(t, "tiny-llama", 0)
	set("llama.rope.scaling.type", "linear")(&f)
	set("llama.rope.scaling.factor", float32(2.5))(&f)
	if got := open(t, saveGGUF(t, f)).Config.Rope; got != (Rope{Kind: RopeLinear, Base: 10000, Factor: 2.5}) {
		t.Errorf("linear scaling gave %+v", got)
	}
}
