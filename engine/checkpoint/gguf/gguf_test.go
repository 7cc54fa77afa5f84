package gguf_test

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/x448/float16"

	"surgeon/engine/checkpoint/gguf"
	"surgeon/engine/checkpoint/gguf/gguftest"
)

// block joins float16 numbers and bytes.
func block(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case float64:
			b = binary.LittleEndian.AppendUint16(b, float16.Fromfloat32(float32(p)).Bits())
		case uint32:
			b = binary.LittleEndian.AppendUint32(b, p)
		case []byte:
			b = append(b, p...)
		}
	}
	return b
}

// codes are 16 bytes: byte j has j in its low and 15−j in its high half, so elements run 0…15 and then 15…0.
func codes() []byte {
	var q []byte
	for j := range 16 {
		q = append(q, byte(j|(15-j)<<4))
	}
	return q
}

// Catches halves of a byte the wrong way round, a wrong zero point, a lost fifth bit, scale and minimum swapped. The
// expected values are worked out by hand from the definition of each type.
func TestDecodeBlocks(t *testing.T) {
	ramp := func(f func(q float64) float64) []float32 {
		var x []float32
		for j := range 32 {
			q := j
			if j >= 16 {
				q = 31 - j
			}
			x = append(x, float32(f(float64(q))))
		}
		return x
	}
	// Fifth bits: elements 0, 3, 20 and 31 have theirs set, so their codes 0, 3, 11, 0 become 16, 19, 27, 16.
	const fifth = uint32(1<<0 | 1<<3 | 1<<20 | 1<<31)
	raised := func(f func(q float64) float64) []float32 {
		x := ramp(f)
		x[0], x[3], x[20], x[31] = float32(f(16)), float32(f(19)), float32(f(27)), float32(f(16))
		return x
	}
	bytes32 := make([]byte, 32)
	for j := range bytes32 {
		bytes32[j] = byte(int8(4 * (j - 16))) // −64 … 60
	}
	bytes32[0] = 0x80 // −128
	q8 := make([]float32, 32)
	for j := range q8 {
		q8[j] = 0.25 * float32(4*(j-16))
	}
	q8[0] = -32
	for _, c := range []struct {
		kind gguf.Type
		src  []byte
		want []float32
	}{
		{gguf.F32, []byte{0, 0, 128, 63, 0, 0, 0, 192}, []float32{1, -2}},
		{gguf.F16, []byte{0, 60, 0, 192, 1, 0}, []float32{1, -2, 1.0 / (1 << 24)}},
		{gguf.BF16, []byte{128, 63, 0, 192}, []float32{1, -2}},
		{gguf.Q4_0, block(0.5, codes()), ramp(func(q float64) float64 { return 0.5 * (q - 8) })},
		{gguf.Q4_1, block(0.5, -3.0, codes()), ramp(func(q float64) float64 { return 0.5*q - 3 })},
		{gguf.Q5_0, block(-2.0, fifth, codes()), raised(func(q float64) float64 { return -2 * (q - 16) })},
		{gguf.Q5_1, block(0.25, 7.0, fifth, codes()), raised(func(q float64) float64 { return 0.25*q + 7 })},
		{gguf.Q8_0, block(0.25, bytes32), q8},
	} {
		// The block twice, so that a wrong stride shows.
		dst := make([]float32, 2*len(c.want))
		for i := range dst {
			dst[i] = float32(math.NaN())
		}
		if err := gguf.Decode(c.kind, append(c.src[:len(c.src):len(c.src)], c.src...), dst); err != nil {
			t.Errorf("%v: %v", c.kind, err)
			continue
		}
		if !reflect.DeepEqual(dst, append(c.want, c.want...)) {
			t.Errorf("%v: got %v, want twice %v", c.kind, dst, c.want)
		}
		if err := gguf.Decode(c.kind, c.src[1:], dst[:len(c.want)]); err == nil {
			t.Errorf("%v: a byte too few was accepted", c.kind)
		}
		if len(c.want) == 32 {
			if err := gguf.Decode(c.kind, c.src, dst[:31]); err == nil {
				t.Errorf("%v: a part of a block was accepted", c.kind)
			}
		}
	}
	if err := gguf.Decode(12, nil, nil); err == nil || !strings.Contains(err.Error(), "Q4_K") || !strings.Contains(err.Error(), "Q8_0") {
		t.Errorf("%v does not name Q4_K and what can be read", err)
	}
}

func meta(key string, value any) gguftest.Entry { return gguftest.Entry{Key: key, Value: value} }

// full has every type of metadata value, two tensors, and another alignment than usual.
func full() gguftest.File {
	return gguftest.File{
		Alignment: 64,
		Metadata: []gguftest.Entry{
			meta("u8", uint8(200)), meta("i8", int8(-7)), meta("u16", uint16(60000)), meta("i16", int16(-300)),
			meta("u32", uint32(4e9)), meta("i32", int32(-70000)), meta("u64", uint64(1<<40)), meta("i64", int64(-1<<40)),
			meta("f32", float32(1e-5)), meta("f64", 0.1), meta("yes", true), meta("text", "Grüße"),
			meta("list", []string{"a", "", "ccc"}), meta("numbers", []float32{1, 2.5}), meta("ints", []int32{1, -2}),
			meta("flags", []bool{true, false}), meta("nested", []any{[]uint8{1, 2}, []uint8{3}}), meta("none", []uint64{}),
		},
		Tensors: []gguftest.Tensor{
			{Name: "w", Shape: []int{2, 3}, Type: uint32(gguf.F32), Data: make([]byte, 24)},
			{Name: "q", Shape: []int{2, 32}, Type: uint32(gguf.Q4_1), Data: make([]byte, 40)},
		},
	}
}

// Catches a value type read with the wrong width or sign (everything after it would be wrong too), reversed shapes, and an
// alignment that is ignored.
func TestParse(t *testing.T) {
	for _, version := range []uint32{2, 3} {
		file := full()
		file.Version = version
		file.Tensors[1].Data[7] = 42
		f, err := gguf.Parse(file.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if f.Version() != int(version) || len(f.Keys()) != len(file.Metadata)+1 {
			t.Errorf("version %d, %d keys", f.Version(), len(f.Keys()))
		}
		for _, e := range file.Metadata {
			if got, ok := f.Value(e.Key); !ok || !reflect.DeepEqual(got, e.Value) {
				t.Errorf("%s is %#v, want %#v", e.Key, got, e.Value)
			}
		}
		for i, want := range file.Tensors {
			got := f.Tensors()[i]
			if got.Name != want.Name || !reflect.DeepEqual(got.Shape, want.Shape) || uint32(got.Type) != want.Type || !reflect.DeepEqual(f.Bytes(want.Name), want.Data) {
				t.Errorf("tensor %d is %+v %v, want %+v", i, got, f.Bytes(want.Name), want)
			}
		}
		if x, _, err := f.Number("f32"); err != nil || x != 1e-5 {
			t.Errorf("the float32 1e-5 is read as %v (%v)", x, err)
		}
		for key, want := range map[string]int{"u8": 200, "i8": -7, "u16": 60000, "i16": -300, "u32": 4e9, "i32": -70000, "u64": 1 << 40, "i64": -1 << 40} {
			if n, present, err := f.Integer(key); n != want || !present || err != nil {
				t.Errorf("%s as an integer is %d, %v, %v", key, n, present, err)
			}
		}
		if _, present, err := f.Integer("absent"); present || err != nil {
			t.Errorf("absent key: %v, %v", present, err)
		}
		if _, _, err := f.Integer("text"); err == nil {
			t.Error("a text was read as an integer")
		}
	}
}

// Catches broken files that are accepted, and errors without the values that disagree.
func TestParseRefuses(t *testing.T) {
	good := full().Bytes()
	set := func(at int, b ...byte) []byte {
		c := append([]byte(nil), good...)
		copy(c[at:], b)
		return c
	}
	with := func(change func(*gguftest.File)) []byte {
		f := full()
		change(&f)
		return f.Bytes()
	}
	tensor := func(x gguftest.Tensor) []byte {
		return with(func(f *gguftest.File) { f.Tensors = append(f.Tensors[:1], x) })
	}
	huge := []byte{255, 255, 255, 255, 255, 255, 255, 127}
	for _, c := range []struct {
		name string
		data []byte
		want []string
	}{
		{"empty", nil, []string{"not a GGUF file"}},
		{"magic", set(0, 'g'), []string{"not a GGUF file"}},
		{"version 1", set(4, 1), []string{"version 1", "2 and 3"}},
		{"version 4", set(4, 4), []string{"version 4"}},
		{"big endian", set(4, 0, 0, 0, 3), []string{"big endian"}},
		{"tensor count", set(8, huge...), []string{"9223372036854775807 tensors", "truncated"}},
		{"metadata count", set(16, huge...), []string{"9223372036854775807 metadata", "truncated"}},
		{"key length", set(24, huge...), []string{"text of 9223372036854775807", "truncated"}},
		{"truncated data", good[:len(good)-25], []string{`"q"`, "truncated"}},
		{"truncated metadata", good[:60], []string{"truncated"}},
		{"key twice", with(func(f *gguftest.File) { f.Metadata = append(f.Metadata, f.Metadata[0]) }), []string{`"u8" occurs twice`}},
		{"tensor twice", tensor(gguftest.Tensor{Name: "w", Shape: []int{1}, Data: make([]byte, 4)}), []string{`"w" is listed twice`}},
		{"no dimension", tensor(gguftest.Tensor{Name: "v", Data: make([]byte, 4)}), []string{`"v"`, "0 dimensions"}},
		{"five dimensions", tensor(gguftest.Tensor{Name: "v", Shape: []int{1, 1, 1, 1, 1}, Data: make([]byte, 4)}), []string{`"v"`, "5 dimensions"}},
		{"dimension 0", tensor(gguftest.Tensor{Name: "v", Shape: []int{2, 0}}), []string{`"v"`, "dimension 0"}},
		{"overflow", tensor(gguftest.Tensor{Name: "v", Shape: []int{1 << 33, 1 << 33}}), []string{`"v"`, "8589934592"}},
		{"large", tensor(gguftest.Tensor{Name: "v", Shape: []int{1 << 40}}), []string{`"v"`, "1099511627776", "truncated"}},
		{"unsupported type", tensor(gguftest.Tensor{Name: "v", Shape: []int{256}, Type: 14, Data: make([]byte, 210)}), []string{`"v"`, "Q6_K", "Q4_1", "BF16"}},
		{"unknown type", tensor(gguftest.Tensor{Name: "v", Shape: []int{256}, Type: 99}), []string{`"v"`, "type 99"}},
		{"rows of part blocks", tensor(gguftest.Tensor{Name: "v", Shape: []int{4, 24}, Type: 8, Data: make([]byte, 102)}), []string{`"v"`, "24", "32"}},
		{"alignment", with(func(f *gguftest.File) { f.Alignment = 48 }), []string{"48", "power of two"}},
		{"alignment not a number", with(func(f *gguftest.File) {
			f.Alignment = 0
			f.Metadata = append(f.Metadata, meta("general.alignment", "32"))
		}), []string{"general.alignment", "string"}},
		{"nested too deep", with(func(f *gguftest.File) {
			f.Metadata = append(f.Metadata, meta("deep", []any{[]any{[]any{[]any{[]uint8{1}}}}}))
		}), []string{`"deep"`, "deep"}},
	} {
		_, err := gguf.Parse(c.data)
		if err == nil {
			t.Errorf("%s: accepted", c.name)
			continue
		}
		for _, part := range c.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not say %q", c.name, err, part)
			}
		}
	}
	// Offsets lie in the tensor list; the last eight bytes of it belong to "q", the 64 that follow are padding and data.
	overlap := append([]byte(nil), good...)
	at := len(good) - 128
	for good[at-1] == 0 { // back over the padding, to the offset of q: 64
		at--
	}
	overlap[at-1] = 0
	if _, err := gguf.Parse(overlap); err == nil || !strings.Contains(err.Error(), "inside") {
		t.Errorf("overlapping tensors: %v", err)
	}
	overlap[at-1] = 32
	if _, err := gguf.Parse(overlap); err == nil || !strings.Contains(err.Error(), "alignment 64") {
		t.Errorf("misaligned tensor: %v", err)
	}
}

// Catches every truncation that would read beyond the end (a panic) or be accepted.
func TestParseTruncatedAnywhere(t *testing.T) {
	good := full().Bytes()
	for n := range len(good) - 24 { // the last 24 bytes are padding after the last tensor
		if _, err := gguf.Parse(good[:n]); err == nil {
			t.Errorf("%d of %d bytes were accepted", n, len(good))
		}
	}
}

// Catches memory taken on the word of a count.
func TestLyingCountsAllocateLittle(t *testing.T) {
	head := append([]byte("GGUF\x03\x00\x00\x00"), make([]byte, 8)...)
	data := append(head, 1, 0, 0, 0, 0, 0, 0, 0) // one metadata entry
	data = append(data, 1, 0, 0, 0, 0, 0, 0, 0, 'k', 9, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := gguf.Parse(data)
	runtime.ReadMemStats(&after)
	if err == nil || !strings.Contains(err.Error(), "1099511627776 values") {
		t.Errorf("a list of 2^40 texts: %v", err)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > 1<<16 {
		t.Errorf("%d bytes taken for a file of %d", took, len(data))
	}
}

// Catches llama.cpp's defaults taken for the wrong model, keys that override them being ignored, and ids out of range.
func TestVocabulary(t *testing.T) {
	entry := func(key string, v any) gguftest.Entry { return meta("tokenizer.ggml."+key, v) }
	tokens := entry("tokens", []string{"<unk>", "<s>", "</s>", "▁a"})
	for _, c := range []struct {
		name string
		meta []gguftest.Entry
		want gguf.Vocabulary
		err  string
	}{
		{name: "sentencepiece, defaults", meta: []gguftest.Entry{entry("model", "llama"), tokens, entry("scores", []float32{0, 0, 0, -1}), entry("token_type", []int32{2, 3, 3, 1})},
			want: gguf.Vocabulary{Model: "llama", Scores: []float32{0, 0, 0, -1}, Types: []int32{2, 3, 3, 1}, BOS: 1, EOS: 2, Unknown: 0, Padding: -1, AddBOS: true, AddSpacePrefix: true}},
		{name: "sentencepiece, told otherwise", meta: []gguftest.Entry{entry("model", "llama"), tokens, entry("add_bos_token", false), entry("add_eos_token", true), entry("add_space_prefix", false), entry("padding_token_id", uint32(2)), entry("bos_token_id", uint32(3))},
			want: gguf.Vocabulary{Model: "llama", BOS: 3, EOS: 2, Unknown: 0, Padding: 2, AddEOS: true}},
		{name: "byte-level, defaults", meta: []gguftest.Entry{entry("model", "gpt2"), tokens, entry("merges", []string{"a b"})},
			want: gguf.Vocabulary{Model: "gpt2", Merges: []string{"a b"}, BOS: -1, EOS: -1, Unknown: -1, Padding: -1}},
		{name: "byte-level, Llama 3", meta: []gguftest.Entry{entry("model", "gpt2"), entry("pre", "llama-bpe"), tokens, entry("bos_token_id", uint32(1)), meta("tokenizer.chat_template", "{{ messages }}")},
			want: gguf.Vocabulary{Model: "gpt2", Pre: "llama-bpe", BOS: 1, EOS: -1, Unknown: -1, Padding: -1, AddBOS: true, ChatTemplate: "{{ messages }}"}},
		{name: "no model", meta: []gguftest.Entry{tokens}, err: `"tokenizer.ggml.model" is missing`},
		{name: "no tokens", meta: []gguftest.Entry{entry("model", "gpt2")}, err: `"tokenizer.ggml.tokens" is missing`},
		{name: "tokens are numbers", meta: []gguftest.Entry{entry("model", "gpt2"), entry("tokens", []int32{1})}, err: "list of texts"},
		{name: "scores too short", meta: []gguftest.Entry{entry("model", "llama"), tokens, entry("scores", []float32{1})}, err: "4 tokens and 1 scores"},
		{name: "types too short", meta: []gguftest.Entry{entry("model", "llama"), tokens, entry("token_type", []int32{1})}, err: "4 tokens and 1 token types"},
		{name: "chat template is a number", meta: []gguftest.Entry{entry("model", "gpt2"), tokens, meta("tokenizer.chat_template", uint32(1))}, err: "tokenizer.chat_template"},
		{name: "id out of range", meta: []gguftest.Entry{entry("model", "llama"), tokens, entry("bos_token_id", uint32(4))}, err: "bos_token_id is 4 and the vocabulary has 4 tokens"},
	} {
		f, err := gguf.Parse(gguftest.File{Metadata: c.meta}.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		got, err := f.Vocabulary()
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v does not say %q", c.name, err, c.err)
			}
			continue
		}
		c.want.Tokens = []string{"<unk>", "<s>", "</s>", "▁a"}
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v (%v), want %+v", c.name, got, err, c.want)
		}
	}
}

// Catches Open and Parse disagreeing, and a path left out of errors.
func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.gguf")
	if err := os.WriteFile(path, full().Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if x, ok := f.Lookup("q"); !ok || x.Elements() != 64 {
		t.Errorf("q is %+v, %v", x, ok)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := gguf.Open(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("%v does not name the file", err)
	}
}

// FuzzParse: nothing panics, and every tensor of an accepted file decodes from the bytes it was given.
func FuzzParse(f *testing.F) {
	f.Add(full().Bytes())
	f.Add(gguftest.File{Version: 2, Metadata: []gguftest.Entry{meta("tokenizer.ggml.model", "llama"), meta("tokenizer.ggml.tokens", []string{"a", "b", "c"})}}.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := gguf.Parse(data)
		if err != nil {
			return
		}
		total := 0
		for _, x := range file.Tensors() {
			total += len(file.Bytes(x.Name))
			if err := gguf.Decode(x.Type, file.Bytes(x.Name), make([]float32, x.Elements())); err != nil {
				t.Fatalf("%q: %v", x.Name, err)
			}
		}
		if total > len(data) {
			t.Fatalf("tensors of %d bytes in a file of %d", total, len(data))
		}
		file.Vocabulary()
	})
}
