package text

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"surgeon/engine/checkpoint/gguf"
)

// Kinds of token in a GGUF file.
const (
	ggufNormal      = 1
	ggufUnknown     = 2
	ggufControl     = 3
	ggufUserDefined = 4
	ggufByte        = 6
)

// VocabularyJSON rebuilds the tokenizer.json that a GGUF file's vocabulary was made from, as far as ids depend on it:
// ParseTokenizer and the Hugging Face tokenizers library read it, and a model pruned from a GGUF file can be written with it.
//
// Model "gpt2" is byte-level BPE; Pre names how text is cut into pieces: smollm, gpt-2, llama-bpe or qwen2. "default" and
// "", which old files have, are taken for gpt-2. Model "llama" is SentencePiece BPE, whose merges are reconstructed from the
// scores. Other names are refused. Control tokens become special tokens; user-defined ones are found in the text before
// anything else, too.
func VocabularyJSON(v gguf.Vocabulary) ([]byte, error) {
	data, err := vocabularyJSON(v)
	if err != nil {
		return nil, fmt.Errorf("vocabulary of the GGUF file: %w", err)
	}
	return data, nil
}

// object is a JSON object of a component; encoding/json writes its fields in alphabetical order, which readers do not mind.
type object = map[string]any

func vocabularyJSON(v gguf.Vocabulary) ([]byte, error) {
	if err := checkVocabulary(v); err != nil {
		return nil, err
	}
	model := object{"type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil, "end_of_word_suffix": nil,
		"fuse_unk": false, "byte_fallback": false, "ignore_merges": false}
	file := object{"version": "1.0", "truncation": nil, "padding": nil, "normalizer": nil, "pre_tokenizer": nil, "model": model}
	var merges [][2]string
	var err error
	switch v.Model {
	case "gpt2":
		if merges, err = splitMerges(v.Merges); err != nil {
			return nil, err
		}
		if err := setByteLevel(file, model, v.Pre); err != nil {
			return nil, err
		}
	case "llama":
		if merges, err = mergesFromScores(v); err != nil {
			return nil, err
		}
		setSentencePiece(file, model, v)
	default:
		return nil, fmt.Errorf("tokenizers of the model %q are not known; known are gpt2 and llama", v.Model)
	}
	if model["vocab"], err = orderedVocabulary(v.Tokens); err != nil {
		return nil, err
	}
	model["merges"] = merges
	file["added_tokens"] = ggufAddedTokens(v)
	if file["post_processor"], err = ggufTemplate(v); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(file); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// checkVocabulary finds what would make a tokenizer.json that says something else than the vocabulary does.
func checkVocabulary(v gguf.Vocabulary) error {
	if len(v.Tokens) == 0 {
		return fmt.Errorf("there are no tokens")
	}
	if v.Types != nil && len(v.Types) != len(v.Tokens) {
		return fmt.Errorf("there are %d tokens but %d token types", len(v.Tokens), len(v.Types))
	}
	ids := make(map[string]int, len(v.Tokens))
	for id, token := range v.Tokens {
		if !utf8.ValidString(token) {
			return fmt.Errorf("token %d, %q, is not valid UTF-8", id, token)
		}
		if token == "" && ggufType(v, id) != ggufNormal {
			return fmt.Errorf("token %d is empty, though it is of type %d", id, ggufType(v, id))
		}
		if first, twice := ids[token]; twice {
			return fmt.Errorf("tokens %d and %d are both %q", first, id, token)
		}
		ids[token] = id
	}
	return nil
}

func ggufType(v gguf.Vocabulary, id int) int32 {
	if v.Types == nil {
		return ggufNormal
	}
	return v.Types[id]
}

// setByteLevel describes how byte-level tokenizers cut texts.
func setByteLevel(file, model object, pre string) error {
	byteLevel := func(useRegex bool) object {
		return object{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": useRegex}
	}
	sequence := func(first object, useRegex bool) object {
		return object{"type": "Sequence", "pretokenizers": []object{first, byteLevel(useRegex)}}
	}
	split := func(expression string) object {
		return object{"type": "Split", "pattern": object{"Regex": expression}, "behavior": "Isolated", "invert": false}
	}
	switch pre {
	case "gpt-2", "default", "":
		file["pre_tokenizer"] = byteLevel(true)
	case "smollm":
		file["pre_tokenizer"] = sequence(object{"type": "Digits", "individual_digits": true}, true)
	case "llama-bpe":
		file["pre_tokenizer"] = sequence(split(patternLlama3), false)
		model["ignore_merges"] = true
	case "qwen2":
		file["normalizer"] = object{"type": "NFC"}
		file["pre_tokenizer"] = sequence(split(patternQwen2), false)
	default:
		return fmt.Errorf("the splitting rule (tokenizer.ggml.pre) %q is not known; known are smollm, gpt-2, llama-bpe, qwen2 and default", pre)
	}
	file["decoder"] = byteLevel(true)
	return nil
}

// setSentencePiece describes the steps around SentencePiece BPE: spaces become ▁, one more stands in front of the text, bytes
// stand for characters without a token.
func setSentencePiece(file, model object, v gguf.Vocabulary) {
	replace := func(from, to string) object {
		return object{"type": "Replace", "pattern": object{"String": from}, "content": to}
	}
	normalizers := []object{replace(" ", "▁")}
	decoders := []object{replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"}}
	if v.AddSpacePrefix {
		normalizers = append([]object{{"type": "Prepend", "prepend": "▁"}}, normalizers...)
		decoders = append(decoders, object{"type": "Strip", "content": " ", "start": 1, "stop": 0})
	}
	file["normalizer"] = object{"type": "Sequence", "normalizers": normalizers}
	file["decoder"] = object{"type": "Sequence", "decoders": decoders}
	model["byte_fallback"], model["fuse_unk"] = true, true
	if v.Unknown >= 0 && v.Unknown < len(v.Tokens) {
		model["unk_token"] = v.Tokens[v.Unknown]
	}
}

func splitMerges(merges []string) ([][2]string, error) {
	split := make([][2]string, len(merges))
	for i, merge := range merges {
		left, right, ok := strings.Cut(merge, " ")
		if !ok || left == "" || right == "" || strings.Contains(right, " ") {
			return nil, fmt.Errorf("merge %d, %q, is not two tokens with one space between them", i, merge)
		}
		split[i] = [2]string{left, right}
	}
	return split, nil
}

// The longest normal token of a SentencePiece vocabulary, in bytes. Real ones have at most some hundred; looking at each way
// to cut a token takes time with the square of its length.
const longestPiece = 4096

// mergesFromScores reconstructs the merges that SentencePiece never stores: it merges the neighbours that together make the
// token with the best score. So each way to cut a token in two tokens is a merge, and the merges rank by the token's score,
// best first. Merges that make the same token do not compete with each other; they are put in the order that Hugging Face's
// conversion gives them, longer left side first, so that the file is the same as theirs.
func mergesFromScores(v gguf.Vocabulary) ([][2]string, error) {
	if len(v.Scores) != len(v.Tokens) {
		return nil, fmt.Errorf("a SentencePiece vocabulary needs a score for each token, but has %d tokens and %d scores", len(v.Tokens), len(v.Scores))
	}
	mergeable := func(id int) bool { kind := ggufType(v, id); return kind == ggufNormal || kind == ggufUserDefined }
	ids := make(map[string]int, len(v.Tokens))
	for id, token := range v.Tokens {
		if !mergeable(id) {
			continue // <s> or <0x0A> in a text is no reason to make that token
		}
		if len(token) > longestPiece {
			return nil, fmt.Errorf("token %d has %d bytes, more than the %d of the longest SentencePiece token", id, len(token), longestPiece)
		}
		if score := v.Scores[id]; score != score {
			return nil, fmt.Errorf("token %d, %q, has a score that is no number", id, token)
		}
		ids[token] = id
	}
	type candidate struct {
		left, right           string
		leftRunes, rightRunes int
		leftID, rightID       int
		id                    int
	}
	var all []candidate
	for id, token := range v.Tokens {
		if !mergeable(id) {
			continue
		}
		runes := utf8.RuneCountInString(token)
		before := 0
		for at := range token {
			if at > 0 {
				left, leftKnown := ids[token[:at]]
				right, rightKnown := ids[token[at:]]
				if leftKnown && rightKnown {
					all = append(all, candidate{token[:at], token[at:], before, runes - before, left, right, id})
				}
			}
			before++
		}
	}
	slices.SortStableFunc(all, func(a, b candidate) int {
		return cmp.Or(
			cmp.Compare(v.Scores[b.id], v.Scores[a.id]),
			cmp.Compare(b.leftRunes, a.leftRunes),
			cmp.Compare(b.rightRunes, a.rightRunes),
			cmp.Compare(a.id, b.id),
			cmp.Compare(a.leftID, b.leftID),
			cmp.Compare(a.rightID, b.rightID),
		)
	})
	merges := make([][2]string, len(all))
	for i, c := range all {
		merges[i] = [2]string{c.left, c.right}
	}
	return merges, nil
}

// orderedVocabulary writes {"token": id, …} in the order of the ids.
func orderedVocabulary(tokens []string) (json.RawMessage, error) {
	out := []byte{'{'}
	for id, token := range tokens {
		name, err := json.Marshal(token)
		if err != nil {
			return nil, fmt.Errorf("token %d: %w", id, err)
		}
		if id > 0 {
			out = append(out, ',')
		}
		out = fmt.Appendf(append(out, name...), ":%d", id)
	}
	return append(out, '}'), nil
}

func ggufAddedTokens(v gguf.Vocabulary) []addedToken {
	added := []addedToken{}
	for id, token := range v.Tokens {
		switch kind := ggufType(v, id); kind {
		case ggufUnknown, ggufControl, ggufUserDefined:
			added = append(added, addedToken{ID: int64(id), Content: token, Special: kind != ggufUserDefined})
		}
	}
	return added
}

// ggufTemplate is the post-processor that puts BOS and EOS around a text; nil where neither is wanted.
func ggufTemplate(v gguf.Vocabulary) (any, error) {
	if !v.AddBOS && !v.AddEOS {
		return nil, nil
	}
	special := object{}
	place := func(id int, what string, kind int) (object, error) {
		if id < 0 || id >= len(v.Tokens) {
			return nil, fmt.Errorf("a %s token is to be added to each text, but its id is %d and there are %d tokens", what, id, len(v.Tokens))
		}
		token := v.Tokens[id]
		special[token] = object{"id": token, "ids": []int{id}, "tokens": []string{token}}
		return object{"SpecialToken": object{"id": token, "type_id": kind}}, nil
	}
	around := func(sequence string, kind int) ([]object, error) {
		var pieces []object
		if v.AddBOS {
			piece, err := place(v.BOS, "beginning-of-text", kind)
			if err != nil {
				return nil, err
			}
			pieces = append(pieces, piece)
		}
		pieces = append(pieces, object{"Sequence": object{"id": sequence, "type_id": kind}})
		if v.AddEOS {
			piece, err := place(v.EOS, "end-of-text", kind)
			if err != nil {
				return nil, err
			}
			pieces = append(pieces, piece)
		}
		return pieces, nil
	}
	single, err := around("A", 0)
	if err != nil {
		return nil, err
	}
	second, err := around("B", 1)
	if err != nil {
		return nil, err
	}
	return object{"type": "TemplateProcessing", "single": single, "pair": append(slices.Clone(single), second...), "special_tokens": special}, nil
}
