//go:build cuda

package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"surgeon/engine/device"
)

// unaligned is a tensor whose address is only that of an element, so that the plain kernels have to take it.
func unaligned(d *Device, rows, cols int, t device.Type) device.Tensor {
	n := rows * cols
	return d.Alloc(n+1, 1, t).Slice(1, n+1).Reshape(rows, cols)
}

// What would be caught: tensor cores and plain kernels that differ by more than the rounding of probabilities, float32 and
// float64, whose tiles are others, by more than float32's rounding, at sizes of many tiles where there is a GPU; a result that
// differs from run to run, as a race between warps makes it, or with the way in which numbers were copied.
func TestAttentionVersions(t *testing.T) {
	d := gpu(t, Options{})
	shapes := []device.Heads{
		{Length: 2048, Query: 8, KeyValue: 2, Dim: 64},
		{Length: 1000, Query: 3, KeyValue: 3, Dim: 80},
		{Length: 1111, Query: 4, KeyValue: 2, Dim: 96, Window: 333},
		{Length: 2000, Query: 4, KeyValue: 4, Dim: 128},
		{Length: 1500, Query: 4, KeyValue: 1, Dim: 128, Window: 129},
	}
	if strings.Contains(d.Name(), "emulated") {
		for i := range shapes {
			shapes[i].Length = 140 - 70*(i%2)
			shapes[i].Query = min(2, shapes[i].Query/shapes[i].KeyValue) // the parity suite has groups of 3
			shapes[i].KeyValue = 1
			shapes[i].Window /= 8
		}
	}
	for _, h := range shapes {
		h.Scale = 1 / math.Sqrt(float64(h.Dim))
		name := fmt.Sprintf("dim %d", h.Dim)
		if h.Window > 0 {
			name += ", window"
		}
		t.Run(name, func(t *testing.T) { attentionVersions(t, d, h) })
	}
}

func attentionVersions(t *testing.T, d *Device, h device.Heads) {
	const sequences = 2
	r := rand.New(rand.NewPCG(1, 1))
	n, wide, narrow := sequences*h.Length, h.Query*h.Dim, h.KeyValue*h.Dim
	widths := map[string]int{"q": wide, "k": narrow, "v": narrow, "dout": wide, "out": wide, "dq": wide, "dk": narrow, "dv": narrow}
	inputs := map[string][]float32{}
	for _, name := range []string{"q", "k", "v", "dout"} {
		x := make([]float32, n*widths[name])
		for i := range x {
			x[i] = float32(r.NormFloat64())
		}
		inputs[name] = x
	}
	// run makes both passes, with the out and lse that the first leaves.
	run := func(typ device.Type, alloc func(d *Device, rows, cols int, t device.Type) device.Tensor) map[string][]float64 {
		x := map[string]device.Tensor{}
		var all []device.Tensor
		for name, width := range widths {
			x[name] = alloc(d, n, width, typ)
			all = append(all, x[name])
			if in := inputs[name]; in != nil {
				device.UploadSlice(d, in, x[name])
			}
		}
		lse := d.Alloc(n, h.Query, typ.Acc())
		d.Attention(h, x["q"], x["k"], x["v"], x["out"], lse)
		d.AttentionBackward(h, x["q"], x["k"], x["v"], x["out"], lse, x["dout"], x["dq"], x["dk"], x["dv"])
		got := map[string][]float64{"lse": device.DownloadSlice[float64](d, lse)}
		for name := range widths {
			if inputs[name] == nil {
				got[name] = device.DownloadSlice[float64](d, x[name])
			}
		}
		d.Free(append(all, lse)...)
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		return got
	}
	aligned := func(d *Device, rows, cols int, t device.Type) device.Tensor { return d.Alloc(rows, cols, t) }
	// near compares all results by the root of the mean square.
	near := func(t *testing.T, what string, got, want map[string][]float64, limit, limitLse float64) {
		for name := range want {
			limit := limit
			if name == "lse" {
				limit = limitLse
			}
			var e, size float64
			for i, w := range want[name] {
				e += math.Pow(got[name][i]-w, 2)
				size += w * w
			}
			if e = math.Sqrt(e / size); !(e <= limit) {
				t.Errorf("%s: %s differ by %.3g, at most %.3g is allowed", name, what, e, limit)
			} else {
				t.Logf("%s: %s differ by %.3g", name, what, e)
			}
		}
	}
	same := func(t *testing.T, what string, a, b map[string][]float64) {
		for name := range a {
			if !slices.Equal(a[name], b[name]) {
				t.Fatalf("%s: %s differ", name, what)
			}
		}
	}
	t.Run("bfloat16", func(t *testing.T) {
		tensor := run(device.BF16, aligned)
		same(t, "tensor cores in two equal calls", tensor, run(device.BF16, aligned))
		// The rounding of p, ds, out and the result, each at most 1/512 of a number, and half that in the mean.
		near(t, "tensor cores and plain kernels", tensor, run(device.BF16, unaligned), 1./128, 1e-5)
	})
	t.Run("float32", func(t *testing.T) {
		single := run(device.F32, aligned)
		same(t, "float32 in two equal calls", single, run(device.F32, aligned))
		same(t, "float32 copied in pieces and in numbers", single, run(device.F32, unaligned))
		// As in the parity suite, for sums over all tokens and columns.
		near(t, "float32 and float64", single, run(device.F64, aligned), 8*0x1p-23*math.Sqrt(float64(2*(h.Length+h.Dim))), 1e-6)
	})
}
