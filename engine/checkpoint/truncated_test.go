package checkpoint

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"surgeon/engine/checkpoint/safetensors"
)

// raw are copies of what Raw hands out.
func raw(t *testing.T, c *Checkpoint, name string) (dtype safetensors.DType, data []byte, ok bool) {
	t.Helper()
	ok, err := c.Raw(name, func(d safetensors.DType, b []byte) error {
		dtype, data = d, slices.Clone(b)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return dtype, data, ok
}

// What would be caught: a model file that is made shorter while it is open, and ends the process with SIGBUS, on any way to its
// bytes; a model that is written of what is left.
func TestTruncatedWhileOpen(t *testing.T) {
	for name, path := range map[string]string{
		"safetensors":             load(t, "tiny-llama").save(1),
		"GGUF":                    saveGGUF(t, toGGUF(t, "tiny-llama", 0)),
		"GGUF, 16 bits":           saveGGUF(t, toGGUF(t, "tiny-qwen2", 1)),
		"GGUF, with 8-bit blocks": saveGGUF(t, toGGUF(t, "tiny-llama", 8)),
	} {
		c := open(t, path)
		file := c.files[0]
		if err := os.Truncate(file, 100); err != nil {
			t.Fatal(err)
		}
		last := c.Names()[len(c.Names())-1] // beyond the first page, where bytes that are gone read as 0
		out := filepath.Join(t.TempDir(), "out")
		for what, err := range map[string]error{
			"Read":             c.Read(last, make([]float32, elements(c.Shape(last)))),
			"CheckFinite":      c.CheckFinite(context.Background()),
			"Write":            Write(out, c, WriteOptions{}),
			"Write, converted": Write(out, c, WriteOptions{DType: safetensors.BF16}),
		} {
			if lost, ok := errors.AsType[*Lost](err); !ok || lost.Path != file || lost.Is != 100 {
				t.Errorf("%s: %s: %v", name, what, err)
			}
		}
		if left, _ := os.ReadDir(filepath.Dir(out)); len(left) > 0 {
			t.Errorf("%s: %s was left behind", name, left[0].Name())
		}
	}
}

// What would be caught: a model whose weights are those of two files, because one was written over while it was copied.
func TestChangedWhileWritten(t *testing.T) {
	c := open(t, load(t, "tiny-llama").save(1))
	content, err := os.ReadFile(c.files[0])
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	err = Write(out, c, WriteOptions{Changed: func(string) ([]float32, bool, error) {
		return nil, false, os.WriteFile(c.files[0], append(content, 0), 0o644)
	}})
	if err == nil {
		t.Error("a model was written")
	}
	if left, _ := os.ReadDir(filepath.Dir(out)); len(left) > 0 {
		t.Errorf("%s was left behind", left[0].Name())
	}
}
