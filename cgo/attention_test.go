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

// What would be caught: tensor cores and plain kernels that differ by more than the rounding of probabilities, at sizes of
// many tiles where there is a GPU; a result that differs from run to run, as a race between warps makes it.
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
			shapes[i].Query /= shapes[i].KeyValue
			shapes[i].KeyValue = 1
			shapes[i].Window /= 8
		}
	}
	for _, h := range shapes {
		h.Scale = 1 / math.Sqrt(float64(h.Dim))
		t.Run(fmt.Sprintf("%+v", h), func(t *testing.T) { attentionVersions(t, d, h) })
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
	run := func(alloc func(d *Device, rows, cols int, t device.Type) device.Tensor) map[string][]float32 {
		x := map[string]device.Tensor{}
		var all []device.Tensor
		for name, width := range widths {
			x[name] = alloc(d, n, width, device.BF16)
			all = append(all, x[name])
			if in := inputs[name]; in != nil {
				device.UploadSlice(d, in, x[name])
			}
		}
		lse := d.Alloc(n, h.Query, device.F32)
		d.Attention(h, x["q"], x["k"], x["v"], x["out"], lse)
		d.AttentionBackward(h, x["q"], x["k"], x["v"], x["out"], lse, x["dout"], x["dq"], x["dk"], x["dv"])
		got := map[string][]float32{"lse": device.DownloadSlice[float32](d, lse)}
		for name := range widths {
			if inputs[name] == nil {
				got[name] = device.DownloadSlice[float32](d, x[name])
			}
		}
		d.Free(append(all, lse)...)
		if err := d.Sync(); err != nil {
			t.Fatal(err)
		}
		return got
	}
	aligned := func(d *Device, rows, cols int, t device.Type) device.Tensor { return d.Alloc(rows, cols, t) }
	tensor, again, plain := run(aligned), run(aligned), run(unaligned)
	for name, want := range plain {
		if !slices.Equal(tensor[name], again[name]) {
			t.Errorf("%s differs in two equal calls", name)
		}
		limit := 1. / 128 // the rounding of p, ds, out and the result, each at most 1/512 of a number, and half that in the mean
		if name == "lse" {
			limit = 1e-5
		}
		var e, size float64
		for i, w := range want {
			e += math.Pow(float64(tensor[name][i])-float64(w), 2)
			size += math.Pow(float64(w), 2)
		}
		if e = math.Sqrt(e / size); !(e <= limit) {
			t.Errorf("%s: tensor cores and plain kernels differ by %.3g, at most %.3g is allowed", name, e, limit)
		} else {
			t.Logf("%s: tensor cores and plain kernels differ by %.3g", name, e)
		}
	}
}
