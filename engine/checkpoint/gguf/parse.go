package gguf

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unsafe"
)

const (
	alignmentKey     = "general.alignment"
	alignmentDefault = 32
	dimensionsMax    = 4 // what ggml can hold
	nestingMax       = 4 // arrays of arrays; no known file has any
)

// parse checks everything the package comment promises. name stands for the file in errors.
func parse(name string, data []byte) (*File, error) {
	f := &File{name: name, metadata: map[string]any{}, index: map[string]int{}}
	r := &reader{data: data}
	if err := f.read(r); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return f, nil
}

func (f *File) read(r *reader) error {
	magic, err := r.take(4)
	if err != nil || string(magic) != "GGUF" {
		return errors.New("the file does not begin with \"GGUF\"; it is not a GGUF file")
	}
	if f.version, err = r.u32(); err != nil {
		return err
	}
	switch {
	case f.version&0xffff == 0 && f.version != 0: // 3 written with its bytes the other way round
		return errors.New("the file is big endian; convert it to little endian")
	case f.version != 2 && f.version != 3:
		return fmt.Errorf("GGUF version %d; versions 2 and 3 can be read", f.version)
	}
	tensors, err := r.u64()
	if err != nil {
		return err
	}
	entries, err := r.u64()
	if err != nil {
		return err
	}
	// The least an entry takes: key length 8, type 4, value 1; a tensor: 8, 4, one dimension 8, type 4, offset 8.
	if most := uint64(r.left()) / 13; entries > most {
		return fmt.Errorf("%d metadata entries are promised and the %d bytes that follow hold at most %d; the file is truncated", entries, r.left(), most)
	}
	if most := uint64(r.left()) / 32; tensors > most {
		return fmt.Errorf("%d tensors are promised and the %d bytes that follow hold at most %d; the file is truncated", tensors, r.left(), most)
	}
	for i := range entries {
		if err := f.readEntry(r); err != nil {
			return fmt.Errorf("metadata entry %d of %d: %w", i+1, entries, err)
		}
	}
	alignment, present, err := f.Integer(alignmentKey)
	switch {
	case err != nil:
		return err
	case !present:
		alignment = alignmentDefault
	case alignment <= 0 || alignment&(alignment-1) != 0 || alignment > 1<<20:
		return fmt.Errorf("%s is %d; a power of two up to 1048576 is expected", alignmentKey, alignment)
	}
	seen := map[string]bool{}
	for i := range tensors {
		t, err := readTensor(r, alignment)
		if err != nil {
			return fmt.Errorf("tensor %d of %d: %w", i+1, tensors, err)
		}
		if seen[t.Name] {
			return fmt.Errorf("tensor %q is listed twice", t.Name)
		}
		seen[t.Name] = true
		f.tensors = append(f.tensors, t)
	}
	if len(f.tensors) > 0 { // a file of metadata alone ends here
		if _, err := r.take((alignment - r.at%alignment) % alignment); err != nil {
			return fmt.Errorf("padding before the data: %w", err)
		}
		f.body = r.data[r.at:]
	}
	return f.checkLayout()
}

func (f *File) readEntry(r *reader) error {
	key, err := r.text()
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	if _, ok := f.metadata[key]; ok {
		return fmt.Errorf("key %q occurs twice", key)
	}
	kind, err := r.u32()
	if err != nil {
		return err
	}
	value, err := r.value(kind, nestingMax)
	if err != nil {
		return fmt.Errorf("key %q: %w", key, err)
	}
	f.keys = append(f.keys, key)
	f.metadata[key] = value
	return nil
}

func readTensor(r *reader, alignment int) (Tensor, error) {
	name, err := r.text()
	if err != nil {
		return Tensor{}, fmt.Errorf("name: %w", err)
	}
	t := Tensor{Name: name}
	fail := func(format string, args ...any) (Tensor, error) {
		return t, fmt.Errorf("%q: "+format, append([]any{name}, args...)...)
	}
	rank, err := r.u32()
	if err != nil {
		return fail("%w", err)
	}
	if rank < 1 || rank > dimensionsMax {
		return fail("%d dimensions; 1 to %d can be read", rank, dimensionsMax)
	}
	elements := uint64(1)
	for range rank {
		d, err := r.u64()
		if err != nil {
			return fail("%w", err)
		}
		if d == 0 || d > math.MaxInt64/elements {
			return fail("dimension %d after %v makes a number of elements that cannot be", d, t.Shape)
		}
		elements *= d
		t.Shape = append(t.Shape, int(d))
	}
	kind, err := r.u32()
	if err != nil {
		return fail("%w", err)
	}
	offset, err := r.u64()
	if err != nil {
		return fail("%w", err)
	}
	t.Type = Type(kind)
	e, ok := encodings[t.Type]
	if !ok {
		return fail("is stored as %v, which cannot be read; %s can", t.Type, supported())
	}
	if t.Shape[0]%e.block != 0 {
		return fail("rows of %d elements are not a multiple of the %d in a block of %v", t.Shape[0], e.block, t.Type)
	}
	blocks := elements / uint64(e.block)
	if blocks > uint64(len(r.data))/uint64(e.bytes) {
		return fail("%d elements of %v need more than the %d bytes of the file; the file is truncated", elements, t.Type, len(r.data))
	}
	if offset > uint64(len(r.data)) {
		return fail("begins at byte %d of the data and the whole file has %d; the file is truncated", offset, len(r.data))
	}
	if offset%uint64(alignment) != 0 {
		return fail("begins at byte %d of the data, which is not a multiple of the alignment %d", offset, alignment)
	}
	slices.Reverse(t.Shape)
	t.begin = int(offset)
	t.end = t.begin + int(blocks)*e.bytes
	return t, nil
}

// checkLayout sorts the tensors by offset and makes sure that they do not overlap and lie inside the file.
func (f *File) checkLayout() error {
	slices.SortStableFunc(f.tensors, func(a, b Tensor) int { return cmp.Compare(a.begin, b.begin) })
	at, before := 0, ""
	for i, t := range f.tensors {
		if t.begin < at {
			return fmt.Errorf("tensor %q begins at byte %d, inside %q, which ends at %d", t.Name, t.begin, before, at)
		}
		if t.end > len(f.body) {
			return fmt.Errorf("tensor %q ends at byte %d of the data and the file has %d; the file is truncated", t.Name, t.end, len(f.body))
		}
		at, before = t.end, t.Name
		f.index[t.Name] = i
	}
	return nil
}

// reader takes values off the front of data.
type reader struct {
	data []byte
	at   int
}

func (r *reader) left() int { return len(r.data) - r.at }

func (r *reader) take(n int) ([]byte, error) {
	if n > r.left() {
		return nil, fmt.Errorf("%d bytes are needed at byte %d and %d are left; the file is truncated", n, r.at, r.left())
	}
	r.at += n
	return r.data[r.at-n : r.at], nil
}

func (r *reader) u32() (uint32, error) {
	b, err := r.take(4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (r *reader) u64() (uint64, error) {
	b, err := r.take(8)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

func (r *reader) text() (string, error) {
	n, err := r.u64()
	if err != nil {
		return "", err
	}
	if n > uint64(r.left()) {
		return "", fmt.Errorf("a text of %d bytes is promised at byte %d and %d are left; the file is truncated", n, r.at, r.left())
	}
	b, err := r.take(int(n))
	return string(b), err
}

// The types of metadata values, numbered as in the file.
const (
	kindUint8 = iota
	kindInt8
	kindUint16
	kindInt16
	kindUint32
	kindInt32
	kindFloat32
	kindBool
	kindString
	kindArray
	kindUint64
	kindInt64
	kindFloat64
)

func (r *reader) value(kind uint32, depth int) (any, error) {
	switch kind {
	case kindUint8:
		return scalar[uint8](r)
	case kindInt8:
		return scalar[int8](r)
	case kindUint16:
		return scalar[uint16](r)
	case kindInt16:
		return scalar[int16](r)
	case kindUint32:
		return scalar[uint32](r)
	case kindInt32:
		return scalar[int32](r)
	case kindUint64:
		return scalar[uint64](r)
	case kindInt64:
		return scalar[int64](r)
	case kindFloat32:
		return scalar[float32](r)
	case kindFloat64:
		return scalar[float64](r)
	case kindBool:
		return r.flag()
	case kindString:
		return r.text()
	case kindArray:
		return r.array(depth)
	}
	return nil, fmt.Errorf("value type %d is unknown; 0 to 12 are known", kind)
}

func (r *reader) array(depth int) (any, error) {
	if depth == 0 {
		return nil, fmt.Errorf("arrays nested more than %d deep", nestingMax)
	}
	kind, err := r.u32()
	if err != nil {
		return nil, err
	}
	n, err := r.u64()
	if err != nil {
		return nil, err
	}
	switch kind {
	case kindUint8:
		return list(r, n, 1, scalar[uint8])
	case kindInt8:
		return list(r, n, 1, scalar[int8])
	case kindUint16:
		return list(r, n, 2, scalar[uint16])
	case kindInt16:
		return list(r, n, 2, scalar[int16])
	case kindUint32:
		return list(r, n, 4, scalar[uint32])
	case kindInt32:
		return list(r, n, 4, scalar[int32])
	case kindUint64:
		return list(r, n, 8, scalar[uint64])
	case kindInt64:
		return list(r, n, 8, scalar[int64])
	case kindFloat32:
		return list(r, n, 4, scalar[float32])
	case kindFloat64:
		return list(r, n, 8, scalar[float64])
	case kindBool:
		return list(r, n, 1, (*reader).flag)
	case kindString:
		return list(r, n, 8, (*reader).text)
	case kindArray:
		return list(r, n, 12, func(r *reader) (any, error) { return r.array(depth - 1) })
	}
	return nil, fmt.Errorf("array of value type %d is unknown; 0 to 12 are known", kind)
}

// list reads n values that take at least size bytes each, so that a false n is found before anything is allocated.
func list[T any](r *reader, n uint64, size int, read func(*reader) (T, error)) ([]T, error) {
	if most := uint64(r.left() / size); n > most {
		return nil, fmt.Errorf("an array of %d values is promised at byte %d and the %d bytes left hold at most %d; the file is truncated", n, r.at, r.left(), most)
	}
	values := make([]T, n)
	for i := range values {
		var err error
		if values[i], err = read(r); err != nil {
			return nil, fmt.Errorf("value %d of %d: %w", i+1, n, err)
		}
	}
	return values, nil
}

func scalar[T uint8 | int8 | uint16 | int16 | uint32 | int32 | uint64 | int64 | float32 | float64](r *reader) (T, error) {
	var v T
	b, err := r.take(int(unsafe.Sizeof(v)))
	if err != nil {
		return 0, err
	}
	_, err = binary.Decode(b, binary.LittleEndian, &v)
	return v, err
}

func (r *reader) flag() (bool, error) {
	b, err := scalar[uint8](r)
	if err == nil && b > 1 {
		return false, fmt.Errorf("boolean %d; 0 or 1 is expected", b)
	}
	return b == 1, err
}

// shortest is the float64 with the same shortest decimal form as v.
func shortest(v float32) float64 {
	x, err := strconv.ParseFloat(strconv.FormatFloat(float64(v), 'g', -1, 32), 64)
	if err != nil {
		return float64(v) // not reached: what FormatFloat writes, ParseFloat reads
	}
	return x
}
