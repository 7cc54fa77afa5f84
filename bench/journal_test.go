package bench

import (
	"context"
	"crypto/sha256"
	"io"
	"path/filepath"
	"testing"
	"time"

	"surgeon/engine/checkpoint/safetensors"
	"surgeon/engine/journal"
)

// BenchmarkJournal saves a shot of one block of Llama-2-7B in float32, 810 MB, onto the disk. of-sha256 compares the bytes with
// those that are hashed alone in the same time.
func BenchmarkJournal(b *testing.B) {
	shape, _ := ShapeNamed("llama-2-7b")
	cfg, err := shape.Parse()
	if err != nil {
		b.Fatal(err)
	}
	var entries []safetensors.Entry
	var bytes int64
	for _, l := range cfg.Linears()[:7] {
		data := make([]byte, 4*l.Rows*l.Cols)
		for i := range data {
			data[i] = byte(i * 37)
		}
		bytes += int64(len(data))
		entries = append(entries, safetensors.Entry{Name: l.WeightName(), DType: safetensors.F32, Shape: []int{l.Rows, l.Cols}, Write: func(w io.Writer) error {
			_, err := w.Write(data)
			return err
		}})
	}
	j, err := journal.Open(context.Background(), filepath.Join(b.TempDir(), "work"), map[string]any{}, journal.Settings{})
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	for shot := 1; b.Loop(); shot++ {
		if err := j.SaveShot(shot, map[string]any{}, entries); err != nil {
			b.Fatal(err)
		}
	}
	block := make([]byte, 256<<20)
	start := time.Now()
	sha256.Sum256(block)
	bound := float64(len(block)) / time.Since(start).Seconds()
	rate := float64(bytes) * float64(b.N) / b.Elapsed().Seconds()
	b.ReportMetric(rate/1e9, "GB/s")
	b.ReportMetric(rate/bound, "of-sha256")
}
