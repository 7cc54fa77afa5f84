package checkpoint

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var tinyModels = []string{"tiny-llama", "tiny-llama3", "tiny-mistral", "tiny-opt", "tiny-qwen2", "tiny-qwen3"}

func tiny(name string) string { return filepath.Join("..", "testdata", name) }

func parseConfig(t *testing.T, text string) Config {
	t.Helper()
	c, err := ParseConfig([]byte(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return c
}

// Catches any option resolved to a wrong value for the six tiny models, whose config.json transformers wrote.
func TestConfigOfTinyModels(t *testing.T) {
	llama := Config{Vocab: 128, Width: 32, Inner: 48, Blocks: 2, Heads: 4, KVHeads: 2, HeadDim: 8, MaxPositions: 64,
		Norm: RMSNorm, NormEps: 1e-6, NormFirst: true, FinalNorm: true, Activation: SwiGLU, Positions: Rotary, Rope: Rope{Base: 10000}, Window: []int{0, 0}, Names: llamaNames}
	with := func(change func(*Config)) Config { c := llama; change(&c); return c }
	for name, want := range map[string]Config{
		"tiny-llama": with(func(c *Config) { c.Family, c.NormEps = "llama", 1e-5 }),
		"tiny-llama3": with(func(c *Config) {
			c.Family, c.HeadDim, c.TieHead, c.QKVBias, c.OBias, c.MLPBias = "llama", 16, true, true, true, true
			c.Rope = Rope{RopeLlama3, 10000, 8, 1, 4, 16}
		}),
		"tiny-mistral": with(func(c *Config) { c.Family, c.Window = "mistral", []int{8, 8} }),
		"tiny-qwen2":   with(func(c *Config) { c.Family, c.TieHead, c.QKVBias = "qwen2", true, true }),
		"tiny-qwen3":   with(func(c *Config) { c.Family, c.TieHead, c.HeadDim, c.QKNorm = "qwen3", true, 16, true }),
		"tiny-opt": {Family: "opt", Vocab: 128, Width: 32, Inner: 64, Blocks: 2, Heads: 4, KVHeads: 4, HeadDim: 8, MaxPositions: 64,
			Norm: LayerNorm, NormEps: 1e-5, NormFirst: true, FinalNorm: true, Activation: ReLU, QKVBias: true, OBias: true, MLPBias: true,
			Positions: Learned, PositionOffset: 2, Window: []int{0, 0}, TieHead: true, Names: optNames},
	} {
		text, err := os.ReadFile(filepath.Join(tiny(name), configName))
		if err != nil {
			t.Fatal(err)
		}
		if got := parseConfig(t, string(text)); !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", name, got, want)
		}
	}
}

// Catches a default that differs from transformers' where config.json leaves a key out.
func TestConfigDefaults(t *testing.T) {
	for _, c := range []struct {
		family                                                                 string
		vocab, width, inner, blocks, heads, kvHeads, headDim, positions, first int
		tie                                                                    bool
	}{
		{"llama", 32000, 4096, 11008, 32, 32, 32, 128, 2048, 0, false},
		{"mistral", 32000, 4096, 14336, 32, 32, 8, 128, 131072, 4096, false},
		{"qwen2", 151936, 4096, 22016, 32, 32, 32, 128, 32768, 0, false},
		{"qwen3", 151936, 4096, 22016, 32, 32, 32, 128, 32768, 0, false},
		{"opt", 50272, 768, 3072, 12, 12, 12, 64, 2048, 0, true},
	} {
		got := parseConfig(t, `{"model_type":"`+c.family+`"}`)
		if got.Vocab != c.vocab || got.Width != c.width || got.Inner != c.inner || got.Blocks != c.blocks || got.Heads != c.heads || got.KVHeads != c.kvHeads ||
			got.HeadDim != c.headDim || got.MaxPositions != c.positions || got.Window[0] != c.first || got.TieHead != c.tie || len(got.Window) != c.blocks {
			t.Errorf("%s: %+v, want %+v", c.family, got, c)
		}
	}
}

// Catches options of one family that are read wrongly or for another family.
func TestConfigOptions(t *testing.T) {
	for _, c := range []struct {
		name, text string
		ok         func(Config) bool
	}{
		{"heads null", `{"model_type":"mistral","num_key_value_heads":null,"head_dim":null}`, func(c Config) bool { return c.KVHeads == 32 && c.HeadDim == 128 }},
		{"qwen3 head_dim default is not width/heads", `{"model_type":"qwen3","hidden_size":1024,"num_attention_heads":16,"num_key_value_heads":8}`, func(c Config) bool { return c.HeadDim == 128 }},
		{"mistral without a window", `{"model_type":"mistral","sliding_window":null}`, func(c Config) bool { return c.Window[0] == 0 && c.Window[31] == 0 }},
		{"llama ignores sliding_window", `{"model_type":"llama","sliding_window":7}`, func(c Config) bool { return c.Window[0] == 0 }},
		{"qwen2 window without use_sliding_window", `{"model_type":"qwen2","sliding_window":7}`, func(c Config) bool { return c.Window[31] == 0 }},
		{"qwen2 window from max_window_layers on", `{"model_type":"qwen2","use_sliding_window":true,"sliding_window":7,"max_window_layers":30}`, func(c Config) bool { return c.Window[29] == 0 && c.Window[30] == 7 && c.Window[31] == 7 }},
		{"qwen2 window by default from block 28", `{"model_type":"qwen2","use_sliding_window":true}`, func(c Config) bool { return c.Window[27] == 0 && c.Window[28] == 4096 }},
		{"qwen3 layer_types", `{"model_type":"qwen3","num_hidden_layers":3,"use_sliding_window":true,"sliding_window":7,"layer_types":["sliding_attention","full_attention","sliding_attention"]}`, func(c Config) bool { return reflect.DeepEqual(c.Window, []int{7, 0, 7}) }},
		{"qwen2 bias whatever attention_bias says", `{"model_type":"qwen2","attention_bias":false}`, func(c Config) bool { return c.QKVBias && !c.OBias && !c.MLPBias }},
		{"qwen3 attention_bias", `{"model_type":"qwen3","attention_bias":true}`, func(c Config) bool { return c.QKVBias && c.OBias && !c.MLPBias }},
		{"opt after the sum", `{"model_type":"opt","do_layer_norm_before":false}`, func(c Config) bool { return !c.NormFirst && !c.FinalNorm }},
		{"opt without final norm", `{"model_type":"opt","_remove_final_layer_norm":true}`, func(c Config) bool { return c.NormFirst && !c.FinalNorm }},
		{"opt without bias", `{"model_type":"opt","enable_bias":false,"word_embed_proj_dim":768}`, func(c Config) bool { return !c.QKVBias && !c.OBias && !c.MLPBias }},
		{"opt untied", `{"model_type":"opt","tie_word_embeddings":false}`, func(c Config) bool { return !c.TieHead }},
		{"old rope", `{"model_type":"llama","rope_theta":5e5}`, func(c Config) bool { return c.Rope == Rope{Base: 5e5} }},
		{"old rope, type", `{"model_type":"llama","rope_theta":5e5,"rope_scaling":{"type":"linear","factor":2}}`, func(c Config) bool { return c.Rope == Rope{Kind: RopeLinear, Base: 5e5, Factor: 2} }},
		{"old rope, rope_type", `{"model_type":"llama","rope_theta":5e5,"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1,"high_freq_factor":4,"original_max_position_embeddings":8192}}`,
			func(c Config) bool { return c.Rope == Rope{RopeLlama3, 5e5, 8, 1, 4, 8192} }},
		{"new rope", `{"model_type":"llama","rope_parameters":{"rope_type":"linear","rope_theta":5e5,"factor":2}}`, func(c Config) bool { return c.Rope == Rope{Kind: RopeLinear, Base: 5e5, Factor: 2} }},
		{"both ropes", `{"model_type":"llama","rope_theta":5e5,"rope_scaling":{"type":"linear","factor":2},"rope_parameters":{"rope_type":"linear","rope_theta":5e5,"factor":2}}`, func(c Config) bool { return c.Rope == Rope{Kind: RopeLinear, Base: 5e5, Factor: 2} }},
		{"rope null", `{"model_type":"llama","rope_scaling":null,"rope_parameters":null}`, func(c Config) bool { return c.Rope == Rope{Base: 10000} }},
		{"no experts", `{"model_type":"llama","num_experts":null,"num_local_experts":0,"quantization_config":null}`, func(c Config) bool { return true }},
	} {
		if got := parseConfig(t, c.text); !c.ok(got) {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

// Catches a model that would be computed wrongly in silence: each refusal must name the key and what is there.
func TestConfigRefuses(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string
	}{
		{`{`, []string{"config.json", "JSON"}},
		{`[]`, []string{"config.json: this is of the type array; an object is expected"}},
		{`null`, []string{"model_type is missing"}},
		{`{}`, []string{"model_type is missing", "llama", "opt", "qwen3"}},
		{`{"model_type":"gpt2"}`, []string{`"gpt2"`, "llama, mistral, opt, qwen2, qwen3"}},
		{`{"model_type":7}`, []string{"model_type", "7"}},
		{`{"model_type":"llama","vocab_size":"big"}`, []string{"vocab_size", "big", "integer"}},
		{`{"model_type":"llama","vocab_size":1.5}`, []string{"vocab_size", "1.5"}},
		{`{"model_type":"llama","vocab_size":0}`, []string{"vocab_size is 0"}},
		{`{"model_type":"llama","hidden_size":-4}`, []string{"hidden_size is -4"}},
		{`{"model_type":"llama","hidden_size":null}`, []string{"hidden_size is null"}},
		{`{"model_type":"llama","num_hidden_layers":1000000000}`, []string{"num_hidden_layers is 1000000000"}},
		{`{"model_type":"llama","num_hidden_layers":5000}`, []string{"num_hidden_layers is 5000", "4096"}},
		{`{"model_type":"llama","hidden_size":100,"num_attention_heads":3}`, []string{"hidden_size 100", "num_attention_heads 3"}},
		{`{"model_type":"llama","num_key_value_heads":5}`, []string{"num_attention_heads 32", "num_key_value_heads 5"}},
		{`{"model_type":"llama","head_dim":3}`, []string{"head_dim 3 is odd"}},
		{`{"model_type":"llama","head_dim":268435456}`, []string{"32 heads of 268435456"}},
		{`{"model_type":"llama","hidden_act":"gelu"}`, []string{"hidden_act", `"gelu"`, `"silu"`}},
		{`{"model_type":"llama","rms_norm_eps":0}`, []string{"rms_norm_eps is 0"}},
		{`{"model_type":"llama","rms_norm_eps":"x"}`, []string{"rms_norm_eps", "number"}},
		{`{"model_type":"llama","attention_bias":"yes"}`, []string{"attention_bias", "true or false"}},
		{`{"model_type":"llama","num_local_experts":8}`, []string{"num_local_experts is 8", "mixture of experts"}},
		{`{"model_type":"qwen3","num_experts":128}`, []string{"num_experts is 128"}},
		{`{"model_type":"llama","quantization_config":{"quant_method":"gptq"}}`, []string{"quantization_config", "GGUF"}},
		{`{"model_type":"llama","partial_rotary_factor":0.5}`, []string{"partial_rotary_factor 0.5"}},
		{`{"model_type":"llama","rope_parameters":{"partial_rotary_factor":0.5}}`, []string{"partial_rotary_factor 0.5"}},
		{`{"model_type":"llama","rope_theta":0}`, []string{"rope_theta is 0"}},
		{`{"model_type":"llama","rope_scaling":[]}`, []string{"rope_scaling", "object"}},
		{`{"model_type":"llama","rope_scaling":{"type":"yarn","factor":2}}`, []string{"rope_scaling", `"yarn"`, "default, linear and llama3"}},
		{`{"model_type":"llama","rope_scaling":{"rope_type":"dynamic","factor":2}}`, []string{`"dynamic"`}},
		{`{"model_type":"llama","rope_scaling":{"rope_type":"longrope"}}`, []string{`"longrope"`}},
		{`{"model_type":"llama","rope_scaling":{"rope_type":"llama3","type":"linear","factor":2}}`, []string{`"llama3"`, `"linear"`}},
		{`{"model_type":"llama","rope_scaling":{"type":"linear"}}`, []string{`"linear"`, "factor"}},
		{`{"model_type":"llama","rope_scaling":{"type":"linear","factor":-1}}`, []string{"factor"}},
		{`{"model_type":"llama","rope_scaling":{"rope_type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4}}`, []string{"original_max_position_embeddings"}},
		{`{"model_type":"llama","rope_scaling":{"rope_type":"llama3","factor":8,"low_freq_factor":4,"high_freq_factor":4,"original_max_position_embeddings":8}}`, []string{"low_freq_factor 4", "high_freq_factor 4"}},
		{`{"model_type":"llama","rope_theta":1e4,"rope_parameters":{"rope_theta":2e4}}`, []string{"10000", "20000"}},
		{`{"model_type":"llama","rope_scaling":{"type":"linear","factor":2},"rope_parameters":{"rope_type":"linear","factor":3}}`, []string{"disagree"}},
		{`{"model_type":"llama","rope_parameters":{"full_attention":{"rope_type":"default"}}}`, []string{"rope_parameters", `"full_attention"`}},
		{`{"model_type":"mistral","sliding_window":0}`, []string{"sliding_window is 0"}},
		{`{"model_type":"qwen2","num_hidden_layers":1,"layer_types":["sliding_attention"]}`, []string{"layer_types", "block 0"}},
		{`{"model_type":"qwen2","num_hidden_layers":1,"layer_types":["chunked_attention"]}`, []string{"chunked_attention"}},
		{`{"model_type":"qwen2","num_hidden_layers":2,"layer_types":["full_attention"]}`, []string{"1 entries for 2 blocks"}},
		{`{"model_type":"qwen2","num_hidden_layers":2,"layer_types":"full_attention"}`, []string{"layer_types", "list"}},
		{`{"model_type":"mistral","num_hidden_layers":1,"layer_types":["full_attention"]}`, []string{"full_attention", "4096"}},
		{`{"model_type":"opt","activation_function":"gelu"}`, []string{"activation_function", `"gelu"`, `"relu"`}},
		{`{"model_type":"opt","layer_norm_elementwise_affine":false}`, []string{"layer_norm_elementwise_affine"}},
		{`{"model_type":"opt","word_embed_proj_dim":512}`, []string{"word_embed_proj_dim 512", "hidden_size 768"}},
	} {
		_, err := ParseConfig([]byte(c.text))
		if err == nil {
			t.Errorf("%s: accepted", c.text)
			continue
		}
		for _, part := range c.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not say %q", c.text, err, part)
			}
		}
	}
}

// Catches layers in another order than q k v o gate up down, block by block, or with names and sizes of another architecture:
// golden.json lists the prunable layers as transformers enumerates them.
func TestLinears(t *testing.T) {
	for _, name := range tinyModels {
		text, err := os.ReadFile(filepath.Join(tiny(name), configName))
		if err != nil {
			t.Fatal(err)
		}
		var golden struct{ Layers []string }
		data, err := os.ReadFile(filepath.Join(tiny(name), "golden.json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &golden); err != nil {
			t.Fatal(err)
		}
		want := map[string]bool{}
		for _, l := range golden.Layers {
			want[l] = true
		}
		c := parseConfig(t, string(text))
		list := c.Linears()
		for i, l := range list {
			if !want[l.Name] {
				t.Errorf("%s: %s is not a layer of the model", name, l.Name)
			}
			if i > 0 && !(l.Block > list[i-1].Block || l.Block == list[i-1].Block && l.Role > list[i-1].Role) {
				t.Errorf("%s: %s stands after %s", name, l.Name, list[i-1].Name)
			}
		}
		if len(list) != len(want) {
			t.Errorf("%s: %d layers, want %d", name, len(list), len(want))
		}
	}
	c := parseConfig(t, `{"model_type":"llama","hidden_size":32,"intermediate_size":48,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":16,"num_hidden_layers":1,"mlp_bias":true}`)
	want := []Linear{
		{"model.layers.0.self_attn.q_proj", 0, Q, 64, 32, false}, {"model.layers.0.self_attn.k_proj", 0, K, 32, 32, false},
		{"model.layers.0.self_attn.v_proj", 0, V, 32, 32, false}, {"model.layers.0.self_attn.o_proj", 0, O, 32, 64, false},
		{"model.layers.0.mlp.gate_proj", 0, Gate, 48, 32, true}, {"model.layers.0.mlp.up_proj", 0, Up, 48, 32, true}, {"model.layers.0.mlp.down_proj", 0, Down, 32, 48, true},
	}
	if got := c.Linears(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := want[6].BiasName() + want[0].BiasName() + want[0].WeightName(); got != "model.layers.0.mlp.down_proj.biasmodel.layers.0.self_attn.q_proj.weight" {
		t.Error(got)
	}
}

// FuzzConfig: nothing panics, and what is accepted has sizes that agree, so that products of them fit an int.
func FuzzConfig(f *testing.F) {
	for _, name := range tinyModels {
		text, err := os.ReadFile(filepath.Join(tiny(name), configName))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseConfig(text)
		if err != nil {
			return
		}
		if c.Heads%c.KVHeads != 0 || len(c.Window) != c.Blocks || c.Blocks > blocksMax || c.Heads*c.HeadDim > sizeMax || c.Vocab*c.Width <= 0 || c.Inner*c.Width <= 0 {
			t.Fatalf("%+v", c)
		}
		if c.Blocks <= 64 {
			for _, x := range c.tensors() {
				if elements(x.shape) <= 0 {
					t.Fatalf("%s has shape %v", x.name, x.shape)
				}
			}
		}
		if _, err := setDType(text, "BF16"); err != nil {
			t.Fatalf("accepted as a configuration, but not for editing: %v", err)
		}
	})
}
