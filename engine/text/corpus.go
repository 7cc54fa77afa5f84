package text

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"surgeon/engine/internal/stop"
)

// A Corpus is one text, read from one file or several.
type Corpus struct {
	// Text is exactly the bytes of the file where there is one text file. Documents (rows of .jsonl and .parquet files, and
	// files if there are several) are joined by an empty line, "\n\n", empty documents included: so "\n\n".join(rows) in
	// other programs gives the same text.
	Text   string
	Files  []File // whose text it is, in the order read
	SHA256 string // of Text, hexadecimal

	spans [][2]int // where in Text the text of each file begins and ends
}

// A File is what a Corpus was read from, as it lies on the disk, compressed or not.
type File struct {
	Path   string
	Bytes  int64
	SHA256 string // hexadecimal
}

const betweenDocuments = "\n\n"

// textBytesMax is the most text that a corpus may have, and the most that one file may hold after decompression: a few
// kilobytes of .gz, .zst or .parquet can stand for any amount, and that must end in a sentence, not in a machine without
// memory. It is 2,000 times what 128 windows of 2048 tokens need.
const textBytesMax = 4 << 30

// ReadCorpus reads the files that patterns name: paths, or globs as filepath.Match knows them. Patterns are taken in the order
// given, the files of a glob in alphabetical order; what more than one glob matches, or a glob and a name, is read once. A file that is
// named twice would be counted twice, and so would its copy: both are refused. A name that exists is never taken for a glob.
//
//	.jsonl    one JSON object a line, its field "text"; blank lines are passed over
//	.parquet  the column "text"
//	other     text
//
// Each may be compressed, with .gz or .zst behind its name. It is an error if a file or a glob's match is missing, damaged, not
// valid UTF-8, contains NUL, if there is no text at all, or more than 4 GiB, or if ctx is done.
func ReadCorpus(ctx context.Context, patterns []string) (*Corpus, error) {
	return readCorpus(ctx, patterns, textBytesMax)
}

// readCorpus is ReadCorpus with a limit to the bytes of text. Whatever the files say, the memory it takes is a small
// multiple of that limit and of their size on the disk.
func readCorpus(ctx context.Context, patterns []string, bytesMax int64) (*Corpus, error) {
	paths, err := Expand(patterns)
	if err != nil {
		return nil, err
	}
	c := &Corpus{}
	var text strings.Builder
	documents := 0
	read := map[string]string{} // by what they hold, the paths of the files with anything in them
	for _, path := range paths {
		first, begin := documents+1, text.Len()
		file, err := readFile(ctx, path, bytesMax, func(document string) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if documents++; documents > 1 {
				text.WriteString(betweenDocuments)
			}
			if documents == first {
				begin = text.Len()
			}
			if int64(text.Len()) > bytesMax-int64(len(document)) {
				return tooLong(bytesMax)
			}
			text.WriteString(document)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if before := read[file.SHA256]; before != "" {
			return nil, fmt.Errorf("%s and %s hold the same, which would count twice; give one of them", before, path)
		}
		if file.Bytes > 0 {
			read[file.SHA256] = path
		}
		c.Files, c.spans = append(c.Files, file), append(c.spans, [2]int{begin, text.Len()})
	}
	c.Text = text.String()
	if strings.TrimSpace(c.Text) == "" {
		return nil, fmt.Errorf("there is no text in %s", strings.Join(paths, ", "))
	}
	c.SHA256 = sum([]byte(c.Text))
	return c, nil
}

// Cut returns the corpus without the first `skip` bytes of its text, and of what follows at most `limit` bytes; a limit of 0 is
// none. Its files are those of which something is left. Both cuts are moved back to the beginning of the character they fall into, so that
// Cut(0, n) and Cut(n, 0) share the text out without losing or doubling a character.
func (c *Corpus) Cut(skip, limit int64) (*Corpus, error) {
	size := int64(len(c.Text))
	if skip < 0 || limit < 0 {
		return nil, fmt.Errorf("%d bytes to skip and a limit of %d bytes were asked for; neither can be negative", skip, limit)
	}
	if skip >= size {
		return nil, fmt.Errorf("the first %d bytes were to be skipped, but the text has only %d; skip less or give more text", skip, size)
	}
	end := size
	if limit > 0 && limit < size-skip {
		end = skip + limit
	}
	from, to := boundary(c.Text, int(skip)), boundary(c.Text, int(end))
	cut := &Corpus{Text: c.Text[from:to]}
	if strings.TrimSpace(cut.Text) == "" {
		return nil, fmt.Errorf("there is no text in bytes %d to %d of %d", skip, end, size)
	}
	cut.SHA256 = sum([]byte(cut.Text))
	for i, f := range c.Files {
		if begin, end := max(c.spans[i][0], from), min(c.spans[i][1], to); begin < end {
			cut.Files, cut.spans = append(cut.Files, f), append(cut.spans, [2]int{begin - from, end - from})
		}
	}
	return cut, nil
}

// boundary moves at back to the beginning of a character.
func boundary(s string, at int) int {
	for at > 0 && at < len(s) && !utf8.RuneStart(s[at]) {
		at--
	}
	return at
}

// Expand turns patterns into paths of files that exist, as ReadCorpus takes them.
func Expand(patterns []string) ([]string, error) {
	if len(patterns) == 0 {
		return nil, errors.New("no file is named")
	}
	var paths []string
	var found []os.FileInfo
	var named []bool // and not matched by a glob
	for _, pattern := range patterns {
		matches, name := []string{pattern}, true
		if _, err := os.Lstat(pattern); err != nil && strings.ContainsAny(pattern, `*?[`) {
			name = false
			if matches, err = filepath.Glob(pattern); err != nil {
				return nil, fmt.Errorf("pattern %q: %w", pattern, err)
			}
			if len(matches) == 0 {
				return nil, fmt.Errorf("pattern %q matches no file", pattern)
			}
		}
	match:
		for _, path := range matches {
			info, err := os.Stat(path)
			if err != nil {
				return nil, err
			}
			if !info.Mode().IsRegular() {
				return nil, fmt.Errorf("%s is not a regular file; name the files in a directory with a glob", path)
			}
			for i, other := range found {
				if !os.SameFile(info, other) {
					continue
				}
				if name && named[i] {
					return nil, fmt.Errorf("%s and %s are the same file; give it once", paths[i], path)
				}
				named[i] = named[i] || name
				continue match
			}
			found, paths, named = append(found, info), append(paths, path), append(named, name)
		}
	}
	return paths, nil
}

// tooLong refuses a text of more than bytesMax bytes.
func tooLong(bytesMax int64) error {
	return fmt.Errorf("the text is longer than %d bytes, the most that is read; give fewer files or a part of the text", bytesMax)
}

// ReadFile is the content of a file, decompressed where its name ends in .gz or .zst, and what it is as it lies on the disk.
// More than 4 GiB, or damaged compressed data, is an error, as is a ctx that is done.
func ReadFile(ctx context.Context, path string) ([]byte, File, error) {
	data, file, err := unpackFile(ctx, path, textBytesMax)
	if _, named := errors.AsType[*fs.PathError](err); err != nil && !named {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return data, file, err
}

// unpackFile is ReadFile with a limit to the bytes of text.
func unpackFile(ctx context.Context, path string, bytesMax int64) ([]byte, File, error) {
	if info, err := os.Stat(path); err == nil && !isPacked(path) && info.Size() > bytesMax {
		return nil, File{}, tooLong(bytesMax)
	}
	data, file, err := load(ctx, path)
	if err != nil {
		return nil, File{}, err
	}
	switch strings.ToLower(filepath.Ext(path)) {
	case ".gz":
		data, err = gunzip(ctx, data, bytesMax)
	case ".zst":
		data, err = unzstd(ctx, data, bytesMax)
	}
	return data, file, err
}

// load is the content of a file as it lies on the disk.
func load(ctx context.Context, path string) ([]byte, File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, File{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, File{}, err
	}
	data, hash := bytes.NewBuffer(make([]byte, 0, info.Size())), sha256.New()
	n, err := io.Copy(io.MultiWriter(hash, data), stop.Reader(ctx, f))
	return data.Bytes(), File{Path: path, Bytes: n, SHA256: hex.EncodeToString(hash.Sum(nil))}, err
}

// WithoutPacking is a file's name without the ending that says how it is compressed.
func WithoutPacking(path string) string {
	if ext := strings.ToLower(filepath.Ext(path)); ext == ".gz" || ext == ".zst" {
		return path[:len(path)-len(ext)]
	}
	return path
}

// readFile hands the documents of a file to add, in order.
func readFile(ctx context.Context, path string, bytesMax int64, add func(document string) error) (File, error) {
	data, file, err := unpackFile(ctx, path, bytesMax)
	if err != nil {
		return File{}, err
	}
	switch strings.ToLower(filepath.Ext(WithoutPacking(path))) {
	case ".jsonl":
		return file, readLines(data, add)
	case ".parquet":
		return file, readParquet(data, bytesMax, add)
	}
	text := string(data)
	if err := checkText(text); err != nil {
		return File{}, err
	}
	return file, add(text)
}

// isPacked tells from a file's path that the text in it can be longer than the file.
func isPacked(path string) bool {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".gz", ".zst", ".parquet":
		return true
	}
	return false
}

// unpack decompresses data: once to see how long the text is and that it is within bytesMax, and again into memory of just
// that size. Growing memory as the text comes would take more than twice as much, of a text that is refused too.
func unpack(ctx context.Context, kind string, bytesMax int64, open func() (io.ReadCloser, error)) ([]byte, error) {
	read := func(to io.Writer) (int64, error) {
		in, err := open()
		if err != nil {
			return 0, fmt.Errorf("the file is no %s data or is cut off: %w", kind, err)
		}
		defer in.Close()
		n, err := io.Copy(to, stop.Reader(ctx, io.LimitReader(in, bytesMax+1)))
		if stop.Asked(err) {
			return n, err
		}
		if err != nil {
			return n, fmt.Errorf("the %s data are damaged or cut off after %d bytes of text: %w", kind, n, err)
		}
		return n, nil
	}
	n, err := read(io.Discard)
	if err != nil {
		return nil, err
	}
	if n > bytesMax {
		return nil, tooLong(bytesMax)
	}
	out := bytes.NewBuffer(make([]byte, 0, n))
	if _, err := read(struct{ io.Writer }{out}); err != nil { // without Buffer.ReadFrom, which wants room for more
		return nil, err
	}
	return out.Bytes(), nil
}

func gunzip(ctx context.Context, data []byte, bytesMax int64) ([]byte, error) {
	return unpack(ctx, "gzip", bytesMax, func() (io.ReadCloser, error) { return gzip.NewReader(bytes.NewReader(data)) })
}

func unzstd(ctx context.Context, data []byte, bytesMax int64) ([]byte, error) {
	return unpack(ctx, "zstandard", bytesMax, func() (io.ReadCloser, error) {
		in, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return in.IOReadCloser(), nil
	})
}

// checkText finds what shows that a file is no text.
func checkText(s string) error {
	if at := strings.IndexByte(s, 0); at >= 0 {
		return fmt.Errorf("byte %d (line %d) is NUL; this is no text file", at, lineOf(s, at))
	}
	for at := 0; at < len(s); {
		if s[at] < utf8.RuneSelf {
			at++
			continue
		}
		c, width := utf8.DecodeRuneInString(s[at:])
		if c == utf8.RuneError && width == 1 {
			return fmt.Errorf("byte %d (line %d), 0x%02x, is not valid UTF-8; convert the file to UTF-8", at, lineOf(s, at), s[at])
		}
		at += width
	}
	return nil
}

func lineOf(s string, at int) int { return 1 + strings.Count(s[:at], "\n") }

func sum(data []byte) string {
	hash := sha256.Sum256(data)
	return hex.EncodeToString(hash[:])
}
