package checkpoint

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/x448/float16"

	"surgeon/engine/checkpoint/safetensors"
)

// Catches wrong rounding: every bfloat16 must survive, midpoints go to the even neighbour, and NaN stays NaN.
func TestBF16(t *testing.T) {
	for b := range 1 << 16 {
		x := BF16ToFloat32(uint16(b))
		if got := Float32ToBF16(x); got != uint16(b) && x == x {
			t.Fatalf("%04x became %04x", b, got)
		}
		if x != x && !math.IsNaN(float64(BF16ToFloat32(Float32ToBF16(x)))) {
			t.Fatalf("the NaN %04x became %04x", b, Float32ToBF16(x))
		}
	}
	for _, c := range []struct{ in, want uint32 }{
		{0x3f808000, 0x3f80}, // midpoint, even below
		{0x3f818000, 0x3f82}, // midpoint, even above
		{0x3f808001, 0x3f81}, // just above
		{0x3f817fff, 0x3f81}, // just below
		{0xbf818000, 0xbf82}, // sign does not matter
		{0x7f7f7fff, 0x7f7f}, // largest that does not overflow
		{0x7f7f8000, 0x7f80}, // becomes Inf
		{0x00008000, 0x0000}, // tiny midpoint to zero
		{0x00018000, 0x0002}, // subnormal midpoint
		{0x7f800001, 0x7fc0}, // NaN with its payload below
		{0xff800000, 0xff80}, // −Inf
	} {
		if got := Float32ToBF16(math.Float32frombits(c.in)); uint32(got) != c.want {
			t.Errorf("%08x became %04x, want %04x", c.in, got, c.want)
		}
	}
}

// Catches Round and Write disagreeing about what is stored, and overflow that passes as Inf.
func TestRound(t *testing.T) {
	values := []float32{0, 1, -1.0009765, 3.14159265, 65504, 65519, 1e-7, -6e-8, 2.9802322e-8, 2.980233e-8, 1.00048828125, 1.00146484375}
	for _, dtype := range []safetensors.DType{safetensors.F64, safetensors.F32, safetensors.F16, safetensors.BF16} {
		rounded := slices.Clone(values)
		if err := Round(rounded, dtype); err != nil {
			t.Fatal(err)
		}
		var data bytes.Buffer
		if err := writeValues(&data, dtype, values, 0); err != nil {
			t.Fatal(err)
		}
		stored := make([]float32, len(values))
		decode(dtype, data.Bytes(), stored)
		if !slices.Equal(stored, rounded) {
			t.Errorf("%s: Round gives %v, the file %v", dtype, rounded, stored)
		}
	}
	halves := slices.Clone(values)
	Round(halves, safetensors.F16)
	// By hand: midpoints 1 + 2⁻¹¹ and 1 + 3·2⁻¹¹ go to even; 65519 is below the midpoint to 2¹⁶; half the least subnormal 2⁻²⁵ goes to 0.
	for i, want := range map[int]float32{5: 65504, 8: 0, 9: 1.0 / (1 << 24), 10: 1, 11: 1.001953125} {
		if halves[i] != want {
			t.Errorf("%v as F16 is %v, want %v", values[i], halves[i], want)
		}
	}
	for dtype, x := range map[safetensors.DType]float32{safetensors.F16: 65520, safetensors.BF16: math.MaxFloat32, safetensors.F32: float32(math.Inf(1)), safetensors.F64: float32(math.NaN())} {
		if err := Round([]float32{1, x}, dtype); err == nil || !strings.Contains(err.Error(), "index 1") {
			t.Errorf("%v as %s: %v", x, dtype, err)
		}
		if err := writeValues(io.Discard, dtype, []float32{1, x}, 10); err == nil || !strings.Contains(err.Error(), "index 11") {
			t.Errorf("%v encoded as %s: %v", x, dtype, err)
		}
	}
	if err := Round([]float32{1}, safetensors.I8); err == nil || !strings.Contains(err.Error(), "I8") {
		t.Errorf("rounding to I8: %v", err)
	}
	for b := range 1 << 16 { // all float16 numbers survive
		h := float16.Frombits(uint16(b))
		if h.IsFinite() && float16.Fromfloat32(h.Float32()) != h {
			t.Fatalf("float16 %04x changed", b)
		}
	}
}

// Catches a part of a large tensor that is left out, or lands in another's place, where processors share the work, and a wrong
// value that is not the first one.
func TestLargeTensors(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(5))
	values := make([]float32, 1<<20+1<<18+7)
	for i := range values {
		values[i] = 1 + float32(i)/(1<<21)
	}
	for _, dtype := range []safetensors.DType{safetensors.F64, safetensors.F32, safetensors.F16, safetensors.BF16} {
		var data bytes.Buffer
		if err := writeValues(&data, dtype, values, 0); err != nil {
			t.Fatal(err)
		}
		rounded := slices.Clone(values)
		if err := Round(rounded, dtype); err != nil {
			t.Fatal(err)
		}
		for i, x := range values {
			one := []float32{x}
			Round(one, dtype)
			at := make([]float32, 1)
			decode(dtype, data.Bytes()[i*dtype.Size():(i+1)*dtype.Size()], at)
			if one[0] != rounded[i] || one[0] != at[0] {
				t.Fatalf("%s: value %d is %v, alone %v, in the file %v", dtype, i, rounded[i], one[0], at[0])
			}
		}
	}
	nan := float32(math.NaN())
	for _, first := range []int{0, 1<<18 + 3, 1<<20 + 1<<18} {
		wrong := slices.Clone(values)
		wrong[first], wrong[len(wrong)-1] = nan, nan
		want := fmt.Sprintf("index %d ", first)
		for what, err := range map[string]error{"Round": Round(slices.Clone(wrong), safetensors.BF16), "writeValues": writeValues(io.Discard, safetensors.BF16, wrong, 0)} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", what, err, want)
			}
		}
	}
}
