package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

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
	for _, name := range []string{"special_tokens_map.json", "tokenizer_config.json"} { // the second stands before the first
		text, err := os.ReadFile(filepath.Join(c.Path, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = json.Unmarshal(text, &fields)
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
