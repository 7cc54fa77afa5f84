// Package bench times the method at the shapes of real models. Every figure stands beside what bounds it, measured in the
// same run: a large product for what is arithmetic, a large copy for what is memory.
//
//	surgeon bench ops               every operation of a device
//	surgeon bench shot --shape …    one shot of the method, by stage
//	make bench                      all Go benchmarks, with OpenBLAS; go test -bench . ./bench is the same in pure Go
//	make bench-cuda                 both on a GPU, into results/<device>.txt
//
// The Go benchmarks measure operations by the same code as surgeon bench ops. SURGEON_SMOLLM2 names the GGUF file that
// loading is timed with (make smollm2-model fetches it).
package bench

import (
	"slices"

	"surgeon/engine/checkpoint"
)

// Shape is the config.json of a model whose shapes are measured, with random weights.
type Shape struct {
	Name, Config string
}

// Shapes are the models at whose shapes figures are given.
var Shapes = []Shape{
	{"smollm2-135m", `{"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
		"num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 2048, "rope_theta": 100000.0, "rms_norm_eps": 1e-5,
		"hidden_act": "silu", "tie_word_embeddings": true}`},
	{"opt-125m", `{"model_type": "opt", "hidden_size": 768, "ffn_dim": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 50272,
		"max_position_embeddings": 2048, "word_embed_proj_dim": 768, "do_layer_norm_before": true, "activation_function": "relu"}`},
	{"opt-6.7b", `{"model_type": "opt", "hidden_size": 4096, "ffn_dim": 16384, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 50272,
		"max_position_embeddings": 2048, "word_embed_proj_dim": 4096, "do_layer_norm_before": true, "activation_function": "relu"}`},
	{"llama-2-7b", `{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
		"num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096, "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
		"hidden_act": "silu", "tie_word_embeddings": false}`},
	{"llama-3-8b", `{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
		"num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192, "rope_theta": 500000.0, "rms_norm_eps": 1e-5,
		"hidden_act": "silu", "tie_word_embeddings": false}`},
}

// Parse is the architecture of the shape.
func (s Shape) Parse() (checkpoint.Config, error) { return checkpoint.ParseConfig([]byte(s.Config)) }

// ShapeNamed is the shape of that name.
func ShapeNamed(name string) (s Shape, found bool) {
	i := slices.IndexFunc(Shapes, func(s Shape) bool { return s.Name == name })
	if i < 0 {
		return s, false
	}
	return Shapes[i], true
}
