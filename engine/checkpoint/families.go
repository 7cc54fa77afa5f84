package checkpoint

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// family is what config.json leaves unsaid about one model_type: the values Hugging Face transformers takes where a key is
// absent, and how the few keys that differ are called. A new architecture of the same build is a new row of families.
type family struct {
	class string // what transformers calls the model

	vocab, width, inner, blocks, heads, positions int // defaults of the sizes

	grouped bool // the keys num_key_value_heads and head_dim exist
	kvHeads int  // default; 0 = as many as heads
	headDim int  // default; 0 = width / heads

	innerKey                      string
	activationKey, activationName string
	activation                    Activation

	norm   Norm
	epsKey string // "" = eps always
	eps    float64

	qkvBias, oBias, mlpBias, normFirst, tieHead option

	qkNorm         bool
	learned        bool // learned positions instead of rotary ones
	positionOffset int
	window         windowRule

	names Names
}

// option is a yes or no that config.json may decide: value stands where the key is absent, or always where key is "".
type option struct {
	key   string
	value bool
}

// windowRule says which blocks see a sliding window.
type windowRule int

const (
	noWindow      windowRule = iota
	everyWindow              // all of them, sliding_window tokens (absent: 4096, null: none)
	layeredWindow            // only with use_sliding_window: those layer_types marks, else those from max_window_layers on
)

var (
	llamaNames = Names{
		Embedding: "model.embed_tokens", FinalNorm: "model.norm", Head: "lm_head",
		block: "model.layers.*", attentionNorm: "input_layernorm", mlpNorm: "post_attention_layernorm",
		qNorm: "self_attn.q_norm", kNorm: "self_attn.k_norm",
		linear: [roles]string{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
			"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"},
	}
	optNames = Names{
		Embedding: "model.decoder.embed_tokens", Positions: "model.decoder.embed_positions",
		FinalNorm: "model.decoder.final_layer_norm", Head: "lm_head",
		block: "model.decoder.layers.*", attentionNorm: "self_attn_layer_norm", mlpNorm: "final_layer_norm",
		linear: [roles]string{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "", "fc1", "fc2"},
	}
)

var families = map[string]family{
	"llama": {
		class: "LlamaForCausalLM",
		vocab: 32000, width: 4096, inner: 11008, blocks: 32, heads: 32, positions: 2048,
		grouped: true, innerKey: "intermediate_size",
		activationKey: "hidden_act", activationName: "silu", activation: SwiGLU,
		norm: RMSNorm, epsKey: "rms_norm_eps", eps: 1e-6,
		qkvBias: option{"attention_bias", false}, oBias: option{"attention_bias", false}, mlpBias: option{"mlp_bias", false},
		normFirst: option{"", true}, tieHead: option{"tie_word_embeddings", false},
		names: llamaNames,
	},
	"mistral": {
		class: "MistralForCausalLM",
		vocab: 32000, width: 4096, inner: 14336, blocks: 32, heads: 32, positions: 131072,
		grouped: true, kvHeads: 8, innerKey: "intermediate_size",
		activationKey: "hidden_act", activationName: "silu", activation: SwiGLU,
		norm: RMSNorm, epsKey: "rms_norm_eps", eps: 1e-6,
		normFirst: option{"", true}, tieHead: option{"tie_word_embeddings", false},
		window: everyWindow, names: llamaNames,
	},
	"qwen2": {
		class: "Qwen2ForCausalLM",
		vocab: 151936, width: 4096, inner: 22016, blocks: 32, heads: 32, positions: 32768,
		grouped: true, kvHeads: 32, innerKey: "intermediate_size",
		activationKey: "hidden_act", activationName: "silu", activation: SwiGLU,
		norm: RMSNorm, epsKey: "rms_norm_eps", eps: 1e-6,
		qkvBias:   option{"", true},
		normFirst: option{"", true}, tieHead: option{"tie_word_embeddings", false},
		window: layeredWindow, names: llamaNames,
	},
	"qwen3": {
		class: "Qwen3ForCausalLM",
		vocab: 151936, width: 4096, inner: 22016, blocks: 32, heads: 32, positions: 32768,
		grouped: true, kvHeads: 32, headDim: 128, innerKey: "intermediate_size",
		activationKey: "hidden_act", activationName: "silu", activation: SwiGLU,
		norm: RMSNorm, epsKey: "rms_norm_eps", eps: 1e-6,
		qkvBias: option{"attention_bias", false}, oBias: option{"attention_bias", false},
		normFirst: option{"", true}, tieHead: option{"tie_word_embeddings", false},
		qkNorm: true, window: layeredWindow, names: llamaNames,
	},
	"opt": {
		class: "OPTForCausalLM",
		vocab: 50272, width: 768, inner: 3072, blocks: 12, heads: 12, positions: 2048,
		innerKey: "ffn_dim", activationKey: "activation_function", activationName: "relu", activation: ReLU,
		norm: LayerNorm, eps: 1e-5,
		qkvBias: option{"enable_bias", true}, oBias: option{"enable_bias", true}, mlpBias: option{"enable_bias", true},
		normFirst: option{"do_layer_norm_before", true}, tieHead: option{"tie_word_embeddings", true},
		learned: true, positionOffset: 2, names: optNames,
	},
}

// Bounds on what config.json may ask for, far above any model, so that products of two sizes fit an int and a file of
// a hundred bytes cannot make this program allocate for a billion blocks.
const (
	sizeMax   = 1 << 28
	blocksMax = 4096
)

// Families are the values of model_type that are supported, in alphabetical order.
func Families() []string { return slices.Sorted(maps.Keys(families)) }

// ParseConfig resolves the text of a config.json. Anything that would make the model compute something this program does
// not is an error that names the key, its value and what is supported.
func ParseConfig(text []byte) (Config, error) {
	f := fields{}
	if err := readObject(text, &f.values); err != nil {
		return Config{}, fmt.Errorf("config.json: %w", err)
	}
	c, err := f.config()
	if err != nil {
		return Config{}, fmt.Errorf("config.json: %w", err)
	}
	return c, nil
}

func (f *fields) config() (Config, error) {
	known := strings.Join(Families(), ", ")
	kind := f.text("model_type", "")
	fam, ok := families[kind]
	switch {
	case f.err != nil:
		return Config{}, f.err
	case kind == "":
		return Config{}, fmt.Errorf("model_type is missing; supported are %s", known)
	case !ok:
		return Config{}, fmt.Errorf("model_type %q is not supported; supported are %s", kind, known)
	}
	f.refuseUnsupported()
	c := Config{
		Family: kind,
		Vocab:  f.size("vocab_size", fam.vocab), Width: f.size("hidden_size", fam.width), Inner: f.size(fam.innerKey, fam.inner),
		Blocks: f.size("num_hidden_layers", fam.blocks), Heads: f.size("num_attention_heads", fam.heads),
		MaxPositions: f.size("max_position_embeddings", fam.positions),
		Norm:         fam.norm, NormEps: fam.eps, NormFirst: f.option(fam.normFirst), FinalNorm: true, Activation: fam.activation,
		QKVBias: f.option(fam.qkvBias), OBias: f.option(fam.oBias), MLPBias: f.option(fam.mlpBias), QKNorm: fam.qkNorm,
		TieHead: f.option(fam.tieHead), Names: fam.names,
	}
	if f.err == nil && c.Blocks > blocksMax {
		f.fail("num_hidden_layers is %d; at most %d are supported", c.Blocks, blocksMax)
	}
	if fam.epsKey != "" {
		c.NormEps = f.number(fam.epsKey, fam.eps)
	}
	if !(c.NormEps > 0 && c.NormEps < 1) {
		f.fail("%s is %v; a number between 0 and 1 is expected", fam.epsKey, c.NormEps)
	}
	if act := f.text(fam.activationKey, fam.activationName); act != fam.activationName {
		f.fail("%s %q is not supported for %s; %q is", fam.activationKey, act, kind, fam.activationName)
	}
	f.heads(&c, fam)
	if fam.learned {
		c.Positions, c.PositionOffset = Learned, fam.positionOffset
	} else {
		c.Rope = f.rope()
	}
	if fam.norm == LayerNorm {
		f.layerNorms(&c)
	}
	if f.err != nil {
		return Config{}, f.err
	}
	c.Window = make([]int, c.Blocks)
	f.windows(&c, fam.window)
	return c, f.err
}

// refuseUnsupported looks for keys that change what the model computes, whatever the family.
func (f *fields) refuseUnsupported() {
	for _, key := range []string{"num_local_experts", "num_experts", "n_routed_experts", "moe_intermediate_size"} {
		if f.has(key) && string(f.values[key]) != "0" {
			f.fail("%s is %s: a mixture of experts is not supported, only models with one MLP per block are", key, f.values[key])
		}
	}
	for _, key := range []string{"quantization_config", "compression_config"} {
		if f.has(key) {
			f.fail("%s is given: quantised Hugging Face checkpoints are not supported; take the original in F32, F16 or BF16, or a GGUF file", key)
		}
	}
	if x := f.number("partial_rotary_factor", 1); x != 1 {
		f.fail("partial_rotary_factor %v is not supported; 1 is", x)
	}
}

// heads resolves the sizes of attention.
func (f *fields) heads(c *Config, fam family) {
	c.KVHeads, c.HeadDim = c.Heads, 0
	if fam.grouped {
		c.HeadDim = f.sizeOrNull("head_dim", fam.headDim)
		if c.KVHeads = f.sizeOrNull("num_key_value_heads", fam.kvHeads); c.KVHeads == 0 {
			c.KVHeads = c.Heads
		}
	}
	if f.err != nil {
		return
	}
	if c.HeadDim == 0 {
		if c.Width%c.Heads != 0 {
			f.fail("hidden_size %d is not a multiple of num_attention_heads %d and head_dim is not given", c.Width, c.Heads)
		}
		c.HeadDim = c.Width / c.Heads
	}
	switch {
	case c.Heads%c.KVHeads != 0:
		f.fail("num_attention_heads %d is not a multiple of num_key_value_heads %d", c.Heads, c.KVHeads)
	case c.HeadDim > sizeMax/c.Heads:
		f.fail("%d heads of %d make more than the supported %d rows", c.Heads, c.HeadDim, sizeMax)
	case !fam.learned && c.HeadDim%2 != 0:
		f.fail("head_dim %d is odd; rotary positions turn pairs", c.HeadDim)
	}
}

// layerNorms reads the keys that only OPT has.
func (f *fields) layerNorms(c *Config) {
	if !f.flag("layer_norm_elementwise_affine", true) {
		f.fail("layer_norm_elementwise_affine false is not supported; true is")
	}
	if f.has("word_embed_proj_dim") {
		if n := f.size("word_embed_proj_dim", c.Width); n != c.Width {
			f.fail("word_embed_proj_dim %d differs from hidden_size %d; a projection of the embedding is not supported", n, c.Width)
		}
	}
	// transformers makes no final norm for models that normalise after the sum (the 350m model).
	c.FinalNorm = c.NormFirst && !f.flag("_remove_final_layer_norm", false)
}

// windows fills Window, as long as there are Blocks.
func (f *fields) windows(c *Config, rule windowRule) {
	const windowDefault = 4096 // of mistral, qwen2 and qwen3 alike
	types := f.layerTypes(c.Blocks)
	size := 0
	switch rule {
	case everyWindow:
		if !f.null("sliding_window") {
			size = f.size("sliding_window", windowDefault)
		}
	case layeredWindow:
		if f.flag("use_sliding_window", false) && !f.null("sliding_window") {
			size = f.size("sliding_window", windowDefault)
		}
	}
	first := 0
	if rule == layeredWindow && types == nil {
		first = f.whole("max_window_layers", 28)
	}
	for b := range c.Window {
		sliding := size > 0 && b >= first
		if types != nil && types[b] != sliding {
			switch {
			case rule == layeredWindow && size > 0:
				sliding = types[b] // layer_types decides
			case types[b]:
				f.fail("layer_types marks block %d as sliding_attention, but a %s model with these keys has no sliding window there", b, c.Family)
			default:
				f.fail("layer_types marks block %d as full_attention, but a %s model gives every block the sliding_window %d", b, c.Family, size)
			}
		}
		if sliding {
			c.Window[b] = size
		}
	}
}

// layerTypes reads layer_types: true for sliding_attention; nil where the key is absent.
func (f *fields) layerTypes(blocks int) []bool {
	if !f.has("layer_types") {
		return nil
	}
	var names []string
	if !f.decode("layer_types", &names, "a list of texts") {
		return nil
	}
	if len(names) < blocks {
		f.fail("layer_types has %d entries for %d blocks", len(names), blocks)
		return nil
	}
	sliding := make([]bool, len(names))
	for b, s := range names {
		switch s {
		case "sliding_attention":
			sliding[b] = true
		case "full_attention":
		default:
			f.fail("layer_types has %q for block %d; full_attention and sliding_attention are supported", s, b)
		}
	}
	return sliding
}
