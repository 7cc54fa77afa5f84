package safetensors

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"unicode/utf8"
)

// Entry is one array to be written.
type Entry struct {
	Name  string
	DType DType
	Shape []int
	// Write sends exactly the array's bytes, little endian and row-major, to w. It may keep nothing: arrays are written
	// one after the other, so that a model larger than memory can be written.
	Write func(w io.Writer) error
}

// Write writes a file: the header, padded so that the data part begins at a multiple of 8 bytes, then the entries in the
// given order. Whoever wants every array aligned to its element size lists large types first. Errors name the entry: a
// name that occurs twice, an unknown type, a shape that cannot be, an entry that wrote too few or too many bytes, and what w
// and Entry.Write report. After an error w holds a part of a file.
func Write(w io.Writer, entries []Entry, metadata map[string]string) error {
	head, sizes, err := buildHeader(entries, metadata)
	if err != nil {
		return fmt.Errorf("writing safetensors: %w", err)
	}
	if _, err := w.Write(head); err != nil {
		return fmt.Errorf("writing safetensors: header: %w", err)
	}
	for i, e := range entries {
		c := &exactly{w: w, left: sizes[i]}
		if e.Write == nil {
			return fmt.Errorf("writing safetensors: tensor %q has no Write function", e.Name)
		}
		if err := e.Write(c); err != nil {
			return fmt.Errorf("writing safetensors: tensor %q: %w", e.Name, err)
		}
		if c.tooMany { // also where Write swallowed the error
			return fmt.Errorf("writing safetensors: tensor %q: %w", e.Name, errTooMany)
		}
		if c.left != 0 {
			return fmt.Errorf("writing safetensors: tensor %q of shape %v and type %s has %d bytes and %d were written", e.Name, e.Shape, e.DType, sizes[i], sizes[i]-c.left)
		}
	}
	return nil
}

// buildHeader returns the length, the JSON text and its padding, and the byte length of every entry.
func buildHeader(entries []Entry, metadata map[string]string) (head []byte, sizes []int, err error) {
	b := bytes.NewBuffer(make([]byte, 8, 64+128*len(entries)))
	b.WriteByte('{')
	if len(metadata) > 0 {
		if err := writeJSON(b, metadataKey, metadata); err != nil {
			return nil, nil, err
		}
	}
	seen, at := make(map[string]bool, len(entries)), 0
	for _, e := range entries {
		size, ok := byteLength(e.DType, e.Shape)
		switch {
		case seen[e.Name]:
			return nil, nil, fmt.Errorf("tensor %q is given twice", e.Name)
		case e.Name == metadataKey:
			return nil, nil, fmt.Errorf("%q is not a name for a tensor", e.Name)
		case !utf8.ValidString(e.Name):
			return nil, nil, fmt.Errorf("tensor name %q is not UTF-8", e.Name)
		case e.DType.Size() == 0:
			return nil, nil, fmt.Errorf("tensor %q: unknown dtype %q", e.Name, e.DType)
		case len(e.Shape) > dimensionsMax:
			return nil, nil, fmt.Errorf("tensor %q has %d dimensions, more than %d", e.Name, len(e.Shape), dimensionsMax)
		case !ok || size > math.MaxInt-at:
			return nil, nil, fmt.Errorf("tensor %q: shape %v of %s cannot be written", e.Name, e.Shape, e.DType)
		}
		seen[e.Name] = true
		if b.Len() > 9 {
			b.WriteByte(',')
		}
		shape := e.Shape
		if shape == nil {
			shape = []int{} // [] and not null
		}
		err := writeJSON(b, e.Name, struct {
			DType   DType  `json:"dtype"`
			Shape   []int  `json:"shape"`
			Offsets [2]int `json:"data_offsets"`
		}{e.DType, shape, [2]int{at, at + size}})
		if err != nil {
			return nil, nil, err
		}
		at += size
		sizes = append(sizes, size)
	}
	b.WriteByte('}')
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	head = b.Bytes()
	if len(head)-8 > headerMax {
		return nil, nil, fmt.Errorf("a header of %d bytes is above the limit of %d", len(head)-8, headerMax)
	}
	binary.LittleEndian.PutUint64(head, uint64(len(head)-8))
	return head, sizes, nil
}

// writeJSON appends "key":value. Map keys come out sorted, so equal input gives equal files.
func writeJSON(b *bytes.Buffer, key string, value any) error {
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	for i, v := range []any{key, value} {
		if err := enc.Encode(v); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		b.Truncate(b.Len() - 1) // the newline that Encode adds
		if i == 0 {
			b.WriteByte(':')
		}
	}
	return nil
}

var errTooMany = errors.New("more bytes were written than its shape and type say")

// exactly passes on at most left bytes.
type exactly struct {
	w       io.Writer
	left    int
	tooMany bool
}

func (e *exactly) Write(p []byte) (int, error) {
	if len(p) > e.left {
		e.tooMany = true
		return 0, errTooMany
	}
	n, err := e.w.Write(p)
	e.left -= n
	return n, err
}
