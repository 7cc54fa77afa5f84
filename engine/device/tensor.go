package device

import (
	"fmt"
	"unsafe"
)

// Type is how an element is stored. BF16 is a type of storage only: arithmetic on it is done in float32.
type Type uint8

const (
	F32 Type = iota + 1
	F64
	BF16
)

// Size is the bytes of one element.
func (t Type) Size() int {
	switch t {
	case F32:
		return 4
	case F64:
		return 8
	case BF16:
		return 2
	}
	panic(Misuse(fmt.Sprintf("device: unknown type %d", t)))
}

// Acc is the type in which sums of elements are kept: F32 for BF16, else the type itself.
func (t Type) Acc() Type {
	if t == BF16 {
		return F32
	}
	return t
}

func (t Type) String() string {
	switch t {
	case F32:
		return "float32"
	case F64:
		return "float64"
	case BF16:
		return "bfloat16"
	}
	return fmt.Sprintf("Type(%d)", uint8(t))
}

// Tensor is a matrix on a device: a small value, copied freely. The zero Tensor stands for "none".
type Tensor struct {
	Rows, Cols int
	Type       Type
	Offset     int // elements from the start of the allocation
	Handle     any // the allocation; a comparable value that only the device which made it understands
}

// Len is the number of elements.
func (t Tensor) Len() int { return t.Rows * t.Cols }

// IsZero says whether t stands for "none".
func (t Tensor) IsZero() bool { return t == Tensor{} }

// Slice is a view of rows i to j−1.
func (t Tensor) Slice(i, j int) Tensor {
	if i < 0 || j < i || j > t.Rows {
		panic(Misuse(fmt.Sprintf("device: rows %d:%d of a tensor of %d rows", i, j, t.Rows)))
	}
	t.Offset += i * t.Cols
	t.Rows = j - i
	return t
}

// Reshape is a view of the same elements, in the same order, as rows×cols.
func (t Tensor) Reshape(rows, cols int) Tensor {
	if rows < 0 || cols < 0 || rows*cols != t.Len() {
		panic(Misuse(fmt.Sprintf("device: %d×%d elements reshaped to %d×%d", t.Rows, t.Cols, rows, cols)))
	}
	t.Rows, t.Cols = rows, cols
	return t
}

// Sym is a symmetric matrix of order N of which only the lower triangle is kept, packed row after row: element (i, j),
// j ≤ i, stands at i(i+1)/2 + j. So the first n(n+1)/2 elements of a Sym of order n+1 are the Sym of order n without the
// last row. It is stored as F32 or F64.
type Sym struct {
	N      int
	Packed Tensor // 1 × N(N+1)/2
}

// PackedLen is the number of elements of a packed triangle of order n.
func PackedLen(n int) int { return n * (n + 1) / 2 }

// AllocSym makes a symmetric matrix of order n. Its content is undefined.
func AllocSym(d Device, n int, t Type) Sym {
	return Sym{N: n, Packed: d.Alloc(1, PackedLen(n), t)}
}

// Element is a Go type that stands for a Type.
type Element interface{ ~float32 | ~float64 }

// TypeOf is the Type that T stands for.
func TypeOf[T Element]() Type {
	var z T
	if unsafe.Sizeof(z) == 4 {
		return F32
	}
	return F64
}

// bytesOf is the memory of s, seen as bytes. Every platform this program builds for is little-endian.
func bytesOf[T Element](s []T) []byte {
	if len(s) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&s[0])), len(s)*int(unsafe.Sizeof(s[0])))
}

// UploadSlice is Upload for a Go slice.
func UploadSlice[T Element](d Device, src []T, dst Tensor) {
	d.Upload(bytesOf(src), TypeOf[T](), dst)
}

// NewFrom allocates a rows×cols tensor of type t holding src.
func NewFrom[T Element](d Device, src []T, rows, cols int, t Type) Tensor {
	x := d.Alloc(rows, cols, t)
	UploadSlice(d, src, x)
	return x
}

// DownloadSlice is Download into a new Go slice.
func DownloadSlice[T Element](d Device, src Tensor) []T {
	dst := make([]T, src.Len())
	d.Download(src, TypeOf[T](), bytesOf(dst))
	return dst
}
