// Package gguf reads GGUF, the file format of llama.cpp: metadata, named tensors, often quantised, and a vocabulary.
//
// # Layout (versions 2 and 3, little endian)
//
//	"GGUF", version u32, number of tensors u64, number of metadata entries u64
//	metadata   key text, type u32, value; a text is its length u64 and its bytes; an array is a type u32, a count u64, the values
//	tensors    name text, number of dimensions u32, dimensions u64 each, type u32, offset u64
//	padding    to a multiple of general.alignment (32 where absent)
//	data       offsets count from here and are multiples of the alignment
//
// # Conventions
//
// GGUF lists the dimension that runs fastest first. A Tensor here has the row-major shape [R, C] of the rest of this
// program: the same bytes, the list reversed.
//
// A file is checked completely when it is opened: whatever a File hands out lies inside the file.
package gguf

import (
	"fmt"
	"slices"

	"surgeon/engine/checkpoint/internal/mapped"
)

// Tensor describes one tensor of a file.
type Tensor struct {
	Name  string
	Type  Type
	Shape []int // row-major, the last index runs fastest

	begin, end int // offsets of its bytes in the data part
}

// Elements is the product of the shape.
func (t Tensor) Elements() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// File is an open, fully checked GGUF file. Its methods may be called from several goroutines, except Close.
type File struct {
	name     string
	mapped   *mapped.File // nil for Parse
	body     []byte       // the data part
	version  uint32
	keys     []string
	metadata map[string]any
	tensors  []Tensor
	index    map[string]int
}

// Open maps the file at path and checks it. Close it when its bytes are no longer needed.
func Open(path string) (*File, error) {
	m, err := mapped.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening GGUF file: %w", err)
	}
	var f *File
	err = m.Guard(func() (err error) {
		f, err = parse(path, m.Bytes())
		return err
	})
	if err != nil {
		m.Close()
		return nil, err
	}
	f.mapped = m
	return f, nil
}

// Parse checks a file that is already in memory. The File keeps views of data.
func Parse(data []byte) (*File, error) { return parse("GGUF data", data) }

// Version is 2 or 3.
func (f *File) Version() int { return int(f.version) }

// Keys lists the metadata keys in the order of the file.
func (f *File) Keys() []string { return slices.Clone(f.keys) }

// Value is the metadata under key: uint8 … int64, float32, float64, bool, string, a slice of one of these, or []any for an
// array of arrays. ok is false where the file has no such key.
func (f *File) Value(key string) (value any, ok bool) {
	value, ok = f.metadata[key]
	return value, ok
}

// Tensors lists the tensors in the order in which their bytes lie in the file.
func (f *File) Tensors() []Tensor { return slices.Clone(f.tensors) }

// Lookup finds a tensor by name.
func (f *File) Lookup(name string) (Tensor, bool) {
	i, ok := f.index[name]
	if !ok {
		return Tensor{}, false
	}
	return f.tensors[i], true
}

// Bytes is a read-only view of a tensor's data as stored, valid until Close; nil where the file has no such tensor. It
// may be looked at under Guard only.
func (f *File) Bytes(name string) []byte {
	i, ok := f.index[name]
	if !ok {
		return nil
	}
	t := f.tensors[i]
	return f.body[t.begin:t.end:t.end]
}

// Guard calls do, which looks at what Bytes returned, and returns its error, or one that names the file where a part of that cannot
// be read any more, because somebody made the file shorter. The looking must be done by this goroutine, or by workers of
// parallel.For.
func (f *File) Guard(do func() error) error { return f.mapped.Guard(do) }

// Close unmaps the file. Views handed out by Bytes must not be touched afterwards.
func (f *File) Close() error {
	m := f.mapped
	f.mapped, f.body, f.tensors, f.index = nil, nil, nil, nil
	return m.Close()
}

// Integer is the metadata under key as an int, whatever integer type the file uses. present is false, without an error,
// where there is no such key. The errors of this and the next three name the key, not the file.
func (f *File) Integer(key string) (n int, present bool, err error) {
	value, ok := f.metadata[key]
	if !ok {
		return 0, false, nil
	}
	var fits bool
	switch v := value.(type) {
	case uint8:
		n, fits = int(v), true
	case int8:
		n, fits = int(v), true
	case uint16:
		n, fits = int(v), true
	case int16:
		n, fits = int(v), true
	case uint32:
		n, fits = int(v), int(v) >= 0
	case int32:
		n, fits = int(v), true
	case uint64:
		n, fits = int(v), int(v) >= 0 && uint64(int(v)) == v
	case int64:
		n, fits = int(v), int64(int(v)) == v
	default:
		return 0, true, wrongType(key, value, "an integer")
	}
	if !fits {
		return 0, true, fmt.Errorf("metadata %q is %v, too large for an integer of this machine", key, value)
	}
	return n, true, nil
}

// Number is the metadata under key as a float64. A float32 is widened by its shortest decimal form, so that the 1e-05 a
// model was made with does not come back as 9.999999747378752e-06.
func (f *File) Number(key string) (x float64, present bool, err error) {
	value, ok := f.metadata[key]
	switch v := value.(type) {
	case float64:
		return v, true, nil
	case float32:
		return shortest(v), true, nil
	}
	if !ok {
		return 0, false, nil
	}
	return 0, true, wrongType(key, value, "a number")
}

// Text is the metadata under key as a string.
func (f *File) Text(key string) (s string, present bool, err error) {
	return typed[string](f, key, "a text")
}

// Flag is the metadata under key as a bool.
func (f *File) Flag(key string) (b, present bool, err error) { return typed[bool](f, key, "a boolean") }

func typed[T any](f *File, key, what string) (v T, present bool, err error) {
	value, ok := f.metadata[key]
	if !ok {
		return v, false, nil
	}
	v, ok = value.(T)
	if !ok {
		return v, true, wrongType(key, value, what)
	}
	return v, true, nil
}

func wrongType(key string, value any, want string) error {
	return fmt.Errorf("metadata %q is of type %T where %s is expected", key, value, want)
}
