package text

import (
	"encoding/json"
	"os"
	"slices"
	"testing"
)

// goldenCase is one entry of testdata/ids.json.
type goldenCase struct {
	Text     string  `json:"text"`
	IDs      []int32 `json:"ids"`
	IDsPlain []int32 `json:"ids_plain"`
	Decoded  string  `json:"decoded"`
}

func readGolden(t testing.TB) map[string][]goldenCase {
	t.Helper()
	data, err := os.ReadFile("testdata/ids.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden map[string][]goldenCase
	if err := json.Unmarshal(data, &golden); err != nil {
		t.Fatal(err)
	}
	return golden
}

func readTokenizer(t testing.TB, name string) *Tokenizer {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	tokenizer, err := ParseTokenizer(data)
	if err != nil {
		t.Fatal(err)
	}
	return tokenizer
}

func checkGolden(t *testing.T, tokenizer *Tokenizer, cases []goldenCase) {
	t.Helper()
	if len(cases) == 0 {
		t.Fatal("testdata/ids.json has no such cases")
	}
	for _, c := range cases {
		if got := tokenizer.Encode(c.Text, true); !slices.Equal(got, c.IDs) {
			t.Errorf("Encode(%q, true) = %v, want %v", c.Text, got, c.IDs)
		}
		if got := tokenizer.Encode(c.Text, false); !slices.Equal(got, c.IDsPlain) {
			t.Errorf("Encode(%q, false) = %v, want %v", c.Text, got, c.IDsPlain)
		}
		if got := tokenizer.Decode(c.IDs, true); got != c.Decoded {
			t.Errorf("Decode(%v, true) = %q, want %q", c.IDs, got, c.Decoded)
		}
	}
}

// TestGolden catches any departure from the ids and texts of the Hugging Face tokenizers library, for the three styles of
// tokenizer, on 32 strings chosen to be awkward.
func TestGolden(t *testing.T) {
	golden := readGolden(t)
	for _, name := range []string{"llama2", "opt", "llama3"} {
		t.Run(name, func(t *testing.T) { checkGolden(t, readTokenizer(t, name), golden[name]) })
	}
}
