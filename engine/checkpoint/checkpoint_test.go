package checkpoint

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"surgeon/engine/checkpoint/safetensors"
)

func open(t *testing.T, path string) *Checkpoint {
	t.Helper()
	c, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func read(t *testing.T, c *Checkpoint, name string) []float32 {
	t.Helper()
	x := make([]float32, elements(c.Shape(name)))
	if err := c.Read(name, x); err != nil {
		t.Fatal(err)
	}
	return x
}

func f32(x ...float32) []byte {
	b := make([]byte, 4*len(x))
	encode(safetensors.F32, b, x)
	return b
}

// model is a directory being put together: tensors by name, config.json as an object.
type model struct {
	t       *testing.T
	config  map[string]any
	tensors map[string]safetensors.Entry
}

// load takes one of the tiny models apart.
func load(t *testing.T, name string) *model {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(tiny(name), configName))
	if err != nil {
		t.Fatal(err)
	}
	m := &model{t: t, tensors: map[string]safetensors.Entry{}}
	if err := json.Unmarshal(text, &m.config); err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Open(filepath.Join(tiny(name), singleName))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, x := range f.Tensors() {
		m.set(x.Name, x.DType, bytes.Clone(f.Bytes(x.Name)), x.Shape...)
	}
	return m
}

func (m *model) set(name string, t safetensors.DType, data []byte, shape ...int) {
	m.tensors[name] = safetensors.Entry{Name: name, DType: t, Shape: shape, Write: func(w io.Writer) error { _, err := w.Write(data); return err }}
}

func (m *model) rename(from, to string) {
	e := m.tensors[from]
	delete(m.tensors, from)
	e.Name = to
	m.tensors[to] = e
}

// save writes the directory, the tensors over so many files.
func (m *model) save(files int) string {
	m.t.Helper()
	dir := m.t.TempDir()
	text, err := json.Marshal(m.config)
	if err != nil {
		m.t.Fatal(err)
	}
	write(m.t, filepath.Join(dir, configName), text)
	names := slices.Sorted(maps.Keys(m.tensors))
	x := index{WeightMap: map[string]string{}}
	for i := range files {
		var entries []safetensors.Entry
		file := singleName
		if files > 1 {
			file = fmt.Sprintf("part-%d.safetensors", i)
		}
		for _, name := range names[len(names)*i/files : len(names)*(i+1)/files] {
			entries = append(entries, m.tensors[name])
			x.WeightMap[name] = file
		}
		var b bytes.Buffer
		if err := safetensors.Write(&b, entries, map[string]string{"format": "pt"}); err != nil {
			m.t.Fatal(err)
		}
		write(m.t, filepath.Join(dir, file), b.Bytes())
	}
	if files > 1 {
		text, err := json.Marshal(x)
		if err != nil {
			m.t.Fatal(err)
		}
		write(m.t, filepath.Join(dir, indexName), text)
	}
	return dir
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o666); err != nil {
		t.Fatal(err)
	}
}

// Catches a list of expected tensors that differs from what transformers saves, and values decoded from the wrong place.
func TestOpenTinyModels(t *testing.T) {
	for _, name := range tinyModels {
		c := open(t, tiny(name))
		f, err := safetensors.Open(filepath.Join(tiny(name), singleName))
		if err != nil {
			t.Fatal(err)
		}
		if c.Format != HuggingFace || c.Path != tiny(name) || c.DType() != safetensors.F32 || len(c.Names()) != len(f.Tensors()) {
			t.Errorf("%s: %s %s %s, %d tensors of %d", name, c.Format, c.Path, c.DType(), len(c.Names()), len(f.Tensors()))
		}
		for _, x := range f.Tensors() {
			if !slices.Equal(c.Shape(x.Name), x.Shape) || !bytes.Equal(f32(read(t, c, x.Name)...), f.Bytes(x.Name)) {
				t.Errorf("%s: %s differs", name, x.Name)
			}
			if dtype, data, ok := raw(t, c, x.Name); !ok || dtype != safetensors.F32 || !bytes.Equal(data, f.Bytes(x.Name)) {
				t.Errorf("%s: Raw(%s) differs", name, x.Name)
			}
		}
		f.Close()
		if _, err := c.TokenizerJSON(); err == nil || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a missing tokenizer.json: %v", err)
		}
		if _, err := c.Vocabulary(); err == nil {
			t.Error("a directory has a GGUF vocabulary")
		}
		if _, _, ok := raw(t, c, "absent"); ok || c.Shape("absent") != nil || c.Read("absent", nil) == nil || c.Read(c.Names()[0], make([]float32, 3)) == nil {
			t.Error("an absent tensor was found, or read into too small a place")
		}
	}
}

// Catches a shard that is read twice or not at all.
func TestOpenShards(t *testing.T) {
	one := open(t, tiny("tiny-llama"))
	many := open(t, load(t, "tiny-llama").save(3))
	for _, name := range one.Names() {
		_, a, _ := raw(t, one, name)
		_, b, _ := raw(t, many, name)
		if !bytes.Equal(a, b) {
			t.Errorf("%s differs", name)
		}
	}
}

// Catches the tolerated oddities of real files becoming errors, or being lost when the model is written.
func TestOpenTolerates(t *testing.T) {
	for _, c := range []struct {
		name, model string
		change      func(*model)
		carried     []string // must be in the written file as they are
	}{
		{"buffers", "tiny-llama", func(m *model) {
			m.set("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", f32(1, 2, 3, 4), 4)
			m.set("model.layers.1.self_attn.masked_bias", "I64", make([]byte, 8))
		}, []string{"model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.1.self_attn.masked_bias"}},
		{"copy of a tied head", "tiny-qwen2", func(m *model) {
			e := m.tensors["model.embed_tokens.weight"]
			e.Name = "lm_head.weight"
			m.tensors[e.Name] = e
		}, []string{"lm_head.weight"}},
		{"opt saved without its head", "tiny-opt", func(m *model) {
			for name := range maps.Clone(m.tensors) {
				m.rename(name, strings.TrimPrefix(name, "model."))
			}
		}, []string{"decoder.embed_tokens.weight", "decoder.layers.1.fc2.bias"}},
	} {
		m := load(t, c.model)
		c.change(m)
		src := open(t, m.save(1))
		want := open(t, tiny(c.model))
		if !slices.Equal(src.Names(), want.Names()) {
			t.Errorf("%s: names %v", c.name, src.Names())
		}
		for _, name := range want.Names() {
			if !slices.Equal(read(t, src, name), read(t, want, name)) {
				t.Errorf("%s: %s differs", c.name, name)
			}
		}
		out := filepath.Join(t.TempDir(), "out")
		if err := Write(out, src, WriteOptions{}); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		f, err := safetensors.Open(filepath.Join(out, singleName))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range c.carried {
			var b bytes.Buffer
			m.tensors[name].Write(&b)
			if !bytes.Equal(f.Bytes(name), b.Bytes()) || b.Len() == 0 {
				t.Errorf("%s: %s was not carried over", c.name, name)
			}
		}
		f.Close()
		open(t, out)
	}
}

// Catches weights that do not belong to their configuration being accepted, and refusals that do not name the tensor.
func TestOpenRefuses(t *testing.T) {
	for _, c := range []struct {
		name, model string
		files       int
		change      func(*model)
		want        []string
	}{
		{"missing", "tiny-llama", 1, func(m *model) { delete(m.tensors, "model.layers.1.mlp.up_proj.weight") }, []string{"1 missing (model.layers.1.mlp.up_proj.weight)"}},
		{"extra", "tiny-llama", 1, func(m *model) { m.set("model.layers.2.mlp.up_proj.weight", "U8", nil, 0) }, []string{"1 not part of the architecture (model.layers.2.mlp.up_proj.weight)"}},
		{"misshapen", "tiny-llama", 1, func(m *model) { m.config["intermediate_size"] = 47 }, []string{"6 of another shape", "model.layers.0.mlp.gate_proj.weight is [48 32] and should be [47 32]", "1 more"}},
		{"too many layers", "tiny-llama", 1, func(m *model) { m.config["num_hidden_layers"] = 3 }, []string{"9 missing", "model.layers.2.input_layernorm.weight", "4 more"}},
		{"too few layers", "tiny-llama", 1, func(m *model) { m.config["num_hidden_layers"] = 1 }, []string{"9 not part"}},
		{"biases that config.json denies", "tiny-llama3", 1, func(m *model) { m.config["mlp_bias"] = false }, []string{"6 not part", "bias"}},
		{"unknown architecture", "tiny-llama", 1, func(m *model) { m.config["model_type"] = "bert" }, []string{`"bert"`}},
		{"integers", "tiny-llama", 1, func(m *model) { m.set("model.norm.weight", "I32", make([]byte, 128), 32) }, []string{"model.norm.weight", "I32"}},
		{"other head though tied", "tiny-qwen2", 1, func(m *model) { m.set("lm_head.weight", "F32", make([]byte, 4*128*32), 128, 32) }, []string{"lm_head.weight", "tie_word_embeddings"}},
		{"smaller head though tied", "tiny-qwen2", 1, func(m *model) { m.set("lm_head.weight", "F32", make([]byte, 4*127*32), 127, 32) }, []string{"lm_head.weight is [127 32]", "[128 32]"}},
		{"head missing though not tied", "tiny-llama", 1, func(m *model) { delete(m.tensors, "lm_head.weight") }, []string{"1 missing (lm_head.weight)"}},
	} {
		m := load(t, c.model)
		c.change(m)
		refused(t, c.name, m.save(c.files), c.want...)
	}
}

func refused(t *testing.T, name, path string, want ...string) {
	t.Helper()
	c, err := Open(path)
	if err == nil {
		c.Close()
		t.Errorf("%s: accepted", name)
		return
	}
	for _, part := range append(want, path) {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %q does not say %q", name, err, part)
		}
	}
}

// Catches directories that are incomplete or contradict themselves being opened.
func TestOpenDirectoryRefuses(t *testing.T) {
	weights, err := os.ReadFile(filepath.Join(tiny("tiny-llama"), singleName))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		files  int
		change func(dir string)
		want   []string
	}{
		{"no config.json", 1, func(dir string) { os.Remove(filepath.Join(dir, configName)) }, []string{"config.json"}},
		{"no weights", 1, func(dir string) { os.Remove(filepath.Join(dir, singleName)) }, []string{singleName, "*.bin"}},
		{"truncated weights", 1, func(dir string) { write(t, filepath.Join(dir, singleName), weights[:5000]) }, []string{singleName, "truncated"}},
		{"lying header", 1, func(dir string) {
			write(t, filepath.Join(dir, singleName), append([]byte{255, 255, 255, 255, 0, 0, 0, 0}, weights[8:]...))
		}, []string{"4294967295", "truncated"}},
		{"shard missing", 3, func(dir string) { os.Remove(filepath.Join(dir, "part-1.safetensors")) }, []string{"part-1.safetensors", "no such file"}},
		{"shard twice", 3, func(dir string) {
			a, _ := os.ReadFile(filepath.Join(dir, "part-0.safetensors"))
			write(t, filepath.Join(dir, "part-1.safetensors"), a)
		}, []string{"part-1.safetensors", "file before it"}},
		{"index not JSON", 3, func(dir string) { write(t, filepath.Join(dir, indexName), []byte("{")) }, []string{indexName}},
		{"index without map", 3, func(dir string) { write(t, filepath.Join(dir, indexName), []byte("{}")) }, []string{"weight_map"}},
		{"index leaves the directory", 3, func(dir string) {
			write(t, filepath.Join(dir, indexName), []byte(`{"weight_map":{"a":"../x.safetensors"}}`))
		}, []string{`"a"`, "../x.safetensors"}},
		{"index names another file", 3, func(dir string) {
			text, _ := os.ReadFile(filepath.Join(dir, indexName))
			write(t, filepath.Join(dir, indexName), bytes.Replace(text, []byte(`"model.norm.weight":"part-2`), []byte(`"model.norm.weight":"part-0`), 1))
		}, []string{`"model.norm.weight"`, "part-2.safetensors", "part-0.safetensors"}},
		{"index names a tensor that is not there", 3, func(dir string) {
			text, _ := os.ReadFile(filepath.Join(dir, indexName))
			write(t, filepath.Join(dir, indexName), bytes.Replace(text, []byte(`"weight_map":{`), []byte(`"weight_map":{"ghost":"part-0.safetensors",`), 1))
		}, []string{`"ghost"`, "part-0.safetensors"}},
	} {
		dir := load(t, "tiny-llama").save(c.files)
		c.change(dir)
		refused(t, c.name, dir, c.want...)
	}
	refused(t, "nothing there", filepath.Join(t.TempDir(), "absent"), "no such file")
	other := filepath.Join(t.TempDir(), "model.onnx")
	write(t, other, []byte("something else"))
	refused(t, "some other file", other, "not a GGUF file")
	refused(t, "weights alone", filepath.Join(tiny("tiny-llama"), singleName), "directory", configName)
}

// Catches NaN or Inf that go into the computation, or an index that is off.
func TestReadRefusesNotFinite(t *testing.T) {
	m := load(t, "tiny-llama")
	norm := make([]float32, 32)
	norm[7] = float32(math.NaN())
	up := make([]float32, 48*32)
	up[1000], up[1001] = float32(math.Inf(-1)), float32(math.NaN())
	raw := func(x []float32) (b []byte) {
		for _, v := range x {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
		}
		return b
	}
	m.set("model.norm.weight", "F32", raw(norm), 32)
	m.set("model.layers.1.mlp.up_proj.weight", "F32", raw(up), 48, 32)
	m.set("model.layers.0.input_layernorm.weight", "F64", bytes.Repeat(binary.LittleEndian.AppendUint64(nil, math.Float64bits(1e300)), 32), 32)
	c := open(t, m.save(1))
	for name, want := range map[string]string{
		"model.norm.weight":                     `"model.norm.weight" holds NaN at index 7`,
		"model.layers.1.mlp.up_proj.weight":     `"model.layers.1.mlp.up_proj.weight" holds -Inf at index 1000`,
		"model.layers.0.input_layernorm.weight": "+Inf at index 0",
	} {
		if err := c.Read(name, make([]float32, elements(c.Shape(name)))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v does not say %q", name, err, want)
		}
	}
}

// Catches parallel decoding that mixes up its parts, and the first of several bad values being reported by chance.
func TestDecodeAllInParts(t *testing.T) {
	const rows, cols = 300, 1000
	x := make([]float32, rows*cols)
	for i := range x {
		x[i] = float32(i)
	}
	s := stored{shape: []int{rows, cols}, dtype: safetensors.F32, data: f32(x...), guard: func(do func() error) error { return do() }}
	got := make([]float32, len(x))
	if i, err := s.decodeAll(got); err != nil || i != -1 || !slices.Equal(got, x) {
		t.Errorf("decoding differs (%d)", i)
	}
	for _, i := range []int{299999, 170000, 123} {
		binary.LittleEndian.PutUint32(s.data[4*i:], 0x7fc00000)
		if first, err := s.decodeAll(got); err != nil || first != i {
			t.Errorf("first bad value at %d, want %d", first, i)
		}
	}
}

// Catches a hash that does not see a change, or depends on where the model lies.
func TestHash(t *testing.T) {
	hash := func(dir string) string {
		h, err := open(t, dir).Hash(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	m := load(t, "tiny-llama")
	a, b := hash(m.save(1)), hash(m.save(1))
	if a != b || len(a) != 64 {
		t.Errorf("two copies: %s and %s", a, b)
	}
	m.set("model.norm.weight", "F32", f32(make([]float32, 32)...), 32)
	c := hash(m.save(1))
	m.config["initializer_range"] = 0.03
	if d := hash(m.save(1)); c == a || d == c {
		t.Errorf("%s, %s and %s should differ", a, c, d)
	}
}
