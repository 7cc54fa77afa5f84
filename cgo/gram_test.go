//go:build cuda

package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"surgeon/engine/device"
)

// What would be caught: tiles of a triangle that are left out, taken twice, or put where others belong, at orders of several waves
// and bands of tiles where there is a GPU: by tensor cores, and by the plain kernel, which has another plan. Bits that differ
// from run to run.
func TestGramVersions(t *testing.T) {
	d := gpu(t, Options{})
	shapes := [][3]int{{2048, 4096, 0}, {1024, 11008, 0}, {1000, 5128, 1}} // tokens, order, ones
	if isEmulated() {
		shapes = [][3]int{{70, 392, 0}, {130, 648, 0}, {65, 264, 1}}
	}
	for _, shape := range shapes {
		t.Run(fmt.Sprint(shape), func(t *testing.T) {
			tokens, n, ones := shape[0], shape[1], shape[2]
			r := rand.New(rand.NewPCG(7, 1))
			values := make([]float32, tokens*n)
			for i := range values {
				values[i] = float32(r.NormFloat64())
			}
			aligned := device.NewFrom(d, values, tokens, n, device.BF16)
			shifted := unaligned(d, tokens, n, device.BF16)
			d.Copy(aligned, shifted)
			gram := func(x device.Tensor) []float32 {
				s := device.AllocSym(d, n+ones, device.F32)
				defer d.Free(s.Packed)
				d.Gram(1/float64(tokens), []device.Tensor{x}, 0, []device.Sym{s})
				return device.DownloadSlice[float32](d, s.Packed)
			}
			one, again, plain := gram(aligned), gram(aligned), gram(shifted)
			if !slices.Equal(one, again) {
				t.Error("bits differ from run to run")
			}
			limit, worst := 1e-3/math.Sqrt(float64(tokens)), 0.
			for i, v := range one {
				if e := math.Abs(float64(v) - float64(plain[i])); !(e <= limit) {
					t.Fatalf("element %d of the triangle is %v by tensor cores, %v by the plain kernel", i, v, plain[i])
				} else {
					worst = max(worst, e)
				}
			}
			t.Logf("they differ by %.2g at most", worst)
		})
	}
}
