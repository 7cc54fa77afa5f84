package devicetest

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"surgeon/engine/device"
)

// Bench runs all rows of the table that have shapes for it, as sub-benchmarks "operation/shape". It reports GFLOP/s where the
// row counts FLOPs, else GB/s, and a checksum of the first output: the same on equal devices, and proof that there was one.
// Operands that a call changes are set again before each call, outside the time.
func Bench(b *testing.B, d device.Device, t device.Type) {
	for _, op := range Ops() {
		typ := t
		if op.Types != nil && !slices.Contains(op.Types, t) {
			typ = op.Types[len(op.Types)-1]
		}
		for _, s := range op.Bench {
			b.Run(op.Name+"/"+s.String(), func(b *testing.B) {
				bench(b, d, op.Case(s, rand.New(rand.NewPCG(1, 1))), typ)
			})
		}
	}
}

func bench(b *testing.B, d device.Device, c Case, typ device.Type) {
	r := rand.New(rand.NewPCG(1, 2))
	var x, kept []device.Tensor
	for _, o := range c.Operands {
		x = append(x, device.NewFrom(d, o.Values(typ, r, false), o.Rows, o.Cols, o.typed(typ)))
		kept = append(kept, device.Tensor{})
		if o.Role == InOut {
			kept[len(kept)-1] = d.Alloc(o.Rows, o.Cols, o.typed(typ))
			d.Copy(x[len(x)-1], kept[len(kept)-1])
		}
	}
	sync := func() {
		if err := d.Sync(); err != nil {
			b.Fatal(err)
		}
	}
	c.Call(d, x) // warm-up
	for b.Loop() {
		b.StopTimer()
		for i := range kept {
			if !kept[i].IsZero() {
				d.Copy(kept[i], x[i])
			}
		}
		sync()
		b.StartTimer()
		c.Call(d, x)
		sync()
	}
	perSecond := float64(b.N) / b.Elapsed().Seconds() / 1e9
	if c.FLOPs > 0 {
		b.ReportMetric(c.FLOPs*perSecond, "GFLOP/s")
	} else {
		b.ReportMetric(c.Bytes(typ)*perSecond, "GB/s")
	}
	for i, o := range c.Operands {
		if o.Role != In {
			sum := 0.
			for _, v := range device.DownloadSlice[float64](d, x[i]) {
				if !math.IsNaN(v) { // above the diagonal of a factor
					sum += math.Abs(v)
				}
			}
			b.ReportMetric(sum, "checksum")
			break
		}
	}
	d.Free(x...)
	d.Free(kept...)
}
