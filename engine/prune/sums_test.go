package prune

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"gonum.org/v1/gonum/mat"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/internal/golden"
)

// curvatureCase is a kind of curvature: which sides are the identity, written as two letters a product.
type curvatureCase struct {
	products string // "GA" both measured, "IA", "GI", "II"; products apart by +
	joint    bool
}

func (c curvatureCase) String() string {
	if c.joint {
		return c.products + " joint"
	}
	return c.products
}

// sumProblem is a small layer whose curvature is a sum, on the device and as gonum matrices, with a dead row or column here
// and there.
type sumProblem struct {
	problem
	gs, as []*mat.Dense // nil for the identity
	alive  Kept
	damp   Damping
}

// newSumProblem makes products after the first without full rank: they are positive semi-definite and no more.
func newSumProblem(dev device.Device, rng *rand.Rand, c curvatureCase) sumProblem {
	p := sumProblem{problem: problem{r: 2 + rng.IntN(5), c: 2 + rng.IntN(5)}, damp: Damping{G: rng.Float64() / 4, A: 0.01 + rng.Float64()/4, Joint: c.joint}}
	p.alive = Kept{Rows: ones(p.r), Cols: ones(p.c)}
	p.w = mat.NewDense(p.r, p.c, nil)
	for k := range p.w.RawMatrix().Data {
		p.w.RawMatrix().Data[k] = rng.NormFloat64()
	}
	if dead := rng.IntN(3 * p.r); dead < p.r {
		p.alive.Rows[dead] = false
		for j := range p.c {
			p.w.Set(dead, j, 0)
		}
	}
	if dead := rng.IntN(3 * p.c); dead < p.c {
		p.alive.Cols[dead] = false
		for i := range p.r {
			p.w.Set(i, dead, 0)
		}
	}
	p.layer = Layer{Name: "layer", W: device.NewFrom(dev, p.w.RawMatrix().Data, p.r, p.c, device.F64)}
	for k, sides := range strings.Split(c.products, "+") {
		var t Term
		var g, a *mat.Dense
		if sides[0] == 'G' {
			g = gram(rng, p.r, samples(rng, p.r, k))
			t.G = packed(dev, g, device.F64)
		}
		if sides[1] == 'A' {
			a = gram(rng, p.c, samples(rng, p.c, k))
			t.A = packed(dev, a, device.F64)
		}
		p.gs, p.as = append(p.gs, g), append(p.as, a)
		if k == 0 {
			p.layer.Term = t
		} else {
			p.layer.Rest = append(p.layer.Rest, t)
		}
	}
	return p
}

func samples(rng *rand.Rand, n, k int) int {
	if k == 0 {
		return n + 3
	}
	return 1 + rng.IntN(n+1)
}

// gram is xᵀx for random samples×n x.
func gram(rng *rand.Rand, n, samples int) *mat.Dense {
	x := mat.NewDense(samples, n, nil)
	for k := range x.RawMatrix().Data {
		x.RawMatrix().Data[k] = rng.NormFloat64() * (0.3 + rng.Float64())
	}
	var s mat.Dense
	s.Mul(x.T(), x)
	return &s
}

func packed(dev device.Device, m mat.Matrix, t device.Type) device.Sym {
	n, _ := m.Dims()
	s := device.AllocSym(dev, n, t)
	var lower []float64
	for i := range n {
		for j := range i + 1 {
			lower = append(lower, m.At(i, j))
		}
	}
	device.UploadSlice(dev, lower, s.Packed)
	return s
}

func eye(n int) *mat.Dense {
	x := mat.NewDense(n, n, nil)
	for i := range n {
		x.Set(i, i, 1)
	}
	return x
}

// fisher is the dense F' of order R·C, its damping made over alive indices, or F where there is no damping.
func (p sumProblem) fisher(d Damping) *mat.Dense {
	mean := func(m *mat.Dense, alive []bool) float64 {
		if m == nil {
			return 1
		}
		var sum, n float64
		for i, a := range alive {
			if a {
				sum, n = sum+m.At(i, i), n+1
			}
		}
		return sum / n
	}
	side := func(m *mat.Dense, n int, lambda float64) *mat.Dense {
		if m == nil {
			return eye(n)
		}
		x := mat.DenseCopyOf(m)
		for i := range n {
			x.Set(i, i, x.At(i, i)+lambda)
		}
		return x
	}
	f := mat.NewDense(p.r*p.c, p.r*p.c, nil)
	for k, g := range p.gs {
		mg, ma := mean(g, p.alive.Rows), mean(p.as[k], p.alive.Cols)
		var lg, la float64
		if k == 0 && !d.Joint {
			lg, la = d.G*mg, d.A*ma
		}
		var one mat.Dense
		one.Kronecker(side(g, p.r, lg), side(p.as[k], p.c, la))
		f.Add(f, &one)
		if d.Joint {
			for i := range p.r * p.c {
				f.Set(i, i, f.At(i, i)+math.Sqrt(d.G*d.A)*mg*ma)
			}
		}
	}
	return f
}

// dead says whether a place is in a dead row or column.
func (p sumProblem) dead(i, j int) bool { return !p.alive.Rows[i] || !p.alive.Cols[j] }

// inverse is the dense inverse of F' over what is alive, and the places in it.
func (p sumProblem) inverse(t *testing.T) (*mat.Dense, [][2]int) {
	var places [][2]int
	for i := range p.r {
		for j := range p.c {
			if !p.dead(i, j) {
				places = append(places, [2]int{i, j})
			}
		}
	}
	f, n := p.fisher(p.damp), len(places)
	x := mat.NewDense(n, n, nil)
	for a, from := range places {
		for b, to := range places {
			x.Set(a, b, f.At(from[0]*p.c+from[1], to[0]*p.c+to[1]))
		}
	}
	var inverse mat.Dense
	if err := inverse.Inverse(x); err != nil {
		t.Fatal(err)
	}
	return &inverse, places
}

var exactCases = []curvatureCase{{"GA", true}, {"IA", true}, {"GI", true}, {"GA+GA", false}, {"IA+GA", false}, {"GI+GA", false},
	{"GA+IA", false}, {"GA+GI", false}, {"II+GA", false}, {"GA+II", false}, {"IA+IA", false}}

// What would be caught: a basis that does not make both parts of F' diagonal, eigenvalues that belong to other vectors, an
// identity side that is damped, a damping over more than what is alive, a cost that is not the least increase of the
// damped quadratic model. All is judged by the dense inverse of F' and by dense constrained minima.
func TestExactInverseAgainstDense(t *testing.T) {
	const seed = 21
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dev := cpu.Open()
	defer dev.Close()
	for _, c := range exactCases {
		for range 30 {
			p := newSumProblem(dev, rng, c)
			inverse, places := p.inverse(t)
			n := len(places)
			if n == 0 {
				continue
			}
			want, elements, x := make([]float64, n), make([]float64, n), make([]float64, n)
			for k, at := range places {
				w := p.w.At(at[0], at[1])
				want[k], x[k] = inverse.At(k, k), w
				elements[k] = w * w / 2 / want[k]
			}
			got, _, err := fisherInverseDiagonal(dev, p.layer, p.alive, p.damp)
			if err != nil {
				t.Fatal(err)
			}
			golden.Near(t, "diagonal of the inverse", device.DownloadSlice[float64](dev, got), want, 1e-9)
			golden.Near(t, "element costs", p.elementCosts(t, dev, OBS), elements, 1e-9)

			products := newProducts(dev, p.layer, p.alive, p.damp)
			s, err := newSpectral(dev, p.layer, products, products[0].g.index, products[0].a.index, p.damp)
			if err != nil {
				t.Fatal(err)
			}
			solved := device.NewFrom(dev, x, len(products[0].g.index), len(products[0].a.index), device.F64)
			s.solve(dev, solved)
			var dense mat.VecDense
			dense.MulVec(inverse, mat.NewVecDense(n, x))
			dense.ScaleVec(s.unit, &dense)
			golden.Near(t, "(F'/unit)⁻¹x", device.DownloadSlice[float64](dev, solved), dense.RawVector().Data, 1e-9)

			f := p.fisher(p.damp)
			all, _, err := costsOne(dev, p.layer, p.alive, OBS, p.damp)
			if err != nil {
				t.Fatal(err)
			}
			for r, cost := range all.Rows {
				_, want := p.constrained(f, func(i, j int) bool { return i == r || p.dead(i, j) })
				if math.Abs(cost-want) > 1e-8*want {
					t.Errorf("row %d: cost %v, dense %v", r, cost, want)
				}
			}
			for k, cost := range all.Cols {
				_, want := p.constrained(f, func(i, j int) bool { return j == k || p.dead(i, j) })
				if math.Abs(cost-want) > 1e-8*want {
					t.Errorf("column %d: cost %v, dense %v", k, cost, want)
				}
			}
			if t.Failed() {
				t.Fatalf("%v, %d×%d alive %v", c, p.r, p.c, p.alive)
			}
		}
	}
}

// What would be caught: OBD costs that leave a product out, take a damped factor, or miss an identity side. The dense value
// is ½ δᵀFδ for a δ that takes away the row, column or weight alone.
func TestOBDOfSumsAgainstDense(t *testing.T) {
	const seed = 22
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dev := cpu.Open()
	defer dev.Close()
	for _, c := range []curvatureCase{{"GA", false}, {"II", false}, {"IA", false}, {"GI", false}, {"GA+GA", false}, {"GA+IA+GA", false}, {"GA", true}} {
		for range 20 {
			p := newSumProblem(dev, rng, c)
			f := p.fisher(Damping{})
			alone := func(removed func(i, j int) bool) float64 {
				delta := mat.NewVecDense(p.r*p.c, nil)
				for k, w := range p.w.RawMatrix().Data {
					if removed(k/p.c, k%p.c) {
						delta.SetVec(k, -w)
					}
				}
				return mat.Inner(delta, f, delta) / 2
			}
			costs, _, err := costsOne(dev, p.layer, p.alive, OBD, p.damp)
			if err != nil {
				t.Fatal(err)
			}
			var rows, cols, elements []float64
			for r := range p.r {
				rows = append(rows, alone(func(i, _ int) bool { return i == r }))
			}
			for k := range p.c {
				cols = append(cols, alone(func(_, j int) bool { return j == k }))
			}
			for r := range p.r {
				for k := range p.c {
					if !p.dead(r, k) {
						elements = append(elements, alone(func(i, j int) bool { return i == r && j == k }))
					}
				}
			}
			golden.Near(t, "rows", costs.Rows, rows, 1e-12)
			golden.Near(t, "columns", costs.Cols, cols, 1e-12)
			golden.Near(t, "elements", p.elementCosts(t, dev, OBD), elements, 1e-12)
			if t.Failed() {
				t.Fatalf("%v, %d×%d alive %v", c, p.r, p.c, p.alive)
			}
		}
	}
}

// What would be caught: a row whose weights one product sees and another does not taken for dead, and one that none sees
// taken for alive.
func TestAliveOfSums(t *testing.T) {
	dev := cpu.Open()
	defer dev.Close()
	diagonal := func(v ...float64) device.Sym { return packed(dev, mat.NewDiagDense(len(v), v), device.F64) }
	w := device.NewFrom(dev, []float64{1, 1, 1, 1, 1, 1, 0, 0, 0}, 3, 3, device.F64)
	l := Layer{W: w, Term: Term{G: diagonal(0, 0, 1), A: diagonal(1, 0, 0)}, Rest: []Term{{G: diagonal(0, 1, 1), A: diagonal(0, 1, 0)}}}
	got, err := aliveOne(dev, l)
	if want := (Kept{Rows: []bool{false, true, false}, Cols: []bool{true, true, false}}); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("alive %v, want %v, %v", got, want, err)
	}
	l.Rest = append(l.Rest, Term{G: diagonal(0, 0, 0)})
	got, err = aliveOne(dev, l)
	if want := (Kept{Rows: []bool{false, true, false}, Cols: []bool{true, true, true}}); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("with an identity side alive %v, want %v, %v", got, want, err)
	}
}

// elementCosts are the costs of single weights over alive rows and columns; all others have to be 0.
func (p sumProblem) elementCosts(t *testing.T, dev device.Device, kind Cost) (alive []float64) {
	t.Helper()
	costs, _, err := costElementsOne(dev, p.layer, p.alive, kind, p.damp)
	if err != nil {
		t.Fatal(err)
	}
	defer costs.Free(dev)
	made := costs.Of(dev, p.layer.W)
	defer dev.Free(made)
	for k, v := range device.DownloadSlice[float64](dev, made) {
		if p.alive.Rows[k/p.c] && p.alive.Cols[k%p.c] {
			alive = append(alive, v)
		} else if v != 0 {
			t.Errorf("the cost of a dead weight is %v", v)
		}
	}
	return alive
}
