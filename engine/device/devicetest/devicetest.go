// Package devicetest is the parity suite: one table with a row per operation of device.Device, and a run of all rows
// against any device.
//
// A row says everything about its operation once: operands and how they are filled, the call, the same as obvious loops in
// float64, the floating-point operations, the error that is allowed and why. The parity tests and the benchmarks follow
// from it.
package devicetest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"surgeon/engine/device"
)

// Op is one row of the table: an operation in one variant.
type Op struct {
	Name string
	// Types are the element types that the operation is for; nil means float32, float64 and bfloat16.
	Types []device.Type
	// Shapes are what the parity suite runs. What is timed, and at which shapes, is in bench.go.
	Shapes []Shape
	// Exact says that the operation does no more than add and multiply: with small integers there is one right result.
	Exact bool
	// Spreads says that a NaN may reach more of the output than the definition, which is then Loops, asks for.
	Spreads bool
	// Case makes the call for a shape. Index lists and the like come from r.
	Case func(s Shape, r *rand.Rand) Case
}

// Shape holds the sizes of a call. What M, N and K are is said by the row.
type Shape struct {
	M, N, K int
	Heads   device.Heads
}

// String is "512×576×1536", or what stands for it where there are heads.
func (s Shape) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d", s.M)
	if s.N != 0 || s.K != 0 {
		fmt.Fprintf(&b, "×%d", s.N)
	}
	if s.K != 0 {
		fmt.Fprintf(&b, "×%d", s.K)
	}
	if h := s.Heads; h != (device.Heads{}) {
		fmt.Fprintf(&b, " T%d H%d/%d d%d w%d", h.Length, h.Query, h.KeyValue, h.Dim, h.Window)
	}
	return b.String()
}

// Case is a call, ready to be made.
type Case struct {
	Operands []Operand
	// FLOPs is the arithmetic of the call, as its documentation counts it; 0 where moving the operands is the work.
	FLOPs float64
	// Terms is the length of the longest sum. Rounding errors of a sum of k terms grow like √k: the random pass allows a
	// relative Frobenius error of 8·ε·√Terms, ε = 2⁻²³ in float32 and 2⁻⁵² in float64. 0 stands for 1.
	Terms int
	// Limit is the relative error allowed instead, in units of ε, where the row gives a reason. 0 stands for none.
	Limit float64
	// Call makes the call on a device. What it returns beside the operands must be the same on all devices.
	Call func(d device.Device, x []device.Tensor) []float64
	// Loops is the definition: the same on float64 slices, in row-major order. What it leaves in In operands is ignored.
	Loops func(x [][]float64) []float64
	// Residual, where there is one, judges outputs instead of comparing them: a relative error, given the operands before and
	// after the call.
	Residual func(before, after [][]float64) float64
	// lead is how many elements of their allocations lie before the operands; 0 stands for a row of each.
	lead int
}

// Bytes is what the call must at least move: what is read once, what is written once.
func (c Case) Bytes(t device.Type) float64 {
	sum := 0
	for _, o := range c.Operands {
		n := o.Rows * o.Cols
		if o.Role == InOut {
			n *= 2
		}
		if o.Moved > 0 {
			n = o.Moved
		}
		sum += n * o.typed(t).Size()
	}
	return float64(sum)
}

// Operand is one tensor of a call.
type Operand struct {
	Name       string
	Rows, Cols int
	Role       Role
	// Moved is the elements that are read or written, where that is not each of them once, or twice for InOut; 0 stands for that.
	Moved int
	// As is the operand's type where it is not that of the call: device.Type.Acc, or constant float64.
	As func(device.Type) device.Type
	// Fill sets the content, to small integers where exact. nil stands for Numbers.
	Fill func(r *rand.Rand, exact bool, x []float64)
}

// Role is what a call does with an operand.
type Role uint8

const (
	In    Role = iota // read, and the same afterwards
	Out               // written; NaN before the call
	InOut             // read and written
)

func (o Operand) typed(t device.Type) device.Type {
	if o.As == nil {
		return t
	}
	return o.As(t)
}

// Values fills the operand, rounded to its type in a call of type t.
func (o Operand) Values(t device.Type, r *rand.Rand, exact bool) []float64 {
	x := make([]float64, o.Rows*o.Cols)
	fill := o.Fill
	if fill == nil {
		fill = Numbers
	}
	fill(r, exact, x)
	for i := range x {
		x[i] = Round(o.typed(t), x[i])
	}
	return x
}

// Numbers are integers from −3 to 3 where exact, else of normal distribution.
func Numbers(r *rand.Rand, exact bool, x []float64) {
	for i := range x {
		if exact {
			x[i] = float64(r.IntN(7) - 3)
		} else {
			x[i] = r.NormFloat64()
		}
	}
}

func acc(t device.Type) device.Type       { return t.Acc() }
func float64s(device.Type) device.Type    { return device.F64 }
func in(name string, r, c int) Operand    { return Operand{Name: name, Rows: r, Cols: c} }
func out(name string, r, c int) Operand   { return Operand{Name: name, Rows: r, Cols: c, Role: Out} }
func inOut(name string, r, c int) Operand { return Operand{Name: name, Rows: r, Cols: c, Role: InOut} }

// sum is an output that β times its old content goes into.
func sum(beta float64, name string, r, c int) Operand {
	if beta == 0 {
		return out(name, r, c)
	}
	return inOut(name, r, c)
}

func (o Operand) as(f func(device.Type) device.Type) Operand { o.As = f; return o }

func (o Operand) moved(elements int) Operand { o.Moved = elements; return o }

func (o Operand) filled(f func(r *rand.Rand, exact bool, x []float64)) Operand { o.Fill = f; return o }

// triangle is the packed triangle of a symmetric matrix of order n.
func triangle(name string, n int, role Role) Operand {
	return Operand{Name: name, Rows: 1, Cols: device.PackedLen(n), Role: role, As: acc}
}

// Ops is the table.
func Ops() []Op { return slices.Concat(algebra(), factorisations(), eigen(), elements(), layers()) }
