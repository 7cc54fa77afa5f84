// Package checkpoint reads trained models and writes them again: Hugging Face directories (config.json with one or several
// safetensors files) and GGUF files. It knows no device.
//
//	c, err := checkpoint.Open(path)      // reads headers and checks tensors and config.json against each other
//	for _, l := range c.Config.Linears() // what pruning touches, with names and shapes
//	c.Read(l.WeightName(), w)            // decoded to float32, refused if a value is not finite
//	checkpoint.Write(dir, c, options)    // a complete Hugging Face directory, or an error and nothing
//
// # Conventions
//
// Tensors have the names and the row-major shapes [R, C] of Hugging Face transformers, whatever the file: GGUF names are
// translated, and the rows of q and k, which llama.cpp stores in another order for the Llama architecture, are put back.
//
// Config holds every option of an architecture resolved to a value. What differs between families stands in one table,
// families.
package checkpoint

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"surgeon/engine/checkpoint/gguf"
	"surgeon/engine/checkpoint/internal/mapped"
	"surgeon/engine/checkpoint/safetensors"
	"surgeon/engine/internal/stop"
)

// Format of a model on disk.
type Format string

const (
	HuggingFace Format = "Hugging Face directory"
	GGUF        Format = "GGUF file"
)

// Checkpoint is an open model. Its methods may be called from several goroutines, except Close. The files are
// read through memory maps: after one of them has become shorter, every look at its tensors is a Lost.
type Checkpoint struct {
	Config Config
	Path   string
	Format Format

	tensors map[string]stored // by the names Config gives them, and what is carried along by its own name
	names   []string          // of the model's tensors, in the order of Config
	order   []string          // all keys of tensors, as they lie in the files
	dtype   safetensors.DType // see DType

	configText []byte        // config.json; for GGUF what it would be
	files      []string      // weight files
	infos      []os.FileInfo // of them, as they were opened
	open       []io.Closer
	gguf       *gguf.File
}

// Lost is the error of what looks at a file's bytes that are gone since it was opened.
type Lost = mapped.Lost

// stored is one tensor as it lies in a file.
type stored struct {
	name   string // in the file, or what Write calls it
	shape  []int
	dtype  safetensors.DType           // "" for a GGUF encoding that safetensors has not
	coding gguf.Type                   // where dtype is ""
	data   []byte                      // for a look under guard only
	guard  func(do func() error) error // of the file that data are of

	// carried: not part of the model, but kept when it is written: a buffer, or the copy of a tied head.
	carried bool

	// heads > 0: the rows of each of so many heads lie in llama.cpp's order, row 2i+s where Hugging Face has row s·d/2 + i
	// (i < d/2; s = 0, 1 are the two halves that a rotation mixes).
	heads int
}

// Open opens a directory with config.json and model.safetensors, or with model.safetensors.index.json and the files it
// names (where both are there the single file counts), or a GGUF file. Errors say what is not supported, and name the
// tensors that are missing, left over, or shaped differently from what the configuration says.
func Open(path string) (*Checkpoint, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("opening model: %w; a Hugging Face directory or a GGUF file on this machine is expected, nothing is downloaded", err)
	}
	if err != nil {
		return nil, fmt.Errorf("opening model: %w", err)
	}
	c := &Checkpoint{Path: path, tensors: map[string]stored{}}
	switch {
	case info.IsDir():
		err = c.openDirectory()
	case filepath.Ext(path) == ".safetensors":
		err = errors.New("a model is more than its weights: give the directory that holds this file and config.json")
	default:
		err = c.openGGUF()
	}
	if err == nil {
		err = c.remember()
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("opening model %s: %w", path, err)
	}
	return c, nil
}

// Close unmaps the files.
func (c *Checkpoint) Close() error {
	var errs []error
	for _, f := range c.open {
		errs = append(errs, f.Close())
	}
	c.open, c.tensors, c.gguf = nil, nil, nil
	return errors.Join(errs...)
}

// remember takes note of what the weight files are.
func (c *Checkpoint) remember() error {
	for _, path := range c.files {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		c.infos = append(c.infos, info)
	}
	return nil
}

// Unchanged is an error where a weight file was written to since it was opened: what is read from then on is not what was
// hashed and loaded. A file that was replaced by another one of its name, or removed, is still there for who has it open.
func (c *Checkpoint) Unchanged() error {
	for i, path := range c.files {
		was := c.infos[i]
		is, err := os.Stat(path)
		if err == nil && os.SameFile(was, is) && (was.Size() != is.Size() || !was.ModTime().Equal(is.ModTime())) {
			return fmt.Errorf("%s was changed while it was read; put back what it was, and give the same command again", path)
		}
	}
	return nil
}

// Bytes is the size of the weight files.
func (c *Checkpoint) Bytes() int64 {
	var n int64
	for _, path := range c.files {
		if info, err := os.Stat(path); err == nil {
			n += info.Size()
		}
	}
	return n
}

// Names lists the model's tensors: embedding, blocks, final norm, head. Buffers and the copy of a tied head are not among them.
func (c *Checkpoint) Names() []string { return slices.Clone(c.names) }

// Shape of a tensor, nil where the model has none of this name.
func (c *Checkpoint) Shape(name string) []int { return slices.Clone(c.tensors[name].shape) }

// DType is the type most of the model's numbers are stored as; F32 where any of them is quantised.
func (c *Checkpoint) DType() safetensors.DType { return c.dtype }

func (c *Checkpoint) dominantType() safetensors.DType {
	count := map[safetensors.DType]int{}
	best := safetensors.F32
	for _, name := range c.names {
		t := c.tensors[name]
		if t.dtype == "" {
			return safetensors.F32
		}
		if count[t.dtype] += elements(t.shape); count[t.dtype] > count[best] {
			best = t.dtype
		}
	}
	return best
}

// Read decodes a tensor into dst, which has as many elements as its shape says. A NaN or Inf is an error that names the
// tensor and the place of the first one; dst then holds no usable numbers. F64 is rounded to the nearest float32.
func (c *Checkpoint) Read(name string, dst []float32) error {
	t, ok := c.tensors[name]
	if !ok {
		return fmt.Errorf("%s has no tensor %q", c.Path, name)
	}
	if n := elements(t.shape); n != len(dst) {
		return fmt.Errorf("%s: tensor %q of shape %v has %d elements and there is room for %d", c.Path, name, t.shape, n, len(dst))
	}
	if t.dtype != "" && !readable(t.dtype) {
		return fmt.Errorf("%s: tensor %q is stored as %s, which is not read as numbers", c.Path, name, t.dtype)
	}
	i, err := t.decodeAll(dst)
	if err != nil {
		return err
	}
	if i >= 0 {
		return fmt.Errorf("%s: tensor %q holds %v at index %d (shape %v); a weight that is not finite spoils the whole model, take an intact copy", c.Path, name, dst[i], i, t.shape)
	}
	return nil
}

// CheckFinite decodes every tensor and refuses NaN and Inf, as Read does. Between tensors it looks at ctx.
func (c *Checkpoint) CheckFinite(ctx context.Context) error {
	var values []float32
	for _, name := range c.names {
		if err := ctx.Err(); err != nil {
			return err
		}
		t := c.tensors[name]
		if t.dtype != "" && !readable(t.dtype) {
			continue // carried over as it is
		}
		n := elements(t.shape)
		values = slices.Grow(values[:0], n)
		if err := c.Read(name, values[:n]); err != nil {
			return err
		}
	}
	return nil
}

// Raw calls look with a tensor's type and bytes as safetensors would store them, for copying without conversion, and returns its
// error. The bytes are read-only, valid until look returns, and not for goroutines other than workers of parallel.For. ok is
// false where the tensor is quantised or there is none of this name.
func (c *Checkpoint) Raw(name string, look func(t safetensors.DType, data []byte) error) (ok bool, err error) {
	s, ok := c.tensors[name]
	if !ok || s.dtype == "" {
		return false, nil
	}
	return true, s.guard(func() error {
		if s.heads == 0 {
			return look(s.dtype, s.data)
		}
		rows, size := s.rows()
		data := make([]byte, 0, len(s.data))
		for r := range rows {
			from := s.row(r) * size
			data = append(data, s.data[from:from+size]...)
		}
		return look(s.dtype, data)
	})
}

// Hash is the SHA-256, in hex, over the lengths and contents of config.json and the weight files; where the model lies and what
// its files are called does not enter. It reads everything, until ctx is done.
func (c *Checkpoint) Hash(ctx context.Context) (string, error) {
	h := sha256.New()
	if c.Format == HuggingFace {
		fmt.Fprintf(h, "%d\n", len(c.configText))
		h.Write(c.configText)
	}
	for _, path := range c.files {
		if err := hashFile(ctx, h, path); err != nil {
			return "", fmt.Errorf("hashing model: %w", err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func hashFile(ctx context.Context, h io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	fmt.Fprintf(h, "%d\n", info.Size())
	n, err := io.Copy(h, stop.Reader(ctx, f))
	if err == nil && n < info.Size() {
		err = &Lost{Path: path, Was: info.Size(), Is: n}
	}
	return err
}

// Vocabulary is the tokenizer inside a GGUF file.
func (c *Checkpoint) Vocabulary() (gguf.Vocabulary, error) {
	if c.gguf == nil {
		return gguf.Vocabulary{}, fmt.Errorf("%s is a %s; its tokenizer is the file tokenizer.json", c.Path, c.Format)
	}
	return c.gguf.Vocabulary()
}

// TokenizerJSON is the content of a directory's tokenizer.json.
func (c *Checkpoint) TokenizerJSON() ([]byte, error) {
	if c.Format != HuggingFace {
		return nil, fmt.Errorf("%s is a %s; its tokenizer is inside the file", c.Path, c.Format)
	}
	text, err := os.ReadFile(filepath.Join(c.Path, "tokenizer.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s has no tokenizer.json; save the tokenizer with transformers' save_pretrained (a fast tokenizer) beside the model: %w", c.Path, err)
	}
	return text, err
}

// rows splits a tensor into units that lie together: matrices into rows, vectors into one row, or into elements where a
// vector has rows to be reordered. size is the bytes of one.
func (t stored) rows() (n, size int) {
	n = 1
	if len(t.shape) == 2 || t.heads > 0 {
		n = t.shape[0]
	}
	if n == 0 {
		return 0, 0
	}
	return n, len(t.data) / n
}

// row is where row r of the Hugging Face order lies in the file.
func (t stored) row(r int) int {
	if t.heads == 0 {
		return r
	}
	d := t.shape[0] / t.heads
	head, r := r-r%d, r%d
	return head + r%(d/2)*2 + r/(d/2)
}

// decodeRows decodes rows from up to to, under guard. Only whole tensors whose dtype is readable come here.
func (t stored) decodeRows(from, to int, dst []float32) {
	_, size := t.rows()
	n := len(dst) / max(1, to-from)
	if t.heads == 0 { // one piece
		t.decode(t.data[from*size:to*size], dst)
		return
	}
	for r := from; r < to; r++ {
		at := t.row(r) * size
		t.decode(t.data[at:at+size], dst[(r-from)*n:(r-from+1)*n])
	}
}

func (t stored) decode(src []byte, dst []float32) {
	if t.dtype != "" {
		decode(t.dtype, src, dst)
		return
	}
	if err := gguf.Decode(t.coding, src, dst); err != nil {
		panic(err) // the lengths were checked when the file was opened
	}
}

// decodeAll decodes the tensor on all processors and returns the index of the first value that is not finite, or −1.
func (t stored) decodeAll(dst []float32) (wrong int, err error) {
	rows, _ := t.rows()
	if rows == 0 {
		return -1, nil
	}
	cols := len(dst) / rows
	err = t.guard(func() error {
		wrong = firstWrong(rows, cols, func(from, to int) int {
			piece := dst[from*cols : to*cols]
			t.decodeRows(from, to, piece)
			if i := notFinite(piece); i >= 0 {
				return from*cols + i
			}
			return -1
		})
		return nil
	})
	return wrong, err
}

// equal tells whether two tensors, maybe of two files, are stored as the same bytes.
func (t stored) equal(other stored) (equal bool, err error) {
	err = t.guard(func() error {
		return other.guard(func() error {
			equal = t.dtype == other.dtype && bytes.Equal(t.data, other.data)
			return nil
		})
	})
	return equal, err
}

func elements(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// agree checks that the tensors in have, by the names Config gives them, are those of the architecture, and takes them over.
func (c *Checkpoint) agree(have map[string]stored) error {
	var missing, misshapen, extra, carried []string
	for _, want := range c.Config.tensors() {
		t, ok := have[want.name]
		switch {
		case !ok:
			missing = append(missing, want.name)
		case !slices.Equal(t.shape, want.shape):
			misshapen = append(misshapen, fmt.Sprintf("%s is %v and should be %v", want.name, t.shape, want.shape))
		case t.dtype != "" && !readable(t.dtype):
			return fmt.Errorf("tensor %q is stored as %s; F64, F32, F16 and BF16 can be read", want.name, t.dtype)
		}
		c.tensors[want.name] = t
		c.names = append(c.names, want.name)
	}
	for _, key := range c.order {
		if _, ok := c.tensors[key]; ok {
			continue
		}
		switch {
		case c.Config.TieHead && key == c.Config.Names.Head+".weight":
			head, embedding := have[key], have[c.Config.Names.Embedding+".weight"]
			if !slices.Equal(head.shape, embedding.shape) {
				misshapen = append(misshapen, fmt.Sprintf("%s is %v and the embedding it is tied to is %v", key, head.shape, embedding.shape))
			} else if equal, err := head.equal(embedding); err != nil {
				return err
			} else if !equal {
				return fmt.Errorf("tie_word_embeddings says that %s is the embedding, but the file holds other numbers for it; set tie_word_embeddings to false if they are meant, or remove the tensor", key)
			}
			carried = append(carried, key)
		case isBuffer(key):
			carried = append(carried, key)
		default:
			extra = append(extra, key)
		}
	}
	if len(missing)+len(misshapen)+len(extra) == 0 {
		for _, key := range carried {
			t := have[key]
			t.carried = true
			c.tensors[key] = t
		}
		c.dtype = c.dominantType()
		return nil
	}
	var parts []string
	for _, p := range []struct {
		what  string
		names []string
	}{{"missing", missing}, {"of another shape", misshapen}, {"not part of the architecture", extra}} {
		if len(p.names) > 0 {
			parts = append(parts, fmt.Sprintf("%d %s (%s)", len(p.names), p.what, some(p.names)))
		}
	}
	return fmt.Errorf("the tensors do not fit the %s configuration: %s; the configuration and the weights belong to different models or the files are incomplete", c.Config.Family, strings.Join(parts, ", "))
}

// some lists a handful of names and counts the rest.
func some(names []string) string {
	const handful = 5
	if len(names) <= handful {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:handful], ", "), len(names)-handful)
}

// isBuffer recognises tensors that older versions of transformers saved although they are computed, not trained.
func isBuffer(name string) bool {
	for _, suffix := range []string{".rotary_emb.inv_freq", ".rotary_emb.cos_cached", ".rotary_emb.sin_cached", ".masked_bias", ".position_ids", "decoder.version"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}
