package devicetest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"surgeon/engine/device"
)

// sameRounding is the limit, in units of ε, of operations whose every rounding the definition prescribes: a last bit that
// differs is 10⁻⁴ of an ε in the norm of the largest operand here.
const sameRounding = 1e-6

func elements() []Op {
	ops := []Op{elementCosts()}
	for _, h := range []struct {
		bits, digit int
		of          float64
	}{{0, 12, 2}, {0, 13, 2}, {12, 13, 2}, {25, 13, 2}, {38, 13, 2}, {51, 13, 2}, {51, 13, 0}, {12, 1, -2}, {0, 0, 2}, {64, 0, 2}} {
		ops = append(ops, histogram(h.bits, h.digit, h.of))
	}
	ops = append(ops, compare())
	few := []Shape{{M: 1, N: 1}, {M: 31, N: 3}, {M: 5, N: 129}, {M: 1, N: 65}, {M: 300, N: 1}, {M: 0, N: 5}, {M: 3, N: 0}}
	for _, s := range [][2]int{{0, 4}, {1, 1}, {1, 2}, {2, 4}, {4, 4}, {4, 8}, {3, 5}, {15, 31}, {16, 32}} {
		ops = append(ops, smallest(s[0], s[1], sumsAndMarks, few))
	}
	long := []Shape{{M: 1, N: 1}, {M: 3, N: 2}, {M: 0, N: 5}}
	for _, s := range [][2]int{{17, 33}, {0, 40}, {40, 40}, {100, 577}, {577, 577}} {
		ops = append(ops, smallest(s[0], s[1], sumsAndMarks, long))
	}
	for _, gives := range []string{sumsAlone, marksAlone} {
		ops = append(ops, smallest(2, 4, gives, few), smallest(500, 577, gives, long))
	}
	for _, in := range []inPlace{apart, onFirst, onSecond} {
		ops = append(ops, divide(in))
	}
	return append(ops, divideOuter())
}

// elementCosts: w M×N.
func elementCosts() Op {
	return Op{Name: "ElementCosts", Types: double, Shapes: bands, Exact: true, Case: func(s Shape, _ *rand.Rand) Case {
		return Case{
			Operands: []Operand{in("w", s.M, s.N), in("r", 1, s.M), in("c", 1, s.N), out("cost", s.M, s.N)},
			Limit:    sameRounding, // or devices would select other elements
			Call: func(d device.Device, x []device.Tensor) []float64 {
				d.ElementCosts(x[0], x[1], x[2], x[3])
				return nil
			},
			Loops: func(x [][]float64) []float64 {
				for i := range s.M {
					for j := range s.N {
						w := x[0][i*s.N+j]
						square := w * w
						half := 0.5 * x[1][i]
						x[3][i*s.N+j] = half * square * x[2][j]
					}
				}
				return nil
			},
		}
	}}
}

// binades are numbers from 0 up over some twenty powers of two, of log-normal distribution, as costs are; and where exact,
// many equal ones, neighbours of 2, and what no cost should be.
func binades(r *rand.Rand, exact bool, x []float64) {
	few := []float64{0, math.Copysign(0, -1), 1, 2, 2, 3, math.Nextafter(2, 3), math.Nextafter(2, 0), 2 + math.Ldexp(1, -13), 2 + math.Ldexp(1, -26), 2 + math.Ldexp(1, -39),
		math.SmallestNonzeroFloat64, math.MaxFloat64, math.Inf(1), math.Inf(-1), math.NaN(), math.Copysign(math.NaN(), -1), -1, -2, -3}
	for i := range x {
		if exact {
			x[i] = few[r.IntN(len(few))]
		} else {
			x[i] = math.Exp2(3.5 * r.NormFloat64())
		}
	}
}

// near2 are binades of which half are as near to 2 as any digit can tell.
func near2(r *rand.Rand, exact bool, x []float64) {
	binades(r, exact, x)
	for i := range x {
		if !exact && r.IntN(2) == 0 {
			x[i] = 2 + math.Ldexp(r.Float64(), -r.IntN(52))
		}
	}
}

// histogram: x M×N; a digit after so many bits, which are those of a number.
func histogram(bits, digit int, of float64) Op {
	prefix := math.Float64bits(of) >> (64 - bits)
	fill, shapes := near2, plane
	if bits == 0 {
		fill, shapes = binades, bands
	}
	return Op{Name: fmt.Sprintf("Histogram bits=%d digit=%d of=%v", bits, digit, of), Types: double, Shapes: shapes, Exact: true, Case: func(s Shape, _ *rand.Rand) Case {
		before := func() []int64 {
			counts := make([]int64, 1<<digit)
			for i := range counts {
				counts[i] = int64(i % 3)
			}
			return counts
		}
		return Case{
			Operands: []Operand{in("x", s.M, s.N).filled(fill)},
			Call: func(d device.Device, x []device.Tensor) []float64 {
				counts := before()
				d.Histogram(x[0], prefix, bits, counts)
				return numbers(counts)
			},
			Loops: func(x [][]float64) []float64 { // on the digits as they are written
				counts := before()
				first := fmt.Sprintf("%064b", prefix)[64-bits:]
				for _, v := range x[0] {
					if v == 0 {
						v = 0 // not −0
					}
					if after, ok := strings.CutPrefix(fmt.Sprintf("%064b", math.Float64bits(v)), first); ok {
						k, _ := strconv.ParseUint("0"+after[:digit], 2, 64)
						counts[k]++
					}
				}
				return numbers(counts)
			},
		}
	}}
}

// numbers are what is returned to the host, as Case.Call returns it.
func numbers[T int64 | device.Order](x []T) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

// compare: x M×N, against one limit after the other.
func compare() Op {
	limits := []float64{2, math.Copysign(0, -1), -1, math.Inf(1), math.Inf(-1), math.NaN()}
	return Op{Name: "Compare", Types: double, Shapes: plane, Exact: true, Case: func(s Shape, _ *rand.Rand) Case {
		return Case{
			Operands: []Operand{in("x", s.M, s.N).filled(binades)},
			Call: func(d device.Device, x []device.Tensor) (told []float64) {
				for _, limit := range limits {
					marks := slices.Repeat([]device.Order{9}, s.M*s.N)
					d.Compare(x[0], limit, marks)
					told = append(told, numbers(marks)...)
				}
				return told
			},
			Loops: func(x [][]float64) (told []float64) {
				for _, limit := range limits {
					for _, v := range x[0] {
						told = append(told, float64(device.Less)*truth(v < limit)+float64(device.Equal)*truth(v == limit))
					}
				}
				return told
			},
		}
	}}
}

// What is asked of Smallest.
const (
	sumsAndMarks = ""
	sumsAlone    = ", sums"
	marksAlone   = ", marks"
)

// tied are integers with many equal ones among them; where exact also, one in a hundred, what has no place among numbers.
func tied(r *rand.Rand, exact bool, x []float64) {
	Numbers(r, exact, x)
	for i := range x {
		if exact && r.IntN(100) == 0 {
			x[i] = []float64{math.NaN(), math.Copysign(math.NaN(), -1), math.Inf(1), math.Inf(-1)}[r.IntN(4)]
		}
		if exact && x[i] == 0 && r.IntN(2) == 0 {
			x[i] = math.Copysign(0, -1)
		}
	}
}

// smallest: M rows of N runs of m.
func smallest(n, m int, gives string, shapes []Shape) Op {
	return Op{Name: fmt.Sprintf("Smallest %d of %d%s", n, m, gives), Types: double, Shapes: shapes, Exact: true, Case: func(s Shape, _ *rand.Rand) Case {
		c := Case{Operands: []Operand{in("x", s.M, s.N*m).filled(tied), out("sums", s.M, s.N)}, Terms: n}
		if m <= device.SmallestOrdered {
			c.Limit = sameRounding
		}
		if gives == marksAlone {
			c.Operands = c.Operands[:1]
		}
		c.Call = func(d device.Device, x []device.Tensor) (told []float64) {
			var sums device.Tensor
			if gives != marksAlone {
				sums = x[1]
			}
			if gives == sumsAlone {
				d.Smallest(n, m, x[0], sums, nil)
				return nil
			}
			marks := make([]bool, s.M*s.N*m)
			for i := range marks {
				marks[i] = i%2 == 0 // the content before is nobody's business
			}
			d.Smallest(n, m, x[0], sums, marks)
			for _, mark := range marks {
				told = append(told, truth(mark))
			}
			return told
		}
		c.Loops = func(x [][]float64) (told []float64) {
			for run := range s.M * s.N {
				v := x[0][run*m:][:m]
				inOrder := make([]float64, m)
				for k := range v {
					place := 0 // the elements that come before k
					for l := range v {
						numberFirst := v[l] < v[k] || v[l] == v[l] && v[k] != v[k]
						alike := v[l] == v[k] || v[l] != v[l] && v[k] != v[k]
						if numberFirst || alike && l < k {
							place++
						}
					}
					inOrder[place] = v[k]
					if gives != sumsAlone {
						told = append(told, truth(place < n))
					}
				}
				if gives != marksAlone {
					x[1][run] = 0
					for _, v := range inOrder[:n] {
						x[1][run] += v
					}
				}
			}
			return told
		}
		return c
	}}
}

// powers are powers of two and zeros where exact: quotients are exact then, or infinite, or not defined.
func powers(r *rand.Rand, exact bool, x []float64) {
	Numbers(r, exact, x)
	few := []float64{1, 2, 0.5, 4, 0}
	for i := range x {
		if exact {
			x[i] = math.Copysign(few[r.IntN(len(few))], float64(r.IntN(2))-0.5)
		}
	}
}

func divide(in_ inPlace) Op {
	return Op{Name: "Divide" + string(in_), Types: double, Shapes: bands, Exact: true, Case: func(s Shape, _ *rand.Rand) Case {
		ops, z := operands3(in_, in("x", s.M, s.N), in("y", s.M, s.N).filled(powers), out("z", s.M, s.N))
		return Case{
			Operands: ops,
			Limit:    sameRounding,
			Call:     func(d device.Device, x []device.Tensor) []float64 { d.Divide(x[0], x[1], x[z]); return nil },
			Loops: func(x [][]float64) []float64 {
				for i := range x[0] {
					x[z][i] = x[0][i] / x[1][i]
				}
				return nil
			},
		}
	}}
}

// divideOuter: x M×N. 2 + s·t is a power of two where exact.
func divideOuter() Op {
	among := func(few ...float64) func(*rand.Rand, bool, []float64) {
		return func(r *rand.Rand, exact bool, x []float64) {
			for i := range x {
				x[i] = math.Abs(r.NormFloat64()) // eigenvalues
				if exact {
					x[i] = few[r.IntN(len(few))]
				}
			}
		}
	}
	return Op{Name: "DivideOuter", Types: double, Shapes: bands, Exact: true, Case: func(s Shape, _ *rand.Rand) Case {
		return Case{
			Operands: []Operand{in("s", 1, s.M).filled(among(0, 2)), in("t", 1, s.N).filled(among(-1, 0, 1, 3, 7)), inOut("x", s.M, s.N)},
			Call:     func(d device.Device, x []device.Tensor) []float64 { d.DivideOuter(2, x[0], x[1], x[2]); return nil },
			Loops: func(x [][]float64) []float64 {
				for i := range s.M {
					for j := range s.N {
						x[2][i*s.N+j] /= 2 + x[0][i]*x[1][j]
					}
				}
				return nil
			},
		}
	}}
}
