package checkpoint

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"surgeon/engine/checkpoint/safetensors"
)

// Catches a wrong translation from GGUF on a real model: sums and first values of tensors were computed by another
// program. Catches slow loading, too: all tensors have to be there within 2 s on two cores.
func TestSmolLM2(t *testing.T) {
	path := os.Getenv("SURGEON_SMOLLM2")
	if path == "" {
		t.Skip("SURGEON_SMOLLM2 is not set to the path of SmolLM2-135M-Instruct.Q4_1.gguf (see testdata/README.md)")
	}
	text, err := os.ReadFile(filepath.Join("testdata", "smollm2.json"))
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Tensors map[string]struct {
			Shape      []int
			Sum, SumSq float64
			First      []float32
		}
	}
	if err := json.Unmarshal(text, &golden); err != nil || len(golden.Tensors) != 20 {
		t.Fatal(err, len(golden.Tensors))
	}
	start := time.Now()
	c := open(t, path)
	for _, name := range c.Names() {
		read(t, c, name)
	}
	took := time.Since(start)
	t.Logf("opened and decoded %d tensors in %v", len(c.Names()), took)
	if took > 2*time.Second && !testing.Short() {
		t.Errorf("loading took %v, more than 2 s", took)
	}
	for name, want := range golden.Tensors {
		x := read(t, c, name)
		var sum, squares float64
		for _, v := range x {
			sum += float64(v)
			squares += float64(v) * float64(v)
		}
		if !slices.Equal(c.Shape(name), want.Shape) || !slices.Equal(x[:4], want.First) || math.Abs(sum-want.Sum) > 1e-9*math.Max(1, math.Abs(want.Sum)) || math.Abs(squares-want.SumSq) > 1e-9*want.SumSq {
			t.Errorf("%s: %v, sum %v, squares %v, first %v; want %+v", name, c.Shape(name), sum, squares, x[:4], want)
		}
	}
	if c.DType() != safetensors.F32 || !c.Config.TieHead || c.Config.Rope.Base != 100000 || c.Config.NormEps != 1e-5 || c.Config.Vocab != 49152 {
		t.Errorf("%s %+v", c.DType(), c.Config)
	}
	v, err := c.Vocabulary()
	if err != nil || len(v.Tokens) != 49152 || len(v.Merges) != 48900 || v.Model != "gpt2" || v.Pre != "smollm" || v.BOS != 1 || v.EOS != 2 || v.AddBOS {
		t.Errorf("vocabulary: %v, %d tokens, %d merges, %s %s", err, len(v.Tokens), len(v.Merges), v.Model, v.Pre)
	}
}
