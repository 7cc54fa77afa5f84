// Package demo carries a small trained language model inside the binary, so that the whole job of pruning can be shown, and
// tested, on a machine that has just cloned the repository and knows no network.
//
// The model is of the Llama type: 4 blocks, D = 128, F = 384, 4 heads and 2 key/value heads of width 32, a byte-level BPE
// vocabulary of 1,024 tokens with the embedding tied to the LM head; 918,656 weights in bfloat16. train.py, beside this file,
// trained it on Isaac Newton's Opticks and says with which versions and which seed.
//
// The two texts are samples drawn from the model itself, with different seeds. So the loss of the dense model on them is close
// to its own entropy, and an increase after pruning is the model's loss of what it knew and no accident of an unfamiliar text.
// For the same reason their perplexity says nothing about how good a language model this is: it is a demonstration.
//
// Licence: the book (1730) is in the public domain. The model, its tokenizer and the sampled texts are part of this project,
// under the Apache License 2.0.
package demo

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

//go:embed config.json model.safetensors tokenizer.json calibration.txt heldout.txt
var files embed.FS

// The places of what Extract writes, relative to the directory it is given.
const (
	ModelDir        = "model"           // a model directory as Hugging Face lays it out
	CalibrationText = "calibration.txt" // about 60 kB, to measure curvature on
	HeldoutText     = "heldout.txt"     // about 20 kB, to measure perplexity on
)

// layout lists each embedded file with its place under Extract's directory.
var layout = []struct{ name, place string }{
	{"config.json", ModelDir + "/config.json"},
	{"tokenizer.json", ModelDir + "/tokenizer.json"},
	{"model.safetensors", ModelDir + "/model.safetensors"},
	{"calibration.txt", CalibrationText},
	{"heldout.txt", HeldoutText},
}

// Extract writes the model directory and the two texts into dir, which it makes where it is missing:
//
//	dir/model/config.json  dir/model/tokenizer.json  dir/model/model.safetensors  dir/calibration.txt  dir/heldout.txt
//
// Each file appears whole or not at all. A file that is already there with the same bytes is left as it is, so Extract may be
// called again; one with other bytes is an error, because it may be somebody's own model, and then nothing at all is written.
func Extract(dir string) error {
	missing := map[string][]byte{} // place → content
	for _, f := range layout {
		want, err := files.ReadFile(f.name)
		if err != nil {
			return fmt.Errorf("demo: embedded %s: %w", f.name, err)
		}
		path := filepath.Join(dir, filepath.FromSlash(f.place))
		same, err := holds(path, want)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing[f.place] = want
		case err != nil:
			return fmt.Errorf("demo: look for an earlier demo model: %w", err)
		case !same:
			return fmt.Errorf("demo: %s exists and differs from the built-in file of %d bytes; choose another directory or remove it", path, len(want))
		}
	}
	for _, f := range layout {
		content, ok := missing[f.place]
		if !ok {
			continue
		}
		path := filepath.Join(dir, filepath.FromSlash(f.place))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("demo: make the directory of %s: %w", f.place, err)
		}
		if err := renameio.WriteFile(path, content, 0o644); err != nil {
			return fmt.Errorf("demo: write %s: %w", path, err)
		}
	}
	return nil
}

// holds says whether the file at path consists of exactly the bytes want. The size is compared first, so that a large file of
// somebody else's is never read.
func holds(path string, want []byte) (bool, error) {
	info, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	if !info.Mode().IsRegular() || info.Size() != int64(len(want)) {
		return false, nil
	}
	got, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	return bytes.Equal(got, want), nil
}
