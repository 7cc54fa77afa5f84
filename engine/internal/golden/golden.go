// Package golden reads the independently computed cases of engine/testdata, for tests.
//
// golden.* were computed through another implementation that keeps some intermediate values in float32, so what went
// through a model there is good to about 1e-6; what was computed from its factors is float64. float64.* were made by a plain
// float64 script. engine/testdata/README.md tells more.
package golden

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"unsafe"

	"surgeon/engine/checkpoint/safetensors"
)

// Dir is the folder of a tiny model: config.json, model.safetensors and its cases. A test program that was carried to
// another machine finds it in or above its working directory.
func Dir(model string) string {
	_, file, _, _ := runtime.Caller(0)
	dir := filepath.Join(filepath.Dir(file), "..", "..", "testdata")
	for up := "."; len(up) < 20; up = filepath.Join("..", up) {
		if _, err := os.Stat(dir); err == nil {
			break
		}
		dir = filepath.Join(up, "engine", "testdata")
	}
	return filepath.Join(dir, model)
}

// Arrays are the float64 arrays of one file.
type Arrays struct {
	t    testing.TB
	file *safetensors.File
}

// Open reads a model's scalars into doc and returns its arrays; name is "golden" or "float64".
func Open(t testing.TB, model, name string, doc any) Arrays {
	t.Helper()
	read(t, model, name, doc)
	file, err := safetensors.Open(filepath.Join(Dir(model), name+".safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return Arrays{t, file}
}

// Tokens are the sequences that a model's cases were computed on.
func Tokens(t testing.TB, model string) [][]int32 {
	t.Helper()
	var doc struct{ Tokens [][]int32 }
	read(t, model, "golden", &doc)
	return doc.Tokens
}

func read(t testing.TB, model, name string, doc any) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(Dir(model), name+".json"))
	if err == nil {
		err = json.Unmarshal(raw, doc)
	}
	if err != nil {
		t.Fatalf("%s/%s.json: %v", model, name, err)
	}
}

// Get is a copy of the array with that name.
func (a Arrays) Get(name string) []float64 {
	a.t.Helper()
	x, ok := a.file.Lookup(name)
	if !ok || x.DType != safetensors.F64 {
		a.t.Fatalf("no float64 array %s", name)
	}
	out := make([]float64, x.Elements())
	if len(out) > 0 {
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&out[0])), 8*len(out)), a.file.Bytes(name))
	}
	return out
}

// Marks is the array of ones and zeros, stored as bytes, with that name.
func (a Arrays) Marks(name string) []bool {
	a.t.Helper()
	x, ok := a.file.Lookup(name)
	if !ok || x.DType != safetensors.U8 {
		a.t.Fatalf("no array of bytes %s", name)
	}
	out := make([]bool, x.Elements())
	for i, v := range a.file.Bytes(name) {
		out[i] = v != 0
	}
	return out
}

// Has tells whether there is an array with that name.
func (a Arrays) Has(name string) bool {
	_, ok := a.file.Lookup(name)
	return ok
}

// Error is |got − want| / |want| in the Frobenius norm; NaN where the lengths differ.
func Error(got, want []float64) float64 {
	if len(got) != len(want) {
		return math.NaN()
	}
	var diff, norm float64
	for i, w := range want {
		diff += (got[i] - w) * (got[i] - w)
		norm += w * w
	}
	if norm == 0 {
		return math.Sqrt(diff)
	}
	return math.Sqrt(diff / norm)
}

// Near fails the test where the error is above the limit, or NaN.
func Near(t testing.TB, what string, got, want []float64, limit float64) {
	t.Helper()
	if e := Error(got, want); !(e <= limit) {
		t.Errorf("%s: relative error %.3g, limit %.3g (%d and %d values)", what, e, limit, len(got), len(want))
	}
}
