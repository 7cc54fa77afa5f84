package devicetest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"surgeon/engine/device"
)

// edges are sizes at, just below and just above what tiles are made of, and some tall and wide ones.
var edges = []Shape{
	{M: 1, N: 1, K: 1}, {M: 31, N: 33, K: 32}, {M: 33, N: 127, K: 65}, {M: 129, N: 63, K: 127}, {M: 64, N: 128, K: 64},
	{M: 1, N: 300, K: 17}, {M: 300, N: 1, K: 5}, {M: 7, N: 5, K: 600}, {M: 130, N: 520, K: 3}, {M: 3, N: 4, K: 0}, {M: 0, N: 4, K: 3},
}

// roundedOnce has sums that are too large for bfloat16, of widths that a device may have a fast way for: rounding before something else
// is added is seen.
var roundedOnce = Shape{M: 8, N: 24, K: 2000}

// plane are the edges without K.
var plane = []Shape{
	{M: 1, N: 1}, {M: 31, N: 33}, {M: 65, N: 32}, {M: 63, N: 129}, {M: 127, N: 64}, {M: 1, N: 700}, {M: 700, N: 1}, {M: 3, N: 2049}, {M: 0, N: 5},
}

// bands are planes of rows that a device can move in large pieces: narrow, wide, more than a block of it, more than a slice.
var bands = append(slices.Clone(plane), Shape{M: 5, N: 512}, Shape{M: 130, N: 1032})

// tiles are tokens × columns: multiples of 8 columns and several tiles of 128 and 256, with sums that are cut into parts and such
// that are not.
var tiles = []Shape{{M: 1, N: 1}, {M: 31, N: 33}, {M: 65, N: 32}, {M: 63, N: 129}, {M: 600, N: 1}, {M: 5, N: 128}, {M: 5, N: 257}, {M: 0, N: 5},
	{M: 70, N: 136}, {M: 390, N: 136}, {M: 330, N: 264}, {M: 9, N: 640}, {M: 0, N: 136}}

// lists are of K matrices: one, several that may share what is cut into parts, and more than a device may take together.
var lists = []Shape{{M: 1, N: 16, K: 3}, {M: 63, N: 16, K: 6}, {M: 65, N: 136, K: 1}, {M: 130, N: 264, K: 3}, {M: 300, N: 136, K: 6}, {M: 0, N: 16, K: 3}}

func algebra() []Op {
	ops := []Op{}
	for _, v := range []struct {
		a, b bool
		beta float64
	}{{false, false, 0}, {false, true, 0}, {true, false, 0}, {true, true, 0}, {false, false, 1}, {false, true, 0.5}, {true, false, -1}, {true, true, 1}} {
		ops = append(ops, gemm(v.a, v.b, v.beta, nil))
	}
	into := gemm(false, true, 1, acc)
	into.Name, into.Types = "Gemm bfloat16 into float32", []device.Type{device.BF16}
	ops = append(ops, into, nothing())
	for _, v := range []struct {
		ones int
		beta float64
	}{{0, 0}, {0, 0.5}, {1, 0}, {1, 1}} {
		ops = append(ops, gram(fmt.Sprintf("Gram ones=%d beta=%v", v.ones, v.beta), v.beta, alone(v.ones), tiles...))
	}
	for _, beta := range []float64{0, 0.5} {
		ops = append(ops, gram(fmt.Sprintf("Gram of many beta=%v", beta), beta, mixed, lists...))
	}
	ops = append(ops,
		gram("Gram of q, k, v", 1, ofAttention, Shape{M: 65, N: 72, K: 24}),
		gram("Gram of gate and up", 1, ofMLP, Shape{M: 65, N: 136}))
	return append(ops,
		Op{Name: "Axpy", Shapes: bands, Exact: true, Case: func(s Shape, _ *rand.Rand) Case {
			return Case{
				Operands: []Operand{in("x", s.M, s.N), inOut("y", s.M, s.N)},
				Call:     func(d device.Device, x []device.Tensor) []float64 { d.Axpy(-2, x[0], x[1]); return nil },
				Loops: func(x [][]float64) []float64 {
					for i, v := range x[0] {
						x[1][i] -= 2 * v
					}
					return nil
				},
			}
		}},
		Op{Name: "AddDiagonal", Shapes: squares, Exact: true, Case: func(s Shape, _ *rand.Rand) Case {
			return Case{
				Operands: []Operand{inOut("a", s.M, s.M).moved(2 * s.M)},
				Call:     func(d device.Device, x []device.Tensor) []float64 { d.AddDiagonal(2, x[0]); return nil },
				Loops: func(x [][]float64) []float64 {
					for i := range s.M {
						x[0][i*s.M+i] += 2
					}
					return nil
				},
			}
		}},
		dot("RowDot", func(s Shape) int { return s.M }, func(i, j int) int { return i }, device.Device.RowDot),
		dot("ColDot", func(s Shape) int { return s.N }, func(i, j int) int { return j }, device.Device.ColDot),
		energies(device.Left), energies(device.Right),
		scaleRoot(1, false), scaleRoot(-1, true), squared(false), squared(true),
		Op{Name: "MaxAbs", Shapes: bands, Exact: true, Case: func(s Shape, _ *rand.Rand) Case {
			return Case{
				Operands: []Operand{in("x", s.M, s.N), out("r", 1, s.M), out("c", 1, s.N)},
				Call:     func(d device.Device, x []device.Tensor) []float64 { d.MaxAbs(x[0], x[1], x[2]); return nil },
				Loops: func(x [][]float64) []float64 {
					clear(x[1])
					clear(x[2])
					for i := range s.M {
						for j := range s.N {
							a := math.Abs(x[0][i*s.N+j])
							x[1][i] = math.Max(x[1][i], a) // NaN if one is NaN
							x[2][j] = math.Max(x[2][j], a)
						}
					}
					return nil
				},
			}
		}},
		gather(true, true), gather(true, false), gather(false, true), gather(false, false),
		scatter(true, true), scatter(true, false), scatter(false, true),
		extract(true, acc), extract(false, acc), extract(true, float64s),
		Op{Name: "Diagonal", Types: sums, Shapes: squares, Exact: true, Case: func(s Shape, _ *rand.Rand) Case {
			return Case{
				Operands: []Operand{triangle("s", s.M, In)},
				Call: func(d device.Device, x []device.Tensor) []float64 {
					dst := make([]float64, s.M)
					d.Diagonal(device.Sym{N: s.M, Packed: x[0]}, dst)
					return dst
				},
				Loops: func(x [][]float64) []float64 {
					dst := make([]float64, s.M)
					for i := range dst {
						dst[i] = x[0][i*(i+1)/2+i]
					}
					return dst
				},
			}
		}},
		watch())
}

// sums are the types that sums are kept in.
var sums = []device.Type{device.F32, device.F64}

var squares = []Shape{{M: 1}, {M: 32}, {M: 33}, {M: 129}}

// gemm: c M×N, K the inner size. c has the type of a and b, unless into says otherwise.
func gemm(tA, tB bool, beta float64, into func(device.Type) device.Type) Op {
	letter := map[bool]string{false: "N", true: "T"}
	return Op{
		Name: fmt.Sprintf("Gemm %s%s beta=%v", letter[tA], letter[tB], beta), Exact: true,
		Shapes: append(slices.Clone(edges), roundedOnce),
		Case: func(s Shape, _ *rand.Rand) Case {
			a, b := in("a", s.M, s.K), in("b", s.K, s.N)
			if tA {
				a = in("a", s.K, s.M)
			}
			if tB {
				b = in("b", s.N, s.K)
			}
			return Case{
				Operands: []Operand{a, b, sum(beta, "c", s.M, s.N).as(into)},
				FLOPs:    2 * float64(s.M) * float64(s.N) * float64(s.K), Terms: s.K,
				Call: func(d device.Device, x []device.Tensor) []float64 {
					d.Gemm(tA, tB, 0.5, x[0], x[1], beta, x[2])
					return nil
				},
				Loops: func(x [][]float64) []float64 {
					for i := range s.M {
						for j := range s.N {
							v := 0.
							for k := range s.K {
								p, q := i*s.K+k, k*s.N+j
								if tA {
									p = k*s.M + i
								}
								if tB {
									q = j*s.K + k
								}
								v += x[0][p] * x[1][q]
							}
							x[2][i*s.N+j] = 0.5*v + old(beta, x[2][i*s.N+j])
						}
					}
					return nil
				},
			}
		},
	}
}

// nothing is a product with α = 0: a and b, which are NaN, are not read.
func nothing() Op {
	nan := func(_ *rand.Rand, _ bool, x []float64) {
		for i := range x {
			x[i] = math.NaN()
		}
	}
	return Op{Name: "Gemm alpha=0", Shapes: []Shape{{M: 33, N: 65}, {M: 0, N: 3}, {M: 0, N: 520}, {M: 520, N: 0}}, Exact: true, Case: func(s Shape, _ *rand.Rand) Case {
		return Case{
			Operands: []Operand{in("a", s.M, 5).filled(nan), in("b", 5, s.N).filled(nan), inOut("c", s.M, s.N), out("zero", s.M, s.N)},
			Call: func(d device.Device, x []device.Tensor) []float64 {
				d.Gemm(false, false, 0, x[0], x[1], 2, x[2])
				d.Gemm(false, false, 0, x[0], x[1], 0, x[3])
				return nil
			},
			Loops: func(x [][]float64) []float64 {
				for i := range x[2] {
					x[2][i] *= 2
				}
				clear(x[3])
				return nil
			},
		}
	}}
}

// old is β·v, and 0 where β is 0 whatever v is.
func old(beta, v float64) float64 {
	if beta == 0 {
		return 0
	}
	return beta * v
}

// columns are those of a matrix x whose Gram matrix is made; with ones = 1 that has an order more.
type columns struct{ n, ones int }

func alone(ones int) func(Shape) []columns {
	return func(s Shape) []columns { return []columns{{s.N, ones}} }
}

// mixed are K matrices of about N columns: with a constant 1 and without, of multiples of 8 columns and not.
func mixed(s Shape) []columns {
	return []columns{{s.N, 0}, {s.N + 8, 1}, {s.N - 3, 0}, {2 * s.N, 1}, {8, 0}, {s.N, 1}}[:s.K]
}

// ofAttention and ofMLP are gradients that a backward pass makes together: of q, N columns, and of k and v, K columns each; of
// gate and up, N columns each.
func ofAttention(s Shape) []columns { return []columns{{s.N, 0}, {s.K, 0}, {s.K, 0}} }
func ofMLP(s Shape) []columns       { return []columns{{s.N, 0}, {s.N, 0}} }

// gram: M tokens.
func gram(name string, beta float64, of func(Shape) []columns, shapes ...Shape) Op {
	return Op{
		Name: name, Shapes: shapes, Exact: true,
		Case: func(s Shape, _ *rand.Rand) Case {
			list := of(s)
			c := Case{Terms: s.M}
			for k, m := range list {
				c.Operands = append(c.Operands, in(fmt.Sprintf("x%d", k), s.M, m.n))
			}
			for k, m := range list {
				o := triangle(fmt.Sprintf("s%d", k), m.n+m.ones, InOut)
				if beta == 0 {
					o.Role = Out
				}
				c.Operands = append(c.Operands, o)
				c.FLOPs += float64(s.M) * float64(m.n+m.ones) * float64(m.n+m.ones)
			}
			c.Call = func(d device.Device, x []device.Tensor) []float64 {
				ss := make([]device.Sym, len(list))
				for k, m := range list {
					ss[k] = device.Sym{N: m.n + m.ones, Packed: x[len(list)+k]}
				}
				d.Gram(0.5, x[:len(list)], beta, ss)
				return nil
			}
			c.Loops = func(x [][]float64) []float64 {
				for k, m := range list {
					gramLoops(s.M, m, x[k], beta, x[len(list)+k])
				}
				return nil
			}
			return c
		},
	}
}

func gramLoops(tokens int, m columns, x []float64, beta float64, s []float64) {
	at := func(t, i int) float64 {
		if i == m.n {
			return 1
		}
		return x[t*m.n+i]
	}
	for i := range m.n + m.ones {
		for j := range i + 1 {
			v := 0.
			for t := range tokens {
				v += at(t, i) * at(t, j)
			}
			s[i*(i+1)/2+j] = 0.5*v + old(beta, s[i*(i+1)/2+j])
		}
	}
}

func dot(name string, size func(Shape) int, index func(i, j int) int, call func(d device.Device, x, y, z device.Tensor)) Op {
	shapes := append(slices.Clone(bands), Shape{M: 1, N: 33001}, Shape{M: 3, N: 40000}) // long rows, which may be cut
	return Op{Name: name, Shapes: shapes, Exact: true, Case: func(s Shape, _ *rand.Rand) Case {
		return Case{
			Operands: []Operand{in("x", s.M, s.N), in("y", s.M, s.N), out("d", 1, size(s)).as(acc)},
			FLOPs:    2 * float64(s.M) * float64(s.N), Terms: s.M + s.N,
			Call: func(d device.Device, x []device.Tensor) []float64 { call(d, x[0], x[1], x[2]); return nil },
			Loops: func(x [][]float64) []float64 {
				clear(x[2])
				for i := range s.M {
					for j := range s.N {
						x[2][index(i, j)] += x[0][i*s.N+j] * x[1][i*s.N+j]
					}
				}
				return nil
			},
		}
	}}
}

// energies: x M×N. Sizes are at the edges of the blocks that s may be cut into, and several of them.
func energies(side device.Side) Op {
	name := map[device.Side]string{device.Left: "Energies left", device.Right: "Energies right"}[side]
	shapes := []Shape{{M: 1, N: 1}, {M: 5, N: 3}, {M: 16, N: 17}, {M: 33, N: 15}, {M: 48, N: 50}, {M: 130, N: 129}, {M: 7, N: 300}, {M: 300, N: 7}, {M: 0, N: 4}, {M: 4, N: 0}}
	return Op{Name: name, Types: []device.Type{device.F64}, Shapes: shapes, Exact: true, Spreads: true, Case: func(s Shape, _ *rand.Rand) Case {
		n, m := s.M, s.N
		if side == device.Right {
			n, m = m, n
		}
		return Case{
			Operands: []Operand{triangle("s", n, In), in("x", s.M, s.N), out("e", 1, m)},
			FLOPs:    float64(n) * float64(n) * float64(m), Terms: n * n,
			Call: func(d device.Device, x []device.Tensor) []float64 {
				square := d.Alloc(n, n, device.F64)
				defer d.Free(square)
				d.Extract(device.Sym{N: n, Packed: x[0]}, nil, nil, square)
				d.Energies(side, square, x[1], x[2])
				return nil
			},
			Loops: func(x [][]float64) []float64 {
				at := func(i, j int) float64 {
					if side == device.Right {
						i, j = j, i
					}
					return x[1][i*s.N+j]
				}
				for j := range m {
					x[2][j] = 0
					for i := range n {
						for k := range n {
							x[2][j] += at(i, j) * x[0][max(i, k)*(max(i, k)+1)/2+min(i, k)] * at(k, j)
						}
					}
				}
				return nil
			},
		}
	}}
}

// scaleRoot: x M×N. Weights are of both signs, some of them 0.
func scaleRoot(sign float64, same bool) Op {
	return Op{Name: fmt.Sprintf("ScaleRoot sign=%v%s", sign, where(same)), Shapes: bands, Case: func(s Shape, _ *rand.Rand) Case {
		weights := func(r *rand.Rand, exact bool, x []float64) {
			Numbers(r, exact, x)
			for i := 2; i < len(x); i += 7 {
				x[i] = 0
			}
		}
		c := Case{Operands: []Operand{in("w", 1, s.M).as(acc).filled(weights), in("x", s.M, s.N), out("y", s.M, s.N)}}
		y := 2
		if same {
			c.Operands, y = c.Operands[:2], 1
			c.Operands[1].Role = InOut
		}
		c.Call = func(d device.Device, x []device.Tensor) []float64 { d.ScaleRoot(sign, x[0], x[1], x[y]); return nil }
		c.Loops = func(x [][]float64) []float64 {
			for i, w := range x[0] {
				for j := i * s.N; j < (i+1)*s.N; j++ {
					x[y][j] = math.Sqrt(math.Max(sign*w, 0)) * x[1][j]
				}
			}
			return nil
		}
		return c
	}}
}

func squared(same bool) Op {
	return Op{Name: "Square" + string(where(same)), Shapes: bands, Exact: true, Case: func(s Shape, _ *rand.Rand) Case {
		c := Case{Operands: []Operand{in("x", s.M, s.N), out("y", s.M, s.N)}}
		y := 1
		if same {
			c.Operands, y = c.Operands[:1], 0
			c.Operands[0].Role = InOut
		}
		c.Call = func(d device.Device, x []device.Tensor) []float64 { d.Square(x[0], x[y]); return nil }
		c.Loops = func(x [][]float64) []float64 {
			for i, v := range x[0] {
				x[y][i] = v * v
			}
			return nil
		}
		return c
	}}
}

// pick is a random choice, in random order, of about two thirds of n indices, and the same as ints; or nil and all of them.
func pick(r *rand.Rand, some bool, n int) (list []int32, all []int) {
	if !some {
		for i := range n {
			all = append(all, i)
		}
		return nil, all
	}
	all = r.Perm(n)[:(2*n+2)/3]
	list = []int32{} // nil would stand for all
	for _, i := range all {
		list = append(list, int32(i))
	}
	return list, all
}

// gather: x M×N.
func gather(someRows, someCols bool) Op {
	return Op{
		Name: fmt.Sprintf("Gather rows=%v cols=%v", someRows, someCols), Shapes: plane, Exact: true,
		Case: func(s Shape, r *rand.Rand) Case {
			rows, is := pick(r, someRows, s.M)
			cols, js := pick(r, someCols, s.N)
			return Case{
				Operands: []Operand{in("x", s.M, s.N).moved(len(is) * len(js)), out("y", len(is), len(js))},
				Call:     func(d device.Device, x []device.Tensor) []float64 { d.Gather(x[0], rows, cols, x[1]); return nil },
				Loops: func(x [][]float64) []float64 {
					for a, i := range is {
						for b, j := range js {
							x[1][a*len(js)+b] = x[0][i*s.N+j]
						}
					}
					return nil
				},
			}
		},
	}
}

// scatter: y M×N.
func scatter(someRows, someCols bool) Op {
	return Op{
		Name: fmt.Sprintf("Scatter rows=%v cols=%v", someRows, someCols), Shapes: plane, Exact: true,
		Case: func(s Shape, r *rand.Rand) Case {
			rows, is := pick(r, someRows, s.M)
			cols, js := pick(r, someCols, s.N)
			return Case{
				Operands: []Operand{in("x", len(is), len(js)), inOut("y", s.M, s.N).moved(len(is) * len(js))},
				Call:     func(d device.Device, x []device.Tensor) []float64 { d.Scatter(x[0], rows, cols, x[1]); return nil },
				Loops: func(x [][]float64) []float64 {
					for a, i := range is {
						for b, j := range js {
							x[1][i*s.N+j] = x[0][a*len(js)+b]
						}
					}
					return nil
				},
			}
		},
	}
}

// extract: s of order M.
func extract(some bool, into func(device.Type) device.Type) Op {
	name := fmt.Sprintf("Extract some=%v", some)
	if into(device.F32) == device.F64 {
		name += " into float64"
	}
	return Op{
		Name: name, Types: sums, Shapes: squares, Exact: true,
		Case: func(s Shape, r *rand.Rand) Case {
			rows, is := pick(r, some, s.M)
			cols, js := pick(r, some, s.M)
			if len(is) > 1 { // not square
				rows, is = rows[:max(0, len(rows)-1)], is[:len(is)-1]
				if !some {
					rows, is = nil, append(is, s.M-1)
				}
			}
			return Case{
				Operands: []Operand{triangle("s", s.M, In).moved(device.PackedLen(len(is))), out("y", len(is), len(js)).as(into)},
				Call: func(d device.Device, x []device.Tensor) []float64 {
					d.Extract(device.Sym{N: s.M, Packed: x[0]}, rows, cols, x[1])
					return nil
				},
				Loops: func(x [][]float64) []float64 {
					for a, i := range is {
						for b, j := range js {
							if i >= j {
								x[1][a*len(js)+b] = x[0][i*(i+1)/2+j]
							} else {
								x[1][a*len(js)+b] = x[0][j*(j+1)/2+i]
							}
						}
					}
					return nil
				},
			}
		},
	}
}

// watch: three matrices of order M under the tags 9, 4 and 6, of which the second is good.
func watch() Op {
	return Op{Name: "WatchFinite", Types: sums, Shapes: []Shape{{M: 1}, {M: 33}, {M: 130}}, Exact: true, Case: func(s Shape, r *rand.Rand) Case {
		bad := func(v float64) func(*rand.Rand, bool, []float64) {
			return func(r *rand.Rand, exact bool, x []float64) {
				Numbers(r, exact, x)
				i := r.IntN(s.M)
				x[device.PackedLen(i)+i] = v
			}
		}
		return Case{
			Operands: []Operand{triangle("s9", s.M, In).filled(bad(math.NaN())), triangle("s4", s.M, In), triangle("s6", s.M, In).filled(bad(math.Inf(-1)))},
			Call: func(d device.Device, x []device.Tensor) (told []float64) {
				for range 2 { // the second time, that it was forgotten
					for i, tag := range []int{9, 4, 6} {
						d.WatchFinite(tag, device.Sym{N: s.M, Packed: x[i]})
					}
					tag, found := d.FirstNonFinite()
					_, again := d.FirstNonFinite()
					told = append(told, float64(tag), truth(found), truth(again))
				}
				return told
			},
			Loops: func(x [][]float64) []float64 {
				tag := 6.
				for i := range s.M {
					if v := x[1][i*(i+1)/2+i]; v != v {
						tag = 4
					}
				}
				return []float64{tag, 1, 0, tag, 1, 0}
			},
		}
	}}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
