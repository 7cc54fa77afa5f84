package checkpoint

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"surgeon/engine/checkpoint/safetensors"
)

// ShardBytesDefault is the largest weight file that Write makes, the bound transformers used for years.
const ShardBytesDefault = 5_000_000_000

// WriteOptions says what differs from the source.
type WriteOptions struct {
	// DType of the written tensors: F64, F32, F16 or BF16, rounded to nearest even. Empty keeps every tensor's own type;
	// of a GGUF file with quantised tensors all become F32, since safetensors has no such encodings.
	DType safetensors.DType

	// Changed gives the new values of a tensor, row-major, or false for one that stays as it is; an error ends the writing.
	// Nil changes nothing. It may be called twice for the embedding, where the source holds a copy of it for the tied head.
	Changed func(name string) (values []float32, changed bool, err error)

	// Files are written beside the weights: tokenizer.json, README.md, report.json. They stand before files of the same name
	// in the source.
	Files map[string][]byte

	// Force replaces an existing model directory.
	Force bool

	// ShardBytes bounds the size of a weight file's tensors; 0 = ShardBytesDefault. A larger tensor has a file of its own.
	ShardBytes int64

	fault func(io.Writer) io.Writer // tests: stands between this package and every file
}

// OutputDType is the type Write stores a tensor as under o, for Round.
func (c *Checkpoint) OutputDType(name string, o WriteOptions) safetensors.DType {
	t := c.tensors[name]
	switch {
	case t.carried:
		return t.dtype
	case o.DType != "":
		return o.DType
	case t.dtype == "" || c.Format == GGUF && c.dtype == safetensors.F32:
		return safetensors.F32
	}
	return t.dtype
}

// WrittenBytes is what the tensors take that Write writes under o.
func (c *Checkpoint) WrittenBytes(o WriteOptions) (bytes int64) {
	for _, e := range c.written(o) {
		bytes += int64(elements(e.Shape)) * int64(e.DType.Size())
	}
	return bytes
}

// written are the tensors that Write writes under o, in the order of the source, without what writes them.
func (c *Checkpoint) written(o WriteOptions) (all []writtenTensor) {
	for _, key := range c.order {
		t := c.tensors[key]
		from := key
		if t.carried && key == c.Config.Names.Head+".weight" {
			from = c.Config.Names.Embedding + ".weight" // the copy of a tied head stays equal to the embedding
		}
		all = append(all, writtenTensor{safetensors.Entry{Name: t.name, Shape: t.shape, DType: c.OutputDType(from, o)}, from})
	}
	return all
}

// writtenTensor is a tensor that is written, with the values of the one that is called from.
type writtenTensor struct {
	safetensors.Entry
	from string
}

// Write makes dir a Hugging Face directory with the model: config.json, the weights with what Changed changes, Files, and
// the other files of a source directory (tokenizer, generation_config.json, licence, …). Not carried over are weights in
// other files and formats (*.bin, *.pth, *.gguf, …), which would contradict the new ones, subdirectories, and the text
// metadata of safetensors files. config.json stays byte for byte, but for the value of dtype or torch_dtype where DType differs from
// it; for a GGUF source it is built from the metadata.
//
// Everything is written to a new directory beside dir, synced to disk and then renamed, so dir is complete or not there. An
// existing dir is an error; with Force it is renamed away, replaced and then removed, if it is empty or holds a config.json.
// The directory of the source itself is never replaced. After an error dir is what it was, and nothing is left beside it.
// Directories above dir that are missing are made, and stay. What a process that was killed in writing dir left beside it is
// removed.
//
// Errors: values that are not finite or not any more in the output type (they name the tensor), a Changed of the wrong
// length, one of its errors, a source that was changed meanwhile, a disk that is full, names in Files that are not plain file
// names or belong to the model.
func Write(dir string, src *Checkpoint, o WriteOptions) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing model %s: %w", dir, err)
		}
	}()
	if o.DType != "" && !readable(o.DType) {
		return fmt.Errorf("output type %q is not supported; F64, F32, F16 and BF16 are", o.DType)
	}
	for name := range o.Files {
		if name != filepath.Base(name) || name == "." || name == ".." || name == configName || isWeights(name) {
			return fmt.Errorf("%q cannot be one of the extra files: a plain name is expected that is not %s or a weight file", name, configName)
		}
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if err := MayWrite(dir, src.Path, o.Force); err != nil {
		return err
	}
	if err := makeParent(dir); err != nil {
		return err
	}
	RemoveLeft(dir)
	temporary, err := sibling(dir, "new")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(temporary))
		}
	}()
	if held, err := hold(temporary); err == nil { // on a file system without locks nobody removes it either
		defer held.Close()
	}
	w := &writer{dir: temporary, src: src, options: o}
	if err := w.writeAll(); err != nil {
		return err
	}
	if err := src.Unchanged(); err != nil { // while it was copied
		return err
	}
	if err := syncDir(temporary); err != nil {
		return err
	}
	return replace(dir, temporary, o.Force)
}

// writer fills one directory.
type writer struct {
	dir     string
	src     *Checkpoint
	options WriteOptions
}

func (w *writer) writeAll() error {
	if err := w.config(); err != nil {
		return err
	}
	if err := w.weights(); err != nil {
		return err
	}
	for name, content := range w.options.Files {
		if err := w.bytes(name, content); err != nil {
			return err
		}
	}
	return w.carry()
}

// file creates one file, has it written through a buffer, and syncs it.
func (w *writer) file(name string, write func(io.Writer) error) (err error) {
	f, err := os.OpenFile(filepath.Join(w.dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
	}()
	var to io.Writer = f
	if w.options.fault != nil {
		to = w.options.fault(f)
	}
	b := bufio.NewWriterSize(to, 1<<20)
	if err := write(b); err != nil {
		return err
	}
	if err := b.Flush(); err != nil {
		return err
	}
	return f.Sync()
}

func (w *writer) bytes(name string, content []byte) error {
	return w.file(name, func(to io.Writer) error { _, err := to.Write(content); return err })
}

func (w *writer) config() error {
	text := w.src.configText
	t := w.options.DType
	if t == "" && w.src.Format == GGUF {
		t = w.src.DType()
	}
	if t != "" {
		var err error
		if text, err = setDType(text, t); err != nil {
			return err
		}
	}
	return w.bytes(configName, text)
}

// weights writes the tensors in the order of the source, in as many files as needed.
func (w *writer) weights() error {
	limit := w.options.ShardBytes
	if limit == 0 {
		limit = ShardBytesDefault
	}
	var shards [][]safetensors.Entry
	var size, total int64
	for _, e := range w.src.written(w.options) {
		e.Write = func(to io.Writer) error { return w.tensor(to, e.from, e.DType) }
		length := int64(elements(e.Shape)) * int64(e.DType.Size())
		if len(shards) == 0 || size > 0 && size+length > limit {
			shards, size = append(shards, nil), 0
		}
		size, total = size+length, total+length
		shards[len(shards)-1] = append(shards[len(shards)-1], e.Entry)
	}
	x := index{Metadata: map[string]any{"total_size": total}, WeightMap: map[string]string{}}
	for i, entries := range shards {
		name := singleName
		if len(shards) > 1 {
			name = fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(shards))
		}
		for _, e := range entries {
			x.WeightMap[e.Name] = name
		}
		// Larger elements first keeps every tensor aligned to its element.
		slices.SortStableFunc(entries, func(a, b safetensors.Entry) int { return b.DType.Size() - a.DType.Size() })
		// Without this entry transformers refuses the file.
		metadata := map[string]string{"format": "pt"}
		if err := w.file(name, func(to io.Writer) error { return safetensors.Write(to, entries, metadata) }); err != nil {
			return err
		}
	}
	if len(shards) == 1 {
		return nil
	}
	text, err := json.MarshalIndent(x, "", "  ")
	if err != nil {
		return err
	}
	return w.bytes(indexName, append(text, '\n'))
}

// tensor writes one tensor as type t: new values, or the stored ones, copied where the type stays and converted otherwise.
func (w *writer) tensor(to io.Writer, name string, t safetensors.DType) error {
	s := w.src.tensors[name]
	if !s.carried && w.options.Changed != nil {
		values, changed, err := w.options.Changed(name)
		if err != nil {
			return err
		}
		if changed {
			if n := elements(s.shape); len(values) != n {
				return fmt.Errorf("%d new values for the shape %v, which has %d", len(values), s.shape, n)
			}
			return writeValues(to, t, values, 0)
		}
	}
	if s.dtype == t {
		_, err := w.src.Raw(name, func(_ safetensors.DType, data []byte) error {
			_, err := to.Write(data)
			return err
		})
		return err
	}
	// In pieces of whole rows, so that an embedding of gigabytes is not held a second time.
	const piece = 1 << 20
	rows, _ := s.rows()
	if rows == 0 {
		return nil
	}
	cols := elements(s.shape) / rows
	step := max(1, piece/max(1, cols))
	values := make([]float32, min(step, rows)*cols)
	for from := 0; from < rows; from += step {
		until := min(from+step, rows)
		v := values[:(until-from)*cols]
		err := s.guard(func() error {
			s.decodeRows(from, until, v)
			return nil
		})
		if err != nil {
			return err
		}
		if err := writeValues(to, t, v, from*cols); err != nil {
			return err
		}
	}
	return nil
}

// writeValues writes values as type t; start is the index of the first in its tensor, for errors.
func writeValues(to io.Writer, t safetensors.DType, values []float32, start int) error {
	const most = 1 << 20
	size := t.Size()
	buffer := make([]byte, min(most, len(values))*size)
	for at := 0; at < len(values); at += most {
		piece := values[at:min(at+most, len(values))]
		wrong := firstWrong(len(piece), 1, func(from, to int) int {
			if i := encode(t, buffer[from*size:to*size], piece[from:to]); i >= 0 {
				return from + i
			}
			return -1
		})
		if wrong >= 0 {
			return outOfRange(piece[wrong], start+at+wrong, t)
		}
		if _, err := to.Write(buffer[:len(piece)*size]); err != nil {
			return err
		}
	}
	return nil
}

// MayCarry refuses a source directory with a file that Write would copy and that cannot be read, before any work is done;
// files are the names of WriteOptions.Files, which stand before those of the source.
func (c *Checkpoint) MayCarry(files ...string) error {
	names, err := c.carried(func(name string) bool { return slices.Contains(files, name) })
	if err != nil {
		return err
	}
	for _, name := range names {
		f, err := os.Open(filepath.Join(c.Path, name))
		if err != nil {
			return cannotCarry(name, err)
		}
		f.Close()
	}
	return nil
}

// carried are the names of the files that are copied from a source directory: those that are not weights, nor given.
func (c *Checkpoint) carried(given func(name string) bool) ([]string, error) {
	if c.Format != HuggingFace {
		return nil, nil
	}
	list, err := os.ReadDir(c.Path)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range list {
		name := entry.Name()
		if given(name) || name == configName || isWeights(name) {
			continue
		}
		info, err := os.Stat(filepath.Join(c.Path, name)) // follows links: caches of model hubs are made of them
		if err != nil {
			return nil, cannotCarry(name, err)
		}
		if info.Mode().IsRegular() {
			names = append(names, name)
		}
	}
	return names, nil
}

func cannotCarry(name string, err error) error {
	return fmt.Errorf("%s is to be carried over beside the weights and cannot be read: %w; put it right, or take it out of the directory of the model", name, err)
}

// carry copies the files of a source directory that are neither written by now nor weights.
func (w *writer) carry() error {
	names, err := w.src.carried(func(name string) bool { _, ok := w.options.Files[name]; return ok })
	if err != nil {
		return err
	}
	for _, name := range names {
		err := w.file(name, func(to io.Writer) error {
			f, err := os.Open(filepath.Join(w.src.Path, name))
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(to, f)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// isWeights recognises files that hold the weights, in whatever format, or say in which file they are.
func isWeights(name string) bool {
	name = strings.TrimSuffix(name, ".index.json")
	switch filepath.Ext(name) {
	case ".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf":
		return true
	}
	return false
}
