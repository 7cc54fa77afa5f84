package prune

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"gonum.org/v1/gonum/mat"

	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/internal/golden"
)

// judge compares an update with the optimum, and what it predicted with ½ δᵀFδ of its own step.
func (p sumProblem) judge(t *testing.T, dev device.Device, got Result, want []float64) {
	t.Helper()
	w := device.DownloadSlice[float64](dev, got.W)
	golden.Near(t, "update", w, want, 1e-8)
	var delta mat.VecDense
	delta.SubVec(mat.NewVecDense(len(w), w), mat.NewVecDense(len(w), p.w.RawMatrix().Data))
	if rise := mat.Inner(&delta, p.fisher(Damping{}), &delta) / 2; math.Abs(rise-got.Predicted) > 1e-9*rise {
		t.Errorf("predicted %v, ½δᵀFδ is %v", got.Predicted, rise)
	}
}

var updateCases = append([]curvatureCase{{"GA", false}, {"IA", false}, {"GI", false}, {"II", false}, {"II", true}, {"GA+GA+GA", false},
	{"GA+IA+GI+GA", false}}, exactCases...)

// What would be caught: updates for rows and columns that are not the least of the quadratic model with all products and
// the damping asked for, sum steps that are not the two optima added, a prediction that leaves a product out.
func TestUpdatesOfSumsAgainstDense(t *testing.T) {
	const seed = 23
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dev := cpu.Open()
	defer dev.Close()
	for _, c := range updateCases {
		iterations := 0
		for range 25 {
			p := newSumProblem(dev, rng, c)
			kept := Kept{Rows: ones(p.r), Cols: ones(p.c)}
			for i := range kept.Rows {
				kept.Rows[i] = p.alive.Rows[i] && rng.IntN(4) > 0
			}
			for j := range kept.Cols {
				kept.Cols[j] = p.alive.Cols[j] && rng.IntN(4) > 0
			}
			f := p.fisher(p.damp)
			both := func(i, j int) bool { return !kept.Rows[i] || !kept.Cols[j] }
			got, err := applyOne(dev, p.layer, p.alive, kept, Joint, p.damp, 0)
			if err != nil {
				t.Fatal(err)
			}
			iterations += got.Iterations
			want, _ := p.constrained(f, both)
			p.judge(t, dev, got, want)

			rows, _ := p.constrained(f, func(i, j int) bool { return !kept.Rows[i] || p.dead(i, j) })
			cols, _ := p.constrained(f, func(i, j int) bool { return !kept.Cols[j] || p.dead(i, j) })
			for k, w := range p.w.RawMatrix().Data {
				if want[k] = 0; !both(k/p.c, k%p.c) {
					want[k] = rows[k] + cols[k] - w
				}
			}
			if got, err = applyOne(dev, p.layer, p.alive, kept, Sum, p.damp, 0); err != nil {
				t.Fatal(err)
			}
			p.judge(t, dev, got, want)

			for k, w := range p.w.RawMatrix().Data {
				if want[k] = 0; !both(k/p.c, k%p.c) {
					want[k] = w
				}
			}
			if got, err = applyOne(dev, p.layer, p.alive, kept, None, p.damp, 0); err != nil {
				t.Fatal(err)
			}
			p.judge(t, dev, got, want)
			if t.Failed() {
				t.Fatalf("%v, %d×%d alive %v kept %v", c, p.r, p.c, p.alive, kept)
			}
		}
		// Where there is an exact inverse it takes one step, for sums of more products at least a few.
		if n := len(strings.Split(c.products, "+")); n <= 2 && iterations > 40 || n > 2 && iterations < 50 {
			t.Errorf("%v: %d iterations in 25 updates", c, iterations)
		}
	}
}

// What would be caught: an update for single weights that moves what is removed, leaves a weight that stays where it could
// do better, or takes another damping than was asked for.
func TestMaskedUpdateAgainstDense(t *testing.T) {
	const seed = 24
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dev := cpu.Open()
	defer dev.Close()
	for _, c := range updateCases {
		for trial := range 25 {
			p := newSumProblem(dev, rng, c)
			removed := make([]bool, p.r*p.c)
			for k := range removed {
				removed[k] = rng.IntN(1+trial%5) > 0 // from none to most
			}
			want, _ := p.constrained(p.fisher(p.damp), func(i, j int) bool { return removed[i*p.c+j] || p.dead(i, j) })
			for way, apply := range map[string]func() (Result, error){
				"all at once": func() (Result, error) {
					return ApplyElements(dev, p.layer, p.alive, removed, Joint, p.damp, Grouping{})
				},
				"one group": func() (Result, error) {
					return ApplyElements(dev, p.layer, p.alive, removed, Joint, p.damp, Grouping{Limit: p.r * p.c})
				},
			} {
				got, err := apply()
				if err != nil {
					t.Fatal(err)
				}
				p.judge(t, dev, got, want)
				for k, w := range device.DownloadSlice[float64](dev, got.W) {
					if removed[k] && w != 0 {
						t.Errorf("%s: removed weight %d is %v", way, k, w)
					}
				}
			}
			if t.Failed() {
				t.Fatalf("%v, %d×%d alive %v removed %v", c, p.r, p.c, p.alive, removed)
			}
		}
	}
}

// layerWithSpectrum has products of random factors whose eigenvalues fall like 1/n², as those of real layers do.
func layerWithSpectrum(dev device.Device, rng *rand.Rand, rows, cols int, scales ...float64) sumProblem {
	factor := func(n int) *mat.Dense {
		var qr mat.QR
		var turn, x, s mat.Dense
		random := func(rows, cols int, scale func(j int) float64) *mat.Dense {
			m := mat.NewDense(rows, cols, nil)
			for i := range rows {
				for j := range cols {
					m.Set(i, j, rng.NormFloat64()*scale(j))
				}
			}
			return m
		}
		qr.Factorize(random(n, n, func(int) float64 { return 1 }))
		qr.QTo(&turn)
		x.Mul(random(2*n, n, func(j int) float64 { return 1 / float64(j+1) }), &turn)
		s.Mul(x.T(), &x)
		return &s
	}
	p := sumProblem{problem: problem{r: rows, c: cols, w: mat.NewDense(rows, cols, nil)}, alive: Kept{Rows: ones(rows), Cols: ones(cols)}}
	for k := range p.w.RawMatrix().Data {
		p.w.RawMatrix().Data[k] = rng.NormFloat64()
	}
	p.layer = Layer{Name: "layer", W: device.NewFrom(dev, p.w.RawMatrix().Data, rows, cols, device.F64)}
	for k, scale := range scales {
		g, a := factor(rows), factor(cols)
		g.Scale(scale, g)
		p.gs, p.as = append(p.gs, g), append(p.as, a)
		t := Term{G: packed(dev, g, device.F64), A: packed(dev, a, device.F64)}
		if k == 0 {
			p.layer.Term = t
		} else {
			p.layer.Rest = append(p.layer.Rest, t)
		}
	}
	return p
}

// What would be caught: a preconditioner that is worse than it was, and a solve that says it has converged when it has not. The
// limits are a third above what was counted: 262 steps for three products and rows, for which the inverse of the first product alone
// takes 1033. The gradient F'D is made by gonum.
func TestStepsOfConjugateGradients(t *testing.T) {
	const seed = 25
	t.Logf("seed %d", seed)
	dev := cpu.Open()
	defer dev.Close()
	for _, test := range []struct {
		name         string
		scales       []float64
		joint        bool
		rows, masked int // the most steps
	}{
		{"one product, factors damped", []float64{1}, false, 0, 220},
		{"one product, joint damping", []float64{1}, true, 2, 57},
		{"two products", []float64{1, 0.3}, false, 2, 206},
		{"three products", []float64{1, 0.3, 0.1}, false, 350, 1036},
	} {
		p := layerWithSpectrum(dev, rand.New(rand.NewPCG(seed, 0)), 40, 48, test.scales...)
		p.damp = Damping{G: 0.01, A: 0.01, Joint: test.joint}
		kept := Kept{Rows: ones(p.r), Cols: ones(p.c)}
		removed := make([]bool, p.r*p.c)
		for i := 0; i < p.r; i += 4 {
			kept.Rows[i] = false
		}
		for k := range removed {
			removed[k] = math.Abs(p.w.RawMatrix().Data[k]) < 0.67 // half of them
		}
		check := func(what string, r Result, err error, limit int, gone func(i, j int) bool) {
			if err != nil {
				t.Fatalf("%s, %s: %v", test.name, what, err)
			}
			t.Logf("%s, %s: %d steps", test.name, what, r.Iterations)
			if r.Iterations > limit {
				t.Errorf("%s, %s: %d steps, limit %d", test.name, what, r.Iterations, limit)
			}
			if residual := p.residual(device.DownloadSlice[float64](dev, r.W), gone); !(residual < 10*residualLimit) {
				t.Errorf("%s, %s: residual %.3g of the right side", test.name, what, residual)
			}
		}
		r, err := applyOne(dev, p.layer, p.alive, kept, Joint, p.damp, 0)
		check("rows", r, err, test.rows, func(i, _ int) bool { return !kept.Rows[i] })
		r, err = ApplyElements(dev, p.layer, p.alive, removed, Joint, p.damp, Grouping{})
		check("single weights", r, err, test.masked, func(i, j int) bool { return removed[i*p.c+j] })
	}
}

// residual is |[F'D]_K| as a share of |[F'D°]_K| for the change D to new weights w: 0 at the optimum.
func (p sumProblem) residual(w []float64, gone func(i, j int) bool) float64 {
	change, only := mat.NewDense(p.r, p.c, nil), mat.NewDense(p.r, p.c, nil)
	for k, v := range w {
		change.RawMatrix().Data[k] = v - p.w.RawMatrix().Data[k]
		if gone(k/p.c, k%p.c) {
			only.RawMatrix().Data[k] = -p.w.RawMatrix().Data[k]
		}
	}
	gradient, right := p.times(change), p.times(only)
	var residual, norm float64
	for i := range p.r {
		for j := range p.c {
			if !gone(i, j) {
				residual += math.Pow(gradient.At(i, j), 2)
				norm += math.Pow(right.At(i, j), 2)
			}
		}
	}
	return math.Sqrt(residual / norm)
}

// times is F'x as a sum of products of matrices; fisher would have an order of R·C.
func (p sumProblem) times(x *mat.Dense) *mat.Dense {
	y := mat.NewDense(p.r, p.c, nil)
	for k := range p.gs {
		g, a := mat.DenseCopyOf(p.gs[k]), mat.DenseCopyOf(p.as[k])
		mg, ma := mat.Trace(g)/float64(p.r), mat.Trace(a)/float64(p.c)
		if k == 0 && !p.damp.Joint {
			for i := range p.r {
				g.Set(i, i, g.At(i, i)+p.damp.G*mg)
			}
			for j := range p.c {
				a.Set(j, j, a.At(j, j)+p.damp.A*ma)
			}
		}
		var one mat.Dense
		one.Product(g, x, a)
		y.Add(y, &one)
		if p.damp.Joint {
			one.Scale(math.Sqrt(p.damp.G*p.damp.A)*mg*ma, x)
			y.Add(y, &one)
		}
	}
	return y
}

// What would be caught: a solve that goes on for ever, or that is taken for converged when it is not: after ten steps, which are
// too few without a preconditioner; where F' is not positive definite.
func TestConjugateGradientsTellTheTruth(t *testing.T) {
	dev := cpu.Open()
	defer dev.Close()
	p := layerWithSpectrum(dev, rand.New(rand.NewPCG(27, 0)), 40, 40, 1)
	gone := make([]bool, 40)
	start, keeps := make([]float64, 1600), make([]float64, 1600)
	for k, w := range p.w.RawMatrix().Data {
		gone[k/40] = k/40%4 == 0
		if keeps[k] = 1; gone[k/40] {
			start[k], keeps[k] = -w, math.Inf(1)
		}
	}
	for _, test := range []struct {
		name   string
		most   int
		lambda float64
		want   string // of the error
	}{
		{"too few steps", 10, 0, "layer blocks.0: the update has not converged: after 10 steps of conjugate gradients the residual is "},
		{"not positive definite", maxIterations, -10, "layer blocks.0: the curvature is not positive definite"},
	} {
		x := device.NewFrom(dev, start, 40, 40, device.F64)
		o := newOperator(dev, newProducts(dev, p.layer, p.alive, Damping{}), test.lambda, residualLimit)
		o.most = test.most
		_, err := o.minimise("blocks.0", device.NewFrom(dev, keeps, 40, 40, device.F64), func(r, z device.Tensor) { dev.Copy(r, z) }, x)
		if (err == nil) != (test.want == "") || err != nil && !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// What would be caught: a solve that believes the residual it carries along. Here the solution is pushed aside at the second step.
func TestConjugateGradientsLookAgain(t *testing.T) {
	dev := cpu.Open()
	defer dev.Close()
	p := layerWithSpectrum(dev, rand.New(rand.NewPCG(26, 0)), 20, 24, 1)
	o := newOperator(dev, newProducts(dev, p.layer, p.alive, Damping{G: 0.1, A: 0.1}), 0, residualLimit)
	b, x := device.NewFrom(dev, p.w.RawMatrix().Data, 20, 24, device.F64), dev.Alloc(20, 24, device.F64)
	steps := 0
	c := conjugate{dev: dev, limit: residualLimit, most: maxIterations, apply: o.apply, precondition: func(r, z device.Tensor) {
		if steps++; steps == 2 {
			dev.Axpy(1e-3, r, x)
		}
		dev.Copy(r, z)
	}}
	if _, ok, err := c.solve(b, x); !ok || err != nil {
		t.Fatal(ok, err)
	}
	y := dev.Alloc(20, 24, device.F64)
	o.apply(x, y)
	golden.Near(t, "M x", device.DownloadSlice[float64](dev, y), p.w.RawMatrix().Data, 2*residualLimit)
}
