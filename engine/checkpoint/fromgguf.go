package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"surgeon/engine/checkpoint/gguf"
	"surgeon/engine/checkpoint/safetensors"
)

// ggufArchitectures are the values of general.architecture that can be read, which are also the model_type: those of which
// it is certain how llama.cpp's converter stores them. Mistral models are stored as "llama". permuted: the converter
// reorders the rows of q and k, so that a rotation mixes neighbours instead of halves.
var ggufArchitectures = map[string]struct{ permuted bool }{
	"llama": {permuted: true},
	"qwen2": {},
	"qwen3": {},
}

// ggufNames translates modules: outside blocks, and within one after "blk.N.".
var ggufNames = map[string]string{
	"token_embd":  "model.embed_tokens",
	"output_norm": "model.norm",
	"output":      "lm_head",

	"attn_norm":   "input_layernorm",
	"ffn_norm":    "post_attention_layernorm",
	"attn_q":      "self_attn.q_proj",
	"attn_k":      "self_attn.k_proj",
	"attn_v":      "self_attn.v_proj",
	"attn_output": "self_attn.o_proj",
	"attn_q_norm": "self_attn.q_norm",
	"attn_k_norm": "self_attn.k_norm",
	"ffn_gate":    "mlp.gate_proj",
	"ffn_up":      "mlp.up_proj",
	"ffn_down":    "mlp.down_proj",
}

// ropeFactors holds, for Llama 3, what each rotary frequency is divided by; the parameters it was made from are not stored.
const ropeFactors = "rope_freqs.weight"

func (c *Checkpoint) openGGUF() error {
	c.Format = GGUF
	f, err := gguf.Open(c.Path)
	if err != nil {
		return err
	}
	c.open, c.gguf, c.files = append(c.open, f), f, []string{c.Path}
	if c.configText, err = ggufConfig(f); err != nil {
		return err
	}
	if c.Config, err = ParseConfig(c.configText); err != nil {
		return fmt.Errorf("the metadata give an architecture that cannot be read: %w", err)
	}
	have := map[string]stored{}
	for _, t := range f.Tensors() {
		if t.Name == ropeFactors {
			continue // became part of the configuration
		}
		s := stored{name: huggingFaceName(t.Name), shape: t.Shape, coding: t.Type, data: f.Bytes(t.Name), guard: f.Guard}
		switch t.Type {
		case gguf.F32, gguf.F16, gguf.BF16:
			s.dtype = safetensors.DType(t.Type.String())
		}
		if _, ok := have[s.name]; ok {
			return fmt.Errorf("two tensors of the file are called %q once their names are translated", s.name)
		}
		have[s.name] = s
		c.order = append(c.order, s.name)
	}
	if ggufArchitectures[c.Config.Family].permuted {
		for _, l := range c.Config.Linears() {
			heads := map[Role]int{Q: c.Config.Heads, K: c.Config.KVHeads}[l.Role]
			for _, name := range []string{l.WeightName(), l.BiasName()} {
				s, ok := have[name]
				if !ok || heads == 0 {
					continue
				}
				if len(s.shape) == 1 && s.dtype == "" {
					return fmt.Errorf("tensor %q is a vector stored as %v; its rows cannot be put back in order", name, s.coding)
				}
				s.heads = heads
				have[name] = s
			}
		}
	}
	return c.agree(have)
}

// huggingFaceName translates a tensor name; one that is not known stays, and is then not part of the architecture.
func huggingFaceName(name string) string {
	dot := strings.LastIndexByte(name, '.')
	if dot < 0 {
		return name
	}
	module, suffix := name[:dot], name[dot:]
	block := ""
	if rest, ok := strings.CutPrefix(module, "blk."); ok {
		number, inner, ok := strings.Cut(rest, ".")
		if !ok {
			return name
		}
		block, module = "model.layers."+number+".", inner
	}
	translated, ok := ggufNames[module]
	if !ok || (block == "") != (module == "token_embd" || module == "output_norm" || module == "output") {
		return name
	}
	return block + translated + suffix
}

// ggufMeta reads metadata and remembers the first error.
type ggufMeta struct {
	f      *gguf.File
	prefix string
	known  map[string]bool
	err    error
}

func (m *ggufMeta) fail(format string, args ...any) {
	if m.err == nil {
		m.err = fmt.Errorf(format, args...)
	}
}

// integer reads prefix.key; required where absent < 0.
func (m *ggufMeta) integer(key string, absent int) int {
	m.known[m.prefix+key] = true
	n, present, err := m.f.Integer(m.prefix + key)
	switch {
	case err != nil:
		m.fail("%w", err)
	case !present && absent < 0:
		m.fail("metadata %q is missing", m.prefix+key)
	case !present:
		return absent
	}
	return n
}

// number reads prefix.key; required where absent is NaN.
func (m *ggufMeta) number(key string, absent float64) float64 {
	m.known[m.prefix+key] = true
	x, present, err := m.f.Number(m.prefix + key)
	switch {
	case err != nil:
		m.fail("%w", err)
	case !present && math.IsNaN(absent):
		m.fail("metadata %q is missing", m.prefix+key)
	case !present:
		return absent
	}
	if math.IsNaN(x) || math.IsInf(x, 0) {
		m.fail("metadata %q is %v", m.prefix+key, x)
		return 0
	}
	return x
}

func (m *ggufMeta) text(key, absent string) string {
	m.known[m.prefix+key] = true
	s, present, err := m.f.Text(m.prefix + key)
	if err != nil {
		m.fail("%w", err)
	}
	if !present {
		return absent
	}
	return s
}

// ggufConfig makes the config.json that transformers would have for this model. Metadata of the architecture that this
// program does not know are refused by name, since they may change what the model computes.
func ggufConfig(f *gguf.File) ([]byte, error) {
	arch, _, err := f.Text("general.architecture")
	if err != nil {
		return nil, err
	}
	if _, ok := ggufArchitectures[arch]; !ok {
		return nil, fmt.Errorf("general.architecture %q is not supported; llama, qwen2 and qwen3 are", arch)
	}
	if n, _, err := f.Integer("split.count"); err != nil {
		return nil, err
	} else if n > 1 {
		return nil, fmt.Errorf("the file is one of %d parts of a split model; join them first with llama.cpp's gguf-split --merge", n)
	}
	m := &ggufMeta{f: f, prefix: arch + ".", known: map[string]bool{}}
	width, heads := m.integer("embedding_length", -1), m.integer("attention.head_count", -1)
	if heads < 1 {
		m.fail("metadata %q is %d; at least 1 is expected", m.prefix+"attention.head_count", heads)
		heads = 1
	}
	headDim := m.integer("attention.key_length", width/heads)
	config := map[string]any{
		"architectures":           []string{families[arch].class},
		"model_type":              arch,
		"vocab_size":              0, // below
		"hidden_size":             width,
		"intermediate_size":       m.integer("feed_forward_length", -1),
		"num_hidden_layers":       m.integer("block_count", -1),
		"num_attention_heads":     heads,
		"num_key_value_heads":     m.integer("attention.head_count_kv", heads),
		"head_dim":                headDim,
		"hidden_act":              "silu",
		"max_position_embeddings": m.integer("context_length", -1),
		"rms_norm_eps":            decimal(m.number("attention.layer_norm_rms_epsilon", math.NaN())),
		"attention_dropout":       decimal(0),
		"initializer_range":       decimal(0.02),
		"use_cache":               true,
	}
	for key, want := range map[string]int{"attention.value_length": headDim, "rope.dimension_count": headDim, "expert_count": 0, "expert_used_count": 0, "attention.sliding_window": 0} {
		if n := m.integer(key, want); n != want {
			m.fail("metadata %q is %d; only %d is supported here", m.prefix+key, n, want)
		}
	}
	has := func(name string) bool { _, ok := f.Lookup(name); return ok }
	embedding, ok := f.Lookup("token_embd.weight")
	if !ok || len(embedding.Shape) != 2 {
		return nil, fmt.Errorf("the file has no matrix token_embd.weight; it does not hold a whole model")
	}
	vocab := embedding.Shape[0]
	if n := m.integer("vocab_size", vocab); n != vocab {
		m.fail("metadata %q is %d and the embedding has %d rows", m.prefix+"vocab_size", n, vocab)
	}
	config["vocab_size"] = vocab
	config["tie_word_embeddings"] = !has("output.weight")
	switch arch {
	case "llama":
		config["attention_bias"], config["mlp_bias"] = has("blk.0.attn_q.bias"), has("blk.0.ffn_gate.bias")
	case "qwen3":
		config["attention_bias"] = has("blk.0.attn_q.bias")
	}
	if families[arch].window == layeredWindow {
		config["use_sliding_window"], config["sliding_window"] = false, nil
	}
	m.rope(config, headDim)
	for _, id := range []struct{ from, to string }{{"bos_token_id", "bos_token_id"}, {"eos_token_id", "eos_token_id"}, {"padding_token_id", "pad_token_id"}} {
		n, present, err := f.Integer("tokenizer.ggml." + id.from)
		if err != nil {
			return nil, err
		}
		config[id.to] = nil
		if present {
			config[id.to] = n
		}
	}
	for _, key := range f.Keys() {
		if strings.HasPrefix(key, m.prefix) && !m.known[key] && !slices.Contains([]string{"rope.scaling.original_context_length", "rope.scaling.finetuned"}, key[len(m.prefix):]) {
			m.fail("metadata %q is not known to this program and may change what the model computes", key)
		}
	}
	if m.err != nil {
		return nil, m.err
	}
	config["dtype"], config["torch_dtype"] = "float32", "float32" // Write puts the real one here
	text, err := json.MarshalIndent(config, "", "  ")
	return append(text, '\n'), err
}

// rope writes the rotary parameters in both spellings: transformers 5 reads rope_parameters, older versions rope_theta and
// rope_scaling.
func (m *ggufMeta) rope(config map[string]any, headDim int) {
	base := m.number("rope.freq_base", 10000)
	config["rope_theta"] = decimal(base)
	parameters := map[string]any{"rope_type": "default", "rope_theta": decimal(base)}
	config["rope_parameters"] = parameters
	if x := m.number("rope.scale_linear", 1); x != 1 {
		m.fail("metadata %q is %v; only 1 is supported", m.prefix+"rope.scale_linear", x)
	}
	kind, factor := m.text("rope.scaling.type", "none"), m.number("rope.scaling.factor", 0)
	factors, scaled := m.f.Lookup(ropeFactors)
	switch {
	case m.err != nil:
		return
	case scaled:
		if kind != "none" {
			m.fail("the file has both %s and %srope.scaling.type %q; one of them is supported", ropeFactors, m.prefix, kind)
			return
		}
		if m.llama3(parameters, factors, base, headDim); parameters["rope_type"] == "default" {
			return
		}
	case kind == "linear":
		parameters["rope_type"], parameters["factor"] = kind, decimal(factor)
	case kind != "none":
		m.fail("metadata %q is %q; none and linear are supported", m.prefix+"rope.scaling.type", kind)
		return
	default:
		return
	}
	scaling := map[string]any{"type": parameters["rope_type"]}
	for k, v := range parameters {
		if k != "rope_theta" {
			scaling[k] = v
		}
	}
	config["rope_scaling"] = scaling
}

// llama3 finds the parameters that give the stored factors. They are not in the file; the ones all Llama 3 models have
// (low 1, high 4, trained with 8192 positions) are taken if they reproduce every factor to the accuracy of float32.
func (m *ggufMeta) llama3(parameters map[string]any, t gguf.Tensor, base float64, headDim int) {
	r := Rope{Kind: RopeLlama3, Base: base, Factor: 1, LowFreqFactor: 1, HighFreqFactor: 4, OriginalMax: 8192}
	stored := make([]float32, t.Elements())
	err := m.f.Guard(func() error { return gguf.Decode(t.Type, m.f.Bytes(t.Name), stored) })
	if _, lost := errors.AsType[*Lost](err); lost {
		m.fail("%w", err)
		return
	}
	if err != nil || len(stored) != headDim/2 {
		m.fail("%s has %d numbers of type %v; %d of type F32 are expected", ropeFactors, len(stored), t.Type, headDim/2)
		return
	}
	for _, x := range stored {
		r.Factor = max(r.Factor, math.Round(float64(x)*1e4)/1e4)
	}
	for i, x := range stored {
		want := r.divisor(math.Pow(base, -2*float64(i)/float64(headDim)))
		if !(math.Abs(float64(x)-want) <= 1e-4*want) {
			m.fail("%s divides rotary frequency %d by %v, where Llama 3's rule with factor %v gives %v; other rules are not supported", ropeFactors, i, x, r.Factor, want)
			return
		}
	}
	if r.Factor == 1 {
		return // all ones: nothing is scaled
	}
	parameters["rope_type"], parameters["factor"] = "llama3", decimal(r.Factor)
	parameters["low_freq_factor"], parameters["high_freq_factor"] = decimal(r.LowFreqFactor), decimal(r.HighFreqFactor)
	parameters["original_max_position_embeddings"] = r.OriginalMax
}

// decimal writes 8 as 8.0: older versions of transformers refuse a rope factor that is an integer.
func decimal(x float64) json.Number {
	s := strconv.FormatFloat(x, 'g', -1, 64)
	if !strings.ContainsAny(s, ".e") {
		s += ".0"
	}
	return json.Number(s)
}

// divisor is what Llama 3's rule divides a rotary frequency f by: 1 for wavelengths 2π/f below OriginalMax/HighFreqFactor,
// Factor above OriginalMax/LowFreqFactor, in between such that the resulting frequencies are blended linearly.
func (r Rope) divisor(f float64) float64 {
	turns := float64(r.OriginalMax) * f / (2 * math.Pi) // full turns within the positions of the first training
	switch {
	case turns > r.HighFreqFactor:
		return 1
	case turns < r.LowFreqFactor:
		return r.Factor
	}
	smooth := (turns - r.LowFreqFactor) / (r.HighFreqFactor - r.LowFreqFactor)
	return 1 / ((1-smooth)/r.Factor + smooth)
}
