package devicetest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"surgeon/engine/device"
)

// The operands of the Cholesky family have NaN above the diagonal: nothing there may be read. On the diagonal they have 1,
// below it noise of deviation 1/(4√n): the eigenvalues of such a symmetric matrix lie between 1/2 and 3/2, so that errors
// are those of the arithmetic and not of the problem. The triangle is as good a factor as it is half of a matrix. (Of the large
// ones that only benchmarks have, the numbers repeat.)

var double = []device.Type{device.F64}

// orders are at the edges of what is split into blocks.
var orders = []Shape{{M: 1}, {M: 2}, {M: 31}, {M: 33}, {M: 64}, {M: 65}, {M: 127}, {M: 129}, {M: 193}, {M: 258}}

func factorisations() []Op {
	one, many := plus(0), plus(0, 3, 1, 70, 2)
	ops := []Op{
		cholesky("Cholesky", plus(0, 1), orders),
		cholesky("Cholesky of one", one, []Shape{{M: 0}, {M: 1}, {M: 33}, {M: 129}, {M: 161}}),
		cholesky("Cholesky of many", many, []Shape{{M: 0}, {M: 1}, {M: 31}, {M: 60}, {M: 97}}),
		cholesky("Cholesky of a block", ofBlock, blocks), notDefinite(),
		inverseDiagonal("CholeskyInverseDiag", func(s Shape) []int { return plus(0, 1)(s)[:2-s.N] }, append([]Shape{{M: 520}, {M: 33, N: 1}}, orders...)),
		inverseDiagonal("CholeskyInverseDiag of many", many, []Shape{{M: 0}, {M: 1}, {M: 60}}),
		inverseDiagonal("CholeskyInverseDiag of a block", ofBlock, blocks),
	}
	shapes := []Shape{}
	for _, s := range orders[:len(orders)-1] {
		shapes = append(shapes, Shape{M: s.M, N: 1}, Shape{M: s.M, N: 67})
	}
	single := []Shape{{M: 0, N: 1}, {M: 1, N: 1}, {M: 30, N: 1}, {M: 64, N: 1}, {M: 150, N: 1}, {M: 500, N: 1}}
	several := []Shape{{M: 0, N: 3}, {M: 1, N: 3}, {M: 64, N: 5}}
	for _, side := range []device.Side{device.Left, device.Right} {
		ops = append(ops, solve(side, "", double, one, allSides, shapes), solve(side, " of many", sums, many, allSides, single),
			solve(side, " of many, several right sides", double, many, allSides, several), solve(side, " of a block", double, ofBlock, sidesOfBlock, blocks))
	}
	return ops
}

// plus tells the orders of a call's matrices: M, and so much more.
func plus(by ...int) func(Shape) []int {
	return func(s Shape) []int {
		orders := make([]int, len(by))
		for i := range by {
			orders[i] = s.M + by[i]
		}
		return orders
	}
}

// ofBlock tells those of the layers of a block of a transformer, with three widths: two of keys and values, nine of the block's own,
// three of the part between.
func ofBlock(s Shape) []int {
	return slices.Concat(slices.Repeat([]int{s.M}, 2), slices.Repeat([]int{s.N}, 9), slices.Repeat([]int{s.K}, 3))
}

var blocks = []Shape{{M: 1, N: 30, K: 131}}

// The right sides of a system: as many as the shape says, or as a shot removes of a layer of the block, a twentieth of it.
func allSides(s Shape, _ int) int     { return s.N }
func sidesOfBlock(_ Shape, n int) int { return n/20 + 1 }

// definite fills the lower triangle of a positive definite matrix of order n, or of a factor.
func definite(n int) func(*rand.Rand, bool, []float64) {
	return func(r *rand.Rand, _ bool, a []float64) {
		block := make([]float64, min(len(a), uploadBlock))
		Numbers(r, false, block)
		scale := 4 * math.Sqrt(float64(n))
		for i := range n {
			row := a[i*n : (i+1)*n]
			for j := range i {
				row[j] = block[(i*n+j)%uploadBlock] / scale
			}
			row[i] = 1
			for j := i + 1; j < n; j++ {
				row[j] = math.NaN()
			}
		}
	}
}

// factor replaces the lower triangle of a by that of l, a = l·lᵀ, and says whether there is one.
func factor(n int, a []float64) bool {
	for j := range n {
		for i := j; i < n; i++ {
			v := a[i*n+j]
			for k := range j {
				v -= a[i*n+k] * a[j*n+k]
			}
			if i > j {
				a[i*n+j] = v / a[j*n+j]
			} else if a[j*n+j] = math.Sqrt(v); !(v > 0) || math.IsInf(v, 0) {
				return false
			}
		}
	}
	return true
}

// cholesky: matrices of these orders, in one call. A device may have one way for one large matrix and another for many small ones.
func cholesky(name string, ordersOf func(Shape) []int, shapes []Shape) Op {
	return Op{Name: name, Types: double, Shapes: shapes, Case: func(s Shape, _ *rand.Rand) Case {
		c := Case{Limit: 8} // times n: the bound of the method, n·ε, with some room; what is seen is far less
		orders := ordersOf(s)
		for i, n := range orders {
			c.Operands = append(c.Operands, inOut(fmt.Sprintf("a%d", i), n, n).filled(definite(n)))
			c.FLOPs += math.Pow(float64(n), 3) / 3
			c.Limit = max(c.Limit, float64(8*n))
		}
		c.Call = func(d device.Device, x []device.Tensor) (told []float64) {
			for _, ok := range d.Cholesky(x...) {
				told = append(told, truth(ok))
			}
			return told
		}
		c.Loops = func(x [][]float64) (told []float64) {
			for i, n := range orders {
				told = append(told, truth(factor(n, x[i])))
			}
			return told
		}
		c.Residual = func(before, after [][]float64) float64 { // |l·lᵀ − a| / |a|
			worst := 0.
			for m, n := range orders {
				var e, size float64
				for i := range n {
					for j := range i + 1 {
						v := 0.
						for k := range j + 1 {
							v += after[m][i*n+k] * after[m][j*n+k]
						}
						e += (v - before[m][i*n+j]) * (v - before[m][i*n+j])
						size += before[m][i*n+j] * before[m][i*n+j]
					}
				}
				if n > 0 {
					worst = math.Max(worst, math.Sqrt(e/size))
				}
			}
			return worst
		}
		return c
	}}
}

// notDefinite: a good matrix, one with a negative pivot in its last row, one with a zero pivot, one with an infinity.
func notDefinite() Op {
	return Op{Name: "Cholesky, not definite", Types: double, Shapes: []Shape{{M: 1}, {M: 2}, {M: 33}, {M: 65}, {M: 129}}, Case: func(s Shape, _ *rand.Rand) Case {
		n := s.M
		spoiled := func(i, j int, v float64) func(*rand.Rand, bool, []float64) {
			return func(r *rand.Rand, exact bool, a []float64) {
				definite(n)(r, exact, a)
				a[i*n+j] = v
			}
		}
		return Case{
			Operands: []Operand{inOut("a0", n, n).filled(definite(n)), inOut("a1", n, n).filled(spoiled(n-1, n-1, -1)),
				inOut("a2", n, n).filled(spoiled(0, 0, 0)), inOut("a3", n, n).filled(spoiled(n-1, 0, math.Inf(1)))},
			Call: func(d device.Device, x []device.Tensor) (told []float64) {
				for _, ok := range d.Cholesky(x...) {
					told = append(told, truth(ok))
				}
				return told
			},
			Loops: func(x [][]float64) (told []float64) {
				for i := range x {
					told = append(told, truth(factor(n, x[i])))
				}
				return told
			},
			Residual: func(_, _ [][]float64) float64 { return 0 },
		}
	}}
}

// solve: an l of each of these orders, and a b with so many right sides, in one call. A device may have one way for one large matrix and
// another for many small ones.
func solve(side device.Side, name string, types []device.Type, ordersOf func(Shape) []int, sidesOf func(Shape, int) int, shapes []Shape) Op {
	name = map[device.Side]string{device.Left: "CholeskySolve left", device.Right: "CholeskySolve right"}[side] + name
	return Op{Name: name, Types: types, Shapes: shapes, Case: func(s Shape, _ *rand.Rand) Case {
		c := Case{}
		var systems []system
		for i, n := range ordersOf(s) {
			y := system{n: n, m: sidesOf(s, n), side: side}
			b := inOut(fmt.Sprintf("b%d", i), y.n, y.m)
			if side == device.Right {
				b = inOut(fmt.Sprintf("b%d", i), y.m, y.n)
			}
			systems = append(systems, y)
			c.Operands = append(c.Operands, in(fmt.Sprintf("l%d", i), y.n, y.n).filled(definite(y.n)), b)
			c.FLOPs += 2 * float64(y.n) * float64(y.n) * float64(y.m)
			c.Limit = max(c.Limit, float64(8*y.n)) // as for Cholesky
		}
		c.Call = func(d device.Device, x []device.Tensor) []float64 {
			var ls, bs []device.Tensor
			for i := range systems {
				ls, bs = append(ls, x[2*i]), append(bs, x[2*i+1])
			}
			d.CholeskySolve(side, ls, bs)
			return nil
		}
		c.Loops = func(x [][]float64) []float64 {
			for i, y := range systems {
				y.solve(x[2*i], x[2*i+1])
			}
			return nil
		}
		c.Residual = func(before, after [][]float64) float64 {
			worst := 0.
			for i, y := range systems {
				worst = math.Max(worst, y.residual(before[2*i], before[2*i+1], after[2*i+1]))
			}
			return worst
		}
		return c
	}}
}

// system is l·lᵀ·x = b, of order n with m right sides, the rows of b for device.Right.
type system struct {
	n, m int
	side device.Side
}

// at is where element i of right side c stands.
func (y system) at(i, c int) int {
	if y.side == device.Right {
		return c*y.n + i
	}
	return i*y.m + c
}

// solve makes x in place of b.
func (y system) solve(l, b []float64) {
	n, at := y.n, y.at
	for c := range y.m {
		for i := range n {
			for k := range i {
				b[at(i, c)] -= l[i*n+k] * b[at(k, c)]
			}
			b[at(i, c)] /= l[i*n+i]
		}
		for i := n - 1; i >= 0; i-- {
			for k := i + 1; k < n; k++ {
				b[at(i, c)] -= l[k*n+i] * b[at(k, c)]
			}
			b[at(i, c)] /= l[i*n+i]
		}
	}
}

// residual is |l·lᵀ·x − b| / |b|.
func (y system) residual(l, b, x []float64) float64 {
	n, at := y.n, y.at
	var e, size float64
	lx := make([]float64, n)
	for c := range y.m {
		clear(lx)
		for i := range n { // lᵀ·x
			for k := range i + 1 {
				lx[k] += l[i*n+k] * x[at(i, c)]
			}
		}
		for i := range n {
			v := -b[at(i, c)]
			size += v * v
			for k := range i + 1 {
				v += l[i*n+k] * lx[k]
			}
			e += v * v
		}
	}
	if size == 0 {
		return 0
	}
	return math.Sqrt(e / size)
}

// inverseDiagonal: factors of these orders, in one call.
func inverseDiagonal(name string, ordersOf func(Shape) []int, shapes []Shape) Op {
	// A NaN in l may go through products with the zeros of l⁻¹. The l of a Cholesky that was ok holds none.
	return Op{Name: name, Types: double, Spreads: true, Shapes: shapes, Case: func(s Shape, _ *rand.Rand) Case {
		orders := ordersOf(s)
		k := len(orders)
		c := Case{Limit: float64(8 * (slices.Max(orders) + 1))}
		for i, n := range orders {
			c.Operands = append(c.Operands, in(fmt.Sprintf("l%d", i), n, n).filled(definite(n)))
			c.FLOPs += math.Pow(float64(n), 3) / 3
		}
		for i, n := range orders {
			c.Operands = append(c.Operands, out(fmt.Sprintf("d%d", i), 1, n))
		}
		c.Call = func(d device.Device, x []device.Tensor) []float64 {
			d.CholeskyInverseDiag(x[:k], x[k:])
			return nil
		}
		c.Loops = func(x [][]float64) []float64 {
			for m, n := range orders {
				l, d, e := x[m], x[k+m], make([]float64, n)
				for j := range n { // column j of l⁻¹
					clear(e)
					d[j] = 0
					for i := j; i < n; i++ {
						v := truth(i == j)
						for k := j; k < i; k++ {
							v -= l[i*n+k] * e[k]
						}
						e[i] = v / l[i*n+i]
						d[j] += e[i] * e[i]
					}
				}
			}
			return nil
		}
		return c
	}}
}
