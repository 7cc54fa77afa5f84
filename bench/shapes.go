// Package bench times the method at the shapes of real models. Every figure stands beside what bounds it, measured in the
// same run: a large product for what is arithmetic, a large copy for what is memory.
//
//	make bench                      all benchmarks, with OpenBLAS
//	go test -bench . ./bench        the same in pure Go
//
// SURGEON_SMOLLM2 names the GGUF file that loading is timed with (make smollm2-model fetches it).
package bench

import "surgeon/engine/checkpoint"

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
}

// Parse is the architecture of the shape.
func (s Shape) Parse() (checkpoint.Config, error) { return checkpoint.ParseConfig([]byte(s.Config)) }
