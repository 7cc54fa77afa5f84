package devicetest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"surgeon/engine/device"
)

// Benchmark is a call to be timed: an operation at a shape that a real model gives it, in the type it is called in there.
type Benchmark struct {
	Op    Op
	Shape Shape
	Type  device.Type

	library libraryCall
}

// libraryCall makes the calls of a library's that give the same as an operation, or more than that, where the device offers them.
type libraryCall func(d device.Device, s Shape) (c Case, offered bool)

// LibraryCase is the library's call, or calls, that the benchmark is set beside, where there are some.
func (b Benchmark) LibraryCase(d device.Device) (c Case, offered bool) {
	if b.library == nil {
		return c, false
	}
	return b.library(d, b.Shape)
}

// Name is "Gram ones=0 beta=0.5/16384×4096/bfloat16".
func (b Benchmark) Name() string { return fmt.Sprintf("%s/%s/%s", b.Op.Name, b.Shape, b.Type) }

// Benchmarks are the calls that take the time of a run, at layers of SmolLM2-135M, OPT-125m, OPT-6.7B and Llama-2-7B. The
// passes over a model are in type t, the sums in its Acc, costs and updates in float64.
func Benchmarks(t device.Type) []Benchmark {
	ops := map[string]Op{}
	for _, op := range Ops() {
		ops[op.Name] = op
	}
	var all []Benchmark
	for _, row := range timed {
		op, ok := ops[row.op]
		if !ok {
			panic("devicetest: there is no operation " + row.op + " to be timed")
		}
		typ := t
		if row.in != nil {
			typ = row.in(t)
		}
		if op.Types != nil && !slices.Contains(op.Types, typ) {
			continue
		}
		for _, s := range row.shapes {
			all = append(all, Benchmark{Op: op, Shape: s, Type: typ, library: row.library})
		}
	}
	return all
}

// Passes over 512 tokens of SmolLM2-135M (width 576, inner 1536), 2048 of OPT-125m (768, 3072), and 8192 of Llama-2-7B
// (4096, 11008) and of OPT-6.7B (4096, 16384).
var (
	rms     = []Shape{{M: 512, N: 576}, {M: 8192, N: 4096}}
	centred = []Shape{{M: 2048, N: 768}, {M: 8192, N: 4096}}
	gated   = []Shape{{M: 512, N: 1536}, {M: 8192, N: 11008}}
	ungated = []Shape{{M: 2048, N: 3072}, {M: 8192, N: 16384}}
	rotated = []Shape{
		{M: 1, Heads: device.Heads{Length: 512, Query: 9, KeyValue: 9, Dim: 64}},
		{M: 2, Heads: device.Heads{Length: 4096, Query: 32, KeyValue: 32, Dim: 128}},
	}
	// weights are rows × columns of a layer that costs and updates are made for, and orders those of its factors.
	weights = []Shape{{M: 576, N: 1536}, {M: 4096, N: 11008}, {M: 11008, N: 4096}}
	factors = []Shape{{M: 1536}, {M: 4096}, {M: 11008}}
	// smol are those of all layers of a block of SmolLM2-135M.
	smol = []Shape{{M: 192, N: 576, K: 1536}}
)

var timed = []struct {
	op      string
	in      func(device.Type) device.Type // the type, given that of the model; nil for that
	shapes  []Shape
	library libraryCall
}{
	// y = x·Wᵀ
	{op: "Gemm NT beta=0", shapes: []Shape{{M: 512, N: 576, K: 576}, {M: 512, N: 1536, K: 576}, {M: 512, N: 576, K: 1536},
		{M: 8192, N: 4096, K: 4096}, {M: 8192, N: 11008, K: 4096}, {M: 8192, N: 4096, K: 11008}}},
	// dx = dy·W
	{op: "Gemm NN beta=0", shapes: []Shape{{M: 512, N: 576, K: 576}, {M: 512, N: 1536, K: 576}, {M: 512, N: 576, K: 1536},
		{M: 8192, N: 4096, K: 4096}, {M: 8192, N: 11008, K: 4096}, {M: 8192, N: 4096, K: 11008}}},
	{op: "Gemm TN beta=0", shapes: []Shape{{M: 576, N: 576, K: 512}, {M: 4096, N: 4096, K: 8192}}},
	{op: "Gemm bfloat16 into float32", shapes: []Shape{{M: 341, N: 49152, K: 576}, {M: 524, N: 32000, K: 4096}}}, // logits
	// fc1 and q of OPT-125m, then of OPT-6.7B; o and fc2 of both, which add to what is there.
	{op: "Linear beta=0", shapes: []Shape{{M: 2048, N: 3072, K: 768}, {M: 2048, N: 768, K: 768}, {M: 8192, N: 16384, K: 4096}, {M: 8192, N: 4096, K: 4096}}, library: linearApart(0)},
	{op: "Linear beta=1", shapes: []Shape{{M: 2048, N: 768, K: 768}, {M: 2048, N: 768, K: 3072}, {M: 8192, N: 4096, K: 4096}, {M: 8192, N: 4096, K: 16384}}, library: linearApart(1)},
	{op: "Gram ones=0 beta=0", shapes: []Shape{{M: 512, N: 1536}, {M: 16384, N: 4096}, {M: 16384, N: 11008}}, library: products(alone(0))},
	{op: "Gram ones=0 beta=0.5", shapes: []Shape{{M: 512, N: 576}, {M: 512, N: 1536}, {M: 2048, N: 4096}, {M: 16384, N: 4096}, {M: 16384, N: 11008}}, library: products(alone(0))},
	{op: "Gram ones=1 beta=1", shapes: []Shape{{M: 2048, N: 768}, {M: 2048, N: 3072}, {M: 16384, N: 4096}}, library: products(alone(0))},
	{op: "Gram of q, k, v", shapes: []Shape{{M: 512, N: 576, K: 192}, {M: 2048, N: 576, K: 192}, {M: 16384, N: 576, K: 192}, {M: 8192, N: 4096, K: 4096}}, library: products(ofAttention)},
	{op: "Gram of gate and up", shapes: []Shape{{M: 512, N: 1536}, {M: 2048, N: 1536}, {M: 16384, N: 1536}, {M: 8192, N: 11008}}, library: products(ofMLP)},
	{op: "Embed beta=0", shapes: rms},
	{op: "RMSNorm", shapes: rms},
	{op: "RMSNormBackward beta=1", shapes: rms},
	{op: "LayerNorm", shapes: centred},
	{op: "LayerNormBackward beta=1", shapes: centred},
	{op: "Rope inverse=false", shapes: rotated},
	{op: "Attention", shapes: benchHeads},
	{op: "AttentionBackward", shapes: benchHeads},
	{op: "SwiGLU", shapes: gated},
	{op: "SwiGLUBackward in place", shapes: gated},
	{op: "ReLU", shapes: ungated},
	{op: "ReLUBackward in place", shapes: ungated},
	{op: "CrossEntropy grad=false", in: acc, shapes: []Shape{{M: 2048, N: 32000}}},
	{op: "CrossEntropy grad=true", in: acc, shapes: []Shape{{M: 341, N: 49152}, {M: 2048, N: 32000}}},

	{op: "ScaleRoot sign=1", in: acc, shapes: rms},
	{op: "Square", in: acc, shapes: rms},
	{op: "Sample", in: acc, shapes: []Shape{{M: 341, N: 49152}, {M: 2048, N: 32000}}},

	{op: "Gemm NN beta=0", in: float64s, shapes: []Shape{{M: 576, N: 1536, K: 1536}, {M: 4096, N: 11008, K: 11008}}},
	{op: "Energies left", in: float64s, shapes: []Shape{{M: 1536, N: 576}, {M: 4096, N: 4096}, {M: 11008, N: 4096}}},
	{op: "Energies right", in: float64s, shapes: []Shape{{M: 576, N: 1536}, {M: 4096, N: 4096}, {M: 4096, N: 11008}}},
	{op: "Extract some=false", in: acc, shapes: factors},
	{op: "Extract some=true into float64", in: acc, shapes: factors},
	{op: "AddDiagonal", in: float64s, shapes: factors},
	{op: "Cholesky of one", in: float64s, shapes: factors},
	{op: "Cholesky of many", in: float64s, shapes: []Shape{{M: 200}, {M: 1000}}}, // groups of elements
	{op: "Cholesky of a block", in: float64s, shapes: append(smol, Shape{M: 4096, N: 4096, K: 11008})},
	{op: "CholeskyInverseDiag of a block", in: float64s, shapes: smol},
	{op: "CholeskySolve left of a block", in: float64s, shapes: smol},
	{op: "CholeskySolve right of a block", in: float64s, shapes: smol},
	{op: "CholeskyInverseDiag", in: float64s, shapes: []Shape{{M: 1536, N: 1}, {M: 4096, N: 1}, {M: 11008, N: 1}}},
	// As many right sides as a shot removes of a row or column: a twentieth of them. One for each row of single weights.
	{op: "CholeskySolve left of many", in: acc, shapes: []Shape{{M: 288, N: 1}, {M: 2048, N: 1}}},
	{op: "CholeskySolve left", in: float64s, shapes: []Shape{{M: 1536, N: 77}, {M: 4096, N: 205}, {M: 11008, N: 551}}},
	{op: "CholeskySolve right", in: float64s, shapes: []Shape{{M: 1536, N: 77}, {M: 4096, N: 205}, {M: 11008, N: 551}}},
	{op: "Eigh", in: float64s, shapes: []Shape{{M: 576, N: 32}}, library: batch},
	{op: "Eigh warm", in: float64s, shapes: []Shape{{M: 576, N: 32}}, library: batch},
	{op: "RowDot", in: float64s, shapes: weights},
	{op: "ColDot", in: float64s, shapes: weights},
	{op: "MaxAbs", in: float64s, shapes: weights},
	{op: "ElementCosts", in: float64s, shapes: weights[:2]},
	{op: "Histogram bits=0 digit=12 of=2", in: float64s, shapes: weights[:2]},
	{op: "Smallest 2 of 4, sums", in: float64s, shapes: []Shape{{M: 576, N: 384}, {M: 4096, N: 2752}}},
	{op: "Axpy", in: float64s, shapes: weights[:2]},
	{op: "Gather rows=true cols=true", in: float64s, shapes: weights[:2]},
	{op: "Scatter rows=true cols=true", in: float64s, shapes: weights[:2]},
}

// products are the whole of xᵀx for each x of M rows, one call after the other: what Gram makes half of.
func products(of func(Shape) []columns) libraryCall {
	return func(_ device.Device, s Shape) (c Case, offered bool) {
		for _, m := range of(s) {
			c.Operands = append(c.Operands, in("x", s.M, m.n), out("c", m.n, m.n).as(acc))
		}
		c.Call = func(d device.Device, x []device.Tensor) []float64 {
			for k := 0; k < len(x); k += 2 {
				d.Gemm(true, false, 1, x[k], x[k], 0, x[k+1])
			}
			return nil
		}
		return c, true
	}
}

// apartLinear is a device that can also make Linear by a kernel for the bias and a product of a library, whatever the shape.
type apartLinear interface {
	LinearApart(x, w, b device.Tensor, beta float64, y device.Tensor)
}

// linearApart is Linear made so.
func linearApart(beta float64) libraryCall {
	return func(d device.Device, s Shape) (Case, bool) {
		_, offered := d.(apartLinear)
		c := linear(beta).Case(s, nil)
		c.Call = func(d device.Device, x []device.Tensor) []float64 {
			d.(apartLinear).LinearApart(x[0], x[1], x[2], beta, x[3])
			return nil
		}
		return c, offered
	}
}

// batchEigh is a device with a library that decomposes many matrices of one order in one call.
type batchEigh interface {
	// EighBatch takes matrices below one another, which it destroys, and makes a row of values of each.
	EighBatch(as, values device.Tensor) []bool
}

// batch is that library's call for the matrices of Eigh, N equal ones of order M, and knows no warm start.
func batch(d device.Device, s Shape) (Case, bool) {
	_, offered := d.(batchEigh)
	return Case{
		Operands: []Operand{
			inOut("a", s.N*s.M, s.M).filled(func(r *rand.Rand, _ bool, x []float64) {
				one := x[:s.M*s.M]
				noise(r, s.M, one)
				for i := 1; i < s.N; i++ {
					copy(x[i*len(one):], one)
				}
			}), out("values", s.N, s.M),
		},
		Call: func(d device.Device, x []device.Tensor) (told []float64) {
			for _, ok := range d.(batchEigh).EighBatch(x[0], x[1]) {
				told = append(told, truth(ok))
			}
			return told
		},
	}, offered
}

// Case is the call of the benchmark.
func (b Benchmark) Case() Case { return b.Op.Case(b.Shape, rand.New(rand.NewPCG(1, 1))) }

// Loaded is a call with operands of its own on a device, ready to be timed again and again.
type Loaded struct {
	d      device.Device
	c      Case
	sets   [][]device.Tensor // copies of the operands, taken in turn
	before []device.Tensor   // what InOut operands are before every call; zero for the others
	holes  []bool            // operands with a NaN in what they are filled with: content that is undefined
	host   []float64         // what the first call returned beside them
	next   int               // copy
}

// Copies of the operands together are larger than any cache, so that every call finds its own in memory: 256 MiB in main
// memory, and 2 GiB on a device with memory of its own, which takes so long to work through that the wait at the end of a
// round is nothing beside it. They take at most half of what is free. There are not so many of them that making them would
// take longer than the calls.
const (
	rotationHost, rotationDevice = 256 << 20, 2 << 30
	copiesHost, copiesDevice     = 64, 256
)

// Load puts the operands of a call on a device, random ones, and makes the call for the first time.
func Load(d device.Device, c Case, t device.Type) (*Loaded, error) {
	l := &Loaded{d: d, c: c}
	r := rand.New(rand.NewPCG(1, 2))
	var first []device.Tensor
	for _, o := range c.Operands {
		x, holes := o.upload(d, t, r)
		first, l.holes = append(first, x), append(l.holes, holes)
		kept := device.Tensor{}
		if o.Role == InOut {
			kept = d.Alloc(o.Rows, o.Cols, o.typed(t))
			d.Copy(x, kept)
		}
		l.before = append(l.before, kept)
	}
	l.sets = append(l.sets, first)
	for range copies(d.Memory(), c.Held(t)) - 1 {
		var set []device.Tensor
		for i, o := range c.Operands {
			set = append(set, d.Alloc(o.Rows, o.Cols, o.typed(t)))
			d.Copy(first[i], set[i])
		}
		l.sets = append(l.sets, set)
	}
	l.host = c.Call(d, first)
	if err := d.Sync(); err != nil {
		l.Free()
		return nil, err
	}
	return l, nil
}

func copies(m device.Memory, bytes int64) int {
	want, most := int64(rotationDevice), int64(copiesDevice)
	if m.Host {
		want, most = rotationHost, copiesHost
	}
	if free := (m.Total - m.Used) / 2; m.Total > 0 {
		want = min(want, free)
	}
	return int(max(1, min(most, want/max(bytes, 1)+1)))
}

// Held is the memory that the operands take, in bytes; those that a call changes are there twice.
func (c Case) Held(t device.Type) int64 {
	sum := 0
	for _, o := range c.Operands {
		n := o.Rows * o.Cols * o.typed(t).Size()
		if o.Role == InOut {
			n *= 2
		}
		sum += n
	}
	return int64(sum)
}

// uploadBlock is the number of random numbers that a large operand repeats: making so many of them anew would take longer
// than all calls. It is prime, so that they do not repeat from row to row.
const uploadBlock = 1000003

// upload makes the operand on a device. holes says that there is a NaN in it.
func (o Operand) upload(d device.Device, t device.Type, r *rand.Rand) (x device.Tensor, holes bool) {
	x = d.Alloc(o.Rows, o.Cols, o.typed(t))
	n := x.Len()
	switch {
	case o.Role == Out: // written, so that its memory is there
		d.Zero(x)
		return x, false
	case o.Fill != nil:
		values := make([]float64, n)
		o.Fill(r, false, values)
		device.UploadSlice(d, values, x)
		return x, slices.ContainsFunc(values, math.IsNaN)
	}
	block := make([]float64, min(n, uploadBlock))
	Numbers(r, false, block)
	column := x.Reshape(n, 1)
	for i := 0; i < n; i += uploadBlock {
		j := min(i+uploadBlock, n)
		device.UploadSlice(d, block[:j-i], column.Slice(i, j))
	}
	return x, false
}

// Copies is the number of copies of the operands.
func (l *Loaded) Copies() int { return len(l.sets) }

// Time is how long so many calls take, queued one after the other, each on a copy of the operands, until the device is done
// with the last. calls is at most Copies. What calls change is set again before, outside the time.
func (l *Loaded) Time(calls int) (time.Duration, error) {
	for i := range calls {
		for k, x := range l.sets[(l.next+i)%len(l.sets)] {
			if !l.before[k].IsZero() {
				l.d.Copy(l.before[k], x)
			}
		}
	}
	if err := l.d.Sync(); err != nil {
		return 0, err
	}
	start := time.Now()
	for i := range calls {
		l.c.Call(l.d, l.sets[(l.next+i)%len(l.sets)])
	}
	err := l.d.Sync()
	elapsed := time.Since(start)
	l.next = (l.next + calls) % len(l.sets)
	return elapsed, err
}

// checksumElements is as much of an output as is looked at.
const checksumElements = 1 << 20

// Checksum is the sum of absolute values at the beginning of the first output, or of what is returned where that is all: the
// same on equal devices, and proof that there was one.
func (l *Loaded) Checksum() float64 {
	for i, o := range l.c.Operands {
		if o.Role == In {
			continue
		}
		x := l.sets[0][i]
		sum := 0.
		for _, v := range device.DownloadSlice[float64](l.d, x.Reshape(x.Len(), 1).Slice(0, min(x.Len(), checksumElements))) {
			if !(l.holes[i] && v != v) {
				sum += math.Abs(v)
			}
		}
		return sum
	}
	sum := 0.
	for _, v := range l.host {
		sum += math.Abs(v)
	}
	return sum
}

// Free gives the operands back.
func (l *Loaded) Free() {
	for _, set := range l.sets {
		l.d.Free(set...)
	}
	l.d.Free(l.before...)
	l.sets, l.before = nil, nil
}
