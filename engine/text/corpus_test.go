package text

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"
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

func parquetOf[T any](t *testing.T, rows ...T) string {
	var out bytes.Buffer
	w := parquet.NewGenericWriter[T](&out, parquet.MaxRowsPerRowGroup(2), parquet.Compression(&parquet.Snappy))
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
		{"?.txt* a.txt b.md ./b.md", "first\r\nline\n\n\nthird\n\nfourth\n\nsecond", 4},
	} {
		var patterns []string
		for _, pattern := range strings.Fields(c.patterns) {
			patterns = append(patterns, folder+"/"+pattern)
		}
		corpus, err := ReadCorpus(patterns)
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
	corpus, err := ReadCorpus([]string{filepath.Join(folder, "c.txt.gz")})
	if err != nil {
		t.Fatal(err)
	}
	data := gz(t, "third")
	hash := sha256.Sum256([]byte(data))
	if want := (File{filepath.Join(folder, "c.txt.gz"), int64(len(data)), hex.EncodeToString(hash[:])}); corpus.Files[0] != want {
		t.Errorf("file %+v, want %+v", corpus.Files[0], want)
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
	} {
		_, err := ReadCorpus([]string{filepath.Join(folder, c.pattern)})
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
	if _, err := ReadCorpus(nil); err == nil {
		t.Error("no patterns at all are taken")
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
