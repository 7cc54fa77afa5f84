package text

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"

	"surgeon/engine/internal/stop"
)

// What would be caught: a long text that cannot be stopped in the middle of being read, unpacked or tokenised; tokens that are missing
// where nobody stopped.
func TestStopInside(t *testing.T) {
	folder := t.TempDir()
	long := longText(7, 4<<20)
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	w.Write([]byte(strings.Repeat("text\n", 8<<20)))
	w.Close()
	for name, content := range map[string][]byte{
		"plain.txt":     []byte(long),
		"packed.txt.gz": packed.Bytes(),
		"lines.jsonl":   bytes.Repeat([]byte("{\"text\": \"a\"}\n"), 1000),
	} {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, looks := range []int{1, 2, 100} {
			if _, err := ReadCorpus(stop.Countdown(looks), []string{path}); !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "damaged") {
				t.Errorf("%s, stopped at look %d: %v", name, looks, err)
			}
		}
	}
	for _, name := range []string{"opt", "llama2"} {
		tokenizer := readTokenizer(t, name)
		for _, looks := range []int{1, 2, 3} {
			if ids, err := tokenizer.EncodeContext(stop.Countdown(looks), long, true); ids != nil || !errors.Is(err, context.Canceled) {
				t.Errorf("%s, stopped at look %d: %d ids, %v", name, looks, len(ids), err)
			}
		}
		if ids, err := tokenizer.EncodeContext(context.Background(), long, true); err != nil || !slices.Equal(ids, tokenizer.Encode(long, true)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
