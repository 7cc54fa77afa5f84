package checkpoint

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync"

	"github.com/x448/float16"

	"surgeon/engine/checkpoint/safetensors"
	"surgeon/engine/internal/parallel"
)

// BF16ToFloat32 widens a bfloat16: it is the upper half of a float32.
func BF16ToFloat32(b uint16) float32 { return math.Float32frombits(uint32(b) << 16) }

// Float32ToBF16 rounds to the nearest bfloat16, ties to the even one. What lies beyond its range becomes Inf, as IEEE 754
// says; NaN stays NaN with its sign and upper payload.
func Float32ToBF16(x float32) uint16 {
	b := math.Float32bits(x)
	if x != x {
		return uint16(b>>16) | 0x40 // the quiet bit, so that a payload in the lower half does not turn into Inf
	}
	// Adding just under half of the last place, or half where the last kept bit is odd, carries exactly when rounding up is right.
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// Round rounds each value in place to what Write would store in a tensor of type t (F64, F32, F16 or BF16), to nearest,
// ties to even. It is an error that names the first one if a value is not finite or becomes Inf; it is as it was then, and any
// other may be rounded or not.
func Round(dst []float32, t safetensors.DType) error {
	if !readable(t) {
		return fmt.Errorf("rounding to %s is not supported; F64, F32, F16 and BF16 are", t)
	}
	failed := firstWrong(len(dst), 1, func(from, to int) int {
		for i, x := range dst[from:to] {
			y := x
			switch t {
			case safetensors.F16:
				y = float16.Fromfloat32(x).Float32()
			case safetensors.BF16:
				y = BF16ToFloat32(Float32ToBF16(x))
			}
			if !finite(y) {
				return from + i
			}
			dst[from+i] = y
		}
		return -1
	})
	if failed >= 0 {
		return outOfRange(dst[failed], failed, t)
	}
	return nil
}

// firstWrong calls f for parts [from, to) of [0, n), each of which has so many elements, on all cores. f returns the first index at
// which something is wrong, or −1; so does firstWrong.
func firstWrong(n, each int, f func(from, to int) int) int {
	const grain = 1 << 16 // elements that are worth a goroutine
	var mu sync.Mutex
	first := -1
	parallel.For(n, max(1, grain/max(1, each)), func(_, from, to int) {
		if i := f(from, to); i >= 0 {
			mu.Lock()
			defer mu.Unlock()
			if first < 0 || i < first {
				first = i
			}
		}
	})
	return first
}

func outOfRange(x float32, i int, t safetensors.DType) error {
	if !finite(x) {
		return fmt.Errorf("%v at index %d is not a finite number", x, i)
	}
	largest := map[safetensors.DType]string{safetensors.F16: "65504", safetensors.BF16: "3.3895e38"}[t]
	return fmt.Errorf("%v at index %d is beyond the largest number of %s, %s; write BF16 or F32 instead", x, i, t, largest)
}

// readable tells whether this package turns type t into numbers.
func readable(t safetensors.DType) bool {
	switch t {
	case safetensors.F64, safetensors.F32, safetensors.F16, safetensors.BF16:
		return true
	}
	return false
}

func finite(x float32) bool { return math.Float32bits(x)&0x7f800000 != 0x7f800000 }

// notFinite is the index of the first NaN or Inf, or −1.
func notFinite(x []float32) int {
	for i, v := range x {
		if !finite(v) {
			return i
		}
	}
	return -1
}

// decode widens (F64: rounds) len(dst) elements; src has exactly their bytes and t is readable.
func decode(t safetensors.DType, src []byte, dst []float32) {
	switch t {
	case safetensors.F64:
		for i := range dst {
			dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(src[8*i:])))
		}
	case safetensors.F32:
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
	case safetensors.F16:
		for i := range dst {
			dst[i] = float16.Frombits(binary.LittleEndian.Uint16(src[2*i:])).Float32()
		}
	case safetensors.BF16:
		for i := range dst {
			dst[i] = BF16ToFloat32(binary.LittleEndian.Uint16(src[2*i:]))
		}
	}
}

// encode writes the elements of src as t, which is readable, to dst, which has room for them. It returns the index of the first
// value that is not finite, or not any more as t, or −1.
func encode(t safetensors.DType, dst []byte, src []float32) int {
	dst = dst[:0]
	for i, x := range src {
		ok := finite(x)
		switch t {
		case safetensors.F64:
			dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(float64(x)))
		case safetensors.F32:
			dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(x))
		case safetensors.F16:
			h := float16.Fromfloat32(x)
			ok = h.IsFinite()
			dst = binary.LittleEndian.AppendUint16(dst, h.Bits())
		case safetensors.BF16:
			h := Float32ToBF16(x)
			ok = h&0x7f80 != 0x7f80
			dst = binary.LittleEndian.AppendUint16(dst, h)
		}
		if !ok {
			return i
		}
	}
	return -1
}
