package prune

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"gonum.org/v1/gonum/mat"

	"surgeon/engine/checkpoint"
	"surgeon/engine/device"
	"surgeon/engine/device/cpu"
)

// What would be caught: a cost of units that is not the least rise of ½ δᵀFδ with their columns gone, of the dense F = G ⊗ A' of
// order R·C, or for OBD that of a step that changes nothing else; a dead column that is re-fitted, or the bias column taken for
// one of a unit.
func TestUnitCostsAgainstDense(t *testing.T) {
	const seed = 31
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dev := cpu.Open()
	defer dev.Close()
	for trial := range 300 {
		p := newProblem(dev, rng)
		width := 1 + rng.IntN(p.c/2) // two units at least
		c := Coupling{Units: p.c / width, Parts: []Part{{Side: Col, Width: width}}}
		damp := Damping{G: rng.Float64(), A: rng.Float64() / 4} // that of G is for rows
		alive := Kept{Rows: ones(p.r), Cols: ones(p.c)}
		if trial%2 == 0 {
			dead := rng.IntN(p.c)
			alive.Cols[dead] = false
			for i := range p.r {
				p.w.Set(i, dead, 0)
			}
			device.UploadSlice(dev, p.w.RawMatrix().Data, p.layer.W)
		}
		identities(&p, trial/2%3)
		removed := func(u int) func(i, j int) bool {
			return func(_, j int) bool { return j/width == u || !alive.Cols[j] }
		}
		for kind, rise := range map[Cost]func(u int) float64{
			OBS: func(u int) float64 {
				_, rise := p.constrained(p.dampedA(alive, damp.A), removed(u))
				return rise
			},
			OBD: func(u int) float64 {
				delta := mat.NewVecDense(p.r*p.c, nil)
				for k, v := range p.w.RawMatrix().Data {
					if removed(u)(k/p.c, k%p.c) {
						delta.SetVec(k, -v)
					}
				}
				return mat.Inner(delta, p.fisher(Damping{}), delta) / 2
			},
		} {
			costs, raised, err := CostUnits(dev, p.layer, alive, c, kind, damp)
			if err != nil || len(raised) > 0 {
				t.Fatal(raised, err)
			}
			for u, got := range costs {
				if want := rise(u); math.Abs(got-want) > 1e-9*want {
					t.Fatalf("trial %d, %d×%d, cost %d of unit %d of %d columns: %v, dense %v", trial, p.r, p.c, kind, u, width, got, want)
				}
			}
		}
	}
}

// identities makes A, or G, the identity: a curvature that was not measured.
func identities(p *problem, which int) {
	one := func(n int) *mat.Dense {
		x := mat.NewDense(n, n, nil)
		for i := range n {
			x.Set(i, i, 1)
		}
		return x
	}
	switch which {
	case 1:
		p.a, p.layer.A = one(p.c), device.Sym{}
	case 2:
		p.g, p.layer.G = one(p.r), device.Sym{}
	}
}

// dampedA is G ⊗ A' with the damping that is a share of the mean diagonal of A over alive columns; an identity takes none.
func (p problem) dampedA(alive Kept, share float64) *mat.Dense {
	a := mat.DenseCopyOf(p.a)
	if p.layer.A.N > 0 {
		mean := 0.
		for j, ok := range alive.Cols {
			if ok {
				mean += a.At(j, j) / float64(count(alive.Cols))
			}
		}
		for j := range p.c {
			a.Set(j, j, a.At(j, j)+share*mean)
		}
	}
	var f mat.Dense
	f.Kronecker(p.g, a)
	return &f
}

// What would be caught: a unit whose cost is not the increase that Apply predicts for removing its columns alone.
func TestUnitCostIsTheIncrease(t *testing.T) {
	dev := cpu.Open()
	defer dev.Close()
	rng := rand.New(rand.NewPCG(32, 0))
	for range 50 {
		p := newProblem(dev, rng)
		for p.c < 4 {
			p = newProblem(dev, rng)
		}
		c := Coupling{Units: p.c / 2, Parts: []Part{{Side: Col, Width: 2}}}
		alive := Kept{Rows: ones(p.r), Cols: ones(p.c)}
		costs, _, err := CostUnits(dev, p.layer, alive, c, OBS, Damping{})
		if err != nil {
			t.Fatal(err)
		}
		kept := Kept{Rows: ones(p.r), Cols: ones(p.c)}
		kept.Cols[0], kept.Cols[1] = false, false
		r, err := applyOne(dev, p.layer, alive, kept, Joint, Damping{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(costs[0]-r.Predicted) > 1e-9*r.Predicted {
			t.Fatalf("%d×%d: the unit costs %v, and its removal is predicted to cost %v", p.r, p.c, costs[0], r.Predicted)
		}
	}
}

// What would be caught: a damping that is raised and not told, a matrix that no damping helps taken for a cost, a cost that is not
// finite passed on, one for what is dead, work for a unit that never goes.
func TestUnitCostsThatFail(t *testing.T) {
	dev := cpu.Open()
	defer dev.Close()
	rng := rand.New(rand.NewPCG(36, 0))
	p := newProblem(dev, rng)
	for p.c != 4 {
		p = newProblem(dev, rng)
	}
	alive := Kept{Rows: ones(p.r), Cols: ones(p.c)}
	for width := 1; width <= 2; width++ {
		c := Coupling{Units: 4 / width, Parts: []Part{{Side: Col, Width: width}}}
		held := dev.Memory().Used
		p.setA(dev, 1, -1) // smallest eigenvalue −2
		if _, raised, err := CostUnits(dev, p.layer, alive, c, OBS, Damping{A: 0.01}); err != nil || len(raised) != 1 || raised[0].Factor != "A" || raised[0].Share <= 0.01 {
			t.Errorf("units of %d: raised %+v, %v", width, raised, err)
		}
		p.setA(dev, 1e-9, 1)
		if _, _, err := CostUnits(dev, p.layer, alive, c, OBS, Damping{A: 0.01}); err == nil || !strings.Contains(err.Error(), "layer layer: the factor A is not positive definite") {
			t.Errorf("units of %d: %v", width, err)
		}
		p.setA(dev, 1e308, 0)
		if _, _, err := CostUnits(dev, p.layer, alive, c, OBD, Damping{A: 0.01}); err == nil || !strings.Contains(err.Error(), "is +Inf") {
			t.Errorf("units of %d: %v", width, err)
		}
		none := Kept{Rows: make([]bool, p.r), Cols: ones(p.c)}
		one := Coupling{Units: 1, Parts: []Part{{Side: Col, Width: 4}}}
		for _, idle := range []struct {
			alive Kept
			c     Coupling
		}{{none, c}, {alive, one}} {
			if costs, _, err := CostUnits(dev, p.layer, idle.alive, idle.c, OBD, Damping{A: 0.01}); err != nil || slices.ContainsFunc(costs, func(v float64) bool { return v != 0 }) {
				t.Errorf("costs of nothing are %v, %v", costs, err)
			}
		}
		if used := dev.Memory().Used; used != held {
			t.Errorf("units of %d: %d bytes are held, %d were before", width, used, held)
		}
	}
}

// twoBlocks is an architecture of two blocks with 4 query heads on 2 key/value heads, gated or with biases.
func twoBlocks(gated bool) (checkpoint.Config, []checkpoint.Linear) {
	c := checkpoint.Config{Blocks: 2, Width: 5, Inner: 7, Heads: 4, KVHeads: 2, HeadDim: 2}
	sizes := map[checkpoint.Role][2]int{
		checkpoint.Q: {8, 5}, checkpoint.K: {4, 5}, checkpoint.V: {4, 5}, checkpoint.O: {5, 8},
		checkpoint.Gate: {7, 5}, checkpoint.Up: {7, 5}, checkpoint.Down: {5, 7},
	}
	var all []checkpoint.Linear
	for b := range c.Blocks {
		for role := checkpoint.Q; role <= checkpoint.Down; role++ {
			if role == checkpoint.Gate && !gated {
				continue
			}
			all = append(all, checkpoint.Linear{Block: b, Role: role, Rows: sizes[role][0], Cols: sizes[role][1], Bias: !gated})
		}
	}
	return c, all
}

// unitCase is random costs for two blocks, with ties, of which some rows and columns are dead.
func unitCase(rng *rand.Rand) (couplings []Coupling, costs [][]float64, alive []Kept) {
	c, linears := twoBlocks(rng.IntN(2) == 0)
	mark := func(n int) []bool {
		x := ones(n)
		for i := range x {
			x[i] = rng.IntN(8) > 0
		}
		return x
	}
	for _, l := range linears {
		cols := l.Cols
		if l.Bias {
			cols++
		}
		alive = append(alive, Kept{Rows: mark(l.Rows), Cols: mark(cols)})
	}
	couplings = Couplings(c, linears)
	for _, c := range couplings {
		list := make([]float64, c.Units)
		for u := range list {
			list[u] = float64(rng.IntN(6)) / 2
		}
		costs = append(costs, list)
	}
	return couplings, costs, alive
}

// selectNaively follows the words of SelectUnits, and counts every weight anew for every unit.
func selectNaively(couplings []Coupling, costs [][]float64, alive []Kept, target float64) (kept []Kept, threshold float64) {
	kept, threshold = make([]Kept, len(alive)), -1
	total := 0
	for i, a := range alive {
		kept[i] = Kept{Rows: slices.Clone(a.Rows), Cols: slices.Clone(a.Cols)}
		total += len(a.Rows) * len(a.Cols)
	}
	gone := func(kept []Kept) (n int) {
		for _, k := range kept {
			for _, row := range k.Rows {
				for _, col := range k.Cols {
					if !row || !col {
						n++
					}
				}
			}
		}
		return n
	}
	without := func(c Coupling, u int) []Kept {
		var x []Kept
		for _, k := range kept {
			x = append(x, Kept{Rows: slices.Clone(k.Rows), Cols: slices.Clone(k.Cols)})
		}
		for _, p := range c.Parts {
			marks := x[p.Layer].Rows
			if p.Side == Col {
				marks = x[p.Layer].Cols
			}
			for i := range marks {
				if i/p.Width == u {
					marks[i] = false
				}
			}
		}
		return x
	}
	reads := func(c Coupling, u int) bool {
		last := c.Parts[len(c.Parts)-1]
		for i, k := range kept[last.Layer].Cols {
			if k && i/last.Width == u && u < c.Units {
				return true
			}
		}
		return false
	}
	type ranked struct {
		rank        float64
		coupling, u int
	}
	var order []ranked
	for i, c := range couplings {
		for u, cost := range costs[i] {
			if n := gone(without(c, u)) - gone(kept); n > 0 {
				order = append(order, ranked{cost / float64(n), i, u})
			}
		}
	}
	slices.SortStableFunc(order, func(a, b ranked) int { return cmp.Compare(a.rank, b.rank) })
	for _, r := range order {
		c, next := couplings[r.coupling], without(couplings[r.coupling], r.u)
		others := 0
		for u := range c.Units {
			if u != r.u && reads(c, u) {
				others++
			}
		}
		if gone(next) > int(target*float64(total)) || reads(c, r.u) && others == 0 {
			continue
		}
		kept, threshold = next, r.rank
	}
	return kept, threshold
}

// What would be caught: units in another order, a unit beyond the target, the end of the sweep at the first that does not fit, a
// block that loses its last unit, weights that are counted twice, a unit of which a part stays.
func TestSelectUnitsAgainstDefinition(t *testing.T) {
	const seed = 33
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for trial := range 400 {
		couplings, costs, alive := unitCase(rng)
		target := 0.05 + 0.9*rng.Float64()
		s, err := SelectUnits(couplings, costs, alive, target)
		if err != nil {
			t.Fatal(err)
		}
		kept, threshold := selectNaively(couplings, costs, alive, target)
		if s.Threshold != threshold {
			t.Fatalf("trial %d, target %v: the threshold is %v, want %v", trial, target, s.Threshold, threshold)
		}
		removed := 0
		for i, want := range kept {
			if !slices.Equal(s.Kept[i].Rows, want.Rows) || !slices.Equal(s.Kept[i].Cols, want.Cols) {
				t.Fatalf("trial %d, target %v, layer %d: kept %v, want %v", trial, target, i, s.Kept[i], want)
			}
			removed += len(want.Rows)*len(want.Cols) - want.Weights()
		}
		if s.Removed != removed {
			t.Fatalf("trial %d: %d weights are said to be gone, %d are", trial, s.Removed, removed)
		}
	}
}

// What would be caught: a NaN that is ordered with the numbers, a target that means nothing.
func TestSelectUnitsRefuses(t *testing.T) {
	couplings, costs, alive := unitCase(rand.New(rand.NewPCG(34, 0)))
	costs[3][2] = math.NaN()
	if _, err := SelectUnits(couplings, costs, alive, 0.5); err == nil || err.Error() != "the cost of unit 2 of the neurons of block 1 is NaN" {
		t.Errorf("a NaN: %v", err)
	}
	if _, err := SelectUnits(couplings, costs, alive, 1); err == nil {
		t.Error("a target of 1 is taken")
	}
}
