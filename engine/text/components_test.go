package text

import (
	"encoding/json"
	"os"
	"testing"
)

// componentCase is one tokenizer of testdata/components.json.
type componentCase struct {
	Name      string
	Tokenizer json.RawMessage
	Cases     []goldenCase
}

func readComponents(t testing.TB, path string) []componentCase {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var components []componentCase
	if err := json.Unmarshal(data, &components); err != nil {
		t.Fatal(err)
	}
	return components
}

// TestComponents catches a component that does something else than in the Hugging Face tokenizers library: each kind of
// normalizer, pre-tokenizer, behavior, decoder, post-processor and added token, on strings made to tell them apart.
func TestComponents(t *testing.T) {
	for _, c := range readComponents(t, componentsPath()) {
		t.Run(c.Name, func(t *testing.T) {
			tokenizer, err := ParseTokenizer(c.Tokenizer)
			if err != nil {
				t.Fatal(err)
			}
			checkGolden(t, tokenizer, c.Cases)
		})
	}
}

// componentsPath lets SURGEON_COMPONENTS name a larger file of the same form.
func componentsPath() string {
	if path := os.Getenv("SURGEON_COMPONENTS"); path != "" {
		return path
	}
	return "testdata/components.json"
}
