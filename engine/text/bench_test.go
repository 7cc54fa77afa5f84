package text

import (
	"hash/crc32"
	"os"
	"testing"
)

// BenchmarkEncode prints MB/s of text for each style of tokenizer, on WikiText-2 if SURGEON_WIKITEXT names it, else on 1 MB of
// made-up words. The metric crc32 is a checksum of the ids; it must not change with the number of processors.
func BenchmarkEncode(b *testing.B) {
	text := benchmarkText(b)
	for _, name := range []string{"opt", "llama3", "llama2"} {
		b.Run(name, func(b *testing.B) { benchmarkEncode(b, readTokenizer(b, name), text) })
	}
	b.Run("smollm2", func(b *testing.B) { benchmarkEncode(b, readSmolLM2(b), text) })
}

// BenchmarkEncodeOnePiece is SentencePiece style on a text without a place to cut: one piece, all in one heap.
func BenchmarkEncodeOnePiece(b *testing.B) {
	tokenizer := readTokenizer(b, "llama2")
	text := benchmarkText(b)
	e := newEncoding(tokenizer.model)
	piece := tokenizer.norm.apply(text)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		e.merge(nil, piece)
	}
}

func benchmarkEncode(b *testing.B, tokenizer *Tokenizer, text string) {
	b.SetBytes(int64(len(text)))
	var ids []int32
	for b.Loop() {
		ids = tokenizer.Encode(text, true)
	}
	b.ReportMetric(float64(checksum(ids)), "crc32")
	b.ReportMetric(float64(len(text))/float64(len(ids)), "bytes/token")
}

func checksum(ids []int32) uint32 {
	sum := crc32.NewIEEE()
	for _, id := range ids {
		sum.Write([]byte{byte(id), byte(id >> 8), byte(id >> 16), byte(id >> 24)})
	}
	return sum.Sum32()
}

func benchmarkText(b *testing.B) string {
	b.Helper()
	path := os.Getenv("SURGEON_WIKITEXT")
	if path == "" {
		return longText(1, 1<<20)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	return string(data)
}
