package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

const tokenizerConfigName = "tokenizer_config.json"

// SpecialTokens are the tokens that begin and end a text, spelled as in the vocabulary, "" where the model names none. In a
// directory they are bos_token and eos_token of tokenizer_config.json, or of special_tokens_map.json where the first has no
// such key; the classes of transformers that know such tokens without either file are not asked.
func (c *Checkpoint) SpecialTokens() (begin, end string, err error) {
	if c.Format == GGUF {
		v, err := c.Vocabulary()
		if err != nil {
			return "", "", err
		}
		spell := func(id int) string {
			if id < 0 {
				return ""
			}
			return v.Tokens[id]
		}
		return spell(v.BOS), spell(v.EOS), nil
	}
	fields := map[string]json.RawMessage{}
	for _, name := range []string{"special_tokens_map.json", tokenizerConfigName} { // the second stands before the first
		text, err := os.ReadFile(filepath.Join(c.Path, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = readObject(text, &fields)
		}
		if err != nil {
			return "", "", fmt.Errorf("%s: %w", name, err)
		}
	}
	if begin, err = specialToken(fields, "bos_token"); err == nil {
		end, err = specialToken(fields, "eos_token")
	}
	return begin, end, err
}

// TokenizerConfigJSON is the tokenizer_config.json that goes beside a tokenizer.json made from the vocabulary of a GGUF file:
// which of its tokens begin and end a text, which transformers and SpecialTokens read there, and the template of its chats
// where it has one. Which of them a text gets stands in tokenizer.json.
func (c *Checkpoint) TokenizerConfigJSON() ([]byte, error) {
	v, err := c.Vocabulary()
	if err != nil {
		return nil, err
	}
	config := map[string]any{
		"tokenizer_class":              "PreTrainedTokenizerFast", // of transformers: all is as tokenizer.json says
		"model_max_length":             c.Config.MaxPositions,
		"clean_up_tokenization_spaces": false, // decoding gives back the text as it was
	}
	for key, id := range map[string]int{"bos_token": v.BOS, "eos_token": v.EOS, "unk_token": v.Unknown, "pad_token": v.Padding} {
		if config[key] = nil; id >= 0 {
			config[key] = v.Tokens[id]
		}
	}
	if v.ChatTemplate != "" {
		config["chat_template"] = v.ChatTemplate
	}
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false) // <s> can be read
	e.SetIndent("", "  ")
	if err := e.Encode(config); err != nil {
		return nil, err
	}
	return text.Bytes(), nil
}

// specialToken reads a token that is written as a text, as an object with the text as its content, or null.
func specialToken(fields map[string]json.RawMessage, key string) (string, error) {
	raw := fields[key]
	if len(raw) == 0 {
		return "", nil
	}
	var text *string
	if json.Unmarshal(raw, &text) == nil {
		if text == nil {
			return "", nil
		}
		return *text, nil
	}
	var token struct{ Content *string }
	if err := json.Unmarshal(raw, &token); err != nil || token.Content == nil {
		return "", fmt.Errorf("%s of the tokenizer is %.40s, want a text or an object with its content", key, raw)
	}
	return *token.Content, nil
}
