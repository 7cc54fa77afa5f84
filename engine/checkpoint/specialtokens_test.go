package checkpoint

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"surgeon/engine/checkpoint/gguf/gguftest"
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

// What would be caught: a token or a chat template that a GGUF file has and the directory made from it has not, or has though
// there is none.
func TestTokenizerConfigJSON(t *testing.T) {
	for name, change := range map[string]func(id int) any{
		"both":    func(id int) any { return uint32(id) },
		"neither": func(int) any { return int32(-1) },
	} {
		f := toGGUF(t, "tiny-llama", 0)
		for i, e := range f.Metadata {
			switch e.Key {
			case "tokenizer.ggml.bos_token_id":
				f.Metadata[i].Value = change(1)
			case "tokenizer.ggml.eos_token_id":
				f.Metadata[i].Value = change(2)
			}
		}
		var template any
		if name == "both" {
			template = "{% for m in messages %}<s>{{ m.content }}\n{% endfor %}"
			f.Metadata = append(f.Metadata, gguftest.Entry{Key: "tokenizer.chat_template", Value: template})
		}
		c := open(t, saveGGUF(t, f))
		text, err := c.TokenizerConfigJSON()
		if err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(t.TempDir(), "out")
		if err := Write(out, c, WriteOptions{Files: map[string][]byte{tokenizerConfigName: text}}); err != nil {
			t.Fatal(err)
		}
		wantBegin, wantEnd, err := c.SpecialTokens()
		if err != nil {
			t.Fatal(err)
		}
		begin, end, err := open(t, out).SpecialTokens()
		if err != nil || begin != wantBegin || end != wantEnd || (begin == "<s>") != (name == "both") {
			t.Errorf("%s: %q and %q (%v), want %q and %q, of\n%s", name, begin, end, err, wantBegin, wantEnd, text)
		}
		var config map[string]any
		if err := json.Unmarshal(text, &config); err != nil {
			t.Fatal(err)
		}
		if config["tokenizer_class"] != "PreTrainedTokenizerFast" || config["model_max_length"] != float64(c.Config.MaxPositions) || config["unk_token"] != "<unk>" || config["pad_token"] != nil || config["chat_template"] != template {
			t.Errorf("%s: %s", name, text)
		}
	}
	if _, err := open(t, tiny("tiny-llama")).TokenizerConfigJSON(); err == nil {
		t.Error("a directory has a vocabulary")
	}
}
