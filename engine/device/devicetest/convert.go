package devicetest

import (
	"math"
	"testing"

	"surgeon/engine/device"
)

// Round is x rounded to the nearest number of type t, to even where two are as near.
func Round(t device.Type, x float64) float64 {
	switch t {
	case device.F32:
		return float64(float32(x))
	case device.F64:
		return x
	}
	if x == 0 || math.IsInf(x, 0) || math.IsNaN(x) {
		return x
	}
	// A bfloat16 has 8 bits, as many as a float32 has before its last 16; its smallest normal number is 2⁻¹²⁶.
	_, e := math.Frexp(x)
	unit := max(e, -125) - 8
	y := math.Ldexp(math.RoundToEven(math.Ldexp(x, -unit)), unit)
	if math.Abs(y) >= math.Ldexp(1, 128) {
		return math.Copysign(math.Inf(1), x)
	}
	return y
}

// awkward are numbers near which rounding goes wrong: halfway between two bfloat16 or float32, just beside it (a conversion
// by way of float32 rounds twice), the ends of the ranges, and what is not a number.
func awkward() []float64 {
	x := []float64{0, math.Copysign(0, -1), 1, 256, 257, 258, 259, 1 << 24, 1<<24 + 1, 1<<24 + 3, 3.4e38, 3.39e38, 3.3961775e38,
		1e39, 1e300, 1e-38, 1e-40, 9.2e-41, 4.6e-41, 4.5e-41, 1e-45, 7e-46, 1e-300, math.Inf(1), math.NaN(), math.Pi, 1.0 / 3,
		math.MaxFloat32, math.SmallestNonzeroFloat32, math.Ldexp(1, -126), math.Ldexp(1, -127)}
	for _, tie := range []float64{1 + 1./256, 1 + 3./256, 3 + 1./128, 1 + math.Ldexp(1, -24), 1 + math.Ldexp(3, -24), math.Ldexp(257, -134)} {
		x = append(x, tie, tie*(1+math.Ldexp(1, -52)), tie*(1-math.Ldexp(1, -52)), tie*(1+math.Ldexp(1, -30)), tie*(1-math.Ldexp(1, -30)))
	}
	for _, v := range x[:len(x):len(x)] {
		x = append(x, -v)
	}
	return x
}

// conversions tries Upload, Copy and Download in all pairs of types.
func conversions(t *testing.T, d device.Device) (cases int) {
	types := []device.Type{device.F32, device.F64, device.BF16}
	values := awkward()
	n := len(values)
	for _, from := range types {
		for _, to := range types {
			cases++
			x := device.NewFrom(d, values, n/2, 2, from)
			y := d.Alloc(n/2, 2, to)
			d.Copy(x, y)
			got := device.DownloadSlice[float64](d, y)
			for i, v := range values {
				if w := Round(to, Round(from, v)); !sameBits(got[i:i+1], []float64{w}) {
					t.Errorf("%v by way of %s as %s is %v, want %v", v, from, to, got[i], w)
				}
			}
			// As bytes of type to, up and down again.
			raw := make([]byte, n*to.Size()+1)[1:] // at an odd address, as parts of files are
			d.Download(x, to, raw)
			d.Upload(raw, to, x)
			got = device.DownloadSlice[float64](d, x)
			for i, v := range values {
				if w := Round(from, Round(to, Round(from, v))); !sameBits(got[i:i+1], []float64{w}) {
					t.Errorf("%v in %s, as bytes of %s, is %v, want %v", v, from, to, got[i], w)
				}
			}
			d.Zero(x)
			for i, v := range device.DownloadSlice[float32](d, x) {
				if v != 0 {
					t.Errorf("element %d of %s is %v after Zero", i, from, v)
				}
			}
			d.Free(x, y)
		}
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	return cases
}
