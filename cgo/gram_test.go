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
		shapes = [][3]int{{70, 392, 0}, {40, 648, 0}, {65, 264, 1}}
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
				d.Gram(1/float64(tokens), x, 0, s)
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

// What would be caught: pieces of a long list that are left out or put elsewhere; an arena that grows.
func TestLongLists(t *testing.T) {
	d := gpu(t, Options{})
	d.longestList = 7
	const n = 100
	values, places := make([]float64, n), make([]int32, n)
	for i, p := range rand.New(rand.NewPCG(8, 1)).Perm(n) {
		values[i], places[i] = float64(i), int32(p)
	}
	x, y, z := device.NewFrom(d, values, 1, n, device.F64), d.Alloc(1, n, device.F64), d.Alloc(1, n, device.F64)
	d.Scatter(x, nil, places, y)
	d.Gather(y, nil, places, z)
	for i, v := range device.DownloadSlice[float64](d, y) {
		if places[int(v)] != int32(i) {
			t.Fatalf("place %d has number %v", i, v)
		}
	}
	if got := device.DownloadSlice[float64](d, z); !slices.Equal(got, values) {
		t.Errorf("what was put away comes back as %v", got)
	}
	d.longestList = arenaBytes / 8
	long := make([]int32, 3*d.longestList+5)
	for i := range long {
		long[i] = int32(i % n)
	}
	all := d.Alloc(1, len(long), device.F64)
	d.Gather(x, nil, long, all)
	for i, v := range device.DownloadSlice[float64](d, all) {
		if v != float64(i%n) {
			t.Fatalf("element %d is %v", i, v)
		}
	}
	if d.transfers.listsBytes != arenaBytes {
		t.Errorf("the arena has grown to %d bytes", d.transfers.listsBytes)
	}
}
