package gguf

import "fmt"

// Vocabulary is the tokenizer of a GGUF file as it stands there, read from the keys tokenizer.ggml.* and
// tokenizer.chat_template. Token ids are positions in Tokens; −1 stands for no token.
type Vocabulary struct {
	Model  string    // algorithm: "gpt2" is byte-level BPE, "llama" SentencePiece BPE, others exist
	Pre    string    // name of the splitting rule before BPE, "" where the file gives none
	Tokens []string  // spelled as the algorithm spells them: Ġ or ▁ for a space
	Scores []float32 // one per token, nil where absent
	Types  []int32   // one per token: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte; nil where absent
	Merges []string  // "left right", best first; nil where absent

	BOS, EOS, Unknown, Padding int

	AddBOS, AddEOS, AddSpacePrefix bool

	ChatTemplate string // Jinja that makes a text of a conversation, "" where the file gives none
}

const (
	tokenizerPrefix = "tokenizer.ggml."
	chatTemplateKey = "tokenizer.chat_template"
)

// Vocabulary reads the tokenizer. Where a key is absent the value is what llama.cpp takes: for the model "llama" the ids 1,
// 2 and 0 for BOS, EOS and unknown, a BOS and a space in front of a text; for all others no such tokens, and a BOS in front
// only where the splitting rule is that of Llama 3 or Mistral's Tekken. Errors: no vocabulary, lists of different lengths, ids outside it.
func (f *File) Vocabulary() (Vocabulary, error) {
	v, err := f.vocabulary()
	if err != nil {
		return v, fmt.Errorf("%s: %w", f.name, err)
	}
	return v, nil
}

func (f *File) vocabulary() (Vocabulary, error) {
	var v Vocabulary
	var err error
	if v.Model, err = require[string](f, "model", "a text"); err != nil {
		return v, err
	}
	if v.Tokens, err = require[[]string](f, "tokens", "a list of texts"); err != nil {
		return v, err
	}
	sentencePiece := v.Model == "llama"
	v.BOS, v.EOS, v.Unknown, v.Padding = -1, -1, -1, -1
	if sentencePiece {
		v.BOS, v.EOS, v.Unknown = 1, 2, 0
		v.AddBOS, v.AddSpacePrefix = true, true
	}
	if v.ChatTemplate, _, err = typed[string](f, chatTemplateKey, "a text"); err != nil {
		return v, err
	}
	if err := optional(f, "pre", "a text", &v.Pre); err != nil {
		return v, err
	}
	switch v.Pre {
	case "llama3", "llama-v3", "llama-bpe", "tekken":
		v.AddBOS = true
	}
	for _, read := range []error{
		optional(f, "scores", "a list of float32", &v.Scores),
		optional(f, "token_type", "a list of int32", &v.Types),
		optional(f, "merges", "a list of texts", &v.Merges),
		optional(f, "add_bos_token", "a boolean", &v.AddBOS),
		optional(f, "add_eos_token", "a boolean", &v.AddEOS),
		optional(f, "add_space_prefix", "a boolean", &v.AddSpacePrefix),
	} {
		if read != nil {
			return v, read
		}
	}
	if n := len(v.Scores); v.Scores != nil && n != len(v.Tokens) {
		return v, fmt.Errorf("%d tokens and %d scores", len(v.Tokens), n)
	}
	if n := len(v.Types); v.Types != nil && n != len(v.Tokens) {
		return v, fmt.Errorf("%d tokens and %d token types", len(v.Tokens), n)
	}
	for _, id := range []struct {
		key string
		to  *int
	}{
		{"bos_token_id", &v.BOS}, {"eos_token_id", &v.EOS}, {"unknown_token_id", &v.Unknown}, {"padding_token_id", &v.Padding},
	} {
		n, present, err := f.Integer(tokenizerPrefix + id.key)
		if err != nil {
			return v, err
		}
		if present {
			*id.to = n
		}
		if *id.to < -1 || *id.to >= len(v.Tokens) {
			return v, fmt.Errorf("%s%s is %d and the vocabulary has %d tokens", tokenizerPrefix, id.key, *id.to, len(v.Tokens))
		}
	}
	return v, nil
}

func require[T any](f *File, key, what string) (T, error) {
	v, present, err := typed[T](f, tokenizerPrefix+key, what)
	if err == nil && !present {
		err = fmt.Errorf("the file holds no vocabulary: metadata %q is missing", tokenizerPrefix+key)
	}
	return v, err
}

// optional leaves *to as it is where the key is absent.
func optional[T any](f *File, key, what string, to *T) error {
	v, present, err := typed[T](f, tokenizerPrefix+key, what)
	if present && err == nil {
		*to = v
	}
	return err
}
