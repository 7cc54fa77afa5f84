package cpu_test

import (
	"slices"
	"strings"
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
)

// Would catch a check that is missing, or that complains about the wrong thing: misuse that is let through writes over the
// memory of others.
func TestMisuse(t *testing.T) {
	d, other := cpu.Open(), cpu.Open()
	mk := func(r, c int) device.Tensor { return d.Alloc(r, c, device.F32) }
	f64 := func(r, c int) device.Tensor { return d.Alloc(r, c, device.F64) }
	x, y, w, b16 := mk(4, 6), mk(4, 6), mk(8, 4), d.Alloc(4, 6, device.BF16)
	row, four, sq := mk(1, 6), mk(1, 4), mk(4, 4)
	sym, sym2, sym64 := device.AllocSym(d, 4, device.F32), device.AllocSym(d, 4, device.F32), device.AllocSym(d, 4, device.F64)
	within := device.Sym{N: 4, Packed: w.Reshape(32, 1).Slice(2, 12).Reshape(1, 10)}
	l, rhs := f64(4, 4), f64(4, 3)
	list := func(ts ...device.Tensor) []device.Tensor { return ts }
	syms := func(ss ...device.Sym) []device.Sym { return ss }
	freed := mk(4, 6)
	d.Free(freed)
	h := device.Heads{Length: 2, Query: 2, KeyValue: 1, Dim: 3, Scale: 1}
	kv, lse := mk(4, 3), mk(4, 2)
	kv2, dq, dk, dv := mk(4, 3), mk(4, 6), mk(4, 3), mk(4, 3)
	for _, c := range []struct {
		call func()
		want string
	}{
		{func() { d.Alloc(-1, 2, device.F32) }, "Alloc: tensor (-1×2 float32) is not a tensor"},
		{func() { d.Alloc(1, 2, 9) }, "is not a tensor"},
		{func() { d.Alloc(1<<40, 1<<40, device.F32) }, "more than can be addressed"},
		{func() { d.Upload(make([]byte, 95), device.F32, x) }, "Upload: src holds 95 bytes, want 96"},
		{func() { d.Download(x, device.BF16, make([]byte, 96)) }, "Download: dst holds 96 bytes, want 48"},
		{func() { d.Copy(x, sq) }, "Copy: x (4×6 float32) and y (4×4 float32): want equal shapes"},
		{func() { d.Copy(w.Slice(0, 4), w.Slice(3, 7)) }, "Copy: output y (4×4 float32) overlaps x"},
		{func() { d.Zero(freed) }, "after it was freed"},
		{func() { d.Zero(other.Alloc(1, 1, device.F32)) }, "not made by this device"},
		{func() { d.Zero(device.Tensor{Rows: 1, Cols: 1, Type: device.F32}) }, "not made by this device"},
		{func() { d.Free(freed) }, "after it was freed"},
		{func() { v := x; v.Rows = 5; d.Zero(v) }, "not within its allocation"},
		{func() { v := x; v.Type = device.F64; d.Zero(v) }, "not within its allocation"},
		{func() { x.Slice(3, 5) }, "rows 3:5 of a tensor of 4 rows"},
		{func() { x.Reshape(5, 5) }, "reshaped to 5×5"},
		{func() { d.Gemm(false, false, 1, x, y, 0, sq) }, "Gemm: a (4×6 float32) and b (4×6 float32): inner sizes disagree"},
		{func() { d.Gemm(false, true, 1, x, y, 0, w) }, "Gemm: a (4×6 float32) times bᵀ, b (4×6 float32) into c (8×4 float32), want 4×4"},
		{func() { d.Gemm(false, true, 1, x, b16, 0, sq) }, "want equal types"},
		{func() { d.Gemm(false, true, 1, x, y, 0, l) }, "want equal types, or float32 from bfloat16"},
		{func() { d.Gemm(false, false, 1, sq, sq, 0, sq) }, "Gemm: output c (4×4 float32) overlaps a"},
		{func() { d.Gram(1, list(x), 0, syms(sym)) }, "Gram: s[0] is of order 4 for x[0] (4×6 float32), want 6, or 7 with a constant 1"},
		{func() { d.Gram(1, list(sq, x), 0, syms(sym, sym2)) }, "Gram: s[1] is of order 4 for x[1] (4×6 float32), want 6"},
		{func() { d.Gram(1, list(sq), 0, syms(sym64)) }, "Gram: s[0] (1×10 float64) and x[0] (4×4 float32): s must have the type in which sums are kept"},
		{func() { d.Gram(1, list(sq), 0, syms(device.Sym{N: 4, Packed: row})) }, "Gram: s[0] is of order 4 but its triangle is 1×6, want 1×10"},
		{func() { d.Gram(1, list(sq, x), 0, syms(sym)) }, "Gram: 2 matrices x and 1 outputs s"},
		{func() { d.Gram(1, list(sq, w), 0, syms(sym, sym2)) }, "Gram: x[1] (8×4 float32) and x[0] (4×4 float32): want equally many rows"},
		{func() { d.Gram(1, list(sq, l), 0, syms(sym, sym64)) }, "Gram: x[1] (4×4 float64) and x[0] (4×4 float32): want equal types"},
		{func() { d.Gram(1, list(sq, w.Slice(0, 4)), 0, syms(sym, sym)) }, "Gram: output s[1] (1×10 float32) overlaps s[0] (1×10 float32)"},
		{func() { d.Gram(1, list(sq, w.Slice(0, 4)), 0, syms(within, sym)) }, "Gram: output s[0] (1×10 float32) overlaps x[1] (4×4 float32)"},
		{func() { d.Axpy(1, x, b16) }, "Axpy: y (4×6 bfloat16) and x (4×6 float32): want equal types"},
		{func() { d.Axpy(1, x, x) }, "Axpy: output y (4×6 float32) overlaps x"},
		{func() { d.Gather(x, []int32{0, 4}, nil, mk(2, 6)) }, "Gather: rows[1] is 4, want 0 to 3"},
		{func() { d.Gather(x, nil, []int32{-1}, mk(4, 1)) }, "Gather: cols[0] is -1"},
		{func() { d.Gather(x, []int32{1}, nil, mk(2, 6)) }, "y (2×6 float32), want 1×6 float32"},
		{func() { d.Scatter(x, []int32{0, 2, 1, 2}, nil, mk(5, 6)) }, "Scatter: rows holds 2 twice"},
		{func() { d.Scatter(x, nil, []int32{0, 1, 2, 3, 4, 4}, mk(4, 8)) }, "Scatter: cols holds 4 twice"},
		{func() { d.Extract(sym, nil, []int32{4}, mk(4, 1)) }, "Extract: cols[0] is 4"},
		{func() { d.Extract(sym64, nil, nil, sq) }, "y must be float64 or of the type of s"},
		{func() { d.AddDiagonal(1, x) }, "AddDiagonal: a (4×6 float32) is not square"},
		{func() { d.Diagonal(sym, make([]float64, 3)) }, "Diagonal: dst holds 3 elements, want the order of s, 4"},
		{func() { d.Cholesky(l, sq) }, "Cholesky: a[1] (4×4 float32), want 4×4 float64"},
		{func() { d.Cholesky(l, l) }, "Cholesky: output a[1] (4×4 float64) overlaps a[0]"},
		{func() { d.CholeskySolve(device.Right, list(l), list(rhs)) }, "b must have as many columns as l"},
		{func() { d.CholeskySolve(device.Left, list(l), list(f64(3, 4))) }, "b must have as many rows as l"},
		{func() { d.CholeskySolve(device.Left, list(sq), list(mk(4, 2))) }, "b[0] (4×2 float32) and l[0] (4×4 float32): float32 is for single right sides"},
		{func() { d.CholeskySolve(7, list(l), list(rhs)) }, "side is 7"},
		{func() { d.CholeskySolve(device.Left, list(l), nil) }, "CholeskySolve: 1 factors and 0 right sides"},
		{func() { d.CholeskySolve(device.Left, list(l), list(l)) }, "CholeskySolve: output b[0] (4×4 float64) overlaps l[0]"},
		{func() { d.CholeskySolve(device.Left, list(l, l), list(rhs, rhs)) }, "CholeskySolve: output b[1] (4×3 float64) overlaps b[0]"},
		{func() { d.CholeskyInverseDiag([]device.Tensor{l}, nil) }, "1 factors and 0 outputs"},
		{func() { d.CholeskyInverseDiag([]device.Tensor{l}, []device.Tensor{l.Slice(0, 1)}) }, "overlaps l[0]"},
		{func() { d.Eigh(false, []device.Tensor{l}, []device.Tensor{f64(1, 4)}, nil) }, "Eigh: 1 matrices, 1 values and 0 vectors"},
		{func() { d.Eigh(false, []device.Tensor{sq}, []device.Tensor{f64(1, 4)}, []device.Tensor{f64(4, 4)}) }, "Eigh: a[0] (4×4 float32), want 4×4 float64"},
		{func() { d.Eigh(false, []device.Tensor{rhs}, []device.Tensor{f64(1, 4)}, []device.Tensor{f64(4, 4)}) }, "Eigh: a[0] (4×3 float64) is not square"},
		{func() { d.Eigh(false, []device.Tensor{l}, []device.Tensor{f64(1, 3)}, []device.Tensor{f64(4, 4)}) }, "Eigh: values[0] (1×3 float64), want 1×4 float64"},
		{func() { d.Eigh(true, []device.Tensor{l}, []device.Tensor{f64(1, 4)}, []device.Tensor{l}) }, "Eigh: output vectors[0] (4×4 float64) overlaps a[0]"},
		{func() { d.RowDot(x, y, row) }, "RowDot: d (1×6 float32), want 1×4 float32"},
		{func() { d.ColDot(x, y, four) }, "ColDot: d (1×4 float32), want 1×6 float32"},
		{func() { d.Energies(2, l, rhs, f64(1, 3)) }, "Energies: side is 2, want Left or Right"},
		{func() { d.Energies(device.Right, l, rhs, f64(1, 4)) }, "Energies: s (4×4 float64), want 3×3 float64"},
		{func() { d.Energies(device.Left, l, rhs, f64(1, 4)) }, "Energies: e (1×4 float64), want 1×3 float64"},
		{func() { d.Energies(device.Left, l, f64(4, 4), l.Slice(0, 1)) }, "Energies: output e (1×4 float64) overlaps s"},
		{func() { d.ScaleRoot(2, four, x, y) }, "ScaleRoot: sign is 2, want 1 or -1"},
		{func() { d.ScaleRoot(1, row, x, y) }, "ScaleRoot: w (1×6 float32), want 1×4 float32"},
		{func() { d.ScaleRoot(1, four, w.Slice(0, 4), w.Slice(1, 5)) }, "ScaleRoot: output y (4×4 float32) overlaps a part of x"},
		{func() { d.Square(x, sq) }, "Square: y (4×4 float32) and x (4×6 float32): want equal shapes"},
		{func() { d.MaxAbs(x, four, four) }, "MaxAbs: c (1×4 float32), want 1×6"},
		{func() { d.WatchFinite(1, device.Sym{N: 4, Packed: b16.Slice(0, 1)}) }, "WatchFinite: s is of order 4"},
		{func() { d.ElementCosts(x, row, row, x) }, "ElementCosts: w (4×6 float32), want float64"},
		{func() { d.ElementCosts(rhs, f64(1, 3), f64(1, 3), f64(4, 3)) }, "ElementCosts: r (1×3 float64), want 1×4 float64"},
		{func() { d.ElementCosts(rhs, f64(1, 4), f64(1, 3), rhs) }, "ElementCosts: output cost (4×3 float64) overlaps w"},
		{func() { d.Histogram(x, 0, 0, make([]int64, 2)) }, "Histogram: x (4×6 float32), want float64"},
		{func() { d.Histogram(rhs, 0, 0, make([]int64, 3)) }, "Histogram: counts has 3 places, want a power of two, at most 8192"},
		{func() { d.Histogram(rhs, 0, 0, nil) }, "Histogram: counts has 0 places"},
		{func() { d.Histogram(rhs, 0, 0, make([]int64, 2*device.HistogramMost)) }, "Histogram: counts has 16384 places"},
		{func() { d.Histogram(rhs, 0, 60, make([]int64, 32)) }, "Histogram: a digit of 5 bits after 60, want 64 in all at most"},
		{func() { d.Histogram(rhs, 0, -1, make([]int64, 2)) }, "a digit of 1 bits after -1"},
		{func() { d.Histogram(rhs, 4, 2, make([]int64, 2)) }, "Histogram: the prefix 0x4 is longer than 2 bits"},
		{func() { d.Compare(rhs, 0, make([]device.Order, 11)) }, "Compare: marks has 11 places, want one for each element of x (4×3 float64)"},
		{func() { d.Smallest(2, 2, rhs, device.Tensor{}, nil) }, "Smallest: the 2 smallest of runs of 2 in x (4×3 float64), want at most all of a run, and whole runs in a row"},
		{func() { d.Smallest(4, 3, rhs, device.Tensor{}, nil) }, "Smallest: the 4 smallest of runs of 3"},
		{func() { d.Smallest(0, 0, rhs, device.Tensor{}, nil) }, "Smallest: the 0 smallest of runs of 0"},
		{func() { d.Smallest(1, 3, rhs, f64(4, 3), nil) }, "Smallest: sums (4×3 float64), want 4×1 float64"},
		{func() { d.Smallest(1, 1, rhs, rhs, nil) }, "Smallest: output sums (4×3 float64) overlaps x"},
		{func() { d.Smallest(1, 3, rhs, device.Tensor{}, make([]bool, 4)) }, "Smallest: marks has 4 places, want one for each element of x"},
		{func() { d.Divide(rhs, rhs, f64(3, 4)) }, "Divide: z (3×4 float64) and x (4×3 float64): want equal shapes"},
		{func() { d.Divide(l.Slice(0, 2), f64(2, 4), l.Slice(1, 3)) }, "Divide: output z (2×4 float64) overlaps a part of x"},
		{func() { d.DivideOuter(1, f64(1, 3), f64(1, 3), rhs) }, "DivideOuter: s (1×3 float64), want 1×4 float64"},
		{func() { d.DivideOuter(1, l.Slice(0, 1), l.Slice(1, 2), l) }, "DivideOuter: output x (4×4 float64) overlaps s"},
		{func() { d.Embed(x, []int32{0, 4}, 0, mk(2, 6)) }, "Embed: ids[1] is 4, want 0 to 3"},
		{func() { d.Linear(x, sq, four, 0, sq) }, "Linear: w (4×4 float32) and x (4×6 float32): want equally many columns"},
		{func() { d.Linear(x, b16, four, 0, sq) }, "Linear: w (4×6 bfloat16) and x (4×6 float32): want equal types"},
		{func() { d.Linear(x, y, row, 0, sq) }, "Linear: b (1×6 float32), want 1×4 float32"},
		{func() { d.Linear(x, y, four, 0, x) }, "Linear: y (4×6 float32), want 4×4 float32"},
		{func() { d.Linear(sq, w.Slice(0, 4), four, 0, w.Slice(1, 5)) }, "Linear: output y (4×4 float32) overlaps w"},
		{func() { d.RMSNorm(x, four, 0, y) }, "RMSNorm: gain (1×4 float32), want 1×6"},
		{func() { d.RMSNorm(w.Slice(0, 4), four, 0, w.Slice(1, 5)) }, "RMSNorm: output y (4×4 float32) overlaps a part of x"},
		{func() { d.LayerNorm(x, row, b16.Slice(0, 1), 0, y) }, "LayerNorm: bias (1×6 bfloat16), want 1×6 float32"},
		{func() { d.RMSNormBackward(x, row, 0, y, 0, x) }, "RMSNormBackward: output dx (4×6 float32) overlaps x"},
		{func() { d.LayerNormBackward(x, row, 0, sq, 0, y) }, "LayerNormBackward: dy (4×4 float32) and x (4×6 float32): want equal shapes"},
		{func() { d.Rope(mk(3, 3), mk(3, 3), false, x) }, "Rope: x (4×6 float32) and cos (3×3 float32): the rows of x are not whole sequences"},
		{func() { d.Rope(mk(2, 2), mk(2, 2), false, x) }, "the columns of x are not whole heads"},
		{func() { d.Rope(d.Alloc(2, 3, device.BF16), d.Alloc(2, 3, device.BF16), false, b16) }, "must have the type in which sums are kept"},
		{func() { d.Attention(device.Heads{Length: 2, Query: 3, KeyValue: 2, Dim: 2}, x, kv, kv2, y, lse) }, "is no shape of an attention"},
		{func() { d.Attention(device.Heads{Length: 3, Query: 2, KeyValue: 1, Dim: 3}, x, kv, kv2, y, lse) }, "not a number of whole sequences of 3"},
		{func() { d.Attention(h, x, kv, sq, y, lse) }, "Attention: v (4×4 float32) and k (4×3 float32)"},
		{func() { d.Attention(h, x, kv, kv2, x, lse) }, "Attention: output out (4×6 float32) overlaps q"},
		{func() { d.Attention(h, x, kv, kv2, y, four) }, "Attention: lse (1×4 float32), want 4×2"},
		{func() { d.AttentionBackward(h, x, kv, kv2, y, device.Tensor{}, y, dq, dk, dv) }, "there is no lse"},
		{func() { d.AttentionBackward(h, x, kv, kv2, y, lse, y, dq, dk, dk) }, "AttentionBackward: output dk (4×3 float32) overlaps dv"},
		{func() { d.SwiGLU(x, sq, y) }, "SwiGLU: up (4×4 float32) and gate (4×6 float32)"},
		{func() { d.SwiGLUBackward(x, y, dq, y, x) }, "SwiGLUBackward: output dgate (4×6 float32) overlaps up"},
		{func() { d.ReLU(x, sq) }, "ReLU: y (4×4 float32) and x (4×6 float32)"},
		{func() { d.ReLUBackward(x, y, sq) }, "ReLUBackward: dx (4×4 float32) and y (4×6 float32)"},
		{func() { d.CrossEntropy(x, []int32{0, 1, 2}, true, four) }, "CrossEntropy: 3 targets for logits (4×6 float32)"},
		{func() { d.CrossEntropy(x, []int32{0, 1, 6, 2}, true, four) }, "CrossEntropy: targets[2] is 6, want -1 to 5"},
		{func() { d.CrossEntropy(x, []int32{0, 1, -2, 2}, true, four) }, "targets[2] is -2"},
		{func() { d.Sample(x, make([]float64, 3), make([]int32, 4)) }, "Sample: 3 numbers and 4 ids for logits (4×6 float32)"},
		{func() { d.Sample(x, []float64{0, 0, 1, 0}, make([]int32, 4)) }, "Sample: uniform[2] is 1, want 0 or more and less than 1"},
		{func() { d.Sample(mk(1, 0), []float64{0}, make([]int32, 1)) }, "Sample: logits (1×0 float32) has nothing to draw from"},
	} {
		if got := misuse(c.call); !strings.Contains(got, c.want) {
			t.Errorf("said %q, want %q", got, c.want)
		}
	}
}

// misuse is what a call panics with.
func misuse(call func()) (said string) {
	defer func() {
		if m, ok := recover().(device.Misuse); ok {
			said = m.Error()
		}
	}()
	call()
	return "nothing"
}

// Would catch checks that take the tensors of a device that has failed, which have no Handle, for misuse: the failure would
// be hidden behind a panic.
func TestChecksLetFailedTensorsThrough(t *testing.T) {
	failed := func(r, c int) device.Tensor { return device.Tensor{Rows: r, Cols: c, Type: device.F32} }
	got := misuse(func() {
		device.CheckGemm(false, false, failed(3, 3), failed(3, 3), failed(3, 3))
		device.CheckAxpy(failed(3, 4), failed(3, 4))
		device.CheckGram([]device.Tensor{failed(5, 3), failed(5, 2)}, []device.Sym{{N: 3, Packed: failed(1, 6)}, {N: 3, Packed: failed(1, 6)}})
		device.CheckSwiGLUBackward(failed(3, 4), failed(3, 4), failed(3, 4), failed(3, 4), failed(3, 4))
	})
	if got != "nothing" {
		t.Errorf("said %q", got)
	}
}

// Would catch memory that is counted wrong, not used again, or kept beyond what the tensors alone once needed.
func TestMemory(t *testing.T) {
	d := cpu.Open()
	a, b := d.Alloc(100, 10, device.F32), d.Alloc(10, 10, device.F64)
	if m := d.Memory(); m.Used != 4800 || m.Peak != 4800 || m.Total <= 0 || !m.Host {
		t.Errorf("%+v after 4800 bytes", m)
	}
	d.Free(a, device.Tensor{})
	c := d.Alloc(10, 10, device.BF16)
	if m := d.Memory(); m.Used != 1000 || m.Peak != 4800 {
		t.Errorf("%+v, want 1000 used and a peak of 4800 bytes", m)
	}
	device.UploadSlice(d, slices.Repeat([]float32{7}, 100), c)
	again := d.Alloc(500, 2, device.F32) // the memory of a
	if got := misuse(func() { d.Zero(a) }); !strings.Contains(got, "after it was freed") {
		t.Errorf("a freed tensor whose memory is in use again: %q", got)
	}
	d.Zero(again)
	if v := device.DownloadSlice[float32](d, c)[99]; v != 7 {
		t.Errorf("an element of another tensor is %v", v)
	}
	d.Free(again, b, c)
	if n := testing.AllocsPerRun(100, func() { d.Free(d.Alloc(100, 10, device.F32)) }); n > 2 {
		t.Errorf("%v allocations for a tensor of a size that was there before", n)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if got := misuse(func() { d.Alloc(1, 1, device.F32) }); !strings.Contains(got, "closed") {
		t.Errorf("said %q on a closed device", got)
	}
}
