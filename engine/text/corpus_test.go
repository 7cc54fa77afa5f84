package text

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress"
	"github.com/parquet-go/parquet-go/format"
)

func gz(t *testing.T, data string) string {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write([]byte(data))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func zst(t *testing.T, data string) string {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(w.EncodeAll([]byte(data), nil))
}

func parquetOf[T any](t testing.TB, rows ...T) string {
	return parquetBy(t, &parquet.Snappy, 2, rows...)
}

func parquetBy[T any](t testing.TB, codec compress.Codec, groupRows int64, rows ...T) string {
	var out bytes.Buffer
	w := parquet.NewGenericWriter[T](&out, parquet.MaxRowsPerRowGroup(groupRows), parquet.Compression(codec))
	if _, err := w.Write(rows); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

type textRow struct {
	ID   int64
	Text string `parquet:"text"`
}

type dictionaryRow struct {
	Text string `parquet:"text,dict"`
}

type optionalRow struct {
	Text *string `parquet:"text,optional"`
}

type otherRow struct {
	Body string `parquet:"body"`
}

// write makes files in a new folder.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	folder := t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// TestReadCorpus catches a format that is read wrongly, documents joined otherwise than documented, and files taken in another
// order or twice.
func TestReadCorpus(t *testing.T) {
	lines := `{"text":"one","n":1}` + "\n\n" + `{"text":""}` + "\r\n" + `{"n":[],"text":"tw\u00f6\n"}`
	rows := parquetOf(t, textRow{1, "p"}, textRow{2, ""}, textRow{3, "qé"})
	present := "there"
	folder := write(t, map[string]string{
		"a.txt": "first\r\nline\n", "b.md": "second", "c.txt.gz": gz(t, "third"), "d.txt.zst": zst(t, "fourth"),
		"l.jsonl": lines, "l.jsonl.gz": gz(t, lines), "p.parquet": rows, "p.parquet.zst": zst(t, rows),
		"o.parquet": parquetOf(t, optionalRow{&present}), "[x].txt": "bracket", "gz2.gz": gz(t, "a") + gz(t, "b"),
	})
	for _, c := range []struct {
		patterns, want string
		files          int
	}{
		{"a.txt", "first\r\nline\n", 1},
		{"b.md", "second", 1},
		{"c.txt.gz", "third", 1},
		{"d.txt.zst", "fourth", 1},
		{"gz2.gz", "ab", 1},
		{"l.jsonl", "one\n\n\n\ntwö\n", 1},
		{"l.jsonl.gz", "one\n\n\n\ntwö\n", 1},
		{"p.parquet", "p\n\n\n\nqé", 1},
		{"p.parquet.zst", "p\n\n\n\nqé", 1},
		{"o.parquet", "there", 1},
		{"[x].txt", "bracket", 1},
		{"b.md a.txt", "second\n\nfirst\r\nline\n", 2},
		{"?.txt* a.txt b.md b.*", "first\r\nline\n\n\nthird\n\nfourth\n\nsecond", 4},
	} {
		var patterns []string
		for _, pattern := range strings.Fields(c.patterns) {
			patterns = append(patterns, folder+"/"+pattern)
		}
		corpus, err := ReadCorpus(context.Background(), patterns)
		if err != nil {
			t.Errorf("%s: %v", c.patterns, err)
			continue
		}
		if corpus.Text != c.want || len(corpus.Files) != c.files {
			t.Errorf("%s: text %q from %d files, want %q from %d", c.patterns, corpus.Text, len(corpus.Files), c.want, c.files)
		}
		if hash := sha256.Sum256([]byte(c.want)); corpus.SHA256 != hex.EncodeToString(hash[:]) {
			t.Errorf("%s: SHA256 %s is not that of the text", c.patterns, corpus.SHA256)
		}
	}
	corpus, err := ReadCorpus(context.Background(), []string{filepath.Join(folder, "c.txt.gz")})
	if err != nil {
		t.Fatal(err)
	}
	data := gz(t, "third")
	hash := sha256.Sum256([]byte(data))
	if want := (File{filepath.Join(folder, "c.txt.gz"), int64(len(data)), hex.EncodeToString(hash[:])}); corpus.Files[0] != want {
		t.Errorf("file %+v, want %+v", corpus.Files[0], want)
	}
}

// TestReadCorpusCopies catches a text that counts twice because its file was named twice, or a copy of it was given too. Empty files
// are no copies.
func TestReadCorpusCopies(t *testing.T) {
	folder := write(t, map[string]string{"a0.txt": "", "a1.txt": "abc", "a2.txt": "", "b.txt": "abc"})
	for _, again := range []string{"/a1.txt", "/./a1.txt"} {
		want := folder + "/a1.txt and " + folder + again + " are the same file; give it once"
		if _, err := ReadCorpus(t.Context(), []string{folder + "/a*.txt", folder + "/a1.txt", folder + again}); err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	_, err := ReadCorpus(t.Context(), []string{folder + "/*.txt"})
	if want := folder + "/a1.txt and " + folder + "/b.txt hold the same, which would count twice; give one of them"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if c, err := ReadCorpus(t.Context(), []string{folder + "/a?.txt"}); err != nil || len(c.Files) != 3 {
		t.Errorf("two empty files beside one that is not: %v", err)
	}
}

// TestReadCorpusErrors catches input that is taken though it is no text, and refusals that do not say where the trouble is.
func TestReadCorpusErrors(t *testing.T) {
	good := parquetOf(t, textRow{1, strings.Repeat("some text ", 50)}, textRow{2, "more"}, textRow{3, "rest"})
	folder := write(t, map[string]string{
		"empty.txt": "", "blank.txt": " \n\t\n", "nul.txt": "line one\nab\x00c", "latin1.txt": "caf\xe9\n", "cut.txt": "abc\xe2\x82",
		"cut.gz": gz(t, strings.Repeat("hello ", 100))[:30], "no.gz": "hello", "cut.zst": zst(t, strings.Repeat("hello", 100))[:15], "no.zst": "hello",
		"bad.jsonl": "{\"text\":\"a\"}\n{\"text\":\n", "field.jsonl": "{\"text\":\"a\"}\n\n{\"body\":\"b\"}\n", "kind.jsonl": "{\"text\":5}\n",
		"null.jsonl": "{\"text\":null}", "list.jsonl": "[1]\n", "nul.jsonl": `{"text":"a\u0000b"}`, "utf8.jsonl": "{\"text\":\"a\"}\n{\"text\":\"\xff\"}\n",
		"column.parquet": parquetOf(t, otherRow{"x"}), "no.parquet": "hello", "cut.parquet": good[:len(good)/2], "null.parquet": parquetOf(t, optionalRow{nil}),
		"kind.parquet": parquetOf(t, struct {
			Text int64 `parquet:"text"`
		}{5}),
		"footer.parquet":  good[:len(good)-8] + "\xff\xff\xff\xff" + good[len(good)-4:],
		"binary.parquet":  parquetOf(t, textRow{1, "fine"}, textRow{2, "a\xff"}),
		"damaged.parquet": good[:60] + strings.Repeat("\xff", 40) + good[100:],
	})
	for _, c := range []struct{ pattern, want string }{
		{"missing.txt", "no such file"}, {"*.missing", "matches no file"}, {"[", "no such file|pattern"}, {"../001", "not a regular file"},
		{"empty.txt", "no text"}, {"blank.txt", "no text"}, {"nul.txt", "byte 11 (line 2) is NUL"}, {"latin1.txt", "byte 3 (line 1), 0xe9"}, {"cut.txt", "byte 3 (line 1), 0xe2"},
		{"cut.gz", "cut off"}, {"no.gz", "no gzip"}, {"cut.zst", "cut off"}, {"no.zst", "zstandard"},
		{"bad.jsonl", "line 2 "}, {"field.jsonl", `line 3 has no field "text"`}, {"kind.jsonl", `line 1: the field "text" is 5`}, {"null.jsonl", `is null`},
		{"list.jsonl", "line 1 is not a JSON object"}, {"nul.jsonl", "NUL"}, {"utf8.jsonl", "line 2: byte 9"},
		{"column.parquet", `no column "text"; the columns are body`}, {"no.parquet", "no Parquet file"}, {"cut.parquet", "Parquet"}, {"null.parquet", "row 0 has no"},
		{"kind.parquet", "want one string"}, {"binary.parquet", "row 1: byte 1"}, {"damaged.parquet", ""},
		{"footer.parquet", "promises a footer of 4294967295 bytes"},
	} {
		_, err := ReadCorpus(context.Background(), []string{filepath.Join(folder, c.pattern)})
		if err == nil {
			t.Errorf("%s is read without an error", c.pattern)
			continue
		}
		ok := false
		for _, want := range strings.Split(c.want, "|") {
			ok = ok || strings.Contains(err.Error(), want)
		}
		if !ok || !strings.Contains(err.Error(), filepath.Base(c.pattern)) {
			t.Errorf("%s: error %q does not say %q and the name", c.pattern, err, c.want)
		}
	}
	if _, err := ReadCorpus(context.Background(), nil); err == nil {
		t.Error("no patterns at all are taken")
	}
}

// TestReadCorpusLimit catches text of any size that a small file unpacks to, memory taken before that is noticed, and a limit
// that text of exactly its size does not pass.
func TestReadCorpusLimit(t *testing.T) {
	const bytesMax = 1 << 20
	long := strings.Repeat("0123456789abcde\n", 16<<20/16)
	fits := long[:bytesMax]
	half := long[:bytesMax/2]
	line := func(s string) string { return `{"text":` + strconv.Quote(s) + "}\n" }
	many := make([]dictionaryRow, 10_000)
	for i := range many {
		many[i].Text = long[:4096]
	}
	files := map[string]string{
		"fits.txt": fits, "fits.txt.gz": gz(t, fits), "fits.txt.zst": zst(t, fits), "fits.parquet": parquetOf(t, textRow{1, fits[:bytesMax-100]}),
		"long.txt": long[:bytesMax+1], "long.txt.gz": gz(t, long), "long.txt.zst": zst(t, long), "long.jsonl.gz": gz(t, strings.Repeat(line(half), 100)),
		"page.parquet": parquetOf(t, textRow{1, long}), "gzip.parquet": parquetBy(t, &parquet.Gzip, 2, textRow{1, long}),
		"zstd.parquet": parquetBy(t, &parquet.Zstd, 2, textRow{1, long}), "brotli.parquet": parquetBy(t, &parquet.Brotli, 2, textRow{1, long}),
		"lz4.parquet": parquetBy(t, &parquet.Lz4Raw, 2, textRow{1, long}), "dictionary.parquet": parquetBy(t, &parquet.Snappy, 1<<20, many...), "a.txt": half, "b.txt": half,
	}
	folder := write(t, files)
	for _, c := range []struct{ patterns, want string }{
		{"fits.txt", ""}, {"fits.txt.gz", ""}, {"fits.txt.zst", ""}, {"fits.parquet", ""}, {"a.txt", ""},
		{"a.txt b.txt", "b.txt: the text is longer"}, // by the empty line between them
		{"long.txt", "longer than 1048576 bytes"}, {"long.txt.gz", "longer than"}, {"long.txt.zst", "longer than"}, {"long.jsonl.gz", "longer than"},
		{"page.parquet", "longer than"}, {"gzip.parquet", "longer than"}, {"zstd.parquet", "longer than"}, {"brotli.parquet", "longer than"}, {"lz4.parquet", "longer than"},
		{"dictionary.parquet", "longer than"},
	} {
		var patterns []string
		size := 0
		for _, name := range strings.Fields(c.patterns) {
			patterns = append(patterns, filepath.Join(folder, name))
			size += len(files[name])
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := readCorpus(context.Background(), patterns, bytesMax)
		runtime.ReadMemStats(&after)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: error %v, want %q", c.patterns, err, c.want)
		}
		// All that was taken from beginning to end: some times the limit, and what decoders hold (windows of up to 8 MiB).
		if taken := int64(after.TotalAlloc - before.TotalAlloc); taken > 4*bytesMax+3*int64(size)+16<<20 {
			t.Errorf("%s: %d bytes of memory were taken for a file of %d and a limit of %d", c.patterns, taken, size, bytesMax)
		}
	}
}

// TestCheckPage catches a page that is taken at its word.
func TestCheckPage(t *testing.T) {
	const bytesMax = 1 << 20
	page := gz(t, strings.Repeat("0", 1<<16))
	header := func(bytes, values int32) *format.PageHeader {
		h := &format.PageHeader{UncompressedPageSize: bytes}
		h.DataPageHeader.Valid, h.DataPageHeader.V.NumValues = true, values
		return h
	}
	for _, c := range []struct {
		page   string
		header *format.PageHeader
		codec  format.CompressionCodec
		want   string
	}{
		{page, header(1<<16, 100), format.Gzip, ""},
		{page, header(1<<16-1, 100), format.Gzip, "more than the 65535 bytes"},
		{page, header(1<<20+1, 0), format.Gzip, "longer than"},
		{page, header(1<<16, 1<<18), format.Gzip, "longer than"}, // indices of a dictionary: one run, and 4 bytes for each when read
		{page, header(-1, 0), format.Gzip, "damaged"},
		{page, header(1, -1), format.Gzip, "damaged"},
		{"no gzip", header(100, 1), format.Gzip, "cannot be decompressed"},
		{"no lz4", header(100, 1), format.Lz4Raw, "cannot be decompressed"}, // the library would not end
	} {
		err := checkPage([]byte(c.page), c.header, c.codec, bytesMax)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: error %v, want %q", c, err, c.want)
		}
	}
}

// TestReadParquetCodecs catches a kind of compression that pages cannot be looked through with.
func TestReadParquetCodecs(t *testing.T) {
	for _, codec := range []compress.Codec{&parquet.Uncompressed, &parquet.Snappy, &parquet.Gzip, &parquet.Zstd, &parquet.Brotli, &parquet.Lz4Raw} {
		file := parquetBy(t, codec, 2, dictionaryRow{"one"}, dictionaryRow{"two"}, dictionaryRow{""}, dictionaryRow{"one"}, dictionaryRow{""})
		plain := parquetBy(t, codec, 2, textRow{1, "one"}, textRow{2, "two"}, textRow{3, ""}, textRow{4, "one"}, textRow{5, ""})
		folder := write(t, map[string]string{"d.parquet": file, "p.parquet": plain})
		for _, name := range []string{"d.parquet", "p.parquet"} {
			if corpus, err := ReadCorpus(context.Background(), []string{filepath.Join(folder, name)}); err != nil || corpus.Text != "one\n\ntwo\n\n\n\none\n\n" {
				t.Errorf("%s, %v: %+v, %v", name, codec, corpus, err)
			}
		}
	}
}

// TestCut catches calibration and held-out text that overlap, lose a byte or break a character.
func TestCut(t *testing.T) {
	whole := &Corpus{Text: "aé日🙂b"} // 1 + 2 + 3 + 4 + 1 bytes
	for n := int64(1); n < 11; n++ {
		rest, err := whole.Cut(n, 0)
		if err != nil {
			t.Fatal(err)
		}
		first, err := whole.Cut(0, n)
		if err != nil {
			t.Fatal(err)
		}
		if first.Text+rest.Text != whole.Text || checkText(first.Text) != nil || checkText(rest.Text) != nil {
			t.Errorf("cut at %d into %q and %q", n, first.Text, rest.Text)
		}
		if len(first.Text) > int(n) || first.SHA256 != sum([]byte(first.Text)) {
			t.Errorf("the first %d bytes are %q, with the hash %s", n, first.Text, first.SHA256)
		}
	}
	if middle, err := whole.Cut(1, 5); err != nil || middle.Text != "é日" {
		t.Errorf("Cut(1, 5) = %v, %v, want é日", middle, err)
	}
	if all, err := whole.Cut(0, 1<<62); err != nil || all.Text != whole.Text {
		t.Errorf("Cut(0, 2⁶²) = %v, %v", all, err)
	}
	for _, bad := range [][2]int64{{11, 0}, {-1, 0}, {0, -1}, {1, 1}} {
		if cut, err := whole.Cut(bad[0], bad[1]); err == nil {
			t.Errorf("Cut(%d, %d) gives %q, want an error", bad[0], bad[1], cut.Text)
		}
	}
}

// What would be caught: a file named of whose text a cut left nothing, or one left out of which it left a byte.
func TestCutFiles(t *testing.T) {
	dir := t.TempDir()
	var paths []string
	for i, text := range []string{"abc", "", "de", "f"} { // "abc\n\n\n\nde\n\nf"
		paths = append(paths, filepath.Join(dir, fmt.Sprint(i)))
		if err := os.WriteFile(paths[i], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := ReadCorpus(context.Background(), paths)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		skip, limit int64
		want        string
	}{{0, 3, "0"}, {0, 7, "0"}, {0, 8, "02"}, {2, 1, "0"}, {3, 0, "23"}, {0, 4, "0"}, {2, 6, "02"}, {4, 0, "23"}, {8, 1, "2"}, {9, 0, "3"}, {8, 3, "2"}, {8, 4, "23"}, {0, 0, "023"}} {
		cut, err := whole.Cut(c.skip, c.limit)
		if err != nil {
			t.Fatal(err)
		}
		again, err := cut.Cut(0, int64(len(cut.Text))) // what a cut holds is a corpus as any
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range []*Corpus{cut, again} {
			var got string
			for _, f := range x.Files {
				got += filepath.Base(f.Path)
			}
			if got != c.want {
				t.Errorf("Cut(%d, %d) is %q of files %s, want %s", c.skip, c.limit, x.Text, got, c.want)
			}
		}
	}
}

// FuzzDocuments looks for .jsonl and .parquet data that end in a panic, or give documents that are no text. What compression does with
// damaged data is the libraries' matter.
func FuzzDocuments(f *testing.F) {
	f.Add([]byte("{\"text\":\"one\"}\n\n{\"text\":\"\\ud800\",\"text\":\"tw\\u00f6\"}"), false)
	f.Add([]byte("{\"text\":null}\n[]"), false)
	for _, codec := range []compress.Codec{&parquet.Uncompressed, &parquet.Snappy} {
		f.Add([]byte(parquetBy(f, codec, 2, textRow{1, "one"}, textRow{2, ""}, textRow{3, "two"})), true)
		f.Add([]byte(parquetBy(f, codec, 9, dictionaryRow{"one"}, dictionaryRow{"two"}, dictionaryRow{"one"})), true)
	}
	f.Fuzz(func(t *testing.T, data []byte, isParquet bool) {
		const bytesMax = 1 << 16
		size := 0
		add := func(document string) error {
			if size += len(document); size > bytesMax {
				return tooLong(bytesMax)
			}
			if !utf8.ValidString(document) || strings.ContainsRune(document, 0) {
				t.Errorf("%q is taken for text", document)
			}
			return nil
		}
		if isParquet {
			readParquet(data, bytesMax, add)
		} else {
			readLines(data, add)
		}
	})
}
