// Package safetensors reads and writes the safetensors format: named arrays of numbers in one file.
//
// # Layout
//
//	8 bytes   n, length of the header, little endian
//	n bytes   header: a JSON object, padded with spaces
//	          {"__metadata__": {text: text}, NAME: {"dtype": "F32", "shape": [R, C], "data_offsets": [begin, end]}, …}
//	the rest  the arrays, little endian, row-major; offsets count from the first byte after the header
//
// The arrays cover the rest of the file without holes or overlaps. A file is checked completely when it is opened, so that
// everything a File hands out lies inside the file and has the length its shape and type say.
//
// Files are read through a memory map: opening a model of 14 GB reads its header and nothing else.
package safetensors

import (
	"fmt"
	"math"
	"slices"

	"surgeon/engine/checkpoint/internal/mapped"
)

// DType is the element type of an array, spelled as in the file.
type DType string

// The element types a file may hold. This package carries all of them through; it does not interpret them.
const (
	F64    DType = "F64"
	F32    DType = "F32"
	F16    DType = "F16"
	BF16   DType = "BF16"
	F8E4M3 DType = "F8_E4M3"
	F8E5M2 DType = "F8_E5M2"
	I64    DType = "I64"
	I32    DType = "I32"
	I16    DType = "I16"
	I8     DType = "I8"
	U64    DType = "U64"
	U32    DType = "U32"
	U16    DType = "U16"
	U8     DType = "U8"
	Bool   DType = "BOOL"
)

// Size is the number of bytes of one element, 0 for a type this package does not know.
func (t DType) Size() int {
	switch t {
	case F64, I64, U64:
		return 8
	case F32, I32, U32:
		return 4
	case F16, BF16, I16, U16:
		return 2
	case F8E4M3, F8E5M2, I8, U8, Bool:
		return 1
	}
	return 0
}

// Tensor describes one array of a file.
type Tensor struct {
	Name  string
	DType DType
	Shape []int // row-major, the last index runs fastest; empty for a single number

	begin, end int // offsets of its bytes in the data part
}

// Elements is the product of the shape; it cannot overflow for a Tensor that a File handed out.
func (t Tensor) Elements() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// byteLength is elements × bytes of one, or ok = false where a dimension is negative or the product exceeds an int.
func byteLength(t DType, shape []int) (n int, ok bool) {
	n = t.Size()
	zero := false
	for _, d := range shape {
		switch {
		case d < 0:
			return 0, false
		case d == 0:
			zero = true
		case n > math.MaxInt/d:
			return 0, false // also where another dimension is 0: no writer has a reason for such a shape
		default:
			n *= d
		}
	}
	if zero {
		n = 0
	}
	return n, true
}

// File is an open, fully checked safetensors file. Its methods may be called from several goroutines, except Close.
type File struct {
	name     string
	mapped   *mapped.File // nil for Parse
	body     []byte       // the data part
	tensors  []Tensor
	index    map[string]int
	metadata map[string]string
}

// Open maps the file at path and checks it. Close it when its bytes are no longer needed.
func Open(path string) (*File, error) {
	m, err := mapped.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening safetensors file: %w", err)
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
func Parse(data []byte) (*File, error) { return parse("safetensors data", data) }

// Tensors lists the arrays in the order in which their bytes lie in the file.
func (f *File) Tensors() []Tensor { return slices.Clone(f.tensors) }

// Lookup finds an array by name.
func (f *File) Lookup(name string) (Tensor, bool) {
	i, ok := f.index[name]
	if !ok {
		return Tensor{}, false
	}
	return f.tensors[i], true
}

// Bytes is a read-only view of an array's elements, little endian and not necessarily aligned, valid until Close; nil where
// the file has no such array. It may be looked at under Guard only.
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
// parallel.For, and not by a device.
func (f *File) Guard(do func() error) error { return f.mapped.Guard(do) }

// Metadata is the text the writer of the file attached to it, nil where there was none.
func (f *File) Metadata() map[string]string { return f.metadata }

// Close unmaps the file. Views handed out by Bytes must not be touched afterwards.
func (f *File) Close() error {
	m := f.mapped
	f.mapped, f.body, f.tensors, f.index = nil, nil, nil, nil
	return m.Close()
}
