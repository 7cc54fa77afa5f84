package prune

import (
	"math"
	"math/rand/v2"
	"testing"

	"gonum.org/v1/gonum/mat"

	"surgeon/engine/checkpoint"
	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
	"surgeon/engine/internal/golden"
)

// problem is a small layer with random positive definite factors, on the device and as gonum matrices.
type problem struct {
	layer   Layer
	w, a, g *mat.Dense
	r, c    int
}

func newProblem(dev device.Device, rng *rand.Rand) problem {
	p := problem{r: 2 + rng.IntN(5), c: 2 + rng.IntN(5)}
	p.a, p.g = gram(rng, p.c, p.c+3), gram(rng, p.r, p.r+3)
	p.w = mat.NewDense(p.r, p.c, nil)
	for i := range p.r {
		for j := range p.c {
			p.w.Set(i, j, rng.NormFloat64())
		}
	}
	p.layer = Layer{Name: "layer", W: device.NewFrom(dev, p.w.RawMatrix().Data, p.r, p.c, device.F64), Term: Term{A: packed(dev, p.a, device.F64), G: packed(dev, p.g, device.F64)}}
	return p
}

// setA gives the layer's A one number on its diagonal and one beside it; the dense a stays.
func (p problem) setA(dev device.Device, diagonal, off float64) {
	x := make([]float64, device.PackedLen(p.c))
	for i := range p.c {
		for j := range i {
			x[device.PackedLen(i)+j] = off
		}
		x[device.PackedLen(i)+i] = diagonal
	}
	device.UploadSlice(dev, x, p.layer.A.Packed)
}

// fisher is the dense G' ⊗ A' of order R·C for the row-major vec(W).
func (p problem) fisher(d Damping) *mat.Dense {
	damped := func(m *mat.Dense, share float64) *mat.Dense {
		n, _ := m.Dims()
		x := mat.DenseCopyOf(m)
		for i := range n {
			x.Set(i, i, x.At(i, i)+share*mat.Trace(m)/float64(n))
		}
		return x
	}
	var f mat.Dense
	f.Kronecker(damped(p.g, d.G), damped(p.a, d.A))
	return &f
}

// constrained minimises ½ δᵀFδ over δ with (w+δ) zero at the removed places, by its normal equations over the places that
// stay: an independent way to the optimum. It returns w+δ and the minimum.
func (p problem) constrained(f *mat.Dense, removed func(i, j int) bool) (w []float64, rise float64) {
	var stay, gone []int
	for i := range p.r {
		for j := range p.c {
			if removed(i, j) {
				gone = append(gone, i*p.c+j)
			} else {
				stay = append(stay, i*p.c+j)
			}
		}
	}
	n := p.r * p.c
	delta := make([]float64, n)
	for _, k := range gone {
		delta[k] = -p.w.RawMatrix().Data[k]
	}
	if len(stay) > 0 { // F_SS δ_S = −F_SQ δ_Q
		ss, rhs := mat.NewDense(len(stay), len(stay), nil), mat.NewVecDense(len(stay), nil)
		for x, i := range stay {
			for y, j := range stay {
				ss.Set(x, y, f.At(i, j))
			}
			var b float64
			for _, j := range gone {
				b -= f.At(i, j) * delta[j]
			}
			rhs.SetVec(x, b)
		}
		var sol mat.VecDense
		if err := sol.SolveVec(ss, rhs); err != nil {
			panic(err)
		}
		for x, i := range stay {
			delta[i] = sol.AtVec(x)
		}
	}
	d := mat.NewVecDense(n, delta)
	w = make([]float64, n)
	for k := range n {
		w[k] = p.w.RawMatrix().Data[k] + delta[k]
	}
	return w, mat.Inner(d, f, d) / 2
}

// What would be caught: a joint update that is not the optimum of the quadratic model under its constraint, and a predicted
// increase that is not that of the step taken. The update is judged against dense solves with F = G ⊗ A of order R·C.
func TestJointUpdateAgainstDense(t *testing.T) {
	const seed = 11
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dev := cpu.Open()
	defer dev.Close()
	for trial := range 200 {
		p := newProblem(dev, rng)
		damp := Damping{G: rng.Float64() / 4, A: rng.Float64() / 4}
		alive := Kept{Rows: ones(p.r), Cols: ones(p.c)}
		kept := Kept{Rows: ones(p.r), Cols: ones(p.c)}
		for i := range kept.Rows {
			kept.Rows[i] = rng.IntN(3) > 0
		}
		for j := range kept.Cols {
			kept.Cols[j] = rng.IntN(3) > 0
		}
		got, err := applyOne(dev, p.layer, alive, kept, Joint, damp, 0)
		if err != nil {
			t.Fatal(err)
		}
		removed := func(i, j int) bool { return !kept.Rows[i] || !kept.Cols[j] }
		want, _ := p.constrained(p.fisher(damp), removed)
		w := device.DownloadSlice[float64](dev, got.W)
		golden.Near(t, "joint update", w, want, 1e-9)
		var delta mat.VecDense
		delta.SubVec(mat.NewVecDense(len(w), w), mat.NewVecDense(len(w), p.w.RawMatrix().Data))
		if rise := mat.Inner(&delta, p.fisher(Damping{}), &delta) / 2; math.Abs(rise-got.Predicted) > 1e-9*rise {
			t.Errorf("trial %d: predicted %v, ½δᵀFδ is %v", trial, got.Predicted, rise)
		}
		if t.Failed() {
			t.Fatalf("trial %d: %d×%d kept %v", trial, p.r, p.c, kept)
		}
	}
}

// What would be caught: a cost that is not what the dense quadratic model says for removing one row or one column and
// re-fitting the rest. Without damping numerator and denominator take the same factor, and the two must agree.
func TestCostsAgainstDense(t *testing.T) {
	const seed = 12
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dev := cpu.Open()
	defer dev.Close()
	for range 100 {
		p := newProblem(dev, rng)
		c, _, err := costsOne(dev, p.layer, Kept{Rows: ones(p.r), Cols: ones(p.c)}, OBS, Damping{})
		if err != nil {
			t.Fatal(err)
		}
		f := p.fisher(Damping{})
		for r := range p.r {
			if _, want := p.constrained(f, func(i, _ int) bool { return i == r }); math.Abs(c.Rows[r]-want) > 1e-8*want {
				t.Fatalf("row %d of %d×%d: cost %v, dense %v", r, p.r, p.c, c.Rows[r], want)
			}
		}
		for k := range p.c {
			if _, want := p.constrained(f, func(_, j int) bool { return j == k }); math.Abs(c.Cols[k]-want) > 1e-8*want {
				t.Fatalf("column %d of %d×%d: cost %v, dense %v", k, p.r, p.c, c.Cols[k], want)
			}
		}
	}
}

// What would be caught: a matrix that cannot be factored passing silently, a raised damping that is not told, an error
// without the layer's name.
func TestDampingIsRaised(t *testing.T) {
	dev := cpu.Open()
	defer dev.Close()
	rng := rand.New(rand.NewPCG(1, 0))
	p := newProblem(dev, rng)
	for p.c <= 2 {
		p = newProblem(dev, rng)
	}
	alive := Kept{Rows: ones(p.r), Cols: ones(p.c)}
	p.setA(dev, 1, -1) // smallest eigenvalue 2 − c < 0 for c > 2, so more damping helps
	_, raised, err := costsOne(dev, p.layer, alive, OBS, Damping{G: 0.01, A: 0.01})
	if err != nil {
		t.Fatal(err)
	}
	if len(raised) != 1 || raised[0].Factor != "A" || raised[0].Layer != "layer" || raised[0].Share <= 0.01 {
		t.Errorf("raised %+v", raised)
	}
	p.setA(dev, 1e-9, 1) // no damping within reach makes this positive definite
	_, _, err = costsOne(dev, p.layer, alive, OBS, Damping{G: 0.01, A: 0.01})
	if _, ok := err.(*NotPositiveDefinite); !ok {
		t.Errorf("got %v", err)
	}
	p.setA(dev, math.NaN(), 0)
	if _, err = aliveOne(dev, p.layer); err == nil || err.Error() != "layer layer: the curvature of column 0 is NaN" {
		t.Errorf("NaN in a factor: %v", err)
	}
}

// What would be caught: a rule of dead propagation that changes what the model computes is caught in package engine, where
// there is a model; here the rules one by one, for grouped attention with rotary pairs.
func TestPropagateDead(t *testing.T) {
	c := checkpoint.Config{Blocks: 1, Heads: 4, KVHeads: 2, HeadDim: 4, Positions: checkpoint.Rotary}
	sizes := map[checkpoint.Role][2]int{checkpoint.Q: {16, 8}, checkpoint.K: {8, 8}, checkpoint.V: {8, 8}, checkpoint.O: {8, 16},
		checkpoint.Gate: {6, 8}, checkpoint.Up: {6, 8}, checkpoint.Down: {8, 6}}
	roles := []checkpoint.Role{checkpoint.Q, checkpoint.K, checkpoint.V, checkpoint.O, checkpoint.Gate, checkpoint.Up, checkpoint.Down}
	var linears []checkpoint.Linear
	for _, r := range roles {
		linears = append(linears, checkpoint.Linear{Role: r})
	}
	type place struct {
		role checkpoint.Role
		side Side
		at   []int
	}
	for _, test := range []struct {
		name      string
		gone, die []place
	}{
		{"gate row", []place{{checkpoint.Gate, Row, []int{2}}}, []place{{checkpoint.Up, Row, []int{2}}, {checkpoint.Down, Col, []int{2}}}},
		{"down column", []place{{checkpoint.Down, Col, []int{5}}}, []place{{checkpoint.Up, Row, []int{5}}, {checkpoint.Gate, Row, []int{5}}}},
		{"value row", []place{{checkpoint.V, Row, []int{5}}}, []place{{checkpoint.O, Col, []int{9, 13}}}},
		{"all o columns of a value", []place{{checkpoint.O, Col, []int{1, 5}}}, []place{{checkpoint.V, Row, []int{1}}}},
		{"one o column of two", []place{{checkpoint.O, Col, []int{1}}}, nil},
		{"key pair", []place{{checkpoint.K, Row, []int{0, 2}}}, []place{{checkpoint.Q, Row, []int{0, 2, 4, 6}}}},
		{"half a key pair", []place{{checkpoint.K, Row, []int{0}}}, nil},
		{"query pair of all heads of a group", []place{{checkpoint.Q, Row, []int{9, 11, 13, 15}}}, []place{{checkpoint.K, Row, []int{5, 7}}}},
		{"query pair of one head", []place{{checkpoint.Q, Row, []int{9, 11}}}, nil},
	} {
		var kept, want []Kept
		for _, r := range roles {
			kept = append(kept, Kept{Rows: ones(sizes[r][0]), Cols: ones(sizes[r][1])})
			want = append(want, Kept{Rows: ones(sizes[r][0]), Cols: ones(sizes[r][1])})
		}
		mark := func(to []Kept, places []place) {
			for _, p := range places {
				for _, i := range p.at {
					[2][]bool{to[p.role].Rows, to[p.role].Cols}[p.side][i] = false
				}
			}
		}
		mark(kept, test.gone)
		mark(want, test.gone)
		mark(want, test.die)
		PropagateDead(c, linears, kept)
		for i := range kept {
			for side, got := range [2][]bool{kept[i].Rows, kept[i].Cols} {
				for j, k := range got {
					if k != [2][]bool{want[i].Rows, want[i].Cols}[side][j] {
						t.Errorf("%s: %v of %v %d is kept: %v", test.name, Side(side), roles[i], j, k)
					}
				}
			}
		}
	}
}

// What would be caught: a layer that loses nothing and is changed, or costs something.
func TestApplyWithNothingToRemove(t *testing.T) {
	dev := cpu.Open()
	defer dev.Close()
	p := newProblem(dev, rand.New(rand.NewPCG(2, 0)))
	all := Kept{Rows: ones(p.r), Cols: ones(p.c)}
	got, err := applyOne(dev, p.layer, all, all, Joint, Damping{G: 0.01, A: 0.01}, 0)
	if err != nil || got.Predicted != 0 {
		t.Errorf("predicted %v, %v", got.Predicted, err)
	}
	golden.Near(t, "W", device.DownloadSlice[float64](dev, got.W), p.w.RawMatrix().Data, 0)
	dead := Kept{Rows: ones(p.r), Cols: ones(p.c)}
	dead.Rows[0] = false // dead before the shot: it becomes zero, and nothing else changes
	if got, err = applyOne(dev, p.layer, dead, dead, Joint, Damping{G: 0.01, A: 0.01}, 0); err != nil || got.Predicted != 0 {
		t.Errorf("predicted %v, %v", got.Predicted, err)
	}
	want := append([]float64{}, p.w.RawMatrix().Data...)
	clear(want[:p.c])
	golden.Near(t, "W without a dead row", device.DownloadSlice[float64](dev, got.W), want, 0)
}
