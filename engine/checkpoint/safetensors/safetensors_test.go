package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

// raw joins a header text and a data part, with the true header length.
func raw(header string, data int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, data)...)
}

func entry(name string, t DType, shape []int, data []byte) Entry {
	return Entry{name, t, shape, func(w io.Writer) error { _, err := w.Write(data); return err }}
}

// Catches wrong offsets, lost order, lost metadata, and arrays that are empty or single numbers going wrong.
func TestWriteThenParse(t *testing.T) {
	numbers := []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	entries := []Entry{
		entry("b<&>\u2028", F32, []int{2, 2}, numbers),
		entry("a", BF16, []int{3}, numbers[:6]),
		entry("empty", I64, []int{0, 5}, nil),
		entry("one", U8, nil, numbers[:1]),
		entry("c", F64, []int{1, 2, 1}, numbers),
	}
	var b bytes.Buffer
	metadata := map[string]string{"format": "pt", "é": "\n"}
	if err := Write(&b, entries, metadata); err != nil {
		t.Fatal(err)
	}
	if n := binary.LittleEndian.Uint64(b.Bytes()); n%8 != 0 {
		t.Errorf("header length %d is not a multiple of 8", n)
	}
	f, err := Parse(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(f.Metadata(), metadata) {
		t.Errorf("metadata %v", f.Metadata())
	}
	for i, got := range f.Tensors() {
		want := entries[i]
		var data bytes.Buffer
		want.Write(&data)
		if got.Name != want.Name || got.DType != want.DType || got.Elements() != data.Len()/want.DType.Size() {
			t.Errorf("tensor %d is %+v, want %+v", i, got, want)
		}
		if len(got.Shape) != len(want.Shape) || !bytes.Equal(f.Bytes(got.Name), data.Bytes()) {
			t.Errorf("%s: %v %v", got.Name, got.Shape, f.Bytes(got.Name))
		}
		if found, ok := f.Lookup(got.Name); !ok || !reflect.DeepEqual(found, got) {
			t.Errorf("Lookup(%q) = %v, %v", got.Name, found, ok)
		}
	}
	if _, ok := f.Lookup("absent"); ok || f.Bytes("absent") != nil {
		t.Error("an absent tensor was found")
	}
}

// Catches a parser that accepts only its own writer's files: these come from the reference implementation.
func TestOpenReferenceFiles(t *testing.T) {
	paths, err := filepath.Glob("../../testdata/tiny-*/*.safetensors")
	if err != nil || len(paths) < 12 {
		t.Fatalf("found %d files of at least 12 (%v)", len(paths), err)
	}
	for _, path := range paths {
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		var entries []Entry
		for _, x := range f.Tensors() {
			entries = append(entries, entry(x.Name, x.DType, x.Shape, f.Bytes(x.Name)))
		}
		var b bytes.Buffer
		if err := Write(&b, entries, f.Metadata()); err != nil {
			t.Fatal(err)
		}
		again, err := Parse(b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(again.Tensors(), f.Tensors()) || !bytes.Equal(again.body, f.body) {
			t.Errorf("%s changed on the way through Write", path)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Catches a malformed file that is accepted, or refused with words that do not help: each error must hold all the given parts.
func TestParseRefuses(t *testing.T) {
	one := func(fields string) string { return `{"w":{` + fields + `}}` }
	good := `"dtype":"F32","shape":[2],"data_offsets":[0,8]`
	for _, c := range []struct {
		name string
		data []byte
		want []string
	}{
		{"empty", nil, []string{"0 bytes"}},
		{"truncated length", []byte{1, 2, 3}, []string{"3 bytes", "truncated"}},
		{"truncated header", raw(one(good), 8)[:20], []string{"12", "truncated"}},
		{"truncated data", raw(one(good), 7), []string{`"w"`, "8", "7"}},
		{"trailing data", raw(one(good), 9), []string{"8", "9", "no tensor"}},
		{"length of 2^63", append(bytes.Repeat([]byte{0}, 7), 0x80, '{', '}'), []string{"9223372036854775808", "2"}},
		{"not JSON", raw("hello", 0), []string{"not safetensors"}},
		{"empty header", raw("", 0), []string{"'{'"}},
		{"not UTF-8", raw("{\"\xff\":{}}", 0), []string{"UTF-8"}},
		{"broken JSON", raw(`{"w":{"dtype":"F32",}}`, 0), []string{"JSON"}},
		{"unfinished JSON", raw(`{"w":{"dtype":"F32"`, 0), []string{"unexpected EOF"}},
		{"text after the object", raw(`{} {}`, 0), []string{"goes on for 2 bytes"}},
		{"entry is a list", raw(`{"w":[]}`, 0), []string{`"w"`, "not a JSON object"}},
		{"deep nesting", raw(`{"w":`+strings.Repeat("[", 100000), 0), []string{`"w"`}},
		{"name twice", raw(`{"w":{`+good+`},"w":{`+good+`}}`, 8), []string{`"w" twice`}},
		{"metadata twice", raw(`{"__metadata__":{},"__metadata__":{}}`, 0), []string{"twice"}},
		{"metadata key twice", raw(`{"__metadata__":{"a":"1","a":"2"}}`, 0), []string{`"a" twice`}},
		{"metadata not text", raw(`{"__metadata__":{"a":1}}`, 0), []string{`"a"`, "text"}},
		{"dtype twice", raw(one(`"dtype":"F32",`+good), 8), []string{"dtype is given twice"}},
		{"unknown key", raw(one(good+`,"more":1`), 8), []string{`"more"`}},
		{"dtype missing", raw(one(`"shape":[2],"data_offsets":[0,8]`), 8), []string{`"w"`, "must all be given"}},
		{"unknown dtype", raw(one(`"dtype":"F33","shape":[2],"data_offsets":[0,8]`), 8), []string{`"w"`, `"F33"`}},
		{"dtype not text", raw(one(`"dtype":32,"shape":[2],"data_offsets":[0,8]`), 8), []string{"dtype", "32"}},
		{"negative dimension", raw(one(`"dtype":"F32","shape":[-2],"data_offsets":[0,8]`), 8), []string{"shape", "-2"}},
		{"fraction", raw(one(`"dtype":"F32","shape":[2.0],"data_offsets":[0,8]`), 8), []string{"shape", "2.0"}},
		{"dimension above int", raw(one(`"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,8]`), 8), []string{"9223372036854775808"}},
		{"overflowing shape", raw(one(`"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]`), 0), []string{"more bytes than can be counted"}},
		{"overflow to the right length", raw(one(`"dtype":"F32","shape":[4611686018427387906],"data_offsets":[0,8]`), 8), []string{"more bytes than can be counted"}},
		{"overflow beside a zero", raw(one(`"dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0]`), 0), []string{"more bytes than can be counted"}},
		{"too many dimensions", raw(one(`"dtype":"F32","shape":[`+strings.Repeat("1,", 64)+`2],"data_offsets":[0,8]`), 8), []string{"64"}},
		{"shape and length", raw(one(`"dtype":"F32","shape":[3],"data_offsets":[0,8]`), 8), []string{`"w"`, "12", "8"}},
		{"one offset", raw(one(`"dtype":"F32","shape":[2],"data_offsets":[0]`), 8), []string{"1 numbers"}},
		{"three offsets", raw(one(`"dtype":"F32","shape":[2],"data_offsets":[0,8,8]`), 8), []string{"2 numbers"}},
		{"offsets backwards", raw(one(`"dtype":"F32","shape":[2],"data_offsets":[8,0]`), 8), []string{"8", "0"}},
		{"hole in front", raw(one(`"dtype":"F32","shape":[2],"data_offsets":[4,12]`), 12), []string{`"w"`, "4", "0"}},
		{"hole", raw(`{"v":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}`, 3), []string{`"v"`, `"w"`, "2", "1"}},
		{"overlap", raw(`{"v":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"w":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}`, 3), []string{`"v"`, `"w"`, "1", "2"}},
		{"same bytes twice", raw(`{"v":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"w":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}`, 2), []string{`"v"`, `"w"`, "inside"}},
	} {
		_, err := Parse(c.data)
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
}

// Catches names and offsets that come out although an entry did not write what its shape says.
func TestWriteRefuses(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name    string
		entries []Entry
		want    string
	}{
		{"too few bytes", []Entry{entry("w", F32, []int{2}, make([]byte, 7))}, "has 8 bytes and 7 were written"},
		{"too many bytes", []Entry{entry("w", F32, []int{2}, make([]byte, 9))}, "more bytes were written"},
		{"too many bytes, error swallowed", []Entry{{"w", U8, []int{1}, func(w io.Writer) error { w.Write(make([]byte, 2)); w.Write(make([]byte, 1)); return nil }}}, "more bytes were written"},
		{"no function", []Entry{{"w", F32, []int{2}, nil}}, "no Write function"},
		{"twice", []Entry{entry("w", U8, []int{0}, nil), entry("w", U8, []int{0}, nil)}, `"w" is given twice`},
		{"reserved", []Entry{entry("__metadata__", U8, []int{0}, nil)}, "not a name"},
		{"not UTF-8", []Entry{entry("\xff", U8, []int{0}, nil)}, "UTF-8"},
		{"unknown dtype", []Entry{entry("w", "F33", []int{0}, nil)}, `"F33"`},
		{"negative", []Entry{entry("w", U8, []int{-1}, nil)}, "cannot be written"},
		{"overflow", []Entry{entry("w", U8, []int{1 << 40, 1 << 40}, nil)}, "cannot be written"},
		{"overflow of the sum", []Entry{entry("v", U8, []int{1 << 62}, nil), entry("w", U8, []int{1 << 62}, nil)}, `"w"`},
		{"error of an entry", []Entry{{"w", U8, []int{1}, func(io.Writer) error { return broken }}}, "broken"},
	} {
		err := Write(io.Discard, c.entries, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v does not say %q", c.name, err, c.want)
		}
	}
	if err := Write(io.Discard, []Entry{{"w", U8, []int{1}, func(io.Writer) error { return broken }}}, nil); !errors.Is(err, broken) {
		t.Error("the cause is not wrapped")
	}
}

// Catches Open leaving out the path, and paths that cannot be mapped.
func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty.safetensors")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		empty: "0 bytes are too few", dir: "not a regular file", filepath.Join(dir, "absent"): "no such file",
	} {
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v does not say %q", path, err, want)
		}
	}
}

// Catches memory taken on the word of a header: the budget is a small multiple of the file.
func TestLyingHeadersAllocateLittle(t *testing.T) {
	for name, data := range map[string][]byte{
		"huge shape":   raw(`{"w":{"dtype":"U8","shape":[4611686018427387904],"data_offsets":[0,4611686018427387904]}}`, 0),
		"long text":    raw(`{"`+strings.Repeat("a", 1<<20), 0),
		"many entries": raw(`{`+strings.Repeat(`"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},`, 1<<14), 0),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		Parse(data)
		runtime.ReadMemStats(&after)
		if took, limit := after.TotalAlloc-before.TotalAlloc, uint64(16*len(data)+1<<16); took > limit {
			t.Errorf("%s: %d bytes taken for a file of %d", name, took, len(data))
		}
	}
}

// FuzzParse: nothing panics; what is accepted covers its data part exactly and survives writing.
func FuzzParse(f *testing.F) {
	var b bytes.Buffer
	if err := Write(&b, []Entry{entry("w", F32, []int{1, 2}, make([]byte, 8)), entry("v", BF16, nil, make([]byte, 2))}, map[string]string{"format": "pt"}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse(data)
		if err != nil {
			return
		}
		total := 0
		var entries []Entry
		for _, x := range file.Tensors() {
			have := file.Bytes(x.Name)
			if len(have) != x.Elements()*x.DType.Size() {
				t.Fatalf("%q: %d bytes for %v %s", x.Name, len(have), x.Shape, x.DType)
			}
			total += len(have)
			entries = append(entries, entry(x.Name, x.DType, x.Shape, have))
		}
		if total != len(file.body) {
			t.Fatalf("the tensors have %d of %d bytes", total, len(file.body))
		}
		var b bytes.Buffer
		if err := Write(&b, entries, file.Metadata()); err != nil {
			t.Fatal(err)
		}
		again, err := Parse(b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(file.tensors, again.tensors) || !bytes.Equal(file.body, again.body) {
			t.Fatal("writing changed the file")
		}
	})
}
