package devicetest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"testing"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
)

// Options choose what is run.
type Options struct {
	// Types are the element types that are run; nil means all.
	Types []device.Type
	// Only is which rows of the table are run, by name; nil means all, and the conversions of Copy.
	Only *regexp.Regexp
	// Loops makes the loops of the table the reference, in place of the cpu in float64. It is what proves the cpu.
	Loops bool
	// Seed of the random numbers, printed. 0 stands for 1.
	Seed uint64
}

// Run runs the table on the device that open gives, each row in every type and shape. It would catch: a wrong result, a
// wrong edge of a block, an output that is read before it is written, a write beside the output or into an input, a result
// that differs from call to call, a lost NaN, scratch memory that is not given back.
func Run(t *testing.T, open func(t *testing.T) device.Device, o Options) {
	if o.Types == nil {
		o.Types = []device.Type{device.F32, device.F64, device.BF16}
	}
	if o.Seed == 0 {
		o.Seed = 1
	}
	d, ref := open(t), cpu.Open()
	name := d.Name()
	u := &run{d: d, ref: ref, Options: o}
	for _, op := range Ops() {
		if o.Only != nil && !o.Only.MatchString(op.Name) {
			continue
		}
		t.Run(op.Name, func(t *testing.T) {
			for _, typ := range o.Types {
				if op.Types != nil && !slices.Contains(op.Types, typ) {
					continue
				}
				for _, s := range op.Shapes {
					t.Run(fmt.Sprintf("%v %v", typ, s), func(t *testing.T) { u.shape(t, op, typ, s) })
				}
			}
		})
	}
	if o.Only == nil {
		t.Run("Copy", func(t *testing.T) { u.cases += conversions(t, d) })
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	t.Logf("%d parity cases in %v ran on %s, seed %d", u.cases, o.Types, name, o.Seed)
}

type run struct {
	Options
	d     device.Device
	ref   *cpu.Device
	cases int
}

// shape runs all passes of one row for one type and shape.
func (u *run) shape(t *testing.T, op Op, typ device.Type, s Shape) {
	fail := func(pass, format string, args ...any) {
		t.Helper()
		t.Errorf("%s %s %s, %s pass: %s", op.Name, typ, s, pass, fmt.Sprintf(format, args...))
	}
	held := u.d.Memory().Used
	// Every pass begins with the same numbers, for Case draws index lists from them.
	for _, exact := range []bool{true, false} {
		pass := "random"
		if exact {
			pass = "exact"
		}
		if exact && !op.Exact {
			continue
		}
		u.cases++
		r := rand.New(rand.NewPCG(u.Seed, uint64(s.M*1000003+s.N*1009+s.K)))
		c := op.Case(s, r)
		if !exact && (op.Exact || (s.M+s.N)%2 == 0) {
			c.lead = alignedLead
		}
		x := c.values(typ, r, exact)
		got, host := u.call(t, u.d, c, typ, x, func(f string, a ...any) { fail(pass, f, a...) })
		again, host2 := u.call(t, u.d, c, typ, x, func(string, ...any) {})
		want, wantHost := u.reference(t, c, x)

		if !sameBits(host, wantHost) {
			fail(pass, "returned %s", differing(host, wantHost, "want"))
		}
		if !sameBits(host, host2) {
			fail(pass, "returned %s", differing(host, host2, "then"))
		}
		if c.Residual != nil {
			if e := c.Residual(x, got); !(e <= c.limit(typ)) {
				fail(pass, "residual %.3g, at most %.3g is allowed", e, c.limit(typ))
			}
		}
		for i, o := range c.Operands {
			if o.Role == In {
				continue
			}
			if !sameBits(got[i], again[i]) && c.Residual == nil {
				fail(pass, "%s differs in two equal calls", o.Name)
			}
			switch {
			case c.Residual != nil:
			case exact:
				for j := range got[i] {
					if w := Round(o.typed(typ), want[i][j]); got[i][j] != w && !(math.IsNaN(got[i][j]) && math.IsNaN(w)) {
						fail(pass, "%s[%d,%d] is %v, want %v", o.Name, j/o.Cols, j%o.Cols, got[i][j], w)
						break
					}
				}
			default:
				limit := c.limit(typ)
				if o.typed(typ) == device.BF16 {
					limit += 1. / 256 // the rounding of the output
				}
				if e := frobenius(got[i], want[i]); !(e <= limit) {
					fail(pass, "%s has a relative error of %.3g, at most %.3g is allowed", o.Name, e, limit)
				}
			}
		}
	}
	for i := range op.Case(s, rand.New(rand.NewPCG(u.Seed, 0))).Operands {
		u.nan(t, op, typ, s, i, func(f string, a ...any) { fail("NaN", f, a...) })
	}
	if now := u.d.Memory().Used; now != held {
		fail("memory", "%d bytes are held after the calls, %d before", now, held)
	}
}

// nanBytes keeps the NaN passes, of which there is one for every operand, from taking most of the time.
const nanBytes = 100_000

// nan puts a NaN at one place of operand number i, and looks where it goes.
func (u *run) nan(t *testing.T, op Op, typ device.Type, s Shape, i int, fail func(string, ...any)) {
	r := rand.New(rand.NewPCG(u.Seed, uint64(s.M*1000003+s.N*1009+s.K+i)))
	c := op.Case(s, r)
	c.lead = 1
	if (s.M+i)%2 == 0 {
		c.lead = alignedLead
	}
	o := c.Operands[i]
	if o.Role == Out || o.Rows*o.Cols == 0 || c.Bytes(device.F32) > nanBytes {
		return
	}
	u.cases++
	x := c.values(typ, r, op.Exact) // small integers, for 0·NaN
	j := r.IntN(len(x[i]))
	x[i][j] = math.NaN()
	got, host := u.call(t, u.d, c, typ, x, fail)
	ref := *u
	ref.Loops = u.Loops || op.Spreads // where the cpu lets it spread as well, only the loops say what has to be NaN
	want, wantHost := ref.reference(t, c, x)
	if !sameBits(host, wantHost) {
		fail("%s[%d] is NaN: returned %s", o.Name, j, differing(host, wantHost, "want"))
	}
	if c.Residual != nil {
		return
	}
	for k, p := range c.Operands {
		for l := range got[k] {
			isNaN, shouldBe := math.IsNaN(got[k][l]), math.IsNaN(want[k][l])
			if p.Role != In && isNaN != shouldBe && !(isNaN && op.Spreads) {
				fail("%s[%d] is NaN: %s[%d] is %v, want %v", o.Name, j, p.Name, l, got[k][l], want[k][l])
				return
			}
		}
	}
}

// limit is the relative error allowed in arithmetic of type t.
func (c Case) limit(t device.Type) float64 {
	eps := math.Ldexp(1, -23)
	if t == device.F64 {
		eps = math.Ldexp(1, -52)
	}
	if c.Limit != 0 {
		return c.Limit * eps
	}
	return 8 * eps * math.Sqrt(float64(max(1, c.Terms)))
}

// values are the operands before the call, NaN where they are outputs.
func (c Case) values(t device.Type, r *rand.Rand, exact bool) [][]float64 {
	x := make([][]float64, len(c.Operands))
	for i, o := range c.Operands {
		x[i] = o.Values(t, r, exact)
		if o.Role == Out {
			for j := range x[i] {
				x[i][j] = math.NaN()
			}
		}
	}
	return x
}

// guard is the content of what lies before and after every operand.
const guard = -77

// Operands begin a row, one element or so many elements after the start of an allocation: of the ways in which a device may
// move memory, by the alignment of addresses, each is taken, also with rows of a width that does not fit it.
const alignedLead = 32

// leadOf is how many elements of its allocation lie before o.
func (c Case) leadOf(o Operand) int {
	if c.lead == 0 {
		return o.Cols
	}
	return c.lead
}

// call makes the call with operands that lie within larger allocations, and returns the operands after it.
func (u *run) call(t *testing.T, d device.Device, c Case, typ device.Type, x [][]float64, fail func(string, ...any)) (after [][]float64, host []float64) {
	t.Helper()
	whole, part := make([]device.Tensor, len(x)), make([]device.Tensor, len(x))
	for i, o := range c.Operands {
		lead, n := c.leadOf(o), o.Rows*o.Cols
		padded := make([]float64, lead+n+o.Cols)
		for j := range padded {
			padded[j] = guard
		}
		copy(padded[lead:], x[i])
		whole[i] = device.NewFrom(d, padded, len(padded), 1, o.typed(typ))
		part[i] = whole[i].Slice(lead, lead+n).Reshape(o.Rows, o.Cols)
	}
	host = c.Call(d, part)
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	for i, o := range c.Operands {
		y, lead, n := device.DownloadSlice[float64](d, whole[i]), c.leadOf(o), o.Rows*o.Cols
		for j, v := range y {
			if (j < lead || j >= lead+n) && v != guard {
				fail("%v was written %d elements from the start of %s, which has %d", v, j-lead, o.Name, n)
				break
			}
		}
		after = append(after, y[lead:lead+n])
		if o.Role == In && !sameBits(after[i], x[i]) {
			fail("input %s was changed", o.Name)
		}
	}
	d.Free(whole...)
	return after, host
}

// reference is the right result.
func (u *run) reference(t *testing.T, c Case, x [][]float64) (after [][]float64, host []float64) {
	if !u.Loops {
		return u.call(t, u.ref, c, device.F64, x, func(string, ...any) {})
	}
	for _, v := range x {
		after = append(after, slices.Clone(v))
	}
	return after, c.Loops(after)
}

// sameBits says whether x and y are equal, NaN being equal to NaN.
func sameBits(x, y []float64) bool {
	return slices.EqualFunc(x, y, func(a, b float64) bool {
		return math.Float64bits(a) == math.Float64bits(b) || a != a && b != b
	})
}

// differing tells of the first place where what was returned differs from what it is compared with.
func differing(x, y []float64, word string) string {
	for i := range min(len(x), len(y)) {
		if !sameBits(x[i:i+1], y[i:i+1]) {
			return fmt.Sprintf("%v at place %d of %d, %s %v", x[i], i, len(x), word, y[i])
		}
	}
	return fmt.Sprintf("%d numbers, %s %d", len(x), word, len(y))
}

// frobenius is |got − want| / |want|.
func frobenius(got, want []float64) float64 {
	var e, n float64
	for i, w := range want {
		e += (got[i] - w) * (got[i] - w)
		n += w * w
	}
	if e == 0 {
		return 0
	}
	return math.Sqrt(e / n)
}
