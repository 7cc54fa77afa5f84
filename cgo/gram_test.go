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
// and bands of tiles where there is a GPU: by the fast kernels, and by the plain one, which has another plan. Copies of unaligned
// rows that bring other numbers than those of aligned ones. Bits that differ from run to run.
func TestGramVersions(t *testing.T) {
	d := gpu(t, Options{})
	shapes := [][3]int{{2048, 4096, 0}, {1024, 11008, 0}, {1000, 5128, 1}} // tokens, order, ones
	if isEmulated() {
		shapes = [][3]int{{70, 392, 0}, {130, 648, 0}, {65, 264, 1}}
	}
	for _, shape := range shapes {
		for _, typ := range []device.Type{device.BF16, device.F32} {
			t.Run(fmt.Sprint(shape, typ), func(t *testing.T) {
				tokens, n, ones := shape[0], shape[1], shape[2]
				r := rand.New(rand.NewPCG(7, 1))
				values := make([]float32, tokens*n)
				for i := range values {
					values[i] = float32(r.NormFloat64())
				}
				gram := func(x device.Tensor, sums device.Type) []float32 {
					s := device.AllocSym(d, n+ones, sums)
					defer d.Free(s.Packed)
					d.Gram(1/float64(tokens), []device.Tensor{x}, 0, []device.Sym{s})
					return device.DownloadSlice[float32](d, s.Packed)
				}
				aligned := device.NewFrom(d, values, tokens, n, typ)
				defer d.Free(aligned)
				shifted := unaligned(d, tokens, n, typ)
				d.Copy(aligned, shifted)
				one, again := gram(aligned, device.F32), gram(aligned, device.F32)
				other := gram(shifted, device.F32) // of bfloat16 by the plain kernel
				if !slices.Equal(one, again) {
					t.Error("bits differ from run to run")
				}
				if typ == device.F32 {
					if !slices.Equal(one, other) {
						t.Error("bits differ where rows are not aligned")
					}
					exact := device.NewFrom(d, values, tokens, n, device.F64)
					defer d.Free(exact)
					other = gram(exact, device.F64)
				}
				limit, worst := 1e-3/math.Sqrt(float64(tokens)), 0.
				for i, v := range one {
					if e := math.Abs(float64(v) - float64(other[i])); !(e <= limit) {
						t.Fatalf("element %d of the triangle is %v by the fast kernel, %v by the plain one", i, v, other[i])
					} else {
						worst = max(worst, e)
					}
				}
				t.Logf("they differ by %.2g at most", worst)
			})
		}
	}
}

// What would be caught: a plan that counts with other scratch memory than Gram takes.
func TestGramScratch(t *testing.T) {
	d := gpu(t, Options{})
	for _, c := range []struct {
		tokens int
		cols   []int
		ones   bool
	}{{150, []int{264}, true}, {130, []int{264, 72, 72}, false}, {100, []int{33}, false}, {65, []int{264, 8, 8, 8, 8}, false}} {
		for _, typ := range []device.Type{device.BF16, device.F32, device.F64} {
			var xs []device.Tensor
			var ss []device.Sym
			for _, n := range c.cols {
				xs = append(xs, d.Alloc(c.tokens, n, typ))
				if c.ones {
					n++
				}
				ss = append(ss, device.AllocSym(d, n, typ.Acc()))
			}
			used, want := d.memory.used, d.memory.rounded(d.GramScratch(typ, c.tokens, c.cols, c.ones))
			d.closeMemory() // of spare blocks one may be larger than what is asked for
			d.memory.peak = used
			d.Gram(1, xs, 0, ss)
			if took := d.memory.peak - used; took != want {
				t.Errorf("%v: %+v takes %d bytes, GramScratch says %d", typ, c, took, want)
			}
			for k := range xs {
				d.Free(xs[k], ss[k].Packed)
			}
		}
	}
}
