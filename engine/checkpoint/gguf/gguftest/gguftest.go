// Package gguftest writes small GGUF files for tests, true ones and broken ones.
package gguftest

import (
	"encoding/binary"
	"fmt"
)

// File describes a file. Zero values stand for version 3 and an alignment of 32.
type File struct {
	Version   uint32
	Alignment int // also written as general.alignment where it is not 0
	Metadata  []Entry
	Tensors   []Tensor
}

// Entry is one metadata value: an integer of fixed size, float32, float64, bool, string, a slice of one of these, or []any
// for an array of arrays.
type Entry struct {
	Key   string
	Value any
}

// Tensor is one tensor; Shape is row-major, as everywhere but in the file.
type Tensor struct {
	Name  string
	Shape []int
	Type  uint32
	Data  []byte
}

// Bytes is the file.
func (f File) Bytes() []byte {
	alignment := 32
	metadata := f.Metadata
	if f.Alignment != 0 {
		alignment = f.Alignment
		metadata = append([]Entry{{"general.alignment", uint32(alignment)}}, metadata...)
	}
	version := f.Version
	if version == 0 {
		version = 3
	}
	b := []byte("GGUF")
	b = le(b, version)
	b = le(b, uint64(len(f.Tensors)))
	b = le(b, uint64(len(metadata)))
	for _, e := range metadata {
		b = text(b, e.Key)
		b = le(b, kind(e.Value))
		b = value(b, e.Value)
	}
	var body []byte
	for _, t := range f.Tensors {
		b = text(b, t.Name)
		b = le(b, uint32(len(t.Shape)))
		for i := range t.Shape {
			b = le(b, uint64(t.Shape[len(t.Shape)-1-i]))
		}
		b = le(b, t.Type)
		b = le(b, uint64(len(body)))
		body = pad(append(body, t.Data...), alignment)
	}
	return append(pad(b, alignment), body...)
}

func pad(b []byte, alignment int) []byte {
	for len(b)%alignment != 0 {
		b = append(b, 0)
	}
	return b
}

func le(b []byte, v any) []byte {
	b, err := binary.Append(b, binary.LittleEndian, v)
	if err != nil {
		panic(err)
	}
	return b
}

func text(b []byte, s string) []byte { return append(le(b, uint64(len(s))), s...) }

func kind(v any) uint32 {
	switch v.(type) {
	case uint8:
		return 0
	case int8:
		return 1
	case uint16:
		return 2
	case int16:
		return 3
	case uint32:
		return 4
	case int32:
		return 5
	case float32:
		return 6
	case bool:
		return 7
	case string:
		return 8
	case uint64:
		return 10
	case int64:
		return 11
	case float64:
		return 12
	}
	return 9
}

func value(b []byte, v any) []byte {
	switch v := v.(type) {
	case string:
		return text(b, v)
	case []uint8:
		return list(b, v)
	case []int8:
		return list(b, v)
	case []uint16:
		return list(b, v)
	case []int16:
		return list(b, v)
	case []uint32:
		return list(b, v)
	case []int32:
		return list(b, v)
	case []float32:
		return list(b, v)
	case []bool:
		return list(b, v)
	case []string:
		return list(b, v)
	case []uint64:
		return list(b, v)
	case []int64:
		return list(b, v)
	case []float64:
		return list(b, v)
	case []any:
		return list(b, v)
	}
	return le(b, v)
}

func list[T any](b []byte, values []T) []byte {
	var zero any = *new(T)
	if len(values) > 0 {
		zero = values[0]
	}
	if zero == nil {
		panic(fmt.Sprintf("gguftest: an empty %T has no element type", values))
	}
	b = le(b, kind(zero))
	b = le(b, uint64(len(values)))
	for _, v := range values {
		b = value(b, v)
	}
	return b
}
