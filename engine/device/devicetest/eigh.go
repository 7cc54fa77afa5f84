package devicetest

import (
	"math"
	"math/rand/v2"
	"slices"
	"strconv"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
)

// Eigenvectors of close eigenvalues may be turned into each other, and all may have either sign: what is judged is
// a·V = V·diag(w), VᵀV = I and the order of w.

func eigen() []Op {
	return []Op{
		eigh("Eigh", false, []Shape{{M: 0}, {M: 1}, {M: 2}, {M: 31}, {M: 33}, {M: 64}, {M: 65}, {M: 97}, {M: 129}}, noise),
		eigh("Eigh warm", true, []Shape{{M: 0}, {M: 1}, {M: 2}, {M: 31}, {M: 33}, {M: 65}, {M: 97}}, noise),
		eigh("Eigh clustered", false, []Shape{{M: 5}, {M: 66}}, clustered),
		eigh("Eigh clustered warm", true, []Shape{{M: 5}, {M: 66}}, clustered),
		eigh("Eigh steep", false, []Shape{{M: 5}, {M: 66}}, steep),
		notFinite(),
	}
}

// noise is a symmetric matrix of independent elements.
func noise(r *rand.Rand, n int, a []float64) {
	for i := range n {
		for j := range i + 1 {
			a[i*n+j] = r.NormFloat64()
			a[j*n+i] = a[i*n+j]
		}
	}
}

// clustered has the eigenvalues 1 (once), 2 and 3 (half of the rest each): 2·I + u·uᵀ by a symmetric orthogonal matrix.
func clustered(r *rand.Rand, n int, a []float64) {
	withSpectrum(r, n, a, func(i int) float64 {
		if i == 0 {
			return 1
		}
		return float64(2 + i%2)
	})
}

// steep has eigenvalues that fall by 10¹², as curvature has them, at a scale whose squares are not float64 any more.
func steep(r *rand.Rand, n int, a []float64) {
	withSpectrum(r, n, a, func(i int) float64 { return 1e-200 * math.Pow(10, -12*float64(i)/float64(n)) })
}

// withSpectrum is H₂·H₁·diag(w)·H₁·H₂ for two random reflections.
func withSpectrum(r *rand.Rand, n int, a []float64, w func(int) float64) {
	clear(a)
	for i := range n {
		a[i*n+i] = w(i)
	}
	u, p := make([]float64, n), make([]float64, n)
	for range 2 {
		size := 0.
		for i := range u {
			u[i] = r.NormFloat64()
			size += u[i] * u[i]
		}
		for i := range u { // reflect rows, then columns
			u[i] *= math.Sqrt(2 / size)
		}
		for _, step := range [][2]int{{n, 1}, {1, n}} { // distance of what is summed over, and of the rest
			clear(p)
			for i := range n {
				for j := range n {
					p[j] += u[i] * a[i*step[0]+j*step[1]]
				}
			}
			for i := range n {
				for j := range n {
					a[i*step[0]+j*step[1]] -= u[i] * p[j]
				}
			}
		}
	}
	for i := range n { // rounding
		for j := range i {
			a[j*n+i] = a[i*n+j]
		}
	}
}

// eigh: two matrices, of orders M and M+1, in one call, or N equal ones of order M. Warm they come with eigenvectors, in single precision, of a matrix that
// differs by a hundredth.
func eigh(name string, warm bool, shapes []Shape, fill func(*rand.Rand, int, []float64)) Op {
	return Op{Name: name, Types: double, Shapes: shapes, Case: func(s Shape, r *rand.Rand) Case {
		orders := []int{s.M, s.M + 1}
		if s.N > 0 {
			orders = slices.Repeat([]int{s.M}, s.N)
		}
		count := len(orders)
		c := Case{Limit: 16}
		matrices, vectorsOf := map[int][]float64{}, map[int][]float64{} // by order; those of one order are equal
		var a, w, v []Operand
		for i, n := range orders {
			index := strconv.Itoa(i)
			if matrices[n] == nil {
				matrices[n] = make([]float64, n*n)
				fill(r, n, matrices[n])
			}
			matrix := matrices[n]
			x := inOut("a"+index, n, n).filled(func(_ *rand.Rand, _ bool, x []float64) {
				copy(x, matrix)
				for i := range n { // not to be read
					for j := range i {
						x[j*n+i] = math.NaN()
					}
				}
			})
			y := out("vectors"+index, n, n)
			if warm {
				if vectorsOf[n] == nil {
					near := make([]float64, n*n)
					size := 0.
					for _, v := range matrix {
						size = math.Max(size, math.Abs(v))
					}
					noise(r, n, near)
					for i := range near {
						near[i] = matrix[i] + 0.01*size/math.Sqrt(float64(n))*near[i]
					}
					vectorsOf[n] = rough(n, near)
				}
				vectors := vectorsOf[n]
				y = inOut(y.Name, n, n).filled(func(_ *rand.Rand, _ bool, x []float64) { copy(x, vectors) })
			}
			a, w, v = append(a, x), append(w, out("values"+index, 1, n)), append(v, y)
			c.FLOPs += 9 * math.Pow(float64(n), 3)
			// The bound of the method, n·ε, with some room. Jacobi's rotations add up to some 5·n·ε.
			c.Limit = max(c.Limit, float64(16*n))
		}
		c.Operands = slices.Concat(a, w, v)
		c.Call = func(d device.Device, x []device.Tensor) (told []float64) {
			for _, ok := range d.Eigh(warm, x[:count], x[count:2*count], x[2*count:]) {
				told = append(told, truth(ok))
			}
			return told
		}
		c.Loops = func(x [][]float64) (told []float64) {
			for k, n := range orders {
				if warm && !allFinite(x[2*count+k]) {
					told = append(told, 0)
					continue
				}
				told = append(told, truth(eighLoops(n, x[k], x[count+k], x[2*count+k])))
			}
			return told
		}
		c.Residual = func(before, after [][]float64) float64 {
			worst := 0.
			for k, n := range orders {
				worst = larger(worst, eigenResidual(n, before[k], after[count+k], after[2*count+k]))
			}
			return worst
		}
		return c
	}}
}

// larger is math.Max, under a name that says that NaN wins.
func larger(x, y float64) float64 { return math.Max(x, y) }

// notFinite: a good matrix, and ones with a NaN and an infinity.
func notFinite() Op {
	return Op{Name: "Eigh, not finite", Types: double, Shapes: []Shape{{M: 1}, {M: 2}, {M: 40}}, Case: func(s Shape, _ *rand.Rand) Case {
		n := s.M
		c := Case{Limit: float64(16 * n)}
		for k, bad := range []float64{0, math.NaN(), math.Inf(1)} {
			c.Operands = append(c.Operands, inOut("a"+string(rune('0'+k)), n, n).filled(func(r *rand.Rand, _ bool, x []float64) {
				noise(r, n, x)
				x[n*n-n] += bad
			}))
		}
		for _, kind := range []string{"values", "vectors"} {
			for k := range 3 {
				rows := n
				if kind == "values" {
					rows = 1
				}
				c.Operands = append(c.Operands, out(kind+string(rune('0'+k)), rows, n))
			}
		}
		c.Call = func(d device.Device, x []device.Tensor) (told []float64) {
			for _, ok := range d.Eigh(false, x[:3], x[3:6], x[6:]) {
				told = append(told, truth(ok))
			}
			return told
		}
		c.Loops = func(x [][]float64) (told []float64) {
			for k := range 3 {
				told = append(told, truth(eighLoops(n, x[k], x[3+k], x[6+k])))
			}
			return told
		}
		c.Residual = func(before, after [][]float64) float64 {
			if !allFinite(before[0]) { // where the NaN was put
				return 0
			}
			return eigenResidual(n, before[0], after[3], after[6])
		}
		return c
	}}
}

func allFinite(x []float64) bool {
	return !slices.ContainsFunc(x, func(v float64) bool { return v-v != 0 })
}

// rough are eigenvectors in float32. Whose they are is of no account here: the package cpu is much faster than the loops.
func rough(n int, a []float64) []float64 {
	d := cpu.Open()
	defer d.Close()
	values, vectors := d.Alloc(1, n, device.F64), d.Alloc(n, n, device.F64)
	d.Eigh(false, []device.Tensor{device.NewFrom(d, a, n, n, device.F64)}, []device.Tensor{values}, []device.Tensor{vectors})
	v := device.DownloadSlice[float64](d, vectors)
	for i := range v {
		v[i] = float64(float32(v[i]))
	}
	return v
}

// eighLoops is the definition of Eigh.
func eighLoops(n int, a, values, vectors []float64) bool {
	for i := range n {
		if !allFinite(a[i*n : i*n+i+1]) {
			return false
		}
		for j := range i {
			a[j*n+i] = a[i*n+j]
		}
	}
	w, v := jacobi(n, a)
	copy(values, w)
	copy(vectors, v)
	return true
}

// jacobi is the classical method: rotations, each of which makes one element zero, until there is nothing left off the
// diagonal. a is full, and destroyed.
func jacobi(n int, a []float64) (values, vectors []float64) {
	v := make([]float64, n*n)
	top := 0.
	for i := range n {
		v[i*n+i] = 1
		for j := range n {
			top = math.Max(top, math.Abs(a[i*n+j]))
		}
	}
	rotate := func(x []float64, i, j int, c, s float64) {
		x[i], x[j] = c*x[i]-s*x[j], s*x[i]+c*x[j]
	}
	for moved := true; moved; {
		moved = false
		for p := range n {
			for q := p + 1; q < n; q++ {
				if math.Abs(a[p*n+q]) <= 1e-17*top {
					continue
				}
				moved = true
				tau := (a[q*n+q] - a[p*n+p]) / (2 * a[p*n+q])
				t := math.Copysign(1/(math.Abs(tau)+math.Sqrt(1+tau*tau)), tau)
				c := 1 / math.Sqrt(1+t*t)
				for i := range n {
					rotate(a, i*n+p, i*n+q, c, t*c)
					rotate(v, i*n+p, i*n+q, c, t*c)
				}
				for i := range n {
					rotate(a, p*n+i, q*n+i, c, t*c)
				}
				a[p*n+q], a[q*n+p] = 0, 0
			}
		}
	}
	by := make([]int, n)
	for i := range by {
		by[i] = i
	}
	slices.SortFunc(by, func(i, j int) int {
		if a[i*n+i] < a[j*n+j] {
			return -1
		}
		return 1
	})
	values, vectors = make([]float64, n), make([]float64, n*n)
	for to, from := range by {
		values[to] = a[from*n+from]
		for i := range n {
			vectors[i*n+to] = v[i*n+from]
		}
	}
	return values, vectors
}

// eigenResidual is the larger of |a·V − V·diag(w)| / |a| and |VᵀV − I| / √n, and 1 where w does not ascend. a's lower triangle is
// given.
func eigenResidual(n int, a, w, v []float64) float64 {
	top := 0. // squares of the smallest scale would be 0
	for i := range n {
		for j := range i + 1 {
			top = math.Max(top, math.Abs(a[i*n+j]))
		}
		if i > 0 && !(w[i-1] <= w[i]) {
			return 1
		}
	}
	if n == 0 {
		return 0
	}
	var e, size, turn float64
	for i := range n {
		for j := range n {
			x, y := -w[j]/top*v[i*n+j], 0.
			for k := range n {
				x += a[max(i, k)*n+min(i, k)] / top * v[k*n+j]
				y += v[k*n+i] * v[k*n+j]
			}
			e += x * x
			turn += (y - truth(i == j)) * (y - truth(i == j))
			size += math.Pow(a[max(i, j)*n+min(i, j)]/top, 2)
		}
	}
	return larger(math.Sqrt(e/size), math.Sqrt(turn/float64(n)))
}
