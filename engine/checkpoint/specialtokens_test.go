package checkpoint

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What would be caught: one file that stands before the other where it should not, a form of a token that is not read, and
// one that is taken for what it is not.
func TestSpecialTokens(t *testing.T) {
	dir := load(t, "tiny-llama").save(1)
	for _, c := range []struct{ config, specials, begin, end, err string }{
		{"", "", "", "", ""},
		{`{"bos_token": "<s>", "eos_token": {"__type": "AddedToken", "content": "</s>"}, "model_max_length": 5}`, "", "<s>", "</s>", ""},
		{"", `{"bos_token": {"content": "<s>"}, "eos_token": "</s>"}`, "<s>", "</s>", ""},
		{`{"bos_token": null}`, `{"bos_token": "<s>", "eos_token": "</s>"}`, "", "</s>", ""},
		{`{"bos_token": "<a>"}`, `{"bos_token": "<s>"}`, "<a>", "", ""},
		{`{"bos_token": 5}`, "", "", "", "bos_token of the tokenizer is 5, want a text or an object with its content"},
		{`{"eos_token": {"text": "x"}}`, "", "", "", "eos_token of the tokenizer is "},
		{`{"bos_token"`, "", "", "", "tokenizer_config.json: "},
		{"", "[]", "", "", "special_tokens_map.json: "},
	} {
		for name, content := range map[string]string{"tokenizer_config.json": c.config, "special_tokens_map.json": c.specials} {
			path := filepath.Join(dir, name)
			os.Remove(path)
			if content != "" {
				if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
		m := open(t, dir)
		begin, end, err := m.SpecialTokens()
		if begin != c.begin || end != c.end || (err == nil) != (c.err == "") || err != nil && !strings.HasPrefix(err.Error(), c.err) {
			t.Errorf("%s, %s: %q, %q, %v", c.config, c.specials, begin, end, err)
		}
	}
}
