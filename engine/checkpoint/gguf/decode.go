package gguf

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/x448/float16"
)

// Type is the encoding of a tensor, numbered as in the file.
type Type uint32

// The encodings that can be read. d and m are float16 numbers that open a block of 32 elements.
const (
	F32  Type = 0
	F16  Type = 1
	Q4_0 Type = 2  // x = d·(q − 8),  q of 4 bits: 18 bytes a block
	Q4_1 Type = 3  // x = d·q + m,    q of 4 bits: 20
	Q5_0 Type = 6  // x = d·(q − 16), q of 5 bits: 22
	Q5_1 Type = 7  // x = d·q + m,    q of 5 bits: 24
	Q8_0 Type = 8  // x = d·q,        q a signed byte: 34
	BF16 Type = 30 // the upper half of a float32
)

// names spells all encodings of the format, for errors about those that cannot be read.
var names = map[Type]string{
	F32: "F32", F16: "F16", Q4_0: "Q4_0", Q4_1: "Q4_1", Q5_0: "Q5_0", Q5_1: "Q5_1", Q8_0: "Q8_0", BF16: "BF16",
	9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS",
	18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32",
	27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}

func (t Type) String() string {
	if s, ok := names[t]; ok {
		return s
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// encoding of one type: block elements lie in bytes bytes; decode writes len(dst)/block blocks.
type encoding struct {
	block, bytes int
	decode       func(src []byte, dst []float32)
}

var encodings = map[Type]encoding{
	F32:  {1, 4, decodeF32},
	F16:  {1, 2, decodeF16},
	BF16: {1, 2, decodeBF16},
	Q4_0: {32, 18, decodeQ4_0},
	Q4_1: {32, 20, decodeQ4_1},
	Q5_0: {32, 22, decodeQ5_0},
	Q5_1: {32, 24, decodeQ5_1},
	Q8_0: {32, 34, decodeQ8_0},
}

func supported() string {
	var list []string
	for _, t := range slices.Sorted(maps.Keys(encodings)) {
		list = append(list, t.String())
	}
	return strings.Join(list, ", ")
}

// ByteLength is the number of bytes that n elements of type t take: the error says where t cannot be read or n does not fill
// its last block.
func ByteLength(t Type, n int) (int, error) {
	e, ok := encodings[t]
	switch {
	case !ok:
		return 0, fmt.Errorf("elements stored as %v cannot be read; %s can", t, supported())
	case n < 0 || n%e.block != 0:
		return 0, fmt.Errorf("%d elements are not a multiple of the %d in a block of %v", n, e.block, t)
	}
	return n / e.block * e.bytes, nil
}

// Decode writes the len(dst) elements stored in src as t into dst. Every product d·q is exact in float32 (11 and at most
// 8 significant bits), so the result does not depend on whether the machine fuses multiplication and addition. NaN and Inf
// come through as they are.
func Decode(t Type, src []byte, dst []float32) error {
	want, err := ByteLength(t, len(dst))
	if err != nil {
		return err
	}
	if len(src) != want {
		return fmt.Errorf("%d elements of %v take %d bytes and %d were given", len(dst), t, want, len(src))
	}
	encodings[t].decode(src, dst)
	return nil
}

func half(b []byte) float32 { return float16.Frombits(binary.LittleEndian.Uint16(b)).Float32() }

func decodeF32(src []byte, dst []float32) {
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
}

func decodeF16(src []byte, dst []float32) {
	for i := range dst {
		dst[i] = half(src[2*i:])
	}
}

func decodeBF16(src []byte, dst []float32) {
	for i := range dst {
		dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
	}
}

// In all types of 4 and 5 bits, byte j of the codes holds element j in its low and element j+16 in its high half. The fifth
// bits lie together in a u32: bit j belongs to element j.

func decodeQ4_0(src []byte, dst []float32) {
	for ; len(dst) >= 32; src, dst = src[18:], dst[32:] {
		d, q, x := half(src), src[2:18], dst[:32]
		for j, b := range q {
			x[j] = d * float32(int(b&15)-8)
			x[j+16] = d * float32(int(b>>4)-8)
		}
	}
}

func decodeQ4_1(src []byte, dst []float32) {
	for ; len(dst) >= 32; src, dst = src[20:], dst[32:] {
		d, m, q, x := half(src), half(src[2:]), src[4:20], dst[:32]
		for j, b := range q {
			x[j] = d*float32(b&15) + m
			x[j+16] = d*float32(b>>4) + m
		}
	}
}

func decodeQ5_0(src []byte, dst []float32) {
	for ; len(dst) >= 32; src, dst = src[22:], dst[32:] {
		d, fifth, q, x := half(src), binary.LittleEndian.Uint32(src[2:]), src[6:22], dst[:32]
		for j, b := range q {
			x[j] = d * float32(int(b&15|byte(fifth>>j&1)<<4)-16)
			x[j+16] = d * float32(int(b>>4|byte(fifth>>(j+16)&1)<<4)-16)
		}
	}
}

func decodeQ5_1(src []byte, dst []float32) {
	for ; len(dst) >= 32; src, dst = src[24:], dst[32:] {
		d, m, fifth, q, x := half(src), half(src[2:]), binary.LittleEndian.Uint32(src[4:]), src[8:24], dst[:32]
		for j, b := range q {
			x[j] = d*float32(b&15|byte(fifth>>j&1)<<4) + m
			x[j+16] = d*float32(b>>4|byte(fifth>>(j+16)&1)<<4) + m
		}
	}
}

func decodeQ8_0(src []byte, dst []float32) {
	for ; len(dst) >= 32; src, dst = src[34:], dst[32:] {
		d, q, x := half(src), src[2:34], dst[:32]
		for j, b := range q {
			x[j] = d * float32(int8(b))
		}
	}
}
